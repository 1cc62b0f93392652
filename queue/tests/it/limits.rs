//! Limits are exact across the fleet, park what they do not let run, and leak nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use queue::claim::{Claimed, Known, Line};
use queue::limit::{self, Limit};
use queue::operate::Error;
use queue::runner::Settled::{self, Buried, Completed, Postponed, Retried};
use queue::testing::Worker;
use queue::{Attempt, Catalogue, Failure, Job, JobId, Outcome, Retry};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use testkit::Database;

/// Calls an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Call {
    endpoint: Option<i32>,
    group: Option<String>,
}

fn call(endpoint: i32) -> Call {
    Call {
        endpoint: Some(endpoint),
        group: None,
    }
}

/// The endpoints, as they are.
#[derive(Default)]
struct Endpoints {
    are_down: AtomicBool,
    are_busy: AtomicBool,
    running: AtomicI64,
    most: AtomicI64,
}

impl Job for Call {
    type Services = Endpoints;
    const KIND: &'static str = "call";
    const QUEUE: &'static str = "calls";
    const RETRY: Retry = Retry::new(Duration::from_secs(60), Duration::from_secs(60), 3);

    fn limit(&self) -> Option<String> {
        self.endpoint.map(|endpoint| format!("endpoint/{endpoint}"))
    }

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    async fn run(self, attempt: &Attempt, endpoints: &Endpoints) -> anyhow::Result<Outcome> {
        let running = endpoints.running.fetch_add(1, Ordering::SeqCst) + 1;
        endpoints.most.fetch_max(running, Ordering::SeqCst);
        tokio::task::yield_now().await;
        endpoints.running.fetch_sub(1, Ordering::SeqCst);
        if endpoints.are_busy.load(Ordering::SeqCst) {
            return Err(Failure::throttled("http_429", "slow down", Duration::from_secs(300)).into());
        }
        if endpoints.are_down.load(Ordering::SeqCst) {
            return Err(Failure::transient("http_503", "down").into());
        }
        match attempt.job_id.0 % 2 {
            0 => Ok(Outcome::Done),
            _ => attempt.begin().await?.done().await,
        }
    }
}

fn catalogue() -> Catalogue<Endpoints> {
    Catalogue::new().with::<Call>()
}

async fn set(pool: &PgPool, name: &str, limit: Limit) {
    let mut conn = pool.acquire().await.unwrap();
    limit::set(&mut conn, name, &limit, "test", "test").await.unwrap();
}

async fn enqueue(pool: &PgPool, calls: &[Call]) -> Vec<JobId> {
    let mut conn = pool.acquire().await.unwrap();
    let enqueued = queue::enqueue_many(&mut conn, calls).await.unwrap();
    enqueued.into_iter().map(|one| one.id).collect()
}

fn by_key(jobs: &[Claimed]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for job in jobs {
        *counts.entry(job.limit_key.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn parked(pool: &PgPool) -> i64 {
    number(pool, "select count(*) from queue.jobs where parked").await
}

/// What no job leaves behind when it no longer runs.
async fn holds(pool: &PgPool) -> i64 {
    number(pool, "select count(*) from queue.limit_holds").await
}

/// A claim that took long has its line read from where it left off for a while, and these stand before that place.
#[tokio::test]
async fn what_a_rate_lets_in_is_found_wherever_the_line_is_read_from() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::rate(100.0, 1)).await;
    enqueue(&db.pool, &[call(1), call(1), call(1)]).await;
    let hour = Duration::from_secs(3600);
    queue::testing::fast_forward(&db.pool, hour).await.unwrap();
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let line = Line::new(Known::of(&catalogue, "calls"));
    let claim = async || line.claim(&db.pool, worker.registration.id, 10).await.unwrap().len();

    let mut claims = db.pool.begin().await.unwrap();
    sqlx::query("lock table queue.claims in share mode")
        .execute(&mut *claims)
        .await
        .unwrap();
    let released = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        claims.rollback().await.unwrap();
    };
    assert_eq!(tokio::join!(claim(), released).0, 1);
    for _ in 0..2 {
        // From the beginning the line is read again after 25 seconds.
        let soon = Duration::from_secs(12);
        let found = testkit::eventually_within(soon, "the next token", async || {
            Some(claim().await).filter(|found| *found > 0)
        });
        assert_eq!(found.await, 1);
    }
    worker.leave().await.unwrap();
}

