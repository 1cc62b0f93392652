//! What follows when the fate of an operation is known, whoever learned it: the job that asked, or reconciliation.
//!
//! Each function runs under the locks of the order and the payment, in the transaction that records the fate, and changes
//! nothing when it has been recorded before. The gateway's truth is monotonic: what is captured stays captured.

use domain::{
    Cause,
    money::Cents,
    orders::{self, Change, Order, PaymentStatus, Status},
    payments::{self, Payment, State},
    routes,
    services::Settings,
};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    AuthorizePayment, CapturePayment, RefundPayment, ReleaseStock, VoidPayment, announce, follow_with, payment_call,
    plan_routes,
};

/// True while an order still wants its payment. One on hold waits for a person: nothing is continued, nothing undone.
pub(crate) fn stands(order: &Order) -> bool {
    matches!(
        order.status,
        Status::Pending | Status::Reserved | Status::Confirmed | Status::Closed
    )
}

/// True once an order will not be paid: whatever is held goes back.
pub(crate) fn is_off(order: &Order) -> bool {
    matches!(
        order.status,
        Status::Cancelling | Status::Cancelled | Status::Rejected | Status::Expired
    )
}

/// The money is held: the order is confirmed, its stock committed, its capture and its route asked for.
pub(crate) async fn authorized(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &mut Payment,
    settings: &Settings,
    by: &Cause,
) -> anyhow::Result<()> {
    payment.state = State::Authorized;
    payments::store::save(conn, payment).await?;
    match order.status {
        Status::Reserved => confirm(conn, order, payment, settings, by).await,
        // Cancelled, or out of time, while the bank was being asked.
        _ if is_off(order) => {
            follow_with(conn, &VoidPayment { payment_id: payment.id }).await?;
            Ok(())
        }
        // The first hold ran out, this is the second one: the capture it was for is due.
        Status::Confirmed => {
            move_axis(conn, order, PaymentStatus::Authorized, "payment_authorized", None, by).await?;
            capture_when_due(conn, order, payment).await
        }
        _ => move_axis(conn, order, PaymentStatus::Authorized, "payment_authorized", None, by).await,
    }
}

async fn capture_when_due(conn: &mut PgConnection, order: &Order, payment: &Payment) -> anyhow::Result<()> {
    let capture = CapturePayment { payment_id: payment.id };
    match order.cancel_until {
        Some(due) => queue::enqueue_at(conn, &capture, due).await?,
        None => queue::enqueue(conn, &capture).await?,
    };
    Ok(())
}

async fn confirm(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &Payment,
    settings: &Settings,
    by: &Cause,
) -> anyhow::Result<()> {
    let change = Change {
        status: Some(Status::Confirmed),
        payment_status: Some(PaymentStatus::Authorized),
        confirmed_with_window: Some(settings.cancel_window),
        cause: "payment_authorized",
        event: Some("order.confirmed"),
        ..Change::default()
    };
    let announced = orders::store::change(conn, order, change, by).await?;
    orders::store::commit_reservations(conn, order.id, by).await?;
    let days = routes::store::create_shipments(conn, order, by).await?;
    capture_when_due(conn, order, payment).await?;
    plan_routes::request(conn, &days).await?;
    announce(conn, announced).await?;
    Ok(())
}

/// The bank said no: the stock goes back and the order is rejected, together.
pub(crate) async fn declined(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &mut Payment,
    decline_code: &str,
    by: &Cause,
) -> anyhow::Result<()> {
    payment.state = State::Declined;
    payment.decline_code = Some(decline_code.to_owned());
    payments::store::save(conn, payment).await?;
    match order.status {
        Status::Reserved => {
            orders::store::release(conn, order, "payment_declined", by).await?;
            let change = Change {
                status: Some(Status::Rejected),
                payment_status: Some(PaymentStatus::Declined),
                reason: Some(json!({ "code": "payment_declined", "decline_code": decline_code })),
                cause: "payment_declined",
                event: Some("order.rejected"),
                ..Change::default()
            };
            let announced = orders::store::change(conn, order, change, by).await?;
            announce(conn, announced).await?;
            Ok(())
        }
        Status::Cancelling => {
            move_axis(conn, order, PaymentStatus::Voided, "payment_declined", None, by).await?;
            give_stock_back(conn, order).await
        }
        // It was asked for once more after the hold ran out: the goods are promised, so a person decides.
        Status::Confirmed => {
            let message = "the bank refuses to hold the money a second time";
            let to = PaymentStatus::Declined;
            set_axis_and_hold(conn, order, to, "reauthorization_declined", decline_code, message, by).await
        }
        _ => move_axis(conn, order, PaymentStatus::Declined, "payment_declined", None, by).await,
    }
}

/// The money is taken. If the order is off by now, it goes back, and a person hears of it.
pub(crate) async fn captured(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &mut Payment,
    amount: Cents,
    by: &Cause,
) -> anyhow::Result<()> {
    payment.captured = payment.captured.max(amount);
    payment.state = State::Captured;
    payments::store::save(conn, payment).await?;
    if is_off(order) {
        tracing::error!(order.id = %order.id, payment.id = %payment.id, "captured although the order is off: refunding");
        return refund_all(conn, order, payment, "captured_although_off", by).await;
    }
    move_axis(
        conn,
        order,
        PaymentStatus::Captured,
        "payment_captured",
        Some("payment.captured"),
        by,
    )
    .await
}

