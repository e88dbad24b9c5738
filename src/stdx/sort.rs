//! Sorting a million things without holding up the core.
//!
//! A merge sort whose state between two comparisons is data, so that it can stop after any number
//! of them: first short runs are sorted, then pairs of runs are merged, pass by pass.

use std::cmp::Ordering;

/// Length of the runs that are sorted at once.
const RUN_ITEMS: usize = 32;

/// How many items of a run's sort cost as much as one merged item.
const RUN_COST: usize = 5;

/// Sorts the numbers `0..count` by an order the caller gives anew at each step.
#[derive(Debug)]
pub(crate) struct Sorter {
    count: usize,
    /// Sorted in runs of `width`; while it is shorter than `count`, runs are still being made.
    items: Vec<u32>,
    /// The output of the pass under way.
    merged: Vec<u32>,
    width: usize,
    /// Next items of the two runs that are being merged.
    left: usize,
    right: usize,
}

impl Sorter {
    /// Nothing is sorted yet.
    pub(crate) fn new(count: u32) -> Self {
        let count = count as usize;
        let width = RUN_ITEMS;
        let (items, merged) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Self { count, items, merged, width, left: 0, right: width }
    }

    /// Works for about `budget` comparisons. The sorted numbers when it is done.
    pub(crate) fn step(
        &mut self,
        budget: usize,
        order: impl Fn(u32, u32) -> Ordering,
    ) -> Option<Vec<u32>> {
        let mut budget = budget;
        while self.items.len() < self.count && budget > 0 {
            let from = self.items.len();
            let to = self.count.min(from + RUN_ITEMS);
            self.items.extend(from as u32..to as u32);
            self.items[from..].sort_unstable_by(|&a, &b| order(a, b));
            budget = budget.saturating_sub(RUN_ITEMS * RUN_COST);
        }
        if self.items.len() < self.count {
            return None;
        }
        while self.width < self.count {
            if budget == 0 {
                return None;
            }
            budget -= self.merge(budget, &order);
        }
        Some(std::mem::take(&mut self.items))
    }

    /// Merges at most `budget` items of the pass under way; how many.
    fn merge(&mut self, budget: usize, order: &impl Fn(u32, u32) -> Ordering) -> usize {
        let (from, until) = (self.merged.len(), (self.merged.len() + budget).min(self.count));
        while self.merged.len() < until {
            // The pair of runs that the next merged item belongs to.
            let base = self.merged.len() / (2 * self.width) * (2 * self.width);
            let middle = self.count.min(base + self.width);
            let end = self.count.min(base + 2 * self.width);
            let take_left = match (self.left < middle, self.right < end) {
                (true, true) => {
                    order(self.items[self.left], self.items[self.right]) != Ordering::Greater
                }
                (more_left, _) => more_left,
            };
            let next = if take_left { &mut self.left } else { &mut self.right };
            self.merged.push(self.items[*next]);
            *next += 1;
            if self.merged.len() == end {
                (self.left, self.right) = (end, self.count.min(end + self.width));
            }
        }
        let done = self.merged.len() - from;
        if self.merged.len() == self.count {
            std::mem::swap(&mut self.items, &mut self.merged);
            self.merged.clear();
            self.width *= 2;
            (self.left, self.right) = (0, self.count.min(self.width));
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    proptest! {
        #[test]
        fn it_sorts_within_its_budget(
            keys in proptest::collection::vec(0u32..500, 0..2000),
            budget in 1usize..700,
        ) {
            let compared = Cell::new(0);
            let mut sorter = Sorter::new(keys.len() as u32);
            let order = |a: u32, b: u32| {
                compared.set(compared.get() + 1);
                (keys[a as usize], a).cmp(&(keys[b as usize], b))
            };
            let got = loop {
                compared.set(0);
                if let Some(sorted) = sorter.step(budget, order) {
                    break sorted;
                }
                let most = budget + 2 * RUN_ITEMS * RUN_COST;
                prop_assert!(compared.get() <= most, "{} of {most}", compared.get());
            };
            let mut want: Vec<u32> = (0..keys.len() as u32).collect();
            want.sort_by_key(|&i| (keys[i as usize], i));
            prop_assert_eq!(got, want);
        }
    }
}
