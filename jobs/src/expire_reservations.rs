//! Asks for the end of every order that nobody confirmed in time. Running it twice, or two at once, is safe: it only asks, and
//! asking twice is asking once. The orders are ended by jobs of their own, many in one transaction, so that one that cannot
//! be ended keeps no other from it.

use domain::{Services, orders};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::ExpireOrder;

/// Orders asked for in one run; the next minute's run asks for the rest.
const ORDERS_MAX: i64 = 5000;

/// Looks for orders that nobody confirmed in time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExpireReservations {}

impl Job for ExpireReservations {
    type Services = Services;
    const KIND: &'static str = "expire_reservations";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let expired = orders::store::expired(&mut tx, ORDERS_MAX).await?;
        let jobs: Vec<_> = expired.into_iter().map(|order_id| ExpireOrder { order_id }).collect();
        queue::enqueue_many(&mut tx, &jobs).await?;
        tx.done_with(json!({ "expired": jobs.len() })).await
    }
}
