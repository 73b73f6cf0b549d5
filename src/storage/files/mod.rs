//! What the storages that are files share: opening one, writing one beside another, keeping runs apart that write the same
//! one, and work that blocks.

mod draft;
mod kind;
mod lock;
mod pages;

use std::{
    fs::{File, FileType, Metadata},
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;

use super::{Progress, Source, WriteMode};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{CacheKey, Record},
    },
    system::{off_thread, os, real_path},
};

pub(crate) use draft::{Draft, DraftSlot, Positions, check_writable};
pub(crate) use kind::{HEAD, of_head};
pub(crate) use pages::{FilePages, PagedFile, SentPages};

/// An open file. LightRAG and this program replace a file by renaming another over it, so an open one stays the same from
/// the first look to the last.
#[derive(Debug)]
pub(crate) struct OpenFile {
    path: PathBuf,
    file: File,
}

impl OpenFile {
    /// Opens a file; `None` where it is not there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        // Opening a pipe would wait for somebody who writes into it.
        match path.metadata() {
            Ok(metadata) if !metadata.is_file() => return Err(not_a_file(path, metadata.file_type())),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return match path.read_link() {
                    Ok(target) => Err(dangling(path, &target)),
                    Err(_) => Ok(None),
                };
            }
            Err(error) => return Err(Error::io("read", path, error)),
        }
        match File::open(path) {
            Ok(file) => Ok(Some(Self {
                path: path.to_owned(),
                file,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    /// A file that is open already, under the name by which messages call it.
    pub(crate) fn of(path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            file,
        }
    }

    /// Size, mode and owner.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        self.file
            .metadata()
            .map_err(|error| Error::io("read", &self.path, error))
    }

    /// What tells this file from another, and from itself after a change: size, time of the last change, inode.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn identity(&self) -> Result<String> {
        let metadata = self.metadata()?;
        Ok(format!("{}-{}", metadata.len(), os::file_version(&metadata)))
    }

    /// Reads from a place until the buffer is full or the file ends.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match os::read_at(&self.file, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(filled)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// The error for a path that leads to no regular file.
pub(crate) fn not_a_file(path: &Path, found: FileType) -> Error {
    let message = format!("{} is {}, not a regular file", path.display(), os::kind_of(found));
    let remedy = "write its content into a file first, and name that file";
    Error::new(ErrorKind::NotFound, message).with_remedy(remedy)
}

/// The error for a link that leads nowhere.
pub(crate) fn dangling(path: &Path, target: &Path) -> Error {
    let message = format!(
        "{} is a link to {}, which does not exist",
        path.display(),
        target.display()
    );
    let remedy = "create what it points to, or remove the link";
    Error::new(ErrorKind::NotFound, message).with_remedy(remedy)
}

/// The path with links followed, as far as it exists.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|error| Error::io("resolve", path, error))?;
    let mut missing = path.ancestors().take_while(|there| !there.exists());
    let dangling_link = missing.find_map(|there| Some((there, there.read_link().ok()?)));
    match dangling_link {
        Some((link, target)) => Err(dangling(link, &target)),
        None => Ok(real_path(&path)),
    }
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    off_thread(WORK, work).await?
}

/// The same for work that reports its progress.
pub(crate) async fn blocking_with_progress<T: Send + 'static>(
    progress: Progress<'_>,
    work: impl FnOnce(Progress<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, mut counts) = mpsc::unbounded_channel();
    let work = blocking(move || {
        work(&|scanned| {
            // The receiver is dropped if the run stops.
            let _ = sender.send(scanned);
        })
    });
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            Some(scanned) = counts.recv() => progress(scanned),
            done = &mut work => return done,
        }
    }
}

/// Which of the records a write in this mode leaves as they are, since the target has their keys.
pub(crate) async fn existing(target: &dyn Source, batch: &[Record], mode: WriteMode) -> Result<Vec<bool>> {
    match mode {
        WriteMode::Upsert => Ok(vec![false; batch.len()]),
        WriteMode::Create => {
            let keys: Vec<CacheKey> = batch.iter().map(|record| record.key().clone()).collect();
            target.contains(&keys).await
        }
    }
}

/// What the work on another thread is called in an error.
const WORK: &str = "reading or writing a file";
