//! The scan against prost.
//!
//! Two oracles. The *opaque* one reads the message as the scan does, with labels, exemplars,
//! histograms and metadata as mere bytes: it must agree with the scan on every input, whatever it
//! is. The *full* one reads everything: what it accepts, the scan must have found, and what only it
//! refuses must lie inside one of those records. One thing is excepted: the scan refuses groups,
//! prost skips them.

mod spelling;
pub(crate) mod v2;

use std::ops::Range;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use prost::Message;
use tidegate_proto::prometheus::{
    BucketSpan, Exemplar, Histogram, Label, MetricMetadata, Sample as ProtoSample, TimeSeries,
    WriteRequest, histogram,
};

use crate::decode::protobuf::push_varint;
use crate::decode::tests::spelling::{Random, mutate, spell};
use crate::decode::{
    Error, LabelLimits, RECORDS_FREE, Scan, SeriesError, SeriesView, region, snappy,
    write_request_v1,
};
use crate::model::{STALE_NAN_BITS, Sample};

/// Bodies of Prometheus 2.42 scraping itself; `tests/data/README.md` says how they were made.
const REAL_BODY: &[u8] = include_bytes!("../../../tests/data/rw1_prometheus_2_42.snappy");
const REAL_METADATA: &[u8] =
    include_bytes!("../../../tests/data/rw1_prometheus_2_42_metadata.snappy");

/// Rounds of the fuzz loop in an ordinary test run: about two seconds.
const FUZZ_RUNS: u64 = 20_000;

#[derive(Clone, PartialEq, Message)]
struct OpaqueRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<OpaqueSeries>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    metadata: Vec<Vec<u8>>,
}

/// Also the form of a label region, if nothing but labels is there.
#[derive(Clone, PartialEq, Message)]
struct OpaqueSeries {
    #[prost(bytes = "vec", repeated, tag = "1")]
    labels: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<ProtoSample>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    exemplars: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    histograms: Vec<Vec<u8>>,
}

fn bytes_of(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn samples_of(series: &[ProtoSample]) -> Vec<Sample> {
    series.iter().map(|s| Sample { t: s.timestamp, bits: s.value.to_bits() }).collect()
}

/// The histograms of a scan: number of the series, message.
fn histograms_of<'a>(scan: &'a Scan, bytes: &'a [u8]) -> impl Iterator<Item = (u32, &'a [u8])> {
    scan.histograms.iter().map(|view| (view.series, &bytes[bytes_of(&view.message)]))
}

/// Holds a scan to the opaque oracle's reading.
fn check_opaque(decoded: &[u8], scan: &Scan, want: &OpaqueRequest) {
    assert_eq!(scan.series.len(), want.timeseries.len());
    let mut samples_end = 0;
    for (got, want) in scan.series.iter().zip(&want.timeseries) {
        let region = &decoded[bytes_of(&got.labels)];
        let in_region = OpaqueSeries::decode(region).expect("a region is records");
        let labels_only = OpaqueSeries { labels: want.labels.clone(), ..OpaqueSeries::default() };
        assert_eq!(in_region, labels_only);
        assert_eq!(got.samples.start, samples_end);
        samples_end = got.samples.end;
        assert_eq!(scan.samples[bytes_of(&got.samples)], samples_of(&want.samples));
    }
    assert_eq!(scan.samples.len(), samples_end as usize);
    let sum = |count: fn(&OpaqueSeries) -> usize| want.timeseries.iter().map(count).sum::<usize>();
    assert_eq!(scan.exemplars, sum(|s| s.exemplars.len()) as u64);
    let histograms = (0..).zip(&want.timeseries);
    let histograms = histograms.flat_map(|(n, s)| s.histograms.iter().map(move |h| (n, &**h)));
    assert!(histograms_of(scan, decoded).eq(histograms));
    assert_eq!(scan.metadata, want.metadata.len() as u64);
}

