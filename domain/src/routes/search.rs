//! Ruin and recreate: strings of neighbouring stops are taken out of a few tours and put back at their cheapest places
//! (SISR, Christiaens and Vanden Berghe 2020), under simulated annealing. [`improve`](super::improve) polishes between.
//!
//! A round costs microseconds: it allocates nothing, looks again only at tours that changed since it last looked
//! ([`places`](super::places)), and undoes by putting back the few tours it touched.
//!
//! Days with very many stops are searched part by part: for a while only the tours around one stop are live, then those
//! around another. Parts overlap and are never the same twice, so no border stays a border, and all parts cool together.

use std::ops::ControlFlow;

use super::cooling::{Cooling, share_q32};
use super::improve::Bench;
use super::model::{Depth, Model, NONE, Tour};
use super::places::{Top, UNSEEN, Walk};
use super::random::Random;
use super::solver::{Budget, Control, Progress, Routes, TICK_ITERATIONS};

/// The longest string taken out of one tour, and how many stops a round removes on average: the published ten, and
/// more where tours are long, up to this.
const STRING_MIN: u64 = 10;
const STRING_MAX: u64 = 20;
/// One round in so many is followed by local search.
const POLISH_ONE_IN: u64 = 4;
/// The best place is passed over once in so many times.
const BLINK_ONE_IN: u64 = 100;
/// Days with more stops than this are searched part by part.
const UNDIVIDED_MAX: usize = 600;
/// A part is the tours nearest to a random stop: of so many stops at least, and so many tours.
const PART_STOPS: usize = 250;
const PART_TOURS: usize = 12;
/// How many rounds a part is searched for, for each of its stops, before the next part's turn.
const PART_ROUNDS_PER_STOP: u64 = 1;
/// How many stops of walked tours a search looks at before it asks whether to go on, however few rounds that takes.
const WALKED_PER_TICK: u64 = 50_000;
/// How many stops are polished between two such questions.
const POLISHED_PER_TICK: usize = 32;

pub(super) struct Search<'a> {
    pub(super) model: &'a Model<'a>,
    pub(super) tours: Vec<Tour>,
    /// Per point its tour and its place in it.
    pub(super) tour_of: Vec<u32>,
    pub(super) place_of: Vec<u16>,
    /// Points that are on no tour.
    pub(super) missing: Vec<u32>,
    pub(super) random: Random,
    wanted: Vec<u32>,
    cost: i64,
    missing_weight: u64,
    is_weighted: bool,
    /// Tours that a stop may go to: those with stops, and one empty one of each kind of vehicle; of the part only.
    pub(super) live: Vec<u32>,
    is_live_stale: bool,
    /// The stops of the part that is searched now, and whether each tour belongs to it; empty where there are no parts.
    part: Vec<u32>,
    is_in_part: Vec<bool>,
    part_rounds_left: u64,
    pub(super) undivided_max: usize,
    /// With how many stops were looked at by it since the last tick.
    pub(super) walk: Walk,
    stamp: u32,
    pub(super) tops: Vec<Top>,
    /// Tours as they were before this round touched them; the first `touched_count` count.
    touched: Vec<(u32, Tour)>,
    pub(super) touched_count: usize,
    is_touched: Vec<bool>,
    missing_before: Vec<u32>,
    keyed: Vec<(i64, u32)>,
    /// What the local search works with.
    pub(super) bench: Bench,
    best: Best,
}

/// The best solution so far.
struct Best {
    nodes: Vec<Vec<u32>>,
    stamps: Vec<u32>,
    missing: Vec<u32>,
    cost: i64,
    missing_weight: u64,
}

