//! An answer held as bytes, so that it can be stored under its idempotency key and given again exactly.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::ids::OrderId;
use serde::Serialize;

/// Status, headers and body of one answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// The order it is about, kept beside the idempotency key.
    pub(crate) order: Option<OrderId>,
}

impl Answer {
    /// That value as JSON.
    pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Our own view types: maps with string keys and numbers, which JSON always holds.
        let body = serde_json::to_string(value).expect("views are plain data");
        Answer {
            status,
            headers,
            body,
            order: None,
        }
    }

    /// 200 with that value.
    pub(crate) fn ok(value: &impl Serialize) -> Answer {
        Answer::json(StatusCode::OK, value)
    }

    /// 201 with that value, to be found at that path.
    pub(crate) fn created(path: &str, value: &impl Serialize) -> Answer {
        Answer::json(StatusCode::CREATED, value).location(path)
    }

    /// 202 with that value, whose further fate is seen at that path.
    pub(crate) fn accepted(path: &str, value: &impl Serialize) -> Answer {
        Answer::json(StatusCode::ACCEPTED, value).location(path)
    }

    /// 204.
    pub(crate) fn nothing() -> Answer {
        Answer {
            status: StatusCode::NO_CONTENT,
            headers: HeaderMap::new(),
            body: String::new(),
            order: None,
        }
    }

    /// Says where the thing is.
    pub(crate) fn location(self, path: &str) -> Answer {
        self.header(LOCATION, path)
    }

    /// Says which order it made.
    pub(crate) fn about(self, order: OrderId) -> Answer {
        Answer {
            order: Some(order),
            ..self
        }
    }

    /// Names this version of the thing, for `If-Match`.
    pub(crate) fn etag(self, version: i32) -> Answer {
        self.header(ETAG, &format!("\"{version}\""))
    }

    /// Whether it was given before, under the same key.
    pub(crate) fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Answer {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
