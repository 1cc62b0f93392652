//! Events and balance transactions: listed, expanded, kept over a restart; delivered, signed, until they are taken.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Reply, Sandbox, until};

#[tokio::test]
async fn each_operation_tells_what_it_did() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_visa").await;
    sandbox.http.act(&id, "capture").await.ok();
    let form = [("payment_intent", id.as_str()), ("amount", "400")];
    let refund = sandbox.http.post("/v1/refunds", &form).await.ok();
    let declined = sandbox.intent("pm_card_chargeDeclined").await;
    sandbox.http.act(&declined, "confirm").await.error(402);
    sandbox.http.act(&declined, "cancel").await.ok();

    let listed = sandbox.http.get("/v1/events?limit=100").await.ok();
    assert_eq!(
        kinds(&listed),
        [
            "payment_intent.canceled",
            "payment_intent.payment_failed",
            "charge.failed",
            "payment_intent.created",
            "charge.refunded",
            "refund.created",
            "payment_intent.succeeded",
            "charge.captured",
            "payment_intent.amount_capturable_updated",
            "charge.succeeded",
            "payment_intent.created",
        ]
    );
    let succeeded = &listed["data"][6];
    assert_eq!(succeeded["data"]["object"]["amount_received"], 1000);
    assert_eq!(listed["data"][5]["data"]["object"]["id"], refund["id"]);
    // An event shows how things were, also when it is asked for later.
    let created = &listed["data"][10];
    assert_eq!(created["data"]["object"]["status"], "requires_confirmation");
    let event = format!("/v1/events/{}", created["id"].as_str().unwrap());
    assert_eq!(sandbox.http.get(&event).await.ok(), *created);

    let only = sandbox.http.get("/v1/events?type=refund.created").await.ok();
    assert_eq!(kinds(&only), ["refund.created"]);
    let first = listed["data"][0]["id"].as_str().unwrap();
    let page = sandbox
        .http
        .get(&format!("/v1/events?limit=2&starting_after={first}"))
        .await
        .ok();
    assert_eq!(kinds(&page), ["payment_intent.payment_failed", "charge.failed"]);
    assert_eq!(page["has_more"], true);

    let sandbox = sandbox.restarted().await;
    assert_eq!(sandbox.http.get("/v1/events?limit=100").await.ok(), listed);
}

#[tokio::test]
async fn every_movement_of_money_is_on_the_balance_once() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_visa").await;
    let form = [
        ("amount_to_capture", "900"),
        ("expand[]", "latest_charge.balance_transaction"),
        ("expand[]", "latest_charge"),
    ];
    let captured = sandbox
        .http
        .post(&format!("/v1/payment_intents/{id}/capture"), &form)
        .await
        .ok();
    let taken = &captured["latest_charge"]["balance_transaction"];
    assert_eq!(
        (taken["object"].as_str(), taken["amount"].as_i64()),
        (Some("balance_transaction"), Some(900))
    );
    let form = [
        ("payment_intent", id.as_str()),
        ("amount", "400"),
        ("expand[]", "charge"),
    ];
    let refund = sandbox.http.post("/v1/refunds", &form).await.ok();
    assert_eq!(refund["charge"]["object"], "charge");
    // Held and let go: nothing moved.
    let held = sandbox.authorised("pm_card_visa").await;
    sandbox.http.act(&held, "cancel").await.ok();
    let form = [
        ("amount", "50"),
        ("currency", "gbp"),
        ("confirm", "true"),
        ("payment_method", "pm_card_visa"),
    ];
    sandbox.http.post("/v1/payment_intents", &form).await.ok();

    let all = "/v1/balance_transactions?expand[]=data.source";
    let listed = sandbox.http.get(all).await.ok();
    let amounts: Vec<i64> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["amount"].as_i64().unwrap())
        .collect();
    assert_eq!(amounts, [50, -400, 900]);
    assert_eq!(listed["data"][1]["source"]["id"], refund["id"]);
    assert_eq!(listed["data"][2]["source"]["payment_intent"], id.as_str());
    let refunds = sandbox.http.get("/v1/balance_transactions?type=refund").await.ok();
    assert_eq!(refunds["data"][0]["source"], refund["id"]);
    let now = chrono::Utc::now().timestamp();
    let later = format!("/v1/balance_transactions?created[gt]={}", now + 60);
    assert_eq!(sandbox.http.get(&later).await.ok()["data"], json!([]));
    let since = format!(
        "/v1/balance_transactions?created[gte]={}&created[lt]={}",
        now - 60,
        now + 60
    );
    assert_eq!(sandbox.http.get(&since).await.ok()["data"].as_array().unwrap().len(), 3);

    let sandbox = sandbox.restarted().await;
    assert_eq!(sandbox.http.get(all).await.ok(), listed);
}

