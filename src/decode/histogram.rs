//! A native histogram of a request: its message read, and checked.
//!
//! ```text
//! Histogram    08 count: varint, or 11 count: double         19 sum: double   20 schema: zigzag
//!              29 zero threshold: double                     30, 39 zero count like count
//!              42, 5a span*: 08 offset zigzag, 10 length     negative, positive
//!              4a, 62 delta*: zigzag    51/52, 69/6a count*: double    negative, positive
//!              70 reset hint   78 time   81/82 01 custom bounds: double*   88 01 start time
//! ```
//! (prompb `types.proto`; 2.0 has the same message with custom bounds allowed and the start time.)
//! It is a histogram of floats exactly when its count is a double, also when that is 0. Numbers may
//! be packed or not, as in any protobuf reader; what comes twice counts as it came last, and what
//! repeats goes on.
//!
//! The message is also how the log keeps a histogram: what was sent is what is stored.
//!
//! ## Promises
//! - Memory is in proportion to the message, which is at most [`MESSAGE_BYTES_MAX`], and is used
//!   again.
//! - What comes out is valid ([`Histogram::validate`]), of a schema that is stored: finer ones, up
//!   to 52, are merged to the finest, as Prometheus does. A stale marker is
//!   [`Histogram::stale`], whatever else it says.

use crate::chunk::histogram::PARTS_MAX;
use crate::decode::protobuf::{Cursor, FIXED64, RECORD, VARINT, key};
use crate::decode::{Error, SeriesError};
use crate::model::STALE_NAN_BITS;
use crate::model::histogram::{
    Double, FloatHistogram, Histogram, HistogramError, HistogramRef, IntegerHistogram, Kind,
    ResetHint, SCHEMA_MAX, Span,
};
use crate::stdx::varint;

/// Longest message of a histogram in bytes. The finest histogram over nine decades has some eight
/// thousand buckets, of one or two bytes each.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;
const _: () = assert!(MESSAGE_BYTES_MAX as u64 <= PARTS_MAX, "a chunk takes what is read");
/// The finest schema there is, though none so fine is stored.
const SCHEMA_RESERVED_MAX: i32 = 52;

const COUNT_INT: u32 = key(1, VARINT);
const COUNT_FLOAT: u32 = key(2, FIXED64);
const SUM: u32 = key(3, FIXED64);
const SCHEMA: u32 = key(4, VARINT);
const ZERO_THRESHOLD: u32 = key(5, FIXED64);
const ZERO_COUNT_INT: u32 = key(6, VARINT);
const ZERO_COUNT_FLOAT: u32 = key(7, FIXED64);
const NEGATIVE_SPAN: u32 = key(8, RECORD);
const NEGATIVE_DELTA: u32 = key(9, VARINT);
const NEGATIVE_DELTAS: u32 = key(9, RECORD);
const NEGATIVE_COUNT: u32 = key(10, FIXED64);
const NEGATIVE_COUNTS: u32 = key(10, RECORD);
const POSITIVE_SPAN: u32 = key(11, RECORD);
const POSITIVE_DELTA: u32 = key(12, VARINT);
const POSITIVE_DELTAS: u32 = key(12, RECORD);
const POSITIVE_COUNT: u32 = key(13, FIXED64);
const POSITIVE_COUNTS: u32 = key(13, RECORD);
const RESET_HINT: u32 = key(14, VARINT);
const TIMESTAMP: u32 = key(15, VARINT);
const BOUND: u32 = key(16, FIXED64);
const BOUNDS: u32 = key(16, RECORD);
const START_TIMESTAMP: u32 = key(17, VARINT);
const KNOWN: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];

const OFFSET: u32 = key(1, VARINT);
const LENGTH: u32 = key(2, VARINT);

/// Reads histograms, one after the other, in the same memory.
#[derive(Debug, Default)]
pub struct Reader {
    integer: IntegerHistogram,
    float: FloatHistogram,
    is_float: bool,
    t: i64,
}

