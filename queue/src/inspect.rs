//! What an operator sees: read-only, and everything serializes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

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
    /// Whether it runs alone.
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

/// Which dead letters to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this class.
    pub error_class: Option<String>,
    /// Only with this code.
    pub error_code: Option<String>,
    /// Only older than this one.
    pub before: Option<JobId>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// A dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterView {
    /// The job.
    pub id: JobId,
    /// The line it waited in.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload, as it is redriven.
    pub args: Value,
    /// How often it was claimed.
    pub fence: i64,
    /// Tries used.
    pub attempt: i32,
    /// Tries it had.
    pub attempts_max: i32,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The group it takes its turn in.
    pub group_key: Option<String>,
    /// exhausted, permanent, poison or deadline.
    pub reason: String,
    /// The class of the last failure.
    pub error_class: String,
    /// The code of the last failure.
    pub error_code: String,
    /// The last failure in words.
    pub message: String,
    /// The whole story.
    pub report: Value,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it was given up.
    pub dead_at: DateTime<Utc>,
}

/// A pause and its reason.
#[derive(Clone, Debug, Serialize)]
pub struct PauseView {
    /// Why.
    pub reason: String,
    /// By whom.
    pub actor: String,
    /// Since when.
    pub paused_at: DateTime<Utc>,
}

/// A line of jobs at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Due and waiting.
    pub available: i64,
    /// Due later, never tried.
    pub scheduled: i64,
    /// Due later, after a failure.
    pub retryable: i64,
    /// Held by a worker.
    pub running: i64,
    /// Given up.
    pub dead: i64,
    /// How long the longest-waiting due job has waited.
    pub oldest_due_seconds: Option<f64>,
    /// The pause, if there is one.
    pub paused: Option<PauseView>,
    /// The kinds of this queue that are paused.
    pub paused_kinds: Vec<String>,
}

/// A line of the timetable at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// The kind it enqueues.
    pub kind: String,
    /// The queue it enqueues into.
    pub queue: String,
    /// When.
    pub cron: String,
    /// In which zone.
    pub time_zone: String,
    /// What happens to missed ticks.
    pub missed: String,
    /// Whether it is paused.
    pub paused: bool,
    /// The last tick that fired.
    pub last_tick_at: Option<DateTime<Utc>>,
    /// The job of that tick.
    pub last_job_id: Option<i64>,
    /// The next ticks.
    pub next: Vec<DateTime<Utc>>,
}

/// A worker process at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The queues it serves.
    pub pools: Vec<String>,
    /// Its build.
    pub build: String,
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: i32,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    pub beat_at: DateTime<Utc>,
    /// Until when it is believed to live.
    pub lease_until: DateTime<Utc>,
    /// Whether it is on its way out.
    pub stopping: bool,
    /// How many jobs it holds.
    pub running: i64,
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

/// The jobs that match, newest first.
pub async fn jobs(_conn: &mut PgConnection, _filter: &JobFilter) -> sqlx::Result<Vec<JobView>> {
    todo!()
}

/// One job wherever it is.
pub async fn job(_conn: &mut PgConnection, _id: JobId) -> sqlx::Result<Option<JobView>> {
    todo!()
}

/// The dead letters that match, newest first.
pub async fn dead_letters(_conn: &mut PgConnection, _filter: &DeadFilter) -> sqlx::Result<Vec<DeadLetterView>> {
    todo!()
}

/// One dead letter.
pub async fn dead_letter(_conn: &mut PgConnection, _id: JobId) -> sqlx::Result<Option<DeadLetterView>> {
    todo!()
}

/// Every queue that has jobs, dead letters or a pause.
pub async fn queues(_conn: &mut PgConnection) -> sqlx::Result<Vec<QueueView>> {
    todo!()
}

/// The timetable.
pub async fn schedules(_conn: &mut PgConnection) -> sqlx::Result<Vec<ScheduleView>> {
    todo!()
}

/// The worker processes.
pub async fn workers(_conn: &mut PgConnection) -> sqlx::Result<Vec<WorkerView>> {
    todo!()
}

/// What is due, running or to come.
pub async fn not_idle(_conn: &mut PgConnection) -> sqlx::Result<NotIdle> {
    todo!()
}

/// Why a job is not running, one line per cause; empty when there is no such job.
pub async fn why(_conn: &mut PgConnection, _id: JobId) -> sqlx::Result<Vec<String>> {
    todo!()
}
