//! The timetable: seen, changed, paused, run. What a build lists is overridden and reset; what is added here is removed here.

use axum::extract;
use chrono::{DateTime, Utc};
use queue::inspect::{self, OverrideView, ScheduleView, TickView};
use queue::schedule::{Entry, Error, Missed, Overlap};
use queue::timetable::{self, Change};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, any_object, one_of, small_integer, text};
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;
use crate::queues::{Pause, Reason};
use crate::view::view;

view! {
    /// What an operator changed of an entry that the build lists.
    Override of OverrideView {
        /// The fields that are changed.
        fields: Vec<String> as Vec<String>,
        /// What the build says in their place.
        listed: Value as Object,
        /// Why.
        reason: String as String,
        /// By whom.
        actor: String as String,
        /// Since when.
        changed_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// What became of a tick.
    Tick of TickView {
        /// The tick; the last of them, when there are several.
        tick_at: DateTime<Utc> as DateTime<Utc>,
        /// fired, skipped or missed.
        outcome: String as String,
        /// Why, or at whose wish.
        reason: Option<String> as Option<String>,
        /// How many ticks this is about.
        ticks: i32 as i32,
        /// The job it made.
        job_id: Option<i64> as Option<i64>,
        /// When it was decided.
        decided_at: DateTime<Utc> as DateTime<Utc>,
    }
}

/// An entry of the timetable, as it is in force.
#[derive(Serialize, ToSchema)]
pub(crate) struct Schedule {
    /// Its name.
    name: String,
    /// Who listed it: build or operator.
    origin: String,
    /// The kind it enqueues.
    kind: String,
    /// The queue it enqueues into.
    queue: String,
    /// The payload it enqueues.
    #[schema(value_type = Object)]
    args: Value,
    /// When: minute, hour, day, month, weekday.
    cron: String,
    /// In which zone.
    time_zone: String,
    /// What happens to missed ticks: skip, once or all.
    missed: String,
    /// What a tick does while an earlier run has not ended: allow, skip or queue_one.
    overlap: String,
    /// A job starts up to so much after its tick.
    jitter_seconds: i32,
    /// What an operator changed of it, if anything.
    overridden: Option<Override>,
    /// The pause, if there is one.
    paused: Option<Pause>,
    /// The last tick that was decided.
    last_tick_at: Option<DateTime<Utc>>,
    /// What became of it: fired, skipped or missed.
    last_outcome: Option<String>,
    /// Why.
    last_reason: Option<String>,
    /// The job it made.
    last_job_id: Option<i64>,
    /// The next ticks; none during a pause.
    next: Vec<DateTime<Utc>>,
}

impl From<ScheduleView> for Schedule {
    fn from(view: ScheduleView) -> Schedule {
        Schedule {
            name: view.name,
            origin: view.origin,
            kind: view.kind,
            queue: view.queue,
            args: view.args,
            cron: view.cron,
            time_zone: view.time_zone,
            missed: view.missed,
            overlap: view.overlap,
            jitter_seconds: view.jitter_seconds,
            overridden: view.overridden.map(Override::from),
            paused: view.paused.map(Pause::from),
            last_tick_at: view.last_tick_at,
            last_outcome: view.last_outcome,
            last_reason: view.last_reason,
            last_job_id: view.last_job_id,
            next: view.next,
        }
    }
}

/// An entry to add.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `add` reads it")]
pub(crate) struct NewSchedule {
    /// What it is called: a to z, 0 to 9, _, - and .
    name: String,
    /// The kind it enqueues.
    kind: String,
    /// The payload it enqueues; none without.
    #[schema(value_type = Option<Object>)]
    args: Option<Value>,
    /// When: minute, hour, day, month, weekday; or @daily and the like.
    cron: String,
    /// In which zone; UTC without.
    time_zone: Option<String>,
    /// What happens to missed ticks: skip, once (without) or all.
    missed: Option<String>,
    /// What a tick does while an earlier run has not ended: allow (without), skip or queue_one.
    overlap: Option<String>,
    /// A job starts up to so much after its tick; 0 without.
    jitter_seconds: Option<i32>,
    /// For the audit.
    reason: String,
}

/// What changes of an entry; new times count from now on.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `change` reads it")]
pub(crate) struct SchedulePatch {
    /// When: minute, hour, day, month, weekday.
    cron: Option<String>,
    /// In which zone.
    time_zone: Option<String>,
    /// What happens to missed ticks: skip, once or all.
    missed: Option<String>,
    /// What a tick does while an earlier run has not ended: allow, skip or queue_one.
    overlap: Option<String>,
    /// A job starts up to so much after its tick.
    jitter_seconds: Option<i32>,
    /// Whether it is paused: what ticks in a pause is skipped, and noted at its end.
    paused: Option<bool>,
    /// For the audit.
    reason: String,
}

/// The run that was asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Run {
    /// Its job.
    job_id: i64,
}

