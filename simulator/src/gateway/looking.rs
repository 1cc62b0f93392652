//! Questions: one object, a page of a list, a search; and what is shown whole instead of by its id.

use serde_json::{Value, json};

use super::book::{self, Book};
use super::error::Error;
use super::events::Event;
use super::intents::{Charge, Intent, Refund};
use super::requests::{Page, Query, Term, What};
use super::transfers::Transfer;
use crate::journal::Lines;

/// What was found. Events stand on the disk, and can be read once their lines are there.
#[derive(Debug)]
pub(super) enum Found {
    Ready(Value),
    Event(Event, Lines),
    Events {
        events: Vec<Event>,
        has_more: bool,
        lines: Lines,
    },
}

impl Found {
    /// The answer; everything appended up to the question must be durable.
    pub(super) fn body(self) -> anyhow::Result<Value> {
        match self {
            Self::Ready(body) => Ok(body),
            Self::Event(event, lines) => book::read_event(&lines, &event),
            Self::Events {
                events,
                has_more,
                lines,
            } => {
                let read = events.iter().map(|event| book::read_event(&lines, event));
                let data = read.collect::<anyhow::Result<Vec<Value>>>()?;
                Ok(json!({ "object": "list", "url": "/v1/events", "has_more": has_more, "data": data }))
            }
        }
    }
}

impl Book {
    /// Answers a question.
    pub(super) fn look(&self, query: &Query) -> Result<Found, Error> {
        let expand = query.expand.as_slice();
        let one = |object: Value| Ok(Found::Ready(self.expanded(object, expand)));
        match &query.what {
            What::Intent(id) => one(self.intents[self.intent_at(id, "intent")?].render()),
            What::Charge(id) => one(self
                .charge_by_id(id)
                .ok_or_else(|| Error::no_such("charge", id, "id"))?),
            What::Refund(id) => one(self
                .refund_by_id(id)
                .ok_or_else(|| Error::no_such("refund", id, "id"))?),
            What::Transaction(id) => {
                let found = self.transaction_by_id(id);
                one(found.ok_or_else(|| Error::no_such("balance transaction", id, "id"))?)
            }
            What::Endpoint(id) => one(self.endpoints[self.endpoint_at(id)?].render()),
            What::Event(id) => {
                let found = self.events.iter().rev().find(|event| event.id == *id);
                let event = found.ok_or_else(|| Error::no_such("event", id, "id"))?;
                Ok(Found::Event(event.clone(), self.lines()))
            }
            What::Events { page, kinds } => {
                let wanted = |event: &&Event| kinds.is_empty() || kinds.iter().any(|kind| kind == event.kind);
                let all = self.events.iter().rev().filter(wanted);
                let (events, has_more) = paged(page, all, |event| (event.id.as_str(), event.created))?;
                Ok(Found::Events {
                    events: events.into_iter().cloned().collect(),
                    has_more,
                    lines: self.lines(),
                })
            }
            What::Search { terms, limit, offset } => Ok(Found::Ready(self.search(terms, *limit, *offset, expand))),
            What::Intents(page) => {
                let all = self.intents.iter().rev();
                let found = paged(page, all, |intent| (intent.id.as_str(), intent.created))?;
                Ok(self.list("/v1/payment_intents", found, expand, Intent::render))
            }
            What::Charges { page, intent } => {
                let of = |candidate: &&Intent| intent.as_ref().is_none_or(|id| *id == candidate.id);
                let intents = self.intents.iter().rev().filter(of);
                let all = intents.flat_map(|intent| intent.charges.iter().rev().map(move |charge| (intent, charge)));
                let found = paged(page, all, |(_, charge)| (charge.id.as_str(), charge.created))?;
                let render = |(intent, charge): (&Intent, &Charge)| intent.render_charge(charge);
                Ok(self.list("/v1/charges", found, expand, render))
            }
            What::Refunds { page, intent, charge } => {
                let all = self.refunds.iter().rev().filter(|refund| {
                    intent.as_ref().is_none_or(|id| *id == refund.intent)
                        && charge.as_ref().is_none_or(|id| *id == refund.charge)
                });
                let found = paged(page, all, |refund| (refund.id.as_str(), refund.created))?;
                Ok(self.list("/v1/refunds", found, expand, Refund::render))
            }
            What::Transfer(id) => {
                let found = self.transfer_by_id(id);
                one(found.ok_or_else(|| Error::no_such("transfer", id, "id"))?)
            }
            What::Transfers {
                page,
                destination,
                group,
            } => {
                let all = self.transfers.iter().rev().filter(|transfer| {
                    destination
                        .as_ref()
                        .is_none_or(|account| *account == transfer.destination)
                        && group
                            .as_ref()
                            .is_none_or(|group| transfer.group.as_ref() == Some(group))
                });
                let found = paged(page, all, |transfer| (transfer.id.as_str(), transfer.created))?;
                Ok(self.list("/v1/transfers", found, expand, Transfer::render))
            }
            What::Transactions { page, kind, source } => {
                let all = self.transactions.iter().rev().filter(|moved| {
                    kind.is_none_or(|kind| kind == moved.kind.name())
                        && source.as_ref().is_none_or(|id| *id == moved.source)
                });
                let found = paged(page, all, |moved| (moved.id.as_str(), moved.created))?;
                Ok(self.list("/v1/balance_transactions", found, expand, |moved| moved.render()))
            }
            What::Endpoints(page) => {
                let all = self.endpoints.iter().rev().filter(|endpoint| !endpoint.is_deleted);
                let found = paged(page, all, |endpoint| (endpoint.id.as_str(), endpoint.created))?;
                Ok(self.list("/v1/webhook_endpoints", found, expand, |endpoint| endpoint.render()))
            }
        }
    }

