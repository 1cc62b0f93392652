//! An unsafe request, taken apart once and carried out at most once.
//!
//! [`Call`] is what every handler that writes receives: who asks, for what, with which body and key. [`Call::once`] is
//! request idempotency exactly as promised: the key's row is inserted in the business transaction, so the first writer
//! wins and a twin waits on the index and replays. A deterministic refusal undoes the business part only (a savepoint)
//! and is remembered; trouble undoes everything, the key included, so that the repeat finds the truth.

use std::time::Duration;

use axum::RequestPartsExt;
use axum::body::to_bytes;
use axum::extract::{FromRequest, MatchedPath, RawPathParams, Request};
use axum::http::header::{CONTENT_TYPE, HeaderName, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use chrono::{DateTime, Utc};
use domain::access::Principal;
use domain::{Cause, idempotency};
use serde_json::{Map, Value};
use sqlx::{Connection, PgConnection};

use crate::answer::Answer;
use crate::problem::{Fault, Problem};
use crate::{BODY_BYTES_MAX, State};

/// The standard's name, and the older one.
const KEY_HEADERS: [&str; 2] = ["idempotency-key", "x-idempotency-key"];
const KEY_LENGTH_MAX: usize = 255;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Member of the stored headers: until then the first caller is still waiting for its order to settle.
const SETTLING_UNTIL: &str = ":settling-until";

/// How long answers are kept under their keys.
pub(crate) const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// How long answers are kept where money is concerned.
pub(crate) const KEEP_CONFIRM: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// One unsafe request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) principal: Principal,
    pub(crate) headers: HeaderMap,
    /// The body, or null where there was none.
    pub(crate) body: Value,
    method: Method,
    template: String,
    path: Vec<(String, String)>,
}

/// What an endpoint asks of the idempotency key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed {
    pub(crate) wanted: Wanted,
    pub(crate) keep: Duration,
    /// The first caller goes on waiting that long after the commit; see [`Call::settle`].
    pub(crate) settles_within: Option<Duration>,
}

/// Whether there must be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing happens without one.
    Required,
    /// It is honoured where there is one.
    Optional,
    /// The answer holds a secret, which must not be kept.
    Refused,
}

impl Keyed {
    pub(crate) const OPTIONAL: Keyed = Keyed {
        wanted: Wanted::Optional,
        keep: KEEP,
        settles_within: None,
    };
    pub(crate) const REQUIRED: Keyed = Keyed {
        wanted: Wanted::Required,
        keep: KEEP_CONFIRM,
        settles_within: None,
    };
    pub(crate) const REFUSED: Keyed = Keyed {
        wanted: Wanted::Refused,
        keep: KEEP,
        settles_within: None,
    };

    /// The caller prefers to wait for the outcome.
    pub(crate) fn settling(self, wait: Option<Duration>) -> Keyed {
        Keyed {
            settles_within: wait,
            ..self
        }
    }
}

impl FromRequest<State> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &State) -> Result<Call, Problem> {
        let (mut parts, body) = request.into_parts();
        let template = parts
            .extract::<MatchedPath>()
            .await
            .map(|path| path.as_str().to_owned())
            .unwrap_or_default();
        let path = match parts.extract::<RawPathParams>().await {
            Ok(params) => params
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            Err(_) => return Err(Problem::not_found("resource")),
        };
        let principal = parts
            .extensions
            .get::<Principal>()
            .cloned()
            .ok_or_else(crate::auth::unauthenticated)?;
        let bytes = to_bytes(body, BODY_BYTES_MAX)
            .await
            .map_err(|error| unreadable(&error))?;
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => parse(&parts.headers, &bytes)?,
        };
        Ok(Call {
            principal,
            headers: parts.headers,
            body,
            method: parts.method,
            template,
            path,
        })
    }
}

fn unreadable(error: &axum::Error) -> Problem {
    let is_too_large =
        std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
    if is_too_large {
        too_large()
    } else {
        Problem::bad_request("body_unreadable", "the body broke off before its end")
    }
}

/// 413, wherever it is noticed.
pub(crate) fn too_large() -> Problem {
    let detail = format!("a body has at most {BODY_BYTES_MAX} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Problem> {
    let media = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media != "application/json" && media != "application/merge-patch+json" {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must be application/json (or application/merge-patch+json for PATCH)",
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // The parser's own words, without a piece of the body in them.
        let detail = format!("not JSON: line {}, column {}", error.line(), error.column());
        let fault = Fault {
            place: "body",
            pointer: String::new(),
            code: "broken_json".into(),
            detail,
        };
        Problem::faulty(StatusCode::BAD_REQUEST, "broken_json", vec![fault])
    })
}

