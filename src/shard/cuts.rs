//! Up to when each tenant's data is in finished blocks, slot by slot.
//!
//! A cut speaks of the slots its shard owned. Under another number of shards a shard may own slots
//! that were cut and slots that were not; a replay skips exactly the samples that a block has.

use std::collections::BTreeMap;
use std::ops::Bound;

use ulid::Ulid;

use crate::model::TenantId;
use crate::shard::slots::{SLOTS, SlotSet};
use crate::shard::wal::record::CutRecord;

/// The cuts of a tenant as records, to be told again before the segments that hold them go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Retold {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// The first segment that may hold what must be told before it goes.
    pub(crate) told_in: u64,
    version: u32,
    /// One for each end.
    pub(crate) records: Vec<CutRecord>,
}

/// What is known of a tenant's cuts.
#[derive(Debug, Clone)]
struct Ends {
    by_slot: Box<[i64; SLOTS]>,
    /// The least and the greatest of them in the shard's own slots.
    covered_below: i64,
    latest: i64,
    /// The first segment of the log that may hold a record of them that is needed.
    told_in: u64,
    /// Whether one of them is in no log, because a block alone tells of it.
    untold: bool,
    /// How often one went further than what was known.
    version: u32,
}

/// In no segment.
const NOWHERE: u64 = u64::MAX;

/// The cuts a shard knows, for its own slots.
///
/// None is ever forgotten: a cut is what refuses samples that a block has, when the head has let go
/// of them, and also when the block is in the bucket alone.
#[derive(Debug, Clone)]
pub(crate) struct Cuts {
    slots: SlotSet,
    ends: BTreeMap<TenantId, Ends>,
}

impl Cuts {
    /// No cuts, for the slots of a shard.
    pub(crate) fn new(slots: SlotSet) -> Self {
        Self { slots, ends: BTreeMap::new() }
    }

    /// Notes a cut. A later one stands. Its record is in no segment of the shard's log before
    /// `told_in`, and in none at all when that is none. Whether it went further than what was
    /// known.
    pub(crate) fn note(
        &mut self,
        tenant: &TenantId,
        slots: &SlotSet,
        end_ms: i64,
        told_in: Option<u64>,
    ) -> bool {
        let ends = self.ends.entry(tenant.clone()).or_insert_with(|| Ends {
            by_slot: Box::new([i64::MIN; SLOTS]),
            covered_below: i64::MIN,
            latest: i64::MIN,
            told_in: NOWHERE,
            untold: false,
            version: 0,
        });
        let (mut further, mut least) = (false, i64::MAX);
        for slot in self.slots.iter() {
            let end = &mut ends.by_slot[usize::from(slot)];
            if slots.contains(slot) && end_ms > *end {
                (*end, further) = (end_ms, true);
            }
            least = least.min(*end);
        }
        ends.covered_below = least;
        ends.latest = ends.latest.max(end_ms);
        if !further {
            return false;
        }
        ends.version = ends.version.wrapping_add(1);
        if least == ends.latest {
            // Nothing of what was told before is needed beside it.
            (ends.told_in, ends.untold) = (NOWHERE, false);
        }
        ends.told_in = ends.told_in.min(told_in.unwrap_or(NOWHERE));
        ends.untold |= told_in.is_none();
        true
    }

    /// Up to when a tenant's samples are in finished blocks, by slot; `None` before its first cut.
    pub(crate) fn ends(&self, tenant: &TenantId) -> Option<&[i64; SLOTS]> {
        self.ends.get(tenant).map(|ends| &*ends.by_slot)
    }

    /// The end of the latest cut of a tenant: what lies before is refused.
    pub(crate) fn latest(&self, tenant: &TenantId) -> i64 {
        self.ends.get(tenant).map_or(i64::MIN, |ends| ends.latest)
    }

    /// Before this, all of a tenant's data in these slots is in blocks.
    pub(crate) fn covered_below(&self, tenant: &TenantId) -> i64 {
        self.ends.get(tenant).map_or(i64::MIN, |ends| ends.covered_below)
    }

    /// Looks at so many tenants behind `last`: who has a cut that a segment up to `segment` may
    /// hold or that no log tells of, and the records of all his cuts. `last` becomes the last one
    /// looked at; none when there are no more.
    pub(crate) fn to_tell(
        &self,
        segment: u64,
        last: &mut Option<TenantId>,
        most: usize,
    ) -> Vec<Retold> {
        let behind = last.take();
        let behind = behind.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut to_tell = Vec::new();
        for (at, (tenant, ends)) in self.ends.range((behind, Bound::Unbounded)).enumerate() {
            if ends.untold || ends.told_in <= segment {
                let (tenant, records) = (tenant.clone(), self.records(tenant, ends));
                let Ends { told_in, version, .. } = *ends;
                to_tell.push(Retold { tenant, told_in, version, records });
            }
            if at + 1 == most {
                *last = Some(tenant.clone());
                break;
            }
        }
        to_tell
    }

