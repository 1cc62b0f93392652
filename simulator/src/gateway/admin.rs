//! What no gateway offers its customers: trouble to order, a clock to move, and how the post is doing. JSON in and out,
//! errors in Stripe's shape, no key.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::{Value, json};

use super::book::AHEAD_MAX;
use super::error::Error;
use super::faults;
use super::http::Gateway;

/// Where all of it is.
pub(super) const PREFIX: &str = "/_simulator/";

const BODY_BYTES_MAX: usize = 16 * 1024;
const RETRY_MAX_MS: u64 = 60 * 60 * 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_s: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Post {
    retry_ms: u64,
}

pub(super) async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (status, body) = match answer(&gateway, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (error.status, error.body()),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn answer(gateway: &Gateway, request: Request) -> Result<Value, Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let what = path.strip_prefix(PREFIX).unwrap_or("");
    match (&parts.method, what) {
        (&Method::GET, "faults") => Ok(listed(gateway)),
        (&Method::POST, "faults") => {
            let order: faults::Order = json_of(body).await?;
            let mut rules = gateway.rules();
            let rule = rules.add(order).map_err(|message| Error::invalid(None, message))?;
            Ok(json!(rule))
        }
        (&Method::DELETE, "faults") => {
            gateway.rules().clear();
            Ok(listed(gateway))
        }
        (&Method::GET, "clock") => Ok(clock(gateway)),
        (&Method::POST, "clock") => {
            let Advance { advance_s } = json_of(body).await?;
            if !(0..=AHEAD_MAX.num_seconds()).contains(&advance_s) {
                let message = format!(
                    "advance_s must be from 0 to {}: time never goes back",
                    AHEAD_MAX.num_seconds()
                );
                return Err(Error::invalid(None, message).param("advance_s"));
            }
            gateway.book().advance(TimeDelta::seconds(advance_s));
            Ok(clock(gateway))
        }
        (&Method::GET, "post") => Ok(gateway.tally().render()),
        (&Method::POST, "post") => {
            let Post { retry_ms } = json_of(body).await?;
            if !(1..=RETRY_MAX_MS).contains(&retry_ms) {
                let message = format!("retry_ms must be from 1 to {RETRY_MAX_MS}");
                return Err(Error::invalid(None, message).param("retry_ms"));
            }
            gateway.set_retry(Duration::from_millis(retry_ms));
            Ok(gateway.tally().render())
        }
        (&Method::DELETE, one) => {
            let id = one.strip_prefix("faults/").and_then(|id| id.parse().ok());
            match id.is_some_and(|id| gateway.rules().remove(id)) {
                true => Ok(listed(gateway)),
                false => Err(Error::no_such("fault", one, "id")),
            }
        }
        (method, _) => Err(Error::unknown_url(method.as_str(), path)),
    }
}

fn listed(gateway: &Gateway) -> Value {
    json!({ "data": gateway.rules().all() })
}

fn clock(gateway: &Gateway) -> Value {
    let now = gateway.book().now();
    json!({ "now": now.to_rfc3339(), "unix": now.timestamp() })
}

async fn json_of<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Error> {
    let bytes = to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| Error::too_long(BODY_BYTES_MAX))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(None, format!("Invalid JSON: {error}")))
}
