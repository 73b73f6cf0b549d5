//! Fetching documents batch by batch, several batches at a time.
//!
//! A cursor sends its next batch only after a request for it, so one cursor over a distance spends most of its time waiting.
//! The keys of LightRAG end in hashes, which are evenly distributed: from the number of keys, or from the first batch, follows
//! where parts of a batch's size end. These are requested at the same time, as many as bandwidth × round trip takes, and are
//! returned in the order of their keys. Keys of other forms are read by one cursor.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

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

/// The size of a document, in bytes, as long as none is known: more than usual, so that the first parts are not too large.
const FIRST_BYTES: usize = 2 * BATCH_BYTES / FIRST_BATCH as usize;

/// Parts are made of this many counted keys or more. One cursor reads fewer with two batches.
const FEWEST_COUNTED: u64 = 2 * FIRST_BATCH as u64;

/// The fewest documents that are requested at once, however large they are. The server sends at most 16 MiB whatever
/// their number.
const SMALLEST_BATCH: u32 = 16;

/// The most requests at the same time. Each needs a connection.
pub(super) const MOST_REQUESTS: usize = 8;

/// The documents of a part are requested with so many more, as a share and as a number, since the estimate is one. If all
/// come at once, the server closes the cursor.
const MARGIN: (u32, u32) = (4, 16);

/// A part that still has documents after so many batches is divided like what is not known.
const MOST_BATCHES: u32 = 2;

/// How far the estimated distance of two keys follows that of a batch, which is off by its statistical error.
const CORRECTION: f64 = 0.125;

/// The digits of a hash by which places are estimated, and how many values they have.
const DIGITS: usize = 13;
const VALUES: u64 = 1 << (4 * DIGITS);

/// Some documents, in the order of their keys.
pub(super) struct Batch {
    pub(super) documents: RawBatch,
    /// Their share of what may be read ahead.
    _passage: Option<Passage>,
}

/// What is to be read of a collection.
pub(super) struct ToRead {
    /// In order.
    pub(super) ranges: Vec<KeyRange>,
    /// How many keys have a prefix, as far as that is known.
    pub(super) counted: BTreeMap<String, u64>,
    pub(super) shard: Option<Shard>,
    /// The key after which reading begins.
    pub(super) last: Option<String>,
}

/// Requests one batch after another, range by range.
pub(super) struct Batches {
    source: Arc<MongoSource>,
    /// The shard that is read.
    shard: Option<Shard>,
    /// What is left to read, in order.
    parts: VecDeque<Part>,
    /// How much of the collection is outside of what is known.
    others: Extent,
    /// Reads the first part.
    open: Option<Open>,
    /// The last key read, after which a new cursor continues.
    last: Option<String>,
    /// How many documents are requested at once as long as nothing is known of them, and the most that may be.
    batch_size: u32,
    most: u32,
    window: Arc<Window>,
}

/// A range of keys that is read by a cursor of its own.
struct Part {
    range: KeyRange,
    /// What it was made for; `None` for what was not divided.
    planned: Option<Planned>,
    /// Where the keys are of what was not divided, if that is known and they end in hashes: one prefix after another.
    spreads: VecDeque<Spread>,
    /// How much of the collection it is.
    extent: Extent,
    request: Option<AbortOnDropHandle<Result<Opened>>>,
    /// How many documents were read.
    documents: u32,
}

impl Part {
    /// What is not divided yet.
    fn whole(range: KeyRange, spreads: VecDeque<Spread>, extent: Extent) -> Self {
        Self {
            range,
            planned: None,
            spreads,
            extent,
            request: None,
            documents: 0,
        }
    }
}

/// The estimate that a part is made by.
#[derive(Clone, Copy)]
struct Planned {
    /// The number of documents; 0 for the last part, which has any number.
    documents: u32,
    /// Its size in bytes.
    bytes: usize,
    /// How many documents are requested at once.
    batch_size: u32,
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

