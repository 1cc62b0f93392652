//! The client of the payment gateway, in Stripe's wire format: forms in, JSON out, one idempotency key per attempt.
//!
//! The client never retries and never judges: it reports what came back as a [`Reply`], and [`classify`], a pure function,
//! says what that means. The one distinction it must get right is between *not sent* (certainly without effect) and
//! *lost* (perhaps executed); where it cannot tell, it says lost.

mod objects;
mod reply;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::{Method, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

pub use self::objects::{Intent, IntentStatus, Movement, Refund, Transfer, mark};
pub use self::reply::{Answer, Class, Reply, classify};
use super::{Op, Payment};
use crate::{money::Cents, sellers::Payout};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that one call may take; a call made close to its job's deadline gets less.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers are a few kilobytes; more than this is no answer of a gateway.
const BODY_MAX: usize = 256 * 1024;
/// How many calls in a row may find nobody there before all but one probe wait.
const SILENCE_MAX: u32 = 8;
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What one page of a list holds at most, and how many pages of one list are read.
const LIST_MAX: usize = 100;
const PAGES_MAX: usize = 50;

/// The gateway, as one process talks to it.
#[derive(Debug)]
pub struct Gateway {
    client: reqwest::Client,
    base: Url,
    key: SecretString,
    pace: Mutex<Pace>,
}

/// What all calls of this process share: nobody sends while the gateway asked for quiet, or is not there.
#[derive(Debug, Default)]
struct Pace {
    quiet_until: Option<Instant>,
    silent: u32,
}

/// Why a gateway's client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's client cannot be made: {0}")]
pub struct Unusable(String);

type Form<'a> = Vec<(&'a str, String)>;

