//! The report in words: what the readers of LightRAG's guide know, and what to do next.

use std::{fmt::Write as _, time::Duration};

use bytesize::ByteSize;

use super::hits;
use crate::{
    model::{Mode, plural},
    report::{
        Palette, Report, Status,
        style::{cut, grouped, grouped_of, wrap},
    },
};

/// How many errors are shown.
const MOST_ERRORS: usize = 5;
/// The width of a text that no terminal bounds.
const UNBOUNDED: usize = usize::MAX;

/// The report. A `width` bounds its lines; without one they are as long as what they say.
pub(super) fn text(report: &Report, palette: Palette, width: Option<usize>) -> String {
    let width = width.unwrap_or(UNBOUNDED);
    let mut text = String::new();
    if let Some(title) = title(report) {
        let _ = write!(text, "\n{}", palette.strong(title));
        statistics(&mut text, report);
        errors(&mut text, report, width);
    }
    differences(&mut text, report, width);
    if let Some(foretold) = &report.hits {
        let _ = write!(text, "\n\n{}", wrap(&hits::sentence(foretold), width, ""));
    }
    if let Some(verdict) = verdict(report, palette) {
        let _ = write!(text, "\n{verdict}");
    }
    // What ended a run otherwise was told with its remedy when it happened.
    if !matches!(
        report.status,
        Status::Failed | Status::Refused | Status::Differences
    ) {
        let _ = write!(text, "\n{}", wrap(&report.next, width, ""));
    }
    text
}

/// The heading; none over a run that did nothing.
fn title(report: &Report) -> Option<&'static str> {
    let did_nothing = report.totals.selected == 0 || report.status == Status::Refused;
    match (report.status, report.mode) {
        (_, Mode::DryRun) => Some("Dry Run - Final Report"),
        (_, Mode::Verify) => Some("Verification - Final Report"),
        (_, Mode::Migrate) if did_nothing => None,
        (Status::Failed | Status::Interrupted, Mode::Migrate) => {
            Some("Migration Not Complete - Final Report")
        }
        (Status::Ok, Mode::Migrate) if report.totals.written == 0 => Some("Nothing Written - Final Report"),
        (_, Mode::Migrate) => Some("Migration Complete - Final Report"),
    }
}

fn statistics(text: &mut String, report: &Report) {
    let totals = &report.totals;
    let row = |text: &mut String, name: &str, value: String| {
        let _ = write!(text, "\n  {name:<24}{value:>12}");
    };
    match report.mode {
        Mode::DryRun if matches!(report.status, Status::Ok | Status::Partial) => {
            row(
                text,
                "To move:",
                grouped(report.to_move.unwrap_or(totals.selected)),
            );
            for (name, number) in [
                ("New at the target:", report.new),
                ("There already:", report.existing),
            ] {
                if let Some(number) = number {
                    row(text, name, grouped(number));
                }
            }
        }
        Mode::Migrate if totals.selected > 0 && report.status != Status::Refused => {
            let batches = &report.batches;
            row(text, "Total source records:", grouped(totals.selected));
            row(text, "Total batches:", grouped(batches.total));
            row(text, "Successful batches:", grouped(batches.ok));
            if batches.partial > 0 {
                row(text, "Batches with rejects:", grouped(batches.partial));
            }
            row(text, "Failed batches:", grouped(batches.failed));
            row(text, "Successfully migrated:", grouped(totals.written));
            for (name, number) in [
                ("Skipped, there already:", totals.skipped),
                ("Changed to be held:", totals.sanitized),
                ("Not attempted:", totals.not_attempted),
            ] {
                if number > 0 {
                    row(text, name, grouped(number));
                }
            }
            row(text, "Failed to migrate:", grouped(totals.rejected));
            if let Some(rate) = report.success_rate {
                row(text, "Success rate:", format!("{rate:.2}%"));
            }
            if let Some(found) = report.read_back.as_ref().filter(|found| found.records > 0) {
                row(text, "Read back and compared:", grouped(found.records));
            }
            let duration = Duration::from_millis(report.duration_ms);
            let bytes = |number| ByteSize(number).display().iec().to_string();
            row(text, "Duration:", duration_text(duration));
            row(text, "Written:", bytes(totals.bytes));
            let _ = write!(
                text,
                "  ({} records/s, {}/s)",
                grouped(report.records_per_second as u64),
                bytes(report.bytes_per_second)
            );
        }
        _ => {}
    }
}

/// A duration to a tenth of a second below a minute, to a second above.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration < Duration::from_secs(60) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}

