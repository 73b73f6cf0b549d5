//! The one straight way of a record: source → batch → target → durable → checkpoint → report.
//!
//! A task reads pages and cuts them into batches; a bounded number of batches is written at the same time; their
//! results are settled in the order of the source, so that a checkpoint never stands before an unfinished batch.
//! Nothing in between grows with the cache: the batches that are being written share a window of some bytes, one batch
//! waits, and one is being filled.

mod batcher;
mod key_gate;
mod read;
mod settle;
mod write;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use batcher::{Batch, Batcher};
use key_gate::KeyGate;
use read::Reader;
use settle::Settlement;
use write::{BatchOutcome, Writer};

use crate::{
    engine::{
        checkpoint::Checkpoint, differences::DifferencesFile, hits::WorkspaceHits, read_back::ReadBack,
        rejects::RejectsFile, retry::Retrier, stats::RunStats, throttle::Throttle,
    },
    model::{BatchLimit, Error, ErrorKind, MaxErrors, OnConflict, Result, Selection, WorkspacePair},
    report::Reporter,
    storage::{
        Count, Cursor, PageLimit, Source, Target,
        window::{Passage, Window, WindowLimit},
    },
    system::shutdown::{Shutdown, StopReason},
};

/// What moving one workspace needs to know.
pub(crate) struct WorkspaceJob<'a> {
    /// Which workspace, and where to.
    pub(crate) pair: &'a WorkspacePair,
    /// Its number among the workspaces of the job.
    pub(crate) number: usize,
    /// What is read.
    pub(crate) source: Arc<dyn Source>,
    /// What is written. It must be prepared.
    pub(crate) target: Arc<dyn Target>,
    /// Which records.
    pub(crate) selection: &'a Selection,
    /// How many there are, as counted.
    pub(crate) expected: &'a Count,
    /// How large a batch is.
    pub(crate) batch: BatchLimit,
    /// What is being written at the same time.
    pub(crate) window: &'a Arc<Window>,
    /// What keeps to a rate; `None` where there is none to keep to.
    pub(crate) throttle: Option<Arc<Throttle>>,
    /// How many batches of this workspace that is, at most.
    pub(crate) concurrency: NonZeroUsize,
    /// What to do with keys that are there.
    pub(crate) on_conflict: OnConflict,
    /// How many rejected records end the run.
    pub(crate) max_errors: Option<MaxErrors>,
    /// Bounds and repeats requests.
    pub(crate) retrier: &'a Retrier,
    /// Where events go.
    pub(crate) reporter: &'a Reporter,
    /// Where numbers go.
    pub(crate) stats: &'a RunStats,
    /// Where rejected records go.
    pub(crate) rejects: Option<&'a RejectsFile>,
    /// What is asked of the target at the end; `None` where it is taken at its word.
    pub(crate) read_back: Option<Arc<ReadBack>>,
    /// Where differences go.
    pub(crate) differences: Option<&'a DifferencesFile>,
    /// Where it is asked whether LightRAG will find the records.
    pub(crate) hits: Option<Arc<WorkspaceHits>>,
    /// Where to keep how far the run came.
    pub(crate) checkpoint: Option<&'a Checkpoint>,
    /// Where an earlier run stopped: the cursor, and the number of its last batch.
    pub(crate) resume: Option<(Cursor, u64)>,
    /// Whether to stop.
    pub(crate) shutdown: &'a Shutdown,
}

/// The most that a page holds: a page is the smallest piece that is read, and several are in memory at a time.
pub(crate) const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

/// What is being written at the same time, in bytes of keys and values: 120 MB/s at a round trip of 50 ms. A storage has
/// it in memory once more, in the form in which it is sent.
const WRITTEN_BYTES: usize = 6 << 20;

/// What a source may have on its way.
pub(crate) const AHEAD: NonZeroUsize = NonZeroUsize::new(8 << 20).unwrap();

/// The window through which everything of a run is written, in batches up to this size. Of larger ones than usual there is
/// room for two.
pub(crate) fn window(concurrency: NonZeroUsize, batch: BatchLimit) -> Arc<Window> {
    Window::new(WindowLimit {
        requests: concurrency.get(),
        bytes: WRITTEN_BYTES.max(batch.bytes.get().saturating_mul(2)),
    })
}

/// Moves one workspace.
///
/// # Errors
/// What ended it: the source or the target failed. `Ok(Some(_))` where somebody stopped it.
pub(crate) async fn run(job: WorkspaceJob<'_>) -> Result<Option<StopReason>> {
    // Ends the reading, be it for a signal or for a batch that failed; batches under way are finished.
    let enough = CancellationToken::new();
    let (reading, receiver) = begin_reading(&job);
    let results = written(&job, receiver, enough.clone());
    let (target, shutdown) = (Arc::clone(&job.target), job.shutdown);
    let mut settlement = Settlement::new(job);
    let failure = settle_all(&mut settlement, results, &enough).await;
    let failure = match failure {
        // The batches also end where the reader does, so it must say that it came to its end.
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

/// Begins to read batches in a task of its own.
fn begin_reading(job: &WorkspaceJob<'_>) -> (JoinHandle<()>, mpsc::Receiver<Result<Batch>>) {
    let (from, batches_before) = job.resume.clone().unzip();
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
    let batcher = Batcher::new(job.batch, batches_before.unwrap_or_default());
    (tokio::spawn(reader.read(from, batcher, sender)), receiver)
}

/// A batch, what became of it, how long that took, and its part of the window; an error for one that was not even read.
type Written = Result<(Batch, Result<BatchOutcome>, Duration, Passage)>;

/// The batches, written several at a time, in the order of the source.
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
                // A task of its own, so that batches are prepared on every core.
                let written = tokio::spawn(async move {
                    let result = writer.write(&batch).await;
                    (batch, result)
                });
                let (batch, result) = written.await.map_err(task_failed)?;
                // Settled in the order of the source, it is in memory until then.
                passage.answer();
                Ok((batch, result, started.elapsed(), passage))
            }
        })
        .buffered(job.concurrency.get())
}

/// Settles every batch that was begun. Gives what is to end the run, if something is.
async fn settle_all(
    settlement: &mut Settlement<'_>,
    results: impl Stream<Item = Written>,
    enough: &CancellationToken,
) -> Option<Error> {
    let mut results = std::pin::pin!(results);
    let mut failure: Option<Error> = None;
    while let Some(result) = results.next().await {
        let settled = match result {
            // Behind a batch that failed nothing may count as a place to go on from.
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
            failure = Some(match failure {
                Some(first) => first.and(error),
                None => error,
            });
        }
    }
    failure
}

/// What was written stays, also when the run stops early: so it must become durable and visible.
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

/// A task that did not come to its end panicked, which is a bug, or was aborted with its run.
fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of the pipeline panicked").caused_by(error)
}

/// How often, at most, a checkpoint is written: it costs a flush and two small writes to the disk.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
