//! The segments behind the one a log is written to, until nobody needs them.
//!
//! The writer adds to them and a truncation takes them away, each at its own pace: neither waits
//! for the other.
//!
//! ## Crash
//! Segments go one by one, the oldest first: a reader takes a gap for lost blocks. One that is
//! recycled has its new name durable before it is begun again, so a crash never shows it twice.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::rt::step::{self, Step};
use crate::rt::storage::Storage;
use crate::shard::wal::record::Newest;
use crate::shard::wal::spare::Spares;
use crate::shard::wal::writer::{LogError, segment_name};

/// A segment that is full or was found at start.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    /// Its number.
    pub(crate) number: u64,
    /// Newest sample per tenant.
    pub(crate) newest: Newest,
    /// Kept for ever, because something in it could not be read.
    pub(crate) damaged: bool,
    /// Its size: a segment of another size is not used again.
    pub(crate) size: u64,
}

/// The closed segments of one log, oldest first.
#[derive(Debug)]
pub(crate) struct Backlog<S: Storage> {
    storage: S,
    dir: PathBuf,
    spares: Rc<Spares<S>>,
    segments: RefCell<VecDeque<Closed>>,
}

impl<S: Storage> Backlog<S> {
    /// None yet, of the log in `dir`.
    pub(crate) fn new(storage: S, dir: PathBuf, spares: Rc<Spares<S>>) -> Self {
        Self { storage, dir, spares, segments: RefCell::default() }
    }

    /// Adds one that is newer than all.
    pub(crate) fn push(&self, segment: Closed) {
        self.segments.borrow_mut().push_back(segment);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.segments.borrow().len() as u64
    }

    /// Number of the newest; 0 when there is none.
    pub(crate) fn newest(&self) -> u64 {
        self.segments.borrow().back().map_or(0, |segment| segment.number)
    }

    /// Number of the oldest.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.segments.borrow().front().map(|segment| segment.number)
    }

    /// The first segment behind `number`: its own number, and the newest samples in it of so many
    /// tenants from `tenant` on.
    pub(crate) fn behind(
        &self,
        number: u64,
        tenant: u32,
        most: usize,
    ) -> Option<(u64, Vec<(u32, i64)>)> {
        let segments = self.segments.borrow();
        let segment = segments.get(segments.partition_point(|s| s.number <= number))?;
        let newest = segment.newest.range(tenant..).take(most).map(|(&tenant, &t)| (tenant, t));
        Some((segment.number, newest.collect()))
    }

    /// Lets go of the oldest up to number `last`: recycled while spares are wanted, else
    /// removed. After each the step `gone` is done. The caller has made durable all that a replay
    /// needs and only these segments still hold. Returns how many went.
    pub(crate) async fn truncate(&self, gone: Step, last: u64) -> Result<u64, LogError> {
        let mut count = 0;
        let first = || {
            let segments = self.segments.borrow();
            let oldest = segments.front().filter(|segment| segment.number <= last)?;
            Some((oldest.number, oldest.damaged, oldest.size))
        };
        while let Some(oldest) = first() {
            let path = self.dir.join(segment_name(oldest.0));
            let done = self.let_go(oldest, &path).await;
            done.map_err(|source| LogError::Write { path, source })?;
            step::done(gone);
            self.segments.borrow_mut().pop_front();
            count += 1;
        }
        Ok(count)
    }

    async fn let_go(
        &self,
        (number, damaged, size): (u64, bool, u64),
        path: &Path,
    ) -> io::Result<()> {
        let done = if damaged {
            // For somebody to look at.
            let kept = self.dir.join(format!("{number:016}.damaged"));
            self.storage.rename(path, &kept).await
        } else if self.spares.wants(size) {
            self.spares.recycle(path).await
        } else {
            self.storage.remove(path).await
        };
        match done {
            // An earlier try got as far as that. What is made a spare then is found at a start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        self.storage.sync_dir(&self.dir).await
    }
}
