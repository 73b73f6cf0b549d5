//! Reading intact entries, and skipping damage with `--salvage`.

use std::sync::Arc;

use super::codec::{CacheFile, EntryReader, Position};
use crate::{
    model::{ErrorKind, Result, record::KeyForm},
    storage::Entry,
};

/// The intact entries of a file. A damaged one ends them with an error, or, with `--salvage`, is skipped together with
/// everything up to the next recognizable entry.
pub(super) struct WholeEntries {
    file: Arc<CacheFile>,
    reader: EntryReader,
    salvage: bool,
    damage: Damage,
    /// Entries are searched from this byte on.
    search_from: u64,
    is_at_end: bool,
}

/// What was skipped in a damaged file.
#[derive(Debug, Default)]
struct Damage {
    /// The first damaged place, as text.
    first: Option<String>,
    places: u64,
    bytes: u64,
    /// Bytes that were read again from a later start.
    read_again: u64,
}

impl WholeEntries {
    /// Reads an open file from the beginning or from a position.
    ///
    /// # Errors
    /// The file cannot be read or does not start like a cache.
    pub(super) fn new(file: &Arc<CacheFile>, from: Option<Position>, salvage: bool) -> Result<Self> {
        let mut entries = Self {
            file: Arc::clone(file),
            reader: EntryReader::at(file, from.clone()),
            salvage,
            damage: Damage::default(),
            search_from: 0,
            is_at_end: false,
        };
        if from.is_none()
            && let Err(error) = entries.reader.begin()
        {
            entries.skip_damage(error)?;
        }
        Ok(entries)
    }

    /// The next entry and its position; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged and not to be salvaged.
    pub(super) fn next(&mut self) -> Result<Option<(Entry, Position)>> {
        while !self.is_at_end {
            match self.try_next() {
                Err(error) => self.skip_damage(error)?,
                Ok(Some((entry, position))) if self.salvage && contains_others(&entry) => {
                    self.reader.let_go(&entry);
                    let message = format!("byte {}: an entry is not closed", position.offset);
                    self.resume_after(position.offset, &message)?;
                }
                next => return next,
            }
        }
        Ok(None)
    }

    fn try_next(&mut self) -> Result<Option<(Entry, Position)>> {
        let Some(found) = self.reader.next()? else {
            return Ok(None);
        };
        let position = found.position.clone();
        Ok(Some((self.reader.take_entry(found)?, position)))
    }

    /// Marks the current entry as no longer needed, so that its window can be reused.
    pub(super) fn let_go(&mut self, entry: &Entry) {
        self.reader.let_go(entry);
    }

    /// The byte after the last entry.
    pub(super) fn read_to(&self) -> u64 {
        self.reader.read_to()
    }

    /// The position of the next entry; `None` in a file without an object.
    pub(super) fn position(&self) -> Option<Position> {
        self.reader.position()
    }

    /// What was skipped, as text; `None` if nothing was.
    pub(super) fn damage(&self) -> Result<Option<String>> {
        let Some(first) = &self.damage.first else {
            return Ok(None);
        };
        let size = self.file.metadata()?.len();
        let entries = match self.damage.places {
            1 => "1 damaged place was".to_owned(),
            places => format!("{places} damaged places were"),
        };
        Ok(Some(format!(
            "{first}; {entries} skipped, {} of {size} bytes in all",
            self.damage.bytes
        )))
    }

    /// Continues at the next entry after damage, or ends.
    fn skip_damage(&mut self, error: crate::model::Error) -> Result<()> {
        if !self.salvage || error.kind() != ErrorKind::Damaged {
            return Err(error);
        }
        let begin = self.reader.damage_begins();
        self.resume_after(begin, error.message())
    }

