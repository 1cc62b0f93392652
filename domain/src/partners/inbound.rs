//! What partners send us. The request verifies the raw bytes and keeps them; a job reads them again and does what they ask
//! for, once for each event id.
//!
//! Event ids are kept for thirty days, longer than any sender repeats itself, so that a repeat is known as one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{
    ids::{OrderId, PartnerId},
    keyring::{self, Keyring, Owner},
    webhooks::sign::{self, Claims},
};

/// The largest webhook that is read.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
const ID_LENGTH_MAX: usize = 255;
const TYPE_LENGTH_MAX: usize = 100;

/// A request in a partner's name.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The partner's id or name, as the address has it.
    pub partner: &'a str,
    /// Its three headers.
    pub claims: Claims<'a>,
    /// Its body, byte by byte.
    pub raw: &'a [u8],
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is new, and kept; it needs its job.
    Kept(PartnerId),
    /// It is known already.
    Duplicate,
    /// It is signed, and yet no event: what is wrong with it.
    Malformed(&'static str),
    /// There is no such partner, or it is paused, or the signature is not the partner's, or not of now. Which of them does
    /// not show.
    Rejected,
}

/// Why a request comes to nothing, through no fault of its sender.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The partner's secrets do not open.
    #[error(transparent)]
    Sealed(#[from] keyring::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
}

