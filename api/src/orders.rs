//! Orders: taken in, read, confirmed, cancelled. Requests record what is wanted; workers do it.

use axum::extract;
use axum::http::StatusCode;
use chrono::{DateTime, NaiveDate, Utc};
use domain::ids::{
    CustomerId, DeliveryId, EndpointId, EventId, OrderId, OrderLineId, PaymentId, ProductId, ShipmentId, WarehouseId,
};
use domain::money::{Cents, Currency};
use domain::orders::{self, FulfilmentStatus, LINES_MAX, NewLine, NewOrder, Order, PaymentStatus, QTY_MAX, Status};
use jobs::intake;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, integer, payment_method, text, uuid};
use crate::paging::{Page, Params, Position};
use crate::prefer;
use crate::problem::{Fault, Problem};
use crate::view::view;

view! {
    /// An order.
    OrderView of Order {
        /// Its id.
        id: OrderId as Uuid,
        /// Who buys.
        customer_id: CustomerId as Uuid,
        /// The client's own name for it.
        reference: Option<String> as Option<String>,
        /// pending, reserved, confirmed, closed, rejected, expired, cancelling, cancelled or on_hold.
        status: Status as String,
        /// none, authorizing, authorized, declined, capturing, captured, voiding, voided, refunding, refunded or unknown.
        payment_status: PaymentStatus as String,
        /// none, partial, shipped, delivered, partial_returned or returned.
        fulfilment_status: FulfilmentStatus as String,
        /// Raised by every change.
        version: i32 as i32,
        /// What it is priced in.
        currency: Currency as String,
        /// The sum of its lines, in minor units.
        #[serde(rename = "total_minor")]
        total: Cents as i64,
        /// Why it was rejected, cancelled or is held: a `code` and what belongs to it.
        reason: Option<Value> as Option<Object>,
        /// When the reservation ends.
        expires_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// When its payment was authorized.
        confirmed_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// Until when it can be cancelled after that.
        cancel_until: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// When a cancel was accepted.
        cancel_accepted_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// The name of the key that submitted it.
        created_by: String as String,
        /// When it was submitted.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it last changed.
        updated_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// A line of an order.
    LineView of orders::store::LineDetail {
        /// Its id.
        id: OrderLineId as Uuid,
        /// Its place in the order.
        line_no: i32 as i32,
        /// The product.
        product_id: ProductId as Uuid,
        /// The product, by the name it was ordered by.
        sku: String as String,
        /// How many.
        qty: i64 as i64,
        /// The price of one when it was ordered, in minor units.
        #[serde(rename = "unit_price_minor")]
        unit_price: Cents as i64,
        /// How many are kept for it.
        qty_reserved: i64 as i64,
        /// How many are waited for.
        qty_backordered: i64 as i64,
        /// How many have left.
        qty_shipped: i64 as i64,
        /// How many were given back.
        qty_cancelled: i64 as i64,
        /// Where they are or were kept.
        reservations: Vec<orders::store::ReservationDetail> as Vec<ReservationView>,
    }
}

/// A quantity of a line in one warehouse.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `orders::store::ReservationDetail`")]
pub(crate) struct ReservationView {
    /// Its id.
    id: Uuid,
    /// Where.
    warehouse_id: Uuid,
    /// How many.
    qty: i64,
    /// held, committed, released, expired or shipped.
    state: String,
}

view! {
    /// A payment of an order.
    OrderPayment of orders::store::PaymentDetail {
        /// Its id.
        id: PaymentId as Uuid,
        /// Where it is.
        state: String as String,
        /// What was asked for, in minor units.
        #[serde(rename = "amount_minor")]
        amount: Cents as i64,
        /// What was taken.
        #[serde(rename = "captured_minor")]
        captured: Cents as i64,
        /// What went back.
        #[serde(rename = "refunded_minor")]
        refunded: Cents as i64,
        /// Why the card was refused.
        decline_code: Option<String> as Option<String>,
        /// When it was asked for.
        created_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// What leaves one warehouse for an order.
    OrderShipment of orders::store::ShipmentDetail {
        /// Its id.
        id: ShipmentId as Uuid,
        /// From where.
        warehouse_id: WarehouseId as Uuid,
        /// unplanned, planned, dispatched, shipped or cancelled.
        state: String as String,
        /// The day it is planned for.
        delivery_date: NaiveDate as NaiveDate,
        /// Why no van takes it.
        unassigned: Option<Value> as Option<Object>,
    }
}

view! {
    /// One version of an order.
    OrderVersion of orders::store::HistoryDetail {
        /// Which.
        version: i32 as i32,
        /// The order's status.
        status: Status as String,
        /// The payment's status.
        payment_status: PaymentStatus as String,
        /// The goods' status.
        fulfilment_status: FulfilmentStatus as String,
        /// What brought it about.
        cause: String as String,
        /// Who.
        actor: String as String,
        /// Which job, if one did.
        job_id: Option<i64> as Option<i64>,
        /// When.
        at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// One event of an order for one endpoint.
    OrderDelivery of orders::store::DeliveryDetail {
        /// Its id.
        id: DeliveryId as Uuid,
        /// To whom.
        endpoint_id: EndpointId as Uuid,
        /// The event.
        event_id: EventId as Uuid,
        /// Its type.
        #[serde(rename = "type")]
        kind: String as String,
        /// pending, in_flight, delivered, dead or discarded.
        state: String as String,
        /// How often it was sent.
        attempts: i32 as i32,
    }
}

/// An order with all that belongs to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderDetail {
    #[serde(flatten)]
    order: OrderView,
    /// What was bought, each line with the stock kept for it.
    lines: Vec<LineView>,
    /// Its payments, oldest first.
    payments: Vec<OrderPayment>,
    /// What leaves which warehouse for it.
    shipments: Vec<OrderShipment>,
    /// How it came to be what it is.
    history: Vec<OrderVersion>,
    /// What was told about it, to whom.
    deliveries: Vec<OrderDelivery>,
}

impl From<orders::store::Detail> for OrderDetail {
    fn from(detail: orders::store::Detail) -> OrderDetail {
        OrderDetail {
            order: detail.order.into(),
            lines: detail.lines.into_iter().map(LineView::from).collect(),
            payments: detail.payments.into_iter().map(OrderPayment::from).collect(),
            shipments: detail.shipments.into_iter().map(OrderShipment::from).collect(),
            history: detail.history.into_iter().map(OrderVersion::from).collect(),
            deliveries: detail.deliveries.into_iter().map(OrderDelivery::from).collect(),
        }
    }
}

/// An order to submit. Prices come from the catalogue.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `new_order` reads it")]
pub(crate) struct NewOrderBody {
    /// Who buys.
    customer_id: Uuid,
    /// Your own name for it, unique among your orders; at most 200 characters.
    reference: Option<String>,
    /// What is bought; no SKU twice.
    lines: Vec<NewLineBody>,
}

/// One line of an order to submit.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `new_order` reads it")]
pub(crate) struct NewLineBody {
    /// The product.
    sku: String,
    /// How many: 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    qty: i64,
}

/// An order to create and confirm.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `new_order_to_confirm` reads it")]
pub(crate) struct NewOrderToConfirm {
    /// Who buys.
    customer_id: Uuid,
    /// Your own name for it, unique among your orders; at most 200 characters.
    reference: Option<String>,
    /// What is bought; no SKU twice.
    lines: Vec<NewLineBody>,
    /// The gateway's token of the payment method, pm_…; never a card number.
    payment_method: String,
}

/// With what to pay.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `confirm` reads it")]
pub(crate) struct Confirmation {
    /// The gateway's token of the payment method, pm_…; never a card number.
    payment_method: String,
}

/// Why it is cancelled.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `cancel` reads it")]
pub(crate) struct Cancellation {
    /// For the history; at most 500 characters.
    reason: Option<String>,
}

/// Submits an order.
///
/// 202 at once; with `Prefer: wait=N` (at most 10) the answer waits for the stock: 201 when it is reserved, 409 when
/// the order is rejected, 202 when neither is known yet.
#[utoipa::path(
    post, path = "/orders", tag = "orders",
    request_body = NewOrderBody,
    responses(
        (status = 201, description = "Reserved", body = OrderView),
        (status = 202, description = "Taken in", body = OrderView),
    ),
    security(("api_key" = ["orders:write"])),
)]
pub(crate) async fn submit(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    take_in(&state, &call, Keyed::OPTIONAL, new_order, |order| {
        order.status != Status::Pending
    })
    .await
}

