//! Frames against the generated messages, final labels against a map, shards by golden numbers.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use tidegate_proto::thanos;
use twox_hash::XxHash64;

use crate::chunk::{Chunk, Encoding};
use crate::frame::{FRAME_BYTES_MAX, Frame, Sharding, encode, final_labels, in_shard};
use crate::model::{Labels, sort_key};

fn key(labels: &[(&str, &str)]) -> Bytes {
    let mut key = Vec::new();
    sort_key(labels.iter().copied(), &mut key);
    key.into()
}

fn frames(labels: &[(&str, &str)], chunks: &[Chunk<'_>]) -> Vec<Frame> {
    let mut out = Vec::new();
    encode(labels, &key(labels), chunks.iter().copied(), &mut out);
    out
}

/// The message the frames of one series must decode to, by the generated types alone.
fn message(labels: &[(&str, &str)], chunks: &[Chunk<'_>]) -> thanos::Series {
    let label = |(name, value): &(&str, &str)| thanos::Label {
        name: (*name).into(),
        value: (*value).into(),
    };
    let chunk = |c: &Chunk<'_>| thanos::AggrChunk {
        min_time: c.min_t,
        max_time: c.max_t,
        raw: Some(thanos::Chunk {
            r#type: match c.encoding {
                Encoding::Xor => thanos::chunk::Encoding::Xor,
                Encoding::Histogram => thanos::chunk::Encoding::Histogram,
                Encoding::FloatHistogram => thanos::chunk::Encoding::FloatHistogram,
            } as i32,
            data: Bytes::copy_from_slice(c.bytes),
            hash: XxHash64::oneshot(0, c.bytes),
        }),
        ..Default::default()
    };
    thanos::Series {
        labels: labels.iter().map(label).collect(),
        chunks: chunks.iter().map(chunk).collect(),
    }
}

#[test]
fn bytes_of_a_small_series() {
    let chunk = Chunk { encoding: Encoding::Histogram, min_t: 0, max_t: 300, bytes: b"a" };
    let got = frames(&[("a", "b")], &[chunk]);
    let want: &[u8] = &[
        0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b', // the label
        0x12, 21, 0x10, 0xac, 0x02, // max_time; min_time is 0 and absent
        0x1a, 16, 0x08, 1, 0x12, 1, b'a', // histogram is 1 on this wire
        0x18, 0xdb, 0xdc, 0xb1, 0xcc, 0x9a, 0x9e, 0xb1, 0xa7, 0xd2, 0x01, // d24ec4f1a98c6e5b
    ];
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].body.as_ref(), want);
    assert_eq!(got[0].key.as_ref(), b"a\0\x01b\0\x01\0\0");
}

#[test]
fn no_chunks_give_labels_alone() {
    let labels = [("__name__", "up"), ("job", "x")];
    let got = frames(&labels, &[]);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].body.as_ref(), message(&labels, &[]).encode_to_vec());
}

#[test]
fn a_big_series_is_split_and_a_big_chunk_goes_alone() {
    let big = vec![7; FRAME_BYTES_MAX + 1];
    let third = vec![8; FRAME_BYTES_MAX / 3];
    let chunk = |t, bytes| Chunk { encoding: Encoding::Xor, min_t: t, max_t: t, bytes };
    let chunks: Vec<Chunk<'_>> = [&third, &third, &third, &big, &third]
        .into_iter()
        .zip(1..)
        .map(|(b, t)| chunk(t, &**b))
        .collect();
    let got = frames(&[("a", "b")], &chunks);
    let sizes: Vec<usize> = got.iter().map(|f| decoded(f).chunks.len()).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
    for (i, frame) in got.iter().enumerate() {
        assert!(i == 2 || frame.body.len() <= FRAME_BYTES_MAX, "frame {i}: {}", frame.body.len());
    }
    check_frames(&[("a", "b")], &chunks, &got);
}

fn decoded(frame: &Frame) -> thanos::Series {
    thanos::Series::decode(frame.body.clone()).expect("a thanos.Series")
}

