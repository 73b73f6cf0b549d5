//! Fetching documents batch by batch, several batches at a time.
//!
//! A cursor sends its next batch only after a request for it, so one cursor over a distance spends most of its time waiting.
//! The keys of LightRAG end in hashes, which are evenly distributed: from the first batch follows where others of its
//! size end. These parts are requested at the same time, as many as bandwidth × round trip takes, and are
//! returned in the order of their keys. Keys of other forms are read by one cursor.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use futures::StreamExt;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio_util::task::AbortOnDropHandle;

use super::{
    codec::{self, KeyRange},
    source::{Extent, MongoSource, is_cursor_gone, is_last},
};
use crate::{
    model::{Error, Result, Shard, split_hash},
    storage::{
        PageLimit, PageReader,
        window::{Passage, Window, WindowLimit},
    },
};

/// The size of a batch, about. Beside the server larger ones are not faster.
const BATCH_BYTES: usize = 1 << 20;

/// The documents of the first batch: about as many bytes, if they have the usual size.
const FIRST_BATCH: u32 = 128;

/// The fewest documents that are requested at once, however large they are. The server sends at most 16 MiB whatever
/// their number.
const SMALLEST_BATCH: u32 = 16;

/// The most requests at the same time. Each needs a connection.
const MOST_REQUESTS: usize = 8;

/// The documents of a part are requested with so many more, as a share and as a number, since the estimate is one. If all
/// come at once, the server closes the cursor.
const MARGIN: (u32, u32) = (4, 16);

/// The digits of a hash by which places are estimated, and how many values they have.
const DIGITS: usize = 13;
const VALUES: u64 = 1 << (4 * DIGITS);

/// Some documents, in the order of their keys.
pub(super) struct Batch {
    pub(super) documents: RawBatch,
    /// Their share of what may be read ahead.
    _passage: Option<Passage>,
}

/// Requests one batch after another, range by range.
pub(super) struct Batches {
    source: Arc<MongoSource>,
    /// The shard that is read.
    shard: Option<Shard>,
    /// What is left to read, in order: parts that were requested ahead, then the rest.
    parts: VecDeque<Part>,
    /// Reads the first part.
    open: Option<Open>,
    /// The last key read, after which a new cursor continues.
    last: Option<String>,
    /// Where the keys are that are read, if they end in hashes.
    spread: Option<Spread>,
    /// How many documents are requested at once as long as nothing is known of them, and the most that may be.
    batch_size: u32,
    most: u32,
    window: Arc<Window>,
}

/// A range of keys that is read by a cursor of its own.
struct Part {
    range: KeyRange,
    /// What it was requested for; `None` for what was not divided into parts.
    planned: Option<Planned>,
    request: Option<AbortOnDropHandle<Result<Opened>>>,
    /// How many documents were read.
    documents: u32,
}

/// The estimate that a part is made by.
#[derive(Clone, Copy)]
struct Planned {
    /// The number of documents; 0 for the last part, which has any number.
    documents: u32,
    /// How many are requested at once, and how many bytes they have.
    batch_size: u32,
    bytes: usize,
}

/// A cursor that has its first batch; `None` for an empty range.
type Opened = Option<(RawBatchCursor, Passage)>;

/// A part that is being read.
struct Open {
    cursor: RawBatchCursor,
    /// That of the first batch.
    passage: Option<Passage>,
}

/// How keys with the same text before their hashes are distributed.
#[derive(Clone, Debug, PartialEq)]
struct Spread {
    prefix: String,
    /// The place of the last key that was read or requested, and the distance of two keys.
    place: u64,
    distance: f64,
    /// The mean size of a document, in bytes.
    bytes: usize,
}

impl Spread {
    /// The place of a hash among all.
    fn place(hash: &str) -> Option<u64> {
        u64::from_str_radix(hash.get(..DIGITS)?, 16).ok()
    }

