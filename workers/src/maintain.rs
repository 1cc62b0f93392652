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
const MEND_EVERY: Duration = Duration::from_secs(5);
const GAUGES_EVERY: Duration = Duration::from_secs(5);
/// How often every member of every waiter is looked at, not only those without the mark.
const SWEPT_EVERY: Duration = Duration::from_secs(60);
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);

/// How long campaigns are remembered, in days.
const CAMPAIGNS_KEPT: i32 = 30;

/// Keeps the fleet in order until the process has stopped.
pub(crate) async fn maintain<S: Send + Sync + 'static>(site: Arc<Site<S>>, lease: Duration, timetable: Vec<Entry>) {
    let mut rescuer = Rescuer::new(lease);
    let mut ticked = Every::new(TICK_EVERY);
    let mut mended = Every::new(MEND_EVERY);
    let mut gauged = Every::new(GAUGES_EVERY);
    let mut swept = Every::new(SWEPT_EVERY);
    let mut partitioned = Every::new(PARTITIONS_EVERY);
    let mut listed = Every::new(schedule::LIST_EVERY);
    // After trouble, before the next tick: a list that nobody lists goes out of force.
    let mut is_unlisted = true;
    let mut trouble = Trouble::default();
    loop {
        let round = async {
            rescuer.round(&site.pool).await?;
            if listed.is_due() || is_unlisted {
                is_unlisted = true;
                schedule::install(&mut *site.pool.acquire().await?, &timetable).await?;
                is_unlisted = false;
            }
            queue::operate::fill_vacant_turns(&site.pool).await?;
            if mended.is_due() {
                queue::limit::mend(&mut *site.pool.acquire().await?).await?;
            }
            queue::fan_in::sweep(&site.pool, swept.is_due()).await?;
            queue::operate::settle_cancels(&site.pool).await?;
            if ticked.is_due() {
                schedule::tick(&site.pool).await?;
            }
            if gauged.is_due() {
                queue::inspect::publish_gauges(&mut *site.pool.acquire().await?).await?;
            }
            if partitioned.is_due() {
                queue::operate::ensure_partitions(&site.pool).await?;
                schedule::prune(&site.pool).await?;
                queue::campaign::prune(&mut *site.pool.acquire().await?, CAMPAIGNS_KEPT).await?;
                queue::saga::prune(&mut *site.pool.acquire().await?).await?;
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

/// Carries redrive campaigns on until the process has stopped. Apart from the rest, since a round of a large one takes a while.
pub(crate) async fn redrive<S: Send + Sync + 'static>(site: Arc<Site<S>>) {
    let mut trouble = Trouble::default();
    loop {
        let wait = match queue::campaign::advance(&site.pool).await {
            Ok(wait) => {
                trouble.over();
                wait
            }
            Err(error) => {
                let wait = trouble.wait();
                if trouble.is_first() {
                    tracing::warn!("cannot carry on a redrive campaign: {error:#}");
                }
                wait
            }
        };
        tokio::select! {
            biased;
            () = site.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
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