impl Reader {
    /// Reads a message: its time in milliseconds, and a valid histogram, gone with the next.
    pub fn read(&mut self, message: &[u8]) -> Result<(i64, HistogramRef<'_>), SeriesError> {
        let (got, max) = (message.len(), MESSAGE_BYTES_MAX);
        if got > max {
            return Err(SeriesError::HistogramTooLong { got, max });
        }
        self.clear();
        self.fields(Cursor::new(message)).map_err(|error| invalid(&error))?;
        if self.is_float {
            self.float.positive.spans.append(&mut self.integer.positive.spans);
            self.float.negative.spans.append(&mut self.integer.negative.spans);
            self.float.custom_values.append(&mut self.integer.custom_values);
            self.float.hint = self.integer.hint;
            self.float.schema = self.integer.schema;
            self.float.zero_threshold = self.integer.zero_threshold;
            self.float.sum = self.integer.sum;
        }
        let read = if self.integer.sum.0 == STALE_NAN_BITS {
            HistogramRef::stale(self.is_float)
        } else if self.is_float {
            HistogramRef::Float(checked(&mut self.float).map_err(|error| invalid(&error))?)
        } else {
            HistogramRef::Integer(checked(&mut self.integer).map_err(|error| invalid(&error))?)
        };
        Ok((self.t, read))
    }

    fn clear(&mut self) {
        fn empty<K: Kind>(histogram: &mut Histogram<K>) {
            for side in [&mut histogram.positive, &mut histogram.negative] {
                side.spans.clear();
                side.values.clear();
            }
            histogram.custom_values.clear();
            let (positive, negative) =
                (std::mem::take(&mut histogram.positive), std::mem::take(&mut histogram.negative));
            let custom_values = std::mem::take(&mut histogram.custom_values);
            *histogram = Histogram { positive, negative, custom_values, ..Histogram::default() };
        }
        empty(&mut self.integer);
        empty(&mut self.float);
        (self.is_float, self.t) = (false, 0);
    }

    /// What both kinds have is gathered in the integer one.
    fn fields(&mut self, mut message: Cursor<'_>) -> Result<(), Error> {
        let Self { integer, float, .. } = self;
        while !message.is_at_end() {
            match message.key()? {
                COUNT_INT => (self.is_float, integer.count) = (false, message.varint()?),
                COUNT_FLOAT => {
                    (self.is_float, float.count) = (true, Double(message.fixed64()?));
                }
                SUM => integer.sum = Double(message.fixed64()?),
                SCHEMA => integer.schema = zigzag32(message.varint()?),
                ZERO_THRESHOLD => integer.zero_threshold = Double(message.fixed64()?),
                ZERO_COUNT_INT => {
                    (integer.zero_count, float.zero_count) = (message.varint()?, Double(0));
                }
                ZERO_COUNT_FLOAT => {
                    (integer.zero_count, float.zero_count) = (0, Double(message.fixed64()?));
                }
                NEGATIVE_SPAN => integer.negative.spans.push(span(&mut message)?),
                POSITIVE_SPAN => integer.positive.spans.push(span(&mut message)?),
                NEGATIVE_DELTA => integer.negative.values.push(varint::unzigzag(message.varint()?)),
                POSITIVE_DELTA => integer.positive.values.push(varint::unzigzag(message.varint()?)),
                NEGATIVE_DELTAS => deltas(&mut message, &mut integer.negative.values)?,
                POSITIVE_DELTAS => deltas(&mut message, &mut integer.positive.values)?,
                NEGATIVE_COUNT => float.negative.values.push(Double(message.fixed64()?)),
                POSITIVE_COUNT => float.positive.values.push(Double(message.fixed64()?)),
                NEGATIVE_COUNTS => doubles(&mut message, &mut float.negative.values)?,
                POSITIVE_COUNTS => doubles(&mut message, &mut float.positive.values)?,
                RESET_HINT => integer.hint = reset_hint(message.varint()?),
                TIMESTAMP => self.t = message.varint()? as i64,
                BOUND => integer.custom_values.push(Double(message.fixed64()?)),
                BOUNDS => doubles(&mut message, &mut integer.custom_values)?,
                START_TIMESTAMP => {
                    message.varint()?;
                }
                other => message.skip(other, KNOWN)?,
            }
        }
        Ok(())
    }
}

