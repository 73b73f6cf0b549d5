//! Reading a collection in the order of its keys.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Collection,
    action::{Action, Find},
    bson::{Document, RawDocument, RawDocumentBuf, doc, serialize_to_bson},
    error::{Error as DriverError, ErrorKind as DriverErrorKind},
    options::Hint,
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};

use super::{
    batches::{Batch, Batches, MOST_REQUESTS, ToRead},
    checks::Facts,
    codec::{self, KeyRange},
    extras::{QueryAttempt, QueryExtras},
    server::{Remembered, Server, by_bytes, integer, members_to_ask},
};
use crate::{
    model::{CacheType, Error, ErrorKind, Result, Selection, Shard, record::CacheKey},
    storage::{
        Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageReader, Progress, Source, prefetch::Prefetch,
    },
};

/// The most bytes of keys in one question; the command must stay below the limit for a document.
const ASKED_BYTES: usize = 4 << 20;

/// The most keys in one question about what is there.
const KEYS_AT_ONCE: usize = 1000;

/// A page that only passes entries over ends here too, so that whoever waits for it sees that something happens.
const MOST_FILTERED: u64 = 10_000;

/// How many keys come in one answer while they are counted.
const COUNTED_AT_ONCE: u32 = 5000;

/// How many parts of a collection are counted at once. Each needs a connection, which reading then uses as well.
const PARTS_COUNTED_AT_ONCE: usize = 4;

/// The most keys of a collection that are counted from one answer with all of them, of about 80 KB; more are counted by type,
/// which takes ten requests.
const COUNTED_TOGETHER: u32 = 1000;

/// How often a count says how far it is.
const PROGRESS_EVERY: u64 = 1000;

/// Documents of one collection, as bytes.
type RawCursor = mongodb::Cursor<RawDocumentBuf>;

/// The collection of a workspace, to read.
pub(super) struct MongoSource {
    server: Arc<Server>,
    collection: Collection<RawDocumentBuf>,
    /// Whether it is the target. Of a source, documents with old keys are read as the records that they were; LightRAG does
    /// not find them, so in a target they are not there. A source may be read from a secondary; what is already in a target,
    /// only the primary knows.
    is_target: bool,
    /// Whether there are such documents, once it was checked.
    has_old_keys: AtomicBool,
    facts: Remembered<Facts>,
    /// Whether the collection was made after it was asked for.
    is_made: AtomicBool,
    /// How many keys with a prefix were counted, if they were all counted.
    counted: Mutex<BTreeMap<String, u64>>,
    findings: Mutex<Findings>,
}

/// What a person should know of what was read: the first key of each kind.
#[derive(Default)]
struct Findings {
    foreign: Option<String>,
    dates: Option<String>,
    old: Option<String>,
}

impl Findings {
    fn warnings(&self, collection: &str) -> Vec<String> {
        let all = [
            (
                &self.dates,
                "contains dates in create_time or update_time: they are read as Unix seconds, the format of LightRAG",
            ),
            (
                &self.foreign,
                "contains values that JSON cannot represent, such as dates or binary data: they are written as MongoDB's \
                 extended JSON",
            ),
            (
                &self.old,
                "contains documents under keys of LightRAG up to 1.3.9, which later versions do not find: they are read as \
                 default:<type>:<hash>",
            ),
        ];
        all.into_iter()
            .filter_map(|(first, what)| {
                let first = first.as_deref()?;
                Some(format!(
                    "the collection {collection} {what} (the first is {first})"
                ))
            })
            .collect()
    }
}

impl MongoSource {
    /// The collection as a source.
    pub(super) fn new(server: Arc<Server>, collection: Collection<RawDocumentBuf>) -> Self {
        Self {
            server,
            collection,
            is_target: false,
            has_old_keys: AtomicBool::new(false),
            facts: Remembered::default(),
            is_made: AtomicBool::new(false),
            counted: Mutex::default(),
            findings: Mutex::default(),
        }
    }

