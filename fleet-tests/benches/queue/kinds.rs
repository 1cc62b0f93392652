//! Jobs that do nothing.

use std::sync::OnceLock;
use std::time::Instant;

use queue::{Attempt, BatchJob, Catalogue, Job, Member, Outcome, batch};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::mpsc::UnboundedSender;

/// Where a job says that it has started, when somebody listens.
pub(crate) static STARTED: OnceLock<UnboundedSender<(i64, Instant)>> = OnceLock::new();

/// Is remembered when it has ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) n: i64,
}

impl Job for Kept {
    type Services = ();
    const KIND: &'static str = "kept";
    const QUEUE: &'static str = "kept";

    async fn run(self, _: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        if let Some(started) = STARTED.get() {
            _ = started.send((self.n, Instant::now()));
        }
        Ok(Outcome::Done)
    }
}

/// Is forgotten when it has ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Forgotten {
    pub(crate) n: i64,
}

impl Job for Forgotten {
    type Services = ();
    const KIND: &'static str = "forgotten";
    const QUEUE: &'static str = "forgotten";
    const IS_KEPT: bool = false;

    async fn run(self, _: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        Ok(Outcome::Done)
    }
}

/// Takes one transaction that asserts the fence and completes the job, as the kinds of Orderfleet do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Fenced {
    pub(crate) n: i64,
}

impl Job for Fenced {
    type Services = ();
    const KIND: &'static str = "fenced";
    const QUEUE: &'static str = "fenced";

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        attempt.begin().await?.done().await
    }
}

/// Is done with up to five hundred others in one transaction, and forgotten when it has ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Batched {
    pub(crate) n: i64,
}

impl Job for Batched {
    type Services = ();
    const KIND: &'static str = "batched";
    const QUEUE: &'static str = "batched";
    const IS_KEPT: bool = false;

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        batch::alone(self, attempt, &()).await
    }
}

impl BatchJob for Batched {
    const BATCH_MAX: usize = 500;

    async fn run_batch(
        batch: Vec<Member<Self>>,
        _: &mut PgConnection,
        (): &(),
    ) -> anyhow::Result<Vec<anyhow::Result<Outcome>>> {
        Ok(batch.iter().map(|_| Ok(Outcome::Done)).collect())
    }
}

/// The same, and remembered.
#[derive(Serialize, Deserialize)]
pub(crate) struct BatchedKept {
    pub(crate) n: i64,
}

impl Job for BatchedKept {
    type Services = ();
    const KIND: &'static str = "batched_kept";
    const QUEUE: &'static str = "batched_kept";

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        batch::alone(self, attempt, &()).await
    }
}

impl BatchJob for BatchedKept {
    const BATCH_MAX: usize = 500;

    async fn run_batch(
        batch: Vec<Member<Self>>,
        _: &mut PgConnection,
        (): &(),
    ) -> anyhow::Result<Vec<anyhow::Result<Outcome>>> {
        Ok(batch.iter().map(|_| Ok(Outcome::Done)).collect())
    }
}

pub(crate) fn catalogue() -> Catalogue<()> {
    Catalogue::new()
        .with::<Kept>()
        .with::<Forgotten>()
        .with::<Fenced>()
        .with_batch::<Batched>()
        .with_batch::<BatchedKept>()
}
