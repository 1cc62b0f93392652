//! Routes as they are driven: listed, locked, sent on their way, and audited.

use chrono::NaiveDate;
use sqlx::PgConnection;

use super::stored_route;
use crate::cause::Cause;
use crate::ids::{PlanId, RouteId, ShipmentId, WarehouseId};
use crate::routes::{Error, Route, RouteFilter, RouteStop, checker};

/// Routes, newest first.
pub async fn routes(conn: &mut PgConnection, filter: &RouteFilter) -> Result<Vec<Route>, sqlx::Error> {
    let (before_at, before_id) = filter.before.map(|(at, id)| (at, id.0)).unzip();
    sqlx::query_as!(
        Route,
        r#"select r.id as "id: _", r.plan_id as "plan_id: _", p.version as plan_version, r.warehouse_id as "warehouse_id: _",
                  r.vehicle_id as "vehicle_id: _", v.name as vehicle_name, r.date, r.state, r.departs_at, r.returns_at,
                  r.metres, r.load_grams, r.load_cm3, r.locked_stops,
                  (select count(*) from route_stops t where t.route_id = r.id and (t.active or r.state = 'superseded')) as "stops!",
                  p.distance_source, r.created_at
           from routes r
           join route_plans p on p.id = r.plan_id
           join vehicles v on v.id = r.vehicle_id
           where ($1::uuid is null or r.warehouse_id = $1)
             and ($2::date is null or r.date = $2)
             and (r.state = $3 or ($3 is null and r.state <> 'superseded'))
             and ($4::timestamptz is null or (r.created_at, r.id) < ($4, $5))
           order by r.created_at desc, r.id desc
           limit $6"#,
        filter.warehouse_id.map(|id| id.0),
        filter.date,
        filter.state,
        before_at,
        before_id,
        filter.limit,
    )
    .fetch_all(conn)
    .await
}

/// One route and its stops in order; a superseded route shows those it had.
pub async fn route(conn: &mut PgConnection, id: RouteId) -> Result<Option<(Route, Vec<RouteStop>)>, sqlx::Error> {
    let route = sqlx::query_as!(
        Route,
        r#"select r.id as "id: _", r.plan_id as "plan_id: _", p.version as plan_version, r.warehouse_id as "warehouse_id: _",
                  r.vehicle_id as "vehicle_id: _", v.name as vehicle_name, r.date, r.state, r.departs_at, r.returns_at,
                  r.metres, r.load_grams, r.load_cm3, r.locked_stops,
                  (select count(*) from route_stops t where t.route_id = r.id and (t.active or r.state = 'superseded')) as "stops!",
                  p.distance_source, r.created_at
           from routes r
           join route_plans p on p.id = r.plan_id
           join vehicles v on v.id = r.vehicle_id
           where r.id = $1"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match route {
        Some(route) => Ok(Some((route, route_stops(conn, id).await?))),
        None => Ok(None),
    }
}

async fn route_stops(conn: &mut PgConnection, id: RouteId) -> Result<Vec<RouteStop>, sqlx::Error> {
    sqlx::query_as!(
        RouteStop,
        r#"select t.position, t.shipment_id as "shipment_id: _", s.order_id as "order_id: _", s.state, s.lat, s.lon,
                  s.window_start, s.window_end, t.arrives_at, t.starts_at, t.leaves_at, t.metres_from_previous
           from route_stops t
           join routes r on r.id = t.route_id
           join shipments s on s.id = t.shipment_id
           where t.route_id = $1 and (t.active or r.state = 'superseded')
           order by t.position"#,
        id.0,
    )
    .fetch_all(conn)
    .await
}

