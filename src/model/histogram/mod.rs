//! Native histograms: a sample that holds a whole distribution, with integer or float counts.
//!
//! The types mirror remote write's message and the TSDB: an exponential schema or custom bounds, a
//! zero bucket, and on each side of it spans of buckets. A [`Span`] is a run of consecutive
//! buckets. Schema `s` from -4 to 8 has the bucket `i` over `(2^((i-1)·2^-s), 2^(i·2^-s)]`; schema
//! -53 has bounds of its own, told in `custom_values`, and no zero bucket and no negative side.
//!
//! ## Promises
//!
//! - Doubles are kept as bits ([`Double`]): payloads of NaN and signs of zero are data.
//! - [`Histogram::validate`] accepts what Prometheus 3.x accepts and refuses what it refuses, and
//!   names the value that is wrong.
//! - Nothing here panics or takes more memory than the histogram has, however wrong it is.
//!
//! A stale marker is a histogram whose sum is the stale NaN; all its other fields mean nothing.

use std::fmt;
use std::sync::LazyLock;

use thiserror::Error;

use HistogramError as Fault;

use crate::model::STALE_NAN_BITS;

/// The coarsest exponential schema.
pub const SCHEMA_MIN: i32 = -4;
/// The finest exponential schema.
pub const SCHEMA_MAX: i32 = 8;
/// The schema of histograms with custom bounds.
pub const SCHEMA_CUSTOM: i32 = -53;

/// A double kept as its bits. Equal means equal bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Double(pub u64);

impl Double {
    /// The stale marker.
    pub const STALE: Self = Self(STALE_NAN_BITS);

    /// The value. For looking and reckoning: a signalling NaN may come back quiet.
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }

    /// Whether both are the same number: zeros are, whatever their sign, and NaN never is.
    #[expect(clippy::float_cmp, reason = "the same number or another")]
    pub fn is_number(self, other: Self) -> bool {
        self.value() == other.value()
    }
}

impl From<f64> for Double {
    fn from(value: f64) -> Self {
        Self(value.to_bits())
    }
}

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value().is_nan() {
            write!(f, "NaN({:#x})", self.0)
        } else {
            write!(f, "{:?}", self.value())
        }
    }
}

/// What is known of a counter reset before a histogram. The numbers are remote write's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ResetHint {
    /// Nothing: who needs it must compare.
    #[default]
    Unknown = 0,
    /// The counter was reset between the histogram before and this one.
    Reset = 1,
    /// It was not.
    NotReset = 2,
    /// It is a gauge, which has no resets.
    Gauge = 3,
}

/// A run of consecutive buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Buckets between the end of the span before and this one; of the first span the index of its
    /// first bucket, which may be negative.
    pub offset: i32,
    /// Number of buckets.
    pub length: u32,
}

/// The two kinds of histogram, [`Integer`] and [`Float`], as far as they differ.
pub trait Kind: sealed::Sealed + Copy + PartialEq + fmt::Debug + 'static {
    /// Number of observations.
    type Count: Copy + PartialEq + Default + fmt::Debug;
    /// A bucket's population, and what is stored for it.
    type Bucket: Copy + PartialEq + Default + fmt::Debug;

    /// The population of a bucket from what is stored and the population of the bucket before.
    fn population(before: Self::Bucket, stored: Self::Bucket) -> Self::Bucket;
    /// What is stored for a population: the other way round.
    fn stored(before: Self::Bucket, population: Self::Bucket) -> Self::Bucket;
    /// The sum of two populations.
    fn sum(one: Self::Bucket, other: Self::Bucket) -> Self::Bucket;
    /// Whether a population has become smaller.
    fn fell(from: Self::Bucket, to: Self::Bucket) -> bool;
    /// Whether a count has become smaller.
    fn count_fell(from: Self::Count, to: Self::Count) -> bool;
    /// A population as a number.
    fn number(population: Self::Bucket) -> f64;
    /// A count as a number.
    fn count_number(count: Self::Count) -> f64;
    /// Whether the populations amount to the count.
    fn check_count(histogram: &Histogram<Self>) -> Result<(), HistogramError>;
}

mod sealed {
    /// Nobody else has kinds of histograms.
    pub trait Sealed {}
    impl Sealed for super::Integer {}
    impl Sealed for super::Float {}
}

/// Integer counts; a bucket holds the difference of its population to the bucket before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {}

/// Float counts; a bucket holds its population.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {}

