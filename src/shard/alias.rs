//! Other spellings of known label sets.
//!
//! Senders may write the labels of a series in another order, with empty values, or with lengths
//! in more bytes than needed. The bytes hash to another key, so another shard may be its home. That
//! shard parses the spelling once, writes it the canonical way, and remembers where it leads.
//!
//! ## Limits
//! At most four spellings are remembered per series and shard, and not more than a fixed number of
//! bytes in all: what is beyond works too, but is parsed each time, at its sender's cost.

use std::collections::HashMap;

/// Most spellings remembered per series.
const PER_SERIES_MAX: u8 = 4;
/// Most bytes of all spellings remembered per shard.
const BYTES_MAX: usize = 64 << 20;
/// What one takes beside its region: its places in both tables, one in eight of them empty.
const ENTRY_BYTES: usize = 160;

/// Where a spelling leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alias {
    /// Key of the canonical spelling.
    pub(crate) key: u128,
    /// The canonical label region.
    pub(crate) region: Box<[u8]>,
}

/// The spellings one shard remembers.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    by_spelling: HashMap<u128, Alias>,
    per_series: HashMap<u128, u8>,
    bytes: usize,
}

impl Aliases {
    /// Where a spelling leads, if it is remembered.
    pub(crate) fn find(&self, spelling: u128) -> Option<&Alias> {
        self.by_spelling.get(&spelling)
    }

    /// Remembers a spelling, if there is room.
    pub(crate) fn remember(&mut self, spelling: u128, alias: Alias) {
        let bytes = ENTRY_BYTES + alias.region.len();
        if self.bytes + bytes > BYTES_MAX {
            // Rather than keep an order for a case that sane fleets do not meet: begin again.
            *self = Self::default();
        }
        let count = self.per_series.entry(alias.key).or_default();
        if *count < PER_SERIES_MAX {
            *count += 1;
            self.bytes += bytes;
            self.by_spelling.insert(spelling, alias);
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_spelling.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_spellings_takes_no_room() {
        let mut aliases = Aliases::default();
        for spelling in 0..10_000 {
            aliases.remember(spelling, Alias { key: 7, region: Box::default() });
        }
        assert_eq!(aliases.len(), 4);
        let alias = |key| Alias { key, region: vec![1; 64 << 10].into_boxed_slice() };
        for key in 0..5_000 {
            aliases.remember(key + 1_000_000, alias(key));
            assert!(aliases.len() <= 4 + BYTES_MAX / (64 << 10));
        }
        assert_eq!(aliases.find(1_004_999), Some(&alias(4_999)));
    }
}
