//! The checkpoint file: the progress of a job, from which a later run resumes.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use super::{rejects::RejectsFile, stats::RunStats};
use crate::{
    model::{CacheType, Error, ErrorKind, Result, Workspace},
    report::{BatchTotals, CheckpointEvent, ErrorTotals, Event, Reporter, Totals},
    storage::Cursor,
    system::atomic_file,
};

/// The minimum interval between checkpoints while a run goes on. Each one needs a flush of the target and two writes to
/// disk, and contains every workspace so far.
const EVERY: Duration = Duration::from_secs(1);

/// Raised by a change after which older versions must not read the file.
const FORMAT: u32 = 1;

/// The progress of a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The workspaces, in the order of the job.
    pub workspaces: Vec<WorkspaceProgress>,
    /// The numbers of the job so far.
    #[serde(flatten)]
    pub job: JobTotals,
    /// Whether the job is done.
    pub complete: bool,
}

/// The numbers of a job that are not of one workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTotals {
    /// The numbers of batches so far.
    pub batches: BatchTotals,
    /// The errors so far.
    pub errors: ErrorTotals,
    /// The length of the rejects file in bytes, if there is one. A resumed run truncates the file to this length.
    pub rejects_bytes: Option<u64>,
}

/// What earlier runs did in a workspace, and where the next one continues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceProgress {
    /// The workspace of the source.
    pub from: String,
    /// The workspace of the target.
    pub to: String,
    /// Where reading resumes; `None` for the beginning.
    pub cursor: Option<Cursor>,
    /// The numbers of the job when the workspace was started, to which a run returns that restarts it; `None` unless reading
    /// resumes in it.
    pub at_start: Option<JobTotals>,
    /// Whether the workspace is done.
    pub complete: bool,
    /// The number of batches so far.
    pub batches: u64,
    /// The numbers so far.
    pub totals: Totals,
    /// These numbers by cache type.
    pub by_cache_type: BTreeMap<CacheType, Totals>,
}

impl WorkspaceProgress {
    /// Resets the workspace, so that a later run starts it from the beginning.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            from: std::mem::take(&mut self.from),
            to: std::mem::take(&mut self.to),
            ..Self::default()
        };
    }
}

/// The progress within one workspace. Together with the finished workspaces before it, this is the progress of the job.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The index of the workspace in the job, from 0.
    pub(crate) number: usize,
    pub(crate) name: Workspace,
    pub(crate) workspace: WorkspaceProgress,
    pub(crate) job: JobTotals,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    tool: String,
    /// A digest of the job.
    job: String,
    #[serde(flatten)]
    progress: Progress,
}

/// A checkpoint file, locked by this run.
///
/// The lock is on a file next to it, because the checkpoint is replaced on every write. The operating system releases it
/// when the process ends.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    job: String,
    /// When the file was last written, or opened.
    written: Mutex<Instant>,
    /// The last finished workspace, if it is not in the file yet because the last checkpoint was too recent.
    deferred: Mutex<Option<Snapshot>>,
    _lock: File,
}

impl Checkpoint {
    /// Locks the file for a job and reads its progress. There is none if the file does not exist, if the job is complete, or
    /// without `resume`.
    ///
    /// `job` identifies the job: source, target, workspaces, types and policies.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`]: the file belongs to another job, is locked by another run, or cannot be read.
    pub fn open(path: &Path, job: &[String], resume: bool) -> Result<(Self, Option<Progress>)> {
        let lock = lock(path)?;
        let checkpoint = Self {
            path: path.to_owned(),
            job: format!("{:032x}", xxh3_128(job.join("\0").as_bytes())),
            written: Mutex::new(Instant::now()),
            deferred: Mutex::default(),
            _lock: lock,
        };
        let progress = checkpoint.read()?.filter(|progress| resume && !progress.complete);
        Ok((checkpoint, progress))
    }

