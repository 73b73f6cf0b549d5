//! Converts the entries of a cache file to records: the current flat layout, the old nested one, and files with both.
//!
//! Current: `{"default:extract:<hash>": {"return": …}}`. Before LightRAG 1.4: `{"default": {"<hash>": {"return": …,
//! "cache_type": "extract"}}}`, which LightRAG rewrites as `default:extract:<hash>` when it starts
//! (`JsonKVStorage._migrate_legacy_cache_structure`). Here each entry is converted separately, so that a file with both
//! layouts loses nothing, and the file is never rewritten.

use std::{io::Read, ops::Deref, path::Path, sync::Arc};

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::splitter::{SplitError, Splitter, WINDOW};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{
            CacheKey, DEFAULT_TYPE, Fields, Invalid, KeyForm, Record, RejectKind, is_json_for_python,
            unescape, without_python_numbers,
        },
    },
    storage::{
        Entry,
        files::{HEAD, OpenFile, of_head},
    },
    system::os,
};

#[derive(Debug)]
pub(super) struct CacheFile(OpenFile);

impl Deref for CacheFile {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.0
    }
}

impl CacheFile {
    /// Opens a file; `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Option<Arc<Self>>> {
        Ok(OpenFile::open(path)?.map(|file| Arc::new(Self(file))))
    }

    /// The type of the file, if its first bytes show that it is not a cache file.
    fn other_kind(&self) -> Option<(&'static str, &'static str)> {
        let mut head = [0; HEAD];
        let read = os::read_at(self.file(), &mut head, 0).unwrap_or(0);
        of_head(&head[..read])
    }

    /// A position after a byte that looks like the start of an entry in a file that LightRAG wrote, with its indentation
    /// of two. It may not be one: in other files the same characters may occur anywhere outside of strings.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn likely_entry(&self, offset: u64) -> Result<Option<Position>> {
        const BETWEEN_ENTRIES: &[u8] = b"\n  },\n  \"";
        let mut piece = vec![0; 1 << 18];
        let read = self.read_at(&mut piece, offset)?;
        let found = memchr::memmem::find(&piece[..read], BETWEEN_ENTRIES);
        Ok(found.map(|found| Position {
            offset: offset + (found + BETWEEN_ENTRIES.len() - 1) as u64,
            mode: None,
            first: true,
        }))
    }

    /// The line and column of a byte, from 1; the column counts bytes.
    fn line_and_column(&self, offset: u64) -> std::io::Result<(u64, u64)> {
        let mut piece = vec![0; 1 << 16];
        let (mut at, mut line, mut column) = (0, 1, 1);
        while at < offset {
            let wanted = usize::try_from(offset - at)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            let read = os::read_at(self.file(), &mut piece[..wanted], at)?;
            if read == 0 {
                break;
            }
            let piece = &piece[..read];
            at += read as u64;
            line += memchr::memchr_iter(b'\n', piece).count() as u64;
            column = match memchr::memrchr(b'\n', piece) {
                Some(newline) => (read - newline) as u64,
                None => column + read as u64,
            };
        }
        Ok((line, column))
    }
}

/// Reads an open file with a separate position, so that readers are independent of each other.
#[derive(Debug)]
struct FileReader {
    file: Arc<CacheFile>,
    offset: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = os::read_at(self.file.file(), buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// The position of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The byte after which the entry's key is expected.
    pub(super) offset: u64,
    /// The mode, inside an old nested object.
    pub(super) mode: Option<String>,
    /// Whether the entry is the first one, without a comma before it.
    pub(super) first: bool,
}

impl Position {
    /// The position as a cursor: `offset|first|mode`.
    pub(super) fn to_text(&self) -> String {
        let mode = self
            .mode
            .as_ref()
            .map(|mode| format!("|{mode}"))
            .unwrap_or_default();
        format!("{}|{}{mode}", self.offset, u8::from(self.first))
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '|');
        Some(Self {
            offset: parts.next()?.parse().ok()?,
            first: parts.next()? == "1",
            mode: parts.next().map(str::to_owned),
        })
    }
}

/// An entry of a file. Its value must be read or skipped before the next entry.
#[derive(Debug)]
pub(super) struct Found {
    /// The key in the current layout. The key of an old entry includes its type, which is known only with the value; until
    /// then it contains the default type.
    pub(super) key: CacheKey,
    /// Whether the key could not be decoded, because of a lone surrogate; `key` is its JSON text then.
    pub(super) unreadable_key: bool,
    /// The start of the entry.
    pub(super) position: Position,
    /// The hash in the key of an old entry.
    hash: Option<String>,
}

