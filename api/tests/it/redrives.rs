//! Dead letters by cause, and redriven in bulk.

use axum::http::StatusCode;
use serde_json::json;

use crate::app::App;

/// Two letters of one cause, one of another, all of a kind that exists; the payload of the last has a text for a number.
async fn bury(app: &App) {
    sqlx::query(
        "insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, reason,
                                         error_class, error_code, message, report, created_at)
         select n, 'maintenance', 'prune_finished_jobs', 1, '{}', 0, 1, 1, 1, 'permanent', 'permanent', 'broken',
                case when n < 3 then 'part ' || n || ' broke' else 'out of paint' end, '{}', clock_timestamp()
         from generate_series(1, 3) n",
    )
    .execute(&app.db.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn causes_are_listed_page_by_page_and_redriven_by_name() {
    let app = App::new().await;
    bury(&app).await;
    let first = app.get("/api/v1/dead-letters/causes?limit=1").await.json();
    assert_eq!(first["items"][0]["pattern"], "part # broke");
    assert_eq!(first["items"][0]["letters"], 2);
    assert_eq!(first["items"][0]["sample"], json!([2, 1]));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = app
        .get(&format!("/api/v1/dead-letters/causes?limit=1&cursor={cursor}"))
        .await
        .json();
    assert_eq!(second["items"][0]["pattern"], "out of paint");
    assert!(second["next_cursor"].is_null());

    let cause = first["items"][0]["cause"].as_str().unwrap();
    let preview = app.post("/api/v1/redrives/preview", json!({"causes": [cause]})).await;
    assert_eq!(preview.status, StatusCode::OK, "{preview:?}");
    assert_eq!(preview.json()["letters"], 2);
    let started = app
        .post(
            "/api/v1/redrives",
            json!({"causes": [cause], "reason": "mended", "canary": 1, "per_second": 0.5}),
        )
        .await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{started:?}");
    let path = started.header("location").unwrap().to_owned();
    let seen = app.get(&path).await.json();
    assert_eq!(
        (&seen["state"], &seen["counts"]["waiting"]),
        (&json!("running"), &json!(2)),
        "{seen}"
    );
    assert_eq!(
        (&seen["actor"], &seen["causes"][0]["cause"]),
        (&json!("tester"), &json!(cause))
    );
    assert_eq!(app.get("/api/v1/redrives").await.json()["items"][0]["id"], seen["id"]);

    let change = async |verb: &str| app.post(&format!("{path}/{verb}"), json!({"reason": "x"})).await;
    assert_eq!(change("pause").await.json()["why"], json!(["paused by tester: x"]));
    assert_eq!(change("pause").await.problem(), "409 wrong_campaign_state");
    assert_eq!(change("resume").await.json()["state"], "running");
    assert_eq!(change("cancel").await.json()["state"], "cancelled");
    assert_eq!(change("resume").await.problem(), "409 wrong_campaign_state");
    assert_eq!(
        app.post("/api/v1/redrives/7777/pause", json!({"reason": "x"}))
            .await
            .problem(),
        "404 not_found"
    );
}

#[tokio::test]
async fn a_plan_that_makes_no_sense_is_refused_and_starts_nothing() {
    let app = App::new().await;
    bury(&app).await;
    let start = async |body| app.post("/api/v1/redrives", body).await.problem();
    assert_eq!(start(json!({"reason": "x"})).await, "422 invalid_plan");
    assert_eq!(
        start(json!({"kind": "prune_finished_jobs"})).await,
        "422 validation_failed /reason:missing"
    );
    assert_eq!(
        start(json!({"reason": "x", "kind": "no_such_kind"})).await,
        "409 nothing_selected"
    );
    let wrong = start(
        json!({"reason": "x", "kind": "prune_finished_jobs", "canary": 0, "failure_share": 1,
                             "per_second": -1, "in_flight_max": 0, "patch": [], "skip_unreadable": "no"}),
    )
    .await;
    for fault in [
        "/canary:out_of_range",
        "/failure_share:out_of_range",
        "/per_second:out_of_range",
        "/in_flight_max:out_of_range",
        "/patch:wrong_type",
        "/skip_unreadable:wrong_type",
    ] {
        assert!(wrong.contains(fault), "{fault} in {wrong}");
    }
    sqlx::query("update queue.dead_letters set kind = 'capture_payment'")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let unreadable = app
        .post("/api/v1/redrives", json!({"reason": "x", "kind": "capture_payment"}))
        .await;
    assert_eq!(unreadable.problem(), "409 payloads_unreadable");
    let body = unreadable.json();
    assert_eq!(
        (&body["count"], &body["unreadable"][0]["id"]),
        (&json!(3), &json!(1)),
        "{body}"
    );
    assert!(
        body["unreadable"][0]["error"]
            .as_str()
            .unwrap()
            .contains("missing field `payment_id`"),
        "{body}"
    );
    let campaigns: i64 = sqlx::query_scalar("select count(*) from queue.campaigns")
        .fetch_one(&app.db.pool)
        .await
        .unwrap();
    assert_eq!(campaigns, 0);
}
