//! What became of a request, and what that means.

use std::time::Duration;

use serde_json::Value;

use super::{Intent, Refund, Transfer};
use crate::payments::{Op, STORED_FAILURE};

/// What became of one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A whole answer came back.
    Answered(Answer),
    /// Certainly never sent: nobody listens, no such name, TLS refused.
    NotSent(String),
    /// Sent, or perhaps sent, and no whole answer came back.
    Lost(String),
}

/// A whole answer of the gateway.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null when it is not JSON.
    pub body: Value,
    /// The gateway's id of the request.
    pub request_id: Option<String>,
    /// How long to wait, as told.
    pub retry_after: Option<Duration>,
    /// `Stripe-Should-Retry`.
    pub should_retry: Option<bool>,
    /// True for a stored answer: repeating the key can bring no other.
    pub replayed: bool,
}

/// What an answer to an operation means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// Executed, and the answer is an object as expected.
    Ok,
    /// Certainly without effect: the same key again, later.
    Transient,
    /// Perhaps executed: the same key again, or a question; never a compensation.
    Unknown,
    /// The same key is being worked on at this moment: the same key again, soon.
    KeyInUse,
    /// Refused for now, unexecuted: not before this long.
    Throttled(Option<Duration>),
    /// The bank's definitive no.
    Declined(String),
    /// The intent is in another state than we thought: look at it.
    Look,
    /// The authorization is too old to capture.
    Expired,
    /// The key was used with other parameters: our own fault, touch nothing.
    KeyMisused,
    /// It cannot succeed as asked.
    Refused,
    /// The gateway does not accept us.
    Config,
}

/// The whole table of what answers mean (jobs-and-invariants 3.3.3), in one place.
pub fn classify(op: Op, reply: &Reply) -> Class {
    let answer = match reply {
        Reply::NotSent(_) => return Class::Transient,
        Reply::Lost(_) => return Class::Unknown,
        Reply::Answered(answer) => answer,
    };
    match answer.status {
        200..=299 if answer.is_object_of(op) => Class::Ok,
        // A success that cannot be read is not a success: the truth has to be asked for.
        200..=299 => Class::Unknown,
        401 | 403 => Class::Config,
        429 => Class::Throttled(answer.retry_after),
        409 => Class::KeyInUse,
        _ if answer.should_retry == Some(true) => Class::Unknown,
        402 => Class::Declined(answer.decline_code()),
        // Not the gateway's own error format: something in between answered, and knows nothing.
        400..=499 if !answer.body["error"].is_object() => Class::Unknown,
        408 | 424 => Class::Unknown,
        400..=499 => classify_error(op, answer),
        _ => Class::Unknown,
    }
}

/// The gateway's own definitive errors, by type and code.
fn classify_error(op: Op, answer: &Answer) -> Class {
    if answer.error("type") == Some("idempotency_error") {
        return Class::KeyMisused;
    }
    match (op, answer.error("code").unwrap_or_default()) {
        (_, "idempotency_key_in_use") => Class::KeyInUse,
        (_, "lock_timeout" | "rate_limit") => Class::Throttled(answer.retry_after),
        (_, "payment_intent_unexpected_state" | "charge_already_captured" | "charge_already_refunded") => Class::Look,
        (Op::Capture, "charge_expired_for_capture" | "capture_charge_authorization_expired") => Class::Expired,
        (_, "card_declined") => Class::Declined(answer.decline_code()),
        _ => Class::Refused,
    }
}

impl Answer {
    /// A field of the error object.
    pub fn error(&self, field: &str) -> Option<&str> {
        self.body["error"][field].as_str()
    }

    fn decline_code(&self) -> String {
        let code = self
            .error("decline_code")
            .or_else(|| self.error("code"))
            .unwrap_or("declined");
        code.chars().take(100).collect()
    }

    fn is_object_of(&self, op: Op) -> bool {
        match op {
            Op::Refund => Refund::of(&self.body).is_some(),
            Op::Create | Op::Confirm | Op::Capture | Op::Void => Intent::of(&self.body).is_some(),
        }
    }
}

