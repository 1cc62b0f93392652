//! Finds out what the gateway knows about a payment and makes our record agree. Running it twice is safe because it only
//! applies what the gateway says, and only forwards: what is captured stays captured, amounts never fall.
//!
//! Money is never moved here. What turns out to be without effect is left to the job it belongs to, which sends the same
//! key again; what turns out to have happened is recorded with everything that follows from it. The one thing sent is a
//! cancel, for an order that is off: it makes the gateway refuse whatever a stalled worker may still send, so that the
//! answer that follows is final. And the create step is repeated under its own key, since without the intent's id there
//! is nothing to ask about; an unconfirmed intent moves no money.

use std::time::Duration;

use domain::{
    Services,
    ids::PaymentId,
    money::Cents,
    orders::{Order, Status},
    payments::{self, AttemptState, Class, Intent, IntentStatus, Op, Payment, PaymentAttempt, Refund, State},
};
use queue::{Attempt, DeadLetter, Effects, Failure, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    AuthorizePayment, CapturePayment, RefundPayment, VoidPayment, cause, follow_with, limits,
    payment_call::{self, Next},
    payment_outcome::{self, is_off, stands},
    refund_payment::settle_refund,
};

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
    /// Others wait for its answer.
    const PRIORITY: i16 = 2;
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 1000);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("recon:{}", self.payment_id)))
    }

    fn limit(&self) -> Option<String> {
        Some(limits::GATEWAY.to_owned())
    }

    /// After a day of asking, a person.
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
        let before = match self.survey(attempt, services).await? {
            Survey::Ended(outcome) => return Ok(outcome),
            Survey::Ask(before) => before,
        };
        let mut intent = payment_call::look(attempt, services, &before.payment).await?;
        if is_off(&before.order) && !matches!(intent.status, IntentStatus::Canceled | IntentStatus::Succeeded) {
            intent = self.seal(attempt, services, &before).await?;
        }
        let refunds = match before.attempts.iter().any(|one| one.op == Op::Refund) {
            true => payment_call::refunds(attempt, services, &before.payment).await?,
            false => Vec::new(),
        };
        self.apply(attempt, services, &before, &intent, &refunds).await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        payment_call::bury(conn, self.payment_id, letter).await
    }
}

#[expect(clippy::large_enum_variant, reason = "made once for a call, and taken apart at once")]
enum Survey {
    Ended(Outcome),
    Ask(Before),
}

/// What was known before the gateway was asked. An attempt sent since then is not judged by an answer from before it.
struct Before {
    order: Order,
    payment: Payment,
    attempts: Vec<PaymentAttempt>,
}

impl ReconcilePayment {
    /// Is there an intent to ask about? If not, the create step is cleared up first.
    async fn survey(&self, attempt: &Attempt, services: &Services) -> anyhow::Result<Survey> {
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock_again(&mut tx, self.payment_id, attempt).await?;
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        if payment.gateway_ref.is_some() {
            tx.commit().await?;
            return Ok(Survey::Ask(Before {
                order,
                payment,
                attempts,
            }));
        }
        let Some(create) = attempts
            .iter()
            .rev()
            .find(|one| one.op == Op::Create && one.is_in_doubt())
        else {
            // Nothing was ever sent.
            go_on(&mut tx, &order, &payment, &attempts).await?;
            return tx
                .done_with(json!({ "found": "nothing sent" }))
                .await
                .map(Survey::Ended);
        };
        let age = payments::store::clock(&mut tx).await? - create.created_at;
        let may_send = age.to_std().is_ok_and(|age| age < services.settings.key_retention);
        if may_send {
            let by = cause(attempt);
            let create =
                payments::store::open_attempt(&mut tx, &payment, Op::Create, create.seq, create.amount, &by).await?;
            tx.commit().await?;
            let (reply, class) = payment_call::send(attempt, services, &payment, &create).await?;
            if let (Class::Ok, Some(intent)) = (&class, reply.intent()) {
                return self.found(attempt, &create, intent).await;
            }
            if matches!(class, Class::Config | Class::Throttled(_) | Class::Transient) {
                return Err(payment_call::unanswered(&reply));
            }
            let found = self.search(attempt, services, &payment).await?;
            return match found {
                Some(intent) => self.found(attempt, &create, intent).await,
                // It would be replayed for ever. Another key is safe here as nowhere else: an intent that was made
                // after all, and is not found yet, is unconfirmed and stays so, and holds no money.
                None if reply.code() == payments::STORED_FAILURE => self.never_created(attempt, &create).await,
                None => Err(Failure::unknown(reply.code(), reply.message()).into()),
            };
        }
        let create = create.clone();
        tx.commit().await?;
        match self.search(attempt, services, &payment).await? {
            Some(intent) => self.found(attempt, &create, intent).await,
            None => {
                let message = "the key is too old to be sent again and no intent carries this payment's mark";
                Err(Failure::permanent("never_created", message).into())
            }
        }
    }

