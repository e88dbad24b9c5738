//! The key of a series: a keyed 128-bit hash of its tenant and its label bytes.
//!
//! A key stands for a label set without looking at it, so nobody outside may be able to make two
//! sets meet: the hash is keyed by a secret that was made with the data directory. Each tenant has
//! a secret of its own, derived by SHA-256; the labels are then hashed with XXH3-128 under it.

use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

use crate::model::TenantId;

/// Length of the secret of a data directory in bytes.
pub const SECRET_BYTES: usize = 32;
/// Length of a secret of XXH3 in bytes.
const XXH3_SECRET_BYTES: usize = 192;

/// Derives the keys of a data directory.
#[derive(Clone)]
pub struct KeySecret([u8; SECRET_BYTES]);

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret(<redacted>)")
    }
}

impl KeySecret {
    /// From the bytes kept in the data directory.
    pub fn new(secret: [u8; SECRET_BYTES]) -> Self {
        Self(secret)
    }

    /// What makes the keys of one tenant. Costs about two microseconds: keep it.
    pub fn of(&self, tenant: &TenantId) -> TenantKeys {
        let mut secret = [0; XXH3_SECRET_BYTES];
        for (i, part) in secret.chunks_mut(32).enumerate() {
            let mut hash = Sha256::new();
            hash.update(self.0);
            hash.update([i as u8]);
            hash.update(tenant.as_str());
            part.copy_from_slice(&hash.finalize());
        }
        TenantKeys(Box::new(secret))
    }
}

/// Makes the keys of one tenant.
#[derive(Clone)]
pub struct TenantKeys(Box<[u8; XXH3_SECRET_BYTES]>);

impl std::fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantKeys(<redacted>)")
    }
}

impl TenantKeys {
    /// The key of a label region.
    #[inline]
    pub fn key(&self, region: &[u8]) -> u128 {
        // The only error is a secret that is too short, and this one is not.
        XxHash3_128::oneshot_with_secret(&self.0[..], region).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_secret_tenant_and_bytes() {
        let key = |secret: u8, tenant: &str, region: &[u8]| {
            let tenant = TenantId::new(tenant).expect("a tenant");
            KeySecret::new([secret; 32]).of(&tenant).key(region)
        };
        let long = [7_u8; 300];
        for region in [&b"a"[..], &[1; 20], &long] {
            let base = key(1, "a", region);
            assert_eq!(base, key(1, "a", region));
            assert_ne!(base, key(2, "a", region));
            assert_ne!(base, key(1, "b", region));
            assert_ne!(base, key(1, "a", &region[1..]));
            assert_ne!(base, 0);
        }
    }
}
