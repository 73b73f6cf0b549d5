//! Delays before retries.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};

use crate::model::Error;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Waits before a storage repeats a request itself, with the rules of the run: the number of retries is the same, each delay
/// is a `retry` event, and a run that stops ends it.
///
/// A storage waits itself only for a part of a call, such as the records of a bulk request that the server was too busy to
/// write. Otherwise it returns the temporary error, and the run repeats the whole call.
#[async_trait]
pub trait Waiter: Send + Sync {
    /// Waits after the `failed`-th consecutive failure, counted from 1. Returns false if there must be no retry: then the
    /// storage returns the error.
    async fn wait(&self, operation: &str, failed: usize, error: &Error) -> bool;

    /// Waits until the run stops, for a call that must undo a part of its work then.
    async fn stopped(&self) {
        std::future::pending().await
    }
}

/// The delay after the `failed`-th consecutive failure: 0.2 s, doubling up to 20 s, with random jitter so that clients that
/// failed together do not retry together. `None` after the last of `retries`.
pub fn backoff(retries: usize, failed: usize) -> Option<Duration> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_max_times(retries)
        .with_jitter()
        .build();
    waits.nth(failed.checked_sub(1)?)
}

/// Waits without events, for connections outside of a run.
#[derive(Debug)]
pub struct SilentWaiter {
    /// The most retries.
    pub retries: usize,
}

impl SilentWaiter {
    /// A waiter with this number of retries.
    pub fn shared(retries: usize) -> Arc<dyn Waiter> {
        Arc::new(Self { retries })
    }
}

#[async_trait]
impl Waiter for SilentWaiter {
    async fn wait(&self, _: &str, failed: usize, _: &Error) -> bool {
        match backoff(self.retries, failed) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let waits: Vec<Duration> = (1..).map_while(|failed| backoff(9, failed)).collect();
        assert_eq!(waits.len(), 9);
        assert!(waits[0] >= FIRST_WAIT && waits[0] <= 2 * FIRST_WAIT, "{waits:?}");
        assert!(
            waits[8] >= LONGEST_WAIT && waits[8] <= 2 * LONGEST_WAIT,
            "{waits:?}"
        );
        assert_eq!(backoff(0, 1), None);
    }
}
