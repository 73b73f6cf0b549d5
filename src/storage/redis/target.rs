//! Writing to Redis.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use redis::{Cmd, Pipeline, ServerError, Value, cmd, pipe};
use tokio::sync::OnceCell;

use super::{
    codec::{DEFAULT_MAX_BYTES, check_size},
    info::BATCH_BYTES,
    server::{Info, Server, is_not_offered, value_of},
    source::RedisSource,
};
use crate::{
    model::{
        Error, ErrorKind, Result, number_of,
        record::{CacheKey, Record, RejectKind},
    },
    storage::{Size, Source, Target, WriteMode, WriteOutcome},
};

/// How many pieces of one batch are on their way at the same time.
const PIECES_IN_FLIGHT: usize = 2;

/// Bytes of a key in Redis beyond the record's own, about.
const KEY_ROOM: usize = 64;

const WRITING: &str = "writing records";
const CHECKING: &str = "checking the target";

/// What a server does when its memory is full, if it says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Eviction {
    /// `maxmemory-policy`.
    policy: Option<String>,
    /// `maxmemory` in bytes; 0 is no limit.
    memory: Option<u64>,
}

impl Eviction {
    /// Asks a server. Managed ones forbid one of the two ways to ask, or both.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn of(server: &Server, info: &Info) -> Result<Self> {
        Ok(Self {
            policy: match info.get("maxmemory_policy") {
                Some(policy) => Some(policy.to_owned()),
                None => server.setting("maxmemory-policy").await?,
            },
            memory: match info.number("maxmemory") {
                Some(bytes) => Some(bytes),
                None => {
                    let bytes = server.setting("maxmemory").await?;
                    bytes.and_then(|bytes| bytes.parse().ok())
                }
            },
        })
    }

    fn throws_away(&self) -> bool {
        let policy = self.policy.as_deref().unwrap_or_default();
        policy.starts_with("allkeys") && self.memory != Some(0)
    }

    fn to_text(&self, place: &str) -> String {
        let policy = self.policy.as_deref().unwrap_or("unknown");
        let memory = match self.memory {
            Some(bytes) => format!("{bytes} bytes"),
            None => "unknown".to_owned(),
        };
        format!("{place} evicts keys when its memory is full (maxmemory-policy {policy}, maxmemory {memory})")
    }
}

/// What is found out of a server before the first write, once for all workspaces.
#[derive(Debug, Default)]
pub(super) struct ServerFacts {
    eviction: Eviction,
    /// What it said of itself when the run connected.
    info: Info,
    asked: OnceCell<Asked>,
}

/// What a server said of itself.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// How many keys it had thrown away when the run began, where it says so.
    evicted: Option<u64>,
    /// The most that it takes for a value.
    max_bytes: u64,
    /// Whether it can say when a write is on its disk, and has one.
    waits_for_disk: bool,
}

impl ServerFacts {
    pub(super) fn new(eviction: Eviction, info: Info) -> Self {
        Self {
            eviction,
            info,
            asked: OnceCell::new(),
        }
    }
}

/// The keys of a workspace, to read and write.
pub(super) struct RedisTarget {
    source: Arc<RedisSource>,
    facts: Arc<ServerFacts>,
    /// Set once it is known that the workspace can be written.
    checked: OnceCell<()>,
    /// Whether the server has refused to write several records with one command.
    one_by_one: AtomicBool,
}

impl RedisTarget {
    pub(super) fn new(source: RedisSource, facts: Arc<ServerFacts>) -> Self {
        Self {
            source: Arc::new(source),
            facts,
            checked: OnceCell::new(),
            one_by_one: AtomicBool::new(false),
        }
    }

    fn server(&self) -> &Server {
        self.source.server()
    }

    fn parse_uri(&self) -> String {
        self.server().config().location()
    }

    fn refuse(&self, message: String, remedy: &str) -> Error {
        Error::new(ErrorKind::Refused, message).with_remedy(remedy)
    }

