//! Many jobs of a kind in one transaction.
//!
//! A [`BatchJob`] does the work of up to [`BatchJob::BATCH_MAX`] claimed jobs at once, set by set instead of row by row. The
//! transaction holds the claim before the handler sees it, and ends every job with its own outcome before it commits. One job
//! that cannot be done must not take the others down: when a batch fails as a whole, everything is rolled back and each half
//! is tried by itself, until the culprit is alone.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use sqlx::PgConnection;
use tracing::Instrument;

use crate::attempt::{Attempt, FenceLost};
use crate::catalogue::{Decoded, One};
use crate::claim::Claimed;
use crate::failure::is_infrastructure;
use crate::fan_in;
use crate::finish;
use crate::job::{Job, JobId, Outcome};
use crate::lease::Registration;
use crate::metric;
use crate::runner::{Performed, Runner, Settled, Verdict, decode, refuse, tell};
use crate::settle::By;
use crate::trace::TraceContext;

/// A kind whose jobs may be done many at once.
pub trait BatchJob: Job {
    /// How many jobs one transaction takes at most.
    const BATCH_MAX: usize = 100;

    /// Does the work of all of them in a transaction that holds them, and returns an outcome for each, in their order.
    ///
    /// A job whose outcome is an error must have written nothing: it is settled like a failed attempt of its own, and the
    /// others stand. An error of the whole, a panic or a time-out rolls everything back.
    fn run_batch(
        batch: Vec<Member<Self>>,
        conn: &mut PgConnection,
        services: &Self::Services,
    ) -> impl Future<Output = anyhow::Result<Vec<anyhow::Result<Outcome>>>> + Send;
}

/// One job of a batch.
pub struct Member<J> {
    /// What is known of its attempt.
    pub attempt: Attempt,
    /// The job.
    pub job: J,
}

/// The `run` of a batch kind: a batch of one.
pub async fn alone<J: BatchJob>(job: J, attempt: &Attempt, services: &J::Services) -> anyhow::Result<Outcome> {
    let mut tx = attempt.begin().await?;
    let member = Member {
        attempt: attempt.clone(),
        job,
    };
    let mut outcomes = J::run_batch(vec![member], &mut tx, services).await?;
    check(1, outcomes.len())?;
    tx.end(outcomes.remove(0)?).await
}

fn check(jobs: usize, outcomes: usize) -> anyhow::Result<()> {
    anyhow::ensure!(jobs == outcomes, "{outcomes} outcomes for a batch of {jobs}");
    Ok(())
}

/// The handler of a batch kind without its type.
pub(crate) type Handler<S> = for<'a> fn(
    Vec<(Attempt, Box<dyn Decoded<S>>)>,
    &'a mut PgConnection,
    &'a S,
) -> BoxFuture<'a, anyhow::Result<Vec<anyhow::Result<Outcome>>>>;

/// Forgets the type of a batch kind.
pub(crate) fn handler<J: BatchJob>() -> Handler<J::Services> {
    |members, conn, services| {
        let members = members
            .into_iter()
            .filter_map(|(attempt, job)| {
                let One(job) = *job.into_any().downcast::<One<J>>().ok()?;
                Some(Member { attempt, job })
            })
            .collect();
        Box::pin(J::run_batch(members, conn, services))
    }
}

/// Where one job of a batch is in its own trace, and its span there. Logs have the span of the batch.
struct Place {
    trace: TraceContext,
    span: tracing::Span,
}

impl Place {
    fn of(claimed: &Claimed) -> Self {
        let trace = TraceContext::following(claimed.trace_context.as_deref());
        let span = tracing::debug_span!(
            parent: None,
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
        Self { trace, span }
    }

    /// Does what concerns this job alone.
    async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        work.instrument(self.span.clone()).await
    }

    fn end(&self, settled: Settled) {
        self.span.in_scope(|| tell(settled));
    }
}

/// What became of a batch.
enum Trial {
    /// It is written: what each of its jobs comes to, and which have yet to be settled.
    Written(Vec<Result<Settled, Box<Verdict>>>),
    /// It is undone, and the same holds for all of it.
    All(Verdict),
    /// It is undone, and one of its jobs may be to blame.
    Undone,
}

