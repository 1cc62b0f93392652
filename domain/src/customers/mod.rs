//! Customers: who buys. A deleted one is hidden and cannot order any more; its orders keep it, and its e-mail is free.

pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::ids::CustomerId;

/// A customer.
#[derive(Debug, Clone, Serialize)]
pub struct Customer {
    /// Its id.
    pub id: CustomerId,
    /// Its name.
    pub name: String,
    /// Where to write to.
    pub email: String,
    /// Where to deliver to.
    pub address: String,
    /// The same in degrees.
    pub lat: Option<f64>,
    /// The same in degrees.
    pub lon: Option<f64>,
    /// active or blocked.
    pub state: String,
    /// Counts the changes.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A customer to be.
#[derive(Debug, Clone, Default)]
pub struct NewCustomer {
    /// Its name.
    pub name: String,
    /// Where to write to.
    pub email: String,
    /// Where to deliver to.
    pub address: String,
    /// The same in degrees: latitude, longitude.
    pub position: Option<(f64, f64)>,
}

/// What changes in a customer: nothing that is not named.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// Its name.
    pub name: Option<String>,
    /// Where to write to.
    pub email: Option<String>,
    /// Where to deliver to.
    pub address: Option<String>,
    /// The same in degrees; `Some(None)` forgets it.
    pub position: Option<Option<(f64, f64)>>,
    /// active or blocked.
    pub state: Option<String>,
}

/// Why a customer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such customer.
    #[error("there is no such customer")]
    NotFound,
    /// Another customer has this e-mail.
    #[error("another customer has this e-mail")]
    EmailTaken,
    /// Somebody else changed it.
    #[error("the customer changed meanwhile; it is at version {current}")]
    VersionChanged {
        /// Its version now.
        current: i32,
    },
    /// A value the table refuses, by the name of its rule.
    #[error("a value is not acceptable: {0}")]
    Refused(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
