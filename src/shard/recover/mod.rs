//! From the logs to a head.
//!
//! - [`discover`]: which segments there are for a shard to read.
//! - [`replay`]: what they tell, appended to a head; [`numbers`]: the series behind the numbers.
//! - [`open`]: log and series file, to be written on.
//!
//! ## Order
//! 1. Every segment is synced before it is read, and behind a page cache the last one is written
//!    once more: nothing may rest on bytes that a second crash could take back.
//! 2. The cuts of all finished blocks are noted, so that samples in them are skipped.
//! 3. The series files give labels to numbers.
//! 4. The samples are appended again, generation by generation: within one, a slot's samples lie in
//!    one log in order. What was appended before is met as a duplicate and dropped. What lies
//!    before a cut that only the log tells goes when the cut is met.
//!
//! Each segment is read once, and by its own shard alone. Only under another number of shards each
//! shard reads the older logs of all as well, and keeps the slots that are now its own. Nothing is
//! logged again: the old logs stay until their samples are in blocks.
//!
//! ## Crash
//! Reading changes nothing but the list of spare segments; a crash here begins again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::model::TenantId;
use crate::rt::storage::Storage;
use crate::shard::apply::Applier;
use crate::shard::blocks::cuts_of_blocks;
use crate::shard::budget::Budget;
use crate::shard::commit::Commits;
use crate::shard::cuts::Cuts;
use crate::shard::flush::Turn;
use crate::shard::head::TenantIndex;
use crate::shard::pins::Pins;
use crate::shard::recover::replay::{Found, Replay};
use crate::shard::slots::SlotSet;
use crate::shard::wal::reader::Damage;
use crate::shard::wal::series_file::SeriesFile;
use crate::shard::wal::spare::Spares;
use crate::shard::wal::writer::{Log, segment_name};
use crate::shard::write::TurnedAway;
use crate::shard::{Settings, Shard, State};
use crate::stdx::signal::Signal;

mod discover;
mod numbers;
mod open;
mod replay;

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Segments read.
    pub(crate) segments: u64,
    /// Blocks read.
    pub(crate) blocks: u64,
    /// Samples appended again; a cut that was read later may have dropped some.
    pub(crate) samples: u64,
    /// Samples skipped because a finished block has them.
    pub(crate) covered: u64,
    /// Samples of a series whose labels are nowhere.
    pub(crate) orphaned: u64,
    /// Samples that the head has refused, though a log has them: another of the same series was
    /// read before that is as old or newer.
    pub(crate) refused: u64,
    /// Records of series in the shard's own series file.
    pub(crate) told: u64,
    /// What was damaged, with the shard's directory it lies in. What lies in another shard's
    /// directory that shard tells of.
    pub(crate) damage: Vec<(u16, Damage)>,
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

/// The logs that a shard has to read.
#[derive(Debug)]
pub(crate) struct Logs(Vec<discover::Dir>);

/// Directory of a shard.
pub(crate) fn shard_dir(root: &Path, shard: u16) -> PathBuf {
    root.join(format!("shard-{shard}"))
}

/// Number of a shard by the name of its directory; `None` for any other name.
pub(crate) fn shard_number(name: &str) -> Option<u16> {
    name.strip_prefix("shard-")?.parse().ok()
}

/// The logs below `root` that shard `settings.shard` has to read. All shards look before any of
/// them serves; see [`discover`].
pub(crate) async fn find<S: Storage>(
    storage: &S,
    root: &Path,
    settings: &Settings,
) -> io::Result<Logs> {
    discover::discover(storage, root, settings).await.map(Logs)
}

/// Reads what shard `settings.shard` owns from the logs it has found below `root`.
pub(crate) async fn recover<S: Storage>(
    storage: S,
    root: &Path,
    settings: &Settings,
    Logs(mut dirs): Logs,
) -> io::Result<Recovered<S>> {
    let current = settings.current()?;
    let slots = SlotSet::of_shard(settings.shard, current.shards);
    let mut applier =
        Applier::new(slots, settings.secret.clone(), settings.limits, settings.quotas.clone());
    applier.head.out_of_order.cap = settings.out_of_order_cap;
    let mut replay = Replay::new(storage.clone(), applier, Cuts::new(slots));
    for cut in cuts_of_blocks(&storage, root, settings.node).await? {
        replay.cut(&cut);
    }
    for dir in &mut dirs {
        replay.read_series_file(dir).await?;
    }
    for generation in &settings.generations {
        for dir in &mut dirs {
            replay.read_log(dir, generation.number).await?;
        }
    }
    replay.sweep().await;
    let Replay { mut applier, cuts, mut report, .. } = replay;
    let mut old = Vec::new();
    for dir in &dirs {
        if dir.tells {
            let damage = dir.series.at.damage.iter().chain(&dir.log.at.damage);
            report.damage.extend(damage.map(|damage| (dir.shard, damage.clone())));
        }
        let before = dir.log.found.iter().filter(|f| f.generation != current.number);
        old.extend(before.map(|f| old_segment(f, dir.shard, &dir.log.path, &applier)));
    }
    let own = dirs.into_iter().find(|dir| dir.own);
    let own = own.ok_or_else(|| io::Error::other("the shard is not in its own generation"))?;
    let (log, series, spares) = open::open(&storage, own, settings, report.told).await?;
    finish(&mut applier, &cuts);
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
        state: State { applier, commits, cuts, turned_away: TurnedAway::default() }.into(),
        work: Signal::default(),
        shrink: Signal::default(),
        pins: Pins::default(),
        budget: Budget::default(),
        turn: Turn::default(),
    };
    Ok(Recovered { shard, log, series, spares, report, old })
}

fn old_segment(found: &Found, shard: u16, dir: &Path, applier: &Applier) -> OldSegment {
    let name = |tenant: u32| applier.head.tenants[tenant as usize].id.clone();
    OldSegment {
        shard,
        path: dir.join(segment_name(found.number)),
        newest: found.newest.iter().map(|(&tenant, &t)| (name(tenant), t)).collect(),
        damaged: found.end.damaged,
    }
}

/// Brings the books up to date.
fn finish(applier: &mut Applier, cuts: &Cuts) {
    // What is counted is what senders bring.
    applier.head.out_of_order.stored = 0;
    for tenant in 0..applier.head.tenants.len() {
        applier.settle_series(tenant as TenantIndex);
    }
    for tenant in cuts.tenants() {
        let index = applier.tenant(tenant);
        let owner = &mut applier.head.tenants[index as usize];
        owner.cut_ms = cuts.latest(tenant);
        // Slots that were cut less far have older samples here.
        owner.served_from_ms = cuts.covered_below(tenant);
    }
}
