//! Shipments, vehicles and routes in the database; [`plan`](super::plan) writes them for a whole day at once.
//!
//! Locks are taken in this order, after the order's row: vehicles, shipments by id, routes by id, plans. A cancel, a
//! dispatch and the publishing of a plan meet at the shipments: whoever has them first is seen whole by the other.
//!
//! A cancelled shipment's stop is taken out of its route at once, and the times and lengths of the rest are computed
//! again from the distances the plan was made with. Straight ways are rounded up, so leaving out a stop never makes a
//! route longer or later: what is left stays valid until the day is planned again. By road it may be, and then the
//! route waits for that plan.

mod tours;
mod vehicles;

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    DAYS_AHEAD_MAX, Error, RANGE_METRES_MAX, SERVICE_SECONDS, STOPS_PER_PLAN_MAX, Shipment,
    distance::{Haversine, Point},
    problem::{self, Load, Matrix, PlannedRest, PlannedRoute, PlannedStop, Problem, Rest, Window},
    road_matrix::{self, RoadMatrix},
    skills, solver,
};
use crate::{
    cause::Cause,
    ids::{OrderId, RouteId, ShipmentId, WarehouseId},
    orders::Order,
};

pub use tours::{active_plan, audit, dispatch_route, lock_stops, route, routes};
pub use vehicles::{create_vehicle, retire_vehicle, update_vehicle, vehicle, vehicles};

/// A warehouse and a day: what one plan is for.
pub type Day = (WarehouseId, NaiveDate);

/// Hand-overs before noon, for one half of the orders: from eight to one.
const MORNING: Window = Window {
    start: 8 * 3600,
    end: 13 * 3600,
};
/// And after it, for the other half: from noon to six.
const AFTERNOON: Window = Window {
    start: 12 * 3600,
    end: 18 * 3600,
};

/// Which half of the day an order is delivered in: by the last bit of its id, which is random.
fn delivery_window(order: OrderId) -> Window {
    if order.0.as_bytes()[15] & 1 == 0 {
        MORNING
    } else {
        AFTERNOON
    }
}

/// Makes one shipment per warehouse that has stock of the order aside, for tomorrow (UTC) or the first later day that has
/// room; where the customer's place is unknown, it is handed over at the warehouse. Returns the days to
/// plan. Run twice, it makes nothing new.
pub async fn create_shipments(conn: &mut PgConnection, order: &Order, _cause: &Cause) -> Result<Vec<Day>, sqlx::Error> {
    let parts = sqlx::query!(
        r#"with aside as (
               select r.warehouse_id, sum(r.qty * p.weight_grams)::bigint as grams, sum(r.qty * p.volume_cm3)::bigint as cm3
               from order_lines l
               join reservations r on r.order_line_id = l.id and r.state in ('held', 'committed')
               join products p on p.id = r.product_id
               where l.order_id = $1
               group by r.warehouse_id
           )
           select a.warehouse_id, a.grams as "grams!", a.cm3 as "cm3!",
                  case when c.lat is null or c.lon is null then w.lat else c.lat end as "lat!",
                  case when c.lat is null or c.lon is null then w.lon else c.lon end as "lon!",
                  (clock_timestamp() at time zone 'UTC')::date as "today!"
           from aside a
           join warehouses w on w.id = a.warehouse_id
           join customers c on c.id = $2
           order by a.warehouse_id"#,
        order.id.0,
        order.customer_id.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    let window = delivery_window(order.id);
    let mut days = Vec::new();
    for part in parts {
        let warehouse = WarehouseId(part.warehouse_id);
        let date = first_open_day(conn, warehouse, part.today).await?;
        let made = sqlx::query!(
            r#"insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                      window_start, window_end, service_seconds)
               values ($1, $2, $3, 'unplanned', $4, $5, $6, $7, $8, $9, $10, $11)
               on conflict (order_id, warehouse_id) do nothing"#,
            ShipmentId::new().0,
            order.id.0,
            warehouse.0,
            date,
            part.lat,
            part.lon,
            part.grams,
            part.cm3,
            window.start,
            window.end,
            SERVICE_SECONDS,
        )
        .execute(&mut *conn)
        .await?;
        if made.rows_affected() == 1 {
            days.push((warehouse, date));
        }
    }
    Ok(days)
}

