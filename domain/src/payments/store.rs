//! The SQL of payments and their attempts. Every function runs in the caller's transaction; the order's lock comes first,
//! then the payment's.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{AttemptState, Op, Payment, PaymentAttempt, PaymentEvent, Reply, State, idem_key};
use crate::{
    cause::Cause,
    ids::{AttemptId, OrderId, PaymentId},
    money::Cents,
    orders::{self, Order},
};

/// Writes the payment of an order, to be authorized with this payment method, and returns its id.
pub async fn create(
    conn: &mut PgConnection,
    order: &Order,
    payment_method: &str,
    _cause: &Cause,
) -> Result<PaymentId, sqlx::Error> {
    let id = PaymentId::new();
    sqlx::query!(
        "insert into payments (id, order_id, payment_method, currency, amount_minor, state)
         values ($1, $2, $3, $4, $5, 'authorizing')",
        id.0,
        order.id.0,
        payment_method,
        order.currency.as_str(),
        order.total.0,
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// Locks the order of a payment, then the payment: nothing of either changes until the transaction ends.
pub async fn lock_with_order(conn: &mut PgConnection, id: PaymentId) -> Result<Option<(Order, Payment)>, sqlx::Error> {
    let Some(order_id) = sqlx::query_scalar!(r#"select order_id as "id: OrderId" from payments where id = $1"#, id.0)
        .fetch_optional(&mut *conn)
        .await?
    else {
        return Ok(None);
    };
    let Some(order) = orders::store::lock(conn, order_id).await? else {
        return Ok(None);
    };
    Ok(lock(conn, id).await?.map(|payment| (order, payment)))
}

/// Locks a payment whose order is locked already.
pub async fn lock(conn: &mut PgConnection, id: PaymentId) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as!(
        Payment,
        r#"select id as "id: PaymentId", order_id as "order_id: OrderId", gateway_ref, payment_method, currency,
                  amount_minor as "amount: Cents", state as "state: State", captured_minor as "captured: Cents",
                  refunded_minor as "refunded: Cents", decline_code, version, authorized_at, created_at, updated_at
           from payments
           where id = $1
           for update"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// A payment.
pub async fn get(conn: &mut PgConnection, id: PaymentId) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as!(
        Payment,
        r#"select id as "id: PaymentId", order_id as "order_id: OrderId", gateway_ref, payment_method, currency,
                  amount_minor as "amount: Cents", state as "state: State", captured_minor as "captured: Cents",
                  refunded_minor as "refunded: Cents", decline_code, version, authorized_at, created_at, updated_at
           from payments
           where id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// Which payments to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Of this order.
    pub order_id: Option<OrderId>,
    /// In this state.
    pub state: Option<State>,
}

/// A page of payments, newest first, before the position given; the next position is that of the last row.
pub async fn list(
    conn: &mut PgConnection,
    filter: Filter,
    before: Option<(DateTime<Utc>, PaymentId)>,
    limit: i64,
) -> Result<Vec<Payment>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Payment,
        r#"select id as "id: PaymentId", order_id as "order_id: OrderId", gateway_ref, payment_method, currency,
                  amount_minor as "amount: Cents", state as "state: State", captured_minor as "captured: Cents",
                  refunded_minor as "refunded: Cents", decline_code, version, authorized_at, created_at, updated_at
           from payments
           where ($1::uuid is null or order_id = $1)
             and ($2::text is null or state = $2)
             and ($3::timestamptz is null or (created_at, id) < ($3, $4))
           order by created_at desc, id desc
           limit $5"#,
        filter.order_id.map(|id| id.0),
        filter.state.map(State::as_str),
        before_at,
        before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The live payment of an order, or the last one it had.
pub async fn of_order(conn: &mut PgConnection, order_id: OrderId) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as!(
        Payment,
        r#"select id as "id: PaymentId", order_id as "order_id: OrderId", gateway_ref, payment_method, currency,
                  amount_minor as "amount: Cents", state as "state: State", captured_minor as "captured: Cents",
                  refunded_minor as "refunded: Cents", decline_code, version, authorized_at, created_at, updated_at
           from payments
           where order_id = $1
           order by state in ('declined', 'failed', 'voided'), created_at desc
           limit 1"#,
        order_id.0,
    )
    .fetch_optional(conn)
    .await
}

/// How many payments an order has had.
pub async fn count_of_order(conn: &mut PgConnection, order_id: OrderId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from payments where order_id = $1"#,
        order_id.0
    )
    .fetch_one(conn)
    .await
}

/// Writes what changed in a locked payment, and raises its version.
pub async fn save(conn: &mut PgConnection, payment: &mut Payment) -> Result<(), sqlx::Error> {
    let saved = sqlx::query!(
        "update payments
         set state = $2, gateway_ref = $3, captured_minor = $4, refunded_minor = $5, decline_code = $6,
             authorized_at = case when $2 = 'authorized' then coalesce(authorized_at, clock_timestamp())
                                  else authorized_at end,
             version = version + 1, updated_at = clock_timestamp()
         where id = $1
         returning version, authorized_at, updated_at",
        payment.id.0,
        payment.state.as_str(),
        payment.gateway_ref,
        payment.captured.0,
        payment.refunded.0,
        payment.decline_code,
    )
    .fetch_one(conn)
    .await?;
    payment.version = saved.version;
    payment.authorized_at = saved.authorized_at;
    payment.updated_at = saved.updated_at;
    Ok(())
}

/// All attempts of a payment, oldest first.
pub async fn attempts(conn: &mut PgConnection, id: PaymentId) -> Result<Vec<PaymentAttempt>, sqlx::Error> {
    sqlx::query_as!(
        PaymentAttempt,
        r#"select id as "id: AttemptId", payment_id as "payment_id: PaymentId", op as "op: Op", seq, idem_key,
                  amount_minor as "amount: Cents", state as "state: AttemptState", sends, http_status, request_id,
                  error_code, message, created_at, answered_at
           from payment_attempts
           where payment_id = $1
           order by created_at, id"#,
        id.0,
    )
    .fetch_all(conn)
    .await
}

/// What happened to a payment, oldest first, after the line given.
pub async fn timeline(
    conn: &mut PgConnection,
    id: PaymentId,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<PaymentEvent>, sqlx::Error> {
    sqlx::query_as!(
        PaymentEvent,
        r#"select id, at, what, state, op as "op: Op", seq, amount_minor as "amount: Cents",
                  captured_minor as "captured: Cents", refunded_minor as "refunded: Cents", sends, http_status, request_id,
                  error_code
           from payment_events
           where payment_id = $1 and id > coalesce($2::bigint, 0)
           order by id
           limit $3"#,
        id.0,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Writes down that an operation is about to be sent, under this attempt of this job, and returns its row.
///
/// The row of that number is used again if it is there: one number is one key, however often it is sent.
pub async fn open_attempt(
    conn: &mut PgConnection,
    payment: &Payment,
    op: Op,
    seq: i32,
    amount: Cents,
    cause: &Cause,
) -> Result<PaymentAttempt, sqlx::Error> {
    sqlx::query_as!(
        PaymentAttempt,
        r#"insert into payment_attempts (id, payment_id, op, seq, idem_key, amount_minor, state, sends, job_id, fence)
           values ($1, $2, $3, $4, $5, $6, 'pending', 1, $7, $8)
           on conflict (payment_id, op, seq) do update
           set state = 'pending', sends = payment_attempts.sends + 1, job_id = excluded.job_id, fence = excluded.fence
           where payment_attempts.state in ('pending', 'unknown')
           returning id as "id: AttemptId", payment_id as "payment_id: PaymentId", op as "op: Op", seq, idem_key,
                     amount_minor as "amount: Cents", state as "state: AttemptState", sends, http_status, request_id,
                     error_code, message, created_at, answered_at"#,
        AttemptId::new().0,
        payment.id.0,
        op.as_str(),
        seq,
        idem_key(op, payment.id, seq),
        amount.0,
        cause.job_id(),
        cause.fence(),
    )
    .fetch_one(conn)
    .await
}

/// Records the fate of an attempt, and the reply that told it if there was one.
pub async fn settle(
    conn: &mut PgConnection,
    id: AttemptId,
    state: AttemptState,
    reply: Option<&Reply>,
) -> Result<(), sqlx::Error> {
    let (status, request_id, code, message) = facts(reply, state == AttemptState::Succeeded);
    sqlx::query!(
        "update payment_attempts
         set state = $2, http_status = coalesce($3, http_status), request_id = coalesce($4, request_id),
             error_code = $5, message = $6, answered_at = clock_timestamp()
         where id = $1",
        id.0,
        state.as_str(),
        status,
        request_id,
        code,
        message,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records a reply that did not tell the fate of an attempt. `unsent`: it was certainly not executed, so this send does not
/// count.
pub async fn note(conn: &mut PgConnection, id: AttemptId, reply: &Reply, unsent: bool) -> Result<(), sqlx::Error> {
    let (status, request_id, code, message) = facts(Some(reply), false);
    sqlx::query!(
        "update payment_attempts
         set sends = greatest(sends - $6, 0), http_status = $2, request_id = coalesce($3, request_id),
             error_code = $4, message = $5
         where id = $1 and state in ('pending', 'unknown')",
        id.0,
        status,
        request_id,
        code,
        message,
        i32::from(unsent),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks an attempt as in doubt for good: only the gateway can tell.
pub async fn doubt(conn: &mut PgConnection, id: AttemptId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment_attempts set state = 'unknown' where id = $1 and state = 'pending'",
        id.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The gateway says that an attempt had no effect: it may be sent again under its key.
pub async fn clear_doubt(conn: &mut PgConnection, id: AttemptId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payment_attempts set state = 'pending', sends = 0 where id = $1 and state in ('pending', 'unknown')",
        id.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Why a refund is not written down.
#[derive(Debug, thiserror::Error)]
pub enum RefundError {
    /// More than what was captured and is neither refunded nor about to be.
    #[error("at most {left} can be refunded")]
    TooMuch {
        /// What is left.
        left: Cents,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Writes down a refund to be made, of a locked payment, and returns its number: it cannot be asked for twice over.
pub async fn request_refund(
    conn: &mut PgConnection,
    payment: &mut Payment,
    amount: Cents,
    cause: &Cause,
) -> Result<i32, RefundError> {
    let asked = sqlx::query!(
        r#"select coalesce(max(seq), 0) as "seq!",
                  coalesce(sum(amount_minor) filter (where state in ('pending', 'unknown')), 0)::bigint as "underway!"
           from payment_attempts
           where payment_id = $1 and op = 'refund'"#,
        payment.id.0,
    )
    .fetch_one(&mut *conn)
    .await?;
    let left = Cents(payment.refundable().0 - asked.underway);
    if amount.0 <= 0 || amount > left {
        return Err(RefundError::TooMuch { left });
    }
    let seq = asked.seq + 1;
    sqlx::query!(
        "insert into payment_attempts (id, payment_id, op, seq, idem_key, amount_minor, state, sends, job_id, fence)
         values ($1, $2, 'refund', $3, $4, $5, 'pending', 0, $6, $7)",
        AttemptId::new().0,
        payment.id.0,
        seq,
        idem_key(Op::Refund, payment.id, seq),
        amount.0,
        cause.job_id(),
        cause.fence(),
    )
    .execute(&mut *conn)
    .await?;
    payment.state = State::Refunding;
    save(conn, payment).await?;
    Ok(seq)
}

/// Payments that have waited for the gateway's truth too long, or that hold money for an order that is over.
pub async fn overdue(conn: &mut PgConnection, limit: i64) -> Result<Vec<PaymentId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select p.id as "id: PaymentId"
           from payments p
           join orders o on o.id = p.order_id
           where p.state in ('authorizing', 'capturing', 'voiding', 'refunding', 'unknown')
             and o.status <> 'on_hold'
             and p.updated_at < clock_timestamp() - interval '2 minutes'
             and (p.updated_at < clock_timestamp() - interval '15 minutes'
                  or exists (select from payment_attempts a
                             where a.payment_id = p.id
                               and (a.state = 'unknown' or (a.state = 'pending' and a.sends > 0))))
           order by p.updated_at
           limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The database's clock: the only one that decides whether a window is closed.
pub async fn clock(conn: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(conn)
        .await
}

type Facts = (Option<i32>, Option<String>, Option<String>, Option<String>);

/// What of a reply is kept: never its body.
fn facts(reply: Option<&Reply>, is_good: bool) -> Facts {
    let Some(reply) = reply else {
        return (None, None, None, None);
    };
    let status = reply.status().map(i32::from);
    let request_id = reply.answer().and_then(|answer| answer.request_id.clone());
    if is_good {
        return (status, request_id, None, None);
    }
    (status, request_id, Some(reply.code()), Some(reply.message()))
}
