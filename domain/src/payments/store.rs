//! The SQL of payments and their attempts. Every function runs in the caller's transaction; the order's lock comes first.

use sqlx::PgConnection;

use crate::{cause::Cause, ids::PaymentId, orders::Order};

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
