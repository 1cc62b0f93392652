//! Shipments, plans and routes on a real database.

use chrono::{Days, NaiveDate};
use domain::Cause;
use domain::ids::{OrderId, ShipmentId, VehicleId, WarehouseId};
use domain::orders;
use domain::routes::plan::{self, Published, Snapshot, Summary, WhenStale};
use domain::routes::problem::Solution;
use domain::routes::solver::{self, Budget, Unhurried};
use domain::routes::store::{self, Day};
use domain::routes::{Error, Haversine, RouteFilter, STOPS_PER_PLAN_MAX, VehicleSpec};
use domain::routes::{geojson, sheet};
use sqlx::PgConnection;
use testkit::Database;
use uuid::Uuid;

fn by_hand() -> Cause {
    Cause::actor("test")
}

fn roads() -> Haversine {
    Haversine::new(1.3, 40.0)
}

async fn a_warehouse(conn: &mut PgConnection) -> WarehouseId {
    WarehouseId(testkit::a_warehouse(conn, "MAIN").await)
}

async fn tomorrow(conn: &mut PgConnection) -> NaiveDate {
    sqlx::query_scalar("select (clock_timestamp() at time zone 'UTC')::date + 1")
        .fetch_one(conn)
        .await
        .expect("a date")
}

/// An order of one line with stock aside for it, as after `reserve_stock`.
async fn an_order_with_stock(conn: &mut PgConnection, customer: Uuid, qty: i64) -> orders::Order {
    let product = testkit::a_product(conn, &Uuid::now_v7().to_string(), qty).await;
    let id = testkit::an_order(conn, customer, &[(product, qty)]).await;
    sqlx::query(
        "insert into reservations (id, order_line_id, product_id, warehouse_id, qty, state)
         select gen_random_uuid(), l.id, l.product_id, s.warehouse_id, l.qty, 'held'
         from order_lines l join stock_levels s using (product_id) where l.order_id = $1",
    )
    .bind(id)
    .execute(&mut *conn)
    .await
    .expect("reservations");
    orders::store::get(conn, OrderId(id))
        .await
        .expect("a read")
        .expect("the order")
}

/// A shipment of an order of its own, that many metres north of the warehouse, as good as.
async fn a_shipment(conn: &mut PgConnection, (warehouse, date): Day, north: f64, grams: i64) -> (OrderId, ShipmentId) {
    let customer = testkit::a_customer(conn).await;
    let order = testkit::an_order(conn, customer, &[]).await;
    let id = ShipmentId::new();
    sqlx::query(
        "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                window_start, window_end, service_seconds)
         select $1, $2, w.id, 'unplanned', $4, w.lat + $5, w.lon, $6, 1000, 28800, 64800, 300
         from warehouses w where w.id = $3",
    )
    .bind(id.0)
    .bind(order)
    .bind(warehouse.0)
    .bind(date)
    .bind(north / 111_195.0)
    .bind(grams)
    .execute(conn)
    .await
    .expect("a shipment");
    (OrderId(order), id)
}

async fn computed(conn: &mut PgConnection, day: Day) -> (Snapshot, Solution) {
    let snapshot = plan::snapshot(conn, day, roads())
        .await
        .expect("a read")
        .expect("a day to plan");
    let budget = Budget {
        iterations: 200,
        seed: snapshot.seed(),
    };
    let solution = solver::solve(&snapshot.problem, &budget, &Unhurried);
    (snapshot, solution)
}

async fn planned(conn: &mut PgConnection, day: Day) -> Published {
    let (snapshot, solution) = computed(conn, day).await;
    plan::publish(conn, &snapshot, &solution, WhenStale::Refuse, &by_hand())
        .await
        .expect("a plan")
}

async fn stored(conn: &mut PgConnection, day: Day) -> Summary {
    match planned(conn, day).await {
        Published::Stored(summary) => summary,
        other => panic!("{other:?} instead of a plan"),
    }
}

