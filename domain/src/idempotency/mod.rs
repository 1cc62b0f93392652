//! Requests that may be sent twice. The key's row is inserted in the transaction of the business: the first writer wins,
//! and a twin that runs at the same time waits for it on the unique index, then gets the same answer.

pub mod store;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The longest key.
pub const KEY_MAX: usize = 255;

/// What a key turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Never seen: go on, and call `finish` before the commit.
    Fresh,
    /// Seen with the same request: this was the answer.
    Replay {
        /// The answer's status.
        status: u16,
        /// The answer's headers that matter.
        headers: Value,
        /// The answer's body, to the byte.
        body: String,
    },
    /// Seen with another request.
    Mismatch,
    /// A twin is running and has not answered in two seconds. The transaction is aborted: roll it back.
    InProgress,
}

/// What makes two requests the same: method, route template, ids in the path, and the body with its keys in order.
pub fn fingerprint(method: &str, route: &str, path_ids: &[&str], body: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    let body = body.to_string();
    for part in [method, route]
        .into_iter()
        .chain(path_ids.iter().copied())
        .chain([body.as_str()])
    {
        // The length first, so that no two lists of parts read the same.
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_a_bodys_keys_does_not_matter_and_everything_else_does() {
        let body: Value = serde_json::from_str(r#"{"a":1,"b":2}"#).expect("it is JSON");
        let turned: Value = serde_json::from_str(r#"{"b":2,"a":1}"#).expect("it is JSON");
        let one = fingerprint("POST", "/orders/{id}/confirm", &["1"], &body);
        assert_eq!(one, fingerprint("POST", "/orders/{id}/confirm", &["1"], &turned));
        assert_ne!(one, fingerprint("POST", "/orders/{id}/confirm", &["2"], &body));
        assert_ne!(one, fingerprint("POST", "/orders/{id}/cancel", &["1"], &body));
        assert_ne!(
            one,
            fingerprint("POST", "/orders/{id}/confirm", &["1"], &json!({"a": 1, "b": 3}))
        );
        assert_ne!(
            fingerprint("P", "ab", &["c"], &body),
            fingerprint("P", "a", &["bc"], &body)
        );
    }
}
