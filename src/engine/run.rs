//! One run, from settings to its end: connect, check, count, tell the plan, move, verify.

use std::sync::Arc;

use super::{
    plan::Prepared,
    retry::{RequestContext, Retrier},
    stats::RunStats,
    warn,
};
use crate::{
    model::{Error, ErrorKind, Mode, Result, Settings, Side, VerifyLevel},
    report::{Reporter, RunOutcome},
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
        match self.settings.mode {
            Mode::DryRun => {
                self.check_writable(prepared).await?;
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
                if let Some(reason) = self.migrate(prepared).await? {
                    return Ok(RunOutcome::Stopped(reason));
                }
            }
        }
        if self.settings.verify == VerifyLevel::Off {
            return Ok(RunOutcome::Done);
        }
        tokio::select! {
            () = self.shutdown.stopped() => Ok(self.stopped()),
            verified = self.verify(prepared) => verified.map(|()| RunOutcome::Done),
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
        warnings.into_iter().for_each(|warning| self.warn(warning));
    }

    pub(super) fn warn(&self, message: String) {
        warn(self.stats, self.reporter, message);
    }
}
