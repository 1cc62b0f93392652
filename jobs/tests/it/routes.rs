//! `plan_routes` and `plan_due_routes`: shared, repeated, raced and full.

use std::sync::Arc;
use std::time::Duration;

use chrono::{Days, NaiveDate};
use domain::ids::{OrderId, PlanId, ShipmentId, VehicleId, WarehouseId};
use domain::routes::store::{self, Day};
use domain::routes::{Haversine, RouteFilter, VehicleSpec, plan, recipe};
use domain::services::Settings;
use domain::{Cause, Services, payments, webhooks};
use jobs::{PlanDueRoutes, PlanRoutes, plan_routes};
use queue::runner::Settled;
use queue::{Catalogue, testing};
use sqlx::{PgConnection, PgPool};
use testkit::Database;

/// No test here calls anybody outside.
fn services() -> Arc<Services> {
    let nowhere = "http://127.0.0.1:9".parse().expect("an address");
    Arc::new(Services {
        gateway: payments::Gateway::new(nowhere, "sk_test_nobody".to_owned().into()).expect("a gateway"),
        sender: webhooks::Sender::new(true).expect("a sender"),
        keyring: domain::keyring::Keyring::random(),
        settings: Settings::default(),
    })
}

fn catalogue() -> Catalogue<Services> {
    Catalogue::new().with::<PlanDueRoutes>().with::<PlanRoutes>()
}

/// Lets every bucket end, and runs what is due.
async fn run(pool: &PgPool) -> testing::Ran {
    testkit::fast_forward(pool, Duration::from_secs(30)).await;
    testing::run_until_idle(pool, &catalogue(), &services())
        .await
        .expect("an idle queue")
}

async fn a_day(conn: &mut PgConnection, vans: &[VehicleSpec]) -> Day {
    let warehouse = WarehouseId(testkit::a_warehouse(conn, "MAIN").await);
    for van in vans {
        store::create_vehicle(conn, warehouse, van).await.expect("a van");
    }
    let date: NaiveDate = sqlx::query_scalar("select (clock_timestamp() at time zone 'UTC')::date + 1")
        .fetch_one(conn)
        .await
        .expect("a date");
    (warehouse, date)
}

fn a_van(name: &str, stops_max: i32) -> VehicleSpec {
    VehicleSpec {
        name: name.into(),
        capacity_grams: 500_000,
        capacity_cm3: 5_000_000,
        shift_start: 7 * 3600,
        shift_end: 19 * 3600,
        stops_max,
        ..VehicleSpec::default()
    }
}

/// Shipments of an order each, here and there around the warehouse.
async fn some_shipments(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    count: i32,
    grams: i64,
) -> Vec<(OrderId, ShipmentId)> {
    let customer = testkit::a_customer(conn).await;
    let mut shipments = Vec::new();
    for step in 0..count {
        let order = testkit::an_order(conn, customer, &[]).await;
        let id = ShipmentId::new();
        sqlx::query(
            "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                    window_start, window_end, service_seconds)
             select $1, $2, w.id, 'unplanned', $4, w.lat + $5, w.lon - $5 / 2, $6, 1000, 28800, 64800, 120
             from warehouses w where w.id = $3",
        )
        .bind(id.0)
        .bind(order)
        .bind(warehouse.0)
        .bind(date)
        .bind(f64::from(step * 37 % 23) / 500.0)
        .bind(grams)
        .execute(&mut *conn)
        .await
        .expect("a shipment");
        shipments.push((OrderId(order), id));
    }
    shipments
}

async fn request(conn: &mut PgConnection, days: &[Day]) {
    plan_routes::request(conn, days).await.expect("a request");
}

async fn all_is_well(conn: &mut PgConnection) {
    assert_eq!(store::audit(conn).await.expect("an audit"), Vec::<String>::new());
}

async fn count(conn: &mut PgConnection, what: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {what}")))
        .fetch_one(conn)
        .await
        .expect("a count")
}

/// How many shipments each day has, in any state but cancelled.
async fn per_day(conn: &mut PgConnection, state: &str) -> Vec<(NaiveDate, i64)> {
    sqlx::query_as("select delivery_date, count(*) from shipments where state = $1 group by 1 order by 1")
        .bind(state)
        .fetch_all(conn)
        .await
        .expect("a count")
}

