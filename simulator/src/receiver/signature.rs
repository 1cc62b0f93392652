//! Verifying Standard Webhooks: `HMAC-SHA256(secret, "{id}.{timestamp}.{body}")`, several signatures and several secrets.

use anyhow::{Context, ensure};
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How far the sender's clock may be from ours, either way.
const TOLERANCE_SECONDS: u64 = 5 * 60;
/// Signatures looked at in one header.
const SIGNATURES_MAX: usize = 16;

/// One secret, decoded.
#[derive(Clone)]
pub(super) struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_` and base64; the prefix may be missing.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let bytes = STANDARD
            .decode(encoded)
            .context("a webhook secret is whsec_ and base64")?;
        ensure!(!bytes.is_empty(), "a webhook secret is empty");
        Ok(Self(bytes))
    }
}

/// Whether any of the signatures was made with any of the secrets, just now.
pub(super) fn verify(secrets: &[Secret], headers: &HeaderMap, body: &[u8], now: i64) -> bool {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some(timestamp), Some(signatures)) = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    ) else {
        return false;
    };
    let is_recent = timestamp
        .parse::<i64>()
        .is_ok_and(|sent| sent.abs_diff(now) <= TOLERANCE_SECONDS);
    is_recent
        && !id.is_empty()
        && signatures
            .split(' ')
            .take(SIGNATURES_MAX)
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .filter_map(|encoded| STANDARD.decode(encoded).ok())
            .any(|signature| {
                secrets
                    .iter()
                    .any(|secret| is_by(secret, id, timestamp, body, &signature))
            })
}

fn is_by(secret: &Secret, id: &str, timestamp: &str, body: &[u8], signature: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&secret.0) else {
        return false;
    };
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac.verify_slice(signature).is_ok()
}
