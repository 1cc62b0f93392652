//! Form-encoded parameters with nested keys, as Stripe's clients send them: `metadata[order_id]=7&expand[]=latest_charge`.
//!
//! A form is read by taking what is known out of it; [`Form::finish`] refuses what is left, so that a misspelt
//! parameter is never silently ignored.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::error::Error;
use super::methods;

/// Parameters one request may have.
const PARAMS_MAX: usize = 200;
/// Largest amount in minor units, eight digits as at Stripe.
pub(super) const AMOUNT_MAX: i64 = 99_999_999;
const METADATA_KEYS_MAX: usize = 50;
const METADATA_KEY_CHARS_MAX: usize = 40;
const METADATA_VALUE_CHARS_MAX: usize = 500;

/// The parameters of one request that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Form {
    params: Vec<(String, String)>,
    sha256: String,
}

impl Form {
    /// Reads a query string or a body.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let params: Vec<(String, String)> = form_urlencoded::parse(bytes)
            .into_owned()
            .take(PARAMS_MAX + 1)
            .collect();
        if params.len() > PARAMS_MAX {
            return Err(Error::invalid(
                None,
                format!("A request may have {PARAMS_MAX} parameters."),
            ));
        }
        for (key, value) in &params {
            let is_text = |text: &str| !text.contains(['\u{fffd}', '\0']);
            if key.is_empty() || !is_text(key) {
                return Err(Error::invalid(
                    None,
                    "The name of a parameter is empty or not UTF-8 text.",
                ));
            }
            if !is_text(value) {
                return Err(Error::invalid(None, format!("Invalid string: {key} is not UTF-8 text.")).param(key));
            }
            let is_number_field = key.ends_with("[number]") || key == "number";
            if is_number_field && methods::looks_like_a_card_number(value) {
                return Err(methods::card_number_refused(key));
            }
        }
        let sha256 = fingerprint(&params);
        Ok(Self { params, sha256 })
    }

    /// The same for the same parameters in any order.
    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Takes a single value out; two of one name are refused.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        let mut found = self.take(|key| key == name);
        match found.len() {
            0 => Ok(None),
            1 => Ok(found.pop().map(|(_, value)| value)),
            _ => Err(Error::invalid(None, format!("{name} was given more than once.")).param(name)),
        }
    }

    /// Takes a value out that may not be missing or empty.
    pub(super) fn required(&mut self, name: &str) -> Result<String, Error> {
        self.text(name)?
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Error::missing(name))
    }

    /// Takes a whole number between `min` and `max` out.
    pub(super) fn integer(&mut self, name: &str, min: i64, max: i64) -> Result<Option<i64>, Error> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let is_integer = !text.is_empty() && text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
        if !is_integer {
            let message = format!("Invalid integer: {text}");
            return Err(Error::invalid(Some("parameter_invalid_integer"), message).param(name));
        }
        match text.parse::<i64>() {
            Ok(value) if value < min => {
                let message = format!("This value must be greater than or equal to {min}.");
                Err(Error::invalid(Some("parameter_invalid_integer"), message).param(name))
            }
            Ok(value) if value <= max => Ok(Some(value)),
            _ if name.starts_with("amount") => {
                let message = format!("Amount must be no more than {max}.");
                Err(Error::invalid(Some("amount_too_large"), message).param(name))
            }
            _ => {
                let message = format!("This value must be less than or equal to {max}.");
                Err(Error::invalid(Some("parameter_invalid_integer"), message).param(name))
            }
        }
    }

    /// Takes an amount of minor units out.
    pub(super) fn amount(&mut self, name: &str) -> Result<Option<i64>, Error> {
        self.integer(name, 1, AMOUNT_MAX)
    }

    /// Takes `true` or `false` out.
    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(None, format!("Invalid boolean: {other}")).param(name)),
        }
    }

    /// Takes one of a few words out.
    pub(super) fn one_of(&mut self, name: &str, allowed: &[&'static str]) -> Result<Option<&'static str>, Error> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let found = allowed.iter().find(|word| **word == text);
        found.copied().map(Some).ok_or_else(|| {
            let message = format!("Invalid {name}: must be one of {}", allowed.join(", "));
            Error::invalid(None, message).param(name)
        })
    }

    /// Takes `metadata[…]` out.
    pub(super) fn metadata(&mut self) -> Result<BTreeMap<String, String>, Error> {
        let mut metadata = BTreeMap::new();
        for (name, value) in self.take(|key| key.starts_with("metadata[")) {
            let key = name.trim_start_matches("metadata[").trim_end_matches(']').to_owned();
            let is_key = !key.is_empty() && !key.contains(['[', ']']) && name.ends_with(']');
            if !is_key || key.chars().count() > METADATA_KEY_CHARS_MAX {
                let message = format!("A metadata key has 1 to {METADATA_KEY_CHARS_MAX} characters and no brackets.");
                return Err(Error::invalid(None, message).param(name));
            }
            if value.chars().count() > METADATA_VALUE_CHARS_MAX {
                let message = format!("A metadata value has up to {METADATA_VALUE_CHARS_MAX} characters.");
                return Err(Error::invalid(None, message).param(name));
            }
            if metadata.insert(key, value).is_some() {
                return Err(Error::invalid(None, format!("{name} was given more than once.")).param(name));
            }
        }
        if metadata.len() > METADATA_KEYS_MAX {
            let message = format!("Metadata may have {METADATA_KEYS_MAX} keys.");
            return Err(Error::invalid(None, message).param("metadata"));
        }
        Ok(metadata)
    }

    /// Takes the values of `name[]`, or `name[0]`, `name[1]` and so on, out.
    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        let is_one = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('['));
        self.take(is_one).into_iter().map(|(_, value)| value).collect()
    }

    /// Takes `expand[]` out; only the names in `allowed` can be expanded.
    pub(super) fn expand(&mut self, allowed: &[&'static str]) -> Result<Vec<&'static str>, Error> {
        self.expand_within("", allowed)
    }

    /// The same where each name is asked for behind `prefix`.
    pub(super) fn expand_within(&mut self, prefix: &str, allowed: &[&'static str]) -> Result<Vec<&'static str>, Error> {
        let asked = self.take(|key| key.starts_with("expand["));
        asked
            .into_iter()
            .map(|(name, value)| {
                let inner = value.strip_prefix(prefix);
                allowed
                    .iter()
                    .find(|path| inner == Some(**path))
                    .copied()
                    .ok_or_else(|| {
                        let message = format!("This property cannot be expanded ({value}).");
                        Error::invalid(None, message).param(name)
                    })
            })
            .collect()
    }

    /// The amount that the request names, whatever it is for.
    pub(super) fn amount_named(&self) -> Option<i64> {
        let named = |(key, _): &&(String, String)| key == "amount" || key == "amount_to_capture";
        self.params.iter().find(named)?.1.parse().ok()
    }

    /// Whether there is anything called `name` or nested in it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.params.iter().any(|(key, _)| root(key) == name)
    }

    /// Takes parameters out that Stripe knows and this gateway has no use for.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        self.take(|key| names.contains(&root(key)));
    }

    /// Refuses whatever is left.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.params.first() {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("Received unknown parameter: {name}");
                Err(Error::invalid(Some("parameter_unknown"), message).param(name))
            }
        }
    }

    fn take(&mut self, mut is_wanted: impl FnMut(&str) -> bool) -> Vec<(String, String)> {
        self.params.extract_if(.., |(key, _)| is_wanted(key)).collect()
    }
}

/// The name before any bracket.
fn root(key: &str) -> &str {
    key.split('[').next().unwrap_or(key)
}

fn fingerprint(params: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = params.iter().collect();
    sorted.sort();
    let mut hash = Sha256::new();
    for (key, value) in sorted {
        for part in [key, value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