    /// From the keys at the end of a batch that begin like its last one, with the sizes of their documents in bytes; `None`
    /// if there are too few of them.
    fn of<'a>(documents: impl Iterator<Item = (&'a str, usize)>) -> Option<Self> {
        let mut run: Option<(&str, u64, u64)> = None;
        let (mut count, mut total) = (0_u32, 0_usize);
        for (key, bytes) in documents {
            let found = split_hash(key).and_then(|(prefix, hash)| Some((prefix, Self::place(hash)?)));
            (run, count, total) = match (run, found) {
                (Some((prefix, first, _)), Some((same, place))) if prefix == same => {
                    (Some((prefix, first, place)), count + 1, total + bytes)
                }
                (_, Some((prefix, place))) => (Some((prefix, place, place)), 1, bytes),
                (_, None) => (None, 0, 0),
            };
        }
        let (prefix, first, last) = run?;
        (count >= SMALLEST_BATCH && last > first).then(|| Self {
            prefix: prefix.to_owned(),
            place: last,
            distance: (last - first) as f64 / f64::from(count - 1),
            bytes: total / count as usize,
        })
    }

    /// The next part.
    fn plan(&self, most: u32) -> Planned {
        let documents = batch_of(self.bytes, most);
        let batch_size = (documents + documents / MARGIN.0 + MARGIN.1).min(most);
        Planned {
            documents,
            batch_size,
            bytes: self.bytes * batch_size as usize,
        }
    }

    /// The key before which the next so many documents are, and whether it is the end of all with this prefix.
    fn next_end(&mut self, documents: u32) -> (String, bool) {
        // Saturates.
        self.place = self
            .place
            .saturating_add((self.distance * f64::from(documents)).ceil() as u64);
        if self.place < VALUES {
            (format!("{}{:0DIGITS$x}", self.prefix, self.place), false)
        } else {
            // The digit after the last one.
            (format!("{}g", self.prefix), true)
        }
    }
}

/// How many documents of this size make a batch.
fn batch_of(bytes: usize, most: u32) -> u32 {
    let documents = u32::try_from(BATCH_BYTES / bytes.max(1)).unwrap_or(u32::MAX);
    documents.max(SMALLEST_BATCH).min(most)
}

impl Batches {
    pub(super) fn new(
        source: Arc<MongoSource>,
        ranges: Vec<KeyRange>,
        shard: Option<Shard>,
        limit: PageLimit,
        last: Option<String>,
    ) -> Self {
        let most = u32::try_from(limit.records.get()).unwrap_or(FIRST_BATCH);
        let rest = |range| Part {
            range,
            planned: None,
            request: None,
            documents: 0,
        };
        Self {
            source,
            shard,
            parts: ranges.into_iter().map(rest).collect(),
            open: None,
            last,
            spread: None,
            batch_size: most.min(FIRST_BATCH),
            most,
            window: Window::for_reading(WindowLimit {
                requests: MOST_REQUESTS,
                bytes: limit.ahead.get(),
            }),
        }
    }

    /// Requests what follows, as far as it can be estimated and the window admits it.
    fn read_ahead(&mut self) {
        loop {
            let first = usize::from(self.open.is_some());
            let is_to_come = |part: &Part| part.planned.is_some() && part.request.is_none();
            let divided = (first..self.parts.len()).find(|at| is_to_come(&self.parts[*at]));
            let planned = match divided {
                Some(at) => self.parts[at].planned,
                None => self.spread.as_ref().map(|spread| spread.plan(self.most)),
            };
            let Some(planned) = planned else { return };
            let Some(passage) = self.window.try_enter(planned.bytes) else {
                return;
            };
            let Some(at) = divided.or_else(|| self.divide(planned)) else {
                return;
            };
            let request = self.request(self.parts[at].range.clone(), Some(planned), passage);
            self.parts[at].request = Some(request);
        }
    }

