//! Planning a warehouse's day, in two steps with no transaction between them: [`snapshot`] reads what is to be planned,
//! the solver computes, and [`publish`] stores the result if what was read is still so.
//!
//! Stops keep their place in line: those already planned come first, then the oldest, up to
//! [`STOPS_PER_PLAN_MAX`](super::STOPS_PER_PLAN_MAX). What the day cannot take moves to the next day that is not full,
//! and the plan remembers that it is full, so that new shipments go there at once. What no day could take stays, with
//! its reason; the reason carries the shipment's version, and only a change of that brings it before a planner again.
//! So every plan either places a shipment, moves it to a later day, or settles it: planning comes to an end.

use std::collections::{HashMap, HashSet};

use chrono::NaiveDate;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Error, MOVES_PER_PLAN_MAX, RANGE_METRES_MAX, STOPS_PER_PLAN_MAX, VEHICLES_PER_PLAN_MAX, checker,
    distance::{Haversine, Point, misplaced},
    problem::{Load, PlannedRoute, Problem, Reason, Solution, Stop, Vehicle, Window},
    road_matrix::{self, Cell, RoadMatrix},
    solver,
    store::{Day, StopColumns, first_open_day},
};
use crate::{
    cause::Cause,
    ids::{PlanId, RouteId, ShipmentId, VehicleId, WarehouseId},
};

/// The most shipments whose reasons a plan remembers.
const LEFT_OUT_MAX: usize = 1_000;

/// What using one more van costs, in metres of driving: so that two half-empty ones become one.
const VEHICLE_COST_METRES: i64 = 20_000;

/// A day as it was read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the routes start.
    pub warehouse_id: WarehouseId,
    /// The day.
    pub date: NaiveDate,
    /// What to solve.
    pub problem: Problem,
    /// How far it is where no road server says.
    pub source: Haversine,
    /// The depot, and the stops in the order of the problem's.
    points: Vec<Point>,
    /// What a road server says, and its row.
    roads: Option<(Uuid, RoadMatrix)>,
    is_approximate: bool,
    /// Of everything the solver is given: the same hash, the same plan.
    pub input_hash: [u8; 32],
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
        self.problem.matrices = vec![roads.matrix(&self.points, self.source)];
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
}

