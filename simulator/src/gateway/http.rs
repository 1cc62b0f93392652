//! One request from its bytes to its answer: key, parameters, idempotency, execution, the disk, and the trouble that was
//! ordered for it at each of these steps.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, get};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::admin;
use super::book::{self, Answer, Book, Call, Outcome, Scope};
use super::error::Error;
use super::events::Event;
use super::faults::{Asked, Kind, Rules, Stored, Strike};
use super::form::Form;
use super::methods::Fault;
use super::post::Tally;
use super::requests::{self, Route};
use crate::journal::{Durable, Lines};
use crate::listener::{Cuttable, Scissors};

const BODY_BYTES_MAX: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const KEY_CHARS_MAX: usize = 255;
/// Requests executed at one time; more of them wait. The journal's queue is longer, so appending never blocks.
const REQUESTS_MAX: usize = 2_048;
/// How long open requests may go on after the stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long after a refusal an event is sent again, when nobody says otherwise.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is seen whether an authorisation is over.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// The gateway behind its endpoints.
#[derive(Debug)]
pub(super) struct Gateway {
    book: Mutex<Book>,
    rules: Mutex<Rules>,
    tally: Mutex<Tally>,
    retry: Mutex<Duration>,
    permits: Semaphore,
}

impl Gateway {
    pub(super) fn new(book: Book, rules: Rules) -> Self {
        Self {
            book: Mutex::new(book),
            rules: Mutex::new(rules),
            tally: Mutex::default(),
            retry: Mutex::new(RETRY),
            permits: Semaphore::new(REQUESTS_MAX),
        }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        whole(&self.book)
    }

    pub(super) fn rules(&self) -> MutexGuard<'_, Rules> {
        whole(&self.rules)
    }

    /// What strikes a request, or a letter of the post.
    pub(super) fn strike(&self, asked: Asked<'_>) -> Vec<Strike> {
        self.rules().strike(asked)
    }

    pub(super) fn tally(&self) -> Tally {
        *whole(&self.tally)
    }

    pub(super) fn set_tally(&self, tally: Tally) {
        *whole(&self.tally) = tally;
    }

    /// How long after a refusal an event is sent again for the first time.
    pub(super) fn retry(&self) -> Duration {
        *whole(&self.retry)
    }

    pub(super) fn set_retry(&self, retry: Duration) {
        *whole(&self.retry) = retry;
    }

    /// The endpoints that want an event; from now on it is pending at each of them.
    pub(super) fn endpoints_for(&self, event: &Event) -> Vec<String> {
        let mut book = self.book();
        let wanting = book.endpoints.iter().filter(|endpoint| endpoint.wants(event.kind));
        let ids: Vec<String> = wanting.map(|endpoint| endpoint.id.clone()).collect();
        book.set_pending(&event.id, |pending| pending + u32::try_from(ids.len()).unwrap_or(0));
        ids
    }

    /// An endpoint has taken an event.
    pub(super) fn taken(&self, event: &Event) {
        self.book().set_pending(&event.id, |pending| pending.saturating_sub(1));
    }

    /// Where an endpoint is, and the secret that signs for it, unless it is gone or takes nothing now.
    pub(super) fn address(&self, id: &str) -> Option<(String, String)> {
        let book = self.book();
        let endpoint = &book.endpoints[book.endpoint_at(id).ok()?];
        (!endpoint.is_disabled).then(|| (endpoint.url.clone(), endpoint.secret.clone()))
    }

    /// The ledger as far as it goes now, and how to wait until that is on the disk.
    pub(super) fn ledger(&self) -> (Durable, Lines) {
        let book = self.book();
        (book.durable().0, book.lines())
    }
}

fn whole<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("a request that panicked left it half changed: better none than a wrong answer")
}

