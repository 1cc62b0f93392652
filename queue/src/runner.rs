//! One run of one job, as a list of named steps: may it run, what came of it, and how that is written down (`settle`).

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Level};

use crate::attempt::{Attempt, FenceLost};
use crate::catalogue::{Catalogue, Decoded, Kind};
use crate::claim::Claimed;
use crate::complete::Completer;
use crate::failure::{Class, Failure, is_infrastructure, is_refused_write};
use crate::fan_in;
use crate::finish::Held;
use crate::job::Outcome;
use crate::lease::Registration;
use crate::settle::{By, Case};
use crate::trace::{self, TraceContext};
use crate::{metric, rescue};

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

impl Settled {
    /// How an outcome leaves its job.
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done | Outcome::DoneWith(_) => Self::Completed,
            Outcome::Snooze(_) => Self::Postponed,
            Outcome::Discard(_) => Self::Discarded,
        }
    }

    /// What it is called in a trace, and whether it failed.
    fn told(self) -> (&'static str, bool) {
        match self {
            Self::Completed => ("completed", false),
            Self::Retried => ("retried", true),
            Self::Postponed => ("postponed", false),
            Self::Buried => ("buried", true),
            Self::Discarded => ("discarded", false),
            Self::Cancelled => ("cancelled", false),
            Self::Lost => ("lost", true),
        }
    }
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

impl<S: Send + Sync + 'static> Runner<'_, S> {
    /// Runs one claimed job to its settlement.
    ///
    /// Nothing that happens in here ends the caller: failures, panics and time-outs become outcomes, and trouble with the
    /// database is waited out for as long as the lease is ours.
    pub async fn run(&self, claimed: Claimed, registration: Arc<Registration>) -> Settled {
        self.run_next_to(claimed, registration, false).await.0
    }

    /// As [`Self::run`], for a caller who goes on with the next of the job's group: if that may run here and now it is claimed as
    /// the job is completed, and returned. The caller runs it.
    pub async fn run_and_go_on(
        &self,
        claimed: Claimed,
        registration: Arc<Registration>,
    ) -> (Settled, Option<Box<Claimed>>) {
        self.run_next_to(claimed, registration, true).await
    }

    async fn run_next_to(
        &self,
        claimed: Claimed,
        registration: Arc<Registration>,
        goes_on: bool,
    ) -> (Settled, Option<Box<Claimed>>) {
        let trace = TraceContext::following(claimed.trace_context.as_deref());
        let span = tracing::info_span!(
            "attempt",
            trace.id = %trace.trace_id(),
            span.id = trace.span_id(),
            span.parent_id = trace.parent_id(),
            job.id = claimed.id.0,
            job.kind = claimed.kind,
            job.attempt = claimed.attempt,
            queue = &*claimed.queue,
            worker.id = claimed.worker_id,
        );
        // Boxed, since it would be moved about whole with every wrapping, and from there into its task.
        let work = Box::pin(self.attempt(&claimed, &registration, goes_on));
        trace::scope(trace, work.instrument(span)).await
    }

    async fn attempt(
        &self,
        claimed: &Claimed,
        registration: &Arc<Registration>,
        goes_on: bool,
    ) -> (Settled, Option<Box<Claimed>>) {
        let started = Instant::now();
        let (verdict, ended) = self.judge(claimed, registration).await;
        metrics::histogram!(metric::ATTEMPT_SECONDS, "kind" => claimed.kind.clone())
            .record(started.elapsed().as_secs_f64());
        let (settled, next) = match ended {
            Some(settled) => {
                self.release(claimed, registration, settled).await;
                (self.settled(claimed, settled, By::Itself), None)
            }
            None => self.settle_and_go_on(claimed, registration, verdict, goes_on).await,
        };
        tell(settled);
        (settled, next)
    }

    /// Writes down what came of a job.
    pub(crate) async fn settle(&self, claimed: &Claimed, registration: &Registration, verdict: Verdict) -> Settled {
        self.settle_and_go_on(claimed, registration, verdict, false).await.0
    }

    async fn settle_and_go_on(
        &self,
        claimed: &Claimed,
        registration: &Registration,
        verdict: Verdict,
        goes_on: bool,
    ) -> (Settled, Option<Box<Claimed>>) {
        let case = Case {
            runner: self,
            claimed,
            registration,
            held: self.held(claimed),
            goes_on,
        };
        let settlement = case.settle(verdict).await;
        let settled = self.settled(claimed, settlement.settled, settlement.by);
        (settled, settlement.next)
    }

    /// Gives back the room of a job that its handler's transaction ended. Without the lease it is left to whoever mends limits.
    async fn release(&self, claimed: &Claimed, registration: &Registration, settled: Settled) {
        tokio::select! {
            () = self.completer.release(self.held(claimed), settled != Settled::Postponed) => {}
            () = registration.lost.cancelled() => {}
        }
    }

    /// Counts a job whose end is written.
    pub(crate) fn settled(&self, claimed: &Claimed, settled: Settled, by: By) -> Settled {
        if by == By::Itself {
            let is_lost = settled == Settled::Lost;
            self.completer
                .left(claimed.claim_id, usize::from(!is_lost), usize::from(is_lost));
        }
        count(claimed, settled);
        settled
    }