/// Creates an order and confirms it as soon as it is reserved, under one key.
///
/// The order is the saga: `Location` is where to follow it. With `Prefer: wait=N` the answer waits for the payment:
/// 201 when it is confirmed, 409 when it is rejected, 202 when neither is known yet.
#[utoipa::path(
    post, path = "/orchestrations/create-and-confirm", tag = "orders",
    request_body = NewOrderToConfirm,
    responses(
        (status = 201, description = "Confirmed", body = OrderView),
        (status = 202, description = "Taken in", body = OrderView),
    ),
    security(("api_key" = ["orders:write"])),
)]
pub(crate) async fn create_and_confirm(
    extract::State(state): extract::State<State>,
    call: Call,
) -> Result<Answer, Problem> {
    let is_settled = |order: &Order| !matches!(order.status, Status::Pending | Status::Reserved);
    take_in(&state, &call, Keyed::REQUIRED, new_order_to_confirm, is_settled).await
}

async fn take_in(
    state: &State,
    call: &Call,
    keyed: Keyed,
    reader: fn(&mut Fields<'_>) -> NewOrder,
    is_settled: impl Fn(&Order) -> bool,
) -> Result<Answer, Problem> {
    let wait = prefer::wait(&call.headers);
    let answer = call
        .once(state, keyed.settling(wait), async |conn| {
            let order = fields::read(&call.body, reader)?;
            let order = intake::submit(conn, &order, &call.cause()).await?;
            let path = path_of(order.id);
            let answer = Answer::accepted(&path, &OrderView::from(order.clone())).about(order.id);
            Ok(prefer::applied(answer, wait))
        })
        .await?;
    settled(state, call, answer, is_settled).await
}

/// Waits for the outcome where the caller prefers so and the answer is not one already.
async fn settled(
    state: &State,
    call: &Call,
    answer: Answer,
    is_settled: impl Fn(&Order) -> bool,
) -> Result<Answer, Problem> {
    let wait = prefer::wait(&call.headers);
    let (Some(time), StatusCode::ACCEPTED, false) = (wait, answer.status, answer.is_replay()) else {
        return Ok(answer);
    };
    let Some(id) = order_named_by(&answer) else {
        return Ok(answer);
    };
    let outcome = prefer::until(state, id, time, is_settled).await?;
    let answer = match outcome {
        Some(order) => Answer {
            order: answer.order,
            ..prefer::applied(outcome_of(order), wait)
        },
        None => answer,
    };
    call.settle(state, &answer).await?;
    Ok(answer)
}

/// The end the caller waited for.
fn outcome_of(order: Order) -> Answer {
    let path = path_of(order.id);
    match order.status {
        Status::Rejected | Status::Expired => {
            let detail = format!("the order is {}", order.status);
            let problem = Problem::conflict(format!("order_{}", order.status), detail)
                .with("order_id", order.id.to_string())
                .with("reason", order.reason.unwrap_or_default());
            problem.into_answer().location(&path)
        }
        Status::Reserved | Status::Confirmed | Status::Closed => Answer::created(&path, &OrderView::from(order)),
        _ => Answer::accepted(&path, &OrderView::from(order)),
    }
}

fn order_named_by(answer: &Answer) -> Option<OrderId> {
    answer
        .headers
        .get("location")?
        .to_str()
        .ok()?
        .rsplit('/')
        .next()?
        .parse()
        .ok()
}

fn path_of(id: OrderId) -> String {
    format!("/api/v1/orders/{id}")
}

fn new_order(f: &mut Fields<'_>) -> NewOrder {
    NewOrder {
        customer_id: f.required("customer_id", uuid).into(),
        reference: f.optional("reference", text(1..=200)),
        lines: f.list("lines", 1..=LINES_MAX, |line| NewLine {
            sku: line.required("sku", text(1..=64)),
            qty: line.required("qty", integer(1..=QTY_MAX)),
        }),
        confirm_with: None,
    }
}

fn new_order_to_confirm(f: &mut Fields<'_>) -> NewOrder {
    let confirm_with = Some(f.required("payment_method", payment_method));
    NewOrder {
        confirm_with,
        ..new_order(f)
    }
}

/// Lists orders, newest first.
#[utoipa::path(
    get, path = "/orders", tag = "orders",
    params(
        ("status" = Option<String>, Query, description = "Of this status"),
        ("from" = Option<DateTime<Utc>>, Query, description = "Submitted then or later"),
        ("to" = Option<DateTime<Utc>>, Query, description = "Submitted before"),
        ("customer_id" = Option<Uuid>, Query, description = "Of this customer"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of orders", body = Page<OrderView>)),
    security(("api_key" = ["orders:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let statuses: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
    let filter = orders::store::Filter {
        status: params.filter("status", &format!("one of {}", statuses.join(", "))),
        from: params.filter("from", "an RFC 3339 time"),
        to: params.filter("to", "an RFC 3339 time"),
        customer_id: params.filter("customer_id", "a UUID"),
    };
    let window = params.window::<Position>()?;
    let after = window.after.map(|(at, id)| (at, OrderId(id)));
    let mut conn = state.pool.acquire().await?;
    let orders = orders::store::list(&mut conn, &filter, after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        orders,
        |order| (order.created_at, order.id.0),
        OrderView::from,
    )))
}

/// Confirms a reserved order: its payment is authorized, and captured when the cancel window ends.
///
/// Needs an `Idempotency-Key`. Confirming a confirmed order answers 200 with the order and does nothing.
#[utoipa::path(
    post, path = "/orders/{id}/confirm", tag = "orders",
    params(("id" = Uuid, Path, description = "The order")),
    request_body = Confirmation,
    responses(
        (status = 200, description = "It was confirmed already", body = OrderView),
        (status = 202, description = "The payment is being authorized", body = OrderView),
    ),
    security(("api_key" = ["orders:write"])),
)]
pub(crate) async fn confirm(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: OrderId = call.path("id", "order")?;
    let wait = prefer::wait(&call.headers);
    let answer = call
        .once(&state, Keyed::REQUIRED.settling(wait), async |conn| {
            let method = fields::read(&call.body, |f| f.required("payment_method", payment_method))?;
            let order = intake::confirm(conn, id, &method, &state.services.settings, &call.cause()).await?;
            let answer = match order.status {
                Status::Reserved => Answer::accepted(&path_of(id), &OrderView::from(order)),
                _ => Answer::ok(&OrderView::from(order)),
            };
            Ok(prefer::applied(answer, wait))
        })
        .await?;
    let is_settled = |order: &Order| order.status != Status::Reserved;
    let answer = settled(&state, &call, answer, is_settled).await?;
    Ok(answer)
}

/// Cancels an order: always while it is pending or reserved, within the cancel window once it is confirmed.
///
/// Cancelling again answers 200 and does nothing. After the window: 409 `cancel_window_closed` with the deadline.
#[utoipa::path(
    post, path = "/orders/{id}/cancel", tag = "orders",
    params(("id" = Uuid, Path, description = "The order")),
    request_body(content = Option<Cancellation>),
    responses(
        (status = 200, description = "It is cancelled, or was being cancelled already", body = OrderView),
        (status = 202, description = "Money and stock are on their way back", body = OrderView),
    ),
    security(("api_key" = ["orders:write"])),
)]
pub(crate) async fn cancel(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: OrderId = call.path("id", "order")?;
    let wait = prefer::wait(&call.headers);
    let answer = call
        .once(&state, Keyed::OPTIONAL.settling(wait), async |conn| {
            let reason = match &call.body {
                Value::Null => None,
                body => fields::read(body, |f| f.optional("reason", text(0..=500)))?,
            };
            let before = orders::store::lock(conn, id)
                .await?
                .ok_or_else(|| Problem::not_found("order"))?;
            let reason = reason.unwrap_or_default();
            let order = intake::cancel(conn, id, &reason, &state.services.settings, &call.cause()).await?;
            let answer = match (before.status, order.status) {
                (Status::Cancelling, _) | (_, Status::Cancelled) => Answer::ok(&OrderView::from(order)),
                _ => Answer::accepted(&path_of(id), &OrderView::from(order)),
            };
            Ok(prefer::applied(answer, wait))
        })
        .await?;
    settled_cancel(&state, &call, answer).await
}

