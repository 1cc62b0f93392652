//! Shipments, plans and routes on a real database.

use chrono::{Days, NaiveDate};
use domain::Cause;
use domain::ids::{OrderId, RouteId, ShipmentId, VehicleId, WarehouseId};
use domain::orders;
use domain::routes::plan::{self, Published, Snapshot, Summary, WhenStale};
use domain::routes::recipe::{self, Found, Recipe};
use domain::routes::solver::Unhurried;
use domain::routes::store::{self, Day, Delivery};
use domain::routes::{Error, Haversine, Rest, RouteFilter, STOPS_PER_PLAN_MAX, VehicleSpec, Window};
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

async fn computed(conn: &mut PgConnection, day: Day) -> (Snapshot, Found) {
    let snapshot = plan::snapshot(conn, day, roads())
        .await
        .expect("a read")
        .expect("a day to plan");
    let recipe = Recipe {
        seed: snapshot.seed(),
        iterations: 200,
        before: 0,
        start: snapshot.routes_before(),
    };
    let found = recipe::search(&snapshot.problem, recipe, &Unhurried);
    (snapshot, found)
}

async fn planned(conn: &mut PgConnection, day: Day) -> Published {
    let (snapshot, found) = computed(conn, day).await;
    plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &by_hand())
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
        ..VehicleSpec::default()
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
    let (snapshot, found) = computed(conn, day).await;

    let days = store::cancel_shipments(conn, order, &by_hand())
        .await
        .expect("a cancel");
    assert_eq!(days, [], "nothing was planned yet");
    let refused = plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &by_hand())
        .await
        .expect("an answer");
    assert_eq!(refused, Published::Stale);
    let plans: i64 = sqlx::query_scalar("select count(*) from route_plans")
        .fetch_one(&mut *conn)
        .await
        .expect("a count");
    assert_eq!(plans, 0);

    let published = plan::publish(conn, &snapshot, &found, WhenStale::PublishTheRest, &by_hand()).await;
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
    let (snapshot, found) = computed(conn, day).await;
    store::retire_vehicle(conn, van).await.expect("a retired van");
    let publish = plan::publish(conn, &snapshot, &found, WhenStale::PublishTheRest, &by_hand()).await;
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
    // Before anybody has planned it, a day that holds as many takes no more.
    let order = an_order_with_stock(conn, customer, 1).await;
    let made = store::create_shipments(conn, &order, &by_hand())
        .await
        .expect("shipments");
    assert_eq!(made, [(day.0, day.1 + Days::new(1))]);
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

/// The shipments of the active plan's route of a van, in order.
async fn stops_of(conn: &mut PgConnection, van: VehicleId) -> Vec<ShipmentId> {
    sqlx::query_scalar(
        "select t.shipment_id from routes r join route_stops t on t.route_id = r.id
         where r.vehicle_id = $1 and r.state = 'planned' and t.active order by t.position",
    )
    .bind(van)
    .fetch_all(conn)
    .await
    .expect("stops")
}

async fn route_of(conn: &mut PgConnection, van: VehicleId) -> RouteId {
    sqlx::query_scalar("select id from routes where vehicle_id = $1 and state = 'planned'")
        .bind(van)
        .fetch_one(conn)
        .await
        .expect("a route")
}

/// A van that does the work of another for so much less.
fn a_cheaper_van(name: &str, by: i64) -> VehicleSpec {
    VehicleSpec {
        fixed_cost: a_van(name).fixed_cost - by,
        ..a_van(name)
    }
}

#[tokio::test]
async fn planning_again_moves_nobody_for_less_than_it_is_worth() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let first = store::create_vehicle(conn, day.0, &a_van("van 1"))
        .await
        .expect("a van")
        .id;
    for step in 1..=8 {
        a_shipment(conn, day, f64::from(step) * 700.0, 1_000).await;
    }
    stored(conn, day).await;
    let before = stops_of(conn, first).await;
    assert_eq!(before.len(), 8);

    // Eight moves would have to save eight kilometres, and save half of one.
    let cheaper = a_cheaper_van("van 2", 500);
    let second = store::create_vehicle(conn, day.0, &cheaper).await.expect("a van").id;
    a_shipment(conn, day, 6_300.0, 1_000).await;
    stored(conn, day).await;
    let after = stops_of(conn, first).await;
    assert!(before.iter().all(|stop| after.contains(stop)), "{before:?} {after:?}");
    assert_eq!(stops_of(conn, second).await, []);
    all_is_well(conn).await;

    // Who plans at length may move them, and finds the cheaper van.
    let (snapshot, _) = computed(conn, day).await;
    let snapshot = snapshot.moving_freely();
    let recipe = Recipe {
        seed: snapshot.seed(),
        iterations: 2_000,
        before: 0,
        start: Vec::new(),
    };
    let found = recipe::search(&snapshot.problem, recipe, &Unhurried);
    let published = plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &by_hand()).await;
    assert!(matches!(published, Ok(Published::Stored(_))), "{published:?}");
    assert_eq!(stops_of(conn, second).await.len(), 9);
    all_is_well(conn).await;
    let (snapshot, found) = computed(conn, day).await;
    let no_better = plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &by_hand()).await;
    assert_eq!(no_better.ok(), Some(Published::Unchanged));
}

