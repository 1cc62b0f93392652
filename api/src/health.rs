//! For probes: `/livez` says that the process answers, `/readyz` that it can do its work.

use std::time::Duration;

use axum::extract;
use axum::http::StatusCode;
use serde::Serialize;

use crate::State;
use crate::answer::Answer;

const CHECK_TIME_MAX: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Report {
    status: &'static str,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// The database answers, its schema is this build's, and the queue can be reached.
pub(crate) async fn ready(extract::State(state): extract::State<State>) -> Answer {
    let checks = vec![
        check("database", database(&state)).await,
        check("migrations", migrations(&state)).await,
        check("queue", queue(&state)).await,
    ];
    let is_ready = checks.iter().all(|check| check.ok);
    let (code, status) = match is_ready {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    Answer::json(code, &Report { status, checks })
}

async fn check(name: &'static str, work: impl Future<Output = Result<(), String>>) -> Check {
    let outcome = tokio::time::timeout(CHECK_TIME_MAX, work).await;
    let detail = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(detail)) => Some(detail),
        Err(_) => Some("did not answer in time".to_owned()),
    };
    Check {
        name,
        ok: detail.is_none(),
        detail,
    }
}

async fn database(state: &State) -> Result<(), String> {
    let answer = sqlx::query_scalar!("select 1 as \"one!\"").fetch_one(&state.pool).await;
    answer.map(drop).map_err(said("cannot be reached"))
}

async fn migrations(state: &State) -> Result<(), String> {
    let applied: Vec<(i64, bool)> = sqlx::query_as("select version, success from _sqlx_migrations order by version")
        .fetch_all(&state.pool)
        .await
        .map_err(said("were never run: run `orderfleet migrate`"))?;
    let is_applied = |version: i64| applied.iter().any(|(found, success)| *found == version && *success);
    let pending = domain::schema::MIGRATOR
        .iter()
        .filter(|known| !is_applied(known.version))
        .count();
    match pending {
        0 => Ok(()),
        pending => Err(format!("{pending} pending: run `orderfleet migrate`")),
    }
}

async fn queue(state: &State) -> Result<(), String> {
    let mut conn = state.pool.acquire().await.map_err(said("cannot be reached"))?;
    queue::inspect::workers(&mut conn)
        .await
        .map(drop)
        .map_err(said("cannot be read"))
}

/// Callers learn what, the log learns why.
fn said(what: &'static str) -> impl FnOnce(sqlx::Error) -> String {
    move |error| {
        tracing::warn!(error = %error, "not ready: {what}");
        what.to_owned()
    }
}
