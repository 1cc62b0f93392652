//! The database of one `up`: a server somebody else runs, or a private cluster in DIR/postgres that is kept running.

use std::time::Duration;

use anyhow::Context;
use private_postgres::{Cluster, Error, Options, Shutdown};
use secrecy::{ExposeSecret, SecretString};

use super::directory::{Directory, Kept};
use super::supervise::Pids;
use crate::settings::{environment, secret};

/// How often it is looked whether the private server lives.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long to wait before another try to start it.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Each process has a pool of connections, and there are eight of them.
const CONNECTIONS_MAX: &str = "200";

/// A server that can be connected to.
#[derive(Debug)]
pub(super) struct Postgres {
    url: SecretString,
    /// The private one; absent for a moment while a thread restarts it.
    cluster: Option<Cluster>,
    pids: Pids,
}

impl Postgres {
    /// The server of DATABASE_URL when that is set, else the private one.
    pub(super) async fn start(directory: &Directory, kept: &mut Kept, pids: Pids) -> anyhow::Result<Postgres> {
        if let Some(url) = secret("DATABASE_URL", &environment)?
            // What an earlier start wrote to DIR/env is not somebody else's server.
            && Some(url.expose_secret()) != kept.private_database_url.as_deref()
        {
            return Ok(Postgres {
                url,
                cluster: None,
                pids,
            });
        }
        let dir = directory.file("postgres");
        let options = |port| {
            let mut options = Options::new(&dir);
            options.port = port;
            options.settings = vec![("max_connections".to_owned(), CONNECTIONS_MAX.to_owned())];
            options
        };
        let (wanted, any) = (options(kept.postgres_port), options(None));
        let cluster = tokio::task::spawn_blocking(move || match Cluster::start(wanted) {
            Err(Error::PortInUse { .. }) => Cluster::start(any),
            started => started,
        })
        .await
        .context("starting PostgreSQL")?
        .context("starting PostgreSQL")?;
        pids.set("postgres", Some(cluster.pid()));
        let url = cluster.url("postgres");
        kept.postgres_port = Some(cluster.port());
        kept.private_database_url = Some(url.clone());
        Ok(Postgres {
            url: url.into(),
            cluster: Some(cluster),
            pids,
        })
    }

    /// Where it is.
    pub(super) fn url(&self) -> &SecretString {
        &self.url
    }

    /// Whether it is ours to start and stop.
    pub(super) fn is_private(&self) -> bool {
        self.cluster.is_some()
    }

    /// Starts the private server again whenever it is gone; never returns.
    pub(super) async fn keep_running(&mut self) {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Some(mut cluster) = self.cluster.take_if(|cluster| !cluster.is_running()) {
                tracing::warn!("PostgreSQL is gone; starting it again");
                let restarted = tokio::task::spawn_blocking(move || {
                    let restarted = cluster.restart(Shutdown::Immediate);
                    (cluster, restarted)
                });
                match restarted.await {
                    Ok((cluster, Ok(()))) => {
                        self.pids.set("postgres", Some(cluster.pid()));
                        self.cluster = Some(cluster);
                    }
                    Ok((cluster, Err(error))) => {
                        tracing::error!(%error, "PostgreSQL cannot be started");
                        self.cluster = Some(cluster);
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                    Err(error) => tracing::error!(%error, "the thread that starts PostgreSQL failed"),
                }
            }
        }
    }

    /// Stops the private server; another is not ours to stop.
    pub(super) async fn stop(self) {
        if let Some(cluster) = self.cluster
            && let Err(error) = tokio::task::spawn_blocking(move || cluster.stop(Shutdown::Fast)).await
        {
            tracing::error!(%error, "stopping PostgreSQL failed");
        }
    }
}
