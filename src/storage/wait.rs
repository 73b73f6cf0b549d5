//! Waiting before something is tried again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};

use crate::model::Error;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Decides how long a storage waits before it repeats a request by itself, and reports it as a run reports its own retries:
/// the number of retries is the run's, each wait is a `retry` event, and a run that is to stop ends it.
///
/// A storage waits by itself only for a part of a call, as for those records of a bulk request that the server was too busy
/// for. For the rest it returns the temporary error, and the run repeats the whole call.
#[async_trait]
pub trait Waiter: Send + Sync {
    /// Waits after the `failed`-th failure in a row, counted from 1. `false` where it is not to be tried again: then the
    /// storage returns the error.
    async fn wait(&self, operation: &str, failed: usize, error: &Error) -> bool;
}

/// How long to wait after the `failed`-th failure in a row: 0.2 s, growing by a factor of two to 20 s, each spread at random
/// so that clients that failed together do not come back together. `None` after the last of `retries`.
pub fn backoff(retries: usize, failed: usize) -> Option<Duration> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_max_times(retries)
        .with_jitter()
        .build();
    waits.nth(failed.checked_sub(1)?)
}

/// Waits without reporting, for who connects outside of a run.
#[derive(Debug)]
pub struct SilentWaiter {
    /// How often something is tried again.
    pub retries: usize,
}

impl SilentWaiter {
    /// One that waits so often at most.
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
