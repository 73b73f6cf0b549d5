//! Finds the entries of a JSON object of any size, in a sliding window over the file.
//!
//! Only strings and brackets are examined, mostly by `memchr`, so that skipping an entry is cheap. The content of
//! an entry is checked by its reader: the splitter validates only the outer structure.
//!
//! If nearly every value is read, values are slices of the window without a copy: a slice keeps all of
//! its window in memory, and the splitter continues in another. If many are skipped, the others are copied out of
//! the window, so that a few values do not keep a large file in memory.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use memchr::memchr;

/// The size of a window, chosen so that it fits into a core's cache.
pub(super) const WINDOW: usize = 256 << 10;

/// The size of a window for a single entry.
pub(super) const SMALL_WINDOW: usize = 16 << 10;

/// The largest entry: far larger than any LLM response, and a limit on the cost of an unclosed quote.
const LARGEST: usize = 256 << 20;

/// A syntax error and its position.
#[derive(Debug)]
pub(super) enum SplitError {
    /// The file could not be read.
    Io(std::io::Error),
    /// The text is not a JSON object, or ends too early.
    Syntax {
        /// The byte of the error, from 0.
        offset: u64,
        /// What was found there.
        what: &'static str,
    },
}

impl From<std::io::Error> for SplitError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, SplitError>;

/// Iterates over the keys of objects. The caller enters an object, requests keys, and for each key reads the value,
/// skips it or enters it.
#[derive(Debug)]
pub(super) struct Splitter<R> {
    reader: R,
    window: Bytes,
    /// The start of the unread part of the window.
    at: usize,
    /// The end of the filled part of the window.
    filled: usize,
    /// The byte of the file at the start of the window.
    offset: u64,
    /// The byte of the file at the start of the last key.
    key_offset: u64,
    ended: bool,
    /// The size of a window in bytes; a larger entry makes it larger.
    size: usize,
    /// Earlier windows, of which slices may still be in use.
    earlier: EarlierWindows,
    /// The bytes of this window in values that are no longer needed.
    filtered: usize,
    /// Whether most of the previous window was kept; false if there is none.
    was_kept: bool,
}

/// Windows whose memory is reused once no slice of them is left. Allocating memory costs
/// more than filling it.
#[derive(Debug, Default)]
struct EarlierWindows(Vec<Bytes>);

impl EarlierWindows {
    /// Further windows are freed together with their last slice.
    const MOST: usize = 64;

    fn push(&mut self, window: Bytes) {
        if !window.is_empty() && self.0.len() < Self::MOST {
            self.0.push(window);
        }
    }

    /// A window of this size that is not in use.
    fn take(&mut self, bytes: usize) -> BytesMut {
        while let Some(at) = self.0.iter().position(Bytes::is_unique) {
            // If entries differ much in size, windows do too, and most are not kept.
            if let Ok(mut window) = self.0.swap_remove(at).try_into_mut()
                && window.capacity() >= bytes
                && window.capacity() / 2 < bytes
            {
                window.resize(bytes, 0);
                return window;
            }
        }
        BytesMut::zeroed(bytes)
    }
}

/// A range of the window, valid until the splitter moves on.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
}

/// Whether the next byte is escaped: an odd number of backslashes precedes it. Searching for quotes and then backwards is
/// faster than stopping at every escape, and still reads no byte more than twice.
fn is_escaped(before: &[u8]) -> bool {
    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
    backslashes % 2 == 1
}

impl<R: Read> Splitter<R> {
    /// A splitter over a reader whose first byte is at `offset` of the file, with a window of `bytes` for entries that
    /// are not larger than half of it.
    pub(super) fn new(reader: R, offset: u64, size: usize) -> Self {
        Self {
            reader,
            window: Bytes::new(),
            at: 0,
            filled: 0,
            offset,
            key_offset: offset,
            ended: false,
            size,
            earlier: EarlierWindows::default(),
            filtered: 0,
            was_kept: false,
        }
    }

