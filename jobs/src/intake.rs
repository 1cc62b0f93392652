//! What requests start, in the caller's transaction: the API's endpoints call these, and so does `reserve_stock` for
//! orders that confirm themselves.

use chrono::{DateTime, Utc};
use domain::{
    Cause,
    ids::{OrderId, PaymentId, ShipmentId},
    money::Cents,
    orders::{self, NewOrder, Order, Status},
    services::Settings,
};
use sqlx::PgConnection;

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
    let _ = (conn, order, cause);
    todo!()
}

/// Confirms a reserved order: a payment, and the job that authorizes it.
pub async fn confirm(
    conn: &mut PgConnection,
    id: OrderId,
    payment_method: &str,
    settings: &Settings,
    cause: &Cause,
) -> Result<Order, Error> {
    let _ = (conn, id, payment_method, settings, cause);
    todo!()
}

/// Cancels an order while that is allowed.
pub async fn cancel(
    conn: &mut PgConnection,
    id: OrderId,
    reason: &str,
    settings: &Settings,
    cause: &Cause,
) -> Result<Order, Error> {
    let _ = (conn, id, reason, settings, cause);
    todo!()
}

/// Pays back part or all of what was captured.
pub async fn refund(
    conn: &mut PgConnection,
    id: PaymentId,
    amount: Cents,
    reason: &str,
    cause: &Cause,
) -> Result<(), Error> {
    let _ = (conn, id, amount, reason, cause);
    todo!()
}

/// Lets a shipment leave: the job that ships it.
pub async fn ship(conn: &mut PgConnection, id: ShipmentId, cause: &Cause) -> Result<(), Error> {
    let _ = (conn, id, cause);
    todo!()
}