/// Sends a planned route on its way; returns the shipments it carries, each to be shipped.
pub async fn dispatch_route(conn: &mut PgConnection, id: RouteId, _cause: &Cause) -> Result<Vec<ShipmentId>, Error> {
    // Shipments before routes, as everybody: so nothing of this route changes from here on.
    sqlx::query!(
        r#"select id from shipments
           where id in (select shipment_id from route_stops where route_id = $1 and active)
           order by id for update"#,
        id.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    let state = sqlx::query_scalar!("select state from routes where id = $1 for update", id.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(Error::NotFound("route"))?;
    if state != "planned" {
        return Err(Error::NotPlanned { state });
    }
    sqlx::query!("update routes set state = 'dispatched' where id = $1", id.0)
        .execute(&mut *conn)
        .await?;
    let mut shipments = sqlx::query_scalar!(
        r#"update shipments s
           set state = 'dispatched', version = version + 1, updated_at = clock_timestamp()
           from route_stops t
           where t.route_id = $1 and t.active and s.id = t.shipment_id and s.state = 'planned'
           returning s.id as "id: ShipmentId""#,
        id.0,
    )
    .fetch_all(conn)
    .await?;
    shipments.sort_unstable();
    Ok(shipments)
}

/// Locks the first stops of a planned route: they are loaded, or driven to, and stay first on it, in this order, whenever
/// the day is planned again. Zero takes the lock off.
pub async fn lock_stops(conn: &mut PgConnection, id: RouteId, stops: i32, _cause: &Cause) -> Result<Route, Error> {
    // A plan that is made meanwhile finds their versions changed, and is made again with the lock.
    let shipments = sqlx::query_scalar!(
        r#"with listed as (
               select s.id from shipments s
               where s.id in (select shipment_id from route_stops where route_id = $1 and active)
               order by s.id for update
           )
           update shipments s set version = s.version + 1, updated_at = clock_timestamp()
           from listed
           where s.id = listed.id
           returning s.id"#,
        id.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    let state = sqlx::query_scalar!("select state from routes where id = $1 for update", id.0)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(Error::NotFound("route"))?;
    if state != "planned" {
        return Err(Error::NotPlanned { state });
    }
    if usize::try_from(stops).is_ok_and(|stops| stops > shipments.len()) || stops < 0 {
        return Err(Error::OutOfBounds {
            field: "stops",
            allowed: "from 0 to as many as the route has",
        });
    }
    sqlx::query!("update routes set locked_stops = $2 where id = $1", id.0, stops)
        .execute(&mut *conn)
        .await?;
    let (route, _) = route(conn, id).await?.ok_or(Error::NotFound("route"))?;
    Ok(route)
}

/// What is wrong with the routes as stored (R1 to R5), one line each; empty when all is well. Call it in a
/// `repeatable read` transaction when the fleet runs, so that it sees one moment.
pub async fn audit(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let mut wrong = sqlx::query_scalar!(
        r#"select 'R1 shipment ' || s.id || ' has ' || count(*) || ' active routes' as "line!"
           from shipments s
           join route_stops t on t.shipment_id = s.id and t.active
           join routes r on r.id = t.route_id and r.state <> 'superseded'
           group by s.id having count(*) > 1
           union all
           select 'R4 shipment ' || s.id || ' is ' || s.state || ' and on no route'
           from shipments s
           where s.state in ('planned', 'dispatched')
             and not exists (select from route_stops t join routes r on r.id = t.route_id and r.state <> 'superseded'
                             where t.shipment_id = s.id and t.active)
           union all
           select 'R4 shipment ' || s.id || ' is ' || s.state || ' and still a stop of route ' || r.id
           from route_stops t
           join routes r on r.id = t.route_id
           join shipments s on s.id = t.shipment_id
           where t.active
             and (r.state = 'superseded' or s.state in ('unplanned', 'cancelled')
                  or s.warehouse_id <> r.warehouse_id or s.delivery_date <> r.date)
           union all
           -- What was locked when its plan was replaced, and still goes out, is first on the same vehicle in the new one.
           select 'R1 shipment ' || was.shipment_id || ' was locked on vehicle ' || was.vehicle_id || ' and plan ' || p.id
                  || ' moved it'
           from route_plans p
           join (select r.plan_id, r.vehicle_id, r.locked_stops, t.shipment_id,
                        row_number() over (partition by r.id order by t.position) as place
                 from routes r
                 join route_stops t on t.route_id = r.id
                 where r.locked_stops > 0 and r.state = 'superseded') was
             on was.plan_id = p.replaces and was.place <= was.locked_stops
           join shipments s on s.id = was.shipment_id and s.state in ('planned', 'dispatched', 'shipped')
           join vehicles v on v.id = was.vehicle_id and v.retired_at is null
           where s.delivery_date = p.date
             and not exists (select from routes r join route_stops t on t.route_id = r.id
                             where r.plan_id = p.id and r.vehicle_id = was.vehicle_id and t.shipment_id = was.shipment_id
                               and t.position <= was.locked_stops)"#,
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids = sqlx::query_scalar!(
        r#"select r.id as "id: RouteId" from routes r
           where r.state <> 'superseded' and exists (select from route_stops t where t.route_id = r.id and t.active)
           order by r.id"#,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut roads = None;
    for id in ids {
        if let Some((problem, stored)) = stored_route(conn, id, &mut roads).await? {
            let violations = checker::check_route(&problem, &stored);
            wrong.extend(
                violations
                    .iter()
                    .map(|violation| format!("{} route {id}: {}", violation.rule, violation.what)),
            );
        }
    }
    Ok(wrong)
}

/// The plan of a warehouse's day that counts, and its version.
pub async fn active_plan(
    conn: &mut PgConnection,
    warehouse: WarehouseId,
    date: NaiveDate,
) -> Result<Option<(PlanId, i32)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id as "id: PlanId", version from route_plans where warehouse_id = $1 and date = $2 and active"#,
        warehouse.0,
        date,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.version)))
}
