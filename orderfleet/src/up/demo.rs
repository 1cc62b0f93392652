//! Sends about one order a second, as customers do: most go through, some are declined, some cancelled, some run short.

use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::json;
use uuid::Uuid;

use super::seed;
use crate::client::ApiClient;
use crate::import::groundwork::receive_stock;
use crate::import::rules::WAREHOUSES;

/// About how long from one order to the next.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 600..=1400;
/// A customer thinks that long before cancelling.
const SECOND_THOUGHTS: Duration = Duration::from_secs(4);
/// Goods come in after so many orders, so that the demo never sells out.
const RESTOCK_EVERY: u64 = 200;
/// So many of each product then.
const RESTOCK_QTY: i64 = 400;

/// Sends until it is aborted. Trouble with one order is told and forgotten.
pub(super) async fn send_orders(client: ApiClient) {
    let customers = loop {
        match seed::customers(&client).await {
            Ok(customers) => break customers,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the demo's customers cannot be made yet"),
        }
        tokio::time::sleep(SECOND_THOUGHTS).await;
    };
    for n in 1_u64.. {
        let pause = Duration::from_millis(rand::rng().random_range(PAUSE_MS));
        tokio::time::sleep(pause).await;
        let (client, order) = (client.clone(), Draft::random(&customers));
        tokio::spawn(async move {
            let sent = async {
                if n % RESTOCK_EVERY == 0 {
                    restock(&client).await?;
                }
                order.send(&client).await
            };
            if let Err(error) = sent.await {
                tracing::warn!(error = format!("{error:#}"), "a demo order failed");
            }
        });
    }
}

/// An order to be, and whether its customer will think again.
struct Draft {
    body: serde_json::Value,
    is_regretted: bool,
}

impl Draft {
    fn random(customers: &[String]) -> Draft {
        let mut random = rand::rng();
        let count = random.random_range(1..=3);
        let products: Vec<_> = seed::PRODUCTS.choose_multiple(&mut random, count).collect();
        let lines: Vec<_> = products
            .iter()
            .map(|(sku, ..)| json!({"sku": sku, "qty": random.random_range(1..=4)}))
            .collect();
        let payment_method = match random.random_range(0..40) {
            0..=2 => "pm_card_chargeDeclined",
            3 => "pm_card_chargeDeclinedInsufficientFunds",
            4 => "pm_card_answer_lost",
            5 => "pm_card_slow",
            _ => "pm_card_visa",
        };
        let customer = customers.choose(&mut random);
        let body = json!({"customer_id": customer, "lines": lines, "payment_method": payment_method});
        Draft {
            body,
            is_regretted: random.random_range(0..8) == 0,
        }
    }

    async fn send(self, client: &ApiClient) -> anyhow::Result<()> {
        let key = format!("demo:{}", Uuid::now_v7());
        let reply = client
            .post("/api/v1/orchestrations/create-and-confirm", &key, &self.body)
            .await?;
        let reply = reply.expect("sending a demo order")?;
        let id = reply.text("id").context("an order without an id")?;
        if self.is_regretted {
            tokio::time::sleep(SECOND_THOUGHTS).await;
            // Refused when it was rejected meanwhile, or when the window is closed: that is as it should be.
            client
                .post(
                    &format!("/api/v1/orders/{id}/cancel"),
                    &format!("{key}:cancel"),
                    &json!({"reason": "changed my mind"}),
                )
                .await?;
        }
        Ok(())
    }
}

async fn restock(client: &ApiClient) -> anyhow::Result<()> {
    let delivery = Uuid::now_v7();
    for warehouse in &WAREHOUSES {
        for (sku, ..) in seed::PRODUCTS.iter().filter(|(sku, ..)| *sku != seed::RARE) {
            receive_stock(
                client,
                sku,
                warehouse.code,
                RESTOCK_QTY,
                &format!("demo:{delivery}:{sku}:{}", warehouse.code),
            )
            .await?;
        }
    }
    Ok(())
}
