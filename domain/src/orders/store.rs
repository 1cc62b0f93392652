//! The SQL of orders, their lines and history. Stock, and the quantities on lines that follow it, are `stock::store`'s.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Change, Error, FulfilmentStatus, NewOrder, Offer, Order, PaymentStatus, Problem, Shortage, Status,
    allocation::{self, Need},
    state::{self, Axes},
};
use crate::{
    Cause,
    events::{Announced, PendingDelivery},
    ids::{
        CustomerId, DeliveryId, EndpointId, EventId, OrderId, OrderLineId, PaymentId, ProductId, ReservationId,
        ShipmentId, WarehouseId,
    },
    money::{Cents, Currency},
    stock::{self, GivenBack},
};

/// How an attempt to reserve ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// All lines are held.
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

/// Rows of `orders` as `Order`s.
macro_rules! orders {
    ($tail:tt $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Order,
            r#"
            select id as "id: _", customer_id as "customer_id: _", reference, status as "status: _",
                   payment_status as "payment_status: _", fulfilment_status as "fulfilment_status: _", version,
                   currency as "currency: _", total_minor as "total: _", confirm_with, reason, held_from as "held_from: _",
                   expires_at, confirmed_at, cancel_until, cancel_accepted_at, created_by, created_at, updated_at
            from orders
            "# + $tail
            $(, $arg)*
        )
    };
}

/// Writes an order, its lines with prices frozen, its history and its event; or says everything that is wrong with it.
pub async fn submit(conn: &mut PgConnection, order: &NewOrder, cause: &Cause) -> Result<(Order, Announced), Error> {
    let (is_active, offers) = look_up(&mut *conn, order).await?;
    let mut problems = customer_problem(is_active);
    if order
        .confirm_with
        .as_deref()
        .is_some_and(|method| !super::is_payment_method(method))
    {
        problems.push(super::payment_method_problem("/confirm_with"));
    }
    let (lines, currency, total) = match super::price(&order.lines, &offers) {
        Ok(priced) if problems.is_empty() => priced,
        priced => {
            problems.extend(priced.err().unwrap_or_default());
            return Err(Error::Invalid(problems));
        }
    };

    let id = OrderId::new();
    let line_ids: Vec<Uuid> = lines.iter().map(|_| OrderLineId::new().0).collect();
    let product_ids: Vec<Uuid> = lines.iter().map(|line| line.product_id.0).collect();
    let prices: Vec<i64> = lines.iter().map(|line| line.unit_price.0).collect();
    let skus: Vec<&str> = order.lines.iter().map(|line| line.sku.as_str()).collect();
    let quantities: Vec<i64> = order.lines.iter().map(|line| line.qty).collect();
    let rows = sqlx::query!(
        r#"
        with submitted as (
            insert into orders (id, customer_id, reference, status, version, currency, total_minor, confirm_with, created_by)
            values ($1, $2, $3, 'pending', 1, $4, $5, $6, $7)
            returning *
        ), lines as (
            insert into order_lines (id, order_id, line_no, product_id, sku, qty, unit_price_minor)
            select l.id, $1, l.line_no, l.product_id, l.sku, l.qty, l.price
            from unnest($8::uuid[], $9::uuid[], $10::text[], $11::bigint[], $12::bigint[])
                with ordinality as l (id, product_id, sku, qty, price, line_no)
        ), history as (
            insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor, job_id, fence)
            select id, version, status, payment_status, fulfilment_status, 'submit', $7, $13, $14
            from submitted
        )
        select o.created_at, o.updated_at, d.delivery_id as "delivery_id?: DeliveryId",
               d.endpoint_id as "endpoint_id?: EndpointId", d.ordering_key
        from submitted o
        left join lateral record_event($15, 'order.created', o.id, order_facts(o)) d on true
        "#,
        id.0,
        order.customer_id.0,
        order.reference,
        currency.as_str(),
        total.0,
        order.confirm_with,
        cause.actor,
        &line_ids,
        &product_ids,
        &skus as &[&str],
        &quantities,
        &prices,
        cause.job_id(),
        cause.fence(),
        EventId::new().0,
    )
    .fetch_all(conn)
    .await
    .map_err(on_constraint)?;
    let (created_at, updated_at) = rows
        .first()
        .map(|row| (row.created_at, row.updated_at))
        .ok_or(Error::NotFound)?;
    let announced = announced(
        rows.into_iter()
            .map(|row| (row.delivery_id, row.endpoint_id, row.ordering_key)),
    );

    let order = Order {
        id,
        customer_id: order.customer_id,
        reference: order.reference.clone(),
        status: Status::Pending,
        payment_status: PaymentStatus::None,
        fulfilment_status: FulfilmentStatus::None,
        version: 1,
        currency,
        total,
        confirm_with: order.confirm_with.clone(),
        reason: None,
        held_from: None,
        expires_at: None,
        confirmed_at: None,
        cancel_until: None,
        cancel_accepted_at: None,
        created_by: cause.actor.clone(),
        created_at,
        updated_at,
    };
    Ok((order, announced))
}

