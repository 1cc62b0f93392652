//! Stock: read, received and corrected, always by a movement.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::catalogue::{self, Product};
use domain::ids::WarehouseId;
use domain::stock::{self, Level, QTY_MAX};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, integer, small_integer, text};
use crate::path::Id;
use crate::problem::Problem;

/// What there is of one product.
#[derive(Serialize, ToSchema)]
pub(crate) struct Inventory {
    /// The product.
    sku: String,
    /// The product, by its id.
    product_id: Uuid,
    /// How many there are.
    on_hand: i64,
    /// How many of them are kept for orders.
    reserved: i64,
    /// How many can still be sold.
    available: i64,
    /// The same per warehouse.
    levels: Vec<LevelView>,
}

/// What lies in one warehouse of one product.
#[derive(Serialize, ToSchema)]
pub(crate) struct LevelView {
    /// The warehouse's code.
    warehouse: String,
    /// The warehouse.
    warehouse_id: Uuid,
    /// How many lie there.
    on_hand: i64,
    /// How many of them are kept for orders.
    reserved: i64,
    /// How many can still be sold.
    available: i64,
    /// Raised by every change.
    version: i32,
    /// When it last changed.
    updated_at: DateTime<Utc>,
}

impl From<Level> for LevelView {
    fn from(level: Level) -> LevelView {
        LevelView {
            available: level.available(),
            warehouse: level.warehouse,
            warehouse_id: level.warehouse_id.0,
            on_hand: level.on_hand,
            reserved: level.reserved,
            version: level.version,
            updated_at: level.updated_at,
        }
    }
}

/// The first stock of a product in a warehouse.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `initialise` reads it")]
pub(crate) struct FirstStock {
    /// The product.
    sku: String,
    /// The warehouse's code; without it the one that is asked first.
    warehouse: Option<String>,
    /// How many lie there.
    on_hand: i64,
}

/// A delivery that came in.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `receive` reads it")]
pub(crate) struct Receipt {
    /// The warehouse's code; without it the one that is asked first.
    warehouse: Option<String>,
    /// How many came.
    #[schema(minimum = 1)]
    qty: i64,
    /// Your name for the delivery: one reference counts once.
    reference: String,
}

/// A correction.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `adjust` reads it")]
pub(crate) struct Adjustment {
    /// The warehouse's code; without it the one that is asked first.
    warehouse: Option<String>,
    /// By how many: negative when there are fewer.
    by: i64,
    /// Why.
    reason: String,
    /// Your name for the correction: one reference counts once.
    reference: Option<String>,
    /// Only if the level still has this version.
    expected_version: Option<i32>,
}

/// Gives a product its first stock in a warehouse; 409 when it has some there already.
#[utoipa::path(
    post, path = "/inventory", tag = "inventory",
    request_body = FirstStock,
    responses((status = 201, description = "There it is", body = Inventory)),
    security(("api_key" = ["inventory:write"])),
)]
pub(crate) async fn initialise(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (sku, code, on_hand) = fields::read(&call.body, |f| {
            let sku = f.required("sku", text(1..=64));
            (
                sku,
                f.optional("warehouse", text(1..=32)),
                f.required("on_hand", integer(0..=QTY_MAX)),
            )
        })?;
        let product = catalogue::store::by_sku(conn, &sku).await?;
        let unknown = || Problem::invalid_field("/sku", "unknown_sku", "there is no product with this SKU");
        let product = product.ok_or_else(unknown)?;
        let warehouse = warehouse(conn, code.as_deref()).await?;
        stock::store::initialise(conn, product.id, warehouse, on_hand, &call.cause()).await?;
        let path = format!("/api/v1/inventory/{}", urlencoded(&product.sku));
        Ok(Answer::created(&path, &inventory(conn, product).await?))
    })
    .await
}

/// What there is of a product, in all and per warehouse.
#[utoipa::path(
    get, path = "/inventory/{sku}", tag = "inventory",
    params(("sku" = String, Path, description = "The product")),
    responses((status = 200, description = "What there is", body = Inventory)),
    security(("api_key" = ["inventory:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(sku): Id<String>) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    let product = product(&mut conn, &sku).await?;
    Ok(Answer::ok(&inventory(&mut conn, product).await?))
}

/// Counts a delivery in, once per reference.
#[utoipa::path(
    post, path = "/inventory/{sku}/receipts", tag = "inventory",
    params(("sku" = String, Path, description = "The product")),
    request_body = Receipt,
    responses(
        (status = 200, description = "It was counted before", body = Inventory),
        (status = 201, description = "Counted in", body = Inventory),
    ),
    security(("api_key" = ["inventory:write"])),
)]
pub(crate) async fn receive(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let sku: String = call.path("sku", "product")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (code, qty, reference) = fields::read(&call.body, |f| {
            let code = f.optional("warehouse", text(1..=32));
            (
                code,
                f.required("qty", integer(1..=QTY_MAX)),
                f.required("reference", text(1..=200)),
            )
        })?;
        let product = product(conn, &sku).await?;
        let warehouse = warehouse(conn, code.as_deref()).await?;
        let is_new = stock::store::receive(conn, product.id, warehouse, qty, &reference, &call.cause()).await?;
        counted(conn, product, is_new).await
    })
    .await
}

