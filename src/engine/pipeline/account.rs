//! Accounting for batches, in the order of the source.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Batch, CHECKPOINT_EVERY, WorkspaceJob,
    write::{BatchOutcome, RecordOutcome},
};
use crate::{
    engine::checkpoint::WorkspaceProgress,
    model::{CacheType, Error, ErrorKind, OnConflict, Result, Side, Workspace, record::RejectKind},
    report::{BatchEvent, BatchStatus, CheckpointEvent, Event, RejectEvent, Totals, percent},
    storage::{Entry, Target},
};

/// The account of one workspace.
pub struct Account<'a> {
    job: WorkspaceJob<'a>,
    totals: Totals,
    by_type: BTreeMap<CacheType, Totals>,
    dropped_fields: BTreeMap<String, u64>,
    last_checkpoint: Instant,
    /// Whether the job's progress says more than the checkpoint file.
    is_ahead_of_checkpoint: bool,
}

impl<'a> Account<'a> {
    /// Opens the account of a workspace, with what an earlier run did of it.
    pub(super) fn open(job: WorkspaceJob<'a>) -> Self {
        let before = job
            .progress
            .workspaces
            .get(job.number)
            .filter(|before| before.cursor.is_some());
        let (totals, by_type) = before.map_or_else(Default::default, |before| {
            (before.totals.clone(), before.by_cache_type.clone())
        });
        Self {
            job,
            totals,
            by_type,
            dropped_fields: BTreeMap::new(),
            last_checkpoint: Instant::now(),
            is_ahead_of_checkpoint: false,
        }
    }

    /// The workspace that is read.
    pub(super) fn workspace(&self) -> &Workspace {
        &self.job.pair.from
    }

    /// Enters a batch. Gives the error that is to end the run, if there is one. `is_next` is false behind a batch that
    /// failed: no later run may go on from there.
    pub(super) fn enter(
        &mut self,
        batch: Batch,
        result: Result<BatchOutcome>,
        duration: Duration,
        is_next: bool,
    ) -> Option<Error> {
        let before = self.totals.clone();
        self.totals.read += batch.filtered;
        let (status, error) = match result {
            Ok(fates) => {
                self.job.ledger.entries().batches.retried += u64::from(fates.retried);
                let error = self.enter_fates(&batch, fates.fates, is_next).err();
                let rejected = self.totals.rejected > before.rejected;
                let status = if rejected {
                    BatchStatus::Partial
                } else {
                    BatchStatus::Ok
                };
                (status, error)
            }
            Err(error) => {
                // The fate of its records is not known.
                batch
                    .entries
                    .iter()
                    .for_each(|entry| self.add(entry, &Totals::default()));
                (BatchStatus::Failed, Some(error))
            }
        };
        if let Some(error) = &error {
            let records = batch.entries.len() as u64;
            self.job
                .ledger
                .entries()
                .errors
                .fatal(Some(batch.number), error, records);
        }
        if !batch.entries.is_empty() {
            self.tell(&batch, &before, status, duration);
        }
        self.publish();
        if let Some(damage) = batch.damage {
            self.job.ledger.entries().is_incomplete = true;
            self.warn(damage);
        }
        error.or_else(|| self.too_many_errors())
    }

    /// Enters a failure that belongs to no batch.
    pub(super) fn fail(&mut self, error: &Error) {
        self.job.ledger.entries().errors.fatal(None, error, 0);
    }

    /// Closes the account of a target that could not keep what it had taken: nothing counts as written, and there is no
    /// place from which a later run could go on.
    ///
    /// # Errors
    /// None in fact: no checkpoint is written.
    pub(super) fn revoke(mut self, error: &Error) -> Result<()> {
        let lost = self.totals.written;
        for totals in self.by_type.values_mut().chain([&mut self.totals]) {
            totals.written = 0;
            totals.sanitized = 0;
            totals.bytes = 0;
        }
        self.job.ledger.entries().errors.fatal(None, error, lost);
        self.is_ahead_of_checkpoint = false;
        self.close(false)
    }

    /// Writes a checkpoint, if the last one is old enough: what it says is durable, then the file is replaced.
    ///
    /// # Errors
    /// The target could not make its writes durable, or a file could not be written.
    pub(super) async fn checkpoint_if_due(&mut self, target: &dyn Target) -> Result<()> {
        let is_due = self.is_ahead_of_checkpoint && self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY;
        if self.job.checkpoint.is_none() || !is_due || !target.is_visible_when_flushed() {
            return Ok(());
        }
        let flushed = target.flush().await.map_err(|error| error.on(Side::Target));
        let written = flushed.and_then(|()| self.write_checkpoint());
        written.inspect_err(|error| self.fail(error))
    }