#[cold]
fn invalid(error: &impl ToString) -> SeriesError {
    SeriesError::HistogramInvalid { what: error.to_string() }
}

/// Checks a histogram that is no stale marker, in a schema that is stored.
fn checked<K: Kind>(histogram: &mut Histogram<K>) -> Result<&Histogram<K>, HistogramError> {
    if (SCHEMA_MAX + 1..=SCHEMA_RESERVED_MAX).contains(&histogram.schema) {
        histogram.check_spans()?;
        histogram.reduce_to(SCHEMA_MAX);
    }
    histogram.validate()?;
    Ok(histogram)
}

fn span(message: &mut Cursor<'_>) -> Result<Span, Error> {
    let record = message.record()?;
    let mut record = message.within(record);
    let mut span = Span { offset: 0, length: 0 };
    while !record.is_at_end() {
        match record.key()? {
            OFFSET => span.offset = zigzag32(record.varint()?),
            LENGTH => span.length = record.varint()? as u32,
            other => record.skip(other, &[1, 2])?,
        }
    }
    Ok(span)
}

fn deltas(message: &mut Cursor<'_>, into: &mut Vec<i64>) -> Result<(), Error> {
    let record = message.record()?;
    let mut record = message.within(record);
    while !record.is_at_end() {
        into.push(varint::unzigzag(record.varint()?));
    }
    Ok(())
}

fn doubles(message: &mut Cursor<'_>, into: &mut Vec<Double>) -> Result<(), Error> {
    let record = message.record()?;
    let mut record = message.within(record);
    while !record.is_at_end() {
        into.push(Double(record.fixed64()?));
    }
    Ok(())
}

/// More than 32 bits are cut off, as everywhere in protobuf.
fn zigzag32(raw: u64) -> i32 {
    varint::unzigzag(u64::from(raw as u32)) as i32
}

/// A hint that has no name is none.
fn reset_hint(raw: u64) -> ResetHint {
    match raw as i32 {
        1 => ResetHint::Reset,
        2 => ResetHint::NotReset,
        3 => ResetHint::Gauge,
        _ => ResetHint::Unknown,
    }
}