/// Whether the customer may buy (nothing if there is none), and what the catalogue offers of the order's SKUs.
async fn look_up(
    conn: &mut PgConnection,
    order: &NewOrder,
) -> Result<(Option<bool>, HashMap<String, Offer>), sqlx::Error> {
    let is_active = sqlx::query_scalar!(
        r#"select state = 'active' and deleted_at is null as "is_active!" from customers where id = $1"#,
        order.customer_id.0,
    )
    .fetch_optional(&mut *conn)
    .await?;
    // Longer lists are refused whatever they name.
    let skus: Vec<&str> = order
        .lines
        .iter()
        .take(super::LINES_MAX)
        .map(|line| line.sku.as_str())
        .collect();
    let offers = sqlx::query!(
        r#"
        select id as "id: ProductId", sku, price_minor as "price: Cents", currency as "currency: Currency",
               retired_at is not null as "is_retired!"
        from products
        where sku = any($1)
        "#,
        &skus as &[&str],
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        (
            row.sku,
            Offer {
                id: row.id,
                price: row.price,
                currency: row.currency,
                is_retired: row.is_retired,
            },
        )
    })
    .collect();
    Ok((is_active, offers))
}

fn customer_problem(is_active: Option<bool>) -> Vec<Problem> {
    let (code, message) = match is_active {
        Some(true) => return Vec::new(),
        Some(false) => ("customer_inactive", "this customer cannot order any more"),
        None => ("unknown_customer", "there is no such customer"),
    };
    vec![Problem {
        pointer: "/customer_id".to_owned(),
        code,
        message: message.to_owned(),
    }]
}

fn on_constraint(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|refused| refused.constraint()) {
        Some("orders_reference_is_unique") => Error::ReferenceTaken,
        _ => Error::Database(error),
    }
}

/// The order, locked until the transaction ends: always the first lock.
pub async fn lock(conn: &mut PgConnection, id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    orders!("where id = $1 for update", id.0).fetch_optional(conn).await
}

/// Those of the orders that are there, locked in the order of their ids, and after them every stock level of their products:
/// so locked, orders can be reserved one after the other without waiting for anybody.
pub async fn lock_to_reserve(conn: &mut PgConnection, ids: &[OrderId]) -> Result<Vec<Order>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let orders = orders!("where id = any($1) order by id for update", &ids)
        .fetch_all(&mut *conn)
        .await?;
    stock::store::lock_levels(conn, &ids).await?;
    Ok(orders)
}

/// Orders whose reservation has run out, oldest first.
pub async fn expired(conn: &mut PgConnection, limit: i64) -> Result<Vec<OrderId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select id as "id: OrderId" from orders
           where status = 'reserved' and payment_status = 'none' and expires_at <= clock_timestamp()
           order by expires_at
           limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Those of the orders whose reservation has run out, locked in the order of their ids, and after them every stock level of
