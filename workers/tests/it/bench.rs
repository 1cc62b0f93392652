//! What a job costs besides its work, against the smallest loop PostgreSQL allows, in one run on one server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::{Database, eventually_within};

use crate::fleet::*;
use crate::kinds::*;

/// `cargo test -p workers --release -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn drain_against_the_bare_loop() {
    const JOBS: usize = 20_000;
    let db = Database::new().await;
    for slots in [16, 64] {
        for (pool, is_fenced) in [("nothing", false), ("quick", true)] {
            enqueue_all(&db, JOBS, "bare").await;
            let started = Instant::now();
            bare_loop(&db).await;
            let bare = JOBS as f64 / started.elapsed().as_secs_f64();

            enqueue_all(&db, JOBS, pool).await;
            let world = Arc::new(World::default());
            let started = Instant::now();
            let worker = start(&db, config(&[pool], slots), &world);
            eventually_within(Duration::from_secs(600), "the queue to be empty", async || {
                let is_left: bool = sqlx::query_scalar("select exists (select from queue.jobs)")
                    .fetch_one(&db.pool)
                    .await
                    .unwrap();
                (!is_left).then_some(())
            })
            .await;
            let ours = JOBS as f64 / started.elapsed().as_secs_f64();
            worker.stop().await;
            println!(
                "{slots} slots, {}: {ours:.0} jobs/s against {bare:.0} of the bare loop: {:.3}",
                if is_fenced {
                    "one fenced transaction each"
                } else {
                    "no work at all"
                },
                ours / bare
            );
        }
    }
}

async fn enqueue_all(db: &Database, count: usize, queue: &str) {
    sqlx::query(
        "insert into queue.jobs (queue, kind, args)
         select $1, $1, case $1 when 'quick' then '{\"n\": 1}'::jsonb else '{}' end from generate_series(1, $2)",
    )
    .bind(queue)
    .bind(i32::try_from(count).unwrap())
    .execute(&db.pool)
    .await
    .unwrap();
    sqlx::query("vacuum analyze queue.jobs")
        .execute(&db.pool)
        .await
        .unwrap();
}

/// Claims five hundred by update and deletes them.
async fn bare_loop(db: &Database) {
    loop {
        let ids: Vec<i64> = sqlx::query_scalar(
            "update queue.jobs set state = 'running', worker_id = 0, fence = fence + 1
             where id = any(array(select id from queue.jobs where queue = 'bare' and state = 'available' and not suspect
                                  order by rank, id limit 500 for update skip locked))
             returning id",
        )
        .fetch_all(&db.pool)
        .await
        .unwrap();
        if ids.is_empty() {
            return;
        }
        sqlx::query("delete from queue.jobs where id = any($1)")
            .bind(ids)
            .execute(&db.pool)
            .await
            .unwrap();
    }
}
