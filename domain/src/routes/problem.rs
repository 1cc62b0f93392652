//! A warehouse's day put as numbers: stops, vehicles, the ways between them; and what comes out: routes, and a reason
//! for every stop on none. All integers, so sums are exact and runs repeat.

use serde::{Deserialize, Serialize};

/// What a stop weighs and fills, or a vehicle takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Load {
    /// Weight.
    pub grams: i64,
    /// Volume.
    pub cm3: i64,
}

impl Load {
    /// Whether it goes into that much room.
    pub fn fits(self, room: Load) -> bool {
        self.grams <= room.grams && self.cm3 <= room.cm3
    }

    /// By how much it exceeds that room: zero where it does not.
    pub fn over(self, room: Load) -> Load {
        Load {
            grams: (self.grams - room.grams).max(0),
            cm3: (self.cm3 - room.cm3).max(0),
        }
    }
}

impl std::ops::Add for Load {
    type Output = Load;

    fn add(self, other: Load) -> Load {
        Load {
            grams: self.grams + other.grams,
            cm3: self.cm3 + other.cm3,
        }
    }
}

impl std::ops::Sub for Load {
    type Output = Load;

    fn sub(self, other: Load) -> Load {
        Load {
            grams: self.grams - other.grams,
            cm3: self.cm3 - other.cm3,
        }
    }
}

/// From when until when, in seconds after midnight, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// From when.
    pub start: i32,
    /// Until when.
    pub end: i32,
}

/// A place to go to. Stop `i` lies at the matrix's point `depots + i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// What is handed over.
    pub load: Load,
    /// When the hand-over may start: at least one window, in order, none touching the next.
    pub windows: Vec<Window>,
    /// How long it takes, in seconds.
    pub service: i32,
    /// How bad it is to leave it out, against other stops: at least 1. Clinical priority goes in here.
    pub weight: u32,
    /// What its vehicle must be able to do, one bit each: a cold chain, a tail lift.
    pub skills: u64,
    /// Where its vehicle may start, one bit for each depot; all bits for anywhere.
    pub depots: u64,
    /// The vehicle it was on in the plan before; another one costs [`Problem::move_cost`].
    pub was_on: Option<usize>,
}

impl Default for Stop {
    fn default() -> Stop {
        Stop {
            load: Load::default(),
            windows: vec![Window { start: 0, end: 86_400 }],
            service: 0,
            weight: 1,
            skills: 0,
            depots: u64::MAX,
            was_on: None,
        }
    }
}

/// A van's day: at most one route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vehicle {
    /// What it takes.
    pub capacity: Load,
    /// When it may leave and must be back.
    pub shift: Window,
    /// How many stops it makes at most.
    pub stops_max: usize,
    /// False when it is busy that day: it counts for what is possible at all, and gets no route.
    pub available: bool,
    /// The depot it starts at.
    pub start: usize,
    /// The depot it ends at.
    pub end: usize,
    /// The longest it may be out, waiting and rest included, in seconds.
    pub seconds_max: i32,
    /// The furthest it may drive, in metres.
    pub metres_max: i64,
    /// What it can do, one bit each.
    pub skills: u64,
    /// What it costs to use it at all. The unit of cost is the caller's.
    pub fixed_cost: i64,
    /// What a metre costs.
    pub metre_cost: i64,
    /// What a second out costs, waiting included.
    pub second_cost: i64,
    /// The rest its driver takes, unless they are back before it would have to start.
    pub rest: Option<Rest>,
    /// Which of the problem's matrices it drives by.
    pub profile: usize,
    /// The stops it has driven to or loaded for: they stay first on its route, in this order.
    pub locked: Vec<usize>,
}

impl Default for Vehicle {
    fn default() -> Vehicle {
        Vehicle {
            capacity: Load::default(),
            shift: Window { start: 0, end: 86_400 },
            stops_max: usize::MAX,
            available: true,
            start: 0,
            end: 0,
            seconds_max: i32::MAX,
            metres_max: i64::MAX,
            skills: 0,
            fixed_cost: 0,
            metre_cost: 1,
            second_cost: 0,
            rest: None,
            profile: 0,
            locked: Vec::new(),
        }
    }
}

/// A driver's rest: taken where a stop is, before its service, or after the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rest {
    /// When it may start.
    pub window: Window,
    /// How long it is.
    pub seconds: i32,
}

/// Every way between the points, in metres and seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    points: usize,
    metres: Vec<u32>,
    seconds: Vec<u32>,
}

impl Matrix {
    /// What stands for "there is no way". Ways this long or longer are never driven.
    pub const NO_WAY: u32 = 1 << 29;

    /// Asks for (metres, seconds) of every pair.
    pub fn from_fn(points: usize, mut way: impl FnMut(usize, usize) -> (u32, u32)) -> Matrix {
        let (metres, seconds) = (0..points * points).map(|at| way(at / points, at % points)).unzip();
        Matrix {
            points,
            metres,
            seconds,
        }
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.points
    }

