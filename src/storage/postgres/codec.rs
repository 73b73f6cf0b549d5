//! Rows as records, and records as rows.
//!
//! | field | column | from a record | to a record |
//! |---|---|---|---|
//! | the key | `id` | rejected if it is too long or contains a NUL | as it is |
//! | `return`, `original_prompt`, `chunk_id`, `cache_type` | `return_value`, the same | text; `null` and missing ones become NULL; anything else becomes its JSON text, counted as sanitized | NULL becomes `null` |
//! | a missing `cache_type` | | the type in the key, else `extract`, as LightRAG has it | |
//! | `queryparam` | the same | any JSON; `null` and missing ones become NULL; a string with an object in it becomes the object, counted as sanitized | a string with an object in it becomes the object |
//! | `create_time`, `update_time` | the same, UTC | whole seconds; `null` and missing ones become 0, which LightRAG would read: NULL beside numbers would break the order that it sorts by | whole seconds as LightRAG reads them; NULL is left out |
//! | `_id` | | equal to the key, so not kept | |
//! | anything else | | dropped, with a warning | |
//!
//! `text` and `jsonb` hold neither NUL characters nor halves of surrogate pairs.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, value::RawValue};
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use crate::{
    model::record::{
        CacheKey, Fields, Invalid, ObjectWriter, OnInvalid, Record, RejectKind, TextRules, sanitize, unescape,
    },
    storage::{Changes, Entry, WriteOutcome},
};

/// What PostgreSQL's text can hold.
const RULES: TextRules = TextRules {
    nul: false,
    lone_surrogates: false,
};

/// The seconds of the first and the last moment of a `timestamp`: 4714-11-24 BC 00:00:00, 294276-12-31 23:59:59.
const SECONDS: std::ops::RangeInclusive<i64> = -210_866_803_200..=9_224_318_015_999;

/// The type that LightRAG gives to a record that names none.
const DEFAULT_TYPE: &str = "extract";

/// Fields that have a column, and the one that is the key.
const KNOWN_FIELDS: [&str; 8] = [
    "return",
    "original_prompt",
    "chunk_id",
    "cache_type",
    "queryparam",
    "create_time",
    "update_time",
    "_id",
];

/// A row as it is read, in the order of [`super::schema::Schema::fields`].
#[derive(Debug, Default)]
pub(super) struct Stored<'a> {
    pub(super) key: &'a str,
    pub(super) original_prompt: Option<&'a str>,
    pub(super) return_value: Option<&'a str>,
    pub(super) chunk_id: Option<&'a str>,
    pub(super) cache_type: Option<&'a str>,
    /// JSON text.
    pub(super) queryparam: Option<&'a str>,
    /// Unix seconds.
    pub(super) create_time: Option<i64>,
    /// Unix seconds.
    pub(super) update_time: Option<i64>,
}

/// The entry of a row: a record, or what cannot be one.
///
/// # Errors
/// The row is not of the fields of [`super::schema::Schema::fields`].
pub(super) fn entry_of(row: &Row) -> Result<Entry, tokio_postgres::Error> {
    let key: Raw<'_> = row.try_get(0)?;
    let mut texts = [None; 5];
    for (at, text) in texts.iter_mut().enumerate() {
        *text = row.try_get::<_, Option<Raw<'_>>>(at + 1)?;
    }
    let (create_time, update_time) = (row.try_get(6)?, row.try_get(7)?);
    let columns = [(0, Some(key))].into_iter().chain((1..).zip(texts));
    let mut bad = columns.filter(|(_, text)| text.is_some_and(|text| text.as_str().is_none()));
    if let Some((column, _)) = bad.next() {
        return Ok(Entry::Invalid(not_utf8(TEXT_COLUMNS[column], key, texts)));
    }
    let [original_prompt, return_value, chunk_id, cache_type, queryparam] =
        texts.map(|text| text.and_then(|text| text.as_str()));
    let stored = Stored {
        key: key.as_str().unwrap_or_default(),
        original_prompt,
        return_value,
        chunk_id,
        cache_type,
        queryparam,
        create_time,
        update_time,
    };
    Ok(stored.to_entry())
}

