//! Reading an index about in the order in which it was written.
//!
//! Each shard numbers the operations that it is asked for, and a document carries the number of the operation that
//! wrote it last, `_seq_no`. So a document that nobody changes keeps its number, one that is changed gets a higher one,
//! and documents lie on the disk about in this order, where any order by key is a random one.
//!
//! * **One number for all shards.** A position is a number: up to it everything was read, in every shard of every index
//!   behind the name.
//! * **A view** (a point in time) holds still what is read: no document comes twice because somebody changed it
//!   meanwhile. It is of the primaries, since a replica may show less than was seen before. When the server loses it, as
//!   when it is started again, a new one is taken and read on from the position; what was changed in between may then
//!   come a second time.
//! * **Windows.** A window is a range of some thousand numbers. Within it, documents are read as they lie on the disk
//!   (`_shard_doc`): those that are neighbours there are decompressed together, and in the order of numbers they are no
//!   neighbours where several writers filled several segments at once. So there is a position only at a window's end.
//! * **Lanes.** The two halves of a window are read at the same time, so that the server works on two cores.
//! * **The position outlives the process.** A document that was not read has a higher number, and if it is changed a
//!   still higher one, also after a replica has become the primary: it fills its gaps and counts on. An index that was
//!   deleted and made anew counts from 0, so a position names the indices by their UUIDs, and is refused where they are
//!   others. What cannot be told is an index into which an older snapshot was restored between two runs, and what was
//!   written but not to be seen yet when the view was taken: then the source gives fewer records than were counted,
//!   which ends a run as incomplete.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::{FutureExt, future::select_all};
use opensearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio_util::task::AbortOnDropHandle;

use super::{
    client::{Answer, Client, Request},
    codec,
    source::{OpenSearchSource, Share, keys_of_type},
};
use crate::{
    model::{
        CacheType, Error, ErrorKind, Result, Selection,
        record::{CacheKey, Fields, KeyDigest, Record},
    },
    storage::{Cursor, Entry, Page, PageBuilder, PageLimit},
};

/// How long the server keeps a view that nobody asks for.
const KEEP_ALIVE: &str = "5m";

/// How large an answer with several documents may be. A larger one is asked for in parts.
const MOST_ANSWER_BYTES: u64 = 8 << 20;

/// How many documents an answer holds at most (`index.max_result_window`, as a rule).
const MOST_DOCUMENTS: usize = 10_000;

/// How many documents the first answers hold, before it is known how large they are.
const FIRST_AT_ONCE: usize = 64;

/// How many documents a window should hold at most: what is read again when the program is killed.
const WINDOW_DOCUMENTS: usize = 10_000;

/// How many pages of documents a window should hold at most.
const WINDOW_PAGES: usize = 10;

/// How many numbers a window has at most: where most of them are those of documents that were written again since.
const MOST_WIDTH: i64 = 1 << 20;

/// The number before the first one.
const BEFORE_ALL: i64 = -1;

/// Up to where an index was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// The UUIDs of the indices, sorted; empty where the login may not ask for them.
    indices: Vec<String>,
    /// The number of the last document.
    seq_no: i64,
}

impl Position {
    fn to_cursor(&self) -> Cursor {
        // A list of strings and a number always have a JSON form.
        Cursor(serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a position in these indices.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] where it is none, or one in other indices.
    fn from_cursor(cursor: &Cursor, index: &str, indices: &[String]) -> Result<Self> {
        let position: Self = serde_json::from_str(&cursor.0)
            .map_err(|_| Error::checkpoint(format!("`{}` is no position in the index {index}", cursor.0)))?;
        if position.indices != indices {
            return Err(Error::checkpoint(format!(
                "the index {index} is no longer the one that was read before: it was made anew"
            )));
        }
        Ok(position)
    }
}

/// What is asked of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Its key alone.
    Keys,
    /// All of it.
    Documents,
}

