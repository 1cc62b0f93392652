//! What a job costs besides its work: jobs/s of a worker process against the smallest loop PostgreSQL allows, alternating
//! on one server, which syncs to disk.
//!
//!     cargo bench -p workers                    20,000 jobs, three rounds
//!     cargo bench -p workers -- 100000 5        as many as you say

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use private_postgres::{Cluster, Options};
use queue::{Attempt, Catalogue, Job, Outcome};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use workers::Config;

const SLOTS: [usize; 2] = [16, 64];

/// Nothing at all: the runner completes it.
#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Job for Nothing {
    type Services = ();
    const KIND: &'static str = "nothing";
    const QUEUE: &'static str = "nothing";

    async fn run(self, _: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        Ok(Outcome::Done)
    }
}

/// One transaction that asserts the fence and completes the job, as every real kind has.
#[derive(Serialize, Deserialize)]
struct Fenced {}

impl Job for Fenced {
    type Services = ();
    const KIND: &'static str = "fenced";
    const QUEUE: &'static str = "fenced";

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        attempt.begin().await?.done().await
    }
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let jobs = numbers.next().unwrap_or(20_000);
    let rounds = numbers.next().unwrap_or(3);

    let dir = tempfile::tempdir().unwrap();
    // As root, PostgreSQL runs as another user, who has to get in.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(Options::new(dir.path().join("postgres"))).unwrap();
    let url = cluster.url("postgres");
    domain::schema::MIGRATOR
        .run(&mut PgConnection::connect(&url).await.unwrap())
        .await
        .unwrap();
    let pool = PgPool::connect(&url).await.unwrap();

    println!("{jobs} jobs a run; fsync, synchronous_commit and full_page_writes are on");
    for slots in SLOTS {
        for kind in ["nothing", "fenced"] {
            let mut ratios = Vec::new();
            for _ in 0..rounds {
                let bare = rate(&pool, jobs, "bare", bare_loop(&pool)).await;
                let ours = rate(&pool, jobs, kind, drain(&pool, &url, kind, slots)).await;
                ratios.push(ours / bare);
                println!(
                    "{slots} slots, {kind}: {ours:.0} jobs/s; bare loop: {bare:.0} jobs/s; ratio {:.3}",
                    ours / bare
                );
            }
            ratios.sort_by(f64::total_cmp);
            println!("{slots} slots, {kind}: median ratio {:.3}", ratios[ratios.len() / 2]);
        }
    }
}

/// Jobs a second of one way to empty a queue.
async fn rate(pool: &PgPool, jobs: usize, queue: &str, empty_it: impl Future<Output = ()>) -> f64 {
    sqlx::query("insert into queue.jobs (queue, kind, args) select $1, $1, '{}' from generate_series(1, $2)")
        .bind(queue)
        .bind(i32::try_from(jobs).unwrap())
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("vacuum analyze queue.jobs").execute(pool).await.unwrap();
    let started = Instant::now();
    empty_it.await;
    jobs as f64 / started.elapsed().as_secs_f64()
}

/// Claims five hundred by update, and deletes them.
async fn bare_loop(pool: &PgPool) {
    loop {
        let ids: Vec<i64> = sqlx::query_scalar(
            "update queue.jobs set state = 'running', worker_id = 0, fence = fence + 1
             where id = any(array(select id from queue.jobs where queue = 'bare' and state = 'available' and not suspect
                                  order by rank, id limit 500 for update skip locked))
             returning id",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        if ids.is_empty() {
            return;
        }
        sqlx::query("delete from queue.jobs where id = any($1)")
            .bind(ids)
            .execute(pool)
            .await
            .unwrap();
    }
}

/// One worker, until nothing is left.
async fn drain(pool: &PgPool, url: &str, kind: &str, slots: usize) {
    let config = Config {
        name: "bench".to_owned(),
        pools: vec![kind.to_owned()],
        slots,
        lease: Duration::from_secs(15),
        shutdown_grace: Duration::from_secs(10),
        build: "bench".to_owned(),
        health: None,
    };
    let catalogue = Catalogue::new().with::<Nothing>().with::<Fenced>();
    let stop = CancellationToken::new();
    let worker = tokio::spawn(workers::run_with(
        config,
        url.parse().unwrap(),
        catalogue,
        Vec::new(),
        Arc::new(()),
        stop.clone(),
    ));
    while sqlx::query_scalar("select exists (select from queue.jobs)")
        .fetch_one(pool)
        .await
        .unwrap()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    worker.await.unwrap().unwrap();
}
