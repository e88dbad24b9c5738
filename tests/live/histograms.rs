//! Native histograms as a stock Prometheus scrapes and sends them: what it has stored itself and
//! what is stored here are the same, out of the head and out of blocks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prost::Message;
use tidegate::stdx::varint;
use tidegate_proto::prometheus::{Label, TimeSeries};

use crate::live::blocks::{self, end_of_cut};
use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::prometheus::{PROMETHEUS, Sender as Prometheus};
use crate::live::wire::{Labels, Sender, Store, Values, read_chunk, request, series, snappy};
use crate::peer;

/// Series of histograms that are scraped.
const SERIES: u64 = 40;
/// Fewest histograms that must arrive.
const HISTOGRAMS_MIN: usize = 1000;
/// The scrape after which one series is not told any more.
const GONE_AFTER: u64 = 20;

/// `io.prometheus.client`, as far as it is used here.
mod exposition {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetricFamily {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        /// 4 is a histogram.
        #[prost(int32, tag = "3")]
        pub(super) kind: i32,
        #[prost(message, repeated, tag = "4")]
        pub(super) metrics: Vec<Metric>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<LabelPair>,
        #[prost(message, optional, tag = "7")]
        pub(super) histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct LabelPair {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(uint64, tag = "1")]
        pub(super) count: u64,
        #[prost(double, tag = "2")]
        pub(super) sum: f64,
        #[prost(sint32, tag = "5")]
        pub(super) schema: i32,
        #[prost(double, tag = "6")]
        pub(super) zero_threshold: f64,
        #[prost(uint64, tag = "7")]
        pub(super) zero_count: u64,
        #[prost(message, repeated, tag = "9")]
        pub(super) negative_spans: Vec<Span>,
        #[prost(sint64, repeated, packed = "false", tag = "10")]
        pub(super) negative_deltas: Vec<i64>,
        #[prost(message, repeated, tag = "12")]
        pub(super) positive_spans: Vec<Span>,
        #[prost(sint64, repeated, packed = "false", tag = "13")]
        pub(super) positive_deltas: Vec<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(sint32, tag = "1")]
        pub(super) offset: i32,
        #[prost(uint32, tag = "2")]
        pub(super) length: u32,
    }
}

/// Remote read by chunks, as far as it is used here.
mod remote_read {
    use tidegate_proto::prometheus::Label;

    /// What it is to be answered with: chunks.
    pub(super) const STREAMED_XOR_CHUNKS: i32 = 1;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ReadRequest {
        #[prost(message, repeated, tag = "1")]
        pub(super) queries: Vec<Query>,
        #[prost(int32, repeated, tag = "2")]
        pub(super) accepted: Vec<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Query {
        #[prost(int64, tag = "1")]
        pub(super) start_ms: i64,
        #[prost(int64, tag = "2")]
        pub(super) end_ms: i64,
        #[prost(message, repeated, tag = "3")]
        pub(super) matchers: Vec<Matcher>,
    }

    /// Without a type it is for equality.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Matcher {
        #[prost(string, tag = "2")]
        pub(super) name: String,
        #[prost(string, tag = "3")]
        pub(super) value: String,
    }

    /// One frame of the answer.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ChunkedReadResponse {
        #[prost(message, repeated, tag = "1")]
        pub(super) series: Vec<ChunkedSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ChunkedSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) chunks: Vec<Chunk>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Chunk {
        /// As in a block.
        #[prost(int32, tag = "3")]
        pub(super) encoding: i32,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) data: Vec<u8>,
    }
}