#[tokio::test]
async fn all_who_ask_within_five_seconds_share_one_job() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    some_shipments(conn, day, 4, 1_000).await;
    for _ in 0..20 {
        request(conn, &[day, day]).await;
    }
    // Two, if the bucket ended on the way.
    assert!((1..=2).contains(&testing::enqueued(&db.pool, "plan_routes").await.expect("jobs").len()));
    run(&db.pool).await;
    assert_eq!(per_day(conn, "planned").await, [(day.1, 4)]);
    assert_eq!(count(conn, "route_plans where active").await, 1);
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_request_after_its_bucket_was_planned_gets_a_job_of_its_own() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    for round in 1..=3 {
        some_shipments(conn, day, 2, 1_000).await;
        request(conn, &[day]).await;
        run(&db.pool).await;
        assert_eq!(per_day(conn, "planned").await, [(day.1, 2 * round)]);
    }
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_request_that_is_rolled_back_leaves_no_job() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[]).await;
    let mut tx = db.pool.begin().await.expect("a transaction");
    request(&mut tx, &[day]).await;
    tx.rollback().await.expect("a rollback");
    assert_eq!(count(conn, "queue.jobs").await, 0);
    assert_eq!(count(conn, "queue.unique_keys").await, 0);
}

#[tokio::test]
async fn planning_twice_changes_nothing_the_second_time() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50), a_van("van 2", 50)]).await;
    some_shipments(conn, day, 10, 1_000).await;
    request(conn, &[day]).await;
    run(&db.pool).await;
    let filter = RouteFilter {
        limit: 10,
        ..RouteFilter::default()
    };
    let first = store::routes(conn, &filter).await.expect("routes");
    request(conn, &[day]).await;
    assert_eq!(run(&db.pool).await.completed, 1);
    assert_eq!(store::routes(conn, &filter).await.expect("routes"), first);
    assert_eq!(count(conn, "route_plans").await, 1);
    all_is_well(conn).await;
}

#[tokio::test]
async fn two_plan_jobs_of_a_day_at_once_leave_one_sound_plan() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50), a_van("van 2", 50)]).await;
    some_shipments(conn, day, 12, 1_000).await;
    for bucket in [1, 2, 3] {
        queue::enqueue(
            conn,
            &PlanRoutes {
                warehouse_id: day.0,
                date: day.1,
                bucket,
                seconds: None,
            },
        )
        .await
        .expect("a job");
    }
    let (one, other) = tokio::join!(run(&db.pool), run(&db.pool));
    assert_eq!(one.completed + other.completed, 3);
    assert_eq!(per_day(conn, "planned").await, [(day.1, 12)]);
    assert_eq!(count(conn, "route_plans where active").await, 1);
    all_is_well(conn).await;
}

#[tokio::test]
async fn cancels_while_a_day_is_planned_leave_nobody_on_a_route_who_should_not_be() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50), a_van("van 2", 50)]).await;
    let shipments = some_shipments(conn, day, 30, 1_000).await;
    request(conn, &[day]).await;
    let cancel = async {
        for (order, _) in &shipments[..15] {
            let mut tx = db.pool.begin().await.expect("a transaction");
            let days = store::cancel_shipments(&mut tx, *order, &Cause::actor("test"))
                .await
                .expect("a cancel");
            request(&mut tx, &days).await;
            tx.commit().await.expect("a commit");
        }
    };
    tokio::join!(run(&db.pool), cancel);
    all_is_well(conn).await;
    request(conn, &[day]).await;
    run(&db.pool).await;
    assert_eq!(per_day(conn, "planned").await, [(day.1, 15)]);
    assert_eq!(per_day(conn, "cancelled").await, [(day.1, 15)]);
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_cancelled_stop_makes_its_day_be_planned_again() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    let shipments = some_shipments(conn, day, 6, 1_000).await;
    request(conn, &[day]).await;
    run(&db.pool).await;
    let days = store::cancel_shipments(conn, shipments[2].0, &Cause::actor("test"))
        .await
        .expect("a cancel");
    request(conn, &days).await;
    run(&db.pool).await;
    let versions: Vec<(i32, i32, bool)> =
        sqlx::query_as("select version, stops, active from route_plans order by version")
            .fetch_all(&mut *conn)
            .await
            .expect("plans");
    assert_eq!(versions, [(1, 5, false), (2, 5, true)]);
    all_is_well(conn).await;
}

