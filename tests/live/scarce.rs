//! Where something runs out: file descriptors, space on the disk, the right to write. What was
//! acknowledged stays, what cannot be taken is answered 503, and it comes back by itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tidegate_proto::prometheus::WriteRequest;

use crate::live::harness::{
    Node, Random, TIDEGATE, arguments, command, fails, home, now_ms, wait_for,
};
use crate::live::wire::{Sender, Store, fetch, metrics, request, series};
use crate::peer;

/// Few descriptors: an idle node of two cores has 27 open.
const FDS: u32 = 64;

/// The command line of a node that may open `FDS` files.
fn with_few_descriptors(home: &Path, more: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {FDS} && exec \"$0\" \"$@\"")).arg(TIDEGATE);
    command.args(arguments(home)).args(more);
    command
}

fn one(t: i64) -> WriteRequest {
    request(vec![series(&[("__name__", "one")], &[(t, 1.0)])])
}

/// Sets how many files a running node may open; how many it was before. `None` is no limit.
fn let_open(node: &Node, fds: Option<u64>) -> Option<u64> {
    let pid = i32::try_from(node.pid()).ok().and_then(rustix::process::Pid::from_raw);
    // It has it from us.
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: fds, maximum };
    rustix::process::prlimit(pid, Resource::Nofile, limit).expect("our child").current
}

/// Opens connections until one cannot be opened.
fn flood(to: std::net::SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok();
    (0..count).map_while(connect).collect()
}

#[test]
fn senders_cannot_take_the_descriptors_of_the_log() {
    let home = home();
    let node = Node::begin(home.path(), with_few_descriptors(home.path(), &["--shards", "2"]));
    node.wait_ready();
    assert!(node.log().contains("fewer connections are taken"), "the limit is told");
    let t = now_ms();
    // Connected before anything was written: the first write makes the log's first segment.
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let strangers = flood(node.at.write, 300);
    let before = node.cpu_s();
    thread::sleep(Duration::from_secs(1));
    let spent = node.cpu_s() - before;
    assert!(spent < 0.5, "{spent} s of a second while {} strangers wait", strangers.len());
    for i in 0..20 {
        let answer = sender.write("a", &one(t + i)).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(fetch(node.at.http, "/-/ready").expect("an answer").status, 200);
    let now = node.metrics();
    assert!(now.sum("process_open_fds") < f64::from(FDS) - 4.0, "some are kept");
    assert!(now.sum("tidegate_listener_lost_connections_total{reason=\"too-many\"}") > 0.0);
    drop(strangers);
    let answer = wait_for("a place", || {
        let mut another = Sender::connect(node.at.write).ok()?;
        another.write("a", &one(t + 100)).ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.status, 200);
}

#[test]
fn readers_cannot_take_the_descriptors_of_the_log() {
    let home = home();
    let mut node = Node::begin(home.path(), with_few_descriptors(home.path(), &["--shards", "2"]));
    node.may_warn("too many connections of readers");
    node.wait_ready();
    let t = now_ms();
    let strangers = [node.at.http, node.at.grpc].map(|door| flood(door, 100));
    let refused = wait_for("a refusal", || {
        fetch(node.at.http, "/-/ready").ok().filter(|answer| answer.status == 503)
    });
    assert!(refused.text.contains("too many connections"), "{refused:?}");
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    for i in 0..20 {
        let answer = sender.write("a", &one(t + i)).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    drop(strangers);
    wait_for("a place", || node.is_ready().then_some(()));
    let now = node.metrics();
    for door in ["grpc", "http"] {
        let refused =
            now.sum(&format!("tidegate_reader_connections_refused_total{{door=\"{door}\"}}"));
        assert!(refused > 50.0, "{door}: {refused}");
    }
    assert_eq!(Store::connect(node.at.grpc).select(&[("__name__", "one")]).len(), 1);
}

#[test]
fn without_descriptors_writes_wait_and_come_back() {
    let home = home();
    let mut node = Node::start(home.path(), &["--shards", "2"]);
    node.may_warn("Too many open files");
    let t = now_ms();
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    // Answered, so that it is accepted. Nothing is written: the log has no segment open.
    sender.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("is taken");
    assert_eq!(sender.answer().expect("an answer").status, 404);
    // What is open stays open, and nothing can be opened.
    let enough = let_open(&node, Some(3));
    let strangers = [node.at.http, node.at.grpc, node.at.write].map(|door| flood(door, 20));
    let before = node.cpu_s();
    thread::sleep(Duration::from_secs(2));
    let spent = node.cpu_s() - before;
    assert!(spent < 1.0, "{spent} s of two while {} strangers wait", strangers.len());
    let refused = sender.write("a", &one(t)).expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.text.contains("file descriptors"), "{refused:?}");
    drop(strangers);
    let_open(&node, enough);
    // What was refused is repeated, and is told once.
    wait_for("the log", || {
        let answer = sender.write("a", &one(t)).expect("an answer");
        (answer.status == 200).then_some(())
    });
    let answer = sender.write("a", &one(t + 1)).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "one")]);
    let stored: Vec<i64> = stored.into_values().flatten().map(|(t, _)| t).collect();
    assert_eq!(stored, [t, t + 1]);
    let now = node.metrics();
    for moved in ["tidegate_turned_away_requests_total", "tidegate_log_io_errors_total"] {
        assert!(now.sum(moved) > 0.0, "{moved}");
    }
    let warned = |words: &str| node.log().lines().filter(|line| line.contains(words)).count();
    assert!(warned("cannot accept connections") <= 4, "once at each door:\n{}", node.log());
    assert!(warned("the log has no room") <= 2, "once on each core");
    assert!(warned("cannot make a spare") <= 2, "once on each core");
}