/// A document that was read.
#[derive(Debug)]
pub(super) struct Document {
    /// What tells it from every other version of every document.
    version: KeyDigest,
    /// Its type, where it is selected.
    pub(super) selected: Option<CacheType>,
    /// What it holds, where it is selected and that was wanted.
    entry: Option<Entry>,
}

/// A range of numbers: those above the first, up to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    after: i64,
    to: i64,
}

impl Window {
    fn width(self) -> i64 {
        self.to - self.after
    }

    fn halves(self) -> [Self; 2] {
        let middle = self.after + self.width() / 2;
        [
            Self { to: middle, ..self },
            Self {
                after: middle,
                ..self
            },
        ]
    }
}

/// How wide the next window is to be.
#[derive(Clone, Copy, Debug)]
struct Width {
    numbers: i64,
    /// How many documents a window should hold.
    documents: usize,
}

impl Width {
    fn new(documents: usize) -> Self {
        Self {
            numbers: i64::try_from(documents).unwrap_or(MOST_WIDTH),
            documents,
        }
    }

    /// Learns from a window how many numbers hold the documents for one. One window is no proof: it changes fourfold at
    /// most.
    fn learn(&mut self, window: Window, found: usize) {
        let wanted = self.documents as f64 * window.width() as f64 / found.max(1) as f64;
        let most = self.numbers.saturating_mul(4).min(MOST_WIDTH);
        self.numbers = (wanted as i64).clamp((self.numbers / 4).max(1), most);
    }
}

/// How many documents the next answer is to hold.
#[derive(Clone, Copy, Debug)]
struct FetchSize {
    documents: usize,
    /// How large an answer should be.
    bytes: usize,
}

impl FetchSize {
    /// Learns from an answer how large documents are. One answer is no proof: it changes fourfold at most.
    fn learn(&mut self, found: usize, bytes: usize) {
        let average = bytes / found.max(1) + 1;
        let most = self.documents.saturating_mul(4).min(MOST_DOCUMENTS);
        self.documents = (self.bytes / average).clamp((self.documents / 4).max(1), most);
    }
}

/// What an index held at one moment.
struct PointInTime {
    client: Arc<Client>,
    /// The server's name for it.
    id: String,
    /// The highest number.
    end: i64,
    /// A query for what is selected, where that pays.
    filter: Option<serde_json::Value>,
    is_closed: AtomicBool,
}

impl PointInTime {
    fn close_request(&self) -> Request<'static> {
        Request::new(
            Method::Delete,
            "/_search/point_in_time",
            "give back a view of the index",
        )
        .json(&json!({"pit_id": [self.id]}))
    }

    /// Gives it back. The server would do so itself a little later, so that a failure is none.
    async fn close(&self) {
        if !self.is_closed.swap(true, Ordering::Relaxed) {
            let _ = self.client.send(&self.close_request()).await;
        }
    }
}

impl Drop for PointInTime {
    /// Whoever stops reading early does not wait for this.
    fn drop(&mut self) {
        if self.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, request) = (Arc::clone(&self.client), self.close_request());
            runtime.spawn(async move {
                let _ = client.send(&request).await;
            });
        }
    }
}

/// An answer to a search. The source of a document is read as `S`.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, S: Deserialize<'de>"))]
struct Found<'a, S> {
    hits: Hits<'a, S>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, S: Deserialize<'de>"))]
struct Hits<'a, S> {
    hits: Vec<Hit<'a, S>>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, S: Deserialize<'de>"))]
struct Hit<'a, S> {
    #[serde(rename = "_id", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "_seq_no", default)]
    seq_no: i64,
    #[serde(rename = "_source", default = "Option::default")]
    source: Option<S>,
    sort: [i64; 1],
}

/// What an answer held.
#[derive(Debug)]
struct Part {
    documents: Vec<Document>,
    /// The place of the last one on the disk, where there may be more behind it.
    more_behind: Option<i64>,
    /// The size of the answer.
    bytes: usize,
}

/// A part of a window, which is read answer by answer.
struct Lane {
    window: Window,
    /// The last place on the disk that was read.
    after: Option<i64>,
    /// How many documents the next answer holds at most.
    asked: usize,
    /// The next answer, on its way. `None` after an error.
    reading: Option<AbortOnDropHandle<Result<Part, Failure>>>,
}

