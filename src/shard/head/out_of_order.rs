//! Samples out of order: older than the newest of their series, inside the window.
//!
//! They lie beside the others, in small chunks by series and time, and are put between them when a
//! series is read or flushed ([`merge`](crate::shard::head::merge)). So samples in order pay
//! nothing for them, and blocks of one shard and range do not overlap.
//!
//! ## Promises
//! - Chunks of a series are disjoint here, and each lies in one block range.
//! - Storing a float writes at most one chunk of [`OutOfOrder::cap`] samples anew, and splits one
//!   that has more. A histogram has a chunk of its own, for writing those anew is dear.
//! - A series has one sample for a time here. That it has none among the samples in order is looked
//!   up before, as far as a batch may read; at the merge those in order win.

use std::collections::BTreeMap;

use crate::chunk::histogram::first_header;
use crate::chunk::{Chunk, Encoding, xor};
use crate::model::histogram::HistogramRef;
use crate::model::{Sample, TimeSpan};
use crate::shard::head::append::same_range;
use crate::shard::head::histograms::OpenHistograms;
use crate::shard::head::series::SeriesIndex;

/// Samples of a chunk unless it is said otherwise: as in Prometheus.
pub(crate) const CAP: u16 = 32;
/// What the map takes for a chunk, beside its bytes.
const ENTRY_BYTES: usize = 64;

/// The samples out of order of a shard.
#[derive(Debug)]
pub(crate) struct OutOfOrder {
    /// By series and time of the first sample.
    chunks: BTreeMap<(SeriesIndex, i64), Piece>,
    /// Bytes of all chunks.
    bytes: usize,
    /// Samples stored since the start.
    pub(crate) stored: u64,
    /// Most samples of a chunk of floats.
    pub(crate) cap: u16,
}

#[derive(Debug)]
struct Piece {
    max_t: i64,
    encoding: Encoding,
    bytes: Box<[u8]>,
}

impl Piece {
    fn floats(&self) -> Vec<Sample> {
        xor::Reader::new(&self.bytes).into_iter().flatten().map_while(Result::ok).collect()
    }

    fn is_full(&self, cap: u16) -> bool {
        crate::chunk::sample_count(&self.bytes).is_ok_and(|count| count >= cap)
    }
}

impl Default for OutOfOrder {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), bytes: 0, stored: 0, cap: CAP }
    }
}

impl OutOfOrder {
    /// What `says` of the chunk that may have a sample at a time.
    pub(super) fn look_up<T>(
        &self,
        index: SeriesIndex,
        t: i64,
        says: impl FnOnce(Encoding, &[u8]) -> Option<T>,
    ) -> Option<T> {
        let (_, piece) = self.before(index, t).filter(|(_, piece)| t <= piece.max_t)?;
        says(piece.encoding, &piece.bytes)
    }

    /// Stores a float for a time for which there is no sample.
    pub(super) fn insert(&mut self, index: SeriesIndex, sample: Sample) {
        let mut samples = Vec::new();
        let has_room = |piece: &Piece| piece.encoding == Encoding::Xor && !piece.is_full(self.cap);
        let before = self.before(index, sample.t).filter(|(_, piece)| {
            sample.t <= piece.max_t || has_room(piece) && same_range(piece.max_t, sample.t)
        });
        let behind = || {
            let behind = self.chunks.range((index, sample.t)..=(index, i64::MAX)).next();
            let behind = behind.map(|(&(_, min_t), piece)| (min_t, piece));
            behind.filter(|(min_t, piece)| has_room(piece) && same_range(sample.t, *min_t))
        };
        if let Some((min_t, piece)) = before.or_else(behind) {
            samples = piece.floats();
            self.take((index, min_t));
        }
        samples.insert(samples.partition_point(|known| known.t < sample.t), sample);
        let half = if samples.len() > usize::from(self.cap) { samples.len() / 2 } else { 0 };
        self.put_floats(index, &samples[..half]);
        self.put_floats(index, &samples[half..]);
        self.stored += 1;
    }

