//! When a tour is where: its windows, the place of its rest, and when it leaves.

use super::problem::{PlannedRest, PlannedRoute, PlannedStop, Problem, Rest, Vehicle, Window};

/// Part of a tour: how long it takes, and from when to when it may start without taking longer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) seconds: i32,
    pub(super) early: i32,
    pub(super) late: i32,
}

impl Span {
    /// This part and then, after so many seconds of driving, that one; `None` when it would be late.
    #[inline(always)]
    pub(super) fn then(self, driving: i32, next: Span) -> Option<Span> {
        let at = self.seconds + driving;
        if self.early + at > next.late {
            return None;
        }
        let waits = (next.early - at - self.late).max(0);
        Some(Span {
            seconds: at + next.seconds + waits,
            early: (next.early - at).max(self.early) - waits,
            late: (next.late - at).min(self.late),
        })
    }
}

/// Stands where a stop has one window only.
const UNCHOSEN: Window = Window { start: 0, end: -1 };

/// What a whole tour amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) metres: i64,
    pub(super) span: Span,
    /// Per stop, which of its windows is used; empty where all have one.
    pub(super) windows: Vec<Window>,
    /// After how many stops the rest is.
    pub(super) rest_after: Option<usize>,
    pub(super) cost: i64,
}

/// What a vehicle's tour amounts to, with the windows and the place of the rest that cost least; `None` when it
/// misses a window, its shift, or is too long. Loads and counts are not looked at.
pub(super) fn course(problem: &Problem, vehicle: &Vehicle, nodes: &[u32]) -> Option<Course> {
    let Some(rest) = vehicle.rest else {
        return course_with(problem, vehicle, nodes, vehicle.shift.end, None);
    };
    // Back before the rest would have to start, or with the rest at one of the stops.
    let home_by = rest.window.end.min(vehicle.shift.end);
    let without = course_with(problem, vehicle, nodes, home_by, None);
    let mut with = (0..=last_rest(problem, vehicle, nodes, rest)?)
        .filter_map(|after| course_with(problem, vehicle, nodes, vehicle.shift.end, Some((after, rest))));
    if vehicle.second_cost == 0 {
        // Wherever the rest is, the way is as long: the first place will do.
        return without.or_else(|| with.next());
    }
    without.into_iter().chain(with).min_by_key(|course| course.cost)
}

/// After how many stops the rest may be at most: none is reached in time after that one. `None` when the first window
/// that is missed comes before the rest could.
fn last_rest(problem: &Problem, vehicle: &Vehicle, nodes: &[u32], rest: Rest) -> Option<usize> {
    let ways = problem.ways(vehicle);
    let (mut from, mut clock) = (vehicle.start, vehicle.shift.start);
    for (after, &node) in nodes.iter().enumerate() {
        let node = node as usize;
        clock = clock.saturating_add(ways.seconds(from, node));
        if clock > rest.window.end {
            // A rest at the stop before is the last that is in time, if there is one.
            return after.checked_sub(1);
        }
        let stop = &problem.stops[node - problem.depots];
        let window = stop.windows.iter().find(|window| clock <= window.end)?;
        clock = clock.max(window.start) + stop.service;
        from = node;
    }
    Some(nodes.len())
}

