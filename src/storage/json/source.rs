//! Reading a cache file.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::{Mutex, OnceCell, mpsc};

use super::{
    codec::{CacheFile, EntryReader, Position},
    index::Index,
    places::PlacedEntries,
    salvage::WholeEntries,
    splitter::SMALL_WINDOW,
    survey::Survey,
};
use crate::{
    model::{Error, Result, Selection, record::CacheKey},
    storage::{
        Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageReader, Progress, Source,
        files::{FilePages, PagedFile, SentPages, blocking, blocking_with_progress},
    },
};

/// The cache file of a workspace, for reading. Caches the result of the first pass.
pub(super) struct JsonSource {
    path: PathBuf,
    salvage: bool,
    file: OnceCell<Option<Arc<CacheFile>>>,
    survey: Mutex<Option<Arc<Survey>>>,
    index: OnceCell<Arc<Index>>,
}

impl JsonSource {
    /// A source over a file. With `salvage`, damage is skipped.
    pub(super) fn new(path: PathBuf, salvage: bool) -> Self {
        Self {
            path,
            salvage,
            file: OnceCell::new(),
            survey: Mutex::default(),
            index: OnceCell::new(),
        }
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The file, opened once; `None` if it does not exist, which is a cache without records.
    pub(super) async fn file(&self) -> Result<Option<Arc<CacheFile>>> {
        let open = || async {
            let path = self.path.clone();
            blocking(move || CacheFile::open(&path)).await
        };
        self.file.get_or_try_init(open).await.cloned()
    }

    /// The first pass over the file for this selection.
    async fn survey(
        &self,
        file: &Arc<CacheFile>,
        selection: &Selection,
        progress: Progress<'_>,
    ) -> Result<Arc<Survey>> {
        let mut kept = self.survey.lock().await;
        if let Some(survey) = kept.as_ref().filter(|kept| kept.selection == *selection) {
            return Ok(Arc::clone(survey));
        }
        let (file, selection, salvage) = (Arc::clone(file), selection.clone(), self.salvage);
        let survey = blocking_with_progress(progress, move |progress| {
            Survey::of(&file, &selection, salvage, progress)
        });
        let survey = Arc::new(survey.await?);
        *kept = Some(Arc::clone(&survey));
        Ok(survey)
    }

    /// The number of entries in the file, if it was counted.
    pub(super) async fn size(&self) -> Result<Option<u64>> {
        if self.file().await?.is_none() {
            return Ok(Some(0));
        }
        let survey = self.survey.lock().await;
        let count = survey.as_ref().map(|survey| &survey.count);
        Ok(count.and_then(|count| Some(count.total() + count.left_out.as_ref()?.total())))
    }

    /// The index of the records.
    pub(super) async fn index(&self, file: &Arc<CacheFile>) -> Result<Arc<Index>> {
        let look = || async {
            let file = Arc::clone(file);
            blocking(move || Index::of(&file)).await.map(Arc::new)
        };
        self.index.get_or_try_init(look).await.cloned()
    }
}

#[async_trait]
impl Source for JsonSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let Some(file) = self.file().await? else {
            return Ok(Count::none());
        };
        Ok(self.survey(&file, selection, progress).await?.count.clone())
    }

    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        Box::new(FilePages::new(self, selection, limit, from))
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

#[async_trait]
impl PagedFile for JsonSource {
    async fn begin(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Result<Option<SentPages>> {
        let Some(file) = self.file().await? else {
            return Ok(None);
        };
        let survey = self.survey(&file, selection, &|_| ()).await?;
        let selection = selection.clone();
        Ok(Some(SentPages::of(move |pages| {
            self.send_pages(&file, &survey, &selection, limit, from, pages)
        })))
    }
}

impl JsonSource {
    fn send_pages(
        &self,
        file: &Arc<CacheFile>,
        survey: &Survey,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
        pages: &mpsc::Sender<Result<Page>>,
    ) -> Result<()> {
        let from = from.map(|cursor| self.position(file, &cursor)).transpose()?;
        let identity = file.identity()?;
        let cursor = |entries: &Entries| {
            let position = entries.position()?;
            Some(Cursor(format!("{identity}@{}", position.to_text())))
        };
        let mut entries = match &survey.places {
            Some(places) => Entries::Placed(PlacedEntries::new(file, places, from)),
            None => Entries::Whole(Box::new(WholeEntries::new(file, from, self.salvage)?)),
        };
        let mut page = PageBuilder::new(limit);
        loop {
            match read_entry(&mut entries, selection, survey, &mut page) {
                Ok(true) => {}
                Ok(false) => {
                    let _ = pages.blocking_send(Ok(page.take(cursor(&entries))));
                    return Ok(());
                }
                Err(error) => {
                    // The entries before the damage are intact.
                    let _ = pages.blocking_send(Ok(page.take(None)));
                    return Err(error);
                }
            }
            if page.is_full() && pages.blocking_send(Ok(page.take(cursor(&entries)))).is_err() {
                // The reader was dropped.
                return Ok(());
            }
        }
    }

    /// The position of a cursor, if the file is unchanged since.
    fn position(&self, file: &CacheFile, Cursor(text): &Cursor) -> Result<Position> {
        let path = self.path.display();
        let (identity, position) = text.split_once('@').unwrap_or_default();
        if identity != file.identity()? {
            return Err(Error::checkpoint(format!(
                "{path} has changed since the checkpoint was written"
            )));
        }
        Position::from_text(position)
            .ok_or_else(|| Error::checkpoint(format!("`{text}` is not a position in {path}")))
    }
}

/// The entries that a scan reads: those of a whole file, or only those of a shard.
enum Entries {
    Whole(Box<WholeEntries>),
    Placed(PlacedEntries),
}

impl Entries {
    fn next(&mut self) -> Result<Option<(Entry, Position)>> {
        match self {
            Self::Whole(entries) => entries.next(),
            Self::Placed(entries) => entries.next(),
        }
    }

