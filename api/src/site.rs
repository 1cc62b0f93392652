//! The first page: static files, nothing from elsewhere, under a strict content security policy.
//! It reads the same API as everybody, with a key its reader typed in.

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::State;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page and what it is made of.
pub(crate) fn pages() -> Router<State> {
    Router::new()
        .route(
            "/",
            get(|| async { file("text/html; charset=utf-8", include_str!("site/index.html")) }),
        )
        .route(
            "/site/style.css",
            get(|| async { file("text/css; charset=utf-8", include_str!("site/style.css")) }),
        )
        .route(
            "/site/page.js",
            get(|| async { file("text/javascript; charset=utf-8", include_str!("site/page.js")) }),
        )
        .route(
            "/site/icon.svg",
            get(|| async { file("image/svg+xml", include_str!("site/icon.svg")) }),
        )
        .route(
            "/favicon.ico",
            get(|| async { file("image/svg+xml", include_str!("site/icon.svg")) }),
        )
}

fn file(media: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, HeaderValue::from_static(media)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}
