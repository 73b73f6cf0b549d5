//! A file that is being written beside the one that it will replace.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tempfile::NamedTempFile;

use super::{
    blocking,
    lock::{ReplaceLock, new_sibling, remove_leftovers},
    not_a_file,
};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{CacheKey, KeyDigest},
    },
    system::os,
};

/// A file that is being written beside the one that it will replace, and removed if it never does. Writes are collected,
/// and reach the disk while more are made.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    out: NamedTempFile,
    /// Whether the file is locked, which shows other runs that it is no leftover. Some network file systems have no locks.
    is_locked: bool,
    /// What is to be written next.
    pending: Vec<u8>,
    /// Bytes of the file that are written, without those that are pending.
    written_bytes: u64,
    /// Why a write failed, if one did: what is in the file and on the disk is not known then, and it is never put in place.
    failed: Option<io::ErrorKind>,
    /// Bytes written since the last sync was started.
    unsynced: usize,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// What is written at once, in bytes.
const BUFFER: usize = 1 << 18;

/// A sync is started each time so many bytes were written. Otherwise the system would write most of them at the end.
const SYNC_EVERY: usize = 32 << 20;

impl Draft {
    /// Makes the folder and the file, whose name begins like that of the one it will replace: if this process is killed, the
    /// next run that writes the same file removes it.
    ///
    /// # Errors
    /// The folder or the file cannot be made, or the disk has too little space.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        std::fs::create_dir_all(folder).map_err(|error| Error::io("make the folder", folder, error))?;
        remove_leftovers(path, folder);
        check_space(path, folder)?;
        let (sibling, is_locked) =
            new_sibling(path, folder).map_err(|error| Error::io("write in", folder, error))?;
        Ok(Self {
            path: path.to_owned(),
            out: sibling,
            is_locked,
            pending: Vec::with_capacity(BUFFER),
            written_bytes: 0,
            failed: None,
            unsynced: 0,
            syncing: None,
        })
    }

    /// Makes the folder, and checks that a draft can be made in it. In a folder that did not exist, one can.
    ///
    /// # Errors
    /// As those of [`Self::begin`].
    pub(crate) fn prepare(path: &Path) -> Result<()> {
        let folder = folder_of(path);
        if folder.exists() {
            return Self::begin(path).map(drop);
        }
        std::fs::create_dir_all(folder).map_err(|error| Error::io("make the folder", folder, error))
    }

    /// The file that will be replaced.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other run replaces the file, and keeps others from it: from before the old file is opened, whose records
    /// are merged, until it is replaced. `None` if the file system has no locks.
    ///
    /// # Errors
    /// Another run does not get done.
    pub(crate) fn replace_lock(&self) -> Result<Option<ReplaceLock>> {
        match self.is_locked {
            true => ReplaceLock::wait(&self.path),
            false => Ok(None),
        }
    }

    /// Bytes added so far.
    pub(crate) fn len(&self) -> u64 {
        self.written_bytes + self.pending.len() as u64
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// They, or earlier ones, cannot be written.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        self.write_if_full()
    }

    /// The bytes to be written next, to add to; [`Self::write_if_full`] follows.
    pub(crate) fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Writes what was added, if that is enough.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_if_full(&mut self) -> Result<()> {
        match self.pending.len() {
            0..BUFFER => Ok(()),
            _ => self.write(),
        }
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&mut self) -> Result<()> {
        if let Some(kind) = self.failed {
            return Err(Error::io("write", &self.path, kind.into()));
        }
        self.unsynced += self.pending.len();
        let written = self
            .out
            .write_all(&self.pending)
            .and_then(|()| self.begin_sync_if_due());
        self.written_bytes += self.pending.len() as u64;
        self.pending.clear();
        written.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: io::Error) -> Error {
        self.failed = Some(error.kind());
        Error::io("write", &self.path, error)
    }

    /// Everything added so far is on the disk after this.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.write()?;
        let flushed = self.end_sync().and_then(|()| self.out.as_file().sync_data());
        flushed.map_err(|error| self.fail(error))
    }

    /// The file, opened once more to read what was added so far.
    ///
    /// # Errors
    /// What was added cannot be written, or the file cannot be opened.
    pub(crate) fn reopen(&mut self) -> Result<std::fs::File> {
        self.write()?;
        let file = self.out.reopen();
        file.map_err(|error| Error::io("read back", &self.path, error))
    }

    /// Has a thread bring to the disk what was written, unless one still does.
    fn begin_sync_if_due(&mut self) -> io::Result<()> {
        let is_busy = self.syncing.as_ref().is_some_and(|sync| !sync.is_finished());
        if self.unsynced < SYNC_EVERY || is_busy {
            return Ok(());
        }
        self.end_sync()?;
        self.unsynced = 0;
        let file = self.out.as_file().try_clone()?;
        self.syncing = Some(std::thread::Builder::new().spawn(move || file.sync_data())?);
        Ok(())
    }

    /// What became of it: the system tells of an error once.
    fn end_sync(&mut self) -> io::Result<()> {
        let synced = self.syncing.take().map(JoinHandle::join);
        synced.map_or(Ok(()), |synced| {
            synced.map_err(|_| io::Error::other("bringing the file to the disk panicked"))?
        })
    }

    /// Puts the file in the place of the old one, whose mode and owner it takes over.
    ///
    /// # Errors
    /// It cannot be written or renamed; the old file is then as it was.
    pub(crate) fn publish(mut self, old: Option<&Metadata>) -> Result<()> {
        self.write()?;
        let synced = self.end_sync();
        let path = self.path;
        let failed = |error| Error::io("write", &path, error);
        synced.map_err(failed)?;
        let sibling = self.out;
        if let Some(old) = old {
            let file = sibling.as_file();
            file.set_permissions(old.permissions()).map_err(failed)?;
            // Only root may give a file to another owner; LightRAG's own way of writing does not even try.
            os::copy_owner(file, old);
        }
        sibling.as_file().sync_all().map_err(failed)?;
        sibling.persist(&path).map_err(|error| failed(error.error))?;
        // The new name is on the disk when its folder is.
        os::sync_folder(folder_of(&path)).map_err(failed)
    }
}

