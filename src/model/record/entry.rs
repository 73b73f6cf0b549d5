//! A record, in the form in which all storages exchange it.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{
    Deserialize, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    CacheKey,
    json_text::{ObjectWriter, is_json_for_python, unescape},
};

/// Why a record cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RejectKind {
    /// The value is not valid JSON.
    InvalidJson,
    /// The value is not valid UTF-8.
    InvalidUtf8,
    /// The value is JSON, but not an object: a string, a number, `null`, a list.
    NotAnObject,
    /// The target cannot store the key.
    InvalidKey,
    /// The target cannot store NUL characters in text.
    NulCharacter,
    /// The target cannot store a lone surrogate, which is not valid UTF-8.
    LoneSurrogate,
    /// A value, a document or a request is larger than the target accepts.
    ValueTooLarge,
    /// The target cannot store a time: out of range or invalid.
    InvalidTime,
    /// The target cannot store the value of a field.
    InvalidField,
    /// The key already exists on the target, and the policy is `fail`.
    Conflict,
    /// The target refused the record for another reason.
    RefusedByTarget,
}

impl RejectKind {
    /// The name in reports and rejects files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotAnObject => "not_an_object",
            Self::InvalidKey => "invalid_key",
            Self::NulCharacter => "nul_character",
            Self::LoneSurrogate => "lone_surrogate",
            Self::ValueTooLarge => "value_too_large",
            Self::InvalidTime => "invalid_time",
            Self::InvalidField => "invalid_field",
            Self::Conflict => "conflict",
            Self::RefusedByTarget => "refused_by_target",
        }
    }
}

impl fmt::Display for RejectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type that LightRAG assigns to an old entry without one.
pub const DEFAULT_TYPE: &str = "extract";

/// An entry of the source that is not a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Its key, as far as it is readable.
    pub key: CacheKey,
    /// Why it is not a record.
    pub kind: RejectKind,
    /// The reason as text, with the position if known.
    pub reason: String,
    /// Its value as it was read.
    pub raw: Bytes,
}

/// A record: a key, and a JSON object as text, exactly as the source stores it.
///
/// The text is a slice of the page that it was read with: records are cheap to pass on, and a page lives as long as its
/// last record. Numbers of any size, escapes, the order of fields and fields unknown to LightRAG are preserved, since the
/// text is not decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    key: CacheKey,
    value: Bytes,
    own_id: OwnId,
}

/// The field `_id` of the value, found when the value is first parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnId {
    Key,
    /// It has another value.
    Other,
    /// There is no such field.
    Missing,
}

impl OwnId {
    fn of(key: &CacheKey, fields: &Fields<'_>) -> Self {
        match fields.get("_id") {
            None => Self::Missing,
            Some(text) if unescape(text).is_some_and(|id| id == key.as_str()) => Self::Key,
            Some(_) => Self::Other,
        }
    }
}

