//! Releases the money held for an order that will not happen. Running it twice is safe because a cancelled intent stays
//! cancelled.
//!
//! Cancelling the intent also refuses every confirm or capture that a stalled worker may still send. While the fate of
//! such a request is in doubt nothing is cancelled here: `reconcile_payment` finds out first. An intent that turns out to be
//! captured is refunded instead.

use std::time::Duration;

use domain::{
    Services,
    ids::PaymentId,
    money::Cents,
    payments::{self, AttemptState, Class, IntentStatus, Op},
};
use queue::{Attempt, DeadLetter, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    cause, limits,
    payment_call::{self, Next, Step},
    payment_outcome,
};

/// Releases the money held by a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VoidPayment {
    /// The payment.
    pub payment_id: PaymentId,
}

impl Job for VoidPayment {
    type Services = Services;
    const KIND: &'static str = "void_payment";
    const QUEUE: &'static str = "payments";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 1000);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("void:{}", self.payment_id)))
    }

    fn limit(&self) -> Option<String> {
        Some(limits::GATEWAY.to_owned())
    }

    fn deadline_after() -> Option<Duration> {
        Some(Duration::from_secs(24 * 60 * 60))
    }

    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        Some(payment_call::delay_after(attempt))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        if let Some(later) = payment_call::quiet(services) {
            return Ok(later);
        }
        let (payment, void) = match self.open(attempt).await? {
            Step::Ended(outcome) => return Ok(outcome),
            Step::Call(payment, void) => (payment, void),
        };
        let (reply, class) = payment_call::send(attempt, services, &payment, &void).await?;
        let truth = match &class {
            Class::Ok => reply.intent(),
            Class::Look => Some(payment_call::look(attempt, services, &payment).await?),
            _ => None,
        };
        let by = cause(attempt);
        match truth.as_ref().map(|intent| (intent.status, intent.amount_received)) {
            Some((IntentStatus::Canceled, _)) => {
                let mut tx = attempt.begin().await?;
                let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
                payments::store::settle(&mut tx, void.id, AttemptState::Succeeded, Some(&reply)).await?;
                if !payment.state.is_over() {
                    payment_outcome::voided(&mut tx, &mut order, &mut payment, &by).await?;
                }
                tx.done().await
            }
            Some((IntentStatus::Succeeded, received)) => {
                let mut tx = attempt.begin().await?;
                let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
                payments::store::settle(&mut tx, void.id, AttemptState::Failed, Some(&reply)).await?;
                if payment.captured == Cents::ZERO {
                    payment_outcome::captured(&mut tx, &mut order, &mut payment, Cents(received), &by).await?;
                }
                tx.done_with(json!({ "became": "refund" })).await
            }
            Some(_) => payment_call::inconclusive(attempt, services, &void, &reply, &Class::Unknown).await,
            None => payment_call::inconclusive(attempt, services, &void, &reply, &class).await,
        }
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        payment_call::bury(conn, self.payment_id, letter).await
    }
}

impl VoidPayment {
    /// T1: is there something to release, and is nothing in doubt?
    async fn open(&self, attempt: &Attempt) -> anyhow::Result<Step> {
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let (mut order, mut payment) = payment_call::lock_again(&mut tx, self.payment_id, attempt).await?;
        if !payment_outcome::is_off(&order) {
            tx.commit().await?;
            return Ok(Step::Ended(Outcome::Discard(format!("the order is {}", order.status))));
        }
        if payment.state.is_over() {
            if order.status == domain::orders::Status::Cancelling {
                payment_outcome::give_stock_back(&mut tx, &order).await?;
            }
            return tx.done_with(json!({ "skipped": payment.state })).await.map(Step::Ended);
        }
        if payment.captured > Cents::ZERO {
            payment_outcome::refund_all(&mut tx, &mut order, &mut payment, "cancel", &by).await?;
            return tx.done_with(json!({ "became": "refund" })).await.map(Step::Ended);
        }
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        if payment_call::others_in_doubt(&attempts, Op::Void) {
            return payment_call::wait_for_truth(tx, payment.id).await;
        }
        if payment.gateway_ref.is_none() {
            // Nothing was ever sent, and the order's state keeps anything from being sent now.
            payment_outcome::voided(&mut tx, &mut order, &mut payment, &by).await?;
            return tx
                .done_with(json!({ "skipped": "nothing at the gateway" }))
                .await
                .map(Step::Ended);
        }
        let amount = payment.amount;
        match payment_call::next(&attempts, Op::Void) {
            Next::Send(seq) => payment_call::open(tx, (order, payment), Op::Void, seq, amount, &by).await,
            Next::InDoubt => payment_call::wait_for_truth(tx, payment.id).await,
            Next::Over => Err(payment_call::given_up(Op::Void)),
        }
    }
}
