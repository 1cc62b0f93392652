//! The lines of the two journals: what each says, how they are written, and the book that they make when they are read again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Answer, File, Kept, Scope};
use crate::gateway::balance::{Kind, Transaction};
use crate::gateway::endpoints::Endpoint;
use crate::gateway::events::{self, Event, Subject};
use crate::gateway::form;
use crate::gateway::intents::{Intent, Refund, Status};
use crate::gateway::transfers::Transfer;
use crate::journal::{Lines, Place};

#[derive(Debug, Serialize, Deserialize)]
struct KeptAnswer {
    status: u16,
    body: Box<RawValue>,
}

/// One line of the ledger: the first fields are for checkers, the last ones for rebuilding the book.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    n: u64,
    at: DateTime<Utc>,
    request_id: String,
    key: Option<String>,
    op: String,
    #[serde(default)]
    intent: Option<String>,
    #[serde(default)]
    refund: Option<String>,
    amount: i64,
    currency: String,
    outcome: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    intent_status: Option<Status>,
    #[serde(default)]
    amount_received: i64,
    params_sha256: String,
    metadata: BTreeMap<String, String>,
    path: Option<String>,
    #[serde(default)]
    intent_after: Option<Intent>,
    #[serde(default)]
    refund_after: Option<Refund>,
    #[serde(default)]
    transfer_after: Option<Transfer>,
    #[serde(default)]
    answer: Option<KeptAnswer>,
}

/// One line of the answers file.
#[derive(Debug, Serialize, Deserialize)]
struct AnswerLine {
    at: DateTime<Utc>,
    request_id: String,
    key: Option<String>,
    path: Option<String>,
    params_sha256: String,
    intent: Option<String>,
    #[serde(default)]
    endpoint: Option<Endpoint>,
    answer: KeptAnswer,
}

/// Only the answer of a line of either file.
#[derive(Deserialize)]
struct AnswerOf {
    answer: KeptAnswer,
}

/// The id of what follows from a line: the same whenever it is asked for.
pub(super) fn derived_id(prefix: &str, intent: &str, n: u64, what: &str) -> String {
    let hash = Sha256::digest(format!("{prefix} {intent} {n} {what}"));
    format!("{prefix}_{}", &form::hex(&hash)[..24])
}

/// The events that a line causes.
pub(super) fn events_of(
    intent: &Intent,
    op: &str,
    outcome: &str,
    (n, created): (u64, i64),
    place: Place,
) -> impl Iterator<Item = Event> {
    let (id, amount) = (&intent.id, intent.amount);
    events::kinds_of(op, outcome, intent.status)
        .iter()
        .map(move |kind| Event {
            id: derived_id("evt", id, n, kind),
            kind,
            created,
            place,
            amount,
            pending: 0,
        })
}

/// Reads an event back from its line.
pub(in crate::gateway) fn read_event(lines: &Lines, event: &Event) -> anyhow::Result<Value> {
    let mut line: Line = serde_json::from_str(&lines.read(event.place)?).context("reading an event back")?;
    let intent = line
        .intent_after
        .as_mut()
        .context("the line of an event has no intent")?;
    intent.metadata = line.metadata;
    let subject = Subject {
        intent,
        refund: line.refund_after.as_ref(),
        request_id: Some(line.request_id.as_str()).filter(|id| !id.is_empty()),
        key: line.key.as_deref(),
    };
    Ok(events::render(event, &subject))
}

/// Reads an answer back from its line.
pub(in crate::gateway) fn read_answer(lines: &Lines, place: Place) -> anyhow::Result<Answer> {
    let AnswerOf { answer } = serde_json::from_str(&lines.read(place)?).context("reading a kept answer")?;
    Ok(Answer {
        status: answer.status,
        body: answer.body.get().to_owned(),
    })
}

/// The file of answers that belongs to a ledger.
pub(super) fn answers_path(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".answers");
    name.into()
}

