//! Panics, counted. What catches them differs (a connection, a query); that one happened is told
//! here, before anybody catches it.

use std::panic;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::{Metric, Snapshot};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts every panic of the process from now on; they are told on standard error as before.
pub fn count() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Relaxed);
        tell(panic);
    }));
}

/// Adds the count to a scrape.
pub fn sample(out: &mut Snapshot) {
    out.count(Metric::Panics, vec![], PANICS.load(Relaxed));
}
