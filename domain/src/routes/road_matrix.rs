//! The ways between the points of a day as a road server measured them, and the table that keeps them.
//!
//! A matrix is one row: half a million numbers as two arrays of bytes. It is found again by what it was asked for: the
//! depot, the server's name, data and profile, and a hash of the points, sorted and rounded to five decimals (a metre).
//! Plans refer to the row they were made with, so that a cancel and `verify` compute with the same numbers. Rows nobody
//! has used for a time go, except those of plans for today and later.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    distance::{Haversine, Point},
    problem::Matrix,
};
use crate::ids::WarehouseId;

/// Rows that one statement deletes.
const PRUNED_AT_ONCE: i64 = 100;

/// A place to within a metre: latitude and longitude in hundred-thousandths of a degree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    lat: i32,
    lon: i32,
}

impl Cell {
    /// The place of a point on earth.
    pub fn of(point: Point) -> Cell {
        let round = |degrees: f64| (degrees * 1e5).round() as i32;
        Cell {
            lat: round(point.lat),
            lon: round(point.lon),
        }
    }

    /// Its point.
    pub fn point(self) -> Point {
        Point {
            lat: f64::from(self.lat) / 1e5,
            lon: f64::from(self.lon) / 1e5,
        }
    }
}

/// The places of these points, sorted, each once.
pub fn cells(points: impl IntoIterator<Item = Point>) -> Vec<Cell> {
    let mut cells: Vec<Cell> = points.into_iter().map(Cell::of).collect();
    cells.sort_unstable();
    cells.dedup();
    cells
}

/// Where ways come from: a server, its data and the sort of vehicle. Its text is what a plan says of its distances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `osrm` or `valhalla`.
    pub provider: String,
    /// What the server calls its data; empty where it does not say.
    pub data_version: String,
    /// The sort of vehicle, as the server calls it.
    pub profile: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.provider, self.profile, self.data_version)
    }
}

/// Every way between some places: metres and seconds, row by row. [`Matrix::NO_WAY`] where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoadMatrix {
    /// Who measured it.
    pub origin: Origin,
    cells: Vec<Cell>,
    metres: Vec<u32>,
    seconds: Vec<u32>,
}

impl RoadMatrix {
    /// A matrix without ways but those from a place to itself.
    pub(super) fn empty(origin: Origin, cells: Vec<Cell>) -> RoadMatrix {
        let count = cells.len();
        let none = || {
            let diagonal = |at: usize| if at / count == at % count { 0 } else { Matrix::NO_WAY };
            (0..count * count).map(diagonal).collect()
        };
        RoadMatrix {
            origin,
            metres: none(),
            seconds: none(),
            cells,
        }
    }

    /// Its places, sorted.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Where a place stands in it.
    pub(super) fn index(&self, cell: Cell) -> Option<usize> {
        self.cells.binary_search(&cell).ok()
    }

    pub(super) fn set(&mut self, from: usize, to: usize, (metres, seconds): (u32, u32)) {
        let at = from * self.cells.len() + to;
        (self.metres[at], self.seconds[at]) = (metres, seconds);
    }

    /// Metres and seconds from one of its places to another.
    pub(super) fn way(&self, from: usize, to: usize) -> (u32, u32) {
        let at = from * self.cells.len() + to;
        (self.metres[at], self.seconds[at])
    }

    /// The ways between these points. A point that is none of its places is as far as `beyond` says: such points are
    /// so far off that nobody asked about them.
    pub fn matrix(&self, points: &[Point], beyond: Haversine) -> Matrix {
        let places: Vec<Option<usize>> = points.iter().map(|point| self.index(Cell::of(*point))).collect();
        Matrix::from_fn(points.len(), |from, to| match (places[from], places[to]) {
            (Some(from), Some(to)) => self.way(from, to),
            _ if from == to => (0, 0),
            _ => {
                let metres = beyond.metres(points[from.min(to)], points[from.max(to)]);
                (metres, beyond.seconds(metres))
            }
        })
    }

