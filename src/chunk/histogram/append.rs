//! The open end of a chunk of histograms.

use crate::chunk::bits;
use crate::chunk::histogram::layout::{Layout, bucket_count, meet, spread, union};
use crate::chunk::histogram::{Codec, Field, HEADER_BYTES, Reader, Stream, Track, header_byte};
use crate::chunk::window::Xor;
use crate::chunk::xor;
use crate::model::histogram::{
    Double, Float, Histogram, Integer, ResetHint, SCHEMA_CUSTOM, Side, Span, indices,
};

/// Most spans, buckets and bounds of the sample that opens a chunk: more than the finest schema
/// needs for all doubles there are.
pub const PARTS_MAX: u64 = 1 << 21;

/// Most bits of a field: `11`, leading zeros, width and 64 bits of an XOR.
const FIELD_BITS: u64 = 2 + 5 + 6 + 64;

/// What became of a sample.
#[derive(Debug)]
#[must_use]
pub enum Appended {
    /// It is in the chunk.
    Done,
    /// It is not: it has buckets that the chunk has not. [`Appender::recode`] makes room for it; to
    /// end the chunk and open another is possible, too, and costs nothing but space.
    Recode(Wider),
    /// It is not, and can never be: a new chunk must begin with it.
    Cut(Cut),
}

/// The buckets a chunk must have to take a sample.
#[derive(Debug)]
pub struct Wider {
    positive: Box<[Span]>,
    negative: Box<[Span]>,
}

impl Wider {
    /// How many buckets the chunk would have.
    pub fn buckets(&self) -> u64 {
        bucket_count(&self.positive) + bucket_count(&self.negative)
    }
}

/// Why a chunk ends, and the header of the one that begins.
///
/// After a reset it says so. Where schema or threshold change, nothing was compared, so it is
/// unknown; where gauges end, Prometheus says "no reset" of integer counts and nothing of floats.
/// (It does so even of a sample that says it comes after a reset; here that is always heard.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Why.
    pub cause: Cause,
    /// Header of the next chunk.
    pub header: ResetHint,
}

/// Why a chunk ends before a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The counter was reset: the sample says so, or a count or a bucket has become smaller.
    CounterReset,
    /// Custom bounds changed, which counts as a reset.
    Bounds,
    /// Schema or zero threshold changed.
    Layout,
    /// The last sample is a stale marker, and this one is not.
    AfterStale,
    /// Gauges end, or begin.
    Gauge,
    /// The chunk holds as many samples or bits as it can.
    Full,
}

/// The header of the first chunk of all, or of one of whose predecessor nothing is known.
pub fn first_header(hint: ResetHint) -> ResetHint {
    match hint {
        ResetHint::Gauge | ResetHint::Reset => hint,
        ResetHint::Unknown | ResetHint::NotReset => ResetHint::Unknown,
    }
}

/// The open end of a chunk of histograms: all that appending the next one must know.
///
/// The bytes lie in a tail that its owner holds: header and whole words of 64 bits. Samples must be
/// valid ([`Histogram::validate`]); of others the chunk holds something else than was given.
#[derive(Debug)]
pub struct Appender<K: Codec> {
    layout: Layout,
    /// The buckets, positive ones first.
    buckets: Box<[K::Field]>,
    time: Track,
    count: K::Field,
    zero_count: K::Field,
    sum: Xor,
    /// The stream's unfinished word, see [`bits::Writer`].
    partial: u64,
    len_bits: u32,
    samples: u16,
    header: ResetHint,
}

const _: () = assert!(size_of::<Appender<Integer>>() <= 160 && size_of::<Appender<Float>>() <= 160);

impl<K: Codec> Appender<K> {
    /// Opens a chunk with its first sample, which has at most [`PARTS_MAX`] parts. `tail` is
    /// overwritten.
    pub fn open(tail: &mut Vec<u8>, header: ResetHint, t: i64, histogram: &Histogram<K>) -> Self {
        let layout = Layout::of(histogram);
        debug_assert!(layout.parts() <= PARTS_MAX, "bits of a chunk are counted in 32 bits");
        Self::begin(tail, header, layout, t, histogram)
    }

