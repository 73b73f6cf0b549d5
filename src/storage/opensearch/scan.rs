//! Reading an index about in the order in which it was written.
//!
//! Each shard numbers the operations that it is asked for, and a document carries the number of the operation that
//! wrote it last, `_seq_no`. So an unchanged document keeps its number, one that is changed gets a higher one,
//! and documents lie on the disk about in this order, where any order by key is a random one.
//!
//! * **One number for all shards.** A position is a number: up to it everything was read, in every shard of every index
//!   of the name.
//! * **A point in time** keeps what is read as it is: no document comes twice because somebody changed it meanwhile. It
//!   is of the primaries, since a replica may show less than was seen before. When the server loses it, as when it is
//!   started again, a new one is taken and read on from the position; what was changed in between may then come a second
//!   time.
//! * **Without a point in time** (before OpenSearch 2.4, and on some managed services) the index is read as it is at the
//!   moment. A document that is changed gets a number above all others, so an index that is read upwards is not read past
//!   it; documents that changed after the last number are read after the rest, until nothing is new.
//! * **Windows.** A window is a range of some thousand numbers. Within it, documents are read as they lie on the disk
//!   (`_shard_doc`): those that are neighbours there are decompressed together, and in the order of numbers they are no
//!   neighbours where several writers filled several segments at once. So there is a position only at a window's end.
//! * **By number.** A server before 3.3 does not know `_shard_doc`, and the documents of a window are read in the order of
//!   their numbers. Each shard has numbers of its own, so an answer may end between two documents of one number; those of
//!   its last number are then asked for again.
//! * **At once.** An index that had fewer documents than a first answer may have, when they were counted, is read with one
//!   search in the order of their numbers. That needs no point in time, since all it finds is of one moment. If as many
//!   documents come as were asked for, or they are too large for one answer, the index is read in windows after all.
//! * **Lanes.** The two halves of a window are read at the same time, so that the server works on two cores; without a
//!   point in time they are not, since a document could move from a half that is not read yet into one that is.
//! * **The position outlives the process.** A document that was not read has a higher number, and if it is changed a
//!   still higher one, also after a replica has become the primary: it fills its gaps and counts on. An index that was
//!   deleted and made anew counts from 0, so a position names the indices by their UUIDs, and is refused where they are
//!   others. What cannot be detected is an index into which an older snapshot was restored between two runs, and what was
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

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, future::select_all};
use opensearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio_util::task::AbortOnDropHandle;

use super::{
    client::{Answer, Client, Request},
    codec,
    source::{OpenSearchSource, Share, keys_by_rule, keys_of_shard},
};
use crate::{
    model::{
        Error, ErrorKind, Result, Selection,
        record::{CacheKey, Fields, KeyDigest, Record},
    },
    storage::{Cursor, Entry, Page, PageBuilder, PageLimit, PageReader},
};

/// How long the server keeps an unused point in time.
const KEEP_ALIVE: &str = "5m";

/// How large an answer with several documents may be. A larger one is asked for in parts.
const MOST_ANSWER_BYTES: u64 = 8 << 20;

/// The most documents in a response (the default of `index.max_result_window`).
const MOST_DOCUMENTS: usize = 10_000;

/// How many documents the first answers hold, before it is known how large they are.
const FIRST_AT_ONCE: usize = 64;

/// How many documents a window should hold at most: what is read again when the program is killed.
const WINDOW_DOCUMENTS: usize = 10_000;

/// How many pages of documents a window should hold at most.
const WINDOW_PAGES: usize = 10;

/// How many numbers a window has at most: where most of them are those of documents that were written again since.
const MOST_WIDTH: i64 = 1 << 20;

/// How often an index is read again for what was changed meanwhile, where it cannot be kept as it is.
const MOST_PASSES: u32 = 20;

/// What asks for the same copy of each shard every time, on a server that cannot be asked for the primaries.
const SAME_COPY: &str = "migrate-llm-cache";

/// The number before the first one.
const BEFORE_ALL: i64 = -1;

