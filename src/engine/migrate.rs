//! Moving the workspaces, small ones several at a time, with the files that a run keeps for later ones.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    checkpoint::{Checkpoint, Progress, WorkspaceProgress},
    differences::DifferencesFile,
    hits::Examiner,
    pipeline::{self, WorkspaceJob},
    plan::{AT_ONCE, Prepared},
    read_back::ReadBack,
    rejects::RejectsFile,
    retry::Retrier,
    run::Run,
    slots::{Slots, all_ended},
    throttle::Throttle,
};
use crate::{
    model::{OnSide, Rekey, Result, Side, VerifyLevel},
    report::{
        WarningEvent, WarningKind,
        style::{grouped, grouped_of},
        word,
    },
    storage::window::Window,
    system::shutdown::StopReason,
};

/// The files that a run keeps for later ones.
struct Files {
    checkpoint: Option<Checkpoint>,
    rejects: Option<RejectsFile>,
    /// What an earlier run did of each workspace.
    before: Vec<WorkspaceProgress>,
}

/// What the workspaces of a run share while they are moved.
struct Moving<'a> {
    files: &'a Files,
    differences: Option<&'a DifferencesFile>,
    retrier: Retrier,
    examiner: Option<Arc<Examiner>>,
    window: Arc<Window>,
    throttle: Option<Arc<Throttle>>,
    slots: Slots,
}

