//! All that the gateway knows: intents, refunds and the answers it gave under idempotency keys.
//!
//! The book lives in memory and is rebuilt from two journals. The *ledger* has one line for each executed operation;
//! besides what a checker reads, a line carries the intent as the operation left it and the answer, so that one line is
//! all or nothing. The *answers* file beside it holds answers that are kept under a key although nothing was executed.
//! Answers stay on the disk: memory holds only where each one stands.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::Error;
use super::form;
use super::intents::{Intent, Refund, Status};
use super::methods::{self, Fault, Step};
use super::requests::{Act, Command, NewIntent, Page, Query, RefundOf, Term};
use crate::journal::{Durable, Journal, Lines, Place};

/// How long an answer is kept under its key.
const KEY_KEPT: TimeDelta = TimeDelta::hours(24);

/// The gateway's memory and its two journals.
#[derive(Debug)]
pub(super) struct Book {
    intents: Vec<Intent>,
    intent_index: HashMap<String, usize>,
    charge_index: HashMap<String, usize>,
    refunds: Vec<Refund>,
    refund_index: HashMap<String, usize>,
    keys: HashMap<Scope, Kept>,
    keys_by_age: VecDeque<(DateTime<Utc>, Scope)>,
    ledger: Journal,
    answers: Journal,
    n: u64,
    seed: u64,
}

/// One POST, read and ready.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request_id: String,
    pub(super) scope: Option<Scope>,
    pub(super) params_sha256: String,
    pub(super) now: DateTime<Utc>,
    pub(super) command: Command,
}

/// An idempotency key belongs to one path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) key: String,
    pub(super) path: String,
}

/// What is known of a used key.
#[derive(Debug)]
struct Kept {
    params_sha256: String,
    at: DateTime<Utc>,
    is_running: bool,
    answer: Option<(File, Place)>,
}

#[derive(Debug, Clone, Copy)]
enum File {
    Ledger,
    Answers,
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Not executed and not kept.
    Refused(Error),
    /// Executed, or kept as if it had been. Nobody may be told before `durable`.
    Executed {
        answer: Answer,
        durable: Durable,
        fault: Option<Fault>,
    },
    /// Answered before: read the answer there.
    Replay {
        lines: Lines,
        place: Place,
        durable: Durable,
    },
}

/// Status and body of an answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

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
    intent: String,
    refund: Option<String>,
    amount: i64,
    currency: String,
    outcome: String,
    code: Option<String>,
    intent_status: Status,
    amount_received: i64,
    params_sha256: String,
    metadata: BTreeMap<String, String>,
    path: Option<String>,
    intent_after: Option<Intent>,
    refund_after: Option<Refund>,
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
    answer: KeptAnswer,
}

/// Only the answer of a line of either file.
#[derive(Deserialize)]
struct AnswerOf {
    answer: KeptAnswer,
}

/// What an operation did, for its ledger line.
struct Entry<'a> {
    op: &'static str,
    intent: usize,
    refund: Option<usize>,
    amount: i64,
    error: Option<&'a Error>,
}

impl Book {
    /// Opens the ledger and rebuilds everything; also answers the torn ends that were cut off.
    pub(super) fn open(ledger: &Path, seed: u64) -> anyhow::Result<(Self, Vec<String>)> {
        let mut memory = Memory::default();
        let opened = Journal::open(ledger, |line, place| memory.ledger_line(line, place))?;
        let answers = Journal::open(&answers_path(ledger), |line, place| memory.answer_line(line, place))?;
        let torn = [opened.torn, answers.torn].into_iter().flatten().collect();
        let mut book = Self {
            intent_index: index(&memory.intents, |intent| &intent.id),
            charge_index: HashMap::new(),
            refund_index: index(&memory.refunds, |refund| &refund.id),
            intents: memory.intents,
            refunds: memory.refunds,
            keys: HashMap::new(),
            keys_by_age: VecDeque::new(),
            ledger: opened.journal,
            answers: answers.journal,
            n: memory.n,
            seed,
        };
        for (at, intent) in book.intents.iter().enumerate() {
            for charge in &intent.charges {
                book.charge_index.insert(charge.id.clone(), at);
            }
        }
        let oldest = Utc::now() - KEY_KEPT;
        memory.keys.retain(|(_, kept)| kept.at > oldest);
        memory.keys.sort_by_key(|(_, kept)| kept.at);
        for (scope, kept) in memory.keys {
            book.keys_by_age.push_back((kept.at, scope.clone()));
            book.keys.insert(scope, kept);
        }
        Ok((book, torn))
    }

