//! Our own client of the gateway through the cases that Stripe's clients are put through, and what it says on the wire
//! against the types that Stripe publishes.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::ids::{OrderId, PaymentId};
use domain::money::Cents;
use domain::payments::{self, Class, Gateway, IntentStatus, Op, Payment, Reply, classify};
use secrecy::SecretString;
use serde_json::{Value, json};
use simulator::gateway::Running;
use tempfile::TempDir;

use crate::clients::{a_gateway, installed, run};

const TIMEOUT: Duration = Duration::from_secs(10);
const CONFIRM: &str = "POST /v1/payment_intents/{id}/confirm";

/// A gateway, our client of it, and a payment.
struct Till {
    gateway: Running,
    client: Gateway,
    http: reqwest::Client,
    payment: Payment,
    _folder: TempDir,
}

impl Till {
    async fn new(method: &str) -> Self {
        let (gateway, folder) = a_gateway().await;
        let client = client(&gateway.url(), "sk_test_ours");
        Self {
            client,
            http: reqwest::Client::new(),
            payment: a_payment(method),
            gateway,
            _folder: folder,
        }
    }

    /// The same with an intent, whose next confirm is struck.
    async fn struck(fault: Value) -> Self {
        let mut till = Self::new("pm_card_visa").await;
        till.create().await;
        let mut order = json!({ "route": CONFIRM, "count": 1 });
        order
            .as_object_mut()
            .unwrap()
            .extend(fault.as_object().unwrap().clone());
        let url = format!("{}/_simulator/faults", till.gateway.url());
        let ordered = till.http.post(url).json(&order).send().await.unwrap();
        assert_eq!(ordered.status(), 200, "{}", ordered.text().await.unwrap());
        till
    }

    async fn create(&mut self) {
        let key = format!("create:{}", self.payment.id);
        let (reply, class) = self.send(Op::Create, 1000, &key).await;
        assert_eq!(class, Class::Ok, "{reply:?}");
        self.payment.gateway_ref = reply.intent().map(|intent| intent.id);
    }

    async fn send(&self, op: Op, amount: i64, key: &str) -> (Reply, Class) {
        let reply = self.client.send(op, &self.payment, Cents(amount), key, TIMEOUT).await;
        let class = classify(op, &reply);
        (reply, class)
    }

    async fn confirm(&self, key: &str) -> Class {
        self.send(Op::Confirm, 1000, key).await.1
    }

    async fn status(&self) -> IntentStatus {
        let id = self.payment.gateway_ref.as_deref().unwrap();
        self.client.intent(id, TIMEOUT).await.intent().unwrap().status
    }

    fn executed(&self, op: &str) -> usize {
        let ledger = self.gateway.ledger().unwrap();
        ledger
            .iter()
            .filter(|line| line["op"] == op && line["outcome"] == "ok")
            .count()
    }
}

fn client(url: &str, key: &str) -> Gateway {
    Gateway::new(url.parse().unwrap(), SecretString::from(key)).unwrap()
}

