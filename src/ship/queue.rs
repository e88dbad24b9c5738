//! Which block is uploaded when. Knows no disk, bucket or clock: it is told the time.
//!
//! ## Order
//! Blocks of one directory (a tenant) leave strictly oldest first, one at a time: a compactor that
//! has merged the newer ones would meet the late one as an overlap and halt. Tenants do not wait
//! for each other; among them the oldest block goes first. Only a block that is itself damaged
//! steps aside, is counted, and is looked at again later: the newer ones still need the bucket. One
//! that cannot be read at the moment is not damaged, and holds up its tenant.
//!
//! ## Failure
//! A bucket that fails holds the whole queue: for 1 s at first, twice as long each time, up to 5
//! minutes, each time between half and all of that, so that a fleet does not return in step. While
//! it is in doubt, one upload at a time feels for it. A refusal that concerns one object holds its
//! tenant. Nothing is ever given up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ulid::Ulid;

use crate::ship::lane_of;
use crate::stdx::splitmix64;

/// First pause after a failure.
const PAUSE_MS_MIN: i64 = 1_000;
/// Longest pause.
const PAUSE_MS_MAX: i64 = 5 * 60 * 1_000;
/// Until a damaged block is looked at again.
const DAMAGED_PAUSE_MS: i64 = 60 * 60 * 1_000;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The block is in the bucket, or needs not be.
    Shipped,
    /// The bucket does not work, for anybody.
    BucketFailed,
    /// The bucket works, but not for this block; or the block cannot be read at the moment.
    BlockRefused,
    /// The block on the local disk is damaged.
    BlockDamaged,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Begin an attempt with this block directory.
    Start(PathBuf),
    /// Nothing before this time.
    WaitUntil(i64),
    /// Nothing before something is offered or finished.
    Idle,
}

/// What waits, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Blocks not yet in the bucket, those under way included.
    pub blocks: u64,
    /// Bytes of their files.
    pub size_bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    dir: PathBuf,
    size_bytes: u64,
    damaged_until_ms: i64,
}

#[derive(Debug, Default)]
struct Lane {
    /// By min time, then ULID.
    waiting: BTreeMap<(i64, Ulid), Waiting>,
    under_way: Option<(i64, Ulid)>,
    pause: Pause,
}

#[derive(Debug, Default)]
struct Pause {
    until_ms: i64,
    failures: u32,
}

/// The blocks of all tenants that are not in the bucket yet.
#[derive(Debug)]
pub struct Queue {
    lanes: BTreeMap<PathBuf, Lane>,
    under_way: usize,
    under_way_max: usize,
    pause: Pause,
    dice: u64,
}

impl Queue {
    /// An empty queue with up to `under_way_max` uploads at once; `seed` feeds the jitter.
    pub fn new(under_way_max: usize, seed: u64) -> Self {
        let (lanes, pause) = (BTreeMap::new(), Pause::default());
        Self { lanes, under_way: 0, under_way_max: under_way_max.max(1), pause, dice: seed }
    }

    /// Adds a block. Offering it twice changes nothing.
    pub fn offer(&mut self, dir: &Path, ulid: Ulid, min_time_ms: i64, size_bytes: u64) {
        let lane = self.lanes.entry(lane_of(dir).to_owned()).or_default();
        let waiting = Waiting { dir: dir.to_owned(), size_bytes, damaged_until_ms: i64::MIN };
        lane.waiting.entry((min_time_ms, ulid)).or_insert(waiting);
    }

    /// Takes the next block whose turn it is.
    pub fn next(&mut self, now_ms: i64) -> Next {
        let limit = if self.pause.failures > 0 { 1 } else { self.under_way_max };
        if self.under_way >= limit {
            return Next::Idle;
        }
        if self.pause.until_ms > now_ms && !self.is_empty() {
            return Next::WaitUntil(self.pause.until_ms);
        }
        let free = self.lanes.values_mut().filter(|lane| lane.under_way.is_none());
        let turns = free.filter_map(|lane| lane.turn(now_ms).map(|(at, key)| (at, key, lane)));
        match turns.min_by_key(|(at, key, _)| ((*at).max(now_ms), *key)) {
            None => Next::Idle,
            Some((at, ..)) if at > now_ms => Next::WaitUntil(at),
            Some((_, key, lane)) => {
                let Some(waiting) = lane.waiting.get(&key) else { return Next::Idle };
                lane.under_way = Some(key);
                self.under_way += 1;
                Next::Start(waiting.dir.clone())
            }
        }
    }

