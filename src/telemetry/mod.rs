//! What Tidegate says of itself: metrics and logs.
//!
//! ## Metrics
//! Every metric stands in one closed list, [`Metric`]; nothing else can be shown, and a test keeps
//! the list. Two ways lead to a scrape:
//!
//! - **Cores** count in plain integers of their own (a `Cell<u64>` or a field; no atomic, no lock).
//!   A core copies them into a [`Snapshot`], an owned value, about once a second and when asked,
//!   and sends it to the control thread. Values of one metric and label set from several cores are
//!   added up at the scrape.
//! - **The control side** counts in [`Counters`], which its tasks share.
//!
//! All become one [`Snapshot`] and that one text, so no family shows twice whoever counts in it.
//!
//! Why snapshots and not relaxed atomics that the control thread reads: both cost a core the same
//! (a load, an add, a store), but a snapshot is taken between two events, so numbers that belong
//! together (accepted = stored + refused) agree, and a stage needs no shared type for its counters.
//! The price is an age of up to a second, and that a stuck core shows its last numbers; that it is
//! stuck shows in [`Metric::CoreSnapshots`], which then stands still.
//!
//! ## Logs
//! `logfmt` or JSON lines, see [`log`]. Nobody who logs waits for the device: lines go through a
//! bounded channel to a thread, and what does not fit is counted and said.

mod counters;
mod exposition;
pub mod log;
mod metric;
pub mod panics;
mod snapshot;
#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use exposition::{Exposition, Format};
pub use metric::{Kind, Metric};
pub use snapshot::{Buckets, LabelPairs, Snapshot};
