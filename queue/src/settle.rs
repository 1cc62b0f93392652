//! A verdict is written down: once, and however long the database is away, as long as the lease is ours.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use sqlx::PgConnection;

use crate::backoff::{self, Trouble};
use crate::claim::Claimed;
use crate::failure::{Class, Failure, is_infrastructure};
use crate::finish::{self, Held};
use crate::job::{DeadHead, DeadLetter, Retry};
use crate::lease::Registration;
use crate::metric;
use crate::runner::{Runner, Settled, Verdict, decode, panic_message};

const DEFAULT_RETRY: Retry = Retry::new(Duration::from_secs(1), Duration::from_secs(600), 20);

/// Who wrote an attempt's end down: the completer and a batch count their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Itself,
    Completer,
    Batch,
}

/// A claimed job whose end is to be written.
pub(crate) struct Case<'a, S> {
    pub(crate) runner: &'a Runner<'a, S>,
    pub(crate) claimed: &'a Claimed,
    pub(crate) registration: &'a Registration,
    pub(crate) held: Held,
    /// Whether whoever runs it would go on with the next of its group.
    pub(crate) goes_on: bool,
}

/// How a verdict was written down.
pub(crate) struct Settlement {
    pub(crate) settled: Settled,
    pub(crate) by: By,
    /// The next of its group, claimed for whoever goes on.
    pub(crate) next: Option<Box<Claimed>>,
}

impl Settlement {
    fn alone(settled: Settled, by: By) -> Self {
        Self {
            settled,
            by,
            next: None,
        }
    }
}

impl<S: Send + Sync + 'static> Case<'_, S> {
    /// Writes the verdict down.
    ///
    /// A verdict that the database refuses for what it says (a result it cannot store, say) becomes a plain failure.
    pub(crate) async fn settle(&self, mut verdict: Verdict) -> Settlement {
        const REFUSALS_MAX: u32 = 3;
        let mut refusals = 0;
        let mut trouble = Trouble::default();
        let mut is_retry = false;
        loop {
            let error = match self.write(&verdict, is_retry).await {
                Ok(settlement) => return settlement,
                Err(error) => error,
            };
            is_retry = true;
            if !is_infrastructure(&error) {
                refusals += 1;
                if refusals == REFUSALS_MAX {
                    tracing::error!("the job cannot be settled as it ended: {error:#}");
                    let failure = Failure::transient("unsettled", format!("cannot be settled: {error:#}"));
                    verdict = Verdict::Failed { failure, wait: None };
                }
            }
            let wait = trouble.wait();
            if trouble.is_first() {
                tracing::warn!("cannot settle the job yet: {error:#}");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.registration.lost.cancelled() => return Settlement::alone(Settled::Lost, By::Itself),
            }
        }
    }

    /// One try at writing the verdict down. An error here is the database's trouble, never the job's.
    async fn write(&self, verdict: &Verdict, is_retry: bool) -> anyhow::Result<Settlement> {
        let mut by = By::Itself;
        if matches!(verdict, Verdict::Done) {
            by = By::Completer;
            let is_unique = self.claimed.unique_key.is_some();
            let completer = self.runner.completer;
            let completed = completer.complete(self.held.clone(), is_unique, self.goes_on).await?;
            if completed.is_written {
                return Ok(Settlement {
                    next: completed.next,
                    ..Settlement::alone(Settled::Completed, by)
                });
            }
        }
        // Boxed, since every attempt is moved about with the room for what hardly any of them does.
        let settled = Box::pin(self.write_alone(verdict, is_retry)).await?;
        Ok(Settlement::alone(settled, by))
    }

    /// What does not go through the completer.
    async fn write_alone(&self, verdict: &Verdict, is_retry: bool) -> anyhow::Result<Settled> {
        let (pool, held) = (self.runner.pool, &self.held);
        let (is_written, settled) = match verdict {
            Verdict::Lost => (false, Settled::Lost),
            // The completer did not have it any more.
            Verdict::Done => (false, Settled::Completed),
            Verdict::Ended(outcome) => {
                let mut tx = pool.begin().await?;
                let is_written = finish::end_as(&mut tx, held, outcome).await?;
                tx.commit().await?;
                (is_written, Settled::of(outcome))
            }
            Verdict::Cancelled => {
                let mut tx = pool.begin().await?;
                let is_written = finish::cancel(&mut tx, held).await?;
                tx.commit().await?;
                (is_written, Settled::Cancelled)
            }
            Verdict::HandBack => (
                finish::hand_back(&mut *pool.acquire().await?, held).await?,
                Settled::Postponed,
            ),
            Verdict::Infrastructure(message) => {
                let wait = Duration::from_millis(20) + Duration::from_secs(2).mul_f64(rand::random());
                let conn = &mut *pool.acquire().await?;
                (
                    finish::postpone(conn, held, wait, &format!("trouble with the database: {message}")).await?,
                    Settled::Postponed,
                )
            }
            Verdict::Failed { failure, wait } => self.fail(failure, *wait).await?,
            Verdict::Dead {
                reason,
                failure,
                was_run,
            } => self.bury(reason, failure, *was_run).await?,
        };
        if is_written {
            return Ok(settled);
        }
        // The job is not ours any more. It may be that an earlier try at this very commit succeeded.
        if finish::is_completed(pool, held).await? {
            return Ok(Settled::Completed);
        }
        if is_retry && !matches!(verdict, Verdict::Lost) && finish::is_ended_by_us(pool, held).await? {
            return Ok(settled);
        }
        if !matches!(verdict, Verdict::Lost) {
            metrics::counter!(metric::FENCED, "kind" => self.claimed.kind.clone()).increment(1);
        }
        Ok(Settled::Lost)
    }

