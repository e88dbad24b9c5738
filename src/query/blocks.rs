//! Which finished blocks there are on this machine, and which of them a select needs.
//!
//! The list belongs to the control plane: the flush of a shard adds to it, retention takes away. A
//! reader takes the list as it is. A listed block costs no map: it is opened when it is read, see
//! [`Readers`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::block::{Reader, Ulid};
use crate::model::{TenantId, TimeRange, TimeSpan};
use crate::query::readers::{MAPS_MAX, Readers};
use crate::rt::channel::watch;
use crate::shard::message::HeadFrom;

/// A finished block of one tenant, one range and one shard.
#[derive(Debug)]
pub struct LocalBlock {
    /// Whose data.
    pub tenant: TenantId,
    /// Its range.
    pub range: TimeRange,
    /// The shard that wrote it.
    pub shard: u16,
    /// Whether this process wrote it. Then the shard's head may still serve its time; samples of a
    /// block that was there at start are never replayed into a head.
    pub born_in_this_process: bool,
    /// Its name.
    pub ulid: Ulid,
    /// Where it is.
    pub dir: PathBuf,
}

/// The list of blocks. Cheap to clone; clones are the same list.
#[derive(Debug, Clone)]
pub struct Blocks {
    list: Arc<watch::Sender<BlockList>>,
    readers: Arc<Readers>,
}

/// The list at one moment, in ascending order of range.
pub(crate) type BlockList = Arc<[Arc<LocalBlock>]>;

impl Default for Blocks {
    fn default() -> Self {
        Self::new(MAPS_MAX)
    }
}

impl Blocks {
    /// A list whose open blocks keep to so many maps.
    pub(super) fn new(maps_max: usize) -> Self {
        Self { list: Arc::default(), readers: Arc::new(Readers::new(maps_max)) }
    }

    /// Adds a block that was just opened. A shard may let its head go only after this has returned.
    pub fn add(&self, block: LocalBlock, reader: Reader) {
        self.readers.keep(block.ulid, &Arc::new(reader));
        self.list([block]);
    }

    /// Adds blocks that nobody has opened yet: who reads one does.
    pub fn list(&self, blocks: impl IntoIterator<Item = LocalBlock>) {
        self.list.send_modify(|list| {
            let mut all = list.to_vec();
            all.extend(blocks.into_iter().map(Arc::new));
            all.sort_by_key(|block| block.range);
            *list = all.into();
        });
    }

    /// Takes a block out of the list. Reads that have begun open it again and again: its files may
    /// be removed when nobody else holds what this returns.
    pub fn remove(&self, ulid: Ulid) -> Option<Arc<LocalBlock>> {
        let mut removed = None;
        self.list.send_modify(|list| {
            removed = list.iter().find(|block| block.ulid == ulid).cloned();
            *list = list.iter().filter(|block| block.ulid != ulid).cloned().collect();
        });
        removed
    }

    /// Closes a block whose files are removed, so that the disk gets their room back.
    pub fn close(&self, ulid: Ulid) {
        self.readers.close(ulid);
    }

    /// The way to what is in the blocks.
    pub(super) fn readers(&self) -> Arc<Readers> {
        Arc::clone(&self.readers)
    }

    /// The blocks now.
    pub(crate) fn now(&self) -> BlockList {
        Arc::clone(&self.list.borrow())
    }
}

/// From when on each head serves each tenant, as their `Begin` said.
#[derive(Debug, Default)]
pub(super) struct Served(HashMap<(u16, TenantId), i64>);

impl Served {
    /// Notes what a shard said.
    pub(super) fn note(&mut self, shard: u16, from: Vec<HeadFrom>) {
        self.0.extend(from.into_iter().map(|head| ((shard, head.tenant), head.from_ms)));
    }

    /// The blocks of `list` that a select over `span` needs beside the heads. A block of which a
    /// head still holds a part is left to the head, which holds all of it.
    pub(super) fn beside(&self, list: &BlockList, span: TimeSpan) -> Vec<Arc<LocalBlock>> {
        let in_a_head = |block: &LocalBlock| {
            let from = self.0.get(&(block.shard, block.tenant.clone()));
            block.born_in_this_process && from.is_some_and(|&from| block.range.end > from)
        };
        list.iter().filter(|b| b.range.overlaps(span) && !in_a_head(b)).cloned().collect()
    }
}
