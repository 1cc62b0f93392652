//! Work in progress.

use domain::{Services, ids::*};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};

/// Asks the gateway what became of a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReconcilePayment {
    /// The payment.
    pub payment_id: PaymentId,
}

impl Job for ReconcilePayment {
    type Services = Services;
    const KIND: &'static str = "reconcile_payment";
    const QUEUE: &'static str = "payments";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("recon:{}", self.payment_id)))
    }

    async fn run(self, _attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        todo!()
    }
}
