//! Keys and values in Redis ↔ records.
//!
//! Today (LightRAG's `RedisKVStorage`): one string for each record, `[{workspace}_]llm_response_cache:{cache key}`, which
//! contains the record as JSON. Before LightRAG 1.4: one string for each mode, `…llm_response_cache:default`, which contains
//! `{"<hash>": {"return": …, "cache_type": "extract"}}`; LightRAG rewrites those when it starts, as long as there is no
//! key of today's (`RedisKVStorage._migrate_legacy_cache_structure`). Here they are read as they are.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    model::{
        FILE_MODE, NAMESPACE, Selection, Workspace,
        record::{CacheKey, DEFAULT_TYPE, Fields, Invalid, KeyDigest, Record, RejectKind, unescape},
    },
    storage::Entry,
};

/// The modes that old keys name: LightRAG's query modes (`QueryParam.mode`), and that of what comes from files.
const MODES: [&str; 7] = [FILE_MODE, "local", "global", "hybrid", "naive", "mix", "bypass"];

/// The largest value that Redis accepts, unless `proto-max-bulk-len` is set: 512 MiB.
pub(super) const DEFAULT_MAX_BYTES: u64 = 512 << 20;

/// The keys of one workspace.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    /// What every key begins with, colon included.
    prefix: String,
}

/// A key as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredKey {
    /// The whole key.
    pub(super) raw: Vec<u8>,
    /// The key of the record; invalid UTF-8 is shown as `\xff`.
    pub(super) key: CacheKey,
    /// Whether all of it is UTF-8.
    pub(super) readable: bool,
}

impl StoredKey {
    /// The digest by which a key is known to have been seen.
    pub(super) fn digest(&self) -> KeyDigest {
        if self.readable {
            KeyDigest::of(self.key.as_str())
        } else {
            // What cannot be read looks alike as text.
            KeyDigest::of_bytes(&self.raw)
        }
    }

    /// The entry of this key with this value.
    pub(super) fn entry(self, value: Bytes) -> Entry {
        entry(self.key, self.readable, value)
    }

    /// The entry of this key if its value is not a string.
    pub(super) fn entry_of_type(self, kind: &str) -> Entry {
        Entry::Invalid(Invalid {
            key: self.key,
            kind: RejectKind::NotAnObject,
            reason: format!("the key contains a Redis {kind}; a cache record is a string"),
            raw: Bytes::new(),
        })
    }
}

fn entry(key: CacheKey, readable: bool, value: Bytes) -> Entry {
    if readable {
        return Record::new(key, value).into();
    }
    Entry::Invalid(Invalid {
        key,
        kind: RejectKind::InvalidKey,
        reason: "the key is not text: it contains a lone surrogate or invalid UTF-8".to_owned(),
        raw: value,
    })
}

impl Namespace {
    pub(super) fn new(workspace: &Workspace) -> Self {
        Self {
            prefix: format!("{}:", workspace.prefixed_namespace()),
        }
    }

    /// The keys, for people: `keys space1_llm_response_cache:*`.
    pub(super) fn parse_uri(&self) -> String {
        format!("keys {}*", self.prefix)
    }

