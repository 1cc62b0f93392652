//! Routes: read as rows or as GeoJSON, and sent on their way.

use axum::extract;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use chrono::{DateTime, NaiveDate, Utc};
use domain::ids::{OrderId, PlanId, RouteId, ShipmentId, VehicleId, WarehouseId};
use domain::routes::{self, Route, RouteFilter, RouteStop, geojson, sheet};
use jobs::intake;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, small_integer};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::route_plans::document;
use crate::view::view;

const GEO_JSON: &str = "application/geo+json";

view! {
    /// One van's day.
    RouteView of Route {
        /// Its id.
        id: RouteId as Uuid,
        /// The plan it is part of.
        plan_id: PlanId as Uuid,
        /// The version of that plan.
        plan_version: i32 as i32,
        /// Where it starts and ends.
        warehouse_id: WarehouseId as Uuid,
        /// The van.
        vehicle_id: VehicleId as Uuid,
        /// The van's name.
        vehicle_name: String as String,
        /// The day.
        date: NaiveDate as NaiveDate,
        /// planned, dispatched or superseded.
        state: String as String,
        /// When it leaves, in seconds after midnight.
        departs_at: i32 as i32,
        /// When it is back, in seconds after midnight.
        returns_at: i32 as i32,
        /// How far it drives, there and back.
        metres: i64 as i64,
        /// What it carries when it leaves, by weight.
        load_grams: i64 as i64,
        /// What it carries when it leaves, by volume.
        load_cm3: i64 as i64,
        /// How many stops it makes.
        stops: i64 as i64,
        /// How many of the first of them are loaded or driven to: they stay where they are.
        locked_stops: i32 as i32,
        /// Which distances it was planned with.
        distance_source: String as String,
        /// When it was planned.
        created_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// One stop of a route.
    StopView of RouteStop {
        /// Its place in the route, from 1.
        position: i32 as i32,
        /// What is handed over.
        shipment_id: ShipmentId as Uuid,
        /// Whose order that is.
        order_id: OrderId as Uuid,
        /// The state of the shipment.
        state: String as String,
        /// Latitude.
        lat: f64 as f64,
        /// Longitude.
        lon: f64 as f64,
        /// From when it is taken in, in seconds after midnight.
        window_start: i32 as i32,
        /// Until when.
        window_end: i32 as i32,
        /// When the van arrives.
        arrives_at: i32 as i32,
        /// When the hand-over starts.
        starts_at: i32 as i32,
        /// When the van leaves again.
        leaves_at: i32 as i32,
        /// How far it is from the stop before, or from the warehouse.
        metres_from_previous: i64 as i64,
    }
}

/// A route and its stops in order.
#[derive(Serialize, ToSchema)]
pub(crate) struct RouteDetail {
    #[serde(flatten)]
    route: RouteView,
    /// Its stops, in order.
    stop_list: Vec<StopView>,
}

/// What was sent on its way.
#[derive(Serialize, ToSchema)]
pub(crate) struct Dispatched {
    /// The route.
    route_id: Uuid,
    /// The shipments it carries; each ships by a job of its own.
    shipment_ids: Vec<Uuid>,
}

/// Lists routes, newest first; superseded ones only when asked for.
#[utoipa::path(
    get, path = "/routes", tag = "routes",
    params(
        ("warehouse_id" = Option<Uuid>, Query, description = "Of this warehouse"),
        ("date" = Option<NaiveDate>, Query, description = "Of this day"),
        ("state" = Option<String>, Query, description = "planned, dispatched or superseded"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of routes", body = Page<RouteView>)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let warehouse_id = params.filter("warehouse_id", "a UUID");
    let date = params.filter("date", "a date like 2026-11-22");
    let in_state = params.word("state", &["planned", "dispatched", "superseded"]);
    let window = params.window::<Position>()?;
    let before = window.after.map(|(at, id)| (at, RouteId(id)));
    let filter = RouteFilter {
        warehouse_id,
        date,
        state: in_state,
        before,
        limit: window.fetch(),
    };
    let mut conn = state.pool.acquire().await?;
    let routes = routes::store::routes(&mut conn, &filter).await?;
    Ok(Answer::ok(&window.page(
        routes,
        |route| (route.created_at, route.id.0),
        RouteView::from,
    )))
}

/// One route with its stops; as GeoJSON when `Accept` prefers `application/geo+json`.
#[utoipa::path(
    get, path = "/routes/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The route")),
    responses((status = 200, description = "The route", body = RouteDetail)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<RouteId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    if headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(GEO_JSON))
    {
        return as_geo_json(&mut conn, id, &headers).await;
    }
    let (route, stops) = routes::store::route(&mut conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("route"))?;
    let detail = RouteDetail {
        route: route.into(),
        stop_list: stops.into_iter().map(StopView::from).collect(),
    };
    Ok(Answer::ok(&detail))
}

