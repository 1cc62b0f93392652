//! Takes the money that is held, once the cancel window is closed. Running it twice is safe because a capture has one key,
//! and because the gateway captures an intent once.
//!
//! Capture and cancel decide under the same lock on the order: the capture's row is only written while the order is
//! confirmed and the database's clock is past the window, and a cancel is only accepted before it.
//!
//! A hold that the bank has let go is asked for once more. The intent is cancelled first where the gateway has not done that
//! itself: then no capture that is still on its way can take anything by it, and there are never two.

use std::time::Duration;

use domain::{
    Services,
    ids::PaymentId,
    money::Cents,
    orders::{PaymentStatus, Status},
    payments::{self, AttemptState, Class, Intent, IntentStatus, Op, Payment, PaymentAttempt, Reply, State},
};
use queue::{Attempt, DeadLetter, Failure, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    cause, limits,
    payment_call::{self, Next, Step},
    payment_outcome,
};

/// Takes the money of a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CapturePayment {
    /// The payment.
    pub payment_id: PaymentId,
}

/// Authorizations last seven days; an hour before their end a person must hear of it.
const BUDGET: Duration = Duration::from_secs((7 * 24 - 1) * 60 * 60);

impl Job for CapturePayment {
    type Services = Services;
    const KIND: &'static str = "capture_payment";
    const QUEUE: &'static str = "payments";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 1000);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("cap:{}", self.payment_id)))
    }

    fn limit(&self) -> Option<String> {
        Some(limits::GATEWAY.to_owned())
    }

    fn deadline_after() -> Option<Duration> {
        Some(BUDGET)
    }

    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        Some(payment_call::delay_after(attempt))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        if let Some(later) = payment_call::quiet(services) {
            return Ok(later);
        }
        let (payment, capture) = match self.open(attempt).await? {
            Step::Ended(outcome) => return Ok(outcome),
            Step::Call(payment, capture) => (payment, capture),
        };
        let (reply, class) = payment_call::send(attempt, services, &payment, &capture).await?;
        let truth = match &class {
            Class::Ok => reply.intent(),
            Class::Look | Class::Declined(_) | Class::Expired => {
                Some(payment_call::look(attempt, services, &payment).await?)
            }
            _ => None,
        };
        match truth {
            Some(intent) if class == Class::Expired && intent.status == IntentStatus::RequiresCapture => {
                self.seal(attempt, services, &capture, &reply).await
            }
            Some(intent) => {
                self.apply(attempt, services, &payment, &capture, &reply, class, &intent)
                    .await
            }
            None => payment_call::inconclusive(attempt, services, &capture, &reply, &class).await,
        }
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        payment_call::bury(conn, self.payment_id, letter).await
    }
}

impl CapturePayment {
    /// T1: under the order's lock, is it still wanted, and is it time?
    async fn open(&self, attempt: &Attempt) -> anyhow::Result<Step> {
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock_again(&mut tx, self.payment_id, attempt).await?;
        let may_capture = matches!(payment.state, State::Authorized | State::Capturing | State::Unknown);
        if order.status != Status::Confirmed || !may_capture || payment.captured > Cents::ZERO {
            let skipped = json!({ "skipped": format!("order {}, payment {}", order.status, payment.state) });
            return tx.done_with(skipped).await.map(Step::Ended);
        }
        // The clock is read after the lock: waiting for it must not make a late cancel look early, or the reverse.
        let now = payments::store::clock(&mut tx).await?;
        if let Some(left) = order
            .cancel_until
            .and_then(|until| (until - now).to_std().ok())
            .filter(|left| !left.is_zero())
        {
            tx.commit().await?;
            return Ok(Step::Ended(Outcome::Snooze(left)));
        }
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        if payment_call::others_in_doubt(&attempts, Op::Capture) {
            return payment_call::wait_for_truth(tx, payment.id).await;
        }
        let amount = payment.amount;
        match payment_call::next(&attempts, Op::Capture) {
            Next::Send(seq) => {
                payment_call::open(tx, (order, payment), Op::Capture, seq, amount, &cause(attempt)).await
            }
            Next::InDoubt => payment_call::wait_for_truth(tx, payment.id).await,
            Next::Over => Err(payment_call::given_up(Op::Capture)),
        }
    }