// Sums wrap, as in Prometheus: what validation accepts must not depend on who is asked.
impl Kind for Integer {
    type Count = u64;
    type Bucket = i64;

    fn population(before: i64, stored: i64) -> i64 {
        before.wrapping_add(stored)
    }

    fn stored(before: i64, population: i64) -> i64 {
        population.wrapping_sub(before)
    }

    fn sum(one: i64, other: i64) -> i64 {
        one.wrapping_add(other)
    }

    fn fell(from: i64, to: i64) -> bool {
        to < from
    }

    fn count_fell(from: u64, to: u64) -> bool {
        to < from
    }

    fn number(population: i64) -> f64 {
        population as f64
    }

    fn count_number(count: u64) -> f64 {
        count as f64
    }

    fn check_count(histogram: &Histogram<Self>) -> Result<(), HistogramError> {
        let populations = histogram.negative.iter().chain(histogram.positive.iter());
        let found = populations
            .fold(histogram.zero_count, |sum, (_, population)| sum.wrapping_add(population as u64));
        let count = histogram.count;
        if histogram.sum.value().is_nan() {
            // Observations of NaN are counted and are in no bucket.
            if found > count {
                return Err(HistogramError::CountTooSmall { count, found });
            }
        } else if found != count {
            return Err(HistogramError::CountMismatch { count, found });
        }
        Ok(())
    }
}

impl Kind for Float {
    type Count = Double;
    type Bucket = Double;

    fn population(_: Double, stored: Double) -> Double {
        stored
    }

    fn stored(_: Double, population: Double) -> Double {
        population
    }

    fn sum(one: Double, other: Double) -> Double {
        (one.value() + other.value()).into()
    }

    fn fell(from: Double, to: Double) -> bool {
        to.value() < from.value()
    }

    fn count_fell(from: Double, to: Double) -> bool {
        to.value() < from.value()
    }

    fn number(population: Double) -> f64 {
        population.value()
    }

    fn count_number(count: Double) -> f64 {
        count.value()
    }

    /// Floats do not add up exactly.
    fn check_count(_: &Histogram<Self>) -> Result<(), HistogramError> {
        Ok(())
    }
}

/// A native histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram<K: Kind> {
    /// What the sender knows of a counter reset.
    pub hint: ResetHint,
    /// -4 to 8, or -53 for custom bounds.
    pub schema: i32,
    /// Half the width of the zero bucket.
    pub zero_threshold: Double,
    /// Observations in the zero bucket.
    pub zero_count: K::Count,
    /// All observations.
    pub count: K::Count,
    /// Sum of all observations; the stale NaN makes this a stale marker.
    pub sum: Double,
    /// Buckets above the zero bucket; all buckets with custom bounds.
    pub positive: Side<K>,
    /// Buckets below the zero bucket, from it outwards.
    pub negative: Side<K>,
    /// Upper bounds of the buckets of schema -53, ascending, without the infinite one.
    pub custom_values: Vec<Double>,
}

/// A histogram with integer counts.
pub type IntegerHistogram = Histogram<Integer>;
/// A histogram with float counts.
pub type FloatHistogram = Histogram<Float>;

/// A histogram of either kind, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HistogramRef<'h> {
    /// With integer counts.
    Integer(&'h IntegerHistogram),
    /// With float counts.
    Float(&'h FloatHistogram),
}

impl HistogramRef<'static> {
    /// The stale marker.
    pub fn stale(is_float: bool) -> Self {
        static STALE: LazyLock<(IntegerHistogram, FloatHistogram)> =
            LazyLock::new(|| (Histogram::stale(), Histogram::stale()));
        if is_float { Self::Float(&STALE.1) } else { Self::Integer(&STALE.0) }
    }
}

impl HistogramRef<'_> {
    /// What the sender knows of a counter reset.
    pub fn hint(&self) -> ResetHint {
        match self {
            Self::Integer(histogram) => histogram.hint,
            Self::Float(histogram) => histogram.hint,
        }
    }

    /// How many buckets it has, and bounds.
    pub fn width(&self) -> usize {
        match self {
            Self::Integer(histogram) => histogram.width(),
            Self::Float(histogram) => histogram.width(),
        }
    }

    /// Whether it is a stale marker.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Integer(histogram) => histogram.is_stale(),
            Self::Float(histogram) => histogram.is_stale(),
        }
    }
}

