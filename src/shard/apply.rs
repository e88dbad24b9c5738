//! A batch becomes samples in the head and records in the open group.
//!
//! All of it happens without waiting: a batch is applied whole, then the shard turns to the next.
//! Nothing is answered here; the answer follows the log.

use crate::decode::region::{self, LabelLimits};
use crate::decode::{BadSeries, SeriesError};
use crate::model::{KeySecret, Sample, TenantId, TenantKeys};
use crate::rt::mesh::{Home, Loan};
use crate::shard::alias::{Alias, Aliases};
use crate::shard::head::append::Bounds;
use crate::shard::head::{Appended, Head, Refusal, SeriesIndex, TenantIndex};
use crate::shard::slots::{self, SlotSet};
use crate::shard::wal::record::{Group, Newest};
use crate::shard::write::{Batch, Item, RefusedSample, Written};

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
    /// Records on their way into the log.
    pub(crate) group: Group,
    /// Newest sample per tenant in the group.
    pub(crate) newest: Newest,
    /// Series on their way into the series file.
    pub(crate) untold: Group,
    /// Number of the next series in the log.
    pub(crate) next_id: u64,
    /// Buffers for what is sent on.
    pub(crate) home: Home,
}

/// What is to be sent to other shards: spellings whose owner is somebody else.
#[derive(Debug, Default)]
pub(crate) struct SentOn {
    regions: Vec<u8>,
    items: Vec<Item>,
    samples: Vec<Sample>,
}

impl SentOn {
    fn push(&mut self, key: u128, region: &[u8], samples: &[Sample]) {
        let at = self.regions.len() as u32;
        self.regions.extend_from_slice(region);
        let first = self.samples.len() as u32;
        self.samples.extend_from_slice(samples);
        let (end, last) = (self.regions.len() as u32, self.samples.len() as u32);
        self.items.push(Item { key, region: at..end, samples: first..last });
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The batches, each with its owner among `shards`.
    pub(crate) fn batches(self, batch: &Batch, home: &Home, shards: u16) -> Vec<(u16, Batch)> {
        let bytes: Loan = home.lend(self.regions);
        let mut out: Vec<(u16, Batch)> = Vec::new();
        for item in self.items {
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
            target.items.push(Item { samples, ..item });
        }
        out
    }
}

/// Items whose series are looked up before the first of them is appended to.
const TOGETHER: usize = 32;

/// What a batch has come to so far.
struct Tally {
    /// Times its samples may have.
    bounds: Bounds,
    /// Span of the samples stored.
    oldest: i64,
    newest: i64,
    written: Written,
}

impl Tally {
    #[cold]
    fn refuse(&mut self, reason: Refusal, region: &[u8], sample: Sample, newest: Option<Sample>) {
        self.written.refused[reason as usize] += 1;
        self.written.first_refused[reason as usize].get_or_insert_with(|| {
            Box::new(RefusedSample {
                region: region.to_vec(),
                sample,
                newest: newest.map_or(i64::MIN, |s| s.t),
                bounds: (self.bounds.min_t, self.bounds.max_t),
            })
        });
    }
}

/// Where the samples of an item go.
enum Found {
    Here(SeriesIndex),
    Elsewhere(u128, Box<[u8]>),
    OutOfBounds,
    Bad(SeriesError),
}

impl Applier {
    /// Applies a batch. What belongs to other shards is gathered in `sent_on`.
    pub(crate) fn apply(&mut self, batch: &Batch, sent_on: &mut SentOn) -> Written {
        let tenant = self.tenant(&batch.tenant);
        let owner = &self.head.tenants[tenant as usize];
        // Where it was cut, it has had newer data.
        let newest_ms = owner.newest_ms.max(owner.cut_ms);
        let min_t = owner.cut_ms.max(batch.past.begins_ms(newest_ms));
        let bounds = Bounds { min_t, max_t: batch.max_t };
        let mut tally =
            Tally { bounds, oldest: i64::MAX, newest: i64::MIN, written: Written::default() };
        for items in batch.items.chunks(TOGETHER) {
            let known = self.look_up(items);
            for (item, known) in items.iter().zip(known) {
                self.apply_item(batch, item, (tenant, known), sent_on, &mut tally);
            }
        }
        self.account(tenant, &tally);
        tally.written
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
        item: &Item,
        (tenant, known): (TenantIndex, Option<SeriesIndex>),
        sent_on: &mut SentOn,
        tally: &mut Tally,
    ) {
        let region = &batch.bytes[item.region.start as usize..item.region.end as usize];
        let samples = &batch.samples[item.samples.start as usize..item.samples.end as usize];
        let found = match known {
            Some(index) => Found::Here(index),
            // No series is made for samples that are refused anyway.
            None if !samples.iter().any(|s| tally.bounds.hold(s.t)) => Found::OutOfBounds,
            None => self.find_by_labels(item.key, region, tenant, &mut tally.written),
        };
        match found {
            Found::Here(index) => self.append(index, samples, region, tally),
            Found::OutOfBounds => {
                for &sample in samples {
                    let reason = tally.bounds.refusal(sample.t);
                    tally.refuse(reason, region, sample, None);
                }
            }
            Found::Elsewhere(key, region) => sent_on.push(key, &region, samples),
            Found::Bad(error) => {
                BadSeries::add(&mut tally.written.bad, error, samples.len() as u64, region);
            }
        }
    }

