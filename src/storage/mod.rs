//! The storages: the interface between them and the engine, and a folder for each kind.
//!
//! Each storage (`json`, `redis`, …) knows nothing of the others and has the same files: `config.rs` (its settings),
//! `codec.rs` (record ↔ stored form, pure), `source.rs`, `target.rs`, and `mod.rs` (connecting, and an overview). The
//! registry alone lists them: a new storage is a folder and a line there.
//!
//! # The contract
//!
//! What the engine relies on. `tests/conformance` checks each sentence for every storage, except where it says that it
//! cannot be seen from outside; the storage in memory that the engine is tested with does all that is allowed here.
//!
//! ## Reading
//! * **Order.** [`Source::scan`] gives pages in an order of the storage's own choice. Two scans of an unchanged source
//!   need not have the same order.
//! * **Cursors.** A page says where the next one begins. A scan from there gives everything that was there when the first
//!   scan began and that is in no page up to this one; it may give some of those again. A cursor outlives the process. A
//!   page without one is not the end of anything: a later scan then begins at the last cursor, or at the beginning. A
//!   cursor that no longer fits what is stored is refused as [`crate::model::ErrorKind::Checkpoint`], never guessed at.
//! * **Duplicates.** A scan gives a key once, and again only where somebody changed the record meanwhile, and then with its
//!   later value. What a server repeats, or a file has twice, the storage sorts out.
//! * **Trying again.** [`PageReader::next_page`] may be called again after a temporary error, and after a call that nobody
//!   waited for to its end; no entry is lost or given twice by that.
//! * **One reader at a time.** Of one [`PageReader`] one call is under way at a time. Beside it, [`Source::count`] and
//!   [`Source::get_many`] may be called at any time, by several tasks.
//! * **A source is changed by nothing**, not even by a conversion of an old layout.
//!
//! ## Writing
//! * **Nothing is made before [`Target::prepare`]**: no table, index, file or folder; until then a target that does not
//!   exist answers as an empty one. `prepare` may be called again after it failed.
//! * **At once.** At most as many calls of [`Target::write`] are under way as [`ConnectOptions::concurrency`] says, of all
//!   targets of a connection together, and no two calls of one target have a key in common. A key stands once in a call.
//! * **Order.** Calls that are under way at the same time take effect in any order. A call that began after another had
//!   ended takes effect after it, also where the other failed or was not waited for: see the next point.
//! * **What a failed call leaves.** When `write` fails, or is abandoned because its time is over, any of its records may
//!   have been written, and a server may still write them after a repeated call has ended. So the engine repeats the call
//!   with the same records, before any other write of their keys. An error that is
//!   [`crate::model::ErrorKind::is_splittable`] says that nothing was written.
//! * **Answers** are in the order of the records. `Written` and `Exists` say what the target has accepted; that it is durable
//!   only [`Target::flush`] says. After a repeated call, `Exists` may mean what the first one wrote.
//! * **Accepted or durable.** A record is durable when a `flush` that began after its write had been answered has
//!   succeeded. Only then may a checkpoint include it, and a report count it as written at the end of a run. Where
//!   [`Target::is_visible_when_flushed`] is false, that holds for [`Target::finish`] instead.
//! * **`flush` may overlap writes**: those under way when it begins may become durable by it or not. Two calls of `flush` of
//!   one target do not overlap, except where nobody waits for the first one any more. It may be repeated.
//! * **`finish`** comes after the last flush, with no write under way and none after it. It may be repeated after a temporary
//!   error.
//! * **[`Target::read_back`]** comes after `finish`, and reads what the target has then, under the keys by which LightRAG
//!   finds it.
//! * **Waits.** A storage that has to wait before it repeats a part of a call waits by [`ConnectOptions::waiter`].

mod endpoint;
pub(crate) mod files;
mod halving;
mod hosts;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(not(all(
    feature = "archive",
    feature = "redis",
    feature = "postgres",
    feature = "mongo",
    feature = "opensearch"
)))]
mod not_compiled;
mod prefetch;
mod registry;
mod repeated;
mod wait;
pub(crate) mod window;

#[cfg(feature = "archive")]
pub mod archive;
pub mod json;
#[cfg(feature = "mongo")]
pub mod mongo;
#[cfg(feature = "opensearch")]
pub mod opensearch;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "tls")]
mod tls;

