//! One request from its bytes to its answer: key, parameters, idempotency, execution, the disk, and then the fault.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::book::{self, Answer, Book, Call, Outcome, Scope};
use super::error::Error;
use super::form::Form;
use super::methods::Fault;
use super::requests;
use crate::listener::{Cuttable, Scissors};

const BODY_BYTES_MAX: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const KEY_CHARS_MAX: usize = 255;
/// Requests executed at one time; more of them wait. The journal's queue is longer, so appending never blocks.
const REQUESTS_MAX: usize = 2_048;
/// How long open requests may go on after the stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// The gateway behind its endpoints.
#[derive(Debug)]
pub(super) struct Gateway {
    book: Mutex<Book>,
    permits: Semaphore,
}

impl Gateway {
    pub(super) fn new(book: Book) -> Self {
        Self {
            book: Mutex::new(book),
            permits: Semaphore::new(REQUESTS_MAX),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book
            .lock()
            .expect("a request that panicked left the book half changed: better none than a wrong answer")
    }
}

/// Serves until `stop`, or until a journal can't be written.
pub(super) async fn serve(listener: Cuttable, gateway: Arc<Gateway>, stop: CancellationToken) -> anyhow::Result<()> {
    let (ledger, answers) = gateway.book().durable();
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .fallback(handle)
        .with_state(Arc::clone(&gateway));
    let service = router.into_make_service_with_connect_info::<Scissors>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let result = tokio::select! {
        result = server => result.map_err(anyhow::Error::from),
        () = async { stop.cancelled().await; tokio::time::sleep(SHUTDOWN_GRACE).await } => Ok(()),
        error = ledger.failed() => Err(error),
        error = answers.failed() => Err(error),
    };
    gateway.book().close();
    result
}

/// What a request is answered with.
struct Reply {
    answer: Answer,
    is_replayed: bool,
    is_lost: bool,
}

impl Reply {
    fn new(answer: Answer) -> Self {
        Self {
            answer,
            is_replayed: false,
            is_lost: false,
        }
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        Self::new(Answer {
            status: error.status.as_u16(),
            body: error.body().to_string(),
        })
    }
}

async fn handle(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(scissors): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    let request_id = format!("req_{}", &uuid::Uuid::new_v4().simple().to_string()[..16]);
    let headers = request.headers().clone();
    let is_post = request.method() == Method::POST;
    let reply = match read(request, &request_id).await {
        Ok(work) => work_on(gateway, work).await,
        Err(error) => error.into(),
    };
    if reply.is_lost {
        scissors.cut();
    }
    respond(reply, &request_id, &headers, is_post)
}

/// A request that was understood.
enum Work {
    Command(Call),
    Query(requests::Query),
}

async fn read(request: Request, request_id: &str) -> Result<Work, Error> {
    let (parts, body) = request.into_parts();
    authorize(&parts.headers)?;
    let path = parts.uri.path().to_owned();
    let form = match parts.method {
        Method::POST if parts.uri.query().is_some() => {
            return Err(Error::invalid(None, "Send the parameters of a POST in its body."));
        }
        Method::POST => Form::parse(&body_of(&parts.headers, body).await?)?,
        _ => Form::parse(parts.uri.query().unwrap_or("").as_bytes())?,
    };
    let params_sha256 = form.sha256().to_owned();
    match requests::read(parts.method.as_str(), &path, form)? {
        requests::Request::Query(query) => Ok(Work::Query(query)),
        requests::Request::Command(command) => {
            let scope = idempotency_key(&parts.headers)?.map(|key| Scope { key, path });
            Ok(Work::Command(Call {
                request_id: request_id.to_owned(),
                scope,
                params_sha256,
                now: Utc::now(),
                command,
            }))
        }
    }
}

/// Works in a task of its own: a client that hangs up stops nothing, as with a real gateway.
async fn work_on(gateway: Arc<Gateway>, work: Work) -> Reply {
    let task = tokio::spawn(async move {
        let _permit = gateway.permits.acquire().await;
        match work {
            Work::Query(query) => look(&gateway, &query).await,
            Work::Command(call) => perform(&gateway, call).await,
        }
    });
    match task.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => Error::internal(format!("The gateway simulator can't go on: {error:#}")).into(),
        Err(_) => Error::internal("The gateway simulator panicked; see its log.").into(),
    }
}

