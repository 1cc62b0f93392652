//! Balance transactions: each movement of money, once, signed. They follow from the ledger, as events do.

use serde_json::{Value, json};

/// One movement of money.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) kind: Kind,
    /// The charge, the refund or the transfer that moved it.
    pub(super) source: String,
    amount: i64,
    currency: String,
}

/// Which way it moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Charge,
    Refund,
    Transfer,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::Transfer => "transfer",
        }
    }
}

impl Transaction {
    /// A movement of `amount`, which is positive either way.
    pub(super) fn new(id: String, kind: Kind, source: &str, amount: i64, currency: &str, created: i64) -> Self {
        Self {
            id,
            created,
            kind,
            source: source.to_owned(),
            amount: if kind == Kind::Charge { amount } else { -amount },
            currency: currency.to_owned(),
        }
    }

    /// The transaction as the wire shows it, with the id of its source. This gateway takes no fee.
    pub(super) fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "balance_transaction",
            "amount": self.amount,
            "available_on": self.created,
            "balance_type": "payments",
            "created": self.created,
            "currency": self.currency,
            "description": null,
            "exchange_rate": null,
            "fee": 0,
            "fee_details": [],
            "net": self.amount,
            "reporting_category": self.kind.name(),
            "source": self.source,
            "status": "available",
            "type": self.kind.name(),
        })
    }
}
