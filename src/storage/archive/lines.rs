//! Reading the lines of a file, compressed or not, from its beginning or from the beginning of one of its blocks.
//!
//! A block can be read without what precedes it: a Zstandard frame that starts with a line, or about a mebibyte of an
//! uncompressed file. The place of a line is its block and its number in the block, so files whose frames were made by
//! other programs can be read too.

use std::{io, sync::Arc};

use bytes::Bytes;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use crate::{
    model::{Error, ErrorKind, Result},
    storage::files::OpenFile,
};

/// Bytes of text after which a block ends. Smaller ones compress worse, and of a larger one more has to be read for a single
/// record. A block that is written is never larger than one that is read from its beginning.
pub(super) const BLOCK: usize = 1 << 20;

/// A frame up to this size, in bytes, is decompressed before any of its lines is returned, since its checksum comes last.
const WHOLE_FRAME: usize = 4 << 20;

/// How much is read at once, in bytes.
const READ: usize = 128 << 10;

/// The longest line: far beyond any record, and a bound on what a file without line breaks can cost, in bytes.
const LONGEST: usize = 512 << 20;

/// Editors on Windows write it before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What to do about damage in a source.
pub(super) const SALVAGE: &str = "--salvage moves the records that are whole";

/// The magic number of a Zstandard frame.
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinePlace {
    /// The offset of its block in the file, in bytes.
    pub(super) block: u64,
    /// The number of the line in the block, from 0.
    pub(super) line: u64,
}

/// Reads the lines of a file.
pub(super) struct Lines {
    file: Arc<OpenFile>,
    input: Input,
    /// Text that was read; lines are slices of it.
    text: Bytes,
    /// Bytes of the text that were returned.
    given: usize,
    /// Whether the text ends with a block.
    ends_block: bool,
    next: LinePlace,
    /// Bytes of the block that were returned.
    block_bytes: usize,
    is_at_end: bool,
}

/// What is read from the file.
enum Input {
    /// Text as it is, from this byte on.
    Plain { at: u64 },
    /// Frames.
    Packed(Packed),
}

struct Packed {
    decoder: Decoder<'static>,
    /// What was read of the file.
    buffer: Vec<u8>,
    /// How much of it was decompressed.
    used: usize,
    /// The byte of the file at which the buffer ends.
    read_to: u64,
    /// Whether a frame is incomplete so far.
    is_in_frame: bool,
}

impl Packed {
    fn at(offset: u64) -> io::Result<Self> {
        Ok(Self {
            decoder: Decoder::new()?,
            buffer: Vec::new(),
            used: 0,
            read_to: offset,
            is_in_frame: false,
        })
    }

    /// The byte of the file that is decompressed next.
    fn position(&self) -> u64 {
        self.read_to - (self.buffer.len() - self.used) as u64
    }
}

/// Where reading stopped.
enum Ended {
    /// Inside a block.
    Full,
    /// At the end of a block.
    Block,
    /// At the end of the file.
    File,
}

impl Lines {
    /// From the beginning of a block on.
    ///
    /// # Errors
    /// No memory for it.
    pub(super) fn new(file: &Arc<OpenFile>, is_packed: bool, block: u64) -> Result<Self> {
        let input = if is_packed {
            let packed = Packed::at(block).map_err(|error| Error::io("read", file.path(), error))?;
            Input::Packed(packed)
        } else {
            Input::Plain { at: block }
        };
        Ok(Self {
            file: Arc::clone(file),
            input,
            text: Bytes::new(),
            given: 0,
            ends_block: false,
            next: LinePlace { block, line: 0 },
            block_bytes: 0,
            is_at_end: false,
        })
    }

