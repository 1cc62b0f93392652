//! Ways as a road server measures them: [OSRM](https://project-osrm.org)'s `table` service, or
//! [Valhalla](https://valhalla.github.io/valhalla/)'s `sources_to_targets`.
//!
//! [`measure`] is what a plan asks for: it cuts the day into blocks that the server accepts, asks for a few at a time,
//! repeats what failed in passing, and takes over from an earlier matrix what that knows. All within a time: planning
//! goes on with straight lines where this fails, so no error here is the plan's.
//!
//! The address is an operator's setting, like the gateway's, and no partner's: it may be private, and the guard of
//! [`egress`](crate::webhooks::egress) does not judge it. What comes back is not believed all the same: no redirect is
//! followed, no proxy asked, time and size are bounded, and every number is looked at before it is used.

mod osrm;
mod valhalla;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use url::Url;

use super::{
    distance::Point,
    problem::Matrix,
    road_matrix::{Cell, Origin, RoadMatrix},
};
use crate::services::OutOfBounds;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An answer about a thousand points has five megabytes; more is none.
const BODY_MAX: usize = 8 << 20;
/// Requests for one matrix at one time.
const REQUESTS_AT_ONCE: usize = 4;
/// How often one block is asked for, and the pause before each repeat, growing.
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// What is kept of a server's name for its data, and of its words about an error, in characters.
const VERSION_MAX: usize = 100;
const MESSAGE_MAX: usize = 200;

/// Which road server is asked, and how. `Roads::check` refuses what makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roads {
    /// What it speaks.
    pub kind: Kind,
    /// Where it is; a path in it comes before the service's own.
    pub url: Url,
    /// The sort of vehicle: OSRM's profile, Valhalla's costing. Without, [`Kind::profile`].
    pub profile: Option<String>,
    /// The most points that one request names: OSRM's `--max-table-size`. 2 to 1,000.
    pub points_max: usize,
    /// The longest that one request may take: 100 ms to a minute.
    pub timeout: Duration,
}

/// What a road server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// OSRM's `table` service.
    Osrm,
    /// Valhalla's `sources_to_targets`.
    Valhalla,
}

impl Kind {
    /// Its name, as in settings and plans.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Osrm => "osrm",
            Kind::Valhalla => "valhalla",
        }
    }

    /// What it calls a car.
    pub fn profile(self) -> &'static str {
        match self {
            Kind::Osrm => "driving",
            Kind::Valhalla => "auto",
        }
    }
}

impl Roads {
    /// The points that one request names, unless somebody says otherwise: both servers' own limit.
    pub const POINTS_MAX: usize = 100;
    /// The longest that one request takes, unless somebody says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// A server at that address, with the usual bounds.
    pub fn new(kind: Kind, url: Url) -> Roads {
        Roads {
            kind,
            url,
            profile: None,
            points_max: Self::POINTS_MAX,
            timeout: Self::TIMEOUT,
        }
    }

    /// Refuses values that make no sense, with the setting's name.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let refuse = |name, allowed| Err(OutOfBounds { name, allowed });
        let is_http = ["http", "https"].contains(&self.url.scheme()) && self.url.has_host();
        if !is_http || self.url.query().is_some() || self.url.fragment().is_some() {
            return refuse(
                "roads_url",
                "an address with http:// or https://, without a query and fragment",
            );
        }
        let is_word = |profile: &String| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            (1..=50).contains(&profile.len()) && profile.bytes().all(is_plain)
        };
        if !self.profile.as_ref().is_none_or(is_word) {
            return refuse("roads_profile", "1 to 50 letters, digits, _ and -");
        }
        if !(2..=1_000).contains(&self.points_max) {
            return refuse("roads_points_max", "from 2 to 1000");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.timeout) {
            return refuse("roads_timeout", "from 100ms to 1m");
        }
        Ok(())
    }

    /// The sort of vehicle that is asked about.
    pub fn profile(&self) -> &str {
        self.profile.as_deref().unwrap_or(self.kind.profile())
    }

    /// Where its ways come from, when it answers from that data.
    pub fn origin(&self, data_version: String) -> Origin {
        Origin {
            provider: self.kind.name().to_owned(),
            data_version,
            profile: self.profile().to_owned(),
        }
    }

    /// The server's client.
    pub fn provider(&self) -> Result<Arc<dyn Provider>, Error> {
        let server = Server::new(self)?;
        Ok(match self.kind {
            Kind::Osrm => Arc::new(osrm::Osrm::new(server)),
            Kind::Valhalla => Arc::new(valhalla::Valhalla::new(server)),
        })
    }
}

