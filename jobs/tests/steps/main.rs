//! Every kind of the catalogue is frozen at every step, cut off at every step, and run twice.
//!
//! A *step* is a statement or a request that an attempt sends. A [`Line`] between the worker and everything it talks to stops
//! it there. *Frozen*: its lease runs out, the job is taken back, another worker claims it and is frozen one step later, and so
//! on. When the next has come as far as that, or has finished, the one before is thawed and goes on as long as it can: not a
//! row of any table changes. *Cut off*: the step is done, and the worker, which lives on, never gets the answer. In the end the
//! database and the gateway's ledger say what they say after a run that nobody disturbed.
//!
//! A new kind needs a line in [`set_up`] and nothing else.
//!
//! It is a program of its own, so that nothing else runs beside it; it holds about a dozen connections for each of the
//! runs under way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../it/world.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod world;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use domain::Cause;
use domain::Services;
use domain::ids::{OrderId, PartnerId};
use domain::inbound;
use domain::keyring::{self, Keyring};
use domain::money::Cents;
use domain::services::Settings;
use domain::webhooks::{self, Sender, store::NewEndpoint};
use futures::future::join_all;
use jobs::{
    ExpireOrder, ExpireReservations, PaySeller, PaySellers, PlanDueRoutes, ProcessGatewayEvent, ProcessInbound,
    PruneFinishedJobs, PruneIdempotencyKeys, PruneRoadMatrices, PruneUniqueKeys, PurgeWebhooks, ReconcilePayments,
    SweepLedger, intake,
};
use queue::runner::Settled;
use queue::{Catalogue, JobId, testing};
use secrecy::SecretString;
use serde_json::{Value, json};
use simulator::{gateway, receiver};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{Blow, Database, Line, Template};
use tokio::task::{JoinHandle, LocalSet};

use crate::world::{WINDOW, World, client, start_gateway};

/// More steps than this has no attempt, or it never ends.
const STEPS_MAX: u32 = 200;

const THREADS: usize = 2;

