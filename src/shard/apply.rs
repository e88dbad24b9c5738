//! A batch becomes samples in the head and records in the open group.
//!
//! All of it happens without waiting: a batch is applied whole, then the shard turns to the next.
//! Nothing is answered here; the answer follows the log.

use std::iter;
use std::ops::Range;

use crate::decode::histogram::{self, stale_message};
use crate::decode::region::{self, LabelLimits};
use crate::decode::{BadSeries, SeriesError};
use crate::model::histogram::HistogramRef;
use crate::model::{KeySecret, STALE_NAN_BITS, Sample, TenantId, TenantKeys};
use crate::rt::mesh::{Home, Loan};
use crate::rt::quota::Quotas;
use crate::shard::alias::{Alias, Aliases};
use crate::shard::head::append::Bounds;
use crate::shard::head::{Appended, Head, Refusal, SeriesIndex, TenantIndex};
use crate::shard::share::Share;
use crate::shard::slots::{self, SlotSet};
use crate::shard::wal::record::{Group, Newest, Untold};
use crate::shard::write::{Batch, Item, ItemHistogram, RefusedSample, Written};

/// What applying works on: the head, and what is to be logged of it.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) head: Head,
    pub(crate) aliases: Aliases,
    /// Slots of this shard.
    pub(crate) slots: SlotSet,
    /// What the keys of tenants are derived from.
    pub(crate) secret: KeySecret,
    /// Keys of the tenants, by position.
    pub(crate) keys: Vec<TenantKeys>,
    pub(crate) limits: LabelLimits,
    /// How many series tenants may have.
    quotas: Quotas,
    /// What of it is this shard's, by position of the tenant.
    shares: Vec<Share>,
    /// Records on their way into the log.
    pub(crate) group: Group,
    /// Newest sample per tenant in the group.
    pub(crate) newest: Newest,
    /// Series on their way into the series file.
    pub(crate) untold: Untold,
    /// Number of the next series in the log.
    pub(crate) next_id: u64,
    /// Buffers for what is sent on.
    pub(crate) home: Home,
    /// Reads histograms.
    pub(crate) reader: histogram::Reader,
}

/// What is to be sent to other shards: spellings whose owner is somebody else.
#[derive(Debug, Default)]
pub(crate) struct SentOn {
    bytes: Vec<u8>,
    items: Vec<Item>,
    samples: Vec<Sample>,
    histograms: Vec<ItemHistogram>,
}

