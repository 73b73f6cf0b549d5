//! A record as a document: `_id` the key, the fields beside it (LightRAG's `MongoKVStorage`).
//!
//! Both ways go straight between JSON text and BSON bytes, a field at a time, so that nothing is held twice as a tree.
//!
//! * **Numbers.** An integer becomes an Int32 or Int64, as LightRAG's driver chooses; any other number that a double
//!   represents exactly (every one that Python has written) a Double; one that needs up to 34 decimal digits, a Decimal128,
//!   which reads back as the same number. A number that fits none of them is rejected: nothing is rounded.
//! * **Names.** A repeated name in an object counts as in Python: the last value wins. NUL ends a name in
//!   BSON, so none can be in it.
//! * **Markers.** Old documents carry `namespace`, `workspace` and `content`, which are not part of a record. They are recognized
//!   from a user's own fields of these names by `namespace`, which names the cache.
//! * **Dates.** `create_time` and `update_time` are Unix seconds to LightRAG; where somebody has made dates of them, they are
//!   read as Unix seconds.
//! * **Old keys.** Until LightRAG 1.3.9 an `_id` was `default_<hash>`, which later versions do not find; such a document is
//!   read as the record that its key would be today.
//! * **Values that JSON does not know** (other dates, binary data, object ids, …), which LightRAG does not write, read as
//!   MongoDB's extended JSON; NaN and the infinities, which have no JSON form at all, make an entry invalid.

use std::borrow::Cow;

use bytes::Bytes;
use mongodb::bson::{
    Bson, Decimal128, Document, RawArray, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, doc, error,
    raw::{CStr, RawElement, cstr},
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    model::{
        CacheType, FILE_MODE, NAMESPACE, Selection, Shard,
        record::{
            CacheKey, Fields, Invalid, ObjectWriter, OnInvalid, Record, RejectKind, TextRules, sanitize,
            unescape,
        },
    },
    storage::{Changes, Entry},
};

/// Strings are UTF-8 of a known length.
const TEXT: TextRules = TextRules {
    nul: true,
    lone_surrogates: false,
};

/// How deep documents may be nested in each other, the outermost counted (MongoDB manual, "BSON Document").
const MAX_DEPTH: usize = 100;

/// How deep is read. A server keeps its own limit; this one keeps damage from exhausting the stack.
const MAX_DEPTH_READ: usize = 500;

/// The fields of old documents that are no part of a record, where `namespace` names the cache.
const MARKERS: [&str; 3] = ["namespace", "workspace", "content"];

/// Whether a document's `namespace` says that LightRAG wrote it and the other markers.
fn marks(namespace: &str) -> bool {
    namespace.ends_with(NAMESPACE)
}

/// A document that is ready to be sent.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) document: RawDocumentBuf,
    pub(super) changes: Changes,
}

/// Why a record has no document: for the report, and for a person.
pub(super) type Refusal = (RejectKind, String);

/// The document of a record, of at most `max_size` bytes.
///
/// # Errors
/// MongoDB cannot hold the record.
pub(super) fn encode(record: &Record, on_invalid: OnInvalid, max_size: usize) -> Result<Encoded, Refusal> {
    let too_large = |bytes: usize| {
        let reason = format!("the document has {bytes} bytes, and the server's limit is {max_size}");
        (RejectKind::ValueTooLarge, reason)
    };
    // No text of this length becomes a document within the limit: an escape has six bytes for one at most.
    if record.size() / 8 > max_size {
        return Err(too_large(record.size() / 8));
    }
    let mut document = with_capacity(record.size() + 64)?;
    document.append(cstr!("_id"), record.key().as_str());
    let mut changes = Changes::default();
    let fields = record.fields();
    let marked = fields
        .string("namespace")
        .is_some_and(|namespace| marks(&namespace));
    for (name, text) in fields.iter().filter(|(name, _)| *name != "_id") {
        if marked && MARKERS.contains(&name) {
            if text != "null" {
                changes.dropped_fields.push(name.to_owned());
            }
            continue;
        }
        let text = sanitize(text, TEXT, on_invalid).map_err(|kind| {
            let reason = format!("`{name}` contains a lone surrogate, which MongoDB cannot store");
            (kind, reason)
        })?;
        if matches!(text, Cow::Owned(_)) {
            changes.sanitized.push(name.to_owned());
        }
        append(&mut document, name, &text, 2).map_err(|(kind, what)| (kind, format!("`{name}`: {what}")))?;
        if document.as_bytes().len() > max_size {
            return Err(too_large(document.as_bytes().len()));
        }
    }
    Ok(Encoded { document, changes })
}

/// Whether a document contains a decimal, which LightRAG's driver never writes and not every service supports.
pub(super) fn holds_decimal(document: &RawDocument) -> bool {
    document
        .iter_elements()
        .flatten()
        .any(|element| match element.value() {
            Ok(RawBsonRef::Decimal128(_)) => true,
            Ok(RawBsonRef::Document(inner)) => holds_decimal(inner),
            Ok(RawBsonRef::Array(inner)) => {
                RawDocument::from_bytes(inner.as_bytes()).is_ok_and(holds_decimal)
            }
            _ => false,
        })
}

/// An empty document with capacity.
fn with_capacity(bytes: usize) -> Result<RawDocumentBuf, Refusal> {
    let mut empty = Vec::with_capacity(bytes);
    empty.extend_from_slice(RawDocumentBuf::new().as_bytes());
    RawDocumentBuf::from_bytes(empty).map_err(no_bson)
}

/// A value that the driver cannot put into a document.
fn no_bson(error: error::Error) -> Refusal {
    (RejectKind::InvalidField, error.to_string())
}

