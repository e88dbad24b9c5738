//! A small world for shards: senders, a clock, a device, and a ledger of what was said.

use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::Poll;

use futures_lite::future;

use crate::chunk::Chunk;
use crate::decode::region::{self, LabelLimits};
use crate::model::{KeySecret, STALE_NAN_BITS, Sample, TenantId, TimeSpan};
use crate::rt::channel::mpsc;
use crate::rt::clock::Clock;
use crate::rt::mesh;
use crate::rt::quota::Quotas;
use crate::rt::twin::{Dice, Twin};
use crate::shard::cut_plan::Held;
use crate::shard::flush::held_of;
use crate::shard::head::read::Copied;
use crate::shard::head::specimen;
use crate::shard::recover::{Recovered, find, recover};
use crate::shard::slots::{self, SlotSet};
use crate::shard::write::{Batch, Item, ItemHistogram, Past, Written};
use crate::shard::{Generation, Settings, Shard};

pub(super) const ROOT: &str = "/data";
/// Samples by tenant and series. Plain vectors: a seed makes tens of thousands of entries, and the
/// tests are not optimised.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ledger(Vec<Vec<Sample>>);

impl Default for Ledger {
    fn default() -> Self {
        Self(vec![Vec::new(); TENANTS.len() * SERIES_MAX])
    }
}

impl Ledger {
    pub(super) fn push(&mut self, t: usize, series: usize, sample: Sample) {
        self.0[t * SERIES_MAX + series].push(sample);
    }

    /// Adds a sample to a sorted set.
    pub(super) fn insert(&mut self, t: usize, series: usize, sample: Sample) {
        let samples = &mut self.0[t * SERIES_MAX + series];
        let place = |sample: &Sample| (sample.t, sample.bits);
        if let Err(at) = samples.binary_search_by_key(&place(&sample), place) {
            samples.insert(at, sample);
        }
    }

    /// The samples of a series.
    pub(super) fn of(&self, t: usize, series: usize) -> &[Sample] {
        &self.0[t * SERIES_MAX + series]
    }

    fn newest_of_all(&self) -> i64 {
        self.0.iter().filter_map(|samples| Some(samples.last()?.t)).max().unwrap_or(0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            to.extend_from_slice(from);
        }
    }

