//! A problem laid out for the search: flat tables, points instead of stops, what is the same for many computed once;
//! and what one tour of it is worth.
//!
//! A stop fits into a tour when the earliest the tour can be there and the latest the rest of it can start still meet.
//! Both are kept for every gap, so a place is judged without walking the tour. Tours with a longest time or paid hours
//! keep spans instead: how long their head and tail take, and how far each may be shifted. Several windows and rests
//! need the whole tour to be walked; there the same numbers only rule places out.

use super::course::{Span, course};
use super::problem::{Matrix, Problem, Vehicle};

/// What stands for "there is no way" in the tables: more than any time or length there is.
pub(super) const NO_WAY: i32 = Matrix::NO_WAY as i32;
/// No tour, no stop.
pub(super) const NONE: u32 = u32::MAX;

/// How much of a tour must be looked at to judge a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Only lengths and loads.
    Lengths,
    /// Windows and shifts too.
    Times,
    /// How long it is out too.
    Spans,
    /// All of it.
    Walk,
}

/// Tables of one profile, by index into [`Model::tables`]: towards a point and from it, so that a row is read at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    pub(super) metres_into: usize,
    pub(super) metres_from: usize,
    pub(super) seconds_into: usize,
    pub(super) seconds_from: usize,
}

/// A problem laid out for the search.
pub(super) struct Model<'a> {
    pub(super) problem: &'a Problem,
    pub(super) points: usize,
    pub(super) depots: usize,
    tables: Vec<Vec<i32>>,
    pub(super) ways: Vec<Ways>,
    /// Per point: when its first window opens, its last one closes, how long it takes, what it loads.
    pub(super) early: Vec<i32>,
    pub(super) late: Vec<i32>,
    pub(super) service: Vec<i32>,
    pub(super) load: Vec<[i64; 2]>,
    pub(super) weight: Vec<u32>,
    /// The vehicles that are free, one tour each.
    pub(super) vehicles: Vec<usize>,
    /// Per tour, which of the different kinds of vehicle it is.
    pub(super) kind: Vec<u32>,
    pub(super) kinds: usize,
    /// Per kind and point: whether such a vehicle may serve it at all.
    allowed: Vec<bool>,
    /// Whether every kind may serve every point.
    pub(super) all_allowed: bool,
    /// Whether plans should stay as they were.
    pub(super) has_homes: bool,
    /// Per point the tour it was on before.
    pub(super) home: Vec<u32>,
    pub(super) depth: Depth,
    /// Per point its nearest others, nearest first.
    near: Vec<u16>,
    near_count: usize,
    /// Per point the others it would go well beside: near, and without much waiting.
    close: Vec<u16>,
    close_count: usize,
    /// Whether anything but the way has a cost that moves of stops change.
    pub(super) has_other_costs: bool,
}

/// How many of its nearest others a point knows.
const NEAR_MAX: usize = 400;

/// How many others a point is tried beside.
const CLOSE_MAX: usize = 12;

/// A gap of a tour, before one of its stops or before its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) metres: i32,
    pub(super) seconds: i32,
    /// The earliest the tour can leave `from`.
    pub(super) leaves: i32,
    /// The latest it may arrive at `to`.
    pub(super) by: i32,
}

/// One vehicle's route while it is searched for.
#[derive(Debug, Clone, Default)]
pub(super) struct Tour {
    pub(super) nodes: Vec<u32>,
    pub(super) gaps: Vec<Gap>,
    /// Per gap the tour before and after it, where spans are needed.
    pub(super) spans: Vec<(Span, Span)>,
    /// How many stops at its head may not move.
    pub(super) locked: usize,
    pub(super) load: [i64; 2],
    pub(super) metres: i64,
    pub(super) seconds: i32,
    pub(super) cost: i64,
    /// A number no other content of a tour has had.
    pub(super) stamp: u32,
}