/// Does `work` while somebody else has what the statement locks, and asserts that the row of the key is free when it waits for
/// that: whoever held it, and waited, could wait for somebody who waits for it.
async fn holds_no_key_when_it_waits<T>(
    pool: &PgPool,
    blocked: &'static str,
    key: &str,
    work: impl Future<Output = T>,
) -> T {
    let mut blocker = pool.begin().await.unwrap();
    let locked = sqlx::query(blocked).execute(&mut *blocker).await.unwrap();
    assert!(locked.rows_affected() > 0);
    let checked = async {
        let is_waiting = "select exists (select from pg_locks where not granted and locktype <> 'advisory'
                                         and pid in (select pid from pg_stat_activity where datname = current_database()))";
        testkit::eventually("somebody to wait", async || {
            let waits: bool = sqlx::query_scalar(is_waiting).fetch_one(pool).await.unwrap();
            waits.then_some(())
        })
        .await;
        sqlx::query("select from queue.limit_keys where key = $1 for update nowait")
            .bind(key)
            .execute(pool)
            .await
            .expect("nobody holds it");
        blocker.rollback().await.unwrap();
    };
    tokio::join!(work, checked).0
}

#[tokio::test]
async fn a_claim_that_lets_in_what_was_parked_holds_nothing_while_it_waits() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    enqueue(&db.pool, &[call(1), call(2), call(2)]).await;
    let first = worker.claim("calls", 10).await.unwrap();
    assert_eq!((first.len(), parked(&db.pool).await), (2, 1));
    worker.run_all(first).await;
    enqueue(&db.pool, &[call(1)]).await;

    let one = "select from queue.limit_keys where key = 'endpoint/1' for update";
    let second = holds_no_key_when_it_waits(&db.pool, one, "endpoint/2", worker.claim("calls", 10)).await;
    assert_eq!(second.unwrap().len(), 2);
}

#[tokio::test]
async fn a_failure_tells_its_key_after_it_has_what_its_job_takes_of_limits() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::breaker(5, 60.0)).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    endpoints.are_down.store(true, Ordering::SeqCst);
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    enqueue(&db.pool, &[call(1), call(1)]).await;
    let mut first = worker.claim("calls", 10).await.unwrap();
    let room = "select from queue.limit_holds for update";
    let settled = holds_no_key_when_it_waits(&db.pool, room, "endpoint/1", worker.run(first.remove(0))).await;
    assert_eq!(settled, Retried);
}

#[tokio::test]
async fn whoever_takes_a_claim_back_has_its_room_before_its_keys() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    enqueue(&db.pool, &[call(1), call(1)]).await;
    assert_eq!(worker.claim("calls", 10).await.unwrap().len(), 1);
    let room = "select from queue.limit_holds for update";
    let handed_back = holds_no_key_when_it_waits(&db.pool, room, "endpoint/1", worker.hand_back_all()).await;
    assert_eq!(handed_back.unwrap(), 1);
}

