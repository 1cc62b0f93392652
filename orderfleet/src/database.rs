//! Connecting, with errors that say what to do.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::settings::{environment, required_secret};

/// How long a process waits for a server that is starting or restarting, before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often it asks meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// DATABASE_URL, from the environment or a file.
pub fn url() -> anyhow::Result<SecretString> {
    required_secret(
        "DATABASE_URL",
        "source the env file of a running `orderfleet up` (`. DIR/env`), or set it to postgres://USER:PASSWORD@HOST/DATABASE",
        &environment,
    )
}

/// How to connect; `name` is what the server lists the connection under.
pub fn options(url: &SecretString, name: &str) -> anyhow::Result<PgConnectOptions> {
    // The parser's own error may repeat the URL, and the password with it.
    let refusal = || anyhow!("DATABASE_URL is not a URL of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    let url = url.expose_secret();
    // The parser would take anything after a colon, and look for a server on this machine.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(refusal());
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| refusal())?;
    // A statement is no news, however slow: a migration is a screenful, and the server has its own log of slow ones.
    Ok(options.application_name(name).disable_statement_logging())
}

/// One connection, for a command that asks a few questions.
pub async fn connect(name: &str) -> anyhow::Result<PgConnection> {
    let options = options(&url()?, name)?;
    PgConnection::connect_with(&options)
        .await
        .map_err(|error| explain(error, &options))
}

/// A pool, once the server answers; a server that is restarting is waited for.
pub async fn pool(name: &str, connections: u32) -> anyhow::Result<PgPool> {
    let options = options(&url()?, name)?;
    wait_for(&options, PATIENCE).await?;
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options.clone())
        .await
        .map_err(|error| explain(error, &options))
}

/// Returns once the server answers, however often it refused before; a wrong password or name is told at once.
pub async fn wait_for(options: &PgConnectOptions, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match PgConnection::connect_with(options).await {
            Ok(conn) => return conn.close().await.context("closing a connection"),
            Err(error) if is_temporary(&error) && started.elapsed() < patience => tokio::time::sleep(ASK_AGAIN).await,
            Err(error) => return Err(explain(error, options)),
        }
    }
}

/// Whether the server may answer a little later: it is down, starting, stopping, or full.
fn is_temporary(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("57P") || code.starts_with("53")),
        _ => false,
    }
}

/// What went wrong and what to do, without the password.
pub fn explain(error: sqlx::Error, options: &PgConnectOptions) -> anyhow::Error {
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or(options.get_username());
    let hint = match &error {
        sqlx::Error::Io(_) => format!("no PostgreSQL answers at {place}: start it, or correct DATABASE_URL"),
        sqlx::Error::Database(refusal) => match refusal.code().as_deref() {
            Some("28P01" | "28000") => {
                format!(
                    "PostgreSQL at {place} refuses user {}: correct the name or password in DATABASE_URL",
                    options.get_username()
                )
            }
            Some("3D000") => format!(
                "PostgreSQL at {place} has no database {database}: create it (`createdb {database}`), or correct DATABASE_URL"
            ),
            Some("53300") => {
                format!("PostgreSQL at {place} has no connection left: raise max_connections, or run fewer processes")
            }
            Some("53100") => format!("the disk of PostgreSQL at {place} is full: free some space"),
            Some("57P03") => format!("PostgreSQL at {place} is still starting or recovering: try again in a moment"),
            _ => format!("PostgreSQL at {place} refuses"),
        },
        sqlx::Error::Tls(_) => {
            format!("no TLS with PostgreSQL at {place}: check sslmode and certificates in DATABASE_URL")
        }
        _ => format!("connecting to PostgreSQL at {place}"),
    };
    anyhow::Error::new(error).context(hint)
}