    fn let_go(&mut self, entry: &Entry) {
        if let Self::Whole(entries) = self {
            entries.let_go(entry);
        }
    }

    fn position(&self) -> Option<Position> {
        match self {
            Self::Whole(entries) => entries.position(),
            Self::Placed(entries) => entries.position(),
        }
    }
}

/// Reads one entry; false at the end.
fn read_entry(
    entries: &mut Entries,
    selection: &Selection,
    survey: &Survey,
    page: &mut PageBuilder,
) -> Result<bool> {
    let Some((entry, position)) = entries.next()? else {
        return Ok(false);
    };
    let key = entry.key().as_str();
    if !selection.contains(key) || survey.is_superseded(key, position.offset) {
        entries.let_go(&entry);
        page.pass_over();
    } else {
        page.push(entry);
    }
    Ok(true)
}

fn get(file: &Arc<CacheFile>, index: &Index, key: &CacheKey) -> Result<Option<Entry>> {
    for position in index.candidates(key) {
        if let Some(entry) = entry_at(file, position, key)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The entry at a position, if it has this key.
pub(super) fn entry_at(file: &Arc<CacheFile>, position: Position, key: &CacheKey) -> Result<Option<Entry>> {
    let mut reader = EntryReader::with_window(file, position, SMALL_WINDOW);
    let Some(found) = reader.next()? else {
        return Ok(None);
    };
    let entry = reader.take_entry(found)?;
    Ok((entry.key() == key).then_some(entry))
}

/// Whether the entry at a position has this key; its value is not read.
pub(super) fn key_at(file: &Arc<CacheFile>, position: Position, key: &CacheKey) -> Result<Option<()>> {
    let found = EntryReader::with_window(file, position, SMALL_WINDOW).next()?;
    Ok(found.filter(|found| found.key == *key).map(drop))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, num::NonZeroUsize};

    use proptest::{
        collection::btree_set,
        prelude::*,
        sample::Index as Place,
        test_runner::{RngAlgorithm, TestRng, TestRunner},
    };

    use super::*;
    use crate::model::Shard;

    const KEYS: &str = "default:(extract|summary):[0-9a-f]{32}|(default:extract|mix:query|é):[0-9a-f]{32}\n?|\
                        [0-9a-f]{31,33}|default:[a-z]{1,3}:[0-9A-F]{32}|\\PC{1,20}";

    async fn pages(
        source: JsonSource,
        selection: &Selection,
        size: usize,
        from: Option<Cursor>,
    ) -> Vec<Page> {
        let size = NonZeroUsize::new(size).unwrap();
        let limit = PageLimit {
            records: size,
            bytes: NonZeroUsize::MAX,
            ahead: NonZeroUsize::MAX,
        };
        let mut reader = Arc::new(source).scan(selection, limit, from);
        let mut pages = Vec::new();
        while let Some(page) = reader.next_page().await.unwrap() {
            pages.push(page);
        }
        pages
    }

    fn keys<'a>(pages: impl IntoIterator<Item = &'a Page>) -> Vec<String> {
        let entries = pages.into_iter().flat_map(|page| &page.entries);
        entries.map(|entry| entry.key().to_string()).collect()
    }

    /// Each shard is read in pages, and from the cursor of one of them on by a source of its own.
    #[test]
    fn shards_of_any_keys_are_disjoint_and_complete_also_from_a_cursor_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let config = ProptestConfig::with_cases(48);
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let inputs = (
            btree_set(KEYS, 0..60),
            1_u32..12,
            1_usize..20,
            any::<Place>(),
            any::<bool>(),
        );
        let read = |(all, count, size, place, is_everything): (BTreeSet<String>, u32, usize, Place, bool)| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let cache: serde_json::Map<_, _> = all
                .iter()
                .map(|key| (key.clone(), serde_json::json!({ "return": key })))
                .collect();
            std::fs::write(file.path(), serde_json::to_vec(&cache).unwrap()).unwrap();
            let source = || JsonSource::new(file.path().to_owned(), false);
            let types = if is_everything {
                Selection::all()
            } else {
                Selection::default()
            };
            let mut seen = BTreeSet::new();
            for index in 0..count {
                let selection = types.clone().of_shard(Shard::new(index, count));
                let whole = runtime.block_on(pages(source(), &selection, size, None));
                if !whole.is_empty() {
                    let at = place.index(whole.len());
                    let cursor = whole[at].cursor.clone();
                    let rest = runtime.block_on(pages(source(), &selection, size, cursor.clone()));
                    let before = if cursor.is_some() { &whole[..=at] } else { &[] };
                    prop_assert_eq!(keys(before.iter().chain(&rest)), keys(&whole));
                }
                for key in keys(&whole) {
                    prop_assert!(
                        seen.insert(key.clone()),
                        "{:?} is in two of {} shards",
                        key,
                        count
                    );
                }
            }
            let selected: BTreeSet<String> = all.into_iter().filter(|key| types.contains(key)).collect();
            prop_assert_eq!(seen, selected);
            Ok(())
        };
        runner.run(&inputs, read).unwrap();
    }
}