#[tokio::test]
async fn no_more_jobs_of_a_key_run_at_once_than_its_concurrency() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(2)).await;
    set(&db.pool, "endpoint/3", Limit::concurrency(1)).await;
    let calls: Vec<_> = [1, 1, 1, 2, 1, 3, 3].map(call).to_vec();
    enqueue(&db.pool, &calls).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let one = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let two = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();

    let first = one.claim("calls", 2).await.unwrap();
    let second = two.claim("calls", 10).await.unwrap();
    assert_eq!(by_key(&first), BTreeMap::from([("endpoint/1".to_owned(), 2)]));
    let others = BTreeMap::from([("endpoint/2".to_owned(), 1), ("endpoint/3".to_owned(), 1)]);
    assert_eq!(by_key(&second), others, "a limit of its own, and a full one");
    assert_eq!(parked(&db.pool).await, 3);
    assert!(two.claim("calls", 10).await.unwrap().is_empty());

    // What ends makes room for as many.
    assert_eq!(one.run_all(first).await, [Completed; 2]);
    let third = two.claim("calls", 10).await.unwrap();
    assert_eq!(by_key(&third), BTreeMap::from([("endpoint/1".to_owned(), 2)]));
    assert_eq!(two.run_all(second).await, [Completed; 2]);
    let last = one.claim("calls", 10).await.unwrap();
    assert_eq!(by_key(&last), BTreeMap::from([("endpoint/3".to_owned(), 1)]));
    two.run_all(third).await;
    one.run_all(last).await;
    assert_eq!((parked(&db.pool).await, holds(&db.pool).await), (0, 0));
    one.leave().await.unwrap();
    two.leave().await.unwrap();
}

#[tokio::test]
async fn a_queue_runs_no_more_than_its_concurrency_however_many_claim() {
    let db = Database::new().await;
    set(&db.pool, "queue/calls", Limit::concurrency(5)).await;
    let unlimited = Call {
        endpoint: None,
        group: None,
    };
    enqueue(&db.pool, &vec![unlimited; 200]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap());
    }
    let work = workers.iter().map(|worker| async {
        while number(&db.pool, "select count(*) from queue.finished_jobs").await < 200 {
            let jobs = worker.claim("calls", 3).await.unwrap();
            worker.run_all(jobs).await;
        }
    });
    futures::future::join_all(work).await;
    let most = endpoints.most.load(Ordering::SeqCst);
    assert!((1..=5).contains(&most), "{most} at once");
    assert_eq!(holds(&db.pool).await, 0);
}

#[tokio::test]
async fn a_rate_lets_through_its_burst_and_then_one_at_a_time() {
    let db = Database::new().await;
    // Slow enough that no machine is too slow for it.
    set(&db.pool, "endpoint", Limit::rate(0.001, 4)).await;
    enqueue(&db.pool, &vec![call(1); 10]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let started = |jobs: Vec<Claimed>| jobs.len();
    assert_eq!(started(worker.claim("calls", 3).await.unwrap()), 3);
    assert_eq!(started(worker.claim("calls", 3).await.unwrap()), 1);
    assert_eq!(started(worker.claim("calls", 3).await.unwrap()), 0);
    assert_eq!(parked(&db.pool).await, 6);
    // The next comes after a thousand seconds, and not a second before.
    later(&db.pool, 990).await;
    assert_eq!(started(worker.claim("calls", 3).await.unwrap()), 0);
    later(&db.pool, 11).await;
    assert_eq!(started(worker.claim("calls", 3).await.unwrap()), 1);
    later(&db.pool, 2000).await;
    assert_eq!(started(worker.claim("calls", 3).await.unwrap()), 2);
}

/// Time passes: rows move, not clocks.
async fn later(pool: &PgPool, seconds: u64) {
    queue::testing::fast_forward(pool, Duration::from_secs(seconds))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_breaker_opens_probes_and_closes_and_burns_no_try() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::breaker(3, 60.0)).await;
    let ids = enqueue(&db.pool, &vec![call(1); 6]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    endpoints.are_down.store(true, Ordering::SeqCst);

    // Two failures use a try each; the third opens the breaker, and neither it nor who runs beside it uses one.
    let mut jobs = worker.claim("calls", 4).await.unwrap();
    let late = jobs.pop().unwrap();
    let mut ends = Vec::new();
    for job in jobs {
        ends.push(worker.run(job).await);
    }
    assert_eq!(ends, [Retried, Retried, Postponed]);
    assert_eq!(worker.run(late).await, Postponed);
    assert!(worker.claim("calls", 10).await.unwrap().is_empty(), "it is open");
    assert_eq!(parked(&db.pool).await, 2);
    let tries = number(&db.pool, "select sum(attempt)::bigint from queue.jobs").await;
    assert_eq!(tries, 2);

    // One probe at a time; a failed one closes the door again.
    later(&db.pool, 90).await;
    let probe = worker.claim("calls", 10).await.unwrap();
    assert_eq!(probe.len(), 1);
    assert!(worker.claim("calls", 10).await.unwrap().is_empty());
    assert_eq!(worker.run_all(probe).await, [Postponed]);
    assert!(worker.claim("calls", 10).await.unwrap().is_empty());

    // A probe that succeeds lets everybody in.
    endpoints.are_down.store(false, Ordering::SeqCst);
    later(&db.pool, 90).await;
    let probe = worker.claim("calls", 10).await.unwrap();
    assert_eq!(probe.len(), 1);
    assert_eq!(worker.run_all(probe).await, [Completed]);
    later(&db.pool, 90).await;
    let rest = worker.claim("calls", 10).await.unwrap();
    assert_eq!(rest.len(), ids.len() - 1);
    assert_eq!(worker.run_all(rest).await, [Completed; 5]);
    assert_eq!((parked(&db.pool).await, holds(&db.pool).await), (0, 0));
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn a_job_on_its_last_try_outlives_an_open_breaker() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::breaker(1, 60.0)).await;
    enqueue(&db.pool, &[call(1)]).await;
    sqlx::query("update queue.jobs set attempt = 2")
        .execute(&db.pool)
        .await
        .unwrap();
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    endpoints.are_down.store(true, Ordering::SeqCst);
    let jobs = worker.claim("calls", 1).await.unwrap();
    assert_eq!(jobs[0].attempt, jobs[0].attempts_max);
    assert_eq!(worker.run_all(jobs).await, [Postponed]);
}