/// The buckets on one side of the zero bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Side<K: Kind> {
    /// Which buckets there are.
    pub spans: Vec<Span>,
    /// What is stored for each, in order: differences of integers, or floats as they are.
    pub values: Vec<K::Bucket>,
}

impl<K: Kind> Default for Side<K> {
    fn default() -> Self {
        Self { spans: Vec::new(), values: Vec::new() }
    }
}

impl<K: Kind> Side<K> {
    /// Index and population of each bucket.
    pub fn iter(&self) -> impl Iterator<Item = (i64, K::Bucket)> {
        let mut population = K::Bucket::default();
        indices(&self.spans).zip(&self.values).map(move |(index, &stored)| {
            population = K::population(population, stored);
            (index, population)
        })
    }

    /// Whether the same buckets have the same populations; a bucket that is not there is empty.
    fn same_as(&self, other: &Self) -> bool {
        let filled = |&(_, population): &(i64, K::Bucket)| population != K::Bucket::default();
        self.iter().filter(filled).eq(other.iter().filter(filled))
    }

    /// Merges each `2^shift` buckets.
    fn merge(&mut self, shift: u32) {
        let mut spans = Spans::default();
        let mut populations: Vec<(i64, K::Bucket)> = Vec::with_capacity(self.values.len());
        for (index, population) in self.iter() {
            let index = ((index - 1) >> shift) + 1;
            match populations.last_mut() {
                Some((last, sum)) if *last == index => *sum = K::sum(*sum, population),
                _ => {
                    spans.push(index);
                    populations.push((index, population));
                }
            }
        }
        let mut before = K::Bucket::default();
        let stored = populations.into_iter().map(|(_, population)| {
            K::stored(std::mem::replace(&mut before, population), population)
        });
        self.values = stored.collect();
        self.spans = spans.into_inner();
    }

    fn check_spans(&self, side: &'static str, first_may_be_negative: bool) -> Result<(), Fault> {
        let lowest = |n| if first_may_be_negative && n == 0 { i32::MIN } else { 0 };
        if let Some((n, span)) =
            self.spans.iter().enumerate().find(|&(n, span)| span.offset < lowest(n))
        {
            return Err(Fault::SpanOffset { side, number: n + 1, offset: span.offset });
        }
        let announced = self.spans.iter().map(|span| u64::from(span.length)).sum();
        let found = self.values.len();
        if announced != found as u64 {
            return Err(Fault::SpansMismatch { side, announced, found });
        }
        Ok(())
    }

    fn check_populations(&self, side: &'static str) -> Result<(), Fault> {
        for (number, (_, population)) in (1..).zip(self.iter()) {
            if K::fell(K::Bucket::default(), population) {
                let population = K::number(population);
                return Err(Fault::NegativeBucket { side, number, population });
            }
        }
        Ok(())
    }
}

impl<K: Kind> Default for Histogram<K> {
    fn default() -> Self {
        Self {
            hint: ResetHint::Unknown,
            schema: 0,
            zero_threshold: Double::default(),
            zero_count: K::Count::default(),
            count: K::Count::default(),
            sum: Double::default(),
            positive: Side::default(),
            negative: Side::default(),
            custom_values: Vec::new(),
        }
    }
}

impl<K: Kind> Histogram<K> {
    /// The stale marker.
    pub fn stale() -> Self {
        Self { sum: Double::STALE, ..Self::default() }
    }

    /// Whether this is a stale marker.
    pub fn is_stale(&self) -> bool {
        self.sum == Double::STALE
    }

    /// Whether both are the same sample: equal bits in all that counts. Hints, the spelling of
    /// spans, buckets without population and the sign of a zero among thresholds and bounds do not,
    /// because a chunk does not keep them.
    pub fn same_as(&self, other: &Self) -> bool {
        if self.is_stale() || other.is_stale() {
            return self.is_stale() == other.is_stale();
        }
        self.schema == other.schema
            && self.count == other.count
            && self.zero_count == other.zero_count
            && self.sum == other.sum
            && same_value(self.zero_threshold, other.zero_threshold)
            && self.custom_values.len() == other.custom_values.len()
            && (self.custom_values.iter().zip(&other.custom_values))
                .all(|(&one, &two)| same_value(one, two))
            && self.positive.same_as(&other.positive)
            && self.negative.same_as(&other.negative)
    }