impl SentOn {
    fn push<'m>(
        &mut self,
        key: u128,
        region: &[u8],
        samples: &[Sample],
        messages: impl Iterator<Item = &'m [u8]>,
    ) {
        let item = self.items.len() as u32;
        let region = self.push_bytes(region);
        let first = self.samples.len() as u32;
        self.samples.extend_from_slice(samples);
        self.items.push(Item { key, region, samples: first..self.samples.len() as u32 });
        for message in messages {
            let message = self.push_bytes(message);
            self.histograms.push(ItemHistogram { item, message });
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> Range<u32> {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        at..self.bytes.len() as u32
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The batches, each with its owner among `shards`.
    pub(crate) fn batches(self, batch: &Batch, home: &Home, shards: u16) -> Vec<(u16, Batch)> {
        let bytes: Loan = home.lend(self.bytes);
        let mut out: Vec<(u16, Batch)> = Vec::new();
        let mut histograms = self.histograms.into_iter().peekable();
        for (number, item) in (0..).zip(self.items) {
            let owner = slots::owner(slots::slot(item.key), shards);
            let at = out.iter().position(|(o, _)| *o == owner).unwrap_or_else(|| {
                out.push((owner, batch.empty_like(bytes.clone())));
                out.len() - 1
            });
            let target = &mut out[at].1;
            let from = target.samples.len() as u32;
            let source = item.samples.start as usize..item.samples.end as usize;
            target.samples.extend_from_slice(&self.samples[source]);
            let samples = from..target.samples.len() as u32;
            let item_there = target.items.len() as u32;
            target.items.push(Item { samples, ..item });
            while let Some(own) = histograms.next_if(|histogram| histogram.item == number) {
                target.histograms.push(ItemHistogram { item: item_there, ..own });
            }
        }
        out
    }
}

/// Most buckets and bounds of a histogram: twice what the finest schema needs over nine decades.
/// Not the reader's limit, for what the log has must be read by any later version.
const HISTOGRAM_WIDTH_MAX: usize = 16 << 10;

/// Refuses a histogram whose buckets would take the memory of ten thousand series.
fn not_too_wide(
    (t, read): (i64, HistogramRef<'_>),
) -> Result<(i64, HistogramRef<'_>), SeriesError> {
    let (got, max) = (read.width(), HISTOGRAM_WIDTH_MAX);
    if got > max { Err(SeriesError::HistogramTooWide { got, max }) } else { Ok((t, read)) }
}

/// Items whose series are looked up before the first of them is appended to.
const TOGETHER: usize = 32;

/// Whose a batch is.
struct Owner<'b> {
    id: &'b TenantId,
    /// Its position; none as long as nothing of it was ever stored here: a name alone takes no
    /// memory.
    position: Option<TenantIndex>,
    /// Its keys when it has no position, made when they are asked for.
    keys: Option<TenantKeys>,
}

/// What a batch has come to so far.
struct Tally<'b> {
    owner: Owner<'b>,
    /// Times its samples may have.
    bounds: Bounds,
    /// Most series the tenant may have, when it has them.
    series_max: u64,
    /// Span of the samples stored.
    oldest: i64,
    newest: i64,
    written: Written,
}

impl Tally<'_> {
    #[inline]
    fn stored_at(&mut self, t: i64) {
        self.oldest = self.oldest.min(t);
        self.newest = self.newest.max(t);
    }

    #[cold]
    fn refuse(&mut self, reason: Refusal, region: &[u8], t: i64, newest_t: Option<i64>) {
        self.written.floats.refused[reason as usize] += 1;
        self.show(reason, region, t, newest_t);
    }

    /// Refuses samples without a series: out of bounds, or above the limit of series.
    #[cold]
    fn refuse_all(&mut self, samples: &[Sample], region: &[u8]) {
        for &Sample { t, .. } in samples {
            let reason =
                if self.bounds.hold(t) { Refusal::SeriesLimit } else { self.bounds.refusal(t) };
            self.refuse(reason, region, t, None);
        }
    }

    fn refuse_histogram(&mut self, reason: Refusal, region: &[u8], t: i64, newest_t: Option<i64>) {
        self.written.histograms.refused[reason as usize] += 1;
        self.show(reason, region, t, newest_t);
    }

    fn show(&mut self, reason: Refusal, region: &[u8], t: i64, newest_t: Option<i64>) {
        self.written.first_refused[reason as usize].get_or_insert_with(|| {
            Box::new(RefusedSample {
                region: region.to_vec(),
                t,
                newest: newest_t.unwrap_or(i64::MIN),
                bounds: (self.bounds.min_t, self.bounds.max_t),
                window_from: self.bounds.out_of_order_from,
                series_max: self.series_max,
            })
        });
    }
}

/// Where the samples of an item go.
enum Found {
    Here(SeriesIndex),
    Elsewhere(u128, Box<[u8]>),
    /// It would be one series more than its tenant may have.
    OverLimit,
    Bad(SeriesError),
}

