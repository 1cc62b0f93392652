//! The client of the payment gateway, in Stripe's wire format: forms in, JSON out, one idempotency key per attempt.
//!
//! The client never retries and never judges: it reports what came back as a [`Reply`], and [`classify`], a pure function,
//! says what that means. The one distinction it must get right is between *not sent* (certainly without effect) and
//! *lost* (perhaps executed); where it cannot tell, it says lost.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::{Method, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{Op, Payment, STORED_FAILURE};
use crate::{
    ids::{PaymentId, PayoutId},
    money::Cents,
    sellers::Payout,
};

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

/// What became of one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A whole answer came back.
    Answered(Answer),
    /// Certainly never sent: nobody listens, no such name, TLS refused.
    NotSent(String),
    /// Sent, or perhaps sent, and no whole answer came back.
    Lost(String),
}

/// A whole answer of the gateway.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null when it is not JSON.
    pub body: Value,
    /// The gateway's id of the request.
    pub request_id: Option<String>,
    /// How long to wait, as told.
    pub retry_after: Option<Duration>,
    /// `Stripe-Should-Retry`.
    pub should_retry: Option<bool>,
    /// True for a stored answer: repeating the key can bring no other.
    pub replayed: bool,
}

/// What an answer to an operation means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// Executed, and the answer is an object as expected.
    Ok,
    /// Certainly without effect: the same key again, later.
    Transient,
    /// Perhaps executed: the same key again, or a question; never a compensation.
    Unknown,
    /// The same key is being worked on at this moment: the same key again, soon.
    KeyInUse,
    /// Refused for now, unexecuted: not before this long.
    Throttled(Option<Duration>),
    /// The bank's definitive no.
    Declined(String),
    /// The intent is in another state than we thought: look at it.
    Look,
    /// The authorization is too old to capture.
    Expired,
    /// The key was used with other parameters: our own fault, touch nothing.
    KeyMisused,
    /// It cannot succeed as asked.
    Refused,
    /// The gateway does not accept us.
    Config,
}

/// The whole table of what answers mean (jobs-and-invariants 3.3.3), in one place.
pub fn classify(op: Op, reply: &Reply) -> Class {
    let answer = match reply {
        Reply::NotSent(_) => return Class::Transient,
        Reply::Lost(_) => return Class::Unknown,
        Reply::Answered(answer) => answer,
    };
    match answer.status {
        200..=299 if answer.is_object_of(op) => Class::Ok,
        // A success that cannot be read is not a success: the truth has to be asked for.
        200..=299 => Class::Unknown,
        401 | 403 => Class::Config,
        429 => Class::Throttled(answer.retry_after),
        409 => Class::KeyInUse,
        _ if answer.should_retry == Some(true) => Class::Unknown,
        402 => Class::Declined(answer.decline_code()),
        // Not the gateway's own error format: something in between answered, and knows nothing.
        400..=499 if !answer.body["error"].is_object() => Class::Unknown,
        408 | 424 => Class::Unknown,
        400..=499 => classify_error(op, answer),
        _ => Class::Unknown,
    }
}

/// The gateway's own definitive errors, by type and code.
fn classify_error(op: Op, answer: &Answer) -> Class {
    if answer.error("type") == Some("idempotency_error") {
        return Class::KeyMisused;
    }
    match (op, answer.error("code").unwrap_or_default()) {
        (_, "idempotency_key_in_use") => Class::KeyInUse,
        (_, "lock_timeout" | "rate_limit") => Class::Throttled(answer.retry_after),
        (_, "payment_intent_unexpected_state" | "charge_already_captured" | "charge_already_refunded") => Class::Look,
        (Op::Capture, "charge_expired_for_capture" | "capture_charge_authorization_expired") => Class::Expired,
        (_, "card_declined") => Class::Declined(answer.decline_code()),
        _ => Class::Refused,
    }
}

impl Answer {
    /// A field of the error object.
    pub fn error(&self, field: &str) -> Option<&str> {
        self.body["error"][field].as_str()
    }

    fn decline_code(&self) -> String {
        let code = self
            .error("decline_code")
            .or_else(|| self.error("code"))
            .unwrap_or("declined");
        code.chars().take(100).collect()
    }