/// All frames carry the labels and key; their chunks together are the chunks; each is encoded as
/// the generated code would.
fn check_frames(labels: &[(&str, &str)], chunks: &[Chunk<'_>], got: &[Frame]) {
    let want = message(labels, chunks);
    let mut together = Vec::new();
    for frame in got {
        let series = decoded(frame);
        assert_eq!(series.encode_to_vec(), frame.body, "canonical bytes");
        assert_eq!(series.labels, want.labels);
        assert_eq!(frame.key, key(labels));
        together.extend(series.chunks);
    }
    assert_eq!(together, want.chunks);
}

fn label_map(names: &'static str) -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(names, "[a-zé]{1,200}", 0..6)
}

proptest! {
    #[test]
    fn frames_are_what_the_generated_code_writes(
        labels in label_map("[a-z]{1,9}"),
        times in proptest::collection::vec(any::<(i64, i64)>(), 0..9),
        sizes in proptest::collection::vec(prop_oneof![0usize..400, 200_000usize..600_000], 9),
    ) {
        let labels: Vec<(&str, &str)> =
            labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let data: Vec<Vec<u8>> = sizes.iter().map(|len| vec![*len as u8; *len]).collect();
        let encodings = [Encoding::Xor, Encoding::Histogram, Encoding::FloatHistogram];
        let chunks: Vec<Chunk<'_>> = times
            .iter()
            .zip(&data)
            .zip(encodings.iter().cycle())
            .map(|((&(min_t, max_t), bytes), &encoding)| Chunk { encoding, min_t, max_t, bytes })
            .collect();
        let got = frames(&labels, &chunks);
        check_frames(&labels, &chunks, &got);
        prop_assert!(got.iter().all(|f| f.body.len() <= FRAME_BYTES_MAX));
        // No frame could have taken the first chunk of the next.
        for pair in got.windows(2) {
            let mut both = decoded(&pair[0]);
            both.chunks.extend(decoded(&pair[1]).chunks.into_iter().take(1));
            prop_assert!(both.encoded_len() > FRAME_BYTES_MAX);
        }
    }

    #[test]
    fn final_labels_are_a_map_overlaid_and_cut(
        own in label_map("[a-d]{1,2}"),
        external in label_map("[a-d]{1,2}"),
        without in proptest::collection::vec("[a-d]{1,2}", 0..4),
    ) {
        let mut want = own.clone();
        want.extend(external.clone());
        want.retain(|name, _| !without.contains(name));
        let external = Labels::new(external).expect("a label set");
        let mut got = vec![("left", "over")];
        let own = own.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        final_labels(own, &external, &without, &mut got);
        let want: Vec<(&str, &str)> = want.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn every_series_is_in_exactly_one_part(
        labels in label_map("[a-d]{1,2}"),
        total in 1i64..9,
        by in any::<bool>(),
        names in proptest::collection::vec("[a-d]{1,2}", 0..4),
    ) {
        let labels: Vec<(&str, &str)> =
            labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let parts = (-1..=total)
            .filter(|&index| in_shard(&labels, &Sharding { index, total, by, labels: names.clone() }))
            .count();
        prop_assert_eq!(parts, 1);
    }
}

/// Parts computed with an implementation of xxhash64 of its own, over `name ff value ff`.
#[test]
fn parts_are_those_of_thanos() {
    let labels = [("__name__", "up"), ("instance", "localhost:9090"), ("job", "prometheus")];
    let part = |by, names: &[&str]| {
        let labels_of = |index| Sharding {
            index,
            total: 97,
            by,
            labels: names.iter().map(|n| (*n).into()).collect(),
        };
        (0..97).find(|&index| in_shard(&labels, &labels_of(index)))
    };
    assert_eq!(part(false, &[]), Some(9));
    assert_eq!(part(true, &["job"]), Some(39));
    assert_eq!(part(false, &["job"]), Some(17));
    let off = Sharding { index: 3, total: 0, by: true, labels: vec![] };
    assert!(in_shard(&labels, &off));
}
