//! Writing an archive: all workspaces of a run into one file beside the old one, which replaces it at the end.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;

use super::{
    codec::{Digest, Header, Tally, push_frame, push_record, record_digest},
    lines::BLOCK,
    packer::{Packed, Packer},
    source::{ArchiveSource, Reader, get},
    survey::{ArchiveFile, Survey, for_each_record},
};
use crate::{
    model::{
        Error, ErrorKind, Location, Result, Workspace,
        record::{CacheKey, KeySet, Record},
    },
    storage::{
        Entry, Size, Source, Target, WriteMode, WriteOutcome,
        files::{Draft, DraftSlot, OpenFile, Positions, existing},
    },
};

/// The archive that is being written.
#[derive(Debug)]
struct ArchiveDraft {
    file: Draft,
    packer: Packer,
    /// Lines of the block that is not full yet.
    text: Vec<u8>,
    /// Bytes at which the blocks begin that were written.
    offsets: Vec<u64>,
    /// Blocks that were given to be compressed.
    blocks: usize,
    tally: Tally,
    digest: Digest,
}

impl ArchiveDraft {
    fn begin(path: &Path, level: Option<i32>, source: Option<&Location>) -> Result<Self> {
        let mut draft = Self {
            file: Draft::begin(path)?,
            packer: Packer::new(level)?,
            text: Vec::new(),
            offsets: Vec::new(),
            blocks: 0,
            tally: Tally::default(),
            digest: Digest::default(),
        };
        push_frame(&mut draft.text, "header", &Header::new(source));
        draft.end_block(false)?;
        Ok(draft)
    }

    /// Adds a record and returns the number of its block. A record that changed while the source was read is added again;
    /// the last one counts.
    fn add(&mut self, workspace: &Workspace, record: &Record) -> Result<usize> {
        let block = self.blocks;
        push_record(&mut self.text, workspace, record);
        self.added(workspace.name(), record.key().as_str())?;
        Ok(block)
    }

    /// Adds a line of another archive as it is.
    fn add_line(&mut self, workspace: &str, key: &str, line: &[u8]) -> Result<()> {
        self.text.extend_from_slice(line);
        self.text.push(b'\n');
        self.added(workspace, key)
    }

    /// Counts the line that was added, and ends the block if it is full.
    fn added(&mut self, workspace: &str, key: &str) -> Result<()> {
        self.tally.add(workspace, key);
        match self.text.len() {
            0..BLOCK => Ok(()),
            _ => self.end_block(true),
        }
    }

    /// Has the lines since the last block compressed.
    fn end_block(&mut self, has_records: bool) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let next = self.packer.text();
        let text = std::mem::replace(&mut self.text, next);
        self.blocks += 1;
        let packed = self.packer.add(text, has_records)?;
        packed.map_or(Ok(()), |packed| self.write(packed))
    }

    fn write(&mut self, packed: Packed) -> Result<()> {
        self.offsets.push(self.file.len());
        self.digest.add(packed.digest);
        self.file.add(&packed.bytes)?;
        self.packer.reuse(packed);
        Ok(())
    }

    /// Writes all blocks, the one that is not full too.
    fn end_blocks(&mut self) -> Result<()> {
        self.end_block(true)?;
        while let Some(packed) = self.packer.take()? {
            self.write(packed)?;
        }
        Ok(())
    }

    /// The part that is written, to read.
    fn reopen(&mut self) -> Result<ArchiveFile> {
        let path = self.file.path().to_owned();
        let file: File = self.file.reopen()?;
        ArchiveFile::new(OpenFile::of(&path, file))
    }

    /// Adds what the old archive has besides, and the footer. Gives the whole file.
    fn complete(mut self, old: Option<(&ArchiveFile, &Survey)>) -> Result<Draft> {
        self.end_blocks()?;
        if let Some((old, survey)) = old {
            self.add_others(old, survey)?;
            self.end_blocks()?;
        }
        let footer = self.tally.footer(self.digest);
        push_frame(&mut self.text, "footer", &footer);
        self.end_block(false)?;
        self.end_blocks()?;
        Ok(self.file)
    }

    /// Copies every record of the old archive whose key was not written.
    fn add_others(&mut self, old: &ArchiveFile, survey: &Survey) -> Result<()> {
        let mut written = KeySet::new();
        for_each_record(&self.reopen()?, false, |workspace, key, _, _| {
            written.insert(record_digest(workspace, key));
            Ok(())
        })?;
        for_each_record(old, false, |workspace, key, place, line| {
            let is_written = written.contains(record_digest(workspace, key));
            if is_written || survey.is_superseded(workspace, key, place) {
                return Ok(());
            }
            self.add_line(workspace, key, line)
        })
    }
}

