//! The scan of remote write 2.0 against prost, and against the scan of 1.0.
//!
//! The oracles are those of 1.0: an opaque reading of the same message, and the full one. Symbols
//! are resolved here as slowly and plainly as can be.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use prost::Message;
use tidegate_proto::io_prometheus_write_v2 as v2;
use tidegate_proto::prometheus::{Label, TimeSeries, WriteRequest};

use crate::decode::tests::spelling::{Random, spell_v2};
use crate::decode::tests::{
    REAL_BODY, a_label, a_request, a_time, a_value, bytes_of, check_region, histograms_of,
    judge_mutations,
};
use crate::decode::{
    Error, RECORDS_FREE, Scan, SeriesError, SeriesView, region, snappy, write_request_v1,
    write_request_v2,
};
use crate::model::{STALE_NAN_BITS, Sample};

/// Above what the labels of any message here come to.
const LIMIT: usize = 1 << 24;

#[derive(Clone, PartialEq, Message)]
struct OpaqueRequest {
    #[prost(bytes = "vec", repeated, tag = "4")]
    symbols: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<OpaqueSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct OpaqueSeries {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<v2::Sample>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    histograms: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    exemplars: Vec<Vec<u8>>,
    /// Prost would merge several; each of them is held against the table.
    #[prost(bytes = "vec", repeated, tag = "5")]
    metadata: Vec<Vec<u8>>,
}

/// Names and values.
type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

impl OpaqueRequest {
    /// Reads a message whose metadata is whole and whose first symbol is empty, as it must be.
    fn read(message: &[u8]) -> Option<Self> {
        let request = Self::decode(message).ok()?;
        let metadata = request.timeseries.iter().flat_map(|series| &series.metadata);
        let is_whole = metadata.into_iter().all(|bytes| v2::Metadata::decode(&bytes[..]).is_ok());
        let begins = request.symbols.first().is_none_or(Vec::is_empty);
        (is_whole && begins).then_some(request)
    }

    /// The labels of a series, or why it cannot be stored.
    fn labels(&self, series: &OpaqueSeries) -> Result<Pairs<'_>, SeriesError> {
        let symbols = self.symbols.len();
        let symbol = |&reference: &u32| {
            let text = self.symbols.get(reference as usize).map(Vec::as_slice);
            text.ok_or(SeriesError::RefOutOfRange { reference, symbols })
        };
        for bytes in &series.metadata {
            let metadata = v2::Metadata::decode(&bytes[..]).expect("it is whole");
            // What is not said is not looked up.
            for reference in [metadata.help_ref, metadata.unit_ref] {
                if reference != 0 {
                    symbol(&reference)?;
                }
            }
        }
        let (pairs, odd) = series.labels_refs.as_chunks::<2>();
        let mut labels = Vec::new();
        for [name, value] in pairs {
            labels.push((symbol(name)?, symbol(value)?));
        }
        let names_metric = labels.iter().any(|(n, v)| *n == b"__name__" && !v.is_empty());
        match () {
            () if !odd.is_empty() => Err(SeriesError::OddRefs),
            () if labels.is_empty() => Err(SeriesError::NoLabels),
            () if !names_metric => Err(SeriesError::NoMetricName),
            () if series.samples.is_empty() && series.histograms.is_empty() => {
                Err(SeriesError::NoSamples)
            }
            () => Ok(labels),
        }
    }
}

fn samples_of(series: &OpaqueSeries) -> Vec<Sample> {
    series.samples.iter().map(|s| Sample { t: s.timestamp, bits: s.value.to_bits() }).collect()
}

/// Series and samples by kind of reason.
type Refused = BTreeMap<String, (u64, u64)>;

fn kind(error: &SeriesError) -> String {
    let kind: Discriminant<SeriesError> = discriminant(error);
    format!("{kind:?}")
}

