//! Appends what the logs tell to a head.
//!
//! A cut that is known, from its block or from what was read before, has its samples skipped. One
//! that the log tells later does to the head what it did then: the samples before it go. So no log
//! is read twice, and the head is never larger than it was when the log was written. Series stay
//! to the end, for later records may name them; then those without samples go.
//!
//! ## Limits
//! A slice of records is read at a time, then others on the core have their turn: the door is open
//! and says "not yet".

use std::collections::BTreeSet;
use std::io;

use crate::decode::region;
use crate::model::{Sample, TenantId};
use crate::rt::storage::Storage;
use crate::shard::apply::Applier;
use crate::shard::cuts::Cuts;
use crate::shard::head::append::Bounds;
use crate::shard::head::{Appended, SeriesIndex, TenantIndex, Truncation};
use crate::shard::recover::Report;
use crate::shard::recover::discover::{Dir, Files, Segment};
use crate::shard::recover::numbers::{Known, Numbers, Waiting};
use crate::shard::slots::{self, SLOTS, SlotSet};
use crate::shard::wal::backlog::Closed;
use crate::shard::wal::reader::{Damage, SegmentEnd, SegmentReader, Step};
use crate::shard::wal::record::{CutRecord, Newest, Receive, Records};

/// Records of a slice: samples take 30 us, series a few hundred.
const SLICE_RECORDS: usize = 256;
/// Series of a slice that drops samples.
const SLICE_SERIES: usize = 256;

/// One segment that was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) generation: u64,
    pub(super) newest: Newest,
    pub(super) end: SegmentEnd,
    size: u64,
}

impl Found {
    /// As a log takes it over.
    pub(super) fn into_closed(self) -> (Closed, SegmentEnd) {
        let Self { number, size, end, newest, .. } = self;
        (Closed { number, newest, damaged: end.damaged, size }, end)
    }
}

/// What has come of the logs so far.
#[derive(Debug)]
pub(super) struct Replay<S> {
    storage: S,
    pub(super) applier: Applier,
    pub(super) cuts: Cuts,
    pub(super) report: Report,
    /// Up to when samples are in blocks, by tenant and slot: [`Cuts`] at hand.
    covered: Vec<[i64; SLOTS]>,
    /// Newest sample of each tenant in the segment being read; `i64::MIN` for none.
    newest: Vec<i64>,
    /// Tenants with a cut that the head has not seen.
    due: BTreeSet<TenantIndex>,
    /// Tenants some of whose series may be empty.
    dropped: BTreeSet<TenantIndex>,
    /// The tenant named last.
    last_tenant: TenantIndex,
    /// The segment being read, as far as there may be blocks.
    bytes: Vec<u8>,
}

/// Where records come from.
struct Source<'a> {
    files: &'a mut Files,
    numbers: &'a mut Numbers,
    own: bool,
    tells: bool,
    is_log: bool,
}

impl<S: Storage> Replay<S> {
    /// Nothing was read yet.
    pub(super) fn new(storage: S, applier: Applier, cuts: Cuts) -> Self {
        Self {
            storage,
            applier,
            cuts,
            report: Report::default(),
            covered: Vec::new(),
            newest: Vec::new(),
            due: BTreeSet::new(),
            dropped: BTreeSet::new(),
            last_tenant: 0,
            bytes: Vec::new(),
        }
    }

    /// Reads the labels behind the numbers of a directory.
    pub(super) async fn read_series_file(&mut self, dir: &mut Dir) -> io::Result<()> {
        let segments = dir.series.segments.clone();
        let Dir { series, numbers, own, tells, .. } = dir;
        let mut source = Source { files: series, numbers, own: *own, tells: *tells, is_log: false };
        for segment in segments {
            self.read_segment(&mut source, segment).await?;
        }
        // Where labels may be lost, nobody is taken for gone.
        if !source.files.at.damage.is_empty() {
            source.numbers.floor = 0;
        }
        Ok(())
    }

    /// Reads what a directory's log has of a generation.
    pub(super) async fn read_log(&mut self, dir: &mut Dir, generation: u64) -> io::Result<()> {
        let segments = dir.log.segments.clone();
        let Dir { log, numbers, own, tells, .. } = dir;
        let mut source = Source { files: log, numbers, own: *own, tells: *tells, is_log: true };
        for segment in segments.into_iter().filter(|segment| segment.generation == generation) {
            self.read_segment(&mut source, segment).await?;
        }
        Ok(())
    }

