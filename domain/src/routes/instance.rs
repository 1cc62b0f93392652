//! Published problems: Solomon's and Gehring and Homberger's `.txt` files, and VRPLIB's `.vrp`, many depots among them.
//!
//! Costs are counted as their best known ones are: `.txt` and one-depot files with windows in tenths, distances
//! truncated; files with many depots in thousandths, distances rounded; all others in whole numbers, rounded. Only the
//! way costs anything.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::problem::{Load, Malformed, Matrix, Problem, Solution, Stop, Vehicle, Window};

/// The most places a file may have.
pub const PLACES_MAX: usize = 20_000;

/// A problem from a file, and how its numbers are written.
#[derive(Debug, Clone)]
pub struct Instance {
    /// What it calls itself.
    pub name: String,
    /// What to solve.
    pub problem: Problem,
    /// How many units of cost make one of the file's.
    pub scale: u32,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It does not read like either format.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What it must be.
        what: &'static str,
    },
    /// Something is not there.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// What is there makes no problem.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// A place of a file, in the file's units times the scale.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    x: i64,
    y: i64,
    demand: i64,
    open: Option<(i64, i64)>,
    service: i64,
}

/// Writes what a row of a section says, after its number, to its place; the line is for errors.
type SetRow<'a> = &'a dyn Fn(&mut Place, &[&str], usize) -> Result<(), Error>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Down,
    Nearest,
}

impl Instance {
    /// Reads either format.
    pub fn parse(text: &str) -> Result<Instance, Error> {
        match text
            .lines()
            .any(|line| line.trim_start().starts_with("NODE_COORD_SECTION"))
        {
            true => parse_vrplib(text),
            false => parse_solomon(text),
        }
    }

    /// The routes and the cost, as solutions of such problems are published. Where there are several depots each
    /// vehicle has its line, also without stops.
    pub fn print(&self, solution: &Solution) -> String {
        let has_depots = self.problem.depots > 1;
        let mut text = String::new();
        let mut number = 0;
        for route in &solution.routes {
            number += 1;
            while has_depots && number <= route.vehicle {
                let _ = writeln!(text, "Route #{number}:");
                number += 1;
            }
            let _ = write!(text, "Route #{number}:");
            for stop in &route.stops {
                // Rows are counted from the first depot's, which is 0.
                let _ = write!(text, " {}", self.problem.point(stop.stop));
            }
            text.push('\n');
        }
        let _ = writeln!(text, "Cost {}", self.print_cost(solution.cost));
        text
    }

    /// A cost in the file's units.
    pub fn print_cost(&self, cost: i64) -> String {
        let scale = i64::from(self.scale);
        match scale {
            1 => cost.to_string(),
            _ => format!(
                "{}.{:0width$}",
                cost / scale,
                cost % scale,
                width = scale.ilog10() as usize
            ),
        }
    }
}

fn number(word: &str, scale: u32, line: usize) -> Result<i64, Error> {
    let bad = Error::Line {
        line,
        what: "must hold numbers",
    };
    let value: f64 = word.parse().map_err(|_| bad)?;
    match value.abs() < 1e8 {
        true => Ok((value * f64::from(scale)).round() as i64),
        false => Err(Error::Line {
            line,
            what: "must hold numbers below 10^8",
        }),
    }
}

fn distance(a: &Place, b: &Place, rounding: Rounding) -> u32 {
    let square = a.x.abs_diff(b.x).pow(2) + a.y.abs_diff(b.y).pow(2);
    let length = match rounding {
        Rounding::Down => square.isqrt(),
        // Half of the root of four times the square, which is the root to the nearest half.
        Rounding::Nearest => (4 * square).isqrt().div_ceil(2),
    };
    length.min(u64::from(Matrix::NO_WAY)) as u32
}

