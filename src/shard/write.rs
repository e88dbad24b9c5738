//! What a shard is asked to write, and what it answers.
//!
//! A batch is the part of one request that one shard is home to. It borrows the request's decoded
//! buffer by loan and gives it back before it waits for the log.

use std::ops::Range;

use thiserror::Error;

use crate::decode::BadSeries;
use crate::model::{Sample, TenantId, TimeRange};
use crate::rt::channel::mpsc;
use crate::rt::mesh::Loan;
pub use crate::shard::head::Refusal;

/// One series of a batch, and its samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Keyed hash of tenant and label region.
    pub key: u128,
    /// The label region, in the batch's bytes.
    pub region: Range<u32>,
    /// The samples, in the batch's samples; in the order they came.
    pub samples: Range<u32>,
}

/// A histogram of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemHistogram {
    /// Position of the item in the batch.
    pub item: u32,
    /// Its message, in the batch's bytes.
    pub message: Range<u32>,
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
    /// The histograms of all of them, in the order of the items.
    pub histograms: Vec<ItemHistogram>,
    /// What regions and messages point into.
    pub bytes: Loan,
    /// Newest sample time that is accepted, in milliseconds.
    pub max_t: i64,
    /// How old a sample may be.
    pub past: Past,
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
            histograms: Vec::new(),
            bytes,
            max_t: self.max_t,
            past: self.past,
            reply: self.reply.clone(),
        }
    }
}

/// How old a sample may be: what retention would let go at once is not accepted.
///
/// Old is only what two clocks call old, the machine's and the tenant's own data. A machine that
/// wakes up a year ahead refuses nothing of those who went on sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// The wall clock, in milliseconds.
    pub now_ms: i64,
    /// How long blocks are kept, in milliseconds; none for ever.
    pub keep_ms: Option<i64>,
    /// How much older than its tenant's newest a sample out of order may be, in milliseconds; none
    /// to refuse them.
    pub out_of_order_ms: Option<i64>,
}

impl Past {
    /// No limit: for what is no request of a sender.
    #[cfg(test)]
    pub(crate) const ANY: Self = Self { now_ms: i64::MIN, keep_ms: None, out_of_order_ms: None };

    /// First millisecond that is accepted of a tenant. `newest_ms` is its newest sample, `i64::MIN`
    /// when it is not known to have one: then the wall clock alone decides. It is the beginning of
    /// a block range, and never before 1970 (nor the clock, should that be set earlier).
    pub(crate) fn begins_ms(self, newest_ms: i64) -> i64 {
        let at_least = self.now_ms.min(0);
        let Some(keep_ms) = self.keep_ms else { return at_least };
        let now_ms = if newest_ms == i64::MIN { self.now_ms } else { self.now_ms.min(newest_ms) };
        TimeRange::aligned(now_ms.saturating_sub(keep_ms)).start.max(at_least)
    }

    /// First millisecond that may be older than the newest of its series, in a tenant with this
    /// newest sample; `i64::MAX` when none may.
    pub(crate) fn out_of_order_from(self, newest_ms: i64) -> i64 {
        self.out_of_order_ms.map_or(i64::MAX, |window_ms| newest_ms.saturating_sub(window_ms))
    }
}

/// A sample that was refused, to be shown to the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSample {
    /// The label region of its series.
    pub region: Vec<u8>,
    /// Its time.
    pub t: i64,
    /// Newest time of its series; `i64::MIN` when it has no sample.
    pub newest: i64,
    /// First and last time that would have been accepted by the bounds.
    pub bounds: (i64, i64),
    /// First time that would have been accepted out of order.
    pub window_from: i64,
    /// Most series its tenant may have.
    pub series_max: u64,
}

/// What became of samples of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that are new.
    pub stored: u64,
    /// Those that were there before, exactly.
    pub duplicates: u64,
    /// Those refused, by [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
}

impl Counts {
    /// Those that are stored now, of the request or of an earlier one.
    pub fn written(&self) -> u64 {
        self.stored + self.duplicates
    }

    fn merge(&mut self, other: &Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum += more;
        }
    }
}

/// What a shard wrote of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Float samples.
    pub floats: Counts,
    /// Histograms.
    pub histograms: Counts,
    /// The first refused for each of [`Refusal::ALL`], of either kind.
    pub first_refused: [Option<Box<RefusedSample>>; Refusal::ALL.len()],
    /// Series that cannot be stored, by kind of reason.
    pub bad: Vec<BadSeries>,
    /// Series whose labels had to be sorted or had empty values dropped.
    pub repaired: u64,
    /// Batches sent on to other shards: each of them answers for itself.
    pub sent_on: u32,
    /// Whether the shard could not write: nothing here is promised, the sender must come again.
    pub unavailable: Option<Unavailable>,
}