    /// Merges buckets so that the schema is not finer than `schema`. Histograms that are coarser
    /// already and those with custom bounds stay as they are.
    pub fn reduce_to(&mut self, schema: i32) {
        if self.schema <= schema || self.schema == SCHEMA_CUSTOM {
            return;
        }
        let shift = self.schema.abs_diff(schema).min(i64::BITS - 1);
        self.positive.merge(shift);
        self.negative.merge(shift);
        self.schema = schema;
    }

    /// Whether Prometheus 3.x would store this histogram, and if not, why. A stale marker is judged
    /// like any other; [`Histogram::stale`] is valid.
    pub fn validate(&self) -> Result<(), HistogramError> {
        match self.schema {
            SCHEMA_CUSTOM => self.check_custom()?,
            SCHEMA_MIN..=SCHEMA_MAX => self.check_exponential()?,
            schema => return Err(Fault::UnknownSchema { schema }),
        }
        if K::count_fell(K::Count::default(), self.count) {
            return Err(Fault::NegativeCount { count: K::count_number(self.count) });
        }
        self.positive.check_populations(POSITIVE)?;
        K::check_count(self)
    }

    /// Whether spans and buckets of both sides fit, as an exponential schema has them.
    pub fn check_spans(&self) -> Result<(), HistogramError> {
        self.positive.check_spans(POSITIVE, true)?;
        self.negative.check_spans(NEGATIVE, true)
    }

    /// How many buckets it has, and bounds.
    pub fn width(&self) -> usize {
        self.positive.values.len() + self.negative.values.len() + self.custom_values.len()
    }

    fn check_exponential(&self) -> Result<(), Fault> {
        self.check_spans()?;
        self.negative.check_populations(NEGATIVE)?;
        if K::count_fell(K::Count::default(), self.zero_count) {
            return Err(Fault::NegativeZeroCount { count: K::count_number(self.zero_count) });
        }
        match self.custom_values.len() {
            0 => Ok(()),
            bounds => Err(Fault::ExponentialWithBounds { schema: self.schema, bounds }),
        }
    }

    fn check_custom(&self) -> Result<(), Fault> {
        self.check_bounds()?;
        self.positive.check_spans(CUSTOM, false)?;
        let spans = self.positive.spans.iter();
        let covered: i64 = spans.map(|s| i64::from(s.offset) + i64::from(s.length)).sum();
        let bounds = self.custom_values.len();
        if (bounds as i64) + 1 < covered {
            return Err(Fault::BoundsTooFew { bounds, covered });
        }
        let zero_count = K::count_number(self.zero_count);
        if zero_count != 0.0 {
            return Err(Fault::CustomZeroCount { count: zero_count });
        }
        let threshold = self.zero_threshold.value();
        if threshold != 0.0 {
            return Err(Fault::CustomZeroThreshold { threshold });
        }
        let (spans, buckets) = (self.negative.spans.len(), self.negative.values.len());
        if spans > 0 || buckets > 0 {
            return Err(Fault::CustomNegativeSide { spans, buckets });
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), Fault> {
        let mut before = f64::NEG_INFINITY;
        for (n, bound) in self.custom_values.iter().map(|bound| bound.value()).enumerate() {
            if bound.is_nan() {
                return Err(Fault::BoundNan { number: n + 1 });
            }
            if n > 0 && bound <= before {
                return Err(Fault::BoundOrder { number: n + 1, before, bound });
            }
            before = bound;
        }
        if before == f64::INFINITY {
            return Err(Fault::BoundInfinite { number: self.custom_values.len() });
        }
        Ok(())
    }
}

fn same_value(one: Double, two: Double) -> bool {
    one == two || one.is_number(two)
}

/// The index of each bucket of spans, in order.
pub fn indices(spans: &[Span]) -> impl Iterator<Item = i64> {
    let mut end = 0;
    spans.iter().flat_map(move |span| {
        let begin = end + i64::from(span.offset);
        end = begin + i64::from(span.length);
        begin..end
    })
}

/// Spans as they grow by a bucket at a time, as few as can be.
#[derive(Debug, Default)]
pub struct Spans {
    spans: Vec<Span>,
    end: i64,
}

impl Spans {
    /// Adds the bucket of an index, which is higher than those before.
    pub fn push(&mut self, index: i64) {
        let mut offset = index - self.end;
        self.end = index + 1;
        if let (0, Some(last)) = (offset, self.spans.last_mut()) {
            last.length += 1;
            return;
        }
        // An offset that a span cannot hold takes empty ones to help.
        loop {
            let part = offset.clamp(i32::MIN.into(), i32::MAX.into());
            offset -= part;
            let length = u32::from(offset == 0);
            self.spans.push(Span { offset: part as i32, length });
            if offset == 0 {
                return;
            }
        }
    }