/// Verifies a request and keeps what is new. The tolerance of five minutes is by the database's clock.
///
/// A secret that does not open is an error, and not a rejection: the sender is to come again.
pub async fn receive(conn: &mut PgConnection, keyring: &Keyring, arrival: Arrival<'_>) -> Result<Received, Error> {
    let partner = sqlx::query!(
        r#"select id as "id: PartnerId", state = 'active' as "is_active!",
                  case when old_secrets_until <= clock_timestamp() then inbound_secrets[1:1] else inbound_secrets end as "secrets!",
                  extract(epoch from clock_timestamp())::bigint as "now!"
           from partners
           where name = $1 or id::text = $1"#,
        arrival.partner,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(partner) = partner else {
        return Ok(Received::Rejected);
    };
    let owner = Owner::Partner(partner.id);
    let secrets: Vec<String> = partner
        .secrets
        .iter()
        .map(|stored| keyring.open(owner, stored))
        .collect::<Result<_, _>>()?;
    let sent = sign::verify(&secrets, arrival.claims, arrival.raw, partner.now);
    let Some(sent) = sent.filter(|_| partner.is_active) else {
        sqlx::query!(
            "insert into inbound_rejections as r (partner_id, rejected) values ($1, 1)
             on conflict (partner_id) do update set rejected = r.rejected + 1, last_at = clock_timestamp()",
            partner.id.0,
        )
        .execute(conn)
        .await?;
        return Ok(Received::Rejected);
    };
    if arrival.raw.len() > BODY_BYTES_MAX {
        return Ok(Received::Malformed("the body has more than 262144 bytes"));
    }
    if !(1..=ID_LENGTH_MAX).contains(&arrival.claims.id.len()) {
        return Ok(Received::Malformed("webhook-id has 1 to 255 characters"));
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(arrival.raw) else {
        return Ok(Received::Malformed("the body is a JSON object with a type"));
    };
    if !(1..=TYPE_LENGTH_MAX).contains(&envelope.kind.len()) || envelope.kind.contains('\0') {
        return Ok(Received::Malformed("a type has 1 to 100 characters"));
    }
    let is_new = sqlx::query_scalar!(
        r#"insert into inbound_webhooks as w (partner_id, event_id, type, raw, sent_at)
           values ($1, $2, $3, $4, to_timestamp($5::bigint))
           on conflict (partner_id, event_id) do update set duplicates = w.duplicates + 1
           returning duplicates = 0 as "is_new!""#,
        partner.id.0,
        arrival.claims.id,
        envelope.kind,
        arrival.raw,
        sent,
    )
    .fetch_one(conn)
    .await?;
    Ok(if is_new {
        Received::Kept(partner.id)
    } else {
        Received::Duplicate
    })
}

/// A webhook as operators see it, without what it said.
#[derive(Debug, Clone, Serialize)]
pub struct Webhook {
    /// Its id at the partner's.
    pub event_id: String,
    /// Its type.
    pub kind: String,
    /// What became of it.
    pub state: String,
    /// Why it was refused or ignored.
    pub reason: Option<String>,
    /// How often it came again.
    pub duplicates: i32,
    /// When it was signed.
    pub sent_at: DateTime<Utc>,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// When it was settled.
    pub processed_at: Option<DateTime<Utc>>,
}

/// A page of what a partner sent, newest first, before the position given.
pub async fn list(
    conn: &mut PgConnection,
    partner: PartnerId,
    before: Option<(DateTime<Utc>, String)>,
    limit: i64,
) -> Result<Vec<Webhook>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as!(
        Webhook,
        "select event_id, type as kind, state, reason, duplicates, sent_at, received_at, processed_at
         from inbound_webhooks
         where partner_id = $1 and ($2::timestamptz is null or (received_at, event_id) < ($2, $3))
         order by received_at desc, event_id desc
         limit $4",
        partner.0,
        before_at,
        before_id,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// What a partner asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Nothing: it tries the way.
    Ping,
    /// That an order of its own be cancelled.
    CancelOrder(OrderId, String),
    /// Something that we do not know: kept, and nothing done.
    Unknown,
    /// Something that we know, said wrongly.
    Malformed,
}

#[derive(Deserialize)]
struct CancelOrder {
    order_id: OrderId,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

/// Reads what arrived: pure.
pub fn read(kind: &str, raw: &[u8]) -> Asked {
    match kind {
        "ping" => Asked::Ping,
        "order.cancel_requested" => match serde_json::from_slice::<Data<CancelOrder>>(raw) {
            Ok(Data { data }) => Asked::CancelOrder(data.order_id, data.reason.chars().take(500).collect()),
            Err(_) => Asked::Malformed,
        },
        _ => Asked::Unknown,
    }
}

/// One webhook that is still to be processed.
#[derive(Debug)]
pub struct Unprocessed {
    /// The partner's name, which is also whom its keys stand for.
    pub partner: String,
    /// Its type.
    pub kind: String,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// Locks a webhook that is still to be processed; nothing if it was, or is not kept any more.
pub async fn lock(
    conn: &mut PgConnection,
    partner: PartnerId,
    event_id: &str,
) -> Result<Option<Unprocessed>, sqlx::Error> {
    sqlx::query_as!(
        Unprocessed,
        "select p.name as partner, w.type as kind, w.raw
         from inbound_webhooks w
         join partners p on p.id = w.partner_id
         where w.partner_id = $1 and w.event_id = $2 and w.state in ('received', 'dead')
         for update of w",
        partner.0,
        event_id,
    )
    .fetch_optional(conn)
    .await
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Done as asked.
    Processed,
    /// Not done: a rule is against it.
    Refused,
    /// There was nothing to do.
    Ignored,
    /// Given up.
    Dead,
}

impl End {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Processed => "processed",
            End::Refused => "refused",
            End::Ignored => "ignored",
            End::Dead => "dead",
        }
    }
}

/// Records what became of a webhook.
pub async fn finish(
    conn: &mut PgConnection,
    partner: PartnerId,
    event_id: &str,
    end: End,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update inbound_webhooks set state = $3, reason = $4, processed_at = clock_timestamp()
         where partner_id = $1 and event_id = $2",
        partner.0,
        event_id,
        end.as_str(),
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes webhooks that came that many days ago, and are settled; returns how many.
pub async fn prune(conn: &mut PgConnection, keep_days: i32, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        "delete from inbound_webhooks
         where (partner_id, event_id) in (
             select partner_id, event_id from inbound_webhooks
             where received_at < clock_timestamp() - make_interval(days => $1) and state <> 'received'
             order by received_at
             limit $2
             for update skip locked)",
        keep_days,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_from_the_bytes() {
        let order = OrderId::new();
        let body = format!(
            r#"{{"type":"order.cancel_requested","data":{{"order_id":"{order}","reason":"changed my mind"}}}}"#
        );
        assert_eq!(
            read("order.cancel_requested", body.as_bytes()),
            Asked::CancelOrder(order, "changed my mind".to_owned())
        );
        assert_eq!(read("order.cancel_requested", b"{}"), Asked::Malformed);
        assert_eq!(read("ping", b"{}"), Asked::Ping);
        assert_eq!(read("invoice.paid", b"{}"), Asked::Unknown);
    }
}
