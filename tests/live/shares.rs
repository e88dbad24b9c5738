//! What readers and writers get of a core that both want.
//!
//! A core that starves one of them takes seconds, or answers when the other ends. The bounds lie
//! between that and what a machine needs whose two processors other tests want as well.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::live::harness::{Node, home, now_ms};
use crate::live::wire::{Sender, Store, encode, request, series};

const MEDIAN_MAX: Duration = Duration::from_millis(100);
const P99_MAX: Duration = Duration::from_secs(1);
/// Answers that are timed.
const TIMED: usize = 200;
/// Series of a request.
const SERIES: usize = 200;

/// A body with a sample of each series of a sender.
fn body(sender: usize, t: i64) -> Vec<u8> {
    let sender = sender.to_string();
    let one = |i: usize| {
        let i = i.to_string();
        series(&[("__name__", "load"), ("i", &i), ("sender", &sender)], &[(t, 1.0)])
    };
    encode(&request((0..SERIES).map(one).collect()))
}

/// Sends as fast as it is answered: new samples first, the last ones again and again after.
fn send(node: &Node, sender: usize, done: &AtomicBool, requests: &AtomicUsize) {
    let begin = now_ms() - 600_000;
    let bodies: Vec<Vec<u8>> = (0..200).map(|i| body(sender, begin + i)).collect();
    let mut connection = Sender::connect(node.at.write).expect("a connection");
    let last = bodies.last().into_iter().cycle();
    for body in bodies.iter().chain(last).take_while(|_| !done.load(Relaxed)) {
        let answer = connection.post("THANOS-TENANT: a\r\n", body).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        requests.fetch_add(1, Relaxed);
    }
}

/// Holds the times of what was asked against the bounds.
fn check(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{what}: median {median:?}, p99 {p99:?}");
    assert!(median < MEDIAN_MAX && p99 < P99_MAX, "{what}: median {median:?}, p99 {p99:?}");
}

/// Something that runs until told to stop, and counts its rounds.
type Load<'a> = &'a (dyn Fn(&AtomicBool, &AtomicUsize) + Sync);

/// Runs `loads` beside `ask`, which is timed again and again once they are under way.
fn beside(loads: &[Load<'_>], mut ask: impl FnMut(usize)) -> (Vec<Duration>, usize) {
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let times = thread::scope(|scope| {
        for load in loads {
            scope.spawn(|| load(&done, &rounds));
        }
        while rounds.load(Relaxed) < 10 * loads.len() {
            thread::sleep(Duration::from_millis(1));
        }
        rounds.store(0, Relaxed);
        let mut timed = |number| {
            thread::sleep(Duration::from_millis(5));
            let begun = Instant::now();
            ask(number);
            begun.elapsed()
        };
        let times = (0..TIMED).map(&mut timed).collect();
        done.store(true, Relaxed);
        times
    });
    (times, rounds.into_inner())
}

#[test]
fn a_core_full_of_writes_answers_selects() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let t = now_ms() - 600_000;
    let asked = |i: i64| {
        let samples: Vec<(i64, f64)> = (0..100).map(|j| (t + j, 1.0)).collect();
        series(&[("__name__", "asked"), ("i", &i.to_string())], &samples)
    };
    let answer = sender.write("a", &request((0..20).map(asked).collect()));
    assert_eq!(answer.expect("an answer").status, 200);
    let store = Store::connect(node.at.grpc);
    let senders = [0, 1, 2, 3].map(|number| {
        let node = &node;
        move |done: &AtomicBool, requests: &AtomicUsize| send(node, number, done, requests)
    });
    let loads = senders.each_ref().map(|load| load as _);
    let (begun, cpu_s) = (Instant::now(), node.cpu_s());
    let (times, requests) = beside(&loads, |_| {
        let got = store.select(&[("__name__", "asked")]);
        assert!(got.len() == 20 && got.values().all(|samples| samples.len() == 100));
    });
    let busy = (node.cpu_s() - cpu_s) / begun.elapsed().as_secs_f64();
    println!("{requests} requests beside {TIMED} selects, {busy:.2} processors");
    assert!(requests > TIMED, "only {requests} requests beside {TIMED} selects");
    check("selects", times);
}

#[test]
fn a_core_full_of_selects_answers_writes() {
    let home = home();
    let node = Node::start(home.path(), &["--shards", "1"]);
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let begin = now_ms() - 600_000;
    let mut write = |number: usize| {
        let body = body(0, begin + i64::try_from(number).expect("small"));
        let answer = sender.post("THANOS-TENANT: a\r\n", &body).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    (0..100).for_each(&mut write);
    // Two want all there is, two have a pattern tried on every value and want nothing of it.
    let select = |value: &'static str| {
        let node = &node;
        move |done: &AtomicBool, selects: &AtomicUsize| {
            let store = Store::connect(node.at.grpc);
            while !done.load(Relaxed) {
                store.select(&[("__name__", "load"), ("i", value)]);
                selects.fetch_add(1, Relaxed);
            }
        }
    };
    let (all, none) = (select(".*"), select("(.*1){4}"));
    let (times, selects) = beside(&[&all, &all, &none, &none], |number| write(100 + number));
    println!("{selects} selects beside {TIMED} requests");
    assert!(selects > TIMED / 10, "only {selects} selects beside {TIMED} requests");
    check("answers to writes", times);
}
