//! What an index expects of fields, and how to make it take a record that it refuses.
//!
//! An index takes the first value that it sees of a field for a sample: after one `return` that is an object, it
//! refuses every one that is a text. So before a value of an odd shape is sent, LightRAG's fields are mapped as
//! LightRAG's own documents would have it. What is refused after that can often be kept all the same, because LightRAG
//! finds documents by key and never searches in their fields: a field may be kept without being indexed.

use serde_json::{Map, Value, json};

use crate::model::record::Fields;

/// The properties of a mapping, by field.
pub(super) type Properties = Map<String, Value>;

/// Types of fields that can pass over a value that is not of their type.
const FORGIVING_TYPES: [&str; 11] = [
    "long",
    "integer",
    "short",
    "byte",
    "unsigned_long",
    "double",
    "float",
    "half_float",
    "scaled_float",
    "date",
    "date_nanos",
];

/// How a field of LightRAG's is mapped after a document of LightRAG's own; `None` for other fields.
fn usual_mapping(name: &str) -> Option<Value> {
    match name {
        "return" | "original_prompt" | "chunk_id" | "cache_type" => Some(json!({
            "type": "text",
            "fields": {"keyword": {"type": "keyword", "ignore_above": 256}},
        })),
        "create_time" | "update_time" => Some(json!({"type": "long"})),
        "queryparam" => Some(json!({"type": "object"})),
        _ => None,
    }
}

/// Those of LightRAG's fields that are texts.
const TEXTS: [&str; 4] = ["return", "original_prompt", "chunk_id", "cache_type"];

/// LightRAG's fields.
pub(super) const USUAL_FIELDS: [&str; 7] = [
    "return",
    "original_prompt",
    "chunk_id",
    "cache_type",
    "create_time",
    "update_time",
    "queryparam",
];

/// Whether an index that has not seen the fields yet would take their values for what LightRAG writes.
pub(super) fn is_usual(fields: &Fields<'_>) -> bool {
    fields.iter().all(|(name, value)| is_usual_value(name, value))
}

