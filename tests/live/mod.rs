//! The program itself, run as a user runs it: real sockets, real signals, a real disk.
//!
//! | file | what is asked |
//! |---|---|
//! | `kill` | is what was acknowledged there after kill -9, once, and nothing else |
//! | `hostile` | does a bad request cost its sender alone, with the right status and counter |
//! | `numbers` | is every metric fed, and can it be read |
//! | `prometheus` | does a stock Prometheus write into it, and is the data read back |
//! | `scarce` | what does it do without descriptors, without space, where it may not write |
//! | `traps` | does it start, run and stop in the places where such programs fail |
//!
//! [`harness`] starts and stops the program, [`wire`] speaks its protocols. A line of its log that
//! warns fails a test.

#![expect(
    clippy::disallowed_methods,
    reason = "clocks, threads and the environment are ours here: the program under test is outside"
)]

mod harness;
mod hostile;
mod kill;
mod numbers;
mod prometheus;
mod scarce;
mod traps;
mod wire;
