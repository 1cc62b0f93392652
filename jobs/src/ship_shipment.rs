//! Lets a shipment leave its warehouse.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Lets a shipment leave its warehouse.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShipShipment {
    /// The shipment.
    pub shipment_id: domain::ids::ShipmentId,
}

impl Job for ShipShipment {
    type Services = Services;
    const KIND: &'static str = "ship_shipment";
    const QUEUE: &'static str = "stock";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
