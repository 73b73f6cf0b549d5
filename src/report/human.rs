//! Events in words, for a person at a terminal.

use std::fmt::Write as _;

use super::{BatchStatus, Event, Report, Status};
use crate::{config::Mode, error::Side};

/// An event in words; `None` where there is nothing to say. `quiet` leaves errors alone.
pub(super) fn text(event: &Event, quiet: bool) -> Option<String> {
    if quiet {
        return None;
    }
    match event {
        Event::RunStarted(_) => None,
        Event::Plan(plan) => {
            let mut text = format!("Source: {}\nTarget: {}\nWorkspaces:", plan.source, plan.target);
            for pair in &plan.workspaces {
                if pair.from == pair.to {
                    let _ = write!(text, " {}", pair.from);
                } else {
                    let _ = write!(text, " {} -> {}", pair.from, pair.to);
                }
            }
            let types: Vec<_> = plan.types.types().map(|t| t.as_str()).collect();
            let _ = write!(text, "\nTypes: {}", types.join(", "));
            Some(text)
        }
        Event::CountProgress(progress) => Some(format!(
            "Counting the {} ({}): {} looked at so far",
            progress.side,
            progress.workspace,
            grouped(progress.scanned)
        )),
        Event::Count(count) => {
            let verb = match count.side {
                Side::Source => "to move",
                Side::Target => "there already",
            };
            let about = if count.exact { "" } else { "about " };
            Some(format!(
                "Workspace {}: {about}{} records {verb} ({})",
                count.workspace,
                grouped(count.records),
                count.side
            ))
        }
        Event::Batch(batch) => {
            let mark = match batch.status {
                BatchStatus::Ok => "ok",
                BatchStatus::Partial => "some rejected",
                BatchStatus::Failed => "FAILED",
            };
            let cache_type = batch.cache_type.map(|t| format!(" {t}")).unwrap_or_default();
            Some(format!(
                "Workspace {}: batch {}/{}: {}/{} ({:.1}%){cache_type} {mark}",
                batch.workspace,
                batch.batch,
                batch.batches,
                grouped(batch.done),
                grouped(batch.total),
                batch.percent
            ))
        }
        Event::Retry(retry) => Some(format!(
            "Trying again in {} ms ({} of {}): {}",
            retry.wait_ms, retry.attempt, retry.retries, retry.message
        )),
        Event::Checkpoint(_) => None,
        Event::Verify(verify) => {
            let numbers = &verify.numbers;
            let state = if verify.complete { "Verified" } else { "Verifying" };
            Some(format!(
                "{state} workspace {}: {} compared, {} missing, {} different{}",
                verify.workspace,
                grouped(numbers.compared),
                grouped(numbers.missing),
                grouped(numbers.different),
                numbers
                    .beyond
                    .map(|beyond| format!(", {} more at the target", grouped(beyond)))
                    .unwrap_or_default()
            ))
        }
        Event::Reject(reject) => Some(format!("Rejected {}: {}", reject.key, reject.reason)),
        Event::Warning(warning) => Some(format!("Warning: {}", warning.message)),
        Event::Report(report) => Some(final_text(report)),
    }
}

fn final_text(report: &Report) -> String {
    let totals = &report.totals;
    let headline = match (report.status, report.mode) {
        (Status::Ok, Mode::DryRun) => "Dry run: nothing was written",
        (Status::Ok, Mode::Migrate) => "Done",
        (Status::Ok, Mode::Verify) => "Verified: source and target agree",
        (Status::Partial, _) if totals.rejected == 0 => "Done with what is whole of a damaged source",
        (Status::Partial, _) => "Done, but some records were rejected",
        (Status::Failed, _) => "Failed",
        (Status::Refused, _) => "Not begun",
        (Status::Interrupted, _) => "Stopped",
        (Status::Differences, _) => "Differences found",
    };
    let mut text = format!("\n{headline}");
    if report.mode == Mode::DryRun && report.status == Status::Ok {
        let _ = write!(text, "\n  to move        {:>12}", grouped(totals.selected));
    } else if totals.selected > 0 && report.mode == Mode::Migrate && report.status != Status::Refused {
        let rows = [
            ("selected", totals.selected),
            ("written", totals.written),
            ("skipped", totals.skipped),
            ("rejected", totals.rejected),
            ("not attempted", totals.not_attempted),
        ];
        for (name, number) in rows {
            let _ = write!(text, "\n  {name:<14} {:>12}", grouped(number));
        }
        let _ = write!(
            text,
            "\n  success rate   {:>11.2}%\n  duration       {:>12}",
            report.success_rate,
            humantime::format_duration(std::time::Duration::from_millis(report.duration_ms)).to_string()
        );
    }
    if totals.rejected > 0 {
        for (kind, number) in &report.errors.by_kind {
            let _ = write!(text, "\n  {kind}: {}", grouped(*number));
        }
    }
    // What ended a run otherwise was told with its remedy when it happened.
    if !matches!(
        report.status,
        Status::Failed | Status::Refused | Status::Differences
    ) {
        let _ = write!(text, "\n{}", report.next);
    }
    text
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
