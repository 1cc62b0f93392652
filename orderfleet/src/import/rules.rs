//! The rules by which a file without them gets customers with places, stock, and cards. Each is a function of the
//! input alone, so that every start of the same file says the same.

use sha2::{Digest, Sha256};

use super::rows::{Buyer, Product};

/// Where goods are received: two warehouses, either side of London, near enough that one order's goods may leave from
/// both. Made when they are missing, the same as `up` makes.
pub const WAREHOUSES: [Warehouse; 2] = [
    Warehouse {
        code: "LON-N",
        name: "London North",
        lat: 51.6522,
        lon: -0.0808,
        priority: 1,
    },
    Warehouse {
        code: "LON-S",
        name: "London South",
        lat: 51.3727,
        lon: -0.1099,
        priority: 2,
    },
];

/// A warehouse to be.
#[derive(Debug, Clone, Copy)]
pub struct Warehouse {
    /// Its code.
    pub code: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its latitude.
    pub lat: f64,
    /// Its longitude.
    pub lon: f64,
    /// Lower is asked first.
    pub priority: i32,
}

/// Of a hundred products, so many are short.
const SHORT_PERCENT: u64 = 3;
/// A short product's stock, in percent of what the file wants of it.
const SHORT_STOCK_PERCENT: i64 = 75;
/// The share of a product's stock that lies in its main warehouse, in percent.
const MAIN_PERCENT: i64 = 70;
/// One order in so many is paid with a card that is declined.
const DECLINED_ONE_IN: u64 = 150;
/// Customers live within that distance of a warehouse, as the crow flies.
const NEIGHBOURHOOD_KM: f64 = 25.0;

/// 64 bits that depend on nothing but the words: a purpose and what it is for.
fn hash(purpose: &str, of: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(of)
        .finalize();
    digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// A number from 0 up to 1, by the same rule.
fn share(purpose: &str, of: &str) -> f64 {
    // 53 bits are what a float holds exactly.
    (hash(purpose, of) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The opening stock of a product in each warehouse, in the order of [`WAREHOUSES`].
///
/// All that the file wants of it, or for three products in a hundred three quarters of that, so that some late orders
/// run short. Most of it in the one warehouse that the SKU's hash names, the rest in the other.
pub fn opening_stock(product: &Product) -> [i64; 2] {
    let is_short = hash("short", &product.sku) % 100 < SHORT_PERCENT;
    let total = if is_short {
        product.demand * SHORT_STOCK_PERCENT / 100
    } else {
        product.demand
    };
    let main = total * MAIN_PERCENT / 100;
    match hash("warehouse", &product.sku) % 2 {
        0 => [main, total - main],
        _ => [total - main, main],
    }
}

/// The gateway's token an order is paid with: a card that works, or for one order in 150 one that is declined.
pub fn payment_method(invoice: &str) -> &'static str {
    match hash("card", invoice) % DECLINED_ONE_IN {
        0 => "pm_card_chargeDeclined",
        _ => "pm_card_visa",
    }
}

/// What the API is told of a customer.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// A name.
    pub name: String,
    /// The key it is known by.
    pub email: String,
    /// An address in words.
    pub address: String,
    /// Where that is.
    pub lat: f64,
    /// Where that is.
    pub lon: f64,
}

/// A customer as the API is to know them.
///
/// The file has no addresses, and most countries are out of a van's reach: everybody is placed around one of the two
/// warehouses, evenly over a disc, by the hash of who they are.
pub fn person(buyer: &Buyer) -> Person {
    let (name, local) = match buyer {
        Buyer::Numbered(number) => (format!("Customer {number}"), format!("customer-{}", slug(number))),
        Buyer::WalkIn(country) => (
            format!("Walk-in customer, {country}"),
            format!("walk-in-{}", slug(country)),
        ),
    };
    let centre = WAREHOUSES[usize::from(hash("home", &local) % 2 == 1)];
    // The square root makes every square kilometre as likely as any other.
    let distance = NEIGHBOURHOOD_KM * share("distance", &local).sqrt();
    let bearing = std::f64::consts::TAU * share("bearing", &local);
    let lat = centre.lat + distance * bearing.cos() / 111.32;
    let lon = centre.lon + distance * bearing.sin() / (111.32 * centre.lat.to_radians().cos());
    Person {
        name,
        email: format!("{local}@online-retail.example"),
        address: format!("{:.1} km from {}", distance, centre.name),
        lat,
        lon,
    }
}

/// Letters and digits, in lower case, with dashes between.
fn slug(text: &str) -> String {
    let dashed: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    dashed
        .split('-')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(sku: String) -> Product {
        Product {
            sku,
            name: "x".to_owned(),
            price_pence: 1,
            demand: 1000,
        }
    }

    #[test]
    fn a_few_products_are_short_and_none_has_more_than_is_wanted() {
        let totals: Vec<i64> = (0..2000)
            .map(|n| opening_stock(&product(format!("{n}"))).iter().sum())
            .collect();
        let short = totals.iter().filter(|total| **total == 750).count();
        assert!((30..=90).contains(&short), "{short} of 2000");
        assert!(totals.iter().all(|total| *total == 750 || *total == 1000));
    }

    #[test]
    fn few_cards_are_declined() {
        let declined = (0..15_000)
            .filter(|n| payment_method(&n.to_string()) != "pm_card_visa")
            .count();
        assert!((60..=150).contains(&declined), "{declined} of 15000");
    }

    #[test]
    fn everybody_lives_near_a_warehouse_and_stays_there() {
        for n in 0..500 {
            let buyer = Buyer::Numbered(n.to_string());
            let person = person(&buyer);
            let near = WAREHOUSES.iter().any(|warehouse| {
                let north = (person.lat - warehouse.lat) * 111.32;
                let east = (person.lon - warehouse.lon) * 111.32 * warehouse.lat.to_radians().cos();
                north.hypot(east) <= NEIGHBOURHOOD_KM + 0.1
            });
            assert!(near, "{person:?}");
            assert_eq!(person, super::person(&buyer));
        }
        assert_eq!(
            person(&Buyer::WalkIn("United Kingdom".to_owned())).email,
            "walk-in-united-kingdom@online-retail.example"
        );
    }
}
