//! Comparing two storages by value: every record of the source is looked up on the target.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use crate::{
    engine::{
        differences::{self, DifferencesFile},
        hits::Examiner,
        pipeline::{AHEAD, PAGE_BYTES},
        plan::{AT_ONCE, Prepared},
        retry::{RequestContext, Retrier},
        run::Run,
        slots::{Slots, all_ended},
    },
    model::{
        BatchLimit, Error, ErrorKind, Mode, OnConflict, Rekey, Result, Selection, Side, VerifyLevel,
        WorkspacePair,
        record::{CacheKey, KeyDigest, KeySet, Record, compare},
    },
    report::{
        DifferenceKind, Event, Reporter, Verification, VerifyEvent, VerifyNumbers,
        style::{grouped, grouped_of},
    },
    storage::{Entry, Page, PageLimit, PageReader, Source, Target, WriteOutcome},
    system::off_thread,
};

/// The comparison of one workspace.
pub(crate) struct Comparison<'a> {
    pub pair: &'a WorkspacePair,
    pub source: &'a Arc<dyn Source>,
    pub target: &'a Arc<dyn Target>,
    pub selection: &'a Selection,
    /// Determines the copies that `--rekey` adds; `None` without copies.
    pub examiner: Option<&'a Arc<Examiner>>,
    /// The number of records, as counted.
    pub expected: u64,
    pub level: VerifyLevel,
    /// Whether to count the records that only the target has.
    pub counts_beyond: bool,
    /// Compares only records last changed before this Unix time in seconds: later ones appeared during the run.
    pub older_than: Option<i64>,
    /// The policy of the writes: some policies rightly leave a different value on the target.
    pub on_conflict: OnConflict,
    /// How much is looked up at a time.
    pub batch: BatchLimit,
    pub retrier: &'a Retrier,
    pub reporter: &'a Reporter,
    /// Receives every difference.
    pub differences: Option<&'a DifferencesFile>,
}

