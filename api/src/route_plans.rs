//! Plans of a warehouse's day: asked for, listed, read, and drawn as GeoJSON, polylines, a map, a strip of time, and the
//! list that drivers take along.

use axum::extract;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, NaiveDate, Utc};
use domain::ids::{OrderId, PlanId, RouteId, ShipmentId, VehicleId, WarehouseId};
use domain::routes::sheet::{self, Call as Stop, LeftOut, Plan, PlanFilter, Sheet, Tour};
use domain::routes::{self, gantt, geojson, list as lists, map, plan, polyline};
use jobs::plan_routes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, date, uuid};
use crate::paging::{Page, Params, Position};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

const SVG: &str = "image/svg+xml";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

view! {
    /// A plan of one warehouse's day.
    RoutePlanView of Plan {
        /// Its id.
        id: PlanId as Uuid,
        /// Where its routes start.
        warehouse_id: WarehouseId as Uuid,
        /// The warehouse's short name.
        warehouse_code: String as String,
        /// The day.
        date: NaiveDate as NaiveDate,
        /// Each is newer than the last of its warehouse and day.
        version: i32 as i32,
        /// Whether it is the one that counts.
        active: bool as bool,
        /// Whether the fleet could not take everything: later shipments go to a later day.
        is_full: bool as bool,
        /// Whether the search was stopped before its budget was used up.
        truncated: bool as bool,
        /// Which distances it was made with.
        distance_source: String as String,
        /// Whether a road server is set and did not answer: the distances are straight lines made longer.
        approximate: bool as bool,
        /// Rounds of the search.
        iterations: i64 as i64,
        /// How far its vans drive.
        metres: i64 as i64,
        /// How many stops they make.
        stops: i32 as i32,
        /// How many shipments are on none of its routes.
        unassigned: i32 as i32,
        /// The job that made it.
        job_id: Option<i64> as Option<i64>,
        /// When it was made.
        created_at: DateTime<Utc> as DateTime<Utc>,
    }
}

view! {
    /// A shipment that is on no route.
    LeftOutView of LeftOut {
        /// The shipment.
        shipment_id: ShipmentId as Uuid,
        /// Whose order it is.
        order_id: OrderId as Uuid,
        /// What the customer calls the order.
        reference: Option<String> as Option<String>,
        /// Latitude.
        lat: f64 as f64,
        /// Longitude.
        lon: f64 as f64,
        /// The reason, a stable word.
        reason: String as String,
        /// The reason in words, with the nearest miss.
        why: String as String,
        /// The field that cannot be right, where it is one.
        field: Option<String> as Option<String>,
        /// The day it was moved to, if it was.
        moved_to: Option<NaiveDate> as Option<NaiveDate>,
    }
}

/// One van's day in a plan.
#[derive(Serialize, ToSchema)]
pub(crate) struct TourView {
    /// The route.
    #[schema(value_type = Uuid)]
    route_id: RouteId,
    /// The van.
    #[schema(value_type = Uuid)]
    vehicle_id: VehicleId,
    /// The van's name.
    vehicle: String,
    /// planned, dispatched or superseded.
    state: String,
    /// When it leaves, in seconds after midnight.
    departs_at: i32,
    /// When it is back.
    returns_at: i32,
    /// How far it drives, there and back.
    metres: i64,
    /// What it carries when it leaves, by weight.
    load_grams: i64,
    /// What it carries when it leaves, by volume.
    load_cm3: i64,
    /// When its driver rests, in seconds after midnight.
    rest_starts_at: Option<i32>,
    /// How long that is.
    rest_seconds: Option<i32>,
    /// Its stops, in order.
    stops: Vec<TourStop>,
}

/// One stop of a route in a plan.
#[derive(Serialize, ToSchema)]
pub(crate) struct TourStop {
    /// Its number on the route, from 1.
    seq: usize,
    /// What is handed over.
    #[schema(value_type = Uuid)]
    shipment_id: ShipmentId,
    /// Whose order that is.
    #[schema(value_type = Uuid)]
    order_id: OrderId,
    /// What the customer calls the order.
    reference: Option<String>,
    /// The state of the shipment.
    state: String,
    /// Latitude.
    lat: f64,
    /// Longitude.
    lon: f64,
    /// From when it is taken in, in seconds after midnight.
    window_start: i32,
    /// Until when.
    window_end: i32,
    /// When the van arrives.
    arrives_at: i32,
    /// When the hand-over starts.
    starts_at: i32,
    /// When the van leaves again.
    leaves_at: i32,
    /// How far it is from the stop before, or from the warehouse.
    metres_from_previous: i64,
}

