//! Work in progress.

use domain::{Services, ids::*};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};

/// Authorizes a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthorizePayment {
    /// The payment.
    pub payment_id: PaymentId,
}

impl Job for AuthorizePayment {
    type Services = Services;
    const KIND: &'static str = "authorize_payment";
    const QUEUE: &'static str = "payments";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("auth:{}", self.payment_id)))
    }

    async fn run(self, _attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        todo!()
    }
}
