//! What a test says to the program: remote write 1.0 and HTTP over a plain socket, the StoreAPI
//! over tonic.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use prost::Message;
use tidegate::chunk::histogram::{Codec, Reader};
use tidegate::chunk::xor;
use tidegate::model::STALE_NAN_BITS;
use tidegate::model::histogram::{
    FloatHistogram, Histogram, Integer, IntegerHistogram, Side, Span,
};
use tidegate_proto::prometheus::histogram::{Count, ZeroCount};
use tidegate_proto::prometheus::{self, BucketSpan, Label, Sample, TimeSeries, WriteRequest};
use tidegate_proto::thanos::info::info_client::InfoClient;
use tidegate_proto::thanos::info::{InfoRequest, InfoResponse};
use tidegate_proto::thanos::label_matcher::Type;
use tidegate_proto::thanos::series_response::Result as Frame;
use tidegate_proto::thanos::store_client::StoreClient;
use tidegate_proto::thanos::{LabelMatcher, PartialResponseStrategy, SeriesRequest};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::live::harness::PATIENCE;

/// The head of a write request up to its length, as Prometheus has it, and `more` header lines.
pub(crate) fn write_head(more: &str) -> String {
    let head = "POST /api/v1/receive HTTP/1.1\r\nHost: gate\r\nContent-Encoding: snappy\r\n\
        Content-Type: application/x-protobuf\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\n";
    format!("{head}{more}")
}

/// A connection to the remote write port, or to any other that speaks HTTP/1.1.
pub(crate) struct Sender {
    stream: TcpStream,
    /// Received and not yet part of an answer.
    pending: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    /// A header, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Sender {
    pub(crate) fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8(self.pending.drain(..end).collect());
        let head = head.map_err(|_| broken("the head is no text"))?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| broken("no status"))?;
        let mut answer = Answer { status, head, text: String::new() };
        if status == 100 {
            return Ok(answer);
        }
        let length = match answer.header("content-length") {
            Some(text) => text.parse().map_err(|_| broken("no length"))?,
            None if answer.head.starts_with("HTTP/1.0 ") => self.rest()?,
            None => 0,
        };
        while self.pending.len() < length {
            self.more()?;
        }
        let text = String::from_utf8(self.pending.drain(..length).collect());
        answer.text = text.map_err(|_| broken("the body is no text"))?;
        Ok(answer)
    }

    /// Reads until the other side closes; how many bytes are there then.
    fn rest(&mut self) -> io::Result<usize> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(self.pending.len());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.pending.extend_from_slice(&part[..n]);
                Ok(())
            }
        }
    }

    /// Sends a body with the usual head and `more` header lines, and reads the answer.
    pub(crate) fn post(&mut self, more: &str, body: &[u8]) -> io::Result<Answer> {
        self.send(&write_bytes(more, body))?;
        self.answer()
    }

    /// Writes a request for a tenant.
    pub(crate) fn write(&mut self, tenant: &str, request: &WriteRequest) -> io::Result<Answer> {
        self.post(&format!("THANOS-TENANT: {tenant}\r\n"), &encode(request))
    }
}

/// A write request as bytes of HTTP.
pub(crate) fn write_bytes(more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{}Content-Length: {}\r\n\r\n", write_head(more), body.len());
    [head.as_bytes(), body].concat()
}

/// A body: protobuf in a snappy block.
pub(crate) fn encode(request: &WriteRequest) -> Vec<u8> {
    snappy(&request.encode_to_vec())
}

pub(crate) fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("fits")
}

/// A request of series.
pub(crate) fn request(timeseries: Vec<TimeSeries>) -> WriteRequest {
    WriteRequest { timeseries, ..WriteRequest::default() }
}

/// A series of (time, value).
pub(crate) fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
    let label = |&(name, value): &(&str, &str)| Label { name: name.into(), value: value.into() };
    let sample = |&(timestamp, value): &(i64, f64)| Sample { value, timestamp };
    TimeSeries {
        labels: labels.iter().map(label).collect(),
        samples: samples.iter().map(sample).collect(),
        ..TimeSeries::default()
    }
}

