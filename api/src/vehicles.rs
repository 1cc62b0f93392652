//! Vehicles: what routes are driven with.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::ids::{VehicleId, WarehouseId};
use domain::routes::{self, Rest, Vehicle, VehicleSpec, Window};
use jobs::plan_routes;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, integer, small_integer, text, uuid, words};
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;

const CAPACITY_MAX: i64 = 1_000_000_000;

/// A van of one warehouse.
#[derive(Serialize, ToSchema)]
pub(crate) struct VehicleView {
    /// Its id.
    id: Uuid,
    /// Where it starts and ends its days.
    warehouse_id: Uuid,
    /// What people call it: unique in its warehouse.
    name: String,
    /// How much weight it takes.
    capacity_grams: i64,
    /// How much volume it takes.
    capacity_cm3: i64,
    /// When it may leave, in seconds after midnight.
    shift_start: i32,
    /// When it must be back.
    shift_end: i32,
    /// How many stops it makes at most.
    stops_max: i32,
    /// What it can do, in words: `cold`, `tail_lift`.
    skills: Vec<String>,
    /// The longest it may be out, in seconds, waiting and rest included.
    seconds_max: Option<i32>,
    /// The furthest it may drive, in metres.
    metres_max: Option<i64>,
    /// What it costs to use it, in the unit of the other two: as much as 20 km of driving, unless somebody says otherwise.
    fixed_cost: i64,
    /// What a metre costs: 1, unless somebody says otherwise.
    metre_cost: i64,
    /// What a second out costs: nothing, unless somebody says otherwise.
    second_cost: i64,
    /// The rest its driver takes, unless they are back before it would have to start: its earliest start.
    rest_start: Option<i32>,
    /// Its latest start.
    rest_end: Option<i32>,
    /// How long it is.
    rest_seconds: Option<i32>,
    /// Raised by every change.
    version: i32,
    /// When it joined.
    created_at: DateTime<Utc>,
    /// When it left the fleet.
    retired_at: Option<DateTime<Utc>>,
}

impl From<Vehicle> for VehicleView {
    fn from(vehicle: Vehicle) -> VehicleView {
        VehicleView {
            id: vehicle.id.0,
            warehouse_id: vehicle.warehouse_id.0,
            name: vehicle.spec.name,
            capacity_grams: vehicle.spec.capacity_grams,
            capacity_cm3: vehicle.spec.capacity_cm3,
            shift_start: vehicle.spec.shift_start,
            shift_end: vehicle.spec.shift_end,
            stops_max: vehicle.spec.stops_max,
            skills: vehicle.spec.skills,
            seconds_max: vehicle.spec.seconds_max,
            metres_max: vehicle.spec.metres_max,
            fixed_cost: vehicle.spec.fixed_cost,
            metre_cost: vehicle.spec.metre_cost,
            second_cost: vehicle.spec.second_cost,
            rest_start: vehicle.spec.rest.map(|rest| rest.window.start),
            rest_end: vehicle.spec.rest.map(|rest| rest.window.end),
            rest_seconds: vehicle.spec.rest.map(|rest| rest.seconds),
            version: vehicle.version,
            created_at: vehicle.created_at,
            retired_at: vehicle.retired_at,
        }
    }
}

/// A van to add.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `create` reads it")]
pub(crate) struct NewVehicle {
    /// Where it starts and ends its days.
    warehouse_id: Uuid,
    /// What people call it: unique in its warehouse.
    name: String,
    /// How much weight it takes.
    capacity_grams: i64,
    /// How much volume it takes.
    capacity_cm3: i64,
    /// When it may leave, in seconds after midnight.
    shift_start: i32,
    /// When it must be back.
    shift_end: i32,
    /// How many stops it makes at most; 100 without.
    stops_max: Option<i32>,
    /// What it can do, in words of lower-case letters, digits and _; none without.
    skills: Option<Vec<String>>,
    /// The longest it may be out, in seconds, waiting and rest included.
    seconds_max: Option<i32>,
    /// The furthest it may drive, in metres.
    metres_max: Option<i64>,
    /// What it costs to use it; 20000 without.
    fixed_cost: Option<i64>,
    /// What a metre costs; 1 without.
    metre_cost: Option<i64>,
    /// What a second out costs; 0 without.
    second_cost: Option<i64>,
    /// The earliest start of its driver's rest; given with the other two or not at all.
    rest_start: Option<i32>,
    /// Its latest start.
    rest_end: Option<i32>,
    /// How long it is, in seconds.
    rest_seconds: Option<i32>,
}

