//! The plan of a run, and the counts of both sides.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    connect::{Connected, Counted, workspace_origin},
    pipeline::{AHEAD, PAGE_BYTES},
    retry::RequestContext,
    run::Run,
    stats::{TargetBefore, WorkspaceStats},
};
use crate::{
    model::{BatchLimit, LeftOut, Mode, OnConflict, Result, Side, Workspace, WorkspaceChoice, WorkspacePair},
    report::{
        CountEvent, CountProgressEvent, Event, PlanEvent, PlanOptions, PlanSettings, WarningEvent,
        WarningKind,
    },
    storage::{Connection, Count, PageLimit, Source, Target},
};

/// How often a long count emits its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How many workspaces are prepared, and how many small ones are moved or compared, at the same time.
pub(super) const AT_ONCE: usize = 16;

/// A workspace that is ready to be moved.
pub struct Prepared {
    /// The workspace on both sides.
    pub pair: WorkspacePair,
    /// The selected records of the source.
    pub count: Arc<Count>,
    /// The records of the selected types that the target already has.
    pub before: Arc<Count>,
    /// The size of a batch.
    pub batch: BatchLimit,
    /// The most bytes that the target writes at the same time.
    pub(super) in_flight_bytes: NonZeroUsize,
    /// Whether source and target are the same place, so that only copies are added.
    pub(super) is_in_place: bool,
    pub(super) source: Arc<dyn Source>,
    pub(super) target: Arc<dyn Target>,
    pub(super) source_storage: Arc<dyn Connection>,
    pub(super) target_storage: Arc<dyn Connection>,
}

/// A pair whose sides were opened and counted.
struct OpenedPair {
    pair: WorkspacePair,
    source: Arc<dyn Source>,
    target: Arc<dyn Target>,
    count: Arc<Count>,
    before: Arc<Count>,
}

impl Prepared {
    /// Whether there may be records to move.
    pub fn has_records(&self) -> bool {
        self.count.may_have_records()
    }

    /// The page size for reading the source without writing.
    pub(super) fn page_limit(&self) -> PageLimit {
        PageLimit {
            records: self.batch.records,
            bytes: self.batch.bytes.min(PAGE_BYTES),
            ahead: AHEAD,
        }
    }
}

