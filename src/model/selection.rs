//! The selection of records, and counts by type.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Shard, SortedMap, record::KeyForm};

/// The mode of everything that LightRAG caches while it processes documents.
pub const FILE_MODE: &str = "default";

/// The prefix of every key of that mode.
pub(crate) const FILE_PREFIX: &str = "default:";

/// A kind of answer that LightRAG caches: the middle part of a key.
///
/// LightRAG adds types from version to version, so unknown types are treated like the known ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheType {
    /// Entities and relations extracted from a chunk of a document.
    Extract,
    /// Summaries of entity and relation descriptions.
    Summary,
    /// Analyses made while documents are processed (since LightRAG 1.5).
    Analysis,
    /// Headings of docx files (since LightRAG 1.5.5).
    SmartHeading,
    /// Answers to queries, in any mode.
    Query,
    /// Keywords of queries, in any mode.
    Keywords,
    /// Any other type, by its name.
    Named(Arc<str>),
    /// The key does not have the form `{mode}:{cache_type}:{hash}`.
    Unrecognized,
    /// Types that are not counted individually, because their names are too long or there are too many.
    Other,
}

impl CacheType {
    /// The types that LightRAG 1.5.7 writes while it processes documents.
    pub const FROM_FILES: [Self; 4] = [Self::Extract, Self::Summary, Self::Analysis, Self::SmartHeading];

    /// The types of queries, which have the mode of the query.
    pub const OF_QUESTIONS: [Self; 2] = [Self::Query, Self::Keywords];

    /// Longer names are not counted individually. LightRAG's column allows 32 characters.
    const LONGEST_NAME: usize = 64;

    /// The text in keys and in reports.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Extract => "extract",
            Self::Summary => "summary",
            Self::Analysis => "analysis",
            Self::SmartHeading => "smartheading",
            Self::Query => "query",
            Self::Keywords => "keywords",
            Self::Named(name) => name,
            // Not a valid name of a type, so it cannot be selected.
            Self::Unrecognized => "(unrecognized)",
            Self::Other => "(other)",
        }
    }

    /// The type of this name.
    pub fn of_name(name: &str) -> Self {
        let known = Self::FROM_FILES.into_iter().chain(Self::OF_QUESTIONS);
        let known = known.chain([Self::Unrecognized, Self::Other]);
        match known.into_iter().find(|known| known.as_str() == name) {
            Some(known) => known,
            None if name.len() > Self::LONGEST_NAME => Self::Other,
            None => Self::Named(name.into()),
        }
    }

    /// The type of a key.
    pub fn of_key(key: &str) -> Self {
        match KeyForm::of(key) {
            KeyForm::Cache { cache_type, .. } => Self::of_name(cache_type),
            _ => Self::Unrecognized,
        }
    }

    /// Whether this type is selected in every mode, not only in [`FILE_MODE`].
    pub const fn is_of_questions(&self) -> bool {
        matches!(self, Self::Query | Self::Keywords)
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > Self::LONGEST_NAME || !name.chars().all(is_name) {
            return Err(format!(
                "`{name}` is not a cache type: expected names of up to {} letters, digits, `_`, `-` and `.` with \
                 commas between them, as in `extract,summary`; or `default` (everything from documents) or `all`",
                Self::LONGEST_NAME
            ));
        }
        Ok(Self::of_name(name))
    }
}

impl Serialize for CacheType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CacheType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of_name(&Cow::<'de, str>::deserialize(deserializer)?))
    }
}

impl JsonSchema for CacheType {
    fn schema_name() -> Cow<'static, str> {
        "CacheType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The middle part of a key: `extract`, `summary`, `analysis`, `smartheading`, `query`, \
                `keywords`, or what other versions of LightRAG write. `(unrecognized)` is a key without such a part; \
                `(other)` groups the types after the first hundred.",
            "examples": ["extract"],
        })
    }
}

/// A rule that selects keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyRule {
    /// The key begins so.
    Prefix(String),
    /// The key has this type, in any mode.
    Type(CacheType),
}

/// The records that a run moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Whether every entry is selected.
    everything: bool,
    /// Whether every key of [`FILE_MODE`] is selected.
    from_files: bool,
    /// Further types: those of queries in every mode, others in [`FILE_MODE`].
    types: BTreeSet<CacheType>,
    /// The shard of all these that is selected.
    shard: Option<Shard>,
}

impl Selection {
    const DEFAULT: &str = FILE_MODE;
    const ALL: &str = "all";

    /// A selection of these types; `None` if there are none.
    pub fn new(types: impl IntoIterator<Item = CacheType>) -> Option<Self> {
        let types: BTreeSet<_> = types.into_iter().collect();
        (!types.is_empty()).then_some(Self {
            everything: false,
            from_files: false,
            types,
            shard: None,
        })
    }

