//! Sagas over HTTP.

use axum::http::StatusCode;
use queue::saga::{self, Steps};
use serde_json::json;

use crate::app::App;

#[tokio::test]
async fn sagas_are_paged_and_one_is_shown_with_its_steps() {
    let app = App::new().await;
    let conn = &mut app.db.connect().await;
    for key in ["o-1", "o-2", "o-3"] {
        let steps = Steps::new()
            .step_with_undo(&jobs::PruneUniqueKeys {}, &jobs::PlanDueRoutes::default())
            .step(&jobs::ReconcilePayments {});
        saga::begin(conn, "checkout", key, steps).await.unwrap();
    }
    let mut keys = Vec::new();
    let mut path = "/api/v1/sagas?limit=2&state=running".to_owned();
    loop {
        let page = app.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        let page = page.json();
        keys.extend(page["items"].as_array().unwrap().iter().map(|saga| saga["key"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/sagas?limit=2&state=running&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(keys, ["o-3", "o-2", "o-1"]);

    let found = app.get("/api/v1/sagas?key=o-2&name=checkout").await.json();
    let saga = &found["items"][0];
    assert_eq!((&saga["steps"], &saga["steps_completed"]), (&json!(2), &json!(0)));
    let whole = app.get(&format!("/api/v1/sagas/{}", saga["id"])).await.json();
    assert_eq!((&whole["key"], &whole["state"]), (&json!("o-2"), &json!("running")));
    let first = &whole["jobs"][0];
    assert_eq!(
        (&first["step"], &first["kind"]),
        (&json!(1), &json!("prune_unique_keys"))
    );
    assert!(first["job_id"].is_i64() && first["outcome"].is_null(), "{first}");
    let others = [&whole["jobs"][1], &whole["jobs"][2]].map(|job| (job["kind"].clone(), job["undo"].clone()));
    let expected = [("reconcile_payments", false), ("plan_due_routes", true)];
    assert_eq!(others, expected.map(|(kind, undo)| (json!(kind), json!(undo))));

    assert!(
        app.get("/api/v1/sagas?key=o-9").await.json()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(app.get("/api/v1/sagas/999999").await.status, StatusCode::NOT_FOUND);
    let misspelt = app.get("/api/v1/sagas?state=runing").await;
    assert_eq!(misspelt.status, StatusCode::BAD_REQUEST, "{misspelt:?}");
}
