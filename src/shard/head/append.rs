//! What becomes of a sample.
//!
//! In order and in bounds it is stored. The very same sample again is a counted success, as long
//! as the head has it and a batch has not asked for too much. So a sender may repeat a request
//! whose answer it did not see. What is older than the newest of its series is stored beside
//! ([`out_of_order`](crate::shard::head::out_of_order)) if there is a window for it. All else is
//! refused by name, and the rest of the request goes on.

use crate::chunk::{Encoding, xor};
use crate::model::{BLOCK_RANGE_MS, STALE_NAN_BITS, Sample};
use crate::shard::head::histograms::{End, is_stale_at};
use crate::shard::head::series::{Head, SeriesIndex};
use crate::shard::head::tail::TailRef;

/// Most samples of a chunk.
pub(crate) const CHUNK_SAMPLES_MAX: u16 = 120;

/// What following a link to the chunk before costs a batch, in bytes read: a miss of the cache.
const LINK_COST_BYTES: usize = 64;

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is new.
    Stored,
    /// It was there before, with the same time and the same bits.
    Duplicate,
    /// It is not stored.
    Refused(Refusal),
}

/// Why a sample is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Another value is stored for that time.
    Conflict,
    /// It is older than the newest of its series, and there is no window.
    OutOfOrder,
    /// It is older than the newest of its series, and than the window.
    TooOld,
    /// It lies before the last cut, so that its range is in finished blocks, or is past retention.
    OutOfBounds,
    /// It lies too far ahead of the clock.
    TooFarInFuture,
    /// Its series would be one more than its tenant may have.
    SeriesLimit,
}

impl Refusal {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Conflict,
        Self::OutOfOrder,
        Self::TooOld,
        Self::OutOfBounds,
        Self::TooFarInFuture,
        Self::SeriesLimit,
    ];
}

/// Times a sample may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// First millisecond allowed: the last cut, or what retention still keeps.
    pub(crate) min_t: i64,
    /// Last millisecond allowed.
    pub(crate) max_t: i64,
    /// First millisecond that may be older than the newest of a series; `i64::MAX` for none.
    pub(crate) out_of_order_from: i64,
}

impl Bounds {
    /// No bounds, for what was in bounds once.
    pub(crate) const ALL: Self =
        Self { min_t: i64::MIN, max_t: i64::MAX, out_of_order_from: i64::MIN };

    /// Whether a sample that is older than the newest of its series may have a time.
    pub(super) fn hold_out_of_order(self, t: i64) -> bool {
        self.min_t <= t && self.out_of_order_from <= t
    }

    /// Whether a time is allowed.
    pub(crate) fn hold(self, t: i64) -> bool {
        self.min_t <= t && t <= self.max_t
    }

    /// Why a time outside is refused.
    pub(crate) fn refusal(self, t: i64) -> Refusal {
        if t > self.max_t { Refusal::TooFarInFuture } else { Refusal::OutOfBounds }
    }
}

impl Head {
    /// Appends a sample to a series.
    #[inline]
    pub(crate) fn append(
        &mut self,
        index: SeriesIndex,
        sample: Sample,
        bounds: Bounds,
    ) -> Appended {
        let hot = &mut self.hot[index as usize];
        let open = hot.open;
        let in_chunk = open.count() > 0
            && open.count() < CHUNK_SAMPLES_MAX
            && sample.t > open.last_t()
            && sample.t <= bounds.max_t
            && open.last_t() >= bounds.min_t
            && same_range(open.last_t(), sample.t);
        if !in_chunk {
            return self.append_slow(index, sample, bounds);
        }
        let mut tail = self.tails.bytes(hot.tail);
        if open.len_bytes() + xor::MAX_SAMPLE_BYTES > tail.len() {
            let Some(grown) = self.tails.grow(hot.tail) else {
                return self.append_slow(index, sample, bounds);
            };
            hot.tail = grown;
            tail = self.tails.bytes(grown);
        }
        hot.open.append(tail, sample.t, sample.bits);
        Appended::Stored
    }

    /// All that is not the next sample of an open chunk.
    #[cold]
    fn append_slow(&mut self, index: SeriesIndex, sample: Sample, bounds: Bounds) -> Appended {
        if sample.t > bounds.max_t {
            return Appended::Refused(Refusal::TooFarInFuture);
        }
        match self.newest_t(index) {
            Some(newest) if sample.t <= newest => {
                return self.append_again(index, sample, bounds);
            }
            _ if sample.t < bounds.min_t => return Appended::Refused(Refusal::OutOfBounds),
            _ => {}
        }
        self.close_chunk(index);
        let tail = self.tails.allocate();
        let hot = &mut self.hot[index as usize];
        hot.tail = tail;
        hot.min_t = sample.t;
        hot.open.append(self.tails.bytes(tail), sample.t, sample.bits);
        let tenant = self.cold[index as usize].tenant;
        self.tenants[tenant as usize].chunks += 1;
        Appended::Stored
    }

