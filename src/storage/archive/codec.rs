//! The lines of an archive.
//!
//! An archive is text, one JSON object a line, compressed with Zstandard where its name ends in `.zst`:
//!
//! ```text
//! {"header": {"format": "llm-cache-archive", "format_version": 1, "tool": …, "version": …, "created_at": …, "source": …}}
//! {"workspace": "space1", "key": "default:extract:…", "record": {"return": …}}
//! …
//! {"footer": {"records": 67, "workspaces": {"space1": {"records": 67, "by_cache_type": {"extract": 67}}}, "digest": {…}}}
//! ```
//!
//! Records are as the source stores them. If a key occurs twice, the later record counts. A rejects file consists of
//! the same lines for records, each with a `kind` and a `reason`, without header and footer.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    model::{
        CacheType, Counts, Location, Workspace,
        record::{CacheKey, Invalid, KeyDigest, ObjectWriter, Record, RejectKind},
    },
    storage::Entry,
};

/// The value of `format` in the header.
const FORMAT: &str = "llm-cache-archive";

/// The version of the format that is written, and the highest that is read.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The first line, to write.
#[derive(Debug, Serialize)]
pub(super) struct Header {
    #[serde(flatten)]
    format: Format,
    /// The program that wrote it.
    tool: &'static str,
    version: &'static str,
    /// RFC 3339, UTC.
    created_at: String,
    /// Where the records came from, without secrets; `None` if they were copied from nowhere in particular.
    source: Option<Location>,
}

impl Header {
    /// For an archive that is begun now.
    pub(super) fn new(source: Option<&Location>) -> Self {
        Self {
            format: Format {
                format: FORMAT.to_owned(),
                format_version: FORMAT_VERSION,
            },
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            created_at: jiff::Timestamp::now().to_string(),
            source: source.cloned(),
        }
    }
}

/// What is read of the first line: nothing else is needed, and a later version may name it differently.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Format {
    format: String,
    pub(super) format_version: u32,
}

impl Format {
    /// Whether it is the format of this program.
    pub(super) fn is_ours(&self) -> bool {
        self.format == FORMAT
    }
}

/// The last line.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Footer {
    /// Lines with records.
    pub(super) records: u64,
    /// The same by workspace.
    pub(super) workspaces: BTreeMap<String, WorkspaceCounts>,
    /// Of all lines with records.
    pub(super) digest: DigestText,
}

/// The lines of a workspace.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WorkspaceCounts {
    /// All.
    pub(super) records: u64,
    /// The same by cache type.
    pub(super) by_cache_type: BTreeMap<CacheType, u64>,
}

/// A digest as the footer has it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DigestText {
    pub(super) algorithm: String,
    /// 64 hexadecimal digits.
    pub(super) value: String,
}

/// The sum, modulo 2²⁵⁶, of the SHA-256 digests of all lines with records, each without its line break and read as a
/// number whose first byte is the highest.
const ALGORITHM: &str = "sha256-sum";

/// A digest of lines that does not depend on their order, so that parts of a file can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest([u64; 4]);

impl Digest {
    /// Adds a line, without its line break.
    pub(super) fn add_line(&mut self, line: &[u8]) {
        let hash: [u8; 32] = Sha256::digest(line).into();
        let (words, _) = hash.as_chunks::<8>();
        // The lowest first.
        let mut number = [0; 4];
        for (word, bytes) in number.iter_mut().rev().zip(words) {
            *word = u64::from_be_bytes(*bytes);
        }
        self.add(Self(number));
    }

