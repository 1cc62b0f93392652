//! What the parts of one worker process share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use queue::Catalogue;
use queue::attempt::{self, Runner};
use queue::claim::Claimed;
use queue::lease::Registration;
use sqlx::PgPool;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, watch};
use tokio_util::sync::CancellationToken;

/// One worker process.
pub(crate) struct Site<S> {
    pub(crate) pool: PgPool,
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
    /// The jobs in this process's hands, with their queues.
    holding: Mutex<BTreeMap<i64, String>>,
}

/// A claimed job on its way to a slot, and what it holds while it is in flight.
pub(crate) struct InFlight {
    pub(crate) job: Claimed,
    pub(crate) registration: Arc<Registration>,
    pub(crate) slot: OwnedSemaphorePermit,
    pub(crate) company: Arc<OwnedRwLockReadGuard<()>>,
}

impl<S: Send + Sync + 'static> Site<S> {
    pub(crate) fn new(
        pool: PgPool,
        catalogue: Catalogue<S>,
        services: Arc<S>,
        registration: watch::Receiver<Option<Arc<Registration>>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            catalogue,
            services,
            registration,
            // A child: the process may also end by itself.
            stop: stop.child_token(),
            hand_back: CancellationToken::new(),
            ended: CancellationToken::new(),
            alone: Arc::default(),
            holding: Mutex::default(),
        }
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

    /// Runs one job to its settlement.
    pub(crate) async fn attempt(&self, job: Claimed, registration: Arc<Registration>) {
        let id = job.id.0;
        let runner = Runner {
            pool: &self.pool,
            catalogue: &self.catalogue,
            services: self.services.as_ref(),
            stop: &self.hand_back,
        };
        attempt::run(&runner, job, registration).await;
        self.holding().remove(&id);
    }

    /// Remembers that a job is in this process's hands.
    pub(crate) fn hold(&self, job: &Claimed) {
        self.holding().insert(job.id.0, job.queue.clone());
    }

    /// The jobs of a queue in this process's hands.
    pub(crate) fn held(&self, queue: &str) -> Vec<i64> {
        self.holding()
            .iter()
            .filter(|(_, of)| *of == queue)
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.holding().len()
    }

    fn holding(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, String>> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
