//! A select over finished blocks: all of them as one source, read in steps on the control pool.
//!
//! A block stores its series by their own labels, but a stream is ordered by the final ones, and
//! adding a constant label can turn the order of two sets around (`{a}` and `{a, b}` with an
//! external `aa`). It rarely does. So a block is gone through once to find the series that stand
//! wrong: those are kept with their keys and sorted, the *strays*; all others are read again, in
//! stored order, when their turn comes, and cost four bytes each until then.
//!
//! ## Promises
//! - Parts are ascending by key; chunks of one label set from several blocks go into one run of
//!   frames, in order of time.
//! - A damaged series or chunk, or a block that cannot be opened, is left out and the rest answers;
//!   the damage is said at the end.
//! - A step ends by itself after one part, so a slow client holds no thread of the pool; between
//!   steps and blocks, and every [`LOOK_UP`] series of one, it is noticed that nobody listens any
//!   more. Until then the select's turn lasts.
//! - A block is opened anew for each series that is read of it. That costs little while it is still
//!   open, and a select over any number of blocks holds one of them at a time.
//! - Strays are counted against the select's budget.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::{iter, vec};

use bytes::Bytes;

use crate::block::{Error, LOOK_UP, Reader};
use crate::chunk::{Chunk, Encoding};
use crate::frame::{self, Frame, final_labels, in_shard};
use crate::index::{Series, SeriesRef};
use crate::model::{Labels, TimeSpan, sort_key};
use crate::query::blocks::LocalBlock;
use crate::query::gate::Turn;
use crate::query::readers::Readers;
use crate::rt::beside;
use crate::shard::message::{PART_BYTES, Part, Select};

/// Runs a select over `blocks` and sends the parts to its reply channel.
pub(super) fn start(
    blocks: Vec<Arc<LocalBlock>>,
    readers: Arc<Readers>,
    select: Select,
    stray_bytes_max: usize,
    turn: Turn,
) {
    beside::spawn(async move {
        let reply = select.reply.clone();
        let open = move || BlockSelect::open(blocks, readers, select, stray_bytes_max);
        let mut step = match turn.step(open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(why)) => return drop(reply.send(Part::Failed(why)).await),
            Err(broken) => return drop(reply.send(Part::Failed(broken.to_string())).await),
        };
        loop {
            let read = move || {
                let part = step.next_part();
                (step, part)
            };
            let part = match turn.step(read).await {
                Ok((after, part)) => {
                    step = after;
                    part
                }
                Err(broken) => return drop(reply.send(Part::Failed(broken.to_string())).await),
            };
            let last = matches!(part, Part::End | Part::Failed(_));
            if reply.send(part).await.is_err() || last {
                return;
            }
        }
    });
}

/// What is left of a select.
struct BlockSelect {
    cursors: Vec<Cursor>,
    /// The next key of every cursor that has one; cursors are in order of their blocks' ranges.
    heap: BinaryHeap<Reverse<(Bytes, usize)>>,
    readers: Arc<Readers>,
    select: Select,
    series_left: usize,
    damage: Damage,
}

/// What could not be read: how much, and the first of it in words.
#[derive(Debug, Default)]
struct Damage {
    count: usize,
    first: String,
}

impl Damage {
    fn note(&mut self, block: &LocalBlock, what: &impl std::fmt::Display) {
        if self.count == 0 {
            self.first = format!("block {}: {what}", block.ulid);
        }
        self.count += 1;
    }
}

/// The selected series of one block, in order of their final label sets.
struct Cursor {
    block: Arc<LocalBlock>,
    external: Labels,
    /// Series that stand in order already.
    ordered: vec::IntoIter<SeriesRef>,
    /// The next of them with its key.
    ahead: Option<(Bytes, SeriesRef)>,
    /// Those that do not, sorted by key.
    strays: iter::Peekable<vec::IntoIter<(Bytes, SeriesRef)>>,
}

/// The key of the final label set of a series, and the series, if it is wanted.
struct Wanted<'s> {
    select: &'s Select,
    external: &'s Labels,
}

impl Wanted<'_> {
    /// Puts the key into `key`. False if the series is not wanted.
    fn key(&self, series: &Series<'_>, key: &mut Vec<u8>) -> bool {
        let span = self.select.span;
        let touches =
            |c: &crate::index::ChunkMeta| span.overlaps(TimeSpan { min: c.min_t, max: c.max_t });
        if !series.chunks.iter().any(touches) {
            return false;
        }
        let mut labels = Vec::with_capacity(series.labels.len() + self.external.len());
        let own = series.labels.iter().copied();
        final_labels(own, self.external, &self.select.without, &mut labels);
        if self.select.sharding.as_ref().is_some_and(|s| !in_shard(&labels, s)) {
            return false;
        }
        key.clear();
        sort_key(labels, key);
        true
    }
}

