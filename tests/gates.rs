//! The judgement of the instruction gates: what opens them, what shuts them.

#[path = "../benches/gates/table.rs"]
mod table;

use table::{Findings, Table, compare, read, write};

const STAGES: [&str; 2] = ["decode", "log"];

fn table(decode: f64, log: f64) -> Table {
    Table::from([("decode".to_owned(), decode), ("log".to_owned(), log)])
}

fn judge(counted: &Table) -> (bool, bool) {
    let Findings { lines, shut, stale } = compare(counted, &table(200.0, 50.0), &STAGES);
    assert_eq!(lines.len(), STAGES.len(), "each stage is told");
    (shut, stale)
}

#[test]
fn more_than_three_percent_above_shuts_the_gate() {
    assert_eq!(judge(&table(200.0, 50.0)), (false, false));
    assert_eq!(judge(&table(205.9, 48.6)), (false, false));
    assert_eq!(judge(&table(206.1, 50.0)), (true, false));
    assert_eq!(judge(&table(200.0, 48.4)), (false, true), "fewer: the table is stale");
    assert_eq!(judge(&table(400.0, 1.0)), (true, true));
}

#[test]
fn a_stage_that_was_not_counted_shuts_the_gate() {
    let mut counted = table(200.0, 50.0);
    counted.remove("log");
    assert_eq!(judge(&counted), (true, false));
    assert_eq!(judge(&Table::new()), (true, false));
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let counts = table(428.6, 0.1);
    assert_eq!(read(&write(&counts, &STAGES)), counts);
    let shipped = read(include_str!("../benches/instructions.txt"));
    assert!(["decode", "scan", "probe", "append", "log"].iter().all(|s| shipped.contains_key(*s)));
}
