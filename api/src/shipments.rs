//! Shipments: what a delivery asks for.

use axum::extract;
use chrono::{DateTime, NaiveDate, Utc};
use domain::ids::ShipmentId;
use domain::routes::store::{self, Delivery};
use domain::routes::{Shipment, Window};
use jobs::plan_routes;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, small_integer, words};
use crate::path::Id;
use crate::problem::Problem;

/// From when until when, in seconds after midnight.
#[derive(Serialize, ToSchema)]
pub(crate) struct WindowView {
    /// From when.
    start: i32,
    /// Until when.
    end: i32,
}

/// What leaves one warehouse for one order.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShipmentView {
    /// Its id.
    id: Uuid,
    /// The order it belongs to.
    order_id: Uuid,
    /// Where it leaves from.
    warehouse_id: Uuid,
    /// unplanned, planned, dispatched, shipped or cancelled.
    state: String,
    /// The day it is delivered.
    delivery_date: NaiveDate,
    /// Latitude.
    lat: f64,
    /// Longitude.
    lon: f64,
    /// How heavy it is.
    weight_grams: i64,
    /// How big it is.
    volume_cm3: i64,
    /// How long the stop takes.
    service_seconds: i32,
    /// Clinical priority: 1 is served before everything else, 3 is routine.
    priority: i16,
    /// What its vehicle must be able to do, in words.
    skills: Vec<String>,
    /// When it is taken in.
    windows: Vec<WindowView>,
    /// Why it has no route, or why it was put off.
    #[schema(value_type = Option<Object>)]
    unassigned: Option<Value>,
    /// The route that takes it.
    route_id: Option<Uuid>,
    /// Raised by every change.
    version: i32,
    /// When it was made.
    created_at: DateTime<Utc>,
}

impl From<Shipment> for ShipmentView {
    fn from(shipment: Shipment) -> ShipmentView {
        let windows = windows(&shipment).into_iter().map(|window| WindowView {
            start: window.start,
            end: window.end,
        });
        ShipmentView {
            windows: windows.collect(),
            id: shipment.id.0,
            order_id: shipment.order_id.0,
            warehouse_id: shipment.warehouse_id.0,
            state: shipment.state,
            delivery_date: shipment.delivery_date,
            lat: shipment.lat,
            lon: shipment.lon,
            weight_grams: shipment.weight_grams,
            volume_cm3: shipment.volume_cm3,
            service_seconds: shipment.service_seconds,
            priority: shipment.priority,
            skills: shipment.skills,
            unassigned: shipment.unassigned,
            route_id: shipment.route_id.map(|id| id.0),
            version: shipment.version,
            created_at: shipment.created_at,
        }
    }
}

fn windows(shipment: &Shipment) -> Vec<Window> {
    store::windows(shipment.window_start, shipment.window_end, &shipment.later_windows)
}

/// What changes of a delivery.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `change` reads it")]
pub(crate) struct ShipmentPatch {
    /// Clinical priority: 1 is served before everything else, 3 is routine.
    priority: Option<i16>,
    /// What its vehicle must be able to do, in words of lower-case letters, digits and _.
    skills: Option<Vec<String>>,
    /// When it is taken in: 1 to 8 windows of a day, in order, none touching the next. They replace those it had.
    windows: Option<Vec<WindowPatch>>,
}

/// From when until when.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `change` reads it")]
pub(crate) struct WindowPatch {
    /// From when, in seconds after midnight.
    start: i32,
    /// Until when.
    end: i32,
}

/// One shipment.
#[utoipa::path(
    get, path = "/shipments/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The shipment")),
    responses((status = 200, description = "The shipment", body = ShipmentView)),
    security(("api_key" = ["routes:read"])),
)]
pub(crate) async fn get(
    extract::State(state): extract::State<State>,
    Id(id): Id<ShipmentId>,
) -> Result<Answer, Problem> {
    let mut conn = state.pool.acquire().await?;
    let shipment = store::shipment(&mut conn, id)
        .await?
        .ok_or_else(|| Problem::not_found("shipment"))?;
    let version = shipment.version;
    Ok(Answer::ok(&ShipmentView::from(shipment)).etag(version))
}

/// Changes what a delivery asks for, until it leaves. It is taken off its route, and its day is planned again.
#[utoipa::path(
    patch, path = "/shipments/{id}", tag = "routes",
    params(("id" = Uuid, Path, description = "The shipment")),
    request_body(content = ShipmentPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "Changed", body = ShipmentView)),
    security(("api_key" = ["routes:write"])),
)]
pub(crate) async fn change(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let id: ShipmentId = call.path("id", "shipment")?;
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let current = store::shipment(conn, id)
            .await?
            .ok_or_else(|| Problem::not_found("shipment"))?;
        call.check_version(current.version)?;
        let wanted = fields::read(&call.body, |f| wanted(f, &current))?;
        let (shipment, day) = store::change_delivery(conn, id, &wanted, &call.cause()).await?;
        plan_routes::request(conn, &[day]).await?;
        let version = shipment.version;
        Ok(Answer::ok(&ShipmentView::from(shipment)).etag(version))
    })
    .await
}

fn wanted(f: &mut Fields<'_>, current: &Shipment) -> Delivery {
    const DAY: i32 = 86_400;
    let priority = f.change("priority", small_integer(1..=3));
    let windows = match f.has("windows") {
        false => windows(current),
        true => f.list("windows", 1..=Delivery::WINDOWS_MAX, |window| Window {
            start: window.required("start", small_integer(0..=DAY)),
            end: window.required("end", small_integer(1..=DAY)),
        }),
    };
    Delivery {
        priority: priority.map_or(current.priority, |priority| priority as i16),
        skills: f.change("skills", words).unwrap_or_else(|| current.skills.clone()),
        windows,
    }
}
