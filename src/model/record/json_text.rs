//! Reads and writes JSON text without building a tree.

use std::borrow::Cow;

use serde::Serialize;

/// Decodes JSON string text, including its quotes.
///
/// `None` if the text is not a JSON string or contains a lone surrogate (`\ud83d` without a second half), which is not
/// valid UTF-8.
pub fn unescape(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr2(b'\\', b'"', inner.as_bytes()).is_none() && !inner.bytes().any(|byte| byte < 0x20) {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(text).ok().map(Cow::Owned)
}

/// The text with 0 in place of the numbers that Python writes but JSON does not allow: `NaN`, `Infinity`, `-Infinity`.
/// `None` if there are none outside of strings.
pub(crate) fn without_python_numbers(text: &[u8]) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < text.len() {
        let token: &[u8] = match text[at] {
            b'"' => {
                at = string_end(text, at);
                continue;
            }
            b'N' => b"NaN",
            b'I' => b"Infinity",
            _ => {
                at += 1;
                continue;
            }
        };
        if text[at..].starts_with(token) {
            let out = out.get_or_insert_with(|| text.to_vec());
            out[at..at + token.len()].fill(b' ');
            out[at] = b'0';
            at += token.len();
        } else {
            at += 1;
        }
    }
    out
}

/// Whether the text is JSON as Python reads it, with `NaN` and `Infinity` as numbers.
pub(crate) fn is_json_for_python(text: &[u8]) -> bool {
    without_python_numbers(text)
        .is_some_and(|text| serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok())
}

/// The position after the string that begins at `start`, or the end of the text if the string is not closed.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
        match text[at + found] {
            b'"' => return at + found + 1,
            _ => at += found + 2,
        }
    }
    text.len()
}

/// Writes one JSON object, field by field, into a buffer.
#[derive(Debug)]
pub struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
    /// Buffer for escaping a string.
    escaped: Vec<u8>,
}

impl<'a> ObjectWriter<'a> {
    /// Begins an object at the end of the buffer.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self {
            out,
            empty: true,
            escaped: Vec::new(),
        }
    }

    /// Begins with the fields of an object given as text, which must be complete.
    pub fn resume(out: &'a mut Vec<u8>, object: &[u8]) -> Self {
        let open = object.strip_suffix(b"}").unwrap_or(object).trim_ascii_end();
        out.extend_from_slice(open);
        Self {
            out,
            empty: open == b"{",
            escaped: Vec::new(),
        }
    }

    /// Adds a field whose value is JSON text.
    pub fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(json);
    }

    /// Adds a field whose value is JSON text, without the line breaks and the indentation between its parts.
    pub fn one_line(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        let mut rest = json;
        // A line break inside a string is escaped.
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            self.out.extend_from_slice(&rest[..end]);
            rest = rest[end..].trim_ascii_start();
        }
        self.out.extend_from_slice(rest);
    }

    /// Adds a field with a string.
    pub fn string(&mut self, name: &str, text: &str) {
        self.name(name);
        self.push_string(text);
    }

    /// Adds a field with a string, or with `null`.
    pub fn optional_string(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.string(name, text),
            None => self.raw(name, b"null"),
        }
    }

    /// Adds a field with any serializable value.
    pub fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.name(name);
        write_value(self.out, value);
    }

    /// Ends the object.
    pub fn end(self) {
        self.out.push(b'}');
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.extend_from_slice(b", ");
        }
        self.empty = false;
        self.push_string(name);
        self.out.extend_from_slice(b": ");
    }

    /// The library escapes into a buffer that is large enough for the worst case. Most text needs little more than its own
    /// length, and a record should not keep the rest allocated.
    fn push_string(&mut self, text: &str) {
        if text.len() > LONGEST_AT_ONCE {
            write_value(self.out, text);
            return;
        }
        self.escaped.clear();
        json_escape_simd::escape_into(text, &mut self.escaped);
        self.out.extend_from_slice(&self.escaped);
    }
}

/// The longest string that is escaped at once, in bytes.
const LONGEST_AT_ONCE: usize = 1 << 20;

/// Writing to memory fails only for values that JSON cannot represent (a map whose keys are not strings), which no caller
/// has; `null` is written for them.
fn write_value(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(name: &str, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut object = ObjectWriter::begin(&mut out);
        object.string(name, text);
        object.end();
        out
    }

    proptest! {
        #[test]
        fn strings_are_escaped_as_serde_json_does_it(
            name in any::<String>(), text in "([\\x00-\\x7f]|\\PC){0,200}", many in 0..100_usize
        ) {
            let text = text.repeat(many);
            let expected = format!("{{{}: {}}}", serde_json::json!(name), serde_json::json!(text));
            prop_assert_eq!(String::from_utf8(object(&name, &text)).unwrap(), expected);
        }
    }

    #[test]
    fn a_long_string_is_escaped_too() {
        let text = "a\n\u{1}\"".repeat(LONGEST_AT_ONCE / 2);
        let expected = format!("{{\"return\": {}}}", serde_json::json!(text));
        assert!(object("return", &text) == expected.as_bytes());
    }

    #[test]
    fn a_string_without_escapes_is_borrowed() {
        assert!(matches!(unescape("\"héllo\""), Some(Cow::Borrowed("héllo"))));
        assert_eq!(unescape(r#""a\"b\u00e9\ud83d\ude00""#).unwrap(), "a\"bé😀");
    }

    #[test]
    fn numbers_that_only_python_knows_become_zeros_outside_of_strings() {
        let text = br#"{"a": NaN, "b": [-Infinity,Infinity], "c": "NaN \" NaN"}"#;
        let replaced = without_python_numbers(text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&replaced).unwrap();
        assert_eq!(value["b"].as_array().map(Vec::len), Some(2));
        assert_eq!(value["c"], "NaN \" NaN");
        assert_eq!(without_python_numbers(br#"{"c": "NaN"}"#), None);
        assert_eq!(without_python_numbers(br#"{"c": Nope"#), None);
        assert_eq!(without_python_numbers(br#""open \"#), None);
    }

    #[test]
    fn a_lone_surrogate_has_no_string() {
        assert_eq!(unescape(r#""\ud83d""#), None);
        assert_eq!(unescape("12"), None);
    }

    #[test]
    fn an_object_is_written_field_by_field() {
        let mut out = Vec::new();
        let mut object = ObjectWriter::begin(&mut out);
        object.string("return", "a\"b");
        object.raw("queryparam", br#"{"k": 1}"#);
        object.value("create_time", &17);
        object.end();
        assert_eq!(
            out,
            br#"{"return": "a\"b", "queryparam": {"k": 1}, "create_time": 17}"#
        );
    }
}
