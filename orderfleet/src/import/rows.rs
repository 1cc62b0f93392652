//! Reading the file: each row's rule, and the invoices that its good rows make. Pure: no request is made here.
//!
//! The rules, in the order they are asked; the first that applies is the row's reason:
//!
//! 1. a row that cannot be read (columns missing, a quantity or price that is no number) is `malformed_row`;
//! 2. an invoice number that starts with `C` is a `cancellation_invoice`; another that is not all digits is an
//!    `adjustment_invoice`;
//! 3. a stock code for postage, fees, discounts, samples, manual entries or vouchers is `not_a_stocked_product`;
//! 4. a quantity of zero or less is `non_positive_quantity` (write-offs);
//! 5. a price of zero or less is `non_positive_price` (notes such as "damaged?"), and one that rounds to no penny is too;
//! 6. a quantity above [`QUANTITY_MAX`] is an `absurd_quantity`.
//!
//! What is left is ordered. The same product twice in one invoice becomes one line, its quantities summed: both rows are
//! imported, the later ones with `duplicate_line_merged`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Read;

use anyhow::{Context, bail};

/// The most of one product that a row may ask for: the real baskets end at 5,568, and the one row of 74,215 was a mistake
/// that its customer cancelled within minutes.
pub const QUANTITY_MAX: i64 = 10_000;

/// The header that the format has.
const COLUMNS: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];

/// Codes that are no product on a shelf.
const FEES: [&str; 12] = [
    "AMAZONFEE",
    "ADJUST",
    "ADJUST2",
    "B",
    "BANK CHARGES",
    "C2",
    "CRUK",
    "D",
    "DOT",
    "M",
    "POST",
    "S",
];

/// Why a row became what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Ordered as it stands.
    Ordered,
    /// Ordered, its quantity added to an earlier row's line.
    DuplicateLineMerged,
    /// Cannot be read.
    MalformedRow,
    /// The invoice takes another one back.
    CancellationInvoice,
    /// The invoice is a book-keeper's entry.
    AdjustmentInvoice,
    /// Postage, a fee, a voucher.
    NotAStockedProduct,
    /// Zero or negative.
    NonPositiveQuantity,
    /// Zero, negative, or no whole penny.
    NonPositivePrice,
    /// Above [`QUANTITY_MAX`].
    AbsurdQuantity,
}

impl Reason {
    /// Whether a row with this reason is part of an order.
    pub fn is_ordered(self) -> bool {
        matches!(self, Reason::Ordered | Reason::DuplicateLineMerged)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Ordered => "ordered",
            Reason::DuplicateLineMerged => "duplicate_line_merged",
            Reason::MalformedRow => "malformed_row",
            Reason::CancellationInvoice => "cancellation_invoice",
            Reason::AdjustmentInvoice => "adjustment_invoice",
            Reason::NotAStockedProduct => "not_a_stocked_product",
            Reason::NonPositiveQuantity => "non_positive_quantity",
            Reason::NonPositivePrice => "non_positive_price",
            Reason::AbsurdQuantity => "absurd_quantity",
        })
    }
}

/// One input row, as much of it as its result row needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The line of the file it starts on.
    pub line: u64,
    /// As written.
    pub invoice: String,
    /// As written.
    pub stock_code: String,
    /// What the rules say.
    pub reason: Reason,
}

/// One order to be: the good rows of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// Its number.
    pub number: String,
    /// Who ordered.
    pub customer: Buyer,
    /// Quantity by SKU, in the order of first mention.
    pub lines: Vec<(String, i64)>,
}

/// Who ordered: a customer with a number, or whoever walked in from a country.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Buyer {
    /// A customer of the file.
    Numbered(String),
    /// The walk-in customer of a country: every row without a CustomerID is theirs.
    WalkIn(String),
}

/// A product as its rows describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// The upper-cased stock code.
    pub sku: String,
    /// Its most frequent description; the code when it has none.
    pub name: String,
    /// Its most frequent positive price, in pence.
    pub price_pence: i64,
    /// How much of it the file's orders want, all together.
    pub demand: i64,
}

/// The whole file, sorted out.
#[derive(Debug, Default)]
pub struct Sheet {
    /// Every input row, in order.
    pub rows: Vec<Row>,
    /// Every order to be, in the order of first mention.
    pub invoices: Vec<Invoice>,
    /// Every product that is ordered, by SKU.
    pub products: Vec<Product>,
}

impl Sheet {
    /// Reads CSV text with the format's header.
    pub fn read(input: impl Read) -> anyhow::Result<Sheet> {
        let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(input);
        let header = csv.byte_headers().context("reading the header")?;
        if header
            .iter()
            .map(|name| name.trim_ascii())
            .ne(COLUMNS.iter().map(|name| name.as_bytes()))
        {
            bail!(
                "the header is `{}`, not `{}`",
                header.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(","),
                COLUMNS.join(",")
            );
        }
        let mut sorting = Sorting::default();
        let mut record = csv::ByteRecord::new();
        while csv.read_byte_record(&mut record).context("reading a row")? {
            let line = record.position().map_or(0, csv::Position::line);
            sorting.take(line, &record);
        }
        Ok(sorting.finish())
    }
}

