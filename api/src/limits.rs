//! Limits: what may run at once, how fast, and the breakers. Their names have slashes in them, so they stand in the query
//! or the body and never in the path, where proxies disagree about `%2F`.

use axum::extract;
use chrono::{DateTime, Utc};
use queue::limit::{self, KeyView, Limit, LimitView, RATE_MAX};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, number, small_integer, text};
use crate::paging::{Page, Params};
use crate::problem::Problem;
use crate::queues::QUEUES;
use crate::view::view;

view! {
    /// One key of a limit.
    LimitKey of KeyView {
        /// The key.
        key: String as String,
        /// Jobs that run.
        running: i64 as i64,
        /// Whether jobs are parked for it.
        is_parking: bool as bool,
        /// When those are looked at again.
        opens_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// Failures in a row.
        failures: i32 as i32,
        /// Until when its breaker is open; past: it lets single jobs through.
        open_until: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// What opened it.
        cause: Option<String> as Option<String>,
    }
}

/// What every key of a limit allows, and how much of it is used.
#[derive(Serialize, ToSchema)]
pub(crate) struct LimitInForce {
    /// A key, the beginning of keys, or queue/NAME.
    name: String,
    /// Jobs that run at once.
    concurrency: Option<i32>,
    /// Jobs that start a second, over the long run.
    rate: Option<f64>,
    /// Jobs that may start at once when none has for long.
    burst: i32,
    /// Failures in a row that open the breaker.
    breaker_failures: Option<i32>,
    /// Seconds until an open breaker lets a probe through.
    breaker_seconds: f64,
    /// Who set it; build, if it came with one.
    actor: String,
    /// When.
    changed_at: DateTime<Utc>,
    /// Keys whose breaker is open, or lets single jobs through.
    open_breakers: i64,
    /// Jobs that are parked for its keys, counted up to 100,000.
    parked: i64,
    /// Its keys that are in use or closed, at most a hundred: those with parked jobs first.
    keys: Vec<LimitKey>,
}

impl From<LimitView> for LimitInForce {
    fn from(view: LimitView) -> LimitInForce {
        LimitInForce {
            name: view.name,
            concurrency: view.concurrency,
            rate: view.rate,
            burst: view.burst,
            breaker_failures: view.breaker_failures,
            breaker_seconds: view.breaker_seconds,
            actor: view.actor,
            changed_at: view.changed_at,
            open_breakers: view.open_breakers,
            parked: view.parked,
            keys: view.keys.into_iter().map(LimitKey::from).collect(),
        }
    }
}

/// What a limit shall allow; at least one of concurrency, rate and breaker_failures.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `set` reads it")]
pub(crate) struct NewLimit {
    /// A key such as endpoint/7, the beginning of keys such as endpoint, or queue/NAME.
    name: String,
    /// Jobs that run at once, for each key; 0 for none at all, without it any number.
    concurrency: Option<i32>,
    /// Jobs that start a second, for each key; from 0.0001 to 100000.
    rate: Option<f64>,
    /// Jobs that may start at once when none has for long; a tenth of a second's worth without.
    burst: Option<i32>,
    /// Failures in a row that open the breaker; without it there is none.
    breaker_failures: Option<i32>,
    /// Seconds until an open breaker lets a probe through; 10 without.
    breaker_seconds: Option<f64>,
    /// For the audit.
    reason: String,
}

/// Which limit, and why.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `remove` reads it")]
pub(crate) struct LimitToRemove {
    /// Its name.
    name: String,
    /// For the audit.
    reason: String,
}

/// Whose breaker, and why.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `close_breaker` reads it")]
pub(crate) struct BreakerToClose {
    /// The key.
    key: String,
    /// For the audit.
    reason: String,
}

/// The limits in force, by name, with the keys in use.
#[utoipa::path(
    get, path = "/limits", tag = "operations",
    params(("name" = Option<String>, Query, description = "Only the limit of this name, such as queue/webhooks")),
    responses((status = 200, description = "The limits; empty where there is none of that name", body = Page<LimitInForce>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let name: Option<String> = params.filter("name", "the name of a limit");
    params.end()?;
    let conn = &mut *state.pool.acquire().await?;
    let limits = match name {
        Some(name) => limit::get(conn, &name).await?.into_iter().collect(),
        None => limit::list(conn).await?,
    };
    Ok(Answer::ok(&Page {
        items: limits.into_iter().map(LimitInForce::from).collect(),
        next_cursor: None,
    }))
}

/// Sets a limit, or replaces it as a whole; what runs goes on, and no deploy undoes it.
#[utoipa::path(
    put, path = "/limits", tag = "operations",
    request_body = NewLimit,
    responses((status = 200, description = "The limit as it is now", body = LimitInForce)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn set(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (name, limit, reason) = fields::read(&call.body, |f| {
            (name_of(f), new_limit(f), f.required("reason", text(1..=500)))
        })?;
        limit::set(conn, &name, &limit, &reason, &call.principal.name).await?;
        Ok(Answer::ok(&read(conn, &name).await?))
    })
    .await
}

/// The name of a limit that can hold back something: a misspelt queue would be limited silently, and no other.
fn name_of(f: &mut Fields<'_>) -> String {
    let name = f.required("name", text(1..=300));
    if let Some(queue) = name.strip_prefix("queue/")
        && !QUEUES.contains(&queue)
    {
        let detail = format!("there is no queue {queue}; there are {}", QUEUES.join(", "));
        f.complain("name", "no_such_queue", detail);
    }
    name
}

fn new_limit(f: &mut Fields<'_>) -> Limit {
    Limit {
        concurrency: f.optional("concurrency", small_integer(0..=i32::MAX)),
        rate: f.optional("rate", number(limit::RATE_MIN..=RATE_MAX)),
        burst: f.optional("burst", small_integer(1..=100_000)),
        breaker_failures: f.optional("breaker_failures", small_integer(1..=10_000)),
        breaker_seconds: f.optional("breaker_seconds", number(0.001..=86_400.0)),
    }
}

/// Removes a limit; what was parked for it is let in. One that came with the build stays removed.
#[utoipa::path(
    delete, path = "/limits", tag = "operations",
    request_body = LimitToRemove,
    responses((status = 204, description = "Removed")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn remove(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (name, reason) = fields::read(&call.body, |f| {
            let name = f.required("name", text(1..=300));
            (name, f.required("reason", text(1..=500)))
        })?;
        match limit::remove(conn, &name, &reason, &call.principal.name).await? {
            true => Ok(Answer::nothing()),
            false => Err(Problem::not_found("limit")),
        }
    })
    .await
}

/// Closes the breaker of a key before its time: everybody is let in. A no-op when it is not open.
#[utoipa::path(
    post, path = "/limits/close-breaker", tag = "operations",
    request_body = BreakerToClose,
    responses((status = 204, description = "It is closed")),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn close_breaker(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (key, reason) = fields::read(&call.body, |f| {
            let key = f.required("key", text(1..=300));
            (key, f.required("reason", text(1..=500)))
        })?;
        limit::close_breaker(conn, &key, &reason, &call.principal.name).await?;
        Ok(Answer::nothing())
    })
    .await
}

async fn read(conn: &mut PgConnection, name: &str) -> Result<LimitInForce, Problem> {
    let found = limit::get(conn, name).await?;
    found.map(LimitInForce::from).ok_or_else(|| Problem::not_found("limit"))
}