async fn settled_cancel(state: &State, call: &Call, answer: Answer) -> Result<Answer, Problem> {
    let wait = prefer::wait(&call.headers);
    let (Some(time), StatusCode::ACCEPTED, false) = (wait, answer.status, answer.is_replay()) else {
        return Ok(answer);
    };
    let Some(id) = order_named_by(&answer) else {
        return Ok(answer);
    };
    let outcome = prefer::until(state, id, time, |order| order.status != Status::Cancelling).await?;
    let answer = match outcome {
        Some(order) => prefer::applied(Answer::ok(&OrderView::from(order)), wait),
        None => answer,
    };
    call.settle(state, &answer).await?;
    Ok(answer)
}

impl From<intake::Error> for Problem {
    fn from(error: intake::Error) -> Problem {
        let detail = error.to_string();
        match error {
            intake::Error::NotFound => Problem::not_found("resource"),
            // It will be, in a moment: not an answer to remember.
            intake::Error::NotReserved => {
                Problem::conflict("not_reserved", detail).retry_after(std::time::Duration::from_secs(1))
            }
            intake::Error::Expired(at) => {
                Problem::conflict("reservation_expired", detail).with("expired_at", at.to_rfc3339())
            }
            intake::Error::WindowClosed { deadline } => {
                Problem::conflict("cancel_window_closed", detail).with("deadline", deadline.to_rfc3339())
            }
            intake::Error::Conflict { status } => {
                Problem::conflict("order_state_conflict", detail).with("order_status", status.as_str())
            }
            intake::Error::TooMuch { left } => {
                let fault = Fault {
                    place: "body",
                    pointer: "/amount_minor".to_owned(),
                    code: "too_much".into(),
                    detail,
                };
                Problem::invalid(vec![fault]).with("refundable_minor", left.0)
            }
            intake::Error::Order(error) => error.into(),
            intake::Error::Queue(error) => error.into(),
            intake::Error::Database(error) => error.into(),
            intake::Error::Other(error) => error.into(),
        }
    }
}

impl From<orders::Error> for Problem {
    fn from(error: orders::Error) -> Problem {
        let detail = error.to_string();
        match error {
            orders::Error::Invalid(problems) => {
                let fault = |problem: orders::Problem| Fault {
                    place: "body",
                    pointer: problem.pointer,
                    code: problem.code.into(),
                    detail: problem.message,
                };
                Problem::invalid(problems.into_iter().map(fault).collect())
            }
            orders::Error::ReferenceTaken => Problem::conflict_field("/reference", "reference_taken", detail),
            orders::Error::NotFound => Problem::not_found("order"),
            orders::Error::Illegal(_) => Problem::conflict("order_state_conflict", detail),
            orders::Error::Database(error) => error.into(),
        }
    }
}

/// The order with all that belongs to it.
#[utoipa::path(
    get, path = "/orders/{id}", tag = "orders",
    params(("id" = Uuid, Path, description = "The order")),
    responses((status = 200, description = "The order", body = OrderDetail)),
    security(("api_key" = ["orders:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    crate::path::Id(id): crate::path::Id<OrderId>,
) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    let detail = orders::store::detail(&mut conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("order"))?;
    let version = detail.order.version;
    Ok(Answer::ok(&OrderDetail::from(detail)).etag(version))
}