fn a_payment(method: &str) -> Payment {
    Payment {
        id: PaymentId::new(),
        order_id: OrderId::new(),
        gateway_ref: None,
        payment_method: method.to_owned(),
        currency: "GBP".to_owned(),
        amount: Cents(1000),
        state: payments::State::Authorizing,
        captured: Cents::ZERO,
        refunded: Cents::ZERO,
        decline_code: None,
        version: 1,
        authorized_at: None,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn our_client_takes_a_payment_in_part_and_gives_it_back() {
    let mut till = Till::new("pm_card_visa").await;
    till.create().await;
    assert_eq!(till.status().await, IntentStatus::RequiresPaymentMethod);
    assert_eq!(till.confirm("confirm:1").await, Class::Ok);
    let (reply, _) = till.send(Op::Capture, 900, "capture:1").await;
    assert_eq!(reply.intent().unwrap().amount_received, 900);
    let (reply, _) = till.send(Op::Refund, 400, "refund:1").await;
    assert!(
        reply
            .refund()
            .is_some_and(|refund| refund.stands() && refund.amount == 400)
    );
    assert_eq!(till.send(Op::Refund, 501, "refund:2").await.1, Class::Refused);
    assert_eq!(till.send(Op::Capture, 900, "capture:2").await.1, Class::Look);
    let id = till.payment.gateway_ref.clone().unwrap();
    let refunds = till.client.refunds(&id, TIMEOUT).await.unwrap();
    assert_eq!(refunds[0].metadata["refund_key"], "refund:1");
    let found = till.client.search(&till.payment, TIMEOUT).await.unwrap();
    assert_eq!((found.len(), found[0].id.as_str()), (1, id.as_str()));
}

#[tokio::test]
async fn our_client_reads_a_list_to_its_end() {
    let mut till = Till::new("pm_card_visa").await;
    till.create().await;
    till.confirm("confirm:1").await;
    till.send(Op::Capture, 1000, "capture:1").await;
    for n in 0..120 {
        assert_eq!(till.send(Op::Refund, 1, &format!("refund:{n}")).await.1, Class::Ok);
    }
    let id = till.payment.gateway_ref.clone().unwrap();
    let refunds = till.client.refunds(&id, TIMEOUT).await.unwrap();
    assert_eq!(refunds.len(), 120);
    let since = Utc::now() - chrono::TimeDelta::hours(1);
    let (first, has_more) = till.client.movements(since, None, TIMEOUT).await.unwrap();
    let (rest, is_not_all) = till
        .client
        .movements(since, Some(&first[99].id), TIMEOUT)
        .await
        .unwrap();
    assert_eq!((first.len(), has_more, rest.len(), is_not_all), (100, true, 21, false));
    assert_eq!(
        (rest[20].amount, rest[20].intent.as_deref()),
        (Cents(1000), Some(id.as_str()))
    );
}

#[tokio::test]
async fn our_client_seals_an_intent_against_what_comes_later() {
    let mut till = Till::new("pm_card_visa").await;
    till.create().await;
    assert_eq!(till.send(Op::Void, 1000, "void:1").await.1, Class::Ok);
    assert_eq!(till.confirm("confirm:1").await, Class::Look);
    assert_eq!(till.send(Op::Capture, 1000, "capture:1").await.1, Class::Look);
    assert_eq!(till.status().await, IntentStatus::Canceled);
    assert_eq!((till.executed("confirm"), till.executed("capture")), (0, 0));
}

#[tokio::test]
async fn our_client_knows_a_decline_and_every_class_of_error() {
    let mut till = Till::new("pm_card_chargeDeclinedInsufficientFunds").await;
    till.create().await;
    assert_eq!(
        till.confirm("confirm:1").await,
        Class::Declined("insufficient_funds".to_owned())
    );
    let mut expired = Till::new("pm_card_capture_expired").await;
    expired.create().await;
    expired.confirm("confirm:1").await;
    assert_eq!(expired.send(Op::Capture, 1000, "capture:1").await.1, Class::Expired);
    till.payment.gateway_ref = Some("pi_none".to_owned());
    assert_eq!(till.confirm("confirm:2").await, Class::Refused);
    till.client = client(&till.gateway.url(), "sk_live_none");
    assert_eq!(till.confirm("confirm:3").await, Class::Config);
}

#[tokio::test]
async fn our_client_is_answered_once_for_a_key() {
    let till = Till::new("pm_card_visa").await;
    let (first, _) = till.send(Op::Create, 1000, "create:1").await;
    let (again, _) = till.send(Op::Create, 1000, "create:1").await;
    assert!(again.answer().unwrap().replayed);
    assert_eq!(first.intent(), again.intent());
    assert_eq!(till.send(Op::Create, 1001, "create:1").await.1, Class::KeyMisused);
    assert_eq!(till.executed("create"), 1);
}

#[tokio::test]
async fn our_client_sends_the_same_key_again_and_there_is_one_effect() {
    for (fault, class) in [
        ("conflict", Class::KeyInUse),
        ("unavailable", Class::Unknown),
        ("reset", Class::Unknown),
        ("answer_lost", Class::Unknown),
        ("wrong_json", Class::Unknown),
    ] {
        let till = Till::struck(json!({ "fault": fault })).await;
        assert_eq!(till.confirm("confirm:1").await, class, "{fault}");
        assert_eq!(till.confirm("confirm:1").await, Class::Ok, "{fault}");
        assert_eq!(till.status().await, IntentStatus::RequiresCapture);
        assert_eq!(till.executed("confirm"), 1, "{fault}");
    }
}

#[tokio::test]
async fn our_client_knows_a_stored_failure_and_asks_what_became_of_it() {
    for (fault, status) in [
        ("error_stored", IntentStatus::RequiresPaymentMethod),
        ("error_stored_after", IntentStatus::RequiresCapture),
    ] {
        let till = Till::struck(json!({ "fault": fault })).await;
        let (first, class) = till.send(Op::Confirm, 1000, "confirm:1").await;
        assert_eq!((first.status(), class), (Some(500), Class::Unknown));
        let (again, class) = till.send(Op::Confirm, 1000, "confirm:1").await;
        assert_eq!(
            (again.code().as_str(), class),
            (payments::STORED_FAILURE, Class::Unknown)
        );
        assert_eq!(till.status().await, status, "{fault}");
    }
}

#[tokio::test]
async fn our_client_waits_as_long_as_it_is_told() {
    for fault in ["rate_limit", "lock_timeout"] {
        let till = Till::struck(json!({ "fault": fault, "retry_after_s": 7 })).await;
        let told = Class::Throttled(Some(Duration::from_secs(7)));
        assert_eq!(till.confirm("confirm:1").await, told, "{fault}");
        let left = till.client.quiet_left().unwrap();
        assert!(
            left > Duration::from_secs(5) && left <= Duration::from_secs(7),
            "{left:?}"
        );
        assert_eq!(till.executed("confirm"), 0);
    }
}

#[tokio::test]
async fn what_is_said_on_the_wire_has_stripes_published_types() {
    let Some(node) = installed("node", "node_modules/typescript") else {
        return;
    };
    let mut till = Till::new("pm_card_visa").await;
    let wire = Wire::tap(&till.gateway.url()).await;
    till.client = client(&wire.url, "sk_test_ours");
    till.create().await;
    till.confirm("confirm:1").await;
    till.send(Op::Capture, 900, "capture:1").await;
    till.send(Op::Refund, 400, "refund:1").await;
    let id = till.payment.gateway_ref.clone().unwrap();
    till.client.intent(&id, TIMEOUT).await;
    till.client.search(&till.payment, TIMEOUT).await.unwrap();
    till.client.refunds(&id, TIMEOUT).await.unwrap();
    till.client
        .movements(DateTime::UNIX_EPOCH, None, TIMEOUT)
        .await
        .unwrap();
    let ours = wire.said().len();
    assert_eq!(ours, 8, "each kind of request that our client makes");
    till.payment = a_payment("pm_card_visa");
    till.create().await;
    till.send(Op::Void, 1000, "void:1").await;

    // What else the simulator answers, so that all of it is what a client of Stripe's expects.
    let form = [
        ("url", "http://127.0.0.1:9/"),
        ("enabled_events[]", "*"),
        ("metadata[a]", "b"),
    ];
    wire.ask("POST", "/v1/webhook_endpoints", &form).await;
    for path in [
        "/v1/payment_intents?expand[]=data.latest_charge",
        "/v1/charges?expand[]=data.balance_transaction",
        "/v1/refunds?expand[]=data.charge&expand[]=data.payment_intent",
        "/v1/balance_transactions?type=charge",
        "/v1/events?limit=100",
        "/v1/webhook_endpoints",
    ] {
        wire.ask("GET", path, &[]).await;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for line in wire.said() {
        writeln!(&file, "{line}").unwrap();
    }
    let said = run(&node, "types.mjs", file.path().to_str().unwrap()).await;
    assert_eq!(said.trim(), "17 forms and 17 answers checked");
}

/// A gateway's line with somebody listening: passes each request on, and writes down what was said.
struct Wire {
    url: String,
    http: reqwest::Client,
    said: Arc<Mutex<Vec<Value>>>,
}

#[derive(Clone)]
struct Tap {
    to: String,
    http: reqwest::Client,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Wire {
    async fn tap(to: &str) -> Self {
        let (http, said) = (reqwest::Client::new(), Arc::default());
        let tap = Tap {
            to: to.to_owned(),
            http: http.clone(),
            said: Arc::clone(&said),
        };
        let router = Router::new().fallback(pass_on).with_state(tap);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, http, said }
    }

    fn said(&self) -> Vec<Value> {
        self.said.lock().unwrap().clone()
    }

    async fn ask(&self, method: &str, path: &str, form: &[(&str, &str)]) {
        let url = format!("{}{path}", self.url);
        let request = self
            .http
            .request(method.parse().unwrap(), url)
            .bearer_auth("sk_test_ours");
        let request = if form.is_empty() { request } else { request.form(form) };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text().await.unwrap());
    }
}

async fn pass_on(State(tap): State<Tap>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let url = format!("{}{}", tap.to, parts.uri);
    let mut headers = parts.headers.clone();
    headers.remove("host");
    let sent = tap
        .http
        .request(parts.method.clone(), url)
        .headers(headers)
        .body(body.clone());
    let answer = sent.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let query = parts.uri.query().unwrap_or("").as_bytes();
    let form: Vec<(String, String)> = form_urlencoded::parse(query)
        .chain(form_urlencoded::parse(&body))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let said = json!({
        "method": parts.method.as_str(), "path": parts.uri.path(), "form": form, "status": status, "answer": answer,
    });
    tap.said.lock().unwrap().push(said);
    (StatusCode::from_u16(status).unwrap(), text).into_response()
}
