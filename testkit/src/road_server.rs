//! A road server on loopback that speaks OSRM's and Valhalla's matrix formats, and makes mistakes to order.
//!
//! Its roads run north-south and east-west, and eastwards they are a tenth longer, so that both directions differ. It
//! keeps the limits of the real ones, and counts what it is asked.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What it calls its data.
pub const DATA_VERSION: &str = "2026-11-17T21:43:02Z";
/// Metres that its vehicles drive in a second.
const SPEED: f64 = 10.0;
const DEGREE_METRES: f64 = 111_195.0;

/// A mistake to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mistake {
    /// This status, with words of its own.
    Status(u16),
    /// An address elsewhere.
    Redirect,
    /// No answer, ever.
    Silence,
    /// The connection ends in the middle of the answer.
    BreaksOff,
    /// More bytes than anybody should read.
    Endless,
    /// Words instead of JSON.
    NotJson,
    /// A row less than asked for.
    RowMissing,
    /// A column less in the last row.
    ColumnMissing,
    /// A way of less than nothing in the first row.
    Negative,
    /// A way from a place to itself.
    SelfPair,
    /// Times without distances, as OSRM had it once.
    NoDistances,
}

/// What it has been asked, and how it answers.
#[derive(Debug, Default)]
struct Manner {
    mistake: Option<Mistake>,
    /// How many requests it makes the mistake for; all without.
    mistakes_left: Option<usize>,
    tables: usize,
    ways: usize,
    /// No way leads there: latitude and longitude to five decimals.
    islands: Vec<String>,
    /// There is no road near.
    seas: Vec<String>,
}

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub struct RoadServer {
    /// Where it is: `http://127.0.0.1:PORT/prefix/`.
    pub url: String,
    manner: Arc<Mutex<Manner>>,
    _stop: DropGuard,
}

impl RoadServer {
    /// Starts it; a request may name a product of `points_max` squared for OSRM, and a quarter of that for Valhalla.
    pub async fn start(points_max: usize) -> RoadServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let manner = Arc::new(Mutex::new(Manner::default()));
        let stop = CancellationToken::new();
        let serving = serve(listener, Arc::clone(&manner), points_max);
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        RoadServer {
            url: format!("http://{address}/prefix/"),
            manner,
            _stop: stop.drop_guard(),
        }
    }

    fn manner(&self) -> std::sync::MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a mistake with every matrix from now on, or none.
    pub fn make(&self, mistake: Option<Mistake>) {
        let mut manner = self.manner();
        (manner.mistake, manner.mistakes_left) = (mistake, None);
    }

    /// Makes a mistake with the next matrices, so many.
    pub fn make_for(&self, mistake: Mistake, requests: usize) {
        let mut manner = self.manner();
        (manner.mistake, manner.mistakes_left) = (Some(mistake), Some(requests));
    }

    /// No way leads to or from there.
    pub fn cut_off(&self, lat: f64, lon: f64) {
        self.manner().islands.push(key(lat, lon));
    }

    /// There is no road near.
    pub fn flood(&self, lat: f64, lon: f64) {
        self.manner().seas.push(key(lat, lon));
    }

    /// How many matrices it was asked for, and how many ways in them, since the last call.
    pub fn asked(&self) -> (usize, usize) {
        let mut manner = self.manner();
        (std::mem::take(&mut manner.tables), std::mem::take(&mut manner.ways))
    }

    /// Metres and seconds from one place to another, as it says.
    pub fn way(from: (f64, f64), to: (f64, f64)) -> (f64, f64) {
        let north = (to.0 - from.0).abs() * DEGREE_METRES;
        let east = (to.1 - from.1) * DEGREE_METRES * from.0.to_radians().cos();
        let metres = north + east.abs() * if east > 0.0 { 1.1 } else { 1.0 };
        // A tenth of a metre, as OSRM has it.
        let metres = (metres * 10.0).round() / 10.0;
        (metres, (metres / SPEED * 10.0).round() / 10.0)
    }
}

fn key(lat: f64, lon: f64) -> String {
    format!("{lat:.5},{lon:.5}")
}

async fn serve(listener: TcpListener, manner: Arc<Mutex<Manner>>, points_max: usize) {
    while let Ok((stream, _)) = listener.accept().await {
        let manner = Arc::clone(&manner);
        tokio::spawn(async move {
            // A client that goes away is no trouble of ours.
            let _gone = answer(stream, &manner, points_max).await;
        });
    }
}

