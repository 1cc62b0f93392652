//! Finds the routes of a day: cheapest insertion first, then ruin and recreate with string removals (SISR, Christiaens
//! and Vanden Berghe 2020) under simulated annealing.
//!
//! A pure function: the same problem, seed and number of iterations give the same solution, byte for byte, on every
//! machine. So there is no floating point here and no clock in any decision; only [`Control`] may cut a search short,
//! and the result then says so. What is found is always valid: every change is tested before it is made, and fewer
//! (weighted) stops left out always beat a shorter way.

use std::ops::ControlFlow;

use super::problem::{Load, Matrix, PlannedRoute, PlannedStop, Problem, Reason, Solution, Stop, Vehicle};

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
    /// The cost of the best solution so far, in metres.
    pub cost: i64,
    /// How many stops it leaves out.
    pub unassigned: usize,
}

/// Asked every [`TICK_ITERATIONS`] rounds whether to go on.
pub trait Control: Sync {
    /// `Break` ends the search with the best solution so far.
    fn tick(&self, progress: &Progress) -> ControlFlow<()>;
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
pub const TICK_ITERATIONS: u64 = 64;
/// How many stops a round removes, on average.
const REMOVED_MEAN: u64 = 10;
/// The longest string taken out of one route.
const STRING_MAX: u64 = 10;
/// One place in so many is passed over at random.
const BLINK_ONE_IN: u64 = 100;
/// The warehouse's point in the matrix.
const DEPOT: usize = 0;

/// Plans the day.
pub fn solve(problem: &Problem, budget: &Budget, control: &dyn Control) -> Solution {
    let mut unassigned = Vec::new();
    let mut wanted = Vec::new();
    for stop in 0..problem.stops.len() {
        match impossible(problem, stop) {
            Some(reason) => unassigned.push((stop, reason)),
            None => wanted.push(stop),
        }
    }
    let mut search = Search::new(problem, wanted, budget.seed);
    search.recreate(false);
    let (iterations, truncated) = search.improve(budget.iterations, control);
    // What a blink passed over may still have its place.
    search.recreate(false);

    let Search { state, .. } = search;
    unassigned.extend(state.missing.iter().map(|&stop| (stop, state.reason(problem, stop))));
    unassigned.sort_by_key(|(stop, _)| *stop);
    let mut routes: Vec<_> = state
        .tours
        .iter()
        .filter(|tour| !tour.stops.is_empty())
        .filter_map(|tour| timetable(problem, tour.vehicle, &tour.stops))
        .collect();
    routes.sort_by_key(|route| route.vehicle);
    let metres = routes.iter().map(|route| route.metres).sum();
    Solution {
        routes,
        unassigned,
        metres,
        iterations,
        truncated,
    }
}

/// The route that makes these stops in this order, with all its times; `None` when it would miss a window, its
/// shift, or drive where there is no way.
pub fn timetable(problem: &Problem, vehicle: usize, stops: &[usize]) -> Option<PlannedRoute> {
    let shift = problem.vehicles[vehicle].shift;
    let first = *stops.first()?;
    let out = problem.matrix.seconds(DEPOT, first + 1);
    let departs_at = shift.start.max(problem.stops[first].window.start.saturating_sub(out));
    let mut route = PlannedRoute {
        vehicle,
        departs_at,
        returns_at: departs_at,
        metres: 0,
        load: Load::default(),
        stops: Vec::with_capacity(stops.len()),
    };
    let (mut at, mut clock) = (DEPOT, departs_at);
    for &index in stops {
        let stop = &problem.stops[index];
        if !problem.matrix.has_way(at, index + 1) {
            return None;
        }
        let metres = problem.matrix.metres(at, index + 1);
        let arrives_at = clock + problem.matrix.seconds(at, index + 1);
        let starts_at = arrives_at.max(stop.window.start);
        if starts_at > stop.window.end {
            return None;
        }
        (at, clock) = (index + 1, starts_at + stop.service);
        route.stops.push(PlannedStop {
            stop: index,
            arrives_at,
            starts_at,
            leaves_at: clock,
            metres_from_previous: metres,
        });
        route.load = route.load + stop.load;
        route.metres += metres;
    }
    route.metres += problem.matrix.metres(at, DEPOT);
    route.returns_at = clock + problem.matrix.seconds(at, DEPOT);
    (problem.matrix.has_way(at, DEPOT) && route.returns_at <= shift.end).then_some(route)
}

/// Why no day could take this stop as the fleet is, if so.
pub fn impossible(problem: &Problem, stop: usize) -> Option<Reason> {
    let (matrix, point) = (&problem.matrix, stop + 1);
    let Stop {
        load, window, service, ..
    } = problem.stops[stop];
    let Some(nearest) = problem
        .vehicles
        .iter()
        .map(|vehicle| load.over(vehicle.capacity))
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
    let metres = matrix.metres(DEPOT, point);
    let out_of_range = Some(Reason::OutOfRange { metres });
    if !matrix.has_way(DEPOT, point) || !matrix.has_way(point, DEPOT) || metres > i64::from(problem.range_metres) {
        return out_of_range;
    }
    let (out, back) = (matrix.seconds(DEPOT, point), matrix.seconds(point, DEPOT));
    let takes_it = || problem.vehicles.iter().filter(|vehicle| load.fits(vehicle.capacity));
    if takes_it().all(|vehicle| vehicle.shift.start + out + service + back > vehicle.shift.end) {
        return out_of_range;
    }
    let late = takes_it().map(|vehicle| {
        let starts_at = (vehicle.shift.start + out).max(window.start);
        (starts_at - window.end).max(starts_at + service + back - vehicle.shift.end)
    });
    late.min()
        .filter(|late| *late > 0)
        .map(|late_seconds| Reason::WindowImpossible { late_seconds })
}

/// One vehicle's route while it is searched for.
#[derive(Debug, Clone)]
struct Tour {
    vehicle: usize,
    stops: Vec<usize>,
    /// Per stop, the earliest its hand-over can start.
    earliest: Vec<i32>,
    /// Per stop, the latest it may start so that all after it still work.
    latest: Vec<i32>,
    load: Load,
    metres: i64,
}

/// What a place costs, and where it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    cost: i64,
    tour: usize,
    before: usize,
}

