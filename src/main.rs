//! The program: parse, start, say how it ended.

fn main() {}
