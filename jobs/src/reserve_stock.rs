//! Holds stock for every line of an order, or rejects it. Running it twice is safe because it acts on pending orders only,
//! under the order's lock, and an order that it reserved or rejected is pending no more.
//!
//! An order that came with a payment method is confirmed in the same transaction: nobody sees it reserved and forgotten.

use std::time::Duration;

use anyhow::Context;
use domain::{
    Cause, Services,
    ids::OrderId,
    orders::{self, store::Reservation},
};
use queue::{Attempt, DeadLetter, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{announce, cause, hold_for, intake};

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
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let mut order = orders::store::lock(&mut tx, self.order_id)
            .await?
            .context("the order is gone")?;
        let ttl = services.settings.reservation_ttl;
        let (reservation, mut announced) = orders::store::reserve_locked(&mut tx, &mut order, ttl, &by).await?;
        let method = order.confirm_with.clone();
        if let (Reservation::Reserved, Some(method)) = (&reservation, method) {
            announced =
                announced.join(intake::confirm_locked(&mut tx, &mut order, &method, &services.settings, &by).await?);
        }
        announce(&mut tx, announced).await?;
        match reservation {
            Reservation::Reserved => tx.done().await,
            Reservation::Rejected(short) => {
                tx.done_with(json!({ "rejected": "insufficient_stock", "lines": short.len() }))
                    .await
            }
            Reservation::NotPending(status) => tx.done_with(json!({ "skipped": status })).await,
        }
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        let cause = Cause::job(&letter.kind, letter.id.0, letter.fence);
        hold_for(conn, self.order_id, letter, &cause).await
    }
}
