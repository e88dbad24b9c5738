//! Death at each named step from the head to the bucket.
//!
//! The program kills itself at a step that it is told ([`Step`]), under load, while ranges are cut,
//! become blocks, leave the head and the log, and are shipped; the next start has another number
//! of shards. After each start all that was acknowledged is there, once, and nothing else; at the
//! end blocks and bucket hold it, too. A step that is not reached fails the test.
//!
//! `TIDEGATE_KILLS` sets how many deaths there are, in whole walks over all steps. Some deaths
//! come while the program still mends what the one before left.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate::block::Ulid;
use tidegate::rt::step::Step;

use crate::bucket::block::visible;
use crate::bucket::server::Beside;
use crate::live::blocks::{
    self, check_bucket, check_with_promtool, local, shipped, wait_until_settled,
};
use crate::live::harness::{Node, PATIENCE, Random, command, home, now_ms, setting};
use crate::live::ledger::{Ledger, Pad, Shape, check};

/// How many shards the starts have, in turn.
const SHARDS: [&str; 3] = ["2", "3", "1"];
const MINUTE_MS: i64 = 60 * 1000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Rounds of five minutes that come at once: enough for two ranges to be over.
const QUICK_ROUNDS: u64 = 72;
/// Then time goes on at six hours in four seconds.
const PAUSE: Duration = Duration::from_millis(50);

struct World {
    home: TempDir,
    ledgers: Vec<Ledger>,
    /// Where blocks are shipped to, as files.
    bucket: PathBuf,
    /// More flags.
    flags: Vec<String>,
    starts: usize,
    random: Random,
}

impl World {
    /// Three senders, each with a tenant of its own: a tenant's newest sample cuts its ranges.
    fn new(seed: u64) -> Self {
        Self::with_series(seed, 1, Pad::None)
    }

