//! The selected series of one block, one after the other in order of their final label sets.
//!
//! A block stores its series by their own labels, and a final set is these without the names that
//! are removed or overlaid, and with the external labels. Most of the order survives, so a block is
//! walked in its stored order, and a series is *held* until nothing smaller can come:
//!
//! - External labels turn the order around only between `{a}` and sets that begin with `{a}`, such
//!   as `{a, b}` with an external `aa`. All that is still to come has at least the key of the final
//!   labels up to the last own one of the series just read: its *bound*. So only series are held
//!   that begin the current one: no more of them than it has labels.
//! - Where a stored name is removed or overlaid, the bound does not hold. Such a block is walked
//!   twice: first to find the *strays*, those below a bound before them, which are held from then
//!   on; then the others as above.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::{mem, vec};

use bytes::Bytes;

use crate::block::{Error, Reader};
use crate::frame::{final_labels, in_shard};
use crate::index::{ChunkMeta, Series, SeriesRef};
use crate::model::{Labels, Matcher, SORT_KEY_END, TimeSpan, sort_key};
use crate::query::blocks::LocalBlock;
use crate::query::gate::Slice;
use crate::query::readers::Readers;
use crate::shard::message::Select;

/// What the cursors of a select share.
pub(super) struct Reading {
    pub(super) readers: Arc<Readers>,
    pub(super) select: Select,
    /// Those of its matchers that are not on external names.
    pub(super) on_series: Vec<Matcher>,
    /// Positions of series that a cursor may have in hand.
    pub(super) positions_max: usize,
    pub(super) budget: Budget,
    pub(super) damage: Damage,
}

/// What a select may still hold, in bytes.
#[derive(Debug)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), String> {
        let why = "the query must sort or join too many series of blocks; narrow it";
        self.0 = self.0.checked_sub(bytes).ok_or(why)?;
        Ok(())
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.0 += bytes;
    }
}

/// What could not be read: how much, and the first of it in words.
#[derive(Debug, Default)]
pub(super) struct Damage {
    pub(super) count: usize,
    pub(super) first: String,
}

impl Damage {
    pub(super) fn note(&mut self, block: &LocalBlock, what: &impl std::fmt::Display) {
        if self.count == 0 {
            self.first = format!("block {}: {what}", block.ulid);
        }
        self.count += 1;
    }
}

/// Which walk through a block it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// None yet.
    Before,
    /// The only one: the order survives.
    Only,
    /// The first of two, for the strays.
    Strays,
    /// The second of two, for the others.
    Others,
    /// No more.
    Over,
}

/// A series that is held, and its key.
type Held = (Bytes, SeriesRef);

/// Where a walk stands in a block.
pub(super) struct Cursor {
    pub(super) block: Arc<LocalBlock>,
    pub(super) external: Labels,
    walk: Walk,
    /// The next series that match, in stored order: so many as one cursor may have in hand.
    window: vec::IntoIter<SeriesRef>,
    /// After which one the next window begins; `None` if this is the last.
    rest_after: Option<SeriesRef>,
    /// No series that is still to come has a smaller key, but for strays.
    bound: Vec<u8>,
    held: BinaryHeap<Reverse<Held>>,
}

/// No series lies there.
const BEFORE_ALL: SeriesRef = SeriesRef(0);

impl Cursor {
    pub(super) fn new(block: Arc<LocalBlock>, external: Labels) -> Self {
        Self {
            block,
            external,
            walk: Walk::Before,
            window: Vec::new().into_iter(),
            rest_after: Some(BEFORE_ALL),
            bound: Vec::new(),
            held: BinaryHeap::new(),
        }
    }

    /// The next key once it is known; `None` at the end.
    pub(super) fn key(&self) -> Option<&Bytes> {
        self.held.peek().map(|Reverse((key, _))| key)
    }

    /// Takes the next series.
    pub(super) fn take(&mut self, budget: &mut Budget) -> Option<SeriesRef> {
        let Reverse((key, at)) = self.held.pop()?;
        budget.give_back(cost(&key));
        Some(at)
    }

    fn is_known(&self) -> bool {
        match self.walk {
            Walk::Before | Walk::Strays => false,
            Walk::Only | Walk::Others => self.key().is_some_and(|key| **key <= *self.bound),
            Walk::Over => true,
        }
    }

