#![doc = include_str!("../ARCHITECTURE.md")]

pub mod ship;

pub mod bucket;

pub mod decode;
pub mod shard;

pub mod chunk;
pub mod config;
pub mod rt;

pub mod model;

pub mod stdx;
