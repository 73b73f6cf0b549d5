//! How far a job came, in a file from which a later run goes on.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    model::{CacheType, Error, ErrorKind, Result},
    report::{BatchTotals, ErrorTotals, Totals},
    storage::Cursor,
    system::atomic_file,
};

/// Raised when an older program must not read the file.
const FORMAT: u32 = 1;

/// What of a job is done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// By workspace, in the order of the job.
    pub workspaces: Vec<WorkspaceProgress>,
    /// The batches so far.
    pub batches: BatchTotals,
    /// What went wrong so far.
    pub errors: ErrorTotals,
    /// The length in bytes of the rejects file, where there is one: what stands behind it came later.
    pub rejects_bytes: Option<u64>,
    /// Whether the job is done.
    pub complete: bool,
}

/// What of a workspace is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceProgress {
    /// The workspace that is read.
    pub from: String,
    /// The workspace that is written.
    pub to: String,
    /// Where the source goes on; `None` where it begins at the beginning.
    pub cursor: Option<Cursor>,
    /// Whether all of it is done.
    pub complete: bool,
    /// Batches so far.
    pub batches: u64,
    /// The numbers so far.
    pub totals: Totals,
    /// The same by type.
    pub by_cache_type: BTreeMap<CacheType, Totals>,
}

impl WorkspaceProgress {
    /// Nothing of it is done.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            from: std::mem::take(&mut self.from),
            to: std::mem::take(&mut self.to),
            ..Self::default()
        };
    }
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    tool: String,
    /// The job, as a digest.
    job: String,
    #[serde(flatten)]
    progress: Progress,
}

/// A checkpoint file that this run alone holds.
///
/// The lock is on a file beside it, since the checkpoint itself is replaced at every write; it goes with the process,
/// however that ends.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    job: String,
    _lock: File,
}

impl Checkpoint {
    /// Locks the file for a job and reads how far that came: nothing, where there is no file, where the job was done,
    /// or without `resume`.
    ///
    /// `job` is whatever makes a job the same job: source, target, workspaces, types, policies.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`]: the file is another job's, is held by another run, or cannot be read.
    pub fn open(path: &Path, job: &[String], resume: bool) -> Result<(Self, Option<Progress>)> {
        let lock = lock(path)?;
        let checkpoint = Self {
            path: path.to_owned(),
            job: format!("{:032x}", xxh3_128(job.join("\0").as_bytes())),
            _lock: lock,
        };
        let progress = checkpoint.read()?.filter(|progress| resume && !progress.complete);
        Ok((checkpoint, progress))
    }

    /// Whether a checkpoint could be written there now; nothing is made or changed.
    ///
    /// # Errors
    /// The folder is missing or cannot be written, or there is something that is no file.
    pub fn check(path: &Path) -> Result<()> {
        atomic_file::check(path).map_err(|error| unwritable(path, &error))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<Option<Progress>> {
        let refused = |what: String, remedy: &str| {
            Err(Error::new(
                ErrorKind::Checkpoint,
                format!("the checkpoint {} {what}", self.path.display()),
            )
            .with_remedy(remedy))
        };
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return refused(
                    format!("cannot be read: {error}"),
                    "make it readable, or name another",
                );
            }
        };
        let content: Content = match serde_json::from_slice(&text) {
            Ok(content) => content,
            Err(error) => {
                let what = format!("is no checkpoint: {error}");
                return refused(what, "name another file, or remove this one to begin anew");
            }
        };
        if content.format != FORMAT {
            let what = format!("has format {}, and this program writes {FORMAT}", content.format);
            return refused(
                what,
                "finish with the program that began, or remove the file to begin anew",
            );
        }
        if content.job != self.job {
            return refused(
                "belongs to another job".to_owned(),
                "name another file for this job; source, target, workspaces, types and policies make a job",
            );
        }
        Ok(Some(content.progress))
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// It cannot be written: the run must then end, or a later one would go on at the wrong place.
    pub fn write(&self, progress: &Progress) -> Result<()> {
        let content = Content {
            format: FORMAT,
            tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
            job: self.job.clone(),
            progress: progress.clone(),
        };
        let text = serde_json::to_vec_pretty(&content).map_err(|error| {
            Error::new(ErrorKind::Internal, "a checkpoint has no JSON form").caused_by(error)
        })?;
        atomic_file::replace(&self.path, &text).map_err(|error| unwritable(&self.path, &error))
    }
}

fn lock(path: &Path) -> Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let lock = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&lock)
        .map_err(|error| unwritable(path, &error))?;
    match file.try_lock() {
        Ok(()) => {
            // For people alone; the lock is what counts.
            let _ = file
                .set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&lock).unwrap_or_default();
            let message = format!(
                "another run (process {}) holds the checkpoint {}",
                holder.trim(),
                path.display()
            );
            Err(Error::new(ErrorKind::Checkpoint, message)
                .with_remedy("wait until it has ended, or name another file"))
        }
        Err(TryLockError::Error(error)) => Err(unwritable(path, &error)),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Checkpoint,
        format!("cannot write the checkpoint {}: {error}", path.display()),
    )
    .with_remedy("name a file in a folder that can be written with --checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(target: &str) -> Vec<String> {
        vec!["json ./rag_storage".to_owned(), target.to_owned()]
    }

    fn progress(complete: bool) -> Progress {
        Progress {
            complete,
            rejects_bytes: Some(7),
            ..Progress::default()
        }
    }

    #[test]
    fn a_job_goes_on_only_where_it_is_the_same_and_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        {
            let (checkpoint, none) = Checkpoint::open(&path, &job("b"), true).unwrap();
            assert!(none.is_none());
            checkpoint.write(&progress(false)).unwrap();
        }
        {
            let (_, progress) = Checkpoint::open(&path, &job("b"), true).unwrap();
            assert_eq!(progress.unwrap().rejects_bytes, Some(7));
        }
        assert!(Checkpoint::open(&path, &job("b"), false).unwrap().1.is_none());
        let error = Checkpoint::open(&path, &job("c"), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        let (checkpoint, _) = Checkpoint::open(&path, &job("b"), true).unwrap();
        checkpoint.write(&progress(true)).unwrap();
        drop(checkpoint);
        assert!(Checkpoint::open(&path, &job("b"), true).unwrap().1.is_none());
    }

    #[test]
    fn a_second_run_is_refused_while_the_first_one_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        let first = Checkpoint::open(&path, &job("a"), true).unwrap();
        let error = Checkpoint::open(&path, &job("a"), true).unwrap_err();
        assert!(
            error.message().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        assert!(Checkpoint::open(&path, &job("a"), true).is_ok());
    }

    #[test]
    fn what_is_no_checkpoint_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(
            Checkpoint::open(&path, &job("a"), true).unwrap_err().kind(),
            ErrorKind::Checkpoint
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else");
    }
}