/// The approximate number of records of a workspace in a sample.
const SAMPLE: u64 = 1000;
/// How many pages of records are looked up at the same time.
const LOOKED_UP_AT_ONCE: usize = 4;
/// How often a long verification emits its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl Comparison<'_> {
    /// Compares the records and adds the result to the verification. Differences are not an error.
    ///
    /// # Errors
    /// The source or the target failed.
    pub(crate) async fn run(&self, verification: &mut Verification) -> Result<()> {
        let mut numbers = VerifyNumbers::default();
        let started = Instant::now();
        let mut progress = VerifyProgress::default();
        let mut last_event = started;
        let mut found = Found::default();
        // Look up records while more are read.
        let looked_up = self
            .pages(Side::Source, Arc::clone(self.source))
            .map_ok(|page| self.look_up(page))
            .try_buffered(LOOKED_UP_AT_ONCE);
        let mut looked_up = std::pin::pin!(looked_up);
        while let Some(page) = looked_up.try_next().await? {
            progress.done += page.entries;
            // Invalid entries cannot be moved.
            numbers.invalid += page.invalid;
            numbers.compared += page.records.len() as u64;
            for (given, verdict) in page.records.iter().zip(page.verdicts) {
                if !matches!(verdict, Verdict::Missing | Verdict::Unmovable) {
                    found.add(given.key());
                }
                self.count(given, verdict, &mut numbers, verification)?;
            }
            if let Some(examiner) = self.examiner {
                let added = self.copies_of(examiner, page.records).await?;
                self.find_copies(&added, &mut numbers, verification).await?;
                added.iter().for_each(|key| found.add(key));
            }
            if last_event.elapsed() >= PROGRESS_EVERY {
                last_event = Instant::now();
                progress.elapsed = started.elapsed();
                self.emit(&numbers, progress, false);
            }
        }
        if self.level == VerifyLevel::Full && self.counts_beyond {
            numbers.beyond = Some(self.count_beyond(&found).await?);
        }
        progress.elapsed = started.elapsed();
        self.emit(&numbers, progress, true);
        verification.numbers.add(&numbers);
        Ok(())
    }

    fn pages(&self, side: Side, source: Arc<dyn Source>) -> impl Stream<Item = Result<Page>> + use<'_> {
        let pages = source.scan(self.selection, self.limit(), None);
        stream::try_unfold(pages, move |mut pages| async move {
            let page = self.next_page(side, &mut *pages).await?;
            Ok(page.map(|page| (page, pages)))
        })
    }

    /// Compares the records of a page with what the target has under their keys.
    async fn look_up(&self, page: Page) -> Result<LookedUp> {
        let entries = page.entries.len() as u64;
        let mut invalid = 0;
        let records = page.entries.into_iter().filter_map(|entry| match entry {
            Entry::Record(record) => Some(record),
            Entry::Invalid(entry) => {
                invalid += u64::from(self.is_in_sample(&entry.key));
                None
            }
        });
        let is_old = |record: &Record| self.older_than.is_none_or(|second| record.update_time() < second);
        let records = records.filter(|record| self.is_in_sample(record.key()) && is_old(record));
        let records: Vec<Record> = records.collect();
        let mut looked_up = LookedUp {
            records,
            verdicts: Vec::new(),
            entries,
            invalid,
        };
        if looked_up.records.is_empty() {
            return Ok(looked_up);
        }
        let keys: Vec<CacheKey> = looked_up
            .records
            .iter()
            .map(|record| record.key().clone())
            .collect();
        let target = self.target.reader();
        let purpose = self.purpose(Side::Target, "reading records of the target");
        let kept = self
            .retrier
            .run(purpose, async || target.get_many(&keys).await)
            .await?;
        // Comparing takes as long as reading, so it must not keep the next answers waiting.
        let (target, on_conflict) = (Arc::clone(self.target), self.on_conflict);
        off_thread("comparing records", move || {
            let pairs = looked_up.records.iter().zip(kept);
            looked_up.verdicts = pairs
                .map(|(given, kept)| verdict(&*target, given, kept, on_conflict))
                .collect();
            looked_up
        })
        .await
    }

    fn count(
        &self,
        given: &Record,
        verdict: Verdict,
        numbers: &mut VerifyNumbers,
        verification: &mut Verification,
    ) -> Result<()> {
        let (kind, fields) = match verdict {
            Verdict::Equal => {
                numbers.equal += 1;
                return Ok(());
            }
            Verdict::Unmovable => {
                numbers.unmovable += 1;
                return Ok(());
            }
            Verdict::Kept(fields) => {
                numbers.kept += 1;
                (DifferenceKind::Kept, fields)
            }
            Verdict::Missing => {
                numbers.missing += 1;
                (DifferenceKind::Missing, Vec::new())
            }
            Verdict::Different(fields) => {
                numbers.different += 1;
                (DifferenceKind::Different, fields)
            }
        };
        self.note(verification, given.key(), kind, fields)
    }

    fn note(
        &self,
        verification: &mut Verification,
        key: &CacheKey,
        kind: DifferenceKind,
        fields: Vec<String>,
    ) -> Result<()> {
        let found = differences::found(&self.pair.from, key, kind, fields, self.differences)?;
        verification.note(found);
        Ok(())
    }

    /// The keys under which `--rekey` adds copies of these records.
    async fn copies_of(&self, examiner: &Arc<Examiner>, records: Vec<Record>) -> Result<Vec<CacheKey>> {
        let examiner = Arc::clone(examiner);
        let target = Arc::clone(self.target);
        off_thread("examining records", move || {
            let copies = examiner.examine(&records, |_| true).copies.into_iter();
            // A record that the target cannot store was not copied.
            let copies = copies.filter(|copy| {
                let original = records.get(copy.of);
                original.is_some_and(|original| {
                    !matches!(target.preview(original), WriteOutcome::Rejected { .. })
                })
            });
            copies.map(|copy| copy.record.key().clone()).collect()
        })
        .await
    }

    /// Looks for copies on the target. Any record under such a key counts: LightRAG finds it.
    async fn find_copies(
        &self,
        keys: &[CacheKey],
        numbers: &mut VerifyNumbers,
        verification: &mut Verification,
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let target = self.target.reader();
        let purpose = self.purpose(Side::Target, "reading records of the target");
        let kept = self
            .retrier
            .run(purpose, async || target.get_many(keys).await)
            .await?;
        for (key, kept) in keys.iter().zip(kept) {
            if kept.is_some() {
                numbers.copies += 1;
                continue;
            }
            numbers.missing += 1;
            self.note(verification, key, DifferenceKind::Missing, Vec::new())?;
        }
        Ok(())
    }

    /// Counts the records that only the target has, without copies. If the target has as many records as were found in it,
    /// there are none, and it is not read.
    async fn count_beyond(&self, found: &Found) -> Result<u64> {
        let target = self.target.reader();
        // The duration of a count grows with the cache.
        let unbounded = self.retrier.unbounded();
        let purpose = self.purpose(Side::Target, "counting");
        let count = unbounded
            .run(purpose, async || target.count(self.selection, &|_| ()).await)
            .await?;
        if count.exact && count.total() == found.records {
            return Ok(0);
        }
        let given = self
            .pages(Side::Target, target)
            .map_ok(|page| self.given_for(page, found))
            .try_buffered(LOOKED_UP_AT_ONCE);
        given
            .try_fold(0, |beyond, missing| async move { Ok(beyond + missing) })
            .await
    }

    /// How many records of a page of the target the source does not have.
    async fn given_for(&self, page: Page, found: &Found) -> Result<u64> {
        let keys = page.entries.iter().map(|entry| entry.key().clone());
        let keys: Vec<CacheKey> = keys.filter(|key| !found.contains(key)).collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let purpose = self.purpose(Side::Source, "reading records of the source");
        let given = self
            .retrier
            .run(purpose, async || self.source.get_many(&keys).await)
            .await?;
        Ok(given.iter().filter(|entry| entry.is_none()).count() as u64)
    }

    /// Chooses a sample by the digests of keys, so that every run chooses the same.
    fn is_in_sample(&self, key: &CacheKey) -> bool {
        if self.level == VerifyLevel::Full || self.expected <= SAMPLE {
            return true;
        }
        let share = self.expected / SAMPLE;
        KeyDigest::of(key.as_str())
            .bits()
            .is_multiple_of(u128::from(share))
    }

    fn limit(&self) -> PageLimit {
        PageLimit {
            // Records that are looked up are in memory twice.
            records: self.batch.records.min(const { NonZeroUsize::new(1000).unwrap() }),
            bytes: self.batch.bytes.min(PAGE_BYTES),
            ahead: AHEAD,
        }
    }

    async fn next_page(&self, side: Side, pages: &mut dyn PageReader) -> Result<Option<Page>> {
        let purpose = self.purpose(side, "reading a page");
        self.retrier.run(purpose, async || pages.next_page().await).await
    }

    fn purpose<'a>(&'a self, side: Side, what: &'a str) -> RequestContext<'a> {
        RequestContext {
            what,
            side,
            workspace: Some(match side {
                Side::Source => &self.pair.from,
                Side::Target => &self.pair.to,
            }),
            batch: None,
        }
    }

    fn emit(&self, numbers: &VerifyNumbers, progress: VerifyProgress, complete: bool) {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let VerifyProgress { done, elapsed } = progress;
        let total = self.expected.max(done);
        let remaining = (done > 0).then(|| elapsed.mul_f64((total - done) as f64 / done as f64));
        self.reporter.emit(Event::Verify(VerifyEvent {
            workspace: self.pair.from.clone(),
            complete,
            numbers: numbers.clone(),
            done,
            total,
            elapsed_ms: milliseconds(elapsed),
            remaining_ms: match complete {
                true => Some(0),
                false => remaining.map(milliseconds),
            },
        }));
    }
}