/// What changes of a van.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `update` reads it")]
pub(crate) struct VehiclePatch {
    /// What people call it.
    name: Option<String>,
    /// How much weight it takes.
    capacity_grams: Option<i64>,
    /// How much volume it takes.
    capacity_cm3: Option<i64>,
    /// When it may leave.
    shift_start: Option<i32>,
    /// When it must be back.
    shift_end: Option<i32>,
    /// How many stops it makes at most.
    stops_max: Option<i32>,
    /// What it can do, in words of lower-case letters, digits and _.
    skills: Option<Vec<String>>,
    /// The longest it may be out, in seconds, waiting and rest included.
    seconds_max: Option<i32>,
    /// The furthest it may drive, in metres.
    metres_max: Option<i64>,
    /// What it costs to use it.
    fixed_cost: Option<i64>,
    /// What a metre costs.
    metre_cost: Option<i64>,
    /// What a second out costs.
    second_cost: Option<i64>,
    /// The earliest start of its driver's rest; given with the other two or not at all.
    rest_start: Option<i32>,
    /// Its latest start.
    rest_end: Option<i32>,
    /// How long it is, in seconds.
    rest_seconds: Option<i32>,
}

/// Adds a vehicle.
#[utoipa::path(
    post, path = "/vehicles", tag = "routes",
    request_body = NewVehicle,
    responses((status = 201, description = "Added", body = VehicleView)),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn create(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (warehouse, spec) = fields::read(&call.body, |f| {
            let warehouse: WarehouseId = f.required("warehouse_id", uuid).into();
            let usual = VehicleSpec::default();
            let spec = VehicleSpec {
                name: f.required("name", text(1..=100)),
                capacity_grams: f.required("capacity_grams", integer(1..=CAPACITY_MAX)),
                capacity_cm3: f.required("capacity_cm3", integer(1..=CAPACITY_MAX)),
                shift_start: f.required("shift_start", small_integer(0..=86_399)),
                shift_end: f.required("shift_end", small_integer(1..=86_400)),
                stops_max: f
                    .optional("stops_max", small_integer(1..=1_000))
                    .unwrap_or(usual.stops_max),
                ..rules(f, usual)
            };
            (warehouse, spec)
        })?;
        let vehicle = match routes::store::create_vehicle(conn, warehouse, &spec).await {
            Err(routes::Error::NotFound(_)) => {
                return Err(Problem::invalid_field(
                    "/warehouse_id",
                    "unknown_warehouse",
                    "there is no such warehouse",
                ));
            }
            other => other?,
        };
        let version = vehicle.version;
        Ok(Answer::created(&format!("/api/v1/vehicles/{}", vehicle.id), &VehicleView::from(vehicle)).etag(version))
    })
    .await
}

/// Lists vehicles, in the order they were added.
#[utoipa::path(
    get, path = "/vehicles", tag = "routes",
    params(
        ("warehouse_id" = Option<Uuid>, Query, description = "Of this warehouse"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of vehicles", body = Page<VehicleView>)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, mut params: Params) -> Result<Answer, Problem> {
    let warehouse: Option<WarehouseId> = params.filter("warehouse_id", "a UUID");
    let window = params.window::<Uuid>()?;
    let mut conn = state.pool.acquire().await?;
    let after = window.after.map(VehicleId);
    let vehicles = routes::store::vehicles(&mut conn, warehouse, after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        vehicles,
        |vehicle| vehicle.id.0,
        VehicleView::from,
    )))
}

/// One vehicle.
#[utoipa::path(
    get, path = "/vehicles/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The vehicle")),
    responses((status = 200, description = "The vehicle", body = VehicleView)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<VehicleId>,
) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    let vehicle = routes::store::vehicle(&mut conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("vehicle"))?;
    let version = vehicle.version;
    Ok(Answer::ok(&VehicleView::from(vehicle)).etag(version))
}

