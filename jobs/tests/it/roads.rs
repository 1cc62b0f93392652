//! `plan_routes` with a road server: asked once, believed when it makes sense, done without when it does not answer.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::WarehouseId;
use domain::routes::roads::{Kind, Roads};
use domain::routes::sheet::{self, Plan};
use domain::routes::store::{self, Day};
use domain::routes::{VehicleSpec, plan};
use domain::services::Settings;
use domain::{Services, payments, webhooks};
use jobs::{PlanRoutes, PruneRoadMatrices, plan_routes};
use queue::{Catalogue, testing};
use sqlx::{PgConnection, PgPool};
use testkit::road_server::{DATA_VERSION, Mistake};
use testkit::{Database, RoadServer};

fn services(server: &RoadServer, kind: Kind) -> Arc<Services> {
    let nowhere = "http://127.0.0.1:9".parse().unwrap();
    let roads = Roads {
        points_max: 10,
        timeout: Duration::from_millis(500),
        ..Roads::new(kind, server.url.parse().unwrap())
    };
    Arc::new(Services {
        gateway: payments::Gateway::new(nowhere, "sk_test_nobody".to_owned().into()).unwrap(),
        sender: webhooks::Sender::new(true).unwrap(),
        settings: Settings {
            roads: Some(roads),
            ..Settings::default()
        },
        keyring: domain::keyring::Keyring::random(),
    })
}

async fn a_van(conn: &mut PgConnection, warehouse: WarehouseId, name: &str) {
    let van = VehicleSpec {
        name: name.into(),
        capacity_grams: 500_000,
        capacity_cm3: 5_000_000,
        shift_start: 7 * 3600,
        shift_end: 19 * 3600,
        stops_max: 50,
        ..VehicleSpec::default()
    };
    store::create_vehicle(conn, warehouse, &van).await.unwrap();
}

async fn a_day(conn: &mut PgConnection) -> Day {
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    a_van(conn, warehouse, "van 1").await;
    let date = plan::today(conn).await.unwrap() + chrono::Days::new(1);
    (warehouse, date)
}

/// Shipments to places of their own: those with these numbers.
async fn some_shipments(conn: &mut PgConnection, day: Day, places: std::ops::Range<i32>) {
    let customer = testkit::a_customer(conn).await;
    for place in places {
        let order = testkit::an_order(conn, customer, &[]).await;
        sqlx::query(
            "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                    window_start, window_end, service_seconds)
             select gen_random_uuid(), $1, w.id, 'unplanned', $3, w.lat + $4, w.lon - $4 / 2, 1000, 1000, 28800, 64800, 120
             from warehouses w where w.id = $2",
        )
        .bind(order)
        .bind(day.0.0)
        .bind(day.1)
        .bind(f64::from(place * 37 % 23 + 1) / 500.0)
        .execute(&mut *conn)
        .await
        .unwrap();
    }
}

/// Has the day planned, and returns the plan that counts.
async fn planned(pool: &PgPool, services: &Arc<Services>, day: Day) -> Plan {
    let conn = &mut pool.acquire().await.unwrap();
    plan_routes::request(conn, &[day]).await.unwrap();
    testkit::fast_forward(pool, Duration::from_secs(30)).await;
    let catalogue = Catalogue::new().with::<PlanRoutes>();
    let ran = testing::run_until_idle(pool, &catalogue, services).await.unwrap();
    assert_eq!((ran.completed, ran.retried, ran.buried), (1, 0, 0), "{ran:?}");
    assert_eq!(store::audit(conn).await.unwrap(), Vec::<String>::new());
    sheet::of_day(conn, day).await.unwrap().unwrap().plan
}