    /// From point to point, in metres.
    #[inline]
    pub fn metres(&self, from: usize, to: usize) -> i64 {
        i64::from(self.metres[from * self.points + to])
    }

    /// From point to point, in seconds.
    #[inline]
    pub fn seconds(&self, from: usize, to: usize) -> i32 {
        self.seconds[from * self.points + to].min(Self::NO_WAY) as i32
    }

    /// Whether there is a way at all.
    pub fn has_way(&self, from: usize, to: usize) -> bool {
        let at = from * self.points + to;
        self.metres[at] < Self::NO_WAY && self.seconds[at] < Self::NO_WAY
    }
}

/// A day to plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where to go.
    pub stops: Vec<Stop>,
    /// With what.
    pub vehicles: Vec<Vehicle>,
    /// How many of the first points are depots: at least one, at most [`DEPOTS_MAX`](Self::DEPOTS_MAX).
    pub depots: usize,
    /// The ways, one matrix for each profile of vehicles.
    pub matrices: Vec<Matrix>,
    /// Stops further than that from every depot they may be served from are out of range.
    pub range_metres: u32,
    /// What it costs to put a stop on another vehicle than it was on: it keeps plans stable.
    pub move_cost: i64,
}

impl Problem {
    /// Each depot is a bit of [`Stop::depots`].
    pub const DEPOTS_MAX: usize = 64;
    /// No time is larger: sums of a few stay far from the end of the numbers.
    pub const SECONDS_MAX: i32 = 1 << 27;

    /// A day with one depot, at point 0, and one matrix.
    pub fn of_one_depot(stops: Vec<Stop>, vehicles: Vec<Vehicle>, matrix: Matrix) -> Problem {
        Problem {
            stops,
            vehicles,
            depots: 1,
            matrices: vec![matrix],
            range_metres: Matrix::NO_WAY,
            move_cost: 0,
        }
    }

    /// The matrix's point of a stop.
    #[inline]
    pub fn point(&self, stop: usize) -> usize {
        self.depots + stop
    }

    /// The ways of a vehicle.
    #[inline]
    pub fn ways(&self, vehicle: &Vehicle) -> &Matrix {
        &self.matrices[vehicle.profile]
    }

    /// Refuses what no search could make sense of, with a pointer to it.
    pub fn check(&self) -> Result<(), Malformed> {
        let refuse = |at: String, what: &'static str| Err(Malformed { at, what });
        if self.depots == 0 || self.depots > Self::DEPOTS_MAX {
            return refuse("/depots".into(), "must be from 1 to 64");
        }
        if self.matrices.is_empty() {
            return refuse("/matrices".into(), "must hold at least one");
        }
        let points = self.depots + self.stops.len();
        for (i, matrix) in self.matrices.iter().enumerate() {
            if matrix.points() != points {
                return refuse(format!("/matrices/{i}"), "must have a point for each depot and stop");
            }
            if let Some(at) = (0..points).find(|at| (matrix.metres(*at, *at), matrix.seconds(*at, *at)) != (0, 0)) {
                return refuse(format!("/matrices/{i}/{at}/{at}"), "must be zero: it is the same point");
            }
        }
        let in_time =
            |window: &Window| window.start >= 0 && window.start <= window.end && window.end <= Self::SECONDS_MAX;
        for (i, stop) in self.stops.iter().enumerate() {
            let at = |field: &str| format!("/stops/{i}/{field}");
            if stop.windows.is_empty() || !stop.windows.iter().all(in_time) {
                return refuse(at("windows"), "must be one or more, each starting before it ends");
            }
            if stop.windows.windows(2).any(|pair| pair[0].end >= pair[1].start) {
                return refuse(at("windows"), "must be in order, none touching the next");
            }
            if !(0..=Self::SECONDS_MAX).contains(&stop.service) {
                return refuse(at("service"), "must not be negative");
            }
            if stop.load.grams < 0 || stop.load.cm3 < 0 {
                return refuse(at("load"), "must not be negative");
            }
        }
        let mut is_locked = vec![false; self.stops.len()];
        for (i, vehicle) in self.vehicles.iter().enumerate() {
            let at = |field: &str| format!("/vehicles/{i}/{field}");
            if !in_time(&vehicle.shift) {
                return refuse(at("shift"), "must start before it ends");
            }
            if vehicle.start >= self.depots || vehicle.end >= self.depots {
                return refuse(at("start"), "must be a depot, and so must end");
            }
            if vehicle.profile >= self.matrices.len() {
                return refuse(at("profile"), "must name a matrix");
            }
            let costs = [vehicle.fixed_cost, vehicle.metre_cost, vehicle.second_cost];
            if costs.iter().any(|cost| !(0..=1 << 40).contains(cost)) {
                return refuse(at("fixed_cost"), "and the other costs must be from 0 to 2^40");
            }
            for &stop in &vehicle.locked {
                match is_locked.get_mut(stop) {
                    Some(locked) if !*locked => *locked = true,
                    _ => return refuse(at("locked"), "must name stops, each on one vehicle and once"),
                }
            }
        }
        Ok(())
    }
}

