//! Jobs, wherever they are.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::page;
use crate::job::JobId;

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// Only with this unique key.
    pub unique_key: Option<String>,
    /// Only older than this one: the last of the page before.
    pub before: Option<JobId>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// A job wherever it is.
#[derive(Clone, Debug, Serialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// The line it waits in.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload.
    pub args: Value,
    /// available, scheduled, retryable, running, completed, discarded, cancelled or dead.
    pub state: String,
    /// Its place against others.
    pub priority: i16,
    /// When it is due.
    pub run_at: Option<DateTime<Utc>>,
    /// How often it was claimed.
    pub fence: i64,
    /// Tries used.
    pub attempt: i32,
    /// Tries it has.
    pub attempts_max: Option<i32>,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The group it takes its turn in.
    pub group_key: Option<String>,
    /// The worker that holds it, or completed it.
    pub worker_id: Option<i64>,
    /// Since when.
    pub claimed_at: Option<DateTime<Utc>>,
    /// Workers that died while they held it.
    pub crashes: i32,
    /// Whether it runs alone, because workers died over it.
    pub suspect: bool,
    /// Why it waits, or why it is dead.
    pub waiting: Option<String>,
    /// What went wrong so far.
    pub failures: Value,
    /// How far it has come.
    pub progress: Option<Value>,
    /// What it left behind.
    pub result: Option<Value>,
    /// The trace it belongs to.
    pub trace_context: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The jobs that match, newest first.
pub async fn jobs(conn: &mut PgConnection, filter: &JobFilter) -> sqlx::Result<Vec<JobView>> {
    sqlx::query_as!(
        JobView,
        r#"select id as "id!: JobId", queue as "queue!", kind as "kind!", args_version as "args_version!", args as "args!",
                  state as "state!", priority as "priority!: i16", run_at, fence as "fence!", attempt as "attempt!", attempts_max,
                  unique_key, group_key, worker_id, claimed_at, crashes as "crashes!", suspect as "suspect!", waiting,
                  failures as "failures!", progress, result, trace_context, created_at as "created_at!", ended_at
           from queue.all_jobs
           where ($1::text is null or queue = $1)
             and ($2::text is null or kind = $2)
             and ($3::text is null or state = $3)
             and ($4::text is null or unique_key = $4)
             and ($5::bigint is null or id < $5)
           order by id desc
           limit $6"#,
        filter.queue,
        filter.kind,
        filter.state,
        filter.unique_key,
        filter.before.map(|before| before.0),
        page(filter.limit),
    )
    .fetch_all(conn)
    .await
}

/// One job wherever it is.
pub async fn job(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Option<JobView>> {
    sqlx::query_as!(
        JobView,
        r#"select id as "id!: JobId", queue as "queue!", kind as "kind!", args_version as "args_version!", args as "args!",
                  state as "state!", priority as "priority!: i16", run_at, fence as "fence!", attempt as "attempt!", attempts_max,
                  unique_key, group_key, worker_id, claimed_at, crashes as "crashes!", suspect as "suspect!", waiting,
                  failures as "failures!", progress, result, trace_context, created_at as "created_at!", ended_at
           from queue.all_jobs
           where id = $1
           limit 1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// The jobs of a kind that have not ended, oldest first.
pub(crate) async fn live(conn: &mut PgConnection, kind: &str) -> sqlx::Result<Vec<JobView>> {
    sqlx::query_as!(
        JobView,
        r#"select id as "id!: JobId", queue as "queue!", kind as "kind!", args_version as "args_version!", args as "args!",
                  state as "state!", priority as "priority!: i16", run_at, fence as "fence!", attempt as "attempt!", attempts_max,
                  unique_key, group_key, worker_id, claimed_at, crashes as "crashes!", suspect as "suspect!", waiting,
                  failures as "failures!", progress, result, trace_context, created_at as "created_at!", ended_at
           from queue.all_jobs
           where kind = $1 and ended_at is null
           order by id"#,
        kind,
    )
    .fetch_all(conn)
    .await
}

/// What stands between now and an empty fleet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NotIdle {
    /// Due and waiting.
    pub due: i64,
    /// Held by a worker.
    pub running: i64,
    /// Waiting for a later time.
    pub later: i64,
    /// When the first of those is due.
    pub next_run_at: Option<DateTime<Utc>>,
}

/// What is due, running or to come.
pub async fn not_idle(conn: &mut PgConnection) -> sqlx::Result<NotIdle> {
    sqlx::query_as!(
        NotIdle,
        r#"select count(*) filter (where run_at <= clock_timestamp()) as "due!",
                  (select count(*) from queue.running_jobs) as "running!",
                  count(*) filter (where run_at > clock_timestamp()) as "later!",
                  min(run_at) filter (where run_at > clock_timestamp()) as next_run_at
           from queue.jobs"#
    )
    .fetch_one(conn)
    .await
}
