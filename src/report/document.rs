//! The report: what a run did, in numbers that add up.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    CacheType, Error, ErrorKind, ForetoldHits, LeftOutRecords, Location, Mode, VerifyLevel, Workspace,
    number_of, plural,
};

/// Numbers of records. Always `selected = written + skipped + rejected + not_attempted`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Entries of the source that were looked at, selected or not.
    pub read: u64,
    /// Entries that the run was to move.
    pub selected: u64,
    /// Records that the target says it keeps.
    pub written: u64,
    /// Records left as the target had them.
    pub skipped: u64,
    /// Entries that could not be moved.
    pub rejected: u64,
    /// Entries that the run did not come to, or whose fate it does not know.
    pub not_attempted: u64,
    /// Records, among the written ones, that had to be changed to be held.
    pub sanitized: u64,
    /// Bytes of keys and values of the written records.
    pub bytes: u64,
}

impl Totals {
    /// Adds other numbers to these.
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

    /// The records whose fate is known.
    pub fn done(&self) -> u64 {
        self.written + self.skipped + self.rejected
    }

    /// These numbers of a workspace of which `expected` records were counted before the run: what of them is not done is
    /// not attempted. A run that has `completed` saw all there was, whatever the count said.
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
    /// It could not go on.
    Failed,
    /// It did not begin.
    Refused,
    /// Somebody stopped it.
    Interrupted,
    /// A verification found differences.
    Differences,
}

/// Numbers of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchTotals {
    /// All that were begun.
    pub total: u64,
    /// Every record written or skipped.
    pub ok: u64,
    /// Some records rejected.
    pub partial: u64,
    /// Not written.
    pub failed: u64,
    /// Written at a later try.
    pub retried: u64,
}

/// What a dry run found of the records that a run would move. Always `to_move = new + existing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// Selected records of the source.
    pub to_move: u64,
    /// Those whose keys the target does not have.
    pub new: u64,
    /// Those whose keys the target has: `--on-conflict` says what becomes of them.
    pub existing: u64,
}

impl Rehearsal {
    /// Adds other numbers to these.
    pub fn add(&mut self, other: Self) {
        self.to_move += other.to_move;
        self.new += other.new;
        self.existing += other.existing;
    }
}

/// What became of one workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceReport {
    /// The workspace that was read.
    pub from: Workspace,
    /// The workspace that was written.
    pub to: Workspace,
    /// Selected records that the source had when they were counted; null where the run did not come to it.
    pub source_records: Option<u64>,
    /// Records of the selected types that the target had before; null where the run did not come to it.
    pub target_records_before: Option<u64>,
    /// The same after the run; null where the target was not counted again: a storage that has to look at every record to
    /// count them is asked for its own number instead, unless that is too small.
    pub target_records_after: Option<u64>,
    /// What a run that writes would do; null where this run was no dry run, or did not come to it.
    pub rehearsal: Option<Rehearsal>,
    /// The numbers of this workspace.
    pub totals: Totals,
    /// The same by cache type.
    pub by_cache_type: BTreeMap<CacheType, Totals>,
    /// What the source has beyond the selection, by mode and type; null where that is not known.
    pub left_out: Option<Vec<LeftOutRecords>>,
}

/// What went wrong, in numbers and first examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorTotals {
    /// Records rejected, plus one for what ended the run, if something else did than a record that was rejected.
    pub total: u64,
    /// The same by kind.
    pub by_kind: BTreeMap<String, u64>,
    /// The first of them.
    pub first: Vec<ErrorSample>,
}

/// How many examples a report holds.
pub(super) const MOST_SAMPLES: usize = 20;
/// How many keys an example holds.
const MOST_KEYS: usize = 5;

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorSample {
    /// The workspace that is read; null where it happened outside of one.
    #[serde(default)]
    pub workspace: Option<String>,
    /// The batch, from 1; null where it happened outside of one.
    pub batch: Option<u64>,
    /// The kind.
    pub kind: String,
    /// What happened, and where.
    pub message: String,
    /// Records that it concerns.
    pub records: u64,
    /// The first of their keys.
    pub keys: Vec<String>,
}

impl BatchTotals {
    /// Adds other numbers to these.
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

    /// Counts what ended the run, unless its records are counted already: a conflict is a rejected record. It is always
    /// among the examples.
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

/// What a verification found, in numbers of records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyNumbers {
    /// Records of the source that were compared.
    pub compared: u64,
    /// Those that the target has, equal in every field.
    pub equal: u64,
    /// Those that the target has with another value, and was to keep (`--on-conflict skip` or `newer`).
    pub kept: u64,
    /// Those that the target cannot hold, and so does not have.
    pub unmovable: u64,
    /// Entries of the source that are no records, and were compared with nothing.
    pub invalid: u64,
    /// Those that the target does not have.
    pub missing: u64,
    /// Those that the target has with another value.
    pub different: u64,
    /// Copies of `--rekey` that the target has.
    pub copies: u64,
    /// Records of the target that are neither at the source nor copies; null where nobody looked.
    pub beyond: Option<u64>,
}

