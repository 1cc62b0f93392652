//! Jobs, for people: a list and one, wherever it is.

use axum::extract;
use chrono::{DateTime, Utc};
use queue::JobId;
use queue::inspect::{self, JobFilter, JobView};
use queue::log::{self, Line};
use queue::operate::{self, Cancelled};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, text};
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

view! {
    /// One line of a job's log.
    LogLine of Line {
        /// When.
        at: DateTime<Utc> as DateTime<Utc>,
        /// The number of the attempt that said it.
        attempt: i32 as i32,
        /// What it said.
        line: String as String,
    }
}

/// A job with what it has logged.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobWithLog {
    #[serde(flatten)]
    job: Job,
    /// How many lines came before these and are gone.
    log_dropped: i32,
    /// Its last lines, oldest first.
    log: Vec<LogLine>,
}

/// Why to stop.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `cancel` reads it")]
pub(crate) struct Cancel {
    /// For the audit.
    reason: String,
}

/// What became of the wish.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cancelling {
    /// The job.
    job_id: i64,
    /// cancelled, or cancelling while its worker is asked to stop it.
    state: &'static str,
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

/// One job, wherever it is, with its log.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The job", body = JobWithLog)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<i64>) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    let job = inspect::job(&mut conn, JobId(id)).await?;
    let job = Job::from(job.ok_or_else(|| Problem::not_found("job"))?);
    let log = log::read(&mut conn, JobId(id)).await?;
    Ok(Answer::ok(&JobWithLog {
        job,
        log_dropped: log.dropped,
        log: log.lines.into_iter().map(LogLine::from).collect(),
    }))
}

/// Cancels a job: one that waits ends at once; one that runs is asked to stop, which it does within a second unless it
/// ends before. It is not tried again.
#[utoipa::path(
    post, path = "/jobs/{id}/cancel", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    request_body = Cancel,
    responses((status = 202, description = "It is cancelled, or its worker is asked to stop it", body = Cancelling)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn cancel(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id = JobId(call.path("id", "job")?);
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let reason = fields::read(&call.body, |f| f.required("reason", text(1..=500)))?;
        let cancelled = match operate::cancel(conn, id, &call.principal.name, &reason).await {
            Err(operate::Error::NotFound(_)) => return Err(Problem::not_found("job")),
            other => other?,
        };
        let state = match cancelled {
            Cancelled::Ended => "cancelled",
            Cancelled::Asked => "cancelling",
        };
        Ok(Answer::accepted(
            &format!("/api/v1/jobs/{id}"),
            &Cancelling { job_id: id.0, state },
        ))
    })
    .await
}
