//! Several queues in one pool: each has its weight's share of the slots while all have work, and none is left idle while
//! one has.
//!
//! It is stride scheduling over claims: a queue that is served n slots moves n / weight ahead, and the one furthest behind is
//! next. A queue that has run dry is looked at again after a while, and gains nothing by having rested.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::backoff::Trouble;
use queue::claim::Line;
use queue::wakeup::Poll;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::fetch::{self, Claims};
use crate::site::{Flight, Site};

const WEIGHT_MAX: u32 = 1000;
const QUEUES_MAX: usize = 16;

/// Slots for one queue or for several: `stock`, or `night=maintenance:1,routes:4`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What it is called: the name of its queue if it has only one.
    pub name: String,
    /// The queues it serves and their weights, from 1 to 1000.
    pub queues: Vec<(String, u32)>,
}

impl Pool {
    /// A pool for the queue of the same name.
    pub fn of(queue: &str) -> Self {
        Self {
            name: queue.to_owned(),
            queues: vec![(queue.to_owned(), 1)],
        }
    }
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, list)) = text.split_once('=') else {
            return match text {
                "" => Err("a pool has a name".to_owned()),
                _ if text.contains([':', ',']) => Err(format!("{text}: write NAME=QUEUE:WEIGHT,QUEUE:WEIGHT")),
                _ => Ok(Self::of(text)),
            };
        };
        let mut queues: Vec<(String, u32)> = Vec::new();
        for part in list.split(',') {
            let (queue, weight) = part.split_once(':').unwrap_or((part, "1"));
            let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
            let weight = weight.ok_or_else(|| format!("{part}: a weight is a whole number from 1 to {WEIGHT_MAX}"))?;
            if queues.iter().any(|(other, _)| other == queue) {
                return Err(format!("{queue} is listed twice"));
            }
            queues.push((queue.to_owned(), weight));
        }
        if name.is_empty() || queues.iter().any(|(queue, _)| queue.is_empty()) {
            return Err(format!("{text}: write NAME=QUEUE:WEIGHT,QUEUE:WEIGHT"));
        }
        if queues.len() > QUEUES_MAX {
            return Err(format!("{name}: a pool serves at most {QUEUES_MAX} queues"));
        }
        Ok(Self {
            name: name.to_owned(),
            queues,
        })
    }
}

/// One queue of the pool.
struct Served {
    line: Arc<Line>,
    recounted: Instant,
    poll: Poll,
    /// When it is worth a look.
    look_at: Instant,
}

/// Fetches for the slots of a pool with several queues until told to stop, as `fetch::fetch` does for one.
pub(crate) async fn fetch<S: Send + Sync + 'static>(
    site: Arc<Site<S>>,
    queues: Vec<(Arc<Line>, u32)>,
    hint: Arc<Notify>,
    semaphore: Arc<Semaphore>,
    sender: mpsc::Sender<Flight>,
) {
    let slots = semaphore.available_permits();
    let mut turns = Turns::new(queues.iter().map(|(_, weight)| *weight));
    let mut trouble = Trouble::default();
    let now = Instant::now();
    let mut lines: Vec<Served> = queues
        .into_iter()
        .map(|(line, _)| Served {
            line,
            recounted: now,
            poll: Poll::new(),
            look_at: now,
        })
        .collect();
    while !site.stop.is_cancelled() {
        let now = Instant::now();
        tokio::select! {
            biased;
            // It does not say for which of them.
            () = hint.notified() => lines.iter_mut().for_each(|line| line.look_at = now),
            () = std::future::ready(()) => {}
        }
        let waiting: Vec<usize> = (0..lines.len()).filter(|n| lines[*n].look_at <= now).collect();
        let Some(next) = turns.next(&waiting) else {
            let look_at = lines.iter().map(|line| line.look_at).min().unwrap_or(now);
            tokio::select! {
                () = site.stop.cancelled() => return,
                () = hint.notified() => hint.notify_one(),
                () = tokio::time::sleep_until(look_at.into()) => {}
            }
            continue;
        };
        let Some(mut free) = fetch::gather(&semaphore, slots).await else {
            return;
        };
        let share = turns.share(next, &waiting, free.num_permits());
        drop(free.split(free.num_permits() - share));
        let served = &mut lines[next];
        match fetch::claim_round(&site, &served.line, Some(free), &sender, &mut served.recounted).await {
            Ok(claims) => {
                trouble.over();
                match claims {
                    Claims::Full => {
                        served.poll.found();
                        turns.serve(next, share);
                        continue;
                    }
                    Claims::Some => served.poll.found(),
                    Claims::None => {}
                }
                turns.rest(next);
                let wait = fetch::idle(&site, served.line.known(), served.poll.wait()).await;
                served.look_at = Instant::now() + wait;
            }
            Err(error) => {
                let wait = trouble.wait();
                if trouble.is_first() {
                    tracing::warn!(queue = served.line.known().queue(), "cannot claim: {error:#}");
                }
                served.recounted = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or(now);
                served.look_at = Instant::now() + wait;
            }
        }
    }
}