    /// Adds the digest of other lines.
    pub(super) fn add(&mut self, other: Self) {
        let mut carry = false;
        for (word, more) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = word.overflowing_add(more);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = first || second;
        }
    }

    pub(super) fn to_text(self) -> DigestText {
        DigestText {
            algorithm: ALGORITHM.to_owned(),
            value: self.to_string(),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// What the records of an archive add up to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    records: u64,
    workspaces: BTreeMap<String, Counts<CacheType>>,
}

impl Tally {
    /// Counts a line.
    pub(super) fn add(&mut self, workspace: &str, key: &str) {
        self.records += 1;
        // Looking is cheaper than making a name for each line.
        let counts = match self.workspaces.get_mut(workspace) {
            Some(counts) => counts,
            None => self.workspaces.entry(workspace.to_owned()).or_default(),
        };
        counts.add(CacheType::of_key(key), CacheType::Other, 1);
    }

    /// The lines of a workspace so far.
    pub(super) fn of(&self, workspace: &str) -> u64 {
        self.workspaces.get(workspace).map_or(0, Counts::total)
    }

    pub(super) fn footer(&self, digest: Digest) -> Footer {
        let workspaces = self.workspaces.iter().map(|(name, counts)| {
            let counts = WorkspaceCounts {
                records: counts.total(),
                by_cache_type: counts.to_map(),
            };
            (name.clone(), counts)
        });
        Footer {
            records: self.records,
            workspaces: workspaces.collect(),
            digest: digest.to_text(),
        }
    }
}

/// A record of an archive by workspace and key.
pub(super) fn record_digest(workspace: &str, key: &str) -> KeyDigest {
    let mut both = Vec::with_capacity(workspace.len() + 1 + key.len());
    both.extend_from_slice(workspace.as_bytes());
    both.push(0);
    both.extend_from_slice(key.as_bytes());
    KeyDigest::of_bytes(&both)
}

/// Adds the line of a record.
pub(super) fn push_record(out: &mut Vec<u8>, workspace: &Workspace, record: &Record) {
    let mut line = ObjectWriter::begin(out);
    line.string("workspace", workspace.name());
    line.string("key", record.key().as_str());
    line.one_line("record", record.value());
    line.end();
    out.push(b'\n');
}

/// Adds the line of a header or footer.
pub(super) fn push_frame(out: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    let mut line = ObjectWriter::begin(out);
    line.value(name, value);
    line.end();
    out.push(b'\n');
}

/// A line as it may be.
#[derive(Debug, Deserialize)]
struct AnyLine<'a> {
    header: Option<Format>,
    footer: Option<Footer>,
    #[serde(borrow)]
    workspace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    kind: Option<RejectKind>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    text: Option<String>,
}

/// What a line says.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Header(Format),
    Footer(Footer),
    Record(RecordLine<'a>),
}

/// A line with a record, of which the record is not read yet.
#[derive(Debug)]
pub(super) struct RecordLine<'a> {
    pub(super) workspace: Cow<'a, str>,
    pub(super) key: Cow<'a, str>,
    /// Whether it was rejected by an earlier run.
    pub(super) is_reject: bool,
    value: LineValue<'a>,
}

#[derive(Debug)]
enum LineValue<'a> {
    Json(&'a [u8]),
    /// It was rejected since it is no JSON.
    Text(String),
}

impl<'a> Line<'a> {
    /// Reads a line without its line break.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(line: &'a [u8]) -> Result<Self, String> {
        if let Some(record) = written_record(line) {
            return Ok(Self::Record(record));
        }
        Self::read_whole(line)
    }

    /// Reads a line of which all is looked at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read_whole(line: &'a [u8]) -> Result<Self, String> {
        let line: AnyLine<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if let Some(header) = line.header {
            return Ok(Self::Header(header));
        }
        if let Some(footer) = line.footer {
            return Ok(Self::Footer(footer));
        }
        let missing = |name| format!("it has no `{name}`");
        Ok(Self::Record(RecordLine {
            workspace: line.workspace.ok_or_else(|| missing("workspace"))?,
            key: line.key.ok_or_else(|| missing("key"))?,
            is_reject: line.kind.is_some(),
            value: match (line.record, line.text) {
                (None, Some(text)) => LineValue::Text(text),
                // A missing value and JSON's null look the same here.
                (record, _) => LineValue::Json(record.map_or(&b"null"[..], |record| record.get().as_bytes())),
            },
        }))
    }
}

impl RecordLine<'_> {
    /// The record, of which the text is a piece of the line that it was read from.
    pub(super) fn into_entry(self, line: &Bytes) -> Entry {
        let key = CacheKey::new(self.key.as_ref());
        match self.value {
            LineValue::Text(text) => Entry::Invalid(Invalid {
                key,
                kind: RejectKind::InvalidJson,
                reason: "what was rejected was no JSON, and still is not".to_owned(),
                raw: text.into(),
            }),
            LineValue::Json(b"null") => Record::new(key, Bytes::from_static(b"null")).into(),
            LineValue::Json(text) => Record::new(key, line.slice_ref(text)).into(),
        }
    }
}

