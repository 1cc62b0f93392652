//! Partners: made, changed, paused, their inbound secrets rotated, their keys made, what they sent us seen. What they send
//! arrives at [`receive`], which needs no key: its signature says who it is.

use axum::body::{Body, to_bytes};
use axum::extract;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use domain::access::{self, Scope};
use domain::ids::PartnerId;
use domain::partners::inbound::{Arrival, BODY_BYTES_MAX, Received, Webhook};
use domain::partners::store::{Error, NewPartner, PartnerChange};
use domain::partners::{ENDPOINTS_MAX, Invalid, Partner, PartnerState, inbound, store};
use domain::webhooks::sign::Claims;
use domain::webhooks::{CONCURRENCY_MAX, OVERLAP_HOURS_MAX};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{self, Call, Keyed};
use crate::fields::{self, number, one_of, small_integer, text, texts};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;
use crate::webhooks::RATES;

const ENDPOINTS_MAX_DEFAULT: i32 = 10;

view! {
    /// A partner, without its secrets.
    PartnerView of Partner {
        /// Its id.
        id: PartnerId as Uuid,
        /// Whom its keys stand for; also a part of its inbound address.
        name: String as String,
        /// For people.
        description: String as String,
        /// active or paused.
        state: PartnerState as String,
        /// Why it is paused.
        paused_reason: Option<String> as Option<String>,
        /// The most that its endpoints may ask for.
        event_types: Vec<String> as Vec<String>,
        /// How many endpoints it may have.
        endpoints_max: i32 as i32,
        /// Deliveries at once that each of its endpoints starts with.
        concurrency: Option<i32> as Option<i32>,
        /// Deliveries a second that each of its endpoints starts with.
        rate: Option<f64> as Option<f64>,
        /// Until when replaced inbound secrets are accepted.
        old_secrets_until: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// Requests in its name that had no good signature.
        rejected: i64 as i64,
        /// Raised by every change.
        version: i32 as i32,
        /// When it was made.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When somebody last changed it.
        updated_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// What a partner sent, and what became of it.
    InboundView of Webhook {
        /// Its id at the partner's.
        event_id: String as String,
        /// Its type.
        kind: String as String,
        /// received, processed, refused, ignored or dead.
        state: String as String,
        /// Why it was refused or ignored.
        reason: Option<String> as Option<String>,
        /// How often it came again.
        duplicates: i32 as i32,
        /// When the partner signed it.
        sent_at: DateTime<Utc> as DateTime<Utc>,
        /// When it came.
        received_at: DateTime<Utc> as DateTime<Utc>,
        /// When it was settled.
        processed_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

/// A partner to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewPartnerBody {
    /// 1 to 63 lower-case letters, digits and hyphens.
    name: String,
    /// For people; at most 500 characters.
    description: Option<String>,
    /// The most that its endpoints may ask for; everything, without.
    event_types: Option<Vec<String>>,
    /// How many endpoints it may have, 0 to 100; 10 without.
    endpoints_max: Option<i32>,
    /// Deliveries at once that each of its endpoints starts with.
    concurrency: Option<i32>,
    /// Deliveries a second that each of its endpoints starts with.
    rate: Option<f64>,
}

/// What changes of a partner: what is named.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct PartnerPatch {
    /// For people.
    description: Option<String>,
    /// The most that its endpoints may ask for; those it has must fit.
    event_types: Option<Vec<String>>,
    /// How many endpoints it may have; those it has stay.
    endpoints_max: Option<i32>,
    /// Of endpoints to come; null for the limit of all.
    concurrency: Option<i32>,
    /// Of endpoints to come; null for any number.
    rate: Option<f64>,
    /// active or paused. A paused partner's endpoints are disabled, its keys and its webhooks refused.
    state: Option<String>,
    /// Why it is paused.
    reason: Option<String>,
}

/// A partner just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartnerWithSecret {
    #[serde(flatten)]
    partner: PartnerView,
    /// Where it sends its webhooks.
    inbound_path: String,
    /// What it signs them with, shown this once.
    inbound_secret: String,
}

/// How to rotate.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `rotate_secret` reads it")]
pub(crate) struct InboundRotation {
    /// How long the secrets before it are accepted too, 0 to 168 hours; 24 without.
    overlap_hours: Option<i32>,
}

/// An inbound secret just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewInboundSecret {
    /// What the partner signs with from now on, shown this once.
    inbound_secret: String,
}

/// A partner's key to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create_key` reads it")]
pub(crate) struct NewPartnerKey {
    /// Of `orders:write`, `webhooks:read` and `webhooks:write`; all of them, without.
    scopes: Option<Vec<String>>,
}

/// A partner's key just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartnerKey {
    /// Its id, for `DELETE /api-keys/{id}`.
    id: Uuid,
    /// Its public part.
    key_id: String,
    /// What it may do, with the partner's own things only.
    scopes: Vec<String>,
    /// The whole key, shown this once.
    key: String,
}