/// Holds the labels of a scan to the full oracle's reading.
fn check_full(decoded: &[u8], scan: &Scan, want: &WriteRequest) {
    for (got, want) in scan.series.iter().zip(&want.timeseries) {
        let labels: Result<Vec<_>, _> = region::labels(&decoded[bytes_of(&got.labels)]).collect();
        let want = want.labels.iter().map(|l| (l.name.as_bytes(), l.value.as_bytes())).collect();
        assert_eq!(labels, Ok(want));
    }
}

/// Whether something the scan only steps over is broken, so that prost refuses the whole.
fn is_broken_inside(request: &OpaqueRequest) -> bool {
    let broken = |series: &OpaqueSeries| {
        series.labels.iter().any(|b| Label::decode(&b[..]).is_err())
            || series.exemplars.iter().any(|b| Exemplar::decode(&b[..]).is_err())
            || series.histograms.iter().any(|b| Histogram::decode(&b[..]).is_err())
    };
    request.timeseries.iter().any(broken)
        || request.metadata.iter().any(|b| MetricMetadata::decode(&b[..]).is_err())
}

/// Holds what is said of a region to what it says itself.
fn check_region(region: &[u8]) {
    let mut out = Vec::new();
    let limits = LabelLimits::default();
    let repairs = region::canonical(region, &limits, &mut out);
    assert_eq!(region::is_canonical(region), repairs.is_ok() && out == region, "{region:x?}");
    let labels: Result<Vec<_>, Error> = region::labels(region).collect();
    if repairs.is_ok() {
        assert!(region::is_canonical(&out), "{region:x?} became {out:x?}");
        let mut want = labels.expect("labels of a region that could be repaired");
        want.retain(|(_, value)| !value.is_empty());
        want.sort_unstable();
        let pairs = region::canonical_labels(&out).map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        assert!(pairs.eq(want), "{region:x?} became {out:x?}");
    } else if let (Err(SeriesError::Malformed(a)), Err(b)) = (&repairs, &labels) {
        assert_eq!(a, b);
    }
}

/// Scans any bytes and holds the outcome to both oracles. Says whether the scan accepted them.
fn check(message: &[u8], scan: &mut Scan) -> bool {
    let mut decoded = message.to_vec();
    let outcome = write_request_v1(&mut decoded, scan);
    assert!(decoded.starts_with(message) && decoded.len() <= 2 * message.len());
    let opaque = OpaqueRequest::decode(message);
    let full = WriteRequest::decode(message);
    match (&outcome, &opaque) {
        (Ok(()), Ok(want)) => check_opaque(&decoded, scan, want),
        (Err(Error::Group { .. }), _) | (Err(_), Err(_)) => {}
        _ => panic!("scan: {outcome:?}, prost: {opaque:?}"),
    }
    match (&outcome, &opaque, &full) {
        (Ok(()), _, Ok(want)) => check_full(&decoded, scan, want),
        (Ok(()), Ok(opaque), Err(e)) => assert!(is_broken_inside(opaque), "prost alone: {e}"),
        _ => {}
    }
    if outcome.is_err() {
        assert!(scan.series.is_empty() && scan.samples.is_empty() && scan.histograms.is_empty());
        assert_eq!((scan.exemplars, scan.metadata), (0, 0));
    }
    for series in &scan.series {
        check_region(&decoded[bytes_of(&series.labels)]);
    }
    outcome.is_ok()
}

fn scanned(message: &[u8]) -> (Vec<u8>, Scan) {
    let (mut decoded, mut scan) = (message.to_vec(), Scan::default());
    write_request_v1(&mut decoded, &mut scan).expect("a write request");
    (decoded, scan)
}

prop_compose! {
    fn a_label()(
        name in "[a-z_:]{0,12}|é",
        value in "[a-z0-9/.-]{0,20}|.{0,3}|v{120,135}",
    ) -> Label {
        Label { name, value }
    }
}

fn a_time() -> impl Strategy<Value = i64> {
    let now = 1_700_000_000_000i64;
    prop_oneof![4 => now..now + 100_000, 1 => any::<i64>(), 1 => -5i64..5]
}

fn a_value() -> impl Strategy<Value = f64> {
    let special =
        vec![0, 1 << 63, STALE_NAN_BITS, 0x7ff8_0000_0000_0001, 0x7ff0_0000_0000_0000, u64::MAX];
    prop_oneof![any::<u64>(), prop::sample::select(special)].prop_map(f64::from_bits)
}

