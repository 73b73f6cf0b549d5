//! Writing an index in bulk.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::{Mutex, OnceCell};

use super::{
    client::{Cause, Client, Request, is_busy},
    codec::{self, MIRRORED_ID, Operation},
    config::Config,
    inspect::{Inspection, Inspector, is_forbidden},
    mapping::{self, Properties},
    source::OpenSearchSource,
};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{CacheKey, Record, RejectKind},
    },
    storage::{Changes, Source, Target, Waiter, WriteMode, WriteOutcome},
};

/// How large a bulk request should be, in bytes. Larger ones are no faster.
const BULK_BYTES: usize = 8 << 20;

/// The operation in a `retry` event after the server was too busy for some of the records.
const WRITING_AGAIN: &str = "writing records that the server had no capacity for";

/// How often a record is sent again with something about it extended.
const MOST_MENDINGS: u32 = 10;

/// The index of a workspace, to read and write.
pub(super) struct OpenSearchTarget {
    source: Arc<OpenSearchSource>,
    shards: u32,
    replicas: u32,
    max_retries: u32,
    waiter: Arc<dyn Waiter>,
    /// How large a request with several records may be, in bytes.
    bulk_bytes: AtomicUsize,
    /// What was found out about the index last.
    inspection: std::sync::Mutex<Inspection>,
    has_written: AtomicBool,
    /// Whether the login may not have the server write to its disk.
    may_not_flush: AtomicBool,
    /// Set when LightRAG's fields are known to be mapped.
    usual_fields: OnceCell<()>,
    /// Held while the mapping is looked at and changed.
    mending: Mutex<()>,
    /// Unpredictable changes and refusals of the server, for a later comparison.
    late_outcomes: std::sync::Mutex<HashMap<CacheKey, WriteOutcome>>,
}

/// How many late outcomes are remembered.
const MOST_SURPRISES: usize = 10_000;

/// A record that is to be sent, for the first time or again.
struct Pending {
    /// Its place in the batch.
    at: usize,
    dropped_fields: Vec<String>,
    /// How often the server was too busy for it.
    waits: u32,
    mendings: u32,
}

/// A record with why the server refused it.
struct Refused {
    pending: Pending,
    cause: Cause,
}

/// A record that is there already, perhaps because an earlier request wrote it before it failed.
struct Claimed {
    at: usize,
    document: Bytes,
    changes: Changes,
}

/// What came of sending records once.
#[derive(Default)]
struct Round {
    claimed: Vec<Claimed>,
    /// The server was too busy for them.
    again: Vec<Pending>,
    /// Why, and with which status.
    busy: Option<(u16, Cause)>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct BulkAnswer<'a> {
    #[serde(borrow)]
    items: Vec<BulkItem<'a>>,
}

#[derive(Deserialize)]
struct BulkItem<'a> {
    #[serde(alias = "index", alias = "create", borrow)]
    operation: ItemAnswer<'a>,
}

#[derive(Deserialize)]
struct ItemAnswer<'a> {
    status: u16,
    #[serde(default)]
    error: Cause,
    #[serde(default, borrow)]
    result: Cow<'a, str>,
    #[serde(rename = "_index", default, borrow)]
    index: Cow<'a, str>,
    #[serde(rename = "_id", default, borrow)]
    id: Cow<'a, str>,
}

/// What to read of the answer to a bulk request. `result` and where the document went tell of pipelines that drop it or
/// send it elsewhere, with a status that says all is well.
const BULK_FILTER: &str = "items.*.status,items.*.error,items.*.result,items.*._index,items.*._id";

impl ItemAnswer<'_> {
    /// Why a document that the server took is not where LightRAG would look for it; `None` where it is. `index`: the one
    /// that it belongs in, where that is known.
    fn lost(&self, key: &str, index: Option<&str>) -> Option<String> {
        const CAUSE: &str = "an ingest pipeline does that, as a rule";
        if !matches!(&*self.result, "created" | "updated") {
            return Some(format!(
                "OpenSearch did not keep it, and gave the result `{}`: {CAUSE}",
                self.result
            ));
        }
        if let Some(index) = index.filter(|index| **index != self.index) {
            return Some(format!(
                "OpenSearch wrote it to the index {}, not to {index}: {CAUSE}",
                self.index
            ));
        }
        (self.id != key).then(|| format!("OpenSearch wrote it under the key {}: {CAUSE}", self.id))
    }
}

