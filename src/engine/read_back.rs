//! Reading back what a target confirmed: the number of records, and a sample of them.
//!
//! A target that confirms a write may still have lost, changed or misplaced records. After a workspace was moved, two
//! checks are made, unless `--verify off` is given:
//!
//! * A sample of the written records, the same in every run, is read by key and compared field by field. In a run with
//!   many workspaces, only a few records of each are read, or everything would be transferred a second time; of the
//!   others in the sample, the target is asked whether their keys exist.
//! * The number of records is compared with the expected minimum. Other processes may write to the target as well, so a
//!   number alone proves nothing: if it is too small, every record of the source is looked up, and only missing ones count.
//!   Where the target had nothing before and the sample is all that was written, the first check proves more, and the
//!   target is not asked for a number.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::{
    differences,
    pipeline::WorkspaceJob,
    plan::Prepared,
    retry::{RequestContext, Retrier},
    verify::{Comparison, Verdict, verdict},
    warn,
};
use crate::{
    model::{
        Error, ErrorKind, OnConflict, Result, Side, VerifyLevel, plural,
        record::{CacheKey, KeyDigest, Record},
    },
    report::{
        DifferenceKind, ReadBackReport, Verification, WarningEvent, WarningKind,
        style::{grouped, grouped_of},
    },
    storage::Size,
};

/// The fields that a target may set itself.
const TIMES: [&str; 2] = ["create_time", "update_time"];
/// The most records of a workspace in its sample.
const MOST_RECORDS: usize = 256;
/// How many of them are read, in each workspace after the first [`WORKSPACES_READ_IN_FULL`].
const FEWER_READ: usize = 4;
/// How many workspaces of a run have all of their sample read.
const WORKSPACES_READ_IN_FULL: usize = 100;
/// The most bytes of a workspace that are read.
const MOST_BYTES: usize = 4 << 20;
/// A larger record is not read: a few of them would leave no space for others.
const LARGEST_RECORD: usize = MOST_BYTES / 4;

/// The written records with the smallest key digests, as many as fit.
#[derive(Debug)]
struct Sample {
    /// The most records that are read.
    most_read: usize,
    /// Those that are read and compared.
    records: BTreeMap<KeyDigest, Record>,
    /// The bytes of these records.
    bytes: usize,
    /// The smallest digest of a record that did not fit among them. From there on none is taken, or the choice would
    /// depend on the order.
    records_end: Option<KeyDigest>,
    /// The keys of the other records, which are only looked up.
    keys: BTreeMap<KeyDigest, CacheKey>,
    /// The smallest digest that did not fit among either, likewise.
    end: Option<KeyDigest>,
}

impl Sample {
    /// The sample of the workspace with this number in the run, counted from 0.
    fn of_workspace(number: usize) -> Self {
        Self::new(match number {
            0..WORKSPACES_READ_IN_FULL => MOST_RECORDS,
            _ => FEWER_READ,
        })
    }

    fn new(most_read: usize) -> Self {
        Self {
            most_read,
            records: BTreeMap::new(),
            bytes: 0,
            records_end: None,
            keys: BTreeMap::new(),
            end: None,
        }
    }

    /// Offers a record. It replaces an earlier one with the same key.
    fn offer(&mut self, record: &Record) {
        let digest = KeyDigest::of(record.key().as_str());
        if self.end.is_some_and(|end| digest >= end) {
            return;
        }
        if let Some(earlier) = self.records.remove(&digest) {
            self.bytes -= earlier.size();
        }
        let is_beyond = self.records_end.is_some_and(|end| digest >= end);
        if is_beyond || record.size() > LARGEST_RECORD {
            self.keys.insert(digest, record.key().clone());
        } else {
            self.keys.remove(&digest);
            self.bytes += record.size();
            self.records.insert(digest, record.detached());
        }
        while self.records.len() > self.most_read || self.bytes > MOST_BYTES {
            let Some((last, record)) = self.take_last_record() else {
                break;
            };
            self.keys.insert(last, record.key().clone());
        }
        while self.records.len() + self.keys.len() > MOST_RECORDS {
            let last_key = self.keys.last_key_value().map(|(digest, _)| *digest);
            let last_record = self.records.last_key_value().map(|(digest, _)| *digest);
            self.end = last_key.max(last_record);
            if last_key > last_record {
                self.keys.pop_last();
            } else {
                self.take_last_record();
            }
        }
    }

    /// Takes out the record with the largest digest. None is taken in from there on.
    fn take_last_record(&mut self) -> Option<(KeyDigest, Record)> {
        let (last, record) = self.records.pop_last()?;
        self.bytes -= record.size();
        self.records_end = Some(last);
        Some((last, record))
    }

