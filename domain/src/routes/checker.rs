//! Recomputes everything a plan says, trusting neither the solver nor its shortcuts: called before a plan is stored,
//! and again over what is stored. It shares only the problem's types with the solver.

use std::fmt;

use super::problem::{Load, PlannedRoute, Problem, Reason};

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

    if route.departs_at < vehicle.shift.start {
        broken("R3", format!("departs at {}, before its shift", route.departs_at));
    }
    if route.returns_at > vehicle.shift.end {
        broken("R3", format!("returns at {}, after its shift", route.returns_at));
    }
    let (mut point, mut clock, mut metres) = (0, i64::from(route.departs_at), 0);
    for planned in &route.stops {
        let (stop, number) = (&problem.stops[planned.stop], planned.stop);
        let next = number + 1;
        if !problem.matrix.has_way(point, next) {
            broken("R3", format!("there is no way to stop {number}"));
        }
        let leg = problem.matrix.metres(point, next);
        if (leg - planned.metres_from_previous).abs() > METRES_TOLERANCE {
            broken(
                "R5",
                format!("stop {number} is {leg} m on, not {}", planned.metres_from_previous),
            );
        }
        metres += planned.metres_from_previous;
        let arrives = clock + i64::from(problem.matrix.seconds(point, next));
        let starts = if arrives < i64::from(stop.window.start) {
            i64::from(stop.window.start)
        } else {
            arrives
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
        if stored.1 < i64::from(stop.window.start) || stored.1 > i64::from(stop.window.end) {
            broken(
                "R3",
                format!("stop {number} starts at {} outside {:?}", stored.1, stop.window),
            );
        }
        (point, clock) = (next, stored.2);
    }
    if !problem.matrix.has_way(point, 0) {
        broken("R3", "there is no way back".into());
    }
    let back = clock + i64::from(problem.matrix.seconds(point, 0));
    if back != i64::from(route.returns_at) {
        broken("R3", format!("is back at {back}, not {}", route.returns_at));
    }
    metres += problem.matrix.metres(point, 0);
    if (metres - route.metres).abs() > METRES_TOLERANCE {
        broken("R5", format!("is {metres} m long, not {}", route.metres));
    }
    violations
}
