//! Standard Webhooks signatures over `{id}.{timestamp}.{body}`: `v1,` and the base64 of HMAC-SHA256, or `v1a,` and that of
//! ed25519; one for each live secret, so that receivers can change from one to the next without a gap.
//!
//! The secret of an HMAC is shared (`whsec_`). Of an ed25519 key the private half (`whsk_`: the seed, then the public key)
//! stays here, and receivers verify with the public one (`whpk_`), with which nobody can sign.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::Invalid;

const SHARED: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";
const NEW_BYTES: usize = 32;
/// How far a sender's clock may be from the database's, either way, in seconds.
const TOLERANCE_SECONDS: u64 = 5 * 60;
/// So many signatures of one request are looked at.
const SIGNATURES_MAX: usize = 16;

/// What signs an endpoint's deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signing {
    /// HMAC-SHA256, with a secret that both sides know.
    #[default]
    Hmac,
    /// ed25519: receivers know the public key only.
    Ed25519,
}

/// A secret, decoded.
enum Key {
    Shared(Vec<u8>),
    Private(Ed25519KeyPair),
}

impl Key {
    fn parse(secret: &str) -> Option<Key> {
        if let Some(encoded) = secret.strip_prefix(PRIVATE) {
            let bytes = STANDARD.decode(encoded).ok()?;
            let (seed, public) = bytes.split_at_checked(32)?;
            return Ed25519KeyPair::from_seed_and_public_key(seed, public)
                .ok()
                .map(Key::Private);
        }
        let bytes = STANDARD.decode(secret.strip_prefix(SHARED)?).ok()?;
        (24..=64).contains(&bytes.len()).then_some(Key::Shared(bytes))
    }

    fn sign(&self, signed: &[u8]) -> String {
        match self {
            Key::Shared(key) => format!("v1,{}", STANDARD.encode(hmac(key, signed).finalize().into_bytes())),
            Key::Private(key) => format!("v1a,{}", STANDARD.encode(key.sign(signed))),
        }
    }
}

fn hmac(key: &[u8], signed: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("an HMAC key may have any length");
    mac.update(signed);
    mac
}

/// A new random secret.
pub fn generate(signing: Signing) -> String {
    let mut bytes = [0; NEW_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    match signing {
        Signing::Hmac => format!("{SHARED}{}", STANDARD.encode(bytes)),
        Signing::Ed25519 => {
            let pair = Ed25519KeyPair::from_seed_unchecked(&bytes).expect("any 32 bytes are a seed");
            let whole = [&bytes[..], pair.public_key().as_ref()].concat();
            format!("{PRIVATE}{}", STANDARD.encode(whole))
        }
    }
}

/// A new random HMAC secret.
pub fn generate_secret() -> String {
    generate(Signing::Hmac)
}

/// Refuses what is no secret of ours.
pub fn check_secret(secret: &str) -> Result<(), Invalid> {
    Key::parse(secret).map(drop).ok_or(Invalid::Secret)
}

/// The public half of a private key, for receivers; none of a shared secret.
pub fn public_key(secret: &str) -> Option<String> {
    match Key::parse(secret)? {
        Key::Private(pair) => Some(format!("{PUBLIC}{}", STANDARD.encode(pair.public_key().as_ref()))),
        Key::Shared(_) => None,
    }
}

/// The value of `webhook-signature`: a signature for each secret, newest first.
pub fn signatures(secrets: &[String], id: &str, timestamp: i64, body: &str) -> String {
    let signed = [id, ".", &timestamp.to_string(), ".", body].concat();
    let signatures: Vec<String> = secrets
        .iter()
        .filter_map(|secret| Key::parse(secret))
        .map(|key| key.sign(signed.as_bytes()))
        .collect();
    signatures.join(" ")
}

/// The three headers of a webhook that somebody sent us.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// `webhook-signature`.
    pub signatures: &'a str,
}

