//! Reading a workspace of an archive.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, OnceCell, mpsc};

use super::{
    codec::{Line, RecordLine, record_digest},
    lines::{LinePlace, Lines},
    place::{Place, Version},
    survey::{ArchiveFile, Survey, for_each_record},
};
use crate::{
    model::{
        Error, ErrorKind, Result, Selection, Side, Workspace,
        record::{CacheKey, Invalid},
    },
    storage::{
        Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageReader, Progress, Source,
        files::{FilePages, PagedFile, SentPages, blocking, blocking_with_progress},
    },
};

/// An archive to read, with what was found out about it.
pub(super) struct Reader {
    place: Place,
    side: Side,
    salvage: bool,
    opened: OnceCell<Opened>,
    survey: Mutex<Option<Arc<Survey>>>,
    index: OnceCell<Arc<Index>>,
}

/// What was found in the place of an archive.
struct Opened {
    /// `None` if there was none, or, as a target, a file without bytes.
    file: Option<Arc<ArchiveFile>>,
    version: Version,
}

/// The blocks of the keys, by the first half of their digests: 16 bytes per record.
struct Index(Vec<(u64, u64)>);

impl Index {
    fn of(archive: &ArchiveFile, salvage: bool) -> Result<Self> {
        let mut blocks = Vec::new();
        for_each_record(archive, salvage, |workspace, key, place, _| {
            blocks.push((half_digest(workspace, key), place.block));
            Ok(())
        })?;
        blocks.sort_unstable();
        blocks.dedup();
        Ok(Self(blocks))
    }

    fn blocks(&self, workspace: &str, key: &str) -> impl Iterator<Item = u64> {
        let digest = half_digest(workspace, key);
        let from = self.0.partition_point(|(other, _)| *other < digest);
        let found = self.0[from..]
            .iter()
            .take_while(move |(other, _)| *other == digest);
        found.map(|(_, block)| *block)
    }
}

fn half_digest(workspace: &str, key: &str) -> u64 {
    (record_digest(workspace, key).bits() >> 64) as u64
}

impl Reader {
    pub(super) fn new(place: Place, side: Side, salvage: bool) -> Self {
        Self {
            place,
            side,
            salvage,
            opened: OnceCell::new(),
            survey: Mutex::default(),
            index: OnceCell::new(),
        }
    }

    /// Its location.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The same archive, not opened yet.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.place.clone(), self.side, self.salvage)
    }

    /// Whether something else is in its place since it was opened.
    pub(super) async fn was_replaced(&self) -> Result<bool> {
        match self.opened.get() {
            Some(opened) => self.place.was_replaced(&opened.version).await,
            None => Ok(false),
        }
    }

    /// Whether there is an archive. One in a bucket is not downloaded for that.
    pub(super) async fn exists(&self) -> Result<bool> {
        match &self.place {
            Place::File(_) => Ok(self.file().await?.is_some()),
            #[cfg(feature = "bucket")]
            Place::Bucket(bucket) => bucket.exists().await,
        }
    }

    /// The file, opened once; `None` if there is none.
    pub(super) async fn file(&self) -> Result<Option<Arc<ArchiveFile>>> {
        Ok(self.opened().await?.file.clone())
    }

    /// The version that was opened.
    pub(super) async fn version(&self) -> Result<&Version> {
        Ok(&self.opened().await?.version)
    }

    async fn opened(&self) -> Result<&Opened> {
        let open = || async {
            let (file, version) = self.place.read().await?;
            let side = self.side;
            let file = blocking(move || match file {
                // A file without bytes, as `mktemp` makes it, is one to be written.
                Some(file) if side == Side::Target && file.metadata()?.len() == 0 => Ok(None),
                Some(file) => ArchiveFile::new(file).map(|file| Some(Arc::new(file))),
                None => Ok(None),
            });
            Ok::<_, Error>(Opened {
                file: file.await?,
                version,
            })
        };
        self.opened.get_or_try_init(open).await
    }

    /// A survey for any selection.
    pub(super) async fn any_survey(&self) -> Result<Option<Arc<Survey>>> {
        if let Some(survey) = &*self.survey.lock().await {
            return Ok(Some(Arc::clone(survey)));
        }
        self.survey(&Selection::default(), &|_| ()).await
    }

    /// A survey for this selection; `None` if there is no archive.
    pub(super) async fn survey(
        &self,
        selection: &Selection,
        progress: Progress<'_>,
    ) -> Result<Option<Arc<Survey>>> {
        let Some(file) = self.file().await? else {
            return Ok(None);
        };
        let mut kept = self.survey.lock().await;
        if let Some(survey) = kept.as_ref().filter(|kept| kept.selection == *selection) {
            return Ok(Some(Arc::clone(survey)));
        }
        let (selection, side, salvage) = (selection.clone(), self.side, self.salvage);
        let survey = blocking_with_progress(progress, move |progress| {
            Survey::of(&file, &selection, side, salvage, progress)
        });
        let survey = Arc::new(survey.await?);
        *kept = Some(Arc::clone(&survey));
        Ok(Some(survey))
    }

    async fn index(&self, file: &Arc<ArchiveFile>) -> Result<Arc<Index>> {
        let look = || async {
            let (file, salvage) = (Arc::clone(file), self.salvage);
            blocking(move || Index::of(&file, salvage)).await.map(Arc::new)
        };
        self.index.get_or_try_init(look).await.cloned()
    }
}

