//! A storage in memory for the tests of the engine, with faults by script. It is not in the registry.
//!
//! It can do what the contract allows a storage to do, and no test of the engine needs a server or a sleep: with tokio's
//! paused clock, time advances as soon as every task waits.

mod fault;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

pub(crate) use self::fault::{Call, Fault, Script};
use super::{
    ConnectOptions, Connection, Connector, ConnectorInfo, Count, Cursor, Entry, Page, PageBuilder, PageLimit,
    PageReader, Progress, Size, Source, Target, UnreadableWorkspace, WorkspaceListing, WriteMode,
    WriteOutcome,
};
use crate::model::{
    Error, ErrorKind, Location, PhysicalLocation, Result, Secret, Selection, Values, Workspace,
    record::{CacheKey, OnInvalid, Record, RejectKind, TextRules, sanitize},
};

const INFO: ConnectorInfo = ConnectorInfo {
    kind: "memory",
    title: "Memory",
    class_name: Some("MemoryKVStorage"),
    aliases: &[],
    schemes: &["memory"],
    path_endings: &[],
    takes_other_paths: false,
    ini_section: None,
    workspace_variable: None,
    workspace_ini_key: None,
    trims_workspace: false,
    batch_bytes: NonZeroUsize::new(1 << 20).unwrap(),
    in_flight_bytes: NonZeroUsize::new(6 << 20).unwrap(),
    fields: &[],
};

/// How long a call takes: long enough for a checkpoint to be due after a few.
pub(crate) const LATENCY: Duration = Duration::from_millis(400);

/// A server in memory.
pub(crate) struct Memory {
    name: &'static str,
    /// Whether pages come with cursors.
    pub(crate) has_order: bool,
    /// Whether what is flushed is visible at once; otherwise only [`Target::finish`] makes it so.
    pub(crate) is_visible_when_flushed: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    caches: BTreeMap<Workspace, Cache>,
    scripts: Vec<Script>,
    calls: BTreeMap<Call, usize>,
    /// The process that asks is dead: nothing it asks for is done or answered any more.
    is_dead: bool,
    rules: Rules,
    under_way: Vec<BTreeSet<String>>,
    most_under_way: usize,
    misuse: Vec<String>,
    /// The workspaces that were gathered, and neither counted nor read since.
    gathered: BTreeSet<Workspace>,
    /// How often it looked over all that it has: to gather, or to find one workspace that was not gathered.
    looks: usize,
}

impl State {
    fn look_for(&mut self, workspace: &Workspace) {
        if !self.gathered.remove(workspace) {
            self.looks += 1;
        }
    }
}

/// What it does to records.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    /// Batches with one of these keys are refused.
    pub(crate) refuses: BTreeSet<String>,
    /// Batches of more records are too large.
    pub(crate) largest_batch: Option<usize>,
    /// Records with these keys are rejected by name.
    pub(crate) rejects: BTreeSet<String>,
    /// NUL characters are taken out.
    pub(crate) sanitizes: bool,
    /// There is no place for this field.
    pub(crate) drops: Option<&'static str>,
    /// It takes this field from the key.
    pub(crate) fills: Option<&'static str>,
    /// What comes again in a page of this number, from 1: somebody changed it meanwhile.
    pub(crate) again: BTreeMap<usize, Record>,
    /// What it does with records of which it says that they are written, and with which.
    pub(crate) lie: Option<(Lie, Victims)>,
    /// It knows its size without a count: whether one that grows by new records alone.
    pub(crate) knows_size: Option<bool>,
    /// It gathers no more workspaces than this.
    pub(crate) most_gathered: Option<usize>,
    /// Its counts are estimates, of nothing.
    pub(crate) estimates: bool,
    /// How long a call takes, if not [`LATENCY`].
    pub(crate) latency: Option<Duration>,
    /// It can be read, but not written.
    pub(crate) is_read_only: bool,
    /// Workspaces of these names cannot be read.
    pub(crate) unreadable: Vec<&'static str>,
    /// What it warns of as a target.
    pub(crate) warning: Option<&'static str>,
}

/// How a target does not keep what it says it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It does not keep the record.
    Swallow,
    /// It keeps it with another answer.
    Alter,
    /// It keeps it with a time of its own: the one that is no loss.
    AlterTime,
    /// It keeps it without its `return`.
    DropField,
    /// It keeps it under another key, as one workspace's records may come to lie in another.
    Misplace,
    /// It loses it when everything was made durable.
    LoseAfterFlush,
}

/// The records that a lie is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    All,
    /// The record with this key.
    One(&'static str),
}

