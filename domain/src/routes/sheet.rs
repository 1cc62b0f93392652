//! A plan as people look at it: its routes with their stops, whose they are, and who is on none, and why. What draws and
//! prints it (`geojson`, `polyline`, `map`, `gantt`, `list`) is a function of a [`Sheet`] alone.
//!
//! The sheet of the plan that counts also has the routes that left by an earlier plan of the same day: they are on the road.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Error, Window, markup,
    problem::Load,
    store::{Day, active_plan},
};
use crate::ids::{OrderId, PlanId, RouteId, ShipmentId, VehicleId, WarehouseId};

/// A plan of one warehouse's day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// Where its routes start.
    pub warehouse_id: WarehouseId,
    /// The warehouse's short name.
    pub warehouse_code: String,
    /// The day.
    pub date: NaiveDate,
    /// Each is newer than the last of its warehouse and day.
    pub version: i32,
    /// Whether it is the one that counts.
    pub active: bool,
    /// Whether the fleet could not take everything: later shipments go to a later day.
    pub is_full: bool,
    /// Whether the search was stopped before its budget was used up.
    pub truncated: bool,
    /// Which distances it was made with.
    pub distance_source: String,
    /// Whether a road server is set and did not answer, so that the distances are straight lines made longer.
    pub approximate: bool,
    /// Rounds of the search.
    pub iterations: i64,
    /// How far its vans drive.
    pub metres: i64,
    /// How many stops they make.
    pub stops: i32,
    /// How many shipments are on none of its routes.
    pub unassigned: i32,
    /// The job that made it.
    pub job_id: Option<i64>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A plan, drawn up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sheet {
    /// The plan.
    pub plan: Plan,
    /// Where its routes start and end.
    pub depot: Depot,
    /// By the vehicles' names.
    pub routes: Vec<Tour>,
    /// Who is on no route: the first thousand.
    pub left_out: Vec<LeftOut>,
}

/// Where routes start and end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Depot {
    /// Its short name.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub lat: f64,
    /// Where it is.
    pub lon: f64,
}

/// One van's day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tour {
    /// The route.
    pub route_id: RouteId,
    /// The van.
    pub vehicle_id: VehicleId,
    /// The van's name.
    pub vehicle: String,
    /// What it is drawn in, as `#rrggbb`.
    pub colour: String,
    /// `planned`, `dispatched` or `superseded`.
    pub state: String,
    /// When it leaves, in seconds after midnight.
    pub departs_at: i32,
    /// When it is back.
    pub returns_at: i32,
    /// How far it drives, there and back.
    pub metres: i64,
    /// What it carries when it leaves.
    pub load: Load,
    /// What it could carry.
    pub capacity: Load,
    /// When its driver rests.
    pub rest: Option<Rest>,
    /// Its stops, in order.
    pub stops: Vec<Call>,
}

/// A driver's rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rest {
    /// After so many stops: where the next one is, or the last.
    pub after_stops: usize,
    /// When it starts.
    pub starts_at: i32,
    /// How long it is.
    pub seconds: i32,
}

/// One stop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Call {
    /// Its number on the route, from 1.
    pub seq: usize,
    /// What is handed over.
    pub shipment_id: ShipmentId,
    /// Whose order that is.
    pub order_id: OrderId,
    /// What the customer calls the order.
    pub reference: Option<String>,
    /// The state of the shipment.
    pub state: String,
    /// Whom it is for.
    pub customer: String,
    /// Where they say it is.
    pub address: String,
    /// Where it is.
    pub lat: f64,
    /// Where it is.
    pub lon: f64,
    /// What is handed over.
    pub load: Load,
    /// When it is taken in.
    pub window: Window,
    /// When the van arrives, in seconds after midnight.
    pub arrives_at: i32,
    /// When the hand-over starts.
    pub starts_at: i32,
    /// When the van leaves again.
    pub leaves_at: i32,
    /// How far it is from the stop before, or from the depot.
    pub metres_from_previous: i64,
}

