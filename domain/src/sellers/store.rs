//! The SQL of sellers and their payouts. Every function runs in the caller's transaction; a seller's row is locked after an
//! order's and its payment's, several in the order of their ids.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Entry, NewSeller, Payout, PayoutState, Seller, SellerChange, is_destination};
use crate::{
    ids::{PayoutId, ProductId, SellerId},
    money::{Cents, Currency},
};

/// Why a change is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that id.
    #[error("there is no such seller")]
    NotFound,
    /// Somebody changed it in between.
    #[error("the seller is at version {0}")]
    Version(i32),
    /// There is one of that name.
    #[error("there is a seller of that name")]
    Taken,
    /// It cannot be paid there.
    #[error("an account at the gateway is acct_ and up to 200 letters, digits and underscores")]
    Destination,
    /// The goods are sold in another currency than the seller is paid in.
    #[error("the product is not sold in the seller's currency")]
    Currency,
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Writes a seller.
pub async fn create(conn: &mut PgConnection, new: &NewSeller) -> Result<Seller, Error> {
    if !is_destination(&new.destination) {
        return Err(Error::Destination);
    }
    let id = SellerId::new();
    let made = sqlx::query!(
        "insert into sellers (id, name, destination, currency, commission_bp, payout_min_minor)
         values ($1, $2, $3, $4, $5, coalesce($6::bigint, 100))
         on conflict (name) do nothing",
        id.0,
        new.name,
        new.destination,
        new.currency.as_str(),
        new.commission_bp,
        new.payout_min.map(|least| least.0),
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Err(Error::Taken);
    }
    get(conn, id).await?.ok_or(Error::NotFound)
}