    /// Executes a command once for its key.
    pub(super) fn perform(&mut self, call: &Call) -> Outcome {
        if let Some(scope) = &call.scope {
            self.forget_old_keys(call.now);
            if let Some(kept) = self.keys.get(scope) {
                return self.repeated(scope, kept, call);
            }
        }
        match self.execute(call) {
            Ok(executed) => executed,
            Err(error) => Outcome::Refused(error),
        }
    }

    /// The request that used the key has been answered; a repeat is answered from the disk from now on.
    pub(super) fn finish(&mut self, scope: &Scope) {
        if let Some(kept) = self.keys.get_mut(scope) {
            kept.is_running = false;
        }
    }

    /// Waits for all that a reader may have seen.
    pub(super) fn durable(&self) -> (Durable, Durable) {
        (self.ledger.durable(), self.answers.durable())
    }

    /// Writes what is waiting and gives the files free.
    pub(super) fn close(&mut self) {
        self.ledger.close();
        self.answers.close();
    }

    /// Answers a question.
    pub(super) fn look(&self, query: &Query) -> Result<Value, Error> {
        match query {
            Query::Intent { id, expand } => Ok(self.intents[self.intent_at(id, "intent")?].render(expand)),
            Query::Intents { page, expand } => {
                let all = self.intents.iter().rev().map(|intent| (intent.id.as_str(), intent));
                listed("/v1/payment_intents", page, all, |intent| intent.render(expand))
            }
            Query::Search { terms, limit, offset } => Ok(self.search(terms, *limit, *offset)),
            Query::Charge { id } => {
                let at = self
                    .charge_index
                    .get(id)
                    .ok_or_else(|| Error::no_such("charge", id, "id"))?;
                let intent = &self.intents[*at];
                let charge = intent.charges.iter().find(|charge| charge.id == *id);
                charge
                    .map(|charge| intent.render_charge(charge))
                    .ok_or_else(|| Error::no_such("charge", id, "id"))
            }
            Query::Charges { page, intent } => {
                let of = |candidate: &&Intent| intent.as_ref().is_none_or(|id| *id == candidate.id);
                let all = self.intents.iter().rev().filter(of).flat_map(|intent| {
                    intent
                        .charges
                        .iter()
                        .rev()
                        .map(move |charge| (charge.id.as_str(), (intent, charge)))
                });
                listed("/v1/charges", page, all, |(intent, charge)| {
                    intent.render_charge(charge)
                })
            }
            Query::Refund { id, expand } => {
                let at = self
                    .refund_index
                    .get(id)
                    .ok_or_else(|| Error::no_such("refund", id, "id"))?;
                Ok(self.render_refund(*at, expand))
            }
            Query::Refunds {
                page,
                intent,
                charge,
                expand,
            } => {
                let all = (0..self.refunds.len())
                    .rev()
                    .map(|at| (self.refunds[at].id.as_str(), at))
                    .filter(|(_, at)| {
                        let refund = &self.refunds[*at];
                        intent.as_ref().is_none_or(|id| *id == refund.intent)
                            && charge.as_ref().is_none_or(|id| *id == refund.charge)
                    });
                listed("/v1/refunds", page, all, |at| self.render_refund(at, expand))
            }
        }
    }

    fn repeated(&self, scope: &Scope, kept: &Kept, call: &Call) -> Outcome {
        if kept.params_sha256 != call.params_sha256 {
            return Outcome::Refused(Error::key_reused(&scope.key));
        }
        match kept.answer {
            Some((File::Ledger, place)) if !kept.is_running => Outcome::Replay {
                lines: self.ledger.lines(),
                place,
                durable: self.ledger.durable(),
            },
            Some((File::Answers, place)) if !kept.is_running => Outcome::Replay {
                lines: self.answers.lines(),
                place,
                durable: self.answers.durable(),
            },
            _ => Outcome::Refused(Error::key_in_use(&scope.key)),
        }
    }