impl Run<'_> {
    /// Moves every workspace. The targets of all are prepared before the first one is written to, since preparing is
    /// also the last check.
    pub(super) async fn migrate(
        &self,
        prepared: &[Prepared],
        differences: Option<&DifferencesFile>,
    ) -> Result<Option<StopReason>> {
        let files = self.open_files(prepared)?;
        let to_move = || prepared.iter().filter(|pair| pair.has_records());
        let mut to_prepare = to_move();
        if let (Some(first), Some(source)) = (prepared.first(), self.stats.location(Side::Source)) {
            let begin = async || first.target_storage.begin(&source).await;
            self.ask(Side::Target, "preparing the target", begin).await?;
        }
        // What all share, such as a table, is made for the first one.
        if let Some(first) = to_prepare.next() {
            self.prepare_target(first).await?;
        }
        let preparing = stream::iter(to_prepare).map(|pair| self.prepare_target(pair));
        preparing.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        // Some is known only now.
        to_move().for_each(|pair| self.warn_of_target(&pair.pair.from, &*pair.target));
        self.stats.set_moving(true);
        let moved = self.move_workspaces(prepared, &files, differences).await;
        let published = self.publish(prepared, moved).await;
        self.stats.set_moving(false);
        let saved = match published {
            Ok(None) => self.save_complete(&files, prepared.len()),
            _ => self.save_deferred(&files),
        };
        match (published, saved) {
            (Err(error), Err(other)) => Err(error.and(other)),
            (published, saved) => published.and_then(|reason| saved.map(|()| reason)),
        }
    }

    /// Writes the checkpoint of a job that is done.
    fn save_complete(&self, files: &Files, workspaces: usize) -> Result<()> {
        let (Some(checkpoint), rejects) = (&files.checkpoint, files.rejects.as_ref()) else {
            return Ok(());
        };
        let last = workspaces.saturating_sub(1);
        let snapshot = self.stats.snapshot(last, None, rejects.map(RejectsFile::length));
        let progress = snapshot.map(|at| self.stats.progress_at(at)).unwrap_or_default();
        let complete = Progress {
            complete: true,
            ..progress
        };
        checkpoint.write(&complete, rejects)
    }

    /// Writes a checkpoint with the workspaces that have finished since the last one.
    fn save_deferred(&self, files: &Files) -> Result<()> {
        match &files.checkpoint {
            Some(checkpoint) => checkpoint.save_deferred(self.stats, files.rejects.as_ref(), self.reporter),
            None => Ok(()),
        }
    }

    /// Makes visible what the target shows only as a whole, if all of it was written. Otherwise nothing of it was.
    async fn publish(
        &self,
        prepared: &[Prepared],
        moved: Result<Option<StopReason>>,
    ) -> Result<Option<StopReason>> {
        let Some(storage) = prepared.first().map(|pair| &pair.target_storage) else {
            return moved;
        };
        let published = match moved {
            Ok(None) => {
                // A file of gigabytes may have to be copied.
                let retrier = self.retrier().unbounded();
                let finished = retrier
                    .once("putting the target in place", storage.finish())
                    .await;
                finished.on(Side::Target).map(|()| None).map_err(|error| {
                    let is_abandoned = error.is_temporary() && self.shutdown.reason().is_some();
                    if is_abandoned { error.abandoned() } else { error }
                })
            }
            other => other,
        };
        if storage.is_published_as_a_whole() && !matches!(published, Ok(None)) {
            self.stats.revoke_all();
        }
        published
    }

    async fn prepare_target(&self, pair: &Prepared) -> Result<()> {
        self.ask(Side::Target, "preparing the target", async || {
            pair.target.prepare().await
        })
        .await
    }

    async fn move_workspaces(
        &self,
        prepared: &[Prepared],
        files: &Files,
        differences: Option<&DifferencesFile>,
    ) -> Result<Option<StopReason>> {
        let Some(first) = prepared.first() else {
            return Ok(None);
        };
        let moving = Moving {
            files,
            differences,
            retrier: self.retrier(),
            examiner: Examiner::of(self.settings)?,
            window: pipeline::window(self.settings.concurrency, first.batch, first.in_flight_bytes),
            throttle: self.settings.rate_limit.map(Throttle::new),
            // A checkpoint knows how far one workspace came.
            slots: match files.checkpoint {
                Some(_) => Slots::one_at_a_time(),
                None => Slots::of(prepared.len()),
            },
        };
        // Nothing is made at the target for a workspace that has nothing to move.
        let to_move: Vec<(usize, &Prepared)> = prepared
            .iter()
            .enumerate()
            .filter(|(number, pair)| {
                let before = files.before.get(*number);
                pair.has_records() && !before.is_some_and(|before| before.complete)
            })
            .collect();
        let mut rest = to_move.as_slice();
        while !rest.is_empty() {
            if self.shutdown.reason().is_some() {
                return Ok(self.shutdown.reason());
            }
            let gathered = tokio::select! {
                () = self.shutdown.stopped() => return Ok(self.shutdown.reason()),
                gathered = self.gather_next(Side::Source, rest) => gathered?,
            };
            let (together, later) = rest.split_at(gathered);
            if let Some(reason) = self.move_together(together, &moving).await? {
                return Ok(Some(reason));
            }
            rest = later;
        }
        Ok(None)
    }

    /// Moves workspaces, several small ones at a time. One that fails keeps others from beginning; those under way are
    /// moved to their end.
    async fn move_together(
        &self,
        workspaces: &[(usize, &Prepared)],
        moving: &Moving<'_>,
    ) -> Result<Option<StopReason>> {
        let moved = stream::iter(workspaces).map(async |(number, pair)| {
            let moving_one = async || self.move_one(*number, pair, moving).await;
            moving.slots.work(&[&pair.count], moving_one).await
        });
        all_ended(moved.buffer_unordered(AT_ONCE)).await?;
        Ok(self.shutdown.reason())
    }

    async fn move_one(&self, number: usize, pair: &Prepared, moving: &Moving<'_>) -> Result<()> {
        if self.shutdown.reason().is_some() {
            return Ok(());
        }
        let hits = self.watch_hits(&moving.examiner, pair);
        let before = moving.files.before.get(number);
        let job = WorkspaceJob {
            hits: hits.clone(),
            read_back: None,
            differences: moving.differences,
            pair: &pair.pair,
            number,
            source: Arc::clone(&pair.source),
            target: Arc::clone(&pair.target),
            selection: &self.settings.selection,
            expected: &pair.count,
            batch: pair.batch,
            window: &moving.window,
            throttle: moving.throttle.clone(),
            concurrency: self.settings.concurrency,
            on_conflict: self.settings.on_conflict,
            max_errors: self.settings.max_errors,
            retrier: &moving.retrier,
            reporter: self.reporter,
            stats: self.stats,
            rejects: moving.files.rejects.as_ref(),
            checkpoint: moving
                .files
                .checkpoint
                .as_ref()
                .filter(|_| !pair.target_storage.is_published_as_a_whole()),
            resume: before.filter(|before| before.cursor.is_some()),
            shutdown: self.shutdown,
        };
        let read_back = self.begin_read_back(number, pair, &moving.retrier);
        let stopped = pipeline::run(job, read_back).await;
        if let (Some(examiner), Some(hits)) = (&moving.examiner, hits) {
            self.tell_hits(examiner, &pair.pair.from, hits.hits());
        }
        self.warn_of(pair.source.warnings());
        stopped.map(drop)
    }

    /// What is read back of a workspace after it was written; `None` with `--verify off`.
    async fn begin_read_back(
        &self,
        number: usize,
        pair: &Prepared,
        retrier: &Retrier,
    ) -> Result<Option<ReadBack>> {
        match self.settings.verify {
            VerifyLevel::Off => Ok(None),
            VerifyLevel::ReadBack | VerifyLevel::Sample | VerifyLevel::Full => {
                let written = self.stats.workspace(number, |workspace| workspace.seen().written);
                ReadBack::begin(number, pair, written, retrier).await.map(Some)
            }
        }
    }

    /// Opens checkpoint and rejects file, and takes over what an earlier run did.
    fn open_files(&self, prepared: &[Prepared]) -> Result<Files> {
        let settings = self.settings;
        let mut before = None;
        let mut checkpoint = None;
        if let Some(path) = &settings.checkpoint {
            let (opened, progress) = Checkpoint::open(path, &self.job_identity(prepared), settings.resume)?;
            if settings.resume && progress.is_none() && !path.exists() {
                let message = format!(
                    "no checkpoint at {} yet: the run starts from the beginning",
                    path.display()
                );
                self.warn(WarningEvent::new(WarningKind::Configuration, message));
            }
            before = progress;
            if before.is_none() {
                opened.reset()?;
            }
            checkpoint = Some(opened);
            self.stats
                .run(|run| run.checkpoint = Some(path.display().to_string()));
        }
        let mut rejects = None;
        if let Some(path) = &settings.rejects {
            let from = before.as_ref().and_then(|progress| progress.job.rejects_bytes);
            let opened = RejectsFile::open(path, from)?;
            let file = path.display().to_string();
            if let Some(expected) = from.filter(|from| *from > opened.length()) {
                let message = format!(
                    "the rejects file {file} has {} of the {} that the checkpoint counts: records that earlier runs \
                     rejected are missing in it",
                    grouped(opened.length()),
                    grouped_of(expected, "byte")
                );
                self.warn(WarningEvent::new(WarningKind::Configuration, message));
            }
            rejects = Some(opened);
            self.stats.run(|run| run.rejects = Some(file));
        }
        if let Some(before) = &before {
            self.stats.resume(before);
        }
        Ok(Files {
            checkpoint,
            rejects,
            before: before.map(|before| before.workspaces).unwrap_or_default(),
        })
    }

    /// What makes this job the same as the one that wrote a checkpoint: each part with a name of its own, in words that stay
    /// from version to version.
    fn job_identity(&self, prepared: &[Prepared]) -> Vec<String> {
        let settings = self.settings;
        let sides = [Side::Source, Side::Target];
        let mut identity: Vec<String> = sides
            .into_iter()
            .filter_map(|side| Some(format!("{side}={}", self.stats.location(side)?)))
            .collect();
        for Prepared { pair, .. } in prepared {
            identity.push(format!("from={}", pair.from.name()));
            identity.push(format!("to={}", pair.to.name()));
        }
        identity.extend(
            settings
                .selection
                .names()
                .into_iter()
                .map(|name| format!("type={name}")),
        );
        identity.push(format!("on_conflict={}", word(&settings.on_conflict)));
        identity.push(format!("on_invalid={}", word(&settings.on_invalid)));
        identity.extend(settings.selection.shard().map(|shard| format!("shard={shard}")));
        if let (Rekey::Host | Rekey::Model, Some(lightrag)) = (settings.rekey, &settings.lightrag) {
            let version = lightrag.version.as_deref().unwrap_or("newest");
            identity.push(format!(
                "rekey={} for {version} {}",
                word(&settings.rekey),
                lightrag.extract
            ));
        }
        identity
    }
}