/// Why a window could not be read.
enum Failure {
    /// The server does not have the view any more.
    ViewLost(Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Reads an index, piece by piece. After an error it may be asked again, and then goes on where it failed.
pub(super) struct Reading {
    source: Arc<OpenSearchSource>,
    selection: Selection,
    want: Want,
    /// What is read; `None` before the first request, and when the last view is of no use any more.
    view: Option<Arc<PointInTime>>,
    /// Up to where everything was given.
    position: i64,
    /// What is being read behind it, and what is left of that.
    window: Window,
    lanes: Vec<Lane>,
    /// What was given of the window: a new view begins it anew.
    given: HashSet<KeyDigest>,
    width: Width,
    at_once: FetchSize,
    /// How many requests in a row have failed.
    failed: u32,
}

impl Reading {
    /// Reads the documents that are selected, for pages of this size.
    fn documents(source: Arc<OpenSearchSource>, selection: Selection, limit: PageLimit) -> Self {
        let window = limit
            .records
            .get()
            .saturating_mul(WINDOW_PAGES)
            .min(WINDOW_DOCUMENTS);
        let at_once = FetchSize {
            documents: FIRST_AT_ONCE,
            bytes: limit.ahead.get() / 2,
        };
        Self::new(source, selection, Want::Documents, window, at_once)
    }

    /// Reads all keys.
    pub(super) fn keys(source: Arc<OpenSearchSource>, selection: Selection) -> Self {
        let at_once = FetchSize {
            documents: MOST_DOCUMENTS,
            bytes: MOST_ANSWER_BYTES as usize,
        };
        Self::new(source, selection, Want::Keys, WINDOW_DOCUMENTS, at_once)
    }

    fn new(
        source: Arc<OpenSearchSource>,
        selection: Selection,
        want: Want,
        window: usize,
        at_once: FetchSize,
    ) -> Self {
        Self {
            source,
            selection,
            want,
            view: None,
            position: BEFORE_ALL,
            window: Window {
                after: BEFORE_ALL,
                to: BEFORE_ALL,
            },
            lanes: Vec::new(),
            given: HashSet::new(),
            width: Width::new(window),
            at_once,
            failed: 0,
        }
    }

    /// Whether everything that was given stands up to the position.
    fn is_at_position(&self) -> bool {
        self.given.is_empty()
    }

    /// The next documents. `None` at the end. There may be none in a piece.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Document>>> {
        let read = self.read_next().await;
        match &read {
            Ok(_) => self.failed = 0,
            Err(_) => {
                // What is under way may have failed for the same reason; it is asked for anew when somebody asks again.
                for lane in &mut self.lanes {
                    lane.reading = None;
                }
                self.failed += 1;
                if self.failed > 1 {
                    // Perhaps the node that has the view is gone.
                    self.drop_view();
                }
            }
        }
        read
    }

    fn drop_view(&mut self) {
        self.view = None;
        self.lanes.clear();
    }

    async fn read_next(&mut self) -> Result<Option<Vec<Document>>> {
        let view = match &self.view {
            Some(view) => Arc::clone(view),
            None => match self.source.take_view(&self.selection, self.want).await? {
                Some(view) => Arc::clone(self.view.insert(Arc::new(view))),
                None => return Ok(None),
            },
        };
        if self.lanes.is_empty() {
            if self.position >= view.end {
                view.close().await;
                return Ok(None);
            }
            self.begin_window(view.end);
        }
        loop {
            for at in 0..self.lanes.len() {
                if self.lanes[at].reading.is_none() {
                    self.ask(&view, at);
                }
            }
            let waiting = self.lanes.iter_mut().enumerate().filter_map(|(at, lane)| {
                let reading = lane.reading.as_mut()?;
                Some(reading.map(move |read| (at, read)))
            });
            // Nothing of it is lost should nobody wait for the answers any more: they stay where they are.
            let ((at, read), _, _) = select_all(waiting).await;
            self.lanes[at].reading = None;
            let read = read.map_err(|error| {
                let message = format!("reading the index {} panicked", self.source.index);
                Error::new(ErrorKind::Internal, message).caused_by(error)
            })?;
            match read {
                Ok(part) => return Ok(Some(self.take(&view, at, part))),
                Err(Failure::Other(error))
                    if error.kind() == ErrorKind::RequestTooLarge && self.lanes[at].asked > 1 =>
                {
                    // The other lane may have learned the same meanwhile.
                    self.at_once.documents = self.at_once.documents.min(self.lanes[at].asked / 2);
                }
                Err(Failure::ViewLost(error)) => {
                    self.drop_view();
                    return Err(error);
                }
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }

    fn begin_window(&mut self, end: i64) {
        let after = self.position;
        self.window = Window {
            after,
            to: after.saturating_add(self.width.numbers).min(end),
        };
        let halves = self.window.halves().into_iter();
        let lanes = halves.filter(|half| half.width() > 0).map(|window| Lane {
            window,
            after: None,
            asked: 0,
            reading: None,
        });
        self.lanes = lanes.collect();
    }

    /// Asks for the next answer of a lane.
    fn ask(&mut self, view: &Arc<PointInTime>, at: usize) {
        let lane = &mut self.lanes[at];
        lane.asked = self.at_once.documents;
        let (source, view) = (Arc::clone(&self.source), Arc::clone(view));
        let (selection, want) = (self.selection.clone(), self.want);
        let (window, after, at_once) = (lane.window, lane.after, lane.asked);
        lane.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            source
                .read_part(&view, window, after, at_once, &selection, want)
                .await
        })));
    }

    /// Takes the answer of a lane, and asks for the next one.
    fn take(&mut self, view: &Arc<PointInTime>, at: usize, part: Part) -> Vec<Document> {
        self.at_once.learn(part.documents.len(), part.bytes);
        let mut documents = part.documents;
        documents.retain(|document| self.given.insert(document.version));
        match part.more_behind {
            Some(place) => {
                self.lanes[at].after = Some(place);
                self.ask(view, at);
            }
            None => {
                self.lanes.remove(at);
            }
        }
        if self.lanes.is_empty() {
            self.position = self.window.to;
            self.width.learn(self.window, self.given.len());
            self.given.clear();
        }
        documents
    }
}