    /// The error for a source that ended before it gave as many records as it had when they were counted. Somebody may
    /// have deleted them meanwhile; but what looks like it may as well be a loss.
    pub(super) fn missing_at_source(&self) -> Option<Error> {
        let (counted, read) = (self.job.expected.total(), self.totals.selected);
        let is_short = self.job.expected.exact && read < counted && !self.job.ledger.entries().is_incomplete;
        is_short.then(|| {
            let message = format!(
                "workspace {}: the source had {counted} records when they were counted, and gave {read}",
                self.workspace()
            );
            Error::new(ErrorKind::Incomplete, message).on(Side::Source)
        })
    }

    /// Closes the account of a workspace that was moved wholly or stopped early.
    ///
    /// # Errors
    /// The checkpoint could not be written.
    pub(super) fn close(mut self, complete: bool) -> Result<()> {
        let expected = self.job.expected;
        for cache_type in CacheType::ALL {
            let expected = expected.by_type.get(&cache_type).copied().unwrap_or(0);
            if expected > 0 || self.by_type.contains_key(&cache_type) {
                self.by_type
                    .entry(cache_type)
                    .or_default()
                    .close(expected, complete);
            }
        }
        // The whole is the sum of its parts, also where the source changed between count and end.
        self.totals.selected = self.by_type.values().map(|totals| totals.selected).sum();
        self.totals.not_attempted = self.totals.selected - self.totals.done();
        for (field, records) in std::mem::take(&mut self.dropped_fields) {
            self.warn(format!(
                "workspace {}: the target has no place for the field `{field}`; it was left behind in {records} \
                 records",
                self.workspace()
            ));
        }
        let is_salvaged = self.job.ledger.entries().is_incomplete;
        if complete && !is_salvaged && expected.exact && expected.total() != self.totals.selected {
            self.warn(format!(
                "workspace {}: the source had {} records when they were counted and {} when they were read: somebody \
                 wrote to it meanwhile",
                self.workspace(),
                expected.total(),
                self.totals.selected
            ));
        }
        self.publish();
        if complete {
            self.keep(None);
            if let Some(progress) = self.job.progress.workspaces.get_mut(self.job.number) {
                progress.complete = true;
            }
        }
        let written = if self.job.checkpoint.is_some() && self.is_ahead_of_checkpoint {
            self.write_checkpoint()
        } else {
            Ok(())
        };
        written.inspect_err(|error| self.fail(error))
    }

    fn warn(&self, message: String) {
        self.job.reporter.warn(self.job.ledger, message);
    }

    fn enter_fates(&mut self, batch: &Batch, fates: Vec<RecordOutcome>, is_next: bool) -> Result<()> {
        let mut conflicts = 0_u64;
        let page_end = batch.page_end.as_ref().filter(|_| is_next);
        let is_end_of_page = |entries| page_end.filter(|end| end.entries == entries);
        if let Some(end) = is_end_of_page(0) {
            self.keep(Some((&end.cursor, batch.number)));
        }
        for (at, (entry, fate)) in batch.entries.iter().zip(fates).enumerate() {
            let mut change = Totals::default();
            match fate {
                RecordOutcome::Written(changes) => {
                    change.written = 1;
                    change.bytes = entry.size() as u64;
                    change.sanitized = u64::from(!changes.sanitized.is_empty());
                    for field in changes.dropped_fields {
                        *self.dropped_fields.entry(field).or_default() += 1;
                    }
                }
                RecordOutcome::Skipped => change.skipped = 1,
                RecordOutcome::Rejected { kind, reason } => {
                    change.rejected = 1;
                    conflicts += u64::from(kind == RejectKind::Conflict);
                    self.reject(batch, entry, kind, reason)?;
                }
            }
            self.add(entry, &change);
            if let Some(end) = is_end_of_page(at + 1) {
                self.keep(Some((&end.cursor, batch.number)));
            }
        }
        if conflicts > 0 && self.job.on_conflict == OnConflict::Fail {
            let message = format!(
                "the target has {conflicts} of the keys of batch {} already",
                batch.number
            );
            return Err(Error::new(ErrorKind::Conflict, message).on(Side::Target));
        }
        Ok(())
    }

    /// Counts an entry, and what became of it.
    fn add(&mut self, entry: &Entry, change: &Totals) {
        let change = Totals {
            read: 1,
            selected: 1,
            ..change.clone()
        };
        self.totals.add(&change);
        if let Some(cache_type) = CacheType::of_key(entry.key().as_str()) {
            self.by_type.entry(cache_type).or_default().add(&change);
        }
    }

