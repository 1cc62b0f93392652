//! What vans can do, what deliveries ask for, and what is loaded.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::App;

async fn patch(app: &App, path: &str, body: Value) -> crate::app::Answer {
    let merge = [("content-type", "application/merge-patch+json")];
    app.send(Method::PATCH, path, &merge, Some(body)).await
}

/// A warehouse, and shipments of an order each that leave tomorrow.
async fn some_shipments(app: &App, count: usize) -> (Uuid, Vec<Uuid>) {
    let conn = &mut *app.db.pool.acquire().await.unwrap();
    let warehouse = testkit::a_warehouse(conn, "MAIN").await;
    let mut shipments = Vec::new();
    for _ in 0..count {
        let customer = testkit::a_customer(conn).await;
        let order = testkit::an_order(conn, customer, &[]).await;
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                    window_start, window_end, service_seconds)
             select $1, $2, w.id, 'unplanned', (clock_timestamp() at time zone 'UTC')::date + 1, w.lat + 0.01, w.lon, 1000,
                    1000, 28800, 64800, 120
             from warehouses w where w.id = $3",
        )
        .bind(id)
        .bind(order)
        .bind(warehouse)
        .execute(&mut *conn)
        .await
        .unwrap();
        shipments.push(id);
    }
    (warehouse, shipments)
}

/// Lets every bucket end, and runs what is due.
async fn plan(app: &App) {
    app.db.fast_forward(std::time::Duration::from_secs(30)).await;
    app.work().await;
}

fn a_cold_van(warehouse: Uuid) -> Value {
    json!({
        "warehouse_id": warehouse, "name": "cold 1", "capacity_grams": 500_000, "capacity_cm3": 5_000_000,
        "shift_start": 25_200, "shift_end": 68_400, "skills": ["cold"], "seconds_max": 36_000, "second_cost": 2,
        "rest_start": 39_600, "rest_end": 46_800, "rest_seconds": 1_800
    })
}

#[tokio::test]
async fn a_van_says_what_it_can_do_and_is_told_what_it_cannot() {
    let app = App::new().await;
    let (warehouse, _) = some_shipments(&app, 0).await;
    let van = app.post("/api/v1/vehicles", a_cold_van(warehouse)).await;
    assert_eq!(van.status, StatusCode::CREATED, "{van:?}");
    let (path, van) = (van.header("location").unwrap().to_owned(), van.json());
    assert_eq!(van["skills"], json!(["cold"]));
    assert_eq!(
        [&van["fixed_cost"], &van["metre_cost"], &van["second_cost"]],
        [20_000, 1, 2]
    );
    assert_eq!((&van["rest_start"], &van["metres_max"]), (&json!(39_600), &Value::Null));

    for (body, problem) in [
        (json!({"skills": "cold"}), "422 validation_failed /skills:wrong_type"),
        (
            json!({"skills": ["Cold chain"]}),
            "422 validation_failed /skills:out_of_range",
        ),
        (
            json!({"rest_end": null}),
            "422 validation_failed /rest_start:incomplete",
        ),
        (json!({"rest_end": 10}), "422 validation_failed /rest:out_of_range"),
        (
            json!({"seconds_max": 0}),
            "422 validation_failed /seconds_max:out_of_range",
        ),
        (
            json!({"metre_cost": null}),
            "422 validation_failed /metre_cost:wrong_type",
        ),
    ] {
        assert_eq!(patch(&app, &path, body.clone()).await.problem(), problem, "{body}");
    }
    let restless = json!({"rest_start": null, "rest_end": null, "rest_seconds": null, "seconds_max": null});
    let van = patch(&app, &path, restless).await.json();
    assert_eq!(
        (&van["rest_seconds"], &van["seconds_max"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(van["skills"], json!(["cold"]), "what is not given stays");
}

#[tokio::test]
async fn a_delivery_that_asks_for_something_else_is_planned_anew() {
    let app = App::new().await;
    let (warehouse, shipments) = some_shipments(&app, 1).await;
    app.post("/api/v1/vehicles", a_cold_van(warehouse)).await;
    let path = format!("/api/v1/shipments/{}", shipments[0]);
    let wanted = json!({
        "priority": 1, "skills": ["cold"], "windows": [{"start": 30_000, "end": 33_000}, {"start": 50_000, "end": 53_000}]
    });
    let changed = patch(&app, &path, wanted.clone()).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    plan(&app).await;
    let shipment = app.get(&path).await.json();
    assert_eq!(shipment["state"], "planned", "{shipment}");
    assert_eq!(
        (&shipment["priority"], &shipment["windows"]),
        (&json!(1), &wanted["windows"])
    );

    let frozen = patch(&app, &path, json!({"skills": ["frozen"]})).await.json();
    assert_eq!(
        (&frozen["state"], &frozen["route_id"]),
        (&json!("unplanned"), &Value::Null)
    );
    plan(&app).await;
    assert_eq!(app.get(&path).await.json()["unassigned"]["reason"], "missing_skill");

    for (body, problem) in [
        (json!({"priority": 4}), "422 validation_failed /priority:out_of_range"),
        (json!({"windows": []}), "422 validation_failed /windows:out_of_range"),
        (
            json!({"windows": [{"start": 5}]}),
            "422 validation_failed /windows/0/end:missing",
        ),
        (
            json!({"windows": [{"start": 9, "end": 5}]}),
            "422 validation_failed /windows:out_of_range",
        ),
        (json!({"colour": "red"}), "422 validation_failed /colour:unknown_field"),
    ] {
        assert_eq!(patch(&app, &path, body.clone()).await.problem(), problem, "{body}");
    }
    let stale = [("content-type", "application/merge-patch+json"), ("if-match", "\"1\"")];
    let stale = app
        .send(Method::PATCH, &path, &stale, Some(json!({"priority": 2})))
        .await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED, "{stale:?}");
    let nobody = patch(
        &app,
        &format!("/api/v1/shipments/{}", Uuid::now_v7()),
        json!({"priority": 2}),
    )
    .await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_loaded_is_locked_and_no_more_than_there_is() {
    let app = App::new().await;
    let (warehouse, shipments) = some_shipments(&app, 3).await;
    app.post("/api/v1/vehicles", a_cold_van(warehouse)).await;
    patch(
        &app,
        &format!("/api/v1/shipments/{}", shipments[0]),
        json!({"priority": 2}),
    )
    .await;
    plan(&app).await;
    let route = app.get("/api/v1/routes").await.json()["items"][0].clone();
    assert_eq!(
        (&route["stops"], &route["locked_stops"]),
        (&json!(3), &json!(0)),
        "{route}"
    );
    let path = format!("/api/v1/routes/{}/lock", route["id"].as_str().unwrap());
    assert_eq!(
        app.post(&path, json!({"stops": 4})).await.problem(),
        "422 validation_failed /stops:out_of_range"
    );
    assert_eq!(
        app.post(&path, json!({})).await.problem(),
        "422 validation_failed /stops:missing"
    );
    let locked = app.post(&path, json!({"stops": 2})).await;
    assert_eq!(locked.json()["locked_stops"], 2, "{locked:?}");

    let route = format!("/api/v1/routes/{}", route["id"].as_str().unwrap());
    app.post(&format!("{route}/dispatch"), json!({})).await;
    let late = app.post(&path, json!({"stops": 1})).await;
    assert_eq!(late.problem(), "409 not_planned");
    let late = patch(
        &app,
        &format!("/api/v1/shipments/{}", shipments[0]),
        json!({"priority": 3}),
    )
    .await;
    assert_eq!(late.problem(), "409 on_its_way");
}
