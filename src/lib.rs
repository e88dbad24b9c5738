#![doc = include_str!("../ARCHITECTURE.md")]

pub mod decode;

pub mod rt;

pub mod model;

pub mod stdx;