/// One row's cells, read.
struct Cells {
    invoice: String,
    sku: String,
    description: String,
    quantity: i64,
    price_pence: i64,
    buyer: Buyer,
}

/// What is collected while the rows go by.
#[derive(Default)]
struct Sorting {
    rows: Vec<Row>,
    invoices: Vec<Invoice>,
    invoice_at: HashMap<String, usize>,
    line_at: HashMap<(usize, String), usize>,
    products: BTreeMap<String, Description>,
}

/// What the rows say about one product, with how often.
#[derive(Default)]
struct Description {
    names: BTreeMap<String, u32>,
    prices: BTreeMap<i64, u32>,
    demand: i64,
}

impl Sorting {
    fn take(&mut self, line: u64, record: &csv::ByteRecord) {
        let text = |at: usize| {
            String::from_utf8_lossy(record.get(at).unwrap_or_default())
                .trim()
                .to_owned()
        };
        let reason = match judge(record) {
            Ok(cells) => self.order(cells),
            Err(reason) => reason,
        };
        self.rows.push(Row {
            line,
            invoice: text(0),
            stock_code: text(1),
            reason,
        });
    }

    /// Adds a good row to its invoice and to what is known of its product.
    fn order(&mut self, cells: Cells) -> Reason {
        let product = self.products.entry(cells.sku.clone()).or_default();
        if !cells.description.is_empty() {
            *product.names.entry(cells.description).or_default() += 1;
        }
        *product.prices.entry(cells.price_pence).or_default() += 1;
        product.demand += cells.quantity;

        let at = *self.invoice_at.entry(cells.invoice).or_insert_with_key(|number| {
            self.invoices.push(Invoice {
                number: number.clone(),
                customer: cells.buyer,
                lines: Vec::new(),
            });
            self.invoices.len() - 1
        });
        let lines = &mut self.invoices[at].lines;
        match self.line_at.get(&(at, cells.sku.clone())) {
            Some(&line) => {
                lines[line].1 += cells.quantity;
                Reason::DuplicateLineMerged
            }
            None => {
                self.line_at.insert((at, cells.sku.clone()), lines.len());
                lines.push((cells.sku, cells.quantity));
                Reason::Ordered
            }
        }
    }

    fn finish(self) -> Sheet {
        let products = self.products.into_iter().map(|(sku, known)| Product {
            name: most_frequent(&known.names).unwrap_or_else(|| sku.clone()),
            price_pence: most_frequent(&known.prices).unwrap_or(1),
            demand: known.demand,
            sku,
        });
        Sheet {
            products: products.collect(),
            rows: self.rows,
            invoices: self.invoices,
        }
    }
}

/// The rules, in their order.
fn judge(record: &csv::ByteRecord) -> Result<Cells, Reason> {
    if record.len() != COLUMNS.len() {
        return Err(Reason::MalformedRow);
    }
    let text = |at: usize| String::from_utf8_lossy(&record[at]).trim().to_owned();
    let (invoice, sku, country) = (text(0), text(1).to_uppercase(), text(7));
    let quantity: i64 = text(3).parse().map_err(|_| Reason::MalformedRow)?;
    let price_pence = pence(&text(5)).ok_or(Reason::MalformedRow)?;
    if invoice.is_empty() || sku.is_empty() || sku.len() > 64 {
        return Err(Reason::MalformedRow);
    }
    if invoice.starts_with(['C', 'c']) {
        return Err(Reason::CancellationInvoice);
    }
    if !invoice.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reason::AdjustmentInvoice);
    }
    if is_fee(&sku) {
        return Err(Reason::NotAStockedProduct);
    }
    if quantity <= 0 {
        return Err(Reason::NonPositiveQuantity);
    }
    if price_pence <= 0 {
        return Err(Reason::NonPositivePrice);
    }
    if quantity > QUANTITY_MAX {
        return Err(Reason::AbsurdQuantity);
    }
    let buyer = match text(6) {
        number if number.is_empty() => Buyer::WalkIn(country),
        number => Buyer::Numbered(number),
    };
    Ok(Cells {
        invoice,
        sku,
        description: text(2),
        quantity,
        price_pence,
        buyer,
    })
}

/// Whether a code is no product on a shelf: the known fees, and gift vouchers.
fn is_fee(sku: &str) -> bool {
    FEES.contains(&sku) || sku.starts_with("GIFT_")
}

