//! What leaves the warehouses, and in which van: shipments, vehicles, and the plan of each warehouse's day.
//!
//! In reading order: [`problem`] is a day put as numbers, [`distance`] how far it is between its points, [`solver`]
//! finds the routes (by `search` over a `model`, with `places` to go to, `cooling`, the local search of `improve` and
//! the times of `course`), [`recipe`] is how a plan was found, `skills` gives each skill its bit, [`instance`] reads
//! published problems, [`checker`] recomputes every number of them without trusting the solver, [`plan`] reads a day
//! from the database and publishes its plan, and [`store`] keeps shipments, vehicles and routes. [`roads`] asks a road
//! server how far it is, and [`road_matrix`] keeps what it says. [`sheet`] is a plan as people look at it: [`map`],
//! [`gantt`], [`list`], [`geojson`] and [`polyline`] are functions of one.
//!
//! The life of a shipment: `unplanned` → `planned` (it is a stop of one route) → `dispatched` (its van has left or is
//! loaded) → `shipped`; or `cancelled` before that. A shipment its day cannot take moves to a later day; one that no
//! van could ever take stays `unplanned` with the [`Reason`] in `unassigned`.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{OrderId, PlanId, RouteId, ShipmentId, VehicleId, WarehouseId};

pub mod checker;
mod cooling;
mod course;
pub mod distance;
pub mod gantt;
pub mod geojson;
mod improve;
pub mod instance;
pub mod list;
pub mod map;
pub mod markup;
mod model;
mod places;
pub mod plan;
pub mod polyline;
pub mod problem;
mod random;
pub mod recipe;
pub mod road_matrix;
pub mod roads;
mod search;
pub mod sheet;
mod skills;
pub mod solver;
pub mod store;

pub use distance::Haversine;
pub use problem::{Load, Problem, Reason, Rest, Solution, Window};
pub use roads::Roads;

/// The most stops one plan may have. What exceeds it moves to a later day; the plan's cost grows with its square.
pub const STOPS_PER_PLAN_MAX: usize = 300;
/// The most shipments one plan moves to a later day; a following plan moves the rest.
pub const MOVES_PER_PLAN_MAX: usize = 5_000;
/// The most vehicles of one warehouse that a plan looks at.
pub const VEHICLES_PER_PLAN_MAX: usize = 200;
/// How many days ahead a shipment may be put off.
pub const DAYS_AHEAD_MAX: i32 = 365;
/// How long a stop takes, in seconds: parking, the door, a signature.
pub const SERVICE_SECONDS: i32 = 300;
/// Stops further than that from their warehouse, as the road goes, are out of range.
pub const RANGE_METRES_MAX: u32 = 200_000;

/// What leaves one warehouse for one order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shipment {
    /// Its id.
    pub id: ShipmentId,
    /// The order it belongs to.
    pub order_id: OrderId,
    /// Where it leaves from.
    pub warehouse_id: WarehouseId,
    /// `unplanned`, `planned`, `dispatched`, `shipped` or `cancelled`.
    pub state: String,
    /// The day it is delivered.
    pub delivery_date: NaiveDate,
    /// Where it goes.
    pub lat: f64,
    /// Where it goes.
    pub lon: f64,
    /// How heavy it is.
    pub weight_grams: i64,
    /// How big it is.
    pub volume_cm3: i64,
    /// From when it is taken in, in seconds after midnight.
    pub window_start: i32,
    /// Until when.
    pub window_end: i32,
    /// The windows after that, as start, end, start, end, ….
    pub later_windows: Vec<i32>,
    /// How long the stop takes.
    pub service_seconds: i32,
    /// Clinical priority: 1 is served before everything else, 3 is routine.
    pub priority: i16,
    /// What its vehicle must be able to do, in words.
    pub skills: Vec<String>,
    /// Why it has no route, or why it was put off.
    pub unassigned: Option<serde_json::Value>,
    /// The route that takes it.
    pub route_id: Option<RouteId>,
    /// Raised by every change.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A van of one warehouse.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vehicle {
    /// Its id.
    pub id: VehicleId,
    /// Where it starts and ends its days.
    pub warehouse_id: WarehouseId,
    /// What it is and can do.
    #[serde(flatten)]
    pub spec: VehicleSpec,
    /// Raised by every change.
    pub version: i32,
    /// When it joined.
    pub created_at: DateTime<Utc>,
    /// When it left the fleet.
    pub retired_at: Option<DateTime<Utc>>,
}

