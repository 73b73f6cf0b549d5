//! Retrying requests that failed temporarily.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    model::{Error, ErrorKind, OnSide, Result, Side, Workspace},
    report::{Event, Reporter, RetryEvent},
    storage::{Waiter, backoff},
    system::shutdown::Shutdown,
};

/// Limits the time of requests and retries them after the delays of [`backoff`]. [`ErrorKind::retry`] decides which errors
/// are retried.
#[derive(Clone)]
pub struct Retrier {
    /// The most retries of a request.
    pub retries: usize,
    /// The time limit of one attempt.
    pub timeout: Duration,
    /// Emits the retries.
    pub reporter: Arc<Reporter>,
    /// Interrupts delays.
    pub shutdown: Shutdown,
}

/// What a request is for, as errors and retries report it.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// The operation, as in `writing a batch`.
    pub what: &'a str,
    /// The side of the request.
    pub side: Side,
    /// The workspace, if it belongs to one.
    pub workspace: Option<&'a Workspace>,
    /// The batch, from 1, if it belongs to one.
    pub batch: Option<u64>,
}

impl<'a> RequestContext<'a> {
    /// A request that belongs to no workspace.
    pub(crate) fn of(side: Side, what: &'a str) -> Self {
        Self {
            what,
            side,
            workspace: None,
            batch: None,
        }
    }
}

impl Retrier {
    /// The same without a time limit, for requests whose duration grows with the cache, such as a count.
    pub(crate) fn unbounded(&self) -> Self {
        Self {
            timeout: Duration::MAX,
            ..self.clone()
        }
    }

    /// Makes a request, and retries it while that may help.
    ///
    /// # Errors
    /// The error of the last attempt, with side, workspace and batch.
    pub async fn run<T>(
        &self,
        purpose: RequestContext<'_>,
        mut request: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let mut tries = self.tries(purpose);
        loop {
            let result = self.once(purpose.what, request()).await;
            if let Some(answer) = tries.next(result).await? {
                return Ok(answer);
            }
        }
    }

    /// Counts the attempts of a caller that makes them itself: [`Retrier::once`] makes one, [`Attempts::next`] says whether
    /// to make another.
    pub fn tries<'a>(&'a self, purpose: RequestContext<'a>) -> Attempts<'a> {
        Attempts {
            retrier: self,
            purpose,
            failed: 0,
        }
    }

    /// Makes a request once, with the time limit.
    ///
    /// # Errors
    /// The error of the request, or [`ErrorKind::Timeout`].
    pub async fn once<T>(&self, what: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        let started = tokio::time::Instant::now();
        let result = tokio::time::timeout(self.timeout, request)
            .await
            .unwrap_or_else(|_| {
                let limit = humantime::format_duration(self.timeout);
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{what} took longer than {limit}"),
                ))
            });
        tracing::debug!(
            request = what,
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            error = result.as_ref().err().map(ToString::to_string),
            "request"
        );
        result
    }

    /// Emits a failed attempt and waits before the next.
    async fn wait(&self, purpose: RequestContext<'_>, error: &Error, failed: usize) -> Waited {
        let Some(wait) = backoff(self.retries, failed) else {
            return Waited::Enough;
        };
        if self.shutdown.reason().is_some() {
            return Waited::Stopped;
        }
        self.reporter.emit(Event::Retry(RetryEvent {
            side: purpose.side,
            workspace: purpose.workspace.cloned(),
            batch: purpose.batch,
            operation: purpose.what.to_owned(),
            attempt: failed as u64,
            retries: self.retries as u64,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            kind: error.kind().as_str().to_owned(),
            message: error.to_string(),
        }));
        tokio::select! {
            () = tokio::time::sleep(wait) => Waited::Again,
            () = self.shutdown.stopped() => Waited::Stopped,
        }
    }
}

/// The result of a delay between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// Make another attempt.
    Again,
    /// No retry is left.
    Enough,
    /// The run is stopping.
    Stopped,
}

