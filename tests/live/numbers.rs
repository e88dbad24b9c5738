//! Every metric on the list is fed by what happens: a node takes writes, cuts a block and ships it,
//! is read and refuses, and then each metric must show and tell what was done. Foreign eyes judge
//! the text: promtool the older format, a stock Prometheus the newer one.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use tidegate::telemetry::{Kind, Metric};
use tidegate_proto::prometheus::{MetricMetadata, WriteRequest};

use crate::live::blocks;
use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::prometheus::{PROMETHEUS, Sender as Prometheus};
use crate::live::wire::{Metrics, Sender, Store, fetch, metrics, request, series, write_head};
use crate::peer;

const PROMTOOL: &str = "/usr/bin/promtool";
const HOUR_MS: i64 = 3_600_000;
/// Series of the load, and samples of each.
const SERIES: i64 = 20;
const SAMPLES: i64 = 14;
const ALL: f64 = (SERIES * SAMPLES) as f64;
/// Of which the block holds those of the first two hours.
const STEP_MS: i64 = HOUR_MS / 4;

/// One sample comes out of order.
const WINDOW: &str = "--tsdb.out-of-order.time-window=1h";

/// The oldest time of the load: the begin of a block range some hours ago.
fn begin() -> i64 {
    (now_ms() - 6 * HOUR_MS) / (2 * HOUR_MS) * 2 * HOUR_MS
}

/// A node to which everything has happened that feeds a metric.
fn lived(node: &Node) -> Metrics {
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for round in 0..SAMPLES {
        let one = |i: i64| {
            let i = i.to_string();
            series(&[("__name__", "load"), ("i", &i)], &[(begin() + round * STEP_MS, 1.0)])
        };
        let answer = sender.write("red", &request((0..SERIES).map(one).collect()));
        assert_eq!(answer.expect("an answer").status, 200);
    }
    // The last sample once more, one of another value, and no tenant at all.
    let last = begin() + (SAMPLES - 1) * STEP_MS;
    for (value, status) in [(1.0, 200), (2.0, 409)] {
        let again = series(&[("__name__", "load"), ("i", "0")], &[(last, value)]);
        let answer = sender.write("red", &request(vec![again])).expect("an answer");
        assert_eq!(answer.status, status);
    }
    // One out of order.
    let late = series(&[("__name__", "load"), ("i", "1")], &[(last - 1, 1.0)]);
    assert_eq!(sender.write("red", &request(vec![late])).expect("an answer").status, 200);
    let unsorted = series(&[("b", "1"), ("a", "2")], &[(last, 1.0)]);
    assert_eq!(sender.write("red", &request(vec![unsorted])).expect("an answer").status, 200);
    assert_eq!(sender.write("..", &request(vec![])).expect("an answer").status, 400);

    assert_eq!(Store::connect(node.at.grpc).select(&[("__name__", "load")]).len(), 20);
    assert_eq!(fetch(node.at.http, "/api/v1/labels").expect("an answer").status, 200);
    let shards = 2.0;
    wait_for("the blocks in the bucket", || {
        let uploads = node.metrics().sum("thanos_shipper_uploads_total");
        (uploads >= shards).then_some(())
    });
    // What is told of heads follows at a pace of its own.
    wait_for("a head without what is in blocks", || {
        let now = node.metrics();
        let oldest = now.sum("prometheus_tsdb_head_min_time{tenant=\"red\"}");
        (oldest >= (begin() + 2 * HOUR_MS) as f64).then_some(now)
    })
}

