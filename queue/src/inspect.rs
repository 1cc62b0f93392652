//! What an operator sees: read-only, and everything serializes.

mod dead_letters;
mod jobs;
mod queues;
mod timetable;
mod workers;

pub use dead_letters::{
    CauseFilter, CauseView, DeadFilter, DeadLetterView, blocked_by, causes, dead_letter, dead_letters,
};
pub(crate) use jobs::live;
pub use jobs::{JobFilter, JobView, NotIdle, job, jobs, not_idle};
pub use queues::{Measure, PauseView, QueueView, measured, publish_gauges, queues};
pub use timetable::{OverrideView, ScheduleView, TickView, schedule, schedules, ticks};
pub use workers::{PoolSettingsView, WorkerView, pool_settings, workers};

pub use crate::health::{Health, health};
pub use crate::job::JobId;
pub use crate::saga::{saga, sagas};

const PAGE: i64 = 100;
const PAGE_MAX: i64 = 1000;

fn page(limit: i64) -> i64 {
    if limit <= 0 { PAGE } else { limit.min(PAGE_MAX) }
}
