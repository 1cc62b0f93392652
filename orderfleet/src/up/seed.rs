//! What a fleet needs before its first order: a small catalogue, two warehouses with vans, some customers, and one
//! partner who wants to be told. All of it through the API, all of it harmless to repeat.

use anyhow::Context;
use reqwest::StatusCode;
use serde_json::{Value, json};
use url::Url;

use crate::client::ApiClient;
use crate::import::groundwork::{customer_id, make_product, receive_stock, warehouse_id};
use crate::import::rules::{Person, WAREHOUSES};

/// SKU, name, price in pence.
pub(super) const PRODUCTS: [(&str, &str, i64); 12] = [
    ("DEMO-LANTERN", "White metal lantern", 339),
    ("DEMO-BUNTING", "Party bunting", 495),
    ("DEMO-TEAPOT", "Red retrospot teapot", 825),
    ("DEMO-CAKESTAND", "Regency cakestand, three tiers", 1275),
    ("DEMO-HEART", "Hanging heart tealight holder", 255),
    ("DEMO-CLOCK", "Alarm clock bakelike green", 375),
    ("DEMO-DOORMAT", "Doormat, union flag", 675),
    ("DEMO-LUNCHBAG", "Lunch bag, black skull", 165),
    ("DEMO-MUG", "Paint your own mug", 210),
    ("DEMO-CANDLES", "Six candles in a box", 145),
    ("DEMO-BLANKET", "Picnic blanket, tartan", 2495),
    // Rare on purpose: some orders should run short.
    ("DEMO-GRAMOPHONE", "Gramophone, restored", 14_900),
];

/// The product that runs out.
pub(super) const RARE: &str = "DEMO-GRAMOPHONE";

/// How much of each product each warehouse has at first.
const OPENING_STOCK: i64 = 500;
const OPENING_STOCK_RARE: i64 = 5;

/// How many customers the demo has.
pub(super) const CUSTOMERS: usize = 8;

/// Vans per warehouse, and one lorry for what no van takes.
const VANS: usize = 8;

/// Catalogue, warehouses, vans and stock.
pub(super) async fn load(client: &ApiClient) -> anyhow::Result<()> {
    for warehouse in &WAREHOUSES {
        let id = warehouse_id(client, warehouse).await?;
        for n in 1..=VANS {
            vehicle(client, &id, &format!("van {n}"), 1_200_000, 10_000_000, 60).await?;
        }
        vehicle(client, &id, "lorry 1", 18_000_000, 60_000_000, 40).await?;
    }
    for (sku, name, price_pence) in PRODUCTS {
        let body = json!({"sku": sku, "name": name, "price_minor": price_pence, "currency": "GBP", "weight_grams": 400, "volume_cm3": 1500});
        make_product(client, &format!("seed:product:{sku}"), &body).await?;
        let qty = if sku == RARE { OPENING_STOCK_RARE } else { OPENING_STOCK };
        for warehouse in &WAREHOUSES {
            receive_stock(
                client,
                sku,
                warehouse.code,
                qty,
                &format!("seed:{sku}:{}", warehouse.code),
            )
            .await?;
        }
    }
    Ok(())
}

async fn vehicle(
    client: &ApiClient,
    warehouse: &str,
    name: &str,
    grams: i64,
    cm3: i64,
    stops: i64,
) -> anyhow::Result<()> {
    let body = json!({
        "warehouse_id": warehouse,
        "name": name,
        "capacity_grams": grams,
        "capacity_cm3": cm3,
        "shift_start": 7 * 3600,
        "shift_end": 19 * 3600,
        "stops_max": stops,
    });
    let reply = client
        .post("/api/v1/vehicles", &format!("seed:vehicle:{warehouse}:{name}"), &body)
        .await?;
    match reply.status {
        StatusCode::CONFLICT => Ok(()),
        _ => reply.expect("adding a vehicle").map(drop),
    }
}

/// The demo's customers, around the warehouses.
pub(super) async fn customers(client: &ApiClient) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for n in 0..CUSTOMERS {
        let near = WAREHOUSES[n % WAREHOUSES.len()];
        let person = Person {
            name: format!("Demo customer {}", n + 1),
            email: format!("demo-{}@orderfleet.example", n + 1),
            address: format!("{} Demo Street", n + 1),
            lat: near.lat + 0.02 * (n as f64 - 3.5),
            lon: near.lon + 0.03 * ((n * 5 % 8) as f64 - 3.5),
        };
        ids.push(customer_id(client, "seed", &person).await?);
    }
    Ok(ids)
}

/// Sees to it that the demo receiver is registered at its address: every event, in the order of each order.
///
/// The API tells an endpoint's secret once, when it makes it. When that was lost, or belongs to another database, a new
/// one is asked for. Returns the secret that deliveries are signed with, when it is a new one.
pub(super) async fn endpoint(client: &ApiClient, url: &Url, is_secret_known: bool) -> anyhow::Result<Option<String>> {
    let registered = client
        .get("/api/v1/webhook-endpoints?limit=100")
        .await?
        .expect("listing webhook endpoints")?;
    let items = registered
        .body
        .get("items")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let id = items
        .iter()
        .find(|item| item.get("url").and_then(Value::as_str) == Some(url.as_str()));
    let reply = match id.and_then(|item| item.get("id")?.as_str()) {
        Some(_) if is_secret_known => return Ok(None),
        Some(id) => {
            client
                .post_unkeyed(
                    &format!("/api/v1/webhook-endpoints/{id}/rotate-secret"),
                    &json!({"overlap_hours": 0}),
                )
                .await?
        }
        None => {
            let body = json!({"url": url.as_str(), "description": "the demo receiver of `orderfleet up`", "event_types": ["*"]});
            client.post_unkeyed("/api/v1/webhook-endpoints", &body).await?
        }
    };
    let reply = reply.expect("registering the demo receiver")?;
    reply
        .text("secret")
        .map(|secret| Some(secret.to_owned()))
        .context("the API did not say the endpoint's secret")
}
