//! Query parameters and cursors.
//!
//! A cursor is opaque and signed. It carries the position after which the next page starts and a hash of the list and
//! its filters, so that it cannot be made up, nor carried to another list. Lists are newest first by (time, id), so rows
//! that arrive while somebody pages come before the first page: none is skipped, none repeated.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::problem::{Fault, Problem};

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;
const TAG_BYTES: usize = 16;

/// What cursors are signed with: the same in every API process of an installation.
#[derive(Clone)]
pub struct CursorKey([u8; 32]);

impl CursorKey {
    /// A key made from a secret that all API processes share, such as the database's address and password.
    pub fn derived_from(secret: &str) -> CursorKey {
        CursorKey(
            Sha256::new()
                .chain_update(b"orderfleet cursor\0")
                .chain_update(secret)
                .finalize()
                .into(),
        )
    }

    fn tag(&self, payload: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(payload);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }
}

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey(…)")
    }
}

/// The place of a row in a list that is newest first.
pub(crate) type Position = (DateTime<Utc>, Uuid);

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T: ToSchema> {
    /// The rows.
    pub(crate) items: Vec<T>,
    /// What to pass as `cursor` for the next page; null at the end.
    pub(crate) next_cursor: Option<String>,
}

/// The query's parameters, read one by one like a body's fields.
#[derive(Debug)]
pub(crate) struct Params {
    given: BTreeMap<String, Vec<String>>,
    path: String,
    faults: Vec<Fault>,
    filters: Sha256,
    key: CursorKey,
}

/// Where the page starts and how long it is.
#[derive(Debug)]
pub(crate) struct Window<P> {
    pub(crate) after: Option<P>,
    pub(crate) limit: i64,
    filters: [u8; 8],
    key: CursorKey,
}

impl FromRequestParts<State> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Params, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::bad_request("query_unreadable", "the query string is not readable"))?;
        let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in pairs {
            given.entry(name).or_default().push(value);
        }
        let path = parts.uri.path().to_owned();
        let filters = Sha256::new().chain_update(&path);
        Ok(Params {
            given,
            path,
            faults: Vec::new(),
            filters,
            key: state.config.cursor_key.clone(),
        })
    }
}

impl Params {
    /// A filter; absent is none.
    pub(crate) fn filter<T: FromStr>(&mut self, name: &'static str, form: &str) -> Option<T> {
        let text = self.take(name)?;
        self.filters.update(format!("\0{name}={text}"));
        match text.parse() {
            Ok(value) if !text.contains('\0') => Some(value),
            _ => {
                self.complain(name, "invalid", format!("must be {form}"));
                None
            }
        }
    }

    /// A filter that is one of a few words.
    pub(crate) fn word(&mut self, name: &'static str, words: &[&str]) -> Option<String> {
        let word: String = self.filter(name, "a word")?;
        if words.contains(&word.as_str()) {
            return Some(word);
        }
        self.complain(name, "invalid", format!("must be one of {}", words.join(", ")));
        None
    }

    /// What a list is searched for; blank is nothing.
    pub(crate) fn search(&mut self) -> Option<String> {
        let text: String = self.filter("search", "a text")?;
        let text = text.trim().to_owned();
        if text.chars().count() > 200 {
            self.complain("search", "too_long", "must have at most 200 characters".to_owned());
        }
        (!text.is_empty()).then_some(text)
    }

    /// Ends the reading with the page asked for; 400 with every parameter that is wrong.
    pub(crate) fn window<P: DeserializeOwned>(mut self) -> Result<Window<P>, Problem> {
        let limit = match self.take("limit").map(|text| text.parse::<i64>()) {
            None => LIMIT_DEFAULT,
            Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => limit,
            Some(_) => {
                self.complain("limit", "out_of_range", format!("must be between 1 and {LIMIT_MAX}"));
                LIMIT_DEFAULT
            }
        };
        let mut filters = [0; 8];
        filters.copy_from_slice(&self.filters.clone().finalize()[..8]);
        let after = match self.take("cursor") {
            None => None,
            Some(token) => match open(&self.key, &token, filters) {
                Some(position) => Some(position),
                None => {
                    let detail = "is not a cursor of this list with these filters; start again without one";
                    self.complain("cursor", "invalid_cursor", detail.to_owned());
                    None
                }
            },
        };
        let key = self.key.clone();
        self.end()?;
        Ok(Window {
            after,
            limit,
            filters,
            key,
        })
    }