async fn answer(mut stream: TcpStream, manner: &Mutex<Manner>, points_max: usize) -> std::io::Result<()> {
    let Some((target, body)) = request(&mut stream).await? else {
        return Ok(());
    };
    let path = target.split('?').next().unwrap_or_default();
    let is_matrix = path.starts_with("/prefix/table/") || path == "/prefix/sources_to_targets";
    let mut mistake = None;
    if is_matrix {
        let mut manner = manner.lock().unwrap_or_else(PoisonError::into_inner);
        mistake = match &mut manner.mistakes_left {
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                manner.mistake
            }
            None => manner.mistake,
        };
    }
    let (status, mut answer) = {
        let mut manner = manner.lock().unwrap_or_else(PoisonError::into_inner);
        if path.starts_with("/prefix/table/v1/driving/") {
            osrm(&mut manner, &target, points_max)
        } else if path.starts_with("/prefix/nearest/v1/driving/") {
            (
                200,
                json!({"code": "Ok", "data_version": DATA_VERSION, "waypoints": []}),
            )
        } else if path == "/prefix/sources_to_targets" {
            valhalla(&mut manner, &body, points_max)
        } else if path == "/prefix/status" {
            (200, json!({"version": "3.5.1", "tileset_last_modified": 1_634_903_519}))
        } else {
            (
                400,
                json!({"code": "InvalidUrl", "message": format!("URL string malformed: {target}")}),
            )
        }
    };
    match mistake {
        Some(Mistake::Silence) => {
            // Until the client gives up.
            let _gone = stream.read(&mut [0]).await?;
            return Ok(());
        }
        Some(Mistake::Status(status)) => {
            return respond(
                &mut stream,
                status,
                br#"{"code":"Busy","message":"come back later"}"#,
                "",
            )
            .await;
        }
        Some(Mistake::Redirect) => {
            return respond(&mut stream, 302, b"", "Location: http://127.0.0.1:1/\r\n").await;
        }
        Some(Mistake::Endless) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"code\":\"Ok\",\"durations\":[[")
                .await?;
            loop {
                stream.write_all(&vec![b'1'; 65_536]).await?;
            }
        }
        Some(Mistake::NotJson) => return respond(&mut stream, 200, b"<html>It works!</html>", "").await,
        Some(Mistake::BreaksOff) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"code\":")
                .await?;
            return Ok(());
        }
        Some(mistake) => spoil(&mut answer, mistake),
        None => {}
    }
    respond(&mut stream, status, answer.to_string().as_bytes(), "").await
}

async fn respond(stream: &mut TcpStream, status: u16, body: &[u8], more: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

/// The target and the body of a request; none when the client goes away.
async fn request(stream: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let mut piece = vec![0; 16_384];
        match stream.read(&mut piece).await? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        let mut piece = vec![0; 16_384];
        match stream.read(&mut piece).await? {
            0 => return Ok(None),
            count => body.extend_from_slice(&piece[..count]),
        }
    }
    Ok(Some((target, body)))
}

type Place = (f64, f64);
type Rows = Vec<Vec<Option<(f64, f64)>>>;

/// Metres and seconds of every way asked for.
fn rows(manner: &mut Manner, from: &[Place], to: &[Place]) -> Rows {
    manner.tables += 1;
    manner.ways += from.len() * to.len();
    let is_cut_off = |place: &Place| manner.islands.contains(&key(place.0, place.1));
    let way = |from: &Place, to: &Place| match (is_cut_off(from) || is_cut_off(to)) && from != to {
        true => None,
        false => Some(RoadServer::way(*from, *to)),
    };
    from.iter()
        .map(|from| to.iter().map(|to| way(from, to)).collect())
        .collect()
}

