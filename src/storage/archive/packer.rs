//! Compressing text on threads of its own, block by block, in order.

use std::{
    collections::VecDeque,
    io,
    num::NonZero,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use super::{codec::Digest, lines::BLOCK};

use crate::model::{Error, ErrorKind, Result};

/// Threads that compress blocks, and what is under way on them.
#[derive(Debug)]
pub(super) struct Packer {
    workers: Vec<Worker>,
    /// Blocks under way, the first one first: the number of the thread of each.
    under_way: VecDeque<usize>,
    next: usize,
    /// Memory of blocks that were written, for texts and for what becomes of them.
    texts: Vec<Vec<u8>>,
    outs: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Worker {
    blocks: SyncSender<Block>,
    packed: Receiver<io::Result<Packed>>,
}

/// Text to be compressed.
#[derive(Debug)]
struct Block {
    text: Vec<u8>,
    /// Memory for what becomes of it.
    out: Vec<u8>,
    /// Whether its lines hold records, which the digest is of.
    has_records: bool,
}

/// A block as it is written.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    /// The memory of its text.
    text: Vec<u8>,
    /// Of its lines with records.
    pub(super) digest: Digest,
}

/// More threads than this wait for whoever makes the text.
const MOST_THREADS: usize = 4;

/// Blocks that a thread may have besides the one that it works on.
const WAITING: usize = 1;

impl Packer {
    /// Compresses with this level, or not at all.
    ///
    /// # Errors
    /// No thread can be made.
    pub(super) fn new(level: Option<i32>) -> Result<Self> {
        let threads = thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(MOST_THREADS);
        let workers = (0..threads)
            .map(|_| Worker::new(level))
            .collect::<io::Result<_>>();
        Ok(Self {
            workers: workers.map_err(|error| {
                Error::new(
                    ErrorKind::Io,
                    format!("cannot begin a thread to compress with: {error}"),
                )
            })?,
            under_way: VecDeque::new(),
            next: 0,
            texts: Vec::new(),
            outs: Vec::new(),
        })
    }

    /// Gives a block to the next thread; and a block that was compressed, where so many are under way that one must be.
    ///
    /// # Errors
    /// Compressing failed.
    pub(super) fn add(&mut self, text: Vec<u8>, has_records: bool) -> Result<Option<Packed>> {
        let most = self.workers.len() * (WAITING + 1);
        let packed = match self.under_way.len() >= most {
            true => self.take()?,
            false => None,
        };
        let worker = &self.workers[self.next];
        let sent = worker.blocks.send(Block {
            text,
            out: self.outs.pop().unwrap_or_default(),
            has_records,
        });
        sent.map_err(|_| panicked())?;
        self.under_way.push_back(self.next);
        self.next = (self.next + 1) % self.workers.len();
        Ok(packed)
    }

    /// Memory for the text of a block: that of one that was written, where there is any.
    pub(super) fn text(&mut self) -> Vec<u8> {
        self.texts
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(BLOCK + (BLOCK >> 3)))
    }

    /// Takes the memory of a block back that was written.
    pub(super) fn reuse(&mut self, packed: Packed) {
        let Packed {
            mut bytes, mut text, ..
        } = packed;
        bytes.clear();
        text.clear();
        self.texts.push(text);
        self.outs.push(bytes);
    }

    /// Waits for the first block under way; `None` where there is none.
    ///
    /// # Errors
    /// Compressing failed.
    pub(super) fn take(&mut self) -> Result<Option<Packed>> {
        let Some(number) = self.under_way.pop_front() else {
            return Ok(None);
        };
        let packed = self.workers[number].packed.recv().map_err(|_| panicked())?;
        let failed =
            |error: io::Error| Error::new(ErrorKind::Internal, "compressing a block failed").caused_by(error);
        packed.map(Some).map_err(failed)
    }
}

fn panicked() -> Error {
    Error::panicked("compressing a block")
}

impl Worker {
    fn new(level: Option<i32>) -> io::Result<Self> {
        let (blocks, work) = sync_channel::<Block>(WAITING);
        let (done, packed) = sync_channel(WAITING + 1);
        let mut compressor = level.map(compressor).transpose()?;
        thread::Builder::new().name("packer".to_owned()).spawn(move || {
            // Both ends go when the archive does.
            while let Ok(block) = work.recv() {
                let mut digest = Digest::default();
                if block.has_records {
                    let lines = block.text.split(|byte| *byte == b'\n');
                    lines
                        .filter(|line| !line.is_empty())
                        .for_each(|line| digest.add_line(line));
                }
                let Block { text, mut out, .. } = block;
                let packed = match &mut compressor {
                    Some(compressor) => {
                        out.reserve(zstd::zstd_safe::compress_bound(text.len()));
                        let written = compressor.compress_to_buffer(&text, &mut out);
                        written.map(|_| Packed {
                            bytes: out,
                            text,
                            digest,
                        })
                    }
                    None => Ok(Packed {
                        bytes: text,
                        text: out,
                        digest,
                    }),
                };
                if done.send(packed).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { blocks, packed })
    }
}

fn compressor(level: i32) -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    Ok(compressor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_in_the_order_in_which_they_were_given() {
        for level in [None, Some(1)] {
            let mut packer = Packer::new(level).unwrap();
            let blocks: Vec<Vec<u8>> = (0..40)
                .map(|n| format!("{n}\n").repeat(n * 50).into_bytes())
                .collect();
            let mut packed = Vec::new();
            for block in &blocks {
                packed.extend(packer.add(block.clone(), true).unwrap());
            }
            while let Some(last) = packer.take().unwrap() {
                packed.push(last);
            }
            let bytes: Vec<u8> = packed.iter().flat_map(|packed| packed.bytes.clone()).collect();
            let text = match level {
                None => bytes,
                Some(_) => zstd::stream::decode_all(&bytes[..]).unwrap(),
            };
            assert!(text == blocks.concat());
            let mut digest = Digest::default();
            packed.iter().for_each(|packed| digest.add(packed.digest));
            let mut expected = Digest::default();
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.for_each(|line| expected.add_line(line));
            assert_eq!(digest, expected);
        }
    }
}
