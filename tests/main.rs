//! All integration tests, in one binary: one link, one process, one list.

// Tells clippy that all of this is test code, free to `expect`.
#![cfg(test)]

mod bucket;
mod gates;
mod live;
mod pages;
mod peer;
mod rust_text;
mod systemd;
mod tidy;