    /// The position of the next byte in the file.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.at as u64
    }

    /// The byte of the file at which the last key began.
    pub(super) fn key_offset(&self) -> u64 {
        self.key_offset
    }

    /// Enters the outer object. False if there is only white space (and perhaps a byte order mark), or a value that LightRAG
    /// reads as an empty cache.
    pub(super) fn begin(&mut self) -> Result<bool> {
        while self.filled - self.at < 3 && self.fill(self.at)? {}
        if self.window[self.at..self.filled].starts_with(b"\xef\xbb\xbf") {
            self.at += 3;
        }
        match self.next_byte()? {
            None => Ok(false),
            Some(b'{') => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if self.is_false_in_python()? => {
                self.at = self.filled;
                Ok(false)
            }
            Some(_) => Err(self.syntax("expected `{`: the cache file is one JSON object")),
        }
    }

    /// Whether the rest is one value that is false in Python: LightRAG reads a cache file as `load_json(…) or {}`.
    fn is_false_in_python(&mut self) -> Result<bool> {
        // A longer text can be such a value too, but does not occur in practice.
        const LONGEST: usize = 64;
        while self.filled - self.at <= LONGEST && self.fill(self.at)? {}
        let text = &self.window[self.at..self.filled];
        if text.len() > LONGEST {
            return Ok(false);
        }
        Ok(match serde_json::from_slice(text) {
            Ok(serde_json::Value::Null | serde_json::Value::Bool(false)) => true,
            Ok(serde_json::Value::Number(number)) => number.as_f64() == Some(0.0),
            Ok(serde_json::Value::String(text)) => text.is_empty(),
            Ok(serde_json::Value::Array(items)) => items.is_empty(),
            _ => false,
        })
    }

    /// Enters the object that is the value of the current key.
    pub(super) fn enter(&mut self) {
        debug_assert_eq!(self.window[self.at], b'{');
        self.at += 1;
    }

    /// The next key of the object, including quotes, or `None` at its end. Its value follows.
    pub(super) fn next_key(&mut self, first: bool) -> Result<Option<&[u8]>> {
        match self.next_byte()? {
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !first => {
                self.at += 1;
                self.next_byte()?;
            }
            Some(_) if !first => return Err(self.syntax("expected `,` or `}` after an entry")),
            _ => {}
        }
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(self.syntax("expected a key in double quotes")),
            None => return Err(self.syntax("the file ends inside of an object")),
        }
        let end = self.string_end(self.at)?;
        let mut key = Piece { start: self.at, end };
        // Searching for the value may move the window, and the key with it.
        self.at = key.end;
        self.key_offset = self.offset + key.start as u64;
        let length = key.end - key.start;
        self.skip_space(key.start)?;
        key = self.piece_at(self.key_offset, length);
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(self.syntax("expected `:` after a key")),
            None => return Err(self.syntax("the file ends after a key")),
        }
        self.skip_space(key.start)?;
        if self.peek().is_none() {
            return Err(self.syntax("the file ends after a key"));
        }
        key = self.piece_at(self.key_offset, length);
        Ok(Some(&self.window[key.start..key.end]))
    }

    /// Whether the next value is an object that is empty or whose first value is an object too. Consumes nothing.
    pub(super) fn value_is_object_of_objects(&mut self) -> Result<bool> {
        if self.look(0)? != Some(b'{') {
            return Ok(false);
        }
        let mut at = self.look_past_space(1)?;
        match self.look(at)? {
            Some(b'"') => {}
            first => return Ok(first == Some(b'}')),
        }
        loop {
            at += 1;
            match self.look(at)? {
                Some(b'\\') => at += 1,
                Some(b'"') => break,
                Some(_) => {}
                None => return Ok(false),
            }
        }
        at = self.look_past_space(at + 1)?;
        if self.look(at)? != Some(b':') {
            return Ok(false);
        }
        at = self.look_past_space(at + 1)?;
        Ok(self.look(at)? == Some(b'{'))
    }

    /// The byte at this distance ahead. Consumes nothing.
    fn look(&mut self, ahead: usize) -> Result<Option<u8>> {
        while self.at + ahead >= self.filled {
            if !self.fill(self.at)? {
                return Ok(None);
            }
        }
        Ok(Some(self.window[self.at + ahead]))
    }

    fn look_past_space(&mut self, mut ahead: usize) -> Result<usize> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.look(ahead)? {
            ahead += 1;
        }
        Ok(ahead)
    }

    /// Reads the value as text.
    pub(super) fn take_value(&mut self) -> Result<Bytes> {
        let start = self.offset + self.at as u64;
        self.value_end(true)?;
        let start = usize::try_from(start - self.offset).unwrap_or(usize::MAX);
        let value = start..self.at;
        Ok(if self.was_kept && self.is_kept() {
            self.window.slice(value)
        } else {
            Bytes::copy_from_slice(&self.window[value])
        })
    }

    /// Marks the last value, of this many bytes, as no longer needed.
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.filtered = self.filtered.saturating_add(bytes);
    }

    /// Skips the value, of any size.
    pub(super) fn skip_value(&mut self) -> Result<()> {
        let start = self.position();
        self.value_end(false)?;
        self.let_go(usize::try_from(self.position() - start).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Whether most of this window has been kept so far.
    fn is_kept(&self) -> bool {
        self.filtered < self.size / 4
    }

    /// Checks that nothing follows the object.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.next_byte()? {
            None => Ok(()),
            Some(b'{') => {
                Err(self.syntax("another object follows the first one: JSON lines are not a cache file"))
            }
            Some(_) => Err(self.syntax("something follows the end of the object")),
        }
    }

    fn piece_at(&self, offset: u64, length: usize) -> Piece {
        let start = usize::try_from(offset - self.offset).unwrap_or(usize::MAX);
        Piece {
            start,
            end: start + length,
        }
    }

    /// Moves to the end of the value; `keep` keeps all of it in the window.
    fn value_end(&mut self, keep: bool) -> Result<()> {
        let first = self.peek();
        let mut depth = 0_usize;
        let mut keep_from = self.at;
        loop {
            if !keep {
                keep_from = self.at;
            }
            if self.at == self.filled {
                let before = self.offset;
                if !self.fill(keep_from)? {
                    // A number may end at the end of the file; the object is then reported as unclosed.
                    return if depth == 0 && !matches!(first, Some(b'{' | b'[' | b'"')) {
                        Ok(())
                    } else {
                        Err(self.syntax("the file ends inside of a value"))
                    };
                }
                keep_from -= usize::try_from(self.offset - before).unwrap_or(0);
                continue;
            }
            match self.window[self.at] {
                b'"' => {
                    let before = self.offset;
                    if keep {
                        self.at = self.string_end(keep_from)?;
                        keep_from -= usize::try_from(self.offset - before).unwrap_or(0);
                    } else {
                        self.skip_string()?;
                    }
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return Ok(()),
                _ => self.at += 1,
            }
        }
    }

    /// The end of the string that starts at `self.at`, keeping everything from `keep_from` in the window.
    fn string_end(&mut self, keep_from: usize) -> Result<usize> {
        let mut keep_from = keep_from;
        let mut inside = self.at + 1;
        let mut look = inside;
        loop {
            match memchr(b'"', &self.window[look..self.filled]) {
                Some(found) if is_escaped(&self.window[inside..look + found]) => look += found + 1,
                Some(found) => return Ok(look + found + 1),
                None => {
                    look = self.filled;
                    let before = self.offset;
                    if !self.fill(keep_from)? {
                        return Err(self.syntax("the file ends inside of a string"));
                    }
                    let moved = usize::try_from(self.offset - before).unwrap_or(0);
                    look -= moved;
                    inside -= moved;
                    keep_from -= moved;
                }
            }
        }
    }

    /// Moves past the string that starts at `self.at`, without keeping it.
    fn skip_string(&mut self) -> Result<()> {
        self.at += 1;
        let mut inside = self.at;
        loop {
            match memchr(b'"', &self.window[self.at..self.filled]) {
                Some(found) => {
                    let quote = self.at + found;
                    self.at = quote + 1;
                    if !is_escaped(&self.window[inside..quote]) {
                        return Ok(());
                    }
                }
                None => {
                    // The byte after an escape has not been read yet.
                    let escapes = usize::from(is_escaped(&self.window[inside..self.filled]));
                    self.at = self.filled;
                    if !self.fill(self.at)? {
                        return Err(self.syntax("the file ends inside of a string"));
                    }
                    self.at += escapes;
                    inside = self.at;
                }
            }
        }
    }

    /// The next byte other than white space. Does not consume it.
    fn next_byte(&mut self) -> Result<Option<u8>> {
        loop {
            while let Some(byte) = self.peek() {
                if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                    return Ok(Some(byte));
                }
                self.at += 1;
            }
            if !self.fill(self.at)? {
                return Ok(None);
            }
        }
    }

    /// Like [`Splitter::next_byte`], keeping the window from `keep_from` on.
    fn skip_space(&mut self, keep_from: usize) -> Result<()> {
        let kept = self.offset + keep_from as u64;
        loop {
            while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
                self.at += 1;
            }
            let keep_from = usize::try_from(kept - self.offset).unwrap_or(0);
            if self.peek().is_some() || !self.fill(keep_from)? {
                return Ok(());
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        (self.at < self.filled).then(|| self.window[self.at])
    }

    /// Reads more, keeping the window from `keep_from` on; false at the end of the file.
    fn fill(&mut self, keep_from: usize) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let kept = self.filled - keep_from;
        if kept > LARGEST {
            return Err(self.syntax("an entry of more than 256 MiB: a quote or a bracket is not closed"));
        }
        // Grow with the entry, so that a large one is moved only a few times.
        let mut window = self.slide(keep_from, self.size.max(2 * kept));
        let read = loop {
            match self.reader.read(&mut window[kept..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.window = window.freeze();
        let read = read?;
        self.filled += read;
        self.ended = read == 0;
        Ok(!self.ended)
    }

    /// A window of this size that starts with the content of this one from `keep_from` on.
    fn slide(&mut self, keep_from: usize, bytes: usize) -> BytesMut {
        let kept = keep_from..self.filled;
        self.offset += keep_from as u64;
        self.at -= keep_from;
        self.filled = kept.len();
        if keep_from > 0 {
            self.was_kept = self.is_kept();
            self.filtered = 0;
        }
        match std::mem::take(&mut self.window).try_into_mut() {
            // The window of a large entry is not reused for small ones.
            Ok(mut window) if window.capacity() / 4 < bytes => {
                window.copy_within(kept, 0);
                window.resize(bytes, 0);
                window
            }
            Ok(window) => {
                let mut next = BytesMut::zeroed(bytes);
                next[..kept.len()].copy_from_slice(&window[kept]);
                next
            }
            Err(held) => {
                let mut next = self.earlier.take(bytes);
                next[..kept.len()].copy_from_slice(&held[kept]);
                self.earlier.push(held);
                next
            }
        }
    }

    fn syntax(&self, what: &'static str) -> SplitError {
        SplitError::Syntax {
            offset: self.position(),
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every key and value of the outer object, read `bytes` at a time.
    fn entries(text: &[u8], read: usize) -> super::Result<Vec<(String, String)>> {
        let mut splitter = Splitter::new(text, 0, read);
        let mut found = Vec::new();
        if splitter.begin()? {
            while let Some(key) = splitter.next_key(found.is_empty())? {
                let key = String::from_utf8_lossy(key).into_owned();
                let value = String::from_utf8_lossy(&splitter.take_value()?).into_owned();
                found.push((key, value));
            }
            splitter.finish()?;
        }
        Ok(found)
    }

    const TEXT: &str = "\u{feff} {\n  \"a\\\"b\" : {\"x\": \"}]\\\\\", \"y\": [1, {\"z\": \"\\\"\"}]},\n\"c\":12 ,\"d\": \
                        \"s\\\\\" , \"é\": null, \"e\": [] }\n ";

    #[test]
    fn a_file_that_is_one_value_which_is_false_in_python_has_no_entries() {
        for text in [
            "",
            " \n",
            "null",
            "\u{feff} [ ]\n",
            "\"\"",
            "0",
            "-0.0e5",
            "false",
            "{}",
        ] {
            for read in [1, 3, 100] {
                let found = entries(text.as_bytes(), read);
                assert!(found.is_ok_and(|found| found.is_empty()), "{text:?}");
            }
        }
        let long = " ".repeat(100);
        for text in [
            "true",
            "1",
            "[0]",
            "[][]",
            "[],",
            "[",
            "nul",
            "NaN",
            "\"0\"",
            "null null",
            &format!("[{long}"),
        ] {
            assert!(entries(text.as_bytes(), 100).is_err(), "{text:?}");
        }
    }

    #[test]
    fn entries_are_the_same_wherever_the_reads_are_split() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = [
            pair(r#""a\"b""#, r#"{"x": "}]\\", "y": [1, {"z": "\""}]}"#),
            pair("\"c\"", "12"),
            pair("\"d\"", r#""s\\""#),
            pair("\"é\"", "null"),
            pair("\"e\"", "[]"),
        ];
        for read in 1..TEXT.len() + 1 {
            assert_eq!(entries(TEXT.as_bytes(), read).unwrap(), expected, "read {read}");
        }
    }

    #[test]
    fn skipping_finds_the_same_keys_wherever_the_reads_are_split() {
        for read in 1..TEXT.len() + 1 {
            let mut splitter = Splitter::new(TEXT.as_bytes(), 0, read);
            let mut keys = 0;
            assert!(splitter.begin().unwrap());
            while splitter.next_key(keys == 0).unwrap().is_some() {
                splitter.skip_value().unwrap();
                keys += 1;
            }
            splitter.finish().unwrap();
            assert_eq!(keys, 5, "read {read}");
        }
    }

    /// An object with this many short values.
    fn many(values: usize) -> String {
        let fields: Vec<String> = (0..values).map(|n| format!("\"{n}\": \"{n:9}\"")).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn values_are_pieces_of_windows_which_are_used_again_when_they_are_let_go() {
        let text = many(200);
        let mut splitter = Splitter::new(text.as_bytes(), 0, 100);
        let mut held = Vec::new();
        let mut windows = 0;
        assert!(splitter.begin().unwrap());
        for n in 0..200 {
            assert!(splitter.next_key(n == 0).unwrap().is_some());
            held.push(splitter.take_value().unwrap());
            match n {
                0..99 => {}
                99 => {
                    windows = splitter.earlier.0.len();
                    held.clear();
                }
                _ => drop(held.drain(..held.len() - 1)),
            }
        }
        assert!(windows > 10, "{windows}");
        assert_eq!(splitter.earlier.0.len(), windows);
        assert_eq!(held.last().unwrap(), "\"      199\"");
    }

    #[test]
    fn values_between_others_that_are_passed_over_keep_no_window() {
        let text = many(200);
        let mut splitter = Splitter::new(text.as_bytes(), 0, 100);
        let mut held = Vec::new();
        assert!(splitter.begin().unwrap());
        for n in 0..200 {
            assert!(splitter.next_key(n == 0).unwrap().is_some());
            match n % 5 {
                0 => held.push(splitter.take_value().unwrap()),
                1 | 2 => splitter.skip_value().unwrap(),
                _ => {
                    let bytes = splitter.take_value().unwrap().len();
                    splitter.let_go(bytes);
                }
            }
        }
        assert_eq!(held.len(), 40);
        assert!(splitter.earlier.0.is_empty());
        assert!(held.iter().all(Bytes::is_unique));
    }

    #[test]
    fn every_cut_of_a_file_is_an_error_and_never_a_shorter_cache() {
        let text = TEXT.trim_end().trim_start_matches('\u{feff}').as_bytes();
        for cut in 2..text.len() {
            for read in [1, 7, 1000] {
                let found = entries(&text[..cut], read);
                assert!(
                    matches!(found, Err(SplitError::Syntax { .. })),
                    "cut {cut}: {found:?}"
                );
            }
        }
    }

    /// JSON of any shape, with any characters, and white space of any kind between its parts.
    fn json() -> impl Strategy<Value = String> {
        let space = || prop::sample::select(vec!["", " ", "\n  ", "\t", "\r\n"]);
        let string = || any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            Just(r#""\ud83d\u0000\\""#.to_owned()),
            string(),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let list = (space(), prop::collection::vec(inner.clone(), 0..6))
                .prop_map(|(space, items)| format!("[{space}{}{space}]", items.join(&format!("{space},"))));
            let object =
                (space(), prop::collection::vec((string(), inner), 0..6)).prop_map(|(space, fields)| {
                    let fields: Vec<String> = fields
                        .into_iter()
                        .map(|(name, value)| format!("{name}{space}:{space}{value}"))
                        .collect();
                    format!("{{{space}{}{space}}}", fields.join(&format!(",{space}")))
                });
            prop_oneof![list, object]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_split_as_a_parser_reads_it(
            fields in prop::collection::vec((any::<String>(), json()), 0..8),
            read in 1_usize..40,
        ) {
            let written: Vec<(String, String)> = fields
                .into_iter()
                .map(|(name, value)| (serde_json::to_string(&name).unwrap(), value))
                .collect();
            let text: Vec<String> = written.iter().map(|(name, value)| format!("{name} :\n{value} ")).collect();
            let text = format!(" {{{}}}\n", text.join(","));
            prop_assert_eq!(entries(text.as_bytes(), read).unwrap(), written);
        }

        #[test]
        fn any_text_is_split_or_refused(text in ".*", read in 1_usize..9) {
            let _ = entries(text.as_bytes(), read);
            let _ = entries(format!("{{{text}").as_bytes(), read);
        }

        #[test]
        fn what_a_parser_accepts_as_an_object_is_split(text in "\\{[\\[\\]{}\":,\\\\0a ]{0,12}\\}", read in 1_usize..9) {
            if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok() {
                prop_assert!(entries(text.as_bytes(), read).is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn what_is_no_object_or_goes_on_behind_it_is_an_error() {
        for text in [
            "[1]",
            "true",
            "{} {}",
            "{\"a\" 1}",
            "{\"a\": 1 \"b\": 2}",
            "{,}",
            "{1: 2}",
        ] {
            assert!(entries(text.as_bytes(), 3).is_err(), "{text}");
        }
        for text in ["", " \n", "\u{feff}", "{}", " { } "] {
            assert_eq!(entries(text.as_bytes(), 3).unwrap(), [], "{text}");
        }
    }
}
