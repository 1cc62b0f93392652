//! The list of endpoints, and the reading of each one's parameters. What fails here was never executed: nothing is
//! written, and an idempotency key stays unused.

use std::collections::BTreeMap;

use super::endpoints::{EndpointChange, NewEndpoint};
use super::error::Error;
use super::form::Form;
use super::intents::{CaptureMethod, Labels};
use super::methods;
use super::transfers::NewTransfer;

/// Objects that one page may hold.
const PAGE_MAX: i64 = 100;
const PAGE_DEFAULT: i64 = 10;
const ID_CHARS_MAX: usize = 255;

/// A request that changes something.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) act: Act,
    pub(super) expand: Vec<&'static str>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Act {
    Create(NewIntent),
    Confirm {
        intent: String,
        method: Option<String>,
    },
    Capture {
        intent: String,
        amount: Option<i64>,
        metadata: BTreeMap<String, String>,
    },
    Cancel {
        intent: String,
        reason: Option<&'static str>,
    },
    Refund {
        of: RefundOf,
        amount: Option<i64>,
        reason: Option<&'static str>,
        metadata: BTreeMap<String, String>,
    },
    Transfer(NewTransfer),
    CreateEndpoint(NewEndpoint),
    ChangeEndpoint {
        id: String,
        change: EndpointChange,
    },
    DeleteEndpoint {
        id: String,
    },
}

/// An intent to be created.
#[derive(Debug)]
pub(super) struct NewIntent {
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) capture_method: CaptureMethod,
    pub(super) method: Option<String>,
    pub(super) labels: Labels,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) is_confirmed_at_once: bool,
}

/// What a refund names.
#[derive(Debug)]
pub(super) enum RefundOf {
    Intent(String),
    Charge(String),
}

/// A request that only looks.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) what: What,
    pub(super) expand: Vec<&'static str>,
}

/// What is looked at.
#[derive(Debug)]
pub(super) enum What {
    Intent(String),
    Intents(Page),
    Search {
        terms: Vec<Term>,
        limit: usize,
        offset: usize,
    },
    Charge(String),
    Charges {
        page: Page,
        intent: Option<String>,
    },
    Refund(String),
    Refunds {
        page: Page,
        intent: Option<String>,
        charge: Option<String>,
    },
    Transfer(String),
    Transfers {
        page: Page,
        destination: Option<String>,
        group: Option<String>,
    },
    Transaction(String),
    Transactions {
        page: Page,
        kind: Option<&'static str>,
        source: Option<String>,
    },
    Event(String),
    Events {
        page: Page,
        kinds: Vec<String>,
    },
    Endpoint(String),
    Endpoints(Page),
}

/// One page of a list, newest first.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) starting_after: Option<String>,
    pub(super) ending_before: Option<String>,
    pub(super) created: Created,
}

/// When what is listed was created, in seconds, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Created {
    from: i64,
    to: i64,
}

impl Created {
    pub(super) fn contains(self, at: i64) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// What each object can be asked to show whole instead of by its id, nested at most four deep as at Stripe.
const IN_INTENT: [&str; 2] = ["latest_charge", "latest_charge.balance_transaction"];
const IN_CHARGE: [&str; 2] = ["balance_transaction", "payment_intent"];
const IN_REFUND: [&str; 4] = [
    "balance_transaction",
    "charge",
    "charge.balance_transaction",
    "payment_intent",
];
const IN_TRANSACTION: [&str; 2] = ["source", "source.payment_intent"];
const IN_TRANSFER: [&str; 1] = ["balance_transaction"];

/// One condition of a search; all must hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Term {
    Status(String),
    Metadata { key: String, value: String },
}

/// Either kind of request.
#[derive(Debug)]
pub(super) enum Request {
    Command(Command),
    Query(Query),
}