    /// The collection as LightRAG itself reads it.
    pub(super) fn of_target(server: Arc<Server>, collection: Collection<RawDocumentBuf>) -> Self {
        Self {
            is_target: true,
            ..Self::new(server, collection)
        }
    }

    /// What the server says of the collection, which is asked once.
    pub(super) async fn facts(&self) -> Result<Cow<'_, Facts>> {
        let name = self.collection.name();
        let ask = async {
            match self.server.listed.take(name) {
                Some(facts) => Ok(Some(facts)),
                None => Facts::of(&self.server, name, members_to_ask(self.is_target)).await,
            }
        };
        self.facts.get(ask).await
    }

    /// How many keys there were with a prefix when they were counted, in the order of the prefixes; nothing if only a shard was
    /// counted, or together with all others.
    fn counted(&self) -> BTreeMap<String, u64> {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.clone()
    }

    /// Notes that there is a collection now.
    pub(super) fn set_made(&self) {
        self.is_made.store(true, Ordering::Relaxed);
    }

    /// Whether this is a target without a collection, so that nothing needs to be asked about its documents. A source is
    /// asked anyway: that it has nothing is not concluded.
    async fn is_missing_target(&self) -> Result<bool> {
        let may_be = self.is_target && !self.is_made.load(Ordering::Relaxed);
        Ok(may_be && self.facts().await?.is_there == Some(false))
    }

    /// A query with the options that the server knows and the collection needs.
    async fn query(&self) -> Result<QueryAttempt<'_>> {
        let has_own_order = self.facts().await?.has_own_order;
        Ok(self.server.extras.query(has_own_order))
    }

    fn note(&self, note: impl FnOnce(&mut Findings)) {
        note(&mut self.findings.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The key of a document's record, and whether the document has an old key.
    fn record_key(&self, id: &str, document: &RawDocument) -> (CacheKey, bool) {
        let of_today = (!self.is_target).then(|| codec::key_of_today(id, document));
        match of_today.flatten() {
            Some(key) => {
                self.has_old_keys.store(true, Ordering::Relaxed);
                self.note(|findings| {
                    findings.old.get_or_insert_with(|| id.to_owned());
                });
                (key, true)
            }
            None => (CacheKey::from(id), false),
        }
    }

    /// Those of these keys that are there.
    async fn there(&self, keys: &[CacheKey]) -> Result<HashSet<CacheKey>> {
        let mut there = HashSet::new();
        for asked in keys.chunks(KEYS_AT_ONCE) {
            let texts: Vec<&str> = asked.iter().map(CacheKey::as_str).collect();
            let mut found = self.documents_of(&texts, true).await?;
            while found
                .advance()
                .await
                .map_err(|error| self.failed("read", error))?
            {
                there.extend(codec::key(found.current()).map(CacheKey::from));
            }
        }
        Ok(there)
    }

    /// The documents of these keys, or of these no more than the keys.
    async fn documents_of(&self, keys: &[&str], keys_alone: bool) -> Result<RawCursor> {
        let mut attempt = self.query().await?;
        loop {
            let order = attempt.extras().collation.then(by_bytes);
            let found = self
                .collection
                .find(doc! { "_id": { "$in": keys } })
                // All in one answer, if they fit one.
                .batch_size(u32::try_from(keys.len() + 1).unwrap_or(u32::MAX))
                .optional(keys_alone.then(|| doc! { "_id": 1 }), |find, fields| {
                    find.projection(fields)
                })
                .optional(order, |find, order| find.collation(order))
                .await;
            if let Some(found) = attempt.settle(found) {
                return found.map_err(|error| self.failed("read", error));
            }
        }
    }

    /// Counts the records under old keys, and not under a key of today's as well.
    async fn count_old(&self, selection: &Selection) -> Result<Count> {
        let mut count = Count::none();
        let mut keys = Vec::new();
        let mut documents = self.keys(&KeyRange::old()).await?;
        while documents
            .advance()
            .await
            .map_err(|error| self.failed("count", error))?
        {
            let document = documents.current();
            if let Some(id) = codec::key(document)
                && let (key, true) = self.record_key(id, document)
            {
                keys.push(key);
            }
        }
        let there = self.there(&keys).await?;
        for key in keys.iter().filter(|key| !there.contains(*key)) {
            count.add(selection, key.as_str());
        }
        Ok(count)
    }

    /// Looks for old keys of records without a current key.
    async fn find_old(&self, keys: &[CacheKey], found: &mut HashMap<CacheKey, Entry>) -> Result<()> {
        if !self.has_old_keys.load(Ordering::Relaxed) {
            return Ok(());
        }
        let missing = keys.iter().filter(|key| !found.contains_key(*key));
        let old: Vec<String> = missing.filter_map(codec::old_key).collect();
        for asked in old.chunks(KEYS_AT_ONCE) {
            let texts: Vec<&str> = asked.iter().map(String::as_str).collect();
            let mut documents = self.documents_of(&texts, false).await?;
            while documents
                .advance()
                .await
                .map_err(|error| self.failed("read", error))?
            {
                let document = documents.current();
                if let Some(id) = codec::key(document)
                    && let (key, true) = self.record_key(id, document)
                {
                    let entry = self.entry(key.as_str(), document);
                    found.insert(key, entry);
                }
            }
        }
        Ok(())
    }

    pub(super) fn failed(&self, action: &str, error: DriverError) -> Error {
        let action = format!("{action} the collection {} of", self.collection.name());
        self.server.failed(&action, error)
    }

    fn entry(&self, key: &str, document: &RawDocument) -> Entry {
        let decoded = codec::decode(key, document);
        if decoded.foreign || decoded.dates {
            self.note(|findings| {
                let first = || Some(key.to_owned());
                if decoded.foreign && findings.foreign.is_none() {
                    findings.foreign = first();
                }
                if decoded.dates && findings.dates.is_none() {
                    findings.dates = first();
                }
            });
        }
        decoded.entry
    }

    /// Documents in the order of their keys. With a hint a server may follow the index from one end to the other, which is
    /// good for most of a collection, and not for a small part of it.
    fn find(&self, filter: Document, extent: Extent, extras: QueryExtras) -> Find<'_, RawDocumentBuf> {
        let hint = extras.hint && extent == Extent::Most;
        self.collection
            .find(filter)
            .sort(doc! { "_id": 1 })
            .optional(hint.then(by_key), |find, hint| find.hint(hint))
            .optional(extras.collation.then(by_bytes), |find, order| {
                find.collation(order)
            })
    }

    /// A cursor over a range, after a key if one is given; `None` if the range is empty.
    pub(super) async fn open(
        &self,
        range: &KeyRange,
        after: Option<&str>,
        shard: Option<Shard>,
        extent: Extent,
        at_once: u32,
    ) -> Result<Option<RawBatchCursor>> {
        let Some(filter) = range.filter(after) else {
            return Ok(None);
        };
        let filter = codec::of_shard(filter, shard);
        let mut attempt = self.query().await?;
        loop {
            let find = self.find(filter.clone(), extent, attempt.extras());
            let cursor = find.batch_size(at_once).batch().await;
            if let Some(cursor) = attempt.settle(cursor) {
                return cursor.map(Some).map_err(|error| self.failed("read", error));
            }
        }
    }

    pub(super) fn out_of_order(&self, key: &str) -> Error {
        let message = format!(
            "the server gives the documents of the collection {} out of order: {key} comes after a key that is not \
             smaller",
            self.collection.namespace()
        );
        Error::new(ErrorKind::Server, message)
            .with_remedy("check that the collection has no collation of its own, or copy it")
    }

    /// The error for a response without the expected documents.
    fn unreadable(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let message = format!(
            "a response about the collection {} cannot be read",
            self.collection.namespace()
        );
        Error::new(ErrorKind::Server, message).caused_by(error)
    }

    /// The documents of a batch, from a place in it on.
    pub(super) fn documents<'a>(
        &self,
        batch: &'a RawBatch,
        from: usize,
    ) -> Result<impl Iterator<Item = Result<&'a RawDocument>>> {
        let items = batch.doc_slices().map_err(|error| self.unreadable(error))?;
        Ok(items.into_iter().skip(from).map(|item| {
            let item = item.map_err(|error| self.unreadable(error))?;
            item.as_document()
                .ok_or_else(|| self.unreadable("it contains something other than a document"))
        }))
    }

    /// Counts the keys of a type that comes from files. The command `count` looks at nothing but keys, where an
    /// aggregation would read every document; with a condition it counts what is there, and no estimate (MongoDB, SERVER-3645).
    async fn count_prefix(&self, cache_type: &CacheType, shard: Option<Shard>) -> Result<u64> {
        let prefix = KeyRange::prefix(&codec::prefix(cache_type));
        // Extractions are nearly all of a cache, and are counted along the index; the few others are looked up in it.
        let along_index = *cache_type == CacheType::Extract;
        let mut command = self.server.extras.count();
        if command.is_whole() {
            let mut attempt = self.query().await?;
            let counted = loop {
                let counted = self
                    .run_count(&prefix, shard, along_index, attempt.extras())
                    .await;
                if let Some(counted) = attempt.settle(counted) {
                    break counted;
                }
            };
            if let Some(counted) = command.settle(counted) {
                let answer = counted.map_err(|error| self.failed("count", error))?;
                return integer(answer.get("n"))
                    .and_then(|records| u64::try_from(records).ok())
                    .ok_or_else(|| self.unreadable("it contains no number"));
            }
        }
        // LightRAG reads and never counts.
        let records = self.count_range(&prefix, shard).await?;
        command.succeeded();
        Ok(records)
    }

    async fn run_count(
        &self,
        range: &KeyRange,
        shard: Option<Shard>,
        along_index: bool,
        extras: QueryExtras,
    ) -> Result<Document, DriverError> {
        let mut command = doc! {
            "count": self.collection.name(),
            "query": codec::of_shard(range.filter(None).unwrap_or_default(), shard),
        };
        if extras.collation {
            command.insert("collation", doc! { "locale": "simple" });
        }
        if extras.hint && along_index {
            command.insert("hint", doc! { "_id": 1 });
        }
        if let Some(concern) = self.collection.read_concern() {
            command.insert("readConcern", serialize_to_bson(concern)?);
        }
        let mut count = self.server.database().run_command(command);
        if let Some(criteria) = self.collection.selection_criteria() {
            count = count.selection_criteria(criteria.clone());
        }
        count.await
    }

    /// Counts the keys of a range by reading them, for a server that cannot count.
    async fn count_range(&self, range: &KeyRange, shard: Option<Shard>) -> Result<u64> {
        let mut records = 0;
        let mut keys = self.keys(range).await?;
        while keys
            .advance()
            .await
            .map_err(|error| self.failed("count", error))?
        {
            let is_ours = |shard: Shard| codec::key(keys.current()).is_some_and(|id| shard.contains(id));
            records += u64::from(shard.is_none_or(is_ours));
        }
        Ok(records)
    }

    /// The keys of a range, in their order.
    async fn keys(&self, range: &KeyRange) -> Result<RawCursor> {
        let mut attempt = self.query().await?;
        loop {
            let find = self.find(
                range.filter(None).unwrap_or_default(),
                Extent::Part,
                attempt.extras(),
            );
            let keys = find.projection(counted()).batch_size(COUNTED_AT_ONCE).await;
            if let Some(keys) = attempt.settle(keys) {
                return keys.map_err(|error| self.failed("count", error));
            }
        }
    }

    /// Counts a small collection from one answer with all of its keys; `None` if the answer does not suffice.
    async fn count_together(&self, selection: &Selection) -> Result<Option<Count>> {
        // One key more shows that there are too many. When a batch is not full, the server closes the cursor. In an order, a
        // server might look at all documents first.
        let find = self.collection.find(doc! {}).projection(counted());
        let find = find.limit(i64::from(COUNTED_TOGETHER) + 1);
        let cursor = find.batch_size(COUNTED_TOGETHER + 2).batch().await;
        let mut cursor = cursor.map_err(|error| self.failed("count", error))?;
        match cursor.next().await {
            Some(Ok(batch)) => {
                let keys = self.all_keys(&batch)?;
                Ok(keys.map(|keys| count_all(selection, &keys)))
            }
            Some(Err(error)) => Err(self.failed("count", error)),
            None => Ok(None),
        }
    }

    /// The keys of the records in a batch, and which of them are old; `None` if there are more, too many, or others than
    /// texts.
    fn all_keys(&self, batch: &RawBatch) -> Result<Option<Vec<(CacheKey, bool)>>> {
        let mut keys = Vec::new();
        for document in self.documents(batch, 0)? {
            let document = document?;
            // A server compares texts with symbols too, and in a view with the members of a list.
            let Some(id) = codec::key(document) else {
                return Ok(None);
            };
            keys.push(self.record_key(id, document));
        }
        // A server sends less at once if the documents are large.
        let are_few = keys.len() <= COUNTED_TOGETHER as usize;
        Ok((is_last(batch) && are_few).then_some(keys))
    }

    /// Counts the keys of a range by looking at each. `looked_at` counts those of all ranges.
    async fn count_keys(
        &self,
        range: &KeyRange,
        selection: &Selection,
        looked_at: &AtomicU64,
        progress: Progress<'_>,
    ) -> Result<Count> {
        let mut count = Count::none();
        let mut keys = self.keys(range).await?;
        while keys
            .advance()
            .await
            .map_err(|error| self.failed("count", error))?
        {
            let document = keys.current();
            if let Some(id) = codec::key(document)
                && let (key, false) = self.record_key(id, document)
                && !codec::is_of_known_type(id)
            {
                count.add(selection, key.as_str());
            }
            let looked_at = looked_at.fetch_add(1, Ordering::Relaxed) + 1;
            if looked_at.is_multiple_of(PROGRESS_EVERY) {
                progress(looked_at);
            }
        }
        Ok(count)
    }

    /// Counts a part of the collection, and remembers how many keys begin like those of a type: where these are follows from
    /// that.
    async fn count_part(
        &self,
        part: Counted,
        selection: &Selection,
        looked_at: &AtomicU64,
        progress: Progress<'_>,
    ) -> Result<Count> {
        match part {
            Counted::Type(cache_type) => {
                let prefix = codec::prefix(&cache_type);
                let records = self.count_prefix(&cache_type, selection.shard()).await?;
                let mut count = Count::none();
                count.add_kind(selection, &prefix, records);
                if selection.shard().is_none() {
                    let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
                    counted.insert(prefix, records);
                }
                Ok(count)
            }
            Counted::Keys(range) => self.count_keys(&range, selection, looked_at, progress).await,
            Counted::OldKeys => self.count_old(selection).await,
        }
    }
}

