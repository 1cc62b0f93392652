//! The SQL of endpoints and their secrets.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::super::{
    DESCRIPTION_MAX, DeadHead, Endpoint, EndpointState, Invalid, OVERLAP_HOURS, OVERLAP_HOURS_MAX, Ordering,
    check_dead_head, check_event_types, check_limits, covers, egress,
    sign::{self, Signing},
};
use crate::{
    events::{self, Announced, Audience, NewEvent},
    ids::{EndpointId, PartnerId},
    keyring::{self, Keyring, Owner},
};

/// How many secrets sign at once: the newest and those being replaced.
const SECRETS_MAX: usize = 3;

/// Why a change of an endpoint is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that id, or it is deleted.
    #[error("there is no such endpoint")]
    NotFound,
    /// Somebody changed it in between.
    #[error("the endpoint is at version {0}")]
    Version(i32),
    /// The new settings are no good.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Not what its address was sent.
    #[error("that is not the code of the last `endpoint.challenge` that was sent to the endpoint's address")]
    WrongCode,
    /// A secret does not open.
    #[error(transparent)]
    Sealed(#[from] keyring::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// An endpoint to be.
#[derive(Debug, Clone, Default)]
pub struct NewEndpoint {
    /// Where to.
    pub url: String,
    /// For people.
    pub description: String,
    /// Which events.
    pub event_types: Vec<String>,
    /// What is kept in order.
    pub ordering: Ordering,
    /// What becomes of a line whose head is dead.
    pub dead_head: DeadHead,
    /// What signs its deliveries, when no secret is given.
    pub signing: Signing,
    /// A secret agreed on elsewhere; otherwise one is made.
    pub secret: Option<String>,
    /// Whose it is: its limits and its event types are within the partner's.
    pub partner_id: Option<PartnerId>,
    /// Deliveries at once; the partner's, without.
    pub concurrency: Option<i32>,
    /// Deliveries a second; the partner's, without.
    pub rate: Option<f64>,
}

/// What changes in an endpoint: nothing that is not named.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// Where to.
    pub url: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Which events, from now on.
    pub event_types: Option<Vec<String>>,
    /// What becomes of a line whose head dies from now on.
    pub dead_head: Option<DeadHead>,
    /// Deliveries at once; `Some(None)` is the limit of all endpoints.
    pub concurrency: Option<Option<i32>>,
    /// Deliveries a second; `Some(None)` is any number.
    pub rate: Option<Option<f64>>,
    /// Only if it is still at this version.
    pub version: Option<i32>,
}

/// Registers an endpoint and returns it with its secret, which is never shown again.
pub async fn create(
    conn: &mut PgConnection,
    keyring: &Keyring,
    new: NewEndpoint,
    allow_private: bool,
) -> Result<(Endpoint, String), Error> {
    let url = egress::check_url(&new.url, allow_private).map_err(Invalid::from)?;
    check_event_types(&new.event_types)?;
    check_description(&new.description)?;
    check_limits(new.concurrency, new.rate)?;
    check_dead_head(new.dead_head, new.ordering)?;
    let (mut concurrency, mut rate) = (new.concurrency, new.rate);
    if let Some(partner) = new.partner_id {
        let partner = partner_for_endpoint(&mut *conn, partner).await?;
        if !covers(&partner.event_types, &new.event_types) {
            return Err(Invalid::BeyondPartner(partner.event_types).into());
        }
        if partner.endpoints >= i64::from(partner.endpoints_max) {
            return Err(Invalid::TooMany(partner.endpoints_max).into());
        }
        concurrency = concurrency.or(partner.concurrency);
        rate = rate.or(partner.rate);
    }
    let secret = secret(new.secret, new.signing)?;
    let id = EndpointId::new();
    let endpoint = sqlx::query_as!(
        Endpoint,
        r#"insert into webhook_endpoints (id, url, description, event_types, ordering, secrets, partner_id, concurrency, rate,
                                         dead_head)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
           returning id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering", dead_head as "dead_head: DeadHead",
                     partner_id as "partner_id: PartnerId", webhook_public_keys(secrets) as "public_keys!",
                     concurrency, rate, state as "state: EndpointState", disabled_reason, failing_since, open_until,
                     version, created_at, updated_at"#,
        id.0,
        url.as_str(),
        new.description,
        &new.event_types,
        new.ordering.as_str(),
        &[seal(keyring, Owner::Endpoint(id), &secret)] as &[String],
        new.partner_id.map(|id| id.0),
        concurrency,
        rate,
        new.dead_head.as_str(),
    )
    .fetch_one(conn)
    .await?;
    Ok((endpoint, secret))
}

