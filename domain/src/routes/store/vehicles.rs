//! Vehicles: added, changed, retired and listed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Day, rest};
use crate::ids::{VehicleId, WarehouseId};
use crate::routes::{Error, Vehicle, VehicleSpec};

/// Adds a vehicle to a warehouse; shipments that no vehicle could take are tried again.
pub async fn create_vehicle(
    conn: &mut PgConnection,
    warehouse: WarehouseId,
    spec: &VehicleSpec,
) -> Result<Vehicle, Error> {
    spec.check()?;
    let id = VehicleId::new();
    sqlx::query!(
        r#"insert into vehicles (id, warehouse_id, name, capacity_grams, capacity_cm3, shift_start, shift_end, stops_max,
                                 skills, seconds_max, metres_max, fixed_cost, metre_cost, second_cost, rest_start, rest_end,
                                 rest_seconds)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"#,
        id.0,
        warehouse.0,
        spec.name,
        spec.capacity_grams,
        spec.capacity_cm3,
        spec.shift_start,
        spec.shift_end,
        spec.stops_max,
        &spec.skills,
        spec.seconds_max,
        spec.metres_max,
        spec.fixed_cost,
        spec.metre_cost,
        spec.second_cost,
        spec.rest.map(|rest| rest.window.start),
        spec.rest.map(|rest| rest.window.end),
        spec.rest.map(|rest| rest.seconds),
    )
    .execute(&mut *conn)
    .await
    .map_err(on_constraint)?;
    try_again(conn, warehouse).await?;
    vehicle(conn, id).await?.ok_or(Error::NotFound("vehicle"))
}

fn on_constraint(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|database| database.constraint()) {
        Some("vehicles_warehouse_id_name_key") => Error::NameTaken,
        Some("vehicles_warehouse_id_fkey") => Error::NotFound("warehouse"),
        _ => Error::Database(error),
    }
}

/// The fleet can do more than before: shipments it could never take are looked at again.
async fn try_again(conn: &mut PgConnection, warehouse: WarehouseId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"with waiting as (
               select id from shipments
               where warehouse_id = $1 and state = 'unplanned' and unassigned is not null
               order by id for update
           )
           update shipments s set unassigned = null, version = s.version + 1, updated_at = clock_timestamp()
           from waiting
           where s.id = waiting.id"#,
        warehouse.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Changes a vehicle, if it still has the version given. Only its name may change once it has routes.
pub async fn update_vehicle(
    conn: &mut PgConnection,
    id: VehicleId,
    spec: &VehicleSpec,
    version: Option<i32>,
) -> Result<Vehicle, Error> {
    spec.check()?;
    let before = locked_vehicle(conn, id).await?;
    if version.is_some_and(|version| version != before.version) {
        return Err(Error::VersionChanged {
            current: before.version,
        });
    }
    let renamed = VehicleSpec {
        name: spec.name.clone(),
        ..before.spec.clone()
    };
    if *spec != renamed {
        let is_used = sqlx::query_scalar!(
            r#"select exists (select from routes where vehicle_id = $1 and state <> 'superseded') as "is_used!""#,
            id.0,
        )
        .fetch_one(&mut *conn)
        .await?;
        if is_used {
            return Err(Error::InUse);
        }
    }
    sqlx::query!(
        r#"update vehicles set name = $2, capacity_grams = $3, capacity_cm3 = $4, shift_start = $5, shift_end = $6,
                               stops_max = $7, skills = $8, seconds_max = $9, metres_max = $10, fixed_cost = $11,
                               metre_cost = $12, second_cost = $13, rest_start = $14, rest_end = $15, rest_seconds = $16,
                               version = version + 1
           where id = $1"#,
        id.0,
        spec.name,
        spec.capacity_grams,
        spec.capacity_cm3,
        spec.shift_start,
        spec.shift_end,
        spec.stops_max,
        &spec.skills,
        spec.seconds_max,
        spec.metres_max,
        spec.fixed_cost,
        spec.metre_cost,
        spec.second_cost,
        spec.rest.map(|rest| rest.window.start),
        spec.rest.map(|rest| rest.window.end),
        spec.rest.map(|rest| rest.seconds),
    )
    .execute(&mut *conn)
    .await
    .map_err(on_constraint)?;
    try_again(conn, before.warehouse_id).await?;
    vehicle(conn, id).await?.ok_or(Error::NotFound("vehicle"))
}

