#![doc = include_str!("../ARCHITECTURE.md")]

pub mod chunk;
pub mod rt;

pub mod model;

pub mod stdx;
