//! Peers: programs of others that a test needs, and what is said when one is missing.
//!
//! Without its peer a test passes, and says so on the real standard error: what is printed with a
//! macro is shown for failed tests alone. Under `CI` a missing peer fails the test.
//! Tests of the library take this file in by its path.

use std::io::{self, Write as _};

/// Whether a peer may run.
pub(crate) fn is_there(found: io::Result<impl Sized>, name: &str, what: &str) -> bool {
    let missing = found.err().map(|error| format!("{name} ({error})"));
    missing.is_none_or(|missing| skip(what, &missing))
}

/// Says that `what` was skipped for want of something. Always false.
pub(crate) fn skip(what: &str, missing: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "CI must have {missing} for: {what}");
    let line = format!("skipped: {what}, for want of {missing}\n");
    io::stderr().write_all(line.as_bytes()).ok();
    false
}
