//! Jobs that do nothing.

use std::sync::OnceLock;
use std::time::Instant;

use queue::{Attempt, Catalogue, Job, Outcome};
use serde::{Deserialize, Serialize};
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

pub(crate) fn catalogue() -> Catalogue<()> {
    Catalogue::new().with::<Kept>().with::<Forgotten>().with::<Fenced>()
}
