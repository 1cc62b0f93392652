//! The SQL of webhook endpoints, deliveries and attempts.
//!
//! `updated_at` of an endpoint moves only when somebody or a rule changes it, never with its traffic: `record_event` counts
//! the week that a disabled endpoint goes on collecting from there.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    DESCRIPTION_MAX, Delivery, DeliveryAttempt, DeliveryState, Endpoint, EndpointState, Invalid, Ordering, breaker,
    check_event_types, egress, sign,
};
use crate::{
    cause::Cause,
    events::{Announced, PendingDelivery},
    ids::{DeliveryId, EndpointId, EventId},
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
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// An endpoint to be.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Where to.
    pub url: String,
    /// For people.
    pub description: String,
    /// Which events.
    pub event_types: Vec<String>,
    /// What is kept in order.
    pub ordering: Ordering,
    /// A secret agreed on elsewhere; otherwise one is made.
    pub secret: Option<String>,
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
    /// Only if it is still at this version.
    pub version: Option<i32>,
}

/// Registers an endpoint and returns it with its secret, which is never shown again.
pub async fn create(
    conn: &mut PgConnection,
    new: NewEndpoint,
    allow_private: bool,
) -> Result<(Endpoint, String), Error> {
    let url = egress::check_url(&new.url, allow_private).map_err(Invalid::from)?;
    check_event_types(&new.event_types)?;
    check_description(&new.description)?;
    let secret = match new.secret {
        Some(given) => {
            sign::check_secret(&given)?;
            given
        }
        None => sign::generate_secret(),
    };
    let endpoint = sqlx::query_as!(
        Endpoint,
        r#"insert into webhook_endpoints (id, url, description, event_types, ordering, secrets)
           values ($1, $2, $3, $4, $5, $6)
           returning id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering",
                     state as "state: EndpointState", disabled_reason, failing_since, open_until, version,
                     created_at, updated_at"#,
        EndpointId::new().0,
        url.as_str(),
        new.description,
        &new.event_types,
        new.ordering.as_str(),
        &[secret.clone()] as &[String],
    )
    .fetch_one(conn)
    .await?;
    Ok((endpoint, secret))
}

/// An endpoint that is not deleted.
pub async fn get(conn: &mut PgConnection, id: EndpointId) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        r#"select id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering",
                  state as "state: EndpointState", disabled_reason, failing_since, open_until, version,
                  created_at, updated_at
           from webhook_endpoints
           where id = $1 and deleted_at is null"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// A page of endpoints, newest first, before the position given.
pub async fn list(
    conn: &mut PgConnection,
    before: Option<(DateTime<Utc>, EndpointId)>,
    limit: i64,
) -> Result<Vec<Endpoint>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Endpoint,
        r#"select id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering",
                  state as "state: EndpointState", disabled_reason, failing_since, open_until, version,
                  created_at, updated_at
           from webhook_endpoints
           where deleted_at is null and ($1::timestamptz is null or (created_at, id) < ($1, $2))
           order by created_at desc, id desc
           limit $3"#,
        before_at,
        before_id.map(|id| id.0),
        limit,
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
    let now = lock(conn, id).await?;
    if change.version.is_some_and(|version| version != now.version) {
        return Err(Error::Version(now.version));
    }
    sqlx::query!(
        "update webhook_endpoints
         set url = coalesce($2, url), description = coalesce($3, description),
             event_types = coalesce($4, event_types), version = version + 1, updated_at = clock_timestamp()
         where id = $1",
        id.0,
        url.as_ref().map(url::Url::as_str),
        change.description,
        change.event_types.as_deref(),
    )
    .execute(&mut *conn)
    .await?;
    lock(conn, id).await
}