// A storage that is left out of a build keeps its name and its settings, so that the build can say what it lacks.
#[cfg(not(feature = "archive"))]
mod archive {
    pub(super) mod info;
}
#[cfg(not(feature = "mongo"))]
mod mongo {
    pub(super) mod info;
}
#[cfg(not(feature = "opensearch"))]
mod opensearch {
    pub(super) mod info;
}
#[cfg(not(feature = "postgres"))]
mod postgres {
    pub(super) mod info;
}
#[cfg(not(feature = "redis"))]
mod redis {
    pub(super) mod info;
}

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use endpoint::{Endpoint, Route};
pub(crate) use halving::Halving;
pub use registry::{connectors, find, names, of_path};
pub use wait::{SilentWaiter, Waiter, backoff};

use crate::model::{
    CacheType, Counts, Field, LeftOut, LeftOutKind, Location, PhysicalLocation, Result, Secret, Selection,
    Values, Workspace,
    record::{CacheKey, Invalid, OnInvalid, Record, RejectKind},
};

/// What a kind of storage is called, and where its settings come from.
#[derive(Debug)]
pub struct ConnectorInfo {
    /// The name on the command line and in reports: `json`.
    pub kind: &'static str,
    /// The name for people: `PostgreSQL`.
    pub title: &'static str,
    /// LightRAG's class, accepted as a name too: `PGKVStorage`. `None` for what LightRAG has no storage for.
    pub class_name: Option<&'static str>,
    /// Other names for the same: `postgresql`.
    pub aliases: &'static [&'static str],
    /// The schemes of the addresses that belong to this kind.
    pub schemes: &'static [&'static str],
    /// The endings of the paths that belong to this kind: `.jsonl`.
    pub path_endings: &'static [&'static str],
    /// Whether a path that no ending gives to a kind belongs to this one. At most one kind takes them.
    pub takes_other_paths: bool,
    /// The section of LightRAG's `config.ini`.
    pub ini_section: Option<&'static str>,
    /// The variable that names the workspace for this kind alone.
    pub workspace_variable: Option<&'static str>,
    /// The key in its section of `config.ini` that names the workspace for this kind alone.
    pub workspace_ini_key: Option<&'static str>,
    /// Whether LightRAG takes white space around the name in that variable or key away.
    pub trims_workspace: bool,
    /// The size of a batch, in bytes, above which writing gets no faster and only costs memory: the limit of a batch
    /// where the settings name none. Measured.
    pub batch_bytes: NonZeroUsize,
    /// Every setting, as the job file, the environment and `config.ini` know it.
    pub fields: &'static [Field],
}

/// A kind of storage: its metadata, how to read its addresses, and how to connect to one.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Its metadata.
    fn info(&self) -> &'static ConnectorInfo;

    /// Takes a place (an address with one of the schemes, or a path) apart into settings.
    ///
    /// # Errors
    /// [`crate::model::ErrorKind::Config`] where it cannot be read. The message does not repeat the place, which may hold a
    /// password.
    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>>;

    /// Checks the settings and connects.
    ///
    /// # Errors
    /// Wrong settings, an unreachable server, a refused login.
    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>>;
}

impl dyn Connector + '_ {
    /// [`ConnectorInfo::kind`].
    pub fn kind(&self) -> &'static str {
        self.info().kind
    }

    /// [`ConnectorInfo::workspace_ini_key`].
    pub fn workspace_ini_key(&self) -> Option<&'static str> {
        self.info().workspace_ini_key
    }

    /// The name of a workspace in the text of this kind's variable or key, as LightRAG reads it.
    pub fn workspace_name<'a>(&self, text: &'a str) -> &'a str {
        if self.info().trims_workspace {
            text.trim()
        } else {
            text
        }
    }

    /// [`ConnectorInfo::title`].
    pub fn title(&self) -> &'static str {
        self.info().title
    }

    /// [`ConnectorInfo::aliases`].
    pub fn aliases(&self) -> &'static [&'static str] {
        self.info().aliases
    }

    /// [`ConnectorInfo::schemes`].
    pub fn schemes(&self) -> &'static [&'static str] {
        self.info().schemes
    }

    /// [`ConnectorInfo::ini_section`].
    pub fn ini_section(&self) -> Option<&'static str> {
        self.info().ini_section
    }

    /// [`ConnectorInfo::workspace_variable`].
    pub fn workspace_variable(&self) -> Option<&'static str> {
        self.info().workspace_variable
    }

    /// [`ConnectorInfo::fields`].
    pub fn fields(&self) -> &'static [Field] {
        self.info().fields
    }

    /// LightRAG's class, or the kind where LightRAG has none.
    pub fn class_name(&self) -> &'static str {
        self.info().class_name.unwrap_or(self.info().kind)
    }
}