/// Makes a partner. The secret of its inbound webhooks is in this answer and nowhere else, so an `Idempotency-Key` is refused.
#[utoipa::path(
    post, path = "/partners", tag = "partners",
    request_body = NewPartnerBody,
    responses((status = 201, description = "Made", body = PartnerWithSecret)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::REFUSED, async |conn| {
        let new = fields::read(&call.body, |f| NewPartner {
            name: f.required("name", text(1..=63)),
            description: f.optional("description", text(0..=500)).unwrap_or_default(),
            event_types: f
                .optional("event_types", texts(1..=50, 1..=81))
                .unwrap_or_else(|| vec!["*".to_owned()]),
            endpoints_max: f
                .optional("endpoints_max", small_integer(0..=ENDPOINTS_MAX))
                .unwrap_or(ENDPOINTS_MAX_DEFAULT),
            concurrency: f.optional("concurrency", small_integer(1..=CONCURRENCY_MAX)),
            rate: f.optional("rate", number(RATES)),
        })?;
        let (partner, inbound_secret) = store::create(conn, &state.services.keyring, new).await?;
        let (path, version) = (format!("/api/v1/partners/{}", partner.id), partner.version);
        Ok(Answer::created(
            &path,
            &PartnerWithSecret {
                inbound_path: format!("/webhooks/in/{}", partner.name),
                partner: partner.into(),
                inbound_secret,
            },
        )
        .etag(version))
    })
    .await
}

/// Lists partners, newest first.
#[utoipa::path(
    get, path = "/partners", tag = "partners",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of partners", body = Page<PartnerView>)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, PartnerId(id)));
    let partners = store::list(&mut *state.pool.acquire().await?, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        partners,
        |partner| (partner.created_at, partner.id.0),
        PartnerView::from,
    )))
}

/// One partner.
#[utoipa::path(
    get, path = "/partners/{id}", tag = "partners",
    params(("id" = Uuid, Path, description = "The partner")),
    responses((status = 200, description = "The partner", body = PartnerView)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<PartnerId>,
) -> Result<Answer, Problem> {
    let partner = store::get(&mut *state.pool.acquire().await?, id)
        .await?
        .ok_or_else(|| Problem::not_found("partner"))?;
    let version = partner.version;
    Ok(Answer::ok(&PartnerView::from(partner)).etag(version))
}

/// Changes what the body names; `state` pauses and resumes. Resuming enables the endpoints that pausing disabled; what they
/// missed is sent by a replay.
#[utoipa::path(
    patch, path = "/partners/{id}", tag = "partners",
    params(("id" = Uuid, Path, description = "The partner")),
    request_body(content = PartnerPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = PartnerView)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: PartnerId = call.path("id", "partner")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (change, wanted, reason) = fields::read(&call.body, |f| {
            let change = PartnerChange {
                description: f.change("description", text(0..=500)),
                event_types: f.change("event_types", texts(1..=50, 1..=81)),
                endpoints_max: f.change("endpoints_max", small_integer(0..=ENDPOINTS_MAX)),
                concurrency: f.patch("concurrency", small_integer(1..=CONCURRENCY_MAX)),
                rate: f.patch("rate", number(RATES)),
                version: None,
            };
            let wanted = f.change("state", one_of(&["active", "paused"]));
            (change, wanted, f.optional("reason", text(0..=500)))
        })?;
        let version = call.version()?;
        store::patch(conn, id, PartnerChange { version, ..change }).await?;
        match wanted.as_deref() {
            Some("paused") => {
                let reason = reason.unwrap_or_else(|| format!("by {}", call.principal.name));
                let announced = store::pause(conn, id, &reason).await?;
                jobs::announce(conn, announced).await?;
            }
            Some(_) => {
                store::resume(conn, id).await?;
            }
            None => {}
        }
        let partner = store::get(conn, id).await?.ok_or(Error::NotFound)?;
        let version = partner.version;
        Ok(Answer::ok(&PartnerView::from(partner)).etag(version))
    })
    .await
}