impl Record {
    /// Parses a record.
    ///
    /// # Errors
    /// [`Invalid`] if the value is not UTF-8, not JSON or not an object.
    pub fn new(key: CacheKey, value: Bytes) -> Result<Self, Invalid> {
        let invalid = |key, kind, reason| {
            Err(Invalid {
                key,
                kind,
                reason,
                raw: value.clone(),
            })
        };
        let text = match simdutf8::compat::from_utf8(&value) {
            Ok(text) => text,
            Err(error) => {
                let reason = format!("the value is not valid UTF-8: {error}");
                return invalid(key, RejectKind::InvalidUtf8, reason);
            }
        };
        if let Ok(fields) = serde_json::from_str::<Fields<'_>>(text) {
            let own_id = OwnId::of(&key, &fields);
            let value = value.slice_ref(value.trim_ascii());
            return Ok(Self { key, value, own_id });
        }
        // Only invalid values are parsed a second time.
        match serde_json::from_str::<&RawValue>(text) {
            Err(error) => {
                let reason = if is_json_for_python(&value) {
                    "the value contains NaN or Infinity, which Python writes but JSON does not allow"
                        .to_owned()
                } else {
                    format!("the value is not valid JSON: {error}")
                };
                invalid(key, RejectKind::InvalidJson, reason)
            }
            Ok(text) => {
                let (kind, reason) = match text.get().as_bytes().first() {
                    Some(b'{') => (
                        RejectKind::LoneSurrogate,
                        "the name of a field contains a lone surrogate".to_owned(),
                    ),
                    first => {
                        let shape = match first {
                            Some(b'"') => "a string",
                            Some(b'[') => "a list",
                            Some(b'n') => "null",
                            Some(b't' | b'f') => "a boolean",
                            _ => "a number",
                        };
                        let reason = format!("the value is {shape}, not an object");
                        (RejectKind::NotAnObject, reason)
                    }
                };
                invalid(key, kind, reason)
            }
        }
    }

    /// A record whose value was written by an [`ObjectWriter`], with the key as its `_id`. It is valid JSON by
    /// construction and is not parsed.
    pub fn written(key: CacheKey, value: impl Into<Bytes>) -> Self {
        let value = value.into();
        debug_assert_eq!(
            Self::new(key.clone(), value.clone()).map(|record| record.own_id),
            Ok(OwnId::Key)
        );
        Self {
            key,
            value,
            own_id: OwnId::Key,
        }
    }

    /// Unique within a workspace.
    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    /// The JSON object as the source stores it: valid JSON in UTF-8.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// `update_time` in Unix seconds; 0 if there is none, as LightRAG reads it.
    pub fn update_time(&self) -> i64 {
        self.fields().seconds("update_time").unwrap_or(0)
    }

    /// Bytes of key and value, which count towards the size of a batch.
    pub fn size(&self) -> usize {
        self.key.as_str().len() + self.value.len()
    }

    /// The same record in memory of its own, which keeps no page alive.
    pub fn detached(&self) -> Self {
        Self {
            value: Bytes::copy_from_slice(&self.value),
            ..self.clone()
        }
    }

    /// The value with the key as its `_id`, as storages that store records as text need it.
    ///
    /// Most records of such storages have it already and are returned unchanged.
    pub fn with_own_id(&self) -> Cow<'_, [u8]> {
        if self.own_id == OwnId::Key {
            return Cow::Borrowed(&self.value);
        }
        let mut text = Vec::with_capacity(self.value.len() + self.key.as_str().len() + 16);
        let mut object;
        if self.own_id == OwnId::Missing {
            object = ObjectWriter::resume(&mut text, &self.value);
        } else {
            object = ObjectWriter::begin(&mut text);
            for (name, value) in self.fields().iter().filter(|(name, _)| *name != "_id") {
                object.raw(name, value.as_bytes());
            }
        }
        object.string("_id", self.key.as_str());
        object.end();
        Cow::Owned(text)
    }

    /// The fields of the object, with values as JSON text.
    pub fn fields(&self) -> Fields<'_> {
        // The value was checked as UTF-8 and parsed when the record was created, so neither can fail. Given bytes, the
        // parser would check UTF-8 field by field, which takes longer than parsing them.
        let text = simdutf8::basic::from_utf8(&self.value).unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .finish()
    }
}

