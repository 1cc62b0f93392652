//! The SQL of partners.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{ENDPOINTS_MAX, Invalid, Partner, PartnerState, check_name};
use crate::{
    events::Announced,
    ids::{EndpointId, PartnerId},
    keyring::{Keyring, Owner},
    webhooks::{
        self, check_event_types, check_limits, covers,
        sign::Signing,
        store::{check_description, check_overlap, renew, secret},
    },
};

/// Why a change of a partner is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that id.
    #[error("there is no such partner")]
    NotFound,
    /// Somebody changed it in between.
    #[error("the partner is at version {0}")]
    Version(i32),
    /// There is one of that name.
    #[error("there is a partner of that name")]
    Taken,
    /// The new settings are no good.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A partner to be.
#[derive(Debug, Clone)]
pub struct NewPartner {
    /// Whom its keys stand for.
    pub name: String,
    /// For people.
    pub description: String,
    /// The most that its endpoints may ask for.
    pub event_types: Vec<String>,
    /// How many endpoints it may have.
    pub endpoints_max: i32,
    /// Deliveries at once that each of its endpoints starts with.
    pub concurrency: Option<i32>,
    /// Deliveries a second that each of its endpoints starts with.
    pub rate: Option<f64>,
}

/// What changes in a partner: nothing that is not named.
#[derive(Debug, Clone, Default)]
pub struct PartnerChange {
    /// For people.
    pub description: Option<String>,
    /// The most that its endpoints may ask for; those it has must fit.
    pub event_types: Option<Vec<String>>,
    /// How many endpoints it may have; those it has stay.
    pub endpoints_max: Option<i32>,
    /// Deliveries at once of endpoints to come.
    pub concurrency: Option<Option<i32>>,
    /// Deliveries a second of endpoints to come.
    pub rate: Option<Option<f64>>,
    /// Only if it is still at this version.
    pub version: Option<i32>,
}

/// Makes a partner and returns it with the secret of its inbound webhooks, which is never shown again.
pub async fn create(conn: &mut PgConnection, keyring: &Keyring, new: NewPartner) -> Result<(Partner, String), Error> {
    check_name(&new.name)?;
    check_event_types(&new.event_types).map_err(Invalid::from)?;
    check_description(&new.description).map_err(Invalid::from)?;
    check_limits(new.concurrency, new.rate).map_err(Invalid::from)?;
    check_endpoints_max(new.endpoints_max)?;
    let secret = secret(None, Signing::Hmac).map_err(Invalid::from)?;
    let id = PartnerId::new();
    let made = sqlx::query!(
        "insert into partners (id, name, description, event_types, inbound_secrets, endpoints_max, concurrency, rate)
         values ($1, $2, $3, $4, array[$5::text], $6, $7, $8)
         on conflict (name) do nothing",
        id.0,
        new.name,
        new.description,
        &new.event_types,
        keyring.seal(Owner::Partner(id), &secret),
        new.endpoints_max,
        new.concurrency,
        new.rate,
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Err(Error::Taken);
    }
    let partner = get(conn, id).await?.ok_or(Error::NotFound)?;
    Ok((partner, secret))
}