    fn with_series(seed: u64, churn: u64, pad: Pad) -> Self {
        // A year back, for time runs fast here.
        let begin_ms = now_ms() - 365 * DAY_MS;
        let step_ms = 5 * MINUTE_MS;
        let shape = |tenant| {
            let reversed = tenant == "green";
            Shape { tenant, begin_ms, step_ms, churn, pad, late: true, reversed }
        };
        let ledgers = (0..).zip(["red", "green", "blue"]);
        let ledgers = ledgers.map(|(n, tenant)| Ledger::new(seed, n, shape(tenant))).collect();
        let (flags, random, home) = (Vec::new(), Random::new(seed), home());
        let bucket = home.path().join("data/bucket");
        Self { home, ledgers, bucket, flags, starts: 0, random }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Where the program looks for the step to die at.
    fn order(&self) -> PathBuf {
        self.home.path().join("die-at")
    }

    fn begin(&mut self) -> Node {
        let shards = SHARDS[self.starts % 3];
        self.starts += 1;
        let flags = [
            "--label=receive_replica=\"0\"",
            "--tsdb.retention=0d",
            "--tsdb.out-of-order.time-window=1h",
        ];
        let more = [&flags[..], &["--shards", shards]].concat();
        let mut command = command(self.home.path(), &more);
        command.args(&self.flags).env("TIDEGATE_DIE_AT", self.order());
        Node::begin(self.home.path(), command)
    }

    /// One life, which ends when a step was done so many times. Some may end as soon as the
    /// program is up; in others what is there is checked first.
    fn die_at(&mut self, step: Step, times: u64) {
        let begun = Instant::now();
        let aged = step == Step::ShipAssigned;
        if aged {
            // All may be in the bucket by chance. Who dies with a new block leaves one that is not.
            let mut tries = 0;
            while self.age_blocks() == 0 {
                assert!(tries < 5, "a block waits to be shipped");
                tries += 1;
                self.die_at(Step::BlockNamed, 1);
            }
        }
        let at_once = aged || self.random.below(2) == 0;
        let order = self.order();
        fs::remove_file(&order).ok();
        if at_once {
            fs::write(&order, format!("{step:?} {times}")).expect("an order");
        }
        let mut node = self.begin();
        if !at_once {
            node.wait_ready();
            check(&node, &self.ledgers);
            // Seen whole or not at all.
            let unfinished = order.with_extension("tmp");
            fs::write(&unfinished, format!("{step:?} {times}")).expect("an order");
            fs::rename(unfinished, order).expect("an order");
        }
        self.load(&node, |begun, _| begun.elapsed() < 2 * PATIENCE);
        let status = node.wait();
        assert_eq!(status.signal(), Some(9), "{step:?}: {status}");
        let said = format!("killed by itself at {step:?}");
        assert!(node.log().contains(&said), "{step:?}");
        println!("{step:?} {times}, at once: {at_once}, {:?}", begun.elapsed());
    }

    fn load(&mut self, node: &Node, go_on: impl Fn(Instant, u64) -> bool + Sync) {
        let (to, begun, go_on) = (node.at.write, Instant::now(), &go_on);
        thread::scope(|scope| {
            for ledger in &mut self.ledgers {
                scope.spawn(move || {
                    ledger.load(to, |round| {
                        if round > QUICK_ROUNDS {
                            thread::sleep(PAUSE);
                        }
                        go_on(begun, round)
                    });
                });
            }
        });
    }

    /// A last life, which ends well.
    fn finish(mut self) {
        fs::remove_file(self.order()).ok();
        let node = self.begin();
        node.wait_ready();
        check(&node, &self.ledgers);
        self.load(&node, |_, round| round < QUICK_ROUNDS);
        let data = self.data();
        wait_until_settled(&data, &self.ledgers);
        blocks::check(&data, &self.ledgers);
        check_bucket(&self.bucket, &data);
        check_with_promtool(&data);
        println!("{} samples", check(&node, &self.ledgers));
    }

    /// Makes blocks a day older than they are that are not in the bucket: one that is was found
    /// there by its name. How many there were.
    fn age_blocks(&self) -> usize {
        let mut aged = 0;
        for block in local(&self.data()) {
            let ulid = block.meta.ulid;
            let is_shipped = shipped(&self.data(), &block.tenant).contains(&ulid);
            let is_there = self.bucket.exists() && !visible(&self.bucket, &block.dir).is_empty();
            if is_shipped || is_there {
                continue;
            }
            let made_ms = u64::try_from(now_ms() - 25 * 60 * MINUTE_MS).expect("after 1970");
            let older = Ulid::from_parts(made_ms, ulid.random());
            let path = block.dir.join("meta.json");
            let meta = fs::read_to_string(&path).expect("a meta.json");
            let meta = meta.replace(&ulid.to_string(), &older.to_string());
            fs::write(path, meta).expect("is written");
            fs::rename(&block.dir, block.dir.with_file_name(older.to_string())).expect("renamed");
            aged += 1;
        }
        aged
    }
}

fn seed() -> u64 {
    let seed = setting("TIDEGATE_SEED").unwrap_or_else(|| getrandom::u64().expect("a number"));
    println!("TIDEGATE_SEED={seed}");
    seed
}

/// How often all steps are walked over.
fn walks() -> u64 {
    setting("TIDEGATE_KILLS").unwrap_or(1).div_ceil(Step::ALL.len() as u64)
}

/// These need more log than the others write.
const LONG: [Step; 3] = [Step::SegmentGone, Step::SeriesToldAgain, Step::SeriesSegmentGone];

#[test]
fn what_was_acknowledged_outlives_death_at_every_step() {
    let seed = seed();
    for walk in 0..walks() {
        let mut world = World::new(seed ^ walk);
        for &step in Step::ALL.iter().filter(|step| !LONG.contains(step)) {
            // Later in a step's life other tenants and shards are at it.
            let rare = matches!(step, Step::OldSegmentGone | Step::ShipAssigned);
            let times = if walk == 0 || rare { 1 } else { 1 + world.random.below(3) };
            world.die_at(step, times);
        }
        world.finish();
    }
}

#[test]
fn blocks_on_their_way_to_s3_outlive_death_at_every_step() {
    let (seed, server) = (seed(), Beside::start());
    for walk in 0..walks() {
        let mut world = World::new(seed ^ walk);
        let config = server.config(&format!("walk-{walk}"));
        world.flags.push(format!("--objstore.config={config}"));
        world.bucket = server.files().join(format!("walk-{walk}"));
        for &step in Step::ALL.iter().filter(|step| format!("{step:?}").starts_with("Ship")) {
            world.die_at(step, 1);
        }
        world.finish();
    }
}

#[test]
fn what_was_acknowledged_outlives_death_when_log_is_let_go() {
    let seed = seed();
    for walk in 0..walks() {
        for step in LONG {
            // A log segment, 64 MiB, is full after seventy rounds.
            let mut world = World::with_series(seed ^ walk, 160, Pad::Same(16_000));
            // One shard, for the series file is not touched behind logs of another number of them;
            // in the life after it there are two.
            world.starts = 2;
            world.die_at(step, 1);
            world.finish();
        }
    }
}
