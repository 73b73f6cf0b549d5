//! Reading an index in the order of its keys.
//!
//! Keys are listed first, thousands at a time and without their documents, and then the documents of the selected
//! ones are fetched by key, two requests at a time. So nothing is transferred that is not selected, answers are
//! bounded by bytes, and the last key of a page is a position that holds in another process as well. A point in time
//! would not, and is not needed: what is there all the while has its place in the order.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;

use super::{
    client::{Cause, Client, Request},
    layout::{self, MIRRORED_ID},
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{CacheKey, CacheType, Record, Selection},
    storage::{Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageStream, Progress, Source},
};

/// How many keys are listed at once: what a server gives in one answer (`index.max_result_window`).
const LISTED: usize = 10_000;

/// How large an answer with documents should be. Larger ones are hardly faster.
const FETCH_BYTES: usize = 1 << 20;

/// How large an answer with several documents may be at most. A larger one is asked for in halves.
const MOST_FETCH_BYTES: u64 = 8 << 20;

/// How many documents are fetched at once, at most; and at first, before their size is known.
const MOST_FETCHED: usize = 500;
const FIRST_FETCHED: usize = 50;

/// How many fetches are under way at once.
const FETCHES: usize = 2;

/// How many keys of [`Source::get_many`] are asked for before it is known how large their documents are.
const GOT_AT_ONCE: usize = 200;

/// The index of a workspace, to read.
pub(super) struct OpenSearchSource {
    pub(super) client: Arc<Client>,
    pub(super) index: String,
}

/// The field that gives an index its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// `__mirrored_id`, which every document has.
    Mirrored,
    /// `_id`, in an index from before LightRAG wrote `__mirrored_id`.
    Id,
}

impl Order {
    const fn field(self) -> &'static str {
        match self {
            Self::Mirrored => MIRRORED_ID,
            Self::Id => "_id",
        }
    }
}

/// Whether documents are listed with their `_id`. The place in the order is the same in what LightRAG wrote, and to be told
/// the `_id` too costs the server as much as to read the whole document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WithIds {
    Yes,
    No,
}

/// A key that was listed.
struct Listed {
    /// Its place in the order: the same as the key, unless somebody else than LightRAG wrote the document.
    place: String,
    key: CacheKey,
    selected: bool,
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow, default)]
    hits: Hits<'a>,
}

#[derive(Deserialize, Default)]
struct Hits<'a> {
    #[serde(borrow, default)]
    hits: Vec<Hit<'a>>,
}