/// One workspace of an archive.
pub(super) struct ArchiveSource {
    pub(super) archive: Arc<Reader>,
    pub(super) workspace: Workspace,
}

#[async_trait]
impl Source for ArchiveSource {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        let survey = self.archive.survey(selection, progress).await?;
        Ok(survey.map_or_else(Count::none, |survey| survey.count(self.workspace.name())))
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
        let Some(file) = self.archive.file().await? else {
            return Ok(vec![None; keys.len()]);
        };
        let index = self.archive.index(&file).await?;
        let (workspace, keys) = (self.workspace.clone(), keys.to_vec());
        blocking(move || {
            let blocks = |key: &CacheKey| index.blocks(workspace.name(), key.as_str()).collect::<Vec<_>>();
            let wanted: Vec<(usize, u64)> = keys
                .iter()
                .enumerate()
                .flat_map(|(at, key)| blocks(key).into_iter().map(move |block| (at, block)))
                .collect();
            get(&file, workspace.name(), &keys, &wanted)
        })
        .await
    }
}

/// Reads records from blocks; `wanted` has the index of a key and a block that may contain it.
pub(super) fn get(
    file: &ArchiveFile,
    workspace: &str,
    keys: &[CacheKey],
    wanted: &[(usize, u64)],
) -> Result<Vec<Option<Entry>>> {
    let mut by_block: BTreeMap<u64, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
    for (at, block) in wanted {
        let of_block = by_block.entry(*block).or_default();
        of_block.entry(keys[*at].as_str()).or_default().push(*at);
    }
    let mut found = vec![None; keys.len()];
    // A later line of the same key counts, in the same block and in later ones.
    for (block, of_block) in by_block {
        let mut lines = file.lines(block)?;
        while lines.place().block == block
            && let Some((line, place)) = lines.next()?
        {
            if place.block != block {
                break;
            }
            let Ok(Line::Record(record)) = Line::read(&line) else {
                continue;
            };
            if record.workspace != workspace {
                continue;
            }
            if let Some(asked) = of_block.get(record.key.as_ref()) {
                // In memory of its own: a piece of the block would keep all of it.
                let entry = detached(entry_of(record, &line));
                asked.iter().for_each(|at| found[*at] = Some(entry.clone()));
            }
        }
    }
    Ok(found)
}

fn detached(entry: Entry) -> Entry {
    match entry {
        Entry::Record(record) => Entry::Record(record.detached()),
        Entry::Invalid(invalid) => Entry::Invalid(Invalid {
            raw: Bytes::copy_from_slice(&invalid.raw),
            ..invalid
        }),
    }
}

