//! The series of a shard: how a key finds one, and what is kept of it.
//!
//! ## Why
//! Finding is the dearest part of an append when a million series do not fit a cache. So first the
//! successor of the last series is tried (senders repeat their order), then a table of 12-byte
//! entries; a hit compares all 128 bits of the key in a column of its own. The key is a keyed hash
//! of tenant and labels: labels are compared only when a series is made.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use hashbrown::HashTable;

use crate::chunk::xor;
use crate::model::{TenantId, TimeSpan};
use crate::rt::prefetch;
use crate::shard::head::closed::{Closed, ClosedRef};
use crate::shard::head::histograms::{End, REPEAT_BYTES_MAX};
use crate::shard::head::members::Members;
use crate::shard::head::out_of_order::OutOfOrder;
use crate::shard::head::symbols::{SymbolId, Symbols};
use crate::shard::head::tail::{TailRef, Tails};

/// Position of a series in its shard. Given again after the series is gone.
pub(crate) type SeriesIndex = u32;
/// Position of a tenant in its shard. Never given again.
pub(crate) type TenantIndex = u32;

/// What an append touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hot {
    /// End of the open chunk; empty when there is none.
    pub(crate) open: xor::Appender,
    /// Time of the first sample of the open chunk.
    pub(crate) min_t: i64,
    /// Its bytes.
    pub(crate) tail: TailRef,
}

const _: () = assert!(size_of::<Hot>() <= 64, "hot state is one cache line");

/// What is needed when a series is made, read or flushed.
#[derive(Debug)]
pub(crate) struct Cold {
    /// Whose it is.
    pub(crate) tenant: TenantIndex,
    /// Its sorted label names.
    pub(crate) shape: u32,
    /// The values to these names.
    pub(crate) values: Box<[SymbolId]>,
    /// Newest closed chunk.
    pub(crate) closed: ClosedRef,
    /// How it ends, as long as no chunk of floats is open.
    pub(crate) end: End,
    /// Whether a series is here now.
    pub(crate) alive: bool,
}

/// A sorted list of label names that series share.
#[derive(Debug, Default)]
struct Shape {
    names: Box<[SymbolId]>,
    users: u32,
}

/// A tenant of the shard.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Its name.
    pub(crate) id: TenantId,
    /// Its series.
    pub(crate) members: Members,
    /// Living series.
    pub(crate) series: u64,
    /// Samples before this are refused.
    pub(crate) cut_ms: i64,
    /// Newest sample accepted.
    pub(crate) newest_ms: i64,
    /// Oldest sample in the head; later than all when there is none.
    pub(crate) oldest_ms: i64,
    /// Oldest sample stored since a truncation began, which may have passed its series.
    pub(crate) oldest_since_ms: i64,
    /// Samples accepted since the start.
    pub(crate) samples: u64,
    /// Chunks in the head, open ones too.
    pub(crate) chunks: u64,
    /// The head serves no sample before this: what is older is in blocks, although it may still
    /// lie here.
    pub(crate) served_from_ms: i64,
    /// Whether what is older is being taken out.
    pub(crate) freeing: bool,
}

impl Tenant {
    /// Notes first and last time of samples that were stored.
    pub(crate) fn note_stored(&mut self, oldest_ms: i64, newest_ms: i64) {
        self.oldest_ms = self.oldest_ms.min(oldest_ms);
        self.oldest_since_ms = self.oldest_since_ms.min(oldest_ms);
        self.newest_ms = self.newest_ms.max(newest_ms);
    }
}

/// The head of a shard.
#[derive(Debug)]
pub(crate) struct Head {
    table: HashTable<Entry>,
    pub(crate) keys: Vec<u128>,
    pub(crate) hot: Vec<Hot>,
    pub(crate) cold: Vec<Cold>,
    /// Numbers of the series in this shard's log; 0 when the log does not know one yet.
    pub(crate) log_ids: Vec<u64>,
    successors: Vec<SeriesIndex>,
    pub(crate) free: Vec<SeriesIndex>,
    pub(crate) tails: Tails,
    pub(crate) closed: Closed,
    pub(crate) symbols: Symbols,
    shapes: Vec<Shape>,
    shape_ids: BTreeMap<Box<[SymbolId]>, u32>,
    free_shapes: Vec<u32>,
    pub(crate) tenants: Vec<Tenant>,
    tenant_ids: BTreeMap<TenantId, TenantIndex>,
    last: SeriesIndex,
    /// Samples older than the newest of their series.
    pub(crate) out_of_order: OutOfOrder,
    /// How many label values all series have together.
    pub(crate) values: usize,
    /// Bytes of all open chunks of histograms.
    pub(crate) histogram_bytes: usize,
    /// Bytes of chunks of histograms that may be read yet to know what a batch repeats.
    pub(super) repeat_bytes_left: usize,
}

