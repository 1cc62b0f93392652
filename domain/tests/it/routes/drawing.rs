//! What a plan looks like: GeoJSON, polylines, map, strips, lists. Names come from customers, and some mean ill.

use std::collections::BTreeSet;

use domain::Cause;
use domain::ids::{ShipmentId, WarehouseId};
use domain::routes::distance::Point;
use domain::routes::recipe::{self, Recipe};
use domain::routes::sheet::{self, Sheet};
use domain::routes::solver::Unhurried;
use domain::routes::store::Day;
use domain::routes::{Haversine, gantt, geojson, list, map, plan, polyline};
use serde_json::Value;
use sqlx::PgConnection;
use testkit::Database;

const STOPS: usize = 30;
/// A name that would run, close a tag, or end a picture.
const ILL: &str = r#"<script>alert("x")</script> & ']]> Söhne"#;

async fn a_shipment(conn: &mut PgConnection, day: Day, (lat, lon): (f64, f64), grams: i64) -> ShipmentId {
    let customer = testkit::a_customer(conn).await;
    sqlx::query("update customers set name = $2, address = $2 || ' 12' where id = $1")
        .bind(customer)
        .bind(ILL)
        .execute(&mut *conn)
        .await
        .expect("a name");
    let order = testkit::an_order(conn, customer, &[]).await;
    let id = ShipmentId::new();
    sqlx::query(
        "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                window_start, window_end, service_seconds)
         values ($1, $2, $3, 'unplanned', $4, $5, $6, $7, 12000, 28800 + $8 * 1800, 46800 + $8 * 3600, 300)",
    )
    .bind(id.0)
    .bind(order)
    .bind(day.0.0)
    .bind(day.1)
    .bind(lat)
    .bind(lon)
    .bind(grams)
    .bind(i32::from(id.0.as_bytes()[15] % 4))
    .execute(conn)
    .await
    .expect("a shipment");
    id
}

/// A planned day: thirty stops, four of them at one door and five next to the warehouse, one swapped and one too heavy.
async fn a_day(conn: &mut PgConnection) -> Day {
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    let date = plan::today(conn).await.expect("a day") + chrono::Days::new(1);
    let day = (warehouse, date);
    for van in ["van 1", "van 2", "van 10"] {
        let id = testkit::a_vehicle(conn, warehouse.0, van).await;
        sqlx::query("update vehicles set stops_max = 12 where id = $1")
            .bind(id)
            .execute(&mut *conn)
            .await
            .expect("a van");
    }
    let depot: (f64, f64) = sqlx::query_as("select lat, lon from warehouses where id = $1")
        .bind(warehouse.0)
        .fetch_one(&mut *conn)
        .await
        .expect("a place");
    for stop in 0..STOPS {
        let (north, east) = match stop {
            0..4 => (0.031, -0.045),
            4..9 => (0.0003 * stop as f64, 0.0002),
            _ => {
                let turn = stop as f64 * 2.399;
                (
                    0.011 * (stop as f64).sqrt() * turn.cos(),
                    0.018 * (stop as f64).sqrt() * turn.sin(),
                )
            }
        };
        a_shipment(conn, day, (depot.0 + north, depot.1 + east), 20_000).await;
    }
    a_shipment(conn, day, (depot.1, depot.0), 1_000).await;
    a_shipment(conn, day, depot, 900_000_000).await;
    let roads = Haversine::new(1.3, 30.0);
    let snapshot = plan::snapshot(conn, day, roads).await.expect("a read").expect("a day");
    let recipe = Recipe {
        seed: 1,
        iterations: 3_000,
        before: 0,
        start: Vec::new(),
    };
    let found = recipe::search(&snapshot.problem, recipe, &Unhurried);
    plan::publish(conn, &snapshot, &found, plan::WhenStale::Refuse, &Cause::actor("test"))
        .await
        .expect("a plan");
    // As if its driver rested.
    sqlx::query("update vehicles set rest_start = 0, rest_end = 86400, rest_seconds = 1800")
        .execute(&mut *conn)
        .await
        .expect("vehicles that rest");
    sqlx::query(
        "update routes r set rest_after_stops = 2, rest_starts_at = t.arrives_at
         from route_stops t where t.route_id = r.id and t.position = 3",
    )
    .execute(conn)
    .await
    .expect("a rest");
    day
}

