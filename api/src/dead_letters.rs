//! Dead letters: understood, mended and redriven, or discarded with a reason.

use axum::extract;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use queue::JobId;
use queue::inspect::{self, CauseFilter, CauseView, DeadFilter, DeadLetterView};
use queue::operate;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, any_object, text};
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A job that cannot succeed, with the report that explains it.
    DeadLetter of DeadLetterView {
        /// The job.
        id: JobId as i64,
        /// The line it waited in.
        queue: String as String,
        /// Its kind.
        kind: String as String,
        /// The version of its payload.
        args_version: i16 as i16,
        /// Its payload, as it is redriven.
        args: Value as Object,
        /// How often it was claimed.
        fence: i64 as i64,
        /// Tries used.
        attempt: i32 as i32,
        /// Tries it had.
        attempts_max: i32 as i32,
        /// The key only it may have.
        unique_key: Option<String> as Option<String>,
        /// The group it takes its turn in.
        group_key: Option<String> as Option<String>,
        /// exhausted, permanent, poison or deadline.
        reason: String as String,
        /// The class of the last failure.
        error_class: String as String,
        /// The code of the last failure.
        error_code: String as String,
        /// The last failure in words.
        message: String as String,
        /// The whole story.
        report: Value as Object,
        /// When it was enqueued.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it was given up.
        dead_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// Dead letters of one cause: kind, class, code and message are the same, but for ids, numbers and quoted texts.
    DeadLetterCause of CauseView {
        /// Its name, the same wherever it is met.
        cause: String as String,
        /// The line that the youngest waited in.
        queue: String as String,
        /// The kind of the jobs.
        kind: String as String,
        /// The class of their last failure.
        error_class: String as String,
        /// Its code.
        error_code: String as String,
        /// What the messages have in common.
        pattern: String as String,
        /// The message of the youngest.
        message: String as String,
        /// How many there are.
        letters: i64 as i64,
        /// When the first died.
        first_at: DateTime<Utc> as DateTime<Utc>,
        /// When the last died.
        last_at: DateTime<Utc> as DateTime<Utc>,
        /// The youngest of them.
        sample: Vec<i64> as Vec<i64>,
    }
}

/// How to redrive.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `redrive` reads it")]
pub(crate) struct Redrive {
    /// What was mended; for the audit.
    reason: String,
    /// A payload to run with instead.
    args: Option<Value>,
}

/// Why to give up.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `discard` reads it")]
pub(crate) struct Discard {
    /// For the audit.
    reason: String,
}

/// The job that runs again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Redriven {
    /// The job; it keeps its id.
    job_id: i64,
}

/// Lists dead letters, newest first.
#[utoipa::path(
    get, path = "/dead-letters", tag = "operations",
    params(
        ("queue" = Option<String>, Query, description = "Of this queue"),
        ("kind" = Option<String>, Query, description = "Of this kind"),
        ("error_class" = Option<String>, Query, description = "Of this class"),
        ("error_code" = Option<String>, Query, description = "With this code"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of dead letters", body = Page<DeadLetter>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let (queue, kind) = (params.filter("queue", "a text"), params.filter("kind", "a text"));
    let error_class = params.filter("error_class", "a text");
    let error_code = params.filter("error_code", "a text");
    let window = params.window::<i64>()?;
    let (before, limit) = (window.after.map(JobId), window.fetch());
    let filter = DeadFilter {
        queue,
        kind,
        error_class,
        error_code,
        before,
        limit,
    };
    let letters = inspect::dead_letters(&mut *state.pool.acquire().await?, &filter).await?;
    Ok(Answer::ok(&window.page(
        letters,
        |letter| letter.id.0,
        DeadLetter::from,
    )))
}

/// Lists the causes of dead letters, the largest first.
#[utoipa::path(
    get, path = "/dead-letters/causes", tag = "operations",
    params(
        ("kind" = Option<String>, Query, description = "Of this kind"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of causes", body = Page<DeadLetterCause>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn causes(
    extract::State(state): extract::State<State>,
    mut params: Params,
) -> Result<Answer, Problem> {
    let kind = params.filter("kind", "a text");
    let window = params.window::<(i64, String)>()?;
    let (before, limit) = (window.after.clone(), window.fetch());
    let filter = CauseFilter { kind, before, limit };
    let causes = inspect::causes(&mut *state.pool.acquire().await?, &filter).await?;
    Ok(Answer::ok(&window.page(
        causes,
        |cause| (cause.letters, cause.cause.clone()),
        DeadLetterCause::from,
    )))
}

/// One dead letter with its report.
#[utoipa::path(
    get, path = "/dead-letters/{id}", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The dead letter", body = DeadLetter)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<i64>) -> Result<Answer, Problem> {
    let letter = inspect::dead_letter(&mut *state.pool.acquire().await?, JobId(id)).await?;
    Ok(Answer::ok(&DeadLetter::from(
        letter.ok_or_else(|| Problem::not_found("dead letter"))?,
    )))
}

/// Makes a dead letter a job again, with its id and keys; `args` edits its payload.
#[utoipa::path(
    post, path = "/dead-letters/{id}/redrive", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    request_body = Redrive,
    responses((status = 202, description = "It runs again", body = Redriven)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn redrive(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id = JobId(call.path("id", "dead letter")?);
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (reason, edit) = fields::read(&call.body, |f| {
            (f.required("reason", text(1..=500)), f.optional("args", any_object))
        })?;
        let job = operate::redrive(conn, id, &call.principal.name, &reason, edit).await?;
        Ok(Answer::accepted(
            &format!("/api/v1/jobs/{job}"),
            &Redriven { job_id: job.0 },
        ))
    })
    .await
}

/// Gives a dead letter up for good.
#[utoipa::path(
    post, path = "/dead-letters/{id}/discard", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    request_body = Discard,
    responses((status = 204, description = "Discarded")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn discard(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id = JobId(call.path("id", "dead letter")?);
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let reason = fields::read(&call.body, |f| f.required("reason", text(1..=500)))?;
        if inspect::dead_letter(conn, id).await?.is_none() {
            return Err(Problem::not_found("dead letter"));
        }
        operate::discard(conn, id, &call.principal.name, &reason).await?;
        Ok(Answer::nothing())
    })
    .await
}

impl From<operate::Error> for Problem {
    fn from(error: operate::Error) -> Problem {
        let detail = error.to_string();
        match error {
            operate::Error::Database(error) => error.into(),
            operate::Error::TurnedBack(_) => Problem::conflict("saga_turned_back", detail),
            operate::Error::NotFound(_) => Problem::not_found("dead letter"),
            operate::Error::Invalid(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail),
            operate::Error::Ended { state, .. } => Problem::conflict("job_ended", detail).with("state", state),
            operate::Error::KeyTaken { other, .. } => {
                Problem::conflict("unique_key_taken", detail).with("job_id", other.0)
            }
        }
    }
}