impl<'a> Model<'a> {
    pub(super) fn new(problem: &'a Problem) -> Model<'a> {
        let points = problem.depots + problem.stops.len();
        let mut model = Model {
            problem,
            points,
            depots: problem.depots,
            tables: Vec::new(),
            ways: Vec::new(),
            early: vec![0; points],
            late: vec![Problem::SECONDS_MAX; points],
            service: vec![0; points],
            load: vec![[0; 2]; points],
            weight: vec![0; points],
            vehicles: (0..problem.vehicles.len())
                .filter(|v| problem.vehicles[*v].available)
                .collect(),
            kind: Vec::new(),
            kinds: 0,
            allowed: Vec::new(),
            all_allowed: true,
            has_homes: false,
            home: vec![NONE; points],
            depth: Depth::Lengths,
            near: Vec::new(),
            near_count: 0,
            close: Vec::new(),
            close_count: 0,
            has_other_costs: false,
        };
        model.lay_out_ways();
        model.lay_out_stops();
        model.sort_vehicles();
        model.depth = model.depth();
        model.find_near();
        model.find_close();
        let costs = |at: usize| (model.vehicle(at).metre_cost, model.vehicle(at).second_cost);
        model.has_other_costs =
            model.has_homes || (0..model.vehicles.len()).any(|at| costs(at) != costs(0) || costs(at).1 > 0);
        model
    }

    fn lay_out_ways(&mut self) {
        let count = self.points;
        for matrix in &self.problem.matrices {
            let table = |way: &dyn Fn(usize, usize) -> i32| -> Vec<i32> {
                (0..count * count).map(|at| way(at / count, at % count)).collect()
            };
            let metres = |from, to| match matrix.has_way(from, to) {
                true => matrix.metres(from, to) as i32,
                false => NO_WAY,
            };
            let seconds = |from, to| match matrix.has_way(from, to) {
                true => matrix.seconds(from, to),
                false => NO_WAY,
            };
            let mut keep = |table: Vec<i32>| match self.tables.iter().position(|known| *known == table) {
                Some(at) => at,
                None => {
                    self.tables.push(table);
                    self.tables.len() - 1
                }
            };
            self.ways.push(Ways {
                metres_from: keep(table(&metres)),
                metres_into: keep(table(&|a, b| metres(b, a))),
                seconds_from: keep(table(&seconds)),
                seconds_into: keep(table(&|a, b| seconds(b, a))),
            });
        }
    }

    fn lay_out_stops(&mut self) {
        for (i, stop) in self.problem.stops.iter().enumerate() {
            let point = self.problem.point(i);
            self.early[point] = stop.windows.first().map_or(0, |window| window.start);
            self.late[point] = stop.windows.last().map_or(0, |window| window.end);
            self.service[point] = stop.service;
            self.load[point] = [stop.load.grams, stop.load.cm3];
            self.weight[point] = stop.weight;
            let tour = stop
                .was_on
                .and_then(|was_on| self.vehicles.iter().position(|v| *v == was_on));
            if self.problem.move_cost > 0 && stop.was_on.is_some() {
                // A vehicle that is not there any more is nobody's home, and every place is as good.
                self.home[point] = tour.map_or(NONE, |tour| tour as u32);
                self.has_homes |= tour.is_some();
            }
        }
    }

    /// Vehicles of one kind are the same in everything but their number.
    fn sort_vehicles(&mut self) {
        let mut kinds: Vec<&Vehicle> = Vec::new();
        for &v in &self.vehicles {
            let vehicle = &self.problem.vehicles[v];
            // Who stays on its vehicle makes that one different from its twins.
            let known = kinds
                .iter()
                .position(|kind| *kind == vehicle)
                .filter(|_| !self.has_homes);
            let kind = known.unwrap_or_else(|| {
                kinds.push(vehicle);
                kinds.len() - 1
            });
            self.kind.push(kind as u32);
        }
        self.kinds = kinds.len();
        self.allowed = vec![true; self.kinds * self.points];
        for (k, vehicle) in kinds.iter().enumerate() {
            for (i, stop) in self.problem.stops.iter().enumerate() {
                let can = stop.skills & !vehicle.skills == 0 && stop.depots >> vehicle.start & 1 == 1;
                self.allowed[k * self.points + self.depots + i] = can;
                self.all_allowed &= can;
            }
        }
    }

    fn depth(&self) -> Depth {
        let problem = self.problem;
        let vehicles = || self.vehicles.iter().map(|v| &problem.vehicles[*v]);
        if problem.stops.iter().any(|stop| stop.windows.len() > 1) || vehicles().any(|vehicle| vehicle.rest.is_some()) {
            return Depth::Walk;
        }
        let is_short = |vehicle: &Vehicle| vehicle.seconds_max < vehicle.shift.end - vehicle.shift.start;
        if vehicles().any(|vehicle| is_short(vehicle) || vehicle.second_cost > 0) {
            return Depth::Spans;
        }
        // Without times no window can be missed, if each is open when the shift starts and until it ends.
        let is_timeless = problem.stops.iter().all(|stop| stop.service == 0)
            && self.tables.iter().all(|table| table.iter().all(|way| *way < NO_WAY))
            && self
                .ways
                .iter()
                .all(|ways| self.tables[ways.seconds_from].iter().all(|way| *way == 0))
            && vehicles().all(|vehicle| {
                let shift = vehicle.shift;
                let points = self.depots..self.points;
                points
                    .into_iter()
                    .all(|at| self.early[at] <= shift.start && self.late[at] >= shift.end)
            });
        match is_timeless {
            true => Depth::Lengths,
            false => Depth::Times,
        }
    }

    fn find_near(&mut self) {
        let count = self.points;
        self.near_count = NEAR_MAX.min(count.saturating_sub(self.depots));
        let ways = self.ways[0];
        let mut order: Vec<(i32, u16)> = Vec::new();
        self.near = Vec::with_capacity(count * self.near_count);
        for at in 0..count {
            let (into, from) = (self.row(ways.metres_into, at), self.row(ways.metres_from, at));
            order.clear();
            // The point itself comes first.
            let far = |other: usize| {
                if other == at {
                    -1
                } else {
                    into[other].saturating_add(from[other])
                }
            };
            order.extend((self.depots..count).map(|other| (far(other), other as u16)));
            if self.near_count < order.len() {
                order.select_nth_unstable(self.near_count);
                order.truncate(self.near_count);
            }
            order.sort_unstable();
            self.near.extend(order.iter().map(|(_, other)| *other));
        }
    }

    fn find_close(&mut self) {
        let count = self.points;
        self.close_count = CLOSE_MAX.min(count.saturating_sub(self.depots + 1));
        let ways = self.ways[0];
        let mut order: Vec<(i64, u16)> = Vec::new();
        for at in 0..count {
            if self.close_count == 0 || at < self.depots {
                self.close.extend(std::iter::repeat_n(0, self.close_count));
                continue;
            }
            let distance = |from: usize, to: usize| {
                let driving = self.seconds(&ways, from as u32, to as u32);
                let waits = self.early[to] - self.late[from] - self.service[from] - driving;
                let late = self.early[from] + self.service[from] + driving - self.late[to];
                i64::from(self.metres(&ways, from as u32, to as u32))
                    + i64::from(waits.max(0)) / 5
                    + i64::from(late.max(0))
            };
            order.clear();
            let others = (self.depots..count).filter(|other| *other != at);
            order.extend(others.map(|other| (distance(at, other).min(distance(other, at)), other as u16)));
            if self.close_count < order.len() {
                order.select_nth_unstable(self.close_count);
                order.truncate(self.close_count);
            }
            order.sort_unstable();
            self.close.extend(order.iter().map(|(_, other)| *other));
        }
    }

    /// The others that a point would go well beside, best first.
    #[inline]
    pub(super) fn close(&self, at: usize) -> &[u16] {
        &self.close[at * self.close_count..][..self.close_count]
    }

    /// One row of a table.
    #[inline]
    pub(super) fn row(&self, table: usize, at: usize) -> &[i32] {
        &self.tables[table][at * self.points..][..self.points]
    }

    /// The nearest others of a point, itself first.
    #[inline]
    pub(super) fn near(&self, at: usize) -> &[u16] {
        &self.near[at * self.near_count..][..self.near_count]
    }

    #[inline]
    pub(super) fn allows(&self, tour: usize, point: usize) -> bool {
        self.all_allowed || self.allowed[self.kind[tour] as usize * self.points + point]
    }

    #[inline]
    pub(super) fn vehicle(&self, tour: usize) -> &'a Vehicle {
        &self.problem.vehicles[self.vehicles[tour]]
    }

