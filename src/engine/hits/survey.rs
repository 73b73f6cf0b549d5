//! Examining a workspace without moving it.

use std::{collections::VecDeque, sync::Arc};

use futures::future::BoxFuture;

use super::{Examined, Examiner};
use crate::{
    engine::retry::{RequestContext, Retrier},
    model::{Hits, Result, Selection, Side, Workspace, record::Record},
    storage::{Entry, Page, PageLimit, PageReader, Source},
    system::off_thread,
};

/// How many pages are examined at the same time, while the next one is read.
const AT_ONCE: usize = 2;

/// One workspace to examine.
pub(crate) struct Survey<'a> {
    pub(crate) examiner: &'a Arc<Examiner>,
    pub(crate) source: &'a Arc<dyn Source>,
    pub(crate) workspace: &'a Workspace,
    pub(crate) selection: &'a Selection,
    pub(crate) limit: PageLimit,
    pub(crate) retrier: &'a Retrier,
    /// The number of pages to read; `None` for all.
    pub(crate) pages: Option<usize>,
}

impl Survey<'_> {
    /// Examines the selected records, or those of the first pages.
    ///
    /// # Errors
    /// The source failed.
    pub(crate) async fn run(&self) -> Result<Hits> {
        let mut hits = Hits::default();
        let mut examining: VecDeque<BoxFuture<'static, Result<Examined>>> = VecDeque::new();
        let mut pages = Arc::clone(self.source).scan(self.selection, self.limit, None);
        let mut left = self.pages.unwrap_or(usize::MAX);
        while left > 0
            && let Some(page) = self.next_page(&mut *pages).await?
        {
            left -= 1;
            if examining.len() == AT_ONCE
                && let Some(first) = examining.pop_front()
            {
                hits.add(&first.await?.hits);
            }
            let examiner = Arc::clone(self.examiner);
            examining.push_back(Box::pin(off_thread("examining records", move || {
                let records = page.entries.into_iter().filter_map(|entry| match entry {
                    Entry::Record(record) => Some(record),
                    Entry::Invalid(_) => None,
                });
                examiner.examine(&records.collect::<Vec<Record>>(), |_| true)
            })));
        }
        for task in examining {
            hits.add(&task.await?.hits);
        }
        Ok(hits)
    }

    async fn next_page(&self, pages: &mut dyn PageReader) -> Result<Option<Page>> {
        let context = RequestContext {
            what: "reading a page",
            side: Side::Source,
            workspace: Some(self.workspace),
            batch: None,
        };
        self.retrier.run(context, async || pages.next_page().await).await
    }
}
