//! Remembering which keys were seen, in little memory.

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

    /// The digest of a key that may be no text.
    pub fn of_bytes(key: &[u8]) -> Self {
        Self(xxh3_128(key))
    }

    /// The digest as bits.
    pub fn bits(self) -> u128 {
        self.0
    }
}

/// A set of keys in at most 20 bytes a key.
///
/// Digests are spread over small sorted runs that grow by a quarter at a time: a hash table would double, and a
/// moment after doubling it holds two empty places for every key.
#[derive(Debug)]
pub struct KeySet {
    runs: Vec<Vec<u128>>,
    len: u64,
}

/// Bits of a digest that choose its run. 4,096 runs keep one of a million keys at 244 digests, which an insertion
/// moves in less time than it takes to fetch one cache line from memory.
const RUN_BITS: u32 = 12;

impl KeySet {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            runs: vec![Vec::new(); 1 << RUN_BITS],
            len: 0,
        }
    }

    /// Adds a key; `false` where it was there already.
    pub fn insert(&mut self, key: KeyDigest) -> bool {
        let run = &mut self.runs[(key.0 >> (u128::BITS - RUN_BITS)) as usize];
        match run.binary_search(&key.0) {
            Ok(_) => false,
            Err(place) => {
                if run.len() == run.capacity() {
                    run.reserve_exact(run.len() / 4 + 4);
                }
                run.insert(place, key.0);
                self.len += 1;
                true
            }
        }
    }

    /// Whether a key is there.
    pub fn contains(&self, key: KeyDigest) -> bool {
        self.runs[(key.0 >> (u128::BITS - RUN_BITS)) as usize]
            .binary_search(&key.0)
            .is_ok()
    }

    /// How many keys are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for KeySet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
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
    fn a_million_keys_take_at_most_twenty_bytes_each() {
        let mut set = KeySet::new();
        for n in 0..1_000_000 {
            set.insert(KeyDigest::of(&format!("default:extract:{n}")));
        }
        let bytes: usize = set.runs.iter().map(|run| run.capacity() * 16).sum();
        assert!(bytes <= 20 * 1_000_000 + (24 << RUN_BITS), "{bytes} bytes");
    }
}
