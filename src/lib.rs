#![doc = include_str!("../ARCHITECTURE.md")]

pub mod promql;

pub mod rt;

pub mod model;

pub mod stdx;
