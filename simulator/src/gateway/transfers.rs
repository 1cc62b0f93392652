//! Transfers: what is paid out to the accounts of others. There is no register of accounts here: each `acct_…` can be paid,
//! but for those whose name says otherwise.

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::balance::{Kind, Transaction};
use super::book::{Answer, Book, Call, Outcome};
use super::error::Error;
use super::form::Form;
use super::requests::currency;

/// The account that takes nothing any more.
const CLOSED: &str = "acct_closed";

/// A transfer to be made.
#[derive(Debug)]
pub(super) struct NewTransfer {
    pub(super) amount: i64,
    currency: String,
    destination: String,
    group: Option<String>,
    description: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl NewTransfer {
    pub(super) fn read(form: &mut Form) -> Result<Self, Error> {
        let new = Self {
            amount: form.amount("amount")?.ok_or_else(|| Error::missing("amount"))?,
            currency: currency(form.required("currency")?)?,
            destination: form.required("destination")?,
            group: form.text("transfer_group")?,
            description: form.text("description")?,
            metadata: form.metadata()?,
        };
        match new.destination.starts_with("acct_") {
            true => Ok(new),
            false => Err(Error::no_such("destination", &new.destination, "destination").in_parameters()),
        }
    }
}

/// A transfer that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) destination: String,
    pub(super) group: Option<String>,
    description: Option<String>,
    metadata: BTreeMap<String, String>,
    pub(super) balance_transaction: String,
}

impl Transfer {
    /// The transfer as the wire shows it.
    pub(super) fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "transfer",
            "amount": self.amount,
            "amount_reversed": 0,
            "balance_transaction": self.balance_transaction,
            "created": self.created,
            "currency": self.currency,
            "description": self.description,
            "destination": self.destination,
            "destination_payment": null,
            "livemode": false,
            "metadata": self.metadata,
            "reversals": {
                "object": "list",
                "data": [],
                "has_more": false,
                "url": format!("/v1/transfers/{}/reversals", self.id),
            },
            "reversed": false,
            "source_transaction": null,
            "source_type": "card",
            "transfer_group": self.group,
        })
    }

    /// What it moved on the gateway's balance.
    pub(super) fn moved(&self) -> Transaction {
        let id = self.balance_transaction.clone();
        Transaction::new(id, Kind::Transfer, &self.id, self.amount, &self.currency, self.created)
    }
}

impl Book {
    /// Makes a transfer, and its line in the ledger.
    pub(super) fn transfer(&mut self, call: &Call, new: &NewTransfer) -> Result<Outcome, Error> {
        if new.destination == CLOSED {
            let message = "This account is closed and cannot receive transfers.";
            return Err(Error::invalid(Some("account_closed"), message).param("destination"));
        }
        let id = self.new_id("tr");
        let transfer = Transfer {
            created: call.now.timestamp(),
            amount: new.amount,
            currency: new.currency.clone(),
            destination: new.destination.clone(),
            group: new.group.clone(),
            description: new.description.clone(),
            metadata: new.metadata.clone(),
            balance_transaction: self.transaction_id(&id),
            id,
        };
        let line = json!({
            "at": call.now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "request_id": call.request_id,
            "key": call.scope.as_ref().map(|scope| &scope.key),
            "op": "transfer",
            "transfer": transfer.id,
            "destination": transfer.destination,
            "amount": transfer.amount,
            "currency": transfer.currency,
            "outcome": "ok",
            "params_sha256": call.params_sha256,
            "metadata": transfer.metadata,
            "path": call.scope.as_ref().map(|scope| &scope.path),
            "transfer_after": transfer,
        });
        let body = self.expanded(transfer.render(), &call.command.expand).to_string();
        self.transactions.push(transfer.moved());
        self.transfers.push(transfer);
        Ok(self.record_line(call, line, Answer { status: 200, body }))
    }
}
