//! Where programs of this kind fail: at the start on a machine that gives little, with sockets
//! that leak, with a second process, at the stop, and when one core is busy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_proto::prometheus::WriteRequest;

use crate::live::harness::{
    Addresses, Node, PATIENCE, TIDEGATE, arguments, command, fails, home, now_ms, wait_for,
};
use crate::live::wire::{Sender, Store, fetch, request, series};
use crate::peer;

/// A stop must end before systemd's patience and a sender's do.
const STOP: Duration = Duration::from_secs(10);
/// The slowest good answer of the control side at saturation.
const ANSWER: Duration = Duration::from_millis(100);

/// The last line on standard error, which is the error.
fn error(said: &str) -> &str {
    said.lines().last().unwrap_or_default()
}

#[test]
fn it_starts_with_little_locked_memory_as_nobody() {
    let found = Command::new("setpriv").arg("--version").output();
    if !peer::is_there(found, "setpriv", "the start as an unprivileged user") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        peer::skip("the start as an unprivileged user", "root's rights");
        return;
    }
    let home = home();
    for path in [home.path(), &home.path().join("data")] {
        fs::create_dir_all(path).expect("a folder");
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("is ours");
    }
    // The program may lie where nobody may look.
    let copy = home.path().join("tidegate");
    fs::copy(TIDEGATE, &copy).expect("a copy");
    let nobody = |memlock_kib: u32| {
        let mut command = Command::new("sh");
        let script = format!(
            "ulimit -l {memlock_kib} && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
             --inh-caps=-all --bounding-set=-all \"$0\" \"$@\" --shards 2"
        );
        command.arg("-c").arg(script).arg(&copy).args(arguments(home.path()));
        command
    };
    let node = Node::begin(home.path(), nobody(8 << 10));
    node.wait_ready();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let answer = sender.write("a", &one(now_ms())).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(node);
    // Less than the rings need at all: said before anything runs.
    let said = fails(nobody(256));
    assert!(error(&said).starts_with("tidegate: only 262144 bytes of memory"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn without_io_uring_it_says_so() {
    // A filter that answers io_uring_setup with EPERM, as Docker's default profile does, or as a
    // kernel without it.
    let wrapper = "\
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
ALLOW, REFUSE = 0x7fff0000, 0x00050000 + int(sys.argv[1])
SETUP = 425
load, equal, answer = 0x20, 0x15, 0x06
program = b''.join(struct.pack('HBBI', *line) for line in [
    (load, 0, 0, 0), (equal, 0, 1, SETUP), (answer, 0, 0, REFUSE), (answer, 0, 0, ALLOW)])
buffer = ctypes.create_string_buffer(program)
filter = struct.pack('HxxxxxxQ', 4, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.create_string_buffer(filter), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
";
    let found = Command::new("python3").arg("--version").output();
    if !peer::is_there(found, "python3", "the start where io_uring is refused") {
        return;
    }
    let home = home();
    for (number, name) in [("1", "Operation not permitted"), ("38", "not implemented")] {
        let mut filtered = Command::new("python3");
        filtered.arg("-c").arg(wrapper).arg(number).arg(TIDEGATE).args(arguments(home.path()));
        let said = fails(filtered);
        assert!(error(&said).starts_with("tidegate: "), "{said}");
        assert!(error(&said).contains("io_uring") && error(&said).contains(name), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// The processors that threads of a process may run on, by the threads' names.
fn allowed(node: &Node) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("our child");
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).expect("a thread");
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.expect("a line").trim().to_owned()
        };
        (value("Name:"), value("Cpus_allowed_list:"))
    };
    tasks.map(|task| of(task.expect("a thread"))).collect()
}

#[test]
fn cores_stay_where_the_process_was_put() {
    let found = Command::new("taskset").arg("--version").output();
    if !peer::is_there(found, "taskset", "the start on some processors only") {
        return;
    }
    let home = home();
    let last = thread::available_parallelism().expect("a number").get() - 1;
    let mut bound = Command::new("taskset");
    bound.args(["--cpu-list", &last.to_string(), TIDEGATE]).args(arguments(home.path()));
    let node = Node::begin(home.path(), bound);
    node.wait_ready();
    let threads = allowed(&node);
    assert!(threads.iter().any(|(name, _)| name == "tidegate-core"), "{threads:?}");
    let elsewhere = threads.iter().find(|(_, cpus)| *cpus != last.to_string());
    assert_eq!(elsewhere, None);
    assert_eq!(node.log().matches("msg=\"log replayed\"").count(), 1, "a shard for each");
}

#[test]
fn signals_disturb_nobody() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let pid = i32::try_from(node.pid()).ok().and_then(rustix::process::Pid::from_raw);
    let t = now_ms();
    for i in 0..2000 {
        let signal = rustix::process::Signal::URG;
        rustix::process::kill_process(pid.expect("a number"), signal).expect("takes the signal");
        if i % 20 == 0 {
            let answer = sender.write("a", &one(t + i)).expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

#[test]
fn a_second_process_is_refused() {
    let home = home();
    let other = crate::live::harness::home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let said = fails(command(home.path(), &["--shards", "1"]));
    assert!(error(&said).contains("another tidegate uses the data directory"), "{said}");
    // Another directory and the same ports: SO_REUSEPORT alone would let them share in silence.
    let Addresses { write, grpc, http } = node.at;
    for (flag, address) in
        [("remote-write.address", write), ("grpc-address", grpc), ("http-address", http)]
    {
        let mut command = Command::new(TIDEGATE);
        let free = arguments(other.path());
        command.args(free.iter().filter(|argument| !argument.contains(flag)));
        command.arg(format!("--{flag}={address}")).args(["--shards", "1"]);
        let said = fails(command);
        assert!(error(&said).contains(&address.to_string()), "{flag}: {said}");
        assert!(error(&said).contains(flag), "{flag}: {said}");
    }
    assert!(node.is_ready());
}

fn one(t: i64) -> WriteRequest {
    request(vec![series(&[("__name__", "one")], &[(t, 1.0)])])
}

fn open_files(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("our child").count()
}

#[test]
fn dropped_connections_leave_nothing_open() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let t = now_ms();
    assert_eq!(sender.write("a", &one(t)).expect("an answer").status, 200);
    let before = open_files(&node);
    for i in 0..500 {
        let mut stranger = Sender::connect(node.at.write).expect("a connection");
        // Some say nothing, some break off in the middle, some are served, some reset.
        match i % 4 {
            0 => {}
            1 => stranger.send(b"POST /api/v1/rec").expect("is taken"),
            2 => assert_eq!(stranger.write("a", &one(t)).expect("an answer").status, 200),
            _ => stranger.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("is taken"),
        }
    }
    wait_for("closed sockets", || (open_files(&node) <= before).then_some(()));
    assert_eq!(sender.write("a", &one(t + 1)).expect("an answer").status, 200);
}

/// Writes until told to stop or refused; the times of what was acknowledged, counted in `so_far`.
fn load(
    at: Addresses,
    sender: u64,
    begin: i64,
    stop: &AtomicBool,
    so_far: &AtomicUsize,
) -> Vec<i64> {
    let name = sender.to_string();
    let mut acked = Vec::new();
    let mut connection = Sender::connect(at.write).expect("a connection");
    for t in begin.. {
        let all = (0..50).map(|i| {
            let i = i.to_string();
            series(&[("__name__", "load"), ("i", &i), ("sender", &name)], &[(t, 1.0)])
        });
        match connection.write("a", &request(all.collect())) {
            Ok(answer) if answer.status == 200 => {
                acked.push(t);
                so_far.store(acked.len(), Relaxed);
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                break;
            }
            Err(_) => break,
        }
        if stop.load(Relaxed) {
            break;
        }
    }
    acked
}

#[test]
fn a_stop_under_load_is_quick_and_loses_nothing() {
    let home = home();
    let arguments = ["--shards", "2", "--label", "receive_replica=\"0\""];
    let mut node = Node::start(home.path(), &arguments);
    let begin = now_ms() - 600_000;
    let at = node.at;
    let never = AtomicBool::new(false);
    let so_far: [AtomicUsize; 4] = Default::default();
    let acked: Vec<Vec<i64>> = thread::scope(|scope| {
        let senders: Vec<_> = (0..)
            .zip(&so_far)
            .map(|(sender, so_far)| {
                scope.spawn({
                    let never = &never;
                    move || load(at, sender, begin, never, so_far)
                })
            })
            .collect();
        wait_for("load of all senders", || {
            so_far.iter().all(|acked| acked.load(Relaxed) > 20).then_some(())
        });
        // One that is open and quiet, and one in the middle of a request.
        let _quiet = Sender::connect(at.write).expect("a connection");
        let mut half = Sender::connect(at.write).expect("a connection");
        half.send(b"POST /api/v1/receive HTTP/1.1\r\nHost: a\r\nContent-Le").expect("is taken");
        node.stops_within(STOP);
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    });
    drop(node);
    let node = Node::start(home.path(), &arguments);
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "load")]);
    assert_eq!(stored.len(), 200);
    for (labels, samples) in stored {
        let sender = labels.iter().find(|(name, _)| name == "sender").expect("ours");
        let acked = &acked[sender.1.parse::<usize>().expect("a number")];
        let times: Vec<i64> = samples.iter().map(|(t, _)| *t).collect();
        // The last request may be stored although its answer was not seen.
        assert!(times.starts_with(acked) && times.len() <= acked.len() + 1, "{labels:?}");
    }
}