    /// From the number of keys with a prefix, of which those up to `last` were read; `None` if there are too few of them.
    fn of_counted(prefix: &str, keys: u64, last: Option<&str>) -> Option<Self> {
        let read = last.filter(|last| *last >= prefix);
        let place = match read.map(|last| last.strip_prefix(prefix).and_then(Self::place)) {
            None => 0,
            // Reading begins within these keys, or after them.
            Some(found) => found?,
        };
        (keys >= FEWEST_COUNTED).then(|| Self {
            prefix: prefix.to_owned(),
            place,
            distance: VALUES as f64 / keys as f64,
            bytes: FIRST_BYTES,
        })
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
            bytes: self.bytes * documents as usize,
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
    pub(super) fn new(source: Arc<MongoSource>, to_read: ToRead, limit: PageLimit) -> Self {
        let most = u32::try_from(limit.records.get()).unwrap_or(FIRST_BATCH);
        let (parts, others) = parts_of(&to_read);
        let ToRead { shard, last, .. } = to_read;
        Self {
            source,
            shard,
            parts,
            others,
            open: None,
            last,
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
        let mut at = 0;
        while let Some(part) = self.parts.get(at) {
            let is_open = at == 0 && self.open.is_some();
            let bytes = match (&part.planned, part.spreads.front()) {
                _ if part.request.is_some() => None,
                (_, Some(spread)) => Some(spread.plan(self.most).bytes),
                _ if is_open => None,
                (Some(planned), _) => Some(planned.bytes),
                // One of unknown size is opened when it is its turn.
                _ => (part.extent == Extent::Part).then_some(BATCH_BYTES),
            };
            let Some(bytes) = bytes else {
                at += 1;
                continue;
            };
            let Some(passage) = self.window.try_enter(bytes) else {
                return;
            };
            if !self.parts[at].spreads.is_empty() && !self.divide(at) {
                continue;
            }
            let request = self.request(&self.parts[at], passage);
            self.parts[at].request = Some(request);
        }
    }

    /// Makes a part of the beginning of what was not divided yet, and inserts it there; `false` if the estimate does not lead
    /// there.
    fn divide(&mut self, at: usize) -> bool {
        let rest = &mut self.parts[at];
        let Some(spread) = rest.spreads.front_mut() else {
            return false;
        };
        let mut planned = spread.plan(self.most);
        let (end, is_end) = spread.next_end(planned.documents);
        let divided = rest.range.split(&end);
        if is_end || divided.is_none() {
            rest.spreads.pop_front();
        }
        let Some((range, others)) = divided else {
            return false;
        };
        if is_end {
            planned.documents = 0;
            if rest.spreads.is_empty() {
                rest.extent = self.others;
            }
        }
        if at == 0 {
            // What its cursor has not read yet is requested in parts.
            self.open = None;
        }
        rest.range = others;
        let part = Part {
            planned: Some(planned),
            ..Part::whole(range, VecDeque::new(), Extent::Part)
        };
        self.parts.insert(at, part);
        true
    }

    /// Opens a cursor over what is left of a part.
    fn request(&self, part: &Part, mut passage: Passage) -> AbortOnDropHandle<Result<Opened>> {
        let batch_size = part.planned.map_or(self.batch_size, |planned| planned.batch_size);
        let (range, extent) = (part.range.clone(), part.extent);
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
        let requested = match self.parts.front_mut() {
            Some(part) => part.request.take(),
            None => return Ok(()),
        };
        let request = requested.unwrap_or_else(|| {
            let passage = self.window.enter_anyway(BATCH_BYTES);
            self.request(&self.parts[0], passage)
        });
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
                Ok(())
            }
            Err(error) => {
                // What failed together is one failure, and is requested again together.
                self.parts.iter_mut().for_each(|part| part.request = None);
                Err(error)
            }
        }
    }

    /// What is not divided yet and has the prefix of this part.
    fn rest_of<'a>(parts: &'a mut VecDeque<Part>, part: &KeyRange) -> Option<&'a mut Part> {
        let rest = parts.iter_mut().find(|part| part.planned.is_none())?;
        let has_prefix = |spread: &Spread| part.ends_within(&spread.prefix);
        rest.spreads.front().is_some_and(has_prefix).then_some(rest)
    }

    /// Ends the first part. If it had far fewer documents than estimated, the keys are not distributed as hashes are, and
    /// what follows is read by one cursor again until more is known.
    fn close_first(&mut self) {
        self.open = None;
        if let Some(part) = self.parts.pop_front()
            && part
                .planned
                .is_some_and(|planned| part.documents < planned.documents / 2)
            && let Some(rest) = Self::rest_of(&mut self.parts, &part.range)
        {
            rest.spreads.pop_front();
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
        self.estimate(&found, is_last(batch));
        Ok(true)
    }

    /// Estimates what follows from the keys of a batch of the first part and the sizes of their documents in bytes.
    fn estimate(&mut self, found: &[(&str, usize)], is_last: bool) {
        let mut parts = self.parts.iter_mut();
        let Some(part) = parts.next() else { return };
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        part.documents = part.documents.saturating_add(count);
        let spread = Spread::of(found.iter().copied());
        if let Some(planned) = part.planned {
            if is_last || part.documents < planned.batch_size * MOST_BATCHES {
                let range = part.range.clone();
                if let Some(found) = spread {
                    self.correct(&range, &found);
                }
                return;
            }
            // There are other keys before those that it was made for. They are divided first; requests for later parts could
            // fill the window.
            part.planned = None;
            self.open = None;
            parts.for_each(|part| part.request = None);
        }
        // After the last batch there is nothing left.
        part.spreads = spread.filter(|_| !is_last).into_iter().collect();
        let bytes: usize = found.iter().map(|(_, bytes)| bytes).sum();
        let batch_size = batch_of(bytes / found.len().max(1), self.most);
        if !is_last && (batch_size >= self.batch_size * 2 || batch_size <= self.batch_size / 2) {
            self.batch_size = batch_size;
            self.open = None;
        }
    }

    /// Corrects the estimate by what was found in a part.
    fn correct(&mut self, part: &KeyRange, found: &Spread) {
        if let Some(rest) = Self::rest_of(&mut self.parts, part)
            && let Some(known) = rest.spreads.front_mut()
            && found.prefix == known.prefix
        {
            known.distance += (found.distance - known.distance) * CORRECTION;
            known.bytes = found.bytes;
        }
    }
}

