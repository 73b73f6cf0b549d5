//! The one straight way of a record: source → batch → target → durable → account.
//!
//! A task reads pages and cuts them into batches; a bounded number of batches is written at the same time; their
//! results are accounted for in the order of the source. Nothing in between grows with the cache: at most
//! `concurrency` batches are being written, one waits, and one is being filled.

mod account;
mod batcher;
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
use write::Writer;

use crate::{
    config::{BatchLimit, OnConflict, WorkspacePair},
    error::{Error, ErrorKind, OnSide, Result, Side},
    record::Selection,
    report::{Ledger, Reporter},
    shutdown::{Shutdown, StopReason},
    storage::{Count, PageLimit, Source, Target},
};

/// What moving one workspace needs to know.
pub struct Move<'a> {
    /// Which workspace, and where to.
    pub pair: &'a WorkspacePair,
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
    /// How long one request may take.
    pub timeout: Duration,
    /// What to do with keys that are there.
    pub on_conflict: OnConflict,
    /// Where events go.
    pub reporter: &'a Reporter,
    /// Where numbers go.
    pub ledger: &'a Ledger,
    /// The entry of this workspace in the ledger.
    pub ledger_entry: usize,
    /// Whether to stop.
    pub shutdown: &'a Shutdown,
}

/// The most that a page holds: a page is the smallest piece that is read, and several are in memory at a time.
const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

/// Moves one workspace. What happened is in the ledger, also when this fails.
///
/// # Errors
/// What ended it: the source or the target failed. `Ok(Some(_))` where somebody stopped it.
pub async fn run(job: Move<'_>) -> Result<Option<StopReason>> {
    let mut account = Account::open(&job);
    // Ends the reading, be it for a signal or for a batch that failed; batches under way are finished.
    let enough = CancellationToken::new();
    let (sender, receiver) = mpsc::channel(1);
    let limit = PageLimit {
        records: job.batch.records,
        bytes: job.batch.bytes.min(PAGE_BYTES),
    };
    let pages = Arc::clone(&job.source).scan(job.selection, limit, None);
    let reading = tokio::spawn(read(pages, Batcher::new(job.batch), job.timeout, sender));

    let writer = Arc::new(Writer::new(Arc::clone(&job.target), job.on_conflict, job.timeout));
    let batches = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    let stop = enough.clone();
    let signal = job.shutdown.clone();
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = signal.stopped() => {}
        }
    };
    let mut results = std::pin::pin!(
        batches
            .take_until(ended.boxed())
            .map(|batch: Result<Batch>| {
                let writer = Arc::clone(&writer);
                async move {
                    let batch = batch?;
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
            .buffered(job.concurrency.get())
    );

    let mut failure: Option<Error> = None;
    while let Some(result) = results.next().await {
        let failed = match result {
            Ok((batch, outcome, duration)) => account.enter(&batch, outcome, duration),
            Err(error) => {
                account.fail(&error);
                Some(error)
            }
        };
        if let Some(error) = failed {
            enough.cancel();
            failure.get_or_insert(error);
        }
    }
    if failure.is_none() && job.shutdown.reason().is_none() {
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
    if let Err(error) = finish(&job).await {
        account.revoke(&error);
        failure.get_or_insert(error);
    }
    let stopped = job.shutdown.reason();
    account.close(failure.is_none() && stopped.is_none());
    match failure {
        Some(error) => Err(error),
        None => Ok(stopped),
    }
}

async fn finish(job: &Move<'_>) -> Result<()> {
    job.target.flush().await.on(Side::Target)?;
    job.target.finish().await.on(Side::Target)
}

/// Reads pages and sends batches, until the source ends or nobody wants more.
async fn read(
    mut pages: crate::storage::PageStream,
    mut batcher: Batcher,
    timeout: Duration,
    sender: mpsc::Sender<Result<Batch>>,
) {
    loop {
        let next = tokio::time::timeout(timeout, pages.next()).await;
        let page = match next {
            Ok(Some(Ok(page))) => page,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                // What was read before goes on its way first.
                if let Some(batch) = batcher.rest() {
                    let _ = sender.send(Ok(batch)).await;
                }
                let _ = sender.send(Err(error.on(Side::Source))).await;
                return;
            }
            Err(_) => {
                let error = timed_out("reading a page", timeout).on(Side::Source);
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        for batch in batcher.add(page) {
            if sender.send(Ok(batch)).await.is_err() {
                return;
            }
        }
    }
    if let Some(batch) = batcher.rest() {
        let _ = sender.send(Ok(batch)).await;
    }
}

/// A task that did not come to its end panicked, which is a bug, or was aborted with its run.
fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of the pipeline panicked").caused_by(error)
}

/// The error of a request that took too long.
pub(crate) fn timed_out(what: &str, timeout: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("{what} took longer than {}", humantime::format_duration(timeout)),
    )
}
