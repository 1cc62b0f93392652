//! The durable job engine: jobs are rows of PostgreSQL, and nothing else is needed. It knows no order.
//!
//! A short tour, in reading order:
//!
//! 1. [`job`]: what a job is: its payload, its policy and what it does.
//! 2. [`failure`]: what may go wrong, sorted by what happens next.
//! 3. [`mod@enqueue`]: a job exists if and only if the caller's transaction commits; [`trace`] says what it follows from.
//! 4. [`catalogue`]: the kinds a process knows; it claims no others.
//! 5. [`claim`]: due jobs change hands, each claim with a higher fence.
//! 6. [`attempt`]: one run of one job as a list of named steps; [`Effects`] are its fenced writes, [`mod@log`] what it says.
//! 7. [`finish`]: the ways out: completed, retried, snoozed, discarded, dead; [`backoff`] says how long to wait, and
//!    [`complete`] gathers what has only to be completed.
//! 8. [`lease`] and [`rescue`]: a worker proves that it lives, and what a dead one held runs again.
//! 9. [`schedule`] and [`wakeup`]: time passes, and somebody notices.
//! 10. [`inspect`], [`operate`], [`testing`]: for people and for tests.
//!
//! Every state change has one counter; [`metric`] lists them.

pub mod attempt;
pub mod backoff;
pub mod catalogue;
pub mod claim;
pub mod complete;
pub mod enqueue;
pub mod failure;
pub mod finish;
pub mod inspect;
pub mod job;
pub mod lease;
pub mod log;
pub mod metric;
pub mod operate;
pub mod rescue;
pub mod schedule;
pub mod testing;
pub mod trace;
pub mod wakeup;

pub use attempt::{Attempt, Effects, FenceLost};
pub use catalogue::{Catalogue, KindInfo};
pub use enqueue::{Enqueued, Error, enqueue, enqueue_after, enqueue_at, enqueue_debounced, enqueue_many};
pub use failure::{Class, Failure, HttpFacts};
pub use job::{DeadLetter, Job, JobId, Outcome, Retry, Unique};
