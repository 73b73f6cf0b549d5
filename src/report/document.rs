//! The report: what a run did, in numbers whose sums are consistent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::style::grouped_of;
use crate::model::{
    CacheType, Error, ErrorKind, ForetoldHits, LeftOutRecords, Location, Mode, VerifyLevel, Workspace, plural,
};

/// Numbers of records. Invariant: `selected = written + skipped + rejected + not_attempted`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Entries of the source that were read, selected or not.
    pub read: u64,
    /// Entries to move.
    pub selected: u64,
    /// Records that the target confirmed.
    pub written: u64,
    /// Records that the target already had and that were not written.
    pub skipped: u64,
    /// Entries that could not be moved.
    pub rejected: u64,
    /// Entries that the run did not reach, or whose outcome is unknown.
    pub not_attempted: u64,
    /// Written records from which invalid characters were removed.
    pub sanitized: u64,
    /// Bytes of keys and values of the written records.
    pub bytes: u64,
}

impl Totals {
    /// Adds other numbers.
    pub fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.selected += other.selected;
        self.written += other.written;
        self.skipped += other.skipped;
        self.rejected += other.rejected;
        self.not_attempted += other.not_attempted;
        self.sanitized += other.sanitized;
        self.bytes += other.bytes;
    }

    /// Records whose outcome is known.
    pub fn done(&self) -> u64 {
        self.written + self.skipped + self.rejected
    }

    /// Written and skipped records in percent of the selected ones; `None` if nothing was attempted.
    pub(super) fn success_rate(&self) -> Option<f64> {
        (self.done() > 0).then(|| percent(self.written + self.skipped, self.selected))
    }

    /// Sets `not_attempted` for a workspace in which `expected` records were counted before the run. A run that has
    /// `completed` read every record, whatever the count was.
    #[must_use]
    pub fn closed(mut self, expected: u64, completed: bool) -> Self {
        let done = self.done();
        self.selected = self.selected.max(done);
        if !completed {
            self.selected = self.selected.max(expected);
        }
        self.not_attempted = self.selected - done;
        self
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything was moved, or there was nothing to do.
    Ok,
    /// Done, but some records were rejected.
    Partial,
    /// An error ended it.
    Failed,
    /// It did not start: a setting or a check failed.
    Refused,
    /// A signal or a time limit stopped it.
    Interrupted,
    /// A verification found differences.
    Differences,
}

/// Numbers of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchTotals {
    /// All that were started.
    pub total: u64,
    /// Every record written or skipped.
    pub ok: u64,
    /// Some records rejected.
    pub partial: u64,
    /// Not written.
    pub failed: u64,
    /// Written after a retry.
    pub retried: u64,
}

/// What a dry run found. Invariant: `to_move = new + existing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// Selected records of the source.
    pub to_move: u64,
    /// Those whose keys the target does not have.
    pub new: u64,
    /// Those whose keys the target already has: `--on-conflict` decides what happens to them.
    pub existing: u64,
}

impl Rehearsal {
    /// Adds other numbers.
    pub fn add(&mut self, other: Self) {
        self.to_move += other.to_move;
        self.new += other.new;
        self.existing += other.existing;
    }
}

/// The result of one workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceReport {
    /// The workspace that was read.
    pub from: Workspace,
    /// The workspace that was written.
    pub to: Workspace,
    /// Selected records that the source had when they were counted; null if the run did not reach the workspace.
    pub source_records: Option<u64>,
    /// Records of the selected types that the target had before; null if the run did not reach the workspace.
    pub target_records_before: Option<u64>,
    /// The same after the run; null if the target was not counted again, which is done only if the total that the server
    /// reports is too small.
    pub target_records_after: Option<u64>,
    /// What a run that writes would do; null unless this is a dry run that reached the workspace.
    pub rehearsal: Option<Rehearsal>,
    /// Written records whose keys the target did not have before: all of them if it was empty or nothing is replaced, else
    /// the growth of the target; null if that is not known, or if an earlier run wrote some of them.
    pub new: Option<u64>,
    /// The numbers of this workspace.
    pub totals: Totals,
    /// These numbers by cache type.
    pub by_cache_type: BTreeMap<CacheType, Totals>,
    /// What the source contains that is not selected, by mode and type; null if unknown.
    pub left_out: Option<Vec<LeftOutRecords>>,
}

