//! A select over finished blocks: all of them as one source, read in steps on the control pool.
//!
//! Each block is walked by a [`Cursor`], which gives its series in order of their final label sets;
//! a heap holds the next key of each. Nothing is found before its turn but the first series of each
//! block, so a select with a limit reads little.
//!
//! ## Promises
//! - Parts are ascending by key; chunks of one label set from several blocks go into one run of
//!   frames, in order of time.
//! - A damaged series or chunk, or a block that cannot be opened, is left out and the rest answers;
//!   the damage is said at the end.
//! - A step ends after one part or [`Limits::step_max`], looked at after each series, so neither a
//!   slow client nor a wide select holds a thread of the pool. Between steps others have their turn
//!   and it is noticed that nobody listens any more. Until then the select's turn lasts.
//! - A block is opened anew for each series that is read of it. That costs little while it is still
//!   open, and a select over any number of blocks holds one of them at a time.
//! - Memory: a quarter of [`Limits::buffered_bytes_max`] for the positions of found series, the
//!   same for each block, but never fewer than [`POSITIONS_MIN`], for they are found anew when used
//!   up; the rest for series that are held to be sorted or joined: a select that needs more fails.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::Error;
use crate::chunk::{Chunk, Encoding};
use crate::frame::{self, Frame, final_labels};
use crate::index::SeriesRef;
use crate::model::TimeSpan;
use crate::query::Limits;
use crate::query::block_cursor::{Budget, Cursor, Damage, Reading};
use crate::query::blocks::LocalBlock;
use crate::query::gate::{Slice, Turn};
use crate::query::readers::Readers;
use crate::rt::beside;
use crate::shard::message::{PART_BYTES, Part, Select};

/// Positions that a cursor may have in hand, however many blocks there are.
const POSITIONS_MIN: usize = 1024;

/// Runs a select over `blocks` and sends the parts to its reply channel.
pub(super) fn start(
    blocks: Vec<Arc<LocalBlock>>,
    readers: Arc<Readers>,
    select: Select,
    limits: Limits,
    turn: Turn,
) {
    beside::spawn(async move {
        let reply = select.reply.clone();
        let open = move || BlockSelect::new(&blocks, readers, select, limits);
        let mut left = match turn.step(open).await {
            Ok(opened) => opened,
            Err(broken) => return drop(reply.send(Part::Failed(broken.to_string())).await),
        };
        while !reply.is_closed() {
            let step = move || {
                let part = left.step(Slice::begin(limits.step_max));
                (left, part)
            };
            let part = match turn.step(step).await {
                Ok((after, part)) => {
                    left = after;
                    part
                }
                Err(broken) => return drop(reply.send(Part::Failed(broken.to_string())).await),
            };
            let Some(part) = part else { continue };
            let last = matches!(part, Part::End | Part::Failed(_));
            if reply.send(part).await.is_err() || last {
                return;
            }
        }
    });
}

/// What is left of a select.
struct BlockSelect {
    /// In order of their blocks' ranges.
    cursors: Vec<Cursor>,
    /// Cursors whose next key must be found before anything can leave.
    unknown: Vec<usize>,
    /// The next key of every other cursor that has one.
    heap: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// The label set that is being gathered, by its key.
    run: Option<(Bytes, Copied)>,
    reading: Reading,
    series_left: usize,
}

impl BlockSelect {
    fn new(
        blocks: &[Arc<LocalBlock>],
        readers: Arc<Readers>,
        select: Select,
        limits: Limits,
    ) -> Self {
        let (on_external, on_series) = select.external.split(&select.matchers);
        let cursor = |block: &Arc<LocalBlock>| {
            let external = select.external.of(&block.tenant, block.shard);
            let value = |name: &str| external.get(name).unwrap_or_default();
            let wanted = on_external.iter().all(|m| m.matches(value(m.name())));
            wanted.then(|| Cursor::new(Arc::clone(block), external))
        };
        let cursors: Vec<Cursor> = blocks.iter().filter_map(cursor).collect();
        let for_positions = limits.buffered_bytes_max / 4;
        let each = for_positions / size_of::<SeriesRef>() / cursors.len().max(1);
        let series_left = if select.limit == 0 { usize::MAX } else { select.limit };
        let reading = Reading {
            readers,
            on_series,
            positions_max: each.max(POSITIONS_MIN),
            budget: Budget(limits.buffered_bytes_max - for_positions),
            damage: Damage::default(),
            select,
        };
        let unknown = (0..cursors.len()).rev().collect();
        Self { cursors, unknown, heap: BinaryHeap::new(), run: None, reading, series_left }
    }

