//! What std could have had. No word of the domain lives here; an item stays only while two
//! folders use it and std lacks it.

/// CRC-32C (Castagnoli), as all formats of the field have it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The next number of `SplitMix64` (Steele, Lea, Flood 2014): spreads well, keeps no secret.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A setting of a test.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own settings")]
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The seeds of a test: `TIDEGATE_SEEDS` of them or, unless it is said, `short`; with
/// `TIDEGATE_SEED` just that one.
#[cfg(test)]
pub(crate) fn seeds(short: u64) -> std::ops::Range<u64> {
    match (number("TIDEGATE_SEED"), number("TIDEGATE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..short,
    }
}

pub mod hex;
pub mod signal;
pub(crate) mod sort;
pub mod varint;
