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
//! | `queue_jobs_redriven_total` | | dead → available, by campaigns |
//! | `queue_redrives_halted_total` | | causes of campaigns that halted by themselves |
//! | `queue_jobs_rescued_total` | | running → available, taken from lost workers |
//! | `queue_kinds_paused_total` | kind | kinds that paused themselves |
//! | `queue_fenced_writes_total` | kind | writes of stale workers that were refused |
//! | `queue_workers_lost_total` | how | workers declared lost: killed or silent |
//! | `queue_ticks_fired_total` | name | ticks of the timetable that enqueued a job |
//! | `queue_ticks_skipped_total` | name | ticks that did not, because an earlier run had not ended |
//! | `queue_ticks_missed_total` | name | ticks that did not, because nobody was there |
//! | `queue_attempt_seconds` | kind | histogram of attempts |
//! | `queue_claim_seconds` | queue | histogram of claims, also of those that found nothing |
//! | `queue_depth` | queue, state | gauge: jobs by state |
//! | `queue_oldest_due_seconds` | queue | gauge: the longest wait of a due job |
//! | `queue_arrived_per_second` | queue | gauge: jobs that came in, over the last minute |
//! | `queue_completed_per_second` | queue | gauge: jobs that ended, over the last minute |
//! | `queue_drain_seconds` | queue | gauge: how long what is due takes at that speed, at most a day |
//! | `queue_breakers_open` | limit | gauge: keys of the limit whose breaker is open or lets single jobs through |
//! | `queue_jobs_parked` | limit | gauge: jobs the limit holds back, counted up to 100,000 |
//! | `queue_horizon_seconds` | | gauge: for how long somebody has kept rows from being cleared away |
//! | `queue_table_dead_rows` | table | gauge: rows that are gone but not cleared away |
//! | `queue_table_bytes` | table | gauge: the size with indexes |

pub(crate) const ENQUEUED: &str = "queue_jobs_enqueued_total";
pub(crate) const CLAIMED: &str = "queue_jobs_claimed_total";
pub(crate) const COMPLETED: &str = "queue_jobs_completed_total";
pub(crate) const RETRIED: &str = "queue_jobs_retried_total";
pub(crate) const POSTPONED: &str = "queue_jobs_postponed_total";
pub(crate) const DISCARDED: &str = "queue_jobs_discarded_total";
pub(crate) const CANCELLED: &str = "queue_jobs_cancelled_total";
pub(crate) const BURIED: &str = "queue_jobs_buried_total";
pub(crate) const REDRIVEN: &str = "queue_jobs_redriven_total";
pub(crate) const REDRIVES_HALTED: &str = "queue_redrives_halted_total";
pub(crate) const RESCUED: &str = "queue_jobs_rescued_total";
pub(crate) const KINDS_PAUSED: &str = "queue_kinds_paused_total";
pub(crate) const FENCED: &str = "queue_fenced_writes_total";
pub(crate) const WORKERS_LOST: &str = "queue_workers_lost_total";
pub(crate) const TICKS_FIRED: &str = "queue_ticks_fired_total";
pub(crate) const TICKS_SKIPPED: &str = "queue_ticks_skipped_total";
pub(crate) const TICKS_MISSED: &str = "queue_ticks_missed_total";
pub(crate) const CLAIM_SECONDS: &str = "queue_claim_seconds";
pub(crate) const ATTEMPT_SECONDS: &str = "queue_attempt_seconds";
pub(crate) const DEPTH: &str = "queue_depth";
pub(crate) const OLDEST_DUE_SECONDS: &str = "queue_oldest_due_seconds";
pub(crate) const ARRIVED_PER_SECOND: &str = "queue_arrived_per_second";
pub(crate) const COMPLETED_PER_SECOND: &str = "queue_completed_per_second";
pub(crate) const DRAIN_SECONDS: &str = "queue_drain_seconds";
pub(crate) const BREAKERS_OPEN: &str = "queue_breakers_open";
pub(crate) const JOBS_PARKED: &str = "queue_jobs_parked";
pub(crate) const HORIZON_SECONDS: &str = "queue_horizon_seconds";
pub(crate) const TABLE_DEAD_ROWS: &str = "queue_table_dead_rows";
pub(crate) const TABLE_BYTES: &str = "queue_table_bytes";