#[derive(Deserialize)]
struct Hit<'a> {
    /// Only where it was asked for.
    #[serde(rename = "_id", borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sort: Vec<Option<Cow<'a, str>>>,
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
    pub(super) fn new(client: Arc<Client>, index: String) -> Self {
        Self { client, index }
    }

    pub(super) fn path(&self, api: &str) -> String {
        format!("/{}/{api}", self.index)
    }

    /// By what the documents can be sorted; `None` where there is no index.
    async fn order(&self) -> Result<Option<Order>> {
        let Some(field) = self.client.field(&self.index, MIRRORED_ID).await? else {
            return Ok(None);
        };
        // A server that was not told the type takes the field for text, which cannot be sorted by.
        let is_keyword = field.types.iter().eq(["keyword"]);
        // A closed index shows no fields, and only a look into it says that it is closed.
        if (is_keyword || field.indices.is_empty()) && !self.lacks_mirrored_ids().await? {
            return Ok(Some(Order::Mirrored));
        }
        Ok(Some(Order::Id))
    }

    /// Whether a document has no `__mirrored_id`.
    async fn lacks_mirrored_ids(&self) -> Result<bool> {
        #[derive(Deserialize)]
        struct Counted {
            count: u64,
            #[serde(rename = "_shards")]
            shards: Shards,
        }
        #[derive(Deserialize)]
        struct Shards {
            failed: u64,
        }
        let what = format!("look into the index {}", self.index);
        let missing = json!({"query": {"bool": {"must_not": {"exists": {"field": MIRRORED_ID}}}}});
        let query = [("terminate_after", "1")];
        let request = Request::new(Method::Post, self.path("_count"), what.as_str())
            .query(&query)
            .json(&missing);
        let body = self.client.ask(request).await?;
        let counted: Counted = self.client.parse(&what, &body)?;
        if counted.shards.failed > 0 {
            let message = format!(
                "cannot {what} at {}: {} of its shards do not answer",
                self.client.host(),
                counted.shards.failed
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Ok(counted.count > 0)
    }

    /// Sends a search. Nothing is answered where a part of the index cannot be read.
    async fn search(&self, what: &str, filter: &str, body: &serde_json::Value) -> Result<Bytes> {
        let query = [("allow_partial_search_results", "false"), ("filter_path", filter)];
        let request = Request::new(Method::Post, self.path("_search"), what)
            .query(&query)
            .json(body);
        self.client.ask(request).await
    }

    /// Lists the keys behind a place in the order. The second is whether there may be more.
    async fn list(&self, order: Order, after: Option<&str>) -> Result<(Vec<(String, CacheKey)>, bool)> {
        let (keys, more) = self.list_by(order, after, WithIds::No).await?;
        // Documents that share a place, which is the key of one of them at most.
        if keys.windows(2).any(|two| two[0].0 == two[1].0) {
            return self.list_by(order, after, WithIds::Yes).await;
        }
        Ok((keys, more))
    }

    async fn list_by(
        &self,
        order: Order,
        after: Option<&str>,
        with_ids: WithIds,
    ) -> Result<(Vec<(String, CacheKey)>, bool)> {
        let what = format!("list the documents of the index {}", self.index);
        let mut body = json!({
            "size": LISTED,
            "track_total_hits": false,
            "_source": false,
            "sort": [{order.field(): "asc"}],
        });
        if let Some(after) = after {
            body["search_after"] = json!([after]);
        }
        let filter = match with_ids {
            WithIds::Yes => "hits.hits._id,hits.hits.sort",
            WithIds::No => {
                body["stored_fields"] = json!("_none_");
                "hits.hits.sort"
            }
        };
        let listed = self.search(&what, filter, &body).await;
        let body = listed.map_err(|error| match (order, error.kind()) {
            (Order::Id, ErrorKind::Server) => error.with_remedy(format!(
                "its documents lack {MIRRORED_ID}, by which they could be sorted: allow sorting by _id (cluster \
                 setting indices.id_field_data.enabled), or copy the index into one that LightRAG made"
            )),
            _ => error,
        })?;
        let found: Found<'_> = self.client.parse(&what, &body)?;
        let mut keys = Vec::with_capacity(found.hits.hits.len());
        for hit in found.hits.hits {
            let Some(Some(place)) = hit.sort.into_iter().next() else {
                let message = format!(
                    "a document without {MIRRORED_ID} came to the index {}",
                    self.index
                );
                return Err(Error::new(ErrorKind::Damaged, message)
                    .with_remedy("stop what else writes to the index, and run the same command again"));
            };
            let key = CacheKey::new(hit.id.unwrap_or(Cow::Borrowed(&place)));
            keys.push((place.into_owned(), key));
        }
        if keys.len() < LISTED {
            return Ok((keys, false));
        }
        // Documents that share a place with the last one may follow, so all of that place are left to the next list.
        let last = keys.last().map(|(place, _)| place.clone()).unwrap_or_default();
        let whole = keys.partition_point(|(place, _)| *place < last);
        if whole > 0 {
            keys.truncate(whole);
            return Ok((keys, true));
        }
        let message = format!(
            "{LISTED} documents of the index {} have the same {MIRRORED_ID}",
            self.index
        );
        Err(Error::new(ErrorKind::Damaged, message).with_remedy("copy the index into one that LightRAG made"))
    }

    /// Lists all keys behind a place, in pieces whose documents can be fetched at once.
    fn chunks(
        self: &Arc<Self>,
        order: Order,
        selection: &Selection,
        from: Option<String>,
        at_once: Arc<AtomicUsize>,
    ) -> impl Stream<Item = Result<Vec<Listed>>> + Send + use<> {
        struct State {
            source: Arc<OpenSearchSource>,
            after: Option<String>,
            listed: VecDeque<(String, CacheKey)>,
            more: bool,
        }
        let state = State {
            source: Arc::clone(self),
            after: from,
            listed: VecDeque::new(),
            more: true,
        };
        let selection = selection.clone();
        stream::try_unfold(state, move |mut state| {
            let at_once = Arc::clone(&at_once);
            let selection = selection.clone();
            async move {
                if state.listed.is_empty() && state.more {
                    let (listed, more) = state.source.list(order, state.after.as_deref()).await?;
                    state.after = listed.last().map(|(place, _)| place.clone()).or(state.after);
                    (state.listed, state.more) = (listed.into(), more);
                }
                if state.listed.is_empty() {
                    return Ok(None);
                }
                let most = at_once.load(Ordering::Relaxed);
                let mut chunk = Vec::new();
                let mut selected_so_far = 0;
                while selected_so_far < most
                    && let Some((place, key)) = state.listed.pop_front()
                {
                    let selected = selection.of_key(key.as_str()).is_some();
                    selected_so_far += usize::from(selected);
                    chunk.push(Listed { place, key, selected });
                }
                Ok(Some((chunk, state)))
            }
        })
    }

    /// Fetches the documents of the selected keys of a chunk, and learns from their size how many to fetch next.
    async fn fetch_chunk(
        &self,
        order: Order,
        chunk: Vec<Listed>,
        at_once: &AtomicUsize,
    ) -> Result<Vec<(Listed, Option<Entry>)>> {
        let selected = chunk.iter().filter(|listed| listed.selected);
        let keys: Vec<&CacheKey> = selected.map(|listed| &listed.key).collect();
        let entries = if keys.is_empty() {
            Vec::new()
        } else {
            // What the list was made of; a source that is being written to is not made to refresh itself.
            self.fetch(&keys, false).await?
        };
        let bytes: usize = entries.iter().flatten().map(Entry::size).sum();
        let found = entries.iter().flatten().count();
        if let Some(average) = bytes.checked_div(found) {
            let next = (FETCH_BYTES / average.max(1)).clamp(1, MOST_FETCHED);
            at_once.store(next, Ordering::Relaxed);
        }
        let mut entries = entries.into_iter();
        let fetched = chunk.into_iter().map(|listed| {
            let entry = if listed.selected {
                entries.next().flatten()
            } else {
                None
            };
            (listed, entry)
        });
        let mut fetched: Vec<_> = fetched.collect();
        if order == Order::Mirrored {
            self.fetch_by_place(&mut fetched).await?;
        }
        Ok(fetched)
    }

    /// Fetches documents that were not found under the key that is their place: they have gone, or have another `_id`.
    async fn fetch_by_place(&self, fetched: &mut [(Listed, Option<Entry>)]) -> Result<()> {
        let mut missing: Vec<&mut (Listed, Option<Entry>)> = fetched
            .iter_mut()
            .filter(|(listed, entry)| listed.selected && entry.is_none())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("look up documents of the index {}", self.index);
        let places: Vec<&str> = missing.iter().map(|(listed, _)| listed.place.as_str()).collect();
        let body = json!({
            "size": LISTED,
            "track_total_hits": false,
            "_source": false,
            "query": {"terms": {MIRRORED_ID: places}},
            "sort": [{MIRRORED_ID: "asc"}],
        });
        let answer = self.search(&what, "hits.hits._id,hits.hits.sort", &body).await?;
        let found: Found<'_> = self.client.parse(&what, &answer)?;
        for hit in found.hits.hits {
            let (Some(id), Some(Some(place))) = (hit.id, hit.sort.into_iter().next()) else {
                continue;
            };
            if let Some((listed, entry)) = missing
                .iter_mut()
                .find(|it| it.0.place == place)
                .map(|it| &mut **it)
            {
                listed.key = CacheKey::new(id);
                *entry = self.fetch(&[&listed.key], false).await?.pop().flatten();
            }
        }
        Ok(())
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
        let got: Got<'_> = self.client.parse(&request.what, &answer.body)?;
        if got.docs.len() != keys.len() {
            let message = format!(
                "cannot {} at {}: {} answers for {} keys",
                request.what,
                self.client.host(),
                got.docs.len(),
                keys.len()
            );
            return Err(Error::new(ErrorKind::Server, message));
        }
        // The values of all documents stand in one piece of memory, which lives as long as the last of them.
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

    /// Adds the value of a document that was found.
    fn push_value(
        &self,
        values: &mut Vec<u8>,
        document: &Document<'_>,
        what: &str,
    ) -> Result<Option<Range<usize>>> {
        if let Some(error) = &document.error {
            if error.is("index_not_found_exception") {
                return Ok(None);
            }
            // One shard that does not answer is no proof that a document is not there.
            let status = if error.is("index_closed_exception") {
                400
            } else {
                503
            };
            return Err(self.client.refused(self.client.host(), what, status, error));
        }
        if !document.found {
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
        layout::push_value(values, source);
        Ok(Some(start..values.len()))
    }

    async fn send_pages(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
        order: &OnceLock<Order>,
        pages: &Pages,
    ) -> Result<()> {
        let order = match order.get() {
            Some(order) => *order,
            None => match self.order().await? {
                Some(found) => *order.get_or_init(|| found),
                None => return Ok(()),
            },
        };
        let at_once = Arc::new(AtomicUsize::new(FIRST_FETCHED));
        let from = from.map(|Cursor(place)| place);
        let fetched = self
            .chunks(order, selection, from, Arc::clone(&at_once))
            .map(|chunk| {
                let (source, at_once) = (Arc::clone(&self), Arc::clone(&at_once));
                async move { source.fetch_chunk(order, chunk?, &at_once).await }
            })
            .buffered(FETCHES);
        let mut fetched = std::pin::pin!(fetched);
        let mut page = PageBuilder::new(limit);
        while let Some(chunk) = fetched.next().await {
            let mut last = None;
            for (listed, entry) in chunk? {
                match entry {
                    Some(entry) => page.push(entry),
                    None if listed.selected => {} // It has gone since it was listed.
                    None => page.pass_over(),
                }
                last = Some(Cursor(listed.place));
                if page.is_full() && pages.send(Ok(Some(page.take(last.take())))).await.is_err() {
                    // Nobody reads any more.
                    return Ok(());
                }
            }
            // Nobody waits for a page while thousands of keys are passed over.
            if last.is_some() && pages.send(Ok(Some(page.take(last)))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Counts by looking at every key, where the server cannot count.
    async fn count_keys(&self, order: Order, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let mut count = Count::none();
        let mut scanned = 0;
        let mut after: Option<String> = None;
        loop {
            let (keys, more) = self.list(order, after.as_deref()).await?;
            scanned += keys.len() as u64;
            progress(scanned);
            let types = keys.iter().filter_map(|(_, key)| selection.of_key(key.as_str()));
            types.for_each(|cache_type| count.add(cache_type));
            after = keys.into_iter().next_back().map(|(place, _)| place).or(after);
            if !more {
                return Ok(count);
            }
        }
    }

    /// Lets the server count by `__mirrored_id`.
    async fn count_by_server(&self, selection: &Selection) -> Result<Count> {
        #[derive(Deserialize)]
        struct Answered {
            aggregations: Aggregations,
        }
        #[derive(Deserialize)]
        struct Aggregations {
            types: Types,
        }
        #[derive(Deserialize)]
        struct Types {
            buckets: BTreeMap<CacheType, Bucket>,
        }
        #[derive(Deserialize)]
        struct Bucket {
            doc_count: u64,
        }
        let filters: BTreeMap<CacheType, serde_json::Value> =
            selection.types().map(|t| (t, keys_of_type(t))).collect();
        let body = json!({
            "size": 0,
            "track_total_hits": false,
            "aggs": {"types": {"filters": {"filters": filters}}},
        });
        let what = format!("count the documents of the index {}", self.index);
        let body = self.search(&what, "aggregations", &body).await?;
        let answered: Answered = self.client.parse(&what, &body)?;
        let counts = answered.aggregations.types.buckets.into_iter();
        Ok(Count {
            by_type: counts.map(|(t, bucket)| (t, bucket.doc_count)).collect(),
            exact: true,
        })
    }
}

/// Takes the pages of a scan, and `None` after the last.
type Pages = mpsc::Sender<Result<Option<Page>>>;

/// A scan that can go on after an error.
struct Scan {
    source: Arc<OpenSearchSource>,
    selection: Selection,
    limit: PageLimit,
    /// Behind the last page that was given.
    cursor: Option<Cursor>,
    /// The order of the index, once it is known.
    order: Arc<OnceLock<Order>>,
    /// Where pages come from, unless reading has to begin again.
    pages: Option<mpsc::Receiver<Result<Option<Page>>>>,
    ended: bool,
}

impl Scan {
    /// The next page; `None` at the end, and after an error that another try does not help.
    async fn next(&mut self) -> Option<Result<Page>> {
        if self.ended {
            return None;
        }
        let mut pages = match self.pages.take() {
            Some(pages) => pages,
            None => self.read(),
        };
        let page = pages.recv().await.unwrap_or_else(|| {
            let message = format!("reading the index {} panicked", self.source.index);
            Err(Error::new(ErrorKind::Internal, message))
        });
        match &page {
            Ok(Some(page)) => {
                self.cursor = page.cursor.clone().or(self.cursor.take());
                self.pages = Some(pages);
            }
            Err(error) if error.is_temporary() => {}
            Ok(None) | Err(_) => self.ended = true,
        }
        page.transpose()
    }

    /// Reads on behind the cursor, in a task that ends when nobody wants more.
    fn read(&self) -> mpsc::Receiver<Result<Option<Page>>> {
        let (source, order) = (Arc::clone(&self.source), Arc::clone(&self.order));
        let (selection, limit, from) = (self.selection.clone(), self.limit, self.cursor.clone());
        // One page is on its way while the next is read.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                read = source.send_pages(&selection, limit, from, &order, &sender) => {
                    let _ = sender.send(read.map(|()| None)).await;
                }
            }
        });
        receiver
    }
}

/// A query for the keys of a type, by [`CacheType::of_key`].
fn keys_of_type(cache_type: CacheType) -> serde_json::Value {
    if cache_type.is_from_files() {
        json!({"prefix": {MIRRORED_ID: format!("default:{cache_type}:")}})
    } else {
        json!({"regexp": {MIRRORED_ID: format!("[^:]*:{cache_type}:.*")}})
    }
}

#[async_trait]
impl Source for OpenSearchSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        match self.order().await? {
            None => Ok(Count::none()),
            Some(Order::Id) => self.count_keys(Order::Id, selection, progress).await,
            Some(Order::Mirrored) => match self.count_by_server(selection).await {
                // Servers can be told to refuse queries that are dear.
                Err(error) if error.kind() == ErrorKind::Server => {
                    self.count_keys(Order::Mirrored, selection, progress).await
                }
                counted => counted,
            },
        }
    }

    fn scan(self: Arc<Self>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> PageStream {
        let scan = Scan {
            source: self,
            selection: selection.clone(),
            limit,
            cursor: from,
            order: Arc::default(),
            pages: None,
            ended: false,
        };
        stream::unfold(scan, |mut scan| async {
            let page = scan.next().await?;
            Some((page, scan))
        })
        .boxed()
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        // The server refuses a whole request for a key that no document can have.
        let known: Vec<&CacheKey> = keys
            .iter()
            .filter(|key| layout::key_problem(key).is_none())
            .collect();
        let mut fetched = Vec::with_capacity(known.len());
        for piece in known.chunks(GOT_AT_ONCE) {
            fetched.extend(self.fetch(piece, true).await?);
        }
        let mut fetched = fetched.into_iter();
        for key in keys {
            entries.push(match layout::key_problem(key) {
                Some(_) => None,
                None => fetched.next().flatten(),
            });
        }
        Ok(entries)
    }
}