    /// Walks on until the next key is known, then true, or until the time of the step is over.
    pub(super) fn look(&mut self, with: &mut Reading, slice: Slice) -> Result<bool, String> {
        if self.is_known() {
            return Ok(true);
        }
        let reader = match with.readers.read(&self.block) {
            Ok(reader) => reader,
            Err(error) => return Ok(self.break_off(with, &error)),
        };
        let (mut series, mut key) = (Series::default(), Vec::new());
        loop {
            if let Some(at) = self.window.next() {
                match reader.series_into(at, &mut series) {
                    Ok(()) => self.walk_over(at, &series, &mut key, with)?,
                    // Was said in the first walk.
                    Err(_) if self.walk == Walk::Others => {}
                    Err(error) => with.damage.note(&self.block, &error),
                }
            } else if let Err(error) = self.next_window(&reader, with) {
                return Ok(self.break_off(with, &error));
            }
            if self.is_known() || slice.is_over() {
                return Ok(self.is_known());
            }
        }
    }

    /// Leaves out what is not walked over yet.
    fn break_off(&mut self, with: &mut Reading, error: &Error) -> bool {
        with.damage.note(&self.block, error);
        self.window = Vec::new().into_iter();
        self.walk = Walk::Over;
        true
    }

    /// Finds the series to walk over next, or begins the next walk.
    fn next_window(&mut self, reader: &Reader, with: &Reading) -> Result<(), Error> {
        if self.walk == Walk::Before {
            self.walk =
                if self.loses_labels(reader, &with.select) { Walk::Strays } else { Walk::Only };
        }
        let Some(after) = self.rest_after.take() else {
            self.window = Vec::new().into_iter();
            self.walk = if self.walk == Walk::Strays {
                self.rest_after = Some(BEFORE_ALL);
                self.bound.clear();
                Walk::Others
            } else {
                Walk::Over
            };
            return Ok(());
        };
        let found = reader.select(&with.on_series, &|| with.select.reply.is_closed())?;
        let from = found.partition_point(|at| *at <= after);
        let rest = found.get(from..).unwrap_or_default();
        let window: Vec<SeriesRef> = rest.iter().copied().take(with.positions_max).collect();
        self.rest_after = window.last().copied().filter(|_| window.len() < rest.len());
        self.window = window.into_iter();
        Ok(())
    }

    /// Whether a name that the block has is not kept in final sets with the value stored.
    fn loses_labels(&self, reader: &Reader, select: &Select) -> bool {
        let lost =
            |name| self.external.get(name).is_some() || select.without.iter().any(|w| w == name);
        reader.label_names().any(lost)
    }

    /// Holds a series if this walk is for it.
    fn walk_over(
        &mut self,
        at: SeriesRef,
        series: &Series<'_>,
        key: &mut Vec<u8>,
        with: &mut Reading,
    ) -> Result<(), String> {
        let Some(bound) = final_key(series, &self.external, &with.select, key) else {
            return Ok(());
        };
        let stray = *key < self.bound;
        if stray && self.walk == Walk::Only {
            with.damage.note(&self.block, &"its series are not in order");
        } else if stray == (self.walk == Walk::Strays) {
            with.budget.take(cost(key))?;
            self.held.push(Reverse((Bytes::copy_from_slice(key), at)));
        }
        key.truncate(bound);
        if *key > self.bound {
            mem::swap(key, &mut self.bound);
        }
        Ok(())
    }
}

/// What it costs to hold a series, in bytes.
fn cost(key: &[u8]) -> usize {
    key.len() + size_of::<Held>()
}

/// Puts the key of the final label set of a series into `key`. How much of it is the bound of what
/// comes after, in bytes; `None` if the series is not wanted.
fn final_key(
    series: &Series<'_>,
    external: &Labels,
    select: &Select,
    key: &mut Vec<u8>,
) -> Option<usize> {
    let touches = |c: &ChunkMeta| select.span.overlaps(TimeSpan { min: c.min_t, max: c.max_t });
    if !series.chunks.iter().any(touches) {
        return None;
    }
    let mut labels = Vec::with_capacity(series.labels.len() + external.len());
    final_labels(series.labels.iter().copied(), external, &select.without, &mut labels);
    if select.sharding.as_ref().is_some_and(|sharding| !in_shard(&labels, sharding)) {
        return None;
    }
    let last_own = series.labels.last().map_or("", |(name, _)| name);
    let (upto, after) = labels.split_at(labels.partition_point(|(name, _)| *name <= last_own));
    key.clear();
    sort_key(upto.iter().copied(), key);
    let bound = key.len() - SORT_KEY_END.len();
    key.truncate(bound);
    sort_key(after.iter().copied(), key);
    Some(bound)
}
