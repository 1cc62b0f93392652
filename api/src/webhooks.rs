//! Webhook endpoints: registered, changed, tried, their secrets rotated. A partner's key sees its own.

use std::ops::RangeInclusive;

use axum::{Extension, extract};
use chrono::{DateTime, Utc};
use domain::access::Principal;
use domain::ids::{EndpointId, PartnerId};
use domain::webhooks::sign::{self, Signing};
use domain::webhooks::store::{EndpointChange, Error, NewEndpoint, Rotation};
use domain::webhooks::{
    CONCURRENCY_MAX, DeadHead, Endpoint, EndpointState, Invalid, OVERLAP_HOURS_MAX, Ordering, store,
};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, number, one_of, small_integer, text, texts, uuid};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

/// Deliveries a second.
pub(crate) const RATES: RangeInclusive<f64> = 0.0001..=100_000.0;
const DEAD_HEADS: [&str; 2] = ["skip", "block"];
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
        /// What becomes of a line whose head is dead: skip or block.
        dead_head: DeadHead as String,
        /// The partner whose it is; ours, without.
        partner_id: Option<PartnerId> as Option<Uuid>,
        /// The public keys (`whpk_…`) of what signs with ed25519, newest first.
        public_keys: Vec<String> as Vec<String>,
        /// Deliveries at once; the limit of all endpoints, without.
        concurrency: Option<i32> as Option<i32>,
        /// Deliveries a second; any number, without.
        rate: Option<f64> as Option<f64>,
        /// active, disabled, or unconfirmed: nobody has shown yet whose address it is.
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
    /// What becomes of what waits behind a dead delivery: skip (it goes on; without) or block (it waits until that one is sent
    /// again or discarded).
    dead_head: Option<String>,
    /// What signs: hmac (without) or ed25519.
    signing: Option<String>,
    /// The partner whose it is. A partner's own key need not say it.
    partner_id: Option<Uuid>,
    /// Deliveries at once, 1 to 1000.
    concurrency: Option<i32>,
    /// Deliveries a second, 0.0001 to 100000.
    rate: Option<f64>,
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
    /// skip or block, for deliveries that die from now on.
    dead_head: Option<String>,
    /// Deliveries at once; null for the limit of all endpoints.
    concurrency: Option<i32>,
    /// Deliveries a second; null for any number.
    rate: Option<f64>,
    /// active or disabled.
    state: Option<String>,
}

/// What shows whose address it is.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `confirm` reads it")]
pub(crate) struct Confirmation {
    /// The `code` of the `endpoint.challenge` event.
    code: String,
}

/// How to rotate.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `rotate_secret` reads it")]
pub(crate) struct RotationBody {
    /// What signs from now on: hmac (without) or ed25519.
    signing: Option<String>,
    /// How long the secrets before it sign too, 0 to 168 hours; 24 without.
    overlap_hours: Option<i32>,
}

/// What was fired.
#[derive(Serialize, ToSchema)]
pub(crate) struct Fired {
    /// The event, and the `webhook-id` it arrives with.
    event_id: Uuid,
}

/// An endpoint just registered.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndpointWithSecret {
    #[serde(flatten)]
    endpoint: EndpointView,
    /// What deliveries are verified with, shown this once; none for ed25519, whose public key is in `public_keys`.
    secret: Option<String>,
}

/// A secret just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewSecret {
    /// What deliveries are verified with from now on, beside the ones before; shown this once. None for ed25519.
    secret: Option<String>,
    /// The public key of an ed25519 one.
    public_key: Option<String>,
}

impl NewSecret {
    /// A private key is nobody's but ours.
    fn of(secret: String) -> NewSecret {
        match sign::public_key(&secret) {
            None => NewSecret {
                secret: Some(secret),
                public_key: None,
            },
            public_key => NewSecret {
                secret: None,
                public_key,
            },
        }
    }
}