impl Applier {
    /// Applies a batch. What belongs to other shards is gathered in `sent_on`.
    pub(crate) fn apply(&mut self, batch: &Batch, sent_on: &mut SentOn) -> Written {
        self.head.begin_batch();
        let position = self.head.find_tenant(&batch.tenant);
        let tenant = position.map(|position| &self.head.tenants[position as usize]);
        let (newest_ms, cut_ms) = tenant.map_or((i64::MIN, i64::MIN), |t| (t.newest_ms, t.cut_ms));
        // Where it was cut, it has had newer data.
        let min_t = cut_ms.max(batch.past.begins_ms(newest_ms.max(cut_ms)));
        let mut tally = Tally {
            owner: Owner { id: &batch.tenant, position, keys: None },
            bounds: Bounds {
                min_t,
                max_t: batch.max_t,
                out_of_order_from: batch.past.out_of_order_from(newest_ms),
            },
            series_max: u64::MAX,
            oldest: i64::MAX,
            newest: i64::MIN,
            written: Written::default(),
        };
        let mut histograms = &batch.histograms[..];
        let next_of = |rest: &[ItemHistogram]| rest.first().map_or(u32::MAX, |next| next.item);
        let (mut number, mut next) = (0, next_of(histograms));
        for items in batch.items.chunks(TOGETHER) {
            let known = self.look_up(items);
            for (item, known) in items.iter().zip(known) {
                self.apply_item(batch, (item, known), sent_on, &mut tally);
                if number == next {
                    let own = histograms.partition_point(|own| own.item == number);
                    let (own, rest) = histograms.split_at(own);
                    self.apply_histograms(batch, (item, own), sent_on, &mut tally);
                    (histograms, next) = (rest, next_of(rest));
                }
                number += 1;
            }
        }
        self.account(&tally);
        tally.written
    }

    /// Whether a batch may bring a series that is not known here.
    #[cold]
    pub(crate) fn has_new_series(&mut self, batch: &Batch) -> bool {
        batch.items.iter().any(|&Item { key, .. }| {
            let key = self.aliases.find(key).map_or(key, |alias| alias.key);
            self.head.find(key).is_none()
        })
    }

    /// Finds the series of some items before any is appended to: in a large head each step misses
    /// the cache, and misses of many series at once cost little more than those of one.
    #[inline]
    fn look_up(&mut self, items: &[Item]) -> [Option<SeriesIndex>; TOGETHER] {
        let mut known = [None; TOGETHER];
        for (known, item) in known.iter_mut().zip(items) {
            *known = self.head.find(item.key);
            if let Some(index) = *known {
                self.head.prefetch(index);
            }
        }
        for &index in known.iter().flatten() {
            self.head.prefetch_tail(index);
        }
        known
    }

    /// Applies an item. `known` is the series its key had when it was looked up.
    #[inline]
    fn apply_item(
        &mut self,
        batch: &Batch,
        (item, known): (&Item, Option<SeriesIndex>),
        sent_on: &mut SentOn,
        tally: &mut Tally<'_>,
    ) {
        let region = &batch.bytes[item.region.start as usize..item.region.end as usize];
        let samples = &batch.samples[item.samples.start as usize..item.samples.end as usize];
        let found = match known {
            Some(index) => Found::Here(index),
            // No series is made for samples that are refused anyway.
            None if !samples.iter().any(|s| tally.bounds.hold(s.t)) => {
                return tally.refuse_all(samples, region);
            }
            None => self.find_by_labels(item.key, region, tally),
        };
        match found {
            Found::Here(index) => self.append(index, samples, region, tally),
            Found::Elsewhere(key, region) => sent_on.push(key, &region, samples, iter::empty()),
            Found::OverLimit => tally.refuse_all(samples, region),
            Found::Bad(error) => {
                BadSeries::add(&mut tally.written.bad, error, samples.len() as u64, region);
            }
        }
    }

