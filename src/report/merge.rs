//! Merging the reports of all shards into one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Report, Status, Totals,
    document::{ErrorTotals, MOST_SAMPLES, rates},
    outcome::sentence,
    word,
};
use crate::model::{Error, ErrorKind, ExitCode, LeftOut, LeftOutKind, Result, Shard, Workspace};

/// Reads a report that `--report` wrote.
///
/// # Errors
/// The file cannot be read, or is not a report.
pub fn read(path: &Path) -> Result<Report> {
    const REMEDY: &str = "pass the files that --report wrote, one of each shard";
    let wrong = |message| Error::new(ErrorKind::Reports, message).with_remedy(REMEDY);
    let content = std::fs::read(path).map_err(|error| {
        let failed = Error::io("read the report", path, error);
        wrong(format!("--merge-reports: {}", failed.message()))
    })?;
    let is_no_report = |why: String| {
        wrong(format!(
            "--merge-reports: {} is not a report: {why}",
            path.display()
        ))
    };
    let report: Value = serde_json::from_slice(&content).map_err(|error| is_no_report(error.to_string()))?;
    if let Some(number) = too_large(&report) {
        return Err(is_no_report(format!("no run has the number {number}")));
    }
    serde_json::from_value(report).map_err(|error| is_no_report(error.to_string()))
}

/// Larger than any number of a run, and small enough for the sum over all shards.
const MOST: u64 = 1 << 50;

/// A number that would let sums overflow.
fn too_large(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().filter(|number| *number > MOST),
        Value::Array(values) => values.iter().find_map(too_large),
        Value::Object(fields) => fields.values().find_map(too_large),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

/// Exit codes, the worst first. A code that is not listed counts as an internal error.
const WORST_FIRST: [ExitCode; 15] = [
    ExitCode::Internal,
    ExitCode::Target,
    ExitCode::Source,
    ExitCode::Usage,
    ExitCode::Refused,
    ExitCode::Checkpoint,
    ExitCode::Differences,
    ExitCode::MaxErrors,
    ExitCode::Terminated,
    ExitCode::Interrupted,
    ExitCode::OutputClosed,
    ExitCode::MaxDuration,
    ExitCode::Empty,
    ExitCode::Rejected,
    ExitCode::Done,
];

fn exit_code(number: u8) -> ExitCode {
    let known = WORST_FIRST.into_iter().find(|code| code.code() == number);
    known.unwrap_or(ExitCode::Internal)
}

/// The severity of an exit code; 0 is the worst.
fn rank(number: u8) -> usize {
    let rank = WORST_FIRST.iter().position(|code| code.code() == number);
    rank.unwrap_or(0)
}

/// Merges reports. Returns the merged report and an error if shards are missing or duplicated; `None` without reports.
///
/// # Errors
/// A report is not of a shard, or they are of different jobs.
pub fn merge(reports: Vec<(PathBuf, Report)>) -> Result<Option<(Report, Result<()>)>> {
    let complete = check_complete(&by_shard(&reports)?);
    check_same_job(&reports)?;
    let mut reports = reports.into_iter().map(|(_, report)| report);
    let Some(mut merged) = reports.next() else {
        return Ok(None);
    };
    merged.shard = None;
    for report in reports {
        add(&mut merged, report);
    }
    let seconds = match (
        merged.started_at.parse::<Timestamp>(),
        merged.finished_at.parse::<Timestamp>(),
    ) {
        (Ok(started), Ok(finished)) => finished.duration_since(started).as_secs_f64(),
        _ => merged.duration_ms as f64 / 1000.0,
    };
    merged.duration_ms = (seconds * 1000.0).round() as u64;
    let totals = &merged.totals;
    (merged.records_per_second, merged.bytes_per_second) = rates(totals.written, totals.bytes, seconds);
    merged.success_rate = totals.success_rate();
    if let Err(error) = &complete {
        merged.errors.fatal(error);
        if rank(ExitCode::Source.code()) < rank(merged.exit_code) {
            merged.exit_code = ExitCode::Source.code();
            merged.status = Status::Failed;
            merged.retryable = false;
            merged.next = sentence(error.remedy().unwrap_or_default());
        }
    }
    Ok(Some((merged, complete)))
}

/// The exit code of a merged report.
pub fn code_of(report: &Report) -> ExitCode {
    exit_code(report.exit_code)
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Reports, format!("--merge-reports: {what}"))
}

