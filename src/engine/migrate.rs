//! Moving the workspaces one after another, with the files that a run keeps for later ones.

use std::sync::Arc;

use super::{
    checkpoint::{Checkpoint, Progress, WorkspaceProgress},
    differences::DifferencesFile,
    hits::Examiner,
    pipeline::{self, WorkspaceJob},
    plan::Prepared,
    read_back::ReadBack,
    rejects::RejectsFile,
    run::Run,
};
use crate::{
    model::{Rekey, Result, Side, VerifyLevel},
    report::word,
    system::shutdown::StopReason,
};

/// The files that a run keeps for later ones.
struct Files {
    checkpoint: Option<Checkpoint>,
    rejects: Option<RejectsFile>,
    /// What an earlier run did of each workspace.
    before: Vec<WorkspaceProgress>,
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
        for pair in prepared.iter().filter(|pair| pair.has_records()) {
            let preparing = self.ask(Side::Target, "preparing the target", async || {
                pair.target.prepare().await
            });
            preparing.await?;
            // Some is known only now.
            self.warn_of_target(&pair.pair.from, &*pair.target);
        }
        self.stats.set_moving(true);
        let moved = self.move_workspaces(prepared, &files, differences).await;
        self.stats.set_moving(false);
        if let Some(reason) = moved? {
            return Ok(Some(reason));
        }
        if let Some(checkpoint) = &files.checkpoint {
            let rejects_bytes = files.rejects.as_ref().map(RejectsFile::length);
            let done = self.stats.progress(prepared.len(), None, rejects_bytes);
            checkpoint.write(&Progress {
                complete: true,
                ..done
            })?;
        }
        Ok(None)
    }

    async fn move_workspaces(
        &self,
        prepared: &[Prepared],
        files: &Files,
        differences: Option<&DifferencesFile>,
    ) -> Result<Option<StopReason>> {
        let retrier = self.retrier();
        let examiner = Examiner::of(self.settings)?;
        for (number, pair) in prepared.iter().enumerate() {
            if self.shutdown.reason().is_some() {
                return Ok(self.shutdown.reason());
            }
            let before = files.before.get(number);
            // Nothing is made at the target for a workspace that has nothing to move.
            if before.is_some_and(|before| before.complete) || !pair.has_records() {
                continue;
            }
            let hits = self.watch_hits(&examiner, pair);
            let read_back = match self.settings.verify {
                VerifyLevel::Off => None,
                VerifyLevel::ReadBack | VerifyLevel::Sample | VerifyLevel::Full => {
                    let written = self.stats.workspace(number, |workspace| workspace.seen().written);
                    let (target, before) = (&*pair.target, &pair.before);
                    Some(ReadBack::begin(&pair.pair, target, before, written, &retrier).await?)
                }
            };
            let stopped = pipeline::run(WorkspaceJob {
                hits: hits.clone(),
                read_back: read_back.map(Arc::new),
                differences,
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
                stats: self.stats,
                rejects: files.rejects.as_ref(),
                checkpoint: files.checkpoint.as_ref(),
                resume: before.and_then(|before| Some((before.cursor.clone()?, before.batches))),
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
        Ok(None)
    }

    /// Opens checkpoint and rejects file, and takes over what an earlier run did.
    fn open_files(&self, prepared: &[Prepared]) -> Result<Files> {
        let settings = self.settings;
        let mut before = None;
        let mut checkpoint = None;
        if let Some(path) = &settings.checkpoint {
            let (opened, progress) = Checkpoint::open(path, &self.job_identity(prepared), settings.resume)?;
            before = progress;
            checkpoint = Some(opened);
            self.stats
                .run(|run| run.checkpoint = Some(path.display().to_string()));
        }
        let from = before.as_ref().and_then(|progress| progress.rejects_bytes);
        let rejects = settings
            .rejects
            .as_ref()
            .map(|path| RejectsFile::open(path, from))
            .transpose()?;
        let path = settings.rejects.as_ref();
        self.stats
            .run(|run| run.rejects = path.map(|path| path.display().to_string()));
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