/// An archive to write: one draft for all of its workspaces.
pub(super) struct Writer {
    archive: Arc<Reader>,
    level: Option<i32>,
    /// Where the records come from, for the header.
    source: Mutex<Option<Location>>,
    draft: DraftSlot<ArchiveDraft>,
    /// Whether there is a draft that was not put in its place.
    is_begun: AtomicBool,
}

impl Writer {
    pub(super) fn new(archive: Arc<Reader>, level: Option<i32>) -> Self {
        Self {
            archive,
            level,
            source: Mutex::default(),
            draft: DraftSlot::default(),
            is_begun: AtomicBool::new(false),
        }
    }

    /// The same archive, where nothing was looked at or written yet.
    pub(super) fn anew(&self) -> Self {
        Self::new(Arc::new(self.archive.anew()), self.level)
    }

    pub(super) fn archive(&self) -> &Arc<Reader> {
        &self.archive
    }

    pub(super) fn begin(&self, source: &Location) {
        let mut known = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(source.clone());
    }

    /// Puts the archive in its place, if there is one.
    pub(super) async fn publish(&self) -> Result<()> {
        if !self.is_begun.load(Ordering::Relaxed) {
            // Nothing was to be written.
            return Ok(());
        }
        // For a file. In a bucket, versions are compared.
        let lock = |draft: &mut Option<ArchiveDraft>| {
            draft.as_ref().map_or(Ok(None), |draft| draft.file.replace_lock())
        };
        let _lock = self.draft.with(lock).await?;
        // Another run may have replaced the archive since it was opened.
        let archive = match self.archive.was_replaced().await? {
            true => Arc::new(self.archive.anew()),
            false => Arc::clone(&self.archive),
        };
        let old = match archive.file().await? {
            Some(file) => archive.any_survey().await?.map(|survey| (file, survey)),
            None => None,
        };
        if let Some((_, survey)) = &old {
            refuse_rejects(&archive, survey)?;
        }
        let metadata = old.as_ref().map(|(old, _)| old.file.metadata()).transpose()?;
        let complete = self.draft.with(move |draft| match draft.take() {
            Some(draft) => draft.complete(old.as_ref().map(|(file, survey)| (&**file, &**survey))),
            None => Err(Error::new(
                ErrorKind::Io,
                "the archive could not be put in its place",
            )),
        });
        let complete = complete.await?;
        let replaced = archive.version().await?;
        archive.place().publish(complete, metadata, replaced).await?;
        self.is_begun.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// One workspace of an archive, to read and write.
pub(super) struct ArchiveTarget {
    writer: Arc<Writer>,
    source: Arc<ArchiveSource>,
    /// The blocks of some records, for [`Target::read_back`].
    blocks: Arc<Mutex<Positions<usize>>>,
}

impl ArchiveTarget {
    pub(super) fn new(writer: Arc<Writer>, workspace: &Workspace) -> Self {
        let source = ArchiveSource {
            archive: Arc::clone(&writer.archive),
            workspace: workspace.clone(),
        };
        Self {
            writer,
            source: Arc::new(source),
            blocks: Arc::default(),
        }
    }
}

#[async_trait]
impl Target for ArchiveTarget {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source) as Arc<dyn Source>
    }