#[tokio::test]
async fn what_a_day_cannot_take_goes_to_the_next_ones() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 5)]).await;
    some_shipments(conn, day, 12, 1_000).await;
    request(conn, &[day]).await;
    // Each day's plan asks for the next.
    for _ in 0..3 {
        run(&db.pool).await;
    }
    let ahead = |days| day.1 + Days::new(days);
    assert_eq!(
        per_day(conn, "planned").await,
        [(day.1, 5), (ahead(1), 5), (ahead(2), 2)]
    );
    assert_eq!(count(conn, "route_plans where active and is_full").await, 2);
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_day_nobody_asked_for_is_found_within_a_minute_and_then_all_is_quiet() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    some_shipments(conn, day, 3, 1_000).await;
    some_shipments(conn, day, 2, 900_000).await;
    let over = (day.0, day.1 - Days::new(4));
    some_shipments(conn, over, 2, 1_000).await;
    for _ in 0..3 {
        queue::enqueue(conn, &PlanDueRoutes::default()).await.expect("a tick");
        run(&db.pool).await;
    }
    assert_eq!(per_day(conn, "planned").await, [(day.1, 5)]);
    assert_eq!(per_day(conn, "unplanned").await, [(day.1, 2)]);
    let plans = count(conn, "route_plans").await;
    for _ in 0..3 {
        queue::enqueue(conn, &PlanDueRoutes::default()).await.expect("a tick");
        assert_eq!(run(&db.pool).await.completed, 1, "a tick asks for nothing any more");
    }
    assert_eq!(count(conn, "route_plans").await, plans);
    all_is_well(conn).await;
}

#[tokio::test]
async fn a_tick_asks_for_no_day_that_has_its_job() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    some_shipments(conn, day, 3, 1_000).await;
    queue::enqueue_after(
        conn,
        &PlanRoutes {
            warehouse_id: day.0,
            date: day.1,
            bucket: 1,
            seconds: None,
        },
        Duration::from_secs(3600),
    )
    .await
    .expect("a job for later");
    queue::enqueue(conn, &PlanDueRoutes::default()).await.expect("a tick");
    run(&db.pool).await;
    assert_eq!(testing::enqueued(&db.pool, "plan_routes").await.expect("jobs").len(), 1);
}

#[tokio::test]
async fn a_day_that_cannot_be_planned_is_given_up_in_words_and_planned_when_asked_again() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    let shipments = some_shipments(conn, day, 1, 1_000).await;
    // A plan that cannot be stored, however often it is tried.
    sqlx::query("alter table route_plans add constraint no_plans check (false) not valid")
        .execute(&mut *conn)
        .await
        .expect("a fault");
    request(conn, &[day]).await;
    for _ in 0..20 {
        testkit::fast_forward(&db.pool, Duration::from_secs(3600)).await;
        run(&db.pool).await;
    }
    assert_eq!(count(conn, "queue.dead_letters").await, 1);
    let shipment = store::shipment(conn, shipments[0].1)
        .await
        .expect("a read")
        .expect("the shipment");
    assert_eq!(shipment.unassigned.expect("a reason")["reason"], "planning_failed");
    assert_eq!(plan::days_due(conn, 10).await.expect("a read"), []);

    sqlx::query("alter table route_plans drop constraint no_plans")
        .execute(&mut *conn)
        .await
        .expect("a mended fault");
    request(conn, &[day]).await;
    run(&db.pool).await;
    assert_eq!(per_day(conn, "planned").await, [(day.1, 1)]);
    all_is_well(conn).await;
}

fn thorough((warehouse_id, date): Day, seconds: u16) -> PlanRoutes {
    PlanRoutes {
        warehouse_id,
        date,
        bucket: 1,
        seconds: Some(seconds),
    }
}

