//! kill -9 under load: what was acknowledged is there, once, bit for bit, and nothing else is.
//!
//! Several senders write rounds. A round holds one sample of each series of a window that moves,
//! so new series come all the time; everything in it follows from seed, sender and round, so the
//! ledger of a sender is one word per round. After a kill a sender repeats the round whose answer
//! it did not see, as Prometheus does, or gives it up: then it may be stored or not.
//!
//! `TIDEGATE_KILLS` sets how often, `TIDEGATE_SEED` repeats the numbers of a run (not its timing).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tidegate_proto::prometheus::{Label, Sample, TimeSeries, WriteRequest};

use crate::live::harness::{Node, Random, command, home, now_ms};
use crate::live::wire::{Labels, Samples, Sender, Store, request};

const SENDERS: u64 = 3;
/// Series in a round.
const WINDOW: u64 = 20;
/// Rounds after which the window moves on by a series.
const ROUNDS_PER_SERIES: u64 = 8;
/// Time between two rounds of a sender, in its data.
const STEP_MS: i64 = 100;
/// How many shards the starts have, in turn.
const SHARDS: [&str; 3] = ["2", "3", "1"];

/// What a sender knows of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// It may be stored, whole or in part.
    Sent,
    /// It was answered with 200.
    Acked,
}

/// One sender and its ledger.
struct Ledger {
    seed: u64,
    sender: u64,
    begin_ms: i64,
    rounds: Vec<Round>,
    random: Random,
}

impl Ledger {
    fn new(seed: u64, sender: u64, begin_ms: i64) -> Self {
        let random = Random::new(seed ^ (sender << 32));
        Self { seed, sender, begin_ms, rounds: Vec::new(), random }
    }

    fn tenant(&self) -> &'static str {
        if self.sender == 0 { "red" } else { "blue" }
    }

    /// Label sets of the last sender are not sorted: its series have another home than owner.
    fn labels(&self, series: u64) -> Vec<Label> {
        let label = |name: &str, value: String| Label { name: name.into(), value };
        let mut labels = vec![
            label("__name__", "kill_test".into()),
            label("sender", self.sender.to_string()),
            label("series", format!("{series:05}")),
        ];
        if self.sender == SENDERS - 1 {
            labels.reverse();
        }
        labels
    }

    /// The bits of a value: any, NaN of all kinds among them.
    fn bits(&self, round: u64, series: u64) -> u64 {
        let mut random = Random::new(self.seed ^ (self.sender << 56) ^ (round << 24) ^ series);
        match random.below(8) {
            0 => 0x7ff0_0000_0000_0000 | random.next() | 1,
            1 => f64::from(u32::try_from(random.below(100)).expect("small")).to_bits(),
            _ => random.next(),
        }
    }

    fn time(&self, round: u64) -> i64 {
        self.begin_ms + i64::try_from(round).expect("few") * STEP_MS
    }

    fn window(round: u64) -> std::ops::Range<u64> {
        let first = round / ROUNDS_PER_SERIES;
        first..first + WINDOW
    }

    fn request(&self, round: u64) -> WriteRequest {
        let one = |series| TimeSeries {
            labels: self.labels(series),
            samples: vec![Sample {
                value: f64::from_bits(self.bits(round, series)),
                timestamp: self.time(round),
            }],
            ..TimeSeries::default()
        };
        request(Self::window(round).map(one).collect())
    }

    /// Writes until the connection breaks.
    fn load(&mut self, to: SocketAddr) {
        let Ok(mut sender) = Sender::connect(to) else { return };
        if self.rounds.last() == Some(&Round::Sent) && self.random.below(2) == 0 {
            self.rounds.pop();
        }
        while let Ok(()) = self.round(&mut sender) {}
    }

    fn round(&mut self, sender: &mut Sender) -> io::Result<()> {
        let round = self.rounds.len() as u64;
        let request = self.request(round);
        self.rounds.push(Round::Sent);
        let answer = sender.write(self.tenant(), &request)?;
        match answer.status {
            200 => self.rounds[round as usize] = Round::Acked,
            // While the logs are replayed. It is the same as if it had not been sent.
            503 => {
                self.rounds.pop();
                thread::sleep(Duration::from_millis(5));
            }
            _ => panic!("sender {}, round {round}: {answer:?}", self.sender),
        }
        Ok(())
    }

    /// acked ⊆ stored ⊆ sent, each sample once.
    fn check(&self, stored: &mut BTreeMap<Labels, Samples>) -> Result<(), String> {
        let mut expected: BTreeMap<u64, Vec<(u64, Round)>> = BTreeMap::new();
        for (round, &state) in (0..).zip(&self.rounds) {
            for series in Self::window(round) {
                expected.entry(series).or_default().push((round, state));
            }
        }
        for (series, rounds) in expected {
            let labels = self.final_labels(series);
            let samples = stored.remove(&labels).unwrap_or_default();
            let mut samples = samples.into_iter().peekable();
            for (round, state) in rounds {
                let sample = (self.time(round), self.bits(round, series));
                let is_stored = samples.next_if_eq(&sample).is_some();
                if state == Round::Acked && !is_stored {
                    return Err(format!("{labels:?}: round {round} {sample:?} was acknowledged"));
                }
            }
            // Foreign, doubled, changed or misplaced: all end up here.
            if let Some(sample) = samples.next() {
                return Err(format!("{labels:?}: {sample:?} was never sent so"));
            }
        }
        Ok(())
    }

    /// As the StoreAPI has them: sorted, with the external labels.
    fn final_labels(&self, series: u64) -> Labels {
        let mut labels: Labels =
            self.labels(series).into_iter().map(|label| (label.name, label.value)).collect();
        labels.push(("receive_replica".into(), "0".into()));
        labels.push(("tenant_id".into(), self.tenant().into()));
        labels.sort();
        labels
    }
}

