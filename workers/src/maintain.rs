//! What any worker does for the whole fleet, so that nobody has to be the leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::backoff::Trouble;
use queue::rescue::Rescuer;
use queue::schedule::{self, Entry};

use crate::site::Site;

/// How often lost workers are looked for and the timetable is read.
const ROUND_EVERY: Duration = Duration::from_millis(500);
const TICK_EVERY: Duration = Duration::from_secs(1);
const GAUGES_EVERY: Duration = Duration::from_secs(5);
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);

/// Keeps the fleet in order until the process has stopped.
pub(crate) async fn maintain<S: Send + Sync + 'static>(site: Arc<Site<S>>, lease: Duration, timetable: Vec<Entry>) {
    let mut rescuer = Rescuer::new(lease);
    let mut ticked = Every::new(TICK_EVERY);
    let mut gauged = Every::new(GAUGES_EVERY);
    let mut partitioned = Every::new(PARTITIONS_EVERY);
    let mut is_installed = false;
    let mut trouble = Trouble::default();
    loop {
        let round = async {
            rescuer.round(&site.pool).await?;
            if !is_installed {
                schedule::install(&mut *site.pool.acquire().await?, &timetable).await?;
                is_installed = true;
            }
            queue::operate::fill_vacant_turns(&site.pool).await?;
            queue::operate::settle_cancels(&site.pool).await?;
            if ticked.is_due() {
                schedule::tick(&site.pool).await?;
            }
            if gauged.is_due() {
                queue::inspect::publish_gauges(&mut *site.pool.acquire().await?).await?;
            }
            if partitioned.is_due() {
                queue::operate::ensure_partitions(&site.pool).await?;
            }
            anyhow::Ok(())
        };
        let wait = match round.await {
            Ok(()) => {
                trouble.over();
                ROUND_EVERY
            }
            Err(error) => {
                let wait = trouble.wait();
                if trouble.is_first() {
                    tracing::warn!("cannot look after the fleet: {error:#}");
                }
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = site.stop.cancelled() => return,
        }
    }
}

/// Due at once, and again after each period.
struct Every {
    period: Duration,
    last: Option<Instant>,
}

impl Every {
    fn new(period: Duration) -> Self {
        Self { period, last: None }
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= self.period);
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}
