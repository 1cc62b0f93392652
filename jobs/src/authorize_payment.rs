//! Holds the money for an order: makes an unconfirmed intent, then confirms it. Running it twice is safe because each of
//! the two steps has one key that the gateway knows again, and because what is recorded is never asked for again.
//!
//! Two steps, so that the gateway itself can fence: from the moment the intent's id is stored, every question has
//! something to ask about, and cancelling the intent refuses whatever a stalled worker sends later.

use std::time::Duration;

use domain::{
    Services,
    ids::PaymentId,
    orders::Order,
    payments::{self, AttemptState, Class, IntentStatus, Op, Payment, PaymentAttempt, Reply, State},
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

/// Asks the gateway to hold the money of a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthorizePayment {
    /// The payment.
    pub payment_id: PaymentId,
}

impl Job for AuthorizePayment {
    type Services = Services;
    const KIND: &'static str = "authorize_payment";
    const QUEUE: &'static str = "payments";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 200);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("auth:{}", self.payment_id)))
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
        let (payment, create) = match self.open_create(attempt).await? {
            Step::Ended(outcome) => return Ok(outcome),
            Step::Call(payment, create) => (payment, create),
        };
        let created = match create {
            None => None,
            Some(create) => match payment_call::send(attempt, services, &payment, &create).await? {
                (reply, Class::Ok) => Some((create, reply)),
                (reply, class) => return payment_call::inconclusive(attempt, services, &create, &reply, &class).await,
            },
        };
        let (payment, confirm) = match self.open_confirm(attempt, created).await? {
            Step::Ended(outcome) => return Ok(outcome),
            Step::Call(payment, confirm) => (payment, confirm),
        };
        let (reply, class) = payment_call::send(attempt, services, &payment, &confirm).await?;
        self.record_confirm(attempt, services, &payment, &confirm, &reply, class)
            .await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        payment_call::bury(conn, self.payment_id, letter).await
    }
}

impl AuthorizePayment {
    /// T1 of the first step: the intent to make an intent, unless there is one.
    async fn open_create(&self, attempt: &Attempt) -> anyhow::Result<Step<Option<PaymentAttempt>>> {
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock_again(&mut tx, self.payment_id, attempt).await?;
        if let Some(why_not) = not_wanted(&order, &payment) {
            return tx.done_with(json!({ "skipped": why_not })).await.map(Step::Ended);
        }
        if payment.gateway_ref.is_some() {
            tx.commit().await?;
            return Ok(Step::Call(payment, None));
        }
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        match payment_call::next(&attempts, Op::Create) {
            Next::Send(seq) => {
                let amount = payment.amount;
                let opened = payment_call::open(tx, (order, payment), Op::Create, seq, amount, &cause(attempt)).await?;
                Ok(match opened {
                    Step::Ended(outcome) => Step::Ended(outcome),
                    Step::Call(payment, create) => Step::Call(payment, Some(create)),
                })
            }
            Next::InDoubt => payment_call::wait_for_truth(tx, payment.id).await,
            Next::Over => Err(payment_call::given_up(Op::Create)),
        }
    }