    /// The next line without its line break, and its place; `None` at the end.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], or the file cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<(Bytes, LinePlace)>> {
        loop {
            let rest = &self.text[self.given..];
            if let Some(end) = memchr::memchr(b'\n', rest) {
                return Ok(Some(self.give(end, 1)));
            }
            if self.is_at_end {
                // The last line may have no line break.
                let rest = rest.len();
                return Ok((rest > 0).then(|| self.give(rest, 0)));
            }
            if rest.is_empty() && self.ends_block {
                self.begin_block();
            }
            self.fill()?;
        }
    }

    /// The place of the next line, for a later reader.
    pub(super) fn place(&mut self) -> LinePlace {
        if self.ends_block && self.given == self.text.len() {
            self.begin_block();
        }
        self.next
    }

    fn give(&mut self, length: usize, line_break: usize) -> (Bytes, LinePlace) {
        let mut line = self.text.slice(self.given..self.given + length);
        let place = self.next;
        if place == LinePlace::default() && line.starts_with(BYTE_ORDER_MARK) {
            line = line.slice(BYTE_ORDER_MARK.len()..);
        }
        self.given += length + line_break;
        self.next.line += 1;
        self.block_bytes += length + line_break;
        if let Input::Plain { at } = self.input
            && self.block_bytes >= BLOCK
        {
            self.next = LinePlace {
                block: at - (self.text.len() - self.given) as u64,
                line: 0,
            };
            self.block_bytes = 0;
        }
        (line, place)
    }

    fn begin_block(&mut self) {
        self.ends_block = false;
        if let Input::Packed(packed) = &self.input {
            self.next = LinePlace {
                block: packed.position(),
                line: 0,
            };
            self.block_bytes = 0;
        }
    }

    /// Reads more text; keeps what was not returned yet.
    fn fill(&mut self) -> Result<()> {
        // A frame that begins within a line is no block of its own.
        self.ends_block = false;
        let rest = self.text.slice(self.given..);
        if rest.len() > LONGEST {
            return Err(self.damaged("a line has no end"));
        }
        let mut text = Vec::with_capacity(rest.len() + BLOCK + (BLOCK >> 2));
        text.extend_from_slice(&rest);
        let ended = match &mut self.input {
            Input::Plain { at } => {
                let begin = text.len();
                text.resize(begin + BLOCK, 0);
                let read = self.file.read_at(&mut text[begin..], *at)?;
                text.truncate(begin + read);
                *at += read as u64;
                if read < BLOCK { Ended::File } else { Ended::Full }
            }
            Input::Packed(packed) => decompress(packed, &self.file, &mut text)?,
        };
        self.text = text.into();
        self.given = 0;
        match ended {
            Ended::Full => {}
            Ended::Block => self.ends_block = true,
            Ended::File => self.is_at_end = true,
        }
        Ok(())
    }

    /// The error for damage in the block that is read.
    pub(super) fn damaged(&self, what: &str) -> Error {
        damaged(&self.file, self.next.block, what)
    }

    /// Skips damage: continues at the next possible start of a block. Returns `false` if there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn skip_damage(&mut self) -> Result<bool> {
        if !matches!(self.input, Input::Packed(_)) {
            return Ok(false);
        }
        let mut piece = vec![0; READ];
        let mut at = self.next.block + 1;
        loop {
            let read = self.file.read_at(&mut piece, at)?;
            if let Some(found) = memchr::memmem::find(&piece[..read], &MAGIC) {
                *self = Self::new(&self.file, true, at + found as u64)?;
                return Ok(true);
            }
            if read < piece.len() {
                return Ok(false);
            }
            // A beginning may be cut.
            at += (read - MAGIC.len()) as u64;
        }
    }
}

/// Decompresses up to the end of a frame, or up to [`WHOLE_FRAME`] bytes of it.
fn decompress(packed: &mut Packed, file: &OpenFile, text: &mut Vec<u8>) -> Result<Ended> {
    let begin = text.len();
    let frame = packed.position();
    loop {
        if packed.used == packed.buffer.len() {
            packed.buffer.resize(READ, 0);
            let read = file.read_at(&mut packed.buffer, packed.read_to)?;
            packed.buffer.truncate(read);
            packed.used = 0;
            packed.read_to += read as u64;
            if read == 0 {
                return match packed.is_in_frame {
                    true => Err(damaged(file, frame, "it is cut off")),
                    false => Ok(Ended::File),
                };
            }
        }
        if text.len() - begin >= WHOLE_FRAME {
            return Ok(Ended::Full);
        }
        text.reserve(BLOCK);
        let filled = text.len();
        let mut input = InBuffer::around(&packed.buffer[packed.used..]);
        let mut output = OutBuffer::around_pos(text, filled);
        let left = packed.decoder.run(&mut input, &mut output);
        packed.used += input.pos();
        packed.is_in_frame = true;
        let left = left.map_err(|error| damaged(file, frame, &error.to_string()))?;
        if left == 0 {
            packed.is_in_frame = false;
            return Ok(Ended::Block);
        }
    }
}

