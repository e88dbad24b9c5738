//! The file of deleted ranges. A block written here has none, but promtool 2.x and older tools
//! want the file. It is not shipped: Thanos neither uploads nor reads it.
//!
//! ## Format
//!
//! ```text
//! magic u32 0130ba30 · version u8 1 · ranges · CRC-32C of the ranges u32
//! range: uvarint series · varint min_t · varint max_t (included)
//! ```

/// The file without a range. The checksum of nothing is zero.
pub(super) const EMPTY: [u8; 9] = [0x01, 0x30, 0xba, 0x30, 1, 0, 0, 0, 0];
