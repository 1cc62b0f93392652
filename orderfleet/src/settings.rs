//! Settings that clap cannot read by itself: secrets, which come from the environment or from files, and durations.
//! Every refusal names the setting, and never repeats a secret.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail};
use domain::keyring::Keyring;
use secrecy::{ExposeSecret, SecretString};

/// Where secrets are looked up: the environment of the process, or a list in a test.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The secret called `name`: its value, or what the file named by `NAME_FILE` holds, without the line's end.
pub fn secret(name: &str, lookup: Lookup<'_>) -> anyhow::Result<Option<SecretString>> {
    let file_name = format!("{name}_FILE");
    match (lookup(name), lookup(&file_name)) {
        (Some(_), Some(_)) => bail!("{name} and {file_name} are both set: unset one of them"),
        (Some(value), None) => Ok(Some(value.into())),
        (None, Some(path)) => {
            let content = std::fs::read_to_string(&path).with_context(|| format!("{file_name}: reading {path}"))?;
            let value = content.trim_end_matches(['\n', '\r']);
            if value.is_empty() {
                bail!("{file_name}: {path} is empty");
            }
            Ok(Some(value.to_owned().into()))
        }
        (None, None) => Ok(None),
    }
}

/// A secret that must be there; `hint` says how to get one.
pub fn required_secret(name: &str, hint: &str, lookup: Lookup<'_>) -> anyhow::Result<SecretString> {
    secret(name, lookup)?.with_context(|| format!("{name} is not set (nor {name}_FILE): {hint}"))
}

/// Secrets with commas between them, as while one follows another; none when nothing is set.
pub fn secrets(name: &str, lookup: Lookup<'_>) -> anyhow::Result<Vec<SecretString>> {
    let all = secret(name, lookup)?;
    let all = all.as_ref().map_or("", |all| all.expose_secret());
    let each = all.split(',').map(str::trim).filter(|one| !one.is_empty());
    Ok(each.map(SecretString::from).collect())
}

/// The setting of the master keys.
pub const MASTER_KEY: &str = "ORDERFLEET_MASTER_KEY";

/// The master keys that webhook secrets are sealed with; at least one.
pub fn keyring(lookup: Lookup<'_>) -> anyhow::Result<Keyring> {
    let keys = secrets(MASTER_KEY, lookup)?;
    if keys.is_empty() {
        bail!(
            "{MASTER_KEY} is not set (nor {MASTER_KEY}_FILE): webhook secrets are sealed with it in the database. Source the env file of a \
             running `orderfleet up` (`. DIR/env`), or make a key with `orderfleet secrets new-key`, and keep it apart from \
             the database and its backups"
        );
    }
    Keyring::new(&keys).context(MASTER_KEY)
}

/// A duration such as `10m`, `1h 30m` or `0`, for the setting of that name.
pub fn duration(setting: &'static str) -> impl Fn(&str) -> Result<Duration, BadValue> + Clone + Send + Sync + 'static {
    move |text| {
        if text == "0" {
            return Ok(Duration::ZERO);
        }
        humantime::parse_duration(text).map_err(|error| BadValue {
            setting,
            why: format!("{error}; write 10m, 90s, 500ms or 0"),
        })
    }
}

/// A percentage from 1 to 100.
pub fn percent(text: &str) -> Result<u8, BadValue> {
    match text.parse() {
        Ok(value @ 1..=100) => Ok(value),
        _ => Err(BadValue {
            setting: "percentage",
            why: "must be a whole number from 1 to 100".to_owned(),
        }),
    }
}

/// Why a value is refused, and which setting it was for.
#[derive(Debug)]
pub struct BadValue {
    setting: &'static str,
    why: String,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.why)
    }
}

impl std::error::Error for BadValue {}