/// What a van is and can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VehicleSpec {
    /// What people call it: unique in its warehouse.
    pub name: String,
    /// How much weight it takes.
    pub capacity_grams: i64,
    /// How much volume it takes.
    pub capacity_cm3: i64,
    /// When it may leave, in seconds after midnight.
    pub shift_start: i32,
    /// When it must be back.
    pub shift_end: i32,
    /// How many stops it makes at most.
    pub stops_max: i32,
    /// What it can do, in words: `cold`, `tail_lift`.
    #[serde(default)]
    pub skills: Vec<String>,
    /// The longest it may be out, waiting and rest included, in seconds.
    #[serde(default)]
    pub seconds_max: Option<i32>,
    /// The furthest it may drive, in metres.
    #[serde(default)]
    pub metres_max: Option<i64>,
    /// What it costs to use it at all. The unit is what a metre costs unless somebody says otherwise.
    #[serde(default = "fixed_cost")]
    pub fixed_cost: i64,
    /// What a metre costs.
    #[serde(default = "metre_cost")]
    pub metre_cost: i64,
    /// What a second out costs.
    #[serde(default)]
    pub second_cost: i64,
    /// The rest its driver takes, unless they are back before it would have to start.
    #[serde(default)]
    pub rest: Option<Rest>,
}

/// Using one more van costs as much as 20 km of driving: so that two half-empty ones become one.
fn fixed_cost() -> i64 {
    20_000
}

fn metre_cost() -> i64 {
    1
}

impl Default for VehicleSpec {
    /// A van without a name, which has to be given, as most are.
    fn default() -> VehicleSpec {
        VehicleSpec {
            name: String::new(),
            capacity_grams: 800_000,
            capacity_cm3: 6_000_000,
            shift_start: 7 * 3600,
            shift_end: 19 * 3600,
            stops_max: 100,
            skills: Vec::new(),
            seconds_max: None,
            metres_max: None,
            fixed_cost: fixed_cost(),
            metre_cost: metre_cost(),
            second_cost: 0,
            rest: None,
        }
    }
}

impl VehicleSpec {
    /// Refuses what the table would refuse, with the field and what it may be.
    pub fn check(&self) -> Result<(), Error> {
        const DAY: i32 = 24 * 60 * 60;
        let refuse = |field, allowed| Err(Error::OutOfBounds { field, allowed });
        if self.name.trim().is_empty() || self.name.len() > 100 {
            return refuse("name", "from 1 to 100 characters");
        }
        if !(1..=1_000_000_000).contains(&self.capacity_grams) {
            return refuse("capacity_grams", "from 1 to 1000000000");
        }
        if !(1..=1_000_000_000).contains(&self.capacity_cm3) {
            return refuse("capacity_cm3", "from 1 to 1000000000");
        }
        if !(0..DAY).contains(&self.shift_start) {
            return refuse("shift_start", "from 0 to 86399");
        }
        if self.shift_end <= self.shift_start || self.shift_end > DAY {
            return refuse("shift_end", "after shift_start and at most 86400");
        }
        if !(1..=1_000).contains(&self.stops_max) {
            return refuse("stops_max", "from 1 to 1000");
        }
        skills::check(&self.skills)?;
        if self.seconds_max.is_some_and(|most| !(1..=DAY).contains(&most)) {
            return refuse("seconds_max", "from 1 to 86400");
        }
        if self.metres_max.is_some_and(|most| !(1..=10_000_000).contains(&most)) {
            return refuse("metres_max", "from 1 to 10000000");
        }
        if !(0..=1_000_000_000_000).contains(&self.fixed_cost) {
            return refuse("fixed_cost", "from 0 to 1000000000000");
        }
        if !(0..=1_000_000).contains(&self.metre_cost) {
            return refuse("metre_cost", "from 0 to 1000000");
        }
        if !(0..=1_000_000).contains(&self.second_cost) {
            return refuse("second_cost", "from 0 to 1000000");
        }
        let is_rest = |rest: &Rest| {
            let Window { start, end } = rest.window;
            0 <= start && start <= end && end <= DAY && (1..=8 * 60 * 60).contains(&rest.seconds)
        };
        if self.rest.is_some_and(|rest| !is_rest(&rest)) {
            return refuse(
                "rest",
                "from 1 to 28800 seconds, in a window that starts before it ends",
            );
        }
        Ok(())
    }
}

