//! A compact set of the keys that were seen.

use std::alloc::{Layout, handle_alloc_error};

use memmap2::MmapMut;
use xxhash_rust::xxh3::xxh3_128;

/// A key by its 128-bit XXH3 digest. Two different keys of a cache of a billion records share one with a
/// probability below 2⁻⁶⁸, far below that of a memory error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(u128);

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        Self::of_bytes(key.as_bytes())
    }

    /// The digest of a key that may not be text.
    pub fn of_bytes(key: &[u8]) -> Self {
        Self(xxh3_128(key))
    }

    /// The digest as bits.
    pub fn bits(self) -> u128 {
        self.0
    }
}

/// A set of keys in at most 20 bytes a key, and a megabyte.
///
/// A hash table in the order of digests: each is in the slot that its bits select, or in a later one if that is taken. So
/// the table can grow by an eighth in place, while others double and then have two empty slots for every key. It uses its
/// own memory mapping, which is returned to the system when the set is dropped: an allocator would keep it for the thread
/// that allocated it, and the next set belongs to another thread.
///
/// The first few keys are in a sorted list. Spread over a table, each of them would take a page of its own, which the system
/// has to fill with zeros: in a run with thousands of small workspaces that takes longer than their records.
#[derive(Debug)]
pub struct KeySet {
    /// All keys, in order, while there is no table.
    few: Vec<u128>,
    segments: Vec<MmapMut>,
    /// Slots that bits can select. More follow them, for displaced digests.
    homes: usize,
    len: usize,
}

/// The most keys in a list.
const FEW: usize = 256;

/// Bytes of a slot.
const PLACE: usize = size_of::<u128>();

/// Slots of a segment: a megabyte, and fewer in tests, so that sets grow early.
const SEGMENT: usize = if cfg!(test) { 1 << 12 } else { 1 << 16 };

/// An empty slot. A digest of this value is stored as the next one.
const EMPTY: u128 = 0;

impl KeySet {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            few: Vec::new(),
            segments: Vec::new(),
            homes: 0,
            len: 0,
        }
    }

    /// Adds a key; `false` if the set contained it.
    pub fn insert(&mut self, key: KeyDigest) -> bool {
        let key = stored(key);
        if !self.segments.is_empty() {
            return self.insert_in_table(key);
        }
        let Err(place) = self.few.binary_search(&key) else {
            return false;
        };
        if self.few.len() < FEW {
            self.few.insert(place, key);
            self.len += 1;
            return true;
        }
        self.begin_table();
        self.insert_in_table(key)
    }

    /// Moves the keys of the list to a table.
    fn begin_table(&mut self) {
        self.len = 0;
        self.add_segments(1);
        for key in std::mem::take(&mut self.few) {
            self.insert_in_table(key);
        }
    }

    fn insert_in_table(&mut self, key: u128) -> bool {
        let mut place = match self.find(key) {
            Ok(_) => return false,
            Err(place) => place,
        };
        self.len += 1;
        // Existing digests move on, up to the next empty slot.
        let mut moving = key;
        loop {
            if place == self.places() {
                self.add_segments(1);
            }
            moving = self.replace(place, moving);
            if moving == EMPTY {
                break;
            }
            place += 1;
        }
        if self.len >= self.homes / 10 * 9 {
            self.grow();
        }
        true
    }

    /// Whether the set contains a key.
    pub fn contains(&self, key: KeyDigest) -> bool {
        let key = stored(key);
        match self.segments.is_empty() {
            true => self.few.binary_search(&key).is_ok(),
            false => self.find(key).is_ok(),
        }
    }

    /// The number of keys.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot of a key, or the one that it would take.
    fn find(&self, key: u128) -> Result<usize, usize> {
        let mut place = self.home(key);
        while place < self.places() {
            match self.at(place) {
                EMPTY => break,
                found if found == key => return Ok(place),
                found if found > key => break,
                _ => place += 1,
            }
        }
        Err(place)
    }

    /// The preferred slot of a key: higher bits, higher slots.
    fn home(&self, key: u128) -> usize {
        // A fraction of the number of slots, which is far below 2⁶⁴.
        (((key >> 64) * self.homes as u128) >> 64) as usize
    }

    fn places(&self) -> usize {
        self.segments.len() * SEGMENT
    }

    fn at(&self, place: usize) -> u128 {
        let (places, _) = self.segments[place / SEGMENT].as_chunks::<PLACE>();
        u128::from_ne_bytes(places[place % SEGMENT])
    }

    /// Puts a key into a slot and returns the previous one.
    fn replace(&mut self, place: usize, key: u128) -> u128 {
        let (places, _) = self.segments[place / SEGMENT].as_chunks_mut::<PLACE>();
        let before = std::mem::replace(&mut places[place % SEGMENT], key.to_ne_bytes());
        u128::from_ne_bytes(before)
    }

    /// Adds slots at the end. The last sixteenth of a segment is for digests displaced beyond the last preferred slot.
    fn add_segments(&mut self, more: usize) {
        for _ in 0..more {
            // New memory is zeroed, and so empty. If there is none, this aborts as any allocation does.
            let segment = MmapMut::map_anon(SEGMENT * PLACE);
            let segment = segment.unwrap_or_else(|_| handle_alloc_error(Layout::new::<[u128; SEGMENT]>()));
            self.segments.push(segment);
        }
        if self.len == 0 {
            self.homes = self.places() - SEGMENT / 16;
        }
    }

    /// Grows by an eighth and redistributes the keys.
    fn grow(&mut self) {
        self.add_segments((self.segments.len() / 8).max(1));
        self.homes = self.places() - SEGMENT / 16;
        let mut begin = self.gather();
        while !self.has_room_from(begin) {
            self.add_segments(1);
            begin = self.gather();
        }
        // No key moves to a later slot than its current one, so the following keys are not overwritten.
        let mut next = 0;
        for place in begin..self.places() {
            let key = self.replace(place, EMPTY);
            next = self.home(key).max(next);
            self.replace(next, key);
            next += 1;
        }
    }

    /// Moves all keys to the end, without gaps, and returns the first one's slot.
    fn gather(&mut self) -> usize {
        let mut begin = self.places();
        for place in (0..self.places()).rev() {
            let key = self.replace(place, EMPTY);
            if key != EMPTY {
                begin -= 1;
                self.replace(begin, key);
            }
        }
        begin
    }

    /// Whether the gathered keys fit from their preferred slots on. (They do, unless digests cluster at the end.)
    fn has_room_from(&self, begin: usize) -> bool {
        let mut next = 0;
        for place in begin..self.places() {
            next = self.home(self.at(place)).max(next) + 1;
        }
        next <= self.places()
    }
}