    /// Notes that cuts were told again, and in no segment before this. If one went further
    /// meanwhile, they are told once more.
    pub(crate) fn told_again(&mut self, told: &Retold, segment: u64) {
        let ends = self.ends.get_mut(&told.tenant);
        if let Some(ends) = ends.filter(|ends| ends.version == told.version) {
            (ends.told_in, ends.untold) = (segment, false);
        }
    }

    fn records(&self, tenant: &TenantId, ends: &Ends) -> Vec<CutRecord> {
        let record = |(end_ms, slots): (i64, SlotSet)| CutRecord {
            tenant: tenant.as_str().into(),
            end_ms,
            block: Ulid::nil(),
            slots: slots.to_bytes(),
        };
        if ends.covered_below == ends.latest {
            return vec![record((ends.latest, self.slots))];
        }
        let mut by_end: BTreeMap<i64, SlotSet> = BTreeMap::new();
        for slot in self.slots.iter() {
            by_end.entry(ends.by_slot[usize::from(slot)]).or_default().insert(slot);
        }
        by_end.remove(&i64::MIN);
        by_end.into_iter().map(record).collect()
    }

    /// The tenants that were ever cut.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.ends.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    #[test]
    fn slots_that_were_not_cut_stay() {
        let tenant = tenant("t");
        let mut cuts = Cuts::new(SlotSet::of_shard(0, 1));
        assert_eq!((cuts.latest(&tenant), cuts.covered_below(&tenant)), (i64::MIN, i64::MIN));
        assert!(cuts.note(&tenant, &SlotSet::of_shard(0, 2), 100, Some(0)));
        assert_eq!(cuts.ends(&tenant).map(|ends| (ends[2], ends[3])), Some((100, i64::MIN)));
        assert_eq!((cuts.latest(&tenant), cuts.covered_below(&tenant)), (100, i64::MIN));
        assert!(cuts.note(&tenant, &SlotSet::of_shard(1, 2), 200, Some(0)));
        assert!(!cuts.note(&tenant, &SlotSet::of_shard(1, 2), 150, Some(0)));
        assert_eq!((cuts.latest(&tenant), cuts.covered_below(&tenant)), (200, 100));
        let mut again = Cuts::new(SlotSet::of_shard(0, 1));
        for record in cuts.to_tell(0, &mut None, 9).into_iter().flat_map(|told| told.records) {
            again.note(&tenant, &SlotSet::from_bytes(record.slots), record.end_ms, Some(0));
        }
        assert_eq!(again.ends(&tenant), cuts.ends(&tenant));
    }

    #[test]
    fn only_what_would_go_is_told_again() {
        let slots = SlotSet::of_shard(0, 1);
        let mut cuts = Cuts::new(slots);
        for (name, told_in) in [("a", Some(0)), ("b", Some(4)), ("c", Some(5)), ("d", None)] {
            cuts.note(&tenant(name), &slots, 100, told_in);
        }
        let told = |cuts: &Cuts, segment| {
            let (mut names, mut last) = (String::new(), None);
            loop {
                let told = cuts.to_tell(segment, &mut last, 1);
                names.extend(told.iter().map(|told| told.tenant.as_str()));
                if last.is_none() {
                    return names;
                }
            }
        };
        assert_eq!([0, 4, 5].map(|segment| told(&cuts, segment)), ["ad", "abd", "abcd"]);
        let told_again = cuts.to_tell(0, &mut None, 9);
        for told in &told_again {
            cuts.told_again(told, 6);
        }
        cuts.note(&tenant("b"), &slots, 200, Some(7));
        assert_eq!([5, 6, 7].map(|segment| told(&cuts, segment)), ["c", "acd", "abcd"]);
        // A part of the slots: both records are needed.
        cuts.note(&tenant("b"), &SlotSet::of_shard(0, 2), 300, Some(9));
        assert_eq!(told(&cuts, 7), "abcd");
        // A block tells of it, and no log.
        cuts.note(&tenant("c"), &slots, 300, None);
        assert_eq!(told(&cuts, 0), "c");
        // What went further meanwhile is not taken for told.
        let told_again = cuts.to_tell(0, &mut None, 9);
        cuts.note(&tenant("c"), &slots, 400, Some(3));
        cuts.told_again(&told_again[0], 8);
        assert_eq!(told(&cuts, 3), "c");
    }
}
