//! Reporting hits: whether LightRAG will find the records that are moved.

use std::sync::Arc;

use super::{
    hits::{Examiner, Survey, WorkspaceHits},
    plan::Prepared,
    run::Run,
};
use crate::{
    model::{ForetoldHits, Hits, Result, Side, Workspace},
    report::{Event, HitsEvent, RunOutcome},
};

/// How many workspaces a sample of hits covers.
const MOST_SAMPLED: usize = 10;

impl Run<'_> {
    /// Examines the records of a run that moves nothing, with `--hits`. `Some(_)` if the run was stopped.
    ///
    /// # Errors
    /// The source failed.
    pub(super) async fn survey(&self, prepared: &[Prepared]) -> Result<Option<RunOutcome>> {
        tokio::select! {
            () = self.shutdown.stopped() => Ok(Some(self.stopped())),
            surveyed = self.survey_all(prepared) => surveyed.map(|()| None),
        }
    }

    async fn survey_all(&self, prepared: &[Prepared]) -> Result<()> {
        let Some(examiner) = Examiner::of(self.settings)? else {
            return Ok(());
        };
        let pairs: Vec<(usize, &Prepared)> = prepared.iter().enumerate().collect();
        let mut rest = pairs.as_slice();
        while !rest.is_empty() {
            let (together, later) = rest.split_at(self.gather_next(Side::Source, rest).await?);
            for (_, pair) in together {
                let hits = self.examine(&examiner, pair, None).await?;
                self.tell_hits(&examiner, &pair.pair.from, hits);
            }
            rest = later;
        }
        Ok(())
    }

    /// Examines the first page of the first workspaces, without emitting events or changing the numbers of the run. `None`
    /// if the settings do not describe a LightRAG.
    ///
    /// # Errors
    /// The source failed.
    pub async fn sample_hits(&self, prepared: &[Prepared]) -> Result<Option<ForetoldHits>> {
        let Some(examiner) = Examiner::of(self.settings)? else {
            return Ok(None);
        };
        let mut hits = Hits::default();
        for pair in prepared.iter().take(MOST_SAMPLED) {
            hits.add(&self.examine(&examiner, pair, Some(1)).await?);
        }
        let lightrag = examiner.lightrag();
        Ok(Some(ForetoldHits { lightrag, hits }))
    }

    async fn examine(&self, examiner: &Arc<Examiner>, pair: &Prepared, pages: Option<usize>) -> Result<Hits> {
        let survey = Survey {
            examiner,
            source: &pair.source,
            workspace: &pair.pair.from,
            selection: &self.settings.selection,
            limit: pair.page_limit(),
            retrier: &self.retrier(),
            pages,
        };
        survey.run().await
    }

    /// Counts the hits of a workspace while it is moved, with `--hits`.
    pub(super) fn watch_hits(
        &self,
        examiner: &Option<Arc<Examiner>>,
        pair: &Prepared,
    ) -> Option<Arc<WorkspaceHits>> {
        let examiner = Arc::clone(examiner.as_ref()?);
        Some(WorkspaceHits::new(
            examiner,
            Arc::clone(&pair.source),
            pair.is_in_place,
        ))
    }

    /// Adds the hits of a workspace to the numbers of the run, and emits them.
    pub(super) fn tell_hits(&self, examiner: &Examiner, workspace: &Workspace, hits: Hits) {
        let lightrag = examiner.lightrag();
        self.stats.run(|run| {
            let none = || ForetoldHits {
                lightrag: lightrag.clone(),
                hits: Hits::default(),
            };
            run.hits.get_or_insert_with(none).hits.add(&hits);
        });
        self.reporter.emit(Event::Hits(HitsEvent {
            workspace: workspace.clone(),
            foretold: ForetoldHits { lightrag, hits },
        }));
    }
}
