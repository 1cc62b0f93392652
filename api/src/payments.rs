//! Payments: seen, let go, and refunded.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::ids::{AttemptId, OrderId, PaymentId};
use domain::money::Cents;
use domain::payments::audit::{self, OrphanCharge};
use domain::payments::{self, AttemptState, Op, Payment, PaymentAttempt, PaymentEvent, State as PaymentState};
use jobs::intake;
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, integer, text};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A payment of an order.
    PaymentView of Payment {
        /// Its id.
        id: PaymentId as Uuid,
        /// The order it pays.
        order_id: OrderId as Uuid,
        /// The gateway's id of the intent.
        gateway_ref: Option<String> as Option<String>,
        /// The currency, as in GBP.
        currency: String as String,
        /// What is to be taken, in minor units.
        #[serde(rename = "amount_minor")]
        amount: Cents as i64,
        /// authorizing, authorized, declined, failed, capturing, captured, voiding, voided, refunding, refunded or unknown.
        state: PaymentState as String,
        /// What was taken.
        #[serde(rename = "captured_minor")]
        captured: Cents as i64,
        /// What went back.
        #[serde(rename = "refunded_minor")]
        refunded: Cents as i64,
        /// The bank's word, when it said no.
        decline_code: Option<String> as Option<String>,
        /// Raised by every change.
        version: i32 as i32,
        /// When the money was held.
        authorized_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
        /// When it was asked for.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it last changed.
        updated_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// One operation at the gateway.
    AttemptView of PaymentAttempt {
        /// Its id.
        id: AttemptId as Uuid,
        /// create, confirm, capture, void or refund.
        op: Op as String,
        /// Which try of the operation.
        seq: i32 as i32,
        /// The amount asked for.
        #[serde(rename = "amount_minor")]
        amount: Cents as i64,
        /// pending, succeeded, declined, failed or unknown.
        state: AttemptState as String,
        /// How often it was sent.
        sends: i32 as i32,
        /// The last HTTP status.
        http_status: Option<i32> as Option<i32>,
        /// The gateway's id of the last request.
        request_id: Option<String> as Option<String>,
        /// The gateway's error code.
        error_code: Option<String> as Option<String>,
        /// When it was first written down.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When its fate became known.
        answered_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

view! {
    /// One line of a payment's timeline.
    PaymentEventView of PaymentEvent {
        /// Its number; later ones have higher ones.
        id: i64 as i64,
        /// When.
        at: DateTime<Utc> as DateTime<Utc>,
        /// payment, or attempt: an operation at the gateway.
        what: String as String,
        /// The state of the payment or of the attempt.
        state: String as String,
        /// Of an attempt: create, confirm, capture, void or refund.
        op: Option<Op> as Option<String>,
        /// Of an attempt: which try of the operation.
        seq: Option<i32> as Option<i32>,
        /// The amount of the payment or of the attempt.
        #[serde(rename = "amount_minor")]
        amount: Cents as i64,
        /// Of a payment: what was taken.
        #[serde(rename = "captured_minor")]
        captured: Option<Cents> as Option<i64>,
        /// Of a payment: what went back.
        #[serde(rename = "refunded_minor")]
        refunded: Option<Cents> as Option<i64>,
        /// Of an attempt: how often it was sent.
        sends: Option<i32> as Option<i32>,
        /// Of an attempt: the last HTTP status.
        http_status: Option<i32> as Option<i32>,
        /// Of an attempt: the gateway's id of the last request.
        request_id: Option<String> as Option<String>,
        /// The gateway's error code, or the bank's word.
        error_code: Option<String> as Option<String>,
    }
}

/// A payment and what was asked of the gateway for it.
#[derive(Serialize, ToSchema)]
pub(crate) struct PaymentDetail {
    #[serde(flatten)]
    payment: PaymentView,
    /// Every operation, oldest first.
    attempts: Vec<AttemptView>,
}

/// A refund to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `refund` reads it")]
pub(crate) struct NewRefund {
    /// How much, in minor units; at most what was captured and is not refunded yet.
    #[schema(minimum = 1)]
    amount_minor: i64,
    /// For the records; at most 500 characters.
    reason: Option<String>,
}

/// Lists payments, newest first.
#[utoipa::path(
    get, path = "/payments", tag = "payments",
    params(
        ("order_id" = Option<Uuid>, Query, description = "Of this order"),
        ("state" = Option<String>, Query, description = "In this state"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of payments", body = Page<PaymentView>)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let order_id = params.filter("order_id", "a UUID");
    let in_state = params.filter("state", "a state of payments");
    let window = params.window::<Position>()?;
    let filter = payments::store::Filter {
        order_id,
        state: in_state,
    };
    let before = window.after.map(|(at, id)| (at, PaymentId(id)));
    let mut conn = state.pool.acquire().await?;
    let payments = payments::store::list(&mut conn, filter, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        payments,
        |payment| (payment.created_at, payment.id.0),
        PaymentView::from,
    )))
}

/// One payment with its attempts.
#[utoipa::path(
    get, path = "/payments/{id}", tag = "payments",
    params(("id" = Uuid, Path, description = "The payment")),
    responses((status = 200, description = "The payment", body = PaymentDetail)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<PaymentId>,
) -> Result<Answer, Problem> {
    Ok(Answer::ok(&detail(&mut *state.pool.acquire().await?, id).await?))
}

async fn detail(conn: &mut sqlx::PgConnection, id: PaymentId) -> Result<PaymentDetail, Problem> {
    let payment = payments::store::get(conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("payment"))?;
    let attempts = payments::store::attempts(conn, id).await?;
    let attempts = attempts.into_iter().map(AttemptView::from).collect();
    Ok(PaymentDetail {
        payment: payment.into(),
        attempts,
    })
}

/// What happened to a payment and at the gateway, oldest first; only ever added to.
#[utoipa::path(
    get, path = "/payments/{id}/timeline", tag = "payments",
    params(
        ("id" = Uuid, Path, description = "The payment"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of its timeline", body = Page<PaymentEventView>)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn timeline(
    extract::State(state): extract::State<State>,
    Id(id): Id<PaymentId>,
    params: Params,
) -> Result<Answer, Problem> {
    let window = params.window::<i64>()?;
    let mut conn = state.pool.acquire().await?;
    if payments::store::get(&mut conn, id).await?.is_none() {
        return Err(Problem::not_found("payment"));
    }
    let events = payments::store::timeline(&mut conn, id, window.after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        events,
        |event| event.id,
        PaymentEventView::from,
    )))
}

