//! The worker process: pools of slots over the queue, and everything that keeps them honest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

/// How a worker process is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the process, for people.
    pub name: String,
    /// The queues it serves.
    pub pools: Vec<String>,
    /// How many jobs of each pool run at once.
    pub slots: usize,
    /// How long a silent worker is believed to live.
    pub lease: Duration,
    /// How long jobs in flight may take to end when the process is asked to stop.
    pub shutdown_grace: Duration,
    /// The build, for the reports.
    pub build: String,
    /// Where /livez, /readyz and /metrics are served.
    pub health: Option<SocketAddr>,
}

/// Serves the pools until `stop` is cancelled.
pub async fn run(
    _config: Config,
    _database: PgConnectOptions,
    _services: Arc<domain::Services>,
    _stop: CancellationToken,
) -> anyhow::Result<()> {
    todo!()
}