    /// Applies the histograms of an item, behind its floats.
    #[cold]
    fn apply_histograms(
        &mut self,
        batch: &Batch,
        (item, histograms): (&Item, &[ItemHistogram]),
        sent_on: &mut SentOn,
        tally: &mut Tally<'_>,
    ) {
        let bytes = |range: &Range<u32>| &batch.bytes[range.start as usize..range.end as usize];
        let region = bytes(&item.region);
        let (mut known, mut is_over) = (self.head.find(item.key), false);
        let mut reader = std::mem::take(&mut self.reader);
        for (n, histogram) in histograms.iter().enumerate() {
            let message = bytes(&histogram.message);
            let (t, read) = match reader.read(message).and_then(not_too_wide) {
                Ok(read) => read,
                Err(error) => {
                    BadSeries::add_histogram(&mut tally.written.bad, error, region);
                    continue;
                }
            };
            let index = match known {
                Some(index) => index,
                // No series is made for what is refused anyway.
                None if !tally.bounds.hold(t) => {
                    tally.refuse_histogram(tally.bounds.refusal(t), region, t, None);
                    continue;
                }
                None if is_over => {
                    tally.refuse_histogram(Refusal::SeriesLimit, region, t, None);
                    continue;
                }
                None => match self.find_by_labels(item.key, region, tally) {
                    Found::Here(index) => index,
                    Found::OverLimit => {
                        is_over = true;
                        tally.refuse_histogram(Refusal::SeriesLimit, region, t, None);
                        continue;
                    }
                    Found::Elsewhere(key, region) => {
                        let rest = histograms[n..].iter().map(|rest| bytes(&rest.message));
                        sent_on.push(key, &region, &[], rest);
                        break;
                    }
                    Found::Bad(error) => {
                        let rest = (histograms.len() - n) as u64;
                        BadSeries::add(&mut tally.written.bad, error, rest, region);
                        break;
                    }
                },
            };
            known = Some(index);
            match self.append_histogram(index, (t, read), message, region, tally) {
                Appended::Stored => tally.written.histograms.stored += 1,
                Appended::Duplicate => tally.written.histograms.duplicates += 1,
                Appended::Refused(reason) => {
                    tally.refuse_histogram(reason, region, t, self.head.newest_t(index));
                }
            }
        }
        self.reader = reader;
    }

