//! Every number of a run, in one place. Events, the report, metrics and the checkpoint are views of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::checkpoint::{Progress, WorkspaceProgress};
use crate::{
    model::{CacheType, Error, LeftOut, Location, Mode, Side, WorkspacePair},
    report::{
        ReadBackReport, Rehearsal, Report, RunNumbers, RunOutcome, Totals, Verification, WorkspaceReport,
    },
    storage::{Count, Cursor},
};

/// The numbers of a run, shared between the run and whoever reports when it panics.
#[derive(Debug)]
pub struct RunStats {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What belongs to no workspace. Its `workspaces` stay empty: they are a view of the next field.
    run: RunNumbers,
    workspaces: Vec<WorkspaceStats>,
    /// Of all workspaces together, so that nobody has to add them up for every batch.
    sum: Sum,
    moving_since: Option<Instant>,
    /// What an earlier run had moved already.
    resumed: u64,
}

/// How far workspaces are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    done: u64,
    total: u64,
    expected: u64,
    rejected: u64,
}

/// The numbers of one workspace.
#[derive(Clone, Debug)]
pub(crate) struct WorkspaceStats {
    pair: WorkspacePair,
    expected: Count,
    target_records_before: u64,
    target_records_after: Option<u64>,
    rehearsal: Option<Rehearsal>,
    by_type: BTreeMap<CacheType, Totals>,
    /// Entries that were read and are not selected.
    filtered: u64,
    /// The number of the last batch of which something is counted.
    batch: u64,
    completed: bool,
    /// What is durable for certain.
    durable: BTreeMap<CacheType, Totals>,
}

impl WorkspaceStats {
    /// A workspace of which nothing has been moved.
    pub(crate) fn new(pair: WorkspacePair, expected: Count, target_records_before: u64) -> Self {
        Self {
            pair,
            expected,
            target_records_before,
            target_records_after: None,
            rehearsal: None,
            by_type: BTreeMap::new(),
            filtered: 0,
            batch: 0,
            completed: false,
            durable: BTreeMap::new(),
        }
    }

    /// Counts an entry of a batch, and what became of it.
    pub(crate) fn add(&mut self, key: &str, change: &Totals) {
        let change = Totals {
            read: 1,
            selected: 1,
            ..change.clone()
        };
        // Under the name under which it was counted.
        let cache_type = self
            .expected
            .by_type
            .label(CacheType::of_key(key), CacheType::Other);
        self.by_type.entry(cache_type).or_default().add(&change);
    }

    /// Counts entries that were read and are not selected.
    pub(crate) fn add_filtered(&mut self, entries: u64) {
        self.filtered += entries;
    }

    fn parts(&self) -> impl Iterator<Item = &Totals> {
        self.by_type.values()
    }

    /// The numbers of all types together, as far as they go: what was seen and has no outcome yet is not attempted.
    pub(crate) fn seen(&self) -> Totals {
        let mut all = Totals::default();
        self.parts().for_each(|part| all.add(part));
        all.read += self.filtered;
        all.closed(0, true)
    }

    fn sum(&self) -> Sum {
        let done = self.parts().map(Totals::done).sum();
        let expected = self.expected.total();
        Sum {
            done,
            total: expected.max(done),
            expected,
            rejected: self.parts().map(|part| part.rejected).sum(),
        }
    }

    /// What is counted so far is durable.
    pub(crate) fn mark_durable(&mut self) {
        self.durable = self.by_type.clone();
    }

    /// The target could not keep what it had accepted since it last made something durable: that is not written.
    /// Gives the number of those records.
    pub(crate) fn revoke(&mut self) -> u64 {
        let mut lost = 0;
        let none = Totals::default();
        for (cache_type, totals) in &mut self.by_type {
            let kept = self.durable.get(cache_type).unwrap_or(&none);
            lost += totals.written - kept.written;
            totals.written = kept.written;
            totals.sanitized = kept.sanitized;
            totals.bytes = kept.bytes;
        }
        lost
    }

    /// Nothing that the target had accepted is there.
    fn revoke_all(&mut self) {
        self.durable = BTreeMap::new();
        self.completed = false;
        self.target_records_after = None;
        self.revoke();
    }

    /// What a run would do was found out.
    pub(crate) fn set_rehearsal(&mut self, rehearsal: Rehearsal) {
        self.rehearsal = Some(rehearsal);
    }

    /// The target was counted again.
    pub(crate) fn set_target_records_after(&mut self, records: u64) {
        self.target_records_after = Some(records);
    }

    /// The whole workspace was read, and what was to be moved was.
    pub(crate) fn complete(&mut self) {
        self.completed = true;
        // Nothing is taken back any more, and there may be thousands of these.
        self.durable = BTreeMap::new();
    }