    /// A hash of all there is in it.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.origin.to_string());
        hash.update(bytes_of_cells(&self.cells));
        hash.update(self.bytes_of_ways());
        hash.finalize().into()
    }

    fn bytes_of_ways(&self) -> Vec<u8> {
        let ways = self.metres.iter().chain(&self.seconds);
        ways.flat_map(|way| way.to_be_bytes()).collect()
    }

    /// From its row. The table's checks say how long each part is.
    fn from_row(row: Row) -> (Uuid, RoadMatrix) {
        let numbers = |bytes: &[u8]| -> Vec<u32> {
            let (fours, _) = bytes.as_chunks::<4>();
            fours.iter().map(|four| u32::from_be_bytes(*four)).collect()
        };
        let degrees = numbers(&row.points);
        let (pairs, _) = degrees.as_chunks::<2>();
        let mut metres = numbers(&row.ways);
        let seconds = metres.split_off(metres.len() / 2);
        let cells = pairs.iter().map(|[lat, lon]| Cell {
            lat: *lat as i32,
            lon: *lon as i32,
        });
        let matrix = RoadMatrix {
            origin: Origin {
                provider: row.provider,
                data_version: row.data_version,
                profile: row.profile,
            },
            cells: cells.collect(),
            metres,
            seconds,
        };
        (row.id, matrix)
    }
}

fn bytes_of_cells(cells: &[Cell]) -> Vec<u8> {
    cells
        .iter()
        .flat_map(|cell| [cell.lat, cell.lon])
        .flat_map(i32::to_be_bytes)
        .collect()
}

fn hash_of_cells(cells: &[Cell]) -> [u8; 32] {
    Sha256::digest(bytes_of_cells(cells)).into()
}

struct Row {
    id: Uuid,
    provider: String,
    data_version: String,
    profile: String,
    points: Vec<u8>,
    ways: Vec<u8>,
}

/// The matrix of exactly these places and its row, if it is kept: of that data, or of the latest where that is not known.
pub async fn find(
    conn: &mut PgConnection,
    warehouse: WarehouseId,
    (provider, profile, data_version): (&str, &str, Option<&str>),
    cells: &[Cell],
) -> Result<Option<(Uuid, RoadMatrix)>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, provider, data_version, profile, points, ways
           from road_matrices
           where warehouse_id = $1 and provider = $2 and profile = $3 and points_hash = $4
             and ($5::text is null or data_version = $5)
           order by made_at desc
           limit 1"#,
        warehouse.0,
        provider,
        profile,
        &hash_of_cells(cells),
        data_version,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(RoadMatrix::from_row))
}

/// The depot's latest matrix of that origin: most stops come back day after day, so most of its ways are wanted again.
pub async fn latest(
    conn: &mut PgConnection,
    warehouse: WarehouseId,
    origin: &Origin,
) -> Result<Option<RoadMatrix>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, provider, data_version, profile, points, ways
           from road_matrices
           where warehouse_id = $1 and provider = $2 and profile = $3 and data_version = $4
           order by made_at desc
           limit 1"#,
        warehouse.0,
        origin.provider,
        origin.profile,
        origin.data_version,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| RoadMatrix::from_row(row).1))
}

/// Keeps a matrix; returns its row, which is another's where two measured the same.
pub async fn keep(conn: &mut PgConnection, warehouse: WarehouseId, matrix: &RoadMatrix) -> Result<Uuid, sqlx::Error> {
    let Origin {
        provider,
        data_version,
        profile,
    } = &matrix.origin;
    sqlx::query_scalar!(
        r#"insert into road_matrices (id, warehouse_id, provider, data_version, profile, points_hash, points, ways)
           values ($1, $2, $3, $4, $5, $6, $7, $8)
           on conflict on constraint road_matrices_once do update set used_at = clock_timestamp()
           returning id"#,
        Uuid::now_v7(),
        warehouse.0,
        provider,
        data_version,
        profile,
        &hash_of_cells(&matrix.cells),
        &bytes_of_cells(&matrix.cells),
        &matrix.bytes_of_ways(),
    )
    .fetch_one(conn)
    .await
}

/// Notes that a plan is made with it.
pub(super) async fn touch(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("update road_matrices set used_at = clock_timestamp() where id = $1", id)
        .execute(conn)
        .await?;
    Ok(())
}

/// One matrix and its row.
pub(super) async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<(Uuid, RoadMatrix)>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "select id, provider, data_version, profile, points, ways from road_matrices where id = $1",
        id,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(RoadMatrix::from_row))
}

/// Deletes some matrices that nobody has used for so many days and that no plan for today or later was made with;
/// returns how many.
pub async fn prune(conn: &mut PgConnection, keep_days: i32) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        r#"delete from road_matrices where id in (
               select m.id from road_matrices m
               where m.used_at < clock_timestamp() - make_interval(days => $1)
                 and not exists (select from route_plans p
                                 where p.matrix_id = m.id and p.date >= (clock_timestamp() at time zone 'UTC')::date)
               order by m.used_at
               limit $2
               for update skip locked)"#,
        keep_days,
        PRUNED_AT_ONCE,
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}