#[tokio::test]
async fn an_endpoint_is_created_changed_and_deleted_and_outlives_a_restart() {
    let sandbox = Sandbox::new().await;
    let form = [
        ("url", "http://127.0.0.1:9/hook"),
        ("enabled_events[]", "payment_intent.succeeded"),
    ];
    let path = "/v1/webhook_endpoints";
    let made = sandbox.http.post_with_key("e", path, &form).await.unwrap().ok();
    let again = sandbox.http.post_with_key("e", path, &form).await.unwrap();
    assert_eq!((again.is_replayed(), again.ok()), (true, made.clone()));
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let changed = sandbox
        .http
        .post(&one, &[("disabled", "true"), ("description", "off")])
        .await
        .ok();
    assert_eq!(
        (changed["status"].as_str(), changed.get("secret")),
        (Some("disabled"), None)
    );

    let sandbox = sandbox.restarted().await;
    assert_eq!(sandbox.http.get(&one).await.ok(), changed);
    let deleted = sandbox
        .http
        .send(sandbox.http.request("DELETE", &one))
        .await
        .unwrap()
        .ok();
    assert_eq!(deleted["deleted"], true);
    sandbox.http.get(&one).await.error(404);
    assert_eq!(sandbox.http.get(path).await.ok()["data"], json!([]));
    for form in [
        vec![("url", "ftp://x"), ("enabled_events[]", "*")],
        vec![("url", "http://x")],
        vec![("url", "http://x"), ("enabled_events[]", "order.created")],
        vec![("enabled_events[]", "*")],
    ] {
        sandbox.http.post(path, &form).await.error(400);
    }
}

#[tokio::test]
async fn an_event_is_signed_and_sent_until_it_is_taken() {
    let sandbox = Sandbox::new().await;
    let receiver = Receiver::new(2).await;
    let secret = receiver.register(&sandbox, "payment_intent.succeeded").await;
    let id = sandbox.authorised("pm_card_visa").await;
    sandbox.http.act(&id, "capture").await.ok();
    until("the third try", || receiver.letters().len() == 3).await;

    let letters = receiver.letters();
    let (headers, body) = &letters[2];
    assert!(is_signed(&secret, headers, body));
    assert!(!is_signed("whsec_other", headers, body));
    assert!(
        letters.iter().all(|(_, other)| other == body),
        "a retry sends the same bytes"
    );
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (event["type"].as_str(), event["data"]["object"]["id"].as_str()),
        (Some("payment_intent.succeeded"), Some(id.as_str()))
    );
    settled(&sandbox).await;
    let seen = sandbox
        .http
        .get(&format!("/v1/events/{}", event["id"].as_str().unwrap()))
        .await
        .ok();
    assert_eq!(seen["pending_webhooks"], 0);
    let post = sandbox.http.get("/_simulator/post").await.ok();
    assert_eq!((post["taken"].as_u64(), post["refused"].as_u64()), (Some(1), Some(2)));
}

