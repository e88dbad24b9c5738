//! Reads a log: which blocks are there, in which order, and what is damaged.
//!
//! ## Promises
//! A block is delivered once, in order of sequence numbers, if it and its header are whole. What
//! is not whole is told apart:
//! - **torn tail**: nothing valid follows, in this segment or a later one. A write was under way
//!   when the power went; nobody was told it had ended. Normal.
//! - **damage**: something valid follows, or a number is missing. Told with its place, and with
//!   whether it lies below what was known to be durable. The blocks after it are still read.
//!
//! Nothing is deleted or rewritten here.
//!
//! ## Limits
//! A length is believed only after its checksum, and never above 128 MiB. A segment is looked at as
//! one slice; a scan for the next valid block goes in steps of 4 KiB.

use std::fmt;

use crate::rt::storage::BLOCK_BYTES;
use crate::shard::wal::format::{BLOCK_HEADER_BYTES, BlockHeader, FIRST_BLOCK, SegmentHeader};
use crate::shard::wal::record::PayloadError;
use crate::stdx::crc32c;

/// Something that should be there and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Neither copy of a segment's header is whole, but blocks of the log are behind it.
    SegmentHeader {
        /// Number of the segment.
        segment: u64,
    },
    /// Bytes that are no block, with a block after them.
    Bytes {
        /// Number of the segment.
        segment: u64,
        /// First bad byte.
        from: u64,
        /// First byte of the next good block.
        to: u64,
    },
    /// Blocks that no segment holds.
    Missing {
        /// Segment in which the gap was noticed.
        segment: u64,
        /// First missing number.
        from_seq: u64,
        /// Last missing number.
        to_seq: u64,
    },
    /// A block with good checksums whose records do not follow the format.
    Payload {
        /// Number of the segment.
        segment: u64,
        /// Number of the block.
        seq: u64,
        /// What was wrong.
        error: PayloadError,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SegmentHeader { segment } => {
                write!(f, "segment {segment}: both copies of the header are damaged")
            }
            Self::Bytes { segment, from, to } => {
                write!(f, "segment {segment}: bytes {from} to {to} are no block")
            }
            Self::Missing { segment, from_seq, to_seq } => {
                write!(f, "segment {segment}: blocks {from_seq} to {to_seq} are missing")
            }
            Self::Payload { segment, seq, error } => {
                write!(f, "segment {segment}, block {seq}: {error}")
            }
        }
    }
}

/// Where the reading of a log has come to. Carried from segment to segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Number of the last block delivered; 0 before the first.
    pub(crate) seq: u64,
    /// CRC of its payload.
    pub(crate) payload_crc: u32,
    /// Highest number any block said to be durable.
    pub(crate) durable_seq: u64,
    /// Wall clock of the last block, in milliseconds.
    pub(crate) wall_ms: i64,
    /// Whether the log's first block has been met: a log may begin at any number.
    pub(crate) begun: bool,
    /// What was damaged so far.
    pub(crate) damage: Vec<Damage>,
}

/// What a segment turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// Epoch of its blocks.
    pub(crate) epoch: u64,
    /// First byte after its last good block.
    pub(crate) end: u64,
    /// Blocks delivered.
    pub(crate) blocks: u64,
    /// Bytes after the end that are not zero and no block: the mark of a torn write.
    pub(crate) torn: bool,
    /// Whether something in it was damaged, so that the file must be kept.
    pub(crate) damaged: bool,
}

