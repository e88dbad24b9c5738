//! Series by matchers, chunks by time.
//!
//! There is no inverted index in the head: a select walks the series of a tenant and looks each
//! label up in a memo of what the matchers said of its value. A matcher runs once per distinct
//! value, and making or dropping a series costs nothing for it.
//!
//! A walk may pause between series, but positions and symbols it has seen must not be given to
//! others meanwhile: [`Head::release`] waits for the readers that were there at [`Head::remove`].

use std::ops::Range;

use crate::chunk::{Chunk, Encoding};
use crate::model::{Matcher, TimeSpan};
use crate::shard::head::closed::{ClosedChunk, ClosedRef};
use crate::shard::head::histograms::End;
use crate::shard::head::merge::{Rest, merge};
use crate::shard::head::series::{Head, SeriesIndex};
use crate::shard::head::symbols::SymbolId;

/// Where a name stands in a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Unknown,
    Absent,
    At(u32),
}

/// One label of many series: where it stands is looked up once per shape.
#[derive(Debug)]
pub(crate) struct Column<'n> {
    name: &'n str,
    stands: Vec<Stand>,
}

impl<'n> Column<'n> {
    /// The label `name`.
    pub(crate) fn new(name: &'n str) -> Self {
        Self { name, stands: Vec::new() }
    }

    /// The value in a series, if it has the label.
    pub(crate) fn value(&mut self, head: &Head, index: SeriesIndex) -> Option<SymbolId> {
        let (shape, names, values) = head.label_ids(index);
        self.stand(head, shape, names).map(|at| values[at])
    }

    fn stand(&mut self, head: &Head, shape: u32, names: &[SymbolId]) -> Option<usize> {
        let shape = shape as usize;
        if self.stands.len() <= shape {
            self.stands.resize(shape + 1, Stand::Unknown);
        }
        if self.stands[shape] == Stand::Unknown {
            let at = names.iter().position(|&n| head.symbols.text(n) == self.name);
            self.stands[shape] = at.map_or(Stand::Absent, |at| Stand::At(at as u32));
        }
        match self.stands[shape] {
            Stand::At(at) => Some(at as usize),
            Stand::Absent | Stand::Unknown => None,
        }
    }
}

/// Matchers, and what they have said so far. For one select on one head.
#[derive(Debug)]
pub(crate) struct Matching<'m> {
    matchers: Vec<One<'m>>,
    asked: usize,
}

#[derive(Debug)]
struct One<'m> {
    matcher: &'m Matcher,
    without: bool,
    column: Column<'m>,
    said: Vec<Option<bool>>,
}

impl<'m> Matching<'m> {
    /// Nothing is said yet.
    pub(crate) fn new(matchers: &'m [Matcher]) -> Self {
        let one = |matcher: &'m Matcher| One {
            matcher,
            without: matcher.matches_empty(),
            column: Column::new(matcher.name()),
            said: Vec::new(),
        };
        Self { matchers: matchers.iter().map(one).collect(), asked: 0 }
    }

    /// Whether every matcher holds for a series.
    pub(crate) fn holds(&mut self, head: &Head, index: SeriesIndex) -> bool {
        let (shape, names, values) = head.label_ids(index);
        let asked = &mut self.asked;
        self.matchers.iter_mut().all(|one| match one.column.stand(head, shape, names) {
            Some(at) => one.says(head, values[at], asked),
            None => one.without,
        })
    }

    /// How often a matcher looked at a value since this was called last: the dear part of the work.
    pub(crate) fn take_asked(&mut self) -> usize {
        std::mem::take(&mut self.asked)
    }
}

impl One<'_> {
    fn says(&mut self, head: &Head, value: SymbolId, asked: &mut usize) -> bool {
        let at = value as usize;
        if self.said.len() <= at {
            self.said.resize((at + 1).max(head.symbols.bound()), None);
        }
        let matcher = self.matcher;
        *self.said[at].get_or_insert_with(|| {
            *asked += 1;
            matcher.matches(head.symbols.text(value))
        })
    }
}

/// Copies of the chunks of one series, in order of time. Used again and again.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    bytes: Vec<u8>,
    chunks: Vec<(Encoding, TimeSpan, Range<usize>)>,
    links: Vec<ClosedRef>,
}

impl Copied {
    /// The chunks.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Chunk<'_>> + Clone {
        self.chunks.iter().map(|(encoding, span, range)| Chunk {
            encoding: *encoding,
            min_t: span.min,
            max_t: span.max,
            bytes: &self.bytes[range.clone()],
        })
    }

    /// Forgets the chunks.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.chunks.clear();
    }

    pub(super) fn push(&mut self, chunk: Chunk<'_>) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(chunk.bytes);
        let span = TimeSpan { min: chunk.min_t, max: chunk.max_t };
        self.chunks.push((chunk.encoding, span, from..self.bytes.len()));
    }

    /// The bytes of the last chunk.
    pub(super) fn last_bytes(&mut self) -> &mut [u8] {
        let from = self.chunks.last().map_or(self.bytes.len(), |(_, _, range)| range.start);
        &mut self.bytes[from..]
    }
}