    /// Forgets what is older than `end_ms` of a tenant.
    pub(super) fn drop_before(&mut self, t: usize, end_ms: i64) {
        for samples in &mut self.0[t * SERIES_MAX..][..SERIES_MAX] {
            samples.retain(|sample| sample.t >= end_ms);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// In order of time; an entry of the same time and value as another goes.
    pub(super) fn sorted_set(mut self) -> Self {
        self.sort();
        self.0.iter_mut().for_each(Vec::dedup);
        self
    }

    /// In order of time; `Err` names a time that is there twice.
    pub(super) fn sorted_once(mut self) -> Result<Self, String> {
        self.sort();
        for (at, samples) in self.0.iter().enumerate() {
            if let Some(two) = samples.windows(2).find(|two| two[0].t == two[1].t) {
                return Err(format!("stored twice: {}", name(at, two[0])));
            }
        }
        Ok(self)
    }

    fn sort(&mut self) {
        for samples in &mut self.0 {
            if !samples.is_sorted_by_key(|sample| sample.t) {
                samples.sort_unstable_by_key(|sample| (sample.t, sample.bits));
            }
        }
    }

    /// The first sample that `other` lacks; both sorted.
    pub(super) fn not_in(&self, other: &Self) -> Option<String> {
        self.0.iter().zip(&other.0).enumerate().find_map(|(at, (mine, theirs))| {
            let mut rest = theirs.as_slice();
            mine.iter().find_map(|sample| {
                let place = |sample: &Sample| (sample.t, sample.bits);
                while rest.first().is_some_and(|other| place(other) < place(sample)) {
                    rest = &rest[1..];
                }
                (rest.first() != Some(sample)).then(|| name(at, *sample))
            })
        })
    }
}

fn name(at: usize, sample: Sample) -> String {
    let (t, series) = (at / SERIES_MAX, at % SERIES_MAX);
    format!("tenant {t}, series {series}, time {}, value {}", sample.t, sample.bits)
}

pub(super) const TENANTS: [&str; 2] = ["a", "b:c é%"];
const SECRET: [u8; 32] = [5; 32];
/// How much older than the newest of its tenant a sample out of order may be.
const WINDOW_MS: i64 = 10_000_000;
/// Steps by which a sample out of order is late, at most: some are too late.
const LATE_STEPS: u64 = 12;
/// Series of a tenant.
const SERIES_MAX: usize = 64;
/// Most series of a batch.
const BATCH_SERIES_MAX: usize = 20;

pub(super) fn settings(shard: u16, generations: &[Generation]) -> Settings {
    Settings {
        shard,
        generations: generations.to_vec(),
        node: [9; 16],
        secret: KeySecret::new(SECRET),
        limits: LabelLimits::default(),
        out_of_order_cap: crate::shard::OUT_OF_ORDER_CAP,
        quotas: Quotas::unlimited(1),
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

/// What a sender of the world knows of a series.
struct Known {
    region: Vec<u8>,
    /// Its key with each tenant.
    keys: [u128; TENANTS.len()],
}

/// Made once: the keys of a tenant cost more than a batch.
static SERIES: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let secret = KeySecret::new(SECRET);
    let keys = [0, 1].map(|t| secret.of(&tenant(t)));
    let known = |series: usize| {
        let value = format!("series-{series}");
        let mut region = Vec::new();
        region::encode([("__name__", "m"), ("series", value.as_str())], &mut region);
        let keys = [keys[0].key(&region), keys[1].key(&region)];
        Known { region, keys }
    };
    (0..SERIES_MAX).map(known).collect()
});

/// Whether a shard with `slots` is home to a series.
pub(super) fn is_home(slots: &SlotSet, t: usize, series: usize) -> bool {
    slots.contains(slots::slot(SERIES[series].keys[t]))
}

/// Whether the bits of a sample are the number of a histogram: in some series always, in some now
/// and then.
fn is_histogram(series: usize, sample: Sample) -> bool {
    match series % 8 {
        // Prometheus tells markers as floats; they are stored as what they end.
        3 => sample.bits != STALE_NAN_BITS,
        7 => sample.bits % 5 > 1,
        _ => false,
    }
}

/// A batch for the shard that owns `slots`: samples of one tenant, some of them sent before.
pub(super) fn batch(
    t: usize,
    samples: &[(usize, Sample)],
    slots: &SlotSet,
) -> (Batch, mpsc::UnboundedReceiver<Written>) {
    let mut bytes = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    let mut all: Vec<Sample> = Vec::new();
    let mut histograms: Vec<ItemHistogram> = Vec::new();
    for &(series, sample) in samples {
        if !is_home(slots, t, series) {
            continue;
        }
        let key = SERIES[series].keys[t];
        let from = bytes.len() as u32;
        bytes.extend_from_slice(&SERIES[series].region);
        let region = from..bytes.len() as u32;
        let at = all.len() as u32;
        if is_histogram(series, sample) {
            let from = bytes.len() as u32;
            bytes.extend_from_slice(&specimen::named(sample.t, sample.bits));
            let (item, message) = (items.len() as u32, from..bytes.len() as u32);
            histograms.push(ItemHistogram { item, message });
        } else {
            all.push(sample);
        }
        items.push(Item { key, region, samples: at..all.len() as u32 });
    }
    let (reply, answer) = mpsc::unbounded_channel();
    let batch = Batch {
        tenant: tenant(t),
        items,
        samples: all,
        histograms,
        bytes: mesh::Home::new(1).lend(bytes),
        max_t: i64::MAX,
        past: Past { out_of_order_ms: Some(WINDOW_MS), ..Past::ANY },
        reply,
    };
    (batch, answer)
}

/// What there is of a tenant, open or not.
pub(super) fn held_by(shard: &Shard<Twin>, tenant: &TenantId) -> Option<Held> {
    let state = shard.state.borrow();
    let head = &state.applier.head;
    head.find_tenant(tenant).map(|t| held_of(&head.tenants[t as usize], &state.cuts))
}

/// What the shard's head holds from the times on from which it serves, by the ledger's names.
pub(super) fn stored(shard: &Shard<Twin>) -> Ledger {
    let mut all = Ledger::default();
    add_stored(shard, &mut all);
    all
}

/// Adds what a shard's head serves.
pub(super) fn add_stored(shard: &Shard<Twin>, all: &mut Ledger) {
    let mut state = shard.state.borrow_mut();
    let head = &mut state.applier.head;
    let mut copied = Copied::default();
    for t in 0..head.tenants.len() {
        let owner = TENANTS.iter().position(|n| *n == head.tenants[t].id.as_str());
        let owner = owner.expect("a known tenant");
        let from = head.tenants[t].served_from_ms;
        let members = head.tenants[t].members.clone();
        for &index in members.from(0).iter() {
            let value = head.labels(index).find(|(n, _)| *n == "series").expect("a label").1;
            let series = series_number(value);
            head.copy_all(index, TimeSpan { min: from, max: i64::MAX }, &mut copied);
            for chunk in copied.iter() {
                add_chunk(owner, series, chunk, all);
            }
        }
    }
}

pub(super) fn series_number(value: &str) -> usize {
    value["series-".len()..].parse().expect("a number")
}

pub(super) fn add_chunk(t: usize, series: usize, chunk: Chunk<'_>, all: &mut Ledger) {
    for (sample, is_one) in specimen::samples(chunk) {
        let kind_is_kept = is_one == is_histogram(series, sample);
        assert!(kind_is_kept || sample.bits == STALE_NAN_BITS, "of another kind: {sample:?}");
        all.push(t, series, sample);
    }
}

/// What is wrong with what was found, if senders were told and sent this: acknowledged ⊆ stored
/// ⊆ sent, and nothing twice.
pub(super) fn judge(found: Ledger, said: &Said) -> Result<(), String> {
    let found = found.sorted_once()?;
    if let Some(lost) = said.acked.clone().sorted_set().not_in(&found) {
        return Err(format!("acknowledged and lost: {lost}"));
    }
    match found.not_in(&said.sent) {
        Some(strange) => Err(format!("never sent: {strange}")),
        None => Ok(()),
    }
}

/// Recovers a shard.
pub(super) async fn start(twin: &Twin, settings: &Settings) -> Recovered<Twin> {
    try_start(twin, settings).await.expect("a recovery")
}

/// Recovers a shard, if that can be.
pub(super) async fn try_start(twin: &Twin, settings: &Settings) -> io::Result<Recovered<Twin>> {
    let logs = find(twin, Path::new(ROOT), settings).await?;
    recover(twin.clone(), Path::new(ROOT), settings, logs).await
}

/// What senders were told and what they sent.
#[derive(Debug, Default, Clone)]
pub(super) struct Said {
    pub(super) sent: Ledger,
    pub(super) acked: Ledger,
}

/// A running shard and what it is home to.
pub(super) type Home = (Shard<Twin>, SlotSet);

/// How senders behave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) rounds: usize,
    /// Time between two rounds.
    pub(super) step_ms: i64,
    /// Most turns that other tasks get between two rounds.
    pub(super) turns: u64,
}

pub(super) type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs all of them to their ends.
pub(super) async fn all(mut tasks: Vec<Boxed<'_>>) {
    poll_fn(|context| {
        tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Returns when the power has gone.
pub(super) async fn off(twin: &Twin) {
    while !twin.is_off() {
        future::yield_now().await;
    }
}

/// Runs started shards until `main` has ended or the power goes.
pub(super) async fn serve(
    twin: &Twin,
    recovered: Vec<Recovered<Twin>>,
    main: impl AsyncFnOnce(&[Home]),
) {
    let clock = Clock::twin(0);
    let (mut homes, mut logs) = (Vec::new(), Vec::new());
    for Recovered { shard, log, series, spares, .. } in recovered {
        let slots = shard.state.borrow().applier.slots;
        homes.push((shard, slots));
        logs.push((log, series, spares));
    }
    let mut tasks: Vec<Boxed<'_>> = Vec::new();
    for ((shard, _), (log, series, spares)) in homes.iter().zip(logs) {
        let clock = &clock;
        // The commit loop ends when the device refuses twice; the senders then hear of it.
        tasks.push(Box::pin(async move {
            shard.commit_loop(log, series, clock).await;
        }));
        tasks.push(Box::pin(async move {
            spares.prepare().await.ok();
        }));
    }
    let background = async {
        all(tasks).await;
        future::pending::<()>().await;
    };
    future::or(off(twin), future::or(main(&homes), background)).await;
}

/// A number, of a histogram of either kind or a float's bits, now and then those of a marker.
fn some_bits(dice: &mut Dice) -> u64 {
    match dice.below(16) {
        0 => STALE_NAN_BITS,
        kind => dice.below(1000) + kind % 2 * specimen::FLOATS_FROM,
    }
}

/// A batch that waits for its answer, and the shard it went to.
type Open = (usize, Vec<(usize, Sample)>, SlotSet, mpsc::UnboundedReceiver<Written>);

/// Sends to shards. One batch in five comes out of order, at a time that none had before; sometimes
/// one comes again that was answered or not, as Prometheus does after a timeout.
pub(super) async fn send(homes: &[Home], said: &mut Said, dice: &mut Dice, load: Load) {
    let mut last: Vec<(usize, Vec<(usize, Sample)>)> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let first = said.sent.newest_of_all() + load.step_ms;
    for round in 0..load.rounds {
        let t = dice.below(TENANTS.len() as u64) as usize;
        let again = (!last.is_empty() && dice.below(4) == 0)
            .then(|| last[dice.below(last.len() as u64) as usize].clone());
        let (t, samples) = again.unwrap_or_else(|| {
            let mut time = first + round as i64 * load.step_ms;
            if dice.below(5) == 0 {
                time -= dice.below(LATE_STEPS) as i64 * load.step_ms + round as i64 + 1;
            }
            let count = 1 + dice.below(BATCH_SERIES_MAX as u64) as usize;
            let from = dice.below((SERIES_MAX - BATCH_SERIES_MAX) as u64) as usize;
            let sample = |dice: &mut Dice| Sample { t: time, bits: some_bits(dice) };
            (t, (from..from + count).map(|series| (series, sample(dice))).collect())
        });
        for (series, sample) in &samples {
            said.sent.insert(t, *series, *sample);
        }
        for (shard, slots) in homes {
            let (batch, answer) = batch(t, &samples, slots);
            assert!(shard.write(batch).is_empty(), "canonical spellings stay here");
            open.push((t, samples.clone(), *slots, answer));
        }
        last.push((t, samples));
        for _ in 0..dice.below(load.turns) {
            future::yield_now().await;
        }
        hear(&mut open, said);
    }
    while !open.is_empty() {
        future::yield_now().await;
        hear(&mut open, said);
    }
}

/// Takes the answers that have come.
fn hear(open: &mut Vec<Open>, said: &mut Said) {
    open.retain_mut(|(t, samples, slots, answer)| {
        let Ok(written) = answer.try_recv() else { return true };
        // A repeated batch may be behind what was sent since; then it is refused, not lost.
        if written.is_clean() {
            for (series, sample) in samples.iter().filter(|(s, _)| is_home(slots, *t, *s)) {
                said.acked.push(*t, *series, *sample);
            }
        }
        false
    });
}
