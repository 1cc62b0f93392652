//! The real claim and finish code in a test's own process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Catalogue;
use crate::claim::{self, Claimed, Known};
use crate::complete::Completer;
use crate::finish;
use crate::inspect::{self, JobFilter, JobView};
use crate::job::Job;
use crate::lease::{self, Identity, Registration};
use crate::runner::{Runner, Settled};

/// What `run_until_idle` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Attempts that completed their job.
    pub completed: u64,
    /// Attempts that failed and will be tried again.
    pub retried: u64,
    /// Attempts that used no try: snoozed, throttled, paused, handed back.
    pub postponed: u64,
    /// Attempts that ended in a dead letter.
    pub buried: u64,
    /// Attempts that discarded their job.
    pub discarded: u64,
    /// Attempts that were stopped because somebody asked for it.
    pub cancelled: u64,
    /// Attempts whose job was taken from them.
    pub lost: u64,
}

/// A worker in a test's own process: it registers, claims and runs like a real one, but only when the test says so.
pub struct Worker<'a, S> {
    pool: PgPool,
    catalogue: &'a Catalogue<S>,
    services: Arc<S>,
    /// Its row, for what a test does to it.
    pub registration: Arc<Registration>,
    lease: Duration,
    /// The row stands on a session of its own, as a real worker's does.
    session: PgConnection,
    completer: Completer,
    completions: JoinHandle<()>,
    /// Cancelled by a test, it makes handlers hand their jobs back.
    pub stop: CancellationToken,
}

impl<'a, S: Send + Sync + 'static> Worker<'a, S> {
    /// Registers a worker for every queue of the catalogue, with a lease of an hour.
    pub async fn register(pool: &PgPool, catalogue: &'a Catalogue<S>, services: &Arc<S>) -> anyhow::Result<Self> {
        Self::register_as(identity(catalogue), pool, catalogue, services).await
    }

    /// Registers a worker that says something else of itself, such as [`identity`] with another lease.
    pub async fn register_as(
        identity: Identity,
        pool: &PgPool,
        catalogue: &'a Catalogue<S>,
        services: &Arc<S>,
    ) -> anyhow::Result<Self> {
        let mut session = PgConnection::connect_with(&pool.connect_options()).await?;
        let registration = Arc::new(lease::register(&mut session, &identity).await?);
        let (completer, completions) = Completer::new(pool.clone(), pool.clone(), catalogue);
        Ok(Self {
            pool: pool.clone(),
            catalogue,
            services: Arc::clone(services),
            registration,
            lease: identity.lease,
            session,
            completer,
            completions: tokio::spawn(completions),
            stop: CancellationToken::new(),
        })
    }

    /// Claims up to `limit` due jobs of a queue, in one claim.
    pub async fn claim(&self, queue: &str, limit: usize) -> anyhow::Result<Vec<Claimed>> {
        let known = Known::of(self.catalogue, queue);
        let claimed = claim::claim(&self.pool, &known, self.registration.id, limit).await?;
        self.completer.hold(&claimed);
        Ok(claimed)
    }

    /// Claims the suspect of a queue that has waited longest.
    pub async fn claim_suspect(&self, queue: &str) -> anyhow::Result<Option<Claimed>> {
        let known = Known::of(self.catalogue, queue);
        let claimed = claim::claim_suspect(&self.pool, &known, self.registration.id).await?;
        self.completer.hold(claimed.as_slice());
        Ok(claimed)
    }

    /// Runs one claimed job to its settlement.
    pub async fn run(&self, job: Claimed) -> Settled {
        self.runner().run(job, Arc::clone(&self.registration)).await
    }

    /// As [`Worker::run`], and goes on with the next of the job's group if that may run: it is claimed, and returned.
    pub async fn run_and_go_on(&self, job: Claimed) -> (Settled, Option<Box<Claimed>>) {
        self.runner().run_and_go_on(job, Arc::clone(&self.registration)).await
    }

    /// Runs jobs of one claim and one kind together.
    pub async fn run_batch(&self, jobs: Vec<Claimed>) -> Vec<Settled> {
        self.runner().run_batch(jobs, Arc::clone(&self.registration)).await
    }

    /// Runs claimed jobs side by side, each to its settlement; returns these in their order.
    pub async fn run_all(&self, jobs: Vec<Claimed>) -> Vec<Settled> {
        futures::future::join_all(jobs.into_iter().map(|job| self.run(job))).await
    }

    /// Proves its life once, and learns which jobs somebody has asked to stop; false when its row is gone.
    pub async fn beat(&self) -> sqlx::Result<bool> {
        let mut conn = self.pool.acquire().await?;
        lease::beat(&mut conn, &self.registration, self.lease).await
    }

    /// Hands back all that the table says it holds, as a stopping worker does; returns how many jobs that were.
    pub async fn hand_back_all(&self) -> sqlx::Result<u64> {
        finish::hand_back_all(&self.pool, self.registration.id).await
    }

    /// Hands back what the table says it holds of a queue and what is not in its hands; returns how many jobs that were.
    pub async fn hand_back_strays(&self, queue: &str) -> sqlx::Result<u64> {
        let in_hand = self.completer.in_hand(queue);
        finish::hand_back_strays(&self.pool, self.registration.id, queue, &in_hand).await
    }

    /// How many claimed jobs it has not settled.
    pub fn jobs_in_hand(&self) -> usize {
        self.completer.jobs_in_hand()
    }

    /// Leaves in good order: everything is written, and the row goes.
    pub async fn leave(mut self) -> anyhow::Result<()> {
        drop(self.completer);
        self.completions.await?;
        lease::deregister(&mut self.session, self.registration.id).await?;
        Ok(self.session.close().await?)
    }

    /// Dies as a killed process does: its session is gone, its last heartbeat was a while ago, and its row and jobs stay.
    pub async fn die(mut self) -> anyhow::Result<()> {
        const GONE_WITHIN: Duration = Duration::from_secs(30);
        self.completions.abort();
        let backend = sqlx::query_scalar!(
            r#"update queue.workers set beat_at = beat_at - interval '1 minute' where id = $1
               returning pg_backend_pid() as "pid!""#,
            self.registration.id,
        )
        .fetch_optional(&mut self.session)
        .await?;
        self.session.close().await?;
        let started = Instant::now();
        while sqlx::query_scalar!(
            r#"select exists (select from pg_stat_activity where pid = $1) as "lives!""#,
            backend,
        )
        .fetch_one(&self.pool)
        .await?
        {
            anyhow::ensure!(started.elapsed() < GONE_WITHIN, "the session of a dead worker stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn runner(&self) -> Runner<'_, S> {
        Runner {
            pool: &self.pool,
            catalogue: self.catalogue,
            services: self.services.as_ref(),
            stop: &self.stop,
            completer: &self.completer,
        }
    }
}

/// What [`Worker::register`] says of a worker: every queue and kind of the catalogue, and a lease of an hour.
pub fn identity<S: Send + Sync + 'static>(catalogue: &Catalogue<S>) -> Identity {
    Identity {
        name: "test".to_owned(),
        kinds: catalogue.kinds(),
        pools: queues(catalogue),
        build: "test".to_owned(),
        lease: Duration::from_secs(3600),
        is_pooled: false,
        slots: None,
    }
}

