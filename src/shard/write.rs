//! What a shard is asked to write, and what it answers.
//!
//! A batch is the part of one request that one shard is home to. It borrows the request's decoded
//! buffer by loan and gives it back before it waits for the log.

use std::ops::Range;

use crate::model::{Sample, TenantId};
use crate::rt::channel::mpsc;
use crate::rt::mesh::Loan;
pub use crate::shard::head::Refusal;

/// Samples of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Keyed hash of tenant and label region.
    pub key: u128,
    /// The label region, in the batch's bytes.
    pub region: Range<u32>,
    /// The samples, in the batch's samples; in the order they came.
    pub samples: Range<u32>,
}

/// The part of a request for one shard.
#[derive(Debug)]
pub struct Batch {
    /// Whose data.
    pub tenant: TenantId,
    /// The series.
    pub items: Vec<Item>,
    /// The samples of all of them.
    pub samples: Vec<Sample>,
    /// What the regions point into.
    pub bytes: Loan,
    /// Newest sample time that is accepted, in milliseconds.
    pub max_t: i64,
    /// Whether a shard has found these labels spelt otherwise and has sent them on.
    pub forwarded: bool,
    /// Where the answer goes, once all of it is durable.
    pub reply: mpsc::UnboundedSender<Written>,
}

impl Batch {
    /// A batch of the same request with nothing in it yet, over other bytes.
    pub(crate) fn empty_like(&self, bytes: Loan) -> Self {
        Self {
            tenant: self.tenant.clone(),
            items: Vec::new(),
            samples: Vec::new(),
            bytes,
            max_t: self.max_t,
            forwarded: true,
            reply: self.reply.clone(),
        }
    }
}

/// Why a series is not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadSeries {
    /// Its labels are no label set.
    Labels(crate::decode::region::LabelError),
}

/// A sample that was refused, to be shown to the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSample {
    /// Why.
    pub reason: Refusal,
    /// The label region of its series.
    pub region: Vec<u8>,
    /// The sample.
    pub sample: Sample,
    /// First and last time that would have been accepted by the bounds.
    pub bounds: (i64, i64),
}

/// What a shard wrote of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Samples that are new.
    pub stored: u64,
    /// Samples that were there before, exactly.
    pub duplicates: u64,
    /// Samples refused, by [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// The first of them.
    pub first_refused: Option<RefusedSample>,
    /// Series whose labels are no label set, and their samples.
    pub bad_series: u64,
    /// Samples of these series.
    pub bad_series_samples: u64,
    /// The first of them.
    pub first_bad: Option<BadSeries>,
    /// Series whose labels had to be sorted or had empty values dropped.
    pub repaired: u64,
    /// Batches sent on to other shards: each of them answers for itself.
    pub sent_on: u32,
    /// Whether the shard could not write: nothing here is promised, the sender must come again.
    pub unavailable: Option<Unavailable>,
}

/// Why a shard cannot write now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Another shard had no room for what belongs to it.
    NoRoom,
    /// The log is dead.
    LogFailed,
    /// The process is stopping.
    Stopping,
}

impl Written {
    /// Adds another shard's answer.
    pub fn merge(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum += more;
        }
        self.first_refused = self.first_refused.take().or(other.first_refused);
        self.bad_series += other.bad_series;
        self.bad_series_samples += other.bad_series_samples;
        self.first_bad = self.first_bad.take().or(other.first_bad);
        self.repaired += other.repaired;
        self.sent_on += other.sent_on;
        self.unavailable = self.unavailable.or(other.unavailable);
    }

    /// Whether everything was written.
    pub fn is_clean(&self) -> bool {
        self.refused == [0; Refusal::ALL.len()]
            && self.bad_series == 0
            && self.unavailable.is_none()
    }
}
