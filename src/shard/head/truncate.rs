//! What leaves the head when a range is in finished blocks.

use crate::shard::head::closed::ClosedRef;
use crate::shard::head::members::Members;
use crate::shard::head::series::{Head, SeriesIndex, TenantIndex};

impl Head {
    /// Closes the open chunk of a series if it began before `end`: from the cut on, no sample
    /// before `end` is accepted, so the chunk is complete.
    pub(crate) fn close_before(&mut self, index: SeriesIndex, end: i64) {
        let hot = &self.hot[index as usize];
        if hot.open.count() > 0 && hot.min_t < end {
            self.close_chunk(index);
        }
    }

    /// Drops the samples of a series before `end`. The series stays, empty if nothing is left.
    pub(crate) fn drop_before(&mut self, index: SeriesIndex, end: i64) {
        self.close_before(index, end);
        let cold = &mut self.cold[index as usize];
        let chunks = self.closed.len();
        cold.closed = self.closed.drop_before(cold.closed, end);
        self.tenants[cold.tenant as usize].chunks -= chunks - self.closed.len();
    }

    /// Drops the samples of a series before `end`; takes the series out when nothing is left: it is
    /// to be [released](Head::release) when nobody can remember it.
    /// Returns the time of its oldest sample if it stays.
    pub(crate) fn truncate_series(&mut self, index: SeriesIndex, end: i64) -> Option<i64> {
        self.drop_before(index, end);
        let kept = self.cold[index as usize].closed;
        let hot = &self.hot[index as usize];
        if kept == ClosedRef::NONE && hot.open.count() == 0 {
            self.remove(index);
            return None;
        }
        let mut oldest = if hot.open.count() > 0 { hot.min_t } else { i64::MAX };
        let mut link = kept;
        while let Some(chunk) = self.closed.chunk(link) {
            oldest = chunk.min_t;
            link = chunk.before;
        }
        Some(oldest)
    }

    /// Ends a truncation of a tenant: all its series are now `kept`.
    pub(crate) fn end_truncation(
        &mut self,
        tenant: TenantIndex,
        kept: Vec<SeriesIndex>,
        oldest_ms: i64,
    ) {
        let owner = &mut self.tenants[tenant as usize];
        owner.members = Members::new(kept);
        owner.oldest_ms = oldest_ms;
    }
}
