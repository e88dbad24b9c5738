//! When which tenant is cut: the rule of the house, without clocks and without I/O.
//!
//! A tenant's data is cut at the end of a block range, for all shards at once, when
//! - its newest accepted sample has passed that end by an hour, or by the window for samples out of
//!   order, if that is longer: what comes late has had its time; or
//! - it has accepted nothing for an hour, and the wall clock has passed that end by as much; or
//! - it goes on accepting, but for four hours nothing newer than that range, and the wall clock has
//!   passed that end by as much: whoever fills an old range so slowly must not keep the log, which
//!   is everybody's, for as long as he likes; or
//! - it was cut there before and for some slots that is not done: they still hold older samples, or
//!   hold none and have no cut in the log. So it is after a restart with another number of shards,
//!   in the middle of a cut, and when one has failed.
//!
//! ## Fairness
//! A round names each tenant at most once, and of each tenant one range is written in it. So who
//! makes many ranges holds up the others by one, and who fails is passed over for a while.
//!
//! ## Clocks
//! Silence is measured on the monotonic clock, which does not step. The wall clock is only asked
//! whether a range is over: set forward, it cuts the ranges of silent tenants and nothing else; set
//! back, it makes them wait. Neither deletes anything. A process that starts has heard nothing
//! yet: silence begins with it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{TenantId, TimeRange};

/// How long a range stays open behind its end, at least.
const GRACE: Duration = Duration::from_hours(1);
/// How long a tenant is silent before its ranges are cut by the wall clock.
const SILENCE: Duration = Duration::from_hours(1);
/// How long a tenant may add to its newest range before it is cut by the wall clock.
const STANDSTILL: Duration = Duration::from_hours(4);
/// How long a tenant is passed over after a flush that failed; twice as long each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(16);

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

    /// Whether it was cut and what is before the cut is not known to be in blocks: samples wait
    /// for one, or the cut itself, where there are none, is not logged.
    pub(crate) fn is_pending_below_cut(&self) -> bool {
        self.oldest_ms < self.cut_ms || self.covered_ms < self.cut_ms
    }

    /// Whether anything may still be cut of it: else it is not worth telling of.
    pub(crate) fn is_open(&self) -> bool {
        self.oldest_ms < i64::MAX || self.is_pending_below_cut()
    }
}

/// What all shards hold, by what each says.
pub(crate) fn merged(all: impl IntoIterator<Item = (TenantId, Held)>) -> BTreeMap<TenantId, Held> {
    let mut merged: BTreeMap<TenantId, Held> = BTreeMap::new();
    for (tenant, held) in all {
        merged.entry(tenant).and_modify(|known| known.merge(held)).or_insert(held);
    }
    merged
}

/// What is to be cut next: on all shards, then flushed by each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    /// Whose data.
    pub(crate) tenant: TenantId,
    /// The end of a block range.
    pub(crate) end_ms: i64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    accepted: u64,
    /// When something was last accepted, in uptime.
    heard: Duration,
    /// The end of the range of its newest sample, and since when it is that, in uptime.
    range_end_ms: i64,
    moved: Duration,
    /// Until when it is passed over, and how long that pause is; zero when nothing failed.
    paused: Duration,
    pause: Duration,
}

/// Who was heard when, and who failed. Lives as long as the process. All durations are monotonic,
/// since the start.
#[derive(Debug, Default)]
pub(crate) struct CutPlan {
    known: BTreeMap<TenantId, Known>,
}

impl CutPlan {
    /// The cuts that are due, one for a tenant, that of the oldest data first. A range stays open
    /// for `grace` behind its end. `uptime` is the time since the start; `wall_ms` is what the wall
    /// clock says. To be called every second or so, and again after each round until there is none.
    pub(crate) fn round(
        &mut self,
        held: &BTreeMap<TenantId, Held>,
        grace: Duration,
        uptime: Duration,
        wall_ms: i64,
    ) -> Vec<Due> {
        self.known.retain(|tenant, _| held.contains_key(tenant));
        let mut round: Vec<(i64, Due)> = Vec::new();
        for (tenant, held) in held {
            let known = self.listen(tenant, held, uptime);
            let over = uptime.saturating_sub(known.heard) >= SILENCE
                || uptime.saturating_sub(known.moved) >= STANDSTILL;
            let end_ms = end_of_cut(held, grace, over, wall_ms);
            let due = held.oldest_ms < end_ms || held.is_pending_below_cut();
            if due && known.paused <= uptime {
                round.push((held.oldest_ms, Due { tenant: tenant.clone(), end_ms }));
            }
        }
        round.sort_by_key(|(oldest_ms, _)| *oldest_ms);
        round.into_iter().map(|(_, due)| due).collect()
    }