impl OpenSearchSource {
    /// The UUIDs of the indices behind the name, sorted: none where the login may not ask for them. `None` where there is
    /// no index.
    async fn uuids(&self) -> Result<Option<Vec<String>>> {
        #[derive(Deserialize)]
        struct Index {
            settings: Settings,
        }
        #[derive(Deserialize)]
        struct Settings {
            index: Named,
        }
        #[derive(Deserialize)]
        struct Named {
            uuid: String,
        }
        let query = [("filter_path", "*.settings.index.uuid")];
        let what = format!("look at the index {}", self.index);
        let request = Request::new(Method::Get, self.path("_settings"), what).query(&query);
        let answer = self.client.send(&request).await?;
        if is_missing(&answer) {
            return Ok(None);
        }
        if answer.status == 403 {
            return Ok(Some(Vec::new()));
        }
        let answer = self.client.success(&request, answer)?;
        let indices: BTreeMap<String, Index> = self.client.parse(&request.what, &answer.body)?;
        let mut uuids: Vec<String> = indices
            .into_values()
            .map(|index| index.settings.index.uuid)
            .collect();
        uuids.sort();
        Ok(Some(uuids))
    }

    /// Takes a view of the index; `None` where there is none.
    async fn take_view(&self, selection: &Selection, want: Want) -> Result<Option<PointInTime>> {
        #[derive(Deserialize)]
        struct Taken {
            pit_id: String,
        }
        let query = [
            ("keep_alive", KEEP_ALIVE),
            ("preference", "_primary"),
            ("allow_partial_pit_creation", "false"),
        ];
        let what = format!("take a view of the index {}", self.index);
        let request = Request::new(Method::Post, self.path("_search/point_in_time"), what).query(&query);
        let answer = self.client.send(&request).await?;
        if is_missing(&answer) {
            return Ok(None);
        }
        let answer = self.client.success(&request, answer)?;
        let taken: Taken = self.client.parse(&request.what, &answer.body)?;
        let mut view = PointInTime {
            client: Arc::clone(&self.client),
            id: taken.pit_id,
            end: BEFORE_ALL,
            filter: None,
            is_closed: AtomicBool::new(false),
        };
        view.end = self.last_number(&view).await?;
        if want == Want::Documents && view.end > BEFORE_ALL {
            view.filter = self.filter(selection).await?;
        }
        Ok(Some(view))
    }

