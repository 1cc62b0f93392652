//! Stores what a search has found, if what was read is still so.

use std::collections::{HashMap, HashSet};

use chrono::NaiveDate;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::checkpoints::forget_checkpoint;
use super::reading::{fleet, lock_fleet, previous_plan};
use super::{Previous, Seen, SeenVehicle, Snapshot};
use crate::routes::{
    Error, RANGE_METRES_MAX, STOPS_PER_PLAN_MAX, checker,
    distance::misplaced,
    problem::{PlannedRoute, Reason, Solution},
    recipe::Found,
    road_matrix, solver,
    store::{Day, StopColumns, first_open_day},
};
use crate::{
    cause::Cause,
    ids::{PlanId, RouteId, ShipmentId, VehicleId},
};

/// The most shipments whose reasons a plan remembers.
const LEFT_OUT_MAX: usize = 1_000;

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
pub(super) async fn put_off(
    conn: &mut PgConnection,
    crowded: &WithReason,
    later: NaiveDate,
) -> Result<(), sqlx::Error> {
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
