//! The SQL of webhook endpoints, deliveries and attempts.
//!
//! `updated_at` of an endpoint moves only when somebody or a rule changes it, never with its traffic: `record_event` counts
//! the week that a disabled endpoint goes on collecting from there.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    DESCRIPTION_MAX, DeadHead, Delivery, DeliveryAttempt, DeliveryState, Endpoint, EndpointState, Invalid,
    OVERLAP_HOURS, OVERLAP_HOURS_MAX, Ordering, breaker, check_dead_head, check_event_types, check_limits, covers,
    egress,
    sign::{self, Signing},
};
use crate::{
    cause::Cause,
    events::{self, Announced, Audience, NewEvent, PendingDelivery},
    ids::{DeliveryId, EndpointId, EventId, PartnerId},
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
         where id = $1 and deleted_at is null and state = 'active'",
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
async fn lock_for_notice(conn: &mut PgConnection, id: EndpointId) -> Result<(), sqlx::Error> {
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

/// Sends to an endpoint again, with a clean record. What it missed is sent by [`replay`].
pub async fn enable(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Error> {
    sqlx::query!(
        "update webhook_endpoints
         set state = 'active', disabled_reason = null, failing_since = null, open_until = null, opened_times = 0,
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
         set deleted_at = clock_timestamp(), state = 'disabled', disabled_reason = 'deleted', secrets = array['deleted'],
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

/// Which deliveries of an endpoint are sent again.
#[derive(Debug, Clone)]
pub struct Range {
    /// Written at that time or later,
    pub since: DateTime<Utc>,
    /// and before that time.
    pub until: Option<DateTime<Utc>>,
    /// And now in one of these states; what waits or is in flight goes out anyway.
    pub states: Vec<DeliveryState>,
}

/// A delivery that is pending again.
#[must_use = "deliveries without jobs would never be sent: pass it to jobs::send_again"]
#[derive(Debug, Clone)]
pub struct Again {
    /// The delivery.
    pub pending: PendingDelivery,
    /// The job that died of it, which has its place in the line.
    pub dead_job_id: Option<i64>,
}

/// Makes the deliveries of a range pending again, oldest first, at most `limit` at a time; those returned need their jobs.
/// What is not kept any more stays as it is.
pub async fn replay(conn: &mut PgConnection, id: EndpointId, range: &Range, limit: i64) -> Result<Vec<Again>, Error> {
    lock(conn, id).await?;
    let states: Vec<String> = range.states.iter().map(|state| state.as_str().to_owned()).collect();
    let mut pending = sqlx::query!(
        r#"update webhook_deliveries
           set state = 'pending', reason = null, updated_at = clock_timestamp()
           where id in (select d.id from webhook_deliveries d
                        join events v on v.event_id = d.event_id
                        where d.endpoint_id = $1 and d.state = any ($4) and d.state not in ('pending', 'in_flight')
                          and d.created_at >= $2 and ($5::timestamptz is null or d.created_at < $5) and v.payload <> ''
                        order by d.seq
                        limit $3
                        for update of d)
           returning id as "id: DeliveryId", ordering_key, seq, dead_job_id"#,
        id.0,
        range.since,
        limit,
        &states,
        range.until,
    )
    .fetch_all(conn)
    .await?;
    pending.sort_by_key(|row| row.seq);
    Ok(pending
        .into_iter()
        .map(|row| Again {
            pending: PendingDelivery::new(row.id, id, row.ordering_key.as_deref()),
            dead_job_id: row.dead_job_id,
        })
        .collect())
}

/// Why one delivery is not sent again.
#[derive(Debug, thiserror::Error)]
pub enum NotResent {
    /// There is none of that id, or its endpoint is deleted.
    #[error("there is no such delivery")]
    NotFound,
    /// It is on its way.
    #[error("the delivery is {}: it is sent anyway", .0.as_str())]
    OnItsWay(DeliveryState),
    /// It was to be discarded, and nobody waits for it.
    #[error("the delivery is {}: only a dead one is discarded", .0.as_str())]
    NotDead(DeliveryState),
    /// Its endpoint takes nothing.
    #[error("the endpoint is disabled: enable it first")]
    Disabled,
    /// Its content was deleted.
    #[error("the event's content is not kept any more")]
    Purged,
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Makes one delivery pending again, whatever became of it; what is returned needs its job.
pub async fn resend(conn: &mut PgConnection, id: DeliveryId) -> Result<Again, NotResent> {
    let found = sqlx::query!(
        r#"select d.endpoint_id as "endpoint_id: EndpointId", d.ordering_key, d.state as "state: DeliveryState", d.dead_job_id,
                  e.state as "endpoint_state: EndpointState", v.payload = '' as "is_purged!"
           from webhook_deliveries d
           join webhook_endpoints e on e.id = d.endpoint_id and e.deleted_at is null
           join events v on v.event_id = d.event_id
           where d.id = $1
           for update of d"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(NotResent::NotFound)?;
    if matches!(found.state, DeliveryState::Pending | DeliveryState::InFlight) {
        return Err(NotResent::OnItsWay(found.state));
    }
    if found.endpoint_state == EndpointState::Disabled {
        return Err(NotResent::Disabled);
    }
    if found.is_purged {
        return Err(NotResent::Purged);
    }
    sqlx::query!(
        "update webhook_deliveries set state = 'pending', reason = null, updated_at = clock_timestamp() where id = $1",
        id.0,
    )
    .execute(conn)
    .await?;
    Ok(Again {
        pending: PendingDelivery::new(id, found.endpoint_id, found.ordering_key.as_deref()),
        dead_job_id: found.dead_job_id,
    })
}

/// Gives a dead delivery up for good, for the reason given, and returns the job that died of it: with that one discarded too,
/// a line that it blocks goes on.
pub async fn give_up(conn: &mut PgConnection, id: DeliveryId, reason: &str) -> Result<Option<i64>, NotResent> {
    let found = sqlx::query!(
        r#"select state as "state: DeliveryState", dead_job_id from webhook_deliveries where id = $1 for update"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(NotResent::NotFound)?;
    if found.state != DeliveryState::Dead {
        return Err(NotResent::NotDead(found.state));
    }
    discard(conn, id, reason).await?;
    Ok(found.dead_job_id)
}

/// Writes an event for this endpoint alone, whatever it asked for, so that its owner sees one arrive.
pub async fn test_fire(conn: &mut PgConnection, id: EndpointId) -> Result<(EventId, Announced), Error> {
    let endpoint = lock(&mut *conn, id).await?;
    let notice = NewEvent {
        kind: "endpoint.test",
        order_id: None,
        data: json!({ "endpoint_id": endpoint.id, "message": "this is a test" }),
    };
    let event = EventId::new();
    let announced = events::record_as(conn, event, notice, Audience::endpoint(id)).await?;
    Ok((event, announced))
}

/// A page of an endpoint's deliveries, newest first, before that event number.
pub async fn deliveries(
    conn: &mut PgConnection,
    endpoint: EndpointId,
    state: Option<DeliveryState>,
    before_seq: Option<i64>,
    limit: i64,
) -> Result<Vec<Delivery>, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        r#"select d.id as "id: DeliveryId", d.endpoint_id as "endpoint_id: EndpointId",
                  d.event_id as "event_id: EventId", e.type as event_type, d.seq, d.prev_seq,
                  d.state as "state: DeliveryState", d.attempts, d.reason, d.created_at, d.delivered_at
           from webhook_deliveries d
           join events e on e.event_id = d.event_id
           where d.endpoint_id = $1 and ($2::text is null or d.state = $2) and ($3::bigint is null or d.seq < $3)
           order by d.seq desc
           limit $4"#,
        endpoint.0,
        state.map(DeliveryState::as_str),
        before_seq,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// One delivery.
pub async fn delivery(conn: &mut PgConnection, id: DeliveryId) -> Result<Option<Delivery>, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        r#"select d.id as "id: DeliveryId", d.endpoint_id as "endpoint_id: EndpointId",
                  d.event_id as "event_id: EventId", e.type as event_type, d.seq, d.prev_seq,
                  d.state as "state: DeliveryState", d.attempts, d.reason, d.created_at, d.delivered_at
           from webhook_deliveries d
           join events e on e.event_id = d.event_id
           where d.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// The tries of a delivery, first to last.
pub async fn attempts(conn: &mut PgConnection, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, sqlx::Error> {
    sqlx::query_as!(
        DeliveryAttempt,
        "select n, started_at, finished_at, http_status, error_class, message
         from webhook_attempts
         where delivery_id = $1
         order by n",
        id.0,
    )
    .fetch_all(conn)
    .await
}

/// A delivery as its sender needs it, and what beginning it came to.
#[derive(Debug)]
pub struct Begun {
    /// Its state before.
    pub state: DeliveryState,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Where to.
    pub url: String,
    /// The live secrets, as they are stored.
    pub secrets: Vec<String>,
    /// The endpoint takes nothing at present: why.
    pub refused: Option<String>,
    /// The event, and the `webhook-id`.
    pub event_id: EventId,
    /// The event's frozen bytes.
    pub payload: String,
    /// The number of the event before it in its line.
    pub prev_seq: Option<i64>,
    /// The number of this try, if it has begun.
    pub n: Option<i32>,
    /// The database's clock.
    pub timestamp: i64,
    /// How often in a row the breaker has opened: a try that begins above zero is a probe.
    pub opened_times: i32,
    /// How long the breaker stays open, in seconds.
    pub open_seconds: f64,
    /// The breaker has opened, or a delivery was exhausted, since one last arrived.
    pub is_unwell: bool,
}

impl Begun {
    /// The live secrets, opened.
    pub fn open_secrets(&self, keyring: &Keyring) -> Result<Vec<String>, keyring::Error> {
        let owner = Owner::Endpoint(self.endpoint_id);
        self.secrets.iter().map(|stored| keyring.open(owner, stored)).collect()
    }

    /// What is sent: the event's bytes, with what is before it in its line. The same at every try.
    pub fn body(&self) -> String {
        match self.prev_seq {
            // The first of its kind: before it there are a word, a time and a number.
            Some(prev_seq) => self
                .payload
                .replacen(r#","data":"#, &format!(r#","prev_seq":{prev_seq},"data":"#), 1),
            None => self.payload.clone(),
        }
    }
}

/// Begins a try of a delivery, in one statement: in flight, with its attempt's row; unless the endpoint takes nothing, or
/// its breaker is open. When the breaker's time is up, one caller becomes the probe and the others wait on.
pub async fn begin(conn: &mut PgConnection, id: DeliveryId, cause: &Cause) -> Result<Option<Begun>, sqlx::Error> {
    sqlx::query_as!(
        Begun,
        r#"with target as (
               select d.id, d.state, d.endpoint_id, d.prev_seq, e.url, v.event_id, v.payload, e.opened_times,
                      e.opened_times > 0 or e.exhausted_at is not null as is_unwell,
                      case when e.old_secrets_until <= clock_timestamp() then e.secrets[1:1] else e.secrets end as secrets,
                      case when e.deleted_at is not null then 'endpoint_deleted'
                           when e.state = 'disabled' then 'endpoint_disabled'
                           when v.payload = '' then 'payload_purged' end as refused,
                      greatest(extract(epoch from e.open_until - clock_timestamp()), 0)::float8 as open_seconds
               from webhook_deliveries d
               join webhook_endpoints e on e.id = d.endpoint_id
               join events v on v.event_id = d.event_id
               where d.id = $1
           ),
           probe as (
               update webhook_endpoints e
               set open_until = clock_timestamp() + interval '30 seconds'
               from target t
               where e.id = t.endpoint_id and t.opened_times > 0 and t.refused is null
                 and t.state in ('pending', 'in_flight', 'dead') and e.open_until <= clock_timestamp()
               returning e.id
           ),
           marked as (
               update webhook_deliveries d
               set state = 'in_flight', attempts = d.attempts + 1, updated_at = clock_timestamp()
               from target t
               where d.id = t.id and t.state in ('pending', 'in_flight', 'dead') and t.refused is null
                 and (t.opened_times = 0 or exists (select from probe))
               returning d.id, d.attempts
           ),
           attempted as (
               insert into webhook_attempts (delivery_id, n, job_id, fence)
               select id, attempts, $2, $3 from marked
               returning n
           )
           select t.state as "state!: DeliveryState", t.endpoint_id as "endpoint_id!: EndpointId", t.url as "url!",
                  t.secrets as "secrets!", t.refused, t.event_id as "event_id!: EventId", t.payload as "payload!",
                  (select n from attempted) as n, extract(epoch from clock_timestamp())::bigint as "timestamp!",
                  t.opened_times as "opened_times!", coalesce(t.open_seconds, 0) as "open_seconds!", t.prev_seq,
                  t.is_unwell as "is_unwell!"
           from target t"#,
        id.0,
        cause.job_id(),
        cause.fence(),
    )
    .fetch_optional(conn)
    .await
}

/// Records that the receiver said yes; an endpoint that had failed is well again. Where its breaker had opened, or a delivery
/// had been exhausted, whoever wants `delivery.recovered` is told.
pub async fn record_success(
    conn: &mut PgConnection,
    id: DeliveryId,
    n: i32,
    begun: &Begun,
    status: u16,
) -> Result<Announced, sqlx::Error> {
    let announced = match begun.is_unwell {
        true => tell_recovered(&mut *conn, id, begun).await?,
        false => Announced::default(),
    };
    sqlx::query!(
        "with attempted as (
             update webhook_attempts set finished_at = clock_timestamp(), http_status = $3
             where delivery_id = $1 and n = $2
         ),
         well as (
             update webhook_endpoints set failing_since = null, open_until = null, opened_times = 0, exhausted_at = null
             where id = $4 and (failing_since is not null or opened_times > 0 or exhausted_at is not null)
         )
         update webhook_deliveries
         set state = 'delivered', reason = null, delivered_at = clock_timestamp(), updated_at = clock_timestamp()
         where id = $1",
        id.0,
        n,
        i32::from(status),
        begun.endpoint_id.0,
    )
    .execute(conn)
    .await?;
    Ok(announced)
}

/// Of several that arrive at once after a failure, the first tells.
async fn tell_recovered(conn: &mut PgConnection, id: DeliveryId, begun: &Begun) -> Result<Announced, sqlx::Error> {
    lock_for_notice(&mut *conn, begun.endpoint_id).await?;
    let unwell = sqlx::query!(
        r#"select url, partner_id as "partner_id: PartnerId", failing_since, exhausted_at
           from webhook_endpoints
           where id = $1 and deleted_at is null and (opened_times > 0 or exhausted_at is not null)"#,
        begun.endpoint_id.0,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(unwell) = unwell else {
        return Ok(Announced::default());
    };
    let notice = NewEvent {
        kind: "delivery.recovered",
        order_id: None,
        data: json!({
            "delivery_id": id,
            "endpoint_id": begun.endpoint_id,
            "url": unwell.url,
            "event_id": begun.event_id,
            "failing_since": unwell.failing_since,
            "exhausted_at": unwell.exhausted_at,
        }),
    };
    events::record_for(conn, notice, Audience::partner(unwell.partner_id)).await
}

/// What is kept of a try that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The receiver's status, if it answered.
    pub status: Option<u16>,
    /// One of a few words.
    pub class: &'static str,
    /// For people.
    pub message: String,
}

/// Records a failed try: the delivery waits for its next one, or is given up for the reason given.
pub async fn record_failure(
    conn: &mut PgConnection,
    id: DeliveryId,
    n: i32,
    endpoint: EndpointId,
    failed: &Failed,
    give_up: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with attempted as (
             update webhook_attempts
             set finished_at = clock_timestamp(), http_status = $3, error_class = $4, message = $5
             where delivery_id = $1 and n = $2
         ),
         unwell as (
             update webhook_endpoints set failing_since = clock_timestamp()
             where id = $6 and failing_since is null
         )
         update webhook_deliveries
         set state = case when $7::text is null then 'pending' else 'discarded' end, reason = $7,
             updated_at = clock_timestamp()
         where id = $1",
        id.0,
        n,
        failed.status.map(i32::from),
        failed.class,
        failed.message,
        endpoint.0,
        give_up,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives a delivery up without a try.
pub async fn discard(conn: &mut PgConnection, id: DeliveryId, reason: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update webhook_deliveries set state = 'discarded', reason = $2, updated_at = clock_timestamp()
         where id = $1 and state <> 'delivered'",
        id.0,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What becomes of the line of a delivery that dies now.
pub async fn dead_head(conn: &mut PgConnection, id: DeliveryId) -> Result<DeadHead, sqlx::Error> {
    let dead_head = sqlx::query_scalar!(
        r#"select e.dead_head as "dead_head: DeadHead" from webhook_deliveries d
           join webhook_endpoints e on e.id = d.endpoint_id and e.deleted_at is null
           where d.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(dead_head.unwrap_or_default())
}

/// The schedule has ended, and whoever wants `delivery.exhausted` is told. An endpoint without a success for five days is
/// disabled. What becomes of a notice about deliveries or endpoints is told to nobody: that could go on for ever.
pub async fn bury(conn: &mut PgConnection, id: DeliveryId, reason: &str, job_id: i64) -> Result<Announced, Error> {
    let Some(buried) = sqlx::query!(
        r#"select d.endpoint_id as "endpoint_id: EndpointId", d.event_id as "event_id: EventId", v.type as kind, d.attempts,
                  e.partner_id as "partner_id: PartnerId",
                  coalesce(e.state = 'active' and e.failing_since < clock_timestamp() - interval '5 days', false) as "is_failing!"
           from webhook_deliveries d
           join webhook_endpoints e on e.id = d.endpoint_id
           join events v on v.event_id = d.event_id
           where d.id = $1 and d.state in ('pending', 'in_flight', 'dead')"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    else {
        return Ok(Announced::default());
    };
    let mut announced = Announced::default();
    if buried.is_failing {
        match disable(&mut *conn, buried.endpoint_id, "failing").await {
            Ok((_, disabled)) => announced = disabled,
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    if !["endpoint.", "delivery."]
        .iter()
        .any(|area| buried.kind.starts_with(area))
    {
        let notice = NewEvent {
            kind: "delivery.exhausted",
            order_id: None,
            data: json!({
                "delivery_id": id,
                "endpoint_id": buried.endpoint_id,
                "event_id": buried.event_id,
                "event_type": buried.kind,
                "attempts": buried.attempts,
                "reason": reason,
            }),
        };
        lock_for_notice(&mut *conn, buried.endpoint_id).await?;
        let told = events::record_for(&mut *conn, notice, Audience::partner(buried.partner_id)).await?;
        announced = announced.join(told);
        sqlx::query!(
            "update webhook_endpoints set exhausted_at = clock_timestamp() where id = $1 and deleted_at is null",
            buried.endpoint_id.0,
        )
        .execute(&mut *conn)
        .await?;
    }
    sqlx::query!(
        "update webhook_deliveries
         set state = 'dead', reason = $2, dead_job_id = $3, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        reason,
        job_id,
    )
    .execute(conn)
    .await?;
    Ok(announced)
}

/// Deletes the contents of the oldest events before that many days ago, and forgets old secrets whose overlap is over; returns
/// how many events. The rows stay, with what became of them.
pub async fn purge(conn: &mut PgConnection, keep_days: i32, limit: i64) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "update webhook_endpoints set secrets = secrets[1:1], old_secrets_until = null
         where old_secrets_until <= clock_timestamp() and deleted_at is null",
    )
    .execute(&mut *conn)
    .await?;
    // One purge at a time: this row is where it goes on.
    let up_to = sqlx::query_scalar!("select up_to from purged_events for update")
        .fetch_one(&mut *conn)
        .await?;
    let purged = sqlx::query_scalar!(
        r#"with old as (
               select id from events
               where id > $1 and at < clock_timestamp() - make_interval(days => $2)
               order by id
               limit $3
           ),
           emptied as (
               update events e set payload = '' from old where e.id = old.id returning e.id
           ),
           moved as (
               update purged_events set up_to = (select max(id) from emptied) where exists (select from emptied)
           )
           select count(*) as "count!" from emptied"#,
        up_to,
        keep_days,
        limit,
    )
    .fetch_one(conn)
    .await?;
    Ok(u64::try_from(purged).unwrap_or(0))
}

/// Leaves an endpoint alone, longer each time in a row; returns for how long, or nothing if somebody else did it already.
/// `opened_times` is what the try that failed began with.
pub async fn open_breaker(
    conn: &mut PgConnection,
    id: EndpointId,
    opened_times: i32,
) -> Result<Option<Duration>, sqlx::Error> {
    let open_for = breaker::open_for(opened_times.saturating_add(1));
    let opened = sqlx::query!(
        "update webhook_endpoints
         set opened_times = opened_times + 1, open_until = clock_timestamp() + make_interval(secs => $3)
         where id = $1 and opened_times = $2",
        id.0,
        opened_times,
        open_for.as_secs_f64(),
    )
    .execute(conn)
    .await?;
    Ok((opened.rows_affected() > 0).then_some(open_for))
}

async fn lock(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Error> {
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