/// One partner.
pub async fn get(conn: &mut PgConnection, id: PartnerId) -> Result<Option<Partner>, sqlx::Error> {
    sqlx::query_as!(
        Partner,
        r#"select p.id as "id: PartnerId", p.name, p.description, p.state as "state: PartnerState", p.paused_reason,
                  p.event_types, p.endpoints_max, p.concurrency, p.rate, p.old_secrets_until,
                  coalesce(r.rejected, 0) as "rejected!", p.version, p.created_at, p.updated_at
           from partners p
           left join inbound_rejections r on r.partner_id = p.id
           where p.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// The partner of that name or id.
pub async fn find(conn: &mut PgConnection, name_or_id: &str) -> Result<Option<Partner>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        r#"select id as "id: PartnerId" from partners where name = $1 or id::text = $1"#,
        name_or_id,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match id {
        Some(id) => get(conn, id).await,
        None => Ok(None),
    }
}

/// A page of partners, newest first, before the position given.
pub async fn list(
    conn: &mut PgConnection,
    before: Option<(DateTime<Utc>, PartnerId)>,
    limit: i64,
) -> Result<Vec<Partner>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Partner,
        r#"select p.id as "id: PartnerId", p.name, p.description, p.state as "state: PartnerState", p.paused_reason,
                  p.event_types, p.endpoints_max, p.concurrency, p.rate, p.old_secrets_until,
                  coalesce(r.rejected, 0) as "rejected!", p.version, p.created_at, p.updated_at
           from partners p
           left join inbound_rejections r on r.partner_id = p.id
           where $1::timestamptz is null or (p.created_at, p.id) < ($1, $2)
           order by p.created_at desc, p.id desc
           limit $3"#,
        before_at,
        before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Changes a partner.
pub async fn patch(conn: &mut PgConnection, id: PartnerId, change: PartnerChange) -> Result<Partner, Error> {
    if let Some(description) = &change.description {
        check_description(description).map_err(Invalid::from)?;
    }
    check_limits(change.concurrency.flatten(), change.rate.flatten()).map_err(Invalid::from)?;
    if let Some(most) = change.endpoints_max {
        check_endpoints_max(most)?;
    }
    let version = lock(conn, id).await?;
    if change.version.is_some_and(|wanted| wanted != version) {
        return Err(Error::Version(version));
    }
    if let Some(event_types) = &change.event_types {
        check_event_types(event_types).map_err(Invalid::from)?;
        let endpoints = sqlx::query!(
            r#"select id as "id: EndpointId", event_types from webhook_endpoints
               where partner_id = $1 and deleted_at is null
               order by id"#,
            id.0,
        )
        .fetch_all(&mut *conn)
        .await?;
        if let Some(more) = endpoints.iter().find(|one| !covers(event_types, &one.event_types)) {
            return Err(Invalid::EndpointAsksForMore(more.id.to_string()).into());
        }
    }
    sqlx::query!(
        "update partners
         set description = coalesce($2, description), event_types = coalesce($3, event_types),
             endpoints_max = coalesce($4, endpoints_max),
             concurrency = case when $5 then $6 else concurrency end, rate = case when $7 then $8 else rate end,
             version = version + 1, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        change.description,
        change.event_types.as_deref(),
        change.endpoints_max,
        change.concurrency.is_some(),
        change.concurrency.flatten(),
        change.rate.is_some(),
        change.rate.flatten(),
    )
    .execute(&mut *conn)
    .await?;
    get(conn, id).await?.ok_or(Error::NotFound)
}

/// Stops all exchange with a partner: its keys and its webhooks are refused, and its endpoints disabled, of which whoever wants
/// `endpoint.disabled` is told. Doing it twice changes nothing.
pub async fn pause(conn: &mut PgConnection, id: PartnerId, reason: &str) -> Result<Announced, Error> {
    lock(&mut *conn, id).await?;
    sqlx::query!(
        "update partners
         set state = 'paused', paused_reason = $2, version = version + 1, updated_at = clock_timestamp()
         where id = $1 and state = 'active'",
        id.0,
        reason,
    )
    .execute(&mut *conn)
    .await?;
    let mut announced = Announced::default();
    let mut those = endpoints(&mut *conn, id, "active", None).await?;
    those.extend(endpoints(&mut *conn, id, "unconfirmed", None).await?);
    for endpoint in those {
        match webhooks::store::disable(&mut *conn, endpoint, PAUSED).await {
            Ok((_, notice)) => announced = announced.join(notice),
            Err(webhooks::store::Error::Database(error)) => return Err(error.into()),
            // Deleted meanwhile.
            Err(_) => {}
        }
    }
    Ok(announced)
}

/// Exchanges with a partner again, and enables the endpoints that were disabled with it; returns how many.
pub async fn resume(conn: &mut PgConnection, id: PartnerId) -> Result<usize, Error> {
    lock(&mut *conn, id).await?;
    sqlx::query!(
        "update partners
         set state = 'active', paused_reason = null, version = version + 1, updated_at = clock_timestamp()
         where id = $1 and state = 'paused'",
        id.0,
    )
    .execute(&mut *conn)
    .await?;
    let mut enabled = 0;
    for endpoint in endpoints(&mut *conn, id, "disabled", Some(PAUSED)).await? {
        match webhooks::store::enable(&mut *conn, endpoint).await {
            Ok(_) => enabled += 1,
            Err(webhooks::store::Error::Database(error)) => return Err(error.into()),
            // Deleted meanwhile.
            Err(_) => {}
        }
    }
    Ok(enabled)
}

/// Why the endpoints of a paused partner are disabled.
const PAUSED: &str = "partner_paused";

async fn endpoints(
    conn: &mut PgConnection,
    id: PartnerId,
    state: &str,
    reason: Option<&str>,
) -> Result<Vec<EndpointId>, Error> {
    let endpoints = sqlx::query_scalar!(
        r#"select id as "id: EndpointId" from webhook_endpoints
           where partner_id = $1 and deleted_at is null and state = $2 and ($3::text is null or disabled_reason = $3)
           order by id"#,
        id.0,
        state,
        reason,
    )
    .fetch_all(conn)
    .await?;
    Ok(endpoints)
}

/// Puts a new inbound secret in front of the others, and returns it. Those before it are accepted for some hours more; a day,
/// unless something else is said; zero ends them at once.
pub async fn rotate(
    conn: &mut PgConnection,
    keyring: &Keyring,
    id: PartnerId,
    overlap_hours: Option<i32>,
) -> Result<String, Error> {
    let overlap = check_overlap(overlap_hours).map_err(Invalid::from)?;
    let secret = secret(None, Signing::Hmac).map_err(Invalid::from)?;
    let rotated = sqlx::query!(
        "update partners
         set inbound_secrets = array[$2::text] || case when $3 = 0 then '{}' else (
                 case when old_secrets_until <= clock_timestamp() then inbound_secrets[1:1] else inbound_secrets end)[1:2] end,
             old_secrets_until = clock_timestamp() + make_interval(hours => $3),
             version = version + 1, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        keyring.seal(Owner::Partner(id), &secret),
        overlap,
    )
    .execute(conn)
    .await?;
    if rotated.rows_affected() == 0 {
        return Err(Error::NotFound);
    }
    Ok(secret)
}

/// Seals with the newest master key, in one transaction, what is plain or sealed with another: of at most `limit` partners,
/// in the order of their ids, beyond the one given. Returns the last one looked at, and how many secrets were sealed; what
/// does not open stays as it is.
pub async fn reseal(
    conn: &mut PgConnection,
    keyring: &Keyring,
    after: Option<PartnerId>,
    limit: i64,
) -> Result<(Option<PartnerId>, u64), sqlx::Error> {
    let rows = sqlx::query!(
        r#"select id as "id: PartnerId", inbound_secrets from partners
           where $1::uuid is null or id > $1
           order by id
           limit $2
           for no key update"#,
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(&mut *conn)
    .await?;
    let last = rows.last().map(|row| row.id);
    let mut count = 0;
    for row in rows {
        let owner = Owner::Partner(row.id);
        let (secrets, sealed) = renew(keyring, &row.inbound_secrets, |plain| keyring.seal(owner, plain), owner);
        if sealed > 0 {
            sqlx::query!(
                "update partners set inbound_secrets = $2 where id = $1",
                row.id.0,
                &secrets
            )
            .execute(&mut *conn)
            .await?;
            count += sealed;
        }
    }
    Ok((last, count))
}

async fn lock(conn: &mut PgConnection, id: PartnerId) -> Result<i32, Error> {
    sqlx::query_scalar!("select version from partners where id = $1 for no key update", id.0)
        .fetch_optional(conn)
        .await?
        .ok_or(Error::NotFound)
}

fn check_endpoints_max(most: i32) -> Result<(), Invalid> {
    (0..=ENDPOINTS_MAX)
        .contains(&most)
        .then_some(())
        .ok_or(Invalid::EndpointsMax)
}
