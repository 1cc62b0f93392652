//! awa. The settings follow its docs/configuration.md ("Hot-Queue Claim Control", "Sharding the enqueue head per
//! queue") and docs/benchmarking.md, which give them for queues of no-op jobs.

use std::time::Duration;

use awa::model::insert::params_with;
use awa::{
    AwaError, Client, InsertOpts, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig, insert_with,
    migrations,
};
use common::{Peer, Result};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const QUEUE: &str = "noop";
/// "The 10k/s offered-rate reference shape needs 1,024 in-flight worker permits"; it also selects four completion
/// shards.
const MAX_WORKERS: u32 = 1024;
/// The polling of the project's own benchmarks; notifications wake the worker sooner.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// "For extreme single-queue workloads, raise `enqueue_shards` first."
const ENQUEUE_SHARDS: i16 = 4;
/// The first jobs of a queue can collide when they create its sequences; a transaction that lost is sent again.
const ATTEMPTS: usize = 5;
/// Jobs in one `enqueue_params_copy`, for "high-volume queue-storage producers" (`insert_many_copy`).
const BULK: u64 = 5_000;

#[derive(Serialize, Deserialize)]
struct Noop {
    job: u64,
}

impl JobArgs for Noop {
    fn kind() -> &'static str {
        "noop"
    }
}

#[derive(Clone)]
struct Awa {
    pool: PgPool,
}

impl Awa {
    fn client(&self) -> Result<Client> {
        let queue = QueueConfig {
            max_workers: MAX_WORKERS,
            poll_interval: POLL_INTERVAL,
            // The compact claim of `QueueStorageConfig::lease_claim_receipts` is for jobs without a deadline;
            // heartbeats still rescue them.
            deadline_duration: Duration::ZERO,
            ..QueueConfig::default()
        };
        let client = Client::builder(self.pool.clone())
            .queue(QUEUE, queue)
            .register::<Noop, _, _>(|noop, _context| async move {
                common::started(noop.job);
                Ok(JobResult::Completed)
            })
            .build()?;
        Ok(client)
    }
}

fn opts() -> InsertOpts {
    InsertOpts {
        queue: QUEUE.to_owned(),
        ..InsertOpts::default()
    }
}

impl Peer for Awa {
    const NAME: &'static str = "awa";
    const MANIFEST: &'static str = include_str!("../Cargo.toml");
    /// The exact count of finished jobs, as `QueueStorage::queue_counts` makes it.
    const UNFINISHED: &'static str = "select :jobs > \
        (select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches) \
        + (select coalesce(sum(live_terminal_count), 0) from awa.queue_terminal_live_counts) \
        + (select coalesce(sum(terminal_delta), 0) from awa.queue_terminal_count_deltas) \
        + (select coalesce(sum(pruned_completed_count), 0) from awa.queue_terminal_rollups)";
    /// The pool of the project's own offered-rate benchmark.
    const WORKER_CONNECTIONS: u32 = 24;

    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let options = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections.max(4));
        Ok(Awa {
            pool: options.connect(url).await?,
        })
    }

    /// A first start makes queue storage the engine of an empty database.
    async fn install(&self) -> Result<()> {
        migrations::run(&self.pool).await?;
        let client = self.client()?;
        client.start().await?;
        client.shutdown(Duration::from_secs(5)).await;
        sqlx::query(
            "insert into awa.queue_meta (queue, enqueue_shards)
             values ($1, $2)
             on conflict (queue) do update set enqueue_shards = excluded.enqueue_shards",
        )
        .bind(QUEUE)
        .bind(ENQUEUE_SHARDS)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn enqueue(&self, job: u64) -> Result<()> {
        for _ in 1..ATTEMPTS {
            match insert_with(&self.pool, &Noop { job }, opts()).await {
                Err(AwaError::UniqueConflict { .. }) => continue,
                sent => return Ok(sent.map(drop)?),
            }
        }
        insert_with(&self.pool, &Noop { job }, opts()).await?;
        Ok(())
    }

    async fn enqueue_all(&self, jobs: u64) -> Result<()> {
        let storage = QueueStorage::new(QueueStorageConfig::default())?;
        for first in (0..jobs).step_by(BULK as usize) {
            let mut batch = Vec::new();
            for job in first..jobs.min(first + BULK) {
                batch.push(params_with(&Noop { job }, opts())?);
            }
            storage.enqueue_params_copy(&self.pool, &batch).await?;
        }
        Ok(())
    }

    async fn work(&self) -> Result<()> {
        let client = self.client()?;
        client.start().await?;
        std::future::pending().await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    common::run::<Awa>().await
}
