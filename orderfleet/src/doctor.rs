//! What is wrong with this installation, and what to do about it.
//!
//! Each finding is one line: ok, or what is wrong with what to do. Nothing is changed. The checks after the first do not
//! stop at the first trouble: an operator wants all of it at once.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use url::Url;

use crate::table::{self, Table};
use crate::{cli, database, migrate};

/// The oldest PostgreSQL that is supported.
const POSTGRES_MIN: i32 = 150_000;
/// A clock further off than this makes logs and times hard to compare; leases do not care.
const SKEW_MAX: TimeDelta = TimeDelta::seconds(2);
/// A job that is due for longer waits for workers that are not there, or too few.
const LAG_MAX: f64 = 60.0;
/// So many orphan charges are counted, so that asking stays cheap.
const ORPHANS_MAX: i64 = 1_000;
/// How long an address may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// Whether it is well.
    pub is_ok: bool,
    /// What was seen.
    pub seen: String,
    /// What to do, when it is not well.
    pub to_do: Option<String>,
}

impl Finding {
    fn ok(what: &str, seen: impl Into<String>) -> Finding {
        Finding {
            what: what.to_owned(),
            is_ok: true,
            seen: seen.into(),
            to_do: None,
        }
    }

    fn wrong(what: &str, seen: impl Into<String>, to_do: impl Into<String>) -> Finding {
        Finding {
            what: what.to_owned(),
            is_ok: false,
            seen: seen.into(),
            to_do: Some(to_do.into()),
        }
    }

    fn of(what: &str, is_ok: bool, seen: impl Into<String>, to_do: impl Into<String>) -> Finding {
        if is_ok {
            Finding::ok(what, seen)
        } else {
            Finding::wrong(what, seen, to_do)
        }
    }
}