    /// LightRAG refuses a server that throws away keys without a time to live, and so does this.
    fn check_eviction(&self) -> Result<()> {
        if !self.facts.eviction.throws_away() || self.server().config().allow_eviction_policy {
            return Ok(());
        }
        Err(self.refuse(
            self.facts.eviction.to_text(&self.parse_uri()),
            "set maxmemory-policy to noeviction or volatile-*, or accept the loss with REDIS_ALLOW_EVICTION_POLICY=true",
        ))
    }

    fn check_is_master(&self, info: &Info) -> Result<()> {
        let is_replica = info.get("role") == Some("slave");
        if !is_replica || info.get("slave_read_only") == Some("0") {
            return Ok(());
        }
        let master = match (info.get("master_host"), info.get("master_port")) {
            (Some(host), Some(port)) => format!(" of {host}:{port}"),
            _ => String::new(),
        };
        Err(self.is_replica(&master))
    }

    /// LightRAG rewrites keys of the old layout only as long as there is no key of today's: a first one would hide all
    /// that the old ones hold.
    async fn check_old_layout(&self, old: Option<String>) -> Result<()> {
        let Some(old) = old else { return Ok(()) };
        if self.source.has_keys_of_today().await? {
            return Ok(());
        }
        let what = format!(
            "{} contains records in LightRAG's old layout ({old}), which LightRAG ignores once there are others",
            self.parse_uri()
        );
        Err(self.refuse(
            what,
            "start LightRAG on this workspace once to convert them, or choose another workspace",
        ))
    }

    /// Whether the login may write, and the server takes a write, by the answer to the attempt to replace a key that is not
    /// there.
    fn check_can_write(&self, answer: Option<Value>) -> Result<()> {
        match answer {
            // A login that may not ask for the role hears it here.
            Some(Value::ServerError(error)) if error.code() == "READONLY" => Err(self.is_replica("")),
            Some(Value::ServerError(error)) => Err(self.server().refused(CHECKING, &error)),
            _ => Ok(()),
        }
    }

    fn is_replica(&self, of_master: &str) -> Error {
        let what = format!("{} is a read-only replica{of_master}", self.parse_uri());
        self.refuse(what, "use the master as the target")
    }

    /// All that can be known before the first write, without one. It is asked for once in a run: what changes afterwards, the
    /// writes show.
    async fn check(&self) -> Result<()> {
        self.checked.get_or_try_init(|| self.ask()).await.copied()
    }

    /// Asks everything in one round trip. That a server changes its role, the write that is tried shows.
    async fn ask(&self) -> Result<()> {
        self.check_is_master(&self.facts.info)?;
        self.check_eviction()?;
        let mut commands = pipe();
        commands.cmd("CONFIG").arg("GET").arg("proto-max-bulk-len");
        self.source.ask_for_old_keys(&mut commands);
        let probe = self.source.namespace().probe();
        commands.cmd("SET").arg(probe).arg("").arg("XX");
        let mut answers = self.server().many(CHECKING, &commands).await?;
        let written = answers.pop();
        let sizes = answers.split_off(1);
        let max_bytes = answers.first().and_then(value_of);
        let asking = || self.ask_server(max_bytes);
        self.facts.asked.get_or_try_init(asking).await?;
        let old = self.source.first_old_key_in(sizes).await?;
        self.check_old_layout(old).await?;
        self.check_can_write(written)
    }

    /// What is the same for every workspace, given the largest value that the server accepts.
    async fn ask_server(&self, max_bytes: Option<String>) -> Result<Asked> {
        let info = &self.facts.info;
        Ok(Asked {
            evicted: info.number("evicted_keys"),
            max_bytes: max_bytes
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or(DEFAULT_MAX_BYTES),
            waits_for_disk: self.tells_of_disk(info).await?,
        })
    }

