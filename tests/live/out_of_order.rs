//! Samples out of order: within the window they are stored, once and between the others; all else
//! is refused by name.

use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::wire::{Samples, Sender, Store, request, series};

const MINUTE_MS: i64 = 60_000;
const NAME: (&str, &str) = ("__name__", "m");

/// A request: what it is, its samples, the status, and the reason that counts.
type Row<'a> = (&'a str, &'a [(i64, f64)], u16, &'a str);

/// What is stored of the series.
fn stored(node: &Node) -> Samples {
    let found = Store::connect(node.at.grpc).select(&[NAME]);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_values().next().unwrap_or_default()
}

#[test]
fn samples_out_of_order_are_stored_within_the_window() {
    let home = home();
    let window = "--tsdb.out-of-order.time-window=10m";
    let node = Node::start(home.path(), &["--shards=2", window]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let begin = now_ms() - 60 * MINUTE_MS;
    let at = |minutes: i64| begin + minutes * MINUTE_MS;
    let (late, other) = ("sample-timestamp-too-old", "sample-conflict");
    let far = at(10) + 1;
    let rows: [Row<'_>; 9] = [
        ("in order", &[(at(10), 1.0), (at(20), 2.0)], 200, ""),
        ("between", &[(at(15), 3.0)], 200, ""),
        ("the same again", &[(at(15), 3.0), (at(10), 1.0)], 200, ""),
        ("another value", &[(at(15), 4.0)], 409, other),
        ("another than one in order", &[(at(10), 4.0)], 409, other),
        ("many, in any order", &[(at(12), 5.0), (at(11), 6.0), (at(18), 7.0)], 200, ""),
        ("at the edge, and beyond", &[(at(10) - 1, 8.0), (far, 9.0)], 409, late),
        ("new and old", &[(at(22), 10.0), (at(21), 11.0)], 200, ""),
        ("the edge has moved", &[(at(12) - 1, 12.0)], 409, late),
    ];
    let reason = |reason: &str| format!("tidegate_rejected_samples_total{{reason=\"{reason}\"}}");
    for (what, samples, status, refused) in rows {
        let before = node.metrics().sum(&reason(refused));
        let answer = sender.write("a", &request(vec![series(&[NAME], samples)]));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if !refused.is_empty() {
            wait_for("the count", || (node.metrics().sum(&reason(refused)) > before).then_some(()));
        }
    }
    let want: Samples = [
        (at(10), 1.0),
        (far, 9.0),
        (at(11), 6.0),
        (at(12), 5.0),
        (at(15), 3.0),
        (at(18), 7.0),
        (at(20), 2.0),
        (at(21), 11.0),
        (at(22), 10.0),
    ]
    .map(|(t, value): (i64, f64)| (t, value.to_bits()))
    .into();
    assert_eq!(stored(&node), want);
    node.kill();
    // What was stored is, whatever the window is now.
    let node = Node::start(home.path(), &["--shards=1"]);
    assert_eq!(stored(&node), want);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for (samples, status) in [(&[(at(15), 3.0)], 200), (&[(at(16), 3.0)], 409)] {
        let answer = sender.write("a", &request(vec![series(&[NAME], samples)]));
        assert_eq!(answer.expect("an answer").status, status);
    }
}

/// The smaller the chunks, the more there are.
#[test]
fn samples_out_of_order_lie_in_chunks_of_so_many() {
    let begin = now_ms() - 60 * MINUTE_MS;
    let bytes = ["2", "100"].map(|cap| {
        let home = home();
        let cap = format!("--tsdb.out-of-order.cap-max={cap}");
        let flags = ["--shards=1", "--tsdb.out-of-order.time-window=1h", &cap];
        let node = Node::start(home.path(), &flags);
        let mut sender = Sender::connect(node.at.write).expect("a connection");
        let late = (0..100).map(|i| (begin + i * 1000, 1.0));
        let newest = (begin + 20 * MINUTE_MS, 0.0);
        let samples: Vec<(i64, f64)> = [newest].into_iter().chain(late).collect();
        let answer = sender.write("a", &request(vec![series(&[NAME], &samples)]));
        assert_eq!(answer.expect("an answer").status, 200);
        assert_eq!(stored(&node).len(), 101);
        let part = "tidegate_head_bytes{shard=\"0\",part=\"out_of_order\"}";
        wait_for("the bytes", || Some(node.metrics().sum(part)).filter(|&bytes| bytes > 0.0))
    });
    assert!(bytes[0] > 5.0 * bytes[1], "{bytes:?}");
}
