//! Gives an order's stock back.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Gives an order's stock back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseStock {
    /// The order.
    pub order_id: domain::ids::OrderId,
    /// Why.
    pub cause: String,
}

impl Job for ReleaseStock {
    type Services = Services;
    const KIND: &'static str = "release_stock";
    const QUEUE: &'static str = "stock";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
