//! Accounting for batches, in the order of the source.

use std::{collections::BTreeMap, time::Duration};

use super::{Batch, Move, write::Fate};
use crate::{
    config::OnConflict,
    error::{Error, ErrorKind, Result, Side},
    record::{CacheType, RejectKind},
    report::{BatchEvent, BatchStatus, Event, Ledger, RejectEvent, Reporter, Totals, WarningEvent, percent},
    storage::{Count, Workspace},
};

/// The account of one workspace.
pub struct Account<'a> {
    reporter: &'a Reporter,
    ledger: &'a Ledger,
    ledger_entry: usize,
    workspace: Workspace,
    expected: &'a Count,
    batch_records: u64,
    on_conflict: OnConflict,
    totals: Totals,
    by_type: BTreeMap<CacheType, Totals>,
    left_behind: BTreeMap<String, u64>,
}

impl<'a> Account<'a> {
    /// Opens the account of a workspace.
    pub(super) fn open(job: &Move<'a>) -> Self {
        Self {
            reporter: job.reporter,
            ledger: job.ledger,
            ledger_entry: job.ledger_entry,
            workspace: job.pair.from.clone(),
            expected: job.expected,
            batch_records: job.batch.records.get() as u64,
            on_conflict: job.on_conflict,
            totals: Totals::default(),
            by_type: BTreeMap::new(),
            left_behind: BTreeMap::new(),
        }
    }

    /// Enters a batch. Gives the error that is to end the run, if there is one.
    pub(super) fn enter(
        &mut self,
        batch: &Batch,
        result: Result<Vec<Fate>>,
        duration: Duration,
    ) -> Option<Error> {
        let before = self.totals.clone();
        self.totals.read += batch.passed_over;
        let (status, error) = match result {
            Ok(fates) => {
                let conflict = self.enter_fates(batch, fates);
                let rejected = self.totals.rejected > before.rejected;
                let status = if rejected {
                    BatchStatus::Partial
                } else {
                    BatchStatus::Ok
                };
                (status, conflict)
            }
            Err(error) => {
                self.enter_unknown(batch);
                (BatchStatus::Failed, Some(error))
            }
        };
        if let Some(error) = &error {
            let records = batch.entries.len() as u64;
            self.ledger
                .entries()
                .errors
                .fatal(Some(batch.number), error, records);
        }
        if !batch.entries.is_empty() {
            self.tell(batch, &before, status, duration);
        }
        self.publish();
        error
    }

    /// Enters a failure that belongs to no batch.
    pub(super) fn fail(&mut self, error: &Error) {
        self.ledger.entries().errors.fatal(None, error, 0);
    }

    /// The target could not keep what it had taken: nothing counts as written.
    pub(super) fn revoke(&mut self, error: &Error) {
        let lost = self.totals.written;
        for totals in self.by_type.values_mut().chain([&mut self.totals]) {
            totals.written = 0;
            totals.sanitized = 0;
            totals.bytes = 0;
        }
        self.ledger.entries().errors.fatal(None, error, lost);
        self.publish();
    }

    /// Closes the account of a workspace that was moved wholly or stopped early.
    pub(super) fn close(mut self, completed: bool) {
        self.totals.close(self.expected.total(), completed);
        for cache_type in CacheType::ALL {
            let expected = self.expected.by_type.get(&cache_type).copied().unwrap_or(0);
            if expected > 0 || self.by_type.contains_key(&cache_type) {
                self.by_type
                    .entry(cache_type)
                    .or_default()
                    .close(expected, completed);
            }
        }
        // The whole is the sum of its parts, also where the source changed between count and end.
        self.totals.selected = self.by_type.values().map(|totals| totals.selected).sum();
        self.totals.not_attempted = self.totals.selected - self.totals.done();
        for (field, records) in std::mem::take(&mut self.left_behind) {
            self.warn(format!(
                "workspace {}: the target has no place for the field `{field}`; it was left behind in {records} \
                 records",
                self.workspace
            ));
        }
        let counted = self.expected.total();
        if completed && self.expected.exact && counted != self.totals.selected {
            self.warn(format!(
                "workspace {}: the source had {counted} records when they were counted and {} when they were read: \
                 somebody wrote to it meanwhile",
                self.workspace, self.totals.selected
            ));
        }
        self.publish();
    }

