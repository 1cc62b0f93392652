//! What every job that calls the gateway has in common: locks, the check before sending, and what inconclusive answers
//! lead to.
//!
//! A call is three steps. T1 commits the attempt's row under the fence; the request is sent with no transaction open; T2
//! records the answer under the fence. Whoever dies in between leaves a row without an answer, which the next attempt
//! treats as *in doubt*: it sends the same key again or asks, and never compensates.

use std::time::Duration;

use domain::{
    Cause, Services,
    ids::PaymentId,
    money::Cents,
    orders::{self, Order},
    payments::{self, AttemptState, Class, Op, Payment, PaymentAttempt, Reply, State, classify},
};
use queue::{Attempt, DeadLetter, Effects, Failure, Outcome};
use rand::Rng;
use serde_json::json;
use sqlx::PgConnection;

use crate::{ReconcilePayment, cause, follow_with, payment_outcome};

/// Nothing is sent when less than this is left to the attempt: an answer could no longer be recorded.
const TIME_TO_SEND: Duration = Duration::from_secs(3);
/// How often a definitive failure that a new try may cure leads to a new key.
const SEQ_MAX: i32 = 5;

/// The order and the payment, locked in this order.
pub(crate) async fn lock(conn: &mut PgConnection, id: PaymentId) -> anyhow::Result<(Order, Payment)> {
    match payments::store::lock_with_order(conn, id).await? {
        Some(locked) => Ok(locked),
        None => Err(Failure::permanent("no_such_payment", format!("there is no payment {id}")).into()),
    }
}

/// The same for a job that may have been dead: somebody sent it again, so the hold its death caused is over.
pub(crate) async fn lock_again(
    conn: &mut PgConnection,
    id: PaymentId,
    attempt: &Attempt,
) -> anyhow::Result<(Order, Payment)> {
    let (mut order, payment) = lock(conn, id).await?;
    let code = order.reason.as_ref().and_then(|reason| reason["code"].as_str());
    if order.status == orders::Status::OnHold && code == Some(dead(attempt.kind).as_str()) {
        let announced = orders::store::resume(conn, &mut order, &cause(attempt)).await?;
        crate::announce(conn, announced).await?;
    }
    Ok((order, payment))
}

fn dead(kind: &str) -> String {
    format!("{kind}_dead")
}

/// Waits outside the job while the gateway wants quiet; costs no attempt.
pub(crate) fn quiet(services: &Services) -> Option<Outcome> {
    let left = services.gateway.quiet_left()?;
    Some(Outcome::Snooze(left + jitter(Duration::from_millis(500))))
}

/// What is to be done about an operation, given its attempts so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it under the key of this number.
    Send(i32),
    /// It is being reconciled: nothing is sent meanwhile.
    InDoubt,
    /// It was done, refused for good, or failed too often.
    Over,
}

/// The number only grows after a definitive failure; what is in doubt keeps its key.
pub(crate) fn next(attempts: &[PaymentAttempt], op: Op) -> Next {
    let last = attempts
        .iter()
        .filter(|attempt| attempt.op == op)
        .max_by_key(|attempt| attempt.seq);
    match last {
        None => Next::Send(1),
        Some(last) => match last.state {
            AttemptState::Pending => Next::Send(last.seq),
            AttemptState::Unknown => Next::InDoubt,
            AttemptState::Failed if last.seq < SEQ_MAX => Next::Send(last.seq + 1),
            AttemptState::Succeeded | AttemptState::Declined | AttemptState::Failed => Next::Over,
        },
    }
}

/// True while any other operation of the payment is in doubt: nothing may be compensated then.
pub(crate) fn others_in_doubt(attempts: &[PaymentAttempt], op: Op) -> bool {
    attempts.iter().any(|attempt| attempt.op != op && attempt.is_in_doubt())
}

/// What T1 leads to.
pub(crate) enum Step<C = PaymentAttempt> {
    /// Nothing is to be sent.
    Ended(Outcome),
    /// This is to be sent, for this payment as it stands.
    Call(Payment, C),
}

/// The end of T1: commits the call's row, and that the payment and its order say what is under way.
pub(crate) async fn open(
    mut tx: Effects,
    (mut order, mut payment): (Order, Payment),
    op: Op,
    seq: i32,
    amount: Cents,
    by: &Cause,
) -> anyhow::Result<Step> {
    let call = payments::store::open_attempt(&mut tx, &payment, op, seq, amount, by).await?;
    if let Some((state, axis, code)) = under_way(op)
        && payment.state != state
    {
        payment.state = state;
        payments::store::save(&mut tx, &mut payment).await?;
        payment_outcome::move_axis(&mut tx, &mut order, axis, code, None, by).await?;
    }
    tx.commit().await?;
    Ok(Step::Call(payment, call))
}

