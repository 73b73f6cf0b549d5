//! One run from start to end: connect, check, count, emit the plan, move, verify.

use std::sync::Arc;

use super::{
    differences::DifferencesFile,
    plan::Prepared,
    retry::{RequestContext, Retrier},
    stats::RunStats,
    warn,
};
use crate::{
    model::{Error, ErrorKind, Mode, Result, Settings, Side, VerifyLevel},
    report::{Reporter, RunOutcome, WarningEvent, WarningKind},
    storage::Route,
    system::shutdown::Shutdown,
};

/// What every step of a run shares.
pub struct Run<'a> {
    /// The settings of the run.
    pub settings: &'a Settings,
    /// Emits events.
    pub reporter: &'a Arc<Reporter>,
    /// Collects the numbers.
    pub stats: &'a RunStats,
    /// Requests to stop.
    pub shutdown: &'a Shutdown,
}

impl Run<'_> {
    /// Executes the whole run.
    ///
    /// # Errors
    /// The error that ended it.
    pub async fn execute(&self, route: &Route) -> Result<RunOutcome> {
        // Before the first write the run can simply be dropped.
        let prepared = tokio::select! {
            () = self.shutdown.stopped() => return Ok(self.stopped()),
            prepared = self.prepare_route(route) => prepared?,
        };
        self.carry_out(&prepared, self.settings.yes).await
    }

    /// The outcome of a run that was stopped.
    pub fn stopped(&self) -> RunOutcome {
        self.shutdown
            .reason()
            .map_or(RunOutcome::Done, RunOutcome::Stopped)
    }

    /// Moves and verifies the prepared workspaces. Writes only if that was `confirmed`.
    ///
    /// # Errors
    /// The error that ended the run.
    pub async fn carry_out(&self, prepared: &[Prepared], confirmed: bool) -> Result<RunOutcome> {
        let writes = self.settings.mode == Mode::Migrate && confirmed;
        let differences = match &self.settings.differences {
            Some(path) if writes || self.settings.mode == Mode::Verify => {
                let file = DifferencesFile::create(path)?;
                self.stats
                    .run(|run| run.differences = Some(path.display().to_string()));
                Some(file)
            }
            _ => None,
        };
        let differences = differences.as_ref();
        match self.settings.mode {
            Mode::DryRun => {
                let rehearsed = tokio::select! {
                    () = self.shutdown.stopped() => return Ok(self.stopped()),
                    rehearsed = self.rehearse(prepared) => rehearsed,
                };
                rehearsed?;
                let stopped = self.survey(prepared).await?;
                return Ok(stopped.unwrap_or(RunOutcome::Done));
            }
            Mode::Verify => {
                if let Some(stopped) = self.survey(prepared).await? {
                    return Ok(stopped);
                }
            }
            Mode::Migrate if !confirmed => {
                return Err(Error::new(
                    ErrorKind::NotConfirmed,
                    "nothing was written: writing to the target needs --yes",
                ));
            }
            Mode::Migrate => {
                if let Some(reason) = self.migrate(prepared, differences).await? {
                    return Ok(RunOutcome::Stopped(reason));
                }
            }
        }
        if matches!(self.settings.verify, VerifyLevel::Off | VerifyLevel::ReadBack) {
            return Ok(RunOutcome::Done);
        }
        tokio::select! {
            () = self.shutdown.stopped() => Ok(self.stopped()),
            verified = self.verify(prepared, differences) => verified.map(|()| RunOutcome::Done),
        }
    }

    pub(super) fn retrier(&self) -> Retrier {
        Retrier {
            retries: self.settings.retries,
            timeout: self.settings.timeout,
            reporter: Arc::clone(self.reporter),
            shutdown: self.shutdown.clone(),
        }
    }

    /// Makes a request that does not belong to a batch.
    pub(super) async fn ask<T>(
        &self,
        side: Side,
        what: &str,
        request: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        self.retrier().run(RequestContext::of(side, what), request).await
    }

    pub(super) async fn prepare_route(&self, route: &Route) -> Result<Vec<Prepared>> {
        let connected = tokio::try_join!(
            self.connect_source(&route.source),
            self.connect_target(&route.target)
        );
        let (source, target) = connected?;
        self.prepare(source, target, &route.workspaces).await
    }

    /// Emits warnings about a storage, each of them once.
    pub(super) fn warn_of(&self, warnings: Vec<String>) {
        for warning in warnings {
            self.warn(WarningEvent::new(WarningKind::Storage, warning));
        }
    }

    pub(super) fn warn(&self, warning: WarningEvent) {
        warn(self.stats, self.reporter, warning);
    }
}