impl Cursor {
    /// Finds the series of a block; `None` if there are none. `budget` is what strays may take.
    fn open(
        block: Arc<LocalBlock>,
        external: Labels,
        readers: &Readers,
        select: &Select,
        budget: &mut usize,
        damage: &mut Damage,
    ) -> Result<Option<Self>, String> {
        let (_, on_series) = select.external.split(&select.matchers);
        let unwanted = || select.reply.is_closed();
        let opened = readers.read(&block).and_then(|reader| {
            let found = reader.select(&on_series, &unwanted)?;
            Ok((reader, found))
        });
        let (reader, found) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                damage.note(&block, &error);
                return Ok(None);
            }
        };
        let wanted = Wanted { select, external: &external };
        let (mut ordered, mut strays) = (Vec::new(), Vec::new());
        let (mut newest, mut key) = (Vec::new(), Vec::new());
        let mut series = Series::default();
        for (i, at) in found.into_iter().enumerate() {
            if i % LOOK_UP == 0 && unwanted() {
                return Err("nobody listens any more".into());
            }
            if let Err(error) = reader.series_into(at, &mut series) {
                damage.note(&block, &error);
                continue;
            }
            if !wanted.key(&series, &mut key) {
                continue;
            }
            if key >= newest {
                std::mem::swap(&mut newest, &mut key);
                ordered.push(at);
            } else {
                let cost = key.len() + size_of::<(Bytes, SeriesRef)>();
                *budget = budget
                    .checked_sub(cost)
                    .ok_or("the query must sort too many series of blocks; narrow it")?;
                strays.push((Bytes::copy_from_slice(&key), at));
            }
        }
        if ordered.is_empty() && strays.is_empty() {
            return Ok(None);
        }
        strays.sort_unstable();
        let (ordered, strays) = (ordered.into_iter(), strays.into_iter().peekable());
        Ok(Some(Self { block, external, ordered, ahead: None, strays }))
    }

    /// The next key, without taking it.
    fn peek(&mut self, readers: &Readers, select: &Select, damage: &mut Damage) -> Option<Bytes> {
        if self.ahead.is_none() && self.ordered.len() > 0 {
            self.ahead = self.next_ordered(readers, select, damage).unwrap_or_else(|error| {
                damage.note(&self.block, &error);
                self.ordered = Vec::new().into_iter();
                None
            });
        }
        let stray = self.strays.peek().map(|(key, _)| key);
        match (&self.ahead, stray) {
            (Some((ahead, _)), Some(stray)) => Some(ahead.min(stray).clone()),
            (Some((ahead, _)), None) => Some(ahead.clone()),
            (None, stray) => stray.cloned(),
        }
    }

    /// The next series that stands in order.
    fn next_ordered(
        &mut self,
        readers: &Readers,
        select: &Select,
        damage: &mut Damage,
    ) -> Result<Option<(Bytes, SeriesRef)>, Error> {
        let reader = readers.read(&self.block)?;
        let wanted = Wanted { select, external: &self.external };
        let (mut series, mut key) = (Series::default(), Vec::new());
        for at in self.ordered.by_ref() {
            if let Err(error) = reader.series_into(at, &mut series) {
                damage.note(&self.block, &error);
            } else if wanted.key(&series, &mut key) {
                return Ok(Some((key.into(), at)));
            }
        }
        Ok(None)
    }

    /// Takes a series with this key, if the next one has it.
    fn take(&mut self, key: &Bytes) -> Option<SeriesRef> {
        if let Some((_, at)) = self.ahead.take_if(|(ahead, _)| ahead == key) {
            return Some(at);
        }
        self.strays.next_if(|(stray, _)| stray == key).map(|(_, at)| at)
    }
}

impl BlockSelect {
    fn open(
        blocks: Vec<Arc<LocalBlock>>,
        readers: Arc<Readers>,
        select: Select,
        stray_bytes_max: usize,
    ) -> Result<Self, String> {
        let (on_external, _) = select.external.split(&select.matchers);
        let (mut budget, mut damage) = (stray_bytes_max, Damage::default());
        let mut cursors = Vec::new();
        for block in blocks {
            if select.reply.is_closed() {
                return Err("nobody listens any more".into());
            }
            let external = select.external.of(&block.tenant, block.shard);
            let value = |name: &str| external.get(name).unwrap_or_default();
            if on_external.iter().all(|m| m.matches(value(m.name()))) {
                let (budget, damage) = (&mut budget, &mut damage);
                cursors.extend(Cursor::open(block, external, &readers, &select, budget, damage)?);
            }
        }
        let first = |(i, cursor): (usize, &mut Cursor)| {
            Some(Reverse((cursor.peek(&readers, &select, &mut damage)?, i)))
        };
        let heap = cursors.iter_mut().enumerate().filter_map(first).collect();
        let series_left = if select.limit == 0 { usize::MAX } else { select.limit };
        Ok(Self { cursors, heap, readers, select, series_left, damage })
    }

