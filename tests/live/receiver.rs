//! What a receiver of remote write must do, over a real socket: the behaviours of the public
//! compliance suite (prometheus/compliance, `remotewrite/receiver`), and the rows in which
//! receivers differ.
//!
//! Where the suite and Prometheus' own receiver differ, it is as Prometheus: a series with nothing
//! but metadata or exemplars is refused. Exemplars are not stored yet; that they are refused by
//! name, and the floats beside them stored, is part of the table.

use prost::Message;
use tidegate_proto::io_prometheus_write_v2::{self as v2, metadata::MetricType};

use crate::live::harness::{Node, home, now_ms};
use crate::live::wire::{Answer, Sender, Store, request, series, snappy};

const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// A request, and the answer it must get.
struct Row {
    what: String,
    content_type: &'static str,
    encoding: &'static str,
    /// What `X-Prometheus-Remote-Write-Version` says.
    version: &'static str,
    body: Vec<u8>,
    status: u16,
    /// Samples, histograms and exemplars written; none when the answer must not say.
    written: Option<(u64, u64, u64)>,
    /// The id in the text.
    id: Option<&'static str>,
}

fn row(what: impl Into<String>, body: &impl Message, status: u16, samples: u64) -> Row {
    Row {
        what: what.into(),
        content_type: V2,
        encoding: "snappy",
        version: "2.0.0",
        body: snappy(&body.encode_to_vec()),
        status,
        written: Some((samples, 0, 0)),
        id: None,
    }
}

impl Row {
    fn because(self, id: &'static str) -> Self {
        Self { id: Some(id), ..self }
    }