/// Errors: numbers and the first examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorTotals {
    /// Rejected records, plus one for an error that ended the run, unless that was a rejected record.
    pub total: u64,
    /// The same number by kind.
    pub by_kind: BTreeMap<String, u64>,
    /// In the order in which they occurred, at most a fixed number.
    pub first: Vec<ErrorSample>,
}

/// How many examples a report contains.
pub(super) const MOST_SAMPLES: usize = 20;
/// How many keys an example contains.
const MOST_KEYS: usize = 5;

/// An example of an error: one that ended the run, or rejected records of one batch with the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorSample {
    /// The workspace of the source; null if the error belongs to none.
    #[serde(default)]
    pub workspace: Option<String>,
    /// The batch, from 1; null if the error belongs to none.
    pub batch: Option<u64>,
    /// The kind of the error.
    pub kind: String,
    /// What failed, and where.
    pub message: String,
    /// The number of affected records.
    pub records: u64,
    /// The first of their keys.
    pub keys: Vec<String>,
}

impl BatchTotals {
    /// Adds other numbers.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.ok += other.ok;
        self.partial += other.partial;
        self.failed += other.failed;
        self.retried += other.retried;
    }
}

impl ErrorTotals {
    /// Counts a rejected record.
    pub fn reject(&mut self, workspace: &Workspace, batch: u64, kind: &str, message: &str, key: &str) {
        let (workspace, batch) = (Some(workspace.name()), Some(batch));
        self.total += 1;
        *self.by_kind.entry(kind.to_owned()).or_default() += 1;
        let same = |sample: &&mut ErrorSample| {
            sample.kind == kind
                && sample.batch == batch
                && sample.workspace.as_deref() == workspace
                && sample.message == message
        };
        if let Some(sample) = self.first.iter_mut().find(same) {
            sample.records += 1;
            if sample.keys.len() < MOST_KEYS {
                sample.keys.push(key.to_owned());
            }
        } else if self.first.len() < MOST_SAMPLES {
            self.first.push(ErrorSample {
                workspace: workspace.map(str::to_owned),
                batch,
                kind: kind.to_owned(),
                message: message.to_owned(),
                records: 1,
                keys: vec![key.to_owned()],
            });
        }
    }

    /// Counts an error that ended the run, unless its records are counted already, as those of a conflict are. The error is
    /// always added to the examples.
    pub fn fatal(&mut self, error: &Error) {
        let kind = error.kind().as_str();
        if error.kind() != ErrorKind::Conflict || !self.by_kind.contains_key(kind) {
            self.total += 1;
            *self.by_kind.entry(kind.to_owned()).or_default() += 1;
        }
        self.first.push(ErrorSample {
            workspace: error.workspace().map(|workspace| workspace.name().to_owned()),
            batch: error.batch(),
            kind: kind.to_owned(),
            message: error.to_string(),
            records: error.records(),
            keys: Vec::new(),
        });
    }
}

/// The numbers of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyNumbers {
    /// Records of the source that were compared.
    pub compared: u64,
    /// Those that are equal on the target in every field.
    pub equal: u64,
    /// Those that are different on the target, and that `--on-conflict skip` or `newer` keeps.
    pub kept: u64,
    /// Those that the target cannot store and therefore does not have.
    pub unmovable: u64,
    /// Entries of the source that are not records and were not compared.
    pub invalid: u64,
    /// Those that the target does not have.
    pub missing: u64,
    /// Those that are different on the target.
    pub different: u64,
    /// Copies of `--rekey` that the target has.
    pub copies: u64,
    /// Records that only the target has and that are not copies; null if they were not counted.
    pub beyond: Option<u64>,
}

impl VerifyNumbers {
    /// Adds other numbers.
    pub fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.equal += other.equal;
        self.kept += other.kept;
        self.unmovable += other.unmovable;
        self.invalid += other.invalid;
        self.missing += other.missing;
        self.different += other.different;
        self.copies += other.copies;
        if let Some(beyond) = other.beyond {
            *self.beyond.get_or_insert(0) += beyond;
        }
    }

    /// Records that should be equal and are not.
    pub fn differences(&self) -> u64 {
        self.missing + self.different
    }
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// How thorough the verification was.
    pub level: VerifyLevel,
    /// The sums over all workspaces.
    #[serde(flatten)]
    pub numbers: VerifyNumbers,
    /// Those found first, at most a fixed number; `--differences` has all of them.
    pub first: Vec<Difference>,
    /// The first records that differ and that `--on-conflict` keeps.
    pub first_kept: Vec<Difference>,
}

