//! The storages: a folder for each kind, and the interface between them and the engine.
//!
//! The storages (`json`, `redis`, …) are independent of each other and have the same files: `config.rs` (settings),
//! `codec.rs` (conversion between records and their stored form, pure), `source.rs`, `target.rs`, and `mod.rs`
//! (connecting, and an overview). Only the registry lists them: a new storage is a folder and a line there.
//!
//! # The contract
//!
//! The engine relies on the following. `tests/conformance` checks each sentence for every storage, unless it says that it
//! cannot be observed. The storage in memory, which the engine tests use, does everything that is allowed here.
//!
//! ## Reading
//! * **Order.** [`Source::scan`] returns pages in any order. Two scans of an unchanged source may differ in order.
//! * **Cursors.** A page says where the next one starts. A scan from there returns every entry that existed when the first
//!   scan started and is in no page up to this one; it may return some entries again. A cursor remains valid after the
//!   process ends. A page may have none: a later scan then starts at the previous cursor, or at the beginning. A cursor
//!   that no longer matches the stored data is refused with [`crate::model::ErrorKind::Checkpoint`].
//! * **Duplicates.** A scan returns a key once, unless the record changes during the scan; then it may return the later
//!   value too. The storage removes entries that a server repeats or a file contains twice.
//! * **Retries.** [`PageReader::next_page`] may be called again after a temporary error, and after a call that was
//!   cancelled. No entry is lost or returned twice.
//! * **Concurrency.** A [`PageReader`] has one call in progress at a time. [`Source::count`] and [`Source::get_many`] may be
//!   called at any time, by several tasks.
//! * **A source is never changed**, not even by converting an old layout.
//!
//! ## Writing
//! * **Nothing is created before [`Target::prepare`]**: no table, index, file or folder. Until then a target that does not
//!   exist behaves like an empty one. `prepare` may be called again after it failed.
//! * **Concurrency.** At most [`ConnectOptions::concurrency`] calls of [`Target::write`] are in progress, over all targets of
//!   a connection. No two calls of a target have a key in common, and no call contains a key twice.
//! * **Order.** Concurrent calls take effect in any order. A call that starts after another has ended takes effect after it,
//!   even if the other failed or was cancelled: see the next point.
//! * **Failed calls.** When `write` fails or is cancelled by a timeout, any of its records may have been written, and a
//!   server may still write them after a repeated call has ended. Therefore the engine repeats the call with the same
//!   records before any other write of their keys. After an error that [`crate::model::ErrorKind::is_splittable`], nothing
//!   was written.
//! * **Outcomes** are in the order of the records. `Written` and `Exists` report what the target has accepted; only
//!   [`Target::flush`] makes it durable. After a repeated call, `Exists` may refer to a record that the first call wrote.
//! * **Accepted or durable.** A record is durable after a `flush` that started after its write had returned has succeeded.
//!   Only then may a checkpoint include the record and the final report count it as written. If
//!   [`Target::is_visible_when_flushed`] is false, the same applies to [`Target::finish`] instead.
//! * **`flush` may overlap with writes**: a write in progress when it starts may become durable or not. Two calls of `flush`
//!   of one target do not overlap, unless the first was cancelled. It may be repeated.
//! * **`finish`** is called after the last flush, with no write in progress or following. It may be repeated after a
//!   temporary error.
//! * **[`Target::read_back`]** is called after `finish` and reads records the way LightRAG does.
//! * **Delays.** A storage that has to wait before it repeats a part of a call uses [`ConnectOptions::waiter`].

mod endpoint;
pub(crate) mod files;
mod gathered;
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

// A storage that is excluded from a build keeps its name and settings, so that the error can name it.
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

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

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

