//! Chunks that Prometheus wrote.

use serde_json::Value;

use crate::chunk::Error;
use crate::chunk::histogram::tests::{Timed, decode, encode, read_all, spans};
use crate::chunk::histogram::{Codec, Reader, header};
use crate::chunk::tests::{float_sample, hex, unhex, vectors};
use crate::chunk::xor2;
use crate::model::STALE_NAN_BITS;
use crate::model::histogram::{
    Double, Float, FloatHistogram, Histogram, Integer, IntegerHistogram, ResetHint, Side, Span,
};

/// A number of the vectors: a count, or a double as its bits in hex.
fn raw(value: &Value) -> u64 {
    match value.as_str() {
        Some(bits) => u64::from_str_radix(bits, 16).expect("bits"),
        None => value.as_i64().map_or_else(|| value.as_u64().expect("a count"), |n| n as u64),
    }
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().expect("a list").iter().map(item).collect()
}

/// Start time and sample, as the vectors tell them.
fn sample<K: Codec>(line: &str) -> (i64, Timed<K>) {
    let parts: Vec<&str> = line.splitn(3, ' ').collect();
    let [t, start_t] = [0, 1].map(|i| parts[i].parse().expect("a time"));
    if parts[2] == "stale" {
        return (start_t, (t, Histogram::stale()));
    }
    let fields: Value = serde_json::from_str(parts[2]).expect("a histogram");
    let span = |value: &Value| Span {
        offset: value[0].as_i64().expect("an offset") as i32,
        length: value[1].as_u64().expect("a length") as u32,
    };
    let side = |at: usize| Side {
        spans: list(&fields[at], span),
        values: list(&fields[at + 2], |value| K::bucket(raw(value))),
    };
    let histogram = Histogram {
        hint: ResetHint::Unknown,
        count: K::count(raw(&fields[0])),
        zero_count: K::count(raw(&fields[1])),
        sum: Double(raw(&fields[2])),
        zero_threshold: Double(raw(&fields[3])),
        schema: fields[4].as_i64().expect("a schema") as i32,
        positive: side(5),
        negative: side(6),
        custom_values: list(&fields[9], |value| Double(raw(value))),
    };
    (start_t, (t, histogram))
}

/// What a reader gives must be what the vector tells, field by field.
fn check_read<K: Codec>(read: Result<Vec<(i64, Timed<K>)>, Error>, lines: &[String], chunk: &str) {
    let mut read = read.unwrap_or_else(|error| panic!("{error}: {chunk}"));
    // Hints follow from the header, of which the samples of the vectors say nothing.
    for (_, (_, histogram)) in &mut read {
        histogram.hint = ResetHint::Unknown;
    }
    let want: Vec<_> = lines.iter().map(|line| sample::<K>(line)).collect();
    assert_eq!(read, want, "{chunk}");
}

fn check_written<K: Codec>(chunk: &str, lines: &[String]) {
    let bytes = unhex(chunk);
    let header = header(&bytes).expect("a header");
    let hint = if header == ResetHint::Gauge { header } else { ResetHint::Unknown };
    let with_hint = |line: &String| {
        let (t, histogram) = sample::<K>(line).1;
        (t, Histogram { hint, ..histogram })
    };
    let samples: Vec<Timed<K>> = lines.iter().map(with_hint).collect();
    let got = hex(&encode(header, &samples));
    // Old writers leave a whole byte of padding when the stream ends on a byte's border.
    assert!(got == chunk || format!("{got}00") == chunk, "\n got {got}\nwant {chunk}");
}

#[test]
fn histograms_of_prometheus_are_read_and_written_alike() {
    let integers = vectors(include_str!("../../../../tests/data/histogram_chunks.json"));
    let floats = vectors(include_str!("../../../../tests/data/float_histogram_chunks.json"));
    assert_eq!((integers.len(), floats.len()), (26, 27));
    for (chunk, lines) in integers {
        check_read::<Integer>(Reader::new(&unhex(&chunk)).and_then(read_all), &lines, &chunk);
        check_written::<Integer>(&chunk, &lines);
    }
    for (chunk, lines) in floats {
        check_read::<Float>(Reader::new(&unhex(&chunk)).and_then(read_all), &lines, &chunk);
        check_written::<Float>(&chunk, &lines);
    }
}

#[test]
fn histograms_with_start_times_are_read() {
    let integers = vectors(include_str!("../../../../tests/data/histogram_st_chunks.json"));
    let floats = vectors(include_str!("../../../../tests/data/float_histogram_st_chunks.json"));
    assert_eq!((integers.len(), floats.len()), (27, 29));
    for (chunk, lines) in integers {
        let bytes = unhex(&chunk);
        check_read::<Integer>(Reader::with_starts(&bytes).and_then(read_all), &lines, &chunk);
    }
    for (chunk, lines) in floats {
        let bytes = unhex(&chunk);
        check_read::<Float>(Reader::with_starts(&bytes).and_then(read_all), &lines, &chunk);
    }
}

