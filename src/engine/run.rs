//! One run, from settings to its end: connect, check, count, tell the plan, move, verify.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    engine::{
        checkpoint::{Checkpoint, Progress},
        hits::Examiner,
        pipeline::{self, WorkspaceJob},
        rejects::RejectsFile,
        retry::{FIRST_WAIT, RequestContext, Retrier},
        verify::Comparison,
    },
    model::{
        BatchLimit, Error, ErrorKind, Mode, NamedPair, NamedWorkspace, Origin, PhysicalLocation, Rekey,
        Result, Settings, Side, Values, VerifyLevel, WORKSPACE_VARIABLE, Workspace, WorkspaceChoice,
        WorkspacePair, nearest,
    },
    report::{
        CountEvent, CountProgressEvent, Event, Ledger, PlanEvent, PlanOptions, PlanSettings, Reporter,
        RunOutcome, SettingOrigin, Verification, VerifyNumbers, WorkspaceReport,
    },
    storage::{ConnectOptions, Connection, Connector, Count, Endpoint, Route, Source, Target},
    system::shutdown::{Shutdown, StopReason},
};

/// What every step of a run shares.
pub struct Run<'a> {
    /// What it is to do.
    pub settings: &'a Settings,
    /// Where events go.
    pub reporter: &'a Arc<Reporter>,
    /// Where numbers go.
    pub ledger: &'a Ledger,
    /// Whether to stop.
    pub shutdown: &'a Shutdown,
}

/// How much longer than a request may take a storage may need to say that connecting took too long.
const GRACE: Duration = Duration::from_secs(1);

