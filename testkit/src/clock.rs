//! Time that passes at once.

use std::time::Duration;

use sqlx::PgPool;

/// Moves every deadline of the queue and of the domain that much into the past: what is due in `by` is due now.
///
/// The statements are one transaction, so that no worker sees half of the time gone by.
pub async fn fast_forward(pool: &PgPool, by: Duration) {
    // The rows that say when something is due, not the ones that say when something happened.
    const MOVES: [&str; 10] = [
        "update queue.jobs set run_at = run_at - $1, deadline_at = deadline_at - $1, created_at = created_at - $1",
        "update queue.schedules set settled_at = settled_at - $1, next_at = null",
        "update queue.unique_keys set created_at = created_at - $1, expires_at = expires_at - $1",
        "update queue.limit_keys set arrival = arrival - $1, opens_at = opens_at - $1, open_until = open_until - $1",
        "update orders set expires_at = expires_at - $1, confirmed_at = confirmed_at - $1, cancel_until = cancel_until - $1",
        "update payments set updated_at = updated_at - $1",
        "update webhook_endpoints set open_until = open_until - $1, failing_since = failing_since - $1, old_secrets_until = old_secrets_until - $1",
        "update partners set old_secrets_until = old_secrets_until - $1",
        "update webhook_deliveries set updated_at = updated_at - $1",
        "update idempotency_keys set expires_at = expires_at - $1, created_at = created_at - $1",
    ];
    let mut tx = pool.begin().await.expect("a transaction to move time in");
    for statement in MOVES {
        sqlx::query(statement)
            .bind(by)
            .execute(&mut *tx)
            .await
            .expect(statement);
    }
    tx.commit().await.expect("time to have moved");
}