/// A number that no document reaches.
const AFTER_ALL: i64 = i64::MAX;

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
        let position: Self = serde_json::from_str(&cursor.0).map_err(|_| {
            Error::checkpoint(format!("`{}` is not a position in the index {index}", cursor.0))
        })?;
        if position.indices != indices {
            return Err(Error::checkpoint(format!(
                "the index {index} is not the one that was read before: it was recreated"
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
    /// The ID of this version of the document.
    version: KeyDigest,
    /// The number of the operation that wrote it.
    seq_no: i64,
    /// Its key, where nothing else was wanted.
    pub(super) key: Option<String>,
    /// The content, if the document is selected and the content was requested.
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
    /// How many documents the server gives at most.
    most: usize,
}

impl FetchSize {
    /// Learns from an answer how large documents are. One answer is no proof: it changes fourfold at most.
    fn learn(&mut self, found: usize, bytes: usize) {
        let average = bytes / found.max(1) + 1;
        let most = self.documents.saturating_mul(4).min(self.most);
        self.documents = (self.bytes / average).clamp((self.documents / 4).max(1), most);
    }

    /// Learns that the server gives no more than this.
    fn limit(&mut self, most: usize) {
        self.most = self.most.min(most).max(1);
        self.documents = self.documents.min(self.most);
    }
}

/// In which order the documents of a window are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// As they lie on the disk, by `_shard_doc`.
    Disk,
    /// By `_seq_no`.
    Number,
}

impl Order {
    fn field(self) -> &'static str {
        match self {
            Self::Disk => "_shard_doc",
            Self::Number => "_seq_no",
        }
    }
}

/// How an index is searched, and what is known of what is found so.
struct SearchContext {
    /// `None` where the server has no points in time; then the index is searched as it is.
    point_in_time: Option<PointInTime>,
    /// The highest number.
    end: i64,
    order: Order,
    /// A query for what is selected, where that pays.
    filter: Option<serde_json::Value>,
}

/// What an index held at one moment.
struct PointInTime {
    client: Arc<Client>,
    /// The server's name for it.
    id: String,
    is_closed: AtomicBool,
}

impl PointInTime {
    fn close_request(&self) -> Request<'static> {
        Request::new(
            Method::Delete,
            "/_search/point_in_time",
            "give back a point in time",
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
    /// Reading can be stopped early without waiting for this.
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

/// An answer to a request for a point in time.
enum Taken {
    PointInTime(PointInTime),
    /// The server has none to give.
    Unavailable,
    NoIndex,
}

/// An answer to a search. The source of a document is read as `S`.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, S: Deserialize<'de>"))]
struct Found<'a, S> {
    #[serde(rename = "_shards")]
    shards: Shards,
    hits: Hits<'a, S>,
}

#[derive(Clone, Copy, Deserialize)]
struct Shards {
    total: usize,
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
    /// The position up to which everything was read, if there may be more after it.
    more_behind: Option<i64>,
    /// The size of the answer.
    bytes: usize,
}

/// What a search is for.
struct Wanted<'a> {
    selection: &'a Selection,
    want: Want,
    order: Order,
}

/// A part of a window, which is read answer by answer.
struct Lane {
    window: Window,
    /// The last place that was read, in the order of reading.
    after: Option<i64>,
    /// The most documents in the next response.
    asked: usize,
    /// The next answer, on its way. `None` after an error.
    reading: Option<AbortOnDropHandle<Result<Part, Failure>>>,
}

/// Why a window could not be read.
enum Failure {
    /// The server does not have the point in time any more.
    ContextLost(Error),
    /// The server gives no more than so many documents at once.
    ResultWindow(usize, Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Whether an index is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtOnce {
    Untried,
    Done,
    /// It is read in windows.
    No,
}

/// Reads an index, piece by piece. After an error it may be asked again, and then goes on where it failed.
pub(super) struct Reading {
    source: Arc<OpenSearchSource>,
    selection: Selection,
    want: Want,
    whole: AtOnce,
    /// How it is read; `None` before the first request, and when the last context is of no use any more.
    context: Option<Arc<SearchContext>>,
    /// How often it was read up to the end, where that may have moved meanwhile.
    passes: u32,
    /// Up to where everything was given.
    position: i64,
    /// What is being read after it, and what is left of that.
    window: Window,
    lanes: Vec<Lane>,
    /// What was given of the window: a new context begins it anew.
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
            most: MOST_DOCUMENTS,
        };
        Self::new(source, selection, Want::Documents, window, at_once)
    }

    /// Reads all keys.
    pub(super) fn keys(source: Arc<OpenSearchSource>, selection: Selection) -> Self {
        let at_once = FetchSize {
            documents: MOST_DOCUMENTS,
            bytes: MOST_ANSWER_BYTES as usize,
            most: MOST_DOCUMENTS,
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
            whole: match want {
                Want::Documents => AtOnce::Untried,
                Want::Keys => AtOnce::No,
            },
            context: None,
            passes: 0,
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

    /// Whether everything that was returned is before the position.
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
                    // Perhaps the node that has the point in time is gone.
                    self.drop_context();
                }
            }
        }
        read
    }

    fn drop_context(&mut self) {
        self.context = None;
        self.lanes.clear();
    }

    /// What to search, if there is something to read after the position. `None` at the end.
    async fn context(&mut self) -> Result<Option<Arc<SearchContext>>> {
        loop {
            let context = match &self.context {
                Some(context) => Arc::clone(context),
                None => match self.source.search_context(&self.selection, self.want).await? {
                    Some(context) => Arc::clone(self.context.insert(Arc::new(context))),
                    None => return Ok(None),
                },
            };
            if !self.lanes.is_empty() {
                return Ok(Some(context));
            }
            if self.position < context.end {
                self.begin_window(&context);
                return Ok(Some(context));
            }
            match &context.point_in_time {
                Some(point_in_time) => {
                    point_in_time.close().await;
                    return Ok(None);
                }
                // What was changed while the rest was read is above what was the end. Whoever writes faster than this
                // reads is not waited for.
                None if self.passes < MOST_PASSES && self.position > BEFORE_ALL => {
                    self.passes += 1;
                    let now = self.source.search_context(&self.selection, self.want).await?;
                    match now.filter(|now| self.position < now.end) {
                        Some(now) => self.context = Some(Arc::new(now)),
                        None => return Ok(None),
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// Reads everything at once, if there is little; `None` where there is more.
    async fn read_whole(&mut self) -> Result<Option<Vec<Document>>> {
        let share = self.source.share_of(&self.selection);
        // The number of documents in a shard says nothing of the index, which is searched as a whole.
        let is_small = share.is_some_and(|share| share.is_less_than(FIRST_AT_ONCE));
        let documents = match is_small && self.selection.shard().is_none() {
            true => self.source.read_whole(self.position, &self.selection).await?,
            false => None,
        };
        self.whole = match documents {
            Some(_) => AtOnce::Done,
            None => AtOnce::No,
        };
        if let Some(last) = documents.as_ref().and_then(|documents| documents.last()) {
            self.position = last.seq_no;
        }
        Ok(documents)
    }

    async fn read_next(&mut self) -> Result<Option<Vec<Document>>> {
        match self.whole {
            AtOnce::Untried => {
                if let Some(documents) = self.read_whole().await? {
                    return Ok(Some(documents));
                }
            }
            AtOnce::Done => return Ok(None),
            AtOnce::No => {}
        }
        let Some(context) = self.context().await? else {
            return Ok(None);
        };
        loop {
            for at in 0..self.lanes.len() {
                if self.lanes[at].reading.is_none() {
                    self.ask(&context, at);
                }
            }
            let waiting = self.lanes.iter_mut().enumerate().filter_map(|(at, lane)| {
                let reading = lane.reading.as_mut()?;
                Some(reading.map(move |read| (at, read)))
            });
            // Nothing is lost if the call is cancelled: the responses stay where they are.
            let ((at, read), _, _) = select_all(waiting).await;
            self.lanes[at].reading = None;
            let read = read.map_err(|error| {
                let what = format!("reading the index {}", self.source.index);
                Error::panicked(what).caused_by(error)
            })?;
            match read {
                Ok(part) => return Ok(Some(self.take(&context, at, part))),
                Err(Failure::Other(error))
                    if error.kind() == ErrorKind::RequestTooLarge && self.lanes[at].asked > 1 =>
                {
                    // The other lane may have learned the same meanwhile.
                    self.at_once.documents = self.at_once.documents.min(self.lanes[at].asked / 2);
                }
                Err(Failure::ResultWindow(most, error)) => {
                    if most >= self.lanes[at].asked {
                        return Err(error);
                    }
                    self.at_once.limit(most);
                }
                Err(Failure::ContextLost(error)) => {
                    self.drop_context();
                    return Err(error);
                }
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }

    fn begin_window(&mut self, context: &SearchContext) {
        let after = self.position;
        self.window = Window {
            after,
            to: after.saturating_add(self.width.numbers).min(context.end),
        };
        let windows = match context.point_in_time {
            Some(_) => self.window.halves().to_vec(),
            None => vec![self.window],
        };
        let windows = windows.into_iter().filter(|window| window.width() > 0);
        let lanes = windows.map(|window| Lane {
            window,
            after: None,
            asked: 0,
            reading: None,
        });
        self.lanes = lanes.collect();
    }

    /// Asks for the next answer of a lane.
    fn ask(&mut self, context: &Arc<SearchContext>, at: usize) {
        let lane = &mut self.lanes[at];
        lane.asked = self.at_once.documents;
        let (source, context) = (Arc::clone(&self.source), Arc::clone(context));
        let (selection, want) = (self.selection.clone(), self.want);
        let (window, after, at_once) = (lane.window, lane.after, lane.asked);
        lane.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            source
                .read_part(&context, window, after, at_once, &selection, want)
                .await
        })));
    }

    /// Takes the answer of a lane, and asks for the next one.
    fn take(&mut self, context: &Arc<SearchContext>, at: usize, part: Part) -> Vec<Document> {
        self.at_once.learn(part.documents.len(), part.bytes);
        let mut documents = part.documents;
        documents.retain(|document| self.given.insert(document.version));
        match part.more_behind {
            Some(place) => {
                self.lanes[at].after = Some(place);
                self.ask(context, at);
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
    /// The UUIDs of the indices of the name, sorted: empty if the login may not read them. `None` if there is
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
        if answer.lacks_index() {
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

    /// Finds out how the index can be searched; `None` where there is none.
    async fn search_context(&self, selection: &Selection, want: Want) -> Result<Option<SearchContext>> {
        let point_in_time = match self.take_point_in_time().await? {
            Taken::PointInTime(point_in_time) => Some(point_in_time),
            Taken::Unavailable => None,
            Taken::NoIndex => return Ok(None),
        };
        let order = match point_in_time {
            Some(_) if !self.client.abilities.shard_doc.is_missing() => Order::Disk,
            _ => Order::Number,
        };
        let mut context = SearchContext {
            point_in_time,
            end: BEFORE_ALL,
            order,
            filter: None,
        };
        let Some(end) = self.last_number(&mut context).await? else {
            return Ok(None);
        };
        context.end = end;
        if want == Want::Documents && end > BEFORE_ALL {
            context.filter = self.filter(selection).await?;
        }
        Ok(Some(context))
    }

    async fn take_point_in_time(&self) -> Result<Taken> {
        #[derive(Deserialize)]
        struct Answered {
            pit_id: String,
        }
        let abilities = &self.client.abilities;
        if abilities.point_in_time.is_missing() {
            return Ok(Taken::Unavailable);
        }
        let what = format!("take a point in time of the index {}", self.index);
        let take = async || {
            let query = [
                ("keep_alive", KEEP_ALIVE),
                ("preference", self.preference()),
                ("allow_partial_pit_creation", "false"),
            ];
            let path = self.path("_search/point_in_time");
            let request = Request::new(Method::Post, path, what.as_str()).query(&query);
            self.client.send(&request).await
        };
        let mut answer = take().await?;
        if self.lacks_primary_preference(&answer) {
            answer = take().await?;
        }
        if answer.lacks_index() {
            return Ok(Taken::NoIndex);
        }
        let cause = answer.cause();
        let is_unavailable = matches!(answer.status, 400 | 403 | 404 | 405 | 501)
            && cause.block().is_none()
            && !cause.is("index_closed_exception");
        if is_unavailable {
            tracing::debug!("cannot {what}: {}", cause.text());
            // What one index refuses, another may give.
            if answer.status != 403 {
                abilities.point_in_time.set_missing();
            }
            return Ok(Taken::Unavailable);
        }
        let request = Request::new(Method::Post, "", what);
        let answer = self.client.success(&request, answer)?;
        let taken: Answered = self.client.parse(&request.what, &answer.body)?;
        Ok(Taken::PointInTime(PointInTime {
            client: Arc::clone(&self.client),
            id: taken.pit_id,
            is_closed: AtomicBool::new(false),
        }))
    }

    /// Which copies of the shards to read.
    fn preference(&self) -> &'static str {
        match self.client.abilities.primary_preference.is_missing() {
            true => SAME_COPY,
            false => "_primary",
        }
    }

    /// Learns from a refusal that primaries cannot be asked for. `true` where the request is worth another try for that.
    fn lacks_primary_preference(&self, answer: &Answer) -> bool {
        let ability = &self.client.abilities.primary_preference;
        let is_news = answer.status == 400
            && !ability.is_missing()
            && answer.cause().text().contains("no Preference for");
        if is_news {
            ability.set_missing();
        }
        is_news
    }

    /// Sends a search in a context. Nothing is answered where a part of the index cannot be read.
    async fn search_in(
        &self,
        context: &SearchContext,
        what: &str,
        body: &mut serde_json::Value,
        at_most: Option<u64>,
    ) -> Result<Answer> {
        let partial = ("allow_partial_search_results", "false");
        let (path, query) = match &context.point_in_time {
            Some(point_in_time) => {
                body["pit"] = json!({"id": point_in_time.id, "keep_alive": KEEP_ALIVE});
                ("/_search".to_owned(), vec![partial])
            }
            None => {
                let preference = ("preference", self.preference());
                (self.path("_search"), vec![partial, preference])
            }
        };
        let mut request = Request::new(Method::Post, path, what).query(&query).json(body);
        request.at_most = at_most;
        self.client.send(&request).await
    }

    /// The highest number, and whether the order of the context is one that the server knows. `None` where there is no
    /// index.
    async fn last_number(&self, context: &mut SearchContext) -> Result<Option<i64>> {
        #[derive(Deserialize)]
        struct Answered {
            hits: Numbered,
        }
        #[derive(Deserialize)]
        struct Numbered {
            hits: Vec<Number>,
        }
        #[derive(Deserialize)]
        struct Number {
            #[serde(rename = "_seq_no")]
            seq_no: i64,
        }
        let what = format!("look at the index {}", self.index);
        let abilities = &self.client.abilities;
        loop {
            // An index without writes has no number yet.
            let mut sort = vec![json!({"_seq_no": {"order": "desc", "unmapped_type": "long"}})];
            if context.order == Order::Disk {
                sort.push(json!({context.order.field(): "asc"}));
            }
            let mut body = json!({
                "size": 1,
                "track_total_hits": false,
                "_source": false,
                "seq_no_primary_term": true,
                "sort": sort,
            });
            let answer = self.search_in(context, &what, &mut body, None).await?;
            if answer.lacks_index() && context.point_in_time.is_none() {
                return Ok(None);
            }
            if self.lacks_primary_preference(&answer) {
                continue;
            }
            let may_be_unknown = answer.status == 400 && context.order == Order::Disk;
            if may_be_unknown && answer.cause().text().contains(Order::Disk.field()) {
                abilities.shard_doc.set_missing();
                context.order = Order::Number;
                continue;
            }
            let request = Request::new(Method::Post, "", what.as_str());
            let answer = self.client.success(&request, answer)?;
            let found: Answered = self.client.parse(&what, &answer.body)?;
            return Ok(Some(found.hits.hits.first().map_or(BEFORE_ALL, |hit| hit.seq_no)));
        }
    }

    /// Reads everything after a number with one search; `None` where that does not give all of it.
    async fn read_whole(&self, after: i64, selection: &Selection) -> Result<Option<Vec<Document>>> {
        let context = SearchContext {
            point_in_time: None,
            end: AFTER_ALL,
            order: Order::Number,
            filter: None,
        };
        let window = Window { after, to: AFTER_ALL };
        let wanted = Wanted {
            selection,
            want: Want::Documents,
            order: context.order,
        };
        let read = self.read_once(
            &context,
            window,
            None,
            FIRST_AT_ONCE,
            Some(MOST_ANSWER_BYTES),
            &wanted,
        );
        match read.await {
            Ok((part, _)) if part.more_behind.is_none() => Ok(Some(part.documents)),
            Err(Failure::Other(error)) if error.is_temporary() => Err(error),
            // An error that does not pass comes again, or not, when less is asked for.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Reads documents of a window after a position in the order of reading.
    async fn read_part(
        &self,
        context: &SearchContext,
        window: Window,
        after: Option<i64>,
        at_once: usize,
        selection: &Selection,
        want: Want,
    ) -> Result<Part, Failure> {
        let wanted = Wanted {
            selection,
            want,
            order: context.order,
        };
        let (window, after) = match context.order {
            Order::Disk => (window, after),
            // Its numbers are the place.
            Order::Number => (
                Window {
                    after: after.unwrap_or(window.after),
                    ..window
                },
                None,
            ),
        };
        let at_most = (at_once > 1).then_some(MOST_ANSWER_BYTES);
        let (part, shards) = self
            .read_once(context, window, after, at_once, at_most, &wanted)
            .await?;
        if !part.documents.is_empty() || part.more_behind.is_none() {
            return Ok(part);
        }
        // There are more documents under one number than fit an answer: at most one for each shard.
        let number = Window {
            after: window.after,
            to: part.more_behind.unwrap_or(window.to),
        };
        let (mut part, _) = self
            .read_once(context, number, None, shards.saturating_add(1), None, &wanted)
            .await?;
        part.more_behind = Some(number.to).filter(|number| *number < window.to);
        Ok(part)
    }

    /// Sends one search for documents, and gives the number of shards beside what it found.
    async fn read_once(
        &self,
        context: &SearchContext,
        window: Window,
        after: Option<i64>,
        at_once: usize,
        at_most: Option<u64>,
        wanted: &Wanted<'_>,
    ) -> Result<(Part, usize), Failure> {
        let range = json!({"range": {"_seq_no": {"gt": window.after, "lte": window.to}}});
        let conditions: Vec<&serde_json::Value> = [&range].into_iter().chain(&context.filter).collect();
        let sort = match context.order {
            Order::Disk => json!({context.order.field(): "asc"}),
            // One of the indices of an alias may never have been written.
            Order::Number => json!({context.order.field(): {"order": "asc", "unmapped_type": "long"}}),
        };
        let mut body = json!({
            "size": at_once,
            "track_total_hits": false,
            "_source": wanted.want == Want::Documents,
            "seq_no_primary_term": true,
            "query": {"bool": {"filter": conditions}},
            "sort": [sort],
        });
        if let Some(after) = after {
            body["search_after"] = json!([after]);
        }
        let what = format!("read documents of the index {}", self.index);
        let answer = self.search_in(context, &what, &mut body, at_most).await?;
        let request = Request::new(Method::Post, "", what);
        if !answer.is_success() {
            let cause = answer.cause();
            if cause.is("search_context_missing_exception") {
                let message = format!(
                    "{} has lost its point in time of the index {}",
                    self.client.host(),
                    self.index
                );
                return Err(Failure::ContextLost(Error::new(ErrorKind::Busy, message)));
            }
            let most = cause.result_window();
            let error = match self.client.success(&request, answer) {
                Ok(_) => Error::new(ErrorKind::Internal, "a refusal is a success"),
                Err(error) => error,
            };
            return Err(match most {
                Some(most) => Failure::ResultWindow(most, error),
                None => Failure::Other(error),
            });
        }
        self.part(&answer.body, at_once, wanted, &request.what)
            .map_err(Failure::Other)
    }

    /// Takes the documents out of an answer, and the number of shards that gave it.
    fn part(&self, body: &[u8], at_once: usize, wanted: &Wanted<'_>, what: &str) -> Result<(Part, usize)> {
        // Nearly every answer can be read at once down to the fields of its documents.
        let (shards, hits) = match self.client.parse::<Found<'_, Fields<'_>>>(what, body) {
            Ok(found) => (
                found.shards,
                self.hits(found, wanted, |values, key, fields| {
                    codec::push_record(values, key, &fields);
                    true
                }),
            ),
            // One whose fields have names that no text can hold has to be read by the text of its documents.
            Err(_) => {
                let found: Found<'_, &RawValue> = self.client.parse(what, body)?;
                let shards = found.shards;
                let hits = self.hits(found, wanted, |values, key, source| {
                    let fields = serde_json::from_str::<Fields<'_>>(source.get());
                    match &fields {
                        Ok(fields) => codec::push_record(values, key, fields),
                        Err(_) => values.extend_from_slice(source.get().as_bytes()),
                    }
                    fields.is_ok()
                });
                (shards, hits)
            }
        };
        let (mut documents, last) = hits?;
        let mut more_behind = last.filter(|_| documents.len() >= at_once);
        if wanted.order == Order::Number && shards.total > 1 {
            more_behind = more_behind.map(|last| drop_last_number(&mut documents, last));
        }
        let part = Part {
            more_behind,
            documents,
            bytes: body.len(),
        };
        Ok((part, shards.total))
    }

    /// The documents of an answer, and the place of the last one. `push` adds the value of one, and says whether that is
    /// sure to be a record's.
    fn hits<S>(
        &self,
        found: Found<'_, S>,
        wanted: &Wanted<'_>,
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
            let key = (wanted.want == Want::Keys).then(|| hit.id.clone().into_owned());
            let mut entry = None;
            if wanted.want == Want::Documents && wanted.selection.contains(&hit.id) {
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
                seq_no: hit.seq_no,
                key,
                entry,
            });
        }
        Ok((documents, last))
    }

    /// A query for what is selected, where it pays.
    async fn filter(&self, selection: &Selection) -> Result<Option<serde_json::Value>> {
        if self.share_of(selection).is_none() && self.can_search_keys().await? == Some(true) {
            self.count_by_server(selection).await?;
        }
        let share = self.share_of(selection);
        let pays = share.is_some_and(Share::is_worth_a_filter);
        let by_rule = selection.rules().filter(|_| pays).map(|rules| {
            let rules: Vec<_> = rules.iter().map(keys_by_rule).collect();
            json!({"bool": {"should": rules}})
        });
        // Where the server could count, it can look for these too.
        let of_shard = selection.shard().filter(|_| share.is_some()).map(keys_of_shard);
        Ok(match (by_rule, of_shard) {
            (Some(by_rule), Some(of_shard)) => Some(json!({"bool": {"filter": [by_rule, of_shard]}})),
            (by_rule, of_shard) => by_rule.or(of_shard),
        })
    }
}

/// Drops the documents of the last number, of which other shards may have more, and gives the number before it. Where
/// there is no other one, gives that number, and no document is left.
fn drop_last_number(documents: &mut Vec<Document>, last: i64) -> i64 {
    documents.retain(|document| document.seq_no < last);
    documents.last().map_or(last, |document| document.seq_no)
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
    /// The position up to which every page was returned, and whether the next page contains something after it.
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

#[async_trait]
impl PageReader for Scan {
    async fn next_page(&mut self) -> Result<Option<Page>> {
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
            // A scan can resume at a window's end; and a page is returned even while thousands of documents are
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
            most: MOST_DOCUMENTS,
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
        at_once.limit(3);
        at_once.learn(0, 0);
        assert_eq!(at_once.documents, 3, "no more than the server gives");
    }

    #[test]
    fn documents_of_a_number_that_other_shards_may_have_too_are_asked_for_again() {
        let document = |seq_no: i64| Document {
            version: KeyDigest::of(&seq_no.to_string()),
            seq_no,
            key: None,
            entry: None,
        };
        let mut documents: Vec<Document> = [1, 2, 4, 4].map(document).into();
        assert_eq!(drop_last_number(&mut documents, 4), 2);
        assert_eq!(documents.len(), 2);
        let mut documents: Vec<Document> = [4, 4].map(document).into();
        assert_eq!(drop_last_number(&mut documents, 4), 4);
        assert!(documents.is_empty());
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
