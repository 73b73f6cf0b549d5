//! The pages of a file, made on a thread for blocking work.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::WORK;
use crate::{
    model::{Error, Result, Selection},
    storage::{Cursor, Page, PageLimit, PageReader},
};

/// A source that reads a file.
#[async_trait]
pub(crate) trait PagedFile: Send + Sync + 'static {
    /// Opens the file and starts reading it; `None` if there is none. May be called again if it failed.
    async fn begin(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Result<Option<SentPages>>;
}

/// The pages of a file, which is opened for the first page.
pub(crate) struct FilePages<S> {
    source: Arc<S>,
    selection: Selection,
    limit: PageLimit,
    from: Option<Cursor>,
    pages: Option<SentPages>,
}

impl<S: PagedFile> FilePages<S> {
    /// The selected records, from a cursor on.
    pub(crate) fn new(source: Arc<S>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> Self {
        Self {
            source,
            selection: selection.clone(),
            limit,
            from,
            pages: None,
        }
    }
}

#[async_trait]
impl<S: PagedFile> PageReader for FilePages<S> {
    async fn next_page(&mut self) -> Result<Option<Page>> {
        let pages = match &mut self.pages {
            Some(pages) => pages,
            none => {
                let source = Arc::clone(&self.source);
                let begun = source.begin(&self.selection, self.limit, self.from.clone());
                let Some(begun) = begun.await? else {
                    return Ok(None);
                };
                none.insert(begun)
            }
        };
        pages.next_page().await
    }
}

/// The pages that blocking work sends: one is on its way while the next is made.
pub(crate) struct SentPages(mpsc::Receiver<Result<Page>>);

impl SentPages {
    /// Begins the work.
    pub(crate) fn of(work: impl FnOnce(&mpsc::Sender<Result<Page>>) -> Result<()> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let failed = sender.clone();
        let work = tokio::task::spawn_blocking(move || {
            if let Err(error) = work(&sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        // A panic must not look like the end of the pages.
        tokio::spawn(async move {
            if let Err(error) = work.await {
                let _ = failed.send(Err(Error::panicked(WORK).caused_by(error))).await;
            }
        });
        Self(receiver)
    }
}

#[async_trait]
impl PageReader for SentPages {
    async fn next_page(&mut self) -> Result<Option<Page>> {
        self.0.recv().await.transpose()
    }
}
