//! A sender and its ledger: what it sent, what was acknowledged, and whether that is stored.
//!
//! A sender writes rounds. A round holds one sample of each series of a window that moves on, so
//! new series come all the time; everything in it follows from seed, sender and round, so the
//! ledger is one word per round. After a connection broke, a sender repeats the round whose answer
//! it did not see, as Prometheus does, or gives it up: then it may be stored or not.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tidegate_proto::prometheus::{Label, Sample, TimeSeries, WriteRequest};

use crate::live::harness::{Node, Random};
use crate::live::wire::{Labels, Samples, Sender, Store, request};

/// Series in a round.
const WINDOW: u64 = 20;
/// Rounds in which [`Shape::churn`] series come and go.
const CHURN_ROUNDS: u64 = 8;

/// How long a label is that says nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pad {
    None,
    /// So many bytes, the same in all series: the log has them each time, head and block once.
    Same(usize),
    /// Others in each series.
    Own(usize),
}

/// What a sender sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tenant: &'static str,
    /// Time of the first round.
    pub(crate) begin_ms: i64,
    /// Time between two rounds, in the data.
    pub(crate) step_ms: i64,
    /// New series in eight rounds.
    pub(crate) churn: u64,
    /// A label that says nothing.
    pub(crate) pad: Pad,
    /// Whether one round in five comes out of order, four rounds late.
    pub(crate) late: bool,
    /// Whether label sets come unsorted: such series have another home than owner.
    pub(crate) reversed: bool,
}

/// What a sender knows of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// It may be stored, whole or in part.
    Sent,
    /// It was answered with 200.
    Acked,
}

/// One sender and its ledger.
pub(crate) struct Ledger {
    seed: u64,
    sender: u64,
    shape: Shape,
    pub(crate) rounds: Vec<Round>,
    /// Rounds that were answered 503.
    pub(crate) turned_away: u64,
    random: Random,
}

impl Ledger {
    pub(crate) fn new(seed: u64, sender: u64, shape: Shape) -> Self {
        let random = Random::new(seed ^ (sender << 32));
        Self { seed, sender, shape, rounds: Vec::new(), turned_away: 0, random }
    }

    fn labels(&self, series: u64) -> Vec<Label> {
        let label = |name: &str, value: String| Label { name: name.into(), value };
        let mut labels = vec![
            label("__name__", "ledger".into()),
            label("sender", self.sender.to_string()),
            label("series", format!("{series:05}")),
        ];
        let pad = match self.shape.pad {
            Pad::None => None,
            Pad::Same(bytes) => Some("-".repeat(bytes)),
            Pad::Own(bytes) => Some(format!("{series:05}").repeat(bytes / 5)),
        };
        if let Some(pad) = pad {
            labels.insert(1, label("pad", pad));
        }
        if self.shape.reversed {
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
        let Shape { begin_ms, step_ms, late, .. } = self.shape;
        let in_order = begin_ms + i64::try_from(round).expect("few") * step_ms;
        // Between two others.
        if late && round % 5 == 4 { in_order - 4 * step_ms + step_ms / 2 } else { in_order }
    }

    fn window(&self, round: u64) -> std::ops::Range<u64> {
        let first = round * self.shape.churn / CHURN_ROUNDS;
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
        request(self.window(round).map(one).collect())
    }

    /// Writes until the connection breaks, or until `go_on` says no to a number of rounds.
    pub(crate) fn load(&mut self, to: SocketAddr, mut go_on: impl FnMut(u64) -> bool) {
        let Ok(mut sender) = Sender::connect(to) else { return };
        if self.rounds.last() == Some(&Round::Sent) && self.random.below(2) == 0 {
            self.rounds.pop();
        }
        for done in 0.. {
            if !go_on(done) || self.round(&mut sender).is_err() {
                return;
            }
        }
    }

    fn round(&mut self, sender: &mut Sender) -> io::Result<()> {
        let round = self.rounds.len() as u64;
        let request = self.request(round);
        self.rounds.push(Round::Sent);
        let answer = sender.write(self.shape.tenant, &request)?;
        match answer.status {
            200 => self.rounds[round as usize] = Round::Acked,
            // While the logs are replayed. It is the same as if it had not been sent.
            503 => {
                self.rounds.pop();
                self.turned_away += 1;
                thread::sleep(Duration::from_millis(5));
            }
            _ => panic!("sender {}, round {round}: {answer:?}", self.sender),
        }
        Ok(())
    }

    /// Time of the newest round.
    pub(crate) fn newest_ms(&self) -> i64 {
        let last = self.rounds.len() as u64 - 1;
        self.time(last).max(self.time(last.saturating_sub(1)))
    }

    pub(crate) fn tenant(&self) -> &'static str {
        self.shape.tenant
    }

    /// acked ⊆ stored ⊆ sent, each sample once.
    fn check(&self, stored: &mut BTreeMap<Labels, Samples>) -> Result<(), String> {
        self.check_before(i64::MAX, stored)
    }

    /// The same of what has only samples before a time. What is right is taken out of `stored`.
    pub(crate) fn check_before(
        &self,
        end_ms: i64,
        stored: &mut BTreeMap<Labels, Samples>,
    ) -> Result<(), String> {
        let mut expected: BTreeMap<u64, Vec<(u64, Round)>> = BTreeMap::new();
        for (round, &state) in (0..).zip(&self.rounds).filter(|(r, _)| self.time(*r) < end_ms) {
            for series in self.window(round) {
                expected.entry(series).or_default().push((round, state));
            }
        }
        for (series, mut rounds) in expected {
            rounds.sort_by_key(|(round, _)| self.time(*round));
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
        labels.push(("tenant_id".into(), self.shape.tenant.into()));
        labels.sort();
        labels
    }
}

/// What a node has over the `StoreAPI` is what these senders wrote, and nothing else is there.
/// Returns how many samples.
pub(crate) fn check(node: &Node, ledgers: &[Ledger]) -> usize {
    let mut stored = Store::connect(node.at.grpc).select(&[("__name__", ".+")]);
    let samples = stored.values().map(Vec::len).sum();
    for ledger in ledgers {
        ledger.check(&mut stored).expect("acked ⊆ stored ⊆ sent, once");
    }
    assert!(stored.is_empty(), "series that nobody sent: {:?}", stored.keys().next());
    samples
}

#[test]
fn the_ledger_finds_every_kind_of_lie() {
    let shape = Shape {
        tenant: "blue",
        begin_ms: 1_000_000,
        step_ms: 100,
        churn: 1,
        pad: Pad::None,
        late: false,
        reversed: true,
    };
    let mut ledger = Ledger::new(7, 2, shape);
    ledger.rounds = vec![Round::Acked, Round::Acked, Round::Sent];
    let labels = ledger.final_labels(0);
    let sample = |round| (ledger.time(round), ledger.bits(round, 0));
    let all = |last: u64| -> BTreeMap<Labels, Samples> {
        let of = |series| (0..last).map(|r| (ledger.time(r), ledger.bits(r, series))).collect();
        ledger.window(0).map(|series| (ledger.final_labels(series), of(series))).collect()
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
