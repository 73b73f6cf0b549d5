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
    let mut text = format!("\n{}", palette.strong(title(report)));
    statistics(&mut text, report);
    errors(&mut text, report, width);
    let _ = write!(text, "\n{}", verdict(report, palette));
    // What ended a run otherwise was told with its remedy when it happened.
    if !matches!(
        report.status,
        Status::Failed | Status::Refused | Status::Differences
    ) {
        let _ = write!(text, "\n{}", wrap(&report.next, width, ""));
    }
    text
}

fn title(report: &Report) -> &'static str {
    match (report.status, report.mode) {
        (Status::Refused, _) => "Nothing was done",
        (_, Mode::DryRun) => "Dry run - Final Report",
        (_, Mode::Verify) => "Verification - Final Report",
        (Status::Ok | Status::Partial | Status::Differences, Mode::Migrate) => {
            "Migration Complete - Final Report"
        }
        (Status::Failed | Status::Interrupted, Mode::Migrate) => "Migration Not Complete - Final Report",
    }
}

fn statistics(text: &mut String, report: &Report) {
    let totals = &report.totals;
    let mut row = |name: &str, value: String| {
        let _ = write!(text, "\n  {name:<24}{value:>12}");
    };
    match report.mode {
        Mode::DryRun if report.status == Status::Ok => row("To move:", grouped(totals.selected)),
        Mode::Migrate if totals.selected > 0 && report.status != Status::Refused => {
            let batches = &report.batches;
            row("Total source records:", grouped(totals.selected));
            row("Total batches:", grouped(batches.total));
            row("Successful batches:", grouped(batches.ok));
            if batches.partial > 0 {
                row("Batches with rejects:", grouped(batches.partial));
            }
            row("Failed batches:", grouped(batches.failed));
            row("Successfully migrated:", grouped(totals.written));
            for (name, number) in [
                ("Skipped, there already:", totals.skipped),
                ("Changed to be held:", totals.sanitized),
                ("Not attempted:", totals.not_attempted),
            ] {
                if number > 0 {
                    row(name, grouped(number));
                }
            }
            row("Failed to migrate:", grouped(totals.rejected));
            row("Success rate:", format!("{:.2}%", report.success_rate));
            let duration = Duration::from_millis(report.duration_ms);
            let bytes = |number| ByteSize(number).display().iec().to_string();
            row("Duration:", duration_text(duration));
            row("Written:", bytes(totals.bytes));
            row(
                "Per second:",
                format!("{} records", grouped(report.records_per_second as u64)),
            );
            row("", bytes(report.bytes_per_second));
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
        let mut head = format!("  {}. ", at + 1);
        if let Some(batch) = sample.batch {
            let _ = write!(head, "Batch {batch}, ");
        }
        let _ = write!(head, "{}, {} record(s)", sample.kind, grouped(sample.records));
        if let Some(key) = sample.keys.first() {
            let _ = write!(head, ": {key}");
        }
        let _ = write!(
            text,
            "\n{}\n     {}",
            cut(&head, width),
            cut(&sample.message, width.saturating_sub(5))
        );
    }
    text.push('\n');
}

fn verdict(report: &Report, palette: Palette) -> String {
    let totals = &report.totals;
    match (report.status, report.mode) {
        (Status::Ok, Mode::DryRun) => palette.good("✓ Nothing was written"),
        (Status::Ok, Mode::Verify) => palette.good("✓ SUCCESS: Source and target agree"),
        (Status::Ok, Mode::Migrate) if totals.selected == 0 => "Nothing was to be done".to_owned(),
        (Status::Ok, Mode::Migrate) => palette.good("✓ SUCCESS: All records migrated successfully!"),
        (Status::Partial, _) if totals.rejected == 0 => {
            palette.caution("WARNING: What is whole of a damaged source was migrated")
        }
        (Status::Partial, _) => palette.caution("WARNING: Migration completed with errors!"),
        (Status::Failed, _) => palette.bad("✗ FAILED"),
        (Status::Refused, _) => palette.bad("✗ Not begun"),
        (Status::Interrupted, _) => palette.caution("Stopped"),
        (Status::Differences, _) => palette.bad("✗ Differences found"),
    }
}
