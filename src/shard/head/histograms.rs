//! Histograms in the head: the open chunk of a series that has them, and what becomes of one.
//!
//! They are rarer than floats and a hundred times as large, so their open chunks lie on the heap,
//! each with the buckets of its last sample. A series has one open chunk: when floats and
//! histograms take turns, each turn begins a new one.
//!
//! ## Limits
//! A chunk ends with its range, at [`CHUNK_SAMPLES_MAX`] samples, or at [`CHUNK_BYTES`] bytes once
//! it has [`CHUNK_SAMPLES_MIN`]: as Prometheus' head, but for the guess where a chunk will end. It
//! also ends at [`CHUNK_BUCKETS_MAX`]. What repeats are compared with is read from chunks; a batch
//! reads so many bytes of chunks of histograms, then what it repeats is not known as such.

use crate::chunk::Encoding;
use crate::chunk::histogram::{Appended as Next, Appender, Codec, Reader, first_header};
use crate::model::histogram::{Float, Histogram, HistogramRef, Integer, ResetHint};
use crate::model::{STALE_NAN_BITS, Sample, TimeSpan};
use crate::shard::head::append::{
    Appended, Bounds, CHUNK_SAMPLES_MAX, Refusal, refusal_of, same_range, value_at,
};
use crate::shard::head::series::{Head, SeriesIndex};

/// A chunk of so many bytes ends, if it has enough samples.
const CHUNK_BYTES: usize = 1024;
/// Fewest samples of a chunk that ends by its bytes.
const CHUNK_SAMPLES_MIN: u16 = 10;

/// A chunk of so many buckets times samples ends: reading it, and writing it anew when buckets
/// come, takes half a millisecond.
const CHUNK_BUCKETS_MAX: u64 = 128 << 10;

/// Bytes of chunks of histograms that a batch may have read to know what it repeats.
pub(super) const REPEAT_BYTES_MAX: usize = 2 << 20;

/// How a series ends, as long as it has no open chunk of floats.
#[derive(Debug)]
pub(crate) enum End {
    /// Nothing was ever appended.
    Nothing,
    /// With this sample, in a closed chunk or in blocks.
    Float(Sample),
    /// With a histogram at this time, in a closed chunk or in blocks.
    Histogram(i64),
    /// With an open chunk of histograms.
    Open(Box<OpenHistograms>),
}

/// The open chunk of a series of histograms.
#[derive(Debug)]
pub(crate) enum OpenHistograms {
    /// With integer counts.
    Integer(OpenChunk<Integer>),
    /// With float counts.
    Float(OpenChunk<Float>),
}

/// An open chunk of histograms.
#[derive(Debug)]
pub(crate) struct OpenChunk<K: Codec> {
    /// Time of its first sample.
    min_t: i64,
    tail: Vec<u8>,
    appender: Appender<K>,
}

impl<K: Codec> OpenChunk<K> {
    fn begin(header: ResetHint, t: i64, histogram: &Histogram<K>) -> Self {
        let mut tail = Vec::new();
        let appender = Appender::open(&mut tail, header, t, histogram);
        Self { min_t: t, tail, appender }
    }

    /// Appends a sample, newer than the last; if it does not fit, the header of the next chunk.
    fn append(
        &mut self,
        t: i64,
        histogram: &Histogram<K>,
        bounds: Bounds,
    ) -> Result<(), ResetHint> {
        let Self { tail, appender, .. } = self;
        let last_t = appender.last_t();
        let count = appender.count();
        let is_long = count >= CHUNK_SAMPLES_MAX
            || count >= CHUNK_SAMPLES_MIN && appender.len_bytes() >= CHUNK_BYTES
            || appender.buckets() * u64::from(count) >= CHUNK_BUCKETS_MAX;
        if !same_range(last_t, t) && bounds.out_of_order_from < i64::MAX {
            // A sample may yet come between that is in another block.
            return Err(first_header(histogram.hint));
        }
        if is_long || last_t < bounds.min_t || !same_range(last_t, t) {
            return Err(appender.next_header(histogram));
        }
        let mut next = appender.append(tail, t, histogram);
        if let Next::Recode(wider) = next {
            if wider.buckets() * u64::from(count + 1) > CHUNK_BUCKETS_MAX {
                return Err(appender.next_header(histogram));
            }
            appender.recode(tail, wider);
            next = appender.append(tail, t, histogram);
        }
        match next {
            Next::Done => Ok(()),
            Next::Cut(cut) => Err(cut.header),
            Next::Recode(_) => Err(appender.next_header(histogram)),
        }
    }

