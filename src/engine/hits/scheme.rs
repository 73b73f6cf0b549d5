//! The hash in a key: how each LightRAG release computes it, and over which texts.

use md5::{Digest as _, Md5};

/// The MD5 at the end of a key.
pub(super) type Hash = [u8; 16];

/// How the texts are combined to compute the hash in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scheme {
    /// Up to 1.4.16: the prompt alone.
    PromptAlone,
    /// 1.5.0 to 1.5.4: prompt, options and the model's identity, joined.
    Joined,
    /// Since 1.5.5: the same, each preceded by its length and a colon.
    LengthPrefixed,
}

impl Scheme {
    /// The scheme of a release, given its version numbers.
    pub(crate) fn of_release(numbers: &[u32]) -> Self {
        match numbers {
            numbers if numbers >= &[1, 5, 5][..] => Self::LengthPrefixed,
            numbers if numbers >= &[1, 5][..] => Self::Joined,
            _ => Self::PromptAlone,
        }
    }

    /// The releases that use it.
    pub(crate) const fn releases(self) -> &'static str {
        match self {
            Self::PromptAlone => "1.1.4-1.4.16",
            Self::Joined => "1.5.0-1.5.4",
            Self::LengthPrefixed => "1.5.5-",
        }
    }

    /// Whether the hash includes the model's identity.
    pub(crate) const fn has_identity(self) -> bool {
        !matches!(self, Self::PromptAlone)
    }

    /// Appends the texts that follow the prompt.
    pub(super) fn append(self, texts: &[&str], out: &mut Vec<u8>) {
        for text in texts {
            if self == Self::LengthPrefixed {
                out.extend_from_slice(format!("{}:", text.chars().count()).as_bytes());
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Computes hashes of one prompt. The prompt is hashed only once for all schemes with the same prefix.
pub(super) struct PromptHasher<'a> {
    prompt: &'a [u8],
    plain: Option<Md5>,
    prefixed: Option<Md5>,
}

impl<'a> PromptHasher<'a> {
    /// A hasher of a prompt in UTF-8.
    pub(super) fn new(prompt: &'a [u8]) -> Self {
        Self {
            prompt,
            plain: None,
            prefixed: None,
        }
    }

    /// The hash of the prompt followed by these bytes, which [`Scheme::append`] makes.
    pub(super) fn hash(&mut self, scheme: Scheme, suffix: &[u8]) -> Hash {
        let prompt = self.prompt;
        let state = match scheme {
            Scheme::PromptAlone | Scheme::Joined => {
                self.plain.get_or_insert_with(|| Md5::new().chain_update(prompt))
            }
            Scheme::LengthPrefixed => self.prefixed.get_or_insert_with(|| {
                let length = format!("{}:", characters(prompt));
                Md5::new().chain_update(length).chain_update(prompt)
            }),
        };
        state.clone().chain_update(suffix).finalize().into()
    }
}

/// The number of code points in UTF-8 text.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| (**byte & 0xC0) != 0x80).count()
}

/// Parses the hash at the end of a key, in lower case.
pub(super) fn parse(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = Hash::default();
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

/// Formats a hash as in a key.
pub(super) fn written(hash: Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_the_scheme_that_they_were_seen_to_use() {
        for (numbers, scheme) in [
            (&[1, 3, 9][..], Scheme::PromptAlone),
            (&[1, 4, 9, 11], Scheme::PromptAlone),
            (&[1, 4, 16], Scheme::PromptAlone),
            (&[1, 5, 0], Scheme::Joined),
            (&[1, 5, 4], Scheme::Joined),
            (&[1, 5, 5], Scheme::LengthPrefixed),
            (&[1, 5, 7], Scheme::LengthPrefixed),
        ] {
            assert_eq!(Scheme::of_release(numbers), scheme, "{numbers:?}");
        }
    }

    #[test]
    fn hashes_are_read_as_they_are_written_and_no_other_way() {
        let hash = PromptHasher::new(b"abc").hash(Scheme::PromptAlone, b"");
        assert_eq!(written(hash), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(parse(&written(hash)), Some(hash));
        for other in [
            "",
            "900150983cd24fb0d6963f7d28e17f7",
            "900150983CD24FB0D6963F7D28E17F72",
        ] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn lengths_count_code_points() {
        assert_eq!(characters("aé日😀?".as_bytes()), 5);
    }
}
