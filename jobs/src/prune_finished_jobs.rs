//! Drops the history of jobs that finished more than `history_days` ago, whole days at a time, with their logs, and makes the partitions of the
//! days ahead. Running it twice is safe: what is dropped is gone, what is made is there.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::in_steps::{ROWS_MAX, in_steps};

/// Drops old days of finished jobs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneFinishedJobs {}

impl Job for PruneFinishedJobs {
    type Services = Services;
    const KIND: &'static str = "prune_finished_jobs";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let keep_days = i32::from(services.settings.history_days);
        let mut tx = attempt.begin().await?;
        // Both need the whole table for a moment; who waits for it must not make everybody else wait.
        sqlx::query!("select set_config('lock_timeout', '2s', true)")
            .fetch_one(&mut *tx)
            .await?;
        let made = sqlx::query_scalar!(r#"select queue.ensure_partitions() as "made!""#)
            .fetch_one(&mut *tx)
            .await?;
        let dropped = sqlx::query_scalar!(r#"select queue.drop_partitions($1) as "dropped!""#, keep_days)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        let logs_pruned = in_steps(attempt, async move |conn| prune_logs(conn, keep_days).await).await?;
        let tx = attempt.begin().await?;
        tx.done_with(json!({ "days_made": made, "days_dropped": dropped, "logs_pruned": logs_pruned }))
            .await
    }
}

/// Deletes logs of jobs that nobody knows any more.
async fn prune_logs(conn: &mut PgConnection, keep_days: i32) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "delete from queue.logs
         where job_id in (
             select l.job_id
             from queue.logs l
             where l.at < clock_timestamp() - make_interval(days => $1)
               and not exists (select from queue.jobs j where j.id = l.job_id)
               and l.job_id <> all(array(select r.id from queue.running_jobs r))
               and not exists (select from queue.dead_letters d where d.id = l.job_id)
               and not exists (select from queue.finished_jobs f where f.id = l.job_id)
             order by l.at
             limit $2
             for update skip locked
         )",
        keep_days,
        ROWS_MAX,
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}
