//! Reading a collection in the order of its keys.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use futures::StreamExt;
use mongodb::{
    Collection,
    bson::{RawDocument, RawDocumentBuf, doc, serialize_to_bson},
    error::{Error as DriverError, ErrorKind as DriverErrorKind},
    options::Hint,
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};

use super::{
    codec::{self, KeyRange},
    server::{Server, by_bytes, integer},
};
use crate::{
    model::{CacheType, Error, ErrorKind, Result, Selection, record::CacheKey},
    storage::{
        Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageStream, Progress, Source,
        prefetch::{Prefetch, Step},
    },
};

/// The most documents that the server sends at once: most of a megabyte of those of the usual size. More is not faster.
const AT_ONCE: u32 = 128;

/// The fewest documents that are asked for at once, however large they are. The server sends at most 16 MiB whatever
/// their number.
const AT_LEAST: u32 = 16;

/// Bytes of a batch from which on fewer documents are asked for: one is being read, one waits, and the driver holds the
/// next one twice while it comes.
const TOO_LARGE: usize = 4 << 20;

/// The most bytes of keys in one question; the command must stay below the limit for a document.
const ASKED_BYTES: usize = 4 << 20;

/// A page that only passes entries over ends here too, so that whoever waits for it sees that something happens.
const PASSED_OVER: u64 = 10_000;

/// How often a count says how far it is.
const PROGRESS_EVERY: u64 = 1000;

/// The collection of a workspace, to read.
pub(super) struct MongoSource {
    server: Arc<Server>,
    collection: Collection<RawDocumentBuf>,
    /// Whether it was said that values were found that JSON does not know.
    told_of_foreign: AtomicBool,
}

impl MongoSource {
    pub(super) fn new(server: Arc<Server>, collection: Collection<RawDocumentBuf>) -> Self {
        Self {
            server,
            collection,
            told_of_foreign: AtomicBool::new(false),
        }
    }

    pub(super) fn failed(&self, action: &str, error: DriverError) -> Error {
        let action = format!("{action} the collection {} of", self.collection.name());
        self.server.failed(&action, error)
    }

    fn entry(&self, key: &str, document: &RawDocument) -> Entry {
        let decoded = codec::decode(key, document);
        if decoded.foreign && !self.told_of_foreign.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} holds values that JSON has no form for, such as dates or binary data (the first in {key}); they are \
                 carried as MongoDB's extended JSON",
                self.collection.namespace()
            );
        }
        decoded.entry
    }

    /// A cursor over a range, behind a key where one is given; `None` where nothing can be there.
    async fn open(
        &self,
        range: &KeyRange,
        after: Option<&str>,
        at_once: u32,
    ) -> Result<Option<RawBatchCursor>> {
        let Some(filter) = range.filter(after) else {
            return Ok(None);
        };
        self.collection
            .find(filter)
            .sort(doc! { "_id": 1 })
            .hint(by_key())
            .collation(by_bytes())
            .batch_size(at_once)
            .batch()
            .await
            .map(Some)
            .map_err(|error| self.failed("read", error))
    }

    /// An answer of the server that holds no documents where documents should be.
    fn unreadable(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let message = format!(
            "an answer about the collection {} cannot be read",
            self.collection.namespace()
        );
        Error::new(ErrorKind::Server, message).caused_by(error)
    }

    /// The documents of a batch, from a place in it on.
    fn documents<'a>(
        &self,
        batch: &'a RawBatch,
        from: usize,
    ) -> Result<impl Iterator<Item = Result<&'a RawDocument>>> {
        let items = batch.doc_slices().map_err(|error| self.unreadable(error))?;
        Ok(items.into_iter().skip(from).map(|item| {
            let item = item.map_err(|error| self.unreadable(error))?;
            item.as_document()
                .ok_or_else(|| self.unreadable("it holds something else than a document"))
        }))
    }

    /// Counts the keys of one prefix. The command `count` looks at nothing but keys, where an aggregation would read
    /// every document; with a condition it counts what is there, and no estimate (MongoDB, SERVER-3645).
    async fn count_prefix(&self, cache_type: CacheType) -> Result<u64> {
        let prefix = KeyRange::prefix(&format!("default:{cache_type}:"));
        let mut command = doc! {
            "count": self.collection.name(),
            "query": prefix.filter(None).unwrap_or_default(),
            "collation": { "locale": "simple" },
        };
        // Extractions are nearly all of a cache, and are counted along the index; the few others are looked up in it.
        if cache_type == CacheType::Extract {
            command.insert("hint", doc! { "_id": 1 });
        }
        if let Some(concern) = self.collection.read_concern() {
            let concern = serialize_to_bson(concern).map_err(|error| self.failed("count", error.into()))?;
            command.insert("readConcern", concern);
        }
        let database = self.server.database();
        let mut count = database.run_command(command);
        if let Some(criteria) = self.collection.selection_criteria() {
            count = count.selection_criteria(criteria.clone());
        }
        let answer = count.await.map_err(|error| self.failed("count", error))?;
        integer(answer.get("n"))
            .and_then(|records| u64::try_from(records).ok())
            .ok_or_else(|| self.unreadable("it holds no number"))
    }

    /// Counts keys that may have any beginning, by looking at each.
    async fn count_keys(
        &self,
        selection: &Selection,
        progress: Progress<'_>,
        count: &mut Count,
    ) -> Result<()> {
        let mut looked_at = 0;
        for range in codec::ranges(selection) {
            let filter = range.filter(None).unwrap_or_default();
            let mut keys = self
                .collection
                .find(filter)
                .projection(doc! { "_id": 1 })
                .sort(doc! { "_id": 1 })
                .hint(by_key())
                .collation(by_bytes())
                .await
                .map_err(|error| self.failed("count", error))?;
            while keys
                .advance()
                .await
                .map_err(|error| self.failed("count", error))?
            {
                if let Some(cache_type) = codec::key(keys.current()).and_then(|key| selection.of_key(key)) {
                    count.add(cache_type);
                }
                looked_at += 1;
                if looked_at % PROGRESS_EVERY == 0 {
                    progress(looked_at);
                }
            }
        }
        Ok(())
    }
}