    /// The spans.
    pub fn into_inner(self) -> Vec<Span> {
        self.spans
    }
}

const POSITIVE: &str = "positive side";
const NEGATIVE: &str = "negative side";
const CUSTOM: &str = "custom buckets";

/// Why a histogram is invalid. Numbers of spans, buckets and bounds count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum HistogramError {
    /// The schema is none that is stored.
    #[error(
        "schema {schema}: it must be between -4 and 8 for exponential buckets, or -53 for custom \
         buckets"
    )]
    UnknownSchema {
        /// The schema.
        schema: i32,
    },
    /// A span begins before the end of the span before it.
    #[error("{side}: span number {number} has the negative offset {offset}")]
    SpanOffset {
        /// Where.
        side: &'static str,
        /// Which.
        number: usize,
        /// Its offset.
        offset: i32,
    },
    /// Spans and buckets do not fit.
    #[error("{side}: spans need {announced} buckets, have {found} buckets")]
    SpansMismatch {
        /// Where.
        side: &'static str,
        /// Sum of the lengths of the spans.
        announced: u64,
        /// Number of buckets.
        found: usize,
    },
    /// A bucket has fewer than no observations.
    #[error("{side}: bucket number {number} has the negative observation count {population}")]
    NegativeBucket {
        /// Where.
        side: &'static str,
        /// Which.
        number: usize,
        /// Its observations.
        population: f64,
    },
    /// The zero bucket has fewer than no observations.
    #[error("the zero bucket has the negative observation count {count}")]
    NegativeZeroCount {
        /// Its observations.
        count: f64,
    },
    /// There are fewer than no observations.
    #[error("the observation count {count} is negative")]
    NegativeCount {
        /// The count.
        count: f64,
    },
    /// An exponential histogram brings custom bounds.
    #[error("schema {schema} is exponential and must not have custom bounds, has {bounds}")]
    ExponentialWithBounds {
        /// The schema.
        schema: i32,
        /// How many.
        bounds: usize,
    },
    /// A custom bound is no number.
    #[error("custom buckets: bound number {number} is NaN")]
    BoundNan {
        /// Which.
        number: usize,
    },
    /// Custom bounds do not ascend.
    #[error(
        "custom buckets: bound number {number} is {bound} after {before}; bounds must be strictly \
         increasing"
    )]
    BoundOrder {
        /// Which.
        number: usize,
        /// The bound before.
        before: f64,
        /// The bound.
        bound: f64,
    },
    /// The last custom bound is the infinite one, which is implied.
    #[error("custom buckets: bound number {number} is +Inf, which must not be told explicitly")]
    BoundInfinite {
        /// Which.
        number: usize,
    },
    /// There are buckets without a bound.
    #[error("custom buckets: {bounds} bounds are too few for spans over {covered} buckets")]
    BoundsTooFew {
        /// How many.
        bounds: usize,
        /// Buckets from the first possible to the last in the spans.
        covered: i64,
    },
    /// There is a zero bucket beside custom ones.
    #[error("custom buckets: the zero count must be 0, is {count}")]
    CustomZeroCount {
        /// Its observations.
        count: f64,
    },
    /// There is a zero bucket beside custom ones.
    #[error("custom buckets: the zero threshold must be 0, is {threshold}")]
    CustomZeroThreshold {
        /// The threshold.
        threshold: f64,
    },
    /// There is a negative side beside custom buckets.
    #[error(
        "custom buckets: there must be no negative side, has {spans} spans and {buckets} buckets"
    )]
    CustomNegativeSide {
        /// How many spans.
        spans: usize,
        /// How many buckets.
        buckets: usize,
    },
    /// Buckets and count of a histogram without NaN among its observations differ.
    #[error("{found} observations found in buckets, but the count is {count}: it must be equal")]
    CountMismatch {
        /// The count.
        count: u64,
        /// Sum over the buckets.
        found: u64,
    },
    /// Buckets have more observations than were made.
    #[error("{found} observations found in buckets, but the count is {count}: it must be as large")]
    CountTooSmall {
        /// The count.
        count: u64,
        /// Sum over the buckets.
        found: u64,
    },
}

#[cfg(test)]
mod tests;