    /// A selection of every entry.
    pub fn all() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// Parses a list of names: types, `default` and `all`.
    ///
    /// # Errors
    /// A name is invalid, or there are none.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut selection = Self {
            everything: false,
            from_files: false,
            types: BTreeSet::new(),
            shard: None,
        };
        for name in names {
            match name.trim() {
                Self::DEFAULT => selection.from_files = true,
                Self::ALL => selection.everything = true,
                name => {
                    selection.types.insert(name.parse()?);
                }
            }
        }
        let is_empty = !selection.everything && !selection.from_files && selection.types.is_empty();
        if is_empty {
            return Err("expected at least one cache type".to_owned());
        }
        Ok(selection)
    }

    /// The types that are selected by their names.
    pub fn named_types(&self) -> impl Iterator<Item = &str> {
        self.types.iter().map(CacheType::as_str)
    }

    /// The names that [`Selection::parse`] reads as this selection.
    pub fn names(&self) -> Vec<&str> {
        if self.everything {
            return vec![Self::ALL];
        }
        let default = self.from_files.then_some(Self::DEFAULT);
        default
            .into_iter()
            .chain(self.types.iter().map(CacheType::as_str))
            .collect()
    }

    /// The same, of a shard of the records.
    #[must_use]
    pub fn of_shard(self, shard: Option<Shard>) -> Self {
        Self { shard, ..self }
    }

    /// The shard of the records that is selected; `None` for all of them.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Whether a key is selected.
    pub fn contains(&self, key: &str) -> bool {
        self.is_of_shard(key) && self.contains_kind(key)
    }

    /// Whether a key belongs to the shard that is selected, whatever its type.
    pub(crate) fn is_of_shard(&self, key: &str) -> bool {
        self.shard.is_none_or(|shard| shard.contains(key))
    }

    /// Whether keys of the mode and the type of this one are selected, in one shard or another.
    pub(crate) fn contains_kind(&self, key: &str) -> bool {
        if self.everything || (self.from_files && key.starts_with(FILE_PREFIX)) {
            return true;
        }
        match KeyForm::of(key) {
            KeyForm::Cache { mode, cache_type } => self
                .types
                .iter()
                .any(|t| t.as_str() == cache_type && (mode == FILE_MODE || t.is_of_questions())),
            _ => false,
        }
    }

    /// The type of a key, if keys of its mode and type are selected, in one shard or another.
    pub fn of_key(&self, key: &str) -> Option<CacheType> {
        self.contains_kind(key).then(|| CacheType::of_key(key))
    }

    /// The rules of which a selected key matches at least one; `None` if every key is selected. A shard is no rule.
    ///
    /// Their texts consist of letters, digits, `:`, `_`, `-` and `.`.
    pub(crate) fn rules(&self) -> Option<Vec<KeyRule>> {
        if self.everything {
            return None;
        }
        let mut rules = Vec::new();
        if self.from_files {
            rules.push(KeyRule::Prefix(FILE_PREFIX.to_owned()));
        }
        for cache_type in &self.types {
            if cache_type.is_of_questions() {
                rules.push(KeyRule::Type(cache_type.clone()));
            } else if !self.from_files {
                rules.push(KeyRule::Prefix(format!("{FILE_PREFIX}{cache_type}:")));
            }
        }
        Some(rules)
    }

    /// The prefixes of all selected keys, for servers that can filter by them. `None` if a selected key may begin with
    /// anything, as those of queries do; the reader then filters by [`Selection::contains`].
    pub fn prefixes(&self) -> Option<Vec<String>> {
        let rules = self.rules()?.into_iter();
        rules
            .map(|rule| match rule {
                KeyRule::Prefix(prefix) => Some(prefix),
                KeyRule::Type(_) => None,
            })
            .collect()
    }
}

impl Default for Selection {
    /// Everything made from documents.
    fn default() -> Self {
        Self {
            everything: false,
            from_files: true,
            types: BTreeSet::new(),
            shard: None,
        }
    }
}

impl Serialize for Selection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl JsonSchema for Selection {
    fn schema_name() -> Cow<'static, str> {
        "Selection".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": {"type": "string"},
            "description": "What is moved: `default` (everything from documents), `all` (every record), or cache types.",
        })
    }
}

/// A kind of entry that a selection leaves out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LeftOutKind {
    /// The mode, the first part of the key; null for a key without one.
    pub mode: Option<String>,
    /// The type, the second part of the key; `(unrecognized)` for a key of another form, `(other)` for kinds that are not
    /// counted individually.
    #[serde(rename = "type")]
    pub cache_type: CacheType,
    /// The form of an unrecognized key: `md5`, a prefix such as `multimodal_query:`, or `other`; null for a recognized one.
    pub form: Option<String>,
}

