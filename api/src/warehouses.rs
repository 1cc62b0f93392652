//! Warehouses: added and listed. There are few.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::catalogue::{self, NewWarehouse, Warehouse};
use domain::ids::WarehouseId;
use domain::routes::plan;
use jobs::plan_routes;
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
        /// How much longer a road is than the straight line there; null: as everywhere.
        road_factor: Option<f64> as Option<f64>,
        /// How fast a van is there; null: as everywhere.
        speed_kmh: Option<f64> as Option<f64>,
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
    /// How much longer a road is than the straight line there, where no road server says: 1 to 3.
    road_factor: Option<f64>,
    /// How fast a van is there, where no road server says: 5 to 130.
    speed_kmh: Option<f64>,
}

/// What changes of a warehouse.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct WarehousePatch {
    /// How much longer a road is than the straight line there, 1 to 3; null: as everywhere.
    road_factor: Option<f64>,
    /// How fast a van is there, 5 to 130; null: as everywhere.
    speed_kmh: Option<f64>,
}

const ROAD_FACTOR: std::ops::RangeInclusive<f64> = 1.0..=3.0;
const SPEED_KMH: std::ops::RangeInclusive<f64> = 5.0..=130.0;

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
            road_factor: f.optional("road_factor", number(ROAD_FACTOR)),
            speed_kmh: f.optional("speed_kmh", number(SPEED_KMH)),
        })?;
        let warehouse = catalogue::store::create_warehouse(conn, &new).await?;
        Ok(Answer::created("/api/v1/warehouses", &WarehouseView::from(warehouse)))
    })
    .await
}

/// Changes how roads are reckoned with there; the days planned ahead are planned again.
#[utoipa::path(
    patch, path = "/warehouses/{id}", tag = "catalogue",
    params(("id" = Uuid, Path, description = "The warehouse")),
    request_body(content = WarehousePatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = WarehouseView)),
    security(("api_key" = ["products:write"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: WarehouseId = call.path("id", "warehouse")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (road_factor, speed_kmh) = fields::read(&call.body, |f| {
            (
                f.patch("road_factor", number(ROAD_FACTOR)),
                f.patch("speed_kmh", number(SPEED_KMH)),
            )
        })?;
        let warehouse = catalogue::store::set_roads(conn, id, road_factor, speed_kmh)
            .await?
            .ok_or_else(|| Problem::not_found("warehouse"))?;
        let days = plan::days_ahead(conn, id).await?;
        plan_routes::request(conn, &days).await?;
        Ok(Answer::ok(&WarehouseView::from(warehouse)))
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
