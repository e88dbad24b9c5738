//! Chunks of histograms against vectors of Prometheus, against a slow twin, and against damage.

mod damage;
mod plain;
mod vectors;
mod walk;

use crate::chunk::Error;
use crate::chunk::histogram::{Appended, Appender, Codec, Reader};
use crate::model::histogram::{Histogram, Integer, IntegerHistogram, ResetHint, Side, Span};

/// A sample with its time.
type Timed<K> = (i64, Histogram<K>);

/// Opens a chunk and appends samples that must all fit as they are.
fn encode<K: Codec>(header: ResetHint, samples: &[Timed<K>]) -> Vec<u8> {
    let mut tail = vec![0xa5; 7];
    let (first, others) = samples.split_first().expect("a sample");
    let mut appender = Appender::open(&mut tail, header, first.0, &first.1);
    for (t, histogram) in others {
        let appended = appender.append(&mut tail, *t, histogram);
        assert!(matches!(appended, Appended::Done), "{histogram:?}: {appended:?}");
    }
    appender.finish(&mut tail);
    assert_eq!(tail.len(), appender.len_bytes());
    tail
}

fn decode<K: Codec>(bytes: &[u8]) -> Result<Vec<Timed<K>>, Error> {
    read_all(Reader::new(bytes)?).map(|read| read.into_iter().map(|(_, sample)| sample).collect())
}

/// All samples, each behind its start time.
fn read_all<K: Codec>(mut reader: Reader<'_, K>) -> Result<Vec<(i64, Timed<K>)>, Error> {
    let mut read = Vec::new();
    while let Some(point) = reader.advance() {
        let point = point?;
        read.push((point.start_t, (point.t, point.histogram.clone())));
    }
    Ok(read)
}

/// Spans and values of a side.
type Told<'a> = (&'a [(i32, u32)], &'a [i64]);

fn spans(spans: &[(i32, u32)]) -> Vec<Span> {
    spans.iter().map(|&(offset, length)| Span { offset, length }).collect()
}

fn sample(hint: ResetHint, sides: [Told<'_>; 2]) -> IntegerHistogram {
    let side = |(told, values): Told<'_>| Side { spans: spans(told), values: values.to_vec() };
    let [positive, negative] = sides.map(side);
    Histogram { hint, positive, negative, ..Histogram::default() }
}

/// Which buckets a chunk of two samples has is settled; how spans tell them is Prometheus' choice:
/// the sample's own spans where it has all buckets of the chunk, else as few as can be. One side of
/// a gauge that has not makes it so for both.
#[test]
fn recoded_chunks_tell_their_buckets_as_those_of_prometheus() {
    let check = |samples: [[Told<'_>; 2]; 2], want: [&[(i32, u32)]; 2], gauge_want| {
        let gauge_want: [&[(i32, u32)]; 2] = gauge_want;
        for (hint, want) in [(ResetHint::Unknown, want), (ResetHint::Gauge, gauge_want)] {
            let [first, second] = samples.map(|sides| sample(hint, sides));
            let mut tail = Vec::new();
            let mut appender = Appender::open(&mut tail, hint, 0, &first);
            let Appended::Recode(wider) = appender.append(&mut tail, 1, &second) else {
                panic!("no recoding")
            };
            appender.recode(&mut tail, wider);
            assert!(matches!(appender.append(&mut tail, 1, &second), Appended::Done));
            appender.finish(&mut tail);
            let read = decode::<Integer>(&tail).expect("a chunk");
            assert!(read[0].1.same_as(&first) && read[1].1.same_as(&second));
            let [positive, negative] = want.map(spans);
            assert_eq!(
                (&read[1].1.positive.spans, &read[1].1.negative.spans),
                (&positive, &negative)
            );
        }
    };
    // The sample has all buckets, in more spans than it needs.
    let (few, many): (Told<'_>, Told<'_>) =
        ((&[(0, 1), (1, 1)], &[2, 0]), (&[(0, 2), (0, 1)], &[2, 1, 0]));
    check([[few, few], [many, many]], [many.0; 2], [many.0; 2]);
    // The chunk has an empty bucket above that the sample has not, and the other way round.
    let (old, new): (Told<'_>, Told<'_>) =
        ((&[(0, 1), (4, 1)], &[1, -1]), (&[(0, 1), (1, 1)], &[1, 1]));
    let both: &[(i32, u32)] = &[(0, 1), (1, 1), (2, 1)];
    check([[old, few], [new, many]], [both, many.0], [both, &[(0, 3)]]);
}