/// The index that every collection has. Left to choose, a server may sort every document, where it has only to follow
/// the index.
fn by_key() -> Hint {
    Hint::Keys(doc! { "_id": 1 })
}

/// CursorNotFound, CursorKilled, and a cursor's session that timed out.
fn is_cursor_gone(error: &DriverError) -> bool {
    matches!(&*error.kind, DriverErrorKind::Command(error) if matches!(error.code, 43 | 237 | 206))
}

/// Asks the server for one batch after another, range by range.
struct Batches {
    source: Arc<MongoSource>,
    /// What is left to read, the first being read.
    ranges: VecDeque<KeyRange>,
    /// The last key that came, behind which a new cursor goes on.
    last: Option<String>,
    at_once: u32,
    cursor: Option<RawBatchCursor>,
}

impl Batches {
    /// Remembers where a batch ends. After one that was too large, a new cursor asks for fewer documents.
    fn note(&mut self, batch: &RawBatch) -> Result<bool> {
        let mut last = None;
        for document in self.source.documents(batch, 0)? {
            last = codec::key(document?).or(last);
        }
        let Some(last) = last else {
            return Ok(false);
        };
        self.last = Some(last.to_owned());
        if batch.as_raw_document().as_bytes().len() > TOO_LARGE && self.at_once > AT_LEAST {
            self.at_once = (self.at_once / 2).max(AT_LEAST);
            self.cursor = None;
        }
        Ok(true)
    }
}

#[async_trait]
impl Step for Batches {
    type Item = RawBatch;
    const ACTION: &'static str = "asking for the documents of a MongoDB collection";

    async fn next(&mut self) -> Result<Option<RawBatch>> {
        while let Some(range) = self.ranges.front() {
            let cursor = match &mut self.cursor {
                Some(cursor) => cursor,
                None => match self
                    .source
                    .open(range, self.last.as_deref(), self.at_once)
                    .await?
                {
                    Some(cursor) => self.cursor.insert(cursor),
                    None => {
                        self.ranges.pop_front();
                        continue;
                    }
                },
            };
            match cursor.next().await {
                Some(Ok(batch)) => match self.note(&batch) {
                    Ok(true) => return Ok(Some(batch)),
                    Ok(false) => {}
                    Err(error) => {
                        self.cursor = None;
                        return Err(error);
                    }
                },
                Some(Err(error)) => {
                    // The keys say where the cursor was. That the server closed one which nobody asked for a while is no
                    // failure; of any other the reader decides whether to ask again.
                    self.cursor = None;
                    if !is_cursor_gone(&error) {
                        return Err(self.source.failed("read", error));
                    }
                }
                None => {
                    self.cursor = None;
                    self.ranges.pop_front();
                }
            }
        }
        Ok(None)
    }
}