/// What is stored of the newest plan of a day.
#[derive(Debug, sqlx::FromRow)]
struct StoredPlan {
    id: PlanId,
    truncated: bool,
    iterations: i64,
    iterations_before: i64,
    iterations_budget: i64,
}

async fn newest_plan(conn: &mut PgConnection) -> StoredPlan {
    sqlx::query_as(
        "select id, truncated, iterations, iterations_before, iterations_budget from route_plans order by version desc limit 1",
    )
    .fetch_one(conn)
    .await
    .expect("a plan")
}

/// Every number of the active routes, as the solver would write them.
async fn stored_stops(conn: &mut PgConnection) -> Vec<(VehicleId, ShipmentId, i32, i32, i64)> {
    sqlx::query_as(
        "select r.vehicle_id, t.shipment_id, t.arrives_at, t.leaves_at, t.metres_from_previous
         from routes r join route_stops t on t.route_id = r.id
         where r.state = 'planned' and t.active order by r.vehicle_id, t.position",
    )
    .fetch_all(conn)
    .await
    .expect("stops")
}

/// Searches once more as the plan says it was searched, and compares every number.
async fn is_found_again(conn: &mut PgConnection, plan: PlanId) {
    let (snapshot, recipe, iterations) = plan::as_planned(conn, plan, Haversine::new(1.3, 40.0))
        .await
        .expect("its input");
    let found = recipe::search_again(&snapshot.problem, recipe, iterations);
    let ids = snapshot.routes_found(&found);
    let again: Vec<_> = ids
        .iter()
        .zip(&found.solution.routes)
        .flat_map(|((vehicle, stops), route)| {
            stops.iter().zip(&route.stops).map(|(id, stop)| {
                (
                    *vehicle,
                    *id,
                    stop.arrives_at,
                    stop.leaves_at,
                    stop.metres_from_previous,
                )
            })
        })
        .collect();
    assert_eq!(stored_stops(conn).await, again);
}

#[tokio::test]
async fn a_plan_by_rounds_is_found_again_to_the_byte() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 9), a_van("van 2", 9)]).await;
    for _ in 0..2 {
        some_shipments(conn, day, 8, 1_000).await;
        request(conn, &[day]).await;
        run(&db.pool).await;
        let plan = newest_plan(conn).await;
        assert!(!plan.truncated);
        assert_eq!(plan.iterations, plan.iterations_budget);
        is_found_again(conn, plan.id).await;
    }
    all_is_well(conn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_by_time_is_cut_short_by_a_stopping_worker_and_still_found_again() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 30), a_van("van 2", 30)]).await;
    some_shipments(conn, day, 30, 1_000).await;
    queue::enqueue(conn, &thorough(day, 90)).await.expect("a job");
    let (catalogue, services) = (catalogue(), services());
    let worker = testing::Worker::register(&db.pool, &catalogue, &services)
        .await
        .expect("a worker");
    let job = worker.claim("routes", 1).await.expect("a claim").remove(0);
    let id = job.id;
    let stop = async {
        // Its progress is written from within a tick.
        testkit::eventually_within(
            Duration::from_secs(60),
            "the search to tell how far it is",
            async || {
                let view = queue::inspect::job(&mut db.connect().await, id).await.expect("a look");
                view.and_then(|view| view.progress)
            },
        )
        .await;
        worker.registration.hand_back_after(Duration::from_secs(5));
    };
    let (settled, ()) = tokio::join!(worker.run(job), stop);
    assert_eq!(settled, Settled::Completed);
    worker.leave().await.expect("a good end");

    let plan = newest_plan(conn).await;
    assert!(plan.truncated, "{plan:?}");
    assert!(plan.iterations < plan.iterations_budget, "{plan:?}");
    assert_eq!(per_day(conn, "planned").await, [(day.1, 30)]);
    assert_eq!(count(conn, "route_checkpoints").await, 0);
    is_found_again(conn, plan.id).await;
    all_is_well(conn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_goes_on_from_what_the_one_before_has_kept() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 30), a_van("van 2", 30)]).await;
    some_shipments(conn, day, 24, 1_000).await;
    queue::enqueue(conn, &thorough(day, 12)).await.expect("a job");
    let (catalogue, services) = (catalogue(), services());
    let worker = testing::Worker::register(&db.pool, &catalogue, &services)
        .await
        .expect("a worker");
    let job = worker.claim("routes", 1).await.expect("a claim").remove(0);
    let stop = async {
        testkit::eventually_within(Duration::from_secs(60), "something to be kept", async || {
            (count(&mut db.connect().await, "route_checkpoints").await == 1).then_some(())
        })
        .await;
        // The grace is over: it is handed back as it is, and stores nothing.
        worker.stop.cancel();
    };
    let (settled, ()) = tokio::join!(worker.run(job), stop);
    assert_eq!(settled, Settled::Postponed);
    worker.leave().await.expect("a good end");
    assert_eq!(count(conn, "route_plans").await, 0);
    let (made, budget): (i64, i64) = sqlx::query_as("select iterations, iterations_budget from route_checkpoints")
        .fetch_one(&mut *conn)
        .await
        .expect("what was kept");

    run(&db.pool).await;
    let plan = newest_plan(conn).await;
    assert_eq!((plan.iterations_before, plan.iterations_budget), (made, budget));
    assert!(made > 0 && plan.iterations <= budget - made, "{plan:?}");
    assert_eq!(plan.truncated, plan.iterations < budget - made);
    assert_eq!(count(conn, "route_checkpoints").await, 0);
    is_found_again(conn, plan.id).await;
    all_is_well(conn).await;
}