    fn begin(
        tail: &mut Vec<u8>,
        header: ResetHint,
        layout: Layout,
        t: i64,
        histogram: &Histogram<K>,
    ) -> Self {
        tail.clear();
        tail.extend_from_slice(&[0; HEADER_BYTES]);
        let mut stream = Stream::resume(tail, (0, 0));
        layout.put(&mut stream);
        stream.put_varbit(t);
        let mut counts = [histogram.count, histogram.zero_count].map(K::raw_count);
        if histogram.is_stale() {
            counts = [K::raw_count(K::Count::default()); 2];
        }
        for count in counts {
            K::put_first_count(&mut stream, count);
        }
        stream.put(histogram.sum.0, 64);
        let positive = spread(&layout.positive, &histogram.positive);
        let stored = positive.chain(spread(&layout.negative, &histogram.negative));
        let buckets = stored.map(|stored| {
            K::put_first_bucket(&mut stream, K::raw_bucket(stored));
            K::Field::begun(K::raw_bucket(stored))
        });
        let buckets = buckets.collect();
        let (partial, len_bits) = stream.suspend();
        Self {
            layout,
            buckets,
            time: Track::begun(t as u64),
            count: K::Field::begun(counts[0]),
            zero_count: K::Field::begun(counts[1]),
            sum: Xor::begun(histogram.sum.0),
            partial,
            len_bits,
            samples: 1,
            header,
        }
    }

    /// Appends a sample, or says why not. `tail` holds what this appender has written so far.
    pub fn append(&mut self, tail: &mut Vec<u8>, t: i64, histogram: &Histogram<K>) -> Appended {
        let gauge = histogram.hint == ResetHint::Gauge;
        match self.fit(histogram) {
            Ok(wider) if self.is_full(wider.as_ref()) => {
                let header = if gauge { ResetHint::Gauge } else { ResetHint::NotReset };
                Appended::Cut(Cut { cause: Cause::Full, header })
            }
            Ok(Some(wider)) => Appended::Recode(wider),
            Ok(None) => {
                self.put(tail, t, histogram);
                Appended::Done
            }
            Err(cause) => {
                let header = match cause {
                    _ if gauge => ResetHint::Gauge,
                    Cause::CounterReset | Cause::Bounds => ResetHint::Reset,
                    Cause::Gauge if K::RULES_OUT => ResetHint::NotReset,
                    _ => ResetHint::Unknown,
                };
                Appended::Cut(Cut { cause, header })
            }
        }
    }

    /// The header of the next chunk if this one ends for a reason of its owner's: it is long
    /// enough, or its time range ends. `histogram` will be the first sample of the next.
    pub fn next_header(&self, histogram: &Histogram<K>) -> ResetHint {
        if histogram.hint == ResetHint::Gauge {
            return ResetHint::Gauge;
        }
        match self.fit(histogram) {
            Err(Cause::CounterReset | Cause::Bounds) => ResetHint::Reset,
            Err(Cause::Layout | Cause::AfterStale) if K::RULES_OUT => ResetHint::Unknown,
            _ => ResetHint::NotReset,
        }
    }

    /// Whether a sample may follow; if so, what the chunk needs for it first.
    fn fit(&self, histogram: &Histogram<K>) -> Result<Option<Wider>, Cause> {
        let gauge = histogram.hint == ResetHint::Gauge;
        let layout = &self.layout;
        let counts = [(self.count, histogram.count), (self.zero_count, histogram.zero_count)];
        let [count_fell, zero_fell] =
            counts.map(|(from, to)| !gauge && K::count_fell(K::count(from.raw()), to));
        if histogram.hint == ResetHint::Reset {
            return Err(Cause::CounterReset);
        }
        if gauge != (self.header == ResetHint::Gauge) {
            return Err(Cause::Gauge);
        }
        if histogram.is_stale() {
            return Ok(None);
        }
        if self.is_stale() {
            return Err(Cause::AfterStale);
        }
        if count_fell {
            return Err(Cause::CounterReset);
        }
        let same_threshold = histogram.zero_threshold.is_number(layout.zero_threshold);
        if histogram.schema != layout.schema || !same_threshold {
            return Err(Cause::Layout);
        }
        if layout.schema == SCHEMA_CUSTOM && !self.has_bounds(&histogram.custom_values) {
            return Err(Cause::Bounds);
        }
        if zero_fell {
            return Err(Cause::CounterReset);
        }
        self.fit_buckets(histogram, gauge)
    }

