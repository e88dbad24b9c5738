#![doc = include_str!("../ARCHITECTURE.md")]

pub mod api;
pub mod tools;
pub mod server;

pub mod listener;
pub mod store_api;

pub mod route;
pub mod query;
pub mod ship;

pub mod shard;
pub mod bucket;

pub mod block;

pub mod index;
pub mod decode;
pub mod frame;

pub mod config;
pub mod chunk;
pub mod promql;
pub mod rt;

pub mod model;
pub mod telemetry;

pub mod stdx;

#[cfg(test)]
#[path = "../tests/peer.rs"]
mod peer;