/// A place in the table: the upper half of the key and the series.
#[derive(Debug, Clone, Copy)]
#[repr(C, packed(4))]
struct Entry {
    check: u64,
    index: SeriesIndex,
}

const NO_SERIES: SeriesIndex = SeriesIndex::MAX;

/// The part of a key that chooses the place in the table.
fn place(key: u128) -> u64 {
    key as u64
}

/// The part of a key that is compared in the table.
fn check(key: u128) -> u64 {
    (key >> 64) as u64
}

impl Default for Head {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            keys: Vec::new(),
            hot: Vec::new(),
            cold: Vec::new(),
            log_ids: Vec::new(),
            successors: Vec::new(),
            free: Vec::new(),
            tails: Tails::default(),
            closed: Closed::default(),
            symbols: Symbols::default(),
            shapes: Vec::new(),
            shape_ids: BTreeMap::new(),
            free_shapes: Vec::new(),
            tenants: Vec::new(),
            tenant_ids: BTreeMap::new(),
            last: NO_SERIES,
            out_of_order: OutOfOrder::default(),
            values: 0,
            histogram_bytes: 0,
            repeat_bytes_left: REPEAT_BYTES_MAX,
        }
    }
}

impl Head {
    /// The series of a key.
    #[inline]
    pub(crate) fn find(&mut self, key: u128) -> Option<SeriesIndex> {
        if let Some(&guess) = self.successors.get(self.last as usize)
            && self.keys.get(guess as usize) == Some(&key)
        {
            self.last = guess;
            return Some(guess);
        }
        let keys = &self.keys;
        let hit = |e: &Entry| e.check == check(key) && keys[e.index as usize] == key;
        let index = self.table.find(place(key), hit)?.index;
        if let Some(successor) = self.successors.get_mut(self.last as usize) {
            *successor = index;
        }
        self.last = index;
        Some(index)
    }

    /// Asks the memory for all that an append to a series will touch first.
    #[inline]
    pub(crate) fn prefetch(&self, index: SeriesIndex) {
        prefetch(&self.hot, index as usize);
        prefetch(&self.log_ids, index as usize);
    }

    /// Asks the memory for the place where a series' next bits go. Its hot state is there by now.
    #[inline]
    pub(crate) fn prefetch_tail(&self, index: SeriesIndex) {
        if let Some(hot) = self.hot.get(index as usize) {
            self.tails.prefetch(hot.tail, hot.open.len_bytes());
        }
    }

    /// Makes a series. The key must be unknown and the labels sorted.
    pub(crate) fn create<'a>(
        &mut self,
        key: u128,
        tenant: TenantIndex,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> SeriesIndex {
        let mut names = Vec::new();
        let mut values = Vec::new();
        for (name, value) in labels {
            names.push(self.symbols.intern(name));
            values.push(self.symbols.intern(value));
        }
        self.values += values.len();
        let cold = Cold {
            tenant,
            shape: self.shape(names),
            values: values.into_boxed_slice(),
            closed: ClosedRef::NONE,
            end: End::Nothing,
            alive: true,
        };
        let index = self.place_series(key, cold);
        let entry = Entry { check: check(key), index };
        let keys = &self.keys;
        let place_again = |e: &Entry| place(keys[e.index as usize]);
        self.table.insert_unique(place(key), entry, place_again);
        if let Some(successor) = self.successors.get_mut(self.last as usize) {
            *successor = index;
        }
        self.last = index;
        let owner = &mut self.tenants[tenant as usize];
        owner.members.push(index);
        owner.series += 1;
        index
    }

    /// The number of a list of names; one more user of it. A list in use has one user of each of
    /// its symbols; series that share it need none of their own.
    fn shape(&mut self, names: Vec<SymbolId>) -> u32 {
        if let Some(&shape) = self.shape_ids.get(&*names) {
            for name in names {
                self.symbols.release(name);
            }
            self.shapes[shape as usize].users += 1;
            return shape;
        }
        let names = names.into_boxed_slice();
        let shape = Shape { names: names.clone(), users: 1 };
        let id = if let Some(id) = self.free_shapes.pop() {
            self.shapes[id as usize] = shape;
            id
        } else {
            self.shapes.push(shape);
            (self.shapes.len() - 1) as u32
        };
        self.shape_ids.insert(names, id);
        id
    }

    fn release_shape(&mut self, id: u32) {
        let shape = &mut self.shapes[id as usize];
        shape.users -= 1;
        if shape.users > 0 {
            return;
        }
        let names = std::mem::take(&mut shape.names);
        self.shape_ids.remove(&names);
        self.free_shapes.push(id);
        for name in names {
            self.symbols.release(name);
        }
    }