    /// Stores a histogram for a time for which there is no sample.
    pub(super) fn insert_histogram(
        &mut self,
        index: SeriesIndex,
        t: i64,
        histogram: HistogramRef<'_>,
    ) {
        if let Some((min_t, piece)) = self.before(index, t).filter(|(_, piece)| t <= piece.max_t) {
            let samples = piece.floats();
            let (left, right) = samples.split_at(samples.partition_point(|sample| sample.t < t));
            self.take((index, min_t));
            self.put_floats(index, left);
            self.put_floats(index, right);
        }
        let mut chunk = OpenHistograms::begin(first_header(histogram.hint()), t, histogram);
        let piece = Piece { max_t: t, encoding: chunk.encoding(), bytes: chunk.finish().into() };
        self.put((index, t), piece);
        self.stored += 1;
    }

    /// The last chunk of a series that begins at a time or before.
    fn before(&self, index: SeriesIndex, t: i64) -> Option<(i64, &Piece)> {
        let (&(_, min_t), piece) = self.chunks.range((index, i64::MIN)..=(index, t)).next_back()?;
        Some((min_t, piece))
    }

    fn put_floats(&mut self, index: SeriesIndex, samples: &[Sample]) {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
        let mut bytes = vec![0; (samples.len() + 1) * xor::MAX_SAMPLE_BYTES];
        let mut chunk = xor::Appender::new();
        for sample in samples {
            chunk.append(&mut bytes, sample.t, sample.bits);
        }
        let len = chunk.finish(&mut bytes);
        bytes.truncate(len);
        let bytes = bytes.into_boxed_slice();
        self.put((index, first.t), Piece { max_t: last.t, encoding: Encoding::Xor, bytes });
    }

    fn put(&mut self, key: (SeriesIndex, i64), piece: Piece) {
        self.bytes += piece.bytes.len();
        self.chunks.insert(key, piece);
    }

    fn take(&mut self, key: (SeriesIndex, i64)) {
        if let Some(piece) = self.chunks.remove(&key) {
            self.bytes -= piece.bytes.len();
        }
    }

    /// The chunks of a series that meet a span, in order of time.
    pub(super) fn chunks(
        &self,
        index: SeriesIndex,
        span: TimeSpan,
    ) -> impl Iterator<Item = Chunk<'_>> {
        let first = self.before(index, span.min).filter(|(_, piece)| span.min <= piece.max_t);
        let from = first.map_or(span.min, |(min_t, _)| min_t);
        let range =
            (from <= span.max).then(|| self.chunks.range((index, from)..=(index, span.max)));
        range.into_iter().flatten().map(|(&(_, min_t), piece)| Chunk {
            encoding: piece.encoding,
            min_t,
            max_t: piece.max_t,
            bytes: &piece.bytes,
        })
    }

    /// First and last time of a series in `[from, end)`, both of them ends of block ranges.
    pub(super) fn extent(&self, index: SeriesIndex, from: i64, end: i64) -> Option<TimeSpan> {
        let (&(_, min), _) = self.chunks.range((index, from)..(index, end)).next()?;
        let (_, last) = self.before(index, end - 1)?;
        Some(TimeSpan { min, max: last.max_t })
    }

    /// Whether a series has a chunk that meets a span.
    pub(super) fn has(&self, index: SeriesIndex, span: TimeSpan) -> bool {
        !self.chunks.is_empty() && self.chunks(index, span).next().is_some()
    }

    /// Drops the chunks of a series that end before `end`, which is the end of a block range.
    pub(super) fn drop_before(&mut self, index: SeriesIndex, end: i64) {
        while let Some((&key, piece)) = self.chunks.range((index, i64::MIN)..).next()
            && key.0 == index
            && piece.max_t < end
        {
            self.take(key);
        }
    }

    /// Bytes of memory.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes + self.chunks.len() * ENTRY_BYTES
    }
}
