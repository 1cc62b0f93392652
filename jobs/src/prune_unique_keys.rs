//! Deletes unique keys of jobs long finished.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Deletes unique keys of jobs long finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PruneUniqueKeys {
}

impl Job for PruneUniqueKeys {
    type Services = Services;
    const KIND: &'static str = "prune_unique_keys";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
