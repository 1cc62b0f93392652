//! Waits until nothing is due or running.
//!
//! What is waited for: jobs that are due, jobs that run, retries that come due before the time runs out, and plans of
//! routes, which gather requests for a few seconds before they are due. What is not: other jobs scheduled for later that
//! were never tried (a capture in its cancel window), and the timetable's own jobs, which would never end.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use sqlx::{PgConnection, PgPool};

/// How often the database is asked, at most,
const PAUSE: Duration = Duration::from_millis(250);
/// at least,
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// and in between so many times what the answer took: a long backlog is counted row by row, beside whoever works on it.
const PAUSE_SHARE: u32 = 20;
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What keeps the fleet from being idle: one line per reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The queue.
    pub queue: String,
    /// The kind of job.
    pub kind: String,
    /// Due, running, or to be retried.
    pub what: String,
    /// The words of the last attempt, or the pause that holds it.
    pub why: Option<String>,
    /// How many.
    pub count: i64,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} in {}: {}", self.count, self.kind, self.queue, self.what)?;
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// Waits; returns what is left when the time runs out, nothing when the fleet is idle.
pub async fn drain(pool: &PgPool, timeout: Duration) -> anyhow::Result<Vec<Reason>> {
    let started = Instant::now();
    let until: DateTime<Utc> = sqlx::query_scalar!(
        r#"select queue.clock() + make_interval(secs => $1) as "until!""#,
        timeout.as_secs_f64()
    )
    .fetch_one(pool)
    .await
    .context("reading the database's clock")?;
    let mut progress = Progress::new();
    loop {
        let asked = Instant::now();
        let left = match pool.acquire().await {
            Ok(mut conn) => not_idle(&mut conn, until).await,
            Err(error) => Err(error),
        };
        match left {
            Ok(left) if left.is_empty() => {
                progress.done("idle");
                return Ok(left);
            }
            Ok(left) if started.elapsed() >= timeout => {
                progress.done("time is up");
                return Ok(left);
            }
            Ok(left) => progress.say(&left),
            // A restarting server is waited for like everything else.
            Err(error) if started.elapsed() >= timeout => return Err(error).context("asking what is left"),
            Err(error) => tracing::warn!(%error, "the database does not answer; asking again"),
        }
        let pause = (asked.elapsed() * PAUSE_SHARE).clamp(PAUSE, PAUSE_MAX);
        tokio::time::sleep(pause.min(timeout.saturating_sub(started.elapsed()))).await;
    }
}

/// What is due, running, or to be retried before that moment.
///
/// A run of the timetable's job is no work of its own, unless it was tried and failed.
pub async fn not_idle(conn: &mut PgConnection, until: DateTime<Utc>) -> sqlx::Result<Vec<Reason>> {
    sqlx::query_as!(
        Reason,
        r#"
        select j.queue as "queue!", j.kind as "kind!",
               case when j.state = 'running' then 'running'
                    when j.state = 'available' then 'due'
                    when j.state = 'retryable' then 'to be retried'
                    else 'about to be due' end as "what!",
               coalesce(min('paused: ' || p.reason), min(j.waiting)) as why,
               count(*) as "count!"
        from queue.live_jobs j
        left join queue.pauses p
          on (p.target = 'queue' and p.name = j.queue) or (p.target = 'kind' and p.name = j.kind)
        where (j.state = 'running' or j.run_at <= queue.clock()
               or (j.run_at <= $1 and (jsonb_array_length(j.failures) > 0 or j.waiting is not null))
               or (j.kind = 'plan_routes' and j.run_at <= queue.clock() + interval '10 seconds'))
          and not (jsonb_array_length(j.failures) = 0
                   and exists (select from queue.ticks t where t.job_id = j.id)
                   and j.run_at > queue.clock() - interval '1 minute')
        group by 1, 2, 3
        order by 1, 2, 3
        "#,
        until
    )
    .fetch_all(conn)
    .await
}

/// A spinner at a terminal, now and then a line elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    said_at: Option<Instant>,
}

impl Progress {
    fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Progress { bar, said_at: None }
    }

    fn say(&mut self, left: &[Reason]) {
        let total: i64 = left.iter().map(|reason| reason.count).sum();
        let parts: Vec<String> = left
            .iter()
            .map(|reason| format!("{} {} {}", reason.count, reason.kind, reason.what))
            .collect();
        let words = format!("{total} left: {}", parts.join(", "));
        match &self.bar {
            Some(bar) => {
                bar.set_message(words);
                bar.tick();
            }
            None if self.said_at.is_none_or(|at| at.elapsed() >= LINE_EVERY) => {
                eprintln!("{words}");
                self.said_at = Some(Instant::now());
            }
            None => {}
        }
    }

    fn done(&self, words: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{words}");
    }
}
