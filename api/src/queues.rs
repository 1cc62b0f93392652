//! Queues and kinds of job: seen, paused and resumed.

use axum::extract;
use chrono::{DateTime, NaiveDate, Utc};
use queue::inspect::{self, PauseView, PoolSettingsView, QueueView};
use queue::operate::{self, Target};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, small_integer, text};
use crate::paging::{Page, Params};
use crate::problem::Problem;
use crate::view::view;

/// The queues there are, so that an idle one is seen as well, and a mistyped one is refused.
pub(crate) const QUEUES: [&str; 5] = ["stock", "payments", "webhooks", "routes", "maintenance"];

const POOL_NAME_MAX: usize = 100;

view! {
    /// A pause and its reason.
    Pause of PauseView {
        /// Why.
        reason: String as String,
        /// By whom.
        actor: String as String,
        /// Since when.
        paused_at: DateTime<Utc> as DateTime<Utc>,
    }
}

/// A line of jobs at a glance.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queue {
    /// Its name.
    name: String,
    /// Due and waiting.
    available: i64,
    /// Due later, never tried.
    scheduled: i64,
    /// Due later, after a failure.
    retryable: i64,
    /// Held by a worker.
    running: i64,
    /// Given up.
    dead: i64,
    /// How long the longest-waiting due job has waited.
    oldest_due_seconds: Option<f64>,
    /// Jobs that came in, a second, over the last minute.
    arrived_per_second: Option<f64>,
    /// Jobs that ended, a second, over the last minute.
    completed_per_second: Option<f64>,
    /// How long what is due takes at that speed, at most a day; to scale by.
    drain_seconds: Option<f64>,
    /// The pause, if there is one.
    paused: Option<Pause>,
    /// The kinds of this queue that are paused.
    paused_kinds: Vec<String>,
}

impl From<QueueView> for Queue {
    fn from(queue: QueueView) -> Queue {
        Queue {
            name: queue.name,
            available: queue.available,
            scheduled: queue.scheduled,
            retryable: queue.retryable,
            running: queue.running,
            dead: queue.dead,
            oldest_due_seconds: queue.oldest_due_seconds,
            arrived_per_second: queue.arrived_per_second,
            completed_per_second: queue.completed_per_second,
            drain_seconds: queue.drain_seconds,
            paused: queue.paused.map(Pause::from),
            paused_kinds: queue.paused_kinds,
        }
    }
}

impl Queue {
    fn idle(name: &str) -> Queue {
        Queue {
            name: name.to_owned(),
            available: 0,
            scheduled: 0,
            retryable: 0,
            running: 0,
            dead: 0,
            oldest_due_seconds: None,
            arrived_per_second: None,
            completed_per_second: None,
            drain_seconds: None,
            paused: None,
            paused_kinds: Vec::new(),
        }
    }
}

view! {
    /// What was set for a pool.
    PoolSettings of PoolSettingsView {
        /// The pool.
        pool: String as String,
        /// How many jobs it runs at once in each process.
        slots: i32 as i32,
        /// Who set it.
        actor: String as String,
        /// Why.
        reason: String as String,
        /// When.
        changed_at: DateTime<Utc> as DateTime<Utc>,
    }
}

/// How many jobs at once.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `set_slots` reads it")]
pub(crate) struct Slots {
    /// From 1 to 8192; without it each process goes back to what it was started with.
    slots: Option<i32>,
    /// For the audit.
    reason: String,
}

/// Why it is paused or resumed.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `reason` reads it")]
pub(crate) struct Reason {
    /// For the audit.
    reason: String,
}

/// Every queue at a glance.
#[utoipa::path(
    get, path = "/queues", tag = "operations",
    responses((status = 200, description = "The queues", body = Page<Queue>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    params.end()?;
    let busy = inspect::queues(&mut *state.pool.acquire().await?).await?;
    let mut items: Vec<Queue> = busy.into_iter().map(Queue::from).collect();
    for name in QUEUES {
        if !items.iter().any(|queue| queue.name == name) {
            items.push(Queue::idle(name));
        }
    }
    let place = |queue: &Queue| {
        QUEUES
            .iter()
            .position(|name| *name == queue.name)
            .unwrap_or(QUEUES.len())
    };
    items.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name)));
    Ok(Answer::ok(&Page {
        items,
        next_cursor: None,
    }))
}

view! {
    /// A table whose rows come and go.
    TableHealth of queue::health::Table {
        /// Its name.
        name: String as String,
        /// Rows that are there, estimated.
        live_rows: i64 as i64,
        /// Rows that are gone but not cleared away, estimated.
        dead_rows: i64 as i64,
        /// With its indexes.
        bytes: i64 as i64,
        /// How long ago it was last cleared.
        vacuumed_seconds_ago: Option<f64> as Option<f64>,
    }
}

view! {
    /// Somebody because of whom rows that are gone cannot be cleared away.
    Holder of queue::health::Holder {
        /// session, prepared transaction or replication slot.
        what: String as String,
        /// The process of a session, or the name of the others.
        name: String as String,
        /// The program and the role.
        who: String as String,
        /// Its state and the beginning of its statement.
        doing: String as String,
        /// For how long, where that is known.
        seconds: Option<f64> as Option<f64>,
        /// How many transactions have begun since.
        transactions: i64 as i64,
        /// The statement that ends it.
        remedy: String as String,
    }
}

