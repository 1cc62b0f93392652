//! Plans: asked for, listed, read and drawn.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use domain::access::Scope;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{App, key};

/// A warehouse with a van, and shipments for tomorrow; one weighs too much.
async fn a_day(app: &App, shipments: i32) -> (Uuid, String) {
    let mut conn = app.db.pool.acquire().await.unwrap();
    let warehouse = testkit::a_warehouse(&mut conn, "MAIN").await;
    testkit::a_vehicle(&mut conn, warehouse, "van <1>").await;
    let customer = testkit::a_customer(&mut conn).await;
    for step in 0..shipments {
        let order = testkit::an_order(&mut conn, customer, &[]).await;
        sqlx::query(
            "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                    window_start, window_end, service_seconds)
             select gen_random_uuid(), $1, w.id, 'unplanned', (clock_timestamp() at time zone 'UTC')::date + 1,
                    w.lat + $3 / 200.0, w.lon - $3 / 300.0, case when $3 = 0 then 900000000 else 1000 end, 1000, 28800, 64800, 300
             from warehouses w where w.id = $2",
        )
        .bind(order)
        .bind(warehouse)
        .bind(f64::from(step))
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    let tomorrow: String = sqlx::query_scalar("select ((clock_timestamp() at time zone 'UTC')::date + 1)::text")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    (warehouse, tomorrow)
}

async fn planned(app: &App, shipments: i32) -> Value {
    let (warehouse, tomorrow) = a_day(app, shipments).await;
    let asked = app
        .post(
            "/api/v1/route-plans",
            json!({"warehouse_id": warehouse, "date": tomorrow}),
        )
        .await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{asked:?}");
    assert_eq!(asked.json()["jobs"].as_array().unwrap().len(), 1);
    testkit::fast_forward(&app.db.pool, Duration::from_secs(30)).await;
    app.work().await;
    let listed = app.get(asked.header("location").unwrap()).await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    listed["items"][0].clone()
}

#[tokio::test]
async fn a_day_is_asked_for_planned_and_read_with_its_reasons() {
    let app = App::new().await;
    let plan = planned(&app, 4).await;
    assert_eq!(
        (
            &plan["stops"],
            &plan["unassigned"],
            &plan["active"],
            &plan["approximate"]
        ),
        (&json!(3), &json!(1), &json!(true), &json!(false))
    );
    let id = plan["id"].as_str().unwrap();
    let read = app.get(&format!("/api/v1/route-plans/{id}")).await.json();
    assert_eq!(read["routes"][0]["vehicle"], "van <1>");
    let seqs: Vec<i64> = read["routes"][0]["stops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stop| stop["seq"].as_i64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(read["left_out"][0]["reason"], "too_big");
    assert!(
        read["left_out"][0]["why"]
            .as_str()
            .unwrap()
            .starts_with("too big for every vehicle: ")
    );

    let superseded = app.get("/api/v1/route-plans?state=superseded").await.json();
    assert_eq!(superseded["items"], json!([]));
}

#[tokio::test]
async fn every_drawing_has_its_type_a_tag_and_may_run_nothing() {
    let app = App::new().await;
    let plan = planned(&app, 4).await;
    let id = plan["id"].as_str().unwrap();
    let route = app.get("/api/v1/routes").await.json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let drawings = [
        (
            format!("/route-plans/{id}/geojson"),
            "application/geo+json",
            "{\"features\"",
        ),
        (
            format!("/route-plans/{id}/polylines"),
            "application/json",
            "{\"plan_id\"",
        ),
        (format!("/route-plans/{id}/map.svg"), "image/svg+xml", "<svg "),
        (format!("/route-plans/{id}/gantt.svg"), "image/svg+xml", "<svg "),
        (
            format!("/route-plans/{id}/list.html"),
            "text/html; charset=utf-8",
            "<!doctype html>",
        ),
        (
            format!("/route-plans/{id}/list.txt"),
            "text/plain; charset=utf-8",
            "MAIN ",
        ),
        (
            format!("/routes/{route}/geojson"),
            "application/geo+json",
            "{\"features\"",
        ),
    ];
    for (path, media, start) in drawings {
        let path = format!("/api/v1{path}");
        let drawn = app.get(&path).await;
        assert_eq!(drawn.status, StatusCode::OK, "{path}");
        assert_eq!(drawn.header("content-type"), Some(media), "{path}");
        assert!(drawn.text.starts_with(start), "{path}: {}", &drawn.text[..80]);
        assert!(
            media.contains("json") || media.contains("plain") || !drawn.text.contains("van <1>"),
            "{path}"
        );
        assert!(
            drawn
                .header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'none'; ")
        );
        assert_eq!(drawn.header("cache-control"), Some("private, no-cache"));
        let tag = drawn.header("etag").unwrap();
        let again = app.send(Method::GET, &path, &[("if-none-match", tag)], None).await;
        assert_eq!(
            (again.status, again.text.as_str()),
            (StatusCode::NOT_MODIFIED, ""),
            "{path}"
        );
        let changed = app
            .send(Method::GET, &path, &[("if-none-match", "\"other\"")], None)
            .await;
        assert_eq!(changed.status, StatusCode::OK, "{path}");
    }
    let nobody = Uuid::now_v7();
    for rest in [
        "",
        "/geojson",
        "/polylines",
        "/map.svg",
        "/gantt.svg",
        "/list.html",
        "/list.txt",
    ] {
        for id in [nobody.to_string(), "mug".to_owned()] {
            let answer = app.get(&format!("/api/v1/route-plans/{id}{rest}")).await;
            assert_eq!(answer.problem(), "404 not_found");
        }
    }
}

#[tokio::test]
async fn a_day_that_cannot_be_planned_is_refused_with_a_pointer() {
    let app = App::new().await;
    let (warehouse, tomorrow) = a_day(&app, 0).await;
    let jobs = "select count(*) from queue.jobs";
    let cases = [
        (json!({}), "422 validation_failed /date:missing /warehouse_id:missing"),
        (
            json!({"warehouse_id": warehouse, "date": "23.11.2026"}),
            "422 validation_failed /date:invalid",
        ),
        (
            json!({"warehouse_id": warehouse, "date": "2020-01-01"}),
            "422 validation_failed /date:out_of_range",
        ),
        (
            json!({"warehouse_id": warehouse, "date": "9999-12-31"}),
            "422 validation_failed /date:out_of_range",
        ),
        (
            json!({"warehouse_id": Uuid::now_v7(), "date": tomorrow}),
            "422 validation_failed /warehouse_id:unknown_warehouse",
        ),
        (
            json!({"warehouse_id": warehouse, "date": tomorrow, "now": true}),
            "422 validation_failed /now:unknown_field",
        ),
    ];
    for (body, expected) in cases {
        let said = app.post("/api/v1/route-plans", body.clone()).await.problem();
        let sorted = |text: &str| {
            let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&said), sorted(expected), "{body}");
    }
    let count: i64 = sqlx::query_scalar(jobs).fetch_one(&app.db.pool).await.unwrap();
    assert_eq!(count, 0);
    for query in [
        "date=tomorrow",
        "state=old",
        "warehouse_id=MAIN",
        "limit=0",
        "colour=red",
    ] {
        assert_eq!(
            app.get(&format!("/api/v1/route-plans?{query}")).await.status,
            StatusCode::BAD_REQUEST,
            "{query}"
        );
    }
    let reader = key(&app.db, "reader", &[Scope::RoutesRead]).await;
    let body = json!({"warehouse_id": warehouse, "date": tomorrow});
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/route-plans")
        .header("x-api-key", reader)
        .header("content-type", "application/json");
    let refused = app.raw(request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_warehouse_gets_roads_of_its_own_and_its_days_are_planned_again() {
    let app = App::new().await;
    let plan = planned(&app, 3).await;
    assert_eq!(plan["distance_source"], "haversine 130% 40.0km/h");
    let path = format!("/api/v1/warehouses/{}", plan["warehouse_id"].as_str().unwrap());
    let patch = async |body: Value| app.send(Method::PATCH, &path, &[], Some(body)).await;
    let changed = patch(json!({"road_factor": 1.5, "speed_kmh": 25})).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    assert_eq!(
        (&changed.json()["road_factor"], &changed.json()["speed_kmh"]),
        (&json!(1.5), &json!(25.0))
    );
    testkit::fast_forward(&app.db.pool, Duration::from_secs(30)).await;
    app.work().await;
    let listed = app.get("/api/v1/route-plans?state=active").await.json();
    assert_eq!(listed["items"][0]["distance_source"], "haversine 150% 25.0km/h");
    assert_eq!(listed["items"][0]["version"], 2);

    assert_eq!(
        patch(json!({"road_factor": 0.9})).await.problem(),
        "422 validation_failed /road_factor:out_of_range"
    );
    assert_eq!(
        patch(json!({"speed_kmh": "fast"})).await.problem(),
        "422 validation_failed /speed_kmh:wrong_type"
    );
    assert_eq!(
        patch(json!({"name": "Other"})).await.problem(),
        "422 validation_failed /name:unknown_field"
    );
    assert_eq!(
        patch(json!({"road_factor": null})).await.json()["road_factor"],
        Value::Null
    );
    let nobody = format!("/api/v1/warehouses/{}", Uuid::now_v7());
    let missing = app.send(Method::PATCH, &nobody, &[], Some(json!({}))).await;
    assert_eq!(missing.problem(), "404 not_found");
}