/// One route as a GeoJSON feature collection.
#[utoipa::path(
    get, path = "/routes/{id}/geojson", tag = "routes",
    params(("id" = Uuid, Path, description = "The route")),
    responses((status = 200, description = "The route", body = Object, content_type = "application/geo+json")),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn geojson(
    extract::State(state): extract::State<State>,
    Id(id): Id<RouteId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    as_geo_json(&mut *state.pool.acquire().await?, id, &headers).await
}

async fn as_geo_json(conn: &mut sqlx::PgConnection, id: RouteId, headers: &HeaderMap) -> Result<Answer, Problem> {
    let sheet = sheet::of_route(conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("route"))?;
    Ok(document(headers, GEO_JSON, geojson::geojson(&sheet).to_string()))
}

/// Sends a planned route on its way: each of its shipments ships by a job of its own.
#[utoipa::path(
    post, path = "/routes/{id}/dispatch", tag = "routes",
    params(("id" = Uuid, Path, description = "The route")),
    responses((status = 202, description = "On its way", body = Dispatched)),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn dispatch(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: RouteId = call.path("id", "route")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let shipments = routes::store::dispatch_route(conn, id, &call.cause()).await?;
        for shipment in &shipments {
            intake::ship(conn, *shipment, &call.cause()).await?;
        }
        let shipment_ids = shipments.into_iter().map(|shipment| shipment.0).collect();
        let path = format!("/api/v1/routes/{id}");
        Ok(Answer::accepted(
            &path,
            &Dispatched {
                route_id: id.0,
                shipment_ids,
            },
        ))
    })
    .await
}

/// How much of a route is loaded.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `lock` reads it")]
pub(crate) struct Lock {
    /// How many of its first stops; 0 takes the lock off.
    stops: i32,
}

/// Locks the first stops of a planned route, because they are loaded or driven to: they stay first on it, in this order,
/// whenever its day is planned again.
#[utoipa::path(
    post, path = "/routes/{id}/lock", tag = "routes",
    params(("id" = Uuid, Path, description = "The route")),
    request_body = Lock,
    responses((status = 200, description = "Locked", body = RouteView)),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn lock(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: RouteId = call.path("id", "route")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let stops = fields::read(&call.body, |f| f.required("stops", small_integer(0..=1_000)))?;
        let route = routes::store::lock_stops(conn, id, stops, &call.cause()).await?;
        Ok(Answer::ok(&RouteView::from(route)))
    })
    .await
}

impl From<routes::Error> for Problem {
    fn from(error: routes::Error) -> Problem {
        let detail = error.to_string();
        match error {
            routes::Error::NotFound(what) => Problem::not_found(what),
            routes::Error::OutOfBounds { field, .. } => {
                Problem::invalid_field(format!("/{field}"), "out_of_range", detail)
            }
            routes::Error::NameTaken => Problem::conflict("name_taken", detail),
            routes::Error::VersionChanged { current } => Problem::version_mismatch(current),
            routes::Error::InUse => Problem::conflict("in_use", detail),
            routes::Error::NotPlanned { state } => Problem::conflict("not_planned", detail).with("state", state),
            routes::Error::OnItsWay { state } => Problem::conflict("on_its_way", detail).with("state", state),
            routes::Error::Unrepeatable(_) => Problem::conflict("unrepeatable", detail),
            routes::Error::Unsound(_) | routes::Error::Malformed(_) => anyhow::Error::from(error).into(),
            routes::Error::Database(error) => error.into(),
        }
    }
}
