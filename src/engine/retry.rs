//! Trying again what may succeed later.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    model::{Error, ErrorKind, OnSide, Result, Side, Workspace},
    report::{Event, Reporter, RetryEvent},
    storage::{Waiter, backoff},
    system::shutdown::Shutdown,
};

/// Bounds requests in time and tries them again, after the waits of [`backoff`]. [`ErrorKind::retry`] says what is worth
/// another try.
#[derive(Clone)]
pub struct Retrier {
    /// How often a request is tried again.
    pub retries: usize,
    /// How long one try may take.
    pub timeout: Duration,
    /// Where retries are reported.
    pub reporter: Arc<Reporter>,
    /// Ends the waiting.
    pub shutdown: Shutdown,
}

/// What a request is for, as retries tell it.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// In a clause: `writing a batch`.
    pub what: &'a str,
    /// On which side.
    pub side: Side,
    /// In which workspace, where it is for one.
    pub workspace: Option<&'a Workspace>,
    /// For which batch, from 1, where it is for one.
    pub batch: Option<u64>,
}

impl Retrier {
    /// The same without a time limit, for a request that may take as long as the cache is large, such as a count.
    pub(crate) fn unbounded(&self) -> Self {
        Self {
            timeout: Duration::MAX,
            ..self.clone()
        }
    }

    /// Makes a request, again while that may help.
    ///
    /// # Errors
    /// The error of the last try, marked with the side.
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

    /// Begins a request that is made by the caller: [`Retrier::once`] makes it, [`Attempts::next`] says whether again.
    pub fn tries<'a>(&'a self, purpose: RequestContext<'a>) -> Attempts<'a> {
        Attempts {
            retrier: self,
            purpose,
            failed: 0,
        }
    }

    /// Makes a request once, bounded in time.
    ///
    /// # Errors
    /// Its own, or [`ErrorKind::Timeout`].
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

    /// Reports a failed try and waits for the next.
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

/// What came of a wait between two tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// It is time for another try.
    Again,
    /// There were as many as there may be.
    Enough,
    /// The run is to stop.
    Stopped,
}

/// The waits of a storage, as the run's own: reported, bounded by its number of retries, and ended when it is to stop.
pub(crate) struct SideWaiter {
    pub(crate) retrier: Retrier,
    pub(crate) side: Side,
}

#[async_trait]
impl Waiter for SideWaiter {
    async fn wait(&self, operation: &str, failed: usize, error: &Error) -> bool {
        let purpose = RequestContext {
            what: operation,
            side: self.side,
            workspace: None,
            batch: None,
        };
        self.retrier.wait(purpose, error, failed).await == Waited::Again
    }
}

/// The tries of one request.
pub struct Attempts<'a> {
    retrier: &'a Retrier,
    purpose: RequestContext<'a>,
    failed: usize,
}

impl Attempts<'_> {
    /// Takes the result of a try: an answer, or `None` after a wait, when it is time for another try.
    ///
    /// # Errors
    /// The error of this try, marked with the side, where another would not help or there were enough.
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

    /// How many tries failed so far.
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
    async fn what_is_temporary_is_tried_again_and_then_given_up() {
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
    async fn what_is_permanent_is_tried_once() {
        let mut tries = 0;
        let result: Result<()> = retrier(3)
            .run(PURPOSE, async || {
                tries += 1;
                Err(Error::new(ErrorKind::Login, "no"))
            })
            .await;
        assert_eq!((tries, result.unwrap_err().kind()), (1, ErrorKind::Login));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_takes_too_long_is_ended_and_tried_again() {
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
    async fn a_wish_to_stop_ends_the_waiting() {
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