/// Serves until `stop`, or until a journal can't be written.
pub(super) async fn serve(listener: Cuttable, gateway: Arc<Gateway>, stop: CancellationToken) -> anyhow::Result<()> {
    let (ledger, answers) = gateway.book().durable();
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route(&format!("{}{{*what}}", admin::PREFIX), any(admin::handle))
        .fallback(handle)
        .with_state(Arc::clone(&gateway));
    let service = router.into_make_service_with_connect_info::<Scissors>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let result = tokio::select! {
        result = server => result.map_err(anyhow::Error::from),
        () = async { stop.cancelled().await; tokio::time::sleep(SHUTDOWN_GRACE).await } => Ok(()),
        error = ledger.failed() => Err(error),
        error = answers.failed() => Err(error),
        () = expire(&gateway) => Ok(()),
    };
    gateway.book().close();
    result
}

/// Ends the authorisations whose time is over, for ever.
async fn expire(gateway: &Gateway) {
    let mut tick = tokio::time::interval(EXPIRE_EVERY);
    loop {
        tick.tick().await;
        gateway.book().expire();
    }
}

/// What a request is answered with.
struct Reply {
    answer: Answer,
    is_replayed: bool,
    is_lost: bool,
    retry_after_s: Option<u64>,
    should_retry: Option<bool>,
}

impl Reply {
    fn new(answer: Answer) -> Self {
        Self {
            answer,
            is_replayed: false,
            is_lost: false,
            retry_after_s: None,
            should_retry: None,
        }
    }

