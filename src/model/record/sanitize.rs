//! Characters that JSON can contain and a target may be unable to store: NUL and lone surrogates.
//!
//! JSON text can contain them only as escapes (`\u0000`, `\ud83d`), so it is enough to check every backslash.

use std::borrow::Cow;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RejectKind;

/// What to do with a record that the target could store if one invalid character were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnInvalid {
    /// Reject the record and report it.
    #[default]
    Reject,
    /// Remove these characters, write the record and report it.
    Sanitize,
}

/// The invalid characters that a target can store.
#[derive(Clone, Copy, Debug)]
pub struct TextRules {
    /// NUL characters.
    pub nul: bool,
    /// Surrogate code points without their other half, such as a `\ud83d` alone.
    pub lone_surrogates: bool,
}

/// Checks JSON text, of a string or of anything else, against the rules of a target.
///
/// Valid text is returned unchanged ([`Cow::Borrowed`]). From invalid text, [`OnInvalid::Sanitize`] removes the offending
/// characters ([`Cow::Owned`]).
///
/// # Errors
/// The kind of the first invalid character, with [`OnInvalid::Reject`].
pub fn sanitize(json: &str, rules: TextRules, on_invalid: OnInvalid) -> Result<Cow<'_, str>, RejectKind> {
    let bytes = json.as_bytes();
    let mut kept: Option<String> = None;
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        let escape = at + found;
        let (length, broken) = match code_unit(&bytes[escape..]) {
            None => (2, None),
            Some(0) => (6, (!rules.nul).then_some(RejectKind::NulCharacter)),
            Some(0xd800..0xdc00) if matches!(code_unit(&bytes[escape + 6..]), Some(0xdc00..0xe000)) => {
                (12, None)
            }
            Some(0xd800..0xe000) => (6, (!rules.lone_surrogates).then_some(RejectKind::LoneSurrogate)),
            Some(_) => (6, None),
        };
        at = (escape + length).min(bytes.len());
        if let Some(kind) = broken {
            if on_invalid == OnInvalid::Reject {
                return Err(kind);
            }
            kept.get_or_insert_default().push_str(&json[copied..escape]);
            copied = at;
        }
    }
    Ok(match kept {
        None => Cow::Borrowed(json),
        Some(mut kept) => {
            kept.push_str(&json[copied..]);
            Cow::Owned(kept)
        }
    })
}

/// The UTF-16 code unit of an escape `\uXXXX` at the beginning.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEITHER: TextRules = TextRules {
        nul: false,
        lone_surrogates: false,
    };

    fn clean(json: &str) -> String {
        sanitize(json, NEITHER, OnInvalid::Sanitize).unwrap().into_owned()
    }

    #[test]
    fn what_breaks_no_rule_is_borrowed() {
        for json in [
            r#""plain""#,
            r#""\ud83d\ude00 \n \\u0000 é""#,
            r#"{"a": ["\u00e9"]}"#,
            r#""\\""#,
        ] {
            assert!(
                matches!(sanitize(json, NEITHER, OnInvalid::Reject), Ok(Cow::Borrowed(_))),
                "{json}"
            );
        }
    }

    #[test]
    fn nul_and_half_pairs_go_or_are_named() {
        assert_eq!(clean(r#""a\u0000b\u0000""#), r#""ab""#);
        assert_eq!(
            clean(r#""a\ud83db\ude00c\ud83d\ud83d\ude00""#),
            r#""abc\ud83d\ude00""#
        );
        assert_eq!(clean(r#""\uD83D""#), r#""""#);
        let reject = |json| sanitize(json, NEITHER, OnInvalid::Reject);
        assert_eq!(reject(r#""\\\u0000""#), Err(RejectKind::NulCharacter));
        assert_eq!(reject(r#""\ud83d""#), Err(RejectKind::LoneSurrogate));
    }

    #[test]
    fn a_rule_that_holds_is_not_applied() {
        let nul = TextRules {
            nul: true,
            lone_surrogates: false,
        };
        assert!(matches!(
            sanitize(r#""\u0000""#, nul, OnInvalid::Reject),
            Ok(Cow::Borrowed(_))
        ));
    }
}
