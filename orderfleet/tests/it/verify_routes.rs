//! Each invariant of routes is seen when it is broken. What the checker of `domain::routes` sees of a single route is
//! tested there; here it is that `verify` asks, and what only the whole table shows.

use orderfleet::verify::Records;
use sqlx::PgConnection;

use crate::verify::{a_sound_world, plant, violated};

/// One shipment of the sound world's order, planned on one route at its warehouse's own door: nothing to drive.
const ROUTED: &str = "
    insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                           window_start, window_end, service_seconds, updated_at)
    select '00000000-0000-7000-8000-00000000000a', o.id, w.id, 'planned', '2027-01-04', w.lat, w.lon, 1000, 2000,
           28800, 64800, 300, now() - interval '1 hour'
    from orders o, warehouses w;
    insert into vehicles (id, warehouse_id, name, capacity_grams, capacity_cm3, shift_start, shift_end)
    select ('00000000-0000-7000-8000-00000000001' || n)::uuid, w.id, 'van ' || n, 500000, 5000000, 25200, 68400
    from warehouses w, generate_series(1, 2) n;
    insert into route_plans (id, warehouse_id, date, version, input_hash, seed, iterations, distance_source, metres, stops, unassigned)
    select '00000000-0000-7000-8000-00000000000b', w.id, '2027-01-04', 1, '', 1, 1, 'haversine 130% 40.0km/h', 0, 1, 0
    from warehouses w;
    insert into routes (id, plan_id, warehouse_id, vehicle_id, date, departs_at, returns_at, metres, load_grams, load_cm3)
    select ('00000000-0000-7000-8000-00000000002' || n)::uuid, p.id, p.warehouse_id,
           ('00000000-0000-7000-8000-00000000001' || n)::uuid, p.date, 28800, 29100, 0, 1000, 2000
    from route_plans p, generate_series(1, 2) n;
    insert into route_stops (route_id, position, shipment_id, arrives_at, starts_at, leaves_at, metres_from_previous)
    values ('00000000-0000-7000-8000-000000000021', 1, '00000000-0000-7000-8000-00000000000a', 28800, 28800, 29100, 0);
";

async fn violated_after(conn: &mut PgConnection, sql: &str) -> Vec<&'static str> {
    plant(conn, sql).await;
    violated(conn, &Records::default()).await
}

#[tokio::test]
async fn a_shipment_on_two_routes_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    plant(&mut conn, ROUTED).await;
    let twice = "drop index route_stops_one_route_per_shipment;
                 insert into route_stops (route_id, position, shipment_id, arrives_at, starts_at, leaves_at, metres_from_previous)
                 values ('00000000-0000-7000-8000-000000000022', 1, '00000000-0000-7000-8000-00000000000a', 28800, 28800, 29100, 0)";
    let seen = violated_after(&mut conn, twice).await;
    assert!(seen.contains(&"R1"), "{seen:?}");
}

#[tokio::test]
async fn an_overloaded_van_a_missed_window_a_lost_stop_and_a_wrong_length_are_seen() {
    for (rule, sql) in [
        ("R2", "update vehicles set capacity_grams = 999"),
        ("R3", "update shipments set window_start = 28000, window_end = 28799"),
        ("R4", "update route_stops set active = false"),
        ("R5", "update routes set metres = 5"),
    ] {
        let (_db, mut conn) = a_sound_world().await;
        plant(&mut conn, ROUTED).await;
        let seen = violated_after(&mut conn, sql).await;
        assert!(seen.contains(&rule), "{rule} is not among {seen:?} after {sql}");
    }
}

#[tokio::test]
async fn a_forgotten_shipment_is_seen_and_one_with_a_reason_is_not() {
    let (_db, mut conn) = a_sound_world().await;
    plant(&mut conn, ROUTED).await;
    plant(
        &mut conn,
        "delete from route_stops; update shipments set state = 'unplanned'",
    )
    .await;
    assert_eq!(violated(&mut conn, &Records::default()).await, ["R4"]);
    let told = "update shipments set unassigned = '{\"reason\": \"too_big\"}'";
    assert_eq!(violated_after(&mut conn, told).await, Vec::<&str>::new());
}
