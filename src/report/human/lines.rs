//! One line per event, for logs, mails and pipes.

use std::time::{Duration, Instant};

use super::{Stderr, phrases, summary, workspaces::Workspaces};
use crate::{
    model::Mode,
    report::{BatchStatus, Event, Palette},
};

/// The shortest time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

pub(in crate::report) struct Lines {
    stderr: Stderr,
    palette: Palette,
    progress: Pace,
    workspaces: Workspaces,
    /// A dry run also prints the origins of its settings.
    is_dry_run: bool,
}

/// Limits how often progress is printed.
struct Pace {
    last: Instant,
}

impl Pace {
    fn is_due(&mut self) -> bool {
        let due = self.last.elapsed() >= PROGRESS_EVERY;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

impl Lines {
    pub(super) fn new(stderr: Stderr, palette: Palette) -> Self {
        Self {
            stderr,
            palette,

            progress: Pace { last: Instant::now() },
            workspaces: Workspaces::default(),
            is_dry_run: false,
        }
    }

    pub(super) fn print(&mut self, event: &Event) {
        if let Some(text) = self.text(event) {
            self.stderr.line(&text);
        }
    }

    fn text(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::RunStarted(started) => {
                self.is_dry_run = started.mode == Mode::DryRun;
                None
            }
            // The summary lists the rejected records, and the hits of all workspaces.
            Event::Checkpoint(_) | Event::Hits(_) | Event::Reject(_) => None,
            Event::Plan(plan) => {
                self.workspaces = Workspaces::of(plan);
                let mut rows = phrases::plan(plan);
                if self.is_dry_run {
                    rows.extend(phrases::origins(&plan.settings));
                }
                let rows = rows.into_iter().map(|(name, what)| format!("{name}: {what}"));
                Some(rows.collect::<Vec<_>>().join("\n"))
            }
            Event::CountProgress(progress) => self.progress.is_due().then(|| phrases::counting(progress)),
            Event::Count(count) => self.workspaces.count(count),
            Event::Batch(batch) if self.workspaces.are_many() && batch.status == BatchStatus::Ok => {
                self.progress.is_due().then(|| phrases::moved(batch))
            }
            Event::Batch(batch) => {
                let is_notable = batch.status != BatchStatus::Ok || batch.done == batch.total;
                (self.progress.is_due() || is_notable).then(|| phrases::batch(batch))
            }
            Event::Retry(retry) => Some(self.palette.warning(&phrases::retry(retry))),
            Event::Verify(verify) => {
                let has_line = self.workspaces.has_line(verify);
                (self.progress.is_due() || has_line).then(|| phrases::verify(verify))
            }

            Event::Warning(warning) => Some(self.palette.warning(&format!("Warning: {}", warning.message))),
            Event::Report(report) => Some(summary::text(report, self.palette, None)),
        }
    }
}