    fn is_object_of(&self, op: Op) -> bool {
        match op {
            Op::Refund => Refund::of(&self.body).is_some(),
            Op::Create | Op::Confirm | Op::Capture | Op::Void => Intent::of(&self.body).is_some(),
        }
    }
}

impl Reply {
    /// The HTTP status, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Reply::Answered(answer) => Some(answer),
            Reply::NotSent(_) | Reply::Lost(_) => None,
        }
    }

    /// The intent in the answer, if it is one.
    pub fn intent(&self) -> Option<Intent> {
        Intent::of(&self.answer()?.body)
    }

    /// The refund in the answer, if it is one.
    pub fn refund(&self) -> Option<Refund> {
        Refund::of(&self.answer()?.body)
    }

    /// The error's code, or a word for what happened instead.
    pub fn code(&self) -> String {
        match self {
            Reply::NotSent(_) => "not_sent".to_owned(),
            Reply::Lost(_) => "no_answer".to_owned(),
            Reply::Answered(answer) if answer.replayed && answer.status >= 500 => STORED_FAILURE.to_owned(),
            Reply::Answered(answer) => match answer.error("code").or_else(|| answer.error("type")) {
                Some(code) => code.chars().take(100).collect(),
                None => format!("http_{}", answer.status),
            },
        }
    }

    /// The transfer in the answer, if it is one.
    pub fn transfer(&self) -> Option<Transfer> {
        Transfer::of(&self.answer()?.body)
    }

    /// What to say about it to a person.
    pub fn message(&self) -> String {
        match self {
            Reply::NotSent(message) | Reply::Lost(message) => message.clone(),
            Reply::Answered(answer) => answer
                .error("message")
                .unwrap_or("no error message")
                .chars()
                .take(500)
                .collect(),
        }
    }
}

/// A payment intent, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Intent {
    /// The gateway's id.
    pub id: String,
    /// Where it stands.
    pub status: IntentStatus,
    /// The amount asked for.
    pub amount: i64,
    /// Lower-case letters.
    pub currency: String,
    /// What was taken.
    #[serde(default)]
    pub amount_received: i64,
    /// Ours: `payment_id`, `order_id`.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// The last refusal.
    #[serde(default)]
    pub last_payment_error: Option<IntentError>,
}

/// The last refusal on an intent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IntentError {
    /// As `card_declined`.
    #[serde(default)]
    pub code: Option<String>,
    /// The bank's word.
    #[serde(default)]
    pub decline_code: Option<String>,
}

/// Where an intent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentStatus {
    /// Unconfirmed, or refused.
    RequiresPaymentMethod,
    /// Has a payment method, unconfirmed.
    RequiresConfirmation,
    /// The customer would have to do something.
    RequiresAction,
    /// The gateway is not done yet.
    Processing,
    /// The money is held.
    RequiresCapture,
    /// Over: nothing is held, nothing more can happen.
    Canceled,
    /// The money is taken.
    Succeeded,
}

impl Intent {
    fn of(body: &Value) -> Option<Self> {
        if body["object"] != "payment_intent" {
            return None;
        }
        Self::deserialize(body)
            .ok()
            .filter(|intent| intent.id.starts_with("pi_"))
    }

    /// True when it is the intent of this payment and no other: amount, currency, our own mark and, once known, the id.
    pub fn belongs_to(&self, payment: &Payment) -> bool {
        self.amount == payment.amount.0
            && self.currency.eq_ignore_ascii_case(&payment.currency)
            && self
                .metadata
                .get("payment_id")
                .is_none_or(|id| *id == payment.id.to_string())
            && payment.gateway_ref.as_ref().is_none_or(|id| *id == self.id)
    }

    /// The bank's word on the last refusal.
    pub fn decline_code(&self) -> String {
        let error = self.last_payment_error.as_ref();
        let code = error.and_then(|error| error.decline_code.as_ref().or(error.code.as_ref()));
        code.map_or_else(|| "declined".to_owned(), |code| code.chars().take(100).collect())
    }
}

/// A refund, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refund {
    /// The gateway's id.
    pub id: String,
    /// What goes back.
    pub amount: i64,
    /// As `succeeded`, `pending`, `failed`.
    pub status: String,
    /// The intent it belongs to.
    pub payment_intent: Option<String>,
    /// Ours: `refund_key`.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Refund {
    fn of(body: &Value) -> Option<Self> {
        if body["object"] != "refund" {
            return None;
        }
        Self::deserialize(body)
            .ok()
            .filter(|refund: &Self| refund.id.starts_with("re_"))
    }

    /// True unless the gateway gave up on it.
    pub fn stands(&self) -> bool {
        !matches!(self.status.as_str(), "failed" | "canceled")
    }
}

