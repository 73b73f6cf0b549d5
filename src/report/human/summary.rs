//! The report in words: what the readers of LightRAG's guide know, and what to do next.

use std::{fmt::Write as _, time::Duration};

use bytesize::ByteSize;

use crate::{
    config::Mode,
    report::{
        Palette, Report, Status,
        style::{cut, grouped, wrap},
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
        (_, Mode::Migrate) => Some("Migration Complete - Final Report"),
    }
}

fn statistics(text: &mut String, report: &Report) {
    let totals = &report.totals;
    let row = |text: &mut String, name: &str, value: String| {
        let _ = write!(text, "\n  {name:<24}{value:>12}");
    };
    match report.mode {
        Mode::DryRun if report.status == Status::Ok => row(text, "To move:", grouped(totals.selected)),
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
            row(text, "Success rate:", format!("{:.2}%", report.success_rate));
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
fn duration_text(duration: Duration) -> String {
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
        let _ = write!(text, "\n  - {kind}: {} occurrence(s)", grouped(*number));
    }
    let shown = errors.first.len().min(MOST_ERRORS);
    let _ = write!(text, "\nFirst {shown} errors:");
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

/// How it ended, in a line; none where the sentence about what to do next says it.
fn verdict(report: &Report, palette: Palette) -> Option<String> {
    let totals = &report.totals;
    Some(match (report.status, report.mode) {
        (Status::Ok, Mode::DryRun) => palette.good("✓ Nothing was written"),
        (Status::Ok, Mode::Migrate) if totals.selected > 0 => {
            palette.good("✓ SUCCESS: All records migrated successfully!")
        }
        (Status::Ok, _) | (Status::Interrupted, _) => return None,
        (Status::Partial, _) if totals.rejected == 0 => {
            palette.caution("WARNING: What is whole of a damaged source was migrated")
        }
        (Status::Partial, _) => palette.caution("WARNING: Migration completed with errors!"),
        (Status::Failed, _) => palette.bad("✗ FAILED"),
        (Status::Refused, _) => palette.bad("✗ Not begun: nothing was written"),
        (Status::Differences, _) => palette.bad("✗ Differences found"),
    })
}
