//! A receiver of webhooks that verifies every request as a partner should, and records it before it answers.
//!
//! `POST /hooks/{name}` is 204 when the signature is good and 401 when it isn't. For tests the address itself can ask
//! for trouble after a good signature: `?status=503` answers that, `?delay_ms=1500` answers late, `?lost=true` records
//! the request and drops the connection. `GET /livez` is 200.
//!
//! Each request is one line of the log, written and synced before the answer. `first` tells the first good arrival of
//! an id at an address from its repeats, also over a restart.

mod signature;

use std::collections::HashSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::journal::{self, Durable, Journal};
use crate::listener::{Cuttable, Scissors};
use signature::Secret;

/// Bytes that one webhook may have.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const DELAY_MS_MAX: u64 = 60_000;
/// How long open requests may go on after the stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How the receiver runs.
#[derive(Clone)]
pub struct Config {
    /// Port on 127.0.0.1; 0 is any free one.
    pub port: u16,
    /// The log's file; it is created when it isn't there.
    pub log: PathBuf,
    /// The secrets it accepts, each like `whsec_…`; more than one while they are being rotated.
    pub secrets: Vec<String>,
}

/// Runs the receiver until `shutdown`, or until its log can't be written any more.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let running = start(config).await?;
    tracing::info!(addr = %running.addr, "the webhook receiver is listening");
    let stop = running.stop.clone();
    let mut ended = pin!(running.ended());
    tokio::select! {
        result = &mut ended => result,
        () = shutdown => {
            stop.cancel();
            ended.await
        }
    }
}

/// Starts the receiver in the background.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let secrets = config
        .secrets
        .iter()
        .map(|secret| Secret::parse(secret))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if secrets.is_empty() {
        tracing::warn!("the webhook receiver has no secret: every request will be answered 401");
    }
    let listener = Cuttable::bind(config.port).await?;
    let addr = listener.addr()?;
    let path = config.log.clone();
    let book = tokio::task::spawn_blocking(move || Book::open(&path))
        .await
        .context("opening the log")??;
    let receiver = Arc::new(Receiver {
        secrets,
        book: Mutex::new(book),
    });
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listener, receiver, stop.clone()));
    Ok(Running {
        addr,
        log: config.log,
        stop,
        task: Some(task),
    })
}

/// A receiver running in the background; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its log's file.
    pub log: PathBuf,
    stop: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    /// The address of the hook called `name`.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/hooks/{name}", self.addr)
    }

    /// The log's lines up to now.
    pub fn log(&self) -> anyhow::Result<Vec<Value>> {
        journal::read(&self.log)
    }

    /// Answers what is running, closes the log and returns.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.ended().await
    }

    async fn ended(mut self) -> anyhow::Result<()> {
        match self.task.take() {
            Some(task) => task.await.context("the receiver's task")?,
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Receiver {
    secrets: Vec<Secret>,
    book: Mutex<Book>,
}

impl Receiver {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while the log's lock is held")
    }
}

async fn serve(listener: Cuttable, receiver: Arc<Receiver>, stop: CancellationToken) -> anyhow::Result<()> {
    let written = receiver.book().journal.durable();
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/hooks/{name}", post(receive))
        .with_state(Arc::clone(&receiver));
    let service = router.into_make_service_with_connect_info::<Scissors>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let result = tokio::select! {
        result = server => result.map_err(anyhow::Error::from),
        () = async { stop.cancelled().await; tokio::time::sleep(SHUTDOWN_GRACE).await } => Ok(()),
        error = written.failed() => Err(error),
    };
    receiver.book().journal.close();
    result
}

/// The trouble that an address asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mode {
    status: Option<u16>,
    delay_ms: u64,
    lost: bool,
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    ConnectInfo(scissors): ConnectInfo<Scissors>,
    Path(name): Path<String>,
    mode: Result<Query<Mode>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mode = match mode {
        Ok(Query(mode)) if mode.delay_ms <= DELAY_MS_MAX && mode.status.is_none_or(|s| (200..600).contains(&s)) => mode,
        _ => {
            return (
                StatusCode::BAD_REQUEST,
                "the query may have status, delay_ms and lost\n",
            )
                .into_response();
        }
    };
    let now = Utc::now();
    let received = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    };
    let verified = match &received {
        Ok(bytes) => signature::verify(&receiver.secrets, &headers, bytes, now.timestamp()),
        Err(_) => false,
    };
    let status = match (&received, verified) {
        (Err(status), _) => *status,
        (Ok(_), false) => StatusCode::UNAUTHORIZED,
        (Ok(_), true) => mode
            .status
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::NO_CONTENT),
    };
    let bytes = received.unwrap_or_default();
    let line = Line::new(now, format!("/hooks/{name}"), &headers, &bytes, verified, status);
    let durable = receiver.book().record(line);
    if let Err(error) = durable.wait().await {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response();
    }
    if verified {
        tokio::time::sleep(Duration::from_millis(mode.delay_ms)).await;
        if mode.lost {
            scissors.cut();
        }
    }
    status.into_response()
}

/// One line of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    n: u64,
    at: String,
    path: String,
    webhook_id: Option<String>,
    timestamp: Option<i64>,
    verified: bool,
    status: u16,
    #[serde(rename = "type")]
    kind: Option<String>,
    order_id: Option<String>,
    sequence: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    first: bool,
}

impl Line {
    fn new(
        now: DateTime<Utc>,
        path: String,
        headers: &HeaderMap,
        body: &[u8],
        verified: bool,
        status: StatusCode,
    ) -> Self {
        let header = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let payload: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            n: 0,
            at: now.to_rfc3339_opts(SecondsFormat::Micros, true),
            path,
            webhook_id: header("webhook-id"),
            timestamp: header("webhook-timestamp").and_then(|sent| sent.parse().ok()),
            verified,
            status: status.as_u16(),
            kind: text(&payload["type"]),
            order_id: text(&payload["data"]["order_id"]),
            sequence: payload["sequence"].as_i64(),
            traceparent: header("traceparent"),
            first: false,
        }
    }
}

/// The log and the ids it has seen.
struct Book {
    journal: Journal,
    n: u64,
    seen: HashSet<(String, String)>,
}

impl Book {
    fn open(path: &std::path::Path) -> anyhow::Result<Self> {
        let mut n = 0;
        let mut seen = HashSet::new();
        let opened = Journal::open(path, |text, _| {
            let line: Line = serde_json::from_str(text)?;
            ensure!(line.n == n + 1, "it has number {}, but {} was expected", line.n, n + 1);
            n = line.n;
            if let Some(id) = line.webhook_id.filter(|_| line.verified) {
                seen.insert((line.path, id));
            }
            Ok(())
        })?;
        if let Some(torn) = opened.torn {
            tracing::warn!(
                bytes = torn.len(),
                "a torn last line was cut off the log; its sender got no answer"
            );
        }
        Ok(Self {
            journal: opened.journal,
            n,
            seen,
        })
    }

    fn record(&mut self, mut line: Line) -> Durable {
        self.n += 1;
        line.n = self.n;
        if let Some(id) = line.webhook_id.clone().filter(|_| line.verified) {
            line.first = self.seen.insert((line.path.clone(), id));
        }
        let text = serde_json::to_vec(&line).expect("strings and numbers are always JSON");
        self.journal.append(text);
        self.journal.durable()
    }
}
