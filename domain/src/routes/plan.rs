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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::NaiveDate;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Error, MOVES_PER_PLAN_MAX, RANGE_METRES_MAX, STOPS_PER_PLAN_MAX, VEHICLES_PER_PLAN_MAX, checker,
    distance::{Haversine, Point, misplaced},
    problem::{Load, PlannedRoute, Problem, Reason, Solution, Stop, Vehicle, Window},
    recipe::{Found, Recipe},
    road_matrix::{self, Cell, RoadMatrix},
    skills,
    solver::{self, Routes},
    store::{Day, StopColumns, first_open_day, rest, windows},
};
use crate::{
    cause::Cause,
    ids::{PlanId, RouteId, ShipmentId, VehicleId, WarehouseId},
};

/// The most shipments whose reasons a plan remembers.
const LEFT_OUT_MAX: usize = 1_000;

/// What a shipment that has a van already costs on another one, in metres of driving: a better plan must be worth the
/// change to those who load and drive.
pub const MOVE_COST_METRES: i64 = 1_000;
/// How much worse it is to leave out what is urgent: by clinical priority, 1 to 3.
const PRIORITY_WEIGHTS: [u32; 3] = [100, 10, 1];

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

/// Reads what there is to plan; `None` when there is no such warehouse or the day is over. What the warehouse says of its
/// own roads stands above `source`.
pub async fn snapshot(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    source: Haversine,
) -> Result<Option<Snapshot>, Error> {
    let Some(depot) = sqlx::query!(
        r#"select lat, lon, road_factor, speed_kmh from warehouses where id = $1 and $2 >= (clock_timestamp() at time zone 'UTC')::date"#,
        warehouse.0,
        date,
    )
    .fetch_optional(&mut *conn)
    .await?
    else {
        return Ok(None);
    };
    let source = source.at_depot(depot.road_factor, depot.speed_kmh);
    let vehicles = fleet(conn, (warehouse, date)).await?;
    let mut shipments = sqlx::query_as!(
        ShipmentRow,
        r#"select id as "id: ShipmentId", version, state, lat, lon, weight_grams, volume_cm3, window_start, window_end,
                  later_windows, service_seconds, priority, skills
           from shipments
           where warehouse_id = $1 and delivery_date = $2 and state in ('unplanned', 'planned')
             and not coalesce((unassigned ->> 'version')::int = version and unassigned ->> 'reason' <> 'planning_failed', false)
           order by state = 'planned' desc, priority, created_at, id
           limit $3"#,
        warehouse.0,
        date,
        (STOPS_PER_PLAN_MAX + MOVES_PER_PLAN_MAX) as i64,
    )
    .fetch_all(&mut *conn)
    .await?;
    let surplus = shipments.split_off(shipments.len().min(STOPS_PER_PLAN_MAX));
    let day = DayRead {
        day: (warehouse, date),
        depot: Point {
            lat: depot.lat,
            lon: depot.lon,
        },
        vehicles,
        shipments,
        surplus,
        previous: previous_plan(conn, (warehouse, date)).await?,
    };
    day.put_as_numbers(source).map(Some)
}

