//! Panics: counted and told. What catches them differs (a connection, a query); that one happened
//! is told here, before anybody catches it.
//!
//! ## Promises
//! A core that panics does not wait for who reads the log: std would write to standard error, and a
//! full pipe would hold the core. Here the panic is a line like any other. Only a process that ends
//! for it waits a moment for its [`last_words`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::log::Lines;
use crate::telemetry::{Metric, Snapshot};

static PANICS: AtomicU64 = AtomicU64::new(0);
/// Where the last words go.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Counts every panic of the process from now on, and logs it. `lines` is where the log goes.
pub fn log(lines: Lines) {
    LINES.get_or_init(|| lines);
    panic::set_hook(Box::new(heard));
}

/// Counts a panic and logs it.
pub(super) fn heard(panic: &PanicHookInfo<'_>) {
    PANICS.fetch_add(1, Relaxed);
    let at = panic.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
    let why = panic.payload_as_str().unwrap_or("a value that is no text");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        tracing::error!(thread, %trace, "panicked at {at}: {why}");
    } else {
        tracing::error!(thread, "panicked at {at}: {why}");
    }
}

/// Has what was logged written before the process ends, if somebody reads it.
pub fn last_words() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Adds the count to a scrape.
pub fn sample(out: &mut Snapshot) {
    out.count(Metric::Panics, vec![], PANICS.load(Relaxed));
}
