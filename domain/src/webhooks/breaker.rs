//! When to leave an endpoint alone: at least ten tries in five minutes, and seven in ten of them failed.
//!
//! The counts are each process's own and cost no round trip; what they lead to (`open_until` on the endpoint) is everyone's.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::ids::EndpointId;

const WINDOW: Duration = Duration::from_secs(5 * 60);
const BUCKET: Duration = Duration::from_secs(30);
const TRIES_MIN: u32 = 10;
const OPEN_MIN: Duration = Duration::from_secs(30);
const OPEN_MAX: Duration = Duration::from_secs(10 * 60);
/// More endpoints than this in five minutes, and the counts start afresh: a bound on memory, not a rule.
const ENDPOINTS_MAX: usize = 10_000;

/// How long an endpoint is left alone when that happens for the nth time in a row, from 1.
pub fn open_for(times: i32) -> Duration {
    let doublings = times.clamp(1, 10) as u32 - 1;
    (OPEN_MIN * 2u32.pow(doublings)).min(OPEN_MAX)
}

/// The tries of the last minutes, by endpoint.
#[derive(Debug, Default)]
pub struct Tries(HashMap<EndpointId, VecDeque<Bucket>>);

#[derive(Debug)]
struct Bucket {
    since: Instant,
    tries: u32,
    failures: u32,
}

impl Tries {
    /// Counts a try; true when its endpoint should be left alone from now on. The count then starts afresh.
    pub fn count(&mut self, endpoint: EndpointId, is_good: bool, now: Instant) -> bool {
        if self.0.len() >= ENDPOINTS_MAX && !self.0.contains_key(&endpoint) {
            self.0.clear();
        }
        let buckets = self.0.entry(endpoint).or_default();
        while buckets
            .front()
            .is_some_and(|bucket| now.duration_since(bucket.since) > WINDOW)
        {
            buckets.pop_front();
        }
        if buckets
            .back()
            .is_none_or(|bucket| now.duration_since(bucket.since) > BUCKET)
        {
            buckets.push_back(Bucket {
                since: now,
                tries: 0,
                failures: 0,
            });
        }
        if let Some(bucket) = buckets.back_mut() {
            bucket.tries += 1;
            bucket.failures += u32::from(!is_good);
        }
        let tries: u32 = buckets.iter().map(|bucket| bucket.tries).sum();
        let failures: u32 = buckets.iter().map(|bucket| bucket.failures).sum();
        let is_tripped = !is_good && tries >= TRIES_MIN && failures * 10 >= tries * 7;
        if is_tripped {
            buckets.clear();
        }
        is_tripped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_open_it_nine_do_not() {
        let (mut tries, endpoint, now) = (Tries::default(), EndpointId::new(), Instant::now());
        for n in 1..10 {
            assert!(!tries.count(endpoint, false, now), "failure {n}");
        }
        assert!(!tries.count(EndpointId::new(), false, now));
        assert!(tries.count(endpoint, false, now));
        assert!(!tries.count(endpoint, false, now), "the count starts afresh");
    }

    #[test]
    fn three_good_ones_in_ten_are_enough_only_above_three() {
        let (mut tries, endpoint, now) = (Tries::default(), EndpointId::new(), Instant::now());
        for _ in 0..4 {
            tries.count(endpoint, true, now);
        }
        let opened = (0..9).any(|_| tries.count(endpoint, false, now));
        assert!(!opened, "9 of 13 is less than 70 %");
        assert!(tries.count(endpoint, false, now), "10 of 14 is more");
    }

    #[test]
    fn what_is_older_than_five_minutes_does_not_count() {
        let (mut tries, endpoint, now) = (Tries::default(), EndpointId::new(), Instant::now());
        for _ in 0..9 {
            tries.count(endpoint, false, now);
        }
        let later = now + WINDOW + Duration::from_secs(1);
        assert!(!tries.count(endpoint, false, later));
    }

    #[test]
    fn it_stays_open_longer_each_time() {
        let seconds: Vec<u64> = (1..=7).map(|times| open_for(times).as_secs()).collect();
        assert_eq!(seconds, [30, 60, 120, 240, 480, 600, 600]);
    }
}
