//! Valhalla's `POST /sources_to_targets`: kilometres and seconds in cells, or, from a server told to be terse, in two
//! tables; `null` where there is no way. Its own limit, `max_matrix_location_pairs`, is 2,500 as it is delivered, which is
//! what 100 points a request come to.

use futures::{FutureExt, future::BoxFuture};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Block, Cell, Error, Provider, Server, VERSION_MAX, plain, refused, sized};
use crate::routes::distance::Point;

/// "No suitable edges near location".
const NO_EDGES: u32 = 171;

/// A Valhalla server.
#[derive(Debug)]
pub(super) struct Valhalla {
    server: Server,
}

#[derive(Deserialize)]
struct Answer {
    sources_to_targets: Option<Ways>,
    units: Option<String>,
    error_code: Option<u32>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ways {
    Cells(Vec<Vec<Way>>),
    Tables {
        distances: Vec<Vec<Option<f64>>>,
        durations: Vec<Vec<Option<f64>>>,
    },
}

#[derive(Deserialize)]
struct Way {
    distance: Option<f64>,
    time: Option<f64>,
}

#[derive(Deserialize)]
struct Status {
    tileset_last_modified: Option<i64>,
}

impl Valhalla {
    pub(super) fn new(server: Server) -> Valhalla {
        Valhalla { server }
    }
}

fn location(cell: &Cell) -> Value {
    let Point { lat, lon } = cell.point();
    json!({"lat": lat, "lon": lon})
}

impl Provider for Valhalla {
    fn data_version(&self, _: Point) -> BoxFuture<'_, Result<String, Error>> {
        async move {
            let url = self.server.address(&["status"]);
            let (status, answer): (StatusCode, Status) = self.server.ask(self.server.client.get(url)).await?;
            if !status.is_success() {
                return Err(refused(status, "to the question for its status"));
            }
            let version = answer.tileset_last_modified.map(|at| at.to_string());
            Ok(plain(&version.unwrap_or_default(), VERSION_MAX))
        }
        .boxed()
    }

    fn block<'a>(&'a self, from: &'a [Cell], to: &'a [Cell]) -> BoxFuture<'a, Result<Block, Error>> {
        async move {
            let locations = |cells: &[Cell]| -> Vec<Value> { cells.iter().map(location).collect() };
            let body = json!({
                "sources": locations(from),
                "targets": locations(to),
                "costing": self.server.profile,
                "units": "kilometers",
            });
            let url = self.server.address(&["sources_to_targets"]);
            let (status, answer): (StatusCode, Answer) =
                self.server.ask(self.server.client.post(url).json(&body)).await?;
            if answer.error_code == Some(NO_EDGES) {
                return Err(Error::NoRoad);
            }
            if !status.is_success() {
                return Err(refused(status, &answer.error));
            }
            if answer.units.as_deref().is_some_and(|units| units != "kilometers") {
                return Err(Error::Nonsense {
                    at: "/units".to_owned(),
                    what: "must be kilometers, as it was asked for",
                });
            }
            read((from, to), answer.sources_to_targets)
        }
        .boxed()
    }
}

fn read((from, to): (&[Cell], &[Cell]), ways: Option<Ways>) -> Result<Block, Error> {
    let metres = |kilometres: Option<f64>| kilometres.map(|kilometres| kilometres * 1000.0);
    match ways {
        None => Err(Error::Nonsense {
            at: "/sources_to_targets".to_owned(),
            what: "must be there",
        }),
        Some(Ways::Cells(rows)) => {
            sized(&rows, (from, to), "sources_to_targets")?;
            let cell = |row: usize, column: usize| {
                let way = &rows[row][column];
                (metres(way.distance), way.time)
            };
            Block::read((from, to), cell, |what, row, column| {
                let field = if what == "metres" { "distance" } else { "time" };
                format!("/sources_to_targets/{row}/{column}/{field}")
            })
        }
        Some(Ways::Tables { distances, durations }) => {
            sized(&distances, (from, to), "sources_to_targets/distances")?;
            sized(&durations, (from, to), "sources_to_targets/durations")?;
            let cell = |row: usize, column: usize| (metres(distances[row][column]), durations[row][column]);
            Block::read((from, to), cell, |what, row, column| {
                let table = if what == "metres" { "distances" } else { "durations" };
                format!("/sources_to_targets/{table}/{row}/{column}")
            })
        }
    }
}
