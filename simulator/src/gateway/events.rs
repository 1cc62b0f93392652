//! Events: what each executed operation tells the world. An event is not stored: it follows from its line of the ledger,
//! so that it can't be missing, nor tell of something that did not happen.

use serde_json::{Value, json};

use super::intents::{Intent, Refund, Status};
use crate::journal::Place;

/// Every kind of event there is.
pub(super) const KINDS: [&str; 11] = [
    "charge.captured",
    "charge.expired",
    "charge.failed",
    "charge.refunded",
    "charge.succeeded",
    "payment_intent.amount_capturable_updated",
    "payment_intent.canceled",
    "payment_intent.created",
    "payment_intent.payment_failed",
    "payment_intent.succeeded",
    "refund.created",
];

/// One event, and where the line stands that it follows from.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) created: i64,
    pub(super) place: Place,
    /// What the intent is for.
    pub(super) amount: i64,
    /// Endpoints that have not taken it yet.
    pub(super) pending: u32,
}

/// The kinds of event that an operation causes, in the order in which they happen.
pub(super) fn kinds_of(op: &str, outcome: &str, intent_status: Status) -> &'static [&'static str] {
    match (op, outcome, intent_status) {
        ("create", "ok", _) => &["payment_intent.created"],
        ("confirm", "ok", Status::RequiresCapture) => &["charge.succeeded", "payment_intent.amount_capturable_updated"],
        ("confirm", "ok", _) => &["charge.succeeded", "payment_intent.succeeded"],
        ("confirm", "declined", _) => &["charge.failed", "payment_intent.payment_failed"],
        ("capture", "ok", _) => &["charge.captured", "payment_intent.succeeded"],
        ("cancel", "ok", _) => &["payment_intent.canceled"],
        ("expire", "ok", _) => &["charge.expired", "payment_intent.canceled"],
        ("refund", "ok", _) => &["refund.created", "charge.refunded"],
        _ => &[],
    }
}

/// What an event shows, as the operation left it.
pub(super) struct Subject<'a> {
    pub(super) intent: &'a Intent,
    pub(super) refund: Option<&'a Refund>,
    pub(super) request_id: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

/// The event as the wire shows it.
pub(super) fn render(event: &Event, subject: &Subject<'_>) -> Value {
    let object = match event.kind.split('.').next() {
        Some("charge") => subject
            .intent
            .latest_charge()
            .map(|charge| subject.intent.render_charge(charge)),
        Some("refund") => subject.refund.map(Refund::render),
        _ => Some(subject.intent.render()),
    };
    json!({
        "id": event.id,
        "object": "event",
        "api_version": null,
        "created": event.created,
        "data": { "object": object },
        "livemode": false,
        "pending_webhooks": event.pending,
        "request": { "id": subject.request_id, "idempotency_key": subject.key },
        "type": event.kind,
    })
}
