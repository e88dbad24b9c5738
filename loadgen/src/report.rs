//! What is told: tables for people on standard output, JSON for machines in a file.

use std::collections::BTreeMap;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, at};
use crate::oracle::Findings;
use crate::print::say;
use crate::scenario::{Mode, Scenario};
use crate::sender::Outcome;

/// Latencies of answers, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latency {
    /// The quantiles of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1000.0,
        }
    }
}

/// The report of `run`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunReport {
    pub(crate) scenario: Scenario,
    pub(crate) target: String,
    pub(crate) seconds: f64,
    pub(crate) acked_samples: u64,
    pub(crate) samples_per_second: f64,
    pub(crate) body_bytes_per_sample: f64,
    pub(crate) sent_requests: u64,
    pub(crate) acked_requests: u64,
    pub(crate) repeated_requests: u64,
    pub(crate) refused_by_status: BTreeMap<u16, u64>,
    pub(crate) retried_by_status: BTreeMap<u16, u64>,
    pub(crate) first_refusal: Option<String>,
    pub(crate) network_errors: u64,
    pub(crate) reconnects: u64,
    pub(crate) latency: Latency,
    pub(crate) warmup_latency: Latency,
    pub(crate) send_lag: Latency,
    /// CPU time of the generator itself.
    pub(crate) generator_ns_per_sample: f64,
    /// CPU time of the process named by `--pid`.
    pub(crate) target_ns_per_sample: Option<f64>,
}

impl RunReport {
    /// The report of an outcome.
    pub(crate) fn of(scenario: &Scenario, target: &str, outcome: &Outcome) -> Self {
        let samples = outcome.acked_samples;
        let seconds = outcome.elapsed.as_secs_f64();
        Self {
            scenario: scenario.clone(),
            target: target.to_owned(),
            seconds,
            acked_samples: samples,
            samples_per_second: samples as f64 / seconds.max(1e-9),
            body_bytes_per_sample: per(outcome.acked_body_size as f64, samples),
            sent_requests: outcome.sent_requests,
            acked_requests: outcome.acked_requests,
            repeated_requests: outcome.repeated_requests,
            refused_by_status: outcome.refused.clone(),
            retried_by_status: outcome.retried.clone(),
            first_refusal: outcome.first_refusal.clone(),
            network_errors: outcome.network_errors,
            reconnects: outcome.reconnects,
            latency: Latency::of(&outcome.latency_us),
            warmup_latency: Latency::of(&outcome.warmup_latency_us),
            send_lag: Latency::of(&outcome.send_lag_us),
            generator_ns_per_sample: 0.0,
            target_ns_per_sample: None,
        }
    }

    /// Whether everything that was sent was taken.
    pub(crate) fn is_clean(&self) -> bool {
        self.refused_by_status.is_empty()
    }

    /// The table for people.
    pub(crate) fn print(&self) {
        let row = |name: &str, text: String| say!("  {name:<22} {text}");
        say!("{} -> {}", self.scenario.name, self.target);
        row(
            "acknowledged",
            format!(
                "{} samples in {:.1} s: {:.0} samples/s",
                self.acked_samples, self.seconds, self.samples_per_second
            ),
        );
        row(
            "requests",
            format!(
                "{} sent, {} acknowledged, {:.1} B/sample compressed",
                self.sent_requests, self.acked_requests, self.body_bytes_per_sample
            ),
        );
        row("latency from due, ms", latency_text(&self.latency));
        if self.warmup_latency.count > 0 {
            row("  in the warm-up", latency_text(&self.warmup_latency));
        }
        if self.scenario.mode == Mode::Open {
            row("generator late, ms", latency_text(&self.send_lag));
        }
        row("generator", format!("{:.0} ns CPU/sample", self.generator_ns_per_sample));
        if let Some(target) = self.target_ns_per_sample {
            row("target", format!("{target:.0} ns CPU/sample, creation included"));
        }
        let trouble = self.repeated_requests + self.network_errors + self.reconnects;
        if trouble > 0 || !self.retried_by_status.is_empty() {
            row(
                "again",
                format!(
                    "{} repeated on purpose, retried by status {:?}, \
                     {} network errors, {} reconnects",
                    self.repeated_requests,
                    self.retried_by_status,
                    self.network_errors,
                    self.reconnects
                ),
            );
        }
        if !self.is_clean() {
            row(
                "REFUSED by status",
                format!(
                    "{:?}: {}",
                    self.refused_by_status,
                    self.first_refusal.as_deref().unwrap_or_default()
                ),
            );
        }
    }
}

fn latency_text(latency: &Latency) -> String {
    if latency.count == 0 {
        return "no request".to_owned();
    }
    format!(
        "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.1}",
        latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
    )
}

/// Prints what the oracle found.
pub(crate) fn print_findings(findings: &Findings) {
    say!(
        "sent {} samples, acknowledged {}, stored {} (of these never acknowledged: {})",
        findings.sent_samples,
        findings.acked_samples,
        findings.stored_samples,
        findings.stored_unacked_samples
    );
    if findings.unseen_stale_samples > 0 {
        say!(
            "not checked, for the API hides them: {} stale markers",
            findings.unseen_stale_samples
        );
    }
    if !findings.foreign_label_names.is_empty() {
        let names: Vec<_> = findings.foreign_label_names.iter().map(String::as_str).collect();
        say!("labels the target added, set aside: {}", names.join(", "));
    }
    if findings.is_clean() {
        say!("acked ⊆ stored ⊆ sent, nothing twice, values equal");
        return;
    }
    for (name, count) in &findings.counts {
        say!("BROKEN: {name}: {count}");
    }
    findings.first.iter().for_each(|difference| say!("  {difference}"));
}

/// Writes a report as JSON.
pub(crate) fn write_json(path: &Path, report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| Error::Usage(format!("report: {error}")))?;
    std::fs::write(path, text + "\n").map_err(at(path))
}

/// A share per item; 0 of nothing.
pub(crate) fn per(amount: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { amount / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_milliseconds() {
        let mut histogram = Histogram::new_with_max(1_000_000, 3).unwrap();
        for value in 1..=1000 {
            histogram.record(value * 100).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50_ms - 50.0).abs() < 0.1 && (latency.p99_ms - 99.0).abs() < 0.1);
        assert!(latency.max_ms >= 100.0);
        assert!((per(1.0, 0)).abs() < 1e-9);
    }
}