/// Cuts batches into pages of entries.
struct Pages {
    source: Arc<MongoSource>,
    selection: Selection,
    batches: Prefetch<Batches>,
    /// The batch that is being read, and how many of its documents were.
    batch: Option<(RawBatch, usize)>,
    page: PageBuilder,
    /// Whether there was anything since the last page, be it only passed over.
    begun: bool,
    filtered: u64,
    /// The last key that was read.
    last: Option<String>,
}

impl Pages {
    /// Reads documents of a batch until the page is full; where the next one begins, or `None` where none is left.
    fn fill(&mut self, batch: &RawBatch, from: usize) -> Result<Option<usize>> {
        let source = Arc::clone(&self.source);
        for (at, document) in source.documents(batch, from)?.enumerate() {
            let document = document?;
            let Some(key) = codec::key(document) else {
                continue;
            };
            self.begun = true;
            if self.selection.of_key(key).is_some() {
                self.page.push(source.entry(key, document));
            } else {
                self.page.pass_over();
                self.filtered += 1;
            }
            let last = self.last.get_or_insert_default();
            last.clear();
            last.push_str(key);
            if self.page.is_full() || self.filtered >= PASSED_OVER {
                return Ok(Some(from + at + 1));
            }
        }
        Ok(None)
    }

    fn take(&mut self) -> Page {
        (self.begun, self.filtered) = (false, 0);
        self.page.take(self.last.clone().map(Cursor))
    }
}

#[async_trait]
impl Step for Pages {
    type Item = Page;
    const ACTION: &'static str = "reading a MongoDB collection";

    async fn next(&mut self) -> Result<Option<Page>> {
        loop {
            if let Some((batch, from)) = self.batch.take()
                && let Some(next) = self.fill(&batch, from)?
            {
                self.batch = Some((batch, next));
                return Ok(Some(self.take()));
            }
            match self.batches.next().await? {
                Some(batch) => self.batch = Some((batch, 0)),
                None => return Ok(self.begun.then(|| self.take())),
            }
        }
    }
}

#[async_trait]
impl Source for MongoSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let mut count = Count::none();
        let (from_files, of_questions): (Vec<CacheType>, Vec<CacheType>) = selection
            .types()
            .partition(|cache_type| cache_type.is_from_files());
        // One after another: asked at once, they would stand in each other's way.
        for cache_type in from_files {
            let records = self.count_prefix(cache_type).await?;
            count.by_type.insert(cache_type, records);
        }
        if let Some(of_questions) = Selection::new(of_questions) {
            self.count_keys(&of_questions, progress, &mut count).await?;
        }
        Ok(count)
    }

    fn scan(self: Arc<Self>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> PageStream {
        let at_once = u32::try_from(limit.records.get()).unwrap_or(AT_ONCE).min(AT_ONCE);
        let last = from.map(|Cursor(key)| key);
        let batches = Batches {
            source: Arc::clone(&self),
            ranges: codec::ranges(selection).into(),
            last: last.clone(),
            at_once,
            cursor: None,
        };
        let pages = Pages {
            source: self,
            selection: selection.clone(),
            batches: Prefetch::new(batches),
            batch: None,
            page: PageBuilder::new(limit),
            begun: false,
            filtered: 0,
            last,
        };
        Prefetch::new(pages).into_stream()
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let mut found: HashMap<CacheKey, Entry> = HashMap::with_capacity(keys.len());
        let mut rest = keys;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|key| {
                bytes += key.as_str().len() + 16;
                bytes <= ASKED_BYTES
            });
            let (asked, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let texts: Vec<&str> = asked.iter().map(CacheKey::as_str).collect();
            let mut documents = self
                .collection
                .find(doc! { "_id": { "$in": texts } })
                .collation(by_bytes())
                .await
                .map_err(|error| self.failed("read", error))?;
            while documents
                .advance()
                .await
                .map_err(|error| self.failed("read", error))?
            {
                let document = documents.current();
                if let Some(key) = codec::key(document) {
                    found.insert(CacheKey::from(key), self.entry(key, document));
                }
            }
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }
}