    /// The next part: about [`PART_BYTES`] of frames, or the end.
    fn next_part(&mut self) -> Part {
        let mut frames = Vec::new();
        let (mut bytes, mut counted) = (0, 0);
        while bytes < PART_BYTES && self.series_left > 0 && !self.select.reply.is_closed() {
            if !self.next_series(&mut frames) {
                break;
            }
            bytes += frames.iter().skip(counted).map(Frame::len_bytes).sum::<usize>();
            counted = frames.len();
        }
        if !frames.is_empty() {
            return Part::Series(frames);
        }
        match &self.damage {
            Damage { count: 0, .. } => Part::End,
            Damage { count, first } => {
                let what = "series, chunks or blocks cannot be read";
                Part::Failed(format!("{count} {what}; the first: {first}"))
            }
        }
    }

    /// Appends the frames of the next label set, from all blocks that have it. False at the end.
    fn next_series(&mut self, frames: &mut Vec<Frame>) -> bool {
        let Some(Reverse((key, _))) = self.heap.peek() else { return false };
        let key = key.clone();
        let mut all = Vec::new();
        while self.heap.peek().is_some_and(|Reverse((next, _))| *next == key) {
            let Some(Reverse((_, at))) = self.heap.pop() else { break };
            let Some(cursor) = self.cursors.get_mut(at) else { continue };
            while let Some(series) = cursor.take(&key) {
                all.push((at, series));
                let next = cursor.peek(&self.readers, &self.select, &mut self.damage);
                if next.as_ref() != Some(&key) {
                    break;
                }
            }
            if let Some(next) = cursor.peek(&self.readers, &self.select, &mut self.damage) {
                self.heap.push(Reverse((next, at)));
            }
        }
        self.encode(&key, &all, frames);
        true
    }

    /// Encodes the series of one label set as one run of frames.
    fn encode(&mut self, key: &Bytes, all: &[(usize, SeriesRef)], frames: &mut Vec<Frame>) {
        let mut copied = Copied::default();
        for &(cursor, at) in all {
            let Some(cursor) = self.cursors.get(cursor) else { continue };
            let read = self.readers.read(&cursor.block).and_then(|reader| {
                copied.add(&reader.series(at)?, cursor, &reader, &self.select, &mut self.damage);
                Ok(())
            });
            if let Err(error) = read {
                self.damage.note(&cursor.block, &error);
            }
        }
        copied.chunks.sort_by_key(|(_, span, _)| (span.min, span.max));
        let Some(labels) = &copied.labels else { return };
        if copied.chunks.is_empty() && !self.select.skip_chunks {
            return;
        }
        let labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        frame::encode(&labels, key, copied.chunks(), frames);
        self.series_left -= 1;
    }
}

/// What one label set has in several blocks. Copied, so that no more than one of them is open.
#[derive(Debug, Default)]
struct Copied {
    /// The final ones, known from the first series.
    labels: Option<Vec<(String, String)>>,
    chunks: Vec<(Encoding, TimeSpan, Range<usize>)>,
    payloads: Vec<u8>,
}

impl Copied {
    /// Adds the chunks of a series.
    fn add(
        &mut self,
        series: &Series<'_>,
        of: &Cursor,
        reader: &Reader,
        select: &Select,
        damage: &mut Damage,
    ) {
        self.labels.get_or_insert_with(|| {
            let mut labels = Vec::new();
            final_labels(series.labels.iter().copied(), &of.external, &select.without, &mut labels);
            labels.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        });
        for meta in series.chunks.iter().filter(|_| !select.skip_chunks) {
            let span = TimeSpan { min: meta.min_t, max: meta.max_t };
            if !select.span.overlaps(span) {
                continue;
            }
            match reader.chunk(meta) {
                Ok((encoding, payload)) => {
                    let from = self.payloads.len();
                    self.payloads.extend_from_slice(payload);
                    self.chunks.push((encoding, span, from..self.payloads.len()));
                }
                Err(error) => damage.note(&of.block, &error),
            }
        }
    }

    fn chunks(&self) -> impl ExactSizeIterator<Item = Chunk<'_>> + Clone {
        self.chunks.iter().map(|(encoding, span, payload)| Chunk {
            encoding: *encoding,
            min_t: span.min,
            max_t: span.max,
            bytes: &self.payloads[payload.clone()],
        })
    }
}