    #[inline]
    pub(super) fn metres(&self, ways: &Ways, from: u32, to: u32) -> i32 {
        self.tables[ways.metres_from][from as usize * self.points + to as usize]
    }

    #[inline]
    pub(super) fn seconds(&self, ways: &Ways, from: u32, to: u32) -> i32 {
        self.tables[ways.seconds_from][from as usize * self.points + to as usize]
    }

    /// What being on a tour that is not its home costs a point.
    #[inline]
    pub(super) fn move_cost(&self, tour: usize, point: usize) -> i64 {
        match self.home[point] {
            NONE => 0,
            home if home as usize == tour => 0,
            _ => self.problem.move_cost,
        }
    }

    /// Recomputes what judging places relies on; false when the tour misses a window, its shift, or is too long.
    /// Loads and counts are the caller's to keep.
    pub(super) fn refresh(&self, at: usize, tour: &mut Tour) -> bool {
        let vehicle = self.vehicle(at);
        let ways = &self.ways[vehicle.profile];
        let count = tour.nodes.len();
        let (start, end) = (vehicle.start as u32, vehicle.end as u32);
        tour.gaps.clear();
        tour.load = [0; 2];
        let mut moves = 0;
        let is_timed = self.depth >= Depth::Times;
        let (mut from, mut leaves, mut metres) = (start, vehicle.shift.start, 0_i64);
        let mut is_sound = true;
        for &node in &tour.nodes {
            let way = self.metres(ways, from, node);
            let seconds = if is_timed { self.seconds(ways, from, node) } else { 0 };
            metres += i64::from(way);
            tour.gaps.push(Gap {
                from,
                to: node,
                metres: way,
                seconds,
                leaves,
                by: 0,
            });
            let load = self.load[node as usize];
            tour.load = [tour.load[0] + load[0], tour.load[1] + load[1]];
            if is_timed {
                let arrives = leaves + seconds;
                is_sound &= arrives <= self.late[node as usize];
                leaves = arrives.max(self.early[node as usize]) + self.service[node as usize];
            }
            from = node;
        }
        if self.has_homes {
            moves = tour.nodes.iter().map(|node| self.move_cost(at, *node as usize)).sum();
        }
        // An empty van stays where it is.
        let (way, seconds) = match count {
            0 => (0, 0),
            _ => (self.metres(ways, from, end), self.seconds(ways, from, end)),
        };
        metres += i64::from(way);
        tour.gaps.push(Gap {
            from,
            to: end,
            metres: way,
            seconds,
            leaves,
            by: vehicle.shift.end,
        });
        let mut by = vehicle.shift.end;
        if is_timed {
            if count > 0 {
                is_sound &= leaves + seconds <= by;
            }
            for gap in tour.gaps.iter_mut().rev() {
                gap.by = by;
                let node = gap.from as usize;
                if node >= self.depots {
                    by = (by - gap.seconds - self.service[node]).min(self.late[node]);
                }
            }
        }
        tour.metres = metres;
        tour.seconds = 0;
        is_sound &= metres <= vehicle.metres_max;
        if count == 0 {
            tour.cost = 0;
        } else {
            tour.cost = vehicle.fixed_cost + vehicle.metre_cost * metres + moves;
        }
        match self.depth {
            Depth::Lengths | Depth::Times => is_sound,
            Depth::Spans => is_sound & self.refresh_spans(vehicle, ways, tour),
            Depth::Walk if count == 0 => true,
            Depth::Walk => match is_sound.then(|| course(self.problem, vehicle, &tour.nodes)).flatten() {
                Some(course) => {
                    tour.seconds = course.span.seconds;
                    tour.cost = course.cost + moves;
                    true
                }
                None => false,
            },
        }
    }

