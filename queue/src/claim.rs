//! Due jobs change hands: one statement, each claim with a higher fence.
//!
//! Two planner traps shape the statements. `where id = any(array(select … limit n for update skip locked))` keeps a
//! generic plan on the primary key, where a join would scan the table. And the clock is read in a sub-select, because
//! a volatile function cannot bound an index scan: without it every claim would walk all that is scheduled for later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;

use crate::catalogue::Catalogue;
use crate::job::JobId;

/// A job in a worker's hands, not yet decoded.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// The line it waited in.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload.
    pub args: Value,
    /// The fence of this claim.
    pub fence: i64,
    /// The number of this try.
    pub attempt: i32,
    /// How many tries it has.
    pub attempts_max: i32,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The worker that claimed it.
    pub worker_id: i64,
    /// When.
    pub claimed_at: DateTime<Utc>,
    /// Whether its deadline has passed.
    pub is_late: bool,
    /// Workers that it took down alone.
    pub crashes_alone: i32,
    /// The trace it belongs to.
    pub trace_context: Option<String>,
}

/// What a process may claim from one queue: kinds it knows, in versions it reads.
#[derive(Clone, Debug)]
pub struct Known {
    queue: String,
    kinds: Vec<String>,
    versions: Vec<i16>,
    /// A kind of low priority stands behind its `run_at` in line; so far ahead must a claim look.
    ahead_secs: f64,
}

impl Known {
    /// What the catalogue knows of a queue.
    pub fn of<S: Send + Sync + 'static>(catalogue: &Catalogue<S>, queue: &str) -> Self {
        const STEP_OF_PRIORITY_SECS: f64 = 30.0;
        let kinds: Vec<_> = catalogue
            .kinds()
            .into_iter()
            .filter(|kind| kind.queue == queue)
            .collect();
        let lowest = kinds.iter().map(|kind| kind.priority).min().unwrap_or(0).min(0);
        Self {
            queue: queue.to_owned(),
            kinds: kinds.iter().map(|kind| kind.kind.to_owned()).collect(),
            versions: kinds.iter().map(|kind| kind.version).collect(),
            ahead_secs: f64::from(-lowest) * STEP_OF_PRIORITY_SECS,
        }
    }

    /// The queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Whether there is any kind to claim.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

/// Claims up to `limit` due jobs for a worker whose row still stands.
pub async fn claim(pool: &PgPool, known: &Known, worker_id: i64, limit: i64) -> sqlx::Result<Vec<Claimed>> {
    let claimed = sqlx::query_as!(
        Claimed,
        r#"update queue.jobs j
           set state = 'running', worker_id = $4, fence = fence + 1, attempt = attempt + 1,
               claimed_at = clock_timestamp(), waiting = null
           where j.id = any(array(
               select c.id
               from queue.jobs c
               where c.queue = $1 and c.state = 'available' and not c.suspect
                 and c.rank <= (select clock_timestamp() at time zone 'UTC' + make_interval(secs => $6))
                 and c.run_at <= (select clock_timestamp())
                 and c.kind = any($2)
                 and c.args_version <= ($3::smallint[])[array_position($2::text[], c.kind)]
                 and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
                 and not exists (select from queue.pauses p where p.target = 'queue' and p.name = $1)
                 and exists (select from queue.workers w where w.id = $4 and not w.stopping)
                 and (c.group_key is null or (
                     not exists (select from queue.jobs e where e.group_key = c.group_key and e.id < c.id)
                     and not exists (select from queue.jobs e where e.group_key = c.group_key and e.state = 'running')
                 ))
               order by c.rank, c.id
               limit $5
               for update of c skip locked
           ))
           returning j.id as "id: JobId", j.queue, j.kind, j.args_version, j.args, j.fence, j.attempt, j.attempts_max,
                     j.unique_key, j.worker_id as "worker_id!", j.claimed_at as "claimed_at!",
                     coalesce(j.deadline_at < clock_timestamp(), false) as "is_late!", j.crashes_alone, j.trace_context"#,
        &known.queue,
        &known.kinds,
        &known.versions,
        worker_id,
        limit,
        known.ahead_secs,
    )
    .fetch_all(pool)
    .await;
    settle_claim(known, claimed)
}

