//! Readers of finished blocks, opened when they are read, of which a bounded number stays open.
//!
//! ## Promises
//! - The readers that are kept have at most [`MAPS_MAX`] maps together; who was read longest ago is
//!   closed first. Beside them only those are open that a step reads at this moment: one for each
//!   step, for no step holds two.
//! - A reader that is closed here lives on for who reads it.
//! - A map holds no file descriptor: a file is closed as soon as it is mapped.
//!
//! Opening maps files and reads the index' tables, so all of this is for the control pool alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use crate::block::{Error, Reader, Ulid};
use crate::query::LocalBlock;

/// Most maps of blocks that are kept: a quarter of the 65,530 that Linux lets a process have
/// (`vm.max_map_count`). The allocator needs of them too, and without one even memory cannot be
/// had. A block has two, and one more for each 512 MiB of chunks.
pub(super) const MAPS_MAX: usize = 16 * 1024;

#[expect(clippy::disallowed_types, reason = "threads of the control pool share it")]
type Shared = std::sync::Mutex<Open>;

/// The readers that are open.
#[derive(Debug)]
pub(super) struct Readers {
    maps_max: usize,
    open: Shared,
}

#[derive(Debug, Default)]
struct Open {
    readers: HashMap<Ulid, (Arc<Reader>, u64)>,
    /// The same by when they were used last.
    by_use: BTreeMap<u64, Ulid>,
    uses: u64,
    maps: usize,
}

impl Readers {
    pub(super) fn new(maps_max: usize) -> Self {
        Self { maps_max, open: Shared::default() }
    }

    /// The reader of a block, opened if it is not open.
    pub(super) fn read(&self, block: &LocalBlock) -> Result<Arc<Reader>, Error> {
        let found = self.with(|open| {
            let reader = open.take(block.ulid)?;
            open.put(block.ulid, &reader);
            Some(reader)
        });
        if let Some(reader) = found {
            return Ok(reader);
        }
        let reader = Arc::new(Reader::open(&block.dir)?);
        self.keep(block.ulid, &reader);
        Ok(reader)
    }

    /// Keeps a reader that is open already, and closes others for it.
    pub(super) fn keep(&self, ulid: Ulid, reader: &Arc<Reader>) {
        let closed = self.with(|open| {
            // Another step may have opened the same one meanwhile.
            let mut closed = Vec::from_iter(open.take(ulid));
            while open.maps + reader.maps() > self.maps_max {
                let Some((_, oldest)) = open.by_use.first_key_value() else { return closed };
                closed.extend(open.take(*oldest));
            }
            open.put(ulid, reader);
            closed
        });
        // Unmapping takes its time: not under the lock.
        drop(closed);
    }

    /// Closes a reader, so that the files of its block take no room on the disk any more.
    pub(super) fn close(&self, ulid: Ulid) {
        drop(self.with(|open| open.take(ulid)));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Open) -> T) -> T {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Open {
    fn take(&mut self, ulid: Ulid) -> Option<Arc<Reader>> {
        let (reader, used) = self.readers.remove(&ulid)?;
        self.by_use.remove(&used);
        self.maps -= reader.maps();
        Some(reader)
    }

    /// Puts in a reader that is not there.
    fn put(&mut self, ulid: Ulid, reader: &Arc<Reader>) {
        self.uses += 1;
        self.maps += reader.maps();
        self.by_use.insert(self.uses, ulid);
        self.readers.insert(ulid, (Arc::clone(reader), self.uses));
    }
}