/// Makes a new inbound secret. Those before it are accepted for a day more, or as long as asked.
#[utoipa::path(
    post, path = "/partners/{id}/rotate-secret", tag = "partners",
    params(("id" = Uuid, Path, description = "The partner")),
    request_body(content = Option<InboundRotation>),
    responses((status = 201, description = "Made", body = NewInboundSecret)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn rotate_secret(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: PartnerId = call.path("id", "partner")?;
    call.once(&state, Keyed::REFUSED, async |conn| {
        let overlap = match &call.body {
            Value::Null => None,
            body => fields::read(body, |f| {
                f.optional("overlap_hours", small_integer(0..=OVERLAP_HOURS_MAX))
            })?,
        };
        let inbound_secret = store::rotate(conn, &state.services.keyring, id, overlap).await?;
        Ok(Answer::created(
            &format!("/api/v1/partners/{id}"),
            &NewInboundSecret { inbound_secret },
        ))
    })
    .await
}

/// Makes a key for a partner: it sees and changes the partner's own endpoints and deliveries, and submits orders in its name.
#[utoipa::path(
    post, path = "/partners/{id}/api-keys", tag = "partners",
    params(("id" = Uuid, Path, description = "The partner")),
    request_body(content = Option<NewPartnerKey>),
    responses((status = 201, description = "Made", body = PartnerKey)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn create_key(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: PartnerId = call.path("id", "partner")?;
    call.once(&state, Keyed::REFUSED, async |conn| {
        let scopes = match &call.body {
            Value::Null => Scope::PARTNER.to_vec(),
            body => fields::read(body, partner_scopes)?,
        };
        let partner = store::get(conn, id)
            .await?
            .ok_or_else(|| Problem::not_found("partner"))?;
        let (key_id, key) = access::store::create(conn, &partner.name, &scopes, None).await?;
        access::store::give_to_partner(conn, key_id, id).await?;
        let made = PartnerKey {
            id: key_id.0,
            key_id: key.key_id,
            scopes: scopes.iter().map(|scope| scope.to_string()).collect(),
            key: key.token.expose_secret().to_owned(),
        };
        Ok(Answer::created(&format!("/api/v1/api-keys/{key_id}"), &made))
    })
    .await
}

fn partner_scopes(f: &mut fields::Fields<'_>) -> Vec<Scope> {
    let Some(words) = f.optional("scopes", texts(1..=Scope::PARTNER.len(), 1..=50)) else {
        return Scope::PARTNER.to_vec();
    };
    let mut scopes = Vec::new();
    for (i, word) in words.iter().enumerate() {
        match Scope::PARTNER.iter().find(|scope| scope.as_str() == word) {
            Some(scope) if !scopes.contains(scope) => scopes.push(*scope),
            Some(_) => {}
            None => f.complain(
                &format!("scopes/{i}"),
                "unknown_scope",
                "a partner's key has orders:write, webhooks:read and webhooks:write at most".to_owned(),
            ),
        }
    }
    scopes
}

/// Lists what a partner sent, newest first, for thirty days.
#[utoipa::path(
    get, path = "/partners/{id}/inbound", tag = "partners",
    params(
        ("id" = Uuid, Path, description = "The partner"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of what it sent", body = Page<InboundView>)),
    security(("api_key" = ["admin"])),
)]
pub(crate) async fn inbound(
    extract::State(state): extract::State<State>,
    Id(id): Id<PartnerId>,
    params: Params,
) -> Result<Answer, Problem> {
    let window = params.window::<(DateTime<Utc>, String)>()?;
    let mut conn = state.pool.acquire().await?;
    if store::get(&mut conn, id).await?.is_none() {
        return Err(Problem::not_found("partner"));
    }
    let before = window.after.clone();
    let webhooks = inbound::list(&mut conn, id, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        webhooks,
        |webhook| (webhook.received_at, webhook.event_id.clone()),
        InboundView::from,
    )))
}

/// Takes a partner's webhook: verified byte by byte, kept, and answered; a job does the rest. 202 for what is new, 200 for what
/// is known, 401 for what is not the partner's.
pub(crate) async fn receive(
    extract::State(state): extract::State<State>,
    extract::Path(partner): extract::Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, Problem> {
    let raw = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| call::too_large())?;
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let arrival = Arrival {
        partner: &partner,
        claims: Claims {
            id: text("webhook-id"),
            timestamp: text("webhook-timestamp"),
            signatures: text("webhook-signature"),
        },
        raw: &raw,
    };
    let mut tx = state.pool.begin().await?;
    let received = inbound::receive(&mut tx, &state.services.keyring, arrival).await?;
    if let Received::Kept(partner_id) = received {
        let event_id = arrival.claims.id.to_owned();
        jobs::take_inbound(&mut tx, partner_id, event_id).await?;
    }
    tx.commit().await?;
    let outcome = match received {
        Received::Kept(_) => "kept",
        Received::Duplicate => "duplicate",
        Received::Malformed(_) => "malformed",
        Received::Rejected => "rejected",
    };
    metrics::counter!("inbound_webhooks_total", "outcome" => outcome).increment(1);
    match received {
        Received::Kept(_) => Ok(Answer::json(StatusCode::ACCEPTED, &json!({ "status": "accepted" }))),
        Received::Duplicate => Ok(Answer::ok(&json!({ "status": "duplicate" }))),
        Received::Malformed(what) => Err(Problem::bad_request("webhook_malformed", what)),
        Received::Rejected => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "webhook_rejected",
            "no live secret signed these bytes within the last five minutes",
        )),
    }
}

impl From<inbound::Error> for Problem {
    fn from(error: inbound::Error) -> Problem {
        match error {
            inbound::Error::Sealed(error) => anyhow::Error::from(error).into(),
            inbound::Error::Database(error) => error.into(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let detail = error.to_string();
        match error {
            Error::NotFound => Problem::not_found("partner"),
            Error::Version(current) => Problem::version_mismatch(current),
            Error::Taken => Problem::conflict_field("/name", "taken", detail),
            Error::Invalid(Invalid::Webhook(invalid)) => invalid.into(),
            Error::Invalid(invalid) => {
                let pointer = match invalid {
                    Invalid::EndpointsMax => "/endpoints_max",
                    Invalid::EndpointAsksForMore(_) => "/event_types",
                    _ => "/name",
                };
                Problem::invalid_field(pointer, "invalid", detail)
            }
            Error::Database(error) => error.into(),
        }
    }
}
