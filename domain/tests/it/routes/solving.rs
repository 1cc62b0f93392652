//! Whatever the day, a plan is valid, leaves nobody out without need, and is the same again.

use std::ops::ControlFlow;

use domain::routes::checker;
use domain::routes::problem::{Load, Matrix, Problem, Reason, Rest, Solution, Stop, Vehicle, Window};
use domain::routes::solver::{self, Budget, Control, Progress, Unhurried};
use proptest::prelude::*;

const DAY: i32 = 86_400;

fn a_load(most: i64) -> impl Strategy<Value = Load> {
    (1..most, 1..most).prop_map(|(grams, cm3)| Load { grams, cm3 })
}

fn a_stop() -> impl Strategy<Value = Stop> {
    (a_load(120), 0..DAY - 1, 1..DAY / 2, 0..3_600, 1..3_u32).prop_map(|(load, start, length, service, weight)| Stop {
        load,
        windows: vec![Window {
            start,
            end: (start + length).min(DAY),
        }],
        service,
        weight,
        ..Stop::default()
    })
}

fn a_vehicle() -> impl Strategy<Value = Vehicle> {
    (a_load(400), 0..DAY / 2, 1..DAY, 1..8_usize, prop::bool::weighted(0.85)).prop_map(
        |(capacity, start, length, stops_max, available)| Vehicle {
            capacity,
            shift: Window {
                start,
                end: (start + length).min(DAY),
            },
            stops_max,
            available,
            ..Vehicle::default()
        },
    )
}

/// Small days of every kind: too few vans, none, doors at one place, one-way streets, and places nobody can reach.
fn a_problem() -> impl Strategy<Value = Problem> {
    let sizes = (0..14_usize, 0..5_usize, 0..10_u8);
    sizes.prop_flat_map(|(stops, vehicles, gaps)| {
        let points = prop::collection::vec((0..60_u32, 0..60_u32), stops + 1);
        let noise = prop::collection::vec(0..100_u8, (stops + 1) * (stops + 1));
        let fleet = prop::collection::vec(a_vehicle(), vehicles);
        (
            prop::collection::vec(a_stop(), stops),
            fleet,
            points,
            noise,
            0..30_000_i64,
        )
            .prop_map(move |(stops, vehicles, points, noise, vehicle_cost)| {
                let matrix = Matrix::from_fn(points.len(), |from, to| {
                    let ((ax, ay), (bx, by)) = (points[from], points[to]);
                    let noise = noise[from * points.len() + to];
                    if from != to && noise < gaps {
                        return (Matrix::NO_WAY, Matrix::NO_WAY);
                    }
                    let metres = (ax.abs_diff(bx) + ay.abs_diff(by)) * 500;
                    (metres + u32::from(noise), metres / 10 + u32::from(noise))
                });
                let mut vehicles = vehicles;
                vehicles
                    .iter_mut()
                    .for_each(|vehicle| vehicle.fixed_cost = vehicle_cost);
                Problem {
                    range_metres: 50_000,
                    ..Problem::of_one_depot(stops, vehicles, matrix)
                }
            })
    })
}

fn budget(seed: u64) -> Budget {
    Budget { iterations: 150, seed }
}

