//! Orders from submission to money, with the real jobs and a real gateway.

use std::time::Duration;

use axum::http::StatusCode;
use domain::services::Settings;
use domain::webhooks::store::NewEndpoint;
use domain::webhooks::{self, sign};
use serde_json::{Value, json};
use simulator::{gateway, receiver};

use crate::app::App;

const MINUTE: Duration = Duration::from_secs(60);

struct Shop {
    app: App,
    _gateway: gateway::Running,
    files: tempfile::TempDir,
}

impl Shop {
    async fn new() -> Shop {
        let files = tempfile::tempdir().unwrap();
        let config = gateway::Config {
            port: 0,
            ledger: files.path().join("ledger.jsonl"),
            seed: 1,
        };
        let gateway = gateway::start(config).await.unwrap();
        let app = App::with(&format!("http://{}/", gateway.addr), Settings::default()).await;
        app.product("MUG", 10).await;
        Shop {
            app,
            _gateway: gateway,
            files,
        }
    }

    async fn confirm(&self, order: &Value, method: &str, key: &str) -> crate::app::Answer {
        let path = format!("/api/v1/orders/{}/confirm", order["id"].as_str().unwrap());
        self.app
            .post_with(&path, &[("idempotency-key", key)], json!({"payment_method": method}))
            .await
    }

    async fn order(&self, order: &Value) -> Value {
        self.app
            .get(&format!("/api/v1/orders/{}", order["id"].as_str().unwrap()))
            .await
            .json()
    }

    async fn cancel(&self, order: &Value) -> crate::app::Answer {
        let path = format!("/api/v1/orders/{}/cancel", order["id"].as_str().unwrap());
        self.app.post(&path, json!({"reason": "changed my mind"})).await
    }
}