/// `GET /table/v1/driving/{lon,lat;…}?annotations=duration,distance&sources=…&destinations=…`
fn osrm(manner: &mut Manner, target: &str, points_max: usize) -> (u16, Value) {
    let refuse = |code: &str, message: &str| (400, json!({"code": code, "message": message}));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let coordinates = path.rsplit('/').next().unwrap_or_default();
    let mut places = Vec::new();
    for pair in coordinates.split(';') {
        match pair.split_once(',').map(|(lon, lat)| (lat.parse(), lon.parse())) {
            Some((Ok(lat), Ok(lon))) if (-90.0..=90.0).contains(&lat) => places.push((lat, lon)),
            _ => return refuse("InvalidQuery", "Query string malformed close to position 0"),
        }
    }
    let option = |name: &str| {
        let options = query.split('&').filter_map(|option| option.split_once('='));
        options
            .filter(|(found, _)| *found == name)
            .map(|(_, value)| value)
            .next()
    };
    let chosen = |name: &str| -> Vec<Place> {
        match option(name) {
            None => places.clone(),
            Some(list) => list
                .split(';')
                .filter_map(|index| places.get(index.parse::<usize>().ok()?).copied())
                .collect(),
        }
    };
    let (from, to) = (chosen("sources"), chosen("destinations"));
    if from.len() * to.len() > points_max * points_max {
        return refuse("TooBig", "Too many table coordinates");
    }
    if let Some(at) = places
        .iter()
        .position(|place| manner.seas.contains(&key(place.0, place.1)))
    {
        let message = format!("Could not find a matching segment for coordinate {at}");
        return refuse("NoSegment", &message);
    }
    if option("annotations") != Some("duration,distance") {
        return refuse("InvalidOptions", "this one is always asked for both");
    }
    let rows = rows(manner, &from, &to);
    let table = |pick: fn((f64, f64)) -> f64| -> Vec<Vec<Option<f64>>> {
        rows.iter()
            .map(|row| row.iter().map(|way| way.map(pick)).collect())
            .collect()
    };
    let waypoint = |place: &Place| json!({"location": [place.1, place.0], "name": "", "distance": 4.2});
    let answer = json!({
        "code": "Ok",
        "data_version": DATA_VERSION,
        "durations": table(|way| way.1),
        "distances": table(|way| way.0),
        "sources": from.iter().map(waypoint).collect::<Vec<_>>(),
        "destinations": to.iter().map(waypoint).collect::<Vec<_>>(),
    });
    (200, answer)
}

/// `POST /sources_to_targets`
fn valhalla(manner: &mut Manner, body: &[u8], points_max: usize) -> (u16, Value) {
    let refuse = |code: u32, error: &str| {
        let answer = json!({"error_code": code, "error": error, "status_code": 400, "status": "Bad Request"});
        (400, answer)
    };
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let places = |name: &str| -> Vec<Place> {
        let place = |place: &Value| Some((place["lat"].as_f64()?, place["lon"].as_f64()?));
        asked[name].as_array().into_iter().flatten().filter_map(place).collect()
    };
    let (from, to) = (places("sources"), places("targets"));
    if from.is_empty() || to.is_empty() {
        return refuse(
            112,
            "Insufficiently specified required parameter 'locations' or 'sources & targets'",
        );
    }
    if asked["costing"] != "auto" || asked["units"] != "kilometers" {
        return refuse(125, "No costing method found");
    }
    if from.len() * to.len() > points_max * points_max / 4 {
        return refuse(150, "Exceeded max locations");
    }
    if from
        .iter()
        .chain(&to)
        .any(|place| manner.seas.contains(&key(place.0, place.1)))
    {
        return refuse(171, "No suitable edges near location");
    }
    let rows = rows(manner, &from, &to);
    let cell = |row: usize, column: usize| match rows[row][column] {
        Some((metres, seconds)) => json!({
            "from_index": row, "to_index": column,
            "time": seconds.round() as u64, "distance": metres.round() / 1000.0, "cost": seconds,
        }),
        None => json!({"from_index": row, "to_index": column, "time": null, "distance": null, "cost": null}),
    };
    let cells: Vec<Vec<Value>> = (0..from.len())
        .map(|row| (0..to.len()).map(|column| cell(row, column)).collect())
        .collect();
    let location = |place: &Place| json!({"lat": place.0, "lon": place.1});
    let answer = json!({
        "sources_to_targets": cells,
        "sources": from.iter().map(location).collect::<Vec<_>>(),
        "targets": to.iter().map(location).collect::<Vec<_>>(),
        "units": "kilometers",
        "algorithm": "costmatrix",
    });
    (200, answer)
}

/// Makes an answer wrong, in either format.
fn spoil(answer: &mut Value, mistake: Mistake) {
    let tables: &[&str] = match answer.get("sources_to_targets") {
        Some(_) => &["/sources_to_targets"],
        None => &["/durations", "/distances"],
    };
    for table in tables {
        let Some(Value::Array(rows)) = answer.pointer_mut(table) else {
            continue;
        };
        let set = |cell: &mut Value, value: f64| match cell {
            Value::Object(way) => way["time"] = json!(value),
            cell => *cell = json!(value),
        };
        match mistake {
            Mistake::RowMissing => drop(rows.pop()),
            Mistake::ColumnMissing => {
                if let Some(Value::Array(row)) = rows.last_mut() {
                    row.pop();
                }
            }
            Mistake::Negative => set(&mut rows[0][1], -1.5),
            Mistake::SelfPair => set(&mut rows[1][1], 7.0),
            _ => {}
        }
    }
    if mistake == Mistake::NoDistances
        && let Value::Object(members) = answer
    {
        members.remove("distances");
    }
}