/// How many runs are under way at once on a thread: most of their time they wait.
const AT_ONCE: usize = 3;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes one job of the kind due, as it becomes due in life. The kind itself is paused meanwhile.
async fn set_up(kind: &str, world: &World) {
    match kind {
        "authorize_payment" => {
            world.submit("pm_card_visa").await;
            world.run().await;
        }
        "capture_payment" => {
            captured(world).await;
        }
        "deliver_webhook" => {
            let endpoint = NewEndpoint {
                url: "http://127.0.0.1:9/".to_owned(),
                event_types: vec!["order.created".to_owned()],
                secret: Some(SECRET.clone()),
                ..NewEndpoint::default()
            };
            let mut conn = world.db.pool.acquire().await.unwrap();
            webhooks::store::create(&mut conn, &keyring(), endpoint, true)
                .await
                .unwrap();
            world.submit("pm_card_visa").await;
        }
        "expire_reservations" => {
            world.submit_unconfirmed().await;
            world.submit_unconfirmed().await;
            world.run().await;
            world.db.fast_forward(Duration::from_secs(86_400)).await;
            world.enqueue(&ExpireReservations {}).await;
        }
        "expire_order" => {
            let order_id = world.submit_unconfirmed().await;
            world.run().await;
            world.db.fast_forward(Duration::from_secs(86_400)).await;
            world.enqueue(&ExpireOrder { order_id }).await;
        }
        "pay_seller" => {
            let seller = world.seller().await;
            captured(world).await;
            world.enqueue(&PaySeller { seller_id: seller }).await;
        }
        "pay_sellers" => {
            world.seller().await;
            captured(world).await;
            world.enqueue(&PaySellers::default()).await;
        }
        "plan_due_routes" => {
            captured(world).await;
            world.execute("delete from queue.jobs where kind = 'plan_routes'").await;
            world.execute("delete from queue.turns").await;
            world
                .execute("delete from queue.unique_keys where kind = 'plan_routes'")
                .await;
            world.enqueue(&PlanDueRoutes::default()).await;
        }
        "plan_routes" => {
            let mut conn = world.db.pool.acquire().await.unwrap();
            let warehouse = testkit::a_warehouse(&mut conn, "MAIN").await;
            testkit::a_vehicle(&mut conn, warehouse, "van 1").await;
            captured(world).await;
        }
        "prune_finished_jobs" => {
            world
                .execute("insert into queue.logs (job_id, lines, at) values (0, '[]', now() - interval '100 days')")
                .await;
            world.enqueue(&PruneFinishedJobs {}).await;
        }
        "process_inbound" => {
            let order = world.submit_unconfirmed().await;
            world.run().await;
            let partner = PartnerId::new();
            // Its orders are those its keys submitted.
            sqlx::query("insert into partners (id, name, inbound_secrets) values ($1, 'test', array['whsec_'])")
                .bind(partner.0)
                .execute(&world.db.pool)
                .await
                .unwrap();
            sqlx::query(
                "insert into inbound_webhooks (partner_id, event_id, type, raw, sent_at) values ($1, 'e', $2, $3, now())",
            )
            .bind(partner.0)
            .bind("order.cancel_requested")
            .bind(format!(r#"{{"data":{{"order_id":"{order}"}}}}"#).into_bytes())
            .execute(&world.db.pool)
            .await
            .unwrap();
            world
                .enqueue(&ProcessInbound {
                    partner_id: partner,
                    event_id: "e".to_owned(),
                })
                .await;
        }
        "prune_idempotency_keys" => {
            world
                .execute(
                    "insert into idempotency_keys (principal, key, fingerprint, expires_at)
                     values ('shop', 'k', '', now() - interval '1 day')",
                )
                .await;
            world.enqueue(&PruneIdempotencyKeys {}).await;
        }
        "prune_road_matrices" => {
            testkit::a_warehouse(&mut world.db.pool.acquire().await.unwrap(), "MAIN").await;
            world
                .execute(
                    "insert into road_matrices (id, warehouse_id, provider, data_version, profile, points_hash, points, ways, used_at)
                     select gen_random_uuid(), id, 'osrm', '', 'driving', sha256(''), '\\x0000000000000000', '\\x0000000000000000',
                            now() - interval '100 days'
                     from warehouses",
                )
                .await;
            world.enqueue(&PruneRoadMatrices {}).await;
        }
        "prune_unique_keys" => {
            world
                .execute(
                    "insert into queue.unique_keys (kind, key, job_id, scope, created_at)
                     values ('remind', 'k', 0, 'kept', now() - interval '100 days')",
                )
                .await;
            world.enqueue(&PruneUniqueKeys {}).await;
        }
        "purge_webhooks" => {
            world.submit("pm_card_visa").await;
            world.execute("update events set at = at - interval '31 days'").await;
            world.enqueue(&PurgeWebhooks {}).await;
        }
        "process_gateway_event" => {
            let order = captured(world).await;
            let intent = world.payment(order).await.gateway_ref.unwrap();
            let object = json!({ "object": "payment_intent", "id": intent });
            let event = json!({ "id": "evt_1", "type": "payment_intent.processing", "data": { "object": object } });
            let mut conn = world.db.pool.acquire().await.unwrap();
            let payload = event.to_string();
            inbound::take_in(
                &mut conn,
                inbound::GATEWAY,
                "evt_1",
                "payment_intent.processing",
                payload.as_bytes(),
            )
            .await
            .unwrap();
            world
                .enqueue(&ProcessGatewayEvent {
                    event_id: "evt_1".to_owned(),
                })
                .await;
        }
        "reconcile_payment" => {
            world.submit("pm_card_error_stored").await;
            world.run_on(8, Duration::from_secs(5)).await;
        }
        "reconcile_payments" => {
            world.pause("authorize_payment").await;
            world.submit("pm_card_visa").await;
            world.run().await;
            world.db.fast_forward(Duration::from_secs(20 * 60)).await;
            world.enqueue(&ReconcilePayments {}).await;
        }
        "refund_payment" => {
            let order = captured(world).await;
            let payment = world.payment(order).await.id;
            let mut tx = world.db.pool.begin().await.unwrap();
            intake::refund(&mut tx, payment, Cents(500), "test", &Cause::actor("test"))
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        "release_stock" => {
            let order = world.submit_unconfirmed().await;
            world.run().await;
            world.cancel(order).await.unwrap();
        }
        "reserve_stock" => {
            world.submit("pm_card_visa").await;
        }
        "ship_shipment" => {
            captured(world).await;
            world.execute("update shipments set state = 'dispatched'").await;
            let shipment: uuid::Uuid = sqlx::query_scalar("select id from shipments")
                .fetch_one(&world.db.pool)
                .await
                .unwrap();
            let mut conn = world.db.pool.acquire().await.unwrap();
            intake::ship(&mut conn, domain::ids::ShipmentId(shipment), &Cause::actor("test"))
                .await
                .unwrap();
        }
        "sweep_ledger" => {
            captured(world).await;
            world.enqueue(&SweepLedger::default()).await;
        }
        "void_payment" => {
            let order = world.submit("pm_card_visa").await;
            world.run().await;
            world.cancel(order).await.unwrap();
        }
        kind => panic!(
            "nobody has said how a job of kind {kind} comes about: add it to set_up() in jobs/tests/it/steps.rs, and every \
             step of it is tested"
        ),
    }
}

/// An order whose money is taken, or would be if nothing were paused.
async fn captured(world: &World) -> OrderId {
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    world.db.fast_forward(WINDOW).await;
    world.run().await;
    order
}

#[test]
fn every_kind_is_frozen_and_cut_off_at_every_step_and_run_twice() {
    let left = Mutex::new(kinds());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                LocalSet::new().block_on(&runtime.unwrap(), join_all((0..AT_ONCE).map(|_| test_kinds(&left))));
            });
        }
    });
}