/// How often a long count says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Does it all.
    ///
    /// # Errors
    /// What ended it. It is in the ledger.
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
    /// What ended it. It is in the ledger.
    pub async fn carry_out(&self, prepared: &[Prepared], confirmed: bool) -> Result<RunOutcome> {
        match self.settings.mode {
            Mode::DryRun => {
                return self
                    .survey(prepared)
                    .await
                    .map(|stopped| stopped.unwrap_or(RunOutcome::Done));
            }
            Mode::Verify => {
                if let Some(stopped) = self.survey(prepared).await? {
                    return Ok(stopped);
                }
            }
            Mode::Migrate if !confirmed => {
                let error = Error::new(
                    ErrorKind::NotConfirmed,
                    "nothing was written: writing to the target needs --yes",
                );
                self.enter(&error);
                return Err(error);
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
            verified = self.verify(prepared) => {
                verified.inspect_err(|error| self.enter(error)).map(|()| RunOutcome::Done)
            }
        }
    }

    /// Enters an error that belongs to no batch.
    pub(super) fn enter(&self, error: &Error) {
        self.ledger.entries().errors.fatal(None, error, 0);
    }

    pub(super) fn retrier(&self) -> Retrier {
        Retrier {
            retries: self.settings.retries,
            timeout: self.settings.timeout,
            first_wait: FIRST_WAIT,
            reporter: Arc::clone(self.reporter),
            shutdown: self.shutdown.clone(),
        }
    }

    /// A request outside of any batch.
    async fn ask<T>(&self, side: Side, what: &str, request: impl AsyncFn() -> Result<T>) -> Result<T> {
        let purpose = RequestContext {
            what,
            side,
            workspace: None,
            batch: None,
        };
        self.retrier().run(purpose, request).await
    }

    async fn prepare_route(&self, route: &Route) -> Result<Vec<Prepared>> {
        let connected = tokio::try_join!(
            self.connect_source(&route.source),
            self.connect_target(&route.target)
        );
        let (source, target) = connected.inspect_err(|error| self.enter(error))?;
        self.prepare(source, target, &route.workspaces).await
    }

    /// Connects to the source.
    ///
    /// # Errors
    /// Wrong settings, an unreachable server, a refused login. They are not in the ledger: somebody may choose anew.
    pub async fn connect_source(&self, endpoint: &Endpoint) -> Result<Connected<dyn Source>> {
        let storage = self.connect(endpoint).await?;
        self.ledger.entries().source = Some(storage.location());
        Ok(Connected::new(endpoint, storage))
    }

    /// Connects to the target.
    ///
    /// # Errors
    /// As [`Run::connect_source`].
    pub async fn connect_target(&self, endpoint: &Endpoint) -> Result<Connected<dyn Target>> {
        let storage = self.connect(endpoint).await?;
        self.ledger.entries().target = Some(storage.location());
        Ok(Connected::new(endpoint, storage))
    }

    /// Checks, tells the plan and counts what was not counted yet.
    ///
    /// # Errors
    /// What ended the run. It is in the ledger.
    pub async fn prepare(
        &self,
        source: Connected<dyn Source>,
        target: Connected<dyn Target>,
        workspaces: &WorkspaceChoice,
    ) -> Result<Vec<Prepared>> {
        let prepared = self.check_and_count(source, target, workspaces).await;
        prepared.inspect_err(|error| self.enter(error))
    }

    async fn check_and_count(
        &self,
        mut source: Connected<dyn Source>,
        mut target: Connected<dyn Target>,
        workspaces: &WorkspaceChoice,
    ) -> Result<Vec<Prepared>> {
        let pairs = self.pairs(&*source.storage, workspaces).await?;
        let pairs = self.with_targets(&*target.storage, workspaces, pairs).await?;
        self.tell_plan(&source, &target, workspaces, &pairs);
        let mut warnings = source.storage.warnings();
        warnings.extend(target.storage.warnings());
        self.warn_of(warnings);
        let in_place = self
            .check_containers(&*source.storage, &*target.storage, &pairs)
            .await?;
        let mut prepared = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let is_in_place = in_place.contains(&pair.from);
            let pair = self.prepare_pair(&mut source, &mut target, pair).await?;
            prepared.push(Prepared { is_in_place, ..pair });
        }
        let total: u64 = prepared.iter().map(|pair| pair.count.total()).sum();
        if total == 0 && self.settings.fail_on_empty {
            return Err(Error::new(ErrorKind::Empty, "the source has nothing to migrate")
                .with_remedy("check source, workspace and types, or leave out --fail-on-empty"));
        }
        self.hint_if_empty(&mut source, workspaces).await;
        Ok(prepared)
    }

    /// The pairs of workspaces that a choice stands for. Which name of two the target has is still open.
    ///
    /// # Errors
    /// The source failed, or it has two caches of which LightRAG could mean either.
    pub async fn pairs(
        &self,
        source: &dyn Connection,
        workspaces: &WorkspaceChoice,
    ) -> Result<Vec<WorkspacePair>> {
        let WorkspaceChoice::Pairs(named) = workspaces else {
            let listing = self.ask(Side::Source, "listing workspaces", async || {
                source.workspaces().await
            });
            let same = |workspace: Workspace| WorkspacePair {
                from: workspace.clone(),
                to: workspace,
            };
            return Ok(listing.await?.into_iter().map(same).collect());
        };
        let mut pairs = Vec::with_capacity(named.len());
        for NamedPair { from, to } in named {
            pairs.push(WorkspacePair {
                from: self.settle(Side::Source, source, from, None).await?,
                to: to.workspace.clone(),
            });
        }
        Ok(pairs)
    }

    /// The same pairs, with the names that the target has.
    ///
    /// # Errors
    /// The target failed, or it has two caches of which LightRAG could mean either.
    pub async fn with_targets(
        &self,
        target: &dyn Connection,
        workspaces: &WorkspaceChoice,
        mut pairs: Vec<WorkspacePair>,
    ) -> Result<Vec<WorkspacePair>> {
        if let WorkspaceChoice::Pairs(named) = workspaces {
            for (pair, named) in pairs.iter_mut().zip(named) {
                let form = (named.from.origin == named.to.origin).then_some(&pair.from);
                pair.to = self.settle(Side::Target, target, &named.to, form).await?;
            }
        }
        Ok(pairs)
    }

    /// Decides between the name in `WORKSPACE` and the one that LightRAG's server makes of it: the one that holds a cache
    /// is meant. Where neither does, it is `otherwise`, which the other side has settled on, or the name as it is.
    ///
    /// # Errors
    /// The storage failed, or both hold a cache.
    pub async fn settle(
        &self,
        side: Side,
        storage: &dyn Connection,
        named: &NamedWorkspace,
        otherwise: Option<&Workspace>,
    ) -> Result<Workspace> {
        let as_it_is = &named.workspace;
        let of_server = as_it_is.as_server_names_it();
        if !named.origin.is_variable(WORKSPACE_VARIABLE) || of_server == *as_it_is {
            return Ok(as_it_is.clone());
        }
        let listing = self.ask(side, "listing workspaces", async || storage.workspaces().await);
        let mut caches = BTreeSet::new();
        for workspace in listing.await? {
            caches.insert(self.physical_location(side, storage, &workspace).await?);
        }
        let places = [
            self.physical_location(side, storage, as_it_is).await?,
            self.physical_location(side, storage, &of_server).await?,
        ];
        if places[0] == places[1] {
            return Ok(as_it_is.clone());
        }
        let chosen = match places.map(|place| caches.contains(&place)) {
            [true, true] => return Err(two_workspaces(side, named, &of_server)),
            [true, false] => as_it_is.clone(),
            [false, true] => of_server.clone(),
            [false, false] => otherwise.unwrap_or(as_it_is).clone(),
        };
        self.warn(format!(
            "{side}: {} is {as_it_is}, of which LightRAG's server makes {of_server}; the workspace is {chosen}, name it with \
             --{side}-workspace for another",
            named.origin
        ));
        Ok(chosen)
    }

    async fn physical_location(
        &self,
        side: Side,
        storage: &dyn Connection,
        workspace: &Workspace,
    ) -> Result<PhysicalLocation> {
        let what = match side {
            Side::Source => "looking at the source",
            Side::Target => "looking at the target",
        };
        self.ask(side, what, async || storage.physical_location(workspace).await)
            .await
    }

    /// A misspelt workspace is one without records; a list of those that are there helps to see it. Told once.
    pub async fn hint_if_empty(&self, source: &mut Connected<dyn Source>, workspaces: &WorkspaceChoice) {
        let has_records = source.counted.values().any(|counted| counted.count.total() > 0);
        if has_records || *workspaces == WorkspaceChoice::All || source.is_told_empty {
            return;
        }
        source.is_told_empty = true;
        let storage = &source.storage;
        let Ok(others) = self
            .ask(Side::Source, "listing workspaces", async || {
                storage.workspaces().await
            })
            .await
        else {
            return;
        };
        if !others.is_empty() {
            let names: Vec<String> = others.iter().map(ToString::to_string).collect();
            self.warn(format!(
                "the source has caches in these workspaces: {}{}",
                names.join(", "),
                meant_workspace(workspaces, &others)
            ));
        }
    }

    /// Warns of what was not warned of before.
    fn warn_of(&self, warnings: Vec<String>) {
        for warning in warnings {
            if !self.ledger.entries().warnings.contains(&warning) {
                self.warn(warning);
            }
        }
    }

    fn warn(&self, message: String) {
        self.reporter.warn(self.ledger, message);
    }

    /// Connects. A server that is not there, or hangs up on the first word, is not waited for; one that is busy is.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Arc<dyn Connection>> {
        let options = ConnectOptions {
            timeout: self.settings.timeout,
            concurrency: self.settings.concurrency,
            on_invalid: self.settings.on_invalid,
            salvage: self.settings.salvage,
        };
        // The storages keep to the time themselves, and know better what it means that it is over.
        let lenient = Retrier {
            timeout: self.settings.timeout.saturating_add(GRACE),
            ..self.retrier()
        };
        let purpose = RequestContext {
            what: "connecting",
            side: endpoint.values.side(),
            workspace: None,
            batch: None,
        };
        let connected = lenient.run(purpose, async || match endpoint.connect(&options).await {
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::ConnectionLost) => {
                Ok(Err(error))
            }
            result => result.map(Ok),
        });
        connected.await?.map_err(|error| error.on(endpoint.values.side()))
    }

    fn tell_plan(
        &self,
        source: &Connected<dyn Source>,
        target: &Connected<dyn Target>,
        workspaces: &WorkspaceChoice,
        pairs: &[WorkspacePair],
    ) {
        let of_source = workspace_origin(workspaces, pairs, |pair| &pair.from, |pair| &pair.from);
        let of_target = workspace_origin(workspaces, pairs, |pair| &pair.to, |pair| &pair.to);
        let settings = self.settings;
        let batch = settings.batch_for(target.connector.info().batch_bytes);
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        self.reporter.emit(Event::Plan(PlanEvent {
            source: source.storage.location(),
            target: target.storage.location(),
            settings: PlanSettings {
                source: source.settings.iter().cloned().chain(of_source).collect(),
                target: target.settings.iter().cloned().chain(of_target).collect(),
            },
            workspaces: pairs.to_vec(),
            types: settings.selection.clone(),
            options: PlanOptions {
                on_conflict: settings.on_conflict,
                on_invalid: settings.on_invalid,
                batch_records: batch.records.get() as u64,
                batch_bytes: batch.bytes.get() as u64,
                concurrency: settings.concurrency.get() as u64,
                retries: settings.retries as u64,
                timeout_ms: milliseconds(settings.timeout),
                max_duration_ms: settings.max_duration.map(milliseconds),
                max_errors: settings.max_errors.map(|most| most.to_string()),
                verify: settings.verify,
                checkpoint: file(&settings.checkpoint),
                resume: settings.resume,
                rejects: file(&settings.rejects),
                salvage: settings.salvage,
                hits: settings.lightrag.is_some(),
                rekey: settings.rekey,
                yes: settings.yes,
                fail_on_empty: settings.fail_on_empty,
            },
        }));
    }

    /// No container may be read and written, and none may be written twice: records of different workspaces would
    /// meet in it. Only `--rekey` adds to the place that is read; the workspaces of which that is so are answered.
    async fn check_containers(
        &self,
        source: &dyn Connection,
        target: &dyn Connection,
        pairs: &[WorkspacePair],
    ) -> Result<BTreeSet<Workspace>> {
        let mut in_place = BTreeSet::new();
        let mut read: BTreeMap<PhysicalLocation, &Workspace> = BTreeMap::new();
        let mut written: BTreeMap<PhysicalLocation, &Workspace> = BTreeMap::new();
        for pair in pairs {
            let from = self.physical_location(Side::Source, source, &pair.from).await?;
            let to = self.physical_location(Side::Target, target, &pair.to).await?;
            for (seen, container, workspace, side) in [
                (&mut read, &from, &pair.from, Side::Source),
                (&mut written, &to, &pair.to, Side::Target),
            ] {
                if let Some(other) = seen.insert(container.clone(), workspace) {
                    let place = &container.place;
                    let (message, remedy) = if other == workspace {
                        (
                            format!("the workspace {workspace} of the {side} is named twice: {place}"),
                            "name each workspace once a run",
                        )
                    } else {
                        (
                            format!(
                                "the workspaces {other} and {workspace} of the {side} are one and the same: {place}"
                            ),
                            "move them one at a time, or map them to names that stay apart",
                        )
                    };
                    return Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy));
                }
            }
        }
        for (both, from) in &read {
            let Some(to) = written.get(both) else {
                continue;
            };
            let is_one_pair = pairs.iter().any(|pair| pair.from == **from && pair.to == **to);
            if self.settings.rekey == Rekey::Off || !is_one_pair {
                let message = format!("source and target are the same place: {}", both.place);
                let remedy = "name another target, or another workspace on one side";
                return Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy));
            }
            in_place.insert((*from).clone());
        }
        // A run begins its files anew: the rejects of one run, read back by the next, must not be its rejects file.
        let files = [
            ("--rejects", &self.settings.rejects),
            ("--checkpoint", &self.settings.checkpoint),
        ];
        let real = |path: &Path| path.canonicalize().ok();
        let places = [source.location().location, target.location().location];
        let containers = read
            .keys()
            .chain(written.keys())
            .map(|container| &container.place);
        let caches: Vec<PathBuf> = containers
            .chain(&places)
            .filter_map(|place| real(place.as_ref()))
            .collect();
        for (flag, path) in files {
            let there = path.as_deref().and_then(real);
            if let Some(path) = there.filter(|path| caches.contains(path)) {
                let message = format!(
                    "{flag} is a file that is read or written as a cache: {}",
                    path.display()
                );
                let remedy = format!("name another file with {flag}");
                return Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy));
            }
        }
        Ok(in_place)
    }

    /// Opens a workspace of the source and counts it, unless that was done already.
    ///
    /// # Errors
    /// The source failed.
    pub async fn count_source<'s>(
        &self,
        source: &'s mut Connected<dyn Source>,
        workspace: &Workspace,
    ) -> Result<&'s Counted<dyn Source>> {
        if !source.counted.contains_key(workspace) {
            let storage = &source.storage;
            let opening = self.ask(Side::Source, "opening the source", async || {
                storage.source(workspace).await
            });
            let opened = opening.await?;
            let count = self.count(Side::Source, workspace, &*opened).await?;
            source
                .counted
                .insert(workspace.clone(), Counted { opened, count });
        }
        Ok(&source.counted[workspace])
    }

    /// Opens a workspace of the target and counts it, unless that was done already.
    ///
    /// # Errors
    /// The target failed.
    pub async fn count_target<'t>(
        &self,
        target: &'t mut Connected<dyn Target>,
        workspace: &Workspace,
    ) -> Result<&'t Counted<dyn Target>> {
        if !target.counted.contains_key(workspace) {
            let storage = &target.storage;
            let opening = self.ask(Side::Target, "opening the target", async || {
                storage.target(workspace).await
            });
            let opened = opening.await?;
            let count = self.count(Side::Target, workspace, &*opened.reader()).await?;
            target
                .counted
                .insert(workspace.clone(), Counted { opened, count });
        }
        Ok(&target.counted[workspace])
    }

    async fn prepare_pair(
        &self,
        source: &mut Connected<dyn Source>,
        target: &mut Connected<dyn Target>,
        pair: WorkspacePair,
    ) -> Result<Prepared> {
        let counted = self.count_source(source, &pair.from).await?;
        let (source, count) = (Arc::clone(&counted.opened), counted.count.clone());
        self.warn_of(source.warnings());
        let counted = self.count_target(target, &pair.to).await?;
        let (opened, before) = (Arc::clone(&counted.opened), counted.count.clone());
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
            target: opened,
            target_storage: Arc::clone(&target.storage),
            count,
            before,
            is_in_place: false,
            batch: self.settings.batch_for(target.connector.info().batch_bytes),
        })
    }

    async fn count(&self, side: Side, workspace: &Workspace, storage: &dyn Source) -> Result<Count> {
        let started = Instant::now();
        let told = AtomicU64::new(0);
        self.reporter.counting(side, workspace, 0);
        let progress = |scanned: u64| {
            self.reporter.counting(side, workspace, scanned);
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
        // A count may take as long as the cache is large, so it has no bound in time of its own.
        let unbounded = Retrier {
            timeout: Duration::MAX,
            ..self.retrier()
        };
        let purpose = RequestContext {
            what: "counting",
            side,
            workspace: Some(workspace),
            batch: None,
        };
        let selection = &self.settings.selection;
        let count = unbounded
            .run(purpose, async || storage.count(selection, &progress).await)
            .await?;
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

    /// Moves every workspace. The targets of all are prepared before the first one is written to, since preparing is
    /// also the last check.
    async fn migrate(&self, prepared: &[Prepared]) -> Result<Option<StopReason>> {
        let mut files = self.open_files(prepared).inspect_err(|error| self.enter(error))?;
        let mut told = BTreeSet::new();
        for pair in prepared.iter().filter(|pair| pair.has_records()) {
            if let Some(warning) = pair.target.warning()
                && told.insert(warning.clone())
            {
                self.warn(warning);
            }
            let preparing = self.ask(Side::Target, "preparing the target", async || {
                pair.target.prepare().await
            });
            preparing.await.inspect_err(|error| self.enter(error))?;
        }
        let retrier = self.retrier();
        let examiner = Examiner::of(self.settings).inspect_err(|error| self.enter(error))?;
        for (number, pair) in prepared.iter().enumerate() {
            if self.shutdown.reason().is_some() {
                return Ok(self.shutdown.reason());
            }
            // Nothing is made at the target for a workspace that has nothing to move.
            let done = files
                .progress
                .workspaces
                .get(number)
                .is_some_and(|progress| progress.complete);
            if done || !pair.has_records() {
                continue;
            }
            let hits = self.watch_hits(&examiner, pair);
            let stopped = pipeline::run(WorkspaceJob {
                hits: hits.clone(),
                pair: &pair.pair,
                number,
                source: Arc::clone(&pair.source),
                target: Arc::clone(&pair.target),
                selection: &self.settings.selection,
                expected: &pair.count,
                batch: pair.batch,
                concurrency: self.settings.concurrency,
                on_conflict: self.settings.on_conflict,
                max_errors: self.settings.max_errors,
                retrier: &retrier,
                reporter: self.reporter,
                ledger: self.ledger,
                rejects: files.rejects.as_ref(),
                checkpoint: files.checkpoint.as_ref(),
                progress: &mut files.progress,
                shutdown: self.shutdown,
            });
            let stopped = stopped.await;
            if let (Some(examiner), Some(hits)) = (&examiner, hits) {
                self.tell_hits(examiner, &pair.pair.from, hits.hits());
            }
            self.warn_of(pair.source.warnings());
            if let Some(reason) = stopped? {
                return Ok(Some(reason));
            }
        }
        files.progress.complete = true;
        if let Some(checkpoint) = &files.checkpoint {
            checkpoint
                .write(&files.progress)
                .inspect_err(|error| self.enter(error))?;
        }
        Ok(None)
    }

    /// Opens checkpoint and rejects file, and enters what an earlier run did.
    fn open_files(&self, prepared: &[Prepared]) -> Result<Files> {
        let settings = self.settings;
        let mut progress = None;
        let mut checkpoint = None;
        if let Some(path) = &settings.checkpoint {
            let (opened, before) = Checkpoint::open(path, &self.job_identity(prepared), settings.resume)?;
            progress = before;
            checkpoint = Some(opened);
            self.ledger.entries().checkpoint = Some(path.display().to_string());
        }
        let from = progress.as_ref().and_then(|progress| progress.rejects_bytes);
        let rejects = settings
            .rejects
            .as_ref()
            .map(|path| RejectsFile::open(path, from))
            .transpose()?;
        let progress = progress.unwrap_or_default();
        let mut entries = self.ledger.entries();
        entries.rejects = settings.rejects.as_ref().map(|path| path.display().to_string());
        entries.errors = progress.errors.clone();
        entries.batches = progress.batches.clone();
        for (report, before) in entries.workspaces.iter_mut().zip(&progress.workspaces) {
            if before.complete {
                report.totals = before.totals.clone();
                report.by_cache_type = before.by_cache_type.clone();
            }
        }
        drop(entries);
        Ok(Files {
            checkpoint,
            rejects,
            progress,
        })
    }

    /// What makes this job the same as the one that wrote a checkpoint.
    fn job_identity(&self, prepared: &[Prepared]) -> Vec<String> {
        let settings = self.settings;
        let entries = self.ledger.entries();
        let locations = [&entries.source, &entries.target];
        let mut identity: Vec<String> = locations
            .into_iter()
            .flatten()
            .map(|location| location.to_string())
            .collect();
        for pair in prepared {
            identity.extend([pair.pair.from.name().to_owned(), pair.pair.to.name().to_owned()]);
        }
        identity.extend(settings.selection.types().map(|t| t.to_string()));
        identity.push(format!("{:?} {:?}", settings.on_conflict, settings.on_invalid));
        if let (Rekey::Host | Rekey::Model, Some(lightrag)) = (settings.rekey, &settings.lightrag) {
            let version = lightrag.version.as_deref().unwrap_or("newest");
            identity.push(format!("{:?} {version} {}", settings.rekey, lightrag.extract));
        }
        identity
    }

    /// Compares every workspace.
    async fn verify(&self, prepared: &[Prepared]) -> Result<()> {
        let mut verification = Verification {
            level: self.settings.verify,
            numbers: VerifyNumbers::default(),
            first: Vec::new(),
        };
        let examiner = match self.settings.rekey {
            Rekey::Off => None,
            Rekey::Host | Rekey::Model => Examiner::of(self.settings)?,
        };
        for pair in prepared {
            // Opened anew, so that it is what it became that is compared.
            let opening = self.ask(Side::Target, "opening the target", async || {
                pair.target_storage.target(&pair.pair.to).await
            });
            let target = opening.await?;
            let comparison = Comparison {
                pair: &pair.pair,
                source: &pair.source,
                target: &target,
                selection: &self.settings.selection,
                examiner: examiner.as_ref(),
                expected: pair.count.total(),
                level: self.settings.verify,
                on_conflict: self.settings.on_conflict,
                batch: pair.batch,
                retrier: &self.retrier(),
                reporter: self.reporter,
            };
            let result = comparison.run(&mut verification).await;
            self.ledger.entries().verification = Some(verification.clone());
            self.warn_of(pair.source.warnings());
            result?;
        }
        let numbers = &verification.numbers;
        if numbers.differences() == 0 {
            return Ok(());
        }
        let message = format!(
            "of {} records that were compared, the target lacks {} and has {} with another value",
            numbers.compared, numbers.missing, numbers.different
        );
        Err(Error::new(ErrorKind::Differences, message)
            .with_remedy("look at verification.first in the report, then migrate again"))
    }
}

/// The files that a run keeps for later ones.
struct Files {
    checkpoint: Option<Checkpoint>,
    rejects: Option<RejectsFile>,
    progress: Progress,
}

/// A side that is connected to, and those of its workspaces that were opened and counted.
pub struct Connected<T: ?Sized> {
    connector: &'static dyn Connector,
    settings: Vec<SettingOrigin>,
    /// The storage.
    pub storage: Arc<dyn Connection>,
    counted: BTreeMap<Workspace, Counted<T>>,
    is_told_empty: bool,
}

impl<T: ?Sized> Connected<T> {
    fn new(endpoint: &Endpoint, storage: Arc<dyn Connection>) -> Self {
        Self {
            connector: endpoint.connector,
            settings: setting_origins(&endpoint.values),
            storage,
            counted: BTreeMap::new(),
            is_told_empty: false,
        }
    }
}

/// What the settings of a side are and where each came from.
fn setting_origins(values: &Values) -> Vec<SettingOrigin> {
    let told = values.iter().filter(|(field, value)| {
        // Of what nothing sets, only what LightRAG's configuration could have set.
        value.origin != Origin::Default || field.variable.is_some()
    });
    told.map(|(field, value)| SettingOrigin {
        name: field.name.to_owned(),
        value: values.printable(field.name, value).map(str::to_owned),
        origin: value.origin.to_string(),
    })
    .collect()
}

/// The workspace of a side as one of its settings, where one is named.
fn workspace_origin(
    workspaces: &WorkspaceChoice,
    pairs: &[WorkspacePair],
    of: impl Fn(&NamedPair) -> &NamedWorkspace,
    name: impl Fn(&WorkspacePair) -> &Workspace,
) -> Option<SettingOrigin> {
    let WorkspaceChoice::Pairs(named) = workspaces else {
        return None;
    };
    let ([named], [pair]) = (named.as_slice(), pairs) else {
        return None;
    };
    Some(SettingOrigin {
        name: "workspace".to_owned(),
        value: Some(name(pair).name().to_owned()),
        origin: of(named).origin.to_string(),
    })
}

/// A workspace that was opened and counted.
pub struct Counted<T: ?Sized> {
    opened: Arc<T>,
    /// Its selected records.
    pub count: Count,
}

/// A workspace that is ready to be moved.
pub struct Prepared {
    /// The workspace, and where it goes.
    pub pair: WorkspacePair,
    /// The selected records of the source.
    pub count: Count,
    /// Those that the target has already.
    pub before: Count,
    /// How large a batch of it is.
    pub batch: BatchLimit,
    /// Whether source and target are the same place, to which only copies are added.
    pub is_in_place: bool,
    pub(super) source: Arc<dyn Source>,
    target: Arc<dyn Target>,
    target_storage: Arc<dyn Connection>,
}

impl Prepared {
    /// Whether there may be something to move.
    pub fn has_records(&self) -> bool {
        self.count.total() > 0 || !self.count.exact
    }
}

/// Two caches, of which LightRAG's server uses one and a program with LightRAG as a library the other.
fn two_workspaces(side: Side, named: &NamedWorkspace, of_server: &Workspace) -> Error {
    let (name, origin) = (&named.workspace, &named.origin);
    let message = format!(
        "{origin} is {name}, of which LightRAG's server makes {of_server}, and the {side} holds a cache under both names"
    );
    Error::new(ErrorKind::Refused, message)
        .with_remedy(format!("name the one that is meant with --{side}-workspace"))
}

/// What of the workspaces that are there one without records may be a misspelling of.
fn meant_workspace(choice: &WorkspaceChoice, others: &[Workspace]) -> String {
    let WorkspaceChoice::Pairs(pairs) = choice else {
        return String::new();
    };
    let is_there = |name: &str| others.iter().any(|other| other.name() == name);
    for asked in pairs.iter().map(|pair| pair.from.workspace.name()) {
        if asked.contains(',') && asked.split(',').all(|name| is_there(name.trim())) {
            return "; name several with --workspace-map A=A --workspace-map B=B".to_owned();
        }
        let alike = others
            .iter()
            .find(|other| other.name().eq_ignore_ascii_case(asked));
        let known = others.iter().map(Workspace::name).filter(|name| !name.is_empty());
        if let Some(near) = alike.map(Workspace::name).or_else(|| nearest(asked, known)) {
            return format!("; did you mean {near}?");
        }
    }
    String::new()
}
