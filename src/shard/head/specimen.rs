//! Histograms that a number names, for tests: what was stored is known by the number again.

use prost::Message as _;
use tidegate_proto::prometheus::{BucketSpan, Histogram as Proto, histogram};

use crate::chunk::histogram::{Codec, Reader};
use crate::chunk::{Chunk, Encoding, xor};
use crate::decode::histogram as message;
use crate::model::histogram::{Float, Histogram, HistogramRef, Integer};
use crate::model::{STALE_NAN_BITS, Sample};

/// Numbers from here on name histograms of floats, below it of integers.
pub(crate) const FLOATS_FROM: u64 = 1 << 20;

/// The message of the histogram that a number names, at a time. All have other buckets, other
/// thresholds, schemas and hints, so that chunks are recoded, cut and changed; the number of the
/// stale marker is its bits.
pub(crate) fn named(t: i64, number: u64) -> Vec<u8> {
    if number == STALE_NAN_BITS {
        return message::stale_message(t, false);
    }
    let is_float = number >= FLOATS_FROM;
    let gap = (number % 3) as i32;
    let spans = vec![
        BucketSpan { offset: -(number as i32 % 4), length: 2 },
        BucketSpan { offset: gap, length: (number % 5) as u32 },
    ];
    let populations: Vec<i64> = (0..2 + number % 5).map(|n| (number % 7 + n * 3) as i64).collect();
    let mut proto = Proto {
        sum: number as f64,
        schema: [3, 3, 3, 0, 8][number as usize / 10 % 5],
        zero_threshold: [0.001, 0.001, 0.5][number as usize / 50 % 3],
        positive_spans: spans,
        reset_hint: [0, 0, 0, 2, 3, 1][number as usize / 100 % 6],
        timestamp: t,
        ..Proto::default()
    };
    let all = populations.iter().sum::<i64>() as u64 + number % 11;
    if is_float {
        proto.count = Some(histogram::Count::CountFloat(all as f64));
        proto.zero_count = Some(histogram::ZeroCount::ZeroCountFloat((number % 11) as f64));
        proto.positive_counts = populations.iter().map(|&n| n as f64).collect();
    } else {
        proto.count = Some(histogram::Count::CountInt(all));
        proto.zero_count = Some(histogram::ZeroCount::ZeroCountInt(number % 11));
        let before = std::iter::once(&0).chain(&populations);
        proto.positive_deltas = populations.iter().zip(before).map(|(n, b)| n - b).collect();
    }
    proto.encode_to_vec()
}

/// Which number names a histogram; it must be that one in all that counts.
fn number<K: Codec>(
    histogram: &Histogram<K>,
    same: impl Fn(&Histogram<K>, HistogramRef<'_>) -> bool,
) -> u64 {
    if histogram.is_stale() {
        return STALE_NAN_BITS;
    }
    let number = histogram.sum.value() as u64;
    let mut reader = message::Reader::default();
    let message = named(0, number);
    let (_, named) = reader.read(&message).expect("a histogram");
    assert!(same(histogram, named), "{histogram:?} is not {named:?}");
    number
}

/// The samples of a chunk: floats as they are, histograms as their numbers, and which they are.
pub(crate) fn samples(chunk: Chunk<'_>) -> Vec<(Sample, bool)> {
    fn histograms<K: Codec>(
        bytes: &[u8],
        same: impl Fn(&Histogram<K>, HistogramRef<'_>) -> bool,
    ) -> Vec<(Sample, bool)> {
        let mut reader = Reader::<K>::new(bytes).expect("a chunk");
        let mut all = Vec::new();
        while let Some(point) = reader.advance() {
            let point = point.expect("a sample");
            all.push((Sample { t: point.t, bits: number(point.histogram, &same) }, true));
        }
        all
    }
    let all = match chunk.encoding {
        Encoding::Xor => {
            let samples = xor::Reader::new(chunk.bytes).expect("a chunk");
            samples.map(|sample| (sample.expect("a sample"), false)).collect()
        }
        Encoding::Histogram => histograms::<Integer>(
            chunk.bytes,
            |one, two| matches!(two, HistogramRef::Integer(two) if one.same_as(two)),
        ),
        Encoding::FloatHistogram => histograms::<Float>(
            chunk.bytes,
            |one, two| matches!(two, HistogramRef::Float(two) if one.same_as(two)),
        ),
    };
    let times = (all[0].0.t, all[all.len() - 1].0.t);
    assert_eq!(times, (chunk.min_t, chunk.max_t), "what a chunk says of its times");
    all
}
