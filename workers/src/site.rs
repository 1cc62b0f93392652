//! What the parts of one worker process share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use queue::Catalogue;
use queue::claim::{Claimed, Known, Line, Rank};
use queue::complete::Completer;
use queue::lease::Registration;
use queue::limit::{self, Limit};
use queue::runner::Runner;
use sqlx::PgPool;
use tokio::sync::{Notify, OnceCell, OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, watch};
use tokio_util::sync::CancellationToken;

/// So many jobs of a group a slot runs one after the other; then it is the line's again.
const IN_A_ROW_MAX: usize = 8;

/// One worker process.
pub(crate) struct Site<S> {
    pub(crate) pool: PgPool,
    /// Connections that claim, and nothing else. Their commits do not wait for the disk: a claim promises nothing to anybody,
    /// and whatever is written under it, and waits, takes it to the disk as well.
    pub(crate) claim_pool: PgPool,
    pub(crate) catalogue: Catalogue<S>,
    pub(crate) services: Arc<S>,
    registration: watch::Receiver<Option<Arc<Registration>>>,
    /// Stop claiming.
    pub(crate) stop: CancellationToken,
    /// Hand back what still runs.
    pub(crate) hand_back: CancellationToken,
    /// Everything is over.
    pub(crate) ended: CancellationToken,
    /// Held for reading by every job in flight; whoever holds it for writing is alone.
    pub(crate) alone: Arc<RwLock<()>>,
    /// The lines it claims from, by queue.
    lines: BTreeMap<String, Arc<Line>>,
    /// Wakes the fetchers of a queue.
    pub(crate) hints: OnceLock<Vec<(String, Arc<Notify>)>>,
    /// Knows what is in this process's hands, and completes it.
    pub(crate) completer: Completer,
    /// The limits this build comes with, and whether they are in force.
    limits: Vec<(&'static str, Limit)>,
    has_limits: OnceCell<()>,
}

/// What a build brings along.
pub(crate) struct Build<S> {
    pub(crate) catalogue: Catalogue<S>,
    pub(crate) services: Arc<S>,
    pub(crate) limits: Vec<(&'static str, Limit)>,
}

/// What one claim brought, and what is held while it runs.
pub(crate) struct Flight {
    /// What each slot runs: a claimed job, or several of a kind that takes them together.
    pub(crate) attempts: Vec<(Vec<Claimed>, OwnedSemaphorePermit)>,
    pub(crate) registration: Arc<Registration>,
    pub(crate) company: Arc<OwnedRwLockReadGuard<()>>,
}

impl<S: Send + Sync + 'static> Site<S> {
    pub(crate) fn new(
        pool: PgPool,
        claim_pool: PgPool,
        queues: &[String],
        build: Build<S>,
        registration: watch::Receiver<Option<Arc<Registration>>>,
        completer: Completer,
        stop: CancellationToken,
    ) -> Self {
        let Build {
            catalogue,
            services,
            limits,
        } = build;
        let line = |queue: &String| (queue.clone(), Arc::new(Line::new(Known::of(&catalogue, queue))));
        Self {
            pool,
            claim_pool,
            lines: queues.iter().map(line).collect(),
            catalogue,
            services,
            registration,
            // A child: the process may also end by itself.
            stop: stop.child_token(),
            hand_back: CancellationToken::new(),
            ended: CancellationToken::new(),
            alone: Arc::default(),
            hints: OnceLock::new(),
            completer,
            limits,
            has_limits: OnceCell::new(),
        }
    }

    /// Sets the limits this build comes with, once: nothing is claimed before.
    pub(crate) async fn set_limits(&self) -> anyhow::Result<()> {
        let install = async || {
            limit::install(&mut *self.pool.acquire().await?, &self.limits)
                .await
                .map_err(Into::into)
        };
        self.has_limits.get_or_try_init(install).await.copied()
    }

    /// The line of a queue that this process serves.
    pub(crate) fn line(&self, queue: &str) -> Arc<Line> {
        Arc::clone(&self.lines[queue])
    }

    /// The registration in force, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Registration>> {
        self.registration
            .borrow()
            .clone()
            .filter(|registration| !registration.lost.is_cancelled())
    }

    /// Waits for a registration in force.
    pub(crate) async fn registered(&self) -> Option<Arc<Registration>> {
        let mut registration = self.registration.clone();
        loop {
            if let Some(current) = self.current() {
                return Some(current);
            }
            registration.changed().await.ok()?;
        }
    }

    /// Runs jobs to their settlement: one, or several of one claim and kind.
    pub(crate) async fn attempt(&self, mut jobs: Vec<Claimed>, registration: Arc<Registration>) {
        let runner = Runner {
            pool: &self.pool,
            catalogue: &self.catalogue,
            services: self.services.as_ref(),
            stop: &self.hand_back,
            completer: &self.completer,
        };
        let followed = jobs.iter().filter(|job| job.group_key.is_some() || job.is_limited);
        let mut followed = followed.min_by_key(|job| job.rank).map(place_of);
        if jobs.len() > 1 {
            // Boxed, since every task is made with the room for whatever it may do.
            Box::pin(runner.run_batch(jobs, registration)).await;
        } else if let Some(job) = jobs.pop() {
            let last = self.run_in_a_row(&runner, job, &registration).await;
            followed = followed.and(Some(last));
        }
        if let Some((queue, rank)) = followed {
            self.line(&queue).look_back(rank);
            self.wake(&queue);
        }
    }

    /// Runs a job, and goes on with the next ones of its group; returns where in line the last of them stood.
    async fn run_in_a_row(
        &self,
        runner: &Runner<'_, S>,
        mut job: Claimed,
        registration: &Arc<Registration>,
    ) -> (Arc<str>, Rank) {
        let mut in_a_row = 1;
        loop {
            let place = place_of(&job);
            let registration = Arc::clone(registration);
            if in_a_row == IN_A_ROW_MAX || !self.may_go_on() {
                runner.run(job, registration).await;
                return place;
            }
            match runner.run_and_go_on(job, registration).await {
                (_, Some(next)) => job = *next,
                (_, None) => return place,
            }
            in_a_row += 1;
        }
    }

    /// Whether a slot may go on with the next job of a group: the process does not stop, and nobody waits to be alone.
    fn may_go_on(&self) -> bool {
        !self.stop.is_cancelled() && self.alone.try_read().is_ok()
    }

    /// The next job of a group may have its turn now, or a limit has room again, and no notification tells.
    fn wake(&self, queue: &str) {
        for (of, hint) in self.hints.get().into_iter().flatten() {
            if of == queue {
                hint.notify_one();
            }
        }
    }
}

/// Where in line a job stood.
fn place_of(job: &Claimed) -> (Arc<str>, Rank) {
    (Arc::clone(&job.queue), job.rank)
}