    async fn search(
        &self,
        attempt: &Attempt,
        services: &Services,
        payment: &Payment,
    ) -> anyhow::Result<Option<Intent>> {
        let mut found = match services.gateway.search(payment, attempt.time_left()).await {
            Ok(found) => found,
            Err(reply) => return Err(payment_call::unanswered(&reply)),
        };
        match found.len() {
            0 => Ok(None),
            1 => Ok(found.pop()),
            n => Err(Failure::permanent("several_intents", format!("{n} intents carry this payment's mark")).into()),
        }
    }

    /// The gateway keeps a failure under the create's key and knows no intent with our mark: the next key is tried.
    async fn never_created(&self, attempt: &Attempt, create: &PaymentAttempt) -> anyhow::Result<Survey> {
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        payments::store::settle(&mut tx, create.id, AttemptState::Failed, None).await?;
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        go_on(&mut tx, &order, &payment, &attempts).await?;
        tx.done_with(json!({ "found": "never created" }))
            .await
            .map(Survey::Ended)
    }

    /// The intent has a name from now on.
    async fn found(&self, attempt: &Attempt, create: &PaymentAttempt, intent: Intent) -> anyhow::Result<Survey> {
        let mut tx = attempt.begin().await?;
        let (order, mut payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        payments::store::settle(&mut tx, create.id, AttemptState::Succeeded, None).await?;
        if payment.gateway_ref.is_none() {
            payment.gateway_ref = Some(intent.id);
            payments::store::save(&mut tx, &mut payment).await?;
        }
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        tx.commit().await?;
        Ok(Survey::Ask(Before {
            order,
            payment,
            attempts,
        }))
    }

    /// The order is off: cancels the intent, so that nothing sent before can still take effect, and looks again.
    async fn seal(&self, attempt: &Attempt, services: &Services, before: &Before) -> anyhow::Result<Intent> {
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        let seq = match payment_call::next(&attempts, Op::Void) {
            Next::Send(seq) => Some(seq),
            Next::InDoubt => attempts
                .iter()
                .filter(|one| one.op == Op::Void)
                .map(|one| one.seq)
                .max(),
            Next::Over => None,
        };
        let Some(seq) = seq.filter(|_| is_off(&order)) else {
            return Err(Failure::permanent("cannot_seal", "the intent is open although a void has ended").into());
        };
        let by = cause(attempt);
        let void = payments::store::open_attempt(&mut tx, &payment, Op::Void, seq, payment.amount, &by).await?;
        tx.commit().await?;
        let (reply, class) = payment_call::send(attempt, services, &before.payment, &void).await?;
        tracing::info!(payment.id = %self.payment_id, code = %reply.code(), ?class, "sealed the intent");
        payment_call::look(attempt, services, &before.payment).await
    }

    /// Records the gateway's truth under the locks, and lets what is left go on.
    async fn apply(
        &self,
        attempt: &Attempt,
        services: &Services,
        before: &Before,
        intent: &Intent,
        refunds: &[Refund],
    ) -> anyhow::Result<Outcome> {
        let by = cause(attempt);
        let mut tx = attempt.begin().await?;
        let (order, payment) = payment_call::lock(&mut tx, self.payment_id).await?;
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        let mut is_open = intent.status == IntentStatus::Processing;
        for one in attempts.iter().filter(|one| one.is_in_doubt()) {
            let was_asked_about = before
                .attempts
                .iter()
                .any(|earlier| earlier.id == one.id && earlier.sends == one.sends);
            match fate(one, intent, refunds) {
                Fate::Refunded => settle_refund(&mut tx, one, None, &by).await?,
                Fate::Known(state) => payments::store::settle(&mut tx, one.id, state, None).await?,
                Fate::Open => is_open = true,
                // The cancel that was sent after the survey is settled by the intent's state, not by its absence.
                Fate::NoEffect if !was_asked_about => is_open = true,
                Fate::NoEffect if is_stored_failure(one) => {
                    payments::store::settle(&mut tx, one.id, AttemptState::Failed, None).await?;
                }
                Fate::NoEffect => payments::store::clear_doubt(&mut tx, one.id).await?,
            }
        }
        let (mut order, mut payment) = match refunds.is_empty() {
            true => (order, payment),
            false => payment_call::lock(&mut tx, self.payment_id).await?,
        };
        let settings = &services.settings;
        let is_new = payment.captured == Cents::ZERO && !payment.state.is_over();
        match intent.status {
            IntentStatus::Succeeded if is_new => {
                if !attempts.iter().any(|one| one.op == Op::Capture) {
                    tracing::error!(payment.id = %payment.id, "orphan_charge: captured at the gateway, never asked for");
                }
                let amount = Cents(intent.amount_received);
                payment_outcome::captured(&mut tx, &mut order, &mut payment, amount, &by).await?;
                if order.status == Status::Reserved {
                    let message = "the money was taken before the order was confirmed";
                    payment_call::hold(&mut tx, &mut order, "captured_unasked", "succeeded", message, &by).await?;
                }
            }
            IntentStatus::Canceled if is_new => {
                payment_outcome::voided(&mut tx, &mut order, &mut payment, &by).await?;
            }
            IntentStatus::RequiresCapture if is_new && payment.authorized_at.is_none() => {
                payment_outcome::authorized(&mut tx, &mut order, &mut payment, settings, &by).await?;
            }
            IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresAction
                if is_new
                    && attempts
                        .iter()
                        .any(|one| one.is_in_doubt() && fate(one, intent, refunds).is_declined()) =>
            {
                let code = intent.decline_code();
                payment_outcome::declined(&mut tx, &mut order, &mut payment, &code, &by).await?;
            }
            _ => {}
        }
        self.finish(tx, &order, &mut payment, is_open).await
    }

    /// Whatever the payment still needs is somebody's job; what is not known yet is asked again.
    async fn finish(
        &self,
        mut tx: Effects,
        order: &Order,
        payment: &mut Payment,
        is_open: bool,
    ) -> anyhow::Result<Outcome> {
        if is_open {
            tx.commit().await?;
            return Err(Failure::unknown("still_open", "the gateway is not done yet").into());
        }
        let attempts = payments::store::attempts(&mut tx, payment.id).await?;
        go_on(&mut tx, order, payment, &attempts).await?;
        tx.done_with(json!({ "payment": payment.state })).await
    }
}

/// What the gateway's state says about one attempt in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Known(AttemptState),
    Refunded,
    NoEffect,
    Open,
}