/// The metadata of a kind of storage: its names, and the origins of its settings.
#[derive(Debug)]
pub struct ConnectorInfo {
    /// The name on the command line and in reports: `json`.
    pub kind: &'static str,
    /// The display name: `PostgreSQL`.
    pub title: &'static str,
    /// LightRAG's class, also accepted as a name: `PGKVStorage`. `None` if LightRAG has no such storage.
    pub class_name: Option<&'static str>,
    /// Other accepted names: `postgresql`.
    pub aliases: &'static [&'static str],
    /// The URI schemes of this kind.
    pub schemes: &'static [&'static str],
    /// The file extensions of this kind: `.jsonl`.
    pub path_endings: &'static [&'static str],
    /// Whether this kind takes paths with any other extension. At most one kind does.
    pub takes_other_paths: bool,
    /// The section of LightRAG's `config.ini`.
    pub ini_section: Option<&'static str>,
    /// The variable that sets the workspace for this kind only.
    pub workspace_variable: Option<&'static str>,
    /// The key in its section of `config.ini` that sets the workspace for this kind only.
    pub workspace_ini_key: Option<&'static str>,
    /// Whether LightRAG trims white space around the name in that variable or key.
    pub trims_workspace: bool,
    /// The default size of a batch, in bytes. Measured: larger batches are not faster and only cost memory.
    pub batch_bytes: NonZeroUsize,
    /// The most bytes of keys and values that are being written at the same time. A storage has them in memory again, encoded,
    /// some of them several times.
    pub in_flight_bytes: NonZeroUsize,
    /// Every setting, with its names in the job file, the environment and `config.ini`.
    pub fields: &'static [Field],
}

/// A kind of storage: its metadata, the parser of its addresses, and how to connect.
#[async_trait]
pub trait Connector: Send + Sync {
    /// The metadata of the kind.
    fn info(&self) -> &'static ConnectorInfo;

    /// Parses a place (an address with one of the schemes, or a path) into settings.
    ///
    /// # Errors
    /// [`crate::model::ErrorKind::Config`] if the place is invalid. The message does not contain the place, which may include
    /// a password.
    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>>;

    /// The local files with records that these settings name, existing or not; none if the storage is on a server. Opens
    /// nothing.
    fn files(&self, _values: &Values) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Checks the settings and connects.
    ///
    /// # Errors
    /// Invalid settings, an unreachable server, a refused login.
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

    /// The workspace in the value of this kind's variable or key, as LightRAG parses it.
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

    /// LightRAG's class, or the kind if LightRAG has none.
    pub fn class_name(&self) -> &'static str {
        self.info().class_name.unwrap_or(self.info().kind)
    }
}

/// The options that every storage gets when it connects.
#[derive(Clone)]
pub struct ConnectOptions {
    /// The time limit for connecting and for each request.
    pub timeout: Duration,
    /// The most writes in progress at the same time. Bandwidth and round trip decide how many there are.
    pub concurrency: NonZeroUsize,
    /// What to do with a record that the storage could store if one invalid character were removed.
    pub on_invalid: OnInvalid,
    /// Whether to read the intact records of a damaged source.
    pub salvage: bool,
    /// Waits before a storage repeats a request itself, and emits a retry event.
    pub waiter: Arc<dyn Waiter>,
}

impl ConnectOptions {
    /// How long a storage waits for the answer to a request: slightly less than the engine, so that the error says what was
    /// requested.
    #[cfg_attr(not(any(feature = "postgres", feature = "mongo")), allow(dead_code))]
    pub(crate) fn patience(&self) -> Duration {
        self.timeout * 19 / 20
    }
}

/// A connection to one place, which contains the caches of any number of workspaces.
#[async_trait]
pub trait Connection: Send + Sync {
    /// The kind and the redacted place.
    fn location(&self) -> Location;

    /// Warnings about the connection.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The workspaces that have a cache here, and those that cannot be read.
    async fn workspaces(&self) -> Result<WorkspaceListing>;

    /// Where the records of a workspace are stored. Workspaces with the same location would mix their records.
    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation>;

    /// Announces that these workspaces are about to be counted or read, in about this order. A storage that has to scan
    /// everything to find a workspace can scan once for many, as far as they fit into a limited memory. Returns how many
    /// workspaces that covers, counted from the first; at least one.
    ///
    /// The next count or scan of each of them returns the state at the time of this call, or a later one; the one after that
    /// scans again. A later call replaces an earlier one.
    async fn gather(&self, workspaces: &[Workspace]) -> Result<usize> {
        Ok(workspaces.len())
    }

    /// Whether all workspaces become visible together in [`Connection::finish`]: then a run that ends early leaves nothing.
    fn is_published_as_a_whole(&self) -> bool {
        false
    }