/// Holds a scan to the opaque oracle's reading.
fn check_opaque(regions: &[u8], scan: &Scan, want: &OpaqueRequest) {
    let mut refused = Refused::new();
    let (mut starts, mut samples) = (0, Vec::new());
    let (mut number, mut histograms) = (0, Vec::new());
    let mut got = scan.series.iter();
    for series in &want.timeseries {
        starts += series.samples.iter().filter(|s| s.start_timestamp != 0).count();
        match want.labels(series) {
            Err(error) => {
                let (series_count, samples_count) = refused.entry(kind(&error)).or_default();
                *series_count += 1;
                *samples_count += (series.samples.len() + series.histograms.len()) as u64;
            }
            Ok(labels) => {
                let view = got.next().expect("a series");
                let read: Result<Vec<_>, _> =
                    region::labels(&regions[bytes_of(&view.labels)]).collect();
                assert_eq!(read, Ok(labels));
                assert_eq!(view.samples.start as usize, samples.len());
                samples.extend(samples_of(series));
                assert_eq!(view.samples.end as usize, samples.len());
                histograms.extend(series.histograms.iter().map(|h| (number, &**h)));
                number += 1;
            }
        }
    }
    assert_eq!(got.next(), None);
    assert_eq!(scan.samples, samples);
    let bad = scan.bad.iter().map(|bad| (kind(&bad.error), (bad.series, bad.samples)));
    assert_eq!(bad.collect::<Refused>(), refused);
    let sum = |count: fn(&OpaqueSeries) -> usize| want.timeseries.iter().map(count).sum::<usize>();
    assert_eq!(scan.exemplars, sum(|s| s.exemplars.len()) as u64);
    assert!(histograms_of(scan, regions).eq(histograms));
    let says = |s: &OpaqueSeries| s.metadata.iter().filter(|bytes| !bytes.is_empty()).count();
    assert_eq!(scan.metadata, sum(says) as u64);
    // Field 6 of early drafts is unknown to prost.
    assert!(scan.start_timestamps >= starts as u64);
}

/// Whether something the scan only steps over is broken, so that prost refuses the whole.
fn is_broken_inside(request: &OpaqueRequest) -> bool {
    let broken = |series: &OpaqueSeries| {
        series.exemplars.iter().any(|b| v2::Exemplar::decode(&b[..]).is_err())
            || series.histograms.iter().any(|b| v2::Histogram::decode(&b[..]).is_err())
    };
    request.symbols.iter().any(|text| str::from_utf8(text).is_err())
        || request.timeseries.iter().any(broken)
}

/// What a core reuses from request to request.
#[derive(Default)]
struct Reused {
    regions: Vec<u8>,
    scan: Scan,
}

impl Reused {
    /// Scans any bytes and holds the outcome to both oracles. Says whether the scan accepted them.
    fn check(&mut self, message: &[u8]) -> bool {
        let Self { regions, scan } = self;
        let outcome = write_request_v2(message, LIMIT, regions, scan);
        let opaque = OpaqueRequest::read(message);
        match (&outcome, &opaque) {
            (Ok(()), Some(want)) => check_opaque(regions, scan, want),
            (Err(Error::Group { .. }), _) | (Err(_), None) => {}
            _ => panic!("scan: {outcome:?}, prost: {opaque:?}"),
        }
        if let (Some(opaque), Err(error)) = (&opaque, v2::Request::decode(message))
            && outcome.is_ok()
        {
            assert!(is_broken_inside(opaque), "prost alone: {error}");
        }
        if outcome.is_err() {
            assert!(scan.series.is_empty() && scan.samples.is_empty() && scan.bad.is_empty());
            assert!(scan.histograms.is_empty());
            assert_eq!((scan.exemplars, scan.metadata), (0, 0));
        }
        for series in &scan.series {
            check_region(&regions[bytes_of(&series.labels)]);
        }
        outcome.is_ok()
    }
}