    /// Whether the last sample is this one; most others are told from it by their sums.
    fn ends_with(&self, histogram: &Histogram<K>) -> bool {
        self.appender.sum() == histogram.sum && self.appender.last().same_as(histogram)
    }

    fn span(&self) -> TimeSpan {
        TimeSpan { min: self.min_t, max: self.appender.last_t() }
    }

    fn finish(&mut self) -> &[u8] {
        self.appender.finish(&mut self.tail);
        &self.tail
    }

    /// Of the tail what it grows to by doubling: whoever reads it may make it longer.
    fn heap_bytes(&self) -> usize {
        self.appender.len_bytes().next_power_of_two() + self.appender.heap_bytes()
    }
}

impl OpenHistograms {
    /// A chunk with its first sample.
    pub(super) fn begin(header: ResetHint, t: i64, histogram: HistogramRef<'_>) -> Self {
        match histogram {
            HistogramRef::Integer(h) => Self::Integer(OpenChunk::begin(header, t, h)),
            HistogramRef::Float(h) => Self::Float(OpenChunk::begin(header, t, h)),
        }
    }

    /// Appends a sample, newer than the last; if it does not fit, the header of the next chunk.
    pub(super) fn append(
        &mut self,
        t: i64,
        histogram: HistogramRef<'_>,
        bounds: Bounds,
    ) -> Result<(), ResetHint> {
        match (self, histogram) {
            (Self::Integer(open), HistogramRef::Integer(h)) => open.append(t, h, bounds),
            (Self::Float(open), HistogramRef::Float(h)) => open.append(t, h, bounds),
            _ => Err(first_header(histogram.hint())),
        }
    }

    /// Whether the last sample is this one.
    fn ends_with(&self, histogram: HistogramRef<'_>) -> bool {
        match (self, histogram) {
            _ if histogram.is_stale() => self.is_stale(),
            (Self::Integer(open), HistogramRef::Integer(h)) => open.ends_with(h),
            (Self::Float(open), HistogramRef::Float(h)) => open.ends_with(h),
            _ => false,
        }
    }

    /// Whether the last sample is a stale marker.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Integer(open) => open.appender.is_stale(),
            Self::Float(open) => open.appender.is_stale(),
        }
    }

    /// First and last time.
    pub(crate) fn span(&self) -> TimeSpan {
        match self {
            Self::Integer(open) => open.span(),
            Self::Float(open) => open.span(),
        }
    }

    /// How it is encoded.
    pub(crate) fn encoding(&self) -> Encoding {
        match self {
            Self::Integer(_) => Encoding::Histogram,
            Self::Float(_) => Encoding::FloatHistogram,
        }
    }

    /// The chunk as it is now; it goes on afterwards.
    pub(crate) fn finish(&mut self) -> &[u8] {
        match self {
            Self::Integer(open) => open.finish(),
            Self::Float(open) => open.finish(),
        }
    }

    /// How many samples it has.
    pub(crate) fn count(&self) -> u16 {
        match self {
            Self::Integer(open) => open.appender.count(),
            Self::Float(open) => open.appender.count(),
        }
    }

    /// Bytes of memory.
    pub(crate) fn heap_bytes(&self) -> usize {
        let own = match self {
            Self::Integer(open) => open.heap_bytes(),
            Self::Float(open) => open.heap_bytes(),
        };
        size_of::<Self>() + own
    }
}

