//! kill -9 under load: what was acknowledged is there, once, bit for bit, and nothing else is.
//!
//! `TIDEGATE_KILLS` sets how often, `TIDEGATE_SEED` repeats the numbers of a run (not its timing).

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::live::harness::{Node, Random, command, home, now_ms, setting};
use crate::live::ledger::{Ledger, Pad, Round, Shape, check};

/// How many shards the starts have, in turn.
const SHARDS: [&str; 3] = ["2", "3", "1"];

fn begin(home: &Path, number: u64, ack: &str) -> Node {
    let shards = SHARDS[(number % 3) as usize];
    let flags = ["--label=receive_replica=\"0\"", "--tsdb.out-of-order.time-window=1h"];
    let more = [&flags[..], &["--shards", shards, "--log.ack", ack]].concat();
    Node::begin(home, command(home, &more))
}

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    outlives_kills("durable");
}

/// Without the wait for the flush too: the kernel, or the device, has what was written.
#[test]
fn what_was_acknowledged_relaxed_outlives_kill_9() {
    outlives_kills("relaxed");
}

/// Kills of one data directory: each leaves segments that every later start reads.
const KILLS: u64 = 20;

fn outlives_kills(ack: &str) {
    let kills = setting("TIDEGATE_KILLS").unwrap_or(KILLS);
    let seed = setting("TIDEGATE_SEED").unwrap_or_else(|| getrandom::u64().expect("a number"));
    println!("TIDEGATE_SEED={seed} TIDEGATE_KILLS={kills}");
    for done in (0..kills).step_by(KILLS as usize) {
        outlives(ack, KILLS.min(kills - done), seed.wrapping_add(done));
        println!("{ack}: {} of {kills} kills", kills.min(done + KILLS));
    }
}

fn outlives(ack: &str, kills: u64, seed: u64) {
    let home = home();
    let mut random = Random::new(seed);
    let begin_ms = now_ms() - 3_600_000;
    let shape = |tenant, reversed| Shape {
        tenant,
        begin_ms,
        step_ms: 100,
        churn: 1,
        pad: Pad::None,
        late: true,
        reversed,
    };
    let mut ledgers = [
        Ledger::new(seed, 0, shape("red", false)),
        Ledger::new(seed, 1, shape("blue", false)),
        Ledger::new(seed, 2, shape("blue", true)),
    ];
    for kill in 0..kills {
        let node = begin(home.path(), kill, ack);
        let alive = Duration::from_millis(20 + random.below(250));
        // Some die while they start and replay.
        if random.below(4) > 0 {
            node.wait_ready();
            check(&node, &ledgers);
        }
        let to = node.at.write;
        thread::scope(|scope| {
            for ledger in &mut ledgers {
                scope.spawn(move || ledger.load(to, |_| true));
            }
            thread::sleep(alive);
            node.kill();
        });
    }
    let node = begin(home.path(), kills, ack);
    node.wait_ready();
    let samples = check(&node, &ledgers);
    let rounds: usize = ledgers.iter().map(|ledger| ledger.rounds.len()).sum();
    let open = |ledger: &Ledger| ledger.rounds.iter().filter(|r| **r == Round::Sent).count();
    let open: usize = ledgers.iter().map(open).sum();
    println!("{kills} kills, {rounds} rounds, {open} never answered, {samples} samples stored");
    assert!(rounds as u64 > kills, "there was load");
}
