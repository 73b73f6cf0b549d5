//! Windows.

use std::{
    fs::{File, FileType, Metadata},
    io,
    os::windows::fs::{FileExt, MetadataExt},
    path::Path,
};

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};

use super::Resource;
use crate::system::shutdown::StopReason;

/// `ERROR_TOO_MANY_OPEN_FILES`.
const TOO_MANY_OPEN_FILES: i32 = 4;

/// Windows gives a new file the permissions of its folder.
pub(crate) fn with_usual_mode<'a, 'b>(
    builder: &'a mut tempfile::Builder<'b, 'b>,
) -> &'a mut tempfile::Builder<'b, 'b> {
    builder
}

/// Files have the owner that the folder gives them.
pub(crate) fn copy_owner(_file: &File, _replaced: &Metadata) {}

/// A folder cannot be flushed; NTFS keeps a journal of names.
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Reads at an offset in bytes; the number of bytes read, 0 at the end.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

/// What tells a file from itself after a change: the times of the last change and of its creation.
pub(crate) fn file_version(metadata: &Metadata) -> String {
    format!("{}-{}", metadata.last_write_time(), metadata.creation_time())
}

/// The standard library does not identify files.
pub(crate) fn node(_metadata: &Metadata) -> Option<(u64, u64)> {
    None
}

/// A lock would keep this process itself from reading the file through another handle.
pub(crate) fn try_own(_file: &File, _name: &Path) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Only creating a file would tell.
pub(crate) fn check_folder_writable(folder: &Path) -> io::Result<()> {
    tempfile::Builder::new()
        .prefix(".check-")
        .tempfile_in(folder)
        .map(drop)
}

/// The standard library does not tell.
pub(crate) fn free_space(_folder: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

/// There is no such limit.
pub(crate) fn survive_large_files() {}

/// A process may open as many files as there is memory for.
pub(crate) fn raise_open_files() {}

pub(crate) fn bound_allocator() {}

/// What a path leads to, where that is not a regular file.
pub(crate) fn kind_of(file: FileType) -> &'static str {
    if file.is_dir() {
        "a directory"
    } else {
        "not a regular file"
    }
}

/// The resource that the system had no more of, where that is what an error says.
pub(crate) fn exhausted(error: &io::Error) -> Option<Resource> {
    (error.raw_os_error() == Some(TOO_MANY_OPEN_FILES)).then_some(Resource::OpenFiles)
}

/// What asks a process to stop: Ctrl-C and Ctrl-Break; closing the window and shutting down.
pub(crate) struct StopSignals {
    interrupt: CtrlC,
    ctrl_break: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl StopSignals {
    /// Begins to catch them.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            ctrl_break: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> StopReason {
        tokio::select! {
            _ = self.interrupt.recv() => StopReason::Interrupted,
            _ = self.ctrl_break.recv() => StopReason::Interrupted,
            _ = self.close.recv() => StopReason::Terminated,
            _ = self.shutdown.recv() => StopReason::Terminated,
        }
    }
}

/// The console restores its mode by itself.
pub(crate) struct TerminalMode;

impl TerminalMode {
    pub(crate) fn keep() -> Self {
        Self
    }
}