impl Found {
    /// Whether this is an entry of the old layout, whose type is in its value.
    pub(super) fn is_nested(&self) -> bool {
        self.hash.is_some()
    }
}

/// Reads the entries of a file in order.
pub(super) struct EntryReader {
    splitter: Splitter<FileReader>,
    file: Arc<CacheFile>,
    /// The key of the current old nested object.
    mode: Option<String>,
    first: bool,
    /// Whether the value of the last entry has not been read or skipped yet.
    pending: bool,
    /// The key of the last intact entry.
    last_key: Option<CacheKey>,
    /// The key of the entry whose value comes next.
    this_key: Option<CacheKey>,
    done: bool,
    /// The byte after the last intact entry.
    last_whole: u64,
    /// The end of the object, before its brace, if the file contains an object.
    end: Option<Position>,
}

impl EntryReader {
    /// Reads an open file from the beginning or from a position.
    ///
    /// # Errors
    /// The file cannot be read or does not start like a cache.
    pub(super) fn new(file: &Arc<CacheFile>, from: Option<Position>) -> Result<Self> {
        let is_at_start = from.is_none();
        let mut reader = Self::at(file, from);
        if is_at_start {
            reader.begin()?;
        }
        Ok(reader)
    }

    /// Reads an open file from a position, or from the beginning, which requires a call of
    /// [`begin`](Self::begin).
    pub(super) fn at(file: &Arc<CacheFile>, from: Option<Position>) -> Self {
        let from = from.unwrap_or(Position {
            offset: 0,
            mode: None,
            first: true,
        });
        Self::with_window(file, from, WINDOW)
    }

    /// Enters the outer object of the file.
    ///
    /// # Errors
    /// The file cannot be read or does not start like a cache.
    pub(super) fn begin(&mut self) -> Result<()> {
        // LightRAG reads an empty file as a cache without records.
        let is_there = self.splitter.begin().map_err(|error| self.damaged(error))?;
        self.done = !is_there;
        Ok(())
    }

    /// Reads an open file from a position; `size` bytes are read at once.
    pub(super) fn with_window(file: &Arc<CacheFile>, from: Position, size: usize) -> Self {
        let input = FileReader {
            file: Arc::clone(file),
            offset: from.offset,
        };
        Self {
            splitter: Splitter::new(input, from.offset, size),
            file: Arc::clone(file),
            mode: from.mode,
            first: from.first,
            pending: false,
            last_key: None,
            this_key: None,
            done: false,
            last_whole: 0,
            end: None,
        }
    }

    /// The position of the next entry; `None` in a file without an object.
    pub(super) fn position(&self) -> Option<Position> {
        if self.done {
            return self.end.clone();
        }
        Some(Position {
            offset: self.splitter.position(),
            mode: self.mode.clone(),
            first: self.first,
        })
    }

    /// The next entry; `None` at the end of the file, whose outer structure is then known to be valid. A value that
    /// was not read is skipped.
    ///
    /// # Errors
    /// The file cannot be read or is damaged here.
    pub(super) fn next(&mut self) -> Result<Option<Found>> {
        if std::mem::take(&mut self.pending) {
            self.splitter.skip_value().map_err(|error| self.damaged(error))?;
        }
        self.last_whole = self.splitter.position();
        self.last_key = self.this_key.take().or_else(|| self.last_key.take());
        while !self.done {
            let before = self.position();
            let key = match self.splitter.next_key(self.first) {
                Ok(key) => key.map(read_key),
                Err(error) => return Err(self.damaged(error)),
            };
            self.first = false;
            let Some((text, unreadable_key)) = key else {
                if self.mode.take().is_none() {
                    self.splitter.finish().map_err(|error| self.damaged(error))?;
                    self.done = true;
                    self.end = before;
                }
                continue;
            };
            if let Some(mode) = &self.mode {
                let key = CacheKey::flattened(mode, DEFAULT_TYPE, &text);
                return Ok(Some(self.found(key, unreadable_key, Some(text))));
            }
            let key = CacheKey::new(text);
            // A key without a colon is a mode if its value contains only objects: a record contains strings and numbers.
            if may_be_mode(key.as_str()) {
                let nested = self.splitter.value_is_object_of_objects();
                if nested.map_err(|error| self.damaged(error))? {
                    self.splitter.enter();
                    self.mode = Some(key.as_str().to_owned());
                    self.first = true;
                    continue;
                }
            }
            return Ok(Some(self.found(key, unreadable_key, None)));
        }
        Ok(None)
    }