/// A header of vehicles and capacity, then a line of seven numbers for each place, the depot first.
fn parse_solomon(text: &str) -> Result<Instance, Error> {
    const SCALE: u32 = 10;
    let name = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("")
        .to_owned();
    let (mut limits, mut places) = (None, Vec::new());
    for (line, words) in text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .enumerate()
    {
        let line = line + 1;
        let is_numeric = |word: &str| word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        if !words.iter().all(|word| is_numeric(word)) {
            continue;
        }
        match words.len() {
            2 if limits.is_none() => limits = Some((number(words[0], 1, line)?, number(words[1], 1, line)?)),
            7 => {
                let scaled = |i: usize| number(words[i], SCALE, line);
                places.push(Place {
                    x: scaled(1)?,
                    y: scaled(2)?,
                    demand: number(words[3], 1, line)?,
                    open: Some((scaled(4)?, scaled(5)?)),
                    service: scaled(6)?,
                });
            }
            0 | 1 => {}
            _ => {
                return Err(Error::Line {
                    line,
                    what: "must hold seven numbers, or two",
                });
            }
        }
        if places.len() > PLACES_MAX {
            return Err(Error::Line {
                line,
                what: "is one place too many",
            });
        }
    }
    let (count, capacity) = limits.ok_or(Error::Missing("line of vehicles and capacity"))?;
    let depot = places.first().ok_or(Error::Missing("depot"))?;
    let van = Vehicle {
        capacity: Load {
            grams: capacity,
            cm3: 0,
        },
        shift: window(depot),
        ..Vehicle::default()
    };
    let count = usize::try_from(count).unwrap_or(0).min(places.len() - 1);
    build(name, &places, 1, vec![van; count], SCALE, Rounding::Down)
}

/// The window of a place; a very long one where it has none.
fn window(place: &Place) -> Window {
    let limit = |time: i64| time.clamp(0, i64::from(Problem::SECONDS_MAX)) as i32;
    match place.open {
        Some((start, end)) => Window {
            start: limit(start),
            end: limit(end),
        },
        None => Window {
            start: 0,
            end: Problem::SECONDS_MAX,
        },
    }
}

fn build(
    name: String,
    places: &[Place],
    depots: usize,
    vehicles: Vec<Vehicle>,
    scale: u32,
    rounding: Rounding,
) -> Result<Instance, Error> {
    let is_timed = places.iter().any(|place| place.open.is_some() || place.service > 0)
        || vehicles.iter().any(|vehicle| vehicle.seconds_max < i32::MAX);
    let matrix = Matrix::from_fn(places.len(), |from, to| {
        let metres = distance(&places[from], &places[to], rounding);
        (metres, if is_timed { metres } else { 0 })
    });
    let stops = places[depots..].iter().map(|place| Stop {
        load: Load {
            grams: place.demand,
            cm3: 0,
        },
        windows: vec![window(place)],
        service: place.service.clamp(0, i64::from(Problem::SECONDS_MAX)) as i32,
        ..Stop::default()
    });
    let problem = Problem {
        depots,
        ..Problem::of_one_depot(stops.collect(), vehicles, matrix)
    };
    problem.check()?;
    Ok(Instance { name, problem, scale })
}

