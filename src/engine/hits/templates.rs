//! Recognizes prompts by a table of their fixed parts in every LightRAG release.
//!
//! The table (`templates.json`, written by scripts/prompt_templates.py) contains lengths and digests, not text. The text
//! is learned from the first prompt that contains it and is compared directly afterwards, so digests are computed only for
//! the first record of a kind.

use std::sync::{LazyLock, OnceLock};

use md5::{Digest as _, Md5};
use memchr::memmem::Finder;
use serde::Deserialize;

use super::scheme::{Hash, parse};

/// The embedded table.
pub(crate) static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    // The table is embedded, and a test parses it.
    Templates::parse(include_str!("templates.json")).unwrap_or_default()
});

/// The prompts of all known releases.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    releases: Vec<String>,
    literals: Vec<Literal>,
    patterns: Vec<Pattern>,
}

/// A set of known releases, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Releases(u128);

impl Releases {
    /// Whether the set contains a release, given its number in the table.
    pub(crate) fn contains(self, release: usize) -> bool {
        self.0 >> release & 1 == 1
    }
}

/// The fixed and variable parts of a prompt, in order.
#[derive(Debug)]
pub(crate) struct Pattern {
    cache_type: String,
    /// The purpose of the prompt: `initial`, `continue`, `table`, …
    pub(crate) part: String,
    /// Whether it asks for JSON.
    pub(crate) json: bool,
    /// Whether the user replaced examples or the guidance on entity types.
    pub(crate) custom: bool,
    /// The releases that send it.
    pub(crate) releases: Releases,
    segments: Vec<Segment>,
    /// The number of fixed bytes.
    fixed: usize,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Segment {
    /// The index of a literal.
    Literal(usize),
    Gap(Gap),
}

/// A variable part between two fixed texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Gap {
    Int,
    Line,
    Text,
}

impl Gap {
    /// Its maximum length in bytes.
    fn longest(self) -> usize {
        match self {
            Self::Int => 20,
            Self::Line => 512,
            Self::Text => usize::MAX,
        }
    }

    fn allows(self, text: &[u8]) -> bool {
        match self {
            Self::Int => !text.is_empty() && text.iter().all(u8::is_ascii_digit),
            Self::Line => !text.contains(&b'\n'),
            Self::Text => true,
        }
    }
}

/// A fixed text: its digest, and the text once it was learned.
#[derive(Debug)]
struct Literal {
    length: usize,
    head: u64,
    digest: Hash,
    text: OnceLock<Finder<'static>>,
    /// A text of this length with the same head and another digest. The records of a custom template have it in common,
    /// so that it is digested once and compared from then on.
    other: OnceLock<Box<[u8]>>,
}

/// The number of bytes in the hash of a prefix.
const HEAD: usize = 16;

/// A hash of the first 16 bytes, the same as in scripts/prompt_templates.py.
fn head(first: &[u8]) -> u64 {
    let mut padded = [0; HEAD];
    let length = first.len().min(HEAD);
    padded[..length].copy_from_slice(&first[..length]);
    let (words, _) = padded.as_chunks::<8>();
    u64::from_le_bytes(words[0]).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ u64::from_le_bytes(words[1]).wrapping_mul(0xC2B2_AE3D_27D4_EB4F)
}

impl Literal {
    /// Whether `text` starts with this text.
    fn begins(&self, text: &[u8]) -> bool {
        let Some(text) = text.get(..self.length) else {
            return false;
        };
        if let Some(known) = self.text.get() {
            return known.needle() == text;
        }
        if head(text) != self.head || self.other.get().is_some_and(|other| **other == *text) {
            return false;
        }
        if Hash::from(Md5::digest(text)) != self.digest {
            self.other.get_or_init(|| text.into());
            return false;
        }
        self.text.get_or_init(|| Finder::new(text).into_owned());
        true
    }

    /// The first occurrence of this text in another.
    fn find(&self, text: &[u8]) -> Option<usize> {
        if let Some(known) = self.text.get() {
            return known.find(text);
        }
        let last = text.len().checked_sub(self.length)?;
        let length = self.length.min(HEAD);
        (0..=last).find(|at| head(&text[*at..at + length]) == self.head && self.begins(&text[*at..]))
    }
}

