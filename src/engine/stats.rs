//! Every number of a run, in one place. Events, the report, metrics and the checkpoint are derived from it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::checkpoint::{JobTotals, Progress, Snapshot, WorkspaceProgress};
use crate::{
    model::{
        CacheType, Error, ErrorKind, LeftOut, Location, Mode, Side, SortedMap, VerifyLevel, WorkspacePair,
    },
    report::{
        ReadBackReport, Rehearsal, Report, RunNumbers, RunOutcome, Totals, Verification, VerifyNumbers,
        WorkspaceReport,
    },
    storage::{Count, Cursor},
};

/// The numbers of a run. Shared with the panic handler, which reports them too.
#[derive(Debug)]
pub struct RunStats {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The numbers of the whole run. Its `workspaces` stay empty: the report derives them from the next field.
    run: RunNumbers,
    workspaces: Vec<WorkspaceStats>,
    /// The sums over all workspaces, so that they need not be added up for every batch.
    sum: Sum,
    moving_since: Option<Instant>,
    /// Records that an earlier run moved.
    resumed: u64,
}

/// The progress of one or more workspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    done: u64,
    total: u64,
    expected: u64,
    rejected: u64,
}

/// What is known of the target before a workspace is moved to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetBefore {
    /// Its records of the selected types.
    pub(crate) records: u64,
    /// Whether that number is exact.
    pub(crate) is_exact: bool,
    /// Whether the run replaces records that the target has.
    pub(crate) may_be_replaced: bool,
}

/// The numbers of one workspace.
#[derive(Clone, Debug)]
pub(crate) struct WorkspaceStats {
    pair: WorkspacePair,
    expected: Arc<Count>,
    target_before: TargetBefore,
    target_records_after: Option<u64>,
    /// Records that the target has more than before, without copies under other keys.
    added: Option<u64>,
    rehearsal: Option<Rehearsal>,
    by_type: SortedMap<CacheType, Totals>,
    /// Entries that were read but not selected.
    filtered: u64,
    /// The number of the last batch that was counted.
    batch: u64,
    completed: bool,
    /// Whether an earlier run wrote some of these records.
    is_resumed: bool,
    /// The part of `by_type` that is durable.
    durable: SortedMap<CacheType, Totals>,
}

impl WorkspaceStats {
    pub(crate) fn new(pair: WorkspacePair, expected: Arc<Count>, target_before: TargetBefore) -> Self {
        Self {
            pair,
            expected,
            target_before,
            target_records_after: None,
            added: None,
            is_resumed: false,
            rehearsal: None,
            by_type: SortedMap::default(),
            filtered: 0,
            batch: 0,
            completed: false,
            durable: SortedMap::default(),
        }
    }

    /// Counts an entry of a batch and its outcome.
    pub(crate) fn add(&mut self, key: &str, change: &Totals) {
        let change = Totals {
            read: 1,
            selected: 1,
            ..change.clone()
        };
        // Use the type under which the entry was counted.
        let cache_type = self
            .expected
            .by_type
            .label(CacheType::of_key(key), CacheType::Other);
        self.by_type.or_default(cache_type).add(&change);
    }

    /// Counts entries that were read but not selected.
    pub(crate) fn add_filtered(&mut self, entries: u64) {
        self.filtered += entries;
    }

    fn parts(&self) -> impl Iterator<Item = &Totals> {
        self.by_type.values()
    }

    /// The sums over all types so far. Entries without an outcome count as not attempted.
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

    /// Marks everything counted so far as durable.
    pub(crate) fn mark_durable(&mut self) {
        self.durable = self.by_type.clone();
    }

    /// Takes back the records that the target accepted but could not make durable. Returns their number.
    pub(crate) fn revoke(&mut self) -> u64 {
        let mut lost = 0;
        let none = Totals::default();
        for (cache_type, totals) in self.by_type.iter_mut() {
            let kept = self.durable.get(cache_type).unwrap_or(&none);
            lost += totals.written - kept.written;
            totals.written = kept.written;
            totals.sanitized = kept.sanitized;
            totals.bytes = kept.bytes;
        }
        lost
    }

    /// Takes back every record that the target accepted.
    fn revoke_all(&mut self) {
        self.durable = SortedMap::default();
        self.completed = false;
        self.target_records_after = None;
        self.added = None;
        self.revoke();
    }

    pub(crate) fn set_rehearsal(&mut self, rehearsal: Rehearsal) {
        self.rehearsal = Some(rehearsal);
    }

