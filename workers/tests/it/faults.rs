use std::sync::Arc;
use std::time::Duration;

use testkit::{Database, eventually};

use crate::fleet::*;
use crate::kinds::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_sessions_lose_no_job_and_use_no_attempt() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Quick { n: 0 }, 600).await;
    let worker = start(&db, config(&["quick"], 8), &world);
    let mut killed = 0;
    eventually("every job to be completed", async || {
        // A small pause between the blows, or nothing would ever get through.
        killed += sqlx::query_scalar::<_, i64>(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and application_name = 'orderfleet worker' and random() < 0.3",
        )
        .fetch_one(&db.pool)
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let left = not_idle(&db.pool).await;
        (left.due + left.running + left.later == 0).then_some(())
    })
    .await;
    assert!(killed > 0);
    let completed: Vec<(i64, i64, i32)> = sqlx::query_as(
        "select count(*), count(distinct id), max(attempt) from queue.finished_jobs where state = 'completed'",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(completed, [(600, 600, 1)]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_declared_lost_cancels_its_jobs_and_registers_anew() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 2).await;
    let worker = start(&db, config(&["slow"], 2), &world);
    eventually("the slots to be full", async || (world.running() == 2).then_some(())).await;
    let old: i64 = sqlx::query_scalar("delete from queue.workers returning id")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    eventually("a new registration", async || {
        let new: Option<i64> = sqlx::query_scalar("select id from queue.workers")
            .fetch_optional(&db.pool)
            .await
            .unwrap();
        new.filter(|new| *new != old)
    })
    .await;
    world.gate.add_permits(10);
    eventually("the jobs to be done by the new one", async || {
        let fences: Vec<i64> = sqlx::query_scalar("select fence from queue.finished_jobs")
            .fetch_all(&db.pool)
            .await
            .unwrap();
        (fences == [2, 2]).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspects_run_alone_and_then_the_others_go_on() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 12).await;
    sqlx::query("update queue.jobs set suspect = true where id % 3 = 0")
        .execute(&db.pool)
        .await
        .unwrap();
    let worker = start(&db, config(&["slow"], 4), &world);
    // One at a time through the gate, and the table says who was beside whom.
    let mut seen_alone = 0;
    eventually("all jobs to be done", async || {
        let running: Vec<bool> = sqlx::query_scalar("select suspect from queue.running_jobs")
            .fetch_all(&db.pool)
            .await
            .unwrap();
        if running.iter().any(|suspect| *suspect) {
            assert_eq!(running.len(), 1, "a suspect had company");
            seen_alone += 1;
        }
        if world.running() > 0 {
            world.gate.add_permits(1);
        }
        (world.done() == 12).then_some(())
    })
    .await;
    assert!(seen_alone > 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_workers_jobs_are_taken_over() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    world.gate.add_permits(10);
    enqueue(&db.pool, Slow {}, 3).await;
    // A worker of the past: its session is gone and its lease ran out, and it held two jobs.
    sqlx::raw_sql(
        "insert into queue.workers (name, pools, build, host, pid, backend_pid, backend_start, beat_at, lease_until)
         values ('dead', '{slow}', '', '', 0, 0, 'epoch', 'epoch', 'epoch');
         select queue.claim('slow', '{slow}', '{1}', w.id, 2) from queue.workers w where w.name = 'dead';",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let mut config = config(&["slow"], 2);
    config.lease = Duration::from_secs(1);
    let worker = start(&db, config, &world);
    eventually("all jobs to be done", async || (world.done() == 3).then_some(())).await;
    let losses: i64 = sqlx::query_scalar("select count(*) from queue.losses")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(losses, 1);
    worker.stop().await;
}
