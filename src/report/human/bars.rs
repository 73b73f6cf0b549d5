//! Output for a terminal: a progress bar, and results above it.

use std::{fmt::Write as _, time::Duration};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::{Stderr, phrases, summary, workspaces::Workspaces};
use crate::{
    model::{Mode, Side, Workspace},
    report::{
        BatchEvent, BatchStatus, CountEvent, Event, Palette, PlanEvent,
        style::{cut, grouped, wrap},
    },
};

/// How often a bar is redrawn while no event arrives.
const TICK: Duration = Duration::from_millis(200);
/// Columns for the spinner and the elapsed time, next to a text.
const SPINNER: usize = 10;
/// Columns for the name of a workspace, next to a bar.
const NAME: usize = 20;

pub(in crate::report) struct Bars {
    stderr: Stderr,
    palette: Palette,
    width: usize,
    guided: bool,

    workspaces: Workspaces,
    bar: Option<(Activity, ProgressBar)>,
    bytes: u64,
    rejected: u64,
    /// A dry run also prints the origins of its settings.
    is_dry_run: bool,
}

/// What a bar shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Activity {
    Connecting,
    Counting(Side, Workspace),
    Moving(Workspace),
    /// One bar for all of many workspaces, of which several are moved at the same time.
    MovingMany,
    Comparing(Workspace),
}

impl Bars {
    pub(super) fn new(stderr: Stderr, palette: Palette, width: usize, guided: bool) -> Self {
        Self {
            stderr,
            palette,
            width,
            guided,

            workspaces: Workspaces::default(),
            bar: None,
            bytes: 0,
            rejected: 0,
            is_dry_run: false,
        }
    }

    pub(super) fn print(&mut self, event: &Event) {
        match event {
            Event::RunStarted(started) => {
                self.is_dry_run = started.mode == Mode::DryRun;
                // A bar would overwrite the question.
                if !self.guided {
                    self.spin(Activity::Connecting, "Connecting".to_owned());
                }
            }
            Event::Plan(plan) => self.plan(plan),
            Event::CountProgress(progress) => {
                self.counting(progress.side, &progress.workspace, progress.scanned);
            }
            Event::Count(count) => self.count(count),
            Event::Batch(batch) => self.batch(batch),
            Event::Retry(retry) => self.warning(&phrases::retry(retry)),
            // The bar counts the rejected records; the summary lists them, and the hits of all workspaces.
            Event::Checkpoint(_) | Event::Hits(_) | Event::Reject(_) => {}
            Event::Verify(verify) if self.workspaces.has_line(verify) => {
                self.clear();
                self.line(&phrases::verify(verify));
            }
            Event::Verify(verify) => self.spin(
                Activity::Comparing(verify.workspace.clone()),
                phrases::verify(verify),
            ),
            Event::Warning(warning) => self.warning(&format!("Warning: {}", warning.message)),
            Event::Report(report) => {
                self.clear();
                self.stderr
                    .line(&summary::text(report, self.palette, Some(self.width)));
            }
        }
    }

    /// Shows the progress of a count.
    pub(super) fn counting(&mut self, side: Side, workspace: &Workspace, scanned: u64) {
        let text = format!(
            "Counting the {side}, workspace {}: {} scanned",
            cut(&workspace.to_string(), NAME),
            grouped(scanned)
        );
        self.spin(Activity::Counting(side, workspace.clone()), text);
    }

    /// Removes the bar.
    pub(super) fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn plan(&mut self, plan: &PlanEvent) {
        self.clear();
        self.workspaces = Workspaces::of(plan);
        if self.guided {
            return;
        }
        for (name, what) in phrases::plan(plan) {
            let what = cut(&what, self.width.saturating_sub(12));
            self.stderr
                .line(&format!("{} {what}", self.palette.strong(&format!("{name:<11}"))));
        }
        if self.is_dry_run {
            for (name, what) in phrases::origins(&plan.settings) {
                let what = wrap(&what, self.width.saturating_sub(12), "            ");
                self.stderr
                    .line(&format!("{} {what}", self.palette.strong(&format!("{name:<11}"))));
            }
        }
    }

    fn count(&mut self, count: &CountEvent) {
        self.clear();
        if self.guided {
            return;
        }
        if let Some(line) = self.workspaces.count(count) {
            self.line(&line);
        }
    }