/// Tests one kind after the other until there are none left.
async fn test_kinds(left: &Mutex<Vec<&'static str>>) {
    let next = || left.lock().unwrap().pop();
    while let Some(kind) = next() {
        let stage = Stage::of(kind).await;
        let undisturbed = undisturbed_and_again(&stage).await;
        let frozen = frozen_at_every_step(&stage, &undisturbed).await;
        let cut = cut_off_at_every_step(&stage, &undisturbed).await;
        stage.template.close().await;
        println!("{kind}: frozen at {frozen} steps, cut off at {cut}");
        // To assert the fence, to end the job and to commit that are three.
        assert!(frozen >= 3 && cut >= 3, "{kind} had too few steps to prove anything");
    }
}

fn kinds() -> Vec<&'static str> {
    CATALOGUE.kinds().iter().map(|kind| kind.kind).collect()
}

/// What deliveries are signed with.
static SECRET: LazyLock<String> = LazyLock::new(webhooks::sign::generate_secret);
/// What it is sealed with, in every run.
static MASTER_KEY: LazyLock<SecretString> = LazyLock::new(keyring::new_key);

fn keyring() -> Keyring {
    Keyring::new(std::slice::from_ref(&*MASTER_KEY)).unwrap()
}

static CATALOGUE: LazyLock<Catalogue<Services>> = LazyLock::new(jobs::catalogue);

/// Lets the job end without trouble, and then a second one like it, which must change nothing.
async fn undisturbed_and_again(stage: &Stage) -> Outcome {
    let run = Run::begin(stage).await;
    run.finish().await;
    let once = run.outcome().await;
    run.enqueue_again().await;
    run.finish().await;
    let mut twice = run.outcome().await;
    // How the second one ends is its own business.
    let is_end = |row: &String| row.starts_with("queue.finished_jobs");
    twice.retain(|row| !is_end(row));
    let first: Vec<_> = once.iter().filter(|row| !is_end(row)).cloned().collect();
    assert_same(stage.kind, "run twice", &first, &twice);
    run.end().await;
    once
}

