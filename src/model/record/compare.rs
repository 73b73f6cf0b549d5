//! Compares records by what they mean to LightRAG.

use std::collections::BTreeSet;

use serde_json::{Value, value::RawValue};

use super::{Fields, OnInvalid, Record, TextRules, sanitize, unescape};

/// The fields in which the stored record differs from the given one.
///
/// Storages represent missing values differently, so these are not differences: `_id`, which repeats the key; a field
/// that is null on one side and missing on the other; a time that is missing on one side and 0 on the other, since
/// LightRAG reads it as 0; times written as floats or text of the same second; a `cache_type` that was missing and is now the
/// one in the key; the order of fields and the escaping of characters. Fields that the target sanitizes are compared
/// without the removed characters; fields that it drops are not compared.
pub fn differing_fields(
    given: &Record,
    kept: &Record,
    sanitized: &[String],
    dropped_fields: &[String],
) -> Vec<String> {
    if given.value() == kept.value() {
        return Vec::new();
    }
    let (given_fields, kept_fields) = (given.fields(), kept.fields());
    let names: BTreeSet<&str> = given_fields
        .iter()
        .chain(kept_fields.iter())
        .map(|(name, _)| name)
        .collect();
    let differs = |name: &&str| {
        if *name == "_id" || dropped_fields.iter().any(|left| left == name) {
            return false;
        }
        if matches!(*name, "create_time" | "update_time") {
            return seconds(&given_fields, name) != seconds(&kept_fields, name);
        }
        let given_text = given_fields.get(name).unwrap_or("null");
        let kept_text = kept_fields.get(name).unwrap_or("null");
        if *name == "cache_type" && given_text == "null" {
            let in_key = given.key().parts().map(|(_, cache_type, _)| cache_type);
            return kept_text != "null" && unescape(kept_text).as_deref() != in_key;
        }
        if sanitized.iter().any(|changed| changed == name) {
            return !same_but_for_what_went(given_text, kept_text);
        }
        !same_json(given_text, kept_text)
    };
    names.into_iter().filter(differs).map(str::to_owned).collect()
}

/// A time as LightRAG reads it. An invalid value differs from every time and equals only itself.
fn seconds<'a>(fields: &Fields<'a>, name: &str) -> Result<i64, &'a str> {
    match (fields.seconds(name), fields.get(name)) {
        (Some(seconds), _) => Ok(seconds),
        (None, None | Some("null")) => Ok(0),
        (None, Some(text)) => Err(text),
    }
}

/// What a target may do to sanitize a value: remove NUL and lone surrogates, write another type as text, or write text
/// that contains an object as that object.
fn same_but_for_what_went(given: &str, kept: &str) -> bool {
    const NEITHER: TextRules = TextRules {
        nul: false,
        lone_surrogates: false,
    };
    let clean = sanitize(given, NEITHER, OnInvalid::Sanitize);
    let clean = clean.as_deref().unwrap_or(given);
    same_json(clean, kept)
        || unescape(kept).is_some_and(|text| same_json(clean, &text))
        || unescape(clean).is_some_and(|text| same_json(&text, kept))
}

/// Whether two JSON texts have the same value. Numbers are equal if their texts are, if both fit a 64-bit integer and are
/// equal, or if both are written as fractions and are equal as floats.
fn same_json(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim(), b.trim());
    if a == b {
        return true;
    }
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'"'), Some(b'"')) => match (unescape(a), unescape(b)) {
            (Some(a), Some(b)) => a == b,
            // Lone surrogates cannot be decoded; they are compared with everything else escaped in one way.
            (None, None) => canonical(a) == canonical(b),
            _ => false,
        },
        (Some(b'{'), Some(b'{')) => {
            let (Ok(a), Ok(b)) = (
                serde_json::from_str::<Fields<'_>>(a),
                serde_json::from_str::<Fields<'_>>(b),
            ) else {
                return false;
            };
            let same = |(name, value): (&str, &str)| b.get(name).is_some_and(|other| same_json(value, other));
            a.iter().count() == b.iter().count() && a.iter().all(same)
        }
        (Some(b'['), Some(b'[')) => {
            let items = |text| serde_json::from_str::<Vec<&RawValue>>(text);
            let (Ok(a), Ok(b)) = (items(a), items(b)) else {
                return false;
            };
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same_json(a.get(), b.get()))
        }
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => same_number(a, b),
        _ => false,
    }
}