    /// Refuses to go on where the server has thrown away keys since the run began, and may have taken any.
    async fn check_nothing_was_evicted(&self) -> Result<()> {
        let Some(before) = self.facts.asked.get().and_then(|asked| asked.evicted) else {
            return Ok(());
        };
        let info = self.server().info().await?;
        let evicted = info
            .number("evicted_keys")
            .map_or(0, |now| now.saturating_sub(before));
        if evicted == 0 {
            return Ok(());
        }
        let eviction = Eviction::of(self.server(), &info).await?;
        if !eviction.throws_away() || self.server().config().allow_eviction_policy {
            return Ok(());
        }
        let message = format!(
            "{}: it evicted {} during this run, possibly records",
            eviction.to_text(&self.parse_uri()),
            number_of(evicted, "key")
        );
        Err(Error::new(ErrorKind::Full, message).with_remedy(
            "raise its maxmemory or set maxmemory-policy to noeviction, then run the same command again",
        ))
    }

    /// Whether the server keeps a file, brings it to the disk by itself, and can be asked when it has.
    async fn tells_of_disk(&self, info: &Info) -> Result<bool> {
        let can_be_asked = info.version().is_some_and(|version| version >= (7, 2));
        if !can_be_asked || info.get("aof_enabled") != Some("1") {
            return Ok(false);
        }
        // With `no` the operating system decides when, after half a minute or more: do not wait for that.
        let policy = self.server().setting("appendfsync").await?;
        Ok(matches!(policy.as_deref(), Some("always" | "everysec")))
    }

    /// Why the server cannot hold a record, if so.
    fn misfit(&self, record: &Record) -> Option<String> {
        let prefix = self.source.namespace().key(&CacheKey::from("")).len();
        // An `_id` may have to be added, which is the key and a few characters.
        let key = prefix + record.key().as_str().len();
        let asked = self.facts.asked.get();
        let max_bytes = asked.map_or(DEFAULT_MAX_BYTES, |asked| asked.max_bytes);
        check_size(key, record.value().len() + key, max_bytes).err()
    }

    async fn write_piece(&self, records: Vec<&Record>, mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let server = self.server();
        if mode == WriteMode::Upsert && !self.one_by_one.load(Ordering::Relaxed) {
            match server.many(WRITING, &self.one_command(&records)).await?.pop() {
                Some(Value::Okay) => return Ok(vec![WriteOutcome::written(); records.len()]),
                Some(Value::ServerError(error)) if forbids_several(&error) => {
                    tracing::debug!(
                        "records are written one by one: {}",
                        server.refused(WRITING, &error)
                    );
                    self.one_by_one.store(true, Ordering::Relaxed);
                }
                Some(Value::ServerError(error)) => return Err(server.refused(WRITING, &error)),
                _ => return Err(server.unexpected(WRITING)),
            }
        }
        let answers = server.many(WRITING, &self.commands(&records, mode)).await?;
        let outcome = |answer| match answer {
            Value::Okay => Ok(WriteOutcome::written()),
            Value::Nil if mode == WriteMode::Create => Ok(WriteOutcome::Exists),
            Value::ServerError(error) => Err(server.refused(WRITING, &error)),
            _ => Err(server.unexpected(WRITING)),
        };
        answers.into_iter().map(outcome).collect()
    }

    /// One `MSET` for all records, which does what a `SET` for each would do. An answer for each, of five bytes, costs the
    /// server and us more than all the rest of it: both are woken up for every one.
    fn one_command(&self, records: &[&Record]) -> Pipeline {
        let namespace = self.source.namespace();
        let bytes: usize = records.iter().map(|record| record.size() + KEY_ROOM).sum();
        let mut command = Cmd::with_capacity(1 + 2 * records.len(), bytes);
        command.arg("MSET");
        for record in records {
            command
                .arg(namespace.key(record.key()))
                .arg(&*record.with_own_id());
        }
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        commands
    }