    /// Takes note of how an attempt begun by [`Queue::next`] ended.
    pub fn finished(&mut self, dir: &Path, outcome: Outcome, now_ms: i64) {
        let Some(lane) = self.lanes.get_mut(lane_of(dir)) else { return };
        let Some(key) = lane.under_way.take() else { return };
        self.under_way -= 1;
        match outcome {
            Outcome::Shipped => {
                lane.waiting.remove(&key);
                lane.pause = Pause::default();
                self.pause = Pause::default();
            }
            Outcome::BucketFailed => self.pause.longer(now_ms, &mut self.dice),
            Outcome::BlockRefused => lane.pause.longer(now_ms, &mut self.dice),
            Outcome::BlockDamaged => {
                if let Some(waiting) = lane.waiting.get_mut(&key) {
                    waiting.damaged_until_ms = now_ms.saturating_add(DAMAGED_PAUSE_MS);
                }
            }
        }
        if lane.waiting.is_empty() {
            self.lanes.remove(lane_of(dir));
        }
    }

    /// Drops a block that is gone from the local disk and not under way.
    pub fn forget(&mut self, dir: &Path) {
        if let Some(lane) = self.lanes.get_mut(lane_of(dir)) {
            let under_way = lane.under_way;
            lane.waiting.retain(|key, waiting| waiting.dir != dir || Some(*key) == under_way);
            if lane.waiting.is_empty() {
                self.lanes.remove(lane_of(dir));
            }
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// What waits.
    pub fn backlog(&self) -> Backlog {
        let waiting = || self.lanes.values().flat_map(|lane| lane.waiting.values());
        let size_bytes = waiting().map(|waiting| waiting.size_bytes).sum();
        Backlog { blocks: waiting().count() as u64, size_bytes }
    }
}

impl Lane {
    /// Which block is next and from when on it may go.
    fn turn(&self, now_ms: i64) -> Option<(i64, (i64, Ulid))> {
        let sound = self.waiting.iter().find(|(_, w)| w.damaged_until_ms <= now_ms);
        let damaged = || self.waiting.iter().min_by_key(|(_, w)| w.damaged_until_ms);
        let (key, waiting) = sound.or_else(damaged)?;
        Some((self.pause.until_ms.max(waiting.damaged_until_ms), *key))
    }
}

impl Pause {
    /// Begins or lengthens the pause. A failure of an attempt that was under way when the pause
    /// began tells nothing new.
    fn longer(&mut self, now_ms: i64, dice: &mut u64) {
        if self.until_ms > now_ms {
            return;
        }
        let doubled = PAUSE_MS_MIN.checked_shl(self.failures.min(30)).unwrap_or(PAUSE_MS_MAX);
        let pause_ms = doubled.clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
        let jitter = (splitmix64(dice) % (pause_ms as u64 / 2 + 1)) as i64;
        self.until_ms = now_ms.saturating_add(pause_ms - jitter);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dir(tenant: &str, n: u64) -> PathBuf {
        PathBuf::from(format!("blocks/{tenant}/{}", Ulid::from_parts(n, 0)))
    }

    fn offer(queue: &mut Queue, tenant: &str, n: u64) {
        queue.offer(&dir(tenant, n), Ulid::from_parts(n, 0), n as i64, 100);
    }

    fn start(tenant: &str, n: u64) -> Next {
        Next::Start(dir(tenant, n))
    }

    #[test]
    fn the_oldest_goes_first_and_a_tenant_uploads_one_at_a_time() {
        let mut queue = Queue::new(2, 1);
        for (tenant, n) in [("a", 3), ("a", 1), ("b", 2), ("c", 9), ("a", 1)] {
            offer(&mut queue, tenant, n);
        }
        assert_eq!(queue.next(0), start("a", 1));
        assert_eq!(queue.next(0), start("b", 2));
        assert_eq!(queue.next(0), Next::Idle, "two at once");
        queue.finished(&dir("b", 2), Outcome::Shipped, 0);
        assert_eq!(queue.next(0), start("c", 9), "a is busy");
        queue.finished(&dir("a", 1), Outcome::Shipped, 0);
        assert_eq!(queue.next(0), start("a", 3));
        queue.finished(&dir("a", 3), Outcome::Shipped, 0);
        queue.finished(&dir("c", 9), Outcome::Shipped, 0);
        assert_eq!((queue.next(0), queue.is_empty()), (Next::Idle, true));
    }

    #[test]
    fn pauses_double_with_jitter_and_end_with_success() {
        let mut queue = Queue::new(4, 7);
        offer(&mut queue, "a", 1);
        offer(&mut queue, "b", 2);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..14 {
            assert_eq!(queue.next(now), start("a", 1), "order is kept");
            if !pauses.is_empty() {
                assert_eq!(queue.next(now), Next::Idle, "one at a time while in doubt");
            }
            queue.finished(&dir("a", 1), Outcome::BucketFailed, now);
            let Next::WaitUntil(until) = queue.next(now) else { panic!("no pause") };
            pauses.push(until - now);
            now = until;
        }
        for (i, pause) in pauses.iter().enumerate() {
            let full = (1_000 << i).min(300_000);
            assert!((full / 2..=full).contains(pause), "pause {i} was {pause} ms");
        }
        assert_eq!(queue.next(now), start("a", 1));
        queue.finished(&dir("a", 1), Outcome::Shipped, now);
        assert_eq!(queue.next(now), start("b", 2), "no pause after success");
    }

    #[test]
    fn failures_of_one_moment_count_once() {
        let mut queue = Queue::new(3, 7);
        for tenant in ["a", "b", "c"] {
            offer(&mut queue, tenant, 1);
            assert_eq!(queue.next(0), start(tenant, 1));
        }
        for tenant in ["a", "b", "c"] {
            queue.finished(&dir(tenant, 1), Outcome::BucketFailed, 0);
        }
        let Next::WaitUntil(until) = queue.next(0) else { panic!("no pause") };
        assert!(until <= 1_000, "{until}");
    }

    #[test]
    fn a_refused_block_holds_its_tenant_and_a_damaged_one_only_itself() {
        let mut queue = Queue::new(1, 7);
        for (tenant, n) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
            offer(&mut queue, tenant, n);
        }
        assert_eq!(queue.next(0), start("a", 1));
        queue.finished(&dir("a", 1), Outcome::BlockRefused, 0);
        assert_eq!(queue.next(0), start("b", 3));
        queue.finished(&dir("b", 3), Outcome::BlockDamaged, 0);
        assert_eq!(queue.next(0), start("b", 4));
        queue.finished(&dir("b", 4), Outcome::Shipped, 0);
        assert_eq!(queue.next(1_000), start("a", 1));
        queue.finished(&dir("a", 1), Outcome::Shipped, 1_000);
        assert_eq!(queue.next(1_000), start("a", 2));
        queue.finished(&dir("a", 2), Outcome::Shipped, 1_000);
        assert_eq!(queue.next(1_000), Next::WaitUntil(DAMAGED_PAUSE_MS));
        assert_eq!(queue.backlog().blocks, 1);
        assert_eq!(queue.next(DAMAGED_PAUSE_MS), start("b", 3));
    }

    #[test]
    fn a_forgotten_block_is_not_uploaded() {
        let mut queue = Queue::new(1, 7);
        offer(&mut queue, "a", 1);
        offer(&mut queue, "a", 2);
        assert_eq!(queue.next(0), start("a", 1));
        queue.forget(&dir("a", 1));
        queue.forget(&dir("a", 2));
        assert_eq!(queue.backlog().blocks, 1, "the one under way stays until it ends");
        queue.finished(&dir("a", 1), Outcome::Shipped, 0);
        assert!(queue.is_empty());
    }

    proptest! {
        /// With whatever failures: each block ends shipped, once, and within a tenant in order.
        #[test]
        fn all_blocks_leave_in_order(
            offers in proptest::collection::btree_set((0u8..3, 0u64..20), 1..20),
            outcomes in proptest::collection::vec(0u8..3, 0..30),
            at_once in 1usize..4,
            seed: u64,
        ) {
            let mut queue = Queue::new(at_once, seed);
            for (tenant, n) in &offers {
                offer(&mut queue, &tenant.to_string(), *n);
            }
            let (mut outcomes, mut now) = (outcomes.into_iter(), 0);
            let (mut running, mut shipped) = (Vec::new(), Vec::new());
            for _ in 0..10_000 {
                match queue.next(now) {
                    Next::Start(dir) => { running.push(dir); continue }
                    Next::WaitUntil(at) if running.is_empty() => {
                        prop_assert!(at > now);
                        now = at;
                        continue;
                    }
                    Next::WaitUntil(_) | Next::Idle => {}
                }
                let Some(dir) = running.pop() else { break };
                let outcome = match outcomes.next().unwrap_or(0) {
                    0 => Outcome::Shipped,
                    1 => Outcome::BucketFailed,
                    _ => Outcome::BlockRefused,
                };
                if outcome == Outcome::Shipped {
                    shipped.push(dir.clone());
                }
                queue.finished(&dir, outcome, now);
            }
            prop_assert!(queue.is_empty());
            prop_assert_eq!(shipped.len(), offers.len());
            for tenant in 0u8..3 {
                let lane = PathBuf::from(format!("blocks/{tenant}"));
                let mine: Vec<_> = shipped.iter().filter(|d| d.starts_with(&lane)).collect();
                prop_assert!(mine.is_sorted());
            }
        }
    }
}
