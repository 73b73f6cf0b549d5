//! The events: one JSON object per line.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use super::{Report, VerifyNumbers};
use crate::model::{
    CacheType, ForetoldHits, LeftOutRecords, Location, Mode, OnConflict, Rekey, Selection, Side, VerifyLevel,
    Workspace, WorkspacePair, record::OnInvalid,
};

/// Raised by a change that breaks existing readers.
pub const SCHEMA_VERSION: u32 = 1;

/// The fields of every event.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Envelope<'a> {
    /// The version of this format.
    pub schema_version: u32,
    /// The number of the event in its run, from 0, without gaps.
    pub seq: u64,
    /// The time: RFC 3339, UTC, to the millisecond.
    pub ts: String,
    /// The ID of the run: a UUID, version 7.
    pub run_id: String,
    /// The event as a sentence.
    pub message: String,
    /// The event and its own fields.
    #[serde(flatten)]
    pub event: &'a Event,
}

/// What happened; the name is in `event`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first line, always.
    RunStarted(RunStarted),
    /// What the run will do.
    Plan(PlanEvent),
    /// How far a count has come.
    CountProgress(CountProgressEvent),
    /// A count is done.
    Count(CountEvent),
    /// A batch is done.
    Batch(BatchEvent),
    /// A request failed and will be retried.
    Retry(RetryEvent),
    /// A record cannot be moved.
    Reject(RejectEvent),
    /// A checkpoint was written.
    Checkpoint(CheckpointEvent),
    /// Which records of a workspace LightRAG will use.
    Hits(HitsEvent),
    /// A verification of a workspace is in progress or done.
    Verify(VerifyEvent),
    /// Something that the user should know; the run continues.
    Warning(WarningEvent),
    /// The last line, always.
    Report(Box<Report>),
}

/// Identifies program, process and mode.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunStarted {
    /// The name of the program.
    pub tool: String,
    /// The version of the program.
    pub version: String,
    /// The ID of the process.
    pub pid: u32,
    /// What the run will do.
    pub mode: Mode,
}

/// What the run will do.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanEvent {
    /// The storage that is read.
    pub source: Location,
    /// The storage that is written.
    pub target: Location,
    /// The settings of both sides, and the origin of each.
    pub settings: PlanSettings,
    /// The workspaces, in the order of the run.
    pub workspaces: Vec<WorkspacePair>,
    /// The selected cache types.
    pub types: Selection,
    /// The effective options.
    pub options: PlanOptions,
}

/// The settings of both sides.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanSettings {
    /// The settings of the source.
    pub source: Vec<SettingOrigin>,
    /// The settings of the target.
    pub target: Vec<SettingOrigin>,
}

/// One setting of a connection; a secret has no value here.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SettingOrigin {
    /// The name in the job file.
    pub name: String,
    /// The value; null if it may contain a secret.
    pub value: Option<String>,
    /// A flag, a path and a line of the job file, a variable, a line of `.env` or `config.ini`, or the default.
    pub origin: String,
}

/// The effective options.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanOptions {
    /// What happens to records whose keys the target already has.
    pub on_conflict: OnConflict,
    /// What happens to a record that the target could store if one invalid character were removed.
    pub on_invalid: OnInvalid,
    /// The most records per batch.
    pub batch_records: u64,
    /// The most bytes per batch.
    pub batch_bytes: u64,
    /// The most batches written at the same time.
    pub concurrency: u64,
    /// The shard of the source that is moved, as `0/4`; null for everything.
    pub shard: Option<String>,
    /// The most records or bytes moved per second; null for no limit.
    pub rate_limit: Option<String>,
    /// The most retries of a request.
    pub retries: u64,
    /// The time limit of a request, in milliseconds.
    pub timeout_ms: u64,
    /// The time limit of the run, in milliseconds; null for no limit.
    pub max_duration_ms: Option<u64>,
    /// The most rejected records, as a number or in percent; null for no limit.
    pub max_errors: Option<String>,
    /// How thoroughly source and target are compared after the run.
    pub verify: VerifyLevel,
    /// The checkpoint file; null for none.
    pub checkpoint: Option<String>,
    /// Whether the run resumes from the checkpoint.
    pub resume: bool,
    /// The rejects file; null for none.
    pub rejects: Option<String>,
    /// The differences file; null for none.
    pub differences: Option<String>,
    /// Whether the intact records before the damage in a damaged file are moved.
    pub salvage: bool,
    /// Whether the run reports which records LightRAG will find.
    pub hits: bool,
    /// Which records are copied to the key that LightRAG uses.
    pub rekey: Rekey,
    /// Whether writing was confirmed with `--yes`.
    pub yes: bool,
    /// Whether it is an error if there is nothing to migrate.
    pub fail_on_empty: bool,
    /// Whether a workspace may be missing in the source.
    pub allow_missing: bool,
}

