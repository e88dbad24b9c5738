//! One view over all data: the heads of all shards and the finished local blocks.
//!
//! `StoreAPI`, the HTTP API and later `PromQL` and rules all read through [`View`]; none of them
//! knows that there are cores.
//!
//! ## A select
//! ```text
//! shard 0 ---parts--->\
//! shard 1 ---parts----> merge by key --frames--> the caller
//! blocks  ---parts--->/
//! ```
//! 1. Every shard is asked. Each pins its head and says from when on it serves each tenant
//!    (`Begin`).
//! 2. Only when all have spoken, the list of blocks is taken. A shard lets go of a time only after
//!    the block that holds it is in that list, so between them nothing is missing.
//! 3. A block written by this process is used only if it ends before its shard's head begins, so
//!    nothing is there twice. A block found at start is always used: its samples are not replayed.
//! 4. Frames are merged by key. Frames with equal keys leave one after the other.
//!
//! ## Promises
//! - The stream is ascending by the final label set, or it fails: a source that breaks the order is
//!   cut off with [`Error::Disorder`], never passed on.
//! - A source that fails is one [`Error`] in the stream, after which the others go on: whether that
//!   is a warning or the end is the caller's choice. Nothing is swallowed.
//! - Memory per select is bounded: few parts ahead per source, [`Limits::buffered_bytes_max`] in
//!   hand; open blocks are bounded for all of them together. A slow client slows the shards'
//!   selects, not their intake.
//! - Dropping the stream cancels the select everywhere. So does not reading it for
//!   [`Limits::stalled_after`].
//! - At most [`Limits::selects_max`] selects run and [`Limits::waiting_max`] wait: queries are what
//!   overload sheds first. One whose client has left runs until its last step has noticed.

mod block_labels;
mod block_select;
mod blocks;
mod error;
mod gate;
mod label;
mod merge;
mod probe;
mod readers;
mod select;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod twin;

use std::sync::Arc;
use std::time::Duration;

use crate::frame::Sharding;
use crate::model::{External, Labels, Matcher, TimeSpan};
use crate::query::gate::Gate;
use crate::query::probe::Probe;
use crate::rt::channel::{mpsc, watch};
use crate::rt::door::STALLED_AFTER;
use crate::shard::message::Ask;

pub use blocks::{Blocks, LocalBlock};
pub use error::{Error, NotReady, Origin};
pub use label::LabelList;
pub use stats::{KnownStats, follow};
pub use stream::SeriesStream;

/// The channels to all shards, by shard number.
pub type Shards = Vec<mpsc::Sender<Ask>>;

/// How much reading may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Selects that run at the same time.
    pub selects_max: usize,
    /// Selects that wait for one of these to end; more are refused.
    pub waiting_max: usize,
    /// Bytes of frames that one select holds in hand, or of texts that one list of labels holds.
    pub buffered_bytes_max: usize,
    /// Time without taking a frame after which a reader's select is ended.
    pub stalled_after: Duration,
}

impl Default for Limits {
    /// 20 selects as in Thanos' store gateway, five times as many waiting, 64 MiB each.
    fn default() -> Self {
        Self {
            selects_max: 20,
            waiting_max: 100,
            buffered_bytes_max: 64 << 20,
            stalled_after: STALLED_AFTER,
        }
    }
}

/// Most matchers in one request: each is asked for every series or value.
pub const MATCHERS_MAX: usize = 1000;

/// Which series, and how they shall look.
#[derive(Debug, Clone)]
pub struct SelectRequest {
    /// Chunks that overlap this span.
    pub span: TimeSpan,
    /// All must match; those on external names choose tenants.
    pub matchers: Arc<[Matcher]>,
    /// Names to remove from the label sets before they are sorted.
    pub without: Arc<[String]>,
    /// Whether labels alone are wanted.
    pub skip_chunks: bool,
    /// No more than this many series; 0 = no limit.
    pub limit: usize,
    /// Which part of the series is wanted; all if none.
    pub sharding: Option<Arc<Sharding>>,
}

/// Which label names or values.
#[derive(Debug, Clone)]
pub struct LabelsRequest {
    /// Of series with samples in this span (may be widened to heads and blocks).
    pub span: TimeSpan,
    /// All must match; those on external names choose tenants.
    pub matchers: Arc<[Matcher]>,
    /// Names that shall not appear.
    pub without: Arc<[String]>,
    /// No more than this many, counted after sorting; 0 = no limit.
    pub limit: usize,
}

/// What one tenant (in one shard, if shards carry a label) has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantInfo {
    /// The external labels of the data.
    pub labels: Labels,
    /// Oldest time in milliseconds.
    pub min_t: i64,
    /// Newest time in milliseconds.
    pub max_t: i64,
}

/// The way to all data. Cheap to clone; clones share limits.
#[derive(Debug, Clone)]
pub struct View {
    shards: Arc<[mpsc::Sender<Ask>]>,
    blocks: Blocks,
    external: Arc<External>,
    ready: watch::Receiver<Result<(), NotReady>>,
    stats: watch::Receiver<KnownStats>,
    gate: Arc<Gate>,
    probe: Arc<Probe>,
    limits: Limits,
}

impl View {
    /// A view. `ready` is set by who starts and stops things; `stats` is kept fresh by [`follow`].
    pub fn new(
        shards: Shards,
        blocks: Blocks,
        external: Arc<External>,
        ready: watch::Receiver<Result<(), NotReady>>,
        stats: watch::Receiver<KnownStats>,
        limits: Limits,
    ) -> Self {
        let gate = Arc::new(Gate::new(limits));
        Self {
            shards: shards.into(),
            blocks,
            external,
            ready,
            stats,
            gate,
            probe: Arc::default(),
            limits,
        }
    }

    /// Works out on the control pool what a read needs, such as its patterns, which may take long
    /// to compile. It waits for a turn as a read does, and gives it back.
    pub async fn prepare<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let prepared = async { Ok(self.gate.pass().await?.step(step).await?) };
        prepared.await.inspect_err(|error| self.probe.failed(error))
    }

    /// Whether data can be read, or why not.
    pub fn ready(&self) -> Result<(), NotReady> {
        self.ready.borrow().clone()
    }

    /// [`View::ready`] as something to wait on.
    pub fn readiness(&self) -> watch::Receiver<Result<(), NotReady>> {
        self.ready.clone()
    }

    /// What the external labels are made of.
    pub fn external(&self) -> &External {
        &self.external
    }
}
