//! A day is planned by a worker process that something befalls half-way: another goes on from the last routes it has kept,
//! and what is stored is one sound plan, which says how it came about.

use std::process::Command;
use std::time::Duration;

use domain::ids::{OrderId, PlanId, ShipmentId, VehicleId, WarehouseId};
use domain::routes::store::{self, Day};
use domain::routes::{Haversine, VehicleSpec, plan, recipe};
use domain::services::Settings;
use domain::{Services, payments, webhooks};
use jobs::PlanRoutes;
use queue::{Catalogue, Job as _, JobId, operate};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use testkit::{Database, eventually_within};

use crate::rescue::holder::{self, Blow, Holder, PATIENCE};

/// Long enough for a worker on a busy machine to beat.
const LEASE: Duration = Duration::from_secs(5);

/// How long a day is searched: long enough to be kept twice.
pub(crate) const SECONDS: u16 = 14;

/// No test: this executable again, as a worker that plans routes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a worker process, which the tests start and kill"]
async fn a_planning_process() {
    let nowhere = "http://127.0.0.1:9".parse().unwrap();
    let services = Services {
        gateway: payments::Gateway::new(nowhere, "sk_test_nobody".to_owned().into()).unwrap(),
        sender: webhooks::Sender::new(true).unwrap(),
        settings: Settings::default(),
        keyring: domain::keyring::Keyring::random(),
    };
    holder::serve(Catalogue::new().with::<PlanRoutes>(), PlanRoutes::QUEUE, services).await;
}

pub(crate) async fn start(name: &'static str, db: &Database) -> Holder {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "planning::a_planning_process", "--ignored", "--nocapture"]);
    Holder::start(command, name, &db.url, LEASE, &db.pool).await
}

/// A plan that is to take its time.
pub(crate) async fn enqueue(pool: &PgPool, (warehouse_id, date): Day, seconds: u16, bucket: i64) -> JobId {
    let job = PlanRoutes {
        warehouse_id,
        date,
        bucket,
        seconds: Some(seconds),
    };
    let mut conn = pool.acquire().await.unwrap();
    queue::enqueue(&mut conn, &job).await.unwrap().id
}

/// The last that a search under way has kept.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(crate) struct Kept {
    pub(crate) fence: i64,
    pub(crate) iterations: i64,
    pub(crate) iterations_budget: i64,
    pub(crate) cost: i64,
    pub(crate) routes: Value,
}

pub(crate) async fn kept(pool: &PgPool) -> Option<Kept> {
    sqlx::query_as("select fence, iterations, iterations_budget, cost, routes from route_checkpoints")
        .fetch_optional(pool)
        .await
        .unwrap()
}

/// A plan as it is stored.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Plan {
    pub(crate) id: PlanId,
    pub(crate) fence: i64,
    pub(crate) truncated: bool,
    pub(crate) stops: i32,
    pub(crate) metres: i64,
    pub(crate) cost: i64,
    pub(crate) iterations: i64,
    pub(crate) iterations_before: i64,
    pub(crate) iterations_budget: i64,
    pub(crate) start: Option<Value>,
}