    fn lost() -> Self {
        Self {
            is_lost: true,
            ..Self::from(Error::internal("This answer was never sent."))
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
    let reply = match read(&gateway, request, &request_id).await {
        Ok((work, trouble)) => work_on(gateway, work, trouble).await,
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

/// The trouble ordered for a request, by the step at which it comes.
#[derive(Default)]
struct Trouble {
    before: Duration,
    stops: Option<Strike>,
    stored: Option<Stored>,
    after: Duration,
    loss: Option<Kind>,
    should_retry: Option<bool>,
}

impl Trouble {
    fn of(strikes: Vec<Strike>) -> Self {
        let mut trouble = Self::default();
        for strike in strikes {
            trouble.should_retry = trouble.should_retry.or(strike.order.should_retry);
            match strike.order.fault {
                Kind::DelayBefore => trouble.before += strike.delay(),
                Kind::DelayAfter => trouble.after += strike.delay(),
                Kind::ErrorStored => trouble.stored = Some(Stored::Instead),
                Kind::ErrorStoredAfter => trouble.stored = Some(Stored::After),
                kind @ (Kind::AnswerLost | Kind::WrongJson | Kind::Crash) => trouble.loss = Some(kind),
                Kind::Reset | Kind::Unavailable | Kind::RateLimit | Kind::LockTimeout | Kind::Conflict => {
                    trouble.stops = Some(strike);
                }
                Kind::Duplicate | Kind::Late | Kind::Reorder | Kind::Lost => {}
            }
        }
        trouble
    }
}

async fn read(gateway: &Gateway, request: Request, request_id: &str) -> Result<(Work, Trouble), Error> {
    let (parts, body) = request.into_parts();
    authorize(&parts.headers)?;
    let path = parts.uri.path().to_owned();
    let route = Route::find(parts.method.as_str(), &path)?;
    let form = match parts.method {
        Method::POST if parts.uri.query().is_some() => {
            return Err(Error::invalid(None, "Send the parameters of a POST in its body."));
        }
        Method::POST => Form::parse(&body_of(&parts.headers, body).await?)?,
        _ => Form::parse(parts.uri.query().unwrap_or("").as_bytes())?,
    };
    let params_sha256 = form.sha256().to_owned();
    let named = form.amount_named();
    let work = match requests::read(&route, form)? {
        requests::Request::Query(query) => Work::Query(query),
        requests::Request::Command(command) => Work::Command(Call {
            request_id: request_id.to_owned(),
            scope: idempotency_key(&parts.headers)?.map(|key| Scope { key, path }),
            params_sha256,
            now: DateTime::UNIX_EPOCH,
            command,
            stored: None,
        }),
    };
    let amount = match &work {
        Work::Command(call) => gateway.book().amount_of(&call.command.act),
        Work::Query(_) => None,
    };
    let asked = Asked {
        route: route.name,
        kind: route.name,
        named,
        amount,
    };
    Ok((work, Trouble::of(gateway.strike(asked))))
}

/// Works in a task of its own: a client that hangs up stops nothing, as with a real gateway.
async fn work_on(gateway: Arc<Gateway>, work: Work, trouble: Trouble) -> Reply {
    let task = tokio::spawn(async move {
        let _permit = gateway.permits.acquire().await;
        if let Some(strike) = &trouble.stops {
            tokio::time::sleep(trouble.before).await;
            return Ok(stopped(strike));
        }
        let mut reply = match work {
            Work::Query(query) => {
                tokio::time::sleep(trouble.before).await;
                look(&gateway, &query, trouble.after).await?
            }
            Work::Command(call) => perform(&gateway, call, &trouble).await?,
        };
        match trouble.loss {
            Some(Kind::Crash) => std::process::abort(),
            Some(Kind::WrongJson) => halve(&mut reply.answer),
            Some(_) => reply.is_lost = true,
            None => {}
        }
        reply.should_retry = trouble.should_retry.filter(|_| reply.answer.status >= 400);
        Ok(reply)
    });
    match task.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => failed(&error),
        Err(_) => Error::internal("The gateway simulator panicked; see its log.").into(),
    }
}

fn failed(error: &anyhow::Error) -> Reply {
    Error::internal(format!("The gateway simulator can't go on: {error:#}")).into()
}

/// The answer to a request that goes no further: nothing is executed and nothing is kept.
fn stopped(strike: &Strike) -> Reply {
    let error = match strike.order.fault {
        Kind::Reset => return Reply::lost(),
        Kind::RateLimit => Error::throttled("rate_limit"),
        Kind::LockTimeout => Error::throttled("lock_timeout"),
        Kind::Conflict => Error::key_in_use("ordered"),
        _ => Error::unavailable(),
    };
    Reply {
        retry_after_s: strike.order.retry_after_s,
        should_retry: strike.order.should_retry,
        ..Reply::from(error)
    }
}

/// Leaves the first half of a body, which is no JSON any more.
fn halve(answer: &mut Answer) {
    let mut half = answer.body.len() / 2;
    while !answer.body.is_char_boundary(half) {
        half -= 1;
    }
    answer.body.truncate(half);
}

async fn look(gateway: &Gateway, query: &requests::Query, after: Duration) -> anyhow::Result<Reply> {
    let (result, (ledger, answers)) = {
        let mut book = gateway.book();
        book.expire();
        (book.look(query), book.durable())
    };
    // Nobody may learn what a crash could still undo.
    ledger.wait().await?;
    answers.wait().await?;
    tokio::time::sleep(after).await;
    Ok(match result {
        Ok(found) => Reply::new(Answer {
            status: 200,
            body: found.body()?.to_string(),
        }),
        Err(error) => error.into(),
    })
}

async fn perform(gateway: &Gateway, mut call: Call, trouble: &Trouble) -> anyhow::Result<Reply> {
    call.stored = trouble.stored;
    call.now = gateway.book().now();
    let known = gateway.book().reserve(&call);
    let outcome = match known {
        Some(known) => known,
        None => {
            tokio::time::sleep(trouble.before).await;
            call.now = gateway.book().now();
            gateway.book().perform(&call)
        }
    };
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
            let slow = match fault {
                Some(Fault::Slow(delay)) => delay,
                _ => Duration::ZERO,
            };
            tokio::time::sleep(slow + trouble.after).await;
            if trouble.loss == Some(Kind::Crash) {
                std::process::abort();
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
    if let Some(seconds) = reply.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(should_retry) = reply.should_retry {
        let word = if should_retry { "true" } else { "false" };
        headers.insert("stripe-should-retry", HeaderValue::from_static(word));
    }
    if is_unauthorized {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"Stripe\""),
        );
    }
    response
}