fn check(node: &Node, ledgers: &[Ledger]) -> usize {
    let mut stored = Store::connect(node.at.grpc).select(&[("__name__", ".+")]);
    let samples = stored.values().map(Vec::len).sum();
    for ledger in ledgers {
        ledger.check(&mut stored).expect("acked ⊆ stored ⊆ sent, once");
    }
    assert!(stored.is_empty(), "series that nobody sent: {:?}", stored.keys().next());
    samples
}

fn begin(home: &Path, number: u64, ack: &str) -> Node {
    let shards = SHARDS[(number % 3) as usize];
    let label = "receive_replica=\"0\"";
    Node::begin(home, command(home, &["--shards", shards, "--label", label, "--log.ack", ack]))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
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

fn outlives_kills(ack: &str) {
    let kills = setting("TIDEGATE_KILLS").unwrap_or(20);
    let seed = setting("TIDEGATE_SEED").unwrap_or_else(|| getrandom::u64().expect("a number"));
    println!("TIDEGATE_SEED={seed} TIDEGATE_KILLS={kills}");
    let home = home();
    let mut random = Random::new(seed);
    let begin_ms = now_ms() - 3_600_000;
    let mut ledgers: Vec<Ledger> =
        (0..SENDERS).map(|sender| Ledger::new(seed, sender, begin_ms)).collect();
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
                scope.spawn(move || ledger.load(to));
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

#[test]
fn the_ledger_finds_every_kind_of_lie() {
    let mut ledger = Ledger::new(7, 2, 1_000_000);
    ledger.rounds = vec![Round::Acked, Round::Acked, Round::Sent];
    let labels = ledger.final_labels(0);
    let sample = |round| (ledger.time(round), ledger.bits(round, 0));
    let all = |last: u64| -> BTreeMap<Labels, Samples> {
        let of = |series| (0..last).map(|r| (ledger.time(r), ledger.bits(r, series))).collect();
        Ledger::window(0).map(|series| (ledger.final_labels(series), of(series))).collect()
    };
    let judge = |samples: Option<Samples>| {
        let mut stored = all(2);
        stored.remove(&labels);
        stored.extend(samples.map(|samples| (labels.clone(), samples)));
        ledger.check(&mut stored)
    };
    // What was not answered may be stored, even in part.
    assert_eq!(judge(Some(vec![sample(0), sample(1)])), Ok(()));
    assert_eq!(judge(Some(vec![sample(0), sample(1), sample(2)])), Ok(()));
    assert_eq!(ledger.check(&mut all(3)), Ok(()));
    let (t, bits) = sample(1);
    for (lie, samples) in [
        ("a series is lost", None),
        ("a sample is lost", Some(vec![sample(0)])),
        ("the first is lost", Some(vec![sample(1)])),
        ("a sample twice", Some(vec![sample(0), sample(0), sample(1)])),
        ("the order", Some(vec![sample(1), sample(0)])),
        ("one bit", Some(vec![sample(0), (t, bits ^ 1)])),
        ("the time", Some(vec![sample(0), (t + 1, bits)])),
        ("one that nobody sent", Some(vec![sample(0), sample(1), sample(3)])),
    ] {
        assert!(judge(samples).is_err(), "{lie}");
    }
}
