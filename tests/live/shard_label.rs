//! With `--tsdb.shard-label`, what is in blocks keeps its labels over a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::wire::{Labels, Samples, Sender, Store, request, series};

const HOUR_MS: i64 = 3_600_000;
const ARGUMENTS: &[&str] = &["--shards", "2", "--tsdb.shard-label", "shard"];

fn stored(node: &Node) -> BTreeMap<Labels, Samples> {
    Store::connect(node.at.grpc).select(&[("__name__", "m")])
}

#[test]
fn a_restart_leaves_a_series_one_series() {
    let home = home();
    let node = Node::start(home.path(), ARGUMENTS);
    let now = now_ms();
    let names: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let samples = [(now - 4 * HOUR_MS, 1.0), (now, 2.0)];
    let all = names.iter().map(|i| series(&[("__name__", "m"), ("i", i.as_str())], &samples));
    let mut sender = Sender::connect(node.at.write).expect("a connection");
    let answer = sender.write("a", &request(all.collect())).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let dir = home.path().join("data/blocks/a");
    wait_for("a block of each shard", || {
        let names = fs::read_dir(&dir).ok()?.flatten().map(|entry| entry.file_name());
        let blocks = names.filter(|name| name.len() == 26).count();
        (blocks == 2).then_some(())
    });
    let before = stored(&node);
    assert_eq!(before.len(), 20);
    let shards: BTreeSet<_> = before.keys().flatten().filter(|(name, _)| name == "shard").collect();
    assert_eq!(shards.len(), 2, "both have some of it");
    node.kill();
    let node = Node::start(home.path(), ARGUMENTS);
    assert_eq!(stored(&node), before);
}
