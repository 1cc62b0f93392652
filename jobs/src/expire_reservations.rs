//! Expires orders that nobody confirmed in time, and gives their stock back in the same transaction. Running it twice, or
//! two at once, is safe: it takes the lock of each order first, skips those somebody else has, and looks at `expires_at`
//! again under the lock, since a confirm may have extended it.

use domain::{Services, orders};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{announce, cause};

/// Orders in one transaction.
const BATCH: i64 = 100;
/// Batches in one run; the next minute's run takes the rest.
const BATCHES_MAX: usize = 100;

/// Expires orders that nobody confirmed in time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExpireReservations {}

impl Job for ExpireReservations {
    type Services = Services;
    const KIND: &'static str = "expire_reservations";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut expired = 0;
        for _ in 0..BATCHES_MAX {
            let mut tx = attempt.begin().await?;
            let mut orders = orders::store::lock_expired(&mut tx, BATCH).await?;
            if orders.is_empty() {
                break;
            }
            let announced = orders::store::expire(&mut tx, &mut orders, &cause(attempt)).await?;
            announce(&mut tx, announced).await?;
            tx.commit().await?;
            expired += orders.len();
        }
        attempt.begin().await?.done_with(json!({ "expired": expired })).await
    }
}
