//! How old a sample may be: nothing is acknowledged that retention would delete next, and senders
//! that were cut off for days catch up.

use tidegate_proto::prometheus::WriteRequest;

use crate::live::harness::{Node, home, now_ms};
use crate::live::wire::{Answer, Sender, Store, request, series};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn one(t: i64) -> WriteRequest {
    request(vec![series(&[("__name__", "m"), ("at", &t.to_string())], &[(t, 1.0)])])
}

fn write(node: &Node, tenant: &str, t: i64) -> Answer {
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    sender.write(tenant, &one(t)).expect("an answer")
}

#[test]
fn what_is_past_retention_is_refused_and_costs_nobody() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let now = now_ms();
    for t in [0, 1, -5, i64::MIN, now - 16 * DAY_MS] {
        let answer = write(&node, "a", t);
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(answer.text.contains("past --tsdb.retention"), "{answer:?}");
    }
    // Three thousand ranges of two hours, of which retention keeps fifteen days and a bit.
    let flood: Vec<_> = (0..3_000)
        .map(|i| (i, now - i * 2 * HOUR_MS))
        .map(|(i, t)| series(&[("__name__", "m"), ("i", &i.to_string())], &[(t, 1.0)]))
        .collect();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let answer = sender.write("flood", &request(flood)).expect("an answer");
    assert_eq!(answer.status, 409, "{answer:?}");
    let stored = Store::connect(node.at.grpc).select(&[("tenant_id", "flood"), ("__name__", "m")]);
    assert!((180..=182).contains(&stored.len()), "{} ranges", stored.len());
    let counter = "tidegate_rejected_samples_total{reason=\"sample-out-of-bounds\"}";
    let refused = node.metrics().sum(counter);
    assert_eq!(refused as usize, 5 + 3_000 - stored.len());
}

#[test]
fn senders_catch_up_after_days() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let begin = now_ms() - 14 * DAY_MS;
    let labels = [("__name__", "m")];
    for hour in 0..14 * 24 {
        let t = begin + hour * HOUR_MS;
        let part = request(vec![series(&labels, &[(t, 1.0), (t + HOUR_MS / 2, 2.0)])]);
        let answer = sender.write("a", &part).expect("an answer");
        assert_eq!(answer.status, 200, "hour {hour}: {answer:?}");
    }
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "m")]);
    assert_eq!(stored.values().map(Vec::len).sum::<usize>(), 2 * 14 * 24);
}

#[test]
fn without_retention_time_begins_in_1970() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1", "--tsdb.retention=0d"]);
    for (t, status) in [(-1, 409), (i64::MIN, 409), (0, 200), (now_ms(), 200)] {
        let answer = write(&node, "a", t);
        assert_eq!(answer.status, status, "{t}: {answer:?}");
    }
}
