//! The list of endpoints, and the reading of each one's parameters. What fails here was never executed: nothing is
//! written, and an idempotency key stays unused.

use std::collections::BTreeMap;

use super::error::Error;
use super::form::Form;
use super::intents::{CaptureMethod, Labels};
use super::methods;

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
pub(super) enum Query {
    Intent {
        id: String,
        expand: Vec<&'static str>,
    },
    Intents {
        page: Page,
        expand: Vec<&'static str>,
    },
    Search {
        terms: Vec<Term>,
        limit: usize,
        offset: usize,
    },
    Charge {
        id: String,
    },
    Charges {
        page: Page,
        intent: Option<String>,
    },
    Refund {
        id: String,
        expand: Vec<&'static str>,
    },
    Refunds {
        page: Page,
        intent: Option<String>,
        charge: Option<String>,
        expand: Vec<&'static str>,
    },
}

/// One page of a list, newest first.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) starting_after: Option<String>,
    pub(super) ending_before: Option<String>,
}

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

/// The endpoints.
pub(super) fn read(method: &str, path: &str, form: Form) -> Result<Request, Error> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match (method, segments.as_slice()) {
        ("POST", ["v1", "payment_intents"]) => create(form),
        ("GET", ["v1", "payment_intents"]) => intents(form),
        ("GET", ["v1", "payment_intents", "search"]) => search(form),
        ("GET", ["v1", "payment_intents", id]) => intent(id, form),
        ("POST", ["v1", "payment_intents", id, "confirm"]) => confirm(id, form),
        ("POST", ["v1", "payment_intents", id, "capture"]) => capture(id, form),
        ("POST", ["v1", "payment_intents", id, "cancel"]) => cancel(id, form),
        ("POST", ["v1", "refunds"]) => refund(form),
        ("GET", ["v1", "refunds"]) => refunds(form),
        ("GET", ["v1", "refunds", id]) => one_refund(id, form),
        ("GET", ["v1", "charges"]) => charges(form),
        ("GET", ["v1", "charges", id]) => charge(id, form),
        _ => Err(Error::unknown_url(method, path)),
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
    let expand = form.expand(&["latest_charge"])?;
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

fn confirm(id: &str, mut form: Form) -> Result<Request, Error> {
    refuse_raw_cards(&form)?;
    let method = method(&mut form)?;
    let expand = form.expand(&["latest_charge"])?;
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
        act: Act::Confirm {
            intent: path_id(id)?,
            method,
        },
        expand,
    }))
}

fn capture(id: &str, mut form: Form) -> Result<Request, Error> {
    let amount = form.amount("amount_to_capture")?;
    let metadata = form.metadata()?;
    if form.boolean("final_capture")? == Some(false) {
        let message = "This PaymentIntent can be captured only once: final_capture=false needs multicapture.";
        return Err(Error::invalid(None, message).param("final_capture"));
    }
    let expand = form.expand(&["latest_charge"])?;
    form.ignore(&["statement_descriptor", "statement_descriptor_suffix"]);
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Capture {
            intent: path_id(id)?,
            amount,
            metadata,
        },
        expand,
    }))
}

fn cancel(id: &str, mut form: Form) -> Result<Request, Error> {
    let reason = form.one_of(
        "cancellation_reason",
        &["duplicate", "fraudulent", "requested_by_customer", "abandoned"],
    )?;
    let expand = form.expand(&["latest_charge"])?;
    form.finish()?;
    Ok(Request::Command(Command {
        act: Act::Cancel {
            intent: path_id(id)?,
            reason,
        },
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
    let expand = form.expand(&["charge", "payment_intent"])?;
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

fn intent(id: &str, mut form: Form) -> Result<Request, Error> {
    let expand = form.expand(&["latest_charge"])?;
    form.ignore(&["client_secret"]);
    form.finish()?;
    Ok(Request::Query(Query::Intent {
        id: path_id(id)?,
        expand,
    }))
}

fn intents(mut form: Form) -> Result<Request, Error> {
    let page = page(&mut form)?;
    let expand = data_expand(&mut form, &["data.latest_charge"])?;
    form.finish()?;
    Ok(Request::Query(Query::Intents { page, expand }))
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
    form.finish()?;
    Ok(Request::Query(Query::Search { terms, limit, offset }))
}

fn charge(id: &str, form: Form) -> Result<Request, Error> {
    form.finish()?;
    Ok(Request::Query(Query::Charge { id: path_id(id)? }))
}

fn charges(mut form: Form) -> Result<Request, Error> {
    let page = page(&mut form)?;
    let intent = form.text("payment_intent")?;
    form.finish()?;
    Ok(Request::Query(Query::Charges { page, intent }))
}

fn one_refund(id: &str, mut form: Form) -> Result<Request, Error> {
    let expand = form.expand(&["charge", "payment_intent"])?;
    form.finish()?;
    Ok(Request::Query(Query::Refund {
        id: path_id(id)?,
        expand,
    }))
}

fn refunds(mut form: Form) -> Result<Request, Error> {
    let page = page(&mut form)?;
    let intent = form.text("payment_intent")?;
    let charge = form.text("charge")?;
    let expand = data_expand(&mut form, &["data.charge", "data.payment_intent"])?;
    form.finish()?;
    Ok(Request::Query(Query::Refunds {
        page,
        intent,
        charge,
        expand,
    }))
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

fn currency(text: String) -> Result<String, Error> {
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
    })
}

/// In lists, what to expand is named from the page: `data.latest_charge`.
fn data_expand(form: &mut Form, allowed: &[&'static str]) -> Result<Vec<&'static str>, Error> {
    let expand = form.expand(allowed)?;
    Ok(expand
        .into_iter()
        .map(|path| path.trim_start_matches("data."))
        .collect())
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
