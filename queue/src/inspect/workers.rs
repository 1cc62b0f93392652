//! Worker processes, and what was set for their pools.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

/// A worker process at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The queues it serves.
    pub pools: Vec<String>,
    /// Its build.
    pub build: String,
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: i32,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    pub beat_at: DateTime<Utc>,
    /// Until when it is believed to live.
    pub lease_until: DateTime<Utc>,
    /// Whether it is on its way out.
    pub stopping: bool,
    /// How many jobs it holds.
    pub running: i64,
}

/// The worker processes.
pub async fn workers(conn: &mut PgConnection) -> sqlx::Result<Vec<WorkerView>> {
    sqlx::query_as!(
        WorkerView,
        r#"select w.id, w.name, w.pools, w.build, w.host, w.pid, w.started_at, w.beat_at, w.lease_until, w.stopping,
                  (select coalesce(sum(c.size - (select count(*) from queue.ended e where e.claim_id = c.id)), 0)
                   from queue.claims c where c.worker_id = w.id)::bigint as "running!"
           from queue.workers w
           order by w.id"#
    )
    .fetch_all(conn)
    .await
}

/// What was set for a pool since its processes were started.
#[derive(Clone, Debug, Serialize)]
pub struct PoolSettingsView {
    /// The pool.
    pub pool: String,
    /// How many jobs it runs at once in each process.
    pub slots: i32,
    /// Who set it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub changed_at: DateTime<Utc>,
}

/// The pools whose slots were changed.
pub async fn pool_settings(conn: &mut PgConnection) -> sqlx::Result<Vec<PoolSettingsView>> {
    sqlx::query_as!(
        PoolSettingsView,
        "select pool, slots, actor, reason, changed_at from queue.pool_settings order by pool"
    )
    .fetch_all(conn)
    .await
}