#[tokio::test]
async fn what_changes_while_a_day_is_searched_is_in_the_plan_all_the_same() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    let shipments = some_shipments(conn, day, 12, 1_000).await;
    queue::enqueue(conn, &thorough(day, 3)).await.expect("a job");
    let cancel = async {
        testkit::eventually_within(Duration::from_secs(60), "the day to be read", async || {
            (count(&mut db.connect().await, "queue.claims").await == 1).then_some(())
        })
        .await;
        let mut conn = db.connect().await;
        store::cancel_shipments(&mut conn, shipments[3].0, &Cause::actor("test"))
            .await
            .expect("a cancel");
    };
    tokio::join!(run(&db.pool), cancel);
    assert_eq!(per_day(conn, "planned").await, [(day.1, 11)]);
    assert_eq!(count(conn, "route_plans").await, 1);
    all_is_well(conn).await;
}

#[tokio::test]
async fn in_the_evening_every_warehouse_with_something_to_plan_has_its_next_day_planned_at_length() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    some_shipments(conn, day, 3, 1_000).await;
    let later = (day.0, day.1 + Days::new(1));
    some_shipments(conn, later, 3, 1_000).await;
    for _ in 0..2 {
        queue::enqueue(conn, &PlanDueRoutes { evening: true })
            .await
            .expect("a tick");
    }
    let only_ticks = Catalogue::new().with::<PlanDueRoutes>();
    testing::run_until_idle(&db.pool, &only_ticks, &services())
        .await
        .expect("an idle queue");
    let asked = testing::enqueued(&db.pool, "plan_routes").await.expect("jobs");
    // Two, if five seconds ended on the way.
    assert!((1..=2).contains(&asked.len()), "{asked:?}");
    for job in &asked {
        assert_eq!(job.args["date"], serde_json::json!(day.1));
        assert_eq!(job.args["seconds"], 30);
    }
}

#[tokio::test]
async fn a_day_nobody_could_make_sense_of_is_given_up_at_once_and_says_why() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    let day = a_day(conn, &[a_van("van 1", 50)]).await;
    let shipments = some_shipments(conn, day, 1, 1_000).await;
    sqlx::query("update shipments set later_windows = '{100,50}'")
        .execute(&mut *conn)
        .await
        .expect("a window that ends before it starts");
    request(conn, &[day]).await;
    assert_eq!(run(&db.pool).await.buried, 1);
    let message: String = sqlx::query_scalar("select message from queue.dead_letters")
        .fetch_one(&mut *conn)
        .await
        .expect("a dead letter");
    assert!(message.contains("/stops/0/windows"), "{message}");
    let shipment = store::shipment(conn, shipments[0].1)
        .await
        .expect("a read")
        .expect("the shipment");
    assert_eq!(shipment.unassigned.expect("a reason")["reason"], "planning_failed");
}
