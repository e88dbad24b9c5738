//! All that a shard can be asked from outside, as one closed enum.
//!
//! The control plane holds one bounded channel of [`Ask`] per shard and never touches a shard
//! otherwise. Each ask carries the channel its answer goes to; whoever drops the receiving end no
//! longer wants the answer, and the shard stops at its next slice.
//!
//! ## A select, step by step
//! 1. The shard *pins* what it has: it sends [`Part::Begin`] first, with the time from which its
//!    head serves each tenant, and keeps everything from there on readable until the select ends
//!    (or a truncation has waited long enough for it: then it says [`Part::Failed`]).
//! 2. It sends [`Part::Series`], ascending by key over the whole select, at most [`PART_BYTES`] in
//!    each part but for a frame that alone is bigger. The channel holds few parts: when it is full,
//!    the shard does other work and comes back.
//! 3. [`Part::End`]. A channel that closes without it means that the shard failed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use ulid::Ulid;

use crate::frame::{Frame, Sharding};
use crate::model::{External, Matcher, TenantId, TimeRange, TimeSpan};
use crate::rt::channel::{mpsc, oneshot};
use crate::shard::cut_plan::Held;
use crate::shard::flush::Flushed;

/// What a shard aims at as the size of one [`Part::Series`], keys and bodies, in bytes.
pub const PART_BYTES: usize = 128 * 1024;

/// A question to a shard.
#[derive(Debug)]
pub enum Ask {
    /// Which series match, and their chunks.
    Select(Select),
    /// Which label names or values there are.
    Labels(LabelsAsk),
    /// How much there is. Answered from counters, without touching series.
    Stats(oneshot::Sender<Stats>),
    /// What is not in blocks yet, or not cut to the end. Whoever is not named has nothing here.
    Held(oneshot::Sender<Vec<(TenantId, Held)>>),
    /// Up to when each tenant's samples are in blocks, whether anything is held of it or not.
    Covered(oneshot::Sender<Vec<(TenantId, i64)>>),
    /// Write down again what only logs of earlier generations told, so that they may go.
    Settle(oneshot::Sender<Result<(), String>>),
    /// Let go of logs of earlier generations that are covered: shard 0 deletes, the others note it.
    DropOld {
        /// Before this, all shards have a tenant's data in blocks.
        covered_below: Arc<BTreeMap<TenantId, i64>>,
        /// How many segments are left.
        reply: oneshot::Sender<Result<usize, String>>,
    },
    /// Refuse a tenant's samples before a time from now on.
    Cut {
        /// Whose.
        tenant: TenantId,
        /// First millisecond still taken; the end of a block range.
        end_ms: i64,
        /// Said when it holds.
        reply: oneshot::Sender<()>,
    },
    /// Write the oldest range before a cut as a block.
    Flush(FlushAsk),
    /// Let the head go before a cut; its blocks are in the list.
    Truncate {
        /// Whose.
        tenant: TenantId,
        /// The cut.
        end_ms: i64,
        /// Said when no new read looks for older data here. The memory follows as readers leave.
        reply: oneshot::Sender<()>,
    },
}

/// Which block to write.
#[derive(Debug)]
pub struct FlushAsk {
    /// Whose data.
    pub tenant: TenantId,
    /// The cut.
    pub end_ms: i64,
    /// What the external labels are made of.
    pub external: Arc<External>,
    /// The name of the block.
    pub ulid: Ulid,
    /// Where the answer goes: `None` when nothing is left before the cut.
    pub reply: oneshot::Sender<Result<Option<FlushedBlock>, String>>,
}

/// A block that is durable, verified, and covered by a logged cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushedBlock {
    /// Its name.
    pub ulid: Ulid,
    /// Where it lies.
    pub dir: PathBuf,
    /// Its range.
    pub range: TimeRange,
    /// Series in it.
    pub series: u64,
    /// Samples in it.
    pub samples: u64,
}

impl FlushedBlock {
    /// What control needs to know of a block.
    pub(crate) fn of(flushed: &Flushed) -> Self {
        let meta = &flushed.meta;
        Self {
            ulid: meta.ulid,
            dir: flushed.dir.clone(),
            range: meta.range(),
            series: meta.stats.num_series,
            samples: meta.stats.num_samples,
        }
    }
}

/// Which series, and how they shall look.
#[derive(Debug)]
pub struct Select {
    /// Chunks that overlap this span are wanted.
    pub span: TimeSpan,
    /// All must match. Those on external names choose tenants.
    pub matchers: Arc<[Matcher]>,
    /// What the external labels are made of.
    pub external: Arc<External>,
    /// Names to remove from the final label sets, before they are sorted.
    pub without: Arc<[String]>,
    /// Whether labels alone are wanted.
    pub skip_chunks: bool,
    /// No more than this many series are of use; 0 = no limit.
    pub limit: usize,
    /// Which part of the series is wanted; all if none.
    pub sharding: Option<Arc<Sharding>>,
    /// Where the answer goes.
    pub reply: mpsc::Sender<Part>,
}

/// A piece of the answer to a [`Select`].
#[derive(Debug)]
pub enum Part {
    /// First of all: what the head serves. A tenant that is not named has nothing in this head.
    Begin(Vec<HeadFrom>),
    /// Frames in ascending order of their keys, none smaller than any sent before.
    Series(Vec<Frame>),
    /// All was sent.
    End,
    /// Nothing more will come, and this is why.
    Failed(String),
}

/// From when on a shard's head serves a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadFrom {
    /// Whose data.
    pub tenant: TenantId,
    /// The head serves every sample with `t >= from_ms`; what is older is in finished blocks, which
    /// were in the control plane's list before the shard moved `from_ms` past them.
    pub from_ms: i64,
}

/// Which label names or values.
#[derive(Debug)]
pub struct LabelsAsk {
    /// Of series with samples in this span; may be widened to what the head holds.
    pub span: TimeSpan,
    /// All must match. Those on external names choose tenants.
    pub matchers: Arc<[Matcher]>,
    /// What the external labels are made of.
    pub external: Arc<External>,
    /// Names that shall not appear.
    pub without: Arc<[String]>,
    /// `None`: the names. `Some(label)`: the values of this label.
    pub of: Option<String>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<BTreeSet<String>, String>>,
}

/// How much a shard holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// One entry per tenant with a head.
    pub tenants: Vec<TenantStats>,
}

/// How much a shard's head holds of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantStats {
    /// Whose data.
    pub tenant: TenantId,
    /// Series in the head.
    pub series: u64,
    /// Oldest time in the head in milliseconds; `i64::MAX` without samples.
    pub min_t: i64,
    /// Newest time in the head in milliseconds; `i64::MIN` without samples.
    pub max_t: i64,
    /// Chunks in the head.
    pub chunks: u64,
    /// Samples appended since the process started.
    pub samples_appended: u64,
}