    /// Announces the source of the records that are about to be written. Called once, before the first
    /// [`Target::prepare`].
    async fn begin(&self, _source: &Location) -> Result<()> {
        Ok(())
    }

    /// Makes everything visible that is not yet. Called once after every target of a run was finished, and only if the run
    /// wrote everything. It is neither repeated nor cancelled: a storage for which that takes more than one request repeats
    /// them and ends early with [`ConnectOptions::waiter`].
    async fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// Opens a workspace for reading.
    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>>;

    /// Opens a workspace for reading and writing. Creates nothing yet.
    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>>;
}

/// The workspaces of a storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceListing {
    /// The workspaces that have a cache, sorted.
    pub found: Vec<Workspace>,
    /// The workspaces that may have a cache but cannot be read.
    pub unreadable: Vec<UnreadableWorkspace>,
}

/// A workspace that may have a cache but cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableWorkspace {
    /// The name, with invalid characters replaced.
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

/// The cache of one workspace, for reading.
#[async_trait]
pub trait Source: Send + Sync {
    /// Counts the selected records by type, and the others by kind. A long count passes the number of entries scanned so far
    /// to `progress`.
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count>;

    /// Reads the selected records in pages.
    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader>;

    /// Reads records by key. The result has the order of the keys, with `None` for a key that does not exist.
    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>>;

    /// Whether each of these keys exists, in order.
    async fn contains(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let found = self.get_many(keys).await?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// Warnings from counting and reading so far, such as an old layout. Called after a count and after a scan; may return
    /// earlier warnings again.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The cache of one workspace, for writing.
#[async_trait]
pub trait Target: Send + Sync {
    /// The same cache, for reading.
    fn reader(&self) -> Arc<dyn Source>;

    /// Checks, without writing, whether the target would accept writes.
    async fn check_writable(&self) -> Result<()> {
        Ok(())
    }

    /// Creates what is missing: table, index, folder. Called once, before the first write.
    async fn prepare(&self) -> Result<()>;

    /// Writes records with different keys. The outcomes have the order of the records.
    ///
    /// # Errors
    /// [`crate::model::ErrorKind::BatchRefused`] or [`crate::model::ErrorKind::RequestTooLarge`] if a smaller batch may
    /// succeed; nothing was written then. After any other error, any of the records may have been written.
    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>>;

    /// Predicts the outcome of writing a record, without a request: what would be changed, or why it would be rejected.
    fn preview(&self, _record: &Record) -> WriteOutcome {
        WriteOutcome::written()
    }

    /// Whether flushed records are visible at once. If not, they become visible in [`Target::finish`], and a process that is
    /// killed earlier leaves the target unchanged.
    fn is_visible_when_flushed(&self) -> bool {
        true
    }

    /// A warning about writing to this target.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Makes all earlier writes durable.
    async fn flush(&self) -> Result<()>;

    /// Reads records by key after [`Target::finish`], as [`Source::get_many`] does.
    async fn read_back(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        self.reader().get_many(keys).await
    }

    /// Whether each of these keys exists after [`Target::finish`], in order.
    async fn has(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        self.reader().contains(keys).await
    }

    /// The number of entries in the place, if the storage knows it without a scan. It grows with every record that is added.
    /// `None` if [`Source::count`] is cheap enough instead.
    async fn size(&self) -> Result<Option<Size>> {
        Ok(None)
    }

    /// Makes everything written visible that is not yet. Called once after the last flush, even if a run stops early.
    /// Nothing is written after it.
    async fn finish(&self) -> Result<()>;
}

/// Receives the number of entries that a count has scanned so far.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Reads one page after another. Does not borrow from the source, so that a separate task can use it.
#[async_trait]
pub trait PageReader<P: Send + 'static = Page>: Send + 'static {
    /// The next page; at the end, `None` from every call.
    ///
    /// Cancelling a call loses nothing: the next call returns the same page. The request may continue in the meantime, and
    /// the next call waits for it.
    ///
    /// # Errors
    /// The page could not be read. After a temporary error the next call retries; no request is made until then. After any
    /// other error the reader cannot be used any more.
    async fn next_page(&mut self) -> Result<Option<P>>;
}

/// The limits of a page. A page may exceed the bytes by one record.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// The most entries.
    pub records: NonZeroUsize,
    /// The most bytes of keys and values.
    pub bytes: NonZeroUsize,
    /// The most bytes that a source may prefetch. Bandwidth and round trip decide how many it does.
    pub ahead: NonZeroUsize,
}

/// A part of a scan.
#[derive(Debug, Default)]
pub struct Page {
    /// The selected entries.
    pub entries: Vec<Entry>,
    /// The number of entries that were read but not selected.
    pub filtered: u64,
    /// Where a later scan can resume after this page; `None` if it cannot.
    pub cursor: Option<Cursor>,
}

/// An entry that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A valid one.
    Record(Record),
    /// A value under a selected key that is not a record.
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
    /// As stored, valid or not.
    pub fn key(&self) -> &CacheKey {
        match self {
            Self::Record(record) => record.key(),
            Self::Invalid(invalid) => &invalid.key,
        }
    }