/// A line as [`push_record`] writes it, which is not parsed: whoever takes the record does that, and the digest of the
/// archive says whether anything else is as it was written.
fn written_record(line: &[u8]) -> Option<RecordLine<'_>> {
    let rest = line.strip_prefix(br#"{"workspace": ""#)?;
    let (workspace, rest) = plain_string(rest)?;
    let rest = rest.strip_prefix(br#", "key": ""#)?;
    let (key, rest) = plain_string(rest)?;
    let value = rest.strip_prefix(br#", "record": "#)?.strip_suffix(b"}")?;
    Some(RecordLine {
        workspace: Cow::Borrowed(workspace),
        key: Cow::Borrowed(key),
        is_reject: false,
        value: LineValue::Json(value),
    })
}

/// A string without escapes, and what follows its closing quote.
fn plain_string(text: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr2(b'"', b'\\', text)?;
    let (string, rest) = text.split_at(end);
    Some((std::str::from_utf8(string).ok()?, rest.strip_prefix(b"\"")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Record {
        Record::new(CacheKey::new(key), Bytes::copy_from_slice(value.as_bytes())).unwrap()
    }

    fn round_trip(workspace: &str, key: &str, value: &str) -> (String, Entry) {
        let mut out = Vec::new();
        let workspace = Workspace::new(workspace).unwrap();
        push_record(&mut out, &workspace, &record(key, value));
        let line = Bytes::from(out);
        let text = line.strip_suffix(b"\n").unwrap();
        assert!(!text.contains(&b'\n'));
        let read = [Line::read(text), Line::read_whole(text)].map(|read| match read.unwrap() {
            Line::Record(record) => (record.workspace.to_string(), record.into_entry(&line)),
            other => panic!("{other:?}"),
        });
        assert_eq!(read[0], read[1]);
        let [read, _] = read;
        read
    }

    #[test]
    fn a_record_is_read_as_it_was_written_whatever_its_name() {
        for (workspace, key) in [("", "default:extract:1"), ("a", "k\"\\\n"), ("ä b", "é😀")] {
            let value = "{\"return\": \"a\\nb\", \"x\": [1.50, \"\\ud83d\"]}";
            let (read, entry) = round_trip(workspace, key, value);
            assert_eq!(read, workspace);
            assert_eq!(entry, Entry::Record(record(key, value)));
        }
    }

    #[test]
    fn line_breaks_between_fields_go() {
        let (_, entry) = round_trip("a", "k", "{\n  \"return\": \"x  y\",\r\n\t\"n\": 1\n}");
        assert_eq!(&entry.raw()[..], b"{\"return\": \"x  y\",\"n\": 1}");
    }

    #[test]
    fn the_digest_depends_on_lines_and_not_on_their_order() {
        let digest = |lines: &[&str]| {
            let mut digest = Digest::default();
            lines.iter().for_each(|line| digest.add_line(line.as_bytes()));
            digest
        };
        assert_eq!(digest(&["a", "b", "c"]), digest(&["c", "a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["a", "a"]));
        let mut parts = digest(&["a"]);
        parts.add(digest(&["b", "c"]));
        assert_eq!(parts, digest(&["a", "b", "c"]));
        // `printf a | sha256sum`
        assert_eq!(
            digest(&["a"]).to_string(),
            "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
        );
    }

    #[test]
    fn sums_carry() {
        let mut digest = Digest([u64::MAX, u64::MAX, 0, u64::MAX]);
        digest.add(Digest([1, 0, 0, 1]));
        assert_eq!(digest, Digest([0, 0, 1, 0]));
    }

    #[test]
    fn the_version_of_a_format_is_read_whatever_else_that_format_has() {
        let later = format!(
            r#"{{"header": {{"format": "{FORMAT}", "format_version": 2, "tool": 1, "written": null}}}}"#
        );
        let Ok(Line::Header(format)) = Line::read(later.as_bytes()) else {
            panic!("no header");
        };
        assert!(format.is_ours() && format.format_version == 2);
    }

    #[test]
    fn other_lines_are_told_apart() {
        let mut out = Vec::new();
        push_frame(&mut out, "header", &Header::new(None));
        assert!(matches!(Line::read(&out), Ok(Line::Header(format)) if format.is_ours()));
        let mut tally = Tally::default();
        tally.add("a", "default:extract:1");
        out.clear();
        push_frame(&mut out, "footer", &tally.footer(Digest::default()));
        let Ok(Line::Footer(footer)) = Line::read(&out) else {
            panic!("no footer");
        };
        assert_eq!(footer, tally.footer(Digest::default()));
        assert!(Line::read(b"{\"a\": 1}").unwrap_err().contains("workspace"));
    }
}
