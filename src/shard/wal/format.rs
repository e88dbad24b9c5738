//! The bytes of a log segment: its header and the headers of its commit blocks.
//!
//! ## Format
//! All integers little-endian. A segment is a file of fixed size, zero-written before its first
//! use, and used again under a new epoch.
//!
//! ```text
//! segment   0      segment header, padded with zeros to 4096
//!           4096   the same again: one bad sector does not lose a segment
//!           8192   commit blocks, each at a multiple of 4096, until the first that is none
//!
//! segment header, 120 bytes
//!   0  magic "TGLS"       4  CRC-32C of bytes 8..120
//!   8  format version     12 shard              16 generation of the slot table
//!   24 segment number     32 epoch              40 node id (16)
//!   56 first sequence number of a block in it   64 segment size in bytes
//!   72 reserved (48)
//!
//! block header, 64 bytes, then the payload, then zeros up to a multiple of 4096
//!   0  magic "TGLB"       4  CRC-32C of bytes 8..64
//!   8  epoch of the segment                     16 sequence number
//!   24 reserved (8)       32 wall clock, ms     40 payload length
//!   44 payload CRC-32C    48 payload CRC of the block before
//!   52 reserved (12)
//! ```
//!
//! The header has a checksum of its own, so a bad length is never trusted. The epoch is random and
//! tells a block from the leftover of an earlier life of the file. The first number, the number and
//! the CRC of the block before catch lost and misdirected writes; node and shard catch a segment
//! that was put into another directory. A block is begun when the one before is durable: whatever
//! is missing before a whole block was there.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::rt::storage::BLOCK_BYTES;
use crate::stdx::crc32c;

/// Where the first block of a segment lies: behind two headers.
pub(crate) const FIRST_BLOCK: u64 = 2 * BLOCK_BYTES as u64;
/// Length of a block header in bytes.
pub(crate) const BLOCK_HEADER_BYTES: usize = 64;
/// Longest payload of a block. A reader takes no longer length for true.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Version of the format.
pub(crate) const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 4] = *b"TGLS";
const BLOCK_MAGIC: [u8; 4] = *b"TGLB";

/// A segment header as it lies on the device.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSegmentHeader {
    magic: [u8; 4],
    crc: U32,
    version: U32,
    shard: U32,
    generation: U64,
    number: U64,
    epoch: U64,
    node: [u8; 16],
    first_seq: U64,
    size: U64,
    reserved: [u8; 48],
}

/// A block header as it lies on the device.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlockHeader {
    magic: [u8; 4],
    crc: U32,
    epoch: U64,
    seq: U64,
    reserved: [u8; 8],
    wall_ms: U64,
    payload_len: U32,
    payload_crc: U32,
    previous_crc: U32,
    reserved_too: [u8; 12],
}

const _: () = assert!(size_of::<RawSegmentHeader>() == 120);
const _: () = assert!(size_of::<RawBlockHeader>() == BLOCK_HEADER_BYTES);

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Shard that wrote it.
    pub(crate) shard: u16,
    /// Generation of the slot table it was written under.
    pub(crate) generation: u64,
    /// Position in the shard's log: segments follow each other by number.
    pub(crate) number: u64,
    /// Random number of this life of the file.
    pub(crate) epoch: u64,
    /// The data directory it belongs to.
    pub(crate) node: [u8; 16],
    /// Sequence number of its first block.
    pub(crate) first_seq: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
}

impl SegmentHeader {
    /// Both copies of the header, ready to be written at position 0.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut raw = RawSegmentHeader {
            magic: SEGMENT_MAGIC,
            crc: 0.into(),
            version: FORMAT_VERSION.into(),
            shard: u32::from(self.shard).into(),
            generation: self.generation.into(),
            number: self.number.into(),
            epoch: self.epoch.into(),
            node: self.node,
            first_seq: self.first_seq.into(),
            size: self.size.into(),
            reserved: [0; 48],
        };
        raw.crc = crc32c(&raw.as_bytes()[8..]).into();
        let mut out = vec![0; FIRST_BLOCK as usize];
        for copy in out.chunks_exact_mut(BLOCK_BYTES) {
            copy[..size_of::<RawSegmentHeader>()].copy_from_slice(raw.as_bytes());
        }
        out
    }

    /// The header from the first bytes of a segment: the first copy that is whole.
    /// `None` when neither is, or when it is of another version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let raw = whole_header(bytes).filter(|raw| raw.version.get() == FORMAT_VERSION)?;
        Some(Self {
            shard: raw.shard.get() as u16,
            generation: raw.generation.get(),
            number: raw.number.get(),
            epoch: raw.epoch.get(),
            node: raw.node,
            first_seq: raw.first_seq.get(),
            size: raw.size.get(),
        })
    }

    /// The version of a header that is whole, whichever it is.
    pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
        whole_header(bytes).map(|raw| raw.version.get())
    }
}