fn damaged(file: &OpenFile, block: u64, what: &str) -> Error {
    let message = format!(
        "{} is damaged in the block at byte {block}: {what}",
        file.path().display()
    );
    Error::new(ErrorKind::Damaged, message).with_remedy(SALVAGE)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Arc<OpenFile>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let open = OpenFile::open(file.path()).unwrap().unwrap();
        (file, Arc::new(open))
    }

    fn all(mut lines: Lines) -> Vec<(String, LinePlace)> {
        let mut found = Vec::new();
        while let Some((line, place)) = lines.next().unwrap() {
            found.push((String::from_utf8(line.to_vec()).unwrap(), place));
        }
        found
    }

    /// Lines of different lengths, and the same in frames that are cut after every so many bytes.
    fn text() -> String {
        (0..8_000)
            .map(|n| format!("{n} {}\n", "x".repeat(n % 700)))
            .collect()
    }

    fn packed(text: &str, frame: usize) -> Vec<u8> {
        let frames = text.as_bytes().chunks(frame);
        frames
            .flat_map(|frame| zstd::bulk::compress(frame, 1).unwrap())
            .collect()
    }

    #[test]
    fn lines_are_read_from_every_place_that_was_given_however_the_file_was_compressed() {
        let text = text();
        let expected: Vec<&str> = text.lines().collect();
        let plain = text.clone().into_bytes();
        for (content, is_packed) in [
            (plain, false),
            (packed(&text, 1 << 30), true),
            (packed(&text, 10_000), true),
            (packed(&text, 100), true),
        ] {
            let (_kept, file) = file(&content);
            let found = all(Lines::new(&file, is_packed, 0).unwrap());
            assert!(found.iter().map(|(line, _)| line).eq(&expected));
            for at in (0..found.len()).step_by(97) {
                let place = found[at].1;
                let from = all(Lines::new(&file, is_packed, place.block).unwrap());
                let line = usize::try_from(place.line).unwrap();
                assert_eq!(&from[line..], &found[at..], "{place:?}");
            }
        }
    }

    #[test]
    fn the_place_of_the_next_line_is_where_it_is_found() {
        let text = text();
        for (content, is_packed) in [(text.clone().into_bytes(), false), (packed(&text, 5_000), true)] {
            let (_kept, file) = file(&content);
            let mut lines = Lines::new(&file, is_packed, 0).unwrap();
            let mut next = lines.place();
            while let Some((_, place)) = lines.next().unwrap() {
                assert_eq!(place, next);
                next = lines.place();
            }
        }
    }

    #[test]
    fn a_last_line_needs_no_line_break() {
        let (_kept, file) = file(b"a\nb");
        let found = all(Lines::new(&file, false, 0).unwrap());
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].0, "b");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let text = "\u{feff}a\n\u{feff}b\n";
        for (content, is_packed) in [(text.as_bytes().to_vec(), false), (packed(text, 100), true)] {
            let (_kept, file) = file(&content);
            let found = all(Lines::new(&file, is_packed, 0).unwrap());
            assert_eq!(found.len(), 2);
            assert_eq!((found[0].0.as_str(), found[1].0.as_str()), ("a", "\u{feff}b"));
        }
    }

    #[test]
    fn no_line_of_a_damaged_frame_is_given_and_those_of_the_next_are() {
        let frames = ["a\nb\n", "c\nd\n", "e\n"].map(|text| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        });
        let mut content = frames.concat();
        // The last byte of the second frame belongs to its checksum.
        content[frames[0].len() + frames[1].len() - 1] ^= 1;
        let (_kept, file) = file(&content);
        let mut lines = Lines::new(&file, true, 0).unwrap();
        assert_eq!(&lines.next().unwrap().unwrap().0[..], b"a");
        assert_eq!(&lines.next().unwrap().unwrap().0[..], b"b");
        assert_eq!(lines.next().unwrap_err().kind(), ErrorKind::Damaged);
        assert!(lines.skip_damage().unwrap());
        assert_eq!(&lines.next().unwrap().unwrap().0[..], b"e");
        assert!(lines.next().unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_cut_off_is_damaged() {
        let content = packed("a\n", 10);
        let (_kept, file) = file(&content[..content.len() - 1]);
        let mut lines = Lines::new(&file, true, 0).unwrap();
        assert!(lines.next().unwrap_err().message().contains("cut off"));
    }
}