    /// Shows whole what stands as an id at each of the paths. What isn't there stays as it is.
    pub(super) fn expanded(&self, mut object: Value, paths: &[&str]) -> Value {
        // The outer ones first, since the inner ones stand in them.
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        for path in paths {
            let pointer = format!("/{}", path.replace('.', "/"));
            let Some(place) = object.pointer_mut(&pointer) else {
                continue;
            };
            if let Some(whole) = place.as_str().and_then(|id| self.by_id(id)) {
                *place = whole;
            }
        }
        object
    }

    fn by_id(&self, id: &str) -> Option<Value> {
        match id.split('_').next()? {
            "pi" => self.intent_at(id, "id").ok().map(|at| self.intents[at].render()),
            "ch" => self.charge_by_id(id),
            "re" => self.refund_by_id(id),
            "tr" => self.transfer_by_id(id),
            "txn" => self.transaction_by_id(id),
            _ => None,
        }
    }

    fn charge_by_id(&self, id: &str) -> Option<Value> {
        let intent = &self.intents[*self.charge_index.get(id)?];
        let charge = intent.charges.iter().find(|charge| charge.id == *id)?;
        Some(intent.render_charge(charge))
    }

    fn refund_by_id(&self, id: &str) -> Option<Value> {
        Some(self.refunds[*self.refund_index.get(id)?].render())
    }

    fn transfer_by_id(&self, id: &str) -> Option<Value> {
        let found = self.transfers.iter().rev().find(|transfer| transfer.id == id);
        found.map(Transfer::render)
    }

    fn transaction_by_id(&self, id: &str) -> Option<Value> {
        let found = self.transactions.iter().rev().find(|moved| moved.id == id);
        found.map(|moved| moved.render())
    }

    fn list<T>(&self, url: &str, found: (Vec<T>, bool), expand: &[&str], render: impl Fn(T) -> Value) -> Found {
        let (items, has_more) = found;
        let shown = items.into_iter().map(|item| self.expanded(render(item), expand));
        let data: Vec<Value> = shown.collect();
        Found::Ready(json!({ "object": "list", "url": url, "has_more": has_more, "data": data }))
    }

    fn search(&self, terms: &[Term], limit: usize, offset: usize, expand: &[&str]) -> Value {
        let matches = |intent: &&Intent| {
            terms.iter().all(|term| match term {
                Term::Status(status) => intent.status.name() == status,
                Term::Metadata { key, value } => intent.metadata.get(key) == Some(value),
            })
        };
        let all = self.intents.iter().rev().filter(matches);
        let mut found: Vec<&Intent> = all.skip(offset).take(limit + 1).collect();
        let has_more = found.len() > limit;
        found.truncate(limit);
        let shown = found.into_iter().map(|intent| self.expanded(intent.render(), expand));
        json!({
            "object": "search_result",
            "url": "/v1/payment_intents/search",
            "has_more": has_more,
            "next_page": has_more.then(|| format!("page_{}", offset + limit)),
            "data": shown.collect::<Vec<_>>(),
        })
    }
}

/// A page of a list whose items come newest first, and whether there are more; `key` is the id and the time of one.
fn paged<'a, T: Copy>(
    page: &Page,
    all: impl Iterator<Item = T>,
    key: impl Fn(T) -> (&'a str, i64),
) -> Result<(Vec<T>, bool), Error> {
    let is_in_time = |item: &T| page.created.contains(key(*item).1);
    let mut items: Vec<T> = Vec::new();
    let mut has_more = false;
    match (&page.starting_after, &page.ending_before) {
        (_, Some(before)) => {
            let mut is_found = false;
            for item in all {
                if key(item).0 == before {
                    is_found = true;
                    break;
                }
                items.push(item);
            }
            if !is_found {
                return Err(no_cursor(before, "ending_before"));
            }
            items.retain(is_in_time);
            has_more = items.len() > page.limit;
            items.drain(..items.len().saturating_sub(page.limit));
        }
        (after, None) => {
            let mut all = all;
            if let Some(after) = after {
                all.find(|item| key(*item).0 == after)
                    .ok_or_else(|| no_cursor(after, "starting_after"))?;
            }
            for item in all.filter(is_in_time) {
                if items.len() == page.limit {
                    has_more = true;
                    break;
                }
                items.push(item);
            }
        }
    }
    Ok((items, has_more))
}

fn no_cursor(id: &str, param: &str) -> Error {
    Error::invalid(Some("resource_missing"), format!("No such object: '{id}'")).param(param)
}
