//! Lets a shipment leave its warehouse: stock and reservation fall together, and the last one closes the order. Running it
//! twice is safe because only committed reservations leave, each by one movement (`ship:{reservation}`), and because a
//! shipment becomes `shipped` once.

use std::time::Duration;

use anyhow::{Context, ensure};
use domain::{
    Cause, Services,
    events::{self, NewEvent},
    ids::ShipmentId,
    orders::{self, Order, PaymentStatus, Status},
    routes,
};
use queue::{Attempt, DeadLetter, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{announce, cause, hold_for};

/// How long to wait for a payment that is being captured.
const CAPTURE_WAIT: Duration = Duration::from_secs(15);
/// How long to wait for a person.
const HOLD_WAIT: Duration = Duration::from_secs(300);

/// Lets a shipment leave its warehouse.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShipShipment {
    /// The shipment.
    pub shipment_id: ShipmentId,
}

impl Job for ShipShipment {
    type Services = Services;
    const KIND: &'static str = "ship_shipment";
    const QUEUE: &'static str = "stock";
    const RETRY: Retry = Retry::new(Duration::from_millis(20), Duration::from_secs(2), 20);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("ship:{}", self.shipment_id)))
    }

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let shipment = routes::store::shipment(&mut tx, self.shipment_id)
            .await?
            .context("the shipment is gone")?;
        let mut order = orders::store::lock(&mut tx, shipment.order_id)
            .await?
            .context("the order is gone")?;
        if let Some(not_now) = why_not(&order) {
            return Ok(not_now);
        }
        if !routes::store::mark_shipped(&mut tx, self.shipment_id, &by).await? {
            return tx.done_with(json!({ "skipped": shipment.state })).await;
        }
        let (count, closed) = orders::store::ship(&mut tx, &mut order, shipment.warehouse_id, &by).await?;
        ensure!(count > 0, "nothing is kept for shipment {}", self.shipment_id);
        let shipped = NewEvent {
            kind: "shipment.shipped",
            order_id: Some(order.id),
            data: json!({ "shipment_id": self.shipment_id, "warehouse_id": shipment.warehouse_id }),
        };
        let announced = events::record(&mut tx, shipped).await?;
        announce(&mut tx, closed.join(announced)).await?;
        tx.done_with(json!({ "reservations": count })).await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        let Some(shipment) = routes::store::shipment(&mut *conn, self.shipment_id).await? else {
            return Ok(());
        };
        let cause = Cause::job(&letter.kind, letter.id.0, letter.fence);
        hold_for(conn, shipment.order_id, letter, &cause).await
    }
}

/// Goods leave for confirmed orders whose money is taken: others wait, or never go.
fn why_not(order: &Order) -> Option<Outcome> {
    match (order.status, order.payment_status) {
        (Status::Confirmed, PaymentStatus::Captured | PaymentStatus::Refunding) => None,
        (Status::Confirmed, _) => Some(Outcome::Snooze(CAPTURE_WAIT)),
        (Status::OnHold, _) => Some(Outcome::Snooze(HOLD_WAIT)),
        (status, _) => Some(Outcome::Discard(format!("the order is {status}"))),
    }
}