fn course_with(
    problem: &Problem,
    vehicle: &Vehicle,
    nodes: &[u32],
    home_by: i32,
    rest: Option<(usize, Rest)>,
) -> Option<Course> {
    let (ways, shift) = (problem.ways(vehicle), vehicle.shift);
    let mut span = Span {
        seconds: 0,
        early: shift.start,
        late: shift.end,
    };
    let (mut from, mut metres, mut windows) = (vehicle.start, 0, Vec::new());
    let rest_at = |after: usize| {
        rest.filter(|(at, _)| *at == after).map(|(_, rest)| Span {
            seconds: rest.seconds,
            early: rest.window.start,
            late: rest.window.end,
        })
    };
    for (i, &node) in nodes.iter().enumerate() {
        let node = node as usize;
        let mut driving = ways.seconds(from, node);
        metres += ways.metres(from, node);
        if !ways.has_way(from, node) {
            return None;
        }
        if let Some(pause) = rest_at(i) {
            span = span.then(driving, pause)?;
            driving = 0;
        }
        let stop = &problem.stops[node - problem.depots];
        // The first window that is still open when the tour gets there at its earliest.
        let there = span.early + span.seconds + driving;
        let window = stop.windows.iter().find(|window| there <= window.end)?;
        if stop.windows.len() > 1 {
            windows.resize(i, UNCHOSEN);
            windows.push(*window);
        }
        let service = Span {
            seconds: stop.service,
            early: window.start,
            late: window.end,
        };
        span = span.then(driving, service)?;
        from = node;
    }
    let back = ways.seconds(from, vehicle.end);
    metres += ways.metres(from, vehicle.end);
    if !ways.has_way(from, vehicle.end) {
        return None;
    }
    if let Some(pause) = rest_at(nodes.len()) {
        span = span.then(0, pause)?;
    }
    let home = Span {
        seconds: 0,
        early: shift.start,
        late: home_by,
    };
    span = span.then(back, home)?;
    let is_short = span.seconds <= vehicle.seconds_max && metres <= vehicle.metres_max;
    is_short.then_some(Course {
        metres,
        span,
        windows,
        rest_after: rest.map(|(after, _)| after),
        cost: vehicle.fixed_cost + vehicle.metre_cost * metres + vehicle.second_cost * i64::from(span.seconds),
    })
}

/// The route that makes these stops in this order, with all its times; `None` when it would miss a window, its
/// shift, be too long, or drive where there is no way. Loads, counts and skills are not looked at.
pub fn timetable(problem: &Problem, vehicle: usize, stops: &[usize]) -> Option<PlannedRoute> {
    let index = vehicle;
    let vehicle = &problem.vehicles[vehicle];
    let first = *stops.first()?;
    let nodes: Vec<u32> = stops.iter().map(|stop| problem.point(*stop) as u32).collect();
    let course = course(problem, vehicle, &nodes)?;
    let ways = problem.ways(vehicle);
    let window = |i: usize| match course.windows.get(i) {
        Some(window) if *window != UNCHOSEN => *window,
        _ => problem.stops[stops[i]].windows[0],
    };
    let is_short = vehicle.seconds_max < vehicle.shift.end - vehicle.shift.start;
    // Who pays for hours leaves so that nobody waits; else as late as the first stop allows.
    let departs_at = match is_short || vehicle.second_cost > 0 || course.rest_after.is_some() {
        true => course.span.early,
        false => {
            let out = ways.seconds(vehicle.start, problem.point(first));
            vehicle.shift.start.max(window(0).start.saturating_sub(out))
        }
    };
    let mut route = PlannedRoute {
        vehicle: index,
        departs_at,
        returns_at: departs_at,
        metres: course.metres,
        load: Default::default(),
        stops: Vec::with_capacity(stops.len()),
        rest: None,
    };
    let (mut at, mut clock) = (vehicle.start, departs_at);
    let mut pause = |after: usize, clock: i32| match (course.rest_after, vehicle.rest) {
        (Some(place), Some(rest)) if place == after => {
            let starts_at = clock.max(rest.window.start);
            route.rest = Some(PlannedRest {
                after_stops: after,
                starts_at,
            });
            starts_at + rest.seconds
        }
        _ => clock,
    };
    for (i, &index) in stops.iter().enumerate() {
        let (stop, point) = (&problem.stops[index], problem.point(index));
        let arrives_at = clock + ways.seconds(at, point);
        let starts_at = pause(i, arrives_at).max(window(i).start);
        (clock, route.load) = (starts_at + stop.service, route.load + stop.load);
        route.stops.push(PlannedStop {
            stop: index,
            arrives_at,
            starts_at,
            leaves_at: clock,
            metres_from_previous: ways.metres(at, point),
        });
        at = point;
    }
    route.returns_at = pause(stops.len(), clock) + ways.seconds(at, vehicle.end);
    Some(route)
}