    /// Appends a histogram and tells the log.
    fn append_histogram(
        &mut self,
        index: SeriesIndex,
        (t, histogram): (i64, HistogramRef<'_>),
        message: &[u8],
        region: &[u8],
        tally: &mut Tally<'_>,
    ) -> Appended {
        let appended = self.head.append_histogram(index, t, histogram, tally.bounds);
        if appended == Appended::Stored {
            let id = self.log_id(index, region);
            self.group.add_histogram(id, t, message);
            tally.stored_at(t);
        }
        appended
    }

    /// A stale marker ends a series of histograms as one of them: Prometheus tells it as a float.
    #[cold]
    fn append_stale(
        &mut self,
        index: SeriesIndex,
        (t, is_float): (i64, bool),
        region: &[u8],
        tally: &mut Tally<'_>,
    ) {
        let message = stale_message(t, is_float);
        let stale = HistogramRef::stale(is_float);
        match self.append_histogram(index, (t, stale), &message, region, tally) {
            Appended::Stored => tally.written.floats.stored += 1,
            Appended::Duplicate => tally.written.floats.duplicates += 1,
            Appended::Refused(reason) => {
                tally.refuse(reason, region, t, self.head.newest_t(index));
            }
        }
    }

    /// An applier with nothing in it.
    pub(crate) fn new(
        slots: SlotSet,
        secret: KeySecret,
        limits: LabelLimits,
        quotas: Quotas,
    ) -> Self {
        Self {
            head: Head::default(),
            aliases: Aliases::default(),
            slots,
            secret,
            keys: Vec::new(),
            limits,
            quotas,
            shares: Vec::new(),
            group: Group::default(),
            newest: Newest::new(),
            untold: Untold::default(),
            next_id: 1,
            home: Home::new(16),
            reader: histogram::Reader::default(),
        }
    }

    /// A tenant's position; its keys are made when it is new.
    pub(crate) fn tenant(&mut self, id: &TenantId) -> TenantIndex {
        let tenant = self.head.tenant(id);
        if self.keys.len() <= tenant as usize {
            self.keys.push(self.secret.of(id));
            self.shares.push(Share::of(self.quotas.of(id.as_str())));
        }
        tenant
    }

    /// How often the limits of series were set.
    pub(crate) fn series_limits_set(&self) -> u64 {
        self.quotas.times_set()
    }

    /// Counts a tenant's series anew, after some were read from the log or went.
    pub(crate) fn settle_series(&mut self, tenant: TenantIndex) {
        let series = self.head.tenants[tenant as usize].series;
        self.shares[tenant as usize].settle(series);
    }

    #[inline]
    fn append(
        &mut self,
        index: SeriesIndex,
        samples: &[Sample],
        region: &[u8],
        tally: &mut Tally<'_>,
    ) {
        for &sample in samples {
            if sample.bits == STALE_NAN_BITS
                && let Some(is_float) = self.head.ends_with_histogram(index)
            {
                self.append_stale(index, (sample.t, is_float), region, tally);
                continue;
            }
            match self.head.append(index, sample, tally.bounds) {
                Appended::Stored => {
                    let id = self.log_id(index, region);
                    self.group.add_sample(id, sample);
                    tally.stored_at(sample.t);
                    tally.written.floats.stored += 1;
                }
                Appended::Duplicate => tally.written.floats.duplicates += 1,
                Appended::Refused(reason) => {
                    tally.refuse(reason, region, sample.t, self.head.newest_t(index));
                }
            }
        }
    }

    /// The number of a series in the log.
    #[inline]
    fn log_id(&mut self, index: SeriesIndex, region: &[u8]) -> u64 {
        match self.head.log_ids[index as usize] {
            0 => self.announce(index, region),
            id => id,
        }
    }

    /// Gives a series its number and tells the log its labels.
    #[cold]
    fn announce(&mut self, index: SeriesIndex, spelling: &[u8]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.head.log_ids[index as usize] = id;
        let tenant = self.head.cold[index as usize].tenant;
        let mut region = Vec::with_capacity(spelling.len());
        region::encode(self.head.labels(index), &mut region);
        let name = self.head.tenants[tenant as usize].id.as_str();
        self.group.add_series(id, name, &region);
        self.untold.add_series(id, name, &region);
        id
    }

    /// A key nobody knows: a new series, or another spelling.
    #[cold]
    fn find_by_labels(&mut self, spelling: u128, region: &[u8], tally: &mut Tally<'_>) -> Found {
        if let Some(alias) = self.aliases.find(spelling) {
            let alias = alias.clone();
            return self.find_or_make(alias.key, &alias.region, tally);
        }
        let mut canonical = Vec::with_capacity(region.len());
        match region::canonical(region, &self.limits, &mut canonical) {
            Err(error) => return Found::Bad(error),
            Ok(repairs) if repairs.sorted || repairs.emptied > 0 => {
                tally.written.repaired += 1;
            }
            Ok(_) => {}
        }
        if canonical == region {
            return self.find_or_make(spelling, &canonical, tally);
        }
        let key = self.keys_of(&mut tally.owner).key(&canonical);
        let region = canonical.into_boxed_slice();
        let found = self.find_or_make(key, &region, tally);
        if !matches!(found, Found::OverLimit) {
            self.aliases.remember(spelling, Alias { key, region });
        }
        found
    }

    fn keys_of<'k>(&'k self, owner: &'k mut Owner<'_>) -> &'k TenantKeys {
        match owner.position {
            Some(position) => &self.keys[position as usize],
            None => owner.keys.get_or_insert_with(|| self.secret.of(owner.id)),
        }
    }

    /// The series of a key; made for a sample that will be stored, and with it its tenant.
    fn find_or_make(&mut self, key: u128, region: &[u8], tally: &mut Tally<'_>) -> Found {
        if !self.slots.contains(slots::slot(key)) {
            return Found::Elsewhere(key, region.into());
        }
        if let Some(index) = self.head.find(key) {
            return Found::Here(index);
        }
        let tenant = self.tenant(tally.owner.id);
        let share = &mut self.shares[tenant as usize];
        if !share.has_room(self.head.tenants[tenant as usize].series) {
            tally.series_max = share.limit();
            return Found::OverLimit;
        }
        tally.owner.position = Some(tenant);
        Found::Here(self.head.create(key, tenant, region::canonical_labels(region)))
    }

    /// Keeps the books of a tenant after a batch.
    fn account(&mut self, tally: &Tally<'_>) {
        let stored = tally.written.floats.stored + tally.written.histograms.stored;
        let Some(tenant) = tally.owner.position.filter(|_| stored > 0) else { return };
        let owner = &mut self.head.tenants[tenant as usize];
        owner.note_stored(tally.oldest, tally.newest);
        owner.samples += stored;
        let newest = self.newest.entry(tenant).or_insert(tally.newest);
        *newest = tally.newest.max(*newest);
    }
}