impl OpenSearchTarget {
    pub(super) fn new(source: OpenSearchSource, config: &Config, waiter: Arc<dyn Waiter>) -> Self {
        Self {
            source: Arc::new(source),
            shards: config.shards,
            replicas: config.replicas,
            max_retries: config.max_retries,
            waiter,
            bulk_bytes: AtomicUsize::new(BULK_BYTES),
            inspection: std::sync::Mutex::default(),
            has_written: AtomicBool::new(false),
            may_not_flush: AtomicBool::new(false),
            usual_fields: OnceCell::new(),
            mending: Mutex::new(()),
            late_outcomes: std::sync::Mutex::default(),
        }
    }

    fn client(&self) -> &Client {
        &self.source.client
    }

    fn index(&self) -> &str {
        &self.source.index
    }

    /// Makes the index as LightRAG makes it, unless somebody else does at the same time.
    async fn make_index(&self) -> Result<()> {
        let body = json!({
            "mappings": {
                "dynamic": true,
                "properties": {MIRRORED_ID: {"type": "keyword"}},
            },
            "settings": {
                "index": {"number_of_shards": self.shards, "number_of_replicas": self.replicas},
            },
        });
        let what = format!("make the index {}", self.index());
        let request = Request::new(Method::Put, format!("/{}", self.index()), what).json(&body);
        let answer = self.client().send(&request).await?;
        if answer.status == 400 && answer.cause().is("resource_already_exists_exception") {
            return Ok(());
        }
        let status = answer.status;
        let made = self.client().success(&request, answer).map(drop);
        // A template may have only data streams of this name.
        made.map_err(|error| match status {
            400 => Error::new(ErrorKind::Refused, error.message()),
            _ => error,
        })
    }

    /// Looks for what would make writes fail, or lose what they write.
    async fn inspect(&self) -> Result<()> {
        let pauses = Some(self.client().pauses.end());
        let inspection = Inspector::new(self.client(), self.index()).inspect().await?;
        *self.inspection() = Inspection { pauses, ..inspection };
        Ok(())
    }

    fn inspection(&self) -> std::sync::MutexGuard<'_, Inspection> {
        self.inspection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mapping of the index as it is now; empty where the login may not look at it.
    async fn properties(&self) -> Result<Properties> {
        let mappings = Inspector::new(self.client(), self.index()).mappings().await?;
        Ok(mappings.unwrap_or_default().properties)
    }

    /// Adds to the mapping; `false` where the server refuses.
    async fn add_properties(&self, properties: &Properties) -> Result<bool> {
        let what = format!("extend the mapping of the index {}", self.index());
        let path = format!("/{}/_mapping", self.index());
        let request = Request::new(Method::Put, path, what).json(&json!({"properties": properties}));
        let answer = self.client().send(&request).await?;
        if matches!(answer.status, 400 | 403) {
            tracing::debug!("{}: {}", request.what, answer.cause().text());
            return Ok(false);
        }
        self.client().success(&request, answer)?;
        Ok(true)
    }

    /// Has LightRAG's fields mapped as its own documents would have it, before values of other shapes are sent.
    async fn map_usual_fields(&self) -> Result<()> {
        let map = || async {
            let _mending = self.mending.lock().await;
            let missing = mapping::missing_usual(&self.properties().await?);
            if !missing.is_empty() && !self.add_properties(&missing).await? {
                tracing::warn!(
                    "the fields of the index {} could not be mapped before odd values are written to it",
                    self.index()
                );
            }
            Ok(())
        };
        self.usual_fields.get_or_try_init(map).await.copied()
    }

    /// Sends records in as many requests as it takes.
    async fn send_all(
        &self,
        batch: &[Record],
        pending: Vec<Pending>,
        mode: WriteMode,
        outcomes: &mut [Option<WriteOutcome>],
    ) -> Result<Round> {
        let mut round = Round::default();
        let mut body = Vec::new();
        let mut sent: Vec<(Pending, Operation)> = Vec::new();
        for pending in pending {
            let largest = self.client().facts.largest_request();
            let limit = self.bulk_bytes.load(Ordering::Relaxed).min(largest);
            let start = body.len();
            let mut operation =
                codec::push_operation(&mut body, &batch[pending.at], mode, &pending.dropped_fields);
            if start > 0 && body.len() > limit {
                let next = body.split_off(start);
                let full = std::mem::replace(&mut body, next);
                operation.document = operation.document.start - start..operation.document.end - start;
                self.send_once(batch, full, std::mem::take(&mut sent), mode, outcomes, &mut round)
                    .await?;
            }
            if sent.is_empty() && body.len() > largest {
                outcomes[pending.at] = Some(too_large(body.len(), largest));
                body.clear();
                continue;
            }
            sent.push((pending, operation));
        }
        if !sent.is_empty() {
            self.send_once(batch, body, sent, mode, outcomes, &mut round)
                .await?;
        }
        Ok(round)
    }

