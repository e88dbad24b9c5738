//! What a shard is asked to write, and what it answers.
//!
//! A batch is the part of one request that one shard is home to. It borrows the request's decoded
//! buffer by loan and gives it back before it waits for the log.

use std::ops::Range;

use crate::decode::region::LabelError;
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

/// Series whose labels are no label set, for one kind of reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSeries {
    /// Why, in the words of the first of them.
    pub error: LabelError,
    /// How many series.
    pub series: u64,
    /// Their samples.
    pub samples: u64,
}

/// A sample that was refused, to be shown to the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSample {
    /// The label region of its series.
    pub region: Vec<u8>,
    /// The sample.
    pub sample: Sample,
    /// Newest time of its series; `i64::MIN` when it has no sample.
    pub newest: i64,
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
    /// The first of each.
    pub first_refused: [Option<Box<RefusedSample>>; Refusal::ALL.len()],
    /// Series whose labels are no label set, by kind of reason.
    pub bad: Vec<BadSeries>,
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
    /// The log waits for room.
    LogWaits,
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
        for (first, theirs) in self.first_refused.iter_mut().zip(other.first_refused) {
            *first = first.take().or(theirs);
        }
        for bad in other.bad {
            self.add_bad(bad);
        }
        self.repaired += other.repaired;
        self.sent_on += other.sent_on;
        self.unavailable = self.unavailable.or(other.unavailable);
    }

    /// Counts series with bad labels to those of the same kind.
    pub(crate) fn add_bad(&mut self, bad: BadSeries) {
        let kind = std::mem::discriminant(&bad.error);
        match self.bad.iter_mut().find(|b| std::mem::discriminant(&b.error) == kind) {
            Some(known) => {
                known.series += bad.series;
                known.samples += bad.samples;
            }
            None => self.bad.push(bad),
        }
    }

    /// Whether everything was written.
    pub fn is_clean(&self) -> bool {
        self.refused == [0; Refusal::ALL.len()] && self.bad.is_empty() && self.unavailable.is_none()
    }
}
