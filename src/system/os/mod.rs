//! What differs by operating system. Everything outside of this folder is portable; `unix` and `windows` have the same
//! items.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// A resource of the system that a process can run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    OpenFiles,
    Threads,
}
