//! The only door to the kernel: cores, files, sockets, clocks, threads, channels.
//!
//! Everything above this folder is plain logic over the types here.

pub mod beside;
pub mod channel;
pub mod clock;
pub mod control;
pub mod core;
pub mod door;
pub mod files;
pub mod map;
pub mod memory;
pub mod mesh;
pub mod process;
pub mod quota;
pub mod sink;
pub mod step;
pub mod storage;
pub mod storage_sink;
pub mod thread;

#[cfg(test)]
pub(crate) mod allocations;
#[cfg(test)]
pub(crate) mod twin;

pub use map::Map;
pub use memory::prefetch;
pub use sink::{DirSink, Sink};
pub use storage_sink::StorageSink;