/// their products; those somebody else has locked are left out.
pub async fn lock_to_expire(conn: &mut PgConnection, ids: &[OrderId]) -> Result<Vec<Order>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    // The condition is checked again under the lock: a confirm may have extended it.
    let orders = orders!(
        "where id = any($1)
           and status = 'reserved' and payment_status = 'none' and expires_at <= clock_timestamp()
         order by id
         for update skip locked",
        &ids,
    )
    .fetch_all(&mut *conn)
    .await?;
    let locked: Vec<Uuid> = orders.iter().map(|order| order.id.0).collect();
    stock::store::lock_levels(conn, &locked).await?;
    Ok(orders)
}

/// The only writer of the three axes. One statement: the row with its version, its history, its event and the deliveries.
pub async fn change(
    conn: &mut PgConnection,
    order: &mut Order,
    change: Change,
    cause: &Cause,
) -> Result<Announced, Error> {
    let from = Axes {
        status: order.status,
        payment: order.payment_status,
        fulfilment: order.fulfilment_status,
    };
    let to = Axes {
        status: change.status.unwrap_or(from.status),
        payment: change.payment_status.unwrap_or(from.payment),
        fulfilment: change.fulfilment_status.unwrap_or(from.fulfilment),
    };
    state::check(from, order.held_from, to)?;
    let was_held = from.status == Status::OnHold;
    let held_from = match (was_held, to.status == Status::OnHold) {
        (false, true) => Some(from.status),
        (true, true) => order.held_from,
        _ => None,
    };
    let is_released = was_held && to.status != Status::OnHold;
    let reason = change.reason.or_else(|| order.reason.take().filter(|_| !is_released));

    let rows = sqlx::query!(
        r#"
        with changed as (
            update orders
            set status = $3, payment_status = $4, fulfilment_status = $5, version = version + 1, reason = $6, held_from = $7,
                expires_at = case
                    when $3 not in ('pending', 'reserved', 'on_hold') then null
                    when $8::float8 is not null then present.at + make_interval(secs => $8)
                    else expires_at
                end,
                confirmed_at = case when $9::float8 is null then confirmed_at else present.at end,
                cancel_until = case when $9::float8 is null then cancel_until else present.at + make_interval(secs => $9) end,
                cancel_accepted_at = case when $10 then present.at else cancel_accepted_at end,
                updated_at = present.at
            from (select clock_timestamp() as at) present
            where id = $1 and version = $2
            returning orders.*
        ), history as (
            insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor, job_id, fence)
            select id, version, status, payment_status, fulfilment_status, $11, $12, $13, $14
            from changed
        )
        select o.expires_at, o.confirmed_at, o.cancel_until, o.cancel_accepted_at, o.updated_at,
               d.delivery_id as "delivery_id?: DeliveryId", d.endpoint_id as "endpoint_id?: EndpointId", d.ordering_key
        from changed o
        left join lateral record_event($15, $16, o.id, order_facts(o)) d on true
        "#,
        order.id.0,
        order.version,
        to.status.as_str(),
        to.payment.as_str(),
        to.fulfilment.as_str(),
        reason,
        held_from.map(Status::as_str),
        change.expires_in.map(|time| time.as_secs_f64()),
        change.confirmed_with_window.map(|time| time.as_secs_f64()),
        change.cancel_accepted,
        change.cause,
        cause.actor,
        cause.job_id(),
        cause.fence(),
        EventId::new().0,
        change.event,
    )
    .fetch_all(conn)
    .await?;
    let row = rows.first().ok_or(Error::NotFound)?;

    order.status = to.status;
    order.payment_status = to.payment;
    order.fulfilment_status = to.fulfilment;
    order.version += 1;
    order.reason = reason;
    order.held_from = held_from;
    order.expires_at = row.expires_at;
    order.confirmed_at = row.confirmed_at;
    order.cancel_until = row.cancel_until;
    order.cancel_accepted_at = row.cancel_accepted_at;
    order.updated_at = row.updated_at;
    Ok(announced(
        rows.into_iter()
            .map(|row| (row.delivery_id, row.endpoint_id, row.ordering_key)),
    ))
}