/// A key as a set stores it.
fn stored(key: KeyDigest) -> u128 {
    key.0.max(EMPTY + 1)
}

impl Default for KeySet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_new_once() {
        let mut set = KeySet::new();
        for n in 0..10_000 {
            assert!(set.insert(KeyDigest::of(&format!("default:extract:{n}"))));
        }
        assert_eq!(set.len(), 10_000);
        assert!(!set.insert(KeyDigest::of("default:extract:77")));
        assert!(set.contains(KeyDigest::of("default:extract:9999")));
        assert!(!set.contains(KeyDigest::of("default:extract:10000")));
    }

    #[test]
    fn a_few_keys_take_no_table() {
        let mut set = KeySet::new();
        for n in (0..FEW).rev() {
            assert!(set.insert(KeyDigest(n as u128 + 1)) && set.contains(KeyDigest(n as u128 + 1)));
        }
        assert!(!set.insert(KeyDigest(7)) && !set.contains(KeyDigest(FEW as u128 + 1)));
        assert_eq!((set.len(), set.places()), (FEW as u64, 0));
        assert!(set.insert(KeyDigest(FEW as u128 + 1)) && set.contains(KeyDigest(7)));
        assert_eq!((set.len(), set.few.len()), (FEW as u64 + 1, 0));
    }

    #[test]
    fn a_million_keys_take_at_most_twenty_bytes_each() {
        let mut set = KeySet::new();
        for n in 0..1_000_000 {
            set.insert(KeyDigest::of(&format!("default:extract:{n}")));
        }
        let bytes = set.places() * PLACE;
        assert!(bytes <= 20 * 1_000_000 + (64 << 10), "{bytes} bytes");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Digests that cluster at both ends and in one slot, so that many are displaced.
        #[test]
        fn it_is_a_set(crowd in prop::collection::vec((0..5_u128, 0..2000_u128), 1..6000)) {
            let mut set = KeySet::new();
            let mut known = BTreeSet::new();
            for (where_, n) in crowd {
                let key = match where_ {
                    0 => n,
                    1 => u128::MAX - n,
                    2 => (7 << 120) + n,
                    _ => n << 116 | n,
                };
                prop_assert_eq!(set.insert(KeyDigest(key)), known.insert(key.max(1)));
            }
            prop_assert_eq!(set.len(), known.len() as u64);
            prop_assert!(known.iter().all(|key| set.contains(KeyDigest(*key))));
            prop_assert!(!set.contains(KeyDigest(1 << 127 | 3 << 64)));
            let in_table = (0..set.places()).map(|place| set.at(place)).filter(|key| *key != EMPTY);
            prop_assert!(set.few.iter().copied().chain(in_table).eq(known));
        }
    }
}
