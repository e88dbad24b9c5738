//! Strangers over real sockets: each bad request has its status and its counter, and costs nobody
//! but its sender.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use tidegate_proto::prometheus::{
    BucketSpan, Exemplar, Histogram, Label, MetricMetadata, Sample, TimeSeries, WriteRequest,
    histogram,
};

use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::wire::{
    Answer, Metrics, Sender, Store, encode, metrics, request, series, snappy, write_bytes,
    write_head,
};

/// What a body of nothing may cost.
const GROWTH_KIB_MAX: u64 = 8 << 10;

/// The counters a request may move. All others of these families must stand still.
const WATCHED: [&str; 6] = [
    "tidegate_refused_requests_total",
    "tidegate_rejected_samples_total",
    "tidegate_repaired_series_total",
    "tidegate_duplicate_samples_total",
    "tidegate_turned_away_requests_total",
    "tidegate_received_metadata_total",
];

/// The cores show their numbers each second.
const FRESH: Duration = Duration::from_secs(10);

/// A request, the status it must get, and the counter that must move by how much.
struct Row {
    what: &'static str,
    bytes: Vec<u8>,
    status: u16,
    moves: Option<(&'static str, f64)>,
}

fn row(what: &'static str, bytes: Vec<u8>, status: u16, moves: (&'static str, f64)) -> Row {
    Row { what, bytes, status, moves: (moves.1 > 0.0).then_some(moves) }
}

const NOTHING: (&str, f64) = ("", 0.0);
const HTTP: (&str, f64) = ("tidegate_refused_requests_total{reason=\"http-invalid\"}", 1.0);
const LONG: (&str, f64) = ("tidegate_refused_requests_total{reason=\"body-too-long\"}", 1.0);
const SNAPPY: (&str, f64) = ("tidegate_refused_requests_total{reason=\"snappy-invalid\"}", 1.0);
const DECODED: (&str, f64) = ("tidegate_refused_requests_total{reason=\"decoded-too-long\"}", 1.0);
const MESSAGE: (&str, f64) = ("tidegate_refused_requests_total{reason=\"message-invalid\"}", 1.0);
const RECORDS: (&str, f64) = ("tidegate_refused_requests_total{reason=\"records-too-many\"}", 1.0);
const TENANT: (&str, f64) = ("tidegate_refused_requests_total{reason=\"tenant-invalid\"}", 1.0);
const TWICE: (&str, f64) = ("tidegate_refused_requests_total{reason=\"header-twice\"}", 1.0);
const TYPE: (&str, f64) = ("tidegate_refused_requests_total{reason=\"content-type-unknown\"}", 1.0);
const ENCODING: (&str, f64) =
    ("tidegate_refused_requests_total{reason=\"content-encoding-unknown\"}", 1.0);
const PATH: (&str, f64) = ("tidegate_refused_requests_total{reason=\"path-unknown\"}", 1.0);
const METHOD: (&str, f64) = ("tidegate_refused_requests_total{reason=\"method-not-allowed\"}", 1.0);

