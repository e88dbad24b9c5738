//! Reads a log: which blocks are there, in which order, and what is damaged.
//!
//! ## Promises
//! A block is delivered once, in order of sequence numbers, if it and its header are whole. What
//! is not whole is told apart:
//! - **torn tail**: nothing valid follows, in this segment or a later one. A write was under way
//!   when the power went; nobody was told it had ended. Normal.
//! - **damage**: something valid follows, a number is missing, or a block does not follow the one
//!   before it. Told with its place. The blocks after it are still read.
//!
//! A log may begin at any number: which segments were let go at its old end is not known here.
//!
//! Nothing is deleted or rewritten here.
//!
//! ## Limits
//! A length is believed only after its checksum, and never above 128 MiB. A segment is looked at as
//! one slice, as much of it as [`EndSearch`] wants; a scan for the next valid block goes in steps
//! of 4 KiB.

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
    /// A whole block that was not written behind the one that lies before it.
    Chain {
        /// Number of the segment.
        segment: u64,
        /// Number of the block.
        seq: u64,
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
            Self::Chain { segment, seq } => {
                write!(f, "segment {segment}, block {seq}: block {} was another", seq - 1)
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
    /// CRC of its payload, if it was met.
    pub(crate) payload_crc: Option<u32>,
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

/// A step through a segment.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// The next block: its number and its payload.
    Block(u64, &'a [u8]),
    /// Much was looked at and no block found yet: a moment for others.
    Pause,
    /// No block is left.
    End,
}

/// Finds out, while a segment is read from its start, whether the rest of it can hold a block.
///
/// A segment was written with zeros or is used again, so its own bytes never tell. The header of
/// the next one does: it was begun when the block before its first was durable, and nothing was
/// written behind that any more but what the device refused, which follows at once.
///
/// Goes from header to header. Where one is missing it goes no further: then all has to be read.
#[derive(Debug)]
pub(crate) struct EndSearch {
    number: u64,
    /// First block of the next segment, if that has a header.
    next_seq: Option<u64>,
    epoch: u64,
    /// The block before `look`.
    seq: u64,
    /// Where the next header is looked for; 0 before the segment's own was.
    look: usize,
}

impl EndSearch {
    /// Of the segment whose name says `number`; `next_seq` is the first block of the next one.
    pub(crate) fn new(number: u64, next_seq: Option<u64>) -> Self {
        Self { number, next_seq, epoch: 0, seq: 0, look: 0 }
    }

    /// Whether no block is behind `bytes`, which are what was read so far.
    pub(crate) fn is_over(&mut self, bytes: &[u8]) -> bool {
        if self.look == 0 {
            let Some(header) = SegmentHeader::decode(bytes) else { return false };
            if header.number != self.number {
                return true;
            }
            (self.epoch, self.seq) = (header.epoch, header.first_seq.saturating_sub(1));
            self.look = FIRST_BLOCK as usize;
        }
        while let Some(place) = bytes.get(self.look..).filter(|left| left.len() >= BLOCK_BYTES) {
            let header = BlockHeader::decode(place).filter(|header| header.epoch == self.epoch);
            let Some(header) = header else {
                return self.next_seq.is_some_and(|next| self.seq.saturating_add(1) >= next);
            };
            self.seq = header.seq;
            self.look += header.block_len();
        }
        false
    }
}

/// Places looked at for a block before others get their turn: each costs a miss of the cache.
const LOOKS: u64 = 1024;

/// Reads one segment, block by block, in order.
#[derive(Debug)]
pub(crate) struct SegmentReader<'a> {
    bytes: &'a [u8],
    number: u64,
    /// Epoch of its blocks; `None` when it holds none.
    epoch: Option<u64>,
    /// First byte after the last good block.
    end: u64,
    /// Where the next one is looked for.
    look: u64,
    blocks: u64,
    damage_before: usize,
    /// Whether the log had not begun before it.
    is_first: bool,
}

impl<'a> SegmentReader<'a> {
    /// At the start of a segment. `number` is what its name says. A file whose header tells another
    /// number was renamed for reuse and not begun before the crash: it holds nothing.
    pub(crate) fn new(bytes: &'a [u8], number: u64, at: &mut Position) -> Self {
        let (damage_before, is_first) = (at.damage.len(), !at.begun);
        let epoch = match SegmentHeader::decode(bytes) {
            Some(header) if header.number == number => {
                at.begin(&header);
                Some(header.epoch)
            }
            Some(_) => None,
            None => {
                let epoch = first_epoch_after(bytes, at.seq);
                at.damage.extend(epoch.map(|_| Damage::SegmentHeader { segment: number }));
                epoch
            }
        };
        let (end, look) = (FIRST_BLOCK, FIRST_BLOCK);
        Self { bytes, number, epoch, end, look, blocks: 0, damage_before, is_first }
    }

    /// The next block.
    pub(crate) fn next(&mut self, at: &mut Position) -> Step<'a> {
        let Some(epoch) = self.epoch else { return Step::End };
        for _ in 0..LOOKS {
            let Ok(look) = usize::try_from(self.look) else { return Step::End };
            let Some(bytes) = self.bytes.get(look..).filter(|bytes| !bytes.is_empty()) else {
                return Step::End;
            };
            let Some((header, payload)) = whole_block(bytes, |h| h.epoch == epoch) else {
                self.look += BLOCK_BYTES as u64;
                continue;
            };
            let segment = self.number;
            if self.look != self.end {
                at.damage.push(Damage::Bytes { segment, from: self.end, to: self.look });
            }
            self.look += header.block_len() as u64;
            self.end = self.look;
            if at.pass(&header, segment) {
                self.blocks += 1;
                return Step::Block(header.seq, payload);
            }
        }
        Step::Pause
    }

    /// What it turned out to hold, once no block is left.
    pub(crate) fn finish(self, at: &mut Position) -> SegmentEnd {
        let Self { epoch, end, blocks, is_first, .. } = self;
        let rest = epoch.and_then(|_| self.bytes.get(end as usize..)).unwrap_or_default();
        let epoch = epoch.unwrap_or(0);
        let torn = rest.iter().take(BLOCK_BYTES).any(|&b| b != 0);
        let torn = torn && !is_of_earlier_life(rest, epoch);
        // A write that failed may have come through all the same: its block then lies in the
        // segment before, and this one, begun for it, stayed empty. When that one was let go, this
        // is no beginning.
        at.begun &= !(is_first && blocks == 0 && !torn);
        SegmentEnd { epoch, end, blocks, torn, damaged: at.damage.len() > self.damage_before }
    }
}