    async fn read_segment(&mut self, source: &mut Source<'_>, segment: Segment) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let size = source.files.load(&self.storage, &segment, &mut bytes).await?;
        let Segment { number, generation, .. } = segment;
        let mut reader = SegmentReader::new(&bytes, number, &mut source.files.at);
        loop {
            match reader.next(&mut source.files.at) {
                Step::Block(seq, payload) => self.read_block(source, number, seq, payload).await,
                Step::Pause => self.storage.pause().await,
                Step::End => break,
            }
        }
        let end = reader.finish(&mut source.files.at);
        self.report.segments += 1;
        self.report.blocks += end.blocks;
        let newest = self.newest.iter_mut().map(|t| std::mem::replace(t, i64::MIN)).enumerate();
        let newest = newest.filter(|(_, t)| *t > i64::MIN);
        let newest = newest.map(|(tenant, t)| (tenant as TenantIndex, t)).collect();
        source.files.found.push(Found { number, generation, newest, end, size });
        self.bytes = bytes;
        Ok(())
    }

    async fn read_block(&mut self, source: &mut Source<'_>, segment: u64, seq: u64, bytes: &[u8]) {
        let mut records = Records::new(bytes);
        loop {
            self.applier.head.begin_batch();
            let read = records.read(SLICE_RECORDS, &mut Visitor { replay: self, source });
            self.drop_due().await;
            self.storage.pause().await;
            match read {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    source.files.at.damage.push(Damage::Payload { segment, seq, error });
                    return;
                }
            }
        }
    }

    /// Drops what the head has of samples before cuts that were just read.
    async fn drop_due(&mut self) {
        while let Some(tenant) = self.due.pop_first() {
            self.dropped.insert(tenant);
            let members = self.applier.head.tenants[tenant as usize].members.clone();
            let mut at = 0;
            loop {
                let head = &mut self.applier.head;
                for &index in members.from(at).iter().take(SLICE_SERIES) {
                    at += 1;
                    let slot = slots::slot(head.keys[index as usize]);
                    head.drop_before(index, self.covered[tenant as usize][usize::from(slot)]);
                }
                if at == members.len() {
                    break;
                }
                self.storage.pause().await;
            }
        }
    }

    /// Takes series out that have no sample left, once all is read.
    pub(super) async fn sweep(&mut self) {
        while let Some(tenant) = self.dropped.pop_first() {
            let mut truncation = Truncation::begin(&mut self.applier.head, tenant, i64::MIN);
            loop {
                let head = &mut self.applier.head;
                let over = truncation.slice(head, SLICE_SERIES);
                for index in truncation.removed.drain(..) {
                    head.release(index);
                }
                if over {
                    break;
                }
                self.storage.pause().await;
            }
        }
    }

    /// Notes a cut.
    pub(super) fn cut(&mut self, cut: &CutRecord) {
        let Ok(id) = TenantId::new(&cut.tenant) else { return };
        // Where its record lies is not asked: it is told again before any segment goes.
        if !self.cuts.note(&id, &SlotSet::from_bytes(cut.slots), cut.end_ms, Some(0)) {
            return;
        }
        let tenant = self.tenant(&id);
        if let Some(ends) = self.cuts.ends(&id) {
            self.covered[tenant as usize] = *ends;
        }
        if self.applier.head.tenants[tenant as usize].members.len() > 0 {
            self.due.insert(tenant);
        }
    }

    /// Keeps the books of a sample that the head was given.
    #[inline]
    fn appended(&mut self, appended: Appended, tenant: TenantIndex, t: i64) {
        match appended {
            Appended::Stored => self.report.samples += 1,
            Appended::Duplicate => return,
            Appended::Refused(_) => {
                self.report.refused += 1;
                return;
            }
        }
        let owner = &mut self.applier.head.tenants[tenant as usize];
        owner.note_stored(t, t);
    }

    fn tenant(&mut self, id: &TenantId) -> TenantIndex {
        let tenant = self.applier.tenant(id);
        if self.covered.len() <= tenant as usize {
            self.covered.push([i64::MIN; SLOTS]);
            self.newest.push(i64::MIN);
        }
        tenant
    }

    /// The tenant of a name; mostly it is the one that was named last.
    fn tenant_named(&mut self, name: &str) -> Option<TenantIndex> {
        let last = self.applier.head.tenants.get(self.last_tenant as usize);
        if last.is_none_or(|tenant| tenant.id.as_str() != name) {
            self.last_tenant = self.tenant(&TenantId::new(name).ok()?);
        }
        Some(self.last_tenant)
    }
}

