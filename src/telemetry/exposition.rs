//! A scrape: all numbers as text.
//!
//! ## Format
//! `OpenMetrics` 1.0 as `prometheus-client` writes it, or the older Prometheus text format 0.0.4,
//! made from it line by line. They differ in this only: in the older one the name of a counter's
//! family carries `_total` as its samples do, and there is no `# EOF`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::telemetry::snapshot::Value;
use crate::telemetry::{Kind, Metric, Snapshot};

/// How a scrape is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// What a client wants by its `Accept` header: `OpenMetrics` if it names it, as every
    /// Prometheus does.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All that is shown: functions that add their numbers at a scrape.
#[derive(Default)]
pub struct Exposition(Vec<Box<Source>>);

type Source = dyn Fn(&mut Snapshot) + Send + Sync;

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sources", self.0.len())
    }
}

impl Exposition {
    /// Shows what `source` adds at each scrape, for example the last snapshots of the cores.
    pub fn source(&mut self, source: impl Fn(&mut Snapshot) + Send + Sync + 'static) {
        self.0.push(Box::new(source));
    }

    /// All numbers now.
    pub fn render(&self, format: Format) -> Result<String, fmt::Error> {
        let mut snapshot = Snapshot::default();
        for source in &self.0 {
            source(&mut snapshot);
        }
        let mut sampled = Registry::default();
        sampled.register_collector(Box::new(Sampled(snapshot)));
        let mut out = String::new();
        text::encode_registry(&mut out, &sampled)?;
        text::encode_eof(&mut out)?;
        Ok(match format {
            Format::OpenMetrics => out,
            Format::Text => older(&out),
        })
    }
}

/// A snapshot as a collector.
#[derive(Debug)]
struct Sampled(Snapshot);

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for &metric in Metric::ALL {
            let from = (metric, Vec::new());
            let mut rows =
                self.0.values.range(from..).take_while(|((m, _), _)| *m == metric).peekable();
            if rows.peek().is_none() {
                continue;
            }
            let kind = metric_type(metric);
            let mut family = encoder.encode_descriptor(metric.name(), metric.help(), None, kind)?;
            for ((_, labels), value) in rows {
                if labels.is_empty() {
                    encode(&mut family, metric, value)?;
                } else {
                    encode(&mut family.encode_family(labels)?, metric, value)?;
                }
            }
        }
        Ok(())
    }
}

fn metric_type(metric: Metric) -> MetricType {
    match metric.kind() {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}

fn encode(out: &mut MetricEncoder<'_>, metric: Metric, value: &Value) -> fmt::Result {
    match value {
        Value::Whole(count) => out.encode_counter::<NoLabelSet, _, f64>(count, None),
        Value::Real(amount) if metric.kind() == Kind::Counter => {
            out.encode_counter::<NoLabelSet, _, f64>(amount, None)
        }
        Value::Real(value) => out.encode_gauge(value),
        Value::Buckets(buckets) => {
            out.encode_histogram::<NoLabelSet>(buckets.sum, buckets.count(), &buckets.counts, None)
        }
    }
}

/// Rewrites `OpenMetrics` as text 0.0.4.
fn older(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(word), Some(name), Some(rest)) if counters.contains(&name) => {
                out.extend(["# ", word, " ", name, "_total ", rest, "\n"]);
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}