    /// Ends the reading; 400 with every parameter that is wrong or unknown.
    pub(crate) fn end(mut self) -> Result<(), Problem> {
        for name in std::mem::take(&mut self.given).into_keys() {
            self.complain(
                &name,
                "unknown_parameter",
                format!("{} has no such parameter", self.path),
            );
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Problem::faulty(
            StatusCode::BAD_REQUEST,
            "invalid_parameters",
            self.faults,
        ))
    }

    fn take(&mut self, name: &'static str) -> Option<String> {
        let mut values = self.given.remove(name)?;
        if values.len() > 1 {
            self.complain(name, "repeated", "was given more than once".to_owned());
        }
        values.pop()
    }

    fn complain(&mut self, name: &str, code: &'static str, detail: String) {
        let name: String = name.chars().take(100).collect();
        self.faults.push(Fault {
            place: "query",
            pointer: format!("/{name}"),
            code: code.into(),
            detail,
        });
    }
}

impl<P: Serialize> Window<P> {
    /// How many rows to ask for: one more than the page, to know whether there is a next.
    pub(crate) fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// The page of those rows.
    pub(crate) fn page<R, T: ToSchema>(
        &self,
        mut rows: Vec<R>,
        position: impl FnOnce(&R) -> P,
        view: impl FnMut(R) -> T,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| has_more).map(|last| self.seal(&position(last)));
        Page {
            items: rows.into_iter().map(view).collect(),
            next_cursor,
        }
    }

    fn seal(&self, position: &P) -> String {
        let mut payload = self.filters.to_vec();
        payload.extend(serde_json::to_vec(position).expect("positions are plain data"));
        let mut token = self.key.tag(&payload).to_vec();
        token.extend(payload);
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }
}

fn open<P: DeserializeOwned>(key: &CursorKey, token: &str, filters: [u8; 8]) -> Option<P> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (tag, payload) = bytes.split_at_checked(TAG_BYTES)?;
    let is_ours: bool = subtle::ConstantTimeEq::ct_eq(key.tag(payload).as_slice(), tag).into();
    let (found, position) = payload.split_at_checked(filters.len())?;
    if !is_ours || found != filters {
        return None;
    }
    serde_json::from_slice(position).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window<i64> {
        Window {
            after: None,
            limit: 1,
            filters: [7; 8],
            key: CursorKey::derived_from("secret"),
        }
    }

    #[test]
    fn a_cursor_opens_only_where_it_was_made() {
        let token = window().seal(&42);
        assert_eq!(
            open::<i64>(&CursorKey::derived_from("secret"), &token, [7; 8]),
            Some(42)
        );
        assert_eq!(open::<i64>(&CursorKey::derived_from("secret"), &token, [8; 8]), None);
        assert_eq!(open::<i64>(&CursorKey::derived_from("other"), &token, [7; 8]), None);
    }

    #[test]
    fn no_change_of_one_character_makes_another_cursor() {
        let key = CursorKey::derived_from("secret");
        let token = window().seal(&42);
        for i in 0..token.len() {
            for c in ['A', 'b', '9', '-', '!'] {
                let mut changed: Vec<char> = token.chars().collect();
                if changed[i] == c {
                    continue;
                }
                changed[i] = c;
                let changed: String = changed.into_iter().collect();
                assert_eq!(open::<i64>(&key, &changed, [7; 8]), None, "{changed}");
            }
        }
    }
}