/// A stored plan's input as it was when it was planned, and how it was found; refused where what it was made from is no
/// longer the same. A plan by road needs the ways it was made with, as long as they are kept, and for places that no server was
/// asked about the fleet's own `source`.
pub async fn as_planned(
    conn: &mut PgConnection,
    id: PlanId,
    source: Haversine,
) -> Result<(Snapshot, Recipe, u64), Error> {
    let plan = sqlx::query!(
        r#"select p.warehouse_id as "warehouse_id: WarehouseId", p.date, p.input_hash, p.distance_source, p.seed, p.iterations,
                  p.iterations_budget, p.iterations_before, p.move_cost, p.start, p.replaces as "replaces: PlanId",
                  p.shipment_ids, p.vehicle_ids, p.busy_vehicle_ids, p.matrix_id, w.lat, w.lon, w.road_factor, w.speed_kmh
           from route_plans p
           join warehouses w on w.id = p.warehouse_id
           where p.id = $1"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Error::NotFound("plan"))?;
    let unrepeatable = || Error::Unrepeatable("it was stored without what it was made from");
    let (shipment_ids, vehicle_ids) = (
        plan.shipment_ids.ok_or_else(unrepeatable)?,
        plan.vehicle_ids.ok_or_else(unrepeatable)?,
    );
    let busy = plan.busy_vehicle_ids.unwrap_or_default();
    let (source, roads) = match (plan.distance_source.parse::<Haversine>(), plan.matrix_id) {
        (Ok(source), _) => (source, None),
        (Err(_), Some(row)) => {
            let roads = road_matrix::get(conn, row).await?;
            let roads = roads.ok_or(Error::Unrepeatable("the ways it was made with are no longer kept"))?;
            (source.at_depot(plan.road_factor, plan.speed_kmh), Some(roads))
        }
        (Err(_), None) => return Err(Error::Unrepeatable("the ways it was made with are no longer kept")),
    };
    let shipments = sqlx::query_as!(
        ShipmentRow,
        r#"select id as "id: ShipmentId", version, state, lat, lon, weight_grams, volume_cm3, window_start, window_end,
                  later_windows, service_seconds, priority, skills
           from shipments where id = any($1)"#,
        &shipment_ids,
    )
    .fetch_all(&mut *conn)
    .await?;
    let vehicles = sqlx::query_as!(
        VehicleRow,
        r#"select id as "id: VehicleId", version, name, capacity_grams, capacity_cm3, shift_start, shift_end, stops_max,
                  skills, seconds_max, metres_max, fixed_cost, metre_cost, second_cost, rest_start, rest_end, rest_seconds,
                  id <> all($2) as "is_available!"
           from vehicles where id = any($1) order by id"#,
        &vehicle_ids,
        &busy,
    )
    .fetch_all(&mut *conn)
    .await?;
    let previous = match plan.replaces {
        Some(before) => read_plan(conn, before, "superseded").await?,
        None => None,
    };
    let day = DayRead {
        day: (plan.warehouse_id, plan.date),
        depot: Point {
            lat: plan.lat,
            lon: plan.lon,
        },
        vehicles,
        shipments,
        surplus: Vec::new(),
        previous,
    };
    let mut snapshot = day.put_as_numbers(source)?;
    if let Some((row, roads)) = roads {
        snapshot.drive_by(row, roads);
    }
    if snapshot.input_hash[..] != plan.input_hash[..] {
        return Err(Error::Unrepeatable("what it was made from has changed"));
    }
    Arc::make_mut(&mut snapshot.problem).move_cost = plan.move_cost.unwrap_or(0);
    let start: RoutesById = plan
        .start
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?
        .unwrap_or_default();
    let recipe = Recipe {
        seed: plan.seed as u64,
        iterations: plan.iterations_budget.unwrap_or(plan.iterations) as u64,
        before: plan.iterations_before.unwrap_or(0) as u64,
        start: snapshot.routes_from(&start),
    };
    Ok((snapshot, recipe, plan.iterations as u64))
}

struct ShipmentRow {
    id: ShipmentId,
    version: i32,
    state: String,
    lat: f64,
    lon: f64,
    weight_grams: i64,
    volume_cm3: i64,
    window_start: i32,
    window_end: i32,
    later_windows: Vec<i32>,
    service_seconds: i32,
    priority: i16,
    skills: Vec<String>,
}

impl ShipmentRow {
    fn seen(&self) -> Seen {
        Seen {
            id: self.id,
            version: self.version,
            is_planned: self.state == "planned",
        }
    }
}

struct VehicleRow {
    id: VehicleId,
    version: i32,
    name: String,
    capacity_grams: i64,
    capacity_cm3: i64,
    shift_start: i32,
    shift_end: i32,
    stops_max: i32,
    skills: Vec<String>,
    seconds_max: Option<i32>,
    metres_max: Option<i64>,
    fixed_cost: i64,
    metre_cost: i64,
    second_cost: i64,
    rest_start: Option<i32>,
    rest_end: Option<i32>,
    rest_seconds: Option<i32>,
    is_available: bool,
}

/// A day's rows.
struct DayRead {
    day: Day,
    depot: Point,
    /// By id.
    vehicles: Vec<VehicleRow>,
    shipments: Vec<ShipmentRow>,
    surplus: Vec<ShipmentRow>,
    previous: Option<Previous>,
}

impl DayRead {
    /// The problem that they are. Pure: nothing but the rows goes into it.
    fn put_as_numbers(mut self, source: Haversine) -> Result<Snapshot, Error> {
        // By id, so that the order of the rows is no part of the input.
        self.shipments.sort_by_key(|row| row.id);
        let names = skills::Names::of(
            self.shipments
                .iter()
                .flat_map(|row| &row.skills)
                .chain(self.vehicles.iter().flat_map(|row| &row.skills)),
        )?;
        let mut points = vec![self.depot];
        points.extend(self.shipments.iter().map(|row| Point {
            lat: row.lat,
            lon: row.lon,
        }));
        let stops = self.shipments.iter().map(|row| stop(row, &names)).collect();
        let vehicles = self.vehicles.iter().map(|row| vehicle(row, &names)).collect();
        let problem = Problem {
            range_metres: RANGE_METRES_MAX,
            move_cost: MOVE_COST_METRES,
            ..Problem::of_one_depot(stops, vehicles, source.matrix(&points))
        };
        problem.check()?;
        let mut snapshot = Snapshot {
            warehouse_id: self.day.0,
            date: self.day.1,
            problem: Arc::new(problem),
            source,
            points,
            roads: None,
            is_approximate: false,
            input_hash: [0; 32],
            shipments: self.shipments.iter().map(ShipmentRow::seen).collect(),
            surplus: self.surplus.iter().map(ShipmentRow::seen).collect(),
            vehicles: self.vehicles.iter().map(SeenVehicle::from).collect(),
            previous: None,
        };
        if let Some(previous) = self.previous {
            snapshot.lock(&previous);
            snapshot.input_hash = snapshot.hash();
            snapshot.prefer(&previous);
            snapshot.previous = Some(previous);
        } else {
            snapshot.input_hash = snapshot.hash();
        }
        Ok(snapshot)
    }
}

impl From<&VehicleRow> for SeenVehicle {
    fn from(row: &VehicleRow) -> SeenVehicle {
        SeenVehicle {
            id: row.id,
            version: row.version,
            name: row.name.clone(),
            is_available: row.is_available,
        }
    }
}

fn stop(row: &ShipmentRow, names: &skills::Names) -> Stop {
    Stop {
        load: Load {
            grams: row.weight_grams,
            cm3: row.volume_cm3,
        },
        windows: windows(row.window_start, row.window_end, &row.later_windows),
        service: row.service_seconds,
        weight: PRIORITY_WEIGHTS[(row.priority.clamp(1, 3) - 1) as usize],
        skills: names.bits(&row.skills),
        ..Stop::default()
    }
}

fn vehicle(row: &VehicleRow, names: &skills::Names) -> Vehicle {
    Vehicle {
        capacity: Load {
            grams: row.capacity_grams,
            cm3: row.capacity_cm3,
        },
        shift: Window {
            start: row.shift_start,
            end: row.shift_end,
        },
        stops_max: row.stops_max as usize,
        available: row.is_available,
        seconds_max: row.seconds_max.unwrap_or(i32::MAX),
        metres_max: row.metres_max.unwrap_or(i64::MAX),
        skills: names.bits(&row.skills),
        fixed_cost: row.fixed_cost,
        metre_cost: row.metre_cost,
        second_cost: row.second_cost,
        rest: rest(row.rest_start, row.rest_end, row.rest_seconds),
        ..Vehicle::default()
    }
}

impl Snapshot {
    /// What is loaded or driven to stays where it is, as far as that is still possible.
    fn lock(&mut self, previous: &Previous) {
        for ((id, stops), locked) in previous.routes.iter().zip(&previous.locked) {
            let one = vec![(*id, stops.clone())];
            let Some((vehicle, mut stops)) = self.routes_from(&one).pop() else {
                continue;
            };
            stops.truncate(*locked);
            while !stops.is_empty() && solver::timetable(&self.problem, vehicle, &stops).is_none() {
                tracing::warn!(vehicle.id = %id, "a locked stop cannot be kept: its vehicle could no longer serve it");
                stops.pop();
            }
            Arc::make_mut(&mut self.problem).vehicles[vehicle].locked = stops;
        }
    }

    /// Who has a van already keeps it if it costs little, and keeps a place against a newcomer of the same priority. Where
    /// nobody has one, or everybody, nothing is weighed.
    fn prefer(&mut self, previous: &Previous) {
        let problem = Arc::make_mut(&mut self.problem);
        let mut is_known = vec![false; self.shipments.len()];
        for (id, stops) in &previous.routes {
            let vehicle = self.vehicles.iter().position(|seen| seen.id == *id);
            for stop in stops {
                if let Ok(stop) = self.shipments.binary_search_by_key(stop, |seen| seen.id) {
                    is_known[stop] = true;
                    problem.stops[stop].was_on = vehicle;
                }
            }
        }
        if is_known.iter().any(|is_known| !is_known) {
            for (stop, _) in is_known.iter().enumerate().filter(|(_, is_known)| **is_known) {
                problem.stops[stop].weight *= 2;
            }
        }
    }

    /// Of everything that is to be planned, before anything is preferred.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut note = |numbers: &[i64]| numbers.iter().for_each(|number| hash.update(number.to_be_bytes()));
        let halves = |id: Uuid| {
            let (most, least) = id.as_u64_pair();
            [most as i64, least as i64]
        };
        let depot = self.depot();
        note(&[depot.lat.to_bits() as i64, depot.lon.to_bits() as i64]);
        note(&[
            i64::from(self.source.road_percent),
            i64::from(self.source.metres_per_hour),
        ]);
        for (seen, vehicle) in self.vehicles.iter().zip(&self.problem.vehicles) {
            note(&halves(seen.id.0));
            note(&[vehicle.capacity.grams, vehicle.capacity.cm3]);
            note(&[i64::from(vehicle.shift.start), i64::from(vehicle.shift.end)]);
            note(&[vehicle.stops_max as i64, i64::from(vehicle.available)]);
            note(&[
                i64::from(vehicle.seconds_max),
                vehicle.metres_max,
                vehicle.skills as i64,
            ]);
            note(&[vehicle.fixed_cost, vehicle.metre_cost, vehicle.second_cost]);
            let rest = vehicle.rest.map_or([-1; 3], |rest| {
                [rest.window.start, rest.window.end, rest.seconds].map(i64::from)
            });
            note(&rest);
            note(&[vehicle.locked.len() as i64]);
            vehicle.locked.iter().for_each(|stop| note(&[*stop as i64]));
        }
        for ((seen, stop), point) in self.shipments.iter().zip(&self.problem.stops).zip(&self.points[1..]) {
            note(&halves(seen.id.0));
            note(&[point.lat.to_bits() as i64, point.lon.to_bits() as i64]);
            note(&[stop.load.grams, stop.load.cm3, i64::from(stop.service)]);
            note(&[stop.windows.len() as i64, i64::from(stop.weight), stop.skills as i64]);
            for window in &stop.windows {
                note(&[i64::from(window.start), i64::from(window.end)]);
            }
        }
        hash.finalize().into()
    }
}

