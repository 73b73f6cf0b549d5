//! Reading back what a target said it has written: its count, and some of the records.
//!
//! A target that answers "written" may have lost, changed or misplaced what it was given. After a workspace was moved, two
//! questions are asked of it, whatever `--verify` says (unless that says `off`):
//!
//! * Some of the written records, the same in every run, are read by their keys and compared field by field.
//! * The number of records it has is compared with the number it should have at least. Others may write to it, too, so a
//!   number alone decides nothing: where it is too small, every record of the source is looked up, and only those that are
//!   not there count.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::{
    pipeline::WorkspaceJob,
    retry::{RequestContext, Retrier},
    verify::{Comparison, Verdict, verdict},
    warn,
};
use crate::{
    model::{
        Error, ErrorKind, OnConflict, Result, Side, VerifyLevel, WorkspacePair, number_of, plural,
        record::{CacheKey, KeyDigest, Record},
    },
    report::{Difference, DifferenceKind, ReadBackReport, Verification, WarningEvent, WarningKind},
    storage::{Count, Target},
};

/// The fields in which a target may have what it was not given.
const TIMES: [&str; 2] = ["create_time", "update_time"];
/// How many records of a workspace are read back at most.
const MOST_RECORDS: usize = 256;
/// How many bytes they have together.
const MOST_BYTES: usize = 4 << 20;
/// A larger record is not read back: few of them would take the place of all others.
const LARGEST_RECORD: usize = MOST_BYTES / 4;

/// Records with the smallest digests of keys among all that were offered: as many as fit.
#[derive(Debug, Default)]
struct Sample {
    records: BTreeMap<KeyDigest, Record>,
    bytes: usize,
    /// The smallest digest that found no place. None behind it is taken any more, or the choice would depend on the order.
    end: Option<KeyDigest>,
}

impl Sample {
    /// Offers a record. One that was taken under the same key is replaced: the later value holds.
    fn offer(&mut self, record: &Record) {
        let digest = KeyDigest::of(record.key().as_str());
        if self.end.is_some_and(|end| digest >= end) {
            return;
        }
        if let Some(earlier) = self.records.remove(&digest) {
            self.bytes -= earlier.size();
        }
        if record.size() > LARGEST_RECORD {
            return;
        }
        self.bytes += record.size();
        self.records.insert(digest, record.detached());
        while self.records.len() > MOST_RECORDS || self.bytes > MOST_BYTES {
            let Some((last, dropped)) = self.records.pop_last() else {
                return;
            };
            self.bytes -= dropped.size();
            self.end = Some(last);
        }
    }
}

/// What is to be asked of a workspace of the target after it was written to.
#[derive(Debug)]
pub(crate) struct ReadBack {
    sample: Mutex<Sample>,
    /// The selected records that it had before; `None` where only an estimate is known.
    records_before: Option<u64>,
    /// All that the place had before, where the storage knows that.
    size_before: Option<u64>,
    /// What an earlier run of the same job had written.
    written_before: u64,
}

/// What the target should have at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    records: u64,
    /// How many of them came with this run.
    added: u64,
}

impl ReadBack {
    /// Before the first write.
    ///
    /// # Errors
    /// The target failed.
    pub(crate) async fn begin(
        pair: &WorkspacePair,
        target: &dyn Target,
        before: &Count,
        written_before: u64,
        retrier: &Retrier,
    ) -> Result<Self> {
        let context = RequestContext {
            what: "asking for the size of the target",
            side: Side::Target,
            workspace: Some(&pair.from),
            batch: None,
        };
        Ok(Self {
            sample: Mutex::default(),
            records_before: before.exact.then(|| before.total()),
            size_before: retrier.run(context, async || target.size().await).await?,
            written_before,
        })
    }

    /// Takes note of a record of which the target said that it is written.
    pub(crate) fn offer(&self, record: &Record) {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.offer(record);
    }

    /// Asks the target, which was finished.
    ///
    /// # Errors
    /// [`ErrorKind::Differences`]: it does not have what it said it has written. Or a side failed.
    pub(crate) async fn check(&self, job: &WorkspaceJob<'_>) -> Result<()> {
        let mut found = ReadBackReport::default();
        let checked = self.check_all(job, &mut found).await;
        let wrong = found.missing + found.different;
        let read = found.records;
        job.stats.add_read_back(found);
        checked?;
        if wrong == 0 {
            return Ok(());
        }
        let message = format!(
            "workspace {}: the target does not have all that it said it has written: of {} that {} read \
             back or looked up, {wrong} {} missing or {} another value",
            job.pair.to,
            number_of(read, "record"),
            plural(read, "was", "were"),
            plural(wrong, "is", "are"),
            plural(wrong, "has", "have"),
        );
        Err(Error::new(ErrorKind::Differences, message)
            .on(Side::Target)
            .in_workspace(&job.pair.from)
            .of_records(wrong)
            .with_remedy(
                "look at read_back.first in the report, and for what changes, removes or redirects records at the target",
            ))
    }