    /// Sends one bulk request and sorts its records by what became of them.
    async fn send_once(
        &self,
        batch: &[Record],
        body: Vec<u8>,
        sent: Vec<(Pending, Operation)>,
        mode: WriteMode,
        outcomes: &mut [Option<WriteOutcome>],
        round: &mut Round,
    ) -> Result<()> {
        let what = format!("write to the index {}", self.index());
        let query = [("filter_path", BULK_FILTER)];
        let body = Bytes::from(body);
        let request = Request::new(Method::Post, self.source.path("_bulk"), what.as_str())
            .query(&query)
            .body(body.clone());
        self.has_written.store(true, Ordering::Relaxed);
        let answer = self.client().send(&request).await?;
        if answer.status == 413 {
            self.send_less(body.len(), sent, outcomes, round);
            return Ok(());
        }
        let answer = self.client().success(&request, answer)?;
        let answered: BulkAnswer<'_> = self.client().parse(&what, &answer.body)?;
        if answered.items.len() != sent.len() {
            let message = format!(
                "cannot {what} at {}: {} answers for {} documents",
                self.client().host(),
                answered.items.len(),
                sent.len()
            );
            return Err(Error::new(ErrorKind::Server, message));
        }
        let index = self.inspection().index.clone();
        for ((mut pending, operation), item) in sent.into_iter().zip(answered.items) {
            let item = item.operation;
            let lost = item.lost(batch[pending.at].key().as_str(), index.as_deref());
            let ItemAnswer { status, error, .. } = item;
            match status {
                200..300 => {
                    outcomes[pending.at] = Some(match lost {
                        Some(reason) => WriteOutcome::rejected(RejectKind::RefusedByTarget, reason),
                        None => WriteOutcome::Written(operation.changes),
                    });
                }
                409 if mode == WriteMode::Create && pending.waits > 0 => round.claimed.push(Claimed {
                    at: pending.at,
                    document: body.slice(operation.document),
                    changes: operation.changes,
                }),
                409 if mode == WriteMode::Create => outcomes[pending.at] = Some(WriteOutcome::Exists),
                400 | 409 => round.refused.push(Refused {
                    pending,
                    cause: error,
                }),
                _ if is_busy(status) && error.block().is_none_or(|block| block.is_passing) => {
                    pending.waits += 1;
                    round.again.push(pending);
                    round.busy = Some((status, error));
                }
                _ => return Err(self.client().refused(self.client().host(), &what, status, &error)),
            }
        }
        Ok(())
    }

    /// After a request that was too large for something before the server: the next ones are smaller. A document that was
    /// alone in it cannot be written.
    fn send_less(
        &self,
        bytes: usize,
        sent: Vec<(Pending, Operation)>,
        outcomes: &mut [Option<WriteOutcome>],
        round: &mut Round,
    ) {
        if sent.len() > 1 {
            self.bulk_bytes.fetch_min(bytes / 2, Ordering::Relaxed);
            round.again.extend(sent.into_iter().map(|(pending, _)| pending));
            return;
        }
        for (pending, _) in sent {
            outcomes[pending.at] = Some(too_large(bytes, bytes - 1));
        }
    }

    /// Distinguishes documents of an earlier request of this write from those of other clients.
    async fn claim(
        &self,
        batch: &[Record],
        claimed: Vec<Claimed>,
        outcomes: &mut [Option<WriteOutcome>],
    ) -> Result<()> {
        let keys: Vec<&CacheKey> = claimed.iter().map(|claimed| batch[claimed.at].key()).collect();
        let found = self.source.fetch(&keys, true).await?;
        for (claimed, found) in claimed.into_iter().zip(found) {
            let mut ours = Vec::new();
            if let Ok(document) = serde_json::from_slice::<&RawValue>(&claimed.document) {
                codec::push_value(&mut ours, document);
            }
            let is_ours = found.is_some_and(|entry| entry.raw() == &ours);
            outcomes[claimed.at] = Some(match is_ours {
                true => WriteOutcome::Written(claimed.changes),
                false => WriteOutcome::Exists,
            });
        }
        Ok(())
    }

    /// Makes what was written visible to searches.
    async fn refresh(&self) -> Result<()> {
        if !self.ask_if_permitted("_refresh", "refresh").await? {
            tracing::warn!(
                "the login may not refresh the index {}; searches find what was written a little later",
                self.index()
            );
        }
        Ok(())
    }

