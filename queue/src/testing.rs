//! The real claim and finish code in a test's own process.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use crate::catalogue::Catalogue;
use crate::inspect::JobView;

/// What `run_until_idle` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Attempts that completed their job.
    pub completed: u64,
    /// Attempts that failed and will be tried again.
    pub retried: u64,
    /// Attempts that used no try: snoozed, throttled, paused, handed back.
    pub postponed: u64,
    /// Attempts that ended in a dead letter.
    pub buried: u64,
    /// Attempts that discarded their job.
    pub discarded: u64,
}

/// Runs whatever is due, one after the other, until nothing is.
pub async fn run_until_idle<S: Send + Sync + 'static>(_pool: &PgPool, _catalogue: &Catalogue<S>, _services: &Arc<S>) -> anyhow::Result<Ran> {
    todo!()
}

/// Makes everything that waits due that much sooner: rows move, not clocks.
pub async fn fast_forward(_pool: &PgPool, _time: Duration) -> sqlx::Result<()> {
    todo!()
}

/// The jobs of a kind that have not ended, oldest first.
pub async fn enqueued(_pool: &PgPool, _kind: &str) -> sqlx::Result<Vec<JobView>> {
    todo!()
}
