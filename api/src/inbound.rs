//! What others send us: their webhooks, verified as the bytes that came, written down once, and answered at once. A job
//! does what they are about.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use domain::inbound::{self, GATEWAY, Refusal};
use domain::payments;
use jobs::ProcessGatewayEvent;
use serde_json::Value;

use crate::problem::Problem;
use crate::{BODY_BYTES_MAX, State};

/// They show no key of ours: the signature is their credential.
pub(crate) fn endpoints() -> Router<State> {
    Router::new().route("/webhooks/in/gateway", post(gateway))
}

/// An event of the payment gateway, signed as Stripe signs. 200 also when it has come before.
async fn gateway(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let body = to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the event is too large"))?;
    let header = headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    let mut conn = state.pool.acquire().await?;
    let now = payments::store::clock(&mut conn).await?.timestamp();
    let secrets = &state.config.gateway_webhook_secrets;
    if let Err(refusal) = inbound::verify_stripe(header.unwrap_or_default(), &body, secrets, now) {
        metrics::counter!("inbound_refused_total", "source" => GATEWAY, "reason" => reason(refusal)).increment(1);
        return Err(refused(StatusCode::UNAUTHORIZED, "bad_signature", &refusal.to_string()));
    }
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (Some(id), Some(kind)) = (event["id"].as_str(), event["type"].as_str()) else {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "bad_event",
            "an event is JSON with an id and a type",
        ));
    };
    if !(1..=255).contains(&id.len()) || kind.len() > 255 || id.contains('\0') || kind.contains('\0') {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "bad_event",
            "an id and a type have at most 255 bytes",
        ));
    }
    drop(conn);
    let mut tx = state.pool.begin().await?;
    if inbound::take_in(&mut tx, GATEWAY, id, kind, &body).await? {
        let job = ProcessGatewayEvent {
            event_id: id.to_owned(),
        };
        queue::enqueue(&mut tx, &job).await?;
    }
    tx.commit().await?;
    Ok(StatusCode::OK)
}

fn refused(status: StatusCode, code: &'static str, detail: &str) -> Problem {
    Problem::new(status, code, detail.to_owned())
}

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed => "malformed",
        Refusal::Stale => "stale",
        Refusal::Unsigned => "unsigned",
    }
}
