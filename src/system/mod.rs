//! Operating system services: atomic files, limits, signals.

pub mod atomic_file;
pub mod limits;
pub(crate) mod os;
pub mod shutdown;