    /// Has the index do something that is not needed for writing; `false` where the login lacks the permission.
    async fn ask_if_permitted(&self, api: &str, what: &str) -> Result<bool> {
        let what = format!("{what} the index {}", self.index());
        let request = Request::new(Method::Post, self.source.path(api), what);
        let answer = self.client().send(&request).await?;
        if is_forbidden(&answer) {
            return Ok(false);
        }
        self.client().success(&request, answer)?;
        Ok(true)
    }

    /// Remembers outcomes that a preview could not predict.
    fn remember(&self, batch: &[Record], outcomes: &[Option<WriteOutcome>]) {
        for (record, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Some(WriteOutcome::Written(changes)) if changes.dropped_fields.is_empty() => continue,
                None | Some(WriteOutcome::Exists) => continue,
                Some(outcome) => {
                    let mut late_outcomes = self.late_outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    if late_outcomes.len() < MOST_SURPRISES {
                        late_outcomes.insert(record.key().clone(), outcome.clone());
                    }
                }
            }
        }
    }

    /// Extends the mapping for refused records, or drops fields that it cannot accept. Returns the records that are worth
    /// sending again; for the rest it is known now why not.
    async fn accept_refused(
        &self,
        batch: &[Record],
        refused: Vec<Refused>,
        outcomes: &mut [Option<WriteOutcome>],
    ) -> Result<Vec<Pending>> {
        let _mending = self.mending.lock().await;
        let properties = self.properties().await?;
        let mut tried: Vec<(Properties, bool)> = Vec::new();
        let mut again = Vec::new();
        for Refused { mut pending, cause } in refused {
            pending.mendings += 1;
            if pending.mendings > MOST_MENDINGS {
                outcomes[pending.at] = Some(rejected(&cause));
                continue;
            }
            let fields = batch[pending.at].fields();
            let reason = format!("{} {}", cause.reason(), cause.text());
            let extended = mapping::extended(&properties, &fields, &reason);
            let helps = if extended.is_empty() {
                // Another batch may have extended it since this record was sent.
                pending.mendings == 1
            } else if let Some((_, helped)) = tried.iter().find(|(before, _)| *before == extended) {
                *helped
            } else {
                let helped = self.add_properties(&extended).await?;
                if helped {
                    let names: Vec<&str> = extended.keys().map(String::as_str).collect();
                    tracing::warn!(
                        "the index {} refused a record ({}); values of {} that it cannot index are kept all the same",
                        self.index(),
                        cause.text(),
                        names.join(", ")
                    );
                }
                tried.push((extended, helped));
                helped
            };
            if helps {
                again.push(pending);
                continue;
            }
            let left = mapping::leave_behind(&properties, &fields, &reason);
            let new = left
                .into_iter()
                .filter(|name| !pending.dropped_fields.contains(name));
            let new: Vec<String> = new.collect();
            if new.is_empty() {
                outcomes[pending.at] = Some(rejected(&cause));
            } else {
                pending.dropped_fields.extend(new);
                again.push(pending);
            }
        }
        Ok(again)
    }
}

fn too_large(bytes: usize, most: usize) -> WriteOutcome {
    let reason = format!("the record takes a request of {bytes} bytes; OpenSearch takes at most {most}");
    WriteOutcome::rejected(RejectKind::ValueTooLarge, reason)
}

/// The outcome of a record whose content the server refused.
fn rejected(cause: &Cause) -> WriteOutcome {
    let about_fields = [
        "mapper_parsing_exception",
        "illegal_argument_exception",
        "strict_dynamic_mapping_exception",
    ];
    let kind = if cause.is("stream_constraints_exception") || cause.text().contains("String value length") {
        RejectKind::ValueTooLarge
    } else if about_fields.iter().any(|kind| cause.is(kind)) {
        RejectKind::InvalidField
    } else {
        RejectKind::RefusedByTarget
    };
    WriteOutcome::rejected(kind, format!("OpenSearch refused it: {}", cause.text()))
}