/// The reports of a job.
struct Job<'a> {
    /// The number of shards.
    count: u32,
    /// The reports of each shard.
    files: BTreeMap<u32, Vec<&'a Path>>,
}

/// Sorts reports by shard.
fn by_shard(reports: &[(PathBuf, Report)]) -> Result<Job<'_>> {
    let mut count = None;
    let mut files: BTreeMap<u32, Vec<&Path>> = BTreeMap::new();
    for (path, report) in reports {
        let shard = report.shard.as_deref().and_then(Shard::parse);
        let Some(shard) = shard else {
            let what = format!("{} is the report of a run without --shard", path.display());
            return Err(wrong(&what).with_remedy("pass the reports of runs with --shard"));
        };
        if *count.get_or_insert(shard.count()) != shard.count() {
            let what = format!(
                "{} is of shard {shard}, and others are of {} shards",
                path.display(),
                count.unwrap_or_default()
            );
            return Err(
                wrong(&what).with_remedy("pass the reports of one job with the same number of shards")
            );
        }
        files.entry(shard.index()).or_default().push(path);
    }
    let count = count.unwrap_or_default();
    Ok(Job { count, files })
}

/// Whether a report has the mode of its job: that of a run with wrong settings may not.
fn has_mode(report: &Report) -> bool {
    report.source.is_some() || exit_code(report.exit_code) != ExitCode::Usage
}

/// Checks that all reports are of the same mode, source, target, types and workspaces, as far as each run knew them.
fn check_same_job(reports: &[(PathBuf, Report)]) -> Result<()> {
    let traits = |report: &Report| {
        let types: BTreeSet<&str> = report.types.iter().map(String::as_str).collect();
        let types = Vec::from_iter(types).join(",");
        let source = report.source.as_ref().map(ToString::to_string);
        let target = report.target.as_ref().map(ToString::to_string);
        let mode = has_mode(report).then(|| word(&report.mode));
        let types = (!types.is_empty()).then_some(types);
        [
            ("the mode is", mode),
            ("the source is", source),
            ("the target is", target),
            ("the types are", types),
        ]
    };
    let mut known: BTreeMap<&str, (&Path, String)> = BTreeMap::new();
    for (path, report) in reports {
        for (name, value) in traits(report) {
            let Some(value) = value else { continue };
            let (first, expected) = known.entry(name).or_insert_with(|| (path, value.clone()));
            if *expected != value {
                let what = format!(
                    "{} and {} are of different jobs: {name} {expected} in the first and {value} in the second",
                    first.display(),
                    path.display()
                );
                return Err(wrong(&what).with_remedy(OF_ONE_JOB));
            }
        }
    }
    check_same_workspaces(reports)
}

const OF_ONE_JOB: &str =
    "pass the reports of one job, with the same mode, source, target, workspaces and types";

/// Checks that all runs that came to their end had the same workspaces.
fn check_same_workspaces(reports: &[(PathBuf, Report)]) -> Result<()> {
    let has_all = |report: &Report| {
        matches!(
            exit_code(report.exit_code),
            ExitCode::Done | ExitCode::Rejected | ExitCode::Differences
        )
    };
    let pairs = |report: &Report| -> BTreeSet<(String, String)> {
        let name = |workspace: &Workspace| workspace.to_string();
        let pairs = report.workspaces.iter();
        pairs.map(|pair| (name(&pair.from), name(&pair.to))).collect()
    };
    let mut of_job = reports.iter().filter(|(_, report)| has_all(report));
    let Some((first, report)) = of_job.next() else {
        return Ok(());
    };
    let expected = pairs(report);
    for (path, report) in of_job {
        let found = pairs(report);
        for (with, without, extra) in [
            (first, path, expected.difference(&found).next()),
            (path, first, found.difference(&expected).next()),
        ] {
            let Some((from, to)) = extra else { continue };
            let pair = match from == to {
                true => from.clone(),
                false => format!("{from} (target: {to})"),
            };
            let what = format!(
                "{} and {} are of different jobs: only the first has the workspace {pair}",
                with.display(),
                without.display()
            );
            return Err(wrong(&what).with_remedy(OF_ONE_JOB));
        }
    }
    Ok(())
}