#[tokio::test]
async fn an_order_is_confirmed_once_and_captured_after_the_window() {
    let shop = Shop::new().await;
    let order = shop.app.reserved("MUG", 2).await;
    let first = shop.confirm(&order, "pm_card_visa", "k1").await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{first:?}");
    assert_eq!(first.json()["payment_status"], "authorizing");
    shop.app.work().await;
    let confirmed = shop.order(&order).await;
    assert_eq!(
        (&confirmed["status"], &confirmed["payment_status"]),
        (&json!("confirmed"), &json!("authorized"))
    );
    let again = shop.confirm(&order, "pm_card_visa", "k2").await;
    assert_eq!(
        (again.status, &again.json()["status"]),
        (StatusCode::OK, &json!("confirmed"))
    );
    assert_eq!(shop.confirm(&order, "pm_card_visa", "k1").await.text, first.text);
    assert_eq!(
        shop.app.get("/api/v1/payments").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    shop.app.db.fast_forward(11 * MINUTE).await;
    shop.app.work().await;
    let captured = shop.order(&order).await;
    assert_eq!(captured["payment_status"], "captured", "{captured}");
    assert_eq!(captured["payments"][0]["captured_minor"], 1998);
    assert_eq!(captured["lines"][0]["reservations"][0]["state"], "committed");
    assert_eq!(
        captured["history"].as_array().unwrap().len() as i64,
        captured["version"].as_i64().unwrap()
    );

    let payment = format!("/api/v1/payments/{}", captured["payments"][0]["id"].as_str().unwrap());
    let refund = async |amount: i64, key: &str| {
        let body = json!({"amount_minor": amount, "reason": "chipped"});
        shop.app
            .post_with(&format!("{payment}/refunds"), &[("idempotency-key", key)], body)
            .await
    };
    let too_much = refund(1999, "r0").await;
    assert_eq!(
        too_much.problem(),
        "422 validation_failed /amount_minor:too_much",
        "{too_much:?}"
    );
    assert_eq!(refund(500, "r1").await.status, StatusCode::ACCEPTED);
    assert_eq!(refund(500, "r1").await.header("idempotent-replayed"), Some("true"));
    shop.app.work().await;
    assert_eq!(shop.app.get(&payment).await.json()["refunded_minor"], 500);
}

#[tokio::test]
async fn a_payment_tells_its_story_and_is_let_go_inside_the_window() {
    let shop = Shop::new().await;
    let order = shop.app.reserved("MUG", 2).await;
    shop.confirm(&order, "pm_card_visa", "k1").await;
    shop.app.work().await;
    let payments = shop.app.get("/api/v1/payments").await.json();
    let payment = format!("/api/v1/payments/{}", payments["items"][0]["id"].as_str().unwrap());
    let void = async |key: &str| {
        let path = format!("{payment}/void");
        shop.app
            .post_with(&path, &[("idempotency-key", key)], json!({"reason": "a mistake"}))
            .await
    };
    let without_key = shop.app.post(&format!("{payment}/void"), json!({})).await;
    assert_eq!(without_key.status, StatusCode::BAD_REQUEST);
    assert_eq!(void("v1").await.status, StatusCode::ACCEPTED);
    assert_eq!(void("v1").await.header("idempotent-replayed"), Some("true"));
    shop.app.work().await;
    assert_eq!(shop.order(&order).await["status"], "cancelled");
    assert_eq!(shop.app.get(&payment).await.json()["state"], "voided");

    let mut story = Vec::new();
    let mut next = format!("{payment}/timeline?limit=4");
    loop {
        let page = shop.app.get(&next).await.json();
        for line in page["items"].as_array().unwrap() {
            let word = |name: &str| line[name].as_str().unwrap_or("payment").to_owned();
            story.push(format!("{} {}", word("op"), word("state")));
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("{payment}/timeline?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(
        story,
        [
            "payment authorizing",
            "create pending",
            "create succeeded",
            "confirm pending",
            "confirm succeeded",
            "payment authorized",
            "void pending",
            "payment voiding",
            "void succeeded",
            "payment voided",
        ]
    );
    let changed = sqlx::query("update payment_events set state = 'captured'")
        .execute(&shop.app.db.pool)
        .await;
    assert!(changed.unwrap_err().to_string().contains("only ever added to"));
    let nobody = "/api/v1/payments/00000000-0000-7000-8000-000000000000";
    assert_eq!(
        shop.app.get(&format!("{nobody}/timeline")).await.status,
        StatusCode::NOT_FOUND
    );
    let nothing = shop
        .app
        .post_with(&format!("{nobody}/void"), &[("idempotency-key", "v2")], json!({}))
        .await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_cancel_inside_the_window_gives_all_back_and_one_after_it_is_refused() {
    let shop = Shop::new().await;
    let (early, late) = (shop.app.reserved("MUG", 3).await, shop.app.reserved("MUG", 4).await);
    shop.confirm(&early, "pm_card_visa", "k1").await;
    shop.confirm(&late, "pm_card_visa", "k2").await;
    shop.app.work().await;

    assert_eq!(shop.cancel(&early).await.status, StatusCode::ACCEPTED);
    assert_eq!(
        shop.cancel(&early).await.status,
        StatusCode::OK,
        "cancelling again changes nothing"
    );
    shop.app.work().await;
    let cancelled = shop.order(&early).await;
    assert_eq!(
        (&cancelled["status"], &cancelled["payment_status"]),
        (&json!("cancelled"), &json!("voided"))
    );
    assert_eq!(shop.cancel(&early).await.status, StatusCode::OK);
    assert_eq!(shop.app.get("/api/v1/inventory/MUG").await.json()["available"], 6);

    // To one millisecond after its end.
    let left: f64 = sqlx::query_scalar(
        "select extract(epoch from cancel_until - clock_timestamp())::float8 from orders where id = $1::uuid",
    )
    .bind(late["id"].as_str().unwrap())
    .fetch_one(&shop.app.db.pool)
    .await
    .unwrap();
    shop.app.db.fast_forward(Duration::from_secs_f64(left + 0.001)).await;
    let refused = shop.cancel(&late).await;
    assert_eq!(refused.problem(), "409 cancel_window_closed");
    assert!(refused.json()["deadline"].is_string());
    assert_eq!(shop.order(&late).await["status"], "confirmed");
}

#[tokio::test]
async fn a_declined_card_rejects_the_order_and_a_short_stock_too() {
    let shop = Shop::new().await;
    let order = shop.app.reserved("MUG", 1).await;
    shop.confirm(&order, "pm_card_chargeDeclined", "k1").await;
    shop.app.work().await;
    let rejected = shop.order(&order).await;
    assert_eq!(
        (&rejected["status"], &rejected["payment_status"]),
        (&json!("rejected"), &json!("declined"))
    );

    let body = json!({"customer_id": shop.app.customer().await, "lines": [{"sku": "MUG", "qty": 11}]});
    let headers = [("idempotency-key", "k2"), ("prefer", "wait=10")];
    let working = async {
        let count = "select count(*) from orders";
        testkit::eventually("the order to be taken in", async || {
            let orders: i64 = sqlx::query_scalar(count).fetch_one(&shop.app.db.pool).await.unwrap();
            (orders == 2).then_some(())
        })
        .await;
        shop.app.work().await;
    };
    let (short, ()) = tokio::join!(shop.app.post_with("/api/v1/orders", &headers, body.clone()), working);
    assert_eq!(short.problem(), "409 order_rejected");
    assert!(short.json()["reason"]["code"].is_string(), "{short:?}");
    let again = shop.app.post_with("/api/v1/orders", &headers, body).await;
    assert_eq!((again.status, again.text), (short.status, short.text));
}

#[tokio::test]
async fn create_and_confirm_is_one_request_under_one_key() {
    let shop = Shop::new().await;
    let body = json!({
        "customer_id": shop.app.customer().await,
        "lines": [{"sku": "MUG", "qty": 1}],
        "payment_method": "pm_card_visa",
    });
    let path = "/api/v1/orchestrations/create-and-confirm";
    let taken = shop
        .app
        .post_with(path, &[("idempotency-key", "k1")], body.clone())
        .await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "{taken:?}");
    shop.app.work().await;
    let order = shop.app.get(taken.header("location").unwrap()).await.json();
    assert_eq!(order["status"], "confirmed", "{order}");
    assert_eq!(
        shop.app
            .post_with(path, &[("idempotency-key", "k1")], body.clone())
            .await
            .text,
        taken.text
    );
    let mut card = body;
    card["payment_method"] = json!("4242424242424242");
    let refused = shop.app.post_with(path, &[("idempotency-key", "k2")], card).await;
    assert_eq!(refused.problem(), "422 validation_failed /payment_method:invalid");
}

#[tokio::test]
async fn one_trace_goes_from_the_request_through_the_jobs_to_the_webhook() {
    let shop = Shop::new().await;
    let secret = sign::generate_secret();
    let config = receiver::Config {
        port: 0,
        log: shop.files.path().join("receiver.jsonl"),
        secrets: vec![secret.clone()],
    };
    let receiver = receiver::start(config).await.unwrap();
    let endpoint = NewEndpoint {
        url: receiver.url("a"),
        event_types: vec!["order.*".to_owned()],
        secret: Some(secret),
        ..NewEndpoint::default()
    };
    webhooks::store::create(
        &mut shop.app.db.pool.acquire().await.unwrap(),
        &shop.app.services.keyring,
        endpoint,
        true,
    )
    .await
    .unwrap();

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let order = json!({"customer_id": shop.app.customer().await, "lines": [{"sku": "MUG", "qty": 1}]});
    let given = format!("00-{TRACE}-00f067aa0ba902b7-01");
    for traceparent in [given.as_str(), "00-nonsense"] {
        let headers = [("traceparent", traceparent)];
        let taken = shop.app.post_with("/api/v1/orders", &headers, order.clone()).await;
        assert_eq!(taken.status, StatusCode::ACCEPTED, "{taken:?}");
        shop.app.work().await;
    }
    let log = receiver.log().unwrap();
    let sent = |n: usize| {
        (
            log[n]["type"].as_str().unwrap(),
            log[n]["traceparent"].as_str().unwrap(),
        )
    };
    let of_given = |traceparent: &str| traceparent.starts_with(&format!("00-{TRACE}-")) && traceparent != given;
    // Told in the request's own transaction, and told by the job that followed from it.
    assert!(sent(0).0 == "order.created" && of_given(sent(0).1), "{log:#?}");
    assert!(sent(1).0 == "order.reserved" && of_given(sent(1).1), "{log:#?}");
    // A header that cannot be read begins another trace, which is as whole.
    let trace_of = |n: usize| sent(n).1.split('-').nth(1).unwrap();
    assert_eq!(log.len(), 4);
    assert!(trace_of(2) == trace_of(3) && trace_of(2) != TRACE, "{log:#?}");
}
