//! Ways by road: both servers' formats over real HTTP, what is done with wrong answers, what is kept, and plans made so.

use std::time::Duration;

use domain::ids::{OrderId, ShipmentId, WarehouseId};
use domain::routes::distance::{Haversine, Point};
use domain::routes::plan::{self, Published, Snapshot, WhenStale};
use domain::routes::problem::Matrix;
use domain::routes::recipe::{self, Recipe};
use domain::routes::road_matrix::{self, Cell, RoadMatrix, cells};
use domain::routes::roads::{self, Error, Kind, Roads};
use domain::routes::sheet;
use domain::routes::solver::Unhurried;
use domain::routes::store::{self, Day};
use domain::{Cause, catalogue};
use sqlx::PgConnection;
use testkit::road_server::{self, Mistake};
use testkit::{Database, RoadServer};

const BOTH: [Kind; 2] = [Kind::Osrm, Kind::Valhalla];
const LONG: Duration = Duration::from_secs(30);

fn asking(server: &RoadServer, kind: Kind) -> Roads {
    Roads::new(kind, server.url.parse().expect("an address"))
}

/// Places here and there in London, none twice.
fn places(count: usize) -> Vec<Cell> {
    cells((0..count).map(|place| Point {
        lat: 51.4 + place as f64 * 0.004,
        lon: -0.3 + (place * 37 % 101) as f64 * 0.005,
    }))
}

async fn measure(roads: &Roads, cells: Vec<Cell>, known: Option<&RoadMatrix>) -> Result<RoadMatrix, Error> {
    let provider = roads.provider().expect("a client");
    roads::measure(roads, &*provider, "v".to_owned(), cells, known, LONG).await
}

fn points(cells: &[Cell]) -> Vec<Point> {
    cells.iter().map(|cell| cell.point()).collect()
}

fn beyond() -> Haversine {
    Haversine::new(1.3, 40.0)
}

/// Whether every way is as the server says, rounded up.
fn assert_as_served(kind: Kind, matrix: &Matrix, points: &[Point]) {
    for (row, from) in points.iter().enumerate() {
        for (column, to) in points.iter().enumerate() {
            let (metres, seconds) = RoadServer::way((from.lat, from.lon), (to.lat, to.lon));
            let expected = match kind {
                Kind::Osrm => (metres.ceil() as i64, seconds.ceil() as i32),
                Kind::Valhalla => (metres.round() as i64, seconds.round() as i32),
            };
            let found = (matrix.metres(row, column), matrix.seconds(row, column));
            assert_eq!(found, expected, "{kind:?} from {from:?} to {to:?}");
        }
    }
}

#[tokio::test]
async fn either_server_measures_every_way_within_its_own_limit() {
    for kind in BOTH {
        let server = RoadServer::start(10).await;
        let roads = Roads {
            points_max: 10,
            ..asking(&server, kind)
        };
        let cells = places(23);
        let matrix = measure(&roads, cells.clone(), None).await.expect("a matrix");
        assert_as_served(kind, &matrix.matrix(&points(&cells), beyond()), &points(&cells));
        // Five groups of five at most, each with each.
        assert_eq!(server.asked(), (25, 23 * 23));
        let matrix = matrix.matrix(&points(&cells), beyond());
        assert_ne!(matrix.metres(0, 5), matrix.metres(5, 0), "directions differ");
    }
}

#[tokio::test]
async fn what_an_earlier_matrix_knows_is_not_asked_again() {
    for kind in BOTH {
        let server = RoadServer::start(10).await;
        let roads = Roads {
            points_max: 10,
            ..asking(&server, kind)
        };
        let all = places(24);
        let known: Vec<Cell> = all.iter().copied().filter(|cell| *cell != all[7]).collect();
        let known = measure(&roads, known, None).await.expect("a matrix");
        server.asked();
        let matrix = measure(&roads, all.clone(), Some(&known)).await.expect("a matrix");
        assert_eq!(server.asked().1, 1 + 23 + 23, "only ways with the new place in them");
        assert_as_served(kind, &matrix.matrix(&points(&all), beyond()), &points(&all));
        // Of other data nothing is taken over.
        let provider = roads.provider().expect("a client");
        let anew = roads::measure(&roads, &*provider, "w".to_owned(), all, Some(&known), LONG).await;
        anew.expect("a matrix");
        assert_eq!(server.asked().1, 24 * 24);
    }
}