impl<S: Send + Sync + 'static> Runner<'_, S> {
    /// Runs jobs of one claim and one kind to their settlement, together as far as the kind allows. The settlements are in the
    /// order of the jobs unless the batch had to be divided.
    pub async fn run_batch(&self, claimed: Vec<Claimed>, registration: Arc<Registration>) -> Vec<Settled> {
        let mut settled = Vec::with_capacity(claimed.len());
        let alone = self.to_be_run_alone(&claimed).await;
        let (alone, fit): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|job| alone.contains(&job.id));
        let mut untried: Vec<_> = alone.into_iter().map(|job| vec![job]).collect();
        untried.push(fit);
        while let Some(mut batch) = untried.pop() {
            if batch.len() == 1 {
                settled.push(self.run(batch.remove(0), Arc::clone(&registration)).await);
                continue;
            }
            let Some(first) = batch.first() else { continue };
            let span = tracing::info_span!(
                "batch",
                jobs = batch.len(),
                job.kind = first.kind,
                queue = &*first.queue,
                worker.id = first.worker_id,
            );
            let places: Vec<_> = batch.iter().map(Place::of).collect();
            match self.try_batch(&batch, &places, &registration).instrument(span).await {
                Trial::Written(ends) => {
                    for ((job, place), end) in batch.iter().zip(places).zip(ends) {
                        let end = match end {
                            Ok(end) => self.settled(job, end, By::Batch),
                            Err(verdict) => place.within(self.settle(job, &registration, *verdict)).await,
                        };
                        place.end(end);
                        settled.push(end);
                    }
                }
                Trial::All(verdict) => {
                    for (job, place) in batch.iter().zip(places) {
                        let end = place.within(self.settle(job, &registration, verdict.clone())).await;
                        place.end(end);
                        settled.push(end);
                    }
                }
                Trial::Undone => {
                    let second = batch.split_off(batch.len() / 2);
                    untried.extend([second, batch]);
                }
            }
        }
        settled
    }

    /// Jobs that may not be run at all: what becomes of each is its own story.
    async fn to_be_run_alone(&self, claimed: &[Claimed]) -> Vec<JobId> {
        let refused = claimed.iter().filter(|job| refuse(job).is_some());
        let mut alone: Vec<_> = refused.map(|job| job.id).collect();
        let awaited: Vec<_> = claimed.iter().filter(|job| job.is_awaited).map(|job| job.id).collect();
        if !awaited.is_empty() {
            // Where that cannot be told, each finds it out for itself.
            alone.extend(fan_in::refused(self.pool, &awaited).await.unwrap_or(awaited));
        }
        alone
    }

    /// Runs the handler on a batch of two or more, and ends its jobs in the same transaction.
    async fn try_batch(&self, batch: &[Claimed], places: &[Place], registration: &Arc<Registration>) -> Trial {
        let first = &batch[0];
        let Some((kind, handler)) = self.catalogue.batch(&first.kind) else {
            return Trial::Undone;
        };
        let info = kind.info();
        let timeout = info.timeout;
        let mut members = Vec::with_capacity(batch.len());
        for (claimed, place) in batch.iter().zip(places) {
            let Ok(job) = decode(kind, claimed) else {
                return Trial::Undone;
            };
            let attempt = Attempt::new(self, claimed, registration, &info, place.trace);
            members.push((attempt, job));
        }
        let waits: Vec<_> = members
            .iter()
            .map(|(attempt, job)| job.delay_after(attempt.number))
            .collect();
        let lead = members[0].0.clone();
        let started = Instant::now();
        let work = self.work(batch, members, handler);
        let performed = self.perform(work, &lead, timeout).await;
        metrics::histogram!(metric::ATTEMPT_SECONDS, "kind" => first.kind.clone())
            .record(started.elapsed().as_secs_f64());
        match performed {
            Performed::Returned(Ok(outcomes)) => Trial::Written(
                outcomes
                    .into_iter()
                    .zip(waits)
                    .map(|(outcome, wait)| match outcome {
                        Ok(outcome) => Ok(Settled::of(&outcome)),
                        Err(error) => Err(Box::new(Verdict::of(Err(error), wait))),
                    })
                    .collect(),
            ),
            Performed::Returned(Err(error)) if error.chain().any(|cause| cause.is::<FenceLost>()) => {
                Trial::All(Verdict::Lost)
            }
            Performed::Returned(Err(error)) if is_infrastructure(&error) => {
                Trial::All(Verdict::Infrastructure(crate::failure::excerpt(&format!("{error:#}"))))
            }
            Performed::Returned(Err(error)) => {
                tracing::warn!("the batch failed, each half is tried by itself: {error:#}");
                Trial::Undone
            }
            Performed::Panicked(message) => {
                tracing::error!(message, "the batch panicked, each half is tried by itself");
                Trial::Undone
            }
            Performed::TimedOut => {
                tracing::warn!("the batch took too long, each half is tried by itself");
                Trial::Undone
            }
            Performed::Stopped => Trial::All(Verdict::HandBack),
            // Whose wish that was is found when it is alone.
            Performed::Cancelled => Trial::Undone,
            Performed::LeaseLost => Trial::All(Verdict::Lost),
        }
    }

    /// The transaction of a batch; returns what the handler said of each job.
    async fn work(
        &self,
        batch: &[Claimed],
        members: Vec<(Attempt, Box<dyn Decoded<S>>)>,
        handler: Handler<S>,
    ) -> anyhow::Result<Vec<anyhow::Result<Outcome>>> {
        let lost = members[0].0.fence_lost();
        let held: Vec<_> = batch.iter().map(|claimed| self.held(claimed)).collect();
        let ids: Vec<_> = batch.iter().map(|claimed| claimed.id.0).collect();
        let first = &held[0];
        let mut tx = self.pool.begin().await?;
        let count = sqlx::query_scalar!(
            r#"select queue.hold_some($1, $2, $3) as "held!""#,
            first.claim_id,
            &ids,
            first.worker_id
        )
        .fetch_one(&mut *tx)
        .await?;
        if count != i64::try_from(ids.len())? {
            return Err(lost.into());
        }
        let outcomes = handler(members, &mut tx, self.services).await?;
        check(batch.len(), outcomes.len())?;

        let mut done = Vec::with_capacity(batch.len());
        let mut ended = 0;
        for (held, outcome) in held.iter().zip(&outcomes) {
            match outcome {
                Ok(Outcome::Done) => done.push(held),
                Ok(outcome) if finish::end_as(&mut tx, held, outcome).await? => ended += 1,
                Ok(_) => return Err(lost.into()),
                Err(_) => {}
            }
        }
        let is_any_unique = batch.iter().any(|claimed| claimed.unique_key.is_some());
        let Some(is_claim_gone) = self.completer.complete_in(&mut tx, &done, is_any_unique).await? else {
            return Err(lost.into());
        };
        if let Err(unknown) = tx.commit().await
            && !finish::is_completed(self.pool, first).await?
            && !finish::is_ended_by_us(self.pool, first).await?
        {
            return Err(unknown.into());
        }
        match is_claim_gone {
            true => self.completer.gone(first.claim_id),
            false => self.completer.left(first.claim_id, ended + done.len(), 0),
        }
        Ok(outcomes)
    }
}
