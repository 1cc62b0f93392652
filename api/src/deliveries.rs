//! Deliveries of webhooks: seen, resent, replayed and given up. A partner's key sees its own.

use axum::{Extension, extract};
use chrono::{DateTime, Utc};
use domain::access::Principal;
use domain::ids::{DeliveryId, EndpointId, EventId};
use domain::webhooks::store::{NotResent, Range};
use domain::webhooks::{Delivery, DeliveryAttempt, DeliveryState, store};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, instant, texts};
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;
use crate::webhooks::existing;

/// How many deliveries one replay makes pending.
const REPLAY_MAX: i64 = 1000;
const REPLAYED: [(&str, DeliveryState); 3] = [
    ("discarded", DeliveryState::Discarded),
    ("dead", DeliveryState::Dead),
    ("delivered", DeliveryState::Delivered),
];
/// What is replayed when nothing is said.
const MISSED: [&str; 2] = ["discarded", "dead"];
const DELIVERY_STATES: [&str; 5] = ["pending", "in_flight", "delivered", "dead", "discarded"];

view! {
    /// One try of a delivery. Of the receiver's answer only the status is kept.
    AttemptView of DeliveryAttempt {
        /// Which try, from 1.
        n: i32 as i32,
        /// When it began.
        started_at: DateTime<Utc> as DateTime<Utc>,
        /// When it ended; none if its sender died.
        finished_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// The receiver's HTTP status.
        http_status: Option<i32> as Option<i32>,
        /// What went wrong, as one of a few words.
        error_class: Option<String> as Option<String>,
        /// What went wrong, in words.
        message: Option<String> as Option<String>,
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
        /// The number of the one before it in its line.
        prev_seq: Option<i64> as Option<i64>,
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

/// What to replay.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `replay` reads it")]
pub(crate) struct Replay {
    /// Deliveries written then or later,
    since: DateTime<Utc>,
    /// and before then.
    until: Option<DateTime<Utc>>,
    /// Of these: discarded, dead, delivered. Without, what was missed: discarded and dead.
    states: Option<Vec<String>>,
}

/// One delivery with its tries.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeliveryWithAttempts {
    #[serde(flatten)]
    delivery: DeliveryView,
    /// Its tries, first to last.
    tries: Vec<AttemptView>,
}

/// What is sent again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// How many deliveries are pending again; at most 1000 at a time.
    deliveries: usize,
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
    Extension(principal): Extension<Principal>,
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
    existing(&mut conn, id, &principal).await?;
    let deliveries = store::deliveries(&mut conn, id, in_state, window.after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        deliveries,
        |delivery| delivery.seq,
        DeliveryView::from,
    )))
}

/// Sends again what an endpoint was sent, or missed, in a time: oldest first, at most 1000 at a time. Repeat it with a later
/// `since` for more. What waits or is in flight goes out anyway, and contents older than thirty days are gone.
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
        existing(conn, id, &call.principal).await?;
        let range = fields::read(&call.body, |f| {
            let (since, until) = (f.required("since", instant), f.optional("until", instant));
            let words = f.optional("states", texts(1..=3, 1..=20));
            let words = words.unwrap_or_else(|| MISSED.map(str::to_owned).to_vec());
            let mut states = Vec::new();
            for (i, word) in words.iter().enumerate() {
                match REPLAYED.iter().find(|(name, _)| name == word) {
                    Some((_, state)) => states.push(*state),
                    None => f.complain(
                        &format!("states/{i}"),
                        "invalid",
                        "must be discarded, dead or delivered".to_owned(),
                    ),
                }
            }
            Range { since, until, states }
        })?;
        let pending = store::replay(conn, id, &range, REPLAY_MAX).await?;
        let deliveries = pending.len();
        jobs::send_again(conn, pending, &call.principal.name).await?;
        let path = format!("/api/v1/webhook-endpoints/{id}/deliveries");
        Ok(Answer::accepted(&path, &Replayed { deliveries }))
    })
    .await
}

/// One delivery, with every try.
#[utoipa::path(
    get, path = "/webhook-deliveries/{id}", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The delivery")),
    responses((status = 200, description = "The delivery", body = DeliveryWithAttempts)),
    security(("api_key" = ["webhooks:read"])),
)]
pub(crate) async fn delivery(
    extract::State(state): extract::State<State>,
    Extension(principal): Extension<Principal>,
    Id(id): Id<DeliveryId>,
) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    let delivery = known(&mut conn, id, &principal).await?;
    let tries = store::attempts(&mut conn, id).await?;
    Ok(Answer::ok(&DeliveryWithAttempts {
        delivery: delivery.into(),
        tries: tries.into_iter().map(AttemptView::from).collect(),
    }))
}

/// Sends one delivery again, whatever became of it: the same id and bytes, with a new signature.
#[utoipa::path(
    post, path = "/webhook-deliveries/{id}/resend", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The delivery")),
    responses((status = 202, description = "Pending again", body = DeliveryView)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn resend(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: DeliveryId = call.path("id", "delivery")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        known(conn, id, &call.principal).await?;
        let again = store::resend(conn, id).await?;
        jobs::send_again(conn, vec![again], &call.principal.name).await?;
        let delivery = known(conn, id, &call.principal).await?;
        let path = format!("/api/v1/webhook-deliveries/{id}");
        Ok(Answer::accepted(&path, &DeliveryView::from(delivery)))
    })
    .await
}

/// Gives a dead delivery up for good. Where the endpoint blocks, what waits behind it goes on.
#[utoipa::path(
    post, path = "/webhook-deliveries/{id}/discard", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The delivery")),
    responses((status = 200, description = "Discarded", body = DeliveryView)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn discard(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: DeliveryId = call.path("id", "delivery")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        known(conn, id, &call.principal).await?;
        let actor = &call.principal.name;
        if let Some(job) = store::give_up(conn, id, &format!("by {actor}")).await? {
            jobs::discard_dead(conn, job, actor, "its delivery is given up").await?;
        }
        Ok(Answer::ok(&DeliveryView::from(known(conn, id, &call.principal).await?)))
    })
    .await
}

/// A delivery that the caller may know of.
async fn known(conn: &mut PgConnection, id: DeliveryId, caller: &Principal) -> Result<Delivery, Problem> {
    let nothing = || Problem::not_found("delivery");
    let delivery = store::delivery(&mut *conn, id).await?.ok_or_else(nothing)?;
    if caller.partner.is_some() {
        existing(conn, delivery.endpoint_id, caller)
            .await
            .map_err(|_| nothing())?;
    }
    Ok(delivery)
}

impl From<NotResent> for Problem {
    fn from(error: NotResent) -> Problem {
        let detail = error.to_string();
        match error {
            NotResent::NotFound => Problem::not_found("delivery"),
            NotResent::OnItsWay(_) => Problem::conflict("delivery_on_its_way", detail),
            NotResent::NotDead(_) => Problem::conflict("delivery_not_dead", detail),
            NotResent::Disabled => Problem::conflict("endpoint_disabled", detail),
            NotResent::Unconfirmed => Problem::conflict("endpoint_unconfirmed", detail),
            NotResent::Purged => Problem::conflict("payload_purged", detail),
            NotResent::Database(error) => error.into(),
        }
    }
}
