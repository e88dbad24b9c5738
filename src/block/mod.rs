//! A block: the samples of one tenant and one time range, as a directory that never changes.
//!
//! ```text
//! 01J9ZC5V0Q8M4T6R2W7X3Y1N0P/     a ULID
//!   chunks/000001 ...              the chunks of all series, in the order of the series
//!   index                          which series there are and where their chunks lie
//!   tombstones                     empty: promtool wants the file, the bucket does not
//!   meta.json                      time range, external labels, counts; written last
//! ```
//!
//! It is the unit that leaves this machine: Prometheus, promtool and every component of Thanos
//! read it. Each file's format stands at the head of the file here that writes it; the index has a
//! folder of its own, [`crate::index`].
//!
//! - [`Writer`] takes series in label order with finished chunks, copies the chunks to a
//!   [`Sink`](crate::rt::Sink) as they come, and writes the index at the end.
//! - [`Reader`] opens a finished block for queries; [`read_meta`] only tells what it is.
//! - [`verify()`] reads all of it and believes nothing: what a Thanos Compactor would halt on.
//!
//! ## Promises
//!
//! - Level 1, its own ULID as the only source, counts exact. Half-open range `[minTime, maxTime)`,
//!   and every chunk lies inside.
//! - Chunk bytes are those that were given; encodings 1 to 3, which all readers know.
//! - The directory has its final name only when all of it is on the device.
//!
//! ## Crash
//!
//! What is found is a whole block, or a directory with the suffix of an unfinished one, which the
//! next start removes. The sink sees to it.

mod chunk_file;
pub mod filenames;
mod meta;
mod reader;
mod select;
mod tombstones;
mod verify;
mod writer;

pub use meta::{
    BlockDesc, Compaction, Downsample, FileHash, IndexStats, Meta, MetaDraft, MetaError, MetaFile,
    Stats, Thanos,
};
pub use reader::{Reader, read_meta};
pub use select::LOOK_UP;
pub use ulid::Ulid;
pub use verify::{Fault, Health, verify};
pub use writer::Writer;

use thiserror::Error;

use crate::model::TimeRange;
use crate::{chunk, index};

/// Why a block cannot be written or read.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The kernel's words.
        source: std::io::Error,
    },
    /// `meta.json` is not a block's.
    #[error("cannot use {path}: {source}")]
    Meta {
        /// The file.
        path: String,
        /// Why.
        source: MetaError,
    },
    /// The index is not whole.
    #[error(transparent)]
    Index(#[from] index::Error),
    /// The index takes no such series.
    #[error(transparent)]
    Series(#[from] index::DraftError),
    /// A chunk reaches over the range of its block.
    #[error("chunk [{min_t}, {max_t}] does not lie in the block's range {range}")]
    ChunkOutOfRange {
        /// Its first time, ms.
        min_t: i64,
        /// Its last time, ms.
        max_t: i64,
        /// The block's range.
        range: TimeRange,
    },
    /// A chunk's payload cannot be one.
    #[error(transparent)]
    Chunk(#[from] chunk::Error),
    /// A chunk has no samples.
    #[error("chunk [{min_t}, {max_t}] has no samples")]
    ChunkEmpty {
        /// Its first time, ms.
        min_t: i64,
        /// Its last time, ms.
        max_t: i64,
    },
    /// A chunk is longer than a chunk file may be.
    #[error("chunk of {len} bytes is longer than a chunk file may be")]
    ChunkTooLong {
        /// Length of its payload in bytes.
        len: usize,
    },
    /// A block without samples would be refused by its readers.
    #[error("a block without series cannot be written")]
    NoSeries,
    /// A chunk file begins with something else.
    #[error("{path} is not a chunk file of version 1")]
    NotAChunkFile {
        /// The file.
        path: String,
    },
    /// A chunk's record is not where the index says.
    #[error("chunk at byte {offset} of chunk file {file} {fact}")]
    ChunkDamaged {
        /// Position of the file, from 0.
        file: u32,
        /// Offset of the record.
        offset: u32,
        /// What is wrong with it.
        fact: &'static str,
    },
    /// A chunk's bytes do not match their checksum.
    #[error("chunk at byte {offset} of chunk file {file} has CRC {got:08x}, stored is {want:08x}")]
    BadChunkChecksum {
        /// Position of the file, from 0.
        file: u32,
        /// Offset of the record.
        offset: u32,
        /// The stored checksum.
        want: u32,
        /// The computed one.
        got: u32,
    },
    /// It was given up, for whoever asked has left.
    #[error("nobody waits for the answer any more")]
    Unwanted,
}

#[cfg(test)]
mod tests;
