//! Work in progress.

use domain::{Services, ids::*};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};

/// Gives money back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefundPayment {
    /// The payment.
    pub payment_id: PaymentId,
    /// How much, in minor units.
    pub amount_minor: i64,
    /// Which refund of the payment.
    pub seq: i32,
    /// Why.
    pub reason: String,
}

impl Job for RefundPayment {
    type Services = Services;
    const KIND: &'static str = "refund_payment";
    const QUEUE: &'static str = "payments";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::kept(format!("refund:{}:{}", self.payment_id, self.seq)))
    }

    async fn run(self, _attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        todo!()
    }
}
