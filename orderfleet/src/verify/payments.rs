//! P1–P6: our book of payments and the gateway's say the same, and no money moved twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::PgConnection;

use super::journals::{Ledger, LedgerEntry};
use super::{Check, JUST_NOW};

const NO_LEDGER: &str = "no ledger given";
const P1: &str = "at the gateway: at most one capture and one live authorisation per order, within what was authorised";
const P2: &str = "captured and refunded amounts are the gateway's";
const P4: &str = "no money is kept or held for a cancelled, rejected or expired order";
const P5: &str = "every entry of the gateway is exactly one of our attempts, and every success of ours is an entry";

pub(super) async fn check(conn: &mut PgConnection, ledger: Option<&Ledger>) -> sqlx::Result<Vec<Check>> {
    let book = Book::read(conn).await?;
    let mut kept = kept_for_dead_orders(&book);
    let (p1, p2, p4, p5) = match ledger {
        Some(ledger) => {
            kept.extend(held_for_dead_orders(&book, ledger));
            (
                Check::new("P1", P1, doubled(&book, ledger)),
                Check::new("P2", P2, amounts(&book, ledger)),
                Check::new("P4", P4, kept),
                Check::new("P5", P5, keys(&book, ledger)),
            )
        }
        None => (
            Check::skipped("P1", P1, NO_LEDGER),
            Check::skipped("P2", P2, NO_LEDGER),
            // Our own half needs no ledger.
            match kept.is_empty() {
                true => Check::skipped("P4", P4, NO_LEDGER),
                false => Check::new("P4", P4, kept),
            },
            Check::skipped("P5", P5, NO_LEDGER),
        ),
    };
    Ok(vec![
        p1,
        p2,
        unsettled(conn).await?,
        p4,
        p5,
        shipped_unpaid(conn).await?,
    ])
}

/// Our side: every payment and every attempt.
struct Book {
    payments: Vec<Payment>,
    attempts: HashMap<String, Attempt>,
}

struct Payment {
    id: String,
    order_id: String,
    order_status: String,
    gateway_ref: Option<String>,
    amount_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    is_young: bool,
}

impl Payment {
    fn is_of_dead_order(&self) -> bool {
        matches!(self.order_status.as_str(), "cancelled" | "rejected" | "expired")
    }
}

struct Attempt {
    idem_key: String,
    op: String,
    amount_minor: i64,
    state: String,
    gateway_ref: Option<String>,
    is_young: bool,
}

impl Book {
    async fn read(conn: &mut PgConnection) -> sqlx::Result<Book> {
        let payments = sqlx::query_as!(
            Payment,
            r#"
            select p.id::text as "id!", p.order_id::text as "order_id!", o.status as order_status, p.gateway_ref,
                   p.amount_minor, p.captured_minor, p.refunded_minor,
                   p.updated_at > queue.clock() - make_interval(secs => $1) as "is_young!"
            from payments p
            join orders o on o.id = p.order_id
            order by p.id
            "#,
            JUST_NOW
        )
        .fetch_all(&mut *conn)
        .await?;
        let attempts = sqlx::query_as!(
            Attempt,
            r#"
            select a.idem_key, a.op, a.amount_minor, a.state, p.gateway_ref,
                   coalesce(a.answered_at, a.created_at) > queue.clock() - make_interval(secs => $1) as "is_young!"
            from payment_attempts a
            join payments p on p.id = a.payment_id
            "#,
            JUST_NOW
        )
        .fetch_all(conn)
        .await?;
        Ok(Book {
            payments,
            attempts: attempts
                .into_iter()
                .map(|attempt| (attempt.idem_key.clone(), attempt))
                .collect(),
        })
    }
}

/// P1. An intent belongs to the order that its metadata names, or to the payment that knows it.
fn doubled(book: &Book, ledger: &Ledger) -> Vec<String> {
    let order_of: HashMap<&str, &str> = book
        .payments
        .iter()
        .filter_map(|payment| Some((payment.gateway_ref.as_deref()?, payment.order_id.as_str())))
        .collect();
    let mut intents_by_order: BTreeMap<String, Vec<Vec<&LedgerEntry>>> = BTreeMap::new();
    for (intent, entries) in ledger.by_intent() {
        let named = entries.iter().find_map(|entry| entry.metadata.get("order_id"));
        let order = named
            .map(String::as_str)
            .or_else(|| order_of.get(intent).copied())
            .unwrap_or(intent);
        intents_by_order.entry(order.to_owned()).or_default().push(entries);
    }
    intents_by_order
        .iter()
        .filter_map(|(order, intents)| doubled_in(intents).map(|why| format!("order {order}: {why}")))
        .collect()
}

