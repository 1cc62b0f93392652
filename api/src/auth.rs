//! Who asks, and whether they may.
//!
//! The OpenAPI document says which scope each operation needs, and that same document is what is enforced: an operation
//! that is not in it, or names no scope, is never reached.

use std::collections::BTreeMap;

use axum::extract::{self, MatchedPath, Request};
use axum::http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::access::{self, Scope};
use serde_json::Value;

use crate::State;
use crate::problem::Problem;

/// The scope of every operation, by path template and method.
#[derive(Debug, Default)]
pub(crate) struct Scopes(BTreeMap<String, BTreeMap<String, Scope>>);

impl Scopes {
    /// What the document says; an operation without exactly one known scope is a mistake of ours, told at start.
    pub(crate) fn of(document: &Value) -> anyhow::Result<Scopes> {
        let mut scopes = Scopes::default();
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in operations.as_object().into_iter().flatten() {
                let scope = operation["security"][0]["api_key"][0].as_str().unwrap_or_default();
                let scope = scope.parse().map_err(|_| {
                    anyhow::anyhow!("{method} {path} must name one scope in its `security`, not {scope:?}")
                })?;
                scopes
                    .0
                    .entry(path.clone())
                    .or_default()
                    .insert(method.to_uppercase(), scope);
            }
        }
        Ok(scopes)
    }
}

/// Lets a request pass with its [`access::Principal`], or answers it.
pub(crate) async fn guard(extract::State(state): extract::State<State>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit(&state, &parts).await {
        Ok(principal) => {
            parts.extensions.insert(principal);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(state: &State, request: &Parts) -> Result<access::Principal, Problem> {
    let template = request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(methods) = state.scopes.0.get(template) else {
        return Err(Problem::not_found("resource"));
    };
    let method = match request.method {
        Method::HEAD => "GET",
        ref other => other.as_str(),
    };
    let Some(scope) = methods.get(method) else {
        return Err(not_allowed(methods.keys()));
    };
    let key = presented(&request.headers).ok_or_else(unauthenticated)?;
    let mut conn = state.pool.acquire().await?;
    let principal = access::store::verify(&mut conn, key)
        .await?
        .ok_or_else(unauthenticated)?;
    if principal.partner.is_some() && !is_for_partners(template, &request.method) {
        return Err(Problem::not_found("resource"));
    }
    if !principal.may(*scope) {
        let detail = format!("the key {} lacks the scope {scope}", principal.key_id);
        return Err(Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail).with("scope", scope.to_string()));
    }
    Ok(principal)
}

/// What a partner's key opens: its own endpoints and deliveries, and the door for orders. For it there is nothing else.
fn is_for_partners(template: &str, method: &Method) -> bool {
    let is_under = |path: &str| {
        template
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    is_under("/api/v1/webhook-endpoints")
        || is_under("/api/v1/webhook-deliveries")
        || (template == "/api/v1/orders" && *method == Method::POST)
}

/// The key, from either of its headers.
fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get("x-api-key") {
        return value.to_str().ok().map(str::trim);
    }
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// 401, the same for a missing, a wrong, an expired and a revoked key.
pub(crate) fn unauthenticated() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthenticated",
        "a valid key must be given as X-API-Key or Authorization: Bearer",
    )
    .header(
        WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"orderfleet\""),
    )
}

/// 405 with what is allowed.
fn not_allowed<'a>(methods: impl Iterator<Item = &'a String>) -> Problem {
    let allowed: Vec<_> = methods.map(String::as_str).collect();
    let allowed = allowed.join(", ");
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this path answers {allowed} only"),
    );
    match HeaderValue::from_str(&allowed) {
        Ok(value) => problem.header(ALLOW, value),
        Err(_) => problem,
    }
}
