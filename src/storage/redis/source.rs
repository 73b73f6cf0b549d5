//! Reading from Redis.
//!
//! `SCAN` finds the keys, in an order that means nothing and may repeat them; a set of digests, 20 bytes a key, knows
//! what was seen. `STRLEN` then tells how large the values are, so that no answer is larger than a page; a login that may
//! not ask gets fewer values at once. Values are fetched by `GET`s sent together: as fast as `MGET`, and each may fail by
//! itself.
//!
//! LightRAG itself needs `PING`, `GET`, `EXISTS`, `SET` and transactions, and looks for old keys with `KEYS`. Where `SCAN`
//! is refused, `KEYS` is asked.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use redis::{Pipeline, Value, cmd, pipe};
use tokio::sync::{mpsc, watch};

use super::{
    codec::{Namespace, StoredKey, old_entries, pattern_of_all, workspace_of},
    gathered::{Gathering, Keys},
    server::{Server, ServerEpoch, is_not_offered},
};
use crate::{
    model::{
        Error, Result, Selection, Workspace,
        record::{CacheKey, KeyDigest, KeySet},
    },
    storage::{
        Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageReader, Progress, Source,
        window::{Passage, Window, WindowLimit},
    },
};

/// Where `SCAN` begins, and what it answers at the end.
const FIRST_CURSOR: &[u8] = b"0";

/// How many keys the server is asked to look at for one answer of `SCAN`, and how many at most: it does nothing else
/// meanwhile, for a few milliseconds.
const SCAN_COUNT: u32 = 1000;
const MOST_SCAN_COUNT: u32 = 8000;

/// An answer that takes longer is far away, and so is worth more keys.
const FAR: Duration = Duration::from_millis(5);

/// How many values are asked for together, at most.
const GROUP_KEYS: usize = 128;

/// How many bytes of values are asked for together, unless one alone has more.
const GROUP_BYTES: u64 = 512 << 10;

/// Groups of a look-up that are asked for at the same time.
const GROUPS_AT_ONCE: usize = 4;

/// What a value is taken to have whose size the login may not ask for.
const UNKNOWN_BYTES: u64 = 32 << 10;

/// How many groups are on their way at the same time, at most.
const GROUPS_IN_FLIGHT: usize = 64;

/// How many groups wait to be sent, at most: of a server far away, about as many as one answer of `SCAN` makes.
const GROUPS_WAITING: usize = 32;

/// A page comes at least so often, empty if need be, so that a long search for few keys is not taken for silence.
const PAGE_EVERY: Duration = Duration::from_secs(1);

const READING_KEYS: &str = "reading keys";
const READING: &str = "reading records";

/// The keys of a workspace, to read.
pub(super) struct RedisSource {
    server: Arc<Server>,
    namespace: Namespace,
    /// Whether the login may not ask for the size of a value.
    lacks_sizes: AtomicBool,
}

/// The value of a key.
enum Held {
    Value(Bytes),
    Nothing,
    /// A list, a hash, or another type that no record has.
    NotString,
}

/// What is fetched at once.
#[derive(Default)]
struct Group {
    keys: Vec<StoredKey>,
    /// Entries that are known already: keys that hold no string.
    known: Vec<Entry>,
    filtered: u64,
    /// Bytes of the values, as far as they are known.
    bytes: u64,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.known.is_empty()
    }
}

/// Why a scan ends early.
enum Stop {
    /// The reader of the pages was dropped.
    Unread,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The channel between a scan and its reader.
struct Reader {
    pages: mpsc::Sender<Result<Page>>,
    /// How often the reader asked again after an error.
    asked: watch::Receiver<u64>,
    /// The same at the last reported error.
    reported: Mutex<Option<u64>>,
}

impl Reader {
    /// Makes a request. A temporary error is reported, and the request is repeated when the reader asks again.
    async fn insist<T, F>(&self, request: impl Fn() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            let asked = *self.asked.borrow();
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_temporary() => self.tell(error, asked).await?,
                Err(error) => return Err(Stop::Failed(error)),
            }
            let mut again = self.asked.clone();
            if again.wait_for(|now| *now > asked).await.is_err() {
                return Err(Stop::Unread);
            }
        }
    }

    /// Reports an error. Of requests that failed together, as with their connection, only the first reports it.
    async fn tell(&self, error: Error, asked: u64) -> Result<(), Stop> {
        {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            if reported.is_some_and(|reported| reported >= asked) {
                return Ok(());
            }
            *reported = Some(asked);
        }
        self.send(Err(error)).await
    }

    async fn send(&self, page: Result<Page>) -> Result<(), Stop> {
        self.pages.send(page).await.map_err(|_| Stop::Unread)
    }
}

