//! What is done to intents: each operation, whatever its result, and its line.

use std::collections::BTreeMap;

use super::{Book, By, Call, Outcome};
use crate::gateway::balance::{Kind, Transaction};
use crate::gateway::error::Error;
use crate::gateway::intents::{ChargeOutcome, Intent, Refund, Status};
use crate::gateway::methods::{self, Fault, Step};
use crate::gateway::requests::{NewIntent, RefundOf};

/// What an operation did, for its ledger line.
pub(super) struct Entry<'a> {
    pub(super) op: &'static str,
    pub(super) intent: usize,
    pub(super) refund: Option<usize>,
    pub(super) amount: i64,
    pub(super) error: Option<&'a Error>,
}

impl Entry<'_> {
    pub(super) fn new(op: &'static str, intent: usize, amount: i64) -> Self {
        Self {
            op,
            intent,
            refund: None,
            amount,
            error: None,
        }
    }
}

impl Book {
    pub(super) fn create(&mut self, call: &Call, new: &NewIntent) -> Outcome {
        let amount = new.amount;
        let fault = new.method.as_deref().filter(|_| new.is_confirmed_at_once);
        let fault = fault.and_then(|method| methods::fault(amount, method, Step::Confirm));
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
        let entry = Entry::new("create", at, amount);
        if !new.is_confirmed_at_once {
            return self.record(call, &entry, self.intents[at].render(), None);
        }
        self.write(&By::from(call), &entry, None);
        self.confirmed(call, at, None, fault)
    }

    pub(super) fn confirm(&mut self, call: &Call, id: &str, method: Option<&str>) -> Result<Outcome, Error> {
        let at = self.intent_at(id, "intent")?;
        let intent = &self.intents[at];
        let amount = intent.amount;
        let used = method.or(intent.payment_method.as_deref());
        let fault = used.and_then(|method| methods::fault(amount, method, Step::Confirm));
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
        if result.is_ok() {
            self.expiries
                .extend(self.intents[at].expires_at().map(|expiry| (expiry, at)));
            self.settle(at, call.now.timestamp());
        }
        let fault = fault.filter(|_| result.is_ok());
        self.conclude(call, "confirm", at, amount, result, fault)
    }

    pub(super) fn capture(
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
        let fault = intent.fault(Step::Capture).filter(|_| result.is_ok());
        if result.is_ok() {
            self.settle(at, call.now.timestamp());
        }
        Ok(self.conclude(call, "capture", at, asked, result.map(|_| ()), fault))
    }

    /// Books what the charge of an intent has taken, if it has.
    fn settle(&mut self, at: usize, now: i64) {
        let id = self.transaction_id(&self.intents[at].id);
        let intent = &mut self.intents[at];
        if let Some(charge) = intent.charges.last_mut()
            && charge.outcome == ChargeOutcome::Captured
        {
            charge.balance_transaction = Some(id.clone());
            let amount = charge.amount_captured;
            let moved = Transaction::new(id, Kind::Charge, &charge.id, amount, &intent.currency, now);
            self.transactions.push(moved);
        }
    }

    pub(super) fn cancel(&mut self, call: &Call, id: &str, reason: Option<&str>) -> Result<Outcome, Error> {
        let at = self.intent_at(id, "intent")?;
        let amount = self.intents[at].amount;
        let result = self.intents[at].cancel(reason, call.now.timestamp());
        Ok(self.conclude(call, "cancel", at, amount, result, None))
    }

    pub(super) fn refund(
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
        let transaction = self.transaction_id(&self.intents[at].id);
        let now = call.now.timestamp();
        let refund = Refund {
            id: id.clone(),
            created: call.now.timestamp(),
            amount,
            currency: self.intents[at].currency.clone(),
            intent: self.intents[at].id.clone(),
            charge,
            reason: reason.map(str::to_owned),
            metadata: metadata.clone(),
            balance_transaction: Some(transaction.clone()),
        };
        let moved = Transaction::new(transaction, Kind::Refund, &id, amount, &refund.currency, now);
        self.transactions.push(moved);
        let body = refund.render();
        let refund_at = self.refunds.len();
        self.refunds.push(refund);
        self.refund_index.insert(id, refund_at);
        let entry = Entry {
            refund: Some(refund_at),
            ..Entry::new("refund", at, amount)
        };
        Ok(self.record(call, &entry, body, None))
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
        let body = self.intents[at].render();
        match result {
            Ok(()) => self.record(call, &Entry::new(op, at, amount), body, fault),
            Err(error) => {
                let error = error.intent(body);
                let entry = Entry {
                    error: Some(&error),
                    ..Entry::new(op, at, amount)
                };
                self.record(call, &entry, error.body(), fault)
            }
        }
    }
}
