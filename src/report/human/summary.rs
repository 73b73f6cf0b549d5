//! The report as text: the summary of LightRAG's own migration tool, and the next step.

use std::{fmt::Write as _, time::Duration};

use bytesize::ByteSize;

use super::{hits, table};
use crate::{
    model::{Mode, plural},
    report::{
        Palette, Report, Status,
        style::{cut, grouped, grouped_of, wrap},
    },
};

/// How many errors are listed.
const MOST_ERRORS: usize = 5;
/// The width of lines that are not wrapped.
const UNBOUNDED: usize = usize::MAX;

/// The report as text, in lines of at most `width` columns, or not wrapped if there is no width.
pub(super) fn text(report: &Report, palette: Palette, width: Option<usize>) -> String {
    let width = width.unwrap_or(UNBOUNDED);
    let mut text = String::new();
    let title = title(report);
    if let Some(title) = title {
        let _ = write!(text, "\n{}", palette.strong(title));
        statistics(&mut text, report);
        if let Some(table) = table::of_report(report, width) {
            let _ = write!(text, "\n{table}");
        }
        errors(&mut text, report, width);
    }
    differences(&mut text, report, width);
    if let Some(foretold) = &report.hits {
        let _ = write!(text, "\n\n{}", wrap(&hits::sentence(foretold), width, ""));
    }
    // A blank line after statistics.
    if title.is_some() && !text.ends_with('\n') {
        text.push('\n');
    }
    if let Some(verdict) = verdict(report, palette) {
        let _ = write!(text, "\n{verdict}");
    }
    // Otherwise the error that ended the run has been printed, with its remedy.
    if !matches!(
        report.status,
        Status::Failed | Status::Refused | Status::Differences
    ) {
        let _ = write!(text, "\n{}", wrap(&report.next, width, ""));
    }
    text
}

/// The heading, unless the run did nothing.
fn title(report: &Report) -> Option<&'static str> {
    let did_nothing = report.totals.selected == 0 || report.status == Status::Refused;
    match (report.status, report.mode) {
        (Status::Failed | Status::Refused, Mode::DryRun) => None,
        (_, Mode::DryRun) => Some("Dry Run - Final Report"),
        (_, Mode::Verify) => Some("Verification - Final Report"),
        (_, Mode::Migrate) if did_nothing => None,
        (Status::Failed | Status::Interrupted, Mode::Migrate) => {
            Some("Migration Not Complete - Final Report")
        }
        (Status::Ok, Mode::Migrate) if report.totals.written == 0 => Some(match report.rekeyed {
            0 => "Nothing Written - Final Report",
            _ => "Copies Added - Final Report",
        }),
        (_, Mode::Migrate) => Some("Migration Complete - Final Report"),
    }
}

/// Records of the source that `--types` does not select.
fn not_selected(report: &Report) -> u64 {
    let left_out = report.left_out.iter().flatten();
    left_out.map(|others| others.records).sum()
}

/// The numbers of the run, as lines of a name and a value.
fn statistics(text: &mut String, report: &Report) {
    let rows = match report.mode {
        Mode::DryRun if report.status == Status::Interrupted => Vec::new(),
        Mode::DryRun => of_dry_run(report),
        Mode::Migrate if report.totals.selected > 0 => of_migration(report),
        Mode::Migrate => Vec::new(),
        Mode::Verify => of_verification(report),
    };
    for (name, value) in rows {
        let _ = write!(text, "\n  {name:<24}{value:>12}");
    }
    if report.mode == Mode::Migrate && report.totals.selected > 0 {
        let _ = write!(
            text,
            "  ({} records/s, {}/s)",
            grouped(report.records_per_second as u64),
            in_bytes(report.bytes_per_second)
        );
    }
}