impl VerifyNumbers {
    /// Adds other numbers to these.
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
    /// How thorough it was.
    pub level: VerifyLevel,
    /// All numbers.
    #[serde(flatten)]
    pub numbers: VerifyNumbers,
    /// The first differences.
    pub first: Vec<Difference>,
    /// The first records that differ and were to be kept.
    pub first_kept: Vec<Difference>,
}

impl Verification {
    /// A verification that has found nothing yet.
    pub fn new(level: VerifyLevel) -> Self {
        Self {
            level,
            numbers: VerifyNumbers::default(),
            first: Vec::new(),
            first_kept: Vec::new(),
        }
    }

    /// Keeps a difference, if it is among the first ones.
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

/// What was read back of what a run had written, in numbers of records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadBackReport {
    /// Records that were looked up and compared.
    pub records: u64,
    /// Those that the target does not have.
    pub missing: u64,
    /// Those that the target has with another value.
    pub different: u64,
    /// The first differences.
    pub first: Vec<Difference>,
}

impl ReadBackReport {
    /// Adds what was read back of another workspace.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.missing += other.missing;
        self.different += other.different;
        other
            .first
            .into_iter()
            .for_each(|difference| self.note(difference));
    }

    /// Keeps a difference, if it is among the first ones.
    pub fn note(&mut self, difference: Difference) {
        if self.first.len() < MOST_DIFFERENCES {
            self.first.push(difference);
        }
    }
}

/// How many differences a report names.
const MOST_DIFFERENCES: usize = 20;

/// How a record of the target differs from the one of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The target does not have it.
    Missing,
    /// The target has another value.
    Different,
    /// The target has another value, which it was to keep (`--on-conflict skip` or `newer`).
    Kept,
}

/// A record that is not the same on both sides. A line of the `--differences` file, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// The workspace that is read.
    pub workspace: Workspace,
    /// The key.
    pub key: String,
    /// How it differs.
    pub kind: DifferenceKind,
    /// The fields that differ; none where the record is missing.
    pub fields: Vec<String>,
}

/// What a run did: the last event, and the content of `--report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The program.
    pub tool: String,
    /// Its version.
    pub version: String,
    /// What it was to do.
    pub mode: Mode,
    /// How it ended.
    pub status: Status,
    /// The exit code of the process.
    pub exit_code: u8,
    /// Whether the same command may succeed later with nothing changed.
    pub retryable: bool,
    /// When it began, RFC 3339, UTC.
    pub started_at: String,
    /// When it ended.
    pub finished_at: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What was read; null where the run ended before it knew.
    pub source: Option<Location>,
    /// What was written; null where the run ended before it knew.
    pub target: Option<Location>,
    /// The share of the source that was to be moved (`--shard`), as `0/4`; null for everything.
    pub shard: Option<String>,
    /// All numbers.
    pub totals: Totals,
    /// The same by cache type.
    pub by_cache_type: BTreeMap<CacheType, Totals>,
    /// What the source has beyond the selection, by mode and type; null where that is not known.
    pub left_out: Option<Vec<LeftOutRecords>>,
    /// The same by workspace.
    pub workspaces: Vec<WorkspaceReport>,
    /// Records that a run would move; null unless this was a dry run that came to its end.
    pub to_move: Option<u64>,
    /// Those whose keys the target does not have.
    pub new: Option<u64>,
    /// Those whose keys the target has.
    pub existing: Option<u64>,
    /// The batches.
    pub batches: BatchTotals,
    /// Written and skipped among the selected, in percent, two decimals; null where nothing was attempted.
    pub success_rate: Option<f64>,
    /// Written records a second, over the time of moving alone.
    pub records_per_second: f64,
    /// Written bytes a second, over the time of moving alone.
    pub bytes_per_second: u64,
    /// What went wrong.
    pub errors: ErrorTotals,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// What was read back of what was written; null where nothing was.
    pub read_back: Option<ReadBackReport>,
    /// What a verification found; null without one.
    pub verification: Option<Verification>,
    /// Copies that were added under the keys that LightRAG asks for; in no other number.
    pub rekeyed: u64,
    /// What LightRAG will find; null where that was not asked.
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
    /// What of a run that came to its end was left behind, and what to do about it; `None` where nothing was.
    pub fn dropped_fields(&self) -> Option<(String, &'static str)> {
        if self.status != Status::Partial {
            return None;
        }
        if self.totals.rejected == 0 {
            let what = "some of the source could not be read".to_owned();
            return Some((what, "look at the warnings in the report"));
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
            number_of(self.totals.selected, "record"),
            plural(self.totals.rejected, "was", "were"),
            kinds.join(", ")
        );
        Some((
            what,
            "look at errors.first in the report, or keep the records with --rejects",
        ))
    }
}

/// A part of a whole in percent, two decimals, cut so that only all of it is 100; 100 where there is no whole.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 100.0;
    }
    let hundredths = u128::from(part) * 10_000 / u128::from(whole);
    hundredths as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_stopped_early_says_what_was_not_attempted() {
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
}
