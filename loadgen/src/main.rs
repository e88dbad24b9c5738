//! stub
mod error;
mod scenario;
mod stream;
mod shape;
mod encode;
mod snappy;
mod payload;
mod throttle;
mod http;
mod ledger;
mod sender;
mod xor;
fn main() {}