/// Whether the stop has a place on one of the routes, or alone in a van that is not used.
fn has_a_place(problem: &Problem, solution: &Solution, stop: usize) -> bool {
    let fits = |vehicle: usize, stops: &[usize]| {
        let route = solver::timetable(problem, vehicle, stops);
        route.is_some_and(|route| checker::check_route(problem, &route).is_empty())
    };
    let on_a_route = solution.routes.iter().any(|route| {
        let stops: Vec<usize> = route.stops.iter().map(|stop| stop.stop).collect();
        (0..=stops.len()).any(|at| {
            let mut longer = stops.clone();
            longer.insert(at, stop);
            fits(route.vehicle, &longer)
        })
    });
    let is_used = |vehicle: usize| solution.routes.iter().any(|route| route.vehicle == vehicle);
    on_a_route || (0..problem.vehicles.len()).any(|vehicle| !is_used(vehicle) && fits(vehicle, &[stop]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stop_is_on_one_valid_route_or_left_out_for_a_true_reason(problem in a_problem(), seed: u64) {
        let solution = solver::solve(&problem, &budget(seed), &Unhurried);
        let violations = checker::check(&problem, &solution.routes, &solution.unassigned);
        prop_assert!(violations.is_empty(), "{violations:?}\n{solution:?}");
        for (stop, reason) in &solution.unassigned {
            // What nobody can reach straight from the warehouse is refused, though a detour might exist.
            let has_no_place = reason.is_final() || !has_a_place(&problem, &solution, *stop);
            prop_assert!(has_no_place, "stop {stop} has a place: {reason:?}\n{solution:?}");
            let mut whole = problem.clone();
            whole.vehicles.iter_mut().for_each(|vehicle| vehicle.available = true);
            let alone = (0..whole.vehicles.len()).any(|vehicle| {
                let route = solver::timetable(&whole, vehicle, &[*stop]);
                route.is_some_and(|route| checker::check_route(&whole, &route).is_empty())
            });
            let is_near = problem.matrices[0].metres(0, stop + 1) <= i64::from(problem.range_metres);
            prop_assert_eq!(reason.is_final(), !(alone && is_near), "stop {}: {:?}", stop, reason);
        }
        let metres: i64 = solution.routes.iter().map(|route| route.metres).sum();
        prop_assert_eq!(metres, solution.metres);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes(problem in a_problem(), seed: u64) {
        let bytes = || serde_json::to_vec(&solver::solve(&problem, &budget(seed), &Unhurried)).expect("plain data");
        prop_assert_eq!(bytes(), bytes());
    }
}

/// How many days of every kind are planned by one test.
const DAYS: u64 = 10_000;

/// A small day with everything a problem may have.
fn any_day(seed: u64) -> Problem {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    };
    let (count, depots, vans, profiles) = (below(13), 1 + below(3), below(6), 1 + below(2));
    let points: Vec<(u32, u32)> = (0..depots + count)
        .map(|_| (below(60) as u32, below(60) as u32))
        .collect();
    let gaps = below(6);
    let matrices = (0..profiles).map(|profile| {
        Matrix::from_fn(points.len(), |from, to| {
            let noise = below(100) as u32;
            if from == to {
                return (0, 0);
            }
            if u64::from(noise) < gaps {
                return (Matrix::NO_WAY, Matrix::NO_WAY);
            }
            let ((ax, ay), (bx, by)) = (points[from], points[to]);
            let metres = (ax.abs_diff(bx) + ay.abs_diff(by)) * 500 + noise;
            (metres, metres / (8 + 4 * profile as u32) + noise)
        })
    });
    let matrices: Vec<Matrix> = matrices.collect();
    let kind = below(8);
    let mut stops = Vec::new();
    for _ in 0..count {
        let mut windows = vec![Window {
            start: below(50_000) as i32,
            end: 0,
        }];
        windows[0].end = windows[0].start + below(20_000) as i32;
        if kind & 1 == 1 && below(3) == 0 {
            let start = windows[0].end + 1 + below(9_000) as i32;
            windows.push(Window {
                start,
                end: start + below(9_000) as i32,
            });
        }
        stops.push(Stop {
            load: Load {
                grams: below(120) as i64,
                cm3: below(120) as i64,
            },
            windows,
            service: below(3_600) as i32,
            weight: 1 + below(3) as u32,
            skills: if below(4) == 0 { 1 << below(2) } else { 0 },
            depots: if below(4) == 0 { 1 + below(7) } else { u64::MAX },
            was_on: (vans > 0 && below(3) == 0).then(|| below(vans) as usize),
        });
    }
    let mut problem = Problem {
        stops,
        vehicles: Vec::new(),
        depots: depots as usize,
        matrices,
        range_metres: 50_000,
        move_cost: below(2) as i64 * 3_000,
    };
    for number in 0..vans {
        let start = below(30_000) as i32;
        let rest = Rest {
            window: Window {
                start: 35_000,
                end: 35_000 + below(15_000) as i32,
            },
            seconds: 1_800,
        };
        let mut vehicle = Vehicle {
            capacity: Load {
                grams: 100 + below(300) as i64,
                cm3: 100 + below(300) as i64,
            },
            shift: Window {
                start,
                end: start + 10_000 + below(50_000) as i32,
            },
            stops_max: 1 + below(8) as usize,
            available: below(8) > 0,
            start: below(depots) as usize,
            end: below(depots) as usize,
            seconds_max: if kind & 2 == 2 && below(2) == 0 {
                8_000 + below(20_000) as i32
            } else {
                i32::MAX
            },
            metres_max: if below(4) == 0 {
                40_000 + below(90_000) as i64
            } else {
                i64::MAX
            },
            skills: below(4),
            fixed_cost: below(20_000) as i64,
            metre_cost: 1 + below(3) as i64,
            second_cost: if kind & 2 == 2 { below(3) as i64 } else { 0 },
            rest: (kind & 4 == 4 && below(2) == 0).then_some(rest),
            profile: below(profiles) as usize,
            locked: Vec::new(),
        };
        if count > 0 && below(3) == 0 {
            vehicle.locked = vec![below(count) as usize];
        }
        let is_taken = |stop: &usize| problem.vehicles.iter().any(|other| other.locked.contains(stop));
        vehicle.locked.retain(|stop| !is_taken(stop));
        problem.vehicles.push(vehicle);
        // What is locked was loaded or driven to: so it was possible.
        let locked = problem.vehicles[number as usize].locked.clone();
        let is_possible = solver::timetable(&problem, number as usize, &locked)
            .is_some_and(|route| checker::check_route(&problem, &route).is_empty())
            && locked.iter().all(|stop| solver::impossible(&problem, *stop).is_none());
        if !is_possible {
            problem.vehicles[number as usize].locked.clear();
        }
    }
    problem
}

#[test]
fn ten_thousand_days_of_every_kind_are_planned_without_a_violation() {
    for seed in 0..DAYS {
        let problem = any_day(seed);
        problem.check().expect("a day that makes sense");
        let start: Vec<(usize, Vec<usize>)> = match seed % 3 {
            0 => solver::solve(&problem, &budget(seed), &Unhurried)
                .routes
                .iter()
                .map(|route| (route.vehicle, route.stops.iter().map(|stop| stop.stop).collect()))
                .collect(),
            _ => Vec::new(),
        };
        let solution = solver::solve_from(&problem, &start, &Budget { iterations: 60, seed }, &Unhurried);
        let violations = checker::check(&problem, &solution.routes, &solution.unassigned);
        assert!(violations.is_empty(), "day {seed}: {violations:?}\n{solution:?}");
        assert_eq!(checker::cost(&problem, &solution.routes), solution.cost, "day {seed}");
        for (stop, reason) in &solution.unassigned {
            let has_no_place = reason.is_final() || !has_a_place(&problem, &solution, *stop);
            assert!(
                has_no_place,
                "day {seed}: stop {stop} has a place: {reason:?}\n{solution:?}"
            );
            assert!(
                reason.is_final()
                    || !solver::tally(&problem, &solution, *stop).is_empty()
                    || *reason == Reason::NoVehicleLeft
            );
        }
    }
}

fn van(grams: i64) -> Vehicle {
    Vehicle {
        capacity: Load { grams, cm3: 1_000 },
        shift: Window {
            start: 28_800,
            end: 64_800,
        },
        stops_max: 3,
        ..Vehicle::default()
    }
}

fn stop(grams: i64) -> Stop {
    Stop {
        load: Load { grams, cm3: 10 },
        windows: vec![Window {
            start: 30_000,
            end: 60_000,
        }],
        service: 300,
        ..Stop::default()
    }
}

/// Stops on a line, a kilometre and two minutes apart.
fn on_a_line(stops: Vec<Stop>, vehicles: Vec<Vehicle>) -> Problem {
    let matrix = Matrix::from_fn(stops.len() + 1, |from, to| {
        let steps = from.abs_diff(to) as u32;
        (steps * 1_000, steps * 120)
    });
    Problem {
        range_metres: 200_000,
        ..Problem::of_one_depot(stops, vehicles, matrix)
    }
}

fn reasons(problem: &Problem) -> Vec<Reason> {
    solver::solve(problem, &budget(1), &Unhurried)
        .unassigned
        .into_iter()
        .map(|(_, reason)| reason)
        .collect()
}

#[test]
fn what_is_too_big_says_by_how_much_for_the_nearest_van() {
    let problem = on_a_line(vec![stop(900)], vec![van(500), van(700)]);
    assert_eq!(
        reasons(&problem),
        [Reason::TooBig {
            over_grams: 200,
            over_cm3: 0
        }]
    );
}

#[test]
fn without_vehicles_that_is_the_reason() {
    assert_eq!(reasons(&on_a_line(vec![stop(1)], vec![])), [Reason::NoVehicles]);
}

#[test]
fn when_all_vans_are_out_another_day_would_help() {
    let problem = on_a_line(
        vec![stop(1)],
        vec![Vehicle {
            available: false,
            ..van(10)
        }],
    );
    assert_eq!(reasons(&problem), [Reason::NoVehicleLeft]);
    assert!(!Reason::NoVehicleLeft.is_final());
}

#[test]
fn a_window_before_the_shift_is_impossible_by_the_seconds_missed() {
    let early = Stop {
        windows: vec![Window {
            start: 20_000,
            end: 28_800,
        }],
        ..stop(1)
    };
    let problem = on_a_line(vec![early], vec![van(10)]);
    assert_eq!(reasons(&problem), [Reason::WindowImpossible { late_seconds: 120 }]);
}

#[test]
fn beyond_the_range_is_out_of_range_and_without_a_way_unreachable() {
    let mut problem = on_a_line(vec![stop(1)], vec![van(10)]);
    problem.range_metres = 999;
    assert_eq!(reasons(&problem), [Reason::OutOfRange { metres: 1_000 }]);
    problem.range_metres = 200_000;
    problem.matrices[0] = Matrix::from_fn(2, |from, to| if from == to { (0, 0) } else { (Matrix::NO_WAY, 10) });
    assert_eq!(reasons(&problem), [Reason::Unreachable]);
}

#[test]
fn full_vans_say_what_is_missing_in_the_nearest_one() {
    let problem = on_a_line(vec![stop(60), stop(60)], vec![van(100)]);
    assert_eq!(
        reasons(&problem),
        [Reason::NoCapacityLeft {
            vehicle: 0,
            over_grams: 20,
            over_cm3: 0
        }]
    );
    let problem = on_a_line(vec![stop(1); 4], vec![van(100)]);
    assert_eq!(reasons(&problem), [Reason::StopsMax]);
}

#[test]
fn a_day_without_time_says_how_late_the_nearest_van_would_be() {
    let at_once = Stop {
        windows: vec![Window {
            start: 30_000,
            end: 30_000,
        }],
        ..stop(1)
    };
    let problem = on_a_line(vec![at_once.clone(), at_once], vec![van(100)]);
    assert_eq!(
        reasons(&problem),
        [Reason::NoTimeLeft {
            vehicle: 0,
            late_seconds: 420
        }]
    );
}

#[test]
fn the_heavier_stop_is_served_when_only_one_can_be() {
    let mut stops = vec![stop(60), stop(60)];
    stops[1].weight = 2;
    let solution = solver::solve(&on_a_line(stops, vec![van(100)]), &budget(1), &Unhurried);
    assert_eq!(solution.routes[0].stops[0].stop, 1);
}

#[test]
fn a_search_that_is_stopped_at_once_still_has_a_valid_plan() {
    struct Stopped;
    impl Control for Stopped {
        fn tick(&self, progress: &Progress) -> ControlFlow<()> {
            assert_eq!(progress.iterations, 0);
            ControlFlow::Break(())
        }
    }
    let problem = on_a_line(vec![stop(10); 5], vec![van(100), van(100)]);
    let solution = solver::solve(&problem, &budget(1), &Stopped);
    assert!(solution.truncated);
    assert!(solution.unassigned.is_empty());
    assert_eq!(checker::check(&problem, &solution.routes, &solution.unassigned), []);
}

#[test]
fn a_van_leaves_as_late_as_its_first_stop_allows() {
    let solution = solver::solve(&on_a_line(vec![stop(10)], vec![van(100)]), &budget(1), &Unhurried);
    let route = &solution.routes[0];
    assert_eq!(
        (route.departs_at, route.stops[0].starts_at, route.returns_at),
        (29_880, 30_000, 30_420)
    );
}

fn stops_of(solution: &Solution) -> Vec<(usize, Vec<usize>)> {
    let of_route = |route: &domain::routes::problem::PlannedRoute| route.stops.iter().map(|stop| stop.stop).collect();
    solution
        .routes
        .iter()
        .map(|route| (route.vehicle, of_route(route)))
        .collect()
}

/// Solves, and insists that the checker finds it valid and counts the same cost.
fn solved(problem: &Problem) -> Solution {
    problem.check().expect("a day that makes sense");
    let solution = solver::solve(problem, &budget(1), &Unhurried);
    assert_eq!(checker::check(problem, &solution.routes, &solution.unassigned), []);
    assert_eq!(checker::cost(problem, &solution.routes), solution.cost);
    solution
}

#[test]
fn a_driver_rests_in_the_window_unless_back_before() {
    let rest = Rest {
        window: Window {
            start: 39_000,
            end: 41_000,
        },
        seconds: 1_800,
    };
    let at = |start: i32| Stop {
        windows: vec![Window {
            start,
            end: start + 3_000,
        }],
        ..stop(10)
    };
    let driver = Vehicle {
        rest: Some(rest),
        ..van(100)
    };
    let solution = solved(&on_a_line(vec![at(36_000), at(42_000)], vec![driver.clone()]));
    assert_eq!(solution.unassigned, []);
    let taken = solution.routes[0].rest.expect("out at noon, so there is a rest");
    assert_eq!(taken.after_stops, 1);
    assert!((39_000..=41_000).contains(&taken.starts_at), "{taken:?}");
    // Alone the first is over long before.
    let solution = solved(&on_a_line(vec![at(36_000)], vec![driver]));
    assert_eq!(solution.routes[0].rest, None);
}

#[test]
fn a_stop_whose_first_window_is_missed_is_served_in_the_next() {
    let twice = Stop {
        windows: vec![
            Window {
                start: 29_000,
                end: 29_100,
            },
            Window {
                start: 50_000,
                end: 51_000,
            },
        ],
        ..stop(10)
    };
    // Both open at once and are 240 seconds and a service apart: only one of them can be first.
    let solution = solved(&on_a_line(vec![twice.clone(), stop(10), twice], vec![van(100)]));
    assert_eq!(solution.unassigned, []);
    let starts: Vec<i32> = solution.routes[0].stops.iter().map(|stop| stop.starts_at).collect();
    assert!(
        starts.iter().any(|start| (50_000..=51_000).contains(start)),
        "{starts:?}"
    );
}

#[test]
fn the_van_goes_that_costs_least_for_the_way_the_time_and_itself() {
    let costs = |fixed_cost, metre_cost, second_cost| Vehicle {
        fixed_cost,
        metre_cost,
        second_cost,
        ..van(100)
    };
    // There and back are 2,000 m and 540 s with the service.
    let fleet = vec![
        costs(9_000, 1, 0),
        costs(0, 5, 0),
        costs(1_000, 1, 10),
        costs(1_000, 2, 6),
    ];
    let solution = solved(&on_a_line(vec![stop(10)], fleet));
    assert_eq!(
        (solution.routes[0].vehicle, solution.cost),
        (3, 1_000 + 4_000 + 6 * 540)
    );
}

#[test]
fn two_vans_go_when_that_is_cheaper_and_one_when_a_van_is_dear() {
    let ends = vec![stop(10), stop(10)];
    let matrix = Matrix::from_fn(3, |from, to| match (from, to) {
        (1, 2) | (2, 1) => (5_000, 600),
        (from, to) if from == to => (0, 0),
        _ => (1_000, 120),
    });
    let with = |fixed_cost| {
        let fleet = vec![Vehicle { fixed_cost, ..van(100) }; 2];
        solved(&Problem::of_one_depot(ends.clone(), fleet, matrix.clone()))
            .routes
            .len()
    };
    assert_eq!((with(1_000), with(10_000)), (2, 1));
}

#[test]
fn skills_and_depots_decide_who_may_go() {
    let cold = Stop {
        skills: 0b10,
        ..stop(10)
    };
    let from_second = Stop {
        depots: 0b10,
        ..stop(10)
    };
    // Two depots, then a stop at each side; the nearer van is never the one that may go.
    let matrix = Matrix::from_fn(4, |from, to| {
        let metres = if from == to {
            0
        } else {
            1_000 + 500 * (from + to) as u32
        };
        (metres, metres / 10)
    });
    let vans = vec![
        van(100),
        Vehicle {
            skills: 0b11,
            fixed_cost: 5_000,
            ..van(100)
        },
        Vehicle {
            start: 1,
            end: 1,
            fixed_cost: 9_000,
            ..van(100)
        },
    ];
    let problem = Problem {
        depots: 2,
        ..Problem::of_one_depot(vec![cold, from_second], vans, matrix)
    };
    assert_eq!(stops_of(&solved(&problem)), [(1, vec![0]), (2, vec![1])]);
}

#[test]
fn what_is_locked_stays_first_and_in_its_order() {
    let driven = Vehicle {
        locked: vec![2, 0],
        ..van(100)
    };
    let solution = solved(&on_a_line(vec![stop(10); 3], vec![driven, van(100)]));
    assert_eq!(solution.unassigned, []);
    assert_eq!(solution.routes[0].stops[0].stop, 2);
    assert_eq!(solution.routes[0].stops[1].stop, 0);
}

#[test]
fn a_search_from_a_plan_without_a_round_is_that_plan_or_better() {
    let problem = on_a_line(vec![stop(10); 6], vec![van(100); 4]);
    let none = Budget { iterations: 0, seed: 1 };
    let start = [(3, vec![5, 4, 3]), (1, vec![0, 1, 2])];
    let solution = solver::solve_from(&problem, &start, &none, &Unhurried);
    assert_eq!(checker::check(&problem, &solution.routes, &solution.unassigned), []);
    let mut vans: Vec<usize> = solution.routes.iter().map(|route| route.vehicle).collect();
    vans.sort_unstable();
    assert_eq!(vans, [1, 3]);
    assert!(solution.metres <= 18_000, "{} m", solution.metres);
}

#[test]
fn a_stop_stays_with_its_van_while_moving_it_costs_more_than_it_saves() {
    let was = |van| Stop {
        was_on: Some(van),
        ..stop(10)
    };
    let with = |move_cost| {
        let problem = Problem {
            move_cost,
            ..on_a_line(vec![was(0), was(1)], vec![van(100), van(100)])
        };
        solved(&problem).routes.len()
    };
    // One van saves 2,000 m.
    assert_eq!((with(1_000), with(3_000)), (1, 2));
}

#[test]
fn a_crowded_day_of_every_kind_of_rule_says_why_for_each_stop() {
    let mut stops = vec![stop(30); 40];
    for (number, stop) in stops.iter_mut().enumerate() {
        stop.weight = 1 + number as u32 % 3;
        stop.skills = u64::from(number % 5 == 0);
    }
    let solution = solved(&on_a_line(stops, vec![van(100); 5]));
    assert_eq!(solution.unassigned.len(), 40 - 15);
    for (number, reason) in &solution.unassigned {
        match number % 5 {
            0 => assert_eq!(*reason, Reason::MissingSkill),
            _ => assert_eq!(*reason, Reason::StopsMax),
        }
    }
}

#[test]
fn the_checker_shares_nothing_with_the_solver_but_the_problem() {
    let source = include_str!("../../../src/routes/checker.rs");
    let shared: Vec<&str> = source
        .lines()
        .filter(|line| line.contains("super::") || line.contains("crate::"))
        .collect();
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert!(shared[0].starts_with("use super::problem::"), "{shared:?}");
}

#[test]
fn the_checker_sees_every_number_that_is_wrong() {
    let problem = on_a_line(vec![stop(10); 3], vec![van(100)]);
    let solution = solver::solve(&problem, &budget(1), &Unhurried);
    let sound = &solution.routes[0];
    assert_eq!(checker::check(&problem, &solution.routes, &[]), []);

    type Spoil = fn(&mut domain::routes::problem::PlannedRoute);
    let spoils: [(&str, Spoil); 10] = [
        ("R1", |route| route.vehicle = 1),
        ("R2", |route| route.load.grams += 1),
        ("R2", |route| route.load.cm3 -= 1),
        ("R3", |route| route.departs_at -= 1),
        ("R3", |route| route.returns_at += 1),
        ("R3", |route| route.stops[1].starts_at += 1),
        ("R3", |route| route.stops[2].arrives_at -= 1),
        ("R4", |route| route.stops[1].stop = route.stops[0].stop),
        ("R5", |route| route.stops[0].metres_from_previous += 2),
        ("R5", |route| route.metres -= 2),
    ];
    for (rule, spoil) in spoils {
        let mut route = sound.clone();
        spoil(&mut route);
        let violations = checker::check(&problem, &[route.clone()], &[]);
        assert!(
            violations.iter().any(|violation| violation.rule == rule),
            "{rule} not seen in {route:?}: {violations:?}"
        );
    }
    let twice = [sound.clone(), sound.clone()];
    assert!(
        checker::check(&problem, &twice, &[])
            .iter()
            .any(|violation| violation.rule == "R1")
    );
    let lost = checker::check(&problem, &[], &[(0, Reason::StopsMax), (1, Reason::StopsMax)]);
    assert_eq!(lost.len(), 1);
}
