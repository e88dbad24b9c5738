//! Wall time of pure functions, to look at: no gate hangs on it.
//!
//! A bench bears the name of the function it calls, and its elements are series: 2,000 with one
//! sample each. `ordered` comes as a sender keeps it, neighbours alike; `shuffled` is the same
//! request with its series mixed, which is harder on snappy.
#![expect(clippy::expect_used, reason = "a bench that cannot run should stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate::decode::{self, Scan, region, snappy};

use crate::requests::Fleet;

mod requests;

const SERIES: usize = 2000;
const LIMIT_BYTES: usize = 32 << 20;

/// The two orders, each with the step from one series to the next: 1,213 and 2,000 have no common
/// factor, so that each series comes once.
const ORDERS: [(&str, usize); 2] = [("ordered", 1), ("shuffled", 1213)];

fn fleet(step: usize) -> Fleet {
    Fleet::new((0..SERIES).map(|i| i * step % SERIES))
}

/// The two requests: name, message, body.
fn requests() -> [(&'static str, Vec<u8>, Vec<u8>); 2] {
    ORDERS.map(|(name, step)| {
        let message = fleet(step).message(0..1);
        let body = requests::body(&message);
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

fn scan_v2(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan_v2");
    group.throughput(Throughput::Elements(SERIES as u64));
    for (name, step) in ORDERS {
        let message = fleet(step).message_v2(0..1);
        let (mut regions, mut scan) = (Vec::new(), Scan::default());
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let message = black_box(&message);
                decode::write_request_v2(message, LIMIT_BYTES, &mut regions, &mut scan)
                    .expect("a request");
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

criterion_group!(benches, decode_snappy, scan_v1, scan_v2, region_is_canonical);
criterion_main!(benches);