impl Victims {
    fn contain(self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == key,
        }
    }
}

type Kept = BTreeMap<String, Bytes>;

#[derive(Clone, Default)]
struct Cache {
    accepted: Kept,
    durable: Kept,
    /// What a reader sees of a target that makes things visible at the end.
    visible: Kept,
    is_prepared: bool,
}

impl Cache {
    /// Keeps a value, or what a lie makes of it.
    fn accept(&mut self, key: &str, value: Bytes, lie: Option<Lie>) {
        let changed = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
            let mut fields = serde_json::from_slice(&value).unwrap();
            change(&mut fields);
            Bytes::from(serde_json::to_vec(&fields).unwrap())
        };
        match lie {
            None | Some(Lie::LoseAfterFlush) => self.accepted.insert(key.to_owned(), value),
            Some(Lie::Swallow) => None,
            Some(Lie::Alter) => {
                let value = changed(&|fields| {
                    fields.insert("return".to_owned(), "something else".into());
                });
                self.accepted.insert(key.to_owned(), value)
            }
            Some(Lie::AlterTime) => {
                let value = changed(&|fields| {
                    fields.insert("update_time".to_owned(), 1.into());
                });
                self.accepted.insert(key.to_owned(), value)
            }
            Some(Lie::DropField) => {
                let value = changed(&|fields| {
                    fields.remove("return");
                });
                self.accepted.insert(key.to_owned(), value)
            }
            Some(Lie::Misplace) => self.accepted.insert(format!("{key}-elsewhere"), value),
        };
    }
}

impl Memory {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            has_order: true,
            is_visible_when_flushed: true,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connector to this server. It stays in memory until the process ends.
    pub(crate) fn connector(self: &Arc<Self>) -> &'static dyn Connector {
        Box::leak(Box::new(MemoryConnector(Arc::clone(self))))
    }

    pub(crate) fn add_fault(&self, script: Script) {
        self.state().scripts.push(script);
    }

    pub(crate) fn clear_faults(&self) {
        self.state().scripts.clear();
    }

    pub(crate) fn change_rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state().rules);
    }

    /// Puts records there as somebody else would have.
    pub(crate) fn put(&self, workspace: &Workspace, records: impl IntoIterator<Item = Record>) {
        let mut state = self.state();
        let cache = state.caches.entry(workspace.clone()).or_default();
        for record in records {
            cache
                .accepted
                .insert(record.key().to_string(), record.value().clone());
        }
        cache.durable = cache.accepted.clone();
        cache.visible = cache.accepted.clone();
    }

    /// Removes a record as somebody else would.
    pub(crate) fn remove(&self, workspace: &Workspace, key: &str) {
        if let Some(cache) = self.state().caches.get_mut(workspace) {
            for kept in [&mut cache.accepted, &mut cache.durable, &mut cache.visible] {
                kept.remove(key);
            }
        }
    }

    /// As another process that clears a whole workspace.
    pub(crate) fn clear(&self, workspace: &Workspace) {
        self.state().caches.remove(workspace);
    }

    /// What would still be there if it lost power now.
    pub(crate) fn durable(&self, workspace: &Workspace) -> BTreeMap<String, String> {
        let state = self.state();
        let values = state
            .caches
            .get(workspace)
            .map(|cache| match self.is_visible_when_flushed {
                true => &cache.durable,
                false => &cache.visible,
            });
        let text =
            |(key, value): (&String, &Bytes)| (key.clone(), String::from_utf8_lossy(value).into_owned());
        values.into_iter().flatten().map(text).collect()
    }

    /// How often something was called.
    pub(crate) fn calls(&self, call: Call) -> usize {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// The most writes that were under way at once.
    pub(crate) fn most_under_way(&self) -> usize {
        self.state().most_under_way
    }

    /// How often it looked over all that it has, to gather workspaces or to find one.
    pub(crate) fn looks(&self) -> usize {
        self.state().looks
    }

    /// How the contract was broken by who called.
    pub(crate) fn misuse(&self) -> Vec<String> {
        self.state().misuse.clone()
    }

    /// The process that asks dies.
    pub(crate) fn die(&self) {
        self.state().is_dead = true;
    }

    /// Another process asks. With `lose`, the server lost power meanwhile: what was not durable is gone.
    pub(crate) fn revive(&self, lose: bool) {
        let mut state = self.state();
        state.is_dead = false;
        state.under_way.clear();
        state.calls.clear();
        for cache in state.caches.values_mut() {
            if !self.is_visible_when_flushed {
                cache.accepted = cache.visible.clone();
            } else if lose {
                cache.accepted = cache.durable.clone();
            }
        }
    }

    /// Begins a call: waits as long as it takes, and has the faults that come before its effect. Gives the fault that comes
    /// after it.
    async fn begin(&self, call: Call) -> Result<Option<Fault>> {
        let (fault, latency) = {
            let mut state = self.state();
            let number = state.calls.entry(call).or_default();
            *number += 1;
            let number = *number;
            let script = state.scripts.iter().find(|script| script.is_for(call, number));
            (script.map(|script| script.fault), state.rules.latency)
        };
        tokio::time::sleep(latency.unwrap_or(LATENCY)).await;
        if let Some(Fault::Slow(time)) = fault {
            tokio::time::sleep(time).await;
        }
        if self.state().is_dead || matches!(fault, Some(Fault::Hold)) {
            std::future::pending::<()>().await;
        }
        match fault {
            Some(Fault::Before(kind)) => Err(self.failed(kind, call)),
            Some(Fault::Panic) => panic!("a bug of the storage in {call:?}"),
            Some(Fault::Slow(_)) | None => Ok(None),
            after => Ok(after),
        }
    }

    /// Ends a call: the fault that comes after its effect.
    async fn end<T>(&self, call: Call, fault: Option<Fault>, answer: T) -> Result<T> {
        match fault {
            Some(Fault::After(kind) | Fault::Half(kind)) => Err(self.failed(kind, call)),
            Some(Fault::HoldAfter) => std::future::pending().await,
            _ => Ok(answer),
        }
    }

    fn failed(&self, kind: ErrorKind, call: Call) -> Error {
        Error::new(kind, format!("{}: {call:?} failed by script", self.name))
    }
}

