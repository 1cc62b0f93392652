//! A worker in the test's own process.

use std::sync::Arc;
use std::time::Duration;

use queue::Job;
use queue::inspect::NotIdle;
use sqlx::PgPool;
use testkit::Database;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use workers::{Config, Defaults};

use crate::kinds::*;

pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

pub(crate) fn config(pools: &[&str], slots: usize) -> Config {
    Config {
        name: "test".to_owned(),
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
        slots,
        lease: Duration::from_secs(15),
        shutdown_grace: Duration::from_secs(10),
        build: "test".to_owned(),
        health: None,
        poll_only: false,
    }
}

pub(crate) fn start(db: &Database, config: Config, world: &Arc<World>) -> Running {
    start_at(&db.url, config, world)
}

pub(crate) fn start_at(url: &str, config: Config, world: &Arc<World>) -> Running {
    start_with(url, config, Defaults::default(), world)
}

pub(crate) fn start_with(url: &str, config: Config, defaults: Defaults, world: &Arc<World>) -> Running {
    let stop = CancellationToken::new();
    let database = url.parse().unwrap();
    let run = workers::run_with(config, database, catalogue(), defaults, Arc::clone(world), stop.clone());
    Running {
        stop,
        task: tokio::spawn(run),
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) async fn enqueue<J: Job + Clone>(pool: &PgPool, job: J, count: usize) {
    let jobs = vec![job; count];
    queue::enqueue_many(&mut pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
}

pub(crate) async fn not_idle(pool: &PgPool) -> NotIdle {
    queue::inspect::not_idle(&mut pool.acquire().await.unwrap())
        .await
        .unwrap()
}

pub(crate) async fn workers(pool: &PgPool) -> usize {
    queue::inspect::workers(&mut pool.acquire().await.unwrap())
        .await
        .unwrap()
        .len()
}