/// The columns with a text, in the order of [`super::schema::Schema::fields`].
const TEXT_COLUMNS: [&str; 6] = [
    "id",
    "original_prompt",
    "return_value",
    "chunk_id",
    "cache_type",
    "queryparam",
];

/// A row with a text that is not UTF-8. What is kept of it has the bytes as they are, and so cannot be taken for a record.
fn not_utf8(column: &str, key: Raw<'_>, texts: [Option<Raw<'_>>; 5]) -> Invalid {
    let mut raw = Vec::new();
    let mut object = ObjectWriter::begin(&mut raw);
    for (name, text) in TEXT_COLUMNS.iter().zip([Some(key)].into_iter().chain(texts)) {
        let json = text.map_or_else(|| b"null".to_vec(), Raw::to_json);
        object.raw(name, &json);
    }
    object.end();
    Invalid {
        key: CacheKey::from(&*String::from_utf8_lossy(key.0)),
        kind: RejectKind::InvalidUtf8,
        reason: format!(
            "the column {column} is not valid UTF-8, which the encoding SQL_ASCII does not prevent"
        ),
        raw: raw.into(),
    }
}

impl Stored<'_> {
    /// The record, its fields in the order in which LightRAG writes them into a file, with the key as `_id`.
    pub(super) fn to_entry(&self) -> Entry {
        let texts = [self.original_prompt, self.return_value, self.queryparam];
        let length: usize = texts.iter().flatten().map(|text| text.len()).sum::<usize>() + self.key.len();
        // Capacity for names, times and the escapes of a text with many lines.
        let mut value = Vec::with_capacity(length + length / 16 + 320);
        let mut object = ObjectWriter::begin(&mut value);
        object.optional_string("return", self.return_value);
        object.optional_string("cache_type", self.cache_type);
        object.optional_string("chunk_id", self.chunk_id);
        object.optional_string("original_prompt", self.original_prompt);
        let queryparam = self
            .queryparam
            .map(|json| object_in(json).unwrap_or(Cow::Borrowed(json)));
        match queryparam {
            // In a table that somebody else made, the column may hold any text.
            Some(json) if serde_json::from_str::<&RawValue>(&json).is_err() => {
                object.string("queryparam", &json);
            }
            json => object.raw("queryparam", json.as_deref().unwrap_or("null").as_bytes()),
        }
        for (name, time) in [
            ("create_time", self.create_time),
            ("update_time", self.update_time),
        ] {
            if let Some(time) = time {
                object.value(name, &time);
            }
        }
        object.string("_id", self.key);
        object.end();
        Entry::Record(Record::written(CacheKey::from(self.key), value))
    }
}

/// A text as the server sent it. Looked at for bad UTF-8 in a tenth of the time that the driver takes for it.
#[derive(Clone, Copy)]
struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    fn as_str(self) -> Option<&'a str> {
        simdutf8::basic::from_utf8(self.0).ok()
    }

    /// As a JSON string, but for bytes that are not UTF-8 and stay as they are.
    fn to_json(self) -> Vec<u8> {
        let mut json = vec![b'"'];
        for chunk in self.0.utf8_chunks() {
            let valid = Value::from(chunk.valid()).to_string();
            json.extend_from_slice(valid.trim_matches('"').as_bytes());
            json.extend_from_slice(chunk.invalid());
        }
        json.push(b'"');
        json
    }
}

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(kind: &Type) -> bool {
        <&str as FromSql<'_>>::accepts(kind)
    }
}

/// The text of the object inside a JSON string; `None` if the text is not such a string.
fn object_in(json: &str) -> Option<Cow<'_, str>> {
    let text = unescape(json)?;
    let is_object = text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(&text).is_ok();
    is_object.then_some(text)
}

/// The most characters that columns allow; `None` if there is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) id: Option<usize>,
    pub(super) chunk_id: Option<usize>,
    pub(super) cache_type: Option<usize>,
}