/// A problem no search could make sense of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at} {what}")]
pub struct Malformed {
    /// A pointer to it.
    pub at: String,
    /// What it must be.
    pub what: &'static str,
}

/// One vehicle's route, with every number that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRoute {
    /// Which vehicle of the problem.
    pub vehicle: usize,
    /// When it leaves the warehouse: as late as its first stop allows.
    pub departs_at: i32,
    /// When it is back.
    pub returns_at: i32,
    /// How far it drives, there and back.
    pub metres: i64,
    /// What it carries when it leaves.
    pub load: Load,
    /// Its stops in order.
    pub stops: Vec<PlannedStop>,
    /// When its driver rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<PlannedRest>,
}

/// A driver's rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlannedRest {
    /// How many stops are served before it: it is taken where the next one is, or the last one.
    pub after_stops: usize,
    /// When it starts.
    pub starts_at: i32,
}

/// One stop of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStop {
    /// Which stop of the problem.
    pub stop: usize,
    /// When the van arrives.
    pub arrives_at: i32,
    /// When the hand-over starts: then, or when the window opens.
    pub starts_at: i32,
    /// When the van leaves again.
    pub leaves_at: i32,
    /// How far it is from the stop before, or from the warehouse.
    pub metres_from_previous: i64,
}

/// Routes, and a reason for every stop that is on none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Solution {
    /// In the order of their vehicles.
    pub routes: Vec<PlannedRoute>,
    /// In the order of the stops.
    pub unassigned: Vec<(usize, Reason)>,
    /// All routes together.
    pub metres: i64,
    /// What they cost, as their vehicles do, and what moving stops costs.
    pub cost: i64,
    /// How many rounds of the search were made.
    pub iterations: u64,
    /// Whether the search was stopped before its budget was used up.
    pub truncated: bool,
}

/// Why a stop is on no route, with the nearest miss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// There are no vehicles at all.
    NoVehicles,
    /// No vehicle of the fleet takes it, even empty.
    TooBig {
        /// Too heavy by so much, for the vehicle that comes nearest.
        over_grams: i64,
        /// Too big by so much.
        over_cm3: i64,
    },
    /// No road leads there and back: the road server says so.
    Unreachable,
    /// It is too far away, or not to be reached there and back within a shift.
    OutOfRange {
        /// How far it is from the warehouse.
        metres: i64,
    },
    /// A vehicle that is empty and goes nowhere else would still miss its window, or be back too late.
    WindowImpossible {
        /// By so many seconds.
        late_seconds: i32,
    },
    /// No vehicle can do what it asks for.
    MissingSkill,
    /// No vehicle starts where it may be served from.
    WrongDepot,
    /// Alone on a route it would be too long for every vehicle.
    TooFar {
        /// By so many seconds, for the vehicle that comes nearest.
        over_seconds: i32,
        /// By so many metres.
        over_metres: i64,
    },
    /// Every vehicle is already on its way that day.
    NoVehicleLeft,
    /// No vehicle has room left.
    NoCapacityLeft {
        /// The vehicle that comes nearest.
        vehicle: usize,
        /// Too heavy by so much for what is left in it.
        over_grams: i64,
        /// Too big by so much.
        over_cm3: i64,
    },
    /// No vehicle with room has time left.
    NoTimeLeft {
        /// The vehicle that comes nearest.
        vehicle: usize,
        /// Late by so many seconds.
        late_seconds: i32,
    },
    /// A vehicle with room and time would be out too long, or drive too far, or miss its driver's rest.
    RouteTooLong {
        /// The vehicle that comes nearest.
        vehicle: usize,
    },
    /// Every vehicle with room makes as many stops as it may.
    StopsMax,
    /// The day has as many stops as a plan may have.
    DayFull,
    /// Planning failed for good; the job's dead letter says why.
    PlanningFailed,
}

impl Reason {
    /// Its name, as it is stored.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::NoVehicles => "no_vehicles",
            Reason::TooBig { .. } => "too_big",
            Reason::Unreachable => "unreachable",
            Reason::OutOfRange { .. } => "out_of_range",
            Reason::WindowImpossible { .. } => "window_impossible",
            Reason::MissingSkill => "missing_skill",
            Reason::WrongDepot => "wrong_depot",
            Reason::TooFar { .. } => "too_far",
            Reason::NoVehicleLeft => "no_vehicle_left",
            Reason::NoCapacityLeft { .. } => "no_capacity_left",
            Reason::NoTimeLeft { .. } => "no_time_left",
            Reason::RouteTooLong { .. } => "route_too_long",
            Reason::StopsMax => "stops_max",
            Reason::DayFull => "day_full",
            Reason::PlanningFailed => "planning_failed",
        }
    }

    /// Whether no other day would help, as the fleet is.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Reason::NoVehicles
                | Reason::TooBig { .. }
                | Reason::MissingSkill
                | Reason::WrongDepot
                | Reason::TooFar { .. }
                | Reason::Unreachable
                | Reason::OutOfRange { .. }
                | Reason::WindowImpossible { .. }
                | Reason::PlanningFailed
        )
    }
}