/// What every storage is told when it is opened.
#[derive(Clone)]
pub struct ConnectOptions {
    /// How long connecting, and each request, may take.
    pub timeout: Duration,
    /// How many writes the run will have under way at once, at most: how many they are, bandwidth and distance decide.
    pub concurrency: NonZeroUsize,
    /// What to do with a record that the storage could hold if a character went.
    pub on_invalid: OnInvalid,
    /// Whether to read what stands before the damage of a damaged source.
    pub salvage: bool,
    /// Waits before a storage repeats a request by itself, and reports that.
    pub waiter: Arc<dyn Waiter>,
}

/// One connected place, which holds the caches of any number of workspaces.
#[async_trait]
pub trait Connection: Send + Sync {
    /// Kind and redacted place.
    fn location(&self) -> Location;

    /// What a person should know of the connection, whatever comes of it.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The workspaces that have a cache here, and those of which that cannot be said.
    async fn workspaces(&self) -> Result<WorkspaceListing>;

    /// Where the records of a workspace live. Two workspaces with the same container would mix their records.
    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation>;

    /// Says that these workspaces are about to be counted or read, in about this order. A storage that looks at
    /// everything to find one of them can look once for many: for as many, from the first on, as it remembers within a
    /// bounded memory. Gives how many that are, at least one.
    ///
    /// What the next count or scan of each of them finds is what was there when this was called, or later; one that
    /// comes after it looks by itself. A later call replaces an earlier one.
    async fn gather(&self, workspaces: &[Workspace]) -> Result<usize> {
        Ok(workspaces.len())
    }

    /// Whether nothing that is written is there before [`Connection::finish`], for all workspaces at once: then no part
    /// of a run that ends early is.
    fn is_published_as_a_whole(&self) -> bool {
        false
    }

    /// Says from where the records come that are about to be written. Called once, before the first
    /// [`Target::prepare`].
    async fn begin(&self, _source: &Location) -> Result<()> {
        Ok(())
    }

    /// Called once after every target of a run was finished, and only if all of the run was written: makes visible what
    /// was not yet.
    async fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// Opens a workspace to read.
    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>>;

    /// Opens a workspace to read and write. Makes nothing yet.
    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>>;
}

/// The workspaces of a storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceListing {
    /// Those that have a cache, sorted.
    pub found: Vec<Workspace>,
    /// Those that may have one, but cannot be read.
    pub unreadable: Vec<UnreadableWorkspace>,
}

/// A workspace that may have a cache, but cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableWorkspace {
    /// Its name, as far as it can be shown.
    pub name: String,
    /// Why it cannot be read.
    pub reason: String,
}

impl From<Vec<Workspace>> for WorkspaceListing {
    fn from(mut found: Vec<Workspace>) -> Self {
        found.sort();
        Self {
            found,
            unreadable: Vec::new(),
        }
    }
}

/// One workspace's cache, to read.
#[async_trait]
pub trait Source: Send + Sync {
    /// Counts the selected records, by type, and what else there is. `progress` is told how many were looked at while a long count runs.
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count>;

    /// Reads the selected records in pages.
    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader>;

    /// Reads records by key: an answer for each key, in order, `None` where there is none.
    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>>;

