//! The program itself, run as a user runs it: real sockets, real signals, a real disk.
//!
//! | file | what is asked |
//! |---|---|
//! | `age` | how old may a sample be |
//! | `kill` | is what was acknowledged there after kill -9, once, and nothing else |
//! | `steps` | and after a death at each named step from the head to the bucket |
//! | `flags` | does each flag that acts act, at the door it is about |
//! | `histograms` | are native histograms of a stock Prometheus the same here, and in blocks |
//! | `hostile` | does a bad request cost its sender alone, with the right status and counter |
//! | `limits` | may a tenant write what its limits say, and no more |
//! | `inspect` | does it say what a log holds, and what is none |
//! | `numbers` | is every metric fed, and can it be read |
//! | `readers` | does a message at the gRPC door cost its sender alone |
//! | `receiver` | does it answer as a receiver of remote write must, in both versions |
//! | `out_of_order` | are late samples stored within the window, and those beyond it refused |
//! | `prometheus` | does a stock Prometheus write into it, and is the data read back |
//! | `scarce` | what does it do without descriptors, without space, where it may not write |
//! | `shares` | what do readers and writers get of a core that both want |
//! | `stop` | does it end soon, whatever its clients do |
//! | `outage` | does intake notice that the bucket is down, and do all blocks come after |
//! | `shard_label` | does a restart change the labels of what is in blocks |
//! | `traps` | does it start, run and stop in the places where such programs fail |
//!
//! [`harness`] starts and stops the program, [`wire`] speaks its protocols, [`ledger`] knows what
//! was sent and acknowledged, [`blocks`] looks at what lies on disk. A line of the program's log
//! that warns fails a test.

#![expect(
    clippy::disallowed_methods,
    reason = "clocks, threads and the environment are ours here: the program under test is outside"
)]

mod blocks;
mod age;
mod flags;
mod harness;
mod histograms;
mod hostile;
mod inspect;
mod kill;
mod ledger;
mod limits;
mod out_of_order;
mod outage;
mod numbers;
mod prometheus;
mod readers;
mod receiver;
mod scarce;
mod shares;
mod stop;
#[cfg(debug_assertions)]
mod steps;
mod shard_label;
mod traps;
mod wire;
