//! Webhooks: signed events for whoever asked to be told, sent only to addresses that are not our own.
//!
//! Delivery is at least once: a crash between the answer and its record sends the same bytes again, under the same
//! `webhook-id`. [`egress`] is the guarded way out, [`sign`] the signature, [`breaker`] the patience with one endpoint. Secrets
//! lie sealed in the database ([`crate::keyring`]) and are opened for one try, or one request, at a time.

pub mod breaker;
pub mod egress;
pub mod sign;
pub mod store;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{DeliveryId, EndpointId, EventId, PartnerId};

pub use egress::{Posted, Sender};

/// Endpoint descriptions and the like are short.
pub const DESCRIPTION_MAX: usize = 500;
/// An endpoint names at most this many kinds of event.
pub const EVENT_TYPES_MAX: usize = 50;
/// How long a replaced secret goes on signing beside the new one, unless something else is asked for: a day.
pub const OVERLAP_HOURS: i32 = 24;
/// And at most: a week.
pub const OVERLAP_HOURS_MAX: i32 = 168;
/// Deliveries to one endpoint at once.
pub const CONCURRENCY_MAX: i32 = 1000;
/// How long a receiver may make us wait, by `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(10 * 60 * 60);
/// How long at least to wait for a receiver that is overwhelmed.
pub const RELIEF_MIN: Duration = Duration::from_secs(60);

/// The waits before each try of a delivery, the first at once.
pub const SCHEDULE: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
    Duration::from_secs(14 * 60 * 60),
    Duration::from_secs(20 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];

/// The wait after failed try number `tried`; `spread` from 0 to 1 makes it up to a fifth shorter or longer.
pub fn wait_after(tried: i32, spread: f64) -> Duration {
    let next = usize::try_from(tried).unwrap_or(0).min(SCHEDULE.len() - 1);
    SCHEDULE[next].mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0))
}

/// What is kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Ordering {
    /// Nothing.
    None,
    /// The events of one order.
    #[default]
    PerKey,
    /// All events of the endpoint.
    Strict,
}

impl Ordering {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Ordering::None => "none",
            Ordering::PerKey => "per_key",
            Ordering::Strict => "strict",
        }
    }
}

/// What becomes of a line of deliveries whose head is dead: of those of one order, or of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeadHead {
    /// The next has its turn; the receiver sees the gap by `prev_seq`.
    #[default]
    Skip,
    /// All wait until it is sent again or discarded.
    Block,
}

impl DeadHead {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadHead::Skip => "skip",
            DeadHead::Block => "block",
        }
    }
}

/// Whether an endpoint is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EndpointState {
    /// It is.
    Active,
    /// It is not; it goes on collecting for a week.
    Disabled,
    /// Nor is it sent anything but the challenge that shows whose address it is; it collects as a disabled one does.
    Unconfirmed,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for its first or next try.
    Pending,
    /// Being sent, or its sender died.
    InFlight,
    /// The receiver said yes.
    Delivered,
    /// Tried to the end of the schedule.
    Dead,
    /// Given up on purpose.
    Discarded,
}

impl DeliveryState {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::InFlight => "in_flight",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Dead => "dead",
            DeliveryState::Discarded => "discarded",
        }
    }
}

/// A partner's endpoint, without its secrets.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Where events are sent.
    pub url: String,
    /// For people.
    pub description: String,
    /// Which events: `*`, `order.*`, `order.confirmed`.
    pub event_types: Vec<String>,
    /// What is kept in order.
    pub ordering: Ordering,
    /// What becomes of a line whose head is dead.
    pub dead_head: DeadHead,
    /// Whose it is; ours, without.
    pub partner_id: Option<PartnerId>,
    /// The public halves of the keys that sign with ed25519, newest first.
    pub public_keys: Vec<String>,
    /// How many deliveries at once; the limit of all endpoints, without.
    pub concurrency: Option<i32>,
    /// How many deliveries a second; any number, without.
    pub rate: Option<f64>,
    /// Whether it is sent to.
    pub state: EndpointState,
    /// Why not.
    pub disabled_reason: Option<String>,
    /// Since when nothing succeeded.
    pub failing_since: Option<DateTime<Utc>>,
    /// The breaker: until when nothing is tried.
    pub open_until: Option<DateTime<Utc>>,
    /// Raised by every change.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When somebody last changed it.
    pub updated_at: DateTime<Utc>,
}

/// One event for one endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The event, and the `webhook-id` of every try.
    pub event_id: EventId,
    /// The type of the event.
    pub event_type: String,
    /// The event's number.
    pub seq: i64,
    /// The number of the one before it in its line; none for the first, and where nothing is kept in order.
    pub prev_seq: Option<i64>,
    /// What became of it.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// Why it was given up.
    pub reason: Option<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When the receiver said yes.
    pub delivered_at: Option<DateTime<Utc>>,
}