/// `2.55` is 255; half a penny and more is rounded up, away from zero.
fn pence(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let digit = |at: usize| i64::from(fraction.as_bytes().get(at).map_or(0, |byte| byte - b'0'));
    let rounded_up = i64::from(digit(2) >= 5);
    let whole: i64 = whole.parse().ok()?;
    Some(sign * (whole * 100 + digit(0) * 10 + digit(1) + rounded_up))
}

/// The value seen most often; of equals, the first in order, so that every start says the same.
fn most_frequent<T: Clone + Ord>(counts: &BTreeMap<T, u32>) -> Option<T> {
    let most = counts.values().max()?;
    counts
        .iter()
        .find(|(_, count)| *count == most)
        .map(|(value, _)| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    fn sheet(rows: &str) -> Sheet {
        Sheet::read(format!("{HEADER}{rows}").as_bytes()).expect("a readable sheet")
    }

    fn reasons(rows: &str) -> Vec<String> {
        sheet(rows).rows.iter().map(|row| row.reason.to_string()).collect()
    }

    #[test]
    fn each_row_gets_the_first_reason_that_applies() {
        let rows = "\
            536365,85123A,HEART,6,2010-12-01T08:26:00,2.55,17850,United Kingdom\n\
            C536379,D,Discount,-1,2010-12-01T09:41:00,27.5,14527,United Kingdom\n\
            A563185,B,Adjust bad debt,1,2010-12-01T09:41:00,100,,United Kingdom\n\
            536370,post,POSTAGE,3,2010-12-01T08:45:00,18,12583,France\n\
            536371,gift_0001_20,Voucher £20,1,2010-12-01T08:45:00,16.67,,United Kingdom\n\
            536589,21777,,-10,2010-12-01T16:50:00,0,,United Kingdom\n\
            536414,22139,damaged?,56,2010-12-01T11:52:00,0,,United Kingdom\n\
            536415,PADS,PADS,1,2010-12-01T11:52:00,0.001,1,United Kingdom\n\
            541431,23166,JAR,74215,2011-01-18T10:01:00,1.04,12346,United Kingdom\n\
            536416,22139,SHORT ROW,1\n\
            536417,22139,ODD,many,2010-12-01T11:52:00,1,1,United Kingdom\n";
        assert_eq!(
            reasons(rows),
            [
                "ordered",
                "cancellation_invoice",
                "adjustment_invoice",
                "not_a_stocked_product",
                "not_a_stocked_product",
                "non_positive_quantity",
                "non_positive_price",
                "non_positive_price",
                "absurd_quantity",
                "malformed_row",
                "malformed_row",
            ]
        );
    }

    #[test]
    fn the_same_product_twice_is_one_line_in_any_letter_case() {
        let sheet = sheet(
            "1,85123a,HEART,6,d,2.55,17850,United Kingdom\n1,71053,LANTERN,1,d,3.39,17850,United Kingdom\n\
             1,85123A,HEART,4,d,2.55,17850,United Kingdom\n",
        );
        assert_eq!(sheet.invoices.len(), 1);
        assert_eq!(
            sheet.invoices[0].lines,
            [("85123A".to_owned(), 10), ("71053".to_owned(), 1)]
        );
        assert_eq!(sheet.rows[2].reason, Reason::DuplicateLineMerged);
        assert_eq!(sheet.rows[2].line, 4);
    }

    #[test]
    fn a_product_has_its_most_frequent_name_and_price() {
        let sheet = sheet("1,85123A,HEART,6,d,2.55,1,UK\n2,85123A,heart,1,d,2.95,1,UK\n3,85123a,HEART,4,d,2.95,1,UK\n");
        let product = &sheet.products[0];
        assert_eq!(
            (product.name.as_str(), product.price_pence, product.demand),
            ("HEART", 295, 11)
        );
    }

    #[test]
    fn a_row_without_a_customer_is_the_countrys_walk_in() {
        let sheet = sheet("1,85123A,HEART,6,d,2.55,,EIRE\n2,85123A,HEART,6,d,2.55,17850,EIRE\n");
        assert_eq!(sheet.invoices[0].customer, Buyer::WalkIn("EIRE".to_owned()));
        assert_eq!(sheet.invoices[1].customer, Buyer::Numbered("17850".to_owned()));
    }

    #[test]
    fn prices_are_read_as_whole_pence() {
        for (text, expected) in [
            ("2.55", 255),
            ("18", 1800),
            ("0.001", 0),
            ("0.005", 1),
            ("-1.10", -110),
            ("3.9", 390),
        ] {
            assert_eq!(pence(text), Some(expected), "{text}");
        }
        for text in ["", "x", "1.2.3", "1e5", "12345678901"] {
            assert_eq!(pence(text), None, "{text}");
        }
    }

    #[test]
    fn another_header_is_refused_with_both() {
        let error = Sheet::read("a,b\n1,2\n".as_bytes())
            .expect_err("another format")
            .to_string();
        assert!(error.contains("`a,b`") && error.contains("InvoiceNo"), "{error}");
    }
}
