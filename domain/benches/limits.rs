//! How long the route solver makes its caller wait: until the first valid plan, and past the moment it was told to
//! stop; and how much memory it takes. `cargo xtask bench routes limits` runs this.
//!
//! Times are of the processor, not the wall: on a machine that is shared they say what a quiet one would see. Told to
//! stop means that a tick answered `Break` from a given moment on, as a deadline and a cancelled job both do.

use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Mutex;

use domain::routes::checker;
use domain::routes::problem::{Load, Matrix, Problem, Rest, Stop, Vehicle, Window};
use domain::routes::solver::{self, Budget, Control, Progress};

/// When searches are told to stop, in milliseconds: at once, amid the first solution or its polish, and while they run.
const STOPS_AT_MS: [f64; 7] = [0.0, 2.0, 7.0, 20.0, 60.0, 150.0, 400.0];

const SIZES: [usize; 4] = [100, 500, 1_000, 2_000];
const KINDS: [(&str, Kind); 4] = [
    ("loads", Kind::Loads),
    ("windows", Kind::Windows),
    ("everything", Kind::Everything),
    ("crowded", Kind::Crowded),
];

/// Each row is a process of its own, so that its memory is its own too: without arguments it starts them all.
fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [stops, name] = &words[..] {
        let stops = stops.parse().expect("how many stops");
        let (_, kind) = KINDS.iter().find(|(known, _)| known == name).expect("a kind of day");
        return measure(stops, name, *kind);
    }
    println!("| stops | day | first plan | longest between ticks | longest past the end | memory |");
    println!("|---:|---|---:|---:|---:|---:|");
    for stops in SIZES {
        for (name, _) in KINDS {
            let mut row = Command::new(std::env::current_exe().expect("this program"));
            let status = row.args([&stops.to_string(), name]).status().expect("it starts again");
            assert!(status.success(), "{stops} stops, {name}: {status}");
        }
    }
}

/// What a day asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Capacities only.
    Loads,
    /// One window for each stop.
    Windows,
    /// Two windows, rests, paid hours, skills, and a longest time out.
    Everything,
    /// The same with a fifth of the vans: most stops are left out, each with its reason.
    Crowded,
}

fn measure(stops: usize, name: &str, kind: Kind) {
    let problem = day(stops, kind);
    let (mut first, mut between, mut past) = (0_f64, 0_f64, 0_f64);
    for stops_at in STOPS_AT_MS {
        let watch = Watch {
            started: processor_ms(),
            stops_at,
            seen: Mutex::default(),
        };
        let budget = Budget {
            iterations: u64::MAX,
            seed: 1,
        };
        let solution = solver::solve(&problem, &budget, &watch);
        let ended = processor_ms() - watch.started;
        let violations = checker::check(&problem, &solution.routes, &solution.unassigned);
        assert_eq!(violations, [], "{stops} stops, {name}, stopped at {stops_at} ms");
        let seen = watch.seen.into_inner().expect("no search panics");
        let planned_at = seen.first.unwrap_or(ended);
        first = first.max(planned_at);
        between = between.max(seen.between);
        // Nothing can be stopped before there is a plan: that is the other column's.
        past = past.max(ended - stops_at.max(planned_at));
    }
    let memory = memory_peak_mb();
    println!("| {stops} | {name} | {first:.1} ms | {between:.1} ms | {past:.1} ms | {memory:.0} MB |");
}

/// Stops a search when it has used so much of the processor, and sees how often it asks.
struct Watch {
    started: f64,
    stops_at: f64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    first: Option<f64>,
    last: f64,
    between: f64,
}

impl Control for Watch {
    fn tick(&self, _: &Progress) -> ControlFlow<()> {
        let now = processor_ms() - self.started;
        let mut seen = self.seen.lock().expect("one thread");
        match seen.first {
            None => seen.first = Some(now),
            Some(_) => seen.between = seen.between.max(now - seen.last),
        }
        seen.last = now;
        match now >= self.stops_at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// In seconds.
const HOUR: i32 = 3_600;

/// A city of 40 by 40 km with one-way streets: no two ways are the same there and back.
fn day(stops: usize, kind: Kind) -> Problem {
    let mut state = 7_u64;
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let points: Vec<(u32, u32)> = (0..=stops)
        .map(|_| (below(40_000) as u32, below(40_000) as u32))
        .collect();
    let matrix = Matrix::from_fn(points.len(), |from, to| {
        let ((ax, ay), (bx, by)) = (points[from], points[to]);
        let metres = ax.abs_diff(bx) + ay.abs_diff(by);
        let noise = if from == to { 0 } else { below(60) as u32 };
        (metres + noise, metres / 9 + noise)
    });
    let is_full = matches!(kind, Kind::Everything | Kind::Crowded);
    let windows = |starts: i32| match kind {
        Kind::Loads => vec![Window { start: 0, end: 86_400 }],
        Kind::Windows => vec![Window {
            start: starts,
            end: starts + 3 * HOUR,
        }],
        Kind::Everything | Kind::Crowded => vec![
            Window {
                start: starts,
                end: starts + HOUR,
            },
            Window {
                start: starts + 2 * HOUR,
                end: starts + 4 * HOUR,
            },
        ],
    };
    let all = (0..stops).map(|_| Stop {
        load: Load {
            grams: 5 + below(20) as i64,
            cm3: 5 + below(20) as i64,
        },
        windows: windows(8 * HOUR + below(7 * HOUR as u64) as i32),
        service: 240,
        weight: 1 + below(3) as u32,
        skills: u64::from(is_full && below(5) == 0),
        ..Stop::default()
    });
    let all: Vec<Stop> = all.collect();
    let rest = Rest {
        window: Window {
            start: 11 * HOUR,
            end: 14 * HOUR,
        },
        seconds: 1_800,
    };
    let vans = match kind {
        Kind::Crowded => stops / 45,
        _ => stops / 8,
    };
    let vehicles = (0..vans).map(|number| Vehicle {
        capacity: Load { grams: 320, cm3: 320 },
        shift: Window {
            start: 7 * HOUR,
            end: 20 * HOUR,
        },
        skills: u64::from(number % 2 == 0),
        fixed_cost: 20_000,
        second_cost: i64::from(is_full),
        seconds_max: if is_full { 10 * HOUR } else { i32::MAX },
        rest: is_full.then_some(rest),
        ..Vehicle::default()
    });
    let vehicles = vehicles.collect();
    Problem::of_one_depot(all, vehicles, matrix)
}

/// How long this thread has been on a processor, in milliseconds.
fn processor_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanoseconds: f64 = text
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number");
    nanoseconds / 1e6
}

/// The most memory this process has had, its own program included.
fn memory_peak_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("it is there");
    kilobytes.parse::<f64>().expect("a number") / 1024.0
}