    /// What every key begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of a record.
    pub(super) fn key(&self, key: &CacheKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A key that no record has, to try out what the login may do.
    pub(super) fn probe(&self) -> String {
        format!("{}migrate-llm-cache:probe:{}", self.prefix, uuid::Uuid::now_v7())
    }

    /// The keys that may hold old records of a selection: modes with their keys.
    pub(super) fn old_keys(&self, selection: &Selection) -> Vec<(&'static str, String)> {
        let modes = match selection.prefixes() {
            Some(_) => &[FILE_MODE][..],
            None => &MODES[..],
        };
        modes.iter().map(|mode| (*mode, self.old_key(mode))).collect()
    }

    /// Every key that may hold old records, with its mode.
    pub(super) fn all_old_keys(&self) -> Vec<(&'static str, String)> {
        MODES.iter().map(|mode| (*mode, self.old_key(mode))).collect()
    }

    /// The key of a mode in the old layout.
    pub(super) fn old_key(&self, mode: &str) -> String {
        format!("{}{mode}", self.prefix)
    }

    /// A key that was found; `None` where it is none of this workspace.
    pub(super) fn stored_key(&self, raw: Vec<u8>) -> Option<StoredKey> {
        let rest = raw.strip_prefix(self.prefix.as_bytes())?;
        let (key, readable) = match std::str::from_utf8(rest) {
            Ok(text) => (CacheKey::from(text), true),
            Err(_) => (CacheKey::new(escape(rest)), false),
        };
        Some(StoredKey { raw, key, readable })
    }

    /// A pattern for `SCAN` that every selected key matches, and few others.
    pub(super) fn pattern(&self, selection: &Selection) -> String {
        let common = selection.prefixes().map(|prefixes| {
            let common = prefixes.into_iter().reduce(|one, other| {
                let both = one.chars().zip(other.chars());
                both.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
            });
            common.unwrap_or_default()
        });
        format!(
            "{}{}*",
            escape_glob(&self.prefix),
            escape_glob(&common.unwrap_or_default())
        )
    }

    /// A pattern that every key of the workspace matches.
    pub(super) fn pattern_of_workspace(&self) -> String {
        format!("{}*", escape_glob(&self.prefix))
    }

    /// Whether a key is that of a mode in the old layout, not of a record.
    pub(super) fn is_old_key(key: &CacheKey) -> bool {
        MODES.contains(&key.as_str())
    }

    /// A pattern that every key of today's layout matches.
    pub(super) fn pattern_of_today(&self) -> String {
        format!("{}*:*:*", escape_glob(&self.prefix))
    }
}

/// A pattern that the keys of every workspace match.
pub(super) fn pattern_of_all() -> String {
    format!("*{NAMESPACE}:*")
}

/// The workspace that a key belongs to; `None` for a key that is none of LightRAG's cache.
pub(super) fn workspace_of(raw: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(raw).ok()?;
    let mut found = text.match_indices(NAMESPACE);
    let (at, _) = found.find(|(at, name)| text[at + name.len()..].starts_with(':'))?;
    let before = &text[..at];
    if before.is_empty() {
        return Some("");
    }
    before.strip_suffix('_').filter(|workspace| !workspace.is_empty())
}

/// What the keys of a workspace begin with, of a key of any; `None` for a key that is none of LightRAG's cache.
pub(super) fn prefix_of(raw: &[u8]) -> Option<&[u8]> {
    let name = [NAMESPACE.as_bytes(), b":"].concat();
    let at = memchr::memmem::find(raw, &name)?;
    Some(&raw[..at + name.len()])
}

/// Takes their meaning from the characters that `MATCH` gives one (Redis's `stringmatchlen`): `*`, `?`, `[` and `\`.
fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Text for bytes that are no UTF-8.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The records in a key of the old layout, each a slice of its value. The last of several with the same hash comes
/// first, as the last one counts.
///
/// Nothing where the value is an object of another form: a record, or something of somebody else's. What is no JSON
/// at all may have been records, and is one entry that says so.
pub(super) fn old_entries(mode: &str, stored: &str, value: &Bytes) -> Vec<Entry> {
    let unreadable = |kind, reason: String| {
        vec![Entry::Invalid(Invalid {
            key: CacheKey::flattened(mode, DEFAULT_TYPE, ""),
            kind,
            reason: format!("the key {stored}, of LightRAG's old layout, {reason}"),
            raw: value.clone(),
        })]
    };
    if let Err(error) = simdutf8::compat::from_utf8(value) {
        return unreadable(RejectKind::InvalidUtf8, format!("is not valid UTF-8: {error}"));
    }
    let members = match serde_json::from_slice::<Members<'_>>(value) {
        Ok(members) => members.0,
        Err(error) if error.is_data() => return Vec::new(),
        Err(error) => return unreadable(RejectKind::InvalidJson, format!("is not valid JSON: {error}")),
    };
    let is_nested = members
        .first()
        .is_some_and(|(_, first)| first.get().starts_with('{'));
    if !is_nested {
        return Vec::new();
    }
    let entries = members.into_iter().rev().map(|(hash, text)| {
        let (hash, readable) = match unescape(hash.get()) {
            Some(hash) => (hash, true),
            None => (Cow::Borrowed(hash.get().trim_matches('"')), false),
        };
        let fields = serde_json::from_str::<Fields<'_>>(text.get()).unwrap_or_default();
        let key = CacheKey::flattened(mode, &fields.old_cache_type(), &hash);
        entry(key, readable, value.slice_ref(text.get().as_bytes()))
    });
    entries.collect()
}