/// The plan that counts, and those of its routes that have not left.
async fn previous_plan(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Option<Previous>, sqlx::Error> {
    let active = sqlx::query_scalar!(
        r#"select id as "id: PlanId" from route_plans where warehouse_id = $1 and date = $2 and active"#,
        warehouse.0,
        date,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match active {
        Some(id) => read_plan(conn, id, "planned").await,
        None => Ok(None),
    }
}

/// A plan and its routes in one state: `planned` while it counts, `superseded` afterwards.
async fn read_plan(conn: &mut PgConnection, id: PlanId, state: &str) -> Result<Option<Previous>, sqlx::Error> {
    let Some(plan) = sqlx::query!("select input_hash, cost from route_plans where id = $1", id.0)
        .fetch_optional(&mut *conn)
        .await?
    else {
        return Ok(None);
    };
    let rows = sqlx::query!(
        r#"select r.vehicle_id as "vehicle_id: VehicleId", r.locked_stops,
                  array_agg(t.shipment_id order by t.position) as "stops!: Vec<ShipmentId>"
           from routes r
           join route_stops t on t.route_id = r.id
           where r.plan_id = $1 and r.state = $2 and (t.active or r.state = 'superseded')
           group by r.id
           order by r.vehicle_id"#,
        id.0,
        state,
    )
    .fetch_all(conn)
    .await?;
    let locked = rows.iter().map(|row| row.locked_stops as usize).collect();
    Ok(Some(Previous {
        id,
        input_hash: plan.input_hash,
        cost: plan.cost,
        routes: rows.into_iter().map(|row| (row.vehicle_id, row.stops)).collect(),
        locked,
    }))
}

/// Locks the vehicles of a warehouse against changes until the transaction ends.
async fn lock_fleet(conn: &mut PgConnection, warehouse: WarehouseId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"select v.id
           from vehicles v
           where v.warehouse_id = $1 and v.retired_at is null
           order by v.id
           limit $2
           for share of v"#,
        warehouse.0,
        VEHICLES_PER_PLAN_MAX as i64,
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// The vehicles of a warehouse and whether they are free that day.
async fn fleet(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Vec<VehicleRow>, sqlx::Error> {
    sqlx::query_as!(
        VehicleRow,
        r#"select v.id as "id: VehicleId", v.version, v.name, v.capacity_grams, v.capacity_cm3, v.shift_start, v.shift_end,
                  v.stops_max, v.skills, v.seconds_max, v.metres_max, v.fixed_cost, v.metre_cost, v.second_cost,
                  v.rest_start, v.rest_end, v.rest_seconds,
                  not exists (select from routes r where r.vehicle_id = v.id and r.date = $2 and r.state = 'dispatched')
                      as "is_available!"
           from vehicles v
           where v.warehouse_id = $1 and v.retired_at is null
           order by v.id
           limit $3"#,
        warehouse.0,
        date,
        VEHICLES_PER_PLAN_MAX as i64,
    )
    .fetch_all(conn)
    .await
}

/// What to do when shipments or vehicles have changed since they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStale {
    /// Write nothing; the caller reads and computes again.
    Refuse,
    /// Publish for those that have not changed; the rest is for another plan.
    PublishTheRest,
}

/// What came of publishing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// What was read has changed: nothing was written.
    Stale,
    /// The plan that counts is for the same input: nothing was written.
    Unchanged,
    /// A new version counts.
    Stored(Summary),
}

/// A plan in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// The plan.
    pub plan_id: PlanId,
    /// Its version.
    pub version: i32,
    /// How many vans drive.
    pub routes: usize,
    /// How many stops they make.
    pub stops: usize,
    /// How far they drive.
    pub metres: i64,
    /// How many shipments no van can take.
    pub impossible: usize,
    /// How many shipments moved to a later day.
    pub moved: usize,
    /// To which.
    pub moved_to: Option<NaiveDate>,
    /// How many shipments changed in between and wait for another plan.
    pub left_over: usize,
}

/// Stores a solution as the plan that counts. The transaction is the caller's: a fenced one.
pub async fn publish(
    conn: &mut PgConnection,
    snapshot: &Snapshot,
    found: &Found,
    when_stale: WhenStale,
    cause: &Cause,
) -> Result<Published, Error> {
    let solution = &found.solution;
    let violations = checker::check(&snapshot.problem, &solution.routes, &solution.unassigned);
    if !violations.is_empty() {
        let lines: Vec<_> = violations.iter().take(10).map(ToString::to_string).collect();
        return Err(Error::Unsound(lines.join("; ")));
    }

    let day = (snapshot.warehouse_id, snapshot.date);
    let usable = usable_vehicles(conn, snapshot).await?;
    let unchanged = unchanged_shipments(conn, snapshot).await?;
    let is_fresh = |seen: &Seen| unchanged.contains(&seen.id);
    let now = previous_plan(conn, day).await?;
    let is_stale = !snapshot.shipments.iter().all(is_fresh) || usable.len() < snapshot.vehicles.len();
    // What is loaded is never taken off by a plan that did not know it, whatever the round.
    let are_locks_known = Previous::locks(now.as_ref()) == Previous::locks(snapshot.previous.as_ref());
    let mut locked = snapshot.problem.vehicles.iter().flat_map(|vehicle| &vehicle.locked);
    let are_locks_fresh = locked.all(|stop| is_fresh(&snapshot.shipments[*stop]));
    if !are_locks_known || !are_locks_fresh || (is_stale && when_stale == WhenStale::Refuse) {
        return Ok(Published::Stale);
    }
    let cost = snapshot.cost(solution);
    let is_known = now.as_ref().map(|now| now.id) == snapshot.previous.as_ref().map(|seen| seen.id);
    let is_no_better = |before: i64| cost >= before;
    if !is_stale && is_known && snapshot.is_planned() && now.and_then(|now| now.cost).is_none_or(is_no_better) {
        forget_checkpoint(conn, day).await?;
        return Ok(Published::Unchanged);
    }

    let routes = routes_of(snapshot, solution, &usable, is_fresh);
    let placed: Vec<usize> = routes
        .iter()
        .flat_map(|route| &route.stops)
        .map(|stop| stop.stop)
        .collect();
    let (impossible, crowded) = unassigned_of(snapshot, solution, &unchanged);
    let before = supersede(conn, day).await?;
    // A full day stays full until it has fewer stops than it had: otherwise it would be filled and emptied for ever.
    let is_full = !crowded.is_empty()
        || placed.len() >= STOPS_PER_PLAN_MAX
        || before
            .as_ref()
            .is_some_and(|before| before.is_full && placed.len() >= before.stops as usize);
    let mut summary = Summary {
        plan_id: PlanId::new(),
        version: next_version(conn, day).await?,
        routes: routes.len(),
        stops: placed.len(),
        metres: routes.iter().map(|route| route.metres).sum(),
        impossible: impossible.len(),
        moved: crowded.len(),
        moved_to: None,
        left_over: left_over(snapshot, &placed, &impossible, &crowded),
    };
    if !crowded.is_empty() {
        summary.moved_to = Some(first_open_day(conn, day.0, day.1).await?);
    }
    let left_out = left_out(&impossible, &crowded, summary.moved_to);
    insert_plan(conn, snapshot, (found, cost), (&summary, is_full, left_out), cause).await?;
    insert_routes(conn, snapshot, &summary, &routes).await?;
    settle(conn, snapshot, &placed, &impossible).await?;
    if let Some(later) = summary.moved_to {
        put_off(conn, &crowded, later).await?;
    }
    unplan_stranded(conn, day).await?;
    forget_checkpoint(conn, day).await?;
    Ok(Published::Stored(summary))
}

/// The vehicles that are still as they were read, locked against changes.
async fn usable_vehicles(conn: &mut PgConnection, snapshot: &Snapshot) -> Result<HashSet<VehicleId>, sqlx::Error> {
    lock_fleet(conn, snapshot.warehouse_id).await?;
    let now: HashMap<_, _> = fleet(conn, (snapshot.warehouse_id, snapshot.date))
        .await?
        .iter()
        .map(|row| (row.id, SeenVehicle::from(row)))
        .collect();
    Ok(snapshot
        .vehicles
        .iter()
        .filter(|seen| now.get(&seen.id) == Some(seen))
        .map(|seen| seen.id)
        .collect())
}

/// The shipments that are still as they were read, locked.
async fn unchanged_shipments(conn: &mut PgConnection, snapshot: &Snapshot) -> Result<HashSet<ShipmentId>, sqlx::Error> {
    let seen: HashMap<Uuid, i32> = snapshot
        .shipments
        .iter()
        .chain(&snapshot.surplus)
        .map(|seen| (seen.id.0, seen.version))
        .collect();
    let ids: Vec<Uuid> = seen.keys().copied().collect();
    let now = sqlx::query!(
        "select id, version from shipments where id = any($1) order by id for update",
        &ids
    )
    .fetch_all(conn)
    .await?;
    Ok(now
        .into_iter()
        .filter(|row| seen.get(&row.id) == Some(&row.version))
        .map(|row| ShipmentId(row.id))
        .collect())
}

/// The solution's routes, without stops and vehicles that have changed.
fn routes_of(
    snapshot: &Snapshot,
    solution: &Solution,
    usable: &HashSet<VehicleId>,
    is_fresh: impl Fn(&Seen) -> bool,
) -> Vec<PlannedRoute> {
    let is_usable = |route: &&PlannedRoute| usable.contains(&snapshot.vehicles[route.vehicle].id);
    let rest = |route: &PlannedRoute| {
        let stops: Vec<usize> = route
            .stops
            .iter()
            .map(|stop| stop.stop)
            .filter(|stop| is_fresh(&snapshot.shipments[*stop]))
            .collect();
        if stops.len() == route.stops.len() {
            return Some(route.clone());
        }
        let shorter = solver::timetable(&snapshot.problem, route.vehicle, &stops)?;
        checker::check_route(&snapshot.problem, &shorter)
            .is_empty()
            .then_some(shorter)
    };
    solution.routes.iter().filter(is_usable).filter_map(rest).collect()
}

type WithReason = Vec<(ShipmentId, Value)>;

/// Who is on no route though nothing changed: those that no day could take, and those that only this day cannot.
fn unassigned_of(
    snapshot: &Snapshot,
    solution: &Solution,
    unchanged: &HashSet<ShipmentId>,
) -> (WithReason, WithReason) {
    let explain = |reason: &Reason| {
        let mut words = serde_json::to_value(reason).unwrap_or_else(|_| json!({"reason": "unknown"}));
        if let Some(vehicle) = words.get("vehicle").and_then(Value::as_u64) {
            words["vehicle"] = json!(snapshot.vehicles[vehicle as usize].name);
        }
        words
    };
    // Whoever typed the place is told which part of it cannot be right.
    let point_out = |stop: usize, mut words: Value| {
        let point = snapshot.points[stop + 1];
        if let Some(misplaced) = misplaced(snapshot.depot(), point, RANGE_METRES_MAX) {
            words["field"] = json!(misplaced.field());
            words["problem"] = json!(misplaced.to_string());
        }
        words
    };
    let (mut impossible, mut crowded) = (Vec::new(), Vec::new());
    for (stop, reason) in &solution.unassigned {
        let seen = &snapshot.shipments[*stop];
        if unchanged.contains(&seen.id) {
            let settled = if reason.is_final() {
                &mut impossible
            } else {
                &mut crowded
            };
            settled.push((seen.id, point_out(*stop, explain(reason))));
        }
    }
    let surplus = snapshot.surplus.iter().filter(|seen| unchanged.contains(&seen.id));
    // A warehouse without vehicles is full on no day.
    match snapshot.vehicles.is_empty() {
        true => impossible.extend(surplus.map(|seen| (seen.id, explain(&Reason::NoVehicles)))),
        false => crowded.extend(surplus.map(|seen| (seen.id, explain(&Reason::DayFull)))),
    }
    (impossible, crowded)
}

/// What a plan remembers of those on none of its routes: the shipments move on, and their reasons with them.
fn left_out(impossible: &WithReason, crowded: &WithReason, moved_to: Option<NaiveDate>) -> Value {
    let line = |(id, reason): &(ShipmentId, Value), moved_to: Option<NaiveDate>| {
        let mut line = reason.clone();
        line["shipment_id"] = json!(id);
        if let Some(date) = moved_to {
            line["moved_to"] = json!(date);
        }
        line
    };
    let impossible = impossible.iter().map(|left| line(left, None));
    let crowded = crowded.iter().map(|left| line(left, moved_to));
    impossible.chain(crowded).take(LEFT_OUT_MAX).collect()
}

/// How many shipments this plan says nothing about, because they or their vehicle changed.
fn left_over(snapshot: &Snapshot, placed: &[usize], impossible: &WithReason, crowded: &WithReason) -> usize {
    let settled: HashSet<ShipmentId> = placed
        .iter()
        .map(|stop| snapshot.shipments[*stop].id)
        .chain(impossible.iter().chain(crowded).map(|(id, _)| *id))
        .collect();
    snapshot
        .shipments
        .iter()
        .filter(|seen| !settled.contains(&seen.id))
        .count()
}

struct Before {
    is_full: bool,
    stops: i32,
}

/// The plan before this one no longer counts, nor do its routes, but for those that are on their way.
async fn supersede(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Option<Before>, sqlx::Error> {
    let routes = sqlx::query_scalar!(
        "select id from routes where warehouse_id = $1 and date = $2 and state = 'planned' order by id for update",
        warehouse.0,
        date,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!("update routes set state = 'superseded' where id = any($1)", &routes)
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "update route_stops set active = false where route_id = any($1) and active",
        &routes
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_as!(
        Before,
        "update route_plans set active = false where warehouse_id = $1 and date = $2 and active returning is_full, stops",
        warehouse.0,
        date,
    )
    .fetch_optional(conn)
    .await
}

async fn next_version(conn: &mut PgConnection, (warehouse, date): Day) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(max(version), 0) + 1 as "version!" from route_plans where warehouse_id = $1 and date = $2"#,
        warehouse.0,
        date,
    )
    .fetch_one(conn)
    .await
}

async fn insert_plan(
    conn: &mut PgConnection,
    snapshot: &Snapshot,
    (Found { recipe, solution }, cost): (&Found, i64),
    (summary, is_full, left_out): (&Summary, bool, Value),
    cause: &Cause,
) -> Result<(), sqlx::Error> {
    let matrix = snapshot.roads.as_ref().map(|(row, _)| *row);
    if let Some(row) = matrix {
        road_matrix::touch(conn, row).await?;
    }
    let start = snapshot.routes_by_id(&recipe.start);
    let shipments: Vec<Uuid> = snapshot.shipments.iter().map(|seen| seen.id.0).collect();
    let vehicles: Vec<Uuid> = snapshot.vehicles.iter().map(|seen| seen.id.0).collect();
    let is_busy = |seen: &&SeenVehicle| !seen.is_available;
    let busy: Vec<Uuid> = snapshot.vehicles.iter().filter(is_busy).map(|seen| seen.id.0).collect();
    sqlx::query!(
        r#"insert into route_plans (id, warehouse_id, date, version, is_full, input_hash, seed, iterations, truncated,
                                    distance_source, metres, stops, unassigned, job_id, fence, cost, iterations_budget,
                                    iterations_before, move_cost, start, replaces, shipment_ids, vehicle_ids, busy_vehicle_ids,
                                    matrix_id, approximate, left_out)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
                   $25, $26, $27)"#,
        summary.plan_id.0,
        snapshot.warehouse_id.0,
        snapshot.date,
        summary.version,
        is_full,
        &snapshot.input_hash,
        recipe.seed as i64,
        solution.iterations as i64,
        solution.truncated,
        snapshot.distance_source(),
        summary.metres,
        summary.stops as i32,
        (summary.impossible + summary.moved) as i32,
        cause.job_id(),
        cause.fence(),
        cost,
        recipe.iterations as i64,
        recipe.before as i64,
        snapshot.problem.move_cost,
        (!start.is_empty()).then(|| json!(start)),
        snapshot.previous.as_ref().map(|previous| previous.id.0),
        &shipments,
        &vehicles,
        &busy,
        matrix,
        snapshot.is_approximate,
        left_out,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_routes(
    conn: &mut PgConnection,
    snapshot: &Snapshot,
    summary: &Summary,
    routes: &[PlannedRoute],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = routes.iter().map(|_| RouteId::new().0).collect();
    let vehicles: Vec<Uuid> = routes
        .iter()
        .map(|route| snapshot.vehicles[route.vehicle].id.0)
        .collect();
    let departs_at: Vec<i32> = routes.iter().map(|route| route.departs_at).collect();
    let returns_at: Vec<i32> = routes.iter().map(|route| route.returns_at).collect();
    let metres: Vec<i64> = routes.iter().map(|route| route.metres).collect();
    let grams: Vec<i64> = routes.iter().map(|route| route.load.grams).collect();
    let cm3: Vec<i64> = routes.iter().map(|route| route.load.cm3).collect();
    let locked_of = |route: &PlannedRoute| snapshot.problem.vehicles[route.vehicle].locked.len() as i32;
    let locked: Vec<i32> = routes.iter().map(locked_of).collect();
    let rests = || routes.iter().map(|route| route.rest);
    let rest_after_stops: Vec<Option<i32>> = rests().map(|rest| Some(rest?.after_stops as i32)).collect();
    let rest_starts_at: Vec<Option<i32>> = rests().map(|rest| Some(rest?.starts_at)).collect();
    sqlx::query!(
        r#"insert into routes (id, plan_id, warehouse_id, vehicle_id, date, departs_at, returns_at, metres, load_grams, load_cm3,
                               locked_stops, rest_after_stops, rest_starts_at)
           select n.id, $1, $2, n.vehicle_id, $3, n.departs_at, n.returns_at, n.metres, n.grams, n.cm3,
                  n.locked_stops, n.rest_after_stops, n.rest_starts_at
           from unnest($4::uuid[], $5::uuid[], $6::int[], $7::int[], $8::bigint[], $9::bigint[], $10::bigint[], $11::int[],
                       $12::int[], $13::int[])
                as n (id, vehicle_id, departs_at, returns_at, metres, grams, cm3, locked_stops, rest_after_stops,
                      rest_starts_at)"#,
        summary.plan_id.0,
        snapshot.warehouse_id.0,
        snapshot.date,
        &ids,
        &vehicles,
        &departs_at,
        &returns_at,
        &metres,
        &grams,
        &cm3,
        &locked,
        &rest_after_stops as &[Option<i32>],
        &rest_starts_at as &[Option<i32>],
    )
    .execute(&mut *conn)
    .await?;

    let (mut of_routes, mut positions, mut shipments) = (Vec::new(), Vec::new(), Vec::new());
    for (id, route) in ids.iter().zip(routes) {
        for (stop, position) in route.stops.iter().zip(1_i32..) {
            of_routes.push(*id);
            positions.push(position);
            shipments.push(snapshot.shipments[stop.stop].id.0);
        }
    }
    let columns = StopColumns::of(routes.iter().flat_map(|route| &route.stops));
    sqlx::query!(
        r#"insert into route_stops (route_id, position, shipment_id, arrives_at, starts_at, leaves_at, metres_from_previous)
           select * from unnest($1::uuid[], $2::int[], $3::uuid[], $4::int[], $5::int[], $6::int[], $7::bigint[])"#,
        &of_routes,
        &positions,
        &shipments,
        &columns.arrives_at,
        &columns.starts_at,
        &columns.leaves_at,
        &columns.metres,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes to the shipments what became of them: on a route, or on none for good.
async fn settle(
    conn: &mut PgConnection,
    snapshot: &Snapshot,
    placed: &[usize],
    impossible: &WithReason,
) -> Result<(), sqlx::Error> {
    let placed: Vec<Uuid> = placed.iter().map(|stop| snapshot.shipments[*stop].id.0).collect();
    sqlx::query!(
        r#"update shipments
           set state = 'planned', unassigned = null, version = version + 1, updated_at = clock_timestamp()
           where id = any($1) and state = 'unplanned'"#,
        &placed,
    )
    .execute(&mut *conn)
    .await?;
    let (ids, reasons): (Vec<Uuid>, Vec<Value>) = impossible.iter().map(|(id, reason)| (id.0, reason.clone())).unzip();
    sqlx::query!(
        r#"update shipments s
           set state = 'unplanned', version = s.version + 1, updated_at = clock_timestamp(),
               unassigned = n.reason || jsonb_build_object('version', s.version + 1)
           from unnest($1::uuid[], $2::jsonb[]) as n (id, reason)
           where s.id = n.id"#,
        &ids,
        &reasons,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves shipments to a later day, and says on them why.
async fn put_off(conn: &mut PgConnection, crowded: &WithReason, later: NaiveDate) -> Result<(), sqlx::Error> {
    let (ids, reasons): (Vec<Uuid>, Vec<Value>) = crowded.iter().map(|(id, reason)| (id.0, reason.clone())).unzip();
    sqlx::query!(
        r#"update shipments s
           set state = 'unplanned', version = s.version + 1, updated_at = clock_timestamp(), delivery_date = $3,
               unassigned = n.reason || jsonb_build_object('moved_from', s.delivery_date)
           from unnest($1::uuid[], $2::jsonb[]) as n (id, reason)
           where s.id = n.id"#,
        &ids,
        &reasons,
        later,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whoever was on a superseded route and is on no new one is unplanned again.
async fn unplan_stranded(conn: &mut PgConnection, (warehouse, date): Day) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"with stranded as (
               select s.id from shipments s
               where s.warehouse_id = $1 and s.delivery_date = $2 and s.state = 'planned'
                 and not exists (select from route_stops t where t.shipment_id = s.id and t.active)
               order by s.id for update
           )
           update shipments s set state = 'unplanned', version = s.version + 1, updated_at = clock_timestamp()
           from stranded
           where s.id = stranded.id"#,
        warehouse.0,
        date,
    )
    .execute(conn)
    .await?;
    Ok(())
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

/// The best a search under way has come to, for the attempt after this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The rounds made, of all.
    pub iterations: u64,
    /// How many the whole search is to make.
    pub iterations_budget: u64,
    /// What the best routes cost.
    pub cost: i64,
    /// The best routes.
    pub routes: RoutesById,
    /// What they are for.
    input_hash: Vec<u8>,
}

impl Checkpoint {
    /// Of the search for a snapshot.
    pub fn of(snapshot: &Snapshot, iterations: u64, iterations_budget: u64, cost: i64, routes: &Routes) -> Checkpoint {
        Checkpoint {
            iterations,
            iterations_budget,
            cost,
            routes: snapshot.routes_by_id(routes),
            input_hash: snapshot.input_hash.to_vec(),
        }
    }

    /// Whether it is of a search for just this.
    pub fn is_for(&self, snapshot: &Snapshot) -> bool {
        self.input_hash == snapshot.input_hash
    }
}

/// Keeps a checkpoint of a job's search. The transaction is the caller's: a fenced one.
pub async fn keep_checkpoint(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    checkpoint: &Checkpoint,
    cause: &Cause,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"insert into route_checkpoints (warehouse_id, date, job_id, fence, input_hash, iterations, iterations_budget, cost, routes)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
           on conflict (warehouse_id, date) do update
           set job_id = excluded.job_id, fence = excluded.fence, input_hash = excluded.input_hash,
               iterations = excluded.iterations, iterations_budget = excluded.iterations_budget, cost = excluded.cost,
               routes = excluded.routes, at = excluded.at"#,
        warehouse.0,
        date,
        cause.job_id().unwrap_or(0),
        cause.fence().unwrap_or(0),
        &checkpoint.input_hash,
        checkpoint.iterations as i64,
        checkpoint.iterations_budget as i64,
        checkpoint.cost,
        json!(checkpoint.routes),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What an earlier attempt of this job has kept.
pub async fn checkpoint(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    cause: &Cause,
) -> Result<Option<Checkpoint>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select input_hash, iterations, iterations_budget, cost, routes from route_checkpoints
           where warehouse_id = $1 and date = $2 and job_id = $3"#,
        warehouse.0,
        date,
        cause.job_id(),
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Checkpoint {
            iterations: row.iterations as u64,
            iterations_budget: row.iterations_budget as u64,
            cost: row.cost,
            routes: serde_json::from_value(row.routes).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            input_hash: row.input_hash,
        })
    })
    .transpose()
}

/// The search is over, or given up.
async fn forget_checkpoint(conn: &mut PgConnection, (warehouse, date): Day) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from route_checkpoints where warehouse_id = $1 and date = $2",
        warehouse.0,
        date,
    )
    .execute(conn)
    .await?;
    Ok(())
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
