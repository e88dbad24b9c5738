#![doc = include_str!("../ARCHITECTURE.md")]

pub mod api;

pub mod store_api;

pub mod query;

pub mod shard;

pub mod block;

pub mod decode;
pub mod frame;
pub mod index;

pub mod chunk;
pub mod promql;
pub mod rt;

pub mod model;
pub mod telemetry;

pub mod stdx;