/// A transfer to a seller's account, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Transfer {
    /// The gateway's id.
    pub id: String,
    /// What was paid.
    pub amount: i64,
    /// Lower-case letters.
    pub currency: String,
    /// The account that was paid.
    pub destination: String,
    /// Ours: `payout_id`.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Transfer {
    fn of(body: &Value) -> Option<Self> {
        if body["object"] != "transfer" {
            return None;
        }
        Self::deserialize(body)
            .ok()
            .filter(|transfer: &Self| transfer.id.starts_with("tr_"))
    }

    /// True when it is the transfer of this payout and no other.
    pub fn belongs_to(&self, payout: &Payout) -> bool {
        self.amount == payout.amount.0
            && self.currency.eq_ignore_ascii_case(payout.currency.as_str())
            && self.destination == payout.destination
            && self.metadata.get("payout_id") == Some(&payout.id.to_string())
    }
}

/// A movement of money on the gateway's own books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The gateway's id of it.
    pub id: String,
    /// What came in; negative when it went out.
    pub amount: Cents,
    /// Lower-case letters.
    pub currency: String,
    /// When, by the gateway's clock.
    pub at: DateTime<Utc>,
    /// The intent it belongs to, if it belongs to one.
    pub intent: Option<String>,
    /// The payment that its mark names: ours, unless somebody else uses the same mark.
    pub mark: Option<PaymentId>,
    /// Of a transfer: the payout that its mark names.
    pub payout: Option<PayoutId>,
}

impl Movement {
    fn of(body: &Value) -> Option<Self> {
        if body["object"] != "balance_transaction" {
            return None;
        }
        Some(Self {
            id: body["id"].as_str()?.to_owned(),
            amount: Cents(body["amount"].as_i64()?),
            currency: body["currency"].as_str()?.to_owned(),
            at: DateTime::from_timestamp(body["created"].as_i64()?, 0)?,
            intent: body["source"]["payment_intent"].as_str().map(str::to_owned),
            mark: mark(&body["source"]["metadata"]),
            payout: body["source"]["metadata"]["payout_id"]
                .as_str()
                .and_then(|id| id.parse().ok()),
        })
    }
}

