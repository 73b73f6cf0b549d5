//! Enforces `--rate-limit`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::model::RateLimit;

/// Limits the rate of batches, over all tasks that share it.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: RateLimit,
    /// When the next batch may pass.
    next: Mutex<Instant>,
}

/// Unused time up to this is made up for, such as the time of a slow response.
const CREDIT: Duration = Duration::from_millis(200);

impl Throttle {
    pub(crate) fn new(rate: RateLimit) -> Arc<Self> {
        Arc::new(Self {
            rate,
            next: Mutex::new(Instant::now()),
        })
    }

    /// Waits until a batch with these numbers of records and bytes may pass.
    pub(crate) async fn pass(&self, records: u64, bytes: u64) {
        sleep_until(self.reserve(records, bytes)).await;
    }

    /// Counts records and bytes for which nothing waits; later batches wait for them. Returns when a batch of them may pass.
    pub(crate) fn reserve(&self, records: u64, bytes: u64) -> Instant {
        let (amount, rate) = match self.rate {
            RateLimit::Records(rate) => (records, rate.get()),
            RateLimit::Bytes(rate) => (bytes, rate.get()),
        };
        let takes = Duration::from_secs_f64(amount as f64 / rate as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = (*next).max(now.checked_sub(CREDIT).unwrap_or(now));
        *next = turn + takes;
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn records(rate: u64) -> RateLimit {
        RateLimit::Records(NonZeroU64::new(rate).unwrap())
    }

    /// The records that pass in each second of `time`, by several workers whose requests take `request`.
    async fn passed(rate: u64, workers: usize, request: Duration, time: Duration) -> Vec<u64> {
        let throttle = Throttle::new(records(rate));
        let size = rate / 20;
        let begin = Instant::now();
        let seconds = Arc::new(Mutex::new(vec![0; time.as_secs() as usize]));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..workers {
            let (throttle, seconds) = (Arc::clone(&throttle), Arc::clone(&seconds));
            tasks.spawn(async move {
                loop {
                    throttle.pass(size, 0).await;
                    let second = begin.elapsed().as_secs() as usize;
                    match seconds.lock().unwrap().get_mut(second) {
                        Some(passed) => *passed += size,
                        None => return,
                    }
                    tokio::time::sleep(request).await;
                }
            });
        }
        tasks.join_all().await;
        Arc::try_unwrap(seconds).unwrap().into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_within_five_percent_over_ten_seconds_and_in_each_second() {
        for (workers, request) in [(1, 1), (1, 40), (4, 120), (16, 3)] {
            let passed = passed(
                1000,
                workers,
                Duration::from_millis(request),
                Duration::from_secs(10),
            )
            .await;
            let all: u64 = passed.iter().sum();
            assert!((9_500..=10_500).contains(&all), "{workers} workers: {passed:?}");
            assert!(
                passed.iter().all(|second| (850..=1_300).contains(second)),
                "{workers} workers: {passed:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for() {
        let throttle = Throttle::new(records(100));
        throttle.pass(1, 0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begin = Instant::now();
        for _ in 0..100 {
            throttle.pass(1, 0).await;
        }
        assert!(
            begin.elapsed() > Duration::from_millis(750),
            "{:?}",
            begin.elapsed()
        );
    }
}
