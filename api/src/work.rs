//! Jobs, for people: a list and one, wherever it is.

use axum::extract;
use chrono::{DateTime, Utc};
use queue::JobId;
use queue::inspect::{self, JobFilter, JobView};
use serde_json::Value;

use crate::State;
use crate::answer::Answer;
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

const STATES: [&str; 8] = [
    "available",
    "scheduled",
    "retryable",
    "running",
    "completed",
    "discarded",
    "cancelled",
    "dead",
];

view! {
    /// A job, wherever it is.
    Job of JobView {
        /// Its number.
        id: JobId as i64,
        /// The line it waits in.
        queue: String as String,
        /// Its kind.
        kind: String as String,
        /// The version of its payload.
        args_version: i16 as i16,
        /// Its payload: ids only.
        args: Value as Object,
        /// available, scheduled, retryable, running, completed, discarded, cancelled or dead.
        state: String as String,
        /// Its place against others.
        priority: i16 as i16,
        /// When it is due.
        run_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// How often it was claimed.
        fence: i64 as i64,
        /// Tries used.
        attempt: i32 as i32,
        /// Tries it has.
        attempts_max: Option<i32> as Option<i32>,
        /// The key only it may have.
        unique_key: Option<String> as Option<String>,
        /// The group it takes its turn in.
        group_key: Option<String> as Option<String>,
        /// The worker that holds it, or completed it.
        worker_id: Option<i64> as Option<i64>,
        /// Since when.
        claimed_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// Workers that died while they held it.
        crashes: i32 as i32,
        /// Why it waits, or why it is dead.
        waiting: Option<String> as Option<String>,
        /// What went wrong so far.
        failures: Value as Vec<Object>,
        /// How far it has come.
        progress: Option<Value> as Option<Object>,
        /// What it left behind.
        result: Option<Value> as Option<Object>,
        /// When it was enqueued.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it ended.
        ended_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

/// Lists jobs, newest first.
#[utoipa::path(
    get, path = "/jobs", tag = "operations",
    params(
        ("queue" = Option<String>, Query, description = "Of this queue"),
        ("kind" = Option<String>, Query, description = "Of this kind"),
        ("state" = Option<String>, Query, description = "In this state"),
        ("unique_key" = Option<String>, Query, description = "With this unique key"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of jobs", body = Page<Job>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let (queue, kind) = (params.filter("queue", "a text"), params.filter("kind", "a text"));
    let (in_state, unique_key) = (params.word("state", &STATES), params.filter("unique_key", "a text"));
    let window = params.window::<i64>()?;
    let (before, limit) = (window.after.map(JobId), window.fetch());
    let filter = JobFilter {
        queue,
        kind,
        state: in_state,
        unique_key,
        before,
        limit,
    };
    let jobs = inspect::jobs(&mut *state.pool.acquire().await?, &filter).await?;
    Ok(Answer::ok(&window.page(jobs, |job| job.id.0, Job::from)))
}

/// One job, wherever it is.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The job", body = Job)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<i64>) -> Result<Answer, Problem> {
    let job = inspect::job(&mut *state.pool.acquire().await?, JobId(id)).await?;
    Ok(Answer::ok(&Job::from(job.ok_or_else(|| Problem::not_found("job"))?)))
}
