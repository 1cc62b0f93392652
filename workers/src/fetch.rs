//! Claims as many jobs as a pool has free slots, so that claimed means started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::Catalogue;
use queue::backoff::Trouble;
use queue::claim::{self, Claimed, Known, Line};
use queue::finish;
use queue::wakeup::Poll;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::site::{Flight, Site};

/// With fewer slots free than a quarter, a claim waits this long for more: one statement is cheaper than four.
const GATHER: Duration = Duration::from_millis(2);

/// After a claim that took all there was the next one waits this long: one statement is cheaper than two.
const PACE: Duration = Duration::from_millis(1);

/// How often a fetcher looks for jobs that are its own but not in its hands.
const RECOUNT_EVERY: Duration = Duration::from_secs(5);

/// Waits longer than this look up when the next job is due.
const SHORT_WAIT: Duration = Duration::from_millis(40);

/// The slots that each fetcher of a pool serves. A pool that can hold the jobs of several whole claims has two fetchers: while
/// one takes its claim apart the other's is made.
pub(crate) fn shares(slots: usize) -> Vec<usize> {
    match slots < 2 * claim::CLAIM_MAX {
        true => vec![slots],
        false => vec![slots / 2, slots - slots / 2],
    }
}

/// Fetches for some slots of a pool until told to stop; the pool ends when the last of its fetchers has dropped the sender.
pub(crate) async fn fetch<S: Send + Sync + 'static>(
    site: Arc<Site<S>>,
    line: Arc<Line>,
    hint: Arc<Notify>,
    semaphore: Arc<Semaphore>,
    sender: mpsc::Sender<Flight>,
) {
    let slots = semaphore.available_permits();
    let mut poll = Poll::new();
    let mut trouble = Trouble::default();
    let mut recounted = Instant::now();
    loop {
        let round = async {
            let free = gather(&semaphore, slots).await;
            claim_round(&site, &line, free, &sender, &mut recounted).await
        };
        // A claim that is under way is never dropped: its jobs would be in nobody's hands.
        let wait = match round.await {
            Ok(Claims::Full) => {
                trouble.over();
                poll.found();
                Duration::ZERO
            }
            Ok(Claims::Some) => {
                trouble.over();
                poll.found();
                PACE
            }
            Ok(Claims::None) => {
                trouble.over();
                idle(&site, line.known(), poll.wait()).await
            }
            Err(error) => {
                let wait = trouble.wait();
                if trouble.is_first() {
                    tracing::warn!(queue = line.known().queue(), "cannot claim: {error:#}");
                }
                // Whatever that statement did is found at the next count.
                recounted = Instant::now() - RECOUNT_EVERY;
                wait
            }
        };
        tokio::select! {
            biased;
            () = site.stop.cancelled() => return,
            () = hint.notified(), if wait > PACE => poll.found(),
            () = tokio::time::sleep(wait), if !wait.is_zero() => {}
            () = std::future::ready(()), if wait.is_zero() => {}
        }
    }
}

pub(crate) enum Claims {
    Full,
    Some,
    None,
}

/// All free slots, at least one.
pub(crate) async fn gather(semaphore: &Arc<Semaphore>, slots: usize) -> Option<OwnedSemaphorePermit> {
    let mut free = Arc::clone(semaphore).acquire_owned().await.ok()?;
    if semaphore.available_permits() < (slots / 4).min(claim::CLAIM_MAX / 2) {
        tokio::time::sleep(GATHER).await;
    }
    let more = u32::try_from(semaphore.available_permits()).unwrap_or(0);
    if let Ok(more) = Arc::clone(semaphore).try_acquire_many_owned(more) {
        free.merge(more);
    }
    Some(free)
}

pub(crate) async fn claim_round<S: Send + Sync + 'static>(
    site: &Arc<Site<S>>,
    line: &Line,
    free: Option<OwnedSemaphorePermit>,
    sender: &mpsc::Sender<Flight>,
    recounted: &mut Instant,
) -> anyhow::Result<Claims> {
    let stopped = site.stop.cancelled();
    let ready = async { (site.registered().await, Arc::clone(&site.alone).read_owned().await) };
    let (registration, company) = tokio::select! {
        biased;
        () = stopped => return Ok(Claims::None),
        ready = ready => ready,
    };
    let (Some(mut free), Some(registration)) = (free, registration) else {
        return Ok(Claims::None);
    };

    if recounted.elapsed() >= RECOUNT_EVERY {
        *recounted = Instant::now();
        // A claim that another fetcher is just making is not lost.
        let _nobody_claims = site.completer.claiming().write().await;
        let strays = finish::hand_back_strays(
            &site.pool,
            registration.id,
            line.known().queue(),
            &site.completer.in_hand(line.known().queue()),
        )
        .await?;
        if strays > 0 {
            tracing::warn!(
                strays,
                queue = line.known().queue(),
                "handed back jobs whose claim was never answered"
            );
        }
    }
    let wanted = free.num_permits().min(claim::CLAIM_MAX);
    // More than one claim takes is left to the next one, which need not wait for this one's jobs to start.
    drop(free.split(free.num_permits() - wanted));
    site.set_limits().await?;
    let claiming = site.completer.claiming().read().await;
    let claimed = line.claim(&site.claim_pool, registration.id, wanted).await?;
    site.completer.hold(&claimed);
    drop(claiming);
    let found = claimed.len();
    // There are no fewer slots than attempts.
    let attempts = together(&site.catalogue, claimed)
        .into_iter()
        .map_while(|jobs| Some((jobs, free.split(1)?)))
        .collect();
    if found > 0 {
        let flight = Flight {
            attempts,
            registration,
            company: Arc::new(company),
        };
        // Only a pool that ended does not take it; its jobs go back with everything else.
        _ = sender.send(flight).await;
    }
    Ok(match found {
        0 => Claims::None,
        found if found < wanted => Claims::Some,
        _ => Claims::Full,
    })
}

/// Divides claimed jobs among slots: one each, but as many together as their kind takes.
fn together<S: Send + Sync + 'static>(catalogue: &Catalogue<S>, claimed: Vec<Claimed>) -> Vec<Vec<Claimed>> {
    let mut flights = Vec::with_capacity(claimed.len());
    let mut batches = BTreeMap::<String, Vec<Claimed>>::new();
    for job in claimed {
        let batch_max = catalogue.batch_max(&job.kind);
        if batch_max == 1 {
            flights.push(vec![job]);
            continue;
        }
        let batch = batches.entry(job.kind.clone()).or_default();
        batch.push(job);
        if batch.len() == batch_max {
            flights.push(std::mem::take(batch));
        }
    }
    flights.extend(batches.into_values().filter(|batch| !batch.is_empty()));
    flights
}

/// The wait of an idle queue, but not past the next job that is due.
pub(crate) async fn idle<S: Send + Sync + 'static>(site: &Site<S>, known: &Known, wait: Duration) -> Duration {
    if wait < SHORT_WAIT {
        return wait;
    }
    claim::next_due(&site.pool, known, wait)
        .await
        .unwrap_or(wait)
        .max(Duration::from_millis(1))
}
