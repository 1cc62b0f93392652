//! What seals secrets at rest: master keys that are not in the database, so that whoever has a copy of it, or a backup, can
//! sign nothing.
//!
//! A sealed secret is text, `sealed:{key}:{base64}`: the name of the master key, then nonce, ciphertext and tag of AES-256-GCM.
//! Whose secret it is is its associated data, so it opens in its own row only. A key's name is made of the key itself: a
//! wrong key is never tried, and always told.
//!
//! The first of the keys seals, all of them open: that is how a new one comes (first behind the old one, in every process),
//! takes over (before it), and is alone at the end, when [`crate::webhooks::store::reseal`] and
//! [`crate::partners::store::reseal`] have left nothing of the old one.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::ids::{EndpointId, PartnerId};

/// The bytes of a master key.
pub const KEY_BYTES: usize = 32;
/// Master keys at once: a new one, the one before, and one that somebody forgot.
const KEYS_MAX: usize = 8;
const MARK: &str = "sealed:";

/// Whose a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// An endpoint's, to sign with.
    Endpoint(EndpointId),
    /// A partner's, which signs what it sends us.
    Partner(PartnerId),
}

/// Stable: it is the associated data of what is stored.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Endpoint(id) => write!(f, "endpoint {id}"),
            Owner::Partner(id) => write!(f, "partner {id}"),
        }
    }
}

/// Why there is no keyring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not one.
    #[error("there is no key: without one nothing can be sealed")]
    None,
    /// Not a key; which of them, from 1.
    #[error("key {0} is not {KEY_BYTES} bytes in base64")]
    Malformed(usize),
    /// More than anybody needs.
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
}

/// Why a secret does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// By none of our keys.
    #[error("the secret of {owner} is sealed with master key {key}, which is not in ORDERFLEET_MASTER_KEY")]
    UnknownKey {
        /// Whose.
        owner: Owner,
        /// The name of the key.
        key: String,
    },
    /// Changed, or of another row.
    #[error("the secret of {0} does not open: it was changed, or is somebody else's")]
    Broken(Owner),
}

/// The master keys of a process.
pub struct Keyring {
    /// The first seals.
    keys: Vec<MasterKey>,
}

struct MasterKey {
    name: String,
    cipher: RandomizedNonceKey,
}

impl Keyring {
    /// Keys of 32 bytes in base64, the one that seals first; the same one twice counts once.
    pub fn new(keys: &[SecretString]) -> Result<Keyring, BadKey> {
        let mut ring = Keyring { keys: Vec::new() };
        for (i, key) in keys.iter().enumerate() {
            let malformed = BadKey::Malformed(i + 1);
            let bytes = STANDARD.decode(key.expose_secret()).map_err(|_| malformed.clone())?;
            let key = MasterKey::new(&bytes).ok_or(malformed)?;
            if ring.key(&key.name).is_none() {
                ring.keys.push(key);
            }
        }
        match ring.keys.len() {
            0 => Err(BadKey::None),
            1..=KEYS_MAX => Ok(ring),
            _ => Err(BadKey::TooMany),
        }
    }

    /// A keyring of one new key, which nobody else has: for tests, and whatever does not outlive its process.
    pub fn random() -> Keyring {
        Keyring::new(&[new_key()]).expect("a new key is a key")
    }

    /// The names of the keys, the one that seals first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.name.as_str())
    }

    fn key(&self, name: &str) -> Option<&MasterKey> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Seals a secret for its owner.
    pub fn seal(&self, owner: Owner, secret: &str) -> String {
        let MasterKey { name, cipher } = &self.keys[0];
        let mut sealed = secret.as_bytes().to_vec();
        let nonce = cipher
            .seal_in_place_append_tag(Aad::from(owner.to_string()), &mut sealed)
            .expect("a short text can be sealed");
        let whole = [nonce.as_ref().as_slice(), &sealed].concat();
        format!("{MARK}{name}:{}", STANDARD.encode(whole))
    }

    /// The secret that was sealed for its owner. What is plain is what it is: rows are older than this.
    pub fn open(&self, owner: Owner, stored: &str) -> Result<String, Error> {
        let Some((name, rest)) = parts(stored) else {
            return Ok(stored.to_owned());
        };
        let key = self.key(name).ok_or_else(|| Error::UnknownKey {
            owner,
            key: name.to_owned(),
        })?;
        key.open(owner, rest).ok_or(Error::Broken(owner))
    }

    /// Whether it is sealed, and with the key that seals now.
    pub fn is_current(&self, stored: &str) -> bool {
        parts(stored).is_some_and(|(name, _)| name == self.keys[0].name)
    }
}

/// The name of the key, and the ciphertext; what stands behind another colon is not ours.
fn parts(stored: &str) -> Option<(&str, &str)> {
    let (name, rest) = stored.strip_prefix(MARK)?.split_once(':')?;
    Some((name, rest.split(':').next()?))
}

impl MasterKey {
    fn new(bytes: &[u8]) -> Option<MasterKey> {
        if bytes.len() != KEY_BYTES {
            return None;
        }
        let digest = Sha256::new()
            .chain_update("orderfleet master key")
            .chain_update(bytes)
            .finalize();
        Some(MasterKey {
            name: digest[..4].iter().map(|byte| format!("{byte:02x}")).collect(),
            cipher: RandomizedNonceKey::new(&AES_256_GCM, bytes).ok()?,
        })
    }