    /// Notes how the flush of a tenant ended: if it failed, it is passed over for a while.
    pub(crate) fn ended(&mut self, tenant: &TenantId, well: bool, uptime: Duration) {
        let Some(known) = self.known.get_mut(tenant) else { return };
        let longer = (2 * known.pause).clamp(PAUSE_MIN, PAUSE_MAX);
        known.pause = if well { Duration::ZERO } else { longer };
        known.paused = uptime + known.pause;
    }

    fn listen(&mut self, tenant: &TenantId, held: &Held, uptime: Duration) -> Known {
        let known = self.known.entry(tenant.clone()).or_default();
        // It is less when a shard that has nothing left is not named any more.
        if held.accepted > known.accepted {
            known.heard = uptime;
        }
        known.accepted = held.accepted;
        let range_end_ms = TimeRange::aligned(held.newest_ms).end;
        if known.range_end_ms != range_end_ms {
            (known.range_end_ms, known.moved) = (range_end_ms, uptime);
        }
        *known
    }
}

/// How long a range stays open behind its end, if samples may be so much out of order: what is in
/// the window is not cut yet.
pub(crate) fn grace(window: Option<Duration>) -> Duration {
    window.map_or(GRACE, |window| window.max(GRACE))
}

/// Up to where a tenant may be cut now: the end of a range, or before all of time. `over`: the wall
/// clock may say that its newest range is over.
fn end_of_cut(held: &Held, grace: Duration, over: bool, wall_ms: i64) -> i64 {
    let grace_ms = grace.as_millis() as i64;
    let passed = |t: i64| TimeRange::aligned(t.saturating_sub(grace_ms)).start;
    let by_data = passed(held.newest_ms);
    let by_clock = TimeRange::aligned(held.newest_ms).end.min(passed(wall_ms));
    let by_clock = if over { by_clock } else { i64::MIN };
    by_data.max(by_clock).max(held.cut_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BLOCK_RANGE_MS;

    const HOUR: i64 = GRACE.as_millis() as i64;
    const START: i64 = 1000 * BLOCK_RANGE_MS;

    /// One tenant and two clocks.
    struct World {
        plan: CutPlan,
        held: Held,
        grace: Duration,
        uptime: Duration,
        wall_ms: i64,
    }

    impl World {
        fn new(oldest_ms: i64, newest_ms: i64, wall_ms: i64) -> Self {
            let (cut_ms, covered_ms) = (i64::MIN, i64::MIN);
            let held = Held { oldest_ms, newest_ms, cut_ms, covered_ms, accepted: 1 };
            let (plan, uptime) = (CutPlan::default(), Duration::ZERO);
            Self { plan, held, grace: GRACE, uptime, wall_ms }
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
            self.plan
                .round(&held, self.grace, self.uptime, self.wall_ms)
                .first()
                .map(|due| due.end_ms)
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

    /// Without a window for samples out of order, with a short one and with a long one.
    const WINDOWS: [(Option<Duration>, i64); 3] = [
        (None, HOUR),
        (Some(Duration::from_mins(5)), HOUR),
        (Some(Duration::from_hours(24)), 24 * HOUR),
    ];

    #[test]
    fn a_range_is_cut_an_hour_or_the_window_behind_its_end() {
        for (window, behind) in WINDOWS {
            let end = START + BLOCK_RANGE_MS;
            let mut world = World { grace: grace(window), ..World::new(START, START, START) };
            for t in (START..end + behind).step_by(60_000) {
                world.pass(60_000);
                world.accept(t);
                assert_eq!(world.due(), None, "at {t}");
            }
            world.accept(end + behind);
            assert_eq!(world.due(), Some(end));
            world.cut(end);
            assert_eq!(world.due(), None);
            world.accept(end + BLOCK_RANGE_MS + behind);
            assert_eq!(world.due(), Some(end + BLOCK_RANGE_MS));
        }
    }

    #[test]
    fn the_clock_waits_for_the_window_as_well() {
        let end = START + BLOCK_RANGE_MS;
        let window = Some(Duration::from_hours(24));
        let mut world = World { grace: grace(window), ..World::new(START, START, START) };
        assert_eq!(world.due(), None);
        world.pass(26 * HOUR - 1);
        assert_eq!(world.due(), None, "silent for a day");
        world.pass(1);
        assert_eq!(world.due(), Some(end));
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
    fn who_sends_old_data_is_not_silent_and_has_four_hours_for_a_range() {
        let mut world = World::new(START, START, START + 1000 * HOUR);
        for i in 0..8 {
            world.accept(START + i);
            assert_eq!(world.due(), None, "after {i} half hours");
            world.pass(HOUR / 2);
        }
        assert_eq!(world.due(), Some(START + BLOCK_RANGE_MS), "others want their log back");
        world.cut(START + BLOCK_RANGE_MS);
        world.accept(START + BLOCK_RANGE_MS);
        world.held.oldest_ms = START + BLOCK_RANGE_MS;
        assert_eq!(world.due(), None, "the next range has its own four hours");
        world.pass(HOUR);
        assert_eq!(world.due(), Some(START + 2 * BLOCK_RANGE_MS), "silent");
    }

    #[test]
    fn a_range_that_is_not_over_stays_open_however_long_it_takes() {
        let mut world = World::new(START, START, START);
        for i in 0..100 {
            world.accept(START + i);
            assert_eq!(world.due(), None);
            world.uptime += STANDSTILL;
        }
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
    fn a_cut_that_failed_comes_again_where_nothing_is_held() {
        let mut world = World::new(START, START + 5, START + 10);
        world.cut(START + BLOCK_RANGE_MS);
        assert_eq!(world.due(), None);
        world.held.covered_ms = i64::MIN;
        assert_eq!(world.due(), Some(START + BLOCK_RANGE_MS));
        world.cut(START + BLOCK_RANGE_MS);
        assert_eq!(world.due(), None);
    }

    #[test]
    fn a_shard_that_is_not_named_any_more_breaks_no_silence() {
        let mut world = World::new(START, START, START + 2 * BLOCK_RANGE_MS);
        world.held.accepted = 9;
        assert_eq!(world.due(), None);
        world.pass(HOUR / 2);
        world.held.accepted = 5;
        assert_eq!(world.due(), None);
        world.pass(HOUR / 2);
        assert_eq!(world.due(), Some(START + BLOCK_RANGE_MS));
    }

    fn name(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    fn due_since(oldest_ms: i64) -> Held {
        let newest_ms = START + 10 * BLOCK_RANGE_MS;
        Held { oldest_ms, newest_ms, cut_ms: i64::MIN, covered_ms: i64::MIN, accepted: 1 }
    }

    fn names(round: &[Due]) -> Vec<&str> {
        round.iter().map(|due| due.tenant.as_str()).collect()
    }

    #[test]
    fn a_round_has_each_tenant_once_the_oldest_data_first() {
        let mut one = due_since(START + 5);
        one.merge(Held { newest_ms: 3, ..due_since(START + 2) });
        assert_eq!((one.oldest_ms, one.newest_ms), (START + 2, START + 10 * BLOCK_RANGE_MS));
        let all = BTreeMap::from([(name("a"), one), (name("b"), due_since(START + 1))]);
        let round = CutPlan::default().round(&all, GRACE, Duration::ZERO, START);
        assert_eq!(names(&round), ["b", "a"]);
        assert_eq!(CutPlan::default().round(&BTreeMap::new(), GRACE, Duration::ZERO, START), []);
    }

    #[test]
    fn who_fails_is_passed_over_longer_and_longer() {
        let all =
            BTreeMap::from([(name("a"), due_since(START)), (name("b"), due_since(START + 1))]);
        let (mut plan, mut at) = (CutPlan::default(), Duration::from_secs(100));
        for pause in [1, 2, 4, 8, 16, 16].map(Duration::from_secs) {
            assert_eq!(names(&plan.round(&all, GRACE, at, START)), ["a", "b"]);
            plan.ended(&name("a"), false, at);
            plan.ended(&name("b"), true, at);
            let just_before = at + pause.mul_f64(0.99);
            assert_eq!(names(&plan.round(&all, GRACE, just_before, START)), ["b"]);
            at += pause;
        }
        plan.ended(&name("a"), true, at);
        assert_eq!(names(&plan.round(&all, GRACE, at, START)), ["a", "b"]);
        plan.ended(&name("a"), false, at);
        assert_eq!(names(&plan.round(&all, GRACE, at + PAUSE_MIN, START)), ["a", "b"], "anew");
    }
}
