//! Suspects, which workers have died over more than once, run alone: one at a time, with nothing beside them in the process.
//!
//! When a suspect is due, claims stop, the jobs in flight end, suspects run for a bounded time, and claims go on. A
//! worker that dies meanwhile takes exactly one job down with it, and everybody knows which.

use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::claim::{self, Known};

use crate::site::Site;

/// How often suspects are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long suspects may be started before everybody else has a turn.
const SLICE: Duration = Duration::from_secs(2);

/// The first bound of the wait for the jobs in flight; it doubles while they take longer.
const EMPTY_WITHIN: Duration = Duration::from_secs(1);

/// The last bound.
const EMPTY_WITHIN_MAX: Duration = Duration::from_secs(120);

/// The longest pause after turns in which no suspect could be claimed after all.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Looks for suspects of the process's pools until told to stop.
pub(crate) async fn quarantine<S: Send + Sync + 'static>(site: Arc<Site<S>>, pools: Vec<String>) {
    let known: Vec<_> = pools.iter().map(|pool| Known::of(&site.catalogue, pool)).collect();
    let mut empty_within = EMPTY_WITHIN;
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = site.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        // An error here is met, and logged, by the fetchers as well.
        if !claim::is_suspect_due(&site.pool, &pools).await.unwrap_or(false) {
            pause = LOOK_EVERY;
            continue;
        }
        let Ok(_alone) = tokio::time::timeout(empty_within, site.alone.write()).await else {
            // The others had to wait for nothing: they get as long a turn now.
            pause = empty_within;
            empty_within = (empty_within * 2).min(EMPTY_WITHIN_MAX);
            continue;
        };
        empty_within = EMPTY_WITHIN;
        let ran = turn(&site, &known).await;
        pause = if ran > 0 { LOOK_EVERY } else { (pause * 2).min(IDLE_MAX) };
    }
}

/// Runs suspects one after the other until there are none or the slice is over; returns how many ran.
async fn turn<S: Send + Sync + 'static>(site: &Arc<Site<S>>, known: &[Known]) -> usize {
    let started = Instant::now();
    let mut ran = 0;
    for known in known {
        while started.elapsed() < SLICE && !site.stop.is_cancelled() {
            let Some(registration) = site.current() else { return ran };
            let Ok(Some(job)) = claim::claim_suspect(&site.claim_pool, known, registration.id).await else {
                break;
            };
            site.completer.hold(std::slice::from_ref(&job));
            tracing::warn!(job.id = job.id.0, job.kind = job.kind, "running a suspect alone");
            let site = Arc::clone(site);
            _ = tokio::spawn(async move { site.attempt(vec![job], registration).await }).await;
            ran += 1;
        }
    }
    ran
}