/// A shipment that is on no route.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftOut {
    /// The shipment.
    pub shipment_id: ShipmentId,
    /// Whose order it is.
    pub order_id: OrderId,
    /// What the customer calls the order.
    pub reference: Option<String>,
    /// Whom it is for.
    pub customer: String,
    /// Where it is.
    pub lat: f64,
    /// Where it is.
    pub lon: f64,
    /// The reason's name.
    pub reason: String,
    /// The reason in words, with the nearest miss.
    pub why: String,
    /// The field that cannot be right, where it is one.
    pub field: Option<String>,
    /// The day it was moved to, if it was.
    pub moved_to: Option<NaiveDate>,
}

/// Which plans to list; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct PlanFilter {
    /// Of this warehouse.
    pub warehouse_id: Option<WarehouseId>,
    /// For this day.
    pub date: Option<NaiveDate>,
    /// Only those that count, or only those that do not any more.
    pub active: Option<bool>,
    /// The last one of the page before: newest come first.
    pub before: Option<(DateTime<Utc>, PlanId)>,
    /// How many.
    pub limit: i64,
}

/// Plans, newest first.
pub async fn plans(conn: &mut PgConnection, filter: &PlanFilter) -> Result<Vec<Plan>, sqlx::Error> {
    let (before_at, before_id) = filter.before.map(|(at, id)| (at, id.0)).unzip();
    sqlx::query_as!(
        Plan,
        r#"select p.id as "id: _", p.warehouse_id as "warehouse_id: _", w.code as warehouse_code, p.date, p.version, p.active,
                  p.is_full, p.truncated, p.distance_source, p.approximate, p.iterations, p.metres, p.stops, p.unassigned,
                  p.job_id, p.created_at
           from route_plans p
           join warehouses w on w.id = p.warehouse_id
           where ($1::uuid is null or p.warehouse_id = $1)
             and ($2::date is null or p.date = $2)
             and ($3::boolean is null or p.active = $3)
             and ($4::timestamptz is null or (p.created_at, p.id) < ($4, $5))
           order by p.created_at desc, p.id desc
           limit $6"#,
        filter.warehouse_id.map(|id| id.0),
        filter.date,
        filter.active,
        before_at,
        before_id,
        filter.limit,
    )
    .fetch_all(conn)
    .await
}

/// The sheet of the plan of a day that counts, if it has one.
pub async fn of_day(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Option<Sheet>, sqlx::Error> {
    match active_plan(conn, warehouse, date).await? {
        Some((plan, _)) => of_plan(conn, plan).await,
        None => Ok(None),
    }
}

/// The sheet of a plan.
pub async fn of_plan(conn: &mut PgConnection, id: PlanId) -> Result<Option<Sheet>, sqlx::Error> {
    let Some((plan, depot, left_out)) = head(conn, id).await? else {
        return Ok(None);
    };
    let routes = sqlx::query_scalar!(
        r#"select r.id from routes r
           join route_plans p on p.id = $1
           where case when p.active
                      then r.warehouse_id = p.warehouse_id and r.date = p.date
                           and ((r.plan_id = p.id and r.state <> 'superseded') or r.state = 'dispatched')
                      else r.plan_id = p.id end"#,
        id.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(Some(Sheet {
        routes: tours(conn, &routes).await?,
        left_out: people(conn, left_out).await?,
        plan,
        depot,
    }))
}

/// A sheet with one route of a plan.
pub async fn of_route(conn: &mut PgConnection, id: RouteId) -> Result<Option<Sheet>, sqlx::Error> {
    let plan = sqlx::query_scalar!(r#"select plan_id as "plan_id: PlanId" from routes where id = $1"#, id.0)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(plan) = plan else { return Ok(None) };
    let Some((plan, depot, _)) = head(conn, plan).await? else {
        return Ok(None);
    };
    Ok(Some(Sheet {
        routes: tours(conn, &[id.0]).await?,
        left_out: Vec::new(),
        plan,
        depot,
    }))
}

async fn head(conn: &mut PgConnection, id: PlanId) -> Result<Option<(Plan, Depot, Value)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select p.warehouse_id as "warehouse_id: WarehouseId", w.code, w.name, w.lat, w.lon, p.date, p.version, p.active,
                  p.is_full, p.truncated, p.distance_source, p.approximate, p.iterations, p.metres, p.stops, p.unassigned,
                  p.left_out, p.job_id, p.created_at
           from route_plans p
           join warehouses w on w.id = p.warehouse_id
           where p.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let plan = Plan {
            id,
            warehouse_id: row.warehouse_id,
            warehouse_code: row.code.clone(),
            date: row.date,
            version: row.version,
            active: row.active,
            is_full: row.is_full,
            truncated: row.truncated,
            distance_source: row.distance_source,
            approximate: row.approximate,
            iterations: row.iterations,
            metres: row.metres,
            stops: row.stops,
            unassigned: row.unassigned,
            job_id: row.job_id,
            created_at: row.created_at,
        };
        let depot = Depot {
            code: row.code,
            name: row.name,
            lat: row.lat,
            lon: row.lon,
        };
        (plan, depot, row.left_out)
    }))
}

