//! Numbers that all cores share a limit of, such as the series of a tenant.
//!
//! A core takes lots and counts within them by itself, so the shared number is touched once in a
//! lot, and only where something is made. All cores together never take more than the limit, and
//! what they hold unused is at most a hundredth of it.
//!
//! ## Limits
//! A limit may be lowered below what is taken: then nothing more is given until enough came back.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

/// The largest lot.
const LOT_MAX: u64 = 1024;
/// All lots are at most this part of the limit.
const UNUSED_PART: u64 = 100;

/// One limit and what is taken of it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Quota(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// `u64::MAX` for none.
    limit: AtomicU64,
    taken: AtomicU64,
    /// Cores that share it.
    cores: u64,
}

impl Quota {
    fn new(limit: u64, cores: u64) -> Self {
        Self(Arc::new(Counts { limit: limit.into(), taken: 0.into(), cores: cores.max(1) }))
    }

    /// How many may be taken, all in all.
    pub fn limit(&self) -> u64 {
        self.0.limit.load(Relaxed)
    }

    /// How many a core takes at a time, and may hold unused.
    pub fn lot(&self) -> u64 {
        (self.limit() / (UNUSED_PART * self.0.cores)).clamp(1, LOT_MAX)
    }

    /// Takes a lot, or what is left; 0 when nothing is.
    pub fn take(&self) -> u64 {
        let (limit, lot) = (self.limit(), self.lot());
        let mut got = 0;
        let take = |taken: u64| {
            got = lot.min(limit.saturating_sub(taken));
            (got > 0).then_some(taken + got)
        };
        // Only the number counts, nothing is told by it.
        self.0.taken.fetch_update(Relaxed, Relaxed, take).map_or(0, |_| got)
    }

    /// Counts what is there already, within the limit or not.
    pub fn take_anyway(&self, number: u64) {
        self.0.taken.fetch_add(number, Relaxed);
    }

    /// Gives back.
    pub fn give(&self, number: u64) {
        self.0.taken.fetch_sub(number, Relaxed);
    }

    /// How many are taken.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Relaxed)
    }
}

/// The limit of each name.
type LimitOf = Box<dyn Fn(&str) -> u64 + Send>;

#[expect(clippy::disallowed_types, reason = "cores ask when a name is new, never per sample")]
type Named = std::sync::Mutex<(HashMap<String, Quota>, LimitOf)>;

/// Quotas by name. Clones are the same.
#[derive(Clone)]
pub struct Quotas(Arc<Shared>);

struct Shared {
    cores: u64,
    times_set: AtomicU64,
    all: Named,
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").field("cores", &self.0.cores).finish_non_exhaustive()
    }
}

impl Quotas {
    /// For so many cores, without limits.
    pub fn unlimited(cores: u64) -> Self {
        let limit_of: LimitOf = Box::new(|_| u64::MAX);
        let all = Named::new((HashMap::new(), limit_of));
        Self(Arc::new(Shared { cores, times_set: 0.into(), all }))
    }

    /// The quota of a name; made when it is new.
    pub fn of(&self, name: &str) -> Quota {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, limit_of) = &mut *all;
        if let Some(quota) = known.get(name) {
            return quota.clone();
        }
        let quota = Quota::new(limit_of(name), self.0.cores);
        known.insert(name.to_owned(), quota.clone());
        quota
    }

    /// Sets the limits of all names, those to come as well.
    pub fn set(&self, limit_of: impl Fn(&str) -> u64 + Send + 'static) {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, quota) in &all.0 {
            quota.0.limit.store(limit_of(name), Relaxed);
        }
        all.1 = Box::new(limit_of);
        self.0.times_set.fetch_add(1, Relaxed);
    }

    /// How often limits were set: after each time, cores give back what they do not use.
    pub fn times_set(&self) -> u64 {
        self.0.times_set.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cores_together_take_the_limit_and_no_more() {
        for limit in [0, 1, 2, 3, 99, 100, 101, 1_000, 12_345] {
            let quotas = Quotas::unlimited(4);
            quotas.set(move |name| if name == "a" { limit } else { u64::MAX });
            let quota = quotas.of("a");
            let taken: Vec<u64> = std::thread::scope(|scope| {
                let take = || {
                    let mut mine = 0;
                    loop {
                        match quota.take() {
                            0 => return mine,
                            got => mine += got,
                        }
                    }
                };
                let cores: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
                cores.into_iter().map(|core| core.join().expect("no panic")).collect()
            });
            assert_eq!(taken.iter().sum::<u64>(), limit);
            assert_eq!(quota.taken(), limit);
            assert!(4 * (quota.lot() - 1) <= limit / 100, "{limit}: lots of {}", quota.lot());
            assert_eq!(quotas.of("b").lot(), LOT_MAX);
        }
    }

    #[test]
    fn a_limit_may_be_lowered_below_what_is_taken() {
        let quotas = Quotas::unlimited(1);
        let quota = quotas.of("a");
        quota.take_anyway(10);
        quotas.set(|_| 5);
        assert_eq!((quota.take(), quota.limit()), (0, 5));
        quota.give(6);
        assert_eq!((quota.take(), quota.taken()), (1, 5));
        quotas.set(|_| 7);
        assert_eq!(quotas.of("a").take(), 1);
        assert_eq!(quotas.of("new").limit(), 7);
    }
}
