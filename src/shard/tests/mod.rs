//! Shards on the storage twin: what is acknowledged survives.

mod flush;
mod power_cut;
mod world;
