//! `orderfleet secrets …`: the master keys that webhook secrets are sealed with.

use std::process::ExitCode;

use anyhow::{Context, bail};
use domain::keyring::{self, Keyring};
use domain::{partners, webhooks};
use secrecy::ExposeSecret;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::cli::{self, SecretsAction};
use crate::operator::connect;
use crate::settings::{environment, keyring};
use crate::table::{self, Table};

/// `orderfleet secrets …`; exit 1 when something is sealed with a key that is not there.
pub async fn secrets(args: cli::Secrets) -> anyhow::Result<ExitCode> {
    match args.action.unwrap_or(SecretsAction::List { output: args.output }) {
        SecretsAction::List { output } => {
            let keyring = keyring(&environment)?;
            let keys = keys(&mut connect().await?, &keyring).await?;
            table::print(output.json, &keys, |keys| list(keys))?;
            let is_whole = keys.iter().all(|key| key.is_here || key.name.is_none());
            Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        SecretsAction::Reseal { step } => {
            let keyring = keyring(&environment)?;
            let mut conn = connect().await?;
            let sealed = reseal(&mut conn, &keyring, step).await?;
            table::say(&format!(
                "sealed {sealed} secrets with {}\n",
                keyring.names().next().unwrap_or_default()
            ))?;
            refuse_unknown(&mut conn, &keyring).await?;
            Ok(ExitCode::SUCCESS)
        }
        SecretsAction::NewKey => {
            table::say(&format!("{}\n", keyring::new_key().expose_secret()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A master key, and what it seals.
#[derive(Debug, Serialize)]
struct Key {
    /// None: plain.
    name: Option<String>,
    is_here: bool,
    seals: bool,
    endpoints: i64,
    partners: i64,
}

async fn keys(conn: &mut PgConnection, keyring: &Keyring) -> anyhow::Result<Vec<Key>> {
    let uses = keyring::uses(conn).await.context("counting the secrets")?;
    let first = keyring.names().next();
    let key = |name: Option<&str>, endpoints, partners| Key {
        name: name.map(str::to_owned),
        is_here: name.is_some_and(|name| keyring.names().any(|known| known == name)),
        seals: name.is_some() && name == first,
        endpoints,
        partners,
    };
    let mut keys: Vec<Key> = uses
        .iter()
        .map(|used| key(used.key.as_deref(), used.endpoints, used.partners))
        .collect();
    for name in keyring.names() {
        if !keys.iter().any(|key| key.name.as_deref() == Some(name)) {
            keys.push(key(Some(name), 0, 0));
        }
    }
    Ok(keys)
}

fn list(keys: &[Key]) -> Table {
    let mut table = Table::new(&["KEY", "ENDPOINTS", "PARTNERS", "WHAT"]);
    for key in keys {
        let what = match (&key.name, key.is_here, key.seals) {
            (None, ..) => "not sealed: `orderfleet secrets reseal`",
            (_, false, _) => "MISSING: add it to ORDERFLEET_MASTER_KEY",
            (_, _, true) => "seals",
            _ if key.endpoints + key.partners > 0 => "opens: `orderfleet secrets reseal`",
            _ => "opens, and is not needed any more",
        };
        table.row([
            key.name.clone().unwrap_or_else(|| "(plain)".to_owned()),
            key.endpoints.to_string(),
            key.partners.to_string(),
            what.to_owned(),
        ]);
    }
    table
}

/// Seals everything that opens with the first key, so many rows in a transaction; returns how many secrets.
pub async fn reseal(conn: &mut PgConnection, keyring: &Keyring, step: i64) -> anyhow::Result<u64> {
    let mut sealed = 0;
    let mut after = None;
    loop {
        let mut tx = conn.begin().await.context("beginning a step")?;
        let (last, count) = webhooks::store::reseal(&mut tx, keyring, after, step).await?;
        tx.commit().await.context("ending a step")?;
        sealed += count;
        match last {
            Some(_) => after = last,
            None => break,
        }
    }
    let mut after = None;
    loop {
        let mut tx = conn.begin().await.context("beginning a step")?;
        let (last, count) = partners::store::reseal(&mut tx, keyring, after, step).await?;
        tx.commit().await.context("ending a step")?;
        sealed += count;
        match last {
            Some(_) => after = last,
            None => return Ok(sealed),
        }
    }
}

/// Refuses to go on while something is sealed with a key that is not there.
pub async fn refuse_unknown(conn: &mut PgConnection, keyring: &Keyring) -> anyhow::Result<()> {
    let uses = keyring::uses(conn).await.context("counting the secrets")?;
    let unknown = |used: &&keyring::Use| {
        let name = used.key.as_deref();
        name.is_some_and(|name| !keyring.names().any(|known| known == name))
    };
    match uses.iter().find(unknown) {
        None => Ok(()),
        Some(used) => bail!(
            "{} webhook secrets are sealed with master key {}, and ORDERFLEET_MASTER_KEY holds {} only: add that key to it; \
             if it is lost, see `orderfleet secrets --help`",
            used.endpoints + used.partners,
            used.key.as_deref().unwrap_or_default(),
            keyring.names().collect::<Vec<_>>().join(", "),
        ),
    }
}
