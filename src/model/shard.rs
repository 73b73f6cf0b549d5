//! Shards: the parts of a source that are moved by several runs.

use std::fmt;

/// A part of the records of a source: the `index`-th of `count`, from 0. The shards are disjoint, and together they are
/// everything.
///
/// LightRAG's keys end in an MD5 hash, whose first four digits are evenly distributed: each shard has a range of them, which
/// servers can look for. What ends otherwise belongs to the first shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

/// The digits of a hash.
const HASH_DIGITS: usize = 32;

/// The digits by which keys are shared out.
const DIGITS: usize = 4;

/// How many values they have.
const VALUES: u32 = 16_u32.pow(DIGITS as u32);

impl Shard {
    /// The most shards.
    pub const MOST: u32 = 4096;

    /// A shard; `None` where there are no or too many shards, or fewer than that.
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count && count <= Self::MOST).then_some(Self { index, count })
    }

    /// Reads `0/4`.
    pub fn parse(text: &str) -> Option<Self> {
        let (index, count) = text.split_once('/')?;
        Self::new(index.trim().parse().ok()?, count.trim().parse().ok()?)
    }

    /// Its number, from 0.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// How many shards there are.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Whether a key belongs to this shard.
    pub fn contains(self, key: &str) -> bool {
        match hash_value(key) {
            Some(value) => self.values().contains(&value),
            None => self.takes_other_keys(),
        }
    }

    /// Whether this shard has the keys that do not end in a hash.
    pub(crate) const fn takes_other_keys(self) -> bool {
        self.index == 0
    }

    fn values(self) -> std::ops::Range<u32> {
        let begin =
            |index: u32| (u64::from(index) * u64::from(VALUES)).div_ceil(u64::from(self.count)) as u32;
        begin(self.index)..begin(self.index + 1)
    }

    /// The first four digits of the hashes of this shard, the lowest and the highest.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) fn digits(self) -> (String, String) {
        let values = self.values();
        (format!("{:04x}", values.start), format!("{:04x}", values.end - 1))
    }

    /// A regular expression for the hashes of this shard, of alternatives, classes and repetitions alone.
    #[cfg_attr(not(any(feature = "mongo", feature = "opensearch")), allow(dead_code))]
    pub(crate) fn hash_pattern(self) -> String {
        let values = self.values();
        let mut alternatives = Vec::new();
        add_patterns(values.start, values.end - 1, DIGITS, "", &mut alternatives);
        format!("({})[0-9a-f]{{{}}}", alternatives.join("|"), HASH_DIGITS - DIGITS)
    }

    /// The same for every hash.
    #[cfg_attr(not(any(feature = "mongo", feature = "opensearch")), allow(dead_code))]
    pub(crate) fn any_hash_pattern() -> String {
        format!("[0-9a-f]{{{HASH_DIGITS}}}")
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// A key that ends in a hash: what precedes the hash, and its 32 lower-case hexadecimal digits.
pub(crate) fn split_hash(key: &str) -> Option<(&str, &str)> {
    let (prefix, hash) = key.split_at_checked(key.len().checked_sub(HASH_DIGITS)?)?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    hash.bytes().all(is_digit).then_some((prefix, hash))
}

/// The first four digits of the hash at the end of a key.
fn hash_value(key: &str) -> Option<u32> {
    let (_, hash) = split_hash(key)?;
    u32::from_str_radix(&hash[..DIGITS], 16).ok()
}

/// Adds patterns of so many hexadecimal digits for all numbers from one to another.
fn add_patterns(from: u32, to: u32, digits: usize, prefix: &str, patterns: &mut Vec<String>) {
    let size = 16_u32.pow(digits as u32 - 1);
    let class = |from: u32, to: u32| match from == to {
        true => format!("{from:x}"),
        // The digits 9 and a do not follow each other.
        false => format!(
            "[{}]",
            (from..=to).map(|digit| format!("{digit:x}")).collect::<String>()
        ),
    };
    let rest = |digits: usize| match digits {
        0 => String::new(),
        digits => format!("[0-9a-f]{{{digits}}}"),
    };
    let (mut first, mut last) = (from / size, to / size);
    if first == last && digits > 1 && (!from.is_multiple_of(size) || to % size != size - 1) {
        return add_patterns(
            from % size,
            to % size,
            digits - 1,
            &format!("{prefix}{first:x}"),
            patterns,
        );
    }
    if !from.is_multiple_of(size) {
        add_patterns(
            from % size,
            size - 1,
            digits - 1,
            &format!("{prefix}{first:x}"),
            patterns,
        );
        first += 1;
    }
    let is_cut = to % size != size - 1;
    if is_cut {
        add_patterns(0, to % size, digits - 1, &format!("{prefix}{last:x}"), patterns);
    }
    if is_cut && last == 0 {
        return;
    }
    last -= u32::from(is_cut);
    if first <= last {
        patterns.push(format!("{prefix}{}{}", class(first, last), rest(digits - 1)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a pattern of alternatives, classes and repetitions matches the four digits of a number.
    fn matches(pattern: &str, value: u32) -> bool {
        let text = format!("{value:04x}");
        let alternatives = pattern.strip_prefix('(').unwrap().split_once(')').unwrap().0;
        alternatives.split('|').any(|alternative| {
            let mut rest = alternative;
            let mut digits = text.chars();
            while let Some(first) = rest.chars().next() {
                let class: String;
                if first == '[' {
                    let (inner, after) = rest[1..].split_once(']').unwrap();
                    class = inner.replace("0-9a-f", "0123456789abcdef");
                    rest = after;
                } else {
                    class = first.to_string();
                    rest = &rest[1..];
                }
                let mut times = 1;
                if let Some(after) = rest.strip_prefix('{') {
                    let (number, after) = after.split_once('}').unwrap();
                    times = number.parse().unwrap();
                    rest = after;
                }
                for _ in 0..times {
                    if !digits.next().is_some_and(|digit| class.contains(digit)) {
                        return false;
                    }
                }
            }
            digits.next().is_none()
        })
    }

    proptest! {
        #[test]
        fn every_key_belongs_to_one_shard(
            keys in proptest::collection::vec("(default:extract:[0-9a-f]{32}|[0-9a-f]{32}|\\PC{0,40})", 1..50),
            count in 1_u32..=4096,
        ) {
            for key in keys {
                let owners = (0..count).filter(|index| Shard::new(*index, count).unwrap().contains(&key));
                prop_assert_eq!(owners.count(), 1, "{}", key);
            }
        }

        #[test]
        fn patterns_and_digits_say_the_same_as_the_shard(index in 0_u32..4096, count in 1_u32..=4096, value in 0_u32..65_536) {
            let shard = Shard::new(index % count, count).unwrap();
            let key = format!("default:extract:{value:04x}{}", "0".repeat(28));
            let (low, high) = shard.digits();
            let digits = format!("{value:04x}");
            prop_assert_eq!(shard.contains(&key), low <= digits && digits <= high);
            let values = shard.values();
            for value in [value, values.start, values.end - 1, (values.end) % VALUES, values.start.saturating_sub(1)] {
                prop_assert_eq!(matches(&shard.hash_pattern(), value), values.contains(&value), "{} {}", shard.hash_pattern(), value);
            }
        }
    }

    #[test]
    fn shards_are_read_from_text() {
        assert_eq!(Shard::parse("3/4").unwrap().to_string(), "3/4");
        for text in ["4/4", "0/0", "-1/4", "1", "a/b", "0/5000", ""] {
            assert_eq!(Shard::parse(text), None, "{text}");
        }
    }
}
