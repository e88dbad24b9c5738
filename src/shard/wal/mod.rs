//! The log of a shard: what is acknowledged is here first.
//!
//! A commit is one block, written once and flushed once; the answers that wait for it leave after
//! the flush. Blocks lie in segments of fixed size that were written with zeros before their
//! first use and are used again, so that a flush never has to wait for the file system's journal.
//!
//! - [`format`]: the bytes of segments and block headers.
//! - [`record`]: the bytes inside a block.
//! - [`writer`]: appends blocks, moves on to the next segment; [`backlog`]: those behind it.
//! - [`reader`]: reads them back and tells a torn tail from damage.
//! - [`spare`]: segments made ready beforehand.
//! - [`series_file`]: the labels behind series numbers, for as long as the series lives.
//!
//! ## Crash
//! The log never needs repair. After a power cut the last block may be torn: it was not
//! acknowledged, the reader stops before it, and the writer goes on in that place. A write that
//! the device refuses is written again into a fresh segment; if that fails as well the log is dead
//! until the next start, and the shard refuses writes.

pub(crate) mod backlog;
pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod series_file;
pub(crate) mod spare;
pub(crate) mod writer;