    fn warn(&self, message: String) {
        self.ledger.entries().warnings.push(message.clone());
        self.reporter.emit(Event::Warning(WarningEvent { message }));
    }

    fn enter_fates(&mut self, batch: &Batch, fates: Vec<Fate>) -> Option<Error> {
        let mut conflicts = 0;
        for (entry, fate) in batch.entries.iter().zip(fates) {
            let key = entry.key();
            let mut change = Totals {
                read: 1,
                selected: 1,
                ..Totals::default()
            };
            match fate {
                Fate::Written(changes) => {
                    change.written = 1;
                    change.bytes = entry.size() as u64;
                    change.sanitized = u64::from(!changes.sanitized.is_empty());
                    for field in changes.left_behind {
                        *self.left_behind.entry(field).or_default() += 1;
                    }
                }
                Fate::Skipped => change.skipped = 1,
                Fate::Rejected { kind, reason } => {
                    change.rejected = 1;
                    conflicts += u64::from(kind == RejectKind::Conflict);
                    let number = Some(batch.number);
                    self.ledger
                        .entries()
                        .errors
                        .reject(number, kind.as_str(), &reason, key.as_str());
                    self.reporter.emit(Event::Reject(RejectEvent {
                        workspace: self.workspace.clone(),
                        batch: batch.number,
                        key: key.to_string(),
                        kind,
                        reason,
                    }));
                }
            }
            self.totals.add(&change);
            if let Some(cache_type) = CacheType::of_key(key.as_str()) {
                self.by_type.entry(cache_type).or_default().add(&change);
            }
        }
        (conflicts > 0 && self.on_conflict == OnConflict::Fail).then(|| {
            let message = format!(
                "the target has {conflicts} of the keys of batch {} already",
                batch.number
            );
            Error::new(ErrorKind::Conflict, message).on(Side::Target)
        })
    }

    /// The fate of a batch that failed as a whole is not known.
    fn enter_unknown(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            let change = Totals {
                read: 1,
                selected: 1,
                ..Totals::default()
            };
            self.totals.add(&change);
            if let Some(cache_type) = CacheType::of_key(entry.key().as_str()) {
                self.by_type.entry(cache_type).or_default().add(&change);
            }
        }
    }

    fn tell(&self, batch: &Batch, before: &Totals, status: BatchStatus, duration: Duration) {
        let mut entries = self.ledger.entries();
        let batches = &mut entries.batches;
        batches.total += 1;
        match status {
            BatchStatus::Ok => batches.ok += 1,
            BatchStatus::Partial => batches.partial += 1,
            BatchStatus::Failed => batches.failed += 1,
        }
        drop(entries);
        let done = self.totals.done();
        let total = self.expected.total().max(done);
        let first_type = batch
            .entries
            .first()
            .and_then(|entry| CacheType::of_key(entry.key().as_str()));
        self.reporter.emit(Event::Batch(BatchEvent {
            workspace: self.workspace.clone(),
            batch: batch.number,
            batches: total.div_ceil(self.batch_records).max(batch.number),
            records: batch.entries.len() as u64,
            written: self.totals.written - before.written,
            skipped: self.totals.skipped - before.skipped,
            rejected: self.totals.rejected - before.rejected,
            bytes: self.totals.bytes - before.bytes,
            cache_type: first_type,
            status,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            done,
            total,
            percent: percent(done, total),
        }));
    }

    /// Puts the numbers where a report is made of them. Until the account is closed, what has no fate is open.
    fn publish(&self) {
        let mut entries = self.ledger.entries();
        let Some(report) = entries.workspaces.get_mut(self.ledger_entry) else {
            return;
        };
        let settle = |totals: &Totals| Totals {
            not_attempted: totals.selected - totals.done(),
            ..totals.clone()
        };
        report.totals = settle(&self.totals);
        report.by_cache_type = self
            .by_type
            .iter()
            .map(|(t, totals)| (*t, settle(totals)))
            .collect();
    }
}
