//! The two records from outside: JSON lines, whole lines only, each read into as little as the checks need.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What the gateway executed, in its order.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every line.
    pub entries: Vec<LedgerEntry>,
}

/// One operation that the gateway executed.
#[derive(Debug, Clone, Deserialize)]
pub struct LedgerEntry {
    /// Its number.
    pub n: u64,
    /// The idempotency key it came with.
    pub key: Option<String>,
    /// create, confirm, capture, cancel, refund or transfer; or expire, which nobody asks for.
    pub op: String,
    /// The payment intent; of a transfer, nothing.
    #[serde(default)]
    pub intent: String,
    /// Of a transfer: its id.
    #[serde(default)]
    pub transfer: Option<String>,
    /// Of a transfer: the account that is paid.
    #[serde(default)]
    pub destination: Option<String>,
    /// The amount moved, or asked for.
    pub amount: i64,
    /// ok, declined or refused.
    pub outcome: String,
    /// What the intent was afterwards.
    #[serde(default)]
    pub intent_status: String,
    /// The hash of the request's parameters.
    pub params_sha256: String,
    /// What the client attached to the intent.
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

impl LedgerEntry {
    /// Whether it had its effect.
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

impl Ledger {
    /// Reads the gateway's file.
    pub fn read(path: &Path) -> anyhow::Result<Ledger> {
        Ok(Ledger { entries: lines(path)? })
    }

    /// The entries that are about payments.
    pub fn of_payments(&self) -> impl Iterator<Item = &LedgerEntry> {
        self.entries.iter().filter(|entry| entry.op != "transfer")
    }

    /// The transfers to sellers that were made.
    pub fn transfers(&self) -> impl Iterator<Item = &LedgerEntry> {
        self.entries
            .iter()
            .filter(|entry| entry.op == "transfer" && entry.is_ok())
    }

    /// The entries of each intent, in order.
    pub fn by_intent(&self) -> HashMap<&str, Vec<&LedgerEntry>> {
        let mut by_intent: HashMap<&str, Vec<&LedgerEntry>> = HashMap::new();
        for entry in self.of_payments() {
            by_intent.entry(&entry.intent).or_default().push(entry);
        }
        by_intent
    }
}

/// What the receiver got, in its order.
#[derive(Debug, Default)]
pub struct ReceiverLog {
    /// Every line.
    pub requests: Vec<Received>,
}

/// One request that the receiver got.
#[derive(Debug, Clone, Deserialize)]
pub struct Received {
    /// Its number.
    pub n: u64,
    /// Where it was sent.
    pub path: String,
    /// The event it was about.
    pub webhook_id: Option<String>,
    /// Whether its signature and time were good.
    pub verified: bool,
    /// What was answered.
    pub status: u16,
}

impl Received {
    /// Whether the receiver took it.
    pub fn is_accepted(&self) -> bool {
        self.verified && (200..300).contains(&self.status)
    }
}

impl ReceiverLog {
    /// Reads the receiver's file.
    pub fn read(path: &Path) -> anyhow::Result<ReceiverLog> {
        Ok(ReceiverLog { requests: lines(path)? })
    }
}

/// A last line without its end was torn by a crash, or is being written: nobody was told of it, so it does not count.
fn lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let mut read = Vec::new();
    let mut line = String::new();
    while reader
        .read_line(&mut line)
        .with_context(|| format!("reading {}", path.display()))?
        > 0
    {
        if line.ends_with('\n') && !line.trim().is_empty() {
            let parsed = serde_json::from_str(&line)
                .with_context(|| format!("line {} of {} is not understood", read.len() + 1, path.display()))?;
            read.push(parsed);
        }
        line.clear();
    }
    Ok(read)
}