async fn look(gateway: &Gateway, query: &requests::Query) -> anyhow::Result<Reply> {
    let (result, (ledger, answers)) = {
        let book = gateway.book();
        (book.look(query), book.durable())
    };
    // Nobody may learn what a crash could still undo.
    ledger.wait().await?;
    answers.wait().await?;
    Ok(match result {
        Ok(body) => Reply::new(Answer {
            status: 200,
            body: body.to_string(),
        }),
        Err(error) => error.into(),
    })
}

async fn perform(gateway: &Gateway, call: Call) -> anyhow::Result<Reply> {
    let outcome = gateway.book().perform(&call);
    match outcome {
        Outcome::Refused(error) => Ok(error.into()),
        Outcome::Replay { lines, place, durable } => {
            durable.wait().await?;
            Ok(Reply {
                is_replayed: true,
                ..Reply::new(book::read_answer(&lines, place)?)
            })
        }
        Outcome::Executed { answer, durable, fault } => {
            durable.wait().await?;
            if let Some(Fault::Slow(delay)) = fault {
                tokio::time::sleep(delay).await;
            }
            if let Some(scope) = &call.scope {
                gateway.book().finish(scope);
            }
            Ok(Reply {
                is_lost: fault == Some(Fault::AnswerLost),
                ..Reply::new(answer)
            })
        }
    }
}

fn authorize(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Error::unauthorized(
            "You did not provide an API key. Send one as 'Authorization: Bearer sk_test_…' or as the user of HTTP Basic auth.",
        ));
    };
    let value = value.to_str().unwrap_or("");
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let key = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => rest.trim().to_owned(),
        "basic" => {
            let decoded = STANDARD
                .decode(rest.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            decoded.unwrap_or_default().split(':').next().unwrap_or("").to_owned()
        }
        _ => String::new(),
    };
    match key.strip_prefix("sk_test_").is_some_and(|rest| !rest.is_empty()) {
        true => Ok(()),
        false => Err(Error::unauthorized(
            "Invalid API Key provided: this simulator takes any key like sk_test_….",
        )),
    }
}

async fn body_of(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Error> {
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => bytes.to_vec(),
        Ok(Err(_)) => return Err(Error::too_long(BODY_BYTES_MAX)),
        Err(_) => {
            return Err(Error::invalid(None, "The request body did not arrive in time."));
        }
    };
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let is_form = content_type.split(';').next().unwrap_or("").trim() == "application/x-www-form-urlencoded";
    match bytes.is_empty() || is_form {
        true => Ok(bytes),
        false => Err(Error::invalid(
            None,
            "Invalid request (check that your POST content type is application/x-www-form-urlencoded).",
        )),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or("");
    match (1..=KEY_CHARS_MAX).contains(&key.len()) {
        true => Ok(Some(key.to_owned())),
        false => {
            let message = format!("An Idempotency-Key has 1 to {KEY_CHARS_MAX} visible ASCII characters.");
            Err(Error::invalid(None, message))
        }
    }
}

fn respond(reply: Reply, request_id: &str, asked: &HeaderMap, is_post: bool) -> Response {
    let mut response = Response::new(Body::from(reply.answer.body));
    *response.status_mut() = StatusCode::from_u16(reply.answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert("request-id", value);
    }
    if let Some(version) = asked.get("stripe-version") {
        headers.insert("stripe-version", version.clone());
    }
    if let Some(key) = asked.get("idempotency-key").filter(|_| is_post) {
        headers.insert("idempotency-key", key.clone());
    }
    if reply.is_replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    if is_unauthorized {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"Stripe\""),
        );
    }
    response
}
