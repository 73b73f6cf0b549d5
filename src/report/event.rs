//! The events: one JSON object a line.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use super::{Report, VerifyNumbers};
use crate::model::{
    CacheType, ForetoldHits, LeftOutRecords, Location, Mode, OnConflict, Rekey, Selection, Side, VerifyLevel,
    Workspace, WorkspacePair, record::OnInvalid,
};

/// Raised when a reader of the events would have to change.
pub const SCHEMA_VERSION: u32 = 1;

/// What every event carries.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Envelope<'a> {
    /// The version of this format.
    pub schema_version: u32,
    /// The number of the event in its run, from 0, without gaps.
    pub seq: u64,
    /// When, RFC 3339, UTC, to the millisecond.
    pub ts: String,
    /// The run: a UUID, version 7.
    pub run_id: String,
    /// The event in a sentence for a person.
    pub message: String,
    /// What happened.
    #[serde(flatten)]
    pub event: &'a Event,
}

/// What happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first line, always.
    RunStarted(RunStarted),
    /// What the run is going to do.
    Plan(PlanEvent),
    /// A count is under way.
    CountProgress(CountProgressEvent),
    /// A count is done.
    Count(CountEvent),
    /// A batch is done.
    Batch(BatchEvent),
    /// Something failed and is tried again.
    Retry(RetryEvent),
    /// An entry cannot be moved.
    Reject(RejectEvent),
    /// How far the run came is on the disk.
    Checkpoint(CheckpointEvent),
    /// What LightRAG will find of a workspace.
    Hits(HitsEvent),
    /// A verification of a workspace is under way or done.
    Verify(VerifyEvent),
    /// Something that a person should know.
    Warning(WarningEvent),
    /// The last line, always.
    Report(Box<Report>),
}

/// The run begins.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunStarted {
    /// The program.
    pub tool: String,
    /// Its version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// What it is to do.
    pub mode: Mode,
}

/// What the run is going to do.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanEvent {
    /// What is read.
    pub source: Location,
    /// What is written.
    pub target: Location,
    /// The settings of both sides, and where each came from.
    pub settings: PlanSettings,
    /// The workspaces.
    pub workspaces: Vec<WorkspacePair>,
    /// The cache types.
    pub types: Selection,
    /// The options in force.
    pub options: PlanOptions,
}

/// The settings of both sides.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanSettings {
    /// Those of the source.
    pub source: Vec<SettingOrigin>,
    /// Those of the target.
    pub target: Vec<SettingOrigin>,
}

/// A setting and where it came from.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SettingOrigin {
    /// The name in the job file.
    pub name: String,
    /// The value; null for one that may hold a secret.
    pub value: Option<String>,
    /// A flag, a path and a line of the job file, a variable, a line of `.env` or `config.ini`, or the default.
    pub origin: String,
}

/// The options in force.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanOptions {
    /// What happens to keys that the target has.
    pub on_conflict: OnConflict,
    /// What happens to records that the target could hold if a character went.
    pub on_invalid: OnInvalid,
    /// Records in a batch.
    pub batch_records: u64,
    /// Bytes in a batch.
    pub batch_bytes: u64,
    /// Batches under way at once.
    pub concurrency: u64,
    /// The share of the source that is moved, as `0/4`; null for everything.
    pub shard: Option<String>,
    /// How much is moved a second, at most; null for as much as passes.
    pub rate_limit: Option<String>,
    /// How often a request is tried again.
    pub retries: u64,
    /// How long a request may take, in milliseconds.
    pub timeout_ms: u64,
    /// How long the run may take, in milliseconds; null for as long as it takes.
    pub max_duration_ms: Option<u64>,
    /// How many rejected records end it; null for no number.
    pub max_errors: Option<String>,
    /// How thoroughly the target is compared afterwards.
    pub verify: VerifyLevel,
    /// The checkpoint file; null for none.
    pub checkpoint: Option<String>,
    /// Whether it goes on where an earlier run stopped.
    pub resume: bool,
    /// The rejects file; null for none.
    pub rejects: Option<String>,
    /// The file for differences; null for none.
    pub differences: Option<String>,
    /// Whether it takes what stands before the damage of a damaged file.
    pub salvage: bool,
    /// Whether it tells which records LightRAG will find.
    pub hits: bool,
    /// Which records get a copy under the key that LightRAG asks for.
    pub rekey: Rekey,
    /// Whether it may write without being asked.
    pub yes: bool,
    /// Whether nothing to migrate is an error.
    pub fail_on_empty: bool,
    /// Whether a workspace that the source does not have is accepted.
    pub allow_missing: bool,
}

/// A count is under way.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CountProgressEvent {
    /// Which side.
    pub side: Side,
    /// Which workspace.
    pub workspace: Workspace,
    /// Entries looked at so far.
    pub scanned: u64,
}

/// A count is done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CountEvent {
    /// Which side.
    pub side: Side,
    /// Which workspace.
    pub workspace: Workspace,
    /// Records of the selected types.
    pub records: u64,
    /// The same by type.
    pub by_cache_type: BTreeMap<CacheType, u64>,
    /// What is there and not selected, by mode and type; null where that is not known.
    pub left_out: Option<Vec<LeftOutRecords>>,
    /// Whether the number is exact or an estimate.
    pub exact: bool,
    /// How long the count took, in milliseconds.
    pub duration_ms: u64,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Every record written or skipped.
    Ok,
    /// Some records rejected.
    Partial,
    /// Not written.
    Failed,
}