/// What a metric says of that life: its sum over all labels, of a histogram how many values.
#[expect(clippy::match_same_arms, reason = "arms are grouped by what feeds them")]
fn plausible(metric: Metric) -> std::ops::RangeInclusive<f64> {
    let exactly = |number: f64| number..=number;
    let some = 1.0..=1e15;
    let (now, begun) = (now_ms() as f64, begin() as f64);
    let last = begun + ((SAMPLES - 1) * STEP_MS) as f64;
    match metric {
        // One row, or one for each way it can be: it runs, it is ready and healthy.
        Metric::BuildInfo | Metric::LogAck => exactly(1.0),
        Metric::Status => exactly(2.0),
        // Nothing has gone wrong: see `trouble_is_counted`.
        Metric::Panics
        | Metric::LogLinesDropped
        | Metric::LostConnections
        | Metric::ReaderConnectionsRefused
        | Metric::ReaderConnectionsLost
        | Metric::RejectedSeries
        | Metric::TurnedAwayRequests
        | Metric::LogIoErrors
        | Metric::CompactionsFailed
        | Metric::ShipperUploadFailures
        | Metric::ShipperCorruptedBlocks
        | Metric::BucketOperationFailures
        | Metric::QueryFailures
        | Metric::ReceivedMetadata
        | Metric::ReceivedStartTimestamps
        | Metric::LimitsReloadErrors
        | Metric::HttpInFlight => exactly(0.0),
        // It runs, and says so.
        Metric::CoreSnapshots | Metric::LogLines => some,
        Metric::ProcessCpu => 0.01..=1e4,
        Metric::ProcessStart => now / 1e3 - 600.0..=now / 1e3 + 2.0,
        Metric::ProcessResident | Metric::ProcessVirtual => 1e6..=1e13,
        Metric::ProcessFds => 10.0..=1e4,
        Metric::ProcessFdsMax => 10.0..=f64::INFINITY,
        // What was written, and what of it the block has not taken.
        Metric::HeadSeries | Metric::HeadChunks => exactly(SERIES as f64 + 1.0),
        Metric::HeadMinTime => begun + 2.0 * HOUR_MS as f64..=last,
        Metric::HeadMaxTime => exactly(last),
        Metric::HeadSamplesAppended => exactly(ALL + 2.0),
        Metric::HeadOutOfOrder | Metric::LimitsReloads => exactly(1.0),
        Metric::HeadSeriesLimit => exactly(1e6),
        Metric::HeadBytes => some,
        Metric::WriteSeries | Metric::WriteSamples => exactly(SAMPLES as f64 + 4.0),
        Metric::ReceivedSeries => exactly(ALL + 4.0),
        Metric::DuplicateSamples
        | Metric::RejectedSamples
        | Metric::RepairedSeries
        | Metric::RefusedRequests => exactly(1.0),
        // One sender, still there.
        Metric::AcceptedConnections => exactly(1.0),
        Metric::ListenerConnections => 0.0..=1.0,
        // The one that asks for the numbers, and what the last ones left.
        Metric::ReaderConnections => 1.0..=10.0,
        Metric::ListenerReceivedBytes => some,
        Metric::ListenerBufferBytes => 0.0..=1e9,
        Metric::LogCommits => SAMPLES as f64..=1e3,
        Metric::LogBytes => 4096.0 * SAMPLES as f64..=1e9,
        Metric::LogSegments | Metric::LogWritable => exactly(2.0),
        // A block of each shard, shipped.
        Metric::BlocksLoaded | Metric::Compactions | Metric::ShipperUploads => exactly(2.0),
        Metric::ShipBacklogBlocks | Metric::ShipBacklogBytes => exactly(0.0),
        Metric::BucketOperations | Metric::BucketOperationDuration => 10.0..=100.0,
        Metric::BucketTransferredBytes => 6.0..=20.0,
        Metric::BucketLastUpload => now / 1e3 - 600.0..=now / 1e3 + 2.0,
        // A select; the labels, and at least one look at the numbers.
        Metric::GrpcStarted | Metric::GrpcHandled | Metric::GrpcHandlingSeconds => exactly(1.0),
        Metric::HttpRequests | Metric::HttpRequestDuration => SAMPLES as f64 + 7.0..=1e4,
        Metric::HttpRequestBytes => exactly(SAMPLES as f64 + 5.0),
    }
}

/// The name under which a metric's number shows.
fn shown(metric: Metric) -> String {
    let end = match metric.kind() {
        Kind::Counter => "_total",
        Kind::Gauge => "",
        Kind::Histogram => "_count",
    };
    format!("{}{end}", metric.name())
}