/// Adds a field whose value is JSON text. `depth` is that of a document in the value.
fn append(document: &mut RawDocumentBuf, name: &str, text: &str, depth: usize) -> Result<(), Refusal> {
    let name = <&CStr>::try_from(name).map_err(|_| {
        let reason =
            "the name of a field contains a NUL character, which MongoDB does not support".to_owned();
        (RejectKind::NulCharacter, reason)
    })?;
    match value(text, depth)? {
        Value::Text(text) => document.append(name, &*text),
        Value::Number(number) => document.append(name, number),
        Value::Document(inner) => document.append(name, &inner),
        Value::Array(inner) => document.append(name, &inner),
    }
    Ok(())
}

/// A JSON value as BSON.
enum Value<'a> {
    Text(Cow<'a, str>),
    /// A number, or one of the three names.
    Number(RawBsonRef<'static>),
    Document(RawDocumentBuf),
    Array(RawArrayBuf),
}

fn value(text: &str, depth: usize) -> Result<Value<'_>, Refusal> {
    let unreadable = |error: serde_json::Error| (RejectKind::InvalidField, error.to_string());
    let first = text.as_bytes().first();
    if matches!(first, Some(b'{' | b'[')) && depth > MAX_DEPTH {
        let reason = format!("it is nested deeper than the {MAX_DEPTH} levels that MongoDB supports");
        return Err((RejectKind::InvalidField, reason));
    }
    Ok(match first {
        Some(b'"') => {
            let no_text = || (RejectKind::LoneSurrogate, "it is not valid UTF-8 text".to_owned());
            Value::Text(unescape(text).ok_or_else(no_text)?)
        }
        Some(b'{') => {
            let fields: Fields<'_> = serde_json::from_str(text).map_err(unreadable)?;
            let mut inner = with_capacity(text.len() + 16)?;
            for (name, text) in fields.iter() {
                append(&mut inner, name, text, depth + 1)?;
            }
            Value::Document(inner)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(unreadable)?;
            let mut inner = RawArrayBuf::new();
            for item in items {
                match value(item.get(), depth + 1)? {
                    Value::Text(text) => inner.push(&*text),
                    Value::Number(number) => inner.push(number),
                    Value::Document(document) => inner.push(&document),
                    Value::Array(array) => inner.push(&array),
                }
            }
            Value::Array(inner)
        }
        Some(b'n') => Value::Number(RawBsonRef::Null),
        Some(b't') => Value::Number(RawBsonRef::Boolean(true)),
        Some(b'f') => Value::Number(RawBsonRef::Boolean(false)),
        _ => Value::Number(number(text)?),
    })
}

/// A number in the narrowest type that LightRAG's driver would choose and that is exact.
fn number(text: &str) -> Result<RawBsonRef<'static>, Refusal> {
    if text.contains(['.', 'e', 'E']) {
        let double = text.parse::<f64>().ok().filter(|double| double.is_finite());
        if let Some(double) = double
            && Decimal::of(&format!("{double:e}")) == Decimal::of(text)
        {
            return Ok(RawBsonRef::Double(double));
        }
    } else if let Ok(integer) = text.parse::<i64>() {
        return Ok(match i32::try_from(integer) {
            Ok(small) => RawBsonRef::Int32(small),
            Err(_) => RawBsonRef::Int64(integer),
        });
    }
    Decimal::of(text)
        .and_then(|decimal| decimal.to_text().parse::<Decimal128>().ok())
        .map(RawBsonRef::Decimal128)
        .ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            let reason = format!("no number type of MongoDB can store {shown} exactly");
            (RejectKind::InvalidField, reason)
        })
}

/// A decimal number: its digits, without zeros at either end, times a power of ten. Equal numbers are equal here,
/// however they were written, but for the sign of zero.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number; `None` where the exponent is beyond any type's.
    fn of(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0').trim_end_matches('0');
        if digits.is_empty() {
            return Some(Self {
                negative,
                digits: "0".to_owned(),
                exponent: 0,
            });
        }
        let zeros = all.len() - all.trim_end_matches('0').len();
        let shift = i64::try_from(zeros).ok()? - i64::try_from(fraction.len()).ok()?;
        Some(Self {
            negative,
            digits: digits.to_owned(),
            exponent: exponent.checked_add(shift)?,
        })
    }

    fn to_text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}E{}", self.digits, self.exponent)
    }
}

/// What was read, and what had to be done to it.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) entry: Entry,
    /// Whether JSON has no form of its own for something in it.
    pub(super) foreign: bool,
    /// Whether a time was a date.
    pub(super) dates: bool,
}

/// The fields that hold Unix seconds.
const TIMES: [&str; 2] = ["create_time", "update_time"];

/// The prefix of every old key of records from files, and the first text after all of them.
const OLD_PREFIX: &str = "default_";
const BEHIND_OLD_PREFIX: &str = "default`";

/// The key of today of a document with an old key, which its type belongs to; `None` for any other document.
pub(super) fn key_of_today(id: &str, document: &RawDocument) -> Option<CacheKey> {
    let hash = id.strip_prefix(OLD_PREFIX)?;
    if hash.len() != 32 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let cache_type = match document.get("cache_type") {
        Ok(Some(RawBsonRef::String(name))) if !name.is_empty() && !name.contains(':') => name,
        _ => "extract",
    };
    Some(CacheKey::flattened("default", cache_type, hash))
}

/// The old key of a record from files; `None` for a key that cannot have an old one.
pub(super) fn old_key(key: &CacheKey) -> Option<String> {
    match key.parts()? {
        ("default", _, hash) => Some(format!("{OLD_PREFIX}{hash}")),
        _ => None,
    }
}

/// The key of a document; `None` where it is no text, and so no key of LightRAG's.
pub(super) fn key(document: &RawDocument) -> Option<&str> {
    match document.get("_id") {
        Ok(Some(RawBsonRef::String(key))) => Some(key),
        _ => None,
    }
}

