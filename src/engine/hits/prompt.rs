//! The text of `original_prompt`, as Python encodes it to hash it.

use memchr::memchr;

/// Appends a JSON string, decoded into UTF-8; a lone surrogate becomes `?`, as it does in Python's
/// `encode(errors="replace")`. `None` where the value is not a string.
pub(super) fn decode(json: &str, buffer: &mut Vec<u8>) -> Option<()> {
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    while let Some(at) = memchr(b'\\', rest) {
        let (text, escape) = rest.split_at(at);
        buffer.extend_from_slice(text);
        let letter = *escape.get(1)?;
        rest = escape.get(2..)?;
        let plain = match letter {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 0x08,
            b'f' => 0x0C,
            b'u' => {
                rest = code_point(rest, buffer)?;
                continue;
            }
            quoted => quoted,
        };
        buffer.push(plain);
    }
    buffer.extend_from_slice(rest);
    Some(())
}

/// Decodes the digits after `\u` and returns the rest of the text.
fn code_point<'a>(digits: &'a [u8], buffer: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (first, mut rest) = hexadecimal(digits)?;
    let mut code = first;
    if (0xD800..0xDC00).contains(&first)
        && let Some(after) = rest.strip_prefix(b"\\u")
        && let Some((second, after)) = hexadecimal(after)
        && (0xDC00..0xE000).contains(&second)
    {
        code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        rest = after;
    }
    let character = char::from_u32(code).unwrap_or('?');
    buffer.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(rest)
}

fn hexadecimal(digits: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = digits.split_at_checked(4)?;
    let text = std::str::from_utf8(digits).ok()?;
    Some((u32::from_str_radix(text, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(json: &str) -> Option<Vec<u8>> {
        let mut text = b"before ".to_vec();
        decode(json, &mut text)?;
        Some(text.strip_prefix(b"before ").unwrap().to_vec())
    }

    #[test]
    fn every_escape_is_decoded() {
        let json = r#""a\"\\\/\n\r\t\b\f\u00e9\ud83d\ude00é""#;
        assert_eq!(decoded(json).unwrap(), "a\"\\/\n\r\t\u{8}\u{c}é😀é".as_bytes());
    }

    #[test]
    fn a_lone_surrogate_becomes_a_question_mark() {
        for (json, text) in [
            (r#""\ud83d""#, "?"),
            (r#""\ude00\ud83d""#, "??"),
            (r#""\ud83d\ud83d\ude00x""#, "?😀x"),
            (r#""\ud83d\n""#, "?\n"),
        ] {
            assert_eq!(decoded(json).unwrap(), text.as_bytes(), "{json}");
        }
    }

    #[test]
    fn what_is_not_a_string_has_no_text() {
        assert_eq!(decoded("null"), None);
        assert_eq!(decoded("12"), None);
    }

    proptest! {
        #[test]
        fn text_comes_back_as_it_was_written(text in any::<String>()) {
            prop_assert_eq!(decoded(&serde_json::json!(text).to_string()).unwrap(), text.as_bytes());
        }
    }
}
