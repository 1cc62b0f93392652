//! Pages: nothing is skipped, nothing comes twice, and cursors cannot be made up.

use std::collections::HashSet;

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::app::App;

#[tokio::test]
async fn no_row_is_skipped_or_repeated_while_rows_are_inserted() {
    let app = App::new().await;
    let mut expected = HashSet::new();
    for _ in 0..23 {
        expected.insert(app.customer().await.to_string());
    }
    // Rows that were made at the same instant are told apart by their ids.
    sqlx::query("update customers set created_at = date_trunc('minute', created_at)")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/api/v1/customers?limit=4".to_owned();
    loop {
        let page = app.get(&path).await.json();
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        app.customer().await;
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/customers?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), seen.iter().collect::<HashSet<_>>().len(), "nothing twice");
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), expected);
}

#[tokio::test]
async fn a_cursor_belongs_to_its_list_its_filters_and_its_bytes() {
    let app = App::new().await;
    for _ in 0..3 {
        app.customer().await;
    }
    let page = app.get("/api/v1/customers?limit=1&search=ada").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let fits = app
        .get(&format!("/api/v1/customers?limit=2&search=ada&cursor={cursor}"))
        .await;
    assert_eq!(fits.status, StatusCode::OK, "the length of the page may change");
    let mut tampered = cursor.to_owned();
    let last = if tampered.ends_with('A') { "B" } else { "A" };
    tampered.replace_range(tampered.len() - 2..tampered.len() - 1, last);
    for wrong in [
        format!("/api/v1/customers?limit=1&search=bob&cursor={cursor}"),
        format!("/api/v1/customers?limit=1&cursor={cursor}"),
        format!("/api/v1/products?limit=1&search=ada&cursor={cursor}"),
        format!("/api/v1/customers?limit=1&search=ada&cursor={tampered}"),
    ] {
        let answer = app.get(&wrong).await;
        assert_eq!(
            answer.problem(),
            "400 invalid_parameters /cursor:invalid_cursor",
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn every_list_answers_an_empty_page() {
    let app = App::new().await;
    for list in [
        "orders",
        "customers",
        "products",
        "warehouses",
        "payments",
        "webhook-endpoints",
        "routes",
        "vehicles",
        "jobs",
        "dead-letters",
        "dead-letters/causes",
        "redrives",
        "queues",
        "limits",
        "schedules",
        "api-keys",
    ] {
        let answer = app.get(&format!("/api/v1/{list}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{list}: {answer:?}");
        assert!(
            answer.json()["items"].is_array() && answer.json()["next_cursor"].is_null(),
            "{list}"
        );
    }
}

#[tokio::test]
async fn customers_and_products_are_changed_by_whoever_read_them_last() {
    let app = App::new().await;
    let made = app
        .post("/api/v1/customers", json!({"name": "Ada", "email": "ada@example.test"}))
        .await;
    assert_eq!(
        (made.status, made.header("etag")),
        (StatusCode::CREATED, Some("\"1\"")),
        "{made:?}"
    );
    let path = made.header("location").unwrap();
    let taken = app
        .post("/api/v1/customers", json!({"name": "Ada", "email": "ADA@example.test"}))
        .await;
    assert_eq!(taken.problem(), "409 email_taken /email:email_taken");

    let patch = async |tag: &str, body| app.send(Method::PATCH, path, &[("if-match", tag)], Some(body)).await;
    let changed = patch("\"1\"", json!({"name": "Ada L."})).await;
    assert_eq!(
        (changed.status, changed.header("etag")),
        (StatusCode::OK, Some("\"2\"")),
        "{changed:?}"
    );
    assert_eq!(changed.json()["email"], "ada@example.test");
    assert_eq!(
        patch("\"1\"", json!({"name": "Late"})).await.problem(),
        "412 version_mismatch"
    );
    assert_eq!(
        patch("nonsense", json!({"name": "Late"})).await.problem(),
        "412 version_mismatch"
    );
    let incomplete = patch("*", json!({"lat": 1})).await;
    assert_eq!(incomplete.problem(), "422 validation_failed /lon:incomplete");
    // What the server owns is not in a patch.
    for (name, value) in changed.json().as_object().unwrap() {
        if !["name", "email", "address", "lat", "lon", "state"].contains(&name.as_str()) {
            let answer = patch("*", json!({name.as_str(): value})).await;
            assert_eq!(answer.problem(), format!("422 validation_failed /{name}:unknown_field"));
        }
    }
    assert_eq!(
        app.send(Method::DELETE, path, &[], None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(app.get(path).await.problem(), "404 not_found");
    let again = app
        .post("/api/v1/customers", json!({"name": "Ada", "email": "ada@example.test"}))
        .await;
    assert_eq!(again.status, StatusCode::CREATED, "the address is free again");

    let mug = json!({"sku": "MUG", "name": "Mug", "price_minor": 999, "currency": "GBP"});
    let made = app.post("/api/v1/products", mug.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(
        app.post("/api/v1/products", mug).await.problem(),
        "409 sku_taken /sku:sku_taken"
    );
    let path = made.header("location").unwrap();
    let dearer = app
        .send(Method::PATCH, path, &[], Some(json!({"price_minor": 1099})))
        .await;
    assert_eq!(dearer.json()["price_minor"], 1099);
    let wrong = app
        .post(
            "/api/v1/products",
            json!({"sku": "", "price_minor": -1, "currency": "pounds"}),
        )
        .await;
    assert_eq!(
        wrong.problem(),
        "422 validation_failed /currency:invalid /sku:too_short /name:missing /price_minor:out_of_range"
    );
    assert_eq!(
        app.send(Method::DELETE, path, &[], None).await.status,
        StatusCode::NO_CONTENT
    );
    assert!(
        app.get("/api/v1/products").await.json()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        app.get("/api/v1/products?with_retired=true").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn stock_is_initialised_once_received_once_and_corrected_with_a_reason() {
    let app = App::new().await;
    let warehouse = json!({"code": "NORTH", "name": "North", "lat": 51.5, "lon": -0.1});
    assert_eq!(
        app.post("/api/v1/warehouses", warehouse.clone()).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        app.post("/api/v1/warehouses", warehouse).await.problem(),
        "409 code_taken /code:code_taken"
    );
    let mug = json!({"sku": "MUG/1", "name": "Mug", "price_minor": 999, "currency": "GBP"});
    app.post("/api/v1/products", mug).await;

    let first = app
        .post("/api/v1/inventory", json!({"sku": "MUG/1", "on_hand": 5}))
        .await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let path = first.header("location").unwrap().to_owned();
    let again = app
        .post("/api/v1/inventory", json!({"sku": "MUG/1", "on_hand": 5}))
        .await;
    assert_eq!(again.problem(), "409 already_stocked");
    let unknown = app
        .post("/api/v1/inventory", json!({"sku": "NONE", "on_hand": 5}))
        .await;
    assert_eq!(unknown.problem(), "422 validation_failed /sku:unknown_sku");

    let receipt = json!({"qty": 7, "reference": "delivery 1"});
    assert_eq!(
        app.post(&format!("{path}/receipts"), receipt.clone()).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        app.post(&format!("{path}/receipts"), receipt).await.status,
        StatusCode::OK
    );
    let loss = json!({"by": -2, "reason": "broken"});
    let corrected = app.post(&format!("{path}/adjustments"), loss).await;
    assert_eq!(corrected.status, StatusCode::CREATED, "{corrected:?}");
    assert_eq!(app.get(&path).await.json()["available"], 10);
    let adjust = async |body| app.post(&format!("{path}/adjustments"), body).await.problem();
    assert_eq!(
        adjust(json!({"by": 0, "reason": "x"})).await,
        "422 validation_failed /by:out_of_range"
    );
    assert_eq!(adjust(json!({"by": 1})).await, "422 validation_failed /reason:missing");
    assert_eq!(adjust(json!({"by": -11, "reason": "x"})).await, "409 below_reserved");
    assert_eq!(
        adjust(json!({"by": 1, "reason": "x", "expected_version": 1})).await,
        "412 version_mismatch"
    );
    assert_eq!(
        adjust(json!({"by": 1, "reason": "x", "warehouse": "SOUTH"})).await,
        "422 validation_failed /warehouse:unknown_warehouse"
    );
}

#[tokio::test]
async fn queues_are_paused_and_dead_letters_discarded_with_a_reason() {
    let app = App::new().await;
    app.product("MUG", 1).await;
    let order = json!({"customer_id": app.customer().await, "lines": [{"sku": "MUG", "qty": 1}]});
    assert_eq!(app.post("/api/v1/orders", order).await.status, StatusCode::ACCEPTED);
    let pause = |path: &'static str| app.post(path, json!({"reason": "maintenance"}));
    assert_eq!(pause("/api/v1/queues/stock/pause").await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        pause("/api/v1/kinds/reserve_stock/pause").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(pause("/api/v1/queues/nonsense/pause").await.problem(), "404 not_found");
    assert_eq!(pause("/api/v1/kinds/nonsense/resume").await.problem(), "404 not_found");
    let queues = app.get("/api/v1/queues").await.json();
    assert_eq!(queues["items"][0]["name"], "stock");
    assert_eq!(queues["items"][0]["paused"]["actor"], "tester");
    assert_eq!(queues["items"][0]["paused_kinds"], json!(["reserve_stock"]));
    assert_eq!(
        pause("/api/v1/queues/stock/resume").await.status,
        StatusCode::NO_CONTENT
    );
    assert!(app.get("/api/v1/queues").await.json()["items"][0]["paused"].is_null());

    let health = app.get("/api/v1/queue-health").await.json();
    let tables = health["tables"].as_array().unwrap();
    assert!(tables.iter().any(|table| table["name"] == "jobs"), "{health}");
    assert!(
        health["holders"].is_array() && health["history_since"].is_string(),
        "{health}"
    );
    assert_eq!(
        app.post("/api/v1/dead-letters/7/discard", json!({"reason": "x"}))
            .await
            .problem(),
        "404 not_found"
    );
    assert_eq!(
        app.post("/api/v1/dead-letters/7/redrive", json!({"reason": "x"}))
            .await
            .problem(),
        "404 not_found"
    );
    let missing = app.post("/api/v1/dead-letters/7/discard", json!({})).await;
    assert_eq!(missing.problem(), "422 validation_failed /reason:missing");
}

#[tokio::test]
async fn the_slots_of_a_pool_are_changed_and_given_back() {
    let app = App::new().await;
    let path = "/api/v1/pools/stock/slots";
    let set = app.post(path, json!({"slots": 12, "reason": "a rush"})).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT, "{set:?}");
    let pools = app.get("/api/v1/pools").await.json();
    assert_eq!(
        (&pools["items"][0]["pool"], &pools["items"][0]["slots"]),
        (&json!("stock"), &json!(12))
    );
    let none = app.post(path, json!({"slots": 0, "reason": "x"})).await;
    assert_eq!(none.status, StatusCode::UNPROCESSABLE_ENTITY, "{none:?}");
    let back = app.post(path, json!({"reason": "over"})).await;
    assert_eq!(back.status, StatusCode::NO_CONTENT);
    assert_eq!(app.get("/api/v1/pools").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_job_is_cancelled_once_and_shows_its_log() {
    let app = App::new().await;
    app.product("MUG", 1).await;
    let order = json!({"customer_id": app.customer().await, "lines": [{"sku": "MUG", "qty": 1}]});
    assert_eq!(app.post("/api/v1/orders", order).await.status, StatusCode::ACCEPTED);
    let id = app.get("/api/v1/jobs").await.json()["items"][0]["id"].as_i64().unwrap();
    sqlx::query("insert into queue.logs (job_id, lines, dropped) values ($1, $2, 3)")
        .bind(id)
        .bind(json!([{"at": "2026-01-02T03:04:05Z", "attempt": 1, "line": "half way"}]))
        .execute(&app.db.pool)
        .await
        .unwrap();
    let path = format!("/api/v1/jobs/{id}");
    let shown = app.get(&path).await.json();
    assert_eq!(
        (&shown["state"], &shown["log_dropped"]),
        (&json!("available"), &json!(3))
    );
    assert_eq!(shown["log"][0]["line"], "half way");

    let cancel = format!("{path}/cancel");
    let cancelled = app.post(&cancel, json!({"reason": "a mistake"})).await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED, "{cancelled:?}");
    assert_eq!(cancelled.json(), json!({"job_id": id, "state": "cancelled"}));
    let shown = app.get(&path).await.json();
    assert_eq!(
        (&shown["state"], &shown["result"]["by"]),
        (&json!("cancelled"), &json!("tester"))
    );
    let again = app.post(&cancel, json!({"reason": "a mistake"})).await;
    assert_eq!(again.problem(), "409 job_ended", "{again:?}");
    let nowhere = app.post("/api/v1/jobs/77777/cancel", json!({"reason": "x"})).await;
    assert_eq!(nowhere.problem(), "404 not_found");
}

#[tokio::test]
async fn an_endpoint_shows_its_secret_once() {
    let app = App::new().await;
    let body = json!({"url": "http://127.0.0.1:9/hook", "event_types": ["order.*"]});
    let made = app.post("/api/v1/webhook-endpoints", body.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let secret = made.json()["secret"].as_str().unwrap().to_owned();
    let path = made.header("location").unwrap();
    assert!(secret.starts_with("whsec_") && !app.get(path).await.text.contains("whsec_"));
    let rotated = app
        .send(Method::POST, &format!("{path}/rotate-secret"), &[], None)
        .await;
    assert_ne!(rotated.json()["secret"], secret);
    let disabled = app
        .send(Method::PATCH, path, &[], Some(json!({"state": "disabled"})))
        .await;
    assert_eq!(disabled.json()["state"], "disabled", "{disabled:?}");
    let wrong = app
        .post(
            "/api/v1/webhook-endpoints",
            json!({"url": "ftp://x", "event_types": ["Nonsense"]}),
        )
        .await;
    assert_eq!(wrong.problem(), "422 validation_failed /url:invalid");
    assert_eq!(
        app.send(Method::DELETE, path, &[], None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(app.get(path).await.problem(), "404 not_found");
}
