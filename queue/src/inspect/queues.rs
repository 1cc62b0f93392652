//! Queues at a glance, counted now or as last measured.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::health::health;
use crate::{limit, metric};

/// A pause and its reason.
#[derive(Clone, Debug, Serialize)]
pub struct PauseView {
    /// Why.
    pub reason: String,
    /// By whom.
    pub actor: String,
    /// Since when.
    pub paused_at: DateTime<Utc>,
}

/// A line of jobs at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Due and waiting.
    pub available: i64,
    /// Due later, never tried.
    pub scheduled: i64,
    /// Due later, after a failure.
    pub retryable: i64,
    /// Held by a worker.
    pub running: i64,
    /// Given up.
    pub dead: i64,
    /// How long the longest-waiting due job has waited.
    pub oldest_due_seconds: Option<f64>,
    /// Jobs that came in, a second, in the last minute; none before the second measure.
    pub arrived_per_second: Option<f64>,
    /// Jobs that ended, a second, in the last minute; kinds that are not remembered do not count.
    pub completed_per_second: Option<f64>,
    /// How long what is due takes at that speed, at most a day.
    pub drain_seconds: Option<f64>,
    /// The pause, if there is one.
    pub paused: Option<PauseView>,
    /// The kinds of this queue that are paused.
    pub paused_kinds: Vec<String>,
}

/// Every queue that has jobs, dead letters, a worker or a pause, counted now; its speed is that of the last measure.
pub async fn queues(conn: &mut PgConnection) -> sqlx::Result<Vec<QueueView>> {
    let rows = sqlx::query!(
        r#"select n.queue as "name!", n.available as "available!", n.scheduled as "scheduled!", n.retryable as "retryable!",
                  n.running as "running!", n.dead as "dead!", n.oldest_due_seconds,
                  v.arrived_per_second, v.completed_per_second, v.drain_seconds,
                  p.reason as "reason?", p.actor as "actor?", p.paused_at as "paused_at?",
                  array(select k.name from queue.pauses k where k.target = 'kind' and exists (
                      select from queue.jobs j where j.kind = k.name and j.queue = n.queue) order by k.name) as "paused_kinds!"
           from queue.count_jobs() n
           left join queue.rates v using (queue)
           left join queue.pauses p on p.target = 'queue' and p.name = n.queue
           order by n.queue"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| QueueView {
            name: row.name,
            available: row.available,
            scheduled: row.scheduled,
            retryable: row.retryable,
            running: row.running,
            dead: row.dead,
            oldest_due_seconds: row.oldest_due_seconds,
            arrived_per_second: row.arrived_per_second,
            completed_per_second: row.completed_per_second,
            drain_seconds: row.drain_seconds,
            paused: match (row.reason, row.actor, row.paused_at) {
                (Some(reason), Some(actor), Some(paused_at)) => Some(PauseView {
                    reason,
                    actor,
                    paused_at,
                }),
                _ => None,
            },
            paused_kinds: row.paused_kinds,
        })
        .collect())
}

/// A queue as it was last measured: one process at a time counts for the whole fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// Due and waiting.
    pub available: i64,
    /// Due later, never tried.
    pub scheduled: i64,
    /// Due later, after a failure.
    pub retryable: i64,
    /// Held by a worker.
    pub running: i64,
    /// Given up.
    pub dead: i64,
    /// How long the longest-waiting due job has waited.
    pub oldest_due_seconds: Option<f64>,
    /// Jobs that came in, a second, in the last minute.
    pub arrived_per_second: Option<f64>,
    /// Jobs that ended, a second, in the last minute.
    pub completed_per_second: Option<f64>,
    /// How long what is due takes at that speed, at most a day.
    pub drain_seconds: Option<f64>,
    /// Whether it is paused now.
    pub is_paused: bool,
}

impl Measure {
    /// The counts by state, as the gauge of the depth has them.
    pub fn depths(&self) -> [(&'static str, i64); 5] {
        [
            ("available", self.available),
            ("scheduled", self.scheduled),
            ("retryable", self.retryable),
            ("running", self.running),
            ("dead", self.dead),
        ]
    }
}

/// The last measure of every queue; measures first when that is due and nobody else does. Counting takes at most a fiftieth of the
/// fleet's time, however long the line is.
pub async fn measured(conn: &mut PgConnection) -> sqlx::Result<Vec<Measure>> {
    sqlx::query!("select queue.measure()").fetch_one(&mut *conn).await?;
    sqlx::query_as!(
        Measure,
        r#"select queue as "name!", available as "available!", scheduled as "scheduled!", retryable as "retryable!",
                  running as "running!", dead as "dead!", oldest_due_seconds, arrived_per_second, completed_per_second,
                  drain_seconds,
                  exists (select from queue.pauses p where p.target = 'queue' and p.name = queue) as "is_paused!"
           from queue.rates
           order by queue"#
    )
    .fetch_all(conn)
    .await
}

/// The same as gauges, with the tables and their horizon.
pub async fn publish_gauges(conn: &mut PgConnection) -> sqlx::Result<()> {
    for queue in measured(&mut *conn).await? {
        for (state, count) in queue.depths() {
            metrics::gauge!(metric::DEPTH, "queue" => queue.name.clone(), "state" => state).set(count as f64);
        }
        let oldest = queue.oldest_due_seconds.unwrap_or(0.0);
        metrics::gauge!(metric::OLDEST_DUE_SECONDS, "queue" => queue.name.clone()).set(oldest);
        let speeds = [
            (metric::ARRIVED_PER_SECOND, queue.arrived_per_second),
            (metric::COMPLETED_PER_SECOND, queue.completed_per_second),
            (metric::DRAIN_SECONDS, queue.drain_seconds),
        ];
        for (name, value) in speeds {
            if let Some(value) = value {
                metrics::gauge!(name, "queue" => queue.name.clone()).set(value);
            }
        }
    }
    limit::publish_gauges(&mut *conn).await?;
    let health = health(conn).await?;
    metrics::gauge!(metric::HORIZON_SECONDS).set(health.horizon_seconds());
    for table in health.tables {
        metrics::gauge!(metric::TABLE_DEAD_ROWS, "table" => table.name.clone()).set(table.dead_rows as f64);
        metrics::gauge!(metric::TABLE_BYTES, "table" => table.name).set(table.bytes as f64);
    }
    Ok(())
}