/// One try of a delivery. Of the answer only the status is kept: its body is the receiver's own business.
#[derive(Debug, Clone, Serialize)]
pub struct DeliveryAttempt {
    /// Which try, from 1.
    pub n: i32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; none if its sender died.
    pub finished_at: Option<DateTime<Utc>>,
    /// The receiver's HTTP status.
    pub http_status: Option<i32>,
    /// What went wrong, as one of a few words.
    pub error_class: Option<String>,
    /// What went wrong, in words.
    pub message: Option<String>,
}

/// Why an endpoint's settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The address.
    #[error("the address {0}")]
    Url(#[from] egress::BadUrl),
    /// An event type.
    #[error("an event type is `*`, `order.*` or `order.confirmed`; `{0}` is not")]
    EventType(String),
    /// How many event types.
    #[error("an endpoint names from 1 to {EVENT_TYPES_MAX} event types")]
    EventTypes,
    /// The secret.
    #[error("a secret is `whsec_` and 24 to 64 bytes in base64, or `whsk_` and an ed25519 key pair of 64 bytes")]
    Secret,
    /// Jobs at once, or a second.
    #[error("{0}")]
    Limits(&'static str),
    /// Nothing to block.
    #[error("block goes with the orders per_key and strict: without an order there is no line to block")]
    DeadHead,
    /// How long old secrets go on.
    #[error("old secrets go on for at most {OVERLAP_HOURS_MAX} hours")]
    Overlap,
    /// More than the partner may ask for.
    #[error("its partner may ask for {0:?} only")]
    BeyondPartner(Vec<String>),
    /// As many endpoints as the partner may have.
    #[error("its partner may have {0} endpoints, and has them")]
    TooMany(i32),
    /// There is no such partner, or it is paused.
    #[error("there is no active partner of that id")]
    Partner,
    /// The description.
    #[error("a description has at most {DESCRIPTION_MAX} characters")]
    Description,
}

/// Refuses event types that could never match.
pub fn check_event_types(event_types: &[String]) -> Result<(), Invalid> {
    if event_types.is_empty() || event_types.len() > EVENT_TYPES_MAX {
        return Err(Invalid::EventTypes);
    }
    let is_word = |word: &str| {
        (1..=40).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let is_type = |name: &str| match name.split_once('.') {
        None => name == "*",
        Some((area, what)) => is_word(area) && (what == "*" || is_word(what)),
    };
    match event_types.iter().find(|name| !is_type(name)) {
        Some(wrong) => Err(Invalid::EventType(wrong.chars().take(100).collect())),
        None => Ok(()),
    }
}

/// True when what the names ask for is within what the filter lets through.
pub fn covers(filter: &[String], names: &[String]) -> bool {
    names.iter().all(|name| {
        let area = name.split_once('.').map(|(area, _)| format!("{area}.*"));
        filter
            .iter()
            .any(|allowed| allowed == "*" || allowed == name || Some(allowed) == area.as_ref())
    })
}

/// Refuses to block a line that there is not.
pub fn check_dead_head(dead_head: DeadHead, ordering: Ordering) -> Result<(), Invalid> {
    match (dead_head, ordering) {
        (DeadHead::Block, Ordering::None) => Err(Invalid::DeadHead),
        _ => Ok(()),
    }
}

/// Refuses limits that would stop everything or mean nothing.
pub fn check_limits(concurrency: Option<i32>, rate: Option<f64>) -> Result<(), Invalid> {
    if concurrency.is_some_and(|jobs| !(1..=CONCURRENCY_MAX).contains(&jobs)) {
        return Err(Invalid::Limits("concurrency is from 1 to 1000 deliveries at once"));
    }
    if rate.is_some_and(|rate| !(0.0001..=100_000.0).contains(&rate)) {
        return Err(Invalid::Limits("rate is from 0.0001 to 100000 deliveries a second"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule_within_a_fifth() {
        assert_eq!(wait_after(1, 0.5), Duration::from_secs(5));
        assert_eq!(wait_after(1, 0.0), Duration::from_secs(4));
        assert_eq!(wait_after(1, 1.0), Duration::from_secs(6));
        assert_eq!(wait_after(9, 0.5), Duration::from_secs(24 * 60 * 60));
        assert_eq!(wait_after(99, 0.5), Duration::from_secs(24 * 60 * 60));
    }

    #[test]
    fn a_filter_covers_what_it_names_and_no_more() {
        let words = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let order = words(&["order.*", "payment.captured"]);
        assert!(covers(&words(&["*"]), &words(&["*", "order.*"])));
        assert!(covers(
            &order,
            &words(&["order.created", "order.*", "payment.captured"])
        ));
        assert!(!covers(&order, &words(&["*"])));
        assert!(!covers(&order, &words(&["order.created", "payment.*"])));
    }

    #[test]
    fn event_types_are_all_an_area_or_one() {
        let check = |name: &str| check_event_types(&[name.to_owned()]);
        for good in ["*", "order.*", "order.on_hold"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "order",
            "*.order",
            "order.",
            ".x",
            "Order.x",
            "order.x.y",
            "order.*x",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(check_event_types(&[]), Err(Invalid::EventTypes));
    }
}
