//! The ways out of an attempt. Every statement names the job, the fence and the worker, so a late one changes nothing.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::job::JobId;

/// What a writer must hold.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The job.
    pub job_id: JobId,
    /// The fence of the claim.
    pub fence: i64,
    /// The worker that claimed it.
    pub worker_id: i64,
}

/// Moves the job into the history and frees its live key; false when it is no longer held.
pub async fn complete(conn: &mut PgConnection, held: Held, result: Option<Value>) -> sqlx::Result<bool> {
    let moved = sqlx::query!(
        "with done as (
             delete from queue.jobs where id = $1 and fence = $2 and worker_id = $3 returning *
         ), freed as (
             delete from queue.unique_keys u using done where u.job_id = done.id and u.scope = 'live'
         )
         insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                          group_key, worker_id, result, failures, created_at, claimed_at)
         select id, queue, kind, args_version, args, 'completed', fence, attempt, unique_key,
                group_key, worker_id, $4, failures, created_at, claimed_at
         from done",
        held.job_id.0,
        held.fence,
        held.worker_id,
        result,
    )
    .execute(conn)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// Whether the job was completed under this fence.
pub async fn is_completed(pool: &PgPool, held: Held) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        "select id from queue.finished_jobs where id = $1 and fence = $2 limit 1",
        held.job_id.0,
        held.fence
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.is_some())
}
