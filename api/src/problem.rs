//! One place turns errors into HTTP answers: RFC 9457 problem+json, for every error there is.
//!
//! Callers learn what to do (a stable `code`, a pointer for every bad field, `Retry-After` where repeating helps);
//! logs learn why. Nothing of SQL or of a panic ever reaches a caller.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::answer::Answer;

/// How long a caller should wait before it repeats a request that the fleet could not take.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// An error as its caller sees it.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    errors: Vec<Fault>,
    extra: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What is wrong with one field, parameter or header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// Where the field is: `body`, `query` or `header`.
    #[serde(rename = "in")]
    pub(crate) place: &'static str,
    /// JSON pointer to the field inside the body; `/name` for a parameter or header.
    pub(crate) pointer: String,
    /// A stable word for programs.
    pub(crate) code: Cow<'static, str>,
    /// A sentence for people.
    pub(crate) detail: String,
}

/// The problem document as it is described in the OpenAPI document.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// Names the sort of problem.
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// A stable word for programs.
    code: String,
    /// A sentence for people.
    detail: String,
    /// Every bad field, when fields are what is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
}

impl Problem {
    /// A problem with that status and code.
    pub(crate) fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Problem {
        Problem(Box::new(Inner {
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            extra: Map::new(),
            headers: Vec::new(),
        }))
    }

    /// 400: the request itself is malformed.
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 404: there is no such thing, or none the caller may know of.
    pub(crate) fn not_found(what: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 409: the thing is in a state that does not allow it.
    pub(crate) fn conflict(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, code, detail)
    }

    /// 409 because of one field of the body: the value is somebody else's.
    pub(crate) fn conflict_field(pointer: &str, code: &'static str, detail: impl Into<String>) -> Problem {
        let fault = Fault {
            place: "body",
            pointer: pointer.to_owned(),
            code: code.into(),
            detail: detail.into(),
        };
        Problem::faulty(StatusCode::CONFLICT, code, vec![fault])
    }

    /// 412: somebody changed it in between.
    pub(crate) fn version_mismatch(current: i32) -> Problem {
        let detail = format!("it is at version {current} by now; read it again and decide anew");
        Problem::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", detail).with("current_version", current)
    }

    /// 422: the fields are understood and refused.
    pub(crate) fn invalid(errors: Vec<Fault>) -> Problem {
        Problem::faulty(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", errors)
    }

    /// 422 for one field of the body.
    pub(crate) fn invalid_field(
        pointer: impl Into<String>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Problem {
        Problem::invalid(vec![Fault {
            place: "body",
            pointer: pointer.into(),
            code: code.into(),
            detail: detail.into(),
        }])
    }

    /// A problem that is its list of faults.
    pub(crate) fn faulty(status: StatusCode, code: &'static str, errors: Vec<Fault>) -> Problem {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} fields are wrong", many.len()),
        };
        let mut problem = Problem::new(status, code, detail);
        problem.0.errors = errors;
        problem
    }

    /// 503: try again; nothing is known to be done.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(RETRY_AFTER_DEFAULT)
    }

    /// 500: our fault, told in the log.
    pub(crate) fn internal() -> Problem {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong here; the log knows what, under this request's id",
        )
    }

    /// Says when to come back.
    pub(crate) fn retry_after(self, wait: Duration) -> Problem {
        self.header(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)))
    }

    /// Adds a header to the answer.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.0.headers.push((name, value));
        self
    }

    /// Adds a member of its own to the document.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.0.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Whether the same request would always fail so: such an answer is remembered under its idempotency key. One that
    /// says when to come back is not.
    pub(crate) fn is_deterministic(&self) -> bool {
        let status = self.0.status;
        let comes_back = self.0.headers.iter().any(|(name, _)| name == RETRY_AFTER);
        status.is_client_error()
            && !comes_back
            && !matches!(
                status,
                StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
            )
    }

    /// The answer, byte for byte.
    pub(crate) fn into_answer(self) -> Answer {
        let Inner {
            status,
            code,
            detail,
            errors,
            extra,
            headers,
        } = *self.0;
        let document = ProblemDocument {
            r#type: format!("urn:orderfleet:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code: code.into_owned(),
            detail,
            errors,
        };
        let mut document = serde_json::to_value(document).unwrap_or_default();
        if let Value::Object(members) = &mut document {
            members.extend(extra);
        }
        let mut answer = Answer::json(status, &document);
        answer
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        answer.headers.extend(headers);
        answer
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into_answer().into_response()
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Problem {
        if is_database_trouble(&error) {
            tracing::warn!(error = %error, "the database could not serve a request");
            return Problem::unavailable(
                "database_unavailable",
                "the database cannot serve this now; repeat the request with the same idempotency key",
            );
        }
        tracing::error!(error = %error, "a statement failed in a way no handler expects");
        Problem::internal()
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Problem {
        let chain = format!("{error:#}");
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            Err(_) => {
                tracing::error!(error = %chain, "a request failed in a way no handler expects");
                Problem::internal()
            }
        }
    }
}

impl From<queue::Error> for Problem {
    fn from(error: queue::Error) -> Problem {
        match error {
            queue::Error::Database(error) => error.into(),
            other => anyhow::Error::from(other).into(),
        }
    }
}

/// Whether the database, not the statement, is what failed: connection lost (08), resources and disk (53), an operator
/// (57), deadlock and serialisation (40), lock time-out (55P03), or no connection to be had.
pub(crate) fn is_database_trouble(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class))
                || matches!(code.as_ref(), "55P03" | "25P03" | "58030")
        }),
        _ => false,
    }
}