impl Run<'_> {
    /// Compares every workspace.
    pub(super) async fn verify(
        &self,
        prepared: &[Prepared],
        differences: Option<&DifferencesFile>,
    ) -> Result<()> {
        let level = self.settings.verify;
        let examiner = match self.settings.rekey {
            Rekey::Off => None,
            Rekey::Host | Rekey::Model => Examiner::of(self.settings)?,
        };
        let slots = Slots::of(prepared.len());
        let pairs: Vec<(usize, &Prepared)> = prepared.iter().enumerate().collect();
        let mut rest = pairs.as_slice();
        while !rest.is_empty() {
            let gathered = tokio::try_join!(
                self.gather_next(Side::Source, rest),
                // Each is counted where all is compared.
                async {
                    match level {
                        VerifyLevel::Full => self.gather_next(Side::Target, rest).await,
                        _ => Ok(rest.len()),
                    }
                }
            )?;
            let (together, later) = rest.split_at(gathered.0.min(gathered.1));
            self.compare_together(together, &slots, examiner.as_ref(), differences)
                .await?;
            rest = later;
        }
        let numbers = self.stats.compared();
        if numbers.differences() == 0 {
            return Ok(());
        }
        let message = format!(
            "{} compared: {} missing, {} different",
            grouped_of(numbers.compared, "record"),
            grouped(numbers.missing),
            grouped(numbers.different)
        );
        let remedy = match self.settings.mode {
            Mode::Verify => {
                "see the differences in the report (verification.first), then run again without --verify-only"
            }
            Mode::Migrate | Mode::DryRun => {
                "see the differences in the report (verification.first), then run again"
            }
        };
        Err(Error::new(ErrorKind::Differences, message).with_remedy(remedy))
    }

    /// Compares workspaces, several small ones at a time. One that fails keeps others from beginning; those under way are
    /// compared to their end.
    async fn compare_together(
        &self,
        workspaces: &[(usize, &Prepared)],
        slots: &Slots,
        examiner: Option<&Arc<Examiner>>,
        differences: Option<&DifferencesFile>,
    ) -> Result<()> {
        let level = self.settings.verify;
        let compared = stream::iter(workspaces).map(async |(_, pair)| {
            let mut found = Verification::new(level);
            // With all of it, the target may be read to its end, too.
            let counts = [&*pair.count, &*pair.before];
            let read = if level == VerifyLevel::Full { 2 } else { 1 };
            let comparing = async || {
                let compared = self.compare(pair, examiner, differences, &mut found).await;
                self.warn_of(pair.source.warnings());
                compared
            };
            let compared = slots.work(&counts[..read], comparing).await;
            // At once, since the run may be stopped before an earlier workspace has ended.
            let numbers = std::mem::take(&mut found.numbers);
            self.stats
                .add_compared(level, |verification| verification.numbers.add(&numbers));
            (found, compared)
        });
        // In the order of the workspaces, so that the same differences come first in every run.
        let compared = compared.buffered(AT_ONCE).map(|(found, compared)| {
            self.stats
                .add_compared(level, |verification| verification.add(found));
            compared
        });
        all_ended(compared).await
    }

    async fn compare(
        &self,
        pair: &Prepared,
        examiner: Option<&Arc<Examiner>>,
        differences: Option<&DifferencesFile>,
        verification: &mut Verification,
    ) -> Result<()> {
        // Opened anew, so that it is what it became that is compared.
        let opening = self.ask(Side::Target, "opening the target", async || {
            pair.target_storage.target(&pair.pair.to).await
        });
        let target = opening.await?;
        let comparison = Comparison {
            pair: &pair.pair,
            source: &pair.source,
            target: &target,
            selection: &self.settings.selection,
            examiner,
            expected: pair.count.total(),
            level: self.settings.verify,
            counts_beyond: true,
            older_than: None,
            on_conflict: self.settings.on_conflict,
            batch: pair.batch,
            retrier: &self.retrier(),
            reporter: self.reporter,
            differences,
        };
        comparison.run(verification).await
    }
}