/// Why the money is let go.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `void` reads it")]
pub(crate) struct NewVoid {
    /// For the records; at most 500 characters.
    reason: Option<String>,
}

/// Lets the money go that a payment holds, which cancels its order: inside the cancel window only, by a job that asks the
/// gateway. Needs an `Idempotency-Key`.
#[utoipa::path(
    post, path = "/payments/{id}/void", tag = "payments",
    params(("id" = Uuid, Path, description = "The payment")),
    request_body = NewVoid,
    responses(
        (status = 202, description = "On its way back", body = PaymentDetail),
        (status = 409, description = "The window is closed, or the order is past it: refund it instead"),
    ),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn void(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: PaymentId = call.path("id", "payment")?;
    call.once(&state, Keyed::REQUIRED, async |conn| {
        let reason = fields::read(&call.body, |f| f.optional("reason", text(0..=500)).unwrap_or_default())?;
        let payment = payments::store::get(conn, id)
            .await?
            .ok_or_else(|| Problem::not_found("payment"))?;
        let settings = &state.services.settings;
        intake::cancel(conn, payment.order_id, &reason, settings, &call.cause()).await?;
        Ok(Answer::accepted(
            &format!("/api/v1/payments/{id}"),
            &detail(conn, id).await?,
        ))
    })
    .await
}

