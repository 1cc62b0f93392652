//! One run of one job, as a list of named steps.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::backoff::{self, Trouble};
use crate::catalogue::{Catalogue, Decoded, Kind};
use crate::claim::Claimed;
use crate::complete::Completer;
use crate::failure::{Class, Failure, is_infrastructure};
use crate::finish::{self, Held};
use crate::job::{DeadLetter, JobId, Outcome};
use crate::lease::Registration;
use crate::trace::{self, TraceContext};
use crate::{metric, rescue};

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
    stop: CancellationToken,
    is_completed: Arc<AtomicBool>,
    pub(crate) held: Held,
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

    /// For reads that need no fence.
    pub fn pool(&self) -> &PgPool {
        &self.pool
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

    /// Ends when the attempt should: its lease is lost, the worker stops, or somebody cancels the job. The attempt is
    /// dropped then; this is for the tasks it has spawned.
    pub async fn cancelled(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.registration.lost.cancelled() => {}
            () = self.registration.asked_to_cancel(self.job_id) => {}
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
        metrics::counter!(crate::metric::FENCED, "kind" => self.kind.clone()).increment(1);
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
        self.complete(None).await
    }

    /// The same, with a result to keep.
    pub async fn done_with(self, result: Value) -> anyhow::Result<Outcome> {
        self.complete(Some(result)).await
    }

    async fn complete(mut self, result: Option<Value>) -> anyhow::Result<Outcome> {
        let attempt = self.attempt.clone();
        if !finish::complete(&mut self.tx, &attempt.held, result).await? {
            return Err(attempt.fence_lost().into());
        }
        if let Err(unknown) = self.tx.commit().await {
            // The commit may have happened: the job would be gone then, and by nobody else.
            let held = &attempt.held;
            if !finish::is_completed(&attempt.pool, held).await? && !finish::is_ended_by_us(&attempt.pool, held).await?
            {
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

/// How an attempt left its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// In the history.
    Completed,
    /// In line again after a failure.
    Retried,
    /// In line again without a try used.
    Postponed,
    /// Among the dead letters.
    Buried,
    /// Given up on purpose.
    Discarded,
    /// Stopped because somebody asked for it.
    Cancelled,
    /// Somebody else's: nothing was written.
    Lost,
}

/// What attempts of one process share.
pub struct Runner<'a, S> {
    /// Where the jobs are.
    pub pool: &'a PgPool,
    /// The kinds it knows.
    pub catalogue: &'a Catalogue<S>,
    /// The outside world.
    pub services: &'a S,
    /// Cancelled when the grace of a shutdown is over: what still runs is handed back.
    pub stop: &'a CancellationToken,
    /// Completes what has nothing else to write. It holds the job that is run.
    pub completer: &'a Completer,
}

/// Runs one claimed job to its settlement.
///
/// Nothing that happens in here ends the caller: failures, panics and time-outs become outcomes, and trouble with the
/// database is waited out for as long as the lease is ours.
pub async fn run<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: Claimed,
    registration: Arc<Registration>,
) -> Settled {
    let trace = TraceContext::following(claimed.trace_context.as_deref());
    let span = tracing::info_span!(
        "attempt",
        trace.id = %trace.trace_id(),
        job.id = claimed.id.0,
        job.kind = claimed.kind,
        job.attempt = claimed.attempt,
        queue = claimed.queue,
        worker.id = claimed.worker_id,
    );
    let work = async {
        let started = Instant::now();
        let (verdict, is_completed) = judge(runner, &claimed, &registration).await;
        metrics::histogram!(metric::ATTEMPT_SECONDS, "kind" => claimed.kind.clone())
            .record(started.elapsed().as_secs_f64());
        let held = runner.held(&claimed);
        let (settled, by) = if is_completed {
            (Settled::Completed, By::Itself)
        } else {
            settle(runner, &claimed, &held, &registration, verdict).await
        };
        if by == By::Itself {
            runner.completer.left(&held, settled == Settled::Lost);
        }
        count(&claimed, settled);
        settled
    };
    trace::scope(trace, work.instrument(span)).await
}

/// What an attempt comes to, before anything is written.
enum Verdict {
    Done,
    Snooze(Duration),
    Discard(String),
    Failed {
        failure: Failure,
        wait: Option<Duration>,
    },
    Dead {
        reason: &'static str,
        failure: Failure,
        was_run: bool,
    },
    Infrastructure(String),
    HandBack,
    Cancelled,
    Lost,
}

/// Decides whether the job may run, runs it, and says what came of it.
async fn judge<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    registration: &Arc<Registration>,
) -> (Verdict, bool) {
    if let Some(verdict) = refuse(claimed) {
        return (verdict, false);
    }
    let Some(kind) = runner.catalogue.kind(&claimed.kind) else {
        return (Verdict::HandBack, false);
    };
    let job = match decode(kind, claimed) {
        Ok(job) => job,
        Err(failure) => {
            return (
                Verdict::Dead {
                    reason: "poison",
                    failure: *failure,
                    was_run: true,
                },
                false,
            );
        }
    };
    let wait = job.delay_after(claimed.attempt);
    let timeout = kind.info().timeout;
    let attempt = Attempt::new(runner, claimed, registration, timeout);
    let verdict = match perform(runner, job, &attempt, timeout).await {
        Performed::Returned(Ok(outcome)) => match outcome {
            Outcome::Done => Verdict::Done,
            Outcome::Snooze(wait) => Verdict::Snooze(wait),
            Outcome::Discard(reason) => Verdict::Discard(reason),
        },
        Performed::Returned(Err(error)) => classify(&error, wait, claimed),
        Performed::Panicked(message) => {
            tracing::error!(message, "the job panicked");
            let failure = Failure::transient("panic", format!("panicked: {message}"));
            exhaust(Verdict::Failed { failure, wait }, claimed)
        }
        Performed::TimedOut => {
            let failure = Failure::transient("timeout", format!("took longer than {} s", timeout.as_secs_f64()));
            exhaust(Verdict::Failed { failure, wait }, claimed)
        }
        Performed::Stopped => Verdict::HandBack,
        Performed::Cancelled => Verdict::Cancelled,
        Performed::LeaseLost => Verdict::Lost,
    };
    (verdict, attempt.is_completed.load(Ordering::Acquire))
}