/// The table as scripts/prompt_templates.py writes it.
#[derive(Deserialize)]
struct Table {
    versions: Vec<String>,
    literals: Vec<RawLiteral>,
    patterns: Vec<RawPattern>,
}

/// Length in bytes, first bytes and MD5, both in hexadecimal digits.
#[derive(Deserialize)]
struct RawLiteral(usize, String, String);

impl RawLiteral {
    fn literal(&self) -> Option<Literal> {
        let Self(length, head, digest) = self;
        Some(Literal {
            length: *length,
            head: u64::from_str_radix(head, 16).ok()?,
            digest: parse(digest)?,
            text: OnceLock::new(),
            other: OnceLock::new(),
        })
    }
}

#[derive(Deserialize)]
struct RawPattern {
    #[serde(rename = "type")]
    cache_type: String,
    part: String,
    json: bool,
    custom: bool,
    /// Ranges: the first and the last release.
    versions: Vec<(String, String)>,
    segments: Vec<Segment>,
}

impl RawPattern {
    /// `None` if it names a release or a literal that is not listed.
    fn pattern(self, versions: &[String], literals: &[Literal]) -> Option<Pattern> {
        let number = |version: &str| versions.iter().position(|known| known == version);
        let mut releases = Releases::default();
        for (first, last) in &self.versions {
            for release in number(first)?..=number(last)? {
                releases.0 |= 1 << release;
            }
        }
        let mut fixed = 0;
        for segment in &self.segments {
            if let Segment::Literal(at) = segment {
                fixed += literals.get(*at)?.length;
            }
        }
        Some(Pattern {
            cache_type: self.cache_type,
            part: self.part,
            json: self.json,
            custom: self.custom,
            releases,
            segments: self.segments,
            fixed,
        })
    }
}

impl Templates {
    fn parse(json: &str) -> Result<Self, String> {
        let table: Table = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let literals = table.literals.iter().map(RawLiteral::literal);
        let literals: Option<Vec<Literal>> = literals.collect();
        let literals = literals.ok_or("a literal that cannot be read")?;
        let patterns = table
            .patterns
            .into_iter()
            .map(|row| row.pattern(&table.versions, &literals));
        let patterns: Option<Vec<Pattern>> = patterns.collect();
        let patterns = patterns.ok_or("a pattern of releases or literals that are not listed")?;
        Ok(Self {
            releases: table.versions,
            literals,
            patterns,
        })
    }

    /// The known releases, oldest first.
    pub(crate) fn releases(&self) -> &[String] {
        &self.releases
    }

    /// The pattern that matches a prompt of a cache type, preferably the most specific one; `None` if no release sends it.
    ///
    /// `recent` is the pattern of the previous prompt, which usually matches the next one too.
    pub(crate) fn recognize(&self, cache_type: &str, text: &[u8], recent: &mut usize) -> Option<&Pattern> {
        if let Some(pattern) = self.patterns.get(*recent)
            && !pattern.custom
            && pattern.cache_type == cache_type
            && self.matches(pattern, text)
        {
            return Some(pattern);
        }
        let patterns = self.patterns.iter().enumerate();
        // If two match, the one with the longer fixed text is the right one.
        let (at, pattern) = patterns
            .filter(|(_, pattern)| pattern.cache_type == cache_type && self.matches(pattern, text))
            .max_by_key(|(at, pattern)| (pattern.fixed, *at))?;
        *recent = at;
        Some(pattern)
    }