async fn locked_vehicle(conn: &mut PgConnection, id: VehicleId) -> Result<Vehicle, Error> {
    let is_there = sqlx::query_scalar!(
        "select id from vehicles where id = $1 and retired_at is null for update",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    match is_there {
        Some(_) => vehicle(conn, id).await?.ok_or(Error::NotFound("vehicle")),
        None => Err(Error::NotFound("vehicle")),
    }
}

/// Takes a vehicle out of the fleet; returns the days whose plans counted on it.
pub async fn retire_vehicle(conn: &mut PgConnection, id: VehicleId) -> Result<(Vehicle, Vec<Day>), Error> {
    locked_vehicle(conn, id).await?;
    sqlx::query!(
        "update vehicles set retired_at = clock_timestamp(), version = version + 1 where id = $1",
        id.0
    )
    .execute(&mut *conn)
    .await?;
    let days = sqlx::query!(
        r#"select warehouse_id, date from routes
           where vehicle_id = $1 and state = 'planned' and date >= (clock_timestamp() at time zone 'UTC')::date
           order by date"#,
        id.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    let vehicle = vehicle(conn, id).await?.ok_or(Error::NotFound("vehicle"))?;
    Ok((
        vehicle,
        days.into_iter()
            .map(|day| (WarehouseId(day.warehouse_id), day.date))
            .collect(),
    ))
}

struct VehicleRow {
    id: Uuid,
    warehouse_id: Uuid,
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
    version: i32,
    created_at: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
}

impl From<VehicleRow> for Vehicle {
    fn from(row: VehicleRow) -> Vehicle {
        Vehicle {
            id: VehicleId(row.id),
            warehouse_id: WarehouseId(row.warehouse_id),
            spec: VehicleSpec {
                name: row.name,
                capacity_grams: row.capacity_grams,
                capacity_cm3: row.capacity_cm3,
                shift_start: row.shift_start,
                shift_end: row.shift_end,
                stops_max: row.stops_max,
                rest: rest(row.rest_start, row.rest_end, row.rest_seconds),
                skills: row.skills,
                seconds_max: row.seconds_max,
                metres_max: row.metres_max,
                fixed_cost: row.fixed_cost,
                metre_cost: row.metre_cost,
                second_cost: row.second_cost,
            },
            version: row.version,
            created_at: row.created_at,
            retired_at: row.retired_at,
        }
    }
}

/// One vehicle, retired or not.
pub async fn vehicle(conn: &mut PgConnection, id: VehicleId) -> Result<Option<Vehicle>, sqlx::Error> {
    let row = sqlx::query_as!(
        VehicleRow,
        r#"select id, warehouse_id, name, capacity_grams, capacity_cm3, shift_start, shift_end, stops_max, skills,
                  seconds_max, metres_max, fixed_cost, metre_cost, second_cost, rest_start, rest_end, rest_seconds, version,
                  created_at, retired_at
           from vehicles where id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Vehicle::from))
}

/// The vehicles of a warehouse, or all, by id, after the one given; retired ones are left out.
pub async fn vehicles(
    conn: &mut PgConnection,
    warehouse: Option<WarehouseId>,
    after: Option<VehicleId>,
    limit: i64,
) -> Result<Vec<Vehicle>, sqlx::Error> {
    let rows = sqlx::query_as!(
        VehicleRow,
        r#"select id, warehouse_id, name, capacity_grams, capacity_cm3, shift_start, shift_end, stops_max, skills,
                  seconds_max, metres_max, fixed_cost, metre_cost, second_cost, rest_start, rest_end, rest_seconds, version,
                  created_at, retired_at
           from vehicles
           where retired_at is null and ($1::uuid is null or warehouse_id = $1) and ($2::uuid is null or id > $2)
           order by id
           limit $3"#,
        warehouse.map(|id| id.0),
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Vehicle::from).collect())
}
