//! Gives money back. Running it twice is safe because each refund has a number, a row and a key of its own, and because
//! what is written as refunded is checked against what was captured, under the payment's lock and by the table.

use std::time::Duration;

use domain::{
    Cause, Services,
    ids::PaymentId,
    money::Cents,
    orders::PaymentStatus,
    payments::{self, AttemptState, Class, Op, Payment, PaymentAttempt, Refund, Reply, State},
};
use queue::{Attempt, DeadLetter, Failure, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{
    cause, limits,
    payment_call::{self, Step},
    payment_outcome,
};

/// Gives back part or all of a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefundPayment {
    /// The payment.
    pub payment_id: PaymentId,
    /// How much, in minor units.
    pub amount_minor: i64,
    /// Which refund of the payment, from 1.
    pub seq: i32,
    /// Why.
    pub reason: String,
}

impl Job for RefundPayment {
    type Services = Services;
    const KIND: &'static str = "refund_payment";
    const QUEUE: &'static str = "payments";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 1000);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::kept(format!("refund:{}:{}", self.payment_id, self.seq)))
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
        let (payment, refund) = match self.open(attempt).await? {
            Step::Ended(outcome) => return Ok(outcome),
            Step::Call(payment, refund) => (payment, refund),
        };
        let (reply, class) = payment_call::send(attempt, services, &payment, &refund).await?;
        match class {
            Class::Ok => match reply.refund().filter(|given| is_that(given, &payment, &refund)) {
                Some(given) if given.stands() => self.record(attempt, &refund, &reply).await,
                Some(_) => self.refused(attempt, &refund, &reply).await,
                None => payment_call::inconclusive(attempt, services, &refund, &reply, &Class::Unknown).await,
            },
            Class::Look => match find(attempt, services, &payment, &refund).await? {
                true => self.record(attempt, &refund, &reply).await,
                false => self.refused(attempt, &refund, &reply).await,
            },
            Class::Refused | Class::Declined(_) | Class::Expired => self.refused(attempt, &refund, &reply).await,
            class => payment_call::inconclusive(attempt, services, &refund, &reply, &class).await,
        }
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        payment_call::bury(conn, self.payment_id, letter).await
    }
}

impl RefundPayment {
    /// T1: never more than what was captured and not given back.
    async fn open(&self, attempt: &Attempt) -> anyhow::Result<Step> {
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock_again(&mut tx, self.payment_id, attempt).await?;
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        let mine = attempts.iter().find(|one| one.op == Op::Refund && one.seq == self.seq);
        match mine.map(|mine| mine.state) {
            None | Some(AttemptState::Pending) => {}
            Some(AttemptState::Unknown) => {
                return payment_call::wait_for_truth(tx, payment.id).await;
            }
            Some(AttemptState::Succeeded) => return tx.done().await.map(Step::Ended),
            Some(AttemptState::Declined | AttemptState::Failed) => {
                return Err(payment_call::given_up(Op::Refund));
            }
        }
        if payment_call::others_in_doubt(&attempts, Op::Refund) {
            return payment_call::wait_for_truth(tx, payment.id).await;
        }
        let amount = mine.map_or(Cents(self.amount_minor), |mine| mine.amount);
        if amount > payment.refundable() || amount <= Cents::ZERO {
            let message = format!("{amount} of at most {} cannot be refunded", payment.refundable());
            return Err(Failure::permanent("too_much", message).into());
        }
        payment_call::open(tx, (order, payment), Op::Refund, self.seq, amount, &cause(attempt)).await
    }

    /// T2: it went back.
    async fn record(&self, attempt: &Attempt, refund: &PaymentAttempt, reply: &Reply) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        settle_refund(&mut tx, refund, Some(reply), &cause(attempt)).await?;
        tx.done().await
    }

    /// T2: a definitive no. What was taken stays taken, and a person hears of it.
    async fn refused(&self, attempt: &Attempt, refund: &PaymentAttempt, reply: &Reply) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        payments::store::settle(&mut tx, refund.id, AttemptState::Failed, Some(reply)).await?;
        payment.state = State::Captured;
        payments::store::save(&mut tx, &mut payment).await?;
        let to = PaymentStatus::Captured;
        payment_outcome::move_axis(&mut tx, &mut order, to, "refund_refused", None, &cause(attempt)).await?;
        tx.commit().await?;
        Err(Failure::permanent(reply.code(), reply.message()).into())
    }
}

/// Records a refund that the gateway has made, once.
pub(crate) async fn settle_refund(
    conn: &mut PgConnection,
    refund: &PaymentAttempt,
    reply: Option<&Reply>,
    by: &Cause,
) -> anyhow::Result<()> {
    let (mut order, mut payment) = payment_call::lock(conn, refund.payment_id).await?;
    let attempts = payments::store::attempts(conn, payment.id).await?;
    let is_recorded = attempts
        .iter()
        .any(|one| one.id == refund.id && one.state == AttemptState::Succeeded);
    if is_recorded {
        return Ok(());
    }
    payments::store::settle(conn, refund.id, AttemptState::Succeeded, reply).await?;
    payment_outcome::refunded(conn, &mut order, &mut payment, refund.amount, by).await
}

fn is_that(given: &Refund, payment: &Payment, refund: &PaymentAttempt) -> bool {
    given.amount == refund.amount.0 && given.payment_intent == payment.gateway_ref
}

/// Whether the gateway has a refund with our key on it.
async fn find(
    attempt: &Attempt,
    services: &Services,
    payment: &Payment,
    refund: &PaymentAttempt,
) -> anyhow::Result<bool> {
    let refunds = payment_call::refunds(attempt, services, payment).await?;
    Ok(refunds
        .iter()
        .any(|given| given.stands() && given.metadata.get("refund_key") == Some(&refund.idem_key)))
}
