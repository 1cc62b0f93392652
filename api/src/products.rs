//! Products: added, found, changed and retired. A change of price never changes an order.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::catalogue::{self, NewProduct, Patch, Product};
use domain::ids::ProductId;
use domain::money::{Cents, Currency};
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, currency, integer, small_integer, text};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

const PRICE_MAX: i64 = 100_000_000_000;
const REORDER_POINT_MAX: i64 = 1_000_000_000;

view! {
    /// A product.
    ProductView of Product {
        /// Its id.
        id: ProductId as Uuid,
        /// The name it is ordered by.
        sku: String as String,
        /// The name people know it by.
        name: String as String,
        /// Its price, in minor units.
        #[serde(rename = "price_minor")]
        price: Cents as i64,
        /// What the price is in.
        currency: Currency as String,
        /// What one weighs.
        weight_grams: i32 as i32,
        /// The room one takes.
        volume_cm3: i32 as i32,
        /// Below it, more should be bought.
        reorder_point: i64 as i64,
        /// Raised by every change.
        version: i32 as i32,
        /// When it was added.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it last changed.
        updated_at: DateTime<Utc> as DateTime<Utc>,
        /// When it was taken off sale.
        retired_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

/// A product to add.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewProductBody {
    /// The name it is ordered by; unique for ever; at most 64 characters.
    sku: String,
    /// The name people know it by; at most 300 characters.
    name: String,
    /// Its price, in minor units.
    price_minor: i64,
    /// What the price is in: three capital letters.
    currency: String,
    /// What one weighs; 500 without.
    weight_grams: Option<i32>,
    /// The room one takes; 1000 without.
    volume_cm3: Option<i32>,
    /// Below it, more should be bought; 0 without.
    reorder_point: Option<i64>,
}

/// What changes of a product: what is named.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct ProductPatch {
    /// The name people know it by.
    name: Option<String>,
    /// Its price from now on.
    price_minor: Option<i64>,
    /// What one weighs.
    weight_grams: Option<i32>,
    /// The room one takes.
    volume_cm3: Option<i32>,
    /// Below it, more should be bought.
    reorder_point: Option<i64>,
}

/// Adds a product.
#[utoipa::path(
    post, path = "/products", tag = "catalogue",
    request_body = NewProductBody,
    responses((status = 201, description = "Added", body = ProductView)),
    security(("api_key" = ["products:write"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (new, letters) = fields::read(&call.body, |f| {
            let letters = f.required("currency", currency);
            let new = |currency| NewProduct {
                sku: f.required("sku", text(1..=64)),
                name: f.required("name", text(1..=300)),
                price: Cents(f.required("price_minor", integer(0..=PRICE_MAX))),
                currency,
                weight_grams: f.optional("weight_grams", small_integer(1..=i32::MAX)),
                volume_cm3: f.optional("volume_cm3", small_integer(1..=i32::MAX)),
                reorder_point: f
                    .optional("reorder_point", integer(0..=REORDER_POINT_MAX))
                    .unwrap_or_default(),
            };
            // Where the letters are wrong, ISO 4217's code for tests stands in: the whole is thrown away then.
            (letters.parse().or_else(|_| "XTS".parse::<Currency>()).map(new), letters)
        })?;
        let new =
            new.map_err(|_| Problem::invalid_field("/currency", "invalid", format!("{letters} is no currency")))?;
        let product = catalogue::store::create(conn, &new).await?;
        let (path, version) = (format!("/api/v1/products/{}", product.id), product.version);
        Ok(Answer::created(&path, &ProductView::from(product)).etag(version))
    })
    .await
}

/// Lists products, newest first.
#[utoipa::path(
    get, path = "/products", tag = "catalogue",
    params(
        ("search" = Option<String>, Query, description = "In the SKU or the name"),
        ("with_retired" = Option<bool>, Query, description = "Those no longer sold, too"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of products", body = Page<ProductView>)),
    security(("api_key" = ["products:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let search = params.search();
    let with_retired = params.filter("with_retired", "true or false").unwrap_or(false);
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, ProductId(id)));
    let filter = catalogue::Filter { search, with_retired };
    let products = catalogue::store::list(&mut *state.pool.acquire().await?, &filter, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        products,
        |product| (product.created_at, product.id.0),
        ProductView::from,
    )))
}

/// One product, retired or not.
#[utoipa::path(
    get, path = "/products/{id}", tag = "catalogue",
    params(("id" = Uuid, Path, description = "The product")),
    responses((status = 200, description = "The product", body = ProductView)),
    security(("api_key" = ["products:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<ProductId>,
) -> Result<Answer, Problem> {
    let product = catalogue::store::get(&mut *state.pool.acquire().await?, id).await?;
    let product = product.ok_or_else(|| Problem::not_found("product"))?;
    let version = product.version;
    Ok(Answer::ok(&ProductView::from(product)).etag(version))
}

/// Changes what the body names. Orders keep the price they were made at.
#[utoipa::path(
    patch, path = "/products/{id}", tag = "catalogue",
    params(("id" = Uuid, Path, description = "The product")),
    request_body(content = ProductPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = ProductView)),
    security(("api_key" = ["products:write"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: ProductId = call.path("id", "product")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let patch = fields::read(&call.body, |f| Patch {
            name: f.change("name", text(1..=300)),
            price: f.change("price_minor", integer(0..=PRICE_MAX)).map(Cents),
            weight_grams: f.change("weight_grams", small_integer(1..=i32::MAX)),
            volume_cm3: f.change("volume_cm3", small_integer(1..=i32::MAX)),
            reorder_point: f.change("reorder_point", integer(0..=REORDER_POINT_MAX)),
        })?;
        let product = catalogue::store::update(conn, id, &patch, call.version()?).await?;
        let version = product.version;
        Ok(Answer::ok(&ProductView::from(product)).etag(version))
    })
    .await
}

/// Takes a product off sale; orders that have it go on.
#[utoipa::path(
    delete, path = "/products/{id}", tag = "catalogue",
    params(("id" = Uuid, Path, description = "The product")),
    responses((status = 204, description = "Retired")),
    security(("api_key" = ["products:write"])),
)]
pub(crate) async fn retire(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: ProductId = call.path("id", "product")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        catalogue::store::retire(conn, id, call.version()?).await?;
        Ok(Answer::nothing())
    })
    .await
}

impl From<catalogue::Error> for Problem {
    fn from(error: catalogue::Error) -> Problem {
        let detail = error.to_string();
        match error {
            catalogue::Error::NotFound => Problem::not_found("product"),
            catalogue::Error::SkuTaken => Problem::conflict_field("/sku", "sku_taken", detail),
            catalogue::Error::CodeTaken => Problem::conflict_field("/code", "code_taken", detail),
            catalogue::Error::VersionChanged { current } => Problem::version_mismatch(current),
            catalogue::Error::Refused(_) => Problem::invalid_field("", "refused", detail),
            catalogue::Error::Database(error) => error.into(),
        }
    }
}