/// A draft that several tasks work on, once it is begun.
#[derive(Debug)]
pub(crate) struct DraftSlot<D>(Arc<Mutex<Option<D>>>);

impl<D> Default for DraftSlot<D> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<D: Send + 'static> DraftSlot<D> {
    /// Works on the draft, on a thread for blocking work.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<D>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let draft = Arc::clone(&self.0);
        blocking(move || {
            // After a panic the draft is incomplete; the run ends with an internal error and does not replace the file.
            let mut draft = draft.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut draft)
        })
        .await
    }
}

/// The positions of some entries in a new file: those whose keys have the smallest digests, which are also the ones that are
/// read back.
#[derive(Debug)]
pub(crate) struct Positions<P>(BTreeMap<KeyDigest, P>);

/// The number of positions that are noted.
const MOST_POSITIONS: usize = 1024;

impl<P> Default for Positions<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P: Copy> Positions<P> {
    /// Notes the position of an entry, if its key is among those with the smallest digests.
    pub(crate) fn note(&mut self, key: &str, position: P) {
        let key = KeyDigest::of(key);
        let is_full = self.0.len() >= MOST_POSITIONS;
        if is_full && self.0.last_key_value().is_some_and(|(last, _)| *last < key) {
            return;
        }
        // For a repeated key, the last entry counts.
        self.0.insert(key, position);
        if self.0.len() > MOST_POSITIONS {
            self.0.pop_last();
        }
    }

    /// The position of an entry, if it was noted.
    pub(crate) fn of(&self, key: &CacheKey) -> Option<P> {
        self.0.get(&KeyDigest::of(key.as_str())).copied()
    }
}

/// Whether the file can be replaced, or made: found out without a write.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    if let Ok(found) = path.metadata()
        && !found.is_file()
    {
        return Err(not_a_file(path, found.file_type()));
    }
    // What is missing of the folders is made in the last one that is there.
    let mut folder = folder_of(path);
    while !folder.exists()
        && let Some(parent) = folder.parent()
    {
        folder = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
    }
    if !folder.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(Error::io("write in", folder, error));
    }
    os::check_folder_writable(folder).map_err(|error| Error::io("write in", folder, error))?;
    check_space(path, folder)
}

/// Checks whether the disk has space for a second file of the old size, since the new file will contain at least as much.
fn check_space(path: &Path, folder: &Path) -> Result<()> {
    let Ok(old) = path.metadata() else {
        return Ok(());
    };
    let free = os::free_space(folder).map_err(|error| Error::io("look at the disk of", folder, error))?;
    let Some(free) = free else { return Ok(()) };
    if free >= old.len() {
        return Ok(());
    }
    let message = format!(
        "{} has {} left, and the new file beside the old one needs more than {}",
        folder.display(),
        bytesize::ByteSize(free),
        bytesize::ByteSize(old.len())
    );
    Err(Error::new(ErrorKind::Refused, message).with_remedy("free space, or name a folder on another disk"))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
