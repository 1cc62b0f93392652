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

/// A place to go to. Stop `i` lies at point `i + 1` of the matrix: point 0 is the warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// What is handed over.
    pub load: Load,
    /// When the hand-over may start.
    pub window: Window,
    /// How long it takes, in seconds.
    pub service: i32,
    /// How bad it is to leave it out, against other stops: at least 1.
    pub weight: u32,
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
    /// The ways: point 0 is the warehouse.
    pub matrix: Matrix,
    /// Stops further from the warehouse than that are out of range.
    pub range_metres: u32,
    /// What using one more vehicle costs, in metres.
    pub vehicle_cost: i64,
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
    /// It cannot be reached, or not there and back within a shift.
    OutOfRange {
        /// How far it is from the warehouse.
        metres: i64,
    },
    /// A vehicle that is empty and goes nowhere else would still miss its window, or be back too late.
    WindowImpossible {
        /// By so many seconds.
        late_seconds: i32,
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
    /// Every vehicle with room makes as many stops as it may.
    StopsMax,
    /// The day has as many stops as a plan may have.
    DayFull,
    /// Planning failed for good; the job's dead letter says why.
    PlanningFailed,
}

impl Reason {
    /// Whether no other day would help, as the fleet is.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Reason::NoVehicles
                | Reason::TooBig { .. }
                | Reason::OutOfRange { .. }
                | Reason::WindowImpossible { .. }
                | Reason::PlanningFailed
        )
    }
}