fn is_usual_value(name: &str, value: &str) -> bool {
    if value == "null" {
        return true;
    }
    match name {
        // What begins with a digit may be taken for a date.
        "return" | "original_prompt" | "chunk_id" | "cache_type" => {
            let mut bytes = value.bytes();
            bytes.next() == Some(b'"')
                && !bytes
                    .next()
                    .is_some_and(|b| matches!(b, b'0'..=b'9' | b'+' | b'-'))
        }
        "create_time" | "update_time" => {
            let digits = value.strip_prefix('-').unwrap_or(value);
            digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        "queryparam" => value.starts_with('{'),
        _ => true,
    }
}

/// The mappings of LightRAG's fields that an index does not have yet.
pub(super) fn missing_usual(properties: &Properties) -> Properties {
    USUAL_FIELDS
        .iter()
        .filter(|name| !properties.contains_key(**name))
        .filter_map(|name| Some(((*name).to_owned(), usual_mapping(name)?)))
        .collect()
}

/// The first of LightRAG's texts for which an index takes no text, and what it is mapped as.
pub(super) fn textless_field(properties: &Properties) -> Option<(&'static str, String)> {
    const OTHERS: [&str; 7] = [
        "boolean",
        "ip",
        "nested",
        "alias",
        "geo_point",
        "binary",
        "object",
    ];
    TEXTS.into_iter().find_map(|name| {
        let field = properties.get(name)?.as_object()?;
        let is = |option: &str, value: bool| field.get(option) == Some(&Value::Bool(value));
        // An object is shown without its type.
        let kind = field.get("type").and_then(Value::as_str).unwrap_or("object");
        let is_forgiving = is("ignore_malformed", true) || is("enabled", false);
        let is_other = OTHERS.contains(&kind) || FORGIVING_TYPES.contains(&kind);
        (is_other && !is_forgiving).then(|| (name, kind.to_owned()))
    })
}

/// What to add to the mapping so that a record may pass that was refused for this reason; empty where nothing helps.
///
/// A number or a date is mapped to ignore malformed values. A field that the index does not know is mapped not to
/// look at its values.
pub(super) fn extended(properties: &Properties, fields: &Fields<'_>, reason: &str) -> Properties {
    if let Some(path) = named_field(reason) {
        if let Some(extended) = forgiving(properties, path) {
            return extended;
        }
        let top = top_level(path);
        if usual_mapping(top).is_none() && !properties.contains_key(top) && fields.get(top).is_some() {
            return Properties::from_iter([(top.to_owned(), unindexed())]);
        }
    }
    fields
        .iter()
        .filter(|(name, value)| {
            usual_mapping(name).is_none()
                && !properties.contains_key(*name)
                && !name.contains('.')
                && !value.starts_with('"')
                && *value != "null"
        })
        .map(|(name, _)| (name.to_owned(), unindexed()))
        .collect()
}

/// The fields to drop so that a record that was refused for this reason may be accepted, if no mapping helps;
/// empty where it is one of LightRAG's own fields that the index cannot take.
pub(super) fn leave_behind(properties: &Properties, fields: &Fields<'_>, reason: &str) -> Vec<String> {
    let others = || fields.iter().filter(|(name, _)| usual_mapping(name).is_none());
    if let Some(path) = named_field(reason) {
        // A name with dots is a field itself, or a path of objects.
        let named = others().find(|(name, _)| *name == path || *name == top_level(path));
        if let Some((name, _)) = named {
            return vec![name.to_owned()];
        }
        if usual_mapping(top_level(path)).is_some() {
            return Vec::new();
        }
    }
    others()
        .filter(|(name, value)| !properties.contains_key(*name) || value.starts_with(['{', '[']))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The mapping of a field whose values are kept and not looked at.
fn unindexed() -> Value {
    json!({"type": "object", "enabled": false})
}

/// The path of the field that a refusal names: `failed to parse field [queryparam.top_k] of type [long] …`.
fn named_field(reason: &str) -> Option<&str> {
    ["field [", "mapper [", "object mapping for ["]
        .iter()
        .find_map(|before| {
            let (_, rest) = reason.split_once(before)?;
            let (path, _) = rest.split_once(']')?;
            Some(path)
        })
}

fn top_level(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// The mapping that makes a field pass over values that are not of its type; `None` where it cannot, or does already.
fn forgiving(properties: &Properties, path: &str) -> Option<Properties> {
    let (name, below) = match path.split_once('.') {
        Some((name, below)) => (name, Some(below)),
        None => (path, None),
    };
    let field = properties.get(name)?.as_object()?;
    let extended = match below {
        Some(below) => {
            let inner = forgiving(field.get("properties")?.as_object()?, below)?;
            json!({"properties": inner})
        }
        None => {
            let kind = field.get("type")?.as_str()?;
            if !FORGIVING_TYPES.contains(&kind) || field.get("ignore_malformed") == Some(&Value::Bool(true)) {
                return None;
            }
            let mut field = field.clone();
            field.insert("ignore_malformed".to_owned(), Value::Bool(true));
            Value::Object(field)
        }
    };
    Some(Properties::from_iter([(name.to_owned(), extended)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields<'_> {
        serde_json::from_str(json).unwrap()
    }

    fn properties(value: Value) -> Properties {
        value.as_object().unwrap().clone()
    }

    /// The mapping of an index that LightRAG filled.
    fn filled() -> Properties {
        let text = include_str!("../../../tests/fixtures/opensearch_mapping_filled.json");
        let index: Value = serde_json::from_str(text).unwrap();
        properties(index["mappings"]["properties"].clone())
    }

    #[test]
    fn lightrags_fields_are_mapped_as_its_own_documents_have_it() {
        let filled = filled();
        for (name, mapping) in missing_usual(&Properties::new()) {
            // An object is shown by its content.
            if name != "queryparam" {
                assert_eq!(filled.get(&name), Some(&mapping), "{name}");
            }
        }
        assert_eq!(missing_usual(&filled), Properties::new());
    }

    #[test]
    fn an_index_that_takes_no_text_for_a_text_is_found() {
        assert_eq!(textless_field(&filled()), None);
        for (mapping, kind) in [
            (json!({"type": "long"}), Some("long")),
            (json!({"properties": {"a": {"type": "text"}}}), Some("object")),
            (json!({"type": "date", "ignore_malformed": true}), None),
            (json!({"type": "object", "enabled": false}), None),
            (json!({"type": "keyword"}), None),
        ] {
            let found = textless_field(&properties(json!({"return": mapping})));
            assert_eq!(found, kind.map(|kind| ("return", kind.to_owned())));
        }
    }

    #[test]
    fn what_would_be_taken_for_something_else_is_not_usual() {
        for usual in [
            r#"{"return": "a", "chunk_id": null, "create_time": 17, "update_time": -3, "queryparam": {}, "x": [1]}"#,
            r#"{"return": ""}"#,
            "{}",
        ] {
            assert!(is_usual(&fields(usual)), "{usual}");
        }
        for odd in [
            r#"{"return": 5}"#,
            r#"{"return": {}}"#,
            r#"{"return": "2024-01-01"}"#,
            r#"{"cache_type": ["a"]}"#,
            r#"{"create_time": 17.5}"#,
            r#"{"create_time": "17"}"#,
            r#"{"update_time": 1234567890123456789}"#,
            r#"{"queryparam": "{}"}"#,
        ] {
            assert!(!is_usual(&fields(odd)), "{odd}");
        }
    }

    #[test]
    fn a_number_or_a_date_learns_to_pass_over_other_values() {
        let reason = "failed to parse field [create_time] of type [long] in document with id 'k'";
        let odd = fields(r#"{"create_time": "later"}"#);
        let expected = json!({"create_time": {"type": "long", "ignore_malformed": true}});
        assert_eq!(extended(&filled(), &odd, reason), properties(expected.clone()));
        assert!(extended(&properties(expected), &odd, reason).is_empty());

        let reason = "failed to parse field [queryparam.top_k] of type [long] in document with id 'k'";
        let odd = fields(r#"{"queryparam": {"top_k": "all"}}"#);
        let expected =
            json!({"queryparam": {"properties": {"top_k": {"type": "long", "ignore_malformed": true}}}});
        assert_eq!(extended(&filled(), &odd, reason), properties(expected));
    }

    #[test]
    fn fields_that_the_index_does_not_know_are_kept_without_a_look_at_them() {
        let odd =
            fields(r#"{"return": "a", "deep": [[1]], "big": 1e999, "word": "w", "tags": [{}], "a.b": {}}"#);
        let unindexed = json!({"type": "object", "enabled": false});
        let reason = "The depth of the field has exceeded the allowed limit of [20]";
        let expected = json!({"deep": unindexed, "big": unindexed});
        assert_eq!(extended(&filled(), &odd, reason), properties(expected));
        let reason = "failed to parse field [big] of type [float] in document with id 'k'";
        assert_eq!(
            extended(&filled(), &odd, reason),
            properties(json!({"big": unindexed}))
        );
    }

    #[test]
    fn what_no_mapping_helps_is_left_behind_unless_it_is_lightrags() {
        let odd = fields(r#"{"return": {"a": 1}, "tags": [{}], "word": "w", "nested": 5}"#);
        let known = filled();
        let reason = "failed to parse field [tags] of type [text] in document with id 'k'";
        assert_eq!(leave_behind(&known, &odd, reason), ["tags"]);
        let reason =
            "object mapping for [nested] tried to parse field [nested] as object, but found a concrete value";
        assert_eq!(leave_behind(&known, &odd, reason), ["nested"]);
        let reason = "The depth of the nested array field has exceeded the allowed limit of [20].";
        assert_eq!(leave_behind(&known, &odd, reason), ["tags", "word"]);
        let reason = "failed to parse field [return] of type [text] in document with id 'k'";
        assert!(leave_behind(&known, &odd, reason).is_empty());
    }
}