#[test]
fn every_metric_is_fed() {
    let home = home();
    let limits = home.path().join("limits.yaml");
    fs::write(&limits, "write: {}").expect("is written");
    let file = format!("--receive.limits-config-file={}", limits.display());
    let flags = ["--shards=2", WINDOW, &file];
    let node = Node::start(home.path(), &flags);
    let new = "write: {tenants: {red: {head_series_limit: 1000000}}}";
    fs::write(&limits, new).expect("is written");
    let all = lived(&node);
    let mut wrong = Vec::new();
    for &metric in Metric::ALL {
        let (name, want) = (shown(metric), plausible(metric));
        let shows = all.0.keys().any(|key| key.split('{').next() == Some(&*name));
        let got = all.sum(&name);
        if !shows || !want.contains(&got) {
            wrong.push(format!("{name}: shows {shows}, {got} is not in {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let known: Vec<String> = Metric::ALL.iter().map(|metric| metric.name().to_owned()).collect();
    let stranger = all.0.keys().find(|key| !known.iter().any(|name| key.starts_with(&**name)));
    assert_eq!(stranger, None);
    // What Thanos' dashboards and alerts ask for.
    let write = "handler=\"receive\",method=\"post\",tenant=\"red\"";
    for (name, want) in [
        (format!("http_requests_total{{code=\"200\",{write}}}"), SAMPLES as f64 + 3.0),
        (format!("http_requests_total{{code=\"409\",{write}}}"), 1.0),
        ("thanos_receive_write_samples_sum{code=\"200\",tenant=\"red\"}".into(), ALL + 3.0),
        ("thanos_status{component=\"receive\",check=\"ready\"}".into(), 1.0),
        ("tidegate_log_ack{ack=\"durable\"}".into(), 1.0),
        ("prometheus_tsdb_blocks_loaded{tenant=\"red\"}".into(), 2.0),
        ("thanos_shipper_uploads_total{tenant=\"red\"}".into(), 2.0),
    ] {
        assert_eq!(all.0.get(&name), Some(&want), "{name}");
    }
    // A restart begins with what the log holds.
    drop(node);
    let node = Node::start(home.path(), &["--shards", "2"]);
    let all = node.metrics();
    assert!((all.sum("tidegate_log_segments") - 2.0).abs() < 0.1, "before any commit");
    assert!((all.sum("prometheus_tsdb_blocks_loaded") - 2.0).abs() < 0.1);
}

/// Waits until a metric of the list has moved.
fn wait_to_move(node: &Node, metric: Metric) {
    let name = shown(metric);
    wait_for(&name, || (metrics(node.at.http).sum(&name) > 0.0).then_some(()));
}

/// Two blocks' worth of a tenant's data.
fn two_ranges() -> WriteRequest {
    let samples: Vec<(i64, f64)> = (0..SAMPLES).map(|i| (begin() + i * STEP_MS, 1.0)).collect();
    request(vec![series(&[("__name__", "load")], &samples)])
}

/// What stands still in a life without trouble. `scarce` moves the metrics of a log that is refused
/// and of writes that are turned away. What no act from outside moves at will, the tests of its
/// module do: a caught panic, a dropped line of the log, a query that fails.
#[test]
fn trouble_is_counted() {
    let home = home();
    let flags = ["--shards=1", "--receive.connections-per-core-max=2"];
    let mut node = Node::start(home.path(), &flags);
    node.may_warn("a flush failed; it is tried again");
    node.may_warn("a block that failed goes before the next flush");
    node.may_warn("block not shipped, will try again");
    let data = home.path().join("data");
    let (bucket, tenant) = (data.join("bucket"), data.join("blocks/red"));
    // Files where folders should be.
    fs::create_dir_all(data.join("blocks")).expect("a folder");
    fs::rename(&bucket, data.join("away")).expect("moved");
    for path in [&bucket, &tenant] {
        fs::write(path, "").expect("a file");
    }
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    assert_eq!(sender.write("red", &two_ranges()).expect("an answer").status, 200);
    wait_to_move(&node, Metric::CompactionsFailed);
    fs::remove_file(&tenant).expect("removed");
    wait_to_move(&node, Metric::ShipperUploadFailures);
    wait_to_move(&node, Metric::BucketOperationFailures);
    // A block that lacks its index when the bucket is back.
    let block = blocks::local(&data).pop().expect("a block").dir;
    fs::rename(block.join("index"), data.join("index")).expect("moved");
    fs::remove_file(&bucket).expect("removed");
    fs::rename(data.join("away"), &bucket).expect("moved back");
    wait_to_move(&node, Metric::ShipperCorruptedBlocks);
    fs::rename(data.join("index"), block.join("index")).expect("moved back");

    let twice = series(&[("a", "1"), ("a", "2")], &[(now_ms(), 1.0)]);
    let metadata = vec![MetricMetadata::default()];
    let both = WriteRequest { metadata, ..request(vec![twice]) };
    assert_eq!(sender.write("red", &both).expect("an answer").status, 409);
    wait_to_move(&node, Metric::RejectedSeries);
    wait_to_move(&node, Metric::ReceivedMetadata);
    let mut half = Sender::connect(node.at.write).expect("a connection");
    half.send(write_head("Content-Length: 9\r\n\r\n").as_bytes()).expect("is taken");
    wait_to_move(&node, Metric::HttpInFlight);
    let _one_too_many = Sender::connect(node.at.write).expect("a connection");
    wait_to_move(&node, Metric::LostConnections);
}

#[test]
fn foreign_readers_take_the_numbers() {
    let home = home();
    let node = Node::start(home.path(), &["--shards=2", WINDOW]);
    lived(&node);
    if peer::is_there(fs::metadata(PROMTOOL), "promtool", "the numbers as promtool reads them") {
        let text = fetch(node.at.http, "/metrics").expect("numbers").text;
        let child = Command::new(PROMTOOL)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("is read");
        drop(input);
        let output = child.wait_with_output().expect("its words");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
    if peer::is_there(
        fs::metadata(PROMETHEUS),
        "prometheus",
        "the numbers as a Prometheus scrapes them",
    ) {
        let target = Some(node.at.http);
        let prometheus = Prometheus::start(home.path(), "watcher", node.at.write, target);
        let store = Store::connect(node.at.grpc);
        let instance = node.at.http.to_string();
        // Prometheus asks for OpenMetrics; a text it cannot read is a target that is down.
        let up = wait_for("a scrape", || {
            let all = store.select(&[("__name__", "up"), ("instance", &instance)]);
            all.into_values().next().and_then(|samples| samples.last().copied())
        });
        assert!(f64::from_bits(up.1) > 0.5, "the scrape failed");
        let rows = store.select(&[("__name__", "http_requests_total"), ("handler", "receive")]);
        assert!(!rows.is_empty());
        drop(prometheus);
    }
}