/// Pays back part or all of what was captured; a job asks the gateway. Needs an `Idempotency-Key`.
#[utoipa::path(
    post, path = "/payments/{id}/refunds", tag = "payments",
    params(("id" = Uuid, Path, description = "The payment")),
    request_body = NewRefund,
    responses((status = 202, description = "On its way back", body = PaymentDetail)),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn refund(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: PaymentId = call.path("id", "payment")?;
    call.once(&state, Keyed::REQUIRED, async |conn| {
        let (amount, reason) = fields::read(&call.body, |f| {
            let amount = Cents(f.required("amount_minor", integer(1..=i64::MAX)));
            (amount, f.optional("reason", text(0..=500)).unwrap_or_default())
        })?;
        intake::refund(conn, id, amount, &reason, &call.cause()).await?;
        Ok(Answer::accepted(
            &format!("/api/v1/payments/{id}"),
            &detail(conn, id).await?,
        ))
    })
    .await
}

/// Money that moved at the gateway for nothing of ours.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrphanView {
    /// The gateway's id of the movement.
    movement: String,
    /// The intent it belongs to, if it belongs to one.
    intent: Option<String>,
    /// What came in, in minor units; negative when it went out.
    amount_minor: i64,
    /// Lower-case letters.
    currency: String,
    /// When it moved, by the gateway's clock.
    moved_at: DateTime<Utc>,
    /// When the sweep of the gateway's ledger found it.
    seen_at: DateTime<Utc>,
    /// Why it is nobody's.
    why: String,
    /// What to do about it.
    remedy: String,
    /// When somebody said what became of it; it is open until then.
    resolved_at: Option<DateTime<Utc>>,
    /// Who.
    resolved_by: Option<String>,
    /// What.
    resolution: Option<String>,
}

impl From<OrphanCharge> for OrphanView {
    fn from(orphan: OrphanCharge) -> OrphanView {
        OrphanView {
            why: orphan.why(),
            remedy: orphan.remedy(),
            movement: orphan.movement,
            intent: orphan.intent,
            amount_minor: orphan.amount.0,
            currency: orphan.currency,
            moved_at: orphan.moved_at,
            seen_at: orphan.seen_at,
            resolved_at: orphan.resolved_at,
            resolved_by: orphan.resolved_by,
            resolution: orphan.resolution,
        }
    }
}

/// What became of an orphan charge.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `resolve_orphan` reads it")]
pub(crate) struct NewResolution {
    /// 1 to 500 characters.
    resolution: String,
}

/// Lists orphan charges, newest first: money that moved at the gateway for no payment and no payout of ours, as the daily sweep
/// of its ledger finds it.
#[utoipa::path(
    get, path = "/orphan-charges", tag = "payments",
    params(
        ("state" = Option<String>, Query, description = "open, or all; open without"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of orphan charges", body = Page<OrphanView>)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn orphans(
    extract::State(state): extract::State<State>,
    mut params: Params,
) -> Result<Answer, Problem> {
    let is_open = params.word("state", &["open", "all"]).as_deref() != Some("all");
    let window = params.window::<(DateTime<Utc>, String)>()?;
    let mut conn = state.pool.acquire().await?;
    let orphans = audit::orphans(&mut conn, is_open, window.after.clone(), window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        orphans,
        |orphan| (orphan.seen_at, orphan.movement.clone()),
        OrphanView::from,
    )))
}

/// Says what became of an orphan charge, which is not open from then on. One that is resolved stays as it is.
#[utoipa::path(
    post, path = "/orphan-charges/{id}/resolve", tag = "payments",
    params(("id" = String, Path, description = "The gateway's id of the movement")),
    request_body = NewResolution,
    responses((status = 200, description = "Resolved", body = OrphanView)),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn resolve_orphan(
    extract::State(state): extract::State<State>,
    call: Call,
) -> Result<Answer, Problem> {
    let movement: String = call.path("id", "orphan charge")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let resolution = fields::read(&call.body, |f| f.required("resolution", text(1..=500)))?;
        let orphan = audit::resolve_orphan(conn, &movement, &resolution, &call.principal.name).await?;
        let orphan = orphan.ok_or_else(|| Problem::not_found("orphan charge"))?;
        Ok(Answer::ok(&OrphanView::from(orphan)))
    })
    .await
}
