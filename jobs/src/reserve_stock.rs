//! Holds stock for an order, or rejects it.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Holds stock for an order, or rejects it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReserveStock {
    /// The order.
    pub order_id: domain::ids::OrderId,
}

impl Job for ReserveStock {
    type Services = Services;
    const KIND: &'static str = "reserve_stock";
    const QUEUE: &'static str = "stock";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