#[test]
fn floats_with_start_times_are_read() {
    let vectors = vectors(include_str!("../../../../tests/data/xor2_chunks.json"));
    assert_eq!(vectors.len(), 30);
    for (chunk, lines) in vectors {
        let bytes = unhex(&chunk);
        let reader = xor2::Reader::new(&bytes).expect("a chunk");
        let read: Vec<_> = reader
            .map(|read| read.map(|read| (read.start_t, read.sample)))
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error}: {chunk}"));
        let want: Vec<_> = lines.iter().map(|line| float_sample(line)).collect();
        assert_eq!(read, want, "{chunk}");
    }
}

#[test]
fn the_integer_example_of_the_format_is_exact() {
    let sample = |t, count, sum: f64, positive: [i64; 3], negative| -> Timed<Integer> {
        let histogram = IntegerHistogram {
            schema: 3,
            zero_threshold: 2f64.powi(-128).into(),
            zero_count: if t == 3000 { 2 } else { 1 },
            count,
            sum: sum.into(),
            positive: Side { spans: spans(&[(0, 2), (1, 1)]), values: positive.to_vec() },
            negative: Side { spans: spans(&[(-1, 1)]), values: vec![negative] },
            ..Histogram::default()
        };
        (t, histogram)
    };
    let samples = [
        sample(1000, 6, 12.5, [1, 1, -1], 1),
        sample(2000, 9, 20.0, [2, 1, -1], 1),
        sample(3000, 13, 30.25, [3, 1, -2], 2),
    ];
    let told = "000340749ca48c631bf8fa2d140290000000000008c6f1f1f44dac5ec4231d83525e20";
    assert_eq!(hex(&encode(ResetHint::NotReset, &samples)), told);
    assert_eq!(decode::<Integer>(&unhex(told)).map(|read| read.len()), Ok(3));
    // The same with a start time of 500 in front of the first.
    let told = "800380749ca48c631bf8fa2d140290000000000008c6f1e807f1f44dac5ec4231d83525e20";
    let bytes = unhex(told);
    let reader: Reader<'_, Integer> = Reader::with_starts(&bytes).expect("a chunk");
    assert_eq!((reader.header(), reader.count()), (ResetHint::Reset, 3));
    let read = read_all(reader).expect("samples");
    for ((start_t, got), want) in read.iter().zip(&samples) {
        assert_eq!((*start_t, got.0), (500, want.0));
        assert!(got.1.same_as(&want.1));
    }
}

#[test]
fn the_float_example_of_the_format_is_exact() {
    let sample = |t, count: f64, sum: f64, values: [f64; 3]| -> Timed<Float> {
        let histogram = FloatHistogram {
            schema: -53,
            count: count.into(),
            sum: sum.into(),
            positive: Side { spans: spans(&[(0, 3)]), values: values.map(Double::from).to_vec() },
            custom_values: [0.005, 1.0, 2.5].map(Double::from).to_vec(),
            ..Histogram::default()
        };
        (t, histogram)
    };
    let samples =
        [sample(1000, 6.0, 12.5, [1.0, 2.0, 3.0]), sample(2000, 7.5, 13.5, [1.5, 3.0, 3.0])];
    let told = "00020000ee5c664ede3e9f4e2f8fa10060000000000000000000000000000100a40000000000\
                00ffc000000000000100000000000000010020000000000003c7d1b42db81ec07b0180";
    assert_eq!(hex(&encode(ResetHint::Unknown, &samples)), told);
}

#[test]
fn the_examples_of_floats_with_start_times_are_exact() {
    let told = [
        ("000500d00f3ff0000000000000e8075097fff0007341effff0", [0; 5]),
        (
            "000583d00f3ff0000000000000e807e8075097fff0007341fb0637ffff8fa4",
            [500, 500, 500, 4000, 4000],
        ),
    ];
    for (chunk, starts) in told {
        let bytes = unhex(chunk);
        let reader = xor2::Reader::new(&bytes).expect("a chunk");
        let read: Vec<_> = reader.collect::<Result<_, _>>().expect("samples");
        let got: Vec<_> = read.iter().map(|read| (read.sample.t, read.start_t)).collect();
        let times = [1000, 2000, 3000, 4001, 5001];
        assert_eq!(got, times.into_iter().zip(starts).collect::<Vec<_>>());
        let values: Vec<_> = read[..4].iter().map(|read| read.sample.value()).collect();
        assert_eq!(values, [1.0, 1.0, 2.0, 2.5]);
        assert_eq!(read[4].sample.bits, STALE_NAN_BITS);
    }
}
