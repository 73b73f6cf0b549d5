//! The index of a workspace, to read: counting its documents, and finding them by key. How it is read as a whole is in
//! `scan`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    client::{Cause, Client, FoundField, Request},
    codec::{self, MIRRORED_ID},
    pauses::Fact,
    scan::{Reading, Scan},
};
use crate::{
    model::{
        CacheType, Error, ErrorKind, FILE_MODE, KeyRule, LeftOutKind, Result, Selection, Shard,
        record::{CacheKey, Record},
    },
    storage::{Count, Cursor, Entry, PageLimit, PageReader, Progress, Source},
};

/// How large an answer with several documents may be at most. A larger one is asked for in halves.
const MOST_FETCH_BYTES: u64 = 8 << 20;

/// How many keys of [`Source::get_many`] are asked for before it is known how large their documents are.
const GOT_AT_ONCE: usize = 200;

/// The index of a workspace, to read.
#[derive(Clone)]
pub(super) struct OpenSearchSource {
    pub(super) client: Arc<Client>,
    pub(super) index: String,
    /// What the server counted last, by `__mirrored_id`.
    counted: Arc<Mutex<Option<(Selection, Share)>>>,
    /// What the next call of [`Self::can_search_keys`] returns, where that is known already.
    can_search_keys: Arc<Mutex<Option<Fact<Option<bool>>>>>,
}

/// How many documents are selected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    selected: u64,
    all: u64,
}

impl Share {
    /// Whether all documents together are fewer than these.
    pub(super) fn is_less_than(self, documents: usize) -> bool {
        self.all < documents as u64
    }

    /// Whether it is cheaper to have the server look for them than to read all and drop the rest.
    ///
    /// For every answer it collects all that is selected anew, of which 60 documents cost about as much as to read one.
    /// A response contains some hundred.
    pub(super) fn is_worth_a_filter(self) -> bool {
        let others = self.all.saturating_sub(self.selected);
        self.selected.saturating_mul(self.selected) / 10_000 < others
    }
}

#[derive(Deserialize)]
struct Got<'a> {
    #[serde(borrow)]
    docs: Vec<Document<'a>>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_source", borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Cause>,
}

impl OpenSearchSource {
    pub(super) fn new(
        client: Arc<Client>,
        index: String,
        can_search_keys: Option<Fact<Option<bool>>>,
    ) -> Self {
        Self {
            client,
            index,
            counted: Arc::default(),
            can_search_keys: Arc::new(Mutex::new(can_search_keys)),
        }
    }

    pub(super) fn path(&self, api: &str) -> String {
        format!("/{}/{api}", self.index)
    }

    /// Whether the server can look for keys, as far as the field `__mirrored_id` shows; `None` where there is no index.
    pub(super) async fn can_search_keys(&self) -> Result<Option<bool>> {
        let known = self.known_key_search().take();
        if let Some(known) = known.and_then(|fact| fact.current(&self.client.pauses)) {
            return Ok(known);
        }
        let field = self.client.field(&self.index, MIRRORED_ID).await?;
        Ok(field.as_ref().map(FoundField::is_searchable))
    }

    /// Notes that the index exists, and that the server can look for keys in it.
    pub(super) fn set_can_search_keys(&self) {
        *self.known_key_search() = Some(self.client.pauses.remember(Some(true)));
    }

    fn known_key_search(&self) -> MutexGuard<'_, Option<Fact<Option<bool>>>> {
        self.can_search_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of these keys have documents, of which nothing else is asked for.
    async fn have_documents(&self, keys: &[&CacheKey]) -> Result<Vec<bool>> {
        let what = format!("look for documents of the index {}", self.index);
        let query = [("_source", "false"), ("filter_path", "docs.found,docs.error")];
        let request = Request::new(Method::Post, self.path("_mget"), what)
            .query(&query)
            .json(&json!({"ids": keys}));
        let answer = self.client.send(&request).await?;
        let answer = self.client.success(&request, answer)?;
        let got = self.documents_of(keys, &request.what, &answer.body)?;
        let found = got.docs.iter();
        found
            .map(|document| self.is_found(document, &request.what))
            .collect()
    }