async fn state_of(conn: &mut PgConnection, id: ShipmentId) -> (String, NaiveDate, Option<String>) {
    let shipment = store::shipment(conn, id).await.expect("a read").expect("the shipment");
    let reason = shipment
        .unassigned
        .map(|why| why["reason"].as_str().expect("a reason").to_owned());
    (shipment.state, shipment.delivery_date, reason)
}

async fn all_is_well(conn: &mut PgConnection) {
    assert_eq!(store::audit(conn).await.expect("an audit"), Vec::<String>::new());
}

fn a_van(name: &str) -> VehicleSpec {
    VehicleSpec {
        name: name.into(),
        capacity_grams: 500_000,
        capacity_cm3: 5_000_000,
        shift_start: 7 * 3600,
        shift_end: 19 * 3600,
        stops_max: 50,
    }
}

#[tokio::test]
async fn an_order_has_one_shipment_per_warehouse_however_often_they_are_made() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let customer = testkit::a_customer(conn).await;
    let order = an_order_with_stock(conn, customer, 3).await;
    let days = store::create_shipments(conn, &order, &by_hand())
        .await
        .expect("shipments");
    assert_eq!(days, [(a_warehouse(conn).await, tomorrow(conn).await)]);

    assert_eq!(
        store::create_shipments(conn, &order, &by_hand())
            .await
            .expect("no shipments"),
        []
    );
    let shipments = store::shipments_of_order(conn, order.id).await.expect("a read");
    assert_eq!(shipments.len(), 1);
    assert_eq!((shipments[0].weight_grams, shipments[0].volume_cm3), (1_500, 3_000));
    assert_eq!(shipments[0].state, "unplanned");
    assert_eq!(shipments[0].lat, 51.5154);
}

#[tokio::test]
async fn a_customer_without_a_place_is_served_at_the_warehouse() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let customer = testkit::a_customer(conn).await;
    sqlx::query("update customers set lat = null")
        .execute(&mut *conn)
        .await
        .expect("a customer nowhere");
    let order = an_order_with_stock(conn, customer, 1).await;
    store::create_shipments(conn, &order, &by_hand())
        .await
        .expect("shipments");
    let shipments = store::shipments_of_order(conn, order.id).await.expect("a read");
    let warehouse: (f64, f64) = sqlx::query_as("select lat, lon from warehouses")
        .fetch_one(&mut *conn)
        .await
        .expect("the warehouse");
    assert_eq!((shipments[0].lat, shipments[0].lon), warehouse);
}

#[tokio::test]
async fn a_day_is_planned_once_and_planning_it_again_changes_nothing() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    testkit::a_vehicle(conn, day.0.0, "van 2").await;
    let mut shipments = Vec::new();
    for step in 1..=8 {
        shipments.push(a_shipment(conn, day, f64::from(step) * 700.0, 1_000).await.1);
    }
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), [day]);

    let summary = stored(conn, day).await;
    assert_eq!(
        (summary.version, summary.routes, summary.stops, summary.moved),
        (1, 1, 8, 0)
    );
    for id in &shipments {
        assert_eq!(state_of(conn, *id).await.0, "planned");
    }
    all_is_well(conn).await;
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), []);
    assert_eq!(planned(conn, day).await, Published::Unchanged);

    a_shipment(conn, day, 500.0, 1_000).await;
    assert_eq!(stored(conn, day).await.version, 2);
    all_is_well(conn).await;
    let filter = RouteFilter {
        warehouse_id: Some(day.0),
        limit: 10,
        ..RouteFilter::default()
    };
    let routes = store::routes(conn, &filter).await.expect("a read");
    assert_eq!(
        routes
            .iter()
            .map(|route| (route.plan_version, route.stops))
            .collect::<Vec<_>>(),
        [(2, 9)]
    );
}

