//! How many series of a tenant a shard may have: its share of what all shards may have together.
//!
//! ## Promises
//! - All shards together make no series above the limit. Series that were there before a limit was
//!   set, or lowered, stay.
//! - A shard holds less than a [lot](Quota::lot) that it does not use, once it has settled.

use crate::rt::quota::Quota;

/// A shard's share of a tenant's series.
#[derive(Debug)]
pub(crate) struct Share {
    quota: Quota,
    /// What was taken of the quota and not given back.
    taken: u64,
}

impl Share {
    /// Nothing yet.
    pub(crate) fn of(quota: Quota) -> Self {
        Self { quota, taken: 0 }
    }

    /// Whether there may be one more than `series`.
    pub(crate) fn has_room(&mut self, series: u64) -> bool {
        // The limit was lowered: what nobody uses goes back first.
        if self.quota.taken() > self.quota.limit() {
            self.keep(series, 0);
        }
        if series >= self.taken {
            self.taken += self.quota.take();
        }
        series < self.taken
    }

    /// Brings the share in line with the series there are: after a replay, and after some went.
    pub(crate) fn settle(&mut self, series: u64) {
        if let Some(more) = series.checked_sub(self.taken) {
            self.quota.take_anyway(more);
            self.taken = series;
        }
        self.keep(series, self.quota.lot() - 1);
    }

    /// Gives back all but `series` and so many unused.
    fn keep(&mut self, series: u64, unused: u64) {
        let over = self.taken.saturating_sub(series.saturating_add(unused));
        self.quota.give(over);
        self.taken -= over;
    }

    /// The limit of all shards together.
    pub(crate) fn limit(&self) -> u64 {
        self.quota.limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::quota::Quotas;

    #[test]
    fn shards_fill_the_limit_to_a_hundredth_and_give_back() {
        let quotas = Quotas::unlimited(3);
        quotas.set(|_| 10_000);
        let mut shares = [(); 3].map(|()| (Share::of(quotas.of("a")), 0));
        let fill = |share: &mut Share, series: &mut u64| {
            while share.has_room(*series) {
                *series += 1;
            }
        };
        // One has a few series, the others as many as they can.
        for (share, series) in &mut shares[..1] {
            assert!(share.has_room(*series));
            *series += 1;
        }
        for (share, series) in &mut shares[1..] {
            fill(share, series);
        }
        let total = |shares: &[(Share, u64); 3]| shares.iter().map(|(_, n)| n).sum::<u64>();
        assert!((9_900..=10_000).contains(&total(&shares)), "{}", total(&shares));
        // Half of them go: there is room for as many.
        let (share, series) = &mut shares[1];
        *series /= 2;
        share.settle(*series);
        let (share, series) = &mut shares[2];
        fill(share, series);
        assert!((9_900..=10_000).contains(&total(&shares)), "{}", total(&shares));
        // Lowered: nobody makes one, whatever they hold unused.
        quotas.set(|_| 5_000);
        assert!(shares.iter_mut().all(|(share, series)| !share.has_room(*series)));
        // A replay finds more than there may be.
        let mut late = Share::of(quotas.of("a"));
        late.settle(700);
        assert!(!late.has_room(700));
        late.settle(0);
        for (share, series) in &mut shares {
            *series = 0;
            share.settle(0);
        }
        assert!(quotas.of("a").taken() <= 4 * quotas.of("a").lot());
    }
}
