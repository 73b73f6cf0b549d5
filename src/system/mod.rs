//! What the operating system does for a run: replacing files in one step, limits, signals.

pub mod atomic_file;
pub mod limits;
pub(crate) mod os;
pub mod shutdown;