/// A batch is done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BatchEvent {
    /// The workspace that is read.
    pub workspace: Workspace,
    /// The number of the batch in its workspace, from 1.
    pub batch: u64,
    /// How many batches there will be, as far as counts and the limit of records tell; never less than `batch`.
    pub batches: u64,
    /// Entries in it, those that are no records among them.
    pub records: u64,
    /// Written ones.
    pub written: u64,
    /// Ones left as the target had them.
    pub skipped: u64,
    /// Rejected ones.
    pub rejected: u64,
    /// Bytes of keys and values written.
    pub bytes: u64,
    /// The type of its first record; null for a batch without records.
    pub cache_type: Option<CacheType>,
    /// Entries in it by type.
    pub by_cache_type: BTreeMap<CacheType, u64>,
    /// How it ended.
    pub status: BatchStatus,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Entries done so far in the workspace.
    pub done: u64,
    /// Entries there are in the workspace, as counted.
    pub total: u64,
    /// The first in percent of the second.
    pub percent: f64,
    /// Entries done so far in all workspaces of the run, those that an earlier run did among them.
    pub run_done: u64,
    /// Entries there are in all workspaces of the run, as counted.
    pub run_total: u64,
    /// How long the run has taken so far, in milliseconds.
    pub elapsed_ms: u64,
    /// How much longer it should take to move the rest, in milliseconds; null while nothing tells.
    pub remaining_ms: Option<u64>,
}

/// An entry cannot be moved.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RejectEvent {
    /// The workspace that is read.
    pub workspace: Workspace,
    /// The batch, from 1.
    pub batch: u64,
    /// The key.
    pub key: String,
    /// Why.
    pub kind: crate::model::record::RejectKind,
    /// The same for a person.
    pub reason: String,
}

/// Something failed and is tried again.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RetryEvent {
    /// Which side.
    pub side: Side,
    /// Which workspace; null where it is for none.
    pub workspace: Option<Workspace>,
    /// Which batch, from 1; null where it is for none.
    pub batch: Option<u64>,
    /// What was tried.
    pub operation: String,
    /// How often it failed so far.
    pub attempt: u64,
    /// How often it may be tried again.
    pub retries: u64,
    /// How long it is until the next try, in milliseconds.
    pub wait_ms: u64,
    /// The kind of the error.
    pub kind: String,
    /// What happened: the message of the event.
    #[serde(skip)]
    pub message: String,
}

/// How far the run came is on the disk.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CheckpointEvent {
    /// The file.
    pub file: String,
    /// The workspace that is read.
    pub workspace: Workspace,
    /// Batches of the workspace that are durable.
    pub batch: u64,
    /// Entries of the workspace that are done.
    pub done: u64,
}

/// A verification of a workspace is under way or done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VerifyEvent {
    /// The workspace that is read.
    pub workspace: Workspace,
    /// Whether this is the last word on the workspace.
    pub complete: bool,
    /// The numbers so far.
    #[serde(flatten)]
    pub numbers: VerifyNumbers,
    /// Records of the source that were looked at so far. In a sample not all of them are compared.
    pub done: u64,
    /// Records of the source there are, as counted.
    pub total: u64,
    /// How long the verification of the workspace has taken so far, in milliseconds.
    pub elapsed_ms: u64,
    /// How much longer it should take, in milliseconds; null while nothing tells.
    pub remaining_ms: Option<u64>,
}

/// What LightRAG will find of a workspace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HitsEvent {
    /// The workspace that is read.
    pub workspace: Workspace,
    /// What it will find.
    #[serde(flatten)]
    pub foretold: ForetoldHits,
}

/// Something that a person should know.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WarningEvent {
    /// What it is about.
    pub kind: WarningKind,
    /// The workspace that is read; null where it is about none.
    pub workspace: Option<Workspace>,
    /// The field of records; null where it is about none.
    pub field: Option<String>,
    /// How many records it is about; null where that is not known, or it is about none.
    pub count: Option<u64>,
    /// What: the message of the event.
    #[serde(skip)]
    pub message: String,
}

impl WarningEvent {
    /// A warning about nothing in particular.
    pub fn new(kind: WarningKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            workspace: None,
            field: None,
            count: None,
            message: message.into(),
        }
    }

    /// It is about a workspace.
    #[must_use]
    pub fn in_workspace(mut self, workspace: &Workspace) -> Self {
        self.workspace = Some(workspace.clone());
        self
    }

    /// It is about a field.
    #[must_use]
    pub fn of_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// It is about so many records.
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
    /// A file with settings, or a line of it, that is not taken as it may have been meant.
    Configuration,
    /// A storage, or how it is set up.
    Storage,
    /// A target that may change, redirect or lose what is written to it.
    Target,
    /// Which workspace is meant.
    Workspace,
    /// A workspace that cannot be read, and is not migrated.
    Unreadable,
    /// Damage in the source, behind which records are lost.
    Damaged,
    /// Something that was selected and is not there.
    NothingSelected,
    /// A field that the target has no place for.
    DroppedField,
    /// A field that records lacked, and that the target got.
    FilledField,
    /// A source that others wrote to while it was read.
    SourceChanged,
    /// A target that others removed records from while it was written to.
    TargetChanged,
}

/// The JSON Schema of one line.
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
            "run `UPDATE_SCHEMA=1 cargo test schema` and look at the difference"
        );
    }
}
