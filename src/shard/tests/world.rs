//! A small world for a shard: senders, a clock, a device, and a ledger of what was said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures_lite::future;

use crate::chunk::xor;
use crate::decode::region::{self, LabelLimits};
use crate::model::{KeySecret, Sample, TenantId, TimeSpan};
use crate::rt::channel::mpsc;
use crate::rt::clock::Clock;
use crate::rt::mesh::Home;
use crate::rt::twin::{Dice, Twin};
use crate::shard::head::read::Copied;
use crate::shard::recover::{Recovered, Report, recover};
use crate::shard::slots::{self, SlotSet};
use crate::shard::write::{Batch, Item, Written};
use crate::shard::{Generation, Settings, Shard};

pub(super) const ROOT: &str = "/data";
/// (tenant, series, time) -> value bits.
pub(super) type Ledger = BTreeMap<(usize, usize, i64), u64>;

/// A tenant's samples, each with its series.
type Sent = (usize, Vec<(usize, Sample)>);
/// What was sent and not answered.
type Open = (usize, Vec<(usize, Sample)>, mpsc::UnboundedReceiver<Written>);

pub(super) const TENANTS: [&str; 2] = ["a", "b"];

pub(super) fn settings(shard: u16, generations: &[Generation]) -> Settings {
    Settings {
        shard,
        generations: generations.to_vec(),
        node: [9; 16],
        secret: KeySecret::new([5; 32]),
        limits: LabelLimits::default(),
        answers_wait: true,
        segment_bytes: 64 * 1024,
        spare_segments: 1,
        epochs: next_epoch,
    }
}

/// Epochs of a test: never the same twice.
fn next_epoch() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Dice(NEXT.fetch_add(1, Ordering::Relaxed)).roll()
}

pub(super) fn tenant(t: usize) -> TenantId {
    TenantId::new(TENANTS[t]).expect("a tenant")
}

pub(super) fn region_of(series: usize) -> Vec<u8> {
    let value = format!("series-{series}");
    let mut region = Vec::new();
    region::encode([("__name__", "m"), ("series", value.as_str())], &mut region);
    region
}

/// A batch for the shard that owns `slots`: samples of one tenant, some of them sent before.
pub(super) fn batch(
    t: usize,
    samples: &[(usize, Sample)],
    slots: &SlotSet,
) -> (Batch, mpsc::UnboundedReceiver<Written>) {
    let keys = KeySecret::new([5; 32]).of(&tenant(t));
    let mut bytes = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    let mut all: Vec<Sample> = Vec::new();
    for &(series, sample) in samples {
        let region = region_of(series);
        let key = keys.key(&region);
        if !slots.contains(slots::slot(key)) {
            continue;
        }
        let from = bytes.len() as u32;
        bytes.extend_from_slice(&region);
        let at = all.len() as u32;
        all.push(sample);
        items.push(Item { key, region: from..bytes.len() as u32, samples: at..at + 1 });
    }
    let (reply, answer) = mpsc::unbounded_channel();
    let batch = Batch {
        tenant: tenant(t),
        items,
        samples: all,
        bytes: Home::new(1).lend(bytes),
        max_t: i64::MAX,
        forwarded: false,
        reply,
    };
    (batch, answer)
}

/// What the shard holds, by the ledger's names.
pub(super) fn stored(shard: &Shard<Twin>) -> Ledger {
    let mut state = shard.state.borrow_mut();
    let head = &mut state.applier.head;
    let mut all = Ledger::new();
    let mut copied = Copied::default();
    for t in 0..head.tenants.len() {
        let name = head.tenants[t].id.as_str().to_owned();
        let owner = TENANTS.iter().position(|n| *n == name).expect("a known tenant");
        for index in head.tenants[t].members.clone() {
            let value = head.labels(index).find(|(n, _)| *n == "series").expect("a label").1;
            let series: usize = value["series-".len()..].parse().expect("a number");
            head.copy_chunks(index, TimeSpan::ALL, &mut copied);
            for chunk in copied.iter() {
                for sample in xor::Reader::new(chunk.bytes).expect("a chunk") {
                    let sample = sample.expect("a sample");
                    let old = all.insert((owner, series, sample.t), sample.bits);
                    assert_eq!(old, None, "a time is stored once");
                }
            }
        }
    }
    all
}

