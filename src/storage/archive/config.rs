//! Where the archive is, and how hard to compress.

use std::path::{Path, PathBuf};

use crate::model::{Error, Result, Values};

/// The settings of an archive.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) file: PathBuf,
    /// The level of Zstandard; `None` for an archive that is not compressed.
    pub(super) level: Option<i32>,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// One is missing or invalid.
    pub(super) fn new(values: &Values) -> Result<Self> {
        let Some(file) = values.text("file").filter(|file| !file.is_empty()) else {
            let side = values.side();
            return Err(
                Error::config(format!("{side}: an archive needs a file")).with_remedy(format!(
                    "write --{side} FILE.jsonl.zst, or `{side}: {{ kind: archive, file: … }}`"
                )),
            );
        };
        let is_packed = Path::new(file)
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("zst"));
        const LEVELS: &str = "expected a number from 1 to 19";
        let level: i32 = values.parse("level", LEVELS)?.unwrap_or(3);
        if !(1..=19).contains(&level) {
            return Err(values.invalid("level", LEVELS));
        }
        Ok(Self {
            file: file.into(),
            level: is_packed.then_some(level),
        })
    }
}
