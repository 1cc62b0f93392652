//! `orderfleet why`: every cause for which a job is not running, or what an order waits for.

use anyhow::{Context, bail};
use jobs::why::OrderWhy;
use queue::JobId;
use queue::why::Why;
use sqlx::PgConnection;

use crate::cli::{self, WhySubject};
use crate::{database, table};

/// Answers about a job or an order.
pub async fn run(args: cli::Why) -> anyhow::Result<()> {
    let mut conn = database::connect("orderfleet why").await?;
    match args.subject {
        WhySubject::Job(id) => job(&mut conn, id, args.output.json).await,
        WhySubject::Order(id) => {
            let why = jobs::why::of_order(&mut conn, id)
                .await
                .context("asking about the order")?;
            let why = why.with_context(|| format!("there is no order {id}"))?;
            match args.output.json {
                true => json(&why),
                false => table::say(&order_text(&why)),
            }
        }
    }
}

/// Answers about a job; an error when there is none.
pub(crate) async fn job(conn: &mut PgConnection, id: i64, is_json: bool) -> anyhow::Result<()> {
    let why = queue::why::why(conn, JobId(id), &jobs::catalogue().kinds())
        .await
        .context("asking about the job")?;
    if why.is_unknown() {
        bail!("{}", why.texts().join("; "));
    }
    match is_json {
        true => json(&why),
        false => table::say(&job_text(&why)),
    }
}

fn json(why: &impl serde::Serialize) -> anyhow::Result<()> {
    table::say(&(serde_json::to_string_pretty(why).context("writing JSON")? + "\n"))
}

fn order_text(why: &OrderWhy) -> String {
    let mut lines = vec![
        format!(
            "order {}: {}, payment {}, fulfilment {}",
            why.order, why.status, why.payment_status, why.fulfilment_status
        ),
        format!("  {}", why.text),
    ];
    for job in &why.jobs {
        tell(job, 1, &mut lines);
    }
    text(&lines)
}

fn job_text(why: &Why) -> String {
    let mut lines = Vec::new();
    tell(why, 0, &mut lines);
    text(&lines)
}

/// Nobody's text can steer a terminal.
fn text(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| line.replace(char::is_control, " ") + "\n")
        .collect()
}

/// A line for the job, one for each cause with what ends it, and the chain below.
fn tell(why: &Why, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    let kind = why.kind.as_deref().unwrap_or("job");
    let queue = why.queue.as_deref().unwrap_or("no queue");
    lines.push(format!("{indent}{kind} {} in {queue}: {}", why.job, why.state));
    for cause in &why.causes {
        lines.push(format!("{indent}  - {}", cause.text));
        if let Some(remedy) = &cause.remedy {
            lines.push(format!("{indent}    $ {remedy}"));
        }
        if let Some(holder) = &cause.caused_by {
            tell(holder, depth + 2, lines);
        }
    }
    if let Some(start) = &why.predicted_start {
        lines.push(format!("{indent}  starts {}", start.basis));
    }
}
