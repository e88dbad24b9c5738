//! Whose data it is.
//!
//! A tenant's name comes from a header of a stranger and ends in file names, in label values and
//! in log lines. So it is checked once, here, and only a checked name is a [`TenantId`].
//!
//! Thanos takes any name that is one path element; so do we, if it is text without control
//! characters. The folder of a tenant is its name with all bytes but `[A-Za-z0-9_.!*'()-]`
//! percent-encoded: one harmless path element for each name, and one name for each folder.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

/// Longest tenant name in bytes, as in Mimir.
pub(crate) const TENANT_BYTES_MAX: usize = 150;

/// Longest name of a folder in bytes, as Linux has it.
const DIR_BYTES_MAX: usize = 255;

/// What is written otherwise in a folder's name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'-');

/// A checked tenant name: 1 to 150 bytes of UTF-8 without `/` and control characters, not `.` and
/// not `..`, whose folder has a name the file system takes. Cheap to clone.
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
    /// The name of its folder is too long.
    #[error(
        "tenant name has {got} bytes as a folder's name, where each byte but A-Z a-z 0-9 and \
         _ . ! * ' ( ) - takes three; at most {DIR_BYTES_MAX} are allowed"
    )]
    DirTooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// The name is not UTF-8.
    #[error("tenant name is not valid UTF-8")]
    NotUtf8,
    /// The name holds a character that is not allowed.
    #[error("tenant name holds {char:?}; '/' and control characters are not allowed")]
    BadChar {
        /// The first such character.
        char: char,
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
        if let Some(char) = name.chars().find(|c| *c == '/' || c.is_control()) {
            return Err(TenantError::BadChar { char });
        }
        if name == "." || name == ".." {
            return Err(TenantError::Dots);
        }
        let got: usize = utf8_percent_encode(name, ENCODED).map(str::len).sum();
        if got > DIR_BYTES_MAX {
            return Err(TenantError::DirTooLong { got });
        }
        Ok(Self(name.into()))
    }

    /// The tenant whose folder has this name, if it is one's.
    pub fn of_dir(dir: &str) -> Option<Self> {
        let name = percent_decode_str(dir).decode_utf8().ok()?;
        Self::new(&name).ok().filter(|tenant| tenant.dir() == dir)
    }

    /// The name of its folder.
    pub fn dir(&self) -> String {
        utf8_percent_encode(&self.0, ENCODED).to_string()
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
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for (name, want) in [
            ("", TenantError::Empty),
            (".", TenantError::Dots),
            ("..", TenantError::Dots),
            ("a/b", TenantError::BadChar { char: '/' }),
            ("a\0", TenantError::BadChar { char: '\0' }),
            ("a\nb", TenantError::BadChar { char: '\n' }),
            ("a\u{85}", TenantError::BadChar { char: '\u{85}' }),
        ] {
            assert_eq!(TenantId::new(name), Err(want), "{name:?}");
        }
        assert_eq!(TenantId::new(&"x".repeat(151)), Err(TenantError::TooLong { got: 151 }));
        assert_eq!(TenantId::new(&"é".repeat(43)), Err(TenantError::DirTooLong { got: 258 }));
    }

    #[test]
    fn folders_of_names() {
        for (name, dir) in [
            ("default-tenant", "default-tenant"),
            ("team_1.eu-west!(x)*'", "team_1.eu-west!(x)*'"),
            ("a:b@c d", "a%3Ab%40c%20d"),
            ("%2e%2e", "%252e%252e"),
            ("é", "%C3%A9"),
            ("lost+found", "lost%2Bfound"),
        ] {
            let tenant = TenantId::new(name).expect("a name");
            assert_eq!(tenant.dir(), dir);
            assert_eq!(TenantId::of_dir(dir), Some(tenant));
        }
        for dir in ["lost+found", "%2E", "..", "%2E%2E", "a%3ab", "a%2Fb", "%61", "%FF", "a b", ""]
        {
            assert_eq!(TenantId::of_dir(dir), None, "{dir}");
        }
    }

    proptest! {
        #[test]
        fn a_folder_is_one_element_and_one_tenants(
            name in "\\PC{0,60}",
            dir in "[%a-c/.0-9A-F]{0,8}",
        ) {
            if let Ok(tenant) = TenantId::new(&name) {
                let dir = tenant.dir();
                prop_assert!(dir.len() <= DIR_BYTES_MAX && !dir.contains('/') && dir.is_ascii());
                prop_assert_eq!(TenantId::of_dir(&dir), Some(tenant));
            }
            if let Some(tenant) = TenantId::of_dir(&dir) {
                prop_assert_eq!(tenant.dir(), dir);
            }
        }
    }
}
