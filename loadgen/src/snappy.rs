//! Snappy (the block format) with holes: compress once, patch for ever.
//!
//! A request changes from round to round only in its values and times. This compressor works on
//! *symbols* instead of bytes, so that what will change is never the source of a copy that should
//! not follow the change:
//!
//! - a byte that never changes is its own symbol;
//! - the bytes of a value that changes are [`HOLE`]: equal to nothing, hence always literals;
//! - a byte of a time is a symbol of its step and place: all equal times change together, so
//!   copies among them stay right when the literal they go back to is patched.
//!
//! The result is an ordinary snappy block, about as small as that of the usual encoders, and the
//! map of its literals says where to patch. An element may go back up to 65,535 bytes: the format
//! allows it, although the usual encoders restart each 64 KiB.
//!
//! ```text
//! block    varint size, then elements
//! literal  size-1 << 2 | 00            (60: one size byte follows, 61: two)
//! copy 1   offset >> 8 << 5 | size-4 << 2 | 01, offset   size 4..11, offset < 2048
//! copy 2   size-1 << 2 | 10, offset, offset >> 8         size 1..64
//! ```

use crate::encode::varint;

/// The symbol that equals nothing, itself included.
pub(crate) const HOLE: u16 = u16::MAX;

/// How far back a copy may go.
const OFFSET_MAX: usize = 65_535;

/// Shorter matches do not pay.
const MATCH_MIN: usize = 4;

/// Bytes of one literal element at most: its size fits the two size bytes.
const LITERAL_MAX: usize = 65_536;

const TABLE_BITS: u32 = 14;

/// A compressed block.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// What goes on the wire.
    pub(crate) bytes: Vec<u8>,
    /// Its literals, ascending.
    pub(crate) literals: Vec<Literal>,
}

/// A run of bytes that stands in the block as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Literal {
    /// First byte in the uncompressed message.
    pub(crate) source: u32,
    /// First byte in the block.
    pub(crate) out: u32,
    pub(crate) size: u32,
}

/// Compresses `bytes`, of which `symbols` tells what may be copied. Both have one length.
pub(crate) fn compress(bytes: &[u8], symbols: &[u16]) -> Block {
    assert_eq!(bytes.len(), symbols.len());
    let mut block = Block::default();
    varint(&mut block.bytes, bytes.len() as u64);
    let mut table = vec![0u32; 1 << TABLE_BITS];
    let mut literal_start = 0;
    let mut at = 0;
    while at + MATCH_MIN <= symbols.len() {
        let slot = hash(&symbols[at..at + MATCH_MIN]);
        let candidate = table[slot] as usize;
        table[slot] = at as u32;
        let is_near = candidate < at && at - candidate <= OFFSET_MAX;
        let size = if is_near { match_size(symbols, candidate, at) } else { 0 };
        if size < MATCH_MIN {
            at += 1;
            continue;
        }
        block.literal(bytes, literal_start, at);
        block.copy(at - candidate, size);
        // Remember the end of the match too: the next one often begins there.
        let next = at + size;
        if next + MATCH_MIN <= symbols.len() + 1 {
            table[hash(&symbols[next - 1..next - 1 + MATCH_MIN])] = (next - 1) as u32;
        }
        at = next;
        literal_start = next;
    }
    block.literal(bytes, literal_start, bytes.len());
    block
}

fn hash(symbols: &[u16]) -> usize {
    let word = symbols.iter().fold(0u64, |word, symbol| word << 16 | u64::from(*symbol));
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS)) as usize
}

fn match_size(symbols: &[u16], earlier: usize, at: usize) -> usize {
    let pairs = symbols[earlier..].iter().zip(&symbols[at..]);
    pairs.take_while(|(a, b)| a == b && **a != HOLE).count()
}

impl Block {
    fn literal(&mut self, bytes: &[u8], start: usize, end: usize) {
        let mut source = start;
        while source < end {
            let size = (end - source).min(LITERAL_MAX);
            match size - 1 {
                less @ 0..60 => self.bytes.push((less as u8) << 2),
                less @ 60..256 => self.bytes.extend_from_slice(&[60 << 2, less as u8]),
                less => {
                    self.bytes.extend_from_slice(&[61 << 2, less as u8, (less >> 8) as u8]);
                }
            }
            let out = self.bytes.len() as u32;
            self.literals.push(Literal { source: source as u32, out, size: size as u32 });
            self.bytes.extend_from_slice(&bytes[source..source + size]);
            source += size;
        }
    }

    fn copy(&mut self, offset: usize, mut size: usize) {
        // Never leave a rest below 4, which no copy 1 could say.
        while size >= 68 {
            self.copy_two(offset, 64);
            size -= 64;
        }
        if size > 64 {
            self.copy_two(offset, 60);
            size -= 60;
        }
        if size < 12 && offset < 2048 {
            let tag = (offset >> 8) << 5 | (size - 4) << 2 | 1;
            self.bytes.extend_from_slice(&[tag as u8, offset as u8]);
        } else {
            self.copy_two(offset, size);
        }
    }

    fn copy_two(&mut self, offset: usize, size: usize) {
        let tag = ((size - 1) << 2 | 2) as u8;
        self.bytes.extend_from_slice(&[tag, offset as u8, (offset >> 8) as u8]);
    }

    /// Where a byte of the message stands in the block, if as a literal.
    pub(crate) fn place(&self, source: u32) -> Option<u32> {
        let after = self.literals.partition_point(|literal| literal.source <= source);
        let literal = self.literals.get(after.checked_sub(1)?)?;
        let within = source - literal.source;
        (within < literal.size).then_some(literal.out + within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn snap_reads_it_back(
            seed in prop::collection::vec((0u8..4, any::<bool>()), 0..400),
            repeat in 1usize..400,
        ) {
            let mut bytes = Vec::new();
            let mut symbols = Vec::new();
            for round in 0..repeat {
                for (byte, hole) in &seed {
                    bytes.push(byte.wrapping_add((round / 7) as u8));
                    symbols.push(if *hole { HOLE } else { u16::from(bytes[bytes.len() - 1]) });
                }
            }
            let block = compress(&bytes, &symbols);
            let back = snap::raw::Decoder::new().decompress_vec(&block.bytes).unwrap();
            prop_assert_eq!(&back, &bytes);
            for (source, symbol) in (0u32..).zip(&symbols) {
                if let Some(out) = block.place(source) {
                    prop_assert_eq!(block.bytes[out as usize], bytes[source as usize]);
                } else {
                    prop_assert_ne!(*symbol, HOLE, "a hole is always a literal");
                }
            }
        }
    }

    #[test]
    fn long_literals_and_far_copies_are_legal() {
        let mut bytes: Vec<u8> =
            (0..200_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        bytes.extend_from_within(140_000..150_000);
        for holes in [false, true] {
            let symbols: Vec<u16> =
                bytes.iter().map(|byte| if holes { HOLE } else { u16::from(*byte) }).collect();
            let block = compress(&bytes, &symbols);
            let back = snap::raw::Decoder::new().decompress_vec(&block.bytes).unwrap();
            assert!(back == bytes);
        }
    }
}