    pub(crate) fn set_target_records_after(&mut self, records: u64) {
        self.target_records_after = Some(records);
    }

    pub(crate) fn set_added(&mut self, records: u64) {
        self.added = Some(records);
    }

    /// How many of the written records the target did not have before; `None` if unknown.
    fn new_records(&self, written: u64) -> Option<u64> {
        let TargetBefore {
            records: before,
            is_exact,
            may_be_replaced,
        } = self.target_before;
        if written == 0 || !may_be_replaced {
            return Some(written);
        }
        if self.is_resumed || !is_exact {
            return None;
        }
        if before == 0 {
            return Some(written);
        }
        self.added.map(|added| added.min(written))
    }

    /// Marks the workspace as completely moved.
    pub(crate) fn complete(&mut self) {
        self.completed = true;
        // Free the memory, as there may be thousands of workspaces: nothing is taken back any more.
        self.durable = SortedMap::default();
    }

    fn report(&self) -> WorkspaceReport {
        let expected = &self.expected.by_type;
        let mut by_cache_type: BTreeMap<CacheType, Totals> = BTreeMap::new();
        for (cache_type, records) in expected.iter().filter(|(_, records)| *records > 0) {
            let none = Totals::default().closed(records, self.completed);
            by_cache_type.insert(cache_type.clone(), none);
        }
        for (cache_type, totals) in self.by_type.iter() {
            let closed = totals.clone().closed(expected.get(cache_type), self.completed);
            by_cache_type.insert(cache_type.clone(), closed);
        }
        // Add up the parts, so that the sums are consistent even if the source changed after the count.
        let mut totals = Totals::default();
        by_cache_type.values().for_each(|part| totals.add(part));
        totals.read += self.filtered;
        let new = self.new_records(totals.written);
        WorkspaceReport {
            from: self.pair.from.clone(),
            to: self.pair.to.clone(),
            source_records: Some(self.expected.total()),
            target_records_before: Some(self.target_before.records),
            target_records_after: self.target_records_after,
            rehearsal: self.rehearsal,
            new,
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
            at_start: None,
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

    /// Restores the numbers of an earlier run, if it can be resumed from there.
    fn resume(&mut self, before: &WorkspaceProgress) {
        if !before.complete && before.cursor.is_none() {
            return;
        }
        // `not_attempted` is derived in every report and not counted here.
        let counted = |totals: &Totals| Totals {
            not_attempted: 0,
            ..totals.clone()
        };
        let before_by_type = before.by_cache_type.iter();
        self.by_type = before_by_type
            .map(|(cache_type, totals)| (cache_type.clone(), counted(totals)))
            .collect();
        let typed: u64 = self.by_type.values().map(|totals| totals.read).sum();
        self.filtered = before.totals.read.saturating_sub(typed);
        self.batch = before.batches;
        self.completed = before.complete;
        self.is_resumed = true;
        self.mark_durable();
    }
}

/// The progress of the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunProgress {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) elapsed: Duration,
    /// `None` while unknown.
    pub(crate) remaining: Option<Duration>,
}

impl State {
    /// Changes or reads the numbers of a workspace, and updates the sums.
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
    /// The numbers of a run that starts now.
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

    /// The lock is never held across an await. A panic leaves the numbers valid: each change is a single step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes or reads the numbers of the whole run.
    pub(crate) fn run<T>(&self, change: impl FnOnce(&mut RunNumbers) -> T) -> T {
        change(&mut self.state().run)
    }

    /// Changes or reads the numbers of a workspace, given its number in the run.
    pub(crate) fn workspace<T>(&self, number: usize, change: impl FnOnce(&mut WorkspaceStats) -> T) -> T {
        self.state().change(number, change)
    }

    /// The location of a side, once it is known.
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

    /// Takes back every record that the target accepted, of all workspaces.
    pub(crate) fn revoke_all(&self) {
        let mut state = self.state();
        for number in 0..state.workspaces.len() {
            state.change(number, WorkspaceStats::revoke_all);
        }
    }

    /// Adds a warning. Returns false if the same one was added before.
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

    /// Adds to the numbers or differences that comparisons found. The level is that of the run.
    pub(crate) fn add_compared(&self, level: VerifyLevel, add: impl FnOnce(&mut Verification)) {
        self.run(|run| add(run.verification.get_or_insert_with(|| Verification::new(level))));
    }

    /// The numbers of all comparisons so far.
    pub(crate) fn compared(&self) -> VerifyNumbers {
        self.run(|run| run.verification.as_ref().map(|found| found.numbers.clone()))
            .unwrap_or_default()
    }

