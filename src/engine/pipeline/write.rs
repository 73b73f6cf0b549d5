//! Writing one batch by the policy for keys that are there already.

use std::sync::Arc;

use super::Batch;
use crate::{
    engine::retry::{RequestContext, Retrier},
    model::{
        Error, ErrorKind, OnConflict, Result, Side, Workspace,
        record::{CacheKey, Record, RejectKind, compare},
    },
    storage::{Changes, Entry, Target, WriteMode, WriteOutcome},
};

/// What became of an entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordOutcome {
    /// The target has it.
    Written(Changes),
    /// The target keeps what it had.
    Skipped,
    /// It cannot be moved.
    Rejected { kind: RejectKind, reason: String },
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct BatchOutcome {
    /// For each entry, in order.
    pub(super) fates: Vec<RecordOutcome>,
    /// Whether a request was made again.
    pub(super) retried: bool,
}

/// Writes batches of one workspace.
pub(super) struct Writer {
    pub(super) target: Arc<dyn Target>,
    pub(super) workspace: Workspace,
    pub(super) on_conflict: OnConflict,
    pub(super) retrier: Retrier,
}

/// One batch that is being written.
struct Request<'a> {
    writer: &'a Writer,
    batch: u64,
    retried: bool,
}

impl Writer {
    /// Writes a batch.
    ///
    /// # Errors
    /// The target failed; any of the batch may have been written.
    pub(super) async fn write(&self, batch: &Batch) -> Result<BatchOutcome> {
        let records: Vec<Record> = batch
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some(record.clone()),
                Entry::Invalid(_) => None,
            })
            .collect();
        let mut request = Request {
            writer: self,
            batch: batch.number,
            retried: false,
        };
        let mut outcomes = request.by_policy(&records).await?.into_iter();
        let fates = batch.entries.iter().map(|entry| match entry {
            Entry::Invalid(invalid) => Some(RecordOutcome::Rejected {
                kind: invalid.kind,
                reason: invalid.reason.clone(),
            }),
            Entry::Record(_) => outcomes.next().map(|outcome| self.fate(outcome)),
        });
        let fates: Option<Vec<RecordOutcome>> = fates.collect();
        let fates = fates.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the target gave fewer answers than it was given records",
            )
        })?;
        Ok(BatchOutcome {
            fates,
            retried: request.retried,
        })
    }

    fn fate(&self, outcome: WriteOutcome) -> RecordOutcome {
        match outcome {
            WriteOutcome::Written(changes) => RecordOutcome::Written(changes),
            WriteOutcome::Exists if self.on_conflict == OnConflict::Fail => RecordOutcome::Rejected {
                kind: RejectKind::Conflict,
                reason: "the target has a record of this key already".to_owned(),
            },
            WriteOutcome::Exists => RecordOutcome::Skipped,
            WriteOutcome::Rejected { kind, reason } => RecordOutcome::Rejected { kind, reason },
        }
    }
}

