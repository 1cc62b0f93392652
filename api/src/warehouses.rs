//! Warehouses: added and listed. There are few.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::catalogue::{self, NewWarehouse, Warehouse};
use domain::ids::WarehouseId;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, number, small_integer, text};
use crate::paging::{Page, Params};
use crate::problem::Problem;
use crate::view::view;

view! {
    /// A place where products lie.
    WarehouseView of Warehouse {
        /// Its id.
        id: WarehouseId as Uuid,
        /// Its short name.
        code: String as String,
        /// Its name.
        name: String as String,
        /// Latitude.
        lat: f64 as f64,
        /// Longitude.
        lon: f64 as f64,
        /// Lower is asked first.
        priority: i32 as i32,
        /// When it was added.
        created_at: DateTime<Utc> as DateTime<Utc>,
    }
}

/// A warehouse to add.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewWarehouseBody {
    /// Its short name; at most 32 characters.
    code: String,
    /// Its name; at most 200 characters.
    name: String,
    /// Latitude.
    lat: f64,
    /// Longitude.
    lon: f64,
    /// Lower is asked first; 100 without.
    priority: Option<i32>,
}

/// Adds a warehouse.
#[utoipa::path(
    post, path = "/warehouses", tag = "catalogue",
    request_body = NewWarehouseBody,
    responses((status = 201, description = "Added", body = WarehouseView)),
    security(("api_key" = ["products:write"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let new = fields::read(&call.body, |f| NewWarehouse {
            code: f.required("code", text(1..=32)),
            name: f.required("name", text(1..=200)),
            lat: f.required("lat", number(-90.0..=90.0)),
            lon: f.required("lon", number(-180.0..=180.0)),
            priority: f.optional("priority", small_integer(0..=1_000_000)).unwrap_or(100),
        })?;
        let warehouse = catalogue::store::create_warehouse(conn, &new).await?;
        Ok(Answer::created("/api/v1/warehouses", &WarehouseView::from(warehouse)))
    })
    .await
}

/// Every warehouse, in the order they are asked for stock.
#[utoipa::path(
    get, path = "/warehouses", tag = "catalogue",
    responses((status = 200, description = "The warehouses", body = Page<WarehouseView>)),
    security(("api_key" = ["products:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    params.end()?;
    let warehouses = catalogue::store::warehouses(&mut *state.pool.acquire().await?).await?;
    let items = warehouses.into_iter().map(WarehouseView::from).collect();
    Ok(Answer::ok(&Page {
        items,
        next_cursor: None,
    }))
}
