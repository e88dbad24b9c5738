//! What Debian's promtool says about our blocks.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{chunk_file, inputs, ulid, write};

/// Runs promtool. `None` when there is none, which only a machine of the CI may not say.
fn promtool(args: &[&str], dir: &Path) -> Option<String> {
    let output = match Command::new("promtool").args(args).arg(dir).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "promtool cannot be run: {error}");
            println!("skipped: promtool cannot be run: {error}");
            return None;
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {out}\n{err}");
    Some(out)
}

/// `{labels} value time` as promtool prints it: labels, the value's bits with one NaN for all, time.
fn parse(line: &str) -> (String, i64, u64) {
    let mut parts = line.rsplitn(3, ' ');
    let (t, value, labels) = (parts.next(), parts.next(), parts.next());
    let value: f64 = value.expect("a value").parse().expect("a number");
    (
        labels.expect("labels").to_owned(),
        t.expect("a time").parse().expect("a time"),
        any_nan(value),
    )
}

fn any_nan(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

#[test]
fn promtool_dumps_every_sample() {
    let inputs = inputs();
    let mut want: Vec<(String, i64, u64)> = Vec::new();
    for input in &inputs {
        for sample in input.chunks.iter().flatten() {
            want.push((input.labels.to_string(), sample.t, any_nan(sample.value())));
        }
    }
    want.sort();
    for file_bytes_max in [chunk_file::FILE_BYTES_MAX, 50_000] {
        let dir = TempDir::new().expect("a directory");
        write(dir.path(), file_bytes_max, &inputs);
        fs::create_dir(dir.path().join("wal")).expect("a directory");
        let Some(dump) = promtool(&["tsdb", "dump"], dir.path()) else { return };
        let mut got: Vec<_> = dump.lines().map(parse).collect();
        got.sort();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got, want);
        }
    }
}

#[test]
fn promtool_analyzes_the_index() {
    let dir = TempDir::new().expect("a directory");
    write(dir.path(), chunk_file::FILE_BYTES_MAX, &inputs());
    fs::create_dir(dir.path().join("wal")).expect("a directory");
    let Some(text) = promtool(&["tsdb", "analyze"], dir.path()) else { return };
    assert!(text.contains(&format!("Block ID: {}", ulid())), "{text}");
    assert!(text.contains("Series: 300"), "{text}");
    assert!(text.contains("Label names: 4"), "{text}");
    assert!(text.contains("Duration: 2h0m0s"), "{text}");
}