/// Reads one segment at a stretch and hands its blocks to `visit`, each with its number.
pub(crate) fn read_segment(
    bytes: &[u8],
    number: u64,
    at: &mut Position,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), PayloadError>,
) -> SegmentEnd {
    let mut reader = SegmentReader::new(bytes, number, at);
    loop {
        match reader.next(at) {
            Step::Block(seq, payload) => {
                if let Err(error) = visit(seq, payload) {
                    at.damage.push(Damage::Payload { segment: number, seq, error });
                }
            }
            Step::Pause => {}
            Step::End => return reader.finish(at),
        }
    }
}

impl Position {
    /// Goes on to a segment.
    fn begin(&mut self, header: &SegmentHeader) {
        let to_seq = header.first_seq.saturating_sub(1);
        if self.begun && to_seq <= self.seq {
            return;
        }
        if self.begun {
            let (segment, from_seq) = (header.number, self.seq + 1);
            self.damage.push(Damage::Missing { segment, from_seq, to_seq });
        }
        (self.begun, self.seq, self.payload_crc) = (true, to_seq, None);
    }

    /// Goes on to a block. Whether it is one that was not met yet.
    fn pass(&mut self, header: &BlockHeader, segment: u64) -> bool {
        if self.begun && header.seq <= self.seq {
            return false;
        }
        if self.begun && header.seq > self.seq + 1 {
            let (from_seq, to_seq) = (self.seq + 1, header.seq - 1);
            self.damage.push(Damage::Missing { segment, from_seq, to_seq });
        } else if self.payload_crc.is_some_and(|crc| crc != header.previous_crc) {
            self.damage.push(Damage::Chain { segment, seq: header.seq });
        }
        self.begun = true;
        self.seq = header.seq;
        self.payload_crc = Some(header.payload_crc);
        true
    }
}

