#![doc = include_str!("../ARCHITECTURE.md")]

pub mod ship;

pub mod shard;
pub mod bucket;

pub mod decode;

pub mod config;
pub mod chunk;
pub mod rt;

pub mod model;

pub mod stdx;
