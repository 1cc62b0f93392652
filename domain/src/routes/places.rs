//! Where a stop may go: its two cheapest places in every tour, judged again only where a tour has changed since; and the
//! tours that come nearest to taking one that has none.

use super::course::{Span, course};
use super::model::{Depth, Model, NO_WAY, NONE, Tour};
use super::search::Search;

/// How many of its cheapest places are walked for a stop, in a tour that must be walked and has one that is valid.
const WALKS_MAX: usize = 8;
/// No place has a cost like that.
const NO_PLACE: i64 = i64::MAX;

/// The two cheapest places of a stop in one tour, as long as its stamp is this.
#[derive(Debug, Clone, Copy)]
pub(super) struct Top {
    cost: [i64; 2],
    stamp: u32,
    before: [u16; 2],
}

pub(super) const UNSEEN: Top = Top {
    cost: [NO_PLACE; 2],
    stamp: 0,
    before: [0; 2],
};

impl Top {
    #[inline]
    fn offer(&mut self, cost: i64, before: usize) {
        if cost < self.cost[0] {
            (self.cost[1], self.before[1]) = (self.cost[0], self.before[0]);
            (self.cost[0], self.before[0]) = (cost, before as u16);
        } else if cost < self.cost[1] {
            (self.cost[1], self.before[1]) = (cost, before as u16);
        }
    }
}

/// The two shortest detours to a stop in one tour, each with its place in the low bits. Found without branches: a processor
/// cannot guess which places are short, and each wrong guess takes longer than judging a place.
struct Least([i64; 2]);

impl Least {
    const NONE: Least = Least([NO_PLACE; 2]);

    #[inline]
    fn offer(&mut self, more: i32, before: usize, is_valid: bool) {
        let key = match is_valid {
            true => i64::from(more) << 16 | before as i64,
            false => NO_PLACE,
        };
        self.0[1] = self.0[1].min(key.max(self.0[0]));
        self.0[0] = self.0[0].min(key);
    }

    #[inline]
    fn offer_to(self, top: &mut Top, base: i64, metre_cost: i64) {
        for (i, key) in self.0.into_iter().enumerate() {
            if key != NO_PLACE {
                top.cost[i] = base + metre_cost * (key >> 16);
                top.before[i] = (key & 0xffff) as u16;
            }
        }
    }
}

/// Where a stop goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    cost: i64,
    pub(super) tour: u32,
    pub(super) before: u16,
}

const NOWHERE: Place = Place {
    cost: NO_PLACE,
    tour: NONE,
    before: 0,
};

impl Search<'_> {
    /// The tours that might have taken a stop if they had more of something, the one that comes nearest first: a little
    /// late, then too long, then full. Of tours without stops one of each kind is among them.
    pub(super) fn nearest_misses(&mut self, node: u32) -> Vec<usize> {
        self.renew_live();
        let node = node as usize;
        let (model, load) = (self.model, self.model.load[node]);
        let mut misses: Vec<(u8, i64, usize)> = Vec::new();
        for &at in &self.live {
            let at = at as usize;
            let (tour, vehicle) = (&self.tours[at], model.vehicle(at));
            if !model.allows(at, node) {
                continue;
            }
            let over_grams = (tour.load[0] + load[0] - vehicle.capacity.grams).max(0);
            let over_cm3 = (tour.load[1] + load[1] - vehicle.capacity.cm3).max(0);
            let miss = if tour.nodes.len() >= vehicle.stops_max {
                (3, 0)
            } else if over_grams > 0 || over_cm3 > 0 {
                (2, over_grams.saturating_add(over_cm3))
            } else {
                match self.late_seconds(at, node) {
                    0 => (1, 0),
                    late_seconds => (0, i64::from(late_seconds)),
                }
            };
            misses.push((miss.0, miss.1, at));
        }
        misses.sort_unstable();
        misses.into_iter().map(|(_, _, at)| at).collect()
    }

    /// By how many seconds a tour would be late at least, wherever it took this stop.
    fn late_seconds(&self, at: usize, node: usize) -> i32 {
        let (model, tour) = (self.model, &self.tours[at]);
        if model.depth == Depth::Lengths {
            return 0;
        }
        let ways = &model.ways[model.vehicle(at).profile];
        let (until, driving) = (model.row(ways.seconds_into, node), model.row(ways.seconds_from, node));
        let late = tour.gaps[tour.locked..].iter().map(|gap| {
            let arrives = gap.leaves + until[gap.from as usize];
            let leaves = arrives.max(model.early[node]) + model.service[node];
            (arrives - model.late[node]).max(leaves + driving[gap.to as usize] - gap.by)
        });
        late.min().unwrap_or(0).max(0)
    }

    pub(super) fn has_room(&self, tour: usize, node: usize) -> bool {
        let vehicle = self.model.vehicle(tour);
        let (load, more) = (self.tours[tour].load, self.model.load[node]);
        load[0] + more[0] <= vehicle.capacity.grams
            && load[1] + more[1] <= vehicle.capacity.cm3
            && self.tours[tour].nodes.len() < vehicle.stops_max
    }

    /// The cheapest place of all, and the next one.
    pub(super) fn cheapest(&mut self, node: usize) -> (Place, Place) {
        let (mut best, mut next) = (NOWHERE, NOWHERE);
        let count = self.tours.len();
        let tops = &mut self.tops[node * count..][..count];
        let load = self.model.load[node];
        for &at in &self.live {
            let at = at as usize;
            let tour = &self.tours[at];
            let vehicle = self.model.vehicle(at);
            if tour.load[0] + load[0] > vehicle.capacity.grams
                || tour.load[1] + load[1] > vehicle.capacity.cm3
                || tour.nodes.len() >= vehicle.stops_max
                || !self.model.allows(at, node)
            {
                continue;
            }
            let top = &mut tops[at];
            if top.stamp != tour.stamp {
                *top = UNSEEN;
                judge(self.model, at, tour, node, top, &mut self.walk);
                top.stamp = tour.stamp;
            }
            if top.cost[0] < next.cost {
                next = Place {
                    cost: top.cost[0],
                    tour: at as u32,
                    before: top.before[0],
                };
                if next.cost < best.cost {
                    std::mem::swap(&mut best, &mut next);
                    if top.cost[1] < next.cost {
                        next = Place {
                            cost: top.cost[1],
                            tour: at as u32,
                            before: top.before[1],
                        };
                    }
                }
            }
        }
        (best, next)
    }
}

