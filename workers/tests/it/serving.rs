use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use queue::limit::{self, Limit};
use testkit::{Database, eventually};
use workers::Defaults;

use crate::fleet::*;
use crate::kinds::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_pools_drain_and_the_worker_leaves_no_trace() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    world.gate.add_permits(20);
    enqueue(&db.pool, Quick { n: 0 }, 200).await;
    enqueue(&db.pool, Slow {}, 20).await;
    let worker = start(&db, config(&["quick", "slow"], 8), &world);
    eventually("all jobs to be done", async || (world.done() == 220).then_some(())).await;
    worker.stop().await;
    let left = not_idle(&db.pool).await;
    assert_eq!((left.due, left.running, left.later), (0, 0, 0));
    assert_eq!(workers(&db.pool).await, 0);
    let claims: i64 =
        sqlx::query_scalar("select (select count(*) from queue.claims) + (select count(*) from queue.ended)")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(claims, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_several_queues_shares_its_slots_by_weight_and_leaves_none_idle() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 600).await;
    // One of them has work: it has all the slots.
    let worker = start(&db, config(&["shared=slow:3,slower:1"], 4), &world);
    eventually("the slots to be full", async || (world.running() == 4).then_some(())).await;

    enqueue(&db.pool, Slower {}, 300).await;
    let done = async || {
        let done: (i64, i64) =
            sqlx::query_as("select count(*), count(*) filter (where kind = 'slower') from queue.finished_jobs")
                .fetch_one(&db.pool)
                .await
                .unwrap();
        done
    };
    let before = eventually("the other to be served as well", async || {
        world.gate.add_permits(1);
        Some(done().await).filter(|(_, slower)| *slower > 0)
    })
    .await;
    world.gate.add_permits(300);
    let after = eventually("three hundred more to be done", async || {
        Some(done().await).filter(|(all, _)| *all >= before.0 + 300)
    })
    .await;
    let share = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
    assert!(
        (0.2..0.3).contains(&share),
        "it had {share} of the slots, not a quarter"
    );
    world.gate.add_permits(1000);
    eventually("all to be done", async || (world.done() == 900).then_some(())).await;
    assert_eq!(world.running_max.load(Ordering::SeqCst), 4);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_raised_and_lowered_while_the_worker_runs() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 1000).await;
    let worker = start(&db, config(&["slow"], 4), &world);
    let set = async |slots: Option<i32>| {
        let conn = &mut *db.pool.acquire().await.unwrap();
        queue::operate::set_slots(conn, "slow", slots, "a rush", "ann").await
    };
    let full = async |slots: i64| {
        eventually("so many to run", async || (world.running() == slots).then_some(())).await;
    };
    full(4).await;
    set(Some(9)).await.unwrap();
    full(9).await;
    // Nobody is stopped, but no slot is filled again until there are only two. However often that is tried, jobs do not run out.
    set(Some(2)).await.unwrap();
    let all = AtomicUsize::new(1000);
    eventually("ten in a row to run two at a time", async || {
        enqueue(&db.pool, Slow {}, 10).await;
        all.fetch_add(10, Ordering::SeqCst);
        world.running_max.store(0, Ordering::SeqCst);
        let done = world.done();
        world.gate.add_permits(10);
        eventually("ten more to be done", async || {
            (world.done() >= done + 10).then_some(())
        })
        .await;
        (world.running_max.load(Ordering::SeqCst) <= 2).then_some(())
    })
    .await;
    set(None).await.unwrap();
    full(4).await;
    assert!(set(Some(0)).await.is_err());
    let audited: i64 = sqlx::query_scalar("select count(*) from queue.audit where action = 'slots'")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(audited, 3);
    let all = all.into_inner();
    world.gate.add_permits(all);
    eventually("all to be done", async || (world.done() == all as u64).then_some(())).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_queue_in_two_pools_of_one_worker_is_refused() {
    let db = Database::new().await;
    let refused = workers::run_with(
        config(&["slow", "both=quick,slow:2"], 1),
        db.url.parse().unwrap(),
        catalogue(),
        Defaults::default(),
        Arc::default(),
        Default::default(),
    )
    .await;
    assert!(refused.unwrap_err().to_string().contains("slow is in two pools"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_jobs_are_claimed_than_there_are_slots() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 30).await;
    let worker = start(&db, config(&["slow"], 4), &world);
    eventually("the slots to be full", async || (world.running() == 4).then_some(())).await;
    assert_eq!(not_idle(&db.pool).await.running, 4);
    world.gate.add_permits(30);
    eventually("all jobs to be done", async || (world.done() == 30).then_some(())).await;
    assert_eq!(world.running_max.load(Ordering::SeqCst), 4);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_starts_a_job_soon() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let worker = start(&db, config(&["quick"], 4), &world);
    eventually("the worker to register", async || {
        (workers(&db.pool).await == 1).then_some(())
    })
    .await;
    for n in 1..=5 {
        let enqueued = Instant::now();
        enqueue(&db.pool, Quick { n }, 1).await;
        eventually("the job to be done", async || (world.done() == n).then_some(())).await;
        assert!(enqueued.elapsed() < Duration::from_secs(5));
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_a_build_hold_from_the_first_claim() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let limits = vec![("queue/slow", Limit::concurrency(2))];
    enqueue(&db.pool, Slow {}, 20).await;
    let worker = start_with(
        &db.url,
        config(&["slow"], 20),
        Defaults {
            limits,
            ..Defaults::default()
        },
        &world,
    );
    world.gate.add_permits(20);
    eventually("all jobs to be done", async || (world.done() == 20).then_some(())).await;
    assert!(world.running_max.load(Ordering::SeqCst) <= 2);
    worker.stop().await;
}

/// A claim that took long has its line read from where that left off for fifty times as long, and these wait before that place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_an_end_is_started_after_it_however_long_a_claim_has_taken() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let mut conn = db.pool.acquire().await.unwrap();
    let one = queue::limit::Limit::concurrency(1);
    queue::limit::set(&mut conn, "key", &one, "test", "test").await.unwrap();
    let (group, limit) = (Some("group".to_owned()), Some("key/1".to_owned()));
    enqueue(&db.pool, Next { group, limit: None }, 5).await;
    enqueue(&db.pool, Next { group: None, limit }, 5).await;
    queue::testing::fast_forward(&db.pool, Duration::from_secs(3600))
        .await
        .unwrap();

    let mut claims = db.pool.begin().await.unwrap();
    sqlx::query("lock table queue.claims in share mode")
        .execute(&mut *claims)
        .await
        .unwrap();
    let worker = start(&db, config(&["quick"], 4), &world);
    eventually("a claim to wait", async || {
        sqlx::query_scalar("select true from pg_locks where not granted limit 1")
            .fetch_optional(&db.pool)
            .await
            .unwrap()
            .filter(|waits: &bool| *waits)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    claims.rollback().await.unwrap();
    // Ten of them, and half a minute for each that is not looked for.
    eventually("all jobs to be done", async || (world.done() == 10).then_some(())).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_goes_on_with_a_group_and_gives_way_to_the_line() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let link = |group: &str| Link {
        group: group.to_owned(),
    };
    // Two groups that take turns in line.
    for _ in 0..20 {
        enqueue(&db.pool, link("a"), 1).await;
        enqueue(&db.pool, link("b"), 1).await;
    }
    let worker = start(&db, config(&["chain"], 1), &world);
    eventually("all jobs to be done", async || (world.done() == 40).then_some(())).await;
    worker.stop().await;
    let links = world.links.lock().unwrap();
    let runs: Vec<(&str, usize)> = links
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0].as_str(), run.len()))
        .collect();
    assert_eq!(runs, [("a", 8), ("b", 8), ("a", 8), ("b", 8), ("a", 4), ("b", 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_jobs_in_flight_end() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 6).await;
    let worker = start(&db, config(&["slow"], 3), &world);
    eventually("the slots to be full", async || (world.running() == 3).then_some(())).await;
    let stopping = tokio::spawn(worker.stop());
    eventually("the worker to stop claiming", async || {
        let stopping: i64 = sqlx::query_scalar("select count(*) from queue.workers where stopping")
            .fetch_one(&db.pool)
            .await
            .unwrap();
        (stopping == 1).then_some(())
    })
    .await;
    world.gate.add_permits(6);
    stopping.await.unwrap();
    assert_eq!(world.done(), 3);
    let left = not_idle(&db.pool).await;
    assert_eq!((left.due, left.running), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_hands_back_what_outlasts_the_grace_with_its_try() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 3).await;
    let mut config = config(&["slow"], 3);
    config.shutdown_grace = Duration::from_millis(50);
    let worker = start(&db, config, &world);
    eventually("the slots to be full", async || (world.running() == 3).then_some(())).await;
    let asked = Instant::now();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    let handed_back: Vec<(i32, i64, bool)> = sqlx::query_as("select attempt, fence, suspect from queue.jobs")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    assert_eq!(handed_back, [(0, 1, false); 3]);
    assert_eq!(workers(&db.pool).await, 0);
}

#[tokio::test]
async fn a_pool_that_no_kind_waits_in_is_refused() {
    let db = Database::new().await;
    let refused = workers::run_with(
        config(&["typo"], 1),
        db.url.parse().unwrap(),
        catalogue(),
        Defaults::default(),
        Arc::default(),
        Default::default(),
    )
    .await;
    assert!(refused.unwrap_err().to_string().contains("typo"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_when_it_is_ready_and_metrics_count() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut conn = db.connect().await;
    limit::set(&mut conn, "far", &Limit::breaker(1, 60.0), "test", "test")
        .await
        .unwrap();
    sqlx::query("select queue.limit_failed('far/7', 'it is down', null)")
        .execute(&db.pool)
        .await
        .unwrap();
    let mut config = config(&["quick"], 2);
    config.health = Some(free);
    let worker = start(&db, config, &world);
    eventually("the worker to be ready", async || {
        get(free, "/readyz").await.filter(|answer| answer.contains("200 OK"))
    })
    .await;
    assert!(get(free, "/livez").await.unwrap().contains("200 OK"));
    enqueue(&db.pool, Quick { n: 1 }, 1).await;
    eventually("the job to be counted", async || {
        get(free, "/metrics")
            .await
            .filter(|answer| answer.contains("queue_jobs_completed_total{kind=\"quick\"}"))
    })
    .await;
    let breakers_open = async |count: u8| {
        eventually("the open breakers to be counted", async || {
            let line = format!("queue_breakers_open{{limit=\"far\"}} {count}\n");
            get(free, "/metrics").await.filter(|answer| answer.contains(&line))
        })
        .await;
    };
    breakers_open(1).await;
    limit::remove(&mut conn, "far", "test", "test").await.unwrap();
    breakers_open(0).await;
    worker.stop().await;
}

async fn get(address: std::net::SocketAddr, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