#[tokio::test]
async fn a_day_is_planned_by_road_and_what_was_measured_is_not_asked_again() {
    for kind in [Kind::Osrm, Kind::Valhalla] {
        let server = RoadServer::start(10).await;
        let services = services(&server, kind);
        let db = Database::new().await;
        let conn = &mut db.connect().await;
        let day = a_day(conn).await;
        some_shipments(conn, day, 0..14).await;
        let first = planned(&db.pool, &services, day).await;
        let version = if kind == Kind::Osrm { DATA_VERSION } else { "1634903519" };
        let source = format!("{} {} {version}", kind.name(), kind.profile());
        assert_eq!(
            (first.distance_source.as_str(), first.approximate),
            (source.as_str(), false)
        );
        assert_eq!(server.asked().1, 15 * 15);

        // Nothing has changed: nothing is asked, and the plan stands.
        let again = planned(&db.pool, &services, day).await;
        assert_eq!(again, first);
        assert_eq!(server.asked().1, 0);

        // One more stop: only ways to and from it.
        some_shipments(conn, day, 14..15).await;
        let more = planned(&db.pool, &services, day).await;
        assert_eq!((more.stops, more.version), (15, 2));
        assert_eq!(server.asked().1, 1 + 15 + 15);
    }
}

#[tokio::test]
async fn without_a_sensible_answer_the_day_is_planned_all_the_same_and_says_approximate() {
    for mistake in [
        Mistake::Status(500),
        Mistake::Silence,
        Mistake::Endless,
        Mistake::RowMissing,
        Mistake::Negative,
    ] {
        let server = RoadServer::start(100).await;
        server.make(Some(mistake));
        let services = services(&server, Kind::Osrm);
        let db = Database::new().await;
        let conn = &mut db.connect().await;
        let day = a_day(conn).await;
        some_shipments(conn, day, 0..5).await;
        let plan = planned(&db.pool, &services, day).await;
        assert_eq!(
            (plan.distance_source.as_str(), plan.approximate, plan.stops),
            ("haversine 130% 40.0km/h", true, 5),
            "{mistake:?}"
        );
        // It is back: the next plan is by road.
        server.make(None);
        some_shipments(conn, day, 5..6).await;
        let plan = planned(&db.pool, &services, day).await;
        assert!(
            plan.distance_source.starts_with("osrm driving ") && !plan.approximate,
            "{mistake:?}"
        );
    }
}

#[tokio::test]
async fn while_the_server_is_away_what_it_measured_before_is_taken() {
    let server = RoadServer::start(100).await;
    let services = services(&server, Kind::Osrm);
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn).await;
    some_shipments(conn, day, 0..5).await;
    planned(&db.pool, &services, day).await;
    drop(server);
    // Another van makes it another plan, of the same places.
    a_van(conn, day.0, "van 2").await;
    let plan = planned(&db.pool, &services, day).await;
    assert_eq!((plan.version, plan.approximate), (2, false));
    assert!(plan.distance_source.starts_with("osrm driving 2026"));
}

#[tokio::test]
async fn distances_nobody_has_used_for_long_are_pruned() {
    let server = RoadServer::start(100).await;
    let services = services(&server, Kind::Osrm);
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn).await;
    some_shipments(conn, day, 0..3).await;
    planned(&db.pool, &services, day).await;
    some_shipments(conn, day, 3..6).await;
    planned(&db.pool, &services, day).await;
    let mut left = async |sql: &'static str| -> i64 {
        sqlx::query(sql).execute(&db.pool).await.unwrap();
        queue::enqueue(conn, &PruneRoadMatrices {}).await.unwrap();
        let catalogue = Catalogue::new().with::<PruneRoadMatrices>();
        testing::run_until_idle(&db.pool, &catalogue, &services).await.unwrap();
        sqlx::query_scalar("select count(*) from road_matrices")
            .fetch_one(&db.pool)
            .await
            .unwrap()
    };
    assert_eq!(left("select").await, 2);
    assert_eq!(
        left("update road_matrices set used_at = used_at - interval '31 days'").await,
        2,
        "for tomorrow"
    );
    assert_eq!(left("update route_plans set date = date - 2 where not active").await, 1);
}
