//! A running `tidegate receive`, on free ports of loopback, with a directory of its own.
//!
//! A [`Node`] is killed when it goes out of scope, also when the test fails. Its log is kept in a
//! file beside the data directory and shown when a test fails; a line of level warn or error fails
//! the test, and so does a block that is not sound.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::live::{blocks, wire};

/// The longest wait for something that takes a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A start that is refused is refused soon.
const REFUSAL: Duration = Duration::from_secs(10);

/// The program.
pub(crate) const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// Where a program listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) write: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// A running program.
pub(crate) struct Node {
    child: Child,
    pub(crate) at: Addresses,
    home: PathBuf,
    log: PathBuf,
    /// Words of the warnings that a test gives it reason for.
    may_warn: Vec<&'static str>,
}

/// The arguments every node has: data below `home`, ports the system chooses, one label.
pub(crate) fn arguments(home: &Path) -> Vec<String> {
    let data = home.join("data").display().to_string();
    let mut arguments: Vec<String> = vec!["receive".into(), "--tsdb.path".into(), data];
    for door in ["remote-write.address", "grpc-address", "http-address"] {
        arguments.push(format!("--{door}=127.0.0.1:0"));
    }
    arguments
}

/// The command line of a node with further arguments.
pub(crate) fn command(home: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(TIDEGATE);
    command.args(arguments(home)).args(more);
    command
}

impl Node {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(home: &Path, more: &[&str]) -> Self {
        let node = Self::begin(home, command(home, more));
        node.wait_ready();
        node
    }

    /// Starts one and waits until its doors are open. It may still replay its log.
    pub(crate) fn begin(home: &Path, mut command: Command) -> Self {
        let log = free_log(home);
        let to = File::create(&log).expect("a file for the log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(to).spawn();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let at = Addresses { write: nowhere, grpc: nowhere, http: nowhere };
        let child = child.expect("the program starts");
        let mut node = Self { child, at, home: home.to_owned(), log, may_warn: Vec::new() };
        node.at = wait_for("the doors", || {
            if let Some(status) = node.child.try_wait().expect("a child") {
                panic!("ended with {status}");
            }
            addresses(&node.log())
        });
        node
    }

    /// Waits until `/-/ready` says so.
    pub(crate) fn wait_ready(&self) {
        wait_for("readiness", || self.is_ready().then_some(()));
    }

    /// Whether `/-/ready` says 200.
    pub(crate) fn is_ready(&self) -> bool {
        wire::fetch(self.at.http, "/-/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// The process' number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("is killed");
        self.child.wait().expect("is gone");
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let term = rustix::process::Signal::TERM;
        rustix::process::kill_process(pid.expect("a number"), term).expect("takes the signal");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end", || self.child.try_wait().expect("a child"))
    }

    /// A number of `/proc/<pid>/status`, in KiB.
    pub(crate) fn status_kib(&self, key: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|l| l.trim_start_matches(':').split_whitespace().next());
        number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{key} in {status}"))
    }

    /// Lets the peak of its memory begin anew, and returns what it holds now, in KiB.
    pub(crate) fn reset_peak_kib(&self) -> u64 {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("our child");
        self.status_kib("VmHWM")
    }

    /// Its numbers, once all that happened before is in them.
    pub(crate) fn metrics(&self) -> wire::Metrics {
        let rounds = |metrics: &wire::Metrics| metrics.sum("tidegate_core_snapshots_total");
        let cores = self.log().matches("msg=\"log replayed\"").count() as f64;
        let before = rounds(&wire::metrics(self.at.http));
        wait_for("fresh numbers", || {
            // Two on each core: the first may have been taken just before.
            let now = wire::metrics(self.at.http);
            (rounds(&now) >= before + 2.0 * cores).then_some(now)
        })
    }

    /// Says that it has reason to warn with these words.
    pub(crate) fn may_warn(&mut self, words: &'static str) {
        self.may_warn.push(words);
    }

    /// Asks it to end, which it does in time and well.
    pub(crate) fn stops_within(&mut self, most: Duration) {
        let begun = Instant::now();
        self.terminate();
        let status = self.wait();
        let took = begun.elapsed();
        println!("stopped in {took:?}");
        assert!(status.success(), "{status}");
        assert!(took < most, "{took:?}");
    }

    /// What it warned of without a reason that the test gave it.
    fn warnings(&self) -> Vec<String> {
        let log = self.log();
        let warns = |line: &&str| line.contains(" level=warn ") || line.contains(" level=error ");
        let unasked = |line: &&str| !self.may_warn.iter().any(|words| line.contains(words));
        log.lines().filter(warns).filter(unasked).map(str::to_owned).collect()
    }

    /// Seconds of processor time it has used.
    pub(crate) fn cpu_s(&self) -> f64 {
        let stat = read(Path::new(&format!("/proc/{}/stat", self.pid())));
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number") / 100.0).sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            println!("log of the node:\n{}", self.log());
        } else {
            let warnings = self.warnings();
            assert!(warnings.is_empty(), "{warnings:#?}");
            blocks::sound(&self.home.join("data"));
        }
    }
}

fn free_log(home: &Path) -> PathBuf {
    let mut names = (0..).map(|i| home.join(format!("tidegate-{i}.log")));
    names.find(|path| !path.exists()).expect("there are many numbers")
}

/// A file as text; empty if it is not there.
pub(crate) fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// `msg=listening remote_write=[..] grpc=[..] http=[..]`, whole lines only.
fn addresses(log: &str) -> Option<Addresses> {
    let line = log.split_inclusive('\n').find(|line| line.contains(" msg=listening "))?;
    let line = line.strip_suffix('\n')?;
    let of = |key: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        value.trim_matches(['=', '[', ']']).parse().ok()
    };
    Some(Addresses { write: of("remote_write")?, grpc: of("grpc")?, http: of("http")? })
}

/// Runs to its end a command that must not start.
pub(crate) fn fails(mut command: Command) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("starts");
    let begun = Instant::now();
    while child.try_wait().expect("a child").is_none() && begun.elapsed() < REFUSAL {
        thread::sleep(Duration::from_millis(10));
    }
    // Killed if it runs after all.
    child.kill().ok();
    let output = child.wait_with_output().expect("its words");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "it ends by itself: {said}");
    said
}

/// Asks again and again until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A folder that goes away at the end of the test.
pub(crate) fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The wall clock, in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292278994")
}

/// Numbers from a seed: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
