//! The limit of the rate at which records are moved.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroUsize},
    str::FromStr,
};

use bytesize::ByteSize;

use super::BatchLimit;

/// How much may be moved a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// Records a second.
    Records(NonZeroU64),
    /// Bytes of keys and values a second.
    Bytes(NonZeroU64),
}

impl RateLimit {
    /// Reads `1000/s` or `20MiB/s`.
    pub fn parse(text: &str) -> Option<Self> {
        let amount = text.strip_suffix("/s")?.trim();
        match amount.parse() {
            Ok(records) => Some(Self::Records(records)),
            Err(_) => {
                let bytes = ByteSize::from_str(amount).ok()?.as_u64();
                // A number alone is of records, also one that is too large or 0.
                let has_unit = amount.ends_with(|last: char| last.is_ascii_alphabetic());
                NonZeroU64::new(bytes).filter(|_| has_unit).map(Self::Bytes)
            }
        }
    }

    /// The size of a batch at this rate.
    pub(crate) fn limited(self, batch: BatchLimit) -> BatchLimit {
        let part = |rate: NonZeroU64, limit: NonZeroUsize| {
            let part = usize::try_from(rate.get() / BATCHES_PER_SECOND).unwrap_or(usize::MAX);
            NonZeroUsize::new(part).map_or(NonZeroUsize::MIN, |part| part.min(limit))
        };
        match self {
            Self::Records(rate) => BatchLimit {
                records: part(rate, batch.records),
                ..batch
            },
            Self::Bytes(rate) => BatchLimit {
                bytes: part(rate, batch.bytes),
                ..batch
            },
        }
    }
}

/// A batch contains what may be moved in this part of a second, so that the rate is even.
const BATCHES_PER_SECOND: u64 = 20;

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => write!(f, "{records}/s"),
            Self::Bytes(bytes) => write!(f, "{}/s", ByteSize(bytes.get())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_records_or_of_bytes() {
        let records = |number| NonZeroU64::new(number).map(RateLimit::Records);
        let bytes = |number| NonZeroU64::new(number).map(RateLimit::Bytes);
        assert_eq!(RateLimit::parse("1000/s"), records(1000));
        assert_eq!(RateLimit::parse("20MiB/s"), bytes(20 << 20));
        assert_eq!(RateLimit::parse("1.5 MB/s"), bytes(1_500_000));
        for text in ["1000", "20MiB", "0/s", "-1/s", "0MiB/s", "fast/s", "/s", "1.5/s"] {
            assert_eq!(RateLimit::parse(text), None, "{text}");
        }
    }

    #[test]
    fn batches_are_small_enough_for_the_rate() {
        let number = |n| NonZeroUsize::new(n).unwrap();
        let batch = BatchLimit {
            records: number(1000),
            bytes: number(1 << 20),
        };
        let limited = |rate| RateLimit::parse(rate).unwrap().limited(batch);
        assert_eq!(limited("1000/s").records, number(50));
        assert_eq!(limited("3/s").records, number(1));
        assert_eq!(limited("1MiB/s").bytes, number((1 << 20) / 20));
        assert_eq!(limited("1000MiB/s").bytes, number(1 << 20));
    }
}
