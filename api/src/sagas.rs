//! Sagas: steps that are undone in reverse when a later one fails.

use axum::extract;
use chrono::{DateTime, Utc};
use queue::JobId;
use queue::saga::{self, SagaFilter, SagaLine};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A saga at a glance.
    Saga of SagaLine {
        /// Its number.
        id: i64 as i64,
        /// What sort it is.
        name: String as String,
        /// What it is about.
        key: String as String,
        /// running, compensating, completed, compensated or compensation_failed.
        state: String as String,
        /// How many steps it has.
        steps: i32 as i32,
        /// How many of them have completed, undone since or not.
        steps_completed: i32 as i32,
        /// The step that did not complete.
        failed_step: Option<i32> as Option<i32>,
        /// When it began.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it ended.
        ended_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

view! {
    /// A job of a saga.
    SagaJob of saga::SagaJob {
        /// The number of the step, from 1.
        step: i32 as i32,
        /// Whether it undoes the step.
        undo: bool as bool,
        /// Its kind.
        kind: String as String,
        /// The job, once it is enqueued.
        job_id: Option<JobId> as Option<i64>,
        /// How it ended, once it has: completed, discarded, cancelled or dead.
        outcome: Option<String> as Option<String>,
    }
}

/// A saga with its steps, and with what undoes them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SagaWithJobs {
    /// Its number.
    id: i64,
    /// What sort it is.
    name: String,
    /// What it is about.
    key: String,
    /// running, compensating, completed, compensated or compensation_failed.
    state: String,
    /// The step that did not complete.
    failed_step: Option<i32>,
    /// When it began.
    created_at: DateTime<Utc>,
    /// When it ended.
    ended_at: Option<DateTime<Utc>>,
    /// Its jobs, steps first.
    jobs: Vec<SagaJob>,
}

/// Lists sagas, newest first. Those that ended more than thirty days ago are forgotten, unless a compensation failed.
#[utoipa::path(
    get, path = "/sagas", tag = "operations",
    params(
        ("name" = Option<String>, Query, description = "Of this sort"),
        ("key" = Option<String>, Query, description = "About this"),
        ("state" = Option<String>, Query, description = "In this state"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of sagas", body = Page<Saga>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let (name, key) = (params.filter("name", "a text"), params.filter("key", "a text"));
    let in_state = params.word("state", &saga::STATES);
    let window = params.window::<i64>()?;
    let filter = SagaFilter {
        name,
        key,
        state: in_state,
        before: window.after,
        limit: window.fetch(),
    };
    let sagas = saga::sagas(&mut *state.pool.acquire().await?, &filter).await?;
    Ok(Answer::ok(&window.page(sagas, |saga| saga.id, Saga::from)))
}

/// One saga: its steps, what undoes them, and how far it is.
#[utoipa::path(
    get, path = "/sagas/{id}", tag = "operations",
    params(("id" = i64, Path, description = "The saga")),
    responses((status = 200, description = "The saga", body = SagaWithJobs)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<i64>) -> Result<Answer, Problem> {
    let saga = saga::saga(&mut *state.pool.acquire().await?, id).await?;
    let saga = saga.ok_or_else(|| Problem::not_found("saga"))?;
    Ok(Answer::ok(&SagaWithJobs {
        id: saga.id,
        name: saga.name,
        key: saga.key,
        state: saga.state,
        failed_step: saga.failed_step,
        created_at: saga.created_at,
        ended_at: saga.ended_at,
        jobs: saga.jobs.into_iter().map(SagaJob::from).collect(),
    }))
}
