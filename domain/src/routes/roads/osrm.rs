//! OSRM's `table` service: `GET /table/v1/{profile}/{lon,lat;…}?annotations=duration,distance`. Metres and seconds are
//! those of the fastest way; `null` where there is none. Its own limit is on the product of sources and destinations;
//! ours is on the points, which keeps addresses short as well.

use futures::{FutureExt, future::BoxFuture};
use reqwest::StatusCode;
use serde::Deserialize;

use super::{Block, Cell, Error, Provider, Server, VERSION_MAX, plain, refused, sized};
use crate::routes::distance::Point;

/// An OSRM server.
#[derive(Debug)]
pub(super) struct Osrm {
    server: Server,
}

/// What every service of it answers.
#[derive(Deserialize)]
struct Answer {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data_version: String,
    durations: Option<Rows>,
    distances: Option<Rows>,
}

type Rows = Vec<Vec<Option<f64>>>;

impl Osrm {
    pub(super) fn new(server: Server) -> Osrm {
        Osrm { server }
    }

    async fn get(&self, service: &str, cells: &[Cell], query: &str) -> Result<Answer, Error> {
        let coordinates: Vec<String> = cells.iter().map(coordinate).collect();
        let mut url = self
            .server
            .address(&[service, "v1", &self.server.profile, &coordinates.join(";")]);
        url.set_query(Some(query));
        let (status, answer): (StatusCode, Answer) = self.server.ask(self.server.client.get(url)).await?;
        match answer.code.as_str() {
            "Ok" if status.is_success() => Ok(answer),
            "NoSegment" => Err(Error::NoRoad),
            code => Err(refused(status, &format!("{code} {}", answer.message))),
        }
    }
}

/// Longitude first.
fn coordinate(cell: &Cell) -> String {
    let Point { lat, lon } = cell.point();
    format!("{lon:.5},{lat:.5}")
}

impl Provider for Osrm {
    fn data_version(&self, near: Point) -> BoxFuture<'_, Result<String, Error>> {
        async move {
            match self
                .get("nearest", &[Cell::of(near)], "number=1&generate_hints=false")
                .await
            {
                Ok(answer) => Ok(plain(&answer.data_version, VERSION_MAX)),
                // It is there, and does not know the place: the table says so too.
                Err(Error::NoRoad) => Ok(String::new()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn block<'a>(&'a self, from: &'a [Cell], to: &'a [Cell]) -> BoxFuture<'a, Result<Block, Error>> {
        async move {
            let query = "annotations=duration,distance&generate_hints=false";
            let answer = if from == to {
                self.get("table", from, query).await?
            } else {
                let list = |places: std::ops::Range<usize>| -> String {
                    places.map(|place| place.to_string()).collect::<Vec<_>>().join(";")
                };
                let (sources, destinations) = (list(0..from.len()), list(from.len()..from.len() + to.len()));
                let query = format!("{query}&sources={sources}&destinations={destinations}");
                self.get("table", &[from, to].concat(), &query).await?
            };
            let missing = |name: &str| Error::Nonsense {
                at: format!("/{name}"),
                what: "must be there: the server is too old, or leaves distances out",
            };
            let durations = answer.durations.ok_or_else(|| missing("durations"))?;
            let distances = answer.distances.ok_or_else(|| missing("distances"))?;
            sized(&durations, (from, to), "durations")?;
            sized(&distances, (from, to), "distances")?;
            let cell = |row: usize, column: usize| (distances[row][column], durations[row][column]);
            Block::read((from, to), cell, |what, row, column| match what {
                "metres" => format!("/distances/{row}/{column}"),
                _ => format!("/durations/{row}/{column}"),
            })
        }
        .boxed()
    }
}
