//! One run of one job, as a list of named steps.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::finish;
use crate::job::{JobId, Outcome};
use crate::lease::Registration;

/// The job is no longer this attempt's: nothing was written, and nothing more may be.
#[derive(Debug, thiserror::Error)]
#[error("job {job_id} is no longer held under fence {fence}")]
pub struct FenceLost {
    /// The job.
    pub job_id: JobId,
    /// The fence this attempt has.
    pub fence: i64,
}

/// What a handler knows of its own attempt, and its way to write.
#[derive(Clone)]
pub struct Attempt {
    /// The job.
    pub job_id: JobId,
    /// What a stale worker lacks.
    pub fence: i64,
    /// The number of this try, from 1.
    pub number: i32,
    /// How many tries the job has.
    pub attempts_max: i32,
    /// The worker that holds the job.
    pub worker_id: i64,
    /// The kind of the job.
    pub kind: String,
    /// The queue it waited in.
    pub queue: String,
    /// The key only this job may have.
    pub unique_key: Option<String>,
    pool: PgPool,
    ends_at: Instant,
    registration: Arc<Registration>,
    cancel: CancellationToken,
    is_completed: Arc<AtomicBool>,
}

impl Attempt {
    /// Opens a transaction that writes only while the job is this attempt's.
    pub async fn begin(&self) -> anyhow::Result<Effects> {
        let mut tx = self.pool.begin().await?;
        let held = sqlx::query_scalar!(
            "select id from queue.jobs where id = $1 and fence = $2 and worker_id = $3 for update",
            self.job_id.0,
            self.fence,
            self.worker_id,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if held.is_none() {
            return Err(self.fence_lost().into());
        }
        Ok(Effects { tx, attempt: self.clone() })
    }

    /// For reads that need no fence.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Until this attempt must not send anything any more: its time is up or its lease can no longer be trusted.
    pub fn time_left(&self) -> Duration {
        if self.cancel.is_cancelled() {
            return Duration::ZERO;
        }
        self.ends_at.saturating_duration_since(Instant::now()).min(self.registration.time_left())
    }

    /// Ends when the attempt should: its lease is lost or the worker stops.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Shows how far the attempt has come.
    pub async fn progress(&self, progress: &Value) -> anyhow::Result<()> {
        let written = sqlx::query!(
            "update queue.jobs set progress = $4 where id = $1 and fence = $2 and worker_id = $3",
            self.job_id.0,
            self.fence,
            self.worker_id,
            progress,
        )
        .execute(&self.pool)
        .await?;
        if written.rows_affected() == 0 {
            return Err(self.fence_lost().into());
        }
        Ok(())
    }

    fn fence_lost(&self) -> FenceLost {
        metrics::counter!(crate::metric::FENCED, "kind" => self.kind.clone()).increment(1);
        FenceLost { job_id: self.job_id, fence: self.fence }
    }
}

/// A transaction of a handler: it began by asserting the fence, and nobody can take the job while it is open.
pub struct Effects {
    tx: Transaction<'static, Postgres>,
    attempt: Attempt,
}

impl Effects {
    /// Commits an intermediate step; the job goes on.
    pub async fn commit(self) -> anyhow::Result<()> {
        Ok(self.tx.commit().await?)
    }

    /// Completes the job in this transaction and commits.
    pub async fn done(self) -> anyhow::Result<Outcome> {
        self.complete(None).await
    }

    /// The same, with a result to keep.
    pub async fn done_with(self, result: Value) -> anyhow::Result<Outcome> {
        self.complete(Some(result)).await
    }

    async fn complete(mut self, result: Option<Value>) -> anyhow::Result<Outcome> {
        let attempt = self.attempt.clone();
        if !finish::complete(&mut self.tx, attempt.claim(), result).await? {
            return Err(attempt.fence_lost().into());
        }
        if let Err(unknown) = self.tx.commit().await {
            // The commit may have happened: the history knows.
            if !finish::is_completed(&attempt.pool, attempt.claim()).await? {
                return Err(unknown.into());
            }
        }
        attempt.is_completed.store(true, Ordering::Release);
        Ok(Outcome::Done)
    }
}

impl Deref for Effects {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for Effects {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

impl Attempt {
    fn claim(&self) -> finish::Held {
        finish::Held { job_id: self.job_id, fence: self.fence, worker_id: self.worker_id }
    }
}
