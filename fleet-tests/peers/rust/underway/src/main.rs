//! underway. It has no batches; a worker takes one task at a time in each of its slots.

use std::sync::Arc;

use common::{Peer, Result};
use jiff::ToSpan;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::OnceCell;
use underway::{Queue, Task, Worker};

const QUEUE: &str = "noop";
/// `Worker::set_concurrency_limit`, whose example has 32.
const CONCURRENCY: usize = 32;
/// `Worker::run_every`: every poll puts one more slot to work, so a full queue is met by all slots within 32 polls.
const POLL_INTERVAL_MS: i64 = 10;
/// Jobs in one `enqueue_multi`, which itself sends them in chunks of 5000.
const BULK: u64 = 50_000;

#[derive(Clone, Serialize, Deserialize)]
struct Input {
    job: u64,
}

struct Noop;

impl Task for Noop {
    type Input = Input;
    type Output = ();

    async fn execute(&self, _transaction: Transaction<'_, Postgres>, input: Input) -> underway::task::Result<()> {
        common::started(input.job);
        Ok(())
    }
}

#[derive(Clone)]
struct Underway {
    pool: PgPool,
    queue: Arc<OnceCell<Arc<Queue<Noop>>>>,
}

impl Underway {
    /// Building a queue writes its row, so it is built once, and after the schema.
    async fn queue(&self) -> Result<Arc<Queue<Noop>>> {
        let build = || Queue::builder().name(QUEUE).pool(self.pool.clone()).build();
        let queue = self
            .queue
            .get_or_try_init(|| async { Ok::<_, underway::queue::Error>(Arc::new(build().await?)) });
        Ok(queue.await?.clone())
    }
}

impl Peer for Underway {
    const NAME: &'static str = "underway";
    const MANIFEST: &'static str = include_str!("../Cargo.toml");
    const UNFINISHED: &'static str = "select exists (select from underway.task where state <> 'succeeded')";
    /// Two for each slot (the fetch and the task's own transaction), and the listeners.
    const WORKER_CONNECTIONS: u32 = 2 * CONCURRENCY as u32 + 2;

    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let options = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections);
        Ok(Underway {
            pool: options.connect(url).await?,
            queue: Arc::default(),
        })
    }

    async fn install(&self) -> Result<()> {
        underway::run_migrations(&self.pool).await?;
        self.queue().await?;
        Ok(())
    }

    async fn enqueue(&self, job: u64) -> Result<()> {
        self.queue().await?.enqueue(&self.pool, &Noop, &Input { job }).await?;
        Ok(())
    }

    async fn enqueue_all(&self, jobs: u64) -> Result<()> {
        let queue = self.queue().await?;
        for first in (0..jobs).step_by(BULK as usize) {
            let inputs: Vec<Input> = (first..jobs.min(first + BULK)).map(|job| Input { job }).collect();
            queue.enqueue_multi(&self.pool, &Noop, &inputs).await?;
        }
        Ok(())
    }

    async fn work(&self) -> Result<()> {
        let mut worker = Worker::new(self.queue().await?, Noop);
        worker.set_concurrency_limit(CONCURRENCY);
        worker.run_every(POLL_INTERVAL_MS.milliseconds()).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    common::run::<Underway>().await
}
