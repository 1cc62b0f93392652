//! Drops the history of jobs that finished long ago, whole days at a time, and makes the partitions of the days ahead.
//! Running it twice is safe: what is dropped is gone, what is made is there.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Days of history that are kept.
const KEEP_DAYS: i32 = 30;

/// Drops old days of finished jobs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneFinishedJobs {}

impl Job for PruneFinishedJobs {
    type Services = Services;
    const KIND: &'static str = "prune_finished_jobs";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        // Both need the whole table for a moment; who waits for it must not make everybody else wait.
        sqlx::query!("select set_config('lock_timeout', '2s', true)")
            .fetch_one(&mut *tx)
            .await?;
        let made = sqlx::query_scalar!(r#"select queue.ensure_partitions() as "made!""#)
            .fetch_one(&mut *tx)
            .await?;
        let dropped = sqlx::query_scalar!(r#"select queue.drop_partitions($1) as "dropped!""#, KEEP_DAYS)
            .fetch_one(&mut *tx)
            .await?;
        tx.done_with(json!({ "days_made": made, "days_dropped": dropped }))
            .await
    }
}