impl Reply {
    /// The HTTP status, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Reply::Answered(answer) => Some(answer),
            Reply::NotSent(_) | Reply::Lost(_) => None,
        }
    }

    /// The intent in the answer, if it is one.
    pub fn intent(&self) -> Option<Intent> {
        Intent::of(&self.answer()?.body)
    }

    /// The refund in the answer, if it is one.
    pub fn refund(&self) -> Option<Refund> {
        Refund::of(&self.answer()?.body)
    }

    /// The error's code, or a word for what happened instead.
    pub fn code(&self) -> String {
        match self {
            Reply::NotSent(_) => "not_sent".to_owned(),
            Reply::Lost(_) => "no_answer".to_owned(),
            Reply::Answered(answer) if answer.replayed && answer.status >= 500 => STORED_FAILURE.to_owned(),
            Reply::Answered(answer) => match answer.error("code").or_else(|| answer.error("type")) {
                Some(code) => code.chars().take(100).collect(),
                None => format!("http_{}", answer.status),
            },
        }
    }

    /// The transfer in the answer, if it is one.
    pub fn transfer(&self) -> Option<Transfer> {
        Transfer::of(&self.answer()?.body)
    }

    /// What to say about it to a person.
    pub fn message(&self) -> String {
        match self {
            Reply::NotSent(message) | Reply::Lost(message) => message.clone(),
            Reply::Answered(answer) => answer
                .error("message")
                .unwrap_or("no error message")
                .chars()
                .take(500)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(status: u16, body: Value) -> Reply {
        Reply::Answered(Answer {
            status,
            body,
            ..Answer::default()
        })
    }

    fn error(status: u16, kind: &str, code: &str) -> Reply {
        answered(
            status,
            json!({ "error": { "type": kind, "code": code, "message": "m" } }),
        )
    }

    fn intent() -> Value {
        json!({ "object": "payment_intent", "id": "pi_1", "status": "succeeded", "amount": 5, "currency": "gbp" })
    }

    #[test]
    fn every_row_of_the_table_has_its_class() {
        use Class::*;
        let with = |reply: Reply, change: fn(&mut Answer)| match reply {
            Reply::Answered(mut answer) => {
                change(&mut answer);
                Reply::Answered(answer)
            }
            other => other,
        };
        let declined = || {
            let error = json!({ "type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds" });
            answered(402, json!({ "error": error }))
        };
        let refund =
            json!({ "object": "refund", "id": "re_1", "amount": 5, "status": "succeeded", "payment_intent": "pi_1" });
        let invalid = "invalid_request_error";
        let table = [
            // 2xx
            (Op::Capture, answered(200, intent()), Ok),
            (Op::Refund, answered(200, refund.clone()), Ok),
            (Op::Capture, answered(200, Value::Null), Unknown),
            (
                Op::Capture,
                answered(200, json!({ "object": "payment_intent" })),
                Unknown,
            ),
            (Op::Capture, answered(200, refund), Unknown),
            (Op::Refund, answered(200, intent()), Unknown),
            // Before sending
            (Op::Create, Reply::NotSent("refused".to_owned()), Transient),
            // In doubt
            (Op::Capture, Reply::Lost("reset".to_owned()), Unknown),
            (Op::Capture, error(500, "api_error", ""), Unknown),
            (Op::Capture, answered(502, Value::Null), Unknown),
            (Op::Capture, answered(503, Value::Null), Unknown),
            (Op::Capture, answered(504, Value::Null), Unknown),
            (Op::Capture, answered(599, Value::Null), Unknown),
            (Op::Capture, answered(302, Value::Null), Unknown),
            (Op::Capture, error(424, "api_error", ""), Unknown),
            (
                Op::Capture,
                with(error(400, invalid, "x"), |answer| answer.should_retry = Some(true)),
                Unknown,
            ),
            (
                Op::Capture,
                with(error(500, "api_error", ""), |answer| answer.should_retry = Some(false)),
                Unknown,
            ),
            (Op::Capture, answered(400, json!("a proxy's page")), Unknown),
            (Op::Capture, answered(404, Value::Null), Unknown),
            // A twin is being worked on
            (Op::Capture, error(409, invalid, "idempotency_key_in_use"), KeyInUse),
            (Op::Capture, error(400, invalid, "idempotency_key_in_use"), KeyInUse),
            // Throttled
            (Op::Capture, error(429, invalid, "rate_limit"), Throttled(None)),
            (Op::Capture, error(429, invalid, "lock_timeout"), Throttled(None)),
            (
                Op::Capture,
                with(error(429, invalid, "rate_limit"), |answer| {
                    answer.retry_after = Some(Duration::from_secs(7))
                }),
                Throttled(Some(Duration::from_secs(7))),
            ),
            // The bank
            (Op::Confirm, declined(), Declined("insufficient_funds".to_owned())),
            (Op::Capture, declined(), Declined("insufficient_funds".to_owned())),
            (
                Op::Confirm,
                error(402, "card_error", "expired_card"),
                Declined("expired_card".to_owned()),
            ),
            // Look
            (
                Op::Capture,
                error(400, invalid, "payment_intent_unexpected_state"),
                Look,
            ),
            (Op::Capture, error(400, invalid, "charge_already_captured"), Look),
            (Op::Refund, error(400, invalid, "charge_already_refunded"), Look),
            // Too old
            (Op::Capture, error(400, invalid, "charge_expired_for_capture"), Expired),
            (
                Op::Capture,
                error(400, invalid, "capture_charge_authorization_expired"),
                Expired,
            ),
            (Op::Confirm, error(400, invalid, "charge_expired_for_capture"), Refused),
            // Ours
            (Op::Capture, error(400, "idempotency_error", ""), KeyMisused),
            (Op::Capture, error(400, invalid, "parameter_invalid_integer"), Refused),
            (Op::Capture, error(404, invalid, "resource_missing"), Refused),
            (Op::Capture, error(401, invalid, ""), Config),
            (Op::Capture, error(403, invalid, ""), Config),
        ];
        for (op, reply, class) in table {
            assert_eq!(classify(op, &reply), class, "{op}: {reply:?}");
        }
    }
}