/// Reads one segment and hands its blocks to `visit`, in order.
///
/// `number` is what its name says. A file whose header tells another number was renamed for reuse
/// and not begun before the crash: it holds nothing.
pub(crate) fn read_segment(
    bytes: &[u8],
    number: u64,
    at: &mut Position,
    mut visit: impl FnMut(&BlockHeader, &[u8]) -> Result<(), PayloadError>,
) -> SegmentEnd {
    let damage_before = at.damage.len();
    let (epoch, header_lost) = match SegmentHeader::decode(bytes) {
        Some(header) if header.number == number => (Some(header.epoch), false),
        Some(_) => (None, false),
        None => (first_epoch_after(bytes, at.seq), true),
    };
    let Some(epoch) = epoch else {
        return SegmentEnd { epoch: 0, end: FIRST_BLOCK, blocks: 0, torn: false, damaged: false };
    };
    if header_lost {
        at.damage.push(Damage::SegmentHeader { segment: number });
    }
    let mut end = FIRST_BLOCK;
    let mut blocks = 0;
    while let Some((start, header, payload)) = next_block(bytes, end, epoch) {
        if start != end {
            at.damage.push(Damage::Bytes { segment: number, from: end, to: start });
        }
        end = start + header.block_len() as u64;
        if at.begun && header.seq <= at.seq {
            continue;
        }
        if at.begun && header.seq > at.seq + 1 {
            let (from_seq, to_seq) = (at.seq + 1, header.seq - 1);
            at.damage.push(Damage::Missing { segment: number, from_seq, to_seq });
        }
        at.begun = true;
        at.seq = header.seq;
        at.payload_crc = header.payload_crc;
        at.durable_seq = at.durable_seq.max(header.durable_seq);
        at.wall_ms = header.wall_ms;
        blocks += 1;
        if let Err(error) = visit(&header, payload) {
            at.damage.push(Damage::Payload { segment: number, seq: header.seq, error });
        }
    }
    let rest = bytes.get(end as usize..).unwrap_or_default();
    let torn = rest.iter().take(BLOCK_BYTES).any(|&b| b != 0) && !is_of_earlier_life(rest, epoch);
    SegmentEnd { epoch, end, blocks, torn, damaged: at.damage.len() > damage_before }
}

/// The first whole block of `epoch` at or after `from`, by steps of 4 KiB.
fn next_block(bytes: &[u8], from: u64, epoch: u64) -> Option<(u64, BlockHeader, &[u8])> {
    let mut start = from;
    loop {
        let block = bytes.get(usize::try_from(start).ok()?..).filter(|b| !b.is_empty())?;
        match whole_block(block) {
            Some((header, payload)) if header.epoch == epoch => {
                return Some((start, header, payload));
            }
            _ => start += BLOCK_BYTES as u64,
        }
    }
}

/// The block at the start of `bytes`, if header and payload are whole.
fn whole_block(bytes: &[u8]) -> Option<(BlockHeader, &[u8])> {
    let header = BlockHeader::decode(bytes)?;
    let payload = bytes.get(BLOCK_HEADER_BYTES..)?.get(..header.payload_len as usize)?;
    (crc32c(payload) == header.payload_crc).then_some((header, payload))
}

/// The epoch of the first block that is newer than `seq`: how a segment whose header is lost still
/// tells its blocks from those of an earlier life of the file.
fn first_epoch_after(bytes: &[u8], seq: u64) -> Option<u64> {
    let blocks = bytes.get(FIRST_BLOCK as usize..)?.chunks(BLOCK_BYTES).enumerate();
    let whole = blocks
        .filter_map(|(i, _)| whole_block(bytes.get(FIRST_BLOCK as usize + i * BLOCK_BYTES..)?));
    whole.map(|(header, _)| header).find(|h| h.seq > seq).map(|h| h.epoch)
}