/// What a series says at a scrape: observations that become more and wander over the buckets, and
/// begin anew now and then.
fn observed(series: u64, scrape: u64) -> exposition::Histogram {
    let since_reset = scrape % (11 + series % 7);
    let buckets = 3 + (series + since_reset / 3) % 9;
    let populations: Vec<i64> =
        (0..buckets).map(|bucket| ((since_reset + 1) * (bucket + 1)) as i64).collect();
    let deltas = |populations: &[i64]| -> Vec<i64> {
        let before = std::iter::once(&0).chain(populations);
        populations.iter().zip(before).map(|(now, before)| now - before).collect()
    };
    let negative: Vec<i64> = populations.iter().take((series % 3) as usize).copied().collect();
    let span = |offset, length: usize| exposition::Span { offset, length: length as u32 };
    let all = populations.iter().chain(&negative).sum::<i64>() as u64;
    exposition::Histogram {
        count: all + since_reset,
        sum: all as f64 * 0.75,
        schema: (series % 5) as i32,
        zero_threshold: 1e-128,
        zero_count: since_reset,
        negative_spans: vec![span(-1, negative.len())],
        negative_deltas: deltas(&negative),
        positive_spans: vec![span(-2, 1), span(3, populations.len() - 1)],
        positive_deltas: deltas(&populations),
    }
}

/// A target that tells histograms in protobuf.
struct Target {
    at: SocketAddr,
    scrapes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let (scrapes, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (scrapes.clone(), over.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                // A scraper that goes away is its own matter.
                drop(stream.and_then(|stream| answer(stream, &count)));
            }
        });
        Self { at, scrapes, over, thread: Some(thread) }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.at));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Answers one request and closes.
fn answer(mut stream: TcpStream, scrapes: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
    }
    let scrape = scrapes.fetch_add(1, Ordering::Relaxed);
    let told = (0..SERIES).filter(|&series| series != 0 || scrape < GONE_AFTER);
    let metrics = told.map(|series| exposition::Metric {
        labels: vec![exposition::LabelPair { name: "n".into(), value: series.to_string() }],
        histogram: Some(observed(series, scrape)),
    });
    let family =
        exposition::MetricFamily { name: "native".into(), kind: 4, metrics: metrics.collect() };
    let body = family.encode_length_delimited_to_vec();
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\nContent-Type: \
         application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
         encoding=delimited\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// What a Prometheus has of `native`, by the label `n`.
fn read_of(prometheus: &Prometheus) -> BTreeMap<String, Values> {
    let query = remote_read::Query {
        start_ms: 0,
        end_ms: i64::MAX / 2,
        matchers: vec![remote_read::Matcher { name: "__name__".into(), value: "native".into() }],
    };
    let accepted = vec![remote_read::STREAMED_XOR_CHUNKS];
    let request = remote_read::ReadRequest { queries: vec![query], accepted };
    let answer = prometheus.post("/api/v1/read", &snappy(&request.encode_to_vec()));
    let mut all: BTreeMap<String, Values> = BTreeMap::new();
    // Frames of a length, a checksum and a message.
    let mut rest = &answer[..];
    while !rest.is_empty() {
        let len = varint::take_u64(&mut rest).expect("a length") as usize;
        let (message, behind) = rest[4..].split_at(len);
        rest = behind;
        let frame = remote_read::ChunkedReadResponse::decode(message).expect("a frame");
        for series in frame.series {
            let values = all.entry(label_n(&series.labels)).or_default();
            let chunks = series.chunks.iter();
            values.extend(chunks.flat_map(|chunk| read_chunk(chunk.encoding - 1, &chunk.data)));
        }
    }
    all
}

fn label_n(labels: &[Label]) -> String {
    let n = labels.iter().find(|label| label.name == "n");
    n.expect("the label").value.clone()
}

/// The histograms of a node, by the label `n`.
fn stored(node: &Node) -> BTreeMap<String, Values> {
    let stored = Store::connect(node.at.grpc).select_values(&[("__name__", "native")]);
    let n = |labels: &Labels| labels.iter().find(|(name, _)| name == "n").expect("it").1.clone();
    stored.into_iter().map(|(labels, values)| (n(&labels), values)).collect()
}

