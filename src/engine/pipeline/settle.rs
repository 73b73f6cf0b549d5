//! Settling batches in the order of the source: numbers, rejected records and checkpoints.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Batch, WorkspaceJob,
    write::{BatchOutcome, RecordOutcome},
};
use crate::{
    engine::{
        checkpoint::Snapshot,
        rejects::RejectsFile,
        retry::{RequestContext, Retrier},
        warn,
    },
    model::{CacheType, Error, ErrorKind, OnConflict, Result, Side, Workspace, plural, record::RejectKind},
    report::{
        BatchEvent, BatchStatus, Event, RejectEvent, Totals, WarningEvent, WarningKind, percent,
        style::{grouped, grouped_of},
    },
    storage::{Cursor, Entry, Target},
};

/// Settles the batches of one workspace.
pub(super) struct Settlement<'a> {
    job: WorkspaceJob<'a>,
    dropped_fields: BTreeMap<String, u64>,
    filled_fields: BTreeMap<&'static str, u64>,
    /// What the next checkpoint says is done, if there has been progress since the last one.
    resumable: Option<Snapshot>,
    /// The same for a checkpoint from which a later run restarts this workspace.
    at_start: Option<Snapshot>,
}

impl<'a> Settlement<'a> {
    pub(super) fn new(job: WorkspaceJob<'a>) -> Self {
        let mut settlement = Self {
            job,
            dropped_fields: BTreeMap::new(),
            filled_fields: BTreeMap::new(),
            resumable: None,
            at_start: None,
        };
        settlement.keep(None);
        settlement.at_start = settlement.resumable.take();
        if let Some(snapshot) = &mut settlement.at_start {
            snapshot.workspace.clear();
            if let Some(job) = settlement.job.resume.and_then(|before| before.at_start.as_ref()) {
                snapshot.job.clone_from(job);
            }
        }
        settlement
    }

    fn workspace(&self) -> &Workspace {
        &self.job.pair.from
    }

    fn seen(&self) -> Totals {
        self.job
            .stats
            .workspace(self.job.number, |workspace| workspace.seen())
    }

    /// Settles a batch. `is_next` is false after a batch that failed: no later run may resume from there.
    ///
    /// # Errors
    /// The error that ends the run.
    pub(super) fn settle(
        &mut self,
        batch: Batch,
        result: Result<BatchOutcome>,
        duration: Duration,
        is_next: bool,
    ) -> Result<()> {
        let before = self.seen();
        let (stats, number) = (self.job.stats, self.job.number);
        stats.workspace(number, |workspace| workspace.add_filtered(batch.filtered));
        let page_end = batch.page_end.as_ref().filter(|_| is_next);
        if let Some(end) = page_end.filter(|end| end.entries == 0) {
            self.keep(Some(&end.cursor));
        }
        let mut settled = Ok(());
        if !batch.entries.is_empty() {
            let retried = result.as_ref().is_ok_and(|outcome| outcome.retried);
            stats.begin_batch(number, batch.number, retried);
            let (status, outcome) = self.settle_entries(&batch, result, is_next);
            self.report(&batch, &before, status, duration);
            settled = outcome.map_err(|error| {
                let error = error.in_workspace(self.workspace()).in_batch(batch.number);
                error.of_records(batch.entries.len() as u64)
            });
        }
        settled.and_then(|()| self.check_rejected())
    }

    fn settle_entries(
        &mut self,
        batch: &Batch,
        result: Result<BatchOutcome>,
        is_next: bool,
    ) -> (BatchStatus, Result<()>) {
        let outcomes = match result {
            Ok(outcome) => outcome.records,
            Err(error) => {
                // The outcome of its records is unknown.
                for entry in &batch.entries {
                    self.add(entry, &Totals::default());
                }
                self.job.stats.batch_failed();
                return (BatchStatus::Failed, Err(error));
            }
        };
        let mut status = BatchStatus::Ok;
        let settled = self.settle_outcomes(batch, outcomes, is_next, &mut status);
        (status, settled)
    }

