//! Which records a run moves.

use std::{collections::BTreeSet, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of answer that LightRAG caches: the middle part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// Entities and relations extracted from a chunk of a file.
    Extract,
    /// Summaries of entity and relation descriptions.
    Summary,
    /// Analyses made while files are read (since LightRAG 1.5).
    Analysis,
    /// Answers to users' questions, in any mode.
    Query,
    /// Keywords of users' questions, in any mode.
    Keywords,
}

impl CacheType {
    /// Every type, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [
        Self::Extract,
        Self::Summary,
        Self::Analysis,
        Self::Query,
        Self::Keywords,
    ];

    /// The text that stands in keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Summary => "summary",
            Self::Analysis => "analysis",
            Self::Query => "query",
            Self::Keywords => "keywords",
        }
    }

    /// The type of the record behind a key, `None` for a key that is none of the five.
    ///
    /// What comes from files has the mode `default`; what comes from questions has the mode of the question.
    pub fn of_key(key: &str) -> Option<Self> {
        let (mode, rest) = key.split_once(':')?;
        let (cache_type, _) = rest.split_once(':')?;
        let found = Self::ALL.into_iter().find(|t| t.as_str() == cache_type)?;
        (!found.is_from_files() || mode == "default").then_some(found)
    }

    /// Whether this type comes from the extraction of files, and so moves unless told otherwise.
    pub const fn is_from_files(self) -> bool {
        matches!(self, Self::Extract | Self::Summary | Self::Analysis)
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        Self::ALL.into_iter().find(|t| t.as_str() == text).ok_or_else(|| {
            format!("`{text}` is no cache type; expected some of extract, summary, analysis, query, keywords, with commas between them")
        })
    }
}

/// The cache types that a run moves. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Selection {
    types: BTreeSet<CacheType>,
}

impl Selection {
    /// A selection of these types; `None` where there are none.
    pub fn new(types: impl IntoIterator<Item = CacheType>) -> Option<Self> {
        let types: BTreeSet<_> = types.into_iter().collect();
        (!types.is_empty()).then_some(Self { types })
    }

    /// The selected types.
    pub fn types(&self) -> impl Iterator<Item = CacheType> + '_ {
        self.types.iter().copied()
    }

    /// The type of the record behind a key, where the key is selected.
    pub fn of_key(&self, key: &str) -> Option<CacheType> {
        CacheType::of_key(key).filter(|t| self.types.contains(t))
    }

    /// What a selected key begins with, for servers that can filter by it; `None` where some selected key may
    /// have any beginning (queries have the mode of the question), so that the reader filters by
    /// [`Selection::of_key`] alone.
    pub fn prefixes(&self) -> Option<Vec<String>> {
        self.types
            .iter()
            .map(|t| t.is_from_files().then(|| format!("default:{t}:")))
            .collect()
    }
}

impl Default for Selection {
    /// What comes from the extraction of files.
    fn default() -> Self {
        Self {
            types: CacheType::ALL.into_iter().filter(|t| t.is_from_files()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_types_are_selected_in_the_default_mode_alone() {
        let selection = Selection::default();
        assert_eq!(selection.of_key("default:extract:ab"), Some(CacheType::Extract));
        assert_eq!(selection.of_key("mix:extract:ab"), None);
        assert_eq!(selection.of_key("mix:query:ab"), None);
        assert_eq!(selection.of_key("default:extraction:ab"), None);
        assert_eq!(selection.of_key("default"), None);
    }

    #[test]
    fn query_types_are_selected_in_every_mode() {
        let selection = Selection::new([CacheType::Query]).unwrap();
        assert_eq!(selection.of_key("mix:query:ab"), Some(CacheType::Query));
        assert_eq!(selection.of_key("global:query:ab"), Some(CacheType::Query));
        assert_eq!(selection.of_key("global:keywords:ab"), None);
        assert_eq!(selection.prefixes(), None);
    }

    #[test]
    fn only_file_types_can_be_found_by_prefix() {
        let prefixes = Selection::default().prefixes().unwrap();
        assert_eq!(
            prefixes,
            ["default:extract:", "default:summary:", "default:analysis:"]
        );
    }
}