/// Each endpoint by its method and its path, with `{id}` for whatever names one thing.
pub(super) const ROUTES: [&str; 24] = [
    "POST /v1/payment_intents",
    "GET /v1/payment_intents",
    "GET /v1/payment_intents/search",
    "GET /v1/payment_intents/{id}",
    "POST /v1/payment_intents/{id}/confirm",
    "POST /v1/payment_intents/{id}/capture",
    "POST /v1/payment_intents/{id}/cancel",
    "POST /v1/refunds",
    "GET /v1/refunds",
    "GET /v1/refunds/{id}",
    "GET /v1/charges",
    "GET /v1/charges/{id}",
    "POST /v1/transfers",
    "GET /v1/transfers",
    "GET /v1/transfers/{id}",
    "GET /v1/balance_transactions",
    "GET /v1/balance_transactions/{id}",
    "GET /v1/events",
    "GET /v1/events/{id}",
    "POST /v1/webhook_endpoints",
    "GET /v1/webhook_endpoints",
    "GET /v1/webhook_endpoints/{id}",
    "POST /v1/webhook_endpoints/{id}",
    "DELETE /v1/webhook_endpoints/{id}",
];

/// An endpoint that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// One of [`ROUTES`].
    pub(super) name: &'static str,
    id: String,
}

impl Route {
    /// Finds the endpoint that answers `method` at `path`.
    pub(super) fn find(method: &str, path: &str) -> Result<Self, Error> {
        let asked: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        for name in ROUTES {
            let Some((its_method, its_path)) = name.split_once(' ') else {
                continue;
            };
            let segments: Vec<&str> = its_path.split('/').filter(|segment| !segment.is_empty()).collect();
            let fits = |(wanted, given): (&&str, &&str)| *wanted == "{id}" || wanted == given;
            if its_method == method && segments.len() == asked.len() && segments.iter().zip(&asked).all(fits) {
                let id = segments.iter().zip(&asked).find(|(wanted, _)| **wanted == "{id}");
                let id = path_id(id.map_or("", |(_, given)| given))?;
                return Ok(Self { name, id });
            }
        }
        Err(Error::unknown_url(method, path))
    }
}

/// Reads the parameters of an endpoint.
pub(super) fn read(route: &Route, form: Form) -> Result<Request, Error> {
    let id = route.id.clone();
    match route.name {
        "POST /v1/payment_intents" => create(form),
        "GET /v1/payment_intents" => intents(form),
        "GET /v1/payment_intents/search" => search(form),
        "GET /v1/payment_intents/{id}" => intent(id, form),
        "POST /v1/payment_intents/{id}/confirm" => confirm(id, form),
        "POST /v1/payment_intents/{id}/capture" => capture(id, form),
        "POST /v1/payment_intents/{id}/cancel" => cancel(id, form),
        "POST /v1/refunds" => refund(form),
        "GET /v1/refunds" => refunds(form),
        "GET /v1/refunds/{id}" => one(What::Refund(id), form, &IN_REFUND),
        "GET /v1/charges" => charges(form),
        "GET /v1/charges/{id}" => one(What::Charge(id), form, &IN_CHARGE),
        "POST /v1/transfers" => transfer(form),
        "GET /v1/transfers" => transfers(form),
        "GET /v1/transfers/{id}" => one(What::Transfer(id), form, &IN_TRANSFER),
        "GET /v1/balance_transactions" => transactions(form),
        "GET /v1/balance_transactions/{id}" => one(What::Transaction(id), form, &IN_TRANSACTION),
        "GET /v1/events" => events(form),
        "GET /v1/events/{id}" => one(What::Event(id), form, &[]),
        "POST /v1/webhook_endpoints" => create_endpoint(form),
        "GET /v1/webhook_endpoints" => list(form, &[], |_, page| Ok(What::Endpoints(page))),
        "GET /v1/webhook_endpoints/{id}" => one(What::Endpoint(id), form, &[]),
        "POST /v1/webhook_endpoints/{id}" => change_endpoint(id, form),
        "DELETE /v1/webhook_endpoints/{id}" => delete_endpoint(id, form),
        other => Err(Error::internal(format!("{other} is listed but not served."))),
    }
}

