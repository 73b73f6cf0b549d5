//! The one straight way of a record: source → batch → target → durable → checkpoint → account.
//!
//! A task reads pages and cuts them into batches; a bounded number of batches is written at the same time; their
//! results are accounted for in the order of the source, so that a checkpoint never stands before an unfinished batch.
//! Nothing in between grows with the cache: at most `concurrency` batches are being written, one waits, and one is being
//! filled.

mod account;
mod batcher;
mod key_gate;
mod read;
mod write;

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use account::Account;
use batcher::{Batch, Batcher};
use key_gate::KeyGate;
use read::Reader;
use write::Writer;

use crate::{
    engine::{
        checkpoint::{Checkpoint, Progress},
        hits::WorkspaceHits,
        rejects::RejectsFile,
        retry::{RequestContext, Retrier},
    },
    model::{BatchLimit, Error, ErrorKind, MaxErrors, OnConflict, Result, Selection, Side, WorkspacePair},
    report::{Ledger, Reporter},
    storage::{Count, PageLimit, Source, Target},
    system::shutdown::{Shutdown, StopReason},
};

/// What moving one workspace needs to know.
pub struct WorkspaceJob<'a> {
    /// Which workspace, and where to.
    pub pair: &'a WorkspacePair,
    /// Its number among the workspaces of the job.
    pub number: usize,
    /// What is read.
    pub source: Arc<dyn Source>,
    /// What is written. It must be prepared.
    pub target: Arc<dyn Target>,
    /// Which records.
    pub selection: &'a Selection,
    /// How many there are, as counted.
    pub expected: &'a Count,
    /// How large a batch is.
    pub batch: BatchLimit,
    /// How many batches are written at the same time.
    pub concurrency: NonZeroUsize,
    /// What to do with keys that are there.
    pub on_conflict: OnConflict,
    /// How many rejected records end the run.
    pub max_errors: Option<MaxErrors>,
    /// Bounds and repeats requests.
    pub retrier: &'a Retrier,
    /// Where events go.
    pub reporter: &'a Reporter,
    /// Where numbers go.
    pub ledger: &'a Ledger,
    /// Where rejected records go.
    pub rejects: Option<&'a RejectsFile>,
    /// Where it is asked whether LightRAG will find the records.
    pub hits: Option<Arc<WorkspaceHits>>,
    /// Where to keep how far the run came, and what of the job is done.
    pub checkpoint: Option<&'a Checkpoint>,
    /// What of the job is done, this workspace among it.
    pub progress: &'a mut Progress,
    /// Whether to stop.
    pub shutdown: &'a Shutdown,
}

/// The most that a page holds: a page is the smallest piece that is read, and several are in memory at a time.
pub(crate) const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

/// What all that was read and is not written yet may hold, about: small batches leave more of it to the source.
const UNWRITTEN_BYTES: usize = 8 << 20;

/// The least that a source may have on its way.
pub(crate) const LEAST_AHEAD: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

/// What a source may have on its way, beside batches of this size.
fn ahead(batch: NonZeroUsize, concurrency: NonZeroUsize) -> NonZeroUsize {
    let batches = batch.get().saturating_mul(concurrency.get() + 1);
    let left = NonZeroUsize::new(UNWRITTEN_BYTES.saturating_sub(batches));
    left.map_or(LEAST_AHEAD, |left| left.max(LEAST_AHEAD))
}