/// Who measures ways.
pub trait Provider: fmt::Debug + Send + Sync {
    /// What the server calls the data it answers from, asked at a point it should know; empty where it does not say.
    fn data_version(&self, near: Point) -> BoxFuture<'_, Result<String, Error>>;

    /// Every way from some places to others, in one request.
    fn block<'a>(&'a self, from: &'a [Cell], to: &'a [Cell]) -> BoxFuture<'a, Result<Block, Error>>;
}

/// Metres and seconds of every way from some places to others, row by row; `None` where there is no way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    ways: Vec<Option<(u32, u32)>>,
}

/// Why there are no ways.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The client cannot be made.
    #[error("the client of the road server cannot be made: {0}")]
    Unusable(String),
    /// Nobody there, or no whole answer in time.
    #[error("the road server did not answer: {0}")]
    Silent(String),
    /// It said no.
    #[error("the road server answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// One of the places is near no road it knows.
    #[error("the road server knows no road near one of the places")]
    NoRoad,
    /// It answered with what makes no sense.
    #[error("the road server's answer is wrong at {at:?}: {what}")]
    Nonsense {
        /// A JSON pointer into the answer.
        at: String,
        /// What it should be.
        what: &'static str,
    },
}

impl Error {
    /// Whether the same request may do better a moment later.
    fn is_passing(&self) -> bool {
        match self {
            Error::Silent(_) => true,
            Error::Refused { status, .. } => *status == 429 || *status >= 500,
            Error::Unusable(_) | Error::NoRoad | Error::Nonsense { .. } => false,
        }
    }
}

/// Measures every way between places, which are sorted and each there once. What `known` has of them is not asked again.
/// Places near no road keep no way.
pub async fn measure(
    roads: &Roads,
    provider: &dyn Provider,
    data_version: String,
    cells: Vec<Cell>,
    known: Option<&RoadMatrix>,
    within: Duration,
) -> Result<RoadMatrix, Error> {
    let origin = roads.origin(data_version);
    let deadline = Instant::now() + within;
    let asking = async {
        match ask_for_all(roads, provider, &origin, &cells, known).await {
            Err(Error::NoRoad) => {
                let near = near_roads(provider, &cells).await?;
                let measured = ask_for_all(roads, provider, &origin, &near, known).await?;
                Ok(spread(&measured, cells.clone()))
            }
            other => other,
        }
    };
    let too_long = |_| Error::Silent(format!("not all of it within {} s", within.as_secs_f32()));
    tokio::time::timeout_at(deadline.into(), asking)
        .await
        .map_err(too_long)?
}

/// Asks for all ways that are not known, block by block.
async fn ask_for_all(
    roads: &Roads,
    provider: &dyn Provider,
    origin: &Origin,
    cells: &[Cell],
    known: Option<&RoadMatrix>,
) -> Result<RoadMatrix, Error> {
    let mut matrix = RoadMatrix::empty(origin.clone(), cells.to_vec());
    let blocks = blocks(&take_over(&mut matrix, known), cells.len(), roads.points_max);
    let answers = stream::iter(blocks).map(async |(from, to)| {
        let at = |places: &[usize]| -> Vec<Cell> { places.iter().map(|place| cells[*place]).collect() };
        let block = patiently(provider, &at(&from), &at(&to)).await?;
        Ok::<_, Error>((from, to, block))
    });
    let mut answers = answers.buffer_unordered(REQUESTS_AT_ONCE);
    while let Some((from, to, block)) = answers.try_next().await? {
        let mut ways = block.ways.iter();
        for &row in &from {
            for &column in &to {
                if let Some(Some(way)) = ways.next() {
                    matrix.set(row, column, *way);
                }
            }
        }
    }
    drop(answers);
    Ok(matrix)
}

/// Writes what is known already; returns, for each place, whether it is.
fn take_over(matrix: &mut RoadMatrix, known: Option<&RoadMatrix>) -> Vec<bool> {
    let places: Vec<Option<usize>> = match known.filter(|known| known.origin == matrix.origin) {
        Some(known) => matrix.cells().iter().map(|cell| known.index(*cell)).collect(),
        None => vec![None; matrix.cells().len()],
    };
    if let Some(known) = known {
        for (from, known_from) in places.iter().enumerate() {
            for (to, known_to) in places.iter().enumerate() {
                if let (Some(known_from), Some(known_to)) = (known_from, known_to) {
                    matrix.set(from, to, known.way(*known_from, *known_to));
                }
            }
        }
    }
    places.iter().map(Option::is_some).collect()
}

type Places = Vec<usize>;

