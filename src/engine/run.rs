//! One run, from settings to its end: connect, check, count, tell the plan, move, verify.

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
    /// What it is to do.
    pub settings: &'a Settings,
    /// Where events go.
    pub reporter: &'a Arc<Reporter>,
    /// Where numbers go.
    pub stats: &'a RunStats,
    /// Whether to stop.
    pub shutdown: &'a Shutdown,
}

impl Run<'_> {
    /// Does it all.
    ///
    /// # Errors
    /// What ended it.
    pub async fn execute(&self, route: &Route) -> Result<RunOutcome> {
        // Until the first write there is nothing to bring to an end.
        let prepared = tokio::select! {
            () = self.shutdown.stopped() => return Ok(self.stopped()),
            prepared = self.prepare_route(route) => prepared?,
        };
        self.carry_out(&prepared, self.settings.yes).await
    }

    /// The ending of a run that somebody stopped.
    pub fn stopped(&self) -> RunOutcome {
        self.shutdown
            .reason()
            .map_or(RunOutcome::Done, RunOutcome::Stopped)
    }

    /// Moves and compares what was prepared; writes only where that was `confirmed`.
    ///
    /// # Errors
    /// What ended it.
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

    /// A request outside of any batch.
    pub(super) async fn ask<T>(
        &self,
        side: Side,
        what: &str,
        request: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let purpose = RequestContext {
            what,
            side,
            workspace: None,
            batch: None,
        };
        self.retrier().run(purpose, request).await
    }

    pub(super) async fn prepare_route(&self, route: &Route) -> Result<Vec<Prepared>> {
        let connected = tokio::try_join!(
            self.connect_source(&route.source),
            self.connect_target(&route.target)
        );
        let (source, target) = connected?;
        self.prepare(source, target, &route.workspaces).await
    }

    /// Warns of what was not warned of before.
    pub(super) fn warn_of(&self, warnings: Vec<String>) {
        for warning in warnings {
            self.warn(WarningEvent::new(WarningKind::Storage, warning));
        }
    }

    pub(super) fn warn(&self, warning: WarningEvent) {
        warn(self.stats, self.reporter, warning);
    }
}