    fn report(&self) -> WorkspaceReport {
        let expected = &self.expected.by_type;
        let mut by_cache_type: BTreeMap<CacheType, Totals> = BTreeMap::new();
        for (cache_type, records) in expected.iter().filter(|(_, records)| *records > 0) {
            let none = Totals::default().closed(records, self.completed);
            by_cache_type.insert(cache_type.clone(), none);
        }
        for (cache_type, totals) in &self.by_type {
            let closed = totals.clone().closed(expected.get(cache_type), self.completed);
            by_cache_type.insert(cache_type.clone(), closed);
        }
        // The whole is the sum of its parts, also where the source changed between count and end.
        let mut totals = Totals::default();
        by_cache_type.values().for_each(|part| totals.add(part));
        totals.read += self.filtered;
        WorkspaceReport {
            from: self.pair.from.clone(),
            to: self.pair.to.clone(),
            source_records: Some(self.expected.total()),
            target_records_before: Some(self.target_records_before),
            target_records_after: self.target_records_after,
            rehearsal: self.rehearsal,
            totals,
            by_cache_type,
            left_out: self.expected.left_out.as_ref().map(LeftOut::list),
        }
    }

    fn progress(&self, cursor: Option<Cursor>) -> WorkspaceProgress {
        let seen = |totals: &Totals| totals.clone().closed(0, true);
        WorkspaceProgress {
            from: self.pair.from.name().to_owned(),
            to: self.pair.to.name().to_owned(),
            cursor,
            complete: self.completed,
            batches: self.batch,
            totals: self.seen(),
            by_cache_type: self
                .by_type
                .iter()
                .map(|(t, totals)| (t.clone(), seen(totals)))
                .collect(),
        }
    }

    /// Takes over what an earlier run did, where a later one can go on from it.
    fn resume(&mut self, before: &WorkspaceProgress) {
        if !before.complete && before.cursor.is_none() {
            return;
        }
        self.by_type = before.by_cache_type.clone();
        // What has no outcome yet is not attempted in any view; it is no number of its own here.
        self.by_type
            .values_mut()
            .for_each(|totals| totals.not_attempted = 0);
        let typed: u64 = self.by_type.values().map(|totals| totals.read).sum();
        self.filtered = before.totals.read.saturating_sub(typed);
        self.batch = before.batches;
        self.completed = before.complete;
        self.mark_durable();
    }
}

/// How far the whole run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunProgress {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) elapsed: Duration,
    /// `None` while nothing tells.
    pub(crate) remaining: Option<Duration>,
}

impl State {
    /// Changes or reads the numbers of a workspace.
    fn change<T>(&mut self, number: usize, change: impl FnOnce(&mut WorkspaceStats) -> T) -> T {
        let workspace = &mut self.workspaces[number];
        let before = workspace.sum();
        let result = change(workspace);
        let after = workspace.sum();
        self.sum.remove(before);
        self.sum.add(after);
        result
    }
}

impl Sum {
    fn add(&mut self, part: Self) {
        self.done += part.done;
        self.total += part.total;
        self.expected += part.expected;
        self.rejected += part.rejected;
    }

    fn remove(&mut self, part: Self) {
        self.done -= part.done;
        self.total -= part.total;
        self.expected -= part.expected;
        self.rejected -= part.rejected;
    }
}

