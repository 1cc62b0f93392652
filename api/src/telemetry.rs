//! `/metrics`: what this process counted, and how deep every queue is right now.

use std::fmt::Write;
use std::sync::OnceLock;

use axum::extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use queue::inspect::QueueView;

use crate::State;
use crate::problem::Problem;

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Makes this process count; once is enough. Counts nothing when another recorder was there first.
pub(crate) fn install() -> Option<PrometheusHandle> {
    let install = || {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let buckets = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &buckets)
            .ok()?;
        builder.install_recorder().ok()
    };
    RECORDER.get_or_init(install).clone()
}

/// The text Prometheus reads.
pub(crate) async fn scrape(extract::State(state): extract::State<State>) -> Result<impl IntoResponse, Problem> {
    let mut text = String::new();
    if let Some(recorder) = install() {
        recorder.run_upkeep();
        text.push_str(&recorder.render());
    }
    let mut conn = state.pool.acquire().await?;
    let queues = queue::inspect::queues(&mut conn).await?;
    gauges(&mut text, &queues);
    pool_gauges(&mut text, &state.pool);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

fn gauges(text: &mut String, queues: &[QueueView]) {
    text.push_str("# HELP queue_depth Jobs by queue and state.\n# TYPE queue_depth gauge\n");
    for queue in queues {
        let states = [
            ("available", queue.available),
            ("scheduled", queue.scheduled),
            ("retryable", queue.retryable),
            ("running", queue.running),
            ("dead", queue.dead),
        ];
        for (state, count) in states {
            line(
                text,
                format_args!("queue_depth{{queue={:?},state={state:?}}} {count}", queue.name),
            );
        }
    }
    text.push_str(
        "# HELP queue_oldest_due_seconds How long the longest-waiting due job has waited.\n\
         # TYPE queue_oldest_due_seconds gauge\n",
    );
    for queue in queues {
        let age = queue.oldest_due_seconds.unwrap_or(0.0);
        line(
            text,
            format_args!("queue_oldest_due_seconds{{queue={:?}}} {age}", queue.name),
        );
    }
    text.push_str("# HELP queue_paused 1 while the queue is paused.\n# TYPE queue_paused gauge\n");
    for queue in queues {
        let paused = i32::from(queue.paused.is_some());
        line(text, format_args!("queue_paused{{queue={:?}}} {paused}", queue.name));
    }
}

fn pool_gauges(text: &mut String, pool: &sqlx::PgPool) {
    text.push_str("# HELP db_connections Connections of this process.\n# TYPE db_connections gauge\n");
    let idle = pool.num_idle();
    let used = (pool.size() as usize).saturating_sub(idle);
    line(text, format_args!("db_connections{{state=\"idle\"}} {idle}"));
    line(text, format_args!("db_connections{{state=\"used\"}} {used}"));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