/// What is wrong as HTTP, by the head alone. The rest of such rows is in the listener's own table.
fn heads() -> Vec<Row> {
    let body = encode(&request(vec![]));
    let post = |more: &str| write_bytes(more, &body);
    let head = |line: &str| format!("{line}\r\nHost: gate\r\n\r\n").into_bytes();
    let raw = |more: &str| format!("{}{more}\r\n", write_head("")).into_bytes();
    let long = format!("POST /{} HTTP/1.1", "x".repeat(9 << 10));
    let v3 = "application/x-protobuf;proto=io.prometheus.write.v3.Request";
    let typed = |content: &str| {
        let head = "POST /api/v1/write HTTP/1.1\r\nHost: gate\r\nContent-Encoding: snappy\r\n";
        let length = body.len();
        let head = format!("{head}Content-Type: {content}\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &body].concat()
    };
    let coded = |coding: &str| {
        let head = "POST /api/v1/write HTTP/1.1\r\nHost: gate\r\nContent-Encoding: ";
        let head = format!("{head}{coding}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    };
    vec![
        row("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), 400, HTTP),
        row("bare LF", b"POST / HTTP/1.1\nHost: a\r\n\r\n".to_vec(), 400, HTTP),
        row("NUL in a header", post("A: b\0c\r\n"), 400, HTTP),
        row("folded header", post("A: b\r\n c\r\n"), 400, HTTP),
        row("space before colon", post("A : b\r\n"), 400, HTTP),
        row("no Host", b"POST /api/v1/receive HTTP/1.1\r\n\r\n".to_vec(), 400, HTTP),
        row("two Hosts", post("Host: b\r\n"), 400, HTTP),
        row("no version", head("POST /api/v1/receive"), 400, HTTP),
        row("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505, HTTP),
        row("a URL of FTP", head("POST ftp://gate/api/v1/receive HTTP/1.1"), 400, HTTP),
        row("target too long", head(&long), 414, HTTP),
        row("headers too many", post(&"A: b\r\n".repeat(65)), 431, HTTP),
        row("head too long", post(&format!("A: {}\r\n", "x".repeat(17 << 10))), 431, HTTP),
        row("length twice", post("Content-Length: 1\r\n"), 400, HTTP),
        row("length signed", raw("Content-Length: +3\r\n"), 400, HTTP),
        row("length and coding", post("Transfer-Encoding: chunked\r\n"), 400, HTTP),
        row("coding gzip", raw("Transfer-Encoding: gzip\r\n"), 501, HTTP),
        row("chunked twice", raw("Transfer-Encoding: chunked, chunked\r\n"), 400, HTTP),
        row("expectation", post("Expect: 200-ok\r\n"), 417, HTTP),
        row("chunk of no number", [raw(CHUNKED), b"x\r\n".into()].concat(), 400, HTTP),
        row("chunk too big", [raw(CHUNKED), b"fffffffffff\r\n".into()].concat(), 413, LONG),
        row("length beyond all", raw("Content-Length: 99999999999999999999\r\n"), 413, LONG),
        row("length over the limit", raw("Content-Length: 33554433\r\n"), 413, LONG),
        row("unknown path", head("POST / HTTP/1.1"), 404, PATH),
        row("path with a slash more", head("POST /api/v1/receive/ HTTP/1.1"), 404, PATH),
        row("path that climbs", head("POST /api/v1/../v1/receive HTTP/1.1"), 404, PATH),
        row("path in escapes", head("POST /api/v1/%72eceive HTTP/1.1"), 404, PATH),
        row("GET", head("GET /api/v1/receive HTTP/1.1"), 405, METHOD),
        row("DELETE", head("DELETE /api/v1/write HTTP/1.1"), 405, METHOD),
        row("tenant climbs", post("THANOS-TENANT: ..\r\n"), 400, TENANT),
        row("tenant with a slash", post("THANOS-TENANT: a/b\r\n"), 400, TENANT),
        row("tenant of many bytes", post(&tenant(&"x".repeat(151))), 400, TENANT),
        row("tenant too long for a folder", post(&tenant(&"é".repeat(43))), 400, TENANT),
        row("two tenants", post("THANOS-TENANT: a\r\nthanos-tenant: b\r\n"), 400, TWICE),
        row("two content types", post("Content-Type: text/plain\r\n"), 400, TWICE),
        row("two encodings", post("Content-Encoding: snappy\r\n"), 400, TWICE),
        row("JSON", typed("application/json"), 415, TYPE),
        row("another message", typed("application/x-protobuf;proto=a.B"), 415, TYPE),
        row("another version", typed(v3), 415, TYPE),
        row("gzip", coded("gzip"), 415, ENCODING),
        row("zstd", coded("zstd"), 415, ENCODING),
    ]
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn tenant(name: &str) -> String {
    format!("THANOS-TENANT: {name}\r\n")
}

/// What is wrong with the body.
fn bodies() -> Vec<Row> {
    let post = |body: &[u8]| write_bytes("", body);
    let message = |bytes: &[u8]| write_bytes("", &snappy(bytes));
    let framed = b"\xff\x06\x00\x00sNaPpY\x01\x08\x00\x00\x00\x00\x00\x00abcd";
    let whole = request(vec![series(&[("__name__", "a")], &[(1, 1.0)])]).encode_to_vec();
    let cut = whole.get(..whole.len() - 1).expect("not empty");
    vec![
        row("no body", post(b""), 400, SNAPPY),
        row("a million empty series", message(&[0x0a, 2, 0x12, 0].repeat(1 << 20)), 413, RECORDS),
        row("not snappy", post(b"hello, this is no snappy block"), 400, SNAPPY),
        row("2.7 GB in 47 bytes", post(&bomb(2_700_000_000)), 413, DECODED),
        row("32 MiB and one in 47 bytes", post(&bomb((32 << 20) + 1)), 413, DECODED),
        row("30 MiB in 47 bytes", post(&bomb(30 << 20)), 400, SNAPPY),
        row("length beyond snappy", post(&bomb(u64::MAX >> 1)), 400, SNAPPY),
        row("length without end", post(&[0xff; 20]), 400, SNAPPY),
        row("copy from before the begin", post(b"\x08\x05\x09"), 400, SNAPPY),
        row("framed snappy", post(framed), 400, SNAPPY),
        row("bare protobuf", post(&whole), 400, SNAPPY),
        row("snappy cut short", post(cut_one(&snappy(&whole))), 400, SNAPPY),
        row("protobuf cut short", message(cut), 400, MESSAGE),
        row("series too long", message(b"\x0a\x7f"), 400, MESSAGE),
        row("field number 0", message(b"\x02\x00"), 400, MESSAGE),
        row("group", message(b"\x0b\x0c"), 400, MESSAGE),
        row("wire type 7", message(b"\x0f"), 400, MESSAGE),
        row("series as a number", message(b"\x08\x01"), 400, MESSAGE),
        row("varint without end", message(&[0xff; 12]), 400, MESSAGE),
        row("JSON in snappy", message(b"{\"series\": []}"), 400, MESSAGE),
    ]
}

fn cut_one(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len() - 1).expect("not empty")
}

/// 47 bytes that declare `declared` bytes of content.
fn bomb(mut declared: u64) -> Vec<u8> {
    let mut body = Vec::new();
    while declared >= 0x80 {
        body.push(declared as u8 | 0x80);
        declared >>= 7;
    }
    body.push(declared as u8);
    body.resize(47, 0xfe);
    body
}

/// What is wrong with labels, samples or what is not stored. `t` is the wall clock.
fn contents(t: i64) -> Vec<Row> {
    let post = |all: &WriteRequest| write_bytes("", &encode(all));
    let one = |labels: &[(&str, &str)], samples: &[(i64, f64)]| {
        post(&request(vec![series(labels, samples)]))
    };
    let labels = |labels: &[(&str, &str)]| one(labels, &[(t, 1.0)]);
    let known = |samples: &[(i64, f64)]| one(&[("__name__", "known")], samples);
    let many: Vec<(String, String)> = (0..129).map(|i| (format!("l{i:03}"), "v".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (&**n, &**v)).collect();
    let bad_text = |bytes: &[u8]| {
        let label = [b"\x0a\x01a\x12", &[bytes.len() as u8][..], bytes].concat();
        let label = [&[0x0a, label.len() as u8][..], &label].concat();
        let sample = Sample { value: 1.0, timestamp: t }.encode_to_vec();
        let series = [&label[..], &[0x12, sample.len() as u8], &sample].concat();
        write_bytes("", &snappy(&[&[0x0a, series.len() as u8][..], &series].concat()))
    };
    let long = "x".repeat(1025);
    let wide = "x".repeat((16 << 10) + 1);
    let late = "tidegate_rejected_samples_total{reason=\"sample-out-of-order\"}";
    let conflict = "tidegate_rejected_samples_total{reason=\"sample-conflict\"}";
    let future = "tidegate_rejected_samples_total{reason=\"sample-too-far-in-future\"}";
    let invalid = "tidegate_rejected_samples_total{reason=\"histogram-invalid\"}";
    let large = "tidegate_rejected_samples_total{reason=\"histogram-too-long\"}";
    let exemplar = "tidegate_rejected_samples_total{reason=\"exemplar-not-stored\"}";
    let missing = "tidegate_rejected_samples_total{reason=\"labels-missing\"}";
    let nameless = "tidegate_rejected_samples_total{reason=\"label-name-empty\"}";
    let twice = "tidegate_rejected_samples_total{reason=\"label-name-twice\"}";
    let many_names = "tidegate_rejected_samples_total{reason=\"labels-too-many\"}";
    let too_long = "tidegate_rejected_samples_total{reason=\"label-too-long\"}";
    let not_utf8 = "tidegate_rejected_samples_total{reason=\"label-not-utf8\"}";
    let repaired = ("tidegate_repaired_series_total", 1.0);
    let same = ("tidegate_duplicate_samples_total", 2.0);
    let metadata = ("tidegate_received_metadata_total", 3.0);
    vec![
        row("good", known(&[(t, 1.0), (t + 1000, 2.0)]), 200, NOTHING),
        row("the same again", known(&[(t, 1.0), (t + 1000, 2.0)]), 200, same),
        row("out of order", known(&[(t + 500, 1.5), (t + 2000, 3.0)]), 409, (late, 1.0)),
        row("another value", known(&[(t + 2000, 4.0), (t + 3000, 5.0)]), 409, (conflict, 1.0)),
        row("another NaN", known(&[(t + 3000, f64::NAN)]), 409, (conflict, 1.0)),
        row("far in future", known(&[(t + 4000, 6.0), (t + FAR, 7.0)]), 409, (future, 1.0)),
        row("no labels", labels(&[]), 409, (missing, 1.0)),
        row("empty values only", labels(&[("a", ""), ("b", "")]), 409, (missing, 1.0)),
        row("empty name", labels(&[("", "a")]), 409, (nameless, 1.0)),
        row("name twice", labels(&[("a", "1"), ("a", "2")]), 409, (twice, 1.0)),
        row("name twice, apart", labels(&[("a", "1"), ("b", ""), ("a", "1")]), 409, (twice, 1.0)),
        row("129 labels", labels(&many), 400, (many_names, 1.0)),
        row("long name", labels(&[(&*long, "a")]), 400, (too_long, 1.0)),
        row("long value", labels(&[("a", &*wide)]), 400, (too_long, 1.0)),
        row("value not UTF-8", bad_text(b"\xff\xfe"), 400, (not_utf8, 1.0)),
        row("surrogate", bad_text(b"\xed\xa0\x80"), 400, (not_utf8, 1.0)),
        row("unsorted", labels(&[("b", "1"), ("a", "2")]), 200, repaired),
        row("empty value", labels(&[("c", "1"), ("d", "")]), 200, repaired),
        row("no samples", one(&[("__name__", "bare")], &[]), 200, NOTHING),
        row("nothing", post(&request(vec![])), 200, NOTHING),
        row("metadata only", post(&about()), 200, metadata),
        row("histograms", post(&with_histograms(t, 1)), 200, NOTHING),
        row(
            "the same again",
            post(&with_histograms(t, 1)),
            200,
            ("tidegate_duplicate_samples_total", 3.0),
        ),
        row("invalid histograms", post(&with_histograms(t + 2000, -2)), 400, (invalid, 2.0)),
        row("other histograms", post(&with_histograms(t, 2)), 409, (conflict, 3.0)),
        row("old histograms", post(&with_histograms(t - 2000, 1)), 409, (late, 3.0)),
        row("far histograms", post(&with_histograms(t + FAR, 1)), 409, (future, 3.0)),
        row("a large histogram", post(&with_large_histogram(t)), 400, (large, 1.0)),
        row("exemplars", post(&with_exemplars(t)), 400, (exemplar, 1.0)),
    ]
}

/// Beyond the window of ten minutes.
const FAR: i64 = 20 * 60_000;

fn about() -> WriteRequest {
    let one = MetricMetadata {
        metric_family_name: "up".into(),
        help: "Whether it is.".into(),
        ..MetricMetadata::default()
    };
    WriteRequest { metadata: vec![one; 3], ..WriteRequest::default() }
}

/// Two histograms with so many observations more in the second of two buckets than in the first,
/// which has one; and a float beside them.
fn with_histograms(t: i64, more: i64) -> WriteRequest {
    let one = Histogram {
        count: Some(histogram::Count::CountInt((2 + more) as u64)),
        zero_count: Some(histogram::ZeroCount::ZeroCountInt(0)),
        sum: 4.5,
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
        positive_deltas: vec![1, more],
        timestamp: t,
        ..Histogram::default()
    };
    let histograms = vec![one.clone(), Histogram { timestamp: t + 1000, ..one }];
    let native = TimeSeries { histograms, ..series(&[("__name__", "native")], &[]) };
    request(vec![native, series(&[("__name__", "beside_native")], &[(t, more as f64)])])
}

/// One histogram with more buckets than anybody needs.
fn with_large_histogram(t: i64) -> WriteRequest {
    let length = 140_000;
    let one = Histogram {
        count: Some(histogram::Count::CountInt(0)),
        positive_spans: vec![BucketSpan { offset: 0, length }],
        positive_deltas: vec![0; length as usize],
        timestamp: t,
        ..Histogram::default()
    };
    let native = TimeSeries { histograms: vec![one], ..series(&[("__name__", "large")], &[]) };
    request(vec![native])
}

fn with_exemplars(t: i64) -> WriteRequest {
    let label = Label { name: "trace_id".into(), value: "7".into() };
    let exemplars = vec![Exemplar { labels: vec![label], value: 1.0, timestamp: t }];
    request(vec![TimeSeries { exemplars, ..series(&[("__name__", "traced")], &[(t, 1.0)]) }])
}

/// How far the watched counters have moved.
fn moved(before: &Metrics, now: &Metrics) -> BTreeMap<String, f64> {
    let watched = |key: &&String| WATCHED.iter().any(|family| key.starts_with(family));
    let by = |key: &String| now.sum(key) - before.sum(key);
    let all = now.0.keys().filter(watched).map(|key| (key.clone(), by(key)));
    all.filter(|(_, count)| *count > 0.0).collect()
}

/// Sends all rows, each over a connection of its own, and holds the counters against what they
/// must move: after each row, but neighbours that must move the same counter go together. What a
/// row moved late shows at the next one.
fn check(node: &Node, rows: &[Row]) {
    let before = node.metrics();
    let mut want: BTreeMap<String, f64> = BTreeMap::new();
    let counter = |row: &Row| row.moves.map(|(counter, _)| counter);
    for alike in rows.chunk_by(|a, b| counter(a) == counter(b)) {
        for row in alike {
            let mut sender = Sender::connect(node.at.write).expect("a connection");
            sender.send(&row.bytes).expect("is taken");
            let answer = sender.answer().unwrap_or_else(|e| panic!("{}: {e}", row.what));
            assert_eq!(answer.status, row.status, "{}: {answer:?}", row.what);
            if let Some((counter, count)) = row.moves {
                *want.entry(counter.into()).or_default() += count;
            }
        }
        let begun = Instant::now();
        while moved(&before, &metrics(node.at.http)) != want {
            let names: Vec<&str> = alike.iter().map(|row| row.what).collect();
            let got = moved(&before, &metrics(node.at.http));
            assert!(begun.elapsed() < FRESH, "{names:?}: {got:#?}, and not {want:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(moved(&before, &node.metrics()), want, "at the end");
}

#[test]
fn each_bad_request_has_its_status_and_its_counter() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let t = now_ms();
    let (heads, bodies, contents) = (heads(), bodies(), contents(t));
    assert!(heads.len() + bodies.len() + contents.len() >= 60, "the table has shrunk");
    // One after the other: later rows count on earlier ones.
    check(&node, &heads);
    check(&node, &bodies);
    check(&node, &contents);
    let of_labels = |row: &&Row| row.moves.is_some_and(|(counter, _)| counter.contains("\"label"));
    let bad = contents.iter().filter(of_labels).count();
    assert_eq!(node.metrics().sum("tidegate_rejected_series_total") as usize, bad);

    let stored = Store::connect(node.at.grpc).select(&[("__name__", ".+")]);
    let of = |name: &str| -> Vec<(i64, f64)> {
        let is = |labels: &[(String, String)]| labels.iter().any(|(_, value)| value == name);
        let hits: Vec<_> = stored.iter().filter(|(labels, _)| is(labels)).collect();
        assert!(hits.len() <= 1, "{hits:?}");
        let samples = hits.into_iter().flat_map(|(_, samples)| samples);
        samples.map(|&(t, bits)| (t, f64::from_bits(bits))).collect()
    };
    // The good samples of every request are there.
    let good = [(0, 1.0), (1000, 2.0), (2000, 3.0), (3000, 5.0), (4000, 6.0)];
    assert_eq!(of("known"), good.map(|(after, value)| (t + after, value)));
    assert_eq!(of("beside_native"), [(t, 1.0), (t + 2000, -2.0)]);
    assert_eq!(of("traced"), [(t, 1.0)]);
    // Of histograms the sums.
    assert_eq!(of("native"), [(t, 4.5), (t + 1000, 4.5)]);
}

#[test]
fn a_bomb_takes_no_memory() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let good = request(vec![series(&[("__name__", "a")], &[(now_ms(), 1.0)])]);
    assert_eq!(sender.write("a", &good).expect("an answer").status, 200);
    // What is taken and not touched shows in the size of the address space alone.
    let taken = node.status_kib("VmPeak");
    let before = node.reset_peak_kib();
    for declared in [2_700_000_000, 30 << 20] {
        for _ in 0..200 {
            let answer = sender.post("", &bomb(declared)).expect("an answer");
            assert!(matches!(answer.status, 400 | 413), "{answer:?}");
        }
    }
    let growth = node.status_kib("VmHWM").saturating_sub(before);
    let taken = node.status_kib("VmPeak") - taken;
    println!("{growth} KiB more after 400 bombs, {before} KiB before; {taken} KiB more taken");
    assert!(growth < GROWTH_KIB_MAX, "{growth} KiB");
    assert!(taken < GROWTH_KIB_MAX, "{taken} KiB");
}

#[test]
fn garbage_costs_its_sender_alone() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let t = now_ms();
    let rows: Vec<Row> = heads().into_iter().chain(bodies()).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for row in rows.iter().cycle().take(400) {
                let mut sender = Sender::connect(node.at.write).expect("a connection");
                // It may be closed on us at any point: that is what we deserve.
                sender.send(&row.bytes).ok();
                sender.answer().ok();
            }
        });
        let mut sender = Sender::connect(node.at.write).expect("a connection");
        for i in 0..200 {
            let good = request(vec![series(&[("__name__", "good")], &[(t + i, 1.0)])]);
            assert_eq!(sender.write("a", &good).expect("an answer").status, 200);
        }
    });
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "good")]);
    assert_eq!(stored.into_values().map(|s| s.len()).collect::<Vec<_>>(), [200]);
}

