//! Keeping runs apart that write the same file.
//!
//! Every file that a run makes beside the one that it will replace is locked by that run. The system removes the locks of a
//! process that is killed, so a file without a lock is a leftover. Only the owner of a lock removes or renames the file, and
//! only if the file still has its name (see [`os::try_own`]).

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::NamedTempFile;

use crate::{
    model::{Error, ErrorKind, Result},
    system::os,
};

/// How often a new file is made again because another run has removed it. With more, the file system is to blame.
const MOST_TRIES: usize = 8;

/// How long a run waits for others that replace the same file. Merging one of some gigabytes takes minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How often a lock is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// What the names of all files beside this one begin with.
fn prefix(path: &Path) -> OsString {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".tmp.migrate-");
    prefix
}

/// Makes a file beside the one that it will replace, and locks it. The flag is false if that is not possible here.
///
/// # Errors
/// The file cannot be made.
pub(super) fn new_sibling(path: &Path, folder: &Path) -> io::Result<(NamedTempFile, bool)> {
    let prefix = prefix(path);
    let mut tries = 1;
    loop {
        let sibling = os::with_usual_mode(tempfile::Builder::new().prefix(&prefix)).tempfile_in(folder)?;
        match os::try_own(sibling.as_file(), sibling.path()) {
            // Another run took it for a leftover before it was locked.
            Ok(false) if tries < MOST_TRIES => tries += 1,
            is_own => return Ok((sibling, is_own.unwrap_or(false))),
        }
    }
}

/// Removes what runs left that were killed while they wrote this file.
pub(super) fn remove_leftovers(path: &Path, folder: &Path) {
    let prefix = prefix(path);
    let prefix = prefix.as_encoded_bytes();
    // A leftover that cannot be removed costs nothing but space.
    let entries = folder.read_dir().into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix)) {
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let leftover = entry.path();
        // Network file systems lock only what is open for writing.
        let Ok(file) = OpenOptions::new().write(true).open(&leftover) else {
            continue;
        };
        if os::try_own(&file, &leftover).unwrap_or(false) {
            let removed = std::fs::remove_file(&leftover);
            tracing::debug!(file = %leftover.display(), ?removed, "a file that a killed run left");
        }
    }
}

/// The right to replace a file, which one run has at a time. It is a lock on a file of its own, since the file to be replaced
/// may not exist.
#[derive(Debug)]
pub(crate) struct ReplaceLock {
    path: PathBuf,
    _file: File,
}

impl ReplaceLock {
    /// Waits for it; `None` if the file system has no locks, or the lock belongs to another user.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: another run does not get done.
    pub(super) fn wait(target: &Path) -> Result<Option<Self>> {
        let mut name = prefix(target);
        name.push("lock");
        let path = target.with_file_name(name);
        let started = Instant::now();
        loop {
            let open = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path);
            let Ok(file) = open else {
                return Ok(None);
            };
            match os::try_own(&file, &path) {
                Ok(true) => return Ok(Some(Self { path, _file: file })),
                // Another run has it, or has just removed it.
                Ok(false) => {}
                Err(_) => {
                    let _ = std::fs::remove_file(&path);
                    return Ok(None);
                }
            }
            if started.elapsed() >= LONGEST_WAIT {
                let message = format!(
                    "another run has been replacing {} for {}",
                    target.display(),
                    humantime::format_duration(LONGEST_WAIT)
                );
                return Err(Error::new(ErrorKind::Busy, message)
                    .with_remedy("wait for the other run, or end it; then run the same command again"));
            }
            thread::sleep(TRY_EVERY);
        }
    }
}

impl Drop for ReplaceLock {
    fn drop(&mut self) {
        // The file is closed, and with it the lock released, afterwards.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::sync::mpsc;

    use super::{super::Draft, *};

    fn names(folder: &Path) -> Vec<String> {
        let entries = folder.read_dir().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_killed_runs_left_is_removed_and_what_running_ones_write_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let kept = [
            "a.jsonl",
            "a.jsonl.tmp.1234",
            "a.jsonl.tmp.migrate-folder",
            "b.jsonl.tmp.migrate-killed",
        ];
        let left = ["a.jsonl.tmp.migrate-killed", "a.jsonl.tmp.migrate-lock"];
        std::fs::create_dir(folder.path().join(kept[2])).unwrap();
        for name in kept.iter().chain(&left).filter(|name| **name != kept[2]) {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let first = Draft::begin(&path).unwrap();
        assert_eq!(names(folder.path()).len(), kept.len() + 1);
        let lock = first.replace_lock().unwrap().unwrap();
        let second = Draft::begin(&path).unwrap();
        assert_eq!(names(folder.path()).len(), kept.len() + 3);
        second.publish(None).unwrap();
        first.publish(None).unwrap();
        drop(lock);
        assert_eq!(names(folder.path()), kept);
    }

    #[test]
    fn one_run_at_a_time_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let first = ReplaceLock::wait(&path).unwrap().unwrap();
        let (sender, owned) = mpsc::channel();
        let waiting = thread::spawn(move || {
            let second = ReplaceLock::wait(&path).unwrap().unwrap();
            sender.send(()).unwrap();
            drop(second);
        });
        assert!(owned.recv_timeout(Duration::from_millis(100)).is_err());
        drop(first);
        owned.recv().unwrap();
        waiting.join().unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