prop_compose! {
    fn a_sample()(value in a_value(), timestamp in a_time()) -> ProtoSample {
        ProtoSample { value, timestamp }
    }
}

prop_compose! {
    fn an_exemplar()(
        labels in prop::collection::vec(a_label(), 0..3), value: f64, timestamp in a_time(),
    ) -> Exemplar {
        Exemplar { labels, value, timestamp }
    }
}

prop_compose! {
    fn a_histogram()(
        count: u64, sum: f64, schema in -4i32..9, offset: i32, deltas: Vec<i64>,
        timestamp in a_time(),
    ) -> Histogram {
        Histogram {
            count: Some(histogram::Count::CountInt(count)),
            sum,
            schema,
            positive_spans: vec![BucketSpan { offset, length: deltas.len() as u32 }],
            positive_deltas: deltas,
            timestamp,
            ..Histogram::default()
        }
    }
}

prop_compose! {
    fn a_series()(
        labels in prop::collection::vec(a_label(), 0..6),
        samples in prop::collection::vec(a_sample(), 0..4),
        exemplars in prop::collection::vec(an_exemplar(), 0..2),
        histograms in prop::collection::vec(a_histogram(), 0..2),
    ) -> TimeSeries {
        TimeSeries { labels, samples, exemplars, histograms }
    }
}

prop_compose! {
    fn a_request()(
        timeseries in prop::collection::vec(a_series(), 0..6),
        metadata in prop::collection::vec("[a-z]{0,6}", 0..3),
    ) -> WriteRequest {
        let metadata = metadata.into_iter().map(|help| {
            MetricMetadata { help, ..MetricMetadata::default() }
        });
        WriteRequest { timeseries, metadata: metadata.collect() }
    }
}

proptest! {
    #[test]
    fn what_prost_writes_is_scanned(request in a_request()) {
        prop_assert!(check(&request.encode_to_vec(), &mut Scan::default()));
    }

    /// Fields in any order, label runs torn apart, unknown fields, needless bytes in varints, and
    /// scalars said twice: prost reads all of it as the same request, and so does the scan.
    #[test]
    fn odd_spellings_say_the_same(request in a_request(), seed: u64) {
        let message = spell(&request, &mut Random::new(seed));
        let read = WriteRequest::decode(&message[..]).expect("a request, if odd");
        // NaNs are not equal to themselves, their bytes are.
        prop_assert_eq!(read.encode_to_vec(), request.encode_to_vec());
        prop_assert!(check(&message, &mut Scan::default()));
    }

    #[test]
    fn any_bytes_are_judged_as_by_prost(message: Vec<u8>) {
        check(&message, &mut Scan::default());
    }

    /// A scan that was used before, also for what failed, says the same as a new one.
    #[test]
    fn a_scan_forgets(a in a_request(), b in a_request(), cut: prop::sample::Index, seed: u64) {
        let a = spell(&a, &mut Random::new(seed));
        let b = spell(&b, &mut Random::new(seed));
        let mut scan = Scan::default();
        check(&a, &mut scan);
        check(&a[..cut.index(a.len() + 1)], &mut scan);
        check(&b, &mut scan);
    }
}

/// A setting of the person who runs the tests.
#[expect(clippy::disallowed_methods, reason = "a test has no flags")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Mutated messages: whatever happens to the bytes, scan and oracles agree and nothing panics.
/// `TIDEGATE_FUZZ_RUNS=5000000` looks for longer, `TIDEGATE_SEED` repeats a run. `make` makes two
/// good messages, `check` says whether the scan accepts one.
fn judge_mutations(
    mut make: impl FnMut(&mut Random) -> [Vec<u8>; 2],
    mut check: impl FnMut(&[u8]) -> bool,
) {
    let runs = setting("TIDEGATE_FUZZ_RUNS").unwrap_or(FUZZ_RUNS);
    let seed = setting("TIDEGATE_SEED").unwrap_or_else(|| getrandom::u64().expect("a seed"));
    println!("TIDEGATE_SEED={seed}");
    let mut random = Random::new(seed);
    let seeds: Vec<Vec<u8>> = (0..64).flat_map(|_| make(&mut random)).collect();
    let mut accepted = 0;
    for _ in 0..runs {
        let mut message = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut message, &seeds, &mut random);
        }
        accepted += u64::from(check(&message));
    }
    // The loop proves nothing if all its messages end at the first byte, or all are whole.
    assert!(accepted > runs / 50 && accepted < runs, "{accepted} of {runs} accepted");
}

