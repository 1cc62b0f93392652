//! What a handler sees of its own run: the job it holds, and its fenced way to write. It has no other: what it may read
//! without the fence, it reads where PostgreSQL refuses to write.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::catalogue::KindInfo;
use crate::claim::Claimed;
use crate::finish::{self, Held};
use crate::job::{JobId, Outcome};
use crate::lease::Registration;
use crate::runner::{Runner, Settled};
use crate::trace::TraceContext;

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
    pub kind: &'static str,
    /// The queue it waited in.
    pub queue: Arc<str>,
    /// The key only this job may have.
    pub unique_key: Option<String>,
    /// Its place in the trace it belongs to: what a handler enqueues follows it. A handler of many jobs sets the scope of
    /// each itself (see [`crate::trace::scope`]).
    pub trace: TraceContext,
    pub(crate) pool: PgPool,
    ends_at: Instant,
    registration: Arc<Registration>,
    stop: CancellationToken,
    so_far: Arc<SoFar>,
    pub(crate) held: Held,
}

/// What an attempt has done, known to all its clones.
#[derive(Default)]
struct SoFar {
    ended: OnceLock<Settled>,
    has_read: AtomicBool,
}

impl Attempt {
    /// Opens a transaction that writes only while the job is this attempt's.
    pub async fn begin(&self) -> anyhow::Result<Effects> {
        let mut tx = self.pool.begin().await?;
        let is_held = sqlx::query_scalar!(
            r#"select queue.hold($1, $2, $3) as "held!""#,
            self.held.claim_id,
            self.job_id.0,
            self.worker_id,
        )
        .fetch_one(&mut *tx)
        .await?;
        if !is_held {
            return Err(self.fence_lost().into());
        }
        Ok(Effects {
            tx,
            attempt: self.clone(),
        })
    }

    /// How a transaction of the handler has ended the job, if one has.
    pub(crate) fn ended(&self) -> Option<Settled> {
        self.so_far.ended.get().copied()
    }

    /// Whether it has opened a transaction in which no write is allowed.
    pub(crate) fn has_read(&self) -> bool {
        self.so_far.has_read.load(Ordering::Relaxed)
    }

    /// Ends when the lease is lost.
    pub(crate) async fn lease_lost(&self) {
        self.registration.lost.cancelled().await;
    }

    /// Ends when somebody asks for the job to stop.
    pub(crate) async fn asked_to_cancel(&self) {
        self.registration.asked_to_cancel(self.job_id).await;
    }

    /// Opens a transaction for reads that need no fence: one snapshot, in which PostgreSQL refuses every write. A handler that
    /// tries all the same has failed.
    pub async fn read(&self) -> anyhow::Result<Reads> {
        let tx = self
            .pool
            .begin_with("begin isolation level repeatable read, read only")
            .await?;
        self.so_far.has_read.store(true, Ordering::Relaxed);
        Ok(Reads { tx })
    }

    /// Until this attempt must not send anything any more: its time is up or its lease can no longer be trusted.
    pub fn time_left(&self) -> Duration {
        if self.stop.is_cancelled() {
            return Duration::ZERO;
        }
        self.ends_at
            .saturating_duration_since(Instant::now())
            .min(self.registration.time_left())
    }

    /// How long until this worker, which was told to stop, hands back what still runs; none while it does not stop. Whoever
    /// can end early with something worth keeping does so before.
    pub fn hand_back_in(&self) -> Option<Duration> {
        self.registration.hand_back_in()
    }

    /// How long this attempt may still take before it times out, as long as its lease is renewed.
    pub fn timeout_in(&self) -> Duration {
        self.ends_at.saturating_duration_since(Instant::now())
    }

    /// Ends when the attempt should: its lease is lost, the worker stops, or somebody cancels the job. The attempt is
    /// dropped then; this is for the tasks it has spawned.
    pub async fn cancelled(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.registration.lost.cancelled() => {}
            () = self.asked_to_cancel() => {}
        }
    }

    /// Shows how far the attempt has come.
    pub async fn progress(&self, progress: &Value) -> anyhow::Result<()> {
        let written = sqlx::query!(
            "insert into queue.progress as p (job_id, claim_id, value)
             select $2, $1, $4 where queue.hold($1, $2, $3)
             on conflict (job_id) do update set claim_id = excluded.claim_id, value = excluded.value, at = clock_timestamp()",
            self.held.claim_id,
            self.job_id.0,
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

    pub(crate) fn fence_lost(&self) -> FenceLost {
        metrics::counter!(crate::metric::FENCED, "kind" => self.kind).increment(1);
        FenceLost {
            job_id: self.job_id,
            fence: self.fence,
        }
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
        self.end(Outcome::Done).await
    }

    /// The same, with a result to keep.
    pub async fn done_with(self, result: Value) -> anyhow::Result<Outcome> {
        self.end(Outcome::DoneWith(result)).await
    }

    /// Ends the attempt in this transaction and commits.
    pub async fn end(mut self, outcome: Outcome) -> anyhow::Result<Outcome> {
        let (held, pool) = (&self.attempt.held, &self.attempt.pool);
        // The room of its limits is given back after the commit.
        let unlimited = Held {
            limit_keys: Vec::new(),
            ..held.clone()
        };
        if !finish::end_as(&mut self.tx, &unlimited, &outcome).await? {
            return Err(self.attempt.fence_lost().into());
        }
        if let Err(unknown) = self.tx.commit().await
            // The commit may have happened: the job would be gone then, and by nobody else.
            && !finish::is_completed(pool, held).await?
            && !finish::is_ended_by_us(pool, held).await?
        {
            return Err(unknown.into());
        }
        _ = self.attempt.so_far.ended.set(Settled::of(&outcome));
        Ok(outcome)
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

/// A transaction of a handler that writes nothing; dropping it ends it.
pub struct Reads {
    tx: Transaction<'static, Postgres>,
}

impl Deref for Reads {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for Reads {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

impl Attempt {
    pub(crate) fn new<S: Send + Sync + 'static>(
        runner: &Runner<'_, S>,
        claimed: &Claimed,
        registration: &Arc<Registration>,
        info: &KindInfo,
        trace: TraceContext,
    ) -> Self {
        Self {
            job_id: claimed.id,
            fence: claimed.fence,
            number: claimed.attempt,
            attempts_max: claimed.attempts_max,
            worker_id: claimed.worker_id,
            kind: info.kind,
            queue: Arc::clone(&claimed.queue),
            unique_key: claimed.unique_key.clone(),
            trace,
            pool: runner.pool.clone(),
            ends_at: Instant::now() + info.timeout,
            registration: Arc::clone(registration),
            stop: runner.stop.clone(),
            so_far: Arc::default(),
            held: runner.held(claimed),
        }
    }
}
