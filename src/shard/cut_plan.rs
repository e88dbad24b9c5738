//! When which tenant is cut: the rule of the house, without clocks and without I/O.
//!
//! A tenant's data is cut at the end of a block range, for all shards at once, when
//! - its newest accepted sample has passed that end by an hour: what comes late has had its time;
//!   or
//! - it has accepted nothing for an hour, and the wall clock has passed that end by an hour; or
//! - it was cut there before and some slots still hold older samples: after a restart with another
//!   number of shards, or in the middle of a cut.
//!
//! ## Failure
//! A tenant whose cut fails waits, a second at first and twice as long each time up to five minutes,
//! and the others go on: most likely the disk is full, and trying writes to it.
//!
//! ## Clocks
//! Silence is measured on the monotonic clock, which does not step. The wall clock is only asked
//! whether a range is over: set forward, it cuts the ranges of silent tenants and nothing else; set
//! back, it makes them wait. Neither deletes anything. A process that starts has heard nothing
//! yet: silence begins with it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{TenantId, TimeRange};

/// How long a range stays open behind its end.
const GRACE_MS: i64 = 60 * 60 * 1000;
/// How long a tenant is silent before its ranges are cut by the wall clock.
const SILENCE: Duration = Duration::from_hours(1);
/// First wait after a cut that failed.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_mins(5);

/// What the shards hold of a tenant; of one of them, or with [`Held::merge`] of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Oldest sample that no block has, or earlier; `i64::MAX` when there is none.
    pub oldest_ms: i64,
    /// Newest sample accepted.
    pub newest_ms: i64,
    /// Samples before this are refused.
    pub cut_ms: i64,
    /// Before this, all is in blocks.
    pub covered_ms: i64,
    /// Samples accepted since the start.
    pub accepted: u64,
}

impl Held {
    /// Adds what another shard holds.
    pub(crate) fn merge(&mut self, other: Self) {
        self.oldest_ms = self.oldest_ms.min(other.oldest_ms);
        self.newest_ms = self.newest_ms.max(other.newest_ms);
        self.cut_ms = self.cut_ms.max(other.cut_ms);
        self.covered_ms = self.covered_ms.min(other.covered_ms);
        self.accepted += other.accepted;
    }

    /// Whether it was cut and samples from before the cut still wait for a block.
    #[cfg(test)]
    pub(crate) fn is_pending_below_cut(&self) -> bool {
        self.oldest_ms < self.cut_ms
    }
}

/// What is to be cut next: on all shards, then flushed by each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    /// Whose data.
    pub(crate) tenant: TenantId,
    /// The end of a block range.
    pub(crate) end_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    accepted: u64,
    at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Duration,
    length: Duration,
}

/// Who was heard when. Lives as long as the process.
#[derive(Debug, Default)]
pub(crate) struct CutPlan {
    heard: BTreeMap<TenantId, Heard>,
    /// Those whose last cut failed.
    waits: BTreeMap<TenantId, Wait>,
}

impl CutPlan {
    /// The cut that is due, that of the oldest data first. `uptime` is monotonic, since the start;
    /// `wall_ms` is what the wall clock says. To be called every few seconds, and again after each
    /// cut until there is none.
    pub(crate) fn next(
        &mut self,
        held: &BTreeMap<TenantId, Held>,
        uptime: Duration,
        wall_ms: i64,
    ) -> Option<Due> {
        self.heard.retain(|tenant, _| held.contains_key(tenant));
        let mut due: Option<(i64, Due)> = None;
        for (tenant, held) in held {
            let silent = self.listen(tenant, held.accepted, uptime);
            let end_ms = end_of_cut(held, silent >= SILENCE, wall_ms);
            let waits = self.waits.get(tenant).is_some_and(|wait| uptime < wait.until);
            if held.oldest_ms >= end_ms || waits {
                continue;
            }
            if due.as_ref().is_none_or(|(oldest, _)| held.oldest_ms < *oldest) {
                due = Some((held.oldest_ms, Due { tenant: tenant.clone(), end_ms }));
            }
        }
        due.map(|(_, due)| due)
    }

    /// Notes how a cut ended.
    pub(crate) fn ended(&mut self, due: &Due, done: bool, uptime: Duration) {
        let before = self.waits.remove(&due.tenant);
        if !done {
            let length = before.map_or(WAIT_MIN, |wait| (wait.length * 2).min(WAIT_MAX));
            self.waits.insert(due.tenant.clone(), Wait { until: uptime + length, length });
        }
    }

