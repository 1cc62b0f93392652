//! Ends an order that nobody confirmed in time, and gives its stock back; many orders in one transaction. Running it twice, or
//! two at once, is safe: it takes the lock of each order first, skips those somebody else has, and looks at `expires_at`
//! again under the lock, since a confirm may have extended it.
//!
//! What is skipped and still to be ended is asked for again by the next `expire_reservations`.

use std::time::Duration;

use domain::{
    Cause, Services,
    ids::OrderId,
    orders::{self, Status},
};
use queue::{Attempt, BatchJob, DeadLetter, Job, Member, Outcome, Retry, Unique, batch, trace};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{announce_each, cause, hold_for};

/// Ends an order that nobody confirmed in time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpireOrder {
    /// The order.
    pub order_id: OrderId,
}

impl Job for ExpireOrder {
    type Services = Services;
    const KIND: &'static str = "expire_order";
    const QUEUE: &'static str = "maintenance";
    const RETRY: Retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60), 5);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(self.order_id.to_string()))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        batch::alone(self, attempt, services).await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        let cause = Cause::job(&letter.kind, letter.id.0, letter.fence);
        hold_for(conn, self.order_id, letter, &cause).await
    }
}

impl BatchJob for ExpireOrder {
    async fn run_batch(
        batch: Vec<Member<Self>>,
        conn: &mut PgConnection,
        _services: &Services,
    ) -> anyhow::Result<Vec<anyhow::Result<Outcome>>> {
        let ids: Vec<OrderId> = batch.iter().map(|member| member.job.order_id).collect();
        let mut orders = orders::store::lock_to_expire(conn, &ids).await?;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut announced = Vec::with_capacity(orders.len());
        for Member { attempt, job } in &batch {
            let mut found = orders.iter_mut().filter(|order| order.status == Status::Reserved);
            let Some(order) = found.find(|order| order.id == job.order_id) else {
                outcomes.push(Ok(Outcome::DoneWith(json!({ "skipped": true }))));
                continue;
            };
            let by = cause(attempt);
            let expiring = orders::store::expire(conn, order, &by);
            announced.push((attempt.trace, trace::scope(attempt.trace, expiring).await?));
            outcomes.push(Ok(Outcome::Done));
        }
        announce_each(conn, announced).await?;
        Ok(outcomes)
    }
}