impl Gateway {
    /// A client for the gateway at `base`, with its secret key. Sends nothing yet.
    pub fn new(mut base: Url, key: SecretString) -> Result<Self, Unusable> {
        crate::tls::install();
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(Unusable(format!("{base} is no http or https address")));
        }
        // Paths are joined to it, and joining replaces what follows the last slash.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = reqwest::Client::builder()
            .user_agent("orderfleet")
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| Unusable(format!("{error:?}")))?;
        Ok(Self {
            client,
            base,
            key,
            pace: Mutex::default(),
        })
    }

    /// How long nothing should be sent, because the gateway asked for quiet or is not there. None: go on.
    ///
    /// When a silence ends, one caller goes on as the probe and the others wait a little longer.
    pub fn quiet_left(&self) -> Option<Duration> {
        let mut pace = self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let until = pace.quiet_until?;
        let now = Instant::now();
        if until > now {
            return Some(until - now);
        }
        pace.quiet_until = (pace.silent >= SILENCE_MAX).then(|| now + Duration::from_secs(1));
        None
    }

    /// Sends one operation of a payment under its key. The parameters follow from the payment, so one key never has two sets.
    pub async fn send(&self, op: Op, payment: &Payment, amount: Cents, key: &str, timeout: Duration) -> Reply {
        let intent = payment.gateway_ref.as_deref().unwrap_or_default();
        let (path, form): (String, Form<'_>) = match op {
            Op::Create => (
                "v1/payment_intents".to_owned(),
                vec![
                    ("amount", amount.to_string()),
                    ("currency", payment.currency.to_ascii_lowercase()),
                    ("capture_method", "manual".to_owned()),
                    // Whatever needs nobody to be sent elsewhere; the newest versions know no list of types any more.
                    ("automatic_payment_methods[enabled]", "true".to_owned()),
                    ("automatic_payment_methods[allow_redirects]", "never".to_owned()),
                    ("metadata[payment_id]", payment.id.to_string()),
                    ("metadata[order_id]", payment.order_id.to_string()),
                ],
            ),
            Op::Confirm => (
                format!("v1/payment_intents/{intent}/confirm"),
                vec![("payment_method", payment.payment_method.clone())],
            ),
            Op::Capture => (
                format!("v1/payment_intents/{intent}/capture"),
                vec![("amount_to_capture", amount.to_string())],
            ),
            Op::Void => (format!("v1/payment_intents/{intent}/cancel"), vec![]),
            Op::Refund => (
                "v1/refunds".to_owned(),
                vec![
                    ("payment_intent", intent.to_owned()),
                    ("amount", amount.to_string()),
                    ("metadata[payment_id]", payment.id.to_string()),
                    ("metadata[order_id]", payment.order_id.to_string()),
                    ("metadata[refund_key]", key.to_owned()),
                ],
            ),
        };
        self.call(Method::POST, &path, &[], Some((form, key)), timeout).await
    }

    /// Asks for an intent. Costs nothing and changes nothing.
    pub async fn intent(&self, id: &str, timeout: Duration) -> Reply {
        self.call(Method::GET, &format!("v1/payment_intents/{id}"), &[], None, timeout)
            .await
    }

    /// The intents that carry this payment's mark. `Err` holds a reply that is no list.
    pub async fn search(&self, payment: &Payment, timeout: Duration) -> Result<Vec<Intent>, Reply> {
        let query = format!("metadata['payment_id']:'{}'", payment.id);
        let found = self
            .page("v1/payment_intents/search", &[("query", &query)], None, timeout)
            .await?;
        let found = items(&found, Intent::of).into_iter();
        Ok(found.filter(|intent| intent.belongs_to(payment)).collect())
    }

    /// Sends a payout under its key: a transfer to the seller's account.
    pub async fn transfer(&self, payout: &Payout, timeout: Duration) -> Reply {
        let form: Form<'_> = vec![
            ("amount", payout.amount.to_string()),
            ("currency", payout.currency.as_str().to_ascii_lowercase()),
            ("destination", payout.destination.clone()),
            ("transfer_group", payout.idem_key.clone()),
            ("metadata[payout_id]", payout.id.to_string()),
        ];
        let body = Some((form, payout.idem_key.as_str()));
        self.call(Method::POST, "v1/transfers", &[], body, timeout).await
    }

    /// The transfer that was made for a payout, if one was. `Err` holds a reply that is no list.
    pub async fn transfer_of(&self, payout: &Payout, timeout: Duration) -> Result<Option<Transfer>, Reply> {
        let query = [("transfer_group", payout.idem_key.as_str())];
        let page = self.page("v1/transfers", &query, None, timeout).await?;
        Ok(items(&page, Transfer::of)
            .into_iter()
            .find(|transfer| transfer.belongs_to(payout)))
    }

    /// All refunds of an intent. `Err` holds a reply that is no list.
    pub async fn refunds(&self, intent: &str, timeout: Duration) -> Result<Vec<Refund>, Reply> {
        let mut all: Vec<Refund> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after = all.last().map(|refund| refund.id.clone());
            let query = [("payment_intent", intent)];
            let page = self.page("v1/refunds", &query, after.as_deref(), timeout).await?;
            let (has_more, read) = (page.body["has_more"] == true, items(&page, Refund::of));
            let is_end = !has_more || read.is_empty();
            all.extend(read);
            if is_end {
                return Ok(all);
            }
        }
        Err(Reply::Lost(format!("more than {PAGES_MAX} pages of refunds")))
    }

    /// A page of what moved money since a time, newest first, before the transaction `after`; and whether there is more.
    pub async fn movements(
        &self,
        since: DateTime<Utc>,
        after: Option<&str>,
        timeout: Duration,
    ) -> Result<(Vec<Movement>, bool), Reply> {
        let since = since.timestamp().to_string();
        let query = [("created[gte]", since.as_str()), ("expand[]", "data.source")];
        let page = self.page("v1/balance_transactions", &query, after, timeout).await?;
        Ok((items(&page, Movement::of), page.body["has_more"] == true))
    }

    /// A page of a list. `Err` holds a reply that is none.
    async fn page(
        &self,
        path: &str,
        query: &[(&str, &str)],
        after: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, Reply> {
        let limit = LIST_MAX.to_string();
        let mut query = query.to_vec();
        query.push(("limit", &limit));
        query.extend(after.map(|id| ("starting_after", id)));
        match self.call(Method::GET, path, &query, None, timeout).await {
            Reply::Answered(answer) if answer.status == 200 && answer.body["data"].is_array() => Ok(answer),
            reply => Err(reply),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<(Form<'_>, &str)>,
        timeout: Duration,
    ) -> Reply {
        let reply = self
            .exchange(method, path, query, body, timeout.min(CALL_TIMEOUT))
            .await;
        self.learn(&reply);
        reply
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<(Form<'_>, &str)>,
        timeout: Duration,
    ) -> Reply {
        let mut url = match self.base.join(path) {
            Ok(url) => url,
            Err(error) => return Reply::NotSent(format!("no address for {path}: {error}")),
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self
            .client
            .request(method, url)
            .bearer_auth(self.key.expose_secret())
            .timeout(timeout);
        if let Some((form, key)) = body {
            request = request.header("Idempotency-Key", key).form(&form);
        }
        match request.send().await {
            Ok(response) => read(response).await,
            Err(error) if error.is_connect() || error.is_builder() => Reply::NotSent(plain(&error)),
            Err(error) => Reply::Lost(plain(&error)),
        }
    }

    /// What one reply teaches all the others of this process.
    fn learn(&self, reply: &Reply) {
        let mut pace = self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match reply {
            Reply::NotSent(_) => {
                pace.silent = pace.silent.saturating_add(1);
                if pace.silent >= SILENCE_MAX {
                    let doublings = (pace.silent - SILENCE_MAX).min(5);
                    let pause = (Duration::from_secs(1) * 2u32.pow(doublings)).min(PAUSE_MAX);
                    pace.quiet_until = Some(Instant::now() + pause);
                }
            }
            Reply::Answered(answer) if answer.status == 429 => {
                pace.silent = 0;
                let pause = answer.retry_after.unwrap_or(Duration::from_secs(1)).min(PAUSE_MAX);
                let until = Instant::now() + pause;
                pace.quiet_until = Some(pace.quiet_until.map_or(until, |earlier| earlier.max(until)));
            }
            Reply::Answered(_) => {
                pace.silent = 0;
                pace.quiet_until = pace.quiet_until.filter(|until| *until > Instant::now());
            }
            Reply::Lost(_) => {}
        }
    }
}

async fn read(mut response: reqwest::Response) -> Reply {
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let mut answer = Answer {
        status: response.status().as_u16(),
        body: Value::Null,
        request_id: header("request-id"),
        retry_after: header(header::RETRY_AFTER.as_str())
            .and_then(|seconds| seconds.parse().ok())
            .map(|seconds: u64| Duration::from_secs(seconds.min(3600))),
        should_retry: header("stripe-should-retry").and_then(|word| word.parse().ok()),
        replayed: header("idempotent-replayed").is_some_and(|word| word == "true"),
    };
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > BODY_MAX => {
                return Reply::Lost(format!("an answer of more than {BODY_MAX} bytes"));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Reply::Lost(plain(&error)),
        }
    }
    answer.body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Reply::Answered(answer)
}

fn items<T>(page: &Answer, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let items = page.body["data"].as_array();
    items.into_iter().flatten().filter_map(read).collect()
}

/// The error and its causes in one line, without the address (which is configuration) and never with a header.
fn plain(error: &reqwest::Error) -> String {
    let mut line = if error.is_timeout() {
        "timed out".to_owned()
    } else {
        "failed".to_owned()
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_certainly_not_sent_and_many_of_them_silence_the_rest() {
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("its address")
            .port();
        let base = format!("http://127.0.0.1:{port}/").parse().expect("an address");
        let gateway = Gateway::new(base, SecretString::from("sk_test_x")).expect("a client");
        for _ in 0..SILENCE_MAX {
            assert_eq!(gateway.quiet_left(), None);
            let reply = gateway.intent("pi_1", Duration::from_secs(2)).await;
            assert!(matches!(reply, Reply::NotSent(_)), "{reply:?}");
        }
        assert!(gateway.quiet_left().is_some());
        assert!(!format!("{gateway:?}").contains("sk_test_x"));
    }
}
