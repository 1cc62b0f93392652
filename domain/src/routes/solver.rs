//! Finds the routes of a day: cheapest insertion first, then ruin and recreate ([`search`](super::search)).
//!
//! A pure function: the same problem, seed and number of iterations give the same solution, byte for byte, on every
//! machine. So there is no floating point here and no clock in any decision; only [`Control`] may cut a search short,
//! and the result then says so. What is found is always valid: every change is tested before it is made, and fewer
//! (weighted) stops left out always beat a cheaper way.

use std::ops::ControlFlow;

use super::course::course;
use super::model::Model;
use super::problem::{Load, Problem, Reason, Solution, Stop, Vehicle};
use super::search::Search;

pub use super::course::timetable;

/// How much searching is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How many rounds of ruin and recreate.
    pub iterations: u64,
    /// Where the random numbers start.
    pub seed: u64,
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rounds made.
    pub iterations: u64,
    /// What the best solution so far costs.
    pub cost: i64,
    /// How many stops it leaves out.
    pub unassigned: usize,
}

/// Asked every [`TICK_ITERATIONS`] rounds whether to go on.
pub trait Control: Sync {
    /// `Break` ends the search with the best solution so far.
    fn tick(&self, progress: &Progress) -> ControlFlow<()>;

    /// The share of the budget that is used, in 1/2³², where something else than the number of rounds decides, such
    /// as a clock: the search cools by it. Asked after each tick. Such a search does not repeat.
    fn share_q32(&self) -> Option<u64> {
        None
    }

    /// Whether [`best`](Control::best) is to be told the routes now. Asked after each tick.
    fn wants_best(&self) -> bool {
        false
    }

    /// Is told the best routes so far, when it wants them: what a search could start from.
    fn best(&self, _: &Progress, _: Routes) {}
}

/// Lets every search use its whole budget.
#[derive(Debug)]
pub struct Unhurried;

