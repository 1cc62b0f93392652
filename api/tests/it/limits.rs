//! Limits over HTTP.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{Answer, App};

async fn put(app: &App, body: Value) -> Answer {
    app.send(Method::PUT, "/api/v1/limits", &[], Some(body)).await
}

async fn remove(app: &App, name: &str) -> Answer {
    let body = json!({ "name": name, "reason": "over" });
    app.send(Method::DELETE, "/api/v1/limits", &[], Some(body)).await
}

#[tokio::test]
async fn a_limit_whose_name_has_a_slash_is_set_seen_and_removed() {
    let app = App::new().await;
    let body = json!({"name": "endpoint/7", "concurrency": 8, "rate": 50, "burst": 10, "breaker_failures": 5,
                      "breaker_seconds": 30, "reason": "a test"});
    let made = put(&app, body).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    let made = made.json();
    assert_eq!(
        (&made["concurrency"], &made["rate"], &made["burst"], &made["actor"]),
        (&json!(8), &json!(50.0), &json!(10), &json!("tester"))
    );
    let replaced = put(
        &app,
        json!({"name": "endpoint/7", "concurrency": 0, "reason": "none at all"}),
    )
    .await
    .json();
    assert_eq!((&replaced["concurrency"], &replaced["rate"]), (&json!(0), &Value::Null));
    put(&app, json!({"name": "queue/webhooks", "rate": 0.5, "reason": "slowly"})).await;

    for path in ["/api/v1/limits?name=endpoint/7", "/api/v1/limits?name=endpoint%2F7"] {
        let found = app.get(path).await.json();
        assert_eq!(found["items"], json!([replaced]), "{path}");
    }
    let all = app.get("/api/v1/limits").await.json();
    let names: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| &limit["name"])
        .collect();
    assert_eq!(names, ["endpoint/7", "queue/webhooks"]);

    assert_eq!(remove(&app, "endpoint/7").await.status, StatusCode::NO_CONTENT);
    assert_eq!(remove(&app, "endpoint/7").await.problem(), "404 not_found");
    assert_eq!(
        app.get("/api/v1/limits?name=endpoint/7").await.json()["items"],
        json!([])
    );
    let audited: Vec<String> =
        sqlx::query_scalar("select action || ' ' || actor || ' ' || (detail ->> 'reason') from queue.audit where subject = 'limit endpoint/7' order by id")
            .fetch_all(&app.db.pool)
            .await
            .unwrap();
    assert_eq!(
        audited,
        [
            "set limit tester a test",
            "set limit tester none at all",
            "remove limit tester over"
        ]
    );
}

#[tokio::test]
async fn an_open_breaker_is_seen_and_closed() {
    let app = App::new().await;
    put(
        &app,
        json!({"name": "endpoint", "breaker_failures": 2, "reason": "a test"}),
    )
    .await;
    sqlx::query("select queue.limit_failed('endpoint/7', 'it answers 503', null) from generate_series(1, 2)")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let open = app.get("/api/v1/limits?name=endpoint").await.json();
    let open = &open["items"][0];
    assert_eq!(open["open_breakers"], 1);
    assert_eq!(
        (&open["keys"][0]["key"], &open["keys"][0]["cause"]),
        (&json!("endpoint/7"), &json!("it answers 503"))
    );
    assert!(open["keys"][0]["open_until"].is_string());
    // Twice: who closes a closed one is content.
    for _ in 0..2 {
        let closed = app
            .post(
                "/api/v1/limits/close-breaker",
                json!({"key": "endpoint/7", "reason": "it is back"}),
            )
            .await;
        assert_eq!(closed.status, StatusCode::NO_CONTENT, "{closed:?}");
    }
    assert_eq!(app.get("/api/v1/limits").await.json()["items"][0]["open_breakers"], 0);
    let audited: i64 = sqlx::query_scalar("select count(*) from queue.audit where action = 'close breaker'")
        .fetch_one(&app.db.pool)
        .await
        .unwrap();
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused_with_its_field_and_replaces_none() {
    let app = App::new().await;
    put(&app, json!({"name": "gateway", "concurrency": 3, "reason": "a test"})).await;
    for (body, problem) in [
        (json!({}), "422 validation_failed /name:missing /reason:missing"),
        (json!({"name": "gateway", "reason": "x"}), "422 invalid"),
        (json!({"name": "gateway/", "rate": 1, "reason": "x"}), "422 invalid"),
        (json!({"name": "queue", "rate": 1, "reason": "x"}), "422 invalid"),
        (
            json!({"name": "queue/webhoks", "rate": 1, "reason": "x"}),
            "422 validation_failed /name:no_such_queue",
        ),
        (
            json!({"name": "gateway", "rate": 0, "reason": "x"}),
            "422 validation_failed /rate:out_of_range",
        ),
        (
            json!({"name": "gateway", "concurrency": -1, "reason": "x"}),
            "422 validation_failed /concurrency:out_of_range",
        ),
        (
            json!({"name": "gateway", "concurrency": "3", "burst": 0, "reason": "x"}),
            "422 validation_failed /concurrency:wrong_type /burst:out_of_range",
        ),
        (
            json!({"name": "gateway", "rate": 1, "per_second": 1, "reason": "x"}),
            "422 validation_failed /per_second:unknown_field",
        ),
    ] {
        let refused = put(&app, body.clone()).await;
        assert_eq!(refused.problem(), problem, "{body}");
    }
    let wrong = app.get("/api/v1/limits?key=gateway").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{wrong:?}");
    let limits = app.get("/api/v1/limits").await.json();
    assert_eq!(limits["items"].as_array().unwrap().len(), 1);
    assert_eq!(limits["items"][0]["concurrency"], 3);
}
