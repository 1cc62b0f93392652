//! Customers: added, found, changed and deleted (softly: their orders keep them).

use axum::extract;
use chrono::{DateTime, Utc};
use domain::customers::{self, Customer, NewCustomer, Patch};
use domain::ids::CustomerId;
use serde_json::Value;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, Parsed, number, one_of, text};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A customer.
    CustomerView of Customer {
        /// Its id.
        id: CustomerId as Uuid,
        /// Its name.
        name: String as String,
        /// Where to write to.
        email: String as String,
        /// Where to deliver to.
        address: String as String,
        /// The same in degrees: latitude.
        lat: Option<f64> as Option<f64>,
        /// The same in degrees: longitude.
        lon: Option<f64> as Option<f64>,
        /// active, or blocked: then it cannot order.
        state: String as String,
        /// Raised by every change.
        version: i32 as i32,
        /// When it was added.
        created_at: DateTime<Utc> as DateTime<Utc>,
        /// When it last changed.
        updated_at: DateTime<Utc> as DateTime<Utc>,
    }
}

/// A customer to add.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewCustomerBody {
    /// Its name; at most 200 characters.
    name: String,
    /// Where to write to; unique among customers, whatever the case.
    email: String,
    /// Where to deliver to; at most 500 characters.
    address: Option<String>,
    /// The same in degrees: latitude; only together with `lon`.
    lat: Option<f64>,
    /// The same in degrees: longitude; only together with `lat`.
    lon: Option<f64>,
}

/// What changes of a customer: what is named.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct CustomerPatch {
    /// Its name.
    name: Option<String>,
    /// Where to write to.
    email: Option<String>,
    /// Where to deliver to.
    address: Option<String>,
    /// Latitude; null forgets the place; only together with `lon`.
    lat: Option<f64>,
    /// Longitude; null forgets the place; only together with `lat`.
    lon: Option<f64>,
    /// active or blocked.
    state: Option<String>,
}

/// Adds a customer.
#[utoipa::path(
    post, path = "/customers", tag = "customers",
    request_body = NewCustomerBody,
    responses((status = 201, description = "Added", body = CustomerView)),
    security(("api_key" = ["customers:write"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let new = fields::read(&call.body, |f| NewCustomer {
            name: f.required("name", text(1..=200)),
            email: f.required("email", email),
            address: f.optional("address", text(0..=500)).unwrap_or_default(),
            position: position(f).flatten(),
        })?;
        let customer = customers::store::create(conn, &new).await?;
        let (path, version) = (format!("/api/v1/customers/{}", customer.id), customer.version);
        Ok(Answer::created(&path, &CustomerView::from(customer)).etag(version))
    })
    .await
}

/// Latitude and longitude: both or neither.
fn position(f: &mut Fields<'_>) -> Option<Option<(f64, f64)>> {
    let (lat, lon) = (
        f.patch("lat", number(-90.0..=90.0)),
        f.patch("lon", number(-180.0..=180.0)),
    );
    match (lat, lon) {
        (None, None) => None,
        (Some(None), Some(None)) => Some(None),
        (Some(Some(lat)), Some(Some(lon))) => Some(Some((lat, lon))),
        (Some(_), _) => {
            f.complain("lon", "incomplete", "latitude and longitude come together".to_owned());
            None
        }
        (None, Some(_)) => {
            f.complain("lat", "incomplete", "latitude and longitude come together".to_owned());
            None
        }
    }
}

/// Something before and after one `@`, without spaces: only a letter sent there can tell more.
fn email(value: &Value) -> Parsed<String> {
    let email = text(3..=320)(value)?;
    let is_fit = email
        .split_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
        && !email.contains(char::is_whitespace);
    if is_fit {
        Ok(email)
    } else {
        Err(("invalid", "must be an e-mail address".to_owned()))
    }
}

/// Lists customers, newest first.
#[utoipa::path(
    get, path = "/customers", tag = "customers",
    params(
        ("search" = Option<String>, Query, description = "In the name or the e-mail address"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of customers", body = Page<CustomerView>)),
    security(("api_key" = ["customers:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let search = params.search();
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, CustomerId(id)));
    let mut conn = state.pool.acquire().await?;
    let customers = customers::store::list(&mut conn, search.as_deref(), before, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        customers,
        |customer| (customer.created_at, customer.id.0),
        CustomerView::from,
    )))
}

/// One customer.
#[utoipa::path(
    get, path = "/customers/{id}", tag = "customers",
    params(("id" = Uuid, Path, description = "The customer")),
    responses((status = 200, description = "The customer", body = CustomerView)),
    security(("api_key" = ["customers:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<CustomerId>,
) -> Result<Answer, Problem> {
    let customer = customers::store::get(&mut *state.pool.acquire().await?, id).await?;
    let customer = customer.filter(|customer| customer.deleted_at.is_none());
    let customer = customer.ok_or_else(|| Problem::not_found("customer"))?;
    let version = customer.version;
    Ok(Answer::ok(&CustomerView::from(customer)).etag(version))
}

/// Changes what the body names; `If-Match` guards against changing what somebody else just changed.
#[utoipa::path(
    patch, path = "/customers/{id}", tag = "customers",
    params(("id" = Uuid, Path, description = "The customer")),
    request_body(content = CustomerPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = CustomerView)),
    security(("api_key" = ["customers:write"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: CustomerId = call.path("id", "customer")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let patch = fields::read(&call.body, |f| Patch {
            name: f.change("name", text(1..=200)),
            email: f.change("email", email),
            address: f.change("address", text(0..=500)),
            position: position(f),
            state: f.change("state", one_of(&["active", "blocked"])),
        })?;
        let customer = customers::store::update(conn, id, &patch, call.version()?).await?;
        let version = customer.version;
        Ok(Answer::ok(&CustomerView::from(customer)).etag(version))
    })
    .await
}

/// Deletes a customer. Its orders keep it, lists forget it, its e-mail address is free again.
#[utoipa::path(
    delete, path = "/customers/{id}", tag = "customers",
    params(("id" = Uuid, Path, description = "The customer")),
    responses((status = 204, description = "Deleted")),
    security(("api_key" = ["customers:write"])),
)]
pub(crate) async fn delete(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: CustomerId = call.path("id", "customer")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        customers::store::delete(conn, id, call.version()?).await?;
        Ok(Answer::nothing())
    })
    .await
}

impl From<customers::Error> for Problem {
    fn from(error: customers::Error) -> Problem {
        let detail = error.to_string();
        match error {
            customers::Error::NotFound => Problem::not_found("customer"),
            customers::Error::EmailTaken => Problem::conflict_field("/email", "email_taken", detail),
            customers::Error::VersionChanged { current } => Problem::version_mismatch(current),
            customers::Error::Refused(_) => Problem::invalid_field("", "refused", detail),
            customers::Error::Database(error) => error.into(),
        }
    }
}
