//! The SQL of orders, their lines, history and reservations.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::{Change, Error, NewOrder, Order, Shortage, Status};
use crate::{
    Cause,
    events::Announced,
    ids::{CustomerId, OrderId, WarehouseId},
};

/// How an attempt to reserve ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// All lines are held until the time given.
    Reserved,
    /// Too little is free; the order is rejected.
    Rejected(Vec<Shortage>),
    /// The order is no longer pending: nothing was done.
    NotPending(Status),
}

/// Which orders to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this status.
    pub status: Option<Status>,
    /// Submitted then or later.
    pub from: Option<DateTime<Utc>>,
    /// Submitted before.
    pub to: Option<DateTime<Utc>>,
    /// Of this customer.
    pub customer_id: Option<CustomerId>,
}

/// Writes an order, its lines with prices frozen, and its event.
pub async fn submit(conn: &mut PgConnection, order: &NewOrder, cause: &Cause) -> Result<(Order, Announced), Error> {
    let _ = (conn, order, cause);
    todo!()
}

/// The order, locked until the transaction ends: always the first lock.
pub async fn lock(conn: &mut PgConnection, id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// The only writer of the three axes.
pub async fn change(conn: &mut PgConnection, order: &mut Order, change: Change, cause: &Cause) -> Result<Announced, Error> {
    let _ = (conn, order, change, cause);
    todo!()
}

/// Puts an order on hold, for a person to look at; one already on hold stays as it is.
pub async fn hold(
    conn: &mut PgConnection,
    order: &mut Order,
    code: &str,
    detail: serde_json::Value,
    cause: &Cause,
) -> Result<Announced, Error> {
    let _ = (conn, order, code, detail, cause);
    todo!()
}

/// Takes an order from hold back to where it was.
pub async fn resume(conn: &mut PgConnection, order: &mut Order, cause: &Cause) -> Result<Announced, Error> {
    let _ = (conn, order, cause);
    todo!()
}

/// Holds stock for every line of a pending order, or rejects it.
pub async fn reserve(
    conn: &mut PgConnection,
    id: OrderId,
    ttl: Duration,
    cause: &Cause,
) -> Result<(Reservation, Announced), Error> {
    let _ = (conn, id, ttl, cause);
    todo!()
}

/// Turns held reservations into committed ones: they no longer expire.
pub async fn commit_reservations(conn: &mut PgConnection, id: OrderId, cause: &Cause) -> Result<u64, Error> {
    let _ = (conn, id, cause);
    todo!()
}

/// Gives the stock of every live reservation back, once; returns how many there were.
pub async fn release(conn: &mut PgConnection, order: &mut Order, why: &str, cause: &Cause) -> Result<u64, Error> {
    let _ = (conn, order, why, cause);
    todo!()
}

/// Lets what is committed in one warehouse leave it; returns how many reservations there were.
/// The last one makes the order `shipped` and closes it.
pub async fn ship(
    conn: &mut PgConnection,
    order: &mut Order,
    warehouse_id: WarehouseId,
    cause: &Cause,
) -> Result<(u64, Announced), Error> {
    let _ = (conn, order, warehouse_id, cause);
    todo!()
}

/// The order.
pub async fn get(conn: &mut PgConnection, id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// An order with all that belongs to it.
#[derive(Debug, Clone, Serialize)]
pub struct Detail {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
}

/// The order with its lines, reservations, history and so on.
pub async fn detail(conn: &mut PgConnection, id: OrderId) -> Result<Option<Detail>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// A page of orders, oldest first, after the position given; the next position is that of the last row.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    after: Option<(DateTime<Utc>, OrderId)>,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    let _ = (conn, filter, after, limit);
    todo!()
}
