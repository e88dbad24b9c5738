//! From the head to a block: cut and flush.
//!
//! ## Order
//! 1. [`Shard::cut`]: samples of the tenant before the end are refused from now on. Control cuts
//!    all shards first, then has them flush one after the other.
//! 2. [`Shard::flush`]: the oldest range that holds samples becomes a block: its series are found,
//!    sorted by their own labels and written, chunks verbatim. The block is read back, then
//!    published ([`StorageSink`](crate::rt::StorageSink)).
//! 3. The cut is logged and durable. Only now does it cover the samples.
//! 4. Control puts the block in its list, so that who asks later finds it.
//! 5. [`Shard::truncate`]: head and log let go of what is in the block
//!    ([`truncation`](crate::shard::truncation)).
//!
//! While ranges are left before the end, 2 to 5 come again; the turns of other tenants lie between.
//!
//! ## Crash
//! Before the block has its name: a directory that nobody reads. After it: the block stands for
//! the cut, logged or not ([`crate::shard::blocks`]).
//!
//! An error before the block has its name leaves head and log as they were, and no block. A block
//! that has it is a cut, and is told of as one, though the log cannot take the record: it may wait
//! for room, which is made by letting go of what is in blocks.
//!
//! ## Slices
//! The head is never borrowed across an await. Each slice takes some ten microseconds; between two
//! the core does other work. Beside what the index will need, a flush holds twelve bytes per
//! series, one series' chunks, and the buffers of the sink.
//!
//! ## Cancelling
//! Who began a flush drives it to its end, or ends the process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ulid::Ulid;

use crate::block::{self, Meta, MetaDraft, Writer};
use crate::chunk::Chunk;
use crate::model::{External, TenantId, TimeRange, TimeSpan};
use crate::rt::StorageSink;
use crate::rt::step::{self, Step};
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::blocks::{self, Origin};
use crate::shard::cut_plan::Held;
use crate::shard::cuts::Cuts;
use crate::shard::head::read::Copied;
use crate::shard::head::series::Tenant;
use crate::shard::head::{SeriesIndex, TenantIndex};
use crate::shard::wal::record::CutRecord;
use crate::shard::write::Unavailable;
use crate::stdx::sort::Sorter;

/// Series looked at in one slice.
const LOOK_SERIES: usize = 256;
/// Comparisons of label sets in one slice.
const SORT_COMPARISONS: usize = 128;
/// Series written in one slice.
const WRITE_SERIES: usize = 8;

/// How a block shall look.
#[derive(Debug, Clone)]
pub(crate) struct FlushOrder {
    /// What the external labels are made of.
    pub(crate) external: External,
    /// The name of the block, never used before.
    pub(crate) ulid: Ulid,
}

/// A block that is durable, and with it its cut.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flushed {
    /// Whose data.
    pub(crate) tenant: TenantId,
    /// What the shard has of the tenant before this is in blocks.
    pub(crate) end_ms: i64,
    /// Where the block lies.
    pub(crate) dir: PathBuf,
    /// What it says of itself.
    pub(crate) meta: Meta,
}

/// Why a flush was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    /// The shard does one at a time.
    #[error("another flush of this shard is under way")]
    Busy,
    /// Blocks end where ranges end.
    #[error("cannot cut at {end_ms} ms: block ranges end at multiples of two hours")]
    Unaligned {
        /// The end that was asked for.
        end_ms: i64,
    },
    /// The block could not be written. Nothing has changed; it can be tried again.
    #[error("cannot write a block of tenant {tenant}: {source}")]
    Block {
        /// Whose.
        tenant: TenantId,
        /// Why.
        source: block::Error,
    },
    /// The log takes nothing: no block was written.
    #[error("cannot log the cut of tenant {tenant} at {end_ms} ms: {reason}")]
    Log {
        /// Whose.
        tenant: TenantId,
        /// Where.
        end_ms: i64,
        /// Why.
        reason: Unavailable,
    },
}

/// Whether a flush is under way, and what earlier ones have left.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    taken: Cell<bool>,
    /// Directories of blocks that failed and could not be removed, by tenant.
    left: RefCell<BTreeMap<TenantId, PathBuf>>,
}

struct MyTurn<'t>(&'t Turn);

impl Turn {
    fn take(&self) -> Result<MyTurn<'_>, FlushError> {
        if self.taken.replace(true) { Err(FlushError::Busy) } else { Ok(MyTurn(self)) }
    }
}

impl Drop for MyTurn<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
    }
}

/// Series with samples in a stretch of time, and the first and last time among them.
struct Found {
    series: Vec<SeriesIndex>,
    oldest: i64,
    newest: i64,
}

/// Labels of one series, copied out of the head.
#[derive(Default)]
struct Text {
    bytes: String,
    ends: Vec<(usize, usize)>,
}

