//! apalis with its PostgreSQL storage. The settings are those of its examples/basic.rs (bigger batches, no separate
//! lock of each task, since a fetch locks the batch already, and parallel handlers) and examples/pubsub.rs (woken by
//! notifications, and by an interval).

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use common::{Peer, Result};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const QUEUE: &str = "noop";
/// `Config::batch_size`: "larger batches can improve throughput by reducing the number of queue operations".
const BATCH_SIZE: usize = 2_000;
/// Workers in one process: a worker fetches, runs and acknowledges its batch in turn, and a second one fills the gaps.
const WORKERS: u32 = 2;
/// `poll_with_interval`, as in examples/pubsub.rs, but shorter: the last acknowledgements of a drain are written only
/// when something wakes the worker, and without an interval that is its next heartbeat.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Jobs in one `push_tasks`, the bulk insert of the README's pubsub example.
const BULK: u64 = 5_000;

#[derive(Clone)]
struct Apalis {
    pool: PgPool,
}

impl Apalis {
    fn storage(&self) -> PostgresStorage<u64> {
        let config = Config::default().queue(QUEUE).batch_size(BATCH_SIZE).lock_tasks(false);
        PostgresStorage::new(&self.pool).with_config(config)
    }
}

async fn noop(job: u64) -> std::result::Result<(), BoxDynError> {
    common::started(job);
    Ok(())
}

impl Peer for Apalis {
    const NAME: &'static str = "apalis-postgres";
    const MANIFEST: &'static str = include_str!("../Cargo.toml");
    const UNFINISHED: &'static str = "select exists (select from apalis.jobs where status <> 'Done')";
    /// A fetching and a listening connection for each worker.
    const WORKER_CONNECTIONS: u32 = 2 * WORKERS;

    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let options = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections);
        Ok(Apalis {
            pool: options.connect(url).await?,
        })
    }

    async fn install(&self) -> Result<()> {
        PostgresStorage::setup(&self.pool).await?;
        Ok(())
    }

    async fn enqueue(&self, job: u64) -> Result<()> {
        self.storage().push(job).await?;
        Ok(())
    }

    async fn enqueue_all(&self, jobs: u64) -> Result<()> {
        for first in (0..jobs).step_by(BULK as usize) {
            let tasks =
                (first..jobs.min(first + BULK)).map(|job| TaskBuilder::new(job.to_string().into_bytes()).build());
            let mut transaction = self.pool.begin().await?;
            apalis_postgres::queries::push_tasks(&mut *transaction, QUEUE, tasks.collect()).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    async fn work(&self) -> Result<()> {
        let mut workers = tokio::task::JoinSet::new();
        for number in 0..WORKERS {
            let worker = WorkerBuilder::new(format!("{}-{number}", std::process::id()))
                .backend(self.storage().with_pubsub().poll_with_interval(POLL_INTERVAL))
                .parallelize(tokio::spawn)
                .build(noop);
            workers.spawn(worker.run());
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    common::run::<Apalis>().await
}
