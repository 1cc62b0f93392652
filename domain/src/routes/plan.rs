//! Planning a warehouse's day, in two steps with no transaction between them: [`snapshot`] reads what is to be planned,
//! the solver computes, and [`publish`] stores the result if what was read is still so.
//!
//! Stops keep their place in line: those already planned come first, then the urgent, then the oldest, up to
//! [`STOPS_PER_PLAN_MAX`](super::STOPS_PER_PLAN_MAX). What the day cannot take moves to the next day that is not full,
//! and the plan remembers that it is full, so that new shipments go there at once. What no day could take stays, with
//! its reason; the reason carries the shipment's version, and only a change of that brings it before a planner again.
//! So every plan either places a shipment, moves it to a later day, or settles it: planning comes to an end.
//!
//! The plan that counts is where the next one starts. What is locked in it stays; who has a van moves only for what it is
//! worth. The hash of the input leaves that plan out, all but its locks: whether a day is to be planned again does not depend
//! on how it was planned before.

mod checkpoints;
mod publishing;
mod reading;

use std::sync::Arc;

use chrono::NaiveDate;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    MOVES_PER_PLAN_MAX, RANGE_METRES_MAX, checker,
    distance::{Haversine, Point, misplaced},
    problem::{PlannedRoute, Problem, Reason, Solution},
    recipe::Found,
    road_matrix::{self, Cell, RoadMatrix},
    solver::Routes,
    store::{Day, first_open_day},
};
use crate::ids::{PlanId, ShipmentId, VehicleId, WarehouseId};

use checkpoints::forget_checkpoint;
pub use checkpoints::{Checkpoint, checkpoint, keep_checkpoint};
use publishing::put_off;
pub use publishing::{Published, Summary, WhenStale, publish};
pub use reading::{as_planned, snapshot};

/// What a shipment that has a van already costs on another one, in metres of driving: a better plan must be worth the
/// change to those who load and drive.
pub const MOVE_COST_METRES: i64 = 1_000;

/// A day as it was read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the routes start.
    pub warehouse_id: WarehouseId,
    /// The day.
    pub date: NaiveDate,
    /// What to solve.
    pub problem: Arc<Problem>,
    /// How far it is where no road server says.
    pub source: Haversine,
    /// The depot, and the stops in the order of the problem's.
    points: Vec<Point>,
    /// What a road server says, and its row.
    roads: Option<(Uuid, RoadMatrix)>,
    is_approximate: bool,
    /// Of everything that is to be planned, and with what: the same hash, the same task. The plan before is no part of it.
    pub input_hash: [u8; 32],
    /// The plan that counts.
    previous: Option<Previous>,
    /// The shipments, in the order of the problem's stops.
    shipments: Vec<Seen>,
    /// More shipments than a plan may have.
    surplus: Vec<Seen>,
    /// The vehicles, in the order of the problem's.
    vehicles: Vec<SeenVehicle>,
}

#[derive(Debug, Clone)]
struct Seen {
    id: ShipmentId,
    version: i32,
    is_planned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenVehicle {
    id: VehicleId,
    version: i32,
    name: String,
    is_available: bool,
}

/// Routes by the ids of their vehicles and shipments: what outlives a snapshot.
pub type RoutesById = Vec<(VehicleId, Vec<ShipmentId>)>;

/// The plan that was there before, as far as its routes have not left.
#[derive(Debug, Clone)]
struct Previous {
    id: PlanId,
    input_hash: Vec<u8>,
    cost: Option<i64>,
    routes: RoutesById,
    /// How many of the first stops of each are locked.
    locked: Vec<usize>,
}

impl Previous {
    /// What is locked to which vehicle.
    fn locks(previous: Option<&Previous>) -> Vec<(VehicleId, &[ShipmentId])> {
        let Some(previous) = previous else { return Vec::new() };
        let locks = previous.routes.iter().zip(&previous.locked);
        locks
            .map(|((id, stops), locked)| (*id, &stops[..*locked.min(&stops.len())]))
            .filter(|(_, stops)| !stops.is_empty())
            .collect()
    }
}

impl Snapshot {
    /// Where the solver's random numbers start: the same input, the same plan.
    pub fn seed(&self) -> u64 {
        // A column of the database holds it: the sign bit stays clear.
        self.input_hash
            .iter()
            .take(8)
            .fold(0_u64, |seed, byte| (seed << 8) | u64::from(*byte))
            >> 1
    }

