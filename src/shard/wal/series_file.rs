//! The series file: which labels stand behind which number, for as long as the series lives.
//!
//! The log tells a series once, in the block of its first sample, and goes away when its samples
//! are in blocks; samples in later segments still name the number. So every series is written here
//! too. It is a log of its own (same bytes, smaller segments) with series records only.
//!
//! ## Order
//! A segment of the log may go only when the series told in it are durable here. Until then the log
//! has them; so here a write may be late, and one write serves many series.
//!
//! ## Rewriting
//! When most of the series in it are gone, those that live are told again, in segments begun for
//! it, among those that are new meanwhile. Last of all the floor is told: below it, whoever is not
//! told here is gone. Only then do the segments before go, the oldest first.
//!
//! ## Crash
//! Either place suffices. A number told twice is told the same twice, so a rewriting that breaks
//! off has told some series twice and is begun again some day. Without the floor nobody is taken
//! for gone; with it, all that live are in what was written before it.

use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::rt::step::Step;
use crate::rt::storage::{BLOCK_BYTES, Storage};
use crate::shard::wal::backlog::Closed;
use crate::shard::wal::reader::{Position, SegmentEnd};
use crate::shard::wal::record::{Group, Newest, Untold};
use crate::shard::wal::spare::Spares;
use crate::shard::wal::writer::{Identity, Log, LogError, LogOptions, Sealed};

/// Size of a segment in bytes, when those of the log have `log_segment_bytes`: 8 MiB to 64 MiB.
pub(crate) fn segment_bytes(log_segment_bytes: u64) -> u64 {
    (log_segment_bytes / 8).max(8 * BLOCK_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64)
}

/// The series file of one shard, open for writing.
#[derive(Debug)]
pub(crate) struct SeriesFile<S: Storage> {
    log: Log<S>,
    sealed: Sealed,
    /// Records of series in it.
    told: u64,
    /// The first segment that stays; those before may go.
    first: u64,
}

impl<S: Storage> SeriesFile<S> {
    /// Opens it for writing after it was read: `told` records of series were found.
    pub(crate) async fn open(
        (storage, dir): (S, &Path),
        identity: Identity,
        options: LogOptions,
        position: &Position,
        found: Vec<(Closed, SegmentEnd)>,
        told: u64,
    ) -> io::Result<Self> {
        let size = options.segment_bytes;
        let spares = Rc::new(Spares::open(storage.clone(), dir, size, 0).await?);
        let log = Log::open((storage, dir), identity, options, spares, position, found).await?;
        Ok(Self { log, sealed: Sealed::default(), told, first: 0 })
    }

    /// Takes what the group tells, to be written. Whether there was anything.
    pub(crate) fn take(&mut self, group: &mut Group) -> bool {
        if group.is_empty() {
            return false;
        }
        self.told += group.series_count();
        self.sealed.fill(group, &mut Newest::new());
        true
    }

    /// Takes the oldest group of untold series. Whether there was anything.
    pub(crate) fn take_oldest(&mut self, untold: &mut Untold) -> bool {
        self.take(&mut untold.take_oldest())
    }

    /// Makes durable what was taken last. After an error it may be asked again.
    pub(crate) async fn write(&mut self, wall_ms: i64) -> Result<(), LogError> {
        self.log.commit(&mut self.sealed, wall_ms, |_| {}).await.map(drop)
    }

    /// Whether it is much larger than `living` series need.
    pub(crate) fn is_worth_rewriting(&self, living: u64) -> bool {
        self.log.backlog().len() > 0 && self.told > living.saturating_mul(2)
    }

    /// Begins a rewriting: returns the first segment of those that will stay.
    pub(crate) async fn begin_again(&mut self) -> u64 {
        self.told = 0;
        self.log.close_segment().await
    }

    /// Ends a rewriting: the segments before `first` may go.
    pub(crate) fn end_rewriting(&mut self, first: u64) {
        self.first = first;
    }

    /// Lets go of the segments that may go. After an error it may be asked again.
    pub(crate) async fn let_go(&self) -> Result<u64, LogError> {
        self.log.backlog().truncate(Step::SeriesSegmentGone, self.first.saturating_sub(1)).await
    }
}
