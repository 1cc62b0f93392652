//! What requests start, in the caller's transaction: the API's endpoints call these, and so does `reserve_stock` for
//! orders that confirm themselves.

use chrono::{DateTime, Utc};
use domain::{
    Cause,
    events::Announced,
    ids::{OrderId, PaymentId, ShipmentId},
    money::Cents,
    orders::{self, Change, NewOrder, Order, PaymentStatus, Status},
    payments, routes,
    services::Settings,
};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    AuthorizePayment, RefundPayment, ReleaseStock, ReserveStock, ShipShipment, VoidPayment, announce, follow_with,
    plan_routes,
};

/// Why a request changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such order, payment or shipment.
    #[error("not found")]
    NotFound,
    /// The order is still pending: its stock is not reserved yet.
    #[error("the order is not reserved yet")]
    NotReserved,
    /// The reservation has run out.
    #[error("the reservation expired at {0}")]
    Expired(DateTime<Utc>),
    /// The cancel window is closed.
    #[error("the order could be cancelled until {deadline}")]
    WindowClosed {
        /// When it closed.
        deadline: DateTime<Utc>,
    },
    /// The order is in a state that does not allow it.
    #[error("the order is {status}")]
    Conflict {
        /// That state.
        status: Status,
    },
    /// More than was captured and not yet refunded.
    #[error("at most {left} can be refunded")]
    TooMuch {
        /// What is left.
        left: Cents,
    },
    /// The order itself.
    #[error(transparent)]
    Order(#[from] orders::Error),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Takes an order in: the order, its event, and the job that reserves its stock.
pub async fn submit(conn: &mut PgConnection, order: &NewOrder, cause: &Cause) -> Result<Order, Error> {
    let (order, announced) = orders::store::submit(&mut *conn, order, cause).await?;
    follow_with(&mut *conn, &ReserveStock { order_id: order.id }).await?;
    announce(conn, announced).await?;
    Ok(order)
}

/// Confirms a reserved order: a payment, and the job that authorizes it. An order that is confirmed, or about to be, stays
/// as it is: no second authorization.
pub async fn confirm(
    conn: &mut PgConnection,
    id: OrderId,
    payment_method: &str,
    settings: &Settings,
    cause: &Cause,
) -> Result<Order, Error> {
    let mut order = orders::store::lock(&mut *conn, id).await?.ok_or(Error::NotFound)?;
    let announced = confirm_locked(&mut *conn, &mut order, payment_method, settings, cause).await?;
    announce(conn, announced).await?;
    Ok(order)
}

/// The same for an order its caller has locked; the caller announces.
pub(crate) async fn confirm_locked(
    conn: &mut PgConnection,
    order: &mut Order,
    payment_method: &str,
    settings: &Settings,
    cause: &Cause,
) -> Result<Announced, Error> {
    match (order.status, order.payment_status) {
        (Status::Confirmed | Status::Closed, _) => return Ok(Announced::default()),
        (Status::Pending, _) => return Err(Error::NotReserved),
        (Status::Reserved, PaymentStatus::None) => {}
        (Status::Reserved, _) => return Ok(Announced::default()),
        (status, _) => return Err(Error::Conflict { status }),
    }
    // Read after the lock: whoever waited for it may have waited past the end.
    let now = payments::store::clock(&mut *conn).await?;
    match order.expires_at {
        Some(expires_at) if expires_at <= now => return Err(Error::Expired(expires_at)),
        _ => {}
    }
    if !orders::is_payment_method(payment_method) {
        return Err(orders::Error::Invalid(vec![orders::payment_method_problem("/payment_method")]).into());
    }
    let payment_id = payments::store::create(&mut *conn, order, payment_method, cause).await?;
    let confirming = Change {
        payment_status: Some(PaymentStatus::Authorizing),
        expires_in: Some(settings.confirm_ttl),
        cause: "confirm",
        ..Change::default()
    };
    let announced = orders::store::change(&mut *conn, order, confirming, cause).await?;
    follow_with(conn, &AuthorizePayment { payment_id }).await?;
    Ok(announced)
}

/// Cancels an order while that is allowed. Before anything is held for it, at once; else it is `cancelling`, which stops
/// every step forward, and the jobs that give money and stock back end in `cancelled`. Repeating it changes nothing.
pub async fn cancel(
    conn: &mut PgConnection,
    id: OrderId,
    reason: &str,
    _settings: &Settings,
    cause: &Cause,
) -> Result<Order, Error> {
    let mut order = orders::store::lock(&mut *conn, id).await?.ok_or(Error::NotFound)?;
    // What is held is cancelled as what it was.
    match order.held_from.unwrap_or(order.status) {
        Status::Cancelling | Status::Cancelled => return Ok(order),
        Status::Pending | Status::Reserved => {}
        Status::Confirmed => {
            // Read after the lock, and strictly less: at the deadline the capture wins.
            let now = payments::store::clock(&mut *conn).await?;
            match order.cancel_until {
                Some(deadline) if now >= deadline => return Err(Error::WindowClosed { deadline }),
                _ => {}
            }
        }
        status => return Err(Error::Conflict { status }),
    }

    let is_nothing_held = order.held_from.unwrap_or(order.status) == Status::Pending;
    let (status, event) = match is_nothing_held {
        true => (Status::Cancelled, Some("order.cancelled")),
        false => (Status::Cancelling, None),
    };
    let cancelling = Change {
        status: Some(status),
        reason: Some(json!({ "code": "cancelled_by_request", "reason": reason })),
        cancel_accepted: true,
        cause: "cancel",
        event,
        ..Change::default()
    };
    let announced = orders::store::change(&mut *conn, &mut order, cancelling, cause).await?;
    if !is_nothing_held {
        give_back(&mut *conn, &order, cause).await?;
    }
    announce(conn, announced).await?;
    Ok(order)
}

/// Starts what ends a `cancelling` order: first the money, and its job then asks for the stock.
async fn give_back(conn: &mut PgConnection, order: &Order, cause: &Cause) -> Result<(), Error> {
    let days = routes::store::cancel_shipments(&mut *conn, order.id, cause).await?;
    if !days.is_empty() {
        plan_routes::request(&mut *conn, &days).await?;
    }
    let payment = match order.payment_status.is_settled() {
        true => None,
        false => payments::store::of_order(&mut *conn, order.id).await?,
    };
    match payment {
        Some(payment) => follow_with(conn, &VoidPayment { payment_id: payment.id }).await?,
        None => {
            follow_with(
                conn,
                &ReleaseStock {
                    order_id: order.id,
                    cause: "cancel".to_owned(),
                },
            )
            .await?
        }
    };
    Ok(())
}

/// Pays back part or all of what was captured.
pub async fn refund(
    conn: &mut PgConnection,
    id: PaymentId,
    amount: Cents,
    reason: &str,
    cause: &Cause,
) -> Result<(), Error> {
    let (mut order, mut payment) = payments::store::lock_with_order(&mut *conn, id)
        .await?
        .ok_or(Error::NotFound)?;
    let seq = match payments::store::request_refund(&mut *conn, &mut payment, amount, cause).await {
        Ok(seq) => seq,
        Err(payments::store::RefundError::TooMuch { left }) => return Err(Error::TooMuch { left }),
        Err(payments::store::RefundError::Database(error)) => return Err(error.into()),
    };
    if order.payment_status != PaymentStatus::Refunding {
        let refunding = Change {
            payment_status: Some(PaymentStatus::Refunding),
            cause: "refund",
            ..Change::default()
        };
        let announced = orders::store::change(&mut *conn, &mut order, refunding, cause).await?;
        announce(&mut *conn, announced).await?;
    }
    follow_with(
        conn,
        &RefundPayment {
            payment_id: id,
            amount_minor: amount.0,
            seq,
            reason: reason.to_owned(),
        },
    )
    .await?;
    Ok(())
}

/// Lets a shipment leave: the job that ships it.
pub async fn ship(conn: &mut PgConnection, id: ShipmentId, _cause: &Cause) -> Result<(), Error> {
    if routes::store::shipment(&mut *conn, id).await?.is_none() {
        return Err(Error::NotFound);
    }
    follow_with(conn, &ShipShipment { shipment_id: id }).await?;
    Ok(())
}