impl<'a> Search<'a> {
    /// Starts with the locked heads of the tours and then `start`, as far as it fits; the rest of `wanted` is missing.
    pub(super) fn new(model: &'a Model<'a>, wanted: Vec<u32>, start: &[(usize, Vec<u32>)], seed: u64) -> Search<'a> {
        let count = model.vehicles.len();
        let is_weighted = wanted
            .iter()
            .any(|at| model.weight[*at as usize] != model.weight[wanted[0] as usize]);
        let mut search = Search {
            model,
            tours: vec![Tour::default(); count],
            tour_of: vec![NONE; model.points],
            place_of: vec![0; model.points],
            missing: wanted.clone(),
            random: Random(seed),
            wanted,
            cost: 0,
            missing_weight: 0,
            is_weighted,
            live: Vec::new(),
            is_live_stale: true,
            part: Vec::new(),
            is_in_part: vec![false; count],
            part_rounds_left: 0,
            undivided_max: UNDIVIDED_MAX,
            walk: Walk::default(),
            stamp: 0,
            tops: vec![UNSEEN; model.points * count],
            touched: Vec::new(),
            touched_count: 0,
            is_touched: vec![false; count],
            missing_before: Vec::new(),
            keyed: Vec::new(),
            bench: Bench::default(),
            best: Best {
                nodes: vec![Vec::new(); count],
                stamps: vec![0; count],
                missing: Vec::new(),
                cost: 0,
                missing_weight: 0,
            },
        };
        for tour in 0..count {
            search.settle(tour);
            search.fill_locked(tour);
        }
        for (tour, nodes) in start {
            search.fill_from(*tour, nodes);
        }
        let mut placed = vec![false; model.points];
        for tour in &search.tours {
            tour.nodes.iter().for_each(|node| placed[*node as usize] = true);
        }
        search.missing.retain(|node| !placed[*node as usize]);
        search.forget_touched();
        search.sum_up();
        search
    }

    /// What is locked was loaded or driven to: it stays, as far as it is possible at all.
    fn fill_locked(&mut self, tour: usize) {
        let vehicle = self.model.vehicle(tour);
        for &stop in &vehicle.locked {
            let point = self.model.problem.point(stop) as u32;
            if !self.wanted.contains(&point) || !self.push(tour, point) {
                break;
            }
            self.tours[tour].locked += 1;
        }
        let Tour { locked, .. } = self.tours[tour];
        if locked > 0 {
            self.settle(tour);
        }
    }

    fn fill_from(&mut self, tour: usize, nodes: &[u32]) {
        for &node in nodes {
            if self.tour_of[node as usize] == NONE {
                self.push(tour, node);
            }
        }
    }

    /// Appends a stop if it fits.
    fn push(&mut self, tour: usize, node: u32) -> bool {
        if !self.has_room(tour, node as usize) || !self.model.allows(tour, node as usize) {
            return false;
        }
        self.tours[tour].nodes.push(node);
        if self.settle(tour) {
            return true;
        }
        self.tours[tour].nodes.pop();
        self.tour_of[node as usize] = NONE;
        self.settle(tour);
        false
    }

    fn sum_up(&mut self) {
        self.cost = self.tours.iter().map(|tour| tour.cost).sum();
        self.missing_weight = self.weigh_missing();
    }

    fn weigh_missing(&self) -> u64 {
        let weight = |node: &u32| u64::from(self.model.weight[*node as usize]);
        self.missing.iter().map(weight).sum()
    }

    /// Puts a stop into a tour; false when the tour is not valid any more.
    fn put(&mut self, at: usize, before: usize, node: u32) -> bool {
        let tour = &mut self.tours[at];
        if self.model.depth >= Depth::Spans {
            tour.nodes.insert(before, node);
            return self.settle(at);
        }
        self.is_live_stale |= tour.nodes.is_empty();
        let is_sound = self.model.insert(at, tour, before, node);
        self.tour_of[node as usize] = at as u32;
        for (place, node) in tour.nodes.iter().enumerate().skip(before) {
            self.place_of[*node as usize] = place as u16;
        }
        self.stamp_anew(at);
        is_sound
    }

    /// Says that a tour is not what it was.
    fn stamp_anew(&mut self, at: usize) {
        if self.stamp == u32::MAX {
            self.restamp();
        }
        self.stamp += 1;
        self.tours[at].stamp = self.stamp;
    }

    /// Recomputes a tour whose stops have changed.
    pub(super) fn settle(&mut self, at: usize) -> bool {
        self.stamp_anew(at);
        let tour = &mut self.tours[at];
        let was_empty = tour.gaps.len() <= 1;
        let is_sound = self.model.refresh(at, tour);
        for (place, node) in tour.nodes.iter().enumerate() {
            self.tour_of[*node as usize] = at as u32;
            self.place_of[*node as usize] = place as u16;
        }
        self.is_live_stale |= was_empty != tour.nodes.is_empty();
        is_sound
    }

    /// Stamps start again from one: nothing that was seen before counts.
    fn restamp(&mut self) {
        self.stamp = 0;
        self.tops.fill(UNSEEN);
        self.best.stamps.fill(0);
        let saved = self.touched[..self.touched_count].iter_mut().map(|(_, tour)| tour);
        for tour in self.tours.iter_mut().chain(saved) {
            self.stamp += 1;
            tour.stamp = self.stamp;
        }
    }

    /// Remembers a tour as it is, before it is changed for the first time this round.
    pub(super) fn touch(&mut self, at: usize) {
        if std::mem::replace(&mut self.is_touched[at], true) {
            return;
        }
        if self.touched_count == self.touched.len() {
            self.touched.push((0, Tour::default()));
        }
        let (tour, saved) = &mut self.touched[self.touched_count];
        *tour = at as u32;
        let current = &self.tours[at];
        saved.nodes.clone_from(&current.nodes);
        saved.gaps.clone_from(&current.gaps);
        saved.spans.clone_from(&current.spans);
        (saved.locked, saved.load, saved.metres) = (current.locked, current.load, current.metres);
        (saved.seconds, saved.cost, saved.stamp) = (current.seconds, current.cost, current.stamp);
        self.touched_count += 1;
    }

    fn forget_touched(&mut self) {
        for (tour, _) in &self.touched[..self.touched_count] {
            self.is_touched[*tour as usize] = false;
        }
        self.touched_count = 0;
    }

    /// By how much the tours touched this round cost more than before it.
    fn touched_cost(&self) -> i64 {
        let more = |(at, saved): &(u32, Tour)| self.tours[*at as usize].cost - saved.cost;
        self.touched[..self.touched_count].iter().map(more).sum()
    }

    fn undo(&mut self) {
        for index in 0..self.touched_count {
            let (at, saved) = &mut self.touched[index];
            let tour = &mut self.tours[*at as usize];
            self.is_live_stale |= tour.nodes.is_empty() != saved.nodes.is_empty();
            std::mem::swap(tour, saved);
            self.is_touched[*at as usize] = false;
            for (place, node) in tour.nodes.iter().enumerate() {
                self.tour_of[*node as usize] = *at;
                self.place_of[*node as usize] = place as u16;
            }
        }
        self.touched_count = 0;
        std::mem::swap(&mut self.missing, &mut self.missing_before);
        self.missing.iter().for_each(|node| self.tour_of[*node as usize] = NONE);
    }

    fn keep_as_best(&mut self) {
        for (at, tour) in self.tours.iter().enumerate() {
            if self.best.stamps[at] != tour.stamp {
                self.best.stamps[at] = tour.stamp;
                self.best.nodes[at].clone_from(&tour.nodes);
            }
        }
        self.best.missing.clone_from(&self.missing);
        (self.best.cost, self.best.missing_weight) = (self.cost, self.missing_weight);
    }

    fn return_to_best(&mut self) {
        self.forget_touched();
        self.tour_of.fill(NONE);
        for at in 0..self.tours.len() {
            let nodes = std::mem::take(&mut self.best.nodes[at]);
            self.tours[at].nodes.clone_from(&nodes);
            self.best.nodes[at] = nodes;
            self.settle(at);
        }
        self.missing.clone_from(&self.best.missing);
        // From here on every tour counts again.
        self.part.clear();
        self.is_live_stale = true;
        self.sum_up();
    }

    /// Ruins and recreates until the budget is used up; the best solution stays. Says how many rounds were made, and
    /// whether it was stopped before the end.
    pub(super) fn run(&mut self, budget: &Budget, control: &dyn Control) -> (u64, bool) {
        self.forget_touched();
        self.sum_up();
        self.keep_as_best();
        if self.wanted.len() < 2 || self.tours.is_empty() {
            return (0, false);
        }
        let is_stopped = self.polish_all(control).is_break();
        self.keep_as_best();
        if is_stopped {
            return (0, true);
        }
        let used = self.tours.iter().filter(|tour| !tour.nodes.is_empty()).count();
        let mut cooling = Cooling::new(self.cost, self.wanted.len(), used);
        let mut made = 0;
        let mut is_stopped = false;
        while made < budget.iterations {
            if made % TICK_ITERATIONS == 0 || self.walk.walked >= WALKED_PER_TICK {
                if self.tick(made, control).is_break() {
                    is_stopped = true;
                    break;
                }
                let share = control
                    .share_q32()
                    .unwrap_or_else(|| share_q32(made, budget.iterations));
                cooling.set(share);
                if control.wants_best() {
                    control.best(&self.progress(made), self.best_routes());
                }
            }
            self.choose_part();
            self.round(&cooling);
            made += 1;
        }
        self.return_to_best();
        (made, is_stopped)
    }

    fn tick(&mut self, iterations: u64, control: &dyn Control) -> ControlFlow<()> {
        self.walk.walked = 0;
        control.tick(&self.progress(iterations))
    }

    fn progress(&self, iterations: u64) -> Progress {
        Progress {
            iterations,
            cost: self.best.cost,
            unassigned: self.best.missing.len(),
        }
    }

    /// Where there are too many stops for all at once: when the part's rounds are over, makes the tours around a
    /// random stop the next one.
    fn choose_part(&mut self) {
        if self.wanted.len() <= self.undivided_max || self.missing.len() == self.wanted.len() {
            return;
        }
        if self.part_rounds_left > 0 {
            self.part_rounds_left -= 1;
            return;
        }
        let centre = self.wanted[self.random.below(self.wanted.len() as u64) as usize];
        self.is_in_part.fill(false);
        self.part.clear();
        let model = self.model;
        let mut tours = 0;
        for &node in model.near(centre as usize) {
            let tour = self.tour_of[node as usize];
            if tour == NONE {
                self.part.push(u32::from(node));
                continue;
            }
            if !std::mem::replace(&mut self.is_in_part[tour as usize], true) {
                self.part.extend_from_slice(&self.tours[tour as usize].nodes);
                tours += 1;
            }
            if self.part.len() >= PART_STOPS && tours >= PART_TOURS {
                break;
            }
        }
        self.part_rounds_left = PART_ROUNDS_PER_STOP * self.part.len() as u64;
        self.is_live_stale = true;
    }

    /// The best solution so far, in the problem's numbers.
    fn best_routes(&self) -> Routes {
        let stop = |node: &u32| *node as usize - self.model.problem.depots;
        let tours = self.model.vehicles.iter().zip(&self.best.nodes);
        tours
            .filter(|(_, nodes)| !nodes.is_empty())
            .map(|(vehicle, nodes)| (*vehicle, nodes.iter().map(stop).collect()))
            .collect()
    }

    fn round(&mut self, cooling: &Cooling) {
        self.missing_before.clone_from(&self.missing);
        self.ruin();
        self.recreate(true);
        let slack = cooling.slack(&mut self.random);
        let weight = if self.missing.is_empty() {
            0
        } else {
            self.weigh_missing()
        };
        let mut cost = self.cost + self.touched_cost();
        let is_promising = weight == self.missing_weight && cost < self.cost + slack;
        if is_promising && self.random.below(POLISH_ONE_IN) == 0 {
            self.polish_changed();
            cost = self.cost + self.touched_cost();
        }
        if weight > self.missing_weight || (weight == self.missing_weight && cost >= self.cost + slack) {
            self.undo();
            return;
        }
        self.forget_touched();
        (self.cost, self.missing_weight) = (cost, weight);
        if (weight, cost) < (self.best.missing_weight, self.best.cost) {
            self.keep_as_best();
        }
    }

    /// Improves the first solution.
    fn polish_all(&mut self, control: &dyn Control) -> ControlFlow<()> {
        let wanted = std::mem::take(&mut self.wanted);
        let mut flow = self.tick(0, control);
        for nodes in wanted.chunks(POLISHED_PER_TICK) {
            if flow.is_break() {
                break;
            }
            self.polish(nodes.iter().copied());
            flow = self.tick(0, control);
        }
        self.wanted = wanted;
        self.forget_touched();
        self.sum_up();
        flow
    }

    /// Improves around what this round has moved.
    fn polish_changed(&mut self) {
        let keyed = std::mem::take(&mut self.keyed);
        self.polish(keyed.iter().map(|(_, node)| *node));
        self.keyed = keyed;
    }

    /// Takes strings of neighbouring stops out of several tours near a random stop.
    fn ruin(&mut self) {
        self.renew_live();
        let lengths = || self.live.iter().map(|at| self.tours[*at as usize].nodes.len() as u64);
        let used = lengths().filter(|length| *length > 0).count() as u64;
        let placed: u64 = lengths().sum();
        if placed == 0 {
            return;
        }
        // In 1/256.
        let length = (placed << 8) / used;
        let removed = (length * 2 / 3).clamp(STRING_MIN << 8, STRING_MAX << 8);
        let string_max = removed.min(length).max(256);
        let strings_max = ((4 * removed) << 8) / (256 + string_max) - 256;
        let strings = ((256 + self.random.below(strings_max.max(1))) >> 8) as usize;
        let among = if self.part.is_empty() { &self.wanted } else { &self.part };
        let centre = among[self.random.below(among.len() as u64) as usize];
        let model = self.model;
        for &node in model.near(centre as usize) {
            if self.touched_count >= strings {
                break;
            }
            let tour = self.tour_of[node as usize];
            if tour == NONE || self.is_touched[tour as usize] || !self.is_in_reach(tour as usize) {
                continue;
            }
            let tour = tour as usize;
            let locked = self.tours[tour].locked;
            let place = self.place_of[node as usize] as usize;
            if place < locked {
                continue;
            }
            let free = (self.tours[tour].nodes.len() - locked) as u64;
            let most = string_max.min(free << 8);
            let take = ((256 + self.random.below(most)) >> 8).clamp(1, free) as usize;
            self.touch(tour);
            self.remove_string(tour, place, take);
        }
    }

    /// Removes `take` stops in a row, the one at `place` among them; half of the time some inside the row stay.
    fn remove_string(&mut self, at: usize, place: usize, take: usize) {
        let locked = self.tours[at].locked;
        let length = self.tours[at].nodes.len() - locked;
        let place = place - locked;
        let mut kept = 0;
        if take > 1 && take < length && self.random.below(2) == 0 {
            kept = 1;
            while take + kept < length && self.random.below(100) == 0 {
                kept += 1;
            }
        }
        let row = take + kept;
        let first_min = (place + 1).saturating_sub(row);
        let first_max = place.min(length - row);
        let first = first_min + self.random.below((first_max - first_min + 1) as u64) as usize;
        let nodes = &mut self.tours[at].nodes;
        let first = first + locked;
        if kept == 0 {
            self.missing.extend(nodes.drain(first..first + row));
        } else {
            let kept_from = first + 1 + self.random.below(take as u64 - 1) as usize;
            self.missing.extend(nodes.drain(kept_from + kept..first + row));
            self.missing.extend(nodes.drain(first..kept_from));
        }
        let removed = self.missing.len() - take;
        self.missing[removed..]
            .iter()
            .for_each(|node| self.tour_of[*node as usize] = NONE);
        if !self.settle(at) {
            // Where there is no way, or a detour is shorter, the rest need not be a tour. It starts again.
            self.missing.extend(self.tours[at].nodes.drain(locked..));
            self.missing[removed..]
                .iter()
                .for_each(|node| self.tour_of[*node as usize] = NONE);
            self.settle(at);
        }
    }

    /// Whether a tour belongs to what is searched now.
    #[inline]
    fn is_in_reach(&self, tour: usize) -> bool {
        self.part.is_empty() || self.is_in_part[tour]
    }

    pub(super) fn renew_live(&mut self) {
        if !std::mem::take(&mut self.is_live_stale) {
            return;
        }
        self.live.clear();
        let mut seen = vec![false; self.model.kinds];
        for (at, tour) in self.tours.iter().enumerate() {
            let kind = self.model.kind[at] as usize;
            let is_live = match tour.nodes.is_empty() {
                true => !std::mem::replace(&mut seen[kind], true),
                false => self.part.is_empty() || self.is_in_part[at],
            };
            if is_live {
                self.live.push(at as u32);
            }
        }
    }

    /// Puts every missing stop at its cheapest place, in one of several orders.
    pub(super) fn recreate(&mut self, blinks: bool) {
        let mut keyed = std::mem::take(&mut self.keyed);
        self.sort_missing(&mut keyed, blinks);
        self.missing.clear();
        for &(_, node) in &keyed {
            if !self.insert(node, blinks) {
                self.missing.push(node);
            }
        }
        self.keyed = keyed;
    }

    fn insert(&mut self, node: u32, blinks: bool) -> bool {
        self.renew_live();
        let (best, next) = self.cheapest(node as usize);
        // Passing places over matters only where the cheapest one is passed over.
        let place = match blinks && next.tour != NONE && self.random.below(BLINK_ONE_IN) == 0 {
            true => next,
            false => best,
        };
        if place.tour == NONE {
            return false;
        }
        let at = place.tour as usize;
        self.is_in_part[at] = true;
        self.touch(at);
        if self.put(at, place.before as usize, node) {
            return true;
        }
        // Only with several windows, or ways that are shorter by a detour.
        self.tours[at].nodes.remove(place.before as usize);
        self.tour_of[node as usize] = NONE;
        self.settle(at);
        false
    }

    fn sort_missing(&mut self, keyed: &mut Vec<(i64, u32)>, at_random: bool) {
        // The published weights of the first four, and two for each of the windows' rules where there are windows.
        let rules = if self.model.depth >= Depth::Times { 17 } else { 11 };
        let rule = if at_random { self.random.below(rules) } else { 8 };
        let model = self.model;
        let depot = model.row(model.ways[0].metres_from, 0);
        keyed.clear();
        for &node in &self.missing {
            let at = node as usize;
            let far = i64::from(depot[at]);
            let key = match rule {
                0..4 => (self.random.next() >> 1) as i64,
                4..8 => -model.load[at][0].max(model.load[at][1]),
                8..10 => -far,
                10 => far,
                11..13 => i64::from(model.late[at] - model.early[at]),
                13..15 => i64::from(model.early[at]),
                _ => -i64::from(model.late[at]),
            };
            keyed.push((key, node));
        }
        keyed.sort_unstable();
        if self.is_weighted {
            keyed.sort_by_key(|(_, node)| std::cmp::Reverse(model.weight[*node as usize]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::{Load, Matrix, Problem, Stop, Vehicle, Window};
    use super::super::solver::Unhurried;
    use super::*;

    /// Stops all over a square, three hours to hand each over, vans for a dozen.
    fn big_day(stops: usize) -> Problem {
        let mut random = Random(3);
        let mut below = |bound: u64| random.below(bound) as i32;
        let points: Vec<(i32, i32)> = (0..=stops).map(|_| (below(20_000), below(20_000))).collect();
        let matrix = Matrix::from_fn(points.len(), |from, to| {
            let ((ax, ay), (bx, by)) = (points[from], points[to]);
            let metres = ax.abs_diff(bx) + ay.abs_diff(by);
            (metres, metres / 9)
        });
        let all = (0..stops).map(|_| {
            let start = below(25_000);
            Stop {
                load: Load {
                    grams: 1 + i64::from(below(20)),
                    cm3: 0,
                },
                windows: vec![Window {
                    start,
                    end: start + 10_800,
                }],
                service: 120,
                ..Stop::default()
            }
        });
        let all = all.collect();
        let van = Vehicle {
            capacity: Load { grams: 130, cm3: 0 },
            ..Vehicle::default()
        };
        Problem::of_one_depot(all, vec![van; stops / 8], matrix)
    }

    fn searched(problem: &Problem, undivided_max: usize) -> (Vec<Vec<u32>>, i64, usize) {
        let model = Model::new(problem);
        let wanted = (1..=problem.stops.len() as u32).collect();
        let mut search = Search::new(&model, wanted, &[], 1);
        search.undivided_max = undivided_max;
        search.recreate(false);
        let budget = Budget {
            iterations: 15_000,
            seed: 1,
        };
        assert_eq!(search.run(&budget, &Unhurried), (budget.iterations, false));
        let tours = search.tours.iter().map(|tour| tour.nodes.clone()).collect();
        (tours, search.cost, search.missing.len())
    }

    #[test]
    fn a_day_searched_in_parts_is_as_good_as_one_searched_whole_and_the_same_again() {
        let problem = big_day(1_100);
        let (_, whole, missing) = searched(&problem, usize::MAX);
        assert_eq!(missing, 0);
        let in_parts = searched(&problem, UNDIVIDED_MAX);
        assert_eq!(in_parts.2, 0);
        assert!(in_parts.1 <= whole, "{} in parts, {whole} whole", in_parts.1);
        assert_eq!(in_parts, searched(&problem, UNDIVIDED_MAX));
    }

    #[test]
    fn a_tour_that_a_stop_is_put_into_is_what_it_would_be_recomputed() {
        let problem = big_day(60);
        let model = Model::new(&problem);
        let mut search = Search::new(&model, (1..=60).collect(), &[], 1);
        for node in 1..=60 {
            search.renew_live();
            let (place, _) = search.cheapest(node);
            let (tour, before) = (place.tour as usize, place.before as usize);
            assert!(search.put(tour, before, node as u32), "its place was judged");
            let put = search.tours[tour].clone();
            assert!(search.settle(tour));
            let recomputed = &search.tours[tour];
            assert_eq!((&put.nodes, &put.gaps), (&recomputed.nodes, &recomputed.gaps));
            assert_eq!((put.load, put.metres), (recomputed.load, recomputed.metres));
            assert_eq!(put.cost, recomputed.cost);
        }
    }
}