fn create(mut form: Form) -> Result<Request, Error> {
    refuse_raw_cards(&form)?;
    let amount = form.amount("amount")?.ok_or_else(|| Error::missing("amount"))?;
    let currency = currency(form.required("currency")?)?;
    let capture_method = match form.one_of("capture_method", &["manual", "automatic", "automatic_async"])? {
        Some("manual") => CaptureMethod::Manual,
        _ => CaptureMethod::Automatic,
    };
    let method = method(&mut form)?;
    let labels = Labels {
        customer: form.text("customer")?,
        description: form.text("description")?,
        receipt_email: form.text("receipt_email")?,
        statement_descriptor: form.text("statement_descriptor")?,
    };
    let metadata = form.metadata()?;
    let is_confirmed_at_once = form.boolean("confirm")?.unwrap_or(false);
    let expand = form.expand(&IN_INTENT)?;
    form.ignore(&[
        "automatic_payment_methods",
        "confirmation_method",
        "error_on_requires_action",
        "off_session",
        "payment_method_options",
        "payment_method_types",
        "return_url",
        "setup_future_usage",
        "shipping",
        "statement_descriptor_suffix",
        "use_stripe_sdk",
    ]);
    form.finish()?;
    if is_confirmed_at_once && method.is_none() {
        let message = "You cannot confirm this PaymentIntent because it's missing a payment method.";
        return Err(Error::unexpected_state(message).param("payment_method"));
    }
    let new = NewIntent {
        amount,
        currency,
        capture_method,
        method,
        labels,
        metadata,
        is_confirmed_at_once,
    };
    Ok(Request::Command(Command {
        act: Act::Create(new),
        expand,
    }))
}

fn confirm(id: String, mut form: Form) -> Result<Request, Error> {
    refuse_raw_cards(&form)?;
    let method = method(&mut form)?;
    let expand = form.expand(&IN_INTENT)?;
    form.ignore(&[
        "error_on_requires_action",
        "off_session",
        "payment_method_options",
        "payment_method_types",
        "receipt_email",
        "return_url",
        "setup_future_usage",
        "use_stripe_sdk",
    ]);
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Confirm { intent: id, method },
        expand,
    }))
}

fn capture(id: String, mut form: Form) -> Result<Request, Error> {
    let amount = form.amount("amount_to_capture")?;
    let metadata = form.metadata()?;
    if form.boolean("final_capture")? == Some(false) {
        let message = "This PaymentIntent can be captured only once: final_capture=false needs multicapture.";
        return Err(Error::invalid(None, message).param("final_capture"));
    }
    let expand = form.expand(&IN_INTENT)?;
    form.ignore(&["statement_descriptor", "statement_descriptor_suffix"]);
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Capture {
            intent: id,
            amount,
            metadata,
        },
        expand,
    }))
}

fn cancel(id: String, mut form: Form) -> Result<Request, Error> {
    let reason = form.one_of(
        "cancellation_reason",
        &["duplicate", "fraudulent", "requested_by_customer", "abandoned"],
    )?;
    let expand = form.expand(&IN_INTENT)?;
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Cancel { intent: id, reason },
        expand,
    }))
}

fn refund(mut form: Form) -> Result<Request, Error> {
    let of = match (form.text("payment_intent")?, form.text("charge")?) {
        (Some(intent), None) => RefundOf::Intent(intent),
        (None, Some(charge)) => RefundOf::Charge(charge),
        (None, None) => {
            let message = "One of the following params should be provided for this request: payment_intent or charge.";
            return Err(Error::invalid(Some("parameter_missing"), message).param("payment_intent"));
        }
        (Some(_), Some(_)) => {
            let message = "You may only specify one of these parameters: payment_intent, charge.";
            return Err(Error::invalid(None, message).param("charge"));
        }
    };
    let amount = form.amount("amount")?;
    let reason = form.one_of("reason", &["duplicate", "fraudulent", "requested_by_customer"])?;
    let metadata = form.metadata()?;
    let expand = form.expand(&IN_REFUND)?;
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Refund {
            of,
            amount,
            reason,
            metadata,
        },
        expand,
    }))
}

fn transfer(mut form: Form) -> Result<Request, Error> {
    let new = NewTransfer::read(&mut form)?;
    let expand = form.expand(&IN_TRANSFER)?;
    form.ignore(&["source_type"]);
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Transfer(new),
        expand,
    }))
}

