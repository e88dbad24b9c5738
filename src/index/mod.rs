//! The index file of a block, as bytes: which series there are and where their chunks lie.
//!
//! This folder reads and writes the format of Prometheus (version 2, in the layout of Prometheus
//! 3.x) over plain byte slices. It knows no files: `block` does.
//!
//! - [`Draft`] takes the series of a block, one after the other in label order, and keeps them in
//!   a few bytes per label pair.
//! - [`Writer`] turns a draft into the bytes of the file, in steps short enough for a core that
//!   must go back to its intake between them.
//! - [`Reader`] answers from the bytes of a file that nobody has to have written well.
//!
//! ## Format
//!
//! All integers of fixed width are big-endian; `uvarint` is LEB128, `varint` the same after
//! zigzag; `ustr` is a uvarint length and that many bytes; `sec` is `len u32 · len bytes · CRC-32C
//! of those bytes u32`.
//!
//! ```text
//! magic    u32 baaad700 · version u8 2
//! symbols  sec: count u32 · count × ustr, sorted bytewise, unique
//! series   each at a multiple of 16: uvarint len · body · CRC-32C of body u32
//!            body: uvarint labels · labels × (uvarint symbol of name · uvarint symbol of value)
//!                  uvarint chunks · varint min_t · uvarint max_t - min_t · uvarint reference
//!                  further chunks:  uvarint min_t - max_t before · uvarint max_t - min_t
//!                                   · varint reference - reference before
//! postings at a multiple of 4, back to back: sec: count u32 · count × series u32, ascending
//! table    sec: count u32 · count × (uvarint 2 · ustr name · ustr value · uvarint offset of list)
//! toc      6 × u64: symbols, series, label indices, label offset table, postings, table
//!          · CRC-32C of the 48 bytes u32
//! ```
//!
//! A symbol is named by its position in the table, a series by its offset divided by 16 (hence an
//! index has at most 64 GiB), a chunk by [`ChunkRef`]. The first list has the empty name and value
//! and holds all series; the others follow by name and value. Label indices are what Prometheus
//! 2.x wrote; in the layout of 3.x their place in the table of contents says that there are none.
//!
//! ## What readers rely on
//!
//! Thanos takes the end of a postings list to be the offset of the next one in the table, minus
//! the checksum: so the lists lie in the order of the table without gaps. Its index header copies
//! the bytes between `symbols` and `series` and those from `table` to the end of the file: so
//! nothing may stand between or behind.

mod column;
mod draft;
mod postings;
mod reader;
mod writer;

pub(crate) mod coding;

pub use draft::{Draft, DraftError};
pub use postings::Postings;
pub use reader::{List, Reader, Series};
pub use writer::{Step, Summary, Writer};

use thiserror::Error;

use coding::Cursor;

/// First four bytes of an index.
const MAGIC: u32 = 0xbaaa_d700;

/// The one version that is written and read.
const VERSION: u8 = 2;

/// Bytes of magic and version.
const HEADER_BYTES: u64 = 5;

/// Series lie at multiples of this.
const SERIES_ALIGN: u64 = 16;

/// Postings lists lie at multiples of this.
const POSTINGS_ALIGN: u64 = 4;

/// Names a series in one index: its offset divided by 16. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesRef(pub u32);

/// Names a chunk in one block: the position of its chunk file, from 0, in the high 32 bits, and
/// the offset of its record in that file in the low 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef(pub u64);

impl ChunkRef {
    /// The record at `offset` of the chunk file at position `file`.
    pub fn new(file: u32, offset: u32) -> Self {
        Self(u64::from(file) << 32 | u64::from(offset))
    }

    /// Position of the chunk file, from 0: `chunks/000001` is 0.
    pub fn file(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Offset of the record in the file, in bytes.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

/// What the index says about a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkMeta {
    /// Time of the first sample, ms.
    pub min_t: i64,
    /// Time of the last sample, ms.
    pub max_t: i64,
    /// Where its bytes are.
    pub reference: ChunkRef,
}

/// Why bytes are not an index, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The file begins with something else.
    #[error("not an index: it begins with {magic:#010x} instead of {MAGIC:#010x}")]
    NotAnIndex {
        /// Its first four bytes.
        magic: u32,
    },
    /// A version that is not read.
    #[error("index version {version} is not read, only version {VERSION}")]
    UnsupportedVersion {
        /// The version.
        version: u8,
    },
    /// Something reaches over the end, or a field in it cannot be.
    #[error("index is damaged: {what} at byte {at} {fact}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// Where it begins.
        at: u64,
        /// What is wrong with it.
        fact: &'static str,
    },
    /// A checksum does not match.
    #[error(
        "index is damaged: {what} at byte {at} has CRC {got:08x}, its checksum says {want:08x}"
    )]
    BadChecksum {
        /// Which part.
        what: &'static str,
        /// Where it begins.
        at: u64,
        /// The stored checksum.
        want: u32,
        /// The computed one.
        got: u32,
    },
}

/// The table of contents: where the sections begin, in bytes from the start of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Toc {
    /// Symbols.
    pub symbols: u64,
    /// Series, possibly at padding before the first.
    pub series: u64,
    /// Label indices of Prometheus 2.x; without them the end of the last series.
    pub label_indices: u64,
    /// Offset table of the label indices; without them the same as `table`.
    pub label_offset_table: u64,
    /// Postings lists, possibly at padding before the first.
    pub postings: u64,
    /// The postings offset table.
    pub table: u64,
}

impl Toc {
    /// Bytes of the table of contents, at the end of the file.
    pub const BYTES: usize = 6 * 8 + 4;

    /// Mind the order: the offset table comes before the postings, which lie before it.
    fn fields(&self) -> [u64; 6] {
        let Self { symbols, series, label_indices, label_offset_table, postings, table } = *self;
        [symbols, series, label_indices, label_offset_table, postings, table]
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let from = out.len();
        for field in self.fields() {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let crc = coding::crc(&out[from..]);
        out.extend_from_slice(&crc.to_be_bytes());
    }

    fn decode(index: &[u8]) -> Result<Self, Error> {
        let what = "table of contents";
        let at = index.len().saturating_sub(Self::BYTES);
        let damaged = |fact| Error::Damaged { what, at: at as u64, fact };
        let bytes = index.get(at..).unwrap_or_default();
        let (fields, crc) = bytes.split_last_chunk::<4>().ok_or(damaged("is cut short"))?;
        check_crc(what, at as u64, fields, u32::from_be_bytes(*crc))?;
        let mut fields = Cursor::new(fields);
        let mut next = || {
            let field = fields.be64().ok_or(damaged("is cut short"))?;
            let inside = field <= at as u64;
            if inside { Ok(field) } else { Err(damaged("points over the end")) }
        };
        Ok(Self {
            symbols: next()?,
            series: next()?,
            label_indices: next()?,
            label_offset_table: next()?,
            postings: next()?,
            table: next()?,
        })
    }
}

/// Compares a stored checksum with that of `bytes`.
fn check_crc(what: &'static str, at: u64, bytes: &[u8], want: u32) -> Result<(), Error> {
    let got = coding::crc(bytes);
    if got == want { Ok(()) } else { Err(Error::BadChecksum { what, at, want, got }) }
}

#[cfg(test)]
pub(crate) mod tests;
