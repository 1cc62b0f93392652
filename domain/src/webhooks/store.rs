//! The SQL of webhooks. Here: the tries of a delivery, from the first to its end. [`endpoints`] has where they go and what signs
//! them, [`ownership`] whose address it is, [`deliveries`] what is seen of them and done about them.
//!
//! `updated_at` of an endpoint moves only when somebody or a rule changes it, never with its traffic: `record_event` counts
//! the week that a disabled endpoint goes on collecting from there.

mod deliveries;
mod endpoints;
mod ownership;

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;

pub use deliveries::{
    Again, NotResent, Range, attempts, deliveries, delivery, give_up, replay, resend, takes_events, test_fire,
};
pub use endpoints::{
    EndpointChange, Error, NewEndpoint, Rotation, create, delete, disable, drop_old_secrets, enable, get, list, patch,
    reseal, rotate,
};
pub(crate) use endpoints::{check_description, check_overlap, renew, secret};
pub use ownership::{CHALLENGE, challenge, confirm, vouch};

use super::{DeadHead, DeliveryState, breaker};
use crate::{
    cause::Cause,
    events::{self, Announced, Audience, NewEvent},
    ids::{DeliveryId, EndpointId, EventId, PartnerId},
    keyring::{self, Keyring, Owner},
};
use endpoints::lock_for_notice;

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
                           when e.state = 'unconfirmed' and v.type <> 'endpoint.challenge' then 'endpoint_unconfirmed'
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