/// GET over a connection of its own. In HTTP/1.0, so that nobody answers in chunks.
pub(crate) fn fetch(from: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut sender = Sender::connect(from)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: gate\r\n\r\n");
    sender.send(request.as_bytes())?;
    sender.answer()
}

/// The numbers of `/metrics`: `name{label="value"}` -> number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metrics(pub(crate) BTreeMap<String, f64>);

impl Metrics {
    /// The sum of a family over all labels, or of one line if its labels are given.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let is = |key: &str| key == name || key.split_once('{').is_some_and(|(n, _)| n == name);
        self.0.iter().filter(|(key, _)| is(key)).map(|(_, number)| number).sum()
    }
}

pub(crate) fn metrics(from: SocketAddr) -> Metrics {
    let answer = fetch(from, "/metrics").expect("numbers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = answer.text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (key, number) = line.rsplit_once(' ')?;
        Some((key.to_owned(), number.parse().ok()?))
    };
    Metrics(lines.map(|line| parse(line).unwrap_or_else(|| panic!("{line}"))).collect())
}

/// Labels of a series in the order of the wire.
pub(crate) type Labels = Vec<(String, String)>;
/// Time and bits of samples in the order of the wire.
pub(crate) type Samples = Vec<(i64, u64)>;

/// A client of the StoreAPI.
pub(crate) struct Store {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Store {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("an address");
        let channel = runtime.block_on(endpoint.connect()).expect("a connection");
        Self { runtime, channel }
    }

    fn run<T>(&self, call: impl Future<Output = Result<T, tonic::Status>>) -> T {
        let bounded = async { tokio::time::timeout(PATIENCE, call).await };
        self.runtime.block_on(bounded).expect("an answer in time").expect("a good answer")
    }

    pub(crate) fn info(&self) -> InfoResponse {
        let mut client = InfoClient::new(self.channel.clone());
        self.run(async { client.info(InfoRequest {}).await }).into_inner()
    }

    /// Opens a stream of health, which lasts for as long as this connection does.
    pub(crate) fn watch_health(&self) {
        let mut client = HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest { service: String::new() };
        let mut stream = self.run(async { client.watch(request).await }).into_inner();
        self.runtime.spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    }

    /// All series that match, with all their samples, of histograms the sums. Fails if the server
    /// breaks the contract: a warning, series out of order or twice, chunks out of order.
    pub(crate) fn select(&self, matchers: &[(&str, &str)]) -> BTreeMap<Labels, Samples> {
        let all = self.select_values(matchers).into_iter();
        let bits =
            |values: Values| values.into_iter().map(|(t, value)| (t, value.bits())).collect();
        all.map(|(labels, values)| (labels, bits(values))).collect()
    }

    /// The same with histograms as they are.
    pub(crate) fn select_values(&self, matchers: &[(&str, &str)]) -> BTreeMap<Labels, Values> {
        let matcher = |&(name, value): &(&str, &str)| LabelMatcher {
            r#type: Type::Re.into(),
            name: name.into(),
            value: value.into(),
        };
        let request = SeriesRequest {
            min_time: i64::MIN,
            max_time: i64::MAX,
            matchers: matchers.iter().map(matcher).collect(),
            partial_response_strategy: PartialResponseStrategy::Abort.into(),
            partial_response_disabled: true,
            ..SeriesRequest::default()
        };
        let mut client = StoreClient::new(self.channel.clone());
        let frames = self.run(async {
            let mut stream = client.series(request).await?.into_inner();
            let mut frames = Vec::new();
            while let Some(frame) = stream.message().await? {
                frames.push(frame.result.expect("a frame holds something"));
            }
            Ok(frames)
        });
        gather(frames)
    }
}