impl Tour {
    fn new(vehicle: usize) -> Tour {
        Tour {
            vehicle,
            stops: vec![],
            earliest: vec![],
            latest: vec![],
            load: Load::default(),
            metres: 0,
        }
    }

    /// Recomputes what insertion relies on, after the stops have changed.
    fn refresh(&mut self, problem: &Problem) {
        let (matrix, shift) = (&problem.matrix, problem.vehicles[self.vehicle].shift);
        let count = self.stops.len();
        self.earliest.resize(count, 0);
        self.latest.resize(count, 0);
        self.load = Load::default();
        self.metres = 0;
        let (mut at, mut clock) = (DEPOT, shift.start);
        for (i, &index) in self.stops.iter().enumerate() {
            let stop = &problem.stops[index];
            self.metres += matrix.metres(at, index + 1);
            self.earliest[i] = (clock + matrix.seconds(at, index + 1)).max(stop.window.start);
            clock = self.earliest[i] + stop.service;
            self.load = self.load + stop.load;
            at = index + 1;
        }
        self.metres += if count == 0 { 0 } else { matrix.metres(at, DEPOT) };
        let (mut to, mut by) = (DEPOT, shift.end);
        for (i, &index) in self.stops.iter().enumerate().rev() {
            let stop = &problem.stops[index];
            self.latest[i] = (by - matrix.seconds(index + 1, to) - stop.service).min(stop.window.end);
            (to, by) = (index + 1, self.latest[i]);
        }
    }

    /// The points and times on both sides of the gap before position `before`.
    fn gap(&self, problem: &Problem, before: usize) -> Gap {
        let shift = problem.vehicles[self.vehicle].shift;
        let (from, leaves) = match before.checked_sub(1) {
            Some(i) => (
                self.stops[i] + 1,
                self.earliest[i] + problem.stops[self.stops[i]].service,
            ),
            None => (DEPOT, shift.start),
        };
        let (to, by) = match self.stops.get(before) {
            Some(next) => (next + 1, self.latest[before]),
            None => (DEPOT, shift.end),
        };
        Gap { from, leaves, to, by }
    }
}

struct Gap {
    from: usize,
    leaves: i32,
    to: usize,
    by: i32,
}

impl Gap {
    /// By how many seconds a stop in this gap would be late; not above zero when it fits.
    fn late(&self, matrix: &Matrix, index: usize, stop: &Stop) -> i32 {
        let arrives = self.leaves + matrix.seconds(self.from, index + 1);
        let starts = arrives.max(stop.window.start);
        (arrives - stop.window.end).max(starts + stop.service + matrix.seconds(index + 1, self.to) - self.by)
    }
}

