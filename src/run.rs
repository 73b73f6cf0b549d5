//! One run, from settings to its end: connect, check, count, tell the plan, move.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    config::{Endpoint, Mode, Settings, WorkspaceChoice, WorkspacePair},
    error::{Error, ErrorKind, OnSide, Result, Side},
    pipeline::{self, Move},
    report::{
        CountEvent, CountProgressEvent, Event, Ledger, PlanEvent, PlanOptions, Reporter, WorkspaceReport,
    },
    shutdown::{Shutdown, StopReason},
    storage::{ConnectOptions, Container, Count, Source, Storage, Workspace},
};

/// What every step of a run shares.
pub struct Run<'a> {
    /// What it is to do.
    pub settings: &'a Settings,
    /// Where events go.
    pub reporter: &'a Reporter,
    /// Where numbers go.
    pub ledger: &'a Ledger,
    /// Whether to stop.
    pub shutdown: &'a Shutdown,
}

/// How often a long count says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Does it all. `Ok(Some(_))` where somebody stopped it.
    ///
    /// # Errors
    /// What ended it. It is in the ledger.
    pub async fn execute(&self) -> Result<Option<StopReason>> {
        tokio::select! {
            // Until the first write there is nothing to bring to an end.
            () = self.shutdown.stopped(), if self.settings.mode == Mode::DryRun => Ok(self.shutdown.reason()),
            result = self.steps() => result,
        }
    }

    async fn steps(&self) -> Result<Option<StopReason>> {
        let prepared = tokio::select! {
            () = self.shutdown.stopped() => return Ok(self.shutdown.reason()),
            prepared = self.prepare() => prepared.inspect_err(|error| self.enter(error))?,
        };
        let total: u64 = prepared.iter().map(|pair| pair.count.total()).sum();
        if total == 0 && self.settings.fail_on_empty {
            let error = Error::new(ErrorKind::Empty, "the source has nothing to migrate")
                .with_remedy("check source, workspace and types, or leave out --fail-on-empty");
            self.enter(&error);
            return Err(error);
        }
        if self.settings.mode == Mode::DryRun {
            return Ok(None);
        }
        if !self.settings.yes {
            let error = Error::new(
                ErrorKind::NotConfirmed,
                "nothing was written: writing to the target needs --yes",
            );
            self.enter(&error);
            return Err(error);
        }
        for (entry, pair) in prepared.into_iter().enumerate() {
            if let Some(reason) = self.shutdown.reason() {
                return Ok(Some(reason));
            }
            if let Some(reason) = self.migrate(entry, pair).await? {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// Enters an error that belongs to no batch.
    fn enter(&self, error: &Error) {
        self.ledger.entries().errors.fatal(None, error, 0);
    }

    /// Connects, checks, tells the plan and counts.
    async fn prepare(&self) -> Result<Vec<Prepared>> {
        let settings = self.settings;
        let (source, target) =
            tokio::try_join!(self.connect(&settings.source), self.connect(&settings.target))?;
        {
            let mut entries = self.ledger.entries();
            entries.source = Some(source.location());
            entries.target = Some(target.location());
        }
        let pairs = match &settings.workspaces {
            WorkspaceChoice::Pairs(pairs) => pairs.clone(),
            WorkspaceChoice::All => {
                let workspaces = self
                    .limited("listing workspaces", source.workspaces())
                    .await
                    .on(Side::Source)?;
                let same = |workspace: Workspace| WorkspacePair {
                    from: workspace.clone(),
                    to: workspace,
                };
                workspaces.into_iter().map(same).collect()
            }
        };
        self.tell_plan(&*source, &*target, &pairs);
        self.check_containers(&*source, &*target, &pairs).await?;
        let mut prepared = Vec::with_capacity(pairs.len());
        for pair in pairs {
            prepared.push(self.prepare_pair(&*source, &*target, pair).await?);
        }
        Ok(prepared)
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Arc<dyn Storage>> {
        let options = ConnectOptions {
            timeout: self.settings.timeout,
            concurrency: self.settings.concurrency,
            on_invalid: self.settings.on_invalid,
        };
        let connecting = endpoint.connect(&options);
        self.limited("connecting", connecting)
            .await
            .on(endpoint.values.side())
    }

    async fn limited<T>(&self, what: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        let timeout = self.settings.timeout;
        tokio::time::timeout(timeout, request)
            .await
            .unwrap_or_else(|_| Err(pipeline::timed_out(what, timeout)))
    }

    fn tell_plan(&self, source: &dyn Storage, target: &dyn Storage, pairs: &[WorkspacePair]) {
        let settings = self.settings;
        self.reporter.emit(Event::Plan(PlanEvent {
            source: source.location(),
            target: target.location(),
            workspaces: pairs.to_vec(),
            types: settings.selection.clone(),
            options: PlanOptions {
                on_conflict: settings.on_conflict,
                on_invalid: settings.on_invalid,
                batch_records: settings.batch.records.get() as u64,
                batch_bytes: settings.batch.bytes.get() as u64,
                concurrency: settings.concurrency.get() as u64,
                timeout_ms: u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX),
                yes: settings.yes,
                fail_on_empty: settings.fail_on_empty,
            },
        }));
    }

    /// No container may be read and written, and none may be written twice: records of different workspaces would
    /// meet in it.
    async fn check_containers(
        &self,
        source: &dyn Storage,
        target: &dyn Storage,
        pairs: &[WorkspacePair],
    ) -> Result<()> {
        let mut read: BTreeMap<Container, &Workspace> = BTreeMap::new();
        let mut written: BTreeMap<Container, &Workspace> = BTreeMap::new();
        for pair in pairs {
            let from = self
                .limited("looking at the source", source.container(&pair.from))
                .await
                .on(Side::Source)?;
            let to = self
                .limited("looking at the target", target.container(&pair.to))
                .await
                .on(Side::Target)?;
            for (seen, container, workspace, side) in [
                (&mut read, &from, &pair.from, Side::Source),
                (&mut written, &to, &pair.to, Side::Target),
            ] {
                if let Some(other) = seen.insert(container.clone(), workspace) {
                    let message = format!(
                        "the workspaces {other} and {workspace} of the {side} are one and the same: {}",
                        container.place
                    );
                    let remedy = "move them one at a time, or map them to names that stay apart";
                    return Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy));
                }
            }
        }
        if let Some(both) = read.keys().find(|container| written.contains_key(container)) {
            let message = format!("source and target are the same place: {}", both.place);
            let remedy = "name another target, or another workspace on one side";
            return Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy));
        }
        Ok(())
    }

    async fn prepare_pair(
        &self,
        source: &dyn Storage,
        target: &dyn Storage,
        pair: WorkspacePair,
    ) -> Result<Prepared> {
        let source = self
            .limited("opening the source", source.source(&pair.from))
            .await
            .on(Side::Source)?;
        let target = self
            .limited("opening the target", target.target(&pair.to))
            .await
            .on(Side::Target)?;
        let count = self.count(Side::Source, &pair.from, &*source).await?;
        let before = self.count(Side::Target, &pair.to, &*target).await?;
        let mut report = WorkspaceReport {
            from: pair.from.clone(),
            to: pair.to.clone(),
            source_records: Some(count.total()),
            target_records_before: Some(before.total()),
            totals: Default::default(),
            by_cache_type: BTreeMap::new(),
        };
        report.totals.close(count.total(), false);
        for (cache_type, records) in &count.by_type {
            report
                .by_cache_type
                .entry(*cache_type)
                .or_default()
                .close(*records, false);
        }
        self.ledger.entries().workspaces.push(report);
        Ok(Prepared {
            pair,
            source,
            target,
            count,
        })
    }

    async fn count<S: Source + ?Sized>(
        &self,
        side: Side,
        workspace: &Workspace,
        storage: &S,
    ) -> Result<Count> {
        let started = Instant::now();
        let told = AtomicU64::new(0);
        let progress = |scanned: u64| {
            let tick = started.elapsed().as_millis() / PROGRESS_EVERY.as_millis();
            let tick = u64::try_from(tick).unwrap_or(u64::MAX);
            if told.swap(tick, Ordering::Relaxed) < tick {
                self.reporter.emit(Event::CountProgress(CountProgressEvent {
                    side,
                    workspace: workspace.clone(),
                    scanned,
                }));
            }
        };
        let count = storage
            .count(&self.settings.selection, &progress)
            .await
            .on(side)?;
        self.reporter.emit(Event::Count(CountEvent {
            side,
            workspace: workspace.clone(),
            records: count.total(),
            by_cache_type: count.by_type.clone(),
            exact: count.exact,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }));
        Ok(count)
    }

    async fn migrate(&self, ledger_entry: usize, prepared: Prepared) -> Result<Option<StopReason>> {
        if prepared.count.total() == 0 && prepared.count.exact {
            // Nothing is made at the target for a workspace that has nothing to move.
            return Ok(None);
        }
        let preparing = self
            .limited("preparing the target", prepared.target.prepare())
            .await
            .on(Side::Target);
        preparing.inspect_err(|error| self.enter(error))?;
        pipeline::run(Move {
            pair: &prepared.pair,
            source: prepared.source,
            target: prepared.target,
            selection: &self.settings.selection,
            expected: &prepared.count,
            batch: self.settings.batch,
            concurrency: self.settings.concurrency,
            timeout: self.settings.timeout,
            on_conflict: self.settings.on_conflict,
            reporter: self.reporter,
            ledger: self.ledger,
            ledger_entry,
            shutdown: self.shutdown,
        })
        .await
    }
}

/// A workspace that is ready to be moved.
struct Prepared {
    pair: WorkspacePair,
    source: Arc<dyn Source>,
    target: Arc<dyn crate::storage::Target>,
    count: Count,
}
