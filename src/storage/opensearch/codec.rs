//! A record as a document, and the names of indices, as `lightrag/kg/opensearch_impl.py` of LightRAG 1.5 has them.
//!
//! A document has the cache key as its `_id`. Its source contains the fields of the record and `__mirrored_id`, the key
//! again, because a server may refuse to sort by `_id`. Where somebody else wrote the two and they differ, the key is the
//! `_id`, by which LightRAG looks records up. The server keeps the text of a source as it was sent, so
//! numbers of any size, escapes and halves of surrogate pairs come back as they went.

use std::ops::Range;

use memchr::memchr2;
use serde_json::value::RawValue;

use super::mapping;
use crate::{
    model::{
        Error, NAMESPACE, Result, Workspace,
        record::{CacheKey, Fields, ObjectWriter, Record, RejectKind},
    },
    storage::{Changes, WriteMode, WriteOutcome},
};

/// The field with the key.
pub(super) const MIRRORED_ID: &str = "__mirrored_id";

/// The longest name that OpenSearch gives to an index, in bytes.
const LONGEST_INDEX_NAME: usize = 255;

/// The longest `_id`, in bytes.
const LONGEST_KEY: usize = 512;

/// The most directly nested lists (usually `index.mapping.depth.limit`).
const DEEPEST_LISTS: usize = 20;

/// The deepest nesting that the server's parser reads, with the document itself.
const DEEPEST_NESTING: usize = 1000;

/// The longest number that the server's parser reads, in characters.
const LONGEST_NUMBER: usize = 1000;

/// Names that a document cannot use for a field: the server keeps data of its own under them. `_primary_term` it
/// even accepts at first, and then can write no document with it.
const METADATA_FIELDS: [&str; 12] = [
    "_data_stream_timestamp",
    "_doc_count",
    "_field_names",
    "_id",
    "_ignored",
    "_index",
    "_nested_path",
    "_primary_term",
    "_routing",
    "_seq_no",
    "_source",
    "_version",
];

/// The index of a workspace: `[{workspace}_]llm_response_cache` in lower case, `_` for every character that is none of
/// `a-z0-9_-`, and an `x` before a leading `-`, `_` or `+`.
///
/// # Errors
/// The name is longer than OpenSearch allows.
pub(super) fn index_name(workspace: &Workspace) -> Result<String> {
    let name = workspace.prefixed_namespace().to_lowercase();
    let mut index: String = name
        .chars()
        .map(|character| match character {
            'a'..='z' | '0'..='9' | '_' | '-' => character,
            _ => '_',
        })
        .collect();
    if index.starts_with(['-', '_', '+']) {
        index.insert(0, 'x');
    }
    if index.len() > LONGEST_INDEX_NAME {
        let longest = LONGEST_INDEX_NAME - NAMESPACE.len() - 1;
        return Err(
            Error::config(format!("the workspace {workspace} is too long for OpenSearch"))
                .with_remedy(format!("choose a name of at most {longest} characters")),
        );
    }
    Ok(index)
}

/// A pattern for the index of any workspace.
pub(super) fn any_index() -> String {
    format!("*{NAMESPACE}")
}

/// The workspace whose index has this name, as far as the name shows it; `None` if it is not a cache of LightRAG.
pub(super) fn workspace_of_index(index: &str) -> Option<Workspace> {
    let prefix = index.strip_suffix(NAMESPACE)?;
    let name = match prefix {
        "" => "",
        _ => prefix.strip_suffix('_')?,
    };
    let workspace = Workspace::new(name).ok()?;
    (index_name(&workspace).ok()? == index).then_some(workspace)
}

/// Why no document can have this key.
pub(super) fn key_problem(key: &CacheKey) -> Option<(RejectKind, String)> {
    let length = key.as_str().len();
    let reason = match length {
        0 => "OpenSearch does not accept an empty key".to_owned(),
        _ if length > LONGEST_KEY => {
            format!("the key has {length} bytes; OpenSearch accepts at most {LONGEST_KEY}")
        }
        _ => return None,
    };
    Some((RejectKind::InvalidKey, reason))
}

