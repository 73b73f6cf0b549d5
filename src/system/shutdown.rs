//! Stopping a run: by a signal, by a time limit, or because standard output was closed.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::os::StopSignals;
use crate::model::ExitCode;

/// Why a run stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, as from Ctrl-C.
    Interrupted,
    /// SIGTERM, as from a service manager.
    Terminated,
    /// The reader of standard output closed it.
    OutputClosed,
    /// `--max-duration` has passed.
    MaxDuration,
}

impl StopReason {
    /// The exit code of a run stopped for this reason.
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::Interrupted => ExitCode::Interrupted,
            Self::Terminated => ExitCode::Terminated,
            Self::OutputClosed => ExitCode::OutputClosed,
            Self::MaxDuration => ExitCode::MaxDuration,
        }
    }

    /// The reason as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted (SIGINT)",
            Self::Terminated => "terminated (SIGTERM)",
            Self::OutputClosed => "standard output was closed",
            Self::MaxDuration => "--max-duration has passed",
        }
    }
}

/// A request to stop that all tasks share. The first reason is kept.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Shutdown {
    /// Requests the stop.
    pub fn stop(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Why the run stops; `None` if no stop was requested.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Waits for a request to stop.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// From now on, by the clock of the runtime.
    pub fn stop_after(&self, limit: std::time::Duration) {
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            shutdown.stop(StopReason::MaxDuration);
        });
    }

    /// Stops on SIGINT and SIGTERM; the second signal ends the process at once.
    pub fn listen(&self) {
        let shutdown = self.clone();
        tokio::spawn(async move {
            let Ok(mut signals) = StopSignals::catch() else {
                return;
            };
            loop {
                let reason = signals.next().await;
                if matches!(
                    shutdown.reason(),
                    Some(StopReason::Interrupted | StopReason::Terminated)
                ) {
                    // A second signal does not wait for the batches in progress.
                    std::process::exit(reason.exit_code().code().into());
                }
                shutdown.stop(reason);
            }
        });
    }
}