/// The timetable in force.
#[utoipa::path(
    get, path = "/schedules", tag = "operations",
    responses((status = 200, description = "The timetable", body = Page<Schedule>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    params.end()?;
    let schedules = inspect::schedules(&mut *state.pool.acquire().await?).await?;
    let items = schedules.into_iter().map(Schedule::from).collect();
    Ok(Answer::ok(&Page {
        items,
        next_cursor: None,
    }))
}

/// One entry of the timetable.
#[utoipa::path(
    get, path = "/schedules/{name}", tag = "operations",
    params(("name" = String, Path, description = "The entry")),
    responses((status = 200, description = "The entry", body = Schedule)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(name): Id<String>) -> Result<Answer, Problem> {
    Ok(Answer::ok(&read(&mut *state.pool.acquire().await?, &name).await?))
}

/// What became of the ticks of an entry, the latest first.
#[utoipa::path(
    get, path = "/schedules/{name}/ticks", tag = "operations",
    params(
        ("name" = String, Path, description = "The entry"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of ticks", body = Page<Tick>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn ticks(
    extract::State(state): extract::State<State>,
    Id(name): Id<String>,
    params: Params,
) -> Result<Answer, Problem> {
    let window = params.window::<DateTime<Utc>>()?;
    let conn = &mut *state.pool.acquire().await?;
    read(conn, &name).await?;
    let ticks = inspect::ticks(conn, &name, window.after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(ticks, |tick| tick.tick_at, Tick::from)))
}

/// Adds an entry of a kind that exists; its payload is decoded as the kind will decode it.
#[utoipa::path(
    post, path = "/schedules", tag = "operations",
    request_body = NewSchedule,
    responses((status = 201, description = "Added", body = Schedule)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn add(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (entry, reason) = fields::read(&call.body, |f| (new_entry(f), f.required("reason", text(1..=500))))?;
        let entry = entry.map_err(Problem::from)?;
        timetable::add(conn, &entry, &call.principal.name, &reason).await?;
        let path = format!("/api/v1/schedules/{}", entry.name);
        Ok(Answer::created(&path, &read(conn, &entry.name).await?))
    })
    .await
}

fn new_entry(f: &mut Fields<'_>) -> Result<Entry, Error> {
    let name = f.required("name", text(1..=100));
    let kind = f.required("kind", text(1..=100));
    let cron = f.required("cron", text(1..=queue::cron::LENGTH_MAX));
    let args = f
        .optional("args", any_object)
        .unwrap_or_else(|| Value::Object(Default::default()));
    let time_zone = f.optional("time_zone", text(1..=100));
    let missed = f.optional("missed", one_of(&Missed::NAMES));
    let overlap = f.optional("overlap", one_of(&Overlap::NAMES));
    let jitter_seconds = f.optional("jitter_seconds", small_integer(0..=queue::schedule::JITTER_SECONDS_MAX));
    let mut entry = jobs::catalogue().entry(&name, &cron, &kind, &args)?;
    if let Some(time_zone) = time_zone {
        entry.time_zone = time_zone;
    }
    if let Some(missed) = missed {
        entry.missed = missed.parse()?;
    }
    if let Some(overlap) = overlap {
        entry.overlap = overlap.parse()?;
    }
    entry.jitter_seconds = jitter_seconds.unwrap_or(entry.jitter_seconds);
    Ok(entry)
}

