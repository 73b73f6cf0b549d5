//! A first pass over a file: the number of records of each type, the repeated keys, and the places of a shard's entries.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    codec::{CacheFile, Position},
    places::Places,
    salvage::WholeEntries,
};
use crate::{
    model::{
        Error, Result, Selection,
        record::{CacheKey, KeyDigest},
    },
    storage::{
        Count, Progress,
        repeated::{Repeated, Superseded},
    },
};

/// The result of the first pass. Its memory does not grow with the number of records, only by a bit per 256 bytes of the
/// file, by the repeated keys, and by the places of a shard's records.
#[derive(Debug)]
pub(super) struct Survey {
    /// The selection that was counted.
    pub(super) selection: Selection,
    /// Entries; a repeated key counts once.
    pub(super) count: Count,
    /// If a shard is selected, the places of its entries.
    pub(super) places: Option<Arc<Places>>,
    /// For repeated keys, the position of the last one, whose value counts.
    superseded: Superseded<u64>,
}

/// The size of a small entry in bytes, for the size of the filter. With smaller entries, more keys are checked twice.
const ENTRY_BYTES: u64 = 8 << 10;

/// The number of entries between two progress updates.
const PROGRESS_EVERY: u64 = 1 << 14;

/// Smaller parts of a file are not worth a separate thread.
const PART_BYTES: u64 = 4 << 20;

/// More threads would only wait for memory.
const MOST_PARTS: usize = 4;

impl Survey {
    /// Scans a file; with `salvage`, its intact entries.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub(super) fn of(
        file: &Arc<CacheFile>,
        selection: &Selection,
        salvage: bool,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let size = file.metadata()?.len();
        let look = || Look {
            file,
            selection,
            salvage,
            seen: Mutex::new(Repeated::among(size / ENTRY_BYTES)),
            scanned: AtomicU64::new(0),
            progress,
        };
        let mut whole = look();
        // The start of the damage is found by reading everything before it.
        let starts = if salvage {
            Vec::new()
        } else {
            part_starts(file, size)?
        };
        let mut found = whole.in_parts(&starts)?;
        if found.is_none() {
            // A supposed start of an entry was none.
            whole = look();
            found = whole.in_parts(&[])?;
        }
        let found = found.unwrap_or_else(|| Part::of(selection));
        let mut survey = Self {
            selection: selection.clone(),
            count: found.count,
            places: found.places.map(Arc::new),
            superseded: Superseded::default(),
        };
        let seen = whole.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        survey.look_again(file, salvage, &seen)?;
        Ok(survey)
    }

    /// Whether a later entry with the same key replaces the one at this position.
    pub(super) fn is_superseded(&self, key: &str, offset: u64) -> bool {
        self.superseded.contains(|| KeyDigest::of(key), offset)
    }

    /// The filter has false positives. A second pass finds the keys that are really repeated.
    fn look_again(&mut self, file: &Arc<CacheFile>, salvage: bool, seen: &Repeated) -> Result<()> {
        if seen.is_empty() {
            return Ok(());
        }
        let mut again = seen.look_again();
        let mut entries = WholeEntries::new(file, None, salvage)?;
        while let Some((key, position)) = next_key(&mut entries)? {
            if again.note(KeyDigest::of(key.as_str()), position.offset) {
                self.count.remove(&self.selection, key.as_str());
            }
        }
        self.superseded = again.superseded();
        Ok(())
    }
}

/// Positions that look like the starts of entries and divide the file into parts of similar size.
fn part_starts(file: &CacheFile, size: u64) -> Result<Vec<Position>> {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_PARTS) as u64;
    let parts = threads.min(size / PART_BYTES).max(1);
    let mut starts: Vec<Position> = Vec::new();
    for part in 1..parts {
        let start = file.likely_entry(size / parts * part)?;
        starts.extend(start.filter(|start| starts.last().is_none_or(|last| last.offset < start.offset)));
    }
    Ok(starts)
}

/// What was found in a part of a file.
struct Part {
    count: Count,
    /// If a shard is selected, the places of its entries.
    places: Option<Places>,
}

impl Part {
    fn of(selection: &Selection) -> Self {
        Self {
            count: Count::none(),
            places: selection.shard().map(|_| Places::default()),
        }
    }

    /// Adds an entry that ends before the byte `end`.
    fn add(&mut self, selection: &Selection, key: &CacheKey, position: &Position, end: u64) {
        self.count.add(selection, key.as_str());
        if let Some(places) = &mut self.places
            && selection.contains(key.as_str())
        {
            places.add(position, end);
        }
    }

    /// Adds what was found in a later part.
    fn append(&mut self, later: Self) {
        self.count.merge(&later.count);
        if let (Some(places), Some(later)) = (&mut self.places, later.places) {
            places.append(later);
        }
    }
}

/// One pass over a file, by several threads.
struct Look<'a> {
    file: &'a Arc<CacheFile>,
    selection: &'a Selection,
    salvage: bool,
    seen: Mutex<Repeated>,
    scanned: AtomicU64,
    progress: Progress<'a>,
}

