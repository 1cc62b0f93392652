//! Deletes idempotency keys past their time: a day, or thirty for a confirm. Running it twice, or two at once, is safe: it
//! deletes only what is past its time, and each skips what the other has.

use domain::{Services, idempotency};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::in_steps::{ROWS_MAX, in_steps};

/// Deletes idempotency keys past their time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneIdempotencyKeys {}

impl Job for PruneIdempotencyKeys {
    type Services = Services;
    const KIND: &'static str = "prune_idempotency_keys";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let pruned = in_steps(attempt, async |conn| idempotency::store::prune(conn, ROWS_MAX).await).await?;
        attempt.begin().await?.done_with(json!({ "pruned": pruned })).await
    }
}