async fn tours(conn: &mut PgConnection, routes: &[Uuid]) -> Result<Vec<Tour>, sqlx::Error> {
    let mut calls: HashMap<Uuid, Vec<Call>> = HashMap::new();
    let rows = sqlx::query!(
        r#"select t.route_id, t.shipment_id as "shipment_id: ShipmentId", s.order_id as "order_id: OrderId", o.reference,
                  s.state, c.name as customer, c.address, s.lat, s.lon, s.weight_grams, s.volume_cm3, s.window_start,
                  s.window_end, t.arrives_at, t.starts_at, t.leaves_at, t.metres_from_previous
           from route_stops t
           join routes r on r.id = t.route_id
           join shipments s on s.id = t.shipment_id
           join orders o on o.id = s.order_id
           join customers c on c.id = o.customer_id
           where t.route_id = any($1) and (t.active or r.state = 'superseded')
           order by t.route_id, t.position"#,
        routes,
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        let calls = calls.entry(row.route_id).or_default();
        calls.push(Call {
            seq: calls.len() + 1,
            shipment_id: row.shipment_id,
            order_id: row.order_id,
            reference: row.reference,
            state: row.state,
            customer: row.customer,
            address: row.address,
            lat: row.lat,
            lon: row.lon,
            load: Load {
                grams: row.weight_grams,
                cm3: row.volume_cm3,
            },
            window: Window {
                start: row.window_start,
                end: row.window_end,
            },
            arrives_at: row.arrives_at,
            starts_at: row.starts_at,
            leaves_at: row.leaves_at,
            metres_from_previous: row.metres_from_previous,
        });
    }
    let rows = sqlx::query!(
        r#"select r.id as "id: RouteId", r.vehicle_id as "vehicle_id: VehicleId", v.name, r.state, r.departs_at, r.returns_at,
                  r.metres, r.load_grams, r.load_cm3, v.capacity_grams, v.capacity_cm3, r.rest_after_stops,
                  r.rest_starts_at, v.rest_seconds
           from routes r
           join vehicles v on v.id = r.vehicle_id
           where r.id = any($1)"#,
        routes,
    )
    .fetch_all(conn)
    .await?;
    let tours = rows.into_iter().map(|row| Tour {
        route_id: row.id,
        vehicle_id: row.vehicle_id,
        vehicle: row.name,
        colour: String::new(),
        state: row.state,
        departs_at: row.departs_at,
        returns_at: row.returns_at,
        metres: row.metres,
        load: Load {
            grams: row.load_grams,
            cm3: row.load_cm3,
        },
        capacity: Load {
            grams: row.capacity_grams,
            cm3: row.capacity_cm3,
        },
        rest: row.rest_after_stops.zip(row.rest_starts_at).zip(row.rest_seconds).map(
            |((after_stops, starts_at), seconds)| Rest {
                after_stops: after_stops as usize,
                starts_at,
                seconds,
            },
        ),
        stops: calls.remove(&row.id.0).unwrap_or_default(),
    });
    let mut tours: Vec<Tour> = tours.collect();
    tours.sort_by(|one, other| by_number(&one.vehicle, &other.vehicle).then(one.route_id.cmp(&other.route_id)));
    for (place, tour) in tours.iter_mut().enumerate() {
        tour.colour = markup::colour(place);
    }
    Ok(tours)
}