/// A part of a collection that is counted by requests of its own.
enum Counted {
    /// The keys of a type that comes from files.
    Type(CacheType),
    /// Others in a range.
    Keys(KeyRange),
    /// Those of LightRAG up to 1.3.9.
    OldKeys,
}

/// Counts all keys of a collection, given with whether they are old. The result is the same as that of counting by type: the
/// types from files are listed even without records, and an old key counts only if there is no current one.
fn count_all(selection: &Selection, keys: &[(CacheKey, bool)]) -> Count {
    let mut count = Count::none();
    for cache_type in &CacheType::FROM_FILES {
        count.add_kind(selection, &codec::prefix(cache_type), 0);
    }
    let current = || keys.iter().filter(|(_, is_old)| !is_old).map(|(key, _)| key);
    let old = keys.iter().filter(|(_, is_old)| *is_old).map(|(key, _)| key);
    let there: HashSet<&CacheKey> = current().collect();
    for key in current().chain(old.filter(|key| !there.contains(key))) {
        count.add(selection, key.as_str());
    }
    count
}

/// The fields that are read of what is counted: the type belongs to the key of a document with an old one.
fn counted() -> Document {
    doc! { "_id": 1, "cache_type": 1 }
}

/// How much of a collection is read by one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Most of it, or an unknown part.
    Most,
    /// A small part.
    Part,
}