#[test]
fn mutated_messages_are_judged_as_by_prost() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut scan = Scan::default();
    judge_mutations(
        |random| {
            let request = a_request().new_tree(&mut runner).expect("a request").current();
            [request.encode_to_vec(), spell(&request, random)]
        },
        |message| check(message, &mut scan),
    );
}

#[test]
fn bodies_of_prometheus_2_42() {
    let content = |body| {
        let mut decoded = Vec::new();
        snappy::decode(body, 1 << 20, &mut decoded).expect("a snappy block");
        assert!(check(&decoded, &mut Scan::default()));
        decoded
    };
    let message = content(REAL_BODY);
    let (decoded, scan) = scanned(&message);
    assert_eq!(decoded, message, "no labels to gather");
    assert_eq!((scan.series.len(), scan.samples.len()), (353, 353));
    for series in &scan.series {
        let region = &decoded[bytes_of(&series.labels)];
        assert!(region::is_canonical(region), "{region:x?}");
        let labels: Vec<_> = region::canonical_labels(region).collect();
        assert!(labels.contains(&("job", "prometheus")), "{labels:?}");
        assert!(labels.contains(&("replica", "0")), "{labels:?}");
    }
    let (_, scan) = scanned(&content(REAL_METADATA));
    assert_eq!((scan.series.len(), scan.metadata), (0, 191));
}

#[test]
fn vector() {
    let message = b"\x0a\x1c\x0a\x06\x0a\x01a\x12\x01b\
        \x12\x10\x09\0\0\0\0\0\0\xf8\x3f\x10\x80\xd0\x95\xff\xbc\x31\x12\x00";
    let (decoded, scan) = scanned(message);
    assert_eq!(decoded, message);
    assert_eq!(scan.series, [SeriesView { labels: 2..10, samples: 0..2 }]);
    let samples = [Sample::new(1_700_000_000_000, 1.5), Sample { t: 0, bits: 0 }];
    assert_eq!(scan.samples, samples);
}

#[test]
fn labels_in_pieces_are_gathered_at_the_end() {
    // Two series of labels a, b, c; in the first each stands alone, in the second together.
    let (a, b, c) = (b"\x0a\x03\x0a\x01a", b"\x0a\x03\x0a\x01b", b"\x0a\x03\x0a\x01c");
    let apart = [&a[..], b"\x12\x02\x10\x01", b, b"\x28\x07", c, b"\x12\x02\x10\x02"].concat();
    let together = [&b"\x12\x02\x10\x03"[..], a, b, c].concat();
    let mut message = Vec::new();
    for series in [&apart, &together] {
        message.extend_from_slice(&[0x0a, series.len() as u8]);
        message.extend_from_slice(series);
    }
    let end = message.len() as u32;
    let (decoded, scan) = scanned(&message);
    let abc = [&a[..], b, c].concat();
    assert_eq!(decoded, [message, abc].concat());
    let want = [
        SeriesView { labels: end..end + 15, samples: 0..2 },
        SeriesView { labels: end - 15..end, samples: 2..3 },
    ];
    assert_eq!(scan.series, want);
    assert!(check(&decoded[..end as usize], &mut Scan::default()));
}

#[test]
fn a_series_may_lack_everything() {
    let (_, scan) = scanned(b"");
    assert!(scan.series.is_empty());
    let (decoded, scan) = scanned(b"\x0a\x00\x0a\x02\x12\x00\x0a\x02\x0a\x00");
    let regions: Vec<&[u8]> = scan.series.iter().map(|s| &decoded[bytes_of(&s.labels)]).collect();
    assert_eq!(regions, [&b""[..], b"", b"\x0a\x00"]);
    assert_eq!(scan.samples, [Sample { t: 0, bits: 0 }]);
}

