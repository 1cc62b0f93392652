//! Standard Webhooks signatures: `v1,` and the base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`, one for each live
//! secret, so that receivers can change from one to the next without a gap.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::RngCore;
use sha2::Sha256;

use super::Invalid;

const PREFIX: &str = "whsec_";
const NEW_BYTES: usize = 32;

/// A new random secret.
pub fn generate_secret() -> String {
    let mut bytes = [0; NEW_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// Refuses what is no secret of ours.
pub fn check_secret(secret: &str) -> Result<(), Invalid> {
    key_of(secret).map(drop).ok_or(Invalid::Secret)
}

/// The value of `webhook-signature`: a signature for each secret, newest first.
pub fn signatures(secrets: &[String], id: &str, timestamp: i64, body: &str) -> String {
    let signed: Vec<String> = secrets
        .iter()
        .filter_map(|secret| key_of(secret))
        .map(|key| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("an HMAC key may have any length");
            for part in [id, ".", &timestamp.to_string(), ".", body] {
                mac.update(part.as_bytes());
            }
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        })
        .collect();
    signed.join(" ")
}

fn key_of(secret: &str) -> Option<Vec<u8>> {
    let key = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
    (24..=64).contains(&key.len()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_vector_comes_out() {
        // The example of the Standard Webhooks specification.
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()];
        let body = r#"{"test": 2432232314}"#;
        let signed = signatures(&secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn another_implementation_accepts_every_live_secret_and_no_other() {
        let secrets = [generate_secret(), generate_secret()];
        let now = chrono::Utc::now().timestamp();
        let body = r#"{"type":"order.created"}"#;
        let verify = |secret: &str, id: &str, body: &str| {
            let headers = [
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", now.to_string()),
                (
                    "webhook-signature",
                    signatures(&secrets, "evt_1", now, "{\"type\":\"order.created\"}"),
                ),
            ];
            let headers = headers
                .into_iter()
                .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
                .collect::<reqwest::header::HeaderMap>();
            standardwebhooks::Webhook::new(secret)
                .expect("a secret")
                .verify(body.as_bytes(), &headers)
        };
        for secret in &secrets {
            assert!(verify(secret, "evt_1", body).is_ok());
            assert!(verify(secret, "evt_2", body).is_err());
            assert!(verify(secret, "evt_1", "{}").is_err());
        }
        assert!(verify(&generate_secret(), "evt_1", body).is_err());
    }

    #[test]
    fn secrets_have_a_prefix_and_enough_bytes() {
        assert_eq!(check_secret(&generate_secret()), Ok(()));
        for bad in [
            "",
            "whsec_",
            "whsec_!!",
            "whsec_AAAA",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            assert_eq!(check_secret(bad), Err(Invalid::Secret), "{bad}");
        }
    }
}