    /// An applier with nothing in it.
    pub(crate) fn new(slots: SlotSet, secret: KeySecret, limits: LabelLimits) -> Self {
        Self {
            head: Head::default(),
            aliases: Aliases::default(),
            slots,
            secret,
            keys: Vec::new(),
            limits,
            group: Group::default(),
            newest: Newest::new(),
            untold: Group::default(),
            next_id: 1,
            home: Home::new(16),
        }
    }

    /// A tenant's position; its keys are made when it is new.
    pub(crate) fn tenant(&mut self, id: &TenantId) -> TenantIndex {
        let tenant = self.head.tenant(id);
        if self.keys.len() <= tenant as usize {
            self.keys.push(self.secret.of(id));
        }
        tenant
    }

    #[inline]
    fn append(&mut self, index: SeriesIndex, samples: &[Sample], region: &[u8], tally: &mut Tally) {
        for &sample in samples {
            match self.head.append(index, sample, tally.bounds) {
                Appended::Stored => {
                    let id = match self.head.log_ids[index as usize] {
                        0 => self.announce(index, region),
                        id => id,
                    };
                    self.group.add_sample(id, sample);
                    tally.oldest = tally.oldest.min(sample.t);
                    tally.newest = tally.newest.max(sample.t);
                    tally.written.stored += 1;
                }
                Appended::Duplicate => tally.written.duplicates += 1,
                Appended::Refused(reason) => {
                    tally.refuse(reason, region, sample, self.head.newest(index));
                }
            }
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
    fn find_by_labels(
        &mut self,
        spelling: u128,
        region: &[u8],
        tenant: TenantIndex,
        written: &mut Written,
    ) -> Found {
        if let Some(alias) = self.aliases.find(spelling) {
            let alias = alias.clone();
            return self.find_or_make(alias.key, tenant, &alias.region);
        }
        let mut canonical = Vec::with_capacity(region.len());
        match region::canonical(region, &self.limits, &mut canonical) {
            Err(error) => return Found::Bad(error),
            Ok(repairs) if repairs.sorted || repairs.emptied > 0 => written.repaired += 1,
            Ok(_) => {}
        }
        if canonical == region {
            return self.find_or_make(spelling, tenant, &canonical);
        }
        let key = self.keys[tenant as usize].key(&canonical);
        let region = canonical.into_boxed_slice();
        self.aliases.remember(spelling, Alias { key, region: region.clone() });
        self.find_or_make(key, tenant, &region)
    }

    fn find_or_make(&mut self, key: u128, tenant: TenantIndex, region: &[u8]) -> Found {
        if !self.slots.contains(slots::slot(key)) {
            return Found::Elsewhere(key, region.into());
        }
        let index = match self.head.find(key) {
            Some(index) => index,
            None => self.head.create(key, tenant, region::canonical_labels(region)),
        };
        Found::Here(index)
    }

    /// Keeps the books of a tenant after a batch.
    fn account(&mut self, tenant: TenantIndex, tally: &Tally) {
        if tally.written.stored == 0 {
            return;
        }
        let owner = &mut self.head.tenants[tenant as usize];
        owner.oldest_ms = owner.oldest_ms.min(tally.oldest);
        owner.newest_ms = owner.newest_ms.max(tally.newest);
        owner.samples += tally.written.stored;
        let newest = self.newest.entry(tenant).or_insert(tally.newest);
        *newest = tally.newest.max(*newest);
    }
}
