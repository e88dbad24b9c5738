//! When a tenant's oldest range becomes blocks. Pure: what is known goes in, the next cut comes out.
//!
//! A range is cut once for all shards, when the tenant's newest accepted sample is an hour past its
//! end; or, so that a tenant that went silent does not stay in memory for ever, when nothing was
//! accepted for an hour and the wall clock is an hour past its end. Silence is measured on the
//! monotonic clock: a step of the wall clock neither cuts a busy tenant nor deletes anything.

use std::collections::BTreeMap;

use crate::model::{TenantId, TimeRange};
use crate::shard::message::Stats;

/// How long a range stays open for late samples, and how long a silent tenant is waited for.
const GRACE_MS: i64 = 60 * 60 * 1000;

/// A range to cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Whose.
    pub(super) tenant: TenantId,
    /// Its end: samples before go into blocks.
    pub(super) end_ms: i64,
}

/// What is known of a tenant over all shards.
#[derive(Debug, Clone, Copy)]
struct Known {
    oldest_ms: i64,
    newest_ms: i64,
    samples: u64,
}

/// Watches the tenants.
#[derive(Debug, Default)]
pub(super) struct CutPlan {
    /// Samples accepted by a tenant, and when that number was seen first.
    accepted: BTreeMap<TenantId, (u64, i64)>,
}

impl CutPlan {
    /// The cuts that are due. `stats` are the shards', `now_ms` is monotonic, `wall_ms` is not.
    pub(super) fn due<'a>(
        &mut self,
        stats: impl IntoIterator<Item = &'a Stats>,
        now_ms: i64,
        wall_ms: i64,
    ) -> Vec<Due> {
        let mut tenants: BTreeMap<&TenantId, Known> = BTreeMap::new();
        for tenant in stats.into_iter().flat_map(|s| &s.tenants) {
            let empty = Known { oldest_ms: i64::MAX, newest_ms: i64::MIN, samples: 0 };
            let known = tenants.entry(&tenant.tenant).or_insert(empty);
            known.oldest_ms = known.oldest_ms.min(tenant.min_t);
            known.newest_ms = known.newest_ms.max(tenant.max_t);
            known.samples += tenant.samples_appended;
        }
        let mut due = Vec::new();
        for (tenant, known) in tenants {
            let seen = self.accepted.entry(tenant.clone()).or_insert((known.samples, now_ms));
            if seen.0 != known.samples {
                *seen = (known.samples, now_ms);
            }
            if known.oldest_ms == i64::MAX {
                continue;
            }
            let end_ms = TimeRange::aligned(known.oldest_ms).end;
            let passed = |t: i64| t >= end_ms.saturating_add(GRACE_MS);
            let silent = now_ms - seen.1 >= GRACE_MS;
            if passed(known.newest_ms) || (silent && passed(wall_ms)) {
                due.push(Due { tenant: tenant.clone(), end_ms });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::message::TenantStats;

    const HOUR: i64 = 3_600_000;

    fn stats(min_t: i64, max_t: i64, samples_appended: u64) -> Stats {
        let tenant = TenantId::new("t").expect("a tenant");
        let chunks = 1;
        let one = TenantStats { tenant, series: 1, min_t, max_t, chunks, samples_appended };
        Stats { tenants: vec![one] }
    }

    fn ends(due: &[Due]) -> Vec<i64> {
        due.iter().map(|d| d.end_ms).collect()
    }

    #[test]
    fn data_cuts_when_it_is_an_hour_past_the_range() {
        let mut plan = CutPlan::default();
        let wall = 100 * HOUR;
        for (newest, want) in [
            (2 * HOUR, vec![]),
            (3 * HOUR - 1, vec![]),
            (3 * HOUR, vec![2 * HOUR]),
            (9 * HOUR, vec![2 * HOUR]),
        ] {
            assert_eq!(ends(&plan.due([&stats(5, newest, 1)], 0, wall)), want, "{newest}");
        }
        let shards = [stats(5, 10, 1), stats(HOUR, 3 * HOUR, 1)];
        assert_eq!(ends(&plan.due(&shards, 0, wall)), [2 * HOUR], "over all shards");
        assert_eq!(ends(&plan.due([&stats(i64::MAX, i64::MIN, 0)], 0, wall)), []);
    }

    #[test]
    fn a_silent_tenant_is_cut_by_the_wall_clock_and_a_busy_one_is_not() {
        let mut plan = CutPlan::default();
        assert_eq!(ends(&plan.due([&stats(5, 10, 1)], 0, 10)), []);
        // The wall clock steps a year ahead.
        assert_eq!(ends(&plan.due([&stats(5, 10, 1)], 1000, 9000 * HOUR)), []);
        assert_eq!(ends(&plan.due([&stats(5, 10, 2)], HOUR - 1, 9000 * HOUR)), []);
        assert_eq!(ends(&plan.due([&stats(5, 10, 2)], 2 * HOUR - 2, 9000 * HOUR)), []);
        assert_eq!(ends(&plan.due([&stats(5, 10, 2)], 2 * HOUR, 9000 * HOUR)), [2 * HOUR]);
        // Silent, but the wall clock is not past the range.
        assert_eq!(ends(&plan.due([&stats(5, 10, 2)], 9 * HOUR, 3 * HOUR - 1)), []);
    }
}
