//! Reading pages and forming batches.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::batcher::{Batch, Batcher};
use crate::{
    engine::retry::{RequestContext, Retrier},
    model::{Result, Selection, Side, Workspace},
    storage::{Cursor, Page, PageLimit, PageReader, Source},
};

/// Reads one workspace.
pub(super) struct Reader {
    pub(super) source: Arc<dyn Source>,
    pub(super) workspace: Workspace,
    pub(super) selection: Selection,
    pub(super) limit: PageLimit,
    pub(super) retrier: Retrier,
}

impl Reader {
    /// Reads from a cursor and sends batches, until the source ends or the receiver is dropped.
    pub(super) async fn read(
        self,
        from: Option<Cursor>,
        mut batcher: Batcher,
        batches: mpsc::Sender<Result<Batch>>,
    ) {
        let mut pages = Arc::clone(&self.source).scan(&self.selection, self.limit, from);
        loop {
            let page = match self.next_page(&mut *pages).await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) => {
                    // Send what was read before the error.
                    if let Some(batch) = batcher.rest() {
                        let _ = batches.send(Ok(batch)).await;
                    }
                    let _ = batches.send(Err(error)).await;
                    return;
                }
            };
            for batch in batcher.add(page) {
                if batches.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        }
        if let Some(batch) = batcher.rest() {
            let _ = batches.send(Ok(batch)).await;
        }
    }

    /// The next page, with retries.
    async fn next_page(&self, pages: &mut dyn PageReader) -> Result<Option<Page>> {
        let purpose = RequestContext {
            what: "reading a page",
            side: Side::Source,
            workspace: Some(&self.workspace),
            batch: None,
        };
        let mut tries = self.retrier.tries(purpose);
        loop {
            let next = self.retrier.once(purpose.what, pages.next_page()).await;
            if let Some(page) = tries.next(next).await? {
                return Ok(page);
            }
        }
    }
}
