//! Work in progress.

use domain::{Services, ids::*};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};

/// Captures a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CapturePayment {
    /// The payment.
    pub payment_id: PaymentId,
}

impl Job for CapturePayment {
    type Services = Services;
    const KIND: &'static str = "capture_payment";
    const QUEUE: &'static str = "payments";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("cap:{}", self.payment_id)))
    }

    async fn run(self, _attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        todo!()
    }
}