/// Lets a storage wait like the run itself: the delay is emitted, counts as a retry, and ends when the run stops.
pub(crate) struct SideWaiter {
    pub(crate) retrier: Retrier,
    pub(crate) side: Side,
}

#[async_trait]
impl Waiter for SideWaiter {
    async fn wait(&self, operation: &str, failed: usize, error: &Error) -> bool {
        let purpose = RequestContext::of(self.side, operation);
        self.retrier.wait(purpose, error, failed).await == Waited::Again
    }

    async fn stopped(&self) {
        self.retrier.shutdown.stopped().await;
    }
}

/// The attempts of one request.
pub struct Attempts<'a> {
    retrier: &'a Retrier,
    purpose: RequestContext<'a>,
    failed: usize,
}

impl Attempts<'_> {
    /// Handles the result of an attempt. Returns the value, or `None` after a delay if another attempt should be made.
    ///
    /// # Errors
    /// The error of this attempt, with its context, if a retry would not help or none is left.
    pub async fn next<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        let mut error = match result.on(self.purpose.side) {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        if let Some(workspace) = self.purpose.workspace {
            error = error.in_workspace(workspace);
        }
        if let Some(batch) = self.purpose.batch {
            error = error.in_batch(batch);
        }
        self.failed += 1;
        let waited = if error.is_temporary() {
            self.retrier.wait(self.purpose, &error, self.failed).await
        } else {
            Waited::Enough
        };
        if self.failed > 1 {
            error = error.after_tries(self.failed);
        }
        match waited {
            Waited::Again => Ok(None),
            Waited::Enough => Err(error),
            Waited::Stopped => Err(error.abandoned()),
        }
    }

    /// The number of failed attempts.
    pub fn failed(&self) -> usize {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retrier(retries: usize) -> Retrier {
        let shutdown = Shutdown::default();
        Retrier {
            retries,
            timeout: Duration::from_secs(20),
            reporter: Arc::new(Reporter::observed(shutdown.clone(), Box::new(|_| ()))),
            shutdown,
        }
    }

    const PURPOSE: RequestContext<'static> = RequestContext {
        what: "trying",
        side: Side::Target,
        workspace: None,
        batch: None,
    };

    #[tokio::test(start_paused = true)]
    async fn a_temporary_error_is_retried_until_no_retry_is_left() {
        let mut tries = 0;
        let result: Result<()> = retrier(3)
            .run(PURPOSE, async || {
                tries += 1;
                Err(Error::new(ErrorKind::Busy, "later"))
            })
            .await;
        assert_eq!(tries, 4);
        assert_eq!(result.unwrap_err().message(), "later (tried 4 times)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_error_is_not_retried() {
        let mut tries = 0;
        let result: Result<()> = retrier(3)
            .run(PURPOSE, async || {
                tries += 1;
                Err(Error::new(ErrorKind::Login, "no"))
            })
            .await;
        let error = result.unwrap_err();
        assert_eq!(
            (tries, error.kind(), error.message()),
            (1, ErrorKind::Login, "no")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_times_out_is_retried() {
        let mut tries = 0;
        let answer = retrier(3)
            .run(PURPOSE, async || {
                tries += 1;
                if tries < 3 {
                    std::future::pending::<()>().await;
                }
                Ok(tries)
            })
            .await;
        assert_eq!(answer.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storage_that_waits_is_told_when_to_give_up() {
        let waiter = SideWaiter {
            retrier: retrier(2),
            side: Side::Target,
        };
        let busy = Error::new(ErrorKind::Busy, "later");
        assert!(waiter.wait("write", 1, &busy).await && waiter.wait("write", 2, &busy).await);
        assert!(!waiter.wait("write", 3, &busy).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_to_stop_ends_a_delay() {
        let retrier = retrier(1000);
        retrier
            .shutdown
            .stop(crate::system::shutdown::StopReason::Terminated);
        let result: Result<()> = retrier
            .run(PURPOSE, async || Err(Error::new(ErrorKind::Busy, "later")))
            .await;
        let error = result.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Busy && error.is_abandoned(),
            "{error:?}"
        );
    }
}