/// A secret as it is stored: sealed, with the public half of a key pair beside it.
fn seal(keyring: &Keyring, owner: Owner, secret: &str) -> String {
    let sealed = keyring.seal(owner, secret);
    match sign::public_key(secret) {
        Some(public) => format!("{sealed}:{public}"),
        None => sealed,
    }
}

/// What an endpoint's partner allows it.
struct Allowance {
    event_types: Vec<String>,
    endpoints_max: i32,
    concurrency: Option<i32>,
    rate: Option<f64>,
    endpoints: i64,
}

/// Locks the partner, so that two new endpoints count each other.
async fn partner_for_endpoint(conn: &mut PgConnection, id: PartnerId) -> Result<Allowance, Error> {
    let locked = sqlx::query!(
        "select event_types, endpoints_max, concurrency, rate from partners where id = $1 and state = 'active' for no key update",
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Invalid::Partner)?;
    let endpoints = sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_endpoints where partner_id = $1 and deleted_at is null"#,
        id.0,
    )
    .fetch_one(conn)
    .await?;
    Ok(Allowance {
        event_types: locked.event_types,
        endpoints_max: locked.endpoints_max,
        concurrency: locked.concurrency,
        rate: locked.rate,
        endpoints,
    })
}

/// The secret that was given, if it is one, or a new one.
pub(crate) fn secret(given: Option<String>, signing: Signing) -> Result<String, Invalid> {
    match given {
        Some(given) => {
            sign::check_secret(&given)?;
            Ok(given)
        }
        None => Ok(sign::generate(signing)),
    }
}

/// An endpoint that is not deleted.
pub async fn get(conn: &mut PgConnection, id: EndpointId) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        r#"select id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering", dead_head as "dead_head: DeadHead",
                  partner_id as "partner_id: PartnerId", webhook_public_keys(secrets) as "public_keys!",
                  concurrency, rate, state as "state: EndpointState", disabled_reason, failing_since, open_until,
                  version, created_at, updated_at
           from webhook_endpoints
           where id = $1 and deleted_at is null"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// A page of endpoints, of one partner or of all, newest first, before the position given.
pub async fn list(
    conn: &mut PgConnection,
    partner: Option<PartnerId>,
    before: Option<(DateTime<Utc>, EndpointId)>,
    limit: i64,
) -> Result<Vec<Endpoint>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Endpoint,
        r#"select id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering", dead_head as "dead_head: DeadHead",
                  partner_id as "partner_id: PartnerId", webhook_public_keys(secrets) as "public_keys!",
                  concurrency, rate, state as "state: EndpointState", disabled_reason, failing_since, open_until,
                  version, created_at, updated_at
           from webhook_endpoints
           where deleted_at is null and ($1::timestamptz is null or (created_at, id) < ($1, $2))
             and ($4::uuid is null or partner_id = $4)
           order by created_at desc, id desc
           limit $3"#,
        before_at,
        before_id.map(|id| id.0),
        limit,
        partner.map(|id| id.0),
    )
    .fetch_all(conn)
    .await
}

/// Changes an endpoint. Its order-keeping stays what it was: deliveries already written depend on it.
pub async fn patch(
    conn: &mut PgConnection,
    id: EndpointId,
    change: EndpointChange,
    allow_private: bool,
) -> Result<Endpoint, Error> {
    let url = match &change.url {
        Some(url) => Some(egress::check_url(url, allow_private).map_err(Invalid::from)?),
        None => None,
    };
    if let Some(event_types) = &change.event_types {
        check_event_types(event_types)?;
    }
    if let Some(description) = &change.description {
        check_description(description)?;
    }
    check_limits(change.concurrency.flatten(), change.rate.flatten())?;
    let now = lock(conn, id).await?;
    if let (Some(event_types), Some(partner)) = (&change.event_types, now.partner_id) {
        let allowed = sqlx::query_scalar!("select event_types from partners where id = $1", partner.0)
            .fetch_one(&mut *conn)
            .await?;
        if !covers(&allowed, event_types) {
            return Err(Invalid::BeyondPartner(allowed).into());
        }
    }
    if change.version.is_some_and(|version| version != now.version) {
        return Err(Error::Version(now.version));
    }
    check_dead_head(change.dead_head.unwrap_or(now.dead_head), now.ordering)?;
    sqlx::query!(
        "update webhook_endpoints
         set url = coalesce($2, url), description = coalesce($3, description),
             event_types = coalesce($4, event_types),
             concurrency = case when $5 then $6 else concurrency end, rate = case when $7 then $8 else rate end,
             dead_head = coalesce($9, dead_head),
             version = version + 1, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        url.as_ref().map(url::Url::as_str),
        change.description,
        change.event_types.as_deref(),
        change.concurrency.is_some(),
        change.concurrency.flatten(),
        change.rate.is_some(),
        change.rate.flatten(),
        change.dead_head.map(DeadHead::as_str),
    )
    .execute(&mut *conn)
    .await?;
    lock(conn, id).await
}

