//! Cutting pages into batches.

use crate::{
    config::BatchLimit,
    storage::{Cursor, Entry, Page},
};

/// What is written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// From 1.
    pub(super) number: u64,
    /// Records, and entries that are none.
    pub(super) entries: Vec<Entry>,
    /// Entries that the source read before these, since the last batch, and that are not selected.
    pub(super) passed_over: u64,
    /// Where the source goes on behind the last page that is wholly in this batch or in one before.
    pub(super) cursor: Option<Cursor>,
}

/// Fills batches from pages, anew by records and bytes: pages are cut where reading is fastest, batches where writing
/// is.
#[derive(Debug)]
pub(super) struct Batcher {
    limit: BatchLimit,
    batch: Batch,
    bytes: usize,
    number: u64,
}

impl Batcher {
    pub(super) fn new(limit: BatchLimit) -> Self {
        Self {
            limit,
            batch: Batch::default(),
            bytes: 0,
            number: 0,
        }
    }

    /// Takes a page, and gives the batches that it filled.
    pub(super) fn add(&mut self, page: Page) -> Vec<Batch> {
        let mut full = Vec::new();
        self.batch.passed_over += page.passed_over;
        for entry in page.entries {
            self.bytes += entry.size();
            self.batch.entries.push(entry);
            if self.batch.entries.len() >= self.limit.records.get() || self.bytes >= self.limit.bytes.get() {
                full.push(self.take());
            }
        }
        // Only a batch that ends with the page, or the next one, may go on behind it.
        match full.last_mut() {
            Some(last) if self.batch.entries.is_empty() => last.cursor = page.cursor,
            _ => self.batch.cursor = page.cursor,
        }
        full
    }

    /// What is left when the source has ended, if anything was read since the last batch.
    pub(super) fn rest(&mut self) -> Option<Batch> {
        let empty = self.batch.entries.is_empty() && self.batch.passed_over == 0;
        (!empty).then(|| self.take())
    }

    fn take(&mut self) -> Batch {
        self.bytes = 0;
        self.number += 1;
        Batch {
            number: self.number,
            ..std::mem::take(&mut self.batch)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use bytes::Bytes;

    use super::*;
    use crate::record::{CacheKey, Record};

    fn page(range: std::ops::Range<u32>) -> Page {
        let entries = range.clone().map(|n| {
            let key = CacheKey::new(format!("default:extract:{n}"));
            Record::new(key, Bytes::from_static(b"{}")).into()
        });
        Page {
            entries: entries.collect(),
            passed_over: 1,
            cursor: Some(Cursor(range.end.to_string())),
        }
    }

    fn batcher(records: usize, bytes: usize) -> Batcher {
        Batcher::new(BatchLimit {
            records: NonZeroUsize::new(records).unwrap(),
            bytes: NonZeroUsize::new(bytes).unwrap(),
        })
    }

    #[test]
    fn batches_are_cut_across_pages_and_lose_nothing() {
        let mut batcher = batcher(3, 1000);
        let mut batches = batcher.add(page(0..2));
        batches.extend(batcher.add(page(2..7)));
        batches.extend(batcher.rest());
        let sizes: Vec<_> = batches
            .iter()
            .map(|batch| (batch.number, batch.entries.len()))
            .collect();
        assert_eq!(sizes, [(1, 3), (2, 3), (3, 1)]);
        assert_eq!(batches.iter().map(|batch| batch.passed_over).sum::<u64>(), 2);
    }

    #[test]
    fn bytes_end_a_batch_too() {
        let mut batcher = batcher(1000, 40);
        assert_eq!(batcher.add(page(0..5)).len(), 1);
    }

    #[test]
    fn what_was_only_passed_over_is_still_accounted_for() {
        let mut batcher = batcher(3, 1000);
        assert!(batcher.add(page(0..0)).is_empty());
        assert_eq!(batcher.rest().unwrap().passed_over, 1);
        assert!(batcher.rest().is_none());
    }
}