fn announced(rows: impl Iterator<Item = (Option<DeliveryId>, Option<EndpointId>, Option<String>)>) -> Announced {
    Announced(
        rows.filter_map(|(id, endpoint, key)| Some(PendingDelivery::new(id?, endpoint?, key.as_deref())))
            .collect(),
    )
}

/// Puts an order on hold, for a person to look at; one that is on hold already, or that ended badly, stays as it is.
pub async fn hold(
    conn: &mut PgConnection,
    order: &mut Order,
    code: &str,
    detail: Value,
    cause: &Cause,
) -> Result<Announced, Error> {
    if !order.status.next(order.held_from).contains(&Status::OnHold) {
        return Ok(Announced::default());
    }
    let mut reason = match detail {
        Value::Object(fields) => Value::Object(fields),
        Value::Null => json!({}),
        other => json!({ "detail": other }),
    };
    reason["code"] = code.into();
    let held = Change {
        status: Some(Status::OnHold),
        reason: Some(reason),
        cause: "hold",
        event: Some("order.on_hold"),
        ..Change::default()
    };
    change(conn, order, held, cause).await
}

/// Takes an order from hold back to where it was; one that is not on hold stays as it is.
pub async fn resume(conn: &mut PgConnection, order: &mut Order, cause: &Cause) -> Result<Announced, Error> {
    match (order.status, order.held_from) {
        (Status::OnHold, Some(before)) => {
            change(
                conn,
                order,
                Change {
                    status: Some(before),
                    cause: "resume",
                    ..Change::default()
                },
                cause,
            )
            .await
        }
        _ => Ok(Announced::default()),
    }
}

/// Holds stock for every line of a pending order, or rejects it. One held while it was pending goes on.
pub async fn reserve(
    conn: &mut PgConnection,
    id: OrderId,
    ttl: Duration,
    cause: &Cause,
) -> Result<(Reservation, Announced), Error> {
    let mut order = lock(&mut *conn, id).await?.ok_or(Error::NotFound)?;
    reserve_locked(conn, &mut order, ttl, cause).await
}

/// The same for an order its caller has locked.
pub async fn reserve_locked(
    conn: &mut PgConnection,
    order: &mut Order,
    ttl: Duration,
    cause: &Cause,
) -> Result<(Reservation, Announced), Error> {
    let is_pending = order.status == Status::Pending || order.held_from == Some(Status::Pending);
    if !is_pending {
        return Ok((Reservation::NotPending(order.status), Announced::default()));
    }
    let needs = needs(&mut *conn, order.id).await?;
    let mut products: Vec<ProductId> = needs.iter().map(|need| need.product_id).collect();
    products.sort_unstable();
    products.dedup();
    let free = stock::store::lock_free(&mut *conn, &products, order.customer_id).await?;
    match allocation::allocate(&needs, &free) {
        Ok(taken) => {
            stock::store::take(&mut *conn, &taken, cause).await?;
            let reserved = Change {
                status: Some(Status::Reserved),
                expires_in: Some(ttl),
                cause: "reserve",
                event: Some("order.reserved"),
                ..Change::default()
            };
            Ok((Reservation::Reserved, change(conn, order, reserved, cause).await?))
        }
        Err(shortages) => {
            let rejected = Change {
                status: Some(Status::Rejected),
                reason: Some(json!({ "code": "insufficient_stock", "lines": shortages })),
                cause: "reserve",
                event: Some("order.rejected"),
                ..Change::default()
            };
            Ok((
                Reservation::Rejected(shortages),
                change(conn, order, rejected, cause).await?,
            ))
        }
    }
}

