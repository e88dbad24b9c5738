//! Wall time of pure functions, to look at: no gate hangs on it.
//!
//! A bench bears the name of the function it calls, and its elements are series: 2,000 of ten
//! labels and one sample, about 275 bytes each. `ordered` comes as a sender keeps it, neighbours
//! alike; `shuffled` is the same request with its series mixed, which is harder on snappy.
#![expect(clippy::expect_used, reason = "a bench that cannot run should stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use std::hint::black_box;
use tidegate::decode::{self, Scan, region, snappy};
use tidegate_proto::prometheus::{Label, Sample, TimeSeries, WriteRequest};

const SERIES: usize = 2000;
const LIMIT_BYTES: usize = 32 << 20;

/// Series `i` of a fleet of pods that all expose the same histogram.
fn series(i: usize) -> TimeSeries {
    let (pod, bucket) = (i / 20, i % 20);
    let labels = [
        ("__name__", "http_server_request_duration_seconds_bucket".to_owned()),
        ("cluster", "eu-west-1-production".to_owned()),
        ("container", "checkout".to_owned()),
        ("instance", format!("10.42.{}.{}:8080", pod / 250, pod % 250)),
        ("job", "kubernetes-pods".to_owned()),
        ("le", format!("{:.3}", 0.001 * f64::from(1 << bucket))),
        ("method", ["GET", "POST", "PUT", "DELETE"][pod % 4].to_owned()),
        ("namespace", "shop-checkout".to_owned()),
        ("pod", format!("checkout-7d9f8b6c5d-{:05x}", pod * 7919 % 0xfffff)),
        ("status", "200".to_owned()),
    ];
    let labels = labels.map(|(name, value)| Label { name: name.to_owned(), value });
    let sample = Sample { value: (i * i) as f64 + 0.5, timestamp: 1_700_000_000_000 };
    TimeSeries { labels: labels.to_vec(), samples: vec![sample], ..TimeSeries::default() }
}

/// The two requests: name, message, body.
fn requests() -> [(&'static str, Vec<u8>, Vec<u8>); 2] {
    // 1,213 and 2,000 have no common factor: each series comes once.
    [("ordered", 1), ("shuffled", 1213)].map(|(name, step)| {
        let timeseries = (0..SERIES).map(|i| series(i * step % SERIES)).collect();
        let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&message).expect("a snappy block");
        (name, message, body)
    })
}

fn decode_snappy(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode_snappy");
    group.throughput(Throughput::Elements(SERIES as u64));
    for (name, message, body) in requests() {
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| snappy::decode(black_box(&body), LIMIT_BYTES, &mut out).expect("a block"));
        });
        assert_eq!(out, message);
    }
}

fn scan_v1(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan_v1");
    group.throughput(Throughput::Elements(SERIES as u64));
    for (name, mut message, _) in requests() {
        let mut scan = Scan::default();
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                decode::write_request_v1(black_box(&mut message), &mut scan).expect("a request");
            });
        });
        assert_eq!((scan.series.len(), scan.samples.len()), (SERIES, SERIES));
    }
}

fn region_is_canonical(c: &mut Criterion) {
    let mut group = c.benchmark_group("region_is_canonical");
    group.throughput(Throughput::Elements(SERIES as u64));
    for (name, mut message, _) in requests() {
        let mut scan = Scan::default();
        decode::write_request_v1(&mut message, &mut scan).expect("a request");
        let count = || {
            let is_canonical = |s: &&decode::SeriesView| {
                let region = &message[s.labels.start as usize..s.labels.end as usize];
                region::is_canonical(black_box(region))
            };
            scan.series.iter().filter(is_canonical).count()
        };
        assert_eq!(count(), SERIES);
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(count));
    }
}

criterion_group!(benches, decode_snappy, scan_v1, region_is_canonical);
criterion_main!(benches);