    async fn check_writable(&self) -> Result<()> {
        let archive = &self.writer.archive;
        if let Some(survey) = archive.any_survey().await? {
            refuse_rejects(archive, &survey)?;
        }
        archive.place().check_writable().await
    }

    async fn prepare(&self) -> Result<()> {
        let (path, level) = (self.writer.archive.place().draft_path(), self.writer.level);
        let source = self
            .writer
            .source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.writer
            .draft
            .with(move |draft| {
                if draft.is_none() {
                    *draft = Some(ArchiveDraft::begin(&path, level, source.as_ref())?);
                }
                Ok(())
            })
            .await?;
        self.writer.is_begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let kept = existing(&*self.source, batch, mode).await?;
        let (batch, workspace) = (batch.to_vec(), self.source.workspace.clone());
        let blocks = Arc::clone(&self.blocks);
        self.writer
            .draft
            .with(move |draft| {
                let draft = draft.as_mut().ok_or_else(not_prepared)?;
                let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
                let written = batch.iter().zip(kept).map(|(record, kept)| {
                    if kept {
                        return Ok(WriteOutcome::Exists);
                    }
                    let block = draft.add(&workspace, record)?;
                    blocks.note(record.key().as_str(), block);
                    Ok(WriteOutcome::written())
                });
                written.collect()
            })
            .await
    }

    fn is_visible_when_flushed(&self) -> bool {
        false
    }

    async fn flush(&self) -> Result<()> {
        let flush = |draft: &mut Option<ArchiveDraft>| {
            draft.as_mut().map_or(Ok(()), |draft| {
                draft.end_blocks()?;
                draft.file.write()
            })
        };
        self.writer.draft.with(flush).await
    }

    /// The archive is put in its place when all workspaces are finished.
    async fn finish(&self) -> Result<()> {
        self.flush().await
    }

    async fn read_back(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        if !self.writer.is_begun.load(Ordering::Relaxed) {
            // It is in its place.
            let archive = ArchiveSource {
                archive: Arc::new(self.writer.archive.anew()),
                workspace: self.source.workspace.clone(),
            };
            return archive.get_many(keys).await;
        }
        let (keys, workspace) = (keys.to_vec(), self.source.workspace.clone());
        let blocks = Arc::clone(&self.blocks);
        self.writer
            .draft
            .with(move |draft| {
                let draft = draft.as_mut().ok_or_else(not_prepared)?;
                let blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
                let wanted: Vec<(usize, u64)> = keys
                    .iter()
                    .enumerate()
                    .filter_map(|(at, key)| Some((at, *draft.offsets.get(blocks.of(key)?)?)))
                    .collect();
                get(&draft.reopen()?, workspace.name(), &keys, &wanted)
            })
            .await
    }

    async fn has(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let found = self.read_back(keys).await?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// The lines of the old archive and of the new one.
    async fn size(&self) -> Result<Option<Size>> {
        let workspace = self.source.workspace.name().to_owned();
        let old = self.writer.archive.any_survey().await?;
        let before = old.map_or(0, |survey| survey.size_of(&workspace));
        let added = move |draft: &mut Option<ArchiveDraft>| {
            Ok(draft.as_ref().map_or(0, |draft| draft.tally.of(&workspace)))
        };
        Ok(Some(Size {
            entries: before + self.writer.draft.with(added).await?,
            grows_by_new_only: false,
        }))
    }
}

/// Checks that an archive is one to add to.
fn refuse_rejects(archive: &Reader, survey: &Survey) -> Result<()> {
    if !survey.is_rejects {
        return Ok(());
    }
    let message = format!(
        "{} is a rejects file, which can be read and not written",
        archive.place().name().display()
    );
    Err(Error::new(ErrorKind::Refused, message).with_remedy("name another file"))
}

fn not_prepared() -> Error {
    Error::new(
        ErrorKind::Internal,
        "an archive was written to before it was prepared",
    )
}
