//! Reading an index in the order in which it was written.
//!
//! Each shard numbers the operations that it is asked for, and a document carries the number of the operation that
//! wrote it last, `_seq_no`. So a document that nobody changes keeps its number, one that is changed gets a higher one,
//! and documents lie on the disk about in this order. To read by it costs the server no more than to read the disk, where
//! any order by key is a random one.
//!
//! * **One number for all shards.** A position is a number: up to it everything was read, in every shard of every index
//!   behind the name. What shares a number stands in different shards, and is never parted by the end of a page.
//! * **A view** (a point in time) holds still what is read: no document comes twice because somebody changed it
//!   meanwhile. It is of the primaries, since a replica may show less than was seen before. When the server loses it, as
//!   when it is started again, a new one is taken and read on from the position; what was changed in between may then
//!   come a second time.
//! * **Windows.** A window is a range of numbers, read by one request whatever became of the others; two are under way
//!   at once. Their width follows from how many bytes the last ones had. A window that holds more than one answer may
//!   is read in parts.
//! * **The position outlives the process.** A document that was not read has a higher number, and if it is changed a
//!   still higher one, also after a replica has become the primary: it fills its gaps and counts on. An index that was
//!   deleted and made anew counts from 0, so a position names the indices by their UUIDs, and is refused where they are
//!   others. What cannot be told is an index into which an older snapshot was restored between two runs, and what was
//!   written but not to be seen yet when the view was taken: then the source gives fewer records than were counted,
//!   which ends a run as incomplete.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use opensearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio_util::task::AbortOnDropHandle;

use super::{
    client::{Answer, Client, Request},
    layout,
    source::{OpenSearchSource, Share, keys_of_type},
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{CacheKey, CacheType, Fields, Record, Selection},
    storage::{Cursor, Entry, Page, PageBuilder, PageLimit},
};

/// How long the server keeps a view that nobody asks for.
const KEEP_ALIVE: &str = "5m";

/// How large an answer should be. Twice as large ones would cost the server a tenth less, and ten megabytes of memory in all.
const ANSWER_BYTES: usize = 1 << 20;

/// How large an answer with several documents may be. A larger one is asked for in parts.
const MOST_ANSWER_BYTES: u64 = 8 << 20;

/// How many documents an answer holds at most (`index.max_result_window`, as a rule).
const MOST_DOCUMENTS: usize = 10_000;

/// How many numbers the first windows have, before it is known how large documents are.
const FIRST_WIDTH: i64 = 64;

/// How many numbers a window has at most: where most of them are those of documents that were written again since.
const MOST_WIDTH: i64 = 1 << 20;

