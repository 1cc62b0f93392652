//! The durable job engine: jobs are rows of PostgreSQL, and nothing else is needed. It knows no order.
//!
//! A short tour, in reading order:
//!
//! 1. [`job`]: what a job is: its payload, its policy and what it does.
//! 2. [`failure`]: what may go wrong, sorted by what happens next.
//! 3. [`mod@enqueue`]: a job exists if and only if the caller's transaction commits; [`trace`] says what it follows from.
//! 4. [`catalogue`]: the kinds a process knows; it claims no others.
//! 5. [`claim`]: due jobs change hands, each claim with a higher fence.
//! 6. [`attempt`]: what a handler sees of its run; [`Effects`] are its fenced writes, [`mod@log`] what it says. [`runner`]: one
//!    run of one job as a list of named steps, and [`batch`]: one run of many.
//! 7. [`finish`]: the ways out: completed, retried, snoozed, discarded, dead; [`backoff`] says how long to wait, and
//!    [`complete`] gathers what has only to be completed.
//! 8. [`lease`] and [`rescue`]: a worker proves that it lives, and what a dead one held runs again.
//! 9. [`limit`]: what may run at once, and whether what it depends on works. [`fan_in`]: a job that is due when others have
//!    ended; [`saga`]: steps that are undone in reverse.
//! 10. [`schedule`] and [`wakeup`]: time passes, and somebody notices; [`cron`] says when, whatever the clocks do.
//! 11. [`inspect`], [`mod@why`], [`health`], [`operate`], [`timetable`], [`backlog`], [`testing`]: for people and for tests; [`campaign`]
//!     redrives dead letters in bulk.
//!
//! Every state change has one counter; [`metric`] lists them.

pub mod attempt;
pub mod backlog;
pub mod backoff;
pub mod batch;
pub mod campaign;
pub mod catalogue;
pub mod claim;
pub mod complete;
pub mod cron;
pub mod enqueue;
pub mod failure;
pub mod fan_in;
pub mod finish;
pub mod health;
pub mod inspect;
pub mod job;
pub mod lease;
pub mod limit;
pub mod log;
pub mod metric;
pub mod operate;
mod release;
pub mod rescue;
pub mod runner;
pub mod saga;
pub mod schedule;
mod settle;
pub mod testing;
pub mod timetable;
pub mod trace;
pub mod wakeup;
pub mod why;

pub use attempt::{Attempt, Effects, FenceLost, Reads};
pub use batch::{BatchJob, Member};
pub use catalogue::{Catalogue, KindInfo};
pub use enqueue::{
    Enqueued, Error, KEY_CHARACTERS_MAX, PAYLOAD_BYTES_MAX, enqueue, enqueue_after, enqueue_at, enqueue_debounced,
    enqueue_many,
};
pub use failure::{Class, Failure, HttpFacts};
pub use fan_in::{OnFailure, enqueue_after_all};
pub use job::{DeadHead, DeadLetter, Job, JobId, Outcome, Retry, Unique};