    fn settle_outcomes(
        &mut self,
        batch: &Batch,
        outcomes: Vec<RecordOutcome>,
        is_next: bool,
        status: &mut BatchStatus,
    ) -> Result<()> {
        let mut conflicts = 0_u64;
        for (at, (entry, outcome)) in batch.entries.iter().zip(outcomes).enumerate() {
            let mut change = Totals::default();
            match outcome {
                RecordOutcome::Written(changes) => {
                    change.written = 1;
                    change.bytes = entry.size() as u64;
                    change.sanitized = u64::from(!changes.sanitized.is_empty());
                    if let (Some(read_back), Entry::Record(record)) = (&self.job.read_back, entry) {
                        read_back.offer(record);
                    }
                    for field in changes.dropped_fields {
                        *self.dropped_fields.entry(field).or_default() += 1;
                    }
                    for field in changes.filled_fields {
                        *self.filled_fields.entry(field).or_default() += 1;
                    }
                }
                RecordOutcome::Skipped => change.skipped = 1,
                RecordOutcome::Rejected { kind, reason } => {
                    change.rejected = 1;
                    conflicts += u64::from(kind == RejectKind::Conflict);
                    if *status == BatchStatus::Ok {
                        *status = BatchStatus::Partial;
                        self.job.stats.batch_is_partial();
                    }
                    self.reject(batch, entry, kind, reason)?;
                }
            }
            self.add(entry, &change);
            let page_end = batch.page_end.as_ref().filter(|_| is_next);
            if let Some(end) = page_end.filter(|end| end.entries == at + 1) {
                self.keep(Some(&end.cursor));
            }
        }
        if conflicts > 0 && self.job.on_conflict == OnConflict::Fail {
            let message = format!(
                "{conflicts} of the {} of batch {} are already there",
                grouped_of(batch.entries.len() as u64, "record"),
                batch.number
            );
            return Err(Error::new(ErrorKind::Conflict, message).on(Side::Target));
        }
        Ok(())
    }

    /// Writes a checkpoint if the last one is old enough: makes the writes durable, then replaces the file. Where no run can
    /// resume in this workspace, the checkpoint contains those that have finished since the last one.
    ///
    /// # Errors
    /// The target could not make its writes durable, or a file could not be written.
    pub(super) async fn checkpoint_if_due(&mut self) -> Result<()> {
        let Some(checkpoint) = self.job.checkpoint.filter(|checkpoint| checkpoint.is_due()) else {
            return Ok(());
        };
        if self.resumable.is_none() || !self.job.target.is_visible_when_flushed() {
            return checkpoint.save_deferred(self.job.stats, self.job.rejects, self.job.reporter);
        }
        self.flush().await?;
        self.write_checkpoint()
    }

    /// Makes everything written durable.
    async fn flush(&self) -> Result<()> {
        let purpose = self.purpose("making writes durable");
        let retrier = self.job.retrier;
        retrier
            .run(purpose, async || self.job.target.flush().await)
            .await?;
        self.job
            .stats
            .workspace(self.job.number, |workspace| workspace.mark_durable());
        Ok(())
    }

    /// Makes everything written durable and visible.
    ///
    /// # Errors
    /// The target failed.
    pub(super) async fn finish(&mut self, target: &dyn Target) -> Result<()> {
        if target.is_visible_when_flushed() {
            self.flush().await?;
            let purpose = self.purpose("finishing the target");
            let retrier = self.job.retrier;
            return retrier.run(purpose, async || target.finish().await).await;
        }
        let retrier = self.job.retrier;
        let purpose = self.purpose("making writes durable");
        retrier.run(purpose, async || target.flush().await).await?;
        // Moving a file of gigabytes into place may take long.
        let unbounded = Retrier {
            timeout: Duration::MAX,
            ..retrier.clone()
        };
        let purpose = self.purpose("moving the target into place");
        unbounded.run(purpose, async || target.finish().await).await
    }