    /// A `SET` for each record: it replaces whatever the key held, its time to live included.
    fn commands(&self, records: &[&Record], mode: WriteMode) -> Pipeline {
        let mut commands = Pipeline::with_capacity(records.len());
        for record in records {
            let key = self.source.namespace().key(record.key());
            let value = record.with_own_id();
            let mut command = Cmd::with_capacity(4, "SETNX".len() + key.len() + value.len());
            command.arg("SET").arg(key).arg(&*value);
            if mode == WriteMode::Create {
                command.arg("NX");
            }
            commands.add_command(command);
        }
        commands
    }
}

/// Whether a server takes a `SET` and no `MSET`: a user may not use it, or in a cluster the keys are of several slots.
fn forbids_several(answer: &ServerError) -> bool {
    answer.code() == "CROSSSLOT" || is_not_offered(answer)
}

/// Cuts records into pieces of some bytes. A piece may go beyond them by one record.
fn pieces<'a>(records: &[&'a Record]) -> Vec<Vec<&'a Record>> {
    let mut pieces: Vec<Vec<&Record>> = Vec::new();
    let mut bytes = BATCH_BYTES.get();
    for record in records {
        if bytes >= BATCH_BYTES.get() {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += record.size();
        if let Some(piece) = pieces.last_mut() {
            piece.push(record);
        }
    }
    pieces
}

