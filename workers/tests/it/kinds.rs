//! The kinds of job these tests run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use queue::{Attempt, Catalogue, Job, Outcome};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// What the jobs did, and what the slow ones wait for.
pub(crate) struct World {
    pub(crate) done: AtomicU64,
    pub(crate) running: AtomicI64,
    pub(crate) running_max: AtomicI64,
    pub(crate) gate: Semaphore,
    /// The groups of the links, as they ran.
    pub(crate) links: Mutex<Vec<String>>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            done: AtomicU64::default(),
            running: AtomicI64::default(),
            running_max: AtomicI64::default(),
            gate: Semaphore::new(0),
            links: Mutex::default(),
        }
    }
}

impl World {
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> i64 {
        self.running.load(Ordering::SeqCst)
    }
}

/// Does nothing, in one fenced transaction.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Quick {
    pub(crate) n: u64,
}

impl Job for Quick {
    type Services = World;
    const KIND: &'static str = "quick";
    const QUEUE: &'static str = "quick";

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        let outcome = attempt.begin().await?.done().await?;
        world.done.fetch_add(1, Ordering::SeqCst);
        Ok(outcome)
    }
}

/// Waits at the gate.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Slow {}

impl Job for Slow {
    type Services = World;
    const KIND: &'static str = "slow";
    const QUEUE: &'static str = "slow";
    const TIMEOUT: Duration = Duration::from_secs(600);

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        let now = world.running.fetch_add(1, Ordering::SeqCst) + 1;
        world.running_max.fetch_max(now, Ordering::SeqCst);
        let _leaving = Leaving(&world.running);
        world.gate.acquire().await?.forget();
        let outcome = attempt.begin().await?.done().await?;
        world.done.fetch_add(1, Ordering::SeqCst);
        Ok(outcome)
    }
}

/// The same, in another queue.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Slower {}

impl Job for Slower {
    type Services = World;
    const KIND: &'static str = "slower";
    const QUEUE: &'static str = "slower";
    const TIMEOUT: Duration = Slow::TIMEOUT;

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        Slow {}.run(attempt, world).await
    }
}

/// Waits for the end of another: of its group, or of its limit's key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Next {
    pub(crate) group: Option<String>,
    pub(crate) limit: Option<String>,
}

impl Job for Next {
    type Services = World;
    const KIND: &'static str = "next";
    const QUEUE: &'static str = "quick";

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    fn limit(&self) -> Option<String> {
        self.limit.clone()
    }

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        Quick { n: 0 }.run(attempt, world).await
    }
}

/// One of a group, with nothing to write.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) group: String,
}

impl Job for Link {
    type Services = World;
    const KIND: &'static str = "link";
    const QUEUE: &'static str = "chain";

    fn group(&self) -> Option<String> {
        Some(self.group.clone())
    }

    async fn run(self, _: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        world.links.lock().unwrap().push(self.group);
        world.done.fetch_add(1, Ordering::SeqCst);
        Ok(Outcome::Done)
    }
}

struct Leaving<'a>(&'a AtomicI64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn catalogue() -> Catalogue<World> {
    Catalogue::new()
        .with::<Link>()
        .with::<Next>()
        .with::<Quick>()
        .with::<Slow>()
        .with::<Slower>()
}