#[tokio::test]
async fn what_is_loaded_stays_first_on_its_van_whatever_is_planned() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let van = store::create_vehicle(conn, day.0, &a_van("van 1"))
        .await
        .expect("a van")
        .id;
    let mut orders = Vec::new();
    for step in 1..=6 {
        orders.push(a_shipment(conn, day, f64::from(step) * 700.0, 1_000).await);
    }
    stored(conn, day).await;
    let loaded = stops_of(conn, van).await[..2].to_vec();
    let route = route_of(conn, van).await;
    for (stops, field) in [(7, "stops"), (-1, "stops")] {
        let refused = store::lock_stops(conn, route, stops, &by_hand()).await;
        assert!(matches!(refused, Err(Error::OutOfBounds { field: named, .. }) if named == field));
    }
    let locked = store::lock_stops(conn, route, 2, &by_hand()).await.expect("a lock");
    assert_eq!((locked.locked_stops, locked.stops), (2, 6));
    all_is_well(conn).await;

    // A van that costs nothing takes all the others, and a new one comes in.
    let free = VehicleSpec {
        fixed_cost: 0,
        metre_cost: 0,
        ..a_van("van 2")
    };
    let other = store::create_vehicle(conn, day.0, &free).await.expect("a van").id;
    a_shipment(conn, day, 300.0, 1_000).await;
    let (snapshot, _) = computed(conn, day).await;
    let snapshot = snapshot.moving_freely();
    let recipe = Recipe {
        seed: snapshot.seed(),
        iterations: 2_000,
        before: 0,
        start: snapshot.routes_before(),
    };
    let found = recipe::search(&snapshot.problem, recipe, &Unhurried);
    plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &by_hand())
        .await
        .expect("a plan");
    assert_eq!(stops_of(conn, van).await, loaded);
    assert_eq!(stops_of(conn, other).await.len(), 5);
    all_is_well(conn).await;
    let route = route_of(conn, van).await;
    let locked: i32 = sqlx::query_scalar("select locked_stops from routes where id = $1")
        .bind(route)
        .fetch_one(&mut *conn)
        .await
        .expect("a lock");
    assert_eq!(locked, 2, "the new plan's route is locked as the old one was");

    // A cancelled stop leaves the lock, and the audit sees a lock that is not kept.
    let (order, _) = orders.iter().find(|(_, id)| *id == loaded[0]).expect("its order");
    store::cancel_shipments(conn, *order, &by_hand())
        .await
        .expect("a cancel");
    assert_eq!(stops_of(conn, van).await, loaded[1..]);
    all_is_well(conn).await;
    sqlx::query("update routes set locked_stops = locked_stops + 1 where id = $1")
        .bind(route)
        .execute(&mut *conn)
        .await
        .expect("a lock on nothing");
    let wrong = store::audit(conn).await.expect("an audit");
    assert!(wrong.iter().any(|line| line.starts_with("R1")), "{wrong:?}");
}

#[tokio::test]
async fn a_plan_made_before_the_van_was_loaded_is_not_published_whatever_the_round() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let van = store::create_vehicle(conn, day.0, &a_van("van 1"))
        .await
        .expect("a van")
        .id;
    for step in 1..=4 {
        a_shipment(conn, day, f64::from(step) * 700.0, 1_000).await;
    }
    stored(conn, day).await;
    a_shipment(conn, day, 100.0, 1_000).await;
    let (snapshot, found) = computed(conn, day).await;
    let route = route_of(conn, van).await;
    store::lock_stops(conn, route, 1, &by_hand()).await.expect("a lock");
    for when_stale in [WhenStale::Refuse, WhenStale::PublishTheRest] {
        let published = plan::publish(conn, &snapshot, &found, when_stale, &by_hand()).await;
        assert_eq!(published.ok(), Some(Published::Stale), "{when_stale:?}");
    }
    assert_eq!(stored(conn, day).await.version, 2);
    all_is_well(conn).await;
}