/// Corrects what lies in a warehouse, by a movement with a reason.
#[utoipa::path(
    post, path = "/inventory/{sku}/adjustments", tag = "inventory",
    params(("sku" = String, Path, description = "The product")),
    request_body = Adjustment,
    responses(
        (status = 200, description = "It was corrected before", body = Inventory),
        (status = 201, description = "Corrected", body = Inventory),
    ),
    security(("api_key" = ["inventory:write"])),
)]
pub(crate) async fn adjust(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let sku: String = call.path("sku", "product")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (code, by, reason, reference, version) = fields::read(&call.body, |f| {
            let by = f.required("by", integer(-QTY_MAX..=QTY_MAX));
            if call.body.get("by").is_some_and(|by| by == 0) {
                f.complain("by", "out_of_range", "must not be 0".to_owned());
            }
            (
                f.optional("warehouse", text(1..=32)),
                by,
                f.required("reason", text(1..=500)),
                f.optional("reference", text(1..=200)),
                f.optional("expected_version", small_integer(1..=i32::MAX)),
            )
        })?;
        let product = product(conn, &sku).await?;
        let warehouse = warehouse(conn, code.as_deref()).await?;
        let reference = reference.unwrap_or_else(|| Uuid::now_v7().to_string());
        let cause = call.cause();
        let is_new =
            stock::store::adjust(conn, product.id, warehouse, by, version, &reference, &reason, &cause).await?;
        counted(conn, product, is_new).await
    })
    .await
}

async fn counted(conn: &mut PgConnection, product: Product, is_new: bool) -> Result<Answer, Problem> {
    let path = format!("/api/v1/inventory/{}", urlencoded(&product.sku));
    let inventory = inventory(conn, product).await?;
    Ok(if is_new {
        Answer::created(&path, &inventory)
    } else {
        Answer::ok(&inventory)
    })
}

async fn inventory(conn: &mut PgConnection, product: Product) -> Result<Inventory, Problem> {
    let levels = stock::store::levels(conn, &[product.id]).await?;
    let levels: Vec<LevelView> = levels.into_iter().map(LevelView::from).collect();
    Ok(Inventory {
        sku: product.sku,
        product_id: product.id.0,
        on_hand: levels.iter().map(|level| level.on_hand).sum(),
        reserved: levels.iter().map(|level| level.reserved).sum(),
        available: levels.iter().map(|level| level.available).sum(),
        levels,
    })
}

async fn product(conn: &mut PgConnection, sku: &str) -> Result<Product, Problem> {
    if sku.contains('\0') {
        return Err(Problem::not_found("product"));
    }
    catalogue::store::by_sku(conn, sku)
        .await?
        .ok_or_else(|| Problem::not_found("product"))
}

/// The warehouse of that code, or the one that is asked first.
async fn warehouse(conn: &mut PgConnection, code: Option<&str>) -> Result<WarehouseId, Problem> {
    let all = catalogue::store::warehouses(conn).await?;
    let found = all
        .iter()
        .find(|warehouse| code.is_none_or(|code| warehouse.code == code));
    let unknown = || Problem::invalid_field("/warehouse", "unknown_warehouse", "there is no such warehouse");
    found.map(|warehouse| warehouse.id).ok_or_else(unknown)
}

/// A SKU as one segment of a path.
fn urlencoded(sku: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    sku.bytes().map(byte).collect()
}

impl From<stock::Error> for Problem {
    fn from(error: stock::Error) -> Problem {
        let detail = error.to_string();
        match error {
            stock::Error::UnknownProduct => Problem::not_found("product"),
            stock::Error::UnknownWarehouse => Problem::invalid_field("/warehouse", "unknown_warehouse", detail),
            stock::Error::NoLevel => Problem::conflict("no_level", detail),
            stock::Error::AlreadyStocked => Problem::conflict("already_stocked", detail),
            stock::Error::VersionChanged { current } => Problem::version_mismatch(current),
            stock::Error::BelowReserved => Problem::conflict("below_reserved", detail),
            stock::Error::Quantity => Problem::invalid_field("", "out_of_range", detail),
            stock::Error::Database(error) => error.into(),
        }
    }
}