    /// Puts a stop into a tour at a place, and brings up to date what judging places relies on, as far as it changes;
    /// false as [`refresh`](Self::refresh) is. Only for tours that need no spans and no walks.
    pub(super) fn insert(&self, at: usize, tour: &mut Tour, before: usize, node: u32) -> bool {
        let vehicle = self.vehicle(at);
        let ways = &self.ways[vehicle.profile];
        let is_timed = self.depth >= Depth::Times;
        let seconds = |from, to| if is_timed { self.seconds(ways, from, to) } else { 0 };
        let old = tour.gaps[before];
        let into = Gap {
            to: node,
            metres: self.metres(ways, old.from, node),
            seconds: seconds(old.from, node),
            ..old
        };
        tour.gaps[before] = Gap {
            from: node,
            metres: self.metres(ways, node, old.to),
            seconds: seconds(node, old.to),
            ..old
        };
        let more = i64::from(into.metres) + i64::from(tour.gaps[before].metres) - i64::from(old.metres);
        tour.gaps.insert(before, into);
        let fixed = if tour.nodes.is_empty() { vehicle.fixed_cost } else { 0 };
        tour.nodes.insert(before, node);
        let load = self.load[node as usize];
        tour.load = [tour.load[0] + load[0], tour.load[1] + load[1]];
        tour.metres += more;
        tour.cost += fixed + vehicle.metre_cost * more + self.move_cost(at, node as usize);
        (!is_timed || self.pass_on_times(tour, before)) && tour.metres <= vehicle.metres_max
    }

