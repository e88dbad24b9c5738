//! The judge before real servers: it compares three, finds nothing wrong where nothing is, and
//! finds what a ledger makes up.

// Tells clippy that all of this is test code, free to `expect`.
#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    reason = "clocks, threads and processes are ours here: the judge runs outside"
)]

#[path = "../../tests/peer.rs"]
mod peer;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");
/// In the order of the table.
const TARGETS: [&str; 3] = ["tidegate", "prometheus", "victoria-metrics"];
const PATIENCE: Duration = Duration::from_secs(30);

/// The receiver, which a build of the workspace puts beside the judge.
fn tidegate() -> Option<PathBuf> {
    let path = Path::new(LOADGEN).with_file_name("tidegate");
    peer::is_there(fs::metadata(&path), "tidegate (cargo build)", "the judge before Tidegate")
        .then_some(path)
}

fn loadgen(args: &[&str]) -> Output {
    Command::new(LOADGEN).args(args).output().expect("runs")
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn three_receivers_are_compared_and_verified() {
    let Some(tidegate) = tidegate() else { return };
    for name in ["prometheus", "victoria-metrics"] {
        if !peer::is_there(fs::metadata(format!("/usr/bin/{name}")), name, "a comparison of three")
        {
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (work_dir, results, report) = (place(""), place("turns.jsonl"), place("report.json"));
    let (tidegate, targets) = (tidegate.display().to_string(), TARGETS.join(","));
    let small = ["--scenario=smoke", "--series=5000", "--rounds=20", "--warmup-rounds=2"];
    let how = ["compare", "--verify", "--turns=1", "--settle-s=0", "--targets", &targets];
    let where_to = ["--tidegate", &tidegate, "--work-dir", &work_dir, "--results", &results];
    let args = [&how[..], &small, &where_to, &["--report", &report]].concat();
    let output = loadgen(&args);
    let (table, said) = (words(&output.stdout), words(&output.stderr));
    assert!(output.status.success(), "{table}\n{said}");
    check_table(&table);
    check_report(&fs::read(&report).expect("a report"));
    assert_eq!(said.matches(" ns/sample, p99 ").count(), 3, "each turn is told: {said}");
    // Turns that are done are not run again.
    let again = loadgen(&args);
    assert!(again.status.success() && !words(&again.stderr).contains(" ns/sample, p99 "));
    assert_eq!(words(&again.stdout), table);
}

fn check_table(table: &str) {
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
    assert_eq!(head[..5], ["scenario", "target", "dur", "turns", "ns/smpl"], "{table}");
    for (target, durability) in TARGETS.into_iter().zip(["D2", "D1", "D0"]) {
        let row: Vec<&str> = lines.next().expect("a row").split_whitespace().collect();
        assert_eq!(row[..4], ["smoke", target, durability, "1"], "{table}");
        assert!(row[4].parse::<f64>().is_ok_and(|ns| ns > 0.0), "{table}");
    }
    assert_eq!(lines.next(), None, "and nothing is broken");
}

fn check_report(report: &[u8]) {
    let rows: Vec<Value> = serde_json::from_slice(report).expect("a list of rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["target"].as_str()).collect();
    assert_eq!(names, TARGETS);
    for row in &rows {
        for key in ["samples_per_second", "p50_ms", "p99_ms", "rss_size_max", "cpu_ratio"] {
            let number = row[key].as_f64();
            assert!(number.is_some_and(|number| number > 0.0), "{key}: {row}");
        }
        let found = [&row["differences"], &row["refused_requests"], &row["turns"]];
        assert_eq!(found.map(Value::as_u64), [Some(0), Some(0), Some(1)], "{row}");
    }
    assert!((rows[0]["cpu_ratio"].as_f64().expect("a ratio") - 1.0).abs() < f64::EPSILON);
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts Tidegate below a folder; where it takes writes, and its StoreAPI.
fn start(tidegate: &Path, folder: &Path) -> (Running, String, String) {
    let log = folder.join("tidegate.log");
    let mut command = Command::new(tidegate);
    command.arg("receive").arg("--tsdb.path").arg(folder.join("data"));
    for door in ["remote-write.address", "grpc-address", "http-address"] {
        command.arg(format!("--{door}=127.0.0.1:0"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(fs::File::create(&log).expect("a log")).spawn();
    let running = Running(child.expect("starts"));
    let (write, grpc) = wait_for("the doors", || {
        let log = fs::read_to_string(&log).ok()?;
        let line = log.lines().find(|line| line.contains(" msg=listening "))?.to_owned();
        let of = |key: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(key))?;
            Some(value.trim_matches(['[', ']']).to_owned())
        };
        Some((of("remote_write=")?, of("grpc=")?))
    });
    (running, format!("http://{write}/api/v1/receive"), grpc)
}

/// The null target; it acknowledges all and stores nothing.
fn sink() -> (Running, String) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let at = free.expect("a free port").to_string();
    let child = Command::new(LOADGEN).args(["sink", "--listen", &at]).spawn().expect("starts");
    let running = Running(child);
    wait_for("the sink", || std::net::TcpStream::connect(&at).ok());
    (running, format!("http://{at}/"))
}

#[test]
fn a_ledger_that_makes_up_an_answer_fails_the_check() {
    let Some(tidegate) = tidegate() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("ledger").display().to_string();
    let (_running, write, grpc) = start(&tidegate, folder.path());
    let load = |target: &str, rounds: &str| {
        let args = ["run", "--scenario=smoke", "--series=500", "--warmup-rounds=0", rounds];
        let output = loadgen(&[&args[..], &["--target", target, "--ledger", &ledger]].concat());
        assert!(output.status.success(), "{}", words(&output.stderr));
    };
    let verify = || {
        let output = loadgen(&["verify", "--ledger", &ledger, "--store-api", &grpc]);
        (output.status.code(), words(&output.stdout) + &words(&output.stderr))
    };
    // The doors are open before it is ready; the judge tries again.
    load(&write, "--rounds=4");
    let (code, said) = verify();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("acknowledged 2000, stored 2000 (of these never acknowledged: 0)"),
        "{said}"
    );
    // Somebody else acknowledges a round that the target never sees.
    let (_sink, elsewhere) = sink();
    load(&elsewhere, "--rounds=5");
    let (code, said) = verify();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("BROKEN: lost: 500"), "{said}");
}

/// Awkward values, renamed targets and repeated requests. Each answer says that all was written,
/// or the judge counts the request as refused and fails.
#[test]
fn what_comes_by_2_0_is_all_there() {
    let Some(tidegate) = tidegate() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("ledger").display().to_string();
    let (_running, write, grpc) = start(&tidegate, folder.path());
    let small = ["run", "--scenario=exact", "--series=1000", "--rounds=12", "--warmup-rounds=0"];
    let to = ["--protocol=2.0", "--target", &write, "--ledger", &ledger];
    let output = loadgen(&[&small[..], &to].concat());
    let said = words(&output.stdout);
    assert!(output.status.success(), "{said}{}", words(&output.stderr));
    assert!(said.contains("acknowledged           12000 samples"), "{said}");
    let output = loadgen(&["verify", "--ledger", &ledger, "--store-api", &grpc]);
    let said = words(&output.stdout) + &words(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("stored 12000 (of these never acknowledged: 0)"), "{said}");
}