/// What a payment and its order say while an operation is under way; an authorization began with the payment.
fn under_way(op: Op) -> Option<(State, orders::PaymentStatus, &'static str)> {
    match op {
        Op::Create | Op::Confirm => None,
        Op::Capture => Some((State::Capturing, orders::PaymentStatus::Capturing, "capture_due")),
        Op::Void => Some((State::Voiding, orders::PaymentStatus::Voiding, "void_due")),
        Op::Refund => Some((State::Refunding, orders::PaymentStatus::Refunding, "refund_due")),
    }
}

/// How long a request may take; a failure when its answer could no longer be recorded.
pub(crate) fn time_to_send(attempt: &Attempt) -> anyhow::Result<Duration> {
    let left = attempt.time_left();
    match left < TIME_TO_SEND {
        true => Err(Failure::transient("no_time_left", "too little of the lease is left to send anything").into()),
        false => Ok(left),
    }
}

/// Sends one operation whose row is committed. The last thing before the wire is to look at the clock.
pub(crate) async fn send(
    attempt: &Attempt,
    services: &Services,
    payment: &Payment,
    call: &PaymentAttempt,
) -> anyhow::Result<(Reply, Class)> {
    let left = time_to_send(attempt)?;
    let reply = services
        .gateway
        .send(call.op, payment, call.amount, &call.idem_key, left)
        .await;
    let class = match classify(call.op, &reply) {
        // A success that is about something else is no success.
        Class::Ok if reply.intent().is_some_and(|intent| !intent.belongs_to(payment)) => {
            tracing::error!(payment.id = %payment.id, "the gateway answered about another payment");
            Class::Unknown
        }
        class => class,
    };
    metrics::counter!("gateway_calls_total", "op" => call.op.as_str(), "class" => name(&class)).increment(1);
    Ok((reply, class))
}

/// Records an answer that does not tell what became of the operation, or that it cannot succeed; says what happens to the
/// job. Never called with an answer that is conclusive for the operation.
pub(crate) async fn inconclusive(
    attempt: &Attempt,
    services: &Services,
    call: &PaymentAttempt,
    reply: &Reply,
    class: &Class,
) -> anyhow::Result<Outcome> {
    let failure = match class {
        Class::Transient => Failure::transient(reply.code(), reply.message()),
        Class::Throttled(after) => {
            Failure::throttled(reply.code(), reply.message(), after.unwrap_or(Duration::from_secs(1)))
        }
        Class::KeyInUse => {
            let after = Duration::from_millis(500) + jitter(Duration::from_millis(4500));
            Failure::unknown(reply.code(), reply.message()).retry_after(after)
        }
        Class::Unknown => Failure::unknown(reply.code(), reply.message()),
        Class::Config => Failure::config(reply.code(), reply.message()),
        Class::KeyMisused => Failure::permanent("idempotency_error", reply.message()),
        _ => Failure::permanent(reply.code(), reply.message()),
    }
    .with_http(queue::HttpFacts {
        status: reply.status(),
        request_id: reply.answer().and_then(|answer| answer.request_id.clone()),
        body_excerpt: None,
    });

    let mut tx = attempt.begin().await?;
    let (order, payment) = lock(&mut tx, call.payment_id).await?;
    let unsent = matches!(class, Class::Transient | Class::Throttled(_) | Class::Config);
    match class {
        Class::Refused => payments::store::settle(&mut tx, call.id, AttemptState::Failed, Some(reply)).await?,
        _ => payments::store::note(&mut tx, call.id, reply, unsent).await?,
    }
    let is_exhausted =
        i64::from(call.sends) >= i64::from(services.settings.sends_max) || reply.code() == payments::STORED_FAILURE;
    if matches!(class, Class::Unknown | Class::KeyInUse) && is_exhausted {
        hand_over(&mut tx, order, payment, call, &cause(attempt)).await?;
        tx.commit().await?;
        return Ok(in_doubt());
    }
    tx.commit().await?;
    Err(failure.into())
}

/// Leaves an operation to `reconcile_payment`: sending it once more would tell nothing new.
async fn hand_over(
    conn: &mut PgConnection,
    mut order: Order,
    mut payment: Payment,
    call: &PaymentAttempt,
    by: &Cause,
) -> anyhow::Result<()> {
    payments::store::doubt(conn, call.id).await?;
    if payment.state.is_unsettled() {
        payment.state = State::Unknown;
        payments::store::save(conn, &mut payment).await?;
        let to = orders::PaymentStatus::Unknown;
        payment_outcome::move_axis(conn, &mut order, to, "gateway_silent", None, by).await?;
    }
    follow_with(conn, &ReconcilePayment { payment_id: payment.id }).await?;
    Ok(())
}

/// The job waits, without using an attempt, for what reconciliation finds.
pub(crate) fn in_doubt() -> Outcome {
    Outcome::Snooze(Duration::from_secs(1) + jitter(Duration::from_secs(2)))
}

