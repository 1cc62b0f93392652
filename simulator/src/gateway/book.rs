//! All that the gateway knows: intents, refunds, and what follows from them; webhook endpoints; and the answers it gave
//! under idempotency keys.
//!
//! The book lives in memory and is rebuilt from two journals. The *ledger* has one line for each executed operation;
//! besides what a checker reads, a line carries the intent as the operation left it and the answer, so that one line is
//! all or nothing. The *answers* file beside it holds answers that are kept under a key although no money could move,
//! and the webhook endpoints. Answers stay on the disk: memory holds only where each one stands. Events and balance
//! transactions follow from the ledger's lines, here and whenever the ledger is read again.
//!
//! The clock is the machine's, plus what it was moved ahead; it never goes back, nor behind the ledger's last line.

mod lines;
mod moves;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::UnboundedSender;

use self::lines::{Memory, answers_path, derived_id, events_of, with_answer};
pub(super) use self::lines::{read_answer, read_event};
use self::moves::Entry;
use super::Hook;
use super::balance::Transaction;
use super::endpoints::{ENDPOINTS_MAX, Endpoint, NewEndpoint};
use super::error::Error;
use super::events::Event;
use super::faults::Stored;
use super::form;
use super::intents::{Intent, Refund};
use super::methods::Fault;
use super::requests::{Act, Command, RefundOf};
use super::transfers::Transfer;
use crate::journal::{Durable, Journal, Lines, Place};

/// How long an answer is kept under its key.
const KEY_KEPT: TimeDelta = TimeDelta::hours(24);
/// The furthest that the clock can be moved ahead at once.
pub(super) const AHEAD_MAX: TimeDelta = TimeDelta::days(400);

/// The gateway's memory and its two journals.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) intents: Vec<Intent>,
    intent_index: HashMap<String, usize>,
    pub(super) charge_index: HashMap<String, usize>,
    pub(super) refunds: Vec<Refund>,
    pub(super) refund_index: HashMap<String, usize>,
    pub(super) transfers: Vec<Transfer>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) events: Vec<Event>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Authorisations by the time at which they end, in seconds.
    expiries: VecDeque<(i64, usize)>,
    outbox: UnboundedSender<Event>,
    ahead: TimeDelta,
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
    /// The trouble that was ordered for it.
    pub(super) stored: Option<Stored>,
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

/// Who asked for an operation, and when; an authorisation ends by itself, at nobody's request.
struct By<'a> {
    request_id: &'a str,
    scope: Option<&'a Scope>,
    params_sha256: &'a str,
    now: DateTime<Utc>,
}

impl<'a> From<&'a Call> for By<'a> {
    fn from(call: &'a Call) -> Self {
        Self {
            request_id: &call.request_id,
            scope: call.scope.as_ref(),
            params_sha256: &call.params_sha256,
            now: call.now,
        }
    }
}

