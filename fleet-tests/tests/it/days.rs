//! Whole days on real data, from orders to a plan: deliveries in Rio de Janeiro (Loggi's benchmark), and the invoices of a
//! British wholesaler's day (UCI Online Retail) brought to addresses in London. Each order is submitted, reserved and paid;
//! then the day is searched by a worker that is killed half-way, and another goes on.
//!
//! The data lies beside the repository, in `../shared/data`; without it these tests say so and pass.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveDate;
use domain::ids::{CustomerId, WarehouseId};
use domain::keyring::Keyring;
use domain::orders::{NewLine, NewOrder};
use domain::routes::store::{self, Day};
use domain::routes::{VehicleSpec, gantt, geojson, map, plan, sheet};
use domain::services::Settings;
use domain::{Cause, Services, payments, webhooks};
use jobs::intake;
use queue::operate::{self, Target};
use serde::Deserialize;
use simulator::gateway;
use sqlx::PgConnection;
use testkit::Database;
use uuid::Uuid;

use crate::planning::{self, SECONDS};
use crate::rescue::holder::Blow;

/// Where an order goes, and what it is: a product and how many.
struct Wanted {
    lat: f64,
    lon: f64,
    lines: Vec<(String, i64)>,
}

/// A city's day.
struct Scene {
    name: &'static str,
    depot: (f64, f64),
    /// What one unit of any product weighs, and how big it is.
    unit: (i32, i32),
    vans: Vec<VehicleSpec>,
    orders: Vec<Wanted>,
}

fn shared(path: &str) -> Option<PathBuf> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(path);
    if file.is_file() {
        return Some(file);
    }
    eprintln!("skipped: there is no {}", file.display());
    None
}

/// Deliveries of one to ten units, vans of 180.
fn rio() -> Option<Scene> {
    #[derive(Deserialize)]
    struct Place {
        lat: f64,
        lng: f64,
    }
    #[derive(Deserialize)]
    struct Delivery {
        point: Place,
        size: i64,
    }
    #[derive(Deserialize)]
    struct Instance {
        origin: Place,
        vehicle_capacity: i64,
        deliveries: Vec<Delivery>,
    }
    let file = std::fs::read(shared("geo/loggibud-cvrp-0-rj-0.json")?).unwrap();
    let instance: Instance = serde_json::from_slice(&file).unwrap();
    let vans = (1..=12).map(|n| VehicleSpec {
        name: format!("van {n}"),
        capacity_grams: instance.vehicle_capacity * 1_000,
        ..VehicleSpec::default()
    });
    let orders = instance.deliveries.iter().map(|delivery| Wanted {
        lat: delivery.point.lat,
        lon: delivery.point.lng,
        lines: vec![("BOX".to_owned(), delivery.size)],
    });
    Some(Scene {
        name: "rio",
        depot: (instance.origin.lat, instance.origin.lng),
        unit: (1_000, 1_000),
        vans: vans.collect(),
        orders: orders.collect(),
    })
}

/// The paid British invoices of 6 December 2010, in their order, to the addresses of the list, in theirs: each to the
/// next. Two vans are refrigerated.
fn london() -> Option<Scene> {
    const DAY: &str = "2010-12-06";
    let (addresses, invoices) = (
        shared("geo/addresses-london-paris.csv")?,
        shared("orders/online-retail-2010-12-to-2011-06.csv.gz")?,
    );
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(invoices).unwrap())
        .read_to_string(&mut unpacked)
        .unwrap();
    let mut baskets: Vec<(String, Vec<(String, i64)>)> = Vec::new();
    for row in csv::Reader::from_reader(unpacked.as_bytes()).records() {
        let row = row.unwrap();
        let (invoice, sku, qty, at, price, customer, country) =
            (&row[0], &row[1], &row[3], &row[4], &row[5], &row[6], &row[7]);
        let (qty, price): (i64, f64) = (qty.parse().unwrap(), price.parse().unwrap());
        if !at.starts_with(DAY) || country != "United Kingdom" || customer.is_empty() || qty < 1 || price <= 0.0 {
            continue;
        }
        if baskets.last().is_none_or(|(last, _)| last != invoice) {
            baskets.push((invoice.to_owned(), Vec::new()));
        }
        let lines = &mut baskets.last_mut().unwrap().1;
        match lines.iter_mut().find(|(known, _)| known == sku) {
            Some((_, known)) => *known += qty,
            None => lines.push((sku.to_owned(), qty)),
        }
    }
    let places: Vec<(f64, f64)> = csv::Reader::from_path(addresses)
        .unwrap()
        .records()
        .map(Result::unwrap)
        .filter(|row| &row[2] == "London")
        .map(|row| (row[5].parse().unwrap(), row[6].parse().unwrap()))
        .collect();
    let orders = baskets
        .into_iter()
        .zip(places.iter().cycle())
        .map(|((_, lines), (lat, lon))| Wanted {
            lat: *lat,
            lon: *lon,
            lines,
        });
    let vans = (1..=6).map(|n| VehicleSpec {
        name: format!("van {n}"),
        skills: if n <= 2 { vec!["cold".to_owned()] } else { vec![] },
        ..VehicleSpec::default()
    });
    Some(Scene {
        name: "london",
        depot: (51.5274, -0.0555),
        unit: (150, 400),
        vans: vans.collect(),
        orders: orders.collect(),
    })
}