    /// Whether a pattern matches a whole text.
    fn matches(&self, pattern: &Pattern, text: &[u8]) -> bool {
        let mut rest = text;
        let mut gap = None;
        for (at, segment) in pattern.segments.iter().enumerate() {
            let literal = match segment {
                Segment::Gap(next) => {
                    gap = Some(*next);
                    continue;
                }
                Segment::Literal(literal) => &self.literals[*literal],
            };
            let is_last = at + 1 == pattern.segments.len();
            let begin = match gap.take() {
                None => literal.begins(rest).then_some(0),
                Some(gap) if is_last => rest
                    .len()
                    .checked_sub(literal.length)
                    .filter(|begin| gap.allows(&rest[..*begin]) && literal.begins(&rest[*begin..])),
                Some(gap) => {
                    let end = gap.longest().saturating_add(literal.length).min(rest.len());
                    literal
                        .find(&rest[..end])
                        .filter(|begin| gap.allows(&rest[..*begin]))
                }
            };
            let Some(begin) = begin else {
                return false;
            };
            rest = &rest[begin + literal.length..];
        }
        match gap {
            Some(gap) => gap.allows(rest),
            None => rest.is_empty(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_its_patterns_begin_with_what_is_fixed() {
        let templates = Templates::parse(include_str!("templates.json")).unwrap();
        assert!(templates.releases().len() >= 56);
        assert!(templates.releases().len() <= 128, "a release is a bit");
        for pattern in &templates.patterns {
            assert!(matches!(pattern.segments.first(), Some(Segment::Literal(_))));
        }
    }

    /// A table of two releases that differ in one sentence.
    pub(in crate::engine::hits) fn templates() -> Templates {
        let literals = ["Ask ", " of ", ":\n", "\nEnd.", "\nThe end of the prompt."];
        let facts: Vec<_> = literals
            .iter()
            .map(|text| {
                let digest: Hash = Md5::digest(text.as_bytes()).into();
                let head = format!("{:016x}", head(text.as_bytes()));
                (text.len(), head, super::super::scheme::written(digest))
            })
            .collect();
        let pattern = |last: usize, version: &str| {
            serde_json::json!({
                "type": "extract", "part": "initial", "json": false, "custom": false, "versions": [[version, version]],
                "segments": [0, "int", 1, "line", 2, "text", last],
            })
        };
        let table = serde_json::json!({
            "versions": ["1.0", "2.0"],
            "literals": facts,
            "patterns": [pattern(3, "1.0"), pattern(4, "2.0")],
        });
        Templates::parse(&table.to_string()).unwrap()
    }

    fn release(templates: &Templates, text: &str) -> Option<usize> {
        let mut none = usize::MAX;
        let pattern = templates.recognize("extract", text.as_bytes(), &mut none)?;
        (0..2).find(|release| pattern.releases.contains(*release))
    }

    #[test]
    fn a_prompt_is_recognized_whatever_stands_in_its_gaps() {
        let templates = templates();
        // Twice, as the second time finds what the first one learned.
        for _ in 0..2 {
            assert_eq!(
                release(&templates, "Ask 12 of English:\nText\nEnd. More\nEnd."),
                Some(0)
            );
            assert_eq!(
                release(&templates, "Ask 7 of 中文:\n\nEnd.\nThe end of the prompt."),
                Some(1)
            );
        }
    }

    #[test]
    fn a_custom_prompt_that_was_seen_first_does_not_hide_those_of_a_release() {
        let templates = templates();
        let known = "Ask 7 of English:\nText\nThe end of the prompt.";
        for custom in [
            "Ask 7 of English:\nText\nThe end of the PROMPT.",
            "Ask 7 of English:\nText\nThe end of the prompt!",
        ] {
            for _ in 0..2 {
                assert_eq!(release(&templates, custom), None);
            }
        }
        assert_eq!(release(&templates, known), Some(1));
        assert_eq!(
            release(&templates, "Ask 7 of English:\nText\nThe end of the PROMPT."),
            None
        );
    }

    #[test]
    fn a_prompt_with_another_beginning_end_or_gap_is_not_recognized() {
        let templates = templates();
        for text in [
            "Tell 12 of English:\nText\nEnd.",
            "Ask 12 of English:\nText\nEnd. ",
            "Ask many of English:\nText\nEnd.",
            "Ask 12 of Eng\nlish:\nText\nEnd.",
            "Ask 12 of English",
            "",
        ] {
            assert_eq!(release(&templates, text), None, "{text:?}");
        }
        assert!(
            templates
                .recognize("summary", b"Ask 1 of x:\n\nEnd.", &mut 0)
                .is_none()
        );
    }
}
