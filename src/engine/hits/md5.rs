//! MD5 of several texts in step: one alone is a chain of operations, each of which waits for the one before.

use wide::u32x8;

use super::scheme::Hash;

/// How many texts are hashed in step.
pub(super) const LANES: usize = 8;

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// MD5 after some whole blocks.
pub(super) type State = [u32; 4];

/// MD5 before the first block.
pub(super) const INITIAL: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// `floor(abs(sin(i + 1)) * 2^32)`.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// One step of a round, in every lane.
#[inline(always)]
fn step(state: &mut [u32x8; 4], word: u32x8, round: usize, i: usize) {
    let (shift, sine) = (SHIFTS[round][i % 4], u32x8::splat(SINES[16 * round + i]));
    let [a, b, c, d] = *state;
    let mixed = match round {
        0 => d ^ (b & (c ^ d)),
        1 => c ^ (d & (b ^ c)),
        2 => b ^ c ^ d,
        _ => c ^ (b | !d),
    };
    let sum = a + mixed + word + sine;
    let turned = (sum << shift) | (sum >> (32 - shift));
    *state = [d, turned + b, b, c];
}

/// A block in every lane.
fn compress(state: &mut [u32x8; 4], blocks: &[&[u8; BLOCK]; LANES]) {
    let words: [u32x8; 16] = std::array::from_fn(|word| {
        let of = |lane: usize| u32::from_le_bytes(blocks[lane].as_chunks::<4>().0[word]);
        u32x8::new(std::array::from_fn(of))
    });
    let before = *state;
    for (i, word) in words.iter().enumerate() {
        step(state, *word, 0, i);
    }
    for i in 0..16 {
        step(state, words[(5 * i + 1) % 16], 1, i);
    }
    for i in 0..16 {
        step(state, words[(3 * i + 5) % 16], 2, i);
    }
    for i in 0..16 {
        step(state, words[7 * i % 16], 3, i);
    }
    for (word, before) in state.iter_mut().zip(before) {
        *word += before;
    }
}

/// Adds the whole blocks of a text to each state; what is left of the text is not looked at. It is fastest where texts
/// that follow each other are of about the same length.
pub(super) fn add_blocks(states: &mut [State], texts: &[&[u8]]) {
    const NOTHING: [u8; BLOCK] = [0; BLOCK];
    for (states, texts) in states.chunks_mut(LANES).zip(texts.chunks(LANES)) {
        let mut blocks = [&[][..]; LANES];
        for (blocks, text) in blocks.iter_mut().zip(texts) {
            *blocks = text.as_chunks::<BLOCK>().0;
        }
        let mut lanes: [u32x8; 4] = std::array::from_fn(|word| {
            let of = |lane: usize| states.get(lane).map_or(0, |state| state[word]);
            u32x8::new(std::array::from_fn(of))
        });
        let most = blocks.iter().map(|blocks| blocks.len()).max().unwrap_or(0);
        for at in 0..=most {
            let mut these = [&NOTHING; LANES];
            for (lane, blocks) in blocks.iter().enumerate() {
                if let Some(block) = blocks.get(at) {
                    these[lane] = block;
                } else if at == blocks.len()
                    && let Some(state) = states.get_mut(lane)
                {
                    // What is added to this lane from here on is none of its text.
                    *state = lanes.map(|word| word.to_array()[lane]);
                }
            }
            if at < most {
                compress(&mut lanes, &these);
            }
        }
    }
}

/// The end of a text whose first blocks were added to a state: what is left of it, and its length in all.
pub(super) struct Ending {
    pub(super) state: State,
    pub(super) rest: Vec<u8>,
    pub(super) length: usize,
}

/// The hashes of texts.
pub(super) fn finish(endings: Vec<Ending>) -> Vec<Hash> {
    let (mut states, rests): (Vec<State>, Vec<Vec<u8>>) = endings
        .into_iter()
        .map(
            |Ending {
                 state,
                 mut rest,
                 length,
             }| {
                rest.push(0x80);
                let padded = (rest.len() + 8).next_multiple_of(BLOCK);
                rest.resize(padded - 8, 0);
                rest.extend_from_slice(&(8 * length as u64).to_le_bytes());
                (state, rest)
            },
        )
        .unzip();
    let rests: Vec<&[u8]> = rests.iter().map(Vec::as_slice).collect();
    add_blocks(&mut states, &rests);
    let bytes = |state: State| {
        let mut hash = Hash::default();
        for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
        hash
    };
    states.into_iter().map(bytes).collect()
}

#[cfg(test)]
mod tests {
    use md5::{Digest as _, Md5};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_in_step_have_the_hashes_that_each_has_alone(
            texts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), 0_usize..300), 0..20)
        ) {
            let begun: Vec<&[u8]> = texts.iter().map(|(text, at)| &text[..text.len().min(*at)]).collect();
            let mut states = vec![INITIAL; texts.len()];
            add_blocks(&mut states, &begun);
            let endings = texts.iter().zip(&begun).zip(states).map(|(((text, _), begun), state)| Ending {
                state,
                rest: text[begun.len() / BLOCK * BLOCK..].to_vec(),
                length: text.len(),
            });
            let expected: Vec<Hash> = texts.iter().map(|(text, _)| Md5::digest(text).into()).collect();
            prop_assert_eq!(finish(endings.collect()), expected);
        }
    }
}