#[tokio::test]
async fn a_plan_for_what_has_changed_is_refused_and_then_published_for_the_rest() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    let (order, cancelled) = a_shipment(conn, day, 500.0, 1_000).await;
    let (_, kept) = a_shipment(conn, day, 900.0, 1_000).await;
    let (snapshot, solution) = computed(conn, day).await;

    let days = store::cancel_shipments(conn, order, &by_hand())
        .await
        .expect("a cancel");
    assert_eq!(days, [], "nothing was planned yet");
    let refused = plan::publish(conn, &snapshot, &solution, WhenStale::Refuse, &by_hand())
        .await
        .expect("an answer");
    assert_eq!(refused, Published::Stale);
    let plans: i64 = sqlx::query_scalar("select count(*) from route_plans")
        .fetch_one(&mut *conn)
        .await
        .expect("a count");
    assert_eq!(plans, 0);

    let published = plan::publish(conn, &snapshot, &solution, WhenStale::PublishTheRest, &by_hand()).await;
    assert!(
        matches!(
            published,
            Ok(Published::Stored(Summary {
                stops: 1,
                left_over: 1,
                ..
            }))
        ),
        "{published:?}"
    );
    assert_eq!(state_of(conn, kept).await.0, "planned");
    assert_eq!(state_of(conn, cancelled).await.0, "cancelled");
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_van_that_left_the_fleet_meanwhile_gets_no_route() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let van = VehicleId(testkit::a_vehicle(conn, day.0.0, "van 1").await);
    let (_, id) = a_shipment(conn, day, 500.0, 1_000).await;
    let (snapshot, solution) = computed(conn, day).await;
    store::retire_vehicle(conn, van).await.expect("a retired van");
    let publish = plan::publish(conn, &snapshot, &solution, WhenStale::PublishTheRest, &by_hand()).await;
    assert!(
        matches!(
            publish,
            Ok(Published::Stored(Summary {
                routes: 0,
                left_over: 1,
                ..
            }))
        ),
        "{publish:?}"
    );
    assert_eq!(state_of(conn, id).await.0, "unplanned");

    stored(conn, day).await;
    assert_eq!(
        state_of(conn, id).await,
        ("unplanned".into(), day.1, Some("no_vehicles".into()))
    );
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), []);
    store::create_vehicle(conn, day.0, &a_van("van 2"))
        .await
        .expect("a van");
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), [day]);
    stored(conn, day).await;
    assert_eq!(state_of(conn, id).await.0, "planned");
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_cancelled_stop_leaves_its_route_at_once_and_the_rest_still_adds_up() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    let mut shipments = Vec::new();
    for step in 1..=5 {
        shipments.push(a_shipment(conn, day, f64::from(step) * 1_000.0, 1_000).await);
    }
    stored(conn, day).await;
    let filter = RouteFilter {
        limit: 10,
        ..RouteFilter::default()
    };
    let before = store::routes(conn, &filter).await.expect("a read").remove(0);

    let days = store::cancel_shipments(conn, shipments[4].0, &by_hand())
        .await
        .expect("a cancel");
    assert_eq!(days, [day]);
    all_is_well(conn).await;
    let after = store::routes(conn, &filter).await.expect("a read").remove(0);
    assert_eq!((after.id, after.stops, after.load_grams), (before.id, 4, 4_000));
    assert!(after.metres < before.metres);
    assert_eq!(
        store::cancel_shipments(conn, shipments[4].0, &by_hand())
            .await
            .expect("again"),
        []
    );

    for (order, _) in &shipments[..4] {
        store::cancel_shipments(conn, *order, &by_hand())
            .await
            .expect("a cancel");
        all_is_well(conn).await;
    }
    assert_eq!(
        store::routes(conn, &filter).await.expect("a read"),
        [],
        "a route without stops is none"
    );
    let plan: (i64, i32) = sqlx::query_as("select metres, stops from route_plans where active")
        .fetch_one(&mut *conn)
        .await
        .expect("the plan");
    assert_eq!(plan, (0, 0));
    let summary = stored(conn, day).await;
    assert_eq!((summary.version, summary.stops), (2, 0));
}