impl Limits {
    /// Those of the table that LightRAG makes.
    pub(super) const LIGHTRAG: Self = Self {
        id: Some(255),
        chunk_id: Some(255),
        cache_type: Some(32),
    };
}

/// A record as the values of a row. Texts are slices of the record if they need no conversion.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    pub(super) original_prompt: Option<Cow<'a, str>>,
    pub(super) return_value: Option<Cow<'a, str>>,
    pub(super) chunk_id: Option<Cow<'a, str>>,
    pub(super) cache_type: Option<Cow<'a, str>>,
    /// JSON text.
    pub(super) queryparam: Option<Cow<'a, str>>,
    pub(super) create_time: SystemTime,
    pub(super) update_time: SystemTime,
}

/// The row of a record and its changes, or why the table cannot store it.
pub(super) fn columns<'a>(
    record: &'a Record,
    limits: Limits,
    on_invalid: OnInvalid,
) -> Result<(Columns<'a>, Changes), WriteOutcome> {
    check_key(record.key(), limits)?;
    let fields = record.fields();
    let mut reader = FieldReader {
        fields: &fields,
        on_invalid,
        changes: Changes::default(),
    };
    let cache_type = match fields.get("cache_type") {
        Some(_) => reader.text("cache_type", limits.cache_type)?,
        None => Some(Cow::Borrowed(type_in(record.key(), limits))),
    };
    let columns = Columns {
        original_prompt: reader.text("original_prompt", None)?,
        return_value: reader.text("return", None)?,
        chunk_id: reader.text("chunk_id", limits.chunk_id)?,
        cache_type,
        queryparam: reader.json("queryparam")?,
        create_time: reader.time("create_time")?,
        update_time: reader.time("update_time")?,
    };
    let mut changes = reader.changes;
    if fields.get("cache_type").is_none() {
        changes.filled_fields.push("cache_type");
    }
    let unknown = fields
        .iter()
        .filter(|(name, value)| !KNOWN_FIELDS.contains(name) && *value != "null");
    changes.dropped_fields = unknown.map(|(name, _)| name.to_owned()).collect();
    Ok((columns, changes))
}

fn check_key(key: &CacheKey, limits: Limits) -> Result<(), WriteOutcome> {
    let text = key.as_str();
    if text.contains('\0') {
        let reason = "the key contains a NUL character, which PostgreSQL cannot store in text";
        return Err(WriteOutcome::rejected(RejectKind::NulCharacter, reason));
    }
    match characters_beyond(text, limits.id) {
        None => Ok(()),
        Some((characters, limit)) => Err(WriteOutcome::rejected(
            RejectKind::InvalidKey,
            format!("the key has {characters} characters; the column id allows {limit}"),
        )),
    }
}

/// How many characters a text has and how many it may have, where it has more.
fn characters_beyond(text: &str, limit: Option<usize>) -> Option<(usize, usize)> {
    // No text has more characters than bytes.
    let limit = limit.filter(|limit| text.len() > *limit)?;
    let characters = text.chars().count();
    (characters > limit).then_some((characters, limit))
}

/// The type in a key, as LightRAG reads it from old ones.
fn type_in(key: &CacheKey, limits: Limits) -> &str {
    let mut parts = key.as_str().split(':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(mode), Some(cache_type), Some(_))
            if !mode.is_empty()
                && !cache_type.is_empty()
                && characters_beyond(cache_type, limits.cache_type).is_none() =>
        {
            cache_type
        }
        _ => DEFAULT_TYPE,
    }
}

/// Reads the fields of one record, and keeps what had to change.
struct FieldReader<'f, 'a> {
    fields: &'f Fields<'a>,
    on_invalid: OnInvalid,
    changes: Changes,
}

