//! From the logs to a head.
//!
//! ## Order
//! 1. Every segment is synced before it is read: nothing may rest on bytes that a second crash
//!    could take back.
//! 2. The cuts are gathered from all logs and all finished blocks, so that samples in finished
//!    blocks are skipped.
//! 3. The series files give labels to numbers.
//! 4. The samples are appended again, generation by generation: within one, a slot's samples lie in
//!    one log in order. What was appended before is met as a duplicate and dropped.
//!
//! Under another number of shards each shard reads the older logs of all and keeps the slots that
//! are now its own. Nothing is logged again: the old logs stay until their samples are in blocks.
//!
//! ## Crash
//! Reading changes nothing but the list of spare segments; a crash here begins again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::decode::region;
use crate::model::{Sample, TenantId};
use crate::rt::storage::{BLOCK_BYTES, Storage, StorageFile};
use crate::shard::apply::{Applier, NewSeries};
use crate::shard::blocks::cuts_of_blocks;
use crate::shard::budget::Budget;
use crate::shard::commit::Commits;
use crate::shard::cuts::Cuts;
use crate::shard::flush::Turn;
use crate::shard::head::append::Bounds;
use crate::shard::head::{Appended, SeriesIndex, TenantIndex};
use crate::shard::pins::Pins;
use crate::shard::slots::{self, SlotSet};
use crate::shard::wal::format::{FLAG_CUT, SegmentHeader};
use crate::shard::wal::reader::{Damage, Position, SegmentEnd, read_segment};
use crate::shard::wal::record::{CutRecord, Newest, Receive, read_payload};
use crate::shard::wal::series_file::{self, SeriesFile};
use crate::shard::wal::spare::Spares;
use crate::shard::wal::writer::{Closed, Identity, Log, LogOptions, segment_name, segment_number};
use crate::shard::{Settings, Shard, State};
use crate::stdx::signal::Signal;

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Segments read.
    pub(crate) segments: u64,
    /// Blocks read.
    pub(crate) blocks: u64,
    /// Samples appended again.
    pub(crate) samples: u64,
    /// Samples skipped because a finished block has them.
    pub(crate) covered: u64,
    /// Samples of a series whose labels are nowhere.
    pub(crate) orphaned: u64,
    /// What was damaged, with the shard's directory it lies in.
    pub(crate) damage: Vec<(u16, Damage)>,
    /// Wall clock of the newest block, in milliseconds.
    pub(crate) last_wall_ms: i64,
}

/// A shard, ready, with what its commit loop writes to.
#[derive(Debug)]
pub(crate) struct Recovered<S: Storage> {
    pub(crate) shard: Shard<S>,
    pub(crate) log: Log<S>,
    pub(crate) series: SeriesFile<S>,
    pub(crate) spares: Rc<Spares<S>>,
    pub(crate) report: Report,
    /// Segments of earlier generations, which no log will recycle.
    pub(crate) old: Vec<OldSegment>,
}

/// A segment of an earlier generation: it may go when its samples are in blocks, whoever owns
/// them now.
#[derive(Debug, Clone)]
pub(crate) struct OldSegment {
    /// The shard that wrote it.
    pub(crate) shard: u16,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Newest sample of each tenant.
    pub(crate) newest: BTreeMap<TenantId, i64>,
    /// Kept for ever, because something in it could not be read.
    pub(crate) damaged: bool,
}

/// Directory of a shard.
pub(crate) fn shard_dir(root: &Path, shard: u16) -> PathBuf {
    root.join(format!("shard-{shard}"))
}