/// What judging places by walking works with, kept to allocate nothing.
#[derive(Debug, Default)]
pub(super) struct Walk {
    places: Vec<(i64, u16)>,
    nodes: Vec<u32>,
    pub(super) walked: u64,
}

/// Finds the two cheapest places of a stop in one tour that has room for it.
fn judge(model: &Model, at: usize, tour: &Tour, node: usize, top: &mut Top, walk: &mut Walk) {
    let vehicle = model.vehicle(at);
    let ways = &model.ways[vehicle.profile];
    let (into, from) = (model.row(ways.metres_into, node), model.row(ways.metres_from, node));
    let gaps = tour.gaps.iter().enumerate().skip(tour.locked);
    let longest = vehicle.metres_max - tour.metres;
    let mut base = model.move_cost(at, node);
    if tour.nodes.is_empty() {
        base += vehicle.fixed_cost;
    }
    match model.depth {
        Depth::Lengths => {
            let mut least = Least::NONE;
            for (before, gap) in gaps {
                let more = into[gap.from as usize] + from[gap.to as usize] - gap.metres;
                least.offer(more, before, i64::from(more) <= longest);
            }
            least.offer_to(top, base, vehicle.metre_cost);
        }
        Depth::Times => {
            let (until, driving) = (model.row(ways.seconds_into, node), model.row(ways.seconds_from, node));
            let (early, late, service) = (model.early[node], model.late[node], model.service[node]);
            let ready = early + service;
            let mut least = Least::NONE;
            // Along a tour both times only grow, so the places in time are a row.
            for (before, gap) in gaps.skip_while(|(_, gap)| gap.by < ready) {
                if gap.leaves > late {
                    break;
                }
                let more = into[gap.from as usize] + from[gap.to as usize] - gap.metres;
                let arrives = gap.leaves + until[gap.from as usize];
                let leaves = arrives.max(early) + service;
                let is_in_time = (arrives <= late) & (leaves + driving[gap.to as usize] <= gap.by);
                least.offer(more, before, is_in_time & (i64::from(more) <= longest));
            }
            least.offer_to(top, base, vehicle.metre_cost);
        }
        Depth::Spans => {
            let (until, driving) = (model.row(ways.seconds_into, node), model.row(ways.seconds_from, node));
            let stop = model.span(node as u32);
            let ready = stop.early + stop.seconds;
            for (before, gap) in gaps {
                if gap.leaves > stop.late {
                    break;
                }
                if gap.by < ready {
                    continue;
                }
                let more = i64::from(into[gap.from as usize] + from[gap.to as usize] - gap.metres);
                let cost = base + vehicle.metre_cost * more;
                if vehicle.second_cost == 0 && cost >= top.cost[1] || more > longest {
                    continue;
                }
                let arrives = gap.leaves + until[gap.from as usize];
                if arrives > stop.late || arrives.max(stop.early) + stop.seconds + driving[gap.to as usize] > gap.by {
                    continue;
                }
                let (head, tail) = tour.spans[before];
                let Some(whole) = with_stop(head, until[gap.from as usize], stop, driving[gap.to as usize], tail)
                else {
                    continue;
                };
                if whole.seconds <= vehicle.seconds_max {
                    let longer = i64::from(whole.seconds - tour.seconds);
                    top.offer(cost + vehicle.second_cost * longer, before);
                }
            }
        }
        Depth::Walk => {
            let (until, driving) = (model.row(ways.seconds_into, node), model.row(ways.seconds_from, node));
            let (early, late, service) = (model.early[node], model.late[node], model.service[node]);
            walk.places.clear();
            for (before, gap) in gaps {
                if gap.leaves > late {
                    break;
                }
                let more = i64::from(into[gap.from as usize] + from[gap.to as usize] - gap.metres);
                let arrives = gap.leaves + until[gap.from as usize];
                let is_late = arrives > late || arrives.max(early) + service + driving[gap.to as usize] > gap.by;
                if !is_late && more <= longest {
                    walk.places.push((base + vehicle.metre_cost * more, before as u16));
                }
            }
            walk.places.sort_unstable();
            let is_paid = vehicle.second_cost > 0;
            let before_cost = match tour.nodes.is_empty() {
                true => 0,
                false => tour.cost - moves(model, at, tour),
            };
            for (walks, &(cost, before)) in walk.places.iter().enumerate() {
                // A tour does not get shorter by a stop, or hardly ever, so what the way costs is the least it costs.
                if cost >= top.cost[1] || (walks >= WALKS_MAX && top.cost[0] != NO_PLACE && is_paid) {
                    break;
                }
                walk.nodes.clear();
                walk.nodes.extend_from_slice(&tour.nodes);
                walk.nodes.insert(before as usize, node as u32);
                walk.walked += walk.nodes.len() as u64;
                if let Some(course) = course(model.problem, vehicle, &walk.nodes) {
                    top.offer(model.move_cost(at, node) + course.cost - before_cost, before as usize);
                }
            }
        }
    }
    for i in 0..2 {
        if top.cost[i] != NO_PLACE && has_no_way(tour, top.before[i] as usize, into, from) {
            (top.cost[i], top.before[i]) = (NO_PLACE, 0);
        }
    }
    if top.cost[0] > top.cost[1] {
        top.cost.swap(0, 1);
        top.before.swap(0, 1);
    }
}