impl<'a> FieldReader<'_, 'a> {
    fn text(&mut self, name: &str, limit: Option<usize>) -> Result<Option<Cow<'a, str>>, WriteOutcome> {
        let Some(json) = self.fields.get(name).filter(|json| *json != "null") else {
            return Ok(None);
        };
        let text = if json.starts_with('"') {
            match unescape(json).filter(|text| memchr::memchr(0, text.as_bytes()).is_none()) {
                Some(text) => text,
                None => {
                    let clean = self.cleaned(name, json)?;
                    let text = unescape(&clean).map(Cow::into_owned);
                    Cow::Owned(text.ok_or_else(|| unreadable(name))?)
                }
            }
        } else {
            self.change(name);
            Cow::Borrowed(json)
        };
        match characters_beyond(&text, limit) {
            None => Ok(Some(text)),
            Some((characters, limit)) => Err(WriteOutcome::rejected(
                RejectKind::InvalidField,
                format!("{name} has {characters} characters; its column allows {limit}"),
            )),
        }
    }

    fn json(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, WriteOutcome> {
        let Some(json) = self.fields.get(name).filter(|json| *json != "null") else {
            return Ok(None);
        };
        let Some(object) = object_in(json) else {
            return self.cleaned(name, json).map(Some);
        };
        self.change(name);
        let clean = self.cleaned(name, &object)?.into_owned();
        Ok(Some(Cow::Owned(clean)))
    }

    fn time(&self, name: &str) -> Result<SystemTime, WriteOutcome> {
        let seconds = match self.fields.get(name) {
            None | Some("null") => 0,
            Some(_) => self.fields.seconds(name).ok_or_else(|| {
                WriteOutcome::rejected(
                    RejectKind::InvalidTime,
                    format!("{name} is not a number of seconds"),
                )
            })?,
        };
        system_time(seconds).ok_or_else(|| {
            let reason = format!("{name} is outside the range of a timestamp, 4713 BC to 294276 AD");
            WriteOutcome::rejected(RejectKind::InvalidTime, reason)
        })
    }

    /// JSON text that the target can hold.
    fn cleaned<'t>(&mut self, name: &str, json: &'t str) -> Result<Cow<'t, str>, WriteOutcome> {
        let clean = sanitize(json, RULES, self.on_invalid).map_err(|kind| {
            let what = match kind {
                RejectKind::NulCharacter => "a NUL character",
                _ => "a lone surrogate",
            };
            let reason = format!("{name} contains {what}, which PostgreSQL cannot store in text");
            WriteOutcome::rejected(kind, reason)
        })?;
        if matches!(clean, Cow::Owned(_)) {
            self.change(name);
        }
        Ok(clean)
    }

    fn change(&mut self, name: &str) {
        if !self.changes.sanitized.iter().any(|known| known == name) {
            self.changes.sanitized.push(name.to_owned());
        }
    }
}

fn unreadable(name: &str) -> WriteOutcome {
    WriteOutcome::rejected(RejectKind::InvalidField, format!("{name} cannot be read as text"))
}