/// Changes an entry, or pauses it; what the build lists is overridden, and no deploy undoes that.
#[utoipa::path(
    patch, path = "/schedules/{name}", tag = "operations",
    params(("name" = String, Path, description = "The entry")),
    request_body = SchedulePatch,
    responses((status = 200, description = "The entry as it is now", body = Schedule)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn change(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let name: String = call.path("name", "schedule")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (change, reason) = fields::read(&call.body, |f| {
            let missed = f.change("missed", one_of(&Missed::NAMES));
            let overlap = f.change("overlap", one_of(&Overlap::NAMES));
            let change = Change {
                cron: f.change("cron", text(1..=queue::cron::LENGTH_MAX)),
                time_zone: f.change("time_zone", text(1..=100)),
                missed: missed.and_then(|missed| missed.parse().ok()),
                overlap: overlap.and_then(|overlap| overlap.parse().ok()),
                jitter_seconds: f.change("jitter_seconds", small_integer(0..=queue::schedule::JITTER_SECONDS_MAX)),
                paused: f.change("paused", fields::boolean),
            };
            (change, f.required("reason", text(1..=500)))
        })?;
        timetable::change(conn, &name, &change, &call.principal.name, &reason).await?;
        Ok(Answer::ok(&read(conn, &name).await?))
    })
    .await
}

/// Takes an override away: the entry is again as the build lists it. A no-op when there is none.
#[utoipa::path(
    post, path = "/schedules/{name}/reset", tag = "operations",
    params(("name" = String, Path, description = "The entry")),
    request_body = Reason,
    responses((status = 200, description = "The entry as it is now", body = Schedule)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn reset(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let name: String = call.path("name", "schedule")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        timetable::reset(conn, &name, &call.principal.name, &reason(&call)?).await?;
        Ok(Answer::ok(&read(conn, &name).await?))
    })
    .await
}

/// Runs an entry now, paused or not; 409 where its policy forbids an overlap.
#[utoipa::path(
    post, path = "/schedules/{name}/run", tag = "operations",
    params(("name" = String, Path, description = "The entry")),
    request_body = Reason,
    responses((status = 202, description = "Its job is enqueued", body = Run)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn run(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let name: String = call.path("name", "schedule")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let job = timetable::run_now(conn, &name, &call.principal.name, &reason(&call)?).await?;
        Ok(Answer::accepted(&format!("/api/v1/jobs/{job}"), &Run { job_id: job.0 }))
    })
    .await
}

/// Takes an entry off that was added here; 409 for one of the build's, which would come back.
#[utoipa::path(
    delete, path = "/schedules/{name}", tag = "operations",
    params(("name" = String, Path, description = "The entry")),
    request_body = Reason,
    responses((status = 204, description = "Removed; the jobs it made go on")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn remove(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let name: String = call.path("name", "schedule")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        timetable::remove(conn, &name, &call.principal.name, &reason(&call)?).await?;
        Ok(Answer::nothing())
    })
    .await
}

fn reason(call: &Call) -> Result<String, Problem> {
    fields::read(&call.body, |f| f.required("reason", text(1..=500)))
}

async fn read(conn: &mut PgConnection, name: &str) -> Result<Schedule, Problem> {
    let found = inspect::schedule(conn, name).await?;
    found.map(Schedule::from).ok_or_else(|| Problem::not_found("schedule"))
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let detail = error.to_string();
        match error {
            Error::Database(error) => error.into(),
            Error::Refused { field, why } => Problem::invalid_field(format!("/{field}"), "invalid", why),
            Error::NotFound(_) => Problem::not_found("schedule"),
            Error::Exists(_) => Problem::conflict_field("/name", "name_taken", detail),
            Error::Listed(_) => Problem::conflict("listed_by_build", detail),
            Error::Full(_) => Problem::conflict("timetable_full", detail),
            Error::Overlaps(..) => Problem::conflict("run_overlaps", detail),
        }
    }
}
