//! Deletes road distances that nobody has used for a time and no coming plan needs. Running it twice, or two at once, is
//! safe: it deletes only what is past its time, and each skips what the other has.

use domain::{Services, routes::road_matrix};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Batches of a hundred in one run; the next day's run takes the rest.
const BATCHES_MAX: usize = 100;

/// Deletes road distances past their time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneRoadMatrices {}

impl Job for PruneRoadMatrices {
    type Services = Services;
    const KIND: &'static str = "prune_road_matrices";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let keep_days = i32::from(services.settings.road_matrix_days);
        let mut pruned = 0;
        for _ in 0..BATCHES_MAX {
            let mut tx = attempt.begin().await?;
            let count = road_matrix::prune(&mut tx, keep_days).await?;
            tx.commit().await?;
            pruned += count;
            if count == 0 {
                break;
            }
        }
        attempt.begin().await?.done_with(json!({ "pruned": pruned })).await
    }
}
