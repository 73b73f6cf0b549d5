//! Prevents two batches with the same key from being written at the same time. A record that changes while the source is
//! read may be read twice, and its later value must be written last.

use std::collections::{HashSet, VecDeque};

use tokio::sync::watch;

use crate::model::record::KeyDigest;

/// The batches that are being written.
#[derive(Debug, Default)]
pub(super) struct KeyGate {
    under_way: VecDeque<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    keys: HashSet<KeyDigest>,
    /// Closed when the batch was written.
    written: watch::Receiver<()>,
}

/// The turn of a batch. Dropping it marks the batch as written.
#[derive(Debug)]
pub(super) struct Turn {
    before: Vec<watch::Receiver<()>>,
    _written: watch::Sender<()>,
}

impl KeyGate {
    /// Registers the keys of the next batch.
    pub(super) fn next(&mut self, keys: HashSet<KeyDigest>) -> Turn {
        self.under_way.retain(|batch| batch.written.has_changed().is_ok());
        let shares_a_key = |batch: &&UnderWay| !batch.keys.is_disjoint(&keys);
        let before = self.under_way.iter().filter(shares_a_key);
        let before = before.map(|batch| batch.written.clone()).collect();
        let (sender, written) = watch::channel(());
        self.under_way.push_back(UnderWay { keys, written });
        Turn {
            before,
            _written: sender,
        }
    }
}

impl Turn {
    /// Waits until every earlier batch that shares a key has been written.
    pub(super) async fn acquire(&mut self) {
        for mut written in self.before.drain(..) {
            // Nothing is ever sent: the wait ends with an error when the sender is dropped.
            let _ = written.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn keys(keys: &[&str]) -> HashSet<KeyDigest> {
        keys.iter().map(|key| KeyDigest::of(key)).collect()
    }

    #[tokio::test]
    async fn a_batch_waits_only_for_batches_that_share_a_key() {
        let mut order = KeyGate::default();
        let first = order.next(keys(&["a", "b"]));
        let mut second = order.next(keys(&["c"]));
        let mut third = order.next(keys(&["d", "b"]));
        assert!(second.acquire().now_or_never().is_some());
        let mut waiting = std::pin::pin!(third.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn written_batches_are_forgotten() {
        let mut order = KeyGate::default();
        for _ in 0..10 {
            drop(order.next(keys(&["a"])));
        }
        let mut last = order.next(keys(&["a"]));
        assert!(last.acquire().now_or_never().is_some());
        assert_eq!(order.under_way.len(), 1);
    }
}
