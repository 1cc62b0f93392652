//! Reads a day: what is to be planned, with what, and from where.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{MOVE_COST_METRES, Previous, RoutesById, Seen, SeenVehicle, Snapshot};
use crate::ids::{PlanId, ShipmentId, VehicleId, WarehouseId};
use crate::routes::{
    Error, MOVES_PER_PLAN_MAX, RANGE_METRES_MAX, STOPS_PER_PLAN_MAX, VEHICLES_PER_PLAN_MAX,
    distance::{Haversine, Point},
    problem::{Load, Problem, Stop, Vehicle, Window},
    recipe::Recipe,
    road_matrix, skills, solver,
    store::{Day, rest, windows},
};

/// How much worse it is to leave out what is urgent: by clinical priority, 1 to 3.
const PRIORITY_WEIGHTS: [u32; 3] = [100, 10, 1];

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

pub(super) struct VehicleRow {
    pub(super) id: VehicleId,
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
pub(super) async fn previous_plan(
    conn: &mut PgConnection,
    (warehouse, date): Day,
) -> Result<Option<Previous>, sqlx::Error> {
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
pub(super) async fn lock_fleet(conn: &mut PgConnection, warehouse: WarehouseId) -> Result<(), sqlx::Error> {
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
pub(super) async fn fleet(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Vec<VehicleRow>, sqlx::Error> {
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
