//! Orders: three axes of state on one row with one version. Every change appends to the history, in the same transaction.

pub mod allocation;
pub mod state;
pub mod store;

use std::{collections::HashMap, fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::{
    ids::{CustomerId, OrderId, ProductId},
    money::{Cents, Currency},
};

pub use allocation::Shortage;
pub use state::{FulfilmentStatus, Illegal, PaymentStatus, Status};

/// Lines an order may have.
pub const LINES_MAX: usize = 1000;
/// Pieces a line may ask for.
pub const QTY_MAX: i64 = 1_000_000;

/// An order as its row says.
#[derive(Debug, Clone, Serialize)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Who buys.
    pub customer_id: CustomerId,
    /// The client's own name for it.
    pub reference: Option<String>,
    /// The first axis: how far the order is.
    pub status: Status,
    /// The second axis: the money.
    pub payment_status: PaymentStatus,
    /// The third axis: the goods.
    pub fulfilment_status: FulfilmentStatus,
    /// Equals the number of history rows.
    pub version: i32,
    /// What all of it is priced in.
    pub currency: Currency,
    /// The sum of its lines.
    pub total: Cents,
    /// Set by create-and-confirm: the gateway's token to confirm with as soon as it is reserved.
    pub confirm_with: Option<String>,
    /// Why it was rejected, cancelled or is held: a `code` and what belongs to it.
    pub reason: Option<Value>,
    /// What it was before it was held.
    pub held_from: Option<Status>,
    /// The reservation's end.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the payment was authorized.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// Before it a cancel wins, from it on the capture does.
    pub cancel_until: Option<DateTime<Utc>>,
    /// When a cancel was accepted.
    pub cancel_accepted_at: Option<DateTime<Utc>>,
    /// Who submitted it.
    pub created_by: String,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// An order to be.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// Who buys.
    pub customer_id: CustomerId,
    /// The client's own name for it, unique per client.
    pub reference: Option<String>,
    /// What is bought.
    pub lines: Vec<NewLine>,
    /// A gateway token, if it should be confirmed as soon as it is reserved.
    pub confirm_with: Option<String>,
}

/// One line of an order to be.
#[derive(Debug, Clone)]
pub struct NewLine {
    /// What.
    pub sku: String,
    /// How many.
    pub qty: i64,
}

/// What changes in an order: nothing that is not named.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The order's new status.
    pub status: Option<Status>,
    /// The payment's new status.
    pub payment_status: Option<PaymentStatus>,
    /// The goods' new status.
    pub fulfilment_status: Option<FulfilmentStatus>,
    /// Why: a `code` and what belongs to it.
    pub reason: Option<Value>,
    /// The reservation's end, that long from now by the database's clock.
    pub expires_in: Option<Duration>,
    /// Sets `confirmed_at` to the database's clock, and `cancel_until` that much later.
    pub confirmed_with_window: Option<Duration>,
    /// Sets `cancel_accepted_at` to the database's clock.
    pub cancel_accepted: bool,
    /// What brought it about, in one or two words, for the history.
    pub cause: &'static str,
    /// The event to tell the world.
    pub event: Option<&'static str>,
}

/// What is wrong with an order to be, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where in the order, as a JSON pointer: `/lines/3/sku`.
    pub pointer: String,
    /// A name for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Why an order could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order asks for something impossible: everything that is wrong with it, at once.
    #[error("the order is not acceptable: {}", Listed(.0))]
    Invalid(Vec<Problem>),
    /// Another order of the same client has this reference.
    #[error("another order has this reference")]
    ReferenceTaken,
    /// There is no such order, or it changed under a caller that had not locked it.
    #[error("there is no such order")]
    NotFound,
    /// The state machine has no such edge.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", problem.pointer, problem.code)?;
        }
        Ok(())
    }
}

/// Whether a text is formed like the gateway's token of a payment method. Card numbers are not.
pub fn is_payment_method(text: &str) -> bool {
    let is_word = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    text.strip_prefix("pm_")
        .is_some_and(|rest| (1..=250).contains(&rest.len()) && is_word(rest))
}

/// What to say of a text that is not.
pub fn payment_method_problem(pointer: &str) -> Problem {
    let message = "the gateway's token of a payment method starts with pm_; card numbers are not accepted".to_owned();
    Problem {
        pointer: pointer.to_owned(),
        code: "payment_method_invalid",
        message,
    }
}

/// What the catalogue says about a product somebody ordered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The product.
    pub id: ProductId,
    /// Its price now.
    pub price: Cents,
    /// What the price is in.
    pub currency: Currency,
    /// No longer sold.
    pub is_retired: bool,
}

/// A line with its price frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedLine {
    /// The product.
    pub product_id: ProductId,
    /// Its price when it was ordered.
    pub unit_price: Cents,
}