#[tokio::test]
async fn what_deliveries_ask_for_and_vans_can_do_is_planned_and_audited() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    store::create_vehicle(conn, day.0, &a_van("plain"))
        .await
        .expect("a van");
    let cold = VehicleSpec {
        skills: vec!["cold".into()],
        fixed_cost: 90_000,
        seconds_max: Some(10 * 3600),
        metres_max: Some(200_000),
        rest: Some(Rest {
            window: Window {
                start: 11 * 3600,
                end: 13 * 3600,
            },
            seconds: 1_800,
        }),
        ..a_van("cold")
    };
    let cold = store::create_vehicle(conn, day.0, &cold).await.expect("a van").id;
    let (_, vaccine) = a_shipment(conn, day, 2_000.0, 1_000).await;
    a_shipment(conn, day, 2_500.0, 1_000).await;
    let wanted = Delivery {
        priority: 1,
        skills: vec!["cold".into()],
        // The first is before any shift: it is the second that counts, and keeps the van out over its driver's rest.
        windows: vec![
            Window {
                start: 5 * 3600,
                end: 6 * 3600,
            },
            Window {
                start: 14 * 3600,
                end: 15 * 3600,
            },
        ],
    };
    let (changed, of) = store::change_delivery(conn, vaccine, &wanted, &by_hand())
        .await
        .expect("a change");
    assert_eq!(of, day);
    assert_eq!(
        (changed.priority, changed.later_windows),
        (1, vec![14 * 3600, 15 * 3600])
    );
    // It leaves at 14:00 and is back before anybody would rest, unless something takes it out earlier.
    let early = Delivery {
        windows: vec![Window {
            start: 9 * 3600,
            end: 10 * 3600,
        }],
        ..wanted.clone()
    };
    let (_, serum) = a_shipment(conn, day, 2_200.0, 1_000).await;
    store::change_delivery(conn, serum, &early, &by_hand())
        .await
        .expect("a change");
    stored(conn, day).await;
    // Since that van goes out anyway, it takes everything.
    let together = stops_of(conn, cold).await;
    let place = |id: ShipmentId| together.iter().position(|stop| *stop == id);
    assert!(place(serum) < place(vaccine) && place(serum).is_some(), "{together:?}");
    all_is_well(conn).await;

    let spoils = [
        (
            "R2",
            "update vehicles set skills = '{}' where name = 'cold'",
            "update vehicles set skills = '{cold}' where name = 'cold'",
        ),
        (
            "R3",
            "update vehicles set seconds_max = 600 where name = 'cold'",
            "update vehicles set seconds_max = 36000 where name = 'cold'",
        ),
        (
            "R3",
            "update vehicles set metres_max = 600 where name = 'cold'",
            "update vehicles set metres_max = 200000 where name = 'cold'",
        ),
        (
            "R3",
            "update vehicles set rest_seconds = 14400 where name = 'cold'",
            "update vehicles set rest_seconds = 1800 where name = 'cold'",
        ),
        (
            "R3",
            "update routes set rest_starts_at = rest_starts_at + 3 * 3600",
            "update routes set rest_starts_at = rest_starts_at - 3 * 3600",
        ),
        (
            "R3",
            "update shipments set later_windows = '{}' where cardinality(later_windows) > 0",
            "update shipments set later_windows = '{50400,54000}' where window_start = 18000",
        ),
    ];
    for (rule, spoil, mend) in spoils {
        sqlx::query(spoil).execute(&mut *conn).await.expect(spoil);
        let wrong = store::audit(conn).await.expect("an audit");
        assert!(wrong.iter().any(|line| line.starts_with(rule)), "{spoil}: {wrong:?}");
        sqlx::query(mend).execute(&mut *conn).await.expect(mend);
    }
    all_is_well(conn).await;

    // A planned delivery that asks for something else is off its route at once, and planned anew.
    let routine = Delivery {
        skills: vec![],
        priority: 3,
        ..early
    };
    store::change_delivery(conn, vaccine, &routine, &by_hand())
        .await
        .expect("a change");
    assert!(!stops_of(conn, cold).await.contains(&vaccine));
    all_is_well(conn).await;
    stored(conn, day).await;
    assert_eq!(state_of(conn, vaccine).await.0, "planned");
    all_is_well(conn).await;
}

