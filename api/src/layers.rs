//! What every request passes on its way in and out, from the outside to the inside:
//! a span with its id, a count, safe headers; then, for the API, a place among the requests served at once and a time
//! limit; then a net for panics.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{self, DefaultBodyLimit, MatchedPath, Request};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use queue::trace::{self, TraceContext};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, Level};
use uuid::Uuid;

use crate::problem::Problem;
use crate::{BODY_BYTES_MAX, State, call, prefer};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID_LENGTH_MAX: usize = 100;
/// How long a caller should stay away when all places are taken.
const SHED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the API's endpoints are behind, besides [`crate::auth::guard`].
pub(crate) fn bounded(router: Router<State>, state: &State) -> Router<State> {
    router
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), limit))
}

/// What everything is behind.
pub(crate) fn observed(router: Router) -> Router {
    router.layer(CatchPanicLayer::custom(panicked)).layer(from_fn(observe))
}

/// Refuses what is too large unread, sheds load, and bounds the time of a request.
async fn limit(extract::State(state): extract::State<State>, request: Request, next: Next) -> Response {
    if announced_length(request.headers()).is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return call::too_large().into_response();
    }
    let Ok(_place) = state.places.try_acquire() else {
        return Problem::unavailable("overloaded", "all places are taken; repeat the request")
            .retry_after(SHED_RETRY_AFTER)
            .into_response();
    };
    let time = state.config.request_timeout + prefer::wait(request.headers()).unwrap_or_default();
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable(
            "timed_out",
            "this took too long and was given up; repeat the request with the same idempotency key",
        )
        .into_response(),
    }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let endpoint = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = request.method().clone();
    let trace = TraceContext::following(traceparent(request.headers()));
    let span = tracing::info_span!(
        "request",
        trace.id = %trace.trace_id(),
        span.id = trace.span_id(),
        span.parent_id = trace.parent_id(),
        request.id = %id,
        http.method = %method,
        http.route = %endpoint,
    );
    let id = HeaderValue::from_str(&id).ok();
    if let Some(id) = id.clone() {
        request.headers_mut().insert(REQUEST_ID, id);
    }

    let mut response = trace::scope(trace, next.run(request).instrument(span.clone())).await;

    let status = response.status().as_u16();
    let taken = started.elapsed();
    let labels = [
        ("method", known(method.as_str())),
        ("route", endpoint),
        ("status", status.to_string()),
    ];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_seconds", &labels[..2]).record(taken.as_secs_f64());
    span.in_scope(|| {
        let failure = (status >= 500).then_some(status);
        tracing::event!(target: trace::FACTS, Level::TRACE, http.response.status_code = status, error.kind = failure);
        tracing::debug!(
            http.status = status,
            duration_ms = taken.as_millis() as u64,
            "request answered"
        )
    });

    let headers = response.headers_mut();
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Label values come from small fixed sets, whatever a caller invents.
fn known(method: &str) -> String {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method.to_owned(),
        _ => "other".to_owned(),
    }
}

/// The trace a caller is in; two are none.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    match (given.next(), given.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    }
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_fit = |id: &&str| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    given
        .filter(is_fit)
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = message.unwrap_or("of an unknown kind"), "a handler panicked");
    Problem::internal().into_response()
}
