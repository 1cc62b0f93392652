//! Every state change has one counter; the rest are gauges, published by whoever asks.
//!
//! | metric | labels | counts |
//! |---|---|---|
//! | `queue_jobs_enqueued_total` | kind | jobs enqueued, by transactions that may yet roll back |
//! | `queue_jobs_claimed_total` | queue | available → running |
//! | `queue_jobs_completed_total` | kind | running → completed |
//! | `queue_jobs_retried_total` | kind | running → retryable: a failed attempt |
//! | `queue_jobs_postponed_total` | kind | running → scheduled, no attempt used: snoozed, throttled, paused, handed back |
//! | `queue_jobs_discarded_total` | kind | running → discarded |
//! | `queue_jobs_cancelled_total` | kind | running → cancelled |
//! | `queue_jobs_buried_total` | kind, reason | running → dead |
//! | `queue_jobs_rescued_total` | | running → available, taken from lost workers |
//! | `queue_kinds_paused_total` | kind | kinds that paused themselves |
//! | `queue_fenced_writes_total` | kind | writes of stale workers that were refused |
//! | `queue_workers_lost_total` | how | workers declared lost: killed or silent |
//! | `queue_ticks_fired_total` | name | ticks of the timetable |
//! | `queue_attempt_seconds` | kind | histogram of attempts |
//! | `queue_depth` | queue, state | gauge: jobs by state |
//! | `queue_oldest_due_seconds` | queue | gauge: the longest wait of a due job |

pub(crate) const ENQUEUED: &str = "queue_jobs_enqueued_total";
pub(crate) const CLAIMED: &str = "queue_jobs_claimed_total";
pub(crate) const COMPLETED: &str = "queue_jobs_completed_total";
pub(crate) const RETRIED: &str = "queue_jobs_retried_total";
pub(crate) const POSTPONED: &str = "queue_jobs_postponed_total";
pub(crate) const DISCARDED: &str = "queue_jobs_discarded_total";
pub(crate) const CANCELLED: &str = "queue_jobs_cancelled_total";
pub(crate) const BURIED: &str = "queue_jobs_buried_total";
pub(crate) const RESCUED: &str = "queue_jobs_rescued_total";
pub(crate) const KINDS_PAUSED: &str = "queue_kinds_paused_total";
pub(crate) const FENCED: &str = "queue_fenced_writes_total";
pub(crate) const WORKERS_LOST: &str = "queue_workers_lost_total";
pub(crate) const TICKS_FIRED: &str = "queue_ticks_fired_total";
pub(crate) const ATTEMPT_SECONDS: &str = "queue_attempt_seconds";
pub(crate) const DEPTH: &str = "queue_depth";
pub(crate) const OLDEST_DUE_SECONDS: &str = "queue_oldest_due_seconds";
