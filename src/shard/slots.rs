//! Which shard owns a series: 256 slots of the hash space, dealt out to the shards.
//!
//! The top byte of a key is its slot. A *generation* is one way of dealing; another number of
//! shards is another generation. Data that was written under an earlier one finds its owner by
//! slot again when the logs are replayed.

/// Number of slots.
pub const SLOTS: usize = 256;

/// A set of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotSet([u8; SLOTS / 8]);

impl SlotSet {
    /// The slots of one shard among `shards`: every `shards`-th.
    pub fn of_shard(shard: u16, shards: u16) -> Self {
        let mut set = Self::default();
        for slot in (0..=255).filter(|&slot| owner(slot, shards) == shard) {
            set.insert(slot);
        }
        set
    }

    /// From a bitmap: slot `s` is bit `s % 8` of byte `s / 8`.
    pub fn from_bytes(bytes: [u8; SLOTS / 8]) -> Self {
        Self(bytes)
    }

    /// As a bitmap.
    pub fn to_bytes(self) -> [u8; SLOTS / 8] {
        self.0
    }

    /// Puts a slot in.
    pub fn insert(&mut self, slot: u8) {
        self.0[usize::from(slot / 8)] |= 1 << (slot % 8);
    }

    /// Whether a slot is in it.
    pub fn contains(&self, slot: u8) -> bool {
        self.0[usize::from(slot / 8)] & (1 << (slot % 8)) != 0
    }

    /// Whether both share a slot.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    /// The slots in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255_u8).filter(|&slot| self.contains(slot))
    }
}

/// The slot of a key.
pub fn slot(key: u128) -> u8 {
    (key >> 120) as u8
}

/// The shard that owns a slot among `shards`.
pub fn owner(slot: u8, shards: u16) -> u16 {
    u16::from(slot) % shards.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_owner() {
        for shards in [1, 2, 3, 7, 256] {
            for slot in 0..=255 {
                let owners: Vec<u16> = (0..shards)
                    .filter(|&shard| SlotSet::of_shard(shard, shards).contains(slot))
                    .collect();
                assert_eq!(owners, [owner(slot, shards)], "slot {slot} of {shards}");
            }
        }
    }
}
