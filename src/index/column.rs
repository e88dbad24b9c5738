//! Long arrays that grow without a jolt.
//!
//! A `Vec` that doubles copies all it holds in one stretch, which at a million series costs a core
//! milliseconds. These two grow by a page, and what they hold never moves.

/// Items of a page of a [`Column`].
const PAGE_ITEMS: usize = 1 << 13;

/// An array in pages.
#[derive(Debug)]
pub(super) struct Column<T> {
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T: Copy> Column<T> {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, item: T) {
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE_ITEMS => page.push(item),
            _ => {
                let mut page = Vec::with_capacity(PAGE_ITEMS);
                page.push(item);
                self.pages.push(page);
            }
        }
        self.len += 1;
    }

    #[inline]
    pub(super) fn at(&self, i: u32) -> T {
        self.pages[i as usize / PAGE_ITEMS][i as usize % PAGE_ITEMS]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, i: u32) -> &mut T {
        &mut self.pages[i as usize / PAGE_ITEMS][i as usize % PAGE_ITEMS]
    }

    /// Adds one page of `fill`, or less at the end, towards `len`. True when it is reached.
    pub(super) fn grow_towards(&mut self, len: usize, fill: T) -> bool {
        if self.len < len {
            debug_assert_eq!(self.len % PAGE_ITEMS, 0, "grown by pages only");
            let items = (len - self.len).min(PAGE_ITEMS);
            let mut page = Vec::with_capacity(PAGE_ITEMS);
            page.resize(items, fill);
            self.pages.push(page);
            self.len += items;
        }
        self.len == len
    }
}

/// Pages that are freed at once: giving hundreds of megabytes back is work, too.
const FREE_PAGES: usize = 8;

/// Frees some pages from the end. True when none is left.
fn free_some<T>(pages: &mut Vec<Vec<T>>) -> bool {
    pages.truncate(pages.len().saturating_sub(FREE_PAGES));
    pages.is_empty()
}

impl<T> Column<T> {
    /// Frees some memory; nothing may be asked of the column any more. True when all is free.
    pub(super) fn free_some(&mut self) -> bool {
        free_some(&mut self.pages)
    }
}

/// Bytes of a page of [`Records`].
const PAGE_BYTES: usize = 1 << 16;

/// Most pages: a place has 16 bits for its page.
const PAGES_MAX: usize = 1 << 16;

/// Where a record begins: page in the high 16 bits, offset in the low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// Byte records in pages. A record lies in one piece; one that is longer than a page gets a page
/// of its own length.
#[derive(Debug, Default)]
pub(super) struct Records {
    pages: Vec<Vec<u8>>,
}

impl Records {
    /// Adds a record, not empty. `None` when there are too many pages, beyond 4 GiB or so.
    pub(super) fn push(&mut self, record: &[u8]) -> Option<Place> {
        debug_assert!(!record.is_empty(), "an empty record has no place of its own");
        let fits = |page: &&mut Vec<u8>| page.capacity() - page.len() >= record.len();
        if self.pages.last_mut().as_ref().is_none_or(|page| !fits(page)) {
            if self.pages.len() == PAGES_MAX {
                return None;
            }
            self.pages.push(Vec::with_capacity(record.len().max(PAGE_BYTES)));
        }
        let number = self.pages.len() - 1;
        let page = self.pages.last_mut()?;
        let place = Place((number << 16 | page.len()) as u32);
        page.extend_from_slice(record);
        Some(place)
    }

    /// The bytes from a place to the end of its page; the record tells its own length.
    #[inline]
    pub(super) fn from(&self, place: Place) -> &[u8] {
        &self.pages[(place.0 >> 16) as usize][place.0 as usize & 0xffff..]
    }

    /// Frees some memory; nothing may be asked of the records any more. True when all is free.
    pub(super) fn free_some(&mut self) -> bool {
        free_some(&mut self.pages)
    }

    /// A page: whole records in the order of pushing. `None` behind the last.
    pub(super) fn page(&self, number: usize) -> Option<&[u8]> {
        self.pages.get(number).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_an_array() {
        let mut column = Column::new();
        for i in 0..3 * PAGE_ITEMS as u32 + 5 {
            column.push(i);
        }
        *column.at_mut(PAGE_ITEMS as u32) += 1;
        assert_eq!(column.len(), 3 * PAGE_ITEMS + 5);
        assert_eq!(column.at(PAGE_ITEMS as u32 - 1), PAGE_ITEMS as u32 - 1);
        assert_eq!(column.at(PAGE_ITEMS as u32), PAGE_ITEMS as u32 + 1);
        let mut column = Column::new();
        let grown: Vec<bool> = (0..4).map(|_| column.grow_towards(2 * PAGE_ITEMS + 1, 7)).collect();
        assert_eq!(grown, [false, false, true, true]);
        assert_eq!(column.len(), 2 * PAGE_ITEMS + 1);
        assert_eq!(column.at(2 * PAGE_ITEMS as u32), 7);
        assert!(column.free_some());
    }

    #[test]
    fn records_keep_their_place_and_order() {
        let mut records = Records::default();
        let sizes = [1, PAGE_BYTES - 1, 1, PAGE_BYTES + 1, 1, 40_000, 40_000, PAGE_BYTES];
        let places: Vec<Place> = sizes
            .iter()
            .enumerate()
            .map(|(i, &n)| records.push(&vec![i as u8; n]).expect("room"))
            .collect();
        for (i, (&place, &n)) in places.iter().zip(&sizes).enumerate() {
            assert_eq!(records.from(place)[..n], vec![i as u8; n][..], "record {i}");
        }
        let pages: Vec<usize> = (0..).map_while(|p| records.page(p).map(<[u8]>::len)).collect();
        assert_eq!(pages, [PAGE_BYTES, 1, PAGE_BYTES + 1, 40_001, 40_000, PAGE_BYTES]);
    }
}