    /// The highest number in a view.
    async fn last_number(&self, view: &PointInTime) -> Result<i64> {
        let what = format!("look at the index {}", self.index);
        // An index into which nobody has written yet does not know of any.
        let body = json!({
            "size": 1,
            "track_total_hits": false,
            "pit": {"id": view.id, "keep_alive": KEEP_ALIVE},
            "_source": false,
            "sort": [{"_seq_no": {"order": "desc", "unmapped_type": "long"}}],
        });
        let body = self.search("/_search", &what, &body).await?;
        let found: Found<'_, &RawValue> = self.client.parse(&what, &body)?;
        Ok(found.hits.hits.first().map_or(BEFORE_ALL, |hit| hit.sort[0]))
    }

    /// Reads so many documents of a window, behind a place on the disk.
    async fn read_part(
        &self,
        view: &PointInTime,
        window: Window,
        after: Option<i64>,
        at_once: usize,
        selection: &Selection,
        want: Want,
    ) -> Result<Part, Failure> {
        let range = json!({"range": {"_seq_no": {"gt": window.after, "lte": window.to}}});
        let conditions: Vec<&serde_json::Value> = [&range].into_iter().chain(&view.filter).collect();
        let mut body = json!({
            "size": at_once,
            "track_total_hits": false,
            "pit": {"id": view.id, "keep_alive": KEEP_ALIVE},
            "_source": want == Want::Documents,
            "seq_no_primary_term": true,
            "query": {"bool": {"filter": conditions}},
            "sort": [{"_shard_doc": "asc"}],
        });
        if let Some(after) = after {
            body["search_after"] = json!([after]);
        }
        let what = format!("read documents of the index {}", self.index);
        let query = [("allow_partial_search_results", "false")];
        let mut request = Request::new(Method::Post, "/_search", what)
            .query(&query)
            .json(&body);
        if at_once > 1 {
            request = request.at_most(MOST_ANSWER_BYTES);
        }
        let answer = self.client.send(&request).await?;
        let is_lost = !answer.is_success() && answer.cause().is("search_context_missing_exception");
        if is_lost {
            let message = format!(
                "{} has lost its view of the index {}",
                self.client.host(),
                self.index
            );
            return Err(Failure::ViewLost(Error::new(ErrorKind::Busy, message)));
        }
        let body = self.client.success(&request, answer)?.body;
        self.part(&body, at_once, selection, want, &request.what)
            .map_err(Failure::Other)
    }

    /// Takes the documents out of an answer.
    fn part(
        &self,
        body: &[u8],
        at_once: usize,
        selection: &Selection,
        want: Want,
        what: &str,
    ) -> Result<Part> {
        // Nearly every answer can be read at once down to the fields of its documents.
        let hits = match self.client.parse::<Found<'_, Fields<'_>>>(what, body) {
            Ok(found) => self.hits(found, selection, want, |values, key, fields| {
                codec::push_record(values, key, &fields);
                true
            }),
            // One whose fields have names that no text can hold has to be read by the text of its documents.
            Err(_) => {
                let found: Found<'_, &RawValue> = self.client.parse(what, body)?;
                self.hits(found, selection, want, |values, key, source| {
                    let fields = serde_json::from_str::<Fields<'_>>(source.get());
                    match &fields {
                        Ok(fields) => codec::push_record(values, key, fields),
                        Err(_) => values.extend_from_slice(source.get().as_bytes()),
                    }
                    fields.is_ok()
                })
            }
        };
        let (documents, last) = hits?;
        Ok(Part {
            more_behind: last.filter(|_| documents.len() >= at_once),
            documents,
            bytes: body.len(),
        })
    }