fn same_number(a: &str, b: &str) -> bool {
    let read = |text| serde_json::from_str::<Value>(text).ok();
    let (Some(Value::Number(a_number)), Some(Value::Number(b_number))) = (read(a), read(b)) else {
        return false;
    };
    let is_fraction = |text: &str| text.contains(['.', 'e', 'E']);
    let exact = |number: &serde_json::Number| number.is_i64() || number.is_u64();
    match (exact(&a_number), exact(&b_number)) {
        (true, true) => a_number == b_number,
        // 17 equals 17.0; an integer that no float can represent equals no float.
        (true, false) | (false, true) => {
            let (integer, other) = if exact(&a_number) {
                (&a_number, &b_number)
            } else {
                (&b_number, &a_number)
            };
            let float = other.as_f64();
            integer
                .as_i64()
                .is_some_and(|i| i.unsigned_abs() < 1 << 53 && float == Some(i as f64))
        }
        (false, false) => is_fraction(a) && is_fraction(b) && a_number.as_f64() == b_number.as_f64(),
    }
}

/// JSON string text with every escape written in one way, including lone surrogates.
fn canonical(text: &str) -> String {
    let mut canonical = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        canonical.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if rest.as_bytes().get(1) == Some(&b'u') {
            6
        } else {
            2
        };
        let (escape, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        // A surrogate pair is two escapes for one character.
        let pair = after.get(..6).map(|second| format!("\"{escape}{second}\""));
        if let Some(character) = unescape(&format!("\"{escape}\"")) {
            canonical.push_str(&character);
            rest = after;
        } else if let Some(character) = pair.as_deref().and_then(unescape) {
            canonical.push_str(&character);
            rest = &after[6..];
        } else {
            canonical.push_str(&escape.to_ascii_lowercase());
            rest = after;
        }
    }
    canonical.push_str(rest);
    canonical
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(json: &str) -> Record {
        Record::new(
            "default:extract:1".into(),
            Bytes::copy_from_slice(json.as_bytes()),
        )
        .unwrap()
    }

    fn differing(a: &str, b: &str) -> Vec<String> {
        differing_fields(&record(a), &record(b), &[], &[])
    }

    #[test]
    fn what_storages_write_for_nothing_is_no_difference() {
        let same = [
            (
                r#"{"return": "a"}"#,
                r#"{"return": "a", "chunk_id": null, "_id": "x", "create_time": 0}"#,
            ),
            (
                r#"{"create_time": 17.5, "update_time": "9"}"#,
                r#"{"update_time": 9, "create_time": 17}"#,
            ),
            (
                r#"{"return": "é😀\/"}"#,
                r#"{"return": "\u00e9\ud83d\ude00/", "cache_type": "extract"}"#,
            ),
            (
                r#"{"queryparam": {"a": 1, "b": [1.0]}}"#,
                r#"{"queryparam": {"b": [1], "a": 1}}"#,
            ),
            (r#"{"return": "\ud83d é"}"#, r#"{"return": "\uD83D \u00e9"}"#),
            (r#"{"x": 1e2}"#, r#"{"x": 100.0}"#),
        ];
        for (a, b) in same {
            assert_eq!(differing(a, b), [""; 0], "{a} {b}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let different = [
            (r#"{"return": "a"}"#, r#"{"return": "b"}"#, "return"),
            (r#"{"return": "a"}"#, "{}", "return"),
            (r#"{"create_time": 5}"#, r#"{"create_time": 6}"#, "create_time"),
            (r#"{"create_time": "soon"}"#, "{}", "create_time"),
            (r#"{"x": 9007199254740993}"#, r#"{"x": 9007199254740992.0}"#, "x"),
            (
                r#"{"x": 123456789012345678901234567890}"#,
                r#"{"x": 123456789012345678901234567891}"#,
                "x",
            ),
            (r#"{"x": [1, 2]}"#, r#"{"x": [2, 1]}"#, "x"),
            (r#"{"return": "\ud83d"}"#, r#"{"return": "\ud83e"}"#, "return"),
            (r#"{}"#, r#"{"cache_type": "summary"}"#, "cache_type"),
        ];
        for (a, b, field) in different {
            assert_eq!(differing(a, b), [field], "{a} {b}");
        }
    }

    #[test]
    fn an_object_that_was_a_text_is_no_difference_where_that_was_said() {
        let given = record(r#"{"queryparam": "{\"a\": 1}"}"#);
        let kept = record(r#"{"queryparam": {"a": 1}}"#);
        let said = ["queryparam".to_owned()];
        assert_eq!(differing_fields(&given, &kept, &said, &[]), [""; 0]);
        assert_eq!(differing_fields(&given, &kept, &[], &[]), ["queryparam"]);
    }

    #[test]
    fn what_a_target_said_it_would_change_is_no_difference() {
        let given = record(r#"{"return": "a\u0000b", "own": 1}"#);
        let kept = record(r#"{"return": "ab"}"#);
        let names = |name: &str| vec![name.to_owned()];
        assert_eq!(
            differing_fields(&given, &kept, &names("return"), &names("own")),
            [""; 0]
        );
        let lost = record(r#"{"return": "b"}"#);
        assert_eq!(
            differing_fields(&given, &lost, &names("return"), &names("own")),
            ["return"]
        );
    }
}