    /// The value as it was read.
    pub fn raw(&self) -> &Bytes {
        match self {
            Self::Record(record) => record.value(),
            Self::Invalid(invalid) => &invalid.raw,
        }
    }

    /// The bytes of key and value, as the limits of pages and batches count them.
    pub fn size(&self) -> usize {
        self.key().as_str().len() + self.raw().len()
    }
}

/// A position in a scan, in a format that only its storage understands. It remains valid after the process ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// The numbers of selected and other records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Selected records by type. A type without records may be missing.
    pub by_type: Counts<CacheType>,
    /// What exists but is not selected, by kind; `None` if unknown.
    pub left_out: Option<LeftOut>,
    /// Whether the numbers are exact, not a server's estimate.
    pub exact: bool,
    /// What was skipped in a damaged source, with `--salvage`.
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

    /// Counts a key, unless it belongs to another shard.
    pub fn add(&mut self, selection: &Selection, key: &str) {
        if selection.is_of_shard(key) {
            self.add_kind(selection, key, 1);
        }
    }

    /// Counts records of the selected shard whose keys have the mode and type of this one.
    pub fn add_kind(&mut self, selection: &Selection, key: &str, records: u64) {
        if let Some(cache_type) = selection.of_key(key) {
            self.by_type.add(cache_type, CacheType::Other, records);
        } else if let Some(left_out) = &mut self.left_out {
            left_out.add(LeftOutKind::of_key(key), LeftOutKind::OTHER, records);
        }
    }

    /// Subtracts a record that was counted twice.
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

    /// Adds the count of another part of the same source.
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

    /// Whether there is certainly no record, selected or not.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
            && self.exact
            && self.damage.is_none()
            && self.left_out.as_ref().is_some_and(|others| others.total() == 0)
    }

    /// Whether there may be a selected record.
    pub fn may_have_records(&self) -> bool {
        self.total() > 0 || !self.exact
    }

    /// The number of selected records.
    pub fn total(&self) -> u64 {
        self.by_type.total()
    }
}

/// What to do with a record whose key already exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Replace it.
    Upsert,
    /// Keep it, and return [`WriteOutcome::Exists`].
    Create,
}

/// The number of entries that a target has, as it knows it without a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Entries of any kind.
    pub entries: u64,
    /// Whether it grows by the new records of the workspace alone: not by those of other workspaces or applications, and
    /// not by records that replace others.
    pub grows_by_new_only: bool,
}

/// The outcome of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The target has accepted it.
    Written(Changes),
    /// The key already existed, and its record was kept.
    Exists,
    /// The target cannot store it.
    Rejected {
        /// The kind of reason.
        kind: RejectKind,
        /// The reason as text.
        reason: String,
    },
}

impl WriteOutcome {
    /// Written without changes.
    pub fn written() -> Self {
        Self::Written(Changes::default())
    }

    /// A record that the target cannot store.
    pub fn rejected(kind: RejectKind, reason: impl Into<String>) -> Self {
        Self::Rejected {
            kind,
            reason: reason.into(),
        }
    }
}

/// What a target changed in a record to store it. Empty for nearly every record, and then without any allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Fields from which an invalid character was removed.
    pub sanitized: Vec<String>,
    /// Fields other than null that the target cannot store.
    pub dropped_fields: Vec<String>,
    /// Missing fields that were filled in from the key.
    pub filled_fields: Vec<&'static str>,
}

/// Collects entries into a page until it is full.
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