impl Verification {
    /// An empty verification.
    pub fn new(level: VerifyLevel) -> Self {
        Self {
            level,
            numbers: VerifyNumbers::default(),
            first: Vec::new(),
            first_kept: Vec::new(),
        }
    }

    /// Adds what was found in another workspace or run: numbers, and differences unless there are enough.
    pub fn add(&mut self, other: Self) {
        self.numbers.add(&other.numbers);
        let differences = other.first.into_iter().chain(other.first_kept);
        differences.for_each(|difference| self.note(difference));
    }

    /// Adds a difference, unless there are enough.
    pub fn note(&mut self, difference: Difference) {
        let first = match difference.kind {
            DifferenceKind::Kept => &mut self.first_kept,
            DifferenceKind::Missing | DifferenceKind::Different => &mut self.first,
        };
        if first.len() < MOST_DIFFERENCES {
            first.push(difference);
        }
    }
}

/// The numbers of written records that were read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadBackReport {
    /// Records that were looked up and compared.
    pub records: u64,
    /// Records whose keys were only looked up: in a run with many workspaces, and large ones.
    #[serde(default)]
    pub keys: u64,
    /// Those that the target does not have.
    pub missing: u64,
    /// Those that are different on the target.
    pub different: u64,
    /// Those found first, at most a fixed number.
    pub first: Vec<Difference>,
}

impl ReadBackReport {
    /// Adds the numbers of another workspace.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.keys += other.keys;
        self.missing += other.missing;
        self.different += other.different;
        other
            .first
            .into_iter()
            .for_each(|difference| self.note(difference));
    }

    /// Adds a difference, unless there are enough.
    pub fn note(&mut self, difference: Difference) {
        if self.first.len() < MOST_DIFFERENCES {
            self.first.push(difference);
        }
    }
}

/// How many differences a report contains.
const MOST_DIFFERENCES: usize = 20;

/// How a record on the target differs from the record of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The target does not have it.
    Missing,
    /// The target has a different value.
    Different,
    /// The target has a different value that `--on-conflict skip` or `newer` keeps.
    Kept,
}

/// A record that differs between source and target. Also a line of the `--differences` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// The workspace of the source.
    pub workspace: Workspace,
    /// The key of the record.
    pub key: String,
    /// How the record differs.
    pub kind: DifferenceKind,
    /// The fields that differ; empty if the record is missing.
    pub fields: Vec<String>,
}