/// Reads what shard `settings.shard` owns from the logs below `root`.
pub(crate) async fn recover<S: Storage>(
    storage: S,
    root: &Path,
    settings: &Settings,
) -> io::Result<Recovered<S>> {
    let current = settings.generations.last().copied();
    let current = current.ok_or_else(|| io::Error::other("no generation of the slot table"))?;
    let slots = SlotSet::of_shard(settings.shard, current.shards);
    let mut applier = Applier::new(slots, settings.secret.clone(), settings.limits);
    let mut cuts = Cuts::new(slots);
    let mut report = Report::default();
    for cut in cuts_of_blocks(&storage, root, settings.node).await? {
        CutsOnly(&mut cuts).cut(cut);
    }
    let mut dirs = Vec::new();
    for shard in 0..settings.generations.iter().map(|g| g.shards).max().unwrap_or(0) {
        let dir = Dir::open(&storage, root, shard, shard == settings.shard).await?;
        dir.log.gather_cuts(&storage, &mut cuts).await?;
        dirs.push(dir);
    }
    for dir in &mut dirs {
        dir.read(&storage, None, (&mut applier, &cuts, &mut report)).await?;
    }
    for generation in &settings.generations {
        for dir in &mut dirs {
            let wanted = Some(generation.number);
            dir.read(&storage, wanted, (&mut applier, &cuts, &mut report)).await?;
        }
    }
    let mut old = Vec::new();
    for dir in &dirs {
        let damage = dir.log.at.damage.iter().map(|damage| (dir.shard, damage.clone()));
        report.damage.extend(damage);
        report.last_wall_ms = report.last_wall_ms.max(dir.log.at.wall_ms);
        let before = dir.log.found.iter().filter(|f| f.generation != current.number);
        old.extend(before.map(|f| f.as_old(dir.shard, &dir.log.path, &applier)));
    }
    let own = dirs.into_iter().find(|dir| dir.own);
    let own = own.ok_or_else(|| io::Error::other("the shard is not in its own generation"))?;
    let (log, mut series, spares) =
        own.open_for_writing(&storage, settings, current.number, slots).await?;
    finish(&mut applier, &cuts, &mut series);
    let behind_old = old.iter().any(|segment| segment.shard == settings.shard);
    let commits = Commits::new(log.next_seq(), behind_old, log.stats());
    let shard = Shard {
        storage,
        shard: settings.shard,
        shards: current.shards,
        generation: current.number,
        root: root.to_owned(),
        node: settings.node,
        answers_wait: settings.answers_wait,
        state: State { applier, commits, cuts }.into(),
        work: Signal::default(),
        pins: Pins::default(),
        budget: Budget::default(),
        turn: Turn::default(),
    };
    Ok(Recovered { shard, log, series, spares, report, old })
}

/// Brings the books up to date.
fn finish<S: Storage>(applier: &mut Applier, cuts: &Cuts, series: &mut SeriesFile<S>) {
    for tenant in cuts.tenants() {
        let index = applier.tenant(tenant);
        let owner = &mut applier.head.tenants[index as usize];
        owner.cut_ms = cuts.latest(tenant);
        // Slots that were cut less far have older samples here.
        owner.served_from_ms = cuts.covered_below(tenant);
    }
    // Series that only the log told so far.
    for new in applier.new_series.drain(..) {
        let tenant = applier.head.tenants[new.tenant as usize].id.as_str();
        series.add(new.id, tenant, &new.region);
    }
}

/// One segment that was found.
#[derive(Debug)]
struct Found {
    number: u64,
    generation: u64,
    size: u64,
    end: SegmentEnd,
    newest: Newest,
}

impl Found {
    fn as_old(&self, shard: u16, dir: &Path, applier: &Applier) -> OldSegment {
        let tenants = &applier.head.tenants;
        let name = |index: u32| tenants[index as usize].id.clone();
        OldSegment {
            shard,
            path: dir.join(segment_name(self.number)),
            newest: self.newest.iter().map(|(&tenant, &t)| (name(tenant), t)).collect(),
            damaged: self.end.damaged,
        }
    }

    fn into_closed(self) -> (Closed, SegmentEnd) {
        let Self { number, size, end, newest, .. } = self;
        (Closed { number, newest, damaged: end.damaged, size }, end)
    }
}

/// The segments in one directory, read one by one.
#[derive(Debug)]
struct Files {
    path: PathBuf,
    /// Number and generation of each, in order. A segment whose header is lost is taken to be of
    /// the generation of the one before.
    segments: Vec<(u64, u64)>,
    at: Position,
    found: Vec<Found>,
}