/// The lines' frozen prices, their currency and their sum; or everything that is wrong with them.
pub fn price(
    lines: &[NewLine],
    offers: &HashMap<String, Offer>,
) -> Result<(Vec<PricedLine>, Currency, Cents), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut problem = |pointer: String, code, message: String| problems.push(Problem { pointer, code, message });
    if lines.is_empty() {
        problem(
            "/lines".to_owned(),
            "no_lines",
            "an order has at least one line".to_owned(),
        );
    }
    if lines.len() > LINES_MAX {
        problem(
            "/lines".to_owned(),
            "too_many_lines",
            format!("an order has at most {LINES_MAX} lines"),
        );
    }

    let mut first_of: HashMap<&str, usize> = HashMap::new();
    let mut currency: Option<&Currency> = None;
    let mut total = Some(Cents::ZERO);
    let mut priced = Vec::with_capacity(lines.len().min(LINES_MAX));
    for (n, line) in lines.iter().enumerate().take(LINES_MAX) {
        if !(1..=QTY_MAX).contains(&line.qty) {
            problem(
                format!("/lines/{n}/qty"),
                "qty_out_of_range",
                format!("a quantity is between 1 and {QTY_MAX}"),
            );
        }
        if let Some(first) = first_of.get(line.sku.as_str()) {
            problem(
                format!("/lines/{n}/sku"),
                "duplicate_sku",
                format!("line {first} already asks for this SKU"),
            );
            continue;
        }
        first_of.insert(&line.sku, n);
        let Some(offer) = offers.get(&line.sku) else {
            problem(
                format!("/lines/{n}/sku"),
                "unknown_sku",
                "there is no product with this SKU".to_owned(),
            );
            continue;
        };
        if offer.is_retired {
            problem(
                format!("/lines/{n}/sku"),
                "product_retired",
                "this product is no longer sold".to_owned(),
            );
        }
        let common = *currency.get_or_insert(&offer.currency);
        if *common != offer.currency {
            let message = format!(
                "priced in {}, while the lines before it are in {common}",
                offer.currency
            );
            problem(format!("/lines/{n}/sku"), "mixed_currencies", message);
        }
        total = total.and_then(|sum| sum.checked_add(offer.price.checked_mul(line.qty)?));
        priced.push(PricedLine {
            product_id: offer.id,
            unit_price: offer.price,
        });
    }
    if total.is_some_and(|total| total <= Cents::ZERO) && priced.len() == lines.len() && !priced.is_empty() {
        problem(
            "/lines".to_owned(),
            "nothing_to_pay",
            "the sum of the lines is zero".to_owned(),
        );
    }
    if total.is_none() {
        problem(
            "/lines".to_owned(),
            "total_too_large",
            "the sum of the lines is too large to charge".to_owned(),
        );
    }

    match (problems.is_empty(), currency, total) {
        (true, Some(currency), Some(total)) => Ok((priced, currency.clone(), total)),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers() -> HashMap<String, Offer> {
        let offer = |price, currency: &str, is_retired| Offer {
            id: ProductId::new(),
            price: Cents(price),
            currency: currency.parse().expect("it is a currency"),
            is_retired,
        };
        HashMap::from([
            ("TEA".to_owned(), offer(250, "GBP", false)),
            ("CUP".to_owned(), offer(1_000, "GBP", false)),
            ("OLD".to_owned(), offer(100, "GBP", true)),
            ("EURO".to_owned(), offer(100, "EUR", false)),
            ("YACHT".to_owned(), offer(i64::MAX / 2, "GBP", false)),
            ("GIFT".to_owned(), offer(0, "GBP", false)),
        ])
    }

    fn lines(lines: &[(&str, i64)]) -> Vec<NewLine> {
        lines
            .iter()
            .map(|(sku, qty)| NewLine {
                sku: (*sku).to_owned(),
                qty: *qty,
            })
            .collect()
    }

    fn problems(of: &[(&str, i64)]) -> Vec<(String, &'static str)> {
        let problems = price(&lines(of), &offers()).expect_err("there is something wrong");
        problems
            .into_iter()
            .map(|problem| (problem.pointer, problem.code))
            .collect()
    }

    #[test]
    fn an_order_costs_the_sum_of_its_lines() {
        let (priced, currency, total) = price(&lines(&[("TEA", 3), ("CUP", 2)]), &offers()).expect("nothing is wrong");
        assert_eq!(
            priced.iter().map(|line| line.unit_price).collect::<Vec<_>>(),
            [Cents(250), Cents(1_000)]
        );
        assert_eq!((currency.as_str(), total), ("GBP", Cents(2_750)));
    }

    #[test]
    fn everything_wrong_with_an_order_is_said_at_once_and_where_it_is() {
        let found = problems(&[("TEA", 0), ("NONE", 1), ("TEA", 1), ("OLD", 1), ("EURO", 1_000_001)]);
        let expected = [
            ("/lines/0/qty", "qty_out_of_range"),
            ("/lines/1/sku", "unknown_sku"),
            ("/lines/2/sku", "duplicate_sku"),
            ("/lines/3/sku", "product_retired"),
            ("/lines/4/qty", "qty_out_of_range"),
            ("/lines/4/sku", "mixed_currencies"),
        ];
        assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn no_lines_too_many_lines_and_sums_that_cannot_be_charged_are_refused() {
        assert_eq!(problems(&[]), [("/lines".to_owned(), "no_lines")]);
        assert_eq!(problems(&[("YACHT", 3)]), [("/lines".to_owned(), "total_too_large")]);
        assert_eq!(problems(&[("GIFT", 3)]), [("/lines".to_owned(), "nothing_to_pay")]);
        assert_eq!(
            problems(&[("TEA", -1)])[0],
            ("/lines/0/qty".to_owned(), "qty_out_of_range")
        );
        let too_many: Vec<NewLine> = (0..=LINES_MAX)
            .map(|n| NewLine {
                sku: format!("SKU{n}"),
                qty: 1,
            })
            .collect();
        let problems = price(&too_many, &offers()).expect_err("there are too many");
        assert_eq!(problems[0].code, "too_many_lines");
    }

    #[test]
    fn a_card_number_is_no_payment_method() {
        assert!(is_payment_method("pm_card_visa"));
        for wrong in ["4242424242424242", "pm_", "pm_a b", "", "card_visa"] {
            assert!(!is_payment_method(wrong), "{wrong}");
        }
    }
}