/// Puts a new secret in front of the others, and returns it. Those before it go on signing until they are pushed out.
pub async fn rotate(conn: &mut PgConnection, id: EndpointId, given: Option<String>) -> Result<String, Error> {
    let secret = match given {
        Some(given) => {
            sign::check_secret(&given)?;
            given
        }
        None => sign::generate_secret(),
    };
    let kept = i32::try_from(SECRETS_MAX - 1).unwrap_or(1);
    let rotated = sqlx::query!(
        "update webhook_endpoints
         set secrets = array[$2::text] || (array_remove(secrets, $2::text))[1:$3],
             version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null",
        id.0,
        secret,
        kept,
    )
    .execute(conn)
    .await?;
    if rotated.rows_affected() == 0 {
        Err(Error::NotFound)
    } else {
        Ok(secret)
    }
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

/// Stops sending to an endpoint; doing it twice changes nothing.
pub async fn disable(conn: &mut PgConnection, id: EndpointId, reason: &str) -> Result<Endpoint, Error> {
    sqlx::query!(
        "update webhook_endpoints
         set state = 'disabled', disabled_reason = $2, version = version + 1, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null and state = 'active'",
        id.0,
        reason,
    )
    .execute(&mut *conn)
    .await?;
    lock(conn, id).await
}

/// Sends to an endpoint again, with a clean record. What it missed is sent by [`replay`].
pub async fn enable(conn: &mut PgConnection, id: EndpointId) -> Result<Endpoint, Error> {
    sqlx::query!(
        "update webhook_endpoints
         set state = 'active', disabled_reason = null, failing_since = null, open_until = null, opened_times = 0,
             version = version + 1, updated_at = clock_timestamp()
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

/// Makes what an endpoint missed pending again, oldest first: everything it was disabled for, since then. At most `limit`
/// at a time; the deliveries returned need their jobs.
pub async fn replay(
    conn: &mut PgConnection,
    id: EndpointId,
    since: DateTime<Utc>,
    limit: i64,
) -> Result<Announced, Error> {
    lock(conn, id).await?;
    let pending = sqlx::query!(
        r#"update webhook_deliveries
           set state = 'pending', reason = null, updated_at = clock_timestamp()
           where id in (select id from webhook_deliveries
                        where endpoint_id = $1 and state = 'discarded' and created_at >= $2
                        order by seq
                        limit $3
                        for update)
           returning id as "id: DeliveryId", ordering_key, seq"#,
        id.0,
        since,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let mut pending = pending;
    pending.sort_by_key(|row| row.seq);
    Ok(Announced(
        pending
            .into_iter()
            .map(|row| PendingDelivery::new(row.id, id, row.ordering_key.as_deref()))
            .collect(),
    ))
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
                  d.event_id as "event_id: EventId", e.type as event_type, d.seq, d.state as "state: DeliveryState",
                  d.attempts, d.reason, d.created_at, d.delivered_at
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
                  d.event_id as "event_id: EventId", e.type as event_type, d.seq, d.state as "state: DeliveryState",
                  d.attempts, d.reason, d.created_at, d.delivered_at
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
    /// The live secrets.
    pub secrets: Vec<String>,
    /// The endpoint takes nothing at present: why.
    pub refused: Option<String>,
    /// The event, and the `webhook-id`.
    pub event_id: EventId,
    /// The event's frozen bytes.
    pub payload: String,
    /// The number of this try, if it has begun.
    pub n: Option<i32>,
    /// The database's clock.
    pub timestamp: i64,
    /// How often in a row the breaker has opened: a try that begins above zero is a probe.
    pub opened_times: i32,
    /// How long the breaker stays open, in seconds.
    pub open_seconds: f64,
}

/// Begins a try of a delivery, in one statement: in flight, with its attempt's row; unless the endpoint takes nothing, or
/// its breaker is open. When the breaker's time is up, one caller becomes the probe and the others wait on.
pub async fn begin(conn: &mut PgConnection, id: DeliveryId, cause: &Cause) -> Result<Option<Begun>, sqlx::Error> {
    sqlx::query_as!(
        Begun,
        r#"with target as (
               select d.id, d.state, d.endpoint_id, e.url, e.secrets, v.event_id, v.payload, e.opened_times,
                      case when e.deleted_at is not null then 'endpoint_deleted'
                           when e.state = 'disabled' then 'endpoint_disabled' end as refused,
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
                  t.opened_times as "opened_times!", coalesce(t.open_seconds, 0) as "open_seconds!"
           from target t"#,
        id.0,
        cause.job_id(),
        cause.fence(),
    )
    .fetch_optional(conn)
    .await
}

/// Records that the receiver said yes; an endpoint that had failed is well again.
pub async fn record_success(
    conn: &mut PgConnection,
    id: DeliveryId,
    n: i32,
    endpoint: EndpointId,
    status: u16,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with attempted as (
             update webhook_attempts set finished_at = clock_timestamp(), http_status = $3
             where delivery_id = $1 and n = $2
         ),
         well as (
             update webhook_endpoints set failing_since = null, open_until = null, opened_times = 0
             where id = $4 and (failing_since is not null or opened_times > 0)
         )
         update webhook_deliveries
         set state = 'delivered', reason = null, delivered_at = clock_timestamp(), updated_at = clock_timestamp()
         where id = $1",
        id.0,
        n,
        i32::from(status),
        endpoint.0,
    )
    .execute(conn)
    .await?;
    Ok(())
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

/// The schedule has ended. An endpoint without a success for five days is disabled.
pub async fn bury(conn: &mut PgConnection, id: DeliveryId, reason: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with buried as (
             update webhook_deliveries set state = 'dead', reason = $2, updated_at = clock_timestamp()
             where id = $1 and state in ('pending', 'in_flight', 'dead')
             returning endpoint_id
         )
         update webhook_endpoints e
         set state = 'disabled', disabled_reason = 'failing', version = version + 1, updated_at = clock_timestamp()
         from buried b
         where e.id = b.endpoint_id and e.state = 'active' and e.failing_since < clock_timestamp() - interval '5 days'",
        id.0,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
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
        r#"select id as "id: EndpointId", url, description, event_types, ordering as "ordering: Ordering",
                  state as "state: EndpointState", disabled_reason, failing_since, open_until, version,
                  created_at, updated_at
           from webhook_endpoints
           where id = $1 and deleted_at is null
           for no key update"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(Error::NotFound)
}

fn check_description(description: &str) -> Result<(), Invalid> {
    if description.chars().count() > DESCRIPTION_MAX {
        Err(Invalid::Description)
    } else {
        Ok(())
    }
}