    /// T2: the gateway's truth about the intent is what counts, whatever the answer was.
    #[expect(clippy::too_many_arguments, reason = "one call's facts, used once")]
    async fn apply(
        &self,
        attempt: &Attempt,
        services: &Services,
        payment: &Payment,
        capture: &PaymentAttempt,
        reply: &Reply,
        class: Class,
        intent: &Intent,
    ) -> anyhow::Result<Outcome> {
        let is_whole = intent.status == IntentStatus::Succeeded && intent.amount_received == payment.amount.0;
        let by = cause(attempt);
        if is_whole {
            let mut tx = attempt.begin().await?;
            let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
            payments::store::settle(&mut tx, capture.id, AttemptState::Succeeded, Some(reply)).await?;
            if payment.captured == Cents::ZERO {
                let amount = Cents(intent.amount_received);
                payment_outcome::captured(&mut tx, &mut order, &mut payment, amount, &by).await?;
            }
            return tx.done().await;
        }
        let hold_code = match (&class, intent.status) {
            (Class::Declined(_), _) => "capture_declined",
            (Class::Expired, _) => "authorization_expired",
            (_, IntentStatus::Canceled) => "authorization_ended",
            (Class::Look, _) => "capture_refused",
            _ => return payment_call::inconclusive(attempt, services, capture, reply, &Class::Unknown).await,
        };
        let mut tx = attempt.begin().await?;
        let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        let state = match &class {
            Class::Declined(_) => AttemptState::Declined,
            _ => AttemptState::Failed,
        };
        payments::store::settle(&mut tx, capture.id, state, Some(reply)).await?;
        let is_over = intent.status == IntentStatus::Canceled;
        payment.state = if is_over { State::Voided } else { State::Authorized };
        payments::store::save(&mut tx, &mut payment).await?;
        if payment_outcome::authorize_again(&mut tx, &mut order, &payment, &by).await? {
            return tx.done_with(json!({ "became": "authorization" })).await;
        }
        let to = if is_over {
            PaymentStatus::Voided
        } else {
            PaymentStatus::Authorized
        };
        payment_outcome::set_axis_and_hold(&mut tx, &mut order, to, hold_code, &reply.code(), &reply.message(), &by)
            .await?;
        tx.done_with(json!({ "held": hold_code })).await
    }

    /// The bank has let the hold go and the intent is still open: it is cancelled before anything else is decided.
    async fn seal(
        &self,
        attempt: &Attempt,
        services: &Services,
        capture: &PaymentAttempt,
        reply: &Reply,
    ) -> anyhow::Result<Outcome> {
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        payments::store::settle(&mut tx, capture.id, AttemptState::Failed, Some(reply)).await?;
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        let (true, Next::Send(seq)) = (payment_outcome::stands(&order), payment_call::next(&attempts, Op::Void)) else {
            tx.commit().await?;
            return Err(Failure::permanent("authorization_expired", reply.message()).into());
        };
        let void = payments::store::open_attempt(&mut tx, &payment, Op::Void, seq, payment.amount, &by).await?;
        tx.commit().await?;
        let (reply, _) = payment_call::send(attempt, services, &payment, &void).await?;
        let intent = payment_call::look(attempt, services, &payment).await?;
        if intent.status != IntentStatus::Canceled {
            // The cancel stays in doubt, so that the next try begins with finding out.
            return Err(Failure::unknown(reply.code(), "the expired intent is not cancelled yet").into());
        }
        let mut tx = attempt.begin().await?;
        let (mut order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        payments::store::settle(&mut tx, void.id, AttemptState::Succeeded, Some(&reply)).await?;
        if !payment.state.is_over() {
            payment_outcome::voided(&mut tx, &mut order, &mut payment, &by).await?;
        }
        tx.done_with(json!({ "expired": payment.id })).await
    }
}
