//! A first look over a file: how many records of each type, and which keys stand more than once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::layout::{CacheFile, EntryReader};
use crate::{
    error::{ErrorKind, Result},
    record::{CacheType, KeyDigest},
    storage::Progress,
};

/// What the first look found. Its memory does not grow with the number of records, only by a bit for each 256 bytes of the
/// file and by the keys that stand more than once.
#[derive(Debug)]
pub(super) struct Survey {
    /// Records of each type, a key that stands several times counted once.
    pub(super) by_type: BTreeMap<CacheType, u64>,
    /// For keys that stand more than once, the place of the last one, whose value counts.
    last_places: HashMap<KeyDigest, u64>,
}

/// How many entries go by between two words of progress.
const PROGRESS_EVERY: u64 = 1 << 14;

impl Survey {
    /// Looks over a file; with `salvage`, over what stands before its damage.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub(super) fn of(file: &Arc<CacheFile>, salvage: bool, progress: Progress<'_>) -> Result<Self> {
        let mut seen = Filter::for_file_of(file.metadata()?.len());
        let mut by_type = BTreeMap::new();
        let mut last_places = HashMap::new();
        let mut scanned = 0;
        for_each_key(file, salvage, |key, offset| {
            scanned += 1;
            if scanned % PROGRESS_EVERY == 0 {
                progress(scanned);
            }
            if let Some(cache_type) = CacheType::of_key(key) {
                *by_type.entry(cache_type).or_default() += 1;
            }
            let digest = KeyDigest::of(key);
            if seen.insert(digest) {
                last_places.insert(digest, offset);
            }
        })?;
        let mut survey = Self { by_type, last_places };
        survey.settle(file, salvage)?;
        Ok(survey)
    }

    /// Whether the entry of this key at this place is replaced by one that stands further on.
    pub(super) fn is_superseded(&self, key: &str, offset: u64) -> bool {
        if self.last_places.is_empty() {
            return false;
        }
        self.last_places
            .get(&KeyDigest::of(key))
            .is_some_and(|last| offset < *last)
    }

    /// The filter knows keys that stand once and look as if they stood twice. A second look tells them apart.
    fn settle(&mut self, file: &Arc<CacheFile>, salvage: bool) -> Result<()> {
        if self.last_places.is_empty() {
            return Ok(());
        }
        let mut superseded: HashMap<KeyDigest, u64> = HashMap::new();
        let mut by_type = std::mem::take(&mut self.by_type);
        for_each_key(file, salvage, |key, offset| {
            if self.is_superseded(key, offset) {
                *superseded.entry(KeyDigest::of(key)).or_default() += 1;
                if let Some(counted) = CacheType::of_key(key).and_then(|t| by_type.get_mut(&t)) {
                    *counted -= 1;
                }
            }
        })?;
        self.by_type = by_type;
        self.last_places
            .retain(|digest, _| superseded.contains_key(digest));
        Ok(())
    }
}

fn for_each_key(file: &Arc<CacheFile>, salvage: bool, mut each: impl FnMut(&str, u64)) -> Result<()> {
    let mut reader = EntryReader::new(file, None)?;
    let mut next = || -> Result<bool> {
        let Some(mut found) = reader.next()? else {
            return Ok(false);
        };
        let offset = found.position.offset;
        // To salvage, only what is whole may count.
        if salvage {
            each(reader.take_entry(found)?.key().as_str(), offset);
            return Ok(true);
        }
        // The value of an old entry is where its type stands.
        if found.is_nested() {
            reader.take(&mut found)?;
        }
        each(found.key.as_str(), offset);
        Ok(true)
    };
    loop {
        match next() {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if salvage && error.kind() == ErrorKind::Damaged => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A Bloom filter: remembers keys in a few bits each, and sometimes believes to have seen one that it has not.
#[derive(Debug)]
struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// Bits that a key sets.
    const PROBES: u32 = 4;

    fn for_file_of(bytes: u64) -> Self {
        let bits = usize::try_from(bytes / 256)
            .unwrap_or(usize::MAX)
            .clamp(1 << 16, 1 << 31);
        Self {
            words: vec![0; bits.next_power_of_two() / 64],
        }
    }

    /// Adds a key; whether it may have been there before.
    fn insert(&mut self, key: KeyDigest) -> bool {
        let mut bits = key.bits();
        let mask = self.words.len() - 1;
        let mut there = true;
        for _ in 0..Self::PROBES {
            // 32 bits of the digest for each probe; the number of words is a power of two.
            let probe = (bits as u32) as usize;
            let word = &mut self.words[(probe >> 6) & mask];
            there &= *word & (1 << (probe & 63)) != 0;
            *word |= 1 << (probe & 63);
            bits >>= 32;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn survey(text: &str) -> Survey {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Survey::of(&CacheFile::open(file.path()).unwrap().unwrap(), false, &|_| ()).unwrap()
    }

    #[test]
    fn a_key_that_stands_twice_is_counted_once_and_its_last_place_known() {
        let text = r#"{"default:extract:a": {}, "default:summary:b": {}, "default:extract:a": {}}"#;
        let survey = survey(text);
        assert_eq!(
            survey.by_type,
            BTreeMap::from([(CacheType::Extract, 1), (CacheType::Summary, 1)])
        );
        assert!(survey.is_superseded("default:extract:a", 1));
        assert!(!survey.is_superseded("default:extract:a", text.rfind("\"default").unwrap() as u64));
        assert!(!survey.is_superseded("default:summary:b", 1));
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
        assert_eq!(survey.by_type[&CacheType::Extract], 50_000);
        assert_eq!(survey.last_places.len(), 1);
    }
}