/// What to ask for so that every way with a new place in it is asked once: no request names more than `points_max`.
fn blocks(is_known: &[bool], count: usize, points_max: usize) -> Vec<(Places, Places)> {
    let (old, new): (Places, Places) = (0..count).partition(|place| is_known[*place]);
    if new.is_empty() {
        return Vec::new();
    }
    if count <= points_max {
        let all: Places = (0..count).collect();
        // One request for all is no more than one for the new ones.
        return vec![(all.clone(), all)];
    }
    let groups = |places: &[usize]| -> Vec<Places> { places.chunks(points_max / 2).map(<[usize]>::to_vec).collect() };
    let (old, new) = (groups(&old), groups(&new));
    let pairs = |from: &[Places], to: &[Places]| -> Vec<(Places, Places)> {
        from.iter()
            .flat_map(|from| to.iter().map(|to| (from.clone(), to.clone())))
            .collect()
    };
    [pairs(&new, &new), pairs(&new, &old), pairs(&old, &new)].concat()
}

/// One block, asked for again when it fails in passing.
async fn patiently(provider: &dyn Provider, from: &[Cell], to: &[Cell]) -> Result<Block, Error> {
    let mut tries = 1;
    loop {
        match provider.block(from, to).await {
            Err(error) if error.is_passing() && tries < TRIES_MAX => {
                tracing::debug!(%error, tries, "the road server is asked again");
                tokio::time::sleep(PAUSE * tries).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

/// The places near a road, each asked about alone: one in the sea must not cost the others their ways.
async fn near_roads(provider: &dyn Provider, cells: &[Cell]) -> Result<Vec<Cell>, Error> {
    let asked = stream::iter(cells.to_vec()).map(async |cell| match patiently(provider, &[cell], &[cell]).await {
        Ok(_) => Ok(Some(cell)),
        Err(Error::NoRoad) => Ok(None),
        Err(error) => Err(error),
    });
    let near: Vec<Option<Cell>> = asked.buffered(REQUESTS_AT_ONCE).try_collect().await?;
    Ok(near.into_iter().flatten().collect())
}

/// The same matrix with more places, to and from which there is no way.
fn spread(matrix: &RoadMatrix, cells: Vec<Cell>) -> RoadMatrix {
    let mut wider = RoadMatrix::empty(matrix.origin.clone(), cells);
    take_over(&mut wider, Some(matrix));
    wider
}

/// The HTTP client of either server.
#[derive(Debug)]
struct Server {
    client: reqwest::Client,
    url: Url,
    profile: String,
}

impl Server {
    fn new(roads: &Roads) -> Result<Server, Error> {
        crate::tls::install();
        let client = reqwest::Client::builder()
            .user_agent("orderfleet-routes/1")
            .connect_timeout(CONNECT_TIMEOUT.min(roads.timeout))
            .timeout(roads.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(REQUESTS_AT_ONCE)
            .build()
            .map_err(|error| Error::Unusable(error.to_string()))?;
        Ok(Server {
            client,
            url: roads.url.clone(),
            profile: roads.profile().to_owned(),
        })
    }

    /// The address with these parts after its own path.
    fn address(&self, parts: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Sends a request and reads a bounded answer: its status, and the body as that type.
    async fn ask<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, T), Error> {
        let silent = |error: reqwest::Error| Error::Silent(words(&error));
        let mut response = request.send().await.map_err(silent)?;
        let status = response.status();
        let too_big = Error::Nonsense {
            at: String::new(),
            what: "must have at most 8 MiB",
        };
        if response.content_length().is_some_and(|length| length > BODY_MAX as u64) {
            return Err(too_big);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(silent)? {
            if body.len() + chunk.len() > BODY_MAX {
                return Err(too_big);
            }
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice(&body) {
            Ok(answer) => Ok((status, answer)),
            Err(_) if !status.is_success() => Err(refused(status, "no words of its own")),
            Err(error) => Err(Error::Nonsense {
                at: String::new(),
                what: match error.classify() {
                    serde_json::error::Category::Data => "must have the members the service promises",
                    _ => "must be JSON",
                },
            }),
        }
    }
}

/// What went wrong, without the address: it may hold a password.
fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    match error.is_connect() {
        true => "nobody listens there".to_owned(),
        false => "the connection broke".to_owned(),
    }
}

fn refused(status: StatusCode, message: &str) -> Error {
    Error::Refused {
        status: status.as_u16(),
        message: plain(message, MESSAGE_MAX),
    }
}

/// A stranger's words, made short and harmless.
fn plain(text: &str, length_max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(length_max).collect()
}

impl Block {
    /// Takes what a server says cell by cell. `cell` returns metres and seconds, either none where there is no way, and
    /// `place` points to what it read.
    fn read(
        (from, to): (&[Cell], &[Cell]),
        cell: impl Fn(usize, usize) -> (Option<f64>, Option<f64>),
        place: impl Fn(&str, usize, usize) -> String,
    ) -> Result<Block, Error> {
        let mut ways = Vec::with_capacity(from.len() * to.len());
        for (row, start) in from.iter().enumerate() {
            for (column, end) in to.iter().enumerate() {
                let (metres, seconds) = cell(row, column);
                let number = |name, value: Option<f64>| match value.map(whole) {
                    None => Ok(None),
                    Some(Some(number)) => Ok(Some(number)),
                    Some(None) => Err(Error::Nonsense {
                        at: place(name, row, column),
                        what: "must be from 0 to 500000000",
                    }),
                };
                let way = number("metres", metres)?.zip(number("seconds", seconds)?);
                if start == end && way.is_some_and(|way| way != (0, 0)) {
                    return Err(Error::Nonsense {
                        at: place("seconds", row, column),
                        what: "must be zero: it is the same place",
                    });
                }
                // From a place to itself there is always a way.
                ways.push(if start == end { Some((0, 0)) } else { way });
            }
        }
        Ok(Block { ways })
    }
}

/// A length or time as a whole number, rounded up; none where it is no length.
fn whole(value: f64) -> Option<u32> {
    // A number that was a whole one in other units may be a hair above it.
    let number = (value - 1e-6).ceil();
    (value >= 0.0 && number <= 500_000_000.0).then_some(number.max(0.0) as u32)
}

const _: () = assert!(500_000_000 < Matrix::NO_WAY);

/// Refuses a table that has not these rows and columns.
fn sized<T>(rows: &[Vec<T>], (from, to): (&[Cell], &[Cell]), name: &str) -> Result<(), Error> {
    if rows.len() != from.len() {
        return Err(Error::Nonsense {
            at: format!("/{name}"),
            what: "must have a row for each place it was asked from",
        });
    }
    match rows.iter().position(|row| row.len() != to.len()) {
        None => Ok(()),
        Some(row) => Err(Error::Nonsense {
            at: format!("/{name}/{row}"),
            what: "must have a column for each place it was asked to",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each way is asked for.
    fn asked(is_known: &[bool], points_max: usize) -> Vec<Vec<usize>> {
        let count = is_known.len();
        let mut times = vec![vec![0; count]; count];
        for (from, to) in blocks(is_known, count, points_max) {
            let mut named = [from.clone(), to.clone()].concat();
            named.sort_unstable();
            named.dedup();
            assert!(named.len() <= points_max, "{named:?}");
            for row in &from {
                for column in &to {
                    times[*row][*column] += 1;
                }
            }
        }
        times
    }

    #[test]
    fn every_way_is_asked_for_once_and_no_request_names_too_many_points() {
        for points_max in [2, 3, 7, 10, 100] {
            assert_eq!(asked(&[false; 23], points_max), vec![vec![1; 23]; 23]);
        }
    }

    #[test]
    fn what_is_known_is_not_asked_again() {
        let is_known: Vec<bool> = (0..23).map(|place| place % 5 != 0).collect();
        for (row, times) in asked(&is_known, 6).iter().enumerate() {
            for (column, times) in times.iter().enumerate() {
                assert_eq!(*times, usize::from(!is_known[row] || !is_known[column]));
            }
        }
        assert!(blocks(&[true; 23], 23, 6).is_empty());
    }

    #[test]
    fn lengths_are_rounded_up_and_what_is_no_length_is_refused() {
        assert_eq!(whole(0.0), Some(0));
        assert_eq!(whole(0.1), Some(1));
        assert_eq!(whole(1.234 * 1000.0), Some(1234));
        assert_eq!(whole(192.6), Some(193));
        for wrong in [-0.1, -1e9, 5.1e8, f64::NAN, f64::INFINITY] {
            assert_eq!(whole(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_name() {
        let good = Roads::new(Kind::Osrm, "http://10.0.0.7:5000/osrm".parse().expect("an address"));
        assert_eq!(good.check(), Ok(()));
        let refused = |roads: Roads| roads.check().map_err(|refused| refused.name);
        let url = |url: &str| url.parse().expect("an address");
        assert_eq!(
            refused(Roads {
                url: url("ftp://roads"),
                ..good.clone()
            }),
            Err("roads_url")
        );
        assert_eq!(
            refused(Roads {
                url: url("http://roads/?a=b"),
                ..good.clone()
            }),
            Err("roads_url")
        );
        assert_eq!(
            refused(Roads {
                profile: Some("../car".to_owned()),
                ..good.clone()
            }),
            Err("roads_profile")
        );
        assert_eq!(
            refused(Roads {
                points_max: 1,
                ..good.clone()
            }),
            Err("roads_points_max")
        );
        assert_eq!(
            refused(Roads {
                timeout: Duration::ZERO,
                ..good
            }),
            Err("roads_timeout")
        );
    }
}