/// `orderfleet doctor`.
pub async fn run(args: cli::Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = match database::connect("orderfleet doctor").await {
        Ok(mut conn) => examine(&mut conn).await?,
        Err(error) => vec![Finding::wrong("database", "cannot be reached", format!("{error:#}"))],
    };
    findings.push(
        address(
            "API",
            args.api_url.as_ref(),
            "readyz",
            "ORDERFLEET_API_URL",
            "start it: `orderfleet api`",
        )
        .await,
    );
    let start_gateway = "check the gateway's address; for development start `orderfleet gateway-simulator`";
    findings.push(
        address(
            "gateway",
            args.gateway_url.as_ref(),
            "",
            "ORDERFLEET_GATEWAY_URL",
            start_gateway,
        )
        .await,
    );
    findings.push(disk(
        args.data_dir.as_deref().unwrap_or(Path::new(".")),
        args.disk_full_at,
    ));

    table::print(args.output.json, &findings, |findings| {
        let mut table = Table::new(&["", "WHAT", "SEEN", "TO DO"]);
        for finding in findings {
            let mark = if finding.is_ok { "ok" } else { "WRONG" };
            table.row([
                mark.to_owned(),
                finding.what.clone(),
                finding.seen.clone(),
                finding.to_do.clone().unwrap_or_default(),
            ]);
        }
        table
    })?;
    let is_well = findings.iter().all(|finding| finding.is_ok);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that the database knows.
pub async fn examine(conn: &mut PgConnection) -> anyhow::Result<Vec<Finding>> {
    let mut findings = server(conn).await.context("asking the server about itself")?;
    let pending = migrate::pending(conn).await?;
    let is_current = pending.is_empty();
    findings.push(Finding::of(
        "migrations",
        is_current,
        if is_current {
            "current".to_owned()
        } else {
            format!("{} pending", pending.len())
        },
        "run `orderfleet migrate`",
    ));
    if is_current {
        findings.extend(fleet(conn).await.context("asking about the fleet")?);
        findings.push(orphans(conn).await.context("asking about orphan charges")?);
        findings.extend(tables(conn).await.context("asking about the tables")?);
        findings.push(secrets(conn).await.context("asking about the secrets")?);
    }
    Ok(findings)
}

async fn server(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    let before = Utc::now();
    let asked = Instant::now();
    let server = sqlx::query!(
        r#"
        select current_setting('server_version_num')::int as "number!", current_setting('server_version') as "version!",
               current_setting('fsync') as "fsync!", current_setting('full_page_writes') as "full_page_writes!",
               current_setting('synchronous_commit') as "synchronous_commit!", pg_is_in_recovery() as "is_standby!",
               clock_timestamp() as "now!"
        "#
    )
    .fetch_one(conn)
    .await?;
    let took = TimeDelta::from_std(asked.elapsed()).unwrap_or_default();
    let skew = (server.now - (before + took / 2)).abs();
    let durable = |name: &str, value: &str, is_ok: bool| {
        let to_do = format!("set {name} = on in postgresql.conf: a crash may lose or damage what was acknowledged");
        Finding::of(name, is_ok, value, to_do)
    };
    Ok(vec![
        Finding::of(
            "PostgreSQL",
            server.number >= POSTGRES_MIN,
            server.version,
            "upgrade to PostgreSQL 15 or newer",
        ),
        Finding::of(
            "primary",
            !server.is_standby,
            if server.is_standby { "a standby" } else { "yes" },
            "point DATABASE_URL at the primary: no decision may read a replica",
        ),
        durable("fsync", &server.fsync, server.fsync == "on"),
        durable(
            "full_page_writes",
            &server.full_page_writes,
            server.full_page_writes == "on",
        ),
        durable(
            "synchronous_commit",
            &server.synchronous_commit,
            server.synchronous_commit != "off",
        ),
        Finding::of(
            "clocks",
            skew <= SKEW_MAX,
            format!("{} ms apart", skew.num_milliseconds()),
            "synchronise this machine's clock and the server's (NTP)",
        ),
    ])
}

async fn fleet(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut pools: Vec<&str> = jobs::catalogue().kinds().iter().map(|kind| kind.queue).collect();
    pools.sort_unstable();
    pools.dedup();
    for pool in pools {
        let alive = sqlx::query_scalar!(
            r#"select count(*) as "alive!" from queue.workers where $1 = any (pools) and lease_until > queue.clock() and not stopping"#,
            pool
        )
        .fetch_one(&mut *conn)
        .await?;
        let seen = format!("{alive} workers alive");
        findings.push(Finding::of(
            &format!("pool {pool}"),
            alive > 0,
            seen,
            format!("start one: `orderfleet worker --pool {pool}`"),
        ));
    }
    for queue in queue::inspect::queues(conn).await? {
        let name = format!("queue {}", queue.name);
        if let Some(pause) = &queue.paused {
            let seen = format!("paused by {}: {}", pause.actor, pause.reason);
            findings.push(Finding::wrong(
                &name,
                seen,
                format!(
                    "`orderfleet queues resume {} --reason …` once that is mended",
                    queue.name
                ),
            ));
        }
        for kind in &queue.paused_kinds {
            let to_do = format!(
                "mend the cause (often a refused key), then `orderfleet queues resume {kind} --kind --reason …`"
            );
            findings.push(Finding::wrong(&name, format!("kind {kind} is paused"), to_do));
        }
        if let Some(seconds) = queue.oldest_due_seconds.filter(|seconds| *seconds > LAG_MAX) {
            let to_do = format!(
                "add workers or slots to pool {}; `orderfleet jobs --queue {}` shows what waits",
                queue.name, queue.name
            );
            findings.push(Finding::wrong(
                &name,
                format!("the oldest job is due for {seconds:.0} s"),
                to_do,
            ));
        }
        if queue.dead > 0 {
            let to_do = "`orderfleet dead` shows why; mend the cause, then redrive or discard";
            findings.push(Finding::wrong(&name, format!("{} dead letters", queue.dead), to_do));
        }
        if queue.dead == 0 && queue.paused.is_none() && queue.paused_kinds.is_empty() {
            let seen = format!("{} due, {} running", queue.available, queue.running);
            findings.push(Finding::ok(&name, seen));
        }
    }
    Ok(findings)
}

/// Money that moved at the gateway for nothing of ours.
async fn orphans(conn: &mut PgConnection) -> sqlx::Result<Finding> {
    let open = domain::payments::audit::open_orphans(conn, ORPHANS_MAX).await?;
    let seen = format!("{open} orphan charges");
    let to_do = "`orderfleet orphans` says why each is nobody's, and what to do";
    Ok(Finding::of("gateway's books", open == 0, seen, to_do))
}

/// Whether the queue's tables stay small, and who keeps them from it.
async fn tables(conn: &mut PgConnection) -> sqlx::Result<Vec<Finding>> {
    let health = queue::inspect::health(conn).await?;
    let mut findings = Vec::new();
    let bloated: Vec<_> = health.tables.iter().filter(|table| table.is_bloated()).collect();
    for table in &bloated {
        let seen = format!("{} rows and {} dead ones", table.live_rows, table.dead_rows);
        let to_do = format!(
            "end whoever holds the horizon, if anybody is listed here; then `vacuum queue.{}`",
            table.name
        );
        findings.push(Finding::wrong(&format!("table {}", table.name), seen, to_do));
    }
    if bloated.is_empty() {
        let dead: i64 = health.tables.iter().map(|table| table.dead_rows).sum();
        findings.push(Finding::ok("tables", format!("{dead} dead rows in all")));
    }
    for holder in health.holders.iter().filter(|holder| holder.is_harmful()) {
        let since = holder.seconds.map_or_else(
            || format!("{} transactions", holder.transactions),
            |seconds| format!("{seconds:.0} s"),
        );
        let seen = format!(
            "held back for {since} by {} {} ({}), {}",
            holder.what, holder.name, holder.who, holder.doing
        );
        let to_do = format!("dead rows pile up behind it: end it by itself, or `{}`", holder.remedy);
        findings.push(Finding::wrong("horizon", seen, to_do));
    }
    if !health.holders.iter().any(queue::health::Holder::is_harmful) {
        let seen = format!("held back for {:.0} s", health.horizon_seconds());
        findings.push(Finding::of(
            "horizon",
            health.sees_all,
            if health.sees_all {
                seen
            } else {
                format!("{seen}, as far as this role can see")
            },
            "let this role see other sessions: `grant pg_read_all_stats to` it",
        ));
    }
    let history = &health.history;
    let since = history
        .since
        .map_or_else(|| "nothing".to_owned(), |since| format!("since {since}"));
    findings.push(Finding::ok(
        "history",
        format!("{since}, {} MiB; days are dropped whole", history.bytes / (1 << 20)),
    ));
    Ok(findings)
}

/// Whether every webhook secret is sealed, and with the newest key where this process knows it.
async fn secrets(conn: &mut PgConnection) -> sqlx::Result<Finding> {
    let uses = domain::keyring::uses(conn).await?;
    let keyring = crate::settings::keyring(&crate::settings::environment).ok();
    let count = |is_meant: &dyn Fn(Option<&str>) -> bool| -> i64 {
        let meant = uses.iter().filter(|used| is_meant(used.key.as_deref()));
        meant.map(|used| used.endpoints + used.partners).sum()
    };
    let (all, plain) = (count(&|_| true), count(&|key| key.is_none()));
    let sealed = format!("{} of {all} sealed", all - plain);
    let Some(keyring) = keyring else {
        let seen = format!("{sealed}; with which key is not known here: ORDERFLEET_MASTER_KEY is not set");
        return Ok(Finding::of(
            "webhook secrets",
            plain == 0,
            seen,
            "run `orderfleet secrets reseal`",
        ));
    };
    let is_known = |key: &str| keyring.names().any(|name| name == key);
    let unknown = count(&|key| key.is_some_and(|key| !is_known(key)));
    let old = count(&|key| key.is_some_and(|key| is_known(key) && Some(key) != keyring.names().next()));
    let (seen, to_do) = match (unknown, plain + old) {
        (0, 0) => return Ok(Finding::ok("webhook secrets", sealed)),
        (0, _) => (
            format!("{sealed}, {old} of them with an older key"),
            "run `orderfleet secrets reseal`",
        ),
        _ => (
            format!("{unknown} of {all} do not open"),
            "add the key that `orderfleet secrets` names to ORDERFLEET_MASTER_KEY",
        ),
    };
    Ok(Finding::wrong("webhook secrets", seen, to_do))
}

/// Whether anybody answers there. A 4xx is an answer; a 5xx is trouble.
async fn address(what: &str, base: Option<&Url>, path: &str, setting: &str, to_do: &str) -> Finding {
    let Some(base) = base else {
        return Finding::ok(what, format!("not asked: {setting} is not set"));
    };
    domain::tls::install();
    let answer = async {
        let http = reqwest::Client::builder().timeout(ANSWER_MAX).build()?;
        let url = base.join(path).unwrap_or_else(|_| base.clone());
        http.get(url).send().await
    };
    match answer.await {
        Ok(answer) if !answer.status().is_server_error() => Finding::ok(what, format!("{base} answers")),
        Ok(answer) => Finding::wrong(what, format!("{base} answers {}", answer.status().as_u16()), to_do),
        Err(error) => {
            let why = if error.is_timeout() {
                "does not answer in time"
            } else {
                "cannot be reached"
            };
            Finding::wrong(what, format!("{base} {why}"), to_do)
        }
    }
}

fn disk(dir: &Path, full_at: u8) -> Finding {
    match rustix::fs::statvfs(dir) {
        Ok(disk) if disk.f_blocks > 0 => {
            let used = 100 - disk.f_bavail.saturating_mul(100) / disk.f_blocks;
            let seen = format!(
                "{used} % used, {} MiB free",
                disk.f_bavail.saturating_mul(disk.f_frsize) / (1 << 20)
            );
            Finding::of(
                "disk",
                used < u64::from(full_at),
                seen,
                format!("free some space where {} lies", dir.display()),
            )
        }
        Ok(_) => Finding::ok("disk", "its size is not known"),
        Err(error) => Finding::wrong(
            "disk",
            format!("{}: {error}", dir.display()),
            "set ORDERFLEET_DATA_DIR to a directory that exists",
        ),
    }
}
