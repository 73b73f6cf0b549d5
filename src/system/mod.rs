//! Operating system services: atomic files, limits, signals, threads.

pub mod atomic_file;
pub mod limits;
mod off_thread;
pub(crate) mod os;
pub mod shutdown;

pub(crate) use off_thread::off_thread;