impl Call {
    /// Whom the history names for it.
    pub(crate) fn cause(&self) -> Cause {
        Cause::actor(self.principal.name.clone())
    }

    /// A part of the path; 404 unless it has the form of such an id.
    pub(crate) fn path<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<T, Problem> {
        let value = self
            .path
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str());
        value
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| Problem::not_found(what))
    }

    /// The version that `If-Match` asks for, if it asks for one.
    pub(crate) fn version(&self) -> Result<Option<i32>, Problem> {
        let Some(tag) = self.headers.get(IF_MATCH) else {
            return Ok(None);
        };
        let tag = tag.to_str().unwrap_or_default().trim();
        if tag == "*" {
            return Ok(None);
        }
        let version = tag
            .strip_prefix('"')
            .and_then(|tag| tag.strip_suffix('"'))
            .and_then(|tag| tag.parse().ok());
        let unreadable = || {
            Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "version_mismatch",
                "If-Match must be the ETag of the thing as it was read",
            )
        };
        version.map(Some).ok_or_else(unreadable)
    }

    /// The version the caller means to change, if it said so: 412 when the thing is another by now.
    pub(crate) fn check_version(&self, version: i32) -> Result<(), Problem> {
        let Some(wanted) = self.headers.get(IF_MATCH) else {
            return Ok(());
        };
        let current = format!("\"{version}\"");
        let wanted = wanted.to_str().unwrap_or_default();
        match wanted.split(',').map(str::trim).any(|tag| tag == "*" || tag == current) {
            true => Ok(()),
            false => Err(Problem::version_mismatch(version)),
        }
    }

    /// Carries the work out in one transaction, at most once per key, and returns its answer or the one remembered.
    pub(crate) async fn once(
        &self,
        state: &State,
        keyed: Keyed,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, Problem>,
    ) -> Result<Answer, Problem> {
        let Some(key) = self.key()? else {
            if keyed.wanted == Wanted::Required {
                let fault = Fault {
                    place: "header",
                    pointer: format!("/{}", KEY_HEADERS[0]),
                    code: "missing".into(),
                    detail: "this request must carry an Idempotency-Key header".to_owned(),
                };
                return Err(Problem::faulty(
                    StatusCode::BAD_REQUEST,
                    "idempotency_key_required",
                    vec![fault],
                ));
            }
            let mut tx = state.pool.begin().await?;
            let answer = work(&mut tx).await?;
            tx.commit().await.map_err(unknown_commit)?;
            return Ok(answer);
        };

        if keyed.wanted == Wanted::Refused {
            return Err(bad_key(
                KEY_HEADERS[0],
                "this answer holds a secret and is not kept: ask without a key",
            ));
        }

        let mut tx = state.pool.begin().await?;
        let begun =
            idempotency::store::begin(&mut tx, &self.principal.name, &key, &self.fingerprint(), keyed.keep).await?;
        match begun {
            idempotency::Begun::Fresh => {}
            idempotency::Begun::Replay { status, headers, body } => {
                let now: Option<DateTime<Utc>> = sqlx::query_scalar!("select clock_timestamp()")
                    .fetch_one(&mut *tx)
                    .await?;
                return replayed(status, &headers, body, now);
            }
            idempotency::Begun::Mismatch => {
                return Err(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "idempotency_key_reused",
                    "this key was used for another request; a new request needs a new key",
                ));
            }
            idempotency::Begun::InProgress => return Err(in_progress()),
        }

        let mut business = tx.begin().await?;
        let answer = match work(&mut business).await {
            Ok(answer) => {
                business.commit().await?;
                answer
            }
            Err(problem) if problem.is_deterministic() => {
                business.rollback().await?;
                problem.into_answer()
            }
            Err(problem) => return Err(problem),
        };
        let mut headers = stored(&answer.headers);
        if let Some(wait) = keyed.settles_within.filter(|_| answer.status == StatusCode::ACCEPTED) {
            let now: Option<DateTime<Utc>> = sqlx::query_scalar!("select clock_timestamp()")
                .fetch_one(&mut *tx)
                .await?;
            let until = now.map(|now| (now + wait + Duration::from_secs(1)).to_rfc3339());
            headers.insert(SETTLING_UNTIL.to_owned(), until.into());
        }
        let status = answer.status.as_u16();
        let headers = Value::Object(headers);
        idempotency::store::finish(
            &mut tx,
            &self.principal.name,
            &key,
            status,
            &headers,
            &answer.body,
            answer.order,
        )
        .await?;
        tx.commit().await.map_err(unknown_commit)?;
        Ok(answer)
    }

    /// Remembers what the order came to as the answer of this key, so that every replay equals what the first caller is
    /// told now. Called by that caller alone, once, before it answers.
    pub(crate) async fn settle(&self, state: &State, answer: &Answer) -> Result<(), Problem> {
        let Some(key) = self.key()? else { return Ok(()) };
        let mut conn = state.pool.acquire().await?;
        let headers = Value::Object(stored(&answer.headers));
        let status = answer.status.as_u16();
        idempotency::store::finish(
            &mut conn,
            &self.principal.name,
            &key,
            status,
            &headers,
            &answer.body,
            answer.order,
        )
        .await?;
        Ok(())
    }

    /// The key, under either of its names.
    fn key(&self) -> Result<Option<String>, Problem> {
        let mut keys = Vec::new();
        for name in KEY_HEADERS {
            for value in self.headers.get_all(name) {
                keys.push((name, key_of(name, value)?));
            }
        }
        keys.dedup_by(|a, b| a.1 == b.1);
        match keys.as_slice() {
            [] => Ok(None),
            [(_, key)] => Ok(Some(key.clone())),
            [_, (name, _), ..] => Err(bad_key(name, "two different idempotency keys were given")),
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        let ids: Vec<&str> = self.path.iter().map(|(_, value)| value.as_str()).collect();
        idempotency::fingerprint(self.method.as_str(), &self.template, &ids, &canonical(&self.body))
    }
}