    async fn check_all(&self, job: &WorkspaceJob<'_>, found: &mut ReadBackReport) -> Result<()> {
        self.compare_sample(job, found).await?;
        if found.missing + found.different > 0 {
            return Ok(());
        }
        let expected = self.expected(job);
        let Some((is, should_be)) = self.shortage(job, expected).await? else {
            return Ok(());
        };
        look_up_all(job, found).await?;
        if found.missing == 0 {
            let message = format!(
                "workspace {}: the target has {} and should have {should_be} at least; every record of the source is \
                 there, so somebody else removed others",
                job.pair.to,
                number_of(is, "record")
            );
            let warning = WarningEvent::new(WarningKind::TargetChanged, message).in_workspace(&job.pair.from);
            warn(job.stats, job.reporter, warning.of_records(should_be - is));
        }
        Ok(())
    }

    async fn compare_sample(&self, job: &WorkspaceJob<'_>, found: &mut ReadBackReport) -> Result<()> {
        let sample = std::mem::take(&mut *self.sample.lock().unwrap_or_else(PoisonError::into_inner));
        let records: Vec<Record> = sample.records.into_values().collect();
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
            // These records were written, so no policy excuses another value.
            let (kind, fields) = match verdict(&*job.target, given, kept, OnConflict::Overwrite) {
                Verdict::Missing | Verdict::Unmovable => {
                    found.missing += 1;
                    (DifferenceKind::Missing, Vec::new())
                }
                // A target may set times of its own, as LightRAG does: no answer of a model is lost by that.
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
            let difference = Difference {
                workspace: job.pair.from.clone(),
                key: given.key().to_string(),
                kind,
                fields,
            };
            if let Some(file) = job.differences {
                file.add(&difference)?;
            }
            found.note(difference);
        }
        if with_other_times > 0 {
            let message = format!(
                "workspace {}: the target sets times of its own: {with_other_times} of {} that {} read back {} others \
                 than the source",
                job.pair.to,
                number_of(found.records, "record"),
                plural(found.records, "was", "were"),
                plural(with_other_times, "has", "have")
            );
            let warning = WarningEvent::new(WarningKind::Target, message).in_workspace(&job.pair.from);
            warn(job.stats, job.reporter, warning.of_records(with_other_times));
        }
        Ok(())
    }

    fn expected(&self, job: &WorkspaceJob<'_>) -> Expected {
        let seen = job.stats.workspace(job.number, |workspace| workspace.seen());
        let copies = job.hits.as_ref().map_or(0, |hits| hits.hits().total.rekeyed);
        let before = self.records_before.unwrap_or(0);
        let written = seen.written - self.written_before.min(seen.written);
        let records = match job.on_conflict {
            // All that was written was not there before.
            OnConflict::Skip | OnConflict::Fail => before + written,
            // What was written over was there already.
            OnConflict::Overwrite | OnConflict::Newer => {
                // A record that came again, since somebody changed it meanwhile, was written twice.
                let distinct = match job.expected.exact {
                    true => job.expected.total(),
                    false => 0,
                };
                before.max((seen.written + seen.skipped).min(distinct))
            }
        };
        let records = records + copies;
        Expected {
            records,
            added: match self.records_before {
                Some(before) => records - before,
                None => 0,
            },
        }
    }

    /// What the target has and should have at least, where that is more.
    async fn shortage(&self, job: &WorkspaceJob<'_>, expected: Expected) -> Result<Option<(u64, u64)>> {
        if let Some(before) = self.size_before {
            let asking = context(job, "asking for the size of the target");
            let size = job.retrier.run(asking, async || job.target.size().await).await?;
            if size.is_some_and(|size| size >= before.saturating_add(expected.added)) {
                return Ok(None);
            }
        }
        // A count may take as long as the cache is large, so it has no bound in time of its own.
        let unbounded = job.retrier.unbounded();
        let reader = job.target.reader();
        let counting = context(job, "counting the target");
        let count = unbounded
            .run(counting, async || reader.count(job.selection, &|_| ()).await)
            .await?;
        job.stats.workspace(job.number, |workspace| {
            workspace.set_target_records_after(count.total());
        });
        let is_short = count.exact && count.total() < expected.records;
        Ok(is_short.then_some((count.total(), expected.records)))
    }
}

/// Looks up every record that the source had when the run began. Only those that are missing count: one with another value
/// may have been changed at the source since it was moved.
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

    fn keys(sample: &Sample) -> Vec<KeyDigest> {
        sample.records.keys().copied().collect()
    }

    #[test]
    fn the_choice_does_not_depend_on_the_order() {
        for bytes in [10, 60_000] {
            let mut records: Vec<Record> = (0..300).map(|n| record(n, bytes + n % 7 * bytes)).collect();
            let mut forward = Sample::default();
            records.iter().for_each(|record| forward.offer(record));
            for _ in 0..30 {
                records.rotate_left(10);
                let mut other = Sample::default();
                records.iter().for_each(|record| other.offer(record));
                assert_eq!(keys(&forward), keys(&other));
            }
            assert!(!keys(&forward).is_empty());
            let total: usize = forward.records.values().map(Record::size).sum();
            assert_eq!(total, forward.bytes);
            assert!(forward.records.len() <= MOST_RECORDS && forward.bytes <= MOST_BYTES);
        }
    }

    #[test]
    fn a_later_value_takes_the_place_of_an_earlier_one_also_where_it_is_too_large() {
        let mut sample = Sample::default();
        sample.offer(&record(1, 10));
        sample.offer(&record(1, 20));
        assert_eq!(sample.records.values().next(), Some(&record(1, 20)));
        sample.offer(&record(1, LARGEST_RECORD));
        assert!(sample.records.is_empty() && sample.bytes == 0);
    }
}