    /// The warehouse and the day.
    pub fn day(&self) -> Day {
        (self.warehouse_id, self.date)
    }

    /// How many stops there are to plan.
    pub fn stops(&self) -> usize {
        self.shipments.len()
    }

    /// Where the routes start.
    pub fn depot(&self) -> Point {
        self.points[0]
    }

    /// The places to ask a road server about: the depot and the stops, sorted, without those that are too far off.
    pub fn cells(&self) -> Vec<Cell> {
        let depot = self.depot();
        let is_right = |point: &Point| misplaced(depot, *point, RANGE_METRES_MAX).is_none();
        road_matrix::cells(self.points.iter().copied().filter(is_right))
    }

    /// Plans by these ways, which lie in that row of `road_matrices`.
    pub fn drive_by(&mut self, row: Uuid, roads: RoadMatrix) {
        Arc::make_mut(&mut self.problem).matrices = vec![roads.matrix(&self.points, self.source)];
        let mut hash = Sha256::new();
        hash.update(self.input_hash);
        hash.update(roads.hash());
        self.input_hash = hash.finalize().into();
        self.roads = Some((row, roads));
    }

    /// Notes that a road server is set and has not answered: the plan says so.
    pub fn approximate(&mut self) {
        self.is_approximate = true;
    }

    /// What its plan says of its distances.
    pub fn distance_source(&self) -> String {
        match &self.roads {
            Some((_, roads)) => roads.origin.to_string(),
            None => self.source.to_string(),
        }
    }

    /// Whether the plan that counts is for just this: nothing is new, nothing has changed, nobody waits.
    pub fn is_planned(&self) -> bool {
        let is_same = match &self.previous {
            Some(previous) => previous.input_hash == self.input_hash,
            None => self.shipments.is_empty(),
        };
        is_same && self.surplus.is_empty() && self.shipments.iter().all(|seen| seen.is_planned)
    }

    /// What a solution costs, whatever it moves: so plans of the same day compare.
    fn cost(&self, solution: &Solution) -> i64 {
        let moving_freely = Problem {
            move_cost: 0,
            ..Problem::clone(&self.problem)
        };
        checker::cost(&moving_freely, &solution.routes)
    }

    /// The same day with every shipment free to change its van: for who plans it anew and thoroughly.
    #[must_use]
    pub fn moving_freely(mut self) -> Snapshot {
        Arc::make_mut(&mut self.problem).move_cost = 0;
        self
    }

    /// The routes of the plan that counts, as far as they can still be driven: what a search starts from.
    pub fn routes_before(&self) -> Routes {
        self.previous
            .as_ref()
            .map_or_else(Routes::new, |previous| self.routes_from(&previous.routes))
    }

    /// Routes in the problem's numbers, without vehicles and shipments that are no part of it.
    pub fn routes_from(&self, routes: &RoutesById) -> Routes {
        let stop = |id: &ShipmentId| self.shipments.binary_search_by_key(id, |seen| seen.id).ok();
        let vehicle = |id: &VehicleId| self.vehicles.iter().position(|seen| seen.id == *id);
        routes
            .iter()
            .filter_map(|(id, stops)| Some((vehicle(id)?, stops.iter().filter_map(stop).collect())))
            .collect()
    }

    /// The routes that were found, by ids.
    pub fn routes_found(&self, found: &Found) -> RoutesById {
        let stops = |route: &PlannedRoute| route.stops.iter().map(|stop| stop.stop).collect();
        let routes = found.solution.routes.iter().map(|route| (route.vehicle, stops(route)));
        self.routes_by_id(&routes.collect())
    }

