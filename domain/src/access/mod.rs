//! Who may do what: keys to the API, each with scopes. A key is `of_live_<keyid>_<secret>`; of the secret's 256 random
//! bits only the SHA-256 is stored, which needs no salt and no slow hash since nobody can guess 256 bits.

pub mod store;

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use rand::Rng;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{ApiKeyId, PartnerId};

/// What every key starts with.
pub const PREFIX: &str = "of_live_";

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// One thing a key may do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Scope { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl Scope {
            /// All there are.
            pub const ALL: &[Scope] = &[$(Scope::$variant),*];

            /// As rows and requests spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Scope::$variant => $text,)* }
            }
        }
    };
}

scopes! {
    /// See orders.
    OrdersRead = "orders:read",
    /// Submit, confirm and cancel orders.
    OrdersWrite = "orders:write",
    /// See customers.
    CustomersRead = "customers:read",
    /// Write customers.
    CustomersWrite = "customers:write",
    /// See products.
    ProductsRead = "products:read",
    /// Write products.
    ProductsWrite = "products:write",
    /// See stock.
    InventoryRead = "inventory:read",
    /// Change stock.
    InventoryWrite = "inventory:write",
    /// See payments.
    PaymentsRead = "payments:read",
    /// Refund payments.
    PaymentsWrite = "payments:write",
    /// See webhook endpoints and deliveries.
    WebhooksRead = "webhooks:read",
    /// Write webhook endpoints, replay deliveries.
    WebhooksWrite = "webhooks:write",
    /// See routes, shipments and vehicles.
    RoutesRead = "routes:read",
    /// Plan, dispatch and ship.
    RoutesWrite = "routes:write",
    /// See jobs, queues and dead letters.
    JobsRead = "jobs:read",
    /// Redrive, discard, pause and resume.
    JobsOperate = "jobs:operate",
    /// Everything, keys included.
    Admin = "admin",
}

impl Scope {
    /// What a partner's key may be given.
    pub const PARTNER: &[Scope] = &[Scope::OrdersWrite, Scope::WebhooksRead, Scope::WebhooksWrite];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope {0:?}")]
pub struct NotAScope(pub String);

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Scope, NotAScope> {
        Scope::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| NotAScope(text.to_owned()))
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key's name, as histories and audits write it.
    pub name: String,
    /// The public part of the key.
    pub key_id: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The partner it is, whose things alone it sees.
    pub partner: Option<PartnerId>,
}

impl Principal {
    /// Whether it may do that.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// A key as others may see it.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub name: String,
    /// Its public part.
    pub key_id: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was ended.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A key that was just made: the only time its secret is seen.
#[derive(Debug)]
pub struct NewKey {
    /// The public part.
    pub key_id: String,
    /// The whole key, for its owner.
    pub token: SecretString,
    pub(crate) secret_sha256: [u8; 32],
}

/// Makes a key.
pub fn generate() -> NewKey {
    let mut rng = rand::rng();
    let key_id = hex(&rng.random::<[u8; 8]>());
    let secret = hex(&rng.random::<[u8; 32]>());
    let token = format!("{PREFIX}{key_id}_{secret}");
    NewKey {
        key_id,
        token: token.into(),
        secret_sha256: digest(&secret),
    }
}

/// The public part and the secret of a key; nothing if it is not formed like one.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (key_id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let is_formed = !key_id.is_empty() && key_id.len() <= 64 && !secret.is_empty() && secret.len() <= 128;
    is_formed.then_some((key_id, secret))
}

pub(crate) fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_key_reads_back_into_its_parts_and_shows_no_secret() {
        let key = generate();
        let (key_id, secret) = parse(key.token.expose_secret()).expect("it is formed like a key");
        assert_eq!(key_id, key.key_id);
        assert_eq!(digest(secret), key.secret_sha256);
        assert!(!format!("{key:?}").contains(secret));
    }

    #[test]
    fn what_is_not_formed_like_a_key_is_none() {
        for wrong in [
            "",
            "of_live_",
            "of_live_abc",
            "of_live_abc_",
            "of_live__secret",
            "sk_live_abc_def",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_scope_reads_back() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(*scope));
        }
        assert!("orders:everything".parse::<Scope>().is_err());
    }

    #[test]
    fn an_admin_may_do_everything_and_others_what_they_were_given() {
        let of = |scopes| Principal {
            name: "ci".to_owned(),
            key_id: "1".to_owned(),
            scopes,
            partner: None,
        };
        assert!(of(vec![Scope::Admin]).may(Scope::JobsOperate));
        assert!(of(vec![Scope::OrdersRead]).may(Scope::OrdersRead));
        assert!(!of(vec![Scope::OrdersRead]).may(Scope::OrdersWrite));
    }
}