/// The queues that a catalogue's jobs wait in.
fn queues<S: Send + Sync + 'static>(catalogue: &Catalogue<S>) -> Vec<String> {
    let queues: BTreeSet<_> = catalogue
        .kinds()
        .into_iter()
        .map(|kind| kind.queue.to_owned())
        .collect();
    queues.into_iter().collect()
}

/// Runs whatever is due, one after the other, until nothing is.
pub async fn run_until_idle<S: Send + Sync + 'static>(
    pool: &PgPool,
    catalogue: &Catalogue<S>,
    services: &Arc<S>,
) -> anyhow::Result<Ran> {
    const ATTEMPTS_MAX: u64 = 100_000;
    let queues = queues(catalogue);
    let worker = Worker::register(pool, catalogue, services).await?;
    let mut ran = Ran::default();
    let mut attempts = 0;
    loop {
        let mut is_idle = true;
        for queue in &queues {
            let mut claimed = worker.claim(queue, 1).await?;
            claimed.extend(worker.claim_suspect(queue).await?);
            for job in claimed {
                is_idle = false;
                attempts += 1;
                match worker.run(job).await {
                    Settled::Completed => ran.completed += 1,
                    Settled::Retried => ran.retried += 1,
                    Settled::Postponed => ran.postponed += 1,
                    Settled::Buried => ran.buried += 1,
                    Settled::Discarded => ran.discarded += 1,
                    Settled::Cancelled => ran.cancelled += 1,
                    Settled::Lost => ran.lost += 1,
                }
            }
        }
        if is_idle {
            break;
        }
        anyhow::ensure!(attempts < ATTEMPTS_MAX, "still not idle after {ATTEMPTS_MAX} attempts");
    }
    worker.leave().await?;
    Ok(ran)
}

/// Makes everything that waits due that much sooner, ends the keys that are taken for a time, and lets limits open: rows
/// move, not clocks.
pub async fn fast_forward(pool: &PgPool, time: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "with moved as (
             update queue.jobs
             set run_at = run_at - make_interval(secs => $1), deadline_at = deadline_at - make_interval(secs => $1),
                 created_at = created_at - make_interval(secs => $1)
         ), aged as (
             update queue.unique_keys set expires_at = expires_at - make_interval(secs => $1) where expires_at is not null
         ), opening as (
             update queue.limit_keys
             set arrival = arrival - make_interval(secs => $1), opens_at = opens_at - make_interval(secs => $1),
                 open_until = open_until - make_interval(secs => $1)
         )
         update queue.schedules set settled_at = settled_at - make_interval(secs => $1), next_at = null",
        time.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The jobs of a kind that have not ended, oldest first.
pub async fn enqueued(pool: &PgPool, kind: &str) -> sqlx::Result<Vec<JobView>> {
    inspect::live(&mut *pool.acquire().await?, kind).await
}

/// Asserts that a job with this payload was enqueued and has not ended, and returns it, the oldest if there are several.
/// Panics with what is there instead: the jobs of its kind, ended ones too, or else those of other kinds, newest first.
pub async fn assert_enqueued<J: Job>(pool: &PgPool, job: &J) -> JobView {
    let expected = serde_json::to_value(job).expect("a payload is JSON");
    let mut conn = pool.acquire().await.expect("a connection to look with");
    let live = inspect::live(&mut conn, J::KIND).await.expect("the jobs of a kind");
    if let Some(found) = live.into_iter().find(|view| view.args == expected) {
        return found;
    }
    let mut filter = JobFilter {
        kind: Some(J::KIND.to_owned()),
        limit: 10,
        ..JobFilter::default()
    };
    let mut others = inspect::jobs(&mut conn, &filter).await.expect("the jobs of a kind");
    if others.is_empty() {
        filter.kind = None;
        others = inspect::jobs(&mut conn, &filter).await.expect("the jobs of all kinds");
    }
    let others: Vec<_> = others
        .iter()
        .map(|view| format!("\n  {} job {}: {} {}", view.state, view.id, view.kind, view.args))
        .collect();
    match others.as_slice() {
        [] => panic!("no {} {expected} is enqueued, nor anything else", J::KIND),
        others => panic!("no {} {expected} is enqueued; there is:{}", J::KIND, others.concat()),
    }
}