    /// T2 of the first step and T1 of the second, in one transaction: the intent's id, and the intent to confirm it.
    async fn open_confirm(&self, attempt: &Attempt, created: Option<(PaymentAttempt, Reply)>) -> anyhow::Result<Step> {
        let mut tx = attempt.begin().await?;
        let (order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        if let Some((create, reply)) = created {
            payments::store::settle(&mut tx, create.id, AttemptState::Succeeded, Some(&reply)).await?;
            if payment.gateway_ref.is_none() {
                payment.gateway_ref = reply.intent().map(|intent| intent.id);
                payments::store::save(&mut tx, &mut payment).await?;
            }
        }
        if let Some(why_not) = not_wanted(&order, &payment) {
            return tx.done_with(json!({ "skipped": why_not })).await.map(Step::Ended);
        }
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        let amount = payment.amount;
        match payment_call::next(&attempts, Op::Confirm) {
            Next::Send(seq) => {
                payment_call::open(tx, (order, payment), Op::Confirm, seq, amount, &cause(attempt)).await
            }
            Next::InDoubt => payment_call::wait_for_truth(tx, payment.id).await,
            Next::Over => Err(payment_call::given_up(Op::Confirm)),
        }
    }

    /// T2 of the second step: what the bank said, and all that follows from it.
    async fn record_confirm(
        &self,
        attempt: &Attempt,
        services: &Services,
        payment: &Payment,
        confirm: &PaymentAttempt,
        reply: &Reply,
        class: Class,
    ) -> anyhow::Result<Outcome> {
        let status = match &class {
            Class::Ok => reply.intent().map(|intent| (intent.status, intent.decline_code())),
            Class::Look => {
                let intent = payment_call::look(attempt, services, payment).await?;
                Some((intent.status, intent.decline_code()))
            }
            _ => None,
        };
        let verdict = match (class, status) {
            (Class::Declined(code), _) => Verdict::Declined(code),
            (_, Some((IntentStatus::RequiresCapture | IntentStatus::Succeeded, _))) => Verdict::Held,
            (_, Some((IntentStatus::RequiresAction, _))) => Verdict::Declined("authentication_required".to_owned()),
            (_, Some((IntentStatus::RequiresPaymentMethod, code))) => Verdict::Declined(code),
            (_, Some((IntentStatus::Canceled, _))) => Verdict::Canceled,
            (Class::Ok | Class::Look, _) => {
                return payment_call::inconclusive(attempt, services, confirm, reply, &Class::Unknown).await;
            }
            (class, None) => return payment_call::inconclusive(attempt, services, confirm, reply, &class).await,
            (_, Some(_)) => {
                return payment_call::inconclusive(attempt, services, confirm, reply, &Class::Unknown).await;
            }
        };
        self.apply(attempt, services, confirm, reply, verdict).await
    }

    async fn apply(
        &self,
        attempt: &Attempt,
        services: &Services,
        confirm: &PaymentAttempt,
        reply: &Reply,
        verdict: Verdict,
    ) -> anyhow::Result<Outcome> {
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        let is_open = matches!(payment.state, State::Authorizing | State::Unknown);
        match verdict {
            Verdict::Held => {
                payments::store::settle(&mut tx, confirm.id, AttemptState::Succeeded, Some(reply)).await?;
                if is_open {
                    let settings = &services.settings;
                    payment_outcome::authorized(&mut tx, &mut order, &mut payment, settings, &by).await?;
                }
                tx.done().await
            }
            Verdict::Declined(code) => {
                payments::store::settle(&mut tx, confirm.id, AttemptState::Declined, Some(reply)).await?;
                if is_open {
                    payment_outcome::declined(&mut tx, &mut order, &mut payment, &code, &by).await?;
                }
                tx.done_with(json!({ "declined": code })).await
            }
            Verdict::Canceled => {
                payments::store::settle(&mut tx, confirm.id, AttemptState::Failed, Some(reply)).await?;
                if is_open && payment_outcome::stands(&order) {
                    payment_outcome::voided(&mut tx, &mut order, &mut payment, &by).await?;
                }
                tx.done_with(json!({ "skipped": "intent_canceled" })).await
            }
        }
    }
}

enum Verdict {
    Held,
    Declined(String),
    Canceled,
}

/// Why the authorization is not asked for, if it is not.
fn not_wanted(order: &Order, payment: &Payment) -> Option<&'static str> {
    match payment.state {
        State::Authorizing | State::Unknown if payment.captured.0 > 0 => Some("captured"),
        State::Authorizing | State::Unknown => (!payment_outcome::stands(order)).then_some("order_does_not_stand"),
        _ => Some("settled"),
    }
}
