//! Sellers: whose goods are sold, what they are owed, and how they are paid.

use axum::extract;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::ids::{PayoutId, ProductId, SellerId};
use domain::money::{Cents, Currency};
use domain::sellers::store::Error;
use domain::sellers::{COMMISSION_BP_MAX, Entry, NewSeller, Payout, PayoutState, Seller, SellerChange, store};
use jobs::PaySeller;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, boolean, currency, integer, small_integer, text, uuid};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A seller and what it is owed.
    SellerView of Seller {
        /// Its id.
        id: SellerId as Uuid,
        /// Its name.
        name: String as String,
        /// Its account at the gateway.
        destination: String as String,
        /// What it is paid in.
        currency: Currency as String,
        /// Ours of each sale, in hundredths of a per cent.
        commission_bp: i32 as i32,
        /// Less is not paid out, in minor units.
        #[serde(rename = "payout_min_minor")]
        payout_min: Cents as i64,
        /// True while nothing is paid out.
        payouts_paused: bool as bool,
        /// What it is owed, in minor units; below zero when a refund came after the payout.
        #[serde(rename = "balance_minor")]
        balance: Cents as i64,
        /// Raised by every change of its settings.
        version: i32 as i32,
        /// When it was made.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When its settings last changed.
        updated_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// One line of a seller's accounts.
    EntryView of Entry {
        /// Its number; later ones have higher ones.
        id: i64 as i64,
        /// When.
        at: DateTime<Utc> as DateTime<Utc>,
        /// sales (below zero), commission, seller or payouts; those of one cause sum to zero.
        account: String as String,
        /// What it books: `payment:{id}:{captured}:{refunded}` or `payout:{id}`, with `:failed` when it takes one back.
        cause: String as String,
        /// How much, in minor units.
        #[serde(rename = "amount_minor")]
        amount: Cents as i64,
    }
}

view! {
    /// A payout: one transfer at the gateway.
    PayoutView of Payout {
        /// Its id.
        id: PayoutId as Uuid,
        /// Who is paid.
        seller_id: SellerId as Uuid,
        /// Which payout of the seller, from 1.
        seq: i32 as i32,
        /// How much, in minor units.
        #[serde(rename = "amount_minor")]
        amount: Cents as i64,
        /// Of what.
        currency: Currency as String,
        /// The account that is paid.
        destination: String as String,
        /// pending, paid or failed; of a failed one the seller is owed the amount again.
        state: PayoutState as String,
        /// How often it was sent.
        sends: i32 as i32,
        /// The gateway's id of the transfer.
        gateway_ref: Option<String> as Option<String>,
        /// The gateway's error code.
        error_code: Option<String> as Option<String>,
        /// The gateway's error message.
        message: Option<String> as Option<String>,
        /// When it was written down.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When its fate became known.
        settled_at: Option<DateTime<Utc>> as Option<DateTime<Utc>>,
    }
}

/// A seller to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewSellerBody {
    /// 1 to 200 characters; no other seller has them.
    name: String,
    /// Its account at the gateway: `acct_…`.
    destination: String,
    /// What it is paid in: three capital letters.
    currency: String,
    /// Ours of each sale, in hundredths of a per cent: 0 to 10000.
    commission_bp: i32,
    /// Less is not paid out, in minor units; 100 without.
    payout_min_minor: Option<i64>,
}

/// What changes of a seller: what is named. Sales that were made keep their commission.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct SellerPatch {
    /// Its account at the gateway, from the next payout on.
    destination: Option<String>,
    /// Ours of sales to come.
    commission_bp: Option<i32>,
    /// Less is not paid out.
    payout_min_minor: Option<i64>,
    /// Whether payouts wait.
    payouts_paused: Option<bool>,
}

/// Whose goods a product is.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `set_product` reads it")]
pub(crate) struct ProductSeller {
    /// The seller; null makes it ours.
    seller_id: Option<Uuid>,
}

/// Makes a seller.
#[utoipa::path(
    post, path = "/sellers", tag = "sellers",
    request_body = NewSellerBody,
    responses((status = 201, description = "Made", body = SellerView)),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (letters, name, destination, commission_bp, payout_min) = fields::read(&call.body, |f| {
            (
                f.required("currency", currency),
                f.required("name", text(1..=200)),
                f.required("destination", text(1..=205)),
                f.required("commission_bp", small_integer(0..=COMMISSION_BP_MAX)),
                f.optional("payout_min_minor", integer(1..=i64::MAX)).map(Cents),
            )
        })?;
        let currency = letters
            .parse()
            .map_err(|_| Problem::invalid_field("/currency", "invalid", "must be three capital letters"))?;
        let new = NewSeller {
            name,
            destination,
            currency,
            commission_bp,
            payout_min,
        };
        let seller = store::create(conn, &new).await?;
        let (path, version) = (format!("/api/v1/sellers/{}", seller.id), seller.version);
        Ok(Answer::created(&path, &SellerView::from(seller)).etag(version))
    })
    .await
}

/// Lists sellers, newest first.
#[utoipa::path(
    get, path = "/sellers", tag = "sellers",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of sellers", body = Page<SellerView>)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, SellerId(id)));
    let sellers = store::list(&mut *state.pool.acquire().await?, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        sellers,
        |seller| (seller.created_at, seller.id.0),
        SellerView::from,
    )))
}