#[test]
fn one_connection_may_speak_for_many_tenants() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2", "--label", "receive_replica=\"0\""]);
    let t = now_ms();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for i in 0..60 {
        let tenant = ["red", "green", "blue"][i % 3];
        let value = (i % 3) as f64;
        let sample = (t + i64::try_from(i).expect("small"), value);
        let all = request(vec![series(&[("__name__", "mine")], &[sample])]);
        assert_eq!(sender.write(tenant, &all).expect("an answer").status, 200);
    }
    let store = Store::connect(node.at.grpc);
    let stored = store.select(&[("__name__", "mine")]);
    assert_eq!(stored.len(), 3);
    for (labels, samples) in stored {
        let (_, tenant) = labels.iter().find(|(name, _)| name == "tenant_id").expect("a tenant");
        let at = ["red", "green", "blue"].iter().position(|t| t == tenant).expect("one of ours");
        assert_eq!(samples.len(), 20, "{tenant}");
        assert!(samples.iter().all(|(_, bits)| *bits == (at as f64).to_bits()), "{tenant}");
    }
    let red = store.select(&[("__name__", "mine"), ("tenant_id", "red")]);
    assert_eq!(red.len(), 1);
}

#[test]
fn a_flood_of_spellings_is_one_series() {
    const SPELLINGS: usize = 10_000;
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let t = now_ms();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let mut labels: Vec<(String, String)> =
        (0..8).map(|i| (format!("label_{i}"), format!("value {i}"))).collect();
    labels.push(("__name__".into(), "flood".into()));
    let mut write = |from: usize, to: usize| {
        for i in (from..to).step_by(100) {
            let all = (i..i + 100).map(|i| {
                let order = permuted(labels.clone(), i);
                let order: Vec<(&str, &str)> = order.iter().map(|(n, v)| (&**n, &**v)).collect();
                series(&order, &[(t + i64::try_from(i).expect("small"), 1.0)])
            });
            // Batches of two shards may pass each other, so some samples come out of order.
            let answer: Answer = sender.write("a", &request(all.collect())).expect("an answer");
            assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        }
    };
    write(0, 1000);
    let before = node.reset_peak_kib();
    write(1000, SPELLINGS);
    let growth = node.status_kib("VmHWM").saturating_sub(before);
    println!("{growth} KiB more after 9,000 spellings, {before} KiB before");
    assert!(growth < GROWTH_KIB_MAX, "{growth} KiB");
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "flood")]);
    assert_eq!(stored.len(), 1, "one series");
    let held = wait_for("the numbers of the head", || {
        let held = node.metrics().sum("prometheus_tsdb_head_series");
        (held > 0.0).then_some(held)
    });
    assert!((held - 1.0).abs() < f64::EPSILON, "{held} series in the head");
}

