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
        let place = if is_in_bucket(file) {
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

    /// The file alone, unless the archive is in a bucket or the file is missing. Other settings may be invalid.
    pub(super) fn file(values: &Values) -> Option<PathBuf> {
        let file = values.text("file").filter(|file| !file.is_empty())?;
        (!is_in_bucket(file)).then(|| file.into())
    }
}

/// Whether it is the address of an archive in a bucket.
fn is_in_bucket(file: &str) -> bool {
    let scheme = file.split_once("://").map(|(scheme, _)| scheme);
    let is_known = |scheme: &str| {
        INFO.schemes
            .iter()
            .any(|known| known.eq_ignore_ascii_case(scheme))
    };
    scheme.is_some_and(is_known)
}
