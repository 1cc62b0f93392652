//! Webhook endpoints: registered, changed, their secrets rotated, their deliveries seen and replayed.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::ids::{DeliveryId, EndpointId, EventId};
use domain::webhooks::store::{EndpointChange, Error, NewEndpoint};
use domain::webhooks::{Delivery, DeliveryState, Endpoint, EndpointState, Invalid, Ordering, store};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, instant, one_of, text, texts};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

/// How many deliveries one replay makes pending.
const REPLAY_MAX: i64 = 1000;
const DELIVERY_STATES: [&str; 5] = ["pending", "in_flight", "delivered", "dead", "discarded"];

view! {
    /// A partner's endpoint, without its secrets.
    EndpointView of Endpoint {
        /// Its id.
        id: EndpointId as Uuid,
        /// Where events are sent.
        url: String as String,
        /// For people.
        description: String as String,
        /// Which events: `*`, `order.*`, `order.confirmed`.
        event_types: Vec<String> as Vec<String>,
        /// What is kept in order: none, per_key or strict.
        ordering: Ordering as String,
        /// active or disabled.
        state: EndpointState as String,
        /// Why it is disabled.
        disabled_reason: Option<String> as Option<String>,
        /// Since when nothing succeeded.
        failing_since: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// Until when nothing is tried.
        open_until: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// Raised by every change.
        version: i32 as i32,
        /// When it was registered.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When somebody last changed it.
        updated_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// One event for one endpoint.
    DeliveryView of Delivery {
        /// Its id.
        id: DeliveryId as Uuid,
        /// The endpoint.
        endpoint_id: EndpointId as Uuid,
        /// The event, and the `webhook-id` of every try.
        event_id: EventId as Uuid,
        /// The type of the event.
        event_type: String as String,
        /// The event's number.
        seq: i64 as i64,
        /// pending, in_flight, delivered, dead or discarded.
        state: DeliveryState as String,
        /// How often it was tried.
        attempts: i32 as i32,
        /// Why it was given up.
        reason: Option<String> as Option<String>,
        /// When it was written.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When the receiver said yes.
        delivered_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

/// An endpoint to register.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewEndpointBody {
    /// Where to send events: https, a public address.
    url: String,
    /// For people; at most 500 characters.
    description: Option<String>,
    /// Which events: `*`, `order.*`, `order.confirmed`.
    event_types: Vec<String>,
    /// What is kept in order: none, per_key (the events of one order; without) or strict (all).
    ordering: Option<String>,
}

/// What changes of an endpoint: what is named.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct EndpointPatch {
    /// Where to send events.
    url: Option<String>,
    /// For people.
    description: Option<String>,
    /// Which events, from now on.
    event_types: Option<Vec<String>>,
    /// active or disabled.
    state: Option<String>,
}

/// From when to replay.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `replay` reads it")]
pub(crate) struct Replay {
    /// What was missed since then is sent.
    since: DateTime<Utc>,
}

/// What is sent again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// How many deliveries are pending again; at most 1000 at a time.
    deliveries: usize,
}

/// An endpoint just registered.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndpointWithSecret {
    #[serde(flatten)]
    endpoint: EndpointView,
    /// What deliveries are signed with, shown this once.
    secret: String,
}

/// A secret just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewSecret {
    /// What deliveries are signed with from now on, beside the ones before; shown this once.
    secret: String,
}

/// Registers an endpoint. Its secret is in this answer and nowhere else; an `Idempotency-Key` is refused here, since
/// answers under one are kept.
#[utoipa::path(
    post, path = "/webhook-endpoints", tag = "webhooks",
    request_body = NewEndpointBody,
    responses((status = 201, description = "Registered", body = EndpointWithSecret)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::REFUSED, async |conn| {
        let new = fields::read(&call.body, |f| NewEndpoint {
            url: f.required("url", text(1..=2000)),
            description: f.optional("description", text(0..=500)).unwrap_or_default(),
            event_types: f.required("event_types", texts(1..=50, 1..=81)),
            ordering: match f
                .optional("ordering", one_of(&["none", "per_key", "strict"]))
                .as_deref()
            {
                Some("none") => Ordering::None,
                Some("strict") => Ordering::Strict,
                _ => Ordering::PerKey,
            },
            secret: None,
        })?;
        let (endpoint, secret) = store::create(conn, new, state.services.sender.allows_private()).await?;
        let (path, version) = (format!("/api/v1/webhook-endpoints/{}", endpoint.id), endpoint.version);
        Ok(Answer::created(
            &path,
            &EndpointWithSecret {
                endpoint: endpoint.into(),
                secret,
            },
        )
        .etag(version))
    })
    .await
}

/// Lists endpoints, newest first.
#[utoipa::path(
    get, path = "/webhook-endpoints", tag = "webhooks",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointView>)),
    security(("api_key" = ["webhooks:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, EndpointId(id)));
    let endpoints = store::list(&mut *state.pool.acquire().await?, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        endpoints,
        |endpoint| (endpoint.created_at, endpoint.id.0),
        EndpointView::from,
    )))
}