    /// Decides whether the job may run, runs it, and says what came of it.
    async fn judge(&self, claimed: &Claimed, registration: &Arc<Registration>) -> (Verdict, Option<Settled>) {
        if let Some(verdict) = refuse(claimed) {
            return (verdict, None);
        }
        if claimed.is_awaited
            && let Some(verdict) = Box::pin(self.refuse_waiter(claimed)).await
        {
            return (verdict, None);
        }
        let Some(kind) = self.catalogue.kind(&claimed.kind) else {
            return (Verdict::HandBack, None);
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
                    None,
                );
            }
        };
        let wait = job.delay_after(claimed.attempt);
        let info = kind.info();
        let timeout = info.timeout;
        let trace = trace::current().unwrap_or_else(TraceContext::begin);
        let attempt = Attempt::new(self, claimed, registration, &info, trace);
        let work = async { job.run(&attempt, self.services).await };
        let verdict = match self.perform(work, &attempt, timeout).await {
            // Trouble with the database, if the handler had not asked for it: a write among its reads, which fails every time.
            Performed::Returned(Err(error)) if attempt.has_read() && is_refused_write(&error) => Verdict::Failed {
                failure: Failure::transient("write_without_fence", format!("{error:#}")),
                wait,
            },
            Performed::Returned(result) => Verdict::of(result, wait),
            Performed::Panicked(message) => {
                tracing::error!(message, "the job panicked");
                let failure = Failure::transient("panic", format!("panicked: {message}"));
                Verdict::Failed { failure, wait }
            }
            Performed::TimedOut => {
                let failure = Failure::transient("timeout", format!("took longer than {} s", timeout.as_secs_f64()));
                Verdict::Failed { failure, wait }
            }
            Performed::Stopped => Verdict::HandBack,
            Performed::Cancelled => Verdict::Cancelled,
            Performed::LeaseLost => Verdict::Lost,
        };
        (verdict, attempt.ended())
    }

    /// A job that waited for others is not run when one of them failed, if it was enqueued so.
    pub(crate) async fn refuse_waiter(&self, claimed: &Claimed) -> Option<Verdict> {
        match fan_in::refusal(self.pool, claimed.id).await {
            Ok(why) => Some(Verdict::Dead {
                reason: "cancelled_parent",
                failure: Failure::permanent("member_failed", why?),
                was_run: false,
            }),
            Err(error) => Some(Verdict::Infrastructure(crate::failure::excerpt(&error.to_string()))),
        }
    }

    /// Runs a handler until it returns, panics, takes too long, or must stop.
    pub(crate) async fn perform<T>(
        &self,
        work: impl Future<Output = T>,
        attempt: &Attempt,
        timeout: Duration,
    ) -> Performed<T> {
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::select! {
            biased;
            returned = tokio::time::timeout(timeout, work) => match returned {
                Ok(Ok(result)) => Performed::Returned(result),
                Ok(Err(panic)) => Performed::Panicked(panic_message(&*panic)),
                Err(_) => Performed::TimedOut,
            },
            () = attempt.lease_lost() => Performed::LeaseLost,
            () = attempt.asked_to_cancel() => Performed::Cancelled,
            () = self.stop.cancelled() => Performed::Stopped,
        }
    }

    pub(crate) fn held(&self, claimed: &Claimed) -> Held {
        Held {
            job_id: claimed.id,
            fence: claimed.fence,
            claim_id: claimed.claim_id,
            worker_id: claimed.worker_id,
            group_key: claimed.group_key.clone(),
            limit_keys: limit_keys(claimed),
            is_awaited: claimed.is_awaited,
            is_kept: self
                .catalogue
                .kind(&claimed.kind)
                .is_none_or(|kind| kind.info().is_kept),
        }
    }
}

/// What an attempt comes to, before anything is written.
#[derive(Clone)]
pub(crate) enum Verdict {
    /// Done, and nothing else to write: the completer gathers these.
    Done,
    Ended(Outcome),
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

/// A job whose tries, time or crashes are used up is not run again.
pub(crate) fn refuse(claimed: &Claimed) -> Option<Verdict> {
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

/// Reads the payload.
pub(crate) fn decode<S>(kind: &dyn Kind<S>, claimed: &Claimed) -> Result<Box<dyn Decoded<S>>, Box<Failure>> {
    // A payload's own code may panic as well.
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| kind.decode(claimed.args_version, &claimed.args)));
    let message = match decoded {
        Ok(Ok(job)) => return Ok(job),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("panicked: {}", panic_message(&*panic)),
    };
    Err(Box::new(Failure::poison("undecodable", message)))
}

/// How the handler itself ended.
pub(crate) enum Performed<T> {
    Returned(T),
    Panicked(String),
    TimedOut,
    Stopped,
    Cancelled,
    LeaseLost,
}

impl Verdict {
    /// What a handler's answer comes to; `wait` is the kind's own wait before the next try.
    pub(crate) fn of(answer: anyhow::Result<Outcome>, wait: Option<Duration>) -> Self {
        match answer {
            Ok(Outcome::Done) => Self::Done,
            Ok(outcome) => Self::Ended(outcome),
            Err(error) => classify(&error, wait),
        }
    }
}

/// What an error means for the job.
fn classify(error: &anyhow::Error, wait: Option<Duration>) -> Verdict {
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
        Class::Throttled | Class::Config | Class::Transient | Class::Unknown => Verdict::Failed { failure, wait },
    }
}

/// The limits a job counts against while it runs.
fn limit_keys(claimed: &Claimed) -> Vec<String> {
    match claimed.is_limited {
        true => claimed
            .limit_key
            .iter()
            .cloned()
            .chain([format!("queue/{}", claimed.queue)])
            .collect(),
        false => Vec::new(),
    }
}

/// Tells the span of an attempt how it left its job.
pub(crate) fn tell(settled: Settled) {
    let (end, is_failure) = settled.told();
    tracing::event!(target: trace::FACTS, Level::TRACE, job.end = end, error.kind = is_failure.then_some(end));
}

/// One counter for each way to end.
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

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    crate::failure::excerpt(&message)
}
