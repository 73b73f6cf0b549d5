//! Pushes the metrics of a run to a Pushgateway, for jobs on machines that no node exporter reads a file of.
//!
//! Source: <https://github.com/prometheus/pushgateway#api>

use std::{
    error::Error as StdError,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, StatusCode, header::CONTENT_TYPE, redirect::Policy};
use tokio::time::timeout;

use crate::{
    model::{Error, ErrorKind, PushUrl, Result},
    report::{Report, metrics},
    storage::backoff,
    system::{limits, shutdown::Shutdown},
};

/// The limit for all requests together: the run is over, and whoever waits for its exit code must not wait for a monitor.
const LIMIT: Duration = Duration::from_secs(10);

/// The most of an answer that a message quotes, in characters.
const QUOTED: usize = 200;

/// Replaces the metrics of a run's group in a Pushgateway, after as many retries of temporary failures as fit into ten
/// seconds.
///
/// `written` is the text of the metrics' file, if there is one. Otherwise what accumulates (runs, the last success) is
/// carried over from the Pushgateway, whose PUT replaces the whole group.
///
/// # Errors
/// Why the Pushgateway does not have the metrics, with its address and a remedy.
pub(crate) fn push(
    to: &PushUrl,
    report: &Report,
    written: Option<String>,
    retries: usize,
    shutdown: &Shutdown,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(limits::runtime_failed)?;
    let gateway = Gateway {
        group: to.of_group(report.shard.as_deref()),
        client: Client::builder()
            .redirect(Policy::none())
            .build()
            .map_err(|error| Error::new(ErrorKind::Tls, format!("cannot push to {to}")).caused_by(error))?,
    };
    let last = Mutex::new(None);
    let pushed = runtime.block_on(async {
        // A second signal ends the process also now.
        shutdown.listen();
        timeout(LIMIT, gateway.push(report, written, retries, &last)).await
    });
    runtime.shutdown_background();
    pushed.unwrap_or_else(|_| {
        let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
        Err(last.unwrap_or_else(|| gateway.failed(ErrorKind::Timeout, "no answer within 10 seconds")))
    })
}

/// A group of metrics in a Pushgateway.
struct Gateway {
    group: PushUrl,
    client: Client,
}

impl Gateway {
    /// Pushes until it succeeds or a retry would not help. `last` is the error of the last attempt.
    async fn push(
        &self,
        report: &Report,
        written: Option<String>,
        retries: usize,
        last: &Mutex<Option<Error>>,
    ) -> Result<()> {
        let mut text = written;
        for failed in 1.. {
            let body = match &text {
                Some(text) => Ok(text.clone()),
                None => self.carried().await.map(|before| {
                    let made = metrics::text(&self.group.job(), report, &before);
                    text.insert(made).clone()
                }),
            };
            let error = match body {
                Ok(body) => match self.put(body).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let wait = backoff(retries, failed).filter(|_| error.is_temporary());
            let Some(wait) = wait else {
                return Err(if failed > 1 {
                    error.after_tries(failed)
                } else {
                    error
                });
            };
            tracing::debug!(%error, wait_ms = wait.as_millis(), "the push is retried");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.after_tries(failed));
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// What the group has of metrics that accumulate. Nothing if the server does not list its groups, such as one that
    /// only receives them for another.
    async fn carried(&self) -> Result<String> {
        let request = self.client.get(self.group.listing().expose().clone());
        let answer = request.send().await.map_err(|error| self.unanswered(error))?;
        if !answer.status().is_success() {
            tracing::debug!(
                status = answer.status().as_u16(),
                "the Pushgateway does not list its groups"
            );
            return Ok(String::new());
        }
        let listing = answer.bytes().await.map_err(|error| self.unanswered(error))?;
        let listing = serde_json::from_slice(&listing).unwrap_or_default();
        Ok(metrics::accumulated(&listing, &self.group.labels()))
    }

    async fn put(&self, text: String) -> Result<()> {
        let request = self
            .client
            .put(self.group.expose().clone())
            .header(CONTENT_TYPE, "text/plain; version=0.0.4")
            .body(text);
        let answer = request.send().await.map_err(|error| self.unanswered(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        // Why, in the server's words. The status alone is enough.
        let body = answer.text().await.unwrap_or_default();
        Err(self.refused(status, &body))
    }

    fn failed(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, format!("cannot push the metrics to {}: {why}", self.group))
    }

    fn unanswered(&self, error: reqwest::Error) -> Error {
        let error = error.without_url();
        let mut causes = Vec::new();
        let mut cause: Option<&dyn StdError> = error.source();
        while let Some(next) = cause {
            causes.push(next);
            cause = next.source();
        }
        let is_tls = causes.iter().any(|cause| cause.is::<rustls::Error>());
        let kind = match () {
            () if is_tls => ErrorKind::Tls,
            () if error.is_connect() => ErrorKind::Unreachable,
            () => ErrorKind::ConnectionLost,
        };
        let why = causes
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        self.failed(kind, &why).caused_by(error)
    }

    fn refused(&self, status: StatusCode, body: &str) -> Error {
        let line = body.lines().map(str::trim).find(|line| !line.is_empty());
        let quoted: String = line.unwrap_or_default().chars().take(QUOTED).collect();
        let why = match quoted.as_str() {
            "" => format!("status {status}"),
            quoted => format!("status {status}: {quoted}"),
        };
        let (kind, remedy) = match status.as_u16() {
            300..400 => (ErrorKind::Server, Some("give the address that it redirects to")),
            400 => (
                ErrorKind::Server,
                Some(
                    "another job may push the same metrics: give this one a group of its own, as in \
                     http://host:9091/metrics/job/NAME",
                ),
            ),
            401 | 403 => (
                ErrorKind::Login,
                Some("put user and password into the address: http://user:password@host"),
            ),
            404 | 405 => (
                ErrorKind::NotFound,
                Some("check that the address is a Pushgateway's, with the prefix of its paths if it has one"),
            ),
            408 | 429 | 500.. => (ErrorKind::Busy, None),
            _ => (ErrorKind::Server, None),
        };
        let error = self.failed(kind, &why);
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }
}
