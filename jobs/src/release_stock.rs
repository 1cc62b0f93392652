//! Gives an order's stock back, and ends its cancelling once its money is back too. Running it twice is safe because only
//! reservations that still hold stock count, and because each can be given back by one movement only:
//! `release:{reservation}` is unique.

use std::time::Duration;

use anyhow::Context;
use domain::{
    Cause, Services,
    ids::OrderId,
    orders::{self, Change, Order, Status},
};
use queue::{Attempt, DeadLetter, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{announce, cause, hold_for};

/// Gives an order's stock back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseStock {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub cause: String,
}

impl Job for ReleaseStock {
    type Services = Services;
    const KIND: &'static str = "release_stock";
    const QUEUE: &'static str = "stock";
    const RETRY: Retry = Retry::new(Duration::from_millis(20), Duration::from_secs(2), 20);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("release:{}:{}", self.order_id, self.cause)))
    }

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let mut order = orders::store::lock(&mut tx, self.order_id)
            .await?
            .context("the order is gone")?;
        if !is_over(&order) {
            return Ok(Outcome::Discard(format!(
                "the order is {} and needs its stock",
                order.status
            )));
        }
        let released = orders::store::release(&mut tx, &mut order, &self.cause, &by).await?;
        if was(&order) == Status::Cancelling && order.payment_status.is_settled() {
            let cancelled = Change {
                status: Some(Status::Cancelled),
                // The reason given with the cancel stays, also after a hold.
                reason: order.reason.clone(),
                cause: "release",
                event: Some("order.cancelled"),
                ..Change::default()
            };
            let announced = orders::store::change(&mut tx, &mut order, cancelled, &by).await?;
            announce(&mut tx, announced).await?;
        }
        tx.done_with(json!({ "reservations": released })).await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        let cause = Cause::job(&letter.kind, letter.id.0, letter.fence);
        hold_for(conn, self.order_id, letter, &cause).await
    }
}

/// What an order is, or was before it was held.
fn was(order: &Order) -> Status {
    order.held_from.unwrap_or(order.status)
}

/// Whether nobody will want its stock any more.
fn is_over(order: &Order) -> bool {
    matches!(
        was(order),
        Status::Cancelling | Status::Cancelled | Status::Rejected | Status::Expired
    )
}