fn create_endpoint(mut form: Form) -> Result<Request, Error> {
    let url = form.required("url")?;
    let kinds = form.texts("enabled_events");
    if kinds.is_empty() {
        return Err(Error::missing("enabled_events"));
    }
    let new = NewEndpoint::new(
        url,
        kinds,
        form.text("description")?,
        form.metadata()?,
        form.text("api_version")?,
    )?;
    form.ignore(&["connect"]);
    command(Act::CreateEndpoint(new), form)
}

fn change_endpoint(id: String, mut form: Form) -> Result<Request, Error> {
    let change = EndpointChange::new(
        form.text("url")?,
        form.texts("enabled_events"),
        form.text("description")?,
        form.metadata()?,
        form.boolean("disabled")?,
    )?;
    command(Act::ChangeEndpoint { id, change }, form)
}

fn delete_endpoint(id: String, form: Form) -> Result<Request, Error> {
    command(Act::DeleteEndpoint { id }, form)
}

fn command(act: Act, mut form: Form) -> Result<Request, Error> {
    let expand = form.expand(&[])?;
    form.finish()?;
    Ok(Request::Command(Command { act, expand }))
}

fn intent(id: String, mut form: Form) -> Result<Request, Error> {
    form.ignore(&["client_secret"]);
    one(What::Intent(id), form, &IN_INTENT)
}

fn intents(form: Form) -> Result<Request, Error> {
    list(form, &IN_INTENT, |form, page| {
        form.ignore(&["customer"]);
        Ok(What::Intents(page))
    })
}

fn search(mut form: Form) -> Result<Request, Error> {
    let terms = terms(&form.required("query")?)?;
    let limit = limit(&mut form)?;
    let offset = match form.text("page")? {
        None => 0,
        Some(page) => {
            let offset = page.strip_prefix("page_").and_then(|offset| offset.parse().ok());
            offset.ok_or_else(|| Error::invalid(None, "Invalid page: send back next_page as it was.").param("page"))?
        }
    };
    let expand = data_expand(&mut form, &IN_INTENT)?;
    form.finish()?;
    let what = What::Search { terms, limit, offset };
    Ok(Request::Query(Query { what, expand }))
}

fn charges(form: Form) -> Result<Request, Error> {
    list(form, &IN_CHARGE, |form, page| {
        let intent = form.text("payment_intent")?;
        Ok(What::Charges { page, intent })
    })
}

fn refunds(form: Form) -> Result<Request, Error> {
    list(form, &IN_REFUND, |form, page| {
        let intent = form.text("payment_intent")?;
        let charge = form.text("charge")?;
        Ok(What::Refunds { page, intent, charge })
    })
}

fn transfers(form: Form) -> Result<Request, Error> {
    list(form, &IN_TRANSFER, |form, page| {
        let destination = form.text("destination")?;
        let group = form.text("transfer_group")?;
        Ok(What::Transfers {
            page,
            destination,
            group,
        })
    })
}

fn transactions(form: Form) -> Result<Request, Error> {
    list(form, &IN_TRANSACTION, |form, page| {
        let kind = form.one_of("type", &["charge", "refund", "transfer"])?;
        let source = form.text("source")?;
        Ok(What::Transactions { page, kind, source })
    })
}

fn events(form: Form) -> Result<Request, Error> {
    list(form, &[], |form, page| {
        let mut kinds = form.texts("types");
        kinds.extend(form.text("type")?);
        Ok(What::Events { page, kinds })
    })
}