/// Waits for what reconciliation finds, and makes sure that it looks.
pub(crate) async fn wait_for_truth<C>(mut tx: Effects, id: PaymentId) -> anyhow::Result<Step<C>> {
    follow_with(&mut tx, &ReconcilePayment { payment_id: id }).await?;
    tx.commit().await?;
    Ok(Step::Ended(in_doubt()))
}

/// The operation is not asked for again: it ended without doing what it was for.
pub(crate) fn given_up(op: Op) -> anyhow::Error {
    Failure::permanent("given_up", format!("the {} has ended without effect", op.as_str())).into()
}

/// What the gateway says of an intent; a failure if it says nothing usable.
pub(crate) async fn look(
    attempt: &Attempt,
    services: &Services,
    payment: &Payment,
) -> anyhow::Result<payments::Intent> {
    let Some(id) = payment.gateway_ref.as_deref() else {
        return Err(Failure::permanent("no_intent", "the payment has no intent to look at").into());
    };
    let reply = services.gateway.intent(id, attempt.time_left()).await;
    match (classify(Op::Create, &reply), reply.intent()) {
        (Class::Ok, Some(intent)) if intent.belongs_to(payment) => Ok(intent),
        (Class::Ok, _) => {
            let message = "the intent at the gateway is not that of this payment";
            Err(Failure::permanent("gateway_mismatch", message).into())
        }
        _ => Err(unanswered(&reply)),
    }
}

/// The refunds that the gateway made of a payment.
pub(crate) async fn refunds(
    attempt: &Attempt,
    services: &Services,
    payment: &Payment,
) -> anyhow::Result<Vec<payments::Refund>> {
    let Some(id) = payment.gateway_ref.as_deref() else {
        return Ok(Vec::new());
    };
    services
        .gateway
        .refunds(id, attempt.time_left())
        .await
        .map_err(|reply| unanswered(&reply))
}

/// A question without an answer: it is asked again.
pub(crate) fn unanswered(reply: &Reply) -> anyhow::Error {
    let failure = match classify(Op::Create, reply) {
        Class::Throttled(after) => {
            Failure::throttled(reply.code(), reply.message(), after.unwrap_or(Duration::from_secs(1)))
        }
        Class::Config => Failure::config(reply.code(), reply.message()),
        Class::Refused => Failure::permanent(reply.code(), reply.message()),
        Class::Transient => Failure::transient(reply.code(), reply.message()),
        _ => Failure::unknown(reply.code(), reply.message()),
    };
    failure.into()
}

/// A dead job leaves the order on hold, so that nothing is silently stuck; the gateway is still asked for the truth.
pub(crate) async fn bury(conn: &mut PgConnection, id: PaymentId, letter: &DeadLetter) -> anyhow::Result<()> {
    let Some((mut order, _)) = payments::store::lock_with_order(conn, id).await? else {
        return Ok(());
    };
    if letter.kind != "reconcile_payment" {
        follow_with(conn, &ReconcilePayment { payment_id: id }).await?;
    }
    let cause = Cause::job(&letter.kind, letter.id.0, letter.fence);
    hold(
        conn,
        &mut order,
        &dead(&letter.kind),
        &letter.code,
        &letter.message,
        &cause,
    )
    .await
}

/// Puts an order on hold unless it is over.
pub(crate) async fn hold(
    conn: &mut PgConnection,
    order: &mut Order,
    code: &str,
    error_code: &str,
    message: &str,
    cause: &Cause,
) -> anyhow::Result<()> {
    if order.status.is_terminal() {
        tracing::error!(order.id = %order.id, code, error_code, "a payment of an order that is over needs a person");
        return Ok(());
    }
    let detail = json!({ "error_code": error_code, "message": message });
    let announced = orders::store::hold(conn, order, code, detail, cause).await?;
    crate::announce(conn, announced).await?;
    Ok(())
}

/// The waits of payment jobs: half a second, doubling to a minute, and slower once it is clearly not going to be soon.
pub(crate) fn delay_after(attempt: i32) -> Duration {
    let doublings = attempt.clamp(1, 8) as u32 - 1;
    let bound = match attempt {
        ..=60 => (Duration::from_millis(500) * 2u32.pow(doublings)).min(Duration::from_secs(60)),
        _ => Duration::from_secs(20 * 60),
    };
    Duration::from_millis(50) + jitter(bound)
}

fn jitter(bound: Duration) -> Duration {
    bound.mul_f64(rand::rng().random::<f64>())
}

pub(crate) fn name(class: &Class) -> &'static str {
    match class {
        Class::Ok => "ok",
        Class::Transient => "transient",
        Class::Unknown => "unknown",
        Class::KeyInUse => "key_in_use",
        Class::Throttled(_) => "throttled",
        Class::Declined(_) => "declined",
        Class::Look => "look",
        Class::Expired => "expired",
        Class::KeyMisused => "key_misused",
        Class::Refused => "refused",
        Class::Config => "config",
    }
}