/// How many windows are read at once.
const WINDOWS: usize = 2;

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
        let refused = |message| {
            Error::new(ErrorKind::Checkpoint, message).with_remedy("leave out --resume to begin anew")
        };
        let position: Self = serde_json::from_str(&cursor.0)
            .map_err(|_| refused(format!("`{}` is no position in the index {index}", cursor.0)))?;
        if position.indices != indices {
            return Err(refused(format!(
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
    seq_no: i64,
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
struct Width(i64);

impl Width {
    /// Learns from a window how many numbers fill an answer. One window is no proof: it changes fourfold at most.
    fn learn(&mut self, window: Window, bytes: usize) {
        let bytes = i64::try_from(bytes.max(1)).unwrap_or(i64::MAX);
        let fills = window.width().saturating_mul(ANSWER_BYTES as i64) / bytes;
        let most = self.0.saturating_mul(4).min(MOST_WIDTH);
        self.0 = fills.clamp((self.0 / 4).max(1), most);
    }
}

/// What an index held at one moment.
struct View {
    client: Arc<Client>,
    /// The server's name for it.
    id: String,
    /// The highest number.
    end: i64,
    /// A query for what is selected, where that pays.
    filter: Option<serde_json::Value>,
    is_closed: AtomicBool,
}

impl View {
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

impl Drop for View {
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
    #[serde(rename = "_source", default = "Option::default")]
    source: Option<S>,
    sort: [i64; 1],
}

/// The part of a window that an answer covers.
#[derive(Debug)]
struct Part {
    documents: Vec<Document>,
    /// Up to which number nothing is missing.
    to: i64,
    /// The size of the answer.
    bytes: usize,
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
    view: Option<Arc<View>>,
    /// Up to where everything was given.
    position: i64,
    /// Up to where windows are under way.
    ahead: i64,
    width: Width,
    windows: VecDeque<(Window, AbortOnDropHandle<Result<Part, Failure>>)>,
    /// How many requests in a row have failed.
    failed: u32,
}

impl Reading {
    pub(super) fn new(source: Arc<OpenSearchSource>, selection: Selection, want: Want) -> Self {
        Self {
            source,
            selection,
            want,
            view: None,
            position: BEFORE_ALL,
            ahead: BEFORE_ALL,
            width: Width(FIRST_WIDTH),
            windows: VecDeque::new(),
            failed: 0,
        }
    }

    /// The next documents, in the order of their numbers; those of one number are not parted. `None` at the end. There
    /// may be none in a piece.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Document>>> {
        let read = self.read_next().await;
        match &read {
            Ok(_) => self.failed = 0,
            Err(_) => {
                // What is under way may have failed for the same reason; it is asked for anew when somebody asks again.
                self.windows.clear();
                self.failed += 1;
                if self.failed > 1 {
                    // Perhaps the node that has the view is gone.
                    self.view = None;
                }
            }
        }
        read
    }

    async fn read_next(&mut self) -> Result<Option<Vec<Document>>> {
        let view = match &self.view {
            Some(view) => Arc::clone(view),
            None => match self.source.take_view(&self.selection, self.want).await? {
                Some(view) => Arc::clone(self.view.insert(Arc::new(view))),
                None => return Ok(None),
            },
        };
        loop {
            self.begin_windows(&view);
            let Some((window, reading)) = self.windows.front_mut() else {
                view.close().await;
                return Ok(None);
            };
            let window = *window;
            // Nothing of it is lost should nobody wait for the answer any more: it stays where it is.
            let read = reading.await;
            self.windows.pop_front();
            let read = read.map_err(|error| {
                let message = format!("reading the index {} panicked", self.source.index);
                Error::new(ErrorKind::Internal, message).caused_by(error)
            })?;
            match read {
                Ok(part) => {
                    self.width.learn(
                        Window {
                            to: part.to,
                            ..window
                        },
                        part.bytes,
                    );
                    if part.to < window.to {
                        let after = part.to;
                        self.begin(&view, Window { after, ..window });
                    }
                    self.position = part.to;
                    return Ok(Some(part.documents));
                }
                Err(Failure::Other(error))
                    if error.kind() == ErrorKind::RequestTooLarge && window.width() > 1 =>
                {
                    let [first, second] = window.halves();
                    self.width.0 = self.width.0.min(first.width());
                    self.begin(&view, second);
                    self.begin(&view, first);
                }
                Err(Failure::ViewLost(error)) => {
                    self.view = None;
                    return Err(error);
                }
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }

    /// Begins to read windows until enough are under way.
    fn begin_windows(&mut self, view: &Arc<View>) {
        if self.windows.is_empty() {
            self.ahead = self.position;
        }
        while self.windows.len() < WINDOWS && self.ahead < view.end {
            let window = Window {
                after: self.ahead,
                to: self.ahead.saturating_add(self.width.0).min(view.end),
            };
            self.ahead = window.to;
            let reading = self.spawn(view, window);
            self.windows.push_back((window, reading));
        }
    }

    /// Begins to read a window that stands before all others.
    fn begin(&mut self, view: &Arc<View>, window: Window) {
        let reading = self.spawn(view, window);
        self.windows.push_front((window, reading));
    }

    fn spawn(&self, view: &Arc<View>, window: Window) -> AbortOnDropHandle<Result<Part, Failure>> {
        let (source, view) = (Arc::clone(&self.source), Arc::clone(view));
        let (selection, want) = (self.selection.clone(), self.want);
        AbortOnDropHandle::new(tokio::spawn(async move {
            source.read_window(&view, window, &selection, want).await
        }))
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
    async fn take_view(&self, selection: &Selection, want: Want) -> Result<Option<View>> {
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
        let mut view = View {
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
    async fn last_number(&self, view: &View) -> Result<i64> {
        let what = format!("look at the index {}", self.index);
        let body = json!({
            "size": 1,
            "track_total_hits": false,
            "pit": {"id": view.id, "keep_alive": KEEP_ALIVE},
            "_source": false,
            "sort": by_number("desc"),
        });
        let body = self.search("/_search", &what, &body).await?;
        let found: Found<'_, &RawValue> = self.client.parse(&what, &body)?;
        Ok(found.hits.hits.first().map_or(BEFORE_ALL, |hit| hit.sort[0]))
    }

    /// Reads a window, or as much of it as one answer holds.
    async fn read_window(
        &self,
        view: &View,
        window: Window,
        selection: &Selection,
        want: Want,
    ) -> Result<Part, Failure> {
        let range = json!({"range": {"_seq_no": {"gt": window.after, "lte": window.to}}});
        let conditions: Vec<&serde_json::Value> = [&range].into_iter().chain(&view.filter).collect();
        let body = json!({
            "size": MOST_DOCUMENTS,
            "track_total_hits": false,
            "pit": {"id": view.id, "keep_alive": KEEP_ALIVE},
            "_source": want == Want::Documents,
            "query": {"bool": {"filter": conditions}},
            "sort": by_number("asc"),
        });
        let what = format!("read documents of the index {}", self.index);
        let query = [("allow_partial_search_results", "false")];
        let mut request = Request::new(Method::Post, "/_search", what)
            .query(&query)
            .json(&body);
        if window.width() > 1 {
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
        self.part(&body, window, selection, want, &request.what)
            .map_err(Failure::Other)
    }

    /// Takes the documents out of an answer.
    fn part(
        &self,
        body: &[u8],
        window: Window,
        selection: &Selection,
        want: Want,
        what: &str,
    ) -> Result<Part> {
        // Nearly every answer can be read at once down to the fields of its documents.
        let hits = match self.client.parse::<Found<'_, Fields<'_>>>(what, body) {
            Ok(found) => self.hits(found, selection, want, |values, key, fields| {
                layout::push_record(values, key, &fields);
                true
            }),
            // One whose fields have names that no text can hold has to be read by the text of its documents.
            Err(_) => {
                let found: Found<'_, &RawValue> = self.client.parse(what, body)?;
                self.hits(found, selection, want, |values, key, source| {
                    let fields = serde_json::from_str::<Fields<'_>>(source.get());
                    match &fields {
                        Ok(fields) => layout::push_record(values, key, fields),
                        Err(_) => values.extend_from_slice(source.get().as_bytes()),
                    }
                    fields.is_ok()
                })
            }
        };
        let mut documents = hits?;
        let to = end_of(&mut documents, MOST_DOCUMENTS, window);
        if to == window.after {
            let message = format!(
                "cannot {what} at {}: more than {MOST_DOCUMENTS} shards",
                self.client.host()
            );
            return Err(Error::new(ErrorKind::Server, message));
        }
        Ok(Part {
            documents,
            to,
            bytes: body.len(),
        })
    }

    /// The documents of an answer. `push` adds the value of one, and says whether that is sure to be a record's.
    fn hits<S>(
        &self,
        found: Found<'_, S>,
        selection: &Selection,
        want: Want,
        push: impl Fn(&mut Vec<u8>, &str, S) -> bool,
    ) -> Result<Vec<Document>> {
        let mut documents = Vec::with_capacity(found.hits.hits.len());
        // Each value gets memory of its own, so that none keeps the others of its answer: what batches hold in all is
        // the less by a tenth, and copying takes no time that could be measured.
        let mut value = Vec::new();
        for hit in found.hits.hits {
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
                seq_no: hit.sort[0],
                selected,
                entry,
            });
        }
        Ok(documents)
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

/// Up to which number an answer of at most so many documents covers its window. The documents above it are taken out.
fn end_of(documents: &mut Vec<Document>, most: usize, window: Window) -> i64 {
    match documents.last().map(|document| document.seq_no) {
        // Other documents of the last number, in other shards, may have had no room.
        Some(last) if documents.len() >= most => {
            documents.retain(|document| document.seq_no < last);
            last - 1
        }
        _ => window.to,
    }
}

/// Whether the answer is that there is no such index.
fn is_missing(answer: &Answer) -> bool {
    answer.status == 404 && answer.cause().is("index_not_found_exception")
}

/// In the order of numbers. An index into which nobody has written yet does not know of any.
fn by_number(order: &str) -> serde_json::Value {
    json!([{"_seq_no": {"order": order, "unmapped_type": "long"}}])
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
    /// The number of the last document in a page, and whether it is in one that was given.
    seq_no: i64,
    is_given: bool,
}

impl Scan {
    pub(super) fn new(
        source: Arc<OpenSearchSource>,
        selection: Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Self {
        Self {
            reading: Reading::new(Arc::clone(&source), selection, Want::Documents),
            source,
            start: from,
            indices: None,
            documents: VecDeque::new(),
            page: PageBuilder::new(limit),
            seq_no: BEFORE_ALL,
            is_given: true,
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
                self.seq_no = position.seq_no;
                self.reading.position = position.seq_no;
            }
            self.indices = Some(indices);
        }
        loop {
            while let Some(document) = self.documents.pop_front() {
                match document.entry {
                    Some(entry) => self.page.push(entry),
                    None => self.page.pass_over(),
                }
                self.seq_no = document.seq_no;
                self.is_given = false;
                let is_last_of_number = self
                    .documents
                    .front()
                    .is_none_or(|next| next.seq_no != document.seq_no);
                if self.page.is_full() && is_last_of_number {
                    return Ok(Some(self.take_page()));
                }
            }
            if self.seq_no < self.reading.position {
                self.seq_no = self.reading.position;
                self.is_given = false;
            }
            // Nobody waits for a page while thousands of documents are passed over.
            if self.page.is_empty() && !self.is_given {
                return Ok(Some(self.take_page()));
            }
            match self.reading.next().await? {
                Some(documents) => self.documents = documents.into(),
                None => return Ok((!self.is_given).then(|| self.take_page())),
            }
        }
    }

    fn take_page(&mut self) -> Page {
        self.is_given = true;
        let cursor = Position {
            indices: self.indices.clone().unwrap_or_default(),
            seq_no: self.seq_no,
        };
        self.page.take(Some(cursor.to_cursor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(numbers: &[i64]) -> Vec<Document> {
        let document = |seq_no: &i64| Document {
            seq_no: *seq_no,
            selected: None,
            entry: None,
        };
        numbers.iter().map(document).collect()
    }

    #[test]
    fn an_answer_that_is_not_full_covers_its_window() {
        let window = Window { after: 3, to: 90 };
        let mut found = documents(&[4, 4, 17]);
        assert_eq!(end_of(&mut found, 4, window), 90);
        assert_eq!(found.len(), 3);
        assert_eq!(end_of(&mut documents(&[]), 4, window), 90);
    }

    #[test]
    fn a_full_answer_ends_before_its_last_number_of_which_there_may_be_more() {
        let window = Window { after: 3, to: 90 };
        let mut found = documents(&[4, 5, 17, 17]);
        assert_eq!(end_of(&mut found, 4, window), 16);
        let left: Vec<i64> = found.iter().map(|document| document.seq_no).collect();
        assert_eq!(left, [4, 5]);
        // Nothing but one number: no end at all.
        assert_eq!(end_of(&mut documents(&[4, 4, 4, 4]), 4, window), window.after);
    }

    #[test]
    fn halves_cover_a_window_without_a_gap() {
        for width in 2..9 {
            let window = Window {
                after: -1,
                to: -1 + width,
            };
            let [first, second] = window.halves();
            assert_eq!((first.after, second.to), (window.after, window.to));
            assert_eq!(first.to, second.after);
            assert!(first.width() > 0 && second.width() > 0);
        }
    }

    #[test]
    fn windows_get_as_wide_as_an_answer_wants_them_step_by_step() {
        let mut width = Width(FIRST_WIDTH);
        let window = |width: Width| Window {
            after: 0,
            to: width.0,
        };
        let mut widths = Vec::new();
        // Documents of 4 KiB, one behind each number.
        for _ in 0..4 {
            width.learn(window(width), usize::try_from(width.0).unwrap() * 4096);
            widths.push(width.0);
        }
        assert_eq!(widths, [256, 256, 256, 256]);
        // Documents of a megabyte.
        width.learn(window(width), 256 << 20);
        assert_eq!(width.0, 64);
        for _ in 0..5 {
            width.learn(window(width), usize::try_from(width.0).unwrap() << 20);
        }
        assert_eq!(width.0, 1);
        // Nothing at all.
        for _ in 0..20 {
            width.learn(window(width), 200);
        }
        assert_eq!(width.0, MOST_WIDTH);
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