/// The progress of a comparison.
#[derive(Clone, Copy, Debug, Default)]
struct VerifyProgress {
    done: u64,
    elapsed: Duration,
}

/// A page of the source that was compared.
struct LookedUp {
    /// The records to compare.
    records: Vec<Record>,
    /// The results, in the order of the records.
    verdicts: Vec<Verdict>,
    /// The number of entries in the page.
    entries: u64,
    /// How many entries to compare are not records.
    invalid: u64,
}

/// The keys that were found on the target.
#[derive(Default)]
struct Found {
    keys: KeySet,
    /// The number of these keys.
    records: u64,
}

impl Found {
    fn add(&mut self, key: &CacheKey) {
        self.records += u64::from(self.keys.insert(KeyDigest::of(key.as_str())));
    }

    fn contains(&self, key: &CacheKey) -> bool {
        self.keys.contains(KeyDigest::of(key.as_str()))
    }
}

/// The result of comparing a record.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The target has it, equal in every field.
    Equal,
    /// The target has different values in these fields, which the policy keeps.
    Kept(Vec<String>),
    /// The target cannot store it, and does not have it.
    Unmovable,
    /// The target does not have it.
    Missing,
    /// The target has different values in these fields.
    Different(Vec<String>),
}

/// Compares a record with what the target has under its key.
pub(crate) fn verdict(
    target: &dyn Target,
    given: &Record,
    kept: Option<Entry>,
    on_conflict: OnConflict,
) -> Verdict {
    let preview = target.preview(given);
    let (sanitized, dropped_fields) = match &preview {
        WriteOutcome::Written(changes) => (changes.sanitized.as_slice(), changes.dropped_fields.as_slice()),
        _ => (&[][..], &[][..]),
    };
    let kept = match kept {
        None if matches!(preview, WriteOutcome::Rejected { .. }) => return Verdict::Unmovable,
        None => return Verdict::Missing,
        Some(Entry::Invalid(_)) => return Verdict::Different(vec!["(not a record)".to_owned()]),
        Some(Entry::Record(kept)) => kept,
    };
    let fields = compare::differing_fields(given, &kept, sanitized, dropped_fields);
    let was_to_be_kept = match on_conflict {
        OnConflict::Overwrite | OnConflict::Fail => false,
        OnConflict::Skip => true,
        OnConflict::Newer => kept.update_time() >= given.update_time(),
    };
    match fields {
        fields if fields.is_empty() => Verdict::Equal,
        fields if was_to_be_kept => Verdict::Kept(fields),
        fields => Verdict::Different(fields),
    }
}