/// Registers an endpoint. Its secret is in this answer and nowhere else; an `Idempotency-Key` is refused here, since
/// answers under one are kept.
///
/// One registered with a partner's key is `unconfirmed`: its address is sent an `endpoint.challenge` event, whose `code` goes to
/// `/confirm`, and nothing else before that.
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
            dead_head: f
                .optional("dead_head", one_of(&DEAD_HEADS))
                .map(dead_head)
                .unwrap_or_default(),
            signing: signing(f),
            partner_id: f.optional("partner_id", uuid).map(PartnerId).or(call.principal.partner),
            concurrency: f.optional("concurrency", small_integer(1..=CONCURRENCY_MAX)),
            rate: f.optional("rate", number(RATES)),
            secret: None,
        })?;
        if call.principal.partner.is_some_and(|own| new.partner_id != Some(own)) {
            return Err(Invalid::Partner.into());
        }
        let (endpoint, secret) = store::create(
            conn,
            &state.services.keyring,
            new,
            state.services.sender.allows_private(),
        )
        .await?;
        jobs::limit_endpoint(conn, &endpoint, &call.principal.name).await?;
        let endpoint = challenged(conn, endpoint, &call.principal).await?;
        let secret = NewSecret::of(secret).secret;
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
        ("partner_id" = Option<Uuid>, Query, description = "Only this partner's"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointView>)),
    security(("api_key" = ["webhooks:read"])),
)]
pub(crate) async fn list(
    extract::State(state): extract::State<State>,
    Extension(principal): Extension<Principal>,
    mut params: Params,
) -> Result<Answer, Problem> {
    let partner = params.filter::<PartnerId>("partner_id", "a UUID");
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, EndpointId(id)));
    let partner = principal.partner.or(partner);
    let endpoints = store::list(&mut *state.pool.acquire().await?, partner, before, window.fetch()).await?;
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
    Extension(principal): Extension<Principal>,
    Id(id): Id<EndpointId>,
) -> Result<Answer, Problem> {
    let endpoint = existing(&mut *state.pool.acquire().await?, id, &principal).await?;
    let version = endpoint.version;
    Ok(Answer::ok(&EndpointView::from(endpoint)).etag(version))
}

/// An endpoint that the caller may know of; another partner's is none.
pub(crate) async fn existing(conn: &mut PgConnection, id: EndpointId, caller: &Principal) -> Result<Endpoint, Problem> {
    store::get(conn, id)
        .await?
        .filter(|endpoint| caller.partner.is_none() || endpoint.partner_id == caller.partner)
        .ok_or_else(|| Problem::not_found("endpoint"))
}

/// Sends an address that a partner's key named a challenge; one of ours needs none.
async fn challenged(conn: &mut PgConnection, endpoint: Endpoint, caller: &Principal) -> Result<Endpoint, Problem> {
    if caller.partner.is_none() {
        return Ok(endpoint);
    }
    let (endpoint, announced) = store::challenge(conn, endpoint.id).await?;
    jobs::announce(conn, announced).await?;
    Ok(endpoint)
}

/// What a body says of how to sign.
fn signing(f: &mut fields::Fields<'_>) -> Signing {
    match f.optional("signing", one_of(&["hmac", "ed25519"])).as_deref() {
        Some("ed25519") => Signing::Ed25519,
        _ => Signing::Hmac,
    }
}

fn dead_head(word: String) -> DeadHead {
    match word.as_str() {
        "block" => DeadHead::Block,
        _ => DeadHead::Skip,
    }
}

/// Changes what the body names; `state` disables and enables. What is kept in order cannot change.
///
/// A new `url` from a partner's key is to be confirmed like a new endpoint's, and what is to be confirmed stays `unconfirmed` when
/// a partner's key enables it; one of ours vouches for an endpoint that it enables.
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
                dead_head: f.change("dead_head", one_of(&DEAD_HEADS)).map(dead_head),
                concurrency: f.patch("concurrency", small_integer(1..=CONCURRENCY_MAX)),
                rate: f.patch("rate", number(RATES)),
                version: None,
            };
            (change, f.change("state", one_of(&["active", "disabled"])))
        })?;
        let change = EndpointChange {
            version: call.version()?,
            ..change
        };
        existing(conn, id, &call.principal).await?;
        let is_limit = change.concurrency.is_some() || change.rate.is_some();
        let is_moved = change.url.is_some();
        let mut endpoint = store::patch(conn, id, change, state.services.sender.allows_private()).await?;
        if is_limit {
            jobs::limit_endpoint(conn, &endpoint, &call.principal.name).await?;
        }
        if is_moved {
            endpoint = challenged(conn, endpoint, &call.principal).await?;
        }
        match wanted.as_deref() {
            Some("active") => {
                if call.principal.partner.is_none() {
                    store::vouch(conn, id).await?;
                }
                endpoint = store::enable(conn, id).await?;
            }
            Some(_) => {
                let (disabled, announced) = store::disable(conn, id, &format!("by {}", call.principal.name)).await?;
                jobs::announce(conn, announced).await?;
                endpoint = disabled;
            }
            None => {}
        }
        let version = endpoint.version;
        Ok(Answer::ok(&EndpointView::from(endpoint)).etag(version))
    })
    .await
}