/// A record as encoded in a bulk request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    /// The document in the request's body.
    pub(super) document: Range<usize>,
    /// What of the record is not in it.
    pub(super) changes: Changes,
}

/// Adds the operation that writes a record to the body of a bulk request: one line for what to do, one for the document.
///
/// Fields of the names in `dropped_fields` stay out, and so do those that no document can have.
pub(super) fn push_operation(
    body: &mut Vec<u8>,
    record: &Record,
    mode: WriteMode,
    dropped_fields: &[String],
) -> Operation {
    let key = record.key().as_str();
    let action = match mode {
        WriteMode::Upsert => "index",
        WriteMode::Create => "create",
    };
    let mut line = ObjectWriter::begin(body);
    line.value(action, &std::collections::BTreeMap::from([("_id", key)]));
    line.end();
    body.push(b'\n');
    let start = body.len();
    let mut changes = Changes::default();
    let fields = record.fields();
    let mut document = ObjectWriter::begin(body);
    for (name, value) in fields.iter() {
        if matches!(name, "_id" | MIRRORED_ID) {
            // Both are the key, which the document gets anew.
            continue;
        }
        if dropped_fields.iter().any(|left| left == name) || !is_possible(name, value) {
            if value != "null" {
                changes.dropped_fields.push(name.to_owned());
            }
        } else if memchr2(b'\n', b'\r', value.as_bytes()).is_some() {
            // Lines end operations. Inside of strings they are escapes, so these are between values.
            let mut line = value.as_bytes().to_vec();
            line.retain(|byte| !matches!(byte, b'\n' | b'\r'));
            document.raw(name, &line);
        } else {
            document.raw(name, value.as_bytes());
        }
    }
    document.string(MIRRORED_ID, key);
    document.end();
    let document = start..body.len();
    body.push(b'\n');
    Operation { document, changes }
}

/// What writing a record would answer, as far as that does not depend on what the index has seen before.
pub(super) fn preview(record: &Record) -> WriteOutcome {
    if let Some((kind, reason)) = key_problem(record.key()) {
        return WriteOutcome::rejected(kind, reason);
    }
    let fields = record.fields();
    if let Some(reason) = field_problem(&fields) {
        return WriteOutcome::rejected(RejectKind::InvalidField, reason);
    }
    let mut changes = Changes::default();
    for (name, value) in fields.iter() {
        if !matches!(name, "_id" | MIRRORED_ID) && value != "null" && !is_possible(name, value) {
            changes.dropped_fields.push(name.to_owned());
        }
    }
    WriteOutcome::Written(changes)
}

/// Why no document can have one of LightRAG's own fields as it is. A record is not written without such a field.
///
/// That a text is no object and query parameters are one, is what an index takes LightRAG's own documents to mean.
fn field_problem(fields: &Fields<'_>) -> Option<String> {
    fields.iter().find_map(|(name, value)| {
        if !mapping::USUAL_FIELDS.contains(&name) {
            return None;
        }
        let shape = Shape::of(value);
        let expected = match name {
            _ if !shape.is_readable() => return Some(format!("the field {name} {UNREADABLE}")),
            "return" | "original_prompt" | "chunk_id" | "cache_type" if shape.objects > 0 => "text",
            "queryparam" if !value.starts_with(['{', '[', 'n']) => "an object",
            _ => return None,
        };
        Some(format!("in OpenSearch the field {name} is {expected}"))
    })
}

const UNREADABLE: &str = "is nested deeper, or contains a longer number, than OpenSearch supports";

/// Whether a document can have this field, or a record has to do without it. The fields of LightRAG's own are not
/// judged here.
fn is_possible(name: &str, value: &str) -> bool {
    is_field_name(name) && (mapping::USUAL_FIELDS.contains(&name) || Shape::of(value).is_readable())
}