impl Control for Unhurried {
    fn tick(&self, _: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// How often a search asks whether to go on.
pub const TICK_ITERATIONS: u64 = 16;

/// Routes without their times: each is a vehicle and its stops.
pub type Routes = Vec<(usize, Vec<usize>)>;

/// Routes to start from: yesterday's, or this morning's. Each is a vehicle and its stops.
pub type Start = [(usize, Vec<usize>)];

/// Plans the day. The problem must pass [`Problem::check`].
pub fn solve(problem: &Problem, budget: &Budget, control: &dyn Control) -> Solution {
    solve_from(problem, &[], budget, control)
}

/// Plans the day, starting from a plan as far as that is still possible. The problem must pass [`Problem::check`].
pub fn solve_from(problem: &Problem, start: &Start, budget: &Budget, control: &dyn Control) -> Solution {
    let mut unassigned = Vec::new();
    let mut wanted = Vec::new();
    for stop in 0..problem.stops.len() {
        match impossible(problem, stop) {
            Some(reason) => unassigned.push((stop, reason)),
            None => wanted.push(problem.point(stop) as u32),
        }
    }
    let model = Model::new(problem);
    let is_wanted = |point: &u32| wanted.binary_search(point).is_ok();
    let start: Vec<(usize, Vec<u32>)> = start
        .iter()
        .filter_map(|(vehicle, stops)| {
            let tour = model.vehicles.iter().position(|known| known == vehicle)?;
            let points = stops.iter().map(|stop| (problem.depots + stop) as u32);
            Some((tour, points.filter(is_wanted).collect()))
        })
        .collect();
    let mut search = Search::new(&model, wanted, &start, budget.seed);
    search.recreate(false);
    let (iterations, truncated) = search.run(budget, control);
    // What was passed over may still have its place.
    search.recreate(false);

    let stops_of = |nodes: &[u32]| -> Vec<usize> { nodes.iter().map(|node| *node as usize - problem.depots).collect() };
    let tours: Vec<(usize, Vec<usize>)> = search
        .tours
        .iter()
        .enumerate()
        .map(|(at, tour)| (model.vehicles[at], stops_of(&tour.nodes)))
        .collect();
    for node in search.missing.clone() {
        let stop = node as usize - problem.depots;
        unassigned.push((stop, reason(problem, &tours, &search.nearest_misses(node), stop)));
    }
    unassigned.sort_by_key(|(stop, _)| *stop);
    let mut routes: Vec<_> = tours
        .iter()
        .filter_map(|(vehicle, stops)| timetable(problem, *vehicle, stops))
        .collect();
    routes.sort_by_key(|route| route.vehicle);
    let metres = routes.iter().map(|route| route.metres).sum();
    let cost = search.tours.iter().map(|tour| tour.cost).sum();
    Solution {
        routes,
        unassigned,
        metres,
        cost,
        iterations,
        truncated,
    }
}

/// Why no day could take this stop as the fleet is, if so.
pub fn impossible(problem: &Problem, index: usize) -> Option<Reason> {
    let stop = &problem.stops[index];
    let point = problem.point(index);
    if problem
        .vehicles
        .iter()
        .any(|vehicle| takes_alone(problem, vehicle, stop, point))
    {
        return None;
    }
    let Some(nearest) = problem
        .vehicles
        .iter()
        .map(|vehicle| stop.load.over(vehicle.capacity))
        .min_by_key(|over| over.grams.saturating_add(over.cm3))
    else {
        return Some(Reason::NoVehicles);
    };
    if nearest != Load::default() {
        return Some(Reason::TooBig {
            over_grams: nearest.grams,
            over_cm3: nearest.cm3,
        });
    }
    let has_skills = |vehicle: &&Vehicle| stop.skills & !vehicle.skills == 0;
    let has_depot = |vehicle: &&Vehicle| stop.depots >> vehicle.start & 1 == 1;
    if !problem.vehicles.iter().any(|vehicle| has_skills(&vehicle)) {
        return Some(Reason::MissingSkill);
    }
    if !problem.vehicles.iter().any(|vehicle| has_depot(&vehicle)) {
        return Some(Reason::WrongDepot);
    }
    let may_take = |vehicle: &&Vehicle| {
        let fits = stop.load.fits(vehicle.capacity) && vehicle.stops_max > 0;
        fits && has_skills(vehicle) && has_depot(vehicle)
    };
    let able: Vec<&Vehicle> = problem.vehicles.iter().filter(may_take).collect();
    if able.is_empty() {
        // Each thing it asks for is there, but never in one vehicle.
        return Some(Reason::MissingSkill);
    }
    let has_ways = |vehicle: &&Vehicle| {
        let ways = problem.ways(vehicle);
        ways.has_way(vehicle.start, point) && ways.has_way(point, vehicle.end)
    };
    let metres = |vehicle: &Vehicle| problem.ways(vehicle).metres(vehicle.start, point);
    let reaching: Vec<&Vehicle> = able.into_iter().filter(has_ways).collect();
    let Some(nearest) = reaching.iter().map(|vehicle| metres(vehicle)).min() else {
        return Some(Reason::Unreachable);
    };
    if nearest > i64::from(problem.range_metres) {
        return Some(Reason::OutOfRange { metres: nearest });
    }
    let is_in_range = |vehicle: &&Vehicle| metres(vehicle) <= i64::from(problem.range_metres);
    let in_range: Vec<&Vehicle> = reaching.into_iter().filter(is_in_range).collect();
    let misses = in_range.iter().map(|vehicle| miss_alone(problem, vehicle, stop, point));
    misses
        .min_by_key(|miss| miss.rank())
        .filter(|miss| *miss != Miss::None)
        .map(|miss| match miss {
            Miss::Shift { metres } => Reason::OutOfRange { metres },
            Miss::Window { late_seconds } => Reason::WindowImpossible { late_seconds },
            Miss::Length {
                over_seconds,
                over_metres,
            } => Reason::TooFar {
                over_seconds,
                over_metres,
            },
            Miss::None => unreachable!("filtered above"),
        })
}

/// Whether a vehicle that is empty could serve this stop and nothing else.
fn takes_alone(problem: &Problem, vehicle: &Vehicle, stop: &Stop, point: usize) -> bool {
    let ways = problem.ways(vehicle);
    stop.load.fits(vehicle.capacity)
        && vehicle.stops_max > 0
        && stop.skills & !vehicle.skills == 0
        && stop.depots >> vehicle.start & 1 == 1
        && ways.metres(vehicle.start, point) <= i64::from(problem.range_metres)
        && course(problem, vehicle, &[point as u32]).is_some()
}

/// What keeps an empty vehicle from serving one stop alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Miss {
    None,
    Window { late_seconds: i32 },
    Length { over_seconds: i32, over_metres: i64 },
    Shift { metres: i64 },
}

impl Miss {
    /// Nearest first.
    fn rank(self) -> (u8, i64) {
        match self {
            Miss::None => (0, 0),
            Miss::Window { late_seconds } => (1, i64::from(late_seconds)),
            Miss::Length {
                over_seconds,
                over_metres,
            } => (2, i64::from(over_seconds).max(over_metres)),
            Miss::Shift { metres } => (3, metres),
        }
    }
}

fn miss_alone(problem: &Problem, vehicle: &Vehicle, stop: &Stop, point: usize) -> Miss {
    if course(problem, vehicle, &[point as u32]).is_some() {
        return Miss::None;
    }
    let ways = problem.ways(vehicle);
    let (out, back) = (ways.seconds(vehicle.start, point), ways.seconds(point, vehicle.end));
    let metres = ways.metres(vehicle.start, point);
    let seconds = out + stop.service + back;
    if vehicle.shift.start + seconds > vehicle.shift.end {
        return Miss::Shift { metres };
    }
    let late = stop.windows.iter().map(|window| {
        let starts_at = (vehicle.shift.start + out).max(window.start);
        (starts_at - window.end).max(starts_at + stop.service + back - vehicle.shift.end)
    });
    match late.min().filter(|late| *late > 0) {
        Some(late_seconds) => Miss::Window { late_seconds },
        None => Miss::Length {
            over_seconds: seconds.saturating_sub(vehicle.seconds_max).max(0),
            over_metres: (metres + ways.metres(point, vehicle.end) - vehicle.metres_max).max(0),
        },
    }
}

/// What keeps a stop off one vehicle's route; `None` where nothing does.
fn obstacle(problem: &Problem, vehicle: usize, stops: &[usize], index: usize) -> Option<Reason> {
    let stop = &problem.stops[index];
    let (number, vehicle) = (vehicle, &problem.vehicles[vehicle]);
    if stop.skills & !vehicle.skills != 0 {
        return Some(Reason::MissingSkill);
    }
    if stop.depots >> vehicle.start & 1 == 0 {
        return Some(Reason::WrongDepot);
    }
    if stops.len() >= vehicle.stops_max {
        return Some(Reason::StopsMax);
    }
    let load = stops
        .iter()
        .fold(stop.load, |load, other| load + problem.stops[*other].load);
    let over = load.over(vehicle.capacity);
    if over != Load::default() {
        return Some(Reason::NoCapacityLeft {
            vehicle: number,
            over_grams: over.grams,
            over_cm3: over.cm3,
        });
    }
    let locked = vehicle
        .locked
        .iter()
        .zip(stops)
        .take_while(|(locked, stop)| locked == stop)
        .count();
    let mut longer: Vec<u32> = stops.iter().map(|stop| problem.point(*stop) as u32).collect();
    longer.insert(locked, problem.point(index) as u32);
    let mut late_seconds = i32::MAX;
    for before in locked..=stops.len() {
        if before > locked {
            longer.swap(before - 1, before);
        }
        if course(problem, vehicle, &longer).is_some() {
            return None;
        }
        late_seconds = late_seconds.min(lateness(problem, vehicle, &longer));
    }
    match late_seconds {
        ..=0 => Some(Reason::RouteTooLong { vehicle: number }),
        _ => Some(Reason::NoTimeLeft {
            vehicle: number,
            late_seconds,
        }),
    }
}

/// By how many seconds a route misses a window or its shift, at the first place where it does; all before is in time.
fn lateness(problem: &Problem, vehicle: &Vehicle, nodes: &[u32]) -> i32 {
    let ways = problem.ways(vehicle);
    let (mut at, mut clock, mut late) = (vehicle.start, vehicle.shift.start, 0);
    for &node in nodes {
        let point = node as usize;
        let stop = &problem.stops[point - problem.depots];
        let arrives = clock + ways.seconds(at, point);
        let last = stop.windows[stop.windows.len() - 1];
        late = late.max(arrives - last.end);
        let window = stop
            .windows
            .iter()
            .find(|window| arrives <= window.end)
            .unwrap_or(&last);
        (at, clock) = (point, arrives.min(window.end).max(window.start) + stop.service);
    }
    late.max(clock + ways.seconds(at, vehicle.end) - vehicle.shift.end)
}

/// What kept a stop off every route: the nearest miss. Only the tour that comes nearest is looked at closely.
fn reason(problem: &Problem, tours: &[(usize, Vec<usize>)], nearest: &[usize], stop: usize) -> Reason {
    let mut obstacles = nearest.iter().filter_map(|tour| {
        let (vehicle, stops) = &tours[*tour];
        obstacle(problem, *vehicle, stops, stop)
    });
    // Without any, no vehicle that could take it at all is free.
    obstacles.next().unwrap_or(Reason::NoVehicleLeft)
}

/// How many of the vehicles that are free are kept from a stop by what: counts by the names of the reasons.
pub fn tally(problem: &Problem, solution: &Solution, stop: usize) -> std::collections::BTreeMap<&'static str, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for (vehicle, _) in problem
        .vehicles
        .iter()
        .enumerate()
        .filter(|(_, vehicle)| vehicle.available)
    {
        let route = solution.routes.iter().find(|route| route.vehicle == vehicle);
        let stops: Vec<usize> = route.map_or(Vec::new(), |route| route.stops.iter().map(|stop| stop.stop).collect());
        if let Some(reason) = obstacle(problem, vehicle, &stops, stop) {
            *counts.entry(reason.name()).or_default() += 1;
        }
    }
    counts
}