    fn purpose<'s>(&'s self, what: &'s str) -> RequestContext<'s> {
        RequestContext {
            what,
            side: Side::Target,
            workspace: Some(self.workspace()),
            batch: None,
        }
    }

    /// Takes back the records that the target accepted but could not make durable; the last checkpoint remains. Returns the
    /// error with the number of these records.
    pub(super) fn revoke(self, error: Error) -> Error {
        let lost = self
            .job
            .stats
            .workspace(self.job.number, |workspace| workspace.revoke());
        error.of_records(lost)
    }

    /// The error for a source that returned fewer records than were counted. Another process may have deleted them, but
    /// they may as well be lost, so a later run restarts the workspace.
    pub(super) fn missing_at_source(&mut self) -> Option<Error> {
        let (expected, read) = (self.job.expected.total(), self.seen().selected);
        if !self.job.expected.exact || read >= expected {
            return None;
        }
        self.resumable = self.at_start.clone();
        let message = format!(
            "workspace {}: the source returned {}, but {} were counted",
            self.workspace(),
            grouped_of(read, "record"),
            grouped(expected)
        );
        let error = Error::new(ErrorKind::Incomplete, message).on(Side::Source);
        Some(error.in_workspace(self.workspace()))
    }

    /// Checks, after the target was finished, that it has what it confirmed. Returns false if the run was stopped during the
    /// check.
    ///
    /// # Errors
    /// Records are missing or different, or a side failed. A later run then restarts the workspace.
    pub(super) async fn read_back(&mut self) -> Result<bool> {
        let Some(read_back) = self.job.read_back.clone() else {
            return Ok(true);
        };
        let checked = tokio::select! {
            () = self.job.shutdown.stopped() => return Ok(false),
            checked = read_back.check(&self.job) => checked,
        };
        if let Err(error) = &checked
            && error.kind() == ErrorKind::Differences
        {
            self.resumable = self.at_start.clone();
        }
        checked.map(|()| true)
    }

    /// Ends a workspace, moved completely or not. Everything written is durable.
    ///
    /// # Errors
    /// The checkpoint could not be written.
    pub(super) fn close(mut self, complete: bool) -> Result<()> {
        for (field, records) in std::mem::take(&mut self.dropped_fields) {
            let message = format!(
                "workspace {}: the target cannot store the field `{field}`: dropped from {}",
                self.workspace(),
                grouped_of(records, "record")
            );
            self.warn(
                WarningEvent::new(WarningKind::DroppedField, message)
                    .of_field(field)
                    .of_records(records),
            );
        }
        for (field, records) in std::mem::take(&mut self.filled_fields) {
            let message = format!(
                "workspace {}: {} had no `{field}`; it was taken from the key",
                self.workspace(),
                grouped_of(records, "record")
            );
            self.warn(
                WarningEvent::new(WarningKind::FilledField, message)
                    .of_field(field)
                    .of_records(records),
            );
        }
        if complete {
            self.warn_if_changed();
            self.job
                .stats
                .workspace(self.job.number, |workspace| workspace.complete());
            self.keep(None);
            // Of many small workspaces, not every one is worth a checkpoint.
            if let Some(checkpoint) = self.job.checkpoint.filter(|checkpoint| !checkpoint.is_due()) {
                if let Some(snapshot) = self.resumable.take() {
                    checkpoint.defer(snapshot);
                }
                return Ok(());
            }
        }
        self.write_checkpoint()
    }

    fn warn_if_changed(&self) {
        let (expected, read) = (self.job.expected.total(), self.seen().selected);
        if self.job.expected.exact && expected != read {
            let message = format!(
                "workspace {}: the source changed during the run: {} counted, {} read",
                self.workspace(),
                grouped_of(expected, "record"),
                grouped(read)
            );
            self.warn(
                WarningEvent::new(WarningKind::SourceChanged, message).of_records(expected.abs_diff(read)),
            );
        }
    }

