//! Every bad input is a clear problem with a pointer, and writes nothing.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::app::App;

#[tokio::test]
async fn an_order_that_is_wrong_is_told_where_and_leaves_nothing() {
    let app = App::new().await;
    let customer = app.customer().await;
    let blocked = app.customer().await;
    let deleted = app.customer().await;
    app.product("MUG", 10).await;
    app.product("OLD", 10).await;
    sqlx::query("update customers set state = 'blocked' where id = $1")
        .bind(blocked)
        .execute(&app.db.pool)
        .await
        .unwrap();
    sqlx::query("update customers set deleted_at = now() where id = $1")
        .bind(deleted)
        .execute(&app.db.pool)
        .await
        .unwrap();
    sqlx::query("update products set retired_at = now() where sku = 'OLD'")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let line = |sku: &str, qty: Value| json!({"sku": sku, "qty": qty});
    let order = |lines: Value| json!({"customer_id": customer, "lines": lines});
    let before = app.footprint().await;

    let cases: Vec<(Value, &str)> = vec![
        (json!({}), "422 validation_failed /customer_id:missing /lines:missing"),
        (json!([]), "422 validation_failed :wrong_type"),
        (json!("order"), "422 validation_failed :wrong_type"),
        (
            json!({"customer_id": 7, "lines": {}}),
            "422 validation_failed /customer_id:wrong_type /lines:wrong_type",
        ),
        (
            json!({"customer_id": "x", "lines": [7]}),
            "422 validation_failed /customer_id:invalid /lines/0:wrong_type",
        ),
        (order(json!([])), "422 validation_failed /lines:out_of_range"),
        (
            order(json!([line("MUG", json!(0))])),
            "422 validation_failed /lines/0/qty:out_of_range",
        ),
        (
            order(json!([line("MUG", json!(-1))])),
            "422 validation_failed /lines/0/qty:out_of_range",
        ),
        (
            order(json!([line("MUG", json!(1_000_001))])),
            "422 validation_failed /lines/0/qty:out_of_range",
        ),
        (
            order(json!([line("MUG", json!(u64::MAX))])),
            "422 validation_failed /lines/0/qty:out_of_range",
        ),
        (
            order(json!([line("MUG", json!(1.5))])),
            "422 validation_failed /lines/0/qty:wrong_type",
        ),
        (
            order(json!([line("MUG", json!("1"))])),
            "422 validation_failed /lines/0/qty:wrong_type",
        ),
        (
            order(json!([line("MUG", Value::Null)])),
            "422 validation_failed /lines/0/qty:wrong_type",
        ),
        (
            order(json!([line("", json!(1))])),
            "422 validation_failed /lines/0/sku:too_short",
        ),
        (
            order(json!([line("a\u{0}b", json!(1))])),
            "422 validation_failed /lines/0/sku:invalid",
        ),
        (
            order(json!([line("NONE", json!(1))])),
            "422 validation_failed /lines/0/sku:unknown_sku",
        ),
        (
            order(json!([line("OLD", json!(1))])),
            "422 validation_failed /lines/0/sku:product_retired",
        ),
        (
            order(json!([line("MUG", json!(1)), line("MUG", json!(2))])),
            "422 validation_failed /lines/1/sku:duplicate_sku",
        ),
        (
            json!({"customer_id": customer, "lines": [{"sku": "MUG", "qty": 1, "price_minor": 1}], "status": "paid"}),
            "422 validation_failed /lines/0/price_minor:unknown_field /status:unknown_field",
        ),
        (
            json!({"customer_id": blocked, "lines": [line("MUG", json!(1))]}),
            "422 validation_failed /customer_id:customer_inactive",
        ),
        (
            json!({"customer_id": deleted, "lines": [line("MUG", json!(1))]}),
            "422 validation_failed /customer_id:customer_inactive",
        ),
        (
            json!({"customer_id": uuid::Uuid::now_v7(), "lines": [line("MUG", json!(1))]}),
            "422 validation_failed /customer_id:unknown_customer",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(
            app.post("/api/v1/orders", body.clone()).await.problem(),
            expected,
            "{body}"
        );
    }
    assert_eq!(app.footprint().await, before);
}

#[tokio::test]
async fn every_writing_endpoint_refuses_what_it_does_not_know() {
    let app = App::new().await;
    app.product("MUG", 10).await;
    let order = app.reserved("MUG", 1).await;
    let id = order["id"].as_str().unwrap();
    let customer = app.customer().await;
    let product: uuid::Uuid = sqlx::query_scalar("select id from products limit 1")
        .fetch_one(&app.db.pool)
        .await
        .unwrap();
    let endpoint = json!({"url": "http://127.0.0.1:9/hook", "event_types": ["*"]});
    let endpoint = app.post("/api/v1/webhook-endpoints", endpoint).await;
    let endpoint = endpoint.header("location").unwrap().to_owned();
    let before = app.footprint().await;

    let paths = [
        (Method::POST, "/api/v1/orders".to_owned()),
        (Method::POST, "/api/v1/orchestrations/create-and-confirm".to_owned()),
        (Method::POST, format!("/api/v1/orders/{id}/confirm")),
        (Method::POST, format!("/api/v1/orders/{id}/cancel")),
        (Method::POST, "/api/v1/customers".to_owned()),
        (Method::PATCH, format!("/api/v1/customers/{customer}")),
        (Method::POST, "/api/v1/products".to_owned()),
        (Method::PATCH, format!("/api/v1/products/{product}")),
        (Method::POST, "/api/v1/warehouses".to_owned()),
        (Method::POST, "/api/v1/inventory".to_owned()),
        (Method::POST, "/api/v1/inventory/MUG/receipts".to_owned()),
        (Method::POST, "/api/v1/inventory/MUG/adjustments".to_owned()),
        (Method::POST, "/api/v1/webhook-endpoints".to_owned()),
        (Method::PATCH, endpoint.clone()),
        (Method::POST, format!("{endpoint}/confirm")),
        (Method::POST, format!("{endpoint}/replay")),
        (Method::POST, "/api/v1/vehicles".to_owned()),
        (Method::POST, "/api/v1/dead-letters/1/redrive".to_owned()),
        (Method::POST, "/api/v1/dead-letters/1/discard".to_owned()),
        (Method::POST, "/api/v1/redrives".to_owned()),
        (Method::POST, "/api/v1/redrives/preview".to_owned()),
        (Method::POST, "/api/v1/redrives/1/pause".to_owned()),
        (Method::POST, "/api/v1/redrives/1/resume".to_owned()),
        (Method::POST, "/api/v1/redrives/1/cancel".to_owned()),
        (Method::POST, "/api/v1/queues/stock/pause".to_owned()),
        (Method::POST, "/api/v1/kinds/reserve_stock/pause".to_owned()),
        (Method::PUT, "/api/v1/limits".to_owned()),
        (Method::DELETE, "/api/v1/limits".to_owned()),
        (Method::POST, "/api/v1/limits/close-breaker".to_owned()),
        (Method::POST, "/api/v1/schedules".to_owned()),
        (Method::PATCH, "/api/v1/schedules/reconcile_payments".to_owned()),
        (Method::DELETE, "/api/v1/schedules/reconcile_payments".to_owned()),
        (Method::POST, "/api/v1/schedules/reconcile_payments/reset".to_owned()),
        (Method::POST, "/api/v1/schedules/reconcile_payments/run".to_owned()),
        (Method::POST, "/api/v1/jobs/1/cancel".to_owned()),
        (Method::POST, "/api/v1/pools/stock/slots".to_owned()),
        (Method::POST, "/api/v1/api-keys".to_owned()),
    ];
    for (method, path) in paths {
        let keyed = path.ends_with("confirm");
        let key = uuid::Uuid::now_v7().to_string();
        let headers: Vec<(&str, &str)> = if keyed { vec![("idempotency-key", &key)] } else { vec![] };
        let unknown = app
            .send(method.clone(), &path, &headers, Some(json!({"nonsense": 1})))
            .await;
        let faults = unknown.json()["errors"].as_array().unwrap().clone();
        assert_eq!(
            unknown.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{method} {path}: {unknown:?}"
        );
        assert!(
            faults
                .iter()
                .any(|fault| fault["pointer"] == "/nonsense" && fault["code"] == "unknown_field"),
            "{method} {path}: {unknown:?}"
        );

        let key = uuid::Uuid::now_v7().to_string();
        let headers: Vec<(&str, &str)> = if keyed { vec![("idempotency-key", &key)] } else { vec![] };
        let wrong = app.send(method.clone(), &path, &headers, Some(json!(["a list"]))).await;
        assert_eq!(wrong.problem(), "422 validation_failed :wrong_type", "{method} {path}");

        let send = |media: &'static str, body: &'static str| {
            let request = Request::builder()
                .method(method.clone())
                .uri(&path)
                .header("x-api-key", &app.key);
            app.raw(request.header("content-type", media).body(Body::from(body)).unwrap())
        };
        assert_eq!(
            send("application/json", "{\"a\":").await.problem(),
            "400 broken_json :broken_json",
            "{path}"
        );
        assert_eq!(
            send("text/plain", "{}").await.problem(),
            "415 unsupported_media_type",
            "{path}"
        );
        assert_eq!(
            send("application/json", "\u{1}").await.problem(),
            "400 broken_json :broken_json",
            "{path}"
        );
    }
    assert_eq!(app.footprint().await, before);
}

#[tokio::test]
async fn too_much_too_deep_and_nowhere_are_problems_too() {
    let app = App::new().await;
    let large = "x".repeat(api::BODY_BYTES_MAX + 1);
    let large = app.post("/api/v1/orders", json!({"reference": large})).await;
    assert_eq!(large.problem(), "413 body_too_large");

    let stream = Body::from_stream(futures::stream::iter(
        (0..300).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024])),
    ));
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/orders")
        .header("x-api-key", &app.key);
    let large = app
        .raw(request.header("content-type", "application/json").body(stream).unwrap())
        .await;
    assert_eq!(large.problem(), "413 body_too_large", "without a content-length, too");

    let deep = "[".repeat(10_000);
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/orders")
        .header("x-api-key", &app.key);
    let deep = app
        .raw(
            request
                .header("content-type", "application/json")
                .body(Body::from(deep))
                .unwrap(),
        )
        .await;
    assert_eq!(deep.problem(), "400 broken_json :broken_json");

    assert_eq!(app.get("/api/v1/nowhere").await.problem(), "404 not_found");
    assert_eq!(app.get("/nowhere").await.problem(), "404 not_found");
    assert_eq!(app.get("/api/v1/orders/not-an-id").await.problem(), "404 not_found");
    assert_eq!(app.get("/api/v1/orders/%FF").await.problem(), "404 not_found");
    assert_eq!(
        app.get(&format!("/api/v1/orders/{}", uuid::Uuid::now_v7()))
            .await
            .problem(),
        "404 not_found"
    );
    assert_eq!(
        app.get("/api/v1/queues/nonsense/pause").await.problem(),
        "405 method_not_allowed"
    );
    let wrong = app.send(Method::DELETE, "/api/v1/orders", &[], None).await;
    assert_eq!(wrong.problem(), "405 method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("GET, POST"));
    let wrong = app.send(Method::POST, "/livez", &[], None).await;
    assert_eq!(wrong.problem(), "405 method_not_allowed");
    let empty = app.send(Method::POST, "/api/v1/orders", &[], None).await;
    assert_eq!(empty.problem(), "422 validation_failed :wrong_type");
}

#[tokio::test]
async fn queries_are_read_as_strictly_as_bodies() {
    let app = App::new().await;
    let cases = [
        ("limit=0", "400 invalid_parameters /limit:out_of_range"),
        ("limit=101", "400 invalid_parameters /limit:out_of_range"),
        ("limit=ten", "400 invalid_parameters /limit:out_of_range"),
        ("cursor=abc", "400 invalid_parameters /cursor:invalid_cursor"),
        ("cursor=", "400 invalid_parameters /cursor:invalid_cursor"),
        ("status=nonsense", "400 invalid_parameters /status:invalid"),
        (
            "from=yesterday&to=2026",
            "400 invalid_parameters /from:invalid /to:invalid",
        ),
        ("customer_id=1", "400 invalid_parameters /customer_id:invalid"),
        ("limit=5&limit=6", "400 invalid_parameters /limit:repeated"),
        ("nonsense=1", "400 invalid_parameters /nonsense:unknown_parameter"),
    ];
    for (query, expected) in cases {
        assert_eq!(
            app.get(&format!("/api/v1/orders?{query}")).await.problem(),
            expected,
            "{query}"
        );
    }
}