    /// Makes a part of what was not divided yet, and returns its place; `None` if the estimate does not lead there.
    fn divide(&mut self, mut planned: Planned) -> Option<usize> {
        let (end, is_end) = self.spread.as_mut()?.next_end(planned.documents);
        if is_end {
            planned.documents = 0;
        }
        let at = self.parts.iter().position(|part| part.planned.is_none());
        let divided = at.and_then(|at| Some((at, self.parts[at].range.split(&end)?)));
        if is_end || divided.is_none() {
            self.spread = None;
        }
        let (at, (range, rest)) = divided?;
        if at == 0 {
            // What its cursor has not read yet is requested in parts.
            self.open = None;
        }
        self.parts[at].range = rest;
        let part = Part {
            range,
            planned: Some(planned),
            request: None,
            documents: 0,
        };
        self.parts.insert(at, part);
        Some(at)
    }

    /// Opens a cursor over what is left of a range.
    fn request(
        &self,
        range: KeyRange,
        planned: Option<Planned>,
        mut passage: Passage,
    ) -> AbortOnDropHandle<Result<Opened>> {
        let (extent, batch_size) = match planned {
            Some(planned) => (Extent::Part, planned.batch_size),
            None => (Extent::Most, self.batch_size),
        };
        let (source, shard, last) = (Arc::clone(&self.source), self.shard, self.last.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            passage.send();
            let cursor = source
                .open(&range, last.as_deref(), shard, extent, batch_size)
                .await?;
            passage.answer();
            Ok(cursor.map(|cursor| (cursor, passage)))
        }))
    }

    /// Opens the first part, if there is one.
    async fn open_first(&mut self) -> Result<()> {
        let Some(part) = self.parts.front_mut() else {
            return Ok(());
        };
        let request = match part.request.take() {
            Some(request) => request,
            None => {
                let (range, planned) = (part.range.clone(), part.planned);
                let passage = self.window.enter_anyway(BATCH_BYTES);
                self.request(range, planned, passage)
            }
        };
        let panicked = |error| Err(Error::panicked("reading from MongoDB").caused_by(error));
        match request.await.unwrap_or_else(panicked) {
            Ok(Some((cursor, passage))) => {
                let passage = Some(passage);
                self.open = Some(Open { cursor, passage });
                Ok(())
            }
            // All of it was read before.
            Ok(None) => {
                self.parts.pop_front();
                self.spread = None;
                Ok(())
            }
            Err(error) => {
                // What failed together is one failure, and is requested again together.
                self.parts.iter_mut().for_each(|part| part.request = None);
                Err(error)
            }
        }
    }

    /// Ends the first part. If it had far fewer documents than estimated, the keys are not distributed as hashes are, and
    /// what follows is read by one cursor again until more is known.
    fn close_first(&mut self) {
        self.open = None;
        if let Some(part) = self.parts.pop_front()
            && part
                .planned
                .is_some_and(|planned| part.documents < planned.documents / 2)
        {
            self.spread = None;
        }
    }

    /// Remembers where a batch ends, and estimates what follows. Whether it has any documents.
    fn note(&mut self, batch: &RawBatch) -> Result<bool> {
        let mut found = Vec::new();
        for document in self.source.documents(batch, 0)? {
            let document = document?;
            found.extend(codec::key(document).map(|key| (key, document.as_bytes().len())));
        }
        let mut last = self.last.as_deref();
        for (key, _) in &found {
            // A scan that continues after a key would silently miss documents that are out of order.
            if last.is_some_and(|last| last >= *key) {
                return Err(self.source.out_of_order(key));
            }
            last = Some(key);
        }
        let Some(last) = last.filter(|_| !found.is_empty()).map(str::to_owned) else {
            return Ok(false);
        };
        self.last = Some(last);
        let spread = Spread::of(found.iter().copied());
        let Some(part) = self.parts.front_mut() else {
            return Ok(true);
        };
        let count = found.len();
        part.documents = part
            .documents
            .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if part.planned.is_none() {
            // After the last batch there is nothing left.
            if is_last(batch) {
                self.spread = None;
                return Ok(true);
            }
            self.spread = spread;
            let bytes: usize = found.iter().map(|(_, bytes)| bytes).sum();
            let batch_size = batch_of(bytes / count, self.most);
            if batch_size >= self.batch_size * 2 || batch_size <= self.batch_size / 2 {
                self.batch_size = batch_size;
                self.open = None;
            }
        } else if let (Some(found), Some(spread)) = (spread, &mut self.spread)
            && found.prefix == spread.prefix
        {
            (spread.distance, spread.bytes) = (found.distance, found.bytes);
        }
        Ok(true)
    }
}