/// Each worker is frozen one step later than the one before; returns how many were. What the one before left is all that the
/// next finds, and it is thawed when the next has come as far as that.
async fn frozen_at_every_step(stage: &Stage, undisturbed: &Outcome) -> u32 {
    let run = Run::begin(stage).await;
    let mut before: Option<Attempt> = None;
    for step in 1..=STEPS_MAX {
        let next = match put_first(&run.db.pool, stage.job).await {
            true => Some(run.start(step, Blow::Freeze).await),
            false => None,
        };
        let is_over = match &next {
            Some(attempt) => !attempt.is_struck().await,
            None => true,
        };
        if let Some(stale) = before.take() {
            // One whose job had ended was giving back the room of its limits, which nobody else has had since.
            let is_late = next.is_some();
            let rows = || async {
                let mut rows = everything(&run.db.pool).await;
                rows.retain(|row| is_late || !row.starts_with("queue.limit_"));
                rows
            };
            let found = rows().await;
            stale.line.thaw();
            let settled = in_time(stale.task).await.unwrap();
            let what = format!("{}, frozen at step {}", stage.kind, step - 1);
            assert_eq!(settled == Settled::Lost, is_late, "{what}: {settled:?}");
            assert_eq!(rows().await, found, "{what}, it wrote");
        }
        match next {
            Some(frozen) if !is_over => {
                run.give_up(frozen.worker).await;
                before = Some(frozen);
            }
            last => {
                if let Some(last) = last {
                    in_time(last.task).await.unwrap();
                }
                run.finish().await;
                assert_same(stage.kind, "killed at every step", undisturbed, &run.outcome().await);
                run.end().await;
                return step - 1;
            }
        }
    }
    panic!("{} has more than {STEPS_MAX} steps", stage.kind);
}

/// Each attempt loses its connection one step later than the one before; returns how many did. An attempt may get over the
/// loss by itself: the next then begins anew.
async fn cut_off_at_every_step(stage: &Stage, undisturbed: &Outcome) -> u32 {
    let mut run = Run::begin(stage).await;
    let mut is_fresh = true;
    let mut step = 1;
    while step <= STEPS_MAX {
        let attempt = run.start(step, Blow::Cut).await;
        let settled = in_time(attempt.task).await.unwrap();
        let is_struck = attempt.line.is_struck();
        let is_over = !put_first(&run.db.pool, stage.job).await;
        if is_over {
            let what = format!("cut off at each step to {step}");
            assert_same(stage.kind, &what, undisturbed, &run.outcome().await);
        }
        match (is_struck, is_over) {
            (false, true) => {
                run.end().await;
                return step - 1;
            }
            (true, false) => is_fresh = false,
            (false, false) if is_fresh => panic!("{}: nothing disturbed it, and it {settled:?}", stage.kind),
            // What the ones before left made it end before this step, or it got over the loss.
            _ => {
                run.end().await;
                run = Run::begin(stage).await;
                is_fresh = true;
            }
        }
        step += u32::from(is_struck);
    }
    panic!("{} has more than {STEPS_MAX} steps", stage.kind);
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it is over in time")
}

/// A worker with the job in its hands, and its line to everything else.
struct Attempt {
    worker: i64,
    line: Arc<Line>,
    /// Its one attempt, and its leaving.
    task: JoinHandle<Settled>,
}

impl Attempt {
    /// Whether the blow falls before the attempt is over.
    async fn is_struck(&self) -> bool {
        in_time(async {
            while !self.task.is_finished() && !self.line.is_struck() {
                _ = tokio::time::timeout(Duration::from_millis(5), self.line.struck()).await;
            }
        })
        .await;
        self.line.is_struck()
    }
}

/// A database in which one job of a kind is due and nothing else may run, and the ledger of its gateway.
struct Stage {
    kind: &'static str,
    job: JobId,
    queue: String,
    template: Template,
    dir: tempfile::TempDir,
    /// The ids that are there before the job runs.
    ids: BTreeSet<String>,
}

