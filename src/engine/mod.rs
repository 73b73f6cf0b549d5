//! One run: preflight, plan, the pipeline, verification, and what is kept for later runs.

pub mod checkpoint;
mod connect;
mod foretell;
pub mod hits;
mod migrate;
mod pipeline;
mod plan;
mod preflight;
pub mod rejects;
pub mod retry;
pub mod run;
pub mod stats;
mod verify;

pub use connect::{Connected, Counted};
pub use plan::Prepared;

use crate::report::{Event, Reporter, WarningEvent};

/// Warns, unless the same was said before. The report repeats it.
pub(crate) fn warn(stats: &stats::RunStats, reporter: &Reporter, message: String) {
    if !stats.add_warning(&message) {
        return;
    }
    reporter.emit(Event::Warning(WarningEvent { message }));
}

#[cfg(test)]
mod tests;
