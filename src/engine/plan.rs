//! What a run is going to do: the plan, and the counts of both sides.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connect::{Connected, Counted, workspace_origin},
    retry::{RequestContext, Retrier},
    run::Run,
    stats::WorkspaceStats,
};
use crate::{
    model::{BatchLimit, LeftOut, Mode, Result, Side, Workspace, WorkspaceChoice, WorkspacePair},
    report::{
        CountEvent, CountProgressEvent, Event, PlanEvent, PlanOptions, PlanSettings, WarningEvent,
        WarningKind,
    },
    storage::{Connection, Count, Source, Target},
};

/// How often a long count says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

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
    pub(super) is_in_place: bool,
    pub(super) source: Arc<dyn Source>,
    pub(super) target: Arc<dyn Target>,
    pub(super) target_storage: Arc<dyn Connection>,
}

impl Prepared {
    /// Whether there may be something to move.
    pub fn has_records(&self) -> bool {
        self.count.total() > 0 || !self.count.exact
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

    pub(super) async fn prepare_pair(
        &self,
        source: &mut Connected<dyn Source>,
        target: &mut Connected<dyn Target>,
        pair: WorkspacePair,
    ) -> Result<Prepared> {
        let counted = self.count_source(source, &pair.from).await?;
        let (source, count) = (Arc::clone(&counted.opened), counted.count.clone());
        self.warn_of(source.warnings());
        if let Some(damage) = &count.damage {
            self.stats.run(|run| run.is_incomplete = true);
            let message = format!("workspace {}: {damage}", pair.from);
            self.warn(WarningEvent::new(WarningKind::Damaged, message).in_workspace(&pair.from));
        }
        let counted = self.count_target(target, &pair.to).await?;
        let (opened, before) = (Arc::clone(&counted.opened), counted.count.clone());
        if self.settings.mode != Mode::Verify && (count.total() > 0 || !count.exact) {
            let checking = self.ask(Side::Target, "checking the target", async || {
                opened.check_writable().await
            });
            checking.await?;
            self.warn_of_target(&pair.from, &*opened);
        }
        self.stats
            .add_workspace(WorkspaceStats::new(pair.clone(), count.clone(), before.total()));
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

    /// What is known of a target after it was checked or prepared.
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
    ) -> Result<Count> {
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
            by_cache_type: count.by_type.as_map().clone(),
            left_out: count.left_out.as_ref().map(LeftOut::list),
            exact: count.exact,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }));
        Ok(count)
    }
}