#[test]
fn too_few_descriptors_are_told_at_the_start() {
    let home = home();
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -n 40 && exec \"$0\" \"$@\"").arg(TIDEGATE);
    command.args(arguments(home.path())).args(["--shards", "2"]);
    let said = fails(command);
    let said = said.lines().last().unwrap_or_default();
    assert!(said.starts_with("tidegate: only 40 files may be open and 50 are needed"), "{said}");
}

/// A file system of its own, of so many MiB; gone at the end of the test.
struct Small(PathBuf);

impl Small {
    /// `None` where nobody may mount, told like a missing peer.
    fn mount(at: PathBuf, mib: u32) -> Option<Self> {
        fs::create_dir_all(&at).expect("a folder");
        let size = format!("size={mib}m,mode=0755");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        let done = mounted.and_then(|output| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
        });
        peer::is_there(done, "mount", "a disk that is full").then_some(Self(at))
    }

    /// Fills it up to the last page but `spare` bytes.
    fn fill(&self, spare: usize) {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).expect("a file");
        while file.write_all(&[7; 1 << 12]).is_ok() {}
        let len = file.metadata().expect("ours").len();
        file.set_len(len.saturating_sub(spare as u64)).expect("cut");
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("removed");
    }

    /// Lets nobody write to it any more.
    fn make_read_only(&self) {
        let mut mount = Command::new("mount");
        let done = mount.args(["-o", "remount,ro"]).arg(&self.0).status().expect("runs");
        assert!(done.success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

/// A request of many samples that no coding makes small; the same each time.
fn big(t: i64) -> WriteRequest {
    let mut random = Random::new(t as u64);
    let mut one = |i: usize| {
        let i = i.to_string();
        let samples: Vec<(i64, f64)> =
            (0..50).map(|step| (t + step, f64::from_bits(random.next() >> 2))).collect();
        series(&[("__name__", "big"), ("i", &i)], &samples)
    };
    request((0..200).map(&mut one).collect())
}

#[test]
fn a_full_disk_refuses_writes_keeps_what_it_has_and_comes_back() {
    let home = home();
    let Some(disk) = Small::mount(home.path().join("data"), 300) else { return };
    let begin = |home: &Path| {
        let mut node = Node::begin(home, command(home, &["--shards", "1"]));
        for words in ["No space left on device", "os error 28"] {
            node.may_warn(words);
        }
        node.wait_ready();
        node
    };
    let node = begin(home.path());
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let t0 = now_ms() - 3_000_000;
    let mut acked = Vec::new();
    let mut t = t0;
    let mut write = |sender: &mut Sender, t: i64| {
        let answer = sender.write("a", &big(t)).expect("an answer");
        if answer.status == 200 {
            acked.push(t);
        }
        answer
    };
    assert_eq!(write(&mut sender, t).status, 200);
    wait_for("spares", || {
        let spares = fs::read_dir(home.path().join("data/shard-0/log")).expect("a folder");
        (spares.count() == 3).then_some(())
    });
    disk.fill(0);
    // The segment in use and two spares take 192 MiB, then there is no room.
    let refused = loop {
        t += 100;
        let answer = write(&mut sender, t);
        if answer.status != 200 {
            break answer;
        }
        assert!(t - t0 < 3_000_000, "it is never full");
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.text.contains("storage-failed"), "{refused:?}");
    assert_eq!(write(&mut sender, t).status, 503, "and it stays so");
    assert!(node.is_ready(), "what it has can be read");
    wait_for("the numbers", || {
        (metrics(node.at.http).sum("tidegate_log_writable") < 0.5).then_some(())
    });
    disk.free();
    let full_at = t;
    wait_for("room", || (write(&mut sender, full_at).status == 200).then_some(()));
    assert_eq!(write(&mut sender, full_at + 100).status, 200);
    assert!((node.metrics().sum("tidegate_log_writable") - 1.0).abs() < 0.5);
    // It starts on a full disk as well, and has all of it.
    node.kill();
    disk.fill(0);
    let node = begin(home.path());
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "big"), ("i", "7")]);
    let stored: Vec<i64> = stored.into_values().flatten().map(|(t, _)| t).collect();
    let want: Vec<i64> = acked.iter().flat_map(|t| (0..50).map(move |step| t + step)).collect();
    assert_eq!(stored, want);
}

#[test]
fn where_it_may_not_write_it_says_so() {
    let home = home();
    let Some(disk) = Small::mount(home.path().join("data"), 8) else { return };
    disk.make_read_only();
    let said = fails(command(home.path(), &["--shards", "1"]));
    let last = said.lines().last().unwrap_or_default();
    let path = disk.0.display().to_string();
    assert!(last.starts_with("tidegate: cannot use the data directory "), "{said}");
    assert!(last.contains(&path) && last.contains("Read-only file system"), "{said}");
    // A bucket there is found before any log is read, too.
    let bucket = format!("{{type: FILESYSTEM, config: {{directory: {path}/bucket}}}}");
    let elsewhere = crate::live::harness::home();
    let more = ["--label", "a=\"1\"", "--objstore.config", &bucket];
    let said = fails(command(elsewhere.path(), &more));
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains(&format!("cannot make {path}/bucket or write to it")), "{said}");
    assert!(
        last.starts_with("tidegate: --objstore.config: ") && !said.contains("replayed"),
        "{said}"
    );
}

#[test]
fn a_disk_that_is_full_from_the_start_is_told() {
    let home = home();
    let Some(disk) = Small::mount(home.path().join("data"), 8) else { return };
    disk.fill(0);
    let said = fails(command(home.path(), &["--shards", "1"]));
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("No space left on device"), "{said}");
    assert!(last.contains(&disk.0.display().to_string()), "{said}");
}