/// The first day after the one given whose plan is not full, and for which no more wait than a plan may have: a backlog is spread
/// over days at once, and not handed on from plan to plan. What a day holds is read without a lock, so it may come to hold a few more.
pub(super) async fn first_open_day(
    conn: &mut PgConnection,
    warehouse: WarehouseId,
    after: NaiveDate,
) -> Result<NaiveDate, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(
               (select o.ahead
                -- The bound keeps the shipments of every day from being counted: only those of the first that are not full are.
                from (select ahead from generate_series(1, $3::int) ahead
                      where not exists (select from route_plans p
                                        where p.warehouse_id = $1 and p.date = $2::date + ahead and p.active and p.is_full)
                      order by ahead limit $3::int) o
                where (select count(*)
                       from (select from shipments s
                             where s.warehouse_id = $1 and s.delivery_date = $2::date + o.ahead
                               and s.state in ('unplanned', 'planned')
                               and not coalesce((s.unassigned ->> 'version')::int = s.version, false)
                             limit $4::bigint) held) < $4::bigint
                order by o.ahead limit 1),
               $3
           ) + $2::date as "day!""#,
        warehouse.0,
        after,
        DAYS_AHEAD_MAX,
        STOPS_PER_PLAN_MAX as i64,
    )
    .fetch_one(conn)
    .await
}

/// Cancels what has not left yet of an order, takes it out of its routes, and returns the days to plan again.
pub async fn cancel_shipments(
    conn: &mut PgConnection,
    order: OrderId,
    _cause: &Cause,
) -> Result<Vec<Day>, sqlx::Error> {
    let cancelled = sqlx::query!(
        r#"with live as (
               select id, state from shipments
               where order_id = $1 and state in ('unplanned', 'planned', 'dispatched')
               order by id for update
           )
           update shipments s
           set state = 'cancelled', unassigned = null, version = s.version + 1, updated_at = clock_timestamp()
           from live
           where s.id = live.id
           returning s.id, s.warehouse_id, s.delivery_date, live.state as "state_before!""#,
        order.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<Uuid> = cancelled.iter().map(|row| row.id).collect();
    take_off_routes(conn, &ids).await?;
    let mut days: Vec<Day> = cancelled
        .iter()
        .filter(|row| row.state_before == "planned")
        .map(|row| (WarehouseId(row.warehouse_id), row.delivery_date))
        .collect();
    days.sort_unstable();
    days.dedup();
    Ok(days)
}

/// Takes shipments, locked by the caller, off the routes they are on, and computes what is left of those.
async fn take_off_routes(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    let routes = sqlx::query_scalar!(
        r#"select r.id from routes r
           where r.state <> 'superseded'
             and r.id in (select route_id from route_stops where shipment_id = any($1) and active)
           order by r.id for update"#,
        ids,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!(
        r#"update routes r
           set locked_stops = locked_stops - (
               select count(*) from (select shipment_id, row_number() over (order by position) as place
                                     from route_stops where route_id = r.id and active) a
               where a.place <= r.locked_stops and a.shipment_id = any($2))
           where r.id = any($1) and r.locked_stops > 0"#,
        &routes,
        ids,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "update route_stops set active = false where shipment_id = any($1) and active",
        ids
    )
    .execute(&mut *conn)
    .await?;
    for route in routes {
        shorten(conn, RouteId(route)).await?;
    }
    Ok(())
}

/// What a delivery asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Clinical priority: 1 is served before everything else, 3 is routine.
    pub priority: i16,
    /// What its vehicle must be able to do, in words.
    pub skills: Vec<String>,
    /// When it is taken in: from one to [`WINDOWS_MAX`](Self::WINDOWS_MAX) windows of a day, in order, none touching the next.
    pub windows: Vec<Window>,
}

impl Delivery {
    /// The most windows.
    pub const WINDOWS_MAX: usize = 8;

    /// Refuses what cannot be kept, with the field and what it may be.
    pub fn check(&self) -> Result<(), Error> {
        const DAY: i32 = 24 * 60 * 60;
        if !(1..=3).contains(&self.priority) {
            return Err(Error::OutOfBounds {
                field: "priority",
                allowed: "from 1 to 3",
            });
        }
        skills::check(&self.skills)?;
        let is_window = |window: &Window| 0 <= window.start && window.start < window.end && window.end <= DAY;
        let is_apart = |pair: &[Window]| pair[0].end < pair[1].start;
        let is_count = (1..=Self::WINDOWS_MAX).contains(&self.windows.len());
        if !is_count || !self.windows.iter().all(is_window) || !self.windows.windows(2).all(is_apart) {
            return Err(Error::OutOfBounds {
                field: "windows",
                allowed: "from 1 to 8 of a day, in order, none touching the next",
            });
        }
        Ok(())
    }
}