/// The entry that a document is.
pub(super) fn decode(key: &str, document: &RawDocument) -> Decoded {
    let bytes = document.as_bytes().len();
    // Capacity for the escapes of a text with many lines.
    let mut text = Vec::with_capacity(bytes + bytes / 16 + 64);
    let mut reader = Reader::default();
    reader.record(key, document, &mut text);
    let key = CacheKey::from(key);
    let entry = match reader.problem {
        None => Entry::Record(Record::written(key, text)),
        Some((kind, reason)) => Entry::Invalid(Invalid {
            key,
            kind,
            reason,
            raw: Bytes::from(text),
        }),
    };
    Decoded {
        entry,
        foreign: reader.foreign,
        dates: reader.dates,
    }
}

/// Writes documents as JSON text, and remembers the first thing that JSON could not hold.
#[derive(Default)]
struct Reader {
    problem: Option<Refusal>,
    foreign: bool,
    dates: bool,
}

impl Reader {
    /// The fields of a document that are a record's, and the key as `_id`.
    fn record(&mut self, key: &str, document: &RawDocument, out: &mut Vec<u8>) {
        let marked = matches!(document.get("namespace"), Ok(Some(RawBsonRef::String(name))) if marks(name));
        let mut inner = Vec::new();
        let mut object = ObjectWriter::begin(out);
        for element in document.iter_elements() {
            let Some((name, element)) = self.named(element) else {
                break;
            };
            if name == "_id" || marked && MARKERS.contains(&name) {
                continue;
            }
            match element.value() {
                Ok(RawBsonRef::String(text)) => object.string(name, text),
                Ok(RawBsonRef::DateTime(time)) if TIMES.contains(&name) => {
                    self.dates = true;
                    let seconds = time.timestamp_millis().div_euclid(1000);
                    object.raw(name, seconds.to_string().as_bytes());
                }
                found => {
                    inner.clear();
                    self.found(&element, found, &mut inner, 1, name);
                    object.raw(name, &inner);
                }
            }
        }
        object.string("_id", key);
        object.end();
    }

