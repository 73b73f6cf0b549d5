//! One run: preflight, plan, the pipeline, verification, and what is kept for later runs.

pub mod checkpoint;
mod connect;
pub(crate) mod differences;
mod foretell;
pub mod hits;
mod migrate;
mod pipeline;
mod plan;
mod preflight;
mod read_back;
mod rehearse;
pub mod rejects;
pub mod retry;
pub mod run;
pub mod stats;
mod throttle;
mod verify;

pub use connect::{Connected, Counted};
pub use plan::Prepared;

use crate::report::{Event, Reporter, WarningEvent};

/// Warns, unless the same was said before. The report repeats it.
pub(crate) fn warn(stats: &stats::RunStats, reporter: &Reporter, warning: WarningEvent) {
    if stats.add_warning(&warning.message) {
        reporter.emit(Event::Warning(warning));
    }
}

#[cfg(test)]
mod tests;
