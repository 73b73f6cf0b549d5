//! An index of the records of a file.

use std::sync::Arc;

use super::{
    codec::{CacheFile, EntryReader, Found, Position},
    places::Sections,
};
use crate::model::{
    Result,
    record::{CacheKey, KeyDigest},
};

/// The positions of a file's records, in at most 20 bytes per record: 64 bits of the key's digest, and a byte offset. If
/// two keys share 64 bits, reading the key at the position shows that, so no result is wrong.
///
/// For a repeated key, the last position is found first, as the last value counts for LightRAG.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Sorted by digest, then offset.
    places: Vec<(u64, u64)>,
    sections: Sections,
}

impl Index {
    /// Reads a file once and indexes its records.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub(super) fn of(file: &Arc<CacheFile>) -> Result<Self> {
        let mut index = Self::default();
        let mut reader = EntryReader::new(file, None)?;
        while let Some(mut found) = reader.next()? {
            if found.is_nested() {
                reader.take(&mut found)?;
            }
            index.add(&found);
        }
        index.places.sort_unstable();
        index.places.shrink_to_fit();
        Ok(index)
    }

    fn add(&mut self, found: &Found) {
        let Position { offset, mode, .. } = &found.position;
        self.sections.add(*offset, mode.as_deref());
        if self.places.len() == self.places.capacity() {
            self.places.reserve_exact(self.places.len() / 4 + 64);
        }
        self.places.push((low_bits(&found.key), *offset));
    }

    /// The possible positions of a key, the last one first. The caller must compare the key there.
    pub(super) fn candidates(&self, key: &CacheKey) -> impl Iterator<Item = Position> + '_ {
        let digest = low_bits(key);
        let start = self.places.partition_point(|(other, _)| *other < digest);
        let end = self.places.partition_point(|(other, _)| *other <= digest);
        let places = self.places[start..end].iter().rev();
        places.map(|(_, offset)| self.sections.position(*offset))
    }
}

fn low_bits(key: &CacheKey) -> u64 {
    // The lower half of the digest, as good as any other 64 bits of it.
    KeyDigest::of(key.as_str()).bits() as u64
}