#[tokio::test]
async fn a_job_whose_key_has_failed_for_a_week_uses_its_tries_and_ends() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::breaker(1, 60.0)).await;
    enqueue(&db.pool, &[call(1)]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    endpoints.are_down.store(true, Ordering::SeqCst);
    let mut ends = Vec::new();
    for _ in 0..2 {
        ends.extend(worker.run_all(worker.claim("calls", 1).await.unwrap()).await);
        later(&db.pool, 90).await;
    }
    assert_eq!(ends, [Postponed, Postponed]);
    // As after the probes of almost a week.
    sqlx::query("update queue.limit_keys set failures = 7 * 24 * 60 - 1")
        .execute(&db.pool)
        .await
        .unwrap();
    ends.clear();
    for _ in 0..4 {
        ends.extend(worker.run_all(worker.claim("calls", 1).await.unwrap()).await);
        assert!(worker.claim("calls", 1).await.unwrap().is_empty(), "one probe a minute");
        later(&db.pool, 90).await;
    }
    assert_eq!(ends, [Postponed, Retried, Retried, Buried]);
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn whoever_is_told_to_wait_waits_for_all_of_its_key() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::breaker(3, 60.0)).await;
    enqueue(&db.pool, &[call(1), call(1), call(2)]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    endpoints.are_busy.store(true, Ordering::SeqCst);
    let first = worker.claim("calls", 1).await.unwrap();
    assert_eq!(worker.run_all(first).await, [Postponed]);
    endpoints.are_busy.store(false, Ordering::SeqCst);
    let other = worker.claim("calls", 10).await.unwrap();
    assert_eq!(by_key(&other), BTreeMap::from([("endpoint/2".to_owned(), 1)]));
    later(&db.pool, 200).await;
    assert!(
        worker.claim("calls", 10).await.unwrap().is_empty(),
        "told to wait 300 s"
    );
    later(&db.pool, 200).await;
    assert_eq!(
        worker.claim("calls", 10).await.unwrap().len(),
        1,
        "one at a time until it works"
    );
}

