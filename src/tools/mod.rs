//! Looking at what lies on disk: `tidegate inspect ...`.
//!
//! Nothing is opened for writing, so a running receiver is not disturbed.

mod wal;

pub use wal::{InspectError, inspect_wal};
