//! Channels between the cores and the control thread.
//!
//! Tokio's channels need no runtime on the receiving side: a core awaits them like the control
//! thread does, and a wake-up from outside reaches a sleeping core through its eventfd.

pub use tokio::sync::{Barrier, mpsc, oneshot, watch};
