//! The catalogue: what is sold, and the warehouses it lies in. A retired product stays for the orders that have it.

pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    ids::{ProductId, WarehouseId},
    money::{Cents, Currency},
};

/// A product.
#[derive(Debug, Clone, Serialize)]
pub struct Product {
    /// Its id.
    pub id: ProductId,
    /// The name it is ordered by.
    pub sku: String,
    /// The name people know it by.
    pub name: String,
    /// Its price now; orders keep the price they were made at.
    pub price: Cents,
    /// What the price is in.
    pub currency: Currency,
    /// What one weighs.
    pub weight_grams: i32,
    /// The room one takes.
    pub volume_cm3: i32,
    /// May be ordered when there is none.
    pub backorderable: bool,
    /// Below it, more should be bought.
    pub reorder_point: i64,
    /// Counts the changes.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was taken off sale.
    pub retired_at: Option<DateTime<Utc>>,
}

/// A product to be.
#[derive(Debug, Clone)]
pub struct NewProduct {
    /// The name it is ordered by.
    pub sku: String,
    /// The name people know it by.
    pub name: String,
    /// Its price.
    pub price: Cents,
    /// What the price is in.
    pub currency: Currency,
    /// What one weighs; half a kilogram unless told.
    pub weight_grams: Option<i32>,
    /// The room one takes; a litre unless told.
    pub volume_cm3: Option<i32>,
    /// Below it, more should be bought.
    pub reorder_point: i64,
}

/// What changes in a product: nothing that is not named.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// The name people know it by.
    pub name: Option<String>,
    /// Its price from now on.
    pub price: Option<Cents>,
    /// What one weighs.
    pub weight_grams: Option<i32>,
    /// The room one takes.
    pub volume_cm3: Option<i32>,
    /// Below it, more should be bought.
    pub reorder_point: Option<i64>,
}

/// Which products to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In the SKU or the name.
    pub search: Option<String>,
    /// Those no longer sold, too.
    pub with_retired: bool,
}

/// A place where products lie.
#[derive(Debug, Clone, Serialize)]
pub struct Warehouse {
    /// Its id.
    pub id: WarehouseId,
    /// Its short name.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub lat: f64,
    /// Where it is.
    pub lon: f64,
    /// Lower is asked first.
    pub priority: i32,
    /// How much longer a road is than the straight line there; none: as everywhere.
    pub road_factor: Option<f64>,
    /// How fast a van is there; none: as everywhere.
    pub speed_kmh: Option<f64>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A warehouse to be.
#[derive(Debug, Clone)]
pub struct NewWarehouse {
    /// Its short name.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub lat: f64,
    /// Where it is.
    pub lon: f64,
    /// Lower is asked first.
    pub priority: i32,
    /// How much longer a road is than the straight line there, from 1 to 3; none: as everywhere.
    pub road_factor: Option<f64>,
    /// How fast a van is there, from 5 to 130; none: as everywhere.
    pub speed_kmh: Option<f64>,
}

/// Why the catalogue could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such product.
    #[error("there is no such product")]
    NotFound,
    /// Another product has this SKU.
    #[error("another product has this SKU")]
    SkuTaken,
    /// Another warehouse has this code.
    #[error("another warehouse has this code")]
    CodeTaken,
    /// Somebody else changed it.
    #[error("the product changed meanwhile; it is at version {current}")]
    VersionChanged {
        /// Its version now.
        current: i32,
    },
    /// A value the table refuses, by the name of its rule.
    #[error("a value is not acceptable: {0}")]
    Refused(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