/// A plan with its routes, and who is on none.
#[derive(Serialize, ToSchema)]
pub(crate) struct RoutePlanDetail {
    #[serde(flatten)]
    plan: RoutePlanView,
    /// Its routes by the vans' names; of the plan that counts also those that left by an earlier one.
    routes: Vec<TourView>,
    /// Who is on no route: the first thousand.
    left_out: Vec<LeftOutView>,
}

/// A day to plan.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `ask` reads it")]
pub(crate) struct DayToPlan {
    /// Where the routes start.
    warehouse_id: Uuid,
    /// The day: today or later, a year ahead at most.
    date: NaiveDate,
}

/// What was asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Planning {
    /// Where the routes start.
    #[schema(value_type = Uuid)]
    warehouse_id: WarehouseId,
    /// The day.
    date: NaiveDate,
    /// The jobs that are to plan it, oldest first: several who ask share one.
    jobs: Vec<i64>,
}

impl From<Tour> for TourView {
    fn from(tour: Tour) -> TourView {
        TourView {
            route_id: tour.route_id,
            vehicle_id: tour.vehicle_id,
            vehicle: tour.vehicle,
            state: tour.state,
            departs_at: tour.departs_at,
            returns_at: tour.returns_at,
            metres: tour.metres,
            load_grams: tour.load.grams,
            load_cm3: tour.load.cm3,
            rest_starts_at: tour.rest.map(|rest| rest.starts_at),
            rest_seconds: tour.rest.map(|rest| rest.seconds),
            stops: tour.stops.into_iter().map(TourStop::from).collect(),
        }
    }
}

impl From<Stop> for TourStop {
    fn from(stop: Stop) -> TourStop {
        TourStop {
            seq: stop.seq,
            shipment_id: stop.shipment_id,
            order_id: stop.order_id,
            reference: stop.reference,
            state: stop.state,
            lat: stop.lat,
            lon: stop.lon,
            window_start: stop.window.start,
            window_end: stop.window.end,
            arrives_at: stop.arrives_at,
            starts_at: stop.starts_at,
            leaves_at: stop.leaves_at,
            metres_from_previous: stop.metres_from_previous,
        }
    }
}

/// Asks for a day to be planned, within some seconds and together with whoever else asks.
#[utoipa::path(
    post, path = "/route-plans", tag = "routes",
    request_body = DayToPlan,
    responses((status = 202, description = "It will be planned", body = Planning)),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn ask(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (warehouse, date) = fields::read(&call.body, |f| {
            (f.required("warehouse_id", uuid), f.required("date", date))
        })?;
        let today = plan::today(conn).await?;
        if date < today || (date - today).num_days() > i64::from(routes::DAYS_AHEAD_MAX) {
            let detail = format!("must be from {today} to {} days later", routes::DAYS_AHEAD_MAX);
            return Err(Problem::invalid_field("/date", "out_of_range", detail));
        }
        let warehouse = match sheet::depot(conn, &warehouse.to_string()).await {
            Err(routes::Error::NotFound(_)) => {
                let detail = "there is no such warehouse";
                return Err(Problem::invalid_field("/warehouse_id", "unknown_warehouse", detail));
            }
            other => other?,
        };
        let day = (warehouse, date);
        plan_routes::request(conn, &[day]).await?;
        let planning = Planning {
            warehouse_id: warehouse,
            date,
            jobs: plan_routes::live(conn, day)
                .await?
                .into_iter()
                .map(|job| job.0)
                .collect(),
        };
        let path = format!("/api/v1/route-plans?warehouse_id={warehouse}&date={date}&state=active");
        Ok(Answer::accepted(&path, &planning))
    })
    .await
}

/// Lists plans, newest first.
#[utoipa::path(
    get, path = "/route-plans", tag = "routes",
    params(
        ("warehouse_id" = Option<Uuid>, Query, description = "Of this warehouse"),
        ("date" = Option<NaiveDate>, Query, description = "For this day"),
        ("state" = Option<String>, Query, description = "active or superseded"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of plans", body = Page<RoutePlanView>)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let warehouse_id = params.filter("warehouse_id", "a UUID");
    let date = params.filter("date", "a date like 2026-11-22");
    let in_state = params.word("state", &["active", "superseded"]);
    let window = params.window::<Position>()?;
    let filter = PlanFilter {
        warehouse_id,
        date,
        active: in_state.map(|word| word == "active"),
        before: window.after.map(|(at, id)| (at, PlanId(id))),
        limit: window.fetch(),
    };
    let plans = sheet::plans(&mut *state.pool.acquire().await?, &filter).await?;
    Ok(Answer::ok(&window.page(
        plans,
        |plan| (plan.created_at, plan.id.0),
        RoutePlanView::from,
    )))
}

/// One plan with its routes, their stops, and who is on none, and why.
#[utoipa::path(
    get, path = "/route-plans/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "The plan", body = RoutePlanDetail)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<PlanId>) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    Ok(Answer::ok(&RoutePlanDetail {
        plan: sheet.plan.into(),
        routes: sheet.routes.into_iter().map(TourView::from).collect(),
        left_out: sheet.left_out.into_iter().map(LeftOutView::from).collect(),
    }))
}

