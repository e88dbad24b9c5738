//! The stop: below ten seconds whatever the clients do, at once when told twice, and also before
//! the process is ready.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::live::harness::{Node, command, home, now_ms, wait_for};
use crate::live::wire::{Sender, Store, encode, fetch, request, series, write_bytes};

/// Below the ten seconds that are promised, less what a busy machine takes.
const STOP: Duration = Duration::from_secs(9);
/// What needs no patience at all.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Clients that hold each door open, for as long as this lives.
struct Clients {
    _senders: Vec<Sender>,
    _silent: Vec<TcpStream>,
    _watch: Store,
}

impl Clients {
    fn hold(node: &Node) -> Self {
        let begun = |to, bytes: &[u8]| {
            let mut sender = Sender::connect(to).expect("a connection");
            sender.send(bytes).expect("is taken");
            sender
        };
        let half_write = b"POST /api/v1/receive HTTP/1.1\r\nHost: a\r\nContent-Le";
        let half_read = b"GET /api/v1/labels HTTP/1.1\r\nHost: a\r\nAcc";
        let silent = |to| TcpStream::connect(to).expect("a connection");
        let watch = Store::connect(node.at.grpc);
        watch.watch_health();
        Self {
            _senders: vec![begun(node.at.write, half_write), begun(node.at.http, half_read)],
            _silent: vec![silent(node.at.write), silent(node.at.grpc), silent(node.at.http)],
            _watch: watch,
        }
    }
}

#[test]
fn no_client_can_hold_a_stop_back() {
    let home = home();
    let mut node = Node::start(home.path(), &["--shards", "2"]);
    let _clients = Clients::hold(&node);
    node.stops_within(STOP);
    assert!(node.log().contains("msg=stopped"), "it ended in order");
}

/// A core without connections has nothing to wait for, and is needed all the same.
#[test]
fn a_request_in_progress_is_answered_and_stored_on_all_shards() {
    const SERIES: usize = 50;
    let home = home();
    let mut node = Node::start(home.path(), &["--shards", "2"]);
    let t = now_ms();
    let one = |i: usize| series(&[("__name__", "last"), ("i", &i.to_string())], &[(t, 1.0)]);
    let bytes = write_bytes("", &encode(&request((0..SERIES).map(one).collect())));
    let (begin, end) = bytes.split_at(bytes.len() - 100);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    sender.send(begin).expect("is taken");
    thread::sleep(Duration::from_millis(300));
    node.terminate();
    thread::sleep(Duration::from_millis(500));
    sender.send(end).expect("is taken");
    let begun = Instant::now();
    let answer = sender.answer().expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(sender);
    let status = node.wait();
    assert!(status.success() && begun.elapsed() < AT_ONCE, "{status}, {:?}", begun.elapsed());
    let node = Node::start(home.path(), &["--shards", "2"]);
    let stored = Store::connect(node.at.grpc).select(&[("__name__", "last")]);
    assert_eq!(stored.len(), SERIES);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = home();
    let mut node = Node::start(home.path(), &["--shards", "1"]);
    let _clients = Clients::hold(&node);
    node.terminate();
    thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    node.terminate();
    let status = node.wait();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(1), "it did not stop in order, and says so");
    assert!(node.log().contains("tidegate: ended by a second SIGTERM"), "{}", node.log());
}

#[test]
fn a_signal_before_it_is_ready_ends_it() {
    let home = home();
    // A block that takes for ever to be read: nobody writes into this pipe.
    let block = home.path().join("data/blocks/a/01ARZ3NDEKTSV4RRFFQ69G5FAV");
    fs::create_dir_all(&block).expect("a folder");
    let pipe = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let path = block.join("meta.json");
    rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).expect("a pipe");
    let mut node = Node::begin(home.path(), command(home.path(), &["--shards", "1"]));
    let waits = || fetch(node.at.http, "/-/ready").expect("an answer");
    wait_for("the blocks' turn", || waits().text.contains("blocks").then_some(()));
    assert_eq!(waits().status, 503);
    let begun = Instant::now();
    node.terminate();
    let status = node.wait();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert!(status.success(), "{status}");
    // Whoever looks at the blocks of an ended node would wait for it, too.
    fs::remove_dir_all(block).expect("removed");
}
