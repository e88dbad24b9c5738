//! How much memory the reads of a shard may hold together.
//!
//! A select holds the sort keys of what it found until it has sent it, and a slow receiver can make
//! that long. One budget for all reads of the shard bounds it: the read that goes over it fails and
//! says so, the others and the intake go on.

use std::cell::Cell;

use thiserror::Error;

/// What the reads of one shard may hold, in bytes: a select of a million series with 200 bytes of
/// labels each.
const READ_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The budget of one shard.
#[derive(Debug)]
pub(crate) struct Budget {
    held: Cell<usize>,
    max: usize,
}

/// A read goes over the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "queries hold {held} bytes of labels in this shard and may hold {max}: \
     select fewer series, or run fewer queries at a time"
)]
pub(crate) struct OverBudget {
    /// Held by all reads, in bytes.
    pub(crate) held: usize,
    /// The limit in bytes.
    pub(crate) max: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(READ_BYTES_MAX)
    }
}

impl Budget {
    /// A budget of `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { held: Cell::new(0), max }
    }

    /// An account of one read; it holds nothing yet.
    pub(crate) fn account(&self) -> Account<'_> {
        Account { budget: self, bytes: 0 }
    }

    /// What all reads hold, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }
}

/// What one read holds. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Account<'b> {
    budget: &'b Budget,
    bytes: usize,
}

impl Account<'_> {
    /// Takes `bytes` more, if they are left.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let held = self.budget.held();
        if bytes > self.budget.max.saturating_sub(held) {
            return Err(OverBudget { held, max: self.budget.max });
        }
        self.budget.held.set(held + bytes);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.budget.held.set(self.budget.held() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_it_and_give_it_back() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.account(), budget.account());
        assert_eq!((a.take(60), b.take(40)), (Ok(()), Ok(())));
        assert_eq!(b.take(1), Err(OverBudget { held: 100, max: 100 }));
        drop(a);
        assert_eq!((b.take(60), budget.held()), (Ok(()), 100));
        drop(b);
        assert_eq!(budget.held(), 0);
    }
}