impl Book {
    /// Opens the ledger and rebuilds everything; also answers the torn ends that were cut off. Each new event goes to
    /// `outbox`.
    pub(super) fn open(
        ledger: &Path,
        seed: u64,
        outbox: UnboundedSender<Event>,
    ) -> anyhow::Result<(Self, Vec<String>)> {
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
            transfers: memory.transfers,
            transactions: memory.transactions,
            events: memory.events,
            endpoints: memory.endpoints,
            expiries: VecDeque::new(),
            outbox,
            ahead: memory
                .last_at
                .map_or(TimeDelta::zero(), |at| (at - Utc::now()).max(TimeDelta::zero())),
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
            book.expiries.extend(intent.expires_at().map(|expiry| (expiry, at)));
        }
        book.expiries.make_contiguous().sort_unstable();
        let oldest = book.now() - KEY_KEPT;
        memory.keys.retain(|(_, kept)| kept.at > oldest);
        memory.keys.sort_by_key(|(_, kept)| kept.at);
        for (scope, kept) in memory.keys {
            book.keys_by_age.push_back((kept.at, scope.clone()));
            book.keys.insert(scope, kept);
        }
        Ok((book, torn))
    }

    /// Adds an endpoint that is named anew at every start, and so is never written down.
    pub(super) fn hook(&mut self, hook: &Hook) -> Result<(), Error> {
        let kinds = Hook::EVENTS.map(str::to_owned).to_vec();
        let new = NewEndpoint::new(hook.url.clone(), kinds, None, BTreeMap::new(), None)?;
        let id = derived_id("we", &hook.url, 0, "hook");
        let endpoint = new.registered(id, hook.secret.clone(), self.now().timestamp());
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// The gateway's time.
    pub(super) fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.ahead
    }

    /// Moves the clock ahead by up to [`AHEAD_MAX`], and ends the authorisations whose time is over by then.
    pub(super) fn advance(&mut self, by: TimeDelta) {
        self.ahead += by;
        self.expire();
    }

    /// Ends the authorisations whose time is over.
    pub(super) fn expire(&mut self) {
        let now = self.now();
        while let Some((_, at)) = self.expiries.pop_front_if(|(expiry, _)| *expiry <= now.timestamp()) {
            let intent = &mut self.intents[at];
            if intent.expires_at().is_none_or(|expiry| expiry > now.timestamp()) {
                continue;
            }
            intent.expire(now.timestamp());
            let amount = intent.amount;
            let by = By {
                request_id: "",
                scope: None,
                params_sha256: "",
                now,
            };
            self.write(&by, &Entry::new("expire", at, amount), None);
        }
    }

    /// Holds a key for a request that is not executed yet; answers instead when the key was used before.
    pub(super) fn reserve(&mut self, call: &Call) -> Option<Outcome> {
        let scope = call.scope.as_ref()?;
        self.forget_old_keys(call.now);
        if let Some(kept) = self.keys.get(scope) {
            return Some(self.repeated(scope, kept, call));
        }
        let kept = Kept {
            params_sha256: call.params_sha256.clone(),
            at: call.now,
            is_running: true,
            answer: None,
        };
        self.keys.insert(scope.clone(), kept);
        None
    }

    /// Executes a command whose key was reserved for it.
    pub(super) fn perform(&mut self, call: &Call) -> Outcome {
        self.expire();
        if call.stored == Some(Stored::Instead) {
            return self.store_error(call, None);
        }
        match self.execute(call) {
            Ok(executed) => executed,
            Err(error) => {
                if let Some(scope) = &call.scope {
                    self.keys.remove(scope);
                }
                Outcome::Refused(error)
            }
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

    /// The ledger's lines, for reading single ones.
    pub(super) fn lines(&self) -> Lines {
        self.ledger.lines()
    }

    /// Changes at how many endpoints an event is pending.
    pub(super) fn set_pending(&mut self, event: &str, to: impl Fn(u32) -> u32) {
        // It is one of the last ones, unless its delivery took long.
        if let Some(event) = self.events.iter_mut().rev().find(|one| one.id == event) {
            event.pending = to(event.pending);
        }
    }

    /// Writes what is waiting and gives the files free.
    pub(super) fn close(&mut self) {
        self.ledger.close();
        self.answers.close();
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
            Act::Transfer(new) => self.transfer(call, new),
            Act::CreateEndpoint(new) => {
                if self.endpoints.iter().filter(|one| !one.is_deleted).count() >= ENDPOINTS_MAX {
                    let message = format!("You have reached the maximum of {ENDPOINTS_MAX} webhook endpoints.");
                    return Err(Error::invalid(None, message));
                }
                let secret = format!("whsec_{}", &self.new_id("whsec")[6..]);
                let endpoint = new.registered(self.new_id("we"), secret, call.now.timestamp());
                let mut body = endpoint.render();
                body["secret"] = json!(endpoint.secret);
                self.endpoints.push(endpoint);
                Ok(self.record_endpoint(call, self.endpoints.len() - 1, &body))
            }
            Act::ChangeEndpoint { id, change } => {
                let at = self.endpoint_at(id)?;
                self.endpoints[at].change(change);
                Ok(self.record_endpoint(call, at, &self.endpoints[at].render()))
            }
            Act::DeleteEndpoint { id } => {
                let at = self.endpoint_at(id)?;
                self.endpoints[at].is_deleted = true;
                Ok(self.record_endpoint(call, at, &self.endpoints[at].render()))
            }
        }
    }

    /// Writes an endpoint as it is now, with the answer, and keeps the key.
    fn record_endpoint(&mut self, call: &Call, at: usize, body: &Value) -> Outcome {
        let answer = Answer {
            status: 200,
            body: body.to_string(),
        };
        self.keep_answer(call, None, Some(at), answer)
    }

    /// Writes the ledger line with its answer and keeps the key.
    fn record(&mut self, call: &Call, entry: &Entry<'_>, body: Value, fault: Option<Fault>) -> Outcome {
        let answer = match (call.stored, entry.error) {
            (Some(Stored::After), None) => ordered_error(),
            (_, Some(error)) => Answer {
                status: error.status.as_u16(),
                body: body.to_string(),
            },
            (_, None) => Answer {
                status: 200,
                body: self.expanded(body, &call.command.expand).to_string(),
            },
        };
        let place = self.write(&By::from(call), entry, Some(&answer));
        self.keep(call, File::Ledger, place);
        Outcome::Executed {
            answer,
            durable: self.ledger.durable(),
            fault,
        }
    }

    /// Writes the ledger line of an operation on no intent, with its answer, and keeps the key.
    pub(super) fn record_line(&mut self, call: &Call, mut line: Value, answer: Answer) -> Outcome {
        self.n += 1;
        line["n"] = json!(self.n);
        let answer = match call.stored {
            Some(Stored::After) => ordered_error(),
            _ => answer,
        };
        let kept = call.scope.is_some().then_some(&answer);
        let place = self.ledger.append(with_answer(&line, kept));
        self.keep(call, File::Ledger, place);
        Outcome::Executed {
            answer,
            durable: self.ledger.durable(),
            fault: None,
        }
    }

    /// Appends a line, and tells of it.
    fn write(&mut self, by: &By<'_>, entry: &Entry<'_>, answer: Option<&Answer>) -> Place {
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
            "at": by.now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "request_id": by.request_id,
            "key": by.scope.map(|scope| &scope.key),
            "op": entry.op,
            "intent": intent.id,
            "refund": refund.map(|refund| &refund.id),
            "amount": entry.amount,
            "currency": intent.currency,
            "outcome": outcome,
            "code": entry.error.and_then(|error| error.code),
            "intent_status": intent.status,
            "amount_received": intent.amount_received,
            "params_sha256": by.params_sha256,
            "metadata": intent.metadata,
            "path": by.scope.map(|scope| &scope.path),
            "intent_after": (outcome != "refused").then_some(intent),
            "refund_after": refund,
        });
        let answer = answer.filter(|_| by.scope.is_some());
        let place = self.ledger.append(with_answer(&line, answer));
        let created = by.now.timestamp();
        for event in events_of(intent, entry.op, outcome, (self.n, created), place) {
            // The post is gone only when the gateway stops.
            let _ = self.outbox.send(event.clone());
            self.events.push(event);
        }
        place
    }

    /// Keeps a 500 under the key without executing anything.
    fn store_error(&mut self, call: &Call, at: Option<usize>) -> Outcome {
        if let Some(at) = at {
            self.intents[at].has_stored_error = true;
        }
        self.keep_answer(call, at, None, ordered_error())
    }

    fn keep_answer(&mut self, call: &Call, intent: Option<usize>, endpoint: Option<usize>, answer: Answer) -> Outcome {
        let line = json!({
            "at": call.now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "request_id": call.request_id,
            "key": call.scope.as_ref().map(|scope| &scope.key),
            "path": call.scope.as_ref().map(|scope| &scope.path),
            "params_sha256": call.params_sha256,
            "intent": intent.map(|at| &self.intents[at].id),
            "endpoint": endpoint.map(|at| &self.endpoints[at]),
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

    /// An endpoint that was not deleted.
    pub(super) fn endpoint_at(&self, id: &str) -> Result<usize, Error> {
        let is_it = |one: &Endpoint| one.id == id && !one.is_deleted;
        let at = self.endpoints.iter().position(is_it);
        at.ok_or_else(|| Error::no_such("webhook endpoint", id, "id"))
    }

    /// The amount of the intent that something is to be done to, if it is about one that there is.
    pub(super) fn amount_of(&self, act: &Act) -> Option<i64> {
        let at = match act {
            Act::Create(new) => return Some(new.amount),
            Act::Confirm { intent, .. } | Act::Capture { intent, .. } | Act::Cancel { intent, .. } => {
                self.intent_index.get(intent)?
            }
            Act::Refund {
                of: RefundOf::Intent(id),
                ..
            } => self.intent_index.get(id)?,
            Act::Refund {
                of: RefundOf::Charge(id),
                ..
            } => self.charge_index.get(id)?,
            Act::Transfer(new) => return Some(new.amount),
            Act::CreateEndpoint(_) | Act::ChangeEndpoint { .. } | Act::DeleteEndpoint { .. } => return None,
        };
        Some(self.intents[*at].amount)
    }

    pub(super) fn intent_at(&self, id: &str, param: &str) -> Result<usize, Error> {
        let at = self.intent_index.get(id).copied();
        at.ok_or_else(|| Error::no_such("payment_intent", id, param))
    }

    /// With a seed, the ids of a new ledger are the same in every run; without one (0) they are random.
    pub(super) fn new_id(&self, prefix: &str) -> String {
        let hash = match self.seed {
            0 => Sha256::digest(uuid::Uuid::new_v4()),
            seed => Sha256::digest(format!("{seed} {prefix} {}", self.n)),
        };
        format!("{prefix}_{}", &form::hex(&hash)[..24])
    }

    /// The id of the movement of money that the line to be written next tells of.
    pub(super) fn transaction_id(&self, of: &str) -> String {
        derived_id("txn", of, self.n + 1, "")
    }
}

/// The 500 that somebody ordered.
fn ordered_error() -> Answer {
    let error = Error::internal("An error occurred on our side, as this was ordered from the simulator.");
    Answer {
        status: error.status.as_u16(),
        body: error.body().to_string(),
    }
}

fn index<T>(items: &[T], id: impl Fn(&T) -> &String) -> HashMap<String, usize> {
    items
        .iter()
        .enumerate()
        .map(|(at, item)| (id(item).clone(), at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::requests;

    #[test]
    fn a_key_is_free_again_after_a_day() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = folder.path().join("ledger.jsonl");
        let (mut book, _) = open(&ledger);
        let now = Utc::now() - KEY_KEPT;
        assert!(matches!(perform(&mut book, now), Outcome::Executed { .. }));
        let almost = now + KEY_KEPT - TimeDelta::seconds(1);
        assert!(matches!(perform(&mut book, almost), Outcome::Replay { .. }));
        assert!(matches!(perform(&mut book, now + KEY_KEPT), Outcome::Executed { .. }));
        assert_eq!(book.intents.len(), 2);
        book.close();
        let (book, _) = open(&ledger);
        assert_eq!(
            (book.intents.len(), book.keys.len()),
            (2, 1),
            "only the younger use of the key is remembered"
        );
    }

    fn open(ledger: &Path) -> (Book, Vec<String>) {
        let (outbox, _) = tokio::sync::mpsc::unbounded_channel();
        Book::open(ledger, 0, outbox).expect("a ledger")
    }

    fn perform(book: &mut Book, now: DateTime<Utc>) -> Outcome {
        let form = form::Form::parse(b"amount=1&currency=gbp").expect("a form");
        let params_sha256 = form.sha256().to_owned();
        let path = "/v1/payment_intents".to_owned();
        let route = requests::Route::find("POST", &path).expect("an endpoint");
        let Ok(requests::Request::Command(command)) = requests::read(&route, form) else {
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
            stored: None,
        };
        if let Some(known) = book.reserve(&call) {
            return known;
        }
        let outcome = book.perform(&call);
        book.finish(&scope);
        outcome
    }
}
