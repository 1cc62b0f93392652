//! Shipments, vehicles, plans and routes in the database.

use chrono::NaiveDate;
use serde_json::Value;
use sqlx::PgConnection;

use super::{Error, Route, RouteFilter, RouteStop, Shipment, Vehicle, VehicleSpec};
use crate::{
    cause::Cause,
    ids::{OrderId, RouteId, ShipmentId, VehicleId, WarehouseId},
    orders::Order,
};

/// A warehouse and a day: what one plan is for.
pub type Day = (WarehouseId, NaiveDate);

/// Makes one shipment per warehouse that has stock of the order aside; returns the days to plan.
pub async fn create_shipments(conn: &mut PgConnection, order: &Order, cause: &Cause) -> Result<Vec<Day>, sqlx::Error> {
    let _ = (conn, order, cause);
    todo!()
}

/// Cancels what has not left yet of an order, takes it out of its routes, and returns the days to plan again.
pub async fn cancel_shipments(conn: &mut PgConnection, order: OrderId, cause: &Cause) -> Result<Vec<Day>, sqlx::Error> {
    let _ = (conn, order, cause);
    todo!()
}

/// One shipment.
pub async fn shipment(conn: &mut PgConnection, id: ShipmentId) -> Result<Option<Shipment>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// The shipments of an order, oldest first.
pub async fn shipments_of_order(conn: &mut PgConnection, order: OrderId) -> Result<Vec<Shipment>, sqlx::Error> {
    let _ = (conn, order);
    todo!()
}

/// Notes that a dispatched shipment has left; false when it was not `dispatched`, and nothing is written.
pub async fn mark_shipped(conn: &mut PgConnection, id: ShipmentId, cause: &Cause) -> Result<bool, sqlx::Error> {
    let _ = (conn, id, cause);
    todo!()
}

/// Adds a vehicle to a warehouse; shipments that no vehicle could take are tried again.
pub async fn create_vehicle(
    conn: &mut PgConnection,
    warehouse: WarehouseId,
    spec: &VehicleSpec,
) -> Result<Vehicle, Error> {
    let _ = (conn, warehouse, spec);
    todo!()
}

/// Changes a vehicle, if it still has the version given. Only its name may change once it has routes.
pub async fn update_vehicle(
    conn: &mut PgConnection,
    id: VehicleId,
    spec: &VehicleSpec,
    version: Option<i32>,
) -> Result<Vehicle, Error> {
    let _ = (conn, id, spec, version);
    todo!()
}

/// Takes a vehicle out of the fleet; returns the days whose plans counted on it.
pub async fn retire_vehicle(conn: &mut PgConnection, id: VehicleId) -> Result<(Vehicle, Vec<Day>), Error> {
    let _ = (conn, id);
    todo!()
}

/// One vehicle.
pub async fn vehicle(conn: &mut PgConnection, id: VehicleId) -> Result<Option<Vehicle>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// The vehicles of a warehouse, or all, by id, after the one given.
pub async fn vehicles(
    conn: &mut PgConnection,
    warehouse: Option<WarehouseId>,
    after: Option<VehicleId>,
    limit: i64,
) -> Result<Vec<Vehicle>, sqlx::Error> {
    let _ = (conn, warehouse, after, limit);
    todo!()
}

/// Routes, newest first.
pub async fn routes(conn: &mut PgConnection, filter: &RouteFilter) -> Result<Vec<Route>, sqlx::Error> {
    let _ = (conn, filter);
    todo!()
}

/// One route and its stops in order.
pub async fn route(conn: &mut PgConnection, id: RouteId) -> Result<Option<(Route, Vec<RouteStop>)>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// A warehouse's day as a GeoJSON feature collection: a line per route, a point per stop, one for the warehouse.
pub async fn day_geojson(conn: &mut PgConnection, warehouse: WarehouseId, date: NaiveDate) -> Result<Value, sqlx::Error> {
    let _ = (conn, warehouse, date);
    todo!()
}

/// One route as a GeoJSON feature collection.
pub async fn route_geojson(conn: &mut PgConnection, id: RouteId) -> Result<Option<Value>, sqlx::Error> {
    let _ = (conn, id);
    todo!()
}

/// Sends a planned route on its way; returns the shipments it carries, each to be shipped.
pub async fn dispatch_route(conn: &mut PgConnection, id: RouteId, cause: &Cause) -> Result<Vec<ShipmentId>, Error> {
    let _ = (conn, id, cause);
    todo!()
}

/// What is wrong with the routes as stored (R1 to R5), one line each; empty when all is well.
pub async fn audit(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    let _ = conn;
    todo!()
}