impl Stage {
    async fn of(kind: &'static str) -> Stage {
        let world = World::new().await;
        world.pause(kind).await;
        set_up(kind, &world).await;
        world.execute("delete from queue.pauses").await;
        for other in CATALOGUE
            .kinds()
            .iter()
            .map(|kind| kind.kind)
            .filter(|other| *other != kind)
        {
            world.pause(other).await;
        }
        let (job, queue): (i64, String) =
            sqlx::query_as("select id, queue from queue.jobs where kind = $1 order by id limit 1")
                .bind(kind)
                .fetch_optional(&world.db.pool)
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("set_up() left no job of kind {kind}"));
        world
            .execute("update queue.jobs set run_at = clock_timestamp() + interval '1 day'")
            .await;
        put_first(&world.db.pool, JobId(job)).await;
        let mut ids = BTreeSet::new();
        for row in everything(&world.db.pool).await {
            collect_ids(&row, &mut ids);
        }
        let World { db, gateway, dir, .. } = world;
        gateway.stop().await.unwrap();
        Stage {
            kind,
            job: JobId(job),
            queue,
            template: db.into_template().await,
            dir,
            ids,
        }
    }
}

/// What a run leaves, as far as it does not say when, in which attempt and under which new id.
type Outcome = Vec<String>;

/// A copy of the stage, on which the job is run.
struct Run<'a> {
    stage: &'a Stage,
    db: Database,
    gateway: gateway::Running,
    receiver: receiver::Running,
    _dir: tempfile::TempDir,
}

impl<'a> Run<'a> {
    async fn begin(stage: &'a Stage) -> Run<'a> {
        let dir = tempfile::tempdir().unwrap();
        let ledger: PathBuf = dir.path().join("ledger.jsonl");
        std::fs::copy(stage.dir.path().join("ledger.jsonl"), &ledger).unwrap();
        let config = receiver::Config {
            port: 0,
            log: dir.path().join("receiver.jsonl"),
            secrets: vec![SECRET.clone()],
        };
        Run {
            stage,
            db: stage.template.copy().await,
            gateway: start_gateway(0, ledger).await,
            receiver: receiver::start(config).await.unwrap(),
            _dir: dir,
        }
    }

    /// Its world ends while others go on in theirs.
    async fn end(self) {
        self.db.close().await;
    }

    /// The outside world, on the line from the first message.
    async fn services_over(&self, line: &Line) -> Arc<Services> {
        let gateway = line.to_http(self.gateway.addr).await;
        let receiver = line.to_http(self.receiver.addr).await;
        let url = self.receiver.url("steps");
        self.post_to(&url.replace(&self.receiver.addr.to_string(), &receiver.to_string()))
            .await;
        services(&format!("http://{gateway}"))
    }

    /// A worker claims the job and runs it, with a blow at that step of the attempt.
    async fn start(&self, step: u32, blow: Blow) -> Attempt {
        let line = Arc::new(Line::default());
        let on = Arc::clone(&line);
        let services = self.services_over(&line).await;
        let worker = testing::Worker::register(&self.pool_over(&line).await, &CATALOGUE, &services)
            .await
            .unwrap();
        let job = worker.claim(&self.stage.queue, 1).await.unwrap().pop().unwrap();
        assert_eq!(job.id, self.stage.job);
        line.strike_at(step, blow);
        Attempt {
            worker: worker.registration.id,
            line,
            task: tokio::task::spawn_local(async move {
                let settled = worker.run(job).await;
                // What it does from here on is not the job's.
                on.spare();
                worker.leave().await.unwrap();
                settled
            }),
        }
    }

    async fn post_to(&self, url: &str) {
        // What cut it off was not the receiver's fault: its breaker is closed.
        sqlx::query("update webhook_endpoints set url = $1, open_until = null, opened_times = 0")
            .bind(url)
            .execute(&self.db.pool)
            .await
            .unwrap();
    }

    async fn pool_over(&self, line: &Line) -> PgPool {
        let options = line.to_postgres(&self.db.pool.connect_options()).await;
        PgPoolOptions::new()
            .max_connections(3)
            .test_before_acquire(false)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options)
    }

    /// The worker's lease has run out: it is declared lost, and its job is taken back unless it has ended.
    async fn give_up(&self, worker: i64) {
        sqlx::query("update queue.workers set lease_until = '-infinity' where id = $1")
            .bind(worker)
            .execute(&self.db.pool)
            .await
            .unwrap();
        testkit::eventually("the job to be taken back", async || {
            queue::rescue::rescue(&self.db.pool, true, Duration::ZERO)
                .await
                .unwrap();
            let held: i64 = sqlx::query_scalar("select count(*) from queue.claims")
                .fetch_one(&self.db.pool)
                .await
                .unwrap();
            (held == 0).then_some(())
        })
        .await;
    }