/// Reads what there is to plan; `None` when there is no such warehouse or the day is over. What the warehouse says of its
/// own roads stands above `source`.
pub async fn snapshot(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    source: Haversine,
) -> Result<Option<Snapshot>, sqlx::Error> {
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
    let rows = sqlx::query!(
        r#"select id, version, state, lat, lon, weight_grams, volume_cm3, window_start, window_end, service_seconds
           from shipments
           where warehouse_id = $1 and delivery_date = $2 and state in ('unplanned', 'planned')
             and not coalesce((unassigned ->> 'version')::int = version and unassigned ->> 'reason' <> 'planning_failed', false)
           order by state = 'planned' desc, created_at, id
           limit $3"#,
        warehouse.0,
        date,
        (STOPS_PER_PLAN_MAX + MOVES_PER_PLAN_MAX) as i64,
    )
    .fetch_all(conn)
    .await?;

    let mut hash = Sha256::new();
    let mut note = |numbers: &[i64]| numbers.iter().for_each(|number| hash.update(number.to_be_bytes()));
    note(&[depot.lat.to_bits() as i64, depot.lon.to_bits() as i64]);
    note(&[i64::from(source.road_percent), i64::from(source.metres_per_hour)]);
    for (seen, vehicle) in &vehicles {
        let (most, least) = seen.id.0.as_u64_pair();
        let Vehicle {
            capacity,
            shift,
            stops_max,
            available,
            ..
        } = vehicle;
        note(&[
            most as i64,
            least as i64,
            capacity.grams,
            capacity.cm3,
            i64::from(shift.start),
            i64::from(shift.end),
        ]);
        note(&[*stops_max as i64, i64::from(*available)]);
    }
    let mut points = vec![Point {
        lat: depot.lat,
        lon: depot.lon,
    }];
    let (mut stops, mut shipments, mut surplus) = (Vec::new(), Vec::new(), Vec::new());
    // Who has a place already keeps it against a newcomer; where nobody has one, or everybody, nothing is weighed.
    let is_planned = |state: &str| state == "planned";
    let is_mixed = rows.iter().any(|row| is_planned(&row.state)) && rows.iter().any(|row| !is_planned(&row.state));
    // By id, so that the order of the rows is no part of the input.
    let mut kept: Vec<_> = rows.iter().take(STOPS_PER_PLAN_MAX).collect();
    kept.sort_by_key(|row| row.id);
    for row in kept {
        let (most, least) = row.id.as_u64_pair();
        let window = Window {
            start: row.window_start,
            end: row.window_end,
        };
        note(&[
            most as i64,
            least as i64,
            row.lat.to_bits() as i64,
            row.lon.to_bits() as i64,
        ]);
        note(&[
            row.weight_grams,
            row.volume_cm3,
            i64::from(window.start),
            i64::from(window.end),
            i64::from(row.service_seconds),
        ]);
        points.push(Point {
            lat: row.lat,
            lon: row.lon,
        });
        let weight = if is_mixed && is_planned(&row.state) { 2 } else { 1 };
        note(&[i64::from(weight)]);
        stops.push(Stop {
            load: Load {
                grams: row.weight_grams,
                cm3: row.volume_cm3,
            },
            windows: vec![window],
            service: row.service_seconds,
            weight,
            ..Stop::default()
        });
        shipments.push(Seen {
            id: ShipmentId(row.id),
            version: row.version,
            is_planned: is_planned(&row.state),
        });
    }
    for row in rows.iter().skip(STOPS_PER_PLAN_MAX) {
        surplus.push(Seen {
            id: ShipmentId(row.id),
            version: row.version,
            is_planned: is_planned(&row.state),
        });
    }
    let (vehicles, fleet): (Vec<_>, Vec<_>) = vehicles.into_iter().unzip();
    let problem = Problem {
        range_metres: RANGE_METRES_MAX,
        ..Problem::of_one_depot(stops, fleet, source.matrix(&points))
    };
    let input_hash = hash.finalize().into();
    Ok(Some(Snapshot {
        warehouse_id: warehouse,
        date,
        problem,
        source,
        points,
        roads: None,
        is_approximate: false,
        input_hash,
        shipments,
        surplus,
        vehicles,
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
async fn fleet(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Vec<(SeenVehicle, Vehicle)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select v.id, v.version, v.name, v.capacity_grams, v.capacity_cm3, v.shift_start, v.shift_end, v.stops_max,
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
    .await?;
    let vehicles = rows.into_iter().map(|row| {
        let seen = SeenVehicle {
            id: VehicleId(row.id),
            version: row.version,
            name: row.name,
            is_available: row.is_available,
        };
        let vehicle = Vehicle {
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
            fixed_cost: VEHICLE_COST_METRES,
            ..Vehicle::default()
        };
        (seen, vehicle)
    });
    Ok(vehicles.collect())
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
    solution: &Solution,
    when_stale: WhenStale,
    cause: &Cause,
) -> Result<Published, Error> {
    let violations = checker::check(&snapshot.problem, &solution.routes, &solution.unassigned);
    if !violations.is_empty() {
        let lines: Vec<_> = violations.iter().take(10).map(ToString::to_string).collect();
        return Err(Error::Unsound(lines.join("; ")));
    }

    let day = (snapshot.warehouse_id, snapshot.date);
    let usable = usable_vehicles(conn, snapshot).await?;
    let unchanged = unchanged_shipments(conn, snapshot).await?;
    let is_fresh = |seen: &Seen| unchanged.contains(&seen.id);
    let is_stale = !snapshot.shipments.iter().all(is_fresh) || usable.len() < snapshot.vehicles.len();
    if is_stale && when_stale == WhenStale::Refuse {
        return Ok(Published::Stale);
    }
    let active = sqlx::query!(
        r#"select input_hash from route_plans where warehouse_id = $1 and date = $2 and active"#,
        day.0.0,
        day.1,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let is_empty = snapshot.shipments.is_empty() && snapshot.surplus.is_empty();
    let is_same = active
        .as_ref()
        .is_some_and(|active| active.input_hash == snapshot.input_hash);
    let all_planned = snapshot.shipments.iter().all(|seen| seen.is_planned);
    if !is_stale && snapshot.surplus.is_empty() && all_planned && (is_same || (is_empty && active.is_none())) {
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
    insert_plan(conn, snapshot, solution, (&summary, is_full, left_out), cause).await?;
    insert_routes(conn, snapshot, &summary, &routes).await?;
    settle(conn, snapshot, &placed, &impossible).await?;
    if let Some(later) = summary.moved_to {
        put_off(conn, &crowded, later).await?;
    }
    unplan_stranded(conn, day).await?;
    Ok(Published::Stored(summary))
}

/// The vehicles that are still as they were read, locked against changes.
async fn usable_vehicles(conn: &mut PgConnection, snapshot: &Snapshot) -> Result<HashSet<VehicleId>, sqlx::Error> {
    lock_fleet(conn, snapshot.warehouse_id).await?;
    let now: HashMap<_, _> = fleet(conn, (snapshot.warehouse_id, snapshot.date))
        .await?
        .into_iter()
        .map(|(seen, _)| (seen.id, seen))
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
    solution: &Solution,
    (summary, is_full, left_out): (&Summary, bool, Value),
    cause: &Cause,
) -> Result<(), sqlx::Error> {
    let matrix = snapshot.roads.as_ref().map(|(row, _)| *row);
    if let Some(row) = matrix {
        road_matrix::touch(conn, row).await?;
    }
    sqlx::query!(
        r#"insert into route_plans (id, warehouse_id, date, version, is_full, input_hash, seed, iterations, truncated,
                                    distance_source, metres, stops, unassigned, job_id, fence,
                                    matrix_id, approximate, left_out)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"#,
        summary.plan_id.0,
        snapshot.warehouse_id.0,
        snapshot.date,
        summary.version,
        is_full,
        &snapshot.input_hash,
        snapshot.seed() as i64,
        solution.iterations as i64,
        solution.truncated,
        snapshot.distance_source(),
        summary.metres,
        summary.stops as i32,
        (summary.impossible + summary.moved) as i32,
        cause.job_id(),
        cause.fence(),
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
    let rests = || {
        routes
            .iter()
            .map(|route| route.rest.zip(snapshot.problem.vehicles[route.vehicle].rest))
    };
    let rest_after: Vec<Option<i32>> = rests()
        .map(|rest| rest.map(|(rest, _)| rest.after_stops as i32))
        .collect();
    let rest_starts_at: Vec<Option<i32>> = rests().map(|rest| rest.map(|(rest, _)| rest.starts_at)).collect();
    let rest_seconds: Vec<Option<i32>> = rests().map(|rest| rest.map(|(_, rest)| rest.seconds)).collect();
    sqlx::query!(
        r#"insert into routes (id, plan_id, warehouse_id, vehicle_id, date, departs_at, returns_at, metres, load_grams, load_cm3,
                               rest_after, rest_starts_at, rest_seconds)
           select n.id, $1, $2, n.vehicle_id, $3, n.departs_at, n.returns_at, n.metres, n.grams, n.cm3,
                  n.rest_after, n.rest_starts_at, n.rest_seconds
           from unnest($4::uuid[], $5::uuid[], $6::int[], $7::int[], $8::bigint[], $9::bigint[], $10::bigint[],
                       $11::int[], $12::int[], $13::int[])
                as n (id, vehicle_id, departs_at, returns_at, metres, grams, cm3, rest_after, rest_starts_at, rest_seconds)"#,
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
        &rest_after as &[Option<i32>],
        &rest_starts_at as &[Option<i32>],
        &rest_seconds as &[Option<i32>],
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