#[tokio::test]
async fn a_dispatched_route_stays_as_it_is_and_its_van_is_busy() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    let (_, on_its_way) = a_shipment(conn, day, 500.0, 1_000).await;
    stored(conn, day).await;
    let filter = RouteFilter {
        limit: 10,
        ..RouteFilter::default()
    };
    let route = store::routes(conn, &filter).await.expect("a read").remove(0);

    let shipments = store::dispatch_route(conn, route.id, &by_hand())
        .await
        .expect("a dispatch");
    assert_eq!(shipments, [on_its_way]);
    let again = store::dispatch_route(conn, route.id, &by_hand()).await;
    assert!(
        matches!(again, Err(Error::NotPlanned { ref state }) if state == "dispatched"),
        "{again:?}"
    );

    let (_, late) = a_shipment(conn, day, 600.0, 1_000).await;
    let summary = stored(conn, day).await;
    assert_eq!((summary.stops, summary.moved), (0, 1));
    let next = day.1 + Days::new(1);
    assert_eq!(
        state_of(conn, late).await,
        ("unplanned".into(), next, Some("no_vehicle_left".into()))
    );
    stored(conn, (day.0, next)).await;
    assert_eq!(state_of(conn, late).await, ("planned".into(), next, None));
    assert_eq!(state_of(conn, on_its_way).await.0, "dispatched");
    assert!(
        store::mark_shipped(conn, on_its_way, &by_hand())
            .await
            .expect("shipped")
    );
    assert!(
        !store::mark_shipped(conn, on_its_way, &by_hand())
            .await
            .expect("not again")
    );
    all_is_well(conn).await;
}

#[tokio::test]
async fn what_no_van_can_take_is_settled_until_the_fleet_can() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    store::create_vehicle(conn, day.0, &a_van("van 1"))
        .await
        .expect("a van");
    let (_, heavy) = a_shipment(conn, day, 500.0, 600_000).await;
    let (_, far) = a_shipment(conn, day, 400_000.0, 1_000).await;
    let (_, fine) = a_shipment(conn, day, 800.0, 1_000).await;
    let summary = stored(conn, day).await;
    assert_eq!((summary.stops, summary.impossible, summary.moved), (1, 2, 0));
    assert_eq!(
        state_of(conn, heavy).await,
        ("unplanned".into(), day.1, Some("too_big".into()))
    );
    assert_eq!(state_of(conn, far).await.2, Some("out_of_range".into()));
    assert_eq!(state_of(conn, fine).await.0, "planned");
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), []);
    stored(conn, day).await;
    assert_eq!(planned(conn, day).await, Published::Unchanged);

    store::create_vehicle(
        conn,
        day.0,
        &VehicleSpec {
            capacity_grams: 900_000,
            ..a_van("lorry")
        },
    )
    .await
    .expect("a lorry");
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), [day]);
    stored(conn, day).await;
    assert_eq!(state_of(conn, heavy).await, ("planned".into(), day.1, None));
    assert_eq!(state_of(conn, far).await.2, Some("out_of_range".into()));
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_full_day_hands_the_newest_on_and_new_orders_go_to_the_next_day_at_once() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let next = (day.0, day.1 + Days::new(1));
    store::create_vehicle(
        conn,
        day.0,
        &VehicleSpec {
            stops_max: 3,
            ..a_van("van 1")
        },
    )
    .await
    .expect("a van");
    let mut planned_first = Vec::new();
    for step in 1..=3 {
        planned_first.push(a_shipment(conn, day, f64::from(step) * 500.0, 1_000).await.1);
    }
    assert_eq!(stored(conn, day).await.moved, 0);
    let (_, late) = a_shipment(conn, day, 100.0, 1_000).await;
    let summary = stored(conn, day).await;
    assert_eq!((summary.stops, summary.moved, summary.moved_to), (3, 1, Some(next.1)));
    for id in planned_first {
        assert_eq!(state_of(conn, id).await.0, "planned", "who has a place keeps it");
    }
    assert_eq!(
        state_of(conn, late).await,
        ("unplanned".into(), next.1, Some("stops_max".into()))
    );

    let customer = testkit::a_customer(conn).await;
    let order = an_order_with_stock(conn, customer, 1).await;
    assert_eq!(
        store::create_shipments(conn, &order, &by_hand())
            .await
            .expect("shipments"),
        [next]
    );
    stored(conn, next).await;
    // Planned once more with nothing left over, it is still full.
    stored(conn, day).await;
    let is_full: bool = sqlx::query_scalar("select is_full from route_plans where date = $1 and active")
        .bind(day.1)
        .fetch_one(&mut *conn)
        .await
        .expect("the plan");
    assert!(is_full);
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_plan_has_a_bound_and_the_rest_moves_on() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    for van in 0..10 {
        store::create_vehicle(conn, day.0, &a_van(&format!("van {van}")))
            .await
            .expect("a van");
    }
    let customer = testkit::a_customer(conn).await;
    sqlx::query(
        "with many as (
             insert into orders (id, customer_id, status, version, currency, total_minor, created_by)
             select gen_random_uuid(), $1, 'reserved', 1, 'GBP', 0, 'test' from generate_series(1, $2)
             returning id
         )
         insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                window_start, window_end, service_seconds)
         select gen_random_uuid(), many.id, w.id, 'unplanned', $3, w.lat, w.lon, 100, 100, 28800, 64800, 10
         from many, warehouses w",
    )
    .bind(customer)
    .bind(STOPS_PER_PLAN_MAX as i32 + 20)
    .bind(day.1)
    .execute(&mut *conn)
    .await
    .expect("many shipments");
    let summary = stored(conn, day).await;
    assert_eq!((summary.stops, summary.moved), (STOPS_PER_PLAN_MAX, 20));
    assert_eq!(
        plan::days_due(conn, 10).await.expect("a read"),
        [(day.0, day.1 + Days::new(1))]
    );
    all_is_well(conn).await;
}