/// One seller.
#[utoipa::path(
    get, path = "/sellers/{id}", tag = "sellers",
    params(("id" = Uuid, Path, description = "The seller")),
    responses((status = 200, description = "The seller", body = SellerView)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<SellerId>) -> Result<Answer, Problem> {
    let seller = store::get(&mut *state.pool.acquire().await?, id).await?;
    let seller = seller.ok_or_else(|| Problem::not_found("seller"))?;
    let version = seller.version;
    Ok(Answer::ok(&SellerView::from(seller)).etag(version))
}

/// Changes what the body names.
#[utoipa::path(
    patch, path = "/sellers/{id}", tag = "sellers",
    params(("id" = Uuid, Path, description = "The seller")),
    request_body(content = SellerPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = SellerView)),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: SellerId = call.path("id", "seller")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let change = fields::read(&call.body, |f| SellerChange {
            destination: f.change("destination", text(1..=205)),
            commission_bp: f.change("commission_bp", small_integer(0..=COMMISSION_BP_MAX)),
            payout_min: f.change("payout_min_minor", integer(1..=i64::MAX)).map(Cents),
            payouts_paused: f.change("payouts_paused", boolean),
            version: None,
        })?;
        let version = call.version()?;
        let seller = store::update(conn, id, &SellerChange { version, ..change }).await?;
        let version = seller.version;
        Ok(Answer::ok(&SellerView::from(seller)).etag(version))
    })
    .await
}

/// Says whose goods a product is, of payments captured from now on.
#[utoipa::path(
    put, path = "/products/{id}/seller", tag = "sellers",
    params(("id" = Uuid, Path, description = "The product")),
    request_body = ProductSeller,
    responses(
        (status = 204, description = "Said"),
        (status = 409, description = "It is not sold in the seller's currency"),
    ),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn set_product(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let product: ProductId = call.path("id", "product")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let seller = fields::read(&call.body, |f| f.patch("seller_id", uuid))?;
        let seller = seller
            .ok_or_else(|| Problem::invalid_field("/seller_id", "required", "is required; null makes it ours"))?;
        if domain::catalogue::store::get(conn, product).await?.is_none() {
            return Err(Problem::not_found("product"));
        }
        store::set_product(conn, product, seller.map(SellerId)).await?;
        Ok(Answer::nothing())
    })
    .await
}

/// Lists what was booked for a seller, newest first.
#[utoipa::path(
    get, path = "/sellers/{id}/entries", tag = "sellers",
    params(
        ("id" = Uuid, Path, description = "The seller"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of entries", body = Page<EntryView>)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn entries(
    extract::State(state): extract::State<State>,
    Id(id): Id<SellerId>,
    params: Params,
) -> Result<Answer, Problem> {
    let window = params.window::<i64>()?;
    let mut conn = state.pool.acquire().await?;
    if store::get(&mut conn, id).await?.is_none() {
        return Err(Problem::not_found("seller"));
    }
    let entries = store::entries(&mut conn, id, window.after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(entries, |entry| entry.id, EntryView::from)))
}

/// Lists payouts, newest first.
#[utoipa::path(
    get, path = "/payouts", tag = "sellers",
    params(
        ("seller_id" = Option<Uuid>, Query, description = "To this seller"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of payouts", body = Page<PayoutView>)),
    security(("api_key" = ["payments:read"])),
)]
pub(crate) async fn payouts(
    extract::State(state): extract::State<State>,
    mut params: Params,
) -> Result<Answer, Problem> {
    let seller = params.filter("seller_id", "a UUID");
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, PayoutId(id)));
    let payouts = store::payouts(&mut *state.pool.acquire().await?, seller, before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        payouts,
        |payout| (payout.created_at, payout.id.0),
        PayoutView::from,
    )))
}

/// Pays a seller what it is owed now, not when the clock does. A job asks the gateway; nothing is paid when the balance is below
/// the least amount, or payouts are paused.
#[utoipa::path(
    post, path = "/sellers/{id}/payouts", tag = "sellers",
    params(("id" = Uuid, Path, description = "The seller")),
    responses((status = 202, description = "On its way, if there is something to pay", body = SellerView)),
    security(("api_key" = ["payments:write"])),
)]
pub(crate) async fn pay(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: SellerId = call.path("id", "seller")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let seller = store::get(conn, id).await?.ok_or(Error::NotFound)?;
        queue::enqueue(conn, &PaySeller { seller_id: id }).await?;
        Ok(Answer::accepted(
            &format!("/api/v1/payouts?seller_id={id}"),
            &SellerView::from(seller),
        ))
    })
    .await
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let detail = error.to_string();
        match error {
            Error::NotFound => Problem::not_found("seller"),
            Error::Version(current) => Problem::version_mismatch(current),
            Error::Taken => Problem::conflict_field("/name", "name_taken", detail),
            Error::Destination => Problem::invalid_field("/destination", "invalid", detail),
            Error::Currency => Problem::new(StatusCode::CONFLICT, "other_currency", detail),
            Error::Database(error) => error.into(),
        }
    }
}