impl LeftOutKind {
    /// Longer modes and prefixes are not counted individually.
    const LONGEST_TEXT: usize = 64;

    /// All kinds that are not counted individually.
    pub const OTHER: Self = Self {
        mode: None,
        cache_type: CacheType::Other,
        form: None,
    };

    /// The kind of a key.
    pub fn of_key(key: &str) -> Self {
        let unrecognized = |form: &str| Self {
            mode: None,
            cache_type: CacheType::Unrecognized,
            form: Some(form.into()),
        };
        match KeyForm::of(key) {
            KeyForm::Cache { mode, cache_type } if mode.len() <= Self::LONGEST_TEXT => Self {
                mode: Some(mode.into()),
                cache_type: CacheType::of_name(cache_type),
                form: None,
            },
            KeyForm::Cache { .. } => Self::OTHER,
            KeyForm::Md5 => unrecognized("md5"),
            KeyForm::Prefixed(prefix) if prefix.len() <= Self::LONGEST_TEXT => unrecognized(prefix),
            KeyForm::Prefixed(_) | KeyForm::Other => unrecognized("other"),
        }
    }
}

impl fmt::Display for LeftOutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.mode, &self.form) {
            (Some(mode), _) => write!(f, "{mode}:{}", self.cache_type),
            (None, Some(form)) => write!(f, "keys of an unrecognized form ({form})"),
            (None, None) => f.write_str("others"),
        }
    }
}

/// How many kinds or types are counted individually. A file may contain a million; real ones contain a dozen.
const MOST_COUNTED: usize = 100;

/// Numbers by kind, for the first hundred kinds; further kinds are counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts<K>(SortedMap<K, u64>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(SortedMap::default())
    }
}

impl<K: Ord + Clone> Counts<K> {
    /// Adds records of a kind, or of `other` if the kind is not counted individually.
    pub fn add(&mut self, kind: K, other: K, records: u64) {
        let label = self.label(kind, other);
        *self.0.or_default(label) += records;
    }

    /// Subtracts one record.
    pub fn remove(&mut self, kind: &K, other: &K) {
        for kind in [kind, other] {
            if let Some(number) = self.0.get_mut(kind).filter(|number| **number > 0) {
                *number -= 1;
                return;
            }
        }
    }

    /// Adds the numbers of others.
    pub fn merge(&mut self, others: &Self, other: &K) {
        for (kind, records) in others.iter() {
            self.add(kind.clone(), other.clone(), records);
        }
    }

    /// The kind under which records of this kind are counted: itself, or `other`.
    pub fn label(&self, kind: K, other: K) -> K {
        if self.0.len() < MOST_COUNTED || self.0.get(&kind).is_some() {
            kind
        } else {
            other
        }
    }

    /// The numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u64)> {
        self.0.iter().map(|(kind, records)| (kind, *records))
    }

    /// The number of a kind.
    pub fn get(&self, kind: &K) -> u64 {
        self.0.get(kind).copied().unwrap_or(0)
    }

    /// The numbers as a map.
    pub fn to_map(&self) -> BTreeMap<K, u64> {
        self.iter()
            .map(|(kind, records)| (kind.clone(), records))
            .collect()
    }

    /// The sum of all numbers.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// The number of entries that a selection leaves out, by kind.
pub type LeftOut = Counts<LeftOutKind>;

impl LeftOut {
    /// The kinds with their numbers, as reports list them.
    pub fn list(&self) -> Vec<LeftOutRecords> {
        self.iter()
            .filter(|(_, records)| *records > 0)
            .map(|(kind, records)| LeftOutRecords {
                kind: kind.clone(),
                records,
            })
            .collect()
    }
}

