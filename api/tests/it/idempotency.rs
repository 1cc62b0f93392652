//! The same request twice is one request, and its answer is the same to the byte.

use axum::http::StatusCode;
use domain::access::Scope;
use serde_json::{Value, json};

use crate::app::{App, key};

async fn an_order_body(app: &App) -> Value {
    app.product("MUG", 1000).await;
    json!({"customer_id": app.customer().await, "lines": [{"sku": "MUG", "qty": 1}]})
}

async fn orders(app: &App) -> i64 {
    sqlx::query_scalar("select count(*) from orders")
        .fetch_one(&app.db.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_repeat_gets_the_same_bytes_and_makes_nothing() {
    let app = App::new().await;
    let body = an_order_body(&app).await;
    let first = app
        .post_with("/api/v1/orders", &[("idempotency-key", "k1")], body.clone())
        .await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{first:?}");
    assert_eq!(first.header("idempotent-replayed"), None);
    app.work().await;
    for name in ["Idempotency-Key", "X-Idempotency-Key"] {
        let again = app.post_with("/api/v1/orders", &[(name, "k1")], body.clone()).await;
        assert_eq!((again.status, &again.text), (first.status, &first.text));
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    let both = [("idempotency-key", "k1"), ("x-idempotency-key", "k1")];
    assert_eq!(
        app.post_with("/api/v1/orders", &both, body.clone()).await.text,
        first.text
    );
    assert_eq!(orders(&app).await, 1);

    let mut other = body.clone();
    other["lines"][0]["qty"] = json!(2);
    let mismatch = app
        .post_with("/api/v1/orders", &[("idempotency-key", "k1")], other)
        .await;
    assert_eq!(mismatch.problem(), "422 idempotency_key_reused");

    // Another principal's key is another key.
    let mut stranger = App {
        key: key(&app.db, "stranger", &[Scope::Admin]).await,
        ..app
    };
    let theirs = stranger
        .post_with("/api/v1/orders", &[("idempotency-key", "k1")], body)
        .await;
    assert_eq!(theirs.header("idempotent-replayed"), None);
    assert_ne!(theirs.text, first.text);
    stranger.key.clear();
    assert_eq!(orders(&stranger).await, 2);
}

#[tokio::test]
async fn a_key_that_is_missing_too_long_or_double_is_refused() {
    let app = App::new().await;
    let body = an_order_body(&app).await;
    let long = "k".repeat(256);
    let fits = "k".repeat(255);
    let cases: [(&[(&str, &str)], &str); 4] = [
        (
            &[("idempotency-key", &long)],
            "400 idempotency_key_invalid /idempotency-key:invalid",
        ),
        (
            &[("x-idempotency-key", " ")],
            "400 idempotency_key_invalid /x-idempotency-key:invalid",
        ),
        (
            &[("idempotency-key", "é")],
            "400 idempotency_key_invalid /idempotency-key:invalid",
        ),
        (
            &[("idempotency-key", "a"), ("x-idempotency-key", "b")],
            "400 idempotency_key_invalid /x-idempotency-key:invalid",
        ),
    ];
    for (headers, expected) in cases {
        assert_eq!(
            app.post_with("/api/v1/orders", headers, body.clone()).await.problem(),
            expected
        );
    }
    assert_eq!(orders(&app).await, 0);
    let fit = app
        .post_with("/api/v1/orders", &[("idempotency-key", &fits)], body.clone())
        .await;
    assert_eq!(fit.status, StatusCode::ACCEPTED);

    let order = app.reserved("MUG", 1).await;
    let path = format!("/api/v1/orders/{}/confirm", order["id"].as_str().unwrap());
    let missing = app.post(&path, json!({"payment_method": "pm_card_visa"})).await;
    assert_eq!(
        missing.problem(),
        "400 idempotency_key_required /idempotency-key:missing"
    );
    let missing = app.post("/api/v1/orchestrations/create-and-confirm", body).await;
    assert_eq!(
        missing.problem(),
        "400 idempotency_key_required /idempotency-key:missing"
    );
}

#[tokio::test]
async fn a_deterministic_refusal_is_remembered_and_leaves_nothing_else() {
    let app = App::new().await;
    let body = json!({"customer_id": app.customer().await, "lines": [{"sku": "LATER", "qty": 1}]});
    let before = app.footprint().await;
    let keyed = [("idempotency-key", "k1")];
    let first = app.post_with("/api/v1/orders", &keyed, body.clone()).await;
    assert_eq!(first.problem(), "422 validation_failed /lines/0/sku:unknown_sku");
    assert_eq!(app.footprint().await, before);
    app.product("LATER", 1).await;
    let again = app.post_with("/api/v1/orders", &keyed, body.clone()).await;
    assert_eq!(
        (again.status, &again.text),
        (first.status, &first.text),
        "the first answer stands"
    );
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("content-type"), Some("application/problem+json"));
    assert_eq!(
        app.post_with("/api/v1/orders", &[("idempotency-key", "k2")], body)
            .await
            .status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn twins_at_the_same_instant_make_one_order() {
    let app = App::new().await;
    let body = an_order_body(&app).await;
    for round in 0..5 {
        let key = format!("twin-{round}");
        let keyed = [("idempotency-key", key.as_str())];
        let twins: Vec<_> = (0..4)
            .map(|_| app.post_with("/api/v1/orders", &keyed, body.clone()))
            .collect();
        let answers = futures::future::join_all(twins).await;
        let fresh = answers
            .iter()
            .filter(|answer| answer.header("idempotent-replayed").is_none())
            .count();
        assert_eq!(fresh, 1, "{answers:?}");
        assert!(
            answers
                .iter()
                .all(|answer| answer.text == answers[0].text && answer.status == StatusCode::ACCEPTED)
        );
    }
    assert_eq!(orders(&app).await, 5);
}

#[tokio::test]
async fn a_twin_that_waits_too_long_is_told_so() {
    let app = App::new().await;
    let body = an_order_body(&app).await;
    // Another transaction has the key and does not end.
    let mut other = app.db.pool.begin().await.unwrap();
    let ttl = std::time::Duration::from_secs(60);
    domain::idempotency::store::begin(&mut other, "tester", "k1", &[0; 32], ttl)
        .await
        .unwrap();
    let twin = app
        .post_with("/api/v1/orders", &[("idempotency-key", "k1")], body.clone())
        .await;
    assert_eq!(twin.problem(), "409 idempotency_key_in_progress");
    assert!(twin.header("retry-after").is_some());
    other.rollback().await.unwrap();
    let twin = app
        .post_with("/api/v1/orders", &[("idempotency-key", "k1")], body)
        .await;
    assert_eq!(twin.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn who_waits_for_the_outcome_is_told_the_same_when_asking_again() {
    let app = App::new().await;
    let body = an_order_body(&app).await;
    let headers = [("idempotency-key", "k1"), ("prefer", "wait=10")];
    let working = async {
        testkit::eventually("the order to be taken in", async || {
            (orders(&app).await == 1).then_some(())
        })
        .await;
        // While the first caller waits, its twin is told that it is under way.
        let twin = app.post_with("/api/v1/orders", &headers, body.clone()).await;
        assert_eq!(twin.problem(), "409 idempotency_key_in_progress");
        app.work().await;
    };
    let (first, ()) = tokio::join!(app.post_with("/api/v1/orders", &headers, body.clone()), working);
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    assert_eq!(first.json()["status"], "reserved");
    assert_eq!(first.header("preference-applied"), Some("wait=10"));
    let again = app.post_with("/api/v1/orders", &headers, body.clone()).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(orders(&app).await, 1);
}