/// The second in which the bytes were signed, if it is near `now` and one of the shared secrets signed them. Each signature
/// is compared with each secret in constant time, and none of them is left out because another fits.
pub fn verify(secrets: &[String], claims: Claims<'_>, body: &[u8], now: i64) -> Option<i64> {
    let sent: i64 = claims.timestamp.parse().ok()?;
    let signed = [claims.id.as_bytes(), b".", claims.timestamp.as_bytes(), b".", body].concat();
    let given: Vec<Vec<u8>> = claims
        .signatures
        .split(' ')
        .take(SIGNATURES_MAX)
        .filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok())
        .collect();
    let mut is_signed = false;
    for secret in secrets {
        if let Some(Key::Shared(key)) = Key::parse(secret) {
            for signature in &given {
                is_signed |= hmac(&key, &signed).verify_slice(signature).is_ok();
            }
        }
    }
    (is_signed && sent.abs_diff(now) <= TOLERANCE_SECONDS).then_some(sent)
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
    fn an_ed25519_signature_is_the_one_others_make_and_its_public_key_verifies_it() {
        // The key of the libraries that know `v1a`; ed25519 has no randomness, so the signature is known too.
        let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        let public = public_key(private).expect("a private key has a public half");
        assert_eq!(public, "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
        let body = r#"{"test": 2432232314}"#;
        let signed = signatures(
            &[private.to_owned()],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(
            signed,
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
        );
        let signature = STANDARD.decode(&signed["v1a,".len()..]).expect("base64");
        let key = STANDARD.decode(&public["whpk_".len()..]).expect("base64");
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, key);
        let content = format!("msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{body}");
        assert!(key.verify(content.as_bytes(), &signature).is_ok());
        assert!(key.verify(content.replace("24", "25").as_bytes(), &signature).is_err());
    }

    #[test]
    fn what_was_sent_to_us_is_verified_with_every_live_secret_and_near_its_time() {
        let secrets = [generate_secret(), generate_secret()];
        let (now, body) = (1_614_265_330, r#"{"type":"ping"}"#);
        let check = |signatures: &str, id: &str, timestamp: i64, body: &str| {
            let timestamp = timestamp.to_string();
            let claims = Claims {
                id,
                timestamp: &timestamp,
                signatures,
            };
            verify(&secrets, claims, body.as_bytes(), now)
        };
        for secret in &secrets {
            let signed = signatures(std::slice::from_ref(secret), "m", now, body);
            assert_eq!(check(&signed, "m", now, body), Some(now));
            assert_eq!(check(&format!("v1,AAAA v2,x {signed}"), "m", now, body), Some(now));
            assert_eq!(check(&signed, "n", now, body), None);
            assert_eq!(check(&signed, "m", now, "{}"), None);
            assert_eq!(check(&signed, "m", now + 1, body), None);
            // A part of a signature is none: RUSTSEC-2024-0010 was a comparison that took the shorter length.
            for cut in 3..signed.len() {
                assert_eq!(check(&signed[..cut], "m", now, body), None, "{cut}");
            }
        }
        for (offset, is_near) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let signed = signatures(&secrets, "m", now + offset, body);
            assert_eq!(check(&signed, "m", now + offset, body).is_some(), is_near, "{offset}");
        }
        let stranger = signatures(&[generate_secret(), generate(Signing::Ed25519)], "m", now, body);
        for wrong in ["", "v1,", "v1", " ", &stranger] {
            assert_eq!(check(wrong, "m", now, body), None, "{wrong}");
        }
    }

    #[test]
    fn secrets_have_a_prefix_and_enough_bytes() {
        assert_eq!(check_secret(&generate_secret()), Ok(()));
        assert_eq!(check_secret(&generate(Signing::Ed25519)), Ok(()));
        for bad in [
            "",
            "whsec_",
            "whsec_!!",
            "whsec_AAAA",
            "whsk_AAAA",
            "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            assert_eq!(check_secret(bad), Err(Invalid::Secret), "{bad}");
        }
    }
}
