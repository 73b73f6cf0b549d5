//! The key of a cache record.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Serialize};

/// The name under which LightRAG finds a record: `{mode}:{cache_type}:{hash}`, the hash an MD5 in 32
/// hexadecimal digits (LightRAG's `generate_cache_key`).
///
/// Any text is accepted, so that unusual keys of old data are moved too; [`CacheKey::parts`] returns `None` for them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(Box<str>);

impl CacheKey {
    /// A key with this text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The key in the current layout of an entry in the old nested layout (modes that contain hashes).
    pub fn flattened(mode: &str, cache_type: &str, hash: &str) -> Self {
        Self(format!("{mode}:{cache_type}:{hash}").into())
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Mode, cache type and hash; `None` unless the key has exactly two colons.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let mut parts = self.0.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(mode), Some(cache_type), Some(hash), None) => Some((mode, cache_type, hash)),
            _ => None,
        }
    }
}

/// How LightRAG or an older release of it wrote a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm<'a> {
    /// The current form: `{mode}:{cache_type}:{hash}`, where the hash may contain colons.
    Cache {
        /// The text before the first colon.
        mode: &'a str,
        /// The text between the first two.
        cache_type: &'a str,
    },
    /// Only an MD5, as LightRAG wrote it up to 1.0.1.
    Md5,
    /// One colon, as in RAG-Anything's `multimodal_query:<md5>`: the text up to and including the colon.
    Prefixed(&'a str),
    /// Any other form.
    Other,
}

impl<'a> KeyForm<'a> {
    /// The form of this key.
    pub fn of(key: &'a str) -> Self {
        let Some(first) = memchr::memchr(b':', key.as_bytes()) else {
            return if is_md5(key) { Self::Md5 } else { Self::Other };
        };
        match key[first + 1..].split_once(':') {
            Some((cache_type, _)) => Self::Cache {
                mode: &key[..first],
                cache_type,
            },
            None => Self::Prefixed(&key[..=first]),
        }
    }
}

/// Whether this is an MD5 in hexadecimal digits as LightRAG writes it.
fn is_md5(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Borrow<str> for CacheKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for CacheKey {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for CacheKey {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_of_todays_form_has_three_parts() {
        let key = CacheKey::flattened("default", "extract", "0123");
        assert_eq!(key.parts(), Some(("default", "extract", "0123")));
    }

    proptest! {
        #[test]
        fn any_key_is_taken_apart_into_what_it_was_made_of(mode in "[^:]*", cache_type in "[^:]*", hash in "[^:]*") {
            let key = CacheKey::flattened(&mode, &cache_type, &hash);
            prop_assert_eq!(key.parts(), Some((mode.as_str(), cache_type.as_str(), hash.as_str())));
        }

        #[test]
        fn any_text_is_a_key(text in any::<String>()) {
            let key = CacheKey::from(text.as_str());
            prop_assert_eq!(key.as_str(), text.as_str());
            prop_assert_eq!(key.parts().is_some(), text.matches(':').count() == 2);
        }
    }

    #[test]
    fn a_key_has_one_of_the_known_forms_or_none() {
        let md5 = "0cc175b9c0f1b6a831c399e269772661";
        let (mode, cache_type) = ("default", "extract");
        let of_today = KeyForm::Cache { mode, cache_type };
        assert_eq!(KeyForm::of("default:extract:ab"), of_today);
        assert_eq!(KeyForm::of("default:extract:ab:cd"), of_today);
        assert_eq!(KeyForm::of(md5), KeyForm::Md5);
        assert_eq!(KeyForm::of("0cc175b9"), KeyForm::Other);
        assert_eq!(
            KeyForm::of(&format!("multimodal_query:{md5}")),
            KeyForm::Prefixed("multimodal_query:")
        );
        assert_eq!(KeyForm::of(""), KeyForm::Other);
    }

    #[test]
    fn a_key_with_one_or_three_colons_has_no_parts() {
        assert_eq!(CacheKey::from("default:extract").parts(), None);
        assert_eq!(CacheKey::from("default:extract:a:b").parts(), None);
    }
}
