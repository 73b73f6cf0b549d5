//! Where the archive is, and how hard to compress.

use std::{fmt, path::PathBuf};

use super::info::INFO;
use crate::model::{Error, Result, Values, redact_url};

/// The settings of an archive.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) place: ArchivePlace,
    /// The level of Zstandard; `None` for an archive that is not compressed.
    pub(super) level: Option<i32>,
    /// A service that is compatible with S3.
    #[cfg_attr(not(feature = "bucket"), allow(dead_code))]
    pub(super) endpoint: Option<String>,
}

/// Where an archive is.
#[derive(Clone, Debug)]
pub(super) enum ArchivePlace {
    File(PathBuf),
    /// An address in a bucket.
    Bucket(String),
}

impl fmt::Display for ArchivePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Bucket(address) => f.write_str(&redact_url(address, &[])),
        }
    }
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// One is missing or invalid.
    pub(super) fn new(values: &Values) -> Result<Self> {
        const LEVELS: &str = "expected a number from 1 to 19";
        let Some(file) = values.text("file").filter(|file| !file.is_empty()) else {
            let side = values.side();
            return Err(Error::config("an archive needs a file").with_remedy(format!(
                "write --{side} FILE.jsonl.zst, or `{side}: {{ kind: archive, file: … }}`"
            )));
        };
        let level: i32 = values.parse("level", LEVELS)?.unwrap_or(3);
        if !(1..=19).contains(&level) {
            return Err(values.invalid("level", LEVELS));
        }
        let lower = file.to_ascii_lowercase();
        let has_scheme = |scheme: &&str| {
            lower
                .strip_prefix(*scheme)
                .is_some_and(|rest| rest.starts_with("://"))
        };
        let place = if INFO.schemes.iter().any(has_scheme) {
            if !INFO.path_endings.iter().any(|ending| lower.ends_with(ending)) {
                let endings = INFO.path_endings.join(" or ");
                return Err(values.invalid("file", &format!("expected an address that ends in {endings}")));
            }
            ArchivePlace::Bucket(file.to_owned())
        } else {
            ArchivePlace::File(file.into())
        };
        Ok(Self {
            place,
            level: lower.ends_with(".zst").then_some(level),
            endpoint: values.text("endpoint").map(str::to_owned),
        })
    }
}
