//! Listens, serves, and stops in good order.

use std::sync::Arc;

use anyhow::Context;
use domain::Services;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Config, State, router};

/// Serves on the configured address until told to stop, then lets the requests under way finish.
pub async fn serve(
    config: Config,
    pool: PgPool,
    services: Arc<Services>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listen = config.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}: is another process using the port? choose another with --port")
    })?;
    serve_on(listener, config, pool, services, stop).await
}

/// Serves on a listener that is bound already.
pub async fn serve_on(
    listener: TcpListener,
    config: Config,
    pool: PgPool,
    services: Arc<Services>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let grace = config.shutdown_grace;
    let router = router(State::new(config, pool, services)?);
    tracing::info!(address = %listener.local_addr()?, "serving");
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overtime = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        served = serving.into_future() => served.context("serving HTTP")?,
        () = overtime => tracing::warn!("requests were still under way at the end of the grace period"),
    }
    Ok(())
}
