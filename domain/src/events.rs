//! What happened, in words for others. Webhooks, streams and logs read it; nothing in the system decides by it.
//!
//! The payload's bytes are frozen when the event is written, and every matching endpoint gets its delivery in the same
//! statement, so an event without its deliveries cannot exist. Strict endpoints are locked first, in id order, before the
//! event takes its number: their numbers then rise in the order of commit. For `per_key` endpoints the lock on the order's
//! row does the same. The statement is the SQL function `record_event`, because a change of an order calls it too,
//! within its own round trip.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::{DeliveryId, EndpointId, EventId, OrderId, PartnerId};

/// An event to be.
#[derive(Debug, Clone)]
pub struct NewEvent<'a> {
    /// Such as `payment.captured`.
    pub kind: &'a str,
    /// The order it is about, if it is about one.
    pub order_id: Option<OrderId>,
    /// What receivers get as `data`; the order's id is added to it.
    pub data: Value,
}

/// Deliveries that exist as rows and still need their jobs.
#[must_use = "deliveries without jobs would never be sent: pass it to jobs::announce"]
#[derive(Debug, Clone, Default)]
pub struct Announced(pub Vec<PendingDelivery>);

impl Announced {
    /// Both.
    pub fn join(mut self, other: Announced) -> Announced {
        self.0.extend(other.0);
        self
    }
}

/// One delivery that needs its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingDelivery {
    /// The delivery.
    pub id: DeliveryId,
    /// Where it goes.
    pub endpoint: EndpointId,
    /// What it waits in line with: `hook:{endpoint}:{ordering_key}`; nothing where order does not matter.
    pub group: Option<String>,
}

impl PendingDelivery {
    /// The delivery of that id, in the line its endpoint and ordering key name.
    pub fn new(id: DeliveryId, endpoint: EndpointId, ordering_key: Option<&str>) -> PendingDelivery {
        PendingDelivery {
            id,
            endpoint,
            group: ordering_key.map(|key| format!("hook:{endpoint}:{key}")),
        }
    }
}

/// Whom an event is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Audience {
    partner: Option<PartnerId>,
    endpoint: Option<EndpointId>,
}

impl Audience {
    /// That partner's endpoints and ours; everyone's, without a partner.
    pub fn partner(partner: Option<PartnerId>) -> Audience {
        Audience {
            partner,
            endpoint: None,
        }
    }

    /// That endpoint alone, whatever it asked for.
    pub fn endpoint(endpoint: EndpointId) -> Audience {
        Audience {
            partner: None,
            endpoint: Some(endpoint),
        }
    }
}

/// Writes an event and one delivery for each endpoint that wants it.
pub async fn record(conn: &mut PgConnection, event: NewEvent<'_>) -> Result<Announced, sqlx::Error> {
    record_for(conn, event, Audience::default()).await
}

/// Writes an event and one delivery for each endpoint of its audience that wants it.
pub async fn record_for(
    conn: &mut PgConnection,
    event: NewEvent<'_>,
    audience: Audience,
) -> Result<Announced, sqlx::Error> {
    record_as(conn, EventId::new(), event, audience).await
}

/// The same, under an id of the caller's.
pub async fn record_as(
    conn: &mut PgConnection,
    id: EventId,
    event: NewEvent<'_>,
    audience: Audience,
) -> Result<Announced, sqlx::Error> {
    let NewEvent { kind, order_id, data } = event;
    let deliveries = sqlx::query!(
        r#"
        select delivery_id as "delivery_id!: DeliveryId", endpoint_id as "endpoint_id!: EndpointId", ordering_key
        from record_event($1, $2, $3, $4, $5, $6)
        "#,
        id.0,
        kind,
        order_id.map(|id| id.0) as Option<Uuid>,
        data,
        audience.partner.map(|id| id.0) as Option<Uuid>,
        audience.endpoint.map(|id| id.0) as Option<Uuid>,
    )
    .fetch_all(conn)
    .await?;
    Ok(Announced(
        deliveries
            .into_iter()
            .map(|row| PendingDelivery::new(row.delivery_id, row.endpoint_id, row.ordering_key.as_deref()))
            .collect(),
    ))
}
