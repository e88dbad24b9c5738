//! Verification: a ledger, a way to read, a verdict.
//!
//! A target may show samples later than it acknowledges them (VictoriaMetrics: some seconds). With
//! patience, a reading in which samples are *only missing* is repeated for a while; anything else
//! wrong stays wrong. Without patience the check is also one of read-your-acks.

use std::time::Duration;

use crate::error::Result;
use crate::http::Url;
use crate::ledger::History;
use crate::oracle::{Findings, Oracle};
use crate::throttle::{Clock, SystemClock};
use crate::{prometheus, store_api};

/// Pause between two readings.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where to read from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A StoreAPI.
    StoreApi {
        /// `host:port`.
        address: String,
        /// The label that carries the tenant, and which one is of the load. Without it the same
        /// load of several tenants cannot be told apart.
        tenant: Option<(String, String)>,
    },
    /// A server that speaks Prometheus' API. Without a method: the best it has.
    Prometheus(Url, Option<prometheus::Method>),
}

/// Reads everything back and judges it; `tick` hears of the share that is read.
pub(crate) fn verify(
    history: &History,
    source: &Source,
    patience: Duration,
    mut tick: impl FnMut(f64),
) -> Result<Findings> {
    let clock = SystemClock::start();
    repeat(patience, &clock, || read(history.clone(), source, &mut tick))
}

/// Reads until nothing is merely missing, or patience ends.
fn repeat(
    patience: Duration,
    clock: &impl Clock,
    mut read: impl FnMut() -> Result<Findings>,
) -> Result<Findings> {
    loop {
        let findings = read()?;
        let next = clock.now() + AGAIN_AFTER;
        if !findings.is_only_missing() || next > patience {
            return Ok(findings);
        }
        clock.sleep_until(next);
    }
}

fn read(history: History, source: &Source, tick: &mut impl FnMut(f64)) -> Result<Findings> {
    match source {
        Source::StoreApi { address, tenant } => {
            let mut oracle = Oracle::new(history, store_api::FIDELITY);
            store_api::read(address, tenant.as_ref(), &mut oracle)?;
            Ok(oracle.finish())
        }
        Source::Prometheus(url, method) => {
            let method = method.map_or_else(|| prometheus::Method::of(url), Ok)?;
            let mut oracle = Oracle::new(history, method.fidelity());
            prometheus::read(url, method, &mut oracle, tick)?;
            Ok(oracle.finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct JumpClock(Cell<Duration>);

    impl Clock for JumpClock {
        fn now(&self) -> Duration {
            self.0.get()
        }
        fn sleep_until(&self, due: Duration) {
            self.0.set(due);
        }
    }

    /// Readings needed for a list of what each shows; the last one repeats for ever.
    fn check(patience_s: u64, shows: &[&'static str], expect: usize) {
        let clock = JumpClock(Cell::new(Duration::ZERO));
        let mut count = 0;
        let findings = repeat(Duration::from_secs(patience_s), &clock, || {
            let mut findings = Findings::default();
            match shows[count.min(shows.len() - 1)] {
                "" => {}
                kind => *findings.counts.entry(kind).or_default() = 1,
            }
            count += 1;
            Ok(findings)
        });
        assert_eq!(count, expect, "{shows:?} with {patience_s} s");
        assert_eq!(
            findings.unwrap().is_clean(),
            shows[(expect - 1).min(shows.len() - 1)].is_empty()
        );
    }

    #[test]
    fn only_missing_samples_are_waited_for() {
        check(0, &["lost", ""], 1);
        check(9, &["lost", "lost", ""], 3);
        check(5, &["lost"], 6);
        check(9, &["twice", ""], 1);
        check(9, &[""], 1);
    }
}