fn scanned(message: &[u8]) -> (Vec<u8>, Scan) {
    let (mut regions, mut scan) = (Vec::new(), Scan::default());
    write_request_v2(message, LIMIT, &mut regions, &mut scan).expect("a write request");
    (regions, scan)
}

/// A symbol table as senders build it: in the order of first use, the empty text first.
#[derive(Default)]
struct Symbols {
    texts: Vec<String>,
    refs: HashMap<String, u32>,
}

impl Symbols {
    fn of(&mut self, text: &str) -> u32 {
        if self.texts.is_empty() {
            self.texts.push(String::new());
            self.refs.insert(String::new(), 0);
        }
        *self.refs.entry(text.to_owned()).or_insert_with(|| {
            self.texts.push(text.to_owned());
            self.texts.len() as u32 - 1
        })
    }

    fn all(&mut self, labels: &[Label]) -> Vec<u32> {
        labels.iter().flat_map(|l| [self.of(&l.name), self.of(&l.value)]).collect()
    }
}

/// What a series of 1.0 says, in 2.0.
fn series_v2(series: &TimeSeries, symbols: &mut Symbols) -> v2::TimeSeries {
    let sample = |s: &tidegate_proto::prometheus::Sample| v2::Sample {
        value: s.value,
        timestamp: s.timestamp,
        start_timestamp: 0,
    };
    // Both versions have one message, but for what 2.0 adds.
    let same = |h: &tidegate_proto::prometheus::Histogram| {
        v2::Histogram::decode(&h.encode_to_vec()[..]).expect("the same message")
    };
    v2::TimeSeries {
        labels_refs: symbols.all(&series.labels),
        samples: series.samples.iter().map(sample).collect(),
        histograms: series.histograms.iter().map(same).collect(),
        exemplars: vec![v2::Exemplar::default(); series.exemplars.len()],
        metadata: Some(v2::Metadata::default()),
    }
}

/// What a request of 1.0 says, in 2.0.
pub(crate) fn request_v2(request: &WriteRequest) -> v2::Request {
    let mut symbols = Symbols::default();
    let timeseries = request.timeseries.iter().map(|s| series_v2(s, &mut symbols)).collect();
    v2::Request { symbols: symbols.texts, timeseries }
}

