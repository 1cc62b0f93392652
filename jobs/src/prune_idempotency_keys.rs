//! Deletes idempotency keys past their time: a day, or thirty for a confirm. Running it twice, or two at once, is safe: it
//! deletes only what is past its time, and each skips what the other has.

use domain::{Services, idempotency};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Keys in one transaction.
const BATCH: i64 = 2000;
/// Batches in one run; the next hour's run takes the rest.
const BATCHES_MAX: usize = 500;

/// Deletes idempotency keys past their time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneIdempotencyKeys {}

impl Job for PruneIdempotencyKeys {
    type Services = Services;
    const KIND: &'static str = "prune_idempotency_keys";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut pruned = 0;
        for _ in 0..BATCHES_MAX {
            let mut tx = attempt.begin().await?;
            let count = idempotency::store::prune(&mut tx, BATCH).await?;
            tx.commit().await?;
            pruned += count;
            if count == 0 {
                break;
            }
        }
        attempt.begin().await?.done_with(json!({ "pruned": pruned })).await
    }
}
