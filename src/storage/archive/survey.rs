//! A survey of an archive: whether it is complete and unchanged, and what it contains of each workspace.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    codec::{Digest, FORMAT_VERSION, Footer, Format, Line, Tally, record_digest},
    lines::{LinePlace, Lines},
};
use crate::{
    model::{Error, ErrorKind, Result, Selection},
    storage::{
        Count, Progress,
        files::{HEAD, OpenFile, of_head},
        repeated::{Repeated, Superseded},
    },
};

/// An open archive.
#[derive(Debug)]
pub(super) struct ArchiveFile {
    pub(super) file: Arc<OpenFile>,
    pub(super) is_packed: bool,
}

impl ArchiveFile {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// The file cannot be read, or is of another kind.
    pub(super) fn new(file: OpenFile) -> Result<Self> {
        let mut head = vec![0; HEAD];
        let read = file.read_at(&mut head, 0)?;
        head.truncate(read);
        // A skippable frame may come first; its magic number has sixteen values.
        let is_skippable =
            head.first().is_some_and(|byte| byte & 0xf0 == 0x50) && head[1..].starts_with(b"\x2a\x4d\x18");
        let is_packed = head.starts_with(&super::lines::MAGIC) || is_skippable;
        if let Some((what, remedy)) = of_head(&head).filter(|_| !is_packed) {
            let message = format!("{} is not an archive: it is {what}", file.path().display());
            return Err(Error::new(ErrorKind::Damaged, message).with_remedy(remedy));
        }
        Ok(Self {
            file: Arc::new(file),
            is_packed,
        })
    }

    /// Its lines from the beginning of a block on.
    ///
    /// # Errors
    /// No memory for it.
    pub(super) fn lines(&self, block: u64) -> Result<Lines> {
        Lines::new(&self.file, self.is_packed, block)
    }
}

/// The result of a survey.
#[derive(Debug)]
pub(super) struct Survey {
    /// The selection that was counted.
    pub(super) selection: Selection,
    /// Whether it has no header and is a rejects file, which later runs may append to.
    pub(super) is_rejects: bool,
    workspaces: BTreeMap<String, Found>,
    /// Identifies this version of the archive; `None` for a file without a header.
    pub(super) identity: Option<String>,
    superseded: Superseded<LinePlace>,
}

/// The records of a workspace.
#[derive(Debug)]
struct Found {
    count: Count,
    /// The blocks that contain its lines, in order.
    blocks: Vec<u64>,
}

/// Progress is reported each time so many lines were read.
const PROGRESS_EVERY: u64 = 1 << 14;

/// A small line, in bytes of a compressed file. It decides the size of the filter for repeated keys.
const LINE_BYTES: u64 = 256;

impl Survey {
    /// Surveys an archive; with `salvage`, the intact part of a damaged one.
    ///
    /// # Errors
    /// The file cannot be read, is damaged or is no archive.
    pub(super) fn of(
        archive: &ArchiveFile,
        selection: &Selection,
        salvage: bool,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let size = archive.file.metadata()?.len();
        let mut look = Look {
            path: archive.file.path().display().to_string(),
            selection,
            salvage,
            lines: 0,
            header: None,
            footer: None,
            is_rejects: false,
            tally: Tally::default(),
            digest: Digest::default(),
            workspaces: BTreeMap::new(),
            seen: Repeated::among(size / LINE_BYTES),
            damage: None,
        };
        let mut lines = archive.lines(0)?;
        loop {
            match lines.next() {
                Ok(Some((line, place))) => look.see(&line, place)?,
                Ok(None) => break,
                Err(error) => {
                    look.damaged(error)?;
                    if !lines.skip_damage()? {
                        break;
                    }
                }
            }
            if look.lines.is_multiple_of(PROGRESS_EVERY) {
                progress(look.lines);
            }
        }
        look.end()?;
        let mut survey = Self {
            selection: selection.clone(),
            is_rejects: look.is_rejects,
            identity: look.header.is_some().then(|| format!("{}-{size}", look.digest)),
            workspaces: look.workspaces,
            superseded: Superseded::default(),
        };
        for found in survey.workspaces.values_mut() {
            found.count.damage.clone_from(&look.damage);
        }
        survey.look_again(archive, &look.seen, salvage)?;
        Ok(survey)
    }

    /// The names of the workspaces.
    pub(super) fn workspaces(&self) -> impl Iterator<Item = &str> {
        self.workspaces.keys().map(String::as_str)
    }

    /// The records of a workspace.
    pub(super) fn count(&self, workspace: &str) -> Count {
        let found = self.workspaces.get(workspace);
        found.map_or_else(Count::none, |found| found.count.clone())
    }

    /// The blocks that contain lines of a workspace, in order.
    pub(super) fn blocks(&self, workspace: &str) -> &[u64] {
        self.workspaces.get(workspace).map_or(&[], |found| &found.blocks)
    }

    /// The records of a workspace, selected or not.
    pub(super) fn size_of(&self, workspace: &str) -> u64 {
        let count = self.count(workspace);
        count.total() + count.left_out.as_ref().map_or(0, |others| others.total())
    }

    /// Whether a later line has the same key.
    pub(super) fn is_superseded(&self, workspace: &str, key: &str, place: LinePlace) -> bool {
        self.superseded.contains(|| record_digest(workspace, key), place)
    }

