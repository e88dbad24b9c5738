#![doc = include_str!("../ARCHITECTURE.md")]

pub mod ship;

pub mod bucket;

pub mod rt;

pub mod model;

pub mod stdx;
