//! The keys of many workspaces, found in one look at the whole database.
//!
//! A server looks at all its keys to find those of one workspace. Where a run reads many, it looks once for as many of
//! them as fit in memory.

use std::collections::HashMap;

use super::codec::prefix_of;
use crate::storage::gathered::Gathered;

/// The most that keys may take up in memory, about.
const MOST_BYTES: usize = 12 << 20;

/// What a workspace takes up beside its keys.
const WORKSPACE_BYTES: usize = 128;

/// The keys of one workspace as they were found, some of them twice.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Each after its length, without the common prefix.
    packed: Vec<u8>,
    at: usize,
}

impl Keys {
    fn push(&mut self, key: &[u8]) {
        // No key of a server has 4 GiB.
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        self.packed.extend_from_slice(&length.to_le_bytes());
        self.packed.extend_from_slice(key);
    }

    /// The next keys after a prefix; `None` at the end.
    pub(super) fn next(&mut self, prefix: &str, most: usize) -> Option<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        while keys.len() < most
            && let Some((length, rest)) = self.packed[self.at..].split_first_chunk::<4>()
        {
            let length = u32::from_le_bytes(*length) as usize;
            let key = rest.get(..length)?;
            self.at += 4 + length;
            keys.push([prefix.as_bytes(), key].concat());
        }
        (!keys.is_empty()).then_some(keys)
    }
}

/// What was found so far.
pub(super) struct Gathering {
    prefixes: Vec<String>,
    ranks: HashMap<Vec<u8>, usize>,
    /// By rank. The last ones are dropped when there is no space for all.
    found: Vec<Keys>,
    bytes: usize,
}

impl Gathering {
    /// Nothing of workspaces with these prefixes.
    pub(super) fn of(mut prefixes: Vec<String>) -> Self {
        prefixes.truncate(MOST_BYTES / WORKSPACE_BYTES);
        let ranked = prefixes.iter().enumerate();
        Self {
            ranks: ranked
                .map(|(rank, prefix)| (prefix.clone().into_bytes(), rank))
                .collect(),
            found: prefixes.iter().map(|_| Keys::default()).collect(),
            bytes: prefixes.len() * WORKSPACE_BYTES,
            prefixes,
        }
    }

    /// Adds a key, if it is of one of them.
    pub(super) fn add(&mut self, key: &[u8]) {
        let Some(prefix) = prefix_of(key) else { return };
        let Some(found) = self.ranks.get(prefix).and_then(|rank| self.found.get_mut(*rank)) else {
            return;
        };
        let before = found.packed.capacity();
        found.push(&key[prefix.len()..]);
        self.bytes += found.packed.capacity() - before;
        while self.bytes > MOST_BYTES
            && let Some(last) = self.found.pop()
        {
            self.bytes -= last.packed.capacity() + WORKSPACE_BYTES;
        }
    }

    /// Keeps what was found, by prefix. Gives of how many workspaces that is, from the first on. Of a single one nothing is
    /// kept: to look for its keys when they are wanted costs no more.
    pub(super) fn keep_in(self, gathered: &Gathered<Keys>) -> usize {
        let most = self.found.len();
        if most > 1 {
            // The last of two of one name has its keys.
            gathered.replace(self.prefixes.into_iter().zip(self.found).collect());
        }
        most.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(workspaces: usize) -> Vec<String> {
        (0..workspaces)
            .map(|n| format!("w{n}_llm_response_cache:"))
            .collect()
    }

    fn gather(gathered: &Gathered<Keys>, prefixes: &[String], keys: Vec<Vec<u8>>) -> usize {
        let mut gathering = Gathering::of(prefixes.to_vec());
        keys.iter().for_each(|key| gathering.add(key));
        gathering.keep_in(gathered)
    }

    fn all(mut keys: Keys, prefix: &str) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(some) = keys.next(prefix, 2) {
            assert!(some.len() <= 2);
            all.extend(some.into_iter().map(|key| String::from_utf8(key).unwrap()));
        }
        all
    }

    #[test]
    fn each_workspace_gets_its_keys_once_and_nobody_those_of_others() {
        let prefixes = prefixes(3);
        let keys = ["w1_", "w0_", "w1_", "other_", "w1_", "", "w10_"]
            .iter()
            .enumerate();
        let keys = keys
            .map(|(n, workspace)| format!("{workspace}llm_response_cache:default:extract:{n}").into_bytes());
        let gathered = Gathered::default();
        assert_eq!(gather(&gathered, &prefixes, keys.collect()), 3);
        let of = |n: usize| all(gathered.take(&prefixes[n]).unwrap(), &prefixes[n]);
        let key = |n: usize, hash| format!("{}default:extract:{hash}", prefixes[n]);
        assert_eq!(of(1), [key(1, 0), key(1, 2), key(1, 4)]);
        assert_eq!(of(0), [key(0, 1)]);
        // Nothing was found, which is something else than not to have looked.
        assert_eq!(of(2), [""; 0]);
        assert!(gathered.take(&prefixes[1]).is_none());
    }

    #[test]
    fn what_does_not_fit_is_left_to_a_later_look() {
        let prefixes = prefixes(100);
        let long = "x".repeat(MOST_BYTES / 40);
        let keys = prefixes
            .iter()
            .map(|prefix| format!("{prefix}{long}").into_bytes());
        let gathered = Gathered::default();
        let first = gather(&gathered, &prefixes, keys.collect());
        assert!((10..40).contains(&first), "{first}");
        assert_eq!(all(gathered.take(&prefixes[first - 1]).unwrap(), "").len(), 1);
        assert!(gathered.take(&prefixes[first]).is_none());
    }

    #[test]
    fn a_workspace_too_large_to_be_gathered_is_one_that_was_looked_at() {
        let prefixes = prefixes(2);
        let key = format!("{}{}", prefixes[0], "x".repeat(MOST_BYTES + 1));
        let gathered = Gathered::default();
        assert_eq!(gather(&gathered, &prefixes, vec![key.into_bytes()]), 1);
        assert!(gathered.take(&prefixes[0]).is_none());
    }
}
