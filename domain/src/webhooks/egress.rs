//! The way out for webhooks: every address is vetted at the moment it is dialled.

/// Sends webhooks, guarded.
#[derive(Debug)]
pub struct Sender {
    client: reqwest::Client,
    allow_private: bool,
}

/// Why the sender cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the sender of webhooks cannot be made: {0}")]
pub struct Unusable(String);

impl Sender {
    /// A sender; `allow_private` lifts the guard for development, where receivers are on loopback.
    pub fn new(allow_private: bool) -> Result<Self, Unusable> {
        crate::tls::install();
        let client = reqwest::Client::builder().build().map_err(|error| Unusable(format!("{error:?}")))?;
        Ok(Self { client, allow_private })
    }
}