    /// Fetches documents by key, in as many requests as their size asks for. `realtime`: with what no search would
    /// find yet.
    pub(super) async fn fetch(&self, keys: &[&CacheKey], realtime: bool) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        let mut pieces = vec![keys];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match self.fetch_once(piece, realtime).await {
                Ok(fetched) => entries.extend(fetched),
                Err(error) if error.kind() == ErrorKind::RequestTooLarge && piece.len() > 1 => {
                    let (first, second) = piece.split_at(piece.len() / 2);
                    pieces.push(second);
                    pieces.push(first);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    async fn fetch_once(&self, keys: &[&CacheKey], realtime: bool) -> Result<Vec<Option<Entry>>> {
        let what = format!("read documents of the index {}", self.index);
        let query = [("realtime", if realtime { "true" } else { "false" })];
        let mut request = Request::new(Method::Post, self.path("_mget"), what)
            .query(&query)
            .json(&json!({"ids": keys}));
        if keys.len() > 1 {
            request = request.at_most(MOST_FETCH_BYTES);
        }
        let answer = self.client.send(&request).await?;
        let answer = self.client.success(&request, answer)?;
        let got = self.documents_of(keys, &request.what, &answer.body)?;
        // The values of all documents share one buffer, which is freed with the last of them.
        let mut values = Vec::with_capacity(answer.body.len());
        let mut places: Vec<Option<Range<usize>>> = Vec::with_capacity(keys.len());
        for document in &got.docs {
            places.push(self.push_value(&mut values, document, &request.what)?);
        }
        let values = Bytes::from(values);
        let entries = keys.iter().zip(places).map(|(key, place)| {
            let value = values.slice(place?);
            Some(Record::new(CacheKey::clone(key), value).into())
        });
        Ok(entries.collect())
    }

    /// Reads the answer to a request for documents by key: one for each key.
    fn documents_of<'a>(&self, keys: &[&CacheKey], what: &str, body: &'a [u8]) -> Result<Got<'a>> {
        let got: Got<'_> = self.client.parse(what, body)?;
        if got.docs.len() != keys.len() {
            let message = format!(
                "cannot {what} at {}: {} answers for {} keys",
                self.client.host(),
                got.docs.len(),
                keys.len()
            );
            return Err(Error::new(ErrorKind::Server, message));
        }
        Ok(got)
    }

    /// Whether a document exists.
    ///
    /// # Errors
    /// The server does not know.
    fn is_found(&self, document: &Document<'_>, what: &str) -> Result<bool> {
        let Some(error) = &document.error else {
            return Ok(document.found);
        };
        if error.is("index_not_found_exception") {
            return Ok(false);
        }
        // One shard that does not answer is no proof that a document is not there.
        let status = if error.is("index_closed_exception") {
            400
        } else {
            503
        };
        Err(self.client.refused(self.client.host(), what, status, error))
    }

    /// Adds the value of a document that was found.
    fn push_value(
        &self,
        values: &mut Vec<u8>,
        document: &Document<'_>,
        what: &str,
    ) -> Result<Option<Range<usize>>> {
        if !self.is_found(document, what)? {
            return Ok(None);
        }
        let Some(source) = document.source else {
            let message = format!(
                "the index {} does not keep the source of its documents",
                self.index
            );
            return Err(Error::new(ErrorKind::Damaged, message));
        };
        let start = values.len();
        codec::push_value(values, source);
        Ok(Some(start..values.len()))
    }

    /// Counts by looking at every key, where the server cannot count.
    async fn count_keys(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let mut count = Count::none();
        let mut scanned = 0;
        let mut reading = Reading::keys(Arc::new(self.clone()), selection.clone());
        while let Some(documents) = reading.next().await? {
            scanned += documents.len() as u64;
            progress(scanned);
            let keys = documents.iter().filter_map(|document| document.key.as_deref());
            keys.for_each(|key| count.add(selection, key));
        }
        Ok(count)
    }