/// Confirms that an endpoint's address is its owner's, by the `code` of the last `endpoint.challenge` event that was sent there.
/// What it missed is sent by a replay. One that is confirmed already stays as it is.
#[utoipa::path(
    post, path = "/webhook-endpoints/{id}/confirm", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = Confirmation,
    responses((status = 200, description = "Confirmed", body = EndpointView)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn confirm(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let code = fields::read(&call.body, |f| f.required("code", text(1..=100)))?;
        existing(conn, id, &call.principal).await?;
        let endpoint = store::confirm(conn, id, &code).await?;
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
        call.check_version(existing(conn, id, &call.principal).await?.version)?;
        store::delete(conn, id).await?;
        jobs::unlimit_endpoint(conn, id, &call.principal.name).await?;
        Ok(Answer::nothing())
    })
    .await
}

/// Makes a new secret. The ones before sign too, for a day or as long as asked, at most two of them; the new one is shown this
/// once, so an `Idempotency-Key` is refused here.
#[utoipa::path(
    post, path = "/webhook-endpoints/{id}/rotate-secret", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    request_body(content = Option<RotationBody>),
    responses((status = 201, description = "Made", body = NewSecret)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn rotate_secret(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::REFUSED, async |conn| {
        call.check_version(existing(conn, id, &call.principal).await?.version)?;
        let rotation = match &call.body {
            Value::Null => Rotation::default(),
            body => fields::read(body, |f| Rotation {
                signing: signing(f),
                overlap_hours: f.optional("overlap_hours", small_integer(0..=OVERLAP_HOURS_MAX)),
                secret: None,
            })?,
        };
        let secret = store::rotate(conn, &state.services.keyring, id, rotation).await?;
        let path = format!("/api/v1/webhook-endpoints/{id}");
        Ok(Answer::created(&path, &NewSecret::of(secret)))
    })
    .await
}

/// Sends an `endpoint.test` event to this endpoint alone, whatever it asked for: signed, retried and logged like any other.
#[utoipa::path(
    post, path = "/webhook-endpoints/{id}/test", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 202, description = "On its way", body = Fired)),
    security(("api_key" = ["webhooks:write"])),
)]
pub(crate) async fn test(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: EndpointId = call.path("id", "endpoint")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        store::takes_events(existing(conn, id, &call.principal).await?.state)?;
        let (event, announced) = store::test_fire(conn, id).await?;
        jobs::announce(conn, announced).await?;
        let path = format!("/api/v1/webhook-endpoints/{id}/deliveries");
        Ok(Answer::accepted(&path, &Fired { event_id: event.0 }))
    })
    .await
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Problem {
        let detail = invalid.to_string();
        let pointer = match invalid {
            Invalid::Url(_) => "/url",
            Invalid::EventType(_) | Invalid::EventTypes | Invalid::BeyondPartner(_) => "/event_types",
            Invalid::Secret => "/secret",
            Invalid::Description => "/description",
            Invalid::Limits(_) => "/rate",
            Invalid::Overlap => "/overlap_hours",
            Invalid::DeadHead => "/dead_head",
            Invalid::Partner | Invalid::TooMany(_) => "/partner_id",
        };
        Problem::invalid_field(pointer, "invalid", detail)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        match error {
            Error::NotFound => Problem::not_found("endpoint"),
            Error::Version(current) => Problem::version_mismatch(current),
            Error::Invalid(invalid) => invalid.into(),
            Error::WrongCode => Problem::invalid_field("/code", "wrong_code", error.to_string()),
            Error::Sealed(error) => anyhow::Error::from(error).into(),
            Error::Database(error) => error.into(),
        }
    }
}
