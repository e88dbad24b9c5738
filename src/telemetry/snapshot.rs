//! Numbers at one moment, as an owned value that travels from a core to the control thread.

use std::collections::BTreeMap;

use crate::telemetry::{Kind, Metric};

/// Label names and values of one number, in the order they are shown.
pub type LabelPairs = Vec<(&'static str, String)>;

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Buckets {
    /// Upper bound of each bucket and how many fell into it and no lower one; the last bound is
    /// infinity.
    pub counts: Vec<(f64, u64)>,
    /// Sum of all values.
    pub sum: f64,
}

impl Buckets {
    /// Nothing yet, with the bounds of a metric.
    pub fn of(metric: Metric) -> Self {
        let bounds = metric.bounds().iter().copied().chain([f64::INFINITY]);
        Self { counts: bounds.map(|bound| (bound, 0)).collect(), sum: 0.0 }
    }

    /// Adds a value.
    pub fn observe(&mut self, value: f64) {
        self.sum += value;
        if let Some((_, count)) = self.counts.iter_mut().find(|(bound, _)| value <= *bound) {
            *count += 1;
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

/// The value of one metric with one label set.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    Buckets(Buckets),
}

/// Numbers by metric and label set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    pub(super) values: BTreeMap<(Metric, LabelPairs), Value>,
}

impl Snapshot {
    /// Adds to a counter.
    pub fn count(&mut self, metric: Metric, labels: LabelPairs, count: u64) {
        debug_assert_eq!(metric.kind(), Kind::Counter, "{metric:?}");
        self.add(metric, labels, Value::Whole(count));
    }

    /// Adds to a counter of what is not whole: seconds.
    pub fn count_real(&mut self, metric: Metric, labels: LabelPairs, amount: f64) {
        debug_assert_eq!(metric.kind(), Kind::Counter, "{metric:?}");
        self.add(metric, labels, Value::Real(amount));
    }

    /// Adds to a gauge: what several cores hold is what the process holds.
    pub fn gauge(&mut self, metric: Metric, labels: LabelPairs, value: f64) {
        debug_assert_eq!(metric.kind(), Kind::Gauge, "{metric:?}");
        self.add(metric, labels, Value::Real(value));
    }

    /// Adds to a histogram.
    pub fn buckets(&mut self, metric: Metric, labels: LabelPairs, buckets: Buckets) {
        debug_assert_eq!(metric.kind(), Kind::Histogram, "{metric:?}");
        self.add(metric, labels, Value::Buckets(buckets));
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for ((metric, labels), value) in &other.values {
            self.add(*metric, labels.clone(), value.clone());
        }
    }

    /// The sum of a metric over all label sets that hold `labels`; of a histogram, how many values.
    pub fn total(&self, metric: Metric, labels: &[(&str, &str)]) -> f64 {
        let holds = |all: &LabelPairs| {
            labels.iter().all(|(name, value)| all.iter().any(|(n, v)| n == name && v == value))
        };
        let rows = self.values.iter().filter(|((m, all), _)| *m == metric && holds(all));
        rows.map(|(_, value)| value.number()).sum()
    }

    fn add(&mut self, metric: Metric, labels: LabelPairs, value: Value) {
        match self.values.entry((metric, labels)) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(value);
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => slot.get_mut().add(value),
        }
    }
}

impl Value {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => *a = a.saturating_add(b),
            (Self::Real(a), Self::Real(b)) => *a += b,
            (Self::Buckets(a), Self::Buckets(b)) => {
                a.sum += b.sum;
                for ((bound, count), (other_bound, other)) in a.counts.iter_mut().zip(b.counts) {
                    debug_assert!(bound.total_cmp(&other_bound).is_eq(), "bounds differ");
                    *count = count.saturating_add(other);
                }
            }
            _ => debug_assert!(false, "a metric has one kind"),
        }
    }

    fn number(&self) -> f64 {
        match self {
            Self::Whole(count) => *count as f64,
            Self::Real(value) => *value,
            Self::Buckets(buckets) => buckets.count() as f64,
        }
    }
}