/// The entry of a line. A line that only resembles one of this program is parsed completely.
fn entry_of(record: RecordLine<'_>, line: &Bytes) -> Entry {
    let entry = record.into_entry(line);
    match entry {
        Entry::Record(_) => entry,
        Entry::Invalid(_) => match Line::read_whole(line) {
            Ok(Line::Record(record)) => record.into_entry(line),
            _ => entry,
        },
    }
}

#[async_trait]
impl PagedFile for ArchiveSource {
    async fn begin(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Result<Option<SentPages>> {
        let survey = self.archive.survey(selection, &|_| ()).await?;
        let (Some(file), Some(survey)) = (self.archive.file().await?, survey) else {
            return Ok(None);
        };
        let scan = Scan {
            file,
            survey,
            workspace: self.workspace.clone(),
            selection: selection.clone(),
            salvage: self.archive.salvage,
        };
        Ok(Some(SentPages::of(move |pages| {
            scan.send_pages(limit, from, pages)
        })))
    }
}

/// Reads the pages of a workspace.
struct Scan {
    file: Arc<ArchiveFile>,
    survey: Arc<Survey>,
    workspace: Workspace,
    selection: Selection,
    salvage: bool,
}

impl Scan {
    fn send_pages(
        &self,
        limit: PageLimit,
        from: Option<Cursor>,
        pages: &mpsc::Sender<Result<Page>>,
    ) -> Result<()> {
        let from = from
            .map(|cursor| self.place(&cursor))
            .transpose()?
            .unwrap_or_default();
        let blocks = self.survey.blocks(self.workspace.name());
        let first = blocks.partition_point(|block| *block < from.block);
        let mut page = PageBuilder::new(limit);
        let mut lines: Option<Lines> = None;
        for block in &blocks[first..] {
            // The blocks of a workspace often follow one another.
            if lines.as_mut().is_none_or(|lines| lines.place().block != *block) {
                lines = None;
            }
            let lines = match &mut lines {
                Some(lines) => lines,
                none => none.insert(self.file.lines(*block)?),
            };
            while lines.place().block == *block {
                let (line, place) = match lines.next() {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    // Lines before it were given.
                    Err(error) if self.salvage && error.kind() == ErrorKind::Damaged => break,
                    Err(error) => return Err(error),
                };
                if place < from {
                    continue;
                }
                self.add(&line, place, &mut page);
                if page.is_full() {
                    let cursor = self.cursor(lines.place());
                    if pages.blocking_send(Ok(page.take(cursor))).is_err() {
                        // The reader is gone.
                        return Ok(());
                    }
                }
            }
        }
        let end = LinePlace {
            block: u64::MAX,
            line: 0,
        };
        let _ = pages.blocking_send(Ok(page.take(self.cursor(end))));
        Ok(())
    }

    fn add(&self, line: &Bytes, place: LinePlace, page: &mut PageBuilder) {
        let Ok(Line::Record(record)) = Line::read(line) else {
            return;
        };
        if record.workspace != self.workspace.name() {
            return;
        }
        let key = record.key.as_ref();
        let workspace = self.workspace.name();
        if !self.selection.contains(key) || self.survey.is_superseded(workspace, key, place) {
            page.pass_over();
        } else {
            page.push(entry_of(record, line));
        }
    }

    fn cursor(&self, place: LinePlace) -> Option<Cursor> {
        let identity = self.survey.identity.as_ref()?;
        Some(Cursor(format!("{identity}@{}:{}", place.block, place.line)))
    }

    /// The place of a cursor, if the archive is still the one it was made for.
    fn place(&self, Cursor(text): &Cursor) -> Result<LinePlace> {
        let path = self.file.file.path().display();
        let (identity, place) = text.split_once('@').unwrap_or_default();
        if self.survey.identity.as_deref() != Some(identity) {
            return Err(Error::checkpoint(format!(
                "{path} was changed since the checkpoint was written"
            )));
        }
        let place = place.split_once(':').and_then(|(block, line)| {
            Some(LinePlace {
                block: block.parse().ok()?,
                line: line.parse().ok()?,
            })
        });
        place.ok_or_else(|| Error::checkpoint(format!("`{text}` is no position in {path}")))
    }
}