impl Text {
    fn fill<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)>) {
        self.bytes.clear();
        self.ends.clear();
        for (name, value) in labels {
            self.bytes.push_str(name);
            let middle = self.bytes.len();
            self.bytes.push_str(value);
            self.ends.push((middle, self.bytes.len()));
        }
    }

    fn pairs(&self) -> Vec<(&str, &str)> {
        let mut from = 0;
        let pair = |&(middle, end): &(usize, usize)| {
            let pair = (&self.bytes[from..middle], &self.bytes[middle..end]);
            from = end;
            pair
        };
        self.ends.iter().map(pair).collect()
    }
}

/// What there is of a tenant, for who plans the cuts.
pub(super) fn held_of(tenant: &Tenant, cuts: &Cuts) -> Held {
    let covered_ms = cuts.covered_below(&tenant.id);
    let empty = tenant.oldest_ms > tenant.newest_ms || tenant.newest_ms < covered_ms;
    Held {
        // What is covered may still lie in the head.
        oldest_ms: if empty { i64::MAX } else { tenant.oldest_ms.max(covered_ms) },
        newest_ms: tenant.newest_ms,
        cut_ms: tenant.cut_ms,
        covered_ms,
        accepted: tenant.samples,
    }
}

impl<S: Storage> Shard<S> {
    /// Refuses samples of a tenant before `end_ms` from now on. Not logged: it is only said so that
    /// nothing joins a range while it is flushed.
    pub(crate) fn cut(&self, tenant: &TenantId, end_ms: i64) {
        let mut state = self.state.borrow_mut();
        let index = state.applier.tenant(tenant);
        let owner = &mut state.applier.head.tenants[index as usize];
        owner.cut_ms = owner.cut_ms.max(end_ms);
    }

    /// Writes the oldest range of a tenant that has samples before `end_ms` as a block, and logs
    /// the cut. `None` when there is no such sample any more: then the cut at `end_ms` is logged.
    /// So it is called until nothing is held before `end_ms`, with a new ULID each time.
    pub(crate) async fn flush(
        &self,
        tenant: &TenantId,
        end_ms: i64,
        order: &FlushOrder,
    ) -> Result<Option<Flushed>, FlushError> {
        if TimeRange::aligned(end_ms).start != end_ms {
            return Err(FlushError::Unaligned { end_ms });
        }
        let _turn = self.turn.take()?;
        // Without a log there is no cut, and a block without a cut would be written for ever.
        if let Some(reason) = self.log_failure() {
            return Err(FlushError::Log { tenant: tenant.clone(), end_ms, reason });
        }
        let left = self.turn.left.borrow().get(tenant).cloned();
        if let Some(dir) = left {
            self.undo(tenant, &dir).await?;
        }
        self.cut(tenant, end_ms);
        let (index, covered) = {
            let mut state = self.state.borrow_mut();
            (state.applier.tenant(tenant), state.cuts.covered_below(tenant))
        };
        if covered >= end_ms {
            return Ok(None);
        }
        let found = self.series_between(index, covered, end_ms).await;
        if found.series.is_empty() {
            self.log_and_note(tenant, end_ms, Ulid::nil()).await?;
            return Ok(None);
        }
        let range = TimeRange::aligned(found.oldest);
        // Behind the last range there is nothing up to the end: one cut covers both.
        let (series, cut_ms) = if found.newest < range.end {
            (found.series, end_ms)
        } else {
            (self.series_between(index, range.start, range.end).await.series, range.end)
        };
        let sorted = self.sort(&series).await;
        let dir = blocks::block_dir(&self.root, tenant, order.ulid);
        let written = self.write_block((&series, &sorted), range, tenant, order, &dir).await;
        let meta = match written {
            Ok(meta) => meta,
            Err(source) => {
                if let Err(error) = self.undo(tenant, &dir).await {
                    tracing::warn!(%error, "a block that failed goes before the next flush");
                }
                return Err(FlushError::Block { tenant: tenant.clone(), source });
            }
        };
        // Who waited here for room would hold up those who make some.
        if let Err(error) = self.log_and_note(tenant, cut_ms, order.ulid).await {
            tracing::warn!(block = %order.ulid, %error, "a block stands for its cut");
        }
        Ok(Some(Flushed { tenant: tenant.clone(), end_ms: cut_ms, dir, meta }))
    }