    fn found(&mut self, key: CacheKey, unreadable_key: bool, hash: Option<String>) -> Found {
        self.pending = true;
        self.this_key = Some(key.clone());
        let position = Position {
            offset: self.splitter.key_offset(),
            mode: self.mode.clone(),
            first: true,
        };
        Found {
            key,
            unreadable_key,
            position,
            hash,
        }
    }

    /// Reads the value of the current entry, and completes the key of an old one.
    ///
    /// # Errors
    /// The file cannot be read or is damaged here.
    pub(super) fn take(&mut self, found: &mut Found) -> Result<Bytes> {
        self.pending = false;
        let (file, keys) = (&self.file, (self.this_key.as_ref(), self.last_key.as_ref()));
        let value = self
            .splitter
            .take_value()
            .map_err(|error| damaged(file, keys, error))?;
        if let (Some(mode), Some(hash)) = (&self.mode, &found.hash) {
            found.key = CacheKey::flattened(mode, &old_cache_type(&value), hash);
        }
        Ok(value)
    }

    /// Reads the current entry. Its value must be valid JSON: otherwise a quote or a bracket
    /// is missing, and the end of the entry is unknown. Then the file is damaged, not only this record.
    /// (Invalid UTF-8 affects only one record: quotes and brackets are found regardless.)
    ///
    /// # Errors
    /// As [`EntryReader::take`].
    pub(super) fn take_entry(&mut self, mut found: Found) -> Result<Entry> {
        let start = self.splitter.position();
        let value = self.take(&mut found)?;
        if found.unreadable_key {
            self.check_is_json(start, &found.key, &value)?;
            return Ok(Entry::Invalid(Invalid {
                key: found.key,
                kind: RejectKind::InvalidKey,
                reason: "the key is not text: it contains a lone surrogate or invalid UTF-8".to_owned(),
                raw: value,
            }));
        }
        let entry = Record::new(found.key, value).into();
        if let Entry::Invalid(invalid) = &entry
            && matches!(invalid.kind, RejectKind::InvalidJson | RejectKind::InvalidUtf8)
        {
            self.check_is_json(start, &invalid.key, &invalid.raw)?;
        }
        Ok(entry)
    }

    /// Marks the current entry as no longer needed, so that its window can be reused.
    pub(super) fn let_go(&mut self, entry: &Entry) {
        self.splitter.let_go(entry.size());
    }

    fn check_is_json(&self, start: u64, key: &CacheKey, value: &[u8]) -> Result<()> {
        // Invalid UTF-8 is allowed inside a string, and is damage elsewhere.
        let text = String::from_utf8_lossy(value);
        match serde_json::from_str::<IgnoredAny>(&text) {
            Err(error) if !is_json_for_python(text.as_bytes()) => {
                let syntax = SplitError::Syntax {
                    offset: start + offset_of(text.as_bytes(), error.line(), error.column()),
                    what: "the value of this entry is not valid JSON",
                };
                Err(damaged(&self.file, (Some(key), self.last_key.as_ref()), syntax))
            }
            _ => Ok(()),
        }
    }

    /// The byte after which another entry can start after damage: the first one of the damaged entry's
    /// key, or the last one of the intact entry before it.
    pub(super) fn damage_begins(&self) -> u64 {
        match self.this_key {
            Some(_) => self.splitter.key_offset() + 1,
            None => self.last_whole,
        }
    }

    /// The number of bytes read so far.
    pub(super) fn read_to(&self) -> u64 {
        self.splitter.position()
    }

    /// The mode, inside an old nested object.
    pub(super) fn mode(&self) -> Option<&str> {
        self.mode.as_deref()
    }

    fn damaged(&self, error: SplitError) -> Error {
        damaged(
            &self.file,
            (self.this_key.as_ref(), self.last_key.as_ref()),
            error,
        )
    }
}

/// Whether a key of the outer object may be a mode of the old layout.
fn may_be_mode(key: &str) -> bool {
    KeyForm::of(key) == KeyForm::Other
}

/// The type of an old entry with this value.
fn old_cache_type(value: &[u8]) -> String {
    let of = |value: &[u8]| {
        let fields = serde_json::from_slice::<Fields<'_>>(value).ok()?;
        Some(fields.old_cache_type().into_owned())
    };
    of(value)
        .or_else(|| of(&without_python_numbers(value)?))
        .unwrap_or_else(|| DEFAULT_TYPE.to_owned())
}

/// The text of a key, and whether decoding it failed.
pub(super) fn read_key(json: &[u8]) -> (String, bool) {
    let text = std::str::from_utf8(json).ok().and_then(unescape);
    match text {
        Some(text) => (text.into_owned(), false),
        None => {
            let raw = String::from_utf8_lossy(json);
            (raw.trim_matches('"').to_owned(), true)
        }
    }
}

