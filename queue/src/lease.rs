//! A worker proves that it lives.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// One worker row, as its own process sees it.
pub struct Registration {
    /// The row.
    pub id: i64,
    /// The build that registered, for the reports.
    pub build: String,
    /// Cancelled when the row is gone: others may hold our jobs.
    pub lost: CancellationToken,
    valid_until: Mutex<Instant>,
}

impl Registration {
    /// How long the lease can still be trusted, by this machine's monotonic clock.
    pub fn time_left(&self) -> Duration {
        if self.lost.is_cancelled() {
            return Duration::ZERO;
        }
        let until = *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_duration_since(Instant::now())
    }
}
