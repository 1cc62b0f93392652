//! Why a job is not running, and what an order waits for.

use axum::http::StatusCode;
use serde_json::json;

use crate::app::App;

#[tokio::test]
async fn a_job_tells_why_it_is_not_running() {
    let app = App::new().await;
    app.product("MUG", 1).await;
    let order = json!({"customer_id": app.customer().await, "lines": [{"sku": "MUG", "qty": 1}]});
    assert_eq!(app.post("/api/v1/orders", order).await.status, StatusCode::ACCEPTED);
    let id = app.get("/api/v1/jobs").await.json()["items"][0]["id"].as_i64().unwrap();
    let pause = app
        .post("/api/v1/queues/stock/pause", json!({"reason": "stocktaking"}))
        .await;
    assert_eq!(pause.status, StatusCode::NO_CONTENT);

    let why = app.get(&format!("/api/v1/jobs/{id}/why")).await;
    assert_eq!(why.status, StatusCode::OK, "{why:?}");
    let why = why.json();
    assert_eq!(why["causes"][0]["code"], "queue_paused", "{why:#}");
    assert_eq!(why["causes"][0]["holders"][0]["name"], "tester");
    assert_eq!(
        why["causes"][0]["remedy"],
        "orderfleet queues resume stock --reason mended"
    );
    assert_eq!(why["causes"][1]["code"], "no_worker");
    assert_eq!(
        why["predicted_start"],
        json!({"from": null, "to": null, "basis": "not before somebody resumes the queue stock"})
    );
}

#[tokio::test]
async fn an_order_tells_why_each_of_its_jobs_waits_and_which_dead_letter_stopped_it() {
    let app = App::new().await;
    app.product("MUG", 5).await;
    let order = json!({"customer_id": app.customer().await, "lines": [{"sku": "MUG", "qty": 1}]});
    let order = app.post("/api/v1/orders", order).await;
    let path = format!("{}/why", order.header("location").unwrap());
    let why = app.get(&path).await;
    assert_eq!(why.status, StatusCode::OK, "{why:?}");
    let why = why.json();
    assert_eq!(why["status"], "pending", "{why:#}");
    assert_eq!(why["text"], "it is pending; 1 job of it has not ended");
    assert_eq!(why["jobs"][0]["kind"], "reserve_stock");
    assert_eq!(why["jobs"][0]["causes"][0]["code"], "no_worker");

    // It cannot be reserved: its job dies and holds it.
    for sql in [
        "update orders set confirm_with = 'nonsense'",
        "update queue.jobs set attempts_max = 1",
    ] {
        sqlx::query(sql).execute(&app.db.pool).await.unwrap();
    }
    assert_eq!(app.work().await.buried, 1);
    let why = app.get(&path).await.json();
    let job = why["jobs"][0]["job"].as_i64().unwrap();
    let text = why["text"].as_str().unwrap();
    let stopped = format!("it is on hold: reserve_stock_dead: dead letter {job} stopped it (");
    assert!(text.starts_with(&stopped), "{why:#}");
    assert_eq!(why["jobs"][0]["causes"][0]["code"], "dead");

    sqlx::query("update orders set confirm_with = null")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let redrive = format!("/api/v1/dead-letters/{job}/redrive");
    let redriven = app.post(&redrive, json!({"reason": "mended"})).await;
    assert!(redriven.status.is_success(), "{redriven:?}");
    app.work().await;
    let why = app.get(&path).await.json();
    assert_eq!(
        (&why["status"], &why["jobs"]),
        (&json!("reserved"), &json!([])),
        "{why:#}"
    );
    assert!(
        why["text"]
            .as_str()
            .unwrap()
            .starts_with("it waits to be confirmed, until ")
    );
}

#[tokio::test]
async fn what_is_not_there_and_what_is_no_id_is_not_found() {
    let app = App::new().await;
    for path in [
        "/api/v1/jobs/77777/why",
        "/api/v1/jobs/-1/why",
        "/api/v1/jobs/99999999999999999999/why",
        "/api/v1/jobs/seven/why",
        "/api/v1/orders/7/why",
        "/api/v1/orders/01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77/why",
    ] {
        assert_eq!(app.get(path).await.problem(), "404 not_found", "{path}");
    }
    let asked = app.get("/api/v1/jobs/7/why?verbose=1").await;
    assert!(asked.status.is_client_error(), "{asked:?}");
}