/// Changes a vehicle. Once it has routes only its name may change.
#[utoipa::path(
    patch, path = "/vehicles/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The vehicle")),
    request_body(content = VehiclePatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = VehicleView)),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn update(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: VehicleId = call.path("id", "vehicle")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let current = routes::store::vehicle(conn, id)
            .await?
            .ok_or_else(|| Problem::not_found("vehicle"))?;
        call.check_version(current.version)?;
        let spec = fields::read(&call.body, |f| patched(f, current.spec))?;
        let vehicle = routes::store::update_vehicle(conn, id, &spec, Some(current.version)).await?;
        let version = vehicle.version;
        Ok(Answer::ok(&VehicleView::from(vehicle)).etag(version))
    })
    .await
}

fn patched(f: &mut Fields<'_>, spec: VehicleSpec) -> VehicleSpec {
    VehicleSpec {
        name: f.change("name", text(1..=100)).unwrap_or_else(|| spec.name.clone()),
        capacity_grams: f
            .change("capacity_grams", integer(1..=CAPACITY_MAX))
            .unwrap_or(spec.capacity_grams),
        capacity_cm3: f
            .change("capacity_cm3", integer(1..=CAPACITY_MAX))
            .unwrap_or(spec.capacity_cm3),
        shift_start: f
            .change("shift_start", small_integer(0..=86_399))
            .unwrap_or(spec.shift_start),
        shift_end: f
            .change("shift_end", small_integer(1..=86_400))
            .unwrap_or(spec.shift_end),
        stops_max: f
            .change("stops_max", small_integer(1..=1_000))
            .unwrap_or(spec.stops_max),
        ..rules(f, spec)
    }
}

/// What a vehicle can do, costs and needs: what is not given stays as it was.
fn rules(f: &mut Fields<'_>, spec: VehicleSpec) -> VehicleSpec {
    const DAY: i32 = 86_400;
    let rest = [
        ("rest_start", spec.rest.map(|rest| rest.window.start), 0..=DAY),
        ("rest_end", spec.rest.map(|rest| rest.window.end), 0..=DAY),
        ("rest_seconds", spec.rest.map(|rest| rest.seconds), 1..=28_800),
    ]
    .map(|(name, before, range)| f.patch(name, small_integer(range)).unwrap_or(before));
    let rest = match rest {
        [Some(start), Some(end), Some(seconds)] => Some(Rest {
            window: Window { start, end },
            seconds,
        }),
        [None, None, None] => None,
        _ => {
            let detail = "must come with rest_end and rest_seconds, or none of them".to_owned();
            f.complain("rest_start", "incomplete", detail);
            None
        }
    };
    VehicleSpec {
        skills: f.change("skills", words).unwrap_or(spec.skills),
        seconds_max: f
            .patch("seconds_max", small_integer(1..=DAY))
            .unwrap_or(spec.seconds_max),
        metres_max: f
            .patch("metres_max", integer(1..=10_000_000))
            .unwrap_or(spec.metres_max),
        fixed_cost: f
            .change("fixed_cost", integer(0..=1_000_000_000_000))
            .unwrap_or(spec.fixed_cost),
        metre_cost: f
            .change("metre_cost", integer(0..=1_000_000))
            .unwrap_or(spec.metre_cost),
        second_cost: f
            .change("second_cost", integer(0..=1_000_000))
            .unwrap_or(spec.second_cost),
        rest,
        ..spec
    }
}

/// Takes a vehicle out of the fleet; the days that counted on it are planned again.
#[utoipa::path(
    delete, path = "/vehicles/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The vehicle")),
    responses((status = 204, description = "Retired")),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn retire(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: VehicleId = call.path("id", "vehicle")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let current = routes::store::vehicle(conn, id)
            .await?
            .ok_or_else(|| Problem::not_found("vehicle"))?;
        call.check_version(current.version)?;
        let (_, days) = routes::store::retire_vehicle(conn, id).await?;
        plan_routes::request(conn, &days).await?;
        Ok(Answer::nothing())
    })
    .await
}