#[tokio::test]
async fn a_crash_leaks_no_room() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(2)).await;
    set(&db.pool, "queue/calls", Limit::concurrency(3)).await;
    enqueue(&db.pool, &vec![call(1); 4]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let dead = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    assert_eq!(dead.claim("calls", 4).await.unwrap().len(), 2);
    let alive = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    assert!(alive.claim("calls", 4).await.unwrap().is_empty());
    sqlx::query("delete from queue.workers where id = $1")
        .bind(dead.registration.id)
        .execute(&db.pool)
        .await
        .unwrap();
    let rescued = queue::rescue::rescue(&db.pool, false, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!((rescued.jobs, holds(&db.pool).await), (2, 0));
    let jobs = alive.claim("calls", 4).await.unwrap();
    assert_eq!(jobs.len(), 2);
    sqlx::query("update queue.jobs set suspect = true")
        .execute(&db.pool)
        .await
        .unwrap();
    let suspect = alive.claim_suspect("calls").await.unwrap();
    assert!(suspect.is_none(), "suspects count as well");
    alive.run_all(jobs).await;
    for _ in 0..2 {
        let suspect = alive.claim_suspect("calls").await.unwrap().unwrap();
        assert_eq!(alive.run(suspect).await, Completed);
    }
    assert_eq!((parked(&db.pool).await, holds(&db.pool).await), (0, 0));
    alive.leave().await.unwrap();
}

/// Jobs of a busy key would end one after the other if each held its key's row until its commit is on disk.
#[tokio::test]
async fn a_job_ends_in_its_own_transaction_without_waiting_for_its_key() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    let ids = enqueue(&db.pool, &vec![call(1); 2]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let mut jobs = worker.claim("calls", 2).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].id.0 % 2), (1, 1), "it ends itself: {ids:?}");
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("select from queue.limit_keys for update")
        .execute(&mut *other)
        .await
        .unwrap();
    let ended = async {
        while number(&db.pool, "select count(*) from queue.finished_jobs").await == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(holds(&db.pool).await, 1, "its room is given back afterwards");
        other.rollback().await.unwrap();
    };
    let (settled, ()) = tokio::join!(worker.run(jobs.remove(0)), ended);
    assert_eq!((settled, holds(&db.pool).await), (Completed, 0));
    assert_eq!(worker.claim("calls", 2).await.unwrap().len(), 1);
}