fn system_time(seconds: i64) -> Option<SystemTime> {
    if !SECONDS.contains(&seconds) {
        return None;
    }
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits::LIGHTRAG;

    fn record(key: &str, value: &str) -> Record {
        Record::new(CacheKey::from(key), Bytes::copy_from_slice(value.as_bytes())).unwrap()
    }

    fn rejected(record: &Record, on_invalid: OnInvalid) -> RejectKind {
        match columns(record, LIMITS, on_invalid) {
            Err(WriteOutcome::Rejected { kind, .. }) => kind,
            other => panic!("not rejected: {other:?}"),
        }
    }

    fn lines(name: &str) -> Vec<Value> {
        let text = fs::read_to_string(format!("tests/fixtures/{name}")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Seconds since 1970 of a timestamp as PostgreSQL prints it, rounded as its cast to bigint does.
    fn seconds(text: &Value) -> Option<i64> {
        let time: jiff::civil::DateTime = text.as_str()?.replace(' ', "T").parse().unwrap();
        let exact = time.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
        Some((exact.as_microsecond() + 500_000).div_euclid(1_000_000))
    }

    #[test]
    fn rows_that_lightrag_wrote_are_the_records_that_it_was_given() {
        let given: BTreeMap<String, Value> = lines("records.jsonl")
            .into_iter()
            .map(|line| (line["key"].as_str().unwrap().to_owned(), line["value"].clone()))
            .collect();
        let rows = lines("postgres.jsonl");
        assert!(!rows.is_empty());
        for row in rows {
            // The fixture contains the server's output.
            let queryparam = row["queryparam"].as_str();
            let stored = Stored {
                key: row["id"].as_str().unwrap(),
                original_prompt: row["original_prompt"].as_str(),
                return_value: row["return_value"].as_str(),
                chunk_id: row["chunk_id"].as_str(),
                cache_type: row["cache_type"].as_str(),
                queryparam,
                create_time: seconds(&row["create_time"]),
                update_time: seconds(&row["update_time"]),
            };
            let entry = stored.to_entry();
            let read: Value = serde_json::from_slice(entry.raw()).unwrap();
            let given = &given[entry.key().as_str()];
            for field in ["return", "original_prompt", "cache_type"] {
                assert_eq!(read[field], given[field], "{field} of {}", entry.key());
            }
            assert_eq!(
                read["chunk_id"],
                given.get("chunk_id").cloned().unwrap_or_default()
            );
            assert_eq!(
                read["queryparam"],
                given.get("queryparam").cloned().unwrap_or_default()
            );
            assert_eq!(read["create_time"], json!(stored.create_time.unwrap()));

            // And back again.
            let Entry::Record(record) = entry else {
                panic!("no record")
            };
            let (columns, changes) = columns(&record, LIMITS, OnInvalid::Reject).unwrap();
            assert_eq!(changes, Changes::default());
            assert_eq!(columns.return_value.as_deref(), row["return_value"].as_str());
            assert_eq!(
                columns.original_prompt.as_deref(),
                row["original_prompt"].as_str()
            );
            assert_eq!(columns.queryparam.as_deref(), queryparam);
        }
    }

    #[test]
    fn nulls_stay_null_and_null_times_are_left_out() {
        let stored = Stored {
            key: "default:extract:1",
            ..Stored::default()
        };
        assert_eq!(
            stored.to_entry().raw(),
            &br#"{"return": null, "cache_type": null, "chunk_id": null, "original_prompt": null, "queryparam": null, "_id": "default:extract:1"}"#[..]
        );
    }

    #[test]
    fn a_query_parameter_that_is_a_string_with_an_object_is_the_object() {
        let read = |queryparam| {
            let stored = Stored {
                key: "k",
                queryparam: Some(queryparam),
                ..Stored::default()
            };
            let raw = stored.to_entry().raw().clone();
            let fields: Fields<'_> = serde_json::from_slice(&raw).unwrap();
            fields.get("queryparam").unwrap().to_owned()
        };
        assert_eq!(read(r#""{\"k\": 1e400}""#), r#"{"k": 1e400}"#);
        assert_eq!(read(r#""plain""#), r#""plain""#);
        assert_eq!(read(r#""{half""#), r#""{half""#);
        assert_eq!(
            read(r#"{"k": 12345678901234567890123}"#),
            r#"{"k": 12345678901234567890123}"#
        );
    }

    #[test]
    fn odd_but_valid_values_pass() {
        let odd = record(
            "mix:query:1",
            r#"{"return": 42, "chunk_id": null, "queryparam": "{\"k\": 1}", "create_time": "17.9", "update_time": -3}"#,
        );
        let (columns, changes) = columns(&odd, LIMITS, OnInvalid::Reject).unwrap();
        assert_eq!(columns.return_value.as_deref(), Some("42"));
        assert_eq!(columns.original_prompt, None);
        assert_eq!(columns.cache_type.as_deref(), Some("query"));
        assert_eq!(columns.queryparam.as_deref(), Some(r#"{"k": 1}"#));
        assert_eq!(columns.create_time, UNIX_EPOCH + Duration::from_secs(17));
        assert_eq!(columns.update_time, UNIX_EPOCH - Duration::from_secs(3));
        assert_eq!(changes.sanitized, ["return", "queryparam"]);
        assert!(changes.dropped_fields.is_empty());
    }

    #[test]
    fn texts_are_slices_of_the_record_where_they_can_be() {
        let plain = record("default:extract:1", r#"{"return": "plain é"}"#);
        let (columns, _) = columns(&plain, LIMITS, OnInvalid::Reject).unwrap();
        assert!(matches!(columns.return_value, Some(Cow::Borrowed("plain é"))));
        assert_eq!(columns.create_time, UNIX_EPOCH);
    }

    #[test]
    fn unknown_fields_are_left_behind_and_told() {
        let value = r#"{"return": "a", "_id": "x", "model": "m", "id": 1, "cache_type": null}"#;
        let record = record("default:extract:1", value);
        let (columns, changes) = columns(&record, LIMITS, OnInvalid::Reject).unwrap();
        assert_eq!(changes.dropped_fields, ["model", "id"]);
        assert_eq!(columns.cache_type, None);
    }

    #[test]
    fn what_text_cannot_hold_is_rejected_or_sanitized() {
        let both = record(
            "default:extract:1",
            r#"{"return": "a\u0000b", "queryparam": {"k": "\ud83d"}, "original_prompt": "\\u0000"}"#,
        );
        assert_eq!(rejected(&both, OnInvalid::Reject), RejectKind::NulCharacter);
        let (columns, changes) = columns(&both, LIMITS, OnInvalid::Sanitize).unwrap();
        assert_eq!(columns.return_value.as_deref(), Some("ab"));
        assert_eq!(columns.queryparam.as_deref(), Some(r#"{"k": ""}"#));
        assert_eq!(columns.original_prompt.as_deref(), Some("\\u0000"));
        assert_eq!(changes.sanitized, ["return", "queryparam"]);
        let half = record("default:extract:1", r#"{"return": "\ud83d"}"#);
        assert_eq!(rejected(&half, OnInvalid::Reject), RejectKind::LoneSurrogate);
        let key = record("default:extract:\0", "{}");
        assert_eq!(rejected(&key, OnInvalid::Sanitize), RejectKind::NulCharacter);
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let longest = format!("default:extract:{}", "é".repeat(239));
        assert!(columns(&record(&longest, "{}"), LIMITS, OnInvalid::Reject).is_ok());
        let longer = record(&format!("{longest}é"), "{}");
        assert_eq!(rejected(&longer, OnInvalid::Sanitize), RejectKind::InvalidKey);
        assert!(columns(&longer, Limits::default(), OnInvalid::Reject).is_ok());
        let chunk = |length| record("k", &format!(r#"{{"chunk_id": "{}"}}"#, "é".repeat(length)));
        assert!(columns(&chunk(255), LIMITS, OnInvalid::Reject).is_ok());
        assert_eq!(
            rejected(&chunk(256), OnInvalid::Sanitize),
            RejectKind::InvalidField
        );
        let cache_type = record("k", &format!(r#"{{"cache_type": "{}"}}"#, "x".repeat(33)));
        assert_eq!(rejected(&cache_type, OnInvalid::Reject), RejectKind::InvalidField);
    }

    #[test]
    fn times_are_held_from_the_first_to_the_last_timestamp() {
        let at = |time: &str| record("k", &format!(r#"{{"create_time": {time}}}"#));
        for time in ["-210866803200", "9224318015999", "9224318015999.9", "null", "0"] {
            assert!(columns(&at(time), LIMITS, OnInvalid::Reject).is_ok(), "{time}");
        }
        for time in [
            "-210866803201",
            "9224318016000",
            "\"later\"",
            "{}",
            "1e300",
            "true",
        ] {
            assert_eq!(
                rejected(&at(time), OnInvalid::Sanitize),
                RejectKind::InvalidTime,
                "{time}"
            );
        }
    }

    #[test]
    fn a_missing_type_is_that_of_the_key() {
        let type_of = |key| type_in(&CacheKey::from(key), LIMITS).to_owned();
        assert_eq!(type_of("default:summary:1"), "summary");
        assert_eq!(type_of("default:summary"), "extract");
        assert_eq!(type_of("::1"), "extract");
        assert_eq!(type_of(&format!("a:{}:b", "x".repeat(33))), "extract");
    }
}
