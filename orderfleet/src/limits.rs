//! `orderfleet limits`: what may run at once, how fast, and the breakers.

use anyhow::{Context, bail};
use queue::limit::{self, Limit, LimitView};

use crate::cli::{self, LimitsAction};
use crate::operator::{connect, moment};
use crate::table::{self, Table};

/// `orderfleet limits …`.
pub async fn limits(args: cli::Limits) -> anyhow::Result<()> {
    let conn = &mut connect().await?;
    match args.action.unwrap_or(LimitsAction::List { output: args.output }) {
        LimitsAction::List { output } => {
            let limits = limit::list(conn).await.context("listing limits")?;
            table::print(output.json, &limits, |limits| list(limits))
        }
        LimitsAction::Show { name, output } => {
            let found = limit::get(conn, &name).await.context("reading the limit")?;
            let found = found.with_context(|| format!("there is no limit {name}; see `orderfleet limits`"))?;
            table::print(output.json, &found, show)
        }
        LimitsAction::Set {
            name,
            concurrency,
            rate,
            burst,
            breaker_failures,
            breaker_seconds,
            because,
        } => {
            check_queue(&name)?;
            let limit = Limit {
                concurrency,
                rate,
                burst,
                breaker_failures,
                breaker_seconds,
            };
            limit::set(conn, &name, &limit, &because.reason, &because.actor)
                .await
                .with_context(|| format!("setting the limit {name}"))?;
            let set = limit::get(conn, &name).await?.context("it is gone again")?;
            table::say(&format!("limit {name}: {}\n", sentence(&set)))?;
            let first = name.split('/').next().unwrap_or_default();
            let is_known = first == "queue" || jobs::limits().iter().any(|(known, _)| *known == first);
            match is_known {
                true => Ok(()),
                false => table::say(&format!(
                    "no kind of this build counts against {first}: this is for jobs that others enqueue\n"
                )),
            }
        }
        LimitsAction::Remove { name, because } => {
            match limit::remove(conn, &name, &because.reason, &because.actor).await? {
                true => table::say(&format!("removed limit {name}\n")),
                false => bail!("there is no limit {name}; see `orderfleet limits`"),
            }
        }
        LimitsAction::CloseBreaker { key, because } => {
            match limit::close_breaker(conn, &key, &because.reason, &because.actor).await? {
                true => table::say(&format!("closed the breaker of {key}\n")),
                false => table::say(&format!("the breaker of {key} was not open\n")),
            }
        }
    }
}

/// A misspelt queue would be limited silently, and no other.
fn check_queue(name: &str) -> anyhow::Result<()> {
    let Some(queue) = name.strip_prefix("queue/") else {
        return Ok(());
    };
    let mut known: Vec<&str> = jobs::catalogue().kinds().iter().map(|kind| kind.queue).collect();
    known.sort_unstable();
    known.dedup();
    match known.contains(&queue) {
        true => Ok(()),
        false => bail!("there is no queue {queue}; there are {}", known.join(", ")),
    }
}

fn list(limits: &[LimitView]) -> Table {
    let mut table = Table::new(&["LIMIT", "EACH KEY", "RUNNING", "PARKED", "OPEN", "SET BY", "AT"]);
    for limit in limits {
        table.row([
            limit.name.clone(),
            sentence(limit),
            limit.keys.iter().map(|key| key.running).sum::<i64>().to_string(),
            limit.parked.to_string(),
            limit.open_breakers.to_string(),
            limit.actor.clone(),
            moment(limit.changed_at),
        ]);
    }
    table
}

/// What it allows, in words.
fn sentence(limit: &LimitView) -> String {
    let at_once = limit.concurrency.map(|jobs| format!("{jobs} at once"));
    let rate = limit
        .rate
        .map(|rate| format!("{rate} a second, {} in a burst", limit.burst));
    let breaker = limit
        .breaker_failures
        .map(|failures| format!("a breaker of {failures} failures for {} s", limit.breaker_seconds));
    [at_once, rate, breaker]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

fn show(limit: &LimitView) -> Table {
    let mut table = Table::new(&["KEY", "RUNNING", "WAITING", "FAILURES", "OPEN UNTIL", "OPENED BY"]);
    for key in &limit.keys {
        table.row([
            key.key.clone(),
            key.running.to_string(),
            if key.is_parking { "yes" } else { "no" }.to_owned(),
            key.failures.to_string(),
            key.open_until.map_or_else(String::new, moment),
            key.cause.clone().unwrap_or_default(),
        ]);
    }
    table
}