/// Moves one workspace. What happened is in the ledger, also when this fails.
///
/// # Errors
/// What ended it: the source or the target failed. `Ok(Some(_))` where somebody stopped it.
pub async fn run(job: WorkspaceJob<'_>) -> Result<Option<StopReason>> {
    let (from, batches_before) = match job.progress.workspaces.get(job.number) {
        Some(before) if before.cursor.is_some() => (before.cursor.clone(), before.batches),
        _ => (None, 0),
    };
    let limit = PageLimit {
        records: job.batch.records,
        bytes: job.batch.bytes.min(PAGE_BYTES),
        ahead: ahead(job.batch.bytes, job.concurrency),
    };
    // Ends the reading, be it for a signal or for a batch that failed; batches under way are finished.
    let enough = CancellationToken::new();
    let (sender, receiver) = mpsc::channel(1);
    let reader = Reader {
        source: Arc::clone(&job.source),
        workspace: job.pair.from.clone(),
        selection: job.selection.clone(),
        limit,
        retrier: job.retrier.clone(),
    };
    let reading = tokio::spawn(reader.read(from, Batcher::new(job.batch, batches_before), sender));
    let writer = Arc::new(Writer {
        target: Arc::clone(&job.target),
        workspace: job.pair.from.clone(),
        on_conflict: job.on_conflict,
        retrier: job.retrier.clone(),
        hits: job.hits.clone(),
    });
    let target = Arc::clone(&job.target);
    let retrier = job.retrier;
    let shutdown = job.shutdown;
    let concurrency = job.concurrency.get();
    let mut account = Account::open(job);

    let batches = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    let stop = enough.clone();
    let signal = shutdown.clone();
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = signal.stopped() => {}
        }
    };
    let mut order = KeyGate::default();
    let mut results = std::pin::pin!(
        batches
            .take_until(ended.boxed())
            .map(|batch: Result<Batch>| {
                let writer = Arc::clone(&writer);
                let batch = batch.map(|mut batch| (order.next(std::mem::take(&mut batch.keys)), batch));
                async move {
                    let (mut turn, batch) = batch?;
                    turn.acquire().await;
                    let started = Instant::now();
                    // A task of its own, so that batches are prepared on every core.
                    let written = tokio::spawn(async move {
                        let result = writer.write(&batch).await;
                        (batch, result)
                    });
                    let (batch, result) = written.await.map_err(task_failed)?;
                    Ok((batch, result, started.elapsed()))
                }
            })
            .buffered(concurrency)
    );

    let mut failure: Option<Error> = None;
    while let Some(result) = results.next().await {
        let failed = match result {
            // Behind a batch that failed nothing may count as a place to go on from.
            Ok((batch, outcome, duration)) => account.enter(batch, outcome, duration, failure.is_none()),
            Err(error) => {
                account.fail(&error);
                Some(error)
            }
        };
        let failed = match failed {
            None if failure.is_none() => account.checkpoint_if_due(&*target).await.err(),
            failed => failed,
        };
        if let Some(error) = failed {
            enough.cancel();
            failure.get_or_insert(error);
        }
    }
    if failure.is_none() && shutdown.reason().is_none() {
        // The batches also end where the reader does, so it must say that it came to its end.
        if let Err(error) = reading.await {
            let error = task_failed(error);
            account.fail(&error);
            failure = Some(error);
        }
    } else {
        reading.abort();
    }

    // What was written stays, also when the run stops early: so it must become durable and visible.
    match finish(&*target, retrier, &account).await {
        Ok(()) => {
            let complete = failure.is_none() && shutdown.reason().is_none();
            if complete && let Some(error) = account.missing_at_source() {
                account.fail(&error);
                failure = Some(error);
            }
            let complete = complete && failure.is_none();
            if let Err(error) = account.close(complete) {
                failure.get_or_insert(error);
            }
        }
        Err(error) => {
            account.revoke(&error)?;
            failure.get_or_insert(error);
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(shutdown.reason()),
    }
}

async fn finish(target: &dyn Target, retrier: &Retrier, account: &Account<'_>) -> Result<()> {
    let purpose = |what| RequestContext {
        what,
        side: Side::Target,
        workspace: Some(account.workspace()),
        batch: None,
    };
    retrier
        .run(purpose("making writes durable"), async || target.flush().await)
        .await?;
    // Putting a file of gigabytes in place has no bound in time; it is not repeated either.
    let finished = target.finish().await;
    finished.map_err(|error| error.on(Side::Target))
}

/// A task that did not come to its end panicked, which is a bug, or was aborted with its run.
fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of the pipeline panicked").caused_by(error)
}

/// How often, at most, a checkpoint is written: it costs a flush and two small writes to the disk.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