/// One endpoint.
#[utoipa::path(
    get, path = "/webhook-endpoints/{id}", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 200, description = "The endpoint", body = EndpointView)),
    security(("api_key" = ["webhooks:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<EndpointId>,
) -> Result<Answer, Problem> {
    let endpoint = existing(&mut *state.pool.acquire().await?, id).await?;
    let version = endpoint.version;
    Ok(Answer::ok(&EndpointView::from(endpoint)).etag(version))
}

async fn existing(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Problem> {
    store::get(conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("endpoint"))
}

/// Changes what the body names; `state` disables and enables. What is kept in order cannot change.
#[utoipa::path(
    patch, path = "/webhook-endpoints/{id}", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    request_body(content = EndpointPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = EndpointView)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (change, wanted) = fields::read(&call.body, |f| {
            let change = EndpointChange {
                url: f.change("url", text(1..=2000)),
                description: f.change("description", text(0..=500)),
                event_types: f.change("event_types", texts(1..=50, 1..=81)),
                version: None,
            };
            (change, f.change("state", one_of(&["active", "disabled"])))
        })?;
        let change = EndpointChange {
            version: call.version()?,
            ..change
        };
        let mut endpoint = store::patch(conn, id, change, state.services.sender.allows_private()).await?;
        match wanted.as_deref() {
            Some("active") => endpoint = store::enable(conn, id).await?,
            Some(_) => endpoint = store::disable(conn, id, &format!("by {}", call.principal.name)).await?,
            None => {}
        }
        let version = endpoint.version;
        Ok(Answer::ok(&EndpointView::from(endpoint)).etag(version))
    })
    .await
}

/// Deletes an endpoint: nothing is sent to it any more.
#[utoipa::path(
    delete, path = "/webhook-endpoints/{id}", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 204, description = "Deleted")),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn delete(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        call.check_version(existing(conn, id).await?.version)?;
        store::delete(conn, id).await?;
        Ok(Answer::nothing())
    })
    .await
}

/// Makes a new secret. The ones before sign too, until two more follow; the new one is shown this once, so an
/// `Idempotency-Key` is refused here.
#[utoipa::path(
    post, path = "/webhook-endpoints/{id}/rotate-secret", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 201, description = "Made", body = NewSecret)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn rotate_secret(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::REFUSED, async |conn| {
        call.check_version(existing(conn, id).await?.version)?;
        let secret = store::rotate(conn, id, None).await?;
        Ok(Answer::created(
            &format!("/api/v1/webhook-endpoints/{id}"),
            &NewSecret { secret },
        ))
    })
    .await
}

/// Lists an endpoint's deliveries, newest first.
#[utoipa::path(
    get, path = "/webhook-endpoints/{id}/deliveries", tag = "webhooks",
    params(
        ("id" = Uuid, Path, description = "The endpoint"),
        ("state" = Option<String>, Query, description = "pending, in_flight, delivered, dead or discarded"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of deliveries", body = Page<DeliveryView>)),
    security(("api_key" = ["webhooks:read"])),
)]
pub(crate) async fn deliveries(
    extract::State(state): extract::State<State>,
    Id(id): Id<EndpointId>,
    mut params: Params,
) -> Result<Answer, Problem> {
    let in_state = match params.word("state", &DELIVERY_STATES).as_deref() {
        Some("pending") => Some(DeliveryState::Pending),
        Some("in_flight") => Some(DeliveryState::InFlight),
        Some("delivered") => Some(DeliveryState::Delivered),
        Some("dead") => Some(DeliveryState::Dead),
        Some(_) => Some(DeliveryState::Discarded),
        None => None,
    };
    let window = params.window::<i64>()?;
    let mut conn = state.pool.acquire().await?;
    existing(&mut conn, id).await?;
    let deliveries = store::deliveries(&mut conn, id, in_state, window.after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        deliveries,
        |delivery| delivery.seq,
        DeliveryView::from,
    )))
}

/// Sends again what an endpoint missed while it was disabled, oldest first, at most 1000 at a time.
#[utoipa::path(
    post, path = "/webhook-endpoints/{id}/replay", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = Replay,
    responses((status = 202, description = "Pending again", body = Replayed)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn replay(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let since = fields::read(&call.body, |f| f.required("since", instant))?;
        let pending = store::replay(conn, id, since, REPLAY_MAX).await?;
        let deliveries = pending.0.len();
        jobs::announce(conn, pending).await?;
        let path = format!("/api/v1/webhook-endpoints/{id}/deliveries");
        Ok(Answer::accepted(&path, &Replayed { deliveries }))
    })
    .await
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let detail = error.to_string();
        match error {
            Error::NotFound => Problem::not_found("endpoint"),
            Error::Version(current) => Problem::version_mismatch(current),
            Error::Invalid(invalid) => {
                let pointer = match invalid {
                    Invalid::Url(_) => "/url",
                    Invalid::EventType(_) | Invalid::EventTypes => "/event_types",
                    Invalid::Secret => "/secret",
                    Invalid::Description => "/description",
                };
                Problem::invalid_field(pointer, "invalid", detail)
            }
            Error::Database(error) => error.into(),
        }
    }
}
