//! What Debian's promtool says about our blocks.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Reader, chunk_file, inputs, read, ulid, verify, write};
use crate::model::Labels;
use crate::peer;

/// Runs promtool. `None` when there is none.
fn promtool(args: &[&str], dir: &Path) -> Option<String> {
    let output = Command::new("promtool").args(args).arg(dir).output();
    if let Err(error) = output {
        peer::is_there(Err::<(), _>(error), "promtool", "our blocks as promtool reads them");
        return None;
    }
    let output = output.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {out}\n{err}");
    Some(out)
}

/// A line of promtool's dump, `{labels} value time`: labels, time, bits with one NaN for all.
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

#[test]
fn a_block_of_promtool_is_sound_and_holds_its_samples() {
    let dir = TempDir::new().expect("a directory");
    let (input, output) = (dir.path().join("input"), dir.path().join("blocks"));
    let mut text = String::new();
    let mut want = Vec::new();
    // OpenMetrics wants seconds, families together and each series in order.
    for job in 0..40 {
        for i in 0..300 {
            let (t, value) = (1_700_000_000 + i * 15, f64::from(job) * 0.1 + f64::from(i % 7));
            let _ = writeln!(text, "up{{job=\"j{job}\",path=\"a\\\"b\"}} {value} {t}");
            let labels = [("__name__", "up".to_owned()), ("job", format!("j{job}"))];
            let labels = labels.into_iter().chain([("path", "a\"b".to_owned())]);
            let labels = Labels::new(labels).expect("labels").to_string();
            want.push((labels, i64::from(t) * 1000, value.to_bits()));
        }
    }
    text.push_str("# EOF\n");
    fs::write(&input, text).expect("a file");
    let input = input.to_str().expect("a path");
    let args = ["tsdb", "create-blocks-from", "openmetrics", input];
    if promtool(&args, &output).is_none() {
        return;
    }
    let mut got = Vec::new();
    for entry in fs::read_dir(&output).expect("a directory") {
        let path = entry.expect("a block").path();
        let health = verify(&path).expect("a sound block");
        assert_eq!((health.stats.num_series, health.label_pairs), (40, 42));
        let block = Reader::open(&path).expect("a block");
        for at in block.select(&[], &|| false).expect("all series") {
            let series = read(&block, at);
            let labels = series.labels.to_string();
            got.extend(series.chunks.concat().iter().map(|s| (labels.clone(), s.t, s.bits)));
        }
    }
    want.sort();
    got.sort();
    assert!(got == want, "{} samples of {}", got.len(), want.len());
}