impl Run<'_> {
    pub(super) fn tell_plan(
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
        self.reporter.emit(Event::Plan(PlanEvent {
            source: source.storage.location(),
            target: target.storage.location(),
            settings: PlanSettings {
                source: source.settings.iter().cloned().chain(of_source).collect(),
                target: target.settings.iter().cloned().chain(of_target).collect(),
            },
            workspaces: pairs.to_vec(),
            types: settings.selection.clone(),
            options: self.options(batch),
        }));
    }

    pub(super) fn options(&self, batch: BatchLimit) -> PlanOptions {
        let settings = self.settings;
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        PlanOptions {
            on_conflict: settings.on_conflict,
            on_invalid: settings.on_invalid,
            batch_records: batch.records.get() as u64,
            batch_bytes: batch.bytes.get() as u64,
            concurrency: settings.concurrency.get() as u64,
            shard: settings.selection.shard().map(|shard| shard.to_string()),
            rate_limit: settings.rate_limit.map(|rate| rate.to_string()),
            retries: settings.retries as u64,
            timeout_ms: milliseconds(settings.timeout),
            max_duration_ms: settings.max_duration.map(milliseconds),
            max_errors: settings.max_errors.map(|most| most.to_string()),
            verify: settings.verify,
            checkpoint: file(&settings.checkpoint),
            resume: settings.resume,
            rejects: file(&settings.rejects),
            differences: file(&settings.differences),
            salvage: settings.salvage,
            hits: settings.lightrag.is_some(),
            rekey: settings.rekey,
            yes: settings.yes,
            fail_on_empty: settings.fail_on_empty,
            allow_missing: settings.allow_missing,
        }
    }

    /// Opens and counts a workspace of the source, unless that was done before.
    ///
    /// # Errors
    /// The source failed.
    pub async fn count_source<'s>(
        &self,
        source: &'s mut Connected<dyn Source>,
        workspace: &Workspace,
    ) -> Result<&'s Counted<dyn Source>> {
        if !source.counted.contains_key(workspace) {
            let (opened, count, event) = self.open_source(source, workspace).await?;
            self.reporter.emit(Event::Count(event));
            source
                .counted
                .insert(workspace.clone(), Counted { opened, count });
        }
        Ok(&source.counted[workspace])
    }

    /// Opens and counts a workspace of the target, unless that was done before.
    ///
    /// # Errors
    /// The target failed.
    pub async fn count_target<'t>(
        &self,
        target: &'t mut Connected<dyn Target>,
        workspace: &Workspace,
    ) -> Result<&'t Counted<dyn Target>> {
        if !target.counted.contains_key(workspace) {
            let (opened, count, event) = self.open_target(target, workspace).await?;
            self.reporter.emit(Event::Count(event));
            target
                .counted
                .insert(workspace.clone(), Counted { opened, count });
        }
        Ok(&target.counted[workspace])
    }

    async fn open_source(
        &self,
        source: &Connected<dyn Source>,
        workspace: &Workspace,
    ) -> Result<(Arc<dyn Source>, Arc<Count>, CountEvent)> {
        let opening = self.ask(Side::Source, "opening the source", async || {
            source.storage.source(workspace).await
        });
        let opened = opening.await?;
        let (count, event) = self.count(Side::Source, workspace, &*opened).await?;
        Ok((opened, Arc::new(count), event))
    }

    async fn open_target(
        &self,
        target: &Connected<dyn Target>,
        workspace: &Workspace,
    ) -> Result<(Arc<dyn Target>, Arc<Count>, CountEvent)> {
        let opening = self.ask(Side::Target, "opening the target", async || {
            target.storage.target(workspace).await
        });
        let opened = opening.await?;
        let (count, event) = self.count(Side::Target, workspace, &*opened.reader()).await?;
        Ok((opened, Arc::new(count), event))
    }

    /// Opens, counts and checks workspaces, several at a time.
    ///
    /// # Errors
    /// The source or the target failed.
    pub(super) async fn prepare_pairs(
        &self,
        source: &mut Connected<dyn Source>,
        target: &mut Connected<dyn Target>,
        pairs: Vec<WorkspacePair>,
    ) -> Result<Vec<Prepared>> {
        let mut prepared: Vec<Prepared> = Vec::with_capacity(pairs.len());
        let from: Vec<Workspace> = pairs.iter().map(|pair| pair.from.clone()).collect();
        let to: Vec<Workspace> = pairs.iter().map(|pair| pair.to.clone()).collect();
        let mut pairs = pairs.into_iter();
        while pairs.len() > 0 {
            let done = prepared.len();
            let gathered = tokio::try_join!(
                self.gather(Side::Source, &*source.storage, &from[done..]),
                self.gather(Side::Target, &*target.storage, &to[done..]),
            )?;
            let together = pairs.by_ref().take(gathered.0.min(gathered.1).max(1));
            let looked = stream::iter(together)
                .map(|pair| self.open_pair(source, target, pair))
                .buffered(AT_ONCE);
            let mut looked = std::pin::pin!(looked);
            while let Some((events, looked)) = looked.next().await {
                // Emit the counts in the order of the pairs, even those of a pair that failed afterwards.
                events
                    .into_iter()
                    .for_each(|event| self.reporter.emit(Event::Count(event)));
                prepared.push(self.enter(looked?, source, target));
            }
        }
        for pair in &prepared {
            let (opened, count) = (Arc::clone(&pair.source), Arc::clone(&pair.count));
            let counted = || Counted { opened, count };
            source
                .counted
                .entry(pair.pair.from.clone())
                .or_insert_with(counted);
        }
        Ok(prepared)
    }

    /// Has a side look for prepared workspaces at once, where it can. Gives how many of them are to be read next, from
    /// the first on: at least one, if there is one.
    pub(super) async fn gather_next(&self, side: Side, pairs: &[(usize, &Prepared)]) -> Result<usize> {
        let Some((_, first)) = pairs.first() else {
            return Ok(0);
        };
        let storage = match side {
            Side::Source => &first.source_storage,
            Side::Target => &first.target_storage,
        };
        let names = pairs.iter().map(|(_, pair)| match side {
            Side::Source => pair.pair.from.clone(),
            Side::Target => pair.pair.to.clone(),
        });
        let names: Vec<Workspace> = names.collect();
        let gathered = self.gather(side, &**storage, &names).await?;
        Ok(gathered.clamp(1, pairs.len()))
    }

    /// Has a storage look for many workspaces at once, where it can. Gives how many, from the first on.
    async fn gather(&self, side: Side, storage: &dyn Connection, workspaces: &[Workspace]) -> Result<usize> {
        let purpose = RequestContext::of(side, "looking for workspaces");
        self.retrier()
            .unbounded()
            .run(purpose, async || storage.gather(workspaces).await)
            .await
    }

    /// Opens and counts both sides of a pair, at the same time. Returns the counts even if a later step failed.
    async fn open_pair(
        &self,
        source: &Connected<dyn Source>,
        target: &Connected<dyn Target>,
        pair: WorkspacePair,
    ) -> (Vec<CountEvent>, Result<OpenedPair>) {
        let mut events = Vec::new();
        let looked = self.open_both(source, target, pair, &mut events).await;
        (events, looked)
    }

    async fn open_both(
        &self,
        source: &Connected<dyn Source>,
        target: &Connected<dyn Target>,
        pair: WorkspacePair,
        events: &mut Vec<CountEvent>,
    ) -> Result<OpenedPair> {
        let opening_source = source.known_or(&pair.from, self.open_source(source, &pair.from));
        let opening_target = target.known_or(&pair.to, self.open_target(target, &pair.to));
        // An error of the source comes first, however fast the target is.
        let (opened, opened_target) = tokio::try_join!(opening_source, async { Ok(opening_target.await) })?;
        let (source, count, event) = opened;
        events.extend(event);
        let (target, before, event) = opened_target?;
        events.extend(event);
        if self.settings.mode != Mode::Verify && count.may_have_records() {
            let checking = self.ask(Side::Target, "checking the target", async || {
                target.check_writable().await
            });
            checking.await?;
        }
        Ok(OpenedPair {
            pair,
            source,
            target,
            count,
            before,
        })
    }

    /// Adds an opened pair to the run, with its warnings and numbers.
    fn enter(
        &self,
        looked: OpenedPair,
        source: &Connected<dyn Source>,
        target: &Connected<dyn Target>,
    ) -> Prepared {
        let (pair, count) = (looked.pair, looked.count);
        self.warn_of(looked.source.warnings());
        if let Some(damage) = &count.damage {
            self.stats.run(|run| run.is_incomplete = true);
            let message = format!("workspace {}: {damage}", pair.from);
            self.warn(WarningEvent::new(WarningKind::Damaged, message).in_workspace(&pair.from));
        }
        if self.settings.mode != Mode::Verify && count.may_have_records() {
            self.warn_of_target(&pair.from, &*looked.target);
        }
        self.stats.add_workspace(WorkspaceStats::new(
            pair.clone(),
            Arc::clone(&count),
            TargetBefore {
                records: looked.before.total(),
                is_exact: looked.before.exact,
                may_be_replaced: matches!(
                    self.settings.on_conflict,
                    OnConflict::Overwrite | OnConflict::Newer
                ),
            },
        ));
        Prepared {
            pair,
            source: looked.source,
            target: looked.target,
            source_storage: Arc::clone(&source.storage),
            target_storage: Arc::clone(&target.storage),
            count,
            before: looked.before,
            is_in_place: false,
            batch: self.settings.batch_for(target.connector.info().batch_bytes),
            in_flight_bytes: target.connector.info().in_flight_bytes,
        }
    }

    /// Emits the warning that a target has after it was checked or prepared.
    pub(super) fn warn_of_target(&self, workspace: &Workspace, target: &dyn Target) {
        if let Some(warning) = target.warning() {
            self.warn(WarningEvent::new(WarningKind::Target, warning).in_workspace(workspace));
        }
    }

    pub(super) async fn count(
        &self,
        side: Side,
        workspace: &Workspace,
        storage: &dyn Source,
    ) -> Result<(Count, CountEvent)> {
        let started = Instant::now();
        let last_tick = AtomicU64::new(0);
        self.reporter.counting(side, workspace, 0);
        let progress = |scanned: u64| {
            self.reporter.counting(side, workspace, scanned);
            let tick = started.elapsed().as_millis() / PROGRESS_EVERY.as_millis();
            let tick = u64::try_from(tick).unwrap_or(u64::MAX);
            if last_tick.swap(tick, Ordering::Relaxed) < tick {
                self.reporter.emit(Event::CountProgress(CountProgressEvent {
                    side,
                    workspace: workspace.clone(),
                    scanned,
                }));
            }
        };
        let purpose = RequestContext {
            what: "counting",
            side,
            workspace: Some(workspace),
            batch: None,
        };
        let selection = &self.settings.selection;
        let count = self
            .retrier()
            .unbounded()
            .run(purpose, async || storage.count(selection, &progress).await)
            .await?;
        let event = CountEvent {
            side,
            workspace: workspace.clone(),
            records: count.total(),
            by_cache_type: count.by_type.to_map(),
            left_out: count.left_out.as_ref().map(LeftOut::list),
            exact: count.exact,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Ok((count, event))
    }
}