/// Asks for everything that was captured and not given back yet.
pub(crate) async fn refund_all(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &mut Payment,
    reason: &str,
    by: &Cause,
) -> anyhow::Result<()> {
    let amount = payment.refundable();
    let seq = match payments::store::request_refund(conn, payment, amount, by).await {
        Ok(seq) => seq,
        // It has been asked for already, or there is nothing to give back.
        Err(payments::store::RefundError::TooMuch { .. }) => return Ok(()),
        Err(payments::store::RefundError::Database(error)) => return Err(error.into()),
    };
    let refund = RefundPayment {
        payment_id: payment.id,
        amount_minor: amount.0,
        seq,
        reason: reason.to_owned(),
    };
    follow_with(conn, &refund).await?;
    move_axis(conn, order, PaymentStatus::Refunding, "refund_asked", None, by).await
}

/// Asks for the money once more after a hold has ended, unless that was the second one; false then.
///
/// The intent that ended can take no money any more, so this is a payment of its own, with an intent and keys of its own:
/// nothing that was sent for the first one, however late it arrives, can meet it.
pub(crate) async fn authorize_again(
    conn: &mut PgConnection,
    order: &mut Order,
    ended: &Payment,
    by: &Cause,
) -> anyhow::Result<bool> {
    let is_first = payments::store::count_of_order(conn, order.id).await? == 1;
    let was_held = ended.authorized_at.is_some() && ended.captured == Cents::ZERO;
    if order.status != Status::Confirmed || ended.state != State::Voided || !is_first || !was_held {
        return Ok(false);
    }
    let payment_id = payments::store::create(conn, order, &ended.payment_method, by).await?;
    follow_with(conn, &AuthorizePayment { payment_id }).await?;
    move_axis(conn, order, PaymentStatus::Authorizing, "authorization_ended", None, by).await?;
    Ok(true)
}

/// Nothing is held and nothing can be taken any more.
pub(crate) async fn voided(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &mut Payment,
    by: &Cause,
) -> anyhow::Result<()> {
    payment.state = State::Voided;
    payments::store::save(conn, payment).await?;
    if authorize_again(conn, order, payment, by).await? {
        return Ok(());
    }
    if stands(order) {
        let message = "the authorization ended at the gateway while the order still stands";
        return payment_call::hold(conn, order, "authorization_ended", "canceled", message, by).await;
    }
    move_axis(
        conn,
        order,
        PaymentStatus::Voided,
        "payment_voided",
        Some("payment.voided"),
        by,
    )
    .await?;
    if order.status == Status::Cancelling {
        give_stock_back(conn, order).await?;
    }
    Ok(())
}

/// Money went back.
pub(crate) async fn refunded(
    conn: &mut PgConnection,
    order: &mut Order,
    payment: &mut Payment,
    amount: Cents,
    by: &Cause,
) -> anyhow::Result<()> {
    payment.refunded = Cents(payment.refunded.0 + amount.0);
    let attempts = payments::store::attempts(conn, payment.id).await?;
    let is_more_underway = attempts
        .iter()
        .any(|attempt| attempt.op == payments::Op::Refund && attempt.answered_at.is_none());
    payment.state = match payment.refundable() {
        Cents::ZERO => State::Refunded,
        _ if is_more_underway => State::Refunding,
        _ => State::Captured,
    };
    payments::store::save(conn, payment).await?;
    let to = match payment.state {
        State::Refunded => PaymentStatus::Refunded,
        State::Captured => PaymentStatus::Captured,
        _ => PaymentStatus::Refunding,
    };
    move_axis(conn, order, to, "payment_refunded", Some("payment.refunded"), by).await?;
    if payment.state == State::Refunded && order.status == Status::Cancelling {
        give_stock_back(conn, order).await?;
    }
    Ok(())
}

/// The money of a cancelled order is back where it belongs: now its stock.
pub(crate) async fn give_stock_back(conn: &mut PgConnection, order: &Order) -> anyhow::Result<()> {
    follow_with(
        conn,
        &ReleaseStock {
            order_id: order.id,
            cause: "cancel".to_owned(),
        },
    )
    .await?;
    Ok(())
}

/// Moves the order's money axis where the state machine allows it; an order that is past it stays as it is.
pub(crate) async fn move_axis(
    conn: &mut PgConnection,
    order: &mut Order,
    to: PaymentStatus,
    cause: &'static str,
    event: Option<&'static str>,
    by: &Cause,
) -> anyhow::Result<()> {
    let stays = order.payment_status == to;
    if !stays && !order.payment_status.next().contains(&to) {
        tracing::warn!(order.id = %order.id, from = %order.payment_status, %to, "the money axis has no such step");
        return Ok(());
    }
    if stays && event.is_none() {
        return Ok(());
    }
    let payment_status = (!stays).then_some(to);
    let change = Change {
        payment_status,
        cause,
        event,
        ..Change::default()
    };
    let announced = orders::store::change(conn, order, change, by).await?;
    announce(conn, announced).await?;
    Ok(())
}

/// Moves the money axis where it can go, then leaves the order to a person.
pub(crate) async fn set_axis_and_hold(
    conn: &mut PgConnection,
    order: &mut Order,
    to: PaymentStatus,
    code: &str,
    error_code: &str,
    message: &str,
    by: &Cause,
) -> anyhow::Result<()> {
    move_axis(conn, order, to, "payment_settled", None, by).await?;
    payment_call::hold(conn, order, code, error_code, message, by).await
}