async fn a_sheet() -> Sheet {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn).await;
    sheet::of_day(conn, day).await.expect("a read").expect("a plan")
}

/// Whether each tag that opens closes, in order, and no text holds one.
fn assert_well_formed(document: &str) {
    let mut open = Vec::new();
    for piece in document.split('<').skip(1) {
        let (tag, _) = piece
            .split_once('>')
            .unwrap_or_else(|| panic!("no end of tag: {piece}"));
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        match tag {
            _ if tag.starts_with('!') || tag.ends_with('/') || ["meta", "br"].contains(&name) => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "{piece}"),
            _ => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    assert!(!document.contains("<script") && !document.contains("alert(\"x\")"));
    assert!(
        !document.contains("http://") || document.matches("http://").count() == 1,
        "only the name of SVG"
    );
}

/// The numbers in an attribute of every tag that begins so.
fn numbers(document: &str, tag: &str, name: &str) -> Vec<f64> {
    let after = format!(" {name}=\"");
    let tags = document.split('<').filter(|piece| piece.starts_with(tag));
    tags.filter_map(|piece| piece.split_once(&after)?.1.split('"').next()?.parse().ok())
        .collect()
}

#[tokio::test]
async fn a_map_has_every_stop_once_and_no_number_on_another() {
    let sheet = a_sheet().await;
    let map = map::map(&sheet);
    assert_well_formed(&map);
    let (x, y, r) = (
        numbers(&map, "circle", "cx"),
        numbers(&map, "circle", "cy"),
        numbers(&map, "circle", "r"),
    );
    let circles: Vec<(f64, f64)> = x
        .into_iter()
        .zip(y)
        .zip(r)
        .filter(|(_, r)| *r > 2.0)
        .map(|(place, _)| place)
        .collect();
    assert_eq!(circles.len(), STOPS);
    for (one, a) in circles.iter().enumerate() {
        for b in &circles[one + 1..] {
            assert!((a.0 - b.0).hypot(a.1 - b.1) > 19.8, "{a:?} {b:?}");
        }
    }
    let colours: BTreeSet<&str> = sheet.routes.iter().map(|tour| tour.colour.as_str()).collect();
    assert_eq!(colours.len(), 3, "a colour for each van");
    assert!(colours.iter().all(|colour| map.contains(*colour)));
    assert!(map.contains("2 on no route") && map.contains("1 out of range") && map.contains("1 too big"));
    assert!(map.contains("Söhne"), "whose order it is, under the mouse");
}

#[tokio::test]
async fn the_strips_add_up_to_the_time_out() {
    let sheet = a_sheet().await;
    let drawn = gantt::gantt(&sheet);
    assert_well_formed(&drawn);
    let title = |word: &str| drawn.matches(&format!("<title>{word}")).count();
    let legs: usize = sheet.routes.iter().map(|tour| tour.stops.len() + 1).sum();
    // Who shares a door drives nothing in between.
    assert!(
        (legs - 6..=legs).contains(&title("drive ")),
        "{} of {legs}",
        title("drive ")
    );
    assert_eq!(title("break, "), 3);
    for tour in &sheet.routes {
        // Once in the strip, once on its window.
        assert_eq!(title(&format!("{} 1: ", tour.vehicle)), 2);
    }
}

#[tokio::test]
async fn geojson_and_polylines_lead_from_the_depot_through_each_stop_and_back() {
    let sheet = a_sheet().await;
    let drawn = geojson::geojson(&sheet);
    let features = drawn["features"].as_array().expect("features");
    let of_kind = |kind: &str| -> Vec<&Value> {
        features
            .iter()
            .filter(|feature| feature["properties"]["kind"] == kind)
            .collect()
    };
    assert_eq!(
        (of_kind("route").len(), of_kind("stop").len(), of_kind("left_out").len()),
        (3, STOPS, 2)
    );
    let lines = polyline::polylines(&sheet);
    for ((tour, feature), line) in sheet
        .routes
        .iter()
        .zip(of_kind("route"))
        .zip(lines["routes"].as_array().expect("routes"))
    {
        let coordinates = feature["geometry"]["coordinates"].as_array().expect("a line");
        assert_eq!(coordinates.len(), tour.stops.len() + 2);
        assert_eq!(coordinates.first(), coordinates.last());
        assert_eq!(coordinates[0][0], sheet.depot.lon, "longitude first");
        assert_eq!(feature["properties"]["vehicle"], tour.vehicle);
        assert_eq!(feature["properties"]["load_grams"], tour.load.grams);
        for (name, precision) in [("polyline", 5), ("polyline6", 6)] {
            let points = polyline::decode(line[name].as_str().expect("a line"), precision).expect("points");
            let expected =
                |stop: &Point, lat: f64, lon: f64| (stop.lat - lat).abs() < 1e-5 && (stop.lon - lon).abs() < 1e-5;
            assert_eq!(points.len(), tour.stops.len() + 2);
            assert!(expected(&points[1], tour.stops[0].lat, tour.stops[0].lon));
        }
    }
}

#[tokio::test]
async fn the_drivers_list_has_what_a_driver_needs_and_says_who_is_left_out() {
    let sheet = a_sheet().await;
    let page = list::html(&sheet);
    assert_well_formed(&page);
    let text = list::text(&sheet);
    assert!(!text.contains('\u{1b}'));
    for tour in &sheet.routes {
        let first = &tour.stops[0];
        let (due, opens) = (first.arrives_at, first.window.start);
        let clock = |at: i32| format!("{:02}:{:02}", at / 3600, at / 60 % 60);
        let line = text
            .lines()
            .find(|line| line.contains(&first.order_id.to_string()))
            .expect("a line for the stop");
        assert!(
            line.starts_with("1 ") && line.contains(&clock(due)) && line.contains(&clock(opens)),
            "{line}"
        );
        assert!(page.contains(&first.order_id.to_string()));
        assert!(text.contains(&format!("\n{}: {} stops, ", tour.vehicle, tour.stops.len())));
    }
    assert_eq!(text.matches("break, 30 min").count(), 3);
    for document in [&text, &page] {
        assert!(document.contains("with latitude and longitude swapped it would be 0 km"));
        assert!(document.contains("too big for every vehicle"));
    }
    let names: Vec<&str> = sheet.routes.iter().map(|tour| tour.vehicle.as_str()).collect();
    assert_eq!(names, ["van 1", "van 2", "van 10"]);
}

#[tokio::test]
async fn a_day_without_routes_is_drawn_too() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    let date = plan::today(conn).await.expect("a day") + chrono::Days::new(1);
    assert_eq!(sheet::of_day(conn, (warehouse, date)).await.expect("a read"), None);
    a_shipment(conn, (warehouse, date), (51.5, -0.1), 1_000).await;
    let roads = Haversine::new(1.3, 30.0);
    let snapshot = plan::snapshot(conn, (warehouse, date), roads)
        .await
        .expect("a read")
        .expect("a day");
    let recipe = Recipe {
        seed: 1,
        iterations: 1,
        before: 0,
        start: Vec::new(),
    };
    let found = recipe::search(&snapshot.problem, recipe, &Unhurried);
    let cause = Cause::actor("test");
    plan::publish(conn, &snapshot, &found, plan::WhenStale::Refuse, &cause)
        .await
        .expect("a plan");
    let sheet = sheet::of_day(conn, (warehouse, date))
        .await
        .expect("a read")
        .expect("a plan");
    for document in [map::map(&sheet), gantt::gantt(&sheet), list::html(&sheet)] {
        assert_well_formed(&document);
    }
    assert!(list::text(&sheet).contains("the warehouse has no vehicles"));
}
