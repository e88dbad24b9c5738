//! The same data by remote write 1.0 and by 2.0: the same answers, the same head.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use prost::Message as _;
use tidegate_proto::prometheus::{Histogram, Label, Sample, TimeSeries, WriteRequest};

use crate::decode::Version;
use crate::decode::tests::v2::request_v2;
use crate::model::{External, Labels, STALE_NAN_BITS, TimeSpan};
use crate::route::Routed;
use crate::route::node::{Node, on_a_core};
use crate::rt::channel::mpsc;
use crate::shard::head::specimen;
use crate::shard::message::{Ask, Part, Select};

/// Loads in an ordinary test run.
const LOADS: usize = 150;

/// A series with a name and a sample at least: of others 2.0 refuses what 1.0 lets pass. Its labels
/// may be unsorted, empty or doubled.
fn a_series() -> impl Strategy<Value = TimeSeries> {
    let labels = prop::collection::vec(("[a-c]|Z|é", "[xy]?|v{130}"), 0..4);
    let value = prop_oneof![3 => any::<u64>(), 1 => Just(STALE_NAN_BITS), 1 => Just(0)];
    let samples = prop::collection::vec((0i64..8, value), 1..4);
    let number = prop_oneof![
        9 => 0..4u64,
        1 => Just(specimen::FLOATS_FROM),
        1 => Just(STALE_NAN_BITS)
    ];
    let histograms = prop::collection::vec((0i64..8, number), 0..3);
    let all = ("m[0-2]", 0..4usize, labels, samples, histograms);
    all.prop_map(|(name, at, labels, samples, histograms)| {
        let label = |(name, value): (String, String)| Label { name, value };
        let mut labels: Vec<Label> = labels.into_iter().map(label).collect();
        labels.insert(at.min(labels.len()), label(("__name__".into(), name)));
        let sample = |(t, bits)| Sample {
            value: f64::from_bits(bits),
            timestamp: 1_700_000_000_000 + t * 15_000,
        };
        let histogram = |(t, number)| {
            let message = specimen::named(1_700_000_000_000 + t * 15_000, number);
            Histogram::decode(&message[..]).expect("a histogram")
        };
        let samples = samples.into_iter().map(sample).collect();
        let histograms = histograms.into_iter().map(histogram).collect();
        TimeSeries { labels, samples, histograms, ..TimeSeries::default() }
    })
}

/// Requests one after the other; with so few names, times and labels that much of it comes again,
/// too late, or with another value.
fn a_load() -> impl Strategy<Value = Vec<WriteRequest>> {
    let request = prop::collection::vec(a_series(), 0..8)
        .prop_map(|timeseries| WriteRequest { timeseries, ..WriteRequest::default() });
    prop::collection::vec(request, 1..6)
}

fn body(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("a body")
}

/// All that the head of a node serves, as the StoreAPI gets it: keys and frames.
async fn head(node: &Node) -> Vec<(Bytes, Bytes)> {
    let external = External::new(Labels::default(), "tenant_id", None);
    let (reply, mut parts) = mpsc::channel(64);
    let ask = Select {
        span: TimeSpan::ALL,
        matchers: Arc::new([]),
        external: Arc::new(external.expect("external labels")),
        without: Arc::new([]),
        skip_chunks: false,
        limit: 0,
        sharding: None,
        reply,
    };
    node.shard.answer(Ask::Select(ask)).await;
    let mut frames = Vec::new();
    while let Some(part) = parts.recv().await {
        match part {
            Part::Begin(_) => {}
            Part::Series(some) => frames.extend(some.into_iter().map(|f| (f.key, f.body))),
            Part::End => return frames,
            Part::Failed(why) => panic!("{why}"),
        }
    }
    panic!("the end is missing");
}

#[test]
fn both_versions_give_equal_answers_and_equal_heads() {
    let held = on_a_core(async |mesh| {
        let mut runner = TestRunner::deterministic();
        let mut held = 0;
        for _ in 0..LOADS {
            let load = a_load().new_tree(&mut runner).expect("a load").current();
            let mut one = Node::new(mesh.clone()).await;
            let mut two = Node::new(mesh.clone()).await;
            // A third is written by both versions in turn: they may meet in one series.
            let mut both = Node::new(mesh.clone()).await;
            for (at, request) in load.iter().enumerate() {
                let in_v1 = body(&request.encode_to_vec());
                let in_v2 = body(&request_v2(request).encode_to_vec());
                let by_v1 = one.write(Version::V1, &in_v1).await;
                let by_v2 = two.write(Version::V2, &in_v2).await;
                let (version, body) =
                    if at % 2 == 0 { (Version::V2, &in_v2) } else { (Version::V1, &in_v1) };
                let by_turns = both.write(version, body).await;
                let of = |routed: Result<Routed, _>| routed.expect("a request").written;
                let by_v1 = of(by_v1);
                assert_eq!(by_v1, of(by_v2), "{request:?}");
                assert_eq!(by_v1, of(by_turns), "{request:?}");
            }
            let frames = head(&one).await;
            assert_eq!(frames, head(&two).await, "{load:?}");
            assert_eq!(frames, head(&both).await, "{load:?}");
            held += frames.len();
        }
        held
    });
    assert!(held > LOADS, "{held} series in all heads");
}

/// More than the log takes at once.
#[test]
fn a_request_of_new_series_may_be_larger_than_a_group() {
    let written = on_a_core(async |mesh| {
        let mut node = Node::new(mesh).await;
        let series = |i: usize| TimeSeries {
            labels: vec![Label { name: "a".into(), value: format!("{i:0>1000}") }],
            samples: vec![Sample { value: 1.0, timestamp: 1_700_000_000_000 }],
            ..TimeSeries::default()
        };
        let timeseries = (0..25_000).map(series).collect();
        let request = WriteRequest { timeseries, ..WriteRequest::default() };
        node.write(Version::V1, &body(&request.encode_to_vec())).await.expect("a request").written
    });
    assert_eq!((written.unavailable, written.floats.stored), (None, 25_000));
}
