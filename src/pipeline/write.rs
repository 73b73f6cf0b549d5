//! Writing one batch by the policy for keys that are there already.

use std::{sync::Arc, time::Duration};

use super::{Batch, timed_out};
use crate::{
    config::OnConflict,
    error::{Error, ErrorKind, OnSide, Result, Side},
    record::{CacheKey, Record, RejectKind},
    storage::{Changes, Entry, Outcome, Target, WriteMode},
};

/// What became of an entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The target has it.
    Written(Changes),
    /// The target keeps what it had.
    Skipped,
    /// It cannot be moved.
    Rejected { kind: RejectKind, reason: String },
}

/// Writes batches.
pub(super) struct Writer {
    target: Arc<dyn Target>,
    on_conflict: OnConflict,
    timeout: Duration,
}

impl Writer {
    pub(super) fn new(target: Arc<dyn Target>, on_conflict: OnConflict, timeout: Duration) -> Self {
        Self {
            target,
            on_conflict,
            timeout,
        }
    }

    /// Writes a batch: a fate for each entry, in order.
    ///
    /// # Errors
    /// The target failed; any of the batch may have been written.
    pub(super) async fn write(&self, batch: &Batch) -> Result<Vec<Fate>> {
        let records: Vec<Record> = batch
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some(record.clone()),
                Entry::Invalid(_) => None,
            })
            .collect();
        let fates = self.by_policy(&records).await.on(Side::Target)?;
        let mut fates = fates.into_iter();
        let fates = batch.entries.iter().map(|entry| match entry {
            Entry::Invalid(invalid) => Some(Fate::Rejected {
                kind: invalid.kind,
                reason: invalid.reason.clone(),
            }),
            Entry::Record(_) => fates.next(),
        });
        fates.collect::<Option<_>>().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the target gave fewer answers than it was given records",
            )
        })
    }

    async fn by_policy(&self, records: &[Record]) -> Result<Vec<Fate>> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        match self.on_conflict {
            OnConflict::Overwrite => Ok(fates(self.write_all(records, WriteMode::Upsert).await?)),
            OnConflict::Skip => Ok(fates(self.write_all(records, WriteMode::Create).await?)),
            OnConflict::Fail => {
                let outcomes = self.write_all(records, WriteMode::Create).await?;
                let conflict = |outcome| match outcome {
                    Outcome::Exists => Fate::Rejected {
                        kind: RejectKind::Conflict,
                        reason: "the target has a record of this key already".to_owned(),
                    },
                    other => fate(other),
                };
                Ok(outcomes.into_iter().map(conflict).collect())
            }
            OnConflict::Newer => self.newer(records).await,
        }
    }

    /// Creates what is missing, then replaces what is older than the record that comes.
    async fn newer(&self, records: &[Record]) -> Result<Vec<Fate>> {
        let mut outcomes = self.write_all(records, WriteMode::Create).await?;
        let there: Vec<usize> = (0..outcomes.len())
            .filter(|at| outcomes[*at] == Outcome::Exists)
            .collect();
        if there.is_empty() {
            return Ok(fates(outcomes));
        }
        let keys: Vec<CacheKey> = there.iter().map(|at| records[*at].key().clone()).collect();
        let kept = self
            .limited("reading records of the target", self.target.get_many(&keys))
            .await?;
        let newer = there.iter().zip(kept).filter(|(at, kept)| match kept {
            Some(Entry::Record(kept)) => update_time(&records[**at]) > update_time(kept),
            // What LightRAG could not read, or what has gone meanwhile, is no reason to keep ours back.
            Some(Entry::Invalid(_)) | None => true,
        });
        let newer: Vec<usize> = newer.map(|(at, _)| *at).collect();
        let replacing: Vec<Record> = newer.iter().map(|at| records[*at].clone()).collect();
        let replaced = self.write_all(&replacing, WriteMode::Upsert).await?;
        for (at, outcome) in newer.into_iter().zip(replaced) {
            outcomes[at] = outcome;
        }
        Ok(fates(outcomes))
    }

    /// Writes records in as many requests as it takes: a target that refuses them is asked for half, down to the
    /// one record that it cannot hold.
    async fn write_all(&self, records: &[Record], mode: WriteMode) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(records.len());
        let mut pieces = vec![records];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match self
                .limited("writing a batch", self.target.write(piece, mode))
                .await
            {
                Ok(answers) => outcomes.extend(answers),
                Err(error) if error.kind().asks_for_less() && piece.len() > 1 => {
                    let (first, second) = piece.split_at(piece.len() / 2);
                    pieces.push(second);
                    pieces.push(first);
                }
                Err(error) if error.kind().asks_for_less() => {
                    let kind = match error.kind() {
                        ErrorKind::RequestTooLarge => RejectKind::ValueTooLarge,
                        _ => RejectKind::RefusedByTarget,
                    };
                    outcomes.push(Outcome::rejected(kind, error.message()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    async fn limited<T>(&self, what: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.timeout, request)
            .await
            .unwrap_or_else(|_| Err(timed_out(what, self.timeout)))
    }
}

/// The time by which records are compared: Unix seconds, 0 where there is none, as LightRAG reads it.
fn update_time(record: &Record) -> i64 {
    record.fields().seconds("update_time").unwrap_or(0)
}

fn fate(outcome: Outcome) -> Fate {
    match outcome {
        Outcome::Written(changes) => Fate::Written(changes),
        Outcome::Exists => Fate::Skipped,
        Outcome::Rejected { kind, reason } => Fate::Rejected { kind, reason },
    }
}

fn fates(outcomes: Vec<Outcome>) -> Vec<Fate> {
    outcomes.into_iter().map(fate).collect()
}
