//! A client of the API as any other would be: a key for every unsafe request, and patience.
//!
//! Whatever may pass is tried again, with growing pauses and jitter and no sooner than the API asks: a refused or broken
//! connection (the API is restarting), 429, 5xx, and a 409 that says to come back. Since the request carries its
//! idempotency key, a repeat after a lost answer returns the first answer.

use std::time::Duration;

use anyhow::{Context, anyhow};
use backon::{ExponentialBuilder, Retryable};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use crate::settings::{environment, required_secret};

/// How long one request is repeated before the client gives up: an API that is being restarted again and again.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The pauses between tries.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A client with an API key.
#[derive(Debug, Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
    key: SecretString,
}

/// An answer that is final.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Whether it is an earlier answer to the same key.
    pub is_replay: bool,
    /// Its body; null when it has none.
    pub body: Value,
}

impl Reply {
    /// A member of the body that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name)?.as_str()
    }

    /// The stable word of a problem, or the status.
    pub fn code(&self) -> String {
        self.text("code")
            .map_or_else(|| self.status.as_u16().to_string(), str::to_owned)
    }

    /// This reply when it is a success, else an error that says what was being done.
    pub fn expect(self, doing: &str) -> anyhow::Result<Reply> {
        match self.status.is_success() {
            true => Ok(self),
            false => Err(anyhow!(
                "{doing}: the API answered {} {}",
                self.status.as_u16(),
                self.body
            )),
        }
    }
}

/// One try that brought no final answer.
#[derive(Debug)]
enum Trouble {
    /// Worth another try, no sooner than that.
    Passing {
        why: anyhow::Error,
        not_before: Option<Duration>,
    },
    /// Not worth another try.
    Lasting(anyhow::Error),
}

impl ApiClient {
    /// A client for the API at `base`, with the key in ORDERFLEET_API_KEY.
    pub fn from_environment(base: Url) -> anyhow::Result<ApiClient> {
        let hint = "source the env file of a running `orderfleet up` (`. DIR/env`)";
        ApiClient::new(base, required_secret("ORDERFLEET_API_KEY", hint, &environment)?)
    }

    /// A client for the API at `base`.
    pub fn new(base: Url, key: SecretString) -> anyhow::Result<ApiClient> {
        domain::tls::install();
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .context("making an HTTP client")?;
        Ok(ApiClient { http, base, key })
    }

    /// GET, patiently.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(Method::GET, path, None, None).await
    }

    /// POST, patiently, under an idempotency key.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send(Method::POST, path, Some(key), Some(body)).await
    }

    /// POST, patiently, without a key: for answers that hold a secret, which the API refuses to keep.
    pub async fn post_unkeyed(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send(Method::POST, path, None, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> anyhow::Result<Reply> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
            .with_total_delay(Some(PATIENCE));
        let attempt = || self.try_once(method.clone(), path, key, body);
        let answered = attempt
            .retry(pauses)
            .when(|trouble| matches!(trouble, Trouble::Passing { .. }))
            .adjust(|trouble, pause| match trouble {
                Trouble::Passing {
                    not_before: Some(not_before),
                    ..
                } => pause.map(|pause| pause.max(*not_before)),
                _ => pause,
            })
            .notify(|trouble, pause| {
                if let Trouble::Passing { why, .. } = trouble {
                    tracing::debug!(
                        path,
                        why = format!("{why:#}"),
                        pause_ms = pause.as_millis() as u64,
                        "trying again"
                    );
                }
            })
            .await;
        answered.map_err(|trouble| match trouble {
            Trouble::Passing { why, .. } => {
                why.context(format!("{method} {path}: gave up after {} s", PATIENCE.as_secs()))
            }
            Trouble::Lasting(why) => why.context(format!("{method} {path}")),
        })
    }

    async fn try_once(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply, Trouble> {
        let url = self.base.join(path).map_err(|error| Trouble::Lasting(error.into()))?;
        let mut request = self.http.request(method, url).bearer_auth(self.key.expose_secret());
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let passing = |error: reqwest::Error| Trouble::Passing {
            why: error.into(),
            not_before: None,
        };
        let response = request.send().await.map_err(passing)?;
        let status = response.status();
        let headers = response.headers().clone();
        let bytes = response.bytes().await.map_err(passing)?;
        let body: Value = match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            Err(_) if bytes.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        };
        let not_before = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        if status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || (status == StatusCode::CONFLICT && not_before.is_some())
        {
            let why = anyhow!("the API answered {} {body}", status.as_u16());
            return Err(Trouble::Passing { why, not_before });
        }
        let refused = "the API refuses the key: source DIR/env again, or create a key with the scopes needed";
        match status {
            StatusCode::UNAUTHORIZED => Err(Trouble::Lasting(anyhow!("{refused} ({body})"))),
            _ => Ok(Reply {
                status,
                is_replay: headers.contains_key("idempotent-replayed"),
                body,
            }),
        }
    }
}
