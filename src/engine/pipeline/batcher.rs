//! Forming batches from pages.

use std::collections::HashSet;

use crate::{
    model::{BatchLimit, record::KeyDigest},
    storage::{Cursor, Entry, Page},
};

/// The entries that are written in one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of the batch in its workspace, from 1.
    pub(super) number: u64,
    /// Records and invalid entries, no two with the same key.
    pub(super) entries: Vec<Entry>,
    /// The bytes of the entries.
    pub(super) bytes: usize,
    /// The keys of the entries.
    pub(super) keys: HashSet<KeyDigest>,
    /// Entries that the source read since the last batch and that are not selected.
    pub(super) filtered: u64,
    /// The end of the last page that ends in this batch.
    pub(super) page_end: Option<PageEnd>,
}

/// The end of a page in a batch, from which a later run can resume.
#[derive(Debug)]
pub(super) struct PageEnd {
    /// The cursor after the page.
    pub(super) cursor: Cursor,
    /// The number of entries of the batch up to the end of the page.
    pub(super) entries: usize,
}

/// Fills batches from pages. The two have separate limits: the size of pages suits reading, that of batches writing.
#[derive(Debug)]
pub(super) struct Batcher {
    limit: BatchLimit,
    batch: Batch,
    number: u64,
}

impl Batcher {
    /// A batcher that numbers its batches from `number + 1`.
    pub(super) fn new(limit: BatchLimit, number: u64) -> Self {
        Self {
            limit,
            batch: Batch::default(),
            number,
        }
    }

    /// Adds a page and returns the batches that are full.
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
        // The end of a page without selected entries.
        self.end_page(cursor);
        full
    }

    fn end_page(&mut self, cursor: Option<Cursor>) {
        let entries = self.batch.entries.len();
        if let Some(cursor) = cursor {
            self.batch.page_end = Some(PageEnd { cursor, entries });
        }
    }

    /// The last batch, if anything was read since the one before.
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
    fn batches_span_pages_and_contain_every_entry() {
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
    fn a_repeated_key_starts_a_new_batch() {
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
    fn a_page_ends_in_the_batch_of_its_last_entry() {
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
    fn a_batch_is_also_full_by_bytes() {
        let mut batcher = batcher(1000, 40);
        assert_eq!(batcher.add(page(0..5)).len(), 1);
    }

    #[test]
    fn a_batch_without_entries_still_counts_filtered_ones() {
        let mut batcher = batcher(3, 1000);
        assert!(batcher.add(page(0..0)).is_empty());
        assert_eq!(batcher.rest().unwrap().filtered, 1);
        assert!(batcher.rest().is_none());
    }
}
