//! One shard on the storage twin: what is acknowledged survives.

mod power_cut;
mod world;
