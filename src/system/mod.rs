//! Operating system services: atomic files, identities of files, limits, signals, threads.

pub mod atomic_file;
mod file_identity;
pub mod limits;
mod off_thread;
pub(crate) mod os;
pub mod shutdown;

pub(crate) use file_identity::{FileIdentity, real_path};
pub(crate) use off_thread::off_thread;
