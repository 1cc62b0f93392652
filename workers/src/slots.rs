//! A pool's slots may be changed while it runs: every process reads the setting, and starts more jobs or lets some end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::site::Site;

const READ_EVERY: Duration = Duration::from_secs(1);

/// The slots that one fetcher of a pool serves.
pub(crate) struct Slots {
    pub(crate) pool: String,
    pub(crate) semaphore: Arc<Semaphore>,
    /// How many it began with.
    pub(crate) initial: usize,
    /// Which of the pool's fetchers it is, from 0.
    pub(crate) part: usize,
    /// How many there are.
    pub(crate) parts: usize,
}

impl Slots {
    /// Its part of the pool's.
    fn wanted(&self, settings: &BTreeMap<String, usize>) -> usize {
        match settings.get(&self.pool) {
            Some(all) => all / self.parts + usize::from(self.part < all % self.parts),
            None => self.initial,
        }
    }
}

/// Reads the settings until told to stop; without contact they stay as they were.
pub(crate) async fn read<S: Send + Sync + 'static>(
    site: Arc<Site<S>>,
    settings: watch::Sender<BTreeMap<String, usize>>,
) {
    while !site.stop.is_cancelled() {
        let read = async { queue::inspect::pool_settings(&mut *site.pool.acquire().await?).await };
        // An error here is met, and logged, by the fetchers as well.
        if let Ok(read) = read.await {
            let fresh = read
                .into_iter()
                .map(|one| (one.pool, usize::try_from(one.slots).unwrap_or(1)))
                .collect();
            settings.send_if_modified(|known| {
                let is_news = *known != fresh;
                *known = fresh;
                is_news
            });
        }
        tokio::select! {
            () = site.stop.cancelled() => {}
            () = tokio::time::sleep(READ_EVERY) => {}
        }
    }
}

/// Keeps the slots of one fetcher at the setting.
pub(crate) async fn keep<S: Send + Sync + 'static>(
    site: Arc<Site<S>>,
    slots: Slots,
    mut settings: watch::Receiver<BTreeMap<String, usize>>,
) {
    let mut size = slots.initial;
    loop {
        let wanted = slots.wanted(&settings.borrow_and_update());
        if wanted != size {
            tracing::info!(pool = slots.pool, from = size, to = wanted, "changing the slots");
        }
        if wanted > size {
            slots.semaphore.add_permits(wanted - size);
            size = wanted;
        }
        let surplus = u32::try_from(size - wanted).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = site.stop.cancelled() => break,
            changed = settings.changed() => if changed.is_err() { break },
            // Whoever fetches waits behind this until enough jobs have ended.
            Ok(free) = slots.semaphore.acquire_many(surplus), if surplus > 0 => {
                free.forget();
                size = wanted;
            }
        }
    }
    // A fetcher that has none must not wait for one when the process ends.
    slots.semaphore.add_permits(1);
}