/// A line with the answer put into it byte for byte, as it will be replayed.
pub(super) fn with_answer(line: &Value, answer: Option<&Answer>) -> Vec<u8> {
    let mut text = line.to_string();
    if let Some(answer) = answer {
        text.pop();
        text.push_str(&format!(
            r#","answer":{{"status":{},"body":{}}}}}"#,
            answer.status, answer.body
        ));
    }
    text.into_bytes()
}

/// The movement of money that a line tells of.
fn moved(op: &str, intent: &Intent, refund: Option<&Refund>, created: i64) -> Option<Transaction> {
    let (id, kind, source, amount) = match (op, refund, intent.latest_charge()) {
        ("refund", Some(refund), _) => (&refund.balance_transaction, Kind::Refund, &refund.id, refund.amount),
        ("confirm" | "capture", None, Some(charge)) => (
            &charge.balance_transaction,
            Kind::Charge,
            &charge.id,
            charge.amount_captured,
        ),
        _ => return None,
    };
    let id = id.clone()?;
    Some(Transaction::new(id, kind, source, amount, &intent.currency, created))
}

/// What the journals say, while they are being read.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) intents: Vec<Intent>,
    index: HashMap<String, usize>,
    pub(super) refunds: Vec<Refund>,
    pub(super) transfers: Vec<Transfer>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) events: Vec<Event>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) keys: Vec<(Scope, Kept)>,
    pub(super) last_at: Option<DateTime<Utc>>,
    pub(super) n: u64,
}

impl Memory {
    pub(super) fn ledger_line(&mut self, text: &str, place: Place) -> anyhow::Result<()> {
        let line: Line = serde_json::from_str(text)?;
        anyhow::ensure!(
            line.n == self.n + 1,
            "it has number {}, but {} was expected",
            line.n,
            self.n + 1
        );
        self.n = line.n;
        self.last_at = self.last_at.max(Some(line.at));
        if let Some(mut intent) = line.intent_after {
            let created = line.at.timestamp();
            let told = events_of(&intent, &line.op, &line.outcome, (line.n, created), place);
            self.events.extend(told);
            if line.outcome == "ok" {
                self.transactions
                    .extend(moved(&line.op, &intent, line.refund_after.as_ref(), created));
            }
            intent.metadata = line.metadata;
            match self.index.get(&intent.id) {
                Some(at) => self.intents[*at] = intent,
                None => {
                    self.index.insert(intent.id.clone(), self.intents.len());
                    self.intents.push(intent);
                }
            }
        }
        self.refunds.extend(line.refund_after);
        self.transactions
            .extend(line.transfer_after.as_ref().map(Transfer::moved));
        self.transfers.extend(line.transfer_after);
        if line.answer.is_some() {
            self.key(line.key, line.path, line.params_sha256, line.at, (File::Ledger, place));
        }
        Ok(())
    }

    pub(super) fn answer_line(&mut self, text: &str, place: Place) -> anyhow::Result<()> {
        let line: AnswerLine = serde_json::from_str(text)?;
        if let Some(at) = line.intent.and_then(|id| self.index.get(&id)) {
            self.intents[*at].has_stored_error = true;
        }
        if let Some(endpoint) = line.endpoint {
            match self.endpoints.iter_mut().find(|one| one.id == endpoint.id) {
                Some(known) => *known = endpoint,
                None => self.endpoints.push(endpoint),
            }
        }
        self.key(line.key, line.path, line.params_sha256, line.at, (File::Answers, place));
        Ok(())
    }

    fn key(
        &mut self,
        key: Option<String>,
        path: Option<String>,
        params_sha256: String,
        at: DateTime<Utc>,
        answer: (File, Place),
    ) {
        if let (Some(key), Some(path)) = (key, path) {
            let kept = Kept {
                params_sha256,
                at,
                is_running: false,
                answer: Some(answer),
            };
            self.keys.push((Scope { key, path }, kept));
        }
    }
}