/// A job whose tries, time or crashes are used up is not run again.
fn refuse(claimed: &Claimed) -> Option<Verdict> {
    let (reason, failure) = if claimed.crashes_alone >= rescue::CRASHES_ALONE_MAX {
        let message = format!("{} workers died while they ran it alone", claimed.crashes_alone);
        ("poison", Failure::poison("crashed_alone", message))
    } else if claimed.attempt > claimed.attempts_max {
        let message = format!("all {} attempts are used", claimed.attempts_max);
        ("exhausted", Failure::transient("attempts_used", message))
    } else if claimed.is_late {
        ("deadline", Failure::transient("deadline", "its deadline has passed"))
    } else {
        return None;
    };
    Some(Verdict::Dead {
        reason,
        failure,
        was_run: false,
    })
}

fn decode<S>(kind: &dyn Kind<S>, claimed: &Claimed) -> Result<Box<dyn Decoded<S>>, Box<Failure>> {
    // A payload's own code may panic as well.
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| kind.decode(claimed.args_version, &claimed.args)));
    let message = match decoded {
        Ok(Ok(job)) => return Ok(job),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("panicked: {}", panic_message(&*panic)),
    };
    Err(Box::new(Failure::poison("undecodable", message)))
}

enum Performed {
    Returned(anyhow::Result<Outcome>),
    Panicked(String),
    TimedOut,
    Stopped,
    Cancelled,
    LeaseLost,
}

/// Runs the handler until it returns, panics, takes too long, or must stop.
async fn perform<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    job: Box<dyn Decoded<S>>,
    attempt: &Attempt,
    timeout: Duration,
) -> Performed {
    let work = AssertUnwindSafe(async { job.run(attempt, runner.services).await }).catch_unwind();
    tokio::select! {
        biased;
        returned = tokio::time::timeout(timeout, work) => match returned {
            Ok(Ok(result)) => Performed::Returned(result),
            Ok(Err(panic)) => Performed::Panicked(panic_message(&*panic)),
            Err(_) => Performed::TimedOut,
        },
        () = attempt.registration.lost.cancelled() => Performed::LeaseLost,
        () = attempt.registration.asked_to_cancel(attempt.job_id) => Performed::Cancelled,
        () = runner.stop.cancelled() => Performed::Stopped,
    }
}