async fn needs(conn: &mut PgConnection, id: OrderId) -> Result<Vec<Need>, sqlx::Error> {
    sqlx::query_as!(
        Need,
        r#"
        select id as "line_id: _", product_id as "product_id: _", sku, qty
        from order_lines
        where order_id = $1
        order by line_no
        "#,
        id.0,
    )
    .fetch_all(conn)
    .await
}

/// Turns held reservations into committed ones: they no longer expire.
pub async fn commit_reservations(conn: &mut PgConnection, id: OrderId, _cause: &Cause) -> Result<u64, Error> {
    Ok(stock::store::commit(conn, id).await?)
}

/// Gives the stock of every live reservation back, once; returns how many reservations there were.
/// It locks stock levels: call it before `change`.
pub async fn release(conn: &mut PgConnection, order: &mut Order, why: &str, cause: &Cause) -> Result<u64, Error> {
    Ok(stock::store::give_back(conn, &[order.id], GivenBack::Released, why, cause).await?)
}

/// Expires an order that `lock_to_expire` returned: its stock back first, then its row.
pub async fn expire(conn: &mut PgConnection, order: &mut Order, cause: &Cause) -> Result<Announced, Error> {
    stock::store::give_back(&mut *conn, &[order.id], GivenBack::Expired, "expire", cause).await?;
    let expired = Change {
        status: Some(Status::Expired),
        reason: Some(json!({ "code": "not_confirmed_in_time" })),
        cause: "expire",
        event: Some("order.expired"),
        ..Change::default()
    };
    change(conn, order, expired, cause).await
}

/// Lets what is committed in one warehouse leave it; returns how many reservations there were.
/// The last warehouse makes the order `shipped` and closes it.
pub async fn ship(
    conn: &mut PgConnection,
    order: &mut Order,
    warehouse_id: WarehouseId,
    cause: &Cause,
) -> Result<(u64, Announced), Error> {
    let left = stock::store::ship(&mut *conn, order.id, warehouse_id, cause).await?;
    let shipped = Change {
        cause: "ship",
        ..Change::default()
    };
    let shipped = match (left.shipped, left.elsewhere, order.fulfilment_status) {
        (0, ..) => return Ok((0, Announced::default())),
        (_, 0, _) => Change {
            status: Some(Status::Closed),
            fulfilment_status: Some(FulfilmentStatus::Shipped),
            event: Some("order.closed"),
            ..shipped
        },
        (_, _, FulfilmentStatus::None) => Change {
            fulfilment_status: Some(FulfilmentStatus::Partial),
            ..shipped
        },
        _ => return Ok((left.shipped, Announced::default())),
    };
    Ok((left.shipped, change(conn, order, shipped, cause).await?))
}

/// The order.
pub async fn get(conn: &mut PgConnection, id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    orders!("where id = $1", id.0).fetch_optional(conn).await
}

