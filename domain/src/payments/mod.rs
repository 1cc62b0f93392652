//! Payments: what a payment and an attempt at the gateway are, and the rules that need no database.
//!
//! A payment moves money only by *attempts*: rows written before the gateway is called, each with its own idempotency
//! key. An attempt without an answer is *in doubt*, and while one is, nothing is compensated: the gateway is asked
//! first (see `reconcile_payment`).

pub mod audit;
mod gateway;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    ids::{AttemptId, OrderId, PaymentId},
    money::Cents,
};

pub use gateway::{
    Answer, Class, Gateway, Intent, IntentStatus, Movement, Refund, Reply, Transfer, Unusable, classify, mark,
};

/// The error code of an attempt whose key the gateway answers with a stored failure: it replays that for ever.
pub const STORED_FAILURE: &str = "stored_failure";

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum State {
    /// The authorization is asked for, or about to be.
    Authorizing,
    /// The money is held, not taken.
    Authorized,
    /// The card said no.
    Declined,
    /// It cannot go on; nothing is held or taken.
    Failed,
    /// The capture is asked for.
    Capturing,
    /// The money is taken.
    Captured,
    /// The release of the hold is asked for.
    Voiding,
    /// The hold is released.
    Voided,
    /// A refund is asked for.
    Refunding,
    /// All that was taken went back.
    Refunded,
    /// Sent, and no answer says what became of it: the gateway is being asked.
    Unknown,
}

/// What is asked of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Op {
    /// Make the intent, unconfirmed: no money moves.
    Create,
    /// Authorize: hold the money.
    Confirm,
    /// Take the money.
    Capture,
    /// Cancel the intent: release the hold, and refuse whatever arrives later.
    Void,
    /// Give money back.
    Refund,
}

/// What is known of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AttemptState {
    /// Written down; if it was sent, no answer is recorded yet.
    Pending,
    /// Done at the gateway.
    Succeeded,
    /// Refused by the card's bank.
    Declined,
    /// Definitely without effect.
    Failed,
    /// Sent as often as is useful without a usable answer: only the gateway knows.
    Unknown,
}

/// A payment as stored.
#[derive(Debug, Clone, Serialize)]
pub struct Payment {
    /// Its id.
    pub id: PaymentId,
    /// The order it pays.
    pub order_id: OrderId,
    /// The gateway's id of the intent.
    pub gateway_ref: Option<String>,
    /// The gateway's token of the payment method.
    pub payment_method: String,
    /// The currency, as in `GBP`.
    pub currency: String,
    /// What is to be taken.
    pub amount: Cents,
    /// Where it stands.
    pub state: State,
    /// What was taken.
    pub captured: Cents,
    /// What went back.
    pub refunded: Cents,
    /// The bank's word, when it said no.
    pub decline_code: Option<String>,
    /// Raised by every change.
    pub version: i32,
    /// When the money was held.
    pub authorized_at: Option<DateTime<Utc>>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// One line of a payment's timeline: what a change left.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentEvent {
    /// Its number; later ones have higher ones.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `payment`, or `attempt`: an operation at the gateway.
    pub what: String,
    /// The state of the payment or of the attempt.
    pub state: String,
    /// Of an attempt: what was asked.
    pub op: Option<Op>,
    /// Of an attempt: which try.
    pub seq: Option<i32>,
    /// The amount of the payment or of the attempt.
    pub amount: Cents,
    /// Of a payment: what was taken.
    pub captured: Option<Cents>,
    /// Of a payment: what went back.
    pub refunded: Option<Cents>,
    /// Of an attempt: how often it was sent.
    pub sends: Option<i32>,
    /// Of an attempt: the last HTTP status.
    pub http_status: Option<i32>,
    /// Of an attempt: the gateway's id of the last request.
    pub request_id: Option<String>,
    /// The gateway's error code, or the bank's word.
    pub error_code: Option<String>,
}

/// One operation at the gateway as stored, sent under one key as often as needed.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentAttempt {
    /// Its id.
    pub id: AttemptId,
    /// The payment it belongs to.
    pub payment_id: PaymentId,
    /// What was asked.
    pub op: Op,
    /// Grows only after a definitive failure that a new try may cure.
    pub seq: i32,
    /// The idempotency key: `{op}:{payment}:{seq}`.
    pub idem_key: String,
    /// The amount asked for.
    pub amount: Cents,
    /// What is known of it.
    pub state: AttemptState,
    /// How often it was sent, or was about to be.
    pub sends: i32,
    /// The last HTTP status.
    pub http_status: Option<i32>,
    /// The gateway's id of the last request.
    pub request_id: Option<String>,
    /// The gateway's error code.
    pub error_code: Option<String>,
    /// The gateway's error message.
    pub message: Option<String>,
    /// When it was first written down.
    pub created_at: DateTime<Utc>,
    /// When its fate became known.
    pub answered_at: Option<DateTime<Utc>>,
}

impl PaymentAttempt {
    /// True while the gateway may have done it, or may still do it, without us knowing.
    pub fn is_in_doubt(&self) -> bool {
        match self.state {
            AttemptState::Pending => self.sends > 0,
            AttemptState::Unknown => true,
            AttemptState::Succeeded | AttemptState::Declined | AttemptState::Failed => false,
        }
    }
}

impl State {
    /// True while something is asked of the gateway whose end is not recorded yet.
    pub fn is_unsettled(self) -> bool {
        use State::*;
        matches!(self, Authorizing | Capturing | Voiding | Refunding | Unknown)
    }

    /// True when the customer's money is neither held nor taken, and will not be.
    pub fn is_over(self) -> bool {
        use State::*;
        matches!(self, Declined | Failed | Voided | Refunded)
    }
}

impl Payment {
    /// What may still be given back.
    pub fn refundable(&self) -> Cents {
        Cents(self.captured.0 - self.refunded.0)
    }
}

/// The idempotency key of an operation.
pub fn idem_key(op: Op, payment: PaymentId, seq: i32) -> String {
    format!("{}:{payment}:{seq}", op.as_str())
}

/// A word in the database that this build does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown {what} {word:?}")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
}

/// Each stored enum: its words, both ways.
macro_rules! words {
    ($type:ident, $what:literal, { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word for it in the database and in answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $type {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.to_owned() }),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(State, "payment state", {
    Authorizing => "authorizing", Authorized => "authorized", Declined => "declined", Failed => "failed",
    Capturing => "capturing", Captured => "captured", Voiding => "voiding", Voided => "voided",
    Refunding => "refunding", Refunded => "refunded", Unknown => "unknown",
});
words!(Op, "payment operation", {
    Create => "create", Confirm => "confirm", Capture => "capture", Void => "void", Refund => "refund",
});
words!(AttemptState, "attempt state", {
    Pending => "pending", Succeeded => "succeeded", Declined => "declined", Failed => "failed", Unknown => "unknown",
});
