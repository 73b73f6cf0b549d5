//! Which records a run moves, and what it leaves out.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::KeyForm;

/// The mode of everything that LightRAG caches while it reads files.
pub const FILE_MODE: &str = "default";

/// The prefix of every key of that mode.
pub(crate) const FILE_PREFIX: &str = "default:";

/// A kind of answer that LightRAG caches: the middle part of a key.
///
/// LightRAG adds types from version to version, so a type that is not known here is one like the others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheType {
    /// Entities and relations extracted from a chunk of a file.
    Extract,
    /// Summaries of entity and relation descriptions.
    Summary,
    /// Analyses made while files are read (since LightRAG 1.5).
    Analysis,
    /// Headings of docx files (since LightRAG 1.5.5).
    SmartHeading,
    /// Answers to users' questions, in any mode.
    Query,
    /// Keywords of users' questions, in any mode.
    Keywords,
    /// Any other type, by its name.
    Named(Arc<str>),
    /// The key does not have the form `{mode}:{cache_type}:{hash}`.
    Unrecognized,
    /// Types that are not counted one by one: their names are too long, or there are too many of them.
    Other,
}

impl CacheType {
    /// The types that LightRAG 1.5.7 writes while it reads files.
    pub const FROM_FILES: [Self; 4] = [Self::Extract, Self::Summary, Self::Analysis, Self::SmartHeading];

    /// The types that come from questions and have the mode of the question.
    pub const OF_QUESTIONS: [Self; 2] = [Self::Query, Self::Keywords];

    /// A longer name is not counted by itself. LightRAG's own column for it takes 32 characters.
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
            // No type that can be selected by name is called so.
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

    /// The type of the record behind a key.
    pub fn of_key(key: &str) -> Self {
        match KeyForm::of(key) {
            KeyForm::Cache { cache_type, .. } => Self::of_name(cache_type),
            _ => Self::Unrecognized,
        }
    }

    /// Whether records of this type are selected in every mode, and not in that of files alone.
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
                 commas between them, as in `extract,summary`; or `default` (everything from files) or `all`",
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
                `(other)` stands for the types beyond the first hundred.",
            "examples": ["extract"],
        })
    }
}

/// What the selected keys have in common.
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
    /// Every entry, whatever its key.
    everything: bool,
    /// Everything of the mode of files.
    from_files: bool,
    /// These types: those of questions in every mode, others in the mode of files.
    types: BTreeSet<CacheType>,
}

impl Selection {
    const DEFAULT: &str = FILE_MODE;
    const ALL: &str = "all";

    /// A selection of these types; `None` where there are none.
    pub fn new(types: impl IntoIterator<Item = CacheType>) -> Option<Self> {
        let types: BTreeSet<_> = types.into_iter().collect();
        (!types.is_empty()).then_some(Self {
            everything: false,
            from_files: false,
            types,
        })
    }

    /// A selection of every entry.
    pub fn all() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// The selection that a list of names stands for: types, `default` and `all`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut selection = Self {
            everything: false,
            from_files: false,
            types: BTreeSet::new(),
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

    /// The names that stand for this selection.
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

    /// Whether the record behind a key is selected.
    pub fn contains(&self, key: &str) -> bool {
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

    /// The type of the record behind a key, where the key is selected.
    pub fn of_key(&self, key: &str) -> Option<CacheType> {
        self.contains(key).then(|| CacheType::of_key(key))
    }

    /// What makes a key a selected one: any of these; `None` where every key is.
    ///
    /// The texts hold no character but letters, digits, `:`, `_`, `-` and `.`.
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

    /// What a selected key begins with, for servers that can filter by it; `None` where some selected key may
    /// have any beginning (queries have the mode of the question), so that the reader filters by
    /// [`Selection::contains`] alone.
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
    /// Everything that comes from files.
    fn default() -> Self {
        Self {
            everything: false,
            from_files: true,
            types: BTreeSet::new(),
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
            "description": "What is moved: `default` (everything from files), `all` (every entry), or cache types.",
        })
    }
}

/// A kind of entry that a selection leaves out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct LeftOutKind {
    /// The mode, the first part of the key; null for a key without one.
    pub mode: Option<String>,
    /// The type, the second part of the key; `(unrecognized)` for a key of another form, `(other)` for kinds that are not
    /// counted one by one.
    #[serde(rename = "type")]
    pub cache_type: CacheType,
    /// The form of an unrecognized key: `md5`, a prefix such as `multimodal_query:`, or `other`; null for a recognized one.
    pub form: Option<String>,
}

impl LeftOutKind {
    /// Longer modes and prefixes are not counted by themselves.
    const LONGEST_TEXT: usize = 64;

    /// What is not counted by itself.
    pub const OTHER: Self = Self {
        mode: None,
        cache_type: CacheType::Other,
        form: None,
    };

    /// The kind of the entry behind a key.
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

/// How many kinds or types are counted one by one. A file can hold a million of them; real ones hold a dozen.
const MOST_COUNTED: usize = 100;

/// Numbers by kind, of which the first hundred are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts<K>(BTreeMap<K, u64>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Counts<K> {
    /// Adds records of a kind, or of `other` where that one is not told apart.
    pub fn add(&mut self, kind: K, other: K, records: u64) {
        let label = self.label(kind, other);
        *self.0.entry(label).or_default() += records;
    }

    /// Takes one record away.
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

    /// The kind under which records of this kind are counted: itself, or `other` where it is not told apart.
    pub fn label(&self, kind: K, other: K) -> K {
        if self.0.len() < MOST_COUNTED || self.0.contains_key(&kind) {
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
    pub fn as_map(&self) -> &BTreeMap<K, u64> {
        &self.0
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// How many entries a selection leaves out, by kind.
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

/// How many entries of a kind a selection leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeftOutRecords {
    /// The kind.
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