fn gather(frames: Vec<Frame>) -> BTreeMap<Labels, Values> {
    let mut all: BTreeMap<Labels, Values> = BTreeMap::new();
    let mut last: Option<Labels> = None;
    for frame in frames {
        let series = match frame {
            Frame::Series(series) => series,
            Frame::Hints(_) => continue,
            other => panic!("{other:?}"),
        };
        let labels: Labels = series.labels.into_iter().map(|l| (l.name, l.value)).collect();
        assert!(labels.is_sorted_by(|a, b| a.0 < b.0), "{labels:?}");
        // A big series may come in several frames, one after the other.
        assert!(last.as_ref().is_none_or(|last| *last <= labels), "{last:?} before {labels:?}");
        let samples = all.entry(labels.clone()).or_default();
        last = Some(labels);
        let mut min_time = i64::MIN;
        for chunk in series.chunks {
            assert!(chunk.min_time >= min_time, "chunks of {last:?}");
            min_time = chunk.min_time;
            let raw = chunk.raw.expect("raw data");
            let read = read_chunk(raw.r#type, &raw.data);
            let span = (read.first().map(|s| s.0), read.last().map(|s| s.0));
            assert_eq!(span, (Some(chunk.min_time), Some(chunk.max_time)), "{last:?}");
            samples.extend(read);
        }
    }
    all
}

/// A sample's value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Float(u64),
    IntegerHistogram(IntegerHistogram),
    FloatHistogram(FloatHistogram),
}

pub(crate) type Values = Vec<(i64, Value)>;

impl Value {
    fn bits(&self) -> u64 {
        match self {
            Self::Float(bits) => *bits,
            Self::IntegerHistogram(histogram) => histogram.sum.0,
            Self::FloatHistogram(histogram) => histogram.sum.0,
        }
    }

    /// Whether both are the same, in all that a chunk keeps.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(one), Self::Float(two)) => one == two,
            (Self::IntegerHistogram(one), Self::IntegerHistogram(two)) => one.same_as(two),
            (Self::FloatHistogram(one), Self::FloatHistogram(two)) => one.same_as(two),
            _ => false,
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.bits() == STALE_NAN_BITS
    }

    /// An integer histogram as it is sent.
    pub(crate) fn to_sent(&self, t: i64) -> prometheus::Histogram {
        let Self::IntegerHistogram(own) = self else { panic!("{self:?}") };
        let spans = |side: &Side<Integer>| {
            let span = |span: &Span| BucketSpan { offset: span.offset, length: span.length };
            side.spans.iter().map(span).collect()
        };
        prometheus::Histogram {
            count: Some(Count::CountInt(own.count)),
            zero_count: Some(ZeroCount::ZeroCountInt(own.zero_count)),
            sum: own.sum.value(),
            schema: own.schema,
            zero_threshold: own.zero_threshold.value(),
            negative_spans: spans(&own.negative),
            negative_deltas: own.negative.values.clone(),
            positive_spans: spans(&own.positive),
            positive_deltas: own.positive.values.clone(),
            timestamp: t,
            ..prometheus::Histogram::default()
        }
    }
}

/// The samples of a chunk, by the number of its encoding in the StoreAPI.
pub(crate) fn read_chunk(encoding: i32, data: &[u8]) -> Values {
    match encoding {
        0 => {
            let samples = xor::Reader::new(data).expect("a chunk").map(|s| s.expect("a sample"));
            samples.map(|sample| (sample.t, Value::Float(sample.bits))).collect()
        }
        1 => read_histograms(data, Value::IntegerHistogram),
        2 => read_histograms(data, Value::FloatHistogram),
        other => panic!("encoding {other}"),
    }
}

fn read_histograms<K: Codec>(data: &[u8], value: impl Fn(Histogram<K>) -> Value) -> Values {
    let mut reader = Reader::<K>::new(data).expect("a chunk");
    let mut values = Values::new();
    while let Some(point) = reader.advance() {
        let point = point.expect("a sample");
        values.push((point.t, value(point.histogram.clone())));
    }
    values
}
