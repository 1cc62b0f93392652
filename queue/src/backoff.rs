//! How long to wait: pure arithmetic, with the dice passed in.

use std::time::Duration;

use rand::Rng;

use crate::job::Retry;

/// Full jitter: anywhere between nothing and `min(cap, base·2^n)` after failed attempt `n`, counted from 1.
pub fn after_attempt(retry: Retry, attempt: i32, rng: &mut impl Rng) -> Duration {
    bound(retry, attempt).mul_f64(rng.random::<f64>())
}

/// The longest wait after failed attempt `n`.
pub fn bound(retry: Retry, attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.max(1) - 1).unwrap_or(0).min(62);
    let factor = 2_f64.powi(i32::try_from(doublings).unwrap_or(62));
    let seconds = (retry.base.as_secs_f64() * factor).min(retry.cap.as_secs_f64());
    Duration::from_secs_f64(seconds)
}

/// The waits of a worker that has trouble with the database: jittered, doubling, bounded.
#[derive(Debug, Default)]
pub struct Trouble {
    failures: i32,
}

impl Trouble {
    const RETRY: Retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2), i32::MAX);

    /// The wait before the next try; it grows with each call.
    pub fn wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        // A floor keeps a refused connection from becoming a busy loop.
        Duration::from_millis(10) + after_attempt(Self::RETRY, self.failures, &mut rand::rng())
    }

    /// Whether this is the first failure in a row: the one worth a line in the log.
    pub fn is_first(&self) -> bool {
        self.failures == 1
    }

    /// It worked again.
    pub fn over(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_and_stops_at_the_cap() {
        let retry = Retry::new(Duration::from_secs(1), Duration::from_secs(10), 20);
        let bounds: Vec<_> = (1..=6).map(|attempt| bound(retry, attempt).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(bound(retry, i32::MAX).as_secs(), 10);
    }

    #[test]
    fn no_wait_is_longer_than_its_bound() {
        let retry = Retry::new(Duration::from_millis(20), Duration::from_secs(2), 20);
        let mut rng = rand::rng();
        for attempt in 1..100 {
            assert!(after_attempt(retry, attempt, &mut rng) <= bound(retry, attempt));
        }
    }
}