impl Request<'_> {
    async fn by_policy(&mut self, records: &[Record]) -> Result<Vec<WriteOutcome>> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        match self.writer.on_conflict {
            OnConflict::Overwrite => self.write_all(records, WriteMode::Upsert).await,
            OnConflict::Skip | OnConflict::Fail => self.write_all(records, WriteMode::Create).await,
            OnConflict::Newer => self.newer(records).await,
        }
    }

    /// Creates what is missing, then replaces what is older than the record that comes.
    async fn newer(&mut self, records: &[Record]) -> Result<Vec<WriteOutcome>> {
        let mut outcomes = self.write_all(records, WriteMode::Create).await?;
        let there: Vec<usize> = (0..outcomes.len())
            .filter(|at| outcomes[*at] == WriteOutcome::Exists)
            .collect();
        let kept = self.kept(records, &there).await?;
        let newer = there.iter().zip(kept).filter(|(at, kept)| match kept {
            Some(Entry::Record(kept)) => records[**at].update_time() > kept.update_time(),
            // What LightRAG could not read, or what has gone meanwhile, is no reason to keep ours back.
            Some(Entry::Invalid(_)) | None => true,
        });
        let newer: Vec<usize> = newer.map(|(at, _)| *at).collect();
        let replacing: Vec<Record> = newer.iter().map(|at| records[*at].clone()).collect();
        let replaced = self.write_all(&replacing, WriteMode::Upsert).await?;
        for (at, outcome) in newer.into_iter().zip(replaced) {
            outcomes[at] = outcome;
        }
        Ok(outcomes)
    }

    /// What the target has under the keys of some of the records.
    async fn kept(&self, records: &[Record], which: &[usize]) -> Result<Vec<Option<Entry>>> {
        if which.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<CacheKey> = which.iter().map(|at| records[*at].key().clone()).collect();
        let purpose = self.purpose("reading records of the target");
        let retrier = &self.writer.retrier;
        let target = self.writer.target.reader();
        let mut tries = retrier.tries(purpose);
        loop {
            let result = retrier.once(purpose.what, target.get_many(&keys)).await;
            if let Some(kept) = tries.next(result).await? {
                return Ok(kept);
            }
        }
    }

    /// Writes records in as many requests as it takes: a target that refuses them is asked for half, down to the
    /// one record that it cannot hold.
    async fn write_all(&mut self, records: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let mut outcomes = Vec::with_capacity(records.len());
        let mut pieces = vec![records];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match self.write_piece(piece, mode).await {
                Ok(answers) => outcomes.extend(answers),
                Err(error) if error.kind().is_splittable() && piece.len() > 1 => {
                    let (first, second) = piece.split_at(piece.len() / 2);
                    pieces.push(second);
                    pieces.push(first);
                }
                Err(error) if error.kind().is_splittable() => {
                    let kind = match error.kind() {
                        ErrorKind::RequestTooLarge => RejectKind::ValueTooLarge,
                        _ => RejectKind::RefusedByTarget,
                    };
                    outcomes.push(WriteOutcome::rejected(kind, error.message()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    /// One request, again while that may help.
    async fn write_piece(&mut self, piece: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let retrier = &self.writer.retrier;
        let purpose = self.purpose("writing a batch");
        let mut tries = retrier.tries(purpose);
        let mut outcomes = loop {
            let result = retrier
                .once(purpose.what, self.writer.target.write(piece, mode))
                .await;
            if let Some(outcomes) = tries.next(result).await? {
                break outcomes;
            }
        };
        let retried = tries.failed() > 0;
        if retried && mode == WriteMode::Create {
            self.claim_own(piece, &mut outcomes).await?;
        }
        self.retried |= retried;
        Ok(outcomes)
    }

    /// A try that failed may have created records before its answer was lost. What is there and equals what was to be
    /// created is then our own, not somebody else's.
    async fn claim_own(&self, records: &[Record], outcomes: &mut [WriteOutcome]) -> Result<()> {
        let there: Vec<usize> = (0..outcomes.len())
            .filter(|at| outcomes[*at] == WriteOutcome::Exists)
            .collect();
        for (at, kept) in there.iter().zip(self.kept(records, &there).await?) {
            let preview = self.writer.target.preview(&records[*at]);
            if let (Some(Entry::Record(kept)), WriteOutcome::Written(changes)) = (kept, preview)
                && compare::differing_fields(
                    &records[*at],
                    &kept,
                    &changes.sanitized,
                    &changes.dropped_fields,
                )
                .is_empty()
            {
                outcomes[*at] = WriteOutcome::Written(changes);
            }
        }
        Ok(())
    }

    fn purpose<'a>(&'a self, what: &'a str) -> RequestContext<'a> {
        RequestContext {
            what,
            side: Side::Target,
            workspace: Some(&self.writer.workspace),
            batch: Some(self.batch),
        }
    }
}
