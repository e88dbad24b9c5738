//! What a bucket was asked, how often it failed, how long it took.
//!
//! ## Metrics
//! With label `operation` as in Thanos: `thanos_objstore_bucket_operations_total`,
//! `thanos_objstore_bucket_operation_failures_total`,
//! `thanos_objstore_bucket_operation_duration_seconds`,
//! `thanos_objstore_bucket_operation_transferred_bytes`. An object that is not there is an answer
//! to `exists` and `attributes`, not a failure.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::bucket::error::Op;

/// Upper bounds of the duration buckets in milliseconds, as in Thanos.
pub const DURATION_BOUNDS_MS: [u64; 14] =
    [1, 10, 100, 300, 600, 1_000, 3_000, 6_000, 9_000, 20_000, 30_000, 60_000, 90_000, 120_000];

/// Counters of one bucket. Written by control-side tasks, read at a scrape.
#[derive(Debug, Default)]
pub struct Counters {
    operations: [Operation; Op::ALL.len()],
}

#[derive(Debug, Default)]
struct Operation {
    total: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
    duration_us: AtomicU64,
    /// One more than the bounds, for all that took longer. Not cumulative.
    durations: [AtomicU64; DURATION_BOUNDS_MS.len() + 1],
}

/// The counters of one operation at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpCount {
    /// How often it was asked.
    pub total: u64,
    /// How often it failed.
    pub failures: u64,
    /// Bytes of objects moved by those that did not fail.
    pub bytes: u64,
    /// Time of all of them together, in microseconds.
    pub duration_us: u64,
    /// How many took at most [`DURATION_BOUNDS_MS`], not cumulative; the last took longer.
    pub durations: [u64; DURATION_BOUNDS_MS.len() + 1],
}

impl Counters {
    /// The counters of one operation now.
    pub fn of(&self, op: Op) -> OpCount {
        let it = self.at(op);
        OpCount {
            total: it.total.load(Relaxed),
            failures: it.failures.load(Relaxed),
            bytes: it.bytes.load(Relaxed),
            duration_us: it.duration_us.load(Relaxed),
            durations: std::array::from_fn(|i| it.durations[i].load(Relaxed)),
        }
    }

    pub(super) fn done(&self, op: Op, took: Duration, moved: Result<u64, ()>) {
        let it = self.at(op);
        it.total.fetch_add(1, Relaxed);
        match moved {
            Ok(bytes) => it.bytes.fetch_add(bytes, Relaxed),
            Err(()) => it.failures.fetch_add(1, Relaxed),
        };
        it.duration_us.fetch_add(took.as_micros() as u64, Relaxed);
        let bound = DURATION_BOUNDS_MS.partition_point(|&ms| took > Duration::from_millis(ms));
        it.durations[bound].fetch_add(1, Relaxed);
    }

    fn at(&self, op: Op) -> &Operation {
        &self.operations[op as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_counted_once_and_where_it_belongs() {
        let counters = Counters::default();
        counters.done(Op::Upload, Duration::from_millis(10), Ok(7));
        counters.done(Op::Upload, Duration::from_secs(500), Err(()));
        let got = counters.of(Op::Upload);
        assert_eq!((got.total, got.failures, got.bytes), (2, 1, 7));
        assert_eq!(got.duration_us, 500_010_000);
        assert_eq!((got.durations[1], got.durations[14]), (1, 1));
        assert_eq!(got.durations.iter().sum::<u64>(), 2);
        assert_eq!(counters.of(Op::Attributes), OpCount::default());
        for (at, op) in Op::ALL.iter().enumerate() {
            assert_eq!(*op as usize, at);
        }
    }
}