fn doubled_in(intents: &[Vec<&LedgerEntry>]) -> Option<String> {
    let captures: Vec<&LedgerEntry> = intents
        .iter()
        .flatten()
        .filter(|entry| entry.op == "capture" && entry.is_ok())
        .copied()
        .collect();
    if captures.len() > 1 {
        let numbers: Vec<String> = captures.iter().map(|entry| entry.n.to_string()).collect();
        return Some(format!(
            "captured {} times, by entries {}",
            captures.len(),
            numbers.join(", ")
        ));
    }
    for entries in intents {
        let captured: i64 = entries
            .iter()
            .filter(|entry| entry.op == "capture" && entry.is_ok())
            .map(|entry| entry.amount)
            .sum();
        let authorised: i64 = entries
            .iter()
            .filter(|entry| entry.op == "confirm" && entry.is_ok())
            .map(|entry| entry.amount)
            .max()
            .unwrap_or(0);
        if captured > authorised {
            return Some(format!("captured {captured} of {authorised} authorised"));
        }
    }
    let live = intents.iter().filter(|entries| is_live(entries)).count();
    (live > 1).then(|| format!("{live} live authorisations"))
}

/// Whether money is held or taken by an intent: confirmed, and neither cancelled nor run out since.
fn is_live(entries: &[&LedgerEntry]) -> bool {
    let is_over = |entry: &&LedgerEntry| matches!(entry.op.as_str(), "cancel" | "expire") && entry.is_ok();
    entries.iter().any(|entry| entry.op == "confirm" && entry.is_ok()) && !entries.iter().any(is_over)
}

/// P2.
fn amounts(book: &Book, ledger: &Ledger) -> Vec<String> {
    let by_intent = ledger.by_intent();
    let sum = |intent: Option<&str>, op: &str| -> i64 {
        let entries = intent
            .and_then(|intent| by_intent.get(intent))
            .map(Vec::as_slice)
            .unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry.op == op && entry.is_ok())
            .map(|entry| entry.amount)
            .sum()
    };
    let mut offenders = Vec::new();
    for payment in book.payments.iter().filter(|payment| !payment.is_young) {
        let captured = sum(payment.gateway_ref.as_deref(), "capture");
        let refunded = sum(payment.gateway_ref.as_deref(), "refund");
        if (captured, refunded) != (payment.captured_minor, payment.refunded_minor) {
            offenders.push(format!(
                "payment {}: captured {} refunded {}, the gateway says {captured} and {refunded}",
                payment.id, payment.captured_minor, payment.refunded_minor
            ));
        } else if captured > payment.amount_minor {
            offenders.push(format!(
                "payment {}: captured {captured} of {}",
                payment.id, payment.amount_minor
            ));
        }
    }
    offenders
}

/// P3.
async fn unsettled(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        select format('payment %s is %s, order %s is %s', p.id, p.state, o.id, o.status) as "it!"
        from payments p
        join orders o on o.id = p.order_id
        where p.state in ('authorizing', 'capturing', 'voiding', 'refunding', 'unknown')
          and o.status <> 'on_hold'
          and p.updated_at < queue.clock() - make_interval(secs => $1)
        "#,
        JUST_NOW
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new(
        "P3",
        "no payment hangs between two states unless its order is on hold",
        offenders,
    ))
}

/// P4, our half.
fn kept_for_dead_orders(book: &Book) -> Vec<String> {
    book.payments
        .iter()
        .filter(|payment| payment.is_of_dead_order() && payment.captured_minor != payment.refunded_minor)
        .map(|payment| {
            format!(
                "order {} is {}, payment {} captured {} and refunded {}",
                payment.order_id, payment.order_status, payment.id, payment.captured_minor, payment.refunded_minor
            )
        })
        .collect()
}

