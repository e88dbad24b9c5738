//! The head: the series of a shard and their newest samples, in memory.
//!
//! One store for all tenants; the tenant is a column. What an append touches lies together: a line
//! of hot state per series and the end of its open chunk. All else (labels, closed chunks) is
//! looked up only when a series is made, read or flushed.
//!
//! - [`series`]: the store, and how a key finds its series; [`members`]: whose they are.
//! - [`append`]: what becomes of a sample; [`histograms`]: of a native histogram.
//! - [`out_of_order`]: samples that came late, and [`merge`], which puts them where they belong.
//! - [`read`]: series by matchers, chunks by time.
//! - [`truncate`]: what leaves when a range is in blocks.
//! - [`symbols`], [`tail`], [`closed`]: strings, open chunks, closed chunks.
//!
//! ## Promises
//! - A series has at most one sample for a time.
//! - A chunk lies in one block range and has at most 120 samples.
//! - Nothing is allocated for a sample of a known series, but pages that are used again.
//!
//! ## Crash
//! The head is gone and comes back from the log. Nothing here does I/O.

pub(crate) mod append;
pub(crate) mod closed;
pub(crate) mod histograms;
pub(crate) mod members;
pub(crate) mod merge;
pub(crate) mod out_of_order;
pub(crate) mod read;
pub(crate) mod series;
pub(crate) mod symbols;
pub(crate) mod tail;
pub(crate) mod truncate;

#[cfg(test)]
pub(crate) mod specimen;
#[cfg(test)]
mod tests;

pub(crate) use append::Appended;
pub use append::Refusal;
pub(crate) use series::{Head, SeriesIndex, TenantIndex};
pub(crate) use truncate::Truncation;