impl Head {
    /// All that [`Head::copy_chunks`] gives, in one go.
    #[cfg(test)]
    pub(crate) fn copy_all(&mut self, index: SeriesIndex, span: TimeSpan, out: &mut Copied) {
        let mut rest = self.copy_chunks(index, span, out);
        while let Some(more) = rest {
            rest = self.copy_rest(index, span, more, out);
        }
    }

    /// Whether a series has a chunk that meets the span.
    pub(crate) fn has_samples(&self, index: SeriesIndex, span: TimeSpan) -> bool {
        if self.open_span(index).is_some_and(|open| open.overlaps(span))
            || self.out_of_order.has(index, span)
        {
            return true;
        }
        let mut link = self.cold[index as usize].closed;
        while let Some(chunk) = self.closed.chunk(link) {
            if chunk.max_t < span.min {
                return false;
            }
            if chunk.min_t <= span.max {
                return true;
            }
            link = chunk.before;
        }
        false
    }

    /// First and last time of a series in `[from, end)`, both of them ends of block ranges.
    pub(crate) fn extent(&self, index: SeriesIndex, from: i64, end: i64) -> Option<TimeSpan> {
        let (mut min, mut max) = (i64::MAX, i64::MIN);
        let mut add = |min_t: i64, max_t: i64| {
            // A chunk lies in one range: what begins inside ends inside.
            if from <= min_t && min_t < end {
                (min, max) = (min.min(min_t), max.max(max_t));
            }
        };
        if let Some(open) = self.open_span(index) {
            add(open.min, open.max);
        }
        if let Some(span) = self.out_of_order.extent(index, from, end) {
            add(span.min, span.max);
        }
        let mut link = self.cold[index as usize].closed;
        while let Some(chunk) = self.closed.chunk(link) {
            if chunk.max_t < from {
                break;
            }
            add(chunk.min_t, chunk.max_t);
            link = chunk.before;
        }
        (min <= max).then_some(TimeSpan { min, max })
    }

    /// Copies the chunks of a series that meet the span, oldest first. The open chunk is copied as
    /// far as it has come. Samples out of order are where they belong; when that takes long, it
    /// ends early and [goes on](Self::copy_rest) with what it returns.
    #[must_use]
    pub(crate) fn copy_chunks(
        &mut self,
        index: SeriesIndex,
        span: TimeSpan,
        out: &mut Copied,
    ) -> Option<Rest> {
        self.copy_in_order(index, span, out);
        if !self.out_of_order.has(index, span) {
            return None;
        }
        let in_order = Rest::of(std::mem::take(out));
        self.copy_rest(index, span, in_order, out)
    }

    /// Copies more, behind what `out` has.
    #[must_use]
    pub(crate) fn copy_rest(
        &mut self,
        index: SeriesIndex,
        span: TimeSpan,
        rest: Rest,
        out: &mut Copied,
    ) -> Option<Rest> {
        let min = rest.from.map_or(span.min, |from| from.max(span.min));
        merge(rest, self.out_of_order.chunks(index, TimeSpan { min, ..span }), out)
    }

    fn copy_in_order(&mut self, index: SeriesIndex, span: TimeSpan, out: &mut Copied) {
        out.clear();
        let mut links = std::mem::take(&mut out.links);
        links.clear();
        let mut link = self.cold[index as usize].closed;
        while let Some(chunk) = self.closed.chunk(link) {
            if chunk.max_t < span.min {
                break;
            }
            if chunk.min_t <= span.max {
                links.push(link);
            }
            link = chunk.before;
        }
        for chunk in links.iter().rev().filter_map(|&link| self.closed.chunk(link)) {
            let ClosedChunk { encoding, min_t, max_t, bytes, .. } = chunk;
            out.push(Chunk { encoding, min_t, max_t, bytes });
        }
        out.links = links;
        let Some(open) = self.open_span(index).filter(|open| open.overlaps(span)) else { return };
        let (encoding, bytes) = if let End::Open(histograms) = &mut self.cold[index as usize].end {
            (histograms.encoding(), histograms.finish())
        } else {
            let hot = self.hot[index as usize];
            let tail = self.tails.bytes(hot.tail);
            let len = hot.open.finish(tail);
            (Encoding::Xor, &tail[..len])
        };
        out.push(Chunk { encoding, min_t: open.min, max_t: open.max, bytes });
    }
}
