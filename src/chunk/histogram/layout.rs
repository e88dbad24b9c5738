//! Which buckets a chunk has: the layout in front of its first sample, and how the layout of a
//! sample meets it.

use std::cmp::Ordering;

use crate::chunk::Error;
use crate::chunk::bits::{self, Fault};
use crate::chunk::histogram::{Codec, Stream};
use crate::model::histogram::{
    Double, Histogram, Kind, SCHEMA_CUSTOM, SCHEMA_MAX, Side, Span, Spans, indices,
};

/// Schemas a chunk may have: those that are stored, those reserved, and the one of custom bounds.
const SCHEMAS: std::ops::RangeInclusive<i64> = -9..=52;
const _: () = assert!(SCHEMA_MAX < 52, "reserved schemas are finer");

/// A threshold of 2^-243 is told by the byte 1; the exponent of a double has a bias of 1023.
const THRESHOLD_BIAS: u64 = 1023 - 244;

/// What all samples of a chunk share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) schema: i32,
    pub(super) zero_threshold: Double,
    pub(super) positive: Box<[Span]>,
    pub(super) negative: Box<[Span]>,
    pub(super) custom_values: Box<[Double]>,
}

impl Layout {
    /// The layout of a sample; a stale marker has the empty one.
    pub(super) fn of<K: Kind>(histogram: &Histogram<K>) -> Self {
        if histogram.is_stale() {
            return Self::of(&Histogram::<K>::default());
        }
        let custom: &[Double] =
            if histogram.schema == SCHEMA_CUSTOM { &histogram.custom_values } else { &[] };
        Self {
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            positive: histogram.positive.spans.as_slice().into(),
            negative: histogram.negative.spans.as_slice().into(),
            custom_values: custom.into(),
        }
    }

    /// Number of buckets.
    pub(super) fn buckets(&self) -> u64 {
        bucket_count(&self.positive) + bucket_count(&self.negative)
    }

    /// Spans, buckets and bounds.
    pub(super) fn parts(&self) -> u64 {
        let told = self.positive.len() + self.negative.len() + self.custom_values.len();
        told as u64 + self.buckets()
    }

    /// Appends the layout.
    pub(super) fn put(&self, stream: &mut Stream<'_>) {
        put_threshold(stream, self.zero_threshold);
        stream.put_varbit(self.schema.into());
        for spans in [&self.positive, &self.negative] {
            stream.put_uvarbit(spans.len() as u64);
            for span in spans {
                stream.put_uvarbit(span.length.into());
                stream.put_varbit(span.offset.into());
            }
        }
        if self.schema == SCHEMA_CUSTOM {
            stream.put_uvarbit(self.custom_values.len() as u64);
            for &bound in &self.custom_values {
                put_bound(stream, bound);
            }
        }
    }
}

/// Reads the layout of a chunk of `count` samples into the histogram that will hold them, its
/// buckets empty.
pub(super) fn take<K: Codec>(
    stream: &mut bits::Reader<'_>,
    count: u16,
    histogram: &mut Histogram<K>,
) -> Result<(), Error> {
    let cut = |fault| Error::at(fault, 0, count);
    histogram.zero_threshold = take_threshold(stream).map_err(cut)?;
    let schema = stream.take_varbit().map_err(cut)?;
    if !SCHEMAS.contains(&schema) && schema != i64::from(SCHEMA_CUSTOM) {
        return Err(Error::UnknownSchema { schema });
    }
    histogram.schema = schema as i32;
    for side in [&mut histogram.positive, &mut histogram.negative] {
        let announced = stream.take_uvarbit().map_err(cut)?;
        // Length and offset have a bit each.
        room(stream, "spans", announced, 2)?;
        for _ in 0..announced {
            side.spans.push(take_span(stream, count)?);
        }
    }
    if histogram.schema == SCHEMA_CUSTOM {
        let announced = stream.take_uvarbit().map_err(cut)?;
        room(stream, "bounds", announced, 5)?;
        for _ in 0..announced {
            histogram.custom_values.push(take_bound(stream).map_err(cut)?);
        }
    }
    let [positive, negative] = [&histogram.positive, &histogram.negative];
    let buckets = bucket_count(&positive.spans) + bucket_count(&negative.spans);
    room(stream, "buckets", buckets, K::BUCKET_BITS)?;
    for side in [&mut histogram.positive, &mut histogram.negative] {
        side.values = vec![K::Bucket::default(); bucket_count(&side.spans) as usize];
    }
    Ok(())
}

/// Memory is taken only for what can be there: each of the announced parts has that many bits.
fn room(
    stream: &bits::Reader<'_>,
    what: &'static str,
    announced: u64,
    bits: usize,
) -> Result<(), Error> {
    let left = stream.left();
    if announced > (left / bits) as u64 {
        return Err(Error::LayoutTooLong { what, announced, bits: left });
    }
    Ok(())
}

