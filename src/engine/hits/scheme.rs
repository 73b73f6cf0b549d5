//! The hash in a key: how each LightRAG release computes it, and over which texts.

use super::{
    md5::{self, Ending, State},
    prompt::decode,
};

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

    /// Whether the length of the prompt is hashed before it.
    const fn begins_with_length(self) -> bool {
        matches!(self, Self::LengthPrefixed)
    }

    /// Appends the texts that follow the prompt.
    pub(super) fn append(self, texts: &[&str], out: &mut Vec<u8>) {
        for text in texts {
            if self.begins_with_length() {
                out.extend_from_slice(format!("{}:", text.chars().count()).as_bytes());
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Computes hashes of one prompt. The prompt is hashed only once for all schemes with the same prefix.
pub(super) struct PromptHasher {
    /// The prompt in UTF-8, after space for its length.
    text: Vec<u8>,
    /// By how a scheme begins: without the length, and with it.
    begun: [Option<Begun>; 2],
}

/// A pass over the prompt.
#[derive(Clone, Copy)]
struct Begun {
    /// Where what is hashed begins.
    start: usize,
    state: State,
}

/// Bytes that a length may take up, with its colon.
const LENGTH_SPACE: usize = 24;

impl PromptHasher {
    /// A hasher of a prompt in UTF-8.
    pub(super) fn new(prompt: &[u8]) -> Self {
        Self {
            text: [&[0; LENGTH_SPACE], prompt].concat(),
            begun: [None; 2],
        }
    }

    /// A hasher of the prompt that a JSON string is; `None` where it is no string.
    pub(super) fn of_json(json: &str) -> Option<Self> {
        let mut text = Vec::with_capacity(LENGTH_SPACE + json.len());
        text.resize(LENGTH_SPACE, 0);
        decode(json, &mut text)?;
        Some(Self {
            text,
            begun: [None; 2],
        })
    }

    pub(super) fn prompt(&self) -> &[u8] {
        &self.text[LENGTH_SPACE..]
    }

    /// Makes the pass that a scheme needs over several prompts in step, where it was not made yet.
    pub(super) fn begin_all(hashers: &mut [&mut Self], scheme: Scheme) {
        let which = usize::from(scheme.begins_with_length());
        let mut hashers: Vec<(usize, &mut Self)> = hashers
            .iter_mut()
            .filter(|hasher| hasher.begun[which].is_none())
            .map(|hasher| (hasher.write_start(scheme), &mut **hasher))
            .collect();
        hashers.sort_by_key(|(start, hasher)| hasher.text.len() - start);
        let texts: Vec<&[u8]> = hashers
            .iter()
            .map(|(start, hasher)| &hasher.text[*start..])
            .collect();
        let mut states = vec![md5::INITIAL; texts.len()];
        md5::add_blocks(&mut states, &texts);
        for ((start, hasher), state) in hashers.into_iter().zip(states) {
            hasher.begun[which] = Some(Begun { start, state });
        }
    }

    /// Writes what a scheme hashes before the prompt. Gives where that begins.
    fn write_start(&mut self, scheme: Scheme) -> usize {
        if !scheme.begins_with_length() {
            return LENGTH_SPACE;
        }
        let length = format!("{}:", characters(self.prompt()));
        let start = LENGTH_SPACE - length.len();
        self.text[start..LENGTH_SPACE].copy_from_slice(length.as_bytes());
        start
    }

    fn begun(&mut self, scheme: Scheme) -> Begun {
        let which = usize::from(scheme.begins_with_length());
        if let Some(begun) = self.begun[which] {
            return begun;
        }
        let start = self.write_start(scheme);
        let mut state = [md5::INITIAL];
        md5::add_blocks(&mut state, &[&self.text[start..]]);
        let begun = Begun {
            start,
            state: state[0],
        };
        self.begun[which] = Some(begun);
        begun
    }

    /// What is left to hash of the prompt followed by these bytes, made by [`Scheme::append`].
    pub(super) fn ending(&mut self, scheme: Scheme, suffix: &[u8]) -> Ending {
        let Begun { start, state } = self.begun(scheme);
        let text = &self.text[start..];
        let (_, rest) = text.as_chunks::<{ md5::BLOCK }>();
        Ending {
            state,
            rest: [rest, suffix].concat(),
            length: text.len() + suffix.len(),
        }
    }

    /// The hash of the prompt followed by these bytes.
    pub(super) fn hash(&mut self, scheme: Scheme, suffix: &[u8]) -> Hash {
        let hashes = md5::finish(vec![self.ending(scheme, suffix)]);
        hashes.into_iter().next().unwrap_or_default()
    }
}

/// The number of code points in UTF-8 text.
fn characters(text: &[u8]) -> usize {
    // Summed up in bytes, which the compiler does for many at a time.
    let starts = |byte: &u8| u8::from((*byte & 0xC0) != 0x80);
    text.chunks(usize::from(u8::MAX))
        .map(|bytes| usize::from(bytes.iter().map(starts).sum::<u8>()))
        .sum()
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
        assert_eq!(characters("é".repeat(1000).as_bytes()), 1000);
        assert_eq!(characters("a".repeat(1000).as_bytes()), 1000);
    }
}
