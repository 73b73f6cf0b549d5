//! Writing one batch according to `--on-conflict`.

use std::sync::Arc;

use super::{Batch, task_failed};
use crate::{
    engine::{
        hits::{Examined, WorkspaceHits},
        read_back::ReadBack,
        retry::{RequestContext, Retrier},
        throttle::Throttle,
    },
    model::{
        Error, ErrorKind, HitCounts, Hits, OnConflict, Result, Side, Workspace,
        record::{CacheKey, Record, RejectKind, compare},
    },
    storage::{Changes, Entry, Halving, Source, Target, WriteMode, WriteOutcome},
};

/// The outcome of an entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordOutcome {
    /// The target confirmed it.
    Written(Changes),
    /// The target already had a record with this key, which was kept.
    Skipped,
    /// It cannot be moved.
    Rejected { kind: RejectKind, reason: String },
}

#[derive(Debug)]
pub(super) struct BatchOutcome {
    /// The outcome of each entry, in order.
    pub(super) records: Vec<RecordOutcome>,
    /// Whether a request was retried.
    pub(super) retried: bool,
}

/// Writes batches of one workspace.
pub(super) struct Writer {
    pub(super) target: Arc<dyn Target>,
    pub(super) workspace: Workspace,
    pub(super) on_conflict: OnConflict,
    pub(super) retrier: Retrier,
    pub(super) hits: Option<Arc<WorkspaceHits>>,
    /// Is offered the copies that were written.
    pub(super) read_back: Option<Arc<ReadBack>>,
    /// Counts the copies.
    pub(super) throttle: Option<Arc<Throttle>>,
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
    /// The target failed; any record of the batch may have been written.
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
        let examining = self.hits.as_ref().map(|hits| (hits, hits.examine(&records)));
        let outcomes = request.by_policy(&records).await?;
        if let Some((hits, examining)) = examining {
            let examined = examining.await.map_err(task_failed)?;
            request.add_copies(hits, examined, &outcomes).await?;
        }
        let mut outcomes = outcomes.into_iter();
        let records = batch.entries.iter().map(|entry| match entry {
            Entry::Invalid(invalid) => Some(RecordOutcome::Rejected {
                kind: invalid.kind,
                reason: invalid.reason.clone(),
            }),
            Entry::Record(_) => outcomes.next().map(|outcome| self.outcome(outcome)),
        });
        let records: Option<Vec<RecordOutcome>> = records.collect();
        let records = records.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the target returned fewer outcomes than it was given records",
            )
        })?;
        Ok(BatchOutcome {
            records,
            retried: request.retried,
        })
    }

    /// Whether source and target are the same place, so that only copies are written.
    fn is_in_place(&self) -> bool {
        self.hits.as_ref().is_some_and(|hits| hits.is_in_place())
    }

    fn outcome(&self, outcome: WriteOutcome) -> RecordOutcome {
        match outcome {
            WriteOutcome::Written(changes) => RecordOutcome::Written(changes),
            WriteOutcome::Exists if self.on_conflict == OnConflict::Fail && !self.is_in_place() => {
                RecordOutcome::Rejected {
                    kind: RejectKind::Conflict,
                    reason: "the target already has a record with this key".to_owned(),
                }
            }
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
        if self.writer.is_in_place() {
            return Ok(vec![WriteOutcome::Exists; records.len()]);
        }
        match self.writer.on_conflict {
            OnConflict::Overwrite => self.write_all(records, WriteMode::Upsert).await,
            OnConflict::Skip | OnConflict::Fail => self.write_all(records, WriteMode::Create).await,
            OnConflict::Newer => self.newer(records).await,
        }
    }

    /// Adds copies of records that the target has, unless their keys are taken, and adds the result to the hits of the
    /// workspace.
    async fn add_copies(
        &mut self,
        all: &WorkspaceHits,
        examined: Examined,
        outcomes: &[WriteOutcome],
    ) -> Result<()> {
        let mut hits = examined.hits;
        let mut copies = Vec::with_capacity(examined.copies.len());
        for copy in examined.copies {
            if matches!(outcomes.get(copy.of), None | Some(WriteOutcome::Rejected { .. })) {
                continue;
            }
            if all.claim(copy.record.key()) {
                copies.push(copy.record);
            } else {
                count(&mut hits, copy.record.key(), |counts| &mut counts.rekey_existing);
            }
        }
        // If the source has a record under this key, it is or will be moved, and a copy must not replace it.
        let keys: Vec<CacheKey> = copies.iter().map(|copy| copy.key().clone()).collect();
        let at_source = self.look_up(Side::Source, all.source(), &keys).await?;
        let mut at_source = at_source.iter();
        copies.retain(|copy| {
            let is_there = at_source.next().is_some_and(Option::is_some);
            if is_there {
                count(&mut hits, copy.key(), |counts| &mut counts.rekey_existing);
            }
            !is_there
        });
        all.announce(&copies);
        if let Some(throttle) = &self.writer.throttle {
            let bytes: usize = copies.iter().map(Record::size).sum();
            throttle.reserve(copies.len() as u64, bytes as u64);
        }
        let outcomes = self.write_all(&copies, WriteMode::Create).await?;
        for (copy, outcome) in copies.iter().zip(outcomes) {
            if let (Some(read_back), WriteOutcome::Written(_)) = (&self.writer.read_back, &outcome) {
                read_back.offer(copy);
            }
            count(&mut hits, copy.key(), |counts| match outcome {
                WriteOutcome::Written(_) => &mut counts.rekeyed,
                WriteOutcome::Exists => &mut counts.rekey_existing,
                WriteOutcome::Rejected { .. } => &mut counts.rekey_rejected,
            });
        }
        all.add(&hits);
        Ok(())
    }

    /// Creates missing records, then replaces those that are older than the source's.
    async fn newer(&mut self, records: &[Record]) -> Result<Vec<WriteOutcome>> {
        let mut outcomes = self.write_all(records, WriteMode::Create).await?;
        let there: Vec<usize> = (0..outcomes.len())
            .filter(|at| outcomes[*at] == WriteOutcome::Exists)
            .collect();
        let kept = self.kept(records, &there).await?;
        let newer = there.iter().zip(kept).filter(|(at, kept)| match kept {
            Some(Entry::Record(kept)) => records[**at].update_time() > kept.update_time(),
            // An entry that LightRAG cannot read, or that has been removed since, does not prevent the write.
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
        let keys: Vec<CacheKey> = which.iter().map(|at| records[*at].key().clone()).collect();
        self.look_up(Side::Target, &self.writer.target.reader(), &keys)
            .await
    }

    /// What a side has under some keys.
    async fn look_up(
        &self,
        side: Side,
        reader: &Arc<dyn Source>,
        keys: &[CacheKey],
    ) -> Result<Vec<Option<Entry>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let purpose = RequestContext {
            side,
            ..self.purpose(match side {
                Side::Source => "reading records of the source",
                Side::Target => "reading records of the target",
            })
        };
        let retrier = &self.writer.retrier;
        let mut tries = retrier.tries(purpose);
        loop {
            let result = retrier.once(purpose.what, reader.get_many(keys)).await;
            if let Some(found) = tries.next(result).await? {
                return Ok(found);
            }
        }
    }

    /// Writes records in as many requests as necessary: a refused request is split in half, down to the single record that
    /// the target cannot store.
    async fn write_all(&mut self, records: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let mut outcomes = Vec::with_capacity(records.len());
        let mut halving = Halving::of(records);
        while let Some(piece) = halving.next() {
            match self.write_piece(piece, mode).await {
                Ok(of_piece) => outcomes.extend(of_piece),
                Err(error) => {
                    if let Some((kind, reason)) = halving.refused(piece, error)? {
                        outcomes.push(WriteOutcome::rejected(kind, reason));
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// One request, with retries.
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

    /// A failed attempt may have created records before the connection was lost. An existing record that equals the one to
    /// create counts as ours, not as a conflict.
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

/// Counts a copy, in total and by the type in its key.
fn count(hits: &mut Hits, key: &CacheKey, which: impl Fn(&mut HitCounts) -> &mut u64) {
    let cache_type = key.as_str().split(':').nth(1).unwrap_or_default();
    let by_type = hits.by_cache_type.entry(cache_type.to_owned()).or_default();
    *which(by_type) += 1;
    *which(&mut hits.total) += 1;
}