/// The pages from a [`Reader`].
struct ReceivedPages {
    received: mpsc::Receiver<Result<Page>>,
    asks: watch::Sender<u64>,
    failed: bool,
}

#[async_trait]
impl PageReader for ReceivedPages {
    async fn next_page(&mut self) -> Result<Option<Page>> {
        if std::mem::take(&mut self.failed) {
            self.asks.send_modify(|times| *times += 1);
        }
        let page = self.received.recv().await.transpose();
        self.failed = page.is_err();
        page
    }
}

/// Sends pages as they fill.
struct Pages<'a> {
    page: PageBuilder,
    sent: Instant,
    reader: &'a Reader,
}

impl Pages<'_> {
    async fn push(&mut self, entry: Entry) -> Result<(), Stop> {
        self.page.push(entry);
        if self.page.is_full() {
            self.send().await?;
        }
        Ok(())
    }

    async fn send_if_late(&mut self) -> Result<(), Stop> {
        if self.sent.elapsed() >= PAGE_EVERY {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Stop> {
        self.sent = Instant::now();
        // Where the order means nothing, no place in it does.
        self.reader.send(Ok(self.page.take(None))).await
    }
}

/// Goes through the keys of a database.
///
/// A cursor is valid until the server restarts. Then the scan starts again, and repeated keys are handled by its
/// asks to sort out, as with everything that `SCAN` repeats.
struct Scan {
    pattern: String,
    /// How many keys to look at for the next answer.
    count: u32,
    /// Where to go on; `None` at the end.
    cursor: Option<Vec<u8>>,
    /// The life of the server in which the cursor means something; `None` at the beginning.
    life: Option<ServerEpoch>,
}

/// An answer of `SCAN`.
struct Found {
    life: ServerEpoch,
    cursor: Vec<u8>,
    keys: Vec<Vec<u8>>,
    took: Duration,
}

impl Found {
    fn read(server: &Server, life: ServerEpoch, answer: Value, took: Duration) -> Result<Self> {
        let unexpected = || server.unexpected(READING_KEYS);
        let parts = match answer {
            Value::Array(parts) => parts,
            Value::ServerError(error) => return Err(server.refused(READING_KEYS, &error)),
            _ => return Err(unexpected()),
        };
        let [Value::BulkString(cursor), Value::Array(keys)] =
            <[Value; 2]>::try_from(parts).map_err(|_| unexpected())?
        else {
            return Err(unexpected());
        };
        let keys = keys.into_iter().map(|key| match key {
            Value::BulkString(key) => Ok(key),
            _ => Err(unexpected()),
        });
        Ok(Self {
            life,
            cursor,
            keys: keys.collect::<Result<_>>()?,
            took,
        })
    }
}

impl Scan {
    fn new(pattern: String) -> Self {
        Self {
            pattern,
            count: SCAN_COUNT,
            cursor: Some(FIRST_CURSOR.to_vec()),
            life: None,
        }
    }

    /// Adds the command for the next keys. `false` at the end.
    fn add_to(&self, commands: &mut Pipeline) -> bool {
        let Some(cursor) = &self.cursor else {
            return false;
        };
        commands
            .cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(&self.pattern)
            .arg("COUNT")
            .arg(self.count);
        true
    }

    /// Continues after the keys that were found.
    fn take(&mut self, found: Found) -> Vec<Vec<u8>> {
        if self.life.is_some_and(|life| life != found.life) {
            self.cursor = Some(FIRST_CURSOR.to_vec());
            self.life = None;
            return Vec::new();
        }
        if found.took > FAR {
            self.count = (self.count * 2).min(MOST_SCAN_COUNT);
        }
        self.life = Some(found.life);
        self.cursor = (found.cursor != FIRST_CURSOR).then_some(found.cursor);
        found.keys
    }

    /// Asks for the next keys; `None` at the end.
    async fn ask(&self, server: &Server) -> Result<Option<Found>> {
        let mut commands = pipe();
        if !self.add_to(&mut commands) {
            return Ok(None);
        }
        let asked = Instant::now();
        let (life, mut answers) = server.many_in_life(READING_KEYS, &commands).await?;
        match answers.pop().unwrap_or_default() {
            Value::ServerError(error) if is_not_offered(&error) && self.life.is_none() => {
                let all = Self::all_at_once(server, &self.pattern).await?;
                // It is the refusal of the better way that says what is missing.
                let keys = all.ok_or_else(|| server.refused(READING_KEYS, &error))?;
                Ok(Some(Found {
                    life,
                    cursor: FIRST_CURSOR.to_vec(),
                    keys,
                    took: asked.elapsed(),
                }))
            }
            answer => Found::read(server, life, answer, asked.elapsed()).map(Some),
        }
    }

    /// All keys, as LightRAG itself asks for them when it starts; `None` where that is refused as well.
    async fn all_at_once(server: &Server, pattern: &str) -> Result<Option<Vec<Vec<u8>>>> {
        match server.try_one(READING_KEYS, cmd("KEYS").arg(pattern)).await? {
            Value::Array(keys) => Ok(Some(
                keys.into_iter()
                    .filter_map(|key| match key {
                        Value::BulkString(key) => Some(key),
                        _ => None,
                    })
                    .collect(),
            )),
            Value::ServerError(error) if is_not_offered(&error) => Ok(None),
            Value::ServerError(error) => Err(server.refused(READING_KEYS, &error)),
            _ => Err(server.unexpected(READING_KEYS)),
        }
    }

    /// The next keys; `None` at the end.
    async fn next(&mut self, server: &Server) -> Result<Option<Vec<Vec<u8>>>> {
        let found = self.ask(server).await?;
        Ok(found.map(|found| self.take(found)))
    }
}

/// Where the keys of a workspace come from.
enum FoundKeys {
    Scan(Scan),
    Gathered(Keys),
}

impl FoundKeys {
    /// All keys of a workspace that match the pattern, and perhaps others of the workspace.
    fn of(source: &RedisSource, pattern: String) -> Self {
        match source.server.gathered.take(source.namespace.prefix()) {
            Some(keys) => Self::Gathered(keys),
            None => Self::Scan(Scan::new(pattern)),
        }
    }

    /// Takes the next keys out of an answer, or of those that are known; `None` at the end.
    fn take(&mut self, namespace: &Namespace, found: Option<Found>) -> Option<Vec<Vec<u8>>> {
        match self {
            Self::Scan(scan) => found.map(|found| scan.take(found)),
            Self::Gathered(keys) => keys.next(namespace.prefix(), SCAN_COUNT as usize),
        }
    }
}

/// Looks once for the keys of many workspaces: see [`crate::storage::Connection::gather`].
pub(super) async fn gather(server: &Server, workspaces: &[Workspace]) -> Result<usize> {
    server.gathered.clear();
    if workspaces.len() < 2 {
        return Ok(workspaces.len());
    }
    let prefix = |workspace| Namespace::new(workspace).prefix().to_owned();
    let mut gathering = Gathering::of(workspaces.iter().map(prefix).collect());
    let mut scan = Scan::new(pattern_of_all());
    loop {
        match scan.next(server).await {
            Ok(Some(keys)) => keys.iter().for_each(|key| gathering.add(key)),
            Ok(None) => return Ok(gathering.keep_in(&server.gathered)),
            Err(error) if error.is_temporary() => return Err(error),
            Err(error) => {
                // What a login may not ask of all keys it may still ask of those of a workspace.
                tracing::debug!("workspaces are looked for one by one: {error}");
                return Ok(workspaces.len());
            }
        }
    }
}

/// The workspaces that have keys on a server, sorted.
pub(super) async fn workspaces(server: &Server) -> Result<Vec<Workspace>> {
    let mut names = BTreeSet::new();
    let mut scan = Scan::new(pattern_of_all());
    while let Some(keys) = scan.next(server).await? {
        for name in keys.iter().filter_map(|key| workspace_of(key)) {
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
    }
    // A name that LightRAG refuses is none of its workspaces.
    let mut found: Vec<Workspace> = names
        .into_iter()
        .filter_map(|name| Workspace::new(name).ok())
        .collect();
    found.sort();
    Ok(found)
}

impl RedisSource {
    pub(super) fn new(server: Arc<Server>, workspace: &Workspace) -> Self {
        Self {
            server,
            namespace: Namespace::new(workspace),
            lacks_sizes: AtomicBool::new(false),
        }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A key that contains records in the old layout, if there is one.
    pub(super) async fn first_old_key(&self) -> Result<Option<String>> {
        let keys = self.namespace.all_old_keys();
        let lengths = self.lengths(keys.iter().map(|(_, key)| key.as_bytes())).await?;
        self.first_old_key_of(&lengths).await
    }

    /// Adds the questions for the sizes of the values under old keys.
    pub(super) fn ask_for_old_keys(&self, commands: &mut Pipeline) {
        for (_, key) in self.namespace.all_old_keys() {
            commands.cmd("STRLEN").arg(key);
        }
    }

    /// The first old key with a record, given the answers about all old keys.
    pub(super) async fn first_old_key_in(&self, answers: Vec<Value>) -> Result<Option<String>> {
        let lengths: Result<Vec<_>> = answers.into_iter().map(|answer| self.length(answer)).collect();
        self.first_old_key_of(&lengths?).await
    }

    async fn first_old_key_of(&self, lengths: &[Option<u64>]) -> Result<Option<String>> {
        let keys = self.namespace.all_old_keys();
        for ((_, key), length) in keys.iter().zip(lengths) {
            // Skip empty keys.
            if matches!(length, Some(1..))
                && let Some(value) = self.value(key).await?
                && old_entries("", key, &value)
                    .iter()
                    .any(|entry| matches!(entry, Entry::Record(_)))
            {
                return Ok(Some(key.clone()));
            }
        }
        Ok(None)
    }

    /// Whether any key is of today's layout.
    pub(super) async fn has_keys_of_today(&self) -> Result<bool> {
        let mut scan = Scan::new(self.namespace.pattern_of_today());
        while let Some(keys) = scan.next(&self.server).await? {
            let mut stored = keys.into_iter().filter_map(|key| self.namespace.stored_key(key));
            if stored.any(|stored| stored.key.parts().is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The size of each key's value in bytes, 0 if it does not exist; `None` if it is not a string. An estimate for all if
    /// the login may not ask.
    async fn lengths<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Result<Vec<Option<u64>>> {
        if self.lacks_sizes.load(Ordering::Relaxed) {
            return Ok(keys.map(|_| Some(UNKNOWN_BYTES)).collect());
        }
        let mut commands = pipe();
        for key in keys {
            commands.cmd("STRLEN").arg(key);
        }
        let answers = self.server.many(READING_KEYS, &commands).await?;
        answers.into_iter().map(|answer| self.length(answer)).collect()
    }

    fn length(&self, answer: Value) -> Result<Option<u64>> {
        match answer {
            Value::Int(length) => Ok(Some(u64::try_from(length).unwrap_or(0))),
            Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(None),
            Value::ServerError(error) if is_not_offered(&error) => {
                if !self.lacks_sizes.swap(true, Ordering::Relaxed) {
                    let refused = self.server.refused(READING_KEYS, &error);
                    tracing::debug!("values are fetched without their sizes: {refused}");
                }
                Ok(Some(UNKNOWN_BYTES))
            }
            Value::ServerError(error) => Err(self.server.refused(READING_KEYS, &error)),
            _ => Err(self.server.unexpected(READING_KEYS)),
        }
    }

    /// What keys hold.
    async fn values<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Result<Vec<Held>> {
        let mut commands = pipe();
        for key in keys {
            commands.cmd("GET").arg(key);
        }
        let answers = self.server.many(READING, &commands).await?;
        let value = |answer| match answer {
            Value::BulkString(value) => Ok(Held::Value(Bytes::from(value))),
            Value::Nil => Ok(Held::Nothing),
            Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(Held::NotString),
            Value::ServerError(error) => Err(self.server.refused(READING, &error)),
            _ => Err(self.server.unexpected(READING)),
        };
        answers.into_iter().map(value).collect()
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>> {
        let mut values = self.values([key.as_bytes()].into_iter()).await?;
        Ok(match values.pop() {
            Some(Held::Value(value)) => Some(value),
            _ => None,
        })
    }

    /// The entry of a key that is not a string; `None` if it has been removed since.
    async fn entry_of_type(&self, key: StoredKey) -> Result<Option<Entry>> {
        let answer = self
            .server
            .try_one(READING_KEYS, cmd("TYPE").arg(&key.raw))
            .await?;
        Ok(match answer {
            Value::SimpleString(kind) if kind == "none" => None,
            Value::SimpleString(kind) => Some(key.entry_of_type(&kind)),
            _ => Some(key.entry_of_type("value of another type")),
        })
    }

    async fn send_pages(&self, selection: &Selection, limit: PageLimit, reader: &Reader) -> Result<(), Stop> {
        let mut pages = Pages {
            page: PageBuilder::new(limit),
            sent: Instant::now(),
            reader,
        };
        // Keys are looked for while the values of those before are on their way.
        let (groups, found) = mpsc::channel(GROUPS_WAITING);
        let ((mut seen, has_old), ()) = future::try_join(
            self.send_groups(selection, reader, groups),
            self.send_values(found, limit, &mut pages),
        )
        .await?;
        if has_old {
            self.send_old(selection, &mut seen, &mut pages).await?;
        }
        pages.send().await
    }

    /// Looks for keys, and sends them in groups whose values fit in memory. Gives the keys that were seen, and whether
    /// any may be of the old layout.
    async fn send_groups(
        &self,
        selection: &Selection,
        reader: &Reader,
        groups: mpsc::Sender<Group>,
    ) -> Result<(KeySet, bool), Stop> {
        let mut seen = KeySet::new();
        let mut keys = FoundKeys::of(self, self.namespace.pattern(selection));
        // A pattern may leave them out.
        let mut has_old = matches!(keys, FoundKeys::Scan(_));
        let mut fresh: Vec<StoredKey> = Vec::new();
        let mut sent = Instant::now();
        loop {
            let (lengths, found) = reader.insist(|| self.look(&fresh, &keys)).await?;
            let found = keys.take(&self.namespace, found);
            let goes_on = found.is_some();
            let found = found.unwrap_or_default();
            let mut group = Group::default();
            for (key, length) in std::mem::take(&mut fresh).into_iter().zip(lengths) {
                let Some(length) = length else {
                    let known = reader.insist(|| self.entry_of_type(key.clone())).await?;
                    group.known.extend(known);
                    continue;
                };
                let is_full = group.keys.len() >= GROUP_KEYS || group.bytes + length > GROUP_BYTES;
                if is_full && !group.is_empty() {
                    send_group(&groups, std::mem::take(&mut group)).await?;
                    sent = Instant::now();
                }
                group.bytes += length;
                group.keys.push(key);
            }
            for key in found.into_iter().filter_map(|key| self.namespace.stored_key(key)) {
                if Namespace::is_old_key(&key.key) {
                    // Its value is read later.
                    has_old = true;
                } else if !selection.contains(key.key.as_str()) {
                    group.filtered += 1;
                } else if seen.insert(key.digest()) {
                    fresh.push(key);
                }
            }
            if !group.is_empty() || sent.elapsed() >= PAGE_EVERY || !goes_on {
                send_group(&groups, group).await?;
                sent = Instant::now();
            } else if group.filtered > 0 {
                send_group(&groups, group).await?;
            }
            if !goes_on {
                return Ok((seen, has_old));
            }
        }
    }

    /// In one request, asks for the sizes of what was found last, and for the next keys.
    async fn look(&self, fresh: &[StoredKey], keys: &FoundKeys) -> Result<(Vec<Option<u64>>, Option<Found>)> {
        let FoundKeys::Scan(scan) = keys else {
            let lengths = self.lengths(fresh.iter().map(|key| &key.raw[..])).await?;
            return Ok((lengths, None));
        };
        // A first answer may be a refusal, which the scan knows how to go around.
        if self.lacks_sizes.load(Ordering::Relaxed) || fresh.is_empty() {
            let lengths = self.lengths(fresh.iter().map(|key| &key.raw[..])).await?;
            return Ok((lengths, scan.ask(&self.server).await?));
        }
        let mut commands = pipe();
        for key in fresh {
            commands.cmd("STRLEN").arg(&key.raw);
        }
        let goes_on = scan.add_to(&mut commands);
        if commands.is_empty() {
            return Ok((Vec::new(), None));
        }
        let asked = Instant::now();
        let (life, mut answers) = self.server.many_in_life(READING_KEYS, &commands).await?;
        let found = match answers.pop() {
            Some(answer) if goes_on => Some(Found::read(&self.server, life, answer, asked.elapsed())?),
            last => {
                answers.extend(last);
                None
            }
        };
        let lengths = answers.into_iter().map(|answer| self.length(answer));
        Ok((lengths.collect::<Result<_>>()?, found))
    }

    /// Fetches the values of groups, and sends them in pages.
    async fn send_values(
        &self,
        groups: mpsc::Receiver<Group>,
        limit: PageLimit,
        pages: &mut Pages<'_>,
    ) -> Result<(), Stop> {
        let window = Window::for_reading(WindowLimit {
            requests: GROUPS_IN_FLIGHT,
            bytes: limit.ahead.get(),
        });
        let groups = stream::unfold(groups, |mut groups| async {
            groups.recv().await.map(|group| (group, groups))
        });
        let fetched = groups
            .then(|group| {
                let bytes = usize::try_from(group.bytes).unwrap_or(usize::MAX);
                let passage = Arc::clone(&window).enter(bytes);
                async move { (group, passage.await) }
            })
            .map(|(group, passage)| self.fetch(pages.reader, group, passage))
            .buffered(GROUPS_IN_FLIGHT);
        let mut fetched = std::pin::pin!(fetched);
        // What was fetched counts until it is in a page.
        while let Some((entries, filtered, _passage)) = fetched.try_next().await? {
            (0..filtered).for_each(|_| pages.page.pass_over());
            for entry in entries {
                pages.push(entry).await?;
            }
            pages.send_if_late().await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        reader: &Reader,
        group: Group,
        mut passage: Passage,
    ) -> Result<(Vec<Entry>, u64, Passage), Stop> {
        let keys = || group.keys.iter().map(|key| &key.raw[..]);
        passage.send();
        let values = reader.insist(|| self.values(keys())).await?;
        passage.answer();
        let mut found = group.known;
        for (key, held) in group.keys.into_iter().zip(values) {
            match held {
                Held::Value(value) => found.push(key.entry(value)),
                Held::NotString => found.extend(reader.insist(|| self.entry_of_type(key.clone())).await?),
                // What went between the two looks was never there.
                Held::Nothing => {}
            }
        }
        Ok((found, group.filtered, passage))
    }

    /// Sends the records in keys of the old layout that have no current key.
    async fn send_old(
        &self,
        selection: &Selection,
        seen: &mut KeySet,
        pages: &mut Pages<'_>,
    ) -> Result<(), Stop> {
        let reader = pages.reader;
        let keys = || self.there(self.namespace.old_keys(selection));
        for (mode, key) in reader.insist(keys).await? {
            for entry in reader.insist(|| self.old_entries(mode, &key)).await? {
                if !selection.contains(entry.key().as_str()) {
                    pages.page.pass_over();
                } else if seen.insert(KeyDigest::of(entry.key().as_str())) {
                    pages.push(entry).await?;
                }
            }
        }
        Ok(())
    }

    /// Those of these keys of the old layout that are there.
    async fn there(&self, keys: Vec<(&'static str, String)>) -> Result<Vec<(&'static str, String)>> {
        let lengths = self.lengths(keys.iter().map(|(_, key)| key.as_bytes())).await?;
        let there = keys.into_iter().zip(lengths);
        Ok(there
            .filter_map(|(key, length)| (length? > 0).then_some(key))
            .collect())
    }

    /// The content of a key of the old layout.
    async fn old_entries(&self, mode: &str, key: &str) -> Result<Vec<Entry>> {
        let value = self.value(key).await?;
        Ok(value.map_or_else(Vec::new, |value| old_entries(mode, key, &value)))
    }

    /// Looks in keys of the old layout for records without a current key.
    async fn find_old(&self, keys: &[CacheKey], found: &mut [Option<Entry>]) -> Result<()> {
        let mut missing: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut modes = BTreeSet::new();
        for (at, key) in keys.iter().enumerate().filter(|(at, _)| found[*at].is_none()) {
            if let Some((mode, _, _)) = key.parts() {
                missing.entry(key.as_str()).or_default().push(at);
                modes.insert(mode);
            }
        }
        let stored: Vec<(&str, String)> = modes
            .into_iter()
            .map(|mode| (mode, self.namespace.old_key(mode)))
            .collect();
        let lengths = self.lengths(stored.iter().map(|(_, key)| key.as_bytes())).await?;
        for ((mode, key), length) in stored.iter().zip(lengths) {
            if length.is_none_or(|length| length == 0) {
                continue;
            }
            for entry in self.old_entries(mode, key).await? {
                for at in missing.remove(entry.key().as_str()).unwrap_or_default() {
                    found[at] = Some(entry.clone());
                }
            }
        }
        Ok(())
    }
}

async fn send_group(groups: &mpsc::Sender<Group>, group: Group) -> Result<(), Stop> {
    groups.send(group).await.map_err(|_| Stop::Unread)
}

#[async_trait]
impl Source for RedisSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let mut count = Count::none();
        let mut seen = KeySet::new();
        // A server looks at all its keys, whatever the pattern, so what is not selected is counted on the way.
        let mut keys = FoundKeys::of(self, self.namespace.pattern_of_workspace());
        let mut old_keys = BTreeSet::new();
        let mut looked_at = 0;
        loop {
            let found = match &keys {
                FoundKeys::Scan(scan) => scan.ask(&self.server).await?,
                FoundKeys::Gathered(_) => None,
            };
            let Some(keys) = keys.take(&self.namespace, found) else {
                break;
            };
            looked_at += keys.len() as u64;
            for key in keys.into_iter().filter_map(|key| self.namespace.stored_key(key)) {
                if Namespace::is_old_key(&key.key) {
                    old_keys.insert(key.raw);
                } else if seen.insert(key.digest()) {
                    count.add(selection, key.key.as_str());
                }
            }
            progress(looked_at);
        }
        let mut old = self.namespace.all_old_keys();
        old.retain(|(_, key)| old_keys.contains(key.as_bytes()));
        for (mode, key) in self.there(old).await? {
            for entry in self.old_entries(mode, &key).await? {
                let key = entry.key().as_str();
                if seen.insert(KeyDigest::of(key)) {
                    count.add(selection, key);
                }
            }
        }
        Ok(count)
    }

    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        _: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        let selection = selection.clone();
        // One page is on its way while the next is read.
        let (pages, received) = mpsc::channel(1);
        let (asks, asked) = watch::channel(0);
        let reader = Reader {
            pages,
            asked,
            reported: Mutex::default(),
        };
        tokio::spawn(async move {
            if let Err(Stop::Failed(error)) = self.send_pages(&selection, limit, &reader).await {
                let _ = reader.send(Err(error)).await;
            }
        });
        Box::new(ReceivedPages {
            received,
            asks,
            failed: false,
        })
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let stored: Vec<StoredKey> = keys
            .iter()
            .map(|key| StoredKey {
                raw: self.namespace.key(key).into_bytes(),
                key: key.clone(),
                readable: true,
            })
            .collect();
        let lengths = self.lengths(stored.iter().map(|key| &key.raw[..])).await?;
        let mut found: Vec<Option<Entry>> = vec![None; keys.len()];
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let (mut bytes, mut full) = (0, true);
        for (at, length) in lengths.into_iter().enumerate() {
            let Some(length) = length else {
                found[at] = self.entry_of_type(stored[at].clone()).await?;
                continue;
            };
            full |= bytes + length > GROUP_BYTES;
            if full {
                groups.push(Vec::new());
                bytes = 0;
            }
            bytes += length;
            if let Some(group) = groups.last_mut() {
                group.push(at);
                full = group.len() >= GROUP_KEYS;
            }
        }
        let reading = groups.into_iter().map(|group| {
            let keys: Vec<&[u8]> = group.iter().map(|at| &stored[*at].raw[..]).collect();
            async move { Ok((group, self.values(keys.into_iter()).await?)) }
        });
        let reading: Vec<_> = reading.collect();
        let mut answers = stream::iter(reading).buffered(GROUPS_AT_ONCE);
        while let Some((group, values)) = answers.try_next().await? {
            for (at, held) in group.into_iter().zip(values) {
                found[at] = match held {
                    Held::Value(value) => Some(stored[at].clone().entry(value)),
                    Held::NotString => self.entry_of_type(stored[at].clone()).await?,
                    Held::Nothing => None,
                };
            }
        }
        self.find_old(keys, &mut found).await?;
        Ok(found)
    }

    async fn contains(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let mut commands = pipe();
        for key in keys {
            commands.cmd("EXISTS").arg(self.namespace.key(key));
        }
        let answers = self.server.many(READING_KEYS, &commands).await?;
        let mut there: Vec<bool> = answers
            .iter()
            .map(|answer| matches!(answer, Value::Int(1..)))
            .collect();
        // The value itself shows the size of a key if the server does not, and whether it has the old layout.
        let rest: Vec<usize> = (0..keys.len()).filter(|at| !there[*at]).collect();
        let is_answered = answers.iter().all(|answer| matches!(answer, Value::Int(_)));
        if rest.is_empty() || (is_answered && self.first_old_key().await?.is_none()) {
            return Ok(there);
        }
        let asked: Vec<CacheKey> = rest.iter().map(|at| keys[*at].clone()).collect();
        for (at, found) in rest.into_iter().zip(self.get_many(&asked).await?) {
            there[at] = found.is_some();
        }
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::server::tests::{GREETING, GREETING_OF_ANOTHER, server},
        *,
    };

    const A_THEN_5: &str = "*2\r\n$1\r\n5\r\n*1\r\n$1\r\na\r\n";
    const B_THEN_0: &str = "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n";

    async fn keys(answers: &[&[&str]]) -> Vec<Vec<u8>> {
        let server = server(answers).await;
        let mut scan = Scan::new("*".to_owned());
        let mut found = Vec::new();
        loop {
            match scan.next(&server).await {
                Ok(Some(keys)) => found.extend(keys),
                Ok(None) => return found,
                Err(error) => assert!(error.is_temporary(), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_scan_goes_on_at_its_cursor_in_the_same_life_of_the_server() {
        let found = keys(&[&[GREETING, A_THEN_5], &[GREETING, B_THEN_0]]).await;
        assert_eq!(found, [b"a", b"b"]);
    }

    #[tokio::test]
    async fn a_scan_begins_anew_in_the_next_life_of_the_server() {
        // What the new server says to the old cursor does not count.
        let next = [GREETING_OF_ANOTHER, B_THEN_0, A_THEN_5, B_THEN_0];
        let found = keys(&[&[GREETING, A_THEN_5], &next]).await;
        assert_eq!(found, [b"a", b"a", b"b"]);
    }
}