/// What an error means for the job.
fn classify(error: &anyhow::Error, wait: Option<Duration>, claimed: &Claimed) -> Verdict {
    if error.chain().any(|cause| cause.is::<FenceLost>()) {
        return Verdict::Lost;
    }
    let speaks_for_itself = error.chain().any(|cause| cause.is::<Failure>());
    if !speaks_for_itself && is_infrastructure(error) {
        return Verdict::Infrastructure(crate::failure::excerpt(&format!("{error:#}")));
    }
    let failure = Failure::from_error(error);
    match failure.class {
        Class::Permanent => Verdict::Dead {
            reason: "permanent",
            failure,
            was_run: true,
        },
        Class::Poison => Verdict::Dead {
            reason: "poison",
            failure,
            was_run: true,
        },
        Class::Throttled | Class::Config => Verdict::Failed { failure, wait },
        Class::Transient | Class::Unknown => exhaust(Verdict::Failed { failure, wait }, claimed),
    }
}

/// A failure of the last try is the end.
fn exhaust(verdict: Verdict, claimed: &Claimed) -> Verdict {
    match verdict {
        Verdict::Failed { failure, .. } if claimed.attempt >= claimed.attempts_max => Verdict::Dead {
            reason: "exhausted",
            failure,
            was_run: true,
        },
        other => other,
    }
}

/// Who wrote an attempt's end down: the completer counts its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Itself,
    Completer,
}

/// Writes the verdict down, however long the database is away, as long as the lease is ours.
///
/// A verdict that the database refuses for what it says (a result it cannot store, say) becomes a plain failure.
async fn settle<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    held: &Held,
    registration: &Registration,
    mut verdict: Verdict,
) -> (Settled, By) {
    const REFUSALS_MAX: u32 = 3;
    let mut refusals = 0;
    let mut trouble = Trouble::default();
    let mut is_retry = false;
    loop {
        let error = match write(runner, claimed, registration, held, &verdict, is_retry).await {
            Ok(settled) if matches!(verdict, Verdict::Done) => return (settled, By::Completer),
            Ok(settled) => return (settled, By::Itself),
            Err(error) => error,
        };
        is_retry = true;
        if !is_infrastructure(&error) {
            refusals += 1;
            if refusals == REFUSALS_MAX {
                tracing::error!("the job cannot be settled as it ended: {error:#}");
                let failure = Failure::transient("unsettled", format!("cannot be settled: {error:#}"));
                verdict = exhaust(Verdict::Failed { failure, wait: None }, claimed);
            }
        }
        let wait = trouble.wait();
        if trouble.is_first() {
            tracing::warn!("cannot settle the job yet: {error:#}");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = registration.lost.cancelled() => return (Settled::Lost, By::Itself),
        }
    }
}

/// One try at writing the verdict down. An error here is the database's trouble, never the job's.
async fn write<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    registration: &Registration,
    held: &Held,
    verdict: &Verdict,
    is_retry: bool,
) -> anyhow::Result<Settled> {
    if matches!(verdict, Verdict::Done)
        && runner
            .completer
            .complete(held.clone(), claimed.unique_key.is_some())
            .await?
    {
        return Ok(Settled::Completed);
    }
    // Boxed, since every attempt is moved about with the room for what hardly any of them does.
    Box::pin(write_alone(runner, claimed, registration, held, verdict, is_retry)).await
}

