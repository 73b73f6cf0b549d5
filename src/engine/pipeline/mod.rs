//! The path of a record: source → batch → target → durable → checkpoint → report.
//!
//! A task reads pages and forms batches. A limited number of batches is written concurrently. Their results are settled in
//! the order of the source, so that a checkpoint never includes an unfinished batch. Memory does not grow with the cache:
//! the batches that are being written share a window of bytes, one batch waits, and one is being filled.

mod batcher;
mod key_gate;
mod read;
mod settle;
mod write;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use batcher::{Batch, Batcher};
use key_gate::KeyGate;
use read::Reader;
use settle::Settlement;
use write::{BatchOutcome, Writer};

use crate::{
    engine::{
        checkpoint::{Checkpoint, WorkspaceProgress},
        differences::DifferencesFile,
        hits::WorkspaceHits,
        read_back::ReadBack,
        rejects::RejectsFile,
        retry::Retrier,
        stats::RunStats,
        throttle::Throttle,
    },
    model::{BatchLimit, Error, MaxErrors, OnConflict, Result, Selection, WorkspacePair},
    report::Reporter,
    storage::{
        Count, PageLimit, Source, Target,
        window::{Passage, Window, WindowLimit},
    },
    system::shutdown::{Shutdown, StopReason},
};

/// The job of moving one workspace.
pub(crate) struct WorkspaceJob<'a> {
    pub(crate) pair: &'a WorkspacePair,
    /// The number of the workspace in the run, from 0.
    pub(crate) number: usize,
    pub(crate) source: Arc<dyn Source>,
    /// The target, which must be prepared.
    pub(crate) target: Arc<dyn Target>,
    pub(crate) selection: &'a Selection,
    /// The records to move, as counted.
    pub(crate) expected: &'a Count,
    pub(crate) batch: BatchLimit,
    /// Limits the bytes that are being written, over all workspaces.
    pub(crate) window: &'a Arc<Window>,
    /// Enforces the rate limit; `None` without one.
    pub(crate) throttle: Option<Arc<Throttle>>,
    /// The most batches of this workspace that are written at the same time.
    pub(crate) concurrency: NonZeroUsize,
    pub(crate) on_conflict: OnConflict,
    pub(crate) max_errors: Option<MaxErrors>,
    pub(crate) retrier: &'a Retrier,
    pub(crate) reporter: &'a Reporter,
    pub(crate) stats: &'a RunStats,
    pub(crate) rejects: Option<&'a RejectsFile>,
    /// Checks the target at the end; `None` with `--verify off`, and before it began.
    pub(crate) read_back: Option<Arc<ReadBack>>,
    pub(crate) differences: Option<&'a DifferencesFile>,
    /// Counts which records LightRAG will find; `None` without `--hits`.
    pub(crate) hits: Option<Arc<WorkspaceHits>>,
    pub(crate) checkpoint: Option<&'a Checkpoint>,
    /// What an earlier run did of this workspace, if it is resumed there.
    pub(crate) resume: Option<&'a WorkspaceProgress>,
    pub(crate) shutdown: &'a Shutdown,
}

/// The most bytes of a page: the smallest unit that is read, of which several are in memory at a time.
pub(crate) const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

/// The most bytes that a source prefetches.
pub(crate) const AHEAD: NonZeroUsize = NonZeroUsize::new(8 << 20).unwrap();

/// The window that all batches of a run share, of some bytes, or as many as two of the largest batches need.
pub(crate) fn window(concurrency: NonZeroUsize, batch: BatchLimit, bytes: NonZeroUsize) -> Arc<Window> {
    Window::for_writing(WindowLimit {
        requests: concurrency.get(),
        bytes: bytes.get().max(batch.bytes.get().saturating_mul(2)),
    })
}

/// Moves one workspace. `read_back` asks the target what it has before the first write, while the first records are read.
///
/// # Errors
/// The source or the target failed. `Ok(Some(_))` if the run was stopped.
pub(crate) async fn run(
    mut job: WorkspaceJob<'_>,
    read_back: impl Future<Output = Result<Option<ReadBack>>>,
) -> Result<Option<StopReason>> {
    // Stops reading after a failed batch. Batches that are being written are finished.
    let enough = CancellationToken::new();
    let (reading, receiver) = begin_reading(&job);
    job.read_back = read_back.await?.map(Arc::new);
    let results = written(&job, receiver, enough.clone());
    let (target, shutdown) = (Arc::clone(&job.target), job.shutdown);
    let mut settlement = Settlement::new(job);
    let failure = settle_all(&mut settlement, results, &enough).await;
    let failure = match failure {
        // The stream of batches also ends if the reader panics, so check how the reader ended.
        None if shutdown.reason().is_none() => reading.await.map_err(task_failed).err(),
        failure => {
            reading.abort();
            failure
        }
    };
    let is_whole = failure.is_none() && shutdown.reason().is_none();
    let ended = end(settlement, &*target, is_whole).await;
    match (failure, ended) {
        (None, Ok(())) => Ok(shutdown.reason()),
        (Some(failure), Err(error)) => Err(failure.and(error)),
        (Some(error), Ok(())) | (None, Err(error)) => Err(error),
    }
}

