//! Samples in order and out of order, put together: chunks as if all had come in order.
//!
//! A chunk with nothing between its samples passes as it is; others are read and written anew. A
//! chunk of histograms says what is known of a counter reset before its first sample. Where that
//! sample has another one before it now, nothing is known, but what its sender said.
//!
//! ## Limits
//! A slice writes samples of [`PARTS_MAX`] numbers and buckets anew, and ends; the next one goes on
//! behind the last sample. What has come in order is copied once, at the beginning.

use crate::chunk::histogram::{self, Codec, first_header};
use crate::chunk::{Chunk, Encoding, xor};
use crate::model::histogram::{
    Float, FloatHistogram, Histogram, HistogramRef, Integer, IntegerHistogram, ResetHint,
};
use crate::shard::head::append::{Bounds, CHUNK_SAMPLES_MAX, same_range};
use crate::shard::head::histograms::OpenHistograms;
use crate::shard::head::read::Copied;

/// Values and buckets that are written anew in a slice.
const PARTS_MAX: usize = if cfg!(test) { 64 } else { 2048 };

/// Where a merge goes on.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// The chunks in order.
    chunks: Copied,
    /// Of which so many are done.
    done: usize,
    /// First time that is not done; none at the beginning, when whole chunks count.
    pub(super) from: Option<i64>,
    /// Whether the last sample came out of order.
    after_late: bool,
}

impl Rest {
    /// All of these.
    pub(super) fn of(chunks: Copied) -> Self {
        Self { chunks, ..Self::default() }
    }

    fn begins_before(&self, t: i64) -> bool {
        self.from.is_none_or(|from| from <= t)
    }
}

/// Puts the samples of `late` between those of the chunks of `rest`, both in order of time, for a
/// slice; what is left. Of two samples for one time that in order stays: it was there first.
pub(super) fn merge<'c>(
    mut rest: Rest,
    late: impl Iterator<Item = Chunk<'c>>,
    out: &mut Copied,
) -> Option<Rest> {
    let chunks = std::mem::take(&mut rest.chunks);
    let mut writer = Writer { out, open: None, after_late: rest.after_late, parts: 0 };
    let from = write(&rest, &chunks, Points::of(late), &mut writer);
    writer.close();
    let (done, from) = from?;
    Some(Rest { chunks, done, from: Some(from), after_late: writer.after_late })
}

/// Writes a slice; how many chunks are done then, and the first time that is not, if there is more.
fn write<'c>(
    rest: &Rest,
    chunks: &Copied,
    mut late: Points<'c, impl Iterator<Item = Chunk<'c>>>,
    writer: &mut Writer<'_>,
) -> Option<(usize, i64)> {
    late.skip_before(rest.from.unwrap_or(i64::MIN));
    for (number, chunk) in chunks.iter().enumerate().skip(rest.done) {
        while let Some(point) = late.next_before(chunk.min_t) {
            if writer.add(&point, true) {
                return Some((number, point.t + 1));
            }
        }
        if rest.begins_before(chunk.min_t) && late.t().is_none_or(|t| chunk.max_t < t) {
            writer.pass(chunk);
            continue;
        }
        let mut points = Points::of(std::iter::once(chunk));
        if writer.after_late {
            points.forget_reset();
        }
        points.skip_before(rest.from.unwrap_or(i64::MIN));
        while let Some(point) = points.take() {
            while let Some(other) = late.next_before(point.t) {
                if writer.add(&other, true) {
                    return Some((number, other.t + 1));
                }
            }
            late.skip_before(point.t.saturating_add(1));
            if writer.add(&point, false) {
                return Some((number, point.t.saturating_add(1)));
            }
        }
    }
    while let Some(point) = late.take() {
        if writer.add(&point, true) {
            return Some((chunks.iter().len(), point.t + 1));
        }
    }
    None
}

/// A sample of its own.
struct Point {
    t: i64,
    value: Value,
}

enum Value {
    Float(u64),
    Histogram(Owned),
}

enum Owned {
    Integer(Box<IntegerHistogram>),
    Float(Box<FloatHistogram>),
}

impl Owned {
    fn forget_reset(&mut self) {
        let hint = match self {
            Self::Integer(histogram) => &mut histogram.hint,
            Self::Float(histogram) => &mut histogram.hint,
        };
        if *hint == ResetHint::Reset {
            *hint = ResetHint::Unknown;
        }
    }

    fn borrow(&self) -> HistogramRef<'_> {
        match self {
            Self::Integer(histogram) => HistogramRef::Integer(histogram),
            Self::Float(histogram) => HistogramRef::Float(histogram),
        }
    }
}

/// The samples of chunks, one after the other.
struct Points<'c, C> {
    chunks: C,
    reader: Option<Reader<'c>>,
    next: Option<Point>,
}