/// A write that is under way; it ends however the call does.
struct UnderWay<'a> {
    memory: &'a Memory,
    keys: BTreeSet<String>,
}

impl<'a> UnderWay<'a> {
    fn begin(memory: &'a Memory, workspace: &Workspace, batch: &[Record]) -> Self {
        let in_workspace = |record: &Record| format!("{workspace} {}", record.key());
        let keys: BTreeSet<String> = batch.iter().map(in_workspace).collect();
        let mut state = memory.state();
        if keys.len() < batch.len() {
            state.misuse.push("a batch contains a key twice".to_owned());
        }
        if state.under_way.iter().any(|other| !other.is_disjoint(&keys)) {
            state.misuse.push("two writes of one key at once".to_owned());
        }
        state.under_way.push(keys.clone());
        state.most_under_way = state.most_under_way.max(state.under_way.len());
        Self { memory, keys }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.memory.state();
        if let Some(at) = state.under_way.iter().position(|keys| *keys == self.keys) {
            state.under_way.remove(at);
        }
    }
}

struct MemoryConnector(Arc<Memory>);

#[async_trait]
impl Connector for MemoryConnector {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, _: &str) -> Result<Vec<(&'static str, Secret)>> {
        Ok(Vec::new())
    }

    async fn connect(&self, _: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        self.0.begin(Call::Connect).await?;
        Ok(Arc::new(MemoryConnection {
            memory: Arc::clone(&self.0),
            on_invalid: options.on_invalid,
        }))
    }
}

struct MemoryConnection {
    memory: Arc<Memory>,
    on_invalid: OnInvalid,
}

impl MemoryConnection {
    fn cache(&self, workspace: &Workspace) -> Arc<MemoryCache> {
        Arc::new(MemoryCache {
            memory: Arc::clone(&self.memory),
            workspace: workspace.clone(),
            on_invalid: self.on_invalid,
        })
    }
}

#[async_trait]
impl Connection for MemoryConnection {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.memory.name.to_owned(),
        }
    }

    async fn workspaces(&self) -> Result<WorkspaceListing> {
        self.memory.begin(Call::Workspaces).await?;
        let state = self.memory.state();
        let mut listing: WorkspaceListing = Vec::from_iter(state.caches.keys().cloned()).into();
        let unreadable = state.rules.unreadable.iter().map(|name| UnreadableWorkspace {
            name: (*name).to_owned(),
            reason: format!("no permission for {name}"),
        });
        listing.unreadable.extend(unreadable);
        Ok(listing)
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        Ok(PhysicalLocation {
            server: self.memory.name.to_owned(),
            place: workspace.name().to_owned(),
        })
    }

    async fn gather(&self, workspaces: &[Workspace]) -> Result<usize> {
        let mut state = self.memory.state();
        let most = state.rules.most_gathered.unwrap_or(usize::MAX);
        state.gathered = workspaces.iter().take(most).cloned().collect();
        state.looks += 1;
        Ok(workspaces.len().min(most).max(1))
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        Ok(self.cache(workspace))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        Ok(self.cache(workspace))
    }
}