/// What matters to the server of a JSON text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// The most directly nested lists.
    lists: usize,
    /// The deepest nesting of lists and objects.
    depth: usize,
    /// Characters of the longest number.
    number: usize,
    objects: usize,
}

impl Shape {
    /// Whether the server's parser reads it.
    fn is_readable(self) -> bool {
        self.lists <= DEEPEST_LISTS && self.depth < DEEPEST_NESTING && self.number <= LONGEST_NUMBER
    }

    fn of(json: &str) -> Self {
        let mut shape = Self::default();
        if json.starts_with('"') {
            return shape;
        }
        let bytes = json.as_bytes();
        // For each open object or list, the number of directly nested lists up to it: 0 for an object.
        let mut open: Vec<usize> = Vec::new();
        let mut number = 0;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            at += 1;
            if matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') {
                number += 1;
                shape.number = shape.number.max(number);
                continue;
            }
            number = 0;
            match byte {
                b'"' => at = end_of_string(bytes, at),
                b'[' => {
                    let lists = open.last().map_or(1, |lists| lists + 1);
                    shape.lists = shape.lists.max(lists);
                    open.push(lists);
                }
                b'{' => {
                    shape.objects += 1;
                    open.push(0);
                }
                b']' | b'}' => {
                    open.pop();
                }
                _ => {}
            }
            shape.depth = shape.depth.max(open.len());
        }
        shape
    }
}

/// The position after the closing quote of the string that starts before `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    json.len()
}

/// Whether the server takes this name for a field of a document. A dot separates the names of nested objects.
fn is_field_name(name: &str) -> bool {
    if METADATA_FIELDS.contains(&name) || name.is_empty() {
        return false;
    }
    if !name.contains('.') {
        return true;
    }
    // Dots at the end are taken, and then count for nothing.
    let path = name.trim_end_matches('.');
    !path.is_empty() && path.split('.').all(|part| !part.trim().is_empty())
}

/// Adds the value of a document's record: its source without `__mirrored_id`.
///
/// What is no object, or has names that no text can hold, is added as it is, for whoever makes a record of it to
/// refuse.
pub(super) fn push_value(out: &mut Vec<u8>, source: &RawValue) {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(source.get()) else {
        out.extend_from_slice(source.get().as_bytes());
        return;
    };
    let mut object = ObjectWriter::begin(out);
    for (name, value) in fields.iter().filter(|(name, _)| *name != MIRRORED_ID) {
        object.raw(name, value.as_bytes());
    }
    object.end();
}

