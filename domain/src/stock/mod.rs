//! Stock: what lies where, and what of it is kept for orders.
//!
//! A level changes only together with a movement that says by how much, and a movement happens once: its `cause_key` is
//! unique, so stock cannot be taken or come back twice, whatever the code does. `reserve:{reservation}`,
//! `release:{reservation}` and `ship:{reservation}` are the keys of what orders do; the others carry the reference of
//! whoever asked.

pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::ids::{ProductId, WarehouseId};

/// What lies in one warehouse of one product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Level {
    /// What.
    pub product_id: ProductId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Where, by the warehouse's code.
    pub warehouse: String,
    /// How many lie there.
    pub on_hand: i64,
    /// How many of them are kept for orders.
    pub reserved: i64,
    /// Counts the changes.
    pub version: i32,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Level {
    /// How many can still be sold.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// One change of a level.
#[derive(Debug, Clone, Serialize)]
pub struct Movement {
    /// Its number.
    pub id: i64,
    /// What.
    pub product_id: ProductId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// received, reserved, released, shipped, returned or adjusted.
    pub kind: String,
    /// How many.
    pub qty: i64,
    /// By how much `on_hand` moved.
    pub d_on_hand: i64,
    /// By how much `reserved` moved.
    pub d_reserved: i64,
    /// What caused it, once.
    pub cause_key: String,
    /// Why, in words.
    pub reason: Option<String>,
    /// Who.
    pub actor: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// Why stock is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// The order was cancelled or refused.
    Released,
    /// Nobody confirmed it in time.
    Expired,
}

impl GivenBack {
    /// The reservation's state afterwards.
    pub fn as_str(self) -> &'static str {
        match self {
            GivenBack::Released => "released",
            GivenBack::Expired => "expired",
        }
    }
}

/// What a shipment took along and left behind, in reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Those that left.
    pub shipped: u64,
    /// Those still waiting in other warehouses.
    pub elsewhere: u64,
}

/// Why a level does not change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such product.
    #[error("there is no such product")]
    UnknownProduct,
    /// There is no such warehouse.
    #[error("there is no such warehouse")]
    UnknownWarehouse,
    /// The pair has no level yet.
    #[error("this product has never been in this warehouse")]
    NoLevel,
    /// The pair has a level already.
    #[error("this product already has stock in this warehouse")]
    AlreadyStocked,
    /// Somebody else changed it.
    #[error("the stock changed meanwhile; it is at version {current}")]
    VersionChanged {
        /// Its version now.
        current: i32,
    },
    /// Less than nothing, or less than is kept for orders, would be left.
    #[error("less would be left than is kept for orders")]
    BelowReserved,
    /// A quantity of nothing, or beyond what can be counted.
    #[error("a quantity is between 1 and {max}", max = QTY_MAX)]
    Quantity,
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Pieces one movement may have.
pub const QTY_MAX: i64 = 1_000_000_000;
