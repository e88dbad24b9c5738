#![doc = include_str!("../ARCHITECTURE.md")]

pub mod listener;

pub mod rt;

pub mod model;

pub mod stdx;