/// A page of orders, newest first by (created_at, id), before the position given; the next position is that of the last
/// row. Newest first, because rows that commit while somebody pages then come before the page, and none is skipped.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    before: Option<(DateTime<Utc>, OrderId)>,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    let (before_at, before_id) = before.map(|(at, id)| (at, id.0)).unzip();
    orders!(
        "where ($1::text is null or status = $1)
           and ($2::timestamptz is null or created_at >= $2)
           and ($3::timestamptz is null or created_at < $3)
           and ($4::uuid is null or customer_id = $4)
           and ($5::timestamptz is null or (created_at, id) < ($5, $6))
         order by created_at desc, id desc
         limit $7",
        filter.status.map(Status::as_str),
        filter.from,
        filter.to,
        filter.customer_id.map(|id| id.0),
        before_at,
        before_id as Option<Uuid>,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// An order with all that belongs to it.
#[derive(Debug, Clone, Serialize)]
pub struct Detail {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
    /// What was bought, each line with the stock kept for it.
    pub lines: Vec<LineDetail>,
    /// Its payments, oldest first.
    pub payments: Vec<PaymentDetail>,
    /// What leaves which warehouse for it.
    pub shipments: Vec<ShipmentDetail>,
    /// How it came to be what it is.
    pub history: Vec<HistoryDetail>,
    /// What was told about it, to whom.
    pub deliveries: Vec<DeliveryDetail>,
}

/// A line of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineDetail {
    /// Its id.
    pub id: OrderLineId,
    /// Its place in the order.
    pub line_no: i32,
    /// What.
    pub product_id: ProductId,
    /// What, by its name.
    pub sku: String,
    /// How many.
    pub qty: i64,
    /// The price of one, when it was ordered.
    pub unit_price: Cents,
    /// How many are kept for it.
    pub qty_reserved: i64,
    /// How many are waited for.
    pub qty_backordered: i64,
    /// How many have left.
    pub qty_shipped: i64,
    /// How many were given back.
    pub qty_cancelled: i64,
    /// Where they are or were kept.
    pub reservations: Vec<ReservationDetail>,
}

/// A quantity of a line in one warehouse.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReservationDetail {
    /// Its id.
    pub id: ReservationId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// How many.
    pub qty: i64,
    /// held, committed, released, expired or shipped.
    pub state: String,
}

/// A payment of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PaymentDetail {
    /// Its id.
    pub id: PaymentId,
    /// Where it is.
    pub state: String,
    /// What was asked for.
    pub amount: Cents,
    /// What was taken.
    pub captured: Cents,
    /// What went back.
    pub refunded: Cents,
    /// Why the card was refused.
    pub decline_code: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

/// What leaves one warehouse for an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShipmentDetail {
    /// Its id.
    pub id: ShipmentId,
    /// From where.
    pub warehouse_id: WarehouseId,
    /// Where it is.
    pub state: String,
    /// The day it is planned for.
    pub delivery_date: NaiveDate,
    /// Why no van takes it.
    pub unassigned: Option<Value>,
}

/// One version of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryDetail {
    /// Which.
    pub version: i32,
    /// The order's status.
    pub status: Status,
    /// The payment's status.
    pub payment_status: PaymentStatus,
    /// The goods' status.
    pub fulfilment_status: FulfilmentStatus,
    /// What brought it about.
    pub cause: String,
    /// Who.
    pub actor: String,
    /// Which job, if one did.
    pub job_id: Option<i64>,
    /// When.
    pub at: DateTime<Utc>,
}

/// One event of an order for one endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryDetail {
    /// Its id.
    pub id: DeliveryId,
    /// To whom.
    pub endpoint_id: EndpointId,
    /// The event.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// pending, in_flight, delivered, dead or discarded.
    pub state: String,
    /// How often it was sent.
    pub attempts: i32,
}

/// The order with its lines, reservations, payments, shipments, history and deliveries, in two queries.
pub async fn detail(conn: &mut PgConnection, id: OrderId) -> Result<Option<Detail>, sqlx::Error> {
    let Some(order) = get(&mut *conn, id).await? else {
        return Ok(None);
    };
    let parts = sqlx::query_file!("src/orders/sql/detail.sql", id.0)
        .fetch_one(conn)
        .await?;
    let decode =
        |what: &str, error: serde_json::Error| sqlx::Error::Decode(format!("{what} of order {id}: {error}").into());
    Ok(Some(Detail {
        order,
        lines: serde_json::from_value(parts.lines).map_err(|error| decode("lines", error))?,
        payments: serde_json::from_value(parts.payments).map_err(|error| decode("payments", error))?,
        shipments: serde_json::from_value(parts.shipments).map_err(|error| decode("shipments", error))?,
        history: serde_json::from_value(parts.history).map_err(|error| decode("history", error))?,
        deliveries: serde_json::from_value(parts.deliveries).map_err(|error| decode("deliveries", error))?,
    }))
}
