//! What the operating system does for a run: replacing files in one step, signals.

pub mod atomic_file;
pub mod shutdown;