/// Claims the suspect that has waited longest: it must be run with nothing beside it.
pub async fn claim_suspect(pool: &PgPool, known: &Known, worker_id: i64) -> sqlx::Result<Option<Claimed>> {
    let claimed = sqlx::query_as!(
        Claimed,
        r#"update queue.jobs j
           set state = 'running', worker_id = $4, fence = fence + 1, attempt = attempt + 1,
               claimed_at = clock_timestamp(), waiting = null
           where j.id = any(array(
               select c.id
               from queue.jobs c
               where c.queue = $1 and c.state = 'available' and c.suspect
                 and c.run_at <= (select clock_timestamp())
                 and c.kind = any($2)
                 and c.args_version <= ($3::smallint[])[array_position($2::text[], c.kind)]
                 and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
                 and not exists (select from queue.pauses p where p.target = 'queue' and p.name = $1)
                 and exists (select from queue.workers w where w.id = $4 and not w.stopping)
                 and (c.group_key is null or (
                     not exists (select from queue.jobs e where e.group_key = c.group_key and e.id < c.id)
                     and not exists (select from queue.jobs e where e.group_key = c.group_key and e.state = 'running')
                 ))
               order by c.run_at, c.id
               limit 1
               for update of c skip locked
           ))
           returning j.id as "id: JobId", j.queue, j.kind, j.args_version, j.args, j.fence, j.attempt, j.attempts_max,
                     j.unique_key, j.worker_id as "worker_id!", j.claimed_at as "claimed_at!",
                     coalesce(j.deadline_at < clock_timestamp(), false) as "is_late!", j.crashes_alone, j.trace_context"#,
        &known.queue,
        &known.kinds,
        &known.versions,
        worker_id,
    )
    .fetch_all(pool)
    .await;
    Ok(settle_claim(known, claimed)?.pop())
}

/// Whether a suspect of one of these queues is due.
pub async fn is_suspect_due(pool: &PgPool, queues: &[String]) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from queue.jobs
               where queue = any($1) and state = 'available' and suspect and run_at <= (select clock_timestamp())
           ) as "due!""#,
        queues,
    )
    .fetch_one(pool)
    .await
}

/// How long until the next job of a queue is due, at most `longest`.
pub async fn next_due(pool: &PgPool, known: &Known, longest: Duration) -> sqlx::Result<Duration> {
    let seconds = sqlx::query_scalar!(
        r#"select extract(epoch from c.run_at - clock_timestamp())::float8 as "seconds!"
           from queue.jobs c
           where c.queue = $1 and c.state = 'available' and not c.suspect
             and c.rank > (select clock_timestamp() at time zone 'UTC' + make_interval(secs => $2))
           order by c.rank, c.id
           limit 1"#,
        &known.queue,
        known.ahead_secs,
    )
    .fetch_optional(pool)
    .await?;
    Ok(seconds.map_or(longest, |seconds| {
        Duration::from_secs_f64(seconds.max(0.0)).min(longest)
    }))
}

/// Two claims that meet in one group: the loser's claim is refused whole, and comes again.
fn settle_claim(known: &Known, claimed: sqlx::Result<Vec<Claimed>>) -> sqlx::Result<Vec<Claimed>> {
    match claimed {
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("one_running_job_per_group") => Ok(Vec::new()),
        Ok(mut claimed) => {
            claimed.sort_by_key(|job| job.id);
            metrics::counter!(crate::metric::CLAIMED, "queue" => known.queue.clone()).increment(claimed.len() as u64);
            Ok(claimed)
        }
        other => other,
    }
}