/// What does not go through the completer.
async fn write_alone<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    registration: &Registration,
    held: &Held,
    verdict: &Verdict,
    is_retry: bool,
) -> anyhow::Result<Settled> {
    let (is_written, settled) = match verdict {
        Verdict::Lost => (false, Settled::Lost),
        // The completer did not have it any more.
        Verdict::Done => (false, Settled::Completed),
        Verdict::Snooze(wait) => {
            let conn = &mut *runner.pool.acquire().await?;
            (
                finish::postpone(conn, held, *wait, "it asked to come back later").await?,
                Settled::Postponed,
            )
        }
        Verdict::Discard(reason) => {
            let mut tx = runner.pool.begin().await?;
            let is_written = finish::discard(&mut tx, held, reason).await?;
            tx.commit().await?;
            (is_written, Settled::Discarded)
        }
        Verdict::Cancelled => {
            let mut tx = runner.pool.begin().await?;
            let is_written = finish::cancel(&mut tx, held).await?;
            tx.commit().await?;
            (is_written, Settled::Cancelled)
        }
        Verdict::HandBack => (
            finish::hand_back(&mut *runner.pool.acquire().await?, held).await?,
            Settled::Postponed,
        ),
        Verdict::Infrastructure(message) => {
            let wait = Duration::from_millis(20) + Duration::from_secs(2).mul_f64(rand::random());
            let conn = &mut *runner.pool.acquire().await?;
            (
                finish::postpone(conn, held, wait, &format!("trouble with the database: {message}")).await?,
                Settled::Postponed,
            )
        }
        Verdict::Failed { failure, wait } => fail(runner, claimed, registration, held, failure, *wait).await?,
        Verdict::Dead {
            reason,
            failure,
            was_run,
        } => bury(runner, claimed, registration, held, reason, failure, *was_run).await?,
    };
    if is_written {
        return Ok(settled);
    }
    // The job is not ours any more. It may be that an earlier try at this very commit succeeded.
    if finish::is_completed(runner.pool, held).await? {
        return Ok(Settled::Completed);
    }
    if is_retry && !matches!(verdict, Verdict::Lost) && finish::is_ended_by_us(runner.pool, held).await? {
        return Ok(settled);
    }
    if !matches!(verdict, Verdict::Lost) {
        metrics::counter!(metric::FENCED, "kind" => claimed.kind.clone()).increment(1);
    }
    Ok(Settled::Lost)
}

/// The job waits and is tried again; a wrong installation pauses the whole kind in the same transaction.
async fn fail<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    registration: &Registration,
    held: &Held,
    failure: &Failure,
    wait: Option<Duration>,
) -> anyhow::Result<(bool, Settled)> {
    let mut tx = runner.pool.begin().await?;
    let written = match failure.class {
        Class::Throttled => {
            // Everybody was told the same time: spread the return.
            let wait = failure
                .retry_after
                .unwrap_or_default()
                .mul_f64(1.0 + 0.1 * rand::random::<f64>());
            (
                finish::postpone(&mut tx, held, wait, &format!("throttled: {failure}")).await?,
                Settled::Postponed,
            )
        }
        Class::Config => {
            let is_written =
                finish::postpone(&mut tx, held, Duration::ZERO, &format!("its kind is paused: {failure}")).await?;
            if is_written {
                finish::pause_kind(&mut tx, &claimed.kind, &failure.to_string(), held).await?;
                tracing::error!(job.kind = claimed.kind, "the kind paused itself: {failure}");
                metrics::counter!(metric::KINDS_PAUSED, "kind" => claimed.kind.clone()).increment(1);
            }
            (is_written, Settled::Postponed)
        }
        _ => {
            let retry = runner
                .catalogue
                .kind(&claimed.kind)
                .map(|kind| kind.info().retry)
                .unwrap_or(DEFAULT_RETRY);
            let wait = wait
                .unwrap_or_else(|| backoff::after_attempt(retry, claimed.attempt, &mut rand::rng()))
                .max(failure.retry_after.unwrap_or_default());
            let record = finish::failure_record(claimed, &registration.build, failure);
            let waiting = format!("attempt {} failed: {failure}", claimed.attempt);
            (
                finish::retry(&mut tx, held, wait, &waiting, &record).await?,
                Settled::Retried,
            )
        }
    };
    tx.commit().await?;
    if written.0 {
        tracing::warn!(
            class = failure.class.as_str(),
            code = failure.code,
            "the attempt failed: {}",
            failure.message
        );
    }
    Ok(written)
}

const DEFAULT_RETRY: crate::job::Retry = crate::job::Retry::new(Duration::from_secs(1), Duration::from_secs(600), 20);

/// The job becomes a dead letter, and what it was about is left in a named state, in one transaction.
async fn bury<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    registration: &Registration,
    held: &Held,
    reason: &'static str,
    failure: &Failure,
    was_run: bool,
) -> anyhow::Result<(bool, Settled)> {
    let mut tx = runner.pool.begin().await?;
    let Some(corpse) = finish::take(&mut tx, held).await? else {
        return Ok((false, Settled::Lost));
    };
    let letter = DeadLetter {
        id: claimed.id,
        kind: claimed.kind.clone(),
        fence: claimed.fence,
        reason,
        class: failure.class,
        code: failure.code.clone(),
        message: failure.message.clone(),
    };
    if let Err(error) = last_rites(runner, claimed, &mut tx, &letter).await {
        drop(tx);
        return unburied(runner, claimed, registration, held, &error).await;
    }
    let record = was_run.then(|| finish::failure_record(claimed, &registration.build, failure));
    finish::bury(&mut tx, held, &letter, &corpse, record).await?;
    tx.commit().await?;
    metrics::counter!(metric::BURIED, "kind" => claimed.kind.clone(), "reason" => reason).increment(1);
    tracing::error!(reason, code = failure.code, "the job is dead: {}", failure.message);
    Ok((true, Settled::Buried))
}

