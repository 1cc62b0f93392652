//! `/metrics`: what this process counted, and how deep every queue was when the fleet last counted.

use std::fmt::Write;
use std::sync::OnceLock;

use axum::extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use queue::inspect::{self, Health, Measure};

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
    gauges(&mut text, &inspect::measured(&mut conn).await?);
    horizon_gauges(&mut text, &inspect::health(&mut conn).await?);
    pool_gauges(&mut text, &state.pool);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

fn gauges(text: &mut String, queues: &[Measure]) {
    head(text, "queue_depth", "Jobs by queue and state.");
    for queue in queues {
        for (state, count) in queue.depths() {
            line(
                text,
                format_args!("queue_depth{{queue={:?},state={state:?}}} {count}", queue.name),
            );
        }
    }
    type Gauge = (&'static str, &'static str, fn(&Measure) -> Option<f64>);
    let gauges: [Gauge; 5] = [
        (
            "queue_oldest_due_seconds",
            "How long the longest-waiting due job has waited.",
            |queue| Some(queue.oldest_due_seconds.unwrap_or(0.0)),
        ),
        (
            "queue_arrived_per_second",
            "Jobs that came in, over the last minute.",
            |queue| queue.arrived_per_second,
        ),
        (
            "queue_completed_per_second",
            "Jobs that ended, over the last minute.",
            |queue| queue.completed_per_second,
        ),
        (
            "queue_drain_seconds",
            "How long what is due takes at that speed, at most a day.",
            |queue| queue.drain_seconds,
        ),
        ("queue_paused", "1 while the queue is paused.", |queue| {
            Some(f64::from(u8::from(queue.is_paused)))
        }),
    ];
    for (name, help, value) in gauges {
        head(text, name, help);
        for queue in queues {
            if let Some(value) = value(queue) {
                line(text, format_args!("{name}{{queue={:?}}} {value}", queue.name));
            }
        }
    }
}

fn horizon_gauges(text: &mut String, health: &Health) {
    head(
        text,
        "queue_horizon_seconds",
        "For how long somebody has kept rows from being cleared away.",
    );
    line(text, format_args!("queue_horizon_seconds {}", health.horizon_seconds()));
}

fn head(text: &mut String, name: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
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