#[tokio::test]
async fn what_no_delivery_can_ask_for_is_refused_by_field() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    testkit::a_vehicle(conn, day.0.0, "van 1").await;
    let (order, id) = a_shipment(conn, day, 700.0, 1_000).await;
    let window = |start, end| Window { start, end };
    let good = Delivery {
        priority: 3,
        skills: vec![],
        windows: vec![window(0, 86_400)],
    };
    let bad = [
        (
            "priority",
            Delivery {
                priority: 4,
                ..good.clone()
            },
        ),
        (
            "skills",
            Delivery {
                skills: vec!["Cold chain".into()],
                ..good.clone()
            },
        ),
        (
            "windows",
            Delivery {
                windows: vec![],
                ..good.clone()
            },
        ),
        (
            "windows",
            Delivery {
                windows: vec![window(60, 60)],
                ..good.clone()
            },
        ),
        (
            "windows",
            Delivery {
                windows: vec![window(0, 60), window(60, 90)],
                ..good.clone()
            },
        ),
        (
            "windows",
            Delivery {
                windows: vec![window(100, 86_401)],
                ..good.clone()
            },
        ),
    ];
    for (field, bad) in bad {
        let refused = store::change_delivery(conn, id, &bad, &by_hand()).await;
        assert!(
            matches!(refused, Err(Error::OutOfBounds { field: named, .. }) if named == field),
            "{bad:?}"
        );
    }
    store::cancel_shipments(conn, order, &by_hand())
        .await
        .expect("a cancel");
    let late = store::change_delivery(conn, id, &good, &by_hand()).await;
    assert!(matches!(late, Err(Error::OnItsWay { state }) if state == "cancelled"));
}

#[tokio::test]
async fn the_urgent_one_goes_out_and_the_routine_one_waits_for_another_day() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    let small = VehicleSpec {
        stops_max: 1,
        ..a_van("van 1")
    };
    store::create_vehicle(conn, day.0, &small).await.expect("a van");
    let (_, routine) = a_shipment(conn, day, 700.0, 1_000).await;
    stored(conn, day).await;
    let (_, urgent) = a_shipment(conn, day, 5_000.0, 1_000).await;
    let wanted = Delivery {
        priority: 1,
        skills: vec![],
        windows: vec![Window {
            start: 28_800,
            end: 64_800,
        }],
    };
    store::change_delivery(conn, urgent, &wanted, &by_hand())
        .await
        .expect("a change");
    stored(conn, day).await;
    assert_eq!(state_of(conn, urgent).await.0, "planned");
    assert_eq!(
        state_of(conn, routine).await,
        ("unplanned".into(), day.1 + Days::new(1), Some("stops_max".into()))
    );
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_stored_plan_is_found_again_to_the_byte_as_long_as_its_input_is_the_same() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = (a_warehouse(conn).await, tomorrow(conn).await);
    for name in ["van 1", "van 2"] {
        let few = VehicleSpec {
            stops_max: 5,
            ..a_van(name)
        };
        store::create_vehicle(conn, day.0, &few).await.expect("a van");
    }
    for step in 1..=7 {
        a_shipment(conn, day, f64::from(step) * 700.0, 1_000).await;
    }
    let first = stored(conn, day).await;
    // The second starts from the first, prefers it, and leaves somebody out.
    for step in 1..=5 {
        a_shipment(conn, day, -f64::from(step) * 600.0, 1_000).await;
    }
    let (snapshot, found) = computed(conn, day).await;
    let Ok(Published::Stored(second)) = plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &by_hand()).await
    else {
        panic!("no second plan");
    };
    assert_eq!((second.stops, second.moved), (10, 2));

    let (snapshot, recipe, iterations) = plan::as_planned(conn, second.plan_id, roads())
        .await
        .expect("its input");
    let again = recipe::search_again(&snapshot.problem, recipe, iterations);
    assert_eq!(again, found);
    assert!(plan::as_planned(conn, first.plan_id, roads()).await.is_ok());

    sqlx::query("update shipments set weight_grams = weight_grams + 1")
        .execute(&mut *conn)
        .await
        .expect("a change by hand");
    let refused = plan::as_planned(conn, second.plan_id, roads()).await;
    assert!(matches!(refused, Err(Error::Unrepeatable(_))));
}
