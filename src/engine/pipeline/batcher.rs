//! Cutting pages into batches.

use std::collections::HashSet;

use crate::{
    model::{BatchLimit, record::KeyDigest},
    storage::{Cursor, Entry, Page},
};

/// What is written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// From 1, in its workspace.
    pub(super) number: u64,
    /// Records, and entries that are none; no key stands twice among them.
    pub(super) entries: Vec<Entry>,
    /// The bytes of the entries.
    pub(super) bytes: usize,
    /// The keys of the entries.
    pub(super) keys: HashSet<KeyDigest>,
    /// Entries that the source read before these, since the last batch, and that are not selected.
    pub(super) filtered: u64,
    /// The last end of a page in this batch.
    pub(super) page_end: Option<PageEnd>,
}

/// The end of a page inside of a batch: a place from which a later run can go on.
#[derive(Debug)]
pub(super) struct PageEnd {
    /// Where the source goes on behind the page.
    pub(super) cursor: Cursor,
    /// How many of the batch's entries belong to pages up to this one.
    pub(super) entries: usize,
}

/// Fills batches from pages, anew by records and bytes: pages are cut where reading is fastest, batches where writing
/// is.
#[derive(Debug)]
pub(super) struct Batcher {
    limit: BatchLimit,
    batch: Batch,
    number: u64,
}

impl Batcher {
    /// A batcher whose first batch comes after the one of this number.
    pub(super) fn new(limit: BatchLimit, number: u64) -> Self {
        Self {
            limit,
            batch: Batch::default(),
            number,
        }
    }

    /// Takes a page, and gives the batches that it filled.
    pub(super) fn add(&mut self, page: Page) -> Vec<Batch> {
        let mut full = Vec::new();
        self.batch.filtered += page.filtered;
        let last = page.entries.len().saturating_sub(1);
        let mut cursor = page.cursor;
        for (at, entry) in page.entries.into_iter().enumerate() {
            let key = KeyDigest::of(entry.key().as_str());
            if self.batch.keys.contains(&key) {
                full.push(self.take());
            }
            self.batch.keys.insert(key);
            self.batch.bytes += entry.size();
            self.batch.entries.push(entry);
            let is_full = self.batch.entries.len() >= self.limit.records.get()
                || self.batch.bytes >= self.limit.bytes.get();
            if at == last {
                self.end_page(cursor.take());
            }
            if is_full {
                full.push(self.take());
            }
        }
        // A page that held nothing selected ends here.
        self.end_page(cursor);
        full
    }

    fn end_page(&mut self, cursor: Option<Cursor>) {
        let entries = self.batch.entries.len();
        if let Some(cursor) = cursor {
            self.batch.page_end = Some(PageEnd { cursor, entries });
        }
    }

    /// What is left when the source has ended, if anything was read since the last batch.
    pub(super) fn rest(&mut self) -> Option<Batch> {
        let batch = &self.batch;
        let empty = batch.entries.is_empty() && batch.filtered == 0;
        (!empty).then(|| self.take())
    }

    fn take(&mut self) -> Batch {
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
    use crate::model::record::{CacheKey, Record};

    fn page(range: std::ops::Range<u32>) -> Page {
        let entries = range.clone().map(|n| {
            let key = CacheKey::new(format!("default:extract:{n}"));
            Record::new(key, Bytes::from_static(b"{}")).into()
        });
        Page {
            entries: entries.collect(),
            filtered: 1,
            cursor: Some(Cursor(range.end.to_string())),
        }
    }

    fn batcher(records: usize, bytes: usize) -> Batcher {
        let limit = BatchLimit {
            records: NonZeroUsize::new(records).unwrap(),
            bytes: NonZeroUsize::new(bytes).unwrap(),
        };
        Batcher::new(limit, 0)
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
        assert_eq!(batches.iter().map(|batch| batch.filtered).sum::<u64>(), 2);
    }

    #[test]
    fn a_key_that_comes_again_begins_a_batch() {
        let mut batcher = batcher(10, 1000);
        let mut batches = batcher.add(page(0..3));
        batches.extend(batcher.add(page(2..4)));
        batches.extend(batcher.rest());
        let sizes: Vec<_> = batches.iter().map(|batch| batch.entries.len()).collect();
        assert_eq!(sizes, [3, 2]);
        assert_eq!(batches[0].page_end.as_ref().map(|end| end.entries), Some(3));
        assert!(
            batches
                .iter()
                .all(|batch| batch.keys.len() == batch.entries.len())
        );
    }

    #[test]
    fn a_page_ends_behind_its_last_entry_in_whatever_batch_that_is() {
        let mut batcher = batcher(3, 1000);
        let mut batches = batcher.add(page(0..2));
        batches.extend(batcher.add(page(2..7)));
        batches.extend(batcher.add(page(7..9)));
        batches.extend(batcher.add(page(9..9)));
        batches.extend(batcher.rest());
        let ends: Vec<_> = batches
            .iter()
            .map(|batch| {
                batch
                    .page_end
                    .as_ref()
                    .map(|end| (end.cursor.0.as_str(), end.entries))
            })
            .collect();
        assert_eq!(ends, [Some(("2", 2)), None, Some(("9", 3)), Some(("9", 0))]);
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
        assert_eq!(batcher.rest().unwrap().filtered, 1);
        assert!(batcher.rest().is_none());
    }
}
