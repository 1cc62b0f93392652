//! Recomputes everything a plan says, trusting neither the solver nor its shortcuts: called before a plan is stored,
//! and again over what is stored. It shares only the problem's types with the solver.

use std::fmt;

use super::problem::{Load, PlannedRoute, PlannedStop, Problem, Reason, Window};

/// Something a plan says that is not so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which of the promises R1 to R5 is broken.
    pub rule: &'static str,
    /// The vehicle whose route it is, if it is about a route.
    pub vehicle: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vehicle {
            Some(vehicle) => write!(f, "{} vehicle {vehicle}: {}", self.rule, self.what),
            None => write!(f, "{} {}", self.rule, self.what),
        }
    }
}

/// A stored length may differ from a recomputed one by so much: floating point is not the same on every machine.
const METRES_TOLERANCE: i64 = 1;

/// What is wrong with a plan; empty when it is sound.
pub fn check(problem: &Problem, routes: &[PlannedRoute], unassigned: &[(usize, Reason)]) -> Vec<Violation> {
    let mut violations: Vec<Violation> = routes.iter().flat_map(|route| check_route(problem, route)).collect();
    let mut broken = |rule, what: String| {
        violations.push(Violation {
            rule,
            vehicle: None,
            what,
        })
    };

    let mut uses = vec![0; problem.vehicles.len()];
    for route in routes.iter().filter(|route| route.vehicle < problem.vehicles.len()) {
        uses[route.vehicle] += 1;
    }
    for (vehicle, _) in uses.iter().enumerate().filter(|(_, uses)| **uses > 1) {
        broken("R1", format!("vehicle {vehicle} has several routes"));
    }
    let mut places = vec![0; problem.stops.len()];
    let on_routes = routes.iter().flat_map(|route| &route.stops).map(|stop| stop.stop);
    for stop in on_routes.chain(unassigned.iter().map(|(stop, _)| *stop)) {
        match places.get_mut(stop) {
            Some(places) => *places += 1,
            None => broken("R4", format!("stop {stop} is not in the problem")),
        }
    }
    for (stop, places) in places.iter().enumerate().filter(|(_, places)| **places != 1) {
        broken("R4", format!("stop {stop} is in {places} places instead of one"));
    }
    violations
}

