//! The output of a run: events while it runs, one report at the end.

mod document;
mod event;
mod human;
pub mod logging;
pub mod merge;
pub mod metrics;
mod outcome;
mod reporter;
pub(crate) mod style;

pub use document::{
    BatchTotals, Difference, DifferenceKind, ErrorSample, ErrorTotals, ReadBackReport, Rehearsal, Report,
    Status, Totals, Verification, VerifyNumbers, WorkspaceReport, percent,
};
pub use event::{
    BatchEvent, BatchStatus, CheckpointEvent, CountEvent, CountProgressEvent, Envelope, Event, HitsEvent,
    PlanEvent, PlanOptions, PlanSettings, RejectEvent, RetryEvent, RunStarted, SCHEMA_VERSION, SettingOrigin,
    VerifyEvent, WarningEvent, WarningKind, event_schema,
};
pub(crate) use human::{Row, hits_sentence, pair_name, table};
pub use human::{Stderr, Verbosity};
pub use outcome::{RunNumbers, RunOutcome, TargetUse};
pub use reporter::{Output, Reporter};
pub use style::Palette;

/// The name of the program.
pub const TOOL: &str = env!("CARGO_PKG_NAME");

/// The version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The name of a unit variant in events and reports.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    text.trim_matches('"').to_owned()
}