/// A chunk that is read; of histograms with whether the counter was reset before the next one.
enum Reader<'c> {
    Floats(xor::Reader<'c>),
    Histograms(Box<histogram::Reader<'c, Integer>>, bool),
    FloatHistograms(Box<histogram::Reader<'c, Float>>, bool),
}

/// A reader of a chunk of histograms, and whether it says that the counter was reset before it.
fn histograms<K: Codec>(bytes: &[u8]) -> Option<(Box<histogram::Reader<'_, K>>, bool)> {
    let reader = histogram::Reader::new(bytes).ok()?;
    let reset = reader.header() == ResetHint::Reset;
    Some((Box::new(reader), reset))
}

fn next_histogram<K: Codec>(
    reader: &mut histogram::Reader<'_, K>,
    reset: &mut bool,
) -> Option<(i64, Box<Histogram<K>>)> {
    let point = reader.advance()?.ok()?;
    let mut histogram = Box::new(point.histogram.clone());
    if std::mem::take(reset) {
        histogram.hint = ResetHint::Reset;
    }
    Some((point.t, histogram))
}

impl<'c> Reader<'c> {
    fn of(chunk: Chunk<'c>) -> Option<Self> {
        match chunk.encoding {
            Encoding::Xor => xor::Reader::new(chunk.bytes).ok().map(Self::Floats),
            Encoding::Histogram => {
                histograms(chunk.bytes).map(|(reader, reset)| Self::Histograms(reader, reset))
            }
            Encoding::FloatHistogram => {
                histograms(chunk.bytes).map(|(reader, reset)| Self::FloatHistograms(reader, reset))
            }
        }
    }

    fn next(&mut self) -> Option<Point> {
        Some(match self {
            Self::Floats(reader) => {
                let sample = reader.next()?.ok()?;
                Point { t: sample.t, value: Value::Float(sample.bits) }
            }
            Self::Histograms(reader, reset) => {
                let (t, histogram) = next_histogram(reader, reset)?;
                Point { t, value: Value::Histogram(Owned::Integer(histogram)) }
            }
            Self::FloatHistograms(reader, reset) => {
                let (t, histogram) = next_histogram(reader, reset)?;
                Point { t, value: Value::Histogram(Owned::Float(histogram)) }
            }
        })
    }
}

impl<'c, C: Iterator<Item = Chunk<'c>>> Points<'c, C> {
    fn of(chunks: C) -> Self {
        let mut points = Self { chunks, reader: None, next: None };
        points.take();
        points
    }

    /// Time of the next sample.
    fn t(&self) -> Option<i64> {
        self.next.as_ref().map(|point| point.t)
    }

    fn take(&mut self) -> Option<Point> {
        let next = loop {
            if let Some(point) = self.reader.as_mut().and_then(Reader::next) {
                break Some(point);
            }
            let Some(chunk) = self.chunks.next() else { break None };
            self.reader = Reader::of(chunk);
        };
        std::mem::replace(&mut self.next, next)
    }

    /// The next sample, if it is older.
    fn next_before(&mut self, t: i64) -> Option<Point> {
        if self.t().is_some_and(|next| next < t) { self.take() } else { None }
    }

    fn skip_before(&mut self, t: i64) {
        while self.next_before(t).is_some() {}
    }

    /// Of the next sample nothing is known any more about a reset before it.
    fn forget_reset(&mut self) {
        if let Some(Point { value: Value::Histogram(histogram), .. }) = &mut self.next {
            histogram.forget_reset();
        }
    }
}

/// Writes chunks.
struct Writer<'o> {
    out: &'o mut Copied,
    open: Option<Open>,
    /// Whether the last sample came out of order.
    after_late: bool,
    /// Values and buckets that were written anew.
    parts: usize,
}

enum Open {
    Floats { chunk: xor::Appender, min_t: i64, tail: Vec<u8> },
    Histograms(OpenHistograms),
}

impl Writer<'_> {
    /// A chunk as it is.
    fn pass(&mut self, chunk: Chunk<'_>) {
        self.close();
        self.out.push(chunk);
        if std::mem::take(&mut self.after_late) && chunk.encoding != Encoding::Xor {
            histogram::forget_before(self.out.last_bytes());
        }
    }

    /// A sample, newer than all before it. Whether the slice is full.
    fn add(&mut self, point: &Point, is_late: bool) -> bool {
        match &point.value {
            Value::Float(bits) => self.add_float(point.t, *bits),
            Value::Histogram(histogram) => {
                let histogram = histogram.borrow();
                self.parts += histogram.width();
                self.add_histogram(point.t, histogram);
            }
        }
        self.parts += 1;
        self.after_late = is_late;
        self.parts >= PARTS_MAX
    }

    fn add_float(&mut self, t: i64, bits: u64) {
        if let Some(Open::Floats { chunk, tail, .. }) = &mut self.open
            && chunk.count() < CHUNK_SAMPLES_MAX
            && same_range(chunk.last_t(), t)
        {
            return append(chunk, tail, t, bits);
        }
        self.close();
        let (mut chunk, mut tail) = (xor::Appender::new(), Vec::new());
        append(&mut chunk, &mut tail, t, bits);
        self.open = Some(Open::Floats { chunk, min_t: t, tail });
    }

    fn add_histogram(&mut self, t: i64, histogram: HistogramRef<'_>) {
        let mut header = first_header(histogram.hint());
        if let Some(Open::Histograms(open)) = &mut self.open {
            match open.append(t, histogram, Bounds::ALL) {
                Ok(()) => return,
                Err(next) => header = next,
            }
        }
        self.close();
        self.open = Some(Open::Histograms(OpenHistograms::begin(header, t, histogram)));
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        match open {
            Open::Floats { chunk, min_t, mut tail } => {
                let len = chunk.finish(&mut tail);
                let (encoding, max_t) = (Encoding::Xor, chunk.last_t());
                self.out.push(Chunk { encoding, min_t, max_t, bytes: &tail[..len] });
            }
            Open::Histograms(mut open) => {
                let (encoding, span) = (open.encoding(), open.span());
                let bytes = open.finish();
                self.out.push(Chunk { encoding, min_t: span.min, max_t: span.max, bytes });
            }
        }
    }
}

fn append(chunk: &mut xor::Appender, tail: &mut Vec<u8>, t: i64, bits: u64) {
    let needed = chunk.len_bytes() + xor::MAX_SAMPLE_BYTES;
    if tail.len() < needed {
        tail.resize(2 * needed, 0);
    }
    chunk.append(tail, t, bits);
}