    fn batch(&mut self, batch: &BatchEvent) {
        if batch.status == BatchStatus::Failed {
            let text = self.fitted(&phrases::batch(batch));
            self.stderr.line(&self.palette.bad(&text));
        }
        let is_one_of_many = self.workspaces.are_many();
        let (activity, done, total) = match is_one_of_many {
            true => (Activity::MovingMany, batch.run_done, batch.run_total),
            false => (Activity::Moving(batch.workspace.clone()), batch.done, batch.total),
        };
        let is_new = self.bar.as_ref().is_none_or(|(current, _)| *current != activity);
        if is_new {
            self.bytes = 0;
            self.rejected = 0;
        }
        self.bytes += batch.bytes;
        self.rejected += batch.rejected;
        let mut message = ByteSize(self.bytes).display().iec().to_string();
        if self.rejected > 0 {
            let _ = write!(message, ", {} rejected", grouped(self.rejected));
        }
        if done == total {
            message.push_str(", making it durable");
        } else if let Some(cache_type) = &batch.cache_type {
            let _ = write!(message, ", {cache_type}");
        }
        if is_new {
            // Records of an earlier run count as done, but not towards the rate.
            let before = done.saturating_sub(batch.records);
            let heading = match is_one_of_many {
                true => format!("Moving {} workspaces", grouped(self.workspaces.len() as u64)),
                false => self.heading(&batch.workspace),
            };
            let bar = ProgressBar::new(total)
                .with_style(moving_style())
                .with_position(before)
                .with_prefix(heading)
                .with_message(message);
            self.show(activity, bar);
        } else if let Some((_, bar)) = &self.bar {
            bar.set_length(total);
            bar.set_message(message);
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(done);
        }
    }

    /// The workspace that is being moved, and its number among all of them.
    fn heading(&self, workspace: &Workspace) -> String {
        let name = cut(&self.stderr.redacted(&workspace.to_string()), NAME);
        match self.workspaces.number(workspace) {
            Some(number) if self.workspaces.len() > 1 => {
                format!("Moving {name} ({number} of {})", self.workspaces.len())
            }
            _ => format!("Moving {name}"),
        }
    }

    /// Shows progress towards an unknown total.
    fn spin(&mut self, activity: Activity, text: String) {
        let text = cut(&self.stderr.redacted(&text), self.width.saturating_sub(SPINNER));
        match &self.bar {
            Some((current, bar)) if *current == activity => bar.set_message(text),
            _ => {
                let bar = ProgressBar::new_spinner()
                    .with_style(style("{spinner} {msg}, {elapsed}"))
                    .with_message(text);
                self.show(activity, bar);
            }
        }
    }

    /// Replaces the bar. The new one must not be drawn earlier, or its first frame would remain on the screen.
    fn show(&mut self, activity: Activity, bar: ProgressBar) {
        self.clear();
        let bar = match self.stderr.bars() {
            Some(bars) => bars.add(bar),
            None => bar,
        };
        // Draw at once: the first steady tick comes after an interval.
        bar.tick();
        bar.enable_steady_tick(TICK);
        self.bar = Some((activity, bar));
    }

    fn warning(&self, text: &str) {
        self.stderr.line(&self.palette.warning(&self.fitted(text)));
    }

    fn line(&self, text: &str) {
        self.stderr.line(&self.fitted(text));
    }

    /// Wraps a sentence to the width of the terminal. A word wider than a line is cut; the JSON events contain it whole.
    fn fitted(&self, text: &str) -> String {
        const INDENT: &str = "  ";
        let space = self.width.saturating_sub(INDENT.len());
        let words: Vec<String> = self
            .stderr
            .redacted(text)
            .split_whitespace()
            .map(|word| cut(word, space))
            .collect();
        wrap(&words.join(" "), self.width, INDENT)
    }
}

/// Two lines: the bar, and the numbers.
fn moving_style() -> ProgressStyle {
    style("{prefix} {wide_bar} {percent:>3}%\n  {human_pos}/{human_len} records, {msg}, {rate}, {left}")
        .with_key("rate", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let _ = write!(text, "{}/s", grouped(state.per_sec() as u64));
        })
        .with_key("left", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let left = Duration::from_secs(state.eta().as_secs());
            let _ = write!(text, "{} left", indicatif::HumanDuration(left));
        })
        .progress_chars("█▉▊▋▌▍▎▏░")
}

/// The style of a template in this file. Templates are valid: a test draws each of them.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