#[tokio::test]
async fn events_come_twice_late_out_of_order_or_never_when_that_is_ordered() {
    let sandbox = Sandbox::new().await;
    let receiver = Receiver::new(0).await;
    receiver.register(&sandbox, "payment_intent.created").await;
    let order = async |fault: Value| {
        sandbox
            .http
            .send(sandbox.http.bare("DELETE", "/_simulator/faults"))
            .await
            .unwrap()
            .ok();
        sandbox.http.order("faults", fault).await.ok();
    };
    order(json!({ "route": "webhooks", "fault": "duplicate" })).await;
    let twice = sandbox.intent("pm_card_visa").await;
    settled(&sandbox).await;
    assert_eq!(receiver.intents(), [twice.as_str(), twice.as_str()]);

    order(json!({ "route": "webhooks", "fault": "lost" })).await;
    sandbox.intent("pm_card_visa").await;
    settled(&sandbox).await;
    assert_eq!(receiver.intents().len(), 2);

    order(json!({ "route": "webhooks", "fault": "late", "delay_ms": 400, "count": 1 })).await;
    let late = sandbox.intent("pm_card_visa").await;
    let early = sandbox.intent("pm_card_visa").await;
    settled(&sandbox).await;
    assert_eq!(receiver.intents()[2..], [early.as_str(), late.as_str()]);

    order(json!({ "route": "webhooks", "fault": "reorder", "delay_ms": 500, "seed": 3 })).await;
    let mut sent = Vec::new();
    for _ in 0..8 {
        sent.push(sandbox.intent("pm_card_visa").await);
    }
    settled(&sandbox).await;
    let mut came = receiver.intents()[4..].to_vec();
    assert_ne!(came, sent);
    came.sort();
    sent.sort();
    assert_eq!(came, sent);
}

fn kinds(listed: &Value) -> Vec<&str> {
    listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

/// Waits until nothing is waiting or on its way.
async fn settled(sandbox: &Sandbox) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let post: Reply = sandbox.http.get("/_simulator/post").await;
        let post = post.ok();
        if post["waiting"] == 0 && post["sending"] == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{post}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// By the description of the header alone: `t` and `v1`, HMAC-SHA256 of `t.body` in hexadecimal.
fn is_signed(secret: &str, headers: &HeaderMap, body: &str) -> bool {
    let header = headers["stripe-signature"].to_str().unwrap();
    let (at, signature) = header.split_once(',').unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{}.{body}", at.strip_prefix("t=").unwrap()).as_bytes());
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    signature == format!("v1={hex}")
}

type Letters = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// Takes letters, after refusing the first few.
struct Receiver {
    url: String,
    letters: Letters,
}

impl Receiver {
    async fn new(refusals: usize) -> Self {
        let letters = Letters::default();
        let router = Router::new()
            .route(
                "/hook",
                post(
                    async move |State(letters): State<Letters>, headers: HeaderMap, body: String| {
                        let mut letters = letters.lock().unwrap();
                        letters.push((headers, body));
                        match letters.len() > refusals {
                            true => StatusCode::OK,
                            false => StatusCode::INTERNAL_SERVER_ERROR,
                        }
                    },
                ),
            )
            .with_state(Arc::clone(&letters));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, letters }
    }

    /// Registers it for one kind of event; answers the secret.
    async fn register(&self, sandbox: &Sandbox, kind: &str) -> String {
        sandbox.http.order("post", json!({ "retry_ms": 20 })).await.ok();
        let form = [("url", self.url.as_str()), ("enabled_events[]", kind)];
        let made = sandbox.http.post("/v1/webhook_endpoints", &form).await.ok();
        made["secret"].as_str().unwrap().to_owned()
    }

    fn letters(&self) -> Vec<(HeaderMap, String)> {
        self.letters.lock().unwrap().clone()
    }

    /// The intents that the letters are about.
    fn intents(&self) -> Vec<String> {
        let of = |(_, body): &(HeaderMap, String)| {
            let event: Value = serde_json::from_str(body).unwrap();
            event["data"]["object"]["id"].as_str().unwrap().to_owned()
        };
        self.letters().iter().map(of).collect()
    }
}