/// The payment that an object's metadata names as ours.
pub fn mark(metadata: &Value) -> Option<PaymentId> {
    metadata["payment_id"].as_str()?.parse().ok().map(PaymentId)
}

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
    use serde_json::json;

    use super::*;

    fn answered(status: u16, body: Value) -> Reply {
        Reply::Answered(Answer {
            status,
            body,
            ..Answer::default()
        })
    }

    fn error(status: u16, kind: &str, code: &str) -> Reply {
        answered(
            status,
            json!({ "error": { "type": kind, "code": code, "message": "m" } }),
        )
    }

    fn intent() -> Value {
        json!({ "object": "payment_intent", "id": "pi_1", "status": "succeeded", "amount": 5, "currency": "gbp" })
    }

    #[test]
    fn every_row_of_the_table_has_its_class() {
        use Class::*;
        let with = |reply: Reply, change: fn(&mut Answer)| match reply {
            Reply::Answered(mut answer) => {
                change(&mut answer);
                Reply::Answered(answer)
            }
            other => other,
        };
        let declined = || {
            let error = json!({ "type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds" });
            answered(402, json!({ "error": error }))
        };
        let refund =
            json!({ "object": "refund", "id": "re_1", "amount": 5, "status": "succeeded", "payment_intent": "pi_1" });
        let invalid = "invalid_request_error";
        let table = [
            // 2xx
            (Op::Capture, answered(200, intent()), Ok),
            (Op::Refund, answered(200, refund.clone()), Ok),
            (Op::Capture, answered(200, Value::Null), Unknown),
            (
                Op::Capture,
                answered(200, json!({ "object": "payment_intent" })),
                Unknown,
            ),
            (Op::Capture, answered(200, refund), Unknown),
            (Op::Refund, answered(200, intent()), Unknown),
            // Before sending
            (Op::Create, Reply::NotSent("refused".to_owned()), Transient),
            // In doubt
            (Op::Capture, Reply::Lost("reset".to_owned()), Unknown),
            (Op::Capture, error(500, "api_error", ""), Unknown),
            (Op::Capture, answered(502, Value::Null), Unknown),
            (Op::Capture, answered(503, Value::Null), Unknown),
            (Op::Capture, answered(504, Value::Null), Unknown),
            (Op::Capture, answered(599, Value::Null), Unknown),
            (Op::Capture, answered(302, Value::Null), Unknown),
            (Op::Capture, error(424, "api_error", ""), Unknown),
            (
                Op::Capture,
                with(error(400, invalid, "x"), |answer| answer.should_retry = Some(true)),
                Unknown,
            ),
            (
                Op::Capture,
                with(error(500, "api_error", ""), |answer| answer.should_retry = Some(false)),
                Unknown,
            ),
            (Op::Capture, answered(400, json!("a proxy's page")), Unknown),
            (Op::Capture, answered(404, Value::Null), Unknown),
            // A twin is being worked on
            (Op::Capture, error(409, invalid, "idempotency_key_in_use"), KeyInUse),
            (Op::Capture, error(400, invalid, "idempotency_key_in_use"), KeyInUse),
            // Throttled
            (Op::Capture, error(429, invalid, "rate_limit"), Throttled(None)),
            (Op::Capture, error(429, invalid, "lock_timeout"), Throttled(None)),
            (
                Op::Capture,
                with(error(429, invalid, "rate_limit"), |answer| {
                    answer.retry_after = Some(Duration::from_secs(7))
                }),
                Throttled(Some(Duration::from_secs(7))),
            ),
            // The bank
            (Op::Confirm, declined(), Declined("insufficient_funds".to_owned())),
            (Op::Capture, declined(), Declined("insufficient_funds".to_owned())),
            (
                Op::Confirm,
                error(402, "card_error", "expired_card"),
                Declined("expired_card".to_owned()),
            ),
            // Look
            (
                Op::Capture,
                error(400, invalid, "payment_intent_unexpected_state"),
                Look,
            ),
            (Op::Capture, error(400, invalid, "charge_already_captured"), Look),
            (Op::Refund, error(400, invalid, "charge_already_refunded"), Look),
            // Too old
            (Op::Capture, error(400, invalid, "charge_expired_for_capture"), Expired),
            (
                Op::Capture,
                error(400, invalid, "capture_charge_authorization_expired"),
                Expired,
            ),
            (Op::Confirm, error(400, invalid, "charge_expired_for_capture"), Refused),
            // Ours
            (Op::Capture, error(400, "idempotency_error", ""), KeyMisused),
            (Op::Capture, error(400, invalid, "parameter_invalid_integer"), Refused),
            (Op::Capture, error(404, invalid, "resource_missing"), Refused),
            (Op::Capture, error(401, invalid, ""), Config),
            (Op::Capture, error(403, invalid, ""), Config),
        ];
        for (op, reply, class) in table {
            assert_eq!(classify(op, &reply), class, "{op}: {reply:?}");
        }
    }

    #[test]
    fn an_intent_of_another_payment_is_not_ours() {
        let payment = Payment {
            id: crate::ids::PaymentId::new(),
            order_id: crate::ids::OrderId::new(),
            gateway_ref: Some("pi_1".to_owned()),
            payment_method: "pm_card_visa".to_owned(),
            currency: "GBP".to_owned(),
            amount: Cents(5),
            state: super::super::State::Capturing,
            captured: Cents(0),
            refunded: Cents(0),
            decline_code: None,
            version: 1,
            authorized_at: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
        };
        let ours = Intent::of(&intent()).expect("it is an intent");
        assert!(ours.belongs_to(&payment));
        assert!(
            !Intent {
                amount: 6,
                ..ours.clone()
            }
            .belongs_to(&payment)
        );
        assert!(
            !Intent {
                currency: "eur".to_owned(),
                ..ours.clone()
            }
            .belongs_to(&payment)
        );
        assert!(
            !Intent {
                id: "pi_2".to_owned(),
                ..ours.clone()
            }
            .belongs_to(&payment)
        );
        let marked = [("payment_id".to_owned(), "another".to_owned())].into();
        assert!(
            !Intent {
                metadata: marked,
                ..ours
            }
            .belongs_to(&payment)
        );
    }

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