/// One object by its id.
fn one(what: What, mut form: Form, allowed: &[&'static str]) -> Result<Request, Error> {
    let expand = form.expand(allowed)?;
    form.finish()?;
    Ok(Request::Query(Query { what, expand }))
}

/// One page of a list; `of` takes its own filters out.
fn list(
    mut form: Form,
    allowed: &[&'static str],
    of: impl FnOnce(&mut Form, Page) -> Result<What, Error>,
) -> Result<Request, Error> {
    let page = page(&mut form)?;
    let what = of(&mut form, page)?;
    let expand = data_expand(&mut form, allowed)?;
    form.finish()?;
    Ok(Request::Query(Query { what, expand }))
}

fn refuse_raw_cards(form: &Form) -> Result<(), Error> {
    for name in ["payment_method_data", "card", "source"] {
        if form.has(name) {
            return Err(methods::card_number_refused(name));
        }
    }
    Ok(())
}

fn method(form: &mut Form) -> Result<Option<String>, Error> {
    let Some(id) = form.text("payment_method")? else {
        return Ok(None);
    };
    methods::find(&id)?;
    Ok(Some(id))
}

pub(super) fn currency(text: String) -> Result<String, Error> {
    match text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_lowercase()) {
        true => Ok(text),
        false => {
            let message = format!("Invalid currency: {text}. Send a three-letter ISO code in lower case.");
            Err(Error::invalid(None, message).param("currency"))
        }
    }
}

fn path_id(id: &str) -> Result<String, Error> {
    match id.len() <= ID_CHARS_MAX {
        true => Ok(id.to_owned()),
        false => Err(Error::invalid(None, format!("An id has up to {ID_CHARS_MAX} characters.")).param("id")),
    }
}

fn limit(form: &mut Form) -> Result<usize, Error> {
    let limit = form.integer("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    Ok(usize::try_from(limit).unwrap_or(1))
}

fn page(form: &mut Form) -> Result<Page, Error> {
    let limit = limit(form)?;
    let starting_after = form.text("starting_after")?;
    let ending_before = form.text("ending_before")?;
    if starting_after.is_some() && ending_before.is_some() {
        let message = "You may only specify one of these parameters: starting_after, ending_before.";
        return Err(Error::invalid(None, message).param("ending_before"));
    }
    Ok(Page {
        limit,
        starting_after,
        ending_before,
        created: created(form)?,
    })
}

/// Reads `created=5`, or any of `created[gt]`, `[gte]`, `[lt]` and `[lte]`.
fn created(form: &mut Form) -> Result<Created, Error> {
    let mut at = |name| form.integer(name, 0, i64::MAX - 1);
    let exactly = at("created")?;
    let from = [at("created[gte]")?, at("created[gt]")?.map(|after| after + 1), exactly];
    let to = [
        at("created[lte]")?,
        at("created[lt]")?.map(|before| before - 1),
        exactly,
    ];
    Ok(Created {
        from: from.into_iter().flatten().max().unwrap_or(0),
        to: to.into_iter().flatten().min().unwrap_or(i64::MAX),
    })
}

/// In lists, what to expand is named from the page: `data.latest_charge`.
fn data_expand(form: &mut Form, allowed: &[&'static str]) -> Result<Vec<&'static str>, Error> {
    form.expand_within("data.", allowed)
}

/// Reads `metadata['payment_id']:'…' AND status:'…'`.
fn terms(query: &str) -> Result<Vec<Term>, Error> {
    query
        .split(" AND ")
        .map(|text| term(text.trim()))
        .collect::<Option<_>>()
        .ok_or_else(|| {
            let message =
                "Invalid query: this gateway reads metadata['key']:'value' and status:'value', joined by AND.";
            Error::invalid(None, message).param("query")
        })
}

fn term(text: &str) -> Option<Term> {
    let quoted = |text: &str| {
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then(|| inner.to_owned())
    };
    let (field, value) = text.split_once("]:").or_else(|| text.split_once(':'))?;
    let value = quoted(value)?;
    match field.strip_prefix("metadata[") {
        Some(key) => Some(Term::Metadata {
            key: quoted(key)?,
            value,
        }),
        None if field == "status" => Some(Term::Status(value)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_reads_metadata_and_status_in_either_quotes() {
        let terms = terms("metadata['payment_id']:'a:b' AND status:\"succeeded\"").expect("a valid query");
        let payment = Term::Metadata {
            key: "payment_id".into(),
            value: "a:b".into(),
        };
        assert_eq!(terms, [payment, Term::Status("succeeded".into())]);
    }

    #[test]
    fn a_search_for_anything_else_is_refused() {
        for query in [
            "",
            "amount>5",
            "metadata[a]:'b'",
            "metadata['a']:b",
            "status:'a' OR status:'b'",
            "metadata['",
        ] {
            assert!(terms(query).is_err(), "{query}");
        }
    }
}