/// How a secret is replaced.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    /// What the new secret is, when none is given: an endpoint can change from one to the other.
    pub signing: Signing,
    /// A secret agreed on elsewhere.
    pub secret: Option<String>,
    /// How long the secrets before it go on signing; a day, without. Zero ends them at once: they leaked.
    pub overlap_hours: Option<i32>,
}

/// Puts a new secret in front of the others, and returns it. Those before it go on signing for a while, at most two of them.
///
/// None of them has to open, unless one is given that may be among them: this is also how a lost master key is mended.
pub async fn rotate(
    conn: &mut PgConnection,
    keyring: &Keyring,
    id: EndpointId,
    rotation: Rotation,
) -> Result<String, Error> {
    let overlap = check_overlap(rotation.overlap_hours)?;
    let is_given = rotation.secret.is_some();
    let secret = secret(rotation.secret, rotation.signing)?;
    let before = sqlx::query!(
        r#"select case when old_secrets_until <= clock_timestamp() then secrets[1:1] else secrets end as "secrets!"
           from webhook_endpoints
           where id = $1 and deleted_at is null
           for no key update"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Error::NotFound)?;
    let mut kept = if overlap == 0 { Vec::new() } else { before.secrets };
    if is_given {
        let mut others = Vec::new();
        for stored in kept {
            if keyring.open(Owner::Endpoint(id), &stored)? != secret {
                others.push(stored);
            }
        }
        kept = others;
    }
    kept.insert(0, seal(keyring, Owner::Endpoint(id), &secret));
    kept.truncate(SECRETS_MAX);
    sqlx::query!(
        "update webhook_endpoints
         set secrets = $2, old_secrets_until = clock_timestamp() + make_interval(hours => $3),
             version = version + 1, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        &kept,
        overlap,
    )
    .execute(conn)
    .await?;
    Ok(secret)
}

/// Seals with the newest master key, in one transaction, what is plain or sealed with another: of at most `limit` endpoints,
/// in the order of their ids, beyond the one given. Returns the last one looked at, and how many secrets were sealed; what
/// does not open stays as it is.
pub async fn reseal(
    conn: &mut PgConnection,
    keyring: &Keyring,
    after: Option<EndpointId>,
    limit: i64,
) -> Result<(Option<EndpointId>, u64), sqlx::Error> {
    let rows = sqlx::query!(
        r#"select id as "id: EndpointId", secrets from webhook_endpoints
           where deleted_at is null and ($1::uuid is null or id > $1)
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
        let owner = Owner::Endpoint(row.id);
        let (secrets, sealed) = renew(keyring, &row.secrets, |plain| seal(keyring, owner, plain), owner);
        if sealed > 0 {
            sqlx::query!(
                "update webhook_endpoints set secrets = $2 where id = $1",
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

/// The same secrets, all that open sealed with the newest key, and how many of them were not.
pub(crate) fn renew(
    keyring: &Keyring,
    secrets: &[String],
    seal: impl Fn(&str) -> String,
    owner: Owner,
) -> (Vec<String>, u64) {
    let mut sealed = 0;
    let renewed = secrets
        .iter()
        .map(|stored| match keyring.open(owner, stored) {
            Ok(plain) if !keyring.is_current(stored) => {
                sealed += 1;
                seal(&plain)
            }
            _ => stored.clone(),
        })
        .collect();
    (renewed, sealed)
}

/// The hours of an overlap, if there can be so many.
pub(crate) fn check_overlap(hours: Option<i32>) -> Result<i32, Invalid> {
    let hours = hours.unwrap_or(OVERLAP_HOURS);
    (0..=OVERLAP_HOURS_MAX)
        .contains(&hours)
        .then_some(hours)
        .ok_or(Invalid::Overlap)
}

/// Forgets every secret but the newest: the end of a rotation.
pub async fn drop_old_secrets(conn: &mut PgConnection, id: EndpointId) -> Result<(), Error> {
    let dropped = sqlx::query!(
        "update webhook_endpoints
         set secrets = secrets[1:1], version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null",
        id.0,
    )
    .execute(conn)
    .await?;
    if dropped.rows_affected() == 0 {
        Err(Error::NotFound)
    } else {
        Ok(())
    }
}

/// Stops sending to an endpoint; doing it twice changes nothing. Whoever wants `endpoint.disabled` is told why.
pub async fn disable(conn: &mut PgConnection, id: EndpointId, reason: &str) -> Result<(Endpoint, Announced), Error> {
    lock_for_notice(conn, id).await?;
    let disabled = sqlx::query!(
        "update webhook_endpoints
         set state = 'disabled', disabled_reason = $2, version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null and state <> 'disabled'",
        id.0,
        reason,
    )
    .execute(&mut *conn)
    .await?;
    let endpoint = lock(&mut *conn, id).await?;
    if disabled.rows_affected() == 0 {
        return Ok((endpoint, Announced::default()));
    }
    let announced = tell_disabled(conn, &endpoint).await?;
    Ok((endpoint, announced))
}

async fn tell_disabled(conn: &mut PgConnection, endpoint: &Endpoint) -> Result<Announced, sqlx::Error> {
    let notice = NewEvent {
        kind: "endpoint.disabled",
        order_id: None,
        data: json!({
            "endpoint_id": endpoint.id,
            "url": endpoint.url,
            "reason": endpoint.disabled_reason,
            "failing_since": endpoint.failing_since,
        }),
    };
    events::record_for(conn, notice, Audience::partner(endpoint.partner_id)).await
}

/// Locks an endpoint together with the strict ones that a notice about it may go to, in the order of their ids: a notice is
/// written while the endpoint is locked, and nobody may wait in a circle.
pub(super) async fn lock_for_notice(conn: &mut PgConnection, id: EndpointId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select from webhook_endpoints
         where id = $1 or (ordering = 'strict' and deleted_at is null
                           and event_types && array['*', 'endpoint.*', 'endpoint.disabled', 'delivery.*', 'delivery.exhausted',
                                                'delivery.recovered'])
         order by id
         for no key update",
        id.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sends to an endpoint again, with a clean record, if its address is known to be its owner's. What it missed is sent by
/// [`replay`].
pub async fn enable(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Error> {
    sqlx::query!(
        "update webhook_endpoints
         set state = case when challenge is null then 'active' else 'unconfirmed' end, disabled_reason = null, failing_since = null, open_until = null, opened_times = 0,
             exhausted_at = null, version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null and state = 'disabled'",
        id.0,
    )
    .execute(&mut *conn)
    .await?;
    lock(conn, id).await
}

/// Deletes an endpoint: it is kept for the history, without its secrets.
pub async fn delete(conn: &mut PgConnection, id: EndpointId) -> Result<(), Error> {
    let deleted = sqlx::query!(
        "update webhook_endpoints
         set deleted_at = clock_timestamp(), state = 'disabled', disabled_reason = 'deleted', secrets = array['deleted'], challenge = null,
             version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null",
        id.0,
    )
    .execute(conn)
    .await?;
    if deleted.rows_affected() == 0 {
        Err(Error::NotFound)
    } else {
        Ok(())
    }
}

pub(super) async fn lock(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Error> {
    sqlx::query_as!(
        Endpoint,
        r#"select id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering", dead_head as "dead_head: DeadHead",
                  partner_id as "partner_id: PartnerId", webhook_public_keys(secrets) as "public_keys!",
                  concurrency, rate, state as "state: EndpointState", disabled_reason, failing_since, open_until,
                  version, created_at, updated_at
           from webhook_endpoints
           where id = $1 and deleted_at is null
           for no key update"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(Error::NotFound)
}

pub(crate) fn check_description(description: &str) -> Result<(), Invalid> {
    if description.chars().count() > DESCRIPTION_MAX {
        Err(Invalid::Description)
    } else {
        Ok(())
    }
}