/// Adds the value of a document's record as storages that keep records as text have it: its source without
/// `__mirrored_id`, with the key as its `_id`.
pub(super) fn push_record(out: &mut Vec<u8>, key: &str, fields: &Fields<'_>) {
    let mut object = ObjectWriter::begin(out);
    for (name, value) in fields.iter() {
        if !matches!(name, "_id" | MIRRORED_ID) {
            object.raw(name, value.as_bytes());
        }
    }
    object.string("_id", key);
    object.end();
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde::Deserialize;

    use super::*;

    fn workspace(name: &str) -> Workspace {
        Workspace::new(name).unwrap()
    }

    fn record(key: &str, value: &str) -> Record {
        Record::new(CacheKey::from(key), Bytes::copy_from_slice(value.as_bytes())).unwrap()
    }

    fn operation(record: &Record, mode: WriteMode) -> (String, String, Changes) {
        let mut body = Vec::new();
        let operation = push_operation(&mut body, record, mode, &[]);
        let text = String::from_utf8(body).unwrap();
        let (action, rest) = text.split_once('\n').unwrap();
        let document = &text[operation.document.clone()];
        assert_eq!(rest, format!("{document}\n"));
        (action.to_owned(), document.to_owned(), operation.changes)
    }

    #[test]
    fn an_index_is_named_as_lightrag_names_it() {
        for (name, index) in [
            ("", "llm_response_cache"),
            ("space1", "space1_llm_response_cache"),
            ("Space 1", "space_1_llm_response_cache"),
            ("_x", "x_x_llm_response_cache"),
            ("-y", "x-y_llm_response_cache"),
            ("+z", "x_z_llm_response_cache"),
            ("é日", "x___llm_response_cache"),
            ("a.b*c", "a_b_c_llm_response_cache"),
            // The Kelvin sign is a `k` in lower case.
            ("\u{212a}", "k_llm_response_cache"),
        ] {
            assert_eq!(index_name(&workspace(name)).unwrap(), index, "{name}");
        }
    }

    #[test]
    fn an_index_name_has_a_longest() {
        let longest = LONGEST_INDEX_NAME - "_llm_response_cache".len();
        assert!(index_name(&workspace(&"w".repeat(longest))).is_ok());
        assert!(index_name(&workspace(&"w".repeat(longest + 1))).is_err());
    }

    #[test]
    fn the_workspace_of_an_index_leads_back_to_it() {
        for index in [
            "llm_response_cache",
            "space1_llm_response_cache",
            "x_x_llm_response_cache",
        ] {
            let workspace = workspace_of_index(index).unwrap();
            assert_eq!(index_name(&workspace).unwrap(), index);
        }
        assert_eq!(
            workspace_of_index("space1_llm_response_cache"),
            Some(workspace("space1"))
        );
        for other in ["myllm_response_cache", ".llm_response_cache", "space1_full_docs"] {
            assert_eq!(workspace_of_index(other), None, "{other}");
        }
    }

    #[test]
    fn a_key_has_at_most_512_bytes() {
        assert_eq!(key_problem(&CacheKey::new("é".repeat(256))), None);
        for key in ["k".repeat(513), "é".repeat(257), String::new()] {
            let (kind, _) = key_problem(&CacheKey::new(key)).unwrap();
            assert_eq!(kind, RejectKind::InvalidKey);
        }
    }

    #[test]
    fn an_operation_is_two_lines_whatever_the_record_looked_like() {
        let record = record(
            "default:extract:\"1\n",
            "{\n  \"return\": \"a\\nb\",\r\n  \"queryparam\": {\n    \"k\": [\n1]\r\n  },\n  \"_id\": \"other\"\n}",
        );
        let (action, document, changes) = operation(&record, WriteMode::Upsert);
        assert_eq!(action, r#"{"index": {"_id":"default:extract:\"1\n"}}"#);
        let expected =
            r#"{"return": "a\nb", "queryparam": {    "k": [1]  }, "__mirrored_id": "default:extract:\"1\n"}"#;
        assert_eq!(document, expected);
        assert_eq!(changes, Changes::default());
        assert!(
            operation(&record, WriteMode::Create)
                .0
                .starts_with(r#"{"create": "#)
        );
    }

    #[test]
    fn fields_that_no_document_can_have_are_left_behind_by_name() {
        let record = record(
            "k",
            r#"{"": 1, ".": 2, ".a": 3, "a..b": 4, "a. .b": 5, "_source": 6, "_primary_term": 7,
                "a.b": 8, "c.": 9, " ": 10, "_type": 11, "__mirrored_id": "other"}"#,
        );
        let (_, document, changes) = operation(&record, WriteMode::Upsert);
        assert_eq!(
            document,
            r#"{"a.b": 8, "c.": 9, " ": 10, "_type": 11, "__mirrored_id": "k"}"#
        );
        assert_eq!(
            changes.dropped_fields,
            ["", ".", ".a", "a..b", "a. .b", "_source", "_primary_term"]
        );
    }

    #[test]
    fn what_the_servers_parser_does_not_read_is_known_before() {
        let lists = |n| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        let objects = |n| format!("{}1{}", "{\"a\": ".repeat(n), "}".repeat(n));
        let number = |n| "1".repeat(n);
        let is_readable = |json: &str| Shape::of(json).is_readable();
        assert!(is_readable(&lists(20)) && !is_readable(&lists(21)));
        assert!(is_readable(&objects(999)) && !is_readable(&objects(1000)));
        assert!(is_readable(&number(1000)) && !is_readable(&number(1001)));
        let lists_in_objects_in_lists = lists(10).replace('1', &format!("{{\"a\": {}}}", lists(15)));
        assert!(is_readable(&lists_in_objects_in_lists));
        let in_a_string = format!("[\"\\\\{}\\\"{}\", {{}}]", "[".repeat(30), number(2000));
        let expected = Shape {
            lists: 1,
            depth: 2,
            objects: 1,
            ..Shape::default()
        };
        assert_eq!(Shape::of(&in_a_string), expected, "{in_a_string}");
    }

    #[test]
    fn a_preview_tells_what_goes_and_what_cannot_stay() {
        let deep = "[".repeat(90) + &"]".repeat(90);
        let odd = record("k", &format!(r#"{{"return": "a", "deep": {deep}, "_id": "x"}}"#));
        let changes = Changes {
            dropped_fields: vec!["deep".to_owned()],
            ..Changes::default()
        };
        assert_eq!(preview(&odd), WriteOutcome::Written(changes.clone()));
        assert_eq!(operation(&odd, WriteMode::Upsert).2, changes);
        let refused = [
            record("k", &format!(r#"{{"queryparam": {{"a": {deep}}}}}"#)),
            record("k", r#"{"queryparam": "text"}"#),
            record("k", r#"{"return": {"a": 1}}"#),
            record("k", r#"{"return": ["a", {"b": 1}]}"#),
            record(&"k".repeat(513), "{}"),
        ];
        for record in refused {
            assert!(matches!(preview(&record), WriteOutcome::Rejected { .. }));
        }
        for kept in [
            r#"{"return": "a"}"#,
            r#"{"return": ["{"], "queryparam": null}"#,
            r#"{"queryparam": [{}]}"#,
        ] {
            assert_eq!(preview(&record("k", kept)), WriteOutcome::written(), "{kept}");
        }
    }

    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "_id")]
        id: String,
        #[serde(rename = "_source", borrow)]
        source: &'a RawValue,
    }

    #[test]
    fn what_lightrag_wrote_becomes_a_record_and_the_same_document_again() {
        for line in include_str!("../../../tests/fixtures/opensearch.jsonl").lines() {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            let mut value = Vec::new();
            push_value(&mut value, line.source);
            let record = record(&line.id, std::str::from_utf8(&value).unwrap());
            assert_eq!(record.fields().get(MIRRORED_ID), None);
            assert_eq!(
                record.fields().get("tokens").is_some(),
                line.source.get().contains("\"tokens\"")
            );
            let (_, document, changes) = operation(&record, WriteMode::Upsert);
            assert_eq!(document, line.source.get());
            assert_eq!(changes, Changes::default());
        }
    }

    #[test]
    fn a_source_that_is_no_object_is_passed_on_as_it_is() {
        for source in ["[1]", r#"{"\ud83d": 1}"#] {
            let mut value = Vec::new();
            push_value(&mut value, serde_json::from_str(source).unwrap());
            assert_eq!(value, source.as_bytes());
        }
    }

    #[test]
    fn a_document_becomes_a_record_with_its_key_for_its_id() {
        for (source, expected) in [
            (
                r#"{"return":"a\ud83d","__mirrored_id":"k","big":1e400}"#,
                r#"{"return": "a\ud83d", "big": 1e400, "_id": "k"}"#,
            ),
            (r#"{"_id":"other","a":1,"a":2}"#, r#"{"a": 2, "_id": "k"}"#),
            ("{}", r#"{"_id": "k"}"#),
        ] {
            let mut value = Vec::new();
            push_record(&mut value, "k", &serde_json::from_str(source).unwrap());
            assert_eq!(String::from_utf8(value).unwrap(), expected);
        }
    }
}