/// Requests of which a part was turned away, and why.
///
/// A request may be several batches for one shard, and a series may be in two of them: were the
/// later one stored, the sender would repeat the earlier one in vain, as out of order. So what
/// comes after a batch that was turned away is turned away as well.
#[derive(Debug, Default)]
pub struct TurnedAway(Vec<(mpsc::WeakUnboundedSender<Written>, Unavailable)>);

impl TurnedAway {
    /// Whether a batch is turned away: because it cannot be taken `now`, or because an earlier one
    /// of its request was. Then it is answered: its sender must come again with the whole request.
    pub fn turns_away(&mut self, batch: &Batch, now: Option<Unavailable>) -> bool {
        let earlier = self.reason(batch);
        let Some(reason) = now.or(earlier) else { return false };
        if earlier.is_none() {
            self.0.push((batch.reply.downgrade(), reason));
        }
        // Whoever asked may be gone.
        drop(batch.reply.send(Written { unavailable: Some(reason), ..Written::default() }));
        true
    }

    /// Why an earlier batch of this request was turned away, if one was.
    fn reason(&mut self, batch: &Batch) -> Option<Unavailable> {
        if self.0.is_empty() {
            return None;
        }
        // Those that are answered, all of them, do not come again.
        self.0.retain(|(reply, _)| reply.strong_count() > 0);
        let same = |reply: &mpsc::WeakUnboundedSender<Written>| {
            reply.upgrade().is_some_and(|reply| reply.same_channel(&batch.reply))
        };
        self.0.iter().find(|(reply, _)| same(reply)).map(|&(_, reason)| reason)
    }
}

/// Why a shard cannot write now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// No room on the way to another shard, for what belongs to it.
    #[error("the queue to another shard is full")]
    NoRoom,
    /// Samples come faster than the log is written.
    #[error("too much waits to be written to the log")]
    GroupFull,
    /// New series come faster than the series file is written. Those that are known are taken.
    #[error("too many new series wait to be written to the series file")]
    SeriesWait,
    /// Another shard still replays its log.
    #[error("another shard replays its log")]
    Starting,
    /// The log is dead.
    #[error("the log cannot be written")]
    LogFailed,
    /// The log waits for room.
    #[error("the log waits for space on its disk or for file descriptors")]
    LogWaits,
    /// The process is stopping.
    #[error("the process is stopping")]
    Stopping,
}

impl Written {
    /// Adds another shard's answer.
    pub fn merge(&mut self, other: Self) {
        self.floats.merge(&other.floats);
        self.histograms.merge(&other.histograms);
        for (first, theirs) in self.first_refused.iter_mut().zip(other.first_refused) {
            *first = first.take().or(theirs);
        }
        BadSeries::merge(&mut self.bad, other.bad);
        self.repaired += other.repaired;
        self.sent_on += other.sent_on;
        self.unavailable = self.unavailable.or(other.unavailable);
    }

    /// Whether everything was written.
    pub fn is_clean(&self) -> bool {
        self.first_refused.iter().all(Option::is_none)
            && self.bad.is_empty()
            && self.unavailable.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BLOCK_RANGE_MS;

    const NOW: i64 = 240_000 * BLOCK_RANGE_MS + 5;
    const DAY: i64 = 12 * BLOCK_RANGE_MS;
    const YEAR: i64 = 365 * DAY;

    #[test]
    fn only_what_both_clocks_call_old_is_too_old() {
        let past = |now_ms| Past { now_ms, keep_ms: Some(15 * DAY), ..Past::ANY };
        let limit = NOW - 5 - 15 * DAY;
        assert_eq!(past(NOW).begins_ms(i64::MIN), limit, "nothing is known of the tenant");
        assert_eq!(past(NOW).begins_ms(NOW), limit);
        assert_eq!(past(NOW).begins_ms(NOW + YEAR), limit, "data ahead of the clock");
        assert_eq!(past(NOW + YEAR).begins_ms(NOW), limit, "a clock ahead of the data");
        assert_eq!(past(NOW - DAY).begins_ms(NOW), limit - DAY, "a clock behind");
        assert_eq!(past(NOW + BLOCK_RANGE_MS - 6).begins_ms(i64::MIN), limit, "whole ranges");
        assert_eq!(past(NOW + BLOCK_RANGE_MS - 5).begins_ms(i64::MIN), limit + BLOCK_RANGE_MS);
    }

    #[test]
    fn nothing_is_from_before_1970() {
        for keep_ms in [None, Some(100 * YEAR), Some(i64::MAX)] {
            assert_eq!(Past { now_ms: NOW, keep_ms, ..Past::ANY }.begins_ms(i64::MIN), 0);
            assert_eq!(Past { now_ms: NOW, keep_ms, ..Past::ANY }.begins_ms(-NOW), 0);
        }
        let dead_battery = Past { now_ms: -DAY, keep_ms: Some(DAY), ..Past::ANY };
        assert_eq!(dead_battery.begins_ms(i64::MIN), -DAY);
        assert_eq!(Past::ANY.begins_ms(NOW), i64::MIN);
    }
}