impl Look<'_> {
    /// Scans the parts of the file that start at these positions and at its beginning. `None` if one of them is not
    /// the start of an entry: the reader of the part before it must end exactly there.
    fn in_parts(&self, starts: &[Position]) -> Result<Option<Part>> {
        let parts = thread::scope(|scope| {
            let ends = starts.iter().map(Some).chain([None]);
            let begins = [None].into_iter().chain(starts.iter().map(Some));
            let parts: Vec<_> = begins
                .zip(ends)
                .map(|(begin, end)| scope.spawn(move || self.part(begin.cloned(), end)))
                .collect();
            let joined = parts.into_iter().map(|part| part.join());
            joined.collect::<Vec<_>>()
        });
        let mut all = Part::of(self.selection);
        for part in parts {
            let part = part.map_err(|_| Error::panicked("scanning the file"))?;
            // An error counts only if all earlier parts ended where the next one started.
            let Some(part) = part? else {
                return Ok(None);
            };
            all.append(part);
        }
        Ok(Some(all))
    }

    fn part(&self, begin: Option<Position>, end: Option<&Position>) -> Result<Option<Part>> {
        let mut part = Part::of(self.selection);
        let mut digests = Vec::with_capacity(DIGESTS);
        let mut entries = WholeEntries::new(self.file, begin, self.salvage)?;
        while let Some((key, position)) = next_key(&mut entries)? {
            if let Some(end) = end.filter(|end| end.offset <= position.offset) {
                self.see(&mut digests);
                return Ok((*end == position).then_some(part));
            }
            part.add(self.selection, &key, &position, entries.read_to());
            digests.push(KeyDigest::of(key.as_str()));
            if digests.len() == DIGESTS {
                self.see(&mut digests);
            }
        }
        self.see(&mut digests);
        part.count.damage = entries.damage()?;
        Ok(end.is_none().then_some(part))
    }

    fn see(&self, digests: &mut Vec<KeyDigest>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        digests.iter().for_each(|digest| seen.insert(*digest));
        drop(seen);
        let more = digests.len() as u64;
        let before = self.scanned.fetch_add(more, Ordering::Relaxed);
        if before / PROGRESS_EVERY < (before + more) / PROGRESS_EVERY {
            (self.progress)(before + more);
        }
        digests.clear();
    }
}

/// The number of digests that are collected and looked up together.
const DIGESTS: usize = 1024;

/// The next key and the position of its entry; `None` at the end. The whole entry is checked, since damage must be found
/// before the first write.
fn next_key(entries: &mut WholeEntries) -> Result<Option<(CacheKey, Position)>> {
    let Some((entry, position)) = entries.next()? else {
        return Ok(None);
    };
    entries.let_go(&entry);
    Ok(Some((entry.key().clone(), position)))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn survey(text: &str) -> Survey {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let file = CacheFile::open(file.path()).unwrap().unwrap();
        Survey::of(&file, &Selection::default(), false, &|_| ()).unwrap()
    }

    fn by_type(survey: &Survey) -> Vec<(String, u64)> {
        let by_type = survey.count.by_type.iter();
        by_type
            .map(|(cache_type, records)| (cache_type.to_string(), records))
            .collect()
    }

    #[test]
    fn a_key_that_stands_twice_is_counted_once_and_its_last_place_known() {
        let text = r#"{"default:extract:a": {}, "default:summary:b": {}, "default:extract:a": {}}"#;
        let survey = survey(text);
        assert_eq!(
            by_type(&survey),
            [("extract".to_owned(), 1), ("summary".to_owned(), 1)]
        );
        assert!(survey.is_superseded("default:extract:a", 1));
        assert!(!survey.is_superseded("default:extract:a", text.rfind("\"default").unwrap() as u64));
        assert!(!survey.is_superseded("default:summary:b", 1));
    }

    /// A file as LightRAG writes it, large enough to be scanned in parts.
    fn large_file(entries: usize, repeat: &str) -> String {
        let mut text = String::from("{");
        for n in 0..entries {
            let prompt = "x".repeat(1024);
            let _ = write!(
                text,
                "\n  \"default:extract:{n}\": {{\n    \"original_prompt\": \"{prompt}\"\n  }},"
            );
        }
        let _ = write!(text, "\n  {repeat}: {{\n    \"return\": \"\"\n  }}\n}}");
        text
    }

    fn parts(text: &str) -> usize {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let file = CacheFile::open(file.path()).unwrap().unwrap();
        part_starts(&file, text.len() as u64).unwrap().len()
    }

    #[test]
    fn a_large_file_is_looked_over_in_parts_and_a_key_that_stands_in_two_of_them_counts_once() {
        let text = large_file(20_000, "\"default:extract:7\"");
        let threads = thread::available_parallelism().unwrap().get();
        assert_eq!(parts(&text), threads.min(MOST_PARTS) - 1);
        let survey = survey(&text);
        assert_eq!(by_type(&survey), [("extract".to_owned(), 20_000)]);
        assert_eq!(survey.superseded.len(), 1);
        assert!(survey.is_superseded("default:extract:7", text.find(":7\"").unwrap() as u64));
        assert!(!survey.is_superseded("default:extract:7", text.rfind("\"default").unwrap() as u64));
    }

    #[test]
    fn what_only_looks_like_an_entry_is_not_taken_for_one() {
        // In an old file, the outer keys are modes.
        let old = large_file(20_000, "\"last\"").replace("default:extract:", "");
        let old = format!("{{\"default\": {old}\n}}");
        assert_eq!(by_type(&survey(&old)), [("extract".to_owned(), 20_001)]);
    }

    #[test]
    fn keys_that_only_look_alike_to_the_filter_are_all_counted() {
        // Entries so small that the filter is far too small for them.
        let mut text = String::from("{");
        for n in 0..50_000 {
            let _ = write!(text, "\"default:extract:{n}\": 1,");
        }
        text.push_str("\"default:extract:7\": 2}");
        let survey = survey(&text);
        assert_eq!(by_type(&survey), [("extract".to_owned(), 50_000)]);
        assert_eq!(survey.superseded.len(), 1);
    }
}
