//! What leaves the head when a range is in finished blocks.

use crate::model::TimeSpan;
use crate::shard::head::closed::ClosedRef;
use crate::shard::head::members::Members;
use crate::shard::head::series::{Head, SeriesIndex, TenantIndex};

impl Head {
    /// Closes the open chunk of a series if it began before `end`: from the cut on, no sample
    /// before `end` is accepted, so the chunk is complete.
    pub(crate) fn close_before(&mut self, index: SeriesIndex, end: i64) {
        if self.open_span(index).is_some_and(|open| open.min < end) {
            self.close_chunk(index);
        }
    }

    /// Drops the samples of a series before `end`. The series stays, empty if nothing is left.
    pub(crate) fn drop_before(&mut self, index: SeriesIndex, end: i64) {
        self.close_before(index, end);
        self.out_of_order.drop_before(index, end);
        let cold = &mut self.cold[index as usize];
        let chunks = self.closed.len();
        cold.closed = self.closed.drop_before(cold.closed, end);
        self.tenants[cold.tenant as usize].chunks -= chunks - self.closed.len();
    }

    /// Drops the samples of a series before `end`; takes the series out when nothing is left.
    /// Returns the time of its oldest sample if it stays.
    fn truncate_series(&mut self, index: SeriesIndex, end: i64) -> Option<i64> {
        self.drop_before(index, end);
        let kept = self.cold[index as usize].closed;
        let open = self.open_span(index);
        let mut others = self.out_of_order.chunks(index, TimeSpan::ALL);
        let other = others.next().map(|chunk| chunk.min_t);
        drop(others);
        if kept == ClosedRef::NONE && open.is_none() && other.is_none() {
            self.remove(index);
            return None;
        }
        let mut oldest = open.map_or(i64::MAX, |open| open.min);
        let mut link = kept;
        while let Some(chunk) = self.closed.chunk(link) {
            oldest = chunk.min_t;
            link = chunk.before;
        }
        Some(other.map_or(oldest, |t| t.min(oldest)))
    }
}

/// A pass over the series of a tenant that drops their samples before a time, in slices. Series
/// that are made meanwhile come in at the end and are looked at, too.
#[derive(Debug)]
pub(crate) struct Truncation {
    tenant: TenantIndex,
    end: i64,
    members: Members,
    at: usize,
    kept: Vec<SeriesIndex>,
    oldest_ms: i64,
    /// Series that were taken out, to be [released](Head::release) when nobody can remember them.
    pub(crate) removed: Vec<SeriesIndex>,
}

impl Truncation {
    /// Nothing is dropped yet.
    pub(crate) fn begin(head: &mut Head, tenant: TenantIndex, end: i64) -> Self {
        let owner = &mut head.tenants[tenant as usize];
        owner.oldest_since_ms = i64::MAX;
        let members = owner.members.clone();
        let (kept, removed) = (Vec::new(), Vec::new());
        Self { tenant, end, members, at: 0, kept, oldest_ms: i64::MAX, removed }
    }

    /// Looks at so many series more. Whether that was all.
    pub(crate) fn slice(&mut self, head: &mut Head, series: usize) -> bool {
        for &index in self.members.from(self.at).iter().take(series) {
            self.at += 1;
            if let Some(t) = head.truncate_series(index, self.end) {
                self.kept.push(index);
                self.oldest_ms = self.oldest_ms.min(t);
            } else {
                self.removed.push(index);
            }
        }
        if self.at < self.members.len() {
            return false;
        }
        let owner = &mut head.tenants[self.tenant as usize];
        owner.members = Members::new(std::mem::take(&mut self.kept));
        owner.oldest_ms = self.oldest_ms.min(owner.oldest_since_ms);
        true
    }
}