    fn named<'a>(&mut self, element: error::Result<RawElement<'a>>) -> Option<(&'a str, RawElement<'a>)> {
        match element {
            Ok(element) => Some((element.key().as_str(), element)),
            Err(error) => {
                let kind = match error.to_string().contains("UTF-8") {
                    true => RejectKind::InvalidUtf8,
                    false => RejectKind::InvalidField,
                };
                self.cannot(kind, format!("the document cannot be read: {error}"));
                None
            }
        }
    }

    fn cannot(&mut self, kind: RejectKind, reason: String) {
        self.problem.get_or_insert((kind, reason));
    }

    /// A value, or what is wrong with it. `field` is the record's field that it is in.
    fn found(
        &mut self,
        element: &RawElement<'_>,
        value: error::Result<RawBsonRef<'_>>,
        out: &mut Vec<u8>,
        depth: usize,
        field: &str,
    ) {
        match value {
            Ok(value) => self.value(value, out, depth, field),
            Err(error) => match element.value_utf8_lossy() {
                Ok(lossy) => {
                    self.cannot(RejectKind::InvalidUtf8, format!("`{field}` is not valid UTF-8"));
                    self.value(lossy.as_raw_bson_ref(), out, depth, field);
                }
                Err(_) => {
                    self.cannot(
                        RejectKind::InvalidField,
                        format!("`{field}` cannot be read: {error}"),
                    );
                    out.extend_from_slice(b"null");
                }
            },
        }
    }

    fn value(&mut self, value: RawBsonRef<'_>, out: &mut Vec<u8>, depth: usize, field: &str) {
        match value {
            RawBsonRef::Document(_) | RawBsonRef::Array(_) if depth > MAX_DEPTH_READ => {
                let reason = format!("`{field}` is nested deeper than {MAX_DEPTH_READ} levels");
                self.cannot(RejectKind::InvalidField, reason);
                out.extend_from_slice(b"null");
            }
            RawBsonRef::Document(document) => self.document(document, out, depth, field),
            RawBsonRef::Array(array) => self.array(array, out, depth, field),
            RawBsonRef::Double(double) if !double.is_finite() => {
                // As Python writes them, which no JSON is.
                let python = match double {
                    _ if double.is_nan() => "NaN",
                    _ if double > 0.0 => "Infinity",
                    _ => "-Infinity",
                };
                self.cannot(
                    RejectKind::InvalidField,
                    format!("`{field}` is {python}, which JSON cannot hold"),
                );
                out.extend_from_slice(python.as_bytes());
            }
            RawBsonRef::Decimal128(decimal) => self.decimal(decimal, out, field),
            RawBsonRef::String(_)
            | RawBsonRef::Double(_)
            | RawBsonRef::Boolean(_)
            | RawBsonRef::Null
            | RawBsonRef::Int32(_)
            | RawBsonRef::Int64(_) => write_json(out, &value),
            other => {
                self.foreign = true;
                match Bson::try_from(other) {
                    Ok(value) => write_json(out, &value.into_relaxed_extjson()),
                    Err(error) => {
                        self.cannot(
                            RejectKind::InvalidField,
                            format!("`{field}` cannot be read: {error}"),
                        );
                        out.extend_from_slice(b"null");
                    }
                }
            }
        }
    }

    fn document(&mut self, document: &RawDocument, out: &mut Vec<u8>, depth: usize, field: &str) {
        let mut inner = Vec::new();
        let mut object = ObjectWriter::begin(out);
        for element in document.iter_elements() {
            let Some((name, element)) = self.named(element) else {
                break;
            };
            inner.clear();
            self.found(&element, element.value(), &mut inner, depth + 1, field);
            object.raw(name, &inner);
        }
        object.end();
    }

    fn array(&mut self, array: &RawArray, out: &mut Vec<u8>, depth: usize, field: &str) {
        out.push(b'[');
        let mut first = true;
        let elements = RawDocument::from_bytes(array.as_bytes()).map(RawDocument::iter_elements);
        for element in elements.into_iter().flatten() {
            let Some((_, element)) = self.named(element) else {
                break;
            };
            if !std::mem::take(&mut first) {
                out.extend_from_slice(b", ");
            }
            self.found(&element, element.value(), out, depth + 1, field);
        }
        out.push(b']');
    }

    /// A decimal as the number that it is; an integer in all its digits, as Python reads none with an exponent.
    fn decimal(&mut self, decimal: Decimal128, out: &mut Vec<u8>, field: &str) {
        let text = decimal.to_string();
        let Some(parsed) =
            Decimal::of(&text).filter(|parsed| parsed.digits.bytes().all(|d| d.is_ascii_digit()))
        else {
            self.cannot(
                RejectKind::InvalidField,
                format!("`{field}` is {text}, which JSON cannot hold"),
            );
            out.extend_from_slice(text.as_bytes());
            return;
        };
        match usize::try_from(parsed.exponent) {
            Ok(zeros) => {
                if parsed.negative {
                    out.push(b'-');
                }
                out.extend_from_slice(parsed.digits.as_bytes());
                out.resize(out.len() + zeros, b'0');
            }
            Err(_) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// Writing into memory fails for no value that is written here.
fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// A range of keys, the lower end in it and the upper not; either may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    from: String,
    to: Option<String>,
}

impl KeyRange {
    /// Every key that begins so.
    pub(super) fn prefix(prefix: &str) -> Self {
        Self {
            from: prefix.to_owned(),
            to: Some(after_prefix(prefix)),
        }
    }

    /// Every old key.
    pub(super) fn old() -> Self {
        Self {
            from: OLD_PREFIX.to_owned(),
            to: Some(BEHIND_OLD_PREFIX.to_owned()),
        }
    }

    /// The keys of this range before a key, and the others; `None` if one of the two is empty.
    pub(super) fn split(&self, at: &str) -> Option<(Self, Self)> {
        let ends_after = self.to.as_deref().is_none_or(|to| at < to);
        (self.from.as_str() < at && ends_after).then(|| {
            let before = Self {
                to: Some(at.to_owned()),
                ..self.clone()
            };
            let rest = Self {
                from: at.to_owned(),
                to: self.to.clone(),
            };
            (before, rest)
        })
    }

    /// Whether a key is in this range.
    pub(super) fn contains_key(&self, key: &str) -> bool {
        self.from.as_str() <= key && self.to.as_deref().is_none_or(|to| key < to)
    }

    /// Whether the end of this range has the prefix.
    pub(super) fn ends_within(&self, prefix: &str) -> bool {
        self.to.as_deref().is_some_and(|to| to.starts_with(prefix))
    }

    /// Whether this range contains the other.
    fn contains(&self, other: &Self) -> bool {
        let ends_behind = match (&self.to, &other.to) {
            (None, _) => true,
            (Some(end), Some(other)) => end >= other,
            (Some(_), None) => false,
        };
        self.from <= other.from && ends_behind
    }

    /// The filter for the keys of this range, after `after` if that is in it; `None` if none is left. Only keys
    /// that are texts are found: a server compares values with others of their type alone.
    pub(super) fn filter(&self, after: Option<&str>) -> Option<Document> {
        let after = after.filter(|after| *after >= self.from.as_str());
        if let (Some(after), Some(to)) = (after, &self.to)
            && after >= to.as_str()
        {
            return None;
        }
        let mut bounds = match after {
            Some(after) => doc! { "$gt": after },
            None => doc! { "$gte": &self.from },
        };
        if let Some(to) = &self.to {
            bounds.insert("$lt", Bson::from(to));
        }
        Some(doc! { "_id": bounds })
    }
}

/// The same filter, without documents that surely belong to other shards.
///
/// In most servers' regular expressions `$` matches before a final line break too, and none of the ways to say "the very
/// end" is known to all servers. So the end of a key that is not a digit is asked for as well: such a key is no hash's.
pub(super) fn of_shard(filter: Document, shard: Option<Shard>) -> Document {
    let Some(shard) = shard else { return filter };
    let ends_in = |pattern: &str| doc! { "$regex": format!("{pattern}$") };
    let ours = doc! { "_id": ends_in(&shard.hash_pattern()) };
    let other_end = ends_in("[^0-9a-f]");
    if shard.takes_other_keys() {
        let others = doc! { "_id": { "$not": ends_in(&Shard::any_hash_pattern()) } };
        return doc! { "$and": [filter, { "$or": [ours, others, { "_id": other_end }] }] };
    }
    doc! { "$and": [filter, ours, { "_id": { "$not": other_end } }] }
}

/// Adds the range of old keys, which follows that of mode `default`, unless it is read anyway. If the whole mode is read, its
/// range is extended, which saves a query: LightRAG writes no keys between the two.
pub(super) fn with_old_keys(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    let old = KeyRange::old();
    if ranges.iter().any(|range| range.contains(&old)) {
        return ranges;
    }
    let mode = KeyRange::prefix(&format!("{FILE_MODE}:"));
    match ranges.last_mut() {
        Some(last) if *last == mode => last.to = old.to,
        _ => ranges.push(old),
    }
    ranges
}

/// The first text after all with this prefix, in the order of bytes. A prefix ends in a colon, whose successor is a
/// semicolon.
fn after_prefix(prefix: &str) -> String {
    format!("{};", prefix.strip_suffix(':').unwrap_or(prefix))
}

/// A text after a prefix and before all keys that end in a hash after it. No key begins with it: SecantusDB looks at all keys that
/// begin with the end of a range, too.
fn before_hashes(prefix: &str) -> String {
    format!("{prefix}/")
}

/// Whether a key is one of a type that comes from files.
pub(super) fn is_of_known_type(key: &str) -> bool {
    key.starts_with(FILE_MODE) && known_prefixes().any(|prefix| key.starts_with(&prefix))
}

/// The key prefix of a type that comes from files.
pub(super) fn prefix(cache_type: &CacheType) -> String {
    format!("{FILE_MODE}:{cache_type}:")
}

/// The ranges of keys to read for a selection, in order. They hold every selected key and, of the types that LightRAG
/// writes while it reads files, no other; what else is in them is little, and left out by the reader.
pub(super) fn ranges(selection: &Selection) -> Vec<KeyRange> {
    let is_wanted = |prefix: &String| selection.contains_kind(prefix);
    // Keys of queries have any beginning.
    let Some(mut prefixes) = selection.prefixes() else {
        return without(known_prefixes().filter(|prefix| !is_wanted(prefix)).collect());
    };
    prefixes.sort();
    let mut ranges: Vec<(KeyRange, String)> = Vec::new();
    for prefix in prefixes {
        // Nothing of a known type that is not wanted may be in between.
        let is_next = |last: &str| !known_prefixes().any(|known| *last < *known && *known < *prefix);
        match ranges.last_mut() {
            Some((range, last)) if is_next(last) => {
                range.to = Some(after_prefix(&prefix));
                *last = prefix;
            }
            _ => ranges.push((KeyRange::prefix(&prefix), prefix)),
        }
    }
    ranges.into_iter().map(|(range, _)| range).collect()
}

/// The ranges of keys of no type that LightRAG writes while it reads files.
pub(super) fn ranges_without_known_types() -> Vec<KeyRange> {
    without(known_prefixes().collect())
}

fn known_prefixes() -> impl Iterator<Item = String> {
    CacheType::FROM_FILES.iter().map(prefix)
}

/// All keys but those with one of these prefixes. The ranges may hold keys with a prefix too, if they do not end in a hash.
fn without(mut prefixes: Vec<String>) -> Vec<KeyRange> {
    prefixes.sort();
    let mut ranges = Vec::with_capacity(prefixes.len() + 1);
    let mut from = String::new();
    for prefix in prefixes {
        let after = after_prefix(&prefix);
        ranges.push(KeyRange {
            from: std::mem::replace(&mut from, after),
            to: Some(before_hashes(&prefix)),
        });
    }
    ranges.push(KeyRange { from, to: None });
    ranges
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Binary, DateTime, oid::ObjectId, spec::BinarySubtype};

    use super::*;

    const LIMIT: usize = 16 << 20;

    fn record(json: &str) -> Record {
        Record::new(
            CacheKey::from("default:extract:1"),
            Bytes::copy_from_slice(json.as_bytes()),
        )
        .unwrap()
    }

    fn encoded(json: &str) -> Document {
        let encoded = encode(&record(json), OnInvalid::Reject, LIMIT).unwrap();
        assert_eq!(encoded.changes, Changes::default());
        encoded.document.try_into().unwrap()
    }

    fn refused(json: &str) -> RejectKind {
        encode(&record(json), OnInvalid::Reject, LIMIT).unwrap_err().0
    }

    fn decoded(document: &Document) -> Entry {
        let raw = RawDocumentBuf::try_from(document).unwrap();
        let key = key(&raw).unwrap().to_owned();
        decode(&key, &raw).entry
    }

    /// The text of the record that a document is, without the `_id` at its end.
    fn text(document: &Document) -> String {
        match decoded(document) {
            Entry::Record(record) => {
                let text = std::str::from_utf8(record.value()).unwrap();
                let id = format!(", \"_id\": \"{}\"}}", record.key());
                format!("{}}}", text.strip_suffix(&id).unwrap())
            }
            Entry::Invalid(invalid) => panic!("{invalid:?}"),
        }
    }

    /// The text of a field after its way into a document and back.
    fn there_and_back(value: &str) -> String {
        let back = text(&encoded(&format!("{{\"x\": {value}}}")));
        back.strip_prefix("{\"x\": ")
            .unwrap()
            .strip_suffix('}')
            .unwrap()
            .to_owned()
    }

    /// What LightRAG itself wrote, read back from a MongoDB server as extended JSON.
    #[test]
    fn a_document_of_lightrag_becomes_a_record_and_the_same_document_again() {
        let fixtures = include_str!("../../../tests/fixtures/mongo.jsonl");
        let records = include_str!("../../../tests/fixtures/records.jsonl");
        let mut answers = 0;
        for line in fixtures.lines() {
            let extended: serde_json::Value = serde_json::from_str(line).unwrap();
            let document = from_extended(&extended);
            let Entry::Record(record) = decoded(&document) else {
                panic!("{line} is a record");
            };
            let again = encode(&record, OnInvalid::Reject, LIMIT).unwrap();
            assert_eq!(again.changes, Changes::default());
            let again: Document = again.document.try_into().unwrap();
            assert_eq!(again, document);
            // The order of fields is kept too, and the types of numbers.
            assert_eq!(format!("{again:?}"), format!("{document:?}"));
            for written in records.lines() {
                let written: serde_json::Value = serde_json::from_str(written).unwrap();
                if written["key"] == record.key().as_str() {
                    let value: serde_json::Value = serde_json::from_slice(record.value()).unwrap();
                    assert_eq!(value["return"], written["value"]["return"]);
                    assert_eq!(value["original_prompt"], written["value"]["original_prompt"]);
                    assert_eq!(value["queryparam"], written["value"]["queryparam"]);
                    answers += 1;
                }
            }
        }
        assert_eq!(answers, 6);
    }

    /// The little of extended JSON that LightRAG's documents need.
    fn from_extended(value: &serde_json::Value) -> Document {
        fn bson(value: &serde_json::Value) -> Bson {
            match value {
                serde_json::Value::Object(fields) if fields.contains_key("$numberInt") => {
                    Bson::Int32(fields["$numberInt"].as_str().unwrap().parse().unwrap())
                }
                serde_json::Value::Object(fields) => Bson::Document(
                    fields
                        .iter()
                        .map(|(name, value)| (name.clone(), bson(value)))
                        .collect(),
                ),
                serde_json::Value::Array(items) => Bson::Array(items.iter().map(bson).collect()),
                serde_json::Value::String(text) => Bson::String(text.clone()),
                serde_json::Value::Bool(truth) => Bson::Boolean(*truth),
                serde_json::Value::Null => Bson::Null,
                serde_json::Value::Number(number) => panic!("a number in extended JSON: {number}"),
            }
        }
        match bson(value) {
            Bson::Document(document) => document,
            other => panic!("no document: {other}"),
        }
    }

    #[test]
    fn numbers_get_the_types_of_lightrags_driver() {
        let document = encoded(
            r#"{"a": 1700000000, "b": 2147483648, "c": -2147483648, "d": 1.0, "e": 1e5, "f": -0.0, "g": 5e-324,
                "h": 0.1, "i": 1.7976931348623157e308, "j": -0, "k": 9007199254740993}"#,
        );
        let expected = [
            Bson::String("default:extract:1".to_owned()),
            Bson::Int32(1_700_000_000),
            Bson::Int64(2_147_483_648),
            Bson::Int32(i32::MIN),
            Bson::Double(1.0),
            Bson::Double(100_000.0),
            Bson::Double(-0.0),
            Bson::Double(5e-324),
            Bson::Double(0.1),
            Bson::Double(f64::MAX),
            Bson::Int32(0),
            Bson::Int64(9_007_199_254_740_993),
        ];
        assert_eq!(document.values().cloned().collect::<Vec<_>>(), expected);
        let Some(Bson::Double(zero)) = document.get("f") else {
            panic!("a double");
        };
        assert!(zero.is_sign_negative());
    }

    #[test]
    fn a_number_comes_back_as_it_was_or_is_refused() {
        for kept in [
            "1",
            "-1",
            "17.0",
            "-0.0",
            "1.5e-7",
            "9223372036854775807",
            "9223372036854775808",
            "-123456789012345678901234567890",
            "1234567890123456789012345678901234",
            "123456789012345678901234567890.5",
            "0.10000000000000000555",
        ] {
            assert_eq!(there_and_back(kept), kept);
        }
        // The same numbers in other words.
        for (sent, back) in [
            ("1E5", "100000.0"),
            ("1.50", "1.5"),
            ("0e999", "0.0"),
            ("100000000000000000000", "100000000000000000000"),
            ("12e400", &format!("12{}", "0".repeat(400))),
            ("1e-400", "1E-400"),
        ] {
            assert_eq!(there_and_back(sent), back, "{sent}");
        }
        for refused_number in [
            "12345678901234567890123456789012345",
            "1e7000",
            "1e-7000",
            "1e99999999999999999999",
            "1.234567890123456789012345678901234567",
        ] {
            assert_eq!(
                refused(&format!("{{\"x\": {refused_number}}}")),
                RejectKind::InvalidField
            );
        }
    }

    #[test]
    fn every_shape_of_value_comes_back_in_its_order() {
        for kept in [
            r#"null"#,
            r#"true"#,
            r#""a\u0000b\"\\\n\té😀""#,
            r#"{"b": 1, "a": [1, 2.5, null, "x", {"": []}], "c": {}}"#,
            r#"{"a.b": 1, "$set": {"$gt": ""}}"#,
        ] {
            assert_eq!(there_and_back(kept), kept);
        }
        assert_eq!(there_and_back(r#""\ud83d\ude00\u00e9\/""#), r#""😀é/""#);
        assert_eq!(
            there_and_back(r#"{"a": 1, "b": 2, "a": 3}"#),
            r#"{"b": 2, "a": 3}"#
        );
    }

    #[test]
    fn the_key_is_the_id_whatever_the_record_says() {
        let document = encoded(r#"{"return": "a", "_id": "another", "return": "b"}"#);
        assert_eq!(document, doc! { "_id": "default:extract:1", "return": "b" });
        assert_eq!(text(&document), r#"{"return": "b"}"#);
    }

    #[test]
    fn what_mongodb_cannot_hold_is_refused_by_kind() {
        assert_eq!(refused(r#"{"return": "a\ud83d"}"#), RejectKind::LoneSurrogate);
        assert_eq!(refused(r#"{"a\u0000b": 1}"#), RejectKind::NulCharacter);
        assert_eq!(refused(r#"{"x": {"a\u0000b": 1}}"#), RejectKind::NulCharacter);
        let nested = |levels: usize| format!("{{\"x\": {}1{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(
            there_and_back(&format!("{}1{}", "[".repeat(99), "]".repeat(99))).len(),
            199
        );
        assert_eq!(refused(&nested(100)), RejectKind::InvalidField);
        assert_eq!(refused(&nested(5000)), RejectKind::InvalidField);
        let large = format!("{{\"return\": \"{}\"}}", "x".repeat(LIMIT));
        assert_eq!(refused(&large), RejectKind::ValueTooLarge);
        // `_id` and its text, the field's name and length, and the end of the document: 4 + 27 + 13 + 1 bytes.
        let fits = format!("{{\"return\": \"{}\"}}", "x".repeat(LIMIT - 45));
        assert_eq!(
            encode(&record(&fits), OnInvalid::Reject, LIMIT)
                .unwrap()
                .document
                .as_bytes()
                .len(),
            LIMIT
        );
        let escaped = format!("{{\"return\": \"{}\"}}", "\\u0041".repeat(1 << 20));
        assert!(encode(&record(&escaped), OnInvalid::Reject, 2 << 20).is_ok());
    }

    #[test]
    fn half_a_surrogate_pair_can_be_left_out_and_told() {
        let record = record(r#"{"return": "a\ud83db", "queryparam": {"x": "\ude00"}, "n": 1}"#);
        let encoded = encode(&record, OnInvalid::Sanitize, LIMIT).unwrap();
        assert_eq!(encoded.changes.sanitized, ["return", "queryparam"]);
        let document: Document = encoded.document.try_into().unwrap();
        assert_eq!(
            document,
            doc! { "_id": "default:extract:1", "return": "ab", "queryparam": { "x": "" }, "n": 1 }
        );
    }

    #[test]
    fn markers_of_old_documents_are_told_from_a_users_fields() {
        let id = "default:extract:1";
        let old = doc! { "_id": id, "namespace": "space1_llm_response_cache", "workspace": "space1", "content": "a",
        "return": "b" };
        assert_eq!(text(&old), r#"{"return": "b"}"#);
        let own = doc! { "_id": id, "namespace": "mine", "workspace": "w", "content": "c" };
        assert_eq!(
            text(&own),
            r#"{"namespace": "mine", "workspace": "w", "content": "c"}"#
        );
        let only_content = doc! { "_id": id, "content": "c" };
        assert_eq!(text(&only_content), r#"{"content": "c"}"#);
        let record = record(r#"{"return": "a", "content": "c", "namespace": "llm_response_cache"}"#);
        let encoded = encode(&record, OnInvalid::Reject, LIMIT).unwrap();
        assert_eq!(encoded.changes.dropped_fields, ["content", "namespace"]);
    }

    #[test]
    fn what_json_does_not_know_is_extended_json_and_what_it_cannot_hold_is_invalid() {
        let document = doc! {
            "_id": "k",
            "date": DateTime::from_millis(1_700_000_000_000),
            "oid": ObjectId::from_bytes([7; 12]),
            "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] },
        };
        assert_eq!(
            text(&document),
            r#"{"date": {"$date":"2023-11-14T22:13:20Z"}, "oid": {"$oid":"070707070707070707070707"}, "bytes": {"$binary":{"base64":"AQID","subType":"00"}}}"#
        );
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        assert!(decode("k", &raw).foreign);
        assert!(
            !decode(
                "k",
                &RawDocumentBuf::try_from(&doc! { "_id": "k", "a": 1.5 }).unwrap()
            )
            .foreign
        );

        let nan = doc! { "_id": "k", "return": "a", "queryparam": { "x": [f64::NAN, f64::NEG_INFINITY] } };
        let Entry::Invalid(invalid) = decoded(&nan) else {
            panic!("NaN is no JSON");
        };
        assert_eq!(invalid.kind, RejectKind::InvalidField);
        assert!(
            invalid.reason.contains("`queryparam` is NaN"),
            "{}",
            invalid.reason
        );
        assert_eq!(
            invalid.raw,
            r#"{"return": "a", "queryparam": {"x": [NaN, -Infinity]}, "_id": "k"}"#
        );
        for special in ["NaN", "Infinity", "-Infinity"] {
            let special = doc! { "_id": "k", "x": special.parse::<Decimal128>().unwrap() };
            assert!(matches!(decoded(&special), Entry::Invalid(_)));
        }
    }

    #[test]
    fn text_that_is_no_utf8_makes_an_entry_invalid() {
        let mut bytes = RawDocumentBuf::try_from(&doc! { "_id": "k", "return": "abc", "x": { "y": "abc" } })
            .unwrap()
            .into_bytes();
        let places: Vec<usize> = (0..bytes.len() - 3)
            .filter(|at| &bytes[*at..at + 3] == b"abc")
            .collect();
        for place in places {
            bytes[place + 1] = 0xff;
            let document = RawDocument::from_bytes(&bytes).unwrap();
            let Entry::Invalid(invalid) = decode("k", document).entry else {
                panic!("no UTF-8");
            };
            assert_eq!(invalid.kind, RejectKind::InvalidUtf8);
            assert!(
                invalid.raw.starts_with("{\"return\": \"a\u{fffd}c\"".as_bytes()),
                "{:?}",
                invalid.raw
            );
        }
    }

    #[test]
    fn nesting_beyond_any_servers_limit_does_not_exhaust_the_stack() {
        let mut bson = Bson::Null;
        for _ in 0..MAX_DEPTH_READ + 10 {
            bson = Bson::Array(vec![bson]);
        }
        assert!(matches!(
            decoded(&doc! { "_id": "k", "x": bson }),
            Entry::Invalid(_)
        ));
    }

    #[test]
    fn an_id_that_is_no_text_is_no_key() {
        for id in [
            Bson::Int32(1),
            Bson::ObjectId(ObjectId::from_bytes([7; 12])),
            Bson::Null,
        ] {
            assert_eq!(key(&RawDocumentBuf::try_from(&doc! { "_id": id }).unwrap()), None);
        }
        assert_eq!(key(&RawDocumentBuf::new()), None);
    }

    fn shown(ranges: &[KeyRange]) -> Vec<String> {
        let shown = |range: &KeyRange| format!("{}..{}", range.from, range.to.as_deref().unwrap_or_default());
        ranges.iter().map(shown).collect()
    }

    #[test]
    fn old_keys_are_read_in_the_range_of_the_whole_mode_or_after_the_others() {
        let of = |names: &str| with_old_keys(ranges(&Selection::parse(names.split(',')).unwrap()));
        assert_eq!(shown(&of("default")), ["default:..default`"]);
        assert_eq!(
            shown(&of("extract")),
            ["default:extract:..default:extract;", "default_..default`"]
        );
        // After the last known type there may be types that are not selected.
        assert_eq!(
            shown(&of("summary")),
            ["default:summary:..default:summary;", "default_..default`"]
        );
        assert_eq!(shown(&of("default,query")), [".."]);
        // A cursor of the time when these were two ranges, in the first and in the second.
        for last in ["default:summary:ff", "default_00"] {
            let rest = doc! { "_id": { "$gt": last, "$lt": "default`" } };
            assert_eq!(of("default")[0].filter(Some(last)), Some(rest));
        }
    }

    #[test]
    fn a_range_is_divided_without_losing_the_key_between() {
        let range = KeyRange::prefix("default:extract:");
        let (before, rest) = range.split("default:extract:8").unwrap();
        assert_eq!(
            shown(&[before, rest]),
            [
                "default:extract:..default:extract:8",
                "default:extract:8..default:extract;"
            ]
        );
        for outside in [
            "default:analysis:8",
            "default:extract:",
            "default:extract;",
            "zzz",
        ] {
            assert_eq!(range.split(outside), None, "{outside}");
        }
    }

    #[test]
    fn neighbouring_prefixes_are_read_as_one_range() {
        let of = |types: &[CacheType]| shown(&ranges(&Selection::new(types.iter().cloned()).unwrap()));
        use CacheType::{Analysis, Extract, Keywords, Query, Summary};
        assert_eq!(
            of(&[Extract, Summary, Analysis]),
            [
                "default:analysis:..default:extract;",
                "default:summary:..default:summary;"
            ]
        );
        assert_eq!(of(&[Extract]), ["default:extract:..default:extract;"]);
        assert_eq!(
            of(&[Analysis, Summary]),
            [
                "default:analysis:..default:analysis;",
                "default:summary:..default:summary;"
            ]
        );
        assert_eq!(
            of(&[Extract, Query]),
            [
                "..default:analysis:/",
                "default:analysis;..default:smartheading:/",
                "default:smartheading;..default:summary:/",
                "default:summary;.."
            ]
        );
        assert_eq!(
            of(&[Keywords]),
            [
                "..default:analysis:/",
                "default:analysis;..default:extract:/",
                "default:extract;..default:smartheading:/",
                "default:smartheading;..default:summary:/",
                "default:summary;.."
            ]
        );
        let named = |names: &str| shown(&ranges(&Selection::parse(names.split(',')).unwrap()));
        assert_eq!(named("default"), ["default:..default;"]);
        assert_eq!(named("default,query"), [".."]);
        assert_eq!(named("all"), [".."]);
        assert_eq!(
            named("of_tomorrow,extract"),
            ["default:extract:..default:of_tomorrow;"]
        );
    }

    #[test]
    fn a_range_goes_on_behind_a_key() {
        let range = KeyRange::prefix("default:extract:");
        let filter = |after: Option<&str>| range.filter(after);
        let whole = doc! { "_id": { "$gte": "default:extract:", "$lt": "default:extract;" } };
        assert_eq!(filter(None), Some(whole.clone()));
        assert_eq!(filter(Some("default:analysis:ff")), Some(whole));
        assert_eq!(
            filter(Some("default:extract:77")),
            Some(doc! { "_id": { "$gt": "default:extract:77", "$lt": "default:extract;" } })
        );
        assert_eq!(filter(Some("default:summary:00")), None);
    }

    /// Whether a document of this id passes the filter of a shard. The server's `$` matches at the end, and before a final
    /// line break too if `before_break`.
    fn passes(filter: &Document, id: &str, shard: Shard, before_break: bool) -> bool {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_hash = |text: &str| {
            text.as_bytes()
                .last_chunk::<32>()
                .is_some_and(|hash| hash.iter().all(is_digit))
        };
        let matches_before = |end: &str, pattern: &str| match pattern {
            "[^0-9a-f]" => end.as_bytes().last().is_some_and(|byte| !is_digit(byte)),
            hash if hash == Shard::any_hash_pattern() => is_hash(end),
            hash if hash == shard.hash_pattern() => is_hash(end) && shard.contains(end),
            other => panic!("{other} is not expected"),
        };
        let matches = |pattern: &str| {
            let pattern = pattern.strip_suffix('$').unwrap();
            let broken = id.strip_suffix('\n').filter(|_| before_break);
            matches_before(id, pattern) || broken.is_some_and(|end| matches_before(end, pattern))
        };
        let passes = |filter: &Bson| passes(filter.as_document().unwrap(), id, shard, before_break);
        filter.iter().all(|(name, value)| match name.as_str() {
            "$and" => value.as_array().unwrap().iter().all(passes),
            "$or" => value.as_array().unwrap().iter().any(passes),
            "$not" => !passes(value),
            "$regex" => matches(value.as_str().unwrap()),
            "_id" => passes(value),
            other => panic!("{other} is not expected"),
        })
    }

    #[test]
    fn a_shards_filter_passes_the_keys_that_belong_to_it_wherever_a_line_ends() {
        let hashes = ["0", "5", "a", "f"].map(|digit| digit.repeat(32));
        let keys = hashes.iter().flat_map(|hash| {
            [
                hash.clone(),
                format!("default:extract:{hash}"),
                format!("default:extract:{hash}\n"),
                format!("default:extract:{hash}\r\n"),
                format!("default:extract:{hash}\n\n"),
                format!("default:extract:{}", hash.to_uppercase()),
                format!("default:extract:{hash}x"),
                format!("default:extract:\n{hash}"),
                format!("é{hash}"),
                hash[1..].to_owned(),
            ]
        });
        for key in keys.chain(["".to_owned(), "\n".to_owned()]) {
            for (count, before_break) in [(1, true), (2, true), (3, true), (7, true), (7, false)] {
                for index in 0..count {
                    let shard = Shard::new(index, count).unwrap();
                    let filter = of_shard(Document::new(), Some(shard));
                    let is_passed = passes(&filter, &key, shard, before_break);
                    assert_eq!(is_passed, shard.contains(&key), "{key:?} and {shard}: {filter}");
                }
            }
        }
    }
}
