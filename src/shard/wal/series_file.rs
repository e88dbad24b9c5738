//! The series file: which labels stand behind which number, for as long as the series lives.
//!
//! The log tells a series once, in the block of its first sample, and goes away when its samples
//! are in blocks; samples in later segments still name the number. So every series is written here
//! too. It is a log of its own (same bytes, smaller segments) with series records only.
//!
//! ## Order
//! A segment of the log may go only after [`SeriesFile::flush`] has returned for the series in it.
//! Until then the log has them; so here a flush may be late, and one flush serves many series.
//!
//! ## Crash
//! Either place suffices. A number told twice is told the same twice.
//!
//! ## Limits
//! It grows with every series that was ever made here, about its labels in bytes each: numbers of
//! series that are gone stay.

use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::rt::storage::{BLOCK_BYTES, Storage};
use crate::shard::wal::reader::{Position, SegmentEnd};
use crate::shard::wal::record::{Group, Newest};
use crate::shard::wal::spare::Spares;
use crate::shard::wal::writer::{Closed, Identity, Log, LogError, LogOptions, Sealed};

/// Size of a segment in bytes, when those of the log have `log_segment_bytes`: 8 MiB to 64 MiB.
pub(crate) fn segment_bytes(log_segment_bytes: u64) -> u64 {
    (log_segment_bytes / 8).max(8 * BLOCK_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64)
}

/// Bytes gathered before a flush is worth its write.
const FLUSH_BYTES: usize = 1024 * 1024;

/// The series file of one shard, open for writing.
#[derive(Debug)]
pub(crate) struct SeriesFile<S: Storage> {
    log: Log<S>,
    pending: Group,
    sealed: Sealed,
    /// Whether `sealed` waits to be written, since a write failed.
    unwritten: bool,
}

impl<S: Storage> SeriesFile<S> {
    /// Opens it for writing after it was read.
    pub(crate) async fn open(
        (storage, dir): (S, &Path),
        identity: Identity,
        options: LogOptions,
        position: &Position,
        found: Vec<(Closed, SegmentEnd)>,
    ) -> io::Result<Self> {
        let size = options.segment_bytes;
        let spares = Rc::new(Spares::open(storage.clone(), dir, size, 0).await?);
        let log = Log::open((storage, dir), identity, options, spares, position, found).await?;
        let (pending, sealed) = (Group::default(), Sealed::default());
        Ok(Self { log, pending, sealed, unwritten: false })
    }

    /// Adds a series. Durable after the next [`SeriesFile::flush`].
    pub(crate) fn add(&mut self, id: u64, tenant: &str, region: &[u8]) {
        self.pending.add_series(id, tenant, region);
    }

    /// Whether enough is waiting for a flush to be worth it.
    pub(crate) fn wants_flush(&self) -> bool {
        self.pending.len_bytes() >= FLUSH_BYTES
    }

    /// Makes all that was added durable. After an error it may be asked again.
    pub(crate) async fn flush(&mut self, wall_ms: i64) -> Result<(), LogError> {
        while self.unwritten || !self.pending.is_empty() {
            if !self.unwritten {
                self.sealed.fill(&mut self.pending, &mut Newest::new());
                self.unwritten = true;
            }
            self.log.commit(&mut self.sealed, wall_ms, |_| {}).await?;
            self.unwritten = false;
        }
        Ok(())
    }
}
