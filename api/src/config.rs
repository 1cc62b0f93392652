//! What the HTTP process is told at its start.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use crate::paging::CursorKey;

/// The settings of the HTTP process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What cursors are signed with; the same in all processes of an installation.
    pub cursor_key: CursorKey,
    /// How many requests are served at once; more are told to come back.
    pub requests_max: usize,
    /// How long one request may take, besides what it prefers to wait.
    pub request_timeout: Duration,
    /// What the payment gateway signs its webhooks with: every secret in use. Without any its webhooks are refused.
    pub gateway_webhook_secrets: Vec<SecretString>,
    /// How long requests may go on once the process is told to stop.
    pub shutdown_grace: Duration,
}

impl Config {
    /// That address and key, and the defaults.
    pub fn new(listen: SocketAddr, cursor_key: CursorKey) -> Config {
        Config {
            listen,
            cursor_key,
            requests_max: 512,
            request_timeout: Duration::from_secs(10),
            gateway_webhook_secrets: Vec::new(),
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

/// The connections requests are served with: none waits long for anything, so that trouble is told, not queued.
pub fn pool(options: PgConnectOptions, connections_max: u32) -> PgPool {
    let options = options.application_name("orderfleet-api").options([
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "15s"),
    ]);
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy_with(options)
}
