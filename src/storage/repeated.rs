//! Finding the repeated keys of a file in little memory.

use std::collections::{HashMap, HashSet};

use crate::model::record::KeyDigest;

/// The keys that seem to be repeated. A few are not, so the caller must check them again.
#[derive(Debug)]
pub(super) struct Repeated {
    filter: Filter,
    keys: HashSet<KeyDigest>,
}

/// With at least 32 bits per key and [`Filter::PROBES`] of them set, one key in two million is a false positive.
const BITS_PER_KEY: u64 = 32;

impl Repeated {
    /// A filter for about this many keys.
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

    /// Whether no key was added more than once.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A second look at the keys, at places of this type.
    pub(super) fn look_again<P: Copy>(&self) -> SecondLook<'_, P> {
        SecondLook {
            keys: &self.keys,
            found: HashMap::new(),
        }
    }
}

/// A second pass over the entries, which finds out which keys are really repeated.
#[derive(Debug)]
pub(super) struct SecondLook<'a, P> {
    keys: &'a HashSet<KeyDigest>,
    /// How often each was found, and where last.
    found: HashMap<KeyDigest, (u64, P)>,
}

impl<P: Copy> SecondLook<'_, P> {
    /// Notes an entry. Returns whether its key occurred before.
    pub(super) fn note(&mut self, key: KeyDigest, place: P) -> bool {
        if !self.keys.contains(&key) {
            return false;
        }
        let (times, last) = self.found.entry(key).or_insert((0, place));
        *times += 1;
        *last = place;
        *times > 1
    }

    /// The entries that later ones replace.
    pub(super) fn superseded(self) -> Superseded<P> {
        let repeated = self.found.into_iter().filter(|(_, (times, _))| *times > 1);
        Superseded(repeated.map(|(key, (_, last))| (key, last)).collect())
    }
}

/// The last place of each repeated key: only the entry there counts.
#[derive(Debug)]
pub(super) struct Superseded<P>(HashMap<KeyDigest, P>);

impl<P> Default for Superseded<P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<P: PartialOrd> Superseded<P> {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a later entry with the same key replaces the one at this place. The digest is only computed if there are
    /// repeated keys at all.
    pub(super) fn contains(&self, key: impl FnOnce() -> KeyDigest, place: P) -> bool {
        !self.0.is_empty() && self.0.get(&key()).is_some_and(|last| place < *last)
    }
}

/// A Bloom filter: a set of keys that takes a few bits per key and has rare false positives.
#[derive(Debug)]
struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// The bits set per key.
    const PROBES: u64 = 12;

    fn for_keys(keys: u64) -> Self {
        let bits = usize::try_from(keys.saturating_mul(BITS_PER_KEY))
            .unwrap_or(usize::MAX)
            .clamp(1 << 16, 1 << 31);
        Self {
            words: vec![0; bits.next_power_of_two() / 64],
        }
    }

    /// Adds a key. Returns whether it may have been added before.
    fn insert(&mut self, key: KeyDigest) -> bool {
        // Two halves of the digest yield any number of probes (Kirsch and Mitzenmacher, 2006).
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