type Rows = Vec<(&'static str, String)>;

/// Those of the numbers that are not 0.
fn if_any<const N: usize>(numbers: [(&'static str, u64); N]) -> impl Iterator<Item = (&'static str, String)> {
    let some = numbers.into_iter().filter(|(_, number)| *number > 0);
    some.map(|(name, number)| (name, grouped(number)))
}

fn of_dry_run(report: &Report) -> Rows {
    let mut rows = vec![(
        "To move:",
        grouped(report.to_move.unwrap_or(report.totals.selected)),
    )];
    let known = [
        ("New to the target:", report.new),
        ("Already on the target:", report.existing),
    ];
    rows.extend(
        known
            .into_iter()
            .filter_map(|(name, number)| Some((name, grouped(number?)))),
    );
    rows
}

fn of_migration(report: &Report) -> Rows {
    let (totals, batches) = (&report.totals, &report.batches);
    let not_selected = not_selected(report);
    let mut rows = vec![("Total source records:", grouped(totals.selected + not_selected))];
    if not_selected > 0 {
        rows.push(("Not selected (--types):", grouped(not_selected)));
        rows.push(("To move:", grouped(totals.selected)));
    }
    rows.push(("Total batches:", grouped(batches.total)));
    rows.push(("Successful batches:", grouped(batches.ok)));
    rows.extend(if_any([("Batches with rejects:", batches.partial)]));
    rows.push(("Failed batches:", grouped(batches.failed)));
    rows.push(("Successfully migrated:", grouped(totals.written)));
    if let (Some(new), Some(replaced @ 1..)) = (report.new, report.replaced) {
        rows.push(("  New to the target:", grouped(new)));
        rows.push(("  Replaced:", grouped(replaced)));
    }
    rows.extend(if_any([
        ("Copies added (--rekey):", report.rekeyed),
        ("Skipped (already there):", totals.skipped),
        ("Sanitized:", totals.sanitized),
        ("Not attempted:", totals.not_attempted),
    ]));
    rows.push(("Failed to migrate:", grouped(totals.rejected)));
    if let Some(rate) = report.success_rate {
        rows.push(("Success rate:", format!("{rate:.2}%")));
    }
    let (compared, keys) = report
        .read_back
        .as_ref()
        .map_or((0, 0), |found| (found.records, found.keys));
    rows.extend(if_any([
        ("Read back and compared:", compared),
        ("Only looked up:", keys),
    ]));
    let duration = Duration::from_millis(report.duration_ms);
    rows.push(("Duration:", duration_text(duration)));
    let written = if report.rekeyed > 0 {
        "Written without copies:"
    } else {
        "Written:"
    };
    rows.push((written, in_bytes(totals.bytes)));
    rows
}

fn of_verification(report: &Report) -> Rows {
    let Some(found) = &report.verification else {
        return Vec::new();
    };
    let found = &found.numbers;
    let mut rows = vec![
        ("Compared:", grouped(found.compared)),
        ("Equal:", grouped(found.equal)),
        ("Missing:", grouped(found.missing)),
        ("Different:", grouped(found.different)),
    ];
    rows.extend(if_any([
        ("Different, but kept:", found.kept),
        ("Not storable:", found.unmovable),
        ("Invalid at the source:", found.invalid),
        ("Copies:", found.copies),
        ("Only on the target:", found.beyond.unwrap_or_default()),
    ]));
    rows
}

/// A number of bytes, as `48.9 MiB`.
fn in_bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A duration, to a tenth of a second if it is below a minute, else to a second.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration < Duration::from_secs(60) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}

fn errors(text: &mut String, report: &Report, width: usize) {
    let errors = &report.errors;
    if report.totals.rejected == 0 {
        return;
    }
    let _ = write!(text, "\n\nErrors encountered: {}", grouped(errors.total));
    for (kind, number) in &errors.by_kind {
        let _ = write!(text, "\n  - {kind}: {}", grouped_of(*number, "occurrence"));
    }
    // An error that ended the run names no record, and has been printed already.
    let of_records: Vec<_> = errors
        .first
        .iter()
        .filter(|sample| !sample.keys.is_empty())
        .collect();
    let listed = of_records.len().min(MOST_ERRORS);
    let _ = match listed {
        1 => write!(text, "\nFirst error:"),
        _ => write!(text, "\nFirst {listed} errors:"),
    };
    for (at, sample) in of_records.into_iter().take(MOST_ERRORS).enumerate() {
        let key = sample.keys.first().map_or("", String::as_str);
        let more = match sample.records.saturating_sub(1) {
            0 => String::new(),
            more => format!(" and {} more", grouped(more)),
        };
        let key = cut(key, width.saturating_sub(5 + more.len()));
        let batch = sample
            .batch
            .map(|batch| format!("batch {batch}, "))
            .unwrap_or_default();
        let what = format!("{batch}{}: {}", sample.kind, sample.message);
        let _ = write!(
            text,
            "\n  {}. {key}{more}\n     {}",
            at + 1,
            cut(&what, width.saturating_sub(5))
        );
    }
    if report.totals.rejected > listed as u64 {
        let more = match &report.rejects {
            Some(file) => format!("All rejected records are in {file}"),
            None => "Further rejects are not listed; use --rejects FILE to save them all".to_owned(),
        };
        let _ = write!(text, "\n{}", wrap(&more, width, ""));
    }
    text.push('\n');
}

/// The first keys that differ between source and target, with the fields that differ.
fn differences(text: &mut String, report: &Report, width: usize) {
    let read_back = report.read_back.as_ref().map(|found| &found.first);
    let verification = report.verification.as_ref();
    let lists = [
        ("Differences", read_back),
        ("Differences", verification.map(|found| &found.first)),
        (
            "Different, but kept on the target",
            verification.map(|found| &found.first_kept),
        ),
    ];
    for (title, list) in lists {
        let list = list.map(Vec::as_slice).unwrap_or_default();
        if list.is_empty() {
            continue;
        }
        let _ = write!(text, "\n\n{title}:");
        for difference in list.iter().take(MOST_ERRORS) {
            let what = match difference.fields.as_slice() {
                [] => "missing".to_owned(),
                fields => fields.join(", "),
            };
            let key = match report.workspaces.len() {
                0 | 1 => difference.key.clone(),
                _ => format!("{}: {}", difference.workspace, difference.key),
            };
            let key = cut(&key, width.saturating_sub(2));
            let _ = write!(text, "\n  {key}\n     {}", cut(&what, width.saturating_sub(5)));
        }
        if list.len() > MOST_ERRORS {
            let more = match &report.differences {
                Some(file) => format!("\n  All differences are in {file}"),
                None => "\n  Further differences are not listed; use --differences FILE to save them all"
                    .to_owned(),
            };
            text.push_str(&more);
        }
    }
}

/// The result in one line, unless the next step says it.
fn verdict(report: &Report, palette: Palette) -> Option<String> {
    let totals = &report.totals;
    Some(match (report.status, report.mode) {
        (Status::Ok, Mode::DryRun) => palette.good("✓ Nothing was written"),
        (Status::Ok, Mode::Migrate) if totals.selected > 0 => palette.good(&success(report)),
        (Status::Ok, _) | (Status::Interrupted, _) => return None,
        (Status::Partial, _) if totals.rejected == 0 => {
            palette.warning("WARNING: Part of the source could not be read and was not migrated")
        }
        (Status::Partial, _) => palette.warning("WARNING: Migration completed with errors!"),
        (Status::Failed, Mode::DryRun) => palette.bad("✗ Failed: nothing was written"),
        (Status::Failed, Mode::Migrate) if totals.written == 0 && report.batches.total == 0 => {
            palette.bad("✗ Failed: nothing was written")
        }
        (Status::Failed, _) => palette.bad("✗ Failed"),
        (Status::Refused, _) => palette.bad("✗ Not started: nothing was written"),
        (Status::Differences, _) => palette.bad("✗ Differences found"),
    })
}

/// The result of a run without errors.
fn success(report: &Report) -> String {
    let totals = &report.totals;
    let skipped = grouped(totals.skipped);
    if totals.written == 0 && report.rekeyed > 0 {
        let copies = plural(report.rekeyed, "copy", "copies");
        return format!("✓ SUCCESS: {} {copies} added", grouped(report.rekeyed));
    }
    match (totals.written, totals.skipped) {
        (_, 0) if not_selected(report) > 0 => {
            "✓ SUCCESS: All selected records migrated successfully!".to_owned()
        }
        (_, 0) => "✓ SUCCESS: All records migrated successfully!".to_owned(),
        (0, 1) => "✓ Nothing was written: the target already has the record".to_owned(),
        (0, _) => format!("✓ Nothing was written: the target already has all {skipped} records"),
        _ => {
            let written = grouped_of(totals.written, "record");
            format!("✓ SUCCESS: {written} migrated, {skipped} skipped (already there)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Error, ErrorKind, Side, VerifyLevel, Workspace},
        report::{
            BatchTotals, Difference, DifferenceKind, RunNumbers, RunOutcome, Totals, Verification,
            WorkspaceReport,
        },
        system::shutdown::StopReason,
    };

    const WIDTH: usize = 80;

    /// The summary of a run with these numbers and this outcome.
    fn summary(
        mode: Mode,
        totals: Totals,
        ending: &RunOutcome,
        fill: impl FnOnce(&mut RunNumbers),
    ) -> String {
        let mut numbers = RunNumbers::new(mode);
        numbers.workspaces.push(WorkspaceReport {
            from: Workspace::default(),
            to: Workspace::default(),
            source_records: Some(totals.selected),
            target_records_before: Some(0),
            target_records_after: None,
            rehearsal: None,
            new: None,
            totals,
            by_cache_type: Default::default(),
            left_out: None,
        });
        fill(&mut numbers);
        let report = Report {
            duration_ms: 9_120,
            records_per_second: 957.1,
            bytes_per_second: 5_617_825,
            ..numbers.into_report(ending)
        };
        let text = text(&report, Palette::new(false), Some(WIDTH));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        text
    }

    fn totals(written: u64, rejected: u64, not_attempted: u64) -> Totals {
        Totals {
            selected: written + rejected + not_attempted,
            written,
            rejected,
            not_attempted,
            bytes: 51_234_567,
            ..Totals::default()
        }
    }

    #[test]
    fn a_complete_migration() {
        let text = summary(Mode::Migrate, totals(8_734, 0, 0), &RunOutcome::Done, |numbers| {
            numbers.batches = BatchTotals {
                total: 9,
                ok: 9,
                ..BatchTotals::default()
            };
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn rejected_records_by_kind_and_by_example() {
        let text = summary(
            Mode::Migrate,
            totals(7_728, 1_006, 0),
            &RunOutcome::Done,
            |numbers| {
                numbers.batches = BatchTotals {
                    total: 9,
                    ok: 7,
                    partial: 2,
                    ..BatchTotals::default()
                };
                for number in 0..1_000 {
                    numbers.errors.reject(
                        &Workspace::default(),
                        2,
                        "value_too_large",
                        "16 MiB is the most",
                        &format!("default:extract:{number}"),
                    );
                }
                let key = format!("default:summary:{}", "k".repeat(200));
                for number in 0..6 {
                    numbers.errors.reject(
                        &Workspace::default(),
                        3,
                        "invalid_field",
                        &format!("field {number} {}", "x".repeat(90)),
                        &key,
                    );
                }
            },
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_error_that_ended_a_run_is_not_repeated() {
        let error = Error::new(ErrorKind::ConnectionLost, "the server hung up")
            .on(Side::Target)
            .in_batch(6)
            .of_records(1_000);
        let text = summary(
            Mode::Migrate,
            totals(5_000, 0, 3_734),
            &RunOutcome::of(&error),
            |numbers| {
                numbers.errors.fatal(&error);
            },
        );
        assert!(!text.contains("hung up") && text.ends_with("✗ Failed"), "{text}");
        assert!(text.contains("Not attempted:                 3,734"), "{text}");
    }

    #[test]
    fn a_stopped_run_says_what_was_written_and_how_to_finish() {
        let ending = RunOutcome::Stopped(StopReason::Interrupted);
        let begun = |numbers: &mut RunNumbers| numbers.batches.total = 6;
        let text = summary(Mode::Migrate, totals(5_000, 0, 3_734), &ending, |numbers| {
            begun(numbers);
            numbers.checkpoint = Some("c".to_owned());
        });
        assert!(
            text.starts_with("\nMigration Not Complete - Final Report"),
            "{text}"
        );
        assert!(
            text.ends_with("What was written stays. To finish, add --resume."),
            "{text}"
        );
        let next = |totals, fill: &dyn Fn(&mut RunNumbers)| {
            summary(Mode::Migrate, totals, &ending, fill).replace('\n', " ")
        };
        let text = next(totals(5_000, 0, 3_734), &begun);
        assert!(text.ends_with("skips the records that were written."), "{text}");
        // The outcome of the failed batches is unknown.
        let text = next(totals(0, 0, 8_734), &begun);
        assert!(
            text.ends_with("(SIGINT). To finish, run the same command again."),
            "{text}"
        );
        let text = next(totals(0, 0, 8_734), &|_| ());
        assert!(
            text.ends_with("Nothing was written. To finish, run the same command again."),
            "{text}"
        );
    }

    #[test]
    fn rejects_that_are_not_listed_can_be_saved_or_sanitized() {
        let rejected = |kind: &'static str, file: Option<&str>| {
            summary(Mode::Migrate, totals(1, 2, 0), &RunOutcome::Done, |numbers| {
                numbers.rejects = file.map(str::to_owned);
                for key in ["a", "b"] {
                    numbers
                        .errors
                        .reject(&Workspace::default(), 1, kind, "refused", key);
                }
            })
        };
        let text = rejected("invalid_json", None);
        assert!(
            text.contains(": 2 occurrences\nFirst error:\n  1. a and 1 more"),
            "{text}"
        );
        assert!(text.contains("use --rejects FILE to save them all"), "{text}");
        assert!(text.contains("Fix the rejected records at the source"), "{text}");
        let text = rejected("invalid_json", Some("r.jsonl"));
        assert!(text.contains("All rejected records are in r.jsonl"), "{text}");
        let one_line = text.replace('\n', " ");
        assert!(
            one_line.contains("move them with --source r.jsonl --all-workspaces --types all."),
            "{text}"
        );
        let text = rejected("nul_character", None);
        assert!(text.contains("--on-invalid sanitize"), "{text}");
    }

    #[test]
    fn the_error_that_ended_a_run_is_not_listed_among_the_rejects() {
        let text = summary(Mode::Migrate, totals(0, 2, 0), &RunOutcome::Done, |numbers| {
            numbers
                .errors
                .reject(&Workspace::default(), 1, "conflict", "is there", "a");
            numbers.errors.fatal(&Error::new(
                ErrorKind::Conflict,
                "2 of the 2 records are already there",
            ));
        });
        assert!(text.contains("First error:\n  1. a"), "{text}");
        assert!(!text.contains("are already there"), "{text}");
    }

    #[test]
    fn a_run_that_did_nothing_has_no_statistics() {
        for (mode, ending) in [
            (Mode::Migrate, RunOutcome::Done),
            (Mode::Migrate, RunOutcome::Left),
        ] {
            let text = summary(mode, totals(0, 0, 0), &ending, |_| ());
            assert!(!text.contains("Final Report") && !text.contains(':'), "{text}");
        }
        let refused = RunOutcome::of(&Error::new(ErrorKind::NotConfirmed, "no"));
        let text = summary(Mode::Migrate, totals(0, 0, 10), &refused, |_| ());
        assert_eq!(text, "\n✗ Not started: nothing was written");
        let counted = summary(Mode::DryRun, totals(0, 0, 10), &RunOutcome::Done, |_| ());
        assert!(
            counted.contains("To move:                          10"),
            "{counted}"
        );
    }

    #[test]
    fn a_run_that_skipped_everything_says_that_nothing_was_written() {
        let skipped = |written| Totals {
            selected: 10,
            written,
            skipped: 10 - written,
            ..Totals::default()
        };
        let text = summary(Mode::Migrate, skipped(0), &RunOutcome::Done, |_| ());
        assert!(text.starts_with("\nNothing Written"), "{text}");
        assert!(
            text.contains("✓ Nothing was written: the target already has all 10 records"),
            "{text}"
        );
        let text = summary(Mode::Migrate, skipped(4), &RunOutcome::Done, |_| ());
        assert!(
            text.contains("4 records migrated, 6 skipped (already there)"),
            "{text}"
        );
    }

    #[test]
    fn the_first_differences_are_named_with_their_fields() {
        let difference = |n: usize, kind, fields: &[&str]| Difference {
            workspace: Workspace::default(),
            key: format!("default:extract:{n}"),
            kind,
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        let error = Error::new(ErrorKind::Differences, "7 differ");
        let text = summary(
            Mode::Verify,
            totals(0, 0, 10),
            &RunOutcome::of(&error),
            |numbers| {
                let mut found = Verification::new(VerifyLevel::Full);
                for n in 0..6 {
                    found.note(difference(n, DifferenceKind::Different, &["return", "chunk_id"]));
                }
                found.note(difference(6, DifferenceKind::Missing, &[]));
                found.note(difference(7, DifferenceKind::Kept, &["return"]));
                numbers.verification = Some(found);
            },
        );
        assert!(
            text.contains("Differences:\n  default:extract:0\n     return, chunk_id\n"),
            "{text}"
        );
        assert!(text.contains("use --differences FILE to save them all"), "{text}");
        assert!(
            text.contains("Different, but kept on the target:\n  default:extract:7\n     return"),
            "{text}"
        );
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration_text(Duration::from_millis(9_120)), "9.1 s");
        assert_eq!(duration_text(Duration::from_millis(3_723_500)), "1h 2m 3s");
    }
}