    fn open(&self, owner: Owner, encoded: &str) -> Option<String> {
        let mut whole = STANDARD.decode(encoded).ok()?;
        let (nonce, sealed) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self
            .cipher
            .open_in_place(nonce, Aad::from(owner.to_string()), sealed)
            .ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }
}

/// Names only.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// A new master key, in base64.
pub fn new_key() -> SecretString {
    STANDARD.encode(rand::random::<[u8; KEY_BYTES]>()).into()
}

/// How many secrets are sealed with one key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Use {
    /// The key's name; none for what is not sealed.
    pub key: Option<String>,
    /// Secrets of endpoints.
    pub endpoints: i64,
    /// Secrets of partners.
    pub partners: i64,
}

/// Which keys the secrets in the database are sealed with, by name; first what is not sealed.
pub async fn uses(conn: &mut PgConnection) -> Result<Vec<Use>, sqlx::Error> {
    sqlx::query_as!(
        Use,
        r#"select case when s.secret like 'sealed:%' then split_part(s.secret, ':', 2) end as key,
                  count(*) filter (where s.is_endpoint) as "endpoints!",
                  count(*) filter (where not s.is_endpoint) as "partners!"
           from (select true as is_endpoint, unnest(secrets) as secret from webhook_endpoints where deleted_at is null
                 union all
                 select false, unnest(inbound_secrets) from partners) s
           group by 1
           order by 1 nulls first"#,
    )
    .fetch_all(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn ring(keys: &[&SecretString]) -> Keyring {
        let keys: Vec<SecretString> = keys.iter().map(|key| (*key).clone()).collect();
        Keyring::new(&keys).expect("keys")
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner_and_nobody_else() {
        let ring = Keyring::random();
        let owner = Owner::Endpoint(EndpointId::new());
        let sealed = ring.seal(owner, SECRET);
        assert!(!sealed.contains("whsec") && !sealed.contains("MfKQ9r8G"), "{sealed}");
        assert_eq!(ring.open(owner, &sealed).as_deref(), Ok(SECRET));
        assert_ne!(ring.seal(owner, SECRET), sealed, "each has a nonce of its own");
        let beside = format!("{sealed}:whpk_abc");
        assert_eq!(ring.open(owner, &beside).as_deref(), Ok(SECRET));

        let stranger = Owner::Endpoint(EndpointId::new());
        assert_eq!(ring.open(stranger, &sealed), Err(Error::Broken(stranger)));
        let Owner::Endpoint(id) = owner else {
            unreachable!("it is one")
        };
        let namesake = Owner::Partner(PartnerId(id.0));
        assert_eq!(ring.open(namesake, &sealed), Err(Error::Broken(namesake)));
    }

    #[test]
    fn whatever_was_changed_does_not_open() {
        let ring = Keyring::random();
        let owner = Owner::Partner(PartnerId::new());
        let sealed = ring.seal(owner, SECRET);
        let data = sealed.rfind(':').expect("three parts") + 1;
        for at in data..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("letters");
            assert_eq!(ring.open(owner, &changed), Err(Error::Broken(owner)), "{changed}");
            assert_eq!(ring.open(owner, &sealed[..at]), Err(Error::Broken(owner)), "{at}");
        }
    }

    #[test]
    fn a_new_key_seals_and_the_old_one_still_opens() {
        let (old, new) = (new_key(), new_key());
        let owner = Owner::Endpoint(EndpointId::new());
        let before = ring(&[&old]).seal(owner, SECRET);
        let both = ring(&[&new, &old]);
        assert_eq!(both.open(owner, &before).as_deref(), Ok(SECRET));
        assert!(!both.is_current(&before) && !both.is_current(SECRET));
        let after = both.seal(owner, SECRET);
        assert!(both.is_current(&after));

        let alone = ring(&[&new]);
        assert_eq!(alone.open(owner, &after).as_deref(), Ok(SECRET));
        let name = ring(&[&old]).names().next().expect("a key").to_owned();
        let unknown = Error::UnknownKey { owner, key: name };
        assert!(unknown.to_string().contains("ORDERFLEET_MASTER_KEY"), "{unknown}");
        assert_eq!(alone.open(owner, &before), Err(unknown));
    }

    #[test]
    fn only_keys_are_taken_for_keys_and_none_is_ever_shown() {
        let check = |keys: &[&str]| {
            let keys: Vec<SecretString> = keys.iter().map(|key| SecretString::from(*key)).collect();
            Keyring::new(&keys).map(|ring| ring.keys.len())
        };
        let key = new_key();
        let key = key.expose_secret();
        assert_eq!(check(&[]), Err(BadKey::None));
        assert_eq!(check(&[key, key]), Ok(1));
        assert_eq!(check(&[key, "c2hvcnQ="]), Err(BadKey::Malformed(2)));
        assert_eq!(check(&["not base64"]), Err(BadKey::Malformed(1)));
        let many: Vec<SecretString> = (0..9).map(|_| new_key()).collect();
        assert_eq!(Keyring::new(&many).map(drop), Err(BadKey::TooMany));
        let shown = format!("{:?}", Keyring::new(&[SecretString::from(key)]));
        assert!(!shown.contains(key), "{shown}");
    }
}