fn whole_header(bytes: &[u8]) -> Option<RawSegmentHeader> {
    bytes.chunks(BLOCK_BYTES).take(2).find_map(|copy| {
        let (raw, _) = RawSegmentHeader::read_from_prefix(copy).ok()?;
        let whole = raw.magic == SEGMENT_MAGIC && raw.crc.get() == crc32c(&raw.as_bytes()[8..]);
        whole.then_some(raw)
    })
}

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// Epoch of its segment.
    pub(crate) epoch: u64,
    /// Its number; blocks of a shard's log count up by one.
    pub(crate) seq: u64,
    /// Wall clock when it was written, in milliseconds.
    pub(crate) wall_ms: i64,
    /// Length of the payload in bytes.
    pub(crate) payload_len: u32,
    /// CRC-32C of the payload.
    pub(crate) payload_crc: u32,
    /// CRC-32C of the payload of the block before.
    pub(crate) previous_crc: u32,
}

impl BlockHeader {
    /// Writes the header into the first bytes of a block.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        let mut raw = RawBlockHeader {
            magic: BLOCK_MAGIC,
            crc: 0.into(),
            epoch: self.epoch.into(),
            seq: self.seq.into(),
            reserved: [0; 8],
            wall_ms: (self.wall_ms as u64).into(),
            payload_len: self.payload_len.into(),
            payload_crc: self.payload_crc.into(),
            previous_crc: self.previous_crc.into(),
            reserved_too: [0; 12],
        };
        raw.crc = crc32c(&raw.as_bytes()[8..]).into();
        block[..BLOCK_HEADER_BYTES].copy_from_slice(raw.as_bytes());
    }

    /// The header at the start of `bytes`, if one is there and whole.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = RawBlockHeader::read_from_prefix(bytes).ok()?;
        let whole = raw.magic == BLOCK_MAGIC
            && raw.crc.get() == crc32c(&raw.as_bytes()[8..])
            && raw.payload_len.get() as usize <= PAYLOAD_BYTES_MAX;
        whole.then(|| Self {
            epoch: raw.epoch.get(),
            seq: raw.seq.get(),
            wall_ms: raw.wall_ms.get() as i64,
            payload_len: raw.payload_len.get(),
            payload_crc: raw.payload_crc.get(),
            previous_crc: raw.previous_crc.get(),
        })
    }

    /// Bytes the block takes in the segment.
    pub(crate) fn block_len(&self) -> usize {
        block_len(self.payload_len as usize)
    }
}

/// Bytes a block of a payload takes in a segment: header, payload, padding.
pub(crate) fn block_len(payload_len: usize) -> usize {
    (BLOCK_HEADER_BYTES + payload_len).next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_damage_shows() {
        let header = SegmentHeader {
            shard: 3,
            generation: 7,
            number: 9,
            epoch: 0x1234_5678_9abc_def0,
            node: [7; 16],
            first_seq: 100,
            size: 1 << 20,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header.clone()));
        for at in 0..120 {
            let mut one = bytes.clone();
            one[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&one), Some(header.clone()), "first copy, byte {at}");
            one[BLOCK_BYTES + at] ^= 1;
            assert_eq!(SegmentHeader::decode(&one), None, "both copies, byte {at}");
        }
    }

    #[test]
    fn every_byte_of_a_block_header_is_covered() {
        let header = BlockHeader {
            epoch: 1,
            seq: 2,
            wall_ms: -5,
            payload_len: 77,
            payload_crc: 8,
            previous_crc: 9,
        };
        let mut bytes = vec![0; BLOCK_HEADER_BYTES];
        header.encode(&mut bytes);
        assert_eq!(BlockHeader::decode(&bytes), Some(header));
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert_eq!(BlockHeader::decode(&bytes), None, "byte {at}");
            bytes[at] ^= 0x10;
        }
        assert_eq!(BlockHeader::decode(&bytes[..63]), None);
    }
}