/// All tours, one per vehicle that is available, and what is on none.
#[derive(Debug, Clone)]
struct State {
    tours: Vec<Tour>,
    /// Per stop its tour.
    tour_of: Vec<Option<usize>>,
    missing: Vec<usize>,
}

impl State {
    fn cost(&self, problem: &Problem) -> i64 {
        self.tours
            .iter()
            .filter(|tour| !tour.stops.is_empty())
            .map(|tour| tour.metres + problem.vehicle_cost)
            .sum()
    }

    fn missing_weight(&self, problem: &Problem) -> u64 {
        self.missing
            .iter()
            .map(|&stop| u64::from(problem.stops[stop].weight))
            .sum()
    }

    /// What kept a stop off every route, and the vehicle that came nearest.
    fn reason(&self, problem: &Problem, index: usize) -> Reason {
        let stop = &problem.stops[index];
        let fits_in_count = |tour: &&Tour| tour.stops.len() < problem.vehicles[tour.vehicle].stops_max;
        let over = |tour: &Tour| (tour.load + stop.load).over(problem.vehicles[tour.vehicle].capacity);
        if self.tours.is_empty() {
            return Reason::NoVehicleLeft;
        }
        let late = |tour: &Tour| {
            (0..=tour.stops.len())
                .map(|at| tour.gap(problem, at).late(&problem.matrix, index, stop))
                .min()
                .unwrap_or(0)
        };
        let in_time = self
            .tours
            .iter()
            .filter(fits_in_count)
            .filter(|tour| over(tour) == Load::default());
        if let Some((late_seconds, vehicle)) = in_time.map(|tour| (late(tour).max(1), tour.vehicle)).min() {
            return Reason::NoTimeLeft { vehicle, late_seconds };
        }
        let with_room = self
            .tours
            .iter()
            .filter(fits_in_count)
            .map(|tour| (over(tour), tour.vehicle));
        match with_room.min_by_key(|(over, vehicle)| (over.grams.saturating_add(over.cm3), *vehicle)) {
            Some((over, vehicle)) => Reason::NoCapacityLeft {
                vehicle,
                over_grams: over.grams,
                over_cm3: over.cm3,
            },
            None => Reason::StopsMax,
        }
    }
}