struct Visitor<'a, 'b, S> {
    replay: &'a mut Replay<S>,
    source: &'a mut Source<'b>,
}

impl<S: Storage> Visitor<'_, '_, S> {
    /// Numbers this log has used are not given again, not even those whose labels are lost: their
    /// samples would become another series'.
    fn is_used(&mut self, id: u64) {
        if self.source.own {
            let next = &mut self.replay.applier.next_id;
            *next = id.saturating_add(1).max(*next);
        }
    }

    /// The series a sample goes to, if it is this shard's and not in a block.
    #[inline]
    fn series_of(&mut self, id: u64, t: i64) -> Option<(TenantIndex, SeriesIndex)> {
        self.is_used(id);
        let Replay { applier, report, covered, newest, .. } = &mut *self.replay;
        let mut nobody = Known::Unknown;
        let known = self.source.numbers.get(id).unwrap_or(&mut nobody);
        let (tenant, slot) = match known {
            Known::Unknown => {
                let gone = id < self.source.numbers.floor;
                report.orphaned += u64::from(self.source.tells && !gone);
                return None;
            }
            Known::Foreign(tenant) => (*tenant, None),
            Known::Waiting(series) => (series.tenant, Some(slots::slot(series.key))),
            Known::Here(tenant, slot, _) => (*tenant, Some(*slot)),
        };
        let newest = &mut newest[tenant as usize];
        *newest = t.max(*newest);
        let slot = slot?;
        if t < covered[tenant as usize][usize::from(slot)] {
            report.covered += 1;
            return None;
        }
        let head = &mut applier.head;
        let index = match known {
            Known::Here(_, _, index) => *index,
            Known::Waiting(series) => {
                let index = match head.find(series.key) {
                    Some(index) => index,
                    None => {
                        head.create(series.key, tenant, region::canonical_labels(&series.region))
                    }
                };
                if self.source.own {
                    head.log_ids[index as usize] = id;
                }
                *known = Known::Here(tenant, slot, index);
                index
            }
            Known::Foreign(_) | Known::Unknown => return None,
        };
        Some((tenant, index))
    }
}

impl<S: Storage> Receive for Visitor<'_, '_, S> {
    fn series(&mut self, id: u64, tenant: &str, region: &[u8]) {
        self.is_used(id);
        self.replay.report.told += u64::from(self.source.own && !self.source.is_log);
        let floor = self.source.numbers.floor;
        let known = self.source.numbers.entry(id);
        if !matches!(known, Known::Unknown) {
            return;
        }
        let name = tenant;
        let Some(tenant) = self.replay.tenant_named(tenant) else { return };
        let applier = &mut self.replay.applier;
        let key = applier.keys[tenant as usize].key(region);
        *known = if applier.slots.contains(slots::slot(key)) {
            Known::Waiting(Box::new(Waiting { tenant, key, region: region.into() }))
        } else {
            Known::Foreign(tenant)
        };
        if self.source.own && self.source.is_log && id >= floor {
            applier.untold.add_series(id, name, region);
        }
    }

    #[inline]
    fn sample(&mut self, id: u64, sample: Sample) {
        let Some((tenant, index)) = self.series_of(id, sample.t) else { return };
        let appended = self.replay.applier.head.append(index, sample, Bounds::ALL);
        self.replay.appended(appended, tenant, sample.t);
    }

    fn histogram(&mut self, id: u64, t: i64, message: &[u8]) {
        let Some((tenant, index)) = self.series_of(id, t) else { return };
        let Applier { head, reader, .. } = &mut self.replay.applier;
        // It was read when it was stored. If it cannot be by now, it costs itself.
        let Ok((_, histogram)) = reader.read(message) else {
            self.replay.report.refused += 1;
            return;
        };
        let appended = head.append_histogram(index, t, histogram, Bounds::ALL);
        self.replay.appended(appended, tenant, t);
    }

    fn cut(&mut self, cut: CutRecord) {
        self.replay.cut(&cut);
    }

    fn floor(&mut self, id: u64) {
        self.is_used(id.saturating_sub(1));
        let floor = &mut self.source.numbers.floor;
        *floor = id.max(*floor);
    }
}
