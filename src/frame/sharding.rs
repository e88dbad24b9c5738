//! Vertical sharding: a query front end asks for one part of the series at a time.

use twox_hash::XxHash64;

/// Which part of the series is wanted (`thanos.ShardInfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharding {
    /// The wanted part, counted from 0.
    pub index: i64,
    /// How many parts there are. Less than 1 means that all series are wanted.
    pub total: i64,
    /// Whether `labels` are the ones that are hashed, or the ones that are not.
    pub by: bool,
    /// Label names.
    pub labels: Vec<String>,
}

/// Between name and value and after each value.
const SEPARATOR: u8 = 0xff;

/// Whether the series with the *final* label set `labels` lies in the wanted part.
///
/// As Thanos' `ShardMatcher`: xxhash64 with seed 0 over `name ff value ff` of the chosen labels in
/// order, modulo `total`. An index that no part has selects nothing.
pub fn in_shard(labels: &[(&str, &str)], sharding: &Sharding) -> bool {
    let Ok(total @ 1..) = u64::try_from(sharding.total) else { return true };
    let mut hashed = Vec::with_capacity(256);
    for (name, value) in labels {
        if sharding.labels.iter().any(|l| l == name) == sharding.by {
            for text in [name, value] {
                hashed.extend_from_slice(text.as_bytes());
                hashed.push(SEPARATOR);
            }
        }
    }
    u64::try_from(sharding.index) == Ok(XxHash64::oneshot(0, &hashed) % total)
}
