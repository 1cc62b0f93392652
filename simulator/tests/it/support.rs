//! A gateway of its own for each test, and a client that knows only HTTP.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use serde_json::Value;
use simulator::gateway::{self, Running};
use tempfile::TempDir;

/// A gateway with its own folder.
pub(crate) struct Sandbox {
    pub(crate) gateway: Running,
    pub(crate) http: Client,
    folder: TempDir,
}

impl Sandbox {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = open(&folder.path().join("ledger.jsonl")).await.unwrap();
        let http = Client::new(gateway.url());
        Self { gateway, http, folder }
    }

    /// Stops the gateway and starts another one on the same ledger.
    pub(crate) async fn restarted(self) -> Self {
        let ledger = self.gateway.ledger.clone();
        self.gateway.stop().await.unwrap();
        let gateway = open(&ledger).await.unwrap();
        let http = Client::new(gateway.url());
        Self {
            gateway,
            http,
            folder: self.folder,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An intent of 1000 pence with manual capture, created but not confirmed.
    pub(crate) async fn intent(&self, method: &str) -> String {
        let form = [
            ("amount", "1000"),
            ("currency", "gbp"),
            ("capture_method", "manual"),
            ("payment_method", method),
        ];
        self.http.post("/v1/payment_intents", &form).await.ok()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// An authorised intent of 1000 pence.
    pub(crate) async fn authorised(&self, method: &str) -> String {
        let id = self.intent(method).await;
        self.http.act(&id, "confirm").await.ok();
        id
    }

    /// Ledger lines of one operation and outcome.
    pub(crate) fn count(&self, op: &str, outcome: &str) -> usize {
        let lines = self.gateway.ledger().unwrap();
        lines
            .iter()
            .filter(|line| line["op"] == op && line["outcome"] == outcome)
            .count()
    }
}

/// Starts a gateway on a free port.
pub(crate) async fn open(ledger: &Path) -> anyhow::Result<Running> {
    gateway::start(gateway::Config {
        port: 0,
        ledger: ledger.to_owned(),
        seed: 7,
    })
    .await
}

/// Waits for a condition, and not for ever.
pub(crate) async fn until(what: &str, is_met: impl Fn() -> bool) {
    const LIMIT: Duration = Duration::from_secs(30);
    let deadline = Instant::now() + LIMIT;
    while !is_met() {
        assert!(Instant::now() < deadline, "no {what} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An HTTP client with a key.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn new(url: String) -> Self {
        Self {
            http: plain_client(),
            url,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.request("GET", path)).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        self.send(self.request("POST", path).form(form)).await.unwrap()
    }

    pub(crate) async fn post_with_key(&self, key: &str, path: &str, form: &[(&str, &str)]) -> reqwest::Result<Reply> {
        self.send(self.request("POST", path).header("idempotency-key", key).form(form))
            .await
    }

    /// Confirms, captures or cancels an intent.
    pub(crate) async fn act(&self, intent: &str, act: &str) -> Reply {
        self.post(&format!("/v1/payment_intents/{intent}/{act}"), &[]).await
    }

    pub(crate) async fn act_with_key(&self, key: &str, intent: &str, act: &str) -> reqwest::Result<Reply> {
        self.post_with_key(key, &format!("/v1/payment_intents/{intent}/{act}"), &[])
            .await
    }

    /// Orders trouble, or moves the clock.
    pub(crate) async fn order(&self, what: &str, order: Value) -> Reply {
        let path = format!("/_simulator/{what}");
        self.send(self.bare("POST", &path).json(&order)).await.unwrap()
    }

    /// A request with the key, for anything unusual.
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.bare(method, path).bearer_auth("sk_test_123")
    }

    /// A request without a key.
    pub(crate) fn bare(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply {
            status,
            headers,
            text: response.text().await?,
        })
    }
}

/// A client that never takes a connection twice into use, so that a cut one is seen by its own request only.
pub(crate) fn plain_client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap());
    reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap()
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The body of a 200.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// The error object of an answer with this status.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()["error"].clone()
    }

    /// Type, code and parameter of a 400.
    #[track_caller]
    pub(crate) fn refused(&self) -> (String, String) {
        let error = self.error(400);
        let text = |name: &str| error[name].as_str().unwrap_or("").to_owned();
        assert!(!text("message").is_empty());
        (text("code"), text("param"))
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.headers
            .get("idempotent-replayed")
            .is_some_and(|value| value == "true")
    }
}
