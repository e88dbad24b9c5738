//! Shards on the storage twin: what is acknowledged survives, and what is stored is found.

mod flush;
mod power_cut;
mod recover;
mod reading;
mod select;
mod sent_on;
mod sync_errors;
mod tenants;
mod truncation;
mod world;
