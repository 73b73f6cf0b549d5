//! Linux, macOS and other Unix systems.

use std::{
    fs::{File, FileType, Metadata, Permissions, TryLockError},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, fchown},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat, statvfs},
    io::Errno,
    process::{Rlimit, getrlimit, setrlimit},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Resource;
use crate::system::shutdown::StopReason;

/// Gives a new file the mode that the umask allows, instead of a temporary file's private mode.
pub(crate) fn with_usual_mode<'a, 'b>(
    builder: &'a mut tempfile::Builder<'b, 'b>,
) -> &'a mut tempfile::Builder<'b, 'b> {
    builder.permissions(Permissions::from_mode(0o666))
}

/// Gives a new file the owner of the file that it replaces, if this user may do so (usually only root).
pub(crate) fn copy_owner(file: &File, replaced: &Metadata) {
    let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
}

/// Makes a new name in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads at an offset in bytes; the number of bytes read, 0 at the end.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Identifies a version of a file: time of the last modification, and inode.
pub(crate) fn file_version(metadata: &Metadata) -> String {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    format!("{seconds}.{nanoseconds:09}-{}", metadata.ino())
}

/// Identifies an existing file, whatever name led to it: device and inode.
pub(crate) fn node(metadata: &Metadata) -> Option<(u64, u64)> {
    Some((metadata.dev(), metadata.ino()))
}

/// Locks an open file, unless a process has locked it, and checks that it still has this name. If it does, no one else may
/// remove or rename it until it is closed; otherwise the file is not to be used. An error if the file system has no locks.
pub(crate) fn try_own(file: &File, name: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let own = file.metadata()?;
    match name.symlink_metadata() {
        Ok(named) => Ok(node(&named) == node(&own)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this user can create files in a folder.
pub(crate) fn check_folder_writable(folder: &Path) -> io::Result<()> {
    accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).map_err(io::Error::from)
}

/// Bytes available to this user on the disk of a folder; `None` if unknown.
pub(crate) fn free_space(folder: &Path) -> io::Result<Option<u64>> {
    let disk = statvfs(folder)?;
    Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
}

/// Lets a write beyond the limit on file size (`ulimit -f`) fail, instead of a signal ending the process without a report.
pub(crate) fn survive_large_files() {
    // If the signal cannot be caught, it ends the process as before.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Lets this process open as many files at once as the system allows: each workspace of a JSON storage is one, and a
/// shell's default limit is reached by a thousand.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(rustix::process::Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If this fails, a run of many workspaces reports what it lacks.
    let _ = setrlimit(rustix::process::Resource::Nofile, raised);
}

/// Bounds the memory that glibc keeps after it was freed. Other allocators are not affected.
///
/// By default each thread gets an arena of its own, and each keeps what its largest batches needed. A block that is as large
/// as a batch is mapped separately and returned when it is freed, but only the first time: from then on blocks of its size
/// come from the arenas, which they fragment. Smaller blocks, on the other hand, are returned to the system so often that it
/// spends its time on filling the same pages with zeros.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "there is no other way to set these limits in a running program"
)]
pub(crate) fn bound_allocator() {
    const ARENAS: i32 = 2;
    /// Bytes from which a block is mapped separately.
    const LARGE_BLOCK: i32 = 1 << 20;
    /// Free bytes at the end of the heap that are not returned.
    const KEPT: i32 = 2 << 20;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, LARGE_BLOCK),
        (libc::M_TRIM_THRESHOLD, KEPT),
    ] {
        // SAFETY: it takes numbers, sets a parameter of the allocator under its lock, and ignores what it does not know.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn bound_allocator() {}

/// What a path leads to, where that is not a regular file.
pub(crate) fn kind_of(file: FileType) -> &'static str {
    if file.is_dir() {
        "a directory"
    } else if file.is_fifo() {
        "a pipe"
    } else if file.is_socket() {
        "a socket"
    } else if file.is_char_device() || file.is_block_device() {
        "a device"
    } else {
        "not a regular file"
    }
}

/// The resource that ran out, if that caused the error.
pub(crate) fn exhausted(error: &io::Error) -> Option<Resource> {
    let is = |number: Errno| error.raw_os_error() == Some(number.raw_os_error());
    if is(Errno::MFILE) || is(Errno::NFILE) {
        Some(Resource::OpenFiles)
    } else if is(Errno::AGAIN) || is(Errno::NOMEM) {
        Some(Resource::Threads)
    } else {
        None
    }
}

/// The signals that stop a run.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Installs the handlers.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> StopReason {
        tokio::select! {
            _ = self.interrupt.recv() => StopReason::Interrupted,
            _ = self.terminate.recv() => StopReason::Terminated,
        }
    }
}

/// The mode of the terminal on standard input, restored on drop.
pub(crate) struct TerminalMode(Option<Termios>);

impl TerminalMode {
    pub(crate) fn keep() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for TerminalMode {
    fn drop(&mut self) {
        if let Some(mode) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, mode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_resource_is_identified() {
        let exhausted = |number: Errno| exhausted(&io::Error::from_raw_os_error(number.raw_os_error()));
        assert_eq!(exhausted(Errno::MFILE), Some(Resource::OpenFiles));
        assert_eq!(exhausted(Errno::AGAIN), Some(Resource::Threads));
        assert_eq!(exhausted(Errno::NOENT), None);
    }

    #[test]
    fn a_file_has_one_owner_and_none_without_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("file");
        let first = File::create(&name).unwrap();
        let second = File::open(&name).unwrap();
        assert!(try_own(&first, &name).unwrap());
        assert!(!try_own(&second, &name).unwrap());
        drop(first);
        assert!(try_own(&second, &name).unwrap());
        std::fs::remove_file(&name).unwrap();
        assert!(!try_own(&second, &name).unwrap());
        // Another file has the name.
        let third = File::create(&name).unwrap();
        assert!(!try_own(&second, &name).unwrap());
        assert!(try_own(&third, &name).unwrap());
    }
}