    fn place_series(&mut self, key: u128, cold: Cold) -> SeriesIndex {
        let hot = Hot { open: xor::Appender::new(), min_t: 0, tail: TailRef::NONE };
        if let Some(index) = self.free.pop() {
            let at = index as usize;
            (self.keys[at], self.hot[at], self.cold[at]) = (key, hot, cold);
            self.log_ids[at] = 0;
            return index;
        }
        self.keys.push(key);
        self.hot.push(hot);
        self.cold.push(cold);
        self.log_ids.push(0);
        self.successors.push(NO_SERIES);
        (self.keys.len() - 1) as SeriesIndex
    }

    /// Takes a series without chunks out: its key is unknown from now on. Its position and symbols
    /// stay taken until it is released, for readers may remember them.
    pub(crate) fn remove(&mut self, index: SeriesIndex) {
        let at = index as usize;
        let key = self.keys[at];
        if let Ok(entry) = self.table.find_entry(place(key), |e| e.index == index) {
            entry.remove();
        }
        self.keys[at] = 0;
        let cold = &mut self.cold[at];
        cold.alive = false;
        self.tenants[cold.tenant as usize].series -= 1;
    }

    /// Gives position and symbols of a series that was taken out to others.
    pub(crate) fn release(&mut self, index: SeriesIndex) {
        let cold = &mut self.cold[index as usize];
        let shape = cold.shape;
        self.values -= cold.values.len();
        for value in std::mem::take(&mut cold.values) {
            self.symbols.release(value);
        }
        self.release_shape(shape);
        self.free.push(index);
    }

    /// First and last time of the open chunk of a series.
    pub(crate) fn open_span(&self, index: SeriesIndex) -> Option<TimeSpan> {
        let hot = &self.hot[index as usize];
        if hot.open.count() > 0 {
            return Some(TimeSpan { min: hot.min_t, max: hot.open.last_t() });
        }
        match &self.cold[index as usize].end {
            End::Open(open) => Some(open.span()),
            End::Nothing | End::Float(_) | End::Histogram(_) => None,
        }
    }

    /// The labels of a series, sorted by name.
    pub(crate) fn labels(
        &self,
        index: SeriesIndex,
    ) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        let cold = &self.cold[index as usize];
        let names = &self.shapes[cold.shape as usize].names;
        let pairs = names.iter().zip(&cold.values);
        pairs.map(|(&n, &v)| (self.symbols.text(n), self.symbols.text(v)))
    }

    /// The names of a series, sorted, as symbols, and the values to them.
    pub(crate) fn label_ids(&self, index: SeriesIndex) -> (u32, &[SymbolId], &[SymbolId]) {
        let cold = &self.cold[index as usize];
        (cold.shape, &self.shapes[cold.shape as usize].names, &cold.values)
    }

    /// The order of two series by their labels.
    pub(crate) fn compare_labels(&self, a: SeriesIndex, b: SeriesIndex) -> Ordering {
        let ((shape, _, left), (other, _, right)) = (self.label_ids(a), self.label_ids(b));
        if shape != other {
            return self.labels(a).cmp(self.labels(b));
        }
        let differing = left.iter().zip(right).find(|(l, r)| l != r);
        differing.map_or(Ordering::Equal, |(&l, &r)| self.symbols.text(l).cmp(self.symbols.text(r)))
    }

    /// The position of a tenant; made when it is new.
    pub(crate) fn tenant(&mut self, id: &TenantId) -> TenantIndex {
        if let Some(&index) = self.tenant_ids.get(id) {
            return index;
        }
        let index = self.tenants.len() as TenantIndex;
        self.tenant_ids.insert(id.clone(), index);
        self.tenants.push(Tenant {
            id: id.clone(),
            members: Members::default(),
            series: 0,
            cut_ms: i64::MIN,
            newest_ms: i64::MIN,
            oldest_ms: i64::MAX,
            oldest_since_ms: i64::MAX,
            samples: 0,
            chunks: 0,
            served_from_ms: i64::MIN,
            freeing: false,
        });
        index
    }

    /// The position of a tenant that is known.
    pub(crate) fn find_tenant(&self, id: &TenantId) -> Option<TenantIndex> {
        self.tenant_ids.get(id).copied()
    }

    /// How many series there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Approximate bytes of memory, by part. Asked every second, so it looks at no series.
    pub(crate) fn memory(&self) -> [(&'static str, usize); 6] {
        let series = self.keys.capacity() * 16
            + self.hot.capacity() * size_of::<Hot>()
            + self.cold.capacity() * size_of::<Cold>()
            + self.log_ids.capacity() * 8
            + self.successors.capacity() * 4
            + self.values * size_of::<SymbolId>();
        [
            ("series", series),
            ("table", self.table.capacity() * 13 * 8 / 7),
            ("symbols", self.symbols.bound() * 64 + self.symbols.text_bytes()),
            ("open_chunks", self.tails.page_bytes() + self.histogram_bytes),
            ("closed_chunks", self.closed.page_bytes()),
            ("out_of_order", self.out_of_order.heap_bytes()),
        ]
    }
}