    /// Runs the job, in as many attempts as it takes, by a worker that nobody disturbs.
    async fn finish(&self) {
        const ATTEMPTS_MAX: usize = 30;
        self.post_to(&self.receiver.url("steps")).await;
        let services = services(&self.gateway.url());
        let worker = testing::Worker::register(&self.db.pool, &CATALOGUE, &services)
            .await
            .unwrap();
        for _ in 0..ATTEMPTS_MAX {
            if !put_first(&self.db.pool, self.stage.job).await {
                return worker.leave().await.unwrap();
            }
            let claimed = worker.claim(&self.stage.queue, 1).await.unwrap().pop();
            worker.run(claimed.expect("it is due")).await;
        }
        let job: Value = sqlx::query_scalar("select to_jsonb(j) from queue.jobs j where id = $1")
            .bind(self.stage.job.0)
            .fetch_one(&self.db.pool)
            .await
            .unwrap();
        panic!("{} is not over after {ATTEMPTS_MAX} attempts: {job:#}", self.stage.kind);
    }

    /// The same job once more, as somebody who redrives it makes it.
    async fn enqueue_again(&self) {
        let put_back =
            "insert into queue.jobs (id, queue, kind, args_version, args, unique_key, group_key, attempts_max, rank)
                        select id, queue, kind, args_version, args, unique_key, group_key, 25, queue.rank(now(), 0)
                        from queue.finished_jobs where id = $1";
        for sql in [put_back, "delete from queue.finished_jobs where id = $1"] {
            sqlx::query(sql)
                .bind(self.stage.job.0)
                .execute(&self.db.pool)
                .await
                .unwrap();
        }
    }

    async fn outcome(&self) -> Outcome {
        let mut rows: Vec<String> = everything(&self.db.pool)
            .await
            .iter()
            .filter_map(|row| row.split_once(' '))
            .filter_map(|(table, row)| Some((table, essence(table, serde_json::from_str(row).unwrap())?)))
            .map(|(table, row)| format!("{table} {}", self.mask(&row.to_string())))
            .collect();
        for line in self.gateway.ledger().unwrap() {
            rows.push(format!("ledger {} {} {}", line["op"], line["outcome"], line["key"]));
        }
        rows.sort();
        rows
    }

