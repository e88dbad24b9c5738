#![doc = include_str!("../ARCHITECTURE.md")]

pub mod config;
pub mod rt;

pub mod model;

pub mod stdx;