    /// Finds the series of a tenant with samples in `[from, end)`.
    async fn series_between(&self, tenant: TenantIndex, from: i64, end: i64) -> Found {
        let mut found = Found { series: Vec::new(), oldest: i64::MAX, newest: i64::MIN };
        let _pin = self.pins.read();
        let members = self.state.borrow().applier.head.tenants[tenant as usize].members.clone();
        let mut at = 0;
        loop {
            {
                let state = self.state.borrow();
                let head = &state.applier.head;
                for &index in members.from(at).iter().take(LOOK_SERIES) {
                    at += 1;
                    if let Some(extent) = head.extent(index, from, end) {
                        found.series.push(index);
                        found.oldest = found.oldest.min(extent.min);
                        found.newest = found.newest.max(extent.max);
                    }
                }
                if at == members.len() {
                    return found;
                }
            }
            self.storage.pause().await;
        }
    }

    /// The positions in `series`, in the order of the series' labels.
    async fn sort(&self, series: &[SeriesIndex]) -> Vec<u32> {
        let mut sorter = Sorter::new(series.len() as u32);
        loop {
            let step = {
                let state = self.state.borrow();
                let head = &state.applier.head;
                sorter.step(SORT_COMPARISONS, |a, b| {
                    head.compare_labels(series[a as usize], series[b as usize])
                })
            };
            if let Some(sorted) = step {
                return sorted;
            }
            self.storage.pause().await;
        }
    }

    async fn write_block(
        &self,
        (series, sorted): (&[SeriesIndex], &[u32]),
        range: TimeRange,
        tenant: &TenantId,
        order: &FlushOrder,
        dir: &Path,
    ) -> Result<Meta, block::Error> {
        let slots = self.state.borrow().applier.slots;
        let origin =
            Origin { node: self.node, shard: self.shard, generation: self.generation, slots };
        let labels = order.external.of(tenant, self.shard);
        let mut draft = MetaDraft::fresh(order.ulid, range, labels);
        draft.extensions = origin.to_extensions();
        let sink = StorageSink::create(self.storage.clone(), dir).await;
        let sink = sink.map_err(|source| {
            let (action, path) = ("create", dir.display().to_string());
            block::Error::Io { action, path, source }
        })?;
        step::done(Step::BlockBegun);
        let mut writer = Writer::new(sink, draft);
        let span = TimeSpan { min: range.start, max: range.end - 1 };
        let (mut copied, mut text) = (Copied::default(), Text::default());
        for (done, &position) in sorted.iter().enumerate() {
            if done % WRITE_SERIES == 0 {
                self.storage.pause().await;
            }
            let index = series[position as usize];
            let mut rest = {
                let mut state = self.state.borrow_mut();
                let head = &mut state.applier.head;
                text.fill(head.labels(index));
                head.copy_chunks(index, span, &mut copied)
            };
            while let Some(more) = rest {
                self.storage.pause().await;
                let head = &mut self.state.borrow_mut().applier.head;
                rest = head.copy_rest(index, span, more, &mut copied);
            }
            let chunks: Vec<Chunk<'_>> = copied.iter().collect();
            writer.add(&text.pairs(), &chunks).await?;
        }
        step::done(Step::BlockFilled);
        let (meta, _) = writer.finish().await?;
        Ok(meta)
    }

    /// Removes a block that failed, as far as it has come. Until that is done its tenant's data is
    /// not flushed: it may have its name, and then the same samples would be in two blocks.
    async fn undo(&self, tenant: &TenantId, dir: &Path) -> Result<(), FlushError> {
        self.turn.left.borrow_mut().insert(tenant.clone(), dir.to_owned());
        StorageSink::abandon(&self.storage, dir).await.map_err(|source| {
            let (action, path) = ("remove", dir.display().to_string());
            let source = block::Error::Io { action, path, source };
            FlushError::Block { tenant: tenant.clone(), source }
        })?;
        self.turn.left.borrow_mut().remove(tenant);
        Ok(())
    }

    pub(super) async fn log_and_note(
        &self,
        tenant: &TenantId,
        end_ms: i64,
        block: Ulid,
    ) -> Result<(), FlushError> {
        let slots = self.state.borrow().applier.slots;
        let name = tenant.as_str().into();
        let record = CutRecord { tenant: name, end_ms, block, slots: slots.to_bytes() };
        self.state.borrow_mut().commits.cutting += 1;
        let logged = self.log_cuts(&[record]).await;
        if logged.is_ok() {
            step::done(Step::CutLogged);
        }
        // Also when the log died over it: a published block is a cut by itself, which the next
        // start finds, and nothing may be written a second time until then.
        if logged.is_ok() || !block.is_nil() {
            let told_in = logged.ok();
            self.state.borrow_mut().cuts.note(tenant, &slots, end_ms, told_in);
        }
        self.state.borrow_mut().commits.cutting -= 1;
        self.shrink.raise();
        let failed = |reason| FlushError::Log { tenant: tenant.clone(), end_ms, reason };
        logged.map(drop).map_err(failed)
    }
}