/// The index that every collection has.
fn by_key() -> Hint {
    Hint::Keys(doc! { "_id": 1 })
}

/// Whether the cursor has nothing after this batch.
pub(super) fn is_last(batch: &RawBatch) -> bool {
    let cursor = batch.as_raw_document().get_document("cursor");
    cursor
        .and_then(|cursor| cursor.get_i64("id"))
        .is_ok_and(|id| id == 0)
}

/// CursorNotFound, CursorKilled, and a cursor's session that timed out.
pub(super) fn is_cursor_gone(error: &DriverError) -> bool {
    matches!(&*error.kind, DriverErrorKind::Command(error) if matches!(error.code, 43 | 237 | 206))
}

/// Cuts batches into pages of entries.
struct Pages {
    source: Arc<MongoSource>,
    selection: Selection,
    batches: Prefetch<Batch>,
    /// A batch that came and was not looked into yet.
    fresh: Option<Batch>,
    /// The batch that is being read, and how many of its documents were.
    batch: Option<(Batch, usize)>,
    /// Keys of that batch that have both an old and a current document.
    superseded: HashSet<CacheKey>,
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
            let Some(id) = codec::key(document) else {
                continue;
            };
            self.begun = true;
            let (key, is_old) = source.record_key(id, document);
            let is_superseded = is_old && self.superseded.contains(&key);
            if self.selection.contains(key.as_str()) && !is_superseded {
                self.page.push(source.entry(key.as_str(), document));
            } else {
                self.page.pass_over();
                self.filtered += 1;
            }
            let last = self.last.get_or_insert_default();
            last.clear();
            last.push_str(id);
            if self.page.is_full() || self.filtered >= MOST_FILTERED {
                return Ok(Some(from + at + 1));
            }
        }
        Ok(None)
    }

    /// Finds the records of a batch with both an old and a current key; the current one counts.
    async fn look_up_old(&mut self, batch: &RawBatch) -> Result<()> {
        self.superseded.clear();
        let mut keys = Vec::new();
        for document in self.source.documents(batch, 0)? {
            let document = document?;
            if let Some(id) = codec::key(document)
                && let (key, true) = self.source.record_key(id, document)
            {
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            self.superseded = self.source.there(&keys).await?;
        }
        Ok(())
    }

    fn take(&mut self) -> Page {
        (self.begun, self.filtered) = (false, 0);
        self.page.take(self.last.clone().map(Cursor))
    }
}