    /// Whether every offered record is in it.
    fn is_whole(&self) -> bool {
        self.end.is_none()
    }
}

/// What is checked in a workspace of the target after it was written.
#[derive(Debug)]
pub(crate) struct ReadBack {
    sample: Mutex<Sample>,
    /// The selected records that it had before; `None` if only an estimate is known.
    records_before: Option<u64>,
    /// The size that the target reported before, if it does.
    size_before: Option<Size>,
    /// Records that an earlier run of the same job wrote.
    written_before: u64,
    /// Whether the target had nothing before. A whole sample then proves that nothing is missing.
    was_empty: bool,
}

/// The minimum that the target should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    records: u64,
    /// How many of them this run added.
    added: u64,
}

impl ReadBack {
    /// Prepares the checks of the workspace with this number in the run, before the first write.
    ///
    /// # Errors
    /// The target failed.
    pub(crate) async fn begin(
        number: usize,
        prepared: &Prepared,
        written_before: u64,
        retrier: &Retrier,
    ) -> Result<Self> {
        let before = &prepared.before;
        let was_empty = before.exact && before.total() == 0 && written_before == 0;
        let context = RequestContext {
            what: "asking for the size of the target",
            side: Side::Target,
            workspace: Some(&prepared.pair.from),
            batch: None,
        };
        let target = &prepared.target;
        Ok(Self {
            sample: Mutex::new(Sample::of_workspace(number)),
            records_before: before.exact.then(|| before.total()),
            // Needed unless the sample is whole, which is not known before.
            size_before: retrier.run(context, async || target.size().await).await?,
            written_before,
            was_empty,
        })
    }

    /// Offers a record that the target confirmed.
    pub(crate) fn offer(&self, record: &Record) {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.offer(record);
    }

    /// Makes the checks, after the target was finished.
    ///
    /// # Errors
    /// [`ErrorKind::Differences`]: the target does not have what it confirmed. Or a side failed.
    pub(crate) async fn check(&self, job: &WorkspaceJob<'_>) -> Result<()> {
        let mut found = ReadBackReport::default();
        let checked = self.check_all(job, &mut found).await;
        let wrong = found.missing + found.different;
        let looked_up = found.records + found.keys;
        job.stats.add_read_back(found);
        checked?;
        if wrong == 0 {
            return Ok(());
        }
        let message = format!(
            "workspace {}: the target confirmed records that it does not have: of {} read back or looked up, {} {} missing \
             or different",
            job.pair.to,
            grouped_of(looked_up, "record"),
            grouped(wrong),
            plural(wrong, "is", "are")
        );
        Err(Error::new(ErrorKind::Differences, message)
            .on(Side::Target)
            .in_workspace(&job.pair.from)
            .of_records(wrong)
            .with_remedy(
                "see read_back.first in the report, and find out what changes, removes or redirects records on the target",
            ))
    }

    async fn check_all(&self, job: &WorkspaceJob<'_>, found: &mut ReadBackReport) -> Result<()> {
        let sample = {
            let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *sample, Sample::new(0))
        };
        let is_whole = sample.is_whole();
        compare_records(job, sample.records.into_values().collect(), found).await?;
        look_up_keys(job, sample.keys.into_values().collect(), found).await?;
        if found.missing + found.different > 0 {
            return Ok(());
        }
        if self.was_empty && is_whole {
            job.stats.workspace(job.number, |workspace| {
                workspace.set_target_records_after(found.records + found.keys);
            });
            return Ok(());
        }
        let expected = self.expected(job);
        let Some((is, should_be)) = self.shortage(job, expected).await? else {
            return Ok(());
        };
        look_up_all(job, found).await?;
        if found.missing == 0 {
            let message = format!(
                "workspace {}: the target has {} but should have at least {}; every record of the source is there, so \
                 another process has removed others",
                job.pair.to,
                grouped_of(is, "record"),
                grouped(should_be)
            );
            let warning = WarningEvent::new(WarningKind::TargetChanged, message).in_workspace(&job.pair.from);
            warn(job.stats, job.reporter, warning.of_records(should_be - is));
        }
        Ok(())
    }

    fn expected(&self, job: &WorkspaceJob<'_>) -> Expected {
        let seen = job.stats.workspace(job.number, |workspace| workspace.seen());
        let before = self.records_before.unwrap_or(0);
        let written = seen.written - self.written_before.min(seen.written);
        let records = match job.on_conflict {
            // Every written record is new.
            OnConflict::Skip | OnConflict::Fail => before + written,
            // Overwritten records existed before.
            OnConflict::Overwrite | OnConflict::Newer => {
                // A record that changed during the run may have been read and written twice.
                let distinct = match job.expected.exact {
                    true => job.expected.total(),
                    false => 0,
                };
                before.max((seen.written + seen.skipped).min(distinct))
            }
        };
        let records = records + copies(job);
        Expected {
            records,
            added: match self.records_before {
                Some(before) => records - before,
                None => 0,
            },
        }
    }

    /// The actual and the expected number of records, if the actual one is too small.
    async fn shortage(&self, job: &WorkspaceJob<'_>, expected: Expected) -> Result<Option<(u64, u64)>> {
        if let Some(before) = self.size_before {
            let asking = context(job, "asking for the size of the target");
            let size = job.retrier.run(asking, async || job.target.size().await).await?;
            if let Some(size) = size
                && size.entries >= before.entries.saturating_add(expected.added)
            {
                // The other shards of the workspace make it grow too.
                if size.grows_by_new_only && job.selection.shard().is_none() {
                    set_added(job, size.entries - before.entries);
                }
                return Ok(None);
            }
        }
        // The duration of a count grows with the cache, so it has no time limit.
        let unbounded = job.retrier.unbounded();
        let reader = job.target.reader();
        let counting = context(job, "counting the target");
        let count = unbounded
            .run(counting, async || reader.count(job.selection, &|_| ()).await)
            .await?;
        job.stats.workspace(job.number, |workspace| {
            workspace.set_target_records_after(count.total());
        });
        if let Some(before) = self.records_before.filter(|_| count.exact) {
            set_added(job, count.total().saturating_sub(before));
        }
        let is_short = count.exact && count.total() < expected.records;
        Ok(is_short.then_some((count.total(), expected.records)))
    }
}