fn errors(text: &mut String, report: &Report, width: usize) {
    let errors = &report.errors;
    // One error that ended the run was told already.
    if report.totals.rejected == 0 {
        return;
    }
    let _ = write!(text, "\n\nErrors encountered: {}", grouped(errors.total));
    for (kind, number) in &errors.by_kind {
        let _ = write!(text, "\n  - {kind}: {}", grouped_of(*number, "occurrence"));
    }
    let shown = errors.first.len().min(MOST_ERRORS);
    match shown {
        1 => text.push_str("\nFirst error:"),
        shown => {
            let _ = write!(text, "\nFirst {shown} errors:");
        }
    }
    for (at, sample) in errors.first.iter().take(MOST_ERRORS).enumerate() {
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
    text.push('\n');
}

/// What differs between source and target: the first keys, and in which fields.
fn differences(text: &mut String, report: &Report, width: usize) {
    let read_back = report.read_back.as_ref().map(|found| &found.first);
    let verification = report.verification.as_ref();
    let lists = [
        ("Differences", read_back),
        ("Differences", verification.map(|found| &found.first)),
        (
            "Kept at the target, different",
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
            let key = cut(&difference.key, width.saturating_sub(2));
            let _ = write!(text, "\n  {key}\n     {}", cut(&what, width.saturating_sub(5)));
        }
        if list.len() > MOST_ERRORS {
            let more = match &report.differences {
                Some(file) => format!("\n  More are in {file}"),
                None => "\n  More are in the report, and all of them with --differences FILE".to_owned(),
            };
            text.push_str(&more);
        }
    }
}

/// How it ended, in a line; none where the sentence about what to do next says it.
fn verdict(report: &Report, palette: Palette) -> Option<String> {
    let totals = &report.totals;
    Some(match (report.status, report.mode) {
        (Status::Ok, Mode::DryRun) => palette.good("✓ Nothing was written"),
        (Status::Ok, Mode::Migrate) if totals.selected > 0 => palette.good(&success(report)),
        (Status::Ok, _) | (Status::Interrupted, _) => return None,
        (Status::Partial, _) if totals.rejected == 0 => {
            palette.warning("WARNING: Some of the source could not be read and was not migrated")
        }
        (Status::Partial, _) => palette.warning("WARNING: Migration completed with errors!"),
        (Status::Failed, Mode::Migrate) if totals.written == 0 && report.batches.total == 0 => {
            palette.bad("✗ Failed: nothing was written")
        }
        (Status::Failed, _) => palette.bad("✗ Failed"),
        (Status::Refused, _) => palette.bad("✗ Not begun: nothing was written"),
        (Status::Differences, _) => palette.bad("✗ Differences found"),
    })
}

/// What a run did that failed nowhere.
fn success(report: &Report) -> String {
    let totals = &report.totals;
    if totals.written == 0 && report.rekeyed > 0 {
        return format!(
            "✓ SUCCESS: {} {} added",
            grouped(report.rekeyed),
            plural(report.rekeyed, "copy was", "copies were")
        );
    }
    match (totals.written, totals.skipped) {
        (_, 0) => "✓ SUCCESS: All records migrated successfully!".to_owned(),
        (0, 1) => "✓ Nothing was written: the target has the key already".to_owned(),
        (0, skipped) => format!(
            "✓ Nothing was written: the target has all {} keys already",
            grouped(skipped)
        ),
        (written, skipped) => format!(
            "✓ SUCCESS: {} migrated, {} left as the target had {}",
            grouped_of(written, "record"),
            grouped(skipped),
            plural(skipped, "it", "them")
        ),
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

    /// What a run that ended so is told to have done.
    fn told(mode: Mode, totals: Totals, ending: &RunOutcome, fill: impl FnOnce(&mut RunNumbers)) -> String {
        let mut numbers = RunNumbers::new(mode);
        numbers.workspaces.push(WorkspaceReport {
            from: Workspace::default(),
            to: Workspace::default(),
            source_records: Some(totals.selected),
            target_records_before: Some(0),
            target_records_after: None,
            rehearsal: None,
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
    fn a_whole_migration_is_told_as_the_guide_tells_it() {
        let text = told(Mode::Migrate, totals(8_734, 0, 0), &RunOutcome::Done, |numbers| {
            numbers.batches = BatchTotals {
                total: 9,
                ok: 9,
                ..BatchTotals::default()
            };
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn rejected_records_are_told_by_kind_and_by_example() {
        let text = told(
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
    fn what_ended_a_run_is_told_once() {
        let error = Error::new(ErrorKind::ConnectionLost, "the server hung up")
            .on(Side::Target)
            .in_batch(6)
            .of_records(1_000);
        let text = told(
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
    fn a_run_that_was_stopped_says_what_stays_and_how_to_go_on() {
        let ending = RunOutcome::Stopped(StopReason::Interrupted);
        let text = told(Mode::Migrate, totals(5_000, 0, 3_734), &ending, |numbers| {
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
    }

    #[test]
    fn a_run_that_did_nothing_has_no_statistics() {
        for (mode, ending) in [
            (Mode::Migrate, RunOutcome::Done),
            (Mode::Migrate, RunOutcome::Left),
        ] {
            let text = told(mode, totals(0, 0, 0), &ending, |_| ());
            assert!(!text.contains("Final Report") && !text.contains(':'), "{text}");
        }
        let refused = RunOutcome::of(&Error::new(ErrorKind::NotConfirmed, "no"));
        let text = told(Mode::Migrate, totals(0, 0, 10), &refused, |_| ());
        assert_eq!(text, "\n✗ Not begun: nothing was written");
        let counted = told(Mode::DryRun, totals(0, 0, 10), &RunOutcome::Done, |_| ());
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
        let text = told(Mode::Migrate, skipped(0), &RunOutcome::Done, |_| ());
        assert!(text.starts_with("\nNothing Written"), "{text}");
        assert!(
            text.contains("✓ Nothing was written: the target has all 10 keys already"),
            "{text}"
        );
        let text = told(Mode::Migrate, skipped(4), &RunOutcome::Done, |_| ());
        assert!(
            text.contains("4 records migrated, 6 left as the target had them"),
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
        let text = told(
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
        assert!(text.contains("all of them with --differences FILE"), "{text}");
        assert!(
            text.contains("Kept at the target, different:\n  default:extract:7\n     return"),
            "{text}"
        );
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration_text(Duration::from_millis(9_120)), "9.1 s");
        assert_eq!(duration_text(Duration::from_millis(3_723_500)), "1h 2m 3s");
    }
}