/// One van's day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// Its id.
    pub id: RouteId,
    /// The plan it is part of.
    pub plan_id: PlanId,
    /// The version of that plan: each is newer than the last of its warehouse and day.
    pub plan_version: i32,
    /// Where it starts and ends.
    pub warehouse_id: WarehouseId,
    /// The van.
    pub vehicle_id: VehicleId,
    /// The van's name.
    pub vehicle_name: String,
    /// The day.
    pub date: NaiveDate,
    /// `planned`, `dispatched` or `superseded`.
    pub state: String,
    /// When it leaves, in seconds after midnight.
    pub departs_at: i32,
    /// When it is back.
    pub returns_at: i32,
    /// How far it drives, there and back.
    pub metres: i64,
    /// What it carries when it leaves.
    pub load_grams: i64,
    /// What it carries when it leaves.
    pub load_cm3: i64,
    /// How many stops it makes.
    pub stops: i64,
    /// How many of the first of them are loaded or driven to: they stay where they are.
    pub locked_stops: i32,
    /// Which distances it was planned with.
    pub distance_source: String,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
}

/// One stop of a route.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteStop {
    /// Its place in the route, from 1.
    pub position: i32,
    /// What is handed over.
    pub shipment_id: ShipmentId,
    /// Whose order that is.
    pub order_id: OrderId,
    /// The state of the shipment.
    pub state: String,
    /// Where it is.
    pub lat: f64,
    /// Where it is.
    pub lon: f64,
    /// From when it is taken in.
    pub window_start: i32,
    /// Until when.
    pub window_end: i32,
    /// When the van arrives, in seconds after midnight.
    pub arrives_at: i32,
    /// When the hand-over starts.
    pub starts_at: i32,
    /// When the van leaves again.
    pub leaves_at: i32,
    /// How far it is from the stop before, or from the warehouse.
    pub metres_from_previous: i64,
}

/// Which routes to list; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct RouteFilter {
    /// Of this warehouse.
    pub warehouse_id: Option<WarehouseId>,
    /// Of this day.
    pub date: Option<NaiveDate>,
    /// In this state; without it all but superseded ones.
    pub state: Option<String>,
    /// The last one of the page before: newest come first.
    pub before: Option<(DateTime<Utc>, RouteId)>,
    /// How many.
    pub limit: i64,
}

/// What a caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such warehouse, vehicle or route.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A value the table would refuse.
    #[error("{field} must be {allowed}")]
    OutOfBounds {
        /// Which field.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// Another vehicle of the warehouse has that name.
    #[error("the warehouse has another vehicle of that name")]
    NameTaken,
    /// Somebody changed it in between.
    #[error("it is at version {current} by now")]
    VersionChanged {
        /// The version it has now.
        current: i32,
    },
    /// What a vehicle can do does not change under its routes: retire it and add another.
    #[error("the vehicle has routes: retire it and add another one")]
    InUse,
    /// Only a planned route can be dispatched.
    #[error("the route is {state}, not planned")]
    NotPlanned {
        /// The state it is in.
        state: String,
    },
    /// What has left, or was cancelled, is not changed any more.
    #[error("the shipment is {state}")]
    OnItsWay {
        /// The state it is in.
        state: String,
    },
    /// A day that no search could make sense of.
    #[error("the day cannot be planned: {0}")]
    Malformed(#[from] problem::Malformed),
    /// A plan cannot be made once more as it was.
    #[error("the plan cannot be repeated: {0}")]
    Unrepeatable(&'static str),
    /// The checker found a plan wrong: a mistake of ours, and nothing was stored.
    #[error("the plan is unsound: {0}")]
    Unsound(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vehicle_out_of_bounds_is_refused_by_field() {
        let van = VehicleSpec {
            name: "van 1".into(),
            capacity_grams: 800_000,
            capacity_cm3: 6_000_000,
            shift_start: 7 * 3600,
            shift_end: 19 * 3600,
            stops_max: 60,
            ..VehicleSpec::default()
        };
        assert!(van.check().is_ok());
        let late = VehicleSpec {
            shift_end: van.shift_start,
            ..van
        };
        assert!(matches!(
            late.check(),
            Err(Error::OutOfBounds { field: "shift_end", .. })
        ));
    }
}