/// Reads records back and compares them.
async fn compare_records(
    job: &WorkspaceJob<'_>,
    records: Vec<Record>,
    found: &mut ReadBackReport,
) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let keys: Vec<CacheKey> = records.iter().map(|record| record.key().clone()).collect();
    let context = context(job, "reading records back");
    let kept = job
        .retrier
        .run(context, async || job.target.read_back(&keys).await)
        .await?;
    found.records += records.len() as u64;
    let mut with_other_times = 0;
    for (given, kept) in records.iter().zip(kept) {
        // These records were written, so no policy explains a different value.
        let (kind, fields) = match verdict(&*job.target, given, kept, OnConflict::Overwrite) {
            Verdict::Missing | Verdict::Unmovable => {
                found.missing += 1;
                (DifferenceKind::Missing, Vec::new())
            }
            // A target may set times itself, as LightRAG does. No LLM response is lost.
            Verdict::Different(fields) if fields.iter().all(|field| TIMES.contains(&field.as_str())) => {
                with_other_times += 1;
                continue;
            }
            Verdict::Different(fields) => {
                found.different += 1;
                (DifferenceKind::Different, fields)
            }
            Verdict::Equal | Verdict::Kept(_) => continue,
        };
        let from = &job.pair.from;
        found.note(differences::found(
            from,
            given.key(),
            kind,
            fields,
            job.differences,
        )?);
    }
    if with_other_times > 0 {
        let message = format!(
            "workspace {}: the target sets {} itself: they differ from the source in {} of {} read back",
            job.pair.to,
            TIMES.join(" and "),
            grouped(with_other_times),
            grouped_of(records.len() as u64, "record")
        );
        let warning = WarningEvent::new(WarningKind::Target, message).in_workspace(&job.pair.from);
        warn(job.stats, job.reporter, warning.of_records(with_other_times));
    }
    Ok(())
}

/// Looks whether the target has these keys.
async fn look_up_keys(job: &WorkspaceJob<'_>, keys: Vec<CacheKey>, found: &mut ReadBackReport) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let context = context(job, "looking up written keys");
    let there = job
        .retrier
        .run(context, async || job.target.has(&keys).await)
        .await?;
    found.keys += keys.len() as u64;
    for (key, _) in keys.iter().zip(there).filter(|(_, is_there)| !is_there) {
        found.missing += 1;
        let (from, kind) = (&job.pair.from, DifferenceKind::Missing);
        found.note(differences::found(from, key, kind, Vec::new(), job.differences)?);
    }
    Ok(())
}

/// Enters how many records the workspace has more than before, without copies.
fn set_added(job: &WorkspaceJob<'_>, records: u64) {
    let added = records.saturating_sub(copies(job));
    job.stats
        .workspace(job.number, |workspace| workspace.set_added(added));
}

/// The copies under other keys that were added to the workspace.
fn copies(job: &WorkspaceJob<'_>) -> u64 {
    job.hits.as_ref().map_or(0, |hits| hits.hits().total.rekeyed)
}

