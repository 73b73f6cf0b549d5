//! Events as single phrases.

use std::{fmt::Write as _, time::Duration};

use super::{hits, summary::duration_text};
use crate::{
    model::{Side, number_of},
    report::{
        BatchEvent, BatchStatus, CheckpointEvent, CountEvent, CountProgressEvent, Event, PlanEvent,
        PlanSettings, RetryEvent, SettingOrigin, VerifyEvent, percent,
        style::{grouped, grouped_of},
        word,
    },
};

/// An event in a sentence.
pub(in crate::report) fn message(event: &Event) -> String {
    match event {
        Event::RunStarted(run) => format!("{} {} started ({})", run.tool, run.version, word(&run.mode)),
        Event::Plan(plan) => {
            let workspaces = number_of(plan.workspaces.len() as u64, "workspace");
            format!("Plan: {workspaces} from {} to {}", plan.source, plan.target)
        }
        Event::CountProgress(progress) => counting(progress),
        Event::Count(found) => count(found),
        Event::Batch(done) => batch(done),
        // Its own message says why; the other fields say when it is tried again.
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

/// How many workspaces a plan names.
const MOST_NAMED: usize = 8;

/// The plan, as rows of a name and what stands for it.
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
                    "{} -> (empty), where LightRAG looks without a WORKSPACE",
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
    vec![
        ("Source", plan.source.to_string()),
        ("Target", plan.target.to_string()),
        ("Workspaces", workspaces.join(", ")),
        ("Types", plan.types.names().join(", ")),
    ]
}

/// Where the settings of both sides came from, as further rows of a plan.
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

/// How far a count is.
pub(super) fn counting(progress: &CountProgressEvent) -> String {
    format!(
        "Counting the {} ({}): {} looked at so far",
        progress.side,
        progress.workspace,
        grouped(progress.scanned)
    )
}

/// What a count found.
pub(super) fn count(count: &CountEvent) -> String {
    let verb = match count.side {
        Side::Source => "to move",
        Side::Target => "there already",
    };
    let about = if count.exact { "" } else { "about " };
    format!(
        "Workspace {}: {about}{} {verb} ({})",
        count.workspace,
        grouped_of(count.records, "record"),
        count.side
    )
}

/// What became of a batch.
pub(super) fn batch(batch: &BatchEvent) -> String {
    let mark = match batch.status {
        BatchStatus::Ok => "ok",
        BatchStatus::Partial => "some rejected",
        BatchStatus::Failed => "FAILED",
    };
    let cache_type = batch
        .cache_type
        .as_ref()
        .map(|t| format!(" {t}"))
        .unwrap_or_default();
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

/// What is tried again.
pub(super) fn retry(retry: &RetryEvent) -> String {
    format!(
        "Trying again in {} ms ({} of {}): {}",
        retry.wait_ms, retry.attempt, retry.retries, retry.message
    )
}

/// What a comparison found so far.
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
        let _ = write!(text, ", {} kept, different", grouped(numbers.kept));
    }
    if let Some(beyond) = numbers.beyond {
        let _ = write!(text, ", {} beyond", grouped(beyond));
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

/// How many rejected records are told as they come; the report counts all of them.
const MOST_REJECTS: u64 = 5;

/// Which of many rejected records are told.
#[derive(Debug, Default)]
pub(super) struct Rejects(u64);

impl Rejects {
    /// What to say of another one, if anything.
    pub(super) fn next(&mut self, key: &str, reason: &str) -> Option<String> {
        self.0 += 1;
        match self.0 {
            ..=MOST_REJECTS => Some(format!("Rejected {key}: {reason}")),
            number if number == MOST_REJECTS + 1 => {
                Some("More records are rejected; they are counted, and kept by --rejects".to_owned())
            }
            _ => None,
        }
    }
}