#[derive(Clone)]
struct MemoryCache {
    memory: Arc<Memory>,
    workspace: Workspace,
    on_invalid: OnInvalid,
}

impl MemoryCache {
    fn values<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        let state = self.memory.state();
        let none = Cache::default();
        let cache = state.caches.get(&self.workspace).unwrap_or(&none);
        look(match self.memory.is_visible_when_flushed {
            true => &cache.accepted,
            false => &cache.visible,
        })
    }

    /// The record as it would be kept, and what changed in it.
    fn kept(&self, record: &Record) -> (Bytes, WriteOutcome) {
        let rules = self.memory.state().rules.clone();
        if rules.rejects.contains(record.key().as_str()) {
            let outcome = WriteOutcome::rejected(RejectKind::RefusedByTarget, "it says no");
            return (Bytes::new(), outcome);
        }
        let mut changes = super::Changes::default();
        changes.filled_fields.extend(rules.fills);
        let mut fields = serde_json::Map::new();
        for (name, text) in record.fields().iter() {
            if rules.drops == Some(name) {
                changes.dropped_fields.push(name.to_owned());
                continue;
            }
            let mut text = text.to_owned();
            if rules.sanitizes {
                let no_nul = TextRules {
                    nul: false,
                    lone_surrogates: true,
                };
                let clean = match sanitize(&text, no_nul, self.on_invalid) {
                    Ok(clean) => clean.into_owned(),
                    Err(kind) => return (Bytes::new(), WriteOutcome::rejected(kind, "a NUL")),
                };
                if clean != text {
                    changes.sanitized.push(name.to_owned());
                    text = clean;
                }
            }
            fields.insert(name.to_owned(), serde_json::from_str(&text).unwrap());
        }
        if changes == super::Changes::default() {
            return (record.value().clone(), WriteOutcome::written());
        }
        let value = serde_json::to_vec(&fields).unwrap();
        (value.into(), WriteOutcome::Written(changes))
    }
}

#[async_trait]
impl Source for MemoryCache {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let fault = self.memory.begin(Call::Count).await?;
        self.memory.state().look_for(&self.workspace);
        let mut count = Count::none();
        let looked_at = self.values(|values| {
            for key in values.keys() {
                count.add(selection, key);
            }
            values.len() as u64
        });
        progress(looked_at);
        if self.memory.state().rules.estimates {
            count = Count::default();
        }
        self.memory.end(Call::Count, fault, count).await
    }

    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        self.memory.state().look_for(&self.workspace);
        Box::new(MemoryPages {
            after: from.map(|Cursor(key)| key),
            cache: self,
            selection: selection.clone(),
            limit,
            pages: 0,
            is_at_end: false,
        })
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let fault = self.memory.begin(Call::Get).await?;
        let found = self.values(|values| {
            let find = |key: &CacheKey| {
                let value = values.get(key.as_str())?;
                Some(Record::new(key.clone(), value.clone()).into())
            };
            keys.iter().map(find).collect()
        });
        self.memory.end(Call::Get, fault, found).await
    }
}

struct MemoryPages {
    cache: Arc<MemoryCache>,
    selection: Selection,
    limit: PageLimit,
    /// The last key that was given.
    after: Option<String>,
    pages: usize,
    is_at_end: bool,
}

impl MemoryPages {
    /// The page after `after`, its last key, and whether there is more.
    fn page(&self) -> (Page, Option<String>, bool) {
        let mut page = PageBuilder::new(self.limit);
        let mut last = self.after.clone();
        let again = self
            .cache
            .memory
            .state()
            .rules
            .again
            .get(&(self.pages + 1))
            .cloned();
        let from = match &self.after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Unbounded,
        };
        let is_at_end = self.cache.values(|values| {
            for (key, value) in values.range((from, Bound::Unbounded)) {
                if page.is_full() {
                    return false;
                }
                if self.selection.contains(key) {
                    page.push(Record::new(CacheKey::from(key.as_str()), value.clone()).into());
                } else {
                    page.pass_over();
                }
                last = Some(key.clone());
            }
            true
        });
        if let Some(record) = again {
            page.push(Entry::Record(record));
        }
        let cursor = last.clone().filter(|_| self.cache.memory.has_order).map(Cursor);
        (page.take(cursor), last, is_at_end)
    }
}