    fn reject(&self, batch: &Batch, entry: &Entry, kind: RejectKind, reason: String) -> Result<()> {
        // First where it can be found again, then in words.
        if let Some(rejects) = self.job.rejects {
            rejects.add(self.workspace(), entry, kind, &reason)?;
        }
        let key = entry.key();
        let number = Some(batch.number);
        self.job
            .ledger
            .entries()
            .errors
            .reject(number, kind.as_str(), &reason, key.as_str());
        self.job.reporter.emit(Event::Reject(RejectEvent {
            workspace: self.workspace().clone(),
            batch: batch.number,
            key: key.to_string(),
            kind,
            reason,
        }));
        Ok(())
    }

    fn too_many_errors(&self) -> Option<Error> {
        let most = self.job.max_errors?;
        let entries = self.job.ledger.entries();
        let rejected = entries
            .workspaces
            .iter()
            .map(|workspace| workspace.totals.rejected)
            .sum();
        let total = entries
            .workspaces
            .iter()
            .filter_map(|workspace| workspace.source_records)
            .sum();
        drop(entries);
        if !most.is_exceeded(rejected, total) {
            return None;
        }
        let error = Error::new(
            ErrorKind::TooManyErrors,
            format!("{rejected} of {total} records were rejected, which is more than --max-errors allows"),
        );
        self.job.ledger.entries().errors.fatal(None, &error, 0);
        Some(error)
    }

    /// Notes that everything accounted for so far is done, up to a place from which a later run can go on.
    fn keep(&mut self, place: Option<(&crate::storage::Cursor, u64)>) {
        if self.job.checkpoint.is_none() {
            return;
        }
        let before = self
            .job
            .progress
            .workspaces
            .get(self.job.number)
            .map_or(0, |progress| progress.batches);
        let progress = WorkspaceProgress {
            from: self.job.pair.from.name().to_owned(),
            to: self.job.pair.to.name().to_owned(),
            cursor: place.map(|(cursor, _)| cursor.clone()),
            complete: false,
            batches: place.map_or(before, |(_, batch)| batch),
            totals: settled(&self.totals),
            by_cache_type: self
                .by_type
                .iter()
                .map(|(t, totals)| (*t, settled(totals)))
                .collect(),
        };
        let all = &mut self.job.progress;
        all.workspaces.truncate(self.job.number);
        all.workspaces
            .resize_with(self.job.number, WorkspaceProgress::default);
        all.workspaces.push(progress);
        let entries = self.job.ledger.entries();
        all.batches = entries.batches.clone();
        all.errors = entries.errors.clone();
        all.rejects_bytes = self.job.rejects.map(crate::engine::rejects::RejectsFile::length);
        self.is_ahead_of_checkpoint = true;
    }

    fn write_checkpoint(&mut self) -> Result<()> {
        let Some(checkpoint) = self.job.checkpoint else {
            return Ok(());
        };
        if let Some(rejects) = self.job.rejects {
            rejects.flush()?;
        }
        checkpoint.write(self.job.progress)?;
        self.last_checkpoint = Instant::now();
        self.is_ahead_of_checkpoint = false;
        if let Some(progress) = self.job.progress.workspaces.get(self.job.number) {
            self.job.reporter.emit(Event::Checkpoint(CheckpointEvent {
                file: checkpoint.path().display().to_string(),
                workspace: self.workspace().clone(),
                batch: progress.batches,
                done: progress.totals.done(),
            }));
        }
        Ok(())
    }

    fn tell(&self, batch: &Batch, before: &Totals, status: BatchStatus, duration: Duration) {
        let mut entries = self.job.ledger.entries();
        let batches = &mut entries.batches;
        batches.total += 1;
        match status {
            BatchStatus::Ok => batches.ok += 1,
            BatchStatus::Partial => batches.partial += 1,
            BatchStatus::Failed => batches.failed += 1,
        }
        drop(entries);
        let done = self.totals.done();
        let total = self.job.expected.total().max(done);
        let first_type = batch
            .entries
            .first()
            .and_then(|entry| CacheType::of_key(entry.key().as_str()));
        self.job.reporter.emit(Event::Batch(BatchEvent {
            workspace: self.workspace().clone(),
            batch: batch.number,
            batches: total
                .div_ceil(self.job.batch.records.get() as u64)
                .max(batch.number),
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

    /// Puts the numbers where a report is made of them.
    fn publish(&self) {
        let mut entries = self.job.ledger.entries();
        let Some(report) = entries.workspaces.get_mut(self.job.number) else {
            return;
        };
        report.totals = settled(&self.totals);
        report.by_cache_type = self
            .by_type
            .iter()
            .map(|(t, totals)| (*t, settled(totals)))
            .collect();
    }
}

/// The numbers of an open account: what has no fate yet is not attempted.
fn settled(totals: &Totals) -> Totals {
    Totals {
        not_attempted: totals.selected - totals.done(),
        ..totals.clone()
    }
}