    /// From a stop that was put in, passes on when the tour can leave towards its end, and when it must arrive towards
    /// its start, each as far as that changes anything. False when it would be late somewhere.
    fn pass_on_times(&self, tour: &mut Tour, before: usize) -> bool {
        let gaps = &mut tour.gaps;
        let mut is_sound = true;
        for at in before + 1..gaps.len() {
            let node = gaps[at].from as usize;
            let arrives = gaps[at - 1].leaves + gaps[at - 1].seconds;
            is_sound &= arrives <= self.late[node];
            let leaves = arrives.max(self.early[node]) + self.service[node];
            if std::mem::replace(&mut gaps[at].leaves, leaves) == leaves && at > before + 1 {
                break;
            }
        }
        let last = gaps[gaps.len() - 1];
        is_sound &= last.leaves + last.seconds <= last.by;
        for at in (0..=before).rev() {
            let next = gaps[at + 1];
            let node = next.from as usize;
            let by = (next.by - next.seconds - self.service[node]).min(self.late[node]);
            if std::mem::replace(&mut gaps[at].by, by) == by && at < before {
                break;
            }
        }
        is_sound
    }

    fn refresh_spans(&self, vehicle: &Vehicle, ways: &Ways, tour: &mut Tour) -> bool {
        let depot = Span {
            seconds: 0,
            early: vehicle.shift.start,
            late: vehicle.shift.end,
        };
        let count = tour.nodes.len();
        tour.spans.clear();
        let mut head = depot;
        for gap in &tour.gaps {
            tour.spans.push((head, depot));
            if (gap.to as usize) < self.depots {
                break;
            }
            match head.then(self.seconds(ways, gap.from, gap.to), self.span(gap.to)) {
                Some(longer) => head = longer,
                None => return false,
            }
        }
        let mut tail = depot;
        for at in (0..=count).rev() {
            tour.spans[at].1 = tail;
            let gap = tour.gaps[at];
            if at > 0 {
                match self.span(gap.from).then(self.seconds(ways, gap.from, gap.to), tail) {
                    Some(longer) => tail = longer,
                    None => return false,
                }
            }
        }
        if count == 0 {
            return true;
        }
        let gap = tour.gaps[0];
        match depot.then(self.seconds(ways, gap.from, gap.to), tail) {
            Some(whole) => {
                tour.seconds = whole.seconds;
                tour.cost += vehicle.second_cost * i64::from(whole.seconds);
                whole.seconds <= vehicle.seconds_max
            }
            None => false,
        }
    }

    /// One stop alone.
    #[inline]
    pub(super) fn span(&self, point: u32) -> Span {
        let point = point as usize;
        Span {
            seconds: self.service[point],
            early: self.early[point],
            late: self.late[point],
        }
    }
}