/// The members of a JSON object, names and values still text: there may be hundreds of thousands.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Whether a server that takes so many bytes for a value can hold a record; else why not.
pub(super) fn check_size(key: usize, value: usize, max_bytes: u64) -> Result<(), String> {
    let largest = key.max(value) as u64;
    if largest <= max_bytes {
        return Ok(());
    }
    Err(format!(
        "the record has {largest} bytes; the server accepts {max_bytes} per value (proto-max-bulk-len)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CacheType;

    fn namespace(workspace: &str) -> Namespace {
        Namespace::new(&Workspace::new(workspace).unwrap())
    }

    #[test]
    fn keys_that_lightrag_wrote_lead_to_records_and_back() {
        let namespace = namespace("fixtures");
        let lines = include_str!("../../../tests/fixtures/redis.jsonl");
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let (raw, value) = (line["key"].as_str().unwrap(), line["value"].as_str().unwrap());
            let stored = namespace.stored_key(raw.as_bytes().to_vec()).unwrap();
            assert_eq!(namespace.key(&stored.key), raw);
            assert_eq!(workspace_of(raw.as_bytes()), Some("fixtures"));
            let entry = stored.clone().entry(Bytes::copy_from_slice(value.as_bytes()));
            let Entry::Record(record) = entry else {
                panic!("{raw} is no record");
            };
            assert_eq!(record.key(), &stored.key);
            // What LightRAG wrote is written as the same bytes.
            assert!(matches!(record.with_own_id(), Cow::Borrowed(text) if text == value.as_bytes()));
        }
        assert_eq!(lines.lines().count(), 6);
    }

    #[test]
    fn only_keys_of_the_workspace_are_its_own() {
        let one = namespace("space1");
        assert!(
            one.stored_key(b"space1_llm_response_cache:a:b:c".to_vec())
                .is_some()
        );
        for other in [
            "x_space1_llm_response_cache:a:b:c",
            "space1_llm_response_cache",
            "space11_llm_response_cache:a:b:c",
            "llm_response_cache:a:b:c",
            "space1_llm_response_cache__sched:a",
        ] {
            assert_eq!(one.stored_key(other.as_bytes().to_vec()), None, "{other}");
        }
        assert_eq!(
            namespace("").key(&CacheKey::from("a:b:c")),
            "llm_response_cache:a:b:c"
        );
    }

    #[test]
    fn a_key_names_its_workspace() {
        for (key, workspace) in [
            ("llm_response_cache:default:extract:1", Some("")),
            ("a_llm_response_cache:default:extract:1", Some("a")),
            ("a__llm_response_cache:default", Some("a_")),
            (
                "a_llm_response_cache_llm_response_cache:x",
                Some("a_llm_response_cache"),
            ),
            ("_llm_response_cache:x", None),
            ("allm_response_cache:x", None),
            ("a_llm_response_cache", None),
            ("a_text_chunks:x", None),
        ] {
            assert_eq!(workspace_of(key.as_bytes()), workspace, "{key}");
        }
        assert_eq!(workspace_of(b"\xff_llm_response_cache:x"), None);
    }

    #[test]
    fn a_pattern_is_anchored_and_its_workspace_taken_literally() {
        let pattern = |workspace, types: &[CacheType]| {
            namespace(workspace).pattern(&Selection::new(types.iter().cloned()).unwrap())
        };
        assert_eq!(
            pattern(r"a*b?[c]d-^", &[CacheType::Extract]),
            r"a\*b\?\[c\]d-^_llm_response_cache:default:extract:*"
        );
        assert_eq!(
            pattern("", &[CacheType::Extract, CacheType::Summary]),
            "llm_response_cache:default:*"
        );
        assert_eq!(
            pattern("s", &[CacheType::Extract, CacheType::Query]),
            "s_llm_response_cache:*"
        );
    }

    #[test]
    fn a_key_that_is_no_utf_8_is_told_and_differs_from_every_text() {
        let namespace = namespace("");
        let bytes = namespace
            .stored_key(b"llm_response_cache:default:extract:\xff\xfe".to_vec())
            .unwrap();
        let text = namespace
            .stored_key(b"llm_response_cache:default:extract:\\xff\\xfe".to_vec())
            .unwrap();
        assert_eq!(bytes.key, text.key);
        assert_ne!(bytes.digest(), text.digest());
        let Entry::Invalid(invalid) = bytes.entry(Bytes::from_static(b"{}")) else {
            panic!("a record");
        };
        assert_eq!(invalid.kind, RejectKind::InvalidKey);
    }

    fn old(value: &str) -> Vec<(String, Result<String, RejectKind>)> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        let entries = old_entries("default", "llm_response_cache:default", &value);
        entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Record(record) => {
                    let text = String::from_utf8(record.value().to_vec()).unwrap();
                    (record.key().to_string(), Ok(text))
                }
                Entry::Invalid(invalid) => (invalid.key.to_string(), Err(invalid.kind)),
            })
            .collect()
    }

    #[test]
    fn old_entries_get_the_keys_of_today() {
        let found = old(
            r#" {"h1": {"return": "a"}, "h2": {"return": "b", "cache_type": "summary"}, "h3": 5,
                            "h\ud83d": {"return": "c"}} "#,
        );
        assert_eq!(
            found,
            [
                ("default:extract:h\\ud83d".to_owned(), Err(RejectKind::InvalidKey)),
                ("default:extract:h3".to_owned(), Err(RejectKind::NotAnObject)),
                (
                    "default:summary:h2".to_owned(),
                    Ok(r#"{"return": "b", "cache_type": "summary"}"#.to_owned())
                ),
                (
                    "default:extract:h1".to_owned(),
                    Ok(r#"{"return": "a"}"#.to_owned())
                ),
            ]
        );
    }

    #[test]
    fn the_old_layout_that_lightrag_migrated_reads_the_same() {
        let nested = include_str!("../../../tests/fixtures/layouts/nested.json");
        let migrated = include_str!("../../../tests/fixtures/layouts/nested.migrated.json");
        let nested: std::collections::BTreeMap<String, Box<RawValue>> = serde_json::from_str(nested).unwrap();
        let mut found = serde_json::Map::new();
        for (mode, value) in nested {
            let value = Bytes::copy_from_slice(value.get().as_bytes());
            for entry in old_entries(&mode, &mode, &value) {
                let text: serde_json::Value = serde_json::from_slice(entry.raw()).unwrap();
                found.insert(entry.key().to_string(), text);
            }
        }
        let migrated: serde_json::Map<_, _> = serde_json::from_str(migrated).unwrap();
        assert!(!migrated.is_empty());
        assert_eq!(found, migrated);
    }

    #[test]
    fn a_value_of_another_form_holds_no_old_entries() {
        for other in [r#"{"return": "a"}"#, "{}", "[]", "null", "\"text\"", "5"] {
            assert_eq!(old(other), [], "{other}");
        }
        for damaged in [r#"{"h1": {"return": "a"}"#, "", "{"] {
            assert_eq!(
                old(damaged),
                [("default:extract:".to_owned(), Err(RejectKind::InvalidJson))],
                "{damaged}"
            );
        }
    }

    #[test]
    fn what_is_larger_than_the_server_takes_is_known_before() {
        assert!(check_size(10, 100, 100).is_ok());
        assert!(check_size(10, 101, 100).unwrap_err().contains("101 bytes"));
        assert!(check_size(101, 1, 100).is_err());
    }
}