/// Runs the kind's `bury`; a payload that cannot be read has none.
async fn last_rites<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    conn: &mut PgConnection,
    letter: &DeadLetter,
) -> anyhow::Result<()> {
    const LONGEST: Duration = Duration::from_secs(30);
    let Some(Ok(job)) = runner.catalogue.kind(&claimed.kind).map(|kind| decode(kind, claimed)) else {
        return Ok(());
    };
    let rites = AssertUnwindSafe(job.bury(conn, letter, runner.services)).catch_unwind();
    match tokio::time::timeout(LONGEST, rites).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow::anyhow!("panicked: {}", panic_message(&*panic))),
        Err(_) => Err(anyhow::anyhow!("took longer than {} s", LONGEST.as_secs())),
    }
}

/// A job that cannot be buried must not leave its order in no named state: it waits and is buried later.
async fn unburied<S: Send + Sync + 'static>(
    runner: &Runner<'_, S>,
    claimed: &Claimed,
    registration: &Registration,
    held: &Held,
    error: &anyhow::Error,
) -> anyhow::Result<(bool, Settled)> {
    let conn = &mut *runner.pool.acquire().await?;
    if is_infrastructure(error) {
        let wait = Duration::from_secs(1).mul_f64(rand::random());
        return Ok((
            finish::postpone(conn, held, wait, "trouble with the database at its burial").await?,
            Settled::Postponed,
        ));
    }
    tracing::error!("the job is dead but cannot be buried: {error:#}");
    let failure = Failure::transient("unburied", format!("cannot be buried: {error:#}"));
    let record = finish::failure_record(claimed, &registration.build, &failure);
    let wait = backoff::bound(DEFAULT_RETRY, claimed.attempt);
    Ok((
        finish::retry(conn, held, wait, &failure.message, &record).await?,
        Settled::Retried,
    ))
}

fn count(claimed: &Claimed, settled: Settled) {
    let name = match settled {
        Settled::Completed => metric::COMPLETED,
        Settled::Retried => metric::RETRIED,
        Settled::Postponed => metric::POSTPONED,
        Settled::Discarded => metric::DISCARDED,
        Settled::Cancelled => metric::CANCELLED,
        Settled::Buried | Settled::Lost => return,
    };
    metrics::counter!(name, "kind" => claimed.kind.clone()).increment(1);
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    crate::failure::excerpt(&message)
}

impl Attempt {
    fn new<S: Send + Sync + 'static>(
        runner: &Runner<'_, S>,
        claimed: &Claimed,
        registration: &Arc<Registration>,
        timeout: Duration,
    ) -> Self {
        Self {
            job_id: claimed.id,
            fence: claimed.fence,
            number: claimed.attempt,
            attempts_max: claimed.attempts_max,
            worker_id: claimed.worker_id,
            kind: claimed.kind.clone(),
            queue: claimed.queue.clone(),
            unique_key: claimed.unique_key.clone(),
            pool: runner.pool.clone(),
            ends_at: Instant::now() + timeout,
            registration: Arc::clone(registration),
            stop: runner.stop.clone(),
            is_completed: Arc::default(),
            held: runner.held(claimed),
        }
    }
}

impl<S: Send + Sync + 'static> Runner<'_, S> {
    fn held(&self, claimed: &Claimed) -> Held {
        Held {
            job_id: claimed.id,
            fence: claimed.fence,
            claim_id: claimed.claim_id,
            worker_id: claimed.worker_id,
            group_key: claimed.group_key.clone(),
            limit_key: claimed.limit_key.clone(),
            is_awaited: claimed.is_awaited,
            is_kept: self
                .catalogue
                .kind(&claimed.kind)
                .is_none_or(|kind| kind.info().is_kept),
        }
    }
}