/// The city as rows: a warehouse with vans and all that anybody wants in stock.
async fn build(conn: &mut PgConnection, scene: &Scene) -> WarehouseId {
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    sqlx::query("update warehouses set lat = $2, lon = $3 where id = $1")
        .bind(warehouse)
        .bind(scene.depot.0)
        .bind(scene.depot.1)
        .execute(&mut *conn)
        .await
        .unwrap();
    for van in &scene.vans {
        store::create_vehicle(conn, warehouse, van).await.unwrap();
    }
    let mut skus: Vec<&String> = scene
        .orders
        .iter()
        .flat_map(|order| &order.lines)
        .map(|(sku, _)| sku)
        .collect();
    skus.sort_unstable();
    skus.dedup();
    for sku in skus {
        testkit::a_product(conn, sku, 1_000_000).await;
    }
    sqlx::query("update products set weight_grams = $1, volume_cm3 = $2")
        .bind(scene.unit.0)
        .bind(scene.unit.1)
        .execute(&mut *conn)
        .await
        .unwrap();
    warehouse
}

async fn submit(conn: &mut PgConnection, wanted: &Wanted) {
    let customer: Uuid = testkit::a_customer(conn).await;
    sqlx::query("update customers set lat = $2, lon = $3 where id = $1")
        .bind(customer)
        .bind(wanted.lat)
        .bind(wanted.lon)
        .execute(&mut *conn)
        .await
        .unwrap();
    let lines = wanted.lines.iter().map(|(sku, qty)| NewLine {
        sku: sku.clone(),
        qty: *qty,
    });
    let order = NewOrder {
        customer_id: CustomerId(customer),
        reference: None,
        lines: lines.collect(),
        confirm_with: Some("pm_card_visa".to_owned()),
    };
    intake::submit(conn, &order, &Cause::actor("test")).await.unwrap();
}

/// Takes a city's orders in, and plans their day in two halves.
async fn plan_a_day(scene: &Scene) {
    let db = Database::new().await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.jsonl");
    let bank = gateway::start(gateway::Config {
        port: 0,
        ledger,
        seed: 0,
    })
    .await
    .unwrap();
    let services = Arc::new(Services {
        gateway: payments::Gateway::new(bank.url().parse().unwrap(), "sk_test_days".to_owned().into()).unwrap(),
        sender: webhooks::Sender::new(true).unwrap(),
        settings: Settings::default(),
        keyring: Keyring::random(),
    });
    let conn = &mut db.connect().await;
    let warehouse = build(conn, scene).await;
    operate::pause(conn, Target::Kind, "plan_routes", "test", "planned at once, later")
        .await
        .unwrap();
    for wanted in &scene.orders {
        submit(conn, wanted).await;
    }
    queue::testing::run_until_idle(&db.pool, &jobs::catalogue(), &services)
        .await
        .unwrap();
    bank.stop().await.unwrap();
    let days: Vec<(NaiveDate, i64)> =
        sqlx::query_as("select delivery_date, count(*) from shipments where state = 'unplanned' group by 1")
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    let [(date, shipments)] = days[..] else {
        panic!("not one day: {days:?}");
    };
    assert_eq!(shipments, i64::try_from(scene.orders.len()).unwrap());

    let day: Day = (warehouse, date);
    // Those that the orders asked for are not needed.
    sqlx::query("delete from queue.jobs where kind = 'plan_routes'")
        .execute(&mut *conn)
        .await
        .unwrap();
    sqlx::query("delete from queue.turns")
        .execute(&mut *conn)
        .await
        .unwrap();
    operate::resume(conn, Target::Kind, "plan_routes", "test", "now")
        .await
        .unwrap();
    let struck = planning::start("struck", &db).await;
    let job = planning::enqueue(&db.pool, day, SECONDS, 1).await;
    let before = planning::something_kept(&db.pool).await;
    struck.strike(Blow::Kill);
    let _other = planning::start("other", &db).await;
    planning::is_ended(&db.pool, job, "completed").await;
    let stored = planning::assert_resumed(&db.pool, &before).await;
    assert_eq!(i64::from(stored.stops), shipments, "everybody has a van");
    assert_eq!(plan::days_due(conn, 10).await.unwrap(), []);

    let sheet = sheet::of_day(conn, day).await.unwrap().unwrap();
    let drawn = geojson::geojson(&sheet);
    let features = drawn["features"].as_array().unwrap();
    let kind = |kind: &str| {
        features
            .iter()
            .filter(|feature| feature["properties"]["kind"] == kind)
            .count()
    };
    assert_eq!(i64::try_from(kind("stop")).unwrap(), shipments);
    // To be looked at.
    let drawings = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, picture) in [("map", map::map(&sheet)), ("gantt", gantt::gantt(&sheet))] {
        let file = drawings.join(format!("{}-{name}.svg", scene.name));
        std::fs::write(&file, picture).unwrap();
        println!("{}", file.display());
    }
    println!(
        "{shipments} stops on {} routes, {} km; kept at {} rounds, planned with {} more",
        kind("route"),
        stored.metres / 1000,
        stored.iterations_before,
        stored.iterations
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_in_rio_is_planned_though_its_worker_is_killed_half_way() {
    if let Some(scene) = rio() {
        plan_a_day(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_in_london_is_planned_though_its_worker_is_killed_half_way() {
    if let Some(scene) = london() {
        plan_a_day(&scene).await;
    }
}
