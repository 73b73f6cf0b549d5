//! One run: preflight, plan, pipeline, verification, and the files that later runs read.

pub mod checkpoint;
mod connect;
pub(crate) mod differences;
mod foretell;
pub mod hits;
mod migrate;
mod pipeline;
mod plan;
mod preflight;
#[cfg(feature = "push")]
pub(crate) mod push;
mod read_back;
mod rehearse;
pub mod rejects;
pub mod retry;
pub mod run;
mod slots;
pub mod stats;
mod throttle;
mod verify;

pub use connect::{Connected, Counted};
pub use plan::Prepared;

use crate::report::{Event, Reporter, WarningEvent};

/// Emits a warning, unless the same one was emitted before, and adds it to the report.
pub(crate) fn warn(stats: &stats::RunStats, reporter: &Reporter, warning: WarningEvent) {
    if stats.add_warning(&warning.message) {
        reporter.emit(Event::Warning(warning));
    }
}

#[cfg(test)]
mod tests;