impl RunStats {
    /// A run that begins now.
    pub fn new(mode: Mode) -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::new(State {
                run: RunNumbers::new(mode),
                workspaces: Vec::new(),
                sum: Sum::default(),
                moving_since: None,
                resumed: 0,
            }),
        }
    }

    /// Never held across a wait. A panic leaves numbers that are still right: each is written in one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes or reads what belongs to no workspace.
    pub(crate) fn run<T>(&self, change: impl FnOnce(&mut RunNumbers) -> T) -> T {
        change(&mut self.state().run)
    }

    /// Changes or reads the numbers of a workspace, by its number in the run.
    pub(crate) fn workspace<T>(&self, number: usize, change: impl FnOnce(&mut WorkspaceStats) -> T) -> T {
        self.state().change(number, change)
    }

    /// What a side is called.
    pub fn location(&self, side: Side) -> Option<Location> {
        self.run(|run| match side {
            Side::Source => run.source.clone(),
            Side::Target => run.target.clone(),
        })
    }

    pub(crate) fn set_location(&self, side: Side, location: Location) {
        self.run(|run| match side {
            Side::Source => run.source = Some(location),
            Side::Target => run.target = Some(location),
        });
    }

    pub(crate) fn add_workspace(&self, workspace: WorkspaceStats) {
        let mut state = self.state();
        state.sum.add(workspace.sum());
        state.workspaces.push(workspace);
    }

    /// The target shows nothing of what it had accepted, of any workspace.
    pub(crate) fn revoke_all(&self) {
        let mut state = self.state();
        for number in 0..state.workspaces.len() {
            state.change(number, WorkspaceStats::revoke_all);
        }
    }

    /// False where the same warning was there before.
    pub(crate) fn add_warning(&self, warning: &str) -> bool {
        self.run(|run| {
            let is_new = !run.warnings.iter().any(|known| known == warning);
            if is_new {
                run.warnings.push(warning.to_owned());
            }
            is_new
        })
    }

    pub(crate) fn add_read_back(&self, found: ReadBackReport) {
        self.run(|run| run.read_back.get_or_insert_default().add(found));
    }

    pub(crate) fn set_verification(&self, verification: Verification) {
        self.run(|run| run.verification = Some(verification));
    }

    /// Records an error that ended the run, with those that followed from it.
    pub fn record_failure(&self, error: &Error) {
        // What failed while batches were written and once more at the end is one failure.
        let mut failures: Vec<&Error> = Vec::new();
        for error in error.with_others() {
            match failures
                .iter_mut()
                .find(|known| known.message() == error.message())
            {
                Some(known) if known.records() < error.records() => *known = error,
                Some(_) => {}
                None => failures.push(error),
            }
        }
        self.run(|run| failures.into_iter().for_each(|error| run.errors.fatal(error)));
    }

    /// The time of moving begins or ends here.
    pub(crate) fn set_moving(&self, moving: bool) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(since) = state.moving_since.take() {
            state.run.moving += now - since;
        }
        state.moving_since = moving.then_some(now);
    }

    /// Begins a batch of a workspace: it is ok until something of it is not.
    pub(crate) fn begin_batch(&self, workspace: usize, batch: u64, retried: bool) {
        let mut state = self.state();
        state.workspaces[workspace].batch = batch;
        let batches = &mut state.run.batches;
        batches.total += 1;
        batches.ok += 1;
        batches.retried += u64::from(retried);
    }

    /// Something of the batch that began last was rejected.
    pub(crate) fn batch_is_partial(&self) {
        self.run(|run| {
            run.batches.ok -= 1;
            run.batches.partial += 1;
        });
    }

    /// The batch that began last was not written.
    pub(crate) fn batch_failed(&self) {
        self.run(|run| {
            run.batches.ok -= 1;
            run.batches.failed += 1;
        });
    }

    /// Rejected records, and how many there are to move.
    pub(crate) fn rejected(&self) -> (u64, u64) {
        let sum = self.state().sum;
        (sum.rejected, sum.expected)
    }

    /// How far the whole run is.
    pub(crate) fn run_progress(&self) -> RunProgress {
        let state = self.state();
        let Sum { done, total, .. } = state.sum;
        let moving = state.run.moving + state.moving_since.map_or(Duration::ZERO, |since| since.elapsed());
        let moved = done.saturating_sub(state.resumed);
        let remaining = (moved > 0).then(|| moving.mul_f64((total - done) as f64 / moved as f64));
        RunProgress {
            done,
            total,
            elapsed: self.started.elapsed(),
            remaining,
        }
    }

    /// What of the job is done: all of the workspaces before `current`, and of that one what is counted, which a later run
    /// continues at the cursor.
    pub(crate) fn progress(
        &self,
        current: usize,
        cursor: Option<Cursor>,
        rejects_bytes: Option<u64>,
    ) -> Progress {
        let state = self.state();
        let mut cursor = Some(cursor);
        let workspaces = state.workspaces.iter().enumerate().take(current + 1);
        Progress {
            workspaces: workspaces
                .map(|(number, workspace)| {
                    let cursor = if number == current {
                        cursor.take().flatten()
                    } else {
                        None
                    };
                    workspace.progress(cursor)
                })
                .collect(),
            batches: state.run.batches.clone(),
            errors: state.run.errors.clone(),
            rejects_bytes,
            complete: false,
        }
    }

    /// Takes over what an earlier run did.
    pub(crate) fn resume(&self, progress: &Progress) {
        let mut state = self.state();
        state.run.batches = progress.batches.clone();
        state.run.errors = progress.errors.clone();
        let known = state.workspaces.len();
        for (number, before) in progress.workspaces.iter().enumerate().take(known) {
            state.change(number, |workspace| workspace.resume(before));
        }
        let mut before = Totals::default();
        let parts = state.workspaces.iter().flat_map(WorkspaceStats::parts);
        parts.for_each(|part| before.add(part));
        state.resumed = state.sum.done;
        state.run.written_before = before.written;
        state.run.bytes_before = before.bytes;
    }

    /// The report of a run that ended so.
    pub fn report(&self, ending: &RunOutcome) -> Report {
        let state = self.state();
        let mut numbers = state.run.clone();
        numbers.duration = self.started.elapsed();
        numbers.moving += state.moving_since.map_or(Duration::ZERO, |since| since.elapsed());
        numbers.workspaces = state.workspaces.iter().map(WorkspaceStats::report).collect();
        numbers.into_report(ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_reported_once() {
        let stats = RunStats::new(Mode::Migrate);
        assert!(stats.add_warning("full") && !stats.add_warning("full") && stats.add_warning("old"));
        assert_eq!(stats.report(&RunOutcome::Done).warnings.len(), 2);
    }
}
