//! Each event as one sentence.

use std::{fmt::Write as _, time::Duration};

use super::{hits, summary::duration_text};
use crate::{
    model::Side,
    report::{
        BatchEvent, BatchStatus, CheckpointEvent, CountEvent, CountProgressEvent, Event, PlanEvent,
        PlanSettings, RetryEvent, SettingOrigin, VerifyEvent, percent,
        style::{grouped, grouped_of},
        word,
    },
};

/// The sentence of an event.
pub(in crate::report) fn message(event: &Event) -> String {
    match event {
        Event::RunStarted(run) => format!("{} {} started ({})", run.tool, run.version, word(&run.mode)),
        Event::Plan(plan) => format!(
            "Plan: {} from {} to {}",
            grouped_of(plan.workspaces.len() as u64, "workspace"),
            plan.source,
            plan.target
        ),
        Event::CountProgress(progress) => counting(progress),
        Event::Count(found) => count(found),
        Event::Batch(done) => batch(done),
        // The message gives the reason; the fields say when the request is retried.
        Event::Retry(retry) => retry.message.clone(),
        Event::Reject(reject) => format!("Rejected {}: {}", reject.key, reject.reason),
        Event::Checkpoint(written) => checkpoint(written),
        Event::Hits(found) => format!(
            "Workspace {}: {}",
            found.workspace,
            hits::sentence(&found.foretold)
        ),
        Event::Verify(found) => verify(found),
        Event::Warning(warning) => warning.message.clone(),
        Event::Report(report) => format!(
            "Run ended ({}, exit code {})",
            word(&report.status),
            report.exit_code
        ),
    }
}

fn checkpoint(written: &CheckpointEvent) -> String {
    format!(
        "Workspace {}: checkpoint after batch {}: {} done",
        written.workspace,
        written.batch,
        grouped_of(written.done, "record")
    )
}

/// How many workspaces of a plan are listed.
const MOST_NAMED: usize = 8;

/// The plan as rows of a name and a value.
pub(super) fn plan(plan: &PlanEvent) -> Vec<(&'static str, String)> {
    let mut workspaces: Vec<String> = plan
        .workspaces
        .iter()
        .take(MOST_NAMED)
        .map(|pair| {
            if pair.from == pair.to {
                pair.from.to_string()
            } else if pair.to.name().is_empty() {
                format!(
                    "{} -> (empty), which LightRAG uses if WORKSPACE is not set",
                    pair.from
                )
            } else {
                format!("{} -> {}", pair.from, pair.to)
            }
        })
        .collect();
    if plan.workspaces.len() > MOST_NAMED {
        workspaces.push(format!("and {} more", plan.workspaces.len() - MOST_NAMED));
    }
    if workspaces.is_empty() {
        workspaces.push("none found".to_owned());
    }
    vec![
        ("Source", plan.source.to_string()),
        ("Target", plan.target.to_string()),
        ("Workspaces", workspaces.join(", ")),
        ("Types", plan.types.names().join(", ")),
    ]
}

/// The origins of the settings of both sides, as further rows of a plan.
pub(super) fn origins(settings: &PlanSettings) -> Vec<(&'static str, String)> {
    [("source", &settings.source), ("target", &settings.target)]
        .map(|(side, settings)| ("Settings", format!("{side}: {}", by_origin(settings))))
        .into()
}

/// `host, port from --target; password from the variable POSTGRES_PASSWORD`.
fn by_origin(settings: &[SettingOrigin]) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for SettingOrigin { name, origin, .. } in settings {
        match groups.iter_mut().find(|(known, _)| known == origin) {
            Some((_, names)) => names.push(name),
            None => groups.push((origin, vec![name])),
        }
    }
    let groups = groups
        .iter()
        .map(|(origin, names)| format!("{} from {origin}", names.join(", ")));
    groups.collect::<Vec<_>>().join("; ")
}

pub(super) fn counting(progress: &CountProgressEvent) -> String {
    format!(
        "Counting the {} ({}): {} entries scanned so far",
        progress.side,
        progress.workspace,
        grouped(progress.scanned)
    )
}

/// The result of a count.
pub(super) fn count(count: &CountEvent) -> String {
    let what = match count.side {
        Side::Source => "selected at the source",
        Side::Target => "on the target",
    };
    let about = if count.exact { "" } else { "about " };
    format!(
        "Workspace {}: {about}{} {what}",
        count.workspace,
        grouped_of(count.records, "record")
    )
}

/// The result of a batch.
pub(super) fn batch(batch: &BatchEvent) -> String {
    let mark = match batch.status {
        BatchStatus::Ok if batch.skipped > 0 => format!("ok, {} skipped", grouped(batch.skipped)),
        BatchStatus::Ok => "ok".to_owned(),
        BatchStatus::Partial => format!("{} rejected", grouped(batch.rejected)),
        BatchStatus::Failed => "FAILED".to_owned(),
    };
    let cache_type = match batch.by_cache_type.keys().collect::<Vec<_>>().as_slice() {
        [only] => format!(" {only}"),
        _ => String::new(),
    };
    format!(
        "Workspace {}: batch {}/{}: {}/{} ({:.1}%){cache_type} {mark}",
        batch.workspace,
        batch.batch,
        batch.batches,
        grouped(batch.done),
        grouped(batch.total),
        batch.percent
    )
}

/// How much of a run of many workspaces is done.
pub(super) fn moved(batch: &BatchEvent) -> String {
    format!(
        "Moved {} of {} ({:.1}%)",
        grouped(batch.run_done),
        grouped_of(batch.run_total, "record"),
        percent(batch.run_done, batch.run_total)
    )
}

/// The next attempt, and why the last one failed.
pub(super) fn retry(retry: &RetryEvent) -> String {
    format!(
        "Retrying in {} ms ({} of {}): {}",
        retry.wait_ms, retry.attempt, retry.retries, retry.message
    )
}

/// What a verification found so far.
pub(super) fn verify(verify: &VerifyEvent) -> String {
    let numbers = &verify.numbers;
    let state = if verify.complete { "Verified" } else { "Verifying" };
    let mut text = format!(
        "{state} {}: {} compared, {} missing, {} different",
        verify.workspace,
        grouped(numbers.compared),
        grouped(numbers.missing),
        grouped(numbers.different)
    );
    if numbers.kept > 0 {
        let _ = write!(text, ", {} kept although different", grouped(numbers.kept));
    }
    if let Some(extra) = numbers.beyond {
        let _ = write!(text, ", {} only on the target", grouped(extra));
    }
    if !verify.complete {
        let _ = write!(text, " ({:.1}%", percent(verify.done, verify.total));
        if let Some(remaining) = verify.remaining_ms {
            let _ = write!(text, ", {} left", duration_text(Duration::from_millis(remaining)));
        }
        text.push(')');
    }
    text
}