    /// Records the error that ended the run, with those that occurred while it was ending.
    pub fn record_failure(&self, error: &Error) {
        // An error that occurred while writing and again at the end is one failure. Several workspaces may find at the same
        // time that there are too many errors, with different numbers.
        let is_same = |one: &Error, other: &Error| {
            let is_limit = |error: &Error| error.kind() == ErrorKind::TooManyErrors;
            one.message() == other.message() || is_limit(one) && is_limit(other)
        };
        let mut failures: Vec<&Error> = Vec::new();
        for error in error.with_others() {
            match failures.iter_mut().find(|known| is_same(known, error)) {
                Some(known) if known.records() < error.records() => *known = error,
                Some(_) => {}
                None => failures.push(error),
            }
        }
        self.run(|run| failures.into_iter().for_each(|error| run.errors.fatal(error)));
    }

    /// Starts or stops the clock of moving records.
    pub(crate) fn set_moving(&self, moving: bool) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(since) = state.moving_since.take() {
            state.run.moving += now - since;
        }
        state.moving_since = moving.then_some(now);
    }

    /// Counts a batch as ok; [`Self::batch_is_partial`] and [`Self::batch_failed`] change that.
    pub(crate) fn begin_batch(&self, workspace: usize, batch: u64, retried: bool) {
        let mut state = self.state();
        state.workspaces[workspace].batch = batch;
        let batches = &mut state.run.batches;
        batches.total += 1;
        batches.ok += 1;
        batches.retried += u64::from(retried);
    }

    /// Counts the last batch as partial.
    pub(crate) fn batch_is_partial(&self) {
        self.run(|run| {
            run.batches.ok -= 1;
            run.batches.partial += 1;
        });
    }

    /// Counts the last batch as failed.
    pub(crate) fn batch_failed(&self) {
        self.run(|run| {
            run.batches.ok -= 1;
            run.batches.failed += 1;
        });
    }

    /// The number of rejected records, and of records to move.
    pub(crate) fn rejected(&self) -> (u64, u64) {
        let sum = self.state().sum;
        (sum.rejected, sum.expected)
    }

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

    /// The progress of a workspace up to a cursor, with the numbers of the run at this moment. `None` for no workspace.
    pub(crate) fn snapshot(
        &self,
        number: usize,
        cursor: Option<Cursor>,
        rejects_bytes: Option<u64>,
    ) -> Option<Snapshot> {
        let state = self.state();
        let workspace = state.workspaces.get(number)?;
        Some(Snapshot {
            number,
            name: workspace.pair.from.clone(),
            workspace: workspace.progress(cursor),
            job: JobTotals {
                batches: state.run.batches.clone(),
                errors: state.run.errors.clone(),
                rejects_bytes,
            },
        })
    }

    /// The progress of the job at a snapshot. The workspaces before it are done.
    pub(crate) fn progress_at(&self, at: Snapshot) -> Progress {
        let state = self.state();
        let before = state.workspaces.iter().take(at.number);
        let done = before.map(|workspace| workspace.progress(None));
        Progress {
            workspaces: done.chain([at.workspace]).collect(),
            job: at.job,
            complete: false,
        }
    }

    /// Restores the numbers of an earlier run.
    pub(crate) fn resume(&self, progress: &Progress) {
        let mut state = self.state();
        state.run.batches = progress.job.batches.clone();
        state.run.errors = progress.job.errors.clone();
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

    /// A snapshot of all numbers, as the final report of a run that ended this way.
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

    #[test]
    fn an_error_that_occurred_twice_counts_once_with_all_of_its_records() {
        let full = |records| Error::new(ErrorKind::Full, "full").of_records(records);
        for (first, second) in [(3, 12), (12, 3)] {
            let stats = RunStats::new(Mode::Migrate);
            stats.record_failure(&full(first).and(full(second)));
            let errors = stats.report(&RunOutcome::Left).errors;
            assert_eq!((errors.total, errors.first[0].records), (1, 12));
        }
    }

    #[test]
    fn too_many_errors_are_one_failure_however_many_workspaces_find_them() {
        let stats = RunStats::new(Mode::Migrate);
        let too_many = |n| {
            Error::new(
                ErrorKind::TooManyErrors,
                format!("{n} of 56 records were rejected"),
            )
        };
        stats.record_failure(
            &too_many(4)
                .and(too_many(6))
                .and(Error::new(ErrorKind::Full, "full")),
        );
        assert_eq!(stats.report(&RunOutcome::Left).errors.total, 2);
    }
}