/// How far a count that scans records has come.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CountProgressEvent {
    /// The side that is counted.
    pub side: Side,
    /// The workspace that is counted.
    pub workspace: Workspace,
    /// Entries scanned so far.
    pub scanned: u64,
}

/// A count is done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CountEvent {
    /// The side that was counted.
    pub side: Side,
    /// The workspace that was counted.
    pub workspace: Workspace,
    /// Records of the selected types.
    pub records: u64,
    /// These records by type.
    pub by_cache_type: BTreeMap<CacheType, u64>,
    /// What exists but is not selected, by mode and type; null if unknown.
    pub left_out: Option<Vec<LeftOutRecords>>,
    /// Whether the number is exact, not an estimate.
    pub exact: bool,
    /// The duration of the count, in milliseconds.
    pub duration_ms: u64,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Every record was written or skipped.
    Ok,
    /// Some records were rejected.
    Partial,
    /// An error occurred; it is unknown which records were written.
    Failed,
}

/// A batch is done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BatchEvent {
    /// The workspace of the source.
    pub workspace: Workspace,
    /// The number of the batch in its workspace, from 1.
    pub batch: u64,
    /// The expected number of batches, from the count and the most records per batch; never less than `batch`.
    pub batches: u64,
    /// Entries in the batch, including invalid ones.
    pub records: u64,
    /// Written records.
    pub written: u64,
    /// Records that the target already had and that were not written.
    pub skipped: u64,
    /// Rejected entries.
    pub rejected: u64,
    /// Bytes of written keys and values.
    pub bytes: u64,
    /// The type of the first record; null for a batch without records.
    pub cache_type: Option<CacheType>,
    /// Entries in the batch by type.
    pub by_cache_type: BTreeMap<CacheType, u64>,
    /// The result of the batch.
    pub status: BatchStatus,
    /// The duration of the batch, in milliseconds.
    pub duration_ms: u64,
    /// Entries of the workspace that are done so far.
    pub done: u64,
    /// Entries of the workspace, as counted.
    pub total: u64,
    /// `done` in percent of `total`.
    pub percent: f64,
    /// Entries of all workspaces that are done so far, including those of an earlier run.
    pub run_done: u64,
    /// Entries of all workspaces, as counted.
    pub run_total: u64,
    /// The duration of the run so far, in milliseconds.
    pub elapsed_ms: u64,
    /// The estimated time to move the rest, in milliseconds; null while unknown.
    pub remaining_ms: Option<u64>,
}

/// An entry cannot be moved.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RejectEvent {
    /// The workspace of the source.
    pub workspace: Workspace,
    /// The number of the batch, from 1.
    pub batch: u64,
    /// The key of the entry.
    pub key: String,
    /// The kind of reason.
    pub kind: crate::model::record::RejectKind,
    /// The reason as text.
    pub reason: String,
}