/// What is to be read, and how much of the collection is outside of what was counted. Where many keys with a prefix were counted,
/// they can be divided before anything is read. What precedes them is little, and read with the first part of them.
fn parts_of(to_read: &ToRead) -> (VecDeque<Part>, Extent) {
    let spreads: Vec<Spread> = to_read
        .counted
        .iter()
        .filter_map(|(prefix, keys)| Spread::of_counted(prefix, *keys, to_read.last.as_deref()))
        .collect();
    let others = match spreads.is_empty() {
        true => Extent::Most,
        false => Extent::Part,
    };
    let part = |range: &KeyRange| {
        let within = spreads.iter().filter(|spread| range.contains_key(&spread.prefix));
        let within: VecDeque<Spread> = within.cloned().collect();
        let extent = if within.is_empty() { others } else { Extent::Most };
        Part::whole(range.clone(), within, extent)
    };
    (to_read.ranges.iter().map(part).collect(), others)
}

#[async_trait]
impl PageReader<Batch> for Batches {
    async fn next_page(&mut self) -> Result<Option<Batch>> {
        // In an order of its own, keys with the same prefix are not together, and the index of keys is of no use for a part.
        let is_to_divide = self.parts.iter().any(|part| !part.spreads.is_empty());
        if is_to_divide && self.source.facts().await?.has_own_order {
            self.parts.iter_mut().for_each(|part| part.spreads.clear());
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
            (1048, 1326, 1_048_000)
        );
        assert_eq!(spread.plan(100).batch_size, 100);
        let (end, is_last) = spread.next_end(32);
        // After the 31st of 128 places, and 32 more.
        assert_eq!((end.as_str(), is_last), ("default:extract:7e00000000000", false));
        assert!(!spread.next_end(64).1);
        assert_eq!(spread.next_end(1), ("default:extract:g".to_owned(), true));
    }

    /// The prefixes by which each of the ranges to read can be divided, and how much of the collection each is.
    fn parts(names: &str, counted: &[(&str, u64)]) -> Vec<(Vec<String>, Extent)> {
        let to_read = ToRead {
            ranges: codec::ranges(&crate::model::Selection::parse(names.split(',')).unwrap()),
            counted: counted
                .iter()
                .map(|(prefix, keys)| ((*prefix).to_owned(), *keys))
                .collect(),
            shard: None,
            last: None,
        };
        let prefixes = |part: Part| part.spreads.into_iter().map(|spread| spread.prefix).collect();
        let (parts, _) = parts_of(&to_read);
        let parts = parts.into_iter();
        parts
            .map(|part| {
                let extent = part.extent;
                (prefixes(part), extent)
            })
            .collect()
    }

    #[test]
    fn what_was_counted_is_divided_before_anything_is_read() {
        let (many, few) = (FEWEST_COUNTED, FEWEST_COUNTED - 1);
        let (extract, summary) = ("default:extract:", "default:summary:");
        let divided = |prefixes: &[&str]| (prefixes.iter().map(ToString::to_string).collect(), Extent::Most);
        let both = [(extract, many), (summary, many)];
        assert_eq!(parts("default", &both), [divided(&[extract, summary])]);
        assert_eq!(
            parts("extract,summary", &both),
            [divided(&[extract]), divided(&[summary])]
        );
        let one = [(extract, many), (summary, few)];
        assert_eq!(parts("default", &one), [divided(&[extract])]);
        let little = (Vec::new(), Extent::Part);
        assert_eq!(parts("extract,summary", &one), [divided(&[extract]), little]);
        // Nothing is known.
        assert_eq!(parts("extract", &[(extract, few)]), [divided(&[])]);
    }

    #[test]
    fn counted_keys_are_read_from_where_reading_begins() {
        let of = |last| Spread::of_counted("default:extract:", 1024, last);
        let place = |last| of(last).map(|spread| spread.place);
        assert_eq!(of(None).unwrap().distance, VALUES as f64 / 1024.0);
        assert_eq!(place(Some("default:analysis:ff")), Some(0));
        let within = key("default:extract:", VALUES / 4);
        assert_eq!(place(Some(&within)), Some(VALUES / 4));
        // Not a hash; after all of them.
        assert_eq!(place(Some("default:extract:note")), None);
        assert_eq!(place(Some("default:summary:00")), None);
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
