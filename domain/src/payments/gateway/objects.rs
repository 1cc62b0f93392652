//! What the gateway keeps, as far as we use it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::ids::{PaymentId, PayoutId};
use crate::money::Cents;
use crate::payments::Payment;
use crate::sellers::Payout;

/// A payment intent, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Intent {
    /// The gateway's id.
    pub id: String,
    /// Where it stands.
    pub status: IntentStatus,
    /// The amount asked for.
    pub amount: i64,
    /// Lower-case letters.
    pub currency: String,
    /// What was taken.
    #[serde(default)]
    pub amount_received: i64,
    /// Ours: `payment_id`, `order_id`.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// The last refusal.
    #[serde(default)]
    pub last_payment_error: Option<IntentError>,
}

/// The last refusal on an intent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IntentError {
    /// As `card_declined`.
    #[serde(default)]
    pub code: Option<String>,
    /// The bank's word.
    #[serde(default)]
    pub decline_code: Option<String>,
}

/// Where an intent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentStatus {
    /// Unconfirmed, or refused.
    RequiresPaymentMethod,
    /// Has a payment method, unconfirmed.
    RequiresConfirmation,
    /// The customer would have to do something.
    RequiresAction,
    /// The gateway is not done yet.
    Processing,
    /// The money is held.
    RequiresCapture,
    /// Over: nothing is held, nothing more can happen.
    Canceled,
    /// The money is taken.
    Succeeded,
}

impl Intent {
    pub(super) fn of(body: &Value) -> Option<Self> {
        if body["object"] != "payment_intent" {
            return None;
        }
        Self::deserialize(body)
            .ok()
            .filter(|intent| intent.id.starts_with("pi_"))
    }

    /// True when it is the intent of this payment and no other: amount, currency, our own mark and, once known, the id.
    pub fn belongs_to(&self, payment: &Payment) -> bool {
        self.amount == payment.amount.0
            && self.currency.eq_ignore_ascii_case(&payment.currency)
            && self
                .metadata
                .get("payment_id")
                .is_none_or(|id| *id == payment.id.to_string())
            && payment.gateway_ref.as_ref().is_none_or(|id| *id == self.id)
    }

    /// The bank's word on the last refusal.
    pub fn decline_code(&self) -> String {
        let error = self.last_payment_error.as_ref();
        let code = error.and_then(|error| error.decline_code.as_ref().or(error.code.as_ref()));
        code.map_or_else(|| "declined".to_owned(), |code| code.chars().take(100).collect())
    }
}

/// A refund, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refund {
    /// The gateway's id.
    pub id: String,
    /// What goes back.
    pub amount: i64,
    /// As `succeeded`, `pending`, `failed`.
    pub status: String,
    /// The intent it belongs to.
    pub payment_intent: Option<String>,
    /// Ours: `refund_key`.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Refund {
    pub(super) fn of(body: &Value) -> Option<Self> {
        if body["object"] != "refund" {
            return None;
        }
        Self::deserialize(body)
            .ok()
            .filter(|refund: &Self| refund.id.starts_with("re_"))
    }

    /// True unless the gateway gave up on it.
    pub fn stands(&self) -> bool {
        !matches!(self.status.as_str(), "failed" | "canceled")
    }
}

/// A transfer to a seller's account, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Transfer {
    /// The gateway's id.
    pub id: String,
    /// What was paid.
    pub amount: i64,
    /// Lower-case letters.
    pub currency: String,
    /// The account that was paid.
    pub destination: String,
    /// Ours: `payout_id`.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Transfer {
    pub(super) fn of(body: &Value) -> Option<Self> {
        if body["object"] != "transfer" {
            return None;
        }
        Self::deserialize(body)
            .ok()
            .filter(|transfer: &Self| transfer.id.starts_with("tr_"))
    }

    /// True when it is the transfer of this payout and no other.
    pub fn belongs_to(&self, payout: &Payout) -> bool {
        self.amount == payout.amount.0
            && self.currency.eq_ignore_ascii_case(payout.currency.as_str())
            && self.destination == payout.destination
            && self.metadata.get("payout_id") == Some(&payout.id.to_string())
    }
}

/// A movement of money on the gateway's own books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The gateway's id of it.
    pub id: String,
    /// What came in; negative when it went out.
    pub amount: Cents,
    /// Lower-case letters.
    pub currency: String,
    /// When, by the gateway's clock.
    pub at: DateTime<Utc>,
    /// The intent it belongs to, if it belongs to one.
    pub intent: Option<String>,
    /// The payment that its mark names: ours, unless somebody else uses the same mark.
    pub mark: Option<PaymentId>,
    /// Of a transfer: the payout that its mark names.
    pub payout: Option<PayoutId>,
}

impl Movement {
    pub(super) fn of(body: &Value) -> Option<Self> {
        if body["object"] != "balance_transaction" {
            return None;
        }
        Some(Self {
            id: body["id"].as_str()?.to_owned(),
            amount: Cents(body["amount"].as_i64()?),
            currency: body["currency"].as_str()?.to_owned(),
            at: DateTime::from_timestamp(body["created"].as_i64()?, 0)?,
            intent: body["source"]["payment_intent"].as_str().map(str::to_owned),
            mark: mark(&body["source"]["metadata"]),
            payout: body["source"]["metadata"]["payout_id"]
                .as_str()
                .and_then(|id| id.parse().ok()),
        })
    }
}

/// The payment that an object's metadata names as ours.
pub fn mark(metadata: &Value) -> Option<PaymentId> {
    metadata["payment_id"].as_str()?.parse().ok().map(PaymentId)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn intent() -> Value {
        json!({ "object": "payment_intent", "id": "pi_1", "status": "succeeded", "amount": 5, "currency": "gbp" })
    }

    #[test]
    fn an_intent_of_another_payment_is_not_ours() {
        let payment = Payment {
            id: crate::ids::PaymentId::new(),
            order_id: crate::ids::OrderId::new(),
            gateway_ref: Some("pi_1".to_owned()),
            payment_method: "pm_card_visa".to_owned(),
            currency: "GBP".to_owned(),
            amount: Cents(5),
            state: crate::payments::State::Capturing,
            captured: Cents(0),
            refunded: Cents(0),
            decline_code: None,
            version: 1,
            authorized_at: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
        };
        let ours = Intent::of(&intent()).expect("it is an intent");
        assert!(ours.belongs_to(&payment));
        assert!(
            !Intent {
                amount: 6,
                ..ours.clone()
            }
            .belongs_to(&payment)
        );
        assert!(
            !Intent {
                currency: "eur".to_owned(),
                ..ours.clone()
            }
            .belongs_to(&payment)
        );
        assert!(
            !Intent {
                id: "pi_2".to_owned(),
                ..ours.clone()
            }
            .belongs_to(&payment)
        );
        let marked = [("payment_id".to_owned(), "another".to_owned())].into();
        assert!(
            !Intent {
                metadata: marked,
                ..ours
            }
            .belongs_to(&payment)
        );
    }
}
