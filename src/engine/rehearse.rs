//! A dry run: counts what a run would move, and how much of it the target already has.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    plan::{AT_ONCE, Prepared},
    retry::RequestContext,
    run::Run,
};
use crate::{
    model::{Result, Side, record::CacheKey},
    report::Rehearsal,
};

impl Run<'_> {
    /// Looks up every record on the target. If the target is empty, nothing is read.
    ///
    /// # Errors
    /// A side failed.
    pub(super) async fn rehearse(&self, prepared: &[Prepared]) -> Result<()> {
        let mut to_look_up = Vec::new();
        for (number, pair) in prepared.iter().enumerate() {
            let target_is_empty = pair.before.exact && pair.before.total() == 0;
            if pair.count.exact && (target_is_empty || pair.count.total() == 0) {
                let all_are_new = Rehearsal {
                    to_move: pair.count.total(),
                    new: pair.count.total(),
                    existing: 0,
                };
                self.stats
                    .workspace(number, |workspace| workspace.set_rehearsal(all_are_new));
            } else {
                to_look_up.push((number, pair));
            }
        }
        let mut rest = to_look_up.as_slice();
        while !rest.is_empty() {
            let (together, later) = rest.split_at(self.gather_next(Side::Source, rest).await?);
            let looked_up = stream::iter(together).map(|(number, pair)| async move {
                let rehearsal = self.look_up(pair).await?;
                self.stats
                    .workspace(*number, |workspace| workspace.set_rehearsal(rehearsal));
                Ok(())
            });
            looked_up.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            rest = later;
        }
        Ok(())
    }

    async fn look_up(&self, pair: &Prepared) -> Result<Rehearsal> {
        let context = |side, what| RequestContext {
            what,
            side,
            workspace: Some(match side {
                Side::Source => &pair.pair.from,
                Side::Target => &pair.pair.to,
            }),
            batch: None,
        };
        let (retrier, target) = (self.retrier(), pair.target.reader());
        let mut rehearsal = Rehearsal::default();
        let mut pages = Arc::clone(&pair.source).scan(&self.settings.selection, pair.page_limit(), None);
        let reading = context(Side::Source, "reading a page");
        let looking = context(Side::Target, "looking up records of the target");
        while let Some(page) = retrier.run(reading, async || pages.next_page().await).await? {
            let keys: Vec<CacheKey> = page.entries.iter().map(|entry| entry.key().clone()).collect();
            if keys.is_empty() {
                continue;
            }
            let found = retrier
                .run(looking, async || target.contains(&keys).await)
                .await?;
            rehearsal.to_move += keys.len() as u64;
            rehearsal.existing += found.iter().filter(|is_there| **is_there).count() as u64;
            rehearsal.new = rehearsal.to_move - rehearsal.existing;
            self.reporter
                .counting(Side::Target, &pair.pair.to, rehearsal.to_move);
        }
        Ok(rehearsal)
    }
}