    /// Checks that a checkpoint could be written, without changing anything.
    ///
    /// # Errors
    /// The folder is missing or not writable, or the path is not a file.
    pub fn check(path: &Path) -> Result<()> {
        atomic_file::check(path).map_err(|error| unwritable(path, &error))
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
                    "make it readable, or choose another file",
                );
            }
        };
        let content: Content = match serde_json::from_slice(&text) {
            Ok(content) => content,
            Err(error) => {
                let what = format!("is not a checkpoint: {error}");
                return refused(
                    what,
                    "choose another file, or remove this one to start from the beginning",
                );
            }
        };
        if content.format != FORMAT {
            let what = format!("has format {}; this version supports {FORMAT}", content.format);
            return refused(
                what,
                "finish with the version that wrote it, or remove the file to start from the beginning",
            );
        }
        if content.job != self.job {
            return refused(
                "belongs to another job".to_owned(),
                "choose another file for this job; source, target, workspaces, types and policies identify a job",
            );
        }
        Ok(Some(content.progress))
    }

    /// Whether the last checkpoint is old enough for the next one.
    pub(crate) fn is_due(&self) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.elapsed() >= EVERY
    }

    /// Remembers a finished workspace until the next checkpoint, which will contain it.
    pub(crate) fn defer(&self, snapshot: Snapshot) {
        *self.deferred.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    /// The last finished workspace, if no checkpoint contains it yet.
    fn take_deferred(&self) -> Option<Snapshot> {
        self.deferred
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Writes the progress up to a snapshot and emits the event of it.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub(crate) fn save(
        &self,
        snapshot: Snapshot,
        stats: &RunStats,
        rejects: Option<&RejectsFile>,
        reporter: &Reporter,
    ) -> Result<()> {
        let event = CheckpointEvent {
            file: self.path.display().to_string(),
            workspace: snapshot.name.clone(),
            batch: snapshot.workspace.batches,
            done: snapshot.workspace.totals.done(),
        };
        self.write(&stats.progress_at(snapshot), rejects)?;
        reporter.emit(Event::Checkpoint(event));
        Ok(())
    }

    /// Writes the progress up to the last finished workspace, if no checkpoint contains it yet.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub(crate) fn save_deferred(
        &self,
        stats: &RunStats,
        rejects: Option<&RejectsFile>,
        reporter: &Reporter,
    ) -> Result<()> {
        match self.take_deferred() {
            Some(snapshot) => self.save(snapshot, stats, rejects, reporter),
            None => Ok(()),
        }
    }

    /// Writes a checkpoint without progress if there is one that this run does not resume. Otherwise a later run would
    /// resume from it, although the files that belong to it were started again.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub(crate) fn reset(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.write(&Progress::default(), None)
    }

    /// Replaces the file atomically. It then contains a deferred workspace, too. The rejects file is made durable first,
    /// since the checkpoint contains its length.
    ///
    /// # Errors
    /// A file cannot be written. The run must end then, or a later run would resume at the wrong place.
    pub fn write(&self, progress: &Progress, rejects: Option<&RejectsFile>) -> Result<()> {
        if let Some(rejects) = rejects {
            rejects.flush()?;
        }
        let content = Content {
            format: FORMAT,
            tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
            job: self.job.clone(),
            progress: progress.clone(),
        };
        let text = serde_json::to_vec_pretty(&content).map_err(|error| {
            Error::new(ErrorKind::Internal, "a checkpoint has no JSON form").caused_by(error)
        })?;
        atomic_file::replace(&self.path, &text).map_err(|error| unwritable(&self.path, &error))?;
        self.take_deferred();
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File> {
    let lock = atomic_file::lock_of(path);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&lock)
        .map_err(|error| unwritable(path, &error))?;
    match file.try_lock() {
        Ok(()) => {
            // The process ID is only for error messages.
            let _ = file
                .set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&lock).unwrap_or_default();
            let message = format!(
                "another run (process {}) has locked the checkpoint {}",
                holder.trim(),
                path.display()
            );
            Err(Error::new(ErrorKind::Checkpoint, message)
                .with_remedy("wait until it has ended, or choose another file"))
        }
        Err(TryLockError::Error(error)) => Err(unwritable(path, &error)),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Checkpoint,
        format!("cannot write the checkpoint {}: {error}", path.display()),
    )
    .with_remedy("pass a path in a writable folder to --checkpoint")
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
            job: JobTotals {
                rejects_bytes: Some(7),
                ..JobTotals::default()
            },
            ..Progress::default()
        }
    }

    #[test]
    fn only_the_same_incomplete_job_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        {
            let (checkpoint, none) = Checkpoint::open(&path, &job("b"), true).unwrap();
            assert!(none.is_none());
            checkpoint.write(&progress(false), None).unwrap();
        }
        {
            let (_, progress) = Checkpoint::open(&path, &job("b"), true).unwrap();
            assert_eq!(progress.unwrap().job.rejects_bytes, Some(7));
        }
        assert!(Checkpoint::open(&path, &job("b"), false).unwrap().1.is_none());
        let error = Checkpoint::open(&path, &job("c"), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        let (checkpoint, _) = Checkpoint::open(&path, &job("b"), true).unwrap();
        checkpoint.write(&progress(true), None).unwrap();
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
    fn a_file_that_is_not_a_checkpoint_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(
            Checkpoint::open(&path, &job("a"), true).unwrap_err().kind(),
            ErrorKind::Checkpoint
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else");
    }

    #[test]
    fn a_checkpoint_that_cannot_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        std::fs::create_dir(&path).unwrap();
        let error = Checkpoint::open(&path, &job("a"), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        assert!(error.message().contains("cannot be read"), "{error}");
    }
}