/// Whether an earlier life of the file left a header here: not torn, just not zero.
fn is_of_earlier_life(bytes: &[u8], epoch: u64) -> bool {
    BlockHeader::decode(bytes).is_some_and(|header| header.epoch != epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::wal::format::block_len;

    const SIZE: usize = 64 * 1024;

    fn segment(number: u64, epoch: u64, seqs: &[u64]) -> Vec<u8> {
        let header = SegmentHeader {
            shard: 0,
            generation: 1,
            number,
            epoch,
            node: [1; 16],
            first_seq: seqs.first().copied().unwrap_or(1),
            size: SIZE as u64,
            slots: [0xff; 32],
        };
        let mut bytes = header.encode();
        for &seq in seqs {
            let payload = vec![seq as u8; 5000];
            let mut block = vec![0; block_len(payload.len())];
            block[BLOCK_HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
            let header = BlockHeader {
                epoch,
                seq,
                durable_seq: seq - 1,
                wall_ms: 0,
                payload_len: 5000,
                payload_crc: crc32c(&payload),
                previous_crc: 0,
                flags: 0,
            };
            header.encode(&mut block);
            bytes.extend_from_slice(&block);
        }
        bytes.resize(SIZE, 0);
        bytes
    }

    fn read(bytes: &[u8], at: &mut Position) -> (Vec<u64>, SegmentEnd) {
        let mut seqs = Vec::new();
        let end = read_segment(bytes, 1, at, |header, payload| {
            assert!(payload.iter().all(|&b| b == header.seq as u8));
            seqs.push(header.seq);
            Ok(())
        });
        (seqs, end)
    }

    #[test]
    fn a_whole_segment() {
        let mut at = Position::default();
        let (seqs, end) = read(&segment(1, 5, &[10, 11, 12]), &mut at);
        assert_eq!(seqs, [10, 11, 12]);
        assert_eq!((end.torn, end.damaged, end.end), (false, false, 8192 + 3 * 8192));
        assert_eq!(at.damage, []);
    }

    #[test]
    fn a_torn_tail_is_normal() {
        let mut bytes = segment(1, 5, &[1, 2, 3]);
        bytes[8192 + 2 * 8192 + 4096..][..512].fill(0xee);
        let mut at = Position::default();
        let (seqs, end) = read(&bytes, &mut at);
        assert_eq!((seqs, end.torn, end.damaged), (vec![1, 2], true, false));
    }

    #[test]
    fn damage_in_the_middle_costs_one_block() {
        let mut bytes = segment(1, 5, &[1, 2, 3]);
        bytes[8192 + 8192 + 100] ^= 1;
        let mut at = Position::default();
        let (seqs, end) = read(&bytes, &mut at);
        assert_eq!((seqs, end.damaged), (vec![1, 3], true));
        let bytes_gone = Damage::Bytes { segment: 1, from: 16384, to: 24576 };
        let missing = Damage::Missing { segment: 1, from_seq: 2, to_seq: 2 };
        assert_eq!(at.damage, [bytes_gone, missing]);
    }

    #[test]
    fn blocks_of_an_earlier_life_are_not_read() {
        let mut bytes = segment(1, 4, &[1, 2, 3, 4]);
        let fresh = segment(1, 5, &[7]);
        bytes[..16384].copy_from_slice(&fresh[..16384]);
        let mut at = Position { seq: 6, begun: true, ..Position::default() };
        let (seqs, end) = read(&bytes, &mut at);
        assert_eq!((seqs, end.damaged, end.torn), (vec![7], false, false));
    }

    #[test]
    fn a_file_that_was_renamed_but_not_begun_is_empty() {
        let mut at = Position { seq: 6, begun: true, ..Position::default() };
        let (seqs, end) = read(&segment(9, 4, &[1, 2]), &mut at);
        assert_eq!((seqs, end.damaged), (vec![], false));
        let (seqs, end) = read(&vec![0; SIZE], &mut at);
        assert_eq!((seqs, end.damaged), (vec![], false));
        let mut torn = segment(1, 4, &[1, 2]);
        torn[..8192].fill(3);
        let (seqs, end) = read(&torn, &mut at);
        assert_eq!((seqs, end.damaged), (vec![], false), "old blocks behind a torn header");
    }

    #[test]
    fn blocks_behind_a_lost_header_are_saved() {
        let mut bytes = segment(1, 5, &[7, 8]);
        bytes[..8192].fill(3);
        let mut at = Position { seq: 6, begun: true, ..Position::default() };
        let (seqs, end) = read(&bytes, &mut at);
        assert_eq!((seqs, end.damaged), (vec![7, 8], true));
        assert_eq!(at.damage, [Damage::SegmentHeader { segment: 1 }]);
    }

    #[test]
    fn a_block_written_twice_is_read_once() {
        let mut at = Position::default();
        let (first, _) = read(&segment(1, 5, &[1, 2]), &mut at);
        let (second, end) = read(&segment(1, 6, &[2, 3]), &mut at);
        assert_eq!((first, second, end.damaged), (vec![1, 2], vec![3], false));
    }

    #[test]
    fn any_flipped_byte_loses_at_most_one_block() {
        let whole = segment(1, 5, &[1, 2, 3]);
        for at_byte in (0..SIZE).step_by(61) {
            let mut bytes = whole.clone();
            bytes[at_byte] ^= 0x40;
            let mut seqs = Vec::new();
            let mut at = Position::default();
            read_segment(&bytes, 1, &mut at, |header, _| {
                seqs.push(header.seq);
                Ok(())
            });
            assert!(seqs.len() >= 2, "byte {at_byte}: {seqs:?}");
        }
    }
}