    /// The documents of an answer, and the place of the last one. `push` adds the value of one, and says whether that is
    /// sure to be a record's.
    fn hits<S>(
        &self,
        found: Found<'_, S>,
        selection: &Selection,
        want: Want,
        push: impl Fn(&mut Vec<u8>, &str, S) -> bool,
    ) -> Result<(Vec<Document>, Option<i64>)> {
        let mut documents = Vec::with_capacity(found.hits.hits.len());
        let mut last = None;
        // Each value gets memory of its own, so that none keeps the others of its answer: what batches hold in all is
        // the less by a tenth, and copying takes no time that could be measured.
        let mut value = Vec::new();
        for hit in found.hits.hits {
            last = Some(hit.sort[0]);
            let version = KeyDigest::of(&format!("{} {}", hit.seq_no, hit.id));
            let selected = selection.of_key(&hit.id);
            let mut entry = None;
            if selected.is_some() && want == Want::Documents {
                let Some(source) = hit.source else {
                    let message = format!(
                        "the index {} does not keep the source of its documents",
                        self.index
                    );
                    return Err(Error::new(ErrorKind::Damaged, message));
                };
                value.clear();
                let is_record = push(&mut value, &hit.id, source);
                let (key, value) = (CacheKey::new(hit.id), Bytes::copy_from_slice(&value));
                entry = Some(match is_record {
                    true => Entry::Record(Record::written(key, value)),
                    false => Record::new(key, value).into(),
                });
            }
            documents.push(Document {
                version,
                selected,
                entry,
            });
        }
        Ok((documents, last))
    }

    /// A query for what is selected, where it pays.
    async fn filter(&self, selection: &Selection) -> Result<Option<serde_json::Value>> {
        if self.share_of(selection).is_none() && self.has_mirrored_ids().await? == Some(true) {
            match self.count_by_server(selection).await {
                Ok(_) => {}
                // Servers can be told to refuse queries that are dear.
                Err(error) if error.kind() == ErrorKind::Server => {}
                Err(error) => return Err(error),
            }
        }
        let pays = self.share_of(selection).is_some_and(Share::is_worth_a_filter);
        let types = || selection.types().map(keys_of_type).collect::<Vec<_>>();
        Ok(pays.then(|| json!({"bool": {"should": types()}})))
    }
}

/// Whether the answer is that there is no such index.
fn is_missing(answer: &Answer) -> bool {
    answer.status == 404 && answer.cause().is("index_not_found_exception")
}

/// Reads an index in pages. After an error it may be asked again, and then goes on where it failed.
pub(super) struct Scan {
    source: Arc<OpenSearchSource>,
    reading: Reading,
    /// Where to begin, until that was read.
    start: Option<Cursor>,
    /// The UUIDs of what is read, once they are known.
    indices: Option<Vec<String>>,
    /// What was read and is in no page yet.
    documents: VecDeque<Document>,
    page: PageBuilder,
    /// Up to where everything is in pages that were given, and whether something behind it is in the next one.
    position: i64,
    begun: bool,
}

