//! Up to when each tenant's data is in finished blocks, slot by slot.
//!
//! A cut speaks of the slots its shard owned. Under another number of shards a shard may own slots
//! that were cut and slots that were not; a replay skips exactly the samples that a block has.

use std::collections::BTreeMap;

use ulid::Ulid;

use crate::model::TenantId;
use crate::shard::slots::{SLOTS, SlotSet};
use crate::shard::wal::record::CutRecord;

/// The cuts a shard knows, for its own slots.
#[derive(Debug, Clone)]
pub(crate) struct Cuts {
    slots: SlotSet,
    ends: BTreeMap<TenantId, Box<[i64; SLOTS]>>,
}

impl Cuts {
    /// No cuts, for the slots of a shard.
    pub(crate) fn new(slots: SlotSet) -> Self {
        Self { slots, ends: BTreeMap::new() }
    }

    /// Notes a cut. A later one stands. Whether it went further than what was known.
    pub(crate) fn note(&mut self, tenant: &TenantId, slots: &SlotSet, end_ms: i64) -> bool {
        let ends = self.ends.entry(tenant.clone()).or_insert_with(|| Box::new([i64::MIN; SLOTS]));
        let mut further = false;
        for slot in slots.iter().filter(|&slot| self.slots.contains(slot)) {
            let end = &mut ends[usize::from(slot)];
            further |= end_ms > *end;
            *end = end_ms.max(*end);
        }
        further
    }

    /// Up to when a tenant's samples are in finished blocks, by slot; `None` before its first cut.
    pub(crate) fn ends(&self, tenant: &TenantId) -> Option<&[i64; SLOTS]> {
        self.ends.get(tenant).map(|ends| &**ends)
    }

    /// The end of the latest cut of a tenant: what lies before is refused.
    pub(crate) fn latest(&self, tenant: &TenantId) -> i64 {
        self.over_own_slots(tenant).max().unwrap_or(i64::MIN)
    }

    /// Before this, all of a tenant's data in these slots is in blocks.
    pub(crate) fn covered_below(&self, tenant: &TenantId) -> i64 {
        self.over_own_slots(tenant).min().unwrap_or(i64::MIN)
    }

    fn over_own_slots(&self, tenant: &TenantId) -> impl Iterator<Item = i64> {
        let ends = self.ends.get(tenant);
        ends.into_iter().flat_map(|ends| self.slots.iter().map(|s| ends[usize::from(s)]))
    }

    /// The cuts as records, to be told again before the segments that hold them go.
    pub(crate) fn records(&self) -> Vec<CutRecord> {
        let mut records = Vec::new();
        for (tenant, ends) in &self.ends {
            let mut by_end: BTreeMap<i64, SlotSet> = BTreeMap::new();
            for slot in self.slots.iter() {
                by_end.entry(ends[usize::from(slot)]).or_default().insert(slot);
            }
            by_end.remove(&i64::MIN);
            records.extend(by_end.into_iter().map(|(end_ms, slots)| CutRecord {
                tenant: tenant.as_str().into(),
                end_ms,
                block: Ulid::nil(),
                slots: slots.to_bytes(),
            }));
        }
        records
    }

    /// The tenants that were ever cut.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.ends.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_were_not_cut_stay() {
        let tenant = TenantId::new("t").expect("a tenant");
        let mut cuts = Cuts::new(SlotSet::of_shard(0, 1));
        assert_eq!((cuts.latest(&tenant), cuts.covered_below(&tenant)), (i64::MIN, i64::MIN));
        assert!(cuts.note(&tenant, &SlotSet::of_shard(0, 2), 100));
        assert_eq!(cuts.ends(&tenant).map(|ends| (ends[2], ends[3])), Some((100, i64::MIN)));
        assert_eq!((cuts.latest(&tenant), cuts.covered_below(&tenant)), (100, i64::MIN));
        assert!(cuts.note(&tenant, &SlotSet::of_shard(1, 2), 200));
        assert!(!cuts.note(&tenant, &SlotSet::of_shard(1, 2), 150));
        assert_eq!((cuts.latest(&tenant), cuts.covered_below(&tenant)), (200, 100));
        let mut again = Cuts::new(SlotSet::of_shard(0, 1));
        for record in cuts.records() {
            again.note(&tenant, &SlotSet::from_bytes(record.slots), record.end_ms);
        }
        assert_eq!(again.ends, cuts.ends);
    }
}
