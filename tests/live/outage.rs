//! The bucket is down, in every way in which a bucket is down. Intake does not notice, and when it
//! is over all blocks come.
//!
//! The program ships to a real S3 server over HTTP, which checks signatures, and to a directory.
//! Senders write at a steady pace while ranges are cut, flushed and uploaded, with the bucket up
//! and down. What their requests take is compared within the run, and with what a bare write and
//! flush takes on the same disk at the same time: other tests want the machine as well.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::bucket::server::{Beside, Kind, Outage};
use crate::live::blocks::{
    self, check_bucket, check_with_promtool, local, shipped, wait_until_settled,
};
use crate::live::harness::{Node, home, now_ms, wait_for};
use crate::live::ledger::{Ledger, Pad, Shape, check};

const MINUTE_MS: i64 = 60 * 1000;
/// How long the bucket is in a state, at least.
const PHASE: Duration = Duration::from_secs(4);
/// Rounds of a sender in it, at least: four hours of data, so a range ends in each phase.
const ROUNDS: u64 = 120;
/// Between two requests of a sender.
const PAUSE: Duration = Duration::from_millis(20);
/// What the slowest answer of a phase may take beside what the machine takes. Who waits for a
/// bucket waits for a second at least: that long uploads rest after a failure.
const SLOWEST: Duration = Duration::from_millis(300);

/// What was done again and again in a phase took so long.
#[derive(Debug)]
struct Took {
    per_s: f64,
    median: Duration,
    p99: Duration,
    longest: Duration,
}

impl Took {
    fn of(mut times: Vec<Duration>, phase: Duration) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        let per_s = times.len() as f64 / phase.as_secs_f64();
        Self { per_s, median: at(50), p99: at(99), longest: at(100) }
    }
}

/// Writes a page and flushes it, at the pace of a sender, until told to stop.
fn flushes(dir: &Path, over: &AtomicBool) -> Vec<Duration> {
    let mut file = tempfile::tempfile_in(dir).expect("a file");
    let mut times = Vec::new();
    while !over.load(Relaxed) {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).expect("written");
        file.sync_data().expect("flushed");
        times.push(begun.elapsed());
        thread::sleep(PAUSE);
    }
    times
}

/// Writes for a phase: what the requests took, and bare flushes in `dir` meanwhile.
fn load(node: &Node, dir: &Path, ledgers: &mut [Ledger], name: &str) -> [Took; 2] {
    let to = node.at.write;
    let sent = |ledger: &mut Ledger| {
        let (begun, mut times) = (Instant::now(), Vec::new());
        let mut last = begun;
        ledger.load(to, |round| {
            if round > 0 {
                times.push(last.elapsed());
            }
            thread::sleep(PAUSE);
            last = Instant::now();
            begun.elapsed() < PHASE || round < ROUNDS
        });
        times
    };
    let (begun, over) = (Instant::now(), AtomicBool::new(false));
    let (times, flushed) = thread::scope(|scope| {
        let flushes = scope.spawn(|| flushes(dir, &over));
        let senders: Vec<_> = ledgers.iter_mut().map(|l| scope.spawn(|| sent(l))).collect();
        let times = senders.into_iter().flat_map(|sender| sender.join().expect("no panic"));
        let times: Vec<Duration> = times.collect();
        over.store(true, Relaxed);
        (times, flushes.join().expect("no panic"))
    });
    assert!(ledgers.iter().all(|ledger| ledger.turned_away == 0), "{name}: turned away");
    let took = [times, flushed].map(|times| Took::of(times, begun.elapsed()));
    println!("{name}: {took:?}");
    took
}

/// What makes blocks large: new series in eight rounds, and how long their labels are.
type Size = (u64, Pad);
const SMALL: Size = (1, Pad::None);
/// 20 series of 8 KB a round, which are 60 rounds and 10 MB of labels in a range.
const LARGE: Size = (160, Pad::Own(8 << 10));
/// A block that took many writes of the disk and, in S3, more than one part.
const LARGE_BYTES: u64 = 5 << 20;

fn ledgers(first: u64, tenants: [&'static str; 3], step_ms: i64, size: Size) -> Vec<Ledger> {
    let begin_ms = now_ms() - 60 * 24 * 60 * MINUTE_MS;
    let (churn, pad) = size;
    let shape =
        |tenant, reversed| Shape { tenant, begin_ms, step_ms, churn, pad, late: false, reversed };
    let senders = (first..).zip(tenants);
    senders.map(|(n, tenant)| Ledger::new(9, n, shape(tenant, n % 2 == 1))).collect()
}

/// Bytes of the largest block a tenant has.
fn largest(data: &Path, tenant: &str) -> u64 {
    let all = local(data).into_iter().filter(|block| block.tenant == tenant);
    let bytes = |dir: &Path| {
        let files = fs::read_dir(dir).expect("a block").map(|file| file.expect("a file"));
        files.map(|file| file.metadata().expect("its size").len()).sum()
    };
    all.map(|block| bytes(&block.dir)).max().unwrap_or_default()
}

fn waiting(data: &Path) -> usize {
    let is_waiting = |b: &blocks::Block| !shipped(data, &b.tenant).contains(&b.meta.ulid);
    local(data).into_iter().filter(is_waiting).count()
}

/// A way to be down: its name, what begins it and what ends it.
type Way<'a> = (&'a str, Box<dyn Fn() + 'a>, Box<dyn Fn() + 'a>);

