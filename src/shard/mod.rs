//! What one core owns: a shard of the series, its log and its head.
//!
//! ```text
//!            write::Batch                          message::Ask
//!                 |                                     |
//!   apply   head <+> open group      select, labels   head (pinned)
//!                 |                                     |
//!   commit   sealed block -> log -> flushed -> answers  |
//!                 |                                     |
//!   flush    closed chunks of a cut range -> block -> cut record -> truncate
//! ```
//!
//! A shard is touched by its own core only: there is no lock here and nothing is shared but the
//! buffers lent by [`crate::rt::mesh`]. Everything runs as tasks of one core; between two awaits a
//! task has the shard to itself.
//!
//! - [`mod@write`], [`message`]: what a shard can be asked.
//! - [`apply`], [`alias`]: a batch meets the head.
//! - [`commit`]: group commit. [`recover`]: from the logs to a head.
//! - [`answer`], [`select`], [`labels`]: reading, in slices; [`keys`], [`budget`], [`pins`]: what a
//!   read holds meanwhile, and whom it holds up.
//! - [`flush`], [`blocks`], [`cut_plan`]: from the head to a block. [`truncation`], [`old`]: what
//!   may go then.
//! - [`cuts`], [`slots`]: what is in blocks, who owns what.
//! - [`head`], [`wal`]: they do not know each other.
//!
//! ## Promises
//! An answer leaves only after a flush that covers every sample it speaks of, or with
//! [`Settings::answers_wait`] off, after the write of it. A sample that was answered for is found
//! after any crash, relaxed after one that leaves the device its power; once.
//!
//! ## Crash
//! A broken invariant in apply, commit, cut or truncate aborts the process: restart and replay are
//! the tested path.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;

use crate::decode::region::LabelLimits;
use crate::model::KeySecret;
use crate::rt::quota::Quotas;
use crate::rt::storage::Storage;
use crate::shard::apply::Applier;
use crate::shard::budget::Budget;
use crate::shard::commit::Commits;
use crate::shard::cuts::Cuts;
use crate::shard::flush::Turn;
use crate::shard::pins::Pins;
use crate::shard::write::TurnedAway;
use crate::stdx::signal::Signal;

pub(crate) mod alias;
pub(crate) mod answer;
pub(crate) mod apply;
pub(crate) mod blocks;
pub(crate) mod budget;
pub(crate) mod commit;
pub mod cut_plan;
pub(crate) mod cuts;
pub(crate) mod flush;
pub(crate) mod head;
pub(crate) mod keys;
pub(crate) mod labels;
pub mod message;
pub(crate) mod old;
pub(crate) mod pins;
pub(crate) mod recover;
pub(crate) mod select;
pub(crate) mod share;
pub mod slots;
pub(crate) mod truncation;
pub(crate) mod wal;
pub mod write;

#[cfg(test)]
mod tests;

pub(crate) use head::out_of_order::CAP as OUT_OF_ORDER_CAP;
pub(crate) use wal::series_file::SeriesFile;
pub(crate) use wal::spare::Spares;
pub(crate) use wal::writer::{Log, SEGMENT_BYTES};

/// Who a shard is and how it behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its number.
    pub shard: u16,
    /// The ways the slots were dealt so far, oldest first; the last one holds now.
    pub generations: Vec<Generation>,
    /// The data directory's number.
    pub node: [u8; 16],
    /// What keys are derived from.
    pub secret: KeySecret,
    /// Limits of label sets.
    pub limits: LabelLimits,
    /// How many series tenants may have on all shards together.
    pub quotas: Quotas,
    /// Most samples of a chunk of floats out of order.
    pub out_of_order_cap: u16,
    /// Whether answers wait for the flush, and not for the write alone.
    pub answers_wait: bool,
    /// Size of a log segment in bytes.
    pub segment_bytes: u64,
    /// Spare segments kept ready.
    pub spare_segments: usize,
    /// Source of epochs: random numbers nobody can guess.
    pub epochs: fn() -> u64,
}

impl Settings {
    /// The way of dealing that holds now.
    pub(crate) fn current(&self) -> io::Result<Generation> {
        let last = self.generations.last().copied();
        last.ok_or_else(|| io::Error::other("no generation of the slot table"))
    }
}

/// A way of dealing the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Its number; later ones are higher.
    pub number: u64,
    /// Among how many shards.
    pub shards: u16,
}

/// One shard. Lives on one core.
#[derive(Debug)]
pub(crate) struct Shard<S: Storage> {
    storage: S,
    /// Its number.
    shard: u16,
    /// Among how many.
    shards: u16,
    /// Generation of the slot table.
    generation: u64,
    /// The data directory, and its number.
    root: PathBuf,
    node: [u8; 16],
    answers_wait: bool,
    state: RefCell<State>,
    /// Raised when there is something to commit.
    work: Signal,
    /// Raised when a truncation is asked for, or many series are to be told to the series file.
    shrink: Signal,
    pins: Pins,
    /// Whose turn it is to flush.
    turn: Turn,
    /// Memory for reads.
    budget: Budget,
}

impl<S: Storage> Shard<S> {
    /// Figures of the log, as of its last commit.
    pub(crate) fn log_stats(&self) -> wal::writer::LogStats {
        self.state.borrow().commits.stats()
    }

    /// Whether writes are taken, or refused for the log's sake.
    pub(crate) fn log_is_writable(&self) -> bool {
        self.state.borrow().commits.is_writable()
    }

    /// Samples out of order that were stored since the start.
    pub(crate) fn out_of_order_samples(&self) -> u64 {
        self.state.borrow().applier.head.out_of_order.stored
    }

    /// Approximate bytes of memory, by part of the head.
    pub(crate) fn memory(&self) -> [(&'static str, usize); 6] {
        self.state.borrow().applier.head.memory()
    }
}

#[derive(Debug)]
struct State {
    applier: Applier,
    commits: Commits,
    cuts: Cuts,
    turned_away: TurnedAway,
}