    /// How many documents the server counted as selected, if it did.
    pub(super) fn share_of(&self, selection: &Selection) -> Option<Share> {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted
            .as_ref()
            .filter(|(counted, _)| counted == selection)
            .map(|(_, share)| *share)
    }

    /// Lets the server count by `__mirrored_id`; `None` where a document lacks it, or where the server is set to refuse that
    /// or cannot tell the selected types apart.
    pub(super) async fn count_by_server(&self, selection: &Selection) -> Result<Option<Count>> {
        let what = format!("count the documents of the index {}", self.index);
        let query = [
            ("allow_partial_search_results", "false"),
            ("filter_path", "hits.total.value,aggregations.kinds.buckets"),
        ];
        let request = Request::new(Method::Post, self.path("_search"), what.as_str())
            .query(&query)
            .json(&count_query(selection));
        let answer = self.client.send(&request).await?;
        if answer.lacks_index() {
            // It was removed since it was found.
            return Ok(Some(Count::none()));
        }
        if !answer.is_success() && answer.cause().forbids_expensive_queries() {
            tracing::debug!("cannot {what}: {}", answer.cause().text());
            return Ok(None);
        }
        let body = self.client.success(&request, answer)?.body;
        let answered: CountAnswer = self.client.parse(&what, &body)?;
        let mut buckets = answered.aggregations.kinds.buckets;
        let mut take = |name: &str| buckets.remove(name).map_or(0, |bucket| bucket.doc_count);
        let can_be_counted = take(WITHOUT_KEY) == 0;
        let share = Share {
            selected: take(SELECTED),
            all: answered.hits.total.value,
        };
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) =
            can_be_counted.then(|| (selection.clone(), share));
        if !can_be_counted {
            return Ok(None);
        }
        let mut count = Count::none();
        for (prefix, bucket) in buckets {
            count.add_kind(selection, &prefix, bucket.doc_count);
        }
        if let Some(left_out) = &mut count.left_out {
            let others = share.all.saturating_sub(share.selected + left_out.total());
            if others > 0 {
                left_out.add(LeftOutKind::OTHER, LeftOutKind::OTHER, others);
            }
        }
        // What has another form is in every shard, as far as the server looked.
        count.exact &= selection.shard().is_none();
        Ok((count.total() == share.selected).then_some(count))
    }
}

/// The bucket of all selected documents among those of the kinds.
const SELECTED: &str = "selected";

/// The bucket of the documents without `__mirrored_id`, which no other one can have counted.
const WITHOUT_KEY: &str = "without_key";

/// A search that returns no document but counts, by kind.
fn count_query(selection: &Selection) -> serde_json::Value {
    let rules = selection.rules();
    let mut filters: BTreeMap<String, serde_json::Value> = known_prefixes(rules.as_deref())
        .into_iter()
        .map(|prefix| (prefix.clone(), keys_by_rule(&KeyRule::Prefix(prefix))))
        .collect();
    let all = || json!({"match_all": {}});
    let selected = match rules {
        Some(rules) => json!({"bool": {"should": rules.iter().map(keys_by_rule).collect::<Vec<_>>()}}),
        None => all(),
    };
    filters.insert(SELECTED.to_owned(), selected);
    let without_key = json!({"bool": {"must_not": {"exists": {"field": MIRRORED_ID}}}});
    filters.insert(WITHOUT_KEY.to_owned(), without_key);
    json!({
        "size": 0,
        "track_total_hits": true,
        "query": selection.shard().map_or_else(all, keys_of_shard),
        "aggs": {"kinds": {"filters": {"filters": filters}}},
    })
}

#[derive(Deserialize)]
struct CountAnswer {
    hits: Hits,
    aggregations: Aggregations,
}