#[async_trait]
impl PageReader<Batch> for Batches {
    async fn next_page(&mut self) -> Result<Option<Batch>> {
        // In an order of its own, keys with the same prefix are not together, and the index of keys is of no use for a part.
        if self.spread.is_some() && self.source.facts().await?.has_own_order {
            self.spread = None;
        }
        loop {
            self.read_ahead();
            let Some(open) = &mut self.open else {
                if self.parts.is_empty() {
                    return Ok(None);
                }
                self.open_first().await?;
                continue;
            };
            match open.cursor.next().await {
                Some(Ok(documents)) => {
                    let passage = open.passage.take();
                    let noted = self.note(&documents).inspect_err(|_| self.open = None);
                    if noted? {
                        return Ok(Some(Batch {
                            documents,
                            _passage: passage,
                        }));
                    }
                }
                Some(Err(error)) => {
                    // The keys give the position of the cursor. That the server closed an idle one is no
                    // failure; of any other the reader decides whether to ask again.
                    self.open = None;
                    if !is_cursor_gone(&error) {
                        return Err(self.source.failed("read", error));
                    }
                }
                None => self.close_first(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key whose hash begins so.
    fn key(prefix: &str, place: u64) -> String {
        format!("{prefix}{place:0DIGITS$x}{:019x}", 0)
    }

    fn spread(keys: &[String]) -> Option<Spread> {
        Spread::of(keys.iter().map(|key| (key.as_str(), 1000)))
    }

    #[test]
    fn the_end_of_a_part_follows_from_the_distance_of_the_keys() {
        let keys: Vec<String> = (0..32)
            .map(|n| key("default:extract:", n * VALUES / 128))
            .collect();
        let mut spread = spread(&keys).unwrap();
        let planned = spread.plan(10_000);
        assert_eq!(
            (planned.documents, planned.batch_size, planned.bytes),
            (1048, 1326, 1_326_000)
        );
        assert_eq!(spread.plan(100).batch_size, 100);
        let (end, is_last) = spread.next_end(32);
        // After the 31st of 128 places, and 32 more.
        assert_eq!((end.as_str(), is_last), ("default:extract:7e00000000000", false));
        assert!(!spread.next_end(64).1);
        assert_eq!(spread.next_end(1), ("default:extract:g".to_owned(), true));
    }

    #[test]
    fn only_the_keys_that_begin_like_the_last_one_count() {
        let mut keys: Vec<String> = (0..100).map(|n| key("default:analysis:", n)).collect();
        assert_eq!(spread(&keys).unwrap().distance, 1.0);
        keys.extend((0..u64::from(SMALLEST_BATCH)).map(|n| key("default:extract:", 10 * n)));
        let found = spread(&keys).unwrap();
        assert_eq!(
            (found.prefix.as_str(), found.distance),
            ("default:extract:", 10.0)
        );
        keys.truncate(keys.len() - 1);
        assert_eq!(spread(&keys), None);
    }

    #[test]
    fn nothing_is_estimated_from_keys_without_hashes_or_with_equal_ones() {
        let same: Vec<String> = (0..100).map(|n| format!("default:extract:{n:032x}")).collect();
        assert_eq!(spread(&same), None);
        let others: Vec<String> = (0..100).map(|n| format!("note {n:03}")).collect();
        assert_eq!(spread(&others), None);
        assert_eq!(spread(&[]), None);
    }
}