fn key_of(name: &'static str, value: &HeaderValue) -> Result<String, Problem> {
    let key = value
        .to_str()
        .map_err(|_| bad_key(name, "a key is made of visible ASCII characters"))?
        .trim();
    if key.is_empty() || key.len() > KEY_LENGTH_MAX {
        return Err(bad_key(name, "a key has 1 to 255 characters"));
    }
    Ok(key.to_owned())
}

fn bad_key(name: &str, detail: &str) -> Problem {
    let fault = Fault {
        place: "header",
        pointer: format!("/{name}"),
        code: "invalid".into(),
        detail: detail.to_owned(),
    };
    Problem::faulty(StatusCode::BAD_REQUEST, "idempotency_key_invalid", vec![fault])
}

fn in_progress() -> Problem {
    Problem::conflict(
        "idempotency_key_in_progress",
        "the first request with this key is still running",
    )
    .retry_after(Duration::from_secs(1))
}

/// The connection broke while the answer to COMMIT was on its way: it may be done, or not.
fn unknown_commit(error: sqlx::Error) -> Problem {
    tracing::warn!(error = %error, "the outcome of a commit is unknown");
    Problem::unavailable(
        "outcome_unknown",
        "whether this was done is not known; repeat the request with the same idempotency key to find out",
    )
}

fn replayed(status: u16, headers: &Value, body: String, now: Option<DateTime<Utc>>) -> Result<Answer, Problem> {
    let until = headers
        .get(SETTLING_UNTIL)
        .and_then(Value::as_str)
        .and_then(|at| at.parse::<DateTime<Utc>>().ok());
    if until.is_some_and(|until| now.is_some_and(|now| now < until)) {
        return Err(in_progress());
    }
    let status = StatusCode::from_u16(status).map_err(|_| Problem::internal())?;
    let mut answer = Answer {
        status,
        headers: HeaderMap::new(),
        body,
        order: None,
    };
    for (name, value) in headers.as_object().into_iter().flatten() {
        if let (Ok(name), Some(value)) = (name.parse::<HeaderName>(), value.as_str()) {
            answer = answer.header(name, value);
        }
    }
    Ok(answer.header(REPLAYED, "true"))
}

fn stored(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| value.to_str().ok().map(|value| Value::from(value.to_owned()));
    headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)))
        .collect()
}

/// The same JSON with every object's members in order.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(name, value)| (name.clone(), canonical(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        plain => plain.clone(),
    }
}