impl Fate {
    fn is_declined(&self) -> bool {
        *self == Fate::Known(AttemptState::Declined)
    }
}

/// The comparison itself: pure, one row per operation and state of the intent.
fn fate(attempt: &PaymentAttempt, intent: &Intent, refunds: &[Refund]) -> Fate {
    use AttemptState::{Declined, Failed, Succeeded};
    use IntentStatus::*;
    match (attempt.op, intent.status) {
        (Op::Refund, _) => {
            let is_there =
                |given: &Refund| given.stands() && given.metadata.get("refund_key") == Some(&attempt.idem_key);
            if refunds.iter().any(is_there) {
                Fate::Refunded
            } else {
                Fate::NoEffect
            }
        }
        (Op::Create, _) => Fate::Known(Succeeded),
        (_, IntentStatus::Processing) => Fate::Open,
        (Op::Confirm, RequiresCapture | IntentStatus::Succeeded) => Fate::Known(Succeeded),
        (Op::Confirm, Canceled) => Fate::Known(Failed),
        (Op::Confirm, RequiresAction) => Fate::Known(Declined),
        (Op::Confirm, RequiresPaymentMethod) if intent.last_payment_error.is_some() => Fate::Known(Declined),
        (Op::Confirm, RequiresPaymentMethod | RequiresConfirmation) => Fate::NoEffect,
        (Op::Capture, IntentStatus::Succeeded) => Fate::Known(Succeeded),
        (Op::Capture, Canceled) => Fate::Known(Failed),
        (Op::Capture, _) => Fate::NoEffect,
        (Op::Void, Canceled) => Fate::Known(Succeeded),
        (Op::Void, IntentStatus::Succeeded) => Fate::Known(Failed),
        (Op::Void, _) => Fate::NoEffect,
    }
}

/// The gateway keeps a failure under this key: sending it again can never bring anything else, and it had no effect.
fn is_stored_failure(attempt: &PaymentAttempt) -> bool {
    attempt.error_code.as_deref() == Some(payments::STORED_FAILURE)
}

/// Makes sure that the job which carries the payment on is there. One that lives already is not doubled.
async fn go_on(
    conn: &mut PgConnection,
    order: &Order,
    payment: &Payment,
    attempts: &[PaymentAttempt],
) -> anyhow::Result<()> {
    let payment_id = payment.id;
    for refund in attempts
        .iter()
        .filter(|one| one.op == Op::Refund && one.state == AttemptState::Pending)
    {
        let reason = "reconciled".to_owned();
        let job = RefundPayment {
            payment_id,
            amount_minor: refund.amount.0,
            seq: refund.seq,
            reason,
        };
        follow_with(conn, &job).await?;
    }
    if payment.state == State::Refunded {
        return Ok(());
    }
    if is_off(order) {
        follow_with(conn, &VoidPayment { payment_id }).await?;
    } else if payment.captured > Cents::ZERO || payment.state.is_over() {
        return Ok(());
    } else if stands(order) && payment.authorized_at.is_none() {
        follow_with(conn, &AuthorizePayment { payment_id }).await?;
    } else if order.status == Status::Confirmed && payment.state != State::Authorized {
        follow_with(conn, &CapturePayment { payment_id }).await?;
    }
    Ok(())
}
