//! What stands behind the numbers of one log while it is read.
//!
//! Numbers are given in order and never again, and a scrape names neighbours one after the other.
//! So they lie in pages of neighbours: a sample looks at the page of the one before it, and only a
//! sample in another page looks that page up. Pages of numbers that nobody names take no room.

use std::collections::HashMap;

use crate::shard::head::{SeriesIndex, TenantIndex};

/// Numbers of one page.
const PAGE: usize = 64;

/// A number of a log, and where its samples go.
#[derive(Debug, Default)]
pub(super) enum Known {
    /// Nobody has told its labels.
    #[default]
    Unknown,
    /// Another shard owns it.
    Foreign(TenantIndex),
    /// No sample was met yet.
    Waiting(Box<Waiting>),
    /// In the head: whose, in which slot, and where.
    Here(TenantIndex, u8, SeriesIndex),
}

const _: () = assert!(size_of::<Known>() == 16);

/// A series that is made when its first sample comes.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) tenant: TenantIndex,
    pub(super) key: u128,
    /// Its canonical label region.
    pub(super) region: Box<[u8]>,
}

/// The numbers of a log.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    places: HashMap<u64, usize>,
    pages: Vec<[Known; PAGE]>,
    /// Whoever is not known below this number is gone: its samples are all in blocks.
    pub(super) floor: u64,
    /// The page that was looked at last, and its place.
    last: Option<(u64, usize)>,
}

impl Numbers {
    /// What is known of a number.
    #[inline]
    pub(super) fn get(&mut self, id: u64) -> Option<&mut Known> {
        let (page, within) = (id / PAGE as u64, id as usize % PAGE);
        let place = match self.last {
            Some((last, place)) if last == page => place,
            _ => *self.places.get(&page)?,
        };
        self.last = Some((page, place));
        Some(&mut self.pages[place][within])
    }

    /// What is known of a number, to be set.
    pub(super) fn entry(&mut self, id: u64) -> &mut Known {
        let (page, within) = (id / PAGE as u64, id as usize % PAGE);
        let place = *self.places.entry(page).or_insert_with(|| {
            self.pages.push([const { Known::Unknown }; PAGE]);
            self.pages.len() - 1
        });
        &mut self.pages[place][within]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_far_apart_take_little_room() {
        let mut numbers = Numbers::default();
        let ids = [1, 2, 63, 64, 65, 1 << 40, u64::MAX];
        for (i, &id) in ids.iter().enumerate() {
            assert!(matches!(numbers.entry(id), Known::Unknown), "{id}");
            *numbers.entry(id) = Known::Foreign(i as u32);
        }
        for (i, &id) in ids.iter().enumerate() {
            assert!(matches!(numbers.get(id), Some(Known::Foreign(t)) if *t == i as u32), "{id}");
        }
        assert!(matches!(numbers.get(3), Some(Known::Unknown)));
        assert!(numbers.get(1 << 41).is_none());
        assert_eq!(numbers.pages.len(), 4);
    }
}