    fn has_bounds(&self, bounds: &[Double]) -> bool {
        let known = &self.layout.custom_values;
        bounds.len() == known.len() && bounds.iter().zip(known).all(|(a, b)| a.is_number(*b))
    }

    fn fit_buckets(&self, sample: &Histogram<K>, gauge: bool) -> Result<Option<Wider>, Cause> {
        let layout = &self.layout;
        let (positive, negative) = self.sides();
        let meet = |spans: &[Span], fields: &[K::Field], side: &Side<K>| {
            meet::<K>(populations::<K>(spans, fields), side.iter(), gauge)
        };
        let above = meet(&layout.positive, positive, &sample.positive);
        let below = meet(&layout.negative, negative, &sample.negative);
        let (Some(above), Some(below)) = (above, below) else {
            return Err(Cause::CounterReset);
        };
        if !above.chunk_lacks && !below.chunk_lacks {
            return Ok(None);
        }
        // Prometheus tells the new layout in the sample's own spans where these have all buckets.
        let either = above.sample_lacks || below.sample_lacks;
        let wider = |spans: &[Span], side: &Side<K>, lacks: bool| {
            let own = !(lacks || gauge && either);
            if own { side.spans.as_slice().into() } else { union(spans, &side.spans) }
        };
        Ok(Some(Wider {
            positive: wider(&layout.positive, &sample.positive, above.sample_lacks),
            negative: wider(&layout.negative, &sample.negative, below.sample_lacks),
        }))
    }

    /// Whether another sample, after a recoding or none, could be more than a chunk can hold.
    fn is_full(&self, wider: Option<&Wider>) -> bool {
        let bits = match wider {
            None => u64::from(self.len_bits) + FIELD_BITS * (4 + self.buckets.len() as u64),
            Some(wider) => {
                let buckets = bucket_count(&wider.positive) + bucket_count(&wider.negative);
                let told = (wider.positive.len() + wider.negative.len()) as u64;
                let told = 2 * told + self.layout.custom_values.len() as u64 + 8;
                FIELD_BITS * (told + (4 + buckets) * (u64::from(self.samples) + 1))
            }
        };
        self.samples == xor::MAX_SAMPLES || bits > u64::from(u32::MAX)
    }

    /// Appends a sample that fits.
    fn put(&mut self, tail: &mut Vec<u8>, t: i64, histogram: &Histogram<K>) {
        tail.truncate(HEADER_BYTES + (self.len_bits / 64) as usize * 8);
        let mut stream = Stream::resume(tail, (self.partial, self.len_bits));
        self.time.put(&mut stream, t as u64);
        if histogram.is_stale() {
            K::put_stale_count(&mut stream, &mut self.count);
            K::put_stale_count(&mut stream, &mut self.zero_count);
            self.sum.put(&mut stream, histogram.sum.0);
        } else {
            self.count.put(&mut stream, K::raw_count(histogram.count));
            self.zero_count.put(&mut stream, K::raw_count(histogram.zero_count));
            self.sum.put(&mut stream, histogram.sum.0);
            let positive = spread(&self.layout.positive, &histogram.positive);
            let stored = positive.chain(spread(&self.layout.negative, &histogram.negative));
            for (bucket, stored) in self.buckets.iter_mut().zip(stored) {
                bucket.put(&mut stream, K::raw_bucket(stored));
            }
        }
        (self.partial, self.len_bits) = stream.suspend();
        self.samples += 1;
    }

