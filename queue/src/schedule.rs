//! The timetable.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::enqueue::Error;
use crate::job::Job;

/// What happens to ticks nobody was there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are forgotten.
    Skip,
    /// The last of them fires.
    Once,
    /// Each of them fires.
    All,
}

/// One line of the timetable.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// When, in the five fields of cron.
    pub cron: String,
    /// The zone the cron expression is meant in.
    pub time_zone: chrono_tz::Tz,
    /// What happens to ticks nobody was there for.
    pub missed: Missed,
    /// The kind of the job.
    pub kind: &'static str,
    /// The queue of the job.
    pub queue: &'static str,
    /// The payload of the job.
    pub args: Value,
    /// The version of the payload.
    pub args_version: i16,
}

impl Entry {
    /// A line in UTC whose missed ticks collapse to one.
    pub fn new<J: Job>(name: &str, cron: &str, job: &J) -> Self {
        Self {
            name: name.to_owned(),
            cron: cron.to_owned(),
            time_zone: chrono_tz::UTC,
            missed: Missed::Once,
            kind: J::KIND,
            queue: J::QUEUE,
            args: serde_json::to_value(job).expect("a payload of the timetable is plain data"),
            args_version: J::VERSION,
        }
    }

    /// The same, in another zone.
    #[must_use]
    pub fn time_zone(mut self, zone: chrono_tz::Tz) -> Self {
        self.time_zone = zone;
        self
    }

    /// The same, with another policy for missed ticks.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }
}

/// Writes the timetable: new lines, changed lines; lines no longer listed are removed.
pub async fn install(_conn: &mut PgConnection, _entries: &[Entry]) -> Result<(), Error> {
    todo!()
}

/// Fires what is due; returns how many jobs were enqueued.
pub async fn tick(_pool: &PgPool) -> Result<u64, Error> {
    todo!()
}
