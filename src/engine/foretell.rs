//! What a run tells of hits: whether LightRAG will find what is moved.

use std::sync::Arc;

use super::{
    hits::{Examiner, Survey, WorkspaceHits},
    pipeline::{AHEAD, PAGE_BYTES},
    plan::Prepared,
    run::Run,
};
use crate::{
    model::{ForetoldHits, Hits, Result, Workspace},
    report::{Event, HitsEvent, RunOutcome},
    storage::PageLimit,
};

impl Run<'_> {
    /// Examines what is not moved, where that was asked for. `Some(_)` where somebody stopped it.
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
        for pair in prepared {
            let survey = Survey {
                examiner: &examiner,
                source: &pair.source,
                workspace: &pair.pair.from,
                selection: &self.settings.selection,
                limit: PageLimit {
                    records: pair.batch.records,
                    bytes: pair.batch.bytes.min(PAGE_BYTES),
                    ahead: AHEAD,
                },
                retrier: &self.retrier(),
            };
            let hits = survey.run().await?;
            self.tell_hits(&examiner, &pair.pair.from, hits);
        }
        Ok(())
    }

    /// Where the hits of a workspace are counted while it is moved, where that was asked for.
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

    /// Tells of the hits of a workspace, and enters them.
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