    /// Goes on until there is a part of about [`PART_BYTES`], the end, or the time is over.
    fn step(&mut self, slice: Slice) -> Option<Part> {
        let mut frames = Vec::new();
        let ended = match self.fill(&mut frames, slice) {
            Ok(ended) => ended,
            Err(why) => return Some(Part::Failed(why)),
        };
        if !frames.is_empty() {
            return Some(Part::Series(frames));
        }
        ended.then(|| match &self.reading.damage {
            Damage { count: 0, .. } => Part::End,
            Damage { count, first } => {
                let what = "series, chunks or blocks cannot be read";
                Part::Failed(format!("{count} {what}; the first: {first}"))
            }
        })
    }

    /// Appends frames. True if there are no more.
    fn fill(&mut self, frames: &mut Vec<Frame>, slice: Slice) -> Result<bool, String> {
        let mut bytes = 0;
        while bytes < PART_BYTES && self.series_left > 0 {
            if !self.find_keys(slice)? {
                return Ok(false);
            }
            let next = self.heap.peek().map(|Reverse((key, _))| key);
            match (&self.run, next) {
                (None, None) => return Ok(true),
                (Some((key, _)), next) if next != Some(key) => bytes += self.end_run(frames),
                _ => self.gather()?,
            }
            if slice.is_over() {
                return Ok(false);
            }
        }
        Ok(self.series_left == 0)
    }

    /// Finds the keys that are not known. False if the time is over before.
    fn find_keys(&mut self, slice: Slice) -> Result<bool, String> {
        while let Some(&at) = self.unknown.last() {
            if let Some(cursor) = self.cursors.get_mut(at) {
                if !cursor.look(&mut self.reading, slice)? {
                    return Ok(false);
                }
                self.heap.extend(cursor.key().map(|key| Reverse((key.clone(), at))));
            }
            self.unknown.pop();
            if slice.is_over() {
                return Ok(self.unknown.is_empty());
            }
        }
        Ok(true)
    }

    /// Copies the next series into the run, which begins with it or has its key.
    fn gather(&mut self) -> Result<(), String> {
        let Some(Reverse((key, at))) = self.heap.pop() else { return Ok(()) };
        let Some(cursor) = self.cursors.get_mut(at) else { return Ok(()) };
        let (_, copied) = self.run.get_or_insert_with(|| (key, Copied::default()));
        self.unknown.push(at);
        let Some(series) = cursor.take(&mut self.reading.budget) else { return Ok(()) };
        let before = copied.cost();
        if let Err(error) = copied.add(series, cursor, &mut self.reading) {
            self.reading.damage.note(&cursor.block, &error);
        }
        self.reading.budget.take(copied.cost() - before)
    }

    /// Encodes the run as one run of frames; their bytes.
    fn end_run(&mut self, frames: &mut Vec<Frame>) -> usize {
        let Some((key, mut copied)) = self.run.take() else { return 0 };
        self.reading.budget.give_back(copied.cost());
        copied.chunks.sort_by_key(|(_, span, _)| (span.min, span.max));
        let Some(labels) = &copied.labels else { return 0 };
        if copied.chunks.is_empty() && !self.reading.select.skip_chunks {
            return 0;
        }
        let labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let from = frames.len();
        frame::encode(&labels, &key, copied.chunks(), frames);
        self.series_left -= 1;
        frames.iter().skip(from).map(Frame::len_bytes).sum()
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
    /// Adds what a series has.
    fn add(&mut self, at: SeriesRef, of: &Cursor, with: &mut Reading) -> Result<(), Error> {
        let reader = with.readers.read(&of.block)?;
        let (series, select) = (reader.series(at)?, &with.select);
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
                Err(error) => with.damage.note(&of.block, &error),
            }
        }
        Ok(())
    }

    /// What it holds, in bytes.
    fn cost(&self) -> usize {
        self.payloads.len() + size_of_val(&*self.chunks)
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
