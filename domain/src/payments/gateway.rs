//! The client of the payment gateway, in Stripe's wire format: forms in, JSON out, one idempotency key per attempt.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// The gateway, as one process talks to it.
#[derive(Debug)]
pub struct Gateway {
    client: reqwest::Client,
    base: Url,
    key: SecretString,
}

/// Why a gateway's client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's client cannot be made: {0}")]
pub struct Unusable(String);

impl Gateway {
    /// A client for the gateway at `base`, with its secret key. Sends nothing yet.
    pub fn new(base: Url, key: SecretString) -> Result<Self, Unusable> {
        crate::tls::install();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(|error| Unusable(format!("{error:?}")))?;
        Ok(Self { client, base, key })
    }
}