    /// Times and new ids are different each time.
    fn mask(&self, row: &str) -> String {
        let mut masked = String::with_capacity(row.len());
        let mut rest = row;
        while let Some(first) = rest.chars().next() {
            let length = match (id_at(rest), time_at(rest)) {
                (Some(id), _) if self.stage.ids.contains(id) => {
                    masked.push_str(id);
                    id.len()
                }
                (Some(id), _) => {
                    masked.push_str("ID");
                    id.len()
                }
                (None, Some(length)) => {
                    masked.push_str("TIME");
                    length
                }
                (None, None) if number_at(rest) > 0 => {
                    masked.push_str("NUMBER");
                    number_at(rest)
                }
                (None, None) => {
                    masked.push(first);
                    first.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        masked
    }
}

fn services(gateway: &str) -> Arc<Services> {
    Arc::new(Services {
        gateway: client(gateway),
        sender: Sender::with_timeout(true, Duration::from_secs(20)).unwrap(),
        keyring: keyring(),
        settings: Settings {
            cancel_window: WINDOW,
            // However often it was cut off, it is not left to reconciliation, which is paused.
            sends_max: 1000,
            ..Settings::default()
        },
    })
}

/// Makes the job the next of its queue, with its history forgotten, or crash after crash would make it poison; false when it
/// has ended.
async fn put_first(pool: &PgPool, job: JobId) -> bool {
    sqlx::query(
        "update queue.jobs set run_at = '2020-01-01', suspect = false, attempt = 0, crashes = 0, crashes_alone = 0
         where id = $1",
    )
    .bind(job.0)
    .execute(pool)
    .await
    .unwrap()
    .rows_affected()
        == 1
}

/// Every row of every table, as `schema.table {…}`, in one order.
async fn everything(pool: &PgPool) -> Vec<String> {
    let selects: Vec<String> = sqlx::query_scalar(
        "select format('select %L || to_jsonb(t)::text from %s t', c.oid::regclass || ' ', c.oid::regclass)
         from pg_class c
         where c.relkind in ('r', 'p') and not c.relispartition
           and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
         order by c.oid::regclass::text",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(selects.join(" union all ")))
        .fetch_all(pool)
        .await
        .unwrap();
    rows.sort();
    rows
}

/// What of a row must be the same whatever happened on the way; none when it is about the way.
fn essence(table: &str, mut row: Value) -> Option<Value> {
    // How often something was tried, by whom and when, may differ: the outside is asked at least once. And what was rolled back
    // leaves gaps in numbers.
    const TRIES: [&str; 13] = [
        "id",
        "transaction_id",
        "job_id",
        "fence",
        "attempt",
        "attempts",
        "sends",
        "n",
        "request_id",
        "rank",
        "worker_id",
        "version",
        "cause",
    ];
    let kept: &[&str] = match table {
        "webhook_attempts" => return None,
        // The timeline has a line for each time the gateway was asked.
        "payment_events" if row["what"] == "attempt" => return None,
        "queue.jobs" => &[
            "queue",
            "kind",
            "args",
            "unique_key",
            "group_key",
            "priority",
            "attempts_max",
        ],
        "queue.finished_jobs" => &["queue", "kind", "args", "state", "unique_key", "group_key"],
        "queue.dead_letters" => &["queue", "kind", "args", "reason"],
        "queue.unique_keys" => &["kind", "key", "scope"],
        "queue.logs" => &["job_id"],
        _ if table.starts_with("queue.") => return None,
        _ => &[],
    };
    let payload = row.get("payload").and_then(Value::as_str);
    // Bytes that came from outside are none of ours.
    if let Some(Ok(mut payload)) = payload.map(serde_json::from_str::<Value>) {
        // What a rolled back event has taken of the sequence is not given again.
        payload["sequence"] = Value::Null;
        row["payload"] = payload;
    }
    if let Some(columns) = row.as_object_mut() {
        columns.retain(|name, _| match kept {
            [] => !TRIES.contains(&name.as_str()) && name != "url",
            kept => kept.contains(&name.as_str()),
        });
    }
    Some(row)
}

fn assert_same(kind: &str, what: &str, expected: &[String], found: &[String]) {
    let (missing, unexpected) = (without(expected, found), without(found, expected));
    assert!(
        expected == found,
        "{kind}, {what}: it ended otherwise.\nmissing: {missing:#?}\nunexpected: {unexpected:#?}"
    );
}

/// These rows less those, each as often as it stands there.
fn without<'a>(these: &'a [String], those: &[String]) -> Vec<&'a String> {
    let mut those: Vec<_> = those.iter().collect();
    let is_left = |row: &&String| match those.iter().position(|other| other == row) {
        Some(at) => {
            those.swap_remove(at);
            false
        }
        None => true,
    };
    these.iter().filter(is_left).collect()
}

fn collect_ids(row: &str, ids: &mut BTreeSet<String>) {
    for (at, _) in row.char_indices() {
        ids.extend(id_at(&row[at..]).map(str::to_owned));
    }
}

/// The UUID that a text begins with.
fn id_at(text: &str) -> Option<&str> {
    let id = text.get(..36)?;
    let fits = id.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    fits.then_some(id)
}

/// How long the number is that a text begins with, if it is long enough to be the gateway's id or counted in seconds.
fn number_at(text: &str) -> usize {
    const DIGITS_MIN: usize = 9;
    let digits = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    if digits < DIGITS_MIN { 0 } else { digits }
}

/// How long the time of day is that a text begins with.
fn time_at(text: &str) -> Option<usize> {
    let date = text.get(..11)?;
    let fits = date.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        _ => byte.is_ascii_digit(),
    });
    let time = text[11..]
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || b":.+-Z".contains(byte))
        .count();
    fits.then_some(11 + time)
}