    /// The same in the terms of 1.0.
    fn v1(self) -> Self {
        Self { content_type: V1, version: "0.1.0", written: None, ..self }
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// A request of 2.0 under construction.
#[derive(Default)]
struct Building {
    symbols: Vec<String>,
    timeseries: Vec<v2::TimeSeries>,
}

impl Building {
    fn symbol(&mut self, text: &str) -> u32 {
        if self.symbols.is_empty() {
            self.symbols.push(String::new());
        }
        let known = self.symbols.iter().position(|known| known == text);
        known.unwrap_or_else(|| {
            self.symbols.push(text.to_owned());
            self.symbols.len() - 1
        }) as u32
    }

    fn with(mut self, labels: Labels<'_>, samples: &[(i64, f64)]) -> Self {
        let labels_refs =
            labels.iter().flat_map(|(n, v)| [self.symbol(n), self.symbol(v)]).collect();
        let sample =
            |&(timestamp, value): &(i64, f64)| v2::Sample { value, timestamp, start_timestamp: 0 };
        let samples = samples.iter().map(sample).collect();
        let metadata = Some(v2::Metadata::default());
        let series = v2::TimeSeries { labels_refs, samples, metadata, ..Default::default() };
        self.timeseries.push(series);
        self
    }

    fn about(mut self, kind: MetricType, help: &str, unit: &str) -> Self {
        let (help_ref, unit_ref) = (self.symbol(help), self.symbol(unit));
        let metadata = v2::Metadata { r#type: kind.into(), help_ref, unit_ref };
        self.last().metadata = Some(metadata);
        self
    }

    fn last(&mut self) -> &mut v2::TimeSeries {
        self.timeseries.last_mut().expect("a series")
    }

    fn done(self) -> v2::Request {
        v2::Request { symbols: self.symbols, timeseries: self.timeseries }
    }
}

fn one(labels: Labels<'_>, samples: &[(i64, f64)]) -> v2::Request {
    Building::default().with(labels, samples).done()
}

const UP: Labels<'_> = &[("__name__", "up")];

/// Single and several metrics of all kinds of values.
fn metrics(t: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    let values = [("1", 1.0), ("stale", STALE), ("NaN", f64::NAN), ("+Inf", f64::INFINITY)];
    let values = values.into_iter().chain([("-Inf", f64::NEG_INFINITY)]);
    for (at, (name, value)) in (0..).zip(values) {
        let t = t + at;
        let single: [(&str, Labels<'_>); 5] = [
            ("one label", UP),
            ("labels", &[("__name__", "up"), ("instance", "localhost:9090"), ("job", "test")]),
            ("newlines", &[("__name__", "up"), ("instance", "a"), ("job", "test\njob\n")]),
            ("dots", &[("__name__", "cpu.usage"), ("instance.name", "a"), ("job.name", "b")]),
            ("spaces", &[("__name__", "cpu usage"), ("job name", "b")]),
        ];
        for (what, labels) in single {
            rows.push(row(format!("{what}, {name}"), &one(labels, &[(t, value)]), 204, 1));
        }
        let nameless = one(&[("instance", "a"), ("job", "b")], &[(t, value)]);
        let nameless = row(format!("no name, {name}"), &nameless, 400, 0);
        rows.push(nameless.because("metric-name-missing"));
        let bare = row(format!("no labels, {name}"), &one(&[], &[(t, value)]), 400, 0);
        rows.push(bare.because("labels-missing"));
        let several = |first: Labels<'_>| {
            let with = |building: Building, i: i64| {
                let instance = format!("several:{i}");
                let labels = [("__name__", "up"), ("instance", &*instance)];
                let labels = if i == 0 { first } else { &labels };
                building.with(labels, &[(t, value)])
            };
            (0..4).fold(Building::default(), with).done()
        };
        let named = [("__name__", "up"), ("instance", "several:0")];
        rows.push(row(format!("four, {name}"), &several(&named), 204, 4));
        let one_bad = row(format!("one of four, {name}"), &several(&[("job", "b")]), 400, 3);
        // The three are as in the request before: written, for they are there.
        rows.push(one_bad.because("metric-name-missing"));
    }
    rows
}

/// Metadata, start timestamps, many series, odd characters.
fn around(t: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in 0..8 {
        let kind = MetricType::try_from(kind).expect("a kind");
        let name = format!("metadata_{kind:?}");
        let labels = [("__name__", &*name)];
        for (at, (help, unit)) in (0..).zip([("", ""), ("Of\n\"it\".", "bytes/sec")]) {
            let series = Building::default().with(&labels, &[(t + at, 1.0)]);
            rows.push(row(&name, &series.about(kind, help, unit).done(), 204, 1));
        }
    }
    let mut begun = Building::default().with(&[("__name__", "http_requests_total")], &[(t, 5.0)]);
    begun.last().samples[0].start_timestamp = t - 3_600_000;
    rows.push(row("start timestamp", &begun.done(), 204, 1));
    let two = Building::default()
        .with(&[("__name__", "old_metric")], &[(t - 3_600_000, 1.0)])
        .with(&[("__name__", "new_metric")], &[(t, 2.0)]);
    rows.push(row("an hour between", &two.done(), 204, 2));
    let many = (0..50).fold(Building::default(), |building, i| {
        let name = format!("counter_metric_{i}");
        let labels = [("__name__", &*name), ("series", "many")];
        building.with(&labels, &[(t, f64::from(i))]).about(MetricType::Counter, &name, "count")
    });
    rows.push(row("many", &many.done(), 204, 50));
    let odd = [("__name__", "test"), ("environment", "test\u{1f680}"), ("job", "a_b.c@d")];
    rows.push(row("characters", &one(&odd, &[(t, 42.0)]), 204, 1));
    let orphan = Building::default().with(&[("__name__", "orphan")], &[]);
    let orphan = orphan.about(MetricType::Counter, "Orphaned", "count").done();
    rows.push(row("metadata alone", &orphan, 400, 0).because("samples-missing"));
    rows
}

/// Content types, encodings, corrupt bodies, and that the version header decides nothing.
fn negotiation(t: i64) -> Vec<Row> {
    let good = || row("good", &one(UP, &[(t, 1.0)]), 204, 1);
    let corrupt = || Row { body: b"0no snappy".to_vec(), status: 400, ..good() };
    let typed = |content_type: &'static str| Row {
        what: content_type.into(),
        content_type,
        status: 415,
        written: None,
        ..corrupt()
    };
    let coded = |encoding: &'static str| Row {
        what: encoding.into(),
        encoding,
        status: 415,
        written: None,
        ..corrupt()
    };
    let none = Some((0, 0, 0));
    let v1 = || request(vec![series(UP, &[(t + 1, 1.0)])]);
    let of_v1 = || Row { what: "1.0".into(), status: 200, ..row("", &v1(), 200, 0).v1() };
    vec![
        typed("application/json"),
        typed("image/png"),
        typed("application/x-protobuf;proto=io.prometheus.write.v3.Request"),
        coded("gzip"),
        coded("deflate"),
        Row { what: "corrupt".into(), written: none, ..corrupt() }.because("snappy-invalid"),
        Row { what: "corrupt 1.0".into(), written: None, ..corrupt().v1() },
        Row { what: "2.0 under a header of 1.0".into(), version: "0.1.0", ..good() },
        of_v1(),
        Row { what: "1.0 under a header of 2.0".into(), version: "2.0.0", ..of_v1() },
        Row {
            what: "1.0 by name".into(),
            content_type: "application/x-protobuf;proto=prometheus.WriteRequest",
            ..of_v1()
        },
        // Field numbers are disjoint: nothing is found, and the answer says so.
        Row { what: "1.0 as 2.0".into(), ..row("", &v1(), 204, 0) },
        row("nothing", &v2::Request::default(), 204, 0),
    ]
}

/// What only 2.0 can get wrong: symbols and references to them.
fn symbols(t: i64) -> Vec<Row> {
    let good =
        |t| Building::default().with(UP, &[(t, 1.0)]).with(&[("__name__", "b")], &[(t, 2.0)]);
    let with_refs = |t, refs: &[u32]| {
        let mut building = good(t);
        building.last().labels_refs = refs.to_vec();
        building.done()
    };
    let partial = |what: &str, request: &v2::Request| row(what, request, 400, 1);
    let odd = partial("odd references", &with_refs(t, &[1, 2, 3]));
    let beyond = partial("reference beyond", &with_refs(t + 1, &[1, 99]));
    let mut help = good(t + 2);
    help.last().metadata = Some(v2::Metadata { help_ref: 99, ..v2::Metadata::default() });
    let help = partial("metadata beyond", &help.done());
    let mut first = good(t).done();
    first.symbols[0] = "x".into();
    let first = Row { what: "first symbol".into(), ..row("", &first, 400, 0) };
    let wide = "w".repeat(16 << 10);
    let bomb = good(t).with(&[("__name__", &wide)], &[(t, 1.0)]).done();
    let refs = [1, bomb.symbols.len() as u32 - 1].repeat(2100);
    let bomb = v2::Request {
        timeseries: vec![v2::TimeSeries { labels_refs: refs, ..bomb.timeseries[2].clone() }],
        symbols: bomb.symbols,
    };
    vec![
        odd.because("symbol-refs-invalid"),
        beyond.because("symbol-refs-invalid"),
        help.because("symbol-refs-invalid"),
        first.because("message-invalid"),
        row("labels beyond the limit", &bomb, 413, 0).because("labels-too-long"),
    ]
}

/// What, labels, samples; the status in 1.0 and in 2.0, samples written, id.
type Case<'a> = (&'a str, Labels<'a>, &'a [(i64, f64)], (u16, u16), u64, &'static str);

/// Each case by 1.0 and then by 2.0: what the one has written is there for the other, and counts.
fn by_both(cases: &[Case<'_>]) -> Vec<Row> {
    let rows = |&(what, labels, samples, (v1, v2), written, id): &Case<'_>| {
        let id = (!id.is_empty()).then_some(id);
        let old = request(vec![series(labels, samples)]);
        let new = one(labels, samples);
        [
            Row { id, ..row(format!("{what}, 1.0"), &old, v1, 0).v1() },
            Row { id, ..row(format!("{what}, 2.0"), &new, v2, written) },
        ]
    };
    cases.iter().flat_map(rows).collect()
}

const D: (&str, &str) = ("__name__", "d");
const GOOD: (u16, u16) = (200, 204);
const CONFLICT: (u16, u16) = (409, 400);

/// Where receivers differ, with our answer.
fn differences(t: i64) -> Vec<Row> {
    let two = [(t, 1.0), (t + 10, 2.0)];
    let far = t + 20 * 60_000;
    let mut rows = by_both(&[
        ("first", &[D], &two, GOOD, 2, ""),
        ("exact duplicate", &[D], &two, GOOD, 2, ""),
        ("unsorted", &[("b", "1"), D, ("a", "1")], &two[..1], GOOD, 1, ""),
        ("empty value", &[D, ("c", "")], &two[1..], GOOD, 1, ""),
    ]);
    // Of the samples of each, one is good.
    let late = [(t + 5, 9.0), (t + 20, 3.0)];
    let other = [(t + 20, 9.0), (t + 30, 4.0)];
    let ahead = [(t + 40, 5.0), (far, 9.0)];
    rows.extend(by_both(&[
        ("out of order", &[D], &late, CONFLICT, 1, "sample-out-of-order"),
        ("another value", &[D], &other, CONFLICT, 1, "sample-conflict"),
        ("too far in future", &[D], &ahead, CONFLICT, 1, "sample-too-far-in-future"),
    ]));
    let wide = "w".repeat((16 << 10) + 1);
    let twice = [D, ("a", "1"), ("a", "2")];
    rows.extend(by_both(&[
        ("name twice", &twice, &two, CONFLICT, 0, "label-name-twice"),
        ("empty name", &[D, ("", "2")], &two, CONFLICT, 0, "label-name-empty"),
        ("long value", &[D, ("a", &wide)], &two, (400, 400), 0, "label-too-long"),
    ]));
    let nameless = request(vec![series(&[("job", "nameless")], &two)]);
    rows.push(row("no name, 1.0", &nameless, 200, 0).v1());
    rows.extend(beside_floats(t));
    rows
}

/// Histograms, good ones and a bad one; exemplars, and a name that is no text.
fn beside_floats(t: i64) -> Vec<Row> {
    let mut native = Building::default().with(&[("__name__", "e")], &[(t, 1.0)]);
    native = native.with(&[("__name__", "native")], &[]);
    native.last().histograms.push(v2::Histogram { timestamp: t, ..Default::default() });
    let mut alone = Building::default().with(&[("__name__", "native")], &[]);
    let float = v2::Histogram {
        count: Some(v2::histogram::Count::CountFloat(0.0)),
        timestamp: t + 1,
        ..Default::default()
    };
    alone.last().histograms.push(float);
    let mut invalid = Building::default().with(&[("__name__", "g")], &[(t, 1.0)]);
    let lacking = v2::BucketSpan { offset: 0, length: 1 };
    invalid.last().histograms.push(v2::Histogram {
        positive_spans: vec![lacking],
        timestamp: t + 1,
        ..Default::default()
    });
    let mut traced = Building::default().with(&[("__name__", "f")], &[(t, 1.0)]);
    let exemplar = v2::Exemplar { labels_refs: vec![1, 2], value: 1.0, timestamp: t };
    traced.last().exemplars.push(exemplar);
    // No string of prost can hold a byte that is no text, so it is put in afterwards.
    let mut message = one(&[("__name__", "e"), ("x", "~")], &[(t, 1.0)]).encode_to_vec();
    let at = message.iter().position(|&byte| byte == b'~').expect("it is there");
    message[at] = 0xff;
    let not_text = row("not UTF-8", &v2::Request::default(), 400, 0).because("label-not-utf8");
    vec![
        Row { written: Some((1, 1, 0)), ..row("histogram beside", &native.done(), 204, 1) },
        Row { written: Some((0, 1, 0)), ..row("histogram alone", &alone.done(), 204, 0) },
        row("invalid histogram", &invalid.done(), 400, 1).because("histogram-invalid"),
        row("exemplar beside", &traced.done(), 400, 1).because("exemplar-not-stored"),
        Row { body: snappy(&message), ..not_text },
    ]
}

fn post(sender: &mut Sender, row: &Row) -> Answer {
    let Row { content_type, encoding, version, body, .. } = row;
    let head = format!(
        "POST /api/v1/receive HTTP/1.1\r\nHost: gate\r\nContent-Type: {content_type}\r\n\
         Content-Encoding: {encoding}\r\nX-Prometheus-Remote-Write-Version: {version}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    sender.send(&[head.as_bytes(), body].concat()).expect("is taken");
    sender.answer().unwrap_or_else(|error| panic!("{}: {error}", row.what))
}

#[test]
fn every_behaviour_of_a_receiver() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let t = now_ms();
    let tables = [metrics(t), around(t), negotiation(t + 100), symbols(t + 200), differences(t)];
    let rows: Vec<Row> = tables.into_iter().flatten().collect();
    println!("{} requests", rows.len());
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for row in &rows {
        let answer = post(&mut sender, row);
        assert_eq!(answer.status, row.status, "{}: {answer:?}", row.what);
        let count = |kind: &str| {
            let name = format!("X-Prometheus-Remote-Write-{kind}-Written");
            answer.header(&name).map(|count| count.parse::<u64>().expect("a number"))
        };
        let written = (count("Samples"), count("Histograms"), count("Exemplars"));
        let want = row.written.map_or((None, None, None), |(s, h, e)| (Some(s), Some(h), Some(e)));
        assert_eq!(written, want, "{}: {answer:?}", row.what);
        match row.id {
            Some(id) => {
                let end = format!("(err-tidegate-{id})\n");
                assert!(answer.text.ends_with(&end), "{}: {answer:?}", row.what);
            }
            None => assert_eq!(answer.text.is_empty(), row.status < 300, "{}", row.what),
        }
    }
    let begun = node.metrics().sum("tidegate_received_start_timestamps_total");
    assert!((begun - 1.0).abs() < f64::EPSILON, "{begun}");
    check_stored(&node, t);
}

/// What the rows have left: each version's good samples, once.
fn check_stored(node: &Node, t: i64) {
    let stored = Store::connect(node.at.grpc).select(&[("__name__", ".+")]);
    let of = |own: Labels<'_>| -> Vec<(i64, u64)> {
        let is = |labels: &[(String, String)]| {
            let theirs = labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            let external = ["receive_replica", "tenant_id"];
            theirs.filter(|(name, _)| !external.contains(name)).eq(own.iter().copied())
        };
        let mut hits = stored.iter().filter(|(labels, _)| is(labels));
        let samples = hits.next().map(|(_, samples)| samples.clone()).unwrap_or_default();
        assert!(hits.next().is_none(), "{own:?} twice");
        samples
    };
    let bits = |samples: &[(i64, f64)]| -> Vec<(i64, u64)> {
        samples.iter().map(|&(after, value)| (t + after, value.to_bits())).collect()
    };
    assert_eq!(of(&[("__name__", "native")]), bits(&[(0, 0.0), (1, 0.0)]));
    let d = [(0, 1.0), (10, 2.0), (20, 3.0), (30, 4.0), (40, 5.0)];
    assert_eq!(of(&[("__name__", "d")]), bits(&d));
    assert_eq!(of(&[("__name__", "d"), ("a", "1"), ("b", "1")]), bits(&[(0, 1.0)]));
    let values = [1.0, STALE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let values: Vec<(i64, f64)> = (0..).zip(values).collect();
    let labels = [("__name__", "up"), ("instance", "localhost:9090"), ("job", "test")];
    assert_eq!(of(&labels), bits(&values));
    assert_eq!(of(&[("__name__", "up"), ("instance", "several:3")]), bits(&values));
    for (name, value) in [("e", 1.0), ("f", 1.0), ("g", 1.0), ("http_requests_total", 5.0)] {
        assert_eq!(of(&[("__name__", name)]), bits(&[(0, value)]), "{name}");
    }
    assert_eq!(of(&[("__name__", "orphan")]), []);
}