#[tokio::test]
async fn room_whose_claim_is_gone_is_mended() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    enqueue(&db.pool, &vec![call(1); 2]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let jobs = worker.claim("calls", 2).await.unwrap();
    worker.run_all(jobs).await;
    // As a process leaves it that dies between the end of a job and the release of its room.
    sqlx::query("insert into queue.limit_holds (claim_id, key, jobs) values (0, 'endpoint/1', 1)")
        .execute(&db.pool)
        .await
        .unwrap();
    assert!(worker.claim("calls", 2).await.unwrap().is_empty());
    limit::mend(&mut db.pool.acquire().await.unwrap()).await.unwrap();
    // The key is looked at again within some seconds.
    later(&db.pool, 10).await;
    assert_eq!(worker.claim("calls", 2).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_key_at_the_head_of_the_line_holds_nobody_up() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    let mut calls = vec![call(1); 3000];
    calls.push(call(2));
    enqueue(&db.pool, &calls).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    assert_eq!(worker.claim("calls", 1).await.unwrap().len(), 1);
    let mut found = Vec::new();
    for _ in 0..20 {
        found = worker.claim("calls", 50).await.unwrap();
        if !found.is_empty() {
            break;
        }
    }
    assert_eq!(by_key(&found), BTreeMap::from([("endpoint/2".to_owned(), 1)]));
    assert_eq!(parked(&db.pool).await, 2999);
}

#[tokio::test]
async fn a_limit_keeps_the_order_of_a_group() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    let grouped = |group: &str| Call {
        endpoint: Some(1),
        group: Some(group.to_owned()),
    };
    let ids = enqueue(
        &db.pool,
        &[grouped("a"), grouped("a"), grouped("b"), grouped("a"), grouped("b")],
    )
    .await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let mut order = Vec::new();
    while order.len() < ids.len() {
        let jobs = worker.claim("calls", 10).await.unwrap();
        assert_eq!(jobs.len(), 1);
        order.push((jobs[0].group_key.clone().unwrap(), jobs[0].id));
        worker.run_all(jobs).await;
    }
    let of = |group: &str| -> Vec<JobId> { order.iter().filter(|(of, _)| of == group).map(|(_, id)| *id).collect() };
    assert_eq!(of("a"), [ids[0], ids[1], ids[3]]);
    assert_eq!(of("b"), [ids[2], ids[4]]);
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn limits_change_while_the_fleet_runs() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::concurrency(0)).await;
    enqueue(&db.pool, &vec![call(1); 4]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    assert!(worker.claim("calls", 10).await.unwrap().is_empty());
    set(&db.pool, "endpoint", Limit::concurrency(1)).await;
    assert_eq!(worker.claim("calls", 10).await.unwrap().len(), 1);
    let mut conn = db.pool.acquire().await.unwrap();
    let view = limit::list(&mut conn).await.unwrap();
    assert_eq!(view[0].concurrency, Some(1));
    assert_eq!(
        (view[0].keys[0].key.as_str(), view[0].keys[0].running),
        ("endpoint/1", 1)
    );
    assert!(view[0].keys[0].is_parking);
    assert!(limit::remove(&mut conn, "endpoint", "test", "test").await.unwrap());
    assert!(!limit::remove(&mut conn, "endpoint", "test", "test").await.unwrap());
    assert_eq!(worker.claim("calls", 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    for (limit, word) in [
        (Limit::default(), "limits nothing"),
        (Limit::concurrency(-1), "concurrency"),
        (Limit::rate(0.0, 1), "rate"),
        (Limit::rate(f64::NAN, 1), "rate"),
        // A wait that no clock could tell.
        (Limit::rate(1e-9, 1), "rate"),
        (Limit::rate(1.0, 0), "burst"),
        (Limit::breaker(0, 1.0), "breaker_failures"),
        (Limit::breaker(1, -1.0), "breaker_seconds"),
    ] {
        let error = limit::set(&mut conn, "endpoint", &limit, "test", "test")
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Invalid(problem) if problem.contains(word)),
            "{limit:?}: {error}"
        );
    }
    for name in ["", "endpoint/", "/endpoint", "queue", "two\nlines", &"x".repeat(301)] {
        let error = limit::set(&mut conn, name, &Limit::concurrency(1), "test", "test")
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{name}: {error}");
    }
    assert!(limit::list(&mut conn).await.unwrap().is_empty());
}

#[tokio::test]
async fn there_is_a_bound_on_limits_and_those_there_are_can_be_changed() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    sqlx::query("insert into queue.limits (name, concurrency, actor) select 'key/' || n, 1, 'test' from generate_series(1, $1) n")
        .bind(limit::LIMITS_MAX)
        .execute(&mut *conn)
        .await
        .unwrap();
    let error = limit::set(&mut conn, "one too many", &Limit::concurrency(1), "test", "test")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("there are 1000 limits already"), "{error}");
    set(&db.pool, "key/7", Limit::concurrency(2)).await;
    let changed = limit::get(&mut conn, "key/7").await.unwrap().unwrap();
    assert_eq!(changed.concurrency, Some(2));
    assert!(limit::get(&mut conn, "one too many").await.unwrap().is_none());
}