    /// Continues at the first recognizable entry after the damage at this byte.
    fn resume_after(&mut self, begin: u64, message: &str) -> Result<()> {
        let size = self.file.metadata()?.len();
        self.damage.places += 1;
        self.damage.first.get_or_insert_with(|| message.to_owned());
        self.damage.read_again += self.reader.read_to().saturating_sub(begin);
        // Each unclosed quote causes another read of the rest of the file.
        let is_hopeless = self.damage.read_again > 4 * size + (1 << 30);
        let from = self.search_from.max(begin + 1);
        let mode = self.reader.mode();
        let next = if is_hopeless {
            None
        } else {
            next_entry(&self.file, from, mode)?
        };
        let end = next.as_ref().map_or(size, |next| next.offset);
        self.damage.bytes += end.saturating_sub(begin.saturating_sub(1));
        match next {
            Some(next) => {
                self.search_from = next.offset + 1;
                self.reader = EntryReader::at(&self.file, Some(next));
            }
            None => self.is_at_end = true,
        }
        Ok(())
    }
}

/// The longest start of an entry that is recognized, in bytes.
const LONGEST_BEGINNING: usize = 1 << 12;

/// The number of bytes searched at a time.
const PIECE: usize = 1 << 18;

/// The next recognizable entry from this byte on. A quote inside a string has a backslash before it,
/// so no prompt or response looks like an entry.
fn next_entry(file: &CacheFile, from: u64, mode: Option<&str>) -> Result<Option<Position>> {
    let mut piece = vec![0; PIECE];
    let mut at = from;
    loop {
        let read = file.read_at(&mut piece, at)?;
        let text = &piece[..read];
        // A truncated start is examined again in the next piece.
        let is_last = read < PIECE;
        let end = if is_last { read } else { read - LONGEST_BEGINNING };
        for quote in memchr::memchr_iter(b'"', &text[..end]) {
            let before = quote.checked_sub(1).map(|before| text[before]);
            if before == Some(b'\\') {
                continue;
            }
            if let Some(mode) = entry_begins(&text[quote..], mode) {
                return Ok(Some(Position {
                    offset: at + quote as u64,
                    mode,
                    first: true,
                }));
            }
        }
        if is_last {
            return Ok(None);
        }
        // Keep the byte before the first quote of the next piece.
        at += end as u64 - 1;
    }
}

/// Whether the fields of a value are entries: if the closing brace of an entry is missing, its value is
/// valid JSON up to the end of the file.
fn contains_others(entry: &Entry) -> bool {
    let Entry::Record(record) = entry else {
        return false;
    };
    let value = record.value();
    memchr::memchr_iter(b'"', value).any(|quote| {
        let is_escaped = quote.checked_sub(1).is_some_and(|before| value[before] == b'\\');
        !is_escaped
            && object_begins(&value[quote..])
                .is_some_and(|(key, _)| matches!(KeyForm::of(key), KeyForm::Cache { .. }))
    })
}

/// Whether an entry starts with this text, and the mode in which to read it.
fn entry_begins(text: &[u8], mode: Option<&str>) -> Option<Option<String>> {
    let (key, value) = object_begins(text)?;
    match KeyForm::of(key) {
        KeyForm::Cache { .. } => Some(None),
        KeyForm::Md5 => Some(mode.map(str::to_owned)),
        KeyForm::Prefixed(_) => None,
        // A mode of the old layout.
        KeyForm::Other => {
            let (hash, _) = object_begins(value.trim_ascii_start())?;
            (KeyForm::of(hash) == KeyForm::Md5).then_some(None)
        }
    }
}