/// A request failed and will be retried.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RetryEvent {
    /// The side of the request.
    pub side: Side,
    /// The workspace; null if the request belongs to none.
    pub workspace: Option<Workspace>,
    /// The number of the batch, from 1; null if the request belongs to none.
    pub batch: Option<u64>,
    /// What failed, as in `writing a batch`.
    pub operation: String,
    /// Failed attempts so far.
    pub attempt: u64,
    /// The most retries.
    pub retries: u64,
    /// The time until the next attempt, in milliseconds.
    pub wait_ms: u64,
    /// The kind of the error.
    pub kind: String,
    /// The error: the message of the event.
    #[serde(skip)]
    pub message: String,
}

/// A checkpoint was written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CheckpointEvent {
    /// The path of the checkpoint file.
    pub file: String,
    /// The workspace of the source.
    pub workspace: Workspace,
    /// Durable batches of the workspace.
    pub batch: u64,
    /// Entries of the workspace that are done.
    pub done: u64,
}

/// A verification of a workspace is in progress or done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VerifyEvent {
    /// The workspace of the source.
    pub workspace: Workspace,
    /// Whether the verification of the workspace is done.
    pub complete: bool,
    /// The numbers so far.
    #[serde(flatten)]
    pub numbers: VerifyNumbers,
    /// Records of the source that were read so far. A sample compares only some of them.
    pub done: u64,
    /// Records of the source, as counted.
    pub total: u64,
    /// The duration of the verification of the workspace so far, in milliseconds.
    pub elapsed_ms: u64,
    /// The estimated time that is left, in milliseconds; null while unknown.
    pub remaining_ms: Option<u64>,
}

/// Which records of a workspace LightRAG will use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HitsEvent {
    /// The workspace of the source.
    pub workspace: Workspace,
    /// The numbers of the workspace.
    #[serde(flatten)]
    pub foretold: ForetoldHits,
}

/// What the user should know, and which part of the run it concerns.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WarningEvent {
    /// What the warning is about.
    pub kind: WarningKind,
    /// The workspace of the source; null if the warning is not about one.
    pub workspace: Option<Workspace>,
    /// The field of records; null if the warning is not about one.
    pub field: Option<String>,
    /// The number of affected records; null if unknown or not applicable.
    pub count: Option<u64>,
    /// The text: the message of the event.
    #[serde(skip)]
    pub message: String,
}

impl WarningEvent {
    /// A warning without workspace, field and count.
    pub fn new(kind: WarningKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            workspace: None,
            field: None,
            count: None,
            message: message.into(),
        }
    }

    /// Sets the workspace.
    #[must_use]
    pub fn in_workspace(mut self, workspace: &Workspace) -> Self {
        self.workspace = Some(workspace.clone());
        self
    }

    /// Sets the field.
    #[must_use]
    pub fn of_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Sets the number of affected records.
    #[must_use]
    pub fn of_records(mut self, records: u64) -> Self {
        self.count = Some(records);
        self
    }
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// A settings file, or a line of it, may be read differently than intended.
    Configuration,
    /// A storage, or its configuration.
    Storage,
    /// The target may change, redirect or lose what is written to it.
    Target,
    /// The workspace may not be the intended one.
    Workspace,
    /// A workspace cannot be read and is not migrated.
    Unreadable,
    /// The source is damaged, and the records after the damage are lost.
    Damaged,
    /// A selection matches nothing.
    NothingSelected,
    /// The target cannot store a field.
    DroppedField,
    /// Records lacked a field, which was filled in on the target.
    FilledField,
    /// Another process wrote to the source while it was read.
    SourceChanged,
    /// Another process removed records from the target while it was written.
    TargetChanged,
    /// The metrics of the run could not be pushed.
    MetricsPush,
}

/// The JSON Schema of an event.
pub fn event_schema() -> Schema {
    schema_for!(Envelope<'_>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_the_repository_is_the_one_of_the_types() {
        let made = serde_json::to_string_pretty(&event_schema()).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/events.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == made,
            "run `UPDATE_SCHEMA=1 cargo test --lib schema` and review the diff"
        );
    }
}
