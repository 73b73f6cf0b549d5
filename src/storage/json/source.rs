//! Reading a cache file.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::{OnceCell, mpsc};

use super::{
    blocking_failed,
    index::Index,
    layout::{CacheFile, EntryReader, Position},
    survey::Survey,
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{CacheKey, Invalid, Record, RejectKind, Selection},
    storage::{Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageStream, Progress, Source},
};

/// The cache file of a workspace, to read. What was learned of it is kept.
pub(super) struct JsonSource {
    path: PathBuf,
    file: OnceCell<Option<Arc<CacheFile>>>,
    survey: OnceCell<Arc<Survey>>,
    index: OnceCell<Arc<Index>>,
}

impl JsonSource {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: OnceCell::new(),
            survey: OnceCell::new(),
            index: OnceCell::new(),
        }
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The file, opened once; `None` where there is none, which is a cache without records.
    pub(super) async fn file(&self) -> Result<Option<Arc<CacheFile>>> {
        let open = || async {
            let path = self.path.clone();
            blocking(move || CacheFile::open(&path)).await
        };
        self.file.get_or_try_init(open).await.cloned()
    }

    async fn survey(&self, file: &Arc<CacheFile>, progress: Progress<'_>) -> Result<Arc<Survey>> {
        let look = || async {
            let file = Arc::clone(file);
            let (told, mut counts) = mpsc::unbounded_channel();
            let survey = blocking(move || {
                Survey::of(&file, &|scanned| {
                    // Nobody listens any more when the run stops.
                    let _ = told.send(scanned);
                })
            });
            let mut survey = std::pin::pin!(survey);
            loop {
                tokio::select! {
                    Some(scanned) = counts.recv() => progress(scanned),
                    survey = &mut survey => return survey.map(Arc::new),
                }
            }
        };
        self.survey.get_or_try_init(look).await.cloned()
    }

    /// Where each record stands.
    pub(super) async fn index(&self, file: &Arc<CacheFile>) -> Result<Arc<Index>> {
        let look = || async {
            let file = Arc::clone(file);
            blocking(move || Index::of(&file)).await.map(Arc::new)
        };
        self.index.get_or_try_init(look).await.cloned()
    }
}

/// Runs blocking work on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(blocking_failed)?
}

#[async_trait]
impl Source for JsonSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let Some(file) = self.file().await? else {
            return Ok(Count::none());
        };
        let survey = self.survey(&file, progress).await?;
        let selected = selection
            .types()
            .filter_map(|t| Some((t, *survey.by_type.get(&t)?)));
        Ok(Count {
            by_type: selected.collect(),
            exact: true,
        })
    }

    fn scan(self: Arc<Self>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> PageStream {
        let selection = selection.clone();
        // One page is on its way while the next is read.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            if let Err(error) = self.send_pages(selection, limit, from, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|page| (page, receiver))
        })
        .boxed()
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let Some(file) = self.file().await? else {
            return Ok(vec![None; keys.len()]);
        };
        let index = self.index(&file).await?;
        let keys = keys.to_vec();
        blocking(move || keys.iter().map(|key| get(&file, &index, key)).collect()).await
    }
}

impl JsonSource {
    async fn send_pages(
        &self,
        selection: Selection,
        limit: PageLimit,
        from: Option<Cursor>,
        pages: &mpsc::Sender<Result<Page>>,
    ) -> Result<()> {
        let Some(file) = self.file().await? else {
            return Ok(());
        };
        let from = from
            .map(|Cursor(text)| {
                Position::from_text(&text).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Damaged,
                        format!("`{text}` is no position in {}", self.path.display()),
                    )
                })
            })
            .transpose()?;
        let survey = self.survey(&file, &|_| ()).await?;
        let pages = pages.clone();
        blocking(move || {
            let mut reader = EntryReader::new(&file, from)?;
            let mut page = PageBuilder::new(limit);
            while read_entry(&mut reader, &selection, &survey, &mut page)? {
                if page.is_full() {
                    if pages.blocking_send(Ok(page.take(cursor(&reader)))).is_err() {
                        // Nobody reads any more.
                        return Ok(());
                    }
                }
            }
            let _ = pages.blocking_send(Ok(page.take(cursor(&reader))));
            Ok(())
        })
        .await
    }
}

fn cursor(reader: &EntryReader) -> Option<Cursor> {
    reader.position().map(|position| Cursor(position.to_text()))
}

/// Reads one entry; `false` at the end.
fn read_entry(
    reader: &mut EntryReader,
    selection: &Selection,
    survey: &Survey,
    page: &mut PageBuilder,
) -> Result<bool> {
    let Some(mut found) = reader.next()? else {
        return Ok(false);
    };
    let is_selected = |key: &CacheKey| selection.of_key(key.as_str()).is_some();
    if !found.is_nested() && !is_selected(&found.key) {
        page.pass_over();
        return Ok(true);
    }
    let value = Bytes::copy_from_slice(reader.take(&mut found)?);
    if !is_selected(&found.key) || survey.is_superseded(found.key.as_str(), found.position.offset) {
        page.pass_over();
        return Ok(true);
    }
    page.push(entry(found.key, found.unreadable_key, value));
    Ok(true)
}

fn entry(key: CacheKey, unreadable_key: bool, value: Bytes) -> Entry {
    if unreadable_key {
        return Entry::Invalid(Invalid {
            key,
            kind: RejectKind::InvalidKey,
            reason: "the key is no text: it holds half of a surrogate pair, or is no UTF-8".to_owned(),
            raw: value,
        });
    }
    Record::new(key, value).into()
}

fn get(file: &Arc<CacheFile>, index: &Index, key: &CacheKey) -> Result<Option<Entry>> {
    for position in index.candidates(key) {
        let mut reader = EntryReader::new(file, Some(position))?;
        if let Some(mut found) = reader.next()? {
            let value = Bytes::copy_from_slice(reader.take(&mut found)?);
            if found.key == *key {
                return Ok(Some(entry(found.key, found.unreadable_key, value)));
            }
        }
    }
    Ok(None)
}