    fn execute(&mut self, call: &Call) -> Result<Outcome, Error> {
        match &call.command.act {
            Act::Create(new) => Ok(self.create(call, new)),
            Act::Confirm { intent, method } => self.confirm(call, intent, method.as_deref()),
            Act::Capture {
                intent,
                amount,
                metadata,
            } => self.capture(call, intent, *amount, metadata),
            Act::Cancel { intent, reason } => self.cancel(call, intent, *reason),
            Act::Refund {
                of,
                amount,
                reason,
                metadata,
            } => self.refund(call, of, *amount, *reason, metadata),
        }
    }

    fn create(&mut self, call: &Call, new: &NewIntent) -> Outcome {
        let fault = new.method.as_deref().filter(|_| new.is_confirmed_at_once);
        let fault = fault.and_then(|method| methods::fault(method, Step::Confirm));
        if fault == Some(Fault::ErrorStored) {
            return self.store_error(call, None);
        }
        let status = match &new.method {
            Some(_) => Status::RequiresConfirmation,
            None => Status::RequiresPaymentMethod,
        };
        let id = self.new_id("pi");
        let at = self.intents.len();
        self.intent_index.insert(id.clone(), at);
        self.intents.push(Intent {
            id,
            created: call.now.timestamp(),
            amount: new.amount,
            currency: new.currency.clone(),
            capture_method: new.capture_method,
            status,
            payment_method: new.method.clone(),
            amount_capturable: 0,
            amount_received: 0,
            canceled_at: None,
            cancellation_reason: None,
            labels: new.labels.clone(),
            last_error: None,
            charges: Vec::new(),
            metadata: new.metadata.clone(),
            has_stored_error: false,
        });
        let entry = Entry {
            op: "create",
            intent: at,
            refund: None,
            amount: new.amount,
            error: None,
        };
        if !new.is_confirmed_at_once {
            let body = self.intents[at].render(&call.command.expand);
            return self.record(call, entry, &body, None);
        }
        self.write(call, &entry, None);
        self.confirmed(call, at, None, fault)
    }

    fn confirm(&mut self, call: &Call, id: &str, method: Option<&str>) -> Result<Outcome, Error> {
        let at = self.intent_at(id, "intent")?;
        let intent = &self.intents[at];
        let used = method.or(intent.payment_method.as_deref());
        let fault = used.and_then(|method| methods::fault(method, Step::Confirm));
        let is_open = matches!(
            intent.status,
            Status::RequiresPaymentMethod | Status::RequiresConfirmation
        );
        if fault == Some(Fault::ErrorStored) && is_open && !intent.has_stored_error {
            return Ok(self.store_error(call, Some(at)));
        }
        Ok(self.confirmed(call, at, method, fault))
    }

    fn confirmed(&mut self, call: &Call, at: usize, method: Option<&str>, fault: Option<Fault>) -> Outcome {
        let charge_id = self.new_id("ch");
        let intent = &mut self.intents[at];
        let amount = intent.amount;
        let result = intent.confirm(method, charge_id, call.now.timestamp());
        if let Some(charge) = intent.charges.last() {
            self.charge_index.insert(charge.id.clone(), at);
        }
        let fault = fault.filter(|_| result.is_ok());
        self.conclude(call, "confirm", at, amount, result, fault)
    }

