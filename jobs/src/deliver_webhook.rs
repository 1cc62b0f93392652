//! Work in progress.

use domain::{Services, ids::*};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};

/// Sends one event to one endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliverWebhook {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// What it waits in line with.
    pub group: Option<String>,
}

impl Job for DeliverWebhook {
    type Services = Services;
    const KIND: &'static str = "deliver_webhook";
    const QUEUE: &'static str = "webhooks";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("hook:{}", self.delivery_id)))
    }

    async fn run(self, _attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        todo!()
    }
}
