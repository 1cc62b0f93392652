//! Holds stock for every line of an order, or rejects it; many orders in one transaction. Running it twice is safe because it acts on pending orders only,
//! under the order's lock, and an order that it reserved or rejected is pending no more.
//!
//! An order that came with a payment method is confirmed in the same transaction: nobody sees it reserved and forgotten.

use std::time::Duration;

use domain::{
    Cause, Services,
    events::Announced,
    ids::OrderId,
    orders::{self, Order, store::Reservation},
};
use queue::{Attempt, BatchJob, DeadLetter, Job, Member, Outcome, Retry, Unique, batch, trace};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{announce_each, cause, hold_for, intake};

/// Holds stock for an order, or rejects it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReserveStock {
    /// The order.
    pub order_id: OrderId,
}

impl Job for ReserveStock {
    type Services = Services;
    const KIND: &'static str = "reserve_stock";
    const QUEUE: &'static str = "stock";
    // What fails here is a lock or a connection: soon again.
    const RETRY: Retry = Retry::new(Duration::from_millis(20), Duration::from_secs(2), 20);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::kept(format!("reserve:{}", self.order_id)))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        batch::alone(self, attempt, services).await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        let cause = Cause::job(&letter.kind, letter.id.0, letter.fence);
        hold_for(conn, self.order_id, letter, &cause).await
    }
}

impl BatchJob for ReserveStock {
    const BATCH_MAX: usize = 64;

    async fn run_batch(
        batch: Vec<Member<Self>>,
        conn: &mut PgConnection,
        services: &Services,
    ) -> anyhow::Result<Vec<anyhow::Result<Outcome>>> {
        let ids: Vec<OrderId> = batch.iter().map(|member| member.job.order_id).collect();
        let mut orders = orders::store::lock_to_reserve(conn, &ids).await?;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut announced = Vec::with_capacity(batch.len());
        for Member { attempt, job } in &batch {
            let Some(order) = orders.iter_mut().find(|order| order.id == job.order_id) else {
                outcomes.push(Err(anyhow::anyhow!("the order is gone")));
                continue;
            };
            let by = cause(attempt);
            let reserving = reserve(conn, order, services, &by);
            let (outcome, events) = trace::scope(attempt.trace, reserving).await?;
            announced.push((attempt.trace, events));
            outcomes.push(Ok(outcome));
        }
        announce_each(conn, announced).await?;
        Ok(outcomes)
    }
}

/// Reserves or rejects one order, which is locked, and confirms it if it came with a payment method.
async fn reserve(
    conn: &mut PgConnection,
    order: &mut Order,
    services: &Services,
    by: &Cause,
) -> anyhow::Result<(Outcome, Announced)> {
    let ttl = services.settings.reservation_ttl;
    let (reservation, mut announced) = orders::store::reserve_locked(conn, order, ttl, by).await?;
    let method = order.confirm_with.clone();
    if let (Reservation::Reserved, Some(method)) = (&reservation, method) {
        announced = announced.join(intake::confirm_locked(conn, order, &method, &services.settings, by).await?);
    }
    let outcome = match reservation {
        Reservation::Reserved => Outcome::Done,
        Reservation::Rejected(short) => {
            Outcome::DoneWith(json!({ "rejected": "insufficient_stock", "lines": short.len() }))
        }
        Reservation::NotPending(status) => Outcome::DoneWith(json!({ "skipped": status })),
    };
    Ok((outcome, announced))
}
