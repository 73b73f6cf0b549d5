//! The rejects file: the records that could not be moved, in a format that a later run can read as its source.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    model::{Error, ErrorKind, Result, Workspace, record::RejectKind},
    storage::Entry,
    system::atomic_file,
};

/// A line of a rejects file: a record, and why it was rejected.
#[derive(Debug, Serialize)]
struct RejectLine<'a> {
    key: Cow<'a, str>,
    /// The workspace of the source.
    workspace: Cow<'a, str>,
    kind: RejectKind,
    reason: Cow<'a, str>,
    /// The original value, if it is JSON.
    record: Option<&'a RawValue>,
    /// The original value, if it is not JSON: text in which invalid UTF-8 is replaced by `\u{fffd}`.
    text: Option<String>,
}

/// Writes rejected records, one per line.
#[derive(Debug)]
pub struct RejectsFile {
    path: PathBuf,
    file: Mutex<File>,
    length: AtomicU64,
}

impl RejectsFile {
    /// Opens a file and truncates it to `from` bytes, the part that an earlier run wrote, or to nothing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path, from: Option<u64>) -> Result<Self> {
        let failed = |error| Self::failed(path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        file.set_len(from.unwrap_or(0).min(length)).map_err(failed)?;
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            length: AtomicU64::new(length),
        })
    }

    /// Checks that [`Self::open`] would succeed, without changing anything.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn check(path: &Path) -> Result<()> {
        let checked = if path.exists() {
            OpenOptions::new().write(true).open(path).map(drop)
        } else {
            atomic_file::check(path)
        };
        checked.map_err(|error| Self::failed(path, error))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The line cannot be written. The run must end then, or a record would be lost silently.
    pub fn add(&self, workspace: &Workspace, entry: &Entry, kind: RejectKind, reason: &str) -> Result<()> {
        let raw = entry.raw();
        let record = serde_json::from_slice::<&RawValue>(raw).ok();
        // One line per record: in JSON, line breaks occur only between fields.
        let one_line = record.map(|record| record.get().replace(['\n', '\r'], " "));
        let one_line = one_line.and_then(|text| RawValue::from_string(text).ok());
        let line = RejectLine {
            key: entry.key().as_str().into(),
            workspace: workspace.name().into(),
            kind,
            reason: reason.into(),
            record: one_line.as_deref(),
            text: record
                .is_none()
                .then(|| String::from_utf8_lossy(raw).into_owned()),
        };
        let mut text = serde_json::to_vec(&line)
            .map_err(|error| Error::new(ErrorKind::Internal, "a reject has no JSON form").caused_by(error))?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text)
            .map_err(|error| Self::failed(&self.path, error))?;
        self.length.fetch_add(text.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The length in bytes, including everything added so far.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Makes everything added so far durable.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&self) -> Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.sync_data().map_err(|error| Self::failed(&self.path, error))
    }

    fn failed(path: &Path, error: std::io::Error) -> Error {
        let failed = Error::io("write the rejects file", path, error);
        Error::new(ErrorKind::Rejects, failed.message()).with_remedy("pass a writable path to --rejects")
    }
}