/// What a run did: the last event, and the content of `--report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The name of the program.
    pub tool: String,
    /// The version of the program.
    pub version: String,
    /// What the run was asked to do.
    pub mode: Mode,
    /// How the run ended.
    pub status: Status,
    /// The exit code of the process.
    pub exit_code: u8,
    /// Whether the same command may succeed later without changes.
    pub retryable: bool,
    /// When the run started, RFC 3339, UTC.
    pub started_at: String,
    /// When the run ended, RFC 3339, UTC.
    pub finished_at: String,
    /// The duration of the run, in milliseconds.
    pub duration_ms: u64,
    /// The storage that was read; null if the settings do not say.
    pub source: Option<Location>,
    /// The storage that was written; null if the settings do not say.
    pub target: Option<Location>,
    /// The shard of the source (`--shard`), as `0/4`; null for everything.
    pub shard: Option<String>,
    /// The selected cache types (`--types`); empty if the settings do not say.
    #[serde(default)]
    pub types: Vec<String>,
    /// The sums over all workspaces.
    pub totals: Totals,
    /// These numbers by cache type.
    pub by_cache_type: BTreeMap<CacheType, Totals>,
    /// What the source contains that is not selected, by mode and type; null if unknown.
    pub left_out: Option<Vec<LeftOutRecords>>,
    /// The numbers of each workspace.
    pub workspaces: Vec<WorkspaceReport>,
    /// Records that a run would move; null unless this is a completed dry run.
    pub to_move: Option<u64>,
    /// Those whose keys the target does not have. After a run that writes: the written records whose keys it did not have;
    /// null if that is not known for a workspace.
    pub new: Option<u64>,
    /// Those whose keys the target already has.
    pub existing: Option<u64>,
    /// The written records that replaced others; null in a dry run, and if `new` is.
    pub replaced: Option<u64>,
    /// The numbers of batches.
    pub batches: BatchTotals,
    /// Written and skipped records in percent of the selected ones, two decimals; null if nothing was attempted.
    pub success_rate: Option<f64>,
    /// Written records per second, without the time of counts and verification.
    pub records_per_second: f64,
    /// Written bytes per second, without the time of counts and verification.
    pub bytes_per_second: u64,
    /// The errors of the run.
    pub errors: ErrorTotals,
    /// The texts of all warnings.
    pub warnings: Vec<String>,
    /// The written records that were read back; null if none were.
    pub read_back: Option<ReadBackReport>,
    /// The result of the verification; null without one.
    pub verification: Option<Verification>,
    /// Copies that were added under the keys that LightRAG uses; not included in any other number.
    pub rekeyed: u64,
    /// Which records LightRAG will find; null without `--hits`.
    pub hits: Option<ForetoldHits>,
    /// The checkpoint file; null without one.
    pub checkpoint: Option<String>,
    /// The rejects file; null without one.
    pub rejects: Option<String>,
    /// The file with every difference that was found; null without one.
    pub differences: Option<String>,
    /// What to do next, in a sentence.
    pub next: String,
}

impl Report {
    /// What a completed run did not move, and what to do about it; `None` if it moved everything.
    pub fn shortfall(&self) -> Option<(String, &'static str)> {
        if self.status != Status::Partial {
            return None;
        }
        if self.totals.rejected == 0 {
            let what = "part of the source could not be read".to_owned();
            return Some((what, "check the warnings in the report"));
        }
        let kinds: Vec<String> = self
            .errors
            .by_kind
            .iter()
            .map(|(kind, number)| format!("{kind} {number}"))
            .collect();
        let what = format!(
            "{} of {} {} rejected ({})",
            self.totals.rejected,
            grouped_of(self.totals.selected, "record"),
            plural(self.totals.rejected, "was", "were"),
            kinds.join(", ")
        );
        Some((
            what,
            "see errors.first in the report, or save the records with --rejects FILE",
        ))
    }
}

/// The rates of moving this many records and bytes in this time: records per second with one decimal, and bytes per second.
pub(super) fn rates(records: u64, bytes: u64, seconds: f64) -> (f64, u64) {
    let per_second = |number: u64| number as f64 / seconds.max(0.001);
    (
        (per_second(records) * 10.0).round() / 10.0,
        per_second(bytes) as u64,
    )
}

/// `part` in percent of `whole`, rounded down to two decimals, so that only the whole is 100; 100 if `whole` is 0.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 100.0;
    }
    let rounded = (u128::from(part) * 20_000 / u128::from(whole)).div_ceil(2);
    let hundredths = if part < whole { rounded.min(9_999) } else { rounded };
    hundredths as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_did_not_reach_is_not_attempted() {
        let totals = Totals {
            selected: 60,
            written: 40,
            rejected: 5,
            ..Totals::default()
        };
        let stopped = totals.clone().closed(100, false);
        assert_eq!((stopped.selected, stopped.not_attempted), (100, 55));
        let completed = totals.closed(100, true);
        assert_eq!((completed.selected, completed.not_attempted), (60, 15));
    }

    #[test]
    fn only_everything_is_a_hundred_percent() {
        assert_eq!(percent(999_999, 1_000_000), 99.99);
        assert_eq!(percent(3, 3), 100.0);
        assert_eq!(percent(0, 0), 100.0);
    }

    /// Those of reports that were written before this number existed.
    #[test]
    fn a_read_back_without_looked_up_keys_is_read() {
        let text = r#"{"records": 9, "missing": 0, "different": 0, "first": []}"#;
        let read: ReadBackReport = serde_json::from_str(text).unwrap();
        assert_eq!((read.records, read.keys), (9, 0));
    }
}