/// The number of entries of a kind that a selection leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOutRecords {
    /// Type and form, as far as the key shows them.
    #[serde(flatten)]
    pub kind: LeftOutKind,
    /// How many.
    pub records: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0cc175b9c0f1b6a831c399e269772661";

    fn selection(names: &str) -> Selection {
        Selection::parse(names.split(',')).unwrap()
    }

    #[test]
    fn every_type_of_the_default_mode_is_selected_by_default() {
        let selection = Selection::default();
        for (key, cache_type) in [
            ("default:extract:ab", CacheType::Extract),
            ("default:smartheading:ab", CacheType::SmartHeading),
            ("default:of_tomorrow:ab", CacheType::of_name("of_tomorrow")),
            ("default:None:ab", CacheType::of_name("None")),
            ("default:ab", CacheType::Unrecognized),
        ] {
            assert_eq!(selection.of_key(key), Some(cache_type), "{key}");
        }
        for key in [
            "mix:extract:ab",
            "mix:query:ab",
            "defaultx:extract:ab",
            "default",
            HASH,
        ] {
            assert_eq!(selection.of_key(key), None, "{key}");
        }
        assert_eq!(selection.names(), ["default"]);
        assert_eq!(selection.prefixes().unwrap(), ["default:"]);
    }

    #[test]
    fn names_narrow_the_selection_to_types_of_the_default_mode() {
        let selection = selection("extract,of_tomorrow");
        assert!(selection.contains("default:of_tomorrow:ab"));
        assert!(selection.contains("default:extract:ab"));
        for key in [
            "default:summary:ab",
            "mix:extract:ab",
            "default:extractx:ab",
            "default:extract",
        ] {
            assert!(!selection.contains(key), "{key}");
        }
        assert_eq!(
            selection.prefixes().unwrap(),
            ["default:extract:", "default:of_tomorrow:"]
        );
    }

    #[test]
    fn query_types_are_selected_in_every_mode() {
        let selection = selection("query");
        assert_eq!(selection.of_key("mix:query:ab"), Some(CacheType::Query));
        assert_eq!(selection.of_key("global:query:ab"), Some(CacheType::Query));
        assert_eq!(selection.of_key("global:keywords:ab"), None);
        assert_eq!(selection.prefixes(), None);
    }

    #[test]
    fn all_selects_every_key_and_default_can_be_combined_with_names() {
        let multimodal = format!("multimodal_query:{HASH}");
        for key in ["default:extract:ab", "mix:query:ab", HASH, &multimodal, ""] {
            assert!(selection("all").contains(key), "{key}");
        }
        assert_eq!(selection("all,extract").names(), ["all"]);
        let with_queries = selection("default,query");
        assert!(with_queries.contains("default:summary:ab") && with_queries.contains("mix:query:ab"));
        assert!(!with_queries.contains("mix:keywords:ab") && !with_queries.contains(HASH));
        assert_eq!(with_queries.names(), ["default", "query"]);
    }

    #[test]
    fn what_cannot_be_a_type_is_refused() {
        let long = "x".repeat(65);
        for name in ["", " ", "extract:summary", "a b", "a'b", "a%", "ä", long.as_str()] {
            let refused = Selection::parse([name]).unwrap_err();
            assert!(refused.contains("is not a cache type"), "{refused}");
        }
        assert!(Selection::parse([]).is_err());
    }

    #[test]
    fn kinds_are_named_by_mode_and_type_and_unrecognized_ones_by_form() {
        let shown = |key: &str| {
            let kind = LeftOutKind::of_key(key);
            (kind.mode, kind.cache_type.to_string(), kind.form)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown("mix:query:ab"), (text("mix"), "query".to_owned(), None));
        assert_eq!(shown(HASH), (None, "(unrecognized)".to_owned(), text("md5")));
        let multimodal = format!("multimodal_query:{HASH}");
        let expected = (None, "(unrecognized)".to_owned(), text("multimodal_query:"));
        assert_eq!(shown(&multimodal), expected);
        assert_eq!(
            shown("default"),
            (None, "(unrecognized)".to_owned(), text("other"))
        );
        let hostile = format!("{}:query:ab", "m".repeat(1 << 20));
        assert_eq!(LeftOutKind::of_key(&hostile), LeftOutKind::OTHER);
    }

    #[test]
    fn a_million_types_take_the_memory_of_a_hundred_and_are_all_counted() {
        let mut counts = Counts::default();
        for number in 0..1_000_000_u64 {
            counts.add(CacheType::of_name(&format!("t{number}")), CacheType::Other, 1);
        }
        assert_eq!(counts.total(), 1_000_000);
        assert_eq!(counts.iter().count(), MOST_COUNTED + 1);
        counts.remove(&CacheType::of_name("t999999"), &CacheType::Other);
        counts.remove(&CacheType::of_name("t1"), &CacheType::Other);
        counts.remove(&CacheType::of_name("t1"), &CacheType::Other);
        assert_eq!(counts.total(), 999_997);
    }

    #[test]
    fn a_type_is_read_back_from_its_text() {
        for name in ["extract", "of_tomorrow", "(unrecognized)", "(other)"] {
            let text = serde_json::to_string(&CacheType::of_name(name)).unwrap();
            assert_eq!(text, format!("\"{name}\""));
            assert_eq!(
                serde_json::from_str::<CacheType>(&text).unwrap(),
                CacheType::of_name(name)
            );
        }
    }
}
