//! A survey of an archive: whether it is complete and unchanged, and what it contains of each workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::{
    codec::{Digest, FORMAT_VERSION, Footer, Format, Line, Tally, record_digest},
    lines::{LinePlace, Lines, MAGIC, SALVAGE},
};
use crate::{
    model::{Error, ErrorKind, Result, Selection, Side},
    storage::{
        Count, Progress,
        files::{OpenFile, of_head},
        repeated::{Repeated, Superseded},
    },
};

/// What to do about a source that is no archive.
pub(super) const NAME_AN_ARCHIVE: &str =
    "name a file that was written by --target FILE.jsonl.zst or --rejects FILE.jsonl";

/// What to do about a target to which nothing can be added.
const NAME_ANOTHER: &str = "remove it, or name another file; it was not changed";

/// How many bytes at the beginning tell whether a file is compressed: the header, and the beginning of the next frame.
const BEGINNING: usize = 4 << 10;

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
        let mut head = vec![0; BEGINNING];
        let read = file.read_at(&mut head, 0)?;
        head.truncate(read);
        // A skippable frame may come first; its magic number has sixteen values.
        let is_skippable =
            head.first().is_some_and(|byte| byte & 0xf0 == 0x50) && head[1..].starts_with(b"\x2a\x4d\x18");
        let is_packed = head.starts_with(&MAGIC) || is_skippable;
        if let Some((what, remedy)) = of_head(&head).filter(|_| !is_packed) {
            let message = format!("{} is not an archive: it is {what}", file.path().display());
            return Err(Error::new(ErrorKind::Damaged, message).with_remedy(remedy));
        }
        Ok(Self {
            file: Arc::new(file),
            // The first frame may be damaged. No text contains these bytes.
            is_packed: is_packed || memchr::memmem::find(&head, &MAGIC).is_some(),
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
    /// The first damage that was skipped.
    pub(super) damage: Option<String>,
    /// Workspaces of a damaged archive that only its footer names.
    lost: BTreeSet<String>,
    /// Identifies this version of the archive, with the order of its lines; `None` for a file without a header.
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
        side: Side,
        salvage: bool,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let size = archive.file.metadata()?.len();
        let mut look = Look::new(archive, size, selection, side, salvage);
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
        let (mut survey, seen) = look.found(size);
        survey.look_again(archive, &seen, salvage)?;
        Ok(survey)
    }

    /// The names of the workspaces, also of those whose records are all damaged, where that is known.
    pub(super) fn workspaces(&self) -> impl Iterator<Item = &str> {
        self.workspaces.keys().chain(&self.lost).map(String::as_str)
    }

    /// The records of a workspace. The damage of the archive may be that of any workspace.
    pub(super) fn count(&self, workspace: &str) -> Count {
        let found = self.workspaces.get(workspace);
        Count {
            damage: self.damage.clone(),
            ..found.map_or_else(Count::none, |found| found.count.clone())
        }
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
    side: Side,
    salvage: bool,
    /// Lines so far.
    lines: u64,
    /// Whether one of them was not blank.
    has_begun: bool,
    header: Option<Format>,
    footer: Option<Footer>,
    is_rejects: bool,
    tally: Tally,
    digest: Digest,
    /// Of all lines and their places, in their order, which the digest in the footer does not depend on.
    order: Xxh3,
    workspaces: BTreeMap<String, Found>,
    seen: Repeated,
    /// The first damage that was skipped.
    damage: Option<String>,
}

impl<'a> Look<'a> {
    fn new(archive: &ArchiveFile, size: u64, selection: &'a Selection, side: Side, salvage: bool) -> Self {
        Self {
            path: archive.file.path().display().to_string(),
            selection,
            side,
            salvage,
            lines: 0,
            has_begun: false,
            header: None,
            footer: None,
            is_rejects: false,
            tally: Tally::default(),
            digest: Digest::default(),
            order: Xxh3::new(),
            workspaces: BTreeMap::new(),
            seen: Repeated::among(size / LINE_BYTES),
            damage: None,
        }
    }

    /// What was found, and the keys that seem to be repeated.
    fn found(self, size: u64) -> (Survey, Repeated) {
        let listed = self.footer.filter(|_| self.damage.is_some());
        let mut lost: BTreeSet<String> = listed
            .into_iter()
            .flat_map(|footer| footer.workspaces.into_keys())
            .collect();
        lost.retain(|name| !self.workspaces.contains_key(name));
        let identity = || format!("{:032x}-{size}", self.order.digest128());
        let survey = Survey {
            selection: self.selection.clone(),
            is_rejects: self.is_rejects,
            identity: self.header.is_some().then(identity),
            workspaces: self.workspaces,
            damage: self.damage,
            lost,
            superseded: Superseded::default(),
        };
        (survey, self.seen)
    }

    /// Skips damage with `salvage`; otherwise returns the error, with what to do about it.
    fn damaged(&mut self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Damaged {
            return Err(error);
        }
        if self.salvage {
            self.damage.get_or_insert_with(|| error.message().to_owned());
            return Ok(());
        }
        let has_remedy = error.remedy().is_some();
        Err(match self.side {
            Side::Target => error.with_remedy(NAME_ANOTHER),
            Side::Source if has_remedy => error,
            Side::Source => error.with_remedy(SALVAGE),
        })
    }

    fn error(&self, what: &str) -> Error {
        let message = format!("{} line {}: {what}", self.path, self.lines);
        Error::new(ErrorKind::Damaged, message)
    }

    fn no_archive(&self, what: &str) -> Error {
        let message = format!("{} is not an archive: {what}", self.path);
        Error::new(ErrorKind::Damaged, message).with_remedy(match self.side {
            Side::Source => NAME_AN_ARCHIVE,
            Side::Target => NAME_ANOTHER,
        })
    }

    fn see(&mut self, line: &[u8], place: LinePlace) -> Result<()> {
        self.lines += 1;
        self.order.update(&place.block.to_le_bytes());
        self.order.update(line);
        self.order.update(b"\n");
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        match Line::read(line) {
            Ok(Line::Header(header)) => self.see_header(header),
            Ok(Line::Footer(footer)) => self.see_footer(footer),
            Ok(Line::Record(record)) => {
                if is_first && !record.is_reject {
                    self.see_other_beginning("its first line is no header")?;
                }
                self.is_rejects |= is_first && record.is_reject;
                if self.footer.is_some() {
                    self.damaged(self.error("a record after the footer"))?;
                }
                self.digest.add_line(line);
                self.add(&record.workspace, &record.key, place);
                Ok(())
            }
            Err(what) if is_first => self.see_other_beginning(&what),
            Err(what) => self.damaged(self.error(&what)),
        }
    }

    /// A first line that is neither a header nor a reject. With `salvage`, the header may be damaged.
    fn see_other_beginning(&mut self, what: &str) -> Result<()> {
        let error = if self.salvage {
            self.error(what)
        } else {
            self.no_archive(what)
        };
        self.damaged(error)
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

    fn see_footer(&mut self, footer: Footer) -> Result<()> {
        if self.footer.is_some() {
            return self.damaged(self.error("another footer"));
        }
        self.footer = Some(footer);
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
        if !self.has_begun && self.damage.is_none() {
            return Err(self.empty());
        }
        let has_frame = self.header.is_some() || self.footer.is_some();
        if let Some(damage) = &self.damage
            && !has_frame
            && self.workspaces.is_empty()
        {
            return Err(self.no_archive(&format!("nothing in it can be read: {damage}")));
        }
        if self.is_rejects && !has_frame {
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
        self.damaged(Error::new(ErrorKind::Damaged, message))
    }

    /// The error for a file without content. A run that rejects nothing leaves such a rejects file.
    fn empty(&self) -> Error {
        let error = self.no_archive("it is empty");
        match self.side {
            Side::Source => error.with_remedy(format!(
                "an empty rejects file means that no record was rejected; otherwise {NAME_AN_ARCHIVE}"
            )),
            Side::Target => error,
        }
    }
}
