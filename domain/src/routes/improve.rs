//! Local search between the rounds: moves that ruin and recreate is slow to find where tours are long. Whole tails
//! change tours (2-opt*), rows of one to three stops move (relocate, or-opt), two rows change places (swap), and part of
//! a tour turns round (2-opt). Only moves that make two stops that are close neighbours are tried, the lengths first;
//! a tour that would be shorter is then walked, so that what is done is always valid.

use super::course::{Span, course};
use super::model::{Depth, NO_WAY, NONE};
use super::search::Search;

/// The most stops of a row that moves or changes places.
const ROW_MAX: usize = 3;
/// The most moves of one polish, for each stop it starts from.
const MOVES_MAX: usize = 20;

/// What the local search works with, kept to allocate nothing.
#[derive(Default)]
pub(super) struct Bench {
    queue: Vec<u32>,
    a: Vec<u32>,
    b: Vec<u32>,
}

/// A stop with the tour it is on and its place there.
#[derive(Debug, Clone, Copy)]
struct At {
    node: u32,
    tour: usize,
    place: usize,
}

impl Search<'_> {
    /// Improves the tours around these stops until no move helps.
    pub(super) fn polish(&mut self, around: impl Iterator<Item = u32>) {
        let mut bench = std::mem::take(&mut self.bench);
        bench.queue.clear();
        bench.queue.extend(around);
        let mut moves_left = bench.queue.len() * MOVES_MAX;
        let mut next = 0;
        while next < bench.queue.len() && moves_left > 0 {
            let node = bench.queue[next];
            if self.improve_around(node, &mut bench) {
                moves_left -= 1;
            } else {
                next += 1;
            }
        }
        self.bench = bench;
    }

    fn at(&self, node: u32) -> At {
        At {
            node,
            tour: self.tour_of[node as usize] as usize,
            place: self.place_of[node as usize] as usize,
        }
    }

    fn improve_around(&mut self, node: u32, bench: &mut Bench) -> bool {
        if self.tour_of[node as usize] == NONE {
            return false;
        }
        let u = self.at(node);
        if u.place < self.tours[u.tour].locked {
            return false;
        }
        let model = self.model;
        for &other in model.close(node as usize) {
            let other = u32::from(other);
            if self.tour_of[other as usize] == NONE {
                continue;
            }
            let v = self.at(other);
            if v.place < self.tours[v.tour].locked {
                continue;
            }
            let is_better = match u.tour == v.tour {
                true => self.move_within(u, v, bench) || self.turn_round(u, v, bench),
                false => {
                    self.exchange_tails(u, v, bench) || self.exchange_tails(v, u, bench) || self.move_rows(u, v, bench)
                }
            };
            if is_better {
                return true;
            }
        }
        false
    }

    /// The point at a place of a tour: its depots before and after it.
    fn point(&self, tour: usize, place: isize) -> u32 {
        let nodes = &self.tours[tour].nodes;
        if place < 0 {
            return self.model.vehicle(tour).start as u32;
        }
        match nodes.get(place as usize) {
            Some(node) => *node,
            None => self.model.vehicle(tour).end as u32,
        }
    }

    #[inline(always)]
    fn metres(&self, tour: usize, from: u32, to: u32) -> i64 {
        let ways = &self.model.ways[self.model.vehicle(tour).profile];
        i64::from(self.model.metres(ways, from, to))
    }

    #[inline(always)]
    fn seconds(&self, tour: usize, from: u32, to: u32) -> i32 {
        let ways = &self.model.ways[self.model.vehicle(tour).profile];
        self.model.seconds(ways, from, to)
    }

    /// u, then v and what follows it; and what was before v, then what followed u.
    fn exchange_tails(&mut self, u: At, v: At, bench: &mut Bench) -> bool {
        let (ta, tb) = (&self.tours[u.tour], &self.tours[v.tour]);
        let (after, before) = (ta.gaps[u.place + 1], tb.gaps[v.place]);
        if u.place + 1 < ta.locked {
            return false;
        }
        let mut more = self.metres(u.tour, u.node, v.node)
            + self.metres(v.tour, before.from, self.point(u.tour, u.place as isize + 1))
            - i64::from(after.metres)
            - i64::from(before.metres);
        let (end_a, end_b) = (self.point(u.tour, isize::MAX), self.point(v.tour, isize::MAX));
        let leaves_one = v.place == 0 && u.place + 1 == ta.nodes.len();
        if leaves_one {
            // Both tours become one: the other van stays at home.
            let vehicle = self.model.vehicle(v.tour);
            more -= vehicle.fixed_cost / vehicle.metre_cost.max(1) + self.metres(v.tour, before.from, end_a);
        }
        if end_a != end_b {
            let last_b = tb.nodes[tb.nodes.len() - 1];
            more += self.metres(u.tour, last_b, end_a) - self.metres(v.tour, last_b, end_b);
            if u.place + 1 < ta.nodes.len() {
                let last_a = ta.nodes[ta.nodes.len() - 1];
                more += self.metres(v.tour, last_a, end_b) - self.metres(u.tour, last_a, end_a);
            } else if !leaves_one {
                more += self.metres(v.tour, before.from, end_b) - self.metres(v.tour, before.from, end_a);
            }
        }
        if more >= 0 && !self.model.has_other_costs {
            return false;
        }
        if self.model.depth >= Depth::Times {
            if after.leaves + self.seconds(u.tour, u.node, v.node) > before.by {
                return false;
            }
            if u.place + 1 < ta.nodes.len() {
                let next = ta.nodes[u.place + 1];
                if before.leaves + self.seconds(v.tour, before.from, next) > after.by {
                    return false;
                }
            }
        }
        bench.a.clear();
        bench.b.clear();
        bench.a.extend_from_slice(&ta.nodes[..=u.place]);
        bench.a.extend_from_slice(&tb.nodes[v.place..]);
        bench.b.extend_from_slice(&tb.nodes[..v.place]);
        bench.b.extend_from_slice(&ta.nodes[u.place + 1..]);
        self.take_both(u.tour, v.tour, bench)
    }

    /// A row that starts or ends at u goes beside v, into the other tour; or changes places with the row there.
    fn move_rows(&mut self, u: At, v: At, bench: &mut Bench) -> bool {
        let locked = self.tours[u.tour].locked;
        let (count_a, count_b) = (self.tours[u.tour].nodes.len(), self.tours[v.tour].nodes.len());
        for row in 1..=ROW_MAX.min(count_a - locked) {
            // u is the row's first and follows v; or its last, and v follows it.
            for follows in [true, false] {
                let first = if follows {
                    u.place as isize
                } else {
                    u.place as isize - row as isize + 1
                };
                if first < locked as isize || first as usize + row > count_a {
                    continue;
                }
                let first = first as usize;
                let (head, tail) = (
                    self.tours[u.tour].nodes[first],
                    self.tours[u.tour].nodes[first + row - 1],
                );
                let (prev, next) = (
                    self.point(u.tour, first as isize - 1),
                    self.point(u.tour, (first + row) as isize),
                );
                let out = i64::from(self.tours[u.tour].gaps[first].metres)
                    + i64::from(self.tours[u.tour].gaps[first + row].metres);
                for other in 0..=ROW_MAX - 1 {
                    // The row that gives way: after v, or before it.
                    let start = if follows {
                        v.place as isize + 1
                    } else {
                        v.place as isize - other as isize
                    };
                    if start < self.tours[v.tour].locked as isize || start as usize + other > count_b {
                        continue;
                    }
                    let start = start as usize;
                    let tb = &self.tours[v.tour];
                    let (left, right) = (
                        self.point(v.tour, start as isize - 1),
                        self.point(v.tour, (start + other) as isize),
                    );
                    let mut more = self.metres(v.tour, left, head) + self.metres(v.tour, tail, right)
                        - out
                        - i64::from(tb.gaps[start].metres);
                    if other == 0 {
                        if row < count_a {
                            more += self.metres(u.tour, prev, next);
                        } else {
                            let vehicle = self.model.vehicle(u.tour);
                            more -= vehicle.fixed_cost / vehicle.metre_cost.max(1);
                        }
                    } else {
                        let (x, y) = (tb.nodes[start], tb.nodes[start + other - 1]);
                        more += self.metres(u.tour, prev, x) + self.metres(u.tour, y, next)
                            - i64::from(tb.gaps[start + other].metres);
                    }
                    if more >= 0 && !self.model.has_other_costs {
                        continue;
                    }
                    if self.model.depth >= Depth::Times {
                        let arrives = tb.gaps[start].leaves + self.seconds(v.tour, left, head);
                        let at = head as usize;
                        if arrives > self.model.late[at] {
                            continue;
                        }
                        let leaves = arrives.max(self.model.early[at]) + self.model.service[at];
                        if row == 1 && leaves + self.seconds(v.tour, tail, right) > tb.gaps[start + other].by {
                            continue;
                        }
                    }
                    let ta = &self.tours[u.tour];
                    bench.a.clear();
                    bench.b.clear();
                    bench.a.extend_from_slice(&ta.nodes[..first]);
                    bench.a.extend_from_slice(&tb.nodes[start..start + other]);
                    bench.a.extend_from_slice(&ta.nodes[first + row..]);
                    bench.b.extend_from_slice(&tb.nodes[..start]);
                    bench.b.extend_from_slice(&ta.nodes[first..first + row]);
                    bench.b.extend_from_slice(&tb.nodes[start + other..]);
                    if self.take_both(u.tour, v.tour, bench) {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// A row that starts or ends at u goes beside v in the same tour.
    fn move_within(&mut self, u: At, v: At, bench: &mut Bench) -> bool {
        let tour = u.tour;
        let (count, locked) = (self.tours[tour].nodes.len(), self.tours[tour].locked);
        for row in 1..=ROW_MAX.min(count - locked) {
            for follows in [true, false] {
                let first = if follows {
                    u.place as isize
                } else {
                    u.place as isize - row as isize + 1
                };
                if first < locked as isize || first as usize + row > count {
                    continue;
                }
                let first = first as usize;
                // The gap the row goes into, in the tour as it is.
                let gap = if follows { v.place + 1 } else { v.place };
                if (first..=first + row).contains(&gap) || gap < locked {
                    continue;
                }
                let nodes = &self.tours[tour].nodes;
                let gaps = &self.tours[tour].gaps;
                let (head, tail) = (nodes[first], nodes[first + row - 1]);
                let (prev, next) = (gaps[first].from, gaps[first + row].to);
                let (left, right) = (gaps[gap].from, gaps[gap].to);
                let more =
                    self.metres(tour, prev, next) + self.metres(tour, left, head) + self.metres(tour, tail, right)
                        - i64::from(gaps[first].metres)
                        - i64::from(gaps[first + row].metres)
                        - i64::from(gaps[gap].metres);
                if more >= 0 && !self.model.has_other_costs {
                    continue;
                }
                bench.a.clear();
                if gap < first {
                    bench.a.extend_from_slice(&nodes[..gap]);
                    bench.a.extend_from_slice(&nodes[first..first + row]);
                    bench.a.extend_from_slice(&nodes[gap..first]);
                    bench.a.extend_from_slice(&nodes[first + row..]);
                } else {
                    bench.a.extend_from_slice(&nodes[..first]);
                    bench.a.extend_from_slice(&nodes[first + row..gap]);
                    bench.a.extend_from_slice(&nodes[first..first + row]);
                    bench.a.extend_from_slice(&nodes[gap..]);
                }
                if self.take_one(tour, bench) {
                    return true;
                }
            }
        }
        false
    }

    /// What lies between u and v turns round, so that they meet.
    fn turn_round(&mut self, u: At, v: At, bench: &mut Bench) -> bool {
        let tour = u.tour;
        let (low, high) = (u.place.min(v.place), u.place.max(v.place));
        let locked = self.tours[tour].locked;
        // Turn what follows the first one up to the second; or the first one up to what is before the second.
        for (first, last) in [(low + 1, high), (low, high.wrapping_sub(1))] {
            if first >= last || first < locked {
                continue;
            }
            let (nodes, gaps) = (&self.tours[tour].nodes, &self.tours[tour].gaps);
            let more = self.metres(tour, gaps[first].from, nodes[last])
                + self.metres(tour, nodes[first], gaps[last + 1].to)
                - i64::from(gaps[first].metres)
                - i64::from(gaps[last + 1].metres);
            if more >= 0 {
                continue;
            }
            bench.a.clear();
            bench.a.extend_from_slice(nodes);
            bench.a[first..=last].reverse();
            if self.take_one(tour, bench) {
                return true;
            }
        }
        false
    }

    fn take_one(&mut self, tour: usize, bench: &mut Bench) -> bool {
        match self.worth(tour, &bench.a) {
            Some(cost) if cost < self.tours[tour].cost => {}
            _ => return false,
        }
        self.touch(tour);
        std::mem::swap(&mut self.tours[tour].nodes, &mut bench.a);
        let is_sound = self.settle(tour);
        debug_assert!(is_sound, "what was walked is valid");
        true
    }

    fn take_both(&mut self, a: usize, b: usize, bench: &mut Bench) -> bool {
        let before = self.tours[a].cost + self.tours[b].cost;
        match self.worth(a, &bench.a) {
            Some(cost) if cost < before => match self.worth(b, &bench.b) {
                Some(other) if cost + other < before => {}
                _ => return false,
            },
            _ => return false,
        }
        self.touch(a);
        self.touch(b);
        std::mem::swap(&mut self.tours[a].nodes, &mut bench.a);
        std::mem::swap(&mut self.tours[b].nodes, &mut bench.b);
        let is_sound = self.settle(a) & self.settle(b);
        debug_assert!(is_sound, "what was walked is valid");
        true
    }

    /// What a tour with these stops would cost; `None` when there can be no such tour.
    fn worth(&self, at: usize, nodes: &[u32]) -> Option<i64> {
        if nodes.is_empty() {
            return Some(0);
        }
        let model = self.model;
        let vehicle = model.vehicle(at);
        if nodes.len() > vehicle.stops_max {
            return None;
        }
        let mut load = [0; 2];
        let (mut moves, mut allowed) = (0, true);
        for &node in nodes {
            let node = node as usize;
            load = [load[0] + model.load[node][0], load[1] + model.load[node][1]];
            if !model.all_allowed {
                allowed &= model.allows(at, node);
            }
            if model.has_homes {
                moves += model.move_cost(at, node);
            }
        }
        if load[0] > vehicle.capacity.grams || load[1] > vehicle.capacity.cm3 || !allowed {
            return None;
        }
        if model.depth == Depth::Walk {
            return Some(course(model.problem, vehicle, nodes)?.cost + moves);
        }
        let ways = &model.ways[vehicle.profile];
        let (mut from, mut metres) = (vehicle.start as u32, 0);
        let mut leaves = vehicle.shift.start;
        let mut span = Span {
            seconds: 0,
            early: vehicle.shift.start,
            late: vehicle.shift.end,
        };
        for &node in nodes.iter().chain(std::iter::once(&(vehicle.end as u32))) {
            metres += i64::from(model.metres(ways, from, node));
            match model.depth {
                Depth::Lengths => {}
                Depth::Times => {
                    let at = node as usize;
                    let arrives = leaves + model.seconds(ways, from, node);
                    if arrives > model.late[at] {
                        return None;
                    }
                    leaves = arrives.max(model.early[at]) + model.service[at];
                }
                Depth::Spans | Depth::Walk => {
                    let driving = model.seconds(ways, from, node);
                    if driving >= NO_WAY {
                        return None;
                    }
                    span = span.then(driving, model.span(node))?;
                }
            }
            from = node;
        }
        let cost = vehicle.fixed_cost + vehicle.metre_cost * metres + moves;
        let is_in_time = match model.depth {
            Depth::Lengths => true,
            Depth::Times => leaves <= vehicle.shift.end,
            Depth::Spans | Depth::Walk => {
                span.early + span.seconds <= vehicle.shift.end && span.seconds <= vehicle.seconds_max
            }
        };
        (is_in_time && metres <= vehicle.metres_max).then_some(cost + vehicle.second_cost * i64::from(span.seconds))
    }
}