/// Names as people sort them: `van 2` before `van 10`.
fn by_number(one: &str, other: &str) -> std::cmp::Ordering {
    let split = |name: &str| {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (word, number) = name.split_at(name.len() - digits);
        (word.to_owned(), number.parse::<u64>().ok())
    };
    split(one).cmp(&split(other)).then_with(|| one.cmp(other))
}

/// Whose shipments those are that a plan left out.
async fn people(conn: &mut PgConnection, left_out: Value) -> Result<Vec<LeftOut>, sqlx::Error> {
    let id_of = |line: &Value| line["shipment_id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
    let lines: Vec<Value> = match left_out {
        Value::Array(lines) => lines,
        _ => Vec::new(),
    };
    let ids: Vec<Uuid> = lines.iter().filter_map(id_of).collect();
    let rows = sqlx::query!(
        r#"select s.id, s.order_id as "order_id: OrderId", o.reference, c.name as customer, s.lat, s.lon
           from shipments s
           join orders o on o.id = s.order_id
           join customers c on c.id = o.customer_id
           where s.id = any($1)"#,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    let mut rows: HashMap<Uuid, _> = rows.into_iter().map(|row| (row.id, row)).collect();
    let left_out = lines.iter().filter_map(|line| {
        let row = rows.remove(&id_of(line)?)?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        Some(LeftOut {
            shipment_id: ShipmentId(row.id),
            order_id: row.order_id,
            reference: row.reference,
            customer: row.customer,
            lat: row.lat,
            lon: row.lon,
            reason: text("reason").unwrap_or_else(|| "unknown".to_owned()),
            why: in_words(line),
            field: text("field"),
            moved_to: text("moved_to").and_then(|date| date.parse().ok()),
        })
    });
    Ok(left_out.collect())
}

/// A stored reason in words, with the nearest miss: `van 3: 12 min late`.
pub fn in_words(reason: &Value) -> String {
    let number = |name: &str| reason[name].as_i64().unwrap_or(0);
    let vehicle = reason["vehicle"].as_str().unwrap_or("a vehicle");
    let late = || minutes(number("late_seconds"));
    let over = || {
        let (grams, cm3) = (number("over_grams"), number("over_cm3"));
        let parts = [(grams, markup::kilograms(grams)), (cm3, markup::litres(cm3))];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(amount, _)| *amount > 0)
            .map(|(_, words)| words)
            .collect();
        parts.join(" and ")
    };
    let name = reason["reason"].as_str().unwrap_or("unknown");
    match name {
        "no_vehicles" => "the warehouse has no vehicles".to_owned(),
        "too_big" => format!("too big for every vehicle: {} over for the nearest", over()),
        "unreachable" => "no road leads there and back".to_owned(),
        "out_of_range" => match reason["problem"].as_str() {
            Some(problem) => format!("out of range: {problem}"),
            None => format!("out of range: {} away", markup::kilometres(number("metres"))),
        },
        "window_impossible" => format!("an empty vehicle would be {} late", late()),
        "missing_skill" => "no vehicle can do what it asks for".to_owned(),
        "wrong_depot" => "no vehicle starts where it may be served from".to_owned(),
        "too_far" => format!(
            "too long for every vehicle, even alone: {} and {} over for the nearest",
            minutes(number("over_seconds")),
            markup::kilometres(number("over_metres"))
        ),
        "no_vehicle_left" => "every vehicle that could take it is on its way or full".to_owned(),
        "no_capacity_left" => format!("no room left; {vehicle}: {} over", over()),
        "no_time_left" => format!("no time left; {vehicle}: {} late", late()),
        "route_too_long" => format!("{vehicle} would be out too long, or drive too far"),
        "stops_max" => "every vehicle with room makes as many stops as it may".to_owned(),
        "day_full" => "the day has as many stops as a plan may have".to_owned(),
        "day_missed" => "its day passed without a plan".to_owned(),
        "planning_failed" => "planning failed; the dead letter of its job says why".to_owned(),
        other => other.to_owned(),
    }
}

/// A time as people say it: `40 s`, `12 min`, `3 h 05 min`.
fn minutes(seconds: i64) -> String {
    match seconds {
        ..=90 => format!("{seconds} s"),
        91..=7199 => format!("{} min", (seconds + 59) / 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

impl Sheet {
    /// How many are left out for each reason, the most frequent first.
    pub fn tally(&self) -> Vec<(&str, usize)> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for left in &self.left_out {
            *counts.entry(left.reason.as_str()).or_default() += 1;
        }
        let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
        counts.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        counts
    }

    /// The plan in one line.
    pub fn title(&self) -> String {
        let Plan { date, version, .. } = &self.plan;
        format!("{} {} · {date} · plan {version}", self.depot.code, self.depot.name)
    }

    /// Its sums in another.
    pub fn sums(&self) -> String {
        let stops: usize = self.routes.iter().map(|tour| tour.stops.len()).sum();
        let metres: i64 = self.routes.iter().map(|tour| tour.metres).sum();
        let approximate = if self.plan.approximate { ", approximate" } else { "" };
        let truncated = if self.plan.truncated { ", search cut short" } else { "" };
        format!(
            "{}, {}, {}; distances: {}{approximate}{truncated}",
            markup::count(self.routes.len(), "vehicle"),
            markup::count(stops, "stop"),
            markup::kilometres(metres),
            self.plan.distance_source.trim_end()
        )
    }
}

/// The warehouse that somebody means, by its short name or its id.
pub async fn depot(conn: &mut PgConnection, name: &str) -> Result<WarehouseId, Error> {
    let id = sqlx::query_scalar!(
        r#"select id as "id: WarehouseId" from warehouses where code = $1 or id::text = $1"#,
        name
    )
    .fetch_optional(conn)
    .await?;
    id.ok_or(Error::NotFound("warehouse"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reason_says_the_nearest_miss() {
        let said = |reason: Value| in_words(&reason);
        assert_eq!(
            said(json!({"reason": "no_time_left", "vehicle": "van 3", "late_seconds": 719})),
            "no time left; van 3: 12 min late"
        );
        assert_eq!(
            said(json!({"reason": "no_capacity_left", "vehicle": "van 1", "over_grams": 4000, "over_cm3": 0})),
            "no room left; van 1: 4 kg over"
        );
        assert_eq!(
            said(json!({"reason": "too_big", "over_grams": 500, "over_cm3": 12_500})),
            "too big for every vehicle: 0.5 kg and 12.5 l over for the nearest"
        );
        assert_eq!(
            said(json!({"reason": "out_of_range", "metres": 234_500})),
            "out of range: 234.5 km away"
        );
        assert_eq!(said(json!({"reason": "of_another_build"})), "of_another_build");
    }

    #[test]
    fn vans_are_sorted_by_their_numbers() {
        let mut vans = vec!["van 10", "lorry 1", "van 2", "van", "van 1"];
        vans.sort_by(|one, other| by_number(one, other));
        assert_eq!(vans, ["lorry 1", "van", "van 1", "van 2", "van 10"]);
    }
}
