//! What comes out: events while a run goes on, one report at its end.

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
pub(crate) use human::hits_sentence;
pub use human::{Stderr, Verbosity};
pub use outcome::{RunNumbers, RunOutcome, TargetUse};
pub use reporter::{Output, Reporter};
pub use style::Palette;

/// The name under which the program presents itself.
pub const TOOL: &str = env!("CARGO_PKG_NAME");

/// Its version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The word that events and reports have for a value.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    text.trim_matches('"').to_owned()
}