prop_compose! {
    /// A series whose labels may be no label set, and whose references may be none.
    fn a_series_v2()(
        labels in prop::collection::vec(a_label(), 0..6),
        named in 0..8,
        stray in prop::option::weighted(0.1, any::<u32>()),
        samples in prop::collection::vec(
            (a_value(), a_time(), prop_oneof![Just(0), a_time()]), 0..4,
        ),
        histograms in 0usize..2,
        exemplars in 0usize..2,
        metadata in prop::option::of((0i32..9, 0u32..9, 0u32..9)),
    ) -> (Vec<Label>, Option<u32>, v2::TimeSeries) {
        let mut labels = labels;
        if named > 0 {
            labels.insert(0, Label { name: "__name__".into(), value: format!("m{}", named % 3) });
        }
        let samples = samples.into_iter().map(|(value, timestamp, start_timestamp)| {
            v2::Sample { value, timestamp, start_timestamp }
        });
        let series = v2::TimeSeries {
            labels_refs: Vec::new(),
            samples: samples.collect(),
            histograms: vec![v2::Histogram { sum: 1.5, ..Default::default() }; histograms],
            exemplars: vec![v2::Exemplar { value: 2.5, ..Default::default() }; exemplars],
            metadata: metadata.map(|(r#type, help_ref, unit_ref)| {
                v2::Metadata { r#type, help_ref, unit_ref }
            }),
        };
        (labels, stray, series)
    }
}

prop_compose! {
    fn a_request_v2()(
        all in prop::collection::vec(a_series_v2(), 0..8),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) -> v2::Request {
        let mut symbols = Symbols::default();
        let series = |(labels, stray, series): (Vec<Label>, Option<u32>, v2::TimeSeries)| {
            let mut labels_refs = symbols.all(&labels);
            labels_refs.extend(stray);
            v2::TimeSeries { labels_refs, ..series }
        };
        let mut timeseries: Vec<_> = all.into_iter().map(series).collect();
        for index in again {
            if !timeseries.is_empty() {
                timeseries.push(index.get(&timeseries).clone());
            }
        }
        v2::Request { symbols: symbols.texts, timeseries }
    }
}

proptest! {
    #[test]
    fn what_prost_writes_is_scanned(request in a_request_v2()) {
        prop_assert!(Reused::default().check(&request.encode_to_vec()));
    }

    /// Fields in any order, symbols after the series that need them, references in pieces, unknown
    /// fields, needless bytes in varints.
    #[test]
    fn odd_spellings_say_the_same(request in a_request_v2(), seed: u64) {
        let message = spell_v2(&request, &mut Random::new(seed));
        let read = v2::Request::decode(&message[..]).expect("a request, if odd");
        prop_assert_eq!(read.encode_to_vec(), request.encode_to_vec());
        prop_assert!(Reused::default().check(&message));
    }

    #[test]
    fn any_bytes_are_judged_as_by_prost(message: Vec<u8>) {
        Reused::default().check(&message);
    }

    /// A scan and a buffer that were used before, also for what failed, say the same as new ones.
    #[test]
    fn a_scan_forgets(
        a in a_request_v2(), b in a_request_v2(), cut: prop::sample::Index, seed: u64,
    ) {
        let a = spell_v2(&a, &mut Random::new(seed));
        let b = spell_v2(&b, &mut Random::new(seed));
        let mut reused = Reused::default();
        reused.check(&a);
        reused.check(&a[..cut.index(a.len() + 1)]);
        reused.check(&b);
    }

    /// The law of this file: by either version a series has the same bytes, and so the same key.
    #[test]
    fn both_versions_give_the_same_regions(mut request in a_request(), named: u8) {
        for (at, series) in request.timeseries.iter_mut().enumerate() {
            let at = usize::from(named) >> at & 1;
            let label = Label { name: "__name__".into(), value: "m".into() };
            series.labels.insert(at.min(series.labels.len()), label);
        }
        check_both(&request);
    }
}

/// Holds the scan of 2.0 to that of 1.0 for the same data.
fn check_both(request: &WriteRequest) {
    let (mut decoded, mut one) = (request.encode_to_vec(), Scan::default());
    write_request_v1(&mut decoded, &mut one).expect("a request");
    let (regions, two) = scanned(&request_v2(request).encode_to_vec());
    let names_metric = |region: &[u8]| {
        let mut labels = region::labels(region).map(|label| label.expect("a label"));
        labels.any(|(name, value)| name == b"__name__" && !value.is_empty())
    };
    let kept = one.series.iter().zip(&request.timeseries).filter(|(view, series)| {
        let is_bare = series.samples.is_empty() && series.histograms.is_empty();
        names_metric(&decoded[bytes_of(&view.labels)]) && !is_bare
    });
    let of = |bytes: &[u8], scan: &Scan, view: &SeriesView| {
        (bytes[bytes_of(&view.labels)].to_vec(), scan.samples[bytes_of(&view.samples)].to_vec())
    };
    let got = two.series.iter().map(|view| of(&regions, &two, view));
    assert!(got.eq(kept.map(|(view, _)| of(&decoded, &one, view))));
}

#[test]
fn mutated_messages_are_judged_as_by_prost() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reused = Reused::default();
    judge_mutations(
        |random| {
            let request = a_request_v2().new_tree(&mut runner).expect("a request").current();
            [request.encode_to_vec(), spell_v2(&request, random)]
        },
        |message| reused.check(message),
    );
}

