//! The places of a shard's entries, so that reading them does not mean reading the whole file again.

use std::sync::Arc;

use super::codec::{CacheFile, EntryReader, Position};
use crate::{
    model::{Error, ErrorKind, Result},
    storage::Entry,
};

/// The modes of the old nested objects, by position.
#[derive(Debug, Default)]
pub(super) struct Sections(Vec<(u64, Option<String>)>);

impl Sections {
    /// Adds the position of an entry. Positions are added in the order of the file.
    pub(super) fn add(&mut self, offset: u64, mode: Option<&str>) {
        if self.0.last().map(|(_, mode)| mode.as_deref()) != Some(mode) {
            self.0.push((offset, mode.map(str::to_owned)));
        }
    }

    /// The whole position of an entry that was added.
    pub(super) fn position(&self, offset: u64) -> Position {
        let section = self.0.partition_point(|(begins, _)| *begins <= offset);
        let mode = section.checked_sub(1).and_then(|at| self.0[at].1.clone());
        Position {
            offset,
            mode,
            first: true,
        }
    }
}

/// The places of some entries of a file, in its order: 16 bytes per entry.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The first byte of each entry, and its length in bytes.
    entries: Vec<(u64, u32)>,
    sections: Sections,
}

impl Places {
    /// Adds an entry that starts at a position and ends before the byte `end`.
    pub(super) fn add(&mut self, position: &Position, end: u64) {
        let Position { offset, mode, .. } = position;
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 4 + 64);
        }
        // The reader of a longer entry reads on.
        let length = u32::try_from(end - offset).unwrap_or(u32::MAX);
        self.entries.push((*offset, length));
        self.sections.add(*offset, mode.as_deref());
    }

    /// Adds the places of a later part of the file.
    pub(super) fn append(&mut self, later: Self) {
        self.entries.extend(later.entries);
        for (offset, mode) in later.sections.0 {
            self.sections.add(offset, mode.as_deref());
        }
    }
}

/// Reads the entries at places.
pub(super) struct PlacedEntries {
    file: Arc<CacheFile>,
    places: Arc<Places>,
    /// The index of the next entry.
    next: usize,
    /// The position after the last entry that was read.
    position: Option<Position>,
}

impl PlacedEntries {
    /// Reads entries from the first one, or from a position on.
    pub(super) fn new(file: &Arc<CacheFile>, places: &Arc<Places>, from: Option<Position>) -> Self {
        let begin = from.as_ref().map_or(0, |from| from.offset);
        Self {
            file: Arc::clone(file),
            places: Arc::clone(places),
            next: places.entries.partition_point(|(offset, _)| *offset < begin),
            position: from,
        }
    }

    /// The next entry and its position; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or was damaged since the places were found.
    pub(super) fn next(&mut self) -> Result<Option<(Entry, Position)>> {
        let Some((offset, length)) = self.places.entries.get(self.next) else {
            return Ok(None);
        };
        let position = self.places.sections.position(*offset);
        let bytes = usize::try_from(*length).unwrap_or(usize::MAX);
        let mut reader = EntryReader::with_window(&self.file, position.clone(), bytes);
        let Some(found) = reader.next()? else {
            return Err(self.changed(*offset));
        };
        let entry = reader.take_entry(found)?;
        self.next += 1;
        self.position = reader.position();
        Ok(Some((entry, position)))
    }