    fn warn(&self, warning: WarningEvent) {
        let warning = warning.in_workspace(self.workspace());
        warn(self.job.stats, self.job.reporter, warning);
    }

    /// Counts an entry and its outcome.
    fn add(&self, entry: &Entry, change: &Totals) {
        self.job.stats.workspace(self.job.number, |workspace| {
            workspace.add(entry.key().as_str(), change);
        });
    }

    fn reject(&self, batch: &Batch, entry: &Entry, kind: RejectKind, reason: String) -> Result<()> {
        // Save the record before it is reported.
        if let Some(rejects) = self.job.rejects {
            rejects.add(self.workspace(), entry, kind, &reason)?;
        }
        let key = entry.key();
        self.job.stats.run(|run| {
            let errors = &mut run.errors;
            errors.reject(
                self.workspace(),
                batch.number,
                kind.as_str(),
                &reason,
                key.as_str(),
            );
        });
        self.job.reporter.emit(Event::Reject(RejectEvent {
            workspace: self.workspace().clone(),
            batch: batch.number,
            key: key.to_string(),
            kind,
            reason,
        }));
        Ok(())
    }

    /// Fails if more records were rejected than `--max-errors` allows.
    fn check_rejected(&self) -> Result<()> {
        let (rejected, total) = self.job.stats.rejected();
        let is_exceeded = |most: crate::model::MaxErrors| most.is_exceeded(rejected, total);
        if !self.job.max_errors.is_some_and(is_exceeded) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooManyErrors,
            format!(
                "{} of {} {} rejected, more than --max-errors allows",
                grouped(rejected),
                grouped_of(total, "record"),
                plural(rejected, "was", "were")
            ),
        ))
    }

    /// Records that everything settled so far is done, for the next checkpoint: a later run resumes from the cursor.
    fn keep(&mut self, cursor: Option<&Cursor>) {
        if self.job.checkpoint.is_some() {
            let rejects_bytes = self.job.rejects.map(RejectsFile::length);
            let stats = self.job.stats;
            self.resumable = stats.snapshot(self.job.number, cursor.cloned(), rejects_bytes);
            if let (Some(snapshot), Some(_), Some(start)) = (&mut self.resumable, cursor, &self.at_start) {
                snapshot.workspace.at_start = Some(start.job.clone());
            }
        }
    }

    fn write_checkpoint(&mut self) -> Result<()> {
        match (self.job.checkpoint, self.resumable.take()) {
            (Some(checkpoint), Some(snapshot)) => {
                checkpoint.save(snapshot, self.job.stats, self.job.rejects, self.job.reporter)
            }
            _ => Ok(()),
        }
    }

    fn report(&self, batch: &Batch, before: &Totals, status: BatchStatus, duration: Duration) {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = self.seen();
        let (done, total) = (now.done(), self.job.expected.total().max(now.done()));
        let run = self.job.stats.run_progress();
        let type_of = |entry: &Entry| CacheType::of_key(entry.key().as_str());
        let mut by_cache_type = BTreeMap::new();
        for cache_type in batch.entries.iter().map(type_of) {
            let cache_type = self.job.expected.by_type.label(cache_type, CacheType::Other);
            *by_cache_type.entry(cache_type).or_default() += 1;
        }
        self.job.reporter.emit(Event::Batch(BatchEvent {
            workspace: self.workspace().clone(),
            batch: batch.number,
            batches: total
                .div_ceil(self.job.batch.records.get() as u64)
                .max(batch.number),
            records: batch.entries.len() as u64,
            written: now.written - before.written,
            skipped: now.skipped - before.skipped,
            rejected: now.rejected - before.rejected,
            bytes: now.bytes - before.bytes,
            cache_type: batch.entries.first().map(type_of),
            by_cache_type,
            status,
            duration_ms: milliseconds(duration),
            done,
            total,
            percent: percent(done, total),
            run_done: run.done,
            run_total: run.total,
            elapsed_ms: milliseconds(run.elapsed),
            remaining_ms: run.remaining.map(milliseconds),
        }));
    }
}