#[async_trait]
impl Target for OpenSearchTarget {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source) as Arc<dyn Source>
    }

    async fn check_writable(&self) -> Result<()> {
        self.inspect().await
    }

    fn warning(&self) -> Option<String> {
        let warnings = &self.inspection().warnings;
        (!warnings.is_empty()).then(|| warnings.join("; "))
    }

    async fn prepare(&self) -> Result<()> {
        let inspected = self.inspection().pauses;
        // During a long pause, while a user reads the plan, the index may have changed.
        if inspected != Some(self.client().pauses.end()) {
            self.inspect().await?;
        }
        let exists = self.inspection().exists;
        if !exists {
            self.make_index().await?;
            // Templates that could not be asked for have come to apply.
            self.inspect().await?;
        }
        let lacks_mirrored_id = self.inspection().lacks_mirrored_id;
        let mut can_search_keys = self.inspection().can_search_keys;
        if lacks_mirrored_id {
            // Of an old index. The first document would have it mapped as a text, by which no server can sort.
            let keyword = Properties::from_iter([(MIRRORED_ID.to_owned(), json!({"type": "keyword"}))]);
            can_search_keys = self.add_properties(&keyword).await?;
        }
        if can_search_keys {
            self.source.set_can_search_keys();
        }
        self.client().facts.learn_largest_request(self.client()).await
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let mut outcomes: Vec<Option<WriteOutcome>> = vec![None; batch.len()];
        let mut pending = Vec::with_capacity(batch.len());
        for (at, record) in batch.iter().enumerate() {
            match codec::preview(record) {
                refused @ WriteOutcome::Rejected { .. } => outcomes[at] = Some(refused),
                _ => pending.push(Pending {
                    at,
                    dropped_fields: Vec::new(),
                    waits: 0,
                    mendings: 0,
                }),
            }
        }
        let is_odd = |pending: &Pending| !mapping::is_usual(&batch[pending.at].fields());
        if !self.usual_fields.initialized() && pending.iter().any(is_odd) {
            self.map_usual_fields().await?;
        }
        while !pending.is_empty() {
            let round = self.send_all(batch, pending, mode, &mut outcomes).await?;
            if !round.claimed.is_empty() {
                self.claim(batch, round.claimed, &mut outcomes).await?;
            }
            pending = round.again;
            if let Some((status, cause)) = round.busy {
                let waits = pending.iter().map(|pending| pending.waits).max().unwrap_or(1);
                let what = format!("write to the index {}", self.index());
                let error = self.client().refused(self.client().host(), &what, status, &cause);
                let failed = usize::try_from(waits).unwrap_or(usize::MAX);
                if waits > self.max_retries || !self.waiter.wait(WRITING_AGAIN, failed, &error).await {
                    return Err(error);
                }
            }
            if !round.refused.is_empty() {
                pending.extend(self.accept_refused(batch, round.refused, &mut outcomes).await?);
            }
        }
        self.remember(batch, &outcomes);
        let answered: Option<Vec<WriteOutcome>> = outcomes.into_iter().collect();
        answered.ok_or_else(|| Error::new(ErrorKind::Internal, "a record of a batch got no answer"))
    }

    fn preview(&self, record: &Record) -> WriteOutcome {
        let late_outcomes = self.late_outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let surprise = late_outcomes.get(record.key()).cloned();
        surprise.unwrap_or_else(|| codec::preview(record))
    }

    /// A login that may not flush gets what the administrator has chosen for the index: what was written is on the disk
    /// a little later.
    async fn flush(&self) -> Result<()> {
        // A server that is not lazy has written a document to its disk when it says that it has it.
        let is_lazy = self.inspection().is_lazy;
        let has_written = self.has_written.load(Ordering::Relaxed);
        if !is_lazy || !has_written || self.may_not_flush.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.ask_if_permitted("_flush", "flush").await? {
            self.may_not_flush.store(true, Ordering::Relaxed);
            tracing::warn!(
                "the index {} has asynchronous durability (index.translog.durability), and the login may not flush it: if \
                 a node fails, what was written within the last index.translog.sync_interval (5 s by default) may be lost",
                self.index()
            );
        }
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        if !self.has_written.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.refresh().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_the_server_took_and_did_not_keep_is_not_written() {
        let body = |result: &str, index: &str, id: &str| {
            format!(
                r#"{{"items":[{{"index":{{"_index":"{index}","_id":"{id}","status":200,"result":"{result}"}}}}]}}"#
            )
        };
        let lost = |body: &str, index| {
            let answer: BulkAnswer<'_> = serde_json::from_str(body).unwrap();
            answer.items[0].operation.lost("k", index)
        };
        for result in ["created", "updated"] {
            assert_eq!(lost(&body(result, "i", "k"), Some("i")), None);
            assert_eq!(lost(&body(result, "index-of-an-alias", "k"), None), None);
        }
        for (body, word) in [
            (body("noop", "i", "k"), "`noop`"),
            (body("created", "elsewhere", "k"), "elsewhere"),
            (body("created", "i", "other"), "other"),
            (r#"{"items":[{"create":{"status":201}}]}"#.to_owned(), "``"),
        ] {
            let reason = lost(&body, Some("i")).unwrap();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
