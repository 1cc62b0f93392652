//! The SQL of customers.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Customer, Error, NewCustomer, Patch};
use crate::ids::CustomerId;

/// Writes a customer.
pub async fn create(conn: &mut PgConnection, new: &NewCustomer) -> Result<Customer, Error> {
    let (lat, lon) = new.position.unzip();
    sqlx::query_as!(
        Customer,
        r#"
        insert into customers (id, name, email, address, lat, lon)
        values ($1, $2, $3, $4, $5, $6)
        returning id as "id: _", name, email, address, lat, lon, state, version, created_at, updated_at, deleted_at
        "#,
        CustomerId::new().0,
        new.name,
        new.email,
        new.address,
        lat,
        lon,
    )
    .fetch_one(conn)
    .await
    .map_err(on_constraint)
}

/// The customer, deleted or not.
pub async fn get(conn: &mut PgConnection, id: CustomerId) -> Result<Option<Customer>, sqlx::Error> {
    sqlx::query_as!(
        Customer,
        r#"
        select id as "id: _", name, email, address, lat, lon, state, version, created_at, updated_at, deleted_at
        from customers
        where id = $1
        "#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// Changes what the patch names, if the customer still has the version given.
pub async fn update(
    conn: &mut PgConnection,
    id: CustomerId,
    patch: &Patch,
    version: Option<i32>,
) -> Result<Customer, Error> {
    let position = patch.position.flatten();
    let updated = sqlx::query_as!(
        Customer,
        r#"
        update customers
        set name = coalesce($3, name), email = coalesce($4, email), address = coalesce($5, address),
            state = coalesce($6, state), lat = case when $7 then $8 else lat end, lon = case when $7 then $9 else lon end,
            version = version + 1, updated_at = clock_timestamp()
        where id = $1 and deleted_at is null and ($2::int is null or version = $2)
        returning id as "id: _", name, email, address, lat, lon, state, version, created_at, updated_at, deleted_at
        "#,
        id.0,
        version,
        patch.name,
        patch.email,
        patch.address,
        patch.state,
        patch.position.is_some(),
        position.map(|(lat, _)| lat),
        position.map(|(_, lon)| lon),
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(on_constraint)?;
    match updated {
        Some(customer) => Ok(customer),
        None => Err(why_not(conn, id).await?),
    }
}

/// Hides a customer; its orders keep it. A deleted one stays deleted.
pub async fn delete(conn: &mut PgConnection, id: CustomerId, version: Option<i32>) -> Result<(), Error> {
    let deleted = sqlx::query!(
        r#"
        update customers
        set deleted_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
        where id = $1 and deleted_at is null and ($2::int is null or version = $2)
        "#,
        id.0,
        version,
    )
    .execute(&mut *conn)
    .await?;
    if deleted.rows_affected() == 1 {
        Ok(())
    } else {
        Err(why_not(conn, id).await?)
    }
}

async fn why_not(conn: &mut PgConnection, id: CustomerId) -> Result<Error, sqlx::Error> {
    Ok(match get(conn, id).await? {
        Some(customer) if customer.deleted_at.is_none() => Error::VersionChanged {
            current: customer.version,
        },
        _ => Error::NotFound,
    })
}

fn on_constraint(error: sqlx::Error) -> Error {
    let Some(refused) = error.as_database_error() else {
        return Error::Database(error);
    };
    match (refused.constraint(), refused.is_check_violation()) {
        (Some("customers_email_is_unique"), _) => Error::EmailTaken,
        (Some(rule), true) => Error::Refused(rule.to_owned()),
        _ => Error::Database(error),
    }
}

/// A page of customers, newest first by (created_at, id), before the position given. The search looks into names and
/// e-mails.
pub async fn list(
    conn: &mut PgConnection,
    search: Option<&str>,
    before: Option<(DateTime<Utc>, CustomerId)>,
    limit: i64,
) -> Result<Vec<Customer>, sqlx::Error> {
    let (before_at, before_id) = before.map(|(at, id)| (at, id.0)).unzip();
    sqlx::query_as!(
        Customer,
        r#"
        select id as "id: _", name, email, address, lat, lon, state, version, created_at, updated_at, deleted_at
        from customers
        where deleted_at is null
          and ($1::text is null or strpos(lower(name), lower($1)) > 0 or strpos(lower(email), lower($1)) > 0)
          and ($2::timestamptz is null or (created_at, id) < ($2, $3))
        order by created_at desc, id desc
        limit $4
        "#,
        search,
        before_at,
        before_id as Option<Uuid>,
        limit,
    )
    .fetch_all(conn)
    .await
}