/// The message of a stale marker at a time, of either kind.
pub fn stale_message(t: i64, is_float: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(29);
    if is_float {
        message.push(COUNT_FLOAT as u8);
        message.extend_from_slice(&[0; 8]);
    } else {
        message.extend_from_slice(&[COUNT_INT as u8, 0]);
    }
    message.push(SUM as u8);
    message.extend_from_slice(&STALE_NAN_BITS.to_le_bytes());
    message.push(TIMESTAMP as u8);
    varint::put_u64(&mut message, t as u64);
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use tidegate_proto::prometheus as v1;
    use v1::histogram::{Count, ZeroCount};

    use super::*;
    use crate::model::histogram::Side;

    fn plain(message: &[u8]) -> Result<(i64, v1::Histogram), prost::DecodeError> {
        v1::Histogram::decode(message).map(|histogram| (histogram.timestamp, histogram))
    }

    fn side<K: Kind>(spans: &[v1::BucketSpan], values: Vec<K::Bucket>) -> Side<K> {
        let span = |span: &v1::BucketSpan| Span { offset: span.offset, length: span.length };
        Side { spans: spans.iter().map(span).collect(), values }
    }

    fn with_common<K: Kind>(of: &v1::Histogram, own: Histogram<K>) -> Histogram<K> {
        Histogram {
            hint: reset_hint(of.reset_hint as u64),
            schema: of.schema,
            zero_threshold: of.zero_threshold.into(),
            sum: of.sum.into(),
            custom_values: of.custom_values.iter().map(|&bound| bound.into()).collect(),
            ..own
        }
    }

    /// What prost makes of it, as ours.
    fn integer(of: &v1::Histogram) -> IntegerHistogram {
        let count = if let Some(Count::CountInt(count)) = of.count { count } else { 0 };
        let zeros = if let Some(ZeroCount::ZeroCountInt(n)) = of.zero_count { n } else { 0 };
        let positive = side(&of.positive_spans, of.positive_deltas.clone());
        let negative = side(&of.negative_spans, of.negative_deltas.clone());
        let own =
            Histogram { count, zero_count: zeros, positive, negative, ..Histogram::default() };
        with_common(of, own)
    }

    fn float(of: &v1::Histogram) -> FloatHistogram {
        let count = if let Some(Count::CountFloat(count)) = of.count { count } else { 0.0 };
        let zeros = if let Some(ZeroCount::ZeroCountFloat(n)) = of.zero_count { n } else { 0.0 };
        let doubles = |all: &[f64]| all.iter().map(|&one| one.into()).collect();
        let positive = side(&of.positive_spans, doubles(&of.positive_counts));
        let negative = side(&of.negative_spans, doubles(&of.negative_counts));
        let (count, zero_count) = (count.into(), zeros.into());
        with_common(of, Histogram { zero_count, count, positive, negative, ..Histogram::default() })
    }

    fn check(message: &[u8]) {
        let mut reader = Reader::default();
        // What was read before leaves nothing behind.
        reader.read(&stale_message(3, true)).expect("a stale marker");
        match (plain(message), reader.read(message)) {
            (Err(_), got) => {
                assert!(matches!(got, Err(SeriesError::HistogramInvalid { .. })), "{got:?}");
            }
            (Ok((t, of)), got) => {
                let is_float = matches!(of.count, Some(Count::CountFloat(_)));
                let (mut integer, mut float) = (integer(&of), float(&of));
                if of.sum.to_bits() == STALE_NAN_BITS {
                    (integer, float) = (Histogram::stale(), Histogram::stale());
                }
                let whole = if is_float { float.check_spans() } else { integer.check_spans() };
                let finer = (9..=52).contains(&of.schema) && of.sum.to_bits() != STALE_NAN_BITS;
                if finer && whole.is_ok() {
                    integer.reduce_to(8);
                    float.reduce_to(8);
                }
                let valid = if is_float { float.validate() } else { integer.validate() };
                let valid = if finer { whole.and(valid) } else { valid };
                let read = if is_float {
                    HistogramRef::Float(&float)
                } else {
                    HistogramRef::Integer(&integer)
                };
                let want = valid.map(|()| (t, read));
                let shown = |read| format!("{read:?}");
                let want = want.map_err(|error| invalid(&error));
                assert_eq!(shown(got), shown(want));
            }
        }
    }

    fn a_side() -> impl Strategy<Value = (Vec<v1::BucketSpan>, Vec<i64>)> {
        let span =
            (-2..4_i32, 0..4_u32).prop_map(|(offset, length)| v1::BucketSpan { offset, length });
        (proptest::collection::vec(span, 0..4), proptest::collection::vec(-1..5_i64, 0..7))
    }

    fn a_histogram() -> impl Strategy<Value = v1::Histogram> {
        let double =
            prop_oneof![Just(0.0), 0.0..9.0, Just(f64::NAN), Just(f64::from_bits(STALE_NAN_BITS))];
        let bounds = proptest::collection::vec(0.0..3.0, 0..3);
        let odd = (a_side(), a_side(), bounds, any::<i64>(), 0..5_i32);
        let schema = prop_oneof![-5..10_i32, Just(-53), Just(52), Just(53)];
        let counts = (any::<bool>(), any::<bool>(), 0..20_u64, 0..3_u64);
        (odd, schema, counts, double.clone(), double).prop_map(
            |(
                (positive, negative, custom_values, timestamp, reset_hint),
                schema,
                counts,
                sum,
                zt,
            )| {
                let (is_float, fits, count, zeros) = counts;
                let sum_of = |deltas: &[i64]| {
                    let mut at = 0;
                    deltas
                        .iter()
                        .map(|delta| {
                            at += delta;
                            at
                        })
                        .sum::<i64>()
                };
                let all = sum_of(&positive.1) + sum_of(&negative.1) + zeros as i64;
                let count = if fits { all as u64 } else { count };
                let floats = |all: &[i64]| all.iter().map(|&n| n as f64).collect::<Vec<_>>();
                let mut histogram = v1::Histogram {
                    sum,
                    schema,
                    zero_threshold: zt,
                    reset_hint,
                    timestamp,
                    custom_values,
                    positive_spans: positive.0,
                    negative_spans: negative.0,
                    ..v1::Histogram::default()
                };
                if is_float {
                    histogram.count = Some(Count::CountFloat(count as f64));
                    histogram.zero_count = Some(ZeroCount::ZeroCountFloat(zeros as f64));
                    histogram.positive_counts = floats(&positive.1);
                    histogram.negative_counts = floats(&negative.1);
                } else {
                    histogram.count = Some(Count::CountInt(count));
                    histogram.zero_count = Some(ZeroCount::ZeroCountInt(zeros));
                    histogram.positive_deltas = positive.1;
                    histogram.negative_deltas = negative.1;
                }
                histogram
            },
        )
    }

    proptest! {
        #[test]
        fn what_prost_reads_is_read_and_judged_by_its_rules(histogram in a_histogram()) {
            check(&histogram.encode_to_vec());
        }

        #[test]
        fn two_messages_in_one_are_merged_as_protobuf_says(
            one in a_histogram(), two in a_histogram()
        ) {
            let mut message = one.encode_to_vec();
            message.extend(two.encode_to_vec());
            check(&message);
        }

        #[test]
        fn bytes_that_were_changed_do_no_harm(
            histogram in a_histogram(), at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut message = histogram.encode_to_vec();
            if !message.is_empty() {
                let at = at.index(message.len());
                message[at] = byte;
            }
            check(&message);
        }
    }

    #[test]
    fn numbers_need_not_be_packed() {
        let message = [&[8, 3, 0x5a, 2, 16, 2, 0x60, 2, 0x60, 2][..], &[0x78, 7]].concat();
        check(&message);
        let mut reader = Reader::default();
        let (t, read) = reader.read(&message).expect("a histogram");
        let HistogramRef::Integer(histogram) = read else { panic!("{read:?}") };
        let populations: Vec<_> = histogram.positive.iter().collect();
        assert_eq!((t, populations), (7, vec![(0, 1), (1, 2)]));
    }

    #[test]
    fn stale_markers_come_back() {
        let mut reader = Reader::default();
        for (t, is_float) in [(0, false), (-1, true), (i64::MAX, false), (1_700_000_000_000, true)]
        {
            let message = stale_message(t, is_float);
            let (got, read) = reader.read(&message).expect("a marker");
            let of_kind = match read {
                HistogramRef::Integer(histogram) => histogram.is_stale() && !is_float,
                HistogramRef::Float(histogram) => histogram.is_stale() && is_float,
            };
            assert!(got == t && of_kind);
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_not_read() {
        let message = vec![0; MESSAGE_BYTES_MAX + 1];
        let got = Reader::default().read(&message).map(|(t, _)| t);
        let (len, max) = (message.len(), MESSAGE_BYTES_MAX);
        assert_eq!(got, Err(SeriesError::HistogramTooLong { got: len, max }));
    }
}