pub(crate) async fn plans(pool: &PgPool) -> Vec<Plan> {
    sqlx::query_as(
        "select id, fence, truncated, stops, metres, cost, iterations, iterations_before, iterations_budget, start
         from route_plans order by version",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

pub(crate) async fn is_ended(pool: &PgPool, job: JobId, state: &str) {
    eventually_within(PATIENCE * 2, "the job to end", async || {
        let ended: Option<String> = sqlx::query_scalar("select state from queue.finished_jobs where id = $1")
            .bind(job)
            .fetch_optional(pool)
            .await
            .unwrap();
        ended.map(|ended| assert_eq!(ended, state))
    })
    .await;
}

/// Waits until a search that is under way has kept something, and says what.
pub(crate) async fn something_kept(pool: &PgPool) -> Kept {
    eventually_within(PATIENCE, "the search to keep its best", async || kept(pool).await).await
}

/// The only plan there is goes on from what was kept, is no worse, and is found again number by number.
pub(crate) async fn assert_resumed(pool: &PgPool, before: &Kept) -> Plan {
    let plan = plans(pool).await.pop().unwrap();
    assert!(plan.fence > before.fence, "{plan:?} {before:?}");
    assert!(
        plan.iterations_before >= before.iterations && before.iterations > 0,
        "{plan:?} {before:?}"
    );
    assert_eq!(plan.iterations_budget, before.iterations_budget);
    let left = plan.iterations_budget - plan.iterations_before;
    assert_eq!(plan.truncated, plan.iterations < left, "{plan:?}");
    assert!(plan.cost <= before.cost, "{plan:?} {before:?}");
    // Unless it had kept its best once more before it was struck.
    if plan.iterations_before == before.iterations {
        assert_eq!(plan.start.as_ref(), Some(&before.routes));
    }
    assert_eq!(kept(pool).await, None);
    let conn = &mut *pool.acquire().await.unwrap();
    assert_eq!(store::audit(conn).await.unwrap(), Vec::<String>::new());

    let (snapshot, how, iterations) = plan::as_planned(conn, plan.id, Haversine::new(1.3, 40.0))
        .await
        .unwrap();
    let again = recipe::search_again(&snapshot.problem, how, iterations);
    let stored: Vec<(VehicleId, Vec<ShipmentId>)> = sqlx::query_as(
        "select r.vehicle_id, array_agg(t.shipment_id order by t.position)
         from routes r join route_stops t on t.route_id = r.id
         where r.plan_id = $1 group by r.id order by r.vehicle_id",
    )
    .bind(plan.id)
    .fetch_all(conn)
    .await
    .unwrap();
    assert_eq!(stored, snapshot.routes_found(&again));
    assert_eq!(again.solution.metres, plan.metres);
    plan
}

/// A day with deliveries here and there around a warehouse.
async fn a_day(conn: &mut PgConnection, deliveries: i32) -> Day {
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    for n in 1..=4 {
        let van = VehicleSpec {
            name: format!("van {n}"),
            ..VehicleSpec::default()
        };
        store::create_vehicle(conn, warehouse, &van).await.unwrap();
    }
    let date = sqlx::query_scalar("select (clock_timestamp() at time zone 'UTC')::date + 1")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    let customer = testkit::a_customer(conn).await;
    for step in 0..deliveries {
        let order = OrderId(testkit::an_order(conn, customer, &[]).await);
        sqlx::query(
            "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                    window_start, window_end, service_seconds)
             select $1, $2, w.id, 'unplanned', $4, w.lat + $5, w.lon + $6, 1000, 1000, 28800, 64800, 120
             from warehouses w where w.id = $3",
        )
        .bind(ShipmentId::new())
        .bind(order)
        .bind(warehouse)
        .bind(date)
        .bind(f64::from(step * 37 % 23 - 11) / 200.0)
        .bind(f64::from(step * 53 % 29 - 14) / 150.0)
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    (warehouse, date)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_search_goes_on_elsewhere_from_what_it_had_kept() {
    let db = Database::new().await;
    let day = a_day(&mut db.connect().await, 50).await;
    let struck = start("struck", &db).await;
    let job = enqueue(&db.pool, day, SECONDS, 1).await;
    let before = something_kept(&db.pool).await;
    struck.strike(Blow::Kill);
    let _other = start("other", &db).await;
    is_ended(&db.pool, job, "completed").await;
    let plan = assert_resumed(&db.pool, &before).await;
    assert_eq!((plan.stops, plans(&db.pool).await.len()), (50, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_workers_search_goes_on_elsewhere_and_thawed_it_stores_nothing() {
    let db = Database::new().await;
    let day = a_day(&mut db.connect().await, 50).await;
    let mut struck = start("struck", &db).await;
    let struck_id = struck.id(&db.pool).await;
    let job = enqueue(&db.pool, day, SECONDS, 1).await;
    let before = something_kept(&db.pool).await;
    struck.strike(Blow::Freeze);
    let _other = start("other", &db).await;
    is_ended(&db.pool, job, "completed").await;
    let plan = assert_resumed(&db.pool, &before).await;

    struck.thaw();
    eventually_within(PATIENCE, "it to register anew", async || {
        struck.id(&db.pool).await.filter(|id| Some(*id) != struck_id)
    })
    .await;
    // By its end it has done with what it held before.
    struck.strike(Blow::Terminate);
    assert!(struck.ended().await);
    let after = plans(&db.pool).await;
    assert_eq!(after.iter().map(|plan| plan.id).collect::<Vec<_>>(), [plan.id]);
    assert_eq!(kept(&db.pool).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_plan_stores_nothing_and_its_worker_plans_the_next_one() {
    let db = Database::new().await;
    let day = a_day(&mut db.connect().await, 20).await;
    let worker = start("worker", &db).await;
    let cancelled = enqueue(&db.pool, day, 90, 1).await;
    something_kept(&db.pool).await;
    let mut conn = db.connect().await;
    operate::cancel(&mut conn, cancelled, "test", "no longer wanted")
        .await
        .unwrap();
    is_ended(&db.pool, cancelled, "cancelled").await;
    assert!(plans(&db.pool).await.is_empty());

    // On a machine with two cores there is one thread to search on: it is free again.
    let next = enqueue(&db.pool, day, 1, 2).await;
    is_ended(&db.pool, next, "completed").await;
    let plans = plans(&db.pool).await;
    assert_eq!(plans.len(), 1);
    assert_eq!((plans[0].stops, plans[0].iterations_before), (20, 0));
    drop(worker);
}