#[test]
fn a_busy_core_leaves_the_readers_doors_quick() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let begin = now_ms() - 600_000;
    let (at, done) = (node.at, AtomicBool::new(false));
    let store = Store::connect(at.grpc);
    let mut times = thread::scope(|scope| {
        for sender in 0..4 {
            let done = &done;
            scope.spawn(move || load(at, sender, begin, done, &AtomicUsize::new(0)));
        }
        thread::sleep(Duration::from_millis(300));
        let mut times = Vec::new();
        for _ in 0..30 {
            let begun = Instant::now();
            assert_eq!(store.info().component_type, "receive");
            times.push(begun.elapsed());
            let begun = Instant::now();
            assert_eq!(fetch(at.http, "/api/v1/labels").expect("an answer").status, 200);
            times.push(begun.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
        done.store(true, Relaxed);
        times
    });
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("median {median:?}, slowest {slowest:?}");
    // The slowest is the machine's as much as ours: it runs other tests as well.
    assert!(median < ANSWER, "{median:?}");
    assert!(slowest < 10 * ANSWER, "{slowest:?}");
}

/// A service manager's end of `NOTIFY_SOCKET`.
struct Systemd(UnixDatagram);

impl Systemd {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(socket)
    }

    /// The next message.
    fn hears(&self) -> String {
        let mut room = [0; 4096];
        let length = self.0.recv(&mut room).expect("a message in time");
        String::from_utf8_lossy(room.get(..length).expect("what was read")).into_owned()
    }

    /// Whether nothing is said for a while.
    fn is_silent(&self, time: Duration) -> bool {
        self.0.set_read_timeout(Some(time)).expect("a timeout");
        let silent = self.0.recv(&mut [0; 4096]).is_err();
        self.0.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silent
    }

    /// The next message that is no sign of life; how many of those came before.
    fn hears_news(&self) -> (String, usize) {
        let mut signs = 0;
        loop {
            let message = self.hears();
            if message.trim_end() != "WATCHDOG=1" {
                return (message, signs);
            }
            signs += 1;
        }
    }
}

