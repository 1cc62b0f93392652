//! What others tell us: events that come in by webhook, verified as the bytes that came, and taken in once each.
//!
//! A sender may repeat an event for days and send it out of order. Neither matters: an event's id is written down in the
//! transaction that enqueues what it causes, and what it causes is to ask again, never to believe the event.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use sqlx::PgConnection;

/// The payment gateway, as a source of events.
pub const GATEWAY: &str = "gateway";

/// How far the time in a signature may be from ours, either way.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// How long ids are kept: longer than any sender goes on repeating.
pub const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Signatures of one header that are looked at.
const SIGNATURES_MAX: usize = 16;

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header has not the form `t=…,v1=…`.
    #[error("the signature's header is missing or malformed")]
    Malformed,
    /// It was signed too long ago, or is from the future.
    #[error("the signature is older or newer than five minutes")]
    Stale,
    /// No signature is by any of the secrets.
    #[error("no signature fits")]
    Unsigned,
}

/// Checks Stripe's signature `t=…,v1=…[,v1=…]` of a body, against each secret that is in use, at `now` in seconds.
pub fn verify_stripe(header: &str, body: &[u8], secrets: &[SecretString], now: i64) -> Result<(), Refusal> {
    let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
    let at = parts().find(|(name, _)| *name == "t").map(|(_, at)| at);
    let at = at.ok_or(Refusal::Malformed)?;
    let signed_at: i64 = at.parse().map_err(|_| Refusal::Malformed)?;
    let signatures: Vec<Vec<u8>> = parts()
        .filter(|(name, _)| *name == "v1")
        .take(SIGNATURES_MAX)
        .filter_map(|(_, signature)| hex(signature))
        .collect();
    if signatures.is_empty() {
        return Err(Refusal::Malformed);
    }
    let is_signed = secrets.iter().any(|secret| {
        signatures.iter().any(|signature| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
                .expect("HMAC takes keys of any length");
            mac.update(at.as_bytes());
            mac.update(b".");
            mac.update(body);
            // Takes the same time whatever differs.
            mac.verify_slice(signature).is_ok()
        })
    });
    match is_signed {
        false => Err(Refusal::Unsigned),
        true if signed_at.abs_diff(now) > TOLERANCE.as_secs() => Err(Refusal::Stale),
        true => Ok(()),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// Writes an event down; false when it has been before, and then nothing is to follow.
pub async fn take_in(
    conn: &mut PgConnection,
    source: &str,
    event_id: &str,
    kind: &str,
    payload: &[u8],
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query!(
        "insert into inbound_events (source, event_id, type, payload)
         values ($1, $2, $3, $4)
         on conflict (source, event_id) do nothing",
        source,
        event_id,
        kind,
        payload,
    )
    .execute(conn)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// The bytes of an event that was taken in.
pub async fn payload(conn: &mut PgConnection, source: &str, event_id: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select payload from inbound_events where source = $1 and event_id = $2",
        source,
        event_id,
    )
    .fetch_optional(conn)
    .await
}

/// What an event causes has been done.
pub async fn processed(conn: &mut PgConnection, source: &str, event_id: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update inbound_events set processed_at = clock_timestamp()
         where source = $1 and event_id = $2 and processed_at is null",
        source,
        event_id,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets up to `limit` events that were processed and are older than [`KEEP`]; says how many.
pub async fn forget(conn: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query!(
        "delete from inbound_events
         where (source, event_id) in (
             select source, event_id from inbound_events
             where received_at < clock_timestamp() - make_interval(secs => $1) and processed_at is not null
             order by received_at
             limit $2
             for update skip locked
         )",
        KEEP.as_secs_f64(),
        limit,
    )
    .execute(conn)
    .await?;
    Ok(gone.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;
    const NOW: i64 = 1_700_000_000;

    fn secrets(secrets: &[&str]) -> Vec<SecretString> {
        secrets.iter().map(|secret| SecretString::from(*secret)).collect()
    }

    /// printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test
    fn header() -> String {
        "t=1700000000,v1=c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925".to_owned()
    }

    #[test]
    fn a_signature_by_any_secret_in_use_is_believed() {
        assert_eq!(verify_stripe(&header(), BODY, &secrets(&["whsec_test"]), NOW), Ok(()));
        assert_eq!(
            verify_stripe(&header(), BODY, &secrets(&["whsec_new", "whsec_test"]), NOW),
            Ok(())
        );
        let several = format!("{},v1=00ff,v0=zz", header());
        assert_eq!(
            verify_stripe(&several, BODY, &secrets(&["whsec_test"]), NOW + 300),
            Ok(())
        );
    }

    #[test]
    fn anything_else_is_not() {
        let secret = secrets(&["whsec_test"]);
        for (header, body, now, refusal) in [
            (header(), BODY, NOW + 301, Refusal::Stale),
            (header(), BODY, NOW - 301, Refusal::Stale),
            (header(), br#"{"id":"evt_2"}"#.as_slice(), NOW, Refusal::Unsigned),
            (
                header().replace("1700000000", "1700000001"),
                BODY,
                NOW,
                Refusal::Unsigned,
            ),
            ("t=1700000000,v1=00".to_owned(), BODY, NOW, Refusal::Unsigned),
            ("t=1700000000,v1=é0".to_owned(), BODY, NOW, Refusal::Malformed),
            ("t=1700000000".to_owned(), BODY, NOW, Refusal::Malformed),
            ("v1=00".to_owned(), BODY, NOW, Refusal::Malformed),
            (String::new(), BODY, NOW, Refusal::Malformed),
        ] {
            assert_eq!(verify_stripe(&header, body, &secret, now), Err(refusal), "{header}");
        }
        assert_eq!(verify_stripe(&header(), BODY, &[], NOW), Err(Refusal::Unsigned));
    }
}