#[tokio::test]
async fn a_place_without_a_way_keeps_none_and_the_others_have_theirs() {
    for kind in BOTH {
        let server = RoadServer::start(100).await;
        let cells = places(6);
        let (island, sea) = (cells[2].point(), cells[4].point());
        server.cut_off(island.lat, island.lon);
        server.flood(sea.lat, sea.lon);
        let matrix = measure(&asking(&server, kind), cells.clone(), None).await;
        let matrix = matrix.expect("a matrix").matrix(&points(&cells), beyond());
        for from in 0..6 {
            for to in 0..6 {
                let is_one_of = |place| [from, to].contains(&place);
                let has_way = from == to || !(is_one_of(2) || is_one_of(4));
                assert_eq!(matrix.has_way(from, to), has_way, "{kind:?} from {from} to {to}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_answer_is_refused_with_a_pointer_to_it() {
    for kind in BOTH {
        let server = RoadServer::start(100).await;
        let roads = asking(&server, kind);
        let at = |osrm: &str, valhalla: &str| if kind == Kind::Osrm { osrm } else { valhalla }.to_owned();
        let wrong = [
            (Mistake::RowMissing, at("/durations", "/sources_to_targets")),
            (Mistake::ColumnMissing, at("/durations/4", "/sources_to_targets/4")),
            (Mistake::Negative, at("/distances/0/1", "/sources_to_targets/0/1/time")),
            (Mistake::SelfPair, at("/durations/1/1", "/sources_to_targets/1/1/time")),
            (Mistake::NotJson, String::new()),
            (Mistake::Endless, String::new()),
        ];
        for (mistake, pointer) in wrong {
            server.make(Some(mistake));
            match measure(&roads, places(5), None).await {
                Err(Error::Nonsense { at, .. }) => assert_eq!(at, pointer, "{kind:?} {mistake:?}"),
                other => panic!("{kind:?} {mistake:?}: {other:?}"),
            }
        }
    }
    let server = RoadServer::start(100).await;
    server.make(Some(Mistake::NoDistances));
    let old = measure(&asking(&server, Kind::Osrm), places(5), None).await;
    assert!(
        matches!(&old, Err(Error::Nonsense { at, .. }) if at == "/distances"),
        "{old:?}"
    );
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out_and_trouble_that_stays_is_told() {
    for kind in BOTH {
        let server = RoadServer::start(100).await;
        let roads = Roads {
            timeout: Duration::from_millis(300),
            ..asking(&server, kind)
        };
        for passing in [
            Mistake::Status(503),
            Mistake::Status(429),
            Mistake::Silence,
            Mistake::BreaksOff,
        ] {
            server.make_for(passing, 2);
            let measured = measure(&roads, places(5), None).await;
            assert!(measured.is_ok(), "{kind:?} {passing:?}: {measured:?}");
            server.asked();
            server.make(Some(passing));
            let told = measure(&roads, places(5), None).await.expect_err("no matrix");
            match passing {
                Mistake::Status(status) => {
                    assert!(matches!(told, Error::Refused { status: found, .. } if found == status))
                }
                _ => assert!(matches!(told, Error::Silent(_)), "{told}"),
            }
            assert_eq!(server.asked().0, 3, "three tries and no more");
        }
        for lasting in [Mistake::Status(400), Mistake::Redirect] {
            server.make(Some(lasting));
            let told = measure(&roads, places(5), None).await.expect_err("no matrix");
            assert!(matches!(told, Error::Refused { .. }), "{kind:?} {lasting:?}: {told}");
            assert_eq!(server.asked().0, 1, "no second try");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_without_its_address() {
    let url = "http://user:secret@127.0.0.1:1/roads".parse().expect("an address");
    let roads = Roads::new(Kind::Osrm, url);
    let told = measure(&roads, places(2), None)
        .await
        .expect_err("no matrix")
        .to_string();
    assert!(!told.contains("secret") && !told.contains("127.0.0.1"), "{told}");
    let provider = roads.provider().expect("a client");
    let slow = Duration::from_nanos(1);
    let told = roads::measure(&roads, &*provider, String::new(), places(2), None, slow).await;
    assert!(matches!(told, Err(Error::Silent(_))), "{told:?}");
}

#[tokio::test]
async fn the_name_of_the_data_is_the_servers_own() {
    let server = RoadServer::start(100).await;
    let near = places(1)[0].point();
    let version = async |kind| {
        let provider = asking(&server, kind).provider().expect("a client");
        provider.data_version(near).await
    };
    assert_eq!(version(Kind::Osrm).await, Ok(road_server::DATA_VERSION.to_owned()));
    assert_eq!(version(Kind::Valhalla).await, Ok("1634903519".to_owned()));
}

#[tokio::test]
async fn a_matrix_is_found_by_its_places_and_data_and_goes_when_nobody_wants_it() {
    let server = RoadServer::start(100).await;
    let roads = asking(&server, Kind::Osrm);
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    let elsewhere = WarehouseId(testkit::a_warehouse(conn, "OTHER").await);
    let cells = places(12);
    let matrix = measure(&roads, cells.clone(), None).await.expect("a matrix");
    let row = road_matrix::keep(conn, warehouse, &matrix).await.expect("a row");
    assert_eq!(
        row,
        road_matrix::keep(conn, warehouse, &matrix).await.expect("the same row")
    );

    let mut found = async |warehouse, profile, version, cells: &[Cell]| {
        road_matrix::find(conn, warehouse, ("osrm", profile, version), cells)
            .await
            .expect("a read")
    };
    let kept = Some((row, matrix.clone()));
    assert_eq!(found(warehouse, "driving", Some("v"), &cells).await, kept);
    assert_eq!(found(warehouse, "driving", None, &cells).await, kept);
    assert_eq!(found(warehouse, "driving", Some("w"), &cells).await, None);
    assert_eq!(found(warehouse, "truck", None, &cells).await, None);
    assert_eq!(found(elsewhere, "driving", None, &cells).await, None);
    assert_eq!(found(warehouse, "driving", None, &cells[1..]).await, None);

    let latest = road_matrix::latest(conn, warehouse, &matrix.origin)
        .await
        .expect("a read");
    assert_eq!(latest, Some(matrix));
    assert_eq!(road_matrix::prune(conn, 30).await.expect("a delete"), 0);
    sqlx::query("update road_matrices set used_at = now() - interval '31 days'")
        .execute(&db.pool)
        .await
        .expect("an update");
    plan_with(&db, warehouse, row).await;
    assert_eq!(
        road_matrix::prune(conn, 30).await.expect("a delete"),
        0,
        "a coming plan needs it"
    );
    sqlx::query("update route_plans set date = date - 2")
        .execute(&db.pool)
        .await
        .expect("an update");
    assert_eq!(road_matrix::prune(conn, 30).await.expect("a delete"), 1);
    let left: Option<uuid::Uuid> = sqlx::query_scalar("select matrix_id from route_plans")
        .fetch_one(&db.pool)
        .await
        .expect("the plan stays");
    assert_eq!(left, None);
}

/// A plan for tomorrow, made with that matrix.
async fn plan_with(db: &Database, warehouse: WarehouseId, matrix: uuid::Uuid) {
    sqlx::query(
        "insert into route_plans (id, warehouse_id, date, version, input_hash, seed, iterations, distance_source, metres,
                                  stops, unassigned, matrix_id)
         values (gen_random_uuid(), $1, (clock_timestamp() at time zone 'UTC')::date + 1, 1, '', 0, 0, 'osrm', 0, 0, 0, $2)",
    )
    .bind(warehouse.0)
    .bind(matrix)
    .execute(&db.pool)
    .await
    .expect("a plan");
}

/// A shipment that many kilometres north and east of the warehouse, as good as.
async fn a_shipment(conn: &mut PgConnection, day: Day, (north, east): (f64, f64)) -> (OrderId, ShipmentId) {
    let customer = testkit::a_customer(conn).await;
    let order = testkit::an_order(conn, customer, &[]).await;
    let id = ShipmentId::new();
    sqlx::query(
        "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                window_start, window_end, service_seconds)
         select $1, $2, w.id, 'unplanned', $4, w.lat + $5 / 111.195, w.lon + $6 / 69.0, 1000, 1000, 28800, 64800, 300
         from warehouses w where w.id = $3",
    )
    .bind(id.0)
    .bind(order)
    .bind(day.0.0)
    .bind(day.1)
    .bind(north)
    .bind(east)
    .execute(conn)
    .await
    .expect("a shipment");
    (OrderId(order), id)
}

/// Plans a day by what the server says, and publishes it.
async fn planned_by_road(conn: &mut PgConnection, roads: &Roads, day: Day) -> Snapshot {
    let mut snapshot = plan::snapshot(conn, day, beyond())
        .await
        .expect("a read")
        .expect("a day");
    let matrix = measure(roads, snapshot.cells(), None).await.expect("a matrix");
    let row = road_matrix::keep(conn, day.0, &matrix).await.expect("a row");
    snapshot.drive_by(row, matrix);
    let recipe = Recipe {
        seed: 1,
        iterations: 500,
        before: 0,
        start: Vec::new(),
    };
    let found = recipe::search(&snapshot.problem, recipe, &Unhurried);
    let cause = Cause::actor("test");
    let published = plan::publish(conn, &snapshot, &found, WhenStale::Refuse, &cause).await;
    assert!(matches!(published, Ok(Published::Stored(_))), "{published:?}");
    snapshot
}

async fn a_day(conn: &mut PgConnection) -> Day {
    let warehouse = testkit::a_warehouse(conn, "MAIN").await;
    testkit::a_vehicle(conn, warehouse, "van 1").await;
    let date = plan::today(conn).await.expect("a day") + chrono::Days::new(1);
    (WarehouseId(warehouse), date)
}

async fn assert_sound(conn: &mut PgConnection) {
    assert_eq!(store::audit(conn).await.expect("an audit"), Vec::<String>::new());
}

#[tokio::test]
async fn a_plan_by_road_is_recomputed_by_the_same_ways_as_long_as_they_are_kept_and_stands_alone_after() {
    let server = RoadServer::start(100).await;
    let roads = asking(&server, Kind::Osrm);
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn).await;
    let mut orders = Vec::new();
    for step in 1..=8 {
        let step = f64::from(step);
        orders.push(
            a_shipment(conn, day, (step * 1.7 % 5.0, step * 2.3 % 7.0 - 3.0))
                .await
                .0,
        );
    }
    planned_by_road(conn, &roads, day).await;
    let sheet = sheet::of_day(conn, day).await.expect("a read").expect("a plan");
    assert_eq!(sheet.plan.distance_source, "osrm driving v");
    assert!(!sheet.plan.approximate);
    let tour = &sheet.routes[0];
    let (mut at, mut metres) = ((sheet.depot.lat, sheet.depot.lon), 0);
    for stop in &tour.stops {
        let way = RoadServer::way(at, (stop.lat, stop.lon)).0;
        // Places are rounded to a metre before the server is asked.
        assert!((way - stop.metres_from_previous as f64).abs() < 5.0);
        (at, metres) = ((stop.lat, stop.lon), metres + stop.metres_from_previous);
    }
    assert!(tour.metres > metres);
    assert_sound(conn).await;

    let cancelled = orders[3];
    store::cancel_shipments(conn, cancelled, &Cause::actor("test"))
        .await
        .expect("a cancel");
    let shorter = sheet::of_day(conn, day).await.expect("a read").expect("a plan");
    assert_eq!(shorter.routes[0].stops.len(), 7);
    assert!(shorter.routes[0].metres <= tour.metres);
    assert_sound(conn).await;

    // The same search on the same ways finds the same plan.
    let (snapshot, recipe, iterations) = plan::as_planned(conn, sheet.plan.id, beyond())
        .await
        .expect("its input");
    let again = snapshot.routes_found(&recipe::search_again(&snapshot.problem, recipe, iterations));
    let stops: Vec<_> = tour.stops.iter().map(|stop| stop.shipment_id).collect();
    assert_eq!(again, [(tour.vehicle_id, stops)]);

    // What was measured is gone: sums and windows are checked all the same.
    sqlx::query("delete from road_matrices")
        .execute(&mut *conn)
        .await
        .expect("a delete");
    let refused = plan::as_planned(conn, sheet.plan.id, beyond())
        .await
        .expect_err("no ways");
    assert_eq!(
        refused.to_string(),
        "the plan cannot be repeated: the ways it was made with are no longer kept"
    );
    assert_sound(conn).await;
    sqlx::query("update routes set metres = metres + 2 where state = 'planned'")
        .execute(&mut *conn)
        .await
        .expect("an update");
    // The way home is what is left of the length, so that alone shows nothing; a leg's time does.
    sqlx::query(
        "update route_stops set starts_at = starts_at + 60, leaves_at = leaves_at + 60 where active and position = 1",
    )
    .execute(&mut *conn)
    .await
    .expect("an update");
    assert!(!store::audit(conn).await.expect("an audit").is_empty());
}

#[tokio::test]
async fn who_no_road_leads_to_is_left_out_and_told_so() {
    let server = RoadServer::start(100).await;
    let roads = asking(&server, Kind::Valhalla);
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn).await;
    let (_, near) = a_shipment(conn, day, (1.0, 1.0)).await;
    let (_, island) = a_shipment(conn, day, (4.0, 2.0)).await;
    let (_, far) = a_shipment(conn, day, (3_000.0, 0.0)).await;
    let place = store::shipment(conn, island)
        .await
        .expect("a read")
        .expect("a shipment");
    let cell = Cell::of(Point {
        lat: place.lat,
        lon: place.lon,
    })
    .point();
    server.cut_off(cell.lat, cell.lon);
    let snapshot = planned_by_road(conn, &roads, day).await;
    assert_eq!(snapshot.cells().len(), 3, "nobody asks about the one far away");
    let mut reason = async |id| {
        let shipment = store::shipment(conn, id).await.expect("a read").expect("a shipment");
        (shipment.state, shipment.unassigned.map(|why| why["reason"].clone()))
    };
    assert_eq!(reason(near).await, ("planned".to_owned(), None));
    assert_eq!(
        reason(island).await,
        ("unplanned".to_owned(), Some("unreachable".into()))
    );
    assert_eq!(reason(far).await, ("unplanned".to_owned(), Some("out_of_range".into())));
    let sheet = sheet::of_day(conn, day).await.expect("a read").expect("a plan");
    let why: Vec<&str> = sheet.left_out.iter().map(|left| left.why.as_str()).collect();
    assert!(why.contains(&"no road leads there and back"), "{why:?}");
    assert!(
        why.iter()
            .any(|why| why.starts_with("out of range: it is 3000 km from the depot")),
        "{why:?}"
    );
    assert_sound(conn).await;
}

#[tokio::test]
async fn a_warehouse_has_roads_and_a_speed_of_its_own() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn).await;
    a_shipment(conn, day, (1.0, 1.0)).await;
    let mut source = async |factor, speed| {
        catalogue::store::set_roads(conn, day.0, factor, speed)
            .await
            .expect("a change")
            .expect("the warehouse");
        let snapshot = plan::snapshot(conn, day, beyond())
            .await
            .expect("a read")
            .expect("a day");
        (snapshot.distance_source(), snapshot.input_hash)
    };
    let fleet = source(None, None).await;
    assert_eq!(fleet.0, "haversine 130% 40.0km/h");
    let own = source(Some(Some(1.45)), Some(Some(27.5))).await;
    assert_eq!(own.0, "haversine 145% 27.5km/h");
    assert_ne!(fleet.1, own.1, "another input");
    assert_eq!(source(None, Some(None)).await.0, "haversine 145% 40.0km/h");
    assert_eq!(source(Some(None), None).await, fleet);
    let refused = catalogue::store::set_roads(conn, day.0, Some(Some(0.5)), None).await;
    assert!(refused.is_err(), "shorter than a straight line");
}
