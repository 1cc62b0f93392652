//! Drops old days of finished jobs.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Drops old days of finished jobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PruneFinishedJobs {
}

impl Job for PruneFinishedJobs {
    type Services = Services;
    const KIND: &'static str = "prune_finished_jobs";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