    /// Whether there is something under each of these keys, in order.
    async fn contains(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let found = self.get_many(keys).await?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// What counting and reading have found so far that a person should know, such as an old layout. Asked after a
    /// count and after a scan; what was told before may come again.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One workspace's cache, to write.
#[async_trait]
pub trait Target: Send + Sync {
    /// The same cache, to read.
    fn reader(&self) -> Arc<dyn Source>;

    /// Checks, without writing, whether the target would accept writes.
    async fn check_writable(&self) -> Result<()> {
        Ok(())
    }

    /// Makes what is missing: table, index, folder. Called once, before the first write.
    async fn prepare(&self) -> Result<()>;

    /// Writes records; no key stands twice among them. The answers are in the records' order.
    ///
    /// # Errors
    /// [`crate::model::ErrorKind::BatchRefused`] or [`crate::model::ErrorKind::RequestTooLarge`] where fewer records
    /// at a time may pass; nothing of the batch was then written. Otherwise, what failed; any of it may have been
    /// written.
    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>>;

    /// What a write of this record would answer: what it would change, or that it would refuse. Asks nobody.
    fn preview(&self, _record: &Record) -> WriteOutcome {
        WriteOutcome::written()
    }

    /// Whether what was flushed is visible at once, or only after [`Target::finish`]: then a process that is killed
    /// before leaves the target as it was.
    fn is_visible_when_flushed(&self) -> bool {
        true
    }

    /// What a person should know before this target is written to.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Makes all earlier writes durable.
    async fn flush(&self) -> Result<()>;

    /// Reads records by key after [`Target::finish`], as [`Source::get_many`] does.
    async fn read_back(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        self.reader().get_many(keys).await
    }

    /// How many entries the place has, those of other workspaces among them where it has several: a number that the
    /// storage knows without looking at each. Of the difference between two such numbers it is known that no record can
    /// have been added without it. `None` where [`Source::count`] is to be asked, which costs little there.
    async fn size(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Called once after the last flush, also when a run stops early: makes what was written visible where it was
    /// not yet. Nothing is written after it.
    async fn finish(&self) -> Result<()>;
}

/// Told how many entries a count has looked at so far.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Reads one page after another. Independent of the source's lifetime, so that it can be read in a task of its own.
#[async_trait]
pub trait PageReader<P: Send + 'static = Page>: Send + 'static {
    /// The next page; `None` at the end, and then always.
    ///
    /// Who stops waiting loses nothing: the next call gives the page that this one would have given. The request under
    /// way may go on meanwhile, so that the next call waits for it.
    ///
    /// # Errors
    /// The page could not be read. After a temporary error the next call tries again where this one failed, and nothing is
    /// tried until then; after any other the reader is of no further use.
    async fn next_page(&mut self) -> Result<Option<P>>;
}

/// How much a page may hold. A page may go beyond the bytes by one record.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// Entries.
    pub records: NonZeroUsize,
    /// Bytes of keys and values.
    pub bytes: NonZeroUsize,
    /// Bytes that a source may have on their way at once, behind the pages. How many it has is for bandwidth and distance
    /// to say.
    pub ahead: NonZeroUsize,
}

/// A piece of a scan.
#[derive(Debug, Default)]
pub struct Page {
    /// The selected entries.
    pub entries: Vec<Entry>,
    /// How many entries were read and are not selected.
    pub filtered: u64,
    /// Where to go on after this page; `None` where no later scan could: in a storage without an order, and between two
    /// such places of others.
    pub cursor: Option<Cursor>,
}

/// An entry that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// Something under a selected key that is no record.
    Invalid(Invalid),
}

impl From<Result<Record, Invalid>> for Entry {
    fn from(result: Result<Record, Invalid>) -> Self {
        match result {
            Ok(record) => Self::Record(record),
            Err(invalid) => Self::Invalid(invalid),
        }
    }
}

impl Entry {
    /// The key.
    pub fn key(&self) -> &CacheKey {
        match self {
            Self::Record(record) => record.key(),
            Self::Invalid(invalid) => &invalid.key,
        }
    }

    /// The text of its value, whatever it is.
    pub fn raw(&self) -> &Bytes {
        match self {
            Self::Record(record) => record.value(),
            Self::Invalid(invalid) => &invalid.raw,
        }
    }

    /// Bytes of key and value: what pages and batches are measured by.
    pub fn size(&self) -> usize {
        self.key().as_str().len() + self.raw().len()
    }
}

/// A position in a scan, in words that only its storage understands. It survives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// How many selected records there are, and how many others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// By type; a type that has none may be missing.
    pub by_type: Counts<CacheType>,
    /// What is there and not selected, by kind; `None` where that is not known.
    pub left_out: Option<LeftOut>,
    /// Whether the numbers hold for a moment in time, or are a server's estimate.
    pub exact: bool,
    /// What of a damaged source was left out, where it was to be salvaged.
    pub damage: Option<String>,
}

