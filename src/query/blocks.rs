//! Which finished blocks there are on this machine, and which of them a select needs.
//!
//! The list belongs to the control plane: the flush of a shard adds to it, retention takes away. A
//! reader takes the list as it is and keeps its blocks open until it is done with them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::block::{Reader, Ulid};
use crate::model::{TenantId, TimeRange, TimeSpan};
use crate::rt::channel::watch;
use crate::shard::message::HeadFrom;

/// A finished block of one tenant, one range and one shard, open for reading.
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
    /// The block.
    pub reader: Reader,
}

/// The list of blocks. Cheap to clone; clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Blocks(Arc<watch::Sender<BlockList>>);

/// The list at one moment, in ascending order of range.
pub(crate) type BlockList = Arc<[Arc<LocalBlock>]>;

impl Blocks {
    /// Adds a block. A shard may let its head go only after this has returned.
    pub fn add(&self, block: LocalBlock) {
        self.0.send_modify(|list| {
            let mut blocks = list.to_vec();
            let at = blocks.partition_point(|other| other.range <= block.range);
            blocks.insert(at, Arc::new(block));
            *list = blocks.into();
        });
    }

    /// Takes a block out of the list; whose it was and its range, if it was there. Selects that use
    /// it go on; its files may be removed, since maps outlive names.
    pub fn remove(&self, ulid: Ulid) -> Option<(TenantId, TimeRange)> {
        let mut gone = None;
        self.0.send_modify(|list| {
            let (those, others): (Vec<_>, Vec<_>) =
                list.iter().cloned().partition(|b| b.reader.meta().ulid == ulid);
            gone = those.first().map(|block| (block.tenant.clone(), block.range));
            *list = others.into();
        });
        gone
    }

    /// The blocks now.
    pub(crate) fn now(&self) -> BlockList {
        Arc::clone(&self.0.borrow())
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