/// The key at the start of this text and the content of its value, if that is an object.
fn object_begins(text: &[u8]) -> Option<(&str, &[u8])> {
    let text = &text[..text.len().min(LONGEST_BEGINNING)];
    let inside = text.strip_prefix(b"\"")?;
    let (key, rest) = inside.split_at(memchr::memchr2(b'"', b'\n', inside)?);
    let rest = rest.strip_prefix(b"\"")?.trim_ascii_start();
    let value = rest.strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"{")?;
    let key = std::str::from_utf8(key).ok().filter(|key| !key.contains('\\'))?;
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn salvaged(text: &[u8]) -> (Vec<String>, Option<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let file = CacheFile::open(file.path()).unwrap().unwrap();
        let mut entries = WholeEntries::new(&file, None, true).unwrap();
        let mut keys = Vec::new();
        while let Some((entry, _)) = entries.next().unwrap() {
            keys.push(entry.key().to_string());
        }
        (keys, entries.damage().unwrap())
    }

    const A: &str = "\"default:extract:a\": {\"return\": \"x\"}";
    const B: &str = "\"default:extract:b\": {\"return\": \"\\\"default:extract:c\\\": {\"}";

    #[test]
    fn whole_entries_behind_a_damaged_one_are_read() {
        for damaged in [
            r#""default:extract:d": {"return": nope}"#,
            r#""default:extract:d": {"return": "never closed}"#,
            r#""default:extract:d": "#,
            r#""default:extract:d"#,
            r#"#### "#,
            "\"default:extract:d\": {\"return\": \"\0\0\0",
        ] {
            for (text, expected) in [
                (
                    format!("{{{damaged},\n  {A},\n  {B}\n}}"),
                    vec!["default:extract:a", "default:extract:b"],
                ),
                (
                    format!("{{{A},{damaged},{B}}}"),
                    vec!["default:extract:a", "default:extract:b"],
                ),
                (format!("{{{A},{damaged}"), vec!["default:extract:a"]),
            ] {
                let (keys, damage) = salvaged(text.as_bytes());
                assert_eq!(keys, expected, "{text}");
                assert!(damage.is_some(), "{text}");
            }
        }
    }

    #[test]
    fn damage_in_the_first_entry_is_damage_and_no_empty_file() {
        let (keys, damage) = salvaged(b"{\"default:extract:a\": {\"return\": \"abc");
        assert!(keys.is_empty());
        let damage = damage.unwrap();
        assert!(
            damage.contains("is damaged at byte 33") && damage.contains("1 damaged place was skipped"),
            "{damage}"
        );
    }

    #[test]
    fn old_entries_behind_damage_keep_their_modes() {
        let hash = |n: u32| format!("{n:032x}");
        let entry = |n| format!("\"{}\": {{\"return\": \"x\"}}", hash(n));
        let text = format!(
            "{{\"default\": {{\"{}\": {{\"return\": nope}}, {}}}, \"mix\": {{\"{}\": {{\"return\": nope}}, {}}}}}",
            hash(1),
            entry(2),
            hash(3),
            entry(4)
        );
        let (keys, damage) = salvaged(text.as_bytes());
        assert_eq!(
            keys,
            [
                format!("default:extract:{}", hash(2)),
                format!("mix:extract:{}", hash(4))
            ]
        );
        assert!(damage.unwrap().contains("2 damaged places"));
    }

    #[test]
    fn a_beginning_that_two_pieces_share_is_found() {
        for shift in 0..200 {
            let filler = "x".repeat(PIECE - 100 + shift);
            let text = format!("{{\"default:extract:d\": {{\"return\": nope {filler},{A}}}");
            assert_eq!(salvaged(text.as_bytes()).0, ["default:extract:a"], "{shift}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_not_salvaged() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\x1f\x8b\x08\0").unwrap();
        let file = CacheFile::open(file.path()).unwrap().unwrap();
        let error = WholeEntries::new(&file, None, true).err().unwrap();
        assert!(error.message().contains("it is gzip"), "{error}");
    }

    #[test]
    fn an_entry_that_is_not_closed_costs_itself_alone() {
        let text = format!("{{{A},\n  \"default:extract:d\": {{\"return\": \"x\" ,\n  {B}\n}}");
        let (keys, damage) = salvaged(text.as_bytes());
        assert_eq!(keys, ["default:extract:a", "default:extract:b"]);
        assert!(damage.unwrap().contains("an entry is not closed"));
    }

    proptest! {
        /// If one byte of a file is changed, every entry without that byte is read.
        #[test]
        fn one_wrong_byte_costs_its_neighbours_at_most(at in 1_usize..2_000, byte in any::<u8>()) {
            let entries: Vec<String> = (0..30)
                .map(|n| format!("\"default:extract:{n:032}\": {{\"return\": \"answer {n}\"}}"))
                .collect();
            let mut text = format!("{{\n  {}\n}}", entries.join(",\n  ")).into_bytes();
            // The brace at the start identifies a cache.
            let at = 1 + at % (text.len() - 2);
            text[at] = byte;
            let (keys, _) = salvaged(&text);
            prop_assert!(keys.len() >= 28, "{} entries", keys.len());
        }
    }
}