/// Starts a task that reads batches.
fn begin_reading(job: &WorkspaceJob<'_>) -> (AbortOnDropHandle<()>, mpsc::Receiver<Result<Batch>>) {
    let from = job.resume.and_then(|before| before.cursor.clone());
    let batches_before = job.resume.map_or(0, |before| before.batches);
    let limit = PageLimit {
        records: job.batch.records,
        bytes: job.batch.bytes.min(PAGE_BYTES),
        ahead: AHEAD,
    };
    let (sender, receiver) = mpsc::channel(1);
    let reader = Reader {
        source: Arc::clone(&job.source),
        workspace: job.pair.from.clone(),
        selection: job.selection.clone(),
        limit,
        retrier: job.retrier.clone(),
    };
    let batcher = Batcher::new(job.batch, batches_before);
    let reading = tokio::spawn(reader.read(from, batcher, sender));
    (AbortOnDropHandle::new(reading), receiver)
}

/// A batch with its outcome, duration and share of the window; an error if it could not be read.
type Written = Result<(Batch, Result<BatchOutcome>, Duration, Passage)>;

/// Writes several batches at a time and returns them in the order of the source.
fn written(
    job: &WorkspaceJob<'_>,
    mut receiver: mpsc::Receiver<Result<Batch>>,
    enough: CancellationToken,
) -> impl Stream<Item = Written> + use<> {
    let writer = Arc::new(Writer {
        target: Arc::clone(&job.target),
        workspace: job.pair.from.clone(),
        on_conflict: job.on_conflict,
        retrier: job.retrier.clone(),
        hits: job.hits.clone(),
        read_back: job.read_back.clone(),
        throttle: job.throttle.clone(),
    });
    let signal = job.shutdown.clone();
    let ended = async move {
        tokio::select! {
            () = enough.cancelled() => {}
            () = signal.stopped() => {}
        }
    };
    let (window, throttle) = (Arc::clone(job.window), job.throttle.clone());
    let mut gate = KeyGate::default();
    stream::poll_fn(move |context| receiver.poll_recv(context))
        .then(move |batch: Result<Batch>| {
            let (window, throttle) = (Arc::clone(&window), throttle.clone());
            async move {
                let batch = batch?;
                if let Some(throttle) = throttle {
                    throttle
                        .pass(batch.entries.len() as u64, batch.bytes as u64)
                        .await;
                }
                let passage = window.enter(batch.bytes).await;
                Ok((batch, passage))
            }
        })
        .take_until(ended.boxed())
        .map(move |batch: Result<(Batch, Passage)>| {
            let writer = Arc::clone(&writer);
            let batch = batch.map(|(mut batch, passage)| {
                let turn = gate.next(std::mem::take(&mut batch.keys));
                (turn, batch, passage)
            });
            async move {
                let (mut turn, batch, mut passage) = batch?;
                turn.acquire().await;
                let started = Instant::now();
                passage.send();
                // In a separate task, so that batches are encoded on all cores.
                let written = tokio::spawn(async move {
                    let result = writer.write(&batch).await;
                    (batch, result)
                });
                let (batch, result) = written.await.map_err(task_failed)?;
                // The batch stays in memory until it is settled, in the order of the source.
                passage.answer();
                Ok((batch, result, started.elapsed(), passage))
            }
        })
        .buffered(job.concurrency.get())
}

/// Settles every batch that was started. Returns the error that ends the run, if any.
async fn settle_all(
    settlement: &mut Settlement<'_>,
    results: impl Stream<Item = Written>,
    enough: &CancellationToken,
) -> Option<Error> {
    let mut results = std::pin::pin!(results);
    let mut failure: Option<Error> = None;
    while let Some(result) = results.next().await {
        let settled = match result {
            // No run may resume after a batch that failed.
            Ok((batch, outcome, duration, _passage)) => {
                settlement.settle(batch, outcome, duration, failure.is_none())
            }
            Err(error) => Err(error),
        };
        let settled = match settled {
            Ok(()) if failure.is_none() => settlement.checkpoint_if_due().await,
            settled => settled,
        };
        if let Err(error) = settled {
            enough.cancel();
            failure = Some(error.after(failure));
        }
    }
    failure
}

/// Makes everything written durable and visible, even if the run stops early.
async fn end(mut settlement: Settlement<'_>, target: &dyn Target, is_whole: bool) -> Result<()> {
    if let Err(error) = settlement.finish(target).await {
        return Err(settlement.revoke(error));
    }
    let mut failures = Vec::new();
    let mut is_complete = false;
    if is_whole {
        failures.extend(settlement.missing_at_source());
        match settlement.read_back().await {
            Ok(is_done) => is_complete = is_done && failures.is_empty(),
            Err(error) => failures.push(error),
        }
    }
    failures.extend(settlement.close(is_complete).err());
    failures.into_iter().reduce(Error::and).map_or(Ok(()), Err)
}

/// The error for a task that panicked, which is a bug, or was aborted with its run.
fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::panicked("a task of the pipeline").caused_by(error)
}