/// Checks that there is exactly one report of each shard.
fn check_complete(Job { count, files }: &Job<'_>) -> Result<()> {
    let mut faults = Vec::new();
    let mut remedy = "pass one report of each shard";
    let missing: Vec<String> = (0..*count)
        .filter(|index| !files.contains_key(index))
        .map(|index| format!("{index}/{count}"))
        .collect();
    if !missing.is_empty() {
        faults.push(format!("no report of {}", missing.join(", ")));
        remedy = "run the missing shards, then merge the reports of all shards";
    }
    for (index, files) in files.iter().filter(|(_, files)| files.len() > 1) {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        faults.push(format!(
            "more than one report of {index}/{count}: {}",
            files.join(", ")
        ));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(wrong(&faults.join("; ")).with_remedy(remedy))
}

fn add(merged: &mut Report, other: Report) {
    if !has_mode(merged) {
        merged.mode = other.mode;
    }
    if rank(other.exit_code) < rank(merged.exit_code) {
        merged.exit_code = other.exit_code;
        merged.status = other.status;
        merged.retryable = other.retryable;
        merged.next.clone_from(&other.next);
    }
    // Times of the same form, in UTC, are in the order of their texts.
    merged.started_at = std::mem::take(&mut merged.started_at).min(other.started_at);
    merged.finished_at = std::mem::take(&mut merged.finished_at).max(other.finished_at);
    merged.source = merged.source.take().or(other.source);
    merged.target = merged.target.take().or(other.target);
    merged.totals.add(&other.totals);
    add_by_type(&mut merged.by_cache_type, other.by_cache_type);
    merged.left_out = merged.left_out.take().zip(other.left_out).map(|(mine, others)| {
        let mut all = LeftOut::default();
        for left_out in mine.into_iter().chain(others) {
            all.add(left_out.kind, LeftOutKind::OTHER, left_out.records);
        }
        all.list()
    });
    add_workspaces(merged, other.workspaces);
    merged.to_move = sum(merged.to_move, other.to_move);
    merged.new = sum(merged.new, other.new);
    merged.existing = sum(merged.existing, other.existing);
    merged.replaced = sum(merged.replaced, other.replaced);
    merged.batches.add(&other.batches);
    add_errors(&mut merged.errors, other.errors);
    let known: BTreeSet<String> = merged.warnings.iter().cloned().collect();
    merged.warnings.extend(
        other
            .warnings
            .into_iter()
            .filter(|warning| !known.contains(warning)),
    );
    add_if_any(&mut merged.read_back, other.read_back, |mine, others| {
        mine.add(others)
    });
    add_if_any(&mut merged.verification, other.verification, |mine, others| {
        mine.add(others)
    });
    merged.rekeyed += other.rekeyed;
    add_if_any(&mut merged.hits, other.hits, |mine, others| {
        mine.hits.add(&others.hits)
    });
    // Each shard has its own files, which its own report names.
    merged.checkpoint = None;
    merged.rejects = None;
    merged.differences = None;
}

/// Adds what only some reports have.
fn add_if_any<T>(mine: &mut Option<T>, others: Option<T>, add: impl FnOnce(&mut T, T)) {
    match (mine.as_mut(), others) {
        (Some(mine), Some(others)) => add(mine, others),
        (None, others) => *mine = others,
        (Some(_), None) => {}
    }
}

fn add_errors(merged: &mut ErrorTotals, other: ErrorTotals) {
    merged.total += other.total;
    for (kind, number) in other.by_kind {
        *merged.by_kind.entry(kind).or_default() += number;
    }
    let space = MOST_SAMPLES.saturating_sub(merged.first.len());
    merged.first.extend(other.first.into_iter().take(space));
}

fn add_workspaces(merged: &mut Report, others: Vec<super::WorkspaceReport>) {
    for other in others {
        let known = merged
            .workspaces
            .iter_mut()
            .find(|known| known.from == other.from && known.to == other.to);
        let Some(known) = known else {
            merged.workspaces.push(other);
            continue;
        };
        known.source_records = sum(known.source_records, other.source_records);
        known.target_records_before = sum(known.target_records_before, other.target_records_before);
        known.target_records_after = sum(known.target_records_after, other.target_records_after);
        match (&mut known.rehearsal, other.rehearsal) {
            (Some(mine), Some(others)) => mine.add(others),
            (mine, _) => *mine = None,
        }
        known.new = sum(known.new, other.new);
        known.totals.add(&other.totals);
        add_by_type(&mut known.by_cache_type, other.by_cache_type);
        known.left_out = None;
    }
}

fn add_by_type<K: Ord>(merged: &mut BTreeMap<K, Totals>, other: BTreeMap<K, Totals>) {
    for (cache_type, totals) in other {
        merged.entry(cache_type).or_default().add(&totals);
    }
}

/// The sum of two numbers, if both are known.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one? + other?)
}
