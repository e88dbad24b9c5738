//! Work beside the control thread's main line: its tasks, its timers, and its small pool.
//!
//! The control reactor must stay free to answer `Info` within 100 ms at any load, so nothing on it
//! computes for long. What does (a select over blocks, a compaction step) runs as [`blocking`], on
//! a pool of [`POOL_THREADS`], in steps that each end by themselves: a thread
//! of the pool never waits for a slow client.

use std::future::Future;

pub use tokio::task::{JoinHandle, spawn, yield_now};
pub use tokio::time::{error::Elapsed, sleep, timeout};

/// Threads of the pool.
pub const POOL_THREADS: usize = 6;

/// The step did not end: it panicked, or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a step on the control pool broke off (a panic, or the process is stopping)")]
pub struct BrokenOff;

/// Runs one step on the pool. Dropping the future does not stop a step that has begun.
pub fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, BrokenOff>> + Send {
    let handle = tokio::task::spawn_blocking(step);
    async move { handle.await.map_err(|_| BrokenOff) }
}