    /// For how long nothing was accepted.
    fn listen(&mut self, tenant: &TenantId, accepted: u64, uptime: Duration) -> Duration {
        let new = Heard { accepted: 0, at: Duration::ZERO };
        let heard = self.heard.entry(tenant.clone()).or_insert(new);
        if heard.accepted != accepted {
            *heard = Heard { accepted, at: uptime };
        }
        uptime.saturating_sub(heard.at)
    }
}

/// Up to where a tenant may be cut now: the end of a range, or before all of time.
fn end_of_cut(held: &Held, silent: bool, wall_ms: i64) -> i64 {
    let passed = |t: i64| TimeRange::aligned(t.saturating_sub(GRACE_MS)).start;
    let by_data = passed(held.newest_ms);
    let by_silence = TimeRange::aligned(held.newest_ms).end.min(passed(wall_ms));
    let by_silence = if silent { by_silence } else { i64::MIN };
    by_data.max(by_silence).max(held.cut_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BLOCK_RANGE_MS;

    const HOUR: i64 = GRACE_MS;
    const START: i64 = 1000 * BLOCK_RANGE_MS;

    /// One tenant and two clocks.
    struct World {
        plan: CutPlan,
        held: Held,
        uptime: Duration,
        wall_ms: i64,
    }

    impl World {
        fn new(oldest_ms: i64, newest_ms: i64, wall_ms: i64) -> Self {
            let (cut_ms, covered_ms) = (i64::MIN, i64::MIN);
            let held = Held { oldest_ms, newest_ms, cut_ms, covered_ms, accepted: 1 };
            Self { plan: CutPlan::default(), held, uptime: Duration::ZERO, wall_ms }
        }

        /// Both clocks go on.
        fn pass(&mut self, ms: i64) {
            self.uptime += Duration::from_millis(ms as u64);
            self.wall_ms += ms;
        }

        fn accept(&mut self, t: i64) {
            self.held.newest_ms = self.held.newest_ms.max(t);
            self.held.accepted += 1;
        }

        fn due(&mut self) -> Option<i64> {
            let tenant = TenantId::new("t").expect("a tenant");
            let held = BTreeMap::from([(tenant, self.held)]);
            self.plan.next(&held, self.uptime, self.wall_ms).map(|due| due.end_ms)
        }

        /// Cut and flushed.
        fn cut(&mut self, end_ms: i64) {
            (self.held.cut_ms, self.held.covered_ms) = (end_ms, end_ms);
            self.held.oldest_ms = if self.held.newest_ms < end_ms {
                i64::MAX
            } else {
                self.held.oldest_ms.max(end_ms)
            };
        }
    }

    #[test]
    fn a_range_is_cut_an_hour_behind_its_end() {
        let end = START + BLOCK_RANGE_MS;
        let mut world = World::new(START, START, START);
        for t in (START..end + HOUR).step_by(60_000) {
            world.pass(60_000);
            world.accept(t);
            assert_eq!(world.due(), None, "at {t}");
        }
        world.accept(end + HOUR);
        assert_eq!(world.due(), Some(end));
        world.cut(end);
        assert_eq!(world.due(), None);
        world.accept(end + BLOCK_RANGE_MS + HOUR);
        assert_eq!(world.due(), Some(end + BLOCK_RANGE_MS));
    }

    #[test]
    fn a_silent_tenant_is_cut_by_the_clock() {
        let end = START + BLOCK_RANGE_MS;
        let mut world = World::new(START, START + HOUR, START + HOUR);
        assert_eq!(world.due(), None);
        world.pass(HOUR);
        assert_eq!(world.due(), None, "silent for an hour, but the range is just over");
        world.pass(HOUR - 1);
        assert_eq!(world.due(), None);
        world.pass(1);
        assert_eq!(world.due(), Some(end));
        world.cut(end);
        world.pass(100 * HOUR);
        assert_eq!(world.due(), None, "there is nothing left");
    }

    #[test]
    fn who_sends_old_data_is_not_silent() {
        let mut world = World::new(START, START, START + 1000 * HOUR);
        for _ in 0..200 {
            world.pass(HOUR / 2);
            world.accept(START + 1);
            assert_eq!(world.due(), None);
        }
        world.pass(HOUR);
        assert_eq!(world.due(), Some(START + BLOCK_RANGE_MS));
    }

    #[test]
    fn a_clock_set_forward_cuts_nobody_who_sends() {
        let mut world = World::new(START, START + 1, START + 1);
        assert_eq!(world.due(), None);
        world.wall_ms += 10_000 * HOUR;
        for minutes in 1..=59 {
            world.pass(60_000);
            assert_eq!(world.due(), None, "after {minutes} minutes");
        }
        world.accept(START + 60 * 60_000);
        world.pass(60_000);
        assert_eq!(world.due(), None);
        world.wall_ms -= 10_000 * HOUR;
        world.pass(59 * 60_000);
        assert_eq!(world.due(), None, "silent, and by the clock set right the range is not over");
    }

    #[test]
    fn a_clock_set_back_only_makes_the_silent_wait() {
        let mut world = World::new(START, START, START);
        world.due();
        world.pass(HOUR);
        world.wall_ms -= 50 * HOUR;
        assert_eq!(world.due(), None);
        world.pass(49 * HOUR);
        world.accept(START + BLOCK_RANGE_MS + HOUR);
        assert_eq!(world.due(), Some(START + BLOCK_RANGE_MS), "data time needs no clock");
    }

    #[test]
    fn samples_from_the_future_are_not_cut_with_the_silent() {
        // Accepted while the clock was ahead: newer than the wall clock says it is.
        let newest = START + 10 * BLOCK_RANGE_MS;
        let mut world = World::new(START, newest, START + HOUR);
        assert_eq!(world.due(), Some(START + 9 * BLOCK_RANGE_MS));
        world.cut(START + 9 * BLOCK_RANGE_MS);
        world.pass(2 * HOUR);
        assert_eq!(world.due(), None, "their range is not over");
    }

    #[test]
    fn what_was_cut_and_not_flushed_comes_at_once() {
        let mut world = World::new(START, START + 5, START + 10);
        world.held.cut_ms = START + BLOCK_RANGE_MS;
        assert!(world.held.is_pending_below_cut());
        assert_eq!(world.due(), Some(START + BLOCK_RANGE_MS));
        world.cut(START + BLOCK_RANGE_MS);
        assert!(!world.held.is_pending_below_cut());
        assert_eq!(world.due(), None);
    }

    #[test]
    fn who_fails_waits_longer_each_time_and_holds_nobody() {
        let name = |name| TenantId::new(name).expect("a tenant");
        let held = |oldest_ms| Held {
            oldest_ms,
            newest_ms: START + 10 * BLOCK_RANGE_MS,
            cut_ms: i64::MIN,
            covered_ms: i64::MIN,
            accepted: 1,
        };
        let all = BTreeMap::from([(name("a"), held(START)), (name("b"), held(START + 1))]);
        let mut plan = CutPlan::default();
        let mut uptime = Duration::ZERO;
        for wait_s in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let due = plan.next(&all, uptime, START).expect("a cut");
            assert_eq!(due.tenant, name("a"), "at {uptime:?}");
            plan.ended(&due, false, uptime);
            let other = plan.next(&all, uptime, START).map(|due| due.tenant);
            assert_eq!(other, Some(name("b")), "at {uptime:?}");
            uptime += Duration::from_secs(wait_s) - Duration::from_millis(1);
            assert_eq!(plan.next(&all, uptime, START).map(|due| due.tenant), Some(name("b")));
            uptime += Duration::from_millis(1);
        }
        let due = plan.next(&all, uptime, START).expect("a cut");
        plan.ended(&due, true, uptime);
        plan.ended(&due, false, uptime);
        uptime += WAIT_MIN;
        assert_eq!(plan.next(&all, uptime, START), Some(due), "it begins anew");
    }

    #[test]
    fn the_oldest_data_comes_first() {
        let name = |name| TenantId::new(name).expect("a tenant");
        let held = |oldest_ms| Held {
            oldest_ms,
            newest_ms: START + 10 * BLOCK_RANGE_MS,
            cut_ms: i64::MIN,
            covered_ms: i64::MIN,
            accepted: 1,
        };
        let mut one = held(START + 5);
        one.merge(Held { newest_ms: 3, ..held(START + 2) });
        assert_eq!((one.oldest_ms, one.newest_ms), (START + 2, START + 10 * BLOCK_RANGE_MS));
        let all = BTreeMap::from([(name("a"), one), (name("b"), held(START + 1))]);
        let due = CutPlan::default().next(&all, Duration::ZERO, START).map(|due| due.tenant);
        assert_eq!(due, Some(name("b")));
        assert_eq!(CutPlan::default().next(&BTreeMap::new(), Duration::ZERO, START), None);
    }
}