    /// The position after the last entry that was read.
    pub(super) fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    fn changed(&self, offset: u64) -> Error {
        let path = self.file.path().display();
        let message = format!("{path} has changed since it was counted: no entry starts at byte {offset}");
        Error::new(ErrorKind::Damaged, message)
            .with_remedy("run the command while nothing writes to the file")
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::{
        model::{Selection, Shard},
        storage::json::{salvage::WholeEntries, survey::Survey},
    };

    const SHARDS: u32 = 3;

    /// A file with both layouts, small and large entries, and values of every kind.
    fn text() -> String {
        let mut text = String::from("{\n  \"other\": 12 ,\"default:extract:text\":\"\\\"}\"");
        for n in 0..60 {
            let _ = write!(
                text,
                ",\n  \"default:extract:{:032x}\": {{\n    \"return\": \"{}\"\n  }}",
                n * 7919,
                "é{\\\"".repeat(n * 40)
            );
        }
        text.push_str(",\n\"local\": {");
        for n in 0..20 {
            let _ = write!(
                text,
                "{}\"{:032x}\": {{\"return\": [1, {{}}]}}",
                if n == 0 { "" } else { ", " },
                n * 104_729
            );
        }
        text.push_str("}, \"default:summary:last\": {}\n}");
        text
    }

    fn open(text: &str) -> (tempfile::NamedTempFile, Arc<CacheFile>) {
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), text).unwrap();
        let file = CacheFile::open(named.path()).unwrap().unwrap();
        (named, file)
    }

    fn of_shard(number: u32) -> Selection {
        Selection::all().of_shard(Some(Shard::new(number, SHARDS).unwrap()))
    }

    fn places(file: &Arc<CacheFile>, selection: &Selection) -> Arc<Places> {
        let survey = Survey::of(file, selection, false, &|_| ()).unwrap();
        survey.places.unwrap()
    }

    fn read(file: &Arc<CacheFile>, places: &Arc<Places>, from: Option<Position>) -> Vec<(Entry, Position)> {
        let mut entries = PlacedEntries::new(file, places, from);
        std::iter::from_fn(|| entries.next().unwrap()).collect()
    }

    fn all(file: &Arc<CacheFile>) -> Vec<(Entry, Position)> {
        let mut entries = WholeEntries::new(file, None, false).unwrap();
        std::iter::from_fn(|| entries.next().unwrap()).collect()
    }

    #[test]
    fn the_entries_of_a_shard_are_those_of_the_whole_file_that_belong_to_it() {
        let (_named, file) = open(&text());
        let all = all(&file);
        assert_eq!(all.len(), 83);
        let mut read_in_all = 0;
        for number in 0..SHARDS {
            let selection = of_shard(number);
            let own: Vec<_> = all
                .iter()
                .filter(|(entry, _)| selection.contains(entry.key().as_str()))
                .cloned()
                .collect();
            let found = read(&file, &places(&file, &selection), None);
            assert_eq!(found, own);
            read_in_all += found.len();
        }
        assert_eq!(read_in_all, all.len());
    }

    #[test]
    fn the_entries_of_a_large_file_which_is_surveyed_in_parts_are_read_in_its_order() {
        let mut text = String::from("{");
        for n in 0..9_000 {
            let prompt = "x".repeat(1024);
            let comma = if n == 0 { "" } else { "," };
            let _ = write!(
                text,
                "{comma}\n  \"default:extract:{n}\": {{\n    \"return\": \"{prompt}\"\n  }}"
            );
        }
        text.push_str("\n}");
        let (_named, file) = open(&text);
        let mut all = Vec::new();
        for number in 0..SHARDS {
            let found = read(&file, &places(&file, &of_shard(number)), None);
            assert!(found.is_sorted_by_key(|(_, position)| position.offset));
            all.extend(
                found
                    .into_iter()
                    .map(|(entry, _)| entry.key().as_str().to_owned()),
            );
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 9_000);
    }

    #[test]
    fn no_byte_of_another_shard_is_read_again() {
        let text = text();
        let (named, file) = open(&text);
        let selection = of_shard(1);
        let places = places(&file, &selection);
        let before = read(&file, &places, None);
        let mut others = vec![b'#'; text.len()];
        for (offset, length) in &places.entries {
            let own =
                usize::try_from(*offset).unwrap()..usize::try_from(*offset + u64::from(*length)).unwrap();
            others[own.clone()].copy_from_slice(&text.as_bytes()[own]);
        }
        std::fs::write(named.path(), others).unwrap();
        assert_eq!(read(&file, &places, None), before);
    }

    #[test]
    fn reading_continues_after_the_last_entry_that_was_read() {
        let (_named, file) = open(&text());
        let places = places(&file, &of_shard(2));
        let all = read(&file, &places, None);
        let mut entries = PlacedEntries::new(&file, &places, None);
        assert_eq!(entries.position(), None);
        for number in 1..=all.len() {
            entries.next().unwrap();
            assert_eq!(read(&file, &places, entries.position()), all[number..]);
        }
        assert_eq!(entries.next().unwrap(), None);
        assert_eq!(read(&file, &places, entries.position()), []);
    }

    #[test]
    fn a_file_that_has_changed_since_is_an_error_and_not_an_end() {
        let text = text();
        let (named, file) = open(&text);
        let places = places(&file, &of_shard(0));
        let first = places.entries[0].0;
        let kept = &text[..usize::try_from(first).unwrap()];
        std::fs::write(named.path(), format!("{kept}}}")).unwrap();
        let mut entries = PlacedEntries::new(&file, &places, None);
        let error = entries.next().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        let place = format!("no entry starts at byte {first}");
        assert!(error.message().ends_with(&place), "{error}");
    }
}
