//! Deletes idempotency keys past their time.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Deletes idempotency keys past their time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PruneIdempotencyKeys {
}

impl Job for PruneIdempotencyKeys {
    type Services = Services;
    const KIND: &'static str = "prune_idempotency_keys";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
