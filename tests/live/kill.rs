//! kill -9 under load: what was acknowledged is there, once, bit for bit, and nothing else is.
//!
//! `TIDEGATE_KILLS` sets how often, `TIDEGATE_SEED` repeats the numbers of a run (not its timing).

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::live::blocks::{self, wait_until_settled};
use crate::live::harness::{Node, Random, command, home, now_ms, setting};
use crate::live::ledger::{Ledger, Round, Shape, check};
use crate::live::wire::Store;

/// How many shards the starts have, in turn.
const SHARDS: [&str; 3] = ["2", "3", "1"];

fn begin(home: &Path, number: u64) -> Node {
    let shards = SHARDS[(number % 3) as usize];
    let label = "receive_replica=\"0\"";
    Node::begin(home, command(home, &["--shards", shards, "--label", label]))
}

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    let kills = setting("TIDEGATE_KILLS").unwrap_or(20);
    let seed = setting("TIDEGATE_SEED").unwrap_or_else(|| getrandom::u64().expect("a number"));
    println!("TIDEGATE_SEED={seed} TIDEGATE_KILLS={kills}");
    let home = home();
    let mut random = Random::new(seed);
    let begin_ms = now_ms() - 3_600_000;
    let shape = |tenant, reversed| Shape {
        tenant,
        begin_ms,
        step_ms: 100,
        churn: 1,
        pad_bytes: 0,
        reversed,
    };
    let mut ledgers = [
        Ledger::new(seed, 0, shape("red", false)),
        Ledger::new(seed, 1, shape("blue", false)),
        Ledger::new(seed, 2, shape("blue", true)),
    ];
    for kill in 0..kills {
        let node = begin(home.path(), kill);
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
    let node = begin(home.path(), kills);
    node.wait_ready();
    let samples = check(&node, &ledgers);
    let rounds: usize = ledgers.iter().map(|ledger| ledger.rounds.len()).sum();
    let open = |ledger: &Ledger| ledger.rounds.iter().filter(|r| **r == Round::Sent).count();
    let open: usize = ledgers.iter().map(open).sum();
    println!("{kills} kills, {rounds} rounds, {open} never answered, {samples} samples stored");
    assert!(rounds as u64 > kills, "there was load");
}

#[test]
fn blocks_keep_the_label_of_the_shard_that_wrote_them() {
    let home = home();
    let shape = Shape {
        tenant: "red",
        begin_ms: now_ms() - 30 * 24 * 3_600_000,
        step_ms: 300_000,
        churn: 1,
        pad_bytes: 0,
        reversed: false,
    };
    let mut ledger = Ledger::new(5, 0, shape);
    let flags = ["--shards=2", "--label=receive_replica=\"0\"", "--tsdb.shard-label=part"];
    let select = |node: &Node| Store::connect(node.at.grpc).select(&[("__name__", ".+")]);
    let node = Node::start(home.path(), &flags);
    ledger.load(node.at.write, |round| round < 72);
    let (data, ledgers) = (home.path().join("data"), [ledger]);
    wait_until_settled(&data, &ledgers);
    blocks::sound(&data);
    let before = select(&node);
    let has = |part: &str| before.keys().any(|l| l.contains(&("part".into(), part.into())));
    assert!(has("0") && has("1"));
    node.kill();
    let node = Node::start(home.path(), &flags);
    let after = select(&node);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(after, before);
}