struct Search<'a> {
    problem: &'a Problem,
    state: State,
    random: Random,
    wanted: Vec<usize>,
    /// Per stop all wanted stops, nearest first, itself included.
    neighbours: Vec<Vec<u32>>,
    /// Tours as they were before the latest round touched them.
    touched: Vec<(usize, Tour)>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, wanted: Vec<usize>, seed: u64) -> Search<'a> {
        let available = |(_, vehicle): &(usize, &Vehicle)| vehicle.available;
        let tours: Vec<_> = problem
            .vehicles
            .iter()
            .enumerate()
            .filter(available)
            .map(|(vehicle, _)| Tour::new(vehicle))
            .collect();
        let mut neighbours = vec![Vec::new(); problem.stops.len()];
        for &stop in &wanted {
            let mut near: Vec<u32> = wanted.iter().map(|&other| other as u32).collect();
            near.sort_by_key(|&other| (problem.matrix.metres(stop + 1, other as usize + 1), other));
            neighbours[stop] = near;
        }
        let state = State {
            tours,
            tour_of: vec![None; problem.stops.len()],
            missing: wanted.clone(),
        };
        Search {
            problem,
            state,
            random: Random(seed),
            wanted,
            neighbours,
            touched: Vec::new(),
        }
    }

    /// Ruins and recreates until the budget is used up; the best state found stays. Says how many rounds were made
    /// and whether it was stopped.
    fn improve(&mut self, budget: u64, control: &dyn Control) -> (u64, bool) {
        let problem = self.problem;
        if self.wanted.len() < 2 || self.state.tours.is_empty() {
            return (0, false);
        }
        let mut cost = self.state.cost(problem);
        let mut weight = self.state.missing_weight(problem);
        let (mut best, mut best_cost, mut best_weight) = (self.state.clone(), cost, weight);
        let mut cooling = Cooling::new(best_cost, self.wanted.len());
        let mut made = 0;
        while made < budget {
            if made % TICK_ITERATIONS == 0 {
                let progress = Progress {
                    iterations: made,
                    cost: best_cost,
                    unassigned: best.missing.len(),
                };
                if control.tick(&progress).is_break() {
                    break;
                }
            }
            self.touched.clear();
            let missing_before = self.state.missing.clone();
            self.ruin();
            self.recreate(true);
            let (new_cost, new_weight) = (self.state.cost(problem), self.state.missing_weight(problem));
            let is_accepted = new_weight < weight
                || (new_weight == weight && new_cost < cost + cooling.slack(made, budget, &mut self.random));
            if is_accepted {
                (cost, weight) = (new_cost, new_weight);
                if (weight, cost) < (best_weight, best_cost) {
                    (best, best_cost, best_weight) = (self.state.clone(), cost, weight);
                    cooling.start(best_cost, self.wanted.len());
                }
            } else {
                self.undo(missing_before);
            }
            made += 1;
        }
        self.state = best;
        (made, made < budget)
    }

    fn touch(&mut self, tour: usize) {
        if self.touched.iter().all(|(touched, _)| *touched != tour) {
            self.touched.push((tour, self.state.tours[tour].clone()));
        }
    }

    fn undo(&mut self, missing: Vec<usize>) {
        for (at, _) in &self.touched {
            for &stop in &self.state.tours[*at].stops {
                self.state.tour_of[stop] = None;
            }
        }
        for (at, tour) in self.touched.drain(..) {
            for &stop in &tour.stops {
                self.state.tour_of[stop] = Some(at);
            }
            self.state.tours[at] = tour;
        }
        self.state.missing = missing;
    }

    /// Takes strings of neighbouring stops out of several tours near a random stop.
    fn ruin(&mut self) {
        let used = self.state.tours.iter().filter(|tour| !tour.stops.is_empty()).count() as u64;
        let placed = (self.wanted.len() - self.state.missing.len()) as u64;
        if placed == 0 {
            return;
        }
        let string_max = STRING_MAX.min(placed / used).max(1);
        let strings_max = (4 * REMOVED_MEAN / (1 + string_max)).saturating_sub(1).max(1);
        let strings = 1 + self.random.below(strings_max);
        let centre = self.wanted[self.random.below(self.wanted.len() as u64) as usize];
        let near = std::mem::take(&mut self.neighbours[centre]);
        let mut ruined: Vec<usize> = Vec::new();
        for &stop in &near {
            if ruined.len() as u64 >= strings {
                break;
            }
            if let Some(tour) = self.state.tour_of[stop as usize]
                && !ruined.contains(&tour)
            {
                let length = self.state.tours[tour].stops.len() as u64;
                let take = 1 + self.random.below(string_max.min(length));
                self.touch(tour);
                self.remove_string(tour, stop as usize, take as usize);
                ruined.push(tour);
            }
        }
        self.neighbours[centre] = near;
    }

    /// Removes `take` stops in a row, `centre` among them; half of the time some in the middle of the row stay.
    fn remove_string(&mut self, at: usize, centre: usize, take: usize) {
        let tour = &mut self.state.tours[at];
        let length = tour.stops.len();
        let Some(position) = tour.stops.iter().position(|&stop| stop == centre) else {
            return;
        };
        let mut kept = 0;
        if take > 1 && take < length && self.random.below(2) == 0 {
            kept = 1;
            while take + kept < length && self.random.below(100) == 0 {
                kept += 1;
            }
        }
        let row = take + kept;
        let first_min = (position + 1).saturating_sub(row);
        let first_max = position.min(length - row);
        let first = first_min + self.random.below((first_max - first_min + 1) as u64) as usize;
        let kept_from = first
            + if kept > 0 {
                1 + self.random.below(take as u64 - 1) as usize
            } else {
                row
            };
        let mut i = 0;
        let (missing, tour_of) = (&mut self.state.missing, &mut self.state.tour_of);
        tour.stops.retain(|&stop| {
            let is_removed = (first..first + row).contains(&i) && !(kept_from..kept_from + kept).contains(&i);
            i += 1;
            if is_removed {
                missing.push(stop);
                tour_of[stop] = None;
            }
            !is_removed
        });
        tour.refresh(self.problem);
    }

    /// Puts every missing stop at its cheapest place, in a random one of several orders.
    fn recreate(&mut self, blinks: bool) {
        let mut missing = std::mem::take(&mut self.state.missing);
        self.order(&mut missing, blinks);
        for stop in missing {
            match self.cheapest(stop, blinks) {
                Some(place) => {
                    self.touch(place.tour);
                    let tour = &mut self.state.tours[place.tour];
                    tour.stops.insert(place.before, stop);
                    tour.refresh(self.problem);
                    self.state.tour_of[stop] = Some(place.tour);
                }
                None => self.state.missing.push(stop),
            }
        }
    }

    fn order(&mut self, missing: &mut [usize], at_random: bool) {
        let Problem { stops, matrix, .. } = self.problem;
        // The published weights of the first four, and one each for the windows.
        let rule = if at_random { self.random.below(14) } else { 8 };
        let far = |stop: &usize| matrix.metres(DEPOT, stop + 1);
        missing.sort_unstable();
        match rule {
            0..4 => self.random.shuffle(missing),
            4..8 => missing.sort_by_key(|&stop| std::cmp::Reverse(stops[stop].load.grams.max(stops[stop].load.cm3))),
            8..10 => missing.sort_by_key(|stop| std::cmp::Reverse(far(stop))),
            10 => missing.sort_by_key(far),
            11 => missing.sort_by_key(|&stop| stops[stop].window.end - stops[stop].window.start),
            12 => missing.sort_by_key(|&stop| stops[stop].window.start),
            _ => missing.sort_by_key(|&stop| std::cmp::Reverse(stops[stop].window.end)),
        }
        missing.sort_by_key(|&stop| std::cmp::Reverse(stops[stop].weight));
    }

    fn cheapest(&mut self, index: usize, blinks: bool) -> Option<Place> {
        let Problem {
            stops,
            vehicles,
            matrix,
            vehicle_cost,
            ..
        } = self.problem;
        let (stop, point) = (&stops[index], index + 1);
        let mut best: Option<Place> = None;
        let mut empty_seen: Vec<&Vehicle> = Vec::new();
        for (at, tour) in self.state.tours.iter().enumerate() {
            let vehicle = &vehicles[tour.vehicle];
            if tour.stops.len() >= vehicle.stops_max || !(tour.load + stop.load).fits(vehicle.capacity) {
                continue;
            }
            let mut base = 0;
            if tour.stops.is_empty() {
                // One empty van is as good as its twin.
                if empty_seen.contains(&vehicle) {
                    continue;
                }
                empty_seen.push(vehicle);
                base = *vehicle_cost;
            }
            for before in 0..=tour.stops.len() {
                let gap = tour.gap(self.problem, before);
                if gap.leaves > stop.window.end {
                    break;
                }
                if blinks && self.random.below(BLINK_ONE_IN) == 0 {
                    continue;
                }
                let added = matrix.metres(gap.from, point) + matrix.metres(point, gap.to);
                let saved = if tour.stops.is_empty() {
                    0
                } else {
                    matrix.metres(gap.from, gap.to)
                };
                let cost = base + added - saved;
                if best.is_none_or(|best| cost < best.cost)
                    && gap.late(matrix, index, stop) <= 0
                    && matrix.has_way(gap.from, point)
                    && matrix.has_way(point, gap.to)
                {
                    best = Some(Place { cost, tour: at, before });
                }
            }
        }
        best
    }
}