#[async_trait]
impl Target for RedisTarget {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source) as Arc<dyn Source>
    }

    async fn check_writable(&self) -> Result<()> {
        self.check().await
    }

    /// Checks only: a key needs nothing made before it.
    async fn prepare(&self) -> Result<()> {
        self.check().await
    }

    fn preview(&self, record: &Record) -> WriteOutcome {
        match self.misfit(record) {
            Some(reason) => WriteOutcome::rejected(RejectKind::ValueTooLarge, reason),
            None => WriteOutcome::written(),
        }
    }

    fn warning(&self) -> Option<String> {
        let place = self.parse_uri();
        if self.facts.eviction.policy.is_none() {
            return Some(format!(
                "{place} does not show its maxmemory-policy: if it is allkeys-*, records may be lost when its memory \
                 is full"
            ));
        }
        let allowed = self.facts.eviction.throws_away() && self.server().config().allow_eviction_policy;
        allowed.then(|| {
            let what = self.facts.eviction.to_text(&place);
            format!("{what}, as REDIS_ALLOW_EVICTION_POLICY allows")
        })
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let misfits: Vec<Option<String>> = batch.iter().map(|record| self.misfit(record)).collect();
        let fitting: Vec<&Record> = batch
            .iter()
            .zip(&misfits)
            .filter_map(|(record, misfit)| misfit.is_none().then_some(record))
            .collect();
        let pieces = pieces(&fitting).into_iter();
        let requests: Vec<_> = pieces.map(|piece| self.write_piece(piece, mode)).collect();
        let written: Vec<Vec<WriteOutcome>> = stream::iter(requests)
            .buffered(PIECES_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut written = written.into_iter().flatten();
        let outcomes = misfits.into_iter().filter_map(|misfit| match misfit {
            Some(reason) => Some(WriteOutcome::rejected(RejectKind::ValueTooLarge, reason)),
            None => written.next(),
        });
        Ok(outcomes.collect())
    }

    /// What Redis has answered it keeps, as far as it keeps anything. A server with an append-only file that can be
    /// asked (`WAITAOF`, since 7.2) is waited for until the writes are on its disk.
    async fn flush(&self) -> Result<()> {
        self.check_nothing_was_evicted().await?;
        if !self.facts.asked.get().is_some_and(|asked| asked.waits_for_disk) {
            return Ok(());
        }
        let doing = "waiting for the server's disk";
        let limit = self.server().config().response_timeout;
        // The server looks at what the connection has sent, which after a loss is another one; any command makes it
        // look at all that the server has written so far. It must answer before the client gives up.
        let wait = u64::try_from(limit.as_millis() * 9 / 10)
            .unwrap_or(u64::MAX)
            .max(1);
        let mut commands = pipe();
        commands.cmd("PING").cmd("WAITAOF").arg(1).arg(0).arg(wait);
        let answers = self.server().many(doing, &commands).await?;
        match answers.last() {
            Some(Value::Array(kept)) if matches!(kept.first(), Some(Value::Int(1..))) => Ok(()),
            Some(Value::Array(_)) => {
                let message = format!("{}: the writes were not durable in time", self.parse_uri());
                Err(Error::new(ErrorKind::Timeout, message))
            }
            // The file was turned off meanwhile, or the login may not ask.
            Some(Value::ServerError(error)) if matches!(error.code(), "ERR" | "NOPERM") => Ok(()),
            Some(Value::ServerError(error)) => Err(self.server().refused(doing, error)),
            _ => Err(self.server().unexpected(doing)),
        }
    }

    async fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// To count its records, a server has to look at all its keys.
    async fn size(&self) -> Result<Option<Size>> {
        let answer = self
            .server()
            .try_one("asking for the number of keys", &cmd("DBSIZE"))
            .await?;
        let keys = match answer {
            Value::Int(keys) => u64::try_from(keys).ok(),
            _ => None,
        };
        Ok(keys.map(|entries| Size {
            entries,
            grows_by_new_only: false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::server::tests::{GREETING, server},
        *,
    };
    use crate::model::Workspace;

    /// A target on a server that said `info` of itself when the run connected.
    async fn target(info: Info, answers: &[&str]) -> RedisTarget {
        let mut all = vec![GREETING];
        all.extend(answers);
        let server = Arc::new(server(&[&all]).await);
        let source = RedisSource::new(server, &Workspace::new("w").unwrap());
        RedisTarget::new(source, Arc::new(ServerFacts::new(Eviction::default(), info)))
    }

    const NO_OLD_KEYS: &str = ":0\r\n:0\r\n:0\r\n:0\r\n:0\r\n:0\r\n:0\r\n";

    /// An answer to `INFO`.
    fn info(text: &str) -> String {
        format!("${}\r\n{text}\r\n", text.len())
    }

    #[tokio::test]
    async fn a_replica_is_refused_also_where_its_role_may_not_be_asked() {
        let read_only = "-READONLY You can't write against a read only replica.\r\n";
        let missing = "*0\r\n";
        let answers = [missing, NO_OLD_KEYS, read_only].concat();
        let target = target(Info::default(), &[&answers]).await;
        let error = target.check_writable().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.message().contains("read-only replica"), "{error}");
    }

    #[tokio::test]
    async fn keys_that_the_server_throws_away_meanwhile_end_the_run() {
        let evicting = |keys: u64| {
            let policy = "maxmemory:100\r\nmaxmemory_policy:allkeys-lru";
            info(&format!("role:master\r\nevicted_keys:{keys}\r\n{policy}"))
        };
        let before = Info::of("role:master\r\nevicted_keys:5\r\nmaxmemory:0");
        let missing = "*0\r\n";
        let (same, more) = (evicting(5), evicting(8));
        let checked = [missing, NO_OLD_KEYS, "$-1\r\n"].concat();
        let target = target(before, &[&checked, &same, &more]).await;
        // The second check asks for nothing.
        target.check_writable().await.unwrap();
        target.prepare().await.unwrap();
        target.flush().await.unwrap();
        let error = target.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert!(error.message().contains("evicted 3 keys"), "{error}");
    }

    #[test]
    fn pieces_are_cut_by_bytes_and_keep_the_order() {
        let half = format!(r#"{{"return": "{}"}}"#, "x".repeat(BATCH_BYTES.get() / 2));
        let records: Vec<Record> = (0..5)
            .map(|n| {
                let key = CacheKey::new(format!("default:extract:{n}"));
                Record::new(key, Bytes::from(half.clone())).unwrap()
            })
            .collect();
        let pieces = pieces(&records.iter().collect::<Vec<_>>());
        let sizes: Vec<usize> = pieces.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert!(
            pieces
                .concat()
                .iter()
                .map(|record| record.key())
                .eq(records.iter().map(Record::key))
        );
    }
}
