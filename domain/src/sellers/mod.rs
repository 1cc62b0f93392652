//! Sellers: whose goods are sold, what they are owed, and how they are paid.
//!
//! What they are owed is a ledger in double entry that the database keeps: a trigger books each capture and each refund of a
//! payment, and each payout, in the transaction that makes it. Nothing here writes an entry.

pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    ids::{PayoutId, SellerId},
    money::{Cents, Currency},
};

/// The most of a sale that can be ours, in hundredths of a per cent: all of it.
pub const COMMISSION_BP_MAX: i32 = 10_000;

/// A seller as stored.
#[derive(Debug, Clone, Serialize)]
pub struct Seller {
    /// Its id.
    pub id: SellerId,
    /// Its name; no other has it.
    pub name: String,
    /// Its account at the gateway.
    pub destination: String,
    /// What it is paid in.
    pub currency: Currency,
    /// Ours of each sale, in hundredths of a per cent.
    pub commission_bp: i32,
    /// Less is not paid out.
    pub payout_min: Cents,
    /// True while nothing is paid out.
    pub payouts_paused: bool,
    /// What it is owed; below zero when a refund came after the payout.
    pub balance: Cents,
    /// Raised by every change of its settings.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its settings last changed.
    pub updated_at: DateTime<Utc>,
}

/// Where a payout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum PayoutState {
    /// Written down; once it was sent, only the gateway knows until it has answered.
    Pending,
    /// The gateway has made the transfer.
    Paid,
    /// It will never be made; the seller is owed the amount again.
    Failed,
}

/// A payout as stored: one transfer at the gateway, sent under one key as often as needed.
#[derive(Debug, Clone, Serialize)]
pub struct Payout {
    /// Its id.
    pub id: PayoutId,
    /// Who is paid.
    pub seller_id: SellerId,
    /// Which payout of the seller, from 1.
    pub seq: i32,
    /// The idempotency key: `payout:{seller}:{seq}`.
    pub idem_key: String,
    /// How much.
    pub amount: Cents,
    /// Of what.
    pub currency: Currency,
    /// The account that is paid.
    pub destination: String,
    /// Where it stands.
    pub state: PayoutState,
    /// How often it was sent, or was about to be.
    pub sends: i32,
    /// The gateway's id of the transfer.
    pub gateway_ref: Option<String>,
    /// The gateway's error code.
    pub error_code: Option<String>,
    /// The gateway's error message.
    pub message: Option<String>,
    /// When it was written down.
    pub created_at: DateTime<Utc>,
    /// When its fate became known.
    pub settled_at: Option<DateTime<Utc>>,
}

/// One line of a seller's account.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its number; later ones have higher ones.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `sales` (below zero), `commission`, `seller` or `payouts`; those of one cause sum to zero.
    pub account: String,
    /// What it books: `payment:{id}:{captured}:{refunded}` or `payout:{id}`, with `:failed` when it takes one back.
    pub cause: String,
    /// How much, in minor units.
    pub amount: Cents,
}

/// A seller to be.
#[derive(Debug, Clone)]
pub struct NewSeller {
    /// Its name.
    pub name: String,
    /// Its account at the gateway: `acct_…`.
    pub destination: String,
    /// What it is paid in.
    pub currency: Currency,
    /// Ours of each sale, in hundredths of a per cent.
    pub commission_bp: i32,
    /// Less is not paid out; 100 without.
    pub payout_min: Option<Cents>,
}

/// What changes in a seller: nothing that is not named. Sales that were made keep their commission.
#[derive(Debug, Clone, Default)]
pub struct SellerChange {
    /// Its account at the gateway, from the next payout on.
    pub destination: Option<String>,
    /// Ours of sales to come.
    pub commission_bp: Option<i32>,
    /// Less is not paid out.
    pub payout_min: Option<Cents>,
    /// Whether payouts wait.
    pub payouts_paused: Option<bool>,
    /// Only if it is still at this version.
    pub version: Option<i32>,
}

/// True for what can be an account at the gateway.
pub fn is_destination(text: &str) -> bool {
    let name = text.strip_prefix("acct_").unwrap_or_default();
    (1..=200).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl PayoutState {
    /// The word for it in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            PayoutState::Pending => "pending",
            PayoutState::Paid => "paid",
            PayoutState::Failed => "failed",
        }
    }
}

impl std::fmt::Display for PayoutState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