/// The error for a file that is not one valid JSON object: the place, the entry, the last intact entry, and a remedy.
fn damaged(
    file: &CacheFile,
    (this, last): (Option<&CacheKey>, Option<&CacheKey>),
    error: SplitError,
) -> Error {
    let (offset, what) = match error {
        SplitError::Io(error) => return Error::io("read", file.path(), error),
        SplitError::Syntax { offset, what } => (offset, what),
    };
    // A file of another type fails at once: it has no intact entry.
    if last.is_none()
        && let Some((what, remedy)) = file.other_kind()
    {
        let message = format!("{} is not a cache file: it is {what}", file.path().display());
        return Error::new(ErrorKind::NotFound, message).with_remedy(remedy);
    }
    let place = match file.line_and_column(offset) {
        Ok((line, column)) => format!("byte {offset}, line {line}, column {column}"),
        Err(_) => format!("byte {offset}"),
    };
    let inside = this
        .map(|key| format!(" (in the entry {key})"))
        .unwrap_or_default();
    let before = match last {
        Some(key) => format!("; the last intact record is {key}"),
        None => "; there is no intact record before it".to_owned(),
    };
    Error::new(
        ErrorKind::Damaged,
        format!(
            "{} is damaged at {place}: {what}{inside}{before}",
            file.path().display()
        ),
    )
    .with_remedy("restore the file from a backup, repair it at that place, or use --salvage")
}

/// The byte of text at a line and a column, both from 1.
fn offset_of(text: &[u8], line: usize, column: usize) -> u64 {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)) as u64
}

/// Appends an entry to the text of a cache file in LightRAG's format: indented by two, at least one line per entry.
pub(super) fn push_entry(out: &mut Vec<u8>, first: bool, key_json: &[u8], value: &[u8]) {
    out.extend_from_slice(if first { b"\n  " } else { b",\n  " });
    out.extend_from_slice(key_json);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(String, String)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut found = Vec::new();
        let file = CacheFile::open(file.path()).unwrap().unwrap();
        let mut reader = EntryReader::new(&file, None).unwrap();
        while let Some(mut entry) = reader.next().unwrap() {
            let value = String::from_utf8(reader.take(&mut entry).unwrap().to_vec()).unwrap();
            // Every position leads to the rest of the entries.
            let again = EntryReader::new(&file, Some(entry.position.clone()))
                .unwrap()
                .next();
            assert_eq!(again.unwrap().unwrap().position, entry.position);
            assert_eq!(
                Position::from_text(&entry.position.to_text()).as_ref(),
                Some(&entry.position)
            );
            found.push((entry.key.to_string(), value));
        }
        found
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn nested_entries_get_the_keys_of_today() {
        let text = r#"{"default": {"h1": {"return": "a"}, "h2": {"return": "b", "cache_type": "summary"}},
                      "mix": {"h3": {"return": "c", "cache_type": "query"}}}"#;
        assert_eq!(
            entries(text),
            [
                pair("default:extract:h1", r#"{"return": "a"}"#),
                pair(
                    "default:summary:h2",
                    r#"{"return": "b", "cache_type": "summary"}"#
                ),
                pair("mix:query:h3", r#"{"return": "c", "cache_type": "query"}"#),
            ]
        );
    }

    #[test]
    fn both_layouts_in_one_file_lose_nothing() {
        let text = r#"{"default:extract:h1": {"return": "a"}, "default": {"h2": {"return": "b"}}, "empty": {},
                      "plain": {"return": "c"}, "default:extract:h4": null}"#;
        assert_eq!(
            entries(text),
            [
                pair("default:extract:h1", r#"{"return": "a"}"#),
                pair("default:extract:h2", r#"{"return": "b"}"#),
                pair("plain", r#"{"return": "c"}"#),
                pair("default:extract:h4", "null"),
            ]
        );
    }

    #[test]
    fn damage_is_told_by_byte_line_column_and_last_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "{\n  \"default:extract:h1\": {\"return\": \"a\"}\n  \"x\": 1}",
        )
        .unwrap();
        let file = CacheFile::open(file.path()).unwrap().unwrap();
        let mut reader = EntryReader::new(&file, None).unwrap();
        reader.next().unwrap().unwrap();
        let error = reader.next().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.message().contains("byte 44, line 3, column 3"), "{error}");
        assert!(error.message().contains("default:extract:h1"), "{error}");
    }
}