/// Whose turn it is: pure.
#[derive(Debug)]
struct Turns {
    /// Weight, and how far ahead it is.
    queues: Vec<(f64, f64)>,
    /// How far ahead the last one was when it was served.
    at: f64,
    is_resting: Vec<bool>,
}

impl Turns {
    fn new(weights: impl Iterator<Item = u32>) -> Self {
        let queues: Vec<_> = weights.map(|weight| (f64::from(weight), 0.0)).collect();
        Self {
            is_resting: vec![false; queues.len()],
            queues,
            at: 0.0,
        }
    }

    /// The one of these that is furthest behind.
    fn next(&self, waiting: &[usize]) -> Option<usize> {
        waiting
            .iter()
            .copied()
            .min_by(|a, b| self.place(*a).total_cmp(&self.place(*b)))
    }

    /// What `next` may take of the free slots, at least one.
    fn share(&self, next: usize, waiting: &[usize], free: usize) -> usize {
        let all: f64 = waiting.iter().map(|n| self.queues[*n].0).sum();
        ((free as f64 * self.queues[next].0 / all).ceil() as usize).clamp(1, free.max(1))
    }

    fn serve(&mut self, next: usize, slots: usize) {
        let place = self.place(next);
        self.at = place;
        self.is_resting[next] = false;
        self.queues[next].1 = place + slots as f64 / self.queues[next].0;
    }

    /// It has run dry.
    fn rest(&mut self, next: usize) {
        self.is_resting[next] = true;
    }

    /// Who rested begins where the others are.
    fn place(&self, n: usize) -> f64 {
        let place = self.queues[n].1;
        if self.is_resting[n] { place.max(self.at) } else { place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(turns: &mut Turns, waiting: &[usize], rounds: usize, free: usize) -> Vec<usize> {
        let mut slots = vec![0; turns.queues.len()];
        for _ in 0..rounds {
            let next = turns.next(waiting).expect("somebody waits");
            let share = turns.share(next, waiting, free);
            turns.serve(next, share);
            slots[next] += share;
        }
        slots
    }

    #[test]
    fn turns_go_by_weight_whatever_is_free() {
        let mut turns = Turns::new([3, 1].into_iter());
        assert_eq!(served(&mut turns, &[0, 1], 400, 1), [300, 100]);
        let mut turns = Turns::new([5, 2, 1].into_iter());
        let slots = served(&mut turns, &[0, 1, 2], 600, 16);
        let all: usize = slots.iter().sum();
        for (slots, weight) in slots.iter().zip([5.0, 2.0, 1.0]) {
            assert!(
                (*slots as f64 / all as f64 - weight / 8.0).abs() < 0.01,
                "{slots} of {all}"
            );
        }
    }

    #[test]
    fn who_rested_gains_nothing_and_loses_nothing_by_it() {
        let mut turns = Turns::new([1, 1].into_iter());
        turns.rest(1);
        assert_eq!(served(&mut turns, &[0], 1000, 1), [1000, 0]);
        let slots = served(&mut turns, &[0, 1], 100, 1);
        assert!(slots[0].abs_diff(slots[1]) <= 2, "{slots:?}");
    }

    #[test]
    fn a_pool_is_a_queue_or_a_name_with_weights() {
        assert_eq!("stock".parse(), Ok(Pool::of("stock")));
        let pool: Pool = "night=routes:4,maintenance".parse().expect("a pool of two");
        assert_eq!(pool.name, "night");
        assert_eq!(pool.queues, [("routes".to_owned(), 4), ("maintenance".to_owned(), 1)]);
        for bad in [
            "", "=a", "a=", "a=b:0", "a=b:1001", "a=b:x", "a=b,b", "a=b,", "a:3", "a,b",
        ] {
            assert!(bad.parse::<Pool>().is_err(), "{bad:?}");
        }
    }
}