/// The fields of a record in their original order, with values as JSON text.
///
/// If a name occurs twice, its last value counts, as for Python and so for LightRAG.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// The JSON text of a field.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.get())
    }

    /// A string field, decoded; `None` if it is missing, not a string, or contains a lone surrogate.
    pub fn string(&self, name: &str) -> Option<Cow<'a, str>> {
        unescape(self.get(name)?)
    }

    /// The type of an entry in the old nested layout, as LightRAG names it when it moves the entry to a key of its own
    /// (`_migrate_legacy_cache_structure`): Python's text for the value, or `extract` without one.
    pub fn old_cache_type(&self) -> Cow<'a, str> {
        let Some(text) = self.get("cache_type") else {
            return Cow::Borrowed(DEFAULT_TYPE);
        };
        match (unescape(text), text) {
            (Some(name), _) => name,
            (None, "null") => Cow::Borrowed("None"),
            (None, "true") => Cow::Borrowed("True"),
            (None, "false") => Cow::Borrowed("False"),
            (None, other) => Cow::Borrowed(other),
        }
    }

    /// A time in whole Unix seconds, from an integer, a float (truncated) or a string of either.
    ///
    /// `None` if it is missing, `null` or anything else.
    pub fn seconds(&self, name: &str) -> Option<i64> {
        let text = self.get(name)?;
        let text = unescape(text).unwrap_or(Cow::Borrowed(text));
        let text = text.trim();
        text.parse::<i64>().ok().or_else(|| {
            let seconds = text.parse::<f64>().ok()?.floor();
            // The bounds are exact as floats, and `as` cannot saturate between them.
            (-9.2e18..=9.2e18).contains(&seconds).then_some(seconds as i64)
        })
    }

    /// Every field that counts: its name and its JSON text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> + '_ {
        self.fields.iter().enumerate().filter_map(|(at, (name, value))| {
            let replaced = self.fields[at + 1..].iter().any(|(later, _)| later == name);
            (!replaced).then_some((name.as_ref(), value.get()))
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    fields.push((name.0, map.next_value::<&'de RawValue>()?));
                }
                Ok(Fields { fields })
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A field's name, borrowed if it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &'static str) -> Record {
        Record::new(
            CacheKey::from("default:extract:1"),
            Bytes::from_static(json.as_bytes()),
        )
        .unwrap()
    }

    #[test]
    fn values_that_are_no_objects_are_invalid_by_kind() {
        for (value, kind) in [
            (&b"null"[..], RejectKind::NotAnObject),
            (b"\"text\"", RejectKind::NotAnObject),
            (b"[1]", RejectKind::NotAnObject),
            (b"12", RejectKind::NotAnObject),
            (b"{\"a\": }", RejectKind::InvalidJson),
            (b"{} trailing", RejectKind::InvalidJson),
            (b"", RejectKind::InvalidJson),
            (b"{\"a\": \"\xff\"}", RejectKind::InvalidUtf8),
            (b"{\"\\ud83d\": 1}", RejectKind::LoneSurrogate),
        ] {
            let invalid = Record::new(CacheKey::from("k"), Bytes::copy_from_slice(value)).unwrap_err();
            assert_eq!(invalid.kind, kind, "{}", invalid.reason);
            assert_eq!(invalid.raw, value);
        }
    }

    #[test]
    fn fields_keep_their_text_and_the_last_of_two_counts() {
        let record = record(r#"{"big": 123456789012345678901234567890, "return": "a", "return": "b"}"#);
        let fields = record.fields();
        assert_eq!(fields.get("big"), Some("123456789012345678901234567890"));
        assert_eq!(fields.string("return").as_deref(), Some("b"));
        let names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["big", "return"]);
    }

    #[test]
    fn a_record_gets_its_own_id_and_keeps_the_text_of_all_else() {
        let own = record(r#"{"return": "a", "_id": "default:extract:1"}"#);
        assert!(matches!(own.with_own_id(), Cow::Borrowed(_)));
        let none = record(r#"{"return":"\ud83d"}"#);
        let expected = br#"{"return":"\ud83d", "_id": "default:extract:1"}"#;
        assert_eq!(none.with_own_id(), &expected[..]);
        let other = record(r#"{"_id": "x", "return":"\ud83d"}"#);
        let expected = br#"{"return": "\ud83d", "_id": "default:extract:1"}"#;
        assert_eq!(other.with_own_id(), &expected[..]);
        let empty = record("{ }");
        assert_eq!(empty.with_own_id(), &br#"{"_id": "default:extract:1"}"#[..]);
    }

    #[test]
    fn times_are_read_in_every_form_they_were_seen_in() {
        let record = record(
            r#"{"a": 17, "b": 17.9, "c": "17", "d": null, "e": -3, "f": "later", "g": -0.5, "h": 1e300}"#,
        );
        let fields = record.fields();
        let read: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "missing"]
            .iter()
            .map(|name| fields.seconds(name))
            .collect();
        let none = None;
        assert_eq!(
            read,
            [
                Some(17),
                Some(17),
                Some(17),
                none,
                Some(-3),
                none,
                Some(-1),
                none,
                none
            ]
        );
    }

    #[test]
    fn a_record_may_be_nested_deeper_than_a_tree_would_allow() {
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
        let record = Record::new(CacheKey::from("k"), Bytes::from(deep)).unwrap();
        assert_eq!(record.fields().get("x").map(str::len), Some(10_000));
    }
}
