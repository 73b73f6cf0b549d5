//! Reading a collection in the order of its keys.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use mongodb::{
    Collection, Cursor as DriverCursor,
    bson::{RawDocument, RawDocumentBuf, doc},
    error::{Error as DriverError, ErrorKind as DriverErrorKind},
};
use tokio::sync::mpsc;

use super::{
    layout::{self, KeyRange},
    server::{Server, by_bytes},
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{CacheKey, CacheType, Selection},
    storage::{Count, Cursor, Entry, PageBuilder, PageLimit, PageStream, Progress, Source},
};

/// The most documents that the server sends at once. It sends at most 16 MiB whatever their number; for documents of the
/// usual size this is one or two, and more is not faster.
const AT_ONCE: u32 = 256;

/// The most bytes of keys in one question; the command must stay below the limit for a document.
const ASKED_BYTES: usize = 4 << 20;

/// A page that only passes entries over ends here too, so that whoever waits for it sees that something happens.
const PASSED_OVER: u64 = 10_000;

/// How often a count says how far it is.
const PROGRESS_EVERY: u64 = 1000;

/// The collection of a workspace, to read.
pub(super) struct MongoSource {
    server: Arc<Server>,
    collection: Collection<RawDocumentBuf>,
    /// Whether it was said that values were found that JSON does not know.
    told_of_foreign: AtomicBool,
}

impl MongoSource {
    pub(super) fn new(server: Arc<Server>, collection: Collection<RawDocumentBuf>) -> Self {
        Self {
            server,
            collection,
            told_of_foreign: AtomicBool::new(false),
        }
    }

    pub(super) fn failed(&self, action: &str, error: DriverError) -> Error {
        let action = format!("{action} the collection {} of", self.collection.name());
        self.server.failed(&action, error)
    }

    fn entry(&self, key: &str, document: &RawDocument) -> Entry {
        let decoded = layout::decode(key, document);
        if decoded.foreign && !self.told_of_foreign.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} holds values that JSON has no form for, such as dates or binary data (the first in {key}); they are \
                 carried as MongoDB's extended JSON",
                self.collection.namespace()
            );
        }
        decoded.entry
    }

    /// A cursor over a range, behind a key where one is given; `None` where nothing can be there.
    async fn open(
        &self,
        range: &KeyRange,
        after: Option<&str>,
        at_once: u32,
    ) -> Result<Option<DriverCursor<RawDocumentBuf>>> {
        let Some(filter) = range.filter(after) else {
            return Ok(None);
        };
        self.collection
            .find(filter)
            .sort(doc! { "_id": 1 })
            .collation(by_bytes())
            .batch_size(at_once)
            .await
            .map(Some)
            .map_err(|error| self.failed("read", error))
    }

    async fn send_pages(
        &self,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
        pages: &mpsc::Sender<Result<crate::storage::Page>>,
    ) -> Result<()> {
        let mut last = from.map(|Cursor(key)| key);
        let mut page = PageBuilder::new(limit);
        let (mut begun, mut passed_over) = (false, 0);
        let at_once = u32::try_from(limit.records.get()).unwrap_or(AT_ONCE).min(AT_ONCE);
        for range in layout::ranges(selection) {
            let mut opened = None;
            loop {
                let documents = match &mut opened {
                    Some(documents) => documents,
                    None => match self.open(&range, last.as_deref(), at_once).await {
                        Ok(Some(documents)) => opened.insert(documents),
                        Ok(None) => break,
                        Err(error) => match pages.send(Err(error)).await {
                            Ok(()) => continue,
                            // Nobody reads any more.
                            Err(_) => return Ok(()),
                        },
                    },
                };
                match documents.advance().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        // The keys say where the cursor was. That the server closed one which nobody asked for a while
                        // is no failure; of any other the reader decides whether to ask again.
                        opened = None;
                        let told = is_cursor_gone(&error)
                            || pages.send(Err(self.failed("read", error))).await.is_ok();
                        if !told {
                            return Ok(());
                        }
                        continue;
                    }
                }
                let document = documents.current();
                let Some(key) = layout::key(document) else {
                    continue;
                };
                begun = true;
                if selection.of_key(key).is_some() {
                    page.push(self.entry(key, document));
                } else {
                    page.pass_over();
                    passed_over += 1;
                }
                let place = last.get_or_insert_default();
                place.clear();
                place.push_str(key);
                if page.is_full() || passed_over >= PASSED_OVER {
                    (begun, passed_over) = (false, 0);
                    let full = page.take(last.clone().map(Cursor));
                    if pages.send(Ok(full)).await.is_err() {
                        // Nobody reads any more.
                        return Ok(());
                    }
                }
            }
        }
        if begun {
            let _ = pages.send(Ok(page.take(last.map(Cursor)))).await;
        }
        Ok(())
    }

    /// Counts the keys of one prefix, which the server does on its index.
    async fn count_prefix(&self, cache_type: CacheType) -> Result<u64> {
        let prefix = KeyRange::prefix(&format!("default:{cache_type}:"));
        let filter = prefix.filter(None).unwrap_or_default();
        self.collection
            .count_documents(filter)
            .collation(by_bytes())
            .await
            .map_err(|error| self.failed("count", error))
    }

    /// Counts keys that may have any beginning, by looking at each.
    async fn count_keys(
        &self,
        selection: &Selection,
        progress: Progress<'_>,
        count: &mut Count,
    ) -> Result<()> {
        let mut looked_at = 0;
        for range in layout::ranges(selection) {
            let filter = range.filter(None).unwrap_or_default();
            let mut keys = self
                .collection
                .find(filter)
                .projection(doc! { "_id": 1 })
                .sort(doc! { "_id": 1 })
                .collation(by_bytes())
                .await
                .map_err(|error| self.failed("count", error))?;
            while keys
                .advance()
                .await
                .map_err(|error| self.failed("count", error))?
            {
                if let Some(cache_type) = layout::key(keys.current()).and_then(|key| selection.of_key(key)) {
                    count.add(cache_type);
                }
                looked_at += 1;
                if looked_at % PROGRESS_EVERY == 0 {
                    progress(looked_at);
                }
            }
        }
        Ok(())
    }
}

