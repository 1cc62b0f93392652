//! The SQL of idempotency keys.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;

use super::Begun;
use crate::ids::OrderId;

/// PostgreSQL's "lock not available": the twin took longer than the lock's time-out.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Claims a key in the caller's transaction, waiting at most two seconds for a twin that runs. A key past its time is
/// as good as new.
pub async fn begin(
    conn: &mut PgConnection,
    principal: &str,
    key: &str,
    fingerprint: &[u8],
    ttl: Duration,
) -> Result<Begun, sqlx::Error> {
    // The limit holds for this statement only: it is set before the insert waits and put back after.
    let claimed = sqlx::query_scalar!(
        r#"
        with before as materialized (
            select current_setting('lock_timeout') as lock_timeout
        ), limited as materialized (
            select set_config('lock_timeout', '2s', true) from before
        ), claimed as (
            insert into idempotency_keys as k (principal, key, fingerprint, expires_at)
            select $1, $2, $3, clock_timestamp() + make_interval(secs => $4) from limited
            on conflict (principal, key) do update
            set fingerprint = excluded.fingerprint, status = null, headers = null, body = null, order_id = null,
                created_at = clock_timestamp(), expires_at = excluded.expires_at
            where k.expires_at <= clock_timestamp()
            returning 1
        )
        select c.claimed as "claimed!"
        from (select count(*) > 0 as claimed from claimed) c, before b
        where set_config('lock_timeout', b.lock_timeout, true) is not null and c.claimed is not null
        "#,
        principal,
        key,
        fingerprint,
        ttl.as_secs_f64(),
    )
    .fetch_one(&mut *conn)
    .await;
    match claimed {
        Ok(true) => return Ok(Begun::Fresh),
        Ok(false) => {}
        Err(error) if is_lock_timeout(&error) => return Ok(Begun::InProgress),
        Err(error) => return Err(error),
    }

    let earlier = sqlx::query!(
        "select fingerprint, status, headers, body from idempotency_keys where principal = $1 and key = $2",
        principal,
        key,
    )
    .fetch_optional(conn)
    .await?;
    Ok(match earlier {
        Some(earlier) if earlier.fingerprint != fingerprint => Begun::Mismatch,
        Some(earlier) => match (
            earlier.status.and_then(|status| u16::try_from(status).ok()),
            earlier.body,
        ) {
            (Some(status), Some(body)) => Begun::Replay {
                status,
                headers: earlier.headers.unwrap_or_default(),
                body,
            },
            _ => Begun::InProgress,
        },
        // Pruned between the two statements: the client's next try finds the key free.
        None => Begun::InProgress,
    })
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|refused| refused.code())
        .is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Keeps the answer of a fresh key, in the same transaction.
pub async fn finish(
    conn: &mut PgConnection,
    principal: &str,
    key: &str,
    status: u16,
    headers: &Value,
    body: &str,
    order: Option<OrderId>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update idempotency_keys set status = $3, headers = $4, body = $5, order_id = $6 where principal = $1 and key = $2",
        principal,
        key,
        i32::from(status),
        headers,
        body,
        order.map(|id| id.0),
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Deletes up to so many keys past their time; returns how many. Two at once share the work.
pub async fn prune(conn: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        r#"
        delete from idempotency_keys
        where ctid = any(array(
            select ctid from idempotency_keys
            where expires_at <= clock_timestamp()
            limit $1
            for update skip locked
        ))
        "#,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}