    /// Finds out which keys are really repeated.
    fn look_again(&mut self, archive: &ArchiveFile, seen: &Repeated, salvage: bool) -> Result<()> {
        if seen.is_empty() {
            return Ok(());
        }
        let mut again = seen.look_again();
        for_each_record(archive, salvage, |workspace, key, place, _| {
            if again.note(record_digest(workspace, key), place)
                && let Some(found) = self.workspaces.get_mut(workspace)
            {
                found.count.remove(&self.selection, key);
            }
            Ok(())
        })?;
        self.superseded = again.superseded();
        Ok(())
    }
}

/// Visits the records of an archive: workspace, key, place and line of each. Skips damage with `salvage`; otherwise it is an
/// error.
pub(super) fn for_each_record(
    archive: &ArchiveFile,
    salvage: bool,
    mut each: impl FnMut(&str, &str, LinePlace, &Bytes) -> Result<()>,
) -> Result<()> {
    let mut lines = archive.lines(0)?;
    loop {
        match lines.next() {
            Ok(Some((line, place))) => {
                if let Ok(Line::Record(record)) = Line::read(&line) {
                    each(&record.workspace, &record.key, place, &line)?;
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                if !salvage || error.kind() != ErrorKind::Damaged {
                    return Err(error);
                }
                if !lines.skip_damage()? {
                    return Ok(());
                }
            }
        }
    }
}

/// A survey in progress.
struct Look<'a> {
    path: String,
    selection: &'a Selection,
    salvage: bool,
    /// Lines so far.
    lines: u64,
    header: Option<Format>,
    footer: Option<Footer>,
    is_rejects: bool,
    tally: Tally,
    digest: Digest,
    workspaces: BTreeMap<String, Found>,
    seen: Repeated,
    /// The first damage that was skipped.
    damage: Option<String>,
}

impl Look<'_> {
    /// Skips damage with `salvage`; otherwise returns the error.
    fn damaged(&mut self, error: Error) -> Result<()> {
        if !self.salvage || error.kind() != ErrorKind::Damaged {
            return Err(error);
        }
        self.damage.get_or_insert_with(|| error.message().to_owned());
        Ok(())
    }

    fn error(&self, what: &str) -> Error {
        let message = format!("{} line {}: {what}", self.path, self.lines);
        Error::new(ErrorKind::Damaged, message)
    }

    fn see(&mut self, line: &[u8], place: LinePlace) -> Result<()> {
        self.lines += 1;
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match Line::read(line) {
            Ok(Line::Header(header)) => self.see_header(header),
            Ok(Line::Footer(footer)) if self.footer.is_none() => {
                self.footer = Some(footer);
                Ok(())
            }
            Ok(Line::Footer(_)) => self.damaged(self.error("another footer")),
            Ok(Line::Record(record)) => {
                if self.lines == 1 && !record.is_reject && !self.salvage {
                    return Err(self.no_archive("its first line is no header"));
                }
                self.is_rejects |= self.lines == 1 && record.is_reject;
                if self.footer.is_some() {
                    self.damaged(self.error("a record after the footer"))?;
                }
                self.digest.add_line(line);
                self.add(&record.workspace, &record.key, place);
                Ok(())
            }
            Err(what) if self.lines == 1 && !self.salvage => Err(self.no_archive(&what)),
            Err(what) => {
                let remedy = "--salvage moves the records that are whole";
                self.damaged(self.error(&what).with_remedy(remedy))
            }
        }
    }

    fn no_archive(&self, what: &str) -> Error {
        let message = format!("{} is not an archive: {what}", self.path);
        Error::new(ErrorKind::Damaged, message)
            .with_remedy("name a file that was written by --target FILE.jsonl.zst or --rejects FILE.jsonl")
    }

    fn see_header(&mut self, header: Format) -> Result<()> {
        if !header.is_ours() {
            return Err(self.no_archive("its header is another program's"));
        }
        if header.format_version > FORMAT_VERSION {
            let message = format!(
                "{} has version {} of the archive format; this program reads up to {FORMAT_VERSION}",
                self.path, header.format_version
            );
            return Err(Error::new(ErrorKind::Damaged, message)
                .with_remedy("use the version of migrate-llm-cache that wrote it, or a later one"));
        }
        if self.header.is_some() {
            return self
                .damaged(self.error("another header: archives cannot be put together by appending files"));
        }
        self.header = Some(header);
        Ok(())
    }

    fn add(&mut self, workspace: &str, key: &str, place: LinePlace) {
        self.tally.add(workspace, key);
        self.seen.insert(record_digest(workspace, key));
        let found = match self.workspaces.get_mut(workspace) {
            Some(found) => found,
            None => self
                .workspaces
                .entry(workspace.to_owned())
                .or_insert_with(|| Found {
                    count: Count::none(),
                    blocks: Vec::new(),
                }),
        };
        found.count.add(self.selection, key);
        if found.blocks.last() != Some(&place.block) {
            found.blocks.push(place.block);
        }
    }

    /// Compares the records with the footer.
    fn end(&mut self) -> Result<()> {
        if self.lines == 0 && self.damage.is_none() {
            return Err(self.no_archive("it is empty"));
        }
        if self.is_rejects {
            return Ok(());
        }
        let found = self.tally.footer(self.digest);
        let what = match &self.footer {
            None => "it has no footer: it was cut off".to_owned(),
            Some(footer) if footer.records != found.records => format!(
                "its footer says {} records, and it has {}",
                footer.records, found.records
            ),
            Some(footer) if *footer != found => {
                "its records are not those that were written: the digest differs".to_owned()
            }
            Some(_) => return Ok(()),
        };
        let message = format!("{} is damaged: {what}", self.path);
        let error = Error::new(ErrorKind::Damaged, message);
        self.damaged(error.with_remedy("--salvage moves the records that are whole"))
    }
}