#[tokio::test]
async fn a_limit_tells_what_it_holds_back() {
    let db = Database::new().await;
    set(
        &db.pool,
        "endpoint",
        Limit {
            concurrency: Some(1),
            ..Limit::breaker(1, 60.0)
        },
    )
    .await;
    set(&db.pool, "endpoint/3", Limit::concurrency(0)).await;
    enqueue(&db.pool, &[call(1), call(1), call(1), call(2), call(3), call(3)]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    let worker = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let mut jobs = worker.claim("calls", 10).await.unwrap();
    assert_eq!(jobs.len(), 2);
    endpoints.are_down.store(true, Ordering::SeqCst);
    let second = jobs.pop().unwrap();
    assert_eq!(worker.run(second).await, Postponed);
    let mut conn = db.pool.acquire().await.unwrap();
    let held_back: Vec<(String, i64, i64)> = limit::usage(&mut conn)
        .await
        .unwrap()
        .into_iter()
        .map(|used| (used.name, used.open_breakers, used.parked))
        .collect();
    assert_eq!(
        held_back,
        [("endpoint".to_owned(), 1, 2), ("endpoint/3".to_owned(), 0, 2)]
    );
    assert_eq!(worker.run_all(jobs).await, [Postponed]);
    // A limit without a breaker leaves none open.
    set(&db.pool, "endpoint", Limit::concurrency(5)).await;
    let used = limit::usage(&mut conn).await.unwrap();
    assert_eq!(used[0].open_breakers, 0);
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn defaults_of_a_build_do_not_undo_what_an_operator_did() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let defaults = [
        ("endpoint", Limit::concurrency(8)),
        ("gateway", Limit::breaker(5, 10.0)),
    ];
    limit::install(&mut conn, &defaults).await.unwrap();
    set(&db.pool, "endpoint", Limit::concurrency(2)).await;
    limit::remove(&mut conn, "gateway", "test", "test").await.unwrap();
    limit::install(&mut conn, &defaults).await.unwrap();
    let limits = limit::list(&mut conn).await.unwrap();
    assert_eq!(limits.len(), 1);
    assert_eq!(limits[0].concurrency, Some(2));
}

#[tokio::test]
async fn a_default_follows_the_build_until_an_operator_decides() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let installed = async |conn: &mut sqlx::PgConnection, jobs: i32| {
        limit::install(conn, &[("endpoint", Limit::concurrency(jobs))])
            .await
            .unwrap();
        limit::get(conn, "endpoint").await.unwrap().unwrap().concurrency
    };
    assert_eq!(installed(&mut conn, 8).await, Some(8));
    assert_eq!(installed(&mut conn, 8).await, Some(8));
    assert_eq!(installed(&mut conn, 4).await, Some(4));
    assert_eq!(
        number(&db.pool, "select count(*) from queue.audit").await,
        2,
        "one for each change"
    );
    set(&db.pool, "endpoint", Limit::concurrency(2)).await;
    assert_eq!(installed(&mut conn, 8).await, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_start_at_once_install_a_default_once() {
    let db = Database::new().await;
    let starts = (0..8).map(|_| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            let mut conn = pool.acquire().await.unwrap();
            limit::install(&mut conn, &[("endpoint", Limit::concurrency(8))])
                .await
                .unwrap();
        })
    });
    for start in futures::future::join_all(starts).await {
        start.unwrap();
    }
    assert_eq!(number(&db.pool, "select count(*) from queue.audit").await, 1);
}

#[tokio::test]
async fn a_late_worker_tells_a_limit_nothing() {
    let db = Database::new().await;
    set(&db.pool, "endpoint", Limit::breaker(1, 60.0)).await;
    enqueue(&db.pool, &[call(1)]).await;
    let (catalogue, endpoints) = (catalogue(), Arc::<Endpoints>::default());
    endpoints.are_down.store(true, Ordering::SeqCst);
    let late = Worker::register(&db.pool, &catalogue, &endpoints).await.unwrap();
    let jobs = late.claim("calls", 1).await.unwrap();
    late.hand_back_all().await.unwrap();
    assert_eq!(late.run_all(jobs).await, [Settled::Lost]);
    let failures = number(&db.pool, "select coalesce(sum(failures), 0) from queue.limit_keys").await;
    assert_eq!(failures, 0);
    late.leave().await.unwrap();
}
