//! The SQL of API keys.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use subtle::ConstantTimeEq;

use super::{ApiKey, NewKey, Principal, Scope, digest, generate, parse};
use crate::ids::{ApiKeyId, PartnerId};

/// Makes a key and keeps its hash. The key itself is in what is returned, and nowhere else ever again.
pub async fn create(
    conn: &mut PgConnection,
    name: &str,
    scopes: &[Scope],
    expires_at: Option<DateTime<Utc>>,
) -> Result<(ApiKeyId, NewKey), sqlx::Error> {
    let key = generate();
    let id = keep(conn, name, scopes, expires_at, &key).await?;
    Ok((id, key))
}

/// Keeps the hash of a key that was made elsewhere, or was given.
pub async fn keep(
    conn: &mut PgConnection,
    name: &str,
    scopes: &[Scope],
    expires_at: Option<DateTime<Utc>>,
    key: &NewKey,
) -> Result<ApiKeyId, sqlx::Error> {
    let id = ApiKeyId::new();
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    sqlx::query!(
        "insert into api_keys (id, name, key_id, secret_sha256, scopes, expires_at) values ($1, $2, $3, $4, $5, $6)",
        id.0,
        name,
        key.key_id,
        &key.secret_sha256[..],
        &scopes as &[&str],
        expires_at,
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// Lets a key be a partner's: it is refused while the partner is paused.
pub async fn give_to_partner(conn: &mut PgConnection, id: ApiKeyId, partner: PartnerId) -> Result<(), sqlx::Error> {
    sqlx::query!("update api_keys set partner_id = $2 where id = $1", id.0, partner.0)
        .execute(conn)
        .await?;
    Ok(())
}

/// Who a header's value says is calling: a key, with or without `Bearer` in front. Nothing for anything else; which of
/// the ways it is wrong does not show, in words or in time.
pub async fn verify(conn: &mut PgConnection, header: &str) -> Result<Option<Principal>, sqlx::Error> {
    let token = header.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    let Some((key_id, secret)) = parse(token) else {
        return Ok(None);
    };
    let stored = sqlx::query!(
        r#"
        select name, secret_sha256, scopes, partner_id as "partner_id: PartnerId",
               revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
                   and not exists (select from partners p where p.id = partner_id and p.state = 'paused') as "is_live!",
               last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute' as "is_use_news!"
        from api_keys
        where key_id = $1
        "#,
        key_id,
    )
    .fetch_optional(&mut *conn)
    .await?;

    let expected = stored.as_ref().map_or(&[0; 32][..], |key| &key.secret_sha256);
    let is_right = bool::from(digest(secret)[..].ct_eq(expected));
    let Some(key) = stored.filter(|key| is_right && key.is_live) else {
        return Ok(None);
    };
    if key.is_use_news {
        sqlx::query!(
            r#"
            update api_keys set last_used_at = clock_timestamp()
            where key_id = $1 and (last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute')
            "#,
            key_id,
        )
        .execute(conn)
        .await?;
    }
    // A scope that this build does not know grants nothing.
    let scopes = key.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
    Ok(Some(Principal {
        name: key.name,
        key_id: key_id.to_owned(),
        scopes,
        partner: key.partner_id,
    }))
}

/// Ends a key; returns whether there was one to end.
pub async fn revoke(conn: &mut PgConnection, id: ApiKeyId) -> Result<bool, sqlx::Error> {
    let revoked = sqlx::query!(
        "update api_keys set revoked_at = clock_timestamp() where id = $1 and revoked_at is null",
        id.0,
    )
    .execute(conn)
    .await?;
    Ok(revoked.rows_affected() == 1)
}

/// All keys, newest first.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<ApiKey>, sqlx::Error> {
    sqlx::query_as!(
        ApiKey,
        r#"
        select id as "id: _", name, key_id, scopes, created_at, expires_at, revoked_at, last_used_at
        from api_keys
        order by created_at desc, id desc
        "#,
    )
    .fetch_all(conn)
    .await
}
