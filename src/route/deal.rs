//! A request dealt out: for each shard that is home to part of it one batch, or several when there
//! is much.

use crate::decode::{HistogramView, Scan};
use crate::model::TenantKeys;
use crate::rt::core as rt_core;
use crate::shard::slots;
use crate::shard::write::{Batch, Item, ItemHistogram};

/// A batch is closed when it has come to this: the shard applies it in one go, and nobody else's
/// request moves on its core meanwhile. Known series take a fraction of a millisecond, new ones a
/// few. It also keeps a batch's records in the log far below what a block may hold.
pub(super) const BATCH_COST_MAX: usize = 512 * 1024;
/// What a sample and a series cost of it beside the labels: as much as the log takes at worst. A
/// histogram costs its message more.
pub(super) const RECORD_COST: usize = 32;

/// Bytes of memory that the batches of a request take, beside those that they point into.
pub(super) fn batch_bytes(scan: &Scan) -> usize {
    scan.series.len() * size_of::<Item>()
        + size_of_val(&*scan.samples)
        + scan.histograms.len() * size_of::<ItemHistogram>()
}

/// The batches of a request, each with its owner. `empty` makes one with room for so many items and
/// samples. Whenever as much is dealt as a batch may cost, others get their turn.
pub(super) async fn deal(
    scan: &Scan,
    bytes: &[u8],
    keys: &TenantKeys,
    shards: u16,
    empty: impl Fn((usize, usize)) -> Batch,
) -> Vec<(u16, Batch)> {
    let rooms = rooms(scan, shards);
    let mut deal = Deal::new(shards, || empty(rooms));
    let mut histograms = &scan.histograms[..];
    let mut paused_at = 0;
    for (number, view) in (0..).zip(&scan.series) {
        let region = &bytes[view.labels.start as usize..view.labels.end as usize];
        let samples = &scan.samples[view.samples.start as usize..view.samples.end as usize];
        let key = keys.key(region);
        let owner = slots::owner(slots::slot(key), shards);
        for samples in samples.chunks(BATCH_COST_MAX / RECORD_COST) {
            let cost = region.len() + (1 + samples.len()) * RECORD_COST;
            deal.put(owner, cost, |batch| {
                let from = batch.samples.len() as u32;
                batch.samples.extend_from_slice(samples);
                let samples = from..batch.samples.len() as u32;
                batch.items.push(Item { key, region: view.labels.clone(), samples });
            });
        }
        while histograms.first().is_some_and(|next| next.series == number) {
            let (own, rest) = histograms.split_at(group_len(histograms));
            histograms = rest;
            let cost = region.len() + RECORD_COST + own.iter().map(cost).sum::<usize>();
            deal.put(owner, cost, |batch| {
                let (item, at) = (batch.items.len() as u32, batch.samples.len() as u32);
                batch.items.push(Item { key, region: view.labels.clone(), samples: at..at });
                let message = |own: &HistogramView| own.message.clone();
                let own = own.iter().map(|own| ItemHistogram { item, message: message(own) });
                batch.histograms.extend(own);
            });
        }
        if deal.dealt - paused_at >= BATCH_COST_MAX {
            paused_at = deal.dealt;
            rt_core::pause().await;
        }
    }
    deal.end()
}

/// Batches that are being filled, and those that are full.
struct Deal<F> {
    empty: F,
    open: Vec<(Batch, usize)>,
    full: Vec<(u16, Batch)>,
    /// What all has come to so far.
    dealt: usize,
}

impl<F: Fn() -> Batch> Deal<F> {
    fn new(shards: u16, empty: F) -> Self {
        let open = (0..shards).map(|_| (empty(), 0)).collect();
        Self { empty, open, full: Vec::new(), dealt: 0 }
    }

    #[inline]
    fn put(&mut self, owner: u16, cost: usize, fill: impl FnOnce(&mut Batch)) {
        let (batch, sum) = &mut self.open[usize::from(owner)];
        fill(batch);
        *sum += cost;
        self.dealt += cost;
        if *sum >= BATCH_COST_MAX {
            *sum = 0;
            self.full.push((owner, std::mem::replace(batch, (self.empty)())));
        }
    }

    fn end(self) -> Vec<(u16, Batch)> {
        let mut all = self.full;
        let rest = (0..).zip(self.open).map(|(owner, (batch, _))| (owner, batch));
        all.extend(rest.filter(|(_, batch)| !batch.items.is_empty()));
        all
    }
}

/// What a histogram costs of a batch.
fn cost(histogram: &HistogramView) -> usize {
    histogram.message.len() + RECORD_COST
}

/// How many histograms, of those at the front that are of one series, go into one batch.
fn group_len(histograms: &[HistogramView]) -> usize {
    let (mut sum, mut len) = (0, 0);
    let first = histograms.first().map(|first| first.series);
    for histogram in histograms.iter().take_while(|next| Some(next.series) == first) {
        len += 1;
        sum += cost(histogram);
        if sum >= BATCH_COST_MAX {
            break;
        }
    }
    len
}

/// Room in the batch for one of `shards`, for items and for samples: what it gets on average and
/// four standard deviations more, so that next to no batch has to grow. One series may have nearly
/// all samples; no memory is taken for that beforehand.
fn rooms(scan: &Scan, shards: u16) -> (usize, usize) {
    let shards = usize::from(shards.max(1));
    let (series, samples) = (scan.series.len(), scan.samples.len());
    let average = series * slots::SLOTS.div_ceil(shards) / slots::SLOTS;
    let items = series.min(average + 4 * average.isqrt() + 16);
    let samples_of_each = samples.div_ceil(series.max(1));
    let samples = (items * samples_of_each).min(1024 + 2 * samples / shards);
    let most = BATCH_COST_MAX / RECORD_COST;
    (items.min(most), samples.min(most))
}
