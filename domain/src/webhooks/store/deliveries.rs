//! The SQL of deliveries as people see them: listed, sent again, given up.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::super::{Delivery, DeliveryAttempt, DeliveryState, EndpointState};
use super::{CHALLENGE, Error, discard, endpoints::lock};
use crate::{
    events::{self, Announced, Audience, NewEvent, PendingDelivery},
    ids::{DeliveryId, EndpointId, EventId},
};

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
    /// Nobody has shown yet whose address it is.
    #[error("the endpoint is not confirmed: post the code that its address was sent to /confirm first")]
    Unconfirmed,
    /// Its content was deleted.
    #[error("the event's content is not kept any more")]
    Purged,
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Refuses what an endpoint of that state would be sent.
pub fn takes_events(state: EndpointState) -> Result<(), NotResent> {
    match state {
        EndpointState::Active => Ok(()),
        EndpointState::Disabled => Err(NotResent::Disabled),
        EndpointState::Unconfirmed => Err(NotResent::Unconfirmed),
    }
}

/// Makes one delivery pending again, whatever became of it; what is returned needs its job.
pub async fn resend(conn: &mut PgConnection, id: DeliveryId) -> Result<Again, NotResent> {
    let found = sqlx::query!(
        r#"select d.endpoint_id as "endpoint_id: EndpointId", d.ordering_key, d.state as "state: DeliveryState", d.dead_job_id,
                  e.state as "endpoint_state: EndpointState", v.payload = '' as "is_purged!",
                  v.type = $2 as "is_challenge!"
           from webhook_deliveries d
           join webhook_endpoints e on e.id = d.endpoint_id and e.deleted_at is null
           join events v on v.event_id = d.event_id
           where d.id = $1
           for update of d"#,
        id.0,
        CHALLENGE,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(NotResent::NotFound)?;
    if matches!(found.state, DeliveryState::Pending | DeliveryState::InFlight) {
        return Err(NotResent::OnItsWay(found.state));
    }
    if !found.is_challenge || found.endpoint_state == EndpointState::Disabled {
        takes_events(found.endpoint_state)?;
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