/// The block at the start of `bytes`, if its header is `wanted` and both it and the payload are
/// whole.
fn whole_block(
    bytes: &[u8],
    wanted: impl Fn(&BlockHeader) -> bool,
) -> Option<(BlockHeader, &[u8])> {
    let header = BlockHeader::decode(bytes).filter(wanted)?;
    let payload = bytes.get(BLOCK_HEADER_BYTES..)?.get(..header.payload_len as usize)?;
    (crc32c(payload) == header.payload_crc).then_some((header, payload))
}

/// The epoch of the first block that is newer than `seq`: how a segment whose header is lost still
/// tells its blocks from those of an earlier life of the file.
fn first_epoch_after(bytes: &[u8], seq: u64) -> Option<u64> {
    let places = (FIRST_BLOCK as usize..bytes.len()).step_by(BLOCK_BYTES);
    let mut whole = places.filter_map(|at| whole_block(bytes.get(at..)?, |h| h.seq > seq));
    whole.next().map(|(header, _)| header.epoch)
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
        };
        let mut bytes = header.encode();
        for &seq in seqs {
            let payload = vec![seq as u8; 5000];
            let mut block = vec![0; block_len(payload.len())];
            block[BLOCK_HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
            let header = BlockHeader {
                epoch,
                seq,
                wall_ms: 0,
                payload_len: 5000,
                payload_crc: crc32c(&payload),
                previous_crc: crc32c(&vec![(seq - 1) as u8; 5000]),
            };
            header.encode(&mut block);
            bytes.extend_from_slice(&block);
        }
        bytes.resize(SIZE, 0);
        bytes
    }

    fn read(bytes: &[u8], at: &mut Position) -> (Vec<u64>, SegmentEnd) {
        let mut seqs = Vec::new();
        let end = read_segment(bytes, 1, at, |seq, payload| {
            assert!(payload.iter().all(|&b| b == seq as u8));
            seqs.push(seq);
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
    fn a_segment_without_its_first_blocks_says_so() {
        let mut at = Position::default();
        let mut bytes = segment(1, 5, &[4, 5, 6]);
        bytes[8192 + 70] ^= 1;
        let (seqs, end) = read(&bytes, &mut at);
        assert_eq!((seqs, end.damaged), (vec![5, 6], true));
        let bytes_gone = Damage::Bytes { segment: 1, from: 8192, to: 16384 };
        let missing = Damage::Missing { segment: 1, from_seq: 4, to_seq: 4 };
        assert_eq!(at.damage, [bytes_gone, missing]);
    }

    #[test]
    fn a_log_does_not_begin_with_a_segment_that_stayed_empty() {
        let mut empty = segment(1, 4, &[4]);
        empty[8192..].fill(0);
        let mut at = Position::default();
        let (seqs, end) = read(&empty, &mut at);
        assert_eq!((seqs, end.damaged, at.seq), (vec![], false, 3));
        let (seqs, end) = read(&segment(1, 5, &[5, 6]), &mut at);
        assert_eq!((seqs, end.damaged, &at.damage[..]), (vec![5, 6], false, &[][..]));
        // A block that is torn was one.
        let mut torn = segment(1, 4, &[4]);
        torn[8192 + 70] ^= 1;
        let mut at = Position::default();
        read(&torn, &mut at);
        read(&segment(1, 5, &[5, 6]), &mut at);
        assert_eq!(at.damage, [Damage::Missing { segment: 1, from_seq: 4, to_seq: 4 }]);
    }

    #[test]
    fn a_segment_that_is_missing_is_missed_without_a_block_behind_it() {
        let mut at = Position::default();
        read(&segment(1, 5, &[1, 2]), &mut at);
        let mut begun = segment(1, 6, &[5]);
        begun[8192..].fill(0);
        let (seqs, end) = read(&begun, &mut at);
        assert_eq!((seqs, end.damaged, at.seq), (vec![], true, 4));
        assert_eq!(at.damage, [Damage::Missing { segment: 1, from_seq: 3, to_seq: 4 }]);
        let (seqs, end) = read(&segment(1, 7, &[5]), &mut at);
        assert_eq!((seqs, end.damaged), (vec![5], false));
    }

    #[test]
    fn a_block_that_follows_another_is_told_of() {
        let mut at = Position::default();
        let (mut bytes, other) = (segment(1, 5, &[1, 9, 3]), segment(1, 5, &[1, 2, 3]));
        // Block 2 with the bytes of block 9, as a misdirected write would leave it.
        let mut header = BlockHeader::decode(&bytes[16384..]).expect("a header");
        header.seq = 2;
        header.previous_crc = BlockHeader::decode(&other[16384..]).expect("a header").previous_crc;
        header.encode(&mut bytes[16384..]);
        let mut seqs = Vec::new();
        let end = read_segment(&bytes, 1, &mut at, |seq, _| {
            seqs.push(seq);
            Ok(())
        });
        assert_eq!((seqs, end.damaged), (vec![1, 2, 3], true));
        assert_eq!(at.damage, [Damage::Chain { segment: 1, seq: 3 }]);
    }

    /// What is read of `bytes`, which go on in a segment that begins with `next_seq`.
    fn needed(bytes: &[u8], next_seq: u64) -> &[u8] {
        let mut search = EndSearch::new(1, Some(next_seq));
        let mut steps = (0..=bytes.len()).step_by(BLOCK_BYTES).map(|end| &bytes[..end]);
        steps.find(|read| search.is_over(read)).unwrap_or(bytes)
    }

    #[test]
    fn what_the_next_segment_proves_empty_need_not_be_read() {
        let whole = segment(1, 5, &[1, 2, 3]);
        assert_eq!(needed(&whole, 4).len(), 8192 + 3 * 8192 + BLOCK_BYTES);
        assert_eq!(needed(&whole, 3).len(), 8192 + 3 * 8192 + BLOCK_BYTES, "a refused block");
        assert_eq!(needed(&whole, 5).len(), SIZE, "a block is missing");
        assert_eq!(needed(&segment(1, 5, &[]), 1).len(), 8192 + BLOCK_BYTES);
        assert_eq!(needed(&segment(2, 5, &[1]), 2).len(), BLOCK_BYTES, "it was not begun");
        assert!(!EndSearch::new(1, None).is_over(&whole), "nothing follows");
        for at_byte in (0..SIZE).step_by(61) {
            let mut bytes = whole.clone();
            bytes[at_byte] ^= 0x40;
            for next_seq in [3, 4, 5] {
                let (mut all, mut some) = (Position::default(), Position::default());
                let want = read(&bytes, &mut all);
                let got = read(needed(&bytes, next_seq), &mut some);
                assert_eq!((got, some), (want, all), "byte {at_byte}, then block {next_seq}");
            }
        }
    }

    #[test]
    fn any_flipped_byte_loses_at_most_one_block() {
        let whole = segment(1, 5, &[1, 2, 3]);
        for at_byte in (0..SIZE).step_by(61) {
            let mut bytes = whole.clone();
            bytes[at_byte] ^= 0x40;
            let mut seqs = Vec::new();
            let mut at = Position::default();
            read_segment(&bytes, 1, &mut at, |seq, _| {
                seqs.push(seq);
                Ok(())
            });
            assert!(seqs.len() >= 2, "byte {at_byte}: {seqs:?}");
        }
    }
}