    /// The job waits and is tried again; a wrong installation pauses the whole kind in the same transaction.
    async fn fail(&self, failure: &Failure, wait: Option<Duration>) -> anyhow::Result<(bool, Settled)> {
        let (claimed, held) = (self.claimed, &self.held);
        let mut tx = self.runner.pool.begin().await?;
        // What a limit is told is a write as well: a late worker has nothing to tell.
        if claimed.is_limited && !finish::holds(&mut tx, held).await? {
            return Ok((false, Settled::Lost));
        }
        if let Some(open) = self.blame_dependency(&mut tx, failure).await? {
            // Everybody behind the breaker was told the same time: spread the return.
            let wait = open.mul_f64(1.0 + 0.1 * rand::random::<f64>());
            let is_written = finish::postpone(&mut tx, held, wait, &format!("its breaker is open: {failure}")).await?;
            tx.commit().await?;
            return Ok((is_written, Settled::Postponed));
        }
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
            _ if claimed.attempt >= claimed.attempts_max => {
                // What its limit was told stands, whatever becomes of the burial.
                tx.commit().await?;
                return self.bury("exhausted", failure, true).await;
            }
            _ => {
                let retry = self
                    .runner
                    .catalogue
                    .kind(&claimed.kind)
                    .map_or(DEFAULT_RETRY, |kind| kind.info().retry);
                let wait = wait
                    .unwrap_or_else(|| backoff::after_attempt(retry, claimed.attempt, &mut rand::rng()))
                    .max(failure.retry_after.unwrap_or_default());
                let record = finish::failure_record(claimed, &self.registration.build, failure);
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

    /// Tells the limit of the job that what it depends on failed; returns for how long its breaker is open.
    async fn blame_dependency(&self, conn: &mut PgConnection, failure: &Failure) -> anyhow::Result<Option<Duration>> {
        let Some(limit_key) = self.claimed.limit_key.as_deref().filter(|_| self.claimed.is_limited) else {
            return Ok(None);
        };
        let retry_after = match failure.class {
            Class::Throttled => Some(failure.retry_after.unwrap_or_default()),
            Class::Transient | Class::Unknown => None,
            Class::Permanent | Class::Config | Class::Poison => return Ok(None),
        };
        finish::hold_limits(conn, &self.held).await?;
        Ok(finish::limit_failed(conn, limit_key, &failure.to_string(), retry_after).await?)
    }

    /// The job becomes a dead letter, and what it was about is left in a named state, in one transaction.
    async fn bury(&self, reason: &'static str, failure: &Failure, was_run: bool) -> anyhow::Result<(bool, Settled)> {
        let (claimed, held) = (self.claimed, &self.held);
        let mut tx = self.runner.pool.begin().await?;
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
        let dead_head = match self.last_rites(&mut tx, &letter).await {
            Ok(dead_head) => dead_head,
            Err(error) => {
                drop(tx);
                return self.unburied(&error).await;
            }
        };
        let record = was_run.then(|| finish::failure_record(claimed, &self.registration.build, failure));
        finish::bury(&mut tx, held, &letter, &corpse, record, dead_head).await?;
        tx.commit().await?;
        metrics::counter!(metric::BURIED, "kind" => claimed.kind.clone(), "reason" => reason).increment(1);
        tracing::error!(reason, code = failure.code, "the job is dead: {}", failure.message);
        Ok((true, Settled::Buried))
    }

    /// Runs the job's `bury`, and asks what becomes of its group; a payload that cannot be read says neither.
    async fn last_rites(&self, conn: &mut PgConnection, letter: &DeadLetter) -> anyhow::Result<DeadHead> {
        const LONGEST: Duration = Duration::from_secs(30);
        let Some(kind) = self.runner.catalogue.kind(&self.claimed.kind) else {
            return Ok(DeadHead::default());
        };
        let Ok(job) = decode(kind, self.claimed) else {
            return Ok(kind.info().dead_head);
        };
        let rites = async {
            job.bury(&mut *conn, letter, self.runner.services).await?;
            job.dead_head(conn).await
        };
        let rites = AssertUnwindSafe(rites).catch_unwind();
        match tokio::time::timeout(LONGEST, rites).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(anyhow::anyhow!("panicked: {}", panic_message(&*panic))),
            Err(_) => Err(anyhow::anyhow!("took longer than {} s", LONGEST.as_secs())),
        }
    }

    /// A job that cannot be buried must not leave its order in no named state: it waits and is buried later.
    async fn unburied(&self, error: &anyhow::Error) -> anyhow::Result<(bool, Settled)> {
        let conn = &mut *self.runner.pool.acquire().await?;
        if is_infrastructure(error) {
            let wait = Duration::from_secs(1).mul_f64(rand::random());
            return Ok((
                finish::postpone(conn, &self.held, wait, "trouble with the database at its burial").await?,
                Settled::Postponed,
            ));
        }
        tracing::error!("the job is dead but cannot be buried: {error:#}");
        let failure = Failure::transient("unburied", format!("cannot be buried: {error:#}"));
        let record = finish::failure_record(self.claimed, &self.registration.build, &failure);
        let wait = backoff::bound(DEFAULT_RETRY, self.claimed.attempt);
        Ok((
            finish::retry(conn, &self.held, wait, &failure.message, &record).await?,
            Settled::Retried,
        ))
    }
}