#[async_trait]
impl PageReader for Pages {
    async fn next_page(&mut self) -> Result<Option<Page>> {
        loop {
            // A question that fails is asked again, so the batch stays until it is answered.
            if let Some(batch) = self.fresh.take() {
                let looked_up = self.look_up_old(&batch.documents).await;
                if let Err(error) = looked_up {
                    self.fresh = Some(batch);
                    return Err(error);
                }
                self.batch = Some((batch, 0));
            }
            if let Some((batch, from)) = self.batch.take()
                && let Some(next) = self.fill(&batch.documents, from)?
            {
                self.batch = Some((batch, next));
                return Ok(Some(self.take()));
            }
            match self.batches.next_page().await? {
                Some(batch) => self.fresh = Some(batch),
                None => return Ok(self.begun.then(|| self.take())),
            }
        }
    }
}

#[async_trait]
impl Source for MongoSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        if self.is_missing_target().await? {
            return Ok(Count::none());
        }
        // After the first request, which would otherwise wait for one of these.
        let open_ahead = async {
            if !self.is_target {
                self.server.open_ahead(MOST_REQUESTS - 1);
            }
        };
        let (together, ()) = tokio::join!(self.count_together(selection), open_ahead);
        if let Some(count) = together? {
            return Ok(count);
        }
        let types = CacheType::FROM_FILES.iter().cloned().map(Counted::Type);
        let others = codec::ranges_without_known_types().into_iter().map(Counted::Keys);
        let old = (!self.is_target).then_some(Counted::OldKeys);
        let looked_at = AtomicU64::new(0);
        let counts = stream::iter(types.chain(others).chain(old))
            .map(|part| self.count_part(part, selection, &looked_at, progress))
            .buffer_unordered(PARTS_COUNTED_AT_ONCE);
        counts
            .try_fold(Count::none(), async |mut count, part| {
                count.merge(&part);
                Ok(count)
            })
            .await
    }

    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        let last = from.map(|Cursor(key)| key);
        let ranges = match self.is_target {
            true => codec::ranges(selection),
            false => codec::with_old_keys(codec::ranges(selection)),
        };
        let part = ToRead {
            ranges,
            counted: self.counted(),
            shard: selection.shard(),
            last: last.clone(),
        };
        let batches = Batches::new(Arc::clone(&self), part, limit);
        let pages = Pages {
            source: self,
            selection: selection.clone(),
            batches: Prefetch::new("fetching the documents of a MongoDB collection", batches),
            fresh: None,
            batch: None,
            superseded: HashSet::new(),
            page: PageBuilder::new(limit),
            begun: false,
            filtered: 0,
            last,
        };
        Box::new(Prefetch::new("reading a MongoDB collection", pages))
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
            let mut documents = self.documents_of(&texts, false).await?;
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
        self.find_old(keys, &mut found).await?;
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn contains(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        if self.has_old_keys.load(Ordering::Relaxed) {
            let found = self.get_many(keys).await?;
            return Ok(found.iter().map(Option::is_some).collect());
        }
        let there = self.there(keys).await?;
        Ok(keys.iter().map(|key| there.contains(key)).collect())
    }

    fn warnings(&self) -> Vec<String> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.warnings(&self.collection.namespace().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_one_answer_are_counted_by_type_and_old_ones_only_if_there_is_no_current_one() {
        let hash = |n: u32| format!("{n:032x}");
        let current = |key: String| (CacheKey::from(key), false);
        let old = |key: String| (CacheKey::from(key), true);
        let keys = [
            current("another".to_owned()),
            current(format!("default:extract:{}", hash(1))),
            current(format!("default:extract:{}", hash(2))),
            current(format!("default:of_tomorrow:{}", hash(3))),
            old(format!("default:extract:{}", hash(2))),
            old(format!("default:summary:{}", hash(4))),
            current(format!("mix:query:{}", hash(5))),
        ];
        let counted = |names: &str, shard| {
            let selection = Selection::parse(names.split(',')).unwrap().of_shard(shard);
            let count = count_all(&selection, &keys);
            (count.total(), count.left_out.unwrap().total())
        };
        assert_eq!(counted("default", None), (4, 2));
        assert_eq!(counted("all", None), (6, 0));
        assert_eq!(counted("extract", None), (2, 4));
        let shards = [0, 1].map(|index| counted("default", Shard::new(index, 2)));
        // The hashes begin with zeros, and what has none belongs to the first shard.
        assert_eq!(shards, [(4, 2), (0, 0)]);
        let count = count_all(&Selection::default(), &[]);
        assert_eq!(count.total(), 0);
        assert_eq!(count.by_type.iter().count(), CacheType::FROM_FILES.len());
    }
}