fn take_span(stream: &mut bits::Reader<'_>, count: u16) -> Result<Span, Error> {
    let cut = |fault| Error::at(fault, 0, count);
    let length = stream.take_uvarbit().map_err(cut)?;
    let offset = stream.take_varbit().map_err(cut)?;
    match (offset.try_into(), length.try_into()) {
        (Ok(offset), Ok(length)) => Ok(Span { offset, length }),
        _ => Err(Error::SpanTooWide { offset, length }),
    }
}

fn put_threshold(stream: &mut Stream<'_>, threshold: Double) {
    let exponent = (threshold.0 >> 52).wrapping_sub(THRESHOLD_BIAS);
    if threshold.value() == 0.0 {
        stream.put(0, 8);
    } else if threshold.0 << 12 == 0 && (1..255).contains(&exponent) {
        stream.put(exponent, 8);
    } else {
        stream.put(255, 8);
        stream.put(threshold.0, 64);
    }
}

fn take_threshold(stream: &mut bits::Reader<'_>) -> Result<Double, Fault> {
    Ok(Double(match stream.take(8)? {
        0 => 0,
        255 => stream.take(64)?,
        exponent => (exponent + THRESHOLD_BIAS) << 52,
    }))
}

/// Bounds from 0 to 33554.430 that are whole thousandths are told as such.
fn put_bound(stream: &mut Stream<'_>, bound: Double) {
    let thousandths = (bound.value() * 1000.0).round();
    let exact = (bound.value() * 1000.0) <= 33_554_430.0
        && bound.value() >= 0.0
        && bound.is_number((thousandths / 1000.0).into());
    if exact {
        stream.put_uvarbit(thousandths as u64 + 1);
    } else {
        stream.put(0, 1);
        stream.put(bound.0, 64);
    }
}

fn take_bound(stream: &mut bits::Reader<'_>) -> Result<Double, Fault> {
    match stream.take_uvarbit()? {
        0 => Ok(Double(stream.take(64)?)),
        thousandths => Ok(((thousandths - 1) as f64 / 1000.0).into()),
    }
}

pub(super) fn bucket_count(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.length)).sum()
}

/// How the buckets of a chunk and of a sample meet on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meeting {
    /// The sample has buckets that the chunk has not.
    pub(super) chunk_lacks: bool,
    /// The chunk has buckets that the sample has not.
    pub(super) sample_lacks: bool,
}

/// Compares index and population of the buckets of a chunk's last sample and of the next. `None`
/// says that a counter was reset: a bucket has less in it, or had something and is gone. Gauges may
/// do that.
pub(super) fn meet<K: Kind>(
    chunk: impl Iterator<Item = (i64, K::Bucket)>,
    sample: impl Iterator<Item = (i64, K::Bucket)>,
    gauge: bool,
) -> Option<Meeting> {
    let (mut chunk, mut sample) = (chunk.peekable(), sample.peekable());
    let mut meeting = Meeting::default();
    loop {
        let (before, after) = match (chunk.peek(), sample.peek()) {
            (None, None) => return Some(meeting),
            (Some(&(at, before)), Some(&(index, after))) => match at.cmp(&index) {
                Ordering::Less => (Some(before), None),
                Ordering::Equal => (Some(before), Some(after)),
                Ordering::Greater => (None, Some(after)),
            },
            (before, after) => (before.map(|b| b.1), after.map(|a| a.1)),
        };
        let reset = match (before, after) {
            (Some(before), Some(after)) => K::fell(before, after),
            (Some(before), None) => K::number(before) != 0.0,
            _ => false,
        };
        if reset && !gauge {
            return None;
        }
        meeting.chunk_lacks |= before.is_none();
        meeting.sample_lacks |= after.is_none();
        // Which side is past is known from what it had to offer.
        if before.is_some() {
            chunk.next();
        }
        if after.is_some() {
            sample.next();
        }
    }
}

/// The buckets of both, told by as few spans as can be.
pub(super) fn union(one: &[Span], other: &[Span]) -> Box<[Span]> {
    let (mut one, mut other) = (indices(one).peekable(), indices(other).peekable());
    let mut spans = Spans::default();
    while let Some(index) = match (one.peek(), other.peek()) {
        (Some(&a), Some(&b)) => Some(a.min(b)),
        (a, b) => a.or(b).copied(),
    } {
        one.next_if_eq(&index);
        other.next_if_eq(&index);
        spans.push(index);
    }
    spans.into_inner().into()
}

/// What is stored for each bucket of `spans` if they hold the populations of `side`. Buckets that
/// `side` has not are empty.
pub(super) fn spread<K: Kind>(spans: &[Span], side: &Side<K>) -> impl Iterator<Item = K::Bucket> {
    let mut populations = side.iter().peekable();
    let mut before = K::Bucket::default();
    indices(spans).map(move |index| {
        let found = populations.next_if(|&(at, _)| at == index);
        let population = found.map_or(K::Bucket::default(), |(_, population)| population);
        K::stored(std::mem::replace(&mut before, population), population)
    })
}
