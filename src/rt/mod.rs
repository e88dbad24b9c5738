//! The only door to the kernel: cores, files, sockets, clocks, threads, channels.
//!
//! Everything above this folder is plain logic over the types here.

pub mod beside;
pub mod channel;
pub mod sink;

pub use sink::{DirSink, Sink};