#[tokio::test]
async fn what_was_never_planned_moves_on_from_a_day_that_is_over() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let tomorrow = tomorrow(conn).await;
    let over = (a_warehouse(conn).await, tomorrow - Days::new(3));
    let (_, missed) = a_shipment(conn, over, 500.0, 1_000).await;
    assert!(plan::snapshot(conn, over, roads()).await.expect("a read").is_none());
    assert_eq!(plan::move_on(conn, over).await.expect("a move"), Some(tomorrow));
    assert_eq!(
        state_of(conn, missed).await,
        ("unplanned".into(), tomorrow, Some("day_missed".into()))
    );
    assert_eq!(plan::move_on(conn, over).await.expect("nothing left"), None);
}

#[tokio::test]
async fn a_day_given_up_is_not_due_but_can_be_planned() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    let (_, id) = a_shipment(conn, day, 500.0, 1_000).await;
    assert_eq!(plan::give_up(conn, day).await.expect("marked"), 1);
    assert_eq!(plan::give_up(conn, day).await.expect("nothing more"), 0);
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), []);
    assert_eq!(stored(conn, day).await.stops, 1);
    assert_eq!(state_of(conn, id).await, ("planned".into(), day.1, None));
}

#[tokio::test]
async fn a_vehicle_has_its_own_name_and_keeps_what_its_routes_rely_on() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let van = store::create_vehicle(conn, day.0, &a_van("van 1"))
        .await
        .expect("a van");
    assert!(matches!(
        store::create_vehicle(conn, day.0, &a_van("van 1")).await,
        Err(Error::NameTaken)
    ));
    let nowhere = store::create_vehicle(conn, WarehouseId::new(), &a_van("van 2")).await;
    assert!(matches!(nowhere, Err(Error::NotFound("warehouse"))), "{nowhere:?}");
    let bad = store::create_vehicle(
        conn,
        day.0,
        &VehicleSpec {
            stops_max: 0,
            ..a_van("van 3")
        },
    )
    .await;
    assert!(
        matches!(bad, Err(Error::OutOfBounds { field: "stops_max", .. })),
        "{bad:?}"
    );

    let bigger = VehicleSpec {
        capacity_grams: 700_000,
        ..a_van("van 1")
    };
    let van = store::update_vehicle(conn, van.id, &bigger, Some(van.version))
        .await
        .expect("a bigger van");
    assert_eq!((van.version, van.spec.capacity_grams), (2, 700_000));
    let stale = store::update_vehicle(conn, van.id, &bigger, Some(1)).await;
    assert!(matches!(stale, Err(Error::VersionChanged { current: 2 })), "{stale:?}");

    a_shipment(conn, day, 500.0, 1_000).await;
    stored(conn, day).await;
    assert!(matches!(
        store::update_vehicle(conn, van.id, &a_van("van 1"), None).await,
        Err(Error::InUse)
    ));
    let renamed = VehicleSpec {
        name: "blue van".into(),
        ..bigger
    };
    store::update_vehicle(conn, van.id, &renamed, None)
        .await
        .expect("another name");
    let (_, days) = store::retire_vehicle(conn, van.id).await.expect("a retired van");
    assert_eq!(days, [day]);
    assert_eq!(store::vehicles(conn, Some(day.0), None, 10).await.expect("a read"), []);
}