/// Whether both have the same histograms at the same times, in all that a chunk keeps.
fn check_same(theirs: &BTreeMap<String, Values>, ours: &BTreeMap<String, Values>) -> usize {
    assert!(theirs.keys().eq(ours.keys()), "{:?}, {:?}", theirs.keys(), ours.keys());
    let mut count = 0;
    for ((n, theirs), ours) in theirs.iter().zip(ours.values()) {
        let times = |all: &Values| all.iter().map(|(t, _)| *t).collect::<Vec<_>>();
        assert_eq!(times(ours), times(theirs), "n={n}");
        for ((t, ours), (_, theirs)) in ours.iter().zip(theirs) {
            assert!(ours.same_as(theirs), "n={n} at {t}: {ours:?}, not {theirs:?}");
            count += 1;
        }
    }
    count
}

#[test]
fn a_stock_prometheus_sends_native_histograms() {
    let found = fs::metadata(PROMETHEUS);
    if !peer::is_there(found, "prometheus", "a sender of native histograms") {
        return;
    }
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let target = Target::start();
    let sender = Prometheus::of_histograms(home.path(), "native", node.at.write, target.at);
    wait_for("enough scrapes", || {
        let enough = HISTOGRAMS_MIN as u64 / SERIES + GONE_AFTER;
        (target.scrapes.load(Ordering::Relaxed) > enough).then_some(())
    });
    drop(target);
    // From now on scrapes fail: markers, and then nothing more.
    let theirs = wait_for("all of it", || {
        let (theirs, ours) = (read_of(&sender), stored(&node));
        let ends = |all: &Values| all.last().is_some_and(|(_, last)| last.is_stale());
        let count = |all: &BTreeMap<_, Values>| all.values().map(Vec::len).sum::<usize>();
        let settled = theirs.values().all(ends) && count(&theirs) == count(&ours);
        settled.then_some(theirs)
    });
    let count = check_same(&theirs, &stored(&node));
    println!("{count} histograms of {} series", theirs.len());
    assert!(count >= HISTOGRAMS_MIN, "{count}");
    for lost in ["histograms_failed", "histograms_dropped", "histograms_retried"] {
        assert!(sender.number(lost) < 1.0, "{lost}: {}", sender.number(lost));
    }
    drop(sender);
    in_blocks(&theirs);
}

/// The same histograms, some hours older: Prometheus reads them from the blocks made of them.
fn in_blocks(sent: &BTreeMap<String, Values>) {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let first = sent.values().flatten().map(|(t, _)| *t).min().expect("some");
    // Within a range that is over.
    let (now, ago) = (now_ms(), first - (end_of_cut(now_ms()) - 3_600_000));
    let mut older = sent.clone();
    for (t, _) in older.values_mut().flatten() {
        *t -= ago;
    }
    let label = |name: &str, value: &str| Label { name: name.into(), value: value.into() };
    let all = older.iter().map(|(n, histograms)| TimeSeries {
        labels: vec![label("__name__", "native"), label("n", n)],
        histograms: histograms.iter().map(|(t, value)| value.to_sent(*t)).collect(),
        ..TimeSeries::default()
    });
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for request in [request(all.collect()), request(vec![series(&[("now", "1")], &[(now, 1.0)])])] {
        let answer = sender.write("a", &request).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let data = home.path().join("data");
    let count: usize = older.values().map(Vec::len).sum();
    let blocks = wait_for("blocks", || {
        let blocks = blocks::local(&data);
        let held: u64 = blocks.iter().map(|b| b.meta.stats.num_histogram_samples).sum();
        (held >= count as u64).then_some(blocks)
    });
    check_same(&older, &stored(&node));
    let shelf = home.path().join("shelf");
    fs::create_dir(&shelf).expect("a directory");
    for block in &blocks {
        blocks::link_tree(&block.dir, &shelf.join(block.meta.ulid.to_string()));
    }
    let reader = Prometheus::reading(home.path(), "shelf");
    let theirs = wait_for("the reader", || reader.is_ready().then(|| read_of(&reader)));
    check_same(&theirs, &stored(&node));
    println!("{count} of them read from {} blocks", blocks.len());
}
