//! The series a select has found, and the keys they are sorted by.
//!
//! A key is the sort key of the final label set, so it cannot be had from the head's order: an
//! external label may sort before or between the labels of a series, and a removed one may have
//! been the one that made the order. Pages of few keys grow by themselves, so that no growth ever
//! copies more than one page.

use std::cmp::Ordering;

use crate::shard::budget::{Account, OverBudget};
use crate::shard::head::SeriesIndex;

/// Keys of one page.
const PAGE_KEYS: usize = 256;
/// Pages given back in one slice.
const SLICE_PAGES: usize = 32;
/// What a key costs beside its bytes: its entry here and its two numbers in the sorter.
const ENTRY_BYTES: usize = size_of::<Entry>() + 8;

/// Keys in the order they were found, numbered from 0.
#[derive(Debug)]
pub(crate) struct Keys<'b> {
    pages: Vec<Page>,
    account: Account<'b>,
}

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// End of the key in its page; it begins where the one before ends.
    end: u32,
    tenant: u32,
    series: SeriesIndex,
}

impl<'b> Keys<'b> {
    /// No keys.
    pub(crate) fn new(account: Account<'b>) -> Self {
        Self { pages: Vec::new(), account }
    }

    /// Adds a series: its key, which of the select's tenants it is of, and its position.
    pub(crate) fn push(
        &mut self,
        key: &[u8],
        tenant: u32,
        series: SeriesIndex,
    ) -> Result<(), OverBudget> {
        self.account.take(key.len() + ENTRY_BYTES)?;
        if self.pages.last().is_none_or(|page| page.entries.len() == PAGE_KEYS) {
            let like = self.pages.last().map_or(0, |page| page.bytes.len());
            let entries = Vec::with_capacity(PAGE_KEYS);
            self.pages.push(Page { bytes: Vec::with_capacity(like), entries });
        }
        if let Some(page) = self.pages.last_mut() {
            page.bytes.extend_from_slice(key);
            page.entries.push(Entry { end: page.bytes.len() as u32, tenant, series });
        }
        Ok(())
    }

    /// Gives some memory back, as much as a slice may. Whether there is more of it. To drop a
    /// million keys at once would hold up the core for a millisecond.
    pub(crate) fn shed(&mut self) -> bool {
        self.pages.truncate(self.pages.len().saturating_sub(SLICE_PAGES));
        !self.pages.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        let full = self.pages.len().saturating_sub(1) * PAGE_KEYS;
        full + self.pages.last().map_or(0, |page| page.entries.len())
    }

    /// The key with a number.
    pub(crate) fn key(&self, number: u32) -> &[u8] {
        let page = &self.pages[number as usize / PAGE_KEYS];
        let at = number as usize % PAGE_KEYS;
        let from = at.checked_sub(1).map_or(0, |before| page.entries[before].end);
        &page.bytes[from as usize..page.entries[at].end as usize]
    }

    /// The tenant and the position that came with a key.
    pub(crate) fn series(&self, number: u32) -> (u32, SeriesIndex) {
        let entry = self.pages[number as usize / PAGE_KEYS].entries[number as usize % PAGE_KEYS];
        (entry.tenant, entry.series)
    }

    /// The order of two numbers: by key, equal keys as they were found.
    pub(crate) fn order(&self, a: u32, b: u32) -> Ordering {
        self.key(a).cmp(self.key(b)).then(a.cmp(&b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::budget::Budget;

    #[test]
    fn keys_come_back_from_all_pages() {
        let budget = Budget::new(1_000_000);
        let mut keys = Keys::new(budget.account());
        let text = |n: u32| vec![n as u8; n as usize * 7 % 23];
        for n in 0..1000 {
            assert_eq!(keys.len(), n as usize);
            keys.push(&text(n), n % 3, n + 5).expect("room");
        }
        for n in 0..1000 {
            assert_eq!(keys.key(n), text(n), "key {n}");
            assert_eq!(keys.series(n), (n % 3, n + 5));
        }
        assert_eq!(keys.order(0, 23), Ordering::Less, "both are empty");
        let bytes: usize = (0..1000).map(|n| text(n).len() + 20).sum();
        assert_eq!(budget.held(), bytes);
        let mut more = true;
        while more {
            more = keys.shed();
            assert!(!more || keys.len() > 0);
        }
        assert_eq!(keys.len(), 0);
    }
}