/// What is wrong with one route by itself.
pub fn check_route(problem: &Problem, route: &PlannedRoute) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |rule, what: String| {
        violations.push(Violation {
            rule,
            vehicle: Some(route.vehicle),
            what,
        })
    };
    let Some(vehicle) = problem.vehicles.get(route.vehicle) else {
        broken("R1", "no such vehicle".into());
        return violations;
    };
    if !vehicle.available {
        broken("R1", "the vehicle is busy that day".into());
    }
    if route.stops.is_empty() {
        broken("R4", "a route without stops".into());
        return violations;
    }
    if route.stops.iter().any(|planned| planned.stop >= problem.stops.len()) {
        broken("R4", "a stop that is not in the problem".into());
        return violations;
    }

    let stops = || route.stops.iter().map(|planned| &problem.stops[planned.stop]);
    let load = Load {
        grams: stops().map(|stop| stop.load.grams).sum(),
        cm3: stops().map(|stop| stop.load.cm3).sum(),
    };
    if load != route.load {
        broken("R2", format!("load is {load:?}, not {:?}", route.load));
    }
    if load.grams > vehicle.capacity.grams || load.cm3 > vehicle.capacity.cm3 {
        broken("R2", format!("load {load:?} exceeds {:?}", vehicle.capacity));
    }
    if route.stops.len() > vehicle.stops_max {
        broken(
            "R2",
            format!("{} stops exceed {}", route.stops.len(), vehicle.stops_max),
        );
    }
    for planned in &route.stops {
        let stop = &problem.stops[planned.stop];
        if (0..64).any(|bit| stop.skills & 1 << bit != 0 && vehicle.skills & 1 << bit == 0) {
            broken(
                "R2",
                format!("stop {} asks for what the vehicle cannot do", planned.stop),
            );
        }
        if stop.depots & 1 << vehicle.start == 0 {
            broken("R2", format!("stop {} is not served from there", planned.stop));
        }
    }
    for (place, locked) in vehicle.locked.iter().enumerate() {
        if route.stops.get(place).map(|planned| planned.stop) != Some(*locked) {
            broken(
                "R1",
                format!("stop {locked} is locked at place {place} and is not there"),
            );
        }
    }

    if route.departs_at < vehicle.shift.start {
        broken("R3", format!("departs at {}, before its shift", route.departs_at));
    }
    if route.returns_at > vehicle.shift.end {
        broken("R3", format!("returns at {}, after its shift", route.returns_at));
    }
    if i64::from(route.returns_at) - i64::from(route.departs_at) > i64::from(vehicle.seconds_max) {
        broken("R3", format!("is out for more than {} s", vehicle.seconds_max));
    }
    let matrix = &problem.matrices[vehicle.profile];
    let (mut point, mut clock, mut metres) = (vehicle.start, i64::from(route.departs_at), 0);
    for (place, planned) in route.stops.iter().enumerate() {
        let (stop, number) = (&problem.stops[planned.stop], planned.stop);
        let next = problem.depots + number;
        if !matrix.has_way(point, next) {
            broken("R3", format!("there is no way to stop {number}"));
        }
        let leg = matrix.metres(point, next);
        if (leg - planned.metres_from_previous).abs() > METRES_TOLERANCE {
            broken(
                "R5",
                format!("stop {number} is {leg} m on, not {}", planned.metres_from_previous),
            );
        }
        metres += planned.metres_from_previous;
        let arrives = clock + i64::from(matrix.seconds(point, next));
        let mut ready = arrives;
        if let (Some(planned), Some(rest)) = (route.rest.filter(|rest| rest.after_stops == place), vehicle.rest) {
            if i64::from(planned.starts_at) < arrives {
                broken("R3", format!("rests at {}, before it is there", planned.starts_at));
            }
            ready = i64::from(planned.starts_at) + i64::from(rest.seconds);
        }
        let open = |window: &&Window| ready <= i64::from(window.end);
        let opens = stop
            .windows
            .iter()
            .find(open)
            .map_or(i64::MAX, |window| i64::from(window.start));
        let starts = if ready < opens && opens < i64::MAX {
            opens
        } else {
            ready
        };
        let leaves = starts + i64::from(stop.service);
        let stored = (
            i64::from(planned.arrives_at),
            i64::from(planned.starts_at),
            i64::from(planned.leaves_at),
        );
        if (arrives, starts, leaves) != stored {
            broken(
                "R3",
                format!("stop {number} is at {:?}, not {stored:?}", (arrives, starts, leaves)),
            );
        }
        let is_in = |window: &Window| (i64::from(window.start)..=i64::from(window.end)).contains(&stored.1);
        if !stop.windows.iter().any(is_in) {
            broken(
                "R3",
                format!("stop {number} starts at {} outside {:?}", stored.1, stop.windows),
            );
        }
        (point, clock) = (next, stored.2);
    }
    match (route.rest, vehicle.rest) {
        (Some(planned), Some(rest)) => {
            if planned.starts_at < rest.window.start || planned.starts_at > rest.window.end {
                broken(
                    "R3",
                    format!("rests at {} outside {:?}", planned.starts_at, rest.window),
                );
            }
            if planned.after_stops > route.stops.len() {
                broken("R3", "rests after more stops than there are".into());
            }
            if planned.after_stops == route.stops.len() {
                if i64::from(planned.starts_at) < clock {
                    broken("R3", format!("rests at {}, before it is there", planned.starts_at));
                }
                clock = i64::from(planned.starts_at) + i64::from(rest.seconds);
            }
        }
        (Some(_), None) => broken("R3", "rests without need".into()),
        (None, Some(rest)) if route.returns_at > rest.window.end => {
            broken("R3", format!("is out at {} and has had no rest", rest.window.end));
        }
        (None, _) => {}
    }
    if !matrix.has_way(point, vehicle.end) {
        broken("R3", "there is no way back".into());
    }
    let back = clock + i64::from(matrix.seconds(point, vehicle.end));
    if back != i64::from(route.returns_at) {
        broken("R3", format!("is back at {back}, not {}", route.returns_at));
    }
    metres += matrix.metres(point, vehicle.end);
    if (metres - route.metres).abs() > METRES_TOLERANCE {
        broken("R5", format!("is {metres} m long, not {}", route.metres));
    }
    if route.metres > vehicle.metres_max {
        broken(
            "R3",
            format!("is {} m long, more than {}", route.metres, vehicle.metres_max),
        );
    }
    violations
}

/// What routes cost, as their vehicles do, and what moving stops costs: recomputed from the routes' own numbers.
pub fn cost(problem: &Problem, routes: &[PlannedRoute]) -> i64 {
    let of_route = |route: &PlannedRoute| {
        let vehicle = &problem.vehicles[route.vehicle];
        let seconds = i64::from(route.returns_at) - i64::from(route.departs_at);
        let has_moved = |planned: &&PlannedStop| {
            let was_on = problem.stops[planned.stop].was_on;
            was_on.is_some_and(|was_on| was_on != route.vehicle && problem.vehicles[was_on].available)
        };
        let moved = route.stops.iter().filter(has_moved).count() as i64;
        vehicle.fixed_cost
            + vehicle.metre_cost * route.metres
            + vehicle.second_cost * seconds
            + problem.move_cost * moved
    };
    routes.iter().map(of_route).sum()
}