/// One seller.
pub async fn get(conn: &mut PgConnection, id: SellerId) -> Result<Option<Seller>, sqlx::Error> {
    sqlx::query_as!(
        Seller,
        r#"select id as "id: SellerId", name, destination, currency as "currency: Currency", commission_bp,
                  payout_min_minor as "payout_min: Cents", payouts_paused, balance_minor as "balance: Cents", version,
                  created_at, updated_at
           from sellers
           where id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// A page of sellers, newest first, before the position given.
pub async fn list(
    conn: &mut PgConnection,
    before: Option<(DateTime<Utc>, SellerId)>,
    limit: i64,
) -> Result<Vec<Seller>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Seller,
        r#"select id as "id: SellerId", name, destination, currency as "currency: Currency", commission_bp,
                  payout_min_minor as "payout_min: Cents", payouts_paused, balance_minor as "balance: Cents", version,
                  created_at, updated_at
           from sellers
           where $1::timestamptz is null or (created_at, id) < ($1, $2)
           order by created_at desc, id desc
           limit $3"#,
        before_at,
        before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Changes what is named.
pub async fn update(conn: &mut PgConnection, id: SellerId, change: &SellerChange) -> Result<Seller, Error> {
    if change.destination.as_deref().is_some_and(|text| !is_destination(text)) {
        return Err(Error::Destination);
    }
    let version = sqlx::query_scalar!("select version from sellers where id = $1 for update", id.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(Error::NotFound)?;
    if change.version.is_some_and(|wanted| wanted != version) {
        return Err(Error::Version(version));
    }
    sqlx::query!(
        "update sellers
         set destination = coalesce($2, destination), commission_bp = coalesce($3, commission_bp),
             payout_min_minor = coalesce($4, payout_min_minor), payouts_paused = coalesce($5, payouts_paused),
             version = version + 1, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        change.destination,
        change.commission_bp,
        change.payout_min.map(|least| least.0),
        change.payouts_paused,
    )
    .execute(&mut *conn)
    .await?;
    get(conn, id).await?.ok_or(Error::NotFound)
}

/// Says whose goods a product is, of payments captured from now on; without a seller, ours.
pub async fn set_product(conn: &mut PgConnection, product: ProductId, seller: Option<SellerId>) -> Result<(), Error> {
    let set = sqlx::query!(
        "update products p set seller_id = $2, version = version + 1, updated_at = clock_timestamp()
         where p.id = $1 and ($2::uuid is null or exists (select from sellers s where s.id = $2 and s.currency = p.currency))",
        product.0,
        seller.map(|id| id.0),
    )
    .execute(&mut *conn)
    .await?;
    match (set.rows_affected(), seller) {
        (0, Some(id)) if get(conn, id).await?.is_none() => Err(Error::NotFound),
        (0, _) => Err(Error::Currency),
        _ => Ok(()),
    }
}

/// A page of a seller's entries, newest first, before the one given.
pub async fn entries(
    conn: &mut PgConnection,
    id: SellerId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, sqlx::Error> {
    sqlx::query_as!(
        Entry,
        r#"select e.id, t.at, e.account, t.cause, e.amount_minor as "amount: Cents"
           from ledger_entries e
           join ledger_transactions t on t.id = e.transaction_id
           where e.seller_id = $1 and e.id < coalesce($2, 9223372036854775807)
           order by e.id desc
           limit $3"#,
        id.0,
        before,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// A page of payouts, newest first, before the position given.
pub async fn payouts(
    conn: &mut PgConnection,
    seller: Option<SellerId>,
    before: Option<(DateTime<Utc>, PayoutId)>,
    limit: i64,
) -> Result<Vec<Payout>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Payout,
        r#"select id as "id: PayoutId", seller_id as "seller_id: SellerId", seq, idem_key, amount_minor as "amount: Cents",
                  currency as "currency: Currency", destination, state as "state: PayoutState", sends, gateway_ref, error_code,
                  message, created_at, settled_at
           from payouts
           where ($1::uuid is null or seller_id = $1) and ($2::timestamptz is null or (created_at, id) < ($2, $3))
           order by created_at desc, id desc
           limit $4"#,
        seller.map(|id| id.0),
        before_at,
        before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Sellers with a payout under way, or owed enough for one, after the one given.
pub async fn due(conn: &mut PgConnection, after: Option<SellerId>, limit: i64) -> Result<Vec<SellerId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select s.id as "id: SellerId"
           from sellers s
           where s.id > coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid)
             and ((s.balance_minor >= s.payout_min_minor and not s.payouts_paused)
                  or exists (select from payouts p where p.seller_id = s.id and p.state = 'pending'))
           order by s.id
           limit $2"#,
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The payout of a seller that is under way, or else a new one of all that it is owed, if that is enough. It counts as about
/// to be sent.
pub async fn open_payout(conn: &mut PgConnection, id: SellerId) -> Result<Option<Payout>, sqlx::Error> {
    let Some(seller) = sqlx::query!(
        "select destination, currency, payout_min_minor, payouts_paused, balance_minor from sellers where id = $1 for update",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await?
    else {
        return Ok(None);
    };
    if let Some(payout) = sqlx::query_as!(
        Payout,
        r#"update payouts set sends = sends + 1
           where seller_id = $1 and state = 'pending'
           returning id as "id: PayoutId", seller_id as "seller_id: SellerId", seq, idem_key,
                     amount_minor as "amount: Cents", currency as "currency: Currency", destination,
                     state as "state: PayoutState", sends, gateway_ref, error_code, message, created_at, settled_at"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    {
        return Ok(Some(payout));
    }
    if seller.payouts_paused || seller.balance_minor < seller.payout_min_minor {
        return Ok(None);
    }
    sqlx::query_as!(
        Payout,
        r#"insert into payouts (id, seller_id, seq, idem_key, amount_minor, currency, destination, sends)
           select $1, $2, n.seq, format('payout:%s:%s', $2::uuid, n.seq), $3, $4, $5, 1
           from (select coalesce(max(seq), 0) + 1 as seq from payouts where seller_id = $2) n
           returning id as "id: PayoutId", seller_id as "seller_id: SellerId", seq, idem_key,
                     amount_minor as "amount: Cents", currency as "currency: Currency", destination,
                     state as "state: PayoutState", sends, gateway_ref, error_code, message, created_at, settled_at"#,
        PayoutId::new().0,
        id.0,
        seller.balance_minor,
        seller.currency,
        seller.destination,
    )
    .fetch_optional(conn)
    .await
}

/// The gateway has made the transfer. Changes nothing when that is known.
pub async fn paid(conn: &mut PgConnection, id: PayoutId, gateway_ref: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payouts set state = 'paid', gateway_ref = $2, error_code = null, message = null, settled_at = clock_timestamp()
         where id = $1 and state = 'pending'",
        id.0,
        gateway_ref,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The transfer will never be made: the seller is owed the amount again. Changes nothing when that is known.
pub async fn failed(conn: &mut PgConnection, id: PayoutId, code: &str, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payouts set state = 'failed', error_code = $2, message = $3, settled_at = clock_timestamp()
         where id = $1 and state = 'pending'",
        id.0,
        code,
        message,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes at the seller's payout that is under way, if there is one, why it is not settled.
pub async fn note(conn: &mut PgConnection, seller: SellerId, code: &str, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payouts set error_code = $2, message = $3 where seller_id = $1 and state = 'pending'",
        seller.0,
        code,
        message,
    )
    .execute(conn)
    .await?;
    Ok(())
}
