//! The control side's own numbers, counted where things happen and shown at a scrape.

use std::sync::Arc;

use crate::telemetry::snapshot::{Buckets, LabelPairs, Snapshot, Value};
use crate::telemetry::{Kind, Metric};

#[expect(clippy::disallowed_types, reason = "tasks and threads of the control side share it")]
type Shared = Arc<std::sync::Mutex<Snapshot>>;

/// Numbers that several tasks of the control side count in. Cheap to clone; clones count together.
///
/// A count makes its labels and takes a lock: cheap beside a call, an upload or a flush, and
/// nothing for a core.
#[derive(Debug, Clone, Default)]
pub struct Counters(Shared);

impl Counters {
    /// Adds to a counter. Adding 0 makes it show.
    pub fn count(&self, metric: Metric, labels: LabelPairs, count: u64) {
        self.with(|all| all.count(metric, labels, count));
    }

    /// Adds a value to a histogram.
    pub fn observe(&self, metric: Metric, labels: LabelPairs, value: f64) {
        let mut buckets = Buckets::of(metric);
        buckets.observe(value);
        self.with(|all| all.buckets(metric, labels, buckets));
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, labels: LabelPairs, value: f64) {
        debug_assert_eq!(metric.kind(), Kind::Gauge, "{metric:?}");
        self.with(|all| all.values.insert((metric, labels), Value::Real(value)));
    }

    /// See [`Snapshot::total`].
    pub fn total(&self, metric: Metric, labels: &[(&str, &str)]) -> f64 {
        self.with(|all| all.total(metric, labels))
    }

    /// Adds all numbers to a scrape.
    pub fn sample(&self, out: &mut Snapshot) {
        self.with(|all| out.merge(all));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        // A panic while counting leaves numbers, not a broken state.
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
