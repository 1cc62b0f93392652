//! Which warehouse gives what to which line: pure. The caller has the levels locked and writes the result.
//!
//! Each line takes from one warehouse if one can cover it, the first in the order given; else it is split over several
//! in that order. All lines or none: an order is never half reserved.

use std::collections::HashMap;

use serde::Serialize;

use crate::ids::{OrderLineId, ProductId, WarehouseId};

/// What a line needs.
#[derive(Debug, Clone)]
pub struct Need {
    /// The line.
    pub line_id: OrderLineId,
    /// What.
    pub product_id: ProductId,
    /// By the name people know it by.
    pub sku: String,
    /// How many.
    pub qty: i64,
}

/// What lies free in one place.
#[derive(Debug, Clone, Copy)]
pub struct Free {
    /// What.
    pub product_id: ProductId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// How many.
    pub qty: i64,
}

/// What one line takes from one warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The line.
    pub line_id: OrderLineId,
    /// What.
    pub product_id: ProductId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// How many.
    pub qty: i64,
}

/// What a line wanted and could not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// The product.
    pub sku: String,
    /// How many the order asks for.
    pub wanted: i64,
    /// How many are free, everywhere together.
    pub available: i64,
}

/// Shares out what is free, `free` being sorted by preference; or says what is short.
pub fn allocate(needs: &[Need], free: &[Free]) -> Result<Vec<Taken>, Vec<Shortage>> {
    let mut shelves: HashMap<ProductId, Vec<(WarehouseId, i64)>> = HashMap::new();
    for place in free {
        shelves
            .entry(place.product_id)
            .or_default()
            .push((place.warehouse_id, place.qty));
    }

    let mut taken = Vec::with_capacity(needs.len());
    let mut shortages = Vec::new();
    for need in needs {
        let places = shelves.entry(need.product_id).or_default();
        let available: i64 = places.iter().map(|(_, qty)| *qty).sum();
        if available < need.qty {
            shortages.push(Shortage {
                sku: need.sku.clone(),
                wanted: need.qty,
                available,
            });
            continue;
        }
        let mut take = |place: &mut (WarehouseId, i64), qty: i64| {
            place.1 -= qty;
            let (line_id, product_id) = (need.line_id, need.product_id);
            taken.push(Taken {
                line_id,
                product_id,
                warehouse_id: place.0,
                qty,
            });
        };
        if let Some(place) = places.iter_mut().find(|(_, qty)| *qty >= need.qty) {
            take(place, need.qty);
            continue;
        }
        let mut missing = need.qty;
        for place in places.iter_mut().filter(|(_, qty)| *qty > 0) {
            let qty = missing.min(place.1);
            take(place, qty);
            missing -= qty;
            if missing == 0 {
                break;
            }
        }
    }
    if shortages.is_empty() {
        Ok(taken)
    } else {
        Err(shortages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(product_id: ProductId, qty: i64) -> Need {
        Need {
            line_id: OrderLineId::new(),
            product_id,
            sku: "SKU".to_owned(),
            qty,
        }
    }

    fn free(product_id: ProductId, quantities: &[i64]) -> Vec<Free> {
        quantities
            .iter()
            .map(|qty| Free {
                product_id,
                warehouse_id: WarehouseId::new(),
                qty: *qty,
            })
            .collect()
    }

    #[test]
    fn one_warehouse_that_covers_the_line_is_preferred_to_a_split() {
        let product = ProductId::new();
        let places = free(product, &[3, 2, 8, 9]);
        let taken = allocate(&[need(product, 5)], &places).expect("there is enough");
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].warehouse_id, taken[0].qty), (places[2].warehouse_id, 5));
    }

    #[test]
    fn a_line_no_warehouse_covers_is_split_in_the_order_of_preference() {
        let product = ProductId::new();
        let taken = allocate(&[need(product, 9)], &free(product, &[4, 0, 3, 5])).expect("there is enough");
        assert_eq!(taken.iter().map(|t| t.qty).collect::<Vec<_>>(), [4, 3, 2]);
    }

    #[test]
    fn two_lines_of_one_product_share_what_is_there() {
        let product = ProductId::new();
        let short =
            allocate(&[need(product, 4), need(product, 4)], &free(product, &[6])).expect_err("there are only six");
        assert_eq!(
            short,
            [Shortage {
                sku: "SKU".to_owned(),
                wanted: 4,
                available: 2
            }]
        );
    }

    #[test]
    fn every_short_line_is_named() {
        let (one, other) = (ProductId::new(), ProductId::new());
        let short = allocate(&[need(one, 1), need(other, 2)], &free(one, &[0])).expect_err("there is nothing");
        assert_eq!(short.len(), 2);
    }
}