impl Head {
    /// Appends a valid histogram to a series.
    pub(crate) fn append_histogram(
        &mut self,
        index: SeriesIndex,
        t: i64,
        histogram: HistogramRef<'_>,
        bounds: Bounds,
    ) -> Appended {
        if t > bounds.max_t {
            return Appended::Refused(Refusal::TooFarInFuture);
        }
        match self.newest_t(index) {
            Some(newest) if t <= newest => {
                let known = match &self.cold[index as usize].end {
                    End::Open(open) if t == newest => Some(open.ends_with(histogram)),
                    _ => self.look_up(index, t, |encoding, bytes| {
                        is_there(encoding, bytes, t, histogram)
                    }),
                };
                if known.is_none() && bounds.hold_out_of_order(t) {
                    self.out_of_order.insert_histogram(index, t, histogram);
                    return Appended::Stored;
                }
                return refusal_of(known, t, bounds);
            }
            _ if t < bounds.min_t => return Appended::Refused(Refusal::OutOfBounds),
            _ => {}
        }
        let mut header = first_header(histogram.hint());
        if let End::Open(open) = &mut self.cold[index as usize].end {
            let before = open.heap_bytes();
            let appended = open.append(t, histogram, bounds);
            self.histogram_bytes = self.histogram_bytes - before + open.heap_bytes();
            match appended {
                Ok(()) => return Appended::Stored,
                Err(next) => header = next,
            }
        }
        self.close_chunk(index);
        let open = OpenHistograms::begin(header, t, histogram);
        self.histogram_bytes += open.heap_bytes();
        let cold = &mut self.cold[index as usize];
        cold.end = End::Open(Box::new(open));
        self.tenants[cold.tenant as usize].chunks += 1;
        Appended::Stored
    }

    /// Lets a batch compare repeats of histograms with what chunks have.
    pub(crate) fn begin_batch(&mut self) {
        self.repeat_bytes_left = REPEAT_BYTES_MAX;
    }

    /// Whether the newest sample of a series is a histogram, and if so whether of floats.
    pub(crate) fn ends_with_histogram(&self, index: SeriesIndex) -> Option<bool> {
        if self.hot[index as usize].open.count() > 0 {
            return None;
        }
        let cold = &self.cold[index as usize];
        match &cold.end {
            End::Open(open) => Some(open.encoding() == Encoding::FloatHistogram),
            // Of what is in blocks by now nothing is known but that.
            End::Histogram(_) => Some(
                (self.closed.chunk(cold.closed))
                    .is_some_and(|chunk| chunk.encoding == Encoding::FloatHistogram),
            ),
            End::Nothing | End::Float(_) => None,
        }
    }

    /// Closes the open chunk of histograms of a series, if there is one.
    pub(crate) fn close_histograms(&mut self, index: SeriesIndex) {
        let cold = &mut self.cold[index as usize];
        let End::Open(open) = &mut cold.end else { return };
        self.histogram_bytes -= open.heap_bytes();
        let (span, count, encoding) = (open.span(), open.count(), open.encoding());
        let link =
            self.closed.push(cold.closed, (span.min, span.max), count, encoding, open.finish());
        cold.closed = link;
        cold.end = End::Histogram(span.max);
    }
}

/// What is said of the sample at a time, if a chunk of histograms has one.
fn at<K: Codec, T>(bytes: &[u8], t: i64, says: impl FnOnce(&Histogram<K>) -> T) -> Option<T> {
    let mut reader = Reader::<K>::new(bytes).ok()?;
    while let Some(Ok(point)) = reader.advance() {
        if point.t >= t {
            return (point.t == t).then(|| says(point.histogram));
        }
    }
    None
}

/// Whether the sample that a chunk has at a time, if it has one, is this histogram. Stale markers
/// are the same whatever they end.
fn is_there(encoding: Encoding, bytes: &[u8], t: i64, histogram: HistogramRef<'_>) -> Option<bool> {
    match (encoding, histogram) {
        _ if histogram.is_stale() => is_stale_at(encoding, bytes, t),
        (Encoding::Histogram, HistogramRef::Integer(h)) => {
            at::<Integer, _>(bytes, t, |known| known.same_as(h))
        }
        (Encoding::FloatHistogram, HistogramRef::Float(h)) => {
            at::<Float, _>(bytes, t, |known| known.same_as(h))
        }
        _ => is_stale_at(encoding, bytes, t).map(|_| false),
    }
}

/// Whether the sample that a chunk has at a time, if it has one, is a stale marker.
pub(super) fn is_stale_at(encoding: Encoding, bytes: &[u8], t: i64) -> Option<bool> {
    match encoding {
        Encoding::Xor => value_at(bytes, t).map(|bits| bits == STALE_NAN_BITS),
        Encoding::Histogram => at::<Integer, _>(bytes, t, Histogram::is_stale),
        Encoding::FloatHistogram => at::<Float, _>(bytes, t, Histogram::is_stale),
    }
}
