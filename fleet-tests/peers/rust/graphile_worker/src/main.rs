//! graphile_worker, the Rust port. The settings are those of its "throughput-oriented worker"
//! (docs/src/configuration/worker-options.md), which says to tune them; the larger numbers here drained faster.

use std::time::Duration;

use common::{Peer, Result};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext, WorkerOptions,
    WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const SCHEMA: &str = "graphile_worker";
/// "Throughput-oriented worker", which has 16.
const CONCURRENCY: usize = 64;
/// Batch-fetches jobs: docs/src/guides/local-queue.md, whose default is 100.
const LOCAL_QUEUE: usize = 500;
/// "Can improve throughput for very small, high-volume jobs": the same page, "Distribution".
const LOCAL_QUEUES: usize = 4;
/// "Throughput-oriented worker": completions are written together after 5 ms.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// "Throughput-oriented worker"; notifications wake the worker sooner.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Jobs in one `add_raw_jobs`, the bulk call of docs/src/guides/batch-jobs.md.
const BULK: u64 = 10_000;

#[derive(Serialize, Deserialize)]
struct Noop {
    job: u64,
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _context: WorkerContext) -> impl IntoTaskHandlerResult {
        common::started(self.job);
        Ok::<(), String>(())
    }
}

#[derive(Clone)]
struct GraphileWorker {
    pool: PgPool,
}

impl GraphileWorker {
    fn utils(&self) -> WorkerUtils {
        WorkerUtils::new(self.pool.clone(), SCHEMA)
    }

    fn options(&self) -> WorkerOptions {
        WorkerOptions::default()
            .pg_pool(self.pool.clone())
            .schema(SCHEMA)
            .concurrency(CONCURRENCY)
            .poll_interval(POLL_INTERVAL)
            .complete_job_batch_delay(BATCH_DELAY)
            .fail_job_batch_delay(BATCH_DELAY)
            .local_queue(
                LocalQueueConfig::default()
                    .with_size(LOCAL_QUEUE)
                    .with_queue_count(LOCAL_QUEUES),
            )
            .define_job::<Noop>()
    }
}

impl Peer for GraphileWorker {
    const NAME: &'static str = "graphile_worker";
    const MANIFEST: &'static str = include_str!("../Cargo.toml");
    const UNFINISHED: &'static str = "select exists (select from graphile_worker._private_jobs)";
    /// worker-options.md: the default of `max_pg_conn`. A slot needs none while its handler runs.
    const WORKER_CONNECTIONS: u32 = 20;

    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let options = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections.max(2));
        Ok(GraphileWorker {
            pool: options.connect(url).await?,
        })
    }

    async fn install(&self) -> Result<()> {
        self.options().init().await?;
        Ok(())
    }

    async fn enqueue(&self, job: u64) -> Result<()> {
        self.utils().add_job(Noop { job }, JobSpec::default()).await?;
        Ok(())
    }

    async fn enqueue_all(&self, jobs: u64) -> Result<()> {
        let utils = self.utils();
        for first in (0..jobs).step_by(BULK as usize) {
            let batch: Vec<RawJobSpec> = (first..jobs.min(first + BULK)).map(raw_job).collect();
            utils.add_raw_jobs(&batch).await?;
        }
        Ok(())
    }

    async fn work(&self) -> Result<()> {
        self.options().init().await?.run().await?;
        Ok(())
    }
}

fn raw_job(job: u64) -> RawJobSpec {
    RawJobSpec {
        identifier: Noop::IDENTIFIER.to_owned(),
        payload: serde_json::json!({ "job": job }),
        spec: JobSpec::default(),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    common::run::<GraphileWorker>().await
}