/// The temperature: from 0.6 of the mean leg down to a hundredth of that, by the share of the budget used.
struct Cooling {
    /// In 1/1024 metres.
    start_q10: i64,
}

impl Cooling {
    fn new(cost: i64, stops: usize) -> Cooling {
        let mut cooling = Cooling { start_q10: 0 };
        cooling.start(cost, stops);
        cooling
    }

    fn start(&mut self, cost: i64, stops: usize) {
        if self.start_q10 == 0 {
            self.start_q10 = (cost / stops.max(1) as i64).saturating_mul(1024) * 6 / 10;
        }
    }

    /// By how much a solution may be worse now and still be accepted: the temperature times -ln of a random number.
    fn slack(&self, made: u64, budget: u64, random: &mut Random) -> i64 {
        // log2(100) octaves in all, in 1/65536; within an octave a straight line is near enough.
        let octaves_q16 = (435_412_u128 * u128::from(made) / u128::from(budget.max(1))) as u64;
        let (octave, rest) = (octaves_q16 >> 16, (octaves_q16 & 0xffff) as i64);
        let temperature_q10 = i128::from(self.start_q10 >> octave) * i128::from((2 << 16) - rest) / (2 << 16);
        let minus_ln_q16 = i128::from(minus_log2_q16(random.next() as u32)) * 45_426 / 65_536;
        ((temperature_q10 * minus_ln_q16) >> 26) as i64 + 1
    }
}

/// About -log2(number / 2³²), in 1/65536.
fn minus_log2_q16(number: u32) -> i64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    let mantissa = i64::from(number << zeros);
    (i64::from(zeros) << 16) + (((1_i64 << 32) - mantissa) >> 15)
}

/// SplitMix64: small, and the same everywhere for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to one less than the bound, which is above zero.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
