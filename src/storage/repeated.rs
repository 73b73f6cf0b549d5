//! Which keys of a file come more than once, in memory that hardly grows with their number.

use std::collections::HashSet;

use crate::model::record::KeyDigest;

/// The keys that seem to come more than once. A few of them do not: whoever needs to know looks at those a second time.
#[derive(Debug)]
pub(super) struct Repeated {
    filter: Filter,
    keys: HashSet<KeyDigest>,
}

/// With 32 bits or more for a key and [`Filter::PROBES`] of them set, one key in two million looks as if it had been there.
const BITS_PER_KEY: u64 = 32;

impl Repeated {
    /// For about so many keys.
    pub(super) fn among(keys: u64) -> Self {
        Self {
            filter: Filter::for_keys(keys),
            keys: HashSet::new(),
        }
    }

    /// Adds a key.
    pub(super) fn insert(&mut self, key: KeyDigest) {
        if self.filter.insert(key) {
            self.keys.insert(key);
        }
    }

    /// The keys that seem to have been added more than once.
    pub(super) fn keys(&self) -> &HashSet<KeyDigest> {
        &self.keys
    }
}

/// A Bloom filter: remembers keys in a few bits each, and sometimes believes to have seen one that it has not.
#[derive(Debug)]
struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// Bits that a key sets.
    const PROBES: u64 = 12;

    fn for_keys(keys: u64) -> Self {
        let bits = usize::try_from(keys.saturating_mul(BITS_PER_KEY))
            .unwrap_or(usize::MAX)
            .clamp(1 << 16, 1 << 31);
        Self {
            words: vec![0; bits.next_power_of_two() / 64],
        }
    }

    /// Adds a key; whether it may have been there before.
    fn insert(&mut self, key: KeyDigest) -> bool {
        // Two halves of the digest make as many probes as wanted (Kirsch and Mitzenmacher, 2006).
        let (mut probe, step) = (key.bits() as u64, (key.bits() >> 64) as u64 | 1);
        // The number of words is a power of two.
        let mask = self.words.len() as u64 - 1;
        let mut there = true;
        for _ in 0..Self::PROBES {
            let word = &mut self.words[(probe >> 6 & mask) as usize];
            let bit = 1 << (probe & 63);
            there &= *word & bit != 0;
            *word |= bit;
            probe = probe.wrapping_add(step);
        }
        there
    }
}