/// P4, the gateway's half.
fn held_for_dead_orders(book: &Book, ledger: &Ledger) -> Vec<String> {
    let dead: HashMap<&str, &str> = book
        .payments
        .iter()
        .filter(|payment| payment.is_of_dead_order() && !payment.is_young)
        .map(|payment| (payment.order_id.as_str(), payment.order_status.as_str()))
        .collect();
    let order_of: HashMap<&str, &str> = book
        .payments
        .iter()
        .filter_map(|payment| Some((payment.gateway_ref.as_deref()?, payment.order_id.as_str())))
        .collect();
    let mut offenders = Vec::new();
    for (intent, entries) in ledger.by_intent() {
        let named = entries
            .iter()
            .find_map(|entry| entry.metadata.get("order_id"))
            .map(String::as_str);
        let Some(order) = named.or_else(|| order_of.get(intent).copied()) else {
            continue;
        };
        let Some(status) = dead.get(order) else { continue };
        let captured: i64 = entries
            .iter()
            .filter(|entry| entry.op == "capture" && entry.is_ok())
            .map(|entry| entry.amount)
            .sum();
        let refunded: i64 = entries
            .iter()
            .filter(|entry| entry.op == "refund" && entry.is_ok())
            .map(|entry| entry.amount)
            .sum();
        if captured != refunded {
            offenders.push(format!(
                "order {order} is {status}, the gateway captured {captured} and refunded {refunded}"
            ));
        } else if captured == 0 && is_live(&entries) {
            offenders.push(format!(
                "order {order} is {status}, the gateway still holds money by {intent}"
            ));
        }
    }
    offenders.sort();
    offenders
}

/// P5.
fn keys(book: &Book, ledger: &Ledger) -> Vec<String> {
    let mut offenders = Vec::new();
    let mut params_of: HashMap<&str, &str> = HashMap::new();
    let mut executed: HashSet<&str> = HashSet::new();
    // An authorisation ends by itself: nobody asked for that.
    for entry in ledger.of_payments().filter(|entry| entry.op != "expire") {
        let Some(key) = entry.key.as_deref() else {
            offenders.push(format!("entry {} has no key", entry.n));
            continue;
        };
        match params_of.insert(key, &entry.params_sha256) {
            Some(other) if other != entry.params_sha256 => {
                offenders.push(format!("key {key} has two sets of parameters"))
            }
            Some(_) if executed.contains(key) && entry.is_ok() => {
                offenders.push(format!("key {key} was executed twice"))
            }
            _ => {}
        }
        if entry.is_ok() {
            executed.insert(key);
        }
        match book.attempts.get(key) {
            None => offenders.push(format!(
                "entry {} ({} of {}) has the key {key}, which is none of ours",
                entry.n, entry.op, entry.intent
            )),
            Some(attempt) => {
                offenders.extend(differs(attempt, entry).map(|why| format!("entry {} by key {key}: {why}", entry.n)))
            }
        }
    }
    for attempt in book.attempts.values() {
        if attempt.state == "succeeded"
            && !attempt.is_young
            && !executed.contains(attempt.idem_key.as_str())
            && !is_known_otherwise(attempt, ledger)
        {
            offenders.push(format!(
                "attempt {} succeeded, and the gateway knows nothing of it",
                attempt.idem_key
            ));
        }
    }
    offenders.sort();
    offenders
}

/// How an entry is not the attempt that has its key.
fn differs(attempt: &Attempt, entry: &LedgerEntry) -> Option<String> {
    let op = match entry.op.as_str() {
        "cancel" => "void",
        other => other,
    };
    if op != attempt.op {
        return Some(format!("the gateway did a {op}, we asked for a {}", attempt.op));
    }
    if attempt
        .gateway_ref
        .as_deref()
        .is_some_and(|known| known != entry.intent)
    {
        return Some(format!(
            "on {}, while the payment knows {}",
            entry.intent,
            attempt.gateway_ref.as_deref().unwrap_or_default()
        ));
    }
    if entry.is_ok() && op != "void" && entry.amount != attempt.amount_minor {
        return Some(format!("{} moved, {} asked for", entry.amount, attempt.amount_minor));
    }
    None
}

/// A look may find the effect of another key, such as a cancel that a capture ran into: then the effect must be there.
fn is_known_otherwise(attempt: &Attempt, ledger: &Ledger) -> bool {
    let op = if attempt.op == "void" {
        "cancel"
    } else {
        attempt.op.as_str()
    };
    attempt.gateway_ref.as_deref().is_some_and(|intent| {
        ledger
            .entries
            .iter()
            .any(|entry| entry.intent == intent && entry.op == op && entry.is_ok())
    })
}

/// P6.
async fn shipped_unpaid(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        select format('order %s is shipped %s with its payment %s', o.id, o.fulfilment_status, o.payment_status) as "it!"
        from orders o
        where (o.fulfilment_status <> 'none'
               or exists (select from order_lines l where l.order_id = o.id and l.qty_shipped > 0)
               or exists (select from shipments s where s.order_id = o.id and s.state = 'shipped'))
          and not exists (select from payments p where p.order_id = o.id and p.captured_minor > 0)
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new("P6", "what was shipped was paid", offenders))
}