/// Whether the queue's tables stay small, and who keeps them from it.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueueHealth {
    /// The hot tables, the one with most dead rows first.
    tables: Vec<TableHealth>,
    /// For how long the horizon has been held.
    horizon_seconds: f64,
    /// By whom, the oldest first; at most twenty.
    holders: Vec<Holder>,
    /// The first day of the history.
    history_since: Option<NaiveDate>,
    /// Its size with indexes.
    history_bytes: i64,
}

/// The queue's tables, and who keeps dead rows from being cleared away.
#[utoipa::path(
    get, path = "/queue-health", tag = "operations",
    responses((status = 200, description = "The report", body = QueueHealth)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn health(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    params.end()?;
    let health = inspect::health(&mut *state.pool.acquire().await?).await?;
    Ok(Answer::ok(&QueueHealth {
        horizon_seconds: health.horizon_seconds(),
        tables: health.tables.into_iter().map(TableHealth::from).collect(),
        holders: health.holders.into_iter().map(Holder::from).collect(),
        history_since: health.history.since,
        history_bytes: health.history.bytes,
    }))
}

/// Pauses a queue: nothing of it is claimed any more; what runs goes on.
#[utoipa::path(
    post, path = "/queues/{name}/pause", tag = "operations",
    params(("name" = String, Path, description = "The queue")),
    request_body = Reason,
    responses((status = 204, description = "Paused")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn pause(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    pause_target(&state, &call, queue_of(&call)?).await
}

/// Ends the pause of a queue; a no-op when there is none.
#[utoipa::path(
    post, path = "/queues/{name}/resume", tag = "operations",
    params(("name" = String, Path, description = "The queue")),
    request_body = Reason,
    responses((status = 204, description = "Resumed")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn resume(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    resume_target(&state, &call, queue_of(&call)?).await
}

/// Pauses a kind of job: none of it is claimed any more; what runs goes on.
#[utoipa::path(
    post, path = "/kinds/{name}/pause", tag = "operations",
    params(("name" = String, Path, description = "The kind of job")),
    request_body = Reason,
    responses((status = 204, description = "Paused")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn pause_kind(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    pause_target(&state, &call, kind_of(&call)?).await
}

/// Ends the pause of a kind of job; a no-op when there is none.
#[utoipa::path(
    post, path = "/kinds/{name}/resume", tag = "operations",
    params(("name" = String, Path, description = "The kind of job")),
    request_body = Reason,
    responses((status = 204, description = "Resumed")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn resume_kind(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    resume_target(&state, &call, kind_of(&call)?).await
}

async fn pause_target(state: &State, call: &Call, (target, name): (Target, String)) -> Result<Answer, Problem> {
    call.once(state, Keyed::OPTIONAL, async |conn| {
        let reason = fields::read(&call.body, |f| f.required("reason", text(1..=500)))?;
        operate::pause(conn, target, &name, &reason, &call.principal.name).await?;
        Ok(Answer::nothing())
    })
    .await
}

async fn resume_target(state: &State, call: &Call, (target, name): (Target, String)) -> Result<Answer, Problem> {
    call.once(state, Keyed::OPTIONAL, async |conn| {
        let reason = fields::read(&call.body, |f| f.required("reason", text(1..=500)))?;
        operate::resume(conn, target, &name, &reason, &call.principal.name).await?;
        Ok(Answer::nothing())
    })
    .await
}

fn queue_of(call: &Call) -> Result<(Target, String), Problem> {
    let name: String = call.path("name", "queue")?;
    match QUEUES.contains(&name.as_str()) {
        true => Ok((Target::Queue, name)),
        false => Err(Problem::not_found("queue")),
    }
}

fn kind_of(call: &Call) -> Result<(Target, String), Problem> {
    let name: String = call.path("name", "kind of job")?;
    match jobs::catalogue().kinds().iter().any(|kind| kind.kind == name) {
        true => Ok((Target::Kind, name)),
        false => Err(Problem::not_found("kind of job")),
    }
}

/// The pools whose slots were changed since their processes were started.
#[utoipa::path(
    get, path = "/pools", tag = "operations",
    responses((status = 200, description = "What was set", body = Page<PoolSettings>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn pools(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    params.end()?;
    let settings = inspect::pool_settings(&mut *state.pool.acquire().await?).await?;
    let items = settings.into_iter().map(PoolSettings::from).collect();
    Ok(Answer::ok(&Page {
        items,
        next_cursor: None,
    }))
}

/// Changes how many jobs a pool runs at once in each process; the processes follow within seconds, without a restart.
#[utoipa::path(
    post, path = "/pools/{name}/slots", tag = "operations",
    params(("name" = String, Path, description = "The pool: its queue, or the name it has if it serves several")),
    request_body = Slots,
    responses((status = 204, description = "Changed")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn set_slots(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let pool: String = call.path("name", "pool")?;
    if pool.chars().count() > POOL_NAME_MAX {
        return Err(Problem::not_found("pool"));
    }
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (slots, reason) = fields::read(&call.body, |f| {
            let slots = f.optional("slots", small_integer(1..=8192));
            (slots, f.required("reason", text(1..=500)))
        })?;
        operate::set_slots(conn, &pool, slots, &reason, &call.principal.name).await?;
        Ok(Answer::nothing())
    })
    .await
}
