//! The table of what stages may cost, and what is said when one costs more.
//!
//! ```text
//! # what a line that begins so says is for people
//! stage    instructions per sample
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How far from the table a stage may be, in percent. Above, the gate is shut; below, the table is
/// to be renewed, or it would let the same amount of work creep back in.
const TOLERANCE_PERCENT: f64 = 3.0;

const HEAD: &str = "\
# Instructions per sample of the stages of the write path: benches/README.md says how they are
# counted. Written by `cargo run --release -p tidegate-gates -- renew`.
";

/// Instructions per sample, by stage.
pub(crate) type Table = BTreeMap<String, f64>;

/// What is to be said of a count.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The counts beside the table, a line for each stage.
    pub(crate) lines: Vec<String>,
    /// Whether a stage costs more than it may, or is missing on one side.
    pub(crate) shut: bool,
    /// Whether a stage costs less than the table says.
    pub(crate) stale: bool,
}

/// Reads a table.
pub(crate) fn read(text: &str) -> Table {
    let row = |line: &str| {
        let (stage, cost) = line.split_once(' ')?;
        Some((stage.to_owned(), cost.trim().parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// Writes a table, its rows in the order of `stages`.
pub(crate) fn write(table: &Table, stages: &[&str]) -> String {
    let mut text = HEAD.to_owned();
    for stage in stages {
        if let Some(cost) = table.get(*stage) {
            writeln!(text, "{stage:<10}{cost:>8.1}").expect("text takes text");
        }
    }
    text
}

/// Holds a count against the table.
pub(crate) fn compare(counted: &Table, table: &Table, stages: &[&str]) -> Findings {
    let mut findings = Findings::default();
    for &stage in stages {
        let (Some(&now), Some(&before)) = (counted.get(stage), table.get(stage)) else {
            findings.lines.push(format!("{stage:<10} is not in the table, or was not counted"));
            findings.shut = true;
            continue;
        };
        let percent = (now / before - 1.0) * 100.0;
        let verdict = if percent > TOLERANCE_PERCENT {
            findings.shut = true;
            "  too many"
        } else if percent < -TOLERANCE_PERCENT {
            findings.stale = true;
            "  fewer: renew the table"
        } else {
            ""
        };
        let line = format!("{stage:<10}{now:>8.1}  table{before:>8.1}  {percent:>+6.1} %{verdict}");
        findings.lines.push(line);
    }
    findings
}
