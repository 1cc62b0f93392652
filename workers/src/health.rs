//! What the orchestrator asks: `/livez`, `/readyz`, `/metrics`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::site::Site;

/// Answers until the process has stopped; a port that is taken is logged, and the worker works on.
pub(crate) async fn serve<S: Send + Sync + 'static>(listen: SocketAddr, site: Arc<Site<S>>) {
    let listener = match tokio::net::TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%listen, "cannot answer health checks: {error}");
            return;
        }
    };
    let recorder = recorder();
    if let Some(recorder) = recorder {
        tokio::spawn(upkeep(recorder.clone(), site.ended.clone()));
    }
    let ended = site.ended.clone();
    let router = Router::new()
        .route("/livez", get(|| async { "alive" }))
        .route("/readyz", get(ready::<S>))
        .route(
            "/metrics",
            get(move || async move { recorder.map(PrometheusHandle::render).unwrap_or_default() }),
        )
        .with_state(site);
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(ended.cancelled_owned())
        .await
    {
        tracing::error!("health checks ended: {error}");
    }
}

async fn ready<S: Send + Sync + 'static>(State(site): State<Arc<Site<S>>>) -> (StatusCode, &'static str) {
    if site.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    match site.current() {
        Some(registration) if !registration.time_left().is_zero() => (StatusCode::OK, "ready"),
        Some(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the lease has run out: no contact with the database",
        ),
        None => (StatusCode::SERVICE_UNAVAILABLE, "not registered yet"),
    }
}

/// The process's metrics; none when somebody else records them.
fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .as_ref()
}

/// Histograms grow until somebody drains them.
async fn upkeep(recorder: PrometheusHandle, ended: tokio_util::sync::CancellationToken) {
    while !ended.is_cancelled() {
        recorder.run_upkeep();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = ended.cancelled() => {}
        }
    }
}