impl Count {
    /// An exact count of nothing.
    pub fn none() -> Self {
        Self {
            left_out: Some(LeftOut::default()),
            exact: true,
            ..Self::default()
        }
    }

    /// Counts a key, unless it belongs to another share.
    pub fn add(&mut self, selection: &Selection, key: &str) {
        if selection.is_of_shard(key) {
            self.add_kind(selection, key, 1);
        }
    }

    /// Counts records of the share that is selected, whose keys have the mode and the type of this one.
    pub fn add_kind(&mut self, selection: &Selection, key: &str, records: u64) {
        if let Some(cache_type) = selection.of_key(key) {
            self.by_type.add(cache_type, CacheType::Other, records);
        } else if let Some(left_out) = &mut self.left_out {
            left_out.add(LeftOutKind::of_key(key), LeftOutKind::OTHER, records);
        }
    }

    /// Takes back one record of this key, which was counted twice.
    pub(crate) fn remove(&mut self, selection: &Selection, key: &str) {
        if !selection.is_of_shard(key) {
            return;
        }
        if let Some(cache_type) = selection.of_key(key) {
            self.by_type.remove(&cache_type, &CacheType::Other);
        } else if let Some(left_out) = &mut self.left_out {
            left_out.remove(&LeftOutKind::of_key(key), &LeftOutKind::OTHER);
        }
    }

    /// Adds what was counted of another part of the same source.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.by_type.merge(&other.by_type, &CacheType::Other);
        match (&mut self.left_out, &other.left_out) {
            (Some(left_out), Some(other)) => left_out.merge(other, &LeftOutKind::OTHER),
            (left_out, _) => *left_out = None,
        }
        self.exact &= other.exact;
        if self.damage.is_none() {
            self.damage.clone_from(&other.damage);
        }
    }

    /// Whether there is surely nothing, selected or not.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
            && self.exact
            && self.damage.is_none()
            && self.left_out.as_ref().is_some_and(|others| others.total() == 0)
    }

    /// All selected records together.
    pub fn total(&self) -> u64 {
        self.by_type.total()
    }
}

/// What to do with a record whose key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Replace it.
    Upsert,
    /// Leave it, and answer [`WriteOutcome::Exists`].
    Create,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The target has it.
    Written(Changes),
    /// The key was there already, and was left as it was.
    Exists,
    /// The target cannot hold it.
    Rejected {
        /// Why.
        kind: RejectKind,
        /// The same for a person.
        reason: String,
    },
}

impl WriteOutcome {
    /// Written, and nothing of it changed.
    pub fn written() -> Self {
        Self::Written(Changes::default())
    }

    /// A record that the target cannot hold.
    pub fn rejected(kind: RejectKind, reason: impl Into<String>) -> Self {
        Self::Rejected {
            kind,
            reason: reason.into(),
        }
    }
}

/// What a target changed in a record to be able to hold it. Empty for nearly every record, and then costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Fields out of which a character had to go.
    pub sanitized: Vec<String>,
    /// Fields that the target has no place for, and whose loss is one: a null is none.
    pub dropped_fields: Vec<String>,
    /// Fields that the record lacked and the target got, taken from the key.
    pub filled_fields: Vec<&'static str>,
}

/// Collects entries into a page and says when it is full.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    limit: PageLimit,
    page: Page,
    bytes: usize,
}

impl PageBuilder {
    pub(crate) fn new(limit: PageLimit) -> Self {
        Self {
            limit,
            page: Page::default(),
            bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.size();
        self.page.entries.push(entry);
    }

    pub(crate) fn pass_over(&mut self) {
        self.page.filtered += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.page.entries.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.page.entries.len() >= self.limit.records.get() || self.bytes >= self.limit.bytes.get()
    }

    pub(crate) fn take(&mut self, cursor: Option<Cursor>) -> Page {
        self.bytes = 0;
        Page {
            cursor,
            ..std::mem::take(&mut self.page)
        }
    }
}