impl Files {
    async fn list<S: Storage>(storage: &S, path: PathBuf) -> io::Result<Self> {
        let mut segments = Vec::new();
        let mut generation = 0;
        for number in storage.list(&path).await?.iter().filter_map(|name| segment_number(name)) {
            let file = storage.open(&path.join(segment_name(number))).await?;
            let head = file.read_at(0, 2 * BLOCK_BYTES).await?;
            file.close().await?;
            generation = SegmentHeader::decode(&head).map_or(generation, |h| h.generation);
            segments.push((number, generation));
        }
        Ok(Self { path, segments, at: Position::default(), found: Vec::new() })
    }

    async fn load<S: Storage>(&self, storage: &S, number: u64) -> io::Result<Vec<u8>> {
        let file = storage.open(&self.path.join(segment_name(number))).await?;
        file.sync().await?;
        let size = file.size().await?;
        let bytes = file.read_at(0, size as usize).await?;
        file.close().await?;
        Ok(bytes)
    }

    async fn gather_cuts<S: Storage>(&self, storage: &S, cuts: &mut Cuts) -> io::Result<()> {
        let mut at = Position::default();
        for &(number, _) in &self.segments {
            let bytes = self.load(storage, number).await?;
            read_segment(&bytes, number, &mut at, |header, payload| {
                if header.flags & FLAG_CUT == 0 {
                    return Ok(());
                }
                read_payload(payload, &mut CutsOnly(cuts))
            });
            storage.pause().await;
        }
        Ok(())
    }
}

/// The directory of one shard, of this generation or an earlier one.
#[derive(Debug)]
struct Dir {
    shard: u16,
    own: bool,
    log: Files,
    series: Files,
    known: HashMap<u64, Known>,
}

impl Dir {
    async fn open<S: Storage>(storage: &S, root: &Path, shard: u16, own: bool) -> io::Result<Self> {
        let dir = shard_dir(root, shard);
        let log = Files::list(storage, dir.join("log")).await?;
        let series = Files::list(storage, dir.join("series")).await?;
        Ok(Self { shard, own, log, series, known: HashMap::new() })
    }

    /// Reads the log's segments of a generation, or with `None` all of the series file.
    async fn read<S: Storage>(
        &mut self,
        storage: &S,
        generation: Option<u64>,
        (applier, cuts, report): (&mut Applier, &Cuts, &mut Report),
    ) -> io::Result<()> {
        let files = if generation.is_some() { &mut self.log } else { &mut self.series };
        for i in 0..files.segments.len() {
            let (number, of) = files.segments[i];
            if generation.is_some_and(|wanted| wanted != of) {
                continue;
            }
            let bytes = files.load(storage, number).await?;
            let mut newest = Newest::new();
            let mut visitor = Visitor {
                applier,
                cuts,
                known: &mut self.known,
                own: self.own,
                from_log: generation.is_some(),
                newest: &mut newest,
                report,
            };
            let end = read_segment(&bytes, number, &mut files.at, |_, payload| {
                read_payload(payload, &mut visitor)
            });
            report.segments += 1;
            report.blocks += end.blocks;
            let size = bytes.len() as u64;
            files.found.push(Found { number, generation: of, size, end, newest });
            storage.pause().await;
        }
        Ok(())
    }

    /// Opens log and series file to be written on.
    async fn open_for_writing<S: Storage>(
        self,
        storage: &S,
        settings: &Settings,
        generation: u64,
        slots: SlotSet,
    ) -> io::Result<(Log<S>, SeriesFile<S>, Rc<Spares<S>>)> {
        let Self { log, series, .. } = self;
        let identity = Identity {
            shard: settings.shard,
            generation,
            node: settings.node,
            slots: slots.to_bytes(),
        };
        let (size, wanted) = (settings.segment_bytes, settings.spare_segments);
        let spares = Rc::new(Spares::open(storage.clone(), &log.path, size, wanted).await?);
        let last = log.segments.last().copied();
        let options = LogOptions {
            segment_bytes: settings.segment_bytes,
            epochs: settings.epochs,
            append_to_last: last.is_some_and(|(_, of)| of == generation),
            next_number: last.map_or(1, |(number, _)| number + 1),
        };
        let now = log.found.into_iter().filter(|f| f.generation == generation);
        let found = now.map(Found::into_closed).collect();
        let place = (storage.clone(), &*log.path);
        let log =
            Log::open(place, identity.clone(), options, spares.clone(), &log.at, found).await?;
        let options = LogOptions {
            segment_bytes: series_file::segment_bytes(settings.segment_bytes),
            epochs: settings.epochs,
            append_to_last: true,
            next_number: series.segments.last().map_or(1, |(number, _)| number + 1),
        };
        let found = series.found.into_iter().map(Found::into_closed).collect();
        let place = (storage.clone(), &*series.path);
        let series = SeriesFile::open(place, identity, options, &series.at, found).await?;
        Ok((log, series, spares))
    }
}

