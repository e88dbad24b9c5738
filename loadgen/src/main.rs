//! The independent judge: a load, an oracle and a report.

fn main() {}
