//! Deletes unique keys of jobs that ended long ago, so that they may be used again, and keys whose time is over. Running it
//! twice is safe: it deletes only keys that are free anyway, or whose job has neither to run nor to be redriven.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::in_steps::{ROWS_MAX, in_steps};

/// Days for which a kept key still refuses a second job.
const KEEP_DAYS: i32 = 30;

/// Deletes unique keys of jobs long finished.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneUniqueKeys {}

impl Job for PruneUniqueKeys {
    type Services = Services;
    const KIND: &'static str = "prune_unique_keys";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let past = in_steps(attempt, prune_past).await?;
        let pruned = past + in_steps(attempt, prune_kept).await?;
        attempt.begin().await?.done_with(json!({ "pruned": pruned })).await
    }
}

/// Keys that were taken for a time, which is over.
async fn prune_past(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "delete from queue.unique_keys
         where (kind, key) in (
             select u.kind, u.key from queue.unique_keys u
             where u.expires_at < clock_timestamp()
             order by u.expires_at
             limit $1
             for update skip locked
         )",
        ROWS_MAX,
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}

/// Keys kept for ever, of jobs that ended long ago and can come back no more.
async fn prune_kept(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "delete from queue.unique_keys
         where (kind, key) in (
             select u.kind, u.key
             from queue.unique_keys u
             where u.created_at < clock_timestamp() - make_interval(days => $1)
               and u.expires_at is null
               and not exists (select from queue.jobs j where j.id = u.job_id)
               and u.job_id <> all(array(select r.id from queue.running_jobs r))
               and not exists (select from queue.dead_letters d where d.id = u.job_id)
             order by u.created_at
             limit $2
             for update skip locked
         )",
        KEEP_DAYS,
        ROWS_MAX,
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}