/// CursorNotFound, CursorKilled, and a cursor's session that timed out.
fn is_cursor_gone(error: &DriverError) -> bool {
    matches!(&*error.kind, DriverErrorKind::Command(error) if matches!(error.code, 43 | 237 | 206))
}

#[async_trait]
impl Source for MongoSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let mut count = Count::none();
        let (from_files, of_questions): (Vec<CacheType>, Vec<CacheType>) = selection
            .types()
            .partition(|cache_type| cache_type.is_from_files());
        for cache_type in from_files {
            let records = self.count_prefix(cache_type).await?;
            count.by_type.insert(cache_type, records);
        }
        if let Some(of_questions) = Selection::new(of_questions) {
            self.count_keys(&of_questions, progress, &mut count).await?;
        }
        Ok(count)
    }

    fn scan(self: Arc<Self>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> PageStream {
        let selection = selection.clone();
        // One page is on its way while the next is read.
        let (sender, receiver) = mpsc::channel(1);
        let failed = sender.clone();
        let reading = tokio::spawn(async move {
            if let Err(error) = self.send_pages(&selection, limit, from, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        // A panic must not look like the end of the pages.
        tokio::spawn(async move {
            if let Err(error) = reading.await {
                let error =
                    Error::new(ErrorKind::Internal, "reading a MongoDB collection panicked").caused_by(error);
                let _ = failed.send(Err(error)).await;
            }
        });
        stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|page| (page, receiver))
        })
        .boxed()
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let mut found: HashMap<CacheKey, Entry> = HashMap::with_capacity(keys.len());
        let mut rest = keys;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|key| {
                bytes += key.as_str().len() + 16;
                bytes <= ASKED_BYTES
            });
            let (asked, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let texts: Vec<&str> = asked.iter().map(CacheKey::as_str).collect();
            let mut documents = self
                .collection
                .find(doc! { "_id": { "$in": texts } })
                .collation(by_bytes())
                .await
                .map_err(|error| self.failed("read", error))?;
            while documents
                .advance()
                .await
                .map_err(|error| self.failed("read", error))?
            {
                let document = documents.current();
                if let Some(key) = layout::key(document) {
                    found.insert(CacheKey::from(key), self.entry(key, document));
                }
            }
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }
}