/// Leaves a log that takes a while to replay: 600,000 samples of the last fifty minutes.
fn leave_a_log(home: &Path) {
    let node = Node::start(home, &["--shards", "2"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let begin = now_ms() - 3_000_000;
    for hundred in 0..30 {
        let times = (100 * hundred..100 * (hundred + 1)).map(|s| (begin + 1000 * s, s as f64));
        let samples: Vec<(i64, f64)> = times.collect();
        let one = |i: usize| series(&[("__name__", "kept"), ("i", &i.to_string())], &samples);
        let answer = sender.write("a", &request((0..200).map(one).collect()));
        assert_eq!(answer.expect("an answer").status, 200);
    }
    node.kill();
}

#[test]
fn a_service_manager_is_told_the_truth() {
    let home = home();
    leave_a_log(home.path());
    let socket = home.path().join("notify");
    let systemd = Systemd::at(&socket);
    let mut command = command(home.path(), &["--shards", "2"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    let mut node = Node::begin(home.path(), command);
    // A replay may take longer than the unit allows for a start.
    assert_eq!(systemd.hears().trim_end(), "EXTEND_TIMEOUT_USEC=60000000");
    let (news, _) = systemd.hears_news();
    let log = node.log();
    assert!(news.lines().any(|line| line == "READY=1"), "{news:?}");
    let replayed = log.lines().find(|line| line.contains(" msg=\"all logs are replayed\" "));
    let replayed = replayed.expect("ready is not said before the replay has ended");
    let seconds = replayed.rsplit_once("seconds=").and_then(|(_, s)| s.trim().parse().ok());
    let seconds: f64 = seconds.expect("a number");
    println!("ready after a replay of {seconds} s");
    assert!(seconds > 0.02, "too short a replay to be caught before its end: {seconds} s");
    assert!(node.is_ready(), "ready is said when it is true");
    for _ in 0..4 {
        let begun = Instant::now();
        assert_eq!(systemd.hears().trim_end(), "WATCHDOG=1");
        assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    }
    node.terminate();
    let (news, _) = systemd.hears_news();
    assert!(news.lines().any(|line| line == "STOPPING=1"), "{news:?}");
    assert!(node.wait().success());
}

#[test]
fn a_core_that_hangs_is_not_said_to_be_alive() {
    let home = home();
    let socket = home.path().join("notify");
    let systemd = Systemd::at(&socket);
    let order = home.path().join("hang-at");
    fs::write(&order, "RangeCut 1 hang").expect("a file");
    let mut command = command(home.path(), &["--shards", "2"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    command.env("TIDEGATE_DIE_AT", &order);
    let mut node = Node::begin(home.path(), command);
    node.may_warn("a core does not answer");
    node.wait_ready();
    while systemd.hears().trim_end() != "WATCHDOG=1" {}
    // A range of two hours that is over by more than one: a core is told to cut it, and hangs.
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for hours in [9, 3] {
        let answer = sender.write("a", &one(now_ms() - hours * 3_600_000)).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    wait_for("the core to hang", || node.log().contains("hangs at RangeCut").then_some(()));
    // What was under way is heard, then ten times the pace of before brings nothing.
    wait_for("silence", || systemd.is_silent(Duration::from_secs(1)).then_some(()));
    wait_for("a word of it", || node.log().contains("a core does not answer").then_some(()));
    assert!(systemd.is_silent(Duration::from_secs(1)), "it stays so");
    assert_eq!(fetch(node.at.http, "/-/healthy").expect("an answer").status, 200, "it lives on");
}

#[test]
fn the_start_says_what_a_flush_costs() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "2"]);
    let log = node.log();
    let line = log.lines().find(|line| line.contains(" msg=cores ")).expect("a line on the cores");
    let number = |key: &str| -> u64 {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
        value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{key} in {line}"))
    };
    let (p50_us, max_us) = (number("flush_p50_us="), number("flush_max_us="));
    assert!(0 < p50_us && p50_us <= max_us && max_us < 60_000_000, "{line}");
    assert_eq!(number("shards="), 2, "{line}");
    assert!(line.contains(" processors=") && line.contains(" log=\""), "{line}");
}

#[test]
fn a_reader_of_its_words_may_leave() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    assert_eq!(sender.write("a", &one(now_ms())).expect("an answer").status, 200);
    node.kill();
    let data = home.path().join("data").display().to_string();
    for arguments in [&["receive", "--help"][..], &["--version"], &["inspect", "wal", &data]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(TIDEGATE).args(arguments).stdout(writer).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{arguments:?} {}: {said}",
            output.status
        );
    }
}