#[derive(Deserialize)]
struct Hits {
    total: Total,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct Aggregations {
    kinds: Kinds,
}

#[derive(Deserialize)]
struct Kinds {
    buckets: BTreeMap<String, Bucket>,
}

#[derive(Deserialize)]
struct Bucket {
    doc_count: u64,
}

/// What the keys of the kinds begin with that LightRAG writes or that are selected. No two have a key in common.
fn known_prefixes(rules: Option<&[KeyRule]>) -> BTreeSet<String> {
    const MODES: [&str; 6] = ["bypass", "global", "hybrid", "local", "mix", "naive"];
    let of_questions = CacheType::OF_QUESTIONS;
    let from_files = CacheType::FROM_FILES
        .iter()
        .chain(&of_questions)
        .map(|t| format!("{FILE_MODE}:{t}:"));
    let others = MODES
        .iter()
        .flat_map(|mode| of_questions.iter().map(move |t| format!("{mode}:{t}:")));
    let selected = rules.unwrap_or_default().iter().filter_map(|rule| match rule {
        KeyRule::Prefix(prefix) if prefix.matches(':').count() == 2 => Some(prefix.clone()),
        _ => None,
    });
    from_files.chain(others).chain(selected).collect()
}

/// A query for the keys of a rule.
pub(super) fn keys_by_rule(rule: &KeyRule) -> serde_json::Value {
    match rule {
        KeyRule::Prefix(prefix) => json!({"prefix": {MIRRORED_ID: prefix}}),
        KeyRule::Type(cache_type) => json!({"regexp": {MIRRORED_ID: format!("[^:]*:{cache_type}:.*")}}),
    }
}

/// The keys of a shard, and those of another form than LightRAG's own.
pub(super) fn keys_of_shard(shard: Shard) -> serde_json::Value {
    // Any text before the hash would have the server try every place for its beginning.
    let own_form = |hash: String| json!({"regexp": {MIRRORED_ID: format!("[^:]*:[^:]*:{hash}")}});
    let others = json!({"bool": {"must_not": own_form(Shard::any_hash_pattern())}});
    json!({"bool": {"should": [own_form(shard.hash_pattern()), others]}})
}

#[async_trait]
impl Source for OpenSearchSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        match self.can_search_keys().await? {
            None => Ok(Count::none()),
            Some(false) => self.count_keys(selection, progress).await,
            Some(true) => match self.count_by_server(selection).await? {
                Some(count) => Ok(count),
                None => self.count_keys(selection, progress).await,
            },
        }
    }

    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        Box::new(Scan::new(self, selection.clone(), limit, from))
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        // The server refuses a whole request for a key that no document can have.
        let known: Vec<&CacheKey> = keys
            .iter()
            .filter(|key| codec::key_problem(key).is_none())
            .collect();
        let mut fetched = Vec::with_capacity(known.len());
        for piece in known.chunks(GOT_AT_ONCE) {
            fetched.extend(self.fetch(piece, true).await?);
        }
        let mut fetched = fetched.into_iter();
        for key in keys {
            entries.push(match codec::key_problem(key) {
                Some(_) => None,
                None => fetched.next().flatten(),
            });
        }
        Ok(entries)
    }

    async fn contains(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let known: Vec<&CacheKey> = keys
            .iter()
            .filter(|key| codec::key_problem(key).is_none())
            .collect();
        let mut found = Vec::with_capacity(known.len());
        for piece in known.chunks(GOT_AT_ONCE) {
            found.extend(self.have_documents(piece).await?);
        }
        let mut found = found.into_iter();
        let is_there = |key| codec::key_problem(key).is_none() && found.next().unwrap_or(false);
        Ok(keys.iter().map(is_there).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_have_room_for_one_document_more_than_there_are() {
        let share = Share { selected: 3, all: 63 };
        assert!(share.is_less_than(64) && !share.is_less_than(63));
    }

    #[test]
    fn the_server_looks_for_what_is_selected_where_that_is_little() {
        for (selected, all, pays) in [
            (0, 1_000_000, true),
            (20_000, 1_000_000, true),
            (900_000, 1_000_000, false),
            (19_000, 20_000, false),
            (2_000, 20_000, true),
            (20_000, 20_000, false),
            (0, 0, false),
        ] {
            assert_eq!(
                Share { selected, all }.is_worth_a_filter(),
                pays,
                "{selected} of {all}"
            );
        }
    }
}
