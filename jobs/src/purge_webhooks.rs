//! Deletes what webhooks said a month ago: the contents of events, and what partners and the gateway sent. What became of each delivery stays
//! on record. Running it twice, or two at once, is safe: it takes only what is past its time, and goes on where the last run
//! stopped.

use domain::{Services, inbound, partners, webhooks};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Days that contents, and the ids of what partners sent, are kept. The gateway's have the same time, [`inbound::KEEP`].
const KEEP_DAYS: i32 = 30;
/// Rows in one transaction.
const BATCH: i64 = 2000;
/// Batches in one run; the next hour's run takes the rest.
const BATCHES_MAX: usize = 500;

/// Deletes the contents of old webhooks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PurgeWebhooks {}

impl Job for PurgeWebhooks {
    type Services = Services;
    const KIND: &'static str = "purge_webhooks";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let (mut purged, mut pruned) = (0, 0);
        for _ in 0..BATCHES_MAX {
            let mut tx = attempt.begin().await?;
            let sent = webhooks::store::purge(&mut tx, KEEP_DAYS, BATCH).await?;
            let received =
                partners::inbound::prune(&mut tx, KEEP_DAYS, BATCH).await? + inbound::forget(&mut tx, BATCH).await?;
            tx.commit().await?;
            purged += sent;
            pruned += received;
            if sent + received == 0 {
                break;
            }
        }
        let tx = attempt.begin().await?;
        tx.done_with(json!({ "events_purged": purged, "inbound_pruned": pruned }))
            .await
    }
}
