//! Records of every shape that was seen, and how to compare them.

use std::collections::BTreeMap;

use bytes::Bytes;
use migrate_llm_cache::model::record::{CacheKey, Record};
use serde_json::{Map, Value, json};

/// A record of this value.
pub fn record(key: &str, value: &Value) -> Record {
    raw(key, &value.to_string())
}

/// A record of this text.
pub fn raw(key: &str, json: &str) -> Record {
    Record::new(CacheKey::from(key), Bytes::copy_from_slice(json.as_bytes())).expect("a record")
}

/// A key as LightRAG makes it: a number where the MD5 stands.
pub fn key(cache_type: &str, number: u64) -> String {
    format!("default:{cache_type}:{number:032x}")
}

/// Plain records, extract, summary and analysis in turn.
pub fn plain(count: u64) -> Vec<Record> {
    (0..count)
        .map(|n| {
            let cache_type = ["extract", "summary", "analysis"][(n % 3) as usize];
            let value = json!({
                "return": format!("answer {n}"),
                "cache_type": cache_type,
                "chunk_id": format!("chunk-{n}"),
                "original_prompt": format!("question {n}"),
                "queryparam": null,
                "create_time": 1_700_000_000 + n,
                "update_time": 1_700_000_100 + n,
                "_id": key(cache_type, n),
            });
            record(&key(cache_type, n), &value)
        })
        .collect()
}

/// Values of every shape that LightRAG itself can have written and reads back from every storage.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
pub fn shapes() -> Vec<(&'static str, Value)> {
    let base = |changes: Value| {
        let mut value = json!({
            "return": "entity<|#|>Ada<|#|>person", "original_prompt": "Extract.", "cache_type": "extract",
            "chunk_id": "chunk-1", "queryparam": null, "create_time": 1_700_000_000, "update_time": 1_700_000_001,
        });
        value
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        value
    };
    let without = |names: &[&str]| {
        let mut value = base(json!({}));
        names
            .iter()
            .for_each(|name| drop(value.as_object_mut().unwrap().remove(*name)));
        value
    };
    vec![
        ("plain", base(json!({}))),
        ("no times", without(&["create_time", "update_time"])),
        ("no chunk", without(&["chunk_id"])),
        ("no prompt", without(&["original_prompt"])),
        ("no query parameters", without(&["queryparam"])),
        ("a null chunk", base(json!({"chunk_id": null}))),
        ("time zero", base(json!({"create_time": 0, "update_time": 0}))),
        ("a time before 1970", base(json!({"create_time": -86_400}))),
        (
            "a time far ahead",
            base(json!({"create_time": 4_102_444_800_i64})),
        ),
        (
            "query parameters",
            base(
                json!({"queryparam": {"mode": "mix", "top_k": 60, "deep": {"list": [1, 2, null], "text": "é", "half": 0.5}}}),
            ),
        ),
        (
            "emoji",
            base(
                json!({"return": "🚀👩🏽‍🌾 \u{1f468}\u{200d}\u{1f469}", "original_prompt": "日本語 العربية Ελληνικά"}),
            ),
        ),
        (
            "quotes",
            base(json!({"return": "a \"b\" 'c' \\ \\\" \\u0041 `d` $e ${F} %s {x} </script>"})),
        ),
        (
            "white space",
            base(json!({"return": "\n\n\ta\r\nb  \u{a0}\u{2028}\u{2029}\u{feff}"})),
        ),
        (
            "controls",
            base(json!({"return": "a\u{1}b\u{7f}\u{80}\u{1b}[0m"})),
        ),
        ("an empty answer", base(json!({"return": ""}))),
        (
            "a megabyte",
            base(json!({"return": "x".repeat(1 << 20), "original_prompt": "é".repeat(1 << 18)})),
        ),
        (
            "sql",
            base(json!({"return": "'; DROP TABLE LIGHTRAG_LLM_CACHE; --", "chunk_id": "a'b\"c\\d"})),
        ),
    ]
}

/// Unknown fields, which every storage with a place for them keeps.
pub fn unknown_fields() -> Value {
    json!({
        "return": "a", "original_prompt": "b", "cache_type": "extract", "chunk_id": null, "queryparam": null,
        "create_time": 1_700_000_000, "update_time": 1_700_000_000,
        "namespace_of_mine": "x", "score": 0.25, "count": 9_007_199_254_740_993_i64, "tags": ["a", "b"],
        "nested": {"a": {"b": {"c": true}}},
    })
}

/// What a record means to LightRAG, in a form that can be compared: storages differ in what they write for nothing.
///
/// `_id` repeats the key; null and missing are one; a time that is missing reads as 0; times read as whole seconds.
pub fn meaning(record: &Record) -> BTreeMap<String, Value> {
    let fields = record.fields();
    let mut meaning = BTreeMap::new();
    for (name, text) in fields.iter() {
        let value = if matches!(name, "create_time" | "update_time") {
            json!(fields.seconds(name).unwrap_or(0))
        } else {
            serde_json::from_str(text).unwrap_or_else(|_| json!({ "text": text }))
        };
        let nothing = value.is_null() || name == "_id" || (name.ends_with("_time") && value == json!(0));
        if !nothing {
            meaning.insert(name.to_owned(), value);
        }
    }
    meaning
}

/// The fields that LightRAG knows.
pub const KNOWN: [&str; 7] = [
    "return",
    "original_prompt",
    "cache_type",
    "chunk_id",
    "queryparam",
    "create_time",
    "update_time",
];

/// The same of what LightRAG's `get_by_id` gave, of the fields that LightRAG knows.
pub fn known_meaning(value: &Map<String, Value>) -> BTreeMap<&'static str, Value> {
    KNOWN
        .into_iter()
        .filter_map(|name| Some((name, value.get(name)?.clone())))
        .filter(|(name, value)| !(value.is_null() || name.ends_with("_time") && *value == json!(0)))
        .collect()
}