fn moves(model: &Model, at: usize, tour: &Tour) -> i64 {
    match model.has_homes {
        true => tour.nodes.iter().map(|node| model.move_cost(at, *node as usize)).sum(),
        false => 0,
    }
}

/// Times forbid every way that is none; without times all ways are there.
fn has_no_way(tour: &Tour, before: usize, into: &[i32], from: &[i32]) -> bool {
    let gap = tour.gaps[before];
    into[gap.from as usize] >= NO_WAY || from[gap.to as usize] >= NO_WAY
}

#[inline]
fn with_stop(head: Span, until: i32, stop: Span, driving: i32, tail: Span) -> Option<Span> {
    head.then(until, stop)?.then(driving, tail)
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn the_two_shortest_detours_are_found_and_of_equal_ones_the_first() {
        let mut random = Random(1);
        for count in 0..40 {
            // Detours may be shortcuts: directions differ, and roads need not keep to the triangle.
            let detours: Vec<(i32, bool)> = (0..count)
                .map(|_| (random.below(20) as i32 - 5, random.below(3) > 0))
                .collect();
            let (mut least, mut top) = (Least::NONE, UNSEEN);
            for (before, (more, is_valid)) in detours.iter().enumerate() {
                least.offer(*more, before, *is_valid);
            }
            least.offer_to(&mut top, 100, 7);
            let mut sorted: Vec<(i64, u16)> = (0..)
                .zip(&detours)
                .filter(|(_, (_, is_valid))| *is_valid)
                .map(|(before, (more, _))| (100 + 7 * i64::from(*more), before))
                .collect();
            sorted.sort_unstable();
            sorted.resize(2.max(sorted.len()), (NO_PLACE, 0));
            assert_eq!([0, 1].map(|i| (top.cost[i], top.before[i])), sorted[..2]);
        }
    }
}