impl Scan {
    pub(super) fn new(
        source: Arc<OpenSearchSource>,
        selection: Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Self {
        Self {
            reading: Reading::documents(Arc::clone(&source), selection, limit),
            source,
            start: from,
            indices: None,
            documents: VecDeque::new(),
            page: PageBuilder::new(limit),
            position: BEFORE_ALL,
            begun: false,
        }
    }

    /// The next page; `None` at the end.
    pub(super) async fn next_page(&mut self) -> Result<Option<Page>> {
        if self.indices.is_none() {
            let Some(indices) = self.source.uuids().await? else {
                return Ok(None);
            };
            if let Some(cursor) = self.start.take() {
                let position = Position::from_cursor(&cursor, &self.source.index, &indices)?;
                self.position = position.seq_no;
                self.reading.position = position.seq_no;
            }
            self.indices = Some(indices);
        }
        loop {
            while let Some(document) = self.documents.pop_front() {
                self.begun = true;
                match document.entry {
                    Some(entry) => self.page.push(entry),
                    None => self.page.pass_over(),
                }
                if self.page.is_full() {
                    return Ok(Some(self.take_page()));
                }
            }
            // A window's end is a place to go on from; and nobody waits for a page while thousands of documents are
            // passed over.
            let at_end_of_window = self.position < self.reading.position && self.reading.is_at_position();
            if at_end_of_window || (self.begun && self.page.is_empty()) {
                return Ok(Some(self.take_page()));
            }
            match self.reading.next().await? {
                Some(documents) => self.documents = documents.into(),
                None => return Ok(self.begun.then(|| self.take_page())),
            }
        }
    }

    fn take_page(&mut self) -> Page {
        self.begun = false;
        let cursor = (self.documents.is_empty() && self.reading.is_at_position()).then(|| {
            self.position = self.reading.position;
            Position {
                indices: self.indices.clone().unwrap_or_default(),
                seq_no: self.position,
            }
        });
        self.page.take(cursor.map(|position| position.to_cursor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_cover_a_window_without_a_gap() {
        for width in 1..9 {
            let window = Window {
                after: -1,
                to: -1 + width,
            };
            let [first, second] = window.halves();
            assert_eq!((first.after, second.to), (window.after, window.to));
            assert_eq!(first.to, second.after);
            assert!(first.width() >= 0 && second.width() > 0);
        }
    }

    #[test]
    fn windows_get_as_wide_as_their_documents_want_them_step_by_step() {
        let mut width = Width::new(1000);
        let window = |width: Width| Window {
            after: 0,
            to: width.numbers,
        };
        width.learn(window(width), 1000);
        assert_eq!(width.numbers, 1000);
        // Every other number is one of a document that was written again.
        width.learn(window(width), 500);
        assert_eq!(width.numbers, 2000);
        // Nothing at all.
        width.learn(window(width), 0);
        assert_eq!(width.numbers, 8000);
        for _ in 0..20 {
            width.learn(window(width), 0);
        }
        assert_eq!(width.numbers, MOST_WIDTH);
    }

    #[test]
    fn answers_get_as_large_as_they_should_be_step_by_step() {
        let mut at_once = FetchSize {
            documents: 64,
            bytes: 1 << 20,
        };
        let mut learned = Vec::new();
        for size in [
            4000, 4000, 1_000_000, 1_000_000, 1_000_000, 1_000_000, 2_000_000, 0,
        ] {
            at_once.learn(at_once.documents, at_once.documents * size);
            learned.push(at_once.documents);
        }
        assert_eq!(learned, [256, 262, 65, 16, 4, 1, 1, 4]);
        at_once.learn(0, 100);
        assert_eq!(at_once.documents, 16, "an answer without documents");
    }

    #[test]
    fn a_position_is_refused_where_it_is_none_or_of_another_index() {
        let indices = ["a".to_owned(), "b".to_owned()];
        let position = Position {
            indices: indices.to_vec(),
            seq_no: 17,
        };
        let cursor = position.to_cursor();
        assert_eq!(cursor.0, r#"{"indices":["a","b"],"seq_no":17}"#);
        assert_eq!(Position::from_cursor(&cursor, "i", &indices).unwrap(), position);
        let others = [
            // What versions that read by key wrote.
            Cursor("default:extract:1".to_owned()),
            Cursor(r#"{"seq_no":17}"#.to_owned()),
        ];
        for cursor in &others {
            let error = Position::from_cursor(cursor, "i", &indices).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Checkpoint, "{cursor:?}");
        }
        let error = Position::from_cursor(&cursor, "i", &indices[..1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
    }
}