/// The `number`th order of `labels`.
fn permuted(mut labels: Vec<(String, String)>, mut number: usize) -> Vec<(String, String)> {
    let mut out = Vec::new();
    while !labels.is_empty() {
        out.push(labels.remove(number % labels.len()));
        number /= labels.len() + 1;
    }
    out
}

#[test]
fn a_refused_series_is_named_with_the_way_out() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let mut told = |labels: &[(&str, &str)], wants: &[&str]| {
        let one = series(labels, &[(now_ms(), 1.0)]);
        let answer = sender.write("a", &request(vec![one])).expect("an answer");
        for want in wants {
            assert!(answer.text.contains(want), "{want} is not in {answer:?}");
        }
    };
    let long = "x".repeat(80_000);
    let named = "first: {__name__=\"up\", ";
    let value = ["the value of label \"big\" has 20000 bytes", "--receive.label-value-bytes-max"];
    told(&[("__name__", "up"), ("big", &long[..20_000])], &[named, value[0], value[1]]);
    told(&[("__name__", "up"), (&long[..2_000], "1")], &[named, "--receive.label-name-bytes-max"]);
    let parts = ["a", "b", "c", "d", "e", "f"].map(|name| (name, &long[..12_000]));
    let all = [&[("__name__", "up")], &parts[..]].concat();
    told(&all, &[named, "--receive.label-set-bytes-max"]);
    let names: Vec<String> = (0..200).map(|i| format!("l{i:03}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    told(&many, &["first: {l000=\"1\", ", "--receive.labels-per-series-max"]);
    let twice = [("__name__", "up"), ("a", "1"), ("a", "2")];
    told(&twice, &["first: {__name__=\"up\", a=\"1\", a=\"2\"}", "\"a\" occurs more than once"]);
}