#[test]
fn a_body_of_prometheus_2_42_in_2_0() {
    let mut decoded = Vec::new();
    snappy::decode(REAL_BODY, 1 << 20, &mut decoded).expect("a snappy block");
    let request = WriteRequest::decode(&decoded[..]).expect("a request");
    check_both(&request);
    let (regions, scan) = scanned(&request_v2(&request).encode_to_vec());
    assert_eq!((scan.series.len(), scan.samples.len(), scan.bad.len()), (353, 353, 0));
    let canonical = |view: &SeriesView| region::is_canonical(&regions[bytes_of(&view.labels)]);
    assert!(scan.series.iter().all(canonical));
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// A message with every field, which the code of Prometheus 3.14 reads: `up{job="a"}` with a sample
/// that has a start timestamp, an exemplar and metadata; `up` with a histogram.
#[test]
fn vector() {
    let message = from_hex(
        "220022085f5f6e616d655f5f2202757022036a6f6222016122\
         0968656c702074657874220173220874726163655f6964220274312a3d0a0401020304121709000000000000f8\
         3f1080d095ffbc31188080babbc82e22140a02070811000000000000d03f1881d095ffbc312a06080118052006\
         2a4e0a0201021a460806190000000000002940206930005a0408001003620302020170027880d095ffbc318201\
         187b14ae47e17a743f000000000000f03f000000000000044088018080babbc82e2a00",
    );
    assert!(Reused::default().check(&message));
    let (regions, scan) = scanned(&message);
    let shown: Vec<String> =
        scan.series.iter().map(|view| region::shown(&regions[bytes_of(&view.labels)])).collect();
    assert_eq!(shown, [r#"{__name__="up", job="a"}"#, r#"{__name__="up"}"#]);
    assert_eq!(scan.series[0].samples, 0..1);
    assert_eq!(scan.series[1].samples, 1..1);
    assert_eq!(scan.samples, [Sample::new(1_700_000_000_000, 1.5)]);
    assert_eq!((scan.histograms.len(), scan.exemplars), (1, 1));
    assert_eq!((scan.metadata, scan.start_timestamps), (1, 1));
}

/// A request with these symbols and a series for each list of references, with a stale marker.
fn with_refs(symbols: &[&str], series: &[&[u32]]) -> v2::Request {
    let stale = f64::from_bits(STALE_NAN_BITS);
    let sample = v2::Sample { value: stale, timestamp: 1_700_000_000_000, start_timestamp: 0 };
    let of = |refs: &&[u32]| v2::TimeSeries {
        labels_refs: refs.to_vec(),
        samples: vec![sample],
        ..v2::TimeSeries::default()
    };
    let symbols = symbols.iter().map(|&text| text.into()).collect();
    v2::Request { symbols, timeseries: series.iter().map(of).collect() }
}

#[test]
fn bad_series_are_refused_alone() {
    let symbols = ["", "__name__", "up", "job", "a"];
    let check = |refs: &[u32], want: SeriesError, shown: &str| {
        let message = with_refs(&symbols, &[&[1, 2], refs, &[1, 2, 3, 4]]).encode_to_vec();
        let (regions, scan) = scanned(&message);
        assert_eq!((scan.series.len(), scan.samples.len()), (2, 2), "{refs:?}");
        assert!(scan.samples.iter().all(|sample| sample.bits == STALE_NAN_BITS));
        let last = region::shown(&regions[bytes_of(&scan.series[1].labels)]);
        assert_eq!(last, r#"{__name__="up", job="a"}"#, "{refs:?}");
        let [bad] = &scan.bad[..] else { panic!("{:?}", scan.bad) };
        assert_eq!((&bad.error, &*bad.shown), (&want, shown));
        assert_eq!((bad.series, bad.samples), (1, 1));
    };
    let beyond = |reference| SeriesError::RefOutOfRange { reference, symbols: 5 };
    check(&[], SeriesError::NoLabels, "{}");
    check(&[1], SeriesError::OddRefs, "{}");
    check(&[1, 2, 3], SeriesError::OddRefs, r#"{__name__="up"}"#);
    check(&[1, 2, 3, 5], beyond(5), r#"{__name__="up"}"#);
    check(&[5, 2], beyond(5), "{}");
    check(&[1, u32::MAX], beyond(u32::MAX), "{}");
    check(&[u32::MAX, 4, 9, 9], beyond(u32::MAX), "{}");
    check(&[3, 4], SeriesError::NoMetricName, r#"{job="a"}"#);
    check(&[1, 0, 3, 4], SeriesError::NoMetricName, r#"{__name__="", job="a"}"#);
}

#[test]
fn a_name_anywhere_will_do() {
    let long = "x".repeat(200);
    let symbols = ["", "__name__", "up", "A", "1", &long];
    for refs in [&[1, 2][..], &[3, 4, 1, 2], &[1, 5], &[3, 5, 1, 5]] {
        let (_, scan) = scanned(&with_refs(&symbols, &[refs]).encode_to_vec());
        assert_eq!((scan.series.len(), scan.bad.len()), (1, 0), "{refs:?}");
    }
}

/// The length of the value is spelt with a needless byte.
#[test]
fn an_empty_name_in_an_odd_spelling_is_no_name() {
    let message = b"\x22\x00\x22\x08__name__\x22\x80\x00\
        \x2a\x08\x0a\x02\x01\x02\x12\x02\x10\x07";
    assert!(Reused::default().check(message));
    let (_, scan) = scanned(message);
    assert_eq!(scan.series, []);
    assert_eq!(scan.bad[0].error, SeriesError::NoMetricName);
}

#[test]
fn a_series_with_nothing_to_store_is_refused() {
    let symbols = ["", "__name__", "up"];
    let mut request = with_refs(&symbols, &[&[1, 2], &[1, 2]]);
    request.timeseries[0].samples.clear();
    request.timeseries[0].exemplars.push(v2::Exemplar::default());
    let (_, scan) = scanned(&request.encode_to_vec());
    let [bad] = &scan.bad[..] else { panic!("{:?}", scan.bad) };
    assert_eq!((&bad.error, bad.series, bad.samples), (&SeriesError::NoSamples, 1, 0));
    assert_eq!((scan.series.len(), scan.exemplars), (1, 1));
    request.timeseries[0].histograms.push(v2::Histogram::default());
    let (_, scan) = scanned(&request.encode_to_vec());
    assert_eq!((scan.series.len(), scan.bad.len(), scan.histograms.len()), (2, 0, 1));
}

#[test]
fn start_timestamps_of_today_and_of_early_drafts_are_counted() {
    let up = b"\x22\x00\x22\x08__name__\x22\x02up\x2a";
    let check = |series: &[u8], want: u64| {
        let series = [&b"\x0a\x02\x01\x02"[..], series].concat();
        let message = [&up[..], &[series.len() as u8], &series].concat();
        assert!(Reused::default().check(&message));
        assert_eq!(scanned(&message).1.start_timestamps, want, "{series:x?}");
    };
    check(b"\x12\x02\x10\x07", 0);
    check(b"\x12\x04\x10\x07\x18\x00", 0);
    check(b"\x12\x04\x10\x07\x18\x05\x12\x04\x18\x06\x10\x08", 2);
    check(b"\x12\x02\x10\x07\x30\x05", 1);
    check(b"\x12\x02\x10\x07\x30\x00", 0);
    // Of another kind, it is a field of the future.
    check(b"\x12\x02\x10\x07\x32\x01\xff", 0);
}

#[test]
fn errors_are_of_the_whole_request() {
    let check = |message: &[u8], limit: usize, want: Error| {
        let mut reused = Reused::default();
        let got = write_request_v2(message, limit, &mut reused.regions, &mut reused.scan);
        assert_eq!(got, Err(want), "{message:x?}");
    };
    check(b"\x22\x01a", LIMIT, Error::FirstSymbolNotEmpty { length: 1 });
    check(b"\x22\x05a", LIMIT, Error::Truncated { at: 2, length: 5, left: 1 });
    check(b"\x2a\x7f", LIMIT, Error::Truncated { at: 2, length: 127, left: 0 });
    check(b"\x20\x01", LIMIT, Error::BadWireType { at: 1, field: 4, wire_type: 0 });
    check(b"\x2a\x02\x15\x00", LIMIT, Error::BadWireType { at: 3, field: 2, wire_type: 5 });
    check(b"\x2a\x03\x0a\x01\x80", LIMIT, Error::BadVarint { at: 4 });
    check(b"\x2a\x04\x2a\x02\x18\x80", LIMIT, Error::BadVarint { at: 5 });
    check(b"\x2b\x2c", LIMIT, Error::BadWireType { at: 1, field: 5, wire_type: 3 });
    check(b"\x0b\x0c", LIMIT, Error::Group { at: 1, field: 1 });
}

/// Labels are written out up to the limit and not a byte further, and little memory beyond it is
/// taken, however short the message.
#[test]
fn labels_written_out_have_a_limit() {
    let long = "v".repeat(1000);
    let symbols = ["", "__name__", &long];
    let series = vec![&[1, 2][..]; 1000];
    let message = with_refs(&symbols, &series).encode_to_vec();
    let (regions, scan) = scanned(&message);
    let whole = bytes_of(&scan.series[999].labels).end;
    assert!(whole > 1_000_000 && message.len() < 30_000);
    drop(regions);
    for (limit, fits) in [(whole, true), (whole - 1, false), (whole / 2, false), (0, false)] {
        let (mut regions, mut scan) = (Vec::new(), Scan::default());
        let got = write_request_v2(&message, limit, &mut regions, &mut scan);
        assert_eq!(got, if fits { Ok(()) } else { Err(Error::LabelsTooLarge { limit }) });
        assert!(regions.capacity() <= 2 * limit + 4096, "{} for {limit}", regions.capacity());
    }
    // Short labels in one series, in a buffer that has room for all of them.
    let refs: Vec<u32> = [1, 0].repeat(100_000);
    let message = with_refs(&["", "__name__"], &[&refs]).encode_to_vec();
    let mut regions = vec![0; 4 << 20];
    let got = write_request_v2(&message, 1 << 20, &mut regions, &mut Scan::default());
    assert_eq!(got, Err(Error::LabelsTooLarge { limit: 1 << 20 }));
}

#[test]
fn hostile_counts_are_bounded() {
    const COUNT: usize = 1 << 20;
    let (mut regions, mut scan) = (Vec::new(), Scan::default());
    let name = b"\x22\x08__name__";
    let symbols = [0x22, 0].repeat(COUNT);
    // Together they are too many, either alone is not.
    let some = [0x22, 0].repeat(RECORDS_FREE * 9 / 8);
    let series = [0x2a, 6, 0x0a, 2, 1, 1, 0x12, 0].repeat(RECORDS_FREE * 9 / 8);
    let both = [&some[..2], name, &some, &series].concat();
    for message in [symbols, both] {
        let max = message.len() / 5 + RECORDS_FREE;
        let got = write_request_v2(&message, LIMIT, &mut regions, &mut scan);
        assert_eq!(got, Err(Error::TooManyRecords { max }));
        assert!(scan.room() <= 5 << 17, "{} are kept", scan.room());
    }
    let alone = [&some[..2], name, &series].concat();
    assert_eq!(write_request_v2(&alone, LIMIT, &mut regions, &mut scan), Ok(()));
    // Series that are refused cost no memory; all that is kept of them is a count.
    let series = [0x2a, 0].repeat(COUNT);
    assert_eq!(write_request_v2(&series, LIMIT, &mut regions, &mut scan), Ok(()));
    assert_eq!((scan.series.len(), scan.bad.len()), (0, 1));
    assert_eq!(scan.bad[0].series, COUNT as u64);
}
