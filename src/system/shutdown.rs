//! Stopping a run from outside: a signal, or a reader of the output that went away.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::os::StopSignals;
use crate::model::ExitCode;

/// Why a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupted,
    /// SIGTERM: a service manager wants the process gone.
    Terminated,
    /// Standard output is closed.
    OutputClosed,
    /// The time that the run may take is over.
    MaxDuration,
}

impl StopReason {
    /// The exit code of a run that was stopped so.
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::Interrupted => ExitCode::Interrupted,
            Self::Terminated => ExitCode::Terminated,
            Self::OutputClosed => ExitCode::OutputClosed,
            Self::MaxDuration => ExitCode::MaxDuration,
        }
    }

    /// The same in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted (SIGINT)",
            Self::Terminated => "terminated (SIGTERM)",
            Self::OutputClosed => "the reader of standard output went away",
            Self::MaxDuration => "--max-duration is over",
        }
    }
}

/// A wish to stop that every task can see. The first reason stays.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Shutdown {
    /// Asks the run to stop.
    pub fn stop(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Why the run is to stop; `None` while it may go on.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Waits until the run is to stop.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// Stops when a time is over.
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
                    // Whoever asks twice does not want to wait for a batch.
                    std::process::exit(reason.exit_code().code().into());
                }
                shutdown.stop(reason);
            }
        });
    }
}