#[tokio::test]
async fn a_day_is_drawn_as_lines_and_points() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    let (_, id) = a_shipment(conn, day, 500.0, 1_000).await;
    stored(conn, day).await;
    let sheet = sheet::of_day(conn, day).await.expect("a read").expect("a plan");
    let drawn = geojson::geojson(&sheet);
    let kinds: Vec<_> = drawn["features"]
        .as_array()
        .expect("features")
        .iter()
        .map(|feature| {
            (
                feature["geometry"]["type"].as_str().expect("a type"),
                feature["properties"]["kind"].clone(),
            )
        })
        .collect();
    assert_eq!(drawn["type"], "FeatureCollection");
    assert_eq!(
        kinds,
        [
            ("Point", "depot".into()),
            ("LineString", "route".into()),
            ("Point", "stop".into())
        ]
    );
    let stop = &drawn["features"][2];
    assert_eq!(stop["properties"]["shipment_id"], id.to_string());
    assert_eq!(stop["properties"]["seq"], 1);
    let longitude = stop["geometry"]["coordinates"][0].as_f64().expect("a longitude first");
    assert!((-1.0..0.0).contains(&longitude));
}

#[tokio::test]
async fn the_audit_sees_what_was_changed_by_hand() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    for step in 1..=3 {
        a_shipment(conn, day, f64::from(step) * 1_000.0, 1_000).await;
    }
    stored(conn, day).await;
    let spoils = [
        (
            "R2",
            "update vehicles set capacity_grams = 2999",
            "update vehicles set capacity_grams = 1500000",
        ),
        (
            "R3",
            "update shipments set window_end = 28801",
            "update shipments set window_end = 64800",
        ),
        (
            "R5",
            "update routes set metres = metres + 2",
            "update routes set metres = metres - 2",
        ),
        (
            "R4",
            "update shipments set state = 'unplanned'",
            "update shipments set state = 'planned'",
        ),
        (
            "R4",
            "update route_stops set active = false",
            "update route_stops set active = true",
        ),
    ];
    for (rule, spoil, mend) in spoils {
        sqlx::query(spoil).execute(&mut *conn).await.expect(spoil);
        let wrong = store::audit(conn).await.expect("an audit");
        assert!(wrong.iter().any(|line| line.starts_with(rule)), "{spoil}: {wrong:?}");
        sqlx::query(mend).execute(&mut *conn).await.expect(mend);
    }
    all_is_well(conn).await;
}