    fn capture(
        &mut self,
        call: &Call,
        id: &str,
        amount: Option<i64>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Outcome, Error> {
        let at = self.intent_at(id, "intent")?;
        let intent = &mut self.intents[at];
        let asked = amount.unwrap_or(intent.amount_capturable);
        let result = intent.capture(amount);
        if result.is_ok() {
            intent.metadata.extend(metadata.clone());
        }
        let fault = intent.payment_method.as_deref().filter(|_| result.is_ok());
        let fault = fault.and_then(|method| methods::fault(method, Step::Capture));
        Ok(self.conclude(call, "capture", at, asked, result.map(|_| ()), fault))
    }

    fn cancel(&mut self, call: &Call, id: &str, reason: Option<&str>) -> Result<Outcome, Error> {
        let at = self.intent_at(id, "intent")?;
        let amount = self.intents[at].amount;
        let result = self.intents[at].cancel(reason, call.now.timestamp());
        Ok(self.conclude(call, "cancel", at, amount, result, None))
    }

    fn refund(
        &mut self,
        call: &Call,
        of: &RefundOf,
        amount: Option<i64>,
        reason: Option<&str>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Outcome, Error> {
        let at = match of {
            RefundOf::Intent(id) => self.intent_at(id, "payment_intent").map_err(Error::in_parameters)?,
            RefundOf::Charge(id) => {
                let at = self.charge_index.get(id).copied();
                at.ok_or_else(|| Error::no_such("charge", id, "charge").in_parameters())?
            }
        };
        let (charge, amount) = match self.intents[at].refund(amount) {
            Ok(refunded) => refunded,
            Err(error) => {
                return Ok(self.conclude(call, "refund", at, amount.unwrap_or(0), Err(error), None));
            }
        };
        let id = self.new_id("re");
        let refund = Refund {
            id: id.clone(),
            created: call.now.timestamp(),
            amount,
            currency: self.intents[at].currency.clone(),
            intent: self.intents[at].id.clone(),
            charge,
            reason: reason.map(str::to_owned),
            metadata: metadata.clone(),
        };
        let refund_at = self.refunds.len();
        self.refunds.push(refund);
        self.refund_index.insert(id, refund_at);
        let body = self.render_refund(refund_at, &call.command.expand);
        let entry = Entry {
            op: "refund",
            intent: at,
            refund: Some(refund_at),
            amount,
            error: None,
        };
        Ok(self.record(call, entry, &body, None))
    }

    /// Records an operation on an intent, whatever its result, and makes its answer.
    fn conclude(
        &mut self,
        call: &Call,
        op: &'static str,
        at: usize,
        amount: i64,
        result: Result<(), Error>,
        fault: Option<Fault>,
    ) -> Outcome {
        let intent = &self.intents[at];
        match result {
            Ok(()) => {
                let body = intent.render(&call.command.expand);
                self.record(
                    call,
                    Entry {
                        op,
                        intent: at,
                        refund: None,
                        amount,
                        error: None,
                    },
                    &body,
                    fault,
                )
            }
            Err(error) => {
                let error = error.intent(intent.render(&[]));
                let body = error.body();
                self.record(
                    call,
                    Entry {
                        op,
                        intent: at,
                        refund: None,
                        amount,
                        error: Some(&error),
                    },
                    &body,
                    fault,
                )
            }
        }
    }

    /// Writes the ledger line with its answer and keeps the key.
    fn record(&mut self, call: &Call, entry: Entry<'_>, body: &Value, fault: Option<Fault>) -> Outcome {
        let status = entry.error.map_or(200, |error| error.status.as_u16());
        let answer = Answer {
            status,
            body: body.to_string(),
        };
        let place = self.write(call, &entry, Some(&answer));
        self.keep(call, File::Ledger, place);
        Outcome::Executed {
            answer,
            durable: self.ledger.durable(),
            fault,
        }
    }

    fn write(&mut self, call: &Call, entry: &Entry<'_>, answer: Option<&Answer>) -> Place {
        self.n += 1;
        let intent = &self.intents[entry.intent];
        let refund = entry.refund.map(|at| &self.refunds[at]);
        let outcome = match entry.error {
            None => "ok",
            Some(error) if error.is_card_error() => "declined",
            Some(_) => "refused",
        };
        let line = json!({
            "n": self.n,
            "at": call.now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "request_id": call.request_id,
            "key": call.scope.as_ref().map(|scope| &scope.key),
            "op": entry.op,
            "intent": intent.id,
            "refund": refund.map(|refund| &refund.id),
            "amount": entry.amount,
            "currency": intent.currency,
            "outcome": outcome,
            "code": entry.error.and_then(|error| error.code),
            "intent_status": intent.status,
            "amount_received": intent.amount_received,
            "params_sha256": call.params_sha256,
            "metadata": intent.metadata,
            "path": call.scope.as_ref().map(|scope| &scope.path),
            "intent_after": (outcome != "refused").then_some(intent),
            "refund_after": refund,
        });
        let answer = answer.filter(|_| call.scope.is_some());
        self.ledger.append(with_answer(&line, answer))
    }

    /// Keeps a 500 under the key without executing anything.
    fn store_error(&mut self, call: &Call, at: Option<usize>) -> Outcome {
        let error = Error::internal("An error occurred on our side: pm_card_error_stored asked for it.");
        let answer = Answer {
            status: error.status.as_u16(),
            body: error.body().to_string(),
        };
        if let Some(at) = at {
            self.intents[at].has_stored_error = true;
        }
        let line = json!({
            "at": call.now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "request_id": call.request_id,
            "key": call.scope.as_ref().map(|scope| &scope.key),
            "path": call.scope.as_ref().map(|scope| &scope.path),
            "params_sha256": call.params_sha256,
            "intent": at.map(|at| &self.intents[at].id),
        });
        let place = self.answers.append(with_answer(&line, Some(&answer)));
        self.keep(call, File::Answers, place);
        Outcome::Executed {
            answer,
            durable: self.answers.durable(),
            fault: None,
        }
    }

    fn keep(&mut self, call: &Call, file: File, place: Place) {
        let Some(scope) = &call.scope else { return };
        let kept = Kept {
            params_sha256: call.params_sha256.clone(),
            at: call.now,
            is_running: true,
            answer: Some((file, place)),
        };
        self.keys_by_age.push_back((call.now, scope.clone()));
        self.keys.insert(scope.clone(), kept);
    }

    fn forget_old_keys(&mut self, now: DateTime<Utc>) {
        while let Some((_, scope)) = self.keys_by_age.pop_front_if(|(at, _)| *at <= now - KEY_KEPT) {
            self.keys.remove(&scope);
        }
    }

    fn intent_at(&self, id: &str, param: &str) -> Result<usize, Error> {
        let at = self.intent_index.get(id).copied();
        at.ok_or_else(|| Error::no_such("payment_intent", id, param))
    }

    fn render_refund(&self, at: usize, expand: &[&str]) -> Value {
        let refund = &self.refunds[at];
        self.refunds[at].render(&self.intents[self.intent_index[&refund.intent]], expand)
    }

    fn search(&self, terms: &[Term], limit: usize, offset: usize) -> Value {
        let matches = |intent: &&Intent| {
            terms.iter().all(|term| match term {
                Term::Status(status) => intent.status.name() == status,
                Term::Metadata { key, value } => intent.metadata.get(key) == Some(value),
            })
        };
        let mut found: Vec<&Intent> = self
            .intents
            .iter()
            .rev()
            .filter(matches)
            .skip(offset)
            .take(limit + 1)
            .collect();
        let has_more = found.len() > limit;
        found.truncate(limit);
        json!({
            "object": "search_result",
            "url": "/v1/payment_intents/search",
            "has_more": has_more,
            "next_page": has_more.then(|| format!("page_{}", offset + limit)),
            "data": found.into_iter().map(|intent| intent.render(&[])).collect::<Vec<_>>(),
        })
    }

    /// With a seed, the ids of a new ledger are the same in every run; without one (0) they are random.
    fn new_id(&self, prefix: &str) -> String {
        let hash = match self.seed {
            0 => Sha256::digest(uuid::Uuid::new_v4()),
            seed => Sha256::digest(format!("{seed} {prefix} {}", self.n)),
        };
        format!("{prefix}_{}", &form::hex(&hash)[..24])
    }
}

/// Reads an answer back from its line.
pub(super) fn read_answer(lines: &Lines, place: Place) -> anyhow::Result<Answer> {
    let AnswerOf { answer } = serde_json::from_str(&lines.read(place)?).context("reading a kept answer")?;
    Ok(Answer {
        status: answer.status,
        body: answer.body.get().to_owned(),
    })
}

/// The file of answers that belongs to a ledger.
fn answers_path(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".answers");
    name.into()
}

/// A line with the answer put into it byte for byte, as it will be replayed.
fn with_answer(line: &Value, answer: Option<&Answer>) -> Vec<u8> {
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

/// A page of a list whose items come newest first.
fn listed<'a, T>(
    url: &str,
    page: &Page,
    all: impl Iterator<Item = (&'a str, T)>,
    render: impl Fn(T) -> Value,
) -> Result<Value, Error> {
    let mut items: Vec<(&str, T)> = Vec::new();
    let mut has_more = false;
    match (&page.starting_after, &page.ending_before) {
        (_, Some(before)) => {
            let mut is_found = false;
            for item in all {
                if item.0 == before {
                    is_found = true;
                    break;
                }
                items.push(item);
            }
            if !is_found {
                return Err(no_cursor(before, "ending_before"));
            }
            has_more = items.len() > page.limit;
            items.drain(..items.len().saturating_sub(page.limit));
        }
        (after, None) => {
            let mut all = all;
            if let Some(after) = after {
                all.find(|(id, _)| id == after)
                    .ok_or_else(|| no_cursor(after, "starting_after"))?;
            }
            for item in all {
                if items.len() == page.limit {
                    has_more = true;
                    break;
                }
                items.push(item);
            }
        }
    }
    let data: Vec<Value> = items.into_iter().map(|(_, item)| render(item)).collect();
    Ok(json!({ "object": "list", "url": url, "has_more": has_more, "data": data }))
}

fn no_cursor(id: &str, param: &str) -> Error {
    Error::invalid(Some("resource_missing"), format!("No such object: '{id}'")).param(param)
}

fn index<T>(items: &[T], id: impl Fn(&T) -> &String) -> HashMap<String, usize> {
    items
        .iter()
        .enumerate()
        .map(|(at, item)| (id(item).clone(), at))
        .collect()
}

/// What the journals say, while they are being read.
#[derive(Default)]
struct Memory {
    intents: Vec<Intent>,
    index: HashMap<String, usize>,
    refunds: Vec<Refund>,
    keys: Vec<(Scope, Kept)>,
    n: u64,
}

impl Memory {
    fn ledger_line(&mut self, text: &str, place: Place) -> anyhow::Result<()> {
        let line: Line = serde_json::from_str(text)?;
        anyhow::ensure!(
            line.n == self.n + 1,
            "it has number {}, but {} was expected",
            line.n,
            self.n + 1
        );
        self.n = line.n;
        if let Some(mut intent) = line.intent_after {
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
        if line.answer.is_some() {
            self.key(line.key, line.path, line.params_sha256, line.at, (File::Ledger, place));
        }
        Ok(())
    }

    fn answer_line(&mut self, text: &str, place: Place) -> anyhow::Result<()> {
        let line: AnswerLine = serde_json::from_str(text)?;
        if let Some(at) = line.intent.and_then(|id| self.index.get(&id)) {
            self.intents[*at].has_stored_error = true;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::requests;

    #[test]
    fn a_key_is_free_again_after_a_day() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = folder.path().join("ledger.jsonl");
        let (mut book, _) = Book::open(&ledger, 0).expect("a new ledger");
        let now = Utc::now() - KEY_KEPT;
        assert!(matches!(perform(&mut book, now), Outcome::Executed { .. }));
        let almost = now + KEY_KEPT - TimeDelta::seconds(1);
        assert!(matches!(perform(&mut book, almost), Outcome::Replay { .. }));
        assert!(matches!(perform(&mut book, now + KEY_KEPT), Outcome::Executed { .. }));
        assert_eq!(book.intents.len(), 2);
        book.close();
        let (book, _) = Book::open(&ledger, 0).expect("the same ledger");
        assert_eq!(
            (book.intents.len(), book.keys.len()),
            (2, 1),
            "only the younger use of the key is remembered"
        );
    }

    fn perform(book: &mut Book, now: DateTime<Utc>) -> Outcome {
        let form = form::Form::parse(b"amount=1&currency=gbp").expect("a form");
        let params_sha256 = form.sha256().to_owned();
        let path = "/v1/payment_intents".to_owned();
        let Ok(requests::Request::Command(command)) = requests::read("POST", &path, form) else {
            panic!("creating is a command")
        };
        let scope = Scope {
            key: "create:1".into(),
            path,
        };
        let call = Call {
            request_id: "req_1".into(),
            scope: Some(scope.clone()),
            params_sha256,
            now,
            command,
        };
        let outcome = book.perform(&call);
        book.finish(&scope);
        outcome
    }
}
