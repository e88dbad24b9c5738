//! What a tenant may write: the limits file acts, at once when it changes, and costs nobody else.

use std::fs;
use std::path::Path;
use std::thread;

use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::wire::{Answer, Sender, Store, encode, request, series, snappy, write_bytes};

/// Series that tenant `a` may have.
const LIMIT: usize = 1000;

fn limits_of_a(limits: &str) -> String {
    format!("write: {{tenants: {{a: {{{limits}}}}}}}")
}

fn replace(file: &Path, yaml: &str) {
    let new = file.with_extension("new");
    fs::write(&new, yaml).expect("is written");
    fs::rename(new, file).expect("is renamed");
}

/// Writes a sample of each of some series.
fn write(sender: &mut Sender, tenant: &str, of: std::ops::Range<usize>, t: i64) -> Answer {
    let one = |i: usize| series(&[("__name__", "m"), ("i", &i.to_string())], &[(t, 1.0)]);
    sender.write(tenant, &request(of.map(one).collect())).expect("an answer")
}

/// Waits until a metric shows a number.
fn shows(node: &Node, metric: &str, number: usize) {
    wait_for(metric, || (node.metrics().sum(metric) as usize == number).then_some(()));
}

fn count(node: &Node, tenant: &str) -> usize {
    Store::connect(node.at.grpc).select(&[("__name__", "m"), ("tenant_id", tenant)]).len()
}

#[test]
fn a_tenant_has_as_many_series_as_it_may_and_known_ones_go_on() {
    let home = home();
    let file = home.path().join("limits.yaml");
    let flag = format!("--receive.limits-config-file={}", file.display());
    let flags = ["--shards=2", &flag, "--receive.limits-config-reload-timer=50ms"];
    replace(&file, &limits_of_a(&format!("head_series_limit: {LIMIT}")));
    let mut node = Node::start(home.path(), &flags);
    node.may_warn("the limits file cannot be used");
    let t = now_ms() - 60_000;
    // Four senders at once, each with a quarter of three times as many series.
    let statuses: Vec<u16> = thread::scope(|scope| {
        let node = &node;
        let sent = |n: usize| {
            let mut sender = Sender::connect(node.at.write).expect("a connection");
            let from = n * LIMIT * 3 / 4;
            let parts = (from..from + LIMIT * 3 / 4).step_by(50);
            parts.map(|i| write(&mut sender, "a", i..i + 50, t).status).collect::<Vec<_>>()
        };
        let senders: Vec<_> = (0..4).map(|n| scope.spawn(move || sent(n))).collect();
        senders.into_iter().flat_map(|sender| sender.join().expect("no panic")).collect()
    });
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    let stored = count(&node, "a");
    assert!((LIMIT * 99 / 100..=LIMIT).contains(&stored), "{stored} series");
    let reason = "tidegate_rejected_samples_total{reason=\"series-limit\"}";
    shows(&node, reason, 3 * LIMIT - stored);

    // Known series go on beside new ones, and other tenants have no limit.
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let all = write(&mut sender, "a", 0..3 * LIMIT, t + 1);
    assert_eq!(all.status, 429, "{all:?}");
    assert!(all.header("Retry-After").is_some(), "{all:?}");
    assert!(all.text.contains("head_series_limit") && all.text.contains("1000"), "{all:?}");
    let samples = Store::connect(node.at.grpc).select(&[("__name__", "m"), ("tenant_id", "a")]);
    assert_eq!(samples.values().map(Vec::len).sum::<usize>(), 2 * stored);
    assert_eq!(write(&mut sender, "b", 0..2 * LIMIT, t).status, 200);

    // A bad file changes nothing, nor does an empty one; a good one acts.
    replace(&file, "write: {tenants: [");
    shows(&node, "thanos_receive_limits_config_reload_err_total", 1);
    replace(&file, "");
    shows(&node, "thanos_receive_limits_config_reload_err_total", 2);
    assert_eq!(write(&mut sender, "a", 3 * LIMIT..3 * LIMIT + 50, t).status, 429);
    replace(&file, &limits_of_a(&format!("head_series_limit: {}", 4 * LIMIT)));
    shows(&node, "thanos_receive_head_series_limit{tenant=\"a\"}", 4 * LIMIT);
    assert_eq!(write(&mut sender, "a", 0..3 * LIMIT, t + 2).status, 200);
    assert_eq!(count(&node, "a"), 3 * LIMIT);

    // Lowered again: what is there stays, also over a death and another number of shards.
    replace(&file, &limits_of_a(&format!("head_series_limit: {LIMIT}")));
    node.kill();
    let node = Node::start(home.path(), &["--shards=3", &flag]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    assert_eq!(write(&mut sender, "a", 0..3 * LIMIT, t + 3).status, 200);
    assert_eq!(write(&mut sender, "a", 3 * LIMIT..3 * LIMIT + 50, t).status, 429);
    assert_eq!(count(&node, "a"), 3 * LIMIT);
}

#[test]
fn a_request_has_as_much_as_its_tenant_may_send() {
    let home = home();
    let limits = "request: {size_bytes_limit: 2000, series_limit: 20, samples_limit: 30}";
    let flag = format!("--receive.limits-config={}", limits_of_a(limits));
    let node = Node::start(home.path(), &["--shards=2", &flag]);
    let t = now_ms() - 60_000;
    let many = |series_of: usize, samples: usize, pad: usize| {
        let samples: Vec<(i64, f64)> = (0..samples).map(|n| (t + n as i64, 1.0)).collect();
        let pad = "p".repeat(pad);
        let one =
            |i: usize| series(&[("__name__", "m"), ("i", &i.to_string()), ("pad", &pad)], &samples);
        request((0..series_of).map(one).collect())
    };
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for (series, samples, pad, tenant, status, says) in [
        (20, 1, 1, "a", 200, ""),
        (21, 1, 1, "a", 413, "21 series"),
        (3, 10, 1, "a", 200, ""),
        (3, 11, 1, "a", 413, "33 samples"),
        (2, 1, 990, "a", 413, "decoded bytes"),
        (21, 11, 990, "b", 200, ""),
    ] {
        let answer = sender.write(tenant, &many(series, samples, pad)).expect("an answer");
        assert_eq!(answer.status, status, "{series} of {samples}: {answer:?}");
        assert!(answer.text.contains(says), "{says}: {answer:?}");
    }
    // A body that is too long is not read: the answer comes before it.
    let body = snappy(&encode(&many(1, 1, 1)));
    let mut long = write_bytes("THANOS-TENANT: a\r\n", &body);
    let head = long.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head_text = String::from_utf8(long[..head].to_vec()).expect("text");
    let length = format!("Content-Length: {}", body.len());
    assert!(head_text.contains(&length), "{head_text}");
    long = head_text.replace(&length, "Content-Length: 2001").into_bytes();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    sender.send(&long).expect("is sent");
    let answer = sender.answer().expect("an answer");
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.text.contains("2001 bytes"), "{answer:?}");
    let refused = "tidegate_refused_requests_total{reason=\"above-tenant-limit\"}";
    shows(&node, refused, 4);
}
