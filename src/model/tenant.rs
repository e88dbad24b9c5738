//! Whose data it is.
//!
//! A tenant's name comes from a header of a stranger and ends in file names, in label values and
//! in log lines. So it is checked once, here, and only a checked name is a [`TenantId`].

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest tenant name in bytes, as in Mimir.
pub(crate) const TENANT_BYTES_MAX: usize = 150;

/// A checked tenant name: 1 to 150 bytes of `[A-Za-z0-9_.!*'()-]`, not `.` and not `..`, so that
/// it is a single, harmless path element. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

/// Why a name is not a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TenantError {
    /// The name is empty.
    #[error("tenant name is empty")]
    Empty,
    /// The name is too long.
    #[error("tenant name has {got} bytes, at most {TENANT_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// The name holds a byte that is not allowed.
    #[error("tenant name holds byte 0x{byte:02x}; allowed are A-Z a-z 0-9 and _ . ! * ' ( ) -")]
    BadByte {
        /// The first such byte.
        byte: u8,
    },
    /// The name is `.` or `..`.
    #[error("tenant name must not be '.' or '..'")]
    Dots,
}

impl TenantId {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, TenantError> {
        if name.is_empty() {
            return Err(TenantError::Empty);
        }
        if name.len() > TENANT_BYTES_MAX {
            return Err(TenantError::TooLong { got: name.len() });
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"_.!*'()-".contains(b);
        if let Some(byte) = name.bytes().find(|b| !allowed(b)) {
            return Err(TenantError::BadByte { byte });
        }
        if name == "." || name == ".." {
            return Err(TenantError::Dots);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for (name, want) in [
            ("", TenantError::Empty),
            (".", TenantError::Dots),
            ("..", TenantError::Dots),
            ("a/b", TenantError::BadByte { byte: b'/' }),
            ("a\0", TenantError::BadByte { byte: 0 }),
            ("a\nb", TenantError::BadByte { byte: b'\n' }),
            ("é", TenantError::BadByte { byte: 0xc3 }),
        ] {
            assert_eq!(TenantId::new(name), Err(want), "{name:?}");
        }
        assert_eq!(TenantId::new(&"x".repeat(151)), Err(TenantError::TooLong { got: 151 }));
        for name in ["default-tenant", "a", "team_1.eu-west!(x)*'"] {
            assert!(TenantId::new(name).is_ok(), "{name:?}");
        }
    }
}