/// Recovers a shard.
pub(super) async fn start(twin: &Twin, settings: &Settings) -> Recovered<Twin> {
    recover(twin.clone(), Path::new(ROOT), settings).await.expect("a recovery")
}

/// What senders were told and what they sent.
#[derive(Debug, Default, Clone)]
pub(super) struct Said {
    pub(super) sent: Ledger,
    pub(super) acked: BTreeSet<(usize, usize, i64)>,
}

/// Runs senders against a started shard until the power goes or `rounds` are done.
///
/// Every sender has a time of its own per series, sends in order, and sometimes sends a batch
/// again that was answered or not, as Prometheus does after a timeout.
pub(super) async fn run(
    twin: &Twin,
    recovered: Recovered<Twin>,
    slots: &SlotSet,
    said: &mut Said,
    dice: &mut Dice,
    rounds: usize,
) -> Report {
    let Recovered { shard, log, series, spares, report, .. } = recovered;
    let clock = Clock::twin(0);
    let commits = async {
        shard.commit_loop(log, series, &clock).await;
    };
    let making = async {
        spares.prepare().await.ok();
        future::pending::<()>().await;
    };
    let senders = send(&shard, slots, said, dice, rounds);
    let off = async {
        while !twin.is_off() {
            future::yield_now().await;
        }
    };
    // The commit loop ends when the device refuses twice; the senders then hear of it.
    let background = async {
        future::zip(commits, making).await;
    };
    future::or(off, future::or(senders, background)).await;
    report
}

async fn send(
    shard: &Shard<Twin>,
    slots: &SlotSet,
    said: &mut Said,
    dice: &mut Dice,
    rounds: usize,
) {
    let mut last: Vec<Sent> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let first = said.sent.keys().map(|k| k.2).max().unwrap_or(0) + 15_000;
    for round in 0..rounds {
        let t = dice.below(TENANTS.len() as u64) as usize;
        let again = (!last.is_empty() && dice.below(4) == 0)
            .then(|| last[dice.below(last.len() as u64) as usize].clone());
        let (t, samples) = again.unwrap_or_else(|| {
            let time = first + round as i64 * 15_000;
            let count = 1 + dice.below(30) as usize;
            let from = dice.below(200) as usize;
            let sample = |dice: &mut Dice| Sample { t: time, bits: dice.below(1000) };
            (t, (from..from + count).map(|series| (series, sample(dice))).collect())
        });
        for (series, sample) in &samples {
            said.sent.insert((t, *series, sample.t), sample.bits);
        }
        let (batch, answer) = batch(t, &samples, slots);
        assert!(shard.write(batch).is_empty(), "canonical spellings stay here");
        last.push((t, samples.clone()));
        open.push((t, samples, answer));
        for _ in 0..dice.below(6) {
            future::yield_now().await;
        }
        hear(&mut open, said, slots);
    }
    while !open.is_empty() {
        future::yield_now().await;
        hear(&mut open, said, slots);
    }
}

/// Takes the answers that have come.
fn hear(open: &mut Vec<Open>, said: &mut Said, slots: &SlotSet) {
    open.retain_mut(|(t, samples, answer)| {
        let Ok(written) = answer.try_recv() else { return true };
        if written.unavailable.is_some() {
            return false;
        }
        // A repeated batch may be behind what was sent since; then it is refused, not lost.
        if written.is_clean() {
            let keys = KeySecret::new([5; 32]).of(&tenant(*t));
            for (series, sample) in samples {
                if slots.contains(slots::slot(keys.key(&region_of(*series)))) {
                    said.acked.insert((*t, *series, sample.t));
                }
            }
        }
        false
    });
}
