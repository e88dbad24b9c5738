//! What went wrong in reading, counted.
//!
//! ## Metrics
//! `tidegate_query_failures_total{reason}`: bumped once for each [`Error`] a caller is told;
//! `stalled` when the select is ended, for its caller may never ask again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::query::Error;
use crate::telemetry::{Metric, Snapshot};

const REASONS: [&str; 8] = [
    "not-ready",
    "overloaded",
    "source-gone",
    "source-failed",
    "disorder",
    "over-budget",
    "stalled",
    "broken-off",
];

/// Counters of all reads through one view. The control side's, so shared by its tasks.
#[derive(Debug, Default)]
pub(super) struct Probe {
    failures: [AtomicU64; REASONS.len()],
}

impl Probe {
    /// Counts an error on its way out.
    pub(super) fn failed(&self, error: &Error) {
        let reason = match error {
            Error::NotReady(_) => 0,
            Error::Overloaded { .. } => 1,
            Error::Gone { .. } => 2,
            Error::Failed { .. } => 3,
            Error::Disorder { .. } => 4,
            Error::OverBudget { .. } => 5,
            Error::Stalled { .. } => 6,
            Error::BrokenOff(_) => 7,
        };
        self.failures[reason].fetch_add(1, Relaxed);
    }

    /// Adds the counts to a scrape.
    pub(super) fn sample(&self, out: &mut Snapshot) {
        for (reason, count) in REASONS.iter().zip(&self.failures) {
            let labels = vec![("reason", (*reason).to_string())];
            out.count(Metric::QueryFailures, labels, count.load(Relaxed));
        }
    }
}