#[test]
fn a_request_of_version_2_is_empty() {
    // Symbol "a", a series with one label reference.
    let (_, scan) = scanned(b"\x22\x01a\x2a\x03\x0a\x01\x00");
    assert_eq!((scan.series.len(), scan.samples.len()), (0, 0));
}

#[test]
fn errors_say_where() {
    let check = |message: &[u8], want: Error| {
        let mut decoded = message.to_vec();
        assert_eq!(write_request_v1(&mut decoded, &mut Scan::default()), Err(want), "{message:x?}");
    };
    check(b"\x0a", Error::BadVarint { at: 1 });
    check(b"\x0a\x05\x0a", Error::Truncated { at: 2, length: 5, left: 1 });
    // The label's length fits the request, but not its series.
    check(b"\x0a\x02\x0a\x02ab", Error::Truncated { at: 4, length: 2, left: 0 });
    check(b"\x0a\x03\x12\x01\x09", Error::Truncated { at: 5, length: 8, left: 0 });
    check(b"\x0a\x03\x12\x01\x10", Error::BadVarint { at: 5 });
    check(b"\x0a\x02\x10\x00", Error::BadWireType { at: 3, field: 2, wire_type: 0 });
    check(b"\x00", Error::BadFieldNumber { at: 0, key: 0 });
    check(b"\x1b\x1c", Error::BadWireType { at: 1, field: 3, wire_type: 3 });
    check(b"\x2b\x2c", Error::Group { at: 1, field: 5 });
}

/// A message of nothing but empty records takes 16 bytes of memory for 2: all kinds together are
/// bounded by what an honest message of the same length can have.
#[test]
fn hostile_counts_are_bounded() {
    let mut scan = Scan::default();
    let in_one_series = |record: &[u8]| {
        let records = record.repeat(1 << 20);
        let mut message = vec![0x0a];
        push_varint(records.len() as u64, &mut message);
        message.extend_from_slice(&records);
        message
    };
    for (what, mut message) in [
        ("samples", in_one_series(&[0x12, 0])),
        ("histograms", in_one_series(&[0x22, 0])),
        ("labels and unknown fields in turn", in_one_series(&[0x0a, 0, 0x28, 0])),
        ("series", [0x0a, 0].repeat(1 << 20)),
        ("series with a sample each", [0x0a, 2, 0x12, 0].repeat(1 << 20)),
        (
            "one kind after the other",
            [[0x0a, 0].repeat(1 << 20), in_one_series(&[0x12, 0])].concat(),
        ),
    ] {
        let max = message.len() / 9 + RECORDS_FREE;
        let got = write_request_v1(&mut message, &mut scan);
        assert_eq!(got, Err(Error::TooManyRecords { max }), "{what}");
        assert!(scan.room() <= 5 << 17, "{what}: {} are kept", scan.room());
    }
    // Few of them cost little: they pass.
    let mut few = [0x0a, 2, 0x12, 0].repeat(RECORDS_FREE / 2);
    assert_eq!(write_request_v1(&mut few, &mut scan), Ok(()));
    assert_eq!((scan.series.len(), scan.samples.len()), (RECORDS_FREE / 2, RECORDS_FREE / 2));
}

/// The densest that a sender has: samples of the value 0, which is not written, in one series or
/// with one short label each.
#[test]
fn the_densest_honest_message_passes() {
    let sample = [0x12, 7, 0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    let mut scan = Scan::default();
    let mut many = vec![0x0a];
    let samples = sample.repeat(1 << 20);
    push_varint(samples.len() as u64, &mut many);
    many.extend_from_slice(&samples);
    assert_eq!(write_request_v1(&mut many, &mut scan), Ok(()));
    let one = [&[0x0a, 17, 0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b'][..], &sample].concat();
    assert_eq!(write_request_v1(&mut one.repeat(1 << 20), &mut scan), Ok(()));
    assert_eq!(scan.samples.len(), 1 << 20);
}