    /// Writes the chunk anew with more buckets, which are empty in the samples it has. `tail` holds
    /// what this appender has written so far, and afterwards other bytes; the samples are the same.
    ///
    /// # Panics
    ///
    /// When `tail` is not this appender's.
    pub fn recode(&mut self, tail: &mut Vec<u8>, wider: Wider) {
        self.finish(tail);
        let narrow = std::mem::take(tail);
        let mut layout = self.layout.clone();
        (layout.positive, layout.negative) = (wider.positive, wider.negative);
        let mut recoded: Option<Self> = None;
        let mut reader = Reader::new(&narrow).ok();
        while let Some(Ok(point)) = reader.as_mut().and_then(Reader::advance) {
            if let Some(appender) = &mut recoded {
                appender.put(tail, point.t, point.histogram);
            } else {
                let layout = layout.clone();
                recoded = Some(Self::begin(tail, self.header, layout, point.t, point.histogram));
            }
        }
        let samples = self.samples;
        if let Some(recoded) = recoded {
            *self = recoded;
        }
        assert_eq!(self.samples, samples, "a chunk of its own cannot be read");
    }

    /// Makes `tail` the exact bytes of the chunk so far. The appender goes on afterwards as if
    /// nothing had happened.
    pub fn finish(&self, tail: &mut Vec<u8>) {
        tail.resize(self.len_bytes(), 0);
        tail[..2].copy_from_slice(&self.samples.to_be_bytes());
        tail[2] = header_byte(self.header);
        bits::settle(&mut tail[HEADER_BYTES..], (self.partial, self.len_bits));
    }

    /// How many samples were appended.
    pub fn count(&self) -> u16 {
        self.samples
    }

    /// Sum of the last sample.
    pub fn sum(&self) -> Double {
        Double(self.sum.bits)
    }

    /// How many buckets the chunk has.
    pub fn buckets(&self) -> u64 {
        self.buckets.len() as u64
    }

    /// Header of the chunk.
    pub fn header(&self) -> ResetHint {
        self.header
    }

    /// Time of the last sample, ms.
    pub fn last_t(&self) -> i64 {
        self.time.raw() as i64
    }

    /// Whether the last sample is a stale marker.
    pub fn is_stale(&self) -> bool {
        Double(self.sum.bits) == Double::STALE
    }

    /// The last sample, in the buckets of the chunk. For cold paths.
    pub fn last(&self) -> Histogram<K> {
        if self.is_stale() {
            return Histogram::stale();
        }
        let (positive, negative) = self.sides();
        let side = |spans: &[Span], fields: &[K::Field]| Side {
            spans: spans.to_vec(),
            values: fields.iter().map(|field| K::bucket(field.raw())).collect(),
        };
        let gauge = self.header == ResetHint::Gauge;
        Histogram {
            hint: if gauge { ResetHint::Gauge } else { ResetHint::Unknown },
            schema: self.layout.schema,
            zero_threshold: self.layout.zero_threshold,
            zero_count: K::count(self.zero_count.raw()),
            count: K::count(self.count.raw()),
            sum: Double(self.sum.bits),
            positive: side(&self.layout.positive, positive),
            negative: side(&self.layout.negative, negative),
            custom_values: self.layout.custom_values.to_vec(),
        }
    }

    /// Length of the chunk so far in bytes, its header included.
    pub fn len_bytes(&self) -> usize {
        HEADER_BYTES + self.len_bits.div_ceil(8) as usize
    }

    /// Bytes this appender has on the heap, beside the tail.
    pub fn heap_bytes(&self) -> usize {
        let layout = &self.layout;
        size_of_val(&*self.buckets)
            + size_of_val(&*layout.positive)
            + size_of_val(&*layout.negative)
            + size_of_val(&*layout.custom_values)
    }

    /// The fields of the positive and of the negative buckets.
    fn sides(&self) -> (&[K::Field], &[K::Field]) {
        self.buckets.split_at(bucket_count(&self.layout.positive) as usize)
    }
}

/// Index and population of each bucket of a chunk's last sample.
fn populations<K: Codec>(
    spans: &[Span],
    fields: &[K::Field],
) -> impl Iterator<Item = (i64, K::Bucket)> {
    let mut population = K::Bucket::default();
    indices(spans).zip(fields).map(move |(index, field)| {
        population = K::population(population, K::bucket(field.raw()));
        (index, population)
    })
}