fn parse_vrplib(text: &str) -> Result<Instance, Error> {
    let mut header: HashMap<&str, &str> = HashMap::new();
    let mut sections: HashMap<&str, Vec<(usize, Vec<&str>)>> = HashMap::new();
    let mut section = None;
    for (line, content) in text.lines().enumerate() {
        let content = content.trim();
        if content == "EOF" {
            break;
        }
        if content.ends_with("_SECTION") {
            section = Some(content);
            sections.insert(content, Vec::new());
        } else if let Some((key, value)) = content.split_once(':') {
            header.insert(key.trim(), value.trim());
            section = None;
        } else if let Some(rows) = section.and_then(|section| sections.get_mut(section)) {
            let words: Vec<&str> = content.split_whitespace().collect();
            if !words.is_empty() {
                rows.push((line + 1, words));
            }
            if rows.len() > PLACES_MAX {
                return Err(Error::Line {
                    line: line + 1,
                    what: "is one too many",
                });
            }
        } else if !content.is_empty() {
            return Err(Error::Line {
                line: line + 1,
                what: "is in no section",
            });
        }
    }
    let rows = |name: &str| sections.get(name).map_or(&[][..], Vec::as_slice);
    let is_row = |row: &str| row.parse::<i64>().is_ok_and(|row| row > 0);
    let depots = rows("DEPOT_SECTION")
        .iter()
        .filter(|(_, words)| is_row(words[0]))
        .count()
        .max(1);
    let is_first = |(row, (_, words)): (usize, &(usize, Vec<&str>))| row >= depots || words[0].parse() == Ok(row + 1);
    if !rows("DEPOT_SECTION").iter().enumerate().all(is_first) {
        return Err(Error::Missing("depot in the first rows: depots come before clients"));
    }
    if header.get("EDGE_WEIGHT_TYPE").is_some_and(|kind| *kind != "EUC_2D") {
        return Err(Error::Missing("plane of points: EDGE_WEIGHT_TYPE must be EUC_2D"));
    }
    let header_number = |key: &str, scale: u32| header.get(key).map(|value| number(value, scale, 0)).transpose();
    let seconds_max = header.get("VEHICLES_MAX_DURATION");
    let (scale, rounding) = match (depots, rows("TIME_WINDOW_SECTION").is_empty()) {
        (1, true) if seconds_max.is_none() => (1, Rounding::Nearest),
        (1, false) if seconds_max.is_none() => (10, Rounding::Down),
        _ => (1000, Rounding::Nearest),
    };

    let mut places = Vec::new();
    for (line, words) in rows("NODE_COORD_SECTION") {
        let [row, x, y] = words[..] else {
            return Err(Error::Line {
                line: *line,
                what: "must hold a row's number, x and y",
            });
        };
        if row.parse() != Ok(places.len() + 1) {
            return Err(Error::Line {
                line: *line,
                what: "must hold the next row's number",
            });
        }
        places.push(Place {
            x: number(x, scale, *line)?,
            y: number(y, scale, *line)?,
            service: header_number("SERVICE_TIME", scale)?.unwrap_or(0),
            ..Place::default()
        });
    }
    if places.len() <= depots {
        return Err(Error::Missing("client in NODE_COORD_SECTION"));
    }
    places[..depots].iter_mut().for_each(|depot| depot.service = 0);
    let mut set = |section: &str, set: SetRow| {
        for (line, words) in rows(section) {
            let row = words[0]
                .parse::<usize>()
                .ok()
                .filter(|row| (1..=places.len()).contains(row));
            let row = row.ok_or(Error::Line {
                line: *line,
                what: "must start with the number of a row",
            })?;
            set(&mut places[row - 1], &words[1..], *line)?;
        }
        Ok::<(), Error>(())
    };
    let one = |words: &[&str], scale: u32, line: usize| match words {
        [word] => number(word, scale, line),
        _ => Err(Error::Line {
            line,
            what: "must hold one number",
        }),
    };
    set("DEMAND_SECTION", &|place, words, line| {
        place.demand = one(words, 1, line)?;
        Ok(())
    })?;
    set("SERVICE_TIME_SECTION", &|place, words, line| {
        place.service = one(words, scale, line)?;
        Ok(())
    })?;
    set("TIME_WINDOW_SECTION", &|place, words, line| match words {
        [start, end] => {
            place.open = Some((number(start, scale, line)?, number(end, scale, line)?));
            Ok(())
        }
        _ => Err(Error::Line {
            line,
            what: "must hold when a window opens and closes",
        }),
    })?;

    let capacity = header_number("CAPACITY", 1)?.ok_or(Error::Missing("CAPACITY"))?;
    let seconds_max = header_number("VEHICLES_MAX_DURATION", scale)?;
    let van = |depot: usize| Vehicle {
        capacity: Load {
            grams: capacity,
            cm3: 0,
        },
        shift: window(&places[depot]),
        start: depot,
        end: depot,
        seconds_max: seconds_max.map_or(i32::MAX, |most| most.clamp(0, i64::from(i32::MAX)) as i32),
        ..Vehicle::default()
    };
    let mut vehicles: Vec<Vehicle> = Vec::new();
    for (line, words) in rows("VEHICLES_DEPOT_SECTION") {
        let depot = words.get(1).and_then(|depot| depot.parse::<usize>().ok());
        match depot.filter(|depot| (1..=depots).contains(depot)) {
            Some(depot) => vehicles.push(van(depot - 1)),
            None => {
                return Err(Error::Line {
                    line: *line,
                    what: "must hold a vehicle and its depot",
                });
            }
        }
    }
    if vehicles.is_empty() {
        let limit = header_number("VEHICLES", 1)?.map(|count| usize::try_from(count).unwrap_or(0));
        // As many as could ever help, where the file does not say: a quarter more than the loads need, and some.
        let needed = places.iter().map(|place| place.demand).sum::<i64>() / capacity.max(1);
        let count = limit.unwrap_or(usize::try_from(needed).unwrap_or(0) * 5 / 4 + 10);
        let count = count.min(places.len() - depots);
        vehicles = (0..depots).flat_map(|depot| vec![van(depot); count]).collect();
    }
    let name = header.get("NAME").copied().unwrap_or("").to_owned();
    build(name, &places, depots, vehicles, scale, rounding)
}