#[async_trait]
impl PageReader for MemoryPages {
    async fn next_page(&mut self) -> Result<Option<Page>> {
        if self.is_at_end {
            return Ok(None);
        }
        let fault = self.cache.memory.begin(Call::Page).await?;
        let (page, last, is_at_end) = self.page();
        let page = self.cache.memory.end(Call::Page, fault, page).await?;
        (self.after, self.is_at_end) = (last, is_at_end);
        self.pages += 1;
        Ok(Some(page))
    }
}

#[async_trait]
impl Target for MemoryCache {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    async fn check_writable(&self) -> Result<()> {
        if self.memory.state().rules.is_read_only {
            return Err(Error::new(ErrorKind::Permission, "it is read-only"));
        }
        Ok(())
    }

    fn warning(&self) -> Option<String> {
        self.memory.state().rules.warning.map(str::to_owned)
    }

    async fn prepare(&self) -> Result<()> {
        let fault = self.memory.begin(Call::Prepare).await?;
        {
            let mut state = self.memory.state();
            state
                .caches
                .entry(self.workspace.clone())
                .or_default()
                .is_prepared = true;
        }
        self.memory.end(Call::Prepare, fault, ()).await
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let _under_way = UnderWay::begin(&self.memory, &self.workspace, batch);
        let fault = self.memory.begin(Call::Write).await?;
        let rules = self.memory.state().rules.clone();
        if rules.largest_batch.is_some_and(|largest| batch.len() > largest) {
            return Err(self.memory.failed(ErrorKind::RequestTooLarge, Call::Write));
        }
        if batch
            .iter()
            .any(|record| rules.refuses.contains(record.key().as_str()))
        {
            return Err(self.memory.failed(ErrorKind::BatchRefused, Call::Write));
        }
        let done = match fault {
            Some(Fault::Half(_)) => batch.len() / 2,
            _ => batch.len(),
        };
        let mut outcomes = Vec::with_capacity(batch.len());
        for record in &batch[..done] {
            let (value, outcome) = self.kept(record);
            let mut state = self.memory.state();
            let cache = state.caches.entry(self.workspace.clone()).or_default();
            let is_prepared = cache.is_prepared;
            let is_there = cache.accepted.contains_key(record.key().as_str());
            outcomes.push(match outcome {
                WriteOutcome::Written(_) if mode == WriteMode::Create && is_there => WriteOutcome::Exists,
                WriteOutcome::Written(changes) => {
                    let lie = rules
                        .lie
                        .filter(|(_, victims)| victims.contain(record.key().as_str()));
                    cache.accept(record.key().as_str(), value, lie.map(|(lie, _)| lie));
                    WriteOutcome::Written(changes)
                }
                other => other,
            });
            if !is_prepared {
                state
                    .misuse
                    .push("a write before the target was prepared".to_owned());
            }
        }
        self.memory.end(Call::Write, fault, outcomes).await
    }

    fn preview(&self, record: &Record) -> WriteOutcome {
        self.kept(record).1
    }

    fn is_visible_when_flushed(&self) -> bool {
        self.memory.is_visible_when_flushed
    }

    async fn flush(&self) -> Result<()> {
        // What is accepted while it is flushed may be durable or not; here it is not.
        let accepted = {
            let state = self.memory.state();
            state
                .caches
                .get(&self.workspace)
                .map(|cache| cache.accepted.clone())
        };
        let fault = self.memory.begin(Call::Flush).await?;
        {
            let mut state = self.memory.state();
            let cache = state.caches.entry(self.workspace.clone()).or_default();
            cache.durable.extend(accepted.unwrap_or_default());
        }
        self.memory.end(Call::Flush, fault, ()).await
    }

    async fn finish(&self) -> Result<()> {
        let fault = self.memory.begin(Call::Finish).await?;
        {
            let mut state = self.memory.state();
            let lie = state.rules.lie;
            let cache = state.caches.entry(self.workspace.clone()).or_default();
            if let Some((Lie::LoseAfterFlush, victims)) = lie {
                cache.accepted.retain(|key, _| !victims.contain(key));
                cache.durable.retain(|key, _| !victims.contain(key));
            }
            cache.visible = cache.accepted.clone();
        }
        self.memory.end(Call::Finish, fault, ()).await
    }

    async fn size(&self) -> Result<Option<Size>> {
        let fault = self.memory.begin(Call::Size).await?;
        let knows_size = self.memory.state().rules.knows_size;
        let size = knows_size.map(|grows_by_new_only| Size {
            entries: self.values(|values| values.len() as u64),
            grows_by_new_only,
        });
        self.memory.end(Call::Size, fault, size).await
    }
}