/// A number of a log, and where its samples go.
#[derive(Debug)]
enum Known {
    /// Another shard owns it.
    Foreign(TenantIndex),
    /// No sample was met yet.
    Waiting(TenantIndex, u128, Box<[u8]>),
    /// In the head.
    Here(TenantIndex, SeriesIndex),
}

struct Visitor<'a> {
    applier: &'a mut Applier,
    cuts: &'a Cuts,
    known: &'a mut HashMap<u64, Known>,
    own: bool,
    from_log: bool,
    newest: &'a mut Newest,
    report: &'a mut Report,
}

impl Receive for Visitor<'_> {
    fn series(&mut self, id: u64, tenant: &str, region: &[u8]) {
        if self.own {
            self.applier.next_id = self.applier.next_id.max(id + 1);
        }
        let Ok(tenant) = TenantId::new(tenant) else { return };
        if self.known.contains_key(&id) {
            return;
        }
        let tenant = self.applier.tenant(&tenant);
        let key = self.applier.keys[tenant as usize].key(region);
        let known = if self.applier.slots.contains(slots::slot(key)) {
            Known::Waiting(tenant, key, region.into())
        } else {
            Known::Foreign(tenant)
        };
        self.known.insert(id, known);
        if self.own && self.from_log {
            self.applier.new_series.push(NewSeries { id, tenant, region: region.into() });
        }
    }

    fn sample(&mut self, id: u64, sample: Sample) {
        let Some(known) = self.known.get_mut(&id) else {
            self.report.orphaned += 1;
            return;
        };
        let (Known::Foreign(tenant) | Known::Waiting(tenant, ..) | Known::Here(tenant, _)) = *known;
        let newest = self.newest.entry(tenant).or_insert(sample.t);
        *newest = sample.t.max(*newest);
        let key = match known {
            Known::Foreign(_) => return,
            Known::Waiting(_, key, _) => *key,
            Known::Here(_, index) => self.applier.head.keys[*index as usize],
        };
        let head = &mut self.applier.head;
        if self.cuts.cover(&head.tenants[tenant as usize].id, slots::slot(key), sample.t) {
            self.report.covered += 1;
            return;
        }
        let index = match known {
            Known::Here(_, index) => *index,
            Known::Waiting(_, key, region) => {
                let index = match head.find(*key) {
                    Some(index) => index,
                    None => head.create(*key, tenant, region::canonical_labels(region)),
                };
                if self.own {
                    head.log_ids[index as usize] = id;
                }
                *known = Known::Here(tenant, index);
                index
            }
            Known::Foreign(_) => return,
        };
        let all = Bounds { min_t: i64::MIN, max_t: i64::MAX };
        if head.append(index, sample, all) == Appended::Stored {
            self.report.samples += 1;
            let owner = &mut head.tenants[tenant as usize];
            owner.oldest_ms = owner.oldest_ms.min(sample.t);
            owner.newest_ms = owner.newest_ms.max(sample.t);
        }
    }

    fn cut(&mut self, _: CutRecord) {
        // Gathered before.
    }
}

struct CutsOnly<'a>(&'a mut Cuts);

impl Receive for CutsOnly<'_> {
    fn series(&mut self, _: u64, _: &str, _: &[u8]) {}

    fn sample(&mut self, _: u64, _: Sample) {}

    fn cut(&mut self, cut: CutRecord) {
        if let Ok(tenant) = TenantId::new(&cut.tenant) {
            self.0.note(&tenant, &SlotSet::from_bytes(cut.slots), cut.end_ms);
        }
    }
}
