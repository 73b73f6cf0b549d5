//! What a run is asked to do, and the policies it follows.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Moves records.
    Migrate,
    /// Counts and writes nothing.
    DryRun,
    /// Compares and writes nothing.
    Verify,
}

/// What to do with a record whose key the target has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Replace it.
    Overwrite,
    /// Leave it.
    Skip,
    /// Replace it if its `update_time` is older than that of the record that comes.
    Newer,
    /// Stop the run.
    Fail,
}

/// How thoroughly the target is compared with the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    /// Not at all.
    Off,
    /// Only a few hundred of the records that were written, and the number of records.
    ReadBack,
    /// About a thousand records of each workspace, chosen by their keys.
    Sample,
    /// Every record, and what the target has beyond.
    Full,
}

/// How many rejected records end a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxErrors {
    /// More than so many.
    Records(u64),
    /// More than so many percent of what there is to move.
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
    /// Whether so many rejected records of so many are too many.
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

/// A batch is full when it reaches either limit. It may go beyond the bytes by one record.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    /// Records.
    pub records: NonZeroUsize,
    /// Bytes of keys and values.
    pub bytes: NonZeroUsize,
}