/// Answers must not take longer than `calm` ones did, and the disk meanwhile.
fn check_not_slower(calm: &Took, [took, flush]: &[Took; 2]) {
    let all = || format!("{took:?}, flushes {flush:?}, without blocks {calm:?}");
    assert!(2.0 * took.per_s > calm.per_s, "{}", all());
    assert!(took.median < 2 * calm.median + 4 * flush.median + PAUSE, "{}", all());
    assert!(took.p99 < 2 * calm.p99 + 4 * flush.p99 + 5 * PAUSE, "{}", all());
    assert!(took.longest < SLOWEST + 4 * flush.longest, "{}", all());
}

/// Goes through outages of a bucket whose objects lie in `bucket`.
fn go_through(config: &str, bucket: &Path, ways: &[Way<'_>]) {
    let home = home();
    let (place, data) = (home.path(), home.path().join("data"));
    let flags = ["--shards=2", "--label=receive_replica=\"0\"", "--tsdb.retention=0d"];
    let config = format!("--objstore.config={config}");
    let mut node = Node::start(place, &[&flags[..], &[&config]].concat());
    node.may_warn("block not shipped, will try again");

    // Data in which no range ends, then data in which they do, with the bucket up.
    let mut all = Vec::new();
    let mut uploads = |name: &str, size: Size, tenants: [&'static str; 3]| {
        let first = all.len() as u64;
        let mut without = ledgers(first, ["calm"; 3], 1, size);
        let [calm, _] = load(&node, place, &mut without, &format!("no blocks, {name}"));
        let mut cut = ledgers(first + 3, tenants, 2 * MINUTE_MS, size);
        let beside = load(&node, place, &mut cut, &format!("uploads, {name}"));
        check_not_slower(&calm, &beside);
        wait_until_settled(&data, &cut);
        all.append(&mut without);
        (calm, cut)
    };
    let (_, mut large) = uploads("large", LARGE, ["large-red", "large-green", "large-blue"]);
    let (calm, mut cut) = uploads("small", SMALL, ["red", "green", "blue"]);
    assert!(largest(&data, "large-red") > LARGE_BYTES, "{}", largest(&data, "large-red"));
    for (name, begin, end) in ways {
        begin();
        check_not_slower(&calm, &load(&node, place, &mut cut, name));
        wait_for("blocks that wait", || (waiting(&data) > 0).then_some(()));
        end();
        wait_until_settled(&data, &cut);
    }
    cut.append(&mut large);
    blocks::check(&data, &cut);
    check_bucket(bucket, &data);
    check_with_promtool(&data);
    let failures = node.log().matches("block not shipped, will try again").count();
    assert!(failures >= ways.len(), "{failures} failures");
    all.append(&mut cut);
    check(&node, &all);
}

#[test]
fn an_s3_server_that_is_down_in_every_way() {
    let server = &Beside::start();
    let config = server.config("");
    let way = |name, outage| -> Way<'_> {
        (name, Box::new(move || server.set(outage)), Box::new(|| server.set(Outage::None)))
    };
    let ways = [
        way("refuses connections", Outage::Refuses),
        way("answers 503", Outage::Answers(503)),
        way("answers 403", Outage::Answers(403)),
        way("hangs", Outage::Hangs),
    ];
    go_through(&config, &server.files(), &ways);
    meta_json_comes_last(&server.journal());
}

/// After `meta.json` nothing of a block is written.
fn meta_json_comes_last(journal: &[(Kind, String)]) {
    let mut visible = BTreeMap::new();
    for (kind, path) in journal {
        let Some((block, name)) = path.trim_start_matches("/blocks/").split_once('/') else {
            continue;
        };
        if matches!(kind, Kind::Put | Kind::Part | Kind::Complete) {
            let is_visible = visible.entry(block).or_insert(false);
            assert!(!*is_visible || name == "meta.json", "{path} comes late");
            *is_visible |= name == "meta.json";
        }
    }
    assert!(!visible.is_empty() && visible.values().all(|is| *is), "{visible:?}");
}

#[test]
fn a_directory_that_is_down() {
    let place = home();
    let (bucket, away) = (place.path().join("bucket"), place.path().join("away"));
    let config = format!("{{type: FILESYSTEM, config: {{directory: '{}'}}}}", bucket.display());
    let leave = || fs::rename(&bucket, &away).expect("is renamed");
    let come_back = || fs::rename(&away, &bucket).expect("is renamed");
    let ways: [Way<'_>; 2] = [
        ("is not there", Box::new(leave), Box::new(come_back)),
        (
            "is a file",
            Box::new(|| {
                leave();
                fs::write(&bucket, "").expect("is written");
            }),
            Box::new(|| {
                fs::remove_file(&bucket).expect("is removed");
                come_back();
            }),
        ),
    ];
    go_through(&config, &bucket, &ways);
}