/// Changes what a delivery asks for. It is taken off its route, and its day, which is returned, is to be planned again.
pub async fn change_delivery(
    conn: &mut PgConnection,
    id: ShipmentId,
    wanted: &Delivery,
    _cause: &Cause,
) -> Result<(Shipment, Day), Error> {
    wanted.check()?;
    let state = sqlx::query_scalar!("select state from shipments where id = $1 for update", id.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(Error::NotFound("shipment"))?;
    if !["unplanned", "planned"].contains(&state.as_str()) {
        return Err(Error::OnItsWay { state });
    }
    let first = wanted.windows[0];
    let later: Vec<i32> = wanted.windows[1..]
        .iter()
        .flat_map(|window| [window.start, window.end])
        .collect();
    take_off_routes(conn, &[id.0]).await?;
    sqlx::query!(
        r#"update shipments
           set priority = $2, skills = $3, window_start = $4, window_end = $5, later_windows = $6,
               state = 'unplanned', unassigned = null, version = version + 1, updated_at = clock_timestamp()
           where id = $1"#,
        id.0,
        wanted.priority,
        &wanted.skills,
        first.start,
        first.end,
        &later,
    )
    .execute(&mut *conn)
    .await?;
    let shipment = shipment(conn, id).await?.ok_or(Error::NotFound("shipment"))?;
    let day = (shipment.warehouse_id, shipment.delivery_date);
    Ok((shipment, day))
}

/// Computes a route again from the stops that are still active. The route is locked.
async fn shorten(conn: &mut PgConnection, id: RouteId) -> Result<(), sqlx::Error> {
    let Some((problem, before)) = stored_route(conn, id, &mut None).await? else {
        return Ok(());
    };
    let order: Vec<usize> = (0..problem.stops.len()).collect();
    let after = if order.is_empty() {
        PlannedRoute {
            returns_at: before.departs_at,
            metres: 0,
            load: Load::default(),
            rest: None,
            ..before.clone()
        }
    } else {
        match solver::timetable(&problem, 0, &order) {
            Some(after) => after,
            None => {
                tracing::warn!(route.id = %id, "a route with a stop less is not possible; it waits for its day's next plan");
                return Ok(());
            }
        }
    };
    let positions: Vec<i32> = after.stops.iter().zip(1..).map(|(_, position)| position).collect();
    let columns = StopColumns::of(&after.stops);
    sqlx::query!(
        r#"update route_stops s
           set arrives_at = n.arrives_at, starts_at = n.starts_at, leaves_at = n.leaves_at, metres_from_previous = n.metres
           from (select route_id, position, row_number() over (order by position) as place
                 from route_stops where route_id = $1 and active) a
           join unnest($2::int[], $3::int[], $4::int[], $5::int[], $6::bigint[])
                as n (place, arrives_at, starts_at, leaves_at, metres) on n.place = a.place
           where s.route_id = a.route_id and s.position = a.position"#,
        id.0,
        &positions,
        &columns.arrives_at,
        &columns.starts_at,
        &columns.leaves_at,
        &columns.metres,
    )
    .execute(&mut *conn)
    .await?;
    let plan = sqlx::query_scalar!(
        r#"update routes
           set departs_at = $2, returns_at = $3, metres = $4, load_grams = $5, load_cm3 = $6,
               rest_after_stops = $8, rest_starts_at = $9,
               state = case when $7 and state = 'planned' then 'superseded' else state end
           where id = $1
           returning plan_id"#,
        id.0,
        after.departs_at,
        after.returns_at,
        after.metres,
        after.load.grams,
        after.load.cm3,
        order.is_empty(),
        after.rest.map(|rest| rest.after_stops as i32),
        after.rest.map(|rest| rest.starts_at),
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query!(
        r#"update route_plans set metres = metres + $2, stops = greatest(stops - 1, 0) where id = $1"#,
        plan,
        after.metres - before.metres,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The stops' times, column by column.
pub(super) struct StopColumns {
    pub(super) arrives_at: Vec<i32>,
    pub(super) starts_at: Vec<i32>,
    pub(super) leaves_at: Vec<i32>,
    pub(super) metres: Vec<i64>,
}

impl StopColumns {
    pub(super) fn of<'a>(stops: impl IntoIterator<Item = &'a PlannedStop>) -> StopColumns {
        let mut columns = StopColumns {
            arrives_at: vec![],
            starts_at: vec![],
            leaves_at: vec![],
            metres: vec![],
        };
        for stop in stops {
            columns.arrives_at.push(stop.arrives_at);
            columns.starts_at.push(stop.starts_at);
            columns.leaves_at.push(stop.leaves_at);
            columns.metres.push(stop.metres_from_previous);
        }
        columns
    }
}

/// A stored route as the checker wants it: a problem of its vehicle and its active stops, and what is stored of them.
/// `roads` remembers the last matrix of a road server: the routes of a plan share one.
async fn stored_route(
    conn: &mut PgConnection,
    id: RouteId,
    roads: &mut Option<(Uuid, RoadMatrix)>,
) -> Result<Option<(Problem, PlannedRoute)>, sqlx::Error> {
    let Some(route) = sqlx::query!(
        r#"select r.departs_at, r.returns_at, r.metres, r.load_grams, r.load_cm3, r.locked_stops, r.rest_after_stops,
                  r.rest_starts_at, w.lat, w.lon, p.distance_source, p.matrix_id, v.capacity_grams, v.capacity_cm3, v.shift_start,
                  v.shift_end, v.stops_max, v.skills, v.seconds_max, v.metres_max, v.rest_start, v.rest_end, v.rest_seconds
           from routes r
           join route_plans p on p.id = r.plan_id
           join warehouses w on w.id = r.warehouse_id
           join vehicles v on v.id = r.vehicle_id
           where r.id = $1"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    else {
        return Ok(None);
    };
    let rows = sqlx::query!(
        r#"select s.lat, s.lon, s.weight_grams, s.volume_cm3, s.window_start, s.window_end, s.later_windows,
                  s.service_seconds, s.skills, t.arrives_at, t.starts_at, t.leaves_at, t.metres_from_previous
           from route_stops t
           join shipments s on s.id = t.shipment_id
           where t.route_id = $1 and t.active
           order by t.position"#,
        id.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    if let Some(matrix) = route.matrix_id
        && roads.as_ref().is_none_or(|(row, _)| *row != matrix)
    {
        *roads = road_matrix::get(conn, matrix).await?;
    }
    let roads = roads.as_ref().filter(|(row, _)| Some(*row) == route.matrix_id);
    let depot = Point {
        lat: route.lat,
        lon: route.lon,
    };
    let points: Vec<Point> = std::iter::once(depot)
        .chain(rows.iter().map(|row| Point {
            lat: row.lat,
            lon: row.lon,
        }))
        .collect();
    let asked = rows.iter().flat_map(|row| &row.skills);
    let names = skills::Names::of(asked.chain(&route.skills)).map_err(|many| sqlx::Error::Decode(Box::new(many)))?;
    let stops: Vec<problem::Stop> = rows
        .iter()
        .map(|row| problem::Stop {
            load: Load {
                grams: row.weight_grams,
                cm3: row.volume_cm3,
            },
            windows: windows(row.window_start, row.window_end, &row.later_windows),
            service: row.service_seconds,
            skills: names.bits(&row.skills),
            ..problem::Stop::default()
        })
        .collect();
    let vehicle = problem::Vehicle {
        capacity: Load {
            grams: route.capacity_grams,
            cm3: route.capacity_cm3,
        },
        shift: Window {
            start: route.shift_start,
            end: route.shift_end,
        },
        stops_max: route.stops_max as usize,
        seconds_max: route.seconds_max.unwrap_or(i32::MAX),
        metres_max: route.metres_max.unwrap_or(i64::MAX),
        skills: names.bits(&route.skills),
        rest: rest(route.rest_start, route.rest_end, route.rest_seconds),
        locked: (0..route.locked_stops as usize).collect(),
        ..problem::Vehicle::default()
    };
    let stored = PlannedRoute {
        vehicle: 0,
        departs_at: route.departs_at,
        returns_at: route.returns_at,
        metres: route.metres,
        load: Load {
            grams: route.load_grams,
            cm3: route.load_cm3,
        },
        stops: rows
            .iter()
            .enumerate()
            .map(|(stop, row)| PlannedStop {
                stop,
                arrives_at: row.arrives_at,
                starts_at: row.starts_at,
                leaves_at: row.leaves_at,
                metres_from_previous: row.metres_from_previous,
            })
            .collect(),
        rest: match (route.rest_after_stops, route.rest_starts_at) {
            (Some(after_stops), Some(starts_at)) => Some(PlannedRest {
                after_stops: after_stops as usize,
                starts_at,
            }),
            _ => None,
        },
    };
    let matrix = match (roads, route.distance_source.parse::<Haversine>()) {
        (Some((_, roads)), _) => roads.matrix(&points, Haversine::new(1.0, 1.0)),
        (None, Ok(source)) => source.matrix(&points),
        // By road, and what was measured is gone: the plan is of the past, and its own numbers are all there is.
        (None, Err(_)) => as_stored(&stored),
    };
    let problem = Problem {
        range_metres: RANGE_METRES_MAX,
        ..Problem::of_one_depot(stops, vec![vehicle], matrix)
    };
    Ok(Some((problem, stored)))
}

/// The ways of a route as it says itself, and no others.
fn as_stored(route: &PlannedRoute) -> Matrix {
    let count = route.stops.len();
    let legs: i64 = route.stops.iter().map(|stop| stop.metres_from_previous).sum();
    let leaves_at = |place: usize| match place {
        0 => route.departs_at,
        place => route.stops[place - 1].leaves_at,
    };
    let whole = |number: i64| u32::try_from(number).unwrap_or(Matrix::NO_WAY);
    Matrix::from_fn(count + 1, |from, to| match to {
        to if from == to => (0, 0),
        0 if from == count => (
            whole(route.metres - legs),
            whole(i64::from(route.returns_at - leaves_at(count))),
        ),
        to if to == from + 1 => {
            let stop = &route.stops[from];
            (
                whole(stop.metres_from_previous),
                whole(i64::from(stop.arrives_at - leaves_at(from))),
            )
        }
        _ => (Matrix::NO_WAY, Matrix::NO_WAY),
    })
}

/// One shipment.
pub async fn shipment(conn: &mut PgConnection, id: ShipmentId) -> Result<Option<Shipment>, sqlx::Error> {
    sqlx::query_as!(
        Shipment,
        r#"select s.id as "id: _", s.order_id as "order_id: _", s.warehouse_id as "warehouse_id: _", s.state,
                  s.delivery_date, s.lat, s.lon, s.weight_grams, s.volume_cm3, s.window_start, s.window_end,
                  s.later_windows, s.service_seconds, s.priority, s.skills, s.unassigned, t.route_id as "route_id?: RouteId", s.version, s.created_at
           from shipments s
           left join route_stops t on t.shipment_id = s.id and t.active
           where s.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// The shipments of an order, oldest first.
pub async fn shipments_of_order(conn: &mut PgConnection, order: OrderId) -> Result<Vec<Shipment>, sqlx::Error> {
    sqlx::query_as!(
        Shipment,
        r#"select s.id as "id: _", s.order_id as "order_id: _", s.warehouse_id as "warehouse_id: _", s.state,
                  s.delivery_date, s.lat, s.lon, s.weight_grams, s.volume_cm3, s.window_start, s.window_end,
                  s.later_windows, s.service_seconds, s.priority, s.skills, s.unassigned, t.route_id as "route_id?: RouteId", s.version, s.created_at
           from shipments s
           left join route_stops t on t.shipment_id = s.id and t.active
           where s.order_id = $1
           order by s.created_at, s.id"#,
        order.0,
    )
    .fetch_all(conn)
    .await
}

/// Notes that a dispatched shipment has left; false when it was not `dispatched`, and nothing is written.
pub async fn mark_shipped(conn: &mut PgConnection, id: ShipmentId, _cause: &Cause) -> Result<bool, sqlx::Error> {
    let marked = sqlx::query!(
        r#"update shipments set state = 'shipped', version = version + 1, updated_at = clock_timestamp()
           where id = $1 and state = 'dispatched'"#,
        id.0,
    )
    .execute(conn)
    .await?;
    Ok(marked.rows_affected() == 1)
}

/// A rest as its three columns say; they are null together.
pub(super) fn rest(start: Option<i32>, end: Option<i32>, seconds: Option<i32>) -> Option<Rest> {
    Some(Rest {
        window: Window {
            start: start?,
            end: end?,
        },
        seconds: seconds?,
    })
}

/// The windows of a shipment: the first, and those after it as start, end, start, end, ….
pub fn windows(start: i32, end: i32, later: &[i32]) -> Vec<Window> {
    let later = later.chunks_exact(2).map(|pair| Window {
        start: pair[0],
        end: pair[1],
    });
    std::iter::once(Window { start, end }).chain(later).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_orders_come_in_the_morning() {
        let mornings = (0..1000).filter(|_| delivery_window(OrderId::new()) == MORNING).count();
        assert!((400..600).contains(&mornings), "{mornings} of 1000");
    }
}