/// A plan as GeoJSON: a line for each route, a point for each stop.
#[utoipa::path(
    get, path = "/route-plans/{id}/geojson", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "A feature collection", body = Object, content_type = "application/geo+json")),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn as_geojson(
    extract::State(state): extract::State<State>,
    Id(id): Id<PlanId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    let collection = geojson::geojson(&sheet).to_string();
    Ok(document(&headers, "application/geo+json", collection))
}

/// A plan's routes as encoded polylines, with five decimals and with six.
#[utoipa::path(
    get, path = "/route-plans/{id}/polylines", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "`polyline` and `polyline6` of each route", body = Object)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn as_polylines(
    extract::State(state): extract::State<State>,
    Id(id): Id<PlanId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    let lines = polyline::polylines(&sheet).to_string();
    Ok(document(&headers, "application/json", lines))
}

/// A plan as a map: one SVG picture without scripts or tiles.
#[utoipa::path(
    get, path = "/route-plans/{id}/map.svg", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "The map", body = String, content_type = "image/svg+xml")),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn as_map(
    extract::State(state): extract::State<State>,
    Id(id): Id<PlanId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    Ok(document(&headers, SVG, map::map(&sheet)))
}

/// A plan as time: what each van does when, and the windows of its stops. One SVG picture.
#[utoipa::path(
    get, path = "/route-plans/{id}/gantt.svg", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "The strips", body = String, content_type = "image/svg+xml")),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn as_gantt(
    extract::State(state): extract::State<State>,
    Id(id): Id<PlanId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    Ok(document(&headers, SVG, gantt::gantt(&sheet)))
}

/// The list that drivers take along, as a page to print: a van to a sheet.
#[utoipa::path(
    get, path = "/route-plans/{id}/list.html", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "The list", body = String, content_type = "text/html")),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn as_page(
    extract::State(state): extract::State<State>,
    Id(id): Id<PlanId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    Ok(document(&headers, HTML, lists::html(&sheet)))
}

/// The list that drivers take along, as text.
#[utoipa::path(
    get, path = "/route-plans/{id}/list.txt", tag = "routes",
    params(("id" = Uuid, Path, description = "The plan")),
    responses((status = 200, description = "The list", body = String, content_type = "text/plain")),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn as_text(
    extract::State(state): extract::State<State>,
    Id(id): Id<PlanId>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let sheet = drawn_up(&state, id).await?;
    Ok(document(&headers, TEXT, lists::text(&sheet)))
}

async fn drawn_up(state: &State, id: PlanId) -> Result<Sheet, Problem> {
    sheet::of_plan(&mut *state.pool.acquire().await?, id)
        .await?
        .ok_or_else(|| Problem::not_found("plan"))
}

/// A drawing or list, or 304 for who has it already. It may run nothing and fetch nothing, whoever's names are in it.
pub(crate) fn document(headers: &HeaderMap, media: &str, body: String) -> Answer {
    const NO_SNIFFING: HeaderName = HeaderName::from_static("x-content-type-options");
    let tag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..16]));
    let is_known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|known| known.to_str().ok())
        .flat_map(|known| known.split(','))
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|known| known == tag || known == "*");
    let style = BASE64_STANDARD.encode(Sha256::digest(lists::STYLE));
    let policy = format!("default-src 'none'; style-src 'sha256-{style}'; sandbox; frame-ancestors 'none'");
    let mut answer = Answer::nothing();
    if is_known {
        answer.status = StatusCode::NOT_MODIFIED;
    } else {
        (answer.status, answer.body) = (StatusCode::OK, body);
        answer = answer.header(CONTENT_TYPE, media);
    }
    answer
        .headers
        .insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    answer
        .header(ETAG, &tag)
        .header(NO_SNIFFING, "nosniff")
        .header(CONTENT_SECURITY_POLICY, &policy)
}
