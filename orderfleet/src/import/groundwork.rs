//! What the orders refer to, made before them: warehouses, customers, products and their opening stock.
//!
//! Each thing is made under a key of its own, and one that is there already (409) is as good as made. Keys are forgotten
//! after a day, so the API's uniqueness of e-mails, SKUs, codes and stock references is what holds in the long run.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::rows::{Buyer, Product, Sheet};
use super::rules::{self, Person, WAREHOUSES, Warehouse};
use crate::client::{ApiClient, Reply};

/// What a gift in a box weighs and fills, where the file does not say.
const WEIGHT_GRAMS: i64 = 150;
const VOLUME_CM3: i64 = 400;

/// Makes everything; returns each buyer's customer id.
pub(super) async fn lay(
    client: &ApiClient,
    sheet: &Sheet,
    hash: &str,
    concurrency: usize,
) -> anyhow::Result<HashMap<Buyer, String>> {
    for warehouse in &WAREHOUSES {
        warehouse_id(client, warehouse).await?;
    }
    let buyers: BTreeSet<&Buyer> = sheet.invoices.iter().map(|invoice| &invoice.customer).collect();
    eprintln!("making {} customers", buyers.len());
    let customers = stream::iter(buyers)
        .map(|buyer| async move {
            anyhow::Ok((
                buyer.clone(),
                customer_id(client, &format!("import:{hash}"), &rules::person(buyer)).await?,
            ))
        })
        .buffer_unordered(concurrency)
        .try_collect()
        .await?;
    eprintln!("making {} products and their opening stock", sheet.products.len());
    stream::iter(&sheet.products)
        .map(|product| async move {
            let key = format!("import:{hash}:product:{}", product.sku);
            make_product(client, &key, &product_body(product))
                .await
                .with_context(|| format!("product {}", product.sku))?;
            receive(client, hash, product).await
        })
        .buffer_unordered(concurrency)
        .try_collect::<()>()
        .await?;
    Ok(customers)
}

/// The id of that warehouse, made when it is missing.
pub async fn warehouse_id(client: &ApiClient, warehouse: &Warehouse) -> anyhow::Result<String> {
    let body = json!({
        "code": warehouse.code,
        "name": warehouse.name,
        "lat": warehouse.lat,
        "lon": warehouse.lon,
        "priority": warehouse.priority,
    });
    let key = format!("warehouse:{}", warehouse.code);
    let reply = client.post("/api/v1/warehouses", &key, &body).await?;
    if let Some(id) = made(&reply, "making a warehouse")? {
        return Ok(id);
    }
    find(client, "/api/v1/warehouses", "code", warehouse.code).await
}

/// The id of that customer, made when they are missing.
pub async fn customer_id(client: &ApiClient, purpose: &str, person: &Person) -> anyhow::Result<String> {
    let body = json!({
        "name": person.name,
        "email": person.email,
        "address": person.address,
        "lat": person.lat,
        "lon": person.lon,
    });
    let reply = client
        .post(
            "/api/v1/customers",
            &format!("{purpose}:customer:{}", person.email),
            &body,
        )
        .await?;
    if let Some(id) = made(&reply, "making a customer")? {
        return Ok(id);
    }
    find(
        client,
        &format!("/api/v1/customers?limit=100&search={}", person.email),
        "email",
        &person.email,
    )
    .await
}

/// Makes a product, unless it is there.
pub async fn make_product(client: &ApiClient, key: &str, body: &Value) -> anyhow::Result<()> {
    let reply = client.post("/api/v1/products", key, body).await?;
    made(&reply, "making a product").map(drop)
}

fn product_body(product: &Product) -> Value {
    json!({
        "sku": product.sku,
        "name": product.name,
        "price_minor": product.price_pence,
        "currency": "GBP",
        "weight_grams": WEIGHT_GRAMS,
        "volume_cm3": VOLUME_CM3,
    })
}

/// Opening stock, under a reference that the API counts once: a second start adds nothing.
async fn receive(client: &ApiClient, hash: &str, product: &Product) -> anyhow::Result<()> {
    for (qty, warehouse) in rules::opening_stock(product)
        .into_iter()
        .zip(&WAREHOUSES)
        .filter(|(qty, _)| *qty > 0)
    {
        let reference = format!("import:{hash}:{}:{}", product.sku, warehouse.code);
        receive_stock(client, &product.sku, warehouse.code, qty, &reference).await?;
    }
    Ok(())
}

/// Receives stock under a reference.
pub async fn receive_stock(
    client: &ApiClient,
    sku: &str,
    warehouse: &str,
    qty: i64,
    reference: &str,
) -> anyhow::Result<()> {
    let sku: String = form_urlencoded::byte_serialize(sku.as_bytes())
        .collect::<String>()
        .replace('+', "%20");
    let body = json!({"warehouse": warehouse, "qty": qty, "reference": reference});
    client
        .post(&format!("/api/v1/inventory/{sku}/receipts"), reference, &body)
        .await?
        .expect("receiving stock")
        .map(drop)
}

/// The id of what was made; nothing when it was there already.
fn made(reply: &Reply, doing: &str) -> anyhow::Result<Option<String>> {
    if reply.status == StatusCode::CONFLICT {
        return Ok(None);
    }
    match reply.text("id") {
        Some(id) if reply.status.is_success() => Ok(Some(id.to_owned())),
        _ => bail!("{doing}: the API answered {} {}", reply.status.as_u16(), reply.body),
    }
}

/// The id of the one thing in a list with that member.
async fn find(client: &ApiClient, path: &str, member: &str, value: &str) -> anyhow::Result<String> {
    let reply = client.get(path).await?.expect("finding what is there already")?;
    let items = reply
        .body
        .get("items")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let found = items
        .iter()
        .find(|item| item.get(member).and_then(Value::as_str) == Some(value));
    found
        .and_then(|item| item.get("id")?.as_str())
        .map(str::to_owned)
        .with_context(|| format!("{path} has nothing with {member} {value}"))
}
