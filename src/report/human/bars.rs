//! At a terminal: bars for what goes on, and above them what happened.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::{
    Stderr,
    phrases::{self, Rejects},
    summary,
};
use crate::{
    model::{Mode, Side, Workspace},
    report::{
        BatchEvent, BatchStatus, CountEvent, Event, Palette, PlanEvent,
        style::{cut, grouped, grouped_of, wrap},
    },
};

/// How often a bar moves on where nothing is told.
const TICK: Duration = Duration::from_millis(200);
/// Up to so many workspaces, each has lines of its own.
const MOST_TOLD_APART: usize = 6;
/// Columns for the sign that turns and for the time, beside a text.
const SPINNER: usize = 10;
/// Columns for a key in a sentence.
const KEY: usize = 52;
/// Columns for the name of a workspace beside a bar.
const NAME: usize = 20;

pub(in crate::report) struct Bars {
    stderr: Stderr,
    palette: Palette,
    width: usize,
    guided: bool,
    rejects: Rejects,
    workspaces: Vec<Workspace>,
    counted: BTreeMap<Side, (usize, u64)>,
    bar: Option<(Activity, ProgressBar)>,
    bytes: u64,
    /// A dry run also says where its settings came from.
    is_dry_run: bool,
}

/// What a bar is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Activity {
    Connecting,
    Counting(Side, Workspace),
    Moving(Workspace),
    Comparing(Workspace),
}

impl Bars {
    pub(super) fn new(stderr: Stderr, palette: Palette, width: usize, guided: bool) -> Self {
        Self {
            stderr,
            palette,
            width,
            guided,
            rejects: Rejects::default(),
            workspaces: Vec::new(),
            counted: BTreeMap::new(),
            bar: None,
            bytes: 0,
            is_dry_run: false,
        }
    }

    pub(super) fn tell(&mut self, event: &Event) {
        match event {
            Event::RunStarted(started) => {
                self.is_dry_run = started.mode == Mode::DryRun;
                // A question must not share its place with a bar.
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
            Event::Reject(reject) => {
                let key = cut(&reject.key, KEY);
                if let Some(text) = self.rejects.next(&key, &reject.reason) {
                    self.warning(&text);
                }
            }
            // The report says it of all workspaces together.
            Event::Checkpoint(_) | Event::Hits(_) => {}
            Event::Verify(verify) if verify.complete => {
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

    /// Shows how far a count is.
    pub(super) fn counting(&mut self, side: Side, workspace: &Workspace, scanned: u64) {
        let text = format!(
            "Counting the {side}, workspace {}: {} looked at",
            cut(&workspace.to_string(), NAME),
            grouped(scanned)
        );
        self.spin(Activity::Counting(side, workspace.clone()), text);
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn plan(&mut self, plan: &PlanEvent) {
        self.clear();
        self.workspaces = plan.workspaces.iter().map(|pair| pair.from.clone()).collect();
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
        if self.workspaces.len() <= MOST_TOLD_APART {
            self.line(&phrases::count(count));
            return;
        }
        let (workspaces, records) = self.counted.entry(count.side).or_default();
        *workspaces += 1;
        *records += count.records;
        if *workspaces == self.workspaces.len() {
            let line = format!(
                "Counted the {}: {} in {workspaces} workspaces",
                count.side,
                grouped_of(*records, "record")
            );
            self.line(&line);
        }
    }

    fn batch(&mut self, batch: &BatchEvent) {
        if batch.status == BatchStatus::Failed {
            let text = self.fitted(&phrases::batch(batch));
            self.stderr.line(&self.palette.bad(&text));
        }
        let activity = Activity::Moving(batch.workspace.clone());
        let is_new = self.bar.as_ref().is_none_or(|(current, _)| *current != activity);
        if is_new {
            self.bytes = 0;
        }
        self.bytes += batch.bytes;
        let mut message = ByteSize(self.bytes).display().iec().to_string();
        if batch.done == batch.total {
            message.push_str(", making it durable");
        } else if let Some(cache_type) = &batch.cache_type {
            let _ = write!(message, ", {cache_type}");
        }
        if is_new {
            // What an earlier run did counts as done, and not for the rate.
            let before = batch.done.saturating_sub(batch.records);
            let bar = ProgressBar::new(batch.total)
                .with_style(moving_style())
                .with_position(before)
                .with_prefix(self.heading(&batch.workspace))
                .with_message(message);
            self.show(activity, bar);
        } else if let Some((_, bar)) = &self.bar {
            bar.set_length(batch.total);
            bar.set_message(message);
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(batch.done);
        }
    }

    /// Which workspace is being moved, the how manieth of how many.
    fn heading(&self, workspace: &Workspace) -> String {
        let name = cut(&self.stderr.redacted(&workspace.to_string()), NAME);
        let number = self.workspaces.iter().position(|other| other == workspace);
        match number {
            Some(at) if self.workspaces.len() > 1 => {
                format!("Moving {name} ({} of {})", at + 1, self.workspaces.len())
            }
            _ => format!("Moving {name}"),
        }
    }

    /// Shows that something goes on whose end is not known.
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

    /// Puts a bar where the one before was. Until then nothing of it may be drawn, or that would stay.
    fn show(&mut self, activity: Activity, bar: ProgressBar) {
        self.clear();
        let bar = match self.stderr.bars() {
            Some(bars) => bars.add(bar),
            None => bar,
        };
        // At once, since the first tick comes later.
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

    /// A sentence in lines of the terminal's width. A name that is wider is cut: the events have it whole.
    fn fitted(&self, text: &str) -> String {
        const INDENT: &str = "  ";
        let room = self.width.saturating_sub(INDENT.len());
        let words: Vec<String> = self
            .stderr
            .redacted(text)
            .split_whitespace()
            .map(|word| cut(word, room))
            .collect();
        wrap(&words.join(" "), self.width, INDENT)
    }
}

/// Two lines: how far it is, and in what numbers.
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

/// A template of this file, which is right: a test draws each.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