    /// A sample not newer than the newest: the same again, or refused.
    fn append_again(&mut self, index: SeriesIndex, sample: Sample, bounds: Bounds) -> Appended {
        let is_stale = sample.bits == STALE_NAN_BITS;
        let known = match (self.newest_float(index), &self.cold[index as usize].end) {
            (Some(newest), _) if newest.t == sample.t => Some(newest.bits == sample.bits),
            (None, End::Open(open)) if open.span().max == sample.t => {
                Some(is_stale && open.is_stale())
            }
            _ => self.look_up(index, sample.t, |encoding, bytes| match encoding {
                Encoding::Xor => value_at(bytes, sample.t).map(|bits| bits == sample.bits),
                // A marker is the same whatever it ends.
                other => is_stale_at(other, bytes, sample.t).map(|known| known && is_stale),
            }),
        };
        if known.is_none() && bounds.hold_out_of_order(sample.t) {
            self.out_of_order.insert(index, sample);
            return Appended::Stored;
        }
        refusal_of(known, sample.t, bounds)
    }

    /// The newest sample of a series, if it is a float.
    fn newest_float(&self, index: SeriesIndex) -> Option<Sample> {
        let open = self.hot[index as usize].open;
        if open.count() > 0 {
            return Some(Sample { t: open.last_t(), bits: open.last_bits() });
        }
        match self.cold[index as usize].end {
            End::Float(sample) => Some(sample),
            End::Nothing | End::Histogram(_) | End::Open(_) => None,
        }
    }

    /// The newest time of a series.
    pub(crate) fn newest_t(&self, index: SeriesIndex) -> Option<i64> {
        let open = self.hot[index as usize].open;
        if open.count() > 0 {
            return Some(open.last_t());
        }
        match &self.cold[index as usize].end {
            End::Nothing => None,
            End::Float(sample) => Some(sample.t),
            End::Histogram(t) => Some(*t),
            End::Open(open) => Some(open.span().max),
        }
    }

    /// What `says` of the chunk that has a sample at a time. In order they are looked for as far
    /// back, and read, as a batch may.
    pub(super) fn look_up<T>(
        &mut self,
        index: SeriesIndex,
        t: i64,
        says: impl Fn(Encoding, &[u8]) -> Option<T>,
    ) -> Option<T> {
        let in_order = self.look_up_in_order(index, t, &says);
        in_order.or_else(|| self.out_of_order.look_up(index, t, &says))
    }

    fn look_up_in_order<T>(
        &mut self,
        index: SeriesIndex,
        t: i64,
        says: impl Fn(Encoding, &[u8]) -> Option<T>,
    ) -> Option<T> {
        let hot = self.hot[index as usize];
        if hot.open.count() > 0 && t >= hot.min_t {
            let tail = self.tails.bytes(hot.tail);
            let len = hot.open.finish(tail);
            return says(Encoding::Xor, &tail[..len]);
        }
        let cold = &mut self.cold[index as usize];
        let (encoding, bytes) = match &mut cold.end {
            End::Open(open) if t >= open.span().min => (open.encoding(), open.finish()),
            _ => {
                let mut chunk = self.closed.chunk(cold.closed)?;
                while t < chunk.min_t {
                    self.repeat_bytes_left = self.repeat_bytes_left.checked_sub(LINK_COST_BYTES)?;
                    chunk = self.closed.chunk(chunk.before)?;
                }
                if chunk.max_t < t {
                    return None;
                }
                (chunk.encoding, chunk.bytes)
            }
        };
        if encoding != Encoding::Xor {
            self.repeat_bytes_left = self.repeat_bytes_left.checked_sub(bytes.len())?;
        }
        says(encoding, bytes)
    }

    /// Closes the open chunk of a series, if there is one.
    pub(crate) fn close_chunk(&mut self, index: SeriesIndex) {
        let hot = &mut self.hot[index as usize];
        let open = std::mem::take(&mut hot.open);
        if open.count() == 0 {
            return self.close_histograms(index);
        }
        let tail = std::mem::replace(&mut hot.tail, TailRef::NONE);
        let span = (hot.min_t, open.last_t());
        let bytes = self.tails.bytes(tail);
        let len = open.finish(bytes);
        let cold = &mut self.cold[index as usize];
        cold.end = End::Float(Sample { t: open.last_t(), bits: open.last_bits() });
        cold.closed =
            self.closed.push(cold.closed, span, open.count(), Encoding::Xor, &bytes[..len]);
        self.tails.free(tail);
    }
}

/// Whether two times lie in one block range; the first is not later than the second.
#[inline]
pub(super) fn same_range(earlier: i64, later: i64) -> bool {
    earlier.div_euclid(BLOCK_RANGE_MS) == later.div_euclid(BLOCK_RANGE_MS)
}

/// What becomes of a sample that is not newer than the newest of its series. `known` is whether
/// the sample that is stored for its time is the same.
pub(super) fn refusal_of(known: Option<bool>, t: i64, bounds: Bounds) -> Appended {
    match known {
        Some(true) => Appended::Duplicate,
        Some(false) => Appended::Refused(Refusal::Conflict),
        None if t < bounds.min_t => Appended::Refused(Refusal::OutOfBounds),
        None if bounds.out_of_order_from == i64::MAX => Appended::Refused(Refusal::OutOfOrder),
        None => Appended::Refused(Refusal::TooOld),
    }
}

/// The value a chunk of floats has at a time.
pub(super) fn value_at(chunk: &[u8], t: i64) -> Option<u64> {
    let samples = xor::Reader::new(chunk).ok()?;
    let hit = samples.map_while(Result::ok).find(|sample| sample.t >= t)?;
    (hit.t == t).then_some(hit.bits)
}
