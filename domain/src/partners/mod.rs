//! Partners: whom we exchange webhooks with. A partner has endpoints that we send to (`webhooks`), API keys (`access`), and an
//! inbound address where it sends to us, signed with a secret of its own.
//!
//! What arrives is kept as it came, once for each event id, before it is answered; a job makes of it what it asks for.
//! [`inbound`] is that half.

pub mod inbound;
pub mod store;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::inbound::GATEWAY;
use crate::{ids::PartnerId, webhooks};

/// Endpoints of one partner, at most.
pub const ENDPOINTS_MAX: i32 = 100;

/// Whether anything is exchanged with a partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum PartnerState {
    /// It is.
    Active,
    /// It is not: its endpoints are disabled, its keys and its webhooks are refused.
    Paused,
}

/// A partner, without its secrets.
#[derive(Debug, Clone, Serialize)]
pub struct Partner {
    /// Its id.
    pub id: PartnerId,
    /// Whom its keys stand for.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whether anything is exchanged with it.
    pub state: PartnerState,
    /// Why not.
    pub paused_reason: Option<String>,
    /// The most that its endpoints may ask for.
    pub event_types: Vec<String>,
    /// How many endpoints it may have.
    pub endpoints_max: i32,
    /// Deliveries at once that each of its endpoints starts with.
    pub concurrency: Option<i32>,
    /// Deliveries a second that each of its endpoints starts with.
    pub rate: Option<f64>,
    /// Until when replaced inbound secrets are accepted.
    pub old_secrets_until: Option<DateTime<Utc>>,
    /// Requests in its name that had no good signature.
    pub rejected: i64,
    /// Raised by every change.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When somebody last changed it.
    pub updated_at: DateTime<Utc>,
}

/// Why a partner's settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The name.
    #[error(
        "a name has 1 to 63 lower-case letters, digits and hyphens, begins with no hyphen, and is not \"{GATEWAY}\""
    )]
    Name,
    /// How many endpoints.
    #[error("a partner may have from 0 to {ENDPOINTS_MAX} endpoints")]
    EndpointsMax,
    /// An endpoint asks for more than the partner shall have.
    #[error("its endpoint {0} asks for more than that: change the endpoint first")]
    EndpointAsksForMore(String),
    /// What endpoints have too.
    #[error(transparent)]
    Webhook(#[from] webhooks::Invalid),
}

/// Refuses names that would not fit an address, and the one that has an address of its own.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good =
        (1..=63).contains(&name.len()) && name.bytes().all(is_word) && !name.starts_with('-') && name != GATEWAY;
    is_good.then_some(()).ok_or(Invalid::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_an_address() {
        for good in ["acme", "acme-2", "7"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", GATEWAY, "-acme", "Acme", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(check_name(bad), Err(Invalid::Name), "{bad}");
        }
    }
}