/// Looks up every record that the source had when the run started. Only missing ones count: a different one may have been
/// changed in the source since it was moved.
async fn look_up_all(job: &WorkspaceJob<'_>, found: &mut ReadBackReport) -> Result<()> {
    let mut all = Verification::new(VerifyLevel::Full);
    let comparison = Comparison {
        pair: job.pair,
        source: &job.source,
        target: &job.target,
        selection: job.selection,
        examiner: None,
        expected: job.expected.total(),
        level: VerifyLevel::Full,
        counts_beyond: false,
        older_than: Some(job.stats.run(|run| run.started_at.as_second())),
        on_conflict: job.on_conflict,
        batch: job.batch,
        retrier: job.retrier,
        reporter: job.reporter,
        differences: job.differences,
    };
    comparison.run(&mut all).await?;
    found.records += all.numbers.compared;
    found.missing += all.numbers.missing;
    let missing = all
        .first
        .into_iter()
        .filter(|one| one.kind == DifferenceKind::Missing);
    missing.for_each(|difference| found.note(difference));
    Ok(())
}

fn context<'a>(job: &WorkspaceJob<'a>, what: &'a str) -> RequestContext<'a> {
    RequestContext {
        what,
        side: Side::Target,
        workspace: Some(&job.pair.from),
        batch: None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(n: usize, bytes: usize) -> Record {
        let value = format!(r#"{{"return": "{}"}}"#, "x".repeat(bytes));
        Record::new(
            CacheKey::from(format!("default:extract:{n}").as_str()),
            Bytes::from(value),
        )
        .unwrap()
    }

    /// The digests of the records that are read, and of those that are looked up.
    fn digests(sample: &Sample) -> (Vec<KeyDigest>, Vec<KeyDigest>) {
        let read = sample.records.keys().copied().collect();
        (read, sample.keys.keys().copied().collect())
    }

    #[test]
    fn the_choice_does_not_depend_on_the_order() {
        for (bytes, most_read) in [(10, MOST_RECORDS), (10, FEWER_READ), (60_000, MOST_RECORDS)] {
            // One in seven is too large to be read where they are large.
            let mut records: Vec<Record> = (0..300).map(|n| record(n, bytes + n % 7 * bytes * 3)).collect();
            let mut forward = Sample::new(most_read);
            records.iter().for_each(|record| forward.offer(record));
            for _ in 0..30 {
                records.rotate_left(10);
                let mut other = Sample::new(most_read);
                records.iter().for_each(|record| other.offer(record));
                assert_eq!(digests(&forward), digests(&other));
            }
            let (read, looked_up) = digests(&forward);
            assert_eq!(read.len() + looked_up.len(), MOST_RECORDS);
            assert!(!read.is_empty() && read.len() <= most_read);
            let total: usize = forward.records.values().map(Record::size).sum();
            assert!(total == forward.bytes && total <= MOST_BYTES);
            assert!(!forward.is_whole());
        }
    }

    #[test]
    fn of_a_small_workspace_every_record_is_read_or_looked_up() {
        for (number, most_read) in [
            (0, 256),
            (WORKSPACES_READ_IN_FULL - 1, 256),
            (WORKSPACES_READ_IN_FULL, 4),
        ] {
            let mut sample = Sample::of_workspace(number);
            (0..20).for_each(|n| sample.offer(&record(n, 10)));
            let (read, looked_up) = digests(&sample);
            assert_eq!(
                (read.len(), looked_up.len()),
                (most_read.min(20), 20 - most_read.min(20))
            );
            assert!(sample.is_whole());
        }
    }

    #[test]
    fn a_record_that_takes_the_space_of_many_is_only_looked_up() {
        let mut sample = Sample::new(MOST_RECORDS);
        sample.offer(&record(1, LARGEST_RECORD));
        sample.offer(&record(2, LARGEST_RECORD / 2));
        let (read, looked_up) = digests(&sample);
        assert_eq!((read.len(), looked_up.len()), (1, 1));
        assert!(sample.is_whole());
        assert_eq!(LARGEST_RECORD, 1 << 20);
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one_even_if_it_is_too_large() {
        let mut sample = Sample::new(MOST_RECORDS);
        sample.offer(&record(1, 10));
        sample.offer(&record(1, 20));
        assert_eq!(sample.records.values().next(), Some(&record(1, 20)));
        sample.offer(&record(1, LARGEST_RECORD));
        assert!(sample.records.is_empty() && sample.bytes == 0 && sample.keys.len() == 1);
        sample.offer(&record(1, 20));
        assert!(sample.records.len() == 1 && sample.keys.is_empty());
    }
}
