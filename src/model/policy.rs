//! The mode of a run, and its policies.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Moves records.
    Migrate,
    /// Counts and writes nothing.
    DryRun,
    /// Compares and writes nothing.
    Verify,
}

/// What to do with a record whose key already exists on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Replace the existing record.
    Overwrite,
    /// Keep the existing record.
    Skip,
    /// Replace the existing record if its `update_time` is older.
    Newer,
    /// Reject such records, and stop the run after their batch.
    Fail,
}

/// How thoroughly the target is compared with the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    /// Compare nothing.
    Off,
    /// Compare the number of records and a few hundred of the records that were written.
    ReadBack,
    /// Compare about a thousand records of each workspace, chosen by their keys.
    Sample,
    /// Compare every record, and count records that only the target has.
    Full,
}

/// How many rejected records stop a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxErrors {
    /// More than this number.
    Records(u64),
    /// More than this percentage of the records to move.
    Percent(f64),
}

impl std::fmt::Display for MaxErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Records(most) => write!(f, "{most}"),
            Self::Percent(most) => write!(f, "{most}%"),
        }
    }
}

impl MaxErrors {
    /// Whether `rejected` records of `total` exceed the limit.
    pub fn is_exceeded(self, rejected: u64, total: u64) -> bool {
        match self {
            Self::Records(most) => rejected > most,
            Self::Percent(most) => rejected > 0 && rejected as f64 > total as f64 * most / 100.0,
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(number) => {
                let percent: f64 = number.trim().parse().ok()?;
                (0.0..=100.0).contains(&percent).then_some(Self::Percent(percent))
            }
            None => text.parse().ok().map(Self::Records),
        }
    }
}

/// The limits of a batch: it is full when it reaches either. It may exceed the bytes by one record.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    /// How many records, at most.
    pub records: NonZeroUsize,
    /// Bytes of keys and values.
    pub bytes: NonZeroUsize,
}