    /// The same routes by ids.
    pub fn routes_by_id(&self, routes: &Routes) -> RoutesById {
        let ids = |stops: &[usize]| stops.iter().map(|stop| self.shipments[*stop].id).collect();
        routes
            .iter()
            .map(|(vehicle, stops)| (self.vehicles[*vehicle].id, ids(stops)))
            .collect()
    }
}

/// Moves what was never planned for a day that is over to the first day that has room; returns which.
pub async fn move_on(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Option<NaiveDate>, sqlx::Error> {
    forget_checkpoint(conn, (warehouse, date)).await?;
    let rows = sqlx::query!(
        r#"select id, (clock_timestamp() at time zone 'UTC')::date as "today!"
           from shipments
           where warehouse_id = $1 and delivery_date = $2 and state = 'unplanned'
             and delivery_date < (clock_timestamp() at time zone 'UTC')::date
             and not coalesce((unassigned ->> 'version')::int = version, false)
           order by id
           limit $3
           for update"#,
        warehouse.0,
        date,
        MOVES_PER_PLAN_MAX as i64,
    )
    .fetch_all(&mut *conn)
    .await?;
    let Some(today) = rows.first().map(|row| row.today) else {
        return Ok(None);
    };
    let missed = rows
        .iter()
        .map(|row| (ShipmentId(row.id), json!({"reason": "day_missed"})))
        .collect();
    let later = first_open_day(conn, warehouse, today).await?;
    put_off(conn, &missed, later).await?;
    Ok(Some(later))
}

/// Marks what is still unplanned that day as given up, so that no timetable tries it again; the next request does.
pub async fn give_up(conn: &mut PgConnection, (warehouse, date): Day) -> Result<u64, sqlx::Error> {
    forget_checkpoint(conn, (warehouse, date)).await?;
    let reason = serde_json::to_value(Reason::PlanningFailed).unwrap_or_default();
    let marked = sqlx::query!(
        r#"with waiting as (
               select id from shipments
               where warehouse_id = $1 and delivery_date = $2 and state = 'unplanned'
                 and not coalesce((unassigned ->> 'version')::int = version, false)
               order by id for update
           )
           update shipments s
           set version = s.version + 1, updated_at = clock_timestamp(),
               unassigned = $3::jsonb || jsonb_build_object('version', s.version + 1)
           from waiting
           where s.id = waiting.id"#,
        warehouse.0,
        date,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(marked.rows_affected())
}

/// The days with shipments that wait for a plan: not those that were settled as impossible.
pub async fn days_due(conn: &mut PgConnection, limit: i64) -> Result<Vec<Day>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select distinct warehouse_id, delivery_date from shipments
           where state = 'unplanned' and not coalesce((unassigned ->> 'version')::int = version, false)
           order by delivery_date, warehouse_id
           limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (WarehouseId(row.warehouse_id), row.delivery_date))
        .collect())
}

/// The days from today on that have a plan.
pub async fn days_ahead(conn: &mut PgConnection, warehouse: WarehouseId) -> Result<Vec<Day>, sqlx::Error> {
    let days = sqlx::query_scalar!(
        r#"select date from route_plans
           where warehouse_id = $1 and active and date >= (clock_timestamp() at time zone 'UTC')::date
           order by date"#,
        warehouse.0,
    )
    .fetch_all(conn)
    .await?;
    Ok(days.into_iter().map(|date| (warehouse, date)).collect())
}

/// The day it is (UTC), by the database's clock.
pub async fn today(conn: &mut PgConnection) -> Result<NaiveDate, sqlx::Error> {
    sqlx::query_scalar!(r#"select (clock_timestamp() at time zone 'UTC')::date as "today!""#)
        .fetch_one(conn)
        .await
}

/// The days of tomorrow (UTC), one for each warehouse that has something to plan then, whether it is planned or not.
pub async fn days_tomorrow(conn: &mut PgConnection, limit: i64) -> Result<Vec<Day>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select distinct warehouse_id, delivery_date from shipments
           where state in ('unplanned', 'planned')
             and delivery_date = (clock_timestamp() at time zone 'UTC')::date + 1
           order by warehouse_id
           limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (WarehouseId(row.warehouse_id), row.delivery_date))
        .collect())
}
